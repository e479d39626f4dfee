//! Transactions, compare-and-set, scans and lists of keys on a real ring, through the SDK.
//!
//! **Not here**: what applying them means, against a model (`shards/state/tests`); histories under faults (`tests/sim`).

mod ring;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ring::{Plan, Ring};
use ringbeam_sdk::{Client, Code, Compare, Consistency, Entry, Error, Expect, GetOptions, Range, Relation, Step, Target, Txn};

/// Room for the largest values by default, and no more.
const LOG: &str = "[log]\nsegment_bytes = 33554432\nspare_segments_count = 1\n";

async fn start(name: &str) -> (Ring, Client) {
    let ring = Ring::start(name, Plan { nodes: 3, shards: 2, extra: LOG.to_string(), ..Plan::default() }).await;
    let client = ring.client().await;
    (ring, client)
}

fn refused(result: Result<impl std::fmt::Debug, Error>) -> (Code, String) {
    match result {
        Err(Error::Refused(refusal)) => (refusal.code, refusal.message),
        other => panic!("not refused: {other:?}"),
    }
}

/// Two keys of different shards.
fn apart() -> [String; 2] {
    let shard = |key: &str| ringbeam_wire::slots::shard_of(ringbeam_wire::slots::slot_of(key.as_bytes()), 2);
    let other = (0..).map(|n| format!("k{n}")).find(|key| shard(key) != shard("k"));
    ["k".to_string(), other.expect("one of many is elsewhere")]
}

#[tokio::test]
async fn conditional_writes_happen_only_when_what_they_expect_holds() {
    let (_ring, client) = start("data-conditions").await;
    let created = client.create("{t}k", "1").await.expect("a write");
    assert!(created.succeeded && created.gets.is_empty());
    assert!(!client.create("{t}k", "2").await.expect("a write").succeeded);
    let found = client.get("{t}k").await.expect("a read").expect("it is there");
    assert_eq!((&found.value[..], found.revision), (&b"1"[..], created.revision));
    let swapped = client.cas("{t}k", Expect::Revision(created.revision), "2").await.expect("a write");
    assert!(swapped.succeeded && swapped.revision > created.revision);
    assert!(!client.cas("{t}k", Expect::Revision(created.revision), "3").await.expect("a write").succeeded);
    assert!(client.cas("{t}k", Expect::Value(b"2"), "4").await.expect("a write").succeeded);

    // Reads see what was before, and everything has one revision.
    let txn = Txn::new()
        .when(Compare::exists("{t}k"))
        .when(Compare { key: b"{t}k", relation: Relation::Greater, target: Target::Value(b"3") })
        .when(Compare::absent("{t}new"))
        .then(Step::get("{t}k"))
        .then(Step::put("{t}k", "5"))
        .then(Step::put("{t}new", ""))
        .then(Step::get("{t}new"))
        .otherwise(Step::delete("{t}k"));
    let done = client.txn(&txn).await.expect("a transaction");
    let values: Vec<_> = done.gets.iter().map(|found| found.as_ref().map(|found| &found.value[..])).collect();
    assert_eq!((done.succeeded, values), (true, vec![Some(&b"4"[..]), None]));
    let both = client.get_many(["{t}k", "{t}new", "{t}none"]).await.expect("reads");
    assert_eq!(both[0].as_ref().map(|found| found.revision), Some(done.revision));
    assert_eq!(both[1].as_ref().map(|found| (found.revision, found.value.len())), Some((done.revision, 0)));
    assert_eq!(both[2], None);
    let other = client.txn(&txn).await.expect("a transaction");
    assert!(!other.succeeded && other.gets.is_empty(), "there is a new key by now");
    assert_eq!(client.get("{t}k").await.expect("a read"), None, "and so the other list was done");

    // In another namespace nothing of that exists.
    assert!(client.namespace("n").create("{t}new", "x").await.expect("a write").succeeded);
    assert_eq!(client.get("{t}new").await.expect("a read").map(|found| found.value.len()), Some(0));
}

