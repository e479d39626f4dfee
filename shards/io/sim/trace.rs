//! What happened: a hash over every decision, the last of them in readable form, and how often each fault struck.
//!
//! **Invariant**: two runs with the same seed and the same plan have the same hash; the first decision that differs changes it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// Kinds of decisions, as they go into the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    /// A task was polled.
    Poll = 1,
    /// A timer went off.
    Timer,
    /// Bytes, an end or a reset arrived.
    Deliver,
    /// Something that was scheduled from outside.
    Call,
    /// A process began, stopped, paused or went on.
    Life,
    /// A crash decided what its disk keeps.
    Resolve,
}

/// Every kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)]
pub enum Fault {
    Kill,
    PowerLoss,
    LostWrite,
    TornWrite,
    KeptWrite,
    MisplacedWrite,
    LostName,
    SyncFailure,
    FullDisk,
    SlowDisk,
    Rot,
    Partition,
    OneWayCut,
    Clog,
    SlowLink,
    Reset,
    ConnectionTimeout,
    LateDelivery,
    Pause,
    SlowCore,
    ClockDrift,
}

impl Fault {
    const COUNT: usize = Fault::ClockDrift as usize + 1;

    /// All kinds, in the order of their declaration, with the names that figures use.
    pub const ALL: [(Fault, &'static str); Fault::COUNT] = [
        (Fault::Kill, "kill"),
        (Fault::PowerLoss, "power loss"),
        (Fault::LostWrite, "lost write"),
        (Fault::TornWrite, "torn write"),
        (Fault::KeptWrite, "kept unsynced write"),
        (Fault::MisplacedWrite, "misplaced unsynced block"),
        (Fault::LostName, "lost name operation"),
        (Fault::SyncFailure, "sync failure"),
        (Fault::FullDisk, "full disk"),
        (Fault::SlowDisk, "slow disk"),
        (Fault::Rot, "bit rot"),
        (Fault::Partition, "partition"),
        (Fault::OneWayCut, "one-way cut"),
        (Fault::Clog, "clog"),
        (Fault::SlowLink, "slow link"),
        (Fault::Reset, "connection reset"),
        (Fault::ConnectionTimeout, "connection timed out"),
        (Fault::LateDelivery, "late delivery"),
        (Fault::Pause, "pause"),
        (Fault::SlowCore, "slow core"),
        (Fault::ClockDrift, "clock drift"),
    ];
}

/// How often each fault struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults([u64; Fault::COUNT]);

impl Faults {
    /// How often `fault` struck.
    pub fn count(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Name and count of each.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Fault::ALL.iter().map(|(fault, name)| (*name, self.count(*fault)))
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Faults) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine += theirs);
    }
}

/// Readable events that are kept.
const STORY_LINES: usize = 400;

/// Hash, story and counters of one world.
#[derive(Default)]
pub(super) struct Trace {
    hash: Cell<u64>,
    steps: Cell<u64>,
    faults: RefCell<Faults>,
    story: RefCell<VecDeque<(u64, String)>>,
}

impl Trace {
    /// Folds one decision into the hash.
    #[inline]
    pub fn fold(&self, step: Step, time: u64, who: u64, what: u64) {
        let word = time ^ (who << 48) ^ what.rotate_left(24) ^ ((step as u64) << 60);
        self.hash.set((self.hash.get() ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(27));
        self.steps.set(self.steps.get() + 1);
    }

    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// Decisions so far.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    pub fn count(&self, fault: Fault) {
        self.faults.borrow_mut().0[fault as usize] += 1;
    }

    pub fn faults(&self) -> Faults {
        *self.faults.borrow()
    }

    /// A line of the story. Only what is rare is told: the hash has the rest.
    pub fn tell(&self, time: u64, line: String) {
        let mut story = self.story.borrow_mut();
        if story.len() == STORY_LINES {
            story.pop_front();
        }
        story.push_back((time, line));
    }

    /// The last lines, oldest first.
    pub fn story(&self) -> Vec<String> {
        let line = |(time, line): &(u64, String)| format!("{:>12.6} s  {line}", *time as f64 / 1e9);
        self.story.borrow().iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_names_in_the_order_of_their_numbers() {
        for (at, (fault, _)) in Fault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, at);
        }
    }

    #[test]
    fn one_other_decision_is_another_hash() {
        let of = |task| {
            let trace = Trace::default();
            (0..10).for_each(|at| trace.fold(Step::Poll, at, 1, if at == 5 { task } else { 0 }));
            trace.hash()
        };
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
    }
}
