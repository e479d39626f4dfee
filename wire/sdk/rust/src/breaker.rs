//! The circuit breaker of one node: one that fails again and again is left alone for a while that grows.
//!
//! ```text
//!   closed -- 3 failures in a row --> open for 0.1 .. 2 s, jittered -- time is up --> half open: one tries
//!      ^                                        ^                                          |          |
//!      |                                        +---------- it failed: twice as long ------+          |
//!      +----------------------------------- it answered ---------------------------------------------+
//! ```
//!
//! A failure is a connection that could not be opened or ended by itself, and a refusal that says that the node cannot serve; a refusal
//! that is about the request is an answer like any other.
//!
//! **Invariants**
//! - While it is half open, one attempt is under way, or it has been given up after [`BREAKER_PROBE`].
//! - [`admit`] never leaves a shard without anybody to ask.
//!
//! **Not here**: clocks and randomness. A leader that its peers have named is asked, whatever its breaker says (`leader.rs`): that
//! is news, and nobody else could answer.

use std::time::{Duration, Instant};

use crate::limits::{BREAKER_FAILURES, BREAKER_MS_MAX, BREAKER_MS_MIN, BREAKER_PROBE};

/// See the head of this file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Breaker {
    /// In a row.
    failures: u32,
    /// Not asked before; `None`: closed.
    until: Option<Instant>,
}

/// Whether a node may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Yes.
    Ask,
    /// Yes, as the one who finds out whether it is back.
    Probe,
    /// Not before this moment.
    Not(Instant),
}

impl Breaker {
    /// Whether it may be asked now. A probe is given to one only, for [`BREAKER_PROBE`].
    pub fn ask(&mut self, now: Instant) -> Leave {
        match self.until {
            None => Leave::Ask,
            Some(until) if until > now => Leave::Not(until),
            Some(_) => {
                self.until = Some(now + BREAKER_PROBE);
                Leave::Probe
            }
        }
    }

    /// It answered. Says whether that changed anything.
    pub fn answered(&mut self) -> bool {
        let news = self.failures > 0;
        *self = Breaker::default();
        news
    }

    /// It failed. `dice`: 64 random bits.
    pub fn failed(&mut self, now: Instant, dice: u64) {
        self.failures = self.failures.saturating_add(1);
        if let Some(beyond) = self.failures.checked_sub(BREAKER_FAILURES) {
            let most_ms = BREAKER_MS_MIN.saturating_mul(1 << beyond.min(16)).min(BREAKER_MS_MAX);
            // Half of it at least: one that is dead for long must not be tried often by the luck of the dice.
            let wait = Duration::from_micros(most_ms * 500 + dice % (most_ms * 500 + 1));
            self.until = Some(now + wait);
        }
    }
}

/// Who is asked, of nodes with these leaves, in their order; when none may be, the one whose time is up first.
pub fn admit(leaves: &[Leave]) -> Vec<usize> {
    let mut asked: Vec<usize> = (0..leaves.len()).filter(|&at| !matches!(leaves.get(at), Some(Leave::Not(_)))).collect();
    if asked.is_empty() {
        let until = |leave: &Leave| if let Leave::Not(until) = leave { Some(*until) } else { None };
        asked.extend(leaves.iter().enumerate().min_by_key(|(_, leave)| until(leave)).map(|(at, _)| at));
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_node_is_left_alone_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            for _ in 1..BREAKER_FAILURES {
                breaker.failed(now, 1);
                assert_eq!(breaker.ask(now), Leave::Ask);
            }
            assert!(breaker.answered());
        }
        assert!(!breaker.answered(), "nothing was to be changed");
        (0..BREAKER_FAILURES).for_each(|_| breaker.failed(now, 1));
        assert!(matches!(breaker.ask(now), Leave::Not(until) if until > now));
    }

    #[test]
    fn one_probe_at_a_time_and_a_lost_one_is_replaced() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        (0..BREAKER_FAILURES).for_each(|_| breaker.failed(now, u64::MAX));
        let later = now + Duration::from_millis(BREAKER_MS_MAX);
        assert_eq!(breaker.ask(later), Leave::Probe);
        assert!(matches!(breaker.ask(later + MS), Leave::Not(_)), "somebody is on the way");
        assert_eq!(breaker.ask(later + BREAKER_PROBE), Leave::Probe, "who never came back");
        assert!(breaker.answered());
        assert_eq!(breaker.ask(later + BREAKER_PROBE), Leave::Ask);
    }

    #[test]
    fn somebody_is_always_asked() {
        let now = Instant::now();
        let not = |ms: u64| Leave::Not(now + Duration::from_millis(ms));
        assert_eq!(admit(&[Leave::Ask, not(5), Leave::Probe]), [0, 2]);
        assert_eq!(admit(&[not(7), not(3), not(9)]), [1]);
        assert_eq!(admit(&[]), [0; 0]);
    }

    /// A dead node under a thousand clients that would try it every 10 ms, and what they do when it is back.
    #[test]
    fn a_dead_node_is_tried_seldom_and_found_soon_after_it_is_back() {
        let start = Instant::now();
        let mut dice = fastrand::Rng::with_seed(11);
        let mut clients = vec![(Breaker::default(), None); 1_000];
        let back = 30_000;
        let mut tries = vec![0_u32; 35_000];
        for at in 0..35_000_u64 {
            let now = start + Duration::from_millis(at);
            for (number, (breaker, found)) in clients.iter_mut().enumerate() {
                if found.is_some() || !(at + number as u64).is_multiple_of(10) || matches!(breaker.ask(now), Leave::Not(_)) {
                    continue;
                }
                tries[at as usize] += 1;
                if at < back {
                    breaker.failed(now, dice.u64(..));
                } else {
                    breaker.answered();
                    *found = Some(at - back);
                }
            }
        }
        let late: u32 = tries[10_000..20_000].iter().sum();
        assert!(late < 10_000, "10 s at 1,000 clients: {late} tries, where 1,000,000 would have been");
        let peak = tries[10_000..].chunks(100).map(|window| window.iter().sum::<u32>()).max().expect("there are windows");
        assert!(peak < 200, "{peak} of 1,000 clients came within 100 ms: they are not spread");
        let latest = clients.iter().map(|(_, found)| found.expect("found")).max().expect("there are clients");
        assert!(latest <= BREAKER_MS_MAX + 10, "found after {latest} ms");
    }
}
