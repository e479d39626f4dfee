//! Recovery as a truth table: where the log ends, and whether something before that end is missing. Pure.
//!
//! Segments are read in order. Flush *s* is expected next, at block *p* of segment *N*. As long as all its blocks are there it
//! is accepted, and *s+1* is expected behind it. What is left of the segment from *p* on is then judged:
//!
//! | blocks of this segment id from *p* on | blocks of flush *s* | verdict of the segment |
//! |---|---|---|
//! | one of a flush after *s* | any | **corrupt**: flush *s* was durable before that one was written (hole) |
//! | one of a flush before *s*, or of *s* in a wrong place | any | **corrupt**: something wrote where it should not have |
//! | of *s* only | at least one unwritten | **torn**: *s* was never acknowledged; it is cut, its blocks are wiped |
//! | of *s* only | none unwritten, one or more rotten | **corrupt**: *s* may have been acknowledged |
//! | none | *p* unwritten, or *p* is the segment's end | **clean** |
//! | none | *p* rotten | **suspect**: depends on the segments behind |
//!
//! and the segments together:
//!
//! | segment *N* | segments behind *N* | verdict of the log |
//! |---|---|---|
//! | clean | nothing, or one without a flush (the prepared next one) | ends at *p* |
//! | clean | *N+1* begins with *s* | goes on in *N+1* |
//! | torn | nothing, or one without a flush | ends at *p* |
//! | torn | any flush | **corrupt** (hole) |
//! | suspect | *N+1* begins with *s*, whole or torn | harmless: *p* was never used. Goes on in *N+1*; if *s* is torn, *p* is wiped first |
//! | suspect | no flush | **corrupt**: *p* may be an acknowledged flush of one block |
//! | any | a flush other than *s* first | **corrupt** (hole) |
//! | ends before its first flush | any segment | **corrupt**: a segment is only made after the first flush of the one before |
//! | any | two segments without a flush | **corrupt**, likewise |
//!
//! *Unwritten* and *rotten* are told apart by `block::classify`. That an unwritten block proves a flush unacknowledged rests on
//! the disk not losing what it called durable; that a rotten block is not a torn one rests on 4 KiB blocks not being torn
//! within themselves. Where the second does not hold, recovery refuses once in a while what it could have cut; it never
//! cuts what was acknowledged. A flush with both kinds of damage is cut: the unwritten block alone is the proof.
//!
//! A *seal* has no row: the next process's first flush may be torn behind it like any other.
//!
//! **Not here**: reading files (`replay.rs`), what records say (`record.rs`).

pub(super) mod class;
pub(super) mod error;

use class::{BlockHeader, Class, classify, payload};

use super::block::PAYLOAD_BYTES;
use std::fmt;

/// What is wrong with the log at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Flush `expected` is damaged or missing, and `found` was written after it.
    Hole { expected: u64, found: u64 },
    /// A block of flush `found` stands where flush `expected` should be.
    Misplaced { expected: u64, found: u64 },
    /// The flush is all there, with damaged blocks.
    Rot { expected: u64 },
    /// The segment has no whole first flush, though only such a segment can be in this place.
    FirstFlush,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Hole { expected, found } => {
                write!(f, "flush {expected} is damaged or missing, but flush {found} was written after it")
            }
            Why::Misplaced { expected, found } => {
                write!(f, "a block of flush {found} stands where flush {expected} should be")
            }
            Why::Rot { expected } => {
                write!(f, "flush {expected} is damaged and may have been acknowledged (wrong checksum, and not unwritten)")
            }
            Why::FirstFlush => write!(f, "the first flush of the segment is damaged or missing"),
        }
    }
}

/// How a segment ends; see the first table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    Clean,
    /// These many blocks belong to a flush that was never acknowledged.
    Torn {
        blocks: u32,
    },
    Suspect,
    Corrupt {
        /// Blocks behind the expected place.
        block: u32,
        why: Why,
    },
}

