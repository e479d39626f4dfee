//! One seed: a ring, its load and its faults, as the plan of the seed says, and what the checkers say of it.
//!
//! ```text
//!   found ─▶ round: calm ─ faults, at their times ─ heal ─▶ the ring is as the plan wants it, serves and rests ─▶ next round
//!              │ looks at every node all the while                       within CONVERGE_WITHIN_MS of the heal
//!              ▼
//!   history of the clients, views of the nodes, writes that were run ─▶ check ─▶ violations, in words
//! ```
//!
//! **Invariant**: what happens is a function of the seed; looking and checking change nothing.
//!
//! **Not here**: which faults strike (`plan.rs`), what they do (`shards/io/sim`), what is right (`check`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringbeam_shards::io::sim;
use ringbeam_shards::planted::{self, Bug};
use ringbeam_shards::probe::{View, take_lived, take_ran};
use ringbeam_wire::peer::Role;

use crate::campaign::{Options, Outcome};
use crate::check;
use crate::check::linear::search::Effort;
use crate::check::watching::behind;
use crate::foreign::Foreign;
use crate::lives;
use crate::load::{Load, owned};
use crate::operator::{Change, Operator, try_change};
use crate::plan::{self, CONVERGE_WITHIN_MS, Fault, Kind, Members, Plan, Round, Way};
use crate::random::Random;
use crate::scanner::{self, Pages};
use crate::subscriber::{self, Streams};
use crate::watch::Watch;
use crate::world::{self, Ring, RingSettings};
use crate::{pipeline, readers};

/// Between two looks at every node, virtual time.
const LOOK: Duration = Duration::from_millis(20);
/// On a long day they are looked at more seldom, but never less than ten times a second.
const LOOK_PACE_MAX: u64 = 5;

/// A new ring has a leader in every shard within this.
const FOUNDED_WITHIN: Duration = Duration::from_secs(30);

/// How long a fault waits for its moment, for a write at a slow load, and how often it looks; a flush takes some 100 us.
const MOMENT_WITHIN: Duration = Duration::from_millis(100);
const A_WRITE_WITHIN: Duration = Duration::from_secs(1);
const MOMENT_STEP: Duration = Duration::from_micros(50);

/// Who starts on a log of another version has said so within this.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);

/// Unsynced blocks that land elsewhere when a disk misplaces, of a million.
const MISPLACED_PPM: u64 = 600_000;

/// Operations and events that a story ends with.
const STORY_OPERATIONS: usize = 60;

/// Runs a seed.
pub fn simulate(seed: u64, options: &Options) -> Outcome {
    let _planted = Planted::new(options.bug.as_deref());
    let plan = Plan::new(seed);
    let mut run = Run::new(&plan);
    run.all();
    run.judge(&plan, options)
}

/// Names of the bugs that can be planted.
pub fn bugs() -> Vec<&'static str> {
    Bug::ALL.iter().map(|(_, name)| *name).collect()
}

/// A bug is planted as long as this lives, also when the run panics.
struct Planted;

impl Planted {
    fn new(name: Option<&str>) -> Planted {
        planted::plant(name.map(|name| Bug::named(name).expect("the command line knows the names")));
        Planted
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        planted::plant(None);
        // What a run that panicked has left in the window would be the next one's.
        drop((take_ran(), take_lived()));
    }
}

struct Run {
    ring: Ring,
    load: Load,
    /// What those who watch were told.
    streams: Streams,
    /// What scans found.
    pages: Pages,
    watch: Watch,
    random: Random,
    /// By kind: those that the world does not count itself.
    faults: BTreeMap<&'static str, u64>,
    /// What votes at the end of some round, and so is set up to.
    voters: Vec<u64>,
    rounds: Vec<Round>,
    /// Nodes whose log is another version's.
    foreign: BTreeMap<u64, Foreign>,
    /// Nodes whose log may be damaged or gone, or that were told of already.
    hurt: BTreeSet<u64>,
    /// What was not there in time, and who stopped.
    late: Vec<String>,
    /// When nothing struck, nanoseconds, from and to.
    calm: Vec<(u64, u64)>,
    /// What keys and leases did before the time that a client was promised.
    gone: lives::Gone,
    /// Between two looks at all nodes.
    look: Duration,
}

