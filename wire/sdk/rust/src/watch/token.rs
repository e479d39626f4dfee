//! Where a watch is, as bytes.
//!
//! ```text
//! 0      4         8      16       20
//! | rbwt | version | ring | shards | for each shard: index u64, position u32, state u8 |      little-endian
//! |      | u32 = 1 | u64  | u32    |                                                   |
//! state: 0 not watched yet, or not by this watch; 1 goes on behind this revision; 2 begins with a copy
//! ```

use ringbeam_wire::client::Revision;
use ringbeam_wire::limits::SHARDS_MAX;

const MAGIC: &[u8; 4] = b"rbwt";
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    ring: u64,
    places: Vec<(Revision, u8)>,
}

impl Token {
    pub(crate) fn new(ring: u64, shards: u32) -> Token {
        Token { ring, places: vec![(Revision::default(), 0); shards as usize] }
    }

    pub(crate) fn set(&mut self, shard: u32, after: Revision, copying: bool) {
        if let Some(place) = self.places.get_mut(shard as usize) {
            *place = (after, if copying { 2 } else { 1 });
        }
    }

    /// Behind which revision a shard goes on, `None`: from now on; and whether with a copy.
    pub(crate) fn place(&self, shard: u32) -> (Option<Revision>, bool) {
        match self.places.get(shard as usize) {
            Some((after, 1)) => (Some(*after), false),
            Some((_, 2)) => (None, true),
            _ => (None, false),
        }
    }

    pub(crate) fn check(&self, ring: u64, shards: u32) -> Result<(), String> {
        if self.ring != ring {
            return Err(format!("the token is of ring {:x}, this client is of ring {ring:x}", self.ring));
        }
        if self.places.len() != shards as usize {
            return Err(format!("the token has {} shards, the ring has {shards}", self.places.len()));
        }
        Ok(())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.ring.to_le_bytes());
        bytes.extend_from_slice(&(self.places.len() as u32).to_le_bytes());
        for (after, state) in &self.places {
            bytes.extend_from_slice(&after.index.to_le_bytes());
            bytes.extend_from_slice(&after.position.to_le_bytes());
            bytes.push(*state);
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Token, String> {
        let short = || format!("{} bytes are too few", bytes.len());
        let (head, rest) = bytes.split_first_chunk::<20>().ok_or_else(short)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if &head[..4] != MAGIC || word(4) != VERSION {
            return Err(format!("it begins with {:02x?}, not with {MAGIC:02x?} and version {VERSION}", &head[..8]));
        }
        let (ring, shards) = (u64::from(word(8)) | u64::from(word(12)) << 32, word(16));
        if !(1..=SHARDS_MAX).contains(&shards) || rest.len() != shards as usize * 13 {
            return Err(format!("{} bytes for {shards} shards, each has 13, and there are 1 to {SHARDS_MAX}", rest.len()));
        }
        let place = |bytes: &[u8]| {
            let (index, rest) = bytes.split_first_chunk()?;
            let (position, rest) = rest.split_first_chunk()?;
            let revision = Revision { index: u64::from_le_bytes(*index), position: u32::from_le_bytes(*position) };
            rest.first().filter(|state| **state <= 2).map(|state| (revision, *state))
        };
        let places: Option<Vec<_>> = rest.chunks(13).map(place).collect();
        Ok(Token { ring, places: places.ok_or("a shard is in a state that is not 0, 1 or 2")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_damage_is_refused() {
        let mut token = Token::new(0x1234_5678_9abc_def0, 3);
        token.set(1, Revision { index: 77, position: 5 }, false);
        token.set(2, Revision::default(), true);
        let bytes = token.encode();
        let back = Token::decode(&bytes).expect("its own bytes");
        assert_eq!(back, token);
        assert_eq!(
            [0, 1, 2].map(|shard| back.place(shard)),
            [(None, false), (Some(Revision { index: 77, position: 5 }), false), (None, true)]
        );
        assert!(back.check(1, 3).is_err() && back.check(0x1234_5678_9abc_def0, 2).is_err());
        for cut in 0..bytes.len() {
            assert!(Token::decode(&bytes[..cut]).is_err(), "{cut} bytes");
        }
        for at in [0, 4, 16, 32] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x77;
            assert!(Token::decode(&damaged).is_err(), "byte {at}");
        }
    }
}
