//! Blocks: the bytes of a segment's header and of the 4 KiB blocks that a flush is made of. Pure.
//!
//! ```text
//! block 0 of a segment: its header          every other block
//! +0   crc32 of +4..4096       u32          +0   crc32 of +4..4096            u32
//! +4   magic "RBWS"            u32          +4   magic "RBB" and version 1    u32
//! +8   format version, 1       u16          +8   segment id                   u64
//! +10  0                       u16          +16  flush sequence               u64
//! +12  shard                   u32          +24  number of the block in it    u16
//! +16  segment number          u64          +26  blocks in the flush          u16
//! +24  segment id (random)     u64          +28  payload bytes used here      u16
//! +32  ring                    u64          +30  0                            u16
//! +40  node                    u64          +32  payload, then zeros       4064 B
//! +48  incarnation             u64
//! +56  length of the file      u64
//! +64  zeros                4032 B
//! ```
//! All integers are little-endian.
//!
//! **Invariants**
//! - The CRC covers everything of a block but itself, so that a block is either whole or it is not.
//! - A block names the segment id that it was written under. The id is drawn anew each time a file becomes a segment, so
//!   what a recycled file still holds can never pass for something written since.
//! - All blocks of a flush but the last are full.
//!
//! **Not here**: what is read back (`recovery/class.rs`, `segments/header.rs`), what damage means (`recovery.rs`), what the payload says
//! (`record.rs`).

use crate::io::BLOCK_BYTES;

/// Bytes of a block's own header.
pub(super) const HEADER_BYTES: usize = 32;
/// Bytes of a block that records can use.
pub(super) const PAYLOAD_BYTES: usize = BLOCK_BYTES - HEADER_BYTES;
/// The version of the whole on-disk format of the log.
pub(super) const FORMAT_VERSION: u16 = 1;

pub(super) const SEGMENT_MAGIC: [u8; 4] = *b"RBWS";
pub(super) const BLOCK_MAGIC: [u8; 4] = [b'R', b'B', b'B', 1];

// A block's `used` is 16 bits wide.
const _: () = assert!(PAYLOAD_BYTES <= u16::MAX as usize);

/// Little-endian integer at `at`. The caller's slice is one of the fixed structures of this format, long enough by type.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}
/// See [`u64_at`].
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}
/// See [`u64_at`].
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

/// How many blocks a flush of `payload_bytes` takes.
pub(super) fn blocks_for(payload_bytes: usize) -> usize {
    payload_bytes.div_ceil(PAYLOAD_BYTES)
}

/// Fills the blocks of one flush: payload bytes are put one after the other, `finish` adds the headers.
pub(super) struct FlushWriter<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl<'a> FlushWriter<'a> {
    /// `buffer` is as many whole blocks as the payload to come needs.
    pub fn new(buffer: &'a mut [u8]) -> FlushWriter<'a> {
        assert!(buffer.len().is_multiple_of(BLOCK_BYTES) && !buffer.is_empty());
        FlushWriter { buffer, at: 0 }
    }

    /// Payload bytes put so far.
    pub fn len(&self) -> usize {
        self.at
    }

    /// Copies `bytes` behind what is there, stepping over block headers.
    pub fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (block, within) = (self.at / PAYLOAD_BYTES, self.at % PAYLOAD_BYTES);
            let start = block * BLOCK_BYTES + HEADER_BYTES + within;
            let (now, rest) = bytes.split_at(bytes.len().min(PAYLOAD_BYTES - within));
            self.buffer[start..start + now.len()].copy_from_slice(now);
            self.at += now.len();
            bytes = rest;
        }
    }

    /// Zeroes the rest of the last block (the buffer's memory is not ours to publish) and seals every block.
    pub fn finish(self, segment_id: u64, sequence: u64) {
        let blocks = self.buffer.len() / BLOCK_BYTES;
        assert_eq!(blocks_for(self.at), blocks, "the buffer fits the payload exactly");
        let count = u16::try_from(blocks).expect("a flush has fewer than 65,536 blocks: LARGEST_FLUSH_BYTES");
        for (number, block) in self.buffer.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            let used = (self.at - number * PAYLOAD_BYTES).min(PAYLOAD_BYTES);
            block[HEADER_BYTES + used..].fill(0);
            block[4..8].copy_from_slice(&BLOCK_MAGIC);
            block[8..16].copy_from_slice(&segment_id.to_le_bytes());
            block[16..24].copy_from_slice(&sequence.to_le_bytes());
            block[24..26].copy_from_slice(&(number as u16).to_le_bytes());
            block[26..28].copy_from_slice(&count.to_le_bytes());
            block[28..30].copy_from_slice(&(used as u16).to_le_bytes());
            block[30..32].copy_from_slice(&[0, 0]);
            let crc = crc32fast::hash(&block[4..]);
            block[..4].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::recovery::class::{Class, classify, payload};

    fn flush_of(payload: &[u8], id: u64, sequence: u64) -> Vec<u8> {
        let mut buffer = vec![0xAA; blocks_for(payload.len()) * BLOCK_BYTES];
        let mut writer = FlushWriter::new(&mut buffer);
        for piece in payload.chunks(1000) {
            writer.put(piece);
        }
        writer.finish(id, sequence);
        buffer
    }

    #[test]
    fn payload_comes_back_from_its_blocks() {
        for length in [1, 4063, 4064, 4065, 8128, 20_000] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut back = Vec::new();
            for (number, block) in flush_of(&bytes, 7, 9).chunks(BLOCK_BYTES).enumerate() {
                let Class::Own(header) = classify(block, 7) else { panic!("block {number} of {length} B") };
                assert_eq!((header.sequence, header.number as usize), (9, number));
                back.extend_from_slice(payload(block, &header));
            }
            assert_eq!(back, bytes);
            let padding = &flush_of(&bytes, 7, 9)[(length - 1) / PAYLOAD_BYTES * BLOCK_BYTES..]
                [HEADER_BYTES + (length - 1) % PAYLOAD_BYTES + 1..];
            assert!(padding.iter().all(|&byte| byte == 0), "what was in the buffer before");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_block_is_seen() {
        let block = flush_of(b"some payload", 7, 9);
        for bit in 0..BLOCK_BYTES * 8 {
            let mut damaged = block.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(classify(&damaged, 7), Class::Rotten, "bit {bit}");
        }
    }

    #[test]
    fn zeros_and_other_segments_are_unwritten() {
        assert_eq!(classify(&[0; BLOCK_BYTES], 7), Class::Unwritten);
        assert_eq!(classify(&flush_of(b"x", 8, 9), 7), Class::Unwritten);
        let mut almost = [0; BLOCK_BYTES];
        almost[4095] = 1;
        assert_eq!(classify(&almost, 7), Class::Rotten);
    }
}
