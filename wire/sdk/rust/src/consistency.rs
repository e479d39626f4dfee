//! How fresh a read must be, and what a session has seen.
//!
//! ```no_run
//! # async fn example(client: ringbeam_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use ringbeam_sdk::{Consistency, GetOptions, Token};
//!
//! // All reads of this namespace see what this client has written, and never go back, whichever node answers.
//! let carts = client.namespace("carts").consistency(Consistency::Session);
//! carts.put("7", "apples").await?;
//! assert!(carts.get("7").await?.is_some());
//!
//! // Another process goes on where this one is.
//! let bytes = carts.session_token().to_bytes();
//! let elsewhere = client.with_token(&Token::from_bytes(&bytes)?)?;
//!
//! // At most a quarter of a second old, or an answer that says that it may be older.
//! let fresh = Consistency::bounded(Duration::from_millis(250)).or_stale();
//! let read = client.read("7", &GetOptions { consistency: Some(fresh), ..GetOptions::default() }).await?;
//! println!("{:?}, at most {:?} old, stale: {}", read.found, read.age, read.stale);
//! # Ok(())
//! # }
//! ```
//!
//! **Ages** are shown by the node that answers, on its own clock: the answer reflects every write that was acknowledged so long before it
//! was made, or longer ago. The way of the answer to the caller comes on top.
//!
//! **Not here**: which node is asked (`readers.rs`), waiting and redirecting (`call.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringbeam_wire::client as wire;
use ringbeam_wire::limits::SHARDS_MAX;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began. Served by the leader.
    #[default]
    Linearizable,
    /// What any node has, at once; its age is in the answer, where it is known.
    Local,
    /// Sees what this client has written, and never less than it has seen: over all nodes, and in the order of its calls. Clones of a
    /// client share a session; see [`Client::with_token`](crate::Client::with_token).
    Session,
    /// Misses nothing that was acknowledged longer ago than this. See [`Consistency::bounded`].
    Bounded {
        /// In whole milliseconds, at least one.
        age_max: Duration,
        /// When no node can show that: `true`, an answer that says that it may be older; `false`, a refusal.
        stale_ok: bool,
    },
}

impl Consistency {
    /// Not older than `age_max`, or refused.
    pub fn bounded(age_max: Duration) -> Consistency {
        Consistency::Bounded { age_max, stale_ok: false }
    }

    /// The same, but an answer that may be older, and says so, is better than none. Only a bound can be missed: the others stay as they are.
    pub fn or_stale(self) -> Consistency {
        match self {
            Consistency::Bounded { age_max, .. } => Consistency::Bounded { age_max, stale_ok: true },
            other => other,
        }
    }

    /// As the wire says it, of a session that has seen the shard up to `index_min`.
    pub(crate) fn on_the_wire(self, index_min: u64) -> wire::Consistency {
        match self {
            Consistency::Linearizable => wire::Consistency::Linearizable,
            Consistency::Local => wire::Consistency::Local,
            Consistency::Session => wire::Consistency::Session { index_min },
            Consistency::Bounded { age_max, stale_ok } => {
                // A fraction of a millisecond is cut off: the answer is rather too fresh.
                let age_ms_max = u32::try_from(age_max.as_millis()).unwrap_or(u32::MAX - 1);
                wire::Consistency::Bounded { age_ms_max, stale_ok }
            }
        }
    }
}

/// What a session has seen: a log index of each shard. To be handed to other processes as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    ring: u64,
    seen: BTreeMap<u32, u64>,
}

/// Bytes that are no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoToken(String);

impl fmt::Display for NoToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no session token: {}", self.0)
    }
}

impl std::error::Error for NoToken {}

/// First byte of a token's bytes.
const TOKEN_VERSION: u8 = 1;
/// Version, ring, number of shards.
const TOKEN_HEAD_BYTES: usize = 1 + 8 + 2;
/// Shard and index.
const TOKEN_SHARD_BYTES: usize = 2 + 8;
/// Checksum of all before it.
const TOKEN_TAIL_BYTES: usize = 4;

