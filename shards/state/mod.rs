//! The state machine of one shard: keys with revisions, client sessions, ring time. The last step of a write's way.
//!
//! ```text
//!   log entry --parse--> Batch --apply(index)--> State --> one Answer a write
//!                                                 |  ^
//!                                    freeze/slice |  | Loader
//!                                                 v  |
//!                                               snapshot
//!
//!   command.rs  the bytes of a batch            freeze.rs   what a snapshot under way still needs; kept/ what scans do, too
//!   tables.rs, table.rs  the keys of a namespace      snapshot/   its slices, and back
//!   run.rs      neighbours, searched fast       ops/        writes that are no put and no delete
//!   record.rs   one key in one allocation       sessions.rs what makes a retried write happen once
//!   events.rs   each change of a key, for who listens
//! ```
//!
//! Everything here is a function of the log alone: no clock (ring time comes with the batch), no I/O, no randomness, no hasher
//! with a secret. Two nodes that applied the same entries have states with the same [`State::hash`].
//!
//! **Invariants**
//! - The applied index only grows. Ring time never goes back: a batch with an older time is applied at the time already reached.
//! - Apply is total: any batch that [`command::parse`] accepts gets one answer for each write, and a denied write changes no key.
//! - A record's revision is that of the last write that changed it; revisions of one shard ascend with the log, and only the keys
//!   of one transaction share one.
//! - A namespace without keys does not exist.
//! - What was frozen is what the slices carry, whatever is applied between them; what is pinned is read likewise.
//!
//! **Not here**: who may write (admission), when a snapshot is due and where it goes (`raft/`), watches (`watch/` listens).

mod answer;
pub mod command;
pub mod events;
mod freeze;
mod kept;
pub mod limits;
mod look;
mod ops;
mod reader;
mod record;
mod run;
mod sessions;
mod snapshot;
mod table;
mod tables;

#[cfg(test)]
mod tests;

pub use answer::{Answer, Denied, Revision};
use command::{Batch, Op, Write};
use events::{Change, ChangeKind, Sink};
use kept::Kept;
pub use kept::{NotPinned, Step};
pub use limits::Limits;
pub use look::Stats;
use ops::deltas::{Deltas, canonical};
use ops::folds::Folds;
pub use ops::leases::Leased;
use ops::leases::Leases;
pub use ops::{counter, erase, extend, transaction};
use ops::{deltas, leases};
pub use reader::Malformed;
use record::{Extras, Record};
use sessions::{Admission, Moment, Sessions};
use snapshot::digest::Digest;
pub use snapshot::loader::Loader;
use snapshot::{digest, slice};
use table::{Before, FETCH_KEYS};
use tables::Tables;

/// The replicated state of one shard.
#[derive(Debug)]
pub struct State {
    limits: Limits,
    applied: u64,
    ring_time_ms: u64,
    contents: Contents,
    sessions: Sessions,
    kept: Kept,
}

/// All keys, and what ends their lives.
#[derive(Debug, Default)]
struct Contents {
    folds: Folds,
    tables: Tables,
    leases: Leases,
    keys: u64,
    bytes: u64,
}

/// A key's value, and when it last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The value.
    pub value: &'a [u8],
    /// Of the last change.
    pub revision: Revision,
}

/// Keys with what they have.
pub type Range<'a, 'b> = Box<dyn Iterator<Item = (&'a [u8], Found<'a>)> + 'b>;

/// A snapshot is under way; `thaw` ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadyFrozen;

impl std::fmt::Display for AlreadyFrozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a snapshot of this shard is under way; one at a time")
    }
}
impl std::error::Error for AlreadyFrozen {}

impl State {
    /// Empty, before the first log entry.
    pub fn new(limits: Limits) -> State {
        State {
            limits: limits.bounded(),
            applied: 0,
            ring_time_ms: 0,
            contents: Contents::default(),
            sessions: Sessions::default(),
            kept: Kept::default(),
        }
    }

    /// Applies the batch at log index `index`; appends one answer for each write, in order.
    ///
    /// # Panics
    /// If `index` is not above the applied one: an entry applied twice is a broken shard.
    pub fn apply(&mut self, index: u64, batch: &Batch<'_>, answers: &mut Vec<Answer>) {
        self.apply_to(index, batch, answers, &mut ());
    }

