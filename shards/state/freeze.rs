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
//! than the moment. Sessions and leases are treated alike (`owed.rs`), except that the old one is a copy, once.
//!
//! **Invariants**
//! - Everything kept is beyond the cursor and was there at the moment; a key is kept at most once.
//! - `keys_left` counts what the slices still owe. It reaches 0 exactly when the walk has seen it all, and the walk ends then,
//!   however many newer keys lie ahead.
//! - A slice visits a bounded number of records, whether it takes them or not.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::ops::Bound::{Excluded, Unbounded};

use super::digest::Digest;
use super::leases::Lease;
use super::limits::{SLICE_BUDGET_BYTES, VISIT_COST_BYTES};
use super::owed::Owed;
use super::record::Record;
use super::sessions::{Session, Sessions};
use super::slice::{First, Kind, Slice};
use super::{Contents, State, digest_moment};

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
    pub fn new(state: &State) -> Frozen {
        let mut digest = Digest::new();
        digest_moment(&mut digest, state.applied, state.ring_time_ms);
        let first = First {
            ring_time_ms: state.ring_time_ms,
            keys: state.contents.keys,
            sessions: state.sessions.len() as u64,
            leases: state.contents.leases.len() as u32,
            limits: state.limits,
        };
        Frozen {
            applied: state.applied,
            first,
            cursor: Cursor::First,
            slices: 0,
            keys_left: first.keys,
            record_bytes: 0,
            digest,
            digested: None,
            records: BTreeMap::new(),
            sessions: Owed::new(state.sessions.len()),
            leases: Owed::new(state.contents.leases.len()),
        }
    }

    /// Records, sessions and leases kept.
    pub fn kept(&self) -> u64 {
        let records: usize = self.records.values().map(BTreeSet::len).sum();
        (records + self.sessions.kept() + self.leases.kept()) as u64
    }

    // ---- what apply calls before it changes something ----

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

    // ---- slices ----

    /// See `State::slice`.
    pub fn slice(&mut self, bytes_about: usize, contents: &Contents, sessions: &Sessions) -> Option<Vec<u8>> {
        let bytes_about = bytes_about.clamp(SLICE_BUDGET_BYTES.0, SLICE_BUDGET_BYTES.1);
        let (number, applied) = (self.slices, self.applied);
        self.slices = self.slices.checked_add(1).expect("4 billion slices of 4 KiB each are beyond any memory");
        let begin = |kind, bytes| Slice::new(kind, number, applied, bytes);
        let slice = match &self.cursor {
            Cursor::First => {
                let mut slice = begin(Kind::First, 64);
                slice.first(&self.first);
                self.cursor = Cursor::Sessions { after: 0 };
                self.step_over_empty();
                slice
            }
            Cursor::Sessions { after } => {
                let after = *after;
                let mut slice = begin(Kind::Sessions, bytes_about);
                let Frozen { sessions: owed, digest, applied, .. } = self;
                let old = |session: &Session| session.changed_at <= *applied;
                let after = owed.take(after, Budget(bytes_about), sessions.after(after), old, |id, session| {
                    session.digest(id, digest);
                    slice.session(id, session)
                });
                self.cursor = Cursor::Sessions { after };
                self.step_over_empty();
                slice
            }
            Cursor::Leases { after } => {
                let after = *after;
                let mut slice = begin(Kind::Leases, bytes_about);
                let Frozen { leases: owed, digest, applied, .. } = self;
                let old = |lease: &Lease| lease.changed_at <= *applied;
                let after = owed.take(after, Budget(bytes_about), contents.leases.after(after), old, |id, lease| {
                    lease.digest(id, digest);
                    slice.lease(id, lease)
                });
                self.cursor = Cursor::Leases { after };
                self.step_over_empty();
                slice
            }
            Cursor::Records { namespace, after } => {
                let (namespace, after) = (namespace.clone(), after.clone());
                let mut slice = begin(Kind::Records, bytes_about);
                self.take_records(&mut slice, namespace, after, Budget(bytes_about), contents);
                self.step_over_empty();
                slice
            }
            Cursor::Last => {
                let mut slice = begin(Kind::Last, 64);
                slice.u64(self.digest.finish());
                slice.u64(self.record_bytes);
                self.cursor = Cursor::End;
                slice
            }
            Cursor::End => return None,
        };
        Some(slice.finish())
    }

    /// Moves on from a part of which nothing is left.
    fn step_over_empty(&mut self) {
        if matches!(self.cursor, Cursor::Sessions { .. }) && self.sessions.left() == 0 {
            assert!(self.sessions.kept() == 0, "all kept sessions were among those left");
            self.cursor = Cursor::Leases { after: 0 };
        }
        if matches!(self.cursor, Cursor::Leases { .. }) && self.leases.left() == 0 {
            assert!(self.leases.kept() == 0, "all kept leases were among those left");
            self.cursor = Cursor::Records { namespace: Box::default(), after: Vec::new() };
        }
        if matches!(self.cursor, Cursor::Records { .. }) && self.keys_left == 0 {
            assert!(self.records.is_empty(), "all kept records were among those left");
            self.cursor = Cursor::Last;
        }
    }

    fn take_records(
        &mut self,
        slice: &mut Slice,
        mut namespace: Box<str>,
        mut after: Vec<u8>,
        mut budget: Budget,
        contents: &Contents,
    ) {
        loop {
            let mut kept = self.records.remove(&namespace).unwrap_or_default();
            let live = contents.tables.get(&namespace).map(|table| table.after(&after));
            let last = self.merge(slice, &namespace, &mut kept, live.into_iter().flatten().peekable(), &mut budget);
            if let Some(last) = last {
                after = last;
            }
            if !kept.is_empty() {
                self.records.insert(namespace.clone(), kept);
            }
            if self.keys_left == 0 || budget.is_spent() {
                break;
            }
            // This namespace is done. The next one may be there no more, and only what it was is kept.
            let next_live = contents.tables.name_after(&namespace);
            let next_kept = self.records.range::<str, _>((Excluded(&*namespace), Unbounded)).next().map(|(name, _)| &**name);
            let next = [next_live, next_kept].into_iter().flatten().min();
            namespace = next.expect("keys are left, so there is a namespace that has them").into();
            after.clear();
            budget.spend(VISIT_COST_BYTES);
        }
        self.cursor = Cursor::Records { namespace, after };
    }

    /// Takes records of one namespace until there are none or the budget is spent; gives the last key it came by.
    fn merge<'a>(
        &mut self,
        slice: &mut Slice,
        namespace: &str,
        kept: &mut BTreeSet<Record>,
        mut live: Peekable<impl Iterator<Item = &'a Record>>,
        budget: &mut Budget,
    ) -> Option<Vec<u8>> {
        let mut named = false;
        let mut last: Option<&Record> = None;
        let mut last_kept: Option<Record> = None;
        while self.keys_left > 0 && !budget.is_spent() {
            let before = slice.payload_bytes();
            let kept_is_next = match (kept.first(), live.peek()) {
                (Some(kept), Some(live)) => kept.key() <= live.key(),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            if kept_is_next {
                let record = kept.pop_first().expect("its key was just seen");
                if let Some(newer) = live.next_if(|live| live.key() == record.key()) {
                    assert!(newer.revision().index > self.applied, "a kept record was changed since");
                }
                self.write_record(slice, namespace, &mut named, &record);
                (last, last_kept) = (None, Some(record));
            } else if let Some(record) = live.next() {
                if record.revision().index <= self.applied {
                    self.write_record(slice, namespace, &mut named, record);
                }
                last = Some(record);
            }
            budget.spend(VISIT_COST_BYTES + slice.payload_bytes() - before);
        }
        last.or(last_kept.as_ref()).map(|record| record.key().to_vec())
    }

    fn write_record(&mut self, slice: &mut Slice, namespace: &str, named: &mut bool, record: &Record) {
        if !std::mem::replace(named, true) {
            slice.namespace(namespace);
        }
        if self.digested.as_deref() != Some(namespace) {
            self.digest.bytes(namespace.as_bytes());
            self.digested = Some(namespace.into());
        }
        slice.record(record);
        self.digest.bytes(record.as_bytes());
        self.record_bytes += record.bytes();
        self.keys_left -= 1;
    }
}
