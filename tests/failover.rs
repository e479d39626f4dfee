//! How long a ring is without acknowledged writes when its leader goes, as a client sees it: killed, told to stop, or asked to
//! hand over; and whether a whole ring comes back with everything it has promised.
//!
//! The limits here are generous, a busy machine must not fail them. `RINGBEAM_FAILOVER_ROUNDS=20 cargo test --release --test
//! failover -- --nocapture --test-threads 1` measures, and prints each gap, the median and the worst.

mod ring;

use std::cell::Cell;
use std::time::{Duration, Instant};

use ring::load::{Load, Tasks};
use ring::random::{Random, count};
use ring::{Plan, Ring, are_equal, ringbeam};
use ringbeam_sdk::Status;
use ringbeam_wire::Role;
use tokio::sync::Mutex;

/// The rings of this file run one after the other: each measures times.
static ALONE: Mutex<()> = Mutex::const_new(());

/// An unplanned loss takes less than this; the aim is 1 s.
const KILL_GAP_MAX: Duration = Duration::from_secs(5);

/// A planned one takes less than this; the aim is 50 ms.
const PLANNED_GAP_MAX: Duration = Duration::from_secs(2);

const TASKS: Tasks = Tasks {
    uniques: 24,
    counters: 4,
    toggles: 4,
    pause: Duration::from_millis(2),
    pause_rest: Duration::ZERO,
    timeout: Duration::from_secs(20),
};

fn plan() -> Plan {
    let extra = "[limits]\nvalue_bytes_max = 65536\nbatch_bytes_max = 262144\n[log]\nsegment_bytes = 16777216\n".to_string();
    let level = std::env::var("RINGBEAM_TEST_LOG").map(|level| format!("[logging]\nlevel = \"{level}\"\n")).unwrap_or_default();
    Plan { extra: extra + &level, ..Plan::default() }
}

