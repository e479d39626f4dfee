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

mod members;

pub use members::NOT_LEADER;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::metrics::RaftMetrics;
use openraft::raft::TransferLeaderRequest;
use openraft::{Config, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use ringbeam_wire::client::Progress;
use ringbeam_wire::peer::{self, Member, PeerReplyBody, Role};
use ringbeam_wire::preamble;
use ringbeam_wire::refusal::Code;

use super::link::{Link, PeerContext};
use super::log::LogStore;
use super::machine::{Machine, MachineSettings};
use super::network::{FullNodes, Network};
use super::read_index::Rounds;
use super::snapshot::receive::Incoming;
use super::{Applied, Batch, Site, Types};
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
    /// Recovers the group from its directory and starts it.
    pub async fn open(
        context: Rc<PeerContext<E>>,
        disk: E::Disk,
        wal: Wal<E>,
        machine: MachineSettings,
        timers: Timers,
        founders: Vec<Member>,
    ) -> Result<Rc<Self>, String> {
        let ms = |d: Duration| d.as_millis() as u64;
        let keeps_state = context.me.role != Role::TieBreaker || planted!(TieBreakerForgets);
        let config = Config {
            cluster_name: format!("{:016x}/{}", context.ring, context.shard),
            heartbeat_interval: ms(timers.heartbeat),
            election_timeout_min: ms(timers.election_timeout_min),
            election_timeout_max: ms(timers.election_timeout_max),
            // Entries are whole batches; what bounds a request is bytes (`READ_BYTES_MAX`).
            max_payload_entries: 1024,
            snapshot_policy: SnapshotPolicy::Never,
            // A follower that is a little behind catches up by log, not by snapshot. A tie-breaker's log is dropped by
            // `snapshot_if_due` alone.
            max_in_snapshot_log_to_keep: if keeps_state { 1024 } else { u64::MAX },
            purge_batch_size: 256,
            install_snapshot_timeout: 600_000,
            broadcast_submitted_on_append: Some(true),
            enable_pre_vote: Some(true),
            // A leader that restarts must win again. Followers may hold, and have committed, entries that were never flushed
            // here: leading on in the same term would write others under the same term and index.
            enable_leader_restore: Some(false),
            backoff: "100ms".into(),
            // The leader's books may go back for a follower whose log did. On disks that keep what they called durable none does:
            // a follower acknowledges after the flush, a flush that recovery cuts was never acknowledged, and an empty disk is
            // another incarnation. What is left is a disk that lost its tail, which recovery cannot tell from a torn flush. The
            // danger of such a disk is its node's vote with the shorter log, and that is the same with and without this.
            // It takes nothing back at the leader: what a quorum has accepted stays committed (`reset_entry_with` in openraft's
            // `update_conflicting`), the follower's match becomes none, so it counts only for what it flushes and acknowledges
            // anew, and answers to appends from before the loss are dropped by their inflight id. openraft warns in the log.
            // Without it a build with assertions ends the leader with a panic, and any other goes on with books that contradict
            // themselves: one bad disk must not stop a good node. `allow_next_revert` is narrower only in name: it would have
            // to be given before the loss is seen, so to everybody.
            allow_log_reversion: Some(true),
            enable_elect: context.me.role == Role::Voter,
            ..Config::default()
        };
        let config = config.validate().map_err(|e| format!("timers: {e}"))?;
        let dir = machine.dir.clone();
        let machine = Machine::open(disk.clone(), machine).await.map_err(|e| e.to_string())?;
        let full = FullNodes::default();
        let settled = Rc::new(Cell::new(if planted!(TieBreakerForgets) { u64::MAX } else { 0 }));
        let (to_peers, full_peers, settled_now) = (machine.clone(), full.clone(), settled.clone());
        let network = Network { context: context.clone(), machine: to_peers, full: full_peers, settled: settled_now };
        let raft = Raft::new(context.me.node, Arc::new(config), network, LogStore::new(wal.clone()), machine.clone())
            .await
            .map_err(|e| e.to_string())?;
        let metrics = raft.metrics();
        Ok(Rc::new(Replica {
            context,
            raft,
            metrics,
            disk,
            incoming: channel::Mutex::new(None),
            led_by_transfer: Cell::new(false),
            rounds: Rounds::default(),
            full,
            settled,
            machine,
            wal,
            dir,
            timers,
            heard: Cell::new(E::now()),
            electing: Cell::new(false),
            resting: Cell::new(false),
            changing: Cell::new(0),
            founders: RefCell::new(founders),
        }))
    }

    /// Writes the first membership, if this group has never held anything. Every founder does it, with the same members.
    pub async fn found(&self) -> Result<(), String> {
        let founders = self.founders.borrow().clone();
        let is_founder = founders.iter().any(|m| m.node == self.context.me.node);
        if !is_founder || self.wal.last().is_some() || self.wal.vote().is_some() {
            return Ok(());
        }
        let voters: BTreeMap<u64, Site> = founders.into_iter().map(|m| (m.node, Site::of(m))).collect();
        match self.raft.initialize(voters).await {
            Ok(()) => Ok(()),
            // Another founder was faster and its vote or entry has arrived here: that is as good.
            Err(RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }

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
    pub async fn confirm_leadership(&self) -> Result<u64, NotApplied> {
        if planted!(ReadWithoutQuorum) {
            return if self.leads() { Ok(self.machine.applied_index()) } else { Err(NotApplied::NotLeader) };
        }
        if planted!(ReadBeforeApplied) {
            let confirmed = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
            return confirmed.map(|read| read.read_log_id().index()).map_err(|e| NotApplied::Unknown(e.to_string()));
        }
        let policy = if planted!(ReadByLease) { ReadPolicy::LeaseRead } else { ReadPolicy::ReadIndex };
        match self.raft.ensure_linearizable(policy).await {
            Ok(read) => Ok(read.index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(NotApplied::NotLeader),
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

    // ---- peers ----

    /// May this peer speak? Ring, node, shard and incarnations must agree; the refusal says which does not.
    pub(crate) fn admit(&self, hello: &peer::PeerHello) -> Result<(), (Code, String)> {
        let me = &self.context.me;
        if hello.version != preamble::VERSION {
            let why = format!("peer protocol version {}; node {} speaks {}", hello.version, me.node, preamble::VERSION);
            return Err((Code::UnsupportedVersion, why));
        }
        if hello.ring != self.context.ring {
            let why = format!("ring {:016x}; node {} is of ring {:016x}", hello.ring, me.node, self.context.ring);
            return Err((Code::WrongRing, why));
        }
        if hello.shard != self.context.shard {
            return Err((Code::WrongShard, format!("shard {} on a connection of shard {}", hello.shard, self.context.shard)));
        }
        if hello.to != me.node || hello.to_incarnation != me.incarnation {
            let why = format!(
                "you look for node {} with data {:016x}; here is node {} with data {:016x}. An empty or foreign data \
                 directory cannot stand in for the old one: ringbeam ring replace --node {} --by NEW_ID --peer HOST:PORT",
                hello.to, hello.to_incarnation, me.node, me.incarnation, hello.to
            );
            return Err((Code::Incarnation, why));
        }
        match self.member(hello.from) {
            Some(known) if known.incarnation != hello.from_incarnation => {
                let why = format!(
                    "the ring knows node {} with data {:016x}, not {:016x}: its data directory was lost or replaced. Give it a \
                     new id and run: ringbeam ring replace --node {} --by NEW_ID --peer HOST:PORT",
                    hello.from, known.incarnation, hello.from_incarnation, hello.from
                );
                Err((Code::Incarnation, why))
            }
            // A node that this one has not heard of yet may lead: this one may be far behind.
            _ => Ok(()),
        }
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

    pub(crate) fn identity(&self) -> peer::Identity {
        let me = &self.context.me;
        peer::Identity {
            node: me.node,
            incarnation: me.incarnation,
            ring: self.context.ring,
            shards: self.context.shards,
            member: me.clone(),
            members: self.members(),
            started: true,
        }
    }

    pub(crate) fn who_is(&self, node: u64, incarnation: u64) -> PeerReplyBody {
        let members = self.members();
        let standing = match members.iter().find(|m| m.node == node) {
            None => peer::Standing::Unknown,
            Some(known) if known.incarnation == incarnation => peer::Standing::Known,
            Some(_) => peer::Standing::OtherIncarnation,
        };
        PeerReplyBody::YouAre { standing, ring: self.context.ring, shards: self.context.shards, members }
    }

    /// A connection from `node`, maybe the leader, has closed. If it was the leader, this follower stops waiting for its lease
    /// and asks for an election: a killed process is noticed at once, not after a timeout.
    pub(crate) async fn leader_may_be_gone(self: &Rc<Self>, node: u64) {
        let m = self.metrics();
        if m.current_leader != Some(node) || m.state == ServerState::Leader || self.electing.replace(true) {
            return;
        }
        if !self.refuses_connections(node).await {
            self.electing.set(false);
            return;
        }
        // "Hand over to nobody" gives up the lease on this very vote, and only on it.
        let nobody = TransferLeaderRequest::new(m.vote, u64::MAX, None);
        let _ = self.raft.handle_transfer_leader(nobody).await;
        if self.may_lead() && m.state == ServerState::Follower {
            for attempt in 0..8u64 {
                // Spread, so that two followers seldom campaign against each other; the first tries are quick.
                let spread = Duration::from_millis(2 + E::random() % (20 << attempt.min(3)));
                E::sleep(spread).await;
                let now = self.metrics();
                if now.vote != m.vote || self.raft.trigger().elect(true).await.is_err() {
                    break;
                }
                E::sleep(Duration::from_millis(20)).await;
            }
        }
        self.electing.set(false);
    }

    /// True when nobody listens at the peer address of `node` any more, or somebody else does. A node that does not answer in
    /// time may live: then the lease decides.
    async fn refuses_connections(&self, node: u64) -> bool {
        let Some(member) = self.member(node) else { return false };
        match Link::open(&self.context, &member, peer::Purpose::Election).await {
            Ok(_) => false,
            Err(e) => e.kind() != std::io::ErrorKind::TimedOut,
        }
    }

    // ---- upkeep ----

    /// Keeps the log at about `log_bytes_max`: first the older half of what the newest snapshot covers is dropped, so that a
    /// follower that is a little behind finds the rest; when nothing covered is left, the next snapshot is due.
    ///
    /// openraft drops by count alone (`max_in_snapshot_log_to_keep`), and entries are batches of up to 16 MiB.
    ///
    /// A tie-breaker's snapshot holds no state, so what it drops is gone: only what is settled. It keeps the rest however long the log
    /// becomes; when its disk is full for that, the ring takes no more writes, as no two copies of them would be left.
    ///
    /// When the newest snapshot is damaged, another is due whatever the log has, and nothing more is dropped until there is one: a
    /// restart could not do without it.
    pub async fn snapshot_if_due(&self, log_bytes_max: u64) {
        if self.machine.distrusts_snapshot() {
            let _ = self.raft.trigger().snapshot().await;
            return;
        }
        if self.wal.bytes() <= log_bytes_max {
            return;
        }
        let m = self.metrics();
        let applied = m.last_applied.as_ref().map(|id| id.index);
        let covered = m.snapshot.as_ref().map(|id| id.index);
        let kept_from = self.wal.purged().map_or(0, |id| id.index);
        let settled = if self.context.me.role == Role::TieBreaker { self.settled.get() } else { u64::MAX };
        let droppable = covered.unwrap_or(0).min(settled).saturating_sub(kept_from);
        if droppable > 0 {
            let _ = self.raft.trigger().purge_log(kept_from + droppable.div_ceil(2)).await;
        } else if applied > covered && covered.unwrap_or(0) < settled {
            let _ = self.raft.trigger().snapshot().await;
        }
    }

    /// A tie-breaker that nobody leads for long campaigns, and one that leads hands over. One whose log has begun after what is settled, as
    /// that of a new one, cannot bring a voter up to date that lacks more: it leaves another one the time to win, and when it had to win
    /// itself, being ahead of that one by an entry, hands over to it.
    pub async fn tie_break(&self) {
        if self.context.me.role != Role::TieBreaker {
            return;
        }
        let m = self.metrics();
        if m.state == ServerState::Leader {
            let heirs = self.heirs();
            if let Some((heir, _)) = heirs.iter().min_by_key(|(_, lag)| *lag).filter(|(_, lag)| *lag == 0) {
                let _ = self.raft.trigger().transfer_leader(*heir).await;
            } else if E::now().since(self.heard.get()) > self.timers.election_timeout_max * 4
                && let Some(other) = self.stand_in()
            {
                self.heard.set(E::now());
                tracing::info!(
                    shard = self.context.shard,
                    to = other,
                    "this tie-breaker's log begins too late: leadership handed over"
                );
                let _ = self.raft.trigger().transfer_leader(other).await;
            }
        } else if !self.resting.get() {
            let lacks = self.wal.purged().is_some_and(|id| id.index > self.settled.get());
            if E::now().since(self.heard.get()) <= self.timers.election_timeout_max * if lacks { 8 } else { 4 } {
                return;
            }
            self.heard.set(E::now());
            let _ = self.raft.trigger().elect(true).await;
        }
    }

    /// The voter that should lead `shard` when all are well: shards go round the voters in the order of their ids.
    pub fn preferred_leader(&self, shard: u32) -> Option<u64> {
        let m = self.metrics();
        let membership = m.membership_config.membership();
        let eligible: Vec<u64> = membership
            .voter_ids()
            .filter(|id| membership.get_node(id).is_some_and(|n| n.role() == Role::Voter))
            .collect::<BTreeSet<u64>>()
            .into_iter()
            .collect();
        eligible.get(shard as usize % eligible.len().max(1)).copied()
    }

    /// The heir that has room for more, and lacks the least.
    pub fn best_heir(&self) -> Option<u64> {
        self.heirs().into_iter().min_by_key(|(id, lag)| (self.is_full(*id), *lag, *id)).map(|(id, _)| id)
    }

    /// Log index of the newest membership.
    pub fn membership_index(&self) -> u64 {
        let m = self.metrics.borrow_watched();
        m.membership_config.log_id().as_ref().map_or(0, |id| id.index)
    }

    /// What a status says of the group.
    pub fn standing(&self) -> GroupStanding {
        let m = self.metrics();
        let membership = m.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let last = m.last_log_index.unwrap_or(0);
        let progress = membership
            .nodes()
            .map(|(id, site)| {
                let matched = match &m.replication {
                    _ if *id == self.context.me.node => last,
                    Some(replication) => replication.get(id).and_then(|id| id.as_ref()).map_or(0, |id| id.index),
                    None => 0,
                };
                let lag = if m.replication.is_some() { last.saturating_sub(matched) } else { 0 };
                Progress { node: *id, role: site.role(), matched, lag, learner: !voters.contains(id) }
            })
            .collect();
        GroupStanding {
            raft_state: format!("{:?}", m.state).to_lowercase(),
            leader: self.leader_in(&m).unwrap_or(0),
            term: m.current_term,
            committed_index: m.cluster_committed.as_ref().map_or(0, |id| id.index),
            snapshot_index: m.snapshot.as_ref().map_or(0, |id| id.index),
            progress,
            joint: membership.get_joint_config().len() > 1,
        }
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