    /// The same, and tells `sink` each change.
    ///
    /// # Panics
    /// As [`State::apply`].
    pub fn apply_to<S: Sink>(&mut self, index: u64, batch: &Batch<'_>, answers: &mut Vec<Answer>, sink: &mut S) {
        self.advance(index);
        self.ring_time_ms = self.ring_time_ms.max(batch.ring_time_ms);
        let now = Moment { index, ring_time_ms: self.ring_time_ms };
        self.sessions.expire(now, &self.limits, self.kept.frozen.as_mut());
        answers.reserve(batch.len());
        let (mut writes, mut some) = (batch.iter(), Vec::with_capacity(FETCH_KEYS.min(batch.len())));
        for first in (0..).step_by(FETCH_KEYS).take(batch.len().div_ceil(FETCH_KEYS)) {
            some.clear();
            some.extend(writes.by_ref().take(FETCH_KEYS));
            self.contents.fetch(&some);
            for (position, write) in (first..).zip(&some) {
                answers.push(self.apply_write(Revision { index, position }, write, now, sink));
            }
        }
    }

    /// Notes a log entry that is not a batch (a blank one, a membership), so that `applied` is the log's.
    ///
    /// # Panics
    /// As [`State::apply`].
    pub fn advance(&mut self, index: u64) {
        assert!(index > self.applied, "log index {index} applied after {}", self.applied);
        self.applied = index;
    }

    fn apply_write<S: Sink>(&mut self, revision: Revision, write: &Write<'_>, now: Moment, sink: &mut S) -> Answer {
        let State { limits, contents, sessions, kept, .. } = self;
        let ring_time_ms = now.ring_time_ms;
        let mut answer =
            Answer { outcome: Ok(()), revision, ring_time_ms, existed: false, never: false, duplicate: false, gets: None };
        match write.op {
            Op::OpenSession => answer.outcome = sessions.open(revision, now, limits, kept.frozen.as_mut()),
            Op::CloseSession => answer.existed = sessions.close(write.session, now, limits, kept.frozen.as_mut()),
            _ if write.session == 0 => contents.run(write, kept, &mut answer, sink),
            _ => match sessions.admit(write, now, limits, kept.frozen.as_mut()) {
                Admission::Apply(seat) => {
                    contents.run(write, kept, &mut answer, sink);
                    if answer.outcome.is_ok() && !(answer.never && planted!(NeverWithoutFence)) {
                        seat.keep(&answer);
                    }
                }
                Admission::Answered(first) => return first,
                Admission::Denied(denied) => answer.outcome = Err(denied),
            },
        }
        answer
    }

    /// Drops what reads have folded, which nobody has borrowed any more.
    #[inline]
    pub fn forget_folds(&mut self) {
        if !self.contents.folds.is_empty() {
            self.contents.folds.forget();
        }
    }

    /// A key's value.
    pub fn get(&self, namespace: &str, key: &[u8]) -> Option<Found<'_>> {
        self.contents.get(namespace, key)
    }

    /// Log index of the last entry applied; 0 before the first.
    pub fn applied(&self) -> u64 {
        self.applied
    }
    /// Ring time reached, in milliseconds.
    pub fn ring_time_ms(&self) -> u64 {
        self.ring_time_ms
    }
}

/// What the digest of a state begins with.
fn digest_moment(digest: &mut Digest, applied: u64, ring_time_ms: u64) {
    digest.word(applied);
    digest.word(ring_time_ms);
}

impl Contents {
    /// Fetches into the cache what these writes will read, as far as they are to the namespace of the first.
    fn fetch(&self, writes: &[Write<'_>]) {
        let [first, _, ..] = writes else { return };
        let Some(table) = self.tables.get(first.namespace) else { return };
        table.fetch(writes.iter().filter(|write| write.namespace == first.namespace).filter_map(|write| match write.op {
            Op::Put { key, .. }
            | Op::PutFor { key, .. }
            | Op::Delete { key }
            | Op::Add { key, .. }
            | Op::Extend { key, .. } => Some(key),
            _ => None,
        }));
    }

    fn record(&self, namespace: &str, key: &[u8]) -> Option<&Record> {
        self.tables.get(namespace)?.get(key)
    }

    fn get(&self, namespace: &str, key: &[u8]) -> Option<Found<'_>> {
        self.record(namespace, key).map(|record| self.found(record))
    }

