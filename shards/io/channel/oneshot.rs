//! One value from one task to another.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A channel for one value.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared { value: Cell::new(None), open: Cell::new(true), waker: RefCell::new(None) });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

/// The sender was dropped without sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvError;

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sender was dropped without sending")
    }
}

impl std::error::Error for RecvError {}

struct Shared<T> {
    value: Cell<Option<T>>,
    /// Both ends live. The end that closes it also leaves it closed.
    open: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Sends the value; dropped unused, it tells the receiver.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Hands `value` over, or gives it back when the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        if !self.shared.open.get() {
            return Err(value);
        }
        self.shared.value.set(Some(value));
        Ok(()) // dropping self wakes the receiver
    }

    /// The receiver is gone: nobody will read the value.
    pub fn is_closed(&self) -> bool {
        !self.shared.open.get()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.open.set(false);
        let waker = self.shared.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Resolves to the value.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// The value, if it has been sent and not been taken.
    pub fn try_recv(&mut self) -> Option<T> {
        self.shared.value.take()
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, RecvError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(value) = self.shared.value.take() {
            return Poll::Ready(Ok(value));
        }
        if !self.shared.open.get() {
            return Poll::Ready(Err(RecvError));
        }
        let mut waker = self.shared.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.open.set(false);
        drop(self.shared.value.take());
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("oneshot::Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("oneshot::Receiver")
    }
}
