//! What the answers of a history say together about its writes: which write made which revision, and whether revisions agree
//! with real time.
//!
//! ```text
//!   acknowledged write      (index, position)      place of the write in the shard's log
//!   read that found         value -> write         the write took effect, at the revision that the read names
//!   linearizable read       (index, end)           place of the read: behind all of that index, before all above it
//! ```
//!
//! Of two operations of a shard, whatever their keys, the one with the earlier place must not have been invoked after the other
//! one was answered. That is what "a linearizable read reflects every write that was acknowledged before it arrived" means when
//! read over all keys at once, and it needs no search.
//!
//! **Not here**: the search for an order of one key (`linear.rs`), what local reads may return (`session.rs`).

use std::collections::BTreeMap;

use super::told;
use crate::history::{History, Op, Operation, Outcome, Revision};

/// A place in the order of a shard. Reads stand behind all writes of their index.
pub type Place = (u64, u64);

pub fn place_of_write(revision: Revision) -> Place {
    (revision.index, u64::from(revision.position))
}

pub fn place_of_read(index: u64) -> Place {
    (index, u64::MAX)
}

/// Which write made which value, and where, as far as any answer tells. Operations are named by their place in the slice.
#[derive(Debug, Default)]
pub struct Evidence {
    pub writers: BTreeMap<u64, usize>,
    /// Of acknowledged writes, and of writes whose value was read.
    pub revisions: BTreeMap<usize, Revision>,
    /// Contradictions, with the key that they are about.
    pub contradictions: Vec<(u32, String)>,
}

impl Evidence {
    /// Operations of one key or of many.
    pub fn of(operations: &[Operation]) -> Evidence {
        let mut evidence = Evidence::default();
        for (at, operation) in operations.iter().enumerate() {
            if let Op::Put { value } = operation.op {
                evidence.writers.insert(value, at);
            }
            if let Some(revision) = operation.revision() {
                evidence.revisions.insert(at, revision);
            }
        }
        for operation in operations {
            if let Outcome::Read { found: Some((value, revision)), index } = operation.outcome {
                evidence.read(operations, operation, value, revision, index);
            }
        }
        evidence
    }

    fn read(&mut self, operations: &[Operation], read: &Operation, value: u64, revision: Revision, index: u64) {
        let writer = self.writers.get(&value).map(|at| (*at, &operations[*at]));
        let why = match writer {
            None => "a value that was never written".to_string(),
            Some((_, writer)) if (writer.shard, writer.key) != (read.shard, read.key) => {
                format!("a value of another key: {writer}")
            }
            Some((_, writer)) if writer.outcome == Outcome::Failed => {
                format!("a write that certainly did not happen: {writer}")
            }
            Some((_, writer)) if read.completed_ns.is_some_and(|at| at < writer.invoked_ns) => {
                format!("a value from the future: {writer}")
            }
            Some((at, writer)) => match *self.revisions.entry(at).or_insert(revision) {
                known if known != revision => format!("{revision}, though this write is at {known}: {writer}"),
                _ if revision.index > index => "a revision above the index that the answer reflects".to_string(),
                _ => return,
            },
        };
        self.contradictions.push((read.key, format!("k{}: read {why}\n  {read}", read.key)));
    }
}

/// Contradictions of answers, and of revisions with real time.
pub fn check(history: &History) -> Vec<String> {
    let operations = history.operations();
    let evidence = Evidence::of(operations);
    let mut found = told(evidence.contradictions.iter().map(|(_, why)| why.clone()).collect());
    let mut shards: BTreeMap<u32, Vec<Placed<'_>>> = BTreeMap::new();
    for (at, operation) in operations.iter().enumerate() {
        let place = match (operation.op, operation.outcome) {
            (Op::Get, Outcome::Read { index, .. }) => Some(place_of_read(index)),
            _ => evidence.revisions.get(&at).copied().map(place_of_write),
        };
        shards.entry(operation.shard).or_default().extend(place.map(|place| Placed { place, operation }));
    }
    for (shard, mut placed) in shards {
        placed.sort_by_key(|placed| placed.place);
        found.extend(told(given_twice(shard, &placed)));
        found.extend(told(against_time(shard, &placed)));
    }
    found
}

struct Placed<'a> {
    place: Place,
    operation: &'a Operation,
}

