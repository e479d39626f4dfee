//! Reading entries: from the cache, or from disk.
//!
//! A read from disk takes a window of blocks that lie together, checks every record's checksum, and checks after the wait that
//! the entries are still live and still there: a purge may have recycled the segment under the read, and then what came
//! back is not an error but old news.

use super::block::{HEADER_BYTES, PAYLOAD_BYTES};
use super::index::Place;
use super::record::Record;
use super::segment::Name;
use super::writer::Shared;
use super::{Entry, LogId};
use crate::io::{BLOCK_BYTES, Disk, Env, File};
use std::io;
use std::ops::Range;

/// Bytes asked from the disk at once (larger reads have wedged kernels: ENGINE_NOTES, glommio's issue 633).
pub(super) const READ_BYTES_MAX: usize = 512 << 10;

/// A run of entries whose blocks lie together in one segment.
struct Window<F> {
    file: F,
    blocks: Range<u32>,
    entries: Vec<(LogId, Place)>,
}

pub(super) async fn read<E: Env>(shared: &Shared<E>, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
    let mut out: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    let mut next = range.start;
    loop {
        // From the cache as far as it goes; then one window from disk; then again.
        let window = {
            let log = shared.log.borrow();
            let live = log.index.range();
            if out.is_empty() {
                next = next.max(live.start);
            }
            let end = range.end.min(live.end);
            while let Some(entry) = log.index.cached(next).filter(|_| next < end) {
                if !out.is_empty() && bytes + entry.payload.len() > bytes_max {
                    return Ok(out);
                }
                bytes += entry.payload.len();
                out.push(entry.clone());
                next += 1;
            }
            // A purge that overtook this read may have taken what comes next: what was read so far is the answer.
            if next >= end || next < live.start || (!out.is_empty() && bytes >= bytes_max) {
                return Ok(out);
            }
            plan(shared, &log, next..end, bytes_max.saturating_sub(bytes))?
        };
        let raw = read_blocks::<E, _>(&window.file, window.blocks.clone()).await;
        for (id, place) in &window.entries {
            let log = shared.log.borrow();
            if log.index.id_at(id.index) != Some(*id) || log.index.place(id.index) != Some(*place) {
                break;
            }
            let raw = raw.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()))?;
            let entry = extract(raw, window.blocks.start, *id, *place).map_err(|why| {
                let file = Name::Segment(place.segment).path(&shared.dir);
                let offset = u64::from(place.block.get()) * BLOCK_BYTES as u64;
                let message = format!("log {file} is corrupt in the flush at {offset}, log index {}: {why}", id.index);
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
            if !out.is_empty() && bytes + entry.payload.len() > bytes_max {
                return Ok(out);
            }
            bytes += entry.payload.len();
            out.push(entry);
            next += 1;
        }
    }
}

/// The next entries on disk that one window covers, at least one.
fn plan<E: Env>(
    shared: &Shared<E>,
    log: &super::log::Log<E>,
    wanted: Range<u64>,
    bytes_max: usize,
) -> io::Result<Window<<E::Disk as Disk>::File>> {
    let mut entries: Vec<(LogId, Place)> = Vec::new();
    let mut blocks = 0..0;
    let mut bytes = 0;
    for index in wanted {
        let (Some(id), Some(place)) = (log.index.id_at(index), log.index.place(index)) else {
            break;
        };
        let own = blocks_of(&place);
        match entries.first() {
            None => blocks = own,
            Some((_, first)) => {
                let window_bytes = (own.end.max(blocks.end) - blocks.start) as usize * BLOCK_BYTES;
                let apart = first.segment != place.segment || own.start < blocks.start;
                if apart || window_bytes > READ_BYTES_MAX || bytes > bytes_max || log.index.cached(index).is_some() {
                    break;
                }
                blocks.end = blocks.end.max(own.end);
            }
        }
        bytes += place.bytes as usize;
        entries.push((id, place));
    }
    let segment = entries.first().and_then(|(_, place)| log.segments.iter().find(|s| s.number == place.segment));
    match segment {
        Some(segment) => Ok(Window { file: segment.file.clone(), blocks, entries }),
        None => Err(io::Error::other(format!("log {}: a live entry has no segment", shared.dir))),
    }
}

/// The blocks that a record touches.
fn blocks_of(place: &Place) -> Range<u32> {
    let first = place.block.get() + place.at / PAYLOAD_BYTES as u32;
    let last = place.block.get() + (place.at + place.bytes - 1) / PAYLOAD_BYTES as u32;
    first..last + 1
}

/// Reads blocks in slices, letting others run between them.
async fn read_blocks<E: Env, F: File>(file: &F, blocks: Range<u32>) -> io::Result<Vec<u8>> {
    let (start, end) = (u64::from(blocks.start) * BLOCK_BYTES as u64, u64::from(blocks.end) * BLOCK_BYTES as u64);
    let mut offset = start;
    let mut out = Vec::new();
    while offset < end {
        let slice = (end - offset).min(READ_BYTES_MAX as u64);
        let read = file.read_at(offset, slice as usize).await?;
        if slice == end - start {
            return Ok(read);
        }
        out.extend_from_slice(&read);
        offset += slice;
        E::yield_now().await;
    }
    Ok(out)
}

/// The entry at `place`, out of blocks that begin with block `first`.
fn extract(raw: &[u8], first: u32, id: LogId, place: Place) -> Result<Entry, String> {
    let mut record = Vec::with_capacity(place.bytes as usize);
    let mut at = place.at as usize;
    let end = at + place.bytes as usize;
    while at < end {
        let within = at % PAYLOAD_BYTES;
        let block = place.block.get() as usize + at / PAYLOAD_BYTES - first as usize;
        let length = (PAYLOAD_BYTES - within).min(end - at);
        let start = block * BLOCK_BYTES + HEADER_BYTES + within;
        record.extend_from_slice(raw.get(start..start + length).ok_or("the read is shorter than the record")?);
        at += length;
    }
    match Record::decode(&record)? {
        (Record::Entry(entry), _) if entry.id == id => Ok(entry),
        (other, _) => Err(format!("expected entry {id:?}, found another record of {} bytes", other.len())),
    }
}
