//! Light client load beside a test, and the check afterwards that nothing acknowledged is gone.
//!
//! Each writer counts: its keys get the numbers 1, 2, 3 ... in turn. Afterwards a key must hold the last number that was
//! acknowledged, or a later one whose answer was lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringbeam_sdk::{Client, Error};
use tokio::task::JoinHandle;

/// Keys of each writer: enough to reach all shards of a test.
const KEYS: u64 = 8;

/// What one key may hold.
#[derive(Clone, Copy, Default)]
struct Expected {
    acked: u64,
    tried: u64,
}

/// Writers that run until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    writers: Vec<JoinHandle<BTreeMap<String, Expected>>>,
}

impl Load {
    /// Starts `writers` writers; each write may take 2 s, and is followed by a short pause.
    pub fn start(client: &Client, writers: u64) -> Load {
        Load::with_values(client, writers, 64, Duration::from_millis(2))
    }

    /// The same with values of `bytes` and a `pause` between the writes of a writer.
    pub fn with_values(client: &Client, writers: u64, bytes: usize, pause: Duration) -> Load {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |number: u64| {
            let client = client.with_timeout(Duration::from_secs(2));
            let (stop, all) = (stop.clone(), acked.clone());
            tokio::spawn(async move {
                let mut expected = BTreeMap::<String, Expected>::new();
                for n in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("load/{number}/{}", n % KEYS);
                    let expected = expected.entry(key.clone()).or_default();
                    expected.tried = n;
                    match client.put(&key, value(n, bytes)).await {
                        Ok(_) => {
                            expected.acked = n;
                            all.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(Error::Protocol(why)) => panic!("a write of {key} ended in nonsense: {why}"),
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                    tokio::time::sleep(pause).await;
                }
                expected
            })
        };
        let writers = (0..writers).map(writer).collect();
        Load { stop, acked, writers }
    }

    /// Writes acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits until `more` further writes are acknowledged: writes go on.
    pub async fn goes_on(&self, more: u64, limit: Duration) {
        let (from, began) = (self.acked(), Instant::now());
        while self.acked() < from + more {
            assert!(began.elapsed() < limit, "only {} of {more} writes acknowledged within {limit:?}", self.acked() - from);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops the writers and reads every key back, linearizably. Gives the number of acknowledged writes.
    pub async fn check(self, client: &Client) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            for (key, expected) in writer.await.expect("a writer ends well") {
                let found = client.with_timeout(Duration::from_secs(10)).get(&key).await.expect("the ring can be read");
                let holds = found.as_ref().map_or(0, |v| number_of(&v.value));
                assert!(
                    (expected.acked..=expected.tried).contains(&holds),
                    "{key} holds {holds}; {} was acknowledged, {} tried last",
                    expected.acked,
                    expected.tried
                );
            }
        }
        self.acked.load(Ordering::Relaxed)
    }
}

fn value(n: u64, bytes: usize) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    // Not all alike, so that no layer below can make less of it.
    value.resize(bytes.max(8), n as u8);
    value
}

fn number_of(value: &[u8]) -> u64 {
    value.get(..8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}