/// The gaps of a kind of change.
struct Gaps(&'static str, Vec<Duration>);

impl Gaps {
    fn push(&mut self, gap: Duration) {
        println!("{}: {gap:?}", self.0);
        self.1.push(gap);
    }

    /// Prints median and worst; the worst must be below `limit`.
    fn judge(mut self, limit: Duration) {
        self.1.sort();
        let (median, worst) = (self.1[self.1.len() / 2], self.1[self.1.len() - 1]);
        println!("{}: median {median:?}, worst {worst:?} of {}", self.0, self.1.len());
        assert!(worst < limit, "{}: {worst:?} without an acknowledged write, the limit is {limit:?}", self.0);
    }
}

/// Makes a change under load and gives the longest time without an acknowledged write around it.
async fn gap_of(load: &Load, change: impl AsyncFnOnce()) -> Duration {
    load.wait_acks(200, Duration::from_secs(20)).await;
    let began = Instant::now();
    change().await;
    load.wait_acks(200, Duration::from_secs(30)).await;
    let enough = began + Duration::from_secs(1);
    tokio::time::sleep(enough.saturating_duration_since(Instant::now())).await;
    load.ledger().longest_gap(began, Instant::now())
}

/// So many of the load's keys are there when the states of the nodes are compared: of more than 50,000 a node gives no hash.
const KEYS_COMPARED: usize = 30_000;

/// The end of every test: nothing lost, nothing doubled, all nodes equal.
async fn settle(ring: &Ring, load: &mut Load) {
    load.stop();
    let reader = ring.client().await.with_timeout(Duration::from_secs(10));
    let checked = load.verify(&reader, |_| true).await;
    let surplus = Cell::new(load.ledger().uniques.len().saturating_sub(KEYS_COMPARED));
    load.reap(&reader, |_| surplus.replace(surplus.get().saturating_sub(1)) > 0).await;
    let statuses = ring.wait_converged().await;
    let ledger = load.ledger();
    println!("{checked} keys checked, {} unknown, {} refused, term {}", ledger.unknown, ledger.never, statuses[0].term);
}

/// Rings of more keys than a node hashes were equal whatever they had: 0 stood for "keeps no state".
#[test]
fn a_state_without_a_hash_is_seen_to_equal_nothing() {
    let node = |node, role, state_hash| Status { node, role, state_hash, applied_index: 7, last_index: 7, ..Status::default() };
    let ring = |one, other| [node(1, Role::Voter, one), node(2, Role::Voter, other), node(3, Role::TieBreaker, 0)];
    assert!(are_equal(&ring(5, 5), 0));
    assert!(!are_equal(&ring(5, 6), 0));
    assert!(!are_equal(&ring(5, 0), 0));
    assert!(!are_equal(&ring(0, 0), 0));
    let behind = Status { applied_index: 6, ..node(1, Role::Voter, 5) };
    assert!(!are_equal(&[behind.clone(), node(2, Role::Voter, 5)], 0) && !are_equal(&[behind], 0));
}

#[tokio::test]
async fn a_killed_leader_is_replaced_in_a_moment() {
    let _alone = ALONE.lock().await;
    let mut random = Random::seeded("RINGBEAM_FAILOVER_SEED");
    let mut ring = Ring::start("kill-leader", plan()).await;
    let mut load = Load::start(&ring.endpoints(), 1, 1, TASKS);
    let mut gaps = Gaps("leader killed", Vec::new());
    for _ in 0..count("RINGBEAM_FAILOVER_ROUNDS", 3) {
        tokio::time::sleep(random.millis(300)).await;
        let leader = ring.leader(0).await;
        gaps.push(gap_of(&load, async || ring.kill(leader)).await);
        ring.spawn(leader);
        ring.wait_caught_up(leader).await;
        load.assert_unbroken();
    }
    settle(&ring, &mut load).await;
    gaps.judge(KILL_GAP_MAX);
}

#[tokio::test]
async fn a_leader_that_is_told_to_stop_hands_over_first() {
    let _alone = ALONE.lock().await;
    let mut ring = Ring::start("stop-leader", plan()).await;
    let mut load = Load::start(&ring.endpoints(), 1, 1, TASKS);
    let mut gaps = Gaps("leader told to stop", Vec::new());
    for _ in 0..count("RINGBEAM_FAILOVER_ROUNDS", 3) {
        let leader = ring.leader(0).await;
        let before = ring.said(leader).len();
        let mut ended = None;
        gaps.push(gap_of(&load, async || ended = Some(ring.terminate(leader))).await);
        let (code, took) = ended.expect("the change was made");
        assert_eq!(code, Some(0), "a clean end\n{}", ring.tail(leader));
        println!("it ended after {took:?}");
        let said = ring.said(leader).split_off(before);
        assert!(said.contains("leadership handed over"), "node {leader} leads a healthy ring, and hands over:\n{said}");
        ring.spawn(leader);
        ring.wait_caught_up(leader).await;
        load.assert_unbroken();
    }
    settle(&ring, &mut load).await;
    gaps.judge(PLANNED_GAP_MAX);
}

#[tokio::test]
async fn leadership_moves_on_request_without_losing_a_write() {
    let _alone = ALONE.lock().await;
    let ring = Ring::start("transfer", plan()).await;
    let mut load = Load::start(&ring.endpoints(), 1, 1, TASKS);
    let mut gaps = Gaps("hand-over on request", Vec::new());
    for _ in 0..count("RINGBEAM_FAILOVER_ROUNDS", 3) {
        let leader = ring.leader(0).await;
        let to = (leader % ring.plan.nodes + 1).to_string();
        let endpoints = ring.endpoints();
        let ask = async || {
            let (code, out, err) = ringbeam(&["ring", "transfer", "--to", &to, "--endpoints", &endpoints]);
            assert_eq!(code, 0, "{out}{err}");
        };
        gaps.push(gap_of(&load, ask).await);
        assert_eq!(ring.leader(0).await.to_string(), to, "the node that was asked leads now");
        load.assert_unbroken();
    }
    settle(&ring, &mut load).await;
    gaps.judge(PLANNED_GAP_MAX);
}

#[tokio::test]
async fn a_whole_ring_comes_back_with_everything() {
    let _alone = ALONE.lock().await;
    let mut ring = Ring::start("whole-ring", plan()).await;
    let mut load = Load::start(&ring.endpoints(), 1, 1, TASKS);
    let all: Vec<u64> = (1..=ring.plan.nodes).collect();
    let mut gaps = Gaps("whole ring restarted", Vec::new());
    for round in 0..2 {
        let restart = async || {
            if round == 0 {
                for id in &all {
                    let (code, _) = ring.terminate(*id);
                    assert_eq!(code, Some(0), "a clean end\n{}", ring.tail(*id));
                }
            } else {
                ring.kill_all(&all);
            }
            for id in &all {
                ring.spawn(*id);
            }
        };
        gaps.push(gap_of(&load, restart).await);
        let reader = ring.client().await.with_timeout(Duration::from_secs(10));
        load.verify(&reader, |_| true).await;
    }
    settle(&ring, &mut load).await;
    gaps.judge(Duration::from_secs(20));
}
