//! The search for one order of all operations of a register, which each took effect between its call and its end.
//!
//! ```text
//!   list of events   c1 ─ c2 ─ e1 ─ c3 ─ c4 ─ e3 ─ e2 ─ ..      c: call, e: end; without those that have their place already
//!   next             any of c1, c2: called before the first end in the list
//!   an end in front  whoever it belongs to has found no place: take back the last placed one, try those behind it
//! ```
//!
//! This is the algorithm of Wing and Gong ("Testing and verifying concurrent objects", J. Parallel Distrib. Comput. 17, 1993)
//! as Lowe made it fast ("Testing for linearizability", Concurrency and Computation 29(4), 2017): the linked list of events,
//! and a memory of (set of those placed, state) pairs from which no order was found. Porcupine (A. Athalye, 2017) has the same
//! shape.
//!
//! Three things are ours, and each only removes branches that cannot matter:
//! - **Ranks.** A step may have a place that its answer named. It is placed only when all with a lower rank are. With ranks on
//!   all steps nothing is left to search; without any, this is the plain algorithm.
//! - **Floating writes.** A write without an answer whose value nobody read may have happened, once, or not. All such puts are
//!   alike, and so are all such deletes: of each kind only the number used is kept, the earliest calls are used first, and one
//!   is used only before a step that needs it. Nothing else sees it.
//! - **Fewer floating writes used is never worse**, so the memory of a pair holds the least numbers with which it was seen.
//!
//! **Not here**: what becomes a step and what floats (`linear.rs`).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::time::{Duration, Instant};

use crate::check::evidence::Place;

/// The value of the register, or nothing.
pub type State = Option<u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// `existed`: what the answer said there was before, when there was an answer.
    Write {
        to: State,
        existed: Option<bool>,
    },
    Read {
        found: State,
    },
}

/// An operation that took effect.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub act: Act,
    pub called_ns: u64,
    /// None: it may take effect at any time after its call.
    pub ended_ns: Option<u64>,
    pub rank: Option<Place>,
}

/// All that is known of one register, which is empty at first.
#[derive(Clone, Debug, Default)]
pub struct Register {
    pub steps: Vec<Step>,
    /// Calls of writes that may have happened or not, and whose value nobody read; ascending.
    pub floating_puts: Vec<u64>,
    pub floating_deletes: Vec<u64>,
}

/// How long to search. Steps are counted the same on every machine; time is not.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub steps_max: u64,
    pub time_max: Option<Duration>,
}

impl Default for Effort {
    /// Some seconds.
    fn default() -> Effort {
        Effort { steps_max: 20_000_000, time_max: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An order of all steps.
    Order(Vec<usize>),
    /// There is none; the longest beginning of one, and the state behind it.
    None { longest: Vec<usize>, state: State },
    /// The effort was not enough to know.
    GaveUp { steps: u64 },
}

/// What a step needs in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    FloatingPut,
    FloatingDelete,
}

impl Act {
    /// The state behind it and what it needs in front of it; None when it cannot be here.
    fn after(self, state: State) -> Option<(State, Needs)> {
        match self {
            Act::Write { to, existed } => Some((
                to,
                match existed {
                    Some(true) if state.is_none() => Needs::FloatingPut,
                    Some(false) if state.is_some() => Needs::FloatingDelete,
                    _ => Needs::Nothing,
                },
            )),
            Act::Read { found } if found == state => Some((state, Needs::Nothing)),
            Act::Read { found: None } => Some((None, Needs::FloatingDelete)),
            Act::Read { found: Some(_) } => None,
        }
    }
}

/// Searches an order.
pub fn search(register: &Register, effort: Effort) -> Found {
    Search::new(register, effort).run()
}

const END: usize = usize::MAX;

/// An event of the list, by its neighbours' places. Place 0 is the head.
#[derive(Clone, Copy, Debug)]
struct Event {
    step: usize,
    is_call: bool,
    at_ns: u64,
    before: usize,
    after: usize,
}

/// A step that has its place, and what was before it.
struct Placed {
    event: usize,
    state: State,
    used: (usize, usize),
    group: usize,
}

/// Sets of placed steps with the state behind them, from which no order was found, and the least numbers of floating writes used.
/// Only looked up: its order reaches nothing, and its hasher has no secret.
type Seen = HashMap<(Vec<u64>, State), Vec<(usize, usize)>, BuildHasherDefault<DefaultHasher>>;

struct Search<'a> {
    register: &'a Register,
    effort: Effort,
    began: Option<Instant>,
    events: Vec<Event>,
    /// Place in the list of each step's end, [`END`] without one.
    ends: Vec<usize>,
    /// Rank group of each step, if it has one, and how many of each group have no place yet.
    group_of: Vec<Option<usize>>,
    waiting: Vec<usize>,
    group: usize,
    placed: Vec<Placed>,
    set: Set,
    state: State,
    used: (usize, usize),
    seen: Seen,
    longest: (Vec<usize>, State),
    steps: u64,
}

