//! One simulated world: a clock, a queue of what happens next, hosts with their disks and clocks, and the network between them.
//!
//! ```text
//!   queue (time, order) ─▶ Turn of a process | Timer | Deliver to a socket | Call from outside
//!        ▲                      │ polls tasks, which sleep, write, send
//!        └──────────────────────┘
//! ```
//! Whoever drives the world (a test, a campaign) lets it run for a while, strikes it with a fault, and lets it run on. Nothing
//! happens between two steps but what the driver does.
//!
//! **Invariants**
//! - What happens is a function of the seed and of the driver's calls: no wall clock, no address, no unordered map decides.
//! - Time never goes back, and moves only when everything due before has happened.
//!
//! **Not here**: what a process runs (`shards` does), when faults strike (the campaign's plan).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::clock::Clock;
use super::disk::SimDisk;
use super::executor::{Life, Process};
use super::net::socket::Socket;
use super::net::{Network, Settings as NetworkSettings};
use super::random::Random;
use super::sleep::{TimerId, Timers};
use super::trace::{Fault, Faults, Step, Trace};

/// A machine of a world, from 0 in the order in which they were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// How a process ends that nobody asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// kill -9: the kernel closes its sockets, and what was written reaches the disk later. What was in flight may not.
    Kill,
    /// The power is gone: what was not synced is lost, kept or torn. Peers hear nothing until the host is back.
    PowerLoss,
    /// As [`Crash::PowerLoss`] for the disk, but a reset or an end reaches the peers: the host was back at once.
    Reboot,
}

/// What happens at a moment.
pub(super) enum What {
    Turn(Rc<Process>),
    Timer(TimerId),
    Deliver(Rc<Socket>),
    Call(Call),
}

/// Something that whoever drives the world, or the network, wants done at a moment.
pub(super) type Call = Box<dyn FnOnce(&Rc<Inner>)>;

struct Event {
    time: u64,
    order: u64,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.time, self.order).cmp(&(other.time, other.order))
    }
}

/// A machine: it outlives its processes.
pub(super) struct Host {
    pub name: String,
    pub clock: Cell<Clock>,
    pub disk: SimDisk,
    pub process: RefCell<Option<Rc<Process>>>,
    /// Without power: it takes and sends nothing.
    pub dark: Cell<bool>,
    /// A poll costs this many times what it does elsewhere.
    pub slowness: Cell<u64>,
}

/// What the parts of a world share.
pub(super) struct Inner {
    pub seed: u64,
    pub now: Cell<u64>,
    pub trace: Trace,
    pub timers: RefCell<Timers>,
    /// Timers in the queue that nobody waits for.
    pub swept: Cell<usize>,
    pub network: Network,
    hosts: RefCell<Vec<Rc<Host>>>,
    queue: RefCell<BinaryHeap<Reverse<Event>>>,
    order: Cell<u64>,
    processes: Cell<u64>,
    scheduler: RefCell<Random>,
    stalls: RefCell<Random>,
    poll_ns: (u64, u64),
    stall_ppm: u64,
    stall_ns: (u64, u64),
}

/// How a world is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What one poll of a task takes, nanoseconds, from and to.
    pub poll_ns: (u64, u64),
    /// Looks at the clock that find more time gone than the code needed, of a million: the core was taken away, or the work was long.
    pub stall_ppm: u64,
    /// How much more, nanoseconds, from and to.
    pub stall_ns: (u64, u64),
    /// The network.
    pub network: NetworkSettings,
}

impl Default for Settings {
    fn default() -> Self {
        let (stall_ppm, stall_ns) = (2_000, (20_000, 1_000_000));
        Settings { poll_ns: (1_000, 20_000), stall_ppm, stall_ns, network: NetworkSettings::default() }
    }
}

/// Purposes of the seed's random streams.
pub(super) mod purpose {
    pub const SCHEDULER: u64 = 1;
    pub const NETWORK: u64 = 2;
    pub const CLOCKS: u64 = 3;
    pub const STALLS: u64 = 4;
    pub const DISK: u64 = 100;
}

