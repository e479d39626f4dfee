//! Draws the rounds of a plan: what strikes whom, when, and when it ends.
//!
//! **Invariant**: the budget is asked before anything that needs it is drawn.
//!
//! **Not here**: what may be lost at once (`budget.rs`), what faults mean (`plan.rs`).

use std::collections::BTreeMap;

use super::{Budget, Crash, Event, Fault, Kind, Members, Round, Way};
use crate::random::Random;

/// Events of one round: a run is to have many rounds and seeds, not one endless round.
const EVENTS_MAX: usize = 300;

/// Membership changes that a round asks for. Few: each has its own joint consensus and its own new node.
const CHANGES_MAX: usize = 3;

pub fn rounds(root: &Random, shards: u32, founders: &Members, swarm: &[(Kind, u64)], gap_us: u64, pace: u64) -> Vec<Round> {
    let mut random = root.fork("faults");
    let mut next_node = founders.all().last().map_or(1, |last| last + 1);
    let mut members = founders.clone();
    let count = random.between(1, 3);
    let mut rounds = Vec::new();
    for _ in 0..count {
        let draw = Draw {
            budget: Budget::new(&members.voters),
            random: random.fork("round"),
            shards,
            events: Vec::new(),
            busy: BTreeMap::new(),
            changes: 0,
            next_node,
            members,
            now_us: 0,
            heal_us: 0,
        };
        random.next();
        let (round, next) = draw.round(swarm, gap_us, pace);
        members = round.after.clone();
        next_node = next;
        rounds.push(round);
    }
    rounds
}

struct Draw {
    random: Random,
    shards: u32,
    budget: Budget,
    /// As they are when all that was asked for has succeeded.
    members: Members,
    next_node: u64,
    changes: usize,
    /// Nodes that are down or paused, until when.
    busy: BTreeMap<u64, u64>,
    events: Vec<Event>,
    now_us: u64,
    heal_us: u64,
}

impl Draw {
    fn round(mut self, swarm: &[(Kind, u64)], gap_us: u64, pace: u64) -> (Round, u64) {
        let calm_us = self.random.between(500_000, 3_000_000);
        self.heal_us = calm_us + self.random.magnitude(4_000_000, 60_000_000) * pace;
        self.now_us = calm_us;
        let total: u64 = swarm.iter().map(|(_, weight)| weight).sum();
        while total > 0 && self.now_us < self.heal_us && self.events.len() < EVENTS_MAX {
            let mut at = self.random.below(total);
            let kind = swarm.iter().find(|(_, weight)| {
                let here = at < *weight;
                at = at.saturating_sub(*weight);
                here
            });
            if let Some((kind, _)) = kind {
                self.strike(*kind);
            }
            self.now_us += self.random.between(1, 2 * gap_us);
        }
        self.events.sort_by_key(|event| event.at_us);
        let mut replacements = Vec::new();
        for old in self.budget.spoiled().clone() {
            if self.members.all().contains(&old) {
                let new = self.new_node();
                self.members.replace(old, new);
                replacements.push((old, new));
            }
        }
        let Draw { heal_us, events, members: after, next_node, .. } = self;
        (Round { calm_us, heal_us, events, replacements, after }, next_node)
    }

