//! One key, its value and its revision, in one allocation.
//!
//! ```text
//! 0        8          12          14          14+k       14+k+v
//! | index  | position | key bytes | key       | value    |
//! | u64    | u32      | u16 = k   |           |          |     little-endian
//!
//! bit 15 of the key bytes set: extras stand between key and value
//! 0       1              1 or 9
//! | flags | lease        | expires at           |     the first only with flag 1, the second with flag 2; flag 4: the value is a base
//! | u8    | u64, not 0   | ring ms u64, not 0   |     and deltas (deltas.rs); no other flag is known, and one at least is set
//! ```
//!
//! One boxed slice and no more: 16 B keys with 64 B values cost 112 bytes of heap each, where a key and a value of their own
//! cost 160. A record orders and compares by its key alone.
//!
//! A record without extras has no byte for them, and costs a look at one bit.
//!
//! **Invariants**: the box is at least 14 bytes, and key and extras lie within it; both hold from [`Record::new`] on, and nothing
//! else makes or resizes one.

use std::borrow::Borrow;
use std::cmp::Ordering;

use super::answer::Revision;
use super::limits::KEY_BYTES_MAX;
use super::reader::{Malformed, Reader};

const HEAD_BYTES: usize = 14;
/// Of the key bytes: there are extras.
pub(super) const HAS_EXTRAS: u16 = 1 << 15;
const LEASE: u8 = 1;
const EXPIRES: u8 = 2;
const DELTAS: u8 = 4;
const EXTRAS_BYTES_MAX: usize = 17;
const LINE_BYTES: usize = 64;
/// See [`Record::touch`].
const TOUCHED_BYTES_MAX: usize = 8 * LINE_BYTES;

const _: () = assert!(KEY_BYTES_MAX < HAS_EXTRAS as usize);

/// What a record has beside key and value. 0: it does not have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extras {
    /// The lease that it goes with.
    pub lease: u64,
    /// Ring time from which on it may go, milliseconds.
    pub expires_at_ms: u64,
    /// The value is a base and deltas.
    pub deltas: bool,
}

impl Extras {
    #[inline]
    pub fn is_empty(&self) -> bool {
        (self.lease, self.expires_at_ms, self.deltas) == (0, 0, false)
    }
    fn flags(&self) -> u8 {
        let flag = |has, flag| if has { flag } else { 0 };
        flag(self.lease != 0, LEASE) | flag(self.expires_at_ms != 0, EXPIRES) | flag(self.deltas, DELTAS)
    }
    /// Bytes that they take; none when there are none.
    #[inline]
    pub fn bytes(&self) -> usize {
        if self.is_empty() { 0 } else { bytes_by(self.flags()) }
    }
    fn write(&self, to: &mut [u8]) {
        let mut encoded = [0; EXTRAS_BYTES_MAX];
        encoded[0] = self.flags();
        let mut end = 1;
        for word in [self.lease, self.expires_at_ms].into_iter().filter(|word| *word != 0) {
            encoded[end..end + 8].copy_from_slice(&word.to_le_bytes());
            end += 8;
        }
        to.copy_from_slice(&encoded[..end]);
    }
    /// From foreign bytes.
    pub fn parse(reader: &mut Reader<'_>) -> Result<Extras, Malformed> {
        let flags = reader.u8()?;
        if flags == 0 || flags & !(LEASE | EXPIRES | DELTAS) != 0 {
            return Err(reader.malformed(format!("flags {flags:#04x} behind a key, known are 1, 2 and 4")));
        }
        let mut word = |flag| if flags & flag == 0 { Ok(0) } else { reader.u64() };
        let extras = Extras { lease: word(LEASE)?, expires_at_ms: word(EXPIRES)?, deltas: flags & DELTAS != 0 };
        if extras.flags() != flags {
            return Err(reader.malformed("a lease 0 or a time 0 behind a key, where one is announced"));
        }
        Ok(extras)
    }
}

/// Bytes of extras with these flags.
#[inline]
fn bytes_by(flags: u8) -> usize {
    1 + 8 * (flags & (LEASE | EXPIRES)).count_ones() as usize
}

/// See the module.
#[derive(Debug)]
pub(super) struct Record(Box<[u8]>);

