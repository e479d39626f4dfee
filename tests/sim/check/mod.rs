//! The checkers: each looks at what was observed and returns what is wrong with it, in words. None of them knows the simulator,
//! the store, or how what it judges was obtained.
//!
//! | checker | judges | source |
//! |---|---|---|
//! | [`evidence`] | revisions against real time, over all keys of a shard | the store's own promises |
//! | [`linear`] | every key: is there one order of all its operations? | Wing & Gong, Lowe |
//! | [`session`] | local reads: old is allowed, invented is not | the store's own promises |
//! | [`age`] | reads with a contract: ages, bounds, sessions | the store's own promises |
//! | [`exactly_once`] | retried writes: applied once, with one answer | the store's own promises |
//! | [`counters`] | additions: sums of one order, nothing lost or twice | the store's own promises |
//! | [`owned`] | keys of one client: deltas folded in order and once, ranges erased in slices | the store's own promises |
//! | [`watching`] | watches: each change once and in order, or a gap that is said | the store's own promises |
//! | [`scanned`] | pages of scans: what the log had made of a range at their index | the store's own promises |
//! | [`lives`] | keys that go, and leases: not before their time | the store's own promises |
//! | [`served`] | while nothing strikes, operations of each kind are done | liveness |
//! | [`raft`] | terms, logs, commits, applied states of all nodes | Ongaro's thesis |
//!
//! **Invariants**: a checker is a function of its arguments; the same observations give the same words in the same order. No
//! clock but a bound that the caller asked for, and no hasher with a secret.

pub mod age;
pub mod counters;
pub mod evidence;
pub mod exactly_once;
pub mod linear;
pub mod lives;
pub mod owned;
pub mod raft;
pub mod scanned;
pub mod served;
pub mod session;
pub mod watching;

use crate::history::History;

/// All checkers of a history; with `log`, what the state machines ran. An undecided one is no success, and says so.
pub fn judge(history: &History, log: Option<&exactly_once::AppliedLog>, effort: linear::search::Effort) -> Vec<String> {
    let mut found = evidence::check(history);
    found.extend(match linear::check(history, linear::Ranks::Believed, effort) {
        linear::Verdict::Linearizable => Vec::new(),
        linear::Verdict::Violated(stories) => stories,
        linear::Verdict::Undecided(whys) => whys.into_iter().map(|why| format!("undecided: {why}")).collect(),
    });
    found.extend(session::check(history));
    found.extend(log.map(|log| exactly_once::check(history, log)).unwrap_or_default());
    found
}

/// Violations of one kind that are told; the rest is counted. One broken promise often breaks a thousand operations.
const TOLD_MAX: usize = 8;

/// The first few of `found`, and how many there are more.
fn told(mut found: Vec<String>) -> Vec<String> {
    if found.len() > TOLD_MAX {
        let more = found.len() - TOLD_MAX;
        found.truncate(TOLD_MAX);
        found.push(format!("({more} more of this kind)"));
    }
    found
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::exactly_once::{AppliedLog, Effect, Ran};
    use super::linear::search::Effort;
    use super::linear::tests::{Told, history};
    use super::*;
    use crate::history::{Revision, Tag};

    #[test]
    fn each_checker_is_asked() {
        let judged = |told: &[Told]| judge(&history(told), None, Effort::default());
        let put = || Told::put(0, 1, 1, (1, 0), false);
        assert_eq!(judged(&[put(), Told::get(2, 3, Some((1, (1, 0))), 1)]), Vec::<String>::new());
        let expected = [
            (Told::put(2, 3, 2, (1, 0), false).of(2), "one revision for two writes"),
            (Told::get(2, 3, None, 1), "not linearizable"),
            (Told::local(2, 3, None, 1), "lacks a write"),
        ];
        for (told, words) in expected {
            let found = judged(&[put(), told]);
            assert!(found.iter().any(|why| why.contains(words)), "{words}: {found:?}");
        }
        let mut log = AppliedLog::default();
        let tag = Tag { session: 1, sequence: 1 };
        log.note(1, 0, Revision { index: 1, position: 0 }, Ran { tag: Some(tag), key: 1, effect: Effect::Applied });
        let found = judge(&history(&[]), Some(&log), Effort::default());
        assert!(found.len() == 1 && found[0].contains("no client asked"), "{found:?}");
    }

    #[test]
    fn undecided_is_no_success() {
        let told = [Told::put(0, 9, 1, (1, 0), false), Told::put(0, 9, 2, (2, 0), true)];
        let found = judge(&history(&told), None, Effort { steps_max: 1, time_max: None });
        assert!(found.len() == 1 && found[0].starts_with("undecided: k1"), "{found:?}");
    }

    #[test]
    fn the_first_few_of_a_kind_are_told() {
        let many: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        let few = told(many.clone());
        assert_eq!((few.len(), few.last().map(String::as_str)), (TOLD_MAX + 1, Some("(12 more of this kind)")));
        assert_eq!(told(many[..TOLD_MAX].to_vec()), many[..TOLD_MAX]);
    }
}
