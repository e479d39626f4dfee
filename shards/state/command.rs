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
//!      5 transaction (no key; its value is that of transaction.rs)
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

use super::limits::{KEY_BYTES_MAX, NAMESPACE_BYTES_MAX, POSITIONS_MAX, VALUE_BYTES_HARD_MAX};
use super::reader::{Malformed, Reader};
use super::transaction::{self, Transaction};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 16;
const WRITE_HEAD_BYTES: usize = 8;
const SESSION_BYTES: usize = 24;
const OP_HAS_SESSION: u8 = 0x80;

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
}

impl<'a> Op<'a> {
    fn code(&self) -> u8 {
        match self {
            Op::Put { .. } => 1,
            Op::Delete { .. } => 2,
            Op::OpenSession => 3,
            Op::CloseSession => 4,
            Op::Transact(_) => 5,
        }
    }
    fn key_and_value(&self) -> (&'a [u8], &'a [u8]) {
        match *self {
            Op::Put { key, value } => (key, value),
            Op::Delete { key } => (key, &[]),
            Op::OpenSession | Op::CloseSession => (&[], &[]),
            Op::Transact(transaction) => (&[], transaction.bytes()),
        }
    }
}

impl Write<'_> {
    /// Bytes of this write in a batch.
    pub fn encoded_bytes(&self) -> usize {
        let (key, value) = self.op.key_and_value();
        let session = if self.session == 0 { 0 } else { SESSION_BYTES };
        WRITE_HEAD_BYTES + session + self.namespace.len() + key.len() + value.len()
    }

    /// CRC32 of what the write does, apart from who sends it as which number: tells a retry from a reuse of its sequence.
    pub(super) fn command_crc(&self) -> u32 {
        let (key, value) = self.op.key_and_value();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.head(0));
        crc.update(self.namespace.as_bytes());
        crc.update(key);
        crc.update(value);
        crc.finalize()
    }

    fn head(&self, flags: u8) -> [u8; WRITE_HEAD_BYTES] {
        let (key, value) = self.op.key_and_value();
        let mut head = [0; WRITE_HEAD_BYTES];
        head[0] = self.op.code() | flags;
        head[1] = self.namespace.len() as u8;
        head[2..4].copy_from_slice(&(key.len() as u16).to_le_bytes());
        head[4..].copy_from_slice(&(value.len() as u32).to_le_bytes());
        head
    }

    /// What both builder and parser hold a write to.
    fn check(&self) -> Result<(), String> {
        let (key, value) = self.op.key_and_value();
        let (namespace, sessionless) = (self.namespace.len(), self.session == 0);
        if namespace > NAMESPACE_BYTES_MAX {
            return Err(format!("a namespace of {namespace} bytes, at most {NAMESPACE_BYTES_MAX} are allowed"));
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(format!("a key of {} bytes, at most {KEY_BYTES_MAX} are allowed", key.len()));
        }
        // A transaction's own head does not count against its bytes.
        let value_bytes_max =
            VALUE_BYTES_HARD_MAX + if matches!(self.op, Op::Transact(_)) { transaction::HEAD_BYTES } else { 0 };
        if value.len() > value_bytes_max {
            return Err(format!("a value of {} bytes, at most {value_bytes_max} are allowed", value.len()));
        }
        match self.op {
            Op::Put { .. } | Op::Delete { .. } if key.is_empty() => Err("an empty key".into()),
            Op::OpenSession | Op::CloseSession if namespace > 0 => {
                Err("a namespace on opening or closing a session, which has none".into())
            }
            Op::OpenSession if !sessionless => Err("a session on opening a session".into()),
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
}

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl Builder {
    /// Without a batch begun.
    pub fn new() -> Builder {
        Builder { buffer: BytesMut::new(), count: 0 }
    }
    /// Begins a batch; drops what an unfinished one had.
    pub fn start(&mut self, ring_time_ms: u64) {
        self.buffer.clear();
        self.count = 0;
        self.buffer.reserve(HEAD_BYTES);
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
        let (key, value) = write.op.key_and_value();
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
    /// The finished batch. The next one needs a [`Builder::start`].
    pub fn finish(&mut self) -> Bytes {
        assert!(self.buffer.len() >= HEAD_BYTES, "start a batch before finishing it");
        self.buffer[4..8].copy_from_slice(&self.count.to_le_bytes());
        self.count = 0;
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
        other => return Err(reader.malformed(format!("op {other}, known are 1 to 5"))),
    };
    let write = Write { namespace, session, sequence, answered_below, op };
    if op.key_and_value() != (key, value) {
        return Err(reader.malformed(format!("a key or value that op {} does not take", op.code())));
    }
    write.check().map_err(|why| reader.malformed(why))?;
    *reader = at;
    Ok(write)
}
