//! What happened lately: the changes of keys of one shard, in order, as bytes in chunks.
//!
//! ```text
//!   push ─▶ ┌─ chunk ─┐┌─ chunk ─┐┌─ chunk ─┐
//!           │ e e e e ││ e e e   ││ e e     │        an offset is a place in the stream of all changes, and never used again
//!           └─────────┘└─────────┘└─────────┘
//!   start ──┘ floor: what came up to this log index may be gone        end ──┘ applied: all up to this log index is here
//!
//! an event:
//! 0       8              16         20            24              28          30               31     32
//! | index | ring time ms | position | value bytes | 0, or bytes   | key bytes | namespace      | kind | ..
//! | u64   | u64          | u32      | u32         | before+1: u32 | u16       | bytes: u8      | u8   |
//!   namespace | key | value | and if there was something before: its index u64, position u32, value
//! ```
//!
//! Everything is copied, once, behind what is there: a chunk of 64 KiB takes a thousand small changes without an allocation, and the
//! bound in bytes is exact. Keeping slices of the log's entries instead would keep whole batches, and the buffers they were cut from.
//!
//! **Invariants**
//! - Events ascend by revision; between two borrows the last event's index is whole, and at most `applied`.
//! - After [`History::trim`] at most `bytes_max` bytes are held beside the newest chunk, and no chunk beside it whose last event is
//!   older than `age_ms_max`.
//! - What is gone is gone in front, and `floor` says up to where: never a hole.
//!
//! **Not here**: who watches (`engine.rs`).

mod seek;

use std::collections::VecDeque;

use ringbeam_wire::client::Fold;

use super::limits::{CHUNK_BYTES, PREVIOUS_BYTES_MAX};
use crate::state::events::{Change, ChangeKind, Sink};
use crate::state::{Found, Revision};

const HEAD_BYTES: usize = 32;

/// How much of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes, all told.
    pub bytes_max: u64,
    /// Ring time, milliseconds.
    pub age_ms_max: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { bytes_max: 32 << 20, age_ms_max: 600_000 }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct History {
    bounds: Bounds,
    chunk_bytes: usize,
    chunks: VecDeque<Chunk>,
    /// Bytes that the chunks have set aside.
    bytes: u64,
    /// The offset behind the last event.
    end: u64,
    floor: u64,
    applied: u64,
    ring_time_ms: u64,
    /// Watches that want to know what was before.
    pub(super) previous_wanted: usize,
    /// Bytes of previous values that the changes of one revision may still have.
    previous_left: (Revision, usize),
}

#[derive(Debug)]
struct Chunk {
    start: u64,
    /// Of its last event.
    last: Revision,
    last_ring_time_ms: u64,
    bytes: Vec<u8>,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// One change, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Past<'a> {
    pub kind: ChangeKind,
    pub namespace: &'a [u8],
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub revision: Revision,
    pub ring_time_ms: u64,
    pub previous: Option<Found<'a>>,
}

/// What was asked for is gone; this is the oldest revision behind which all is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub oldest: Revision,
}

impl History {
    /// Of nothing.
    pub fn new(bounds: Bounds) -> History {
        History {
            bounds,
            // Little history is dropped in little pieces.
            chunk_bytes: CHUNK_BYTES.min((bounds.bytes_max / 16) as usize),
            chunks: VecDeque::new(),
            bytes: 0,
            end: 0,
            floor: 0,
            applied: 0,
            ring_time_ms: 0,
            previous_wanted: 0,
            previous_left: (Revision::default(), 0),
        }
    }

    // ---- what apply calls ----

