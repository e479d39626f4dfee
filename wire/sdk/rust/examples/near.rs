//! What a near-cache brings and costs on a real ring whose keys others write: for docs/performance.md.
//!
//! ```sh
//! ringbeam bench --keys 100000 --clients 1 --rate 1000 --seconds 60 &      # the others
//! cargo run --release -p ringbeam-sdk --example near -- ENDPOINTS MODE SECONDS KEYS EXPONENT
//! ```
//! MODE: `none` (the client alone), `cached` or `follows`. 16 tasks read keys of `ringbeam bench`, one after the other, KEYS of them by Zipf with
//! EXPONENT (0: all alike), for SECONDS after two. Prints reads, the rate of hits, fetches, and the CPU time of the client's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringbeam_sdk::{CacheOptions, Client};

type Failed = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize| words.get(at).map(String::as_str).ok_or("endpoints, mode, seconds, keys, exponent");
    let (mode, seconds, exponent) = (word(1)?, word(2)?.parse::<f64>()?, word(4)?.parse::<f64>()?);
    let client = Client::connect(word(0)?).await?;
    let cache = client.cached(CacheOptions::default());
    if mode == "follows" {
        cache.follow().await?;
    }
    // The cumulative weights of keys by their rank; ranks are spread over the numbers of keys.
    let mut sum = 0.0;
    let weights: Vec<f64> = (1..=word(3)?.parse()?)
        .map(|rank: u32| {
            sum += f64::from(rank).powf(-exponent);
            sum
        })
        .collect();
    let weights = Arc::new(weights);
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..16 {
        let (client, cache, weights, stop, count) =
            (client.clone(), cache.clone(), weights.clone(), stop.clone(), count.clone());
        let bare = mode == "none";
        tasks.push(tokio::spawn(async move {
            let mut turns = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let drawn = fastrand::f64() * sum;
                let rank = weights.partition_point(|weight| *weight < drawn) as u64;
                let key = format!("key{:013x}", rank * 7_919 % weights.len() as u64);
                let read = if bare { client.get(&key).await } else { cache.get(&key).await };
                read?;
                count.fetch_add(1, Ordering::Relaxed);
                // Hits do not wait for anything.
                turns += 1;
                if turns.is_multiple_of(64) {
                    tokio::task::yield_now().await;
                }
            }
            Ok::<(), ringbeam_sdk::Error>(())
        }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (cpu, reads, before) = (cpu_ns(), count.load(Ordering::Relaxed), cache.stats());
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let (cpu, reads) = (cpu_ns() - cpu, count.load(Ordering::Relaxed) - reads);
    let after = cache.stats();
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    let hits = after.hits + after.negative_hits + after.coalesced - before.hits - before.negative_hits - before.coalesced;
    let (fetches, bypassed) = (after.misses - before.misses, after.bypassed - before.bypassed);
    println!(
        "{mode}: {:.0} reads/s, {:.1} % hits, {:.0} fetches/s, {:.0}/s past it, {:.0} ns of CPU a read",
        reads as f64 / seconds,
        hits as f64 * 100.0 / reads.max(1) as f64,
        fetches as f64 / seconds,
        bypassed as f64 / seconds,
        cpu as f64 / reads.max(1) as f64,
    );
    Ok(())
}

/// CPU time of this thread so far.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}
