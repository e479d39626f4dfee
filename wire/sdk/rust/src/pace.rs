//! How calls that waited for a leader are let go: at the rate at which calls came before, and not all at once.
//!
//! ```text
//!   arrivals   ▁▁▁▁▁▁▁▁|  no leader, calls wait  |▂▂▂▂▂▂▂▂▁▁▁▁▁▁▁        each waits its share, with jitter
//!                                                 ^ found
//!   without    ▁▁▁▁▁▁▁▁|                         |█▁▁▁▁▁▁▁▁▁▁▁▁▁▁        ten thousand clients, one millisecond
//! ```
//!
//! W calls wait after an outage of D, at a shard that this client called r times a second. Let go evenly within W / r they are r a second,
//! and those that come meanwhile are at most r again: twice the steady rate. Within D they are at most that as well, as no more than r * D
//! have come. The shorter of the two is taken: a pipeline of 64 writes that takes 2 ms is let go within 2 ms. Who finds a leader at the
//! first look waits for nothing: that call came when the outage was over, if there ever was one.
//!
//! **Not here**: clocks (`now` is an argument), waiting (`leader.rs`).

use std::time::{Duration, Instant};

use crate::limits::{BACKOFF_MS_MIN, RATE_WINDOW, SEARCH_MS_MAX, SPREAD_MAX};
use crate::retry::backoff;

/// Counts first attempts. One comparison and one addition each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Ever.
    count: u64,
    /// Of these, what [`Flow::harvest`] has given.
    harvested: u64,
    /// The present window: since when, and how many came before it.
    window: Option<(Instant, u64)>,
    /// In the last whole window.
    per_second: f64,
}

impl Flow {
    /// A call begins.
    pub fn begin(&mut self, now: Instant) {
        let (from, before) = *self.window.get_or_insert((now, self.count));
        self.count += 1;
        if now.saturating_duration_since(from) >= RATE_WINDOW {
            self.per_second = rate(self.count - before, now.saturating_duration_since(from));
            self.window = Some((now, self.count));
        }
    }

    /// Calls that have begun since the last harvest.
    pub fn harvest(&mut self) -> u64 {
        let fresh = self.count - self.harvested;
        self.harvested = self.count;
        fresh
    }

    /// Calls a second of late.
    pub fn per_second(&self, now: Instant) -> f64 {
        let Some((from, before)) = self.window else { return 0.0 };
        let passed = now.saturating_duration_since(from);
        if passed < RATE_WINDOW && self.per_second > 0.0 {
            return self.per_second.max(rate(self.count - before, RATE_WINDOW));
        }
        rate(self.count - before, passed)
    }
}

fn rate(calls: u64, passed: Duration) -> f64 {
    calls as f64 / passed.as_secs_f64().max(0.001)
}

/// Within how long `waiting` calls are let go.
pub fn spread(waiting: u64, per_second: f64, outage: Duration) -> Duration {
    // Nothing is known of the rate: the outage decides alone.
    let fair = if per_second > 0.0 { waiting as f64 / per_second } else { f64::MAX };
    let most = outage.min(SPREAD_MAX);
    if fair < most.as_secs_f64() { Duration::from_secs_f64(fair) } else { most }
}

/// When the call that is number `position` of `waiting` is let go, after the leader was found: at any time of its share of the window.
/// Who came first goes first, as its deadline comes first. `dice`: 64 random bits.
pub fn share(window: Duration, position: u64, waiting: u64, dice: u64) -> Duration {
    let fraction = (dice >> 11) as f64 / (1_u64 << 53) as f64;
    window.mul_f64(((position as f64 + fraction) / waiting.max(1) as f64).min(1.0))
}

