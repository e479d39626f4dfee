//! Which of the two ways a durable write goes (`disk.rs` has both and what they cost).
//!
//! O_DSYNC is one request, and the quicker way on most hosts; on some busy ones its second half waits for scheduler ticks.
//! Nobody can tell beforehand, so it is measured: the mean time of the way in use is kept, and now and then the other way
//! has a trial of a few writes. The mean, not the median: a way that is mostly quick and sometimes waits for a tick is slow.
//!
//! ```text
//!   in use: best ──pause over, or twice as slow as when it was chosen──▶ trial of the other ──┬─ clearly better: it is the best
//!                                                                                           └─ not: twice the pause
//! ```
//!
//! Both ways are equally durable, so a wrong guess costs time only.

use std::cell::Cell;
use std::time::Duration;

/// How a durable write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// One request, O_DSYNC.
    Dsync,
    /// A write, then fdatasync.
    Fdatasync,
}

impl Way {
    fn other(self) -> Way {
        match self {
            Way::Dsync => Way::Fdatasync,
            Way::Fdatasync => Way::Dsync,
        }
    }
}

/// The choice for one disk; see the head.
#[derive(Debug)]
pub(super) struct Adaptive {
    best: Cell<Way>,
    /// Mean of the best way, recent writes counting most, nanoseconds; 0 before the first.
    mean: Cell<u64>,
    /// That mean when the best way was last compared.
    chosen_at: Cell<u64>,
    /// Writes until the next trial, and the pause after it.
    pause: Cell<u32>,
    pause_next: Cell<u32>,
    /// Writes left of a trial, and what the ones before took.
    trial: Cell<u32>,
    trial_nanos: Cell<u64>,
}

/// Writes of a trial: enough that one unlucky write does not decide, few enough to be rare among the pauses.
const TRIAL: u32 = 8;

/// Shortest and longest pause between two trials, in writes. A trial of the slower way costs 8 slow writes in 512 at first and in
/// 16,384 soon: below the 99.9th percentile.
const PAUSE_MIN: u32 = 512;
const PAUSE_MAX: u32 = 16_384;

/// One write's share of the mean: 1/16.
const SHARE: u64 = 16;

impl Default for Adaptive {
    fn default() -> Self {
        Adaptive {
            best: Cell::new(Way::Dsync),
            mean: Cell::new(0),
            chosen_at: Cell::new(0),
            pause: Cell::new(PAUSE_MIN),
            pause_next: Cell::new(PAUSE_MIN),
            trial: Cell::new(0),
            trial_nanos: Cell::new(0),
        }
    }
}

impl Adaptive {
    /// The way of the next write.
    pub(super) fn way(&self) -> Way {
        if self.trial.get() > 0 { self.best.get().other() } else { self.best.get() }
    }

    /// Tells how long a write took that went this way.
    pub(super) fn took(&self, way: Way, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / SHARE);
        match (way == self.best.get(), self.trial.get()) {
            (true, 0) => self.took_best(nanos),
            (false, left @ 1..) => {
                self.trial.set(left - 1);
                self.trial_nanos.set(self.trial_nanos.get() + nanos);
                if left == 1 {
                    self.compare(self.trial_nanos.get() / u64::from(TRIAL));
                }
            }
            // It was under way when a trial began or ended.
            _ => {}
        }
    }

    fn took_best(&self, nanos: u64) {
        let mean = match self.mean.get() {
            0 => nanos,
            mean => mean - mean / SHARE + nanos / SHARE,
        };
        self.mean.set(mean);
        if self.chosen_at.get() == 0 {
            self.chosen_at.set(mean);
        }
        self.pause.set(self.pause.get().saturating_sub(1));
        if self.pause.get() == 0 || mean > 2 * self.chosen_at.get() {
            self.trial.set(TRIAL);
            self.trial_nanos.set(0);
        }
    }

    /// After a trial of the other way: it has to be an eighth quicker, or two equal ones would take turns.
    fn compare(&self, other: u64) {
        if other < self.mean.get() / 8 * 7 {
            self.best.set(self.best.get().other());
            self.mean.set(other);
            self.pause_next.set(PAUSE_MIN);
        } else {
            self.pause_next.set((self.pause_next.get() * 2).min(PAUSE_MAX));
        }
        self.chosen_at.set(self.mean.get());
        self.pause.set(self.pause_next.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The O_DSYNC writes among the next `writes`, when each way takes so many microseconds.
    fn dsync_count(adaptive: &Adaptive, writes: u32, dsync_us: u64, fdatasync_us: u64) -> u32 {
        let mut count = 0;
        for _ in 0..writes {
            let way = adaptive.way();
            count += u32::from(way == Way::Dsync);
            let us = if way == Way::Dsync { dsync_us } else { fdatasync_us };
            adaptive.took(way, Duration::from_micros(us));
        }
        count
    }

    #[test]
    fn adaptive_writes_take_the_quicker_way_whichever_it_is() {
        let adaptive = Adaptive::default();
        assert!(dsync_count(&adaptive, 100_000, 150, 230) > 99_800, "a quiet host stays with the first way");
        // It becomes busy: noticed at once, long before the next trial is due.
        assert!(dsync_count(&adaptive, 100, 4_000, 230) < 10);
        assert!(dsync_count(&adaptive, 100_000, 4_000, 230) < 200, "few trials of the slow way");
        // And quiet again: found out by a trial.
        dsync_count(&adaptive, PAUSE_MAX + TRIAL, 150, 230);
        assert_eq!(dsync_count(&adaptive, 500, 150, 230), 500);
    }

    #[test]
    fn adaptive_writes_do_not_take_turns_between_equal_ways() {
        let adaptive = Adaptive::default();
        assert!(dsync_count(&adaptive, 100_000, 1_500, 1_400) > 99_800, "also when both are slow");
    }

    #[test]
    fn adaptive_writes_go_by_the_mean() {
        let adaptive = Adaptive::default();
        let mut dsync = 0;
        for n in 0..50_000_u32 {
            let way = adaptive.way();
            dsync += u32::from(way == Way::Dsync);
            // Mostly quick, and each tenth one waits for a tick.
            let us = if way == Way::Fdatasync {
                230
            } else if n.is_multiple_of(10) {
                4_000
            } else {
                100
            };
            adaptive.took(way, Duration::from_micros(us));
        }
        assert!(dsync < 2_000, "{dsync}");
    }
}
