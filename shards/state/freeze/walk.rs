//! From a frozen state into slices; `freeze.rs` draws it.
//!
//! **Invariant**: a slice visits a bounded number of records, whether it takes them or not.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::ops::Bound::{Excluded, Unbounded};

use super::{Budget, Cursor, Frozen};
use crate::state::leases::Lease;
use crate::state::limits::{SLICE_BUDGET_BYTES, VISIT_COST_BYTES};
use crate::state::record::Record;
use crate::state::sessions::{Session, Sessions};
use crate::state::snapshot::digest::Digest;
use crate::state::snapshot::owed::Owed;
use crate::state::snapshot::slice::{First, Kind, Slice};
use crate::state::{Contents, State, digest_moment};

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
