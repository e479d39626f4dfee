//! What recovery changes on disk, once the whole log has been judged sound: what was cut is wiped, leftovers are removed.
//!
//! **Invariant**: if we stop anywhere in here, the next recovery finds the same log. So what proves that damage is harmless goes
//! after the damage.
//!
//! **Not here**: the judgement (`recovery.rs`), reading (`replay.rs`).

use super::WalConfig;
use super::error::OpenError;
use super::read::READ_BYTES_MAX;
use super::recovery::End;
use super::segment::{Name, Segment};
use crate::io::{BLOCK_BYTES, Disk, Env, File};
use std::collections::VecDeque;

/// Makes what was recovered durable, and what was cut gone.
pub(super) async fn settle<E: Env, F: File>(dir: &str, segments: &VecDeque<Segment<F>>, end: End) -> Result<(), OpenError> {
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
pub(super) async fn remove_leftovers<D: Disk>(
    disk: &D,
    dir: &str,
    names: &[Name],
    config: &WalConfig,
) -> Result<Vec<u64>, OpenError> {
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
