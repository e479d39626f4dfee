//! What a configuration must fulfil beyond its form. Every refusal names the key, its value and what would be right.

use std::collections::BTreeSet;

use ringbeam_shards::state::limits::{SESSION_WINDOW_HARD_MAX, VALUE_BYTES_HARD_MAX};
use ringbeam_wire::limits::{KEY_BYTES_MAX, NAMESPACE_BYTES_MAX, PEER_FRAME_BYTES_MAX, SHARDS_MAX};

use super::{Config, Limits, Listen, Log, Node, Ring, Timers};

/// Largest entry that any valid limits produce: one batch of [`BATCH_BYTES_HARD_MAX`], or one largest write, with its framing.
const ENTRY_BYTES_MAX: u64 = 17 << 20;
/// Largest `limits.batch_bytes_max`. A batch is one log entry and one peer frame, held whole in memory on every node.
const BATCH_BYTES_HARD_MAX: u64 = 16 << 20;
/// What the log, raft and the batch put around the writes of one entry, bytes, generously.
const ENTRY_OVERHEAD_BYTES: u64 = 64 << 10;
/// Blocks of the log; segments are made of them.
const BLOCK_BYTES: u64 = ringbeam_shards::io::BLOCK_BYTES as u64;
/// Below this a snapshot would be due after every few batches; tests go this low.
const SNAPSHOT_AFTER_BYTES_MIN: u64 = 64 << 10;
/// A ring with more voters is slower and not safer.
const FOUNDERS_MAX: usize = 7;
/// Labels travel in every topology.
const REGION_BYTES_MAX: usize = 64;
/// Host names have at most 253 bytes; with a port, this is enough for any address.
const ADDRESS_BYTES_MAX: usize = 260;

const _: () = assert!(BATCH_BYTES_HARD_MAX + ENTRY_OVERHEAD_BYTES <= ENTRY_BYTES_MAX);
const _: () = assert!(
    VALUE_BYTES_HARD_MAX as u64 + KEY_BYTES_MAX as u64 + NAMESPACE_BYTES_MAX as u64 + ENTRY_OVERHEAD_BYTES <= ENTRY_BYTES_MAX
);
const _: () = assert!(ENTRY_BYTES_MAX + ENTRY_OVERHEAD_BYTES <= PEER_FRAME_BYTES_MAX as u64);

/// Largest entry that fits a log with segments of this size: a segment holds two of the largest flushes and a header. Of each
/// flush, a 64th goes to the headers of its blocks.
pub(super) fn entry_bytes_max(segment_bytes: u64) -> u64 {
    let flush = segment_bytes.saturating_sub(BLOCK_BYTES) / 2;
    (flush - flush / 64).saturating_sub(2 * BLOCK_BYTES).min(ENTRY_BYTES_MAX)
}

/// Smallest segment in which an entry of `entry_bytes` fits.
fn segment_bytes_min(entry_bytes: u64) -> u64 {
    let flush = (entry_bytes + 2 * BLOCK_BYTES).div_ceil(63) * 64 + BLOCK_BYTES;
    (2 * flush + BLOCK_BYTES).next_multiple_of(BLOCK_BYTES)
}

impl Config {
    /// Whether everything fits together.
    pub fn check(&self) -> Result<(), String> {
        check_node(&self.node)?;
        check_listen(&self.listen)?;
        check_ring(&self.ring)?;
        check_limits(&self.limits)?;
        check_log(&self.log, &self.limits)?;
        check_timers(&self.timers)?;
        within("watch.history_bytes_max", self.watch.history_bytes_max, 1 << 20, 64 << 30)?;
        within("watch.history_ms_max", self.watch.history_ms_max, 1_000, 365 * 24 * 3_600_000)?;
        within("scan.pinned_bytes_max", self.scan.pinned_bytes_max, 1 << 20, 64 << 30)?;
        if self.ring.founders.is_empty() {
            return Err(format!(
                "ring.founders is empty: name the nodes that found the ring, this one among them \
                 (founders = [{{ id = {}, peer = \"{}\" }}]), or, to join a ring, some of its members",
                self.node.id,
                self.listen.peer_address()
            ));
        }
        Ok(())
    }
}

