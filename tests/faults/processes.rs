//! Processes that die, stop and begin again.

use std::time::{Duration, Instant};

use crate::book::Loyal;
use crate::ring::signal;
use crate::stage::{SOON, Stage};

/// A planned restart of all nodes may cost this much in one piece, on a machine of two cores that does other things as well.
/// failover.rs measures it alone; the figures are printed here.
const ROLLING_GAP_MAX: Duration = Duration::from_secs(20);

async fn a_while(stage: &mut Stage, ms_max: u64) {
    let while_ms = stage.random.millis(ms_max);
    tokio::time::sleep(while_ms).await;
}

pub async fn kill(stage: &mut Stage) -> String {
    let node = stage.pick_node().await;
    a_while(stage, 300).await;
    stage.ring.kill(node);
    stage.load.book.goes_on(20, SOON).await;
    a_while(stage, 500).await;
    stage.ring.spawn(node);
    format!("node {node}")
}

pub async fn kill_all(stage: &mut Stage) -> String {
    let members = stage.members.clone();
    stage.ring.kill_all(&members);
    a_while(stage, 500).await;
    members.iter().for_each(|id| stage.ring.spawn(*id));
    format!("nodes {members:?}")
}

pub async fn kill_twice(stage: &mut Stage) -> String {
    let node = stage.pick_node().await;
    stage.ring.kill(node);
    stage.load.book.goes_on(20, SOON).await;
    stage.ring.spawn(node);
    a_while(stage, 150).await;
    stage.ring.kill(node);
    stage.ring.spawn(node);
    format!("node {node}")
}

/// It wakes up deposed, with reads and writes in its sockets, and must not answer from its memory.
pub async fn pause(stage: &mut Stage) -> String {
    let (leader, term) = (stage.leader().await, stage.ring.wait_ready().await);
    let term = term.iter().find(|s| s.node == leader).map_or(0, |s| s.term);
    let pid = stage.ring.pid(leader).expect("all nodes run");
    let asking = Loyal::start(&stage.load.book, &stage.ring.node(leader).client);
    signal(pid, "STOP");
    let woken = Woken(pid);
    let next = stage.another_leads(&stage.others(leader), term, leader).await;
    stage.load.book.goes_on(20, SOON).await;
    a_while(stage, 700).await;
    drop(woken);
    stage.wait_status(leader, "it has heard of the other leader", |s| s.term > term || s.leader != leader).await;
    let answers = asking.end();
    assert!(answers > 0, "node {leader} answered nothing");
    format!("node {leader}, then {next} led")
}

/// Continues a process when it is dropped, on every way out.
struct Woken(u32);

impl Drop for Woken {
    fn drop(&mut self) {
        signal(self.0, "CONT");
    }
}

pub async fn rolling_restart(stage: &mut Stage) -> String {
    let began = Instant::now();
    for node in stage.members.clone() {
        let (code, _) = stage.ring.terminate(node);
        assert_eq!(code, Some(0), "a clean end\n{}", stage.ring.tail(node));
        stage.ring.spawn(node);
        stage.ring.wait_caught_up(node).await;
    }
    stage.load.book.goes_on(20, SOON).await;
    let gap = stage.load.book.longest_gap(began);
    assert!(gap < ROLLING_GAP_MAX, "{gap:?} without an acknowledged write");
    format!("longest time without an acknowledged write {} ms", gap.as_millis())
}
