//! Snapshot files: one consistent state of a shard on disk, as the peers get it too.
//!
//! ```text
//! snapshot-<index>-<term>.snap     frames, from byte 0, then zeros up to the reserved length
//!
//!   | u32 bytes | u32 crc32 of the body | body ... |   first body: the meta (below)
//!   | u32 bytes | u32 crc32 of the body | body ... |   then: slices, as `state` made them, in order
//!   |     0     | u32 crc32 of all crcs |              the end
//!
//! meta:  u16 format=1 | u8 flags (1: a state follows; a tie-breaker keeps none)
//!        | last log id: u64 term, u64 leader, u64 index | the same for the membership's log id
//!        | u32 bytes, membership (wire's Membership)     an absent log id has index = u64::MAX
//! ```
//!
//! A file is written as `building.tmp` (own snapshots) or `incoming.tmp` (from a peer), synced, and renamed: a `.snap` file is
//! whole. At most one is kept; a crash between the rename and the removal of the older one leaves two, and the newer wins.
//!
//! `snapshot/check.rs` reads a file through, `snapshot/send.rs` and `snapshot/receive.rs` bring one to a peer, `snapshot/doubt.rs`
//! decides whether it may be relied on.
//!
//! **Not here**: when a snapshot is due (`replica.rs`), what a slice holds (`state`).

pub(super) mod check;
mod doubt;
pub(super) mod receive;
mod send;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;

use crate::io::{BLOCK_BYTES, Disk, Env, File};
use crate::limits::{SNAPSHOT_CHUNK_BYTES, SNAPSHOT_WRITE_BYTES};
use crate::state::limits::SLICE_PAYLOAD_BYTES_MAX;
use crate::wal::LogId;
use check::Checked;
pub(crate) use doubt::Doubts;

const FORMAT: u16 = 1;
const FLAG_STATE: u8 = 1;
const ABSENT: u64 = u64::MAX;
/// Longest frame: a slice and its head, or the meta. A length that rotted must not have a whole file read into memory.
const FRAME_BYTES_MAX: usize = SLICE_PAYLOAD_BYTES_MAX + BLOCK_BYTES;
/// Reserved in one step, so that file-system metadata changes rarely while a snapshot is written.
const RESERVE_STEP_BYTES: u64 = 16 << 20;

/// Own snapshots while they are written, and a peer's while it arrives.
pub(crate) const BUILDING: &str = "building.tmp";
/// A peer's snapshot while it arrives.
pub(crate) const INCOMING: &str = "incoming.tmp";

/// A whole snapshot on disk.
#[derive(Clone)]
pub struct SnapshotFile {
    /// Path below the data directory.
    pub path: String,
    /// Bytes from the start to the end of the last frame, rounded up to whole blocks; 0: not known.
    pub bytes: u64,
    /// What was found when it was read through, until somebody installs it: it is read once.
    checked: Rc<Cell<Option<Checked>>>,
}

impl SnapshotFile {
    pub(crate) fn new(path: String, bytes: u64) -> SnapshotFile {
        SnapshotFile { path, bytes, checked: Rc::default() }
    }

    /// A file that was just read through, with what was found.
    pub(crate) fn read(path: String, checked: Checked) -> SnapshotFile {
        SnapshotFile { path, bytes: checked.bytes, checked: Rc::new(Cell::new(Some(checked))) }
    }

    pub(crate) fn take_checked(&self) -> Option<Checked> {
        self.checked.take()
    }
}

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.path, self.bytes)
    }
}

impl PartialEq for SnapshotFile {
    fn eq(&self, other: &SnapshotFile) -> bool {
        (&self.path, self.bytes) == (&other.path, other.bytes)
    }
}

impl Eq for SnapshotFile {}

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Meta {
    pub last: Option<LogId>,
    pub membership_at: Option<LogId>,
    pub membership: Vec<u8>,
    pub has_state: bool,
}

pub(crate) fn name_of(dir: &str, last: Option<LogId>) -> String {
    let last = last.unwrap_or_default();
    format!("{dir}/snapshot-{:016x}-{:016x}.snap", last.index, last.term)
}

