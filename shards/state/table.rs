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

/// Where a record is: in which trunk, branch and leaf.
#[derive(Clone, Copy)]
struct Place {
    trunk: usize,
    branch: usize,
    at: usize,
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

    /// Removes a key. The old record is handed back on the same condition as by [`Table::put`].
    pub fn remove(&mut self, key: &[u8], keep_through: Option<u64>) -> Before {
        let (at_trunk, at_branch) = self.way(key);
        let leaf = &mut self.top.item_mut(at_trunk).run.item_mut(at_branch).run;
        let Ok(at) = leaf.find(key) else {
            return Before::Absent;
        };
        let old = leaf.remove(at);
        if leaf.len() < ITEMS_MAX / 4 {
            self.join(at_trunk, at_branch);
        }
        self.keys -= 1;
        match keep_through {
            Some(index) if old.revision().index <= index => Before::Kept(old),
            _ => Before::Replaced(old.bytes(), old.extras()),
        }
    }

    /// Puts a record behind all others; `None`, and nothing done, if its key is not the greatest.
    pub fn push_last(&mut self, revision: Revision, key: &[u8], extras: Extras, value: &[u8]) -> Option<&Record> {
        if self.last().is_some_and(|last| last.key() >= key) {
            return None;
        }
        self.put(revision, key, extras, value, None);
        self.last()
    }

    fn last(&self) -> Option<&Record> {
        let trunks = self.top.items().iter().rev();
        trunks.flat_map(|trunk| trunk.run.items().iter().rev()).find_map(|branch| branch.run.items().last())
    }

    /// The records after `key`, in order.
    pub fn after<'a>(&'a self, key: &[u8]) -> impl Iterator<Item = &'a Record> + use<'a> {
        let (place, found) = self.place(key);
        self.up(Place { at: place.at + usize::from(found), ..place })
    }

    /// The records from `key` on, in order.
    pub fn starting<'a>(&'a self, key: &[u8]) -> impl Iterator<Item = &'a Record> + use<'a> {
        self.up(self.place(key).0)
    }

    /// The records before `key` (empty: all), from the last one down.
    pub fn before<'a>(&'a self, key: &[u8]) -> impl Iterator<Item = &'a Record> + use<'a> {
        let last = || {
            let trunk = self.top.len() - 1;
            let branch = self.top.items()[trunk].run.len() - 1;
            Place { trunk, branch, at: self.top.items()[trunk].run.items()[branch].run.len() }
        };
        let place = if key.is_empty() { last() } else { self.place(key).0 };
        let (trunk, branch) = self.leaf_at(place);
        let earlier_trunks = self.top.items()[..place.trunk].iter().rev();
        let earlier_branches = trunk.run.items()[..place.branch].iter().rev();
        let earlier_branches = earlier_branches.chain(earlier_trunks.flat_map(|trunk| trunk.run.items().iter().rev()));
        let earlier = earlier_branches.flat_map(|branch| branch.run.items().iter().rev());
        branch.run.items()[..place.at].iter().rev().chain(earlier)
    }

    /// The records from a place on, in order.
    fn up(&self, place: Place) -> impl Iterator<Item = &Record> {
        let (trunk, branch) = self.leaf_at(place);
        let later_trunks = self.top.items()[place.trunk + 1..].iter();
        let later_branches = trunk.run.items()[place.branch + 1..].iter();
        let later_branches = later_branches.chain(later_trunks.flat_map(|trunk| trunk.run.items()));
        branch.run.items()[place.at..].iter().chain(later_branches.flat_map(|branch| branch.run.items()))
    }

    fn leaf_at(&self, place: Place) -> (&Trunk, &Branch) {
        let trunk = &self.top.items()[place.trunk];
        (trunk, &trunk.run.items()[place.branch])
    }

    /// Where `key` is or would be, and whether it is there.
    fn place(&self, key: &[u8]) -> (Place, bool) {
        let (trunk, branches) = self.top.floor(key);
        let (branch, leaf) = branches.run.floor(key);
        match leaf.run.find(key) {
            Ok(at) => (Place { trunk, branch, at }, true),
            Err(at) => (Place { trunk, branch, at }, false),
        }
    }

    /// All records, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.top.items().iter().flat_map(|trunk| trunk.run.items()).flat_map(|branch| branch.run.items())
    }

    /// The places of the trunk and the branch that `key` belongs to.
    #[inline]
    fn way(&self, key: &[u8]) -> (usize, usize) {
        let (at_trunk, trunk) = self.top.floor(key);
        (at_trunk, trunk.run.floor(key).0)
    }

    /// Joins a sparse leaf with its left neighbour (the first of a trunk: its right one) when they fit into half a leaf, or
    /// one is empty. A trunk that has only an empty leaf is removed.
    fn join(&mut self, at_trunk: usize, at_branch: usize) {
        let branches = &mut self.top.item_mut(at_trunk).run;
        let left = at_branch.saturating_sub(1);
        if let Some([a, b]) = branches.items().get(left..left + 2) {
            let together = a.run.len() + b.run.len();
            if together <= ITEMS_MAX / 2 || a.run.len() == 0 || b.run.len() == 0 {
                let right = branches.remove(left + 1).run;
                branches.item_mut(left).run.append(right);
            }
        } else if at_trunk > 0 && branches.items().iter().all(|branch| branch.run.len() == 0) {
            self.top.remove(at_trunk);
        }
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
