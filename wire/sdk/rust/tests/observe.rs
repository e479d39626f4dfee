//! Hedged reads, and what a program sees of its client.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fake::{Act, Asked, Ring};
use ringbeam_sdk::{CallEnded, Client, Consistency, Ended, Error, GetOptions, Metrics};

/// Keeps all it is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<CallEnded>>>);

impl Told {
    fn has(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|told| told.starts_with(what)).count()
    }
}

impl Metrics for Told {
    fn call_ended(&self, call: &CallEnded) {
        self.1.lock().unwrap().push(*call);
    }

    fn connection_opened(&self, node: u64, shard: u32) {
        self.0.lock().unwrap().push(format!("opened {node} {shard}"));
    }

    fn connection_lost(&self, node: u64, shard: u32, why: &str) {
        self.0.lock().unwrap().push(format!("lost {node} {shard} {why}"));
    }

    fn hedged(&self, shard: u32, won: bool) {
        self.0.lock().unwrap().push(format!("hedged {shard} {won}"));
    }
}

fn nearby(hedge: Duration) -> GetOptions {
    GetOptions { consistency: Some(Consistency::Local), hedge: Some(hedge), ..GetOptions::default() }
}

/// Node 2, in the client's region, takes 500 ms for each read; the others answer at once.
async fn ring_with_a_slow_node() -> Arc<Ring> {
    Ring::start(3, 1, |ring, at, asked| match asked {
        Asked::Get { .. } if at.node == 2 => Some(Act::Later(Duration::from_millis(500), Box::new(ring.usual(at, asked)))),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_second_node_answers_when_the_first_takes_its_time() {
    let ring = ring_with_a_slow_node().await;
    let told = Told::default();
    let client = Client::builder().endpoints(ring.endpoints()).region("r2").metrics(told.clone()).connect().await.unwrap();
    client.put("k", "v").await.unwrap();
    let started = Instant::now();
    let found = client.get_with("k", &nearby(Duration::from_millis(20))).await.unwrap().unwrap();
    assert_eq!(&found.value[..], b"v");
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
    assert_eq!(told.has("hedged 0 true"), 1);
    // One that the first node answers in time asks nobody else.
    client.get_with("k", &nearby(Duration::from_secs(2))).await.unwrap();
    assert_eq!((told.has("hedged"), ring.count(|at, asked| at.node != 2 && matches!(asked, Asked::Get { .. }))), (1, 1));
    // Only the leader serves these.
    let options = GetOptions { hedge: Some(Duration::from_millis(1)), ..GetOptions::default() };
    client.get_with("k", &options).await.unwrap();
    assert_eq!(told.has("hedged"), 1);
}

#[tokio::test]
async fn hedges_are_one_in_twenty_at_most() {
    let ring = ring_with_a_slow_node().await;
    let told = Told::default();
    let client = Client::builder().endpoints(ring.endpoints()).region("r2").metrics(told.clone()).connect().await.unwrap();
    let reads: Vec<_> = (0..1_000)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.get_with(format!("{n}"), &nearby(Duration::from_millis(10))).await })
        })
        .collect();
    for read in reads {
        read.await.unwrap().unwrap();
    }
    let hedged = told.has("hedged");
    // The reserve is full at first, so what the first reads earn is lost.
    assert!((10..=60).contains(&hedged), "{hedged} of 1,000");
}

#[tokio::test]
async fn the_first_ones_error_is_told_when_neither_has_an_answer() {
    let ring = Ring::start(2, 1, |_, _, asked| matches!(asked, Asked::Get { .. }).then_some(Act::Silence)).await;
    let client = Client::builder().endpoints(ring.endpoints()).timeout(Duration::from_millis(200)).connect().await.unwrap();
    match client.get_with("k", &nearby(Duration::from_millis(20))).await {
        Err(Error::Timeout { timeout_ms: 200, .. }) => {}
        other => panic!("expected a timeout, got {other:?}"),
    }
    assert_eq!(ring.count(|_, asked| matches!(asked, Asked::Get { .. })), 2, "both were asked");
}

#[tokio::test]
async fn metrics_tell_of_calls_and_connections() {
    static PUTS: AtomicU64 = AtomicU64::new(0);
    let ring = Ring::start(2, 1, |_, _, asked| match asked {
        Asked::Put { key, .. } if key == b"cut" && PUTS.fetch_add(1, Ordering::SeqCst) == 0 => Some(Act::Close),
        Asked::Get { key, .. } if key == b"slow" => Some(Act::Silence),
        _ => None,
    })
    .await;
    let told = Told::default();
    let client = Client::builder().endpoints([ring.address(1)]).metrics(told.clone()).connect().await.unwrap();
    client.put("a", "1").await.unwrap();
    client.put("cut", "2").await.unwrap();
    client.get("a").await.unwrap();
    assert!(client.with_timeout(Duration::from_millis(50)).get("slow").await.is_err());
    assert!(client.put("", "no key").await.is_err());
    client.ping(0).await.unwrap();
    let calls = told.1.lock().unwrap().clone();
    let seen: Vec<(&str, Ended, u32)> = calls.iter().map(|call| (call.kind, call.ended, call.attempts)).collect();
    assert_eq!(
        seen,
        [
            ("put", Ended::Done, 1),
            ("put", Ended::Done, 2),
            ("get", Ended::Done, 1),
            ("get", Ended::Timeout, 1),
            ("put", Ended::Refused, 0),
            ("ring", Ended::Done, 1)
        ]
    );
    assert!(calls.iter().all(|call| call.shard == 0 && call.duration < Duration::from_secs(4)));
    assert!(calls.iter().all(|call| call.node == u64::from(call.attempts > 0)), "{calls:?}");
    assert!(calls[3].duration >= Duration::from_millis(50));
    assert_eq!(told.has("lost 1 0 the node closed"), 1);
    assert!(told.has("opened 1 0") >= 2, "the first, and after the loss");
}
