//! Views made by hand: runs that are right, and for each promise the ways to break it.

use super::*;

fn leader(term: u64, node: u64) -> LeaderId {
    LeaderId { term, node }
}

/// A log from index 1: runs of (term, node, how many).
fn log(runs: &[(u64, u64, u64)]) -> Vec<LogId> {
    let leaders = runs.iter().flat_map(|(term, node, count)| (0..*count).map(|_| leader(*term, *node)));
    leaders.zip(1..).map(|(leader, index)| LogId { leader, index }).collect()
}

/// A follower of the last entry's leader that has committed and applied all.
fn view(node: u64, runs: &[(u64, u64, u64)]) -> NodeView {
    let log = log(runs);
    let last = log.last().copied();
    let vote = last.map_or(LeaderId::default(), |last| last.leader);
    NodeView { node, vote, committed: last, applied: last, log, digest: last.map(|last| last.index * 7), ..NodeView::default() }
}

impl NodeView {
    fn leads(self, term: u64) -> NodeView {
        let vote = leader(term, self.node);
        NodeView { role: Role::Leader, vote, ..self }
    }

    fn follows(self, term: u64, node: u64) -> NodeView {
        NodeView { vote: leader(term, node), ..self }
    }

    /// Has committed and applied up to `index` only.
    fn knows(self, index: u64) -> NodeView {
        let id = self.entry(index);
        NodeView { committed: id, applied: id, digest: id.map(|id| id.index * 7), ..self }
    }

    fn begun(self, life: u32) -> NodeView {
        NodeView { life, ..self }
    }

    /// Shows its log from `index` on only; what is before it is still there.
    fn shown_from(mut self, index: u64) -> NodeView {
        self.log.retain(|id| id.index >= index);
        self
    }

    fn purged_to(mut self, index: u64) -> NodeView {
        self.purged = self.entry(index);
        self.shown_from(index + 1)
    }
}

fn see(views: &[NodeView]) -> Vec<String> {
    let mut observer = Observer::default();
    views.iter().flat_map(|view| observer.see(view)).collect()
}

fn good(views: &[NodeView]) {
    assert_eq!(see(views), Vec::<String>::new());
}

fn bad(views: &[NodeView], expected: &str) {
    let (last, before) = views.split_last().expect("there are views");
    good(before);
    let mut observer = Observer::default();
    before.iter().for_each(|view| assert!(observer.see(view).is_empty()));
    let found = observer.see(last);
    assert!(!found.is_empty() && found.iter().any(|why| why.starts_with(expected)), "{expected}: {found:#?}");
}

#[test]
fn ring_with_two_leaders_after_each_other() {
    good(&[
        view(1, &[(1, 1, 5)]).knows(3).leads(1),
        view(2, &[(1, 1, 4)]).knows(2),
        view(3, &[(1, 1, 3)]).knows(3),
        // Node 2 is elected with entry 4, which nobody has committed; node 1 loses entry 5.
        view(2, &[(1, 1, 4), (2, 2, 1)]).knows(2).leads(2),
        view(3, &[(1, 1, 4), (2, 2, 1)]).knows(5),
        view(1, &[(1, 1, 5)]).knows(3).leads(1),
        view(1, &[(1, 1, 4), (2, 2, 1)]).knows(5),
        view(2, &[(1, 1, 4), (2, 2, 3)]).knows(7).leads(2).purged_to(4),
        view(1, &[(1, 1, 4), (2, 2, 3)]).knows(6).begun(1).shown_from(6),
    ]);
}

#[test]
fn two_leaders_of_a_term_may_follow_each_other() {
    good(&[
        view(2, &[(1, 2, 3)]).leads(1),
        view(3, &[(1, 2, 3), (1, 3, 1)]).knows(3).leads(1),
        view(2, &[(1, 2, 4)]).knows(3).leads(1),
        view(2, &[(1, 2, 3), (1, 3, 1)]),
    ]);
}

#[test]
fn election_safety() {
    bad(
        &[
            view(2, &[(1, 2, 3)]).follows(2, 1),
            view(2, &[(1, 2, 3)]).leads(3),
            NodeView { role: Role::Leader, ..view(1, &[(1, 2, 3)]) },
        ],
        "election safety",
    );
    // It leads on after a restart, without an election.
    bad(&[view(1, &[(1, 1, 3)]).leads(1), view(1, &[(1, 1, 3)]).leads(1).begun(1)], "election safety");
    let other = NodeView { incarnation: 9, ..view(1, &[(1, 1, 3)]).leads(1) };
    bad(&[view(1, &[(1, 1, 3)]).leads(1), other], "election safety");
    good(&[view(1, &[(1, 1, 3)]).leads(1), view(1, &[(1, 1, 3)]).leads(2).begun(1)]);
}

