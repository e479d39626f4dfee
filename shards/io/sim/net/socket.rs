//! One end of a connection: what has arrived and was not read, what is on its way here, and its two halves.
//!
//! ```text
//!   peer's write_all ─▶ [flight: due, item] ─ link ─▶ [inbox] ─▶ read
//!                        bounded together: a writer waits when its peer does not read
//! ```
//! **Invariant**: items arrive in the order in which they were sent; after a reset nothing arrives.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use super::super::executor::Process;
use crate::io::{PreambleBytes, Reader, Writer};

/// Bytes that were sent and not read, at most: about what two kernels keep for a connection.
const WINDOW_BYTES: usize = 256 << 10;

/// What travels.
pub(in super::super) enum Item {
    Preamble(PreambleBytes),
    Bytes(Vec<u8>),
    /// The sender will send no more.
    End,
    Reset,
}

#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    ended: bool,
    reset: bool,
}

impl Inbox {
    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let taken = into.len().min(self.len());
        into[..taken].copy_from_slice(&self.bytes[self.start..self.start + taken]);
        self.start += taken;
        taken
    }
}

/// See the head of this file.
pub(in super::super) struct Socket {
    /// The two ends of a connection have numbers that differ in the lowest bit.
    number: u64,
    pub(super) process: Rc<Process>,
    peer: RefCell<Weak<Socket>>,
    pub(super) inbox: RefCell<Inbox>,
    pub(super) flight: RefCell<VecDeque<(u64, Item)>>,
    flight_bytes: Cell<usize>,
    pub(super) due_last: Cell<u64>,
    /// Its next delivery is in the world's queue.
    pub(super) scheduled: Cell<bool>,
    halves: Cell<u8>,
    /// Shut down, dropped, or its process has died.
    closed: Cell<bool>,
    reset_sent: Cell<bool>,
    reading: RefCell<Option<Waker>>,
    writing: RefCell<Option<Waker>>,
}

impl Socket {
    pub(super) fn pair(number: u64, ours: Rc<Process>, theirs: Rc<Process>) -> (Rc<Socket>, Rc<Socket>) {
        let end = |number, process| {
            Rc::new(Socket {
                number,
                process,
                peer: RefCell::default(),
                inbox: RefCell::default(),
                flight: RefCell::default(),
                flight_bytes: Cell::new(0),
                due_last: Cell::new(0),
                scheduled: Cell::new(false),
                halves: Cell::new(2),
                closed: Cell::new(false),
                reset_sent: Cell::new(false),
                reading: RefCell::default(),
                writing: RefCell::default(),
            })
        };
        let (near, far) = (end(number & !1, ours), end(number | 1, theirs));
        *near.peer.borrow_mut() = Rc::downgrade(&far);
        *far.peer.borrow_mut() = Rc::downgrade(&near);
        (near, far)
    }

