//! The client protocol: what an SDK asks and what a node answers.
//!
//! Requests are multiplexed by id and may be answered in any order. The first is [`Hello`], answered by [`Welcome`].
//! Parsed messages borrow from the payload; their encoders are [`Encoder::request`] and [`Encoder::reply`].
//!
//! **Invariants**: a [`Request`] or [`Reply`] that parsed is complete. Not checked here, because the limits are the node's
//! configuration and the refusal is the node's: sizes of keys, values and namespaces (`limits::check_*`).

mod build;
mod data;
mod items;
mod parse;
mod transaction;
mod watch;

pub use crate::member::{Member, Role};
use crate::refusal::Refusal;
pub use build::Encoder;
pub use data::{Add, Counted, DeleteRange, Extend, Fold, Lease, Life, Place, RangeDeleted, Resolved, check_ttl};
pub use items::{GetMany, Item, Items, Scan};
pub use parse::{parse_reply, parse_request};
pub use transaction::{Compare, Relation, Step, Target, Transact, Transacted, written_twice};
pub use watch::{Event, EventKind, Events, Watch, WatchEnded, WatchStarted};

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Chosen by the client, echoed in the reply.
    pub id: u64,
    /// Milliseconds from arrival within which the answer is of use; 0: no deadline.
    pub deadline_ms: u32,
    /// What is asked.
    pub body: RequestBody<'a>,
}

