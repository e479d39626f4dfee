//! Who belongs to the ring, on real processes: changes under load, changes left half way, disks that are not what they seem,
//! tie-breakers, and what a ring does with the nodes it has left.
//!
//! Every test that changes something writes all the time; afterwards every acknowledged write must be there.

mod ring;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ring::light::Load;
use ring::{Plan, Ring, SMALL_LOG, copy_dir, ringbeam_at};
use ringbeam_sdk::{Client, Code, Error, GetOptions, Status};
use ringbeam_wire::client::{Consistency, Encoder, Get, Hello, ReplyBody, RequestBody, parse_reply};
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::preamble::{Kind, Preamble, VERSION};

/// For what takes seconds on a busy machine.
const SOON: Duration = Duration::from_secs(30);

fn plan(nodes: u64, shards: u32) -> Plan {
    Plan { nodes, shards, extra: SMALL_LOG.to_string(), ..Plan::default() }
}

/// A `ring` command that must succeed; its output.
async fn change(ring: &Ring, args: &[&str]) -> String {
    let (code, out, err) = ringbeam_at(&ring.endpoints(), &[&["ring"], args].concat()).await;
    assert_eq!(code, 0, "ring {args:?}: {out}{err}");
    out
}

/// A `ring` command that must be refused; what it says.
async fn refused(ring: &Ring, args: &[&str]) -> String {
    let (code, out, err) = ringbeam_at(&ring.endpoints(), &[&["ring"], args].concat()).await;
    assert_eq!(code, 3, "ring {args:?}: {out}{err}");
    err
}

