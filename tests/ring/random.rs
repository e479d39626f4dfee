//! Random choices that can be made again: a seed, printed by the test, decides all of them.

use std::time::Duration;

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// The seed from the environment variable `name`, else one from the clock; printed, so that a failure can be repeated.
    pub fn seeded(name: &str) -> Random {
        let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        let seed = std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
        println!("{name}={seed}");
        Random(seed)
    }

    /// Of a seed.
    pub fn of(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// A count from the environment variable `name`, else `usual`.
pub fn count(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
