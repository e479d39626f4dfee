//! Opening a log: reads the segments, lets `recovery.rs` judge them, and rebuilds state and index.
//!
//! Order: names, headers and owner, blocks and records in one pass; only when the whole log has been judged sound is anything
//! changed: a cut flush is wiped, leftovers of unfinished work are removed.
//!
//! **Traps**
//! - A flush that is complete here may never have been synced (the process died between the write and the disk's answer).
//!   From now on the shard builds on it, so it is synced before `open` returns; likewise the names of the segments.
//! - A damaged block that only a cut flush behind it excuses is wiped before that flush: else the next opening would refuse it.
//! - A cut flush is wiped durably before anything is written: the next flush has the same sequence and place, and some of its
//!   blocks, with some left from the cut one, must never make a whole. A crash during the wipe leaves it torn: the wipe
//!   only takes blocks away.
//! - A purge that covers the oldest entries must be found behind them: if the first segment says that entries before it
//!   exist and nothing purges them, older segments are missing.

use super::OpenError;
use super::block::FORMAT_VERSION;
use super::index::{Index, Place};
use super::read::READ_BYTES_MAX;
use super::record::{LogState, Record};
use super::recovery::{Chain, End, Flush, Spot, Walk, Walked, Why};
use super::segment::{self, Name, Segment};
use super::segments::header::{BadHeader, SegmentHeader};
use super::{LogId, Owner, WalConfig};
use crate::io::{BLOCK_BYTES, Disk, Env, File};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::num::NonZeroU32;

/// What a log is when it has been opened.
pub(super) struct Recovered<F> {
    pub state: LogState,
    pub index: Index,
    pub segments: VecDeque<Segment<F>>,
    pub next: Option<Segment<F>>,
    pub spares: Vec<u64>,
    pub block: u32,
    pub sequence: u64,
    pub end_bytes: u64,
}

pub(super) async fn recover<E: Env>(
    disk: &E::Disk,
    dir: &str,
    owner: Owner,
    config: &WalConfig,
) -> Result<Recovered<<E::Disk as Disk>::File>, OpenError> {
    disk.create_dir(dir).await.map_err(OpenError::io(dir))?;
    let names: Vec<Name> =
        disk.list(dir).await.map_err(OpenError::io(dir))?.iter().filter_map(|name| Name::parse(name)).collect();
    let mut numbers: Vec<u64> =
        names.iter().filter_map(|name| if let Name::Segment(number) = name { Some(*number) } else { None }).collect();
    numbers.sort_unstable();

    let mut replay = Replay {
        dir,
        state: LogState::default(),
        index: Index::default(),
        missing_below: None,
        next_indexes: Vec::new(),
        cache_bytes: config.cache_bytes,
    };
    let mut segments = VecDeque::new();
    let mut chain = Chain::default();
    let mut expected = (numbers.first() == Some(&1)).then_some(1);
    let mut end_bytes = 0;
    for &number in &numbers {
        let mut segment = open_segment::<E>(disk, dir, owner, number, &segments, &replay).await?;
        segment.base_bytes = end_bytes;
        let walked = replay.segment::<E, _>(&segment, expected).await?;
        segment.last_index = replay.state.last.map(|id| id.index);
        segments.push_back(segment);
        replay.next_indexes.push(replay.next_index());
        chain.push(walked).map_err(|at| replay.corrupt_at(&segments, at))?;
        expected = Some(walked.expected);
        end_bytes += u64::from(walked.block - 1) * BLOCK_BYTES as u64;
    }
    let end = chain.finish().map_err(|at| replay.corrupt_at(&segments, at))?;
    replay.nothing_missing(&segments)?;

    let least = config.largest_flush_bytes() + BLOCK_BYTES as u64;
    let current = segments.get(end.spot.segment).filter(|_| end.spot.block == 1);
    if let Some(length) = current.map(|current| current.file.len()).filter(|length| *length < least) {
        let message = format!("the log's unused segment has {length} bytes, less than one flush: keep segment_bytes as it was");
        return Err(OpenError::Config(message));
    }

    // The log is sound. From here on the directory is put in order.
    let mut spares = tidy(disk, dir, &names, config).await?;
    let mut next = None;
    if segments.is_empty() {
        let made = segment::prepare::<E>(disk, dir, owner, 1, config.segment_bytes, &mut spares).await;
        segments.push_back(made.map_err(OpenError::io(dir))?);
    } else {
        if end.next_prepared {
            next = segments.pop_back();
        }
        settle::<E, _>(dir, &segments, end).await?;
    }
    // The chores make the next one; one of another length would not hold what `config` allows.
    if let Some(odd) = next.take_if(|next| next.file.len() != config.segment_bytes) {
        let path = Name::Segment(odd.number).path(dir);
        disk.remove(&path).await.map_err(OpenError::io(path))?;
    }
    disk.sync_dir(dir).await.map_err(OpenError::io(dir))?;
    let Replay { state, index, .. } = replay;
    let sequence = expected.unwrap_or(1);
    Ok(Recovered { state, index, segments, next, spares, block: end.spot.block, sequence, end_bytes })
}

