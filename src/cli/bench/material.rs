//! Keys and values, made before the run, and the cheap randomness that picks them.

/// Bytes of every key.
pub const KEY_BYTES: usize = 16;

/// Distinct values of a run, if they are not too large together.
const VALUES_MAX: usize = 64;

/// All values together take no more than this, bytes, unless two alone do.
const VALUES_BYTES_MAX: usize = 16 << 20;

/// xorshift64*: small, fast, and good enough to pick keys.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Different seeds give different sequences.
    pub fn new(seed: u64) -> Random {
        // One round of SplitMix64, so that neighbouring seeds do not give neighbouring keys. The state may not be zero.
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Random((z ^ (z >> 31)) | 1)
    }

    /// Uniform below `bound`, which is above zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        // The high half of the product (Lemire): no division.
        ((u128::from(high) * u128::from(bound)) >> 64) as u64
    }
}

/// The key with this number: 16 bytes of text.
pub fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = *b"key0000000000000";
    let mut rest = number;
    for place in key[3..].iter_mut().rev() {
        *place = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
    }
    key
}

/// Values of printable random bytes.
pub fn values(bytes: u32) -> Vec<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes = bytes as usize;
    let count = (VALUES_BYTES_MAX / bytes.max(1)).clamp(2, VALUES_MAX);
    let mut random = Random::new(u64::MAX);
    (0..count).map(|_| (0..bytes).map(|_| ALPHABET[random.below(64) as usize]).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_evenly_and_seeds_differ() {
        for seed in 0..4 {
            let mut random = Random::new(seed);
            let mut seen = [0_u32; 10];
            for _ in 0..10_000 {
                seen[random.below(10) as usize] += 1;
            }
            assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
        }
        assert_ne!(Random::new(0).below(1 << 60), Random::new(1).below(1 << 60));
    }

    #[test]
    fn keys_are_distinct_text_of_sixteen_bytes() {
        assert_eq!(&key(0), b"key0000000000000");
        assert_eq!(&key(0xab12), b"key000000000ab12");
    }

    #[test]
    fn values_have_the_size_asked_for_and_stay_within_their_memory() {
        assert!(values(300).iter().all(|value| value.len() == 300));
        assert_ne!(values(300)[0], values(300)[1]);
        assert_eq!(values(0), vec![Vec::<u8>::new(); VALUES_MAX]);
        assert_eq!(values(4 << 20).len(), 4);
    }
}
