//! The near-cache against a ring that counts what it is asked.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fake::{Act, Asked, Ring};
use ringbeam_sdk::{CacheOptions, Client, Code, Consistency, Error, Refusal};

const AGE_MAX: Duration = Duration::from_millis(200);

fn gets(ring: &Ring) -> usize {
    ring.count(|_, asked| matches!(asked, Asked::Get { .. }))
}

fn options() -> CacheOptions {
    CacheOptions { age_max: Duration::from_secs(60), ..CacheOptions::default() }
}

#[tokio::test]
async fn a_thousand_concurrent_misses_are_one_fetch() {
    let ring = Ring::start(1, 1, |ring, at, asked| match asked {
        Asked::Get { .. } => Some(Act::Later(Duration::from_millis(100), Box::new(ring.usual(at, asked)))),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("k", "v").await.unwrap();
    let cache = client.cached(options());
    let reads: Vec<_> = (0..1_000)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get("k").await })
        })
        .collect();
    for read in reads {
        assert_eq!(&read.await.unwrap().unwrap().unwrap().value[..], b"v");
    }
    assert_eq!(gets(&ring), 1);
    assert_eq!((cache.stats().misses, cache.stats().coalesced), (1, 999));
}

/// An entry's age counts from its fetch: a local read may be older than that already.
#[tokio::test]
async fn fetches_are_linearizable_whatever_the_clients_reads_are() {
    let ring = Ring::start(2, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.endpoints().join(",")).await.unwrap().consistency(Consistency::Local);
    client.put("k", "v").await.unwrap();
    client.get("k").await.unwrap();
    let local = ring.count(|_, asked| matches!(asked, Asked::Get { local: true, .. }));
    assert_eq!(local, 1, "the client's own reads are local");
    assert!(client.cached(options()).get("k").await.unwrap().is_some());
    assert_eq!(ring.count(|_, asked| matches!(asked, Asked::Get { local: true, .. })), local);
}

#[tokio::test]
async fn a_fetch_whose_caller_went_away_goes_on_for_those_who_wait() {
    let ring = Ring::start(1, 1, |ring, at, asked| match asked {
        Asked::Get { .. } => Some(Act::Later(Duration::from_millis(100), Box::new(ring.usual(at, asked)))),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let cache = client.cached(options());
    let first = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get("k").await }
    });
    while gets(&ring) == 0 {
        tokio::task::yield_now().await;
    }
    let second = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get("k").await }
    });
    tokio::task::yield_now().await;
    first.abort();
    assert!(second.await.unwrap().unwrap().is_none());
    assert_eq!(gets(&ring), 2);
}

#[tokio::test]
async fn what_is_asked_for_twice_is_kept_and_that_there_is_nothing_too() {
    let ring = Ring::start(1, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("k", "v").await.unwrap();
    let cache = client.cached(options());
    for _ in 0..10 {
        assert!(cache.get("k").await.unwrap().is_some());
        assert!(cache.get("nothing").await.unwrap().is_none());
    }
    assert_eq!(gets(&ring), 4, "the first time it is noted, the second it is kept");
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.negative_hits, stats.entries), (8, 8, 2));
    assert!(stats.bytes > 0);
    let no_negatives = client.cached(CacheOptions { negative: false, keep_at_once: true, ..options() });
    for _ in 0..3 {
        assert!(no_negatives.get("nothing").await.unwrap().is_none());
    }
    assert_eq!(gets(&ring), 7);
}

#[tokio::test]
async fn writes_through_the_cache_are_seen_and_so_are_those_that_were_given_up() {
    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::Put { value, .. } if value == b"refused" => {
            Some(Act::Refuse(Refusal::new(Code::BadRequest, "as the test wants it")))
        }
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let cache = client.cached(CacheOptions { keep_at_once: true, ..options() });
    for n in 0..20 {
        cache.put("k", n.to_string()).await.unwrap();
        assert_eq!(cache.get("k").await.unwrap().unwrap().value, n.to_string());
        assert_eq!(cache.get("k").await.unwrap().unwrap().value, n.to_string());
    }
    assert_eq!(gets(&ring), 20, "each once");
    cache.delete("k").await.unwrap();
    assert!(cache.get("k").await.unwrap().is_none());
    client.put("k", "past").await.unwrap();
    assert!(cache.get("k").await.unwrap().is_none(), "as the contract allows");
    cache.forget("k");
    assert_eq!(&cache.get("k").await.unwrap().unwrap().value[..], b"past");
    assert!(matches!(cache.put("k", "refused").await, Err(Error::Refused(_))));
    let before = gets(&ring);
    cache.get("k").await.unwrap();
    assert_eq!(gets(&ring), before + 1, "whatever became of a write, the next read asks");
}

#[tokio::test]
async fn a_write_during_a_fetch_is_not_hidden_by_what_was_fetched() {
    let ring = Ring::start(1, 1, |ring, at, asked| match asked {
        // Reads now, answers later.
        Asked::Get { .. } => Some(Act::Later(Duration::from_millis(100), Box::new(ring.usual(at, asked)))),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let cache = client.cached(CacheOptions { keep_at_once: true, ..options() });
    let old = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get("k").await }
    });
    while gets(&ring) == 0 {
        tokio::task::yield_now().await;
    }
    cache.put("k", "new").await.unwrap();
    assert!(old.await.unwrap().unwrap().is_none(), "it began before the write");
    assert_eq!(&cache.get("k").await.unwrap().unwrap().value[..], b"new");
}

