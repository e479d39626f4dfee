//! A wake-up that is not lost when nobody waits yet: one permit.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Ticket, Waiters, wake_all};

/// Wakes tasks. `notify_one` without a waiter leaves one permit, and the next `notified` takes it; permits do not add up.
#[derive(Debug, Default)]
pub struct Notify {
    permit: Cell<bool>,
    waiters: RefCell<Waiters>,
}

impl Notify {
    /// Without a permit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the task that waits longest, or leaves the permit.
    pub fn notify_one(&self) {
        let waker = self.waiters.borrow_mut().grant_one();
        match waker {
            Some(waker) => waker.wake(),
            None => self.permit.set(true),
        }
    }

    /// Wakes every task that waits now. Leaves no permit.
    pub fn notify_waiters(&self) {
        let mut line = self.waiters.borrow_mut().grant_all();
        wake_all(&mut line);
        self.waiters.borrow_mut().recycle(line);
    }

    /// Completes with the next notification, or at once with the permit.
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, ticket: None }
    }
}

/// See [`Notify::notified`]. Dropped after it was woken and before it completed, it hands the notification on.
#[derive(Debug)]
pub struct Notified<'a> {
    notify: &'a Notify,
    ticket: Option<Ticket>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiters = self.notify.waiters.borrow_mut();
        match self.ticket {
            Some(ticket) if waiters.is_granted(ticket, cx.waker()) => {
                drop(waiters);
                self.ticket = None;
                Poll::Ready(())
            }
            Some(_) => Poll::Pending,
            None if self.notify.permit.take() => Poll::Ready(()),
            None => {
                let ticket = waiters.enqueue(cx.waker());
                drop(waiters);
                self.ticket = Some(ticket);
                Poll::Pending
            }
        }
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let granted = self.notify.waiters.borrow_mut().cancel(ticket);
            if granted {
                self.notify.notify_one();
            }
        }
    }
}
