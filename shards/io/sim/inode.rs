//! One simulated file: what programs see of it, and what a power loss would leave.
//!
//! ```text
//!   block   durable page    versions written since, oldest first
//!     0     [ A ]           [ B written ] [ C in flight ]      seen: C      after a crash: A, B or C
//!     1     zeros           -                                  seen: zeros  after a crash: zeros
//! ```
//! Only blocks that were written take memory.
//!
//! **Invariants**
//! - A block is whole: it has the bytes of one version, at any time and after any crash.
//! - What was synced stays, whatever happens to what was written after it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::random::Random;
use super::trace::Fault;
use crate::io::BLOCK_BYTES;

pub(super) type Page = Rc<[u8]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    InFlight,
    Written,
    /// A sync that should have kept it has failed: no later sync of this process makes it durable.
    Doomed,
}

#[derive(Clone, Debug)]
struct Version {
    write: u64,
    page: Page,
    standing: Standing,
}

#[derive(Clone, Debug, Default)]
struct Block {
    durable: Option<Page>,
    recent: Vec<Version>,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Inode {
    bytes: u64,
    durable_bytes: u64,
    /// Room set aside; what counts against the disk's capacity.
    pub reserved: u64,
    blocks: BTreeMap<u64, Block>,
    /// Blocks with versions that are not durable.
    dirty: BTreeSet<u64>,
}

/// What a sync that begins now would make durable.
pub(super) struct Covered {
    bytes: u64,
    blocks: Vec<(u64, u64)>,
}

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Blocks between where a misplaced block belongs and where it lands, at most.
const ASTRAY: u64 = 8;

impl Inode {
    /// No bytes, and room for `reserved`.
    pub fn with_room(reserved: u64) -> Inode {
        Inode { reserved, ..Inode::default() }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A new length; what is added reads as zeros.
    pub fn lengthen(&mut self, bytes: u64) {
        self.bytes = self.bytes.max(bytes);
        self.reserved = self.reserved.max(bytes);
    }

    pub fn begin_write(&mut self, write: u64, offset: u64, data: &[u8]) {
        for (at, page) in (offset / BLOCK..).zip(data.chunks_exact(BLOCK_BYTES)) {
            let version = Version { write, page: page.into(), standing: Standing::InFlight };
            self.blocks.entry(at).or_default().recent.push(version);
            self.dirty.insert(at);
        }
    }

    /// The write of `blocks` blocks at `offset` has returned.
    pub fn end_write(&mut self, write: u64, offset: u64, blocks: u64) {
        for at in offset / BLOCK..offset / BLOCK + blocks {
            let versions = self.blocks.get_mut(&at).into_iter().flat_map(|block| &mut block.recent);
            versions
                .filter(|v| v.write == write && v.standing == Standing::InFlight)
                .for_each(|v| v.standing = Standing::Written);
        }
    }

    /// The blocks of one write, for a write that is its own sync.
    pub fn covered_by_write(&self, write: u64, offset: u64, blocks: u64) -> Covered {
        let first = offset / BLOCK;
        Covered { bytes: self.durable_bytes, blocks: (first..first + blocks).map(|at| (at, write)).collect() }
    }

    /// All that has been written so far.
    pub fn covered(&self) -> Covered {
        let newest = |at: &u64| {
            let written = self.blocks.get(at)?.recent.iter().filter(|v| v.standing == Standing::Written);
            Some((*at, written.map(|v| v.write).max()?))
        };
        Covered { bytes: self.bytes, blocks: self.dirty.iter().filter_map(newest).collect() }
    }

    pub fn make_durable(&mut self, covered: &Covered) {
        self.durable_bytes = self.durable_bytes.max(covered.bytes);
        for (at, write) in &covered.blocks {
            self.keep(*at, *write);
        }
    }

    fn keep(&mut self, at: u64, write: u64) {
        let Some(block) = self.blocks.get_mut(&at) else { return };
        if let Some(found) = block.recent.iter().position(|v| v.write == write && v.standing == Standing::Written) {
            let mut older = block.recent.drain(..=found);
            block.durable = older.next_back().map(|version| version.page);
        }
        if block.recent.is_empty() {
            self.dirty.remove(&at);
        }
    }

    /// A sync has failed: each block that it covers is durable or will never be.
    pub fn fail(&mut self, covered: &Covered, random: &mut Random) {
        for (at, write) in &covered.blocks {
            if random.chance(500_000) {
                self.keep(*at, *write);
            } else if let Some(block) = self.blocks.get_mut(at) {
                block.recent.iter_mut().filter(|v| v.write <= *write).for_each(|v| v.standing = Standing::Doomed);
            }
        }
    }

    pub fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        for (at, part) in (offset / BLOCK..).zip(read.chunks_exact_mut(BLOCK_BYTES)) {
            if let Some(page) = self.blocks.get(&at).and_then(seen) {
                part.copy_from_slice(page);
            }
        }
        read
    }