    /// One fault of this kind now, and its end; none when there is nobody whom it could strike.
    fn strike(&mut self, kind: Kind) {
        match kind {
            Kind::Kill => self.crash(kind, Crash::Kill),
            Kind::PowerLoss => self.crash(kind, Crash::PowerLoss),
            Kind::Reboot => self.crash(kind, Crash::Reboot),
            Kind::CrashAll => self.crash_all(),
            Kind::CleanStop => {
                if let Some(node) = self.idle_node() {
                    self.begin(kind, Fault::Stop { node });
                    let until = self.later(100_000, 10_000_000);
                    self.start(node, until);
                }
            }
            Kind::RollingRestart => self.rolling_restart(),
            Kind::Pause => {
                if let Some(node) = self.idle_node() {
                    self.begin(kind, Fault::Pause { node });
                    let until = self.later(10_000, 10_000_000);
                    self.busy.insert(node, until);
                    self.end(until, Fault::Resume { node });
                }
            }
            Kind::Partition | Kind::OneWayCut | Kind::Clog | Kind::CutPair | Kind::SlowLink | Kind::ClientLink => {
                self.link(kind)
            }
            Kind::Reset => {
                let (a, b) = self.two();
                self.begin(kind, Fault::Reset { a, b });
            }
            Kind::SlowDisk => {
                let (node, factor) = (self.node(), self.random.magnitude(10, 20_000));
                self.begin(kind, Fault::SlowDisk { node, factor });
                let until = self.later(100_000, 20_000_000);
                self.end(until, Fault::SlowDisk { node, factor: 1 });
            }
            Kind::FullDisk => {
                let node = self.node();
                self.begin(kind, Fault::FullDisk { node });
                let until = self.later(100_000, 20_000_000);
                self.end(until, Fault::Space { node });
            }
            Kind::SyncFailure | Kind::Rot | Kind::Misplace | Kind::EmptyDisk => self.spoil(kind),
            Kind::OtherVersion => {
                if let Some(node) = self.idle_node() {
                    self.begin(kind, Fault::OtherVersion { node });
                    let (tried, until) = (self.later(1_000, 1_000_000), self.later(2_000_000, 10_000_000));
                    self.end(tried, Fault::Start { node });
                    self.busy.insert(node, until);
                    self.end(until, Fault::OwnVersion { node });
                }
            }
            Kind::ClockDrift => {
                let (node, size) = (self.node(), self.random.magnitude(10, 50_000) as i64);
                let ppm = if self.random.chance(1, 2) { size } else { -size };
                self.begin(kind, Fault::ClockDrift { node, ppm });
            }
            Kind::SlowCore => {
                let (node, factor) = (self.node(), self.random.magnitude(3, 100));
                self.begin(kind, Fault::SlowCore { node, factor });
                let until = self.later(100_000, 20_000_000);
                self.end(until, Fault::SlowCore { node, factor: 1 });
            }
            Kind::HandOver => {
                let voters: Vec<u64> = self.members.voters.iter().copied().collect();
                let to = self.random.chance(1, 2).then(|| *self.random.pick(&voters));
                let shard = self.random.below(u64::from(self.shards)) as u32;
                self.begin(kind, Fault::HandOver { shard, to });
            }
            Kind::AddObserver | Kind::Promote | Kind::Remove | Kind::Replace => self.change(kind),
        }
    }

    fn crash(&mut self, kind: Kind, how: Crash) {
        let Some(node) = self.idle_node() else { return };
        self.begin(kind, Fault::Crash { node, how });
        let mut until = self.later(1_000, 10_000_000);
        self.start(node, until);
        // Often once more while it recovers, or soon after: what the first crash has left is what the second start reads.
        if self.random.chance(1, 2) {
            let again = until + self.random.magnitude(1_000, 2_000_000);
            self.end(again, Fault::Crash { node, how });
            until = again + self.random.magnitude(1_000, 1_000_000);
            self.start(node, until);
        }
    }

    fn crash_all(&mut self) {
        let how = *self.random.pick(&[Crash::Kill, Crash::PowerLoss, Crash::Reboot]);
        self.begin(Kind::CrashAll, Fault::CrashAll { how });
        // Together, or one after the other.
        let latest = self.random.magnitude(10_000, 5_000_000);
        for node in self.members.all() {
            let until = self.now_us + self.random.between(1_000, latest);
            self.start(node, until);
        }
    }

    fn rolling_restart(&mut self) {
        let mut kind = Some(Kind::RollingRestart);
        let mut at_us = self.now_us;
        let mut order = self.members.all();
        self.random.shuffle(&mut order);
        for node in order {
            let (down, pause) = (self.random.magnitude(50_000, 1_000_000), self.random.magnitude(1_000, 2_000_000));
            if at_us + down >= self.heal_us {
                return;
            }
            self.events.push(Event { at_us, fault: Fault::Stop { node }, kind: kind.take() });
            self.start(node, at_us + down);
            at_us += down + pause;
        }
    }

    fn link(&mut self, kind: Kind) {
        let fault = match kind {
            Kind::Partition => {
                let mut island = self.members.all();
                self.random.shuffle(&mut island);
                island.truncate(self.random.between(1, island.len() as u64 - 1) as usize);
                island.sort_unstable();
                Fault::Partition { island }
            }
            Kind::OneWayCut => {
                let (from, to) = self.two();
                Fault::Cut { from, to }
            }
            Kind::CutPair => {
                let (a, b) = self.two();
                Fault::CutPair { a, b }
            }
            Kind::SlowLink => {
                let (a, b) = self.two();
                Fault::SlowLink { a, b, ms: self.random.magnitude(5, 500) }
            }
            Kind::ClientLink => {
                let ms = self.random.magnitude(5, 500);
                let how = *self.random.pick(&[Way::Cut, Way::NoAnswers, Way::Clog, Way::Reset, Way::Slow(ms)]);
                Fault::Client { client: self.random.next(), node: self.node(), how }
            }
            _ => {
                let (from, to) = self.two();
                Fault::Clog { from, to }
            }
        };
        self.begin(kind, fault);
        let until = self.later(10_000, 15_000_000);
        self.end(until, Fault::MendLinks);
    }

