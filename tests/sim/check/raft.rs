//! Raft's own promises, over what was observed of every node's log and state.
//!
//! ```text
//!   views, in the order of their times            memory of each property            words, when it is broken
//!   node 1, node 2, node 1 again (restarted), ..  one BTreeMap each, no copy of logs
//! ```
//!
//! | function | promise | source: Ongaro, "Consensus: bridging theory and practice", 2014 |
//! |---|---|---|
//! | [`Elections::see`] | election safety | figure 3.2; section 3.4 |
//! | [`Appends::see`] | leader append-only | figure 3.2; section 3.5 |
//! | [`Matching::see`] | log matching | figure 3.2; section 3.5 |
//! | [`Commits::see`] | leader completeness, and that a committed entry stays what it is | figure 3.2; section 3.6 |
//! | [`Machines::see`] | state machine safety; equal states at equal indexes | figure 3.2; section 3.6.3 |
//! | [`Progress::see`] | terms, commits and applied indexes of a life do not go back | section 3.3, figure 3.1 |
//! | [`Durability::see`] | a log has all that was flushed and known to be committed, also after a crash | section 3.8 |
//! | [`held_by_quorum`] | what is committed is durable on a quorum at that moment | section 3.8 |
//! | [`queues`] | what is bounded is within its bound | ours |
//! | [`converged`] | when faults have ended: one leader, equal logs, equal states | ours |
//!
//! **Leaders are pairs.** openraft's advanced mode orders leaders by (term, node id), so that in one term a leader may be
//! deposed by one with a higher id. Wherever the thesis says "term", this says [`LeaderId`]: with pairs for terms the proofs
//! hold as they stand. Which of two leaders of a term is *observed* first says nothing: the lower one may have won and hear of
//! it later.
//!
//! **Caveat**: what no view shows is not judged. A view has a window of the log; an observer that looks at every node after
//! each of its steps sees all, one that looks each 10 ms sees enough to find most.
//!
//! **Not here**: contents of entries (they show in digests).

use std::collections::BTreeMap;
use std::fmt;

/// Who led when an entry was made, or whom a node votes for or follows: ordered by term, then node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaderId {
    pub term: u64,
    pub node: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogId {
    pub leader: LeaderId,
    pub index: u64,
}

impl fmt::Display for LeaderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}-N{}", self.term, self.node)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.leader, self.index)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    Leader,
    Candidate,
    #[default]
    Follower,
    Learner,
    /// It runs, and does not take part: its log is dead.
    Stopped,
}

/// A queue and its bound, in whatever unit both have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    pub name: &'static str,
    pub size: u64,
    pub bound: u64,
}

/// What one node was at one moment, of one shard.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    pub at_ns: u64,
    pub node: u64,
    /// Random number of its directory.
    pub incarnation: u64,
    /// How often its process has begun.
    pub life: u32,
    /// Whom it votes for, follows, or is; its term is in it.
    pub vote: LeaderId,
    pub role: Role,
    /// It calls itself leader, and has taken a later vote: what it says of itself is old.
    pub deposed: bool,
    /// Entries at the end of its log, without a gap, as far back as the observer looks; empty when the log is.
    pub log: Vec<LogId>,
    /// Index of the newest entry of its log that is durable; none: not known.
    pub flushed: Option<u64>,
    /// The sets of voters of the newest membership in its log, and the index of that.
    pub voters: Vec<Vec<u64>>,
    pub membership_index: u64,
    /// The entry before the log's first, when there was one.
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    /// Its index as raft said it in this life, if it has said one: nothing behind it may be applied.
    pub said_committed: Option<u64>,
    pub applied: Option<LogId>,
    /// Digest of its state at `applied`.
    pub digest: Option<u64>,
    pub queues: Vec<Queue>,
}

impl NodeView {
    fn last(&self) -> Option<LogId> {
        self.log.last().copied().or(self.purged)
    }

    /// The entry at `index`, when the window shows it.
    fn entry(&self, index: u64) -> Option<LogId> {
        let first = self.log.first()?.index;
        self.log.get(usize::try_from(index.checked_sub(first)?).ok()?).copied()
    }

    fn name(&self) -> String {
        format!("{:.3} ms, node {} (life {})", self.at_ns as f64 / 1e6, self.node, self.life)
    }

    fn life(&self) -> Life {
        (self.node, self.incarnation, self.life)
    }
}

/// Node, incarnation, and how often it has begun.
type Life = (u64, u64, u32);

