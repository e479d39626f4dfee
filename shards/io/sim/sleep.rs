//! Waiting for a moment: timers of the world, and the futures that wait for them.
//!
//! **Invariants**
//! - A sleep of a process ends by its host's clock, and never early by it, even if the clock's rate changes meanwhile.
//! - A dropped sleep leaves no waker behind; its place in the world's queue is swept out when it is due, or earlier.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::executor::{Process, current};
use super::world::What;

/// Which wakers wait for a moment. Places are used again; the round tells an old user of a place from a new one.
#[derive(Default)]
pub(super) struct Timers {
    places: Vec<(u32, Option<Waker>)>,
    free: Vec<u32>,
}

/// A place of [`Timers`] in its round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimerId {
    place: u32,
    round: u32,
}

impl Timers {
    pub fn set(&mut self, waker: &Waker) -> TimerId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            u32::try_from(self.places.len() - 1).expect("fewer timers than memory holds")
        });
        let (round, slot) = &mut self.places[place as usize];
        *slot = Some(waker.clone());
        TimerId { place, round: *round }
    }

    pub fn is_set(&self, id: TimerId) -> bool {
        self.places[id.place as usize].0 == id.round
    }

    /// Takes the waker out; `None` when the timer was cleared.
    pub fn clear(&mut self, id: TimerId) -> Option<Waker> {
        let (round, slot) = &mut self.places[id.place as usize];
        if *round != id.round {
            return None;
        }
        *round += 1;
        self.free.push(id.place);
        slot.take()
    }

    /// Names another waker; false when the timer was cleared.
    fn rename(&mut self, id: TimerId, waker: &Waker) -> bool {
        let (round, slot) = &mut self.places[id.place as usize];
        if *round != id.round {
            return false;
        }
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
        true
    }
}

#[derive(Clone, Copy)]
enum Due {
    /// By the host's clock.
    Local(u64),
    /// By the world's: for what devices and networks do.
    World(u64),
}

/// A pending sleep.
pub struct SimSleep {
    process: Rc<Process>,
    due: Due,
    timer: Option<TimerId>,
}

impl std::fmt::Debug for SimSleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimSleep")
    }
}

impl SimSleep {
    /// By the clock of the current process' host.
    pub(super) fn local(ns: u64) -> SimSleep {
        let process = current();
        let due = Due::Local(process.local_now().saturating_add(ns));
        SimSleep { process, due, timer: None }
    }

    /// By the world's clock.
    pub(super) fn world(ns: u64) -> SimSleep {
        let process = current();
        let due = Due::World(process.world_now().saturating_add(ns));
        SimSleep { process, due, timer: None }
    }
}

impl Future for SimSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let world = &this.process.world;
        let over = match this.due {
            Due::Local(due) => this.process.local_now() >= due,
            Due::World(due) => this.process.world_now() >= due,
        };
        if over {
            return Poll::Ready(());
        }
        if this.timer.is_some_and(|id| world.timers.borrow_mut().rename(id, cx.waker())) {
            return Poll::Pending;
        }
        let at = match this.due {
            Due::Local(due) => this.process.machine.clock.get().world(due),
            Due::World(due) => due,
        };
        let id = world.timers.borrow_mut().set(cx.waker());
        this.timer = Some(id);
        world.push(at, What::Timer(id));
        Poll::Pending
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        if let Some(id) = self.timer {
            let waker = self.process.world.timers.borrow_mut().clear(id);
            if waker.is_some() {
                self.process.world.swept.set(self.process.world.swept.get() + 1);
            }
        }
    }
}
