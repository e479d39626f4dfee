//! The load of a plan: clients that write and read, and what they are told, as a history.
//!
//! ```text
//!   host "client-c" ─▶ tasks, as many as it has operations in flight ─▶ Client (exactly once), and one for local reads
//!                        each operation: invoke in the history ─▶ ask ─▶ complete
//! ```
//! A swap is a put on the condition that the key is as the client has just read it: a transaction. One whose condition did not hold has
//! certainly not happened; what it says of its condition is checked here.
//!
//! **Invariants**
//! - Every put has a value that no other has.
//! - An operation that its task did not see the end of stays open: its outcome is unknown.
//! - While the load is off no operation begins; those under way end by their deadlines.
//!
//! A put or delete without an answer stays open until its client has asked what became of it, which every second one does.
//! Beside it counters are added to (`load/counters.rs`), and keys that only one client has are extended and erased (`load/owned.rs`).
//!
//! **Not here**: what the answers should have been (`check/`).

mod counters;
pub mod owned;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ringbeam_shards::io::Env;
use ringbeam_shards::io::sim::{Sim, world_now_ns};
use ringbeam_wire::client::{Consistency, Written};
use ringbeam_wire::slots::{shard_of, slot_of};

use counters::{COUNTERS, Counting, Tally};
use owned::{Owners, Owning};

use crate::check::age::Answered;
use crate::client::{Client, Found, Outcome as Told};
use crate::history::{History, Op, Outcome, Revision, Tag, Ticket, value_bytes, value_of};
use crate::lives;
use crate::plan::Workload;
use crate::random::Random;
use crate::readers::place;
use crate::world::Ring;

/// Longest value that the simulated nodes take.
const VALUE_BYTES_MAX: u64 = 16 << 10;

/// One put in so many is a swap.
const SWAPS_ONE_IN: u64 = 4;

/// How often a client looks whether the load is on.
pub const LOOK: Duration = Duration::from_millis(20);

/// What clients share with whoever drives the world.
pub struct Load {
    pub history: Rc<RefCell<History>>,
    /// Answers to reads with a contract.
    pub answered: Rc<RefCell<Vec<Answered>>>,
    on: Rc<Cell<bool>>,
    addresses: Rc<RefCell<Vec<String>>>,
    next_value: Rc<Cell<u64>>,
    shards: u32,
    /// All pauses are so many times as long.
    pace: u64,
    under_way: Rc<Cell<u32>>,
    /// What was asked of counters.
    pub tally: Tally,
    /// Clients with keys of their own.
    pub owners: Owners,
}

impl Load {
    /// Starts the clients of a plan; the load is on.
    pub fn start(ring: &mut Ring, seed: u64, workload: &Workload) -> Load {
        let load = Load {
            history: Rc::default(),
            answered: Rc::default(),
            on: Rc::new(Cell::new(true)),
            addresses: Rc::new(RefCell::new(ring.client_addresses())),
            next_value: Rc::default(),
            shards: ring.shards(),
            pace: workload.pace,
            under_way: Rc::default(),
            tally: Rc::default(),
            owners: Rc::default(),
        };
        let tasks = u64::from(workload.clients) * u64::from(workload.in_flight);
        let pause_us_min = tasks * 1_000_000 / workload.rate_max;
        for number in 0..workload.clients {
            let host = ring.add_client_host();
            let slots: Vec<Slot> = (0..workload.in_flight)
                .map(|slot| {
                    let id = number * workload.in_flight + slot;
                    let random = Random::new(seed).fork("load").fork(&id.to_string());
                    Slot { id, random, workload: workload.clone(), pause_us_min, shared: load.share() }
                })
                .collect();
            let random = Random::new(seed).fork("counters").fork(&number.to_string());
            let limit = Duration::from_millis(workload.timeout_ms);
            let counting = Counting { random, limit, shared: load.share() };
            let random = Random::new(seed).fork("owned").fork(&number.to_string());
            let owning = Owning::new(random, limit, load.share());
            ring.start_client(host, || async move {
                for slot in slots {
                    Sim::spawn(slot.run());
                }
                Sim::spawn(counting.run());
                Sim::spawn(owning.run());
            });
        }
        load
    }

