//! When a busy executor looks at its ring.
//!
//! glommio submits and collects I/O when no task is ready any more. A task that is always ready again (a replay in slices, a
//! reader whose peer sends faster than it reads) would keep it from that, and with it every timer, fsync and heartbeat. So
//! such tasks pause here: mostly they only go to the end of the queue, but once [`TURN`] has passed since the ring was
//! looked at, they wait for a timer that is due at once. Timers fire from the ring's turn, and as every task that is always
//! ready pauses the same way, the queue runs empty and the turn comes.
//!
//! **Invariant**: while all tasks that do not wait for anything else pause here, the ring is looked at each [`TURN`], give
//! or take one slice of one task.
//!
//! **Not here**: preemption. A task that neither waits nor pauses holds its core.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use glommio::timer::Timer;

/// Longest time a busy executor leaves its ring alone. A look costs about ten microseconds in system calls, so 2 % of a
/// busy core; a flush is submitted and its end noticed at most this much late.
const TURN: Duration = Duration::from_micros(500);

/// Due by the time the ring has its turn, and not yet when the timer is first asked (then it would not wait for the ring).
const DUE_AT_ONCE: Duration = Duration::from_micros(1);

thread_local! {
    /// When a pause last ended with a look at the ring.
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Lets every other ready task run once, and the ring when it is due.
pub(crate) async fn yield_now() {
    if is_due() {
        look().await;
    } else {
        futures_lite::future::yield_now().await;
    }
}

/// Lets the ring have its turn when it is due; otherwise goes on at once.
pub(crate) async fn pause_if_due() {
    if is_due() {
        look().await;
    }
}

fn is_due() -> bool {
    LOOKED.get().is_none_or(|looked| looked.elapsed() >= TURN)
}

async fn look() {
    let mut timer = Timer::new(DUE_AT_ONCE);
    let (mut polled, mut fired) = (false, false);
    poll_fn(|cx| {
        let again = std::mem::replace(&mut polled, true);
        match Pin::new(&mut timer).poll(cx) {
            Poll::Ready(_) if again => Poll::Ready(()),
            Poll::Ready(_) => {
                // The kernel took the core for a microsecond just now. Give way as usual; the next pause looks.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => {
                fired = true;
                Poll::Pending
            }
        }
    })
    .await;
    if fired {
        LOOKED.set(Some(Instant::now()));
    }
}
