//! One connection to one shard on one node: many calls in flight, one task that owns the socket.
//!
//! ```text
//!  call: lock, place in the slab, encode into `out`, unlock ---+          +--> wakes the calls, then lets them run,
//!  call: lock, place, encode, unlock --------------------------+          |    so that their next requests leave in
//!  call: ...                                                   v          |    one write
//!                                   driver task:  write all of `out`  ->  read, decode, complete
//! ```
//!
//! **Coalescing.** The first call that finds the driver asleep wakes it; until it runs, the others only append. After a read
//! that completed several calls the driver steps back once, so that those calls can ask again before it writes. A lone call
//! on a quiet connection writes itself: one task switch less for the caller who waits for nothing but the round trip.
//!
//! **Deadlines.** No timer per call: the driver looks at all waiting calls every [`SWEEP`] while there are any, so a deadline
//! is kept to within that. The same look finds a silent node: it is pinged, then given up.
//!
//! **Invariants**
//! - Whoever waits is answered, swept, or told that the connection is lost: no outcome depends on another event.
//! - `Lost { sent: false }` is said only when the last byte of the request never reached the kernel, and never will.
//! - After `closed` is set, nothing is added to `out` and nobody waits.
//!
//! **Not here**: which node, what to do when it fails (`call.rs`), how it is opened (`handshake.rs`).

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ringbeam_wire::client::{Encoder, RequestBody, Welcome};
use tokio::net::tcp::OwnedWriteHalf;

use crate::answer::Outcome;
use crate::client::Inner;
use crate::health::Health;
use crate::limits::OUT_BYTES_MAX;
#[allow(unused_imports)] // for the documentation
use crate::limits::SWEEP;
use crate::routing::Address;
use crate::slab::{Look, Slab};

/// A request id that belongs to no place of the slab: its reply reaches nobody.
pub(crate) const NOBODY: u64 = u64::MAX;

/// The request id of a connection's stream of topologies; no place of the slab either.
pub(crate) const FOLLOWING: u64 = u64::MAX - 1;

/// The way back from a connection to the client that uses it.
pub(crate) type Doubt = Arc<OnceLock<Weak<Inner>>>;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) address: Address,
    pub(crate) welcome: Welcome,
    pub(crate) writer: OwnedWriteHalf,
    /// Whom to tell that this node may not be the leader any more; nobody until the client is made.
    pub(crate) doubt: Doubt,
    /// Its node's, as all connections to this address see it.
    pub(crate) health: Arc<Health>,
    shared: Mutex<Shared>,
}

/// What callers and the driver share.
pub(crate) struct Shared {
    pub(crate) slab: Slab<Outcome>,
    encoder: Encoder,
    /// Encoded requests that nobody has begun to write.
    pub(crate) out: Vec<u8>,
    /// Bytes ever put into `out`.
    queued: u64,
    /// Bytes ever taken by the kernel.
    pub(crate) sent: u64,
    /// The driver is writing a piece that it took out of `out`.
    pub(crate) writing: bool,
    /// Replies in the last read.
    pub(crate) burst: usize,
    /// The driver has a sweep ahead.
    pub(crate) sweeping: bool,
    /// The driver, when it is asleep and wants to be woken for `out`.
    pub(crate) driver: Option<Waker>,
    /// Why there is no more connection.
    pub(crate) closed: Option<Arc<str>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} waiting, {} bytes to send, closed {:?}", self.slab.waiting(), self.out.len(), self.closed)
    }
}

impl Connection {
    pub(crate) fn new(
        address: Address,
        welcome: Welcome,
        writer: OwnedWriteHalf,
        encoder: Encoder,
        doubt: Doubt,
        health: Arc<Health>,
    ) -> Connection {
        let shared = Shared {
            slab: Slab::new(),
            encoder,
            out: Vec::new(),
            queued: 0,
            sent: 0,
            writing: false,
            burst: 0,
            sweeping: false,
            driver: None,
            closed: None,
        };
        Connection { address, welcome, writer, doubt, health, shared: Mutex::new(shared) }
    }

    /// Sends a request and waits for its outcome. Dropping the future forgets the reply, it does not take the request back.
    pub(crate) fn call<'a>(&'a self, body: RequestBody<'a>, deadline: Instant, deadline_ms: u32) -> Call<'a> {
        Call { connection: self, body, deadline, deadline_ms, id: None }
    }

