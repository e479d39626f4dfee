//! Simulated rings: real shards on a simulated outside (`shards/io/sim`), struck by faults, as functions of seeds.
//!
//! ```text
//!   world/      a ring of nodes, and what can be done to it       client.rs   who writes and reads
//! ```
//! `cargo test --test sim -- [SEED].. | FIRST to LAST [once]` tells two stories for each seed, and each twice, which must be the
//! same: a leader dies and comes back under load; a storm. With `lies`, disks lie, and the stories must not end well.

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
use ringbeam_shards::io::sim::{Crash, Random, Sim};
use ringbeam_wire::client::{Consistency, RequestBody, Role};

use client::{Client, Outcome};
use world::{Ring, RingSettings, peer_address};

/// Clients of the first story, and what each puts.
const CLIENTS: u32 = 4;
const PUTS: u32 = 250;

/// What a run was, to be compared with the same run again.
#[derive(Debug, PartialEq, Eq)]
struct Figures {
    hash: u64,
    steps: u64,
    simulated: Duration,
    calls: u32,
    acknowledged: usize,
    unknown: u32,
    faults: Vec<(&'static str, u64)>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given: Vec<u64> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let seeds = match given[..] {
        [] => (1..=3).collect(),
        [first, last] if arguments.iter().any(|argument| argument == "to") => (first..=last).collect(),
        _ => given,
    };
    let twice = !arguments.iter().any(|argument| argument == "once");
    if arguments.iter().any(|argument| argument == "lies") {
        for seed in seeds {
            println!("seed {seed}, a storm over lying disks, which must not end well: {:?}", storm_over(seed, 50_000));
        }
        return ExitCode::FAILURE;
    }
    for seed in seeds {
        for (name, tell) in [("leader dies", leader_dies_under_load as fn(u64) -> Figures), ("storm", storm)] {
            let began = Instant::now();
            let first = tell(seed);
            let wall = began.elapsed();
            let factor = first.simulated.as_secs_f64() / wall.as_secs_f64();
            println!("seed {seed}, {name}: {first:?}; {:.3} s wall, factor {factor:.1}", wall.as_secs_f64());
            if twice && tell(seed) != first {
                println!("seed {seed}, {name}: the second run was another one");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Clients that put unique keys, and what they have been told.
struct Load {
    calls: Rc<Cell<u32>>,
    unknown: Rc<Cell<u32>>,
    acknowledged: Rc<RefCell<Vec<String>>>,
    running: Rc<Cell<u32>>,
}

impl Load {
    fn start(ring: &mut Ring, clients: u32, puts: u32) -> Load {
        let load = Load {
            calls: Rc::default(),
            unknown: Rc::default(),
            acknowledged: Rc::default(),
            running: Rc::new(Cell::new(clients)),
        };
        for number in 0..clients {
            let host = ring.add_client_host();
            let mut client = Client::new(ring.client_addresses(), ring.shards());
            let (calls, unknown) = (load.calls.clone(), load.unknown.clone());
            let (acknowledged, running) = (load.acknowledged.clone(), load.running.clone());
            ring.start_client(host, || async move {
                for put in 0..puts {
                    let key = format!("{number}/{put}");
                    match client.put(key.as_bytes(), key.as_bytes(), Duration::from_secs(10)).await {
                        Outcome::Done(_) => acknowledged.borrow_mut().push(key),
                        Outcome::Unknown => unknown.set(unknown.get() + 1),
                        Outcome::Timeout | Outcome::Refused(_) => {}
                    }
                    calls.set(calls.get() + 1);
                    Sim::sleep(Duration::from_millis(5)).await;
                }
                running.set(running.get() - 1);
            });
        }
        load
    }

    fn is_over(&self) -> bool {
        self.running.get() == 0
    }

    /// Reads back what was acknowledged; what is missing, in words.
    fn missing(&self, ring: &mut Ring) -> Vec<String> {
        let host = ring.add_client_host();
        let mut client = Client::new(ring.client_addresses(), ring.shards());
        let (missing, over) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(false)));
        let (keys, found_missing, done) = (self.acknowledged.borrow().clone(), missing.clone(), over.clone());
        ring.start_client(host, || async move {
            for key in keys {
                match client.get(key.as_bytes(), Consistency::Linearizable, Duration::from_secs(20)).await {
                    Outcome::Done(Some(found)) if found.value == key.as_bytes() => {}
                    other => found_missing.borrow_mut().push(format!("{key} was acknowledged: {other:?}")),
                }
            }
            done.set(true);
        });
        if !ring.run_until(Duration::from_secs(600), |_| over.get()) {
            return vec!["reading does not end".to_string()];
        }
        missing.take()
    }

    /// Everybody is well: it ends, nothing is missing, all states are equal.
    fn settle(&self, ring: &mut Ring) -> Figures {
        // Some may have been asked to stop a moment ago.
        ring.supervise(true);
        ring.all_well();
        assert!(ring.run_until(Duration::from_secs(300), |_| self.is_over()), "clients do not end:\n{}", story(ring));
        let missing = self.missing(ring);
        assert!(missing.is_empty(), "{missing:?}\n{}", story(ring));
        let converged =
            ring.run_until(Duration::from_secs(60), |ring| ring.live().len() == ring.ids().len() && ring.converged());
        assert!(converged, "states differ:\n{}", story(ring));
        let world = &ring.world;
        Figures {
            hash: world.trace_hash(),
            steps: world.steps(),
            simulated: world.now(),
            calls: self.calls.get(),
            acknowledged: self.acknowledged.borrow().len(),
            unknown: self.unknown.get(),
            faults: world.faults().struck(),
        }
    }
}

fn founded(seed: u64, settings: RingSettings) -> Ring {
    let mut ring = Ring::new(seed, settings);
    let all_led = |ring: &Ring| (0..ring.shards()).all(|shard| ring.leader(shard).is_some());
    assert!(ring.run_until(Duration::from_secs(10), all_led), "nobody leads:\n{}", story(&ring));
    ring
}

/// A ring of three is founded, clients write, the leader loses its power and comes back: what was acknowledged is there.
fn leader_dies_under_load(seed: u64) -> Figures {
    let mut ring = founded(seed, RingSettings::voters(3, 1));
    let load = Load::start(&mut ring, CLIENTS, PUTS);
    let third = load.calls.clone();
    assert!(ring.run_until(Duration::from_secs(60), |_| third.get() > CLIENTS * PUTS / 3), "{}", story(&ring));
    if let Some(leader) = ring.leader(0) {
        ring.crash(leader, Crash::PowerLoss);
    }
    ring.run_for(Duration::from_secs(2));
    load.settle(&mut ring)
}

/// Faults of every kind that the ring promises to survive, for half a minute; then all is well again.
fn storm(seed: u64) -> Figures {
    storm_over(seed, 0)
}

/// A storm over disks that call a part of their writes durable that are not.
fn storm_over(seed: u64, lies_ppm: u64) -> Figures {
    let mut dice = Random::new(seed, 42);
    let voters = 3 + 2 * dice.below(3) as usize;
    let mut settings = RingSettings::voters(voters, 1 + dice.below(2) as u32);
    if dice.below(3) == 0 {
        settings.roles[voters - 1] = Role::TieBreaker;
    }
    settings.disk.lies_ppm = lies_ppm;
    let mut ring = founded(seed, settings);
    let load = Load::start(&mut ring, CLIENTS, 4 * PUTS);
    let ids = ring.ids();
    let added = (dice.below(3) == 0).then(|| add_observer(&mut ring, voters as u64 + 1));
    for _ in 0..30 {
        ring.run_for(Duration::from_millis(100 + dice.below(2_000)));
        let (one, other) = (ids[dice.below(voters as u64) as usize], ids[dice.below(voters as u64) as usize]);
        match dice.below(14) {
            0 => ring.crash(one, Crash::Kill),
            1 => ring.crash(one, Crash::PowerLoss),
            2 => ids.iter().for_each(|id| ring.crash(*id, Crash::PowerLoss)),
            3 => ids.iter().for_each(|id| ring.crash(*id, Crash::Reboot)),
            4 => ring.stop(one),
            5 => ring.pause(one),
            6 => ring.partition(&[one]),
            7 if one != other => ring.cut_one_way(one, other),
            8 if one != other => ring.clog(one, other, Duration::from_millis(dice.below(3_000))),
            9 if one != other => ring.reset_connections(one, other),
            10 => ring.disk(one).fail_syncs(1),
            11 => ring.disk(one).set(|disk| disk.slowness = 1 + dice.below(200)),
            12 => {
                let used = ring.disk(one).used();
                ring.disk(one).set(|disk| disk.capacity = used + dice.below(1 << 20));
            }
            _ => ring.world.set_drift(ring.host(one), dice.below(20_000) as i64 - 10_000),
        }
        if dice.below(3) == 0 {
            ring.run_for(Duration::from_millis(dice.below(1_000)));
            ring.all_well();
        }
    }
    if let Some(added) = added {
        ring.all_well();
        assert!(ring.run_until(Duration::from_secs(300), |_| added.get()), "no observer was added:\n{}", story(&ring));
    }
    load.settle(&mut ring)
}

/// An empty node that is added to every shard as an observer; true once it has been.
fn add_observer(ring: &mut Ring, node: u64) -> Rc<Cell<bool>> {
    ring.add_newcomer(node, Role::Observer);
    let (host, shards) = (ring.add_client_host(), ring.shards());
    let mut operator = Client::new(ring.client_addresses(), shards);
    let added = Rc::new(Cell::new(false));
    let done = added.clone();
    ring.start_client(host, || async move {
        let peer = peer_address(node);
        for shard in 0..shards {
            let body = RequestBody::RingAdd { node, peer: &peer };
            if operator.change_ring(shard, &body, Duration::from_secs(300)).await.is_err() {
                return;
            }
        }
        done.set(true);
    });
    added
}

fn story(ring: &Ring) -> String {
    let mut lines = ring.world.story();
    for view in ring.views() {
        lines.push(format!(
            "node {} shard {}: {} of {:?} in {:?}; last {:?}, committed {:?}, applied {}, snapshot {:?}, purged {:?}; {:?} {:?}",
            view.node,
            view.shard,
            view.raft_state,
            view.leader,
            view.vote,
            view.last,
            view.committed,
            view.applied_index,
            view.snapshot,
            view.purged,
            view.fault,
            view.full,
        ));
    }
    for node in ring.ids() {
        lines.push(format!("node {node}: ended {:?}, refusing {:?}", ring.ended(node), ring.refusing(node)));
    }
    lines.join("\n")
}