impl Run {
    fn new(plan: &Plan) -> Run {
        let founders = &plan.founders;
        let roles =
            founders.voters.iter().map(|node| if founders.tie_breaker == Some(*node) { Role::TieBreaker } else { Role::Voter });
        let mut settings = RingSettings::voters(0, plan.shards);
        settings.roles = roles.collect();
        settings.node.timers.read_lease = Duration::from_millis(plan.read_lease_ms);
        let mut ring = Ring::new(plan.seed, settings);
        let promoted = plan.rounds.iter().flat_map(|round| &round.events).filter_map(|event| match event.fault {
            Fault::Promote { node } => Some(node),
            _ => None,
        });
        let after = plan.rounds.iter().flat_map(|round| round.after.voters.iter().copied());
        let voters = promoted.chain(after).collect();
        let load = Load::start(&mut ring, plan.seed, &plan.workload);
        let streams = subscriber::start(&mut ring, plan.seed, &load);
        let (gone, calm) = (load.start_lives(&mut ring, plan.seed), Vec::new());
        readers::start(&mut ring, plan.seed, &plan.workload, &load);
        pipeline::start(&mut ring, plan.seed, &plan.workload, &load);
        let pages = scanner::start(&mut ring, plan.seed, &load);
        let random = Random::new(plan.seed).fork("run");
        let (faults, rounds, foreign) = (BTreeMap::new(), plan.rounds.clone(), BTreeMap::new());
        let (watch, hurt, late) = (Watch::default(), BTreeSet::new(), Vec::new());
        let look = LOOK * plan.workload.pace.min(LOOK_PACE_MAX) as u32;
        let mut run =
            Run { ring, load, streams, pages, watch, random, faults, voters, rounds, foreign, hurt, late, calm, gone, look };
        run.found(founders);
        run
    }

    fn found(&mut self, founders: &Members) {
        for node in &founders.observers {
            self.newcomer(*node, false);
        }
        self.reach("founding", founders, FOUNDED_WITHIN.as_millis() as u64);
    }

    fn all(&mut self) {
        for (number, round) in self.rounds.clone().iter().enumerate() {
            if !self.late.is_empty() {
                return;
            }
            self.load.turn(true);
            self.ring.supervise(false);
            let began = self.ring.world.now();
            self.calm.push((began.as_nanos() as u64, began.as_nanos() as u64 + round.calm_us * 1_000));
            for (at, event) in round.events.iter().enumerate() {
                self.pass(began + Duration::from_micros(event.at_us));
                self.ring.world.tell(format!("plan: {:?}", event.fault));
                // A clog ends at a time that it is told; the others when links are mended.
                let mended = round.events[at..].iter().find(|later| later.fault == Fault::MendLinks);
                let clogged_us = mended.map_or(round.heal_us, |later| later.at_us) - event.at_us;
                let struck = self.strike(&event.fault, Duration::from_micros(clogged_us));
                if let Some(kind) = event.kind.filter(|_| struck) {
                    *self.faults.entry(kind.name()).or_default() += 1;
                }
            }
            self.pass(began + Duration::from_micros(round.heal_us));
            self.ring.world.tell(format!("plan: round {number} heals"));
            for (old, new) in &round.replacements {
                let tie_breaker = self.ring.role(*old) == Role::TieBreaker;
                self.newcomer(*new, tie_breaker);
            }
            self.reach(&format!("round {number}"), &round.after, CONVERGE_WITHIN_MS);
        }
    }

    /// Lets the world go on until `end`, looking at every node now and then.
    fn pass(&mut self, end: Duration) {
        while self.ring.world.now() < end {
            self.ring.run_for(self.look.min(end - self.ring.world.now()));
            self.watch.look(&self.ring);
            self.look_for_stopped();
        }
    }

    /// No shard stops, or refuses to start, on a node whose log was left alone.
    fn look_for_stopped(&mut self) {
        let ring = &self.ring;
        let stopped = ring.views().into_iter().filter_map(|view| Some((view.node, view.fault?)));
        let refusing = ring.live().into_iter().flat_map(|node| ring.refusing(node).into_iter().map(move |why| (node, why)));
        let failed = ring.ids().into_iter().filter_map(|node| match ring.ended(node) {
            Some(world::Outcome::Failed(why)) => Some((node, why.clone())),
            _ => None,
        });
        for (node, why) in stopped.chain(refusing).chain(failed) {
            if !self.foreign.contains_key(&node) && !ring.is_stopping(node) && self.hurt.insert(node) {
                self.late.push(format!("stopped: node {node}, though nothing was done to its log: {why}"));
            }
        }
    }