    /// Who listens to the changes of a batch at this ring time.
    pub fn recorder(&mut self, ring_time_ms: u64) -> Recorder<'_> {
        self.ring_time_ms = self.ring_time_ms.max(ring_time_ms);
        Recorder(self)
    }

    /// All up to this log index has been pushed. Drops what is too old or too much.
    pub fn applied_through(&mut self, index: u64) {
        self.applied = index;
        self.trim();
    }

    /// The state was replaced, by one as of `index`: nothing is known of how it came about.
    pub fn reset(&mut self, index: u64, ring_time_ms: u64) {
        self.chunks.clear();
        self.bytes = 0;
        // Whoever was at the end is behind now, too.
        self.end += 1;
        (self.floor, self.applied, self.ring_time_ms) = (index, index, ring_time_ms);
    }

    fn push(&mut self, change: &Change<'_>) {
        let &Change { kind, namespace, key, value, revision, previous } = change;
        let previous = previous.filter(|found| self.has_room_for_previous(revision, found.value.len()));
        let ring_time_ms = self.ring_time_ms;
        let past = Past { kind, namespace: namespace.as_bytes(), key, value, revision, ring_time_ms, previous };
        let bytes = past.bytes();
        if self.chunks.back().is_none_or(|chunk| chunk.bytes.capacity() - chunk.bytes.len() < bytes) {
            let chunk = Vec::with_capacity(bytes.max(self.chunk_bytes));
            self.bytes += chunk.capacity() as u64;
            self.chunks.push_back(Chunk { start: self.end, last: revision, last_ring_time_ms: ring_time_ms, bytes: chunk });
        }
        let chunk = self.chunks.back_mut().expect("pushed above if there was none with room");
        (chunk.last, chunk.last_ring_time_ms) = (revision, ring_time_ms);
        past.encode(&mut chunk.bytes);
        self.end += bytes as u64;
    }

    fn has_room_for_previous(&mut self, revision: Revision, bytes: usize) -> bool {
        if self.previous_left.0 != revision {
            self.previous_left = (revision, PREVIOUS_BYTES_MAX);
        }
        match self.previous_left.1.checked_sub(bytes) {
            Some(left) => {
                self.previous_left.1 = left;
                true
            }
            None => false,
        }
    }

    fn trim(&mut self) {
        let oldest_ms = self.ring_time_ms.saturating_sub(self.bounds.age_ms_max);
        while let Some(chunk) = self.chunks.front()
            && (self.bytes > self.bounds.bytes_max || chunk.last_ring_time_ms < oldest_ms)
            && self.chunks.len() > 1
        {
            self.bytes -= chunk.bytes.capacity() as u64;
            self.floor = chunk.last.index;
            self.chunks.pop_front();
        }
    }

    /// The offset behind the last event.
    pub fn end(&self) -> u64 {
        self.end
    }
    /// All up to this log index has been pushed.
    pub fn applied(&self) -> u64 {
        self.applied
    }
    /// Ring time of the batch that was pushed last.
    pub fn ring_time_ms(&self) -> u64 {
        self.ring_time_ms
    }
    /// Bytes of memory that it has set aside.
    #[cfg(any(test, feature = "sim"))]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// See [`History::recorder`].
pub struct Recorder<'a>(&'a mut History);

impl Sink for Recorder<'_> {
    #[inline]
    fn wants_previous(&self) -> bool {
        self.0.previous_wanted > 0
    }
    #[inline]
    fn changed(&mut self, change: &Change<'_>) {
        self.0.push(change);
    }
}

impl<'a> Past<'a> {
    /// Bytes that [`Past::encode`] adds.
    pub fn bytes(&self) -> usize {
        let previous = self.previous.map_or(0, |found| 12 + found.value.len());
        HEAD_BYTES + self.namespace.len() + self.key.len() + self.value.len() + previous
    }

    /// Puts it behind `bytes`, as [`Past::decode`] reads it.
    #[inline]
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&self.revision.index.to_le_bytes());
        head[8..16].copy_from_slice(&self.ring_time_ms.to_le_bytes());
        head[16..20].copy_from_slice(&self.revision.position.to_le_bytes());
        head[20..24].copy_from_slice(&(self.value.len() as u32).to_le_bytes());
        head[24..28].copy_from_slice(&self.previous.map_or(0, |found| found.value.len() as u32 + 1).to_le_bytes());
        head[28..30].copy_from_slice(&(self.key.len() as u16).to_le_bytes());
        head[30] = self.namespace.len() as u8;
        head[31] = kind_out(self.kind);
        for part in [&head[..], self.namespace, self.key, self.value] {
            bytes.extend_from_slice(part);
        }
        if let Some(Found { value, revision, .. }) = self.previous {
            bytes.extend_from_slice(&revision.index.to_le_bytes());
            bytes.extend_from_slice(&revision.position.to_le_bytes());
            bytes.extend_from_slice(value);
        }
    }
}

fn kind_out(kind: ChangeKind) -> u8 {
    match kind {
        ChangeKind::Put => 0,
        ChangeKind::Delete => 1,
        ChangeKind::Expire => 2,
        ChangeKind::Extend(Fold::Concatenate) => 3,
        ChangeKind::Extend(Fold::MergePatch) => 4,
    }
}
