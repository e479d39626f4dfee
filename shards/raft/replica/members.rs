//! Who belongs to a group, and who leads it: hand-over, and membership changes one at a time through joint consensus.
//!
//! **Invariant**: every call may be repeated: what is done already answers so. A change of the voters that was interrupted half way is
//! completed by whoever leads then.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, RaftMetrics, ServerState};
use ringbeam_wire::peer::{self, Role};

use super::Replica;
use crate::io::Env;
use crate::limits::{CARE_INTERVAL, PEER_TIMEOUT};
use crate::raft::{Site, TLogId, Types, link, log_id_in, runtime, vote_out, wal_id};

/// What a change of the membership answers when another node leads.
pub const NOT_LEADER: &str = "not the leader";

/// A learner this close to the leader's log is caught up: it gets what is missing within one round.
const PROMOTE_LAG_MAX: u64 = 1024;

/// What each node has acknowledged, as openraft tells a leader.
type Replication<E> = BTreeMap<u64, Option<TLogId<E>>>;

impl<E: Env> Replica<E> {
    /// Followers that could lead: voters by role and membership that have answered within a lease, with how far behind each is.
    /// From the leader only.
    pub fn heirs(&self) -> Vec<(u64, u64)> {
        let last = self.metrics().last_log_index.unwrap_or(0);
        let followers = self.followers(Role::Voter).into_iter();
        followers.filter_map(|(id, matched)| Some((id, last.saturating_sub(matched?)))).collect()
    }

    /// A tie-breaker that has all of this one's log, when a voter that answers lacks what this one's log has no more, or never had: the other's
    /// may reach further back, and this one, the longer by an entry, was the only one that could win. From a tie-breaker that leads only.
    pub(super) fn stand_in(&self) -> Option<u64> {
        let (purged, last) = (self.wal().purged()?.index, self.metrics().last_log_index);
        let lacks = self.followers(Role::Voter).iter().any(|(_, matched)| matched.unwrap_or(0) < purged);
        let others = if lacks { self.followers(Role::TieBreaker) } else { Vec::new() };
        others.iter().find(|(_, matched)| *matched == last).map(|(id, _)| *id)
    }

    /// Followers that vote and have this role, and have answered within a lease, with how far each is known to have this leader's log.
    fn followers(&self, role: Role) -> Vec<(u64, Option<u64>)> {
        let m = self.metrics();
        let Some(replication) = &m.replication else { return Vec::new() };
        // What a dead node had matched stays known: it must not pass for the one that lacks the least.
        let answers = |id: &u64| self.answers(&m, *id);
        let membership = m.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        replication
            .iter()
            .filter(|(id, _)| **id != self.context.me.node && voters.contains(id) && answers(id))
            .filter(|(id, _)| membership.get_node(id).is_some_and(|n| n.role() == role))
            .map(|(id, matched)| (*id, matched.as_ref().map(|id| id.index)))
            .collect()
    }

    /// As the leader knows it: `node` is in reach now.
    fn answers(&self, m: &RaftMetrics<Types<E>>, node: u64) -> bool {
        let heard = m.heartbeat.as_ref().and_then(|heard| heard.get(&node)?.as_ref());
        heard.is_some_and(|at| E::now().since(at.0) < self.timers.election_timeout_max)
    }

    /// As the leader knows it: the disk of `node` is full.
    pub fn is_full(&self, node: u64) -> bool {
        self.full.borrow().contains(&node)
    }

    /// Why no quorum can take more, if full disks are the reason.
    pub fn quorum_full(&self) -> Option<String> {
        let mut full = self.full.borrow().clone();
        if self.wal().has_room().is_err() {
            full.insert(self.context.me.node);
        }
        if full.is_empty() {
            return None;
        }
        let m = self.metrics.borrow_watched();
        let stuck = |voters: &BTreeSet<u64>| (voters.len() - voters.intersection(&full).count()) * 2 <= voters.len();
        let any = m.membership_config.membership().get_joint_config().iter().any(stuck);
        any.then(|| format!("the disks of nodes {full:?} are full, and without them there is no quorum"))
    }