/// Gives the command again and again until it succeeds: it must wait for something that passes by itself.
async fn change_at_last(ring: &Ring, args: &[&str]) -> String {
    let began = Instant::now();
    loop {
        let (code, out, err) = ringbeam_at(&ring.endpoints(), &[&["ring"], args].concat()).await;
        if code == 0 {
            return out;
        }
        assert!(began.elapsed() < SOON, "ring {args:?}: {out}{err}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What `status` prints.
async fn status(ring: &Ring) -> String {
    let (code, out, err) = ringbeam_at(&ring.endpoints(), &["status"]).await;
    assert_eq!(code, 0, "{out}{err}");
    out
}

/// Waits until `status` prints `text`.
async fn wait_status(ring: &Ring, text: &str) {
    let began = Instant::now();
    loop {
        let out = status(ring).await;
        if out.contains(text) {
            return;
        }
        assert!(began.elapsed() < SOON, "status never said {text:?}: {out}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn leads(s: &Status) -> bool {
    s.raft_state == "leader" && s.leader == s.node
}

/// True when every shard's leader says that exactly `voters` vote, and nobody else is a member.
fn voters_are(statuses: &[Status], shards: u32, voters: &[u64]) -> bool {
    let wanted: BTreeSet<(u64, bool)> = voters.iter().map(|id| (*id, false)).collect();
    (0..shards).all(|shard| {
        statuses
            .iter()
            .filter(|s| s.shard == shard && leads(s))
            .max_by_key(|s| s.term)
            .is_some_and(|s| !s.voters_joint && s.voters.iter().map(|p| (p.node, p.learner)).collect::<BTreeSet<_>>() == wanted)
    })
}

async fn wait_voters(ring: &Ring, voters: &[u64]) {
    let shards = ring.plan.shards;
    ring.wait_for(&format!("the voters are {voters:?}"), SOON, |s| voters_are(s, shards, voters)).await;
}

fn peer_of(ring: &Ring, id: u64) -> String {
    ring.node(id).peer.clone()
}

// ---- changes ----

#[tokio::test]
async fn members_come_and_go_under_load() {
    let mut ring = Ring::start("come-and-go", plan(3, 2)).await;
    let client = ring.client().await;
    let load = Load::start(&client, 4);

    ring.place_joiner(4);
    ring.spawn(4);
    ring.wait_said(4, "waiting to be added").await;
    let peer = peer_of(&ring, 4);
    let early = refused(&ring, &["promote", "--node", "4"]).await;
    assert!(early.contains("ringbeam ring add --node 4"), "{early}");
    let said = change(&ring, &["add", "--node", "4", "--peer", &peer]).await;
    assert!(said.contains("shard 0: node 4 added") && said.contains("shard 1: node 4 added"), "{said}");
    let said = change(&ring, &["add", "--node", "4", "--peer", &peer]).await;
    assert!(said.contains("shard 0: node 4 is a member already"), "{said}");
    wait_status(&ring, "ringbeam ring promote --node 4").await;
    change_at_last(&ring, &["promote", "--node", "4"]).await;
    let said = change(&ring, &["promote", "--node", "4"]).await;
    assert!(said.contains("shard 1: node 4 is a voter already"), "{said}");
    wait_voters(&ring, &[1, 2, 3, 4]).await;

    change(&ring, &["remove", "--node", "1"]).await;
    let said = change(&ring, &["remove", "--node", "1"]).await;
    assert!(said.contains("node 1 is no member"), "{said}");
    wait_voters(&ring, &[2, 3, 4]).await;
    // A removed node that still runs disturbs nobody.
    let terms = |s: &[Status]| s.iter().filter(|s| leads(s)).map(|s| (s.shard, s.term)).collect::<BTreeSet<_>>();
    let before = terms(&ring.wait_ready().await);
    load.goes_on(200, SOON).await;
    assert_eq!(before, terms(&ring.wait_ready().await), "no election since node 1 was removed");
    ring.wait_said(1, "this node does not campaign any more: node 1 is no member of shard 0").await;
    ring.wait_said(1, "this node does not campaign any more: node 1 is no member of shard 1").await;
    ring.kill(1);

    ring.kill(2);
    ring.place_joiner(5);
    ring.spawn(5);
    ring.wait_said(5, "waiting to be added").await;
    let peer = peer_of(&ring, 5);
    for _ in 0..2 {
        change(&ring, &["replace", "--node", "2", "--by", "5", "--peer", &peer]).await;
    }
    wait_voters(&ring, &[3, 4, 5]).await;

    load.goes_on(50, SOON).await;
    let acked = load.check(&client).await;
    assert!(acked > 300, "{acked}");
    ring.wait_converged().await;
    // The new members carry it: any one of the three may go.
    ring.kill(3);
    client.with_timeout(SOON).put("last", "one").await.expect("two of three can write");
}

/// A node that was added in one shard must not act as a voter in the others, nor as one of the founders in any.
#[tokio::test]
async fn a_change_left_half_way_is_shown_and_finished() {
    let mut ring = Ring::start("half-way", plan(3, 2)).await;
    let client = ring.client().await;
    let load = Load::start(&client, 3);
    ring.place_joiner(4);
    ring.spawn(4);
    ring.wait_said(4, "waiting to be added").await;
    let peer = peer_of(&ring, 4);

    // Added in shard 0 only.
    client.ring_add(0, 4, &peer).await.expect("node 4 can be added");
    wait_status(&ring, &format!("finish the change: ringbeam ring add --node 4 --peer {peer}")).await;
    ring.wait_for("node 4 serves both shards", SOON, |s| s.iter().filter(|s| s.node == 4).count() == 2).await;
    let alone = ring.status(&client, 4, 1).await.expect("it answers");
    assert_eq!((alone.raft_state.as_str(), alone.last_index, alone.voters.len()), ("learner", 0, 0), "{alone:?}");
    change(&ring, &["add", "--node", "4", "--peer", &peer]).await;

    // Promoted in shard 0 only, and then the leader of shard 1 dies.
    let began = Instant::now();
    while let Err(e) = client.ring_promote(0, 4).await {
        assert!(began.elapsed() < SOON, "{e}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    wait_status(&ring, "finish the change: ringbeam ring promote --node 4").await;
    let leader = ring.leader(1).await;
    ring.kill(leader);
    change_at_last(&ring, &["promote", "--node", "4"]).await;
    ring.spawn(leader);
    wait_voters(&ring, &[1, 2, 3, 4]).await;

    // Removed from shard 0 only.
    let gone = (1..=4).find(|id| *id != leader).expect("there are four");
    if ring.leader(0).await == gone {
        client.ring_transfer(0, 0).await.expect("it hands over");
    }
    let began = Instant::now();
    while let Err(e) = client.ring_remove(0, gone, true).await {
        assert!(began.elapsed() < SOON, "{e}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    wait_status(&ring, &format!("finish the change: ringbeam ring remove --node {gone}")).await;
    change_at_last(&ring, &["remove", "--node", &gone.to_string()]).await;
    let left: Vec<u64> = (1..=4).filter(|id| *id != gone).collect();
    ring.kill(gone);
    wait_voters(&ring, &left).await;
    load.goes_on(20, SOON).await;
    load.check(&client).await;
    ring.wait_converged().await;
}

#[tokio::test]
async fn commands_and_leaders_may_die_in_the_middle_of_a_replacement() {
    let mut ring = Ring::start("mid-replace", plan(3, 2)).await;
    let client = ring.client().await;
    let load = Load::start(&client, 3);
    let (mut old, mut voters) = (1, BTreeSet::from([1, 2, 3]));
    for (round, new) in (4..=6).enumerate() {
        ring.place_joiner(new);
        ring.spawn(new);
        ring.wait_said(new, "waiting to be added").await;
        let (peer, new_id, old_id) = (peer_of(&ring, new), new.to_string(), old.to_string());
        let args = ["replace", "--node", &old_id, "--by", &new_id, "--peer", &peer];
        // The command is killed after a while, each time a little later.
        for wait_ms in [2, 6, 12, 25, 50] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ringbeam"))
                .arg("ring")
                .args(args)
                .args(["--endpoints", &ring.endpoints()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the command starts");
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            let _ = command.kill();
            command.wait().expect("a child can be waited for");
        }
        // And once, so is the leader.
        if round == 1 {
            let leader = ring.leader(0).await;
            ring.kill(leader);
            tokio::time::sleep(Duration::from_millis(50)).await;
            ring.spawn(leader);
        }
        change_at_last(&ring, &args).await;
        voters.remove(&old);
        voters.insert(new);
        ring.kill(old);
        wait_voters(&ring, &voters.iter().copied().collect::<Vec<_>>()).await;
        assert!(!status(&ring).await.contains("finish the change"));
        old += 1;
    }
    load.goes_on(20, SOON).await;
    load.check(&client).await;
    ring.wait_converged().await;
}

#[tokio::test]
async fn what_would_harm_the_ring_is_refused() {
    let mut ring = Ring::start("refusals", plan(1, 1)).await;
    let only = refused(&ring, &["remove", "--node", "1"]).await;
    assert!(only.contains("node 1 is the only voter"), "{only}");
    let wrong = refused(&ring, &["add", "--node", "9", "--peer", &peer_of(&ring, 1)]).await;
    assert!(wrong.contains("is node 1, not node 9"), "{wrong}");
    ring.place_joiner(2);
    ring.configure(2, "role = \"voter\"", "role = \"observer\"");
    ring.spawn(2);
    ring.wait_said(2, "waiting to be added").await;
    change(&ring, &["add", "--node", "2", "--peer", &peer_of(&ring, 2)]).await;
    let observer = refused(&ring, &["promote", "--node", "2"]).await;
    assert!(observer.contains("node 2 is an observer"), "{observer}");
    let client = ring.client().await;
    client.put("seen", "by the observer").await.expect("one voter can write");
    ring.wait_converged().await;
    let only = refused(&ring, &["remove", "--node", "1"]).await;
    assert!(only.contains("node 1 is the only voter"), "an observer is no voter: {only}");
    // Its ring counts on what it was when it came.
    ring.kill(2);
    ring.configure(2, "role = \"observer\"", "role = \"voter\"");
    ring.spawn(2);
    ring.wait_said(2, "knows as observer, the configuration says voter (node.role)").await;
    ring.kill(2);
    ring.configure(2, "role = \"voter\"", "role = \"observer\"");
    ring.spawn(2);
    ring.wait_converged().await;
}

#[tokio::test]
async fn a_change_that_would_leave_no_quorum_is_refused() {
    let mut ring = Ring::start("no-quorum", plan(3, 1)).await;
    ring.place_joiner(4);
    ring.spawn(4);
    ring.wait_said(4, "waiting to be added").await;
    change(&ring, &["add", "--node", "4", "--peer", &peer_of(&ring, 4)]).await;
    ring.wait_converged().await;
    ring.kill(4);
    // What it answered last holds for an election timeout.
    let forgotten = Duration::from_secs(2);
    tokio::time::sleep(forgotten).await;
    let silent = refused(&ring, &["promote", "--node", "4"]).await;
    assert!(silent.contains("node 4 does not answer; promote it when it does"), "{silent}");

    let leader = ring.leader(0).await;
    let [down, gone] = [1, 2, 3].into_iter().filter(|id| *id != leader).collect::<Vec<u64>>()[..] else {
        panic!("node {leader} leads, of three")
    };
    ring.kill(down);
    tokio::time::sleep(forgotten).await;
    let alone = refused(&ring, &["remove", "--node", &gone.to_string()]).await;
    assert!(alone.contains(&format!("[{down}] do not answer: no quorum would be left")), "{alone}");
    ring.spawn(down);
    ring.wait_for("all three answer", SOON, |s| s.iter().filter(|s| s.leader == leader).count() == 3).await;
    change_at_last(&ring, &["remove", "--node", &gone.to_string()]).await;
    let client = ring.client().await;
    client.put("after", "all").await.expect("two of two can write");
}

#[tokio::test]
async fn an_eighth_voter_is_refused() {
    let mut ring = Ring::start("eighth", plan(7, 1)).await;
    ring.place_joiner(8);
    ring.spawn(8);
    ring.wait_said(8, "waiting to be added").await;
    let peer = peer_of(&ring, 8);
    change(&ring, &["add", "--node", "8", "--peer", &peer]).await;
    let full = refused(&ring, &["promote", "--node", "8"]).await;
    assert!(full.contains("at most 7 voters"), "{full}");
    // In place of another it may.
    ring.kill(7);
    change(&ring, &["replace", "--node", "7", "--by", "8", "--peer", &peer]).await;
    wait_voters(&ring, &[1, 2, 3, 4, 5, 6, 8]).await;
}

// ---- data directories ----

#[tokio::test]
async fn an_empty_disk_under_a_known_id_never_votes() {
    let mut ring = Ring::start("empty-disk", plan(3, 1)).await;
    let client = ring.client().await;
    let load = Load::start(&client, 2);
    load.goes_on(20, SOON).await;
    ring.kill(2);
    fs::remove_dir_all(&ring.node(2).data).expect("a directory can be removed");
    let said = ring.refused(2);
    assert!(said.contains("ringbeam ring replace --node 2 --by NEW_ID"), "{said}");
    load.goes_on(20, SOON).await;
    load.check(&client).await;

    // Only nodes 1 and 2 are left, and 2 is empty. Whichever comes first: they are no quorum.
    ring.kill(1);
    ring.kill(3);
    for empty_first in [false, true] {
        ring.spawn(if empty_first { 2 } else { 1 });
        tokio::time::sleep(Duration::from_millis(500)).await;
        if empty_first {
            ring.spawn(1);
            let said = ring.wait_end(2, SOON);
            assert_eq!(said, Some(1), "{}", ring.tail(2));
        } else {
            let said = ring.refused(2);
            assert!(said.contains("ringbeam ring replace --node 2"), "{said}");
        }
        let alone = Client::connect(&ring.node(1).client).await.expect("node 1 answers");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            let status = ring.status(&alone, 1, 0).await.expect("node 1 answers");
            assert!(!leads(&status), "node 1 leads alone: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let write = alone.with_timeout(Duration::from_millis(300)).put("a", "b").await;
        assert!(matches!(write, Err(Error::Timeout { .. } | Error::Unknown { .. })), "{write:?}");
        ring.kill(1);
    }

    // The first founder must not found a second ring with what is left of the first.
    fs::remove_dir_all(&ring.node(1).data).expect("a directory can be removed");
    ring.spawn(1);
    ring.spawn(2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    ring.spawn(3);
    for id in [1, 2] {
        assert_eq!(ring.wait_end(id, SOON), Some(1), "{}", ring.tail(id));
        assert!(!ring.said(id).contains("ring founded") || id == 1, "{}", ring.said(id));
        assert!(ring.tail(id).contains(&format!("ringbeam ring replace --node {id} --by NEW_ID")), "{}", ring.tail(id));
    }
    assert_eq!(ring.said(1).matches("ring founded").count(), 1, "{}", ring.said(1));
}

#[tokio::test]
async fn a_data_directory_that_is_not_this_nodes_is_refused_by_name() {
    let mut ring = Ring::start("directories", plan(3, 2)).await;
    let mut other = Ring::start("directories-other", plan(3, 2)).await;

    // In use.
    let text = fs::read_to_string(&ring.node(3).config).expect("a file can be read");
    let second = ring.root.join("second.toml");
    fs::write(&second, text).expect("a file can be written");
    let (code, _, said) = ring::ringbeam(&["serve", "--config", &second.display().to_string()]);
    let pid = ring.pid(3).expect("node 3 runs");
    assert!(code == 1 && said.contains(&format!("in use by process {pid}")), "{code} {said}");

    // Another ring's, under the same id.
    ring.kill(3);
    other.kill(3);
    let (mine, theirs, aside) = (ring.node(3).data.clone(), other.node(3).data.clone(), ring.root.join("aside"));
    fs::rename(&mine, &aside).expect("a directory can be renamed");
    copy_dir(&theirs, &mine).expect("a directory can be copied");
    let said = ring.refused(3);
    assert!(said.contains("the data directory belongs to ring"), "{said}");
    fs::remove_dir_all(&mine).expect("a directory can be removed");
    fs::rename(&aside, &mine).expect("a directory can be renamed");

    // Another node's; another number of shards.
    ring.configure(3, "id = 3\n", "id = 4\n");
    let said = ring.refused(3);
    assert!(said.contains("belongs to node 3, the configuration says node 4"), "{said}");
    ring.configure(3, "id = 4\n", "id = 3\n");
    ring.configure(3, "shards = 2", "shards = 3");
    let said = ring.refused(3);
    assert!(said.contains("belongs to a ring of 2 shards, the configuration says 3"), "{said}");
    ring.configure(3, "shards = 3", "shards = 2");

    // One shard's log is another ring's: that shard does not serve, and says whose log it is.
    fs::rename(mine.join("shard-1"), &aside).expect("a directory can be renamed");
    copy_dir(&theirs.join("shard-1"), &mine.join("shard-1")).expect("a directory can be copied");
    ring.spawn(3);
    wait_status(&ring, "shard 1 on node 3 does not serve").await;
    let client = ring.client().await;
    let fault = ring.status(&client, 3, 1).await.and_then(|s| s.fault).expect("shard 1 has a fault");
    assert!(fault.contains("belongs to ring"), "{fault}");
    ring.kill(3);

    // A shard's directory is gone.
    fs::remove_dir_all(mine.join("shard-1")).expect("a directory can be removed");
    let said = ring.refused(3);
    assert!(said.contains("the log of shard 1 is gone") && said.contains("ringbeam ring replace --node 3"), "{said}");
    fs::rename(&aside, mine.join("shard-1")).expect("a directory can be renamed");
    ring.spawn(3);
    ring.wait_converged().await;
}

// ---- leadership ----

#[tokio::test]
async fn leaders_of_three_shards_spread_over_three_nodes() {
    let mut ring = Ring::start("spread", plan(3, 3)).await;
    let client = ring.client().await;
    let load = Load::start(&client, 3);
    let spread = |s: &[Status]| s.iter().filter(|s| leads(s)).map(|s| s.node).collect::<BTreeSet<_>>().len() == 3;
    ring.wait_for("each node leads a shard", SOON, spread).await;
    ring.kill(2);
    load.goes_on(50, SOON).await;
    ring.spawn(2);
    ring.wait_for("each node leads a shard again", SOON, spread).await;
    load.check(&client).await;
}

#[tokio::test]
async fn a_tie_breaker_saves_the_writes_and_serves_nobody() {
    let mut ring = Ring::start("tie-breaker", Plan { tie_breakers: vec![3], ..plan(3, 1) }).await;
    let client = ring.client().await;
    let load = Load::start(&client, 3);
    load.goes_on(50, SOON).await;
    assert_eq!(read_locally(&ring.node(3).client), Some(Code::NotServing));
    for _ in 0..3 {
        let leader = ring.leader(0).await;
        assert_ne!(leader, 3);
        ring.kill(leader);
        load.goes_on(50, SOON).await;
        let now = ring.leader(0).await;
        assert_eq!(now, 3 - leader, "the other voter leads");
        ring.spawn(leader);
        ring.wait_for("the node has caught up", SOON, |s| {
            s.iter().filter(|s| leads(s)).any(|l| l.voters.iter().all(|p| p.lag < 64))
        })
        .await;
    }
    let tie_breaker = ring.status(&client, 3, 0).await.expect("it tells its status");
    assert_eq!(tie_breaker.keys, 0, "it keeps no state");
    load.check(&client).await;
    assert_eq!(read_locally(&ring.node(3).client), Some(Code::NotServing));
}

/// Asks exactly the node at `address` for a key, locally; the code of its refusal.
fn read_locally(address: &str) -> Option<Code> {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.set_read_timeout(Some(SOON)).expect("a socket has a timeout");
    let mut out = Preamble::new(Kind::Client, 0).encode().to_vec();
    let mut encoder = Encoder::new();
    let hello = Hello { version_min: VERSION, version_max: VERSION, client: "test", ..Hello::default() };
    encoder.request(&mut out, 1, 0, &RequestBody::Hello(hello));
    let get = Get { key: b"load/0/0", consistency: Consistency::Local, ..Get::default() };
    encoder.request(&mut out, 2, 0, &RequestBody::Get(get));
    stream.write_all(&out).expect("the node reads");
    let mut decoder = Decoder::new(1 << 20);
    loop {
        while let Some(frame) = decoder.next().expect("the node sends frames") {
            let reply = parse_reply(&frame).expect("the node sends replies");
            if reply.id == 2 {
                let ReplyBody::Refused(refusal) = reply.body else { return None };
                return Some(refusal.code);
            }
        }
        let read = stream.read(decoder.space()).expect("the node answers");
        assert!(read > 0, "the node closed the connection");
        decoder.filled(read);
    }
}

/// Each node that runs serves a local read of `kept` at once, whatever its quorum does; and so does the client that knew the dead.
async fn reads_locally(ring: &Ring, client: &Client) {
    for id in (1..=5).filter(|id| ring.runs(*id)) {
        let (code, out, err) = ringbeam_at(&ring.node(id).client, &["get", "kept", "--consistency", "local"]).await;
        let standing = ring.status(client, id, 0).await;
        assert_eq!((code, out.trim_end()), (0, "yes"), "no local read without a quorum from node {id}: {err}\n{standing:?}");
    }
    let options = GetOptions { consistency: Some(ringbeam_sdk::Consistency::Local), ..GetOptions::default() };
    let found = client.with_timeout(Duration::from_secs(1)).get_with("kept", &options).await;
    assert!(found.as_ref().is_ok_and(|v| v.as_ref().is_some_and(|v| &v.value[..] == b"yes")), "{found:?}");
}

#[tokio::test]
async fn five_nodes_lose_two_and_write_on_lose_three_and_read_on() {
    let mut ring = Ring::start("five", plan(5, 1)).await;
    let client = ring.client().await;
    let load = Load::start(&client, 3);
    load.goes_on(30, SOON).await;
    let leader = ring.leader(0).await;
    let other = leader % 5 + 1;
    ring.kill(leader);
    ring.kill(other);
    load.goes_on(50, SOON).await;
    let kept = client.put("kept", "yes").await.expect("three of five can write");
    // Followers learn of a commit after the client does. Of one that only the dead leader knew, no survivor can tell that it was
    // acknowledged, until there is a quorum again: that is how old a local read may be.
    let applied = |s: &[Status]| s.len() == 3 && s.iter().all(|s| s.applied_index >= kept.revision.index);
    ring.wait_for("all three have applied it", SOON, applied).await;
    let third = ring.leader(0).await;
    ring.kill(third);
    reads_locally(&ring, &client).await;

    let short = client.with_timeout(Duration::from_millis(500));
    for key in ["a", "b"] {
        let began = Instant::now();
        let write = short.put(key, "no quorum").await;
        assert!(matches!(write, Err(Error::Timeout { .. } | Error::Unknown { .. })), "{write:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "within the deadline and a busy machine's delay");
    }
    reads_locally(&ring, &client).await;
    let said = status(&ring).await;
    assert!(said.contains("shard 0 has no leader") || said.contains("should lead, but does not say so itself"), "{said}");

    for id in [leader, other, third] {
        ring.spawn(id);
    }
    load.goes_on(30, SOON).await;
    load.check(&client).await;
    ring.wait_converged().await;
}
