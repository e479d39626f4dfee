//! What the checkers of raft and of exactly-once are shown: every node as it is, again and again, and every write that any of them
//! ran.
//!
//! **Invariants**: looking changes nothing in the world. Views of a shard come in the order of their times.
//!
//! **Not here**: what is wrong with it (`check/`).

use std::collections::BTreeMap;

use ringbeam_shards::limits::{BATCHES_IN_FLIGHT_MAX, PINS_MAX, READS_WAITING_MAX};
use ringbeam_shards::probe::{LifeOp, Probe, View, take_lived, take_ran};
use ringbeam_shards::wal;
use ringbeam_wire::peer::Role as Duty;

use crate::check::exactly_once::{AppliedLog, Effect, Ran};
use crate::check::lives::{Did, LivesLog};
use crate::check::raft::{LeaderId, LogId, NodeView, Observer, Queue, Role, converged, held_by_quorum};
use crate::check::watching::{Change, Changes};
use crate::history::{Revision, Tag};
use crate::lives;
use crate::world::Ring;

/// Entries of each log that are looked at: more than a node appends between two looks.
const WINDOW: u64 = 24;

/// A digest of the whole state is taken each so many looks.
const DIGEST_EVERY: u64 = 50;

/// Violations that are kept.
const KEPT_MAX: usize = 20;

/// See the head of this file.
#[derive(Default)]
pub struct Watch {
    observers: BTreeMap<u32, Observer>,
    looks: u64,
    pub log: AppliedLog,
    /// What watches are to be told.
    pub changes: Changes,
    pub lives: LivesLog,
    pub violations: Vec<String>,
}

impl Watch {
    /// One look at every shard of every live node.
    pub fn look(&mut self, ring: &Ring) {
        self.looks += 1;
        let digests = self.looks.is_multiple_of(DIGEST_EVERY);
        let mut by_shard = BTreeMap::<u32, Vec<NodeView>>::new();
        views(ring, digests).into_iter().for_each(|(shard, view)| by_shard.entry(shard).or_default().push(view));
        for (shard, views) in by_shard {
            let observer = self.observers.entry(shard).or_default();
            let mut found: Vec<String> = views.iter().flat_map(|view| observer.see(view)).collect();
            found.extend(held_by_quorum(&views));
            found.extend(views.iter().filter_map(|view| log_on_nothing(ring, shard, view)));
            let room = KEPT_MAX.saturating_sub(self.violations.len());
            self.violations.extend(found.into_iter().take(room).map(|why| format!("shard {shard}: {why}")));
        }
        for ran in take_ran() {
            let Some(node) = ring.node_on(ran.host) else { continue };
            let shard = ran.dir.trim_start_matches("shard-").parse().unwrap_or(u32::MAX);
            let effect = match ran.answer {
                None => Effect::Denied,
                Some((first, true)) => Effect::Answered(Revision { index: first.index, position: first.position }),
                Some((_, false)) => Effect::Applied,
            };
            if ran.changed {
                let revision = Revision { index: ran.index, position: ran.position };
                self.changes.note(shard, revision, Change { key: ran.key.clone(), put: ran.put });
            }
            let tag = Some(Tag { session: ran.session, sequence: ran.sequence });
            let key = ran.key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
            self.log.note(node, shard, Revision { index: ran.index, position: ran.position }, Ran { tag, key, effect });
        }
        for lived in take_lived() {
            let Some(node) = ring.node_on(lived.host) else { continue };
            let shard = lived.dir.trim_start_matches("shard-").parse().unwrap_or(u32::MAX);
            let denied = lived.denied;
            let did = match lived.what {
                // Keys of other namespaces stay.
                LifeOp::Put { namespace, .. } if namespace != lives::NAMESPACE => continue,
                LifeOp::Put { key, life, existed, .. } => {
                    Did::Put { key, ttl_ms: life.ttl_ms, lease: life.lease, existed, denied }
                }
                LifeOp::Grant { lease, ttl_ms } if !denied => Did::Granted { lease, ttl_ms },
                LifeOp::Grant { .. } => continue,
                LifeOp::Keep { lease } => Did::Kept { lease, denied },
                LifeOp::Revoke { lease } => Did::Revoked { lease },
            };
            let revision = Revision { index: lived.revision.index, position: lived.revision.position };
            self.lives.note(node, shard, revision, lived.ring_time_ms, did);
        }
    }

