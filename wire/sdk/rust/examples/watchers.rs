//! How long a write takes to its watchers, and what watchers cost the writers: for docs/performance.md.
//!
//! ```sh
//! cargo run --release -p ringbeam-sdk --example watchers -- ENDPOINTS WATCHERS STOPPED SECONDS RATE [shared]
//! ```
//! Opens WATCHERS watches at the first endpoint, a hundred on a connection, each of a key of its own (or, `shared`, all of one prefix);
//! STOPPED of them are on connections that are never read. Then writes RATE values of 256 bytes a second, at times that are set
//! beforehand, to random keys that are watched; prints how long a write took from when it was due, and from when it was sent (timers are
//! late by up to 2 ms here), which one took longest, and how long after it was sent, and after its acknowledgement (or before it: then
//! 0), the last of its watchers had it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ringbeam_sdk::Client;
use ringbeam_wire::client::{Encoder, Hello, ReplyBody, RequestBody, Watch, parse_reply};
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::preamble::{Kind, Preamble, VERSION};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ON_A_CONNECTION: usize = 100;

type Failed = Box<dyn std::error::Error + Send + Sync>;
/// When each write was acknowledged, when its last watcher had it, and when it was sent, microseconds since the beginning.
type Times = Arc<Vec<[AtomicU64; 3]>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0);
    let (watchers, stopped, seconds, rate) = (number(1), number(2), number(3), number(4).max(1));
    let shared = words.get(5).is_some_and(|word| word == "shared");
    let endpoints = words.first().ok_or("endpoints, watchers, stopped, seconds, rate")?;
    let first = endpoints.split(',').next().ok_or("an endpoint")?.to_string();
    let client = Client::connect(endpoints).await?;
    let began = Instant::now();
    let times: Times = Arc::new((0..seconds * rate).map(|_| [const { AtomicU64::new(0) }; 3]).collect());
    let mut idle = Vec::new();
    for from in (0..watchers).step_by(ON_A_CONNECTION) {
        let count = ON_A_CONNECTION.min(watchers - from);
        let mut stream = open(&first, from, count, shared).await?;
        // Half of them stopped means every second connection.
        let stops = stopped > 0 && (from / ON_A_CONNECTION).is_multiple_of((watchers / stopped).max(1));
        if stops {
            idle.push(stream);
            continue;
        }
        let times = times.clone();
        tokio::spawn(async move {
            let mut decoder = Decoder::new(1 << 20);
            while let Ok(bytes) = stream.read(decoder.space()).await {
                if bytes == 0 {
                    return;
                }
                decoder.filled(bytes);
                while let Ok(Some(frame)) = decoder.next() {
                    let Ok(reply) = parse_reply(&frame) else { return };
                    let ReplyBody::Events(events) = reply.body else { continue };
                    let now = began.elapsed().as_micros() as u64;
                    for event in &events.events {
                        let write = event.value.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
                        times[write as usize][1].fetch_max(now, Ordering::Relaxed);
                    }
                }
            }
        });
    }
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let keys = watchers.max(1);
    let start = Instant::now() + Duration::from_millis(200);
    let mut tasks = Vec::new();
    for write in 0..seconds * rate {
        let due = start + Duration::from_micros(write as u64 * 1_000_000 / rate as u64);
        tokio::time::sleep_until(due.into()).await;
        let (client, times, latencies) = (client.clone(), times.clone(), latencies.clone());
        let key = format!("w/{:06}", write.wrapping_mul(7919) % keys);
        tasks.push(tokio::spawn(async move {
            let mut value = vec![b'.'; 256];
            value[..8].copy_from_slice(&(write as u64).to_le_bytes());
            let sent = began.elapsed().as_micros() as u64;
            times[write][2].store(sent, Ordering::Relaxed);
            if client.put(key, value).await.is_ok() {
                let now = began.elapsed().as_micros() as u64;
                times[write][0].store(now, Ordering::Relaxed);
                let took = (due.elapsed().as_micros() as u64, now - sent, write);
                latencies.lock().unwrap_or_else(PoisonError::into_inner).push(took);
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let latencies = std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner));
    let slowest = latencies.iter().max_by_key(|(_, took, _)| *took).map_or(0, |(_, _, write)| *write);
    let told = times.iter().map(|times| times.each_ref().map(|time| time.load(Ordering::Relaxed)));
    let told: Vec<[u64; 3]> = told.filter(|[_, told, _]| *told > 0).collect();
    println!("{watchers} watchers, {stopped} stopped: {} writes; the slowest is number {slowest}", latencies.len());
    println!("  from due:                   {}", percentiles(latencies.iter().map(|(due, _, _)| *due)));
    println!("  from sent:                  {}", percentiles(latencies.iter().map(|(_, took, _)| *took)));
    println!(
        "  {} told, from sent: {}",
        told.len(),
        percentiles(told.iter().map(|[_, told, sent]| told.saturating_sub(*sent)))
    );
    println!("  told, from acknowledged:    {}", percentiles(told.iter().map(|[acked, told, _]| told.saturating_sub(*acked))));
    drop(idle);
    Ok(())
}

async fn open(address: &str, from: usize, count: usize, shared: bool) -> Result<TcpStream, Failed> {
    let mut stream = TcpStream::connect(address).await?;
    let (mut encoder, mut out) =
        (Encoder::new(), Preamble { version: VERSION, kind: Kind::Client, shard: 0 }.encode().to_vec());
    let hello = Hello { version_min: VERSION, version_max: VERSION, features: 0, ring: 0, client: "watchers" };
    encoder.request(&mut out, 1, 0, &RequestBody::Hello(hello));
    for number in from..from + count {
        let key = format!("w/{number:06}").into_bytes();
        let until = [&key[..], b"\0"].concat();
        let own = Watch { from: &key, until: &until, ..Watch::default() };
        let watch = if shared { Watch { from: b"w/", until: b"w0", ..own } } else { own };
        encoder.request(&mut out, 2 + number as u64, 0, &RequestBody::Watch(watch));
    }
    stream.write_all(&out).await?;
    let (mut decoder, mut answered) = (Decoder::new(1 << 20), 0);
    while answered < count + 1 {
        let bytes = stream.read(decoder.space()).await?;
        if bytes == 0 {
            return Err("the node ended the connection".into());
        }
        decoder.filled(bytes);
        while let Some(frame) = decoder.next()? {
            match parse_reply(&frame)?.body {
                ReplyBody::Refused(why) => return Err(why.into()),
                _ => answered += 1,
            }
        }
    }
    Ok(stream)
}

fn percentiles(times: impl Iterator<Item = u64>) -> String {
    let mut times: Vec<u64> = times.collect();
    times.sort_unstable();
    let at = |part: f64| times.get(((times.len().saturating_sub(1)) as f64 * part) as usize).copied().unwrap_or(0);
    format!("p50 {} us, p99 {} us, most {} us", at(0.5), at(0.99), at(1.0))
}
