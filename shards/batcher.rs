//! The queue between connections and raft: writes that wait, already in the form that the log keeps.
//!
//! ```text
//! push ─▶ [open batch: command::Builder + waiters] ─full─▶ sealed batches ─▶ take ─▶ one raft entry each
//! ```
//!
//! Pure: no clock (`now` is an argument), no task. The bytes of a write are copied once, out of its frame into the open batch.
//!
//! **Invariants**
//! - Batches leave in the order in which they were filled; a batch holds at most `batch_bytes_max` (or one larger write) and
//!   `limits::BATCH_WRITES_MAX` writes.
//! - A batch has the ring time at which it was closed, so none of its writes arrived later: what a lease is given, or a key, it has
//!   from a moment on at which its client had asked for it.
//! - `waiters[i]` waits for the i-th write of its batch, or is gone because it was answered before.
//!
//! **Not here**: whether a write may enter (`admission.rs`).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use ringbeam_wire::client::ReplyBody;

use crate::connection::Outbox;
use crate::io::Instant;
use crate::limits::BATCH_WRITES_MAX;
use crate::state::command::{self, Write};

/// Who waits for the answer of a write, or of a read.
pub(crate) struct Waiter {
    pub outbox: Rc<Outbox>,
    pub request: u64,
    pub arrived: Instant,
    /// When the client stops waiting, if it said so.
    pub deadline: Option<Instant>,
    /// What a write's answer looks like on the wire.
    pub form: Form,
}

/// The forms of an answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Written,
    SessionOpened,
    Transacted,
    /// Of this lease; 0: of the one that it grants.
    Leased(u64),
    Counted,
    RangeDeleted,
    Resolved,
}

impl Waiter {
    /// Puts the answer into the connection's outbox.
    pub fn answer(self, body: &ReplyBody<'_>) {
        self.outbox.reply(self.request, body);
    }

    fn expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// Writes that go through raft together.
pub(crate) struct Batch {
    payload: Bytes,
    waiters: RefCell<Vec<Option<Waiter>>>,
}

impl Batch {
    pub fn payload(&self) -> Bytes {
        self.payload.clone()
    }

    /// Answers each write that was not answered before, in order; `answer` gets its position in the batch.
    pub fn answer_all<'a>(&self, mut answer: impl FnMut(usize, &Waiter) -> ReplyBody<'a>) {
        for (position, slot) in self.waiters.borrow_mut().iter_mut().enumerate() {
            let Some(waiter) = slot.take() else { continue };
            let body = answer(position, &waiter);
            waiter.answer(&body);
        }
    }

    /// Takes out whose client has stopped waiting; the write itself goes on.
    pub fn take_expired(&self, now: Instant) -> Vec<Waiter> {
        let mut waiters = self.waiters.borrow_mut();
        waiters.iter_mut().filter(|w| w.as_ref().is_some_and(|w| w.expired(now))).filter_map(Option::take).collect()
    }
}

/// The queue.
pub(crate) struct Batcher {
    batch_bytes_max: usize,
    builder: command::Builder,
    waiters: Vec<Waiter>,
    sealed: VecDeque<(Bytes, Vec<Waiter>)>,
    sealed_bytes: usize,
}

