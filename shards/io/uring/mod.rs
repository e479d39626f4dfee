//! The real world: clock, tasks, disk and network on glommio, which drives io_uring. Only this folder names glommio
//! (a changed copy of it: `../glommio/README.md`).
//!
//! ```text
//!   executors.rs   one pinned thread a core, each with its ring; starts and stops the shards
//!        |
//!        +-- listeners.rs   accepts on every core, reads the preamble, hands the descriptor to the owning core
//!        |        |
//!        |      net.rs      a shard's connections: accept, connect, read, write
//!        |
//!        +-- disk.rs        files of one data directory, O_DIRECT; adaptive.rs: O_DSYNC or fdatasync?
//!
//!   stop.rs   the way out: a flag that signals set and executors look at
//!   host.rs   before all that: can this machine do it? and: is this data directory ours alone?
//! ```
//!
//! What is io_uring and what is not: file reads, writes, fdatasync, open and close are; so are accept, connect and waiting for
//! a socket. Socket bytes move by `recv` and `send` called without blocking (glommio's way: one system call less when the
//! bytes are there). Names (create, rename, remove, list, directory sync) and name resolution run on a helper thread.
//!
//! **Not here**: anything a simulator could not do too; that stands in the trait (`io/mod.rs`).

mod adaptive;
mod disk;
mod executors;
mod host;
mod listeners;
mod net;
mod removal;
mod stop;

#[cfg(test)]
mod tests;

pub use disk::{DurableWrites, UringBuffer, UringDisk, UringFile};
pub use executors::{Executors, RunError, available_cores, run};
pub use host::{DirLock, HostProblem, HostReport, check_host, lock_dir};
pub use listeners::{ConnectionLimits, ListenError, Listeners, Port, Sockets, wait_for_predecessor};
pub use net::{UringNet, UringReader, UringWriter};
pub use stop::StopFlag;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};

use super::Instant;

/// The production environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uring;

impl super::Env for Uring {
    type Disk = UringDisk;
    type Net = net::UringNet;
    type Sleep = UringSleep;

    fn now() -> Instant {
        static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
        let origin = ORIGIN.get_or_init(std::time::Instant::now);
        Instant(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn sleep(duration: Duration) -> UringSleep {
        UringSleep(Timer::new(duration))
    }

    fn spawn(task: impl Future<Output = ()> + 'static) {
        // glommio's plain spawn_local polls the task at once, inside the caller: it would see the caller's borrows.
        let queue = glommio::executor().current_task_queue();
        glommio::spawn_local_into(task, queue).expect("the queue that runs us exists").detach();
    }

    fn yield_now() -> impl Future<Output = ()> {
        futures_lite::future::yield_now()
    }

    fn random() -> u64 {
        rand::random()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        block_on(future).expect("an executor can be made: check_host said so")
    }
}

/// See [`super::Env::sleep`].
#[derive(Debug)]
pub struct UringSleep(Timer);

impl Future for UringSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

/// Longest time a busy executor leaves its ring alone: then it submits and collects before it runs the next task. A look
/// costs a few microseconds in system calls; a flush is submitted, and its end noticed, at most this much late. A task that
/// neither waits nor gives way holds its core all the same.
const TURN: Duration = Duration::from_micros(500);

/// How often the stop flag is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// Submission entries of a ring. More requests than that wait in user space for the next turn; 128 is eight times what a
/// shard has in flight.
pub(crate) const RING_DEPTH: usize = 128;

/// Threads an executor keeps for calls that block: names, directory syncs, zeroing of new files, name resolution. Two, so
/// that a slow resolver does not hold up a rename.
pub(crate) const BLOCKING_THREADS: usize = 2;

/// An executor as we want it: parks at once when idle.
pub(crate) fn builder(placement: Placement, io_memory_bytes: usize) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(placement)
        .spin_before_park(Duration::ZERO)
        .preempt_timer(TURN)
        .ring_depth(RING_DEPTH)
        .io_memory(io_memory_bytes)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
}

/// The first sleep of an executor is late by tens of milliseconds (a known fault of glommio 0.9); this takes it.
pub(crate) async fn warm_up() {
    Timer::new(Duration::from_millis(1)).await;
}

/// Runs one future on an executor of its own on this thread: for tests and tools. Each call costs three rings and, until
/// the process ends, an eventfd.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let executor = builder(Placement::Unbound, 256 << 10).make().map_err(io::Error::from)?;
    Ok(executor.run(async {
        warm_up().await;
        future.await
    }))
}

/// Runs `work` on a helper thread.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    glommio::executor().spawn_blocking(work).await
}
