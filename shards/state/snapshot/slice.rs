//! The bytes of a snapshot: a sequence of slices, each with a head, a checksum and one kind of contents.
//!
//! ```text
//! 0        4         6      7   8           12              16        24       28   32
//! | "rbsl" | version | kind | 0 | number    | payload bytes | applied | crc32  | 0  | payload
//! |        | u16 = 1 | u8   |   | u32, from | u32           | u64     | u32    |    |
//!                                 0                                                       all little-endian
//! kind 1, first slice (number 0, and only this one):
//!   ring time ms u64 | keys u64 | sessions u64 | sessions_max u32 | session_window u32 | answers_max u32
//!   | leases u32 | session_lifetime_ms u64
//! kind 2, sessions, ascending by id; each:
//!   id u64 | floor u64 | last use s u64 | answers u32 | 0 u32 | answers, ascending by sequence, each:
//!     sequence u64 | index u64 | ring time ms u64 | position, existed << 20, has gets << 21, never << 22 u32 | command crc u32
//!     and if it has gets: bytes u32 | what a transaction's gets found (transaction.rs)
//! kind 5, leases, ascending by id, between sessions and records; each:
//!   id u64 | ttl ms u64 | ring time of its end ms u64
//! kind 3, records, ascending by namespace and key; a namespace's name, then its records:
//!   0 u16 | name bytes u8 | name                                                   every such slice begins with a name,
//!   key bytes u16 (not 0) | value bytes u32 | index u64 | position u32 | key | value      unless it has no records
//!     bit 15 of the key bytes: extras stand between key and value, as in a record (record.rs)
//! kind 4, last slice (and only this one):
//!   digest u64 | record bytes u64
//! ```
//!
//! The CRC covers the slice from byte 0 on with the CRC itself as 0. It finds rot in a slice; the number finds a missing or
//! moved one, `applied` one from another snapshot, and the digest (`State::hash` of the frozen state) anything else at all.
//!
//! **Not here**: what goes into a slice when (`freeze.rs`), what is checked of its contents (`loader.rs`).

use crate::state::leases::Lease;
use crate::state::limits::{Limits, SLICE_PAYLOAD_BYTES_MAX};
use crate::state::reader::{Malformed, Reader};
use crate::state::record::{HAS_EXTRAS, Record};
use crate::state::sessions::Session;

const MAGIC: [u8; 4] = *b"rbsl";
const VERSION: u16 = 1;
const CRC_AT: usize = 24;
/// Bytes before the payload.
pub(in crate::state) const HEAD_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::state) enum Kind {
    First = 1,
    Sessions = 2,
    Records = 3,
    Last = 4,
    Leases = 5,
}

/// Contents of the first slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) struct First {
    pub ring_time_ms: u64,
    pub keys: u64,
    pub sessions: u64,
    /// 0 in a snapshot from before there were any.
    pub leases: u32,
    pub limits: Limits,
}

/// A slice being written.
pub(in crate::state) struct Slice(Vec<u8>);