impl<'a> Search<'a> {
    fn new(register: &'a Register, effort: Effort) -> Search<'a> {
        let steps = &register.steps;
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * steps.len());
        for (at, step) in steps.iter().enumerate() {
            // At one moment calls come before ends: what touches overlaps.
            order.push((step.called_ns, false, at));
            order.extend(step.ended_ns.map(|end| (end, true, at)));
        }
        order.sort_unstable();
        let mut events = vec![Event { step: END, is_call: false, at_ns: 0, before: END, after: END }];
        let mut ends = vec![END; steps.len()];
        let mut numbers = vec![0; steps.len()];
        let mut calls = 0;
        for (at_ns, is_end, step) in order {
            let at = events.len();
            events[at - 1].after = at;
            events.push(Event { step, is_call: !is_end, at_ns, before: at - 1, after: END });
            if is_end {
                ends[step] = at;
            } else {
                numbers[step] = calls;
                calls += 1;
            }
        }
        let mut ranks: Vec<Place> = steps.iter().filter_map(|step| step.rank).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let group_of: Vec<Option<usize>> =
            steps.iter().map(|step| step.rank.map(|rank| ranks.partition_point(|other| *other < rank))).collect();
        let mut waiting = vec![0; ranks.len()];
        for group in group_of.iter().flatten() {
            waiting[*group] += 1;
        }
        Search {
            register,
            effort,
            began: effort.time_max.map(|_| Instant::now()),
            events,
            ends,
            group_of,
            waiting,
            group: 0,
            placed: Vec::new(),
            set: Set { numbers, words: vec![0; steps.len().div_ceil(64)], full: 0 },
            state: None,
            used: (0, 0),
            seen: Seen::default(),
            longest: (Vec::new(), None),
            steps: 0,
        }
    }

    fn run(mut self) -> Found {
        let mut at = self.events[0].after;
        while self.placed.len() < self.register.steps.len() {
            self.steps += 1;
            if self.exhausted() {
                return Found::GaveUp { steps: self.steps };
            }
            let call = (at != END && self.events[at].is_call).then_some(at);
            match call {
                Some(call) if self.place(call) => at = self.events[0].after,
                Some(call) => at = self.events[call].after,
                None => match self.take_back() {
                    Some(next) => at = next,
                    None => return Found::None { longest: self.longest.0, state: self.longest.1 },
                },
            }
        }
        Found::Order(self.placed.iter().map(|placed| self.events[placed.event].step).collect())
    }

    fn exhausted(&self) -> bool {
        let late = || self.began.zip(self.effort.time_max).is_some_and(|(began, max)| began.elapsed() > max);
        self.steps > self.effort.steps_max || (self.steps.is_multiple_of(1024) && late())
    }