impl Batcher {
    pub fn new(batch_bytes_max: usize) -> Self {
        Batcher {
            batch_bytes_max,
            builder: command::Builder::new(),
            waiters: Vec::new(),
            sealed: VecDeque::new(),
            sealed_bytes: 0,
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.sealed_bytes + if self.waiters.is_empty() { 0 } else { self.builder.bytes() }
    }

    /// Adds a write; gives its waiter back with the reason if it cannot be written down. The ring time is that of now, of which a batch
    /// asks once, when it is closed.
    pub fn push(
        &mut self,
        write: &Write<'_>,
        waiter: Waiter,
        ring_time_ms: impl FnOnce() -> u64,
    ) -> Result<(), (Waiter, String)> {
        let full = self.waiters.len() == BATCH_WRITES_MAX
            || self.builder.bytes() + write.encoded_bytes() > self.batch_bytes_max && !self.waiters.is_empty();
        if full {
            self.seal(ring_time_ms());
        }
        if self.waiters.is_empty() {
            self.builder.start(0);
        }
        if let Err(why) = self.builder.push(write) {
            return Err((waiter, why.to_string()));
        }
        self.waiters.push(waiter);
        Ok(())
    }

    fn seal(&mut self, ring_time_ms: u64) {
        self.builder.stamp(ring_time_ms);
        let payload = self.builder.finish();
        self.sealed_bytes += payload.len();
        // The next batch is likely to be as large.
        let next = Vec::with_capacity(self.waiters.len());
        self.sealed.push_back((payload, std::mem::replace(&mut self.waiters, next)));
    }

    /// Bytes of the next batch, if anything waits.
    pub fn next_bytes(&self) -> Option<usize> {
        let open = (!self.waiters.is_empty()).then(|| self.builder.bytes());
        self.sealed.front().map(|(payload, _)| payload.len()).or(open)
    }

    /// When the first write of the next batch arrived, if writes that come would still go into that batch.
    pub fn growing_since(&self) -> Option<Instant> {
        let first = self.waiters.first().filter(|_| self.sealed.is_empty())?;
        Some(first.arrived)
    }

    /// The next batch, if anything waits.
    pub fn take(&mut self, ring_time_ms: impl FnOnce() -> u64) -> Option<Rc<Batch>> {
        if self.sealed.is_empty() && !self.waiters.is_empty() {
            self.seal(ring_time_ms());
        }
        let (payload, waiters) = self.sealed.pop_front()?;
        self.sealed_bytes -= payload.len();
        let waiters = RefCell::new(waiters.into_iter().map(Some).collect());
        Some(Rc::new(Batch { payload, waiters }))
    }

    /// Takes out the writes whose deadline has passed: they never enter the log.
    pub fn take_expired(&mut self, now: Instant, ring_time_ms: u64) -> Vec<Waiter> {
        let expired = |waiters: &[Waiter]| waiters.iter().any(|w| w.expired(now));
        if !expired(&self.waiters) && !self.sealed.iter().any(|(_, waiters)| expired(waiters)) {
            return Vec::new();
        }
        if !self.waiters.is_empty() {
            self.seal(ring_time_ms);
        }
        // Rare: the batches are made anew from what remains.
        let mut gone = Vec::new();
        for (payload, waiters) in std::mem::take(&mut self.sealed) {
            let batch = command::parse(&payload).expect("a payload parses: the builder made it");
            for (write, waiter) in batch.iter().zip(waiters) {
                if waiter.expired(now) {
                    gone.push(waiter);
                } else {
                    let again = self.push(&write, waiter, || ring_time_ms);
                    assert!(again.is_ok(), "a write that was written down once is written down again");
                }
            }
        }
        self.sealed_bytes = self.sealed.iter().map(|(payload, _)| payload.len()).sum();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command::Op;

    const BATCH_BYTES_MAX: usize = 160;

    fn waiter(arrived_ms: u64, deadline_ms: Option<u64>) -> Waiter {
        let at = |ms: u64| Instant(ms * 1_000_000);
        let (outbox, arrived, deadline) = (Outbox::new(), at(arrived_ms), deadline_ms.map(at));
        Waiter { outbox, request: 1, arrived, deadline, form: Form::Leased(7) }
    }

    /// Ring time is the clock's here.
    fn push(batcher: &mut Batcher, waiter: Waiter) {
        let now_ms = waiter.arrived.0 / 1_000_000;
        let keep = Write { namespace: "", session: 0, sequence: 0, answered_below: 0, op: Op::KeepLease { lease: 7 } };
        assert!(batcher.push(&keep, waiter, || now_ms).is_ok());
    }

    fn taken(batcher: &mut Batcher, now_ms: u64) -> (u64, usize) {
        let payload = batcher.take(|| now_ms).expect("something waits").payload();
        let batch = command::parse(&payload).expect("the builder made it");
        (batch.ring_time_ms, batch.len())
    }

    /// A batch that waited had the ring time of its first write. Who kept a lease alive with a later one of it was promised time that
    /// had passed already, and lost the lease before the client's own clock said so.
    #[test]
    fn batch_that_waits_has_no_ring_time_before_the_arrival_of_its_last_write() {
        let mut batcher = Batcher::new(BATCH_BYTES_MAX);
        push(&mut batcher, waiter(1_000, None));
        push(&mut batcher, waiter(5_000, None));
        assert_eq!(taken(&mut batcher, 5_001), (5_001, 2));

        // One that is full is closed by the write that does not fit any more.
        (1..=10).for_each(|n| push(&mut batcher, waiter(n * 1_000, None)));
        assert_eq!(taken(&mut batcher, 20_000), (10_000, 9));
        assert_eq!(taken(&mut batcher, 20_000), (20_000, 1));
    }

    #[test]
    fn batches_that_are_made_anew_without_the_late_have_a_ring_time_of_then() {
        let mut batcher = Batcher::new(BATCH_BYTES_MAX);
        (1..=30).for_each(|n| push(&mut batcher, waiter(n * 1_000, Some(if n % 3 == 0 { 40_000 } else { 90_000 }))));
        assert_eq!(batcher.take_expired(Instant(39_000 * 1_000_000), 39_000).len(), 0);
        assert_eq!(batcher.take_expired(Instant(50_000 * 1_000_000), 50_000).len(), 10);
        let batches: Vec<_> = (0..3).map(|_| taken(&mut batcher, 60_000)).collect();
        assert_eq!(batches, [(50_000, 9), (50_000, 9), (60_000, 2)]);
        assert_eq!((batcher.next_bytes(), batcher.bytes()), (None, 0));
    }
}
