//! What a snapshot's slices still owe of things with ids (sessions, leases), and those that have changed since it was frozen.
//!
//! **Invariants**: what is kept is beyond the cursor and was there at the moment, each id once. `left` counts what the slices still
//! owe, and reaches 0 exactly when the walk has seen it all.
//!
//! **Not here**: records, which are ordered by namespace and key (`freeze.rs`).

use std::collections::BTreeMap;

use crate::state::freeze::Budget;
use crate::state::limits::VISIT_COST_BYTES;

/// See the module.
#[derive(Debug)]
pub(in crate::state) struct Owed<T> {
    left: u64,
    kept: BTreeMap<u64, T>,
}

impl<T> Owed<T> {
    pub fn new(left: usize) -> Owed<T> {
        Owed { left: left as u64, kept: BTreeMap::new() }
    }
    /// How many the slices owe.
    pub fn left(&self) -> u64 {
        self.left
    }
    /// How many of those are kept here.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }
    /// Keeps one that is about to change, or is gone.
    pub fn keep(&mut self, id: u64, was: T) {
        self.kept.insert(id, was);
    }

    /// Takes on from the id `after` until none are left or the budget is spent: those kept, and those alive that are `old`, so as they
    /// were at the moment. Gives the id it came to.
    pub fn take<'a>(
        &mut self,
        mut after: u64,
        mut budget: Budget,
        alive: impl Iterator<Item = (u64, &'a T)>,
        old: impl Fn(&T) -> bool,
        mut write: impl FnMut(u64, &T) -> usize,
    ) -> u64
    where
        T: 'a,
    {
        let mut alive = alive.peekable();
        while self.left > 0 && !budget.is_spent() {
            let kept = self.kept.first_key_value().map(|(id, _)| *id);
            let next = alive.peek().map(|(id, _)| *id);
            let mut bytes = 0;
            match (kept, next) {
                (Some(id), next) if next.is_none_or(|next| id <= next) => {
                    let (id, was) = self.kept.pop_first().expect("its key was just seen");
                    alive.next_if(|(alive, _)| *alive == id);
                    after = id;
                    bytes = write(id, &was);
                    self.left -= 1;
                }
                _ => {
                    let (id, is) = alive.next().expect("some are left, and none of them is kept");
                    after = id;
                    if old(is) {
                        bytes = write(id, is);
                        self.left -= 1;
                    }
                }
            }
            budget.spend(VISIT_COST_BYTES + bytes);
        }
        after
    }
}
