//! One process incarnation: its tasks, run one poll at a time in the order of their wakes, and where its code finds its world.
//!
//! ```text
//!   wake ─▶ [ready, FIFO] ─▶ turn: one poll ─▶ busy for 1 to 20 us ─▶ next turn, if anything is ready
//!                                                 └─ other processes' events of that time come first
//! ```
//!
//! **Invariants**
//! - A process polls one task at a time, in the order of their wakes, and is busy for a while after each poll. Inside of one time
//!   passes when it looks at the clock, now and then much of it: who goes on until some time has passed stops anywhere.
//! - What a dead process' tasks do while they are dropped changes nothing: no spawn, no wake, no byte.
//! - Wakers are not sent to another thread. `Waker` cannot say so; everything here is `Rc`, and a world has one thread.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use super::random::Random;
use super::trace::Step;
use super::world::{Host, HostId, Inner, What};

/// What a process is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    /// SIGSTOP: nothing runs, the kernel goes on.
    Paused,
    Dead,
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// A process on a host, from its start to its end.
pub(super) struct Process {
    pub world: Rc<Inner>,
    pub host: HostId,
    /// The same, at hand: every look at the clock asks it.
    pub machine: Rc<Host>,
    /// Unique in the world.
    pub number: u64,
    pub life: Cell<Life>,
    /// Nanoseconds that the running poll has used by looking at the clock.
    elapsed: Cell<u64>,
    random: RefCell<Random>,
    /// What it offers to whoever looks into it from outside; see [`super::offer`].
    pub offers: RefCell<Vec<Rc<dyn Any>>>,
    tasks: RefCell<Vec<Option<Rc<Task>>>>,
    free: RefCell<Vec<usize>>,
    ready: RefCell<VecDeque<Rc<Task>>>,
    busy_until: Cell<u64>,
    /// A turn of it is in the world's queue, or it has one now.
    turning: Cell<bool>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Process>>> = const { RefCell::new(None) };
    static LOOKS_ARE_FREE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `look` without a cost for its looks at the clock: who writes down what happens must not change it.
pub fn aside<T>(look: impl FnOnce() -> T) -> T {
    let before = LOOKS_ARE_FREE.replace(true);
    let found = look();
    LOOKS_ARE_FREE.set(before);
    found
}

/// Gives back what was current before, also when a task panics.
struct Restore(Option<Rc<Process>>);

impl Drop for Restore {
    fn drop(&mut self) {
        let ours = CURRENT.replace(self.0.take());
        drop(ours);
    }
}

/// The process whose code runs.
pub(super) fn current() -> Rc<Process> {
    with_current(Rc::clone)
}

/// Looks at the process whose code runs.
pub(super) fn with_current<T>(look: impl FnOnce(&Rc<Process>) -> T) -> T {
    CURRENT.with_borrow(|current| look(current.as_ref().expect("a simulated call is made inside a simulated process")))
}

pub(super) fn maybe_current() -> Option<Rc<Process>> {
    CURRENT.with_borrow(Option::clone)
}

/// What a look at the clock costs at least, so that a loop that waits for time to pass sees it pass.
const LOOK_NS: u64 = 20;

impl Process {
    pub fn new(world: Rc<Inner>, host: HostId, machine: Rc<Host>, number: u64) -> Rc<Process> {
        let random = RefCell::new(Random::new(world.seed, 1_000 + number));
        let busy_until = Cell::new(world.now.get());
        Rc::new(Process {
            world,
            host,
            machine,
            number,
            life: Cell::new(Life::Running),
            elapsed: Cell::new(0),
            random,
            offers: RefCell::default(),
            tasks: RefCell::default(),
            free: RefCell::default(),
            ready: RefCell::default(),
            busy_until,
            turning: Cell::new(false),
        })
    }

    pub fn is_dead(&self) -> bool {
        self.life.get() == Life::Dead
    }

    pub fn random(&self) -> u64 {
        self.random.borrow_mut().bits()
    }

    /// The world's time, as far as this process has come in its poll.
    pub fn world_now(&self) -> u64 {
        self.world.now.get() + self.elapsed.get()
    }

    /// The host's time; looking costs a little of it.
    pub fn local_now(&self) -> u64 {
        if !LOOKS_ARE_FREE.get() {
            self.elapsed.set(self.elapsed.get() + LOOK_NS + self.world.stall());
        }
        self.machine.clock.get().local(self.world_now())
    }

    /// Runs `inside` as code of this process.
    pub fn enter<T>(self: &Rc<Self>, inside: impl FnOnce() -> T) -> T {
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        inside()
    }

    pub fn spawn(self: &Rc<Self>, future: impl Future<Output = ()> + 'static) {
        if self.is_dead() {
            return;
        }
        let task = self.task(Some(Box::pin(future)));
        task.wake();
    }

    /// The task of a future that its caller keeps; the world stops in front of its polls.
    pub fn main_task(self: &Rc<Self>) -> Rc<Task> {
        let task = self.task(None);
        task.clone().wake();
        task
    }

    fn task(self: &Rc<Self>, future: Option<Work>) -> Rc<Task> {
        let place = self.free.borrow_mut().pop();
        let mut tasks = self.tasks.borrow_mut();
        let place = place.unwrap_or_else(|| {
            tasks.push(None);
            tasks.len() - 1
        });
        let is_main = future.is_none();
        let task =
            Rc::new(Task { process: self.clone(), place, is_main, queued: Cell::new(false), future: RefCell::new(future) });
        tasks[place] = Some(task.clone());
        task
    }

