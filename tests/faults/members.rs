//! Nodes that are replaced under load, and disks that are empty under a known id.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ringbeam_sdk::Status;

use crate::ring::ringbeam_at;
use crate::stage::{SOON, Stage};

/// A new node takes the place of another, alive or dead.
pub async fn replace(stage: &mut Stage) -> String {
    let old = stage.pick_node().await;
    let dead = stage.random.below(2) == 0;
    if dead {
        stage.ring.kill(old);
    }
    let new = in_place_of(stage, old).await;
    format!("node {old}, {}, by {new}", if dead { "dead" } else { "alive" })
}

/// It refuses to run as the node that it was, and says what to do; that is done.
pub async fn empty_disk(stage: &mut Stage) -> String {
    let old = stage.pick_node().await;
    stage.ring.kill(old);
    let data = &stage.ring.node(old).data;
    std::fs::remove_dir_all(data).and_then(|()| std::fs::create_dir(data)).expect("a directory can be emptied");
    let said = stage.ring.refused(old);
    assert!(said.contains(&format!("ringbeam ring replace --node {old} --by NEW_ID")), "{said}");
    stage.load.book.goes_on(20, SOON).await;
    let new = in_place_of(stage, old).await;
    format!("node {old}, replaced by {new}")
}

/// Makes a new node, and replaces `old` by it.
async fn in_place_of(stage: &mut Stage, old: u64) -> u64 {
    let new = stage.place();
    stage.ring.spawn(new);
    let (peer, began) = (stage.ring.node(new).peer.clone(), Instant::now());
    let (old_id, new_id) = (old.to_string(), new.to_string());
    let args = ["ring", "replace", "--node", &old_id, "--by", &new_id, "--peer", &peer];
    loop {
        // It may have to wait: for the new node to listen, for a leader.
        let (code, out, err) = ringbeam_at(&stage.ring.endpoints(), &args).await;
        if code == 0 {
            break;
        }
        assert!(began.elapsed() < SOON, "{args:?}: {out}{err}\n{}", stage.ring.tails());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.ring.kill(old);
    // A machine has few loop devices.
    stage.disks.remove(&old);
    stage.members.retain(|id| *id != old);
    stage.members.push(new);
    let wanted: BTreeSet<u64> = stage.members.iter().copied().collect();
    let are = |s: &[Status]| {
        let leads = s.iter().filter(|s| s.raft_state == "leader" && s.leader == s.node).max_by_key(|s| (s.term, s.node));
        leads.is_some_and(|s| !s.voters_joint && s.voters.iter().map(|p| p.node).collect::<BTreeSet<_>>() == wanted)
    };
    stage.ring.wait_for("the members are as they should be", SOON, are).await;
    new
}