/// Opens one segment and checks its header.
async fn open_segment<E: Env>(
    disk: &E::Disk,
    dir: &str,
    owner: Owner,
    number: u64,
    before: &VecDeque<Segment<<E::Disk as Disk>::File>>,
    replay: &Replay<'_>,
) -> Result<Segment<<E::Disk as Disk>::File>, OpenError> {
    let path = Name::Segment(number).path(dir);
    if let Some(missing) = before.back().map(|before| before.number + 1).filter(|&missing| missing != number) {
        let why = format!("the segment is missing, the one after it is {}", Name::Segment(number));
        return Err(replay.corrupt(missing, 0, why));
    }
    let file = match disk.open(&path).await {
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            return Err(replay.corrupt(number, 0, error.to_string()));
        }
        opened => opened.map_err(OpenError::io(path.as_str()))?,
    };
    if file.len() < 2 * BLOCK_BYTES as u64 {
        return Err(replay.corrupt(number, 0, format!("the file has only {} bytes", file.len())));
    }
    let block = file.read_at(0, BLOCK_BYTES).await.map_err(OpenError::io(path.as_str()))?;
    let header = match SegmentHeader::decode(&block) {
        Ok(header) => header,
        Err(BadHeader::Version(found)) => {
            return Err(OpenError::Version { file: path, found, supported: FORMAT_VERSION });
        }
        Err(BadHeader::Checksum) => {
            return Err(replay.corrupt(number, 0, "the checksum of the segment header is wrong".to_owned()));
        }
        Err(BadHeader::Magic) => {
            return Err(replay.corrupt(number, 0, "block 0 is not a segment header".to_owned()));
        }
    };
    if header.owner != owner {
        return Err(OpenError::WrongOwner { file: path, found: header.owner, expected: owner });
    }
    // The first segment is 1, with flush 1 in it.
    if number == 0 || number >= segment::FIRST_STOCKED {
        let why =
            format!("segment {number:#x}: they begin with 1, and from {:#x} on are those of spares", segment::FIRST_STOCKED);
        return Err(replay.corrupt(number, 0, why));
    }
    if header.number != number {
        let why = format!("its header says segment {:#x}: the file was renamed or copied", header.number);
        return Err(replay.corrupt(number, 0, why));
    }
    if header.bytes != file.len() {
        let why = format!("the file has {} bytes, its header says {}", file.len(), header.bytes);
        return Err(replay.corrupt(number, 0, why));
    }
    Ok(Segment { number, id: header.id, file, base_bytes: 0, last_index: None })
}

/// Makes what was recovered durable, and what was cut gone.
async fn settle<E: Env, F: File>(dir: &str, segments: &VecDeque<Segment<F>>, end: End) -> Result<(), OpenError> {
    // In this order: without the torn flush, the unused block before it could not be told from an acknowledged one.
    let torn_blocks = if planted!(TornFlushNotWiped) { 0 } else { end.torn_blocks };
    for (spot, blocks) in end.unused.map(|unused| (unused, 1)).into_iter().chain([(end.spot, torn_blocks)]) {
        let Some(segment) = segments.get(spot.segment) else { continue };
        let failed = |error| OpenError::Io { file: Name::Segment(segment.number).path(dir), error };
        let (mut block, stop) = (spot.block, spot.block + blocks);
        while block < stop {
            let count = (stop - block).min((READ_BYTES_MAX / BLOCK_BYTES) as u32);
            let mut zeros = segment.file.buffer(count as usize * BLOCK_BYTES);
            zeros.fill(0);
            let offset = u64::from(block) * BLOCK_BYTES as u64;
            segment.file.write_durable_at(offset, zeros).await.map_err(failed)?;
            block += count;
            E::yield_now().await;
        }
        segment.file.sync().await.map_err(failed)?;
    }
    Ok(())
}

/// Removes unfinished files and more spares than wanted. Returns the spares.
async fn tidy<D: Disk>(disk: &D, dir: &str, names: &[Name], config: &WalConfig) -> Result<Vec<u64>, OpenError> {
    // Without any segment this is a new log, whose numbers begin anew: no spare may have the name of one to come.
    let new = !names.iter().any(|name| matches!(name, Name::Segment(_)));
    let mut spares = Vec::new();
    for name in names {
        match name {
            Name::Segment(_) => {}
            Name::Spare(number) if !new && spares.len() < config.spare_segments as usize => spares.push(*number),
            Name::Spare(_) | Name::Unfinished(_) => {
                let path = name.path(dir);
                disk.remove(&path).await.map_err(OpenError::io(path))?;
            }
        }
    }
    Ok(spares)
}

/// What has been replayed so far.
struct Replay<'a> {
    dir: &'a str,
    state: LogState,
    index: Index,
    /// Entries below this index were in segments older than the first.
    missing_below: Option<u64>,
    /// The log index expected at the end of each segment.
    next_indexes: Vec<u64>,
    cache_bytes: usize,
}

