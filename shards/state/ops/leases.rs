//! Leases, and the keys that go: by themselves at a time, or with their lease.
//!
//! ```text
//!   by_id      lease -> ttl, end                      by_end      (end, lease), the order in which leases end
//!   by_expiry  time | namespace | key                 by_lease    lease | namespace | key
//! ```
//!
//! What a key has is in its record (`record.rs`); the two orders of keys repeat it so that what is due is found, and are made from
//! the records when a snapshot is loaded. Time is ring time, the batch's: nothing goes before a batch says that its time has come.
//!
//! A key or a lease whose time is up stays until an `Expire` of the log takes it, a bounded number at once, in this order: keys by
//! their own time, then keys of ended leases, then those leases. Reads see a key until then. But a lease grants nothing more from its
//! end on: it is not kept alive and no key is attached to it. A revoked lease is one whose end is now.
//!
//! **Invariants**
//! - `by_end` has exactly one entry for each lease; `by_expiry` and `by_lease` one for each record that has a time or a lease.
//! - A record's lease is there: a lease goes after the last of its keys.
//!
//! **Not here**: who proposes an `Expire`, and when (`shard/expiry.rs`).

use std::collections::{BTreeMap, BTreeSet};

use ringbeam_wire::client::Life;

use crate::state::Contents;
use crate::state::answer::{Answer, Denied, Revision};
use crate::state::command::{Op, Write};
use crate::state::digest::Digest;
use crate::state::events::{ChangeKind, Sink};
use crate::state::freeze::Frozen;
use crate::state::kept::Kept;
use crate::state::limits::LEASES_MAX;
use crate::state::record::Extras;
use crate::state::sessions::Moment;

/// One lease. `changed_at` and `keys` are not replicated state: the one is 0 for what a snapshot brought, the other is counted anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::state) struct Lease {
    pub ttl_ms: u64,
    pub ends_at_ms: u64,
    pub changed_at: u64,
    pub keys: u64,
}

/// A lease as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leased {
    /// It ends this long after it was kept alive last, milliseconds of ring time.
    pub ttl_ms: u64,
    /// Ring time until it ends, milliseconds.
    pub left_ms: u64,
    /// Keys that go with it.
    pub keys: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::state) struct Leases {
    by_id: BTreeMap<u64, Lease>,
    by_end: BTreeSet<(u64, u64)>,
    by_expiry: Order,
    by_lease: Order,
}

/// Keys, each behind a number. An entry is one allocation: number, big-endian, bytes of the namespace's name, name, key. So it orders as
/// its bytes do.
#[derive(Debug, Default)]
struct Order {
    entries: BTreeSet<Box<[u8]>>,
    /// Where an entry is put together.
    scratch: Vec<u8>,
}

/// What is next to go.
enum Due {
    Key(Box<[u8]>),
    Lease(u64),
}

impl Lease {
    fn is_over(&self, ring_time_ms: u64) -> bool {
        self.ends_at_ms <= ring_time_ms
    }

    pub fn digest(&self, id: u64, digest: &mut Digest) {
        [id, self.ttl_ms, self.ends_at_ms].into_iter().for_each(|word| digest.word(word));
    }
}

