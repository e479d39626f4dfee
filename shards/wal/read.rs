//! Reading entries: from the cache, or from disk.
//!
//! A read from disk takes a window of blocks that lie together, checks every record's checksum, and checks after the wait that
//! the entries are still live and still there: a purge may have recycled the segment under the read, and then what came
//! back is not an error but old news.

mod disk;

use disk::{extract, plan, read_blocks};

use super::index::Place;
use super::segment::Name;
use super::writer::Shared;
use super::{Entry, LogId};
use crate::io::{BLOCK_BYTES, Env};
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
