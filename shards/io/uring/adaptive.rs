//! Which of the two ways a durable write goes (`disk.rs` has both and what they cost).
//!
//! O_DSYNC is the quicker way on a quiet host and waits for scheduler ticks on a busy one. So: O_DSYNC until one was slow;
//! then fdatasync for so many writes; then one trial, and after a slow one twice as many; few again after a run of quick
//! ones. Both ways are equally durable, so a wrong guess costs time only.

use std::cell::Cell;
use std::time::Duration;

/// The choice for one file; see the head.
#[derive(Debug)]
pub(super) struct Adaptive {
    /// Writes that still go the second way before O_DSYNC is tried again.
    detour: Cell<u32>,
    /// The length of the next detour.
    detour_next: Cell<u32>,
    /// Quick O_DSYNC writes in a row.
    quick: Cell<u32>,
}

/// An O_DSYNC write that took longer has probably waited for a core; most disks worth having are quicker than that, and for
/// the others the second way costs a few per cent.
const SLOW: Duration = Duration::from_millis(1);

/// Shortest and longest detour, in writes: the slow trials are fewer than one write in four thousand on a busy host, far
/// below the 99.9th percentile.
const DETOUR_MIN: u32 = 64;
const DETOUR_MAX: u32 = 4096;

/// Quick writes in a row after which a host counts as quiet again.
const QUICK: u32 = 256;

impl Default for Adaptive {
    fn default() -> Self {
        Adaptive { detour: Cell::new(0), detour_next: Cell::new(DETOUR_MIN), quick: Cell::new(0) }
    }
}

impl Adaptive {
    /// True when the next write goes by O_DSYNC.
    pub(super) fn takes_dsync(&self) -> bool {
        let detour = self.detour.get();
        self.detour.set(detour.saturating_sub(1));
        detour == 0
    }

    /// Tells how long an O_DSYNC write took.
    pub(super) fn took(&self, time: Duration) {
        if time > SLOW {
            self.detour.set(self.detour_next.get());
            self.detour_next.set((self.detour_next.get() * 2).min(DETOUR_MAX));
            self.quick.set(0);
            return;
        }
        self.quick.set(self.quick.get() + 1);
        if self.quick.get() == QUICK {
            self.quick.set(0);
            self.detour_next.set(DETOUR_MIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ways of the next `writes` when each O_DSYNC write takes `time`.
    fn dsync_count(adaptive: &Adaptive, writes: u32, time: Duration) -> u32 {
        let mut count = 0;
        for _ in 0..writes {
            if adaptive.takes_dsync() {
                adaptive.took(time);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn adaptive_writes_avoid_the_slow_way_and_come_back() {
        let (quick, slow) = (Duration::from_micros(150), Duration::from_millis(4));
        let adaptive = Adaptive::default();
        assert_eq!(dsync_count(&adaptive, 1_000, quick), 1_000, "a quiet host stays with the first way");
        assert_eq!(dsync_count(&adaptive, 100_000, slow), 7 + (100_000 - 8_128 + 4_032) / 4_097, "ever longer detours");
        dsync_count(&adaptive, DETOUR_MAX, quick);
        assert_eq!(dsync_count(&adaptive, 1_000, quick), 1_000, "quiet again");
        assert_eq!(dsync_count(&adaptive, 1 + DETOUR_MIN, slow), 1, "and the next detour is short");
    }
}