    /// What keeps the live nodes from being a ring at rest.
    pub fn unrest(ring: &Ring) -> Vec<String> {
        let mut by_shard = BTreeMap::<u32, Vec<NodeView>>::new();
        views(ring, true).into_iter().for_each(|(shard, view)| by_shard.entry(shard).or_default().push(view));
        let mut found = Vec::new();
        for (shard, views) in by_shard {
            found.extend(converged(&views).into_iter().map(|why| format!("shard {shard}: {why}")));
            let missing: Vec<u64> =
                ring.live().into_iter().filter(|node| views.iter().all(|view| view.node != *node)).collect();
            if !missing.is_empty() {
                found.push(format!("shard {shard}: convergence: nodes {missing:?} do not run it"));
            }
        }
        found
    }
}

/// After a failed sync nobody knows what the log holds: the shard takes part in nothing any more.
fn log_on_nothing(ring: &Ring, shard: u32, view: &NodeView) -> Option<String> {
    if view.role == Role::Stopped {
        return None;
    }
    let log = format!("shard-{shard}/log/wal-");
    let file = ring.disk(view.node).doomed_files().into_iter().find(|path| path.starts_with(&log))?;
    Some(format!("failed sync: node {} goes on, with what {file} will never have", view.node))
}

fn views(ring: &Ring, digests: bool) -> Vec<(u32, NodeView)> {
    let mut views = Vec::new();
    for node in ring.live() {
        for probe in ring.probes(node) {
            let Some(view) = probe.view() else { continue };
            let digest = if digests { probe.digest() } else { None };
            views.push((view.shard, node_view(ring, &*probe, &view, digest)));
        }
    }
    views
}

fn node_view(ring: &Ring, probe: &dyn Probe, view: &View, digest: Option<(u64, u64)>) -> NodeView {
    let own = LeaderId { term: view.vote.term, node: view.vote.node };
    // The log takes a vote before raft's figures show it: by as long as a slow disk takes to save it.
    let saved = view.vote_saved.map_or(own, |vote| LeaderId { term: vote.term, node: vote.node });
    let role = match view.raft_state.as_str() {
        _ if view.fault.is_some() => Role::Stopped,
        "leader" => Role::Leader,
        "candidate" => Role::Candidate,
        "learner" => Role::Learner,
        "shutdown" => Role::Stopped,
        _ => Role::Follower,
    };
    let first = view.purged.map_or(0, |purged| purged.index + 1);
    let log = match view.last {
        Some(last) if last.index >= first => {
            let from = first.max(last.index.saturating_sub(WINDOW));
            (from..=last.index).filter_map(|index| probe.log_id_at(index)).map(log_id).collect()
        }
        _ => Vec::new(),
    };
    let settings = &ring.settings().node;
    // Beside what is bounded there is a chunk that is being filled, a batch's events at most too late.
    let history_bytes_max = settings.history.bytes_max * 17 / 16 + 2 * settings.batch_bytes_max as u64;
    let queues = vec![
        Queue { name: "the queue of writes", size: view.queue_bytes as u64, bound: settings.queue_bytes_max as u64 },
        Queue { name: "raft, in batches", size: view.batches_in_flight as u64, bound: BATCHES_IN_FLIGHT_MAX as u64 },
        Queue { name: "waiting reads", size: view.readings as u64, bound: READS_WAITING_MAX as u64 },
        Queue { name: "pins", size: view.pins as u64, bound: PINS_MAX as u64 },
        Queue { name: "sessions", size: view.sessions, bound: u64::from(settings.state.sessions_max) },
        Queue { name: "the history", size: view.history_bytes, bound: history_bytes_max },
    ];
    NodeView {
        at_ns: ring.world.now().as_nanos() as u64,
        node: view.node,
        incarnation: ring.incarnation(view.node),
        life: ring.lives(view.node),
        vote: if role == Role::Leader { own } else { own.max(saved) },
        deposed: role == Role::Leader && saved > own,
        role,
        log,
        flushed: view.flushed,
        voters: view.voters.clone(),
        membership_index: view.membership_index,
        purged: view.purged.map(log_id),
        // raft's figure begins anew with a process, and what is applied is committed.
        committed: later(view.committed, view.applied).map(log_id),
        said_committed: view.committed.map(|id| id.index),
        applied: view.applied.map(log_id),
        digest: digest
            .filter(|(index, _)| view.role != Duty::TieBreaker && view.applied.is_some_and(|applied| applied.index == *index))
            .map(|(_, digest)| digest),
        queues,
    }
}

fn later(a: Option<wal::LogId>, b: Option<wal::LogId>) -> Option<wal::LogId> {
    a.into_iter().chain(b).max_by_key(|id| id.index)
}

fn log_id(id: wal::LogId) -> LogId {
    LogId { leader: LeaderId { term: id.term, node: id.leader }, index: id.index }
}