impl Leases {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
    /// Keys that have a time of their own.
    pub fn timed_keys(&self) -> usize {
        self.by_expiry.entries.len()
    }
    pub fn contains(&self, id: u64) -> bool {
        self.by_id.contains_key(&id)
    }
    /// The leases with ids above `id`, in order.
    pub fn after(&self, id: u64) -> impl Iterator<Item = (u64, &Lease)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.by_id.range((Excluded(id), Unbounded)).map(|(id, lease)| (*id, lease))
    }

    /// A lease that has not ended.
    pub fn get(&self, id: u64, ring_time_ms: u64) -> Option<Leased> {
        let lease = self.by_id.get(&id).filter(|lease| !lease.is_over(ring_time_ms))?;
        Some(Leased { ttl_ms: lease.ttl_ms, left_ms: lease.ends_at_ms - ring_time_ms, keys: lease.keys })
    }

    /// Ring time from which on something may go.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        let ends = self.by_end.first().map(|(ends_at_ms, _)| *ends_at_ms);
        ends.into_iter().chain(self.by_expiry.first()).min()
    }

    /// What a record of this life has, put at this ring time.
    pub fn extras(&self, life: Life, ring_time_ms: u64) -> Result<Extras, Denied> {
        if life.lease != 0 && self.get(life.lease, ring_time_ms).is_none() {
            return Err(Denied::LeaseNotFound);
        }
        let expires_at_ms = if life.ttl_ms == 0 { 0 } else { ring_time_ms.saturating_add(life.ttl_ms) };
        Ok(Extras { lease: life.lease, expires_at_ms, ..Extras::default() })
    }

    /// A key has `new` where it had `old`.
    pub fn moved(&mut self, namespace: &str, key: &[u8], old: Extras, new: Extras) {
        if old.expires_at_ms != new.expires_at_ms {
            self.by_expiry.replace(namespace, key, old.expires_at_ms, new.expires_at_ms);
        }
        if old.lease != new.lease {
            self.by_lease.replace(namespace, key, old.lease, new.lease);
            self.by_id.get_mut(&old.lease).into_iter().for_each(|lease| lease.keys -= 1);
            self.by_id.get_mut(&new.lease).into_iter().for_each(|lease| lease.keys += 1);
        }
    }

    /// Adds a lease as it is; false, and nothing done, if there is one with this id.
    pub fn insert(&mut self, id: u64, lease: Lease) -> bool {
        if self.by_id.contains_key(&id) {
            return false;
        }
        self.by_end.insert((lease.ends_at_ms, id));
        self.by_id.insert(id, lease);
        true
    }

    fn grant(&mut self, revision: Revision, ttl_ms: u64, now: Moment) -> Result<(), Denied> {
        if self.by_id.len() >= LEASES_MAX as usize {
            return Err(Denied::TooManyLeases);
        }
        let ends_at_ms = now.ring_time_ms.saturating_add(ttl_ms);
        let lease = Lease { ttl_ms, ends_at_ms, changed_at: now.index, keys: 0 };
        assert!(self.insert(revision.session_id(), lease), "ids are unique, being revisions");
        Ok(())
    }

    /// Moves the end of a lease to its time from now, or to now. False: it has ended, or never was.
    fn move_end(&mut self, id: u64, keep: bool, now: Moment, frozen: Option<&mut Frozen>) -> bool {
        let Some(lease) = self.by_id.get_mut(&id).filter(|lease| !lease.is_over(now.ring_time_ms)) else { return false };
        frozen.into_iter().for_each(|frozen| frozen.keep_lease(id, lease));
        lease.changed_at = now.index;
        let ends_at_ms = if keep { now.ring_time_ms.saturating_add(lease.ttl_ms) } else { now.ring_time_ms };
        let before = std::mem::replace(&mut lease.ends_at_ms, ends_at_ms);
        assert!(self.by_end.remove(&(before, id)), "each lease is in the order by end");
        self.by_end.insert((ends_at_ms, id));
        true
    }

    fn remove(&mut self, id: u64, frozen: Option<&mut Frozen>) {
        let lease = self.by_id.remove(&id).expect("its id was just found in the order by end");
        assert!(lease.keys == 0 && self.by_end.remove(&(lease.ends_at_ms, id)), "a lease goes after its keys");
        frozen.into_iter().for_each(|frozen| frozen.keep_lease(id, &lease));
    }

    /// What goes next at this ring time.
    fn due(&self, ring_time_ms: u64) -> Option<Due> {
        if self.by_expiry.first().is_some_and(|at| at <= ring_time_ms) {
            return self.by_expiry.entries.first().cloned().map(Due::Key);
        }
        let (_, id) = *self.by_end.first().filter(|(ends_at_ms, _)| *ends_at_ms <= ring_time_ms)?;
        Some(self.by_lease.first_of(id).map_or(Due::Lease(id), |entry| Due::Key(entry.into())))
    }
}