impl Slice {
    pub fn new(kind: Kind, number: u32, applied: u64, bytes_about: usize) -> Slice {
        let mut slice = Slice(Vec::with_capacity(HEAD_BYTES + bytes_about));
        slice.0.extend_from_slice(&MAGIC);
        slice.0.extend_from_slice(&VERSION.to_le_bytes());
        slice.0.extend_from_slice(&[kind as u8, 0]);
        slice.u32(number);
        slice.u32(0);
        slice.u64(applied);
        slice.u64(0);
        slice
    }
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn payload_bytes(&self) -> usize {
        self.0.len() - HEAD_BYTES
    }
    pub fn first(&mut self, first: &First) {
        let Limits { sessions_max, session_window, answers_max, session_lifetime_ms } = first.limits;
        [first.ring_time_ms, first.keys, first.sessions].into_iter().for_each(|v| self.u64(v));
        [sessions_max, session_window, answers_max, first.leases].into_iter().for_each(|v| self.u32(v));
        self.u64(session_lifetime_ms);
    }
    /// Adds a session; how many bytes it takes.
    pub fn session(&mut self, id: u64, session: &Session) -> usize {
        let before = self.0.len();
        [id, session.floor, session.last_use_s].into_iter().for_each(|v| self.u64(v));
        self.u32(u32::try_from(session.window.len()).expect("a window is bounded by session_window, a u32"));
        self.u32(0);
        for kept in &session.window {
            [kept.sequence, kept.index, kept.ring_time_ms].into_iter().for_each(|v| self.u64(v));
            self.u32(kept.position_and_existed);
            self.u32(kept.command_crc);
            if let Some(gets) = &kept.gets {
                self.u32(gets.len() as u32);
                self.0.extend_from_slice(gets);
            }
        }
        self.0.len() - before
    }
    /// Adds a lease; how many bytes it takes.
    pub fn lease(&mut self, id: u64, lease: &Lease) -> usize {
        [id, lease.ttl_ms, lease.ends_at_ms].into_iter().for_each(|v| self.u64(v));
        24
    }
    pub fn namespace(&mut self, name: &str) {
        self.0.extend_from_slice(&[0, 0, name.len() as u8]);
        self.0.extend_from_slice(name.as_bytes());
    }
    pub fn record(&mut self, record: &Record) {
        let (key, extras) = (record.key(), record.extras());
        let mark = if extras.is_empty() { 0 } else { HAS_EXTRAS };
        self.0.extend_from_slice(&(key.len() as u16 | mark).to_le_bytes());
        self.u32(record.value().len() as u32);
        self.u64(record.revision().index);
        self.u32(record.revision().position);
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(record.behind_key());
    }
    /// The whole slice.
    pub fn finish(mut self) -> Vec<u8> {
        let payload_bytes = self.payload_bytes();
        assert!(payload_bytes <= SLICE_PAYLOAD_BYTES_MAX, "limits.rs derives this bound");
        self.0[12..16].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        let crc = crc32fast::hash(&self.0);
        self.0[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        self.0
    }
}

/// A slice whose checksum is right.
pub(in crate::state) struct Parsed<'a> {
    pub kind: Kind,
    pub number: u32,
    pub applied: u64,
    pub payload: Reader<'a>,
}

/// Bytes of the whole slice that begins here, once that can be told.
pub(in crate::state) fn slice_bytes(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let mut reader = Reader::new(head);
    if reader.take(4)? != MAGIC {
        return Err(Malformed::new(0, "not the beginning of a snapshot slice"));
    }
    let version = reader.u16()?;
    if version != VERSION {
        return Err(Malformed::new(4, format!("snapshot format {version}, this build reads {VERSION}")));
    }
    reader.take(6)?;
    let payload_bytes = reader.u32()? as usize;
    if payload_bytes > SLICE_PAYLOAD_BYTES_MAX {
        let why = format!("a slice of {payload_bytes} bytes, at most {SLICE_PAYLOAD_BYTES_MAX} are allowed");
        return Err(Malformed::new(12, why));
    }
    Ok(Some(HEAD_BYTES + payload_bytes))
}

/// Checks a whole slice, but not its payload.
pub(in crate::state) fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Malformed> {
    if slice_bytes(bytes)? != Some(bytes.len()) {
        return Err(Malformed::new(12, "another length than the slice has"));
    }
    let mut reader = Reader::new(bytes);
    reader.take(6)?;
    let (kind, zero, number) = (reader.u8()?, reader.u8()?, reader.u32()?);
    reader.take(4)?;
    let (applied, stored, zeros) = (reader.u64()?, reader.u32()?, reader.u32()?);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..CRC_AT]);
    crc.update(&[0; 4]);
    crc.update(&bytes[CRC_AT + 4..]);
    let crc = crc.finalize();
    if crc != stored {
        return Err(Malformed::new(CRC_AT as u64, format!("checksum {stored:08x}, the bytes have {crc:08x}")));
    }
    let kind = match kind {
        1 => Kind::First,
        2 => Kind::Sessions,
        3 => Kind::Records,
        4 => Kind::Last,
        5 => Kind::Leases,
        other => {
            return Err(Malformed::new(6, format!("slice kind {other}, known are 1 to 5")));
        }
    };
    if (zero, zeros) != (0, 0) {
        return Err(Malformed::new(7, "reserved bytes that are not 0"));
    }
    Ok(Parsed { kind, number, applied, payload: reader })
}

/// Contents of the first slice.
pub(in crate::state) fn parse_first(payload: &mut Reader<'_>) -> Result<First, Malformed> {
    let (ring_time_ms, keys, sessions) = (payload.u64()?, payload.u64()?, payload.u64()?);
    let (sessions_max, session_window, answers_max) = (payload.u32()?, payload.u32()?, payload.u32()?);
    let leases = payload.u32()?;
    let limits = Limits { sessions_max, session_window, answers_max, session_lifetime_ms: payload.u64()? };
    Ok(First { ring_time_ms, keys, sessions, leases, limits })
}