    /// Starts the clients whose keys go: on when these are, at the same nodes.
    pub fn start_lives(&self, ring: &mut Ring, seed: u64) -> lives::Gone {
        let addresses = self.addresses.clone();
        lives::start(ring, seed, self.shards, self.pace, &self.on, move || addresses.borrow().clone())
    }

    /// The same load, for one more client.
    pub fn share(&self) -> Load {
        Load {
            history: self.history.clone(),
            answered: self.answered.clone(),
            on: self.on.clone(),
            addresses: self.addresses.clone(),
            next_value: self.next_value.clone(),
            shards: self.shards,
            pace: self.pace,
            under_way: self.under_way.clone(),
            tally: self.tally.clone(),
            owners: self.owners.clone(),
        }
    }

    /// Clients begin operations, or not.
    pub fn turn(&self, on: bool) {
        self.on.set(on);
    }

    /// A task's next turn, after a pause and when the load is on, at the nodes that there are then.
    async fn turn_of(&self, client: &mut Client, pause: Duration) {
        Sim::sleep(pause * self.pace as u32).await;
        while !self.on.get() {
            Sim::sleep(LOOK).await;
        }
        client.know(&self.addresses.borrow().clone());
    }

    /// What the counters are in the states of live nodes, at a ring at rest.
    pub fn counters(&self, ring: &Ring) -> BTreeMap<u32, i64> {
        let probes: Vec<_> = ring.live().into_iter().flat_map(|node| ring.probes(node)).collect();
        let value = |counter| probes.iter().find_map(|probe| probe.read("", counters::key(counter).as_bytes()));
        (0..COUNTERS).filter_map(|counter| Some((counter, counters::number(&value(counter)?.0)))).collect()
    }

