//! One raft group as the rest of the shard sees it: propose a batch, confirm leadership, know the leader, change the members.
//!
//! ```text
//! open ─▶ log recovered, newest snapshot and committed entries applied ─▶ follower, or learner, or waiting to be added
//! ```
//!
//! **Invariants**
//! - Only a node that was founded with the ring initialises its group, and only while its log has never held anything.
//! - After a restart nobody leads without a new election: the followers' disks may be ahead of the old leader's.
//! - A tie-breaker campaigns only when nobody else has won for several election timeouts, and hands over at once: it may be the
//!   only holder of an acknowledged entry, which a ring that never lets it lead would wait for until the dead leader returns.

mod elections;
pub(crate) mod lease;
mod members;
mod open;
mod standing;

pub use members::NOT_LEADER;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::metrics::RaftMetrics;
use openraft::{Raft, ReadPolicy, ServerState};
use ringbeam_wire::client::Progress;
use ringbeam_wire::peer::{Member, Role};

use super::link::PeerContext;
use super::machine::Machine;
use super::network::FullNodes;
use super::read_index::Rounds;
use super::snapshot::receive::Incoming;
use super::{Applied, Batch, Types};
use crate::io::{Env, Instant, channel};
use crate::wal::{Claim, Wal};

/// How a raft group behaves in time.
#[derive(Clone, Debug)]
pub struct Timers {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// A follower that hears nothing campaigns after its lease and a random time between these two.
    pub election_timeout_min: Duration,
    /// See `election_timeout_min`; also the leader's lease.
    pub election_timeout_max: Duration,
    /// A follower promises a leader for so long to elect nobody else, so that it may read alone; no longer than `election_timeout_min`.
    /// Zero: it does not.
    pub read_lease: Duration,
}

/// One raft group on one node.
pub struct Replica<E: Env> {
    pub(crate) context: Rc<PeerContext<E>>,
    pub(crate) raft: Raft<Types<E>, Machine<E>>,
    pub(crate) disk: E::Disk,
    pub(crate) incoming: channel::Mutex<Option<Incoming<E>>>,
    /// The leadership that this node holds, or is about to, was handed to it: it does not hand it on by itself.
    pub(crate) led_by_transfer: Cell<bool>,
    /// Who waits for a round that confirms that this node leads.
    pub(crate) rounds: Rounds,
    full: FullNodes,
    /// Everything up to this log index is on enough voters that keep state: a tie-breaker may drop it.
    settled: Rc<Cell<u64>>,
    pub(crate) leases: Rc<lease::Leases>,
    metrics: WatchReceiverOf<Types<E>, RaftMetrics<Types<E>>>,
    machine: Machine<E>,
    wal: Wal<E>,
    dir: String,
    timers: Timers,
    heard: Cell<Instant>,
    electing: Cell<bool>,
    /// It knows that it is no member, and does not campaign.
    resting: Cell<bool>,
    /// Membership changes that were asked for here and have not ended.
    changing: Cell<usize>,
    founders: RefCell<Vec<Member>>,
}

/// Why a batch was not applied.
#[derive(Debug)]
pub enum NotApplied {
    /// This node does not lead; it never entered the log.
    NotLeader,
    /// It may be in the log, and may yet be applied.
    Unknown(String),
}

/// A group's part of a status.
#[derive(Clone, Debug)]
pub struct GroupStanding {
    /// leader, follower, candidate or learner.
    pub raft_state: String,
    /// Node id of the leader, 0: none known.
    pub leader: u64,
    /// The newest term.
    pub term: u64,
    /// Commit index as this node knows it.
    pub committed_index: u64,
    /// Index of the newest snapshot.
    pub snapshot_index: u64,
    /// Each member; positions only from the leader.
    pub progress: Vec<Progress>,
    /// A membership change is under way.
    pub joint: bool,
}

/// Who leads, as far as this node knows.
#[derive(Clone, Debug, Default)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<Member>,
    /// Its term, or the newest term known.
    pub term: u64,
    /// True when it is this node.
    pub is_me: bool,
}

