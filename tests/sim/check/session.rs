//! Local reads: what a node has applied, however old, but never what no moment of the log has held.
//!
//! A local read names the index that it reflects. Held against every other answer of the history:
//!
//! | promised | not promised |
//! |---|---|
//! | its value was written, by the revision that it names (`evidence.rs`) | that it is the newest, or newer than the last read |
//! | nothing known to be written up to its index is missing | that a client reads what it has written |
//! | its index existed: nothing that began after it has a place at or below it | that another node answers the same |
//!
//! **Not here**: linearizable reads (`linear.rs`). Reads of one node may go back when it restarts and replays its log, so not
//! even that is held against it.

use std::collections::BTreeMap;

use super::evidence::{Evidence, Place, place_of_read, place_of_write};
use super::told;
use crate::history::{History, Op, Operation, Outcome};

/// All local reads of the history.
pub fn check(history: &History) -> Vec<String> {
    let operations = history.operations();
    let evidence = Evidence::of(operations);
    let (mut writes, mut begun) = (Writes::new(), Begun::new());
    for (at, revision) in &evidence.revisions {
        let write = &operations[*at];
        let place = place_of_write(*revision);
        writes.entry((write.shard, write.key)).or_default().insert(place, write);
        begun.entry(write.shard).or_default().push((write.invoked_ns, place, write));
    }
    let unknown_deletes = unknown_deletes(operations);
    for shard in begun.values_mut() {
        lowest_from_here(shard);
    }
    let mut found = Vec::new();
    for read in operations {
        let (Op::GetLocal { .. }, Outcome::Read { index, .. }) = (read.op, read.outcome) else { continue };
        if let Some(why) = from_the_future(read, index, &begun).or_else(|| missing(read, index, &writes, &unknown_deletes)) {
            found.push(why);
        }
    }
    told(found)
}

/// Writes with a known place, of each key.
type Writes<'a> = BTreeMap<(u32, u32), BTreeMap<Place, &'a Operation>>;

/// Writes of each shard by the time of their beginning; after [`lowest_from_here`] each has the lowest place of itself and all
/// later ones.
type Begun<'a> = BTreeMap<u32, Vec<(u64, Place, &'a Operation)>>;

fn lowest_from_here(shard: &mut [(u64, Place, &Operation)]) {
    shard.sort_by_key(|(invoked_ns, place, _)| (*invoked_ns, *place));
    for at in (1..shard.len()).rev() {
        if shard[at].1 < shard[at - 1].1 {
            (shard[at - 1].1, shard[at - 1].2) = (shard[at].1, shard[at].2);
        }
    }
}

/// Earliest beginning of a delete of each key of which nobody knows whether it happened.
fn unknown_deletes(operations: &[Operation]) -> BTreeMap<u32, u64> {
    let mut first = BTreeMap::new();
    for delete in operations.iter().filter(|operation| operation.op == Op::Delete && operation.outcome == Outcome::Unknown) {
        let entry = first.entry(delete.key).or_insert(delete.invoked_ns);
        *entry = delete.invoked_ns.min(*entry);
    }
    first
}

/// The read reflects an index that did not exist yet: a write that began after it is at or below it.
fn from_the_future(read: &Operation, index: u64, begun: &Begun<'_>) -> Option<String> {
    let end = read.completed_ns?;
    let shard = begun.get(&read.shard)?;
    let (_, place, write) = shard.get(shard.partition_point(|(invoked_ns, _, _)| *invoked_ns <= end))?;
    (*place <= place_of_read(index))
        .then(|| format!("k{}: a local read reflects what began after it\n  {read}\n  {write}", read.key))
}

