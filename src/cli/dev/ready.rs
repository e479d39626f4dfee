//! Whether a ring serves: every shard has a leader, and takes a write.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringbeam_sdk::Client;
use ringbeam_wire::slots::{shard_of, slot_of};

use super::nodes::{Nodes, how};

/// A ring on one machine that does not serve by then will not.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Each question while it is not ready takes at most this.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Keys tried for one that belongs to a shard: 256 shards at most, so this many are enough by far.
const PROBE_KEYS_MAX: u64 = 100_000;

/// Waits until the ring serves. False: `stop` came first.
pub fn wait(nodes: &mut Nodes, shards: u32, namespace: &str, stop: &AtomicBool) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime can be made: {error}"))?;
    let endpoints = nodes.endpoints();
    let until = Instant::now() + READY_TIMEOUT;
    runtime.block_on(async {
        // The last reason why not, for the message at the end.
        let why = std::cell::RefCell::new(String::from("no node answered"));
        let serving = async {
            while let Err(reason) = attempt(&endpoints, shards, namespace).await {
                why.replace(reason);
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::pin!(serving);
        loop {
            tokio::select! {
                () = &mut serving => return Ok(true),
                () = tokio::time::sleep(PAUSE) => {}
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if let Some(death) = nodes.deaths().first() {
                return Err(format!("node {} {} before the ring served; its log says why", death.id, how(death.status)));
            }
            if Instant::now() >= until {
                return Err(format!("the ring does not serve after {} s: {}", READY_TIMEOUT.as_secs(), why.borrow()));
            }
        }
    })
}

async fn attempt(endpoints: &str, shards: u32, namespace: &str) -> Result<(), String> {
    let client = Client::builder()
        .endpoints([endpoints])
        .timeout(ASK_TIMEOUT)
        .client_name("ringbeam dev")
        .connect()
        .await
        .map_err(|error| error.to_string())?;
    let status = client.status().await;
    for shard in 0..shards {
        let mut of_shard = status.iter().filter(|(_, number, _)| *number == shard);
        if !of_shard.any(|(_, _, status)| status.as_ref().is_ok_and(|status| status.leader != 0)) {
            return Err(format!("shard {shard} has no leader"));
        }
    }
    let client = client.namespace(namespace);
    for shard in 0..shards {
        let key = probe_key(shard, shards).ok_or_else(|| format!("no key was found for shard {shard}"))?;
        client.put(&key, "ready").await.map_err(|error| format!("shard {shard} takes no write: {error}"))?;
    }
    Ok(())
}

/// A key of this shard.
fn probe_key(shard: u32, shards: u32) -> Option<String> {
    (0..PROBE_KEYS_MAX).map(|number| format!("probe-{number}")).find(|key| shard_of(slot_of(key.as_bytes()), shards) == shard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_a_probe_key() {
        for shards in [1, 2, 3, 256] {
            for shard in 0..shards {
                let key = probe_key(shard, shards).expect("a key for each");
                assert_eq!(shard_of(slot_of(key.as_bytes()), shards), shard);
            }
        }
    }
}