/// The wait before the next search for a leader: full jitter, at most a quarter of the time that there has been none.
pub fn search_again(rounds: u32, outage: Duration, dice: u64) -> Duration {
    let quarter_ms = u64::try_from(outage.as_millis() / 4).unwrap_or(u64::MAX).min(SEARCH_MS_MAX);
    let usual = backoff(rounds, dice);
    if quarter_ms <= crate::limits::BACKOFF_MS_MAX || rounds < 5 {
        return usual;
    }
    Duration::from_micros(BACKOFF_MS_MIN * 1_000 + dice % ((quarter_ms - BACKOFF_MS_MIN) * 1_000 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: u64 = 10_000;
    const OUTAGE_MS: u64 = 5_000;

    /// Peak over steady arrivals, by 100 ms, of 10,000 clients: `clients` of `tasks` each that think two seconds on the mean and call, through
    /// an outage of five.
    fn peak_over_steady(clients: usize, tasks: usize, jitter: bool) -> f64 {
        let start = Instant::now();
        let mut dice = fastrand::Rng::with_seed(3);
        let mut flows = vec![Flow::default(); clients];
        let (mut lost, mut waiting) = (vec![0.0; clients], vec![0_u64; clients]);
        let mut due: Vec<Vec<usize>> = vec![Vec::new(); 40_000];
        let mut arrivals = vec![0_u32; 40_000];
        for task in 0..clients * tasks {
            due[dice.usize(0..4_000)].push(task % clients);
        }
        for at in 0..30_000_u64 {
            let now = start + Duration::from_millis(at);
            if at == START_MS {
                (0..clients).for_each(|client| lost[client] = flows[client].per_second(now));
            }
            if at == START_MS + OUTAGE_MS {
                for client in 0..clients {
                    let window = spread(waiting[client], lost[client], Duration::from_millis(OUTAGE_MS));
                    for position in 0..waiting[client] {
                        let wait = if jitter { share(window, position, waiting[client], dice.u64(..)) } else { Duration::ZERO };
                        let goes = (at + wait.as_millis() as u64) as usize;
                        arrivals[goes] += 1;
                        due[goes + 1 + dice.usize(0..4_000)].push(client);
                    }
                }
            }
            for client in std::mem::take(&mut due[at as usize]) {
                flows[client].begin(now);
                if (START_MS..START_MS + OUTAGE_MS).contains(&at) {
                    waiting[client] += 1;
                } else {
                    arrivals[at as usize] += 1;
                    due[at as usize + 1 + dice.usize(0..4_000)].push(client);
                }
            }
        }
        let by_100_ms: Vec<u32> = arrivals.chunks(100).map(|window| window.iter().sum()).collect();
        let steady = f64::from(by_100_ms[50..100].iter().sum::<u32>()) / 50.0;
        let peak = by_100_ms[100..300].iter().max().copied().map_or(0.0, f64::from);
        peak / steady
    }

    #[test]
    fn ten_thousand_clients_come_back_at_no_more_than_twice_the_steady_rate() {
        for (clients, tasks) in [(10, 1_000), (100, 100), (10_000, 1)] {
            let peak = peak_over_steady(clients, tasks, true);
            assert!(peak <= 2.0, "{clients} clients of {tasks} tasks: {peak:.2} times the steady rate");
        }
    }

    #[test]
    fn without_jitter_ten_thousand_clients_are_a_herd_and_the_measurement_sees_it() {
        let peak = peak_over_steady(100, 100, false);
        assert!(peak > 10.0, "{peak:.2} times the steady rate");
    }

    #[test]
    fn a_busy_pipeline_is_let_go_at_once_and_nobody_waits_longer_than_the_outage() {
        assert_eq!(spread(64, 32_000.0, Duration::from_millis(100)), Duration::from_millis(2));
        assert_eq!(spread(64, 0.1, Duration::from_millis(100)), Duration::from_millis(100));
        assert_eq!(spread(64, 0.0, Duration::from_secs(3_600)), SPREAD_MAX);
        assert_eq!(share(Duration::ZERO, 3, 4, u64::MAX), Duration::ZERO);
        let second_quarter = Duration::from_secs(1)..Duration::from_secs(2);
        for dice in [0, u64::MAX / 2, u64::MAX - u64::MAX / 1_000] {
            assert!(second_quarter.contains(&share(Duration::from_secs(4), 1, 4, dice)));
        }
        assert_eq!(share(Duration::from_secs(4), 9, 4, 0), Duration::from_secs(4), "who came when the others had been counted");
    }

    #[test]
    fn the_rate_is_that_of_late() {
        let start = Instant::now();
        let mut flow = Flow::default();
        assert_eq!(flow.per_second(start), 0.0);
        let at = |ms: u64| start + Duration::from_millis(ms);
        (0..3_000).for_each(|ms| flow.begin(at(ms)));
        assert!((950.0..=1_050.0).contains(&flow.per_second(at(3_000))), "{}", flow.per_second(at(3_000)));
        assert!(flow.per_second(at(60_000)) < 20.0, "it has been quiet since");
        assert_eq!((flow.harvest(), flow.harvest()), (3_000, 0));
    }

    #[test]
    fn searches_come_seldom_when_there_has_been_no_leader_for_long() {
        let soon = search_again(3, Duration::from_millis(300), u64::MAX);
        assert!(soon <= Duration::from_millis(100), "{soon:?}");
        let mean = |outage: Duration| {
            let mut dice = fastrand::Rng::with_seed(5);
            (0..1_000).map(|_| search_again(20, outage, dice.u64(..)).as_millis()).sum::<u128>() / 1_000
        };
        assert!((450..550).contains(&mean(Duration::from_secs(60))), "{}", mean(Duration::from_secs(60)));
        assert!((110..140).contains(&mean(Duration::from_secs(1))), "{}", mean(Duration::from_secs(1)));
    }
}
