//! Segment files: their names, how one comes to be, and how it goes.
//!
//! ```text
//!   create new-N.seg (zeros) --+
//!                              +-- header with a fresh random id, durable -- rename to wal-N.seg -- sync the directory
//!   spare-M.seg (recycled,     |
//!     or made ahead) ----------+
//!
//!   wal-K.seg, purged -- rename to spare-K.seg, or remove -- sync the directory -- the next one
//! ```
//!
//! **Invariants**
//! - A `wal-*` file has a valid header, and zeros behind it, from the moment it has that name.
//! - A `new-*` file may be unfinished; it is removed when the log is opened. A `spare-*` file is always whole.
//! - Segments go one at a time, the oldest first, each durably: a crash never leaves a gap between two of them.
//!
//! If we stop between the header and the rename, the file is still a spare, and the next promotion draws another id.

use crate::io::{BLOCK_BYTES, Disk, Env, File};
use crate::wal::Owner;
use crate::wal::segments::header::SegmentHeader;
use std::io;

/// An open segment.
#[derive(Clone, Debug)]
pub(in crate::wal) struct Segment<F> {
    pub number: u64,
    pub id: u64,
    pub file: F,
    /// Where its block 1 is in the stream of all flushed bytes since the log was opened.
    pub base_bytes: u64,
    /// Index of the log's last entry when the segment was left for the next one.
    pub last_index: Option<u64>,
}

impl<F: File> Segment<F> {
    /// Blocks of the file, the header included.
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.file.len() / BLOCK_BYTES as u64).unwrap_or(u32::MAX)
    }
}

/// What a file in the log's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wal) enum Name {
    Segment(u64),
    Spare(u64),
    Unfinished(u64),
}

impl Name {
    /// `None`: not ours.
    pub fn parse(name: &str) -> Option<Name> {
        let (kind, rest) = name.split_once('-')?;
        let digits = rest.strip_suffix(".seg")?;
        let number = u64::from_str_radix(digits, 16).ok()?;
        let parsed = match kind {
            "wal" => Name::Segment(number),
            "spare" => Name::Spare(number),
            "new" => Name::Unfinished(number),
            _ => return None,
        };
        // Only the one spelling, so that no two names mean the same segment.
        (parsed.to_string() == name).then_some(parsed)
    }

    pub fn path(self, dir: &str) -> String {
        format!("{dir}/{self}")
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Segment(number) => write!(f, "wal-{number:016x}.seg"),
            Name::Spare(number) => write!(f, "spare-{number:016x}.seg"),
            Name::Unfinished(number) => write!(f, "new-{number:016x}.seg"),
        }
    }
}

/// Makes segment `number`, from a spare if one fits. A spare that does not fit is removed.
pub(in crate::wal) async fn prepare<E: Env>(
    disk: &E::Disk,
    dir: &str,
    owner: Owner,
    number: u64,
    bytes: u64,
    spares: &mut Vec<u64>,
) -> io::Result<Segment<<E::Disk as Disk>::File>> {
    let (from, file) = loop {
        let Some(spare) = spares.last().map(|&spare| Name::Spare(spare).path(dir)) else {
            let path = Name::Unfinished(number).path(dir);
            break match disk.create(&path, bytes).await {
                Ok(file) => (path, file),
                Err(error) => {
                    // What an earlier attempt may have left would be in the way of the next.
                    let _ = disk.remove(&path).await;
                    return Err(error);
                }
            };
        };
        let opened = disk.open(&spare).await;
        spares.pop();
        match opened {
            Ok(file) if file.len() == bytes => break (spare, file),
            // It was removed when it was freed first, and to be kept when that was tried again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => disk.remove(&spare).await?,
        }
    };
    // 0 is never drawn, so that a zeroed id cannot pass for one.
    let id = E::random().max(1);
    // Block 1 as well: damage that a spare had there would pass for a first flush that was acknowledged.
    let mut blocks = file.buffer(2 * BLOCK_BYTES);
    blocks.fill(0);
    SegmentHeader { number, id, owner, bytes }.encode(&mut blocks[..BLOCK_BYTES]);
    file.write_durable_at(0, blocks).await?;
    disk.rename(&from, &Name::Segment(number).path(dir)).await?;
    if planted!(SegmentNameNotSynced) {
        return Ok(Segment { number, id, file, base_bytes: 0, last_index: None });
    }
    disk.sync_dir(dir).await?;
    Ok(Segment { number, id, file, base_bytes: 0, last_index: None })
}

/// The first number of the spares that never were segments.
pub(in crate::wal) const FIRST_STOCKED: u64 = 1 << 63;

/// Makes a spare.
pub(in crate::wal) async fn stock<D: Disk>(disk: &D, dir: &str, number: u64, bytes: u64) -> io::Result<()> {
    let path = Name::Unfinished(number).path(dir);
    if let Err(error) = disk.create(&path, bytes).await {
        let _ = disk.remove(&path).await;
        return Err(error);
    }
    disk.rename(&path, &Name::Spare(number).path(dir)).await?;
    disk.sync_dir(dir).await
}

/// Frees a purged segment: makes it a spare, or removes it. To be tried again until it has succeeded: what an attempt did before the
/// directory could not be synced is done.
pub(in crate::wal) async fn free<D: Disk>(disk: &D, dir: &str, number: u64, keep: bool) -> io::Result<()> {
    let path = Name::Segment(number).path(dir);
    let gone = if keep { disk.rename(&path, &Name::Spare(number).path(dir)).await } else { disk.remove(&path).await };
    gone.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    disk.sync_dir(dir).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        for name in [Name::Segment(0x1f), Name::Spare(u64::MAX), Name::Unfinished(0)] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        for name in ["wal-1f.seg", "wal-000000000000001F.seg", "wal-+00000000000001f.seg", "wal-.seg", "lock", "spare-"] {
            assert_eq!(Name::parse(name), None, "{name}");
        }
    }
}