    /// Lets the world go on until `holds`; false when it did not in time.
    fn pass_until(&mut self, end: Duration, mut holds: impl FnMut(&mut Run) -> bool) -> bool {
        while !holds(self) {
            if self.ring.world.now() >= end {
                return false;
            }
            self.pass(self.ring.world.now() + LOOK);
        }
        true
    }

    /// Everything is mended; the ring comes to have exactly these members, serves, and rests.
    fn reach(&mut self, when: &str, wanted: &Members, within_ms: u64) {
        let end = self.ring.world.now() + Duration::from_millis(within_ms);
        self.ring.supervise(true);
        for node in self.foreign.keys().copied().collect::<Vec<u64>>() {
            self.own_version(node);
        }
        self.ring.all_well();
        let mut operator = Operator::default();
        let mut mend_at = self.ring.world.now() + Duration::from_secs(5);
        let there = self.pass_until(end, |run| {
            if run.ring.world.now() >= mend_at {
                // Whoever has stopped meanwhile is started again, as a supervisor does.
                run.ring.all_well();
                mend_at = run.ring.world.now() + Duration::from_secs(5);
            }
            operator.approach(&mut run.ring, wanted)
        });
        if !there {
            let standing: Vec<String> = (0..self.ring.shards()).map(|shard| self.standing(shard)).collect();
            let ms = within_ms;
            return self
                .late
                .push(format!("liveness: {when}: within {ms} ms the ring did not come to be {wanted:?}: {standing:?}"));
        }
        let all = wanted.all();
        for node in self.ring.ids() {
            if !all.contains(&node) {
                self.ring.retire(node);
            }
        }
        self.load.moved(self.ring.client_addresses());
        let served = self.load.ask_for_service(&mut self.ring);
        if !self.pass_until(end, |_| served.get()) {
            return self.late.push(format!("liveness: {when}: within {within_ms} ms no client was served"));
        }
        self.load.turn(false);
        // A hand-over that was asked for before the heal may still move the leader once.
        let rests = |run: &mut Run| {
            let still = run.load.under_way() == 0 && run.ring.live() == all && run.ring.converged();
            still && Watch::unrest(&run.ring).is_empty() && behind(&run.watch.changes, &run.streams.borrow()).is_empty()
        };
        if !self.pass_until(end, rests) {
            let (mut unrest, open) = (Watch::unrest(&self.ring), self.load.under_way());
            unrest.extend(behind(&self.watch.changes, &self.streams.borrow()));
            let live = self.ring.live();
            self.ring.world.tell(format!("standing at the end of {when}:\n{}", self.standings().join("\n")));
            self.late.push(format!(
                "liveness: {when}: within {within_ms} ms the ring did not come to rest: of {all:?} {live:?} run, {open} operations are \
                 open, {unrest:?}"
            ));
        }
    }

    fn standing(&self, shard: u32) -> String {
        match self.ring.leader(shard).and_then(|node| self.ring.view(node, shard)) {
            None => format!("shard {shard} has no leader"),
            Some(view) => {
                let members: Vec<u64> = view.members.iter().map(|member| member.node).collect();
                format!("shard {shard}: node {} leads {members:?} with voters {:?}", view.node, view.voters)
            }
        }
    }

    /// Every shard on every live node, a line each.
    fn standings(&self) -> Vec<String> {
        let all = self.ring.live().into_iter().flat_map(|node| self.ring.probes(node)).filter_map(|probe| probe.view());
        all.map(|view| {
            let View { node, shard, raft_state, leader, vote, last, flushed, committed, applied_index, .. } = &view;
            let View { purged, snapshot, voters, membership_index, fault, full, .. } = &view;
            format!(
                "  shard {shard} on node {node}: {raft_state}, leader {leader:?}, vote {vote:?}, last {last:?}, flushed {flushed:?}, \
                 committed {committed:?}, applied {applied_index}, purged {purged:?}, snapshot {snapshot:?}, voters {voters:?} since \
                 {membership_index}, fault {fault:?}, full {full:?}"
            )
        })
        .collect()
    }

