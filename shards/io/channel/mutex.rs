//! A lock that is held across `.await`s and passed on in the order of asking.

use std::cell::{Cell, RefCell, RefMut};
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Ticket, Waiters};

/// Exclusive access to `T` across `.await`s. For anything shorter a `RefCell` is enough.
#[derive(Debug, Default)]
pub struct Mutex<T> {
    /// Held, or already given to a waiter that has not run yet.
    locked: Cell<bool>,
    waiters: RefCell<Waiters>,
    /// Borrowed exactly as long as a [`Guard`] lives.
    value: RefCell<T>,
}

impl<T> Mutex<T> {
    /// Unlocked.
    pub fn new(value: T) -> Self {
        Mutex { locked: Cell::new(false), waiters: RefCell::new(Waiters::default()), value: RefCell::new(value) }
    }

    /// Waits for its turn.
    pub fn lock(&self) -> Lock<'_, T> {
        Lock { mutex: self, ticket: None }
    }

    /// Locks if it is free now.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        (!self.locked.replace(true)).then(|| self.guard())
    }

    fn guard(&self) -> Guard<'_, T> {
        debug_assert!(self.locked.get(), "a guard belongs to a locked mutex");
        Guard { value: self.value.borrow_mut(), _turn: Turn { mutex: self } }
    }

    /// Ends a turn: the next waiter's begins, or the mutex is free.
    fn pass_on(&self) {
        let waker = self.waiters.borrow_mut().grant_one();
        match waker {
            Some(waker) => waker.wake(),
            None => self.locked.set(false),
        }
    }
}

/// See [`Mutex::lock`].
#[derive(Debug)]
pub struct Lock<'a, T> {
    mutex: &'a Mutex<T>,
    ticket: Option<Ticket>,
}

impl<'a, T> Future for Lock<'a, T> {
    type Output = Guard<'a, T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Guard<'a, T>> {
        let mutex = self.mutex;
        match self.ticket {
            Some(ticket) => {
                if !mutex.waiters.borrow_mut().is_granted(ticket, cx.waker()) {
                    return Poll::Pending;
                }
                self.ticket = None;
                Poll::Ready(mutex.guard())
            }
            None => match mutex.try_lock() {
                Some(guard) => Poll::Ready(guard),
                None => {
                    self.ticket = Some(mutex.waiters.borrow_mut().enqueue(cx.waker()));
                    Poll::Pending
                }
            },
        }
    }
}

impl<T> Drop for Lock<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let granted = self.mutex.waiters.borrow_mut().cancel(ticket);
            if granted {
                self.mutex.pass_on();
            }
        }
    }
}

/// The lock, held. Fields drop in their order: the value is free before the turn passes on.
#[derive(Debug)]
pub struct Guard<'a, T> {
    value: RefMut<'a, T>,
    _turn: Turn<'a, T>,
}

#[derive(Debug)]
struct Turn<'a, T> {
    mutex: &'a Mutex<T>,
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        self.mutex.pass_on();
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
