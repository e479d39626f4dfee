//! The bytes of a batch in the log.
//!
//! ```text
//! 0         1          4        8               16
//! | version | 0 0 0    | count  | ring time ms  | write | write | ...
//! | u8 = 1  |          | u32    | u64           |
//!
//! a write:
//! 0      1           2         4           8                                      8 or 32
//! | op   | namespace | key     | value     | session | sequence | answered below | namespace | key | value |
//! | u8   | bytes u8  | bytes   | bytes u32 | u64     | u64      | u64            |           |     |       |
//! |      |           | u16     |           | only if the op's bit 0x80 is set    |
//!
//! ops: 1 put, 2 delete, 3 open session, 4 close session,             all integers little-endian
//!      5 transaction (no key; its value is that of transaction.rs), 6 add (its value: counter.rs),
//!      7 extend (its value: extend.rs), 8 delete a range (its value: erase.rs), 13 resolve (no key, no value)
//!      9 grant a lease (value: ttl ms u64), 10 keep, 11 revoke it (value: lease u64); no key
//!      12 expire (value: keys at most u32), by the leader itself
//!      14 put with a life (value: ttl ms u64, lease u64, one of them not 0, value)
//! ```
//!
//! The log checks a CRC before anybody reads a batch, so bytes that do not parse mean a bug or another version, and the shard
//! stops. The parser is total all the same: it takes a batch whole or refuses it with the place and what is wrong.
//!
//! **Invariants**: what [`parse`] has accepted can be iterated without failing. There is one encoding of a batch: what parses,
//! encodes to the same bytes. The builder puts nothing into a batch that the parser would refuse.
//!
//! **Not here**: compression, checksums (the log's), the bound on a batch's bytes (the batcher's).

use bytes::{BufMut, Bytes, BytesMut};

use ringbeam_wire::client::Life;

use super::counter::Addition;
use super::erase::{BOUND_BYTES_MAX, Erasure};
use super::extend::{self, Extension};
use super::limits::{EXPIRE_HARD_MAX, KEY_BYTES_MAX, NAMESPACE_BYTES_MAX, POSITIONS_MAX, VALUE_BYTES_HARD_MAX};
use super::reader::{Malformed, Reader};
use super::transaction::{self, Transaction};

const VERSION: u8 = 1;
/// Bytes of a batch before its first write.
pub(crate) const HEAD_BYTES: usize = 16;
/// Set aside for a batch before its first write, at most.
const RESERVE_BYTES_MAX: usize = 64 << 10;
const WRITE_HEAD_BYTES: usize = 8;
const SESSION_BYTES: usize = 24;
const OP_HAS_SESSION: u8 = 0x80;
/// Bytes of a life in front of a value.
pub(super) const LIFE_BYTES: usize = 16;
const FRONT_BYTES_MAX: usize = 24;

/// Numbers in front of a write's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Front {
    bytes: [u8; FRONT_BYTES_MAX],
    len: usize,
}

impl Front {
    const NONE: Front = Front { bytes: [0; FRONT_BYTES_MAX], len: 0 };

    pub fn of(words: &[u64]) -> Front {
        let mut front = Front { len: 8 * words.len(), ..Front::NONE };
        for (to, word) in front.bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        front
    }
    fn of_u32(word: u32) -> Front {
        Front { len: 4, ..Front::of(&[u64::from(word)]) }
    }
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A life, and the value behind it. `None`: none is there, or one without an end.
pub(super) fn split_life(bytes: &[u8]) -> Option<(Life, &[u8])> {
    let (front, value) = bytes.split_at_checked(LIFE_BYTES)?;
    let life = Life { ttl_ms: word(front, 0)?, lease: word(front, 8)? };
    (life != Life::default()).then_some((life, value))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|eight| u64::from_le_bytes(*eight))
}

