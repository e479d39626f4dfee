//! Entries that are in memory no more: which blocks they are in, and out of them again.

use std::io;
use std::ops::Range;

use super::{READ_BYTES_MAX, Window};
use crate::io::{BLOCK_BYTES, Disk, Env, File};
use crate::wal::block::{HEADER_BYTES, PAYLOAD_BYTES};
use crate::wal::index::Place;
use crate::wal::record::Record;
use crate::wal::writer::Shared;
use crate::wal::{Entry, LogId};

/// The next entries on disk that one window covers, at least one.
pub(super) fn plan<E: Env>(
    shared: &Shared<E>,
    log: &crate::wal::log::Log<E>,
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
pub(super) async fn read_blocks<E: Env, F: File>(file: &F, blocks: Range<u32>) -> io::Result<Vec<u8>> {
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
pub(super) fn extract(raw: &[u8], first: u32, id: LogId, place: Place) -> Result<Entry, String> {
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
