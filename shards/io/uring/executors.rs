//! One executor a core: starts them, gives each its shards and its share of the ports, and stops them together.
//!
//! ```text
//!   run ── thread per core ── executor ── shard s, for all s with s mod cores = this ── start(s, net)
//!                                   ├──── listeners: client, peer
//!                                   ├──── ways to and from every other executor
//!                                   └──── looks at the stop flag each 20 ms
//! ```
//!
//! **Stopping**: the flag completes every shard's `stopping`. The shards' mains settle what needs their peers, close, finish in
//! their own time and return; then the listeners close and the executors end. Tasks that are left then never run again, but
//! glommio does not drop them either: a connection that one of them holds ends with the process, so a main closes its own. When one
//! main or one executor ends for another reason, all are stopped: half a node would look alive and not be.
//!
//! **Not here**: what a shard does (`start` is the caller's), signals (`stop.rs`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use glommio::channels::shared_channel::{self, SharedReceiver, SharedSender};
use glommio::timer::Timer;
use glommio::{LocalExecutor, Placement};

use super::listeners::{ARRIVALS_MAX, Arrival, ConnectionLimits, Counts, Door, Port, Route, Sockets};
use super::net::UringNet;
use super::stop::StopFlag;
use super::{TICK, builder, host, warm_up};

/// Where and how executors run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executors {
    /// The core of each executor. Shard `s` runs on executor `s mod cores.len()`.
    pub cores: Vec<usize>,
    /// Bind each executor, and the kernel workers of its ring, to its core.
    pub pin: bool,
    /// Memory of each executor that is registered with its rings for disk writes; what does not fit is allocated. Counts
    /// three times against RLIMIT_MEMLOCK (not for root).
    pub io_memory_bytes: usize,
}

impl Default for Executors {
    /// One pinned executor on each core that this process may use.
    fn default() -> Self {
        let cores = available_cores();
        let io_memory_bytes = host::io_memory_bytes(cores.len());
        Executors { cores, pin: true, io_memory_bytes }
    }
}

/// The cores that this process may run on, ascending.
pub fn available_cores() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is the empty set; the call gets its true size and fills it.
    let (outcome, set) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        (libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set), set)
    };
    let bits = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: CPU_ISSET only looks at bit `core` of the set, and `core` is below CPU_SETSIZE.
    let cores: Vec<usize> = (0..bits).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect();
    if outcome == 0 && !cores.is_empty() { cores } else { vec![0] }
}

/// Why the executors ended otherwise than by the stop flag.
#[derive(Debug)]
pub enum RunError {
    /// An executor could not be made.
    Executor {
        /// Its core.
        core: usize,
        /// What went wrong and what helps.
        error: io::Error,
    },
    /// A shard's main returned an error.
    Shard {
        /// Which.
        shard: u32,
        /// As it said.
        error: String,
    },
    /// A shard's main returned though nobody had asked it to stop.
    Ended {
        /// Which.
        shard: u32,
    },
    /// A task on this core panicked.
    Panicked {
        /// The core.
        core: usize,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Executor { core, error } => write!(
                f,
                "cannot start the executor on core {core}: {error}; check that io_uring is allowed, that RLIMIT_MEMLOCK \
                 is at least 512 KiB, and that this process may use the core"
            ),
            RunError::Shard { shard, error } => write!(f, "shard {shard}: {error}"),
            RunError::Ended { shard } => {
                write!(f, "shard {shard} ended though the node was not stopping")
            }
            RunError::Panicked { core } => {
                write!(f, "a task on core {core} panicked; the log has its message")
            }
        }
    }
}

impl std::error::Error for RunError {}

/// Sets the flag when it goes out of scope, on whichever way.
struct StopAtEnd(Arc<StopFlag>);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Runs a node's `shards` until `stop` is set and every main has returned. The first error is the one returned.
///
/// `route` names the shard that a connection is for; `None` closes it. `start` is called once a shard, on its executor.
pub fn run<S, F, E>(
    executors: &Executors,
    sockets: Sockets,
    limits: ConnectionLimits,
    route: fn(Port, &crate::io::PreambleBytes) -> Option<u32>,
    shards: u32,
    stop: &Arc<StopFlag>,
    start: S,
) -> Result<(), RunError>
where
    S: Fn(u32, UringNet) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), E>> + 'static,
    E: fmt::Display + 'static,
{
    let count = executors.cores.len();
    let sockets = sockets.split();
    assert_eq!(sockets.len(), count, "sockets were opened for another number of executors");
    let counts = Counts::default();
    let mut threads = Vec::with_capacity(count);
    for (index, ((sockets, ways), core)) in
        sockets.into_iter().zip(mesh(count)).zip(executors.cores.iter().copied()).enumerate()
    {
        let place = Core { index, count, core, pin: executors.pin, io_memory_bytes: executors.io_memory_bytes };
        let node = Node { shards, route, limits, counts: counts.clone(), stop: stop.clone() };
        let start = start.clone();
        let thread = thread::Builder::new().name(format!("ringbeam-{core}"));
        let spawned = thread.spawn(move || {
            let _all_or_none = StopAtEnd(node.stop.clone());
            place.run(&node, sockets, ways, start)
        });
        match spawned {
            Ok(thread) => threads.push((core, thread)),
            Err(error) => {
                stop.stop();
                join(threads)?;
                return Err(RunError::Executor { core, error });
            }
        }
    }
    join(threads)
}