    /// A leader looks how much of the log its tie-breakers may drop: what is committed, and on as many voters that keep state as a
    /// quorum has, or on all of them where they are fewer. Then no loss that the ring withstands takes the last state that has it.
    pub fn note_settled(&self) {
        let m = self.metrics.borrow_watched();
        let (Some(replication), Some(committed)) = (&m.replication, &m.cluster_committed) else { return };
        let membership = m.membership_config.membership();
        if membership.nodes().all(|(_, site)| site.role() != Role::TieBreaker) {
            return;
        }
        let has = |id: &u64| self.has_durable(replication, *id);
        let keeps_state = |id: &&u64| membership.get_node(id).is_some_and(|site| site.role() == Role::Voter);
        let in_each = membership.get_joint_config().iter().map(|voters| {
            let mut matched: Vec<u64> = voters.iter().filter(keeps_state).map(has).collect();
            matched.sort_unstable_by(|a, b| b.cmp(a));
            let quorum = voters.len() / 2 + 1;
            matched.get(quorum.min(matched.len()).saturating_sub(1)).copied().unwrap_or(0)
        });
        let settled = in_each.min().unwrap_or(0).min(committed.index);
        self.settled.set(self.settled.get().max(settled));
    }

    /// As the leader knows it: how far the log of `node` is durable. What was, stays.
    fn has_durable(&self, replication: &Replication<E>, node: u64) -> u64 {
        match replication.get(&node) {
            _ if node == self.context.me.node => self.wal.flushed_through().unwrap_or(0),
            matched => matched.and_then(|id| id.as_ref()).map_or(0, |id| id.index),
        }
    }

    /// Whether what may be acknowledged by now, all of this leader's log, is on so many states of `voters` that one is left whichever
    /// minority of them is lost, or on all the states there are. Waits a moment for those that are just behind. Where no tie-breaker
    /// votes, a quorum has it all anyway.
    ///
    /// A tie-breaker is no such copy: one that is new has begun its log after a snapshot, which it cannot read, and an older one has
    /// dropped what the states of another membership had.
    async fn is_kept_without(&self, node: u64, voters: &BTreeSet<u64>) -> Result<(), String> {
        let last = self.metrics().last_log_index.unwrap_or(0);
        let began = E::now();
        loop {
            let m = self.metrics();
            let Some(replication) = &m.replication else { return Err(NOT_LEADER.to_string()) };
            let membership = m.membership_config.membership();
            let role = |id: &u64| membership.get_node(id).map(|site| site.role());
            if voters.iter().all(|id| role(id) != Some(Role::TieBreaker)) {
                return Ok(());
            }
            let states = voters.iter().copied().filter(|id| role(id) == Some(Role::Voter));
            let (have, lack): (Vec<u64>, Vec<u64>) = states.partition(|id| self.has_durable(replication, *id) >= last);
            let due = voters.len().div_ceil(2).min(have.len() + lack.len());
            if have.len() >= due || planted!(CopiesNotCounted) {
                return Ok(());
            }
            if E::now().since(began) > PEER_TIMEOUT {
                return Err(format!(
                    "without node {node} only {have:?} of the voters {voters:?} would have all that is acknowledged: {lack:?} lack \
                     some of it, and a tie-breaker keeps no state. {due} should have it: bring them up to date, or give --force"
                ));
            }
            E::sleep(CARE_INTERVAL).await;
        }
    }