impl Order {
    fn first(&self) -> Option<u64> {
        self.entries.first().and_then(|entry| entry.first_chunk()).map(|number| u64::from_be_bytes(*number))
    }

    /// The first entry behind this number.
    fn first_of(&self, number: u64) -> Option<&[u8]> {
        let number = number.to_be_bytes();
        let from = (std::ops::Bound::Included(&number[..]), std::ops::Bound::Unbounded);
        self.entries.range::<[u8], _>(from).next().map(|entry| &**entry).filter(|entry| entry.starts_with(&number))
    }

    /// A key is behind `new` where it was behind `old`; 0: it is not here.
    fn replace(&mut self, namespace: &str, key: &[u8], old: u64, new: u64) {
        self.scratch.clear();
        self.scratch.extend_from_slice(&old.to_be_bytes());
        self.scratch.push(namespace.len() as u8);
        self.scratch.extend_from_slice(namespace.as_bytes());
        self.scratch.extend_from_slice(key);
        if old != 0 {
            assert!(self.entries.remove(&self.scratch[..]), "each record that has a number is in its order");
        }
        if new != 0 {
            self.scratch[..8].copy_from_slice(&new.to_be_bytes());
            self.entries.insert(self.scratch[..].into());
        }
    }
}

/// Namespace and key of an entry.
fn name_of(entry: &[u8]) -> (&str, &[u8]) {
    let behind = entry.get(8..).and_then(|rest| rest.split_first());
    let (name_bytes, rest) = behind.expect("an entry has a number and a name's length");
    let (name, key) = rest.split_at(usize::from(*name_bytes));
    (std::str::from_utf8(name).expect("it was a namespace's name"), key)
}

impl Contents {
    /// Runs a write of leases, or a put with a life, at the revision of its answer, and says in there what came of it.
    pub(in crate::state) fn run_of_leases<S: Sink>(
        &mut self,
        write: &Write<'_>,
        kept: &mut Kept,
        answer: &mut Answer,
        sink: &mut S,
    ) {
        let now = Moment { index: answer.revision.index, ring_time_ms: answer.ring_time_ms };
        match write.op {
            Op::PutFor { key, life, value } => match self.leases.extras(life, now.ring_time_ms) {
                Ok(extras) => {
                    self.tell_put(answer.revision, write.namespace, key, value, sink);
                    answer.existed = self.put(answer.revision, write.namespace, key, extras, value, kept);
                }
                Err(denied) => answer.outcome = Err(denied),
            },
            Op::GrantLease { ttl_ms } => answer.outcome = self.leases.grant(answer.revision, ttl_ms, now),
            Op::KeepLease { lease } if self.leases.move_end(lease, true, now, kept.frozen.as_mut()) => {}
            Op::KeepLease { .. } => answer.outcome = Err(Denied::LeaseNotFound),
            Op::RevokeLease { lease } => answer.existed = self.leases.move_end(lease, false, now, kept.frozen.as_mut()),
            Op::Expire { most } => answer.existed = self.expire(most, answer.revision, now.ring_time_ms, kept, sink) > 0,
            _ => {}
        }
    }

    /// Takes out what is due, at most so many keys and leases; how many went.
    fn expire<S: Sink>(&mut self, most: u32, revision: Revision, ring_time_ms: u64, kept: &mut Kept, sink: &mut S) -> u32 {
        let ring_time_ms = if planted!(ExpiresEarly) { ring_time_ms + 1_000 } else { ring_time_ms };
        for gone in 0..most {
            match self.leases.due(ring_time_ms) {
                Some(Due::Key(entry)) => {
                    let (namespace, key) = name_of(&entry);
                    let existed = self.remove(ChangeKind::Expire, revision, namespace, key, kept, sink);
                    assert!(existed, "what is in an order is among the keys");
                }
                Some(Due::Lease(id)) => self.leases.remove(id, kept.frozen.as_mut()),
                None => return gone,
            }
        }
        most
    }
}
