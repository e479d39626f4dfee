//! What happened to a key, for who listens: each change that apply makes, in order, as it makes it.
//!
//! ```text
//!   State::apply_to ─▶ a put, a delete, an expiry, a delta ─▶ Sink::changed(Change)
//! ```
//!
//! A sink is a type parameter: `()` is nobody, and then nothing of this is left in the code.
//!
//! **Invariants**
//! - One change of a key is told once, in the order of the log; what changed nothing (a delete of nothing, a denied write, a retry) is
//!   not told. A key that one transaction or one slice writes is told at their revision.
//! - The state does not depend on who listens.
//!
//! **Not here**: who listens, and what is kept for how long (`watch/`).

use ringbeam_wire::client::Fold;

use super::Found;
use super::answer::Revision;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It has the new value.
    Put,
    /// It was deleted.
    Delete,
    /// Its time was up, or its lease's.
    Expire,
    /// Its value was changed by a delta, which stands for the value.
    Extend(Fold),
}

/// One change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// What happened.
    pub kind: ChangeKind,
    /// Namespace of the key; "" is the default one.
    pub namespace: &'a str,
    /// The key.
    pub key: &'a [u8],
    /// The new value or the delta; empty when it is gone.
    pub value: &'a [u8],
    /// Of the change.
    pub revision: Revision,
    /// What was there before, if [`Sink::wants_previous`].
    pub previous: Option<Found<'a>>,
}

/// Who listens.
pub trait Sink {
    /// Whether changes are to say what was there before: it costs a look-up each.
    fn wants_previous(&self) -> bool;
    /// A key changes.
    fn changed(&mut self, change: &Change<'_>);
}

/// Nobody.
impl Sink for () {
    #[inline]
    fn wants_previous(&self) -> bool {
        false
    }
    #[inline]
    fn changed(&mut self, _: &Change<'_>) {}
}