/// The kinds of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody<'a> {
    /// Agrees on version and features; first on every connection.
    Hello(Hello<'a>),
    /// Sets a key.
    Put(Put<'a>),
    /// Removes a key.
    Delete(Delete<'a>),
    /// Reads a key.
    Get(Get<'a>),
    /// Opens a session for exactly-once writes.
    OpenSession,
    /// Forgets a session.
    CloseSession {
        /// From [`ReplyBody::SessionOpened`].
        session: u64,
    },
    /// Asks for slots, members and leader.
    GetTopology,
    /// Asks how this shard on this node is.
    GetStatus,
    /// Asks whether anybody is there.
    Ping,
    /// Adds a running, empty, unjoined node, which is asked at `peer` who it is.
    RingAdd {
        /// Its node id.
        node: u64,
        /// Its peer address, host:port.
        peer: &'a str,
    },
    /// Gives a caught-up learner its vote.
    RingPromote {
        /// Its node id.
        node: u64,
    },
    /// Removes a member.
    RingRemove {
        /// Its node id.
        node: u64,
        /// Also when it is the one that cannot be reached.
        force: bool,
    },
    /// Hands the shard's leadership over.
    RingTransfer {
        /// Node id; 0: any eligible voter.
        to: u64,
    },
    /// Compares, then one of two lists of steps, over keys of one shard.
    Transact(Box<Transact<'a>>),
    /// Reads a page of a range.
    Scan(Scan<'a>),
    /// Reads several keys at one moment.
    GetMany(Box<GetMany<'a>>),
    /// Adds to a counter.
    Add(Add<'a>),
    /// Changes a value by a delta.
    Extend(Extend<'a>),
    /// Deletes a slice of a range.
    DeleteRange(DeleteRange<'a>),
    /// Grants a lease.
    GrantLease {
        /// It ends when it is not kept alive for so long, milliseconds of ring time.
        ttl_ms: u64,
        /// Its place in a session.
        place: Place,
    },
    /// Keeps a lease alive.
    KeepLease {
        /// From [`Lease::lease`].
        lease: u64,
    },
    /// Ends a lease: its keys go.
    RevokeLease {
        /// From [`Lease::lease`].
        lease: u64,
        /// Its place in a session.
        place: Place,
    },
    /// Asks how a lease is.
    GetLease {
        /// From [`Lease::lease`].
        lease: u64,
    },
    /// Settles what became of the write at this place of a session.
    Resolve(Place),
    /// Asks for every change of a range.
    Watch(Watch<'a>),
    /// Ends a watch of this connection.
    Unwatch {
        /// The id of its request.
        watch: u64,
    },
    /// Asks for the topology, now and whenever it changes.
    FollowTopology,
}

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

/// Sets a key to a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Put<'a> {
    /// Namespace; "" is the default one.
    pub namespace: &'a str,
    /// The key.
    pub key: &'a [u8],
    /// Its new value, possibly empty.
    pub value: &'a [u8],
    /// From [`ReplyBody::SessionOpened`]; 0: none, then a lost reply's outcome stays unknown.
    pub session: u64,
    /// 1, 2, 3 ... in the session; 0 without one.
    pub sequence: u64,
    /// The client has the answers of all sequences below this one.
    pub answered_below: u64,
    /// How long the key stays.
    pub life: Life,
}

/// Removes a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delete<'a> {
    /// Namespace; "" is the default one.
    pub namespace: &'a str,
    /// The key.
    pub key: &'a [u8],
    /// As in [`Put::session`].
    pub session: u64,
    /// As in [`Put::sequence`].
    pub sequence: u64,
    /// As in [`Put::answered_below`].
    pub answered_below: u64,
}

/// Reads a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Get<'a> {
    /// Namespace; "" is the default one.
    pub namespace: &'a str,
    /// The key.
    pub key: &'a [u8],
    /// How fresh the answer must be.
    pub consistency: Consistency,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began. Served by the leader.
    #[default]
    Linearizable,
    /// What the asked node has applied. Served by every node that keeps state.
    Local,
    /// What a node has applied that has come at least so far: one's own writes, and never less than one has seen. Served by every node
    /// that keeps state.
    Session {
        /// Log index of the shard.
        index_min: u64,
    },
    /// Misses nothing that was acknowledged longer ago than this. Served by every node that keeps state and can show it.
    Bounded {
        /// Milliseconds.
        age_ms_max: u32,
        /// When it cannot be shown, answer all the same, and say so.
        stale_ok: bool,
    },
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The request's id.
    pub id: u64,
    /// The answer.
    pub body: ReplyBody<'a>,
}

/// The kinds of replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody<'a> {
    /// To `Hello`.
    Welcome(Welcome),
    /// To `Put`, `Delete`, `CloseSession`: durable on a quorum and applied.
    Written(Written),
    /// To `Get`.
    Value(Value<'a>),
    /// To `OpenSession`.
    SessionOpened {
        /// The session's id.
        session: u64,
        /// How long it lives without a write, milliseconds of ring time.
        lifetime_ms: u64,
    },
    /// To `GetTopology`.
    Topology(Topology),
    /// To `GetStatus`.
    Status(Box<Status>),
    /// To anything: no.
    Refused(Refusal),
    /// To `Ping` and the ring's commands.
    Done {
        /// What was done, for people.
        message: String,
    },
    /// To `Transact`: durable on a quorum and applied.
    Transacted(Box<Transacted<'a>>),
    /// To `Scan` and `GetMany`.
    Items(Items<'a>),
    /// To `Add`: durable on a quorum and applied.
    Counted(Counted),
    /// To `DeleteRange`: durable on a quorum and applied.
    RangeDeleted(RangeDeleted),
    /// To `GrantLease`, `KeepLease` and `GetLease`.
    Lease(Lease),
    /// To `Resolve`: durable on a quorum and applied.
    Resolved(Box<Resolved<'a>>),
    /// To `Watch`: it is on.
    WatchStarted(WatchStarted),
    /// To `Watch`, again and again.
    Events(Events<'a>),
    /// To `Watch`: it is over.
    WatchEnded(Box<WatchEnded>),
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

/// When a key last changed: totally ordered within a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Log index of the batch.
    pub index: u64,
    /// Position in the batch.
    pub position: u32,
}

/// Where the time of a write went, microseconds. `fsync` runs beside `quorum`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakdown {
    /// From arrival to the batch's append.
    pub queue_us: u32,
    /// From append to durable on the leader.
    pub fsync_us: u32,
    /// From append to committed.
    pub quorum_us: u32,
    /// From committed to applied.
    pub apply_us: u32,
}

/// A write is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Of the key, from this write.
    pub revision: Revision,
    /// Ring time of the batch, milliseconds.
    pub ring_time_ms: u64,
    /// The key had a value before.
    pub existed: bool,
    /// The answer of an earlier, identical request of this session.
    pub duplicate: bool,
    /// Where the time went.
    pub breakdown: Breakdown,
}

/// A read's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Value<'a> {
    /// Whether the key has a value.
    pub found: bool,
    /// The value; empty when not found.
    pub value: &'a [u8],
    /// Of the key; zero when not found.
    pub revision: Revision,
    /// The applied log index that this answer reflects.
    pub index: u64,
    /// It reflects every write acknowledged this long before it was made, or longer ago, milliseconds; `None`: not known.
    pub age_ms: Option<u32>,
    /// It may be older than asked for.
    pub stale: bool,
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
