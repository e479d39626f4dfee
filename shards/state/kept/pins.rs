//! Moments that are pinned: what scans of many pages go on reading while apply goes on.
//!
//! ```text
//!   pinned at index 40, of what is behind c:     d@12   f@31   k@7            the scan has read up to c
//!   then @41 puts e, f; @42 deletes k
//!   live now:                                    d@12   e@41   f@41
//!   kept for the pin:                                   f@31   k@7            a copy of what the change replaced
//!   a page of it: live records up to 40, merged with those kept:  d@12  f@31  k@7
//! ```
//!
//! The same thought as a snapshot's (`freeze.rs`), with other ends: there may be several, each of one range of one namespace, which its
//! scan makes narrower as it goes on; pages are read in either direction, and more than once; and a pin that would keep too much is shed.
//! What is shed is freed in pieces: a map of 200,000 records takes 20 ms to drop.
//!
//! **Invariants**
//! - A pin's page is the state at its index, whatever is applied before, between and after its pages.
//! - What all pins keep is at most `bytes_max`, or one record more. The one that keeps most is shed for it, and is gone for its scan.
//! - State that is replaced by a snapshot has no pins: they are gone, too.
//!
//! **Not here**: who pins, for how long (`crate::scan`).

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included, Unbounded};

use super::Kept;
use crate::state::look::Records;
use crate::state::record::Record;
use crate::state::{Found, State};

/// What a kept record takes beside its bytes: its allocation and its place among others.
const PLACE_BYTES: u64 = 32;
/// Records of what a scan has behind it that are freed at once; a page has less.
const NARROWED_MAX: usize = 2_000;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::state) struct Pins {
    open: Vec<Pin>,
    /// Bytes that the open ones keep.
    bytes: u64,
    bytes_max: u64,
    /// What nobody needs any more.
    shed: Vec<BTreeSet<Record>>,
}

#[derive(Debug)]
struct Pin {
    id: u64,
    index: u64,
    namespace: Box<str>,
    from: Box<[u8]>,
    /// Empty: to the last key.
    until: Box<[u8]>,
    kept: BTreeSet<Record>,
    bytes: u64,
}

impl Pin {
    fn covers(&self, namespace: &str, key: &[u8]) -> bool {
        key >= &*self.from && (self.until.is_empty() || key < &*self.until) && namespace == &*self.namespace
    }
}

fn cost(record: &Record) -> u64 {
    record.bytes() + PLACE_BYTES
}

impl Pins {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The newest moment that has this key to be read.
    pub fn keep_through(&self, namespace: &str, key: &[u8]) -> Option<u64> {
        let through = self.open.iter().filter(|pin| pin.covers(namespace, key)).map(|pin| pin.index).max();
        through.filter(|_| !planted!(PinKeepsNothing))
    }

    /// Keeps a copy of a record that is about to go for each pin that is to read it.
    pub fn keep_record(&mut self, namespace: &str, record: &Record) {
        let index = record.revision().index;
        for pin in self.open.iter_mut().filter(|pin| pin.index >= index && pin.covers(namespace, record.key())) {
            assert!(pin.kept.insert(record.copy()), "a key changes only once from what it was at the moment");
            pin.bytes += cost(record);
            self.bytes += cost(record);
        }
        while self.bytes > self.bytes_max
            && let Some(most) = self.open.iter().max_by_key(|pin| pin.bytes).map(|pin| pin.id)
        {
            self.close(most);
        }
    }

    fn close(&mut self, id: u64) -> bool {
        let Some(at) = self.open.iter().position(|pin| pin.id == id) else { return false };
        let pin = self.open.swap_remove(at);
        self.bytes -= pin.bytes;
        if !pin.kept.is_empty() {
            self.shed.push(pin.kept);
        }
        true
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Bytes kept for those that are open.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn get(&self, id: u64) -> Option<&Pin> {
        self.open.iter().find(|pin| pin.id == id)
    }
}

/// A step of the way through a pinned range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A key as it was at the moment.
    Item(&'a [u8], Found<'a>),
    /// A key that is newer, and is passed by.
    Newer(&'a [u8]),
}

/// A way through a pinned range.
pub type Steps<'a, 'b> = Box<dyn Iterator<Item = Step<'a>> + 'b>;

/// Why there is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotPinned {
    /// It was shed, or never was.
    Gone,
    /// It is another moment than the asker takes it for: this one.
    Other(u64),
    /// The range is not within what the pin still covers.
    Outside,
}