fn check_node(node: &Node) -> Result<(), String> {
    if node.id == 0 {
        return Err("node.id is missing or 0: give this node a number from 1 that no other node of the ring ever had".into());
    }
    if node.data_dir.as_os_str().is_empty() {
        return Err("node.data_dir is missing or empty: name a directory on a local disk".into());
    }
    if node.region.len() > REGION_BYTES_MAX {
        return Err(format!(
            "node.region = \"{}\": it has {} bytes, the limit is {REGION_BYTES_MAX}",
            node.region,
            node.region.len()
        ));
    }
    let mut seen = BTreeSet::new();
    match node.cores.iter().find(|&core| !seen.insert(core)) {
        Some(core) => Err(format!("node.cores names core {core} twice: name each core once")),
        None => Ok(()),
    }
}

fn check_listen(listen: &Listen) -> Result<(), String> {
    let ports = [
        ("client", &listen.client, &listen.advertise_client),
        ("peer", &listen.peer, &listen.advertise_peer),
        ("admin", &listen.admin, &listen.advertise_admin),
    ];
    for (name, address, advertise) in ports {
        let (key, advertise_key) = (format!("listen.{name}"), format!("listen.advertise_{name}"));
        if name == "admin" && address.is_empty() {
            continue;
        }
        check_address(&key, address)?;
        if !advertise.is_empty() {
            check_address(&advertise_key, advertise)?;
        }
        let (key, reached) = if advertise.is_empty() { (key, address) } else { (advertise_key.clone(), advertise) };
        if reached.starts_with("0.0.0.0:") || reached.starts_with("[::]:") {
            return Err(format!(
                "{key} = \"{reached}\": nobody can connect to that; set {advertise_key} to the host:port by which others reach this node"
            ));
        }
    }
    for (at, (name, address, _)) in ports.iter().enumerate() {
        if let Some((other, ..)) = ports[..at].iter().find(|(_, other, _)| other == address) {
            return Err(format!("listen.{name} = \"{address}\": listen.{other} has it already, each needs its own"));
        }
    }
    Ok(())
}

fn check_address(key: &str, address: &str) -> Result<(), String> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) || address.len() > ADDRESS_BYTES_MAX || address.contains(char::is_whitespace) {
        return Err(format!("{key} = \"{address}\": it must be host:port with a port from 1 to 65535"));
    }
    Ok(())
}

fn check_ring(ring: &Ring) -> Result<(), String> {
    within("ring.shards", ring.shards.into(), 1, SHARDS_MAX.into())?;
    if ring.founders.len() > FOUNDERS_MAX {
        return Err(format!("ring.founders names {} nodes: at most {FOUNDERS_MAX} found a ring", ring.founders.len()));
    }
    for (at, founder) in ring.founders.iter().enumerate() {
        if founder.id == 0 {
            return Err("ring.founders has id 0: node ids start at 1".into());
        }
        check_address(&format!("ring.founders: peer of node {}", founder.id), &founder.peer)?;
        let before = &ring.founders[..at];
        if before.iter().any(|f| f.id == founder.id) {
            return Err(format!("ring.founders names node {} twice: name each founder once", founder.id));
        }
        if let Some(other) = before.iter().find(|f| f.peer == founder.peer) {
            return Err(format!(
                "ring.founders gives the peer address \"{}\" to node {} and to node {}: each node has its own",
                founder.peer, other.id, founder.id
            ));
        }
    }
    Ok(())
}