    fn newcomer(&mut self, node: u64, tie_breaker: bool) {
        if self.ring.has(node) {
            return;
        }
        let role = match (tie_breaker, self.voters.contains(&node)) {
            (true, _) => Role::TieBreaker,
            (false, true) => Role::Voter,
            (false, false) => Role::Observer,
        };
        self.ring.add_newcomer(node, role);
        self.load.moved(self.ring.client_addresses());
    }

    /// One fault; false when there was nobody or nothing that it could strike.
    fn strike(&mut self, fault: &Fault, clogged: Duration) -> bool {
        let has = |node: &u64| self.ring.has(*node);
        let strikes = match fault {
            Fault::CrashAll { .. }
            | Fault::MendLinks
            | Fault::HandOver { .. }
            | Fault::AddObserver { .. }
            | Fault::RotLeadersSnapshot { .. } => true,
            Fault::Partition { island } | Fault::Reject { island } => island.iter().all(has),
            Fault::Cut { from, to } | Fault::Clog { from, to } => has(from) && has(to),
            Fault::Reset { a, b } | Fault::CutPair { a, b } | Fault::SlowLink { a, b, .. } => has(a) && has(b),
            Fault::Replace { old, .. } => has(old),
            Fault::Crash { node, .. }
            | Fault::Stop { node }
            | Fault::Start { node }
            | Fault::Pause { node }
            | Fault::Resume { node }
            | Fault::SlowDisk { node, .. }
            | Fault::FullDisk { node }
            | Fault::Space { node }
            | Fault::SyncFailure { node }
            | Fault::Rot { node }
            | Fault::Misplace { node }
            | Fault::EmptyDisk { node }
            | Fault::OtherVersion { node }
            | Fault::OwnVersion { node }
            | Fault::ClockDrift { node, .. }
            | Fault::SlowCore { node, .. }
            | Fault::Client { node, .. }
            | Fault::Promote { node }
            | Fault::Remove { node } => has(node),
        };
        if !strikes {
            return false;
        }
        if let Fault::SyncFailure { node } | Fault::Rot { node } | Fault::Misplace { node } | Fault::EmptyDisk { node } = *fault
        {
            // What is to be found unchanged is not changed from outside.
            self.own_version(node);
            self.hurt.insert(node);
        }
        let ring = &mut self.ring;
        let runs = match *fault {
            Fault::Crash { node, .. } | Fault::Stop { node } | Fault::Pause { node } => ring.live().contains(&node),
            _ => true,
        };
        match *fault {
            Fault::Crash { node, how } => {
                self.wait_for_a_write(how, node);
                self.ring.crash(node, crash(how));
            }
            Fault::CrashAll { how } => {
                let nodes = self.ring.ids();
                let node = *self.random.pick(&nodes);
                self.wait_for_a_write(how, node);
                nodes.into_iter().for_each(|node| self.ring.crash(node, crash(how)));
            }
            Fault::Stop { node } => ring.stop(node),
            Fault::Start { node } => ring.start(node),
            Fault::Pause { node } => {
                self.wait_for_a_read(node);
                self.ring.pause(node);
            }
            Fault::Resume { node } => ring.resume(node),
            Fault::Partition { ref island } => ring.partition(island),
            Fault::Reject { ref island } => ring.reject(island),
            Fault::Cut { from, to } => ring.cut_one_way(from, to),
            Fault::Clog { from, to } => ring.clog(from, to, clogged),
            Fault::CutPair { a, b } => ring.world.links().cut_both_ways(ring.host(a), ring.host(b)),
            Fault::SlowLink { a, b, ms } => ring.slow_link(ring.host(a), ring.host(b), ms),
            Fault::Client { client, node, how } => self.clients_way(client, node, how, clogged),
            Fault::MendLinks => ring.heal_all(),
            Fault::Reset { a, b } => ring.reset_connections(a, b),
            Fault::SlowDisk { node, factor } => ring.disk(node).set(|disk| disk.slowness = factor),
            Fault::FullDisk { node } => {
                let used = ring.disk(node).used();
                ring.disk(node).set(|disk| disk.capacity = used);
            }
            Fault::Space { node } => ring.disk(node).set(|disk| disk.capacity = u64::MAX),
            Fault::SyncFailure { node } => ring.disk(node).fail_syncs(1),
            Fault::Rot { node } => return self.rot(node),
            Fault::RotLeadersSnapshot { shard } => self.rot_leaders_snapshot(shard),
            Fault::Misplace { node } => self.misplace(node),
            Fault::EmptyDisk { node } => ring.wipe(node),
            Fault::OtherVersion { node } => {
                self.own_version(node);
                let foreign = Foreign::put(&mut self.ring, node, &mut self.random);
                let put = foreign.is_some();
                self.foreign.extend(foreign.map(|foreign| (node, foreign)));
                return put;
            }
            Fault::OwnVersion { node } => self.own_version(node),
            Fault::ClockDrift { node, ppm } => ring.world.set_drift(ring.host(node), ppm),
            Fault::SlowCore { node, factor } => ring.world.set_slowness(ring.host(node), factor),
            Fault::HandOver { shard, to } => try_change(ring, Change::HandOver { shard, to }),
            Fault::AddObserver { node } => {
                self.newcomer(node, false);
                try_change(&mut self.ring, Change::Add(node));
            }
            Fault::Promote { node } => try_change(ring, Change::Promote(node)),
            Fault::Remove { node } => try_change(ring, Change::Remove(node)),
            Fault::Replace { old, new } => {
                let role = self.ring.role(old);
                let votes = self.voters.contains(&new) || role == Role::TieBreaker;
                self.newcomer(new, role == Role::TieBreaker);
                try_change(&mut self.ring, Change::Replace { old, new, votes });
            }
        }
        runs
    }

