//! Records: what the log says, one after the other, in one ordered stream. Pure.
//!
//! ```text
//! +0   crc32 of +4 .. end      u32      kinds
//! +4   payload bytes           u32      1 entry      id, payload (opaque), entry kind
//! +8   kind                    u8       2 vote       term, node in `leader`; flag 1: committed
//! +9   entry kind              u8       3 truncate   flag 1: everything after id goes; else everything goes
//! +10  flags                   u16      4 purge      everything up to and with id is not needed any more
//! +12  0                       u32      5 committed  flag 1: id; else none
//! +16  term                    u64      6 seal       the log was closed in order here
//! +24  leader                  u64      7 state      payload: four times (present u64, three u64):
//! +32  index                   u64                   vote, committed, purged, last
//! +40  payload
//! ```
//!
//! **Invariants**
//! - [`LogState::apply`] is the only meaning of a record for everything but the entries themselves. The writer and recovery
//!   both go through it, so that they cannot come to differ; each segment's first record repeats the state, and recovery
//!   compares (a pair of assertions: one before the write, one after the read).
//! - `committed` is never beyond `last`: raft reads the entries up to it when it starts.

use super::block::{u32_at, u64_at};
use super::{Entry, LogId, Vote};
use bytes::Bytes;

/// Bytes of a record besides its payload.
pub(super) const RECORD_HEADER_BYTES: usize = 40;
/// Bytes of a state record's payload.
const STATE_BYTES: usize = 4 * 32;
/// Bytes of a whole state record.
pub(super) const STATE_RECORD_BYTES: usize = RECORD_HEADER_BYTES + STATE_BYTES;

const PRESENT: u16 = 1;

/// One thing that the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry(Entry),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    Committed(Option<LogId>),
    Seal,
    State(LogState),
}

/// Everything the log knows besides its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct LogState {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// The last entry, or `purged` when there is none.
    pub last: Option<LogId>,
}

impl LogState {
    /// What is so after `record`.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => self.last = Some(entry.id),
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Truncate(after) => self.last = self.purged.max_by_index(*after),
            Record::Purge(upto) => {
                self.purged = Some(*upto).max_by_index(self.purged);
                self.last = self.purged.max_by_index(self.last);
            }
            Record::Committed(id) => self.committed = *id,
            Record::State(state) => *self = *state,
            Record::Seal => {}
        }
        if self.committed.map(|id| id.index) > self.last.map(|id| id.index) {
            self.committed = self.last;
        }
    }
}

trait MaxByIndex {
    fn max_by_index(self, other: Self) -> Self;
}
impl MaxByIndex for Option<LogId> {
    /// The one with the higher index; `self` when they are equal.
    fn max_by_index(self, other: Self) -> Self {
        if other.map(|id| id.index) > self.map(|id| id.index) { other } else { self }
    }
}

impl Record {
    /// Bytes of the whole record.
    pub fn len(&self) -> usize {
        RECORD_HEADER_BYTES
            + match self {
                Record::Entry(entry) => entry.payload.len(),
                Record::State(_) => STATE_BYTES,
                _ => 0,
            }
    }

