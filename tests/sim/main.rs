//! Simulated rings: real shards on a simulated outside (`shards/io/sim`), struck by faults, as functions of seeds.
//!
//! ```text
//!   world/      a ring of nodes, and what can be done to it       client.rs   who writes and reads
//! ```
//! `cargo test --test sim -- [SEED]..` runs the first story for each seed, twice: a leader dies and comes back under load.

// The campaign uses what the first story does not.
#[allow(dead_code)]
mod client;
#[allow(dead_code)]
mod world;

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringbeam_shards::io::Env;
use ringbeam_shards::io::sim::{Crash, Sim};
use ringbeam_wire::client::Consistency;

use client::{Client, Outcome};
use world::{Ring, RingSettings};

/// Clients of the first story, and what each puts.
const CLIENTS: u32 = 4;
const PUTS: u32 = 250;

/// What a run was, to be compared with the same run again.
#[derive(Debug, PartialEq, Eq)]
struct Figures {
    hash: u64,
    steps: u64,
    simulated: Duration,
    acknowledged: u32,
    unknown: u32,
    faults: Vec<(&'static str, u64)>,
}

fn main() -> ExitCode {
    let given: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let seeds = if given.is_empty() { vec![1, 2, 3] } else { given };
    for seed in seeds {
        let began = Instant::now();
        let first = leader_dies_under_load(seed);
        let wall = began.elapsed();
        let factor = first.simulated.as_secs_f64() / wall.as_secs_f64();
        println!("seed {seed}: {first:?}; {:.3} s wall, factor {factor:.1}", wall.as_secs_f64());
        if leader_dies_under_load(seed) != first {
            println!("seed {seed}: the second run was another one");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// A ring of three is founded, clients write, the leader loses its power and comes back: what was acknowledged is there.
fn leader_dies_under_load(seed: u64) -> Figures {
    let mut ring = Ring::new(seed, RingSettings::voters(3, 1));
    assert!(ring.run_until(Duration::from_secs(10), |ring| ring.leader(0).is_some()), "{}", story(&ring));
    let (acknowledged, unknown, left) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), Rc::new(Cell::new(CLIENTS)));
    let broken = Rc::new(RefCell::new(Vec::new()));
    for number in 0..CLIENTS {
        let host = ring.add_client_host();
        let mut client = Client::new(ring.client_addresses(), ring.shards());
        let (acknowledged, unknown, left, broken) = (acknowledged.clone(), unknown.clone(), left.clone(), broken.clone());
        ring.start_client(host, || async move {
            let mut acked = Vec::new();
            for put in 0..PUTS {
                let key = format!("{number}/{put}");
                match client.put(key.as_bytes(), key.as_bytes(), Duration::from_secs(10)).await {
                    Outcome::Done(_) => acked.push(key),
                    Outcome::Unknown => unknown.set(unknown.get() + 1),
                    Outcome::Timeout | Outcome::Refused(_) => {}
                }
                acknowledged.set(acknowledged.get() + 1);
                Sim::sleep(Duration::from_millis(5)).await;
            }
            for key in acked {
                match client.get(key.as_bytes(), Consistency::Linearizable, Duration::from_secs(10)).await {
                    Outcome::Done(Some(found)) if found.value == key.as_bytes() => {}
                    other => broken.borrow_mut().push(format!("{key} was acknowledged: {other:?}")),
                }
            }
            left.set(left.get() - 1);
        });
    }
    let done = acknowledged.clone();
    assert!(ring.run_until(Duration::from_secs(60), |_| done.get() > CLIENTS * PUTS / 3), "{}", story(&ring));
    let leader = ring.leader(0);
    if let Some(leader) = leader {
        ring.crash(leader, Crash::PowerLoss);
    }
    ring.run_for(Duration::from_secs(2));
    ring.all_well();
    assert!(ring.run_until(Duration::from_secs(120), |_| left.get() == 0), "clients do not end:\n{}", story(&ring));
    assert!(broken.borrow().is_empty(), "{:?}\n{}", broken.borrow(), story(&ring));
    assert!(ring.run_until(Duration::from_secs(30), Ring::converged), "states differ:\n{}", story(&ring));
    let world = &ring.world;
    Figures {
        hash: world.trace_hash(),
        steps: world.steps(),
        simulated: world.now(),
        acknowledged: acknowledged.get(),
        unknown: unknown.get(),
        faults: world.faults().struck(),
    }
}

fn story(ring: &Ring) -> String {
    let views: Vec<String> = ring.views().iter().map(|view| format!("{view:?}")).collect();
    format!("{}\n{}", ring.world.story().join("\n"), views.join("\n"))
}