/// The first table: `rest` are the blocks from the expected place of flush `expected` to the end of the segment.
pub(super) fn judge(rest: &[Class], expected: u64) -> Tail {
    let own = || {
        rest.iter().enumerate().filter_map(|(at, class)| match class {
            Class::Own(header) => Some((at, header)),
            _ => None,
        })
    };
    let corrupt = |at: usize, why| Tail::Corrupt { block: at as u32, why };
    if let Some((_, later)) = own().find(|(_, header)| header.sequence > expected && !planted!(DamageTakenForTail)) {
        let whole = |class: &Class| matches!(class, Class::Own(header) if header.sequence == expected);
        let damaged = rest.iter().position(|class| !whole(class)).unwrap_or(0);
        return corrupt(damaged, Why::Hole { expected, found: later.sequence });
    }
    if planted!(DamageTakenForTail) && rest.contains(&Class::Rotten) {
        return Tail::Torn { blocks: rest.len() as u32 };
    }
    let mut extent = None;
    for (at, header) in own() {
        let fits = header.sequence == expected
            && usize::from(header.number) == at
            && usize::from(header.blocks) <= rest.len()
            && extent.unwrap_or(header.blocks) == header.blocks;
        if !fits {
            return corrupt(at, Why::Misplaced { expected, found: header.sequence });
        }
        extent = Some(header.blocks);
    }
    match (extent, rest.first()) {
        (Some(blocks), _) => {
            let flush = &rest[..usize::from(blocks)];
            if flush.contains(&Class::Unwritten) {
                return Tail::Torn { blocks: u32::from(blocks) };
            }
            let rotten = flush.iter().position(|class| *class == Class::Rotten).unwrap_or(0);
            corrupt(rotten, Why::Rot { expected })
        }
        (None, Some(Class::Rotten)) => Tail::Suspect,
        (None, _) => Tail::Clean,
    }
}

/// The oldest flush of a log has no greater number: no disk has lived so long, and so many more could follow.
pub(super) const FIRST_SEQUENCE_MAX: u64 = 1 << 63;

/// Follows the flushes of one segment, fed with its blocks from block 1 on.
pub(super) struct Walk {
    segment_id: u64,
    expected: Option<u64>,
    /// Where the expected flush begins.
    block: u32,
    flushes: u64,
    gathering: Option<BlockHeader>,
    gathered: u16,
    payload: Vec<u8>,
    rest: Vec<Class>,
}

/// A whole flush; its payload is in [`Walk::payload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flush {
    pub block: u32,
    pub blocks: u16,
}

impl Walk {
    /// `expected` is the flush that the segment should begin with, if it has any; `None` when older segments are gone and
    /// only the segment itself can tell.
    pub fn new(segment_id: u64, expected: Option<u64>) -> Walk {
        Walk { segment_id, expected, block: 1, flushes: 0, gathering: None, gathered: 0, payload: Vec::new(), rest: Vec::new() }
    }

    /// The payload of the flush that [`Walk::push`] has just returned.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The next block. `Some` when it completes the expected flush.
    pub fn push(&mut self, block: &[u8]) -> Option<Flush> {
        let class = classify(block, self.segment_id);
        if !self.rest.is_empty() {
            self.rest.push(class);
            return None;
        }
        match class {
            Class::Own(header) if self.continues(&header) => {
                if self.gathered == 0 {
                    self.payload.clear();
                }
                self.payload.extend_from_slice(payload(block, &header));
                self.gathering = Some(header);
                self.gathered += 1;
                if self.gathered < header.blocks {
                    return None;
                }
                let flush = Flush { block: self.block, blocks: header.blocks };
                self.block += u32::from(header.blocks);
                self.flushes += 1;
                self.expected = Some(header.sequence + 1);
                (self.gathering, self.gathered) = (None, 0);
                Some(flush)
            }
            class => {
                self.give_back();
                self.rest.push(class);
                None
            }
        }
    }

    fn continues(&self, header: &BlockHeader) -> bool {
        self.expected.map_or(header.sequence <= FIRST_SEQUENCE_MAX, |expected| expected == header.sequence)
            && header.number == self.gathered
            && self.gathering.is_none_or(|first| (first.sequence, first.blocks) == (header.sequence, header.blocks))
    }

