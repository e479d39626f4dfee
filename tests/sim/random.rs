//! Random choices that a seed decides: the same seed makes the same choices on every machine.
//!
//! **Invariants**: no clock, no address and no hasher reaches a choice. Streams forked by different names do not move each
//! other: a fault more leaves the workload as it was.
//!
//! **Not here**: seeds from a clock or from the environment (`tests/ring/random.rs`).

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        // Neighbouring seeds must not be neighbouring states: one would be the other, a step later.
        let mut random = Random(seed ^ 0x5851_f42d_4c95_7f2d);
        Random(random.next().rotate_left(17) ^ seed.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// A stream of its own, which depends on this one's state and the name and leaves this one where it is.
    pub fn fork(&self, name: &str) -> Random {
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Random::new(self.0 ^ hash)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// From `first` to `last`, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        assert!(first <= last, "{first} to {last} is empty");
        first + self.below(last - first + 1)
    }

    /// From `first` to `last` so that every order of magnitude is as likely as every other.
    pub fn magnitude(&mut self, first: u64, last: u64) -> u64 {
        assert!(0 < first && first <= last, "{first} to {last} has no magnitudes");
        let doublings = (last / first).ilog2();
        let low = first << self.below(u64::from(doublings) + 1);
        self.between(low, last.min(low.saturating_mul(2) - 1).max(low))
    }

    /// True in `part` of `whole` cases.
    pub fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.below(whole) < part
    }

    /// One of them; there must be one.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;

    #[test]
    fn seeds_decide_and_neighbours_differ() {
        let take = |seed| {
            let mut random = Random::new(seed);
            (0..4).map(|_| random.next()).collect::<Vec<_>>()
        };
        assert_eq!(take(7), take(7));
        let all: std::collections::BTreeSet<u64> = (0..1_000).flat_map(take).collect();
        assert_eq!(all.len(), 4_000, "streams of neighbouring seeds overlap");
    }

    #[test]
    fn forks_do_not_move_each_other() {
        let root = Random::new(1);
        let (mut a, mut b) = (root.fork("faults"), root.fork("workload"));
        let first = b.next();
        a.next();
        assert_eq!(root.fork("workload").next(), first);
        assert_ne!(a.next(), b.next());
    }

    #[test]
    fn bounds_are_reached_and_kept() {
        let mut random = Random::new(3);
        let seen: std::collections::BTreeSet<u64> = (0..1_000).map(|_| random.between(5, 9)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
        let sizes: Vec<u64> = (0..10_000).map(|_| random.magnitude(10, 10_000)).collect();
        assert!(sizes.iter().all(|size| (10..=10_000).contains(size)));
        let small = sizes.iter().filter(|size| **size < 100).count();
        assert!((2_000..5_000).contains(&small), "{small} of 10,000 below 100");
        assert_eq!(random.magnitude(6, 6), 6);
    }
}
