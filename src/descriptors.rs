//! How many connections fit the descriptors that this process may open, so that clients never take those that the log needs.
//!
//! ```text
//!   descriptors (RLIMIT_NOFILE, raised as far as it goes)  =  files and rings  +  peers  +  clients
//! ```
//! Where that is too few, peers are bounded lower first, down to what a ring needs; then `limits.connections_max` is refused. Unless it
//! is the default, which nobody chose for this machine: a container that may open 1,024 runs a node with as many clients as fit.
//!
//! **Not here**: raising the limit (`check_host`); what happens to a connection that is one too many (`Door`).

use ringbeam_shards::io::uring::ConnectionLimits;

use crate::config::{Config, Limits};

/// Standard streams, lock, admin port and who asks there, timers and signals; and room.
const BESIDE: u64 = 128;

/// Of an executor: three rings, its sockets of both ports, what wakes it; and room.
const EXECUTOR: u64 = 32;

/// Of a shard beside its log: snapshots that are written, read, sent and received, connections that it opens to the other nodes; and room.
const SHARD: u64 = 64;

/// Of a log's segment: one for plain and one for durable writes.
const SEGMENT: u64 = 2;

/// Connections that other nodes open to a shard: three purposes each, of more nodes than vote.
const PEERS_OF_SHARD: u64 = 32;

/// Least bound of clients, with which a node starts whatever its limit: the least that a configuration may have.
const CLIENTS_MIN: u64 = 16;

/// The bounds of connections on a node with so many executors that may open so many descriptors. The error says what would be right.
pub fn connection_limits(config: &Config, executors: usize, descriptors: u64) -> Result<ConnectionLimits, String> {
    let wanted = u64::from(config.limits.connections_max);
    let defaults = ConnectionLimits::default();
    let files = files(config, executors);
    let peers_max = defaults.peers_max as u64;
    let peers_min = (PEERS_OF_SHARD * u64::from(config.ring.shards)).clamp(64, peers_max);
    let room = descriptors.saturating_sub(files);
    let (clients, peers) = if wanted + peers_min <= room {
        (wanted, (room - wanted).min(peers_max))
    } else {
        let fits = room.saturating_sub(peers_min);
        let needs = files + peers_min + wanted;
        let why = format!(
            "limits.connections_max = {wanted}: with {files} descriptors for files and {peers_min} for peers the node needs {needs}, and \
             may open {descriptors} (RLIMIT_NOFILE): raise that (systemd: LimitNOFILE=, docker: --ulimit nofile=)"
        );
        let chosen = config.limits.connections_max != Limits::default().connections_max;
        match (chosen, fits >= CLIENTS_MIN) {
            (true, true) => return Err(format!("{why}, or set limits.connections_max to {fits} at most")),
            (true, false) => return Err(why),
            (false, _) => {
                let clients = fits.max(CLIENTS_MIN);
                tracing::warn!("{why}; until then it takes {clients} clients");
                (clients, peers_min)
            }
        }
    };
    Ok(ConnectionLimits { clients_max: clients as usize, peers_max: peers as usize, ..defaults })
}

/// Descriptors of what is no connection of a client or from a peer. A log grows on while a snapshot is written, or has to wait for one.
fn files(config: &Config, executors: usize) -> u64 {
    let segments = 2 * (config.log.snapshot_after_bytes / config.log.segment_bytes) + 4;
    BESIDE + EXECUTOR * executors as u64 + u64::from(config.ring.shards) * (SHARD + SEGMENT * segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients and peers.
    fn bounds(connections_max: u32, shards: u32, descriptors: u64) -> Result<(usize, usize), String> {
        let mut config = Config::default();
        (config.limits.connections_max, config.ring.shards) = (connections_max, shards);
        connection_limits(&config, shards.min(4) as usize, descriptors).map(|limits| (limits.clients_max, limits.peers_max))
    }

    #[test]
    fn what_fits_is_as_configured() {
        assert_eq!(bounds(20_000, 1, 65_536), Ok((20_000, 1_024)), "deploy/ringbeam.service");
        assert_eq!(bounds(20_000, 64, 65_536), Ok((20_000, 1_024)));
        assert_eq!(bounds(1_000_000, 1, 1 << 20), Ok((1_000_000, 1_024)));
        assert_eq!(bounds(500, 1, 1_024), Ok((500, 276)), "peers take less where there is less");
    }

    #[test]
    fn default_that_does_not_fit_is_lowered() {
        assert_eq!(bounds(20_000, 1, 4_096), Ok((3_784, 64)));
        assert_eq!(bounds(20_000, 1, 1_024), Ok((712, 64)));
        assert_eq!(bounds(20_000, 256, 1_024), Ok((16, 1_024)), "it starts, and says so");
    }

    #[test]
    fn choice_that_does_not_fit_is_refused_with_what_would_be_right() {
        let why = bounds(30_000, 1, 4_096).expect_err("too many");
        assert!(why.starts_with("limits.connections_max = 30000: "), "{why}");
        assert!(why.contains("needs 30312, and may open 4096 (RLIMIT_NOFILE)"), "{why}");
        assert!(why.ends_with("set limits.connections_max to 3784 at most"), "{why}");
        assert_eq!(bounds(3_784, 1, 4_096), Ok((3_784, 64)), "what it said is right");
        assert_eq!(bounds(30_000, 1, 30_312), Ok((30_000, 64)));
        assert!(bounds(16, 1, 200).expect_err("not even that").ends_with("--ulimit nofile=)"));
    }
}
