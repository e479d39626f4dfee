//! Reads with a contract: what a node says of its age is true, a bound that it keeps is kept, and a session never goes back.
//!
//! | promised | held against |
//! |---|---|
//! | an answer of age a, made at t, reflects every write acknowledged before t - a | every acknowledged write of its shard, by its place in the log |
//! | a bounded answer that is not said to be stale has an age within its bound | the answer itself |
//! | a session's answer reflects at least what the session asked for: all that it has written and seen | the question, and the session's own writes of the key |
//!
//! An answer is made after it was asked for, so it is judged as if it was made then: that is never too strict, and for reads that do not
//! wait it is off by a message's way.
//!
//! **Not here**: whether what was read is what the log held at that index (`session.rs`): these reads are local reads, too.

use std::collections::BTreeMap;

use super::told;
use crate::history::{History, Revision};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Linearizable,
    Local,
    Session { index_min: u64 },
    Bounded { age_ms_max: u32, stale_ok: bool },
}

/// One answered read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub client: u32,
    pub shard: u32,
    pub key: u32,
    pub node: u64,
    pub wanted: Wanted,
    pub asked_ns: u64,
    /// The log index that it reflects.
    pub index: u64,
    pub age_ms: Option<u32>,
    pub stale: bool,
    /// When the key last changed, where it has a value.
    pub revision: Option<Revision>,
    /// Where this session's own newest write of the key is in the log.
    pub own: Option<Revision>,
}

/// All answered reads, in the order in which they were asked for.
pub fn check(history: &History, answers: &[Answered]) -> Vec<String> {
    let acknowledged = Acknowledged::of(history);
    let mut found = [Vec::new(), Vec::new(), Vec::new()];
    for answer in answers {
        found[0].extend(too_young(answer, &acknowledged));
        found[1].extend(out_of_bound(answer));
        found[2].extend(went_back(answer));
    }
    found.into_iter().flat_map(told).collect()
}

/// The highest place in the log of all writes of a shard that were acknowledged by a time.
struct Acknowledged(BTreeMap<u32, Vec<(u64, u64)>>);

impl Acknowledged {
    fn of(history: &History) -> Acknowledged {
        let mut by_shard: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
        for write in history.operations() {
            if let (Some(revision), Some(at)) = (write.revision(), write.completed_ns) {
                by_shard.entry(write.shard).or_default().push((at, revision.index));
            }
        }
        for writes in by_shard.values_mut() {
            writes.sort_unstable();
            let mut highest = 0;
            for (_, index) in writes {
                highest = highest.max(*index);
                *index = highest;
            }
        }
        Acknowledged(by_shard)
    }

    /// Before this time, not at it.
    fn before(&self, shard: u32, ns: u64) -> u64 {
        let Some(writes) = self.0.get(&shard) else { return 0 };
        let count = writes.partition_point(|(at, _)| *at < ns);
        count.checked_sub(1).map_or(0, |last| writes[last].1)
    }
}

fn too_young(answer: &Answered, acknowledged: &Acknowledged) -> Option<String> {
    // A linearizable one is of no age, whatever it can show.
    let age_ms = if answer.wanted == Wanted::Linearizable { 0 } else { answer.age_ms? };
    let age_ns = u64::from(age_ms) * 1_000_000;
    let since = answer.asked_ns.checked_sub(age_ns)?;
    let due = acknowledged.before(answer.shard, since);
    (answer.index < due)
        .then(|| format!("an age that is not true: what was acknowledged before {since} ns is at {due}\n  {answer:?}"))
}

fn out_of_bound(answer: &Answered) -> Option<String> {
    let Wanted::Bounded { age_ms_max, stale_ok } = answer.wanted else { return None };
    let within = answer.age_ms.is_some_and(|age| age <= age_ms_max);
    let right = if answer.stale { stale_ok && !within } else { within };
    (!right).then(|| format!("a bound that is neither kept nor said not to be\n  {answer:?}"))
}

fn went_back(answer: &Answered) -> Option<String> {
    let Wanted::Session { index_min } = answer.wanted else { return None };
    let lacks_own = matches!((answer.own, answer.revision), (Some(own), Some(found)) if found < own);
    (answer.index < index_min || lacks_own).then(|| format!("a session went back\n  {answer:?}"))
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;
    use crate::history::{Op, Outcome};

    const MS: u64 = 1_000_000;

    /// Writes of shard 0 by when they were acknowledged (ms) and their places.
    fn history(writes: &[(u64, u64)]) -> History {
        let mut history = History::default();
        for (value, (at, index)) in (1..).zip(writes) {
            let ticket = history.invoke(0, 0, 1, Op::Put { value }, None, 0);
            let revision = Revision { index: *index, position: 0 };
            history.complete(ticket, Outcome::Written { revision, existed: false, duplicate: false }, at * MS);
        }
        history
    }

    fn answer(wanted: Wanted, asked_ms: u64, index: u64, age_ms: Option<u32>) -> Answered {
        let (client, shard, key, node, stale) = (1, 0, 1, 3, false);
        let asked_ns = asked_ms * MS;
        Answered { client, shard, key, node, wanted, asked_ns, index, age_ms, stale, revision: None, own: None }
    }

    fn judged(writes: &[(u64, u64)], answer: Answered) -> Vec<String> {
        check(&history(writes), &[answer])
    }

    #[test]
    fn an_age_reaches_back_to_what_is_reflected() {
        let writes = [(100, 5), (200, 6), (150, 9)];
        let local = |index, age| judged(&writes, answer(Wanted::Local, 300, index, age));
        assert!(local(9, Some(1)).is_empty() && local(0, None).is_empty() && local(0, Some(1_000)).is_empty());
        assert!(local(5, Some(151)).is_empty(), "what was acknowledged at 150 ms may be missing");
        assert!(local(5, Some(149)).iter().any(|why| why.contains("not true: ")), "it may not");
        assert!(local(8, Some(99)).iter().any(|why| why.contains("is at 9")), "the highest of all that came before counts");
        assert!(judged(&writes, Answered { shard: 7, ..answer(Wanted::Local, 300, 0, Some(1)) }).is_empty());
    }

    #[test]
    fn a_bound_is_kept_or_said_not_to_be() {
        let bounded = |age, stale, stale_ok| {
            let wanted = Wanted::Bounded { age_ms_max: 50, stale_ok };
            judged(&[], Answered { stale, ..answer(wanted, 300, 9, age) }).len()
        };
        assert_eq!((bounded(Some(50), false, false), bounded(Some(51), true, true), bounded(None, true, true)), (0, 0, 0));
        let wrong = [(Some(51), false, true), (None, false, false), (Some(51), true, false), (Some(50), true, true)];
        assert!(wrong.iter().all(|(age, stale, stale_ok)| bounded(*age, *stale, *stale_ok) == 1));
    }

    #[test]
    fn a_session_never_goes_back() {
        let session = |index, revision: Option<u64>, own: Option<u64>| {
            let at = |index| Revision { index, position: 0 };
            let (revision, own) = (revision.map(at), own.map(at));
            judged(&[], Answered { revision, own, ..answer(Wanted::Session { index_min: 7 }, 300, index, None) }).len()
        };
        assert_eq!((session(7, None, Some(6)), session(9, Some(6), Some(6)), session(9, Some(9), Some(6))), (0, 0, 0));
        assert_eq!((session(6, None, None), session(9, Some(5), Some(6))), (1, 1));
    }
}
