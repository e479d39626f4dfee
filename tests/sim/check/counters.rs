//! Counters: every acknowledged addition counts once, and the sums that the answers say are those of one order.
//!
//! | promised | looked at |
//! |---|---|
//! | the answers are of one order, that of their revisions | a sum without its own delta is at least the sum before it |
//! | nothing counts that nobody added, nor twice | what is between two sums is no more than what was added without an answer |
//! | the order is that of real time | what begins after an answer counts on top of it |
//! | nothing is lost | the counter at the end has all that was acknowledged, and no more than that and what has no answer |
//!
//! All deltas are above 0, so sums only grow; a read is an addition of 0.
//!
//! **Not here**: how they were asked (`load/counters.rs`).

use std::collections::BTreeMap;

use super::told;
use crate::history::Revision;

/// An addition, or a read (`delta` 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub counter: u32,
    pub delta: i64,
    pub invoked_ns: u64,
    /// `None`: it has no end that anybody saw.
    pub completed_ns: Option<u64>,
    pub told: Told,
}

/// What the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The sum, and the addition that made it.
    Sum { sum: i64, revision: Revision },
    /// Certainly not added.
    Not,
    /// Nothing that is certain.
    Nothing,
}

/// All counters: what was asked of them, and what they are at the end.
pub fn check(asked: &[Asked], at_end: &BTreeMap<u32, i64>) -> Vec<String> {
    let mut by_counter: BTreeMap<u32, Vec<&Asked>> = BTreeMap::new();
    asked.iter().for_each(|one| by_counter.entry(one.counter).or_default().push(one));
    told(by_counter.iter().flat_map(|(counter, asked)| one(*counter, asked, at_end.get(counter).copied())).collect())
}

fn one(counter: u32, asked: &[&Asked], at_end: Option<i64>) -> Vec<String> {
    let mut found = Vec::new();
    let mut sums: Vec<(Revision, i64, i64)> = asked
        .iter()
        .filter_map(|one| match one.told {
            Told::Sum { sum, revision } => Some((revision, sum, one.delta)),
            Told::Not | Told::Nothing => None,
        })
        .collect();
    // A read has the revision of the addition that it saw: behind it.
    sums.sort_by_key(|(revision, sum, delta)| (*revision, *delta == 0, *sum));
    let (mut before, mut unexplained) = (0, 0);
    let mut made_at = None;
    for (revision, sum, delta) in sums {
        if delta > 0 && made_at.replace(revision) == Some(revision) {
            found.push(format!("c{counter}: two additions have the revision {revision}"));
        }
        if sum - delta < before {
            found.push(format!("c{counter}: {delta} more came to {sum} at {revision}, and {before} was before"));
        }
        unexplained += (sum - delta - before).max(0);
        before = before.max(sum);
    }
    let at_end = at_end.unwrap_or(0);
    if at_end < before {
        found.push(format!("c{counter}: it is {at_end} at the end, and was {before} before"));
    }
    unexplained += (at_end - before).max(0);
    let without_answer: i64 = asked.iter().filter(|one| one.told == Told::Nothing).map(|one| one.delta).sum();
    if unexplained > without_answer {
        found.push(format!(
            "c{counter}: {unexplained} were added that no answer speaks of, and only {without_answer} were asked for without an answer"
        ));
    }
    found.extend(in_time(counter, asked));
    found
}

/// What begins after an answer counts on top of it.
fn in_time(counter: u32, asked: &[&Asked]) -> Option<String> {
    let sum = |one: &Asked| match one.told {
        Told::Sum { sum, .. } => Some(sum),
        Told::Not | Told::Nothing => None,
    };
    let mut ended: Vec<(u64, i64)> = asked.iter().filter_map(|one| Some((one.completed_ns?, sum(one)?))).collect();
    let mut begun: Vec<(u64, i64, i64)> = asked.iter().filter_map(|one| Some((one.invoked_ns, sum(one)?, one.delta))).collect();
    ended.sort_unstable();
    begun.sort_unstable();
    let (mut ended, mut highest) = (ended.into_iter().peekable(), 0);
    begun.into_iter().find_map(|(invoked_ns, sum, delta)| {
        while let Some((_, earlier)) = ended.next_if(|(completed_ns, _)| *completed_ns < invoked_ns) {
            highest = highest.max(earlier);
        }
        (sum < highest + delta)
            .then(|| format!("c{counter}: {delta} more came to {sum}, and an answer before it was asked had said {highest}"))
    })
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;

    fn asked(times: (u64, u64), delta: i64, told: Told) -> Asked {
        Asked { counter: 1, delta, invoked_ns: times.0, completed_ns: (told != Told::Nothing).then_some(times.1), told }
    }

    fn sum(sum: i64, index: u64) -> Told {
        Told::Sum { sum, revision: Revision { index, position: 0 } }
    }

    fn found(asked: &[Asked], at_end: i64) -> String {
        check(asked, &BTreeMap::from([(1, at_end)])).join("\n")
    }

    #[test]
    fn sums_of_one_order_are_well_with_what_has_no_answer_or_without() {
        let lost = asked((0, 0), 5, Told::Nothing);
        let all = [asked((0, 9), 2, sum(2, 1)), asked((1, 8), 3, sum(10, 7)), asked((9, 9), 0, sum(10, 7)), lost];
        assert_eq!(found(&all, 10), "");
        assert_eq!(found(&[asked((0, 9), 2, sum(2, 1)), lost], 2), "");
        assert_eq!(found(&[asked((0, 9), 2, sum(2, 1)), lost], 7), "");
        assert_eq!(found(&[asked((0, 9), 2, Told::Not)], 0), "");
    }

    #[test]
    fn what_is_lost_or_twice_or_out_of_order_is_found() {
        let first = asked((0, 3), 2, sum(2, 1));
        let cases = [
            (vec![first, asked((4, 5), 2, sum(2, 4))], 2, "and 2 was before"),
            (vec![first], 0, "it is 0 at the end"),
            (vec![first], 4, "2 were added that no answer speaks of"),
            (vec![first, asked((0, 9), 3, Told::Not)], 5, "3 were added that no answer speaks of"),
            (vec![first, asked((0, 9), 1, Told::Nothing)], 4, "and only 1 were asked for"),
            (vec![first, asked((0, 9), 2, sum(4, 1))], 4, "two additions have the revision"),
            (vec![asked((0, 3), 2, sum(5, 9)), asked((4, 6), 3, sum(3, 5))], 5, "an answer before it was asked had said 5"),
            (vec![first, asked((4, 5), 0, sum(0, 0))], 2, "an answer before it was asked had said 2"),
        ];
        for (asked, at_end, words) in cases {
            let why = found(&asked, at_end);
            assert!(why.contains(words), "{words}: {why:?}");
        }
    }
}
