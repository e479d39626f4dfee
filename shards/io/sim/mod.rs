//! The simulated world: everything a shard may know of the outside, in one thread, as a function of one seed.
//!
//! ```text
//!   world.rs     clock and queue; hosts, what strikes them      trace.rs    hash, story, counters
//!   executor.rs  a process: its tasks in FIFO order             sleep.rs    timers
//!   disk.rs      names, latencies, faults                       inode.rs    blocks: seen, and durable
//!   net/         links, connections, listeners                  clock.rs    one host's drifting clock
//!   random.rs    one stream of numbers a purpose
//! ```
//! A world has hosts; a host runs at most one process, an incarnation of a node, and keeps its disk when that dies. Time is
//! virtual: each poll of a task costs some microseconds of its own process only, so processes run side by side although one
//! thread polls them all. It is in the binary of nobody: the cargo feature `sim` is for tests.
//!
//! **Invariants**
//! - It keeps every promise of `io/mod.rs` and no more than those: what is not promised happens, by seed.
//! - A fault strikes only when whoever drives the world asks for it, or has set its rate.
//!
//! **Not here**: what is started on a host and when what strikes (`tests/sim`).

mod clock;
mod disk;
mod executor;
mod inode;
mod net;
mod random;
mod sleep;
mod trace;
mod world;

#[cfg(test)]
mod tests;

pub use disk::{DiskSettings, SimBuffer, SimDisk, SimFile};
pub use executor::aside;
pub use net::{Links, Settings as NetworkSettings, SimNet, SimReader, SimWriter, listen, stop_listening};
pub use random::Random;
pub use sleep::SimSleep;
pub use trace::{Fault, Faults};
pub use world::{Crash, HostId, Settings, World};

use std::any::Any;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::Instant;
use executor::{current, maybe_current, with_current};

/// The simulated environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sim;

impl super::Env for Sim {
    type Disk = SimDisk;
    type Net = SimNet;
    type Sleep = SimSleep;

    fn now() -> Instant {
        Instant(with_current(|process| process.local_now()))
    }

    fn sleep(duration: Duration) -> SimSleep {
        SimSleep::local(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }

    fn spawn(task: impl Future<Output = ()> + 'static) {
        current().spawn(task);
    }

    async fn yield_now() {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn random() -> u64 {
        with_current(|process| process.random())
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let world = World::new(0, Settings::default());
        let host = world.add_host("alone");
        world.block_on(host, future)
    }
}

/// The world's time, nanoseconds: for what is recorded of all processes on one clock. Nothing that is simulated may look at it.
pub fn world_now_ns() -> u64 {
    with_current(|process| process.world_now())
}

/// The host of the current process, if there is one.
pub fn current_host() -> Option<HostId> {
    maybe_current().map(|process| process.host)
}

/// Shows something of the current process to whoever drives the world: [`World::offers`]. It goes with the process. Outside of
/// a simulated process nobody looks.
pub fn offer(something: Rc<dyn Any>) {
    if let Some(process) = maybe_current() {
        process.offers.borrow_mut().push(something);
    }
}