/// One write of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// Name of the namespace; "" is the default.
    pub namespace: &'a str,
    /// The session it belongs to; 0: none, and then the next two are 0 as well.
    pub session: u64,
    /// Number within the session, from 1.
    pub sequence: u64,
    /// The client has the answers of all sequences below this one.
    pub answered_below: u64,
    /// What to do.
    pub op: Op<'a>,
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Sets a key.
    Put {
        /// 1 to 4,096 bytes.
        key: &'a [u8],
        /// At most 16 MiB.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// 1 to 4,096 bytes.
        key: &'a [u8],
    },
    /// Opens a session; its id is the revision's (`Revision::session_id`).
    OpenSession,
    /// Closes `session`.
    CloseSession,
    /// Compares, then one of two lists of gets, puts and deletes.
    Transact(Transaction<'a>),
    /// Adds to a number.
    Add {
        /// 1 to 4,096 bytes.
        key: &'a [u8],
        /// What is added, and within which bounds.
        addition: Addition<'a>,
    },
    /// Changes a value by a delta.
    Extend {
        /// 1 to 4,096 bytes.
        key: &'a [u8],
        /// How, and by what.
        extension: Extension<'a>,
    },
    /// Settles what became of the session's write with this sequence: it has happened, or it never will.
    Resolve,
    /// Removes the first keys of a range.
    DeleteRange {
        /// The first key; at most 4,097 bytes, empty: the very first.
        from: &'a [u8],
        /// Where it ends, and how many go.
        erasure: Erasure<'a>,
    },
    /// Sets a key that goes again.
    PutFor {
        /// 1 to 4,096 bytes.
        key: &'a [u8],
        /// When it goes: a time, a lease, or both.
        life: Life,
        /// At most 16 MiB.
        value: &'a [u8],
    },
    /// Grants a lease; its id is the revision's (`Revision::session_id`).
    GrantLease {
        /// It ends this long after it was kept alive last; not 0.
        ttl_ms: u64,
    },
    /// Keeps a lease alive.
    KeepLease {
        /// Its id.
        lease: u64,
    },
    /// Ends a lease.
    RevokeLease {
        /// Its id.
        lease: u64,
    },
    /// Takes out keys and leases whose time is up. Only a leader makes it.
    Expire {
        /// So many at most: 1 to `limits::EXPIRE_HARD_MAX`.
        most: u32,
    },
}

impl<'a> Op<'a> {
    fn code(&self) -> u8 {
        match self {
            Op::Put { .. } => 1,
            Op::Delete { .. } => 2,
            Op::OpenSession => 3,
            Op::CloseSession => 4,
            Op::Transact(_) => 5,
            Op::GrantLease { .. } => 9,
            Op::KeepLease { .. } => 10,
            Op::RevokeLease { .. } => 11,
            Op::Expire { .. } => 12,
            Op::PutFor { .. } => 14,
            Op::Add { .. } => 6,
            Op::Extend { .. } => 7,
            Op::DeleteRange { .. } => 8,
            Op::Resolve => 13,
        }
    }
    /// Its key, and its value in two parts.
    #[inline]
    fn parts(&self) -> (&'a [u8], Front, &'a [u8]) {
        match *self {
            Op::Put { key, value } => (key, Front::NONE, value),
            Op::Delete { key } => (key, Front::NONE, &[]),
            Op::OpenSession | Op::CloseSession | Op::Resolve => (&[], Front::NONE, &[]),
            Op::Transact(transaction) => (&[], Front::NONE, transaction.bytes()),
            Op::PutFor { key, life, value } => (key, Front::of(&[life.ttl_ms, life.lease]), value),
            Op::GrantLease { ttl_ms: word } | Op::KeepLease { lease: word } | Op::RevokeLease { lease: word } => {
                (&[], Front::of(&[word]), &[])
            }
            Op::Expire { most } => (&[], Front::of_u32(most), &[]),
            Op::Add { key, addition } => (key, Front::NONE, addition.bytes()),
            Op::DeleteRange { from, erasure } => (from, Front::NONE, erasure.bytes()),
            Op::Extend { key, extension } => (key, Front::NONE, extension.bytes()),
        }
    }
    /// Whether it is about keys, which are in a namespace.
    fn has_namespace(&self) -> bool {
        let of_key = matches!(self, Op::Put { .. } | Op::Delete { .. } | Op::PutFor { .. } | Op::Add { .. });
        of_key || matches!(self, Op::Transact(_) | Op::DeleteRange { .. } | Op::Extend { .. })
    }
}