fn check_limits(limits: &Limits) -> Result<(), String> {
    within("limits.key_bytes_max", limits.key_bytes_max.into(), 1, KEY_BYTES_MAX.into())?;
    within("limits.value_bytes_max", limits.value_bytes_max.into(), 1, VALUE_BYTES_HARD_MAX as u64)?;
    within("limits.connections_max", limits.connections_max.into(), 16, 1_000_000)?;
    within("limits.batch_bytes_max", limits.batch_bytes_max.into(), 4096, BATCH_BYTES_HARD_MAX)?;
    within("limits.sessions_max", limits.sessions_max.into(), 1, 16 << 20)?;
    within("limits.session_window_count", limits.session_window_count.into(), 1, SESSION_WINDOW_HARD_MAX.into())?;
    within("limits.session_lifetime_ms", limits.session_lifetime_ms, 1_000, 365 * 24 * 3_600_000)?;
    let least = entry_bytes(limits);
    if limits.queue_bytes_max < least {
        return Err(format!(
            "limits.queue_bytes_max = {}: it must be at least {least}, so that a whole batch and the largest write fit",
            limits.queue_bytes_max
        ));
    }
    within("limits.queue_bytes_max", limits.queue_bytes_max, least, 16 << 30)
}

/// Bytes of the largest entry: a whole batch, or the largest write alone in one.
fn entry_bytes(limits: &Limits) -> u64 {
    let write = u64::from(limits.value_bytes_max) + u64::from(limits.key_bytes_max) + u64::from(NAMESPACE_BYTES_MAX);
    write.max(limits.batch_bytes_max.into()) + ENTRY_OVERHEAD_BYTES
}

fn check_log(log: &Log, limits: &Limits) -> Result<(), String> {
    let bytes = log.segment_bytes;
    if !bytes.is_multiple_of(BLOCK_BYTES) || bytes > u64::from(u32::MAX) {
        return Err(format!("log.segment_bytes = {bytes}: it must be a multiple of {BLOCK_BYTES} below 4 GiB"));
    }
    let entry = entry_bytes(limits);
    if entry_bytes_max(bytes) < entry {
        return Err(format!(
            "log.segment_bytes = {bytes}: it must be at least {}, a segment holds two of the largest flushes \
             (limits.value_bytes_max = {}, limits.batch_bytes_max = {})",
            segment_bytes_min(entry),
            limits.value_bytes_max,
            limits.batch_bytes_max
        ));
    }
    within("log.snapshot_after_bytes", log.snapshot_after_bytes, SNAPSHOT_AFTER_BYTES_MIN, 1 << 50)?;
    within("log.cache_bytes", log.cache_bytes, 0, 64 << 30)?;
    within("log.spare_segments_count", log.spare_segments_count.into(), 0, 64)?;
    within("log.snapshot_pause_us", log.snapshot_pause_us, 0, 1_000_000)
}

fn check_timers(timers: &Timers) -> Result<(), String> {
    let Timers { heartbeat_ms, election_timeout_min_ms: min, election_timeout_max_ms: max, read_lease_ms } = *timers;
    within("timers.heartbeat_ms", heartbeat_ms, 1, 60_000)?;
    if min <= heartbeat_ms * 2 {
        return Err(format!(
            "timers.election_timeout_min_ms = {min}: it must be more than twice timers.heartbeat_ms = {heartbeat_ms}, or one lost \
             heartbeat starts an election"
        ));
    }
    if max <= min {
        return Err(format!(
            "timers.election_timeout_max_ms = {max}: it must be more than timers.election_timeout_min_ms = {min}, or candidates collide"
        ));
    }
    within("timers.election_timeout_max_ms", max, min, 600_000)?;
    // Each heartbeat renews it, as late as a slow disk lets it.
    if read_lease_ms > 0 && !(heartbeat_ms * 3 / 2..=min).contains(&read_lease_ms) {
        return Err(format!(
            "timers.read_lease_ms = {read_lease_ms}: it must be 0, or from one and a half times timers.heartbeat_ms = {heartbeat_ms}, \
             or it ends between two heartbeats, to timers.election_timeout_min_ms = {min}, or a follower elects itself within it"
        ));
    }
    Ok(())
}

fn within(key: &str, value: u64, least: u64, most: u64) -> Result<(), String> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(format!("{key} = {value}: it must be from {least} to {most}"))
}
