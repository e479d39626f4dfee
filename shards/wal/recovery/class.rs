//! What a block is that is read back, seen alone: `block.rs` draws it. Pure.

use crate::io::BLOCK_BYTES;
use crate::wal::block::{BLOCK_MAGIC, HEADER_BYTES, PAYLOAD_BYTES, SEGMENT_MAGIC, u16_at, u32_at, u64_at};

/// What a whole block of this segment says about its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wal) struct BlockHeader {
    pub sequence: u64,
    pub number: u16,
    pub blocks: u16,
    pub used: u16,
}

/// What a block of a segment is, seen alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wal) enum Class {
    /// Zeros, or whole and written under another segment id: no flush of this segment has reached it.
    Unwritten,
    /// Neither: there are bytes and their checksum is wrong.
    Rotten,
    /// Whole, and written under this segment id.
    Own(BlockHeader),
}

/// Looks at one block of the segment with this id.
pub(in crate::wal) fn classify(block: &[u8], segment_id: u64) -> Class {
    if block.len() != BLOCK_BYTES {
        return Class::Rotten;
    }
    if u32_at(block, 0) == 0 && block.iter().all(|&byte| byte == 0) {
        return Class::Unwritten;
    }
    if crc32fast::hash(&block[4..]) != u32_at(block, 0) && !planted!(ChecksumIgnored) {
        return Class::Rotten;
    }
    if block[4..8] == SEGMENT_MAGIC {
        // A header that was written over another file's block: only a misdirected write puts it here.
        return Class::Rotten;
    }
    if block[4..8] != BLOCK_MAGIC {
        return Class::Rotten;
    }
    if u64_at(block, 8) != segment_id {
        return Class::Unwritten;
    }
    let header = BlockHeader {
        sequence: u64_at(block, 16),
        number: u16_at(block, 24),
        blocks: u16_at(block, 26),
        used: u16_at(block, 28),
    };
    let full = usize::from(header.used) == PAYLOAD_BYTES;
    let last = header.number.checked_add(1) == Some(header.blocks);
    let shaped =
        header.number < header.blocks && header.used > 0 && usize::from(header.used) <= PAYLOAD_BYTES && (full || last);
    if shaped { Class::Own(header) } else { Class::Rotten }
}

/// The used payload of a block that [`classify`] has called `Own`.
pub(in crate::wal) fn payload<'a>(block: &'a [u8], header: &BlockHeader) -> &'a [u8] {
    &block[HEADER_BYTES..HEADER_BYTES + usize::from(header.used)]
}
