//! The plan of a run: a ring, a workload and the faults that strike it, as a function of the seed.
//!
//! ```text
//!   round   calm ──── faulty ───────────────── heal ──── converge ─────▶ next round, with the members it ended with
//!           load      load, events by time     repairs   no load; within CONVERGE_WITHIN_MS all nodes agree
//! ```
//!
//! **Swarm testing** (Groce et al., "Swarm testing", ISSTA 2012; FoundationDB and TigerBeetle do it): each seed leaves out a
//! random half of the kinds of faults and gives the others random weights and a random rate. A run with all kinds at medium
//! rates rarely gets deep into what one kind alone does. One seed in thirty-two has no faults: what fails there is the
//! workload.
//!
//! **Long days**: one seed in four goes slowly, up to an hour a round, with pauses and gaps that are as much longer. What a minute never
//! reaches is in there: a history that is dropped by age, leases of minutes, ring time on a ring that is mostly idle.
//!
//! **Who carries it out** does each event at its time, and does nothing when it does not fit (a node to resume is down).
//! Membership changes and hand-overs are asked for and may fail. The heal is not optional: links, disks and cores are mended,
//! all nodes of [`Round::after`] run, each replacement is asked for until it succeeds, and the ring has exactly those members;
//! all of it before the deadline, or the ring is not live.
//!
//! **Invariants**
//! - The same seed gives the same plan on every machine.
//! - [`Budget`] holds at every moment, whichever of the asked membership changes have succeeded.
//! - Nothing strikes outside a faulty phase. What a round has broken is mended by its heal at the latest.
//! - Nodes are numbered from 1; a number is never used for a second node.
//!
//! **Not here**: how a fault is made, and torn, lost and reordered blocks: the disk draws them at each crash.

// Named, so that they are found from whichever target includes this file.
#[path = "plan/budget.rs"]
mod budget;
#[path = "plan/draw.rs"]
mod draw;
#[path = "plan/scenarios.rs"]
pub mod scenarios;

use std::collections::BTreeSet;
use std::fmt;

pub use budget::Budget;

use crate::random::Random;

/// From the end of the heal until a client is served and every node has all: milliseconds of virtual time. Generous: a loaded
/// snapshot, several failed elections and the longest reconnect pause fit into it.
pub const CONVERGE_WITHIN_MS: u64 = 120_000;

/// Rates of the load, a second of virtual time: most of a run's time is for faults, and few runs are for what only a crowd shows.
const RATES: (u64, u64) = (4, 200);

/// One seed in so many is a long day, and how many times slower it goes.
const LONG_DAYS_ONE_IN: u64 = 4;
const PACES: (u64, u64) = (8, 63);

/// What the kill of a process means for its disk and its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// What it wrote reaches the disk; its sockets are closed.
    Kill,
    /// What was not synced is lost, kept or torn. Its peers hear nothing.
    PowerLoss,
    /// For the disk a power loss; its peers get resets.
    Reboot,
}

/// What may happen to the way between a client and a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing passes.
    Cut,
    /// Requests pass, answers do not.
    NoAnswers,
    /// Requests arrive when the link is mended, and not before.
    Clog,
    /// The connections break, what was on its way is lost.
    Reset,
    /// Up to so many milliseconds each way.
    Slow(u64),
}

