//! The keys of one namespace, in order.
//!
//! ```text
//! top: one run of trunks     ""                       "m"
//!                            |                         |
//! trunks: runs of branches  "" "d" "h"                "m" "p" "t"
//!                           |   |   |                  |   |   |
//! leaves: runs of records  ...  d e f ...             ...
//! ```
//!
//! A B-tree of fixed height with wide nodes that are searched by the heads of their keys (`run.rs`): a look-up reads a few
//! lines of cache in each run and then the record itself. The top has one entry for about 8,000 keys and no bound; at 100
//! million keys that is 12,000 entries, searched in 14 steps and moved once in 4,000 inserts.
//! Measured against a `BTreeSet` of the same records and a `BTreeMap` from boxed key to boxed value by `bench.rs`.
//!
//! **Invariants**: a leaf holds exactly the keys from its fence on and before the next fence. A trunk's fence is that of its
//! first branch, and the very first fence is "". An empty leaf is the first of its trunk, and the only one only in the first.
//!
//! **Not here**: namespaces, sessions, and what is kept for a snapshot (`mod.rs`, `freeze.rs`).

mod ranges;

use super::answer::Revision;
use super::record::{Extras, Record};
use super::run::{ITEMS_MAX, Keyed, Run, shared_prefix};

/// Keys that [`Table::fetch`] takes at once; about as many misses as a core can have outstanding.
pub(super) const FETCH_KEYS: usize = 16;
/// Keys from which [`Table::fetch`] is worth its work: 10,000 with values of 256 B are more than the cache of a core that nodes share
/// keeps, and fetching them saves a fifth of the CPU of a put.
const FETCH_TABLE_KEYS_MIN: u64 = 1_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    top: Run<Trunk>,
    keys: u64,
}

#[derive(Debug)]
struct Fenced<T> {
    fence: Box<[u8]>,
    run: Run<T>,
}
type Trunk = Fenced<Branch>;
type Branch = Fenced<Record>;

impl<T> Keyed for Fenced<T> {
    #[inline]
    fn key(&self) -> &[u8] {
        &self.fence
    }
}
impl Keyed for Record {
    #[inline]
    fn key(&self) -> &[u8] {
        Record::key(self)
    }
}

/// What was at a key before a change.
#[derive(Debug)]
pub(super) enum Before {
    /// Nothing.
    Absent,
    /// A record of so many bytes, gone now, and what it had.
    Replaced(u64, Extras),
    /// A record that somebody still needs, unchanged.
    Kept(Record),
}

impl Table {
    pub fn new() -> Table {
        let branch = Branch { fence: Box::default(), run: Run::new() };
        let trunk = Trunk { fence: Box::default(), run: Run::of(vec![branch]) };
        Table { top: Run::of(vec![trunk]), keys: 0 }
    }
    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }

    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<&Record> {
        let leaf = self.leaf(key);
        leaf.items().get(leaf.find(key).ok()?)
    }

    #[inline]
    fn leaf(&self, key: &[u8]) -> &Run<Record> {
        let (_, trunk) = self.top.floor(key);
        let (_, branch) = trunk.run.floor(key);
        &branch.run
    }

    /// Fetches into the cache what changing these keys will read.
    ///
    /// A look-up is a chain of a few cache misses, each waiting for the one before. Here the first links of all chains are
    /// read, then all second ones and so on, so that the processor waits for all keys at once.
    pub fn fetch<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        if self.keys < FETCH_TABLE_KEYS_MIN {
            return;
        }
        let mut leaves = [None; FETCH_KEYS];
        for (place, key) in leaves.iter_mut().zip(keys) {
            *place = Some((key, self.leaf(key)));
        }
        let lengths = leaves.map(|leaf| leaf.map_or(0, |(_, leaf)| leaf.len()));
        let records = leaves.map(|leaf| leaf.and_then(|(key, leaf)| leaf.near(key)));
        let bytes = records.map(|record| record.map_or(0, Record::bytes)); // the pointer, not yet what it points to
        let lines = records.map(|record| record.map_or(0, Record::touch));
        std::hint::black_box((lengths, bytes, lines));
    }

    /// Sets a key. An old record with a revision index up to `keep_through` is handed back.
    #[inline]
    pub fn put(&mut self, revision: Revision, key: &[u8], extras: Extras, value: &[u8], keep_through: Option<u64>) -> Before {
        let (at_trunk, at_branch) = self.way(key);
        let branches = &mut self.top.item_mut(at_trunk).run;
        let leaf = &mut branches.item_mut(at_branch).run;
        let at = match leaf.find(key) {
            Ok(at) => {
                let old = leaf.item_mut(at);
                let kept = keep_through.is_some_and(|index| old.revision().index <= index);
                let before = Before::Replaced(old.bytes(), old.extras());
                if !kept && old.overwrite(revision, extras, value) {
                    return before;
                }
                let old = std::mem::replace(old, Record::new(revision, key, extras, value));
                return if kept { Before::Kept(old) } else { before };
            }
            Err(at) => at,
        };
        self.keys += 1;
        leaf.insert(at, Record::new(revision, key, extras, value));
        if leaf.len() > ITEMS_MAX {
            let run = leaf.split(cut(at));
            let (last, first) = (leaf.items().last(), &run.items()[0]);
            let shared = last.map_or(0, |last| shared_prefix(last.key(), first.key()));
            let fence = first.key()[..=shared].into(); // the shortest that divides the two
            branches.insert(at_branch + 1, Branch { fence, run });
            if branches.len() > ITEMS_MAX {
                let run = branches.split(cut(at_branch + 1));
                let fence = run.items()[0].fence.clone();
                self.top.insert(at_trunk + 1, Trunk { fence, run });
            }
        }
        Before::Absent
    }

    /// The places of the trunk and the branch that `key` belongs to.
    #[inline]
    fn way(&self, key: &[u8]) -> (usize, usize) {
        let (at_trunk, trunk) = self.top.floor(key);
        (at_trunk, trunk.run.floor(key).0)
    }
}

/// Where a run that is too long is cut after an insert at `at`. Keys that come in ascending order fill their runs; others
/// share the room.
fn cut(at: usize) -> usize {
    if at == ITEMS_MAX { at } else { ITEMS_MAX / 2 }
}

#[cfg(test)]
impl Table {
    /// Panics unless the module's invariants hold.
    pub fn check(&self) {
        assert!(self.top.items()[0].fence.is_empty());
        for (at, trunk) in self.top.items().iter().enumerate() {
            let branches = trunk.run.items();
            assert!((1..=ITEMS_MAX).contains(&branches.len()));
            assert_eq!(trunk.fence, branches[0].fence);
            assert!(branches[1..].iter().all(|branch| branch.run.len() > 0));
            assert!(at == 0 || branches.len() > 1 || branches[0].run.len() > 0);
        }
        let branches: Vec<&Branch> = self.top.items().iter().flat_map(|trunk| trunk.run.items()).collect();
        for (at, Branch { fence, run }) in branches.iter().enumerate() {
            assert!(run.len() <= ITEMS_MAX);
            let next = branches.get(at + 1).map(|branch| &*branch.fence);
            for (at, record) in run.items().iter().enumerate() {
                assert!(record.key() >= &**fence && next.is_none_or(|next| record.key() < next));
                assert_eq!(run.find(record.key()), Ok(at));
                assert!(self.get(record.key()).is_some());
            }
        }
        assert!(self.iter().is_sorted_by(|a, b| a.key() < b.key()));
        assert_eq!(self.iter().count() as u64, self.keys);
    }
}