impl Inner {
    pub fn push(&self, time: u64, what: What) {
        let order = self.order.get();
        self.order.set(order + 1);
        let mut queue = self.queue.borrow_mut();
        queue.push(Reverse(Event { time, order, what }));
        // Most timers are deadlines that never come: without sweeping they would be most of the queue.
        if self.swept.get() > 4_096 && self.swept.get() * 2 > queue.len() {
            self.swept.set(0);
            let timers = self.timers.borrow();
            queue.retain(|Reverse(event)| !matches!(event.what, What::Timer(id) if !timers.is_set(id)));
        }
    }

    /// When the next event is due.
    pub fn next_at(&self) -> Option<u64> {
        self.queue.borrow().peek().map(|Reverse(event)| event.time)
    }

    pub fn host(&self, id: HostId) -> Rc<Host> {
        self.hosts.borrow()[id.0].clone()
    }

    pub fn hosts(&self) -> Vec<Rc<Host>> {
        self.hosts.borrow().clone()
    }

    pub fn poll_cost(&self) -> u64 {
        self.scheduler.borrow_mut().between(self.poll_ns)
    }

    /// What a look at the clock finds gone besides its own cost.
    #[inline]
    pub fn stall(&self) -> u64 {
        let mut stalls = self.stalls.borrow_mut();
        if stalls.chance(self.stall_ppm) { stalls.between(self.stall_ns) } else { 0 }
    }

    pub fn tell(&self, line: impl FnOnce() -> String) {
        self.trace.tell(self.now.get(), line());
    }

    /// Takes one event, if it is due by `limit`. `Some(process)`: its main task is next.
    fn step(self: &Rc<Self>, limit: u64) -> Result<Option<Rc<Process>>, Idle> {
        let event = {
            let mut queue = self.queue.borrow_mut();
            match queue.peek() {
                Some(Reverse(next)) if next.time <= limit => {}
                _ => return Err(Idle),
            }
            queue.pop().map(|Reverse(event)| event).ok_or(Idle)?
        };
        self.now.set(self.now.get().max(event.time));
        match event.what {
            What::Turn(process) => {
                if process.turn(limit) {
                    return Ok(Some(process));
                }
            }
            What::Timer(id) => {
                self.trace.fold(Step::Timer, self.now.get(), 0, event.order);
                let waker = self.timers.borrow_mut().clear(id);
                match waker {
                    Some(waker) => waker.wake(),
                    None => self.swept.set(self.swept.get().saturating_sub(1)),
                }
            }
            What::Deliver(socket) => {
                self.trace.fold(Step::Deliver, self.now.get(), 0, socket.number());
                self.network.deliver(self, &socket);
            }
            What::Call(call) => {
                self.trace.fold(Step::Call, self.now.get(), 0, event.order);
                call(self);
            }
        }
        Ok(None)
    }

    /// Ends the process of a host, if it has one.
    fn end_process(self: &Rc<Self>, id: HostId, loud: bool) {
        let host = self.host(id);
        let Some(process) = host.process.borrow_mut().take() else { return };
        self.trace.fold(Step::Life, self.now.get(), process.number, u64::from(loud));
        process.life.set(Life::Dead);
        self.network.process_died(self, &process, loud);
        process.kill();
    }
}

/// Nothing is due.
struct Idle;

/// A world and whoever drives it. Dropping it ends all of its processes.
pub struct World(Rc<Inner>);

impl World {
    /// A world without hosts, at time 0.
    pub fn new(seed: u64, settings: Settings) -> World {
        World(Rc::new(Inner {
            seed,
            now: Cell::new(0),
            trace: Trace::default(),
            timers: RefCell::default(),
            swept: Cell::new(0),
            network: Network::new(settings.network, Random::new(seed, purpose::NETWORK)),
            hosts: RefCell::default(),
            queue: RefCell::default(),
            order: Cell::new(0),
            processes: Cell::new(0),
            scheduler: RefCell::new(Random::new(seed, purpose::SCHEDULER)),
            stalls: RefCell::new(Random::new(seed, purpose::STALLS)),
            poll_ns: settings.poll_ns,
            stall_ppm: settings.stall_ppm,
            stall_ns: settings.stall_ns,
        }))
    }

    // ---- hosts and processes ----