    /// What a record holds, folded if need be.
    #[inline]
    fn found<'a>(&'a self, record: &'a Record) -> Found<'a> {
        let value = if record.has_deltas() { self.fold(record) } else { record.value() };
        Found { value, revision: record.revision() }
    }

    fn fold<'a>(&'a self, record: &'a Record) -> &'a [u8] {
        let deltas = Deltas::of(record.value());
        deltas.plain().unwrap_or_else(|| self.folds.keep(canonical(&deltas.fold())))
    }

    /// Runs a write at the revision of its answer, and says in there what came of it.
    fn run<S: Sink>(&mut self, write: &Write<'_>, kept: &mut Kept, answer: &mut Answer, sink: &mut S) {
        let (revision, namespace) = (answer.revision, write.namespace);
        match write.op {
            Op::Put { key, value } => {
                self.tell_put(revision, namespace, key, value, sink);
                answer.existed = self.put(revision, namespace, key, Extras::default(), value, kept);
            }
            Op::Delete { key } => {
                answer.existed = self.remove(ChangeKind::Delete, revision, namespace, key, kept, sink);
            }
            Op::Transact(transaction) => transaction.run(self, namespace, kept, answer, sink),
            Op::Add { key, addition } => addition.run(self, namespace, key, kept, answer, sink),
            Op::Extend { key, extension } => extension.run(self, namespace, key, kept, answer, sink),
            Op::DeleteRange { from, erasure } => erasure.run(self, namespace, from, kept, answer, sink),
            // No answer is kept, or it would have been given.
            Op::Resolve => answer.never = true,
            _ => self.run_of_leases(write, kept, answer, sink),
        }
    }

    /// Tells that a key will be put.
    fn tell_put<S: Sink>(&self, revision: Revision, namespace: &str, key: &[u8], value: &[u8], sink: &mut S) {
        let previous = if sink.wants_previous() { self.get(namespace, key) } else { None };
        sink.changed(&Change { kind: ChangeKind::Put, namespace, key, value, revision, previous });
    }

    /// Sets a key, and tells nobody; whether it existed.
    fn put(&mut self, revision: Revision, namespace: &str, key: &[u8], extras: Extras, value: &[u8], kept: &mut Kept) -> bool {
        let keep_through = kept.keep_through(namespace, key);
        self.keys += 1;
        self.bytes += record::bytes_of(key, extras, value);
        let before = self.tables.get_or_new(namespace).put(revision, key, extras, value, keep_through);
        self.settle(namespace, key, before, extras, kept)
    }

    /// Removes a key, for the reason that `kind` says; whether it existed.
    fn remove<S: Sink>(
        &mut self,
        kind: ChangeKind,
        revision: Revision,
        namespace: &str,
        key: &[u8],
        kept: &mut Kept,
        sink: &mut S,
    ) -> bool {
        let gone = Change { kind, namespace, key, value: &[], revision, previous: None };
        let previous = if sink.wants_previous() { self.get(namespace, key) } else { None };
        if previous.is_some() {
            sink.changed(&Change { previous, ..gone });
        }
        let told = previous.is_some();
        let keep_through = kept.keep_through(namespace, key);
        let Some(table) = self.tables.get_mut(namespace) else { return false };
        let before = table.remove(key, keep_through);
        if table.is_empty() {
            self.tables.remove(namespace);
        }
        let existed = self.settle(namespace, key, before, Extras::default(), kept);
        if existed && !told {
            sink.changed(&gone);
        }
        existed
    }

    /// Counts out what was there before a change, keeps it for a snapshot, and notes what the key has now; whether it existed.
    fn settle(&mut self, namespace: &str, key: &[u8], before: Before, now: Extras, kept: &mut Kept) -> bool {
        let (bytes, was) = match before {
            Before::Absent => (None, Extras::default()),
            Before::Replaced(bytes, was) => (Some(bytes), was),
            Before::Kept(record) => {
                let before = (Some(record.bytes()), record.extras());
                kept.keep_record(namespace, record);
                before
            }
        };
        if was != now {
            self.leases.moved(namespace, key, was, now);
        }
        self.keys -= u64::from(bytes.is_some());
        self.bytes -= bytes.unwrap_or(0);
        bytes.is_some()
    }
}