    /// The blocks gathered for a flush that did not become whole are part of what is judged.
    fn give_back(&mut self) {
        if let Some(header) = self.gathering.take() {
            let used = PAYLOAD_BYTES as u16;
            self.rest.extend((0..self.gathered).map(|number| Class::Own(BlockHeader { number, used, ..header })));
        }
    }

    /// How the segment ends, once all its blocks have been pushed.
    pub fn finish(mut self) -> Walked {
        self.give_back();
        let tail = match self.expected {
            Some(expected) => judge(&self.rest, expected),
            None => Tail::Corrupt { block: 0, why: Why::FirstFlush },
        };
        Walked { flushes: self.flushes, block: self.block, expected: self.expected.unwrap_or(0), tail }
    }
}

/// One segment, walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// Whole flushes in it.
    pub flushes: u64,
    /// Where the next flush would be.
    pub block: u32,
    /// Its sequence.
    pub expected: u64,
    pub tail: Tail,
}

/// A place in the log: which of the segments, in the order they were given, and which block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub segment: usize,
    pub block: u32,
}

/// Where the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Where the next flush goes.
    pub spot: Spot,
    /// A damaged block that was never used. Only the torn flush says so: it has to be wiped before that.
    pub unused: Option<Spot>,
    /// Blocks from `spot` on that have to be wiped first.
    pub torn_blocks: u32,
    /// The segment behind it is there and unused.
    pub next_prepared: bool,
}

/// The second table, fed with the segments in order.
#[derive(Default)]
pub(super) struct Chain {
    segments: usize,
    end: Option<(Spot, u32)>,
    suspect: Option<Spot>,
    unused: Option<Spot>,
    /// Segments without a flush behind the end.
    empty: usize,
    expected: u64,
}

impl Chain {
    /// Takes the next segment. `Err` says where and why the log is corrupt.
    pub fn push(&mut self, walked: Walked) -> Result<(), (Spot, Why)> {
        let segment = self.segments;
        self.segments += 1;
        let here = Spot { segment, block: walked.block };
        let (begun, torn_blocks) = match walked.tail {
            Tail::Torn { blocks } => (true, blocks),
            Tail::Corrupt { block, why } => {
                let spot = Spot { segment, block: walked.block + block };
                // A hole that shows in the first flush of a segment may as well be the last flush of the one before.
                let before = self.suspect.or(self.end.map(|(spot, _)| spot)).filter(|_| walked.flushes == 0);
                return Err((if matches!(why, Why::Hole { .. }) { before.unwrap_or(spot) } else { spot }, why));
            }
            Tail::Clean | Tail::Suspect => (walked.flushes > 0, 0),
        };
        if begun {
            if let Some((spot, 1..)) = self.end {
                return Err((spot, Why::Hole { expected: self.expected, found: self.expected }));
            }
            if self.empty > 0 {
                return Err((Spot { segment: segment - 1, block: 1 }, Why::FirstFlush));
            }
            self.unused = self.suspect.take().filter(|_| torn_blocks > 0);
            self.end = Some((here, torn_blocks));
        } else if self.end.is_none() {
            self.end = Some((here, 0));
        } else {
            self.empty += 1;
        }
        if walked.tail == Tail::Suspect {
            self.suspect = self.suspect.or(Some(here));
        }
        self.expected = walked.expected;
        Ok(())
    }

    /// The verdict, once all segments have been pushed.
    pub fn finish(self) -> Result<End, (Spot, Why)> {
        let (spot, torn_blocks) = self.end.unwrap_or((Spot { segment: 0, block: 1 }, 0));
        if let Some(suspect) = self.suspect {
            return Err((suspect, Why::Rot { expected: self.expected }));
        }
        // A segment is only made once the one before has a durable first flush, so this one's was lost.
        if spot.block == 1 && self.empty > 0 {
            return Err((spot, Why::FirstFlush));
        }
        if self.empty > 1 {
            return Err((Spot { segment: spot.segment + 1, block: 1 }, Why::FirstFlush));
        }
        Ok(End { spot, unused: self.unused, torn_blocks, next_prepared: self.empty == 1 })
    }
}