impl Write<'_> {
    /// Bytes of this write in a batch.
    pub fn encoded_bytes(&self) -> usize {
        let (key, front, value) = self.op.parts();
        let session = if self.session == 0 { 0 } else { SESSION_BYTES };
        WRITE_HEAD_BYTES + session + self.namespace.len() + key.len() + front.len + value.len()
    }

    /// CRC32 of what the write does, apart from who sends it as which number: tells a retry from a reuse of its sequence.
    pub(super) fn command_crc(&self) -> u32 {
        let (key, front, value) = self.op.parts();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.head(0));
        crc.update(self.namespace.as_bytes());
        crc.update(key);
        crc.update(front.bytes());
        crc.update(value);
        crc.finalize()
    }

    fn head(&self, flags: u8) -> [u8; WRITE_HEAD_BYTES] {
        let (key, front, value) = self.op.parts();
        let mut head = [0; WRITE_HEAD_BYTES];
        head[0] = self.op.code() | flags;
        head[1] = self.namespace.len() as u8;
        head[2..4].copy_from_slice(&(key.len() as u16).to_le_bytes());
        head[4..].copy_from_slice(&((front.len + value.len()) as u32).to_le_bytes());
        head
    }

    /// What both builder and parser hold a write to.
    fn check(&self) -> Result<(), String> {
        let (key, _, value) = self.op.parts();
        let (namespace, sessionless) = (self.namespace.len(), self.session == 0);
        if namespace > NAMESPACE_BYTES_MAX {
            return Err(format!("a namespace of {namespace} bytes, at most {NAMESPACE_BYTES_MAX} are allowed"));
        }
        let key_bytes_max = if matches!(self.op, Op::DeleteRange { .. }) { BOUND_BYTES_MAX } else { KEY_BYTES_MAX };
        if key.len() > key_bytes_max {
            return Err(format!("a key of {} bytes, at most {key_bytes_max} are allowed", key.len()));
        }
        // The own head of a transaction or a delta does not count against its bytes.
        let value_bytes_max = VALUE_BYTES_HARD_MAX
            + match self.op {
                Op::Transact(_) => transaction::HEAD_BYTES,
                Op::Extend { .. } => extend::HEAD_BYTES,
                _ => 0,
            };
        if value.len() > value_bytes_max {
            return Err(format!("a value of {} bytes, at most {value_bytes_max} are allowed", value.len()));
        }
        match self.op {
            Op::Put { .. } | Op::Delete { .. } | Op::PutFor { .. } | Op::Add { .. } | Op::Extend { .. } if key.is_empty() => {
                Err("an empty key".into())
            }
            op if namespace > 0 && !op.has_namespace() => Err(format!("a namespace on op {}, which has none", op.code())),
            Op::OpenSession | Op::KeepLease { .. } | Op::Expire { .. } if !sessionless => {
                Err(format!("a session on op {}, which has none", self.op.code()))
            }
            Op::PutFor { life, .. } if life == Life::default() => Err("a life without an end".into()),
            Op::GrantLease { ttl_ms: 0 } => Err("a lease without time".into()),
            Op::Expire { most } if most == 0 || most > EXPIRE_HARD_MAX => {
                Err(format!("{most} keys to expire, 1 to {EXPIRE_HARD_MAX} are allowed"))
            }
            Op::Resolve if sessionless => Err("the outcome of a write without a session, of which nothing is kept".into()),
            Op::CloseSession if sessionless => Err("session 0 to be closed, which is none".into()),
            _ if sessionless && (self.sequence, self.answered_below) != (0, 0) => Err("a sequence without a session".into()),
            _ => Ok(()),
        }
    }
}

/// Builds one batch after another in a buffer that is used again once nobody holds the batches cut from it.
#[derive(Debug)]
pub struct Builder {
    buffer: BytesMut,
    count: u32,
    /// Bytes of the batch before: the next one is likely to need as many.
    before: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl Builder {
    /// Without a batch begun.
    pub fn new() -> Builder {
        Builder { buffer: BytesMut::new(), count: 0, before: 0 }
    }
    /// Begins a batch; drops what an unfinished one had.
    pub fn start(&mut self, ring_time_ms: u64) {
        self.buffer.clear();
        self.count = 0;
        self.buffer.reserve(self.before.clamp(HEAD_BYTES, RESERVE_BYTES_MAX));
        self.buffer.put_slice(&[VERSION, 0, 0, 0, 0, 0, 0, 0]);
        self.buffer.put_u64_le(ring_time_ms);
    }
    /// Adds a write, or says why it cannot be in a batch, and then the batch is as before.
    ///
    /// # Panics
    /// Without [`Builder::start`] before.
    pub fn push(&mut self, write: &Write<'_>) -> Result<(), Malformed> {
        assert!(self.buffer.len() >= HEAD_BYTES, "start a batch before its first write");
        if self.count + 1 >= POSITIONS_MAX {
            return Err(Malformed::new(0, format!("a batch holds fewer than {POSITIONS_MAX} writes")));
        }
        write.check().map_err(|why| Malformed::new(self.buffer.len() as u64, why))?;
        let (key, front, value) = write.op.parts();
        self.buffer.reserve(write.encoded_bytes());
        if write.session == 0 {
            self.buffer.put_slice(&write.head(0));
        } else {
            self.buffer.put_slice(&write.head(OP_HAS_SESSION));
            self.buffer.put_u64_le(write.session);
            self.buffer.put_u64_le(write.sequence);
            self.buffer.put_u64_le(write.answered_below);
        }
        self.buffer.put_slice(write.namespace.as_bytes());
        self.buffer.put_slice(key);
        self.buffer.put_slice(front.bytes());
        self.buffer.put_slice(value);
        self.count += 1;
        Ok(())
    }
    /// Writes in the batch so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }
    /// True without writes.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
    /// Bytes of the batch so far.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }
    /// Gives the batch another ring time: it was begun a while ago.
    ///
    /// # Panics
    /// Without [`Builder::start`] before.
    pub fn stamp(&mut self, ring_time_ms: u64) {
        self.buffer[8..HEAD_BYTES].copy_from_slice(&ring_time_ms.to_le_bytes());
    }
    /// The finished batch. The next one needs a [`Builder::start`].
    pub fn finish(&mut self) -> Bytes {
        assert!(self.buffer.len() >= HEAD_BYTES, "start a batch before finishing it");
        self.buffer[4..8].copy_from_slice(&self.count.to_le_bytes());
        self.count = 0;
        self.before = self.buffer.len();
        self.buffer.split().freeze()
    }
}

/// A batch whose bytes have been checked.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// Ring time when the leader made the batch, in milliseconds.
    pub ring_time_ms: u64,
    count: u32,
    writes: Reader<'a>,
}

