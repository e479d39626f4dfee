//! The commands as a person and a script meet them: wrong files and arguments, values through pipes, exit codes, the SDK's
//! example, and disks that are no disks or are full.

mod ring;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ring::disk::SmallDisk;
use ring::raw::{self, Raw};
use ring::skip::{Need, skipped};
use ring::{Plan, Ring, SMALL_LOG, free_port, ringbeam};
use ringbeam_sdk::{Client, Error};
use ringbeam_wire::refusal::Code;
use serde_json::Value;

/// The example of the SDK's documentation, as it is.
#[path = "../wire/sdk/rust/examples/hello.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod hello;

fn small(nodes: u64) -> Plan {
    Plan { nodes, extra: SMALL_LOG.into(), ..Plan::default() }
}

/// Runs the binary with something on its standard input; (exit code, stdout, stderr).
fn with_input(args: &[&str], input: &[u8]) -> (i32, Vec<u8>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringbeam"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let input = input.to_vec();
    // A command that does not read to the end closes the pipe.
    let feeds = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let out = child.wait_with_output().expect("it ends");
    feeds.join().expect("the input was offered");
    (out.status.code().unwrap_or(-1), out.stdout, String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn serve_refuses_a_wrong_file_by_name_and_line() {
    let dir = PathBuf::from(format!("/var/tmp/ringbeam-cli-config-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory can be made");
    let good = format!(
        "[node]\nid = 1\ndata_dir = {:?}\n[ring]\nfounders = [{{ id = 1, peer = \"127.0.0.1:7702\" }}]\n",
        dir.join("data")
    );
    let serve = |text: &str| {
        let path = dir.join("node.toml");
        fs::write(&path, text).expect("a file can be written");
        ringbeam(&["serve", "--config", path.to_str().expect("a path in letters")])
    };
    for (text, says) in [
        (good.replace("data_dir", "datadir"), vec!["node.toml", "line 3", "datadir"]),
        (format!("{good}[limits]\nvalue_bytes = 5\n"), vec!["line 7", "value_bytes"]),
        (format!("{good}[surprise]\n"), vec!["line 6", "surprise"]),
        (good.replace("id = 1\n", "id = \"one\"\n"), vec!["line 2", "id"]),
        (good.replace("id = 1\n", "id = 0\n"), vec!["node.id"]),
        (format!("{good}[limits]\nvalue_bytes_max = 99999999\n"), vec!["limits.value_bytes_max", "16777216"]),
        (format!("{good}[limits]\nqueue_bytes_max = 1\n"), vec!["limits.queue_bytes_max", "at least"]),
        (format!("{good}[log]\nsegment_bytes = 5000\n"), vec!["log.segment_bytes", "4096"]),
        (format!("{good}[timers]\nheartbeat_ms = 400\n"), vec!["election_timeout_min_ms", "heartbeat_ms"]),
        (format!("{good}[listen]\npeer = \"nowhere\"\n"), vec!["listen.peer", "host:port"]),
        (good.replace("[ring]", "role = \"king\"\n[ring]"), vec!["king", "tie-breaker"]),
        ("not toml at all".to_string(), vec!["line 1"]),
        (String::new(), vec!["node.id"]),
    ] {
        let (code, out, said) = serve(&text);
        assert_eq!((code, out.as_str()), (2, ""), "{text}\n{said}");
        for word in says {
            assert!(said.contains(word), "{word:?} is not in {said:?} for\n{text}");
        }
    }
    assert!(!dir.join("data").exists(), "a wrong file makes nothing");
    let (code, _, said) = ringbeam(&["serve", "--config", "/nowhere/node.toml"]);
    assert!(code == 2 && said.contains("/nowhere/node.toml"), "{code}: {said}");
    let (code, _, said) = ringbeam(&["serve"]);
    assert!(code == 2 && said.contains("--config"), "{code}: {said}");
    let _ = fs::remove_dir_all(dir);
}

#[tokio::test]
async fn keys_and_values_go_through_arguments_files_and_pipes_byte_for_byte() {
    let ring = Ring::start("cli", small(3)).await;
    let endpoints = ring.endpoints();
    let run = |args: &[&str], input: &[u8]| with_input(&[args, &["--endpoints", &endpoints]].concat(), input);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();

    // 1: no value. 0: put and get, by argument.
    let (code, out, said) = run(&["get", "k"], b"");
    assert!(code == 1 && out.is_empty() && said.contains("no value"), "{code}: {said}");
    let (code, out, said) = run(&["put", "k", "value"], b"");
    assert_eq!((code, said.as_str()), (0, ""));
    let revision = text(&out);
    assert!(revision.trim().split('.').all(|n| n.parse::<u64>().is_ok()) && revision.ends_with('\n'), "{revision:?}");
    assert_eq!(run(&["get", "k"], b""), (0, b"value".to_vec(), String::new()), "no newline in a pipe");
    assert_eq!(run(&["get", "k", "--consistency", "local"], b"").0, 0);

    // Every byte there is, through a pipe, a file and back.
    let bytes: Vec<u8> = (0..=255u8).cycle().take(40_000).collect();
    assert_eq!(run(&["put", "piped"], &bytes).0, 0);
    assert_eq!(run(&["get", "piped"], b"").1, bytes);
    assert_eq!(run(&["put", "dash", "-"], &bytes).0, 0);
    assert_eq!(run(&["get", "dash"], b"").1, bytes);
    let file = ring.root.join("value");
    fs::write(&file, &bytes).expect("a file can be written");
    let file = file.to_str().expect("a path in letters");
    assert_eq!(run(&["put", "filed", "--file", file], b"not this").0, 0);
    assert_eq!(run(&["get", "filed"], b"").1, bytes);
    assert_eq!(run(&["put", "empty"], b"").0, 0);
    assert_eq!(run(&["get", "empty"], b""), (0, Vec::new(), String::new()), "an empty value is a value");

    // Namespaces are apart.
    assert_eq!(run(&["put", "k", "elsewhere", "--namespace", "n"], b"").0, 0);
    assert_eq!(run(&["get", "k"], b"").1, b"value");
    assert_eq!(run(&["get", "k", "--namespace", "n"], b"").1, b"elsewhere");
    assert_eq!(run(&["get", "k", "--namespace", "m"], b"").0, 1);

    // JSON.
    let json = |args: &[&str]| -> (i32, Value) {
        let (code, out, said) = run(&[args, &["--json"]].concat(), b"");
        (code, serde_json::from_slice(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {said}")))
    };
    let (code, found) = json(&["get", "k"]);
    assert_eq!(
        (code, &found["found"], &found["value"], &found["encoding"]),
        (0, &true.into(), &"value".into(), &"utf8".into())
    );
    let (code, found) = json(&["get", "piped"]);
    assert_eq!((code, &found["encoding"]), (0, &"base64".into()));
    let (code, missing) = json(&["get", "nothing"]);
    assert!(code == 1 && missing["found"] == false && missing["index"].is_u64() && missing["stale"] == false, "{missing}");
    // A session goes on in another process, at any node; a bound is kept; what does not fit is refused before anything is asked.
    let (_, written) = json(&["put", "k2", "mine"]);
    let token = written["token"].as_str().expect("a write says what the session has seen");
    let (code, found) = json(&["get", "k2", "--consistency", "session", "--token", token]);
    assert!(code == 0 && found["value"] == "mine" && found["token"].is_string(), "{found}");
    let (code, found) = json(&["get", "k2", "--consistency", "bounded", "--max-age", "5s"]);
    assert!(code == 0 && found["age_ms"].as_u64().is_some_and(|age| age <= 5000), "{found}");
    assert_eq!(run(&["get", "k2", "--consistency", "bounded"], b"").0, 2);
    assert_eq!(run(&["get", "k2", "--token", "AAAA"], b"").0, 2);
    assert_eq!(run(&["delete", "k2"], b"").0, 0);
    let (code, written) = json(&["put", "k", "again"]);
    assert_eq!((code, &written["existed"]), (0, &true.into()));
    for part in ["queue_us", "fsync_us", "quorum_us", "apply_us"] {
        assert!(written["breakdown"][part].is_u64(), "{part} in {written}");
    }

    let (code, _, said) = run(&["delete", "k"], b"");
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(run(&["get", "k"], b"").0, 1);
    let (code, _, said) = run(&["delete", "k"], b"");
    assert!(code == 0 && said.contains("had no value"), "{code}: {said}");

    // 2: wrong here. 3: refused there. 5: nobody there.
    let (code, _, said) = run(&["put", "k", "--file", "/nowhere/value"], b"");
    assert!(code == 2 && said.contains("/nowhere/value"), "{code}: {said}");
    let (code, _, said) = run(&["put"], b"");
    assert!(code == 2 && said.contains("<KEY>"), "{code}: {said}");
    let (code, _, said) = run(&["put", "large"], &vec![0; 65_537]);
    assert!(code == 3 && said.contains("65536"), "{code}: {said}");
    let (code, _, said) = run(&["put", &"k".repeat(4097), "v"], b"");
    assert!(code == 3 && said.contains("4096"), "{code}: {said}");
    let nobody = format!("127.0.0.1:{}", free_port());
    let (code, _, said) = with_input(&["get", "k", "--timeout-ms", "500", "--endpoints", &nobody], b"");
    assert!(code == 5 && said.contains(&nobody), "{code}: {said}");

    status(&endpoints);
    hello::hello(&endpoints).await.expect("the example of the documentation works");
    assert_eq!(run(&["get", "greeting"], b"").1, b"hello");
    outcomes_without_a_quorum(ring, &endpoints).await;
}

fn status(endpoints: &str) {
    let (code, out, said) = ringbeam(&["status", "--endpoints", endpoints]);
    assert_eq!(code, 0, "{said}");
    assert!(out.contains("leader") || out.contains("LEADER"), "{out}");
    let (code, out, said) = ringbeam(&["status", "--json", "--endpoints", endpoints]);
    assert_eq!(code, 0, "{said}");
    let status: Value = serde_json::from_str(&out).expect("JSON");
    let shard = &status["shards"][0];
    assert_eq!(shard["shard"], 0);
    for key in ["leader", "term", "last_index", "committed_index", "applied_index"] {
        assert!(shard[key].as_u64().is_some_and(|n| n > 0), "{key} in {shard}");
    }
    let voters = shard["voters"].as_array().expect("voters");
    assert_eq!(voters.len(), 3);
    assert!(voters.iter().all(|v| v["lag"].is_u64() && v["node"].is_u64() && v["matched"].is_u64()), "{voters:?}");
    let nodes = status["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 3);
    for node in nodes {
        assert_eq!(node["reachable"], true);
        assert_eq!(node["role"], "voter");
        assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
        assert!(node["uptime_ms"].is_u64(), "{node}");
    }
}

/// 4: the outcome is unknown. 5 or 4: no quorum, said within the time that was given.
async fn outcomes_without_a_quorum(ring: Ring, endpoints: &str) {
    let leader = ring.settled_leader(0).await;
    let others: Vec<u32> = [1, 2, 3].iter().filter(|id| **id != leader).filter_map(|id| ring.pid(*id)).collect();
    others.iter().for_each(|pid| ring::signal(*pid, "STOP"));
    let at = ring.node(leader).client.clone();
    let began = Instant::now();
    let (code, _, said) = ringbeam(&["put", "unknown", "v", "--timeout-ms", "1500", "--endpoints", &at]);
    assert!(code == 4 || code == 5, "{code}: {said}");
    assert!(began.elapsed() < Duration::from_secs(10), "put took {:?}", began.elapsed());
    let began = Instant::now();
    let (code, _, said) = ringbeam(&["get", "greeting", "--timeout-ms", "1500", "--endpoints", &at]);
    assert!(code == 3 || code == 5, "a linearizable read without a quorum: {code}: {said}");
    assert!(began.elapsed() < Duration::from_secs(10), "get took {:?}", began.elapsed());
    let (code, out, said) = ringbeam(&["get", "greeting", "--consistency", "local", "--endpoints", &at]);
    assert_eq!((code, out.as_str()), (0, "hello"), "{said}");
    others.iter().for_each(|pid| ring::signal(*pid, "CONT"));
    ring.wait_ready().await;
    let (code, _, said) = ringbeam(&["put", "again", "v", "--timeout-ms", "20000", "--endpoints", endpoints]);
    assert_eq!(code, 0, "{said}");
}

/// `delete-range "$PREFIX"` with a variable that was never set deleted all keys of the namespace.
#[tokio::test]
async fn delete_range_takes_no_empty_word_for_all_keys() {
    let ring = Ring::start("cli-empty", small(1)).await;
    let endpoints = ring.endpoints();
    assert_eq!(ring::ringbeam_at(&endpoints, &["put", "k", "v"]).await.0, 0);
    for (args, says) in [
        (&[""][..], "the prefix is empty"),
        (&["--from", ""], "--from is empty"),
        (&["--until", ""], "--until is empty"),
        (&["--from", "", "--until", ""], "--until is empty"),
        (&["--from", "a", "--until", ""], "--until is empty"),
    ] {
        let (code, out, said) = ring::ringbeam_at(&endpoints, &[&["delete-range"], args].concat()).await;
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let deletes = async |args: &[&str]| ring::ringbeam_at(&endpoints, &[&["delete-range"], args].concat()).await.1;
    assert_eq!(deletes(&["--from", "", "--until", "k"]).await, "0\n", "what is before a key has no first one");
    assert_eq!(deletes(&["--all"]).await, "1\n", "it was still there");
}

#[tokio::test]
async fn disk_in_memory_is_refused_unless_it_is_allowed_by_name() {
    let shm = PathBuf::from(format!("/dev/shm/ringbeam-cli-{}", std::process::id()));
    if fs::create_dir_all(&shm).is_err() {
        skipped("disk_in_memory_is_refused_unless_it_is_allowed_by_name", Need::Memory, "no /dev/shm to write to");
        return;
    }
    let mut ring = Ring::prepare("memory", small(1));
    let config = ring.node(1).config.clone();
    let text = fs::read_to_string(&config).expect("it was written");
    let in_memory = text.replace(ring.node(1).data.to_str().expect("letters"), shm.join("data").to_str().expect("letters"));
    fs::write(&config, &in_memory).expect("it can be written");
    ring.spawn(1);
    assert_eq!(ring.wait_end(1, Duration::from_secs(20)), Some(1));
    let said = ring.tail(1);
    for word in ["tmpfs", "real disk", "allow_volatile_disk"] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    fs::write(&config, in_memory.replace("[node]\n", "[node]\nallow_volatile_disk = true\n")).expect("it can be written");
    ring.spawn(1);
    ring.wait_ready().await;
    assert!(ring.tail(1).contains("WARN"), "{}", ring.tail(1));
    let client = ring.client().await;
    client.put("k", "v").await.expect("it works");
    ring.kill(1);
    let _ = fs::remove_dir_all(shm);
}

/// Writes that were acknowledged, and what was said to the others.
#[derive(Default)]
struct Tally {
    acknowledged: Vec<u32>,
    refused: Vec<Code>,
    other: Vec<String>,
}

fn value_of(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(12_000)
}

impl Tally {
    /// Writes the next `count` numbered keys of 48 kB.
    async fn write(&mut self, client: &Client, count: u32) -> u32 {
        let mut acknowledged = 0;
        for _ in 0..count {
            let n = (self.acknowledged.len() + self.refused.len() + self.other.len()) as u32;
            match client.put(format!("n{}", n % 64), value_of(n)).await {
                Ok(_) => {
                    self.acknowledged.push(n);
                    acknowledged += 1;
                }
                Err(Error::Refused(refusal)) => self.refused.push(refusal.code),
                Err(e) => self.other.push(e.to_string()),
            }
        }
        acknowledged
    }

    /// Writes until two in a row are refused: what the logs had prepared is used up. Reads go on meanwhile.
    async fn write_until_full(&mut self, client: &Client, ring: &Ring) {
        let began = Instant::now();
        while self.write(client, 2).await > 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "full disks take more and more");
        }
        println!("full: {:?}, {:?}", self.refused, self.other);
        self.check(client).await;
        assert!(self.refused.contains(&Code::DiskFull), "{:?} {:?}\n{}", self.refused, self.other, ring.tails());
        assert!(self.refused.iter().all(|code| *code == Code::DiskFull), "{:?}", self.refused);
        // The SDK tries again until its deadline; the node says it at once.
        let leader = ring.node(ring.settled_leader(0).await).client.clone();
        let (began, mut raw) = (Instant::now(), Raw::greeted(&leader, 0));
        assert_eq!(raw.ask(&raw::put(b"n0", b"v")).code(), Some(Code::DiskFull));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    /// Each key has its newest acknowledged value, or a newer one whose fate was open.
    async fn check(&self, client: &Client) {
        for key in 0..64 {
            let Some(newest) = self.acknowledged.iter().rev().find(|n| **n % 64 == key) else { continue };
            let found = client.get(format!("n{key}")).await.expect("reads go on").expect("it was acknowledged");
            let n = u32::from_le_bytes(found.value[..4].try_into().expect("four bytes"));
            assert!(n % 64 == key && n >= *newest, "n{key} has {n}, acknowledged was {newest}");
            assert!(found.value[..] == value_of(n)[..], "the value of n{key} is whole");
        }
    }
}

/// Three nodes, each on a small disk of its own, for a test of this name. The disks are dropped before the ring, which removes the
/// directory that they are mounted in. `None`: this machine has none of them. One that has some, but not all, fails the test.
async fn ring_on_small_disks(test: &str) -> Option<(Ring, Vec<SmallDisk>)> {
    let extra = SMALL_LOG.replace("snapshot_after_bytes = 2097152", "snapshot_after_bytes = 12582912");
    let mut ring = Ring::prepare("small-disks", Plan { extra, ..Plan::default() });
    let mut disks = Vec::new();
    for id in 1..=3 {
        match SmallDisk::new(&ring.root, &format!("disk-{id}"), 96) {
            Ok(disk) => disks.push(disk),
            Err(why) => {
                assert!(disks.is_empty(), "{test}: {} small disks of 3, then: {why}", disks.len());
                drop(ring);
                skipped(test, Need::LoopDevices, &why);
                return None;
            }
        }
        fs::create_dir_all(disks[id as usize - 1].mount.join("data")).expect("a new disk has room");
        symlink(disks[id as usize - 1].mount.join("data"), &ring.node(id).data).expect("a link can be made");
        ring.spawn(id);
    }
    ring.wait_ready().await;
    Some((ring, disks))
}

async fn hurried(ring: &Ring) -> Client {
    let client = Client::builder().endpoints([ring.endpoints()]).timeout(Duration::from_secs(2)).connect().await;
    client.expect("the ring is ready")
}

/// The leader and its term, once it stays for a while: full nodes do not hand leadership round.
async fn quiet_leader(ring: &Ring) -> (u64, u64) {
    let (began, mut leader) = (Instant::now(), ring.settled(0).await);
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let later = ring.settled(0).await;
        if later == leader {
            return leader;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "full nodes hand leadership round:\n{}", ring.tails());
        leader = later;
    }
}

/// How often nodes have said that their full disks have room again.
fn times_roomy(ring: &Ring) -> usize {
    (1..=3).map(|id| ring.said(id).matches("the disk has room again").count()).sum()
}

/// Space is there again: writes go on, nothing was lost, and what was kept is on disk as well.
async fn recovers(ring: &mut Ring, client: &Client, tally: &mut Tally) {
    let began = Instant::now();
    while tally.write(client, 1).await == 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "writes do not go on: {:?} {:?}", tally.refused, tally.other);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(tally.write(client, 64).await > 0);
    ring.wait_converged().await;
    tally.check(client).await;
    (1..=3).for_each(|id| ring.kill(id));
    (1..=3).for_each(|id| ring.spawn(id));
    ring.wait_ready().await;
    tally.check(client).await;
    (1..=3).for_each(|id| ring.kill(id));
}

/// The name of the next one.
const FULL_DISK: &str = "full_disk_refuses_writes_loses_nothing_and_clears_itself";

/// It was not: the harness keeps what a passing test prints. Here a run of this program finds no command that makes disks.
#[test]
fn what_a_machine_lacks_is_said_by_name_and_is_a_failure_where_it_was_there() {
    let list = PathBuf::from(format!("/var/tmp/ringbeam-test-skipped-{}", std::process::id()));
    let run = |must_run: &str| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", FULL_DISK]).env("PATH", "/nowhere").stdin(Stdio::null());
        let out = command.env("RINGBEAM_SKIPPED", &list).env("RINGBEAM_MUST_RUN", must_run).output().expect("it runs again");
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (passed, said) = run("Memory Mounts");
    let listed = fs::read_to_string(&list);
    let _ = fs::remove_file(&list);
    assert!(passed && said.starts_with(&format!("SKIPPED {FULL_DISK} (LoopDevices): mkfs.ext4")), "{said}");
    assert_eq!(listed.expect("the list is made"), said);
    let (passed, said) = run("Memory LoopDevices");
    assert!(!passed && !list.exists(), "what was seen to work was left out: {said}");
}

#[tokio::test]
async fn full_disk_refuses_writes_loses_nothing_and_clears_itself() {
    let Some((mut ring, disks)) = ring_on_small_disks(FULL_DISK).await else { return };
    let disk = |id: u64| &disks[id as usize - 1];
    let client = hurried(&ring).await;
    let mut tally = Tally::default();
    assert_eq!(tally.write(&client, 64).await, 64);

    // A full follower: it neither dies nor acknowledges what it cannot keep; the ring goes on without it.
    let leader = ring.settled_leader(0).await;
    let follower = if leader == 1 { 2 } else { 1 };
    disk(follower).fill();
    assert_eq!(tally.write(&client, 400).await, 400, "the others carry on: {:?} {:?}", tally.refused, tally.other);
    let standing = |statuses: &[ringbeam_sdk::Status], id: u64| statuses.iter().find(|s| s.node == id).cloned();
    let statuses = ring.wait_ready().await;
    let (l, f) = (standing(&statuses, leader).expect("it leads"), standing(&statuses, follower).expect("it answers"));
    println!(
        "leader at {} with {} log bytes, full follower at {} with {}",
        l.last_index, l.log_bytes, f.last_index, f.log_bytes
    );
    assert!(f.fault.is_none(), "{:?}", f.fault);
    assert!(f.last_index < l.last_index, "it has taken what it cannot keep");
    let matched = l.voters.iter().find(|v| v.node == follower).expect("a voter").matched;
    println!("the leader has its word up to {matched}");
    tally.check(&client).await;
    disk(follower).free();
    ring.wait_converged().await;

    // A full leader gives way to a node that has room, and the ring goes on.
    let leader = ring.settled_leader(0).await;
    disk(leader).fill();
    assert_eq!(tally.write(&client, 400).await, 400, "the others carry on: {:?} {:?}", tally.refused, tally.other);
    let next = ring.settled_leader(0).await;
    assert_ne!(next, leader, "a full node leads:\n{}", ring.tail(leader));
    tally.check(&client).await;
    disk(leader).free();
    ring.wait_converged().await;

    // All full: what was prepared is used up, then nothing is acknowledged, whoever leads; what was can be read.
    disks.iter().for_each(SmallDisk::fill);
    tally.write_until_full(&client, &ring).await;
    let mut roomy = times_roomy(&ring);
    // Who has all that is committed can be made the leader: votes and a leader's own entry find room, and a quorum answers. It may
    // give way at once to the one whose log still has room; then all is quiet.
    for round in 0..4 {
        let (leader, term) = quiet_leader(&ring).await;
        let statuses = ring.wait_ready().await;
        let last = standing(&statuses, leader).expect("it leads").last_index;
        let to = statuses.iter().find(|s| s.node != leader && s.last_index == last).expect("a quorum has all").node;
        let done = client.ring_transfer(0, to).await;
        assert!(done.is_ok(), "round {round}, to node {to}: {done:?}\n{}", ring.tail(to));
        assert!(ring.settled(0).await.1 > term, "round {round}: no election");
        tally.check(&client).await;
    }
    // Still full, unless a log has dropped what its newest snapshot covers and used a segment again: then its node has said so since.
    while tally.write(&client, 1).await > 0 {
        let began = Instant::now();
        while times_roomy(&ring) == roomy {
            assert!(began.elapsed() < Duration::from_secs(2), "a write was taken, and no node has room:\n{}", ring.tails());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tally.write_until_full(&client, &ring).await;
        roomy = times_roomy(&ring);
    }
    quiet_leader(&ring).await;

    // Who was left behind is brought up, and its disk filled again. Then the leader dies, and the full ones elect another.
    let leader = ring.settled_leader(0).await;
    let behind: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for id in &behind {
        disk(*id).free();
    }
    ring.wait_converged().await;
    for id in &behind {
        disk(*id).fill();
    }
    let (leader, _) = quiet_leader(&ring).await;
    ring.kill(leader);
    assert_ne!(ring.settled_leader(0).await, leader);
    tally.check(&client).await;
    for id in (1..=3).filter(|id| *id != leader) {
        assert!(ring.status(&client, id, 0).await.is_some_and(|s| s.fault.is_none()), "node {id}:\n{}", ring.tail(id));
    }
    disks.iter().for_each(SmallDisk::free);
    ring.spawn(leader);
    recovers(&mut ring, &client, &mut tally).await;
}

/// The story: leadership had moved to a node that had room, while the other two had none. They took its entries all the same, which
/// then waited for space in their logs. Raft answers nothing before what it has accepted is durable, so they answered no heartbeat
/// either, and could not vote: the leader lost its lease, and reads failed until there was space.
#[tokio::test]
async fn full_disk_of_followers_does_not_silence_their_leader() {
    let test = "full_disk_of_followers_does_not_silence_their_leader";
    let Some((mut ring, disks)) = ring_on_small_disks(test).await else { return };
    let client = hurried(&ring).await;
    let mut tally = Tally::default();
    assert_eq!(tally.write(&client, 64).await, 64);
    ring.wait_converged().await;
    let (leader, term) = ring.settled(0).await;
    let followers = || (1..=3).filter(|id| *id != leader).map(|id| &disks[id as usize - 1]);
    followers().for_each(SmallDisk::fill);
    tally.write_until_full(&client, &ring).await;
    assert_eq!(ring.settled(0).await, (leader, term), "it leads on");
    // Longer than a leader waits for an append: nothing gets worse with time.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) {
        tally.check(&client).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(ring.settled(0).await, (leader, term), "it leads on");
    assert_eq!(tally.write(&client, 1).await, 0, "still full");
    followers().for_each(SmallDisk::free);
    recovers(&mut ring, &client, &mut tally).await;
}

/// What is said of a namespace holds for reads of it that say nothing, and only for those.
#[tokio::test]
async fn namespaces_say_how_their_reads_are() {
    let mut ring = Ring::start("cli-namespace", small(3)).await;
    let endpoints = ring.endpoints();
    let run = async |args: &str| {
        let args: Vec<&str> = args.split(' ').map(|arg| if arg == "''" { "" } else { arg }).collect();
        ring::ringbeam_at(&endpoints, &args).await
    };
    let (code, _, said) = run("namespace get carts").await;
    assert_eq!(code, 1, "{said}");
    assert_eq!(run("namespace set carts --consistency bounded --max-age 10s").await.1, "bounded 10000\n");
    assert_eq!(run("namespace set '' --consistency session").await.0, 0);
    assert_eq!(run("namespace get carts").await.1, "bounded 10000\n");
    assert_eq!(run("namespace list").await.1, "\tsession\ncarts\tbounded 10000\n");
    let (code, _, said) = run("namespace set carts --consistency bounded").await;
    assert!(code == 2 && said.contains("--max-age"), "{code}: {said}");

    assert_eq!(run("put k v --namespace carts").await.0, 0);
    assert_eq!(run("namespace set carts --consistency local").await.0, 0);
    let client = Client::connect(&endpoints).await.expect("the ring serves");
    // What nobody understands is no reason to read otherwise than was meant.
    client.namespace(ringbeam_sdk::POLICIES).put("/odd", "as you like").await.expect("the ring serves");
    ring.wait_converged().await;
    let (code, _, said) = run("get k --namespace odd").await;
    assert!(code > 1 && said.contains("as you like") && said.contains("odd"), "{code}: {said}");

    // Without a quorum: who says local, in the call or for the namespace, is answered, and nobody else.
    let leader = ring.settled_leader(0).await;
    ring.kill_all(&[leader, leader % 3 + 1]);
    assert_eq!(run("get k --namespace carts").await, (0, "v".to_string(), String::new()));
    let carts = client.namespace_by_policy("carts").await.expect("one node is enough");
    assert!(carts.get("k").await.expect("one node is enough").is_some());
    assert_eq!(run("get k --namespace carts --consistency linearizable --timeout-ms 1000").await.0, 5);
    assert_eq!(run("get k --namespace others --timeout-ms 1000").await.0, 5);
    ring.spawn(leader);
    ring.spawn(leader % 3 + 1);
    assert_eq!(run("namespace unset carts --timeout-ms 30000").await.0, 0);
    assert_eq!(run("namespace unset carts").await.0, 1);
    assert_eq!(run("namespace get carts").await.0, 1);
}
