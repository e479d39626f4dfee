//! Scans of one moment on a real ring: while others write, while leaders change, and when the node cannot keep the moment any more.
//!
//! **Not here**: pages against a model (`shards/state/tests/pins.rs`), under faults (`tests/sim`), what the SDK does about nodes that fail
//! (`wire/sdk/rust/tests/reads/scans.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::ring::{Plan, Ring};
use ringbeam_sdk::{Client, Code, Consistency, Entry, Error, GetOptions, Range, Step, Txn};

/// As little as may be is kept for scans.
const EXTRA: &str = "[scan]\npinned_bytes_max = 1048576\n[log]\nsegment_bytes = 33554432\nspare_segments_count = 1\n";
const ACCOUNTS: u64 = 200;
const EACH: i64 = 1_000;

async fn start(name: &str) -> (Ring, Client) {
    let ring = Ring::start(name, Plan { nodes: 3, shards: 2, extra: EXTRA.to_string(), ..Plan::default() }).await;
    let client = ring.client().await.with_timeout(Duration::from_secs(20));
    (ring, client)
}

fn account(number: u64) -> String {
    format!("{{bank}}{number:04}")
}

fn number(value: &[u8]) -> i64 {
    std::str::from_utf8(value).expect("digits").parse().expect("a number")
}

fn sum(entries: &[Entry]) -> i64 {
    entries.iter().map(|entry| number(&entry.value)).sum()
}

/// Moves something from account to account, all the time, in one transaction each, one task for all.
async fn transfer(client: Client, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    let mut balances = vec![EACH; ACCOUNTS as usize];
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // Mostly from the one end to the other, so that a scan in pages meets both.
        let (a, b) = (turn % 50, ACCOUNTS - 1 - turn % 50);
        let amount = 1 + turn as i64 % 7;
        balances[a as usize] -= amount;
        balances[b as usize] += amount;
        let [left, right] = [a, b].map(|at| (account(at), balances[at as usize].to_string()));
        let txn = Txn::new().then(Step::put(&left.0, &left.1)).then(Step::put(&right.0, &right.1));
        client.txn(&txn).await.expect("a transfer");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn every_scan_is_of_one_moment_while_others_write_and_leadership_moves() {
    let (ring, client) = start("scans-moment").await;
    for at in 0..ACCOUNTS {
        client.put(account(at), EACH.to_string()).await.expect("set up");
    }
    let total = EACH * ACCOUNTS as i64;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let transfers = tokio::spawn(transfer(client.clone(), stop.clone(), done.clone()));

    let (mut torn, mut scans, mut moved) = (0, 0, 0);
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        let consistency = [Consistency::Linearizable, Consistency::Session, Consistency::Local][scans % 3];
        let options = GetOptions { consistency: Some(consistency), ..GetOptions::default() };
        let range = Range::prefix("{bank}").page(9);
        let range = if scans % 2 == 0 { range } else { range.backward() };
        let mut scan = client.scan_with(range.clone(), &options);
        let mut entries = Vec::new();
        while let Some(entry) = scan.next().await.expect("a page") {
            entries.push(entry);
            // The leader changes in the middle of one.
            if scans % 20 == 5 && entries.len() == 50 {
                let shard = ringbeam_wire::slots::shard_of(ringbeam_wire::slots::slot_of(b"{bank}"), 2);
                moved += u32::from(client.ring_transfer(shard, 0).await.is_ok());
            }
        }
        assert_eq!(entries.len(), ACCOUNTS as usize, "{consistency:?}");
        assert_eq!(sum(&entries), total, "{consistency:?}: a scan saw a transfer half done");
        let loose = client.scan_with(range.unpinned(), &options).all().await.expect("a scan");
        torn += u32::from(sum(&loose) != total);
        scans += 1;
    }
    stop.store(true, Ordering::Relaxed);
    transfers.await.expect("no transfer fails");
    assert!(
        torn > 0,
        "{scans} scans of pages that are of their own moments, and none saw a transfer half done: the test cannot fail"
    );
    assert!(moved > 0, "leadership never moved");
    println!(
        "{scans} scans, {} transfers; {torn} unpinned ones were torn; leadership moved {moved} times",
        done.load(Ordering::Relaxed)
    );
    drop(ring);
}

fn is_gone(result: &Result<Option<Entry>, Error>) -> bool {
    matches!(result, Err(Error::Refused(refusal)) if refusal.code == Code::Compacted)
}

/// What is asked of nodes that cannot answer as of the moment any more is refused, never answered with what is now.
#[tokio::test]
async fn a_moment_that_cannot_be_kept_ends_the_scan_by_name() {
    let (mut ring, client) = start("scans-gone").await;
    let value = vec![b'v'; 4_000];
    for at in 0..600 {
        client.put(format!("{{x}}{at:04}"), &value).await.expect("set up");
    }
    let range = || Range::prefix("{x}").page(10);

    // More than 1 MiB changes meanwhile.
    let mut scan = client.scan(range());
    scan.next().await.expect("a page").expect("a key");
    for at in 0..600 {
        client.put(format!("{{x}}{at:04}"), b"new").await.expect("a put");
    }
    for _ in 1..10 {
        scan.next().await.expect("of the first page").expect("a key");
    }
    let gone = scan.next().await;
    assert!(is_gone(&gone), "{gone:?}");
    let why = gone.expect_err("it is gone").to_string();
    assert!(why.contains("1048576 bytes") && why.contains("30 s"), "{why}");
    assert!(is_gone(&scan.next().await), "it stays gone");
    assert_eq!(client.scan(range()).all().await.expect("a scan anew").len(), 600);

    // The node that keeps it begins anew.
    let shard = ringbeam_wire::slots::shard_of(ringbeam_wire::slots::slot_of(b"{x}"), 2);
    let leader = client.topology_of(shard).await.expect("a topology").leader;
    let mut scan = client.scan(range());
    scan.next().await.expect("a page").expect("a key");
    ring.kill(leader);
    ring.spawn(leader);
    for _ in 1..10 {
        scan.next().await.expect("of the first page").expect("a key");
    }
    let gone = scan.next().await;
    assert!(is_gone(&gone), "{gone:?}");
    assert_eq!(client.scan(range()).all().await.expect("a scan anew").len(), 600);
}