    /// Whether they do.
    pub fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Where the ring is.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.borrow().clone()
    }

    /// Shards of the ring.
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// Operations that have begun and not ended.
    pub fn under_way(&self) -> u32 {
        self.under_way.get()
    }

    /// The ring is elsewhere now.
    pub fn moved(&self, addresses: Vec<String>) {
        *self.addresses.borrow_mut() = addresses;
    }

    /// One put and one linearizable read of a key that nobody else has, at a ring at rest: true once both were answered.
    pub fn ask_for_service(&self, ring: &mut Ring) -> Rc<Cell<bool>> {
        let host = ring.add_client_host();
        let served = Rc::new(Cell::new(false));
        let (done, shared) = (served.clone(), self.share());
        ring.start_client(host, || async move {
            let id = 10_000 + host.0 as u32;
            let mut client = Client::new(shared.addresses.borrow().clone(), shared.shards);
            let limit = Duration::from_secs(5);
            for shard in 0..shared.shards {
                // Keys from a million on; each shard has one among a few.
                let key = (1_000_000..).find(|key| client.shard_of(key_bytes(*key).as_bytes()) == shard).unwrap_or_default();
                while !(shared.put(&mut client, id, key, 8, limit).await && shared.get(&mut client, id, key, limit).await) {
                    Sim::sleep(LOOK).await;
                }
            }
            done.set(true);
        });
        served
    }

    pub fn begin(&self, id: u32, key: u32, op: Op) -> Ticket {
        self.under_way.set(self.under_way.get() + 1);
        self.history.borrow_mut().invoke(id, self.shard_of(key), key, op, None, world_now_ns())
    }

    /// Where a key is.
    pub fn shard_of(&self, key: u32) -> u32 {
        shard_of(slot_of(key_bytes(key).as_bytes()), self.shards)
    }

    /// What no other put has.
    pub fn new_value(&self) -> u64 {
        self.next_value.set(self.next_value.get() + 1);
        self.next_value.get()
    }

    pub fn end(&self, ticket: Ticket, outcome: Outcome) {
        self.under_way.set(self.under_way.get() - 1);
        self.history.borrow_mut().complete(ticket, outcome, world_now_ns());
    }

    async fn put(&self, client: &mut Client, id: u32, key: u32, bytes: usize, limit: Duration) -> bool {
        self.put_at(client, id, key, bytes, limit).await.is_some()
    }

    /// Where in the log it is.
    pub async fn put_at(&self, client: &mut Client, id: u32, key: u32, bytes: usize, limit: Duration) -> Option<Revision> {
        let value = self.new_value();
        let ticket = self.begin(id, key, Op::Put { value });
        let told = client.put(key_bytes(key).as_bytes(), &value_bytes(value, bytes), limit).await;
        let told = self.asked(client, key, told, limit).await;
        let place = place(&told);
        self.written(client, ticket, told);
        place
    }

    /// Reads the key, and sets it if it still is as it was read.
    async fn swap(&self, client: &mut Client, id: u32, key: u32, bytes: usize, limit: Duration) {
        let ticket = self.begin(id, key, Op::Get);
        let name = key_bytes(key);
        let read = client.get(name.as_bytes(), Consistency::Linearizable, limit).await;
        let before = match read {
            Told::Done(read) => {
                let before = read.found.clone();
                self.end(ticket, found(read.found, read.index));
                before
            }
            Told::Refused(_) | Told::Timeout | Told::Unknown => return self.end(ticket, Outcome::Failed),
        };
        let expected = before.as_ref().map_or(Default::default(), |before| before.revision);
        let value = self.new_value();
        let ticket = self.begin(id, key, Op::Put { value });
        let told = client.swap(name.as_bytes(), &value_bytes(value, bytes), expected, limit).await;
        if let Some((session, sequence)) = client.last_write() {
            self.history.borrow_mut().tag(&ticket, Tag { session, sequence });
        }
        let outcome = match told {
            Told::Done(swapped) if swapped.succeeded => {
                assert_eq!(swapped.found, before, "client {id}: k{key} was set at {:?} on another condition", swapped.revision);
                let (revision, existed) = (revision(swapped.revision), swapped.found.is_some());
                Outcome::Written { revision, existed, duplicate: swapped.duplicate }
            }
            Told::Done(swapped) => {
                let at = swapped.found.as_ref().map_or(Default::default(), |found| found.revision);
                assert_ne!(
                    at, expected,
                    "client {id}: k{key} was not set at {:?}, though it was as expected",
                    swapped.revision
                );
                Outcome::Failed
            }
            Told::Refused(_) | Told::Timeout => Outcome::Failed,
            Told::Unknown => Outcome::Unknown,
        };
        self.end(ticket, outcome);
    }

    async fn delete(&self, client: &mut Client, id: u32, key: u32, limit: Duration) -> bool {
        let ticket = self.begin(id, key, Op::Delete);
        let told = client.delete(key_bytes(key).as_bytes(), limit).await;
        let told = self.asked(client, key, told, limit).await;
        self.written(client, ticket, told)
    }

    /// What the client knows once it has asked for the outcome of a write without an answer, which it does every second time.
    async fn asked(&self, client: &mut Client, key: u32, told: Told<Written>, limit: Duration) -> Told<Written> {
        if told != Told::Unknown || Sim::random() % 2 == 0 {
            return told;
        }
        client.outcome(key_bytes(key).as_bytes(), limit).await.unwrap_or(Told::Unknown)
    }

    fn written(&self, client: &Client, ticket: Ticket, told: Told<Written>) -> bool {
        if let Some((session, sequence)) = client.last_write() {
            self.history.borrow_mut().tag(&ticket, Tag { session, sequence });
        }
        let outcome = match told {
            Told::Done(written) => Outcome::Written {
                revision: revision(written.revision),
                existed: written.existed,
                duplicate: written.duplicate,
            },
            Told::Refused(_) | Told::Timeout => Outcome::Failed,
            Told::Unknown => Outcome::Unknown,
        };
        self.end(ticket, outcome);
        matches!(outcome, Outcome::Written { .. })
    }

    async fn get(&self, client: &mut Client, id: u32, key: u32, limit: Duration) -> bool {
        let ticket = self.begin(id, key, Op::Get);
        let outcome = match client.get(key_bytes(key).as_bytes(), Consistency::Linearizable, limit).await {
            Told::Done(read) => found(read.found, read.index),
            Told::Refused(_) | Told::Timeout | Told::Unknown => Outcome::Failed,
        };
        self.end(ticket, outcome);
        matches!(outcome, Outcome::Read { .. })
    }

    async fn get_local(&self, client: &mut Client, id: u32, key: u32, address: &str, limit: Duration) {
        let ticket = self.begin(id, key, Op::GetLocal { node: node_of(address) });
        let read = client.get_at(address, key_bytes(key).as_bytes(), Consistency::Local, limit).await;
        self.end(ticket, read.map_or(Outcome::Failed, |read| found(read.found, read.index)));
    }
}