/// What strikes, or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// At its next poll. [`Fault::Start`] follows.
    Crash {
        node: u64,
        how: Crash,
    },
    /// All nodes at one moment.
    CrashAll {
        how: Crash,
    },
    /// A clean stop: the node hands over and ends. [`Fault::Start`] follows.
    Stop {
        node: u64,
    },
    Start {
        node: u64,
    },
    Pause {
        node: u64,
    },
    Resume {
        node: u64,
    },
    /// Nothing passes between the island and all others, both ways. Clients reach both.
    Partition {
        island: Vec<u64>,
    },
    /// These nodes are refused by the others, and refuse them: connections end, and who knocks is told so. Only in plans that are written.
    Reject {
        /// Who.
        island: Vec<u64>,
    },
    /// Nothing passes this way.
    Cut {
        from: u64,
        to: u64,
    },
    /// Nothing arrives, nothing is lost: it comes when the link is mended.
    Clog {
        from: u64,
        to: u64,
    },
    /// Nothing passes between the two, both ways; others reach both.
    CutPair {
        a: u64,
        b: u64,
    },
    /// What goes between the two, both ways, takes up to so long.
    SlowLink {
        a: u64,
        b: u64,
        ms: u64,
    },
    /// What stands between a client, whichever has this number if there were no end of them, and a node.
    Client {
        client: u64,
        node: u64,
        how: Way,
    },
    /// Ends all partitions, cuts and clogs, and slow links are as usual.
    MendLinks,
    /// All connections between the two break, what was on its way is lost.
    Reset {
        a: u64,
        b: u64,
    },
    /// Everything takes this many times longer; 1 is as usual.
    SlowDisk {
        node: u64,
        factor: u64,
    },
    /// What is in use stays, nothing more fits. [`Fault::Space`] follows.
    FullDisk {
        node: u64,
    },
    Space {
        node: u64,
    },
    /// The next sync fails. Spoils the node.
    SyncFailure {
        node: u64,
    },
    /// A bit of what was synced flips. Spoils the node.
    Rot {
        node: u64,
    },
    /// A bit of the newest snapshot of who leads the shard flips. Written plans only: drawn ones have [`Fault::Rot`].
    RotLeadersSnapshot {
        shard: u32,
    },
    /// A power loss in which blocks that were not synced land a few blocks from their places. Spoils the node. [`Fault::Start`] follows.
    Misplace {
        node: u64,
    },
    /// The node begins again on an empty disk, under its known id. Spoils the node.
    EmptyDisk {
        node: u64,
    },
    /// Its machine goes down, and its log is now one that another version of the binary has written. [`Fault::OwnVersion`] follows.
    OtherVersion {
        node: u64,
    },
    /// The log is its own again, and the node starts.
    OwnVersion {
        node: u64,
    },
    /// Its monotonic clock gains this many microseconds a second.
    ClockDrift {
        node: u64,
        ppm: i64,
    },
    /// Everything its process does takes this many times longer; 1 is as usual.
    SlowCore {
        node: u64,
        factor: u64,
    },
    /// To any voter that the leader likes when none is named.
    HandOver {
        shard: u32,
        to: Option<u64>,
    },
    /// A new node begins and is added.
    AddObserver {
        node: u64,
    },
    Promote {
        node: u64,
    },
    Remove {
        node: u64,
    },
    /// A new node takes the role of an old one, which is removed.
    Replace {
        old: u64,
        new: u64,
    },
}

/// Kinds of faults, as they are enabled, drawn and counted. What only ends a fault is of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Kill,
    PowerLoss,
    Reboot,
    CrashAll,
    CleanStop,
    RollingRestart,
    Pause,
    Partition,
    OneWayCut,
    Clog,
    Reset,
    CutPair,
    SlowLink,
    ClientLink,
    SlowCore,
    SlowDisk,
    FullDisk,
    SyncFailure,
    Rot,
    Misplace,
    EmptyDisk,
    OtherVersion,
    ClockDrift,
    HandOver,
    AddObserver,
    Promote,
    Remove,
    Replace,
}

impl Kind {
    pub const ALL: [(Kind, &'static str); 28] = [
        (Kind::Kill, "kill"),
        (Kind::PowerLoss, "power loss"),
        (Kind::Reboot, "reboot"),
        (Kind::CrashAll, "crash of all"),
        (Kind::CleanStop, "clean stop"),
        (Kind::RollingRestart, "rolling restart"),
        (Kind::Pause, "pause"),
        (Kind::Partition, "partition"),
        (Kind::OneWayCut, "one-way cut"),
        (Kind::Clog, "clog"),
        (Kind::Reset, "connection reset"),
        (Kind::CutPair, "pair cut"),
        (Kind::SlowLink, "slow link"),
        (Kind::ClientLink, "client's link"),
        (Kind::SlowCore, "slow core"),
        (Kind::SlowDisk, "slow disk"),
        (Kind::FullDisk, "full disk"),
        (Kind::SyncFailure, "sync failure"),
        (Kind::Rot, "bit rot"),
        (Kind::Misplace, "misplaced write"),
        (Kind::EmptyDisk, "empty disk"),
        (Kind::OtherVersion, "other version"),
        (Kind::ClockDrift, "clock drift"),
        (Kind::HandOver, "hand-over"),
        (Kind::AddObserver, "add observer"),
        (Kind::Promote, "promote"),
        (Kind::Remove, "remove"),
        (Kind::Replace, "replace"),
    ];

    pub fn name(self) -> &'static str {
        Kind::ALL[self as usize].1
    }