#[tokio::test]
async fn what_no_ring_takes_is_refused_by_name_and_changes_nothing() {
    let (_ring, client) = start("data-limits").await;
    let [a, b] = apart();
    let (code, why) = refused(client.txn(&Txn::new().then(Step::put(&a, "1")).then(Step::put(&b, "1"))).await);
    assert_eq!(code, Code::CrossShard);
    assert!(why.contains(&format!("\"{a}\"")) && why.contains(&format!("\"{b}\"")) && why.contains("{tag}"), "{why}");
    let twice = Txn::new().then(Step::put("k", "1")).then(Step::delete("k"));
    assert_eq!(refused(client.txn(&twice).await).0, Code::DuplicateKey);
    assert_eq!(refused(client.txn(&Txn::new()).await).0, Code::BadRequest);
    let large = vec![1; 1 << 20];
    let (code, why) = refused(client.txn(&Txn::new().then(Step::put("k", &large))).await);
    assert_eq!(code, Code::TransactionTooLarge);
    assert!(why.contains("1048576"), "{why}");
    client.put("k", &large).await.expect("a value of this length is allowed by itself");
    let found = Txn::new().then(Step::get("k")).then(Step::put("{k}", "1"));
    assert_eq!(refused(client.txn(&found).await).0, Code::ResultTooLarge);
    assert_eq!(client.get("{k}").await.expect("a read"), None);
    assert_eq!(refused(client.get_many(["k", ""]).await).0, Code::KeyEmpty);
    let long = "n".repeat(65);
    assert_eq!(refused(client.namespace(&long).create("k", "").await).0, Code::BadNamespace);
    assert_eq!(refused(client.namespace(&long).scan(Range::all()).all().await).0, Code::BadNamespace);
}