impl Meta {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.membership.len());
        out.extend(FORMAT.to_le_bytes());
        out.push(if self.has_state { FLAG_STATE } else { 0 });
        for id in [self.last, self.membership_at] {
            let id = id.unwrap_or(LogId { term: 0, leader: 0, index: ABSENT });
            out.extend(id.term.to_le_bytes());
            out.extend(id.leader.to_le_bytes());
            out.extend(id.index.to_le_bytes());
        }
        out.extend((self.membership.len() as u32).to_le_bytes());
        out.extend(&self.membership);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Meta, String> {
        let mut at = 0;
        let mut take = |n: usize| -> Result<&[u8], String> {
            let piece = bytes.get(at..at + n).ok_or(format!("meta ends at byte {} of {}", bytes.len(), at + n))?;
            at += n;
            Ok(piece)
        };
        let number = |b: &[u8]| b.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        let format = number(take(2)?);
        if format != u64::from(FORMAT) {
            return Err(format!("snapshot format {format}; this version reads {FORMAT}"));
        }
        let has_state = take(1)?[0] & FLAG_STATE != 0;
        let mut id = || -> Result<Option<LogId>, String> {
            let (term, leader, index) = (number(take(8)?), number(take(8)?), number(take(8)?));
            Ok((index != ABSENT).then_some(LogId { term, leader, index }))
        };
        let (last, membership_at) = (id()?, id()?);
        let length = number(take(4)?) as usize;
        let membership = take(length)?.to_vec();
        Ok(Meta { last, membership_at, membership, has_state })
    }
}

/// Writes frames one after the other, in large aligned pieces.
pub(crate) struct Writer<E: Env> {
    file: <E::Disk as Disk>::File,
    pending: Vec<u8>,
    written: u64,
    reserved: u64,
    crcs: crc32fast::Hasher,
}

impl<E: Env> Writer<E> {
    /// A new file at `path`, begun with `meta`.
    pub async fn create(disk: &E::Disk, path: &str, meta: &Meta) -> io::Result<Self> {
        let file = disk.reserve(path, RESERVE_STEP_BYTES).await?;
        let mut writer = Writer {
            file,
            pending: Vec::with_capacity(2 * SNAPSHOT_WRITE_BYTES),
            written: 0,
            reserved: RESERVE_STEP_BYTES,
            crcs: crc32fast::Hasher::new(),
        };
        writer.frame(&meta.encode()).await?;
        Ok(writer)
    }

    /// Adds one frame.
    pub async fn frame(&mut self, body: &[u8]) -> io::Result<()> {
        let crc = crc32fast::hash(body);
        self.crcs.update(&crc.to_le_bytes());
        self.pending.extend((body.len() as u32).to_le_bytes());
        self.pending.extend(crc.to_le_bytes());
        self.pending.extend(body);
        while self.pending.len() >= SNAPSHOT_WRITE_BYTES {
            self.chunk(SNAPSHOT_WRITE_BYTES).await?;
        }
        Ok(())
    }

    async fn chunk(&mut self, bytes: usize) -> io::Result<()> {
        let padded = bytes.next_multiple_of(BLOCK_BYTES);
        if self.written + padded as u64 > self.reserved {
            self.reserved += RESERVE_STEP_BYTES;
            self.file.reserve(self.reserved).await?;
        }
        let mut buffer = self.file.buffer(padded);
        buffer[..bytes].copy_from_slice(&self.pending[..bytes]);
        buffer[bytes..].fill(0);
        self.file.write_at(self.written, buffer).await?;
        self.pending.drain(..bytes);
        self.written += padded as u64;
        Ok(())
    }

    /// Writes the end, makes all durable, and tells the length in whole blocks.
    pub async fn finish(mut self) -> io::Result<u64> {
        let crcs = self.crcs.clone().finalize();
        self.pending.extend(0u32.to_le_bytes());
        self.pending.extend(crcs.to_le_bytes());
        while !self.pending.is_empty() {
            let bytes = self.pending.len().min(SNAPSHOT_WRITE_BYTES);
            self.chunk(bytes).await?;
        }
        if planted!(SnapshotNotSynced) {
            return Ok(self.written);
        }
        self.file.sync().await?;
        self.file.close().await?;
        Ok(self.written)
    }
}

