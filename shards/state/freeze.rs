//! A snapshot of one moment, taken in slices while apply goes on.
//!
//! ```text
//!  frozen at index 40:   a@12   c@31   f@38   k@7          cursor after c
//!  then @41 puts b, f; @42 deletes k, puts d
//!  live now:             a@12 b@41 c@31 d@42 f@41
//!  kept:                                     f@38   k@7    moved here by the change that would have lost them
//!  still to come:        live after c up to index 40, merged with kept: f@38, k@7
//! ```
//!
//! Freezing costs nothing. While frozen, the first change to a record that the cursor has not reached moves the old record
//! here instead of freeing it; later changes to the same key find a record newer than the moment and keep nothing. A slice
//! walks on from the cursor through the live table and what was kept, side by side, and leaves out live records that are newer
//! than the moment. Sessions and leases are treated alike (`snapshot/owed.rs`), except that the old one is a copy, once.
//!
//! Here is what apply calls; the slices are made in `freeze/walk.rs`.
//!
//! **Invariants**
//! - Everything kept is beyond the cursor and was there at the moment; a key is kept at most once.
//! - `keys_left` counts what the slices still owe. It reaches 0 exactly when the walk has seen it all, and the walk ends then,
//!   however many newer keys lie ahead.

mod walk;

use std::collections::{BTreeMap, BTreeSet};

use super::leases::Lease;
use super::record::Record;
use super::sessions::Session;
use super::snapshot::digest::Digest;
use super::snapshot::owed::Owed;
use super::snapshot::slice::First;

/// See the module.
#[derive(Debug)]
pub(super) struct Frozen {
    applied: u64,
    first: First,
    cursor: Cursor,
    slices: u32,
    keys_left: u64,
    record_bytes: u64,
    digest: Digest,
    /// Namespace whose name the digest took last.
    digested: Option<Box<str>>,
    records: BTreeMap<Box<str>, BTreeSet<Record>>,
    sessions: Owed<Session>,
    leases: Owed<Lease>,
}

/// How far the slices have come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cursor {
    First,
    /// All sessions up to this id are done. No session has the id 0.
    Sessions {
        after: u64,
    },
    /// All leases up to this id are done, and all sessions.
    Leases {
        after: u64,
    },
    /// All records up to this key of this namespace are done. No record has an empty key.
    Records {
        namespace: Box<str>,
        after: Vec<u8>,
    },
    Last,
    End,
}

/// What a slice may still do, in bytes.
pub(super) struct Budget(usize);

impl Budget {
    pub fn spend(&mut self, bytes: usize) {
        self.0 = self.0.saturating_sub(bytes);
    }
    pub fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

impl Frozen {
    /// Keys that the slices still owe.
    pub fn keys_left(&self) -> u64 {
        self.keys_left
    }

    /// If the slices have not reached this key: the index up to which an old record is still needed.
    #[inline]
    pub fn keep_through(&self, namespace: &str, key: &[u8]) -> Option<u64> {
        let ahead = match &self.cursor {
            Cursor::First | Cursor::Sessions { .. } | Cursor::Leases { .. } => true,
            Cursor::Records { namespace: done, after } => (namespace, key) > (done, after),
            Cursor::Last | Cursor::End => false,
        };
        (ahead && !planted!(FreezeKeepsNothing)).then_some(self.applied)
    }

    /// Keeps a record that [`Frozen::keep_through`] asked for.
    pub fn keep_record(&mut self, namespace: &str, record: Record) {
        assert!(record.revision().index <= self.applied, "only what was there at the moment is kept");
        let new = match self.records.get_mut(namespace) {
            Some(kept) => kept.insert(record),
            None => self.records.insert(namespace.into(), BTreeSet::from([record])).is_none(),
        };
        assert!(new, "a key changes only once from what it was at the moment");
    }

    /// Keeps a copy of a session that is about to change.
    #[inline]
    pub fn keep_session(&mut self, id: u64, session: &Session) {
        if self.needs_session(id, session) {
            self.sessions.keep(id, session.clone());
        }
    }

    /// Keeps a session that is gone.
    pub fn keep_removed_session(&mut self, id: u64, session: Session) {
        if self.needs_session(id, &session) {
            self.sessions.keep(id, session);
        }
    }

    fn needs_session(&self, id: u64, session: &Session) -> bool {
        let ahead = match self.cursor {
            Cursor::First => true,
            Cursor::Sessions { after } => id > after,
            Cursor::Leases { .. } | Cursor::Records { .. } | Cursor::Last | Cursor::End => false,
        };
        ahead && session.changed_at <= self.applied
    }

    /// Keeps a copy of a lease that is about to change.
    pub fn keep_lease(&mut self, id: u64, lease: &Lease) {
        let ahead = match self.cursor {
            Cursor::First | Cursor::Sessions { .. } => true,
            Cursor::Leases { after } => id > after,
            Cursor::Records { .. } | Cursor::Last | Cursor::End => false,
        };
        if ahead && lease.changed_at <= self.applied {
            self.leases.keep(id, lease.clone());
        }
    }
}