    /// The process is gone, the host is not: what was in flight is written or not, block by block; what a failed sync left behind
    /// is still there or not, and what is there can be synced like anything else.
    pub fn settle_kill(&mut self, random: &mut Random) {
        for at in &self.dirty {
            if let Some(block) = self.blocks.get_mut(at) {
                block.recent.retain(|version| version.standing == Standing::Written || random.chance(500_000));
                block.recent.iter_mut().for_each(|version| version.standing = Standing::Written);
            }
        }
        let blocks = &self.blocks;
        self.dirty.retain(|at| blocks.get(at).is_some_and(|block| !block.recent.is_empty()));
    }

    /// The power is gone: the file is now what the medium has. `misplace_ppm`: how often an unsynced block lands a few blocks from
    /// where it belongs, on whatever is there. Tells of each fault.
    pub fn settle_power_loss(&mut self, random: &mut Random, misplace_ppm: u64, mut tell: impl FnMut(Fault)) {
        let dirty: Vec<u64> = std::mem::take(&mut self.dirty).into_iter().collect();
        // One mood for the whole file: all lost, all kept, or each block for itself.
        let mood = random.below(4);
        let (mut kept, mut lost, mut misplaced) = (0, 0, Vec::new());
        for at in dirty {
            let Some(block) = self.blocks.get_mut(&at) else { continue };
            let versions = std::mem::take(&mut block.recent);
            if misplace_ppm > 0 && random.chance(misplace_ppm) {
                let place = (at + random.below(2 * ASTRAY + 1)).saturating_sub(ASTRAY);
                misplaced.extend(versions.into_iter().last().map(|version| (place, version.page)));
                continue;
            }
            let choice = match mood {
                0 => None,
                1 => versions.len().checked_sub(1),
                // Any version may be the one that reached the medium last; so may none.
                _ => (random.below(versions.len() as u64 + 1) as usize).checked_sub(1),
            };
            match choice {
                Some(choice) => {
                    kept += 1;
                    block.durable = versions.into_iter().nth(choice).map(|version| version.page);
                }
                None => lost += 1,
            }
        }
        for (place, page) in misplaced.into_iter().filter(|(place, _)| *place < self.durable_bytes / BLOCK) {
            tell(Fault::MisplacedWrite);
            self.blocks.entry(place).or_default().durable = Some(page);
        }
        match (kept, lost) {
            (0, 0) => {}
            (_, 0) => tell(Fault::KeptWrite),
            (0, _) => tell(Fault::LostWrite),
            (_, _) => tell(Fault::TornWrite),
        }
        if self.bytes != self.durable_bytes {
            let (low, high) = (self.bytes.min(self.durable_bytes) / BLOCK, self.bytes.max(self.durable_bytes) / BLOCK);
            self.bytes = random.between((low, high)) * BLOCK;
            self.durable_bytes = self.bytes;
            let end = self.bytes / BLOCK;
            self.blocks.retain(|at, _| *at < end);
        }
        self.reserved = self.bytes;
    }

    /// Blocks that no sync covers yet.
    pub fn dirty_blocks(&self) -> usize {
        self.dirty.len()
    }

    /// A failed sync has left something behind.
    pub fn is_doomed(&self) -> bool {
        let recent = self.dirty.iter().filter_map(|at| self.blocks.get(at)).flat_map(|block| &block.recent);
        recent.into_iter().any(|version| version.standing == Standing::Doomed)
    }

    /// Blocks that hold durable bytes and nothing newer: where rot can be told from anything else.
    pub fn settled_blocks(&self) -> Vec<u64> {
        self.blocks.iter().filter(|(_, b)| b.durable.is_some() && b.recent.is_empty()).map(|(at, _)| *at).collect()
    }

    /// The block is this now, durably; false when it is beyond the end.
    pub fn put(&mut self, block: u64, bytes: &[u8]) -> bool {
        let fits = block < self.bytes / BLOCK && bytes.len() == BLOCK_BYTES;
        if fits {
            self.blocks.insert(block, Block { durable: Some(bytes.into()), recent: Vec::new() });
            self.dirty.remove(&block);
        }
        fits
    }

    /// Flips one bit of a block; false when nothing was ever written there.
    pub fn flip(&mut self, block: u64, bit: u64) -> bool {
        let Some(page) = self.blocks.get_mut(&block).and_then(|block| {
            let newest = block.recent.last_mut().map(|version| &mut version.page);
            newest.or(block.durable.as_mut())
        }) else {
            return false;
        };
        let mut bytes = page.to_vec();
        let at = (bit / 8) as usize % BLOCK_BYTES;
        bytes[at] ^= 1 << (bit % 8);
        *page = bytes.into();
        true
    }
}

fn seen(block: &Block) -> Option<&Page> {
    block.recent.last().map(|version| &version.page).or(block.durable.as_ref())
}