#[tokio::test]
async fn nothing_is_older_than_the_bound() {
    // The value is the time at which the ring read it; it answers up to 150 ms later.
    let start = Instant::now();
    let ring = Ring::start(1, 1, move |_, _, asked| match asked {
        Asked::Get { .. } => {
            let now = start.elapsed().as_micros().to_string().into_bytes();
            Some(Act::Later(Duration::from_millis(fastrand::u64(..150)), Box::new(Act::Value(Some(now)))))
        }
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let cache = client.cached(CacheOptions { age_max: AGE_MAX, keep_at_once: true, ..options() });
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let mut oldest = Duration::ZERO;
                while start.elapsed() < Duration::from_secs(2) {
                    let asked = start.elapsed();
                    let key = format!("{}", fastrand::u8(..5));
                    let found = cache.get(&key).await.unwrap().unwrap();
                    let read_us: u64 = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
                    let read = Duration::from_micros(read_us);
                    // One that went to the ring itself takes its time, and what it found was true after it had been asked for.
                    if read < asked {
                        oldest = oldest.max(start.elapsed() - read);
                    }
                    tokio::time::sleep(Duration::from_micros(fastrand::u64(..2_000))).await;
                }
                oldest
            })
        })
        .collect();
    let mut oldest = Duration::ZERO;
    for reader in readers {
        oldest = oldest.max(reader.await.unwrap());
    }
    let stats = cache.stats();
    assert!(stats.hits > 100 && stats.misses > 20, "{stats:?}");
    // 20 ms for tasks that are woken late.
    assert!(oldest <= AGE_MAX + Duration::from_millis(20), "an answer was {oldest:?} old");
    assert!(oldest > AGE_MAX / 2, "{oldest:?}: this test would see nothing");
}

#[tokio::test]
async fn a_zipf_trace_is_answered_mostly_from_a_tenth_of_its_bytes() {
    static FETCHES: AtomicU64 = AtomicU64::new(0);
    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::Get { .. } => {
            FETCHES.fetch_add(1, Ordering::Relaxed);
            Some(Act::Value(Some(vec![7; 256])))
        }
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let keys = 10_000_u64;
    let entry = 256 + 6 + 96;
    let cache = client.cached(CacheOptions { bytes_max: keys * entry / 10, ..options() });
    // Zipf with exponent 0.99 by its cumulative weights.
    let mut sum = 0.0;
    let weights: Arc<Vec<f64>> = Arc::new(
        (1..=keys)
            .map(|rank| {
                sum += (rank as f64).powf(-0.99);
                sum
            })
            .collect(),
    );
    let mut dice = fastrand::Rng::with_seed(42);
    let reads = 60_000;
    for _ in 0..reads {
        let drawn = dice.f64() * sum;
        let at = weights.partition_point(|&weight| weight < drawn);
        cache.get(format!("{at:06}")).await.unwrap().unwrap();
    }
    let stats = cache.stats();
    let rate = (stats.hits * 100) as f64 / reads as f64;
    println!("hit rate {rate:.1} % of a Zipf(0.99) trace over 10,000 keys, room for 1,000; {stats:?}");
    assert!(rate > 50.0, "{rate:.1} %");
    assert!(stats.bytes <= keys * entry / 10, "{stats:?}");
    assert_eq!(FETCHES.load(Ordering::Relaxed), stats.misses);
}

#[tokio::test]
async fn a_cache_that_does_not_pay_goes_out_of_the_way() {
    let ring = Ring::start(1, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let cache = client.cached(options());
    for n in 0..20_000 {
        assert!(cache.get(format!("{n}")).await.unwrap().is_none());
    }
    let stats = cache.stats();
    assert!(stats.bypassed > 10_000, "{stats:?}");
    assert_eq!(stats.misses + stats.bypassed, 20_000);
}

/// A cache that answers nothing costs nothing, its watch included, and tries again with one.
#[tokio::test]
async fn a_cache_that_is_off_does_not_follow() {
    let ring = Ring::start(1, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("hot", "v").await.unwrap();
    let cache = client.cached(CacheOptions { age_max: Duration::from_millis(400), ..CacheOptions::default() });
    cache.follow().await.unwrap();
    assert_eq!(ring.watches.load(Ordering::SeqCst), 1);
    // Keys that nobody asks for twice, until it has enough of them, and until it tries again.
    let next = Arc::new(AtomicU64::new(0));
    let read = async |until: &dyn Fn() -> bool, key: &dyn Fn(u64) -> String| {
        let began = Instant::now();
        while !until() {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", cache.stats());
            let reads = (0..256).map(|_| {
                let (cache, key) = (cache.clone(), key(next.fetch_add(1, Ordering::Relaxed)));
                tokio::spawn(async move { cache.get(key).await })
            });
            for read in reads.collect::<Vec<_>>() {
                read.await.unwrap().unwrap();
            }
        }
    };
    let cold = |number: u64| format!("cold/{number}");
    read(&|| cache.stats().bypassed > 0, &cold).await;
    let off = Instant::now();
    while ring.watches.load(Ordering::SeqCst) > 0 {
        assert!(off.elapsed() < Duration::from_secs(5), "it is off, and follows");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let misses = cache.stats().misses;
    read(&|| cache.stats().misses > misses, &cold).await;
    assert_eq!(ring.watches.load(Ordering::SeqCst), 1, "it tries with what it would be");
    // Now it pays.
    let hits = cache.stats().hits;
    read(&|| cache.stats().hits > hits + 10_000, &|_| "hot".into()).await;
    assert_eq!(ring.watches.load(Ordering::SeqCst), 1);
}
