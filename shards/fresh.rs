//! How fresh this node's state is, as far as it can show: from questions to the leader, on this node's own monotonic clock.
//!
//! ```text
//!   asked at t0 ── the leader answers: committed up to index i ──▶ (t0, i) is kept
//!   applied >= i ──▶ everything acknowledged before t0 is in the state: its age at `now` is now - t0, at most
//! ```
//! Pure: `now` is an argument, and what is applied too.
//!
//! **Invariants**
//! - An age is never below the true one. No two clocks are compared: t0 and `now` are of one node; the distance between them is lengthened
//!   by [`CLOCK_DRIFT_PER_MILLE_MAX`], as the clock may be slow, and rounded up to the next millisecond.
//! - What is kept is bounded; what is forgotten for that makes an age greater, never smaller.
//!
//! **Caveat**: a monotonic clock stands still while its machine is suspended (and, on some hypervisors, while it is moved): the time
//! slept is in no age that spans it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::io::Instant;
use crate::limits::{CLOCK_DRIFT_PER_MILLE_MAX, FRESHNESS_PAIRS_MAX};

/// Pairs of (when it was asked, the index that answered), and what follows from them.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    /// Everything acknowledged before this is applied here.
    shown: Option<Instant>,
    /// Pairs whose index was not applied yet, both parts ascending.
    ahead: VecDeque<(Instant, u64)>,
}

impl Freshness {
    /// The leader was asked at `asked` and had committed up to `index`.
    pub fn learn(&mut self, asked: Instant, index: u64) {
        // One pair is worth nothing beside another that was asked later and needs no more to be applied.
        if self.ahead.iter().any(|(at, needs)| *at >= asked && *needs <= index) {
            return;
        }
        self.ahead.retain(|(at, needs)| *at > asked || *needs < index);
        let place = self.ahead.partition_point(|(at, _)| *at < asked);
        self.ahead.insert(place, (asked, index));
        if self.ahead.len() > FRESHNESS_PAIRS_MAX {
            // Far behind: every other one says as much, half as finely.
            let mut keep = false;
            self.ahead.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// The age of a state that has applied so much, in milliseconds; `None`: nothing is known, or it is beyond all numbers.
    pub fn age_ms(&mut self, applied: u64, now: Instant) -> Option<u32> {
        while let Some(&(asked, _)) = self.ahead.front().filter(|(_, needs)| *needs <= applied) {
            self.ahead.pop_front();
            self.shown = self.shown.max(Some(asked));
        }
        lengthened_ms(now.since(self.shown?))
    }

    /// The next index that makes the state known to be fresher, once it is applied.
    pub fn next_index(&self) -> Option<u64> {
        self.ahead.front().map(|(_, needs)| *needs)
    }
}

/// Whole milliseconds that are no less than what truly passed while this clock measured so much; `None`: beyond all numbers.
pub(crate) fn lengthened_ms(measured: Duration) -> Option<u32> {
    let lengthened = measured.as_nanos() * 1000 / u128::from(1000 - CLOCK_DRIFT_PER_MILLE_MAX);
    u32::try_from(lengthened / 1_000_000 + 1).ok().filter(|ms| *ms < u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn an_age_is_known_once_the_index_is_applied() {
        let mut fresh = Freshness::default();
        assert_eq!(fresh.age_ms(100, at(5)), None);
        fresh.learn(at(10), 7);
        assert_eq!(fresh.age_ms(6, at(20)), None);
        assert_eq!(fresh.next_index(), Some(7));
        let age = fresh.age_ms(7, at(20)).expect("it is applied");
        assert!((11..=12).contains(&age), "10 ms, lengthened by the drift, rounded up: {age}");
        assert_eq!(fresh.next_index(), None);
    }

    #[test]
    fn the_newest_applied_pair_counts() {
        let mut fresh = Freshness::default();
        fresh.learn(at(100), 5);
        fresh.learn(at(200), 9);
        fresh.learn(at(300), 20);
        let age = fresh.age_ms(9, at(1000)).expect("two of them are applied");
        assert!((801..=855).contains(&age), "from 200 ms on: {age}");
    }

    #[test]
    fn a_slow_clock_does_not_make_it_younger() {
        let mut fresh = Freshness::default();
        fresh.learn(at(0), 1);
        // 1,000 ms have passed; a clock that is slow by the bound shows 940.
        let shown = 1000 - CLOCK_DRIFT_PER_MILLE_MAX;
        assert!(fresh.age_ms(1, at(shown)).expect("applied") >= 1000);
    }

    #[test]
    fn a_late_answer_to_an_early_question_changes_nothing() {
        let mut fresh = Freshness::default();
        fresh.learn(at(50), 4);
        let before = fresh.age_ms(4, at(60));
        fresh.learn(at(10), 4);
        assert_eq!(fresh.age_ms(4, at(60)), before);
    }

    #[test]
    fn a_pair_that_needs_less_and_is_younger_replaces() {
        let mut fresh = Freshness::default();
        // Two leaders: the later question may need less than an earlier one did.
        fresh.learn(at(10), 30);
        fresh.learn(at(20), 8);
        assert_eq!(fresh.next_index(), Some(8));
        assert_eq!(fresh.ahead.len(), 1);
        fresh.learn(at(15), 8);
        assert_eq!(fresh.ahead.len(), 1);
    }

    #[test]
    fn what_is_kept_is_bounded_and_only_loses_precision() {
        let mut fresh = Freshness::default();
        for i in 1..=10 * FRESHNESS_PAIRS_MAX as u64 {
            fresh.learn(at(i), i);
            assert!(fresh.ahead.len() <= FRESHNESS_PAIRS_MAX);
        }
        let now = at(20_000);
        for applied in 1..=10 * FRESHNESS_PAIRS_MAX as u64 {
            let age = fresh.age_ms(applied, now).expect("the first pair was kept");
            assert!(u64::from(age) >= 20_000 - applied, "applied {applied}: {age} ms is below the true age");
        }
    }

    #[test]
    fn an_age_beyond_all_numbers_is_not_known() {
        let mut fresh = Freshness::default();
        fresh.learn(at(0), 1);
        assert_eq!(fresh.age_ms(1, Instant(u64::MAX)), None);
    }
}