    fn spoil(&mut self, kind: Kind) {
        let node = self.node();
        if !self.budget.spoil(node) {
            return;
        }
        let fault = match kind {
            Kind::SyncFailure => Fault::SyncFailure { node },
            Kind::Rot => Fault::Rot { node },
            Kind::Misplace => Fault::Misplace { node },
            _ => Fault::EmptyDisk { node },
        };
        self.begin(kind, fault);
        if kind == Kind::Misplace {
            let until = self.later(1_000, 1_000_000);
            self.start(node, until);
        }
        if kind == Kind::Rot && self.random.chance(1, 2) {
            // Rot shows when it is read: at the next start.
            self.now_us += 1;
            let how = *self.random.pick(&[Crash::Kill, Crash::PowerLoss]);
            self.events.push(Event { at_us: self.now_us.min(self.heal_us), fault: Fault::Crash { node, how }, kind: None });
            let until = self.later(1_000, 1_000_000);
            self.start(node, until);
        }
    }

    fn change(&mut self, kind: Kind) {
        if self.changes == CHANGES_MAX {
            return;
        }
        let voters: Vec<u64> = self.members.voters.iter().copied().collect();
        let observers: Vec<u64> = self.members.observers.iter().copied().collect();
        match kind {
            Kind::AddObserver if observers.len() < 3 => {
                let node = self.new_node();
                self.members.observers.insert(node);
                self.begin(kind, Fault::AddObserver { node });
            }
            Kind::Promote if !observers.is_empty() && voters.len() < 7 => {
                let node = *self.random.pick(&observers);
                if !self.budget.promote(node) {
                    return;
                }
                self.members.observers.remove(&node);
                self.members.voters.insert(node);
                self.begin(kind, Fault::Promote { node });
            }
            Kind::Remove => {
                let node = self.node();
                let votes = self.members.voters.contains(&node);
                // Three voters are the least that a ring is to keep, and a tie-breaker is one of those that were planned.
                let few = voters.len() <= 3 || self.members.tie_breaker == Some(node);
                if votes && (few || !self.budget.remove(node)) {
                    return;
                }
                self.members.voters.remove(&node);
                self.members.observers.remove(&node);
                self.begin(kind, Fault::Remove { node });
            }
            Kind::Replace => {
                let old = self.node();
                if self.members.voters.contains(&old) && !self.budget.remove(old) {
                    return;
                }
                let new = self.new_node();
                if self.members.voters.contains(&old) {
                    self.budget.promote(new);
                }
                self.members.replace(old, new);
                self.begin(kind, Fault::Replace { old, new });
            }
            _ => return,
        }
        self.changes += 1;
    }

    fn begin(&mut self, kind: Kind, fault: Fault) {
        self.events.push(Event { at_us: self.now_us.min(self.heal_us), fault, kind: Some(kind) });
    }

    /// What would end after the heal began is ended by the heal.
    fn end(&mut self, at_us: u64, fault: Fault) {
        if at_us < self.heal_us {
            self.events.push(Event { at_us, fault, kind: None });
        }
    }

    fn start(&mut self, node: u64, at_us: u64) {
        self.busy.insert(node, at_us);
        self.end(at_us, Fault::Start { node });
    }

    fn later(&mut self, least_us: u64, most_us: u64) -> u64 {
        self.now_us + self.random.magnitude(least_us, most_us)
    }

    fn new_node(&mut self) -> u64 {
        self.next_node += 1;
        self.next_node - 1
    }

    fn node(&mut self) -> u64 {
        let all = self.members.all();
        *self.random.pick(&all)
    }

    fn idle_node(&mut self) -> Option<u64> {
        let idle = |node: &u64| self.busy.get(node).is_none_or(|until| *until < self.now_us);
        let idle: Vec<u64> = self.members.all().into_iter().filter(idle).collect();
        (!idle.is_empty()).then(|| *self.random.pick(&idle))
    }

    fn two(&mut self) -> (u64, u64) {
        let mut all = self.members.all();
        self.random.shuffle(&mut all);
        (all[0], all[1])
    }
}
