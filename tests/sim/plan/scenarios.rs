//! Plans that are written, not drawn: one for each bug that was found, as small as it still shows it. A seed means another run as
//! soon as plans are drawn in another way; these stay.
//!
//! **Not here**: the stories of the bugs (docs/simulation.md, "Bugs found").

use super::{Crash, Event, Fault, Members, Plan, READ_LEASE_MS, Round, Workload};

/// Seeds of these plans: the first, and on. No campaign comes that far.
pub const FROM: u64 = 1_000_000_000_000_000_000;

type Scenario = (&'static str, fn() -> Workload, fn() -> Vec<Round>);

/// Names, loads and rounds, in the order of their seeds.
const ALL: [Scenario; 10] = [
    ("a deposed leader takes entries again", heavy, deposed_leader),
    ("a newcomer whose disk is full starts once there is room", heavy, full_newcomer),
    ("a leader wakes up in the middle of a round of reads", patient, paused_leader),
    ("a tie-breaker leads, and who follows needs a snapshot", heavy, tie_breaker_leads),
    ("leader and tie-breaker go on without the third; then the leader's disk is gone", heavy, leader_lost),
    ("the leader's snapshot rots, and who needs it goes on", steady, rotten_snapshot),
    ("the tie-breaker is replaced while a voter lags; then the leader's disk is gone", steady, tie_breaker_replaced),
    ("all nodes die in the middle of a change of the voters", steady, change_half_done),
    ("a leader's door is shut to its peers, and not to its clients", patient, shut_door),
    ("the same, while it reads by a lease that they have promised", crowded, fewer_shut_doors),
];

/// From this one on nodes promise.
const LEASED_FROM: usize = 9;

/// Planted bugs that these find, by the number of the plan: it was written for them. First those that are quick.
pub const BUGS: [(u64, &str); 9] = [
    (5, "rotten-snapshot-installed"),
    (6, "copies-not-counted"),
    (8, "read-by-lease"),
    (1, "full-for-ever"),
    (9, "promise-broken"),
    (7, "change-left-half-done"),
    (4, "tie-breaker-forgets"),
    (2, "read-joins-round"),
    (0, "room-kept-until-answered"),
];

/// How many of those are quick.
pub const QUICK_BUGS: usize = 2;

/// How many there are.
pub const COUNT: u64 = ALL.len() as u64;

/// The plan with this seed, and its name.
pub fn plan(seed: u64) -> Option<(&'static str, Plan)> {
    let number = usize::try_from(seed.checked_sub(FROM)?).ok()?;
    let (name, workload, rounds) = ALL.get(number)?;
    let read_lease_ms = if number >= LEASED_FROM { READ_LEASE_MS } else { 0 };
    let rounds = rounds();
    let tie_breaker = rounds[0].after.tie_breaker.map(|_| 3);
    let founders = Members { voters: [1, 2, 3].into(), tie_breaker, ..Members::default() };
    Some((name, Plan { seed, shards: 1, founders, workload: workload(), read_lease_ms, swarm: Vec::new(), gap_us: 0, rounds }))
}

/// Large writes as fast as they are answered.
fn heavy() -> Workload {
    Workload {
        clients: 16,
        in_flight: 8,
        keys: 64,
        puts: 90,
        deletes: 5,
        gets: 5,
        local_gets: 0,
        value_bytes: (8 << 10, 16 << 10),
        rate_max: 1_000,
        pause_us: (0, 1_000),
        timeout_ms: 2_000,
        pace: 1,
    }
}

/// Many clients who ask for the same few keys now and then: some have heard of another leader, some have not.
fn patient() -> Workload {
    Workload { clients: 32, keys: 4, puts: 40, gets: 55, value_bytes: (8, 64), rate_max: 60, timeout_ms: 10_000, ..heavy() }
}

/// The same of many more clients: what is wrong for a tenth of a second is seen.
fn crowded() -> Workload {
    Workload { clients: 64, keys: 2, rate_max: 400, ..patient() }
}

/// Large writes, so few that a log takes some seconds to be worth a snapshot.
fn steady() -> Workload {
    Workload { clients: 4, rate_max: 20, ..heavy() }
}

fn round(heal_ms: u64, events: Vec<(u64, Fault)>, voters: [u64; 3]) -> Round {
    let events = events.into_iter().map(|(at_ms, fault)| Event { at_us: at_ms * 1_000, fault, kind: None });
    let after = Members { voters: voters.into(), ..Members::default() };
    Round { calm_us: 1_000_000, heal_us: heal_ms * 1_000, events: events.collect(), replacements: Vec::new(), after }
}

/// A leader alone fills its log's room with what it can only propose; then another one leads, and has something to send. Often, and for
/// times of different length: where the next leader looks for what both have, it may hit what is to go.
fn deposed_leader() -> Vec<Round> {
    let alone = |turn: u64| {
        let (node, at) = (1 + turn % 3, 2_000 + 7_000 * turn);
        [(at, Fault::Partition { island: vec![node] }), (at + 3_000 + 500 * (turn % 7), Fault::MendLinks)]
    };
    vec![round(46_000, (0..6).flat_map(alone).collect(), [1, 2, 3])]
}

/// It is told of the ring, and has no room for its first segment.
fn full_newcomer() -> Vec<Round> {
    let events = vec![(2_000, Fault::Replace { old: 3, new: 4 }), (2_000, Fault::FullDisk { node: 4 })];
    vec![round(10_000, events, [1, 2, 4])]
}

/// Paused for longer than clients and voters wait; half of the pauses come in the middle of a round (`run.rs`).
fn paused_leader() -> Vec<Round> {
    let pause = |at: u64| {
        let node = 1 + at % 3;
        [(2_000 + 4_500 * at, Fault::Pause { node }), (5_000 + 4_500 * at, Fault::Resume { node })]
    };
    vec![round(220_000, (0..48).flat_map(pause).collect(), [1, 2, 3])]
}

/// One node lacks what the others have purged; the one that has it all dies, and of the two that are left the tie-breaker has more.
fn tie_breaker_leads() -> Vec<Round> {
    let (lag, die) = (Fault::Crash { node: 2, how: Crash::Kill }, Fault::Crash { node: 1, how: Crash::Kill });
    let events = vec![(2_000, lag), (12_000, die), (12_001, Fault::Start { node: 2 }), (16_000, Fault::Start { node: 1 })];
    let mut round = round(20_000, events, [1, 2, 3]);
    round.after.tie_breaker = Some(3);
    vec![round]
}

/// What leader and tie-breaker have acknowledged is on no other state. Then the leader's log is damaged, and its node replaced: the third
/// must get it all from the tie-breaker.
fn leader_lost() -> Vec<Round> {
    let lag = Fault::Crash { node: 2, how: Crash::Kill };
    let die = [(12_000, Fault::Rot { node: 1 }), (12_001, Fault::Crash { node: 1, how: Crash::PowerLoss })];
    let again = [(12_020, Fault::Start { node: 2 }), (12_030, Fault::Start { node: 1 })];
    let events = [vec![(2_000, lag)], die.to_vec(), again.to_vec()].concat();
    let mut round = round(16_000, events, [2, 3, 4]);
    round.replacements = vec![(1, 4)];
    round.after.tie_breaker = Some(3);
    vec![round]
}

/// A node lags until it needs a snapshot, and that is rotten: again and again, whoever leads. The last time nothing is written any more, so
/// no other snapshot is due when the node needs one.
fn rotten_snapshot() -> Vec<Round> {
    let lag = |times: u64| {
        let (node, at) = (1 + times % 3, 2_000 + 16_000 * times);
        let rot = Fault::RotLeadersSnapshot { shard: 0 };
        [
            (at, Fault::Crash { node, how: Crash::Kill }),
            (at + 13_000, rot),
            (at + 13_000, Fault::Start { node }),
            (at + 13_100, Fault::Reset { a: 1, b: 2 }),
        ]
    };
    let last = 2_000 + 16_000 * 6;
    let end = [(last, Fault::Crash { node: 2, how: Crash::Kill }), (last + 13_000, Fault::RotLeadersSnapshot { shard: 0 })];
    vec![round(last + 13_000, (0..6).flat_map(lag).chain(end).collect(), [1, 2, 3])]
}

/// The tie-breaker has the only other copy of what was acknowledged while a voter was away, and is to be replaced by a new one, which has
/// none: it began after a snapshot. When the leader's disk is gone, somebody must still have it all.
fn tie_breaker_replaced() -> Vec<Round> {
    let lag = vec![(2_000, Fault::Crash { node: 2, how: Crash::Kill }), (17_000, Fault::Replace { old: 3, new: 4 })];
    let lost = vec![(32_000, Fault::EmptyDisk { node: 1 }), (32_020, Fault::Start { node: 2 })];
    let mut round = round(36_000, [lag, lost].concat(), [2, 4, 5]);
    round.replacements = vec![(1, 5)];
    round.after.tie_breaker = Some(4);
    vec![round]
}

/// A voter is replaced on slow disks, and everybody dies at another moment of it in each round: whoever leads next finds it half done, and
/// who asked for it has given up.
fn change_half_done() -> Vec<Round> {
    let step = |turn: u64| {
        let (old, new) = (3 + turn, 4 + turn);
        let slow = [1, 2, old, new].map(|node| (1_000, Fault::SlowDisk { node, factor: 1_000 }));
        let die = 2_000 + 200 * turn;
        let change = [(1_010, Fault::Replace { old, new }), (die, Fault::CrashAll { how: Crash::Kill })];
        round(die + 12_000, [&slow[..], &change[..]].concat(), [1, 2, new])
    };
    (0..16).map(step).collect()
}

/// Followers whose leader's door is shut elect another one at once, whatever lease the old one believes in, which still hears its clients.
fn shut_door() -> Vec<Round> {
    shut_doors(24)
}

/// Many clients notice sooner.
fn fewer_shut_doors() -> Vec<Round> {
    shut_doors(12)
}

fn shut_doors(turns: u64) -> Vec<Round> {
    let shut = |turn: u64| {
        let at = 2_000 + 2_500 * turn;
        [(at, Fault::Reject { island: vec![1 + turn % 3] }), (at + 1_500, Fault::MendLinks)]
    };
    vec![round(2_000 + 2_500 * turns, (0..turns).flat_map(shut).collect(), [1, 2, 3])]
}
