//! Whether a near-cache pays, and what it lets in. No clock: both count reads.
//!
//! **Invariants**
//! - Off is decided after two windows of [`CACHE_WINDOW`] reads in a row with too few hits, and lasts for a number of reads that doubles from
//!   time to time, so that of reads that nothing could answer one in 65 goes through the cache, and in the end one in 500.
//! - A cache that follows is on again only when its follower says so ([`Switch::resume`]): what is tried is what it would be.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::limits::{
    CACHE_DOOR_BITS, CACHE_DOOR_KEYS, CACHE_OFF_WINDOWS_MAX, CACHE_OFF_WINDOWS_MIN, CACHE_PAYS_ONE_IN, CACHE_WINDOW,
};

/// Off when it does not pay.
#[derive(Debug, Default)]
pub(super) struct Switch {
    /// Reads that still go past the cache, and one; the last of a cache that follows goes on until its follower is there. 0: it is on.
    off: AtomicU64,
    /// Told when it is time to follow again.
    pub(super) due: Arc<Notify>,
    asked: AtomicU64,
    hits: AtomicU64,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    hits_before: u64,
    /// Windows in a row that did not pay.
    poor: u32,
    /// Windows that it was off the last time.
    off_windows: u64,
}

impl Switch {
    /// A read comes: whether it goes through the cache. `follows`: there is a follower, which looks for [`Switch::rests`] and hears `due`.
    pub(super) fn ask(&self, follows: bool) -> bool {
        let off = self.off.load(Ordering::Relaxed);
        if off > 1 {
            // Two at once may count once too often or too seldom; it is about thousands.
            self.off.store(off - 1, Ordering::Relaxed);
            return false;
        }
        if off == 1 {
            if follows {
                self.due.notify_one();
                return false;
            }
            self.resume();
        }
        if (self.asked.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(CACHE_WINDOW) {
            self.judge();
        }
        true
    }

    /// Off, and for a while: nobody needs to follow.
    pub(super) fn rests(&self) -> bool {
        self.off.load(Ordering::Relaxed) > 1
    }

    /// On, if its time off is over.
    pub(super) fn resume(&self) {
        let _ = self.off.compare_exchange(1, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The cache had the answer.
    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    fn judge(&self) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let hits = self.hits.load(Ordering::Relaxed);
        let pays = (hits - record.hits_before) * CACHE_PAYS_ONE_IN >= CACHE_WINDOW;
        record.hits_before = hits;
        if pays {
            *record = Record { hits_before: hits, ..Record::default() };
            return;
        }
        record.poor += 1;
        if record.poor >= 2 {
            record.poor = 0;
            record.off_windows = (record.off_windows * 2).clamp(CACHE_OFF_WINDOWS_MIN, CACHE_OFF_WINDOWS_MAX);
            self.off.store(record.off_windows * CACHE_WINDOW + 1, Ordering::Relaxed);
        }
    }
}

/// Which keys were asked for before: a bit for each by its hash, all cleared when many are set.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    bits: Vec<AtomicU64>,
    keys: AtomicU32,
}

impl Default for Doorkeeper {
    fn default() -> Doorkeeper {
        let words = (CACHE_DOOR_BITS / 64) as usize;
        Doorkeeper { bits: (0..words).map(|_| AtomicU64::new(0)).collect(), keys: AtomicU32::new(0) }
    }
}

impl Doorkeeper {
    /// A key with this hash was asked for: whether it, or another one of this bit, was asked for before.
    pub(super) fn knock(&self, hash: u64) -> bool {
        let (word, bit) = (hash / 64 % (CACHE_DOOR_BITS / 64), 1 << (hash % 64));
        let Some(word) = self.bits.get(word as usize) else { return true };
        if word.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return true;
        }
        if self.keys.fetch_add(1, Ordering::Relaxed) + 1 >= CACHE_DOOR_KEYS {
            self.keys.store(0, Ordering::Relaxed);
            self.bits.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_off_when_nothing_hits_and_comes_back_to_try() {
        let switch = Switch::default();
        let reads = 1_900 * CACHE_WINDOW;
        let through = (0..reads).filter(|_| switch.ask(false)).count() as u64;
        assert!(through >= 2 * CACHE_WINDOW && through <= reads / 200, "{through} of {reads}");
        // Now every read that comes through is a hit: it stays on.
        let mut through = 0;
        for _ in 0..4 * CACHE_OFF_WINDOWS_MAX * CACHE_WINDOW {
            if switch.ask(false) {
                switch.hit();
                through += 1;
            }
        }
        assert!(through >= 3 * CACHE_OFF_WINDOWS_MAX * CACHE_WINDOW, "{through}");
    }

    #[test]
    fn one_that_follows_waits_for_its_follower() {
        let switch = Switch::default();
        let through = (0..2 * CACHE_OFF_WINDOWS_MIN * CACHE_WINDOW).filter(|_| switch.ask(true)).count() as u64;
        assert_eq!(through, 2 * CACHE_WINDOW);
        assert!(!switch.rests() && !switch.ask(true));
        switch.resume();
        assert!(switch.ask(true));
    }

    #[test]
    fn one_hit_in_twenty_keeps_it_on_and_one_poor_window_does_not_end_it() {
        let switch = Switch::default();
        for read in 0..20 * CACHE_WINDOW {
            assert!(switch.ask(false), "read {read}");
            let poor_window = (read / CACHE_WINDOW).is_multiple_of(2);
            if !poor_window && read.is_multiple_of(CACHE_PAYS_ONE_IN - 1) {
                switch.hit();
            }
        }
    }

    #[test]
    fn a_key_is_let_in_the_second_time() {
        let door = Doorkeeper::default();
        let mut dice = fastrand::Rng::with_seed(2);
        let keys: Vec<u64> = (0..1_000).map(|_| dice.u64(..)).collect();
        let early = keys.iter().filter(|&&key| door.knock(key)).count();
        assert!(early < 20, "{early} of 1,000 were taken for another");
        assert!(keys.iter().all(|&key| door.knock(key)));
        for _ in 0..2 * CACHE_DOOR_KEYS {
            door.knock(dice.u64(..));
        }
        let kept = keys.iter().filter(|&&key| door.knock(key)).count();
        assert!(kept < 700, "{kept} of 1,000 are remembered for ever");
    }
}