/// All properties of one shard. Views come in the order of their times.
#[derive(Debug, Default)]
pub struct Observer {
    elections: Elections,
    appends: Appends,
    matching: Matching,
    commits: Commits,
    machines: Machines,
    progress: Progress,
    durability: Durability,
}

impl Observer {
    /// What this view breaks, in words.
    pub fn see(&mut self, view: &NodeView) -> Vec<String> {
        let mut found = well_formed(view);
        if found.is_empty() {
            found.extend(self.elections.see(view));
            found.extend(self.appends.see(view));
            found.extend(self.matching.see(view));
            found.extend(self.commits.see(view));
            found.extend(self.machines.see(view));
            found.extend(self.progress.see(view));
            found.extend(self.durability.see(view));
        }
        found.extend(queues(view));
        found
    }
}

/// A log is one: indexes follow each other, leaders do not go back, and nobody has an entry of a leader whom it has not heard
/// of.
fn well_formed(view: &NodeView) -> Vec<String> {
    let mut found = Vec::new();
    for (a, b) in view.purged.iter().chain(&view.log).zip(view.log.iter().skip(usize::from(view.purged.is_none()))) {
        let gap = b.index <= a.index || (b.index != a.index + 1 && Some(*a) != view.purged);
        if gap || b.leader < a.leader {
            found.push(format!("log: {}: {b} follows {a}", view.name()));
        }
    }
    if let Some(last) = view.last().filter(|last| last.leader > view.vote) {
        found.push(format!("log: {}: its vote {} is older than its entry {last}", view.name(), view.vote));
    }
    found
}

/// Election safety: at most one node, in one life of it, leads as one [`LeaderId`].
#[derive(Debug, Default)]
pub struct Elections {
    reigns: BTreeMap<LeaderId, Life>,
}

impl Elections {
    pub fn see(&mut self, view: &NodeView) -> Option<String> {
        if view.role != Role::Leader {
            return None;
        }
        if view.vote.node != view.node {
            return Some(format!("election safety: {} leads as {}", view.name(), view.vote));
        }
        let first = *self.reigns.entry(view.vote).or_insert(view.life());
        (first != view.life()).then(|| {
            let (node, incarnation, life) = first;
            let now = view.incarnation;
            format!(
                "election safety: {} leads as {} ({now:x}), as node {node} (life {life}, {incarnation:x}) did",
                view.name(),
                view.vote
            )
        })
    }
}

/// Leader append-only: a leader never overwrites or removes entries of its log.
#[derive(Debug, Default)]
pub struct Appends {
    /// The last view of each node's log while it led.
    reigning: BTreeMap<u64, (LeaderId, Life, Vec<LogId>)>,
}

impl Appends {
    pub fn see(&mut self, view: &NodeView) -> Option<String> {
        if view.role != Role::Leader || view.deposed {
            self.reigning.remove(&view.node);
            return None;
        }
        let now = (view.vote, view.life(), view.log.clone());
        let (leader, life, before) = self.reigning.insert(view.node, now)?;
        if (leader, life) != (view.vote, view.life()) {
            return None;
        }
        let purged = view.purged.map_or(0, |purged| purged.index);
        let first = view.log.first().map_or(u64::MAX, |first| first.index);
        let lost = |id: &&LogId| match view.entry(id.index) {
            Some(entry) => entry != **id,
            // Not in the window: in front of it, purged, or not there any more.
            None => id.index > purged && (id.index > first || view.log.is_empty()),
        };
        let lost = before.iter().find(lost)?;
        Some(format!("leader append-only: {} leads as {}, and its entry {lost} is gone", view.name(), view.vote))
    }
}

/// Log matching: if two logs have an entry with the same index and leader, they are equal up to it. Held entry by entry: the
/// one in front of it is the same everywhere.
#[derive(Debug, Default)]
pub struct Matching {
    /// By index and leader: the leader of the entry in front, and who showed it first.
    before: BTreeMap<(u64, LeaderId), (LeaderId, u64)>,
}

impl Matching {
    pub fn see(&mut self, view: &NodeView) -> Option<String> {
        let mut found = None;
        for (a, b) in view.log.iter().zip(view.log.iter().skip(1)) {
            let (leader, node) = *self.before.entry((b.index, b.leader)).or_insert((a.leader, view.node));
            if leader != a.leader {
                let other = LogId { leader, index: a.index };
                found = Some(format!("log matching: {}: {a} is in front of {b}; on node {node} it was {other}", view.name()));
            }
        }
        found
    }
}