/// A revision is one write's.
fn given_twice(shard: u32, placed: &[Placed<'_>]) -> Vec<String> {
    let writes: Vec<&Placed<'_>> = placed.iter().filter(|placed| placed.operation.writes()).collect();
    let pairs = writes.windows(2).filter(|pair| pair[0].place == pair[1].place);
    let words = |a: &Placed<'_>, b: &Placed<'_>| {
        format!("shard {shard}: one revision for two writes\n  {}\n  {}", a.operation, b.operation)
    };
    pairs.map(|pair| words(pair[0], pair[1])).collect()
}

/// Nothing that has an earlier place begins after something with a later place has ended.
fn against_time(shard: u32, placed: &[Placed<'_>]) -> Vec<String> {
    let mut found = Vec::new();
    // Of all with a later place: the one that ended first.
    let mut first: Option<(u64, &Operation)> = None;
    for group in placed.chunk_by(|a, b| a.place == b.place).rev() {
        for Placed { operation, .. } in group {
            if let Some((end, later)) = first
                && end < operation.invoked_ns
            {
                found.push(format!(
                    "shard {shard}: the second began after the first had ended, and has the earlier place in the log\n  \
                     {later}\n  {operation}"
                ));
            }
        }
        for Placed { operation, .. } in group {
            let end = operation.ends_ns().filter(|end| first.is_none_or(|(earliest, _)| *end < earliest));
            first = end.map(|end| (end, *operation)).or(first);
        }
    }
    found.reverse();
    found
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;
    use crate::check::linear::tests::{Told, history};

    fn broken(told: &[Told], expected: &str) {
        let found = check(&history(told));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains(expected), "{found:#?}");
    }

    #[test]
    fn ordered_answers_are_right() {
        let told = [
            Told::put(0, 10, 1, (5, 0), false),
            Told::put(0, 10, 2, (5, 1), true).of(2),
            Told::get(11, 12, Some((1, (5, 0))), 5),
            Told::lost_put(13, 3),
            Told::get(14, 15, Some((3, (6, 0))), 7),
            Told::local(14, 15, Some((1, (5, 0))), 5),
        ];
        assert_eq!(check(&history(&told)), Vec::<String>::new());
    }

    #[test]
    fn value_that_nobody_wrote() {
        broken(&[Told::get(0, 1, Some((9, (1, 0))), 1)], "never written");
        broken(&[Told::local(0, 1, Some((9, (1, 0))), 1)], "never written");
    }

    #[test]
    fn value_of_a_failed_write() {
        broken(&[Told::failed_put(0, 1, 9), Told::get(2, 3, Some((9, (1, 0))), 1)], "certainly did not happen");
    }

    #[test]
    fn value_of_another_key() {
        broken(&[Told::put(0, 1, 9, (1, 0), false).of(2), Told::get(2, 3, Some((9, (1, 0))), 1)], "another key");
    }

    #[test]
    fn write_that_has_two_revisions_was_applied_twice() {
        broken(&[Told::put(0, 1, 9, (1, 0), false), Told::get(2, 3, Some((9, (2, 0))), 2)], "this write is at 1.0");
        let told = [Told::lost_put(0, 9), Told::get(2, 3, Some((9, (1, 0))), 2), Told::local(2, 3, Some((9, (2, 0))), 2)];
        broken(&told, "this write is at 1.0");
    }

    #[test]
    fn revision_above_the_index_of_the_answer() {
        broken(&[Told::put(0, 1, 9, (4, 0), false), Told::local(2, 3, Some((9, (4, 0))), 3)], "above the index");
    }

    #[test]
    fn revision_given_to_two_writes() {
        broken(&[Told::put(0, 1, 8, (4, 0), false), Told::put(0, 1, 9, (4, 0), false).of(2)], "one revision for two");
    }

    #[test]
    fn later_write_with_an_earlier_revision() {
        broken(&[Told::put(0, 1, 8, (4, 0), false), Told::put(2, 3, 9, (3, 0), false).of(2)], "began after");
        broken(&[Told::put(0, 1, 8, (4, 1), false), Told::put(2, 3, 9, (4, 0), false).of(2)], "began after");
        // At the same time they may have either order.
        let told = [Told::put(0, 2, 8, (4, 0), false), Told::put(1, 3, 9, (3, 0), false).of(2)];
        assert_eq!(check(&history(&told)), Vec::<String>::new());
    }

    #[test]
    fn read_that_does_not_reflect_another_keys_write_is_stale() {
        broken(&[Told::put(0, 1, 8, (4, 0), false), Told::get(2, 3, None, 3).of(2)], "began after");
        broken(&[Told::get(0, 1, None, 5).of(2), Told::get(2, 3, None, 4)], "began after");
        // A local one may be.
        let told = [Told::put(0, 1, 8, (4, 0), false), Told::local(2, 3, None, 3).of(2)];
        assert_eq!(check(&history(&told)), Vec::<String>::new());
    }

    #[test]
    fn other_shards_have_other_logs() {
        let told = [Told::put(0, 1, 8, (4, 0), false), Told::put(2, 3, 9, (4, 0), false).of(2).on_shard(1)];
        assert_eq!(check(&history(&told)), Vec::<String>::new());
    }
}
