//! The load of lives: a client whose keys go by themselves or with a lease, beside the load whose history is judged.
//!
//! Its keys are in a namespace of their own, few and put again and again: each put says whether the key was still there. What the
//! state machines said is shown to `check/lives.rs`, which judges it in ring time. Here it is judged by the client's own clock, as the
//! SDK counts: what was put for two seconds is there for two seconds from when that was *sent*, and so is a lease from when its last
//! keep-alive was. Clocks of nodes may be faster, by as much as the SDK allows for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ringbeam_shards::io::Env;
use ringbeam_shards::io::sim::{Sim, world_now_ns};
use ringbeam_shards::limits::CLOCK_DRIFT_PER_MILLE_MAX;
use ringbeam_wire::client::{Life, Written};
use ringbeam_wire::refusal::{Code, Refusal};

use crate::client::{Client, Outcome, Write};
use crate::random::Random;
use crate::world::Ring;

/// Where keys that go are.
pub const NAMESPACE: &str = "lives";

/// Clients, each with keys of one shard.
const CLIENTS: u64 = 2;
/// Keys of each.
const KEYS: u64 = 4;
/// Times of keys and leases, milliseconds: some end while the ring has no leader.
const TTL_MS: (u64, u64) = (1_100, 4_000);
/// Pause between two operations, milliseconds.
const PAUSE_MS: (u64, u64) = (50, 400);
/// Longest time of an operation.
const LIMIT: Duration = Duration::from_secs(3);

/// What went before its time, in words.
pub type Gone = Rc<RefCell<Vec<String>>>;

/// When what was asked for at `sent_ns` may be over, by the fastest clock.
fn over_at(sent_ns: u64, ttl_ms: u64) -> u64 {
    sent_ns + ttl_ms * (1_000 - CLOCK_DRIFT_PER_MILLE_MAX) * 1_000
}

/// Starts the clients of a seed. They work while `on`, at the nodes that `addresses` gives.
pub fn start(
    ring: &mut Ring,
    seed: u64,
    shards: u32,
    pace: u64,
    on: &Rc<Cell<bool>>,
    addresses: impl Fn() -> Vec<String> + Clone + 'static,
) -> Gone {
    let gone = Gone::default();
    for number in 0..CLIENTS {
        let host = ring.add_client_host();
        let random = Random::new(seed).fork("lives").fork(&number.to_string());
        let (on, addresses, gone) = (on.clone(), addresses.clone(), gone.clone());
        ring.start_client(host, || async move { live(number, random, shards, pace, on, addresses, gone).await });
    }
    gone
}

async fn live(
    number: u64,
    mut random: Random,
    shards: u32,
    pace: u64,
    on: Rc<Cell<bool>>,
    addresses: impl Fn() -> Vec<String>,
    gone: Gone,
) {
    let mut client = Client::new(addresses(), shards);
    let mut lease = 0;
    // Until when the lease is there, and of each key whose newest write was answered, until when that is.
    let (mut lease_until, mut until) = (0, BTreeMap::<String, u64>::new());
    let mut lease_ms = 0;
    loop {
        Sim::sleep(Duration::from_millis(random.between(PAUSE_MS.0, PAUSE_MS.1) * pace)).await;
        if !on.get() {
            continue;
        }
        client.know(&addresses());
        let key = format!("{{lives-{number}}}{}", random.below(KEYS));
        let ttl_ms = random.between(TTL_MS.0, TTL_MS.1) * random.between(1, pace);
        let life = match random.below(8) {
            // It stays, or ends a life that was given.
            0 => Life::default(),
            1 | 2 => Life { ttl_ms: 0, lease },
            3 => Life { ttl_ms, lease },
            _ => Life { ttl_ms, lease: 0 },
        };
        let sent = world_now_ns();
        let early = |refusal: &Refusal, lease: u64, until: u64| {
            if refusal.code == Code::LeaseNotFound && world_now_ns() < until {
                let (now, until) = (world_now_ns() / 1_000_000, until / 1_000_000);
                gone.borrow_mut().push(format!("lives: lease {lease} was gone at {now} ms, and promised until {until} ms"));
            }
        };
        let over = match random.below(10) {
            0..=5 => {
                let told = client.put_for(key.as_bytes(), b"alive", life, LIMIT).await;
                let before = until.remove(&key);
                if let Outcome::Done(written) = &told {
                    if let Some(due) = before.filter(|due| !written.existed && world_now_ns() < *due) {
                        let (now, due) = (world_now_ns() / 1_000_000, due / 1_000_000);
                        gone.borrow_mut().push(format!("lives: {key} was gone at {now} ms, and promised until {due} ms"));
                    }
                    if life.lease == 0 {
                        until.insert(key, if life.ttl_ms == 0 { u64::MAX } else { over_at(sent, life.ttl_ms) });
                    }
                }
                if let (Outcome::Refused(refusal), true) = (&told, life.lease != 0) {
                    early(refusal, lease, lease_until);
                }
                matches!(told, Outcome::Refused(_)) && life.lease != 0
            }
            6 if lease != 0 => {
                client.revoke(key.as_bytes(), lease, LIMIT).await;
                true
            }
            _ if lease == 0 => {
                if let Outcome::Done(granted) = client.grant(key.as_bytes(), ttl_ms, LIMIT).await {
                    (lease, lease_ms, lease_until) = (granted, ttl_ms, over_at(sent, ttl_ms));
                }
                false
            }
            _ => match client.keep(key.as_bytes(), lease, LIMIT).await {
                Outcome::Done(_) => {
                    lease_until = over_at(sent, lease_ms);
                    false
                }
                Outcome::Refused(refusal) => {
                    early(&refusal, lease, lease_until);
                    true
                }
                Outcome::Timeout | Outcome::Unknown => false,
            },
        };
        if over {
            lease = 0;
        }
    }
}

impl Client {
    /// Sets a key that goes again, exactly once.
    pub async fn put_for(&mut self, key: &[u8], value: &[u8], life: Life, limit: Duration) -> Outcome<Written> {
        self.write(Write::For(key, value, life), limit).await.written()
    }

    /// Grants a lease of the key's shard, exactly once; its id.
    pub async fn grant(&mut self, key: &[u8], ttl_ms: u64, limit: Duration) -> Outcome<u64> {
        self.write(Write::Grant(key, ttl_ms), limit).await.leased()
    }

    /// Keeps a lease alive.
    pub async fn keep(&mut self, key: &[u8], lease: u64, limit: Duration) -> Outcome<u64> {
        self.write(Write::Keep(key, lease), limit).await.leased()
    }

    /// Ends a lease.
    pub async fn revoke(&mut self, key: &[u8], lease: u64, limit: Duration) -> Outcome<Written> {
        self.write(Write::Revoke(key, lease), limit).await.written()
    }
}
