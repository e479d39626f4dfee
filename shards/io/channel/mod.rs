//! Channels between the tasks of one executor: `mpsc`, `oneshot`, `watch`, `Notify`, `Mutex`.
//!
//! One thread runs everything of a shard, so these are `Rc` and `RefCell`: no atomics, no locks, no allocation per message
//! beyond the queue itself. Raft's runtime stands on them, in production and in the simulator alike: what a wake does to
//! the order of tasks is the same in both, and a run with the same seed is the same run.
//!
//! ```text
//!            enqueue                     grant_one
//!   task ──────────────> [ 7 | 8 | 9 ] ───────────────> woken, owns what it waited for
//!                         ^   cancel(8): leaves
//!                         └── tickets, ascending        cancel(7) after its grant: the grant goes to the next
//! ```
//!
//! **Invariants**
//! - Waiters are served in the order in which they began to wait; nobody overtakes a waiter.
//! - What a waiter was granted (a slot, a permit, the lock) and did not take, because its future was dropped, goes to the
//!   next waiter or back to the channel. No wake is lost.
//! - No user code (a waker, a value's `Drop`) runs while one of our cells is borrowed.
//!
//! **Not here**: channels between executors (`uring/`), anything unbounded.

pub mod mpsc;
mod mutex;
mod notify;
pub mod oneshot;
pub mod watch;

#[cfg(test)]
mod tests;

pub use mutex::{Guard, Lock, Mutex};
pub use notify::{Notified, Notify};

use std::collections::VecDeque;
use std::fmt;
use std::task::Waker;

/// Place of one waiter in the line of its [`Waiters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket(u64);

/// The line of tasks that wait for one thing.
///
/// Tickets ascend and grants come from the front, so a ticket below `granted` has been served: asking costs one comparison,
/// and no state is shared with the waiting future.
#[derive(Default)]
struct Waiters {
    line: VecDeque<(Ticket, Waker)>,
    next: u64,
    granted: u64,
}

impl Waiters {
    /// Joins the end of the line.
    fn enqueue(&mut self, waker: &Waker) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.line.push_back((ticket, waker.clone()));
        ticket
    }

    /// True when the waiter has been served; otherwise it is `waker` that will be woken.
    fn is_granted(&mut self, ticket: Ticket, waker: &Waker) -> bool {
        if ticket.0 < self.granted {
            return true;
        }
        if let Ok(at) = self.line.binary_search_by_key(&ticket, |(t, _)| *t)
            && !self.line[at].1.will_wake(waker)
        {
            self.line[at].1 = waker.clone();
        }
        false
    }

    /// Leaves the line. True when the waiter had been served already: then the caller passes the grant on.
    #[must_use]
    fn cancel(&mut self, ticket: Ticket) -> bool {
        if ticket.0 < self.granted {
            return true;
        }
        if let Ok(at) = self.line.binary_search_by_key(&ticket, |(t, _)| *t) {
            self.line.remove(at);
        }
        false
    }

    /// Serves the first of the line; the caller wakes it after it has let go of its borrows.
    #[must_use]
    fn grant_one(&mut self) -> Option<Waker> {
        let (ticket, waker) = self.line.pop_front()?;
        debug_assert!(ticket.0 >= self.granted, "grants go up the line");
        self.granted = ticket.0 + 1;
        Some(waker)
    }

    /// Serves everybody who waits now. The emptied line is given back by [`Waiters::recycle`] to keep its memory.
    #[must_use]
    fn grant_all(&mut self) -> VecDeque<(Ticket, Waker)> {
        self.granted = self.next;
        std::mem::take(&mut self.line)
    }

    /// Keeps the memory of a line that [`Waiters::grant_all`] handed out and whose wakers have been used.
    fn recycle(&mut self, line: VecDeque<(Ticket, Waker)>) {
        if self.line.capacity() == 0 && line.is_empty() {
            self.line = line;
        }
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters").field("waiting", &self.line.len()).finish_non_exhaustive()
    }
}

/// Wakes everybody of a line that was served as a whole, in order.
fn wake_all(line: &mut VecDeque<(Ticket, Waker)>) {
    for (_, waker) in line.drain(..) {
        waker.wake();
    }
}
