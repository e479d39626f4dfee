//! How a node comes back, on real processes: by log, by snapshot, after damage, and what it refuses.

mod ring;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use ring::light::Load;
use ring::raw::{self, Raw};
use ring::{Plan, Ring, SMALL_LOG, ringbeam_at};
use ringbeam_sdk::{Client, Status};
use ringbeam_wire::client::RequestBody;
use ringbeam_wire::refusal::Code;

/// For what takes seconds on a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// Of the log's files.
const BLOCK_BYTES: usize = 4096;

fn plan(shards: u32) -> Plan {
    // Values are large here: the log must be truncated within seconds, again and again.
    Plan { shards, extra: SMALL_LOG.to_string(), ..Plan::default() }
}

/// Writes about `bytes` in values of 32 KiB to keys that begin with `name`.
async fn fill(client: &Client, name: &str, bytes: usize) {
    const VALUE_BYTES: usize = 32 << 10;
    let client = client.with_timeout(SOON);
    for n in 0..bytes / VALUE_BYTES {
        let value = vec![n as u8; VALUE_BYTES];
        client.put(format!("{name}/{n}"), value).await.expect("the ring can be written");
    }
}

/// Writes until every running node has cut its log past `index` of shard 0, and a node that stopped there needs a snapshot.
async fn truncate_past(ring: &Ring, client: &Client, index: u64) {
    let began = Instant::now();
    for round in 0.. {
        fill(client, &format!("truncate{}", round % 4), 4 << 20).await;
        // openraft keeps some entries behind a snapshot; small writes get past them.
        let mut writes = tokio::task::JoinSet::new();
        for n in 0..400 {
            let client = client.with_timeout(SOON);
            writes.spawn(async move { client.put(format!("small/{}", n % 50), "x").await.map(|_| ()) });
            if n % 4 == 3 {
                while let Some(written) = writes.join_next().await {
                    written.expect("a write ends well").expect("the ring can be written");
                }
            }
        }
        let statuses = ring.wait_ready().await;
        if statuses.iter().all(|s| s.purged_index > index) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the logs are not cut past {index}: {statuses:#?}");
    }
}

fn segments(ring: &Ring, id: u64, shard: u32) -> Vec<PathBuf> {
    files(ring, id, shard, "log", "wal-")
}

fn files(ring: &Ring, id: u64, shard: u32, below: &str, prefix: &str) -> Vec<PathBuf> {
    let dir = ring.node(id).data.join(format!("shard-{shard}")).join(below);
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .expect("the directory can be read")
        .map(|e| e.expect("the directory can be read").path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .collect();
    files.sort();
    files
}

/// Waits for the fault of a shard of node `id`.
async fn fault_of(ring: &Ring, id: u64, shard: u32) -> String {
    let is = |s: &&Status| s.node == id && s.shard == shard && s.fault.is_some();
    let statuses = ring.wait_for("the shard says what is wrong", SOON, |s| s.iter().any(|s| is(&s))).await;
    statuses.iter().find(is).and_then(|s| s.fault.clone()).expect("it was seen")
}

// ---- limits that are changed from node to node ----

/// A leader whose limits are raised already sent entries that the others refused by the length of their frames, again and again, and
/// said so nowhere: its shard took no more writes.
#[tokio::test]
async fn entries_larger_than_a_followers_own_limits_are_taken_or_refused_by_name() {
    let extra = "[limits]\nvalue_bytes_max = 65536\nbatch_bytes_max = 262144\n[log]\nsegment_bytes = 16777216\n";
    let mut ring = Ring::prepare("limits", Plan { extra: extra.to_string(), ..Plan::default() });
    ring.configure(1, "value_bytes_max = 65536", "value_bytes_max = 4194304");
    ring.configure(3, "segment_bytes = 16777216", "segment_bytes = 4194304");
    (1..=3).for_each(|id| ring.spawn(id));
    ring.wait_ready().await;
    let (client, began) = (ring.client().await.with_timeout(SOON), Instant::now());
    // Whoever leads meanwhile refuses it for its size.
    while client.put("large", vec![7; 3 << 20]).await.is_err() {
        assert!(began.elapsed() < 2 * SOON, "the ring takes no large value\n{}", ring.tails());
        ringbeam_at(&ring.endpoints(), &["ring", "transfer", "--to", "1"]).await;
    }
    ring.wait_said(3, "raise log.segment_bytes").await;
    assert!(ring.said(3).contains("bytes, the log of this node takes 20"), "{}", ring.tail(3));
    assert!(!ring.said(3).contains("panicked"), "{}", ring.tail(3));
    client.put("small", "x").await.expect("two of three go on");
    ring.kill(3);
    ring.configure(3, "segment_bytes = 4194304", "segment_bytes = 16777216");
    ring.spawn(3);
    ring.wait_converged().await;
}

/// The log of a young shard was replayed under whatever limits the configuration said, and its state became another one.
#[tokio::test]
async fn limits_that_are_fixed_with_the_ring_refuse_a_start_under_others_by_name() {
    let (made_with, other) = ("session_window_count = 64", "session_window_count = 65");
    let extra = SMALL_LOG.replace("[limits]", &format!("[limits]\n{made_with}"));
    let mut ring = Ring::start("fixed-limits", Plan { extra, ..Plan::default() }).await;
    let client = ring.client().await;
    client.put("key", "value").await.expect("the ring can be written");
    let noted = |ring: &Ring| files(ring, 3, 0, "", "limits-");
    let [file] = &noted(&ring)[..] else { panic!("one file says the limits: {:?}", noted(&ring)) };
    assert!(file.ends_with("limits-65536-64-16777216-900000"), "{file:?}");

    ring.kill(3);
    ring.configure(3, made_with, other);
    ring.spawn(3);
    let why = fault_of(&ring, 3, 0).await;
    let said = "limits-65536-64-16777216-900000: this shard was made with limits.session_window_count = 64, now it is 65";
    assert!(why.contains(said) && why.ends_with("set it back to 64"), "{why}");

    ring.kill(3);
    ring.configure(3, other, made_with);
    ring.spawn(3);
    ring.wait_converged().await;

    // A directory from before the limits were noted.
    ring.kill(3);
    fs::remove_file(file).expect("the file can be removed");
    ring.spawn(3);
    ring.wait_converged().await;
    assert_eq!(noted(&ring).first(), Some(file));
}

// ---- taking turns ----

#[tokio::test]
async fn nodes_take_their_snapshots_one_after_the_other() {
    let extra = SMALL_LOG.replace("snapshot_after_bytes = 2097152", "snapshot_after_bytes = 6291456");
    let ring = Ring::start("in-turn", Plan { shards: 1, extra, ..Plan::default() }).await;
    let client = ring.client().await;
    // Each step: nodes that have a snapshot. A part of 2 MiB is four steps.
    let mut steps: Vec<usize> = Vec::new();
    while steps.last() != Some(&3) {
        assert!(steps.len() < 40, "after so many steps: {steps:?}");
        fill(&client, "turn", 512 << 10).await;
        // Longer than a node takes to notice.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let have: Vec<u64> = ring.wait_ready().await.iter().filter(|s| s.snapshot_index > 0).map(|s| s.node).collect();
        assert!((1..).zip(&have).all(|(turn, node)| turn == *node), "it was not the turn of one of {have:?}, after {steps:?}");
        steps.push(have.len());
    }
    assert!((1..=2).all(|have| steps.contains(&have)), "some at once: {steps:?}");
}

// ---- catching up ----

#[tokio::test]
async fn a_node_far_behind_catches_up_by_snapshot() {
    let mut ring = Ring::start("by-snapshot", plan(1)).await;
    let client = ring.client().await;
    fill(&client, "before", 1 << 20).await;
    ring.wait_converged().await;
    let stopped_at = ring.status(&client, 3, 0).await.expect("it answers").last_index;
    ring.kill(3);
    truncate_past(&ring, &client, stopped_at).await;
    let load = Load::start(&client, 2);
    ring.spawn(3);
    let arrived = |s: &[Status]| s.iter().any(|s| s.node == 3 && s.snapshot_index > stopped_at && s.purged_index > stopped_at);
    ring.wait_for("node 3 has a snapshot that it did not make", SOON, arrived).await;
    load.check(&client).await;
    ring.wait_converged().await;

    // Snapshot and log together are the state again.
    for id in 1..=3 {
        ring.kill(id);
    }
    for id in 1..=3 {
        ring.spawn(id);
    }
    ring.wait_converged().await;
    let value = client.with_timeout(SOON).get("before/0").await.expect("the ring can be read");
    assert_eq!(value.map(|v| v.value.len()), Some(32 << 10));
}

#[tokio::test]
async fn a_snapshot_that_is_cut_off_begins_again() {
    let mut ring = Ring::start("cut-off", plan(1)).await;
    let client = ring.client().await;
    fill(&client, "large", 24 << 20).await;
    let lagging = ring.leader(0).await % 3 + 1;
    ring.wait_converged().await;
    let stopped_at = ring.status(&client, lagging, 0).await.expect("it answers").last_index;
    ring.kill(lagging);
    truncate_past(&ring, &client, stopped_at).await;

    let incoming = ring.node(lagging).data.join("shard-0/incoming.tmp");
    let mut seen = 0;
    for round in 0..4u64 {
        ring.spawn(lagging);
        let began = Instant::now();
        // As soon as the snapshot arrives, and each time a little later.
        while !incoming.exists() && began.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(round * 5)).await;
        seen += u64::from(incoming.exists());
        if round % 2 == 0 {
            ring.kill(lagging);
        } else {
            let leader = ring.leader(0).await;
            ring.kill(leader);
            ring.kill(lagging);
            ring.spawn(leader);
            ring.wait_ready().await;
        }
    }
    assert!(seen > 0, "no transfer was caught in the middle");
    ring.spawn(lagging);
    ring.wait_converged().await;
    assert!(!incoming.exists());
    let status = ring.status(&client, lagging, 0).await.expect("it answers");
    assert!(status.snapshot_index > stopped_at, "{status:?}");
}

#[tokio::test]
async fn restarted_nodes_replay_to_equal_states() {
    let mut ring = Ring::start("replay", plan(2)).await;
    let client = ring.client().await;
    let load = Load::with_values(&client, 4, 16 << 10, Duration::from_millis(1));
    for id in 1..=3 {
        load.goes_on(150, SOON).await;
        ring.kill(id);
        load.goes_on(50, SOON).await;
        ring.spawn(id);
        ring.wait_ready().await;
    }
    for id in 1..=3 {
        ring.kill(id);
    }
    for id in 1..=3 {
        ring.spawn(id);
    }
    load.goes_on(50, SOON).await;
    load.check(&client).await;
    ring.wait_converged().await;
}

// ---- damage ----

#[tokio::test]
async fn a_rotten_log_is_refused_by_name_and_the_other_shard_serves() {
    let mut ring = Ring::start("rot", plan(2)).await;
    let client = ring.client().await;
    fill(&client, "some", 1 << 20).await;
    ring.wait_converged().await;
    ring.terminate(3);
    let segment = segments(&ring, 3, 0).remove(0);
    let good = fs::read(&segment).expect("the segment can be read");
    let mut bad = good.clone();
    // Block 0 is the header; this is in an early flush of some 150.
    let at = 3 * BLOCK_BYTES + 100;
    bad[at] ^= 0x10;
    fs::write(&segment, bad).expect("the segment can be written");

    ring.spawn(3);
    let fault = fault_of(&ring, 3, 0).await;
    let name = segment.file_name().expect("it has a name").to_string_lossy().into_owned();
    let offset = format!("offset {}", 3 * BLOCK_BYTES);
    assert!(fault.contains(&name) && fault.contains(&offset), "{name}, {offset}: {fault}");
    let (code, out, err) = ringbeam_at(&ring.endpoints(), &["status"]).await;
    assert!(code == 0 && out.contains("shard 0 on node 3 does not serve") && out.contains(&offset), "{out}{err}");
    let other = ring.status(&client, 3, 1).await.expect("shard 1 answers");
    assert!(other.fault.is_none() && other.keys > 0, "{other:?}");
    // The ring goes on: both shards, without node 3 in shard 0.
    let load = Load::start(&client, 2);
    load.goes_on(30, SOON).await;

    // The file restored, the shard comes back.
    ring.terminate(3);
    fs::write(&segment, good).expect("the segment can be written");
    ring.spawn(3);
    load.goes_on(30, SOON).await;
    load.check(&client).await;
    ring.wait_converged().await;
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_refilled() {
    let mut ring = Ring::start("torn", plan(1)).await;
    let client = ring.client().await;
    let load = Load::start(&client, 2);
    load.goes_on(50, SOON).await;
    let follower = ring.leader(0).await % 3 + 1;
    ring.kill(follower);
    // The newest segment may be prepared and not begun.
    let written = |block: &[u8]| block.get(4..7) == Some(b"RBB");
    let (segment, mut bytes, last) = segments(&ring, follower, 0)
        .into_iter()
        .rev()
        .find_map(|segment| {
            let bytes = fs::read(&segment).expect("the segment can be read");
            let last = bytes.chunks(BLOCK_BYTES).rposition(written)?;
            Some((segment, bytes, last))
        })
        .expect("something was written");
    assert!(last > 1, "there is more than one");
    bytes[last * BLOCK_BYTES..(last + 1) * BLOCK_BYTES].fill(0);
    fs::write(&segment, bytes).expect("the segment can be written");
    ring.spawn(follower);
    load.goes_on(50, SOON).await;
    load.check(&client).await;
    let statuses = ring.wait_converged().await;
    assert!(statuses.iter().all(|s| s.fault.is_none()));
}

#[tokio::test]
async fn a_rotten_snapshot_is_refused_by_name() {
    let mut ring = Ring::start("rotten-snapshot", plan(1)).await;
    let client = ring.client().await;
    fill(&client, "some", 6 << 20).await;
    ring.wait_for("node 3 has a snapshot", SOON, |s| s.iter().any(|s| s.node == 3 && s.snapshot_index > 0)).await;
    ring.wait_converged().await;
    ring.terminate(3);
    let snapshot = files(&ring, 3, 0, "", "snapshot-").pop().expect("there is a snapshot");
    let mut bytes = fs::read(&snapshot).expect("the snapshot can be read");
    bytes[300_000] ^= 1;
    fs::write(&snapshot, bytes).expect("the snapshot can be written");
    ring.spawn(3);
    let fault = fault_of(&ring, 3, 0).await;
    let name = snapshot.file_name().expect("it has a name").to_string_lossy().into_owned();
    assert!(fault.contains(&name) && fault.contains("checksum"), "{fault}");
    client.with_timeout(SOON).put("still", "written").await.expect("two of three can write");
}

/// Where a shard does not start, whoever asks for what the shard would take is told why. What is longer is no request at all; before, a put
/// of the largest value that is allowed was that, too, and its client was left without an answer.
#[tokio::test]
async fn a_shard_that_did_not_start_answers_also_the_largest_put() {
    let mut ring = Ring::start("rot-large", Plan { nodes: 1, ..Plan::default() }).await;
    fill(&ring.client().await, "some", 1 << 20).await;
    ring.terminate(1);
    let segment = segments(&ring, 1, 0).remove(0);
    let mut bytes = fs::read(&segment).expect("the segment can be read");
    bytes[3 * BLOCK_BYTES + 100] ^= 0x10;
    fs::write(&segment, bytes).expect("the segment can be written");
    ring.spawn(1);
    ring.wait_said(1, "the shard does not start").await;

    let address = ring.node(1).client.clone();
    let mut raw = Raw::greeted(&address, 0);
    for _ in 0..2 {
        assert_eq!(raw.ask(&raw::put(b"key", &vec![7; 1 << 20])).code(), Some(Code::ShardFault));
        assert_eq!(raw.ask(&RequestBody::Ping).code(), Some(Code::ShardFault));
    }
    let (_, frame) = raw.frame(0, &raw::put(b"key", &vec![7; 2 << 20]));
    // What is behind its length would be in the way of the answer.
    assert_eq!(raw.after(&frame[..100]).code(), Some(Code::BadRequest));
    assert_eq!(Raw::greeted(&address, 0).after(b"GET / HTTP/1.1\r\nHost: ringbeam\r\n\r\n").code(), Some(Code::BadRequest));
}

// ---- descriptors ----

/// Clients that held the last descriptors stopped the shard that was to make a file for its snapshot.
#[tokio::test]
async fn a_snapshot_that_finds_no_descriptor_is_taken_later() {
    let ring = Ring::start("descriptors", Plan { nodes: 1, ..plan(1) }).await;
    let client = ring.client().await;
    fill(&client, "some", 64 << 10).await;
    // The log has the next segment already.
    let began = Instant::now();
    while segments(&ring, 1, 0).len() < 2 {
        assert!(began.elapsed() < SOON, "the log makes no segment ahead");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ring.wait_ready().await;
    let pid = ring.pid(1).expect("it runs");
    // What is open stays open.
    let before = limit_descriptors(pid, 3);
    fill(&client, "some", 5 << 19).await;
    ring.wait_said(1, "no room for a snapshot").await;
    fill(&client, "more", 64 << 10).await;
    limit_descriptors(pid, before);
    ring.wait_for("it has a snapshot", SOON, |s| s.iter().any(|s| s.snapshot_index > 0)).await;
    fill(&client, "more", 64 << 10).await;
}

/// Sets how many descriptors a process may open; how many it could before.
fn limit_descriptors(pid: u32, count: u64) -> u64 {
    let pid = libc::pid_t::try_from(pid).expect("a process id");
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives across the call, which fills it.
    assert_eq!(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) }, 0);
    let before = std::mem::replace(&mut limit.rlim_cur, count);
    // SAFETY: `limit` is filled and lives across the call.
    assert_eq!(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) }, 0);
    before
}

