//! The planner's example: JSON states of 4 KB that small operations change, by merge patches against whole puts, on a real ring.
//!
//! ```sh
//! target/release/ringbeam dev --idle --dir /var/tmp/ring --json /var/tmp/ring.json &
//! RINGBEAM_ENDPOINTS=$(jq -r '.endpoints | join(",")' /var/tmp/ring.json) cargo bench --bench planner -- [sessions] [operations] [rounds]
//! ```
//!
//! Each session is a task with one operation in flight: `dig_started`, `tiles_revealed`, `loot_claimed`, in turn. It keeps its own state,
//! as a planner does: what it puts is all of it, what it patches is the difference, and at the end both must be what a get gives.
//!
//! A round is the same operations once in each way. Printed per way: operations a second, latency p50 and p99, and bytes of the leader's
//! log (`log_bytes` of its status, in blocks of 4 KiB, frames and sessions included).

use std::time::{Duration, Instant};

use ringbeam_sdk::{Client, Error};
use serde_json::{Value, json};

const TILES: usize = 120;

/// How a state is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    WholePuts,
    MergePatches,
}

struct Planner {
    key: String,
    state: Value,
    operations: usize,
}

/// What a way came to.
struct Took {
    elapsed: Duration,
    latencies_us: Vec<u64>,
    log_bytes: u64,
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let (sessions, operations, rounds) = (number(0, 64), number(1, 100), number(2, 3));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Err(why) = runtime.block_on(run(sessions, operations, rounds)) {
        eprintln!("planner: {why}");
        std::process::exit(1);
    }
}

async fn run(sessions: usize, operations: usize, rounds: usize) -> Result<(), Error> {
    let endpoints = std::env::var("RINGBEAM_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:7701".into());
    let client = Client::builder().endpoints([endpoints]).timeout(Duration::from_secs(20)).connect().await?;
    let bytes = Planner::new(Way::WholePuts, 0).state.to_string().len();
    println!("{sessions} sessions, {operations} operations each, states of {bytes} bytes");
    for round in 1..=rounds {
        let [puts, patches] = [Way::WholePuts, Way::MergePatches].map(|way| (way, &client));
        let puts = measure(puts.0, puts.1, sessions, operations).await?;
        let patches = measure(patches.0, patches.1, sessions, operations).await?;
        println!("round {round}: whole puts    {}", puts.told(sessions * operations));
        println!("round {round}: merge patches {}", patches.told(sessions * operations));
        println!("round {round}: {:.1} times fewer bytes of log", puts.log_bytes as f64 / patches.log_bytes.max(1) as f64);
    }
    Ok(())
}

async fn measure(way: Way, client: &Client, sessions: usize, operations: usize) -> Result<Took, Error> {
    let mut planners: Vec<Planner> = (0..sessions).map(|number| Planner::new(way, number)).collect();
    for (number, planner) in planners.iter_mut().enumerate() {
        client.put(&planner.key, planner.state.to_string()).await?;
        // Each is at another place, so that they are not all folded at once.
        for _ in 0..number % 16 {
            let patch = planner.operate();
            client.merge_patch(&planner.key, patch.to_string()).await?;
        }
    }
    let before = log_bytes(client).await?;
    let began = Instant::now();
    let tasks: Vec<_> = planners
        .drain(..)
        .map(|mut planner| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut latencies_us = Vec::with_capacity(operations);
                for _ in 0..operations {
                    let patch = planner.operate();
                    let sent = Instant::now();
                    match way {
                        Way::WholePuts => client.put(&planner.key, planner.state.to_string()).await?,
                        Way::MergePatches => client.merge_patch(&planner.key, patch.to_string()).await?,
                    };
                    latencies_us.push(sent.elapsed().as_micros() as u64);
                }
                Ok::<_, Error>((planner, latencies_us))
            })
        })
        .collect();
    let mut latencies_us = Vec::new();
    for task in tasks {
        let (planner, own) = task.await.expect("no task panics")?;
        latencies_us.extend(own);
        planners.push(planner);
    }
    let elapsed = began.elapsed();
    let log_bytes = log_bytes(client).await?.checked_sub(before).expect("no purge meanwhile: fewer operations, please");
    for planner in &planners {
        let found = client.get(&planner.key).await?.expect("it was put");
        let value: Value = serde_json::from_slice(&found.value).expect("it is JSON");
        assert_eq!(value, planner.state, "{} is what its planner has", planner.key);
    }
    latencies_us.sort_unstable();
    Ok(Took { elapsed, latencies_us, log_bytes })
}

/// Of all shards' leaders.
async fn log_bytes(client: &Client) -> Result<u64, Error> {
    let mut bytes = 0;
    for (node, _, status) in client.status().await {
        let status = status?;
        bytes += if status.leader == node { status.log_bytes } else { 0 };
    }
    Ok(bytes)
}

impl Took {
    fn told(&self, operations: usize) -> String {
        let at = |part: f64| self.latencies_us[((self.latencies_us.len() - 1) as f64 * part) as usize];
        let each = self.log_bytes as f64 / operations as f64;
        let rate = operations as f64 / self.elapsed.as_secs_f64();
        format!("{rate:8.0}/s, p50 {:6} us, p99 {:6} us, {each:6.0} bytes of log each", at(0.5), at(0.99))
    }
}

impl Planner {
    fn new(way: Way, number: usize) -> Planner {
        let tiles: serde_json::Map<String, Value> = (0..TILES)
            .map(|tile| (format!("{},{}", tile / 12, tile % 12), json!({ "seen": false, "kind": "hidden" })))
            .collect();
        let loot: serde_json::Map<String, Value> = (0..8).map(|chest| (format!("chest_{chest}"), json!(chest * 5))).collect();
        let state = json!({ "session": number, "gold": 0, "dig": null, "tiles": tiles, "loot": loot });
        Planner { key: format!("planner:{way:?}:{number}"), state, operations: 0 }
    }

    /// Does the next operation; the difference.
    fn operate(&mut self) -> Value {
        let number = self.operations;
        self.operations += 1;
        let tile = format!("{},{}", number * 7 % TILES / 12, number * 7 % 12);
        match number % 3 {
            0 => {
                self.state["dig"] = json!({ "tile": tile, "started_ms": number * 250 });
                json!({ "dig": self.state["dig"] })
            }
            1 => {
                self.state["tiles"][&tile] = json!({ "seen": true, "kind": "rock" });
                json!({ "tiles": { &tile: { "seen": true, "kind": "rock" } } })
            }
            _ => {
                let chest = format!("chest_{}", number % 8);
                self.state["loot"][&chest] = json!(number);
                self.state["gold"] = json!(number * 3);
                json!({ "loot": { chest: number }, "gold": number * 3 })
            }
        }
    }
}