    /// A leader whose own disk is full gives way to a voter that has all it has, and room for more. That one does not give it
    /// back: only one that is full itself does, and only to one that is not.
    pub async fn give_way_if_full(&self) {
        if !self.leads() || self.wal().has_room().is_ok() {
            return;
        }
        let Some((heir, _)) = self.heirs().into_iter().find(|(id, lag)| *lag == 0 && !self.is_full(*id)) else { return };
        match self.transfer(heir, PEER_TIMEOUT).await {
            Ok(()) => tracing::info!(shard = self.context.shard, to = heir, "this disk is full: leadership handed over"),
            Err(why) => tracing::warn!(shard = self.context.shard, "this disk is full, and leadership stays: {why}"),
        }
    }

    /// Why `node`, whose log ends with `last`, can win no election: a committed membership lacks it, and its log does not reach
    /// that membership, which every later leader's log holds. It may win again after a leader has sent it entries.
    pub(crate) fn left_behind(&self, node: u64, last: Option<peer::LogId>) -> Option<String> {
        let m = self.metrics.borrow_watched();
        let committed = &m.committed_membership_config;
        let at = committed.log_id().as_ref()?;
        let reaches = last.is_some_and(|last| log_id_in::<E>(wal_id(last)) >= *at);
        if reaches || committed.membership().get_node(&node).is_some() {
            return None;
        }
        Some(format!("node {node} is no member of shard {} since log index {}", self.context.shard, at.index))
    }

    /// A node that was removed stops campaigning when it learns so: from a member that refused it, or from its own log. The next
    /// append of a leader ends the rest, so a refusal that comes late keeps no member quiet.
    pub fn rest_if_removed(&self) {
        let told = self.context.outvoted.take();
        let Some(why) = told.or_else(|| self.left_behind(self.context.me.node, None)).filter(|_| !self.is_led()) else {
            return;
        };
        if !self.resting.replace(true) {
            self.raft.runtime_config().elect(false);
            tracing::warn!(shard = self.context.shard, "this node does not campaign any more: {why}");
        }
    }

    /// As an operator asks for it: a new leader, who has heard nobody yet, lets those answer first who can.
    pub async fn transfer_on_request(&self, to: u64) -> Result<(), String> {
        if to != self.context.me.node && !self.is_heir(to) {
            self.hear().await;
        }
        self.transfer(to, PEER_TIMEOUT).await
    }

    fn is_heir(&self, node: u64) -> bool {
        self.heirs().iter().any(|(id, _)| *id == node)
    }

    /// Hands leadership to `to`, and waits until it is gone from here, at most `patience`.
    pub async fn transfer(&self, to: u64, patience: Duration) -> Result<(), String> {
        if to == self.context.me.node {
            return Ok(());
        }
        if !self.is_heir(to) {
            return Err(format!("node {to} cannot lead: it is no voter of this shard, a tie-breaker, or out of reach"));
        }
        let mut metrics = self.raft.metrics();
        self.hand_over(to).await?;
        let gone = async {
            while metrics.borrow_watched().state == ServerState::Leader {
                if metrics.changed().await.is_err() {
                    break;
                }
            }
        };
        match runtime::timeout::<E, _>(patience, gone).await {
            Ok(()) => Ok(()),
            Err(_) => Err(format!("node {to} did not take over within {} ms", patience.as_millis())),
        }
    }

    /// Asks `to` to lead. From now on this node holds no lease under its vote: who it asks need not keep a promise.
    pub(crate) async fn hand_over(&self, to: u64) -> Result<(), String> {
        self.leases.revoke(vote_out::<E>(&self.metrics().vote));
        self.led_by_transfer.set(false);
        self.raft.trigger().transfer_leader(to).await.map_err(|e| e.to_string())
    }

