//! Sizes of a log, and what they must be.

use crate::io;
use crate::wal::{ENTRY_BYTES_HARD_MAX, FLUSH_BYTES_MAX, OpenError, block, record};

/// Sizes of a log. They may change from one opening to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalConfig {
    /// Length of a segment file; a multiple of 4096, at least twice the largest flush.
    pub segment_bytes: u64,
    /// Newest entries kept in memory.
    pub cache_bytes: usize,
    /// Purged segments kept for recycling; more than these are removed.
    pub spare_segments: u32,
    /// Make spares ahead, when the log is opened, until it has `spare_segments` beside the one in use.
    pub stock_ahead: bool,
    /// Largest payload of an entry that `append` takes.
    pub entry_bytes_max: usize,
}

impl Default for WalConfig {
    /// 64 MiB segments, 32 MiB cached, 6 spares made ahead, entries up to 17 MiB (a batch of one largest value).
    fn default() -> Self {
        WalConfig {
            segment_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            spare_segments: 6,
            stock_ahead: true,
            entry_bytes_max: 17 << 20,
        }
    }
}

impl WalConfig {
    /// Bytes on disk of the largest flush: the largest record, or a full gathering, with what rides along.
    pub(in crate::wal) fn largest_flush_bytes(&self) -> u64 {
        let riders = record::STATE_RECORD_BYTES + record::RECORD_HEADER_BYTES;
        let record = self.entry_bytes_max + record::RECORD_HEADER_BYTES;
        let payload = record.max(self.gather_bytes_max()) + riders;
        (block::blocks_for(payload) * io::BLOCK_BYTES) as u64
    }

    /// Records gathered into one flush, at most. Small segments, as in tests, gather less.
    pub(in crate::wal) fn gather_bytes_max(&self) -> usize {
        FLUSH_BYTES_MAX.min(self.segment_bytes as usize / 4)
    }

    pub(in crate::wal) fn check(&self) -> std::result::Result<(), OpenError> {
        let refuse = |message: String| Err(OpenError::Config(message));
        let (bytes, least) = (self.segment_bytes, 2 * self.largest_flush_bytes() + io::BLOCK_BYTES as u64);
        if self.entry_bytes_max > ENTRY_BYTES_HARD_MAX {
            return refuse(format!(
                "entry_bytes_max is {}, the largest possible is {ENTRY_BYTES_HARD_MAX}",
                self.entry_bytes_max
            ));
        }
        if !bytes.is_multiple_of(io::BLOCK_BYTES as u64) || bytes > u64::from(u32::MAX) {
            return refuse(format!("segment_bytes is {bytes}, it must be a multiple of 4096 below 4 GiB"));
        }
        if bytes < least {
            return refuse(format!(
                "segment_bytes is {bytes}, it must be at least {least}: a segment holds two of the largest flushes \
                 (entry_bytes_max is {})",
                self.entry_bytes_max
            ));
        }
        Ok(())
    }
}
