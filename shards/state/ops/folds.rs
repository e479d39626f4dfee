//! What reads have folded, kept until the read has been answered: so that a value can be lent like any other, and a plain one costs
//! nothing.
//!
//! A list that only grows while it is shared. Whoever has the state for itself empties it ([`Folds::forget`]): after each read, and
//! before each write that reads. So it holds at most what one page or one transaction finds.

use std::cell::OnceCell;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::state) struct Folds(OnceCell<Box<Fold>>);

#[derive(Debug)]
struct Fold {
    value: Vec<u8>,
    next: Folds,
}

impl Folds {
    /// Keeps a value, and lends it.
    pub fn keep(&self, value: Vec<u8>) -> &[u8] {
        let mut end = self;
        while let Some(fold) = end.0.get() {
            end = &fold.next;
        }
        &end.0.get_or_init(|| Box::new(Fold { value, next: Folds::default() })).value
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.get().is_none()
    }

    /// Drops all of it, one after the other: a long list is no deep recursion.
    #[inline]
    pub fn forget(&mut self) {
        let mut next = self.0.take();
        while let Some(mut fold) = next {
            next = fold.next.0.take();
        }
    }
}