    /// It may take away what a node had synced, or its right to it, for good.
    pub fn spoils(self) -> bool {
        matches!(self, Kind::SyncFailure | Kind::Rot | Kind::Misplace | Kind::EmptyDisk)
    }
}

/// An event of a round, at a time from the round's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub at_us: u64,
    pub fault: Fault,
    /// What it is counted as; None for what ends a fault, and for all but the first event of a rolling restart.
    pub kind: Option<Kind>,
}

/// Who is in the ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// With the tie-breaker.
    pub voters: BTreeSet<u64>,
    pub tie_breaker: Option<u64>,
    pub observers: BTreeSet<u64>,
}

impl Members {
    /// All of them, in order.
    pub fn all(&self) -> Vec<u64> {
        self.voters.union(&self.observers).copied().collect()
    }

    fn replace(&mut self, old: u64, new: u64) {
        if self.voters.remove(&old) {
            self.voters.insert(new);
        }
        if self.observers.remove(&old) {
            self.observers.insert(new);
        }
        if self.tie_breaker == Some(old) {
            self.tie_breaker = Some(new);
        }
    }
}

/// What clients do. Parts of the mix are percents and make 100.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub clients: u32,
    /// Operations that one client has in flight.
    pub in_flight: u32,
    pub keys: u32,
    pub puts: u64,
    pub deletes: u64,
    pub gets: u64,
    pub local_gets: u64,
    pub value_bytes: (u64, u64),
    /// Operations that all clients together begin in a second of virtual time, about, at most.
    pub rate_max: u64,
    /// Pause of a client between two operations.
    pub pause_us: (u64, u64),
    pub timeout_ms: u64,
    /// All pauses are so many times as long.
    pub pace: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// The first event strikes at the end of it.
    pub calm_us: u64,
    /// When the heal begins, from the round's beginning.
    pub heal_us: u64,
    /// In the order of their times.
    pub events: Vec<Event>,
    /// Part of the heal: each old node, spoiled in this round, is replaced by the new one, until that has succeeded.
    pub replacements: Vec<(u64, u64)>,
    /// Who is in the ring at the end, whatever became of the changes that were asked for.
    pub after: Members,
}

/// Of the promises in some plans: two heartbeats.
pub const READ_LEASE_MS: u64 = 200;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub shards: u32,
    pub founders: Members,
    pub workload: Workload,
    /// For so long nodes promise a leader to elect nobody else: it reads by lease. 0: they do not.
    pub read_lease_ms: u64,
    /// Enabled kinds with their weights.
    pub swarm: Vec<(Kind, u64)>,
    pub gap_us: u64,
    pub rounds: Vec<Round>,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        if let Some((_, plan)) = scenarios::plan(seed) {
            return plan;
        }
        let root = Random::new(seed);
        let mut topology = root.fork("topology");
        let count = *topology.pick(&[3, 3, 3, 5, 5, 7]);
        let shards = if topology.chance(1, 3) { 2 } else { 1 };
        let tie_breaker = topology.chance(1, 4).then_some(count);
        let observers = if topology.chance(1, 3) { topology.between(1, 2) } else { 0 };
        let founders =
            Members { voters: (1..=count).collect(), tie_breaker, observers: (count + 1..=count + observers).collect() };

        let read_lease_ms = if root.fork("lease").chance(1, 3) { READ_LEASE_MS } else { 0 };

        let mut swarming = root.fork("swarm");
        let quiet = swarming.chance(1, 32);
        let mut swarm: Vec<(Kind, u64)> = Vec::new();
        for (kind, _) in Kind::ALL {
            let (enabled, weight) = (swarming.chance(1, 2), swarming.magnitude(1, 16));
            if enabled && !quiet {
                swarm.push((kind, weight));
            }
        }
        let mut pacing = root.fork("pace");
        let pace = if pacing.chance(1, LONG_DAYS_ONE_IN) { pacing.magnitude(PACES.0, PACES.1) } else { 1 };
        let gap_us = swarming.magnitude(50_000, 4_000_000) * pace;
        let rounds = draw::rounds(&root, shards, &founders, &swarm, gap_us, pace);
        Plan { seed, shards, workload: workload(root.fork("workload"), pace), founders, read_lease_ms, swarm, gap_us, rounds }
    }

    /// Events of each kind, planned.
    pub fn count(&self, kind: Kind) -> usize {
        self.rounds.iter().flat_map(|round| &round.events).filter(|event| event.kind == Some(kind)).count()
    }

    /// Virtual time without the converging.
    pub fn faulty_us(&self) -> u64 {
        self.rounds.iter().map(|round| round.heal_us).sum()
    }
}

