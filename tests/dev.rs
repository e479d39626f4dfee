//! `ringbeam dev` as a person runs it: ready with what it says, carries on when a node dies, and leaves nothing behind however
//! it ends.

mod ring;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ring::{ringbeam, signal};
use ringbeam_sdk::Client;
use serde_json::Value;

/// A busy machine founds a ring of debug builds in this time.
const READY_MAX: Duration = Duration::from_secs(40);

/// A directory that is gone afterwards.
struct Fresh(PathBuf);

impl Fresh {
    fn new(name: &str) -> Fresh {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/var/tmp/ringbeam-dev-{name}-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory can be made in /var/tmp");
        Fresh(dir)
    }

    fn ring(&self) -> PathBuf {
        self.0.join("ring")
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the files are kept in {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A running `dev`. Killed when dropped; its nodes die with it, which is tested.
struct Dev {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    json: PathBuf,
}

impl Dev {
    fn start(fresh: &Fresh, args: &[&str]) -> Dev {
        let json = fresh.0.join("dev.json");
        let _ = fs::remove_file(&json);
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringbeam"))
            .arg("dev")
            .arg("--dir")
            .arg(fresh.ring())
            .arg("--json")
            .arg(&json)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (out, lines) = channel();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| out.send(line)));
        Dev { child, lines, seen: Vec::new(), json }
    }

    /// Waits for the file of `--json`.
    fn ready(&mut self) -> Value {
        let began = Instant::now();
        loop {
            if let Ok(text) = fs::read_to_string(&self.json) {
                return serde_json::from_str(&text).expect("the file is whole once it is there");
            }
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                panic!("dev ended with {status} before it was ready: {:?}", self.output());
            }
            assert!(began.elapsed() < READY_MAX, "dev is not ready: {:?}", self.output());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All lines so far.
    fn output(&mut self) -> &[String] {
        self.seen.extend(self.lines.try_iter());
        &self.seen
    }

    /// Waits for a line with `text`.
    fn line(&mut self, text: &str) -> String {
        let began = Instant::now();
        loop {
            if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            assert!(began.elapsed() < READY_MAX, "no line with {text:?} in {:?}", self.seen);
            self.seen.extend(self.lines.recv_timeout(Duration::from_millis(100)).ok());
        }
    }

    /// Waits for the end; the exit code.
    fn end(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return status.code();
            }
            assert!(began.elapsed() < Duration::from_secs(30), "dev does not end: {:?}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pids(ready: &Value) -> Vec<u32> {
    let nodes = ready["nodes"].as_array().expect("a list of nodes");
    nodes.iter().map(|node| node["pid"].as_u64().expect("a pid") as u32).collect()
}

fn endpoints(ready: &Value) -> String {
    let endpoints = ready["endpoints"].as_array().expect("a list");
    endpoints.iter().map(|e| e.as_str().expect("an address")).collect::<Vec<_>>().join(",")
}

/// Runs, and is a ringbeam: a pid may have been given to somebody else meanwhile.
fn lives(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    // A zombie has ended; whoever inherited it has not looked yet. The first thread may be one while the others still run.
    threads.flatten().any(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.contains("(ringbeam") && !stat.contains(") Z ") && !stat.contains(") X ")
    })
}

fn assert_gone(pids: &[u32], within: Duration) {
    let began = Instant::now();
    while let Some(pid) = pids.iter().find(|pid| lives(**pid)) {
        assert!(began.elapsed() < within, "node process {pid} still runs after {within:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn idle_dev_is_ready_as_its_json_says_and_ends_with_its_nodes_at_each_signal() {
    let fresh = Fresh::new("idle");
    for (round, name) in ["INT", "TERM", "HUP"].into_iter().enumerate() {
        // The second round finds the ring of the first, with its data.
        let mut dev = Dev::start(&fresh, &["--idle"]);
        let ready = dev.ready();
        let nodes = ready["nodes"].as_array().expect("a list of nodes").clone();
        assert_eq!(nodes.len(), 3);
        for (at, node) in nodes.iter().enumerate() {
            assert_eq!(node["id"], at as u64 + 1);
            assert!(lives(node["pid"].as_u64().expect("a pid") as u32));
            for key in ["client", "peer", "admin"] {
                let address = node[key].as_str().expect("an address");
                assert!(address.starts_with("127.0.0.1:"), "{key} = {address}");
                std::net::TcpStream::connect(address).expect("somebody listens there");
            }
            assert!(Path::new(node["data"].as_str().expect("a path")).is_dir());
            assert_eq!(ready["endpoints"][at], node["client"]);
        }
        let client = Client::connect(&endpoints(&ready)).await.expect("it serves when it says so");
        if round == 0 {
            client.put("kept", "from the first run").await.expect("it takes writes");
            assert!(dev.line("founding").contains("3 nodes and 1 shards"));
        } else {
            let kept = client.get("kept").await.expect("it reads").expect("the ring is the same");
            assert_eq!(&kept.value[..], b"from the first run");
            dev.line("restarting");
        }
        second_dev_is_refused(&fresh);
        drop(client);
        signal(dev.child.id(), name);
        assert_eq!(dev.end(), Some(0), "after SIG{name}: {:?}", dev.output());
        assert_gone(&pids(&ready), Duration::ZERO);
        dev.line("all nodes have stopped");
    }
    let dir = fresh.ring();
    let dir = dir.to_str().expect("a path in letters");
    let (code, _, said) = ringbeam(&["dev", "--idle", "--dir", dir, "--nodes", "5"]);
    assert!(code != 0 && said.contains("a ring of 3 nodes") && said.contains("--nodes 5"), "{code}: {said}");
    let (code, _, said) = ringbeam(&["dev", "--idle", "--dir", dir, "--shards", "2"]);
    assert!(code != 0 && said.contains("a ring of 1 shards"), "{code}: {said}");
    let (code, _, said) = ringbeam(&["dev", "--idle", "--dir", dir, "--nodes", "4"]);
    assert!(code == 2 && said.contains("--nodes"), "{code}: {said}");
}

fn second_dev_is_refused(fresh: &Fresh) {
    let dir = fresh.ring();
    let (code, _, said) = ringbeam(&["dev", "--idle", "--dir", dir.to_str().expect("a path in letters")]);
    assert!(code != 0 && said.contains("another `ringbeam dev`"), "{code}: {said}");
}

#[test]
fn no_node_outlives_a_killed_dev() {
    let fresh = Fresh::new("orphans");
    let mut dev = Dev::start(&fresh, &["--idle"]);
    let ready = dev.ready();
    dev.child.kill().expect("a child can be killed");
    dev.child.wait().expect("a child can be waited for");
    assert_gone(&pids(&ready), Duration::from_secs(2));
    // And what a kill leaves behind is a ring that starts again.
    let mut dev = Dev::start(&fresh, &["--for", "1", "--idle"]);
    dev.ready();
    assert_eq!(dev.end(), Some(0), "{:?}", dev.output());
}

#[tokio::test]
async fn load_carries_on_when_the_leader_is_killed() {
    let fresh = Fresh::new("killed");
    let mut dev = Dev::start(&fresh, &[]);
    let ready = dev.ready();
    dev.line("    2 s");
    let client = Client::connect(&endpoints(&ready)).await.expect("it serves");
    let leader = client.status().await.into_iter().filter_map(|(_, _, status)| status.ok()).map(|s| s.leader).max();
    let leader = leader.filter(|leader| *leader > 0).expect("a ring under load has a leader");
    drop(client);
    signal(pids(&ready)[leader as usize - 1], "KILL");
    assert!(dev.line("was killed (SIGKILL)").contains(&format!("node {leader} ")));
    dev.line("start it again: ringbeam serve --config");
    let seconds = dev.seen.iter().filter(|line| line.contains(" ops/s")).count();
    let later = format!("{:>5} s", seconds + 5);
    let line = dev.line(&later);
    signal(dev.child.id(), "INT");
    assert_eq!(dev.end(), Some(0), "{:?}", dev.output());
    std::thread::sleep(Duration::from_millis(50)); // its last lines are on their way through the pipe
    println!("{}", dev.output().join("\n"));
    // Seconds after the death: work was done, and the errors are those that were in flight to the dead node at most.
    assert!(operations(&line) > 0, "nothing done in {line}");
    let errors: u64 = dev.seen.iter().filter_map(|line| errors(line)).sum();
    assert!(errors <= 64, "{errors} errors");
    assert_gone(&pids(&ready), Duration::ZERO);
}

/// Operations a second of a live line.
fn operations(line: &str) -> u64 {
    let number = line.split_once(" s ").and_then(|(_, behind)| behind.split_once(" ops/s")).expect("a live line").0;
    number.chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("a number")
}

/// Errors of a live line; `None` for another line.
fn errors(line: &str) -> Option<u64> {
    line.split_once(" ops/s")?.1.split_once("errors ")?.1.trim().parse().ok()
}

#[test]
fn dev_ends_by_itself_after_its_time() {
    let fresh = Fresh::new("for");
    let mut dev = Dev::start(&fresh, &["--for", "3", "--nodes", "5", "--shards", "2"]);
    let ready = dev.ready();
    assert_eq!(pids(&ready).len(), 5);
    let began = Instant::now();
    assert_eq!(dev.end(), Some(0), "{:?}", dev.output());
    assert!(began.elapsed() >= Duration::from_secs(2), "it ended early");
    dev.line("all nodes have stopped");
    dev.line("5 nodes and 2 shards");
    assert_gone(&pids(&ready), Duration::ZERO);
}