impl<'a> Batch<'a> {
    /// The writes, in order.
    pub fn iter(&self) -> impl Iterator<Item = Write<'a>> + use<'a> {
        let mut writes = self.writes.clone();
        std::iter::from_fn(move || if writes.is_empty() { None } else { parse_write(&mut writes).ok() })
    }
    /// Number of writes.
    pub fn len(&self) -> usize {
        self.count as usize
    }
    /// True without writes.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Checks a batch, to the last byte of its last write.
pub fn parse(bytes: &[u8]) -> Result<Batch<'_>, Malformed> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8()?;
    if version != VERSION {
        return Err(Malformed::new(0, format!("batch format {version}, this build reads {VERSION}")));
    }
    if reader.take(3)? != [0; 3] {
        return Err(Malformed::new(1, "reserved bytes that are not 0"));
    }
    let count = reader.u32()?;
    if count >= POSITIONS_MAX {
        return Err(Malformed::new(4, format!("{count} writes, fewer than {POSITIONS_MAX} are allowed")));
    }
    let batch = Batch { ring_time_ms: reader.u64()?, count, writes: Reader::new(reader.take(reader.left())?) };
    let in_batch = |e: Malformed| Malformed { at: e.at + HEAD_BYTES as u64, ..e };
    let mut writes = batch.writes.clone();
    for _ in 0..count {
        parse_write(&mut writes).map_err(in_batch)?;
    }
    if !writes.is_empty() {
        let why = format!("{} bytes after the last of {count} writes", writes.left());
        return Err(in_batch(writes.malformed(why)));
    }
    Ok(batch)
}

#[inline]
fn parse_write<'a>(reader: &mut Reader<'a>) -> Result<Write<'a>, Malformed> {
    let mut at = reader.clone();
    let code = at.u8()?;
    let (namespace_bytes, key_bytes, value_bytes) = (at.u8()?, at.u16()?, at.u32()?);
    let has_session = code & OP_HAS_SESSION != 0;
    let (session, sequence, answered_below) = if has_session { (at.u64()?, at.u64()?, at.u64()?) } else { (0, 0, 0) };
    if has_session && session == 0 {
        return Err(reader.malformed("session 0 where one is announced"));
    }
    let namespace = at.text(usize::from(namespace_bytes))?;
    let key = at.take(usize::from(key_bytes))?;
    let value = at.take(value_bytes as usize)?;
    let op = match code & !OP_HAS_SESSION {
        1 => Op::Put { key, value },
        2 => Op::Delete { key },
        3 => Op::OpenSession,
        4 => Op::CloseSession,
        5 => Op::Transact(Transaction::parse(value).map_err(|e| reader.malformed(format!("its transaction: {e}")))?),
        6 => Op::Add { key, addition: Addition::parse(value).map_err(|e| reader.malformed(format!("its addition: {e}")))? },
        7 => {
            let extension = Extension::parse(value).map_err(|e| reader.malformed(format!("its delta: {e}")))?;
            Op::Extend { key, extension }
        }
        8 => {
            let erasure = Erasure::parse(value).map_err(|e| reader.malformed(format!("its range: {e}")))?;
            Op::DeleteRange { from: key, erasure }
        }
        13 => Op::Resolve,
        12 => Op::Expire { most: Reader::new(value).u32()? },
        14 => match split_life(value) {
            Some((life, value)) => Op::PutFor { key, life, value },
            None => return Err(reader.malformed("a put with a life, which it has not")),
        },
        code @ 9..=11 => {
            let word = Reader::new(value).u64()?;
            match code {
                9 => Op::GrantLease { ttl_ms: word },
                10 => Op::KeepLease { lease: word },
                _ => Op::RevokeLease { lease: word },
            }
        }
        other => return Err(reader.malformed(format!("op {other}, known are 1 to 14"))),
    };
    let write = Write { namespace, session, sequence, answered_below, op };
    let (op_key, front, op_value) = op.parts();
    if (op_key.len(), front.len + op_value.len()) != (key.len(), value.len()) {
        return Err(reader.malformed(format!("a key or value that op {} does not take", op.code())));
    }
    write.check().map_err(|why| reader.malformed(why))?;
    *reader = at;
    Ok(write)
}
