//! Disks without a free byte. What is acknowledged is on a quorum of disks that had room for it; the rest is refused.

use std::time::{Duration, Instant};

use ringbeam_wire::refusal::Code;

use crate::ring::disk::SmallDisk;
use crate::ring::raw::{self, Raw};
use crate::stage::{SOON, Stage};

/// Gives room again when it is dropped, on every way out.
struct Filled<'a>(&'a SmallDisk);

impl Filled<'_> {
    fn fill(disk: &SmallDisk) -> Filled<'_> {
        disk.fill();
        Filled(disk)
    }
}

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        self.0.free();
    }
}

/// Writes go on without it, until the leader is well ahead of what it could keep.
pub async fn full_follower(stage: &mut Stage) -> String {
    let leader = stage.leader().await;
    let node = stage.others(leader)[stage.random.below(stage.members.len() as u64 - 1) as usize];
    let filled = Filled::fill(stage.disk(node));
    let behind = async || {
        let (ahead, at) = (stage.status(leader).await, stage.status(node).await);
        ahead.zip(at).is_some_and(|(ahead, at)| ahead.committed_index > at.last_index + 20)
    };
    stage.load.flood(&stage.watcher, SOON, "the full follower stays behind", behind).await;
    stage.load.book.goes_on(50, SOON).await;
    let fault = stage.status(node).await.and_then(|s| s.fault);
    assert!(fault.is_none(), "a full disk is no broken one: {fault:?}");
    drop(filled);
    format!("node {node}")
}

/// It gives way to a node that has room, and writes go on.
pub async fn full_leader(stage: &mut Stage) -> String {
    let leader = stage.leader().await;
    let filled = Filled::fill(stage.disk(leader));
    let given_way = async || stage.leader().await != leader;
    stage.load.flood(&stage.watcher, SOON, "the full leader gives way", given_way).await;
    stage.load.book.goes_on(50, SOON).await;
    drop(filled);
    format!("node {leader}, then {} led", stage.leader().await)
}

/// So long nothing is acknowledged, with all tasks of the load writing.
const NOTHING: Duration = Duration::from_secs(3);

/// Nothing is acknowledged, and reads go on, until there is room again. Then writes go on, and what was acknowledged is there.
pub async fn full_all(stage: &mut Stage) -> String {
    let members = stage.members.clone();
    let filled: Vec<Filled<'_>> = members.iter().map(|id| Filled::fill(stage.disk(*id))).collect();
    let refused = async || {
        let leader = stage.ring.node(stage.leader().await).client.clone();
        // The node says at once what the SDK waits for until its deadline.
        Raw::greeted(&leader, 0).ask(&raw::put(b"full", b"v")).code() == Some(Code::DiskFull)
    };
    // Its own writes wait 1 s each once the disks are full.
    let hurried = stage.watcher.with_timeout(Duration::from_secs(1));
    stage.load.flood(&hurried, SOON, "full disks refuse writes", refused).await;
    // One is full. Another, whose log has room left, may lead now; and what a log drops is room: it is taken away again.
    let (began, mut written, mut since) = (Instant::now(), stage.load.book.written(), Instant::now());
    while since.elapsed() < NOTHING {
        let read = stage.watcher.get("key0").await;
        assert!(matches!(read, Ok(Some(_))), "reads go on: {read:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = stage.load.book.written();
        if now != written {
            filled.iter().for_each(|filled| filled.0.fill());
            (written, since) = (now, Instant::now());
        }
        assert!(began.elapsed() < SOON, "full disks take more and more");
    }
    drop(filled);
    stage.load.book.goes_on(50, SOON).await;
    stage.load.read_flood(&stage.watcher).await;
    format!("nodes {members:?}, nothing acknowledged for {NOTHING:?}")
}
