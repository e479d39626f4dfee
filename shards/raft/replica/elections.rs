//! When an election is due that raft does not know of, and who should lead.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use openraft::ServerState;
use openraft::raft::TransferLeaderRequest;
use ringbeam_wire::peer::{self, Role};

use super::Replica;
use crate::io::Env;
use crate::raft::link::Link;
use crate::raft::{TVote, vote_out};

impl<E: Env> Replica<E> {
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
        if !self.has_kept_its_promise(node, &m.vote).await {
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

    /// Waits until nothing is promised to the leader of this vote any more, and promises nothing from then on; false when there is another,
    /// or its door opens. More is promised meanwhile to appends that came before its connection closed and are durable now; and to a leader
    /// that lives.
    async fn has_kept_its_promise(&self, node: u64, vote: &TVote<E>) -> bool {
        while self.metrics().vote == *vote {
            let until = self.leases.bound_until();
            if until <= E::now() {
                self.leases.give_up(vote_out::<E>(vote));
                return true;
            }
            E::sleep(until.since(E::now())).await;
            if self.leases.bound_until() > until && !self.refuses_connections(node).await {
                return false;
            }
        }
        false
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
                let _ = self.hand_over(*heir).await;
            } else if E::now().since(self.heard.get()) > self.timers.election_timeout_max * 4
                && let Some(other) = self.stand_in()
            {
                self.heard.set(E::now());
                tracing::info!(
                    shard = self.context.shard,
                    to = other,
                    "this tie-breaker's log begins too late: leadership handed over"
                );
                let _ = self.hand_over(other).await;
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
}
