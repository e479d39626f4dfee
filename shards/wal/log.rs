//! The log in memory: what is pending, what is written, and where the next flush goes. No I/O.
//!
//! **Invariants**
//! - `state` is what the caller was told, `written` what has been encoded into flushes. Between flushes `written` is durable.
//! - A segment is left for the next one only when a flush does not fit, and never before its own first flush.

use super::block::{FlushWriter, PAYLOAD_BYTES, blocks_for};
use super::index::{Index, Place};
use super::record::{LogState, RECORD_HEADER_BYTES, Record, STATE_RECORD_BYTES};
use super::replay::Recovered;
use super::segment::Segment;
use super::writer::Flushed;
use super::{FLUSH_HISTORY, Full, LogId};
use crate::io::{BLOCK_BYTES, Disk, Env, File, Instant};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU32;
use std::rc::Rc;

/// A record that waits for its flush; without one, only the callback waits for its turn.
pub(super) struct Pending {
    record: Option<Record>,
    pub flushed: Option<Flushed>,
}

/// Entries made durable by one flush, and when.
pub(super) struct Ended {
    first: u64,
    end: u64,
    at: Instant,
}

/// Everything that changes.
pub(super) struct Log<E: Env> {
    pub state: LogState,
    pub written: LogState,
    /// What the flush that ended last has written.
    durable: LogState,
    pub index: Index,
    /// Oldest first; the last is the one written to.
    pub segments: VecDeque<Segment<<E::Disk as Disk>::File>>,
    pub next: Option<Segment<<E::Disk as Disk>::File>>,
    /// Purged, not freed yet.
    pub retired: VecDeque<Segment<<E::Disk as Disk>::File>>,
    pub spares: Vec<u64>,
    /// Where the next flush begins in the current segment.
    pub block: u32,
    sequence: u64,
    /// Bytes flushed to all segments so far.
    end_bytes: u64,
    pub pending: VecDeque<Pending>,
    pub pending_bytes: u64,
    pub in_flight: Vec<Flushed>,
    /// Blocks of the flush that is being written.
    pub writing: u32,
    /// Blocks that claims keep; see `room.rs`.
    pub claimed: Rc<Cell<u64>>,
    history: VecDeque<Ended>,
    pub fault: Option<String>,
    pub full: Option<Full>,
    pub retrying: bool,
    /// No more records are taken.
    pub closed: bool,
    /// The tasks shall end.
    pub stopped: bool,
}

/// One flush, encoded.
pub(super) struct Encoded<F: File> {
    pub file: F,
    pub offset: u64,
    pub buffer: F::Buffer,
    pub blocks: u32,
    /// Index of the first entry in it, id of the last.
    pub entries: Option<(u64, LogId)>,
}

pub(super) enum Next<F: File> {
    /// Nothing but callbacks was pending.
    Nothing,
    /// The current segment is used up and the next one is not there.
    NoSegment,
    Write(Encoded<F>),
}

impl<E: Env> Log<E> {
    pub fn new(recovered: Recovered<<E::Disk as Disk>::File>) -> Self {
        Log {
            state: recovered.state,
            written: recovered.state,
            durable: recovered.state,
            index: recovered.index,
            segments: recovered.segments,
            next: recovered.next,
            retired: VecDeque::new(),
            spares: recovered.spares,
            block: recovered.block,
            sequence: recovered.sequence,
            end_bytes: recovered.end_bytes,
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: Vec::new(),
            writing: 0,
            claimed: Rc::default(),
            history: VecDeque::new(),
            fault: None,
            full: None,
            retrying: false,
            closed: false,
            stopped: false,
        }
    }

    pub fn refusal(&self) -> Option<io::Error> {
        match &self.fault {
            Some(fault) => Some(io::Error::other(fault.clone())),
            None if self.closed => Some(io::Error::other("the log is closed")),
            None => None,
        }
    }

    pub fn enqueue(&mut self, record: Option<Record>, flushed: Option<Flushed>) {
        self.pending_bytes += record.as_ref().map_or(0, Record::len) as u64;
        self.pending.push_back(Pending { record, flushed });
    }

    pub fn bytes(&self) -> u64 {
        let Some(place) = self.index.place(self.index.range().start) else {
            return 0;
        };
        let segment = self.segments.iter().find(|segment| segment.number == place.segment);
        let start = segment
            .map_or(self.end_bytes, |segment| segment.base_bytes + u64::from(place.block.get() - 1) * BLOCK_BYTES as u64);
        self.end_bytes - start
    }

