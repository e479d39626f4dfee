//! A 64-bit digest of a stream of fields, equal on every node and build.
//!
//! It compares states of nodes that trust each other and finds what a bug or rotten memory changed; it resists nobody who
//! means harm. Each step is a bijection of the state for a given word, so a single changed word always changes the digest.
//! The checksum of bytes at rest is CRC32; this exists because a state of gigabytes deserves 64 bits, and because the
//! standard library's hasher promises nothing across releases.

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// Fields in, 64 bits out. The order of the fields counts, and so does the length of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) struct Digest(u64);

impl Digest {
    pub fn new() -> Digest {
        Digest(0x7269_6E67_6265_616D) // "ringbeam"
    }
    #[inline]
    pub fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
    }
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(last));
        }
    }
    pub fn finish(self) -> u64 {
        let mut h = self.0;
        h = (h ^ (h >> 32)).wrapping_mul(MULTIPLIER);
        h = (h ^ (h >> 29)).wrapping_mul(MULTIPLIER);
        h ^ (h >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    fn of(fields: &[&[u8]]) -> u64 {
        let mut digest = Digest::new();
        fields.iter().for_each(|f| digest.bytes(f));
        digest.finish()
    }

    #[test]
    fn digest_depends_on_order_and_on_the_borders_of_fields() {
        assert_ne!(of(&[b"a", b"b"]), of(&[b"b", b"a"]));
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"a"]), of(&[b"a\0"]));
        assert_ne!(of(&[]), of(&[b""]));
    }

    #[test]
    fn digest_is_the_same_on_every_build() {
        assert_eq!(of(&[b"ring", b"beam", b"0123456789"]), DIGEST_OF_THREE);
    }
    const DIGEST_OF_THREE: u64 = 3_955_863_540_259_518_397;
}
