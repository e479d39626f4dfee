//! Transactions, compare-and-set, scans, lists of keys, counters, ranges that go, deltas and lost writes on a real ring, through the SDK.
//!
//! **Not here**: what applying them means, against a model (`shards/state/tests`); histories under faults (`tests/sim`).

mod ring;
#[path = "data/scans.rs"]
mod scans;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ring::{Plan, Ring};
use ringbeam_sdk::{
    AddOptions, Client, Code, Compare, Consistency, Entry, Error, Expect, GetOptions, Outcome, Range, Relation, Step, Target,
    Ticket, Txn,
};

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
    let options = GetOptions { consistency: Some(Consistency::Local), ..GetOptions::default() };
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

/// Kills whoever leads the shard of `key`, three times, each after `count` has grown by `at_least`.
async fn kill_leaders(ring: &mut Ring, client: &Client, key: &str, count: &AtomicU64, at_least: u64) {
    let shard = ringbeam_wire::slots::shard_of(ringbeam_wire::slots::slot_of(key.as_bytes()), 2);
    for _ in 0..3 {
        let before = count.load(Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(30);
        while count.load(Ordering::Relaxed) < before + at_least {
            assert!(Instant::now() < until, "writes do not go on\n{}", ring.tails());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let leader = client.topology_of(shard).await.expect("a topology").leader;
        if leader != 0 && ring.runs(leader) {
            ring.kill(leader);
            ring.spawn(leader);
        }
    }
}

/// Every acknowledged addition counts once, and no two of them came to the same sum: the answers are those of one order.
#[tokio::test]
async fn counters_are_exact_while_leaders_are_killed() {
    let (mut ring, client) = start("data-counters").await;
    let client = client.with_timeout(Duration::from_secs(20));
    let (stop, done, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks = (0..8).map(|_| {
        let (client, stop, done, lost) = (client.clone(), stop.clone(), done.clone(), lost.clone());
        tokio::spawn(async move {
            let mut sums = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match client.add("n", 1).await {
                    Ok(counted) => {
                        sums.push(counted.value);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(Error::Unknown { .. }) => {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            sums
        })
    });
    let tasks: Vec<_> = tasks.collect();
    kill_leaders(&mut ring, &client, "n", &done, 200).await;
    stop.store(true, Ordering::Relaxed);
    let mut sums = Vec::new();
    for task in tasks {
        let own = task.await.expect("no task fails");
        assert!(own.is_sorted(), "one task's sums ascend");
        sums.extend(own);
    }
    let (done, lost) = (done.load(Ordering::Relaxed) as i64, lost.load(Ordering::Relaxed) as i64);
    sums.sort_unstable();
    sums.dedup();
    assert_eq!(sums.len() as i64, done, "two additions came to the same sum");
    let now = client.add("n", 0).await.expect("a write").value;
    assert!((done..=done + lost).contains(&now), "{done} additions were acknowledged, {lost} unknown, {now} happened");
}

#[tokio::test]
async fn counters_keep_their_bounds_and_are_decimal_for_everybody() {
    let (ring, client) = start("data-bounds").await;
    let stock = AddOptions { min: 0, max: 10, ..AddOptions::default() };
    assert_eq!(client.add_with("stock", 7, &stock).await.expect("a write").value, 7);
    assert_eq!(refused(client.add_with("stock", 4, &stock).await).0, Code::OutOfBounds);
    assert_eq!(refused(client.add_with("stock", -8, &stock).await).0, Code::OutOfBounds);
    assert_eq!(refused(client.add_with("stock", 1, &AddOptions { min: 5, max: 4, ..stock }).await).0, Code::BadRequest);
    assert_eq!(client.get("stock").await.expect("a read").map(|found| found.value), Some("7".into()));
    client.put("stock", "9223372036854775807").await.expect("a write");
    assert_eq!(refused(client.add("stock", 1).await).0, Code::OutOfBounds);
    client.put("stock", "seven").await.expect("a write");
    let (code, why) = refused(client.add("stock", 1).await);
    assert!(code == Code::NotANumber && why.contains("not a decimal number"), "{why}");

    let at = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        let endpoints = ring.endpoints();
        async move { ring::ringbeam_at(&endpoints, &args.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    assert_eq!(at(&["incr", "visits"]).await, (0, "1\n".into(), String::new()));
    assert_eq!(at(&["incr", "visits", "--by", "-5", "--namespace", "n"]).await, (0, "-5\n".into(), String::new()));
    let (code, out, _) = at(&["incr", "visits", "--by", "41", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &json["value"]), (0, &42.into()));
    let (code, out, why) = at(&["incr", "visits", "--max", "42"]).await;
    assert!((code, out.as_str()) == (3, "") && why.contains("OutOfBounds"), "{why}");
}

#[tokio::test]
async fn ranges_go_whole_over_all_shards_and_nothing_beside_them() {
    let (ring, client) = start("data-ranges").await;
    let entries =
        |from: u32, until: u32| (from..until).map(|n| (format!("key-{n:05}").into_bytes(), n.to_string().into_bytes()));
    fill(&client, &entries(0, 5_000).chain([(b"kez".to_vec(), Vec::new())]).collect()).await;
    client.namespace("n").put("key-00001", "").await.expect("a write");
    assert_eq!(client.delete_range(Range::between("key-04990", "key-05010")).await.expect("it goes"), 10);
    assert_eq!(client.delete_range(Range::between("b", "a")).await.expect("nothing"), 0);
    assert_eq!(refused(client.delete_range(Range::all().limit(1)).await).0, Code::BadRequest);
    assert_eq!(client.delete_prefix("key-").await.expect("it goes"), 4_990);
    assert_eq!(client.delete_prefix("key-").await.expect("nothing"), 0);
    let left = client.scan(Range::all()).all().await.expect("a scan");
    assert_eq!(pairs(&left), [(&b"kez"[..], &b""[..])]);
    assert!(client.namespace("n").get("key-00001").await.expect("a read").is_some());

    // Of one shard only, on the command line.
    fill(&client, &(0..20).map(|n| (format!("{{t}}{n}").into_bytes(), Vec::new())).collect()).await;
    let endpoints = ring.endpoints();
    assert_eq!(ring::ringbeam_at(&endpoints, &["delete-range", "{t}1"]).await, (0, "11\n".into(), String::new()));
    let (code, out, _) = ring::ringbeam_at(&endpoints, &["delete-range", "--from", "{t}", "--until", "{t}3", "--json"]).await;
    assert_eq!((code, out.as_str()), (0, "{\"deleted\":2}\n"));
    assert_eq!(
        ring::ringbeam_at(&endpoints, &["delete-range"]).await.0,
        2,
        "nobody deletes everything by forgetting an argument"
    );
    assert_eq!(ring::ringbeam_at(&endpoints, &["delete-range", "--all"]).await, (0, "8\n".into(), String::new()));
    assert_eq!(client.scan(Range::all()).all().await.expect("a scan"), []);
}

/// A put of 300 ms of which nobody says whether it happened.
async fn lost(client: &Client, key: &str, value: &str) -> Ticket {
    match client.with_timeout(Duration::from_millis(300)).put(key, value).await {
        Err(error @ Error::Unknown { .. }) => error.ticket().expect("it has a session"),
        other => panic!("not unknown: {other:?}"),
    }
}

/// One lost write is in the leader's log and nobody has confirmed it, the other is in the buffers of a leader that dies.
#[tokio::test]
async fn the_outcome_of_a_lost_write_is_settled_by_asking() {
    let (mut ring, client) = start("data-outcomes").await;
    let client = client.with_timeout(Duration::from_secs(20));
    let shard = ringbeam_wire::slots::shard_of(ringbeam_wire::slots::slot_of(b"k"), 2);
    let other = ring.client().await;
    other.put("k", "0").await.expect("a write");
    let written = client.put("k", "0").await.expect("a write");
    let leader = ring.settled_leader(shard).await;
    let followers: Vec<u32> = (1..=3).filter(|id| *id != leader).filter_map(|id| ring.pid(id)).collect();
    followers.iter().for_each(|pid| ring::signal(*pid, "STOP"));
    let (ticket, others) = tokio::join!(lost(&client, "k", "1"), lost(&other, "k", "1"));
    followers.iter().for_each(|pid| ring::signal(*pid, "CONT"));

    let Outcome::Happened(first) = client.outcome(&ticket).await.expect("an answer") else {
        panic!("the leader had it, and kept its office");
    };
    assert!(first.revision > written.revision && first.existed, "{first:?}");
    assert_eq!(client.outcome(&ticket).await.expect("an answer"), Outcome::Happened(first), "asking again changes nothing");
    // A session with such a write outlives its client, for whoever has the numbers.
    drop(other);
    let endpoints = ring.endpoints();
    let args =
        |Ticket { shard, session, sequence }| ["outcome".into(), shard.to_string(), session.to_string(), sequence.to_string()];
    let (code, out, said) = ring::ringbeam_at(&endpoints, &args(others).each_ref().map(String::as_str)).await;
    let now = client.get("k").await.expect("a read").expect("it is there");
    assert!(code == 0 && now.revision > written.revision && &now.value[..] == b"1", "{said}");
    assert!(out.trim_end().split_once('.').is_some_and(|(index, _)| index.parse::<u64>().is_ok()), "{out}");

    // The lead may move in the moment before the leader stops: then the write happens.
    let mut tries = 0;
    let ticket = loop {
        let leader = ring.settled_leader(shard).await;
        client.put("k", "3").await.expect("a write");
        ring::signal(ring.pid(leader).expect("it runs"), "STOP");
        let ticket = lost(&client, "k", "4").await;
        ring.kill(leader);
        match client.outcome(&ticket).await.expect("an answer") {
            Outcome::Never => break ticket,
            happened => assert!(tries < 5, "{tries} times: {happened:?}"),
        }
        ring.spawn(leader);
        ring.wait_converged().await;
        tries += 1;
    };
    assert_eq!(client.get("k").await.expect("a read").map(|found| found.value), Some("3".into()));
    let asked = args(ticket);
    let asked: Vec<&str> = asked.iter().map(String::as_str).chain(["--json"]).collect();
    let (code, out, _) = ring::ringbeam_at(&endpoints, &asked).await;
    assert_eq!((code, out.as_str()), (1, "{\"happened\":false}\n"));

    // Once the session goes on without it, nobody can know.
    client.put("k", "5").await.expect("a write");
    client.put("k", "6").await.expect("a write");
    let (code, why) = refused(client.outcome(&ticket).await);
    assert!(code == Code::AlreadyAnswered && why.contains("cannot be known any more"), "{why}");
    assert_eq!(refused(client.outcome(&Ticket { session: 7, ..ticket }).await).0, Code::SessionExpired);
}

#[tokio::test]
async fn deltas_change_values_and_reads_fold_them_on_every_node() {
    let (mut ring, client) = start("data-deltas").await;
    for piece in ["dug 3,4;", "dug 3,5;"] {
        client.append("log", piece).await.expect("a write");
    }
    assert_eq!(client.get("log").await.expect("a read").map(|found| found.value), Some("dug 3,4;dug 3,5;".into()));
    client.put("state", r#"{"gold": 1, "tiles": {}}"#).await.expect("a write");
    let mut expected = serde_json::json!({ "gold": 1, "tiles": {} });
    for n in 0..40 {
        let tile = format!("{},{}", n % 7, n % 5);
        expected["tiles"][&tile] = n.into();
        let patch = serde_json::json!({ "tiles": { tile: n } });
        client.merge_patch("state", patch.to_string()).await.expect("a write");
    }
    client.merge_patch("state", r#"{"gold": null}"#).await.expect("a write");
    expected.as_object_mut().expect("an object").remove("gold");
    let value = |found: Option<ringbeam_sdk::Value>| found.map(|found| String::from_utf8_lossy(&found.value).into_owned());
    assert_eq!(value(client.get("state").await.expect("a read")), Some(expected.to_string()));
    let page = client.scan(Range::prefix("sta")).all().await.expect("a scan");
    assert_eq!(pairs(&page), [(&b"state"[..], expected.to_string().as_bytes())]);
    let text = expected.to_string();
    let txn = Txn::new().when(Compare::value("state", &text)).then(Step::get("state"));
    let done = client.txn(&txn).await.expect("a transaction");
    assert_eq!((done.succeeded, value(done.gets[0].clone())), (true, Some(expected.to_string())));

    // What no value becomes.
    let (code, why) = refused(client.merge_patch("state", r#"{"tiles":"#).await);
    assert!(code == Code::NotJson && why.contains("line 1"), "{why}");
    assert_eq!(refused(client.merge_patch("log", "{}").await).0, Code::NotJson);
    assert_eq!(refused(client.merge_patch("state", format!("\"{}\"", "x".repeat(70_000))).await).0, Code::ValueTooLarge);
    client.put("long", vec![b'x'; (1 << 20) - 2]).await.expect("a write");
    client.append("long", "yz").await.expect("a write of the longest value");
    assert_eq!(refused(client.append("long", "!").await).0, Code::ValueTooLarge);

    // After a restart every node has the same again.
    ring.kill_all(&[1, 2, 3]);
    (1..=3).for_each(|id| ring.spawn(id));
    ring.wait_converged().await;
    let client = ring.client().await;
    assert_eq!(value(client.get("state").await.expect("a read")), Some(expected.to_string()));

    let endpoints = ring.endpoints();
    let (code, _, said) = ring::ringbeam_at(&endpoints, &["append", "state", r#"{"gold": 7}"#, "--merge-patch"]).await;
    assert_eq!((code, said.as_str()), (0, ""));
    expected["gold"] = 7.into();
    assert_eq!(ring::ringbeam_at(&endpoints, &["get", "state"]).await, (0, expected.to_string(), String::new()));
    let (code, _, said) = ring::ringbeam_at(&endpoints, &["append", "log", "{}", "--merge-patch"]).await;
    assert!(code == 3 && said.contains("NotJson"), "{said}");
}