    /// Hands the record's bytes to `put`, in order. Nothing is allocated.
    pub fn encode(&self, mut put: impl FnMut(&[u8])) {
        let zero = LogId::default();
        let flagged = |id: &Option<LogId>| (if id.is_some() { PRESENT } else { 0 }, id.unwrap_or_default());
        let state_bytes;
        let mut entry_kind = 0;
        let mut payload: &[u8] = &[];
        let (kind, (flags, id)) = match self {
            Record::Entry(entry) => {
                entry_kind = entry.kind;
                payload = &entry.payload;
                (1, (0, entry.id))
            }
            Record::Vote(vote) => (2, (u16::from(vote.committed), LogId { term: vote.term, leader: vote.node, index: 0 })),
            Record::Truncate(after) => (3, flagged(after)),
            Record::Purge(upto) => (4, (PRESENT, *upto)),
            Record::Committed(id) => (5, flagged(id)),
            Record::Seal => (6, (0, zero)),
            Record::State(state) => {
                state_bytes = state.encode();
                payload = &state_bytes;
                (7, (0, zero))
            }
        };
        let length = u32::try_from(payload.len()).expect("a payload is below ENTRY_BYTES_HARD_MAX");
        let mut header = [0; RECORD_HEADER_BYTES];
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8] = kind;
        header[9] = entry_kind;
        header[10..12].copy_from_slice(&flags.to_le_bytes());
        header[16..24].copy_from_slice(&id.term.to_le_bytes());
        header[24..32].copy_from_slice(&id.leader.to_le_bytes());
        header[32..40].copy_from_slice(&id.index.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[4..]);
        crc.update(payload);
        header[..4].copy_from_slice(&crc.finalize().to_le_bytes());
        put(&header);
        put(payload);
    }

    /// Reads the record at the start of `bytes` and says how long it is. The error is a sentence.
    pub fn decode(bytes: &[u8]) -> Result<(Record, usize), String> {
        let Some(header) = bytes.get(..RECORD_HEADER_BYTES) else {
            return Err(format!("{} bytes left where a record has at least {RECORD_HEADER_BYTES}", bytes.len()));
        };
        let length = u32_at(header, 4) as usize;
        let Some(whole) = bytes.get(..RECORD_HEADER_BYTES + length) else {
            return Err(format!("a record says {length} payload bytes, its flush has {}", bytes.len() - header.len()));
        };
        if crc32fast::hash(&whole[4..]) != u32_at(header, 0) && !planted!(ChecksumIgnored) {
            return Err("the checksum of a record is wrong".to_owned());
        }
        let payload = &whole[RECORD_HEADER_BYTES..];
        let id = LogId { term: u64_at(header, 16), leader: u64_at(header, 24), index: u64_at(header, 32) };
        if id.index == u64::MAX {
            return Err(format!("a record names log index {}, which no entry has: there is always a next one", id.index));
        }
        let present = header[10] & 1 == 1;
        let optional = present.then_some(id);
        let record = match header[8] {
            1 => Record::Entry(Entry { id, kind: header[9], payload: Bytes::copy_from_slice(payload) }),
            2 => Record::Vote(Vote { term: id.term, node: id.leader, committed: present }),
            3 => Record::Truncate(optional),
            4 => Record::Purge(id),
            5 => Record::Committed(optional),
            6 => Record::Seal,
            7 => Record::State(LogState::decode(payload)?),
            other => return Err(format!("a record is of the unknown kind {other}")),
        };
        Ok((record, whole.len()))
    }
}