impl Record {
    pub fn new(revision: Revision, key: &[u8], extras: Extras, value: &[u8]) -> Record {
        assert!(key.len() <= KEY_BYTES_MAX, "keys are checked when a batch is parsed");
        let mut bytes = Vec::with_capacity(bytes_of(key, extras, value) as usize);
        bytes.extend_from_slice(&head(revision, key.len(), extras));
        bytes.extend_from_slice(key);
        if !extras.is_empty() {
            let at = bytes.len();
            bytes.resize(at + extras.bytes(), 0);
            extras.write(&mut bytes[at..]);
        }
        bytes.extend_from_slice(value);
        Record(bytes.into_boxed_slice())
    }
    /// Takes a new value of the same length without touching the allocator; false, and nothing done, for another length.
    #[inline]
    pub fn overwrite(&mut self, revision: Revision, extras: Extras, value: &[u8]) -> bool {
        let (at, value_at) = (HEAD_BYTES + self.key().len(), self.value_at());
        if self.0.len() - value_at != value.len() || value_at - at != extras.bytes() {
            return false;
        }
        self.0[..HEAD_BYTES].copy_from_slice(&head(revision, at - HEAD_BYTES, extras));
        if value_at > at {
            extras.write(&mut self.0[at..value_at]);
        }
        self.0[value_at..].copy_from_slice(value);
        true
    }
    #[inline]
    fn key_bytes_and_mark(&self) -> u16 {
        u16::from_le_bytes([self.0[12], self.0[13]])
    }
    #[inline]
    pub fn key(&self) -> &[u8] {
        let key_bytes = self.key_bytes_and_mark() & !HAS_EXTRAS;
        &self.0[HEAD_BYTES..HEAD_BYTES + usize::from(key_bytes)]
    }
    #[inline]
    fn value_at(&self) -> usize {
        let at = HEAD_BYTES + self.key().len();
        if self.key_bytes_and_mark() & HAS_EXTRAS == 0 { at } else { at + bytes_by(self.0[at]) }
    }
    /// Whether the value is a base and deltas.
    #[inline]
    pub fn has_deltas(&self) -> bool {
        self.key_bytes_and_mark() & HAS_EXTRAS != 0 && self.0[HEAD_BYTES + self.key().len()] & DELTAS != 0
    }
    /// The value as it is stored: of a base and deltas, those.
    #[inline]
    pub fn value(&self) -> &[u8] {
        &self.0[self.value_at()..]
    }
    #[inline]
    pub fn extras(&self) -> Extras {
        if self.key_bytes_and_mark() & HAS_EXTRAS == 0 {
            return Extras::default();
        }
        Extras::parse(&mut Reader::new(&self.0[HEAD_BYTES + self.key().len()..])).expect("a record's own bytes")
    }
    /// Extras and value, as they stand behind the key.
    pub fn behind_key(&self) -> &[u8] {
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
    /// Reads a byte of each of its first lines of cache; their sum, so that they are read. The rest of a long one is better read as it is
    /// overwritten: it would drive others out of the cache.
    #[inline]
    pub fn touch(&self) -> u8 {
        let head = &self.0[..self.0.len().min(TOUCHED_BYTES_MAX)];
        head.iter().step_by(LINE_BYTES).chain(head.last()).fold(0, |sum, byte| sum ^ byte)
    }
    /// Bytes of head, key, extras and value.
    pub fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
    /// Another one like it.
    pub fn copy(&self) -> Record {
        Record(self.0.clone())
    }
    /// All of it, for the digest.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes of a record with this key, these extras and this value.
#[inline]
pub(super) fn bytes_of(key: &[u8], extras: Extras, value: &[u8]) -> u64 {
    (HEAD_BYTES + key.len() + extras.bytes() + value.len()) as u64
}

#[inline]
fn head(revision: Revision, key_bytes: usize, extras: Extras) -> [u8; HEAD_BYTES] {
    let mark = if extras.is_empty() { 0 } else { HAS_EXTRAS };
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&revision.index.to_le_bytes());
    head[8..12].copy_from_slice(&revision.position.to_le_bytes());
    head[12..].copy_from_slice(&(key_bytes as u16 | mark).to_le_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    const REVISION: Revision = Revision { index: 7, position: 3 };

    #[test]
    fn record_has_what_it_was_made_with_and_no_byte_for_what_it_has_not() {
        for (lease, expires_at_ms, bytes) in [(0, 0, 0), (5, 0, 9), (0, u64::MAX, 9), (5, 6, 17)] {
            let extras = Extras { lease, expires_at_ms, deltas: false };
            let mut record = Record::new(REVISION, b"key", extras, b"value");
            assert_eq!((record.key(), record.value(), record.extras()), (&b"key"[..], &b"value"[..], extras));
            assert_eq!(record.bytes(), 14 + 3 + bytes + 5);
            assert!(!record.overwrite(REVISION, extras, b"longer"));
            let other = Extras { lease: lease * 2, expires_at_ms: expires_at_ms / 2, deltas: false };
            assert!(record.overwrite(Revision { index: 8, position: 0 }, other, b"VALUE"));
            assert_eq!((record.value(), record.extras(), record.revision().index), (&b"VALUE"[..], other, 8));
        }
    }

    #[test]
    fn record_takes_other_extras_of_the_same_length_in_place() {
        let (leased, timed) = (Extras { lease: 5, ..Extras::default() }, Extras { expires_at_ms: 5, ..Extras::default() });
        let mut record = Record::new(REVISION, b"k", leased, b"v");
        assert!(record.overwrite(REVISION, timed, b"w"));
        assert_eq!((record.extras(), record.value()), (timed, &b"w"[..]));
        assert!(
            !record.overwrite(REVISION, Extras::default(), b"0123456789"),
            "ten bytes without extras are not 9 and 1 with them"
        );
    }

    #[test]
    fn extras_refused_that_no_record_has() {
        for bad in [&[0][..], &[8, 1], &[1, 0, 0, 0, 0, 0, 0, 0, 0], &[2, 1], &[3, 1, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(Extras::parse(&mut Reader::new(bad)).is_err(), "{bad:?}");
        }
    }
}