/// Writes them with many in flight.
async fn fill(client: &Client, entries: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let left = Arc::new(std::sync::Mutex::new(entries.clone()));
    let tasks = (0..64).map(|_| {
        let (client, left) = (client.clone(), left.clone());
        tokio::spawn(async move {
            loop {
                let Some((key, value)) = left.lock().expect("no task panics").pop_first() else { return };
                client.put(key, value).await.expect("a write");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("it ends");
    }
}

fn pairs(entries: &[Entry]) -> Vec<(&[u8], &[u8])> {
    entries.iter().map(|entry| (&entry.key[..], &entry.value[..])).collect()
}

#[tokio::test]
async fn scans_give_every_key_of_all_shards_once_and_in_order() {
    let (_ring, client) = start("data-scans").await;
    let mut entries = BTreeMap::new();
    for n in 0..5_000u32 {
        entries.insert(format!("key-{:05}", n * 7 % 5_000).into_bytes(), n.to_string().into_bytes());
    }
    // Pages that end by their bytes, not by their number.
    for n in 0..10 {
        entries.insert(format!("large-{n}").into_bytes(), vec![n; 100_000]);
    }
    entries.insert(vec![0xff; 3], b"last".to_vec());
    fill(&client, &entries).await;
    let all: Vec<(&[u8], &[u8])> = entries.iter().map(|(key, value)| (&key[..], &value[..])).collect();

    let up = client.scan(Range::all()).all().await.expect("a scan");
    assert!(pairs(&up) == all, "{} of {} entries", up.len(), all.len());
    let down = client.scan(Range::all().backward()).all().await.expect("a scan");
    assert!(pairs(&down).into_iter().eq(all.iter().rev().copied()), "{} of {} entries", down.len(), all.len());

    let of = |from: &[u8], until: &[u8]| -> Vec<(&[u8], &[u8])> {
        all.iter().copied().filter(|(key, _)| *key >= from && (until.is_empty() || *key < until)).collect()
    };
    let prefix = client.scan(Range::prefix("key-01")).all().await.expect("a scan");
    assert_eq!(pairs(&prefix), of(b"key-01", b"key-02"));
    assert_eq!(prefix.len(), 1_000);
    let none = client.scan(Range::prefix("none")).all().await.expect("a scan");
    assert_eq!(none, []);
    let last = client.scan(Range::prefix([0xff, 0xff])).all().await.expect("a scan");
    assert_eq!(pairs(&last), [(&[0xff; 3][..], &b"last"[..])]);
    for (from, until) in [("key-00010", "key-00020"), ("", "key-00002"), ("large-8", ""), ("b", "a"), ("x", "x")] {
        for backward in [false, true] {
            let range = Range::between(from, until);
            let range = if backward { range.backward() } else { range };
            let found = client.scan(range).all().await.expect("a scan");
            let mut wanted = of(from.as_bytes(), until.as_bytes());
            wanted.retain(|_| until.is_empty() || from < until);
            if backward {
                wanted.reverse();
            }
            assert!(pairs(&found) == wanted, "{from:?}..{until:?} backward {backward}: {} found", found.len());
        }
    }
    let few = client.scan(Range::all().limit(1_500)).all().await.expect("a scan");
    assert_eq!(pairs(&few), all[..1_500]);
    let keys = client.scan(Range::prefix("large-").keys_only()).all().await.expect("a scan");
    assert!(keys.len() == 10 && keys.iter().all(|entry| entry.value.is_empty() && entry.revision.index > 0));

    // Every node that keeps state serves local ones; a follower hears of the last writes with the next append.
    let options = GetOptions { consistency: Consistency::Local, ..GetOptions::default() };
    let until = Instant::now() + Duration::from_secs(10);
    while pairs(&client.scan_with(Range::all(), &options).all().await.expect("a scan")) != all {
        assert!(Instant::now() < until, "a follower never had it all");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Lists of keys: more than one request holds, some absent, one twice; and more than one answer holds.
    let mut wanted: Vec<Vec<u8>> = (0..700).map(|n| format!("key-{:05}", n * 13 % 6_000).into_bytes()).collect();
    wanted.extend((0..10).map(|n| format!("large-{n}").into_bytes()));
    wanted.push(wanted[0].clone());
    for options in [GetOptions::default(), options] {
        let found = client.get_many_with(&wanted, &options).await.expect("reads");
        let found: Vec<_> = found.iter().map(|found| found.as_ref().map(|found| &found.value[..])).collect();
        let expected: Vec<_> = wanted.iter().map(|key| entries.get(key).map(Vec::as_slice)).collect();
        assert!(found == expected, "{:?}", options.consistency);
    }
    assert_eq!(client.get_many::<&str>([]).await.expect("nothing is asked"), []);
}

/// Transfers between two accounts while leaders are killed: the sum never changes, and no transfer is lost or done twice.
#[tokio::test]
async fn transfers_are_whole_and_happen_once_while_leaders_are_killed() {
    let (mut ring, client) = start("data-transfers").await;
    let client = client.with_timeout(Duration::from_secs(20));
    const ACCOUNTS: [&str; 2] = ["{bank}a", "{bank}b"];
    const SUM: i64 = 1_000_000;
    client.txn(&Txn::new().then(Step::put(ACCOUNTS[0], "0")).then(Step::put(ACCOUNTS[1], "1000000"))).await.expect("set up");
    let (stop, done, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let balances = |found: &[Option<ringbeam_sdk::Value>]| -> Vec<i64> {
        let number = |found: &Option<ringbeam_sdk::Value>| {
            let found = found.as_ref().expect("both accounts are there");
            std::str::from_utf8(&found.value).expect("digits").parse().expect("a number")
        };
        found.iter().map(number).collect()
    };
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let (client, stop, done, lost) = (client.clone(), stop.clone(), done.clone(), lost.clone());
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let found = client.get_many(ACCOUNTS).await.expect("a read");
                let now = balances(&found);
                assert_eq!(now.iter().sum::<i64>(), SUM, "a transfer was seen half done");
                let [a, b] = [now[0] + 1, now[1] - 1].map(|balance| balance.to_string());
                let revisions: Vec<_> = found.iter().flatten().map(|found| found.revision).collect();
                let txn = Txn::new()
                    .when(Compare::revision(ACCOUNTS[0], revisions[0]))
                    .when(Compare::revision(ACCOUNTS[1], revisions[1]))
                    .then(Step::put(ACCOUNTS[0], &a))
                    .then(Step::put(ACCOUNTS[1], &b))
                    .otherwise(Step::get(ACCOUNTS[0]));
                match client.txn(&txn).await {
                    Ok(answer) if answer.succeeded => {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(answer) => assert_eq!(answer.gets.len(), 1),
                    Err(Error::Unknown { .. }) => {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }));
    }
    for _ in 0..3 {
        let before = done.load(Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(30);
        while done.load(Ordering::Relaxed) < before + 100 {
            assert!(Instant::now() < until, "transfers do not go on\n{}", ring.tails());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let shard = ringbeam_wire::slots::shard_of(ringbeam_wire::slots::slot_of(ACCOUNTS[0].as_bytes()), 2);
        let leader = client.topology_of(shard).await.expect("a topology").leader;
        if leader != 0 && ring.runs(leader) {
            ring.kill(leader);
            ring.spawn(leader);
        }
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("no task fails");
    }
    let now = balances(&client.get_many(ACCOUNTS).await.expect("a read"));
    let (done, lost) = (done.load(Ordering::Relaxed) as i64, lost.load(Ordering::Relaxed) as i64);
    assert_eq!(now.iter().sum::<i64>(), SUM);
    assert!((done..=done + lost).contains(&now[0]), "{done} transfers were acknowledged, {lost} unknown, {} happened", now[0]);
}