    /// Takes what fits one flush from the pending records and encodes it.
    pub fn encode(&mut self, gather_bytes_max: usize) -> Next<<E::Disk as Disk>::File> {
        // How many, and what is so after them. One memory walk; nothing is taken before it is clear that it can be written.
        let (mut count, mut bytes, mut after) = (0, 0, self.written);
        for pending in &self.pending {
            let length = pending.record.as_ref().map_or(0, Record::len);
            if bytes > 0 && bytes + length > gather_bytes_max {
                break;
            }
            if let Some(record) = &pending.record {
                after.apply(record);
            }
            (count, bytes) = (count + 1, bytes + length);
        }
        if bytes == 0 {
            self.in_flight.extend(self.pending.drain(..count).filter_map(|pending| pending.flushed));
            return Next::Nothing;
        }
        // The commit position rides along, as far as the entries in the log by then reach.
        let rider = Some(self.state.committed)
            .filter(|id| *id != after.committed && id.map(|id| id.index) <= after.last.map(|id| id.index))
            .map(Record::Committed);
        bytes += rider.as_ref().map_or(0, Record::len);

        let blocks_with = |state: bool| blocks_for(bytes + if state { STATE_RECORD_BYTES } else { 0 }) as u32;
        let room = self.segments.back().map_or(0, Segment::blocks).saturating_sub(self.block);
        if blocks_with(self.block == 1) > room {
            let Some(mut next) = self.next.take() else {
                return Next::NoSegment;
            };
            if let Some(current) = self.segments.back_mut() {
                current.last_index = self.written.last.map(|id| id.index);
            }
            next.base_bytes = self.end_bytes;
            self.segments.push_back(next);
            self.block = 1;
        }
        let segment = self.segments.back().expect("there is always a current segment");
        let block = NonZeroU32::new(self.block).expect("block 0 is the segment's header");
        let blocks = blocks_with(self.block == 1);
        assert!(self.block + blocks <= segment.blocks(), "a segment holds the largest flush: WalConfig::check");

        let mut buffer = segment.file.buffer(blocks as usize * BLOCK_BYTES);
        let mut writer = FlushWriter::new(&mut buffer);
        if self.block == 1 {
            Record::State(self.written).encode(|bytes| writer.put(bytes));
        }
        let mut entries: Option<(u64, LogId)> = None;
        for Pending { record, flushed } in self.pending.drain(..count) {
            if let Some(record) = record {
                let (at, length) = (writer.len() as u32, record.len() as u32);
                record.encode(|bytes| writer.put(bytes));
                self.pending_bytes -= u64::from(length);
                if let Record::Entry(entry) = record {
                    self.index.set_place(entry.id, Place { segment: segment.number, block, at, bytes: length });
                    entries = Some((entries.map_or(entry.id.index, |(first, _)| first), entry.id));
                }
            }
            self.in_flight.extend(flushed);
        }
        if let Some(rider) = rider {
            rider.encode(|bytes| writer.put(bytes));
            after.apply(&rider);
        }
        writer.finish(segment.id, self.sequence);
        (self.written, self.writing) = (after, blocks);
        let offset = u64::from(self.block) * BLOCK_BYTES as u64;
        Next::Write(Encoded { file: segment.file.clone(), offset, buffer, blocks, entries })
    }

    /// Notes a durable flush.
    pub fn flushed(&mut self, blocks: u32, entries: Option<(u64, LogId)>, now: Instant) {
        (self.block, self.writing) = (self.block + blocks, 0);
        self.durable = self.written;
        self.sequence += 1;
        self.end_bytes += u64::from(blocks) * BLOCK_BYTES as u64;
        // Entries that were truncated or replaced during the flush are not covered by it.
        if let Some((first, last)) = entries.filter(|(_, last)| self.index.id_at(last.index) == Some(*last)) {
            if self.history.len() == FLUSH_HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(Ended { first, end: last.index + 1, at: now });
        }
    }

    pub fn flushed_at(&self, index: u64) -> Option<Instant> {
        let at = self.history.partition_point(|flush| flush.end <= index);
        self.history.get(at).filter(|flush| flush.first <= index).map(|flush| flush.at)
    }

    pub fn flushed_through(&self) -> Option<u64> {
        let last = self.durable.last?;
        let purged = self.state.purged.is_some_and(|purged| purged.index >= last.index);
        let held = purged || self.index.id_at(last.index) == Some(last);
        held.then_some(last.index)
    }

    /// Entries from `from` on are gone; the same indexes may come again in a later flush.
    pub fn forget_history(&mut self, from: u64) {
        while self.history.back().is_some_and(|flush| flush.first >= from) {
            self.history.pop_back();
        }
        if let Some(flush) = self.history.back_mut() {
            flush.end = flush.end.min(from);
        }
    }

    /// Moves segments that hold nothing but purged entries out of the way. True when there are any to free.
    pub fn retire(&mut self) -> bool {
        // The state that the segments hold is repeated by the first flush of the one behind them.
        let durable = self.written.purged.map(|id| id.index);
        while self.segments.len() > 1 && self.block > 1 {
            match self.segments.front() {
                Some(oldest) if oldest.last_index <= durable => {}
                _ => break,
            }
            self.retired.extend(self.segments.pop_front());
        }
        !self.retired.is_empty()
    }
}

// State and rider together fit one block, so that a lone record beside them costs two at most.
const _: () = assert!(STATE_RECORD_BYTES + RECORD_HEADER_BYTES < PAYLOAD_BYTES);
