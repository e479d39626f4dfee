//! The index: where each live entry is, and the newest entries themselves. In memory; rebuilt by recovery.
//!
//! ```text
//!    first                                    end
//!      |  slot slot slot slot slot slot slot |      LogId and place on disk, 40 bytes each
//!                       | entry entry entry  |      the cache: a suffix, bounded by bytes
//!                              flushed | not        an entry without a place is always in the cache
//! ```
//!
//! **Invariants**
//! - Slots are contiguous in the log index.
//! - The cache is a suffix of the slots, so that what is not in it is on disk, and older.
//! - An entry leaves the cache only once it has a place, and gets the place when its flush is encoded. [`Index::evict`] is
//!   called between flushes only, when everything with a place is durable.

use super::{Entry, LogId};
use std::collections::VecDeque;
use std::num::NonZeroU32;

/// What an entry in the cache costs besides its payload.
const ENTRY_OVERHEAD_BYTES: usize = std::mem::size_of::<Entry>();

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Segment number.
    pub segment: u64,
    /// First block of its flush. Never 0: that is the segment's header.
    pub block: NonZeroU32,
    /// Payload bytes of the flush before the record.
    pub at: u32,
    /// Bytes of the record.
    pub bytes: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    term: u64,
    leader: u64,
    place: Option<Place>,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Index {
    first: u64,
    slots: VecDeque<Slot>,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
}

impl Index {
    /// Log indexes of the live entries: first, and one past the last.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.first..self.end()
    }

    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// The id of a live entry.
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        self.slot(index).map(|slot| LogId { term: slot.term, leader: slot.leader, index })
    }

    /// Where a live entry is, `None` also while it has not been flushed.
    pub fn place(&self, index: u64) -> Option<Place> {
        self.slot(index)?.place
    }

    /// A live entry, if it is in the cache.
    pub fn cached(&self, index: u64) -> Option<&Entry> {
        let start = self.end() - self.cache.len() as u64;
        self.cache.get(usize::try_from(index.checked_sub(start)?).ok()?)
    }

    /// Adds the next entry. The caller has checked that its index follows; an empty index may begin anywhere.
    pub fn push(&mut self, entry: Entry, place: Option<Place>) {
        if self.slots.is_empty() {
            self.first = entry.id.index;
        }
        assert_eq!(entry.id.index, self.end(), "entries are contiguous");
        self.slots.push_back(Slot { term: entry.id.term, leader: entry.id.leader, place });
        self.cache_bytes += cost(&entry);
        self.cache.push_back(entry);
    }

    /// Notes where an entry is being written, unless it was truncated or replaced meanwhile.
    pub fn set_place(&mut self, id: LogId, place: Place) {
        if self.id_at(id.index) == Some(id) {
            let at = (id.index - self.first) as usize;
            self.slots[at].place = Some(place);
        }
    }

    /// Drops the entries from `from` on.
    pub fn truncate_from(&mut self, from: u64) {
        let keep = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let dropped = self.slots.len().saturating_sub(keep);
        self.slots.truncate(keep);
        for _ in 0..dropped.min(self.cache.len()) {
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes -= cost(&entry);
            }
        }
    }

    /// Drops the entries up to and with `upto`.
    pub fn purge(&mut self, upto: u64) {
        let gone = (upto + 1).saturating_sub(self.first).min(self.slots.len() as u64);
        self.slots.drain(..gone as usize);
        self.first += gone;
        while self.cache.len() > self.slots.len() {
            self.pop_cached();
        }
    }

    /// Lets the oldest cached entries go until `bytes_max` is kept. Those without a place stay.
    pub fn evict(&mut self, bytes_max: usize) {
        while self.cache_bytes > bytes_max {
            match self.cache.front() {
                Some(entry) if self.place(entry.id.index).is_some() => self.pop_cached(),
                _ => return,
            }
        }
    }

    fn pop_cached(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= cost(&entry);
        }
    }
}

fn cost(entry: &Entry) -> usize {
    ENTRY_OVERHEAD_BYTES + entry.payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, leader: 1, index }
    }
    fn entry(term: u64, index: u64) -> Entry {
        Entry { id: id(term, index), kind: 0, payload: Bytes::from(vec![0; 100]) }
    }
    fn place(at: u32) -> Place {
        Place { segment: 1, block: NonZeroU32::MIN, at, bytes: 140 }
    }

    #[test]
    fn unflushed_entries_stay_in_the_cache_however_small_it_is() {
        let mut index = Index::default();
        for i in 5..15 {
            index.push(entry(1, i), None);
        }
        for i in 5..10 {
            index.set_place(id(1, i), place(i as u32));
        }
        index.evict(0);
        assert!(index.cached(9).is_none() && index.place(9) == Some(place(9)));
        assert!(index.cached(10).is_some_and(|entry| entry.id.index == 10));
        assert_eq!(index.range(), 5..15);
    }

    #[test]
    fn a_replaced_entry_does_not_get_its_predecessors_place() {
        let mut index = Index::default();
        index.push(entry(1, 0), None);
        index.push(entry(1, 1), None);
        index.truncate_from(1);
        index.push(entry(2, 1), None);
        index.set_place(id(1, 1), place(7));
        assert_eq!((index.place(1), index.id_at(1)), (None, Some(id(2, 1))));
    }

    #[test]
    fn purging_and_truncating_beyond_the_ends_leaves_nothing() {
        let mut index = Index::default();
        for i in 3..6 {
            index.push(entry(1, i), Some(place(0)));
        }
        index.purge(1);
        index.truncate_from(9);
        assert_eq!(index.range(), 3..6);
        index.purge(4);
        assert_eq!((index.range(), index.cached(5).map(|e| e.id.index)), (5..6, Some(5)));
        index.truncate_from(0);
        assert_eq!((index.range().is_empty(), index.cache_bytes), (true, 0));
        index.push(entry(1, 40), None);
        assert_eq!(index.range(), 40..41);
    }
}