/// Reads frames one after the other; every error names the file and the offset.
pub(crate) struct Reader<E: Env> {
    file: <E::Disk as Disk>::File,
    path: String,
    buffer: Vec<u8>,
    /// Of the first byte of `buffer` in the file.
    at: u64,
    crcs: crc32fast::Hasher,
}

impl<E: Env> Reader<E> {
    pub async fn open(disk: &E::Disk, path: &str) -> io::Result<(Self, Meta)> {
        let file = disk.open(path).await?;
        let mut reader = Reader { file, path: path.to_string(), buffer: Vec::new(), at: 0, crcs: crc32fast::Hasher::new() };
        let body = reader.frame().await?.ok_or_else(|| reader.bad("has no meta"))?;
        let meta = Meta::decode(&body).map_err(|why| reader.bad(&why))?;
        Ok((reader, meta))
    }

    pub fn bad(&self, why: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("snapshot {} near byte {}: {why}", self.path, self.at))
    }

    /// Bytes up to the frame read last, in whole blocks.
    pub fn position(&self) -> u64 {
        self.at.next_multiple_of(BLOCK_BYTES as u64)
    }

    async fn want(&mut self, bytes: usize) -> io::Result<()> {
        while self.buffer.len() < bytes {
            let from = self.at + self.buffer.len() as u64;
            let left = self.file.len().saturating_sub(from);
            if left == 0 {
                return Err(self.bad("the file ends inside a frame"));
            }
            let piece = self.file.read_at(from, left.min(SNAPSHOT_CHUNK_BYTES as u64) as usize).await?;
            self.buffer.extend(piece);
        }
        Ok(())
    }

    /// The next frame; `None` after the end, which has been checked.
    pub async fn frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.want(8).await?;
        let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let (bytes, crc) = (word(&self.buffer[..4]) as usize, word(&self.buffer[4..8]));
        if bytes == 0 {
            self.at += 8;
            return if crc == self.crcs.clone().finalize() { Ok(None) } else { Err(self.bad("the end's checksum is wrong")) };
        }
        if bytes > FRAME_BYTES_MAX {
            return Err(self.bad(&format!("a frame of {bytes} bytes, at most {FRAME_BYTES_MAX} are allowed")));
        }
        self.want(8 + bytes).await?;
        let body = self.buffer[8..8 + bytes].to_vec();
        if crc32fast::hash(&body) != crc {
            return Err(self.bad("a frame's checksum is wrong"));
        }
        self.crcs.update(&crc.to_le_bytes());
        self.buffer.drain(..8 + bytes);
        self.at += 8 + bytes as u64;
        Ok(Some(body))
    }
}

/// The newest whole snapshot in `dir`, and its name durable; older ones and unfinished files are removed.
///
/// A process that was killed between the rename and the sync of the directory leaves a name that the next one sees and a power loss
/// takes. By then the log may have been purged up to it.
pub(crate) async fn newest<E: Env>(disk: &E::Disk, dir: &str) -> io::Result<Option<String>> {
    let mut newest: Option<String> = None;
    if !planted!(FoundSnapshotNotSynced) {
        disk.sync_dir(dir).await?;
    }
    for name in disk.list(dir).await? {
        let path = format!("{dir}/{name}");
        if name.starts_with("snapshot-") && name.ends_with(".snap") {
            // Names sort by index, then term: the later one is the newer.
            if let Some(older) = newest.replace(path) {
                disk.remove(&older).await?;
            }
        } else if name == BUILDING || name == INCOMING {
            disk.remove(&path).await?;
        }
    }
    Ok(newest)
}

/// Gives a finished file its name and removes every other snapshot.
pub(crate) async fn publish<E: Env>(disk: &E::Disk, dir: &str, from: &str, last: Option<LogId>) -> io::Result<String> {
    let path = name_of(dir, last);
    disk.rename(from, &path).await?;
    disk.sync_dir(dir).await?;
    for name in disk.list(dir).await? {
        let other = format!("{dir}/{name}");
        if name.starts_with("snapshot-") && name.ends_with(".snap") && other != path {
            disk.remove(&other).await?;
        }
    }
    Ok(path)
}

#[cfg(all(test, feature = "sim"))]
mod tests;
