//! A ring in which nothing strikes serves: of each kind of operation some are done. Else every other checker would be content with nothing.
//!
//! Of operations that begin and end while all is well at least a tenth must be done. Not all: a swap may find another value than it
//! expects, a bound may be shorter than a follower is behind, a client may be told of a full queue.
//!
//! **Not here**: what was answered (all other checkers), and how soon after a fault the ring serves again (`run.rs`).

use crate::history::{History, Op, Outcome};

/// Fewer say nothing.
const ATTEMPTS_MIN: u64 = 20;
/// One of so many is done, at least.
const DONE_ONE_IN: u64 = 10;

const KINDS: [&str; 4] = ["puts", "deletes", "linearizable gets", "gets of one node"];

/// `calm`: from and to, nanoseconds.
pub fn check(history: &History, calm: &[(u64, u64)]) -> Vec<String> {
    let mut counts = [(0, 0); KINDS.len()];
    for operation in history.operations() {
        let Some(end) = operation.completed_ns else { continue };
        if !calm.iter().any(|(from, to)| *from <= operation.invoked_ns && end <= *to) {
            continue;
        }
        let (attempts, done) = &mut counts[match operation.op {
            Op::Put { .. } => 0,
            Op::Delete => 1,
            Op::Get => 2,
            Op::GetLocal { .. } => 3,
        }];
        *attempts += 1;
        *done += u64::from(matches!(operation.outcome, Outcome::Written { .. } | Outcome::Read { .. }));
    }
    let idle =
        KINDS.iter().zip(counts).filter(|(_, (attempts, done))| *attempts >= ATTEMPTS_MIN && done * DONE_ONE_IN < *attempts);
    idle.map(|(kind, (attempts, done))| format!("served: while all was well {done} of {attempts} {kind} were done")).collect()
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;

    /// Puts, one each ten nanoseconds; every `every`th is done.
    fn judged(every: u64, calm: &[(u64, u64)]) -> Vec<String> {
        let mut history = History::default();
        for number in 0..40 {
            let ticket = history.invoke(1, 0, 1, Op::Put { value: number + 1 }, None, number * 10);
            let revision = crate::history::Revision { index: number + 1, position: 0 };
            let done = Outcome::Written { revision, existed: true, duplicate: false };
            history.complete(ticket, if number % every == 0 { done } else { Outcome::Failed }, number * 10 + 5);
        }
        check(&history, calm)
    }

    #[test]
    fn who_does_nothing_while_all_is_well_is_found() {
        assert_eq!(judged(1, &[(0, 400)]), Vec::<String>::new());
        assert_eq!(judged(10, &[(0, 400)]), Vec::<String>::new());
        assert_eq!(judged(40, &[(0, 400)]), ["served: while all was well 1 of 40 puts were done"]);
        // Of so few nothing is said, nor of what a fault may have met.
        assert_eq!(judged(40, &[(0, 100), (200, 250)]), Vec::<String>::new());
    }
}