#[test]
fn leader_append_only() {
    let long = || view(1, &[(1, 1, 5)]).knows(2).leads(1);
    bad(&[long(), view(1, &[(1, 1, 4)]).knows(2).leads(1)], "leader append-only");
    bad(&[long(), NodeView { log: Vec::new(), committed: None, ..long() }], "leader append-only");
    let inherited = || view(1, &[(1, 2, 3), (2, 1, 2)]).knows(2).leads(2);
    bad(&[inherited(), view(1, &[(1, 2, 2), (2, 1, 3)]).knows(2).leads(2)], "leader append-only");
    // As a follower in between it may lose them, and a window that moves on loses nothing.
    good(&[long(), view(1, &[(1, 1, 4)]).knows(2).follows(2, 2), view(1, &[(1, 1, 4)]).knows(2).leads(3)]);
    good(&[long(), NodeView { deposed: true, ..view(1, &[(1, 1, 4)]).knows(2).leads(1) }]);
    good(&[long(), view(1, &[(1, 1, 9)]).knows(9).leads(1).shown_from(8)]);
    good(&[long(), view(1, &[(1, 1, 9)]).knows(9).leads(1).purged_to(9)]);
}

#[test]
fn log_matching() {
    let one = view(1, &[(1, 1, 2), (3, 1, 2)]).knows(1);
    let other = view(2, &[(1, 1, 1), (2, 2, 1), (3, 1, 2)]).knows(1);
    bad(&[one, other], "log matching");
    good(&[view(1, &[(1, 1, 2), (3, 1, 2)]).knows(1), view(2, &[(1, 1, 1), (2, 2, 2)]).knows(1)]);
}

#[test]
fn leader_completeness() {
    let committed = || view(1, &[(1, 1, 3)]).leads(1);
    bad(&[committed(), view(2, &[(1, 1, 2)]).knows(2).leads(2)], "leader completeness");
    bad(&[committed(), view(2, &[(1, 1, 2), (2, 2, 1)]).knows(2).leads(2)], "leader completeness");
    bad(
        &[committed(), NodeView { role: Role::Leader, vote: leader(2, 2), node: 2, ..NodeView::default() }],
        "leader completeness",
    );
    good(&[committed(), view(2, &[(1, 1, 3), (2, 2, 1)]).knows(1).leads(2)]);
    good(&[committed(), view(2, &[(1, 1, 3), (2, 2, 1)]).knows(3).leads(2).purged_to(3)]);
    // A leader from before the commit need not have it.
    good(&[view(3, &[(2, 3, 3)]), view(2, &[(1, 2, 2)]).knows(0).leads(1)]);
}

#[test]
fn committed_entry_stays_what_it_is() {
    bad(&[view(1, &[(1, 1, 3)]), view(2, &[(1, 1, 2), (2, 2, 1)])], "committed entries");
    let own = view(1, &[(1, 1, 3)]);
    let other = LogId { leader: leader(2, 2), index: 2 };
    bad(&[NodeView { committed: Some(other), applied: None, digest: None, vote: leader(2, 2), ..own }], "committed entries");
}

/// A snapshot is in, and what the log had before it is not out yet.
#[test]
fn log_that_a_snapshot_replaces_says_nothing_of_what_is_committed() {
    let known = view(1, &[(1, 1, 1), (2, 2, 5)]);
    let stale = view(2, &[(1, 1, 3)]);
    let at = known.committed;
    good(&[known, NodeView { committed: at, applied: None, digest: None, vote: leader(2, 2), ..stale }]);
}

#[test]
fn state_machine_safety() {
    // Not committed anywhere that anyone saw, and applied on both.
    let applied = |view: NodeView| NodeView { committed: None, ..view };
    let mut machines = Machines::default();
    assert_eq!(machines.see(&applied(view(1, &[(1, 1, 3)]))), None);
    let why = machines.see(&applied(view(2, &[(1, 1, 1), (2, 2, 2)]))).expect("entry 2 is another one");
    assert!(why.starts_with("state machine safety"), "{why}");
}

#[test]
fn equal_logs_give_equal_states() {
    bad(&[view(1, &[(1, 1, 3)]), NodeView { digest: Some(5), ..view(2, &[(1, 1, 3)]) }], "equal states");
    good(&[view(1, &[(1, 1, 3)]), NodeView { digest: None, ..view(2, &[(1, 1, 3)]) }]);
    // The same node, after a restart.
    bad(&[view(1, &[(1, 1, 3)]), NodeView { digest: Some(5), ..view(1, &[(1, 1, 3)]).begun(1) }], "equal states");
}

#[test]
fn nothing_goes_back_in_a_life() {
    let now = || view(1, &[(1, 1, 3)]).follows(4, 2);
    bad(&[now(), view(1, &[(1, 1, 3)]).follows(4, 1)], "progress");
    bad(&[now(), now().knows(2)], "progress");
    bad(&[NodeView { said_committed: Some(2), ..now() }], "progress");
    good(&[NodeView { said_committed: Some(3), ..now() }]);
    good(&[now(), now().knows(2).begun(1)]);
}