    /// Sees to it that what is ready gets its turn.
    fn ask_for_turn(self: &Rc<Self>) {
        if self.life.get() != Life::Running || self.ready.borrow().is_empty() || self.turning.replace(true) {
            return;
        }
        let at = self.busy_until.get().max(self.world.now.get());
        self.world.push(at, What::Turn(self.clone()));
    }

    /// Polls what is ready, one task after the other, as long as nothing else in the world comes first. `limit` is the time
    /// at which the world pauses. True: the main task is next, and its owner polls it by [`Process::poll_main`].
    pub fn turn(self: &Rc<Self>, limit: u64) -> bool {
        loop {
            self.turning.set(false);
            if self.life.get() != Life::Running {
                return false;
            }
            let Some(task) = self.ready.borrow_mut().pop_front() else { return false };
            task.queued.set(false);
            if task.is_main {
                self.turning.set(true);
                return true;
            }
            self.begin(&task);
            self.poll(&task);
            self.end();
            if self.ready.borrow().is_empty() || self.life.get() != Life::Running {
                return false;
            }
            let next = self.busy_until.get();
            if next > limit || self.world.next_at().is_some_and(|at| at <= next) {
                self.ask_for_turn();
                return false;
            }
            self.world.now.set(next);
        }
    }

    fn begin(&self, task: &Task) {
        // A wake inside the poll asks for no turn of its own.
        self.turning.set(true);
        self.elapsed.set(0);
        self.world.trace.fold(Step::Poll, self.world.now.get(), self.number, task.place as u64);
    }

    fn end(self: &Rc<Self>) {
        let cost = self.world.poll_cost() * self.machine.slowness.get();
        self.busy_until.set(self.world_now() + cost);
        self.elapsed.set(0);
        self.turning.set(false);
    }

    fn poll(self: &Rc<Self>, task: &Rc<Task>) {
        let Some(mut future) = task.future.borrow_mut().take() else { return };
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        let waker = task.waker();
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() && !self.is_dead() {
            *task.future.borrow_mut() = Some(future);
            return;
        }
        // What the future drops may spawn and wake: it is still this process' code.
        drop(future);
        if !self.is_dead() {
            self.tasks.borrow_mut()[task.place] = None;
            self.free.borrow_mut().push(task.place);
        }
    }

    /// The poll of a main task, after [`Process::turn`] has said so.
    pub fn poll_main<T>(self: &Rc<Self>, task: &Rc<Task>, future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        self.begin(task);
        let polled = self.enter(|| future.poll(&mut Context::from_waker(&task.waker())));
        self.end();
        self.ask_for_turn();
        polled
    }

    pub fn pause(&self) {
        if self.life.get() == Life::Running {
            self.life.set(Life::Paused);
        }
    }

    pub fn resume(self: &Rc<Self>) {
        if self.life.get() == Life::Paused {
            self.life.set(Life::Running);
            self.busy_until.set(self.busy_until.get().max(self.world.now.get()));
            self.ask_for_turn();
        }
    }

    /// Ends it between two polls: every task is dropped where it waits.
    pub fn kill(self: &Rc<Self>) {
        self.life.set(Life::Dead);
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        self.ready.borrow_mut().clear();
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        for task in tasks.into_iter().flatten() {
            let future = task.future.borrow_mut().take();
            drop(future);
        }
        let offers = std::mem::take(&mut *self.offers.borrow_mut());
        drop(offers);
    }
}

/// One task of a process.
pub(super) struct Task {
    process: Rc<Process>,
    place: usize,
    is_main: bool,
    queued: Cell<bool>,
    /// Absent while it is polled, and once it has ended.
    future: RefCell<Option<Work>>,
}

impl Task {
    fn wake(self: Rc<Self>) {
        if self.process.is_dead() || self.queued.replace(true) {
            return;
        }
        let process = self.process.clone();
        process.ready.borrow_mut().push_back(self);
        process.ask_for_turn();
    }

    fn waker(self: &Rc<Self>) -> Waker {
        let data = Rc::into_raw(self.clone()).cast();
        // SAFETY: the table's functions take `data` for what it is, a counted `Rc<Task>`; a world's wakers stay on its thread.
        unsafe { Waker::from_raw(RawWaker::new(data, &TABLE)) }
    }
}

static TABLE: RawWakerVTable = RawWakerVTable::new(clone_waker, wake, wake_by_ref, drop_waker);

fn clone_waker(data: *const ()) -> RawWaker {
    // SAFETY: `data` came from `Rc::into_raw` in `Task::waker` and the waker that holds it is alive.
    unsafe { Rc::increment_strong_count(data.cast::<Task>()) };
    RawWaker::new(data, &TABLE)
}

fn wake(data: *const ()) {
    // SAFETY: as above; this takes over the waker's count.
    unsafe { Rc::from_raw(data.cast::<Task>()) }.wake();
}

fn wake_by_ref(data: *const ()) {
    // SAFETY: as above; the waker keeps its count.
    let task = ManuallyDrop::new(unsafe { Rc::from_raw(data.cast::<Task>()) });
    Rc::clone(&task).wake();
}

fn drop_waker(data: *const ()) {
    // SAFETY: as above; this takes over the waker's count.
    drop(unsafe { Rc::from_raw(data.cast::<Task>()) });
}