impl<E: Env> Replica<E> {
    /// Appends a batch, waits for its quorum and its application.
    pub async fn propose(&self, payload: Bytes, room: Claim) -> Result<Applied, NotApplied> {
        let room = Some(Rc::new(room));
        let _kept = room.clone().filter(|_| planted!(RoomKeptUntilAnswered));
        match self.raft.client_write(Batch { payload, room }).await {
            Ok(response) => Ok(response.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(NotApplied::NotLeader),
            Err(e) => Err(NotApplied::Unknown(e.to_string())),
        }
    }

    /// Confirms with a quorum that this node leads now, and waits until all that was committed before is applied here: up to which index.
    /// Each of the two takes an election timeout at most: a new leader whose first entry no quorum takes keeps nobody waiting. Under a
    /// lease there is only the second.
    pub async fn confirm_leadership(&self) -> Result<u64, NotApplied> {
        if planted!(ReadWithoutQuorum) {
            return if self.leads() { Ok(self.machine.applied_index()) } else { Err(NotApplied::NotLeader) };
        }
        if let Some(index) = self.confirm_by_lease().await {
            return Ok(index);
        }
        let policy = if planted!(ReadByLease) { ReadPolicy::LeaseRead } else { ReadPolicy::ReadIndex };
        let read = match self.raft.get_read_linearizer(policy).await {
            Ok(read) => read,
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => return Err(NotApplied::NotLeader),
            Err(e) => return Err(NotApplied::Unknown(e.to_string())),
        };
        let index = read.read_log_id().index();
        if planted!(ReadBeforeApplied) {
            return Ok(index);
        }
        match read.try_await_ready(&self.raft, Some(self.timers.election_timeout_max)).await {
            Ok(Ok(_)) => Ok(index),
            Ok(Err(_)) => Err(NotApplied::Unknown(format!("log index {index} is not committed, or not applied here"))),
            Err(e) => Err(NotApplied::Unknown(e.to_string())),
        }
    }

    /// The ring's time now, for what this node proposes as the leader.
    pub fn ring_time_ms(&self, now: Instant) -> u64 {
        let term = self.metrics.borrow_watched().current_term;
        self.machine.ring_time_ms((term, self.context.me.node), now)
    }

    /// The state machine, for reads.
    pub fn machine(&self) -> &Machine<E> {
        &self.machine
    }

    /// The log.
    pub fn wal(&self) -> &Wal<E> {
        &self.wal
    }

    /// A path in the shard's directory.
    pub(crate) fn file_path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    pub(crate) fn metrics(&self) -> RaftMetrics<Types<E>> {
        self.metrics.borrow_watched().clone()
    }

    /// Who leads.
    pub fn leadership(&self) -> Leadership {
        let m = self.metrics.borrow_watched();
        let leader = self.leader_in(&m).and_then(|id| Some(m.membership_config.membership().get_node(&id)?.member(id)));
        Leadership { leader, term: m.current_term, is_me: m.state == ServerState::Leader }
    }

    /// openraft names whoever the last vote was granted to for good. After a restart that may be this node, which then follows, and knows
    /// of no leader.
    fn leader_in(&self, m: &RaftMetrics<Types<E>>) -> Option<u64> {
        m.current_leader.filter(|id| *id != self.context.me.node || m.state == ServerState::Leader)
    }

    /// True while this node leads and clients may write here.
    pub fn leads(&self) -> bool {
        self.metrics.borrow_watched().state == ServerState::Leader && self.may_lead()
    }

    /// False for a tie-breaker and an observer.
    pub fn may_lead(&self) -> bool {
        self.context.me.role == Role::Voter
    }

    /// Why the group has stopped, if it has.
    pub fn fault(&self) -> Option<String> {
        if let Some(why) = self.wal.fault() {
            return Some(why);
        }
        let m = self.metrics.borrow_watched();
        m.running_state.as_ref().err().map(|fatal| fatal.to_string())
    }

    /// A leader's append or heartbeat has arrived, saying that so much is settled: true for ever, whoever said it.
    pub(crate) fn heard_from_leader(&self, settled: u64) {
        self.heard.set(E::now());
        self.settled.set(self.settled.get().max(settled));
        if self.resting.replace(false) {
            self.raft.runtime_config().elect(self.may_lead());
        }
    }

    /// True when this node leads, or has heard its leader within a lease.
    pub fn is_led(&self) -> bool {
        self.leads() || E::now().since(self.heard.get()) < self.timers.election_timeout_max * 2
    }

    pub(crate) fn member(&self, node: u64) -> Option<Member> {
        let m = self.metrics.borrow_watched();
        Some(m.membership_config.membership().get_node(&node)?.member(node))
    }

    /// All nodes of the newest membership, in the order of their ids.
    pub fn members(&self) -> Vec<Member> {
        let m = self.metrics.borrow_watched();
        let members: Vec<Member> = m.membership_config.membership().nodes().map(|(id, site)| site.member(*id)).collect();
        if members.is_empty() { self.founders.borrow().clone() } else { members }
    }

    /// Index up to which the log is stored here.
    pub fn last_index(&self) -> u64 {
        self.wal.last().map_or(0, |id| id.index)
    }

    /// Stops the group: nothing is appended or applied after it returns.
    pub async fn shutdown(&self) {
        let _ = self.raft.shutdown().await;
    }
}
