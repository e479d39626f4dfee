//! Who is there, how the ring is, and where keys are.

use crate::member::{Member, Role};

/// Opens a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Lowest protocol version that the client speaks.
    pub version_min: u16,
    /// Highest protocol version that the client speaks.
    pub version_max: u16,
    /// Feature bits that the client understands.
    pub features: u64,
    /// Expected ring id; 0: any.
    pub ring: u64,
    /// Name and version of the client, for people.
    pub client: &'a str,
}

/// The node's side of the agreement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version of this connection from here on.
    pub version: u16,
    /// Feature bits that both sides understand.
    pub features: u64,
    /// Ring id.
    pub ring: u64,
    /// Node id.
    pub node: u64,
    /// The shard that answers.
    pub shard: u32,
    /// Longest key, bytes.
    pub key_bytes_max: u32,
    /// Longest value, bytes.
    pub value_bytes_max: u32,
    /// Writes of one session that may be unanswered at once.
    pub session_window: u32,
    /// Name and version of the node's software, for people.
    pub server: String,
}

/// A half-open range of slots on one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// The slot after the last; greater than `first`, at most [`crate::slots::SLOTS`].
    pub end: u16,
    /// The shard.
    pub shard: u32,
}

/// What a client routes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Log index of the membership: a higher one is newer.
    pub epoch: u64,
    /// Ring id.
    pub ring: u64,
    /// The shard that answers; `leader` and `term` are its.
    pub shard: u32,
    /// Node id of the leader; 0: none known.
    pub leader: u64,
    /// The leader's term.
    pub term: u64,
    /// Which slots are on which shard.
    pub slots: Vec<SlotRange>,
    /// All nodes.
    pub members: Vec<Member>,
}

/// How far a member's log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Node id.
    pub node: u64,
    /// What it does in the ring.
    pub role: Role,
    /// Last log index known to be on it; only from the leader.
    pub matched: u64,
    /// Entries behind the leader; only from the leader.
    pub lag: u64,
    /// It does not vote (yet).
    pub learner: bool,
}

/// How one shard on one node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Node id.
    pub node: u64,
    /// Ring id.
    pub ring: u64,
    /// The shard that answers.
    pub shard: u32,
    /// Number of shards in the ring.
    pub shards: u32,
    /// Version of the node's software.
    pub version: String,
    /// What the node does in the ring.
    pub role: Role,
    /// Since the process started, milliseconds.
    pub uptime_ms: u64,
    /// leader, follower, candidate, learner or stopped.
    pub raft_state: String,
    /// Node id of the leader; 0: none known.
    pub leader: u64,
    /// Current term.
    pub term: u64,
    /// Last log index on this node.
    pub last_index: u64,
    /// Last index known to be committed.
    pub committed_index: u64,
    /// Last index applied to the state.
    pub applied_index: u64,
    /// Last index in the newest snapshot; 0: none.
    pub snapshot_index: u64,
    /// Last index no longer in the log; 0: none.
    pub purged_index: u64,
    /// Keys in the state.
    pub keys: u64,
    /// Approximate memory of the state, bytes.
    pub state_bytes: u64,
    /// Hash of all replicated state; 0 unless it is small enough to hash on demand.
    pub state_hash: u64,
    /// The log on disk, bytes.
    pub log_bytes: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Client connections of this shard.
    pub connections: u64,
    /// Members of the shard's raft group.
    pub voters: Vec<Progress>,
    /// A membership change is under way.
    pub voters_joint: bool,
    /// Why the shard does not serve.
    pub fault: Option<String>,
    /// Ring time, milliseconds.
    pub ring_time_ms: u64,
}
