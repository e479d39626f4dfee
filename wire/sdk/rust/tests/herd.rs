//! Many clients at a ring in trouble: how much they send it, and when.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fake::{Act, Asked, Ring};
use ringbeam_sdk::{Client, Code, Error, Refusal};

/// Arrivals are counted by this long.
const BUCKET: Duration = Duration::from_millis(250);

/// Every request that arrives at any node counts: writes, searches for a leader, hellos. 10,000 tasks of 100 clients put once in two
/// seconds on the mean, while the ring loses its leader for `outage`. Returns the peak from then on over what came before.
async fn peak_over_steady(jitter: bool, outage: Duration) -> f64 {
    static START: Mutex<Option<Instant>> = Mutex::new(None);
    let start = *START.lock().unwrap().get_or_insert_with(Instant::now);
    let arrivals: Arc<Mutex<Vec<(Instant, bool)>>> = Arc::default();
    let down = Arc::new(AtomicBool::new(false));
    let ring = Ring::start(3, 1, {
        let (arrivals, down) = (arrivals.clone(), down.clone());
        move |_, at, asked| {
            arrivals.lock().unwrap().push((Instant::now(), matches!(asked, Asked::Put { .. })));
            (at.node == 1 && down.load(Ordering::SeqCst)).then_some(Act::Close)
        }
    })
    .await;
    let mut tasks = Vec::new();
    for _ in 0..100 {
        let client = Client::builder().endpoints(ring.endpoints()).jitter(jitter).connect().await.unwrap();
        client.put("warm", "up").await.unwrap();
        for task in 0..100 {
            let client = client.clone();
            tasks.push(tokio::spawn(async move {
                // In the middle of a pause, so that the rate is steady from the first moment on.
                let mut pause = 4.0 * (1.0 - fastrand::f64().sqrt());
                loop {
                    tokio::time::sleep(Duration::from_secs_f64(pause)).await;
                    pause = 4.0 * fastrand::f64();
                    // One that fails at its deadline comes again like any other.
                    let _ = client.put(format!("{task}"), "v").await;
                }
            }));
        }
    }
    // Past the waves of the start.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let steady_from = Instant::now();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let lost_at = Instant::now();
    down.store(true, Ordering::SeqCst);
    ring.lead(0);
    tokio::time::sleep(outage).await;
    ring.lead(2);
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);

    let arrivals = arrivals.lock().unwrap();
    let steady = arrivals.iter().filter(|&&(at, _)| at >= steady_from && at < lost_at).count() as f64;
    let steady_rate = steady / lost_at.duration_since(steady_from).as_secs_f64();
    let (mut buckets, mut puts) = ([0_u32; 64], [0_u32; 64]);
    for (at, put) in arrivals.iter().filter(|&&(at, _)| at >= lost_at) {
        let bucket = (at.duration_since(lost_at).as_millis() / BUCKET.as_millis()).min(63) as usize;
        buckets[bucket] += 1;
        puts[bucket] += u32::from(*put);
    }
    println!("arrivals by 250 ms: {:?}", &buckets[..32]);
    println!("of these, puts:     {:?}", &puts[..32]);
    let (at, peak) = buckets.iter().enumerate().max_by_key(|(_, count)| **count).unwrap();
    let over = f64::from(*peak) / BUCKET.as_secs_f64() / steady_rate;
    let after = BUCKET * at as u32;
    println!("{:?}: jitter {jitter}: steady {steady_rate:.0}/s, peak {over:.2}x, {after:?} after the loss", start.elapsed());
    over
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_clients_come_back_from_a_leader_loss_at_twice_the_steady_rate_at_most() {
    let peak = peak_over_steady(true, Duration::from_secs(5)).await;
    assert!(peak <= 2.0, "{peak:.2} times the steady rate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_jitter_they_are_a_herd_and_the_measurement_sees_it() {
    let peak = peak_over_steady(false, Duration::from_secs(2)).await;
    assert!(peak > 2.0, "{peak:.2} times the steady rate");
}

#[tokio::test]
async fn a_ring_that_refuses_sees_each_call_little_more_than_once() {
    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::Put { .. } => Some(Act::Refuse(Refusal::new(Code::Overloaded, "the queue is full"))),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let started = Instant::now();
    let (mut refused, calls) = (0, 2_000_usize);
    for round in 0..calls / 100 {
        let puts: Vec<_> = (0..100)
            .map(|n| {
                let client = client.clone();
                tokio::spawn(async move { client.put(format!("{round}/{n}"), "v").await })
            })
            .collect();
        for put in puts {
            match put.await.unwrap() {
                Err(Error::Refused(refusal)) => {
                    assert_eq!(refusal.code, Code::Overloaded);
                    assert!(refusal.message.starts_with("the queue is full; not tried again, as this"), "{}", refusal.message);
                    refused += 1;
                }
                other => panic!("expected the refusal, got {other:?}"),
            }
        }
    }
    assert_eq!(refused, calls);
    let arrived = ring.puts().len();
    // A tenth of the calls, the reserve of 100, and what has come back to it.
    let most = calls + calls / 10 + 100 + started.elapsed().as_secs() as usize + 1;
    assert!((calls + 100..=most).contains(&arrived), "{arrived} puts of {calls} calls");
}

#[tokio::test]
async fn without_budget_a_lost_write_is_unknown_and_one_that_never_left_is_not() {
    let cut = Arc::new(AtomicBool::new(false));
    let ring = Ring::start(1, 1, {
        let cut = cut.clone();
        move |_, _, asked| (matches!(asked, Asked::Put { .. }) && cut.load(Ordering::SeqCst)).then_some(Act::Close)
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("k", "v").await.unwrap();
    cut.store(true, Ordering::SeqCst);
    let mut ends = Vec::new();
    for _ in 0..4 {
        let error = client.put("k", "v").await.unwrap_err();
        let Error::Unknown { why, session: 1.., sequence: 2.., .. } = &error else { panic!("expected unknown, got {error:?}") };
        ends.push(why.contains("retry budget is spent"));
    }
    assert!(ends[3], "the reserve is of 100 retries, a call makes some tens of them in its time: {ends:?}");
    cut.store(false, Ordering::SeqCst);
    client.put("k", "v").await.unwrap();
}

#[tokio::test]
async fn a_node_that_fails_again_and_again_is_left_alone_and_found_when_it_is_back() {
    let dead = Arc::new(AtomicBool::new(true));
    let ring = Ring::start(3, 1, {
        let dead = dead.clone();
        move |_, at, _| (at.node == 2 && dead.load(Ordering::SeqCst)).then_some(Act::Close)
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("k", "v").await.unwrap();
    ring.lead(0);
    let hellos = |node: u64| ring.count(|at, asked| at.node == node && matches!(asked, Asked::Hello { .. }));
    let searches = |node: u64| ring.count(|at, asked| at.node == node && *asked == Asked::Topology);
    match client.with_timeout(Duration::from_secs(3)).put("k", "v").await {
        Err(Error::Timeout { why, .. }) => assert!(why.contains("no leader of shard 0"), "{why}"),
        other => panic!("expected a timeout, got {other:?}"),
    }
    assert!(searches(3) >= 12, "node 3 was asked {} times", searches(3));
    assert!((3..=9).contains(&hellos(2)), "node 2 was tried {} times, node 3 asked {} times", hellos(2), searches(3));
    dead.store(false, Ordering::SeqCst);
    ring.lead(2);
    let started = Instant::now();
    client.put("k", "v").await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(1_200), "named by the others, it is asked: {:?}", started.elapsed());
}

#[tokio::test]
async fn the_only_node_is_asked_however_often_it_failed() {
    static DEAD: AtomicU32 = AtomicU32::new(0);
    let ring = Ring::start(1, 1, |_, _, _| (DEAD.load(Ordering::SeqCst) == 1).then_some(Act::Close)).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("k", "v").await.unwrap();
    DEAD.store(1, Ordering::SeqCst);
    assert!(client.with_timeout(Duration::from_secs(1)).put("k", "v").await.is_err());
    DEAD.store(0, Ordering::SeqCst);
    let started = Instant::now();
    client.put("k", "v").await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(700), "{:?}", started.elapsed());
}