impl Token {
    /// As bytes: docs/format.md draws them. Twelve for each shard that was used, about.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TOKEN_HEAD_BYTES + TOKEN_SHARD_BYTES * self.seen.len() + TOKEN_TAIL_BYTES);
        bytes.push(TOKEN_VERSION);
        bytes.extend(self.ring.to_le_bytes());
        bytes.extend((self.seen.len() as u16).to_le_bytes());
        for (shard, index) in &self.seen {
            bytes.extend((*shard as u16).to_le_bytes());
            bytes.extend(index.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    /// From the bytes of [`Token::to_bytes`], of this or of another process.
    pub fn from_bytes(bytes: &[u8]) -> Result<Token, NoToken> {
        let no = |why: String| Err(NoToken(why));
        if bytes.len() < TOKEN_HEAD_BYTES + TOKEN_TAIL_BYTES {
            return no(format!("{} bytes; the shortest has {}", bytes.len(), TOKEN_HEAD_BYTES + TOKEN_TAIL_BYTES));
        }
        let (body, tail) = bytes.split_at(bytes.len() - TOKEN_TAIL_BYTES);
        if u64_of(tail) != u64::from(crc32fast::hash(body)) {
            return no("its checksum does not fit: it was cut or changed".to_string());
        }
        if body[0] != TOKEN_VERSION {
            return no(format!("version {}; known is {TOKEN_VERSION}", body[0]));
        }
        let (ring, shards) = (u64_of(&body[1..9]), u64_of(&body[9..TOKEN_HEAD_BYTES]) as usize);
        let rest = &body[TOKEN_HEAD_BYTES..];
        if shards > SHARDS_MAX as usize || rest.len() != shards * TOKEN_SHARD_BYTES {
            return no(format!(
                "{shards} shards in {} bytes; each has {TOKEN_SHARD_BYTES}, at most {SHARDS_MAX} there are",
                rest.len()
            ));
        }
        let mut seen = BTreeMap::new();
        for one in rest.chunks_exact(TOKEN_SHARD_BYTES) {
            let (shard, index) = (u64_of(&one[..2]) as u32, u64_of(&one[2..]));
            if shard >= SHARDS_MAX || seen.insert(shard, index).is_some() {
                return no(format!("shard {shard} is beyond the last possible, {}, or there twice", SHARDS_MAX - 1));
            }
        }
        Ok(Token { ring, seen })
    }

    /// The ring that it is of.
    pub fn ring(&self) -> u64 {
        self.ring
    }

    /// The log index up to which the session has seen a shard; 0: nothing.
    pub fn index_of(&self, shard: u32) -> u64 {
        self.seen.get(&shard).copied().unwrap_or(0)
    }

    /// What either has seen. Both must be of one ring.
    pub fn join(&mut self, other: &Token) {
        for (shard, index) in &other.seen {
            let mine = self.seen.entry(*shard).or_default();
            *mine = (*mine).max(*index);
        }
    }
}

/// A number of up to eight bytes, the least significant first.
fn u64_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What a session has seen, while it goes on: one index a shard, raised by every answer.
#[derive(Debug)]
pub(crate) struct Marks(Box<[AtomicU64]>);

impl Marks {
    pub(crate) fn new(shards: usize) -> Marks {
        Marks((0..shards).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn of(shards: usize, token: &Token) -> Marks {
        Marks((0..shards).map(|shard| AtomicU64::new(token.index_of(shard as u32))).collect())
    }

    /// An answer has shown the shard as of this index.
    pub(crate) fn saw(&self, shard: u32, index: u64) {
        if let Some(mark) = self.0.get(shard as usize)
            && mark.load(Ordering::Relaxed) < index
        {
            mark.fetch_max(index, Ordering::Relaxed);
        }
    }

    pub(crate) fn at(&self, shard: u32) -> u64 {
        self.0.get(shard as usize).map_or(0, |mark| mark.load(Ordering::Relaxed))
    }

    pub(crate) fn token(&self, ring: u64) -> Token {
        let seen = (0..).zip(self.0.iter()).map(|(shard, mark)| (shard, mark.load(Ordering::Relaxed)));
        Token { ring, seen: seen.filter(|(_, index)| *index > 0).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token { ring: 0xabcd, seen: BTreeMap::from([(0, 7), (3, 1 << 40)]) }
    }

    #[test]
    fn a_token_survives_its_bytes() {
        assert_eq!(Token::from_bytes(&token().to_bytes()), Ok(token()));
        assert_eq!(Token::from_bytes(&Token::default().to_bytes()), Ok(Token::default()));
    }

    #[test]
    fn bytes_that_are_no_token_are_refused() {
        let good = token().to_bytes();
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert!(Token::from_bytes(&changed).is_err(), "byte {at} is another");
            assert!(Token::from_bytes(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(Token::from_bytes(b"").is_err_and(|why| why.to_string().contains("0 bytes")));
        // A good checksum does not make it one.
        for body in [vec![2; 11], [&[1u8; 9][..], &[9, 0], &[0; 10]].concat(), [&[1u8; 9][..], &[2, 0], &[1; 20]].concat()] {
            let sealed = [&body[..], &crc32fast::hash(&body).to_le_bytes()].concat();
            assert!(Token::from_bytes(&sealed).is_err(), "{body:?}");
        }
    }

    #[test]
    fn tokens_join_to_the_later_of_each_shard() {
        let mut joined = token();
        joined.join(&Token { ring: 0xabcd, seen: BTreeMap::from([(0, 9), (3, 1), (4, 4)]) });
        assert_eq!([0, 3, 4, 5].map(|shard| joined.index_of(shard)), [9, 1 << 40, 4, 0]);
    }

    #[test]
    fn marks_only_rise() {
        let marks = Marks::new(2);
        marks.saw(1, 5);
        marks.saw(1, 3);
        marks.saw(9, 3);
        assert_eq!((marks.at(0), marks.at(1), marks.at(9)), (0, 5, 0));
        assert_eq!(marks.token(4).index_of(1), 5);
        assert_eq!(Marks::of(2, &marks.token(4)).at(1), 5);
    }

    #[test]
    fn a_bound_is_cut_to_milliseconds_and_may_take_what_is_older() {
        let bound = Consistency::bounded(Duration::from_micros(2_900));
        assert_eq!(bound.on_the_wire(7), wire::Consistency::Bounded { age_ms_max: 2, stale_ok: false });
        assert_eq!(bound.or_stale().on_the_wire(7), wire::Consistency::Bounded { age_ms_max: 2, stale_ok: true });
        assert_eq!(Consistency::Session.or_stale().on_the_wire(7), wire::Consistency::Session { index_min: 7 });
    }
}
