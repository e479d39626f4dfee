//! Room: what still fits into the segments that are there, and for whom it is kept.
//!
//! ```text
//!   | written | pending, claimed | free: new claims | reserve: votes, truncations, purges, raft's own entries |
//!   block 1                                                                              end of the last segment
//! ```
//!
//! **Invariants**
//! - An entry of a client's comes with a [`Claim`], and a claim is given only for room that exists: in the next segment when it
//!   is prepared, else in the current one. So whatever has been taken can be flushed, also if the disk never gives a byte again,
//!   and no vote ever waits behind something that waits for space. The order of the records is the order of the calls, full
//!   disk or not: raft needs it (a vote after an append says that the append was durable), and so does recovery.
//! - Claims leave [`RESERVE_BLOCKS`] free. What raft writes for itself needs no claim and finds them.
//! - When elections have used up the reserve as well, records wait for space, in order: late, never lost.

use super::block::PAYLOAD_BYTES;
use super::log::Log;
use super::record::RECORD_HEADER_BYTES;
use super::segment::Segment;
use super::{Full, WalConfig};
use crate::io::{BLOCK_BYTES, Env};
use std::cell::Cell;
use std::rc::Rc;

/// Blocks kept for what raft writes for itself: an election costs a node at most four (its vote, the winner's, a truncation, the
/// blank entry), each in a flush of its own, so this is 64 elections on a disk that stays full. Pre-vote keeps elections that
/// nobody can win from happening. Small segments, as in tests, keep an eighth.
const RESERVE_BLOCKS: u64 = 256;

/// Room for one append, kept until it is dropped: when the log has the append, which is pending then, or it will never come. Not
/// longer: what a deposed leader has proposed gets its answer only after the next leader's entries, which need that room.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    blocks: u64,
    claimed: Rc<Cell<u64>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claimed.set(self.claimed.get() - self.blocks);
    }
}

/// Why there is no claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The next segment is being made: soon there is.
    Soon,
    /// It cannot be made.
    Full(Full),
}

impl WalConfig {
    fn segment_blocks(&self) -> u64 {
        self.segment_bytes / BLOCK_BYTES as u64
    }

    fn reserve_blocks(&self) -> u64 {
        RESERVE_BLOCKS.min(self.segment_blocks() / 8)
    }

    /// What claims may take of an unused segment: not its header, not the reserve, not what its first record, the state, takes.
    fn claimable_blocks(&self) -> u64 {
        self.segment_blocks() - self.reserve_blocks() - 2
    }

    /// Blocks that records of `bytes`, appended together, take at most. A flush rounds up to whole blocks and may carry a commit
    /// position; of two flushes that were divided for their size, the records fill more than one gathering.
    fn blocks_at_most(&self, bytes: u64) -> u64 {
        let flushes = 1 + (2 * bytes).div_ceil(self.gather_bytes_max() as u64);
        bytes.div_ceil(PAYLOAD_BYTES as u64) + 2 * flushes
    }
}

impl<E: Env> Log<E> {
    /// Blocks that can still be claimed.
    fn free_blocks(&self, config: &WalConfig) -> u64 {
        let room = match &self.next {
            // What is pending may be flushed to either segment: only one of them is counted.
            Some(next) => u64::from(next.blocks()) - 1,
            None => u64::from(self.segments.back().map_or(0, Segment::blocks).saturating_sub(self.block + self.writing)),
        };
        let pending = if self.pending_bytes == 0 { 0 } else { config.blocks_at_most(self.pending_bytes) };
        room.saturating_sub(1 + config.reserve_blocks() + pending + self.claimed.get())
    }

    pub fn claim(&self, config: &WalConfig, entries: usize, payload_bytes: usize) -> Result<Claim, NoRoom> {
        let bytes = (entries * RECORD_HEADER_BYTES + payload_bytes) as u64;
        // More than a segment holds comes only from a leader with larger segments: it gets all that one has.
        let blocks = config.blocks_at_most(bytes).min(config.claimable_blocks());
        if self.free_blocks(config) >= blocks {
            self.claimed.set(self.claimed.get() + blocks);
            return Ok(Claim { blocks, claimed: self.claimed.clone() });
        }
        match (&self.next, &self.full) {
            (None, Some(full)) => Err(NoRoom::Full(full.clone())),
            _ => Err(NoRoom::Soon),
        }
    }

    pub fn has_room(&self, config: &WalConfig) -> Result<(), Full> {
        match (&self.next, &self.full) {
            (None, Some(full)) if self.free_blocks(config) < config.blocks_at_most(config.largest_flush_bytes()) => {
                Err(full.clone())
            }
            _ => Ok(()),
        }
    }
}
