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
mod read;
mod ring;
mod transaction;
mod watch;

pub use crate::member::{Member, Role};
use crate::refusal::Refusal;
pub use build::Encoder;
pub use data::{Add, Counted, DeleteRange, Extend, Fold, Lease, Life, Place, RangeDeleted, Resolved, check_ttl};
pub use items::{GetMany, Item, Items, Moment, Scan};
pub use parse::{parse_reply, parse_request};
pub use read::{Consistency, Get, Value};
pub use ring::{Hello, Progress, SlotRange, Status, Topology, Welcome};
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
    /// Gives up a pinned moment.
    Unpin {
        /// From [`Items::pinned`].
        pin: u64,
    },
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