#[test]
fn log_is_one() {
    let mut gap = view(1, &[(1, 1, 3)]);
    gap.log.remove(1);
    bad(&[gap], "log");
    let mut back = view(1, &[(1, 1, 2), (2, 1, 1)]);
    back.log[2].leader = leader(1, 0);
    bad(&[back], "log");
    // The vote for the leader of its entries is gone: it was not written, or not before them.
    bad(&[view(1, &[(3, 2, 3)]).follows(2, 1)], "log");
}

#[test]
fn durability() {
    let flushed = |index| NodeView { flushed: Some(index), incarnation: 7, ..view(1, &[(1, 1, 5)]) };
    let after = |count| NodeView { incarnation: 7, ..view(1, &[(1, 1, count)]).begun(1) };
    good(&[flushed(5), after(5), after(6)]);
    good(&[flushed(5), after(5).purged_to(5)]);
    // Not flushed, not known to be committed, or of another directory: it may be gone.
    good(&[flushed(3), after(3)]);
    good(&[flushed(5).knows(3), after(3)]);
    good(&[flushed(5), NodeView { incarnation: 8, ..after(1) }]);
    bad(&[flushed(5), after(4)], "durability");
    bad(&[flushed(5), after(5), after(4).begun(2)], "durability");
}

#[test]
fn quorums() {
    let voter = |node, flushed| NodeView { flushed, voters: vec![vec![1, 2, 3]], ..view(node, &[(1, 1, 5)]) };
    let held = |views: &[NodeView]| held_by_quorum(views).is_none();
    assert!(held(&[voter(1, Some(5)), voter(2, Some(5)), voter(3, Some(4))]));
    assert!(held(&[voter(1, Some(4)), voter(2, Some(5))]), "node 3 may have it");
    assert!(held(&[voter(1, Some(4)), voter(2, None), voter(3, Some(5))]), "node 2 may have it");
    assert!(!held(&[voter(1, Some(5)), voter(2, Some(4)), voter(3, Some(3))]));
    let joint = |node, flushed| NodeView { voters: vec![vec![1, 2, 3], vec![3, 4, 5]], ..voter(node, flushed) };
    assert!(!held(&[joint(1, Some(5)), joint(2, Some(5)), joint(3, Some(5)), joint(4, Some(4)), joint(5, Some(4))]));
    let before = NodeView { membership_index: 6, ..voter(1, Some(5)) };
    assert!(held(&[before, voter(2, Some(4)).knows(4), voter(3, Some(4)).knows(4)]), "an older quorum committed it");
    // Seed 900143 of 2026-11-30: the leader is past the joint membership that this node still has.
    let joint = |view: NodeView| NodeView { voters: vec![vec![1, 2, 3, 4], vec![1, 2, 3]], membership_index: 3, ..view };
    let behind = |at| NodeView { voters: vec![vec![1, 2, 3]], membership_index: at, ..voter(1, Some(5)).knows(5) };
    let others = || [voter(2, Some(5)).knows(5), joint(voter(3, Some(4)).knows(5)), joint(voter(4, Some(4)).knows(4))];
    assert!(held(&[[behind(4)].as_slice(), &others()].concat()), "a newer membership has committed it");
    assert!(!held(&[[behind(2)].as_slice(), &others()].concat()), "an older one cannot have");
}

#[test]
fn bounds() {
    let queue = |size| NodeView { queues: vec![Queue { name: "batcher bytes", size, bound: 10 }], ..view(1, &[(1, 1, 1)]) };
    good(&[queue(10)]);
    bad(&[queue(11)], "bounds");
}

#[test]
fn convergence() {
    let ring = || [view(1, &[(1, 1, 3)]).leads(1), view(2, &[(1, 1, 3)]), view(3, &[(1, 1, 3)]).purged_to(2)];
    assert_eq!(converged(&ring()), Vec::<String>::new());
    type Change = fn(&mut NodeView);
    let changes: [(&str, Change); 6] = [
        ("0 leaders", |view| view.role = Role::Follower),
        ("applied", |view| view.applied = view.entry(2)),
        ("committed", |view| view.committed = view.entry(2)),
        ("last entry", |view| view.log.truncate(2)),
        ("follows", |view| view.vote.term = 2),
        ("states differ", |view| view.digest = Some(1)),
    ];
    for (expected, change) in changes {
        let mut ring = ring();
        change(&mut ring[0]);
        let found = converged(&ring);
        assert!(found.iter().any(|why| why.contains(expected)), "{expected}: {found:#?}");
    }
    let mut ring = ring();
    ring[2].role = Role::Stopped;
    assert_eq!(converged(&ring).len(), 1);
}