/// The node of a client address.
pub fn node_of(address: &str) -> u64 {
    address.trim_start_matches("node-").split(':').next().and_then(|node| node.parse().ok()).unwrap_or(0)
}

pub fn key_bytes(key: u32) -> String {
    format!("k{key}")
}

pub fn revision(revision: ringbeam_wire::client::Revision) -> Revision {
    Revision { index: revision.index, position: revision.position }
}

pub fn found(found: Option<Found>, index: u64) -> Outcome {
    // A value that is not whole is one that nobody wrote: 0 is no put's.
    let found = found.map(|found| (value_of(&found.value).unwrap_or(0), revision(found.revision)));
    Outcome::Read { found, index }
}

/// One operation at a time of one client.
struct Slot {
    id: u32,
    random: Random,
    workload: Workload,
    pause_us_min: u64,
    shared: Load,
}

impl Slot {
    async fn run(mut self) {
        let limit = Duration::from_millis(self.workload.timeout_ms);
        let addresses = self.shared.addresses.borrow().clone();
        let mut client = Client::new(addresses.clone(), self.shared.shards);
        let mut local = Client::new(addresses, self.shared.shards);
        loop {
            let (first, last) = self.workload.pause_us;
            let pause_us = self.random.between(first, last).max(self.random.below(2 * self.pause_us_min + 1));
            Sim::sleep(Duration::from_micros(pause_us * self.workload.pace)).await;
            while !self.shared.on.get() {
                Sim::sleep(LOOK).await;
            }
            let addresses = self.shared.addresses.borrow().clone();
            client.know(&addresses);
            let key = self.random.below(u64::from(self.workload.keys)) as u32;
            let shared = &self.shared;
            let dice = self.random.below(100);
            let Workload { puts, deletes, gets, value_bytes: (least, most), .. } = self.workload;
            if dice < puts {
                let bytes = self.random.magnitude(least, most.min(VALUE_BYTES_MAX)) as usize;
                if self.random.below(SWAPS_ONE_IN) == 0 {
                    shared.swap(&mut client, self.id, key, bytes, limit).await;
                } else {
                    shared.put(&mut client, self.id, key, bytes, limit).await;
                }
            } else if dice < puts + deletes {
                shared.delete(&mut client, self.id, key, limit).await;
            } else if dice < puts + deletes + gets {
                shared.get(&mut client, self.id, key, limit).await;
            } else {
                let address = self.random.pick(&addresses).clone();
                shared.get_local(&mut local, self.id, key, &address, limit).await;
            }
        }
    }
}
