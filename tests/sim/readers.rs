//! Clients that read with a contract, each time at another node: local reads with their age, sessions that hop over all nodes, bounds.
//!
//! ```text
//!   host "client-c" ─▶ write a key (exactly once) ─▶ read it, or another, at a node that chance names, as fresh as chance says
//!                        └── raises what the session has seen ◀──────────────────┘
//! ```
//! They ask nodes that lag, have been deposed, are cut off, or have just started: whoever answers must answer rightly.
//!
//! **Not here**: what the answers should have been (`check/age.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use ringbeam_shards::io::Env;
use ringbeam_shards::io::sim::{Sim, world_now_ns};
use ringbeam_wire::client::Consistency;

use crate::check::age::{Answered, Wanted};
use crate::client::{Client, Outcome as Told};
use crate::history::{Op, Outcome, Revision};
use crate::load::{LOOK, Load, found, key_bytes, node_of, revision};
use crate::plan::Workload;
use crate::random::Random;
use crate::world::Ring;

/// Clients that read so.
const READERS: u32 = 2;
/// They have numbers of their own, from here on, and keys that the load has as well.
const FIRST_ID: u32 = 5_000;
/// Between two operations of one, microseconds.
const PAUSE_US: (u64, u64) = (500, 40_000);
/// One operation in so many is a write.
const WRITES_ONE_IN: u64 = 4;
/// Longest value that it writes.
const VALUE_BYTES_MAX: u64 = 64;

/// One of them.
struct Reader {
    id: u32,
    random: Random,
    workload: Workload,
    shared: Load,
    /// Log index of each shard up to which the session has seen.
    seen: BTreeMap<u32, u64>,
    /// Its own newest write of each key.
    own: BTreeMap<u32, Revision>,
}

/// Starts them; they begin and pause with the load.
pub fn start(ring: &mut Ring, seed: u64, workload: &Workload, load: &Load) {
    for number in 0..READERS {
        let host = ring.add_client_host();
        let reader = Reader {
            id: FIRST_ID + number,
            random: Random::new(seed).fork("readers").fork(&number.to_string()),
            workload: workload.clone(),
            shared: load.share(),
            seen: BTreeMap::new(),
            own: BTreeMap::new(),
        };
        ring.start_client(host, || reader.run());
    }
}

impl Reader {
    async fn run(mut self) {
        let limit = Duration::from_millis(self.workload.timeout_ms);
        let addresses = self.shared.addresses();
        let mut writer = Client::new(addresses.clone(), self.shared.shards());
        let mut reader = Client::new(addresses, self.shared.shards());
        loop {
            let pause_us = self.random.between(PAUSE_US.0, PAUSE_US.1) * self.workload.pace;
            Sim::sleep(Duration::from_micros(pause_us)).await;
            while !self.shared.is_on() {
                Sim::sleep(LOOK).await;
            }
            let addresses = self.shared.addresses();
            writer.know(&addresses);
            let key = self.random.below(u64::from(self.workload.keys)) as u32;
            if self.random.below(WRITES_ONE_IN) == 0 {
                self.write(&mut writer, key, limit).await;
            } else {
                let address = self.random.pick(&addresses).clone();
                self.read(&mut reader, key, &address, limit).await;
            }
        }
    }

    async fn write(&mut self, client: &mut Client, key: u32, limit: Duration) {
        let bytes = self.random.magnitude(8, VALUE_BYTES_MAX) as usize;
        if let Some(at) = self.shared.put_at(client, self.id, key, bytes, limit).await {
            let shard = client.shard_of(key_bytes(key).as_bytes());
            self.saw(shard, at.index);
            self.own.insert(key, at);
        }
    }

    async fn read(&mut self, client: &mut Client, key: u32, address: &str, limit: Duration) {
        let name = key_bytes(key);
        let shard = client.shard_of(name.as_bytes());
        let index_min = self.seen.get(&shard).copied().unwrap_or(0);
        let wanted = match self.random.below(4) {
            0 => Wanted::Local,
            1 => Wanted::Bounded { age_ms_max: self.random.magnitude(20, 2_000) as u32, stale_ok: self.random.chance(1, 2) },
            _ => Wanted::Session { index_min },
        };
        let consistency = match wanted {
            Wanted::Linearizable => Consistency::Linearizable,
            Wanted::Local => Consistency::Local,
            Wanted::Session { index_min } => Consistency::Session { index_min },
            Wanted::Bounded { age_ms_max, stale_ok } => Consistency::Bounded { age_ms_max, stale_ok },
        };
        let (asked_ns, node) = (world_now_ns(), node_of(address));
        let ticket = self.shared.begin(self.id, key, Op::GetLocal { node });
        let Some(read) = client.get_at(address, name.as_bytes(), consistency, limit).await else {
            return self.shared.end(ticket, Outcome::Failed);
        };
        let is_session = matches!(wanted, Wanted::Session { .. });
        self.shared.answered.borrow_mut().push(Answered {
            client: self.id,
            shard,
            key,
            node,
            wanted,
            asked_ns,
            index: read.index,
            age_ms: read.age_ms,
            stale: read.stale,
            revision: read.found.as_ref().map(|found| revision(found.revision)),
            own: self.own.get(&key).copied().filter(|_| is_session),
        });
        // What it has seen by any read, it has seen.
        self.saw(shard, read.index);
        self.shared.end(ticket, found(read.found, read.index));
    }

    fn saw(&mut self, shard: u32, index: u64) {
        let seen = self.seen.entry(shard).or_default();
        *seen = (*seen).max(index);
    }
}

/// What came of a write, for who must know where it is.
pub fn place(told: &Told<ringbeam_wire::client::Written>) -> Option<Revision> {
    match told {
        Told::Done(written) => Some(revision(written.revision)),
        Told::Refused(_) | Told::Timeout | Told::Unknown => None,
    }
}
