//! The peer protocol: what nodes of a ring say to each other about one shard.
//!
//! Requests on one connection are answered in their order. The first is [`PeerHello`]; what may follow depends on its purpose.
//! An [`Append`] stays in its payload: its entries are checked when it is parsed and read when they are asked for, as slices
//! that `Bytes::slice_ref` turns into shared ones without a copy.
//!
//! **Invariants**: a message that parsed is complete; the indexes of an [`Append`]'s entries are consecutive.
//!
//! **Not here**: whether a vote is granted or an append fits (`shards/raft`); what is in an entry's payload, except for
//! [`Membership`].

mod append;
mod build;
mod membership;
mod parse;
mod session;

pub use crate::member::{Member, Role};
pub use append::{Append, AppendHead, Entries};
pub use build::Encoder;
pub use membership::Membership;
pub use parse::{parse_reply, parse_request};
pub use session::{Identity, PeerHello, PeerWelcome, Purpose, RequestVote, SnapshotOffer, Standing, TransferLeader, VoteReply};

/// A log position: term and leader that wrote it, and index. Absent (`None`) means "before the first entry".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader.
    pub term: u64,
    /// Node id of the leader.
    pub leader: u64,
    /// Log index.
    pub index: u64,
}

/// For whom a node has voted in a term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The candidate or leader.
    pub node: u64,
    /// It has won the election, not only asked for it.
    pub committed: bool,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A new leader's first entry, without payload.
    #[default]
    Blank,
    /// A batch of writes, for the state machine.
    Batch,
    /// An encoded [`Membership`].
    Membership,
}

impl EntryKind {
    /// The kind's number on the wire and on disk.
    pub fn as_u8(self) -> u8 {
        match self {
            EntryKind::Blank => 0,
            EntryKind::Batch => 1,
            EntryKind::Membership => 2,
        }
    }

    /// The kind with this number, if this build knows it.
    pub fn from_u8(number: u8) -> Option<EntryKind> {
        match number {
            0 => Some(EntryKind::Blank),
            1 => Some(EntryKind::Batch),
            2 => Some(EntryKind::Membership),
            _ => None,
        }
    }
}

/// An entry of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// Its position.
    pub id: LogId,
    /// What it is.
    pub kind: EntryKind,
    /// Its payload: when parsed, a slice of the frame.
    pub payload: &'a [u8],
}

/// An entry to encode: the same shape.
pub type EntryOut<'a> = EntryRef<'a>;

/// A message to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRequest<'a> {
    /// Chosen by the sender, echoed in the reply.
    pub id: u64,
    /// What is said.
    pub body: PeerRequestBody<'a>,
}

/// The kinds of messages to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRequestBody<'a> {
    /// Says who calls whom; first on every connection.
    Hello(PeerHello),
    /// Replicates entries, or only says that the leader lives.
    Append(Append<'a>),
    /// Asks for a vote.
    Vote(RequestVote),
    /// Asks a follower to campaign at once.
    Transfer(TransferLeader),
    /// Offers a snapshot.
    SnapshotOffer(SnapshotOffer<'a>),
    /// A piece of the snapshot that was offered on this connection.
    SnapshotChunk {
        /// Where it belongs, bytes from the snapshot's start.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
        /// Nothing follows.
        last: bool,
    },
    /// Asks who a node is; answered also by one that is not founded yet.
    Identify,
    /// Tells a founder the ring's id and first members.
    Found {
        /// The new ring's id.
        ring: u64,
        /// Number of shards.
        shards: u32,
        /// All founders.
        members: Vec<Member>,
    },
    /// A joining node asks a member whether the ring knows it.
    WhoAmI {
        /// The asking node's id.
        node: u64,
        /// The asking node's incarnation.
        incarnation: u64,
    },
    /// To the leader: how far is the log committed? Answered once a quorum has confirmed, after this arrived, that it leads.
    ReadIndex,
}

/// A peer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerReply {
    /// The message's id.
    pub id: u64,
    /// The answer.
    pub body: PeerReplyBody,
}

/// The kinds of a peer's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerReplyBody {
    /// To `Hello`.
    Welcome(PeerWelcome),
    /// To `Append`.
    Append {
        /// How it went.
        reply: AppendReply,
        /// The follower's disk is full: its log takes no more than what is on its way.
        full: bool,
        /// For so long it elects nobody else, milliseconds by its own clock; 0: it promises nothing.
        promised_ms: u32,
    },
    /// To `Vote`.
    Vote(VoteReply),
    /// To `Transfer`.
    Transfer {
        /// Whether the follower will campaign.
        accepted: bool,
        /// Why not.
        message: String,
    },
    /// To `SnapshotOffer` and `SnapshotChunk`.
    Snapshot {
        /// The receiver's vote.
        vote: Vote,
        /// Offset that the receiver wants next, bytes.
        resume_at: u64,
        /// The snapshot is installed.
        installed: bool,
    },
    /// To `Identify`.
    Identity(Box<Identity>),
    /// To `WhoAmI` and `Found`.
    YouAre {
        /// How the ring knows the asking node.
        standing: Standing,
        /// Ring id.
        ring: u64,
        /// Number of shards.
        shards: u32,
        /// The ring's members.
        members: Vec<Member>,
    },
    /// To `ReadIndex`.
    ReadIndex {
        /// Everything that was acknowledged before the question arrived is at or before this log index.
        index: u64,
    },
    /// To anything: no.
    Refused {
        /// A number of [`crate::refusal::Code`], or one that this build does not know.
        code: u16,
        /// For people.
        message: String,
    },
}

/// How an append went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendReply {
    /// All entries are durable on the follower.
    Success,
    /// Those up to `matched` are.
    Partial {
        /// Last durable entry of them.
        matched: Option<LogId>,
    },
    /// The follower's log differs at `previous`.
    Conflict,
    /// The follower has seen this higher vote.
    HigherVote(Vote),
}
