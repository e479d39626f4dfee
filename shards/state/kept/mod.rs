//! Who still needs what changes replace: a snapshot under way, and scans that are of a moment before.
//!
//! ```text
//!   a change of key k ─▶ keep_through: the newest moment that still has k to be read ─▶ the table hands back an older record
//!                                                                        └▶ keep_record: a copy to each that needs it
//! ```
//! **Invariant**: when nobody does, a change asks two flags and keeps nothing.

mod pins;

use super::freeze::Frozen;
use super::record::Record;
use pins::Pins;
pub use pins::{NotPinned, Step};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub frozen: Option<Frozen>,
    pub pins: Pins,
}

impl Kept {
    /// The index up to which an old record of this key is still needed.
    #[inline]
    pub fn keep_through(&self, namespace: &str, key: &[u8]) -> Option<u64> {
        let frozen = self.frozen.as_ref().and_then(|frozen| frozen.keep_through(namespace, key));
        if self.pins.is_empty() {
            return frozen;
        }
        frozen.max(self.pins.keep_through(namespace, key))
    }

    /// Keeps a record that [`Kept::keep_through`] asked for.
    pub fn keep_record(&mut self, namespace: &str, record: Record) {
        self.pins.keep_record(namespace, &record);
        if let Some(frozen) = &mut self.frozen
            && frozen.keep_through(namespace, record.key()) >= Some(record.revision().index)
        {
            frozen.keep_record(namespace, record);
        }
    }
}