    /// Asks a running node at `peer` who it is, tells it the ring if it has none, and adds it as a learner.
    pub async fn add(self: &Rc<Self>, node: u64, peer: &str) -> Result<String, String> {
        use link::{NotIdentified, identify};
        let found = identify(&self.context, node, peer, &self.members()).await;
        let mut member = match (found, self.member(node)) {
            // The step is repeated while the node starts its shards, or is down: that changes nothing.
            (Err(NotIdentified::OutOfReach(_)), Some(known)) if known.peer == peer => {
                return Ok(format!("node {node} is a member already"));
            }
            (Err(NotIdentified::OutOfReach(why) | NotIdentified::Wrong(why)), _) => return Err(why),
            (Ok(member), _) => member,
        };
        member.peer = peer.to_string();
        if let Some(known) = self.member(node) {
            if known.incarnation == member.incarnation {
                return Ok(format!("node {node} is a member already"));
            }
            return Err(format!(
                "node {node} is known with data {:016x}, the node at {peer} has {:016x}: take an id that was never used",
                known.incarnation, member.incarnation
            ));
        }
        let learner = BTreeMap::from([(node, Site::of(member))]);
        self.change(ChangeMembers::AddNodes(learner)).await?;
        Ok(format!("node {node} added as a learner"))
    }