impl State {
    /// Pins this moment, for the keys of a namespace from `from` on and before `until` (empty: to the last). All pins together keep at
    /// most `bytes_max`. The id must be new.
    pub fn pin(&mut self, id: u64, namespace: &str, from: &[u8], until: &[u8], bytes_max: u64) {
        let pins = &mut self.kept.pins;
        assert!(pins.get(id).is_none(), "pin {id} is there already");
        pins.bytes_max = bytes_max;
        let (namespace, from, until) = (namespace.into(), from.into(), until.into());
        pins.open.push(Pin { id, index: self.applied, namespace, from, until, kept: BTreeSet::new(), bytes: 0 });
    }

    /// From now on this pin has only that much of its range to be read.
    pub fn narrow(&mut self, id: u64, index: u64, namespace: &str, from: &[u8], until: &[u8]) -> Result<(), NotPinned> {
        let Kept { pins, .. } = &mut self.kept;
        let pin = pins.open.iter_mut().find(|pin| pin.id == id).ok_or(NotPinned::Gone)?;
        let until_within = pin.until.is_empty() || !until.is_empty() && until <= &*pin.until;
        if pin.index != index {
            return Err(NotPinned::Other(pin.index));
        }
        if namespace != &*pin.namespace || from < &*pin.from || !until_within {
            return Err(NotPinned::Outside);
        }
        (pin.from, pin.until) = (from.into(), until.into());
        let before = pin.bytes;
        for _ in 0..NARROWED_MAX {
            let first = pin.kept.first().is_some_and(|record| record.key() < from);
            let last = !first && pin.kept.last().is_some_and(|record| !until.is_empty() && record.key() >= until);
            let gone = if first {
                pin.kept.pop_first()
            } else if last {
                pin.kept.pop_last()
            } else {
                break;
            };
            pin.bytes -= gone.as_ref().map_or(0, cost);
        }
        pins.bytes -= before - pin.bytes;
        Ok(())
    }

    /// The keys of a pin within `from` and `until`, as they were at its moment, in order or `backward`; nothing if there is no such pin.
    pub fn pinned<'a: 'b, 'b>(&'a self, id: u64, from: &'b [u8], until: &'b [u8], backward: bool) -> Steps<'a, 'b> {
        let Some(pin) = self.kept.pins.get(id).filter(|_| until.is_empty() || from < until) else {
            return Box::new(std::iter::empty());
        };
        let end = if until.is_empty() { Unbounded } else { Excluded(until) };
        let kept = pin.kept.range::<[u8], _>((Included(from), end));
        let live = self.records(&pin.namespace, from, until, backward);
        let kept: Records<'a, 'b> = if backward { Box::new(kept.rev()) } else { Box::new(kept) };
        let (mut live, mut kept, index) = (live.peekable(), kept.peekable(), pin.index);
        Box::new(std::iter::from_fn(move || {
            let kept_is_next = match (kept.peek(), live.peek()) {
                (Some(kept), Some(live)) if backward => kept.key() >= live.key(),
                (Some(kept), Some(live)) => kept.key() <= live.key(),
                (kept, _) => kept.is_some(),
            };
            let record = if kept_is_next {
                let record = kept.next()?;
                // What has become of it.
                live.next_if(|live| live.key() == record.key());
                record
            } else {
                live.next()?
            };
            Some(match record.revision().index <= index {
                true => Step::Item(record.key(), self.contents.found(record)),
                false => Step::Newer(record.key()),
            })
        }))
    }

    /// The pin is not needed any more. False: it was gone.
    pub fn unpin(&mut self, id: u64) -> bool {
        self.kept.pins.close(id)
    }

    /// Whether this pin is still there.
    pub fn is_pinned(&self, id: u64) -> bool {
        self.kept.pins.get(id).is_some()
    }

    /// Frees some of what nobody needs any more, so many records at most; true when there is more.
    pub fn free_shed(&mut self, most: usize) -> bool {
        let shed = &mut self.kept.pins.shed;
        for _ in 0..most {
            while let Some(true) = shed.last().map(BTreeSet::is_empty) {
                shed.pop();
            }
            let Some(records) = shed.last_mut() else { return false };
            records.pop_last();
        }
        !shed.is_empty()
    }
}
