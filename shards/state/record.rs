//! One key, its value and its revision, in one allocation.
//!
//! ```text
//! 0        8          12          14          14+k       14+k+v
//! | index  | position | key bytes | key       | value    |
//! | u64    | u32      | u16 = k   |           |          |     little-endian
//! ```
//!
//! One boxed slice and no more: 16 B keys with 64 B values cost 112 bytes of heap each, where a key and a value of their own
//! cost 160. A record orders and compares by its key alone.
//!
//! **Invariants**: the box is at least 14 bytes and the key lies within it; both hold from [`Record::new`] on, and nothing
//! else makes or resizes one.

use std::borrow::Borrow;
use std::cmp::Ordering;

use super::answer::Revision;
use super::limits::KEY_BYTES_MAX;

const HEAD_BYTES: usize = 14;

/// See the module.
#[derive(Debug)]
pub(super) struct Record(Box<[u8]>);

impl Record {
    pub fn new(revision: Revision, key: &[u8], value: &[u8]) -> Record {
        assert!(key.len() <= KEY_BYTES_MAX, "keys are checked when a batch is parsed");
        let mut bytes = Vec::with_capacity(HEAD_BYTES + key.len() + value.len());
        bytes.extend_from_slice(&head(revision, key.len()));
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        Record(bytes.into_boxed_slice())
    }
    /// Takes a new value of the same length without touching the allocator; false, and nothing done, for another length.
    #[inline]
    pub fn overwrite(&mut self, revision: Revision, value: &[u8]) -> bool {
        let key_bytes = self.key().len();
        let at = HEAD_BYTES + key_bytes;
        if self.0.len() - at != value.len() {
            return false;
        }
        self.0[..HEAD_BYTES].copy_from_slice(&head(revision, key_bytes));
        self.0[at..].copy_from_slice(value);
        true
    }
    #[inline]
    pub fn key(&self) -> &[u8] {
        let key_bytes = u16::from_le_bytes([self.0[12], self.0[13]]);
        &self.0[HEAD_BYTES..HEAD_BYTES + usize::from(key_bytes)]
    }
    #[inline]
    pub fn value(&self) -> &[u8] {
        &self.0[HEAD_BYTES + self.key().len()..]
    }
    #[inline]
    pub fn revision(&self) -> Revision {
        let head = self.0.first_chunk::<12>().expect("a record begins with its head");
        let (index, position) = head.split_at(8);
        Revision {
            index: u64::from_le_bytes(index.try_into().expect("eight bytes")),
            position: u32::from_le_bytes(position.try_into().expect("four bytes")),
        }
    }
    /// Bytes of head, key and value.
    pub fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
    /// All of it, for the digest.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes of a record with this key and value.
pub(super) fn bytes_of(key: &[u8], value: &[u8]) -> u64 {
    (HEAD_BYTES + key.len() + value.len()) as u64
}

#[inline]
fn head(revision: Revision, key_bytes: usize) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&revision.index.to_le_bytes());
    head[8..12].copy_from_slice(&revision.position.to_le_bytes());
    head[12..].copy_from_slice(&(key_bytes as u16).to_le_bytes());
    head
}

impl Borrow<[u8]> for Record {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}
impl PartialEq for Record {
    fn eq(&self, other: &Record) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Record {}
impl PartialOrd for Record {
    fn partial_cmp(&self, other: &Record) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Record {
    fn cmp(&self, other: &Record) -> Ordering {
        self.key().cmp(other.key())
    }
}
