//! Seeded random numbers, one stream a purpose: a draw for the network does not move what the disk draws.
//!
//! xoshiro256++ (Blackman and Vigna), seeded by splitmix64. Not for secrets.

/// One stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random([u64; 4]);

/// One step of splitmix64: also mixes a seed with a purpose.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Random {
    /// The stream `purpose` of `seed`.
    pub fn new(seed: u64, purpose: u64) -> Random {
        let mut state = seed;
        let mut mixed = splitmix(&mut state) ^ purpose.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        Random(std::array::from_fn(|_| splitmix(&mut mixed)))
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `bound`; 0 when there is none.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of multiplying is below one in 2^32 for the bounds used here.
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `range`, both ends included.
    #[inline]
    pub fn between(&mut self, range: (u64, u64)) -> u64 {
        range.0 + self.below((range.1 - range.0).saturating_add(1))
    }

    /// True in `ppm` of a million draws.
    pub fn chance(&mut self, ppm: u64) -> bool {
        self.below(1_000_000) < ppm
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn streams_are_repeatable_and_differ() {
        let draw = |seed, purpose| {
            let mut random = Random::new(seed, purpose);
            [random.bits(), random.bits(), random.bits()]
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn bounds_are_kept() {
        let mut random = Random::new(7, 0);
        assert!((0..10_000).all(|_| random.below(10) < 10 && (3..=5).contains(&random.between((3, 5)))));
        assert_eq!(random.below(0), 0);
        assert_eq!((0..10_000).filter(|_| random.chance(0)).count(), 0);
        let half = (0..10_000).filter(|_| random.chance(500_000)).count();
        assert!((4_500..5_500).contains(&half), "{half}");
    }
}
