//! Keys that go, and leases, on a real ring: at their time and not before it, through the death of a leader and of everybody, from the
//! SDK, its example and the command line.
//!
//! **Not here**: what applying them means, against a model (`shards/state/tests`); histories under faults (`tests/sim`).

mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ring::{Plan, Ring, SMALL_LOG, ringbeam_at};
use ringbeam_sdk::{Client, Code, Error, PutOptions, Step, Txn};
use serde_json::Value;

/// The example of the SDK's documentation, as it is.
#[path = "../wire/sdk/rust/examples/election.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod election;

/// What a busy machine may take to do what takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);

async fn start(name: &str, shards: u32) -> (Ring, Client) {
    let ring = Ring::start(name, Plan { shards, extra: SMALL_LOG.into(), ..Plan::default() }).await;
    let client = ring.client().await.with_timeout(PATIENCE);
    (ring, client)
}

async fn is_there(client: &Client, key: &str) -> bool {
    client.get(key).await.expect("a read").is_some()
}

/// Waits until a key is gone; when that was first seen.
async fn gone(client: &Client, key: &str) -> Instant {
    let began = Instant::now();
    while is_there(client, key).await {
        assert!(began.elapsed() < PATIENCE, "{key} is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Instant::now()
}

fn with_ttl(ttl: Duration) -> PutOptions {
    PutOptions { ttl: Some(ttl), ..PutOptions::default() }
}

fn refusal(result: Result<impl std::fmt::Debug, Error>) -> Code {
    match result {
        Err(Error::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

/// Ring time must neither run ahead of the clock nor stand still while the ring is busy: a batch is applied a while after it was made,
/// and a clock that was set back to each batch lost that while at every one.
#[tokio::test]
async fn keys_go_at_their_time_and_not_before_it_on_a_busy_ring() {
    let (_ring, client) = start("leases-ttl", 1).await;
    let busy = Arc::new(AtomicBool::new(true));
    let load = (0..16).map(|task| {
        let (client, busy) = (client.clone(), busy.clone());
        tokio::spawn(async move {
            while busy.load(Ordering::Relaxed) {
                client.put(format!("load/{task}"), "x").await.expect("a write");
            }
        })
    });
    let load: Vec<_> = load.collect();
    let ttl = Duration::from_secs(3);
    for round in 0..2 {
        let key = format!("k{round}");
        let sent = Instant::now();
        client.put_with(&key, "v", &with_ttl(ttl)).await.expect("a write");
        let answered = Instant::now();
        let at = gone(&client, &key).await;
        assert!(at - sent >= ttl, "it went {:?} after it was put", at - sent);
        assert!(at - answered < ttl * 2, "it went {:?} after it was put", at - answered);
    }
    busy.store(false, Ordering::Relaxed);
    for task in load {
        task.await.expect("it ends");
    }
    // Another put, or one without a time, is another life.
    client.put_with("again", "v", &with_ttl(ttl)).await.expect("a write");
    client.put_with("stays", "v", &with_ttl(ttl)).await.expect("a write");
    client.put_with("again", "v", &with_ttl(ttl * 2)).await.expect("a write");
    let renewed = Instant::now();
    client.put("stays", "v").await.expect("a write");
    let at = gone(&client, "again").await;
    assert!(at - renewed >= ttl * 2 - Duration::from_millis(500), "it went {:?} after it was put again", at - renewed);
    assert!(is_there(&client, "stays").await);
    assert_eq!(refusal(client.put_with("k", "v", &with_ttl(Duration::from_secs(1 << 40))).await), Code::BadRequest);
    assert_eq!(refusal(client.grant_lease(0, Duration::from_millis(999)).await), Code::BadRequest);
}

#[tokio::test]
async fn a_lease_that_is_kept_alive_survives_its_leader_and_takes_its_keys_along_when_it_is_dropped() {
    let (mut ring, client) = start("leases-failover", 1).await;
    let ttl = Duration::from_secs(8);
    let lease = client.lease(ttl);
    let options = PutOptions { lease: Some((&lease).into()), ..PutOptions::default() };
    client.put_with("mine", "v", &options).await.expect("a write");
    let id = lease.id_on(0).await.expect("it was granted");
    assert_eq!(client.lease_state(0, id).await.expect("it is there").keys, 1);
    let leader = ring.settled_leader(0).await;
    ring.kill(leader);
    let began = Instant::now();
    while began.elapsed() < ttl * 2 {
        assert!(is_there(&client, "mine").await, "it went {:?} after the leader", began.elapsed());
        assert!(lease.is_alive());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ring.spawn(leader);
    drop((lease, options));
    let dropped = Instant::now();
    gone(&client, "mine").await;
    assert!(dropped.elapsed() < ttl * 3, "it went {:?} after its lease was dropped", dropped.elapsed());
    assert_eq!(refusal(client.keep_lease(0, id).await), Code::LeaseNotFound);
    assert_eq!(refusal(client.lease_state(0, id).await), Code::LeaseNotFound);
    ring.wait_converged().await;
}

#[tokio::test]
async fn a_revoked_lease_takes_all_its_keys_on_every_shard_and_grants_nothing_more() {
    let (ring, client) = start("leases-revoke", 2).await;
    let lease = client.lease(Duration::from_secs(600));
    let options = PutOptions { lease: Some((&lease).into()), ..PutOptions::default() };
    let puts = (0..3_000).map(|n| {
        let (client, options) = (client.clone(), options.clone());
        tokio::spawn(async move { client.put_with(format!("leased/{n}"), "v", &options).await.expect("a write") })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.expect("it ends");
    }
    client.put("other", "stays").await.expect("a write");
    let ids = [lease.id_on(0).await.expect("granted"), lease.id_on(1).await.expect("granted")];
    assert!(lease.is_alive());
    lease.revoke().await.expect("it ends");
    lease.lost().await;
    assert!(!lease.is_alive());
    let life = ringbeam_sdk::Life { ttl_ms: 0, lease: ids[0] };
    let keys = ["leased/0", "a", "b", "c", "d"];
    let key = keys.iter().find(|key| ringbeam_wire::slots::shard_of(ringbeam_wire::slots::slot_of(key.as_bytes()), 2) == 0);
    let step = Step::put_for(key.expect("one of five is of shard 0"), "v", life);
    assert_eq!(refusal(client.txn(&Txn::new().then(step)).await), Code::LeaseNotFound);
    assert_eq!(refusal(client.put_with("leased/1", "v", &options).await), Code::LeaseNotFound);
    let statuses =
        ring.wait_for("all leased keys to go", PATIENCE, |all| all.iter().map(|status| status.keys).sum::<u64>() == 3);
    assert!(statuses.await.iter().all(|status| status.keys <= 1));
    assert!(is_there(&client, "other").await);
    ring.wait_converged().await;
}

/// While nobody is there no ring time passes: a lease has what it had, less what the nodes lived.
#[tokio::test]
async fn what_was_left_of_a_lease_is_left_after_all_nodes_were_away() {
    let (mut ring, client) = start("leases-restart", 1).await;
    let lease = client.grant_lease(0, Duration::from_secs(600)).await.expect("granted").lease;
    let options = PutOptions { lease: Some(lease.into()), ttl: Some(Duration::from_secs(500)), ..PutOptions::default() };
    client.put_with("k", "v", &options).await.expect("a write");
    let before = client.lease_state(0, lease).await.expect("it is there");
    let asked = Instant::now();
    ring.kill_all(&[1, 2, 3]);
    let away = Duration::from_secs(3);
    tokio::time::sleep(away).await;
    for id in 1..=3 {
        ring.spawn(id);
    }
    let after = client.lease_state(0, lease).await.expect("it is there");
    assert_eq!((after.ttl_ms, after.keys), (before.ttl_ms, 1));
    let lived_ms = (asked.elapsed() - away).as_millis() as u64;
    assert!(after.left_ms + lived_ms >= before.left_ms, "{} ms of {} are left after {lived_ms}", after.left_ms, before.left_ms);
    assert!(is_there(&client, "k").await);
    assert!(client.revoke_lease(0, lease).await.expect("it ends"));
    gone(&client, "k").await;
}

#[tokio::test]
async fn the_example_elects_one_leader_and_another_one_when_it_is_gone() {
    let (_ring, client) = start("leases-election", 2).await;
    // The second one waits for long, on a machine that may be busy with other tests.
    let (first, second) = (client.lease(Duration::from_secs(8)), client.lease(Duration::from_secs(60)));
    assert!(election::stand(&client, &first, "first").await.expect("a vote"));
    assert!(!election::stand(&client, &second, "second").await.expect("a vote"), "the office is taken");
    assert!(election::work(&client, "first", 1).await.expect("a write"));
    assert!(!election::work(&client, "second", 1).await.expect("a write"));
    // It dies without a word: nobody keeps its lease.
    drop(first);
    let began = Instant::now();
    while !election::stand(&client, &second, "second").await.expect("a vote") {
        assert!(began.elapsed() < PATIENCE, "the office is not given up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!election::work(&client, "first", 2).await.expect("a write"), "whatever it believes, it leads no more");
    assert!(election::work(&client, "second", 2).await.expect("a write"));
}

#[tokio::test]
async fn the_command_line_grants_keeps_shows_and_revokes() {
    let (ring, client) = start("leases-cli", 1).await;
    let at = ring.endpoints();
    let (code, id, _) = ringbeam_at(&at, &["lease", "grant", "--ttl", "10m"]).await;
    assert_eq!(code, 0);
    let id = id.trim().to_string();
    assert_eq!(ringbeam_at(&at, &["put", "k", "v", "--lease", &id]).await.0, 0);
    assert_eq!(ringbeam_at(&at, &["put", "timed", "v", "--ttl-ms", "600000"]).await.0, 0);
    let (code, shown, _) = ringbeam_at(&at, &["lease", "get", &id, "--json"]).await;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((code, &shown["ttl_ms"], &shown["keys"]), (0, &600_000.into(), &1.into()));
    let (code, left, _) = ringbeam_at(&at, &["lease", "keep", &id, "--key", "k"]).await;
    assert!(code == 0 && left.trim().parse::<u64>().is_ok_and(|left| left <= 600_000), "{left}");
    assert_eq!(ringbeam_at(&at, &["lease", "revoke", &id]).await.0, 0);
    gone(&client, "k").await;
    assert!(is_there(&client, "timed").await);
    assert_eq!(ringbeam_at(&at, &["lease", "revoke", &id]).await.0, 1);
    let (code, _, why) = ringbeam_at(&at, &["put", "k", "v", "--lease", &id]).await;
    assert!(code == 3 && why.contains("LeaseNotFound"), "{why}");
    let (code, _, why) = ringbeam_at(&at, &["put", "k", "v", "--ttl", "30"]).await;
    assert!(code == 2 && why.contains("500ms, 30s"), "{why}");
}