fn workload(mut random: Random, pace: u64) -> Workload {
    let puts = random.between(20, 70);
    let deletes = random.below(15);
    let local_gets = random.below(100 - puts - deletes);
    // Large ones make flushes of many blocks, which a power loss can tear; small ones make long logs.
    let value_bytes_max = if random.chance(1, 2) { 16 << 10 } else { random.magnitude(8, 4 << 10) };
    let pause_us_max = random.magnitude(200, 200_000);
    Workload {
        clients: random.magnitude(1, 32) as u32,
        in_flight: random.magnitude(1, 8) as u32,
        keys: random.magnitude(1, 256) as u32,
        puts,
        deletes,
        gets: 100 - puts - deletes - local_gets,
        local_gets,
        value_bytes: (8, value_bytes_max),
        rate_max: random.magnitude(RATES.0, RATES.1),
        pause_us: (pause_us_max / 10, pause_us_max),
        timeout_ms: random.magnitude(200, 10_000),
        pace,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Members { voters, tie_breaker, observers } = &self.founders;
        if let Some((name, _)) = scenarios::plan(self.seed) {
            writeln!(f, "{name}")?;
        }
        writeln!(
            f,
            "seed {}: {} shards, voters {voters:?}, tie-breaker {tie_breaker:?}, observers {observers:?}, a read lease of {} ms",
            self.seed, self.shards, self.read_lease_ms
        )?;
        writeln!(f, "{:?}", self.workload)?;
        let kinds: Vec<String> = self.swarm.iter().map(|(kind, weight)| format!("{} {weight}", kind.name())).collect();
        writeln!(f, "a fault each {} ms of: {}", self.gap_us / 1_000, kinds.join(", "))?;
        for (number, round) in self.rounds.iter().enumerate() {
            writeln!(f, "round {}: heals at {} ms", number + 1, round.heal_us / 1_000)?;
            for event in &round.events {
                writeln!(f, "  {:>10.3} ms  {:?}", event.at_us as f64 / 1e3, event.fault)?;
            }
            let after = &round.after;
            writeln!(f, "  heal: replace {:?}; then {after:?}", round.replacements)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn same_seed_gives_the_same_plan() {
        for seed in 0..200 {
            assert_eq!(Plan::new(seed), Plan::new(seed));
            assert_ne!(Plan::new(seed).to_string(), Plan::new(seed + 1).to_string());
        }
    }

    #[test]
    fn all_kinds_are_named_in_their_order_and_occur() {
        assert!(Kind::ALL.iter().enumerate().all(|(at, (kind, _))| *kind as usize == at));
        let (mut seen, mut quiet) = (BTreeMap::<&str, usize>::new(), 0);
        for seed in 0..1_000 {
            let plan = Plan::new(seed);
            quiet += usize::from(plan.rounds.iter().all(|round| round.events.is_empty()));
            for (kind, name) in Kind::ALL {
                *seen.entry(name).or_default() += usize::from(plan.count(kind) > 0);
            }
        }
        assert!(seen.values().all(|plans| *plans >= 25), "plans of 1,000 with each kind: {seen:?}");
        assert!((5..100).contains(&quiet), "{quiet} of 1,000 without faults");
    }

    #[test]
    fn every_node_is_there_again_at_the_end_of_a_round() {
        for seed in 0..2_000 {
            let plan = Plan::new(seed);
            let mut known: BTreeSet<u64> = plan.founders.all().into_iter().collect();
            for round in &plan.rounds {
                assert!(round.events.is_sorted_by_key(|event| event.at_us), "seed {seed}");
                assert!(round.events.iter().all(|event| (round.calm_us..=round.heal_us).contains(&event.at_us)), "seed {seed}");
                for event in &round.events {
                    if let Fault::AddObserver { node } | Fault::Replace { new: node, .. } = event.fault {
                        assert!(known.insert(node), "seed {seed}: node {node} for a second time");
                    }
                }
                assert!(round.replacements.iter().all(|(_, new)| known.insert(*new)), "seed {seed}");
                let after = &round.after;
                assert!(after.all().iter().all(|node| known.contains(node)), "seed {seed}");
                assert!(after.tie_breaker.is_none_or(|node| after.voters.contains(&node)), "seed {seed}");
                assert!(after.voters.is_disjoint(&after.observers), "seed {seed}");
                assert!((3..=8).contains(&after.voters.len()), "seed {seed}: {after:?}");
            }
        }
    }

    #[test]
    fn workload_does_something() {
        for seed in 0..2_000 {
            let Workload { puts, deletes, gets, local_gets, .. } = Plan::new(seed).workload;
            assert!(puts > 0 && gets > 0 && puts + deletes + gets + local_gets == 100, "seed {seed}");
        }
    }

    /// The promise: whatever became of each membership change that was asked for, of any voters that may be the ring's at any
    /// moment those that are spoiled are fewer than half.
    #[test]
    fn budget_holds_for_ten_thousand_seeds() {
        let (mut spoiled_plans, mut tight) = (0, 0);
        for seed in 0..10_000 {
            let plan = Plan::new(seed);
            let mut voters = plan.founders.voters.clone();
            for round in &plan.rounds {
                let mut possible = BTreeSet::from([voters.clone()]);
                let mut spoiled = BTreeSet::new();
                for event in &round.events {
                    let changed = |change: &dyn Fn(&mut BTreeSet<u64>) -> bool| {
                        possible
                            .iter()
                            .flat_map(|before| {
                                let mut after = before.clone();
                                change(&mut after);
                                [before.clone(), after]
                            })
                            .collect::<BTreeSet<_>>()
                    };
                    match &event.fault {
                        Fault::Promote { node } => possible = changed(&|voters| voters.insert(*node)),
                        Fault::Remove { node } => possible = changed(&|voters| voters.remove(node)),
                        Fault::Replace { old, new } if possible.iter().any(|voters| voters.contains(old)) => {
                            possible = changed(&|voters| voters.insert(*new));
                            possible.extend(
                                possible.clone().iter().map(|voters| voters.iter().copied().filter(|v| v != old).collect()),
                            );
                        }
                        Fault::SyncFailure { node }
                        | Fault::Rot { node }
                        | Fault::Misplace { node }
                        | Fault::EmptyDisk { node } => {
                            assert!(spoiled.insert(*node), "seed {seed}: spoiled twice")
                        }
                        _ => continue,
                    }
                    for voters in &possible {
                        let lost = voters.intersection(&spoiled).count();
                        assert!(2 * lost < voters.len(), "seed {seed}: {lost} of {voters:?} are spoiled\n{plan}");
                        tight += usize::from(lost > 0 && 2 * (lost + 1) >= voters.len());
                    }
                }
                spoiled_plans += usize::from(!spoiled.is_empty());
                let replaced: BTreeSet<u64> = round.replacements.iter().map(|(old, _)| *old).collect();
                assert!(
                    round.after.all().iter().all(|node| !spoiled.contains(node)),
                    "seed {seed}: it stays in the ring\n{plan}"
                );
                assert!(replaced.is_subset(&spoiled), "seed {seed}");
                voters = round.after.voters.clone();
            }
        }
        assert!(spoiled_plans > 1_000 && tight > 1_000, "{spoiled_plans} rounds spoil, {tight} moments are at the limit");
    }
}