    /// Places the step that is called here next, if that can be and leads to what was not seen yet.
    fn place(&mut self, call: usize) -> bool {
        let step = self.events[call].step;
        if self.group_of[step].is_some_and(|group| group != self.group) {
            return false;
        }
        let Some((state, needs)) = self.register.steps[step].act.after(self.state) else { return false };
        let Some(used) = self.use_floating(needs) else { return false };
        self.set.flip(step);
        let known = self.seen.entry((self.set.window(), state)).or_default();
        if known.iter().any(|less| less.0 <= used.0 && less.1 <= used.1) {
            self.set.flip(step);
            return false;
        }
        known.retain(|more| !(used.0 <= more.0 && used.1 <= more.1));
        known.push(used);
        self.placed.push(Placed { event: call, state: self.state, used: self.used, group: self.group });
        (self.state, self.used) = (state, used);
        if let Some(group) = self.group_of[step] {
            self.waiting[group] -= 1;
            while self.waiting.get(self.group) == Some(&0) {
                self.group += 1;
            }
        }
        self.lift(call);
        true
    }

    /// Numbers of floating writes used when one of this kind is used now, if there is one that has been called in time.
    fn use_floating(&self, needs: Needs) -> Option<(usize, usize)> {
        let (puts, deletes) = self.used;
        let (next, used) = match needs {
            Needs::Nothing => return Some(self.used),
            Needs::FloatingPut => (self.register.floating_puts.get(puts), (puts + 1, deletes)),
            Needs::FloatingDelete => (self.register.floating_deletes.get(deletes), (puts, deletes + 1)),
        };
        let called_ns = *next?;
        let mut at = self.events[0].after;
        while at != END && self.events[at].is_call {
            at = self.events[at].after;
        }
        (at == END || called_ns <= self.events[at].at_ns).then_some(used)
    }

    /// Takes back the step placed last. Where to go on: behind its call.
    fn take_back(&mut self) -> Option<usize> {
        if self.placed.len() > self.longest.0.len() {
            self.longest = (self.placed.iter().map(|placed| self.events[placed.event].step).collect(), self.state);
        }
        let Placed { event, state, used, group } = self.placed.pop()?;
        let step = self.events[event].step;
        self.unlift(event);
        self.set.flip(step);
        if let Some(own) = self.group_of[step] {
            self.waiting[own] += 1;
        }
        (self.state, self.used, self.group) = (state, used, group);
        Some(self.events[event].after)
    }

    /// Takes a call and its end out of the list. They keep their neighbours, so that [`unlift`](Self::unlift) finds their
    /// places.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        let end = self.ends[self.events[call].step];
        if end != END {
            self.unlink(end);
        }
    }

    /// Puts them back, in the reverse order.
    fn unlift(&mut self, call: usize) {
        let end = self.ends[self.events[call].step];
        if end != END {
            self.relink(end);
        }
        self.relink(call);
    }

    fn unlink(&mut self, at: usize) {
        let Event { before, after, .. } = self.events[at];
        self.events[before].after = after;
        if after != END {
            self.events[after].before = before;
        }
    }

    fn relink(&mut self, at: usize) {
        let Event { before, after, .. } = self.events[at];
        self.events[before].after = at;
        if after != END {
            self.events[after].before = at;
        }
    }
}

/// Steps that have their place, a bit each, in the order of their calls.
struct Set {
    numbers: Vec<usize>,
    words: Vec<u64>,
    /// Words in front that are full.
    full: usize,
}

impl Set {
    fn flip(&mut self, step: usize) {
        let number = self.numbers[step];
        self.words[number / 64] ^= 1 << (number % 64);
        self.full = self.full.min(number / 64);
        while self.words.get(self.full) == Some(&u64::MAX) {
            self.full += 1;
        }
    }

    /// The set without what is full in front and empty behind: operations overlap few others, so this is short.
    fn window(&self) -> Vec<u64> {
        let used = &self.words[self.full..];
        let length = used.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        let mut window = Vec::with_capacity(length + 1);
        window.push(self.full as u64);
        window.extend_from_slice(&used[..length]);
        window
    }
}
