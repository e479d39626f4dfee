//! The state machine against a naive model: apply, sessions, snapshots.
//!
//! Everything random comes from a seed that a failing assertion names.

mod apply;
mod counters;
mod erase_ranges;
mod events;
mod extends;
mod leases;
mod model;
mod pins;
mod sessions;
mod snapshot;
mod transactions;

use bytes::Bytes;
use ringbeam_wire::client::{Add, DeleteRange, Extend, Fold, Life, Transact};

use super::command::{Builder, Op, Write, parse};
use super::counter::{self, ADDITION_BYTES, Addition};
use super::erase::{self, Erasure};
use super::extend::{self, Extension};
use super::transaction::Transaction;
use super::{Answer, Limits, State};
use transactions::OwnedTransact;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// A write that owns its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub namespace: String,
    pub session: u64,
    pub sequence: u64,
    pub answered_below: u64,
    pub op: OwnedOp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedOp {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Open,
    Close,
    Transact(OwnedTransact),
    /// Key, and the addition's bytes.
    Add(Vec<u8>, [u8; ADDITION_BYTES]),
    /// First key, and what the log has of the range besides.
    DeleteRange(Vec<u8>, Vec<u8>),
    Resolve,
    /// Key, and what the log has of the delta.
    Extend(Vec<u8>, Vec<u8>),
    PutFor(Vec<u8>, Life, Vec<u8>),
    Grant(u64),
    Keep(u64),
    Revoke(u64),
    Expire(u32),
}

impl OwnedOp {
    /// No session may have it.
    pub fn is_alone(&self) -> bool {
        matches!(self, OwnedOp::Open | OwnedOp::Keep(_) | OwnedOp::Expire(_))
    }
}

impl Owned {
    pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Owned {
        Owned::of(OwnedOp::Put(key.as_ref().to_vec(), value.as_ref().to_vec()))
    }
    pub fn delete(key: impl AsRef<[u8]>) -> Owned {
        Owned::of(OwnedOp::Delete(key.as_ref().to_vec()))
    }
    pub fn open() -> Owned {
        Owned::of(OwnedOp::Open)
    }
    pub fn close(session: u64) -> Owned {
        Owned::of(OwnedOp::Close).by(session, 0, 0)
    }
    pub fn transact(transact: &Transact<'_>) -> Owned {
        assert_eq!(transact.check(1 << 20, 1), Ok(()));
        Owned::of(OwnedOp::Transact(OwnedTransact::of(transact)))
    }
    pub fn add(key: impl AsRef<[u8]>, delta: i64, min: i64, max: i64) -> Owned {
        let bytes = counter::encode(&Add { delta, min, max, ..Add::default() });
        Owned::of(OwnedOp::Add(key.as_ref().to_vec(), bytes))
    }
    /// A delta to values of at most `value_bytes_max`.
    pub fn append(key: impl AsRef<[u8]>, delta: impl AsRef<[u8]>, value_bytes_max: u32) -> Owned {
        Owned::extend(key.as_ref(), Fold::Concatenate, delta.as_ref(), value_bytes_max)
    }
    /// A merge patch likewise.
    pub fn patch(key: impl AsRef<[u8]>, patch: impl AsRef<[u8]>, value_bytes_max: u32) -> Owned {
        Owned::extend(key.as_ref(), Fold::MergePatch, patch.as_ref(), value_bytes_max)
    }
    fn extend(key: &[u8], fold: Fold, delta: &[u8], value_bytes_max: u32) -> Owned {
        let bytes = extend::encode(&Extend { fold, delta, ..Extend::default() }, value_bytes_max);
        Owned::of(OwnedOp::Extend(key.to_vec(), bytes))
    }
    /// What became of this write of a session?
    pub fn resolve(write: &Owned) -> Owned {
        Owned::of(OwnedOp::Resolve).by(write.session, write.sequence, write.answered_below)
    }
    pub fn delete_range(from: impl AsRef<[u8]>, until: impl AsRef<[u8]>, limit: u32) -> Owned {
        let value = erase::encode(&DeleteRange { until: until.as_ref(), limit, ..DeleteRange::default() });
        Owned::of(OwnedOp::DeleteRange(from.as_ref().to_vec(), value))
    }
    fn of(op: OwnedOp) -> Owned {
        Owned { namespace: String::new(), session: 0, sequence: 0, answered_below: 0, op }
    }
    pub fn by(self, session: u64, sequence: u64, answered_below: u64) -> Owned {
        Owned { session, sequence, answered_below, ..self }
    }
    pub fn within(self, namespace: &str) -> Owned {
        Owned { namespace: namespace.into(), ..self }
    }
    pub fn as_write(&self) -> Write<'_> {
        let op = match &self.op {
            OwnedOp::Put(key, value) => Op::Put { key, value },
            OwnedOp::Delete(key) => Op::Delete { key },
            OwnedOp::Open => Op::OpenSession,
            OwnedOp::Resolve => Op::Resolve,
            OwnedOp::Extend(key, bytes) => Op::Extend { key, extension: Extension::parse(bytes).expect("as encoded") },
            OwnedOp::Close => Op::CloseSession,
            OwnedOp::DeleteRange(from, value) => Op::DeleteRange { from, erasure: Erasure::parse(value).expect("as encoded") },
            OwnedOp::Add(key, bytes) => Op::Add { key, addition: Addition::parse(bytes).expect("as encoded") },
            OwnedOp::Transact(transact) => Op::Transact(Transaction::parse(&transact.bytes).expect("as encoded")),
            OwnedOp::PutFor(key, life, value) => Op::PutFor { key, life: *life, value },
            OwnedOp::Grant(ttl_ms) => Op::GrantLease { ttl_ms: *ttl_ms },
            OwnedOp::Keep(lease) => Op::KeepLease { lease: *lease },
            OwnedOp::Revoke(lease) => Op::RevokeLease { lease: *lease },
            OwnedOp::Expire(most) => Op::Expire { most: *most },
        };
        let Owned { session, sequence, answered_below, .. } = *self;
        Write { namespace: &self.namespace, session, sequence, answered_below, op }
    }
}

pub fn batch(ring_time_ms: u64, writes: &[Owned]) -> Bytes {
    let mut builder = Builder::new();
    builder.start(ring_time_ms);
    for write in writes {
        builder.push(&write.as_write()).expect("tests stay within bounds");
    }
    assert_eq!(builder.len(), writes.len());
    builder.finish()
}

/// Applies the writes as one batch at the next index.
pub fn apply(state: &mut State, ring_time_ms: u64, writes: &[Owned]) -> Vec<Answer> {
    let bytes = batch(ring_time_ms, writes);
    let mut answers = Vec::new();
    state.apply(state.applied() + 1, &parse(&bytes).expect("just built"), &mut answers);
    assert_eq!(answers.len(), writes.len());
    answers
}

/// Opens a session and returns its id.
pub fn open(state: &mut State, ring_time_ms: u64) -> u64 {
    let answers = apply(state, ring_time_ms, &[Owned::open()]);
    assert_eq!(answers[0].outcome, Ok(()));
    answers[0].revision.session_id()
}

pub fn small_limits() -> Limits {
    Limits { sessions_max: 5, session_window: 4, answers_max: 20_000, session_lifetime_ms: 3_000 }
}
