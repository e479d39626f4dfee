//! What may be taken from a ring for good without taking its promises.
//!
//! A node is **spoiled** when what it had synced may be gone or wrong: a bit of it rotted, a sync failed, its disk is empty.
//! Raft promises nothing when a majority of voters forgets. So of the voters fewer than half are spoiled at once.
//!
//! The plan does not know which membership changes succeed. It therefore reckons with the worst: a spoiled voter counts until
//! the round's end, also when its replacement was asked for; a healthy voter whose removal was asked for is gone; a node whose
//! promotion was asked for has not become a voter, unless it is spoiled, then it has. With `least` voters left and `spoiled` of
//! them, `2 * spoiled < least` holds; each change that fails, or a spoiled voter that does leave, makes the left side smaller
//! or the right side larger. Joint consensus asks both majorities, and the rule holds for both.
//!
//! The heal replaces what is spoiled, and cannot end before that has succeeded: the next round has a new budget.
//!
//! **Allowed without a budget**, because nothing synced is lost: any number of crashes, also all nodes at once by power loss;
//! partitions; pauses; full and slow disks; clocks.
//!
//! **Not here**: what the plan asks for (`draw.rs`).

use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub struct Budget {
    /// At the round's beginning, and all whose promotion was asked for.
    voters: BTreeSet<u64>,
    at_first: usize,
    leaving: BTreeSet<u64>,
    spoiled: BTreeSet<u64>,
}

impl Budget {
    /// For a round that begins with these voters, none of them spoiled.
    pub fn new(voters: &BTreeSet<u64>) -> Budget {
        Budget { voters: voters.clone(), at_first: voters.len(), leaving: BTreeSet::new(), spoiled: BTreeSet::new() }
    }

    fn holds(&self, spoiled: usize, leaving: usize) -> bool {
        2 * spoiled < self.at_first.saturating_sub(leaving)
    }

    fn spoiled_voters(&self) -> usize {
        self.spoiled.intersection(&self.voters).count()
    }

    /// Spoils the node, if that may be.
    pub fn spoil(&mut self, node: u64) -> bool {
        let new = usize::from(self.voters.contains(&node));
        let may = !self.spoiled.contains(&node) && self.holds(self.spoiled_voters() + new, self.leaving.len());
        if may {
            self.spoiled.insert(node);
        }
        may
    }

    /// A voter's removal is asked for, if that may be.
    pub fn remove(&mut self, node: u64) -> bool {
        let healthy = !self.spoiled.contains(&node) && !self.leaving.contains(&node);
        let may = self.holds(self.spoiled_voters(), self.leaving.len() + usize::from(healthy));
        if may && healthy {
            self.leaving.insert(node);
        }
        may
    }

    /// A node's promotion is asked for, if that may be.
    pub fn promote(&mut self, node: u64) -> bool {
        !self.spoiled.contains(&node) && {
            self.voters.insert(node);
            true
        }
    }

    pub fn spoiled(&self) -> &BTreeSet<u64> {
        &self.spoiled
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;

    fn budget(voters: u64) -> Budget {
        Budget::new(&(1..=voters).collect())
    }

    #[test]
    fn minority_may_be_spoiled() {
        for (voters, most) in [(3, 1), (4, 1), (5, 2), (7, 3)] {
            let mut budget = budget(voters);
            let spoiled = (1..=voters).filter(|node| budget.spoil(*node)).count();
            assert_eq!(spoiled, most, "of {voters}");
        }
    }

    #[test]
    fn voter_that_may_be_gone_counts_no_more() {
        let mut ring = budget(3);
        assert!(ring.remove(3));
        assert!(!ring.spoil(1), "it would be one of two");
        let mut ring = budget(3);
        assert!(ring.spoil(1) && !ring.remove(3));
        assert!(ring.remove(1), "the spoiled one may go");
        assert!(!ring.spoil(2), "and may still be there");
    }

    #[test]
    fn promotion_that_may_fail_adds_nothing_and_spoils_like_a_voter() {
        let mut ring = budget(3);
        assert!(ring.promote(4) && ring.promote(5));
        assert!(ring.spoil(4) && !ring.spoil(1));
        assert!(ring.spoil(9), "an observer has no vote");
        assert!(!ring.promote(9));
    }
}
