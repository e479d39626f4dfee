//! What peers say to each other beside appends: who is there, votes, hand-overs, snapshots.

use super::{LogId, Vote};
use crate::member::Member;

/// What a connection is for. Heartbeats and elections never wait behind large appends or snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Appends with entries.
    #[default]
    Replication,
    /// Appends without entries.
    Heartbeat,
    /// Votes and hand-overs.
    Election,
    /// Snapshots.
    Snapshot,
    /// Founding and joining.
    Control,
    /// How far the leader has committed.
    Read,
}

/// Opens a peer connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerHello {
    /// Protocol version.
    pub version: u16,
    /// Ring id; 0: founding or joining, then only [`Purpose::Control`] is allowed.
    pub ring: u64,
    /// Calling node.
    pub from: u64,
    /// Its incarnation.
    pub from_incarnation: u64,
    /// Called node.
    pub to: u64,
    /// Its incarnation as the caller knows it; 0: not known yet.
    pub to_incarnation: u64,
    /// The shard.
    pub shard: u32,
    /// What the connection is for.
    pub purpose: Purpose,
}

/// Asks for a vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestVote {
    /// The vote asked for.
    pub vote: Vote,
    /// The candidate's last entry.
    pub last: Option<LogId>,
    /// Only asks whether it would be granted (pre-vote).
    pub pre: bool,
    /// The leader itself asked for this election: its lease does not stand against it.
    pub transfer: bool,
}

/// Hands leadership over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferLeader {
    /// The vote of the leader that gives up.
    pub from: Vote,
    /// The node that should lead.
    pub to: u64,
    /// It may campaign once it has this entry.
    pub last: Option<LogId>,
}

/// Describes a snapshot; chunks follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotOffer<'a> {
    /// The leader's vote.
    pub vote: Vote,
    /// Last entry in the snapshot.
    pub last: Option<LogId>,
    /// Where the membership was logged.
    pub membership_at: Option<LogId>,
    /// The encoded [`Membership`](super::Membership).
    pub membership: &'a [u8],
    /// The snapshot's name: equal names have equal bytes.
    pub snapshot: &'a str,
    /// Length, bytes.
    pub bytes: u64,
    /// CRC32 of all its bytes.
    pub crc: u32,
}

/// The called side of a peer connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerWelcome {
    /// Protocol version.
    pub version: u16,
    /// Node id.
    pub node: u64,
    /// Its incarnation.
    pub incarnation: u64,
    /// Ring id; 0: not founded.
    pub ring: u64,
}

/// How a vote went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VoteReply {
    /// The vote that the asked node holds now.
    pub vote: Vote,
    /// It is the one asked for.
    pub granted: bool,
    /// The asked node's last entry.
    pub last: Option<LogId>,
}

/// Who a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Node id.
    pub node: u64,
    /// Its incarnation.
    pub incarnation: u64,
    /// Ring id; 0: not founded.
    pub ring: u64,
    /// Number of shards; 0: not founded.
    pub shards: u32,
    /// How it would appear in the membership.
    pub member: Member,
    /// The ring's members as it knows them; empty when not founded.
    pub members: Vec<Member>,
    /// Its shards have been started: from now on an empty log is a lost log.
    pub started: bool,
}

/// How the ring knows a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Not at all.
    #[default]
    Unknown,
    /// With this incarnation.
    Known,
    /// With another incarnation: the node's disk was lost, it must be replaced.
    OtherIncarnation,
}
