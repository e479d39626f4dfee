//! What is asked of a group from outside: who may speak to it, who it is, how it stands; and how long its log may be.

use std::collections::BTreeSet;

use openraft::async_runtime::watch::WatchReceiver;
use ringbeam_wire::client::Progress;
use ringbeam_wire::peer::{self, PeerReplyBody, Role};
use ringbeam_wire::preamble;
use ringbeam_wire::refusal::Code;

use super::{GroupStanding, Replica};
use crate::io::Env;

impl<E: Env> Replica<E> {
    /// May this peer speak? Ring, node, shard and incarnations must agree; the refusal says which does not. A group that has stopped has
    /// nothing to say.
    pub(crate) fn admit(&self, hello: &peer::PeerHello) -> Result<(), (Code, String)> {
        if let Some(why) = self.fault() {
            // Who knocks because this leader's connections have closed need not wait for its lease.
            return Err((Code::ShardFault, why));
        }
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
    ///
    /// Nodes take turns: their logs are alike, and nodes that write snapshots at once are slow at once, all that a quorum could be of.
    /// So the first snapshot is due after a node's own part of `log_bytes_max`; as long as the members stay, so do the distances.
    pub async fn snapshot_if_due(&self, log_bytes_max: u64) {
        if self.machine.distrusts_snapshot() {
            let _ = self.raft.trigger().snapshot().await;
            return;
        }
        let log_bytes_max = {
            let m = self.metrics.borrow_watched();
            match m.snapshot {
                None => {
                    turn_of(self.context.me.node, m.membership_config.membership().nodes().map(|(id, _)| *id), log_bytes_max)
                }
                Some(_) => log_bytes_max,
            }
        };
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

    /// Log index of the newest membership.
    pub fn membership_index(&self) -> u64 {
        let m = self.metrics.borrow_watched();
        m.membership_config.log_id().as_ref().map_or(0, |id| id.index)
    }
}

/// The end of this node's part, when the members of the group divide the `whole` by the order of their ids.
fn turn_of(me: u64, members: impl Iterator<Item = u64>, whole: u64) -> u64 {
    let (mut count, mut turn) = (0, 0);
    for id in members {
        count += 1;
        turn += u64::from(id <= me);
    }
    // Not a member yet, or before the first one is known: nobody to take turns with.
    if turn == 0 { whole } else { whole / count * turn }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_divide_a_cycle_by_the_order_of_their_ids() {
        assert_eq!([2, 5, 9].map(|me| turn_of(me, [9, 2, 5].into_iter(), 300)), [100, 200, 300]);
        assert_eq!((turn_of(1, [1].into_iter(), 300), turn_of(7, [1, 2].into_iter(), 300)), (300, 300));
        assert_eq!(turn_of(1, [].into_iter(), 300), 300);
    }
}
