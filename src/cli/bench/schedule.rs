//! When the operations of an open loop are due, and a wait precise to tens of microseconds.
//!
//! Operation *i* is due at *i/R* seconds, whatever the server does. The slots of a thread take numbers in rising order, so those
//! that wait form a queue ordered by time: no heap, and one timer for all of them.
//!
//! **Invariants**
//! - No slot goes before its operation is due, unless the load was stopped: then all go at once, to see that.
//! - The queue is ordered by due time, because a slot takes its number and its place without an `.await` in between.
//!
//! **Not here**: tokio's timer, which ticks each millisecond. A timerfd has no ticks and no slack.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// The timer is set no shorter than this. Above 5,000 operations a second several leave per wake-up, at most this late
/// (`send_lag` shows it): at 50 us, the generator alone took 0.75 of a core at 45,000 operations a second, which the servers
/// that share its cores paid for with their latency.
const WAKE_GAP_MIN: Duration = Duration::from_micros(200);

/// A stop is seen within this. At a low rate the next operation may be due in minutes, and nobody waits that long for Ctrl-C.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// When each operation is due.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// When operation 0 is due.
    pub start: Instant,
    /// Operations a second.
    pub rate: f64,
}

impl Schedule {
    /// When operation `number` is due.
    pub fn due(&self, number: u64) -> Instant {
        // Exact to the nanosecond for 2^53 ns (104 days) and beyond that for longer than anybody measures.
        self.start + Duration::from_secs_f64(number as f64 / self.rate)
    }
}

/// Wakes the slots of one thread in order.
pub struct Pacer {
    timer: AsyncFd<Timer>,
    queue: RefCell<VecDeque<(Instant, Waker)>>,
    first: Notify,
}

impl Pacer {
    /// Needs the runtime of the thread it is for.
    pub fn new() -> io::Result<Pacer> {
        // SAFETY: a `Timer` names the one descriptor that it owns for as long as it lives.
        let timer = unsafe { AsyncFd::register_with_interest(Timer::new()?, Interest::READABLE) };
        Ok(Pacer { timer: timer.map_err(io::Error::from)?, queue: RefCell::default(), first: Notify::new() })
    }

    /// Returns at once if `due` has passed, else once it has, or once the load was stopped.
    pub async fn until(&self, due: Instant) {
        let mut queued = false;
        poll_fn(|context| {
            // Only the pacer wakes a queued slot, after taking it out of the queue.
            if queued || due <= Instant::now() {
                return Poll::Ready(());
            }
            queued = true;
            let mut queue = self.queue.borrow_mut();
            debug_assert!(queue.back().is_none_or(|(last, _)| *last <= due));
            queue.push_back((due, context.waker().clone()));
            if queue.len() == 1 {
                self.first.notify_one();
            }
            Poll::Pending
        })
        .await;
    }

    /// The loop that wakes them; runs until dropped. After `stop` nobody waits any more.
    pub async fn run(&self, stop: &AtomicBool) -> io::Result<()> {
        loop {
            let (now, stopped) = (Instant::now(), stop.load(Ordering::Relaxed));
            let next = {
                let mut queue = self.queue.borrow_mut();
                while queue.front().is_some_and(|(due, _)| stopped || *due <= now) {
                    if let Some((_, slot)) = queue.pop_front() {
                        slot.wake();
                    }
                }
                queue.front().map(|(due, _)| *due)
            };
            match next {
                None => self.first.notified().await,
                Some(due) => {
                    self.timer.get_ref().set((due - now).clamp(WAKE_GAP_MIN, STOP_LOOK))?;
                    let mut guard = self.timer.readable().await?;
                    guard.get_inner().take();
                    guard.clear_ready();
                }
            }
        }
    }
}

/// A timerfd.
struct Timer(OwnedFd);

impl Timer {
    fn new() -> io::Result<Timer> {
        // SAFETY: the call takes no pointer; a result of 0 or more is a descriptor that nobody else has.
        let descriptor = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        Ok(Timer(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Fires once, after `delay`, which is above zero (zero would disarm it).
    fn set(&self, delay: Duration) -> io::Result<()> {
        debug_assert!(!delay.is_zero());
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec {
            it_interval: never,
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(delay.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: libc::c_long::from(delay.subsec_nanos() as i32), // below 1e9
            },
        };
        // SAFETY: `spec` lives for the call, which only reads it; no old value is asked for.
        let result = unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &spec, std::ptr::null_mut()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes the expirations out, so that the descriptor is not readable until it fires again.
    fn take(&self) {
        let mut expirations = [0_u8; 8];
        // SAFETY: the buffer has the 8 bytes that are read. An error is "nothing there", which is as good.
        unsafe { libc::read(self.0.as_raw_fd(), expirations.as_mut_ptr().cast(), expirations.len()) };
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use tokio::task::{LocalSet, spawn_local};

    #[test]
    fn operations_are_due_at_their_number_over_the_rate() {
        let start = Instant::now();
        let schedule = Schedule { start, rate: 4.0 };
        assert_eq!(schedule.due(0), start);
        assert_eq!(schedule.due(1), start + Duration::from_millis(250));
        assert_eq!(schedule.due(4_000_000), start + Duration::from_secs(1_000_000));
        let fast = Schedule { start, rate: 250_000.0 };
        assert_eq!(fast.due(1), start + Duration::from_micros(4));
        assert!((1..100_000).all(|number| fast.due(number) > fast.due(number - 1)));
    }

    #[test]
    fn slots_wake_in_order_and_never_early() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let woken = LocalSet::new().block_on(&runtime, async {
            let pacer = Rc::new(Pacer::new().expect("a timerfd"));
            let (start, woken) = (Instant::now(), Rc::new(RefCell::new(Vec::new())));
            let slots: Vec<_> = [0, 2, 2, 20, 31]
                .map(|ms| {
                    let (pacer, woken) = (pacer.clone(), woken.clone());
                    spawn_local(async move {
                        let due = start + Duration::from_millis(ms);
                        pacer.until(due).await;
                        assert!(Instant::now() >= due);
                        woken.borrow_mut().push(ms);
                    })
                })
                .into();
            let running = spawn_local(async move { pacer.run(&AtomicBool::new(false)).await });
            for slot in slots {
                slot.await.expect("no slot went early");
            }
            running.abort();
            woken.take()
        });
        assert_eq!(woken, [0, 2, 2, 20, 31]);
    }
}