    /// Between a client and a node.
    fn clients_way(&mut self, client: u64, node: u64, how: Way, clogged: Duration) {
        let clients = self.ring.clients();
        let (client, node) = (clients[client as usize % clients.len()], self.ring.host(node));
        let links = self.ring.world.links();
        match how {
            Way::Cut => links.cut_both_ways(client, node),
            Way::NoAnswers => links.cut_one_way(node, client),
            Way::Clog => links.clog(client, node, clogged),
            Way::Reset => links.reset(client, node),
            Way::Slow(ms) => self.ring.slow_link(client, node, ms),
        }
    }

    /// Three of four power losses come while the node's log has bytes that are not durable yet: at any other moment there is nothing
    /// to lose. Most of those wait for a flush of several blocks, which can be torn.
    fn wait_for_a_write(&mut self, how: plan::Crash, node: u64) {
        if how != plan::Crash::Kill && self.random.chance(3, 4) {
            let blocks = if self.random.chance(2, 3) { 2 } else { 1 };
            self.wait_until(MOMENT_WITHIN, |ring| ring.disk(node).unsynced_blocks("wal-") >= blocks);
        }
    }

    /// Half of the pauses come in the middle of a round of reads: it ends when the node wakes up, perhaps deposed.
    fn wait_for_a_read(&mut self, node: u64) {
        if self.random.chance(1, 2) {
            let reads = |ring: &Ring| ring.probes(node).iter().filter_map(|probe| probe.view()).any(|view| view.confirming);
            self.wait_until(MOMENT_WITHIN, reads);
        }
    }

    fn wait_until(&mut self, limit: Duration, holds: impl Fn(&Ring) -> bool) {
        let end = self.ring.world.now() + limit;
        while !holds(&self.ring) && self.ring.world.now() < end {
            self.ring.run_for(MOMENT_STEP);
        }
    }

    /// The node's log is its own again, if it is not.
    fn own_version(&mut self, node: u64) {
        if self.foreign.get(&node).is_some_and(|foreign| foreign.is_open_question(&self.ring, node)) {
            // Whatever else has struck it: it has the time that a start takes.
            self.ring.well(node);
            let end = self.ring.world.now() + REFUSED_WITHIN;
            self.pass_until(end, |run| run.foreign.get(&node).is_none_or(|foreign| !foreign.is_open_question(&run.ring, node)));
        }
        if let Some(foreign) = self.foreign.remove(&node) {
            let hurt = self.hurt.contains(&node);
            self.watch.violations.extend(foreign.undo(&mut self.ring, node, hurt));
        }
    }

