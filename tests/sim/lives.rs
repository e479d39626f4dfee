//! The load of lives: a client whose keys go by themselves or with a lease, beside the load whose history is judged.
//!
//! Its keys are in a namespace of their own, few and put again and again: each put says whether the key was still there. What the
//! state machines said is shown to `check/lives.rs`; what the client was told is not needed.
//!
//! **Not here**: whether a key was there for long enough (`check/lives.rs`).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ringbeam_shards::io::Env;
use ringbeam_shards::io::sim::Sim;
use ringbeam_wire::client::{Life, Written};

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

/// Starts the clients of a seed. They work while `on`, at the nodes that `addresses` gives.
pub fn start(
    ring: &mut Ring,
    seed: u64,
    shards: u32,
    pace: u64,
    on: &Rc<Cell<bool>>,
    addresses: impl Fn() -> Vec<String> + Clone + 'static,
) {
    for number in 0..CLIENTS {
        let host = ring.add_client_host();
        let random = Random::new(seed).fork("lives").fork(&number.to_string());
        let (on, addresses) = (on.clone(), addresses.clone());
        ring.start_client(host, || async move { live(number, random, shards, pace, on, addresses).await });
    }
}

async fn live(
    number: u64,
    mut random: Random,
    shards: u32,
    pace: u64,
    on: Rc<Cell<bool>>,
    addresses: impl Fn() -> Vec<String>,
) {
    let mut client = Client::new(addresses(), shards);
    let mut lease = 0;
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
        let over = match random.below(10) {
            0..=5 => {
                matches!(client.put_for(key.as_bytes(), b"alive", life, LIMIT).await, Outcome::Refused(_)) && life.lease != 0
            }
            6 if lease != 0 => {
                client.revoke(key.as_bytes(), lease, LIMIT).await;
                true
            }
            _ if lease == 0 => {
                if let Outcome::Done(granted) = client.grant(key.as_bytes(), ttl_ms, LIMIT).await {
                    lease = granted;
                }
                false
            }
            _ => matches!(client.keep(key.as_bytes(), lease, LIMIT).await, Outcome::Refused(_)),
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