#[test]
fn connections_that_do_not_fit_the_descriptors_are_refused_by_name() {
    let ring = Ring::prepare("too-few", Plan { nodes: 1, extra: "[limits]\nconnections_max = 30000\n".into(), ..plan(1) });
    let serve = ["-c", "ulimit -n 4096 && exec timeout 20 \"$0\" serve --config \"$1\"", env!("CARGO_BIN_EXE_ringbeam")];
    let out = Command::new("sh").args(serve).arg(&ring.node(1).config).output().expect("a shell runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    for word in ["limits.connections_max = 30000", "may open 4096", "LimitNOFILE=", "to 3784 at most"] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
}

// ---- founding ----

#[tokio::test]
async fn crashes_while_founding_found_one_ring() {
    for round in 0..4u64 {
        let mut ring = Ring::start_founding(&format!("founding-{round}"), plan(2));
        // The coordinator dies several times, each time a little later, and with it once another one.
        for crash in 0..5u64 {
            ring.spawn(1);
            tokio::time::sleep(Duration::from_millis(40 + 45 * crash + 11 * round)).await;
            ring.kill(1);
            if crash == 2 {
                ring.kill(2);
                ring.spawn(2);
            }
        }
        ring.spawn(1);
        let statuses = ring.wait_ready().await;
        let client = ring.client().await;
        client.with_timeout(SOON).put("founded", "once").await.expect("the ring can be written");
        let statuses = [statuses, ring.wait_converged().await].concat();
        assert!(statuses.iter().all(|s| s.ring == statuses[0].ring && s.ring != 0));
        // None, when it died between saving the ring and saying so.
        assert!(ring.said(1).matches("ring founded").count() <= 1, "{}", ring.said(1));
        let told: Vec<u64> = statuses.iter().filter(|s| s.shard == 0).map(|s| s.node).collect();
        assert!((1..=3).all(|id| told.contains(&id)), "{told:?}");
    }
}