    /// The power goes while the log has bytes that are not durable yet, and some of them land elsewhere.
    fn misplace(&mut self, node: u64) {
        self.wait_until(A_WRITE_WITHIN, |ring| ring.disk(node).unsynced_blocks("wal-") > 0);
        self.ring.disk(node).set(|disk| disk.misplace_ppm = MISPLACED_PPM);
        self.ring.crash(node, sim::Crash::PowerLoss);
        self.ring.disk(node).set(|disk| disk.misplace_ppm = 0);
    }

    /// A bit of something that the node had synced flips; half of the times of the log that is being written, which every start reads.
    fn rot(&mut self, node: u64) -> bool {
        let disk = self.ring.disk(node);
        let settled: Vec<(String, u64)> = disk
            .paths()
            .into_iter()
            .flat_map(|path| disk.settled_blocks(&path).into_iter().map(move |block| (path.clone(), block)))
            .collect();
        let newest = |path: &str| {
            let (dir, name) = path.rsplit_once('/').unwrap_or_default();
            let later =
                |other: &str| other.rsplit_once('/').is_some_and(|(d, n)| d == dir && n.starts_with("wal-") && n > name);
            name.starts_with("wal-") && !settled.iter().any(|(other, _)| later(other))
        };
        let log: Vec<(String, u64)> = settled.iter().filter(|(path, _)| newest(path)).cloned().collect();
        let among = if !log.is_empty() && self.random.chance(1, 2) { &log } else { &settled };
        if !among.is_empty() {
            let (path, block) = self.random.pick(among).clone();
            disk.flip_bit(&path, block, self.random.below(8 * 4096));
        }
        !among.is_empty()
    }

    /// Its log is left alone, so it has to go on as well: what it needs is in its memory.
    fn rot_leaders_snapshot(&mut self, shard: u32) {
        let Some(leader) = self.ring.leader(shard) else { return };
        let disk = self.ring.disk(leader);
        let of_shard = format!("shard-{shard}/snapshot-");
        let Some(path) = disk.paths().into_iter().rfind(|path| path.starts_with(&of_shard)) else { return };
        let blocks = disk.settled_blocks(&path);
        // The first blocks hold frames, whatever the file has reserved behind them.
        if let Some(block) = blocks.get(self.random.below(2) as usize) {
            disk.flip_bit(&path, *block, self.random.below(8 * 4096));
        }
    }

    fn judge(mut self, plan: &Plan, options: &Options) -> Outcome {
        self.watch.look(&self.ring);
        let history = self.load.history.borrow();
        let mut violations = self.late;
        violations.append(&mut self.watch.violations);
        violations.extend(check::lives::check(&self.watch.lives));
        violations.extend(check::judge(&history, Some(&self.watch.log), Effort::default()));
        violations.extend(check::counters::check(&self.load.tally.borrow(), &self.load.counters(&self.ring)));
        violations.extend(owned::judge(&self.load.owners, &self.ring));
        violations.extend(check::watching::check(&self.watch.changes, &self.streams.borrow()));
        violations.extend(check::scanned::check(&self.watch.changes, &self.pages.borrow()));
        violations.extend(check::age::check(&history, &self.load.answered.borrow()));
        violations.extend(check::served::check(&history, &self.calm));
        violations.append(&mut self.gone.borrow_mut());
        let world = &self.ring.world;
        // All kinds that there are, those that did not strike as well.
        let mut faults: BTreeMap<&'static str, u64> = Kind::ALL.iter().map(|(_, name)| (*name, 0)).collect();
        faults.extend(self.faults);
        for (name, count) in world.faults().all() {
            let planned = faults.entry(name).or_default();
            *planned = (*planned).max(count);
        }
        let story = if options.story || !violations.is_empty() {
            format!("{plan}\n{}\n{}", world.story().join("\n"), history.story(STORY_OPERATIONS))
        } else {
            String::new()
        };
        let operations = history.operations().len() as u64;
        let voters = plan.founders.voters.len();
        Outcome { violations, story, simulated: world.now(), faults, hash: world.trace_hash(), operations, voters }
    }
}

fn crash(how: plan::Crash) -> sim::Crash {
    match how {
        plan::Crash::Kill => sim::Crash::Kill,
        plan::Crash::PowerLoss => sim::Crash::PowerLoss,
        plan::Crash::Reboot => sim::Crash::Reboot,
    }
}