    /// Adds a machine with an empty disk. Its clock began at a moment of its own.
    pub fn add_host(&self, name: &str) -> HostId {
        let world = &self.0;
        let id = HostId(world.hosts.borrow().len());
        let began = Random::new(world.seed, purpose::CLOCKS + ((id.0 as u64) << 32)).below(1 << 50);
        let disk = SimDisk::new(Rc::downgrade(world), id, Random::new(world.seed, purpose::DISK + id.0 as u64));
        world.hosts.borrow_mut().push(Rc::new(Host {
            name: name.to_string(),
            clock: Cell::new(Clock::new(began, 0)),
            disk,
            process: RefCell::default(),
            dark: Cell::new(false),
            slowness: Cell::new(1),
        }));
        world.network.add_host();
        id
    }

    /// Starts a process on a host that has none; `main` makes its first task.
    pub fn start<F: Future<Output = ()> + 'static>(&self, id: HostId, main: impl FnOnce() -> F) {
        let process = self.begin(id);
        let future = process.enter(main);
        process.spawn(future);
    }

    fn begin(&self, id: HostId) -> Rc<Process> {
        let world = &self.0;
        let host = world.host(id);
        assert!(host.process.borrow().is_none(), "host {} runs a process already", host.name);
        let number = world.processes.get() + 1;
        world.processes.set(number);
        world.trace.fold(Step::Life, world.now.get(), number, id.0 as u64);
        let process = Process::new(world.clone(), id, host.clone(), number);
        *host.process.borrow_mut() = Some(process.clone());
        if host.dark.replace(false) {
            world.network.host_is_back(world, id);
        }
        process
    }

    /// Whether a process runs (or is paused) on the host.
    pub fn is_up(&self, id: HostId) -> bool {
        self.0.host(id).process.borrow().is_some()
    }

    /// The process ends in the middle of whatever it does. A host without one can still lose its power.
    pub fn crash(&self, id: HostId, how: Crash) {
        let world = &self.0;
        let host = world.host(id);
        let runs = host.process.borrow().is_some();
        if !runs && how == Crash::Kill {
            return;
        }
        world.tell(|| format!("{}: {how:?}", host.name));
        world.trace.count(if how == Crash::Kill { Fault::Kill } else { Fault::PowerLoss });
        if runs {
            host.dark.set(how == Crash::PowerLoss);
            world.end_process(id, how != Crash::PowerLoss);
        }
        let digest = if how == Crash::Kill { host.disk.settle_kill() } else { host.disk.settle_power_loss() };
        world.trace.fold(Step::Resolve, world.now.get(), id.0 as u64, digest);
    }

    /// The process has ended by itself: what is left of it goes, and what it wrote is the kernel's, as after a kill.
    pub fn reap(&self, id: HostId) {
        let world = &self.0;
        world.end_process(id, true);
        let digest = world.host(id).disk.settle_kill();
        world.trace.fold(Step::Resolve, world.now.get(), id.0 as u64, digest);
    }

    /// SIGSTOP: nothing of the process runs; its kernel still takes connections and bytes.
    pub fn pause(&self, id: HostId) {
        let world = &self.0;
        let host = world.host(id);
        if let Some(process) = &*host.process.borrow() {
            world.tell(|| format!("{}: paused", host.name));
            world.trace.count(Fault::Pause);
            world.trace.fold(Step::Life, world.now.get(), process.number, 100);
            process.pause();
        }
    }

    /// SIGCONT.
    pub fn resume(&self, id: HostId) {
        let world = &self.0;
        let host = world.host(id);
        if let Some(process) = &*host.process.borrow() {
            world.tell(|| format!("{}: goes on", host.name));
            world.trace.fold(Step::Life, world.now.get(), process.number, 101);
            process.resume();
        }
    }

    /// Its code runs this many times slower.
    pub fn set_slowness(&self, id: HostId, factor: u64) {
        if self.0.host(id).slowness.replace(factor.max(1)) < factor {
            self.0.trace.count(Fault::SlowCore);
            self.0.tell(|| format!("{}: its core is {factor} times slower", self.0.host(id).name));
        }
    }

    /// What the process on the host has [offered](super::offer), in order.
    pub fn offers(&self, id: HostId) -> Vec<Rc<dyn Any>> {
        let host = self.0.host(id);
        let process = host.process.borrow();
        process.as_ref().map(|process| process.offers.borrow().clone()).unwrap_or_default()
    }

    /// Runs `inside` as code of the host's process; `None` when it has none.
    pub fn enter<T>(&self, id: HostId, inside: impl FnOnce() -> T) -> Option<T> {
        let process = self.0.host(id).process.borrow().clone()?;
        Some(process.enter(inside))
    }

    /// The host's disk, for faults and looks; it has the files whether or not a process runs.
    pub fn disk(&self, id: HostId) -> SimDisk {
        self.0.host(id).disk.clone()
    }

    // ---- clocks ----

    /// The host's clock gains this many microseconds a second from now on.
    pub fn set_drift(&self, id: HostId, ppm: i64) {
        let (host, now) = (self.0.host(id), self.0.now.get());
        self.0.trace.count(Fault::ClockDrift);
        self.0.tell(|| format!("{}: clock drifts by {ppm} ppm", host.name));
        let mut clock = host.clock.get();
        clock.set_drift(now, ppm);
        host.clock.set(clock);
    }

    // ---- time ----

    /// Since the world began.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.now.get())
    }

    /// Lets `duration` pass.
    pub fn run_for(&self, duration: Duration) {
        let end = self.0.now.get() + duration.as_nanos() as u64;
        while self.0.step(end).is_ok() {}
        self.0.now.set(self.0.now.get().max(end));
    }

    /// Lets time pass until `condition` holds, which is looked at every `every`; false when it did not within `limit`.
    pub fn run_until(&self, limit: Duration, every: Duration, mut condition: impl FnMut() -> bool) -> bool {
        let end = self.now() + limit;
        while !condition() {
            if self.now() >= end {
                return false;
            }
            self.run_for(every.min(end - self.now()));
        }
        true
    }

    /// Does `call` once `after` has passed.
    pub fn call_after(&self, after: Duration, call: impl FnOnce() + 'static) {
        let at = self.0.now.get() + after.as_nanos() as u64;
        self.0.push(at, What::Call(Box::new(move |_| call())));
    }

    /// Runs `future` as the process of a host, to its end.
    pub fn block_on<T>(&self, id: HostId, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let process = self.begin(id);
        let task = process.main_task();
        loop {
            match self.0.step(u64::MAX) {
                Ok(None) => {}
                Ok(Some(next)) => {
                    assert!(Rc::ptr_eq(&next, &process), "one main task at a time");
                    if let Poll::Ready(value) = process.poll_main(&task, future.as_mut()) {
                        self.0.end_process(id, true);
                        return value;
                    }
                }
                Err(Idle) => panic!("the main task waits for something that cannot happen"),
            }
        }
    }

    // ---- network ----

    /// Links, cuts and resets.
    pub fn links(&self) -> super::net::Links<'_> {
        super::net::Links(&self.0)
    }

    // ---- what happened ----

    /// A hash of every decision so far.
    pub fn trace_hash(&self) -> u64 {
        self.0.trace.hash()
    }

    /// Decisions so far.
    pub fn steps(&self) -> u64 {
        self.0.trace.steps()
    }

    /// How often each fault struck.
    pub fn faults(&self) -> Faults {
        self.0.trace.faults()
    }

    /// The last rare events, oldest first.
    pub fn story(&self) -> Vec<String> {
        self.0.trace.story()
    }

    /// Adds a line to the story.
    pub fn tell(&self, line: String) {
        self.0.tell(|| line);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for id in 0..self.0.hosts.borrow().len() {
            let host = self.0.host(HostId(id));
            let process = host.process.borrow_mut().take();
            if let Some(process) = process {
                process.life.set(Life::Dead);
                process.kill();
            }
        }
        // Wakers and sockets lead back to the world: without this it would never be freed.
        let queue = std::mem::take(&mut *self.0.queue.borrow_mut());
        drop(queue);
        self.0.network.clear();
        let hosts = std::mem::take(&mut *self.0.hosts.borrow_mut());
        drop(hosts);
    }
}
