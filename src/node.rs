//! One node: from its configuration to running shards, and back down in order.
//!
//! ```text
//! check the host ─▶ lock the directory ─▶ identity ─▶ found or join the ring ─▶ bind ─▶ admin thread
//!   ─▶ executors: one shard::run each ─▶ (SIGTERM) ─▶ leadership handed over, logs sealed ─▶ end
//! ```
//!
//! **Invariant**: a shard starts only when the host keeps what fsync promises (or the configuration waives it by name), nobody
//! else has the directory, and the directory is whole and this node's.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringbeam_shards::io::uring::{
    ConnectionLimits, Executors, Listeners, Port, Sockets, StopFlag, Uring, UringDisk, available_cores, check_host, lock_dir,
    run,
};
use ringbeam_shards::raft::replica::Timers;
use ringbeam_shards::shard::{self, Settings};
use ringbeam_wire::Member;
use ringbeam_wire::peer::Identity;
use ringbeam_wire::preamble::{Kind, Preamble};

use crate::admin;
use crate::config::{Config, resolve};
use crate::descriptors::connection_limits;
use crate::founding;
use crate::identity::DataDirectory;

/// Memory registered with each executor's rings for log writes.
const IO_MEMORY_BYTES: usize = 1 << 20;

/// Runs the node until it is told to stop. The error says what to do about it.
pub fn serve(config: &Config) -> Result<(), String> {
    let stop = StopFlag::new();
    stop.stop_on_signals().map_err(|e| format!("signals: {e}"))?;
    let data = &config.node.data_dir;
    std::fs::create_dir_all(data).map_err(|e| format!("node.data_dir {}: {e}", data.display()))?;
    let host = check_host(data, config.node.allow_volatile_disk).map_err(|e| e.to_string())?;
    let cores = cores(config);
    let limits = connection_limits(config, cores.len(), host.descriptors)?;
    if !host.durable {
        tracing::warn!("{} is on {}: nothing written there survives a power loss", data.display(), host.file_system);
    }
    let _lock = lock_dir(data).map_err(|e| e.to_string())?;
    let mut directory = DataDirectory::open(data, &member(config), config.ring.shards)?;
    if let Some(shard) = directory.lost_shard() {
        return Err(format!(
            "{}: the log of shard {shard} is gone, though this node has run before: what it had acknowledged is lost with it. \
             Empty the directory, give the node an id that was never used, start it, and run: ringbeam ring replace --node {} \
             --by NEW_ID --peer {}",
            data.display(),
            config.node.id,
            config.listen.peer_address()
        ));
    }
    if !founding::settle(&mut directory, &config.founders(), &config.listen.peer, &stop)? {
        return Ok(());
    }
    run_shards(config, directory, cores, limits, &stop)
}

/// A core for each executor.
fn cores(config: &Config) -> Vec<usize> {
    let mut cores = if config.node.cores.is_empty() { available_cores() } else { config.node.cores.clone() };
    cores.truncate(config.ring.shards as usize);
    cores
}

/// This node as it appears in the membership; the incarnation is the directory's.
fn member(config: &Config) -> Member {
    Member {
        node: config.node.id,
        incarnation: 0,
        peer: config.listen.peer_address().to_string(),
        client: config.listen.client_address().to_string(),
        admin: config.listen.admin_address().to_string(),
        region: config.node.region.clone(),
        role: config.node.role,
    }
}

