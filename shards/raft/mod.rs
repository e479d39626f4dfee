//! Raft, by openraft: the only room that names it.
//!
//! ```text
//!   write.rs ──propose──▶ Raft ──append──▶ log.rs ─────▶ wal        (the leader's fsync)
//!                          │ └──stream───▶ network.rs ─▶ peers      (beside it: the quorum's)
//!                          ▼ commit
//!                      machine.rs ─▶ state           (apply, answers)
//! ```
//!
//! | file | what openraft asks for | onto |
//! |---|---|---|
//! | `runtime.rs` | tasks, clock, channels | `io` |
//! | `log.rs` | vote and log storage | `wal` |
//! | `machine.rs`, `machine/`, `snapshot.rs` | state machine, snapshots | `state`, files |
//! | `snapshot/` | snapshots to and from peers | files, `wire::peer` |
//! | `network.rs`, `link.rs` | requests to peers | `io` connections, `wire::peer` |
//! | `peers.rs` | requests from peers | the same, the other way |
//! | `read_index.rs` | nothing: asks the leader how far it has committed, and answers | `wire::peer` |
//! | `replica.rs`, `replica/` | one raft group as the rest of the shard sees it; its opening, elections, members | all of them |
//!
//! What is no append to or from a peer is in folders: `network/`, `peers/`, `link/`.
//!
//! **Invariants**
//! - An entry counts for the quorum only after this node's log has made it durable (`IOFlushed` is completed by the flush).
//! - A node is (id, incarnation). Every peer connection states both ends' incarnations; a mismatch is refused at both ends, so
//!   an empty disk under a known id can neither vote nor be counted.
//! - The state machine changes only by applying committed entries in order, or by installing a snapshot.
//!
//! **Not here**: which writes form an entry (`batcher.rs`), what an entry means (`state`), when to hand leadership over
//! (`shard.rs`).

pub mod link;
pub mod log;
pub mod machine;
pub mod network;
pub mod peers;
pub(crate) mod read_index;
pub mod replica;
pub mod runtime;
#[cfg(feature = "sim")]
pub mod sim_doors;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use bytes::Bytes;
use openraft::RaftTypeConfig;
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::vote::RaftLeaderId;
use ringbeam_wire::peer as wire;
use ringbeam_wire::peer::{Member, Role};

use crate::io::{Env, Instant};
use crate::raft::runtime::Runtime;
use crate::state::Answer;
use crate::wal;
pub(crate) use crate::wal::Claim;

/// openraft's types, for a shard in the world `E`.
pub struct Types<E>(PhantomData<E>);

/// What the membership says of a node besides its id: a [`Member`] without it, since the membership is a map by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site(Member);

impl Site {
    /// The place of `member`.
    pub fn of(member: Member) -> Site {
        Site(Member { node: 0, ..member })
    }

    /// The node `id` at this place.
    pub fn member(&self, id: u64) -> Member {
        Member { node: id, ..self.0.clone() }
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.0.role
    }
}

/// The payload of a batch entry: the bytes that `state::command` reads. Its room in the log goes with it, and is given back when
/// the log has it or never will.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    /// See `state/command.rs`.
    pub payload: Bytes,
    /// Of a client's batch that is on its way into the log.
    pub room: Option<Rc<Claim>>,
}

/// What applying a batch gave: one answer a write, and when it ran.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// In the order of the writes. Empty for entries that are no batch.
    pub answers: Vec<Answer>,
    /// The index of the entry.
    pub index: u64,
    /// When the entry was known to be committed and its application began.
    pub began: Instant,
    /// When it was applied.
    pub ended: Instant,
}

impl<E: Env> RaftTypeConfig for Types<E> {
    type D = Batch;
    type R = Applied;
    type NodeId = u64;
    type Node = Site;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Batch, u64, Site>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = Runtime<E>;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

// Written out, because derives would ask the same of E, which is never a value.
impl<E> Clone for Types<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Types<E> {}
impl<E> Default for Types<E> {
    fn default() -> Self {
        Types(PhantomData)
    }
}
impl<E> fmt::Debug for Types<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}
impl<E> PartialEq for Types<E> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<E> Eq for Types<E> {}
impl<E> PartialOrd for Types<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Types<E> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.payload.len())
    }
}
impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answers at {}", self.answers.len(), self.index)
    }
}