/// Waits for all, so that no executor outlives the call; the first error counts.
fn join(threads: Vec<(usize, thread::JoinHandle<Result<(), RunError>>)>) -> Result<(), RunError> {
    let mut outcome = Ok(());
    for (core, thread) in threads {
        let ended = thread.join().unwrap_or(Err(RunError::Panicked { core }));
        // That a shard ended only because another failed is not the story to tell.
        if outcome.is_ok() {
            outcome = ended;
        }
    }
    outcome
}

/// The ways of one executor: by the other's index, to it and from it.
type Ways = Vec<(usize, SharedSender<Arrival>, SharedReceiver<Arrival>)>;

/// A channel from each executor to each other one.
fn mesh(count: usize) -> Vec<Ways> {
    let mut senders: Vec<BTreeMap<usize, _>> = (0..count).map(|_| BTreeMap::new()).collect();
    let mut receivers: Vec<BTreeMap<usize, _>> = (0..count).map(|_| BTreeMap::new()).collect();
    for (from, to_others) in senders.iter_mut().enumerate() {
        for (to, from_others) in receivers.iter_mut().enumerate().filter(|(to, _)| *to != from) {
            let (sender, receiver) = shared_channel::new_bounded(ARRIVALS_MAX);
            to_others.insert(to, sender);
            from_others.insert(from, receiver);
        }
    }
    let pair = |(to, from): (BTreeMap<usize, _>, BTreeMap<usize, _>)| {
        to.into_iter().zip(from).map(|((other, sender), (_, receiver))| (other, sender, receiver)).collect()
    };
    senders.into_iter().zip(receivers).map(pair).collect()
}

/// What all executors of a node share, a copy each.
struct Node {
    shards: u32,
    route: Route,
    limits: ConnectionLimits,
    counts: Counts,
    stop: Arc<StopFlag>,
}

/// One executor's place.
struct Core {
    index: usize,
    count: usize,
    core: usize,
    pin: bool,
    io_memory_bytes: usize,
}

impl Core {
    fn executor(&self) -> io::Result<LocalExecutor> {
        let placement = if self.pin { Placement::Fixed(self.core) } else { Placement::Unbound };
        builder(placement, self.io_memory_bytes).make().map_err(io::Error::from)
    }

    fn run<S, F, E>(&self, node: &Node, sockets: (TcpListener, TcpListener), ways: Ways, start: S) -> Result<(), RunError>
    where
        S: Fn(u32, UringNet) -> F + 'static,
        F: Future<Output = Result<(), E>> + 'static,
        E: fmt::Display + 'static,
    {
        let executor = self.executor().map_err(|error| RunError::Executor { core: self.core, error })?;
        executor.run(async {
            warm_up().await;
            self.serve(node, sockets, ways, start).await
        })
    }

    async fn serve<S, F, E>(
        &self,
        node: &Node,
        (client, peer): (TcpListener, TcpListener),
        ways: Ways,
        start: S,
    ) -> Result<(), RunError>
    where
        S: Fn(u32, UringNet) -> F + 'static,
        F: Future<Output = Result<(), E>> + 'static,
        E: fmt::Display + 'static,
    {
        let index = u32::try_from(self.index).expect("fewer executors than shards fit a u32");
        let count = u32::try_from(self.count).expect("fewer executors than shards fit a u32");
        let nets: BTreeMap<u32, UringNet> =
            (index..node.shards).step_by(self.count).map(|shard| (shard, UringNet::new())).collect();
        let unable = |error| RunError::Executor { core: self.core, error };
        let ports = [client.try_clone().map_err(unable)?, peer.try_clone().map_err(unable)?];
        let (route, limits, counts) = (node.route, node.limits, node.counts.clone());
        let door = Door::new(index, count, nets.clone(), route, limits, counts, ports);
        let mut connecting = Vec::new();
        for (other, sender, receiver) in ways {
            connecting.push(glommio::spawn_local(door.clone().send_to(other, sender)).detach());
            glommio::spawn_local(door.clone().receive_from(receiver)).detach();
        }

        let failed = Rc::new(RefCell::new(None));
        let mains: Vec<_> = nets
            .into_iter()
            .map(|(shard, net)| {
                let (main, stop, failed) = (start(shard, net), node.stop.clone(), failed.clone());
                glommio::spawn_local(async move {
                    let error = match main.await {
                        Err(error) => RunError::Shard { shard, error: error.to_string() },
                        Ok(()) if !stop.is_stopped() => RunError::Ended { shard },
                        Ok(()) => return,
                    };
                    failed.borrow_mut().get_or_insert(error);
                    stop.stop();
                })
                .detach()
            })
            .collect();
        // A way ends as disconnected when the executor at its other end could not start: this does not wait for ever.
        for way in connecting {
            way.await;
        }
        let listeners = [
            glommio::spawn_local(door.clone().listen(Port::Client, client)).detach(),
            glommio::spawn_local(door.clone().listen(Port::Peer, peer)).detach(),
        ];

        while !node.stop.is_stopped() {
            Timer::new(TICK).await;
        }
        door.stop_shards();
        for main in mains {
            main.await;
        }
        door.close();
        for listener in listeners {
            listener.await;
        }
        failed.take().map_or(Ok(()), Err)
    }
}