impl Replay<'_> {
    /// Reads a segment in slices and replays its flushes.
    async fn segment<E: Env, F: File>(&mut self, segment: &Segment<F>, expected: Option<u64>) -> Result<Walked, OpenError> {
        let mut walk = Walk::new(segment.id, expected);
        let first = expected.is_none();
        let mut offset = BLOCK_BYTES as u64;
        while offset < segment.file.len() {
            let slice = (segment.file.len() - offset).min(READ_BYTES_MAX as u64);
            let read = segment.file.read_at(offset, slice as usize).await;
            let place = || format!("{} at offset {offset}", Name::Segment(segment.number).path(self.dir));
            let blocks = read.map_err(|error| OpenError::Io { file: place(), error })?;
            for block in blocks.chunks_exact(BLOCK_BYTES) {
                if let Some(flush) = walk.push(block) {
                    self.flush(segment.number, flush, walk.payload(), first)?;
                }
            }
            offset += slice;
            E::yield_now().await;
        }
        Ok(walk.finish())
    }

    /// Replays the records of one whole flush.
    fn flush(&mut self, segment: u64, flush: Flush, payload: &[u8], oldest: bool) -> Result<(), OpenError> {
        let offset = u64::from(flush.block) * BLOCK_BYTES as u64;
        let mut at = 0;
        while at < payload.len() {
            let (record, length) = Record::decode(&payload[at..]).map_err(|why| self.corrupt(segment, offset, why))?;
            let opens = flush.block == 1 && at == 0;
            if opens != matches!(record, Record::State(_)) {
                let why = "a state record stands first in a segment, and nowhere else".to_owned();
                return Err(self.corrupt(segment, offset, why));
            }
            let place = NonZeroU32::new(flush.block).map(|block| Place { segment, block, at: at as u32, bytes: length as u32 });
            self.record(&record, place, oldest).map_err(|why| self.corrupt(segment, offset, why))?;
            at += length;
        }
        Ok(())
    }

    fn record(&mut self, record: &Record, place: Option<Place>, oldest: bool) -> Result<(), String> {
        match record {
            Record::Entry(entry) => {
                if let Some(last) = self.state.last.filter(|last| last.index.checked_add(1) != Some(entry.id.index)) {
                    return Err(format!("entry {} does not follow entry {}", entry.id.index, last.index));
                }
                self.index.push(entry.clone(), place);
                self.index.evict(self.cache_bytes);
            }
            Record::Truncate(after) => {
                let from = after.map_or(0, |id| id.index + 1);
                let held = after.and_then(|id| self.index.id_at(id.index));
                let of_older = |id: &LogId| {
                    self.missing_below > Some(id.index) || self.state.purged.is_some_and(|purged| purged.index >= id.index)
                };
                let known = match held {
                    Some(_) => held == *after,
                    None => after.as_ref().is_none_or(of_older),
                };
                if after.map(|id| id.index) > self.state.last.map(|id| id.index) || !known {
                    return Err(format!("a truncation names entry {after:?}, the log has {held:?}"));
                }
                self.index.truncate_from(from);
                self.missing_below = self.missing_below.map(|below| below.min(from));
            }
            Record::Purge(upto) => self.index.purge(upto.index),
            Record::State(state) if oldest => {
                self.missing_below = state.last.map(|last| last.index + 1);
            }
            Record::State(state) if *state != self.state => {
                return Err(format!("the segment begins with {state:?}, the one before ended with {:?}", self.state));
            }
            Record::State(_) | Record::Vote(_) | Record::Committed(_) | Record::Seal => {}
        }
        self.state.apply(record);
        Ok(())
    }

    /// Everything between the last purged entry and the first one held must not exist.
    fn nothing_missing<F>(&self, segments: &VecDeque<Segment<F>>) -> Result<(), OpenError> {
        let held_from = self.state.purged.map_or(0, |id| id.index + 1);
        match (self.missing_below, segments.front()) {
            (Some(below), Some(first)) if below > held_from => {
                let why = format!(
                    "entries {held_from} to {} are not purged and in no segment: those before {} are missing",
                    below - 1,
                    Name::Segment(first.number)
                );
                Err(OpenError::Corrupt {
                    file: Name::Segment(first.number.saturating_sub(1)).path(self.dir),
                    offset: 0,
                    index: held_from,
                    why,
                })
            }
            _ => Ok(()),
        }
    }

    fn next_index(&self) -> u64 {
        self.state.last.map_or(0, |last| last.index + 1)
    }

    fn corrupt(&self, segment: u64, offset: u64, why: String) -> OpenError {
        let index = self.next_index();
        OpenError::Corrupt { file: Name::Segment(segment).path(self.dir), offset, index, why }
    }

    fn corrupt_at<F>(&self, segments: &VecDeque<Segment<F>>, (spot, why): (Spot, Why)) -> OpenError {
        OpenError::Corrupt {
            file: Name::Segment(segments.get(spot.segment).map_or(0, |segment| segment.number)).path(self.dir),
            offset: u64::from(spot.block) * BLOCK_BYTES as u64,
            index: self.next_indexes.get(spot.segment).copied().unwrap_or(0),
            why: why.to_string(),
        }
    }
}