/// Entry kinds in the log; the same numbers as `wire`'s `EntryKind`.
pub(crate) mod kind {
    pub const BLANK: u8 = 0;
    pub const BATCH: u8 = 1;
    pub const MEMBERSHIP: u8 = 2;
}

pub(crate) type TLogId<E> = LogIdOf<Types<E>>;
pub(crate) type TVote<E> = VoteOf<Types<E>>;
pub(crate) type TEntry<E> = EntryOf<Types<E>>;
type LeaderIdOf = openraft::impls::leader_id_adv::LeaderId<u64, u64>;

pub(crate) fn log_id_out<E: Env>(id: &TLogId<E>) -> wal::LogId {
    wal::LogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_in<E: Env>(id: wal::LogId) -> TLogId<E> {
    openraft::LogId::new(LeaderIdOf { term: id.term, node_id: id.leader }, id.index)
}

pub(crate) fn vote_out<E: Env>(vote: &TVote<E>) -> wal::Vote {
    wal::Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_in<E: Env>(vote: wal::Vote) -> TVote<E> {
    openraft::impls::Vote { leader_id: LeaderIdOf { term: vote.term, node_id: vote.node }, committed: vote.committed }
}

pub(crate) fn wire_id(id: wal::LogId) -> wire::LogId {
    wire::LogId { term: id.term, leader: id.leader, index: id.index }
}

pub(crate) fn wal_id(id: wire::LogId) -> wal::LogId {
    wal::LogId { term: id.term, leader: id.leader, index: id.index }
}

pub(crate) fn wire_vote<E: Env>(vote: &TVote<E>) -> wire::Vote {
    wire::Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_from_wire<E: Env>(vote: wire::Vote) -> TVote<E> {
    vote_in::<E>(wal::Vote { term: vote.term, node: vote.node, committed: vote.committed })
}

/// The log's form of an entry.
pub(crate) fn entry_out<E: Env>(entry: TEntry<E>) -> wal::Entry {
    let id = log_id_out::<E>(&entry.log_id);
    let (kind, payload) = match entry.payload {
        openraft::EntryPayload::Blank => (kind::BLANK, Bytes::new()),
        openraft::EntryPayload::Normal(batch) => (kind::BATCH, batch.payload),
        openraft::EntryPayload::Membership(m) => (kind::MEMBERSHIP, Bytes::from(membership_out(&m).encode())),
    };
    wal::Entry { id, kind, payload }
}

/// openraft's form of an entry from the log or from a peer; the error says what is wrong with it.
pub(crate) fn entry_in<E: Env>(id: wal::LogId, kind: u8, payload: Bytes) -> Result<TEntry<E>, String> {
    let payload = match kind {
        kind::BLANK => openraft::EntryPayload::Blank,
        kind::BATCH => openraft::EntryPayload::Normal(Batch { payload, room: None }),
        kind::MEMBERSHIP => openraft::EntryPayload::Membership(membership_in(&payload)?),
        other => return Err(format!("log index {}: entry kind {other}; known are 0, 1 and 2", id.index)),
    };
    Ok(<TEntry<E> as RaftEntry>::new(log_id_in::<E>(id), payload))
}

pub(crate) fn membership_out(m: &openraft::Membership<u64, Site>) -> wire::Membership {
    wire::Membership {
        configs: m.get_joint_config().iter().map(|c| c.iter().copied().collect()).collect(),
        members: m.nodes().map(|(id, site)| site.member(*id)).collect(),
    }
}

pub(crate) fn membership_in(bytes: &[u8]) -> Result<openraft::Membership<u64, Site>, String> {
    let m = wire::Membership::decode(bytes).map_err(|e| format!("membership: {e}"))?;
    let configs = m.configs.into_iter().map(|c| c.into_iter().collect()).collect();
    let nodes: std::collections::BTreeMap<u64, Site> = m.members.into_iter().map(|m| (m.node, Site::of(m))).collect();
    openraft::Membership::new(configs, nodes).map_err(|e| format!("membership: {e}"))
}
