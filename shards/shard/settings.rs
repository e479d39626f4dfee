//! What the operator chose, for one shard.

use std::time::Duration;

use ringbeam_wire::limits::FRAME_OVERHEAD_BYTES_MAX;
use ringbeam_wire::peer::Member;

use crate::raft::replica::Timers;
use crate::state::Limits;
use crate::wal::WalConfig;
use crate::watch::Bounds;

/// What the operator chose, for one shard. Ranges are checked where the file is read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: Member,
    /// The ring's id.
    pub ring: u64,
    /// This shard.
    pub shard: u32,
    /// Shards of the ring.
    pub shards: u32,
    /// The ring's first members; empty on a node that was added later.
    pub founders: Vec<Member>,
    /// The shard's directory below the data directory.
    pub dir: String,
    /// Version of the program, for people.
    pub version: String,
    /// Longest key, bytes.
    pub key_bytes_max: usize,
    /// Longest value, bytes.
    pub value_bytes_max: usize,
    /// Bytes of writes that may wait for raft.
    pub queue_bytes_max: usize,
    /// Bytes of writes in one raft entry.
    pub batch_bytes_max: usize,
    /// The log.
    pub log: WalConfig,
    /// A snapshot is due when the log has more bytes than this.
    pub snapshot_after_bytes: u64,
    /// Least pause after each slice of a snapshot; zero: never any.
    pub snapshot_pause: Duration,
    /// Heartbeats and elections.
    pub timers: Timers,
    /// Bounds of the replicated state.
    pub state: Limits,
    /// How much of what happened lately is kept for watches.
    pub history: Bounds,
    /// Bytes of what changes that are kept for scans under way.
    pub pinned_bytes_max: u64,
}

impl Settings {
    /// Longest frame of a client, bytes.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        self.value_bytes_max + self.key_bytes_max + FRAME_OVERHEAD_BYTES_MAX as usize
    }
}
