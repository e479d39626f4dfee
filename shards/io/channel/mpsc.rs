//! A bounded queue from many tasks to one.
//!
//! **Invariants**
//! - `queue + reserved <= capacity`, where `reserved` are slots granted to waiting senders that have not filled them yet.
//! - While a sender waits, there is no free slot: a slot that gets free is granted to the first waiter at once. So nobody
//!   takes a slot from one who waits for it. (Between the grant and the moment its task runs, a sender that finds yet
//!   another free slot may fill that one first.)

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::{Ticket, Waiters, wake_all};

/// A channel of at most `capacity` values (at least 1). Its memory grows with what is queued, not with `capacity`.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel without room would never deliver");
    let shared = Rc::new(Shared {
        state: RefCell::new(State {
            queue: VecDeque::new(),
            capacity,
            reserved: 0,
            senders: 1,
            closed: false,
            waiters: Waiters::default(),
            receiver: None,
        }),
    });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

/// The receiver is gone; the value comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SendError<T>(pub T);

/// Why a value was not queued at once; it comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// No room, or others wait for room.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    /// None yet.
    Empty,
    /// None any more: all senders are gone.
    Disconnected,
}

struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    reserved: usize,
    senders: usize,
    /// The receiver is gone or has closed the channel.
    closed: bool,
    waiters: Waiters,
    receiver: Option<Waker>,
}

impl<T> State<T> {
    fn push(&mut self, value: T) -> Option<Waker> {
        self.queue.push_back(value);
        debug_assert!(self.queue.len() + self.reserved <= self.capacity, "more values than slots");
        self.receiver.take()
    }

    /// A slot got free: the first waiter's, if there is one.
    fn grant_slot(&mut self) -> Option<Waker> {
        let waker = self.waiters.grant_one()?;
        self.reserved += 1;
        Some(waker)
    }
}

struct Shared<T> {
    state: RefCell<State<T>>,
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Queues values. The channel ends when the last sender is dropped.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Queues `value`, waiting for room in the order of asking. Dropped while it waits, it has sent nothing.
    pub fn send(&self, value: T) -> Send<'_, T> {
        Send { shared: &self.shared, value: Some(value), ticket: None }
    }

    /// Queues `value` if there is room now and nobody waits for it.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let mut state = self.shared.state.borrow_mut();
        if state.closed {
            return Err(TrySendError::Closed(value));
        }
        if state.queue.len() + state.reserved >= state.capacity {
            return Err(TrySendError::Full(value));
        }
        let waker = state.push(value);
        drop(state);
        wake(waker);
        Ok(())
    }

    /// The receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.state.borrow().closed
    }

    /// A sender that does not keep the channel open.
    pub fn downgrade(&self) -> WeakSender<T> {
        WeakSender { shared: Rc::downgrade(&self.shared) }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.state.borrow_mut().senders += 1;
        Sender { shared: self.shared.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        state.senders -= 1;
        let waker = if state.senders == 0 { state.receiver.take() } else { None };
        drop(state);
        wake(waker);
    }
}

/// A sender that does not keep the channel open.
pub struct WeakSender<T> {
    shared: Weak<Shared<T>>,
}

impl<T> WeakSender<T> {
    /// A sender, if there still is one.
    pub fn upgrade(&self) -> Option<Sender<T>> {
        let shared = self.shared.upgrade()?;
        let mut state = shared.state.borrow_mut();
        if state.senders == 0 {
            return None;
        }
        state.senders += 1;
        drop(state);
        Some(Sender { shared })
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        WeakSender { shared: self.shared.clone() }
    }
}

/// See [`Sender::send`].
pub struct Send<'a, T> {
    shared: &'a Rc<Shared<T>>,
    value: Option<T>,
    ticket: Option<Ticket>,
}

impl<T> Unpin for Send<'_, T> {}

impl<T> Future for Send<'_, T> {
    type Output = Result<(), SendError<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.shared.state.borrow_mut();
        if state.closed {
            let value = this.value.take().expect("a completed send is not polled again");
            return Poll::Ready(Err(SendError(value)));
        }
        match this.ticket {
            Some(ticket) => {
                if !state.waiters.is_granted(ticket, cx.waker()) {
                    return Poll::Pending;
                }
                state.reserved -= 1;
                this.ticket = None;
            }
            None if state.queue.len() + state.reserved >= state.capacity => {
                this.ticket = Some(state.waiters.enqueue(cx.waker()));
                return Poll::Pending;
            }
            None => {}
        }
        let value = this.value.take().expect("a completed send is not polled again");
        let waker = state.push(value);
        drop(state);
        wake(waker);
        Poll::Ready(Ok(()))
    }
}

impl<T> Drop for Send<'_, T> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.shared.state.borrow_mut();
        if state.closed || !state.waiters.cancel(ticket) {
            return;
        }
        state.reserved -= 1;
        let waker = state.grant_slot();
        drop(state);
        wake(waker);
    }
}

/// Takes values. Dropped, it closes the channel.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// The next value; `None` when all senders are gone and the queue is empty. Cancel-safe.
    pub fn recv(&mut self) -> impl Future<Output = Option<T>> + '_ {
        poll_fn(move |cx| self.poll_recv(cx))
    }

    /// As [`Receiver::recv`], for hand-written futures.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self.try_recv() {
            Ok(value) => Poll::Ready(Some(value)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                let mut state = self.shared.state.borrow_mut();
                if !state.receiver.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    state.receiver = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// The next value if it is there.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let mut state = self.shared.state.borrow_mut();
        match state.queue.pop_front() {
            Some(value) => {
                let waker = state.grant_slot();
                drop(state);
                wake(waker);
                Ok(value)
            }
            // A granted slot belongs to a live sender, so `senders` covers what is still to come.
            None if state.senders == 0 || state.closed => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Values queued now.
    pub fn len(&self) -> usize {
        self.shared.state.borrow().queue.len()
    }

    /// No value is queued now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Refuses further values; those queued can still be received.
    pub fn close(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        state.closed = true;
        state.reserved = 0;
        let mut line = state.waiters.grant_all();
        drop(state);
        wake_all(&mut line);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.close();
        let queue = std::mem::take(&mut self.shared.state.borrow_mut().queue);
        drop(queue); // values may wake or send when they drop: the state is not borrowed here
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mpsc::SendError")
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the receiver is gone")
    }
}

impl<T> std::error::Error for SendError<T> {}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrySendError::Full(_) => "Full",
            TrySendError::Closed(_) => "Closed",
        })
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrySendError::Full(_) => "the channel is full",
            TrySendError::Closed(_) => "the receiver is gone",
        })
    }
}

impl<T> std::error::Error for TrySendError<T> {}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TryRecvError::Empty => "no value yet",
            TryRecvError::Disconnected => "all senders are gone",
        })
    }
}

impl std::error::Error for TryRecvError {}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mpsc::Sender")
    }
}

impl<T> fmt::Debug for WeakSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mpsc::WeakSender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mpsc::Receiver")
    }
}
