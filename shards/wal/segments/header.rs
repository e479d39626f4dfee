//! Block 0 of a segment: `block.rs` draws it. Pure.

use crate::io::BLOCK_BYTES;
use crate::wal::Owner;
use crate::wal::block::{FORMAT_VERSION, SEGMENT_MAGIC, u16_at, u32_at, u64_at};

/// What block 0 of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wal) struct SegmentHeader {
    pub number: u64,
    pub id: u64,
    pub owner: Owner,
    pub bytes: u64,
}

/// Why block 0 is not a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wal) enum BadHeader {
    Checksum,
    Magic,
    Version(u16),
}

impl SegmentHeader {
    /// Fills `block`, which is one block long.
    pub fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES);
        block.fill(0);
        block[4..8].copy_from_slice(&SEGMENT_MAGIC);
        block[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&self.owner.shard.to_le_bytes());
        for (at, value) in [
            (16, self.number),
            (24, self.id),
            (32, self.owner.ring),
            (40, self.owner.node),
            (48, self.owner.incarnation),
            (56, self.bytes),
        ] {
            block[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32fast::hash(&block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads block 0. A wrong version is told apart from damage, so that an old binary does not call a newer log rotten.
    pub fn decode(block: &[u8]) -> Result<SegmentHeader, BadHeader> {
        if block.len() != BLOCK_BYTES || crc32fast::hash(&block[4..]) != u32_at(block, 0) {
            return Err(BadHeader::Checksum);
        }
        if block[4..8] != SEGMENT_MAGIC {
            return Err(BadHeader::Magic);
        }
        let version = u16_at(block, 8);
        if version != FORMAT_VERSION && !planted!(VersionIgnored) {
            return Err(BadHeader::Version(version));
        }
        Ok(SegmentHeader {
            number: u64_at(block, 16),
            id: u64_at(block, 24),
            owner: Owner {
                ring: u64_at(block, 32),
                node: u64_at(block, 40),
                incarnation: u64_at(block, 48),
                shard: u32_at(block, 12),
            },
            bytes: u64_at(block, 56),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_header_comes_back_and_every_flip_is_seen() {
        let owner = Owner { ring: 1, node: 2, incarnation: 3, shard: 4 };
        let header = SegmentHeader { number: 5, id: 6, owner, bytes: 1 << 20 };
        let mut block = [0xAA; BLOCK_BYTES];
        header.encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(header));
        for bit in 0..BLOCK_BYTES * 8 {
            let mut damaged = block;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&damaged), Err(BadHeader::Checksum), "bit {bit}");
        }
    }
}
