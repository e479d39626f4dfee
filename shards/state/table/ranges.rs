//! Records in order, from any place in both directions; and what goes.

use super::{Before, Branch, Table, Trunk};
use crate::state::answer::Revision;
use crate::state::record::{Extras, Record};
use crate::state::run::ITEMS_MAX;

/// Where a record is: in which trunk, branch and leaf.
#[derive(Clone, Copy)]
struct Place {
    trunk: usize,
    branch: usize,
    at: usize,
}

impl Table {
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