/// Leader completeness: what was committed is in the log of every later leader. And a committed entry is never another one.
#[derive(Debug, Default)]
pub struct Commits {
    /// By index: the entry, and the lowest leader under whom a node is known to have seen it committed.
    entries: BTreeMap<u64, (LogId, LeaderId)>,
}

impl Commits {
    pub fn see(&mut self, view: &NodeView) -> Option<String> {
        self.note(view).or_else(|| self.missing(view))
    }

    fn note(&mut self, view: &NodeView) -> Option<String> {
        let committed = view.committed?;
        // A log that ends before it is about to be replaced by a snapshot: what is still in it may be of a leader that was deposed.
        let replaced = view.log.last().is_none_or(|last| last.index < committed.index);
        let shown = view.log.iter().filter(|id| id.index < committed.index && !replaced);
        for id in shown.chain([&committed]) {
            let (known, under) = self.entries.entry(id.index).or_insert((*id, view.vote));
            if known != id {
                return Some(format!("committed entries: {}: {id} is committed, and so was {known}", view.name()));
            }
            *under = view.vote.min(*under);
        }
        let own = view.entry(committed.index).unwrap_or(committed);
        (own != committed).then(|| format!("committed entries: {}: {committed} is committed, its log has {own}", view.name()))
    }

    fn missing(&self, view: &NodeView) -> Option<String> {
        if view.role != Role::Leader {
            return None;
        }
        let first = view.log.first().map_or_else(|| view.purged.map_or(0, |purged| purged.index + 1), |first| first.index);
        let due = self.entries.range(first..).map(|(_, entry)| entry).filter(|(_, under)| *under <= view.vote);
        let (entry, under) = due.into_iter().find(|(entry, _)| view.entry(entry.index) != Some(*entry))?;
        let instead = view.entry(entry.index).map_or("nothing".to_string(), |own| own.to_string());
        let who = view.name();
        Some(format!(
            "leader completeness: {who} leads as {}: {entry} was committed under {under}, it has {instead}",
            view.vote
        ))
    }
}

/// State machine safety: no two nodes apply different entries at one index. Equal logs give equal states.
#[derive(Debug, Default)]
pub struct Machines {
    applied: BTreeMap<u64, (LogId, u64)>,
    digests: BTreeMap<u64, (u64, u64)>,
}

impl Machines {
    pub fn see(&mut self, view: &NodeView) -> Option<String> {
        let applied = view.applied?;
        let shown = view.log.iter().filter(|id| id.index < applied.index);
        for id in shown.chain([&applied]) {
            let (known, node) = *self.applied.entry(id.index).or_insert((*id, view.node));
            if known != *id {
                return Some(format!("state machine safety: {} applied {id}, node {node} applied {known}", view.name()));
            }
        }
        let digest = view.digest?;
        let (known, node) = *self.digests.entry(applied.index).or_insert((digest, view.node));
        (known != digest)
            .then(|| format!("equal states: {} is {digest:016x} at {applied}, node {node} was {known:016x} there", view.name()))
    }
}

/// In one life of a node its vote, its commit index and its applied index do not go back, and it applies only what is
/// committed.
#[derive(Debug, Default)]
pub struct Progress {
    before: BTreeMap<u64, (Life, LeaderId, u64, u64)>,
}

impl Progress {
    pub fn see(&mut self, view: &NodeView) -> Option<String> {
        let committed = view.committed.map_or(0, |id| id.index);
        let applied = view.applied.map_or(0, |id| id.index);
        let before = self.before.insert(view.node, (view.life(), view.vote, committed, applied));
        if let Some(said) = view.said_committed.filter(|said| applied > *said) {
            return Some(format!("progress: {} applied {applied}, and only {said} is committed", view.name()));
        }
        let (life, vote, old_committed, old_applied) = before?;
        let back = life == view.life() && (view.vote < vote || committed < old_committed || applied < old_applied);
        back.then(|| {
            let before = format!("vote {vote}, committed {old_committed}, applied {old_applied}");
            let now = format!("vote {}, committed {committed}, applied {applied}", view.vote);
            format!("progress: {} went back from {before} to {now}", view.name())
        })
    }
}

/// What a node had flushed and knew to be committed is in its log, or purged, for as long as its directory lives. Of a directory
/// that rots the node shows nothing any more.
#[derive(Debug, Default)]
pub struct Durability {
    /// By node: its directory, and the newest such index.
    kept: BTreeMap<u64, (u64, u64)>,
}

