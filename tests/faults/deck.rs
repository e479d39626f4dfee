//! A deck of faults: each kind once, in random order, on one ring.

use std::fmt;
use std::time::Instant;

use crate::ring::random::Random;
use crate::stage::{Machine, SOON, Stage};
use crate::{clocks, disks, is_wanted, links, members, processes};

/// A kind of fault. The name is what `RINGBEAM_FAULTS_ONLY` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of one node, of all, of one that recovers from that.
    Kill,
    KillAll,
    KillTwice,
    /// SIGSTOP and SIGCONT of the leader, with questions waiting for it.
    Pause,
    /// A node that nobody reaches, clients neither.
    Isolated,
    /// The leader is cut off from a quorum, and clients reach it.
    Minority,
    /// One-way cuts of the leader: it hears no peer; no peer hears it.
    Deaf,
    Mute,
    /// Leader and a follower do not reach each other, and both reach the others.
    Partial,
    /// A connection's worth of trouble: cut and mended several times.
    Flapping,
    FullFollower,
    FullLeader,
    FullAll,
    /// A wall clock jumps, and jumps back.
    Clock,
    /// A node is replaced by a new one; alive, or dead.
    Replace,
    /// A node's disk is empty under its id.
    EmptyDisk,
    /// All nodes are told to stop and started, one after the other.
    Rolling,
}

use Fault::{
    Clock, Deaf, EmptyDisk, Flapping, FullAll, FullFollower, FullLeader, Isolated, Kill, KillAll, KillTwice, Minority, Mute,
    Partial, Pause, Replace, Rolling,
};

pub const ALL: [Fault; 17] = [
    Kill,
    KillAll,
    KillTwice,
    Pause,
    Isolated,
    Minority,
    Deaf,
    Mute,
    Partial,
    Flapping,
    FullFollower,
    FullLeader,
    FullAll,
    Clock,
    Replace,
    EmptyDisk,
    Rolling,
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

impl Fault {
    /// Whether this machine can deal it.
    fn is_possible(self, machine: &Machine) -> bool {
        match self {
            Isolated | Minority | Deaf | Mute | Partial | Flapping => machine.net.is_some(),
            FullFollower | FullLeader | FullAll => machine.disks,
            Clock => machine.wall_clocks.is_some(),
            _ => true,
        }
    }

    /// Deals it, sees it strike, and mends it. What it was, in words.
    async fn deal(self, stage: &mut Stage) -> String {
        match self {
            Kill => processes::kill(stage).await,
            KillAll => processes::kill_all(stage).await,
            KillTwice => processes::kill_twice(stage).await,
            Pause => processes::pause(stage).await,
            Rolling => processes::rolling_restart(stage).await,
            Isolated => links::isolated(stage).await,
            Minority => links::minority(stage).await,
            Deaf => links::deaf(stage).await,
            Mute => links::mute(stage).await,
            Partial => links::partial(stage).await,
            Flapping => links::flapping(stage).await,
            FullFollower => disks::full_follower(stage).await,
            FullLeader => disks::full_leader(stage).await,
            FullAll => disks::full_all(stage).await,
            Clock => clocks::jump_there_and_back(stage).await,
            Replace => members::replace(stage).await,
            EmptyDisk => members::empty_disk(stage).await,
        }
    }
}

/// The `number`th deck.
pub async fn play(machine: &Machine, number: u64, random: &mut Random) {
    let wanted = |fault: &Fault| is_wanted(&format!("{fault:?}")) && fault.is_possible(machine);
    let mut deck: Vec<Fault> = ALL.into_iter().filter(wanted).collect();
    if deck.is_empty() {
        return;
    }
    for last in (1..deck.len()).rev() {
        deck.swap(last, random.below(last as u64 + 1) as usize);
    }
    let (nodes, began) = (if number.is_multiple_of(2) { 3 } else { 5 }, Instant::now());
    let mut stage = Stage::start(machine, nodes, Random::of(random.next())).await;
    println!("deck {number}: {nodes} nodes, {:?}", began.elapsed());
    for fault in &deck {
        let (from, began) = (stage.load.book.written(), Instant::now());
        stage.whole().await;
        let what = fault.deal(&mut stage).await;
        stage.load.book.goes_on(30, SOON).await;
        stage.sessions.look(&stage.ring).await;
        println!("  {fault:<12} {what}; {} writes, {:.1} s", stage.load.book.written() - from, began.elapsed().as_secs_f64());
    }
    stage.whole().await;
    stage.load.stop();
    stage.ring.wait_converged().await;
    let judging = Instant::now();
    let judged = stage.load.judge(&stage.ring.root);
    println!(
        "deck {number}: {judged}; {:.0} s, {:.1} s of it to judge",
        began.elapsed().as_secs_f64(),
        judging.elapsed().as_secs_f64()
    );
}
