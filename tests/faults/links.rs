//! Links that are cut: both ways, one way, between some.
//!
//! Whoever cannot bring a write to a quorum must not acknowledge it, nor answer a read from what it remembers; a client that stays
//! with such a node asks it all the time. The others elect, and go on.

use std::time::Duration;

use crate::ring::net::{Way, between};
use crate::stage::{SOON, Stage};

/// The leader and its term.
async fn reign(stage: &Stage) -> (u64, u64) {
    let leader = stage.leader().await;
    let term = stage.status(leader).await.map_or(0, |s| s.term);
    (leader, term)
}

/// Others take over from a leader whose ways are cut, and writes go on with them.
async fn deposed(stage: &mut Stage, leader: u64, term: u64, heirs: &[u64], ways: &[Way]) -> u64 {
    let mut next = 0;
    let taken_over = async |stage: &Stage| {
        next = stage.another_leads(heirs, term, leader).await;
        stage.load.book.goes_on(30, SOON).await;
    };
    stage.while_cut(ways, leader, taken_over).await;
    stage.wait_status(leader, "it follows again", |s| s.raft_state == "follower" || (s.term, s.node) > (term, leader)).await;
    next
}

pub async fn isolated(stage: &mut Stage) -> String {
    let (leader, term) = reign(stage).await;
    let node = stage.pick_node().await;
    let others = stage.others(node);
    let mut ways = between(node, &others);
    ways.extend([Way::ToClients(node), Way::FromClients(node)]);
    if node == leader {
        let next = deposed(stage, leader, term, &others, &ways).await;
        return format!("leader {node}, then {next} led");
    }
    let gone = async |stage: &Stage| {
        stage.load.book.goes_on(60, SOON).await;
        let told = stage.status(node).await;
        assert!(told.is_none(), "node {node} can be reached: {told:?}");
    };
    stage.while_cut(&ways, node, gone).await;
    format!("follower {node}")
}

pub async fn minority(stage: &mut Stage) -> String {
    let (leader, term) = reign(stage).await;
    let mut majority = stage.others(leader);
    let mut with_it = vec![leader];
    // As many as are no quorum: of three the leader alone, of five it and another.
    while with_it.len() < (stage.members.len() - 1) / 2 {
        let companion = stage.pick(&majority);
        majority.retain(|id| *id != companion);
        with_it.push(companion);
    }
    let ways: Vec<Way> = with_it.iter().flat_map(|id| between(*id, &majority)).collect();
    let next = deposed(stage, leader, term, &majority, &ways).await;
    format!("leader {leader} in {with_it:?}, then {next} led")
}

/// No peer reaches the leader, and it reaches them all.
pub async fn deaf(stage: &mut Stage) -> String {
    let (leader, term) = reign(stage).await;
    let others = stage.others(leader);
    let ways: Vec<Way> = others.iter().map(|id| Way::Peers(*id, leader)).collect();
    let next = deposed(stage, leader, term, &others, &ways).await;
    format!("leader {leader}, then {next} led")
}

/// The leader reaches no peer, and all of them reach it.
pub async fn mute(stage: &mut Stage) -> String {
    let (leader, term) = reign(stage).await;
    let others = stage.others(leader);
    let ways: Vec<Way> = others.iter().map(|id| Way::Peers(leader, *id)).collect();
    let next = deposed(stage, leader, term, &others, &ways).await;
    format!("leader {leader}, then {next} led")
}

/// The follower hears no leader, and the others do: it must not stop them.
pub async fn partial(stage: &mut Stage) -> String {
    let (leader, term) = reign(stage).await;
    let others = stage.others(leader);
    let follower = stage.pick(&others);
    let lonely = async |stage: &Stage| {
        stage.load.book.goes_on(100, SOON).await;
        let committed = stage.status(leader).await.map_or(0, |s| s.committed_index);
        stage.load.book.goes_on(30, SOON).await;
        let told = stage.status(follower).await.expect("clients reach it");
        // Unless the ring has found itself another leader, which reaches everybody.
        assert!(told.term > term || told.last_index < committed, "node {follower} gets what node {leader} writes: {told:?}");
    };
    stage.while_cut(&between(leader, &[follower]), follower, lonely).await;
    let (after, now) = reign(stage).await;
    format!("nodes {leader} (leader) and {follower}; term {term} to {now}, leader {after}")
}

/// Cut and mended again and again, each time for a moment: connections break at every place of their life.
pub async fn flapping(stage: &mut Stage) -> String {
    let node = stage.pick_node().await;
    let ways = between(node, &stage.others(node));
    let (net, mut dropped) = (stage.net(), 0);
    for _ in 0..4 {
        net.cut(&ways);
        let cut = Duration::from_millis(100) + stage.random.millis(700);
        tokio::time::sleep(cut).await;
        dropped += net.dropped().iter().sum::<u64>();
        net.heal();
        let whole = stage.random.millis(400);
        tokio::time::sleep(whole).await;
    }
    assert!(dropped > 0, "cuts that cut nothing: {ways:?}");
    format!("node {node}, {dropped} packets lost")
}
