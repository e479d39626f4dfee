//! The retry budget of a client: what first attempts put in, retries take out.
//!
//! ```text
//!   a first attempt       + 1/10, which fades within about 10 s
//!   a retry               - 1
//!   + 1 a second, up to 100 in reserve: who calls seldom may retry, too
//! ```
//!
//! A ring that refuses everything then sees about a tenth more than what its clients want, and not each call repeated until its deadline:
//! retries cannot keep a ring down that would recover without them. The loss of a connection with a second's worth of calls in flight is
//! paid for by the calls themselves.
//!
//! **Invariants**
//! - What is in the budget is at most [`RETRY_FADE`]'s worth of first attempts, by [`RETRIES_PER_CALL`], and [`RETRY_RESERVE`].
//! - Following a redirect to a leader that was named costs nothing, and neither does what never left this process, nor the first repeat of
//!   a call whose node was lost: the leader's end strikes all that is in flight, which is bounded, and each of it once ([`costs`]). Nor do
//!   the first [`LEADERLESS_FREE`] repeats of one that met a node that does not lead: it backs off and waits for the leader to be found,
//!   which one task does for all, and may find a wrong one.
//!
//! **Not here**: clocks (`now` is an argument); what a call without budget says (`call.rs`).

use std::time::Instant;

use ringbeam_wire::refusal::Code;

use crate::limits::{LEADERLESS_FREE, RETRIES_PER_CALL, RETRY_FADE, RETRY_RESERVE, RETRY_RESERVE_PER_SECOND};
use crate::retry::{Leader, Seen};

/// See the head of this file.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// From first attempts, in retries.
    earned: f64,
    /// From time, in retries.
    reserve: f64,
    at: Instant,
}

impl Budget {
    /// A full reserve.
    pub fn new(now: Instant) -> Budget {
        Budget { earned: 0.0, reserve: RETRY_RESERVE, at: now }
    }

    /// So many first attempts were made since the last time.
    pub fn earn(&mut self, first_attempts: u64, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let fade = RETRY_FADE.as_secs_f64();
        let left = (-passed / fade).exp();
        // As if they had come evenly: what came long ago has faded.
        let share = if passed > 0.0 { fade / passed * (1.0 - left) } else { 1.0 };
        self.earned = self.earned * left + first_attempts as f64 * RETRIES_PER_CALL * share;
        self.reserve = (self.reserve + passed * RETRY_RESERVE_PER_SECOND).min(RETRY_RESERVE);
    }

    /// Takes a retry out. False: there is none.
    pub fn spend(&mut self) -> bool {
        let from = if self.earned >= 1.0 { &mut self.earned } else { &mut self.reserve };
        let enough = *from >= 1.0;
        if enough {
            *from -= 1.0;
        }
        enough
    }
}

/// Whether what follows this attempt takes from the budget: the node had work with it, and named nobody who would do better.
/// `attempts`: of this call, this one included.
pub fn costs(seen: Seen<'_>, next: Leader, attempts: u32) -> bool {
    match seen {
        Seen::Refused(refusal) if refusal.code == Code::NotLeader => next != Leader::Named && attempts > LEADERLESS_FREE,
        Seen::Refused(_) => true,
        Seen::Lost { sent } => sent && attempts > 1,
        Seen::Busy | Seen::DeadlinePassed => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ringbeam_wire::refusal::Refusal;

    use super::*;
    use crate::retry::{Effort, Kind, Next};

    /// Arrivals a second at a ring that refuses everything as overloaded, under `rate` calls a second, for 60 s of virtual time.
    fn arrivals_at_an_overloaded_ring(rate: u64, budgeted: bool) -> f64 {
        let start = Instant::now();
        let busy = Refusal::new(Code::Overloaded, "the queue is full");
        let mut budget = Budget::new(start);
        let mut dice = fastrand::Rng::with_seed(7);
        // By the millisecond in which it tries again: calls with their effort and deadline.
        let mut due: Vec<Vec<(Effort, u64)>> = vec![Vec::new(); 66_000];
        let mut arrivals = 0;
        for at in 0..60_000_u64 {
            let fresh = at * rate / 1_000 - at.saturating_sub(1) * rate / 1_000;
            let now = start + Duration::from_millis(at);
            budget.earn(fresh, now);
            let mut calls = std::mem::take(&mut due[at as usize]);
            calls.extend((0..fresh).map(|_| (Effort::new(Kind::Read), at + 5_000)));
            arrivals += calls.len();
            for (mut effort, deadline) in calls {
                if let Next::Again { after, leader, .. } = effort.after(Seen::Refused(&busy), dice.u64(..)) {
                    let again = at + (after.as_millis() as u64).max(1);
                    let paid = !budgeted || !costs(Seen::Refused(&busy), leader, 2) || budget.spend();
                    if again < deadline && paid {
                        due[again as usize].push((effort, deadline));
                    }
                }
            }
        }
        arrivals as f64 / 60.0
    }

    #[test]
    fn an_overloaded_ring_sees_a_tenth_more_and_not_a_hundredfold() {
        let with = arrivals_at_an_overloaded_ring(1_000, true);
        assert!((1_050.0..1_120.0).contains(&with), "{with:.0} arrivals a second");
        let without = arrivals_at_an_overloaded_ring(1_000, false);
        assert!(without > 20_000.0, "without a budget {without:.0} arrivals a second: this test would see nothing");
        let seldom = arrivals_at_an_overloaded_ring(2, true);
        assert!(seldom < 6.0, "two calls a second: {seldom:.1} arrivals");
    }

    #[test]
    fn a_second_of_calls_in_flight_may_be_lost_at_once() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for second in 1..=30 {
            budget.earn(10_000, start + Duration::from_secs(second));
        }
        let retries = (0..20_000).take_while(|_| budget.spend()).count();
        assert!((9_000..=10_200).contains(&retries), "{retries} retries");
    }

    #[test]
    fn calls_of_an_hour_ago_pay_for_nothing() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        budget.earn(1_000_000, start);
        budget.earn(0, start + Duration::from_secs(3_600));
        assert_eq!((0..1_000).take_while(|_| budget.spend()).count(), 100, "the reserve");
        assert!(!budget.spend());
        budget.earn(0, start + Duration::from_secs(3_603));
        assert_eq!((0..10).take_while(|_| budget.spend()).count(), 3);
    }

    #[test]
    fn redirects_to_a_named_leader_are_free() {
        let named = Refusal::not_leader(2, "127.0.0.1:2");
        assert!(!costs(Seen::Refused(&named), Leader::Named, 3));
        let nobody = Refusal::not_leader(0, "");
        assert!(costs(Seen::Refused(&nobody), Leader::Search, LEADERLESS_FREE + 1));
        assert!(!costs(Seen::Busy, Leader::Same, 3));
    }

    #[test]
    fn the_first_time_that_a_call_loses_its_leader_is_free() {
        let nobody = Refusal::not_leader(0, "");
        assert!(!costs(Seen::Refused(&nobody), Leader::Search, LEADERLESS_FREE));
        let (lost, unsent) = (Seen::Lost { sent: true }, Seen::Lost { sent: false });
        assert!(!costs(lost, Leader::Search, 1) && costs(lost, Leader::Search, 2));
        assert!(!costs(unsent, Leader::Search, 2));
    }
}
