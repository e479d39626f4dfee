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

    /// Adds a write; gives its waiter back with the reason if it cannot be written down. A batch has the ring time at which its first
    /// write arrived.
    pub fn push(
        &mut self,
        write: &Write<'_>,
        waiter: Waiter,
        ring_time_ms: impl FnOnce(Instant) -> u64,
    ) -> Result<(), (Waiter, String)> {
        let full = self.waiters.len() == BATCH_WRITES_MAX
            || self.builder.bytes() + write.encoded_bytes() > self.batch_bytes_max && !self.waiters.is_empty();
        if full {
            self.seal();
        }
        if self.waiters.is_empty() {
            self.builder.start(ring_time_ms(waiter.arrived));
        }
        if let Err(why) = self.builder.push(write) {
            return Err((waiter, why.to_string()));
        }
        self.waiters.push(waiter);
        Ok(())
    }

    fn seal(&mut self) {
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
    pub fn take(&mut self) -> Option<Rc<Batch>> {
        if self.sealed.is_empty() && !self.waiters.is_empty() {
            self.seal();
        }
        let (payload, waiters) = self.sealed.pop_front()?;
        self.sealed_bytes -= payload.len();
        let waiters = RefCell::new(waiters.into_iter().map(Some).collect());
        Some(Rc::new(Batch { payload, waiters }))
    }

    /// Takes out the writes whose deadline has passed: they never enter the log.
    pub fn take_expired(&mut self, now: Instant) -> Vec<Waiter> {
        let expired = |waiters: &[Waiter]| waiters.iter().any(|w| w.expired(now));
        if !expired(&self.waiters) && !self.sealed.iter().any(|(_, waiters)| expired(waiters)) {
            return Vec::new();
        }
        if !self.waiters.is_empty() {
            self.seal();
        }
        // Rare: the batches are made anew from what remains.
        let mut gone = Vec::new();
        for (payload, waiters) in std::mem::take(&mut self.sealed) {
            let batch = command::parse(&payload).expect("a payload parses: the builder made it");
            let ring_time_ms = batch.ring_time_ms;
            for (write, waiter) in batch.iter().zip(waiters) {
                if waiter.expired(now) {
                    gone.push(waiter);
                } else {
                    let again = self.push(&write, waiter, |_| ring_time_ms);
                    assert!(again.is_ok(), "a write that was written down once is written down again");
                }
            }
        }
        self.sealed_bytes = self.sealed.iter().map(|(payload, _)| payload.len()).sum();
        gone
    }
}