    pub(in super::super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn peer(&self) -> Option<Rc<Socket>> {
        self.peer.borrow().upgrade()
    }

    /// Nothing can be read or written here any more, and nothing is on its way here.
    pub(super) fn is_over(&self) -> bool {
        (self.halves.get() == 0 || self.process.is_dead()) && self.flight.borrow().is_empty()
    }

    pub(super) fn put_in_flight(&self, due: u64, item: Item) {
        if let Item::Bytes(bytes) = &item {
            self.flight_bytes.set(self.flight_bytes.get() + bytes.len());
        }
        self.flight.borrow_mut().push_back((due, item));
    }

    /// The next item that is due.
    pub(super) fn take_due(&self, now: u64) -> Option<Item> {
        let mut flight = self.flight.borrow_mut();
        if flight.front().is_none_or(|(due, _)| *due > now) {
            return None;
        }
        let (_, item) = flight.pop_front()?;
        if let Item::Bytes(bytes) = &item {
            self.flight_bytes.set(self.flight_bytes.get() - bytes.len());
        }
        Some(item)
    }

    /// Of what is in flight, only the first `items` arrive.
    pub(super) fn lose_after(&self, items: usize) {
        let mut flight = self.flight.borrow_mut();
        flight.truncate(items);
        let bytes = |(_, item): &(u64, Item)| if let Item::Bytes(bytes) = item { bytes.len() } else { 0 };
        self.flight_bytes.set(flight.iter().map(bytes).sum());
    }

    /// An item arrives. True: the sender is to be told that nobody is here.
    pub(super) fn arrive(&self, item: Item) -> bool {
        if matches!(item, Item::Reset) {
            self.break_off();
            return false;
        }
        if self.process.is_dead() || self.halves.get() == 0 {
            return matches!(item, Item::Bytes(_)) && !self.reset_sent.replace(true);
        }
        let mut inbox = self.inbox.borrow_mut();
        match item {
            Item::Bytes(bytes) if !self.closed.get() && !inbox.reset => inbox.push(&bytes),
            Item::End => inbox.ended = true,
            Item::Bytes(_) | Item::Preamble(_) | Item::Reset => {}
        }
        drop(inbox);
        wake(&self.reading);
        false
    }

    /// As a reset: what was not read is gone, reads and writes fail.
    pub(super) fn break_off(&self) {
        let mut inbox = self.inbox.borrow_mut();
        (inbox.bytes, inbox.start, inbox.reset) = (Vec::new(), 0, true);
        drop(inbox);
        self.lose_after(0);
        wake(&self.reading);
        wake(&self.writing);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.inbox.borrow().reset
    }

    fn room(&self) -> usize {
        let waiting = self.peer().map_or(0, |peer| peer.flight_bytes.get() + peer.inbox.borrow().len());
        WINDOW_BYTES.saturating_sub(waiting)
    }

    fn send(&self, item: Item) {
        self.process.world.network.send(&self.process.world, self, item);
    }

    /// Ends both directions; what was sent before still arrives.
    fn close(&self) {
        if !self.closed.replace(true) && !self.process.is_dead() && !self.is_broken() {
            self.send(Item::End);
        }
        wake(&self.reading);
        wake(&self.writing);
    }

    /// Both halves go without having been given to anybody.
    pub(super) fn abandon(&self) {
        self.halves.set(0);
        self.close();
    }

    fn drop_half(&self) {
        let left = self.halves.get().saturating_sub(1);
        self.halves.set(left);
        if self.process.is_dead() {
            return;
        }
        if left == 0 {
            self.close();
            // As TCP does when bytes were left unread: the peer's unread ones may be lost with it.
            if self.inbox.borrow().len() > 0 && !self.is_broken() && !self.reset_sent.replace(true) {
                self.send(Item::Reset);
            }
            self.process.world.network.forget_if_over(self);
        }
    }

    /// The process has died: its wakers lead nowhere.
    pub(super) fn die(&self) {
        self.closed.set(true);
        self.halves.set(0);
        let wakers = (self.reading.take(), self.writing.take());
        drop(wakers);
    }

    pub(super) fn halves(self: Rc<Self>) -> (SimReader, SimWriter) {
        (SimReader(self.clone()), SimWriter(self))
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    let waker = waker.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Receiving half.
pub struct SimReader(Rc<Socket>);

impl Reader for SimReader {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let socket = &self.0;
        poll_fn(|cx| {
            let mut inbox = socket.inbox.borrow_mut();
            if inbox.len() > 0 {
                // A kernel gives what it has, and sometimes less.
                let most = socket.process.world.network.some_of(inbox.len().min(buffer.len()));
                let taken = inbox.take(&mut buffer[..most]);
                drop(inbox);
                if let Some(peer) = socket.peer() {
                    wake(&peer.writing);
                }
                return Poll::Ready(Ok(taken));
            }
            if socket.closed.get() {
                return Poll::Ready(Ok(0));
            }
            if inbox.reset {
                return Poll::Ready(Err(io::Error::new(ErrorKind::ConnectionReset, "the simulated connection was reset")));
            }
            if inbox.ended {
                return Poll::Ready(Ok(0));
            }
            *socket.reading.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for SimReader {
    fn drop(&mut self) {
        self.0.drop_half();
    }
}

/// Sending half.
pub struct SimWriter(Rc<Socket>);

impl Writer for SimWriter {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let socket = &self.0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = poll_fn(|cx| {
                if socket.closed.get() {
                    return Poll::Ready(Err(io::Error::new(ErrorKind::BrokenPipe, "the simulated connection is shut down")));
                }
                if socket.is_broken() || socket.peer().is_none() {
                    return Poll::Ready(Err(io::Error::new(ErrorKind::ConnectionReset, "the simulated connection was reset")));
                }
                match socket.room() {
                    0 => {
                        *socket.writing.borrow_mut() = Some(cx.waker().clone());
                        Poll::Pending
                    }
                    room => Poll::Ready(Ok(room)),
                }
            })
            .await?;
            let piece = socket.process.world.network.some_of(rest.len().min(room));
            socket.send(Item::Bytes(rest[..piece].to_vec()));
            rest = &rest[piece..];
        }
        Ok(())
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        self.0.close();
        Ok(())
    }
}

impl Drop for SimWriter {
    fn drop(&mut self) {
        self.0.drop_half();
    }
}