/// The read lacks a write that is at or below its index.
fn missing(read: &Operation, index: u64, writes: &Writes<'_>, unknown_deletes: &BTreeMap<u32, u64>) -> Option<String> {
    let (place, write) = writes.get(&(read.shard, read.key))?.range(..=place_of_read(index)).next_back()?;
    let Outcome::Read { found, .. } = read.outcome else { return None };
    let right = match found {
        Some((_, revision)) => place_of_write(revision) >= *place,
        None if write.op == Op::Delete => true,
        None => unknown_deletes.get(&read.key).is_some_and(|began| read.completed_ns.is_none_or(|end| *began <= end)),
    };
    (!right).then(|| format!("k{}: a local read lacks a write up to its own index\n  {read}\n  {write}", read.key))
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;
    use crate::check::linear::tests::{Told, history};

    fn good(told: &[Told]) {
        assert_eq!(check(&history(told)), Vec::<String>::new());
    }

    fn bad(told: &[Told], expected: &str) {
        let found = check(&history(told));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains(expected), "{found:#?}");
    }

    const OLD: Option<(u64, (u64, u32))> = Some((1, (1, 0)));
    const NEW: Option<(u64, (u64, u32))> = Some((2, (4, 0)));

    fn writes(more: Told) -> [Told; 3] {
        [Told::put(0, 1, 1, (1, 0), false), Told::put(2, 3, 2, (4, 0), true), more]
    }

    #[test]
    fn old_values_are_allowed() {
        good(&writes(Told::local(9, 10, OLD, 3)));
        good(&writes(Told::local(9, 10, None, 0)));
        good(&writes(Told::local(9, 10, NEW, 4)));
        // And back again.
        good(&[Told::put(0, 1, 1, (1, 0), false), Told::local(2, 3, OLD, 1), Told::local(4, 5, None, 0)]);
    }

    #[test]
    fn write_up_to_its_index_is_missing() {
        bad(&writes(Told::local(9, 10, OLD, 4)), "lacks a write");
        bad(&writes(Told::local(9, 10, None, 4)), "lacks a write");
        bad(&writes(Told::local(9, 10, None, 2)), "lacks a write");
        bad(&[Told::put(0, 1, 1, (1, 0), false), Told::delete(2, 3, (2, 0), true), Told::local(4, 5, OLD, 2)], "lacks a write");
    }

    #[test]
    fn deletes_explain_what_is_not_there() {
        good(&[Told::put(0, 1, 1, (1, 0), false), Told::delete(2, 3, (2, 0), true), Told::local(4, 5, None, 2)]);
        good(&[Told::put(0, 1, 1, (1, 0), false), Told::lost_delete(2), Told::local(4, 5, None, 2)]);
        bad(&[Told::put(0, 1, 1, (1, 0), false), Told::local(4, 5, None, 2), Told::lost_delete(6)], "lacks a write");
        bad(&[Told::put(0, 1, 1, (1, 0), false), Told::lost_delete(2).of(2), Told::local(4, 5, None, 2)], "lacks a write");
    }

    #[test]
    fn unknown_write_may_be_what_is_there() {
        good(&[Told::put(0, 1, 1, (1, 0), false), Told::lost_put(2, 2), Told::local(4, 5, NEW, 9)]);
        bad(
            &[Told::put(0, 1, 1, (1, 0), false), Told::lost_put(2, 2), Told::local(4, 5, NEW, 9), Told::local(6, 7, OLD, 9)],
            "lacks a write",
        );
    }

    #[test]
    fn index_that_did_not_exist_yet() {
        bad(&[Told::local(0, 1, None, 7), Told::put(2, 3, 1, (7, 0), false).of(2)], "began after it");
        good(&[Told::local(0, 1, None, 6), Told::put(2, 3, 1, (7, 0), false).of(2)]);
        good(&[Told::local(0, 2, None, 7), Told::put(2, 3, 1, (7, 0), false).of(2)]);
        good(&[Told::local(0, 1, None, 7), Told::put(2, 3, 1, (7, 0), false).of(2).on_shard(1)]);
        // Not the next one that begins, but the one after it.
        bad(
            &[Told::local(0, 1, None, 7), Told::put(2, 9, 1, (8, 0), false).of(2), Told::put(3, 9, 2, (7, 0), false).of(3)],
            "v2",
        );
    }
}