impl Durability {
    pub fn see(&mut self, view: &NodeView) -> Option<String> {
        let kept = self.kept.entry(view.node).or_default();
        if kept.0 != view.incarnation {
            *kept = (view.incarnation, 0);
        }
        let last = view.last().map_or(0, |last| last.index);
        let lost = last < kept.1;
        let known = view.committed.map_or(0, |committed| committed.index).min(view.flushed.unwrap_or(0));
        kept.1 = kept.1.max(known);
        lost.then(|| format!("durability: {} had entry {} flushed and committed, its log ends at {last}", view.name(), kept.1))
    }
}

/// Views of one moment: what a node knows to be committed is durable on a quorum. A voter without a view may have it.
///
/// A quorum of the membership that this node knows, or of a newer one: the entries between a joint membership and the one behind it are
/// committed by the latter, which counts from when the leader has it, and this node may not have it yet.
pub fn held_by_quorum(views: &[NodeView]) -> Option<String> {
    // What was committed before the newest membership was held by a quorum of an older one.
    let judged = |view: &&NodeView| view.committed.is_some_and(|committed| committed.index >= view.membership_index);
    for view in views.iter().filter(judged) {
        let committed = view.committed?.index;
        let lacks = |id: &&u64| {
            let voter = views.iter().find(|other| other.node == **id);
            voter.and_then(|voter| voter.flushed.filter(|_| voter.role != Role::Stopped)).is_some_and(|last| last < committed)
        };
        let lacking = |voters: &[u64]| voters.iter().filter(lacks).copied().collect::<Vec<u64>>();
        let short = |voters: &&Vec<u64>| 2 * (voters.len() - lacking(voters).len()) <= voters.len();
        let newer = views.iter().filter(|other| other.membership_index > view.membership_index);
        let held_by_newer =
            newer.into_iter().any(|other| !other.voters.is_empty() && !other.voters.iter().any(|voters| short(&voters)));
        if let Some(voters) = view.voters.iter().find(short).filter(|_| !held_by_newer) {
            let (who, lacking) = (view.name(), lacking(voters));
            return Some(format!("quorum: {who} knows {committed} as committed; of {voters:?} {lacking:?} do not hold it"));
        }
    }
    None
}

/// Every queue is within its bound.
pub fn queues(view: &NodeView) -> Vec<String> {
    let over = view.queues.iter().filter(|queue| queue.size > queue.bound);
    over.map(|Queue { name, size, bound }| format!("bounds: {}: {name} holds {size}, at most {bound}", view.name())).collect()
}

/// The last view of each node that takes part, after faults have ended: what keeps them from being one ring at rest.
pub fn converged(views: &[NodeView]) -> Vec<String> {
    let mut found = Vec::new();
    let leaders: Vec<String> = views.iter().filter(|view| view.role == Role::Leader).map(NodeView::name).collect();
    if leaders.len() != 1 {
        found.push(format!("convergence: {} leaders: {}", leaders.len(), leaders.join("; ")));
    }
    for view in views.iter().filter(|view| matches!(view.role, Role::Stopped | Role::Candidate)) {
        found.push(format!("convergence: {} is {:?}", view.name(), view.role));
    }
    let Some(first) = views.first() else { return found };
    for view in &views[1..] {
        let differ = |what: &str, a: Option<LogId>, b: Option<LogId>| {
            let words = |id: Option<LogId>| id.map_or("none".to_string(), |id| id.to_string());
            (a != b).then(|| format!("convergence: {what}: {} of {}, {} of {}", words(a), first.name(), words(b), view.name()))
        };
        found.extend(differ("last entry", first.last(), view.last()));
        found.extend(differ("committed", first.committed, view.committed));
        found.extend(differ("applied", first.applied, view.applied));
        if view.vote != first.vote {
            found.push(format!("convergence: {} follows {}, {} follows {}", first.name(), first.vote, view.name(), view.vote));
        }
    }
    // Those that keep a state; a tie-breaker keeps none.
    let digests: Vec<(u64, &NodeView)> = views.iter().filter_map(|view| Some((view.digest?, view))).collect();
    let odd = digests.windows(2).find(|pair| pair[0].0 != pair[1].0 && pair[0].1.applied == pair[1].1.applied);
    found.extend(odd.map(|pair| format!("convergence: states differ: {} and {}", pair[0].1.name(), pair[1].1.name())));
    found
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
#[path = "raft/tests.rs"]
mod tests;