fn run_shards(
    config: &Config,
    directory: DataDirectory,
    cores: Vec<usize>,
    limits: ConnectionLimits,
    stop: &Arc<StopFlag>,
) -> Result<(), String> {
    let shards = config.ring.shards;
    let listeners = Listeners {
        client: resolve("listen.client", &config.listen.client)?,
        peer: resolve("listen.peer", &config.listen.peer)?,
    };
    let sockets = Sockets::bind(&listeners, cores.len()).map_err(|e| e.to_string())?;
    let _admin = admin::start(config, shards).map_err(|e| format!("listen.admin {}: {e}", config.listen.admin))?;
    let executors = Executors { cores, pin: config.node.pin_cores, io_memory_bytes: IO_MEMORY_BYTES };
    let settings = settings(config, &directory);
    let (node, ring) = (config.node.id, directory.identity.ring);
    tracing::info!(node, ring = format!("{ring:016x}"), shards, client = config.listen.client, "node starts");

    let durable_writes = config.log.durable_writes;
    let data_dir = config.node.data_dir.clone();
    let starting = Starting::new(directory, shards);
    let start = move |shard: u32, net| {
        let settings = Settings { shard, dir: format!("shard-{shard}"), ..settings.clone() };
        let disk = UringDisk::new(data_dir.clone(), durable_writes);
        let starting = starting.clone();
        shard::run::<Uring>(settings, disk, net, move || starting.opened())
    };
    let outcome = run(&executors, sockets, limits, route, shards, stop, start).map_err(|e| e.to_string());
    tracing::info!(node, "node ends");
    outcome
}

/// The shard a connection is for.
fn route(port: Port, preamble: &[u8; 16]) -> Option<u32> {
    let preamble = Preamble::decode(preamble).ok()?;
    match (port, preamble.kind) {
        (Port::Client, Kind::Client) | (Port::Peer, Kind::Peer) => Some(preamble.shard),
        _ => None,
    }
}

fn settings(config: &Config, directory: &DataDirectory) -> Settings {
    let ms = Duration::from_millis;
    let limits = &config.limits;
    let identity = &directory.identity;
    Settings {
        node: identity.member.clone(),
        ring: identity.ring,
        shard: 0,
        shards: identity.shards,
        founders: founders(config, identity),
        dir: String::new(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        key_bytes_max: limits.key_bytes_max as usize,
        value_bytes_max: limits.value_bytes_max as usize,
        queue_bytes_max: limits.queue_bytes_max as usize,
        batch_bytes_max: limits.batch_bytes_max as usize,
        log: config.wal(),
        snapshot_after_bytes: config.log.snapshot_after_bytes,
        snapshot_pause: Duration::from_micros(config.log.snapshot_pause_us),
        timers: Timers {
            heartbeat: ms(config.timers.heartbeat_ms),
            election_timeout_min: ms(config.timers.election_timeout_min_ms),
            election_timeout_max: ms(config.timers.election_timeout_max_ms),
            read_lease: ms(config.timers.read_lease_ms),
        },
        state: config.state_limits(),
        history: config.history(),
        pinned_bytes_max: config.scan.pinned_bytes_max,
    }
}

/// The ring's first members, if this node founded the ring with them. A node that was added later was told its members too, itself
/// among them, but must not begin its logs with them: it would take itself for a voter.
fn founders(config: &Config, identity: &Identity) -> Vec<Member> {
    let configured: BTreeSet<u64> = config.founders().iter().map(|f| f.node).collect();
    let told: BTreeSet<u64> = identity.members.iter().map(|m| m.node).collect();
    if config.is_founder() && configured == told { identity.members.clone() } else { Vec::new() }
}

/// Counts the shards that have opened their logs; with the last one the directory is marked as started.
#[derive(Clone)]
struct Starting(Arc<(AtomicU32, Mutex<DataDirectory>)>);

impl Starting {
    fn new(directory: DataDirectory, shards: u32) -> Starting {
        Starting(Arc::new((AtomicU32::new(shards), Mutex::new(directory))))
    }

    fn opened(&self) {
        if self.0.0.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // A few system calls, once: on a thread of their own, so that no executor waits for them.
        let this = self.clone();
        std::thread::spawn(move || {
            let mut directory = this.0.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if !directory.identity.started
                && let Err(e) = directory.mark_started()
            {
                tracing::error!("the identity could not be marked as started: {e}");
            }
        });
    }
}