    /// Whether calls can still be made.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().closed.is_none()
    }

    /// How many calls wait for their answers; `None`: it is closed.
    pub(crate) fn busy(&self) -> Option<u32> {
        let shared = self.lock();
        shared.closed.is_none().then(|| shared.slab.waiting())
    }

    /// Asks for the topology now and whenever it changes. Goes with the first call.
    pub(crate) fn follow(&self) {
        self.lock().append(FOLLOWING, 0, &RequestBody::FollowTopology);
    }

    /// Sends soon what needs no answer, unless too much is in flight already.
    pub(crate) fn post(&self, body: &RequestBody<'_>) {
        let mut shared = self.lock();
        if shared.closed.is_some() || shared.out.len() > OUT_BYTES_MAX {
            return;
        }
        shared.append(NOBODY, 0, body);
        let driver = shared.driver.take();
        drop(shared);
        driver.into_iter().for_each(Waker::wake);
    }

    /// Why it is closed, as the end of a sentence about this node.
    pub(crate) fn why_closed(&self) -> String {
        match &self.lock().closed {
            Some(why) => format!("{}: {why}", self.address),
            None => format!("{}: the connection is open", self.address),
        }
    }

    /// Ends the connection and tells everyone who waits.
    pub(crate) fn close(&self, why: &str) {
        self.end(why, true);
    }

    /// As [`Connection::close`], by its driver: nothing is being written.
    pub(crate) fn close_by_driver(&self, why: &str) {
        self.end(why, false);
    }

    fn end(&self, why: &str, driven: bool) {
        let mut wakers = Vec::new();
        let mut shared = self.lock();
        if shared.closed.is_none() {
            shared.closed = Some(why.into());
            // What the driver has taken out of `out` is not all in the kernel, but may be in a moment.
            let sent = if driven && shared.writing { shared.queued - shared.out.len() as u64 } else { shared.sent };
            shared.slab.sweep(&mut wakers, |_, end| Some(Outcome::Lost { sent: end <= sent }));
            shared.out = Vec::new();
        }
        wakers.extend(shared.driver.take());
        drop(shared);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends the connection after a last word that needs no answer, if the socket takes it at once.
    pub(crate) fn close_saying(&self, body: &RequestBody<'_>, why: &str) {
        let mut guard = self.lock();
        let shared = &mut *guard;
        if shared.closed.is_none() && !shared.writing {
            shared.append(NOBODY, 0, body);
            // A failure leaves the ring with a session that expires by itself.
            let _ = self.writer.try_write(&shared.out);
        }
        drop(guard);
        self.close(why);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, call: &Call<'_>, waker: &Waker) -> Result<u64, Outcome> {
        let mut guard = self.lock();
        let shared = &mut *guard;
        if shared.closed.is_some() {
            return Err(Outcome::Lost { sent: false });
        }
        if shared.out.len() > OUT_BYTES_MAX {
            return Err(Outcome::Busy);
        }
        let lone = shared.slab.waiting() == 0 && shared.burst <= 1 && shared.out.is_empty() && !shared.writing;
        let id = shared.slab.insert(waker.clone(), call.deadline).ok_or(Outcome::Busy)?;
        let end = shared.append(id, call.deadline_ms, &call.body);
        shared.slab.ends_at(id, end);
        if lone && let Ok(bytes) = self.writer.try_write(&shared.out) {
            shared.sent += bytes as u64;
            shared.out.drain(..bytes);
        }
        let wake = if shared.out.is_empty() && shared.sweeping { None } else { shared.driver.take() };
        drop(guard);
        if let Some(driver) = wake {
            driver.wake();
        }
        Ok(id)
    }
}

impl Shared {
    /// Encodes one request. Returns where it ends in the connection's stream of bytes.
    pub(crate) fn append(&mut self, id: u64, deadline_ms: u32, body: &RequestBody<'_>) -> u64 {
        let before = self.out.len();
        self.encoder.request(&mut self.out, id, deadline_ms, body);
        self.queued += (self.out.len() - before) as u64;
        self.queued
    }
}

/// A call in flight: submits at its first poll, then waits. It holds no allocation.
pub(crate) struct Call<'a> {
    connection: &'a Connection,
    body: RequestBody<'a>,
    deadline: Instant,
    deadline_ms: u32,
    id: Option<u64>,
}

impl Future for Call<'_> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(id) = self.id else {
            return match self.connection.submit(&self, cx.waker()) {
                Ok(id) => {
                    self.id = Some(id);
                    Poll::Pending
                }
                Err(outcome) => Poll::Ready(outcome),
            };
        };
        let look = self.connection.lock().slab.look(id, cx.waker());
        match look {
            Some(Look::Waiting(_stale)) => Poll::Pending,
            Some(Look::Done(outcome)) => {
                self.id = None;
                Poll::Ready(outcome)
            }
            // A place is freed by its call only, so this is a call polled after its end.
            None => Poll::Ready(Outcome::Lost { sent: true }),
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let left = self.connection.lock().slab.forget(id);
            drop(left);
        }
    }
}
