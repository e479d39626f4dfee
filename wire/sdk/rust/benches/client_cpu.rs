//! What a put costs the client, and what a near-cache costs that has nothing to answer with: CPU of the client's thread per put, against a fake node on a thread of its own that answers
//! every put at once. `cargo bench -p ringbeam-sdk --bench client_cpu [-- SECONDS [IN_FLIGHT ...]]`
//!
//! The figure is the time that the kernel accounts to the client's thread (user and system, /proc/thread-self/schedstat), so
//! it holds beside a server on the same core. It includes the caller's own loop and the SDK's sends and receives.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ringbeam_sdk::{CacheOptions, Client, SlotRange};
use ringbeam_wire::client::{Encoder, Member, ReplyBody, RequestBody, Topology, Value, Welcome, Written, parse_request};
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::slots::SLOTS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::task::LocalSet;

fn main() {
    let numbers: Vec<f64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let seconds = numbers.first().copied().unwrap_or(2.0);
    let mut in_flights: Vec<u32> = numbers.iter().skip(1).map(|&number| number as u32).collect();
    if in_flights.is_empty() {
        in_flights = vec![1, 16, 64, 256];
    }
    let (address, bound) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        LocalSet::new().block_on(&runtime, serve(address));
    });
    let address = bound.recv().expect("the fake node binds");
    println!("{:>9} {:>12} {:>14} {:>14}", "in flight", "puts/s", "client ns/put", "mean latency us");
    for &in_flight in &in_flights {
        let mut runs: Vec<(f64, f64)> = (0..3).map(|_| run(&address, in_flight, seconds / 3.0, Op::Put)).collect();
        runs.sort_by(|a, b| a.1.total_cmp(&b.1));
        let (rate, cpu) = runs[1];
        println!("{in_flight:>9} {rate:>12.0} {cpu:>14.0} {:>14.1}", f64::from(in_flight) / rate * 1e6);
    }
    println!("{:>9} {:>14} {:>20} {:>8}", "in flight", "client ns/get", "through a near-cache", "cost");
    for in_flight in in_flights {
        // In turns, so that both have the same machine.
        let pairs: Vec<(f64, f64)> = (0..5)
            .map(|_| {
                (run(&address, in_flight, seconds / 3.0, Op::Get).1, run(&address, in_flight, seconds / 3.0, Op::Cached).1)
            })
            .collect();
        let median = |mut all: Vec<f64>| {
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let (plain, cached) =
            (median(pairs.iter().map(|pair| pair.0).collect()), median(pairs.iter().map(|pair| pair.1).collect()));
        println!("{in_flight:>9} {plain:>14.0} {cached:>20.0} {:>7.1}%", (cached / plain - 1.0) * 100.0);
    }
}

/// What the tasks do. Every read is of a key that was never read before: a near-cache has nothing to answer with.
#[derive(Clone, Copy)]
enum Op {
    Put,
    Get,
    Cached,
}

/// Calls per second and client CPU nanoseconds per call.
fn run(address: &str, in_flight: u32, seconds: f64, op: Op) -> (f64, f64) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let client = Client::connect(address).await.expect("the fake node answers");
        let cache = client.cached(CacheOptions::default());
        let puts = Rc::new(Cell::new(0_u64));
        let until = Rc::new(Cell::new(Instant::now() + Duration::from_secs(3600)));
        let tasks: Vec<_> = (0..in_flight)
            .map(|task| {
                let (client, cache, puts, until) = (client.clone(), cache.clone(), puts.clone(), until.clone());
                tokio::task::spawn_local(async move {
                    let key = format!("key/{task:020}");
                    let value = [7; 256];
                    let mut last = 0;
                    while last % 64 != 0 || Instant::now() < until.get() {
                        match op {
                            Op::Put => drop(client.put(&key, value).await.expect("the fake node writes")),
                            Op::Get => drop(client.get(format!("{task}/{last:020}")).await.expect("the fake node answers")),
                            Op::Cached => drop(cache.get(format!("{task}/{last:020}")).await.expect("the fake node answers")),
                        }
                        last += 1;
                        puts.set(puts.get() + 1);
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (before, cpu_before, started) = (puts.get(), cpu_ns(), Instant::now());
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        let (done, cpu, took) = (puts.get() - before, cpu_ns() - cpu_before, started.elapsed());
        until.set(Instant::now());
        for task in tasks {
            let _ = task.await;
        }
        (done as f64 / took.as_secs_f64(), cpu as f64 / done as f64)
    })
}

/// CPU time of this thread so far.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says what a thread used");
    text.split(' ').next().and_then(|first| first.parse().ok()).expect("schedstat begins with a number")
}

async fn serve(address: mpsc::Sender<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let own = listener.local_addr().expect("a bound socket has an address").to_string();
    address.send(own.clone()).expect("main waits for the address");
    while let Ok((stream, _)) = listener.accept().await {
        tokio::task::spawn_local(converse(stream, own.clone()));
    }
}

async fn converse(mut stream: TcpStream, own: String) {
    stream.set_nodelay(true).expect("a TCP socket");
    let mut preamble = [0; 16];
    let _ = stream.read_exact(&mut preamble).await;
    let (mut decoder, mut encoder, mut out) = (Decoder::new(1 << 20), Encoder::new(), Vec::new());
    loop {
        match stream.read(decoder.space()).await {
            Ok(bytes) if bytes > 0 => decoder.filled(bytes),
            _ => return,
        }
        while let Ok(Some(payload)) = decoder.next() {
            let Ok(request) = parse_request(&payload) else {
                return;
            };
            encoder.reply(&mut out, request.id, &answer(&request.body, &own));
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}

fn answer(body: &RequestBody<'_>, own: &str) -> ReplyBody<'static> {
    match body {
        RequestBody::Hello(_) => ReplyBody::Welcome(Welcome {
            version: 1,
            ring: 1,
            node: 1,
            value_bytes_max: 1 << 20,
            session_window: 4096,
            ..Welcome::default()
        }),
        RequestBody::GetTopology => ReplyBody::Topology(Topology {
            epoch: 1,
            ring: 1,
            leader: 1,
            term: 1,
            slots: vec![SlotRange { first: 0, end: SLOTS, shard: 0 }],
            members: vec![Member { node: 1, client: own.into(), ..Member::default() }],
            ..Topology::default()
        }),
        RequestBody::Get(_) => ReplyBody::Value(Value { found: true, value: &[7; 256], ..Value::default() }),
        RequestBody::OpenSession => ReplyBody::SessionOpened { session: 1, lifetime_ms: 60_000 },
        _ => ReplyBody::Written(Written::default()),
    }
}