    /// Makes a caught-up learner a voter.
    pub async fn promote(&self, node: u64) -> Result<String, String> {
        let m = self.metrics();
        let membership = m.membership_config.membership();
        let Some(member) = membership.get_node(&node) else {
            return Err(format!("node {node} is no member: ringbeam ring add --node {node} --peer HOST:PORT comes first"));
        };
        let uniform = membership.get_joint_config().len() == 1;
        if uniform && membership.voter_ids().any(|id| id == node) {
            return Ok(format!("node {node} is a voter already"));
        }
        if member.role() == Role::Observer {
            return Err(format!("node {node} is an observer by its configuration (node.role) and never votes"));
        }
        let voters: BTreeSet<u64> = membership.voter_ids().chain([node]).collect();
        if voters.len() > 7 {
            return Err(format!("a ring has at most 7 voters; remove one before node {node} becomes the eighth"));
        }
        if uniform && self.may_vote(node).is_err() {
            self.hear().await;
            self.may_vote(node)?;
        }
        if uniform && member.role() == Role::Voter {
            self.has_caught_up(node, &voters).await?;
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([node]))).await?;
        Ok(format!("node {node} is a voter"))
    }

    /// A voter that is not there, or has next to nothing, only makes the quorum larger: the shard might stand still at once.
    fn may_vote(&self, node: u64) -> Result<(), String> {
        let m = self.metrics();
        let matched = m.replication.as_ref().and_then(|all| all.get(&node)?.as_ref()).map(|id| id.index);
        let lag = m.last_log_index.unwrap_or(0).saturating_sub(matched.unwrap_or(0));
        match matched {
            None => Err(format!("node {node} is all {lag} log entries behind; promote it when it has caught up")),
            Some(_) if lag > PROMOTE_LAG_MAX => {
                Err(format!("node {node} is {lag} log entries behind; promote it when it is at most {PROMOTE_LAG_MAX}"))
            }
            Some(_) if !self.answers(&m, node) => Err(format!("node {node} does not answer; promote it when it does")),
            Some(_) => Ok(()),
        }
    }

    /// Where a tie-breaker votes, a newcomer with a state gets its vote with all that is in the log when it is asked for: the tie-breaker may
    /// have dropped what as many states have as are asked for with fewer voters.
    async fn has_caught_up(&self, node: u64, voters: &BTreeSet<u64>) -> Result<(), String> {
        let last = self.metrics().last_log_index.unwrap_or(0);
        let began = E::now();
        loop {
            let m = self.metrics();
            let Some(replication) = &m.replication else { return Err(NOT_LEADER.to_string()) };
            let membership = m.membership_config.membership();
            let breaks_ties = |id: &u64| membership.get_node(id).is_some_and(|site| site.role() == Role::TieBreaker);
            let lacks = last.saturating_sub(self.has_durable(replication, node));
            if lacks == 0 || !voters.iter().any(breaks_ties) {
                return Ok(());
            }
            if E::now().since(began) > PEER_TIMEOUT {
                return Err(format!("node {node} is {lacks} log entries behind; beside a tie-breaker it has to be caught up"));
            }
            E::sleep(CARE_INTERVAL).await;
        }
    }

    /// Whether enough of these voters are in reach.
    fn quorum_of(&self, voters: &BTreeSet<u64>) -> Result<(), String> {
        let m = self.metrics();
        let here = |id: &u64| *id == self.context.me.node || self.answers(&m, *id);
        let silent: Vec<u64> = voters.iter().copied().filter(|id| !here(id)).collect();
        if silent.len() * 2 < voters.len() {
            return Ok(());
        }
        Err(format!(
            "the voters are {voters:?}, of which {silent:?} do not answer: no quorum would be left; bring them back first, or give \
             --force"
        ))
    }

    /// A new leader has heard nobody yet: lets everybody answer who can.
    async fn hear(&self) {
        E::sleep(self.timers.election_timeout_max).await;
    }

    /// Takes a node out of the membership; a voter only if those that are left and answer are a quorum, and keep what is acknowledged,
    /// or by `force`.
    pub async fn remove(&self, node: u64, force: bool) -> Result<String, String> {
        let m = self.metrics();
        let membership = m.membership_config.membership();
        if membership.get_node(&node).is_none() {
            return Ok(format!("node {node} is no member"));
        }
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        if voters == BTreeSet::from([node]) {
            return Err(format!("node {node} is the only voter"));
        }
        if node == self.context.me.node {
            return Err(format!("node {node} leads this shard: ringbeam ring transfer comes first"));
        }
        if voters.contains(&node) {
            let stay: BTreeSet<u64> = voters.iter().copied().filter(|id| *id != node).collect();
            if !force && self.quorum_of(&stay).is_err() {
                self.hear().await;
                self.quorum_of(&stay).map_err(|why| format!("without node {node} {why}"))?;
            }
            if !force {
                self.is_kept_without(node, &stay).await?;
            }
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([node]))).await?;
        }
        if self.member(node).is_some() {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node]))).await?;
        }
        Ok(format!("node {node} is removed"))
    }

    /// Completes a change of the voters that a leader before this one has left half done: whoever asked for it may be gone.
    pub async fn finish_change(&self) {
        if planted!(ChangeLeftHalfDone) || self.changing.get() > 0 || !self.leads() {
            return;
        }
        let m = self.metrics();
        let membership = m.membership_config.membership();
        let [before, after] = &membership.get_joint_config()[..] else { return };
        if m.membership_config.log_id() != m.committed_membership_config.log_id() {
            return;
        }
        let completed = async {
            if after.contains(&self.context.me.node) {
                return self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await;
            }
            // Who goes does not lead into a membership that it is not of.
            match self.heirs().into_iter().find(|(id, _)| after.contains(id)) {
                Some((heir, _)) => self.transfer(heir, PEER_TIMEOUT).await,
                None => Ok(()),
            }
        };
        match runtime::timeout::<E, _>(PEER_TIMEOUT, completed).await {
            Ok(Ok(())) => {
                tracing::info!(shard = self.context.shard, "the change of the voters {before:?} to {after:?} goes on")
            }
            Ok(Err(why)) => tracing::debug!(shard = self.context.shard, "the voters stay half changed from {before:?}: {why}"),
            Err(_) => {
                tracing::warn!(shard = self.context.shard, "the voters stay half changed from {before:?}: no quorum answers")
            }
        }
    }

    /// One membership change, through joint consensus where voters change. One that was interrupted is completed first.
    async fn change(&self, change: ChangeMembers<u64, Site>) -> Result<(), String> {
        let _changing = Counted::new(&self.changing);
        self.raft.change_membership(change, false).await.map(|_| ()).map_err(|e| match e {
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => NOT_LEADER.to_string(),
            other => other.to_string(),
        })
    }
}

/// Counts as long as it lives.
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a Cell<usize>) -> Counted<'a> {
        count.set(count.get() + 1);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