impl LogState {
    fn encode(&self) -> [u8; STATE_BYTES] {
        let mut out = [0; STATE_BYTES];
        let vote = self.vote.map(|vote| LogId { term: vote.term, leader: vote.node, index: u64::from(vote.committed) });
        for (slot, id) in out.chunks_exact_mut(32).zip([vote, self.committed, self.purged, self.last]) {
            if let Some(id) = id {
                slot[0] = 1;
                slot[8..16].copy_from_slice(&id.term.to_le_bytes());
                slot[16..24].copy_from_slice(&id.leader.to_le_bytes());
                slot[24..32].copy_from_slice(&id.index.to_le_bytes());
            }
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<LogState, String> {
        if bytes.len() != STATE_BYTES {
            return Err(format!("a state record has {} payload bytes, not {STATE_BYTES}", bytes.len()));
        }
        let part = |n: usize| {
            let slot = &bytes[n * 32..(n + 1) * 32];
            (slot[0] == 1).then(|| LogId { term: u64_at(slot, 8), leader: u64_at(slot, 16), index: u64_at(slot, 24) })
        };
        let state = LogState {
            vote: part(0).map(|id| Vote { term: id.term, node: id.leader, committed: id.index == 1 }),
            committed: part(1),
            purged: part(2),
            last: part(3),
        };
        // `apply` keeps the end behind all else, what is purged up to the end is the end, and there is always a next index.
        let end = state.purged.max_by_index(state.last).max_by_index(state.committed);
        if end != state.last || end.is_some_and(|id| id.index == u64::MAX) {
            return Err(format!("a state record is not in order: {state:?}"));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId { term: 3, leader: 2, index }
    }
    fn samples() -> Vec<Record> {
        let vote = Vote { term: 4, node: 2, committed: true };
        vec![
            Record::Entry(Entry { id: id(9), kind: 200, payload: Bytes::from_static(b"payload") }),
            Record::Entry(Entry { id: id(10), kind: 0, payload: Bytes::new() }),
            Record::Vote(vote),
            Record::Vote(Vote { committed: false, ..vote }),
            Record::Truncate(None),
            Record::Truncate(Some(id(0))),
            Record::Purge(id(7)),
            Record::Committed(None),
            Record::Committed(Some(id(8))),
            Record::Seal,
            Record::State(LogState::default()),
            Record::State(LogState {
                vote: Some(vote),
                committed: Some(id(1)),
                purged: Some(id(0)),
                last: Some(id(u64::MAX - 1)),
            }),
        ]
    }
    fn bytes_of(record: &Record) -> Vec<u8> {
        let mut out = Vec::new();
        record.encode(|bytes| out.extend_from_slice(bytes));
        assert_eq!(out.len(), record.len());
        out
    }

    #[test]
    fn every_kind_comes_back() {
        for record in samples() {
            let bytes = bytes_of(&record);
            assert_eq!(Record::decode(&bytes), Ok((record, bytes.len())));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        for record in samples() {
            let bytes = bytes_of(&record);
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Record::decode(&damaged).is_err(), "{record:?} bit {bit}");
            }
            for cut in 0..bytes.len() {
                assert!(Record::decode(&bytes[..cut]).is_err(), "{record:?} cut at {cut}");
            }
        }
    }

    /// A fuzzer's: everything adds 1 to an index to name the next one.
    #[test]
    fn the_last_index_there_is_belongs_to_no_entry() {
        let last = id(u64::MAX);
        for record in [Record::Purge(last), Record::Truncate(Some(last)), Record::Committed(Some(last))] {
            let refused = Record::decode(&bytes_of(&record)).expect_err("no such entry");
            assert!(refused.starts_with("a record names log index 18446744073709551615, which no entry has"), "{refused}");
        }
    }

    /// A fuzzer's: the next purge moved the end to where the entries were not.
    #[test]
    fn a_state_whose_end_is_before_what_is_purged_or_committed_is_refused() {
        let good = LogState { committed: Some(id(6)), purged: Some(id(5)), last: Some(id(6)), ..LogState::default() };
        assert!(Record::decode(&bytes_of(&Record::State(good))).is_ok());
        for last in [Some(id(5)), Some(id(4)), None, Some(id(u64::MAX))] {
            let refused = Record::decode(&bytes_of(&Record::State(LogState { last, ..good }))).expect_err("out of order");
            assert!(refused.starts_with("a state record is not in order: LogState"), "{refused}");
        }
        // And where they meet, the end is what was purged.
        let met = LogState { purged: good.last, ..good };
        assert!(Record::decode(&bytes_of(&Record::State(met))).is_ok());
        let other = LogState { purged: good.last.map(|last| LogId { term: last.term + 1, ..last }), ..good };
        assert!(Record::decode(&bytes_of(&Record::State(other))).is_err());
    }

    #[test]
    fn committed_never_passes_the_last_entry() {
        let mut state = LogState::default();
        state.apply(&Record::Committed(Some(id(5))));
        assert_eq!(state.committed, None);
        state.last = Some(id(5));
        state.apply(&Record::Committed(Some(id(5))));
        state.apply(&Record::Truncate(Some(id(4))));
        assert_eq!((state.committed, state.last), (Some(id(4)), Some(id(4))));
        state.apply(&Record::Purge(id(9)));
        assert_eq!((state.purged, state.last), (Some(id(9)), Some(id(9))));
        state.apply(&Record::Truncate(None));
        assert_eq!(state.last, Some(id(9)), "a truncation does not undo a purge");
    }

    /// A fuzzer's: the entry was gone, and its id was still the end.
    #[test]
    fn a_purge_by_another_leaders_id_is_the_end() {
        let mut state = LogState { last: Some(id(5)), ..LogState::default() };
        let other = LogId { term: 9, ..id(5) };
        state.apply(&Record::Purge(other));
        assert_eq!((state.purged, state.last), (Some(other), Some(other)));
        state.apply(&Record::Truncate(Some(id(5))));
        assert_eq!(state.last, Some(other));
    }
}
