//! Real rings for tests: processes of the real binary on loopback, each with its own directory on a real disk.
//!
//! Everything that a test starts ends with it: nodes are killed when the ring is dropped, directories are removed unless the
//! test fails.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod clock;
pub mod delay;
pub mod disk;
pub mod light;
pub mod net;
pub mod raw;
pub mod skip;

use std::fs;
use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ringbeam_sdk::{Client, Status};
use ringbeam_wire::Role;

pub mod load;
pub mod random;

/// How a ring is made; `Default` is three voters and one shard.
#[derive(Clone)]
pub struct Plan {
    pub nodes: u64,
    pub shards: u32,
    /// Node ids that are tie-breakers.
    pub tie_breakers: Vec<u64>,
    /// Peers reach each node over a link that takes this long in each direction.
    pub peer_delay: Option<Duration>,
    /// And that carries no more than so many bytes a second in each direction.
    pub peer_bytes_per_s: Option<u64>,
    /// Each node lives in a namespace of this network, instead of on loopback.
    pub net: Option<Arc<net::Net>>,
    /// libfaketime: each node has a wall clock that can be moved.
    pub wall_clocks: Option<PathBuf>,
    /// How long a ring may take to do what takes a moment when it has a core.
    pub patience: Duration,
    /// TOML that is added to every node's file: whole sections other than [node], [listen] and [ring].
    pub extra: String,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            nodes: 3,
            shards: 1,
            tie_breakers: Vec::new(),
            peer_delay: None,
            peer_bytes_per_s: None,
            net: None,
            wall_clocks: None,
            patience: Duration::from_secs(30),
            extra: String::new(),
        }
    }
}

impl Plan {
    /// An address of a node that nobody else has.
    fn address(&self, node: u64) -> String {
        match &self.net {
            None => format!("127.0.0.1:{}", free_port()),
            Some(_) => format!("{}:{}", net::address(node), free_port()),
        }
    }
}

/// Small segments, so that a ring of a test is up in a moment and truncates often.
pub const SMALL_LOG: &str = "[limits]\nvalue_bytes_max = 65536\nbatch_bytes_max = 262144\n[log]\nsegment_bytes = 4194304\nsnapshot_after_bytes = 2097152\nspare_segments_count = 1\nsnapshot_pause_us = 0\n";

/// One node's place; its process may come and go.
pub struct Node {
    pub id: u64,
    pub client: String,
    /// Where the others reach it.
    pub peer: String,
    /// Where it listens for them.
    pub listens: String,
    pub admin: String,
    pub data: PathBuf,
    pub config: PathBuf,
    pub log: PathBuf,
    child: Option<Child>,
}

/// A ring of processes.
pub struct Ring {
    pub root: PathBuf,
    pub plan: Plan,
    pub nodes: Vec<Node>,
    founders: String,
    links: Vec<delay::Link>,
}

/// A loopback port that nobody else has: no other test of this process, no other test process, and no outgoing connection while
/// its node is down, since the kernel gives those ports above this range. `ringbeam dev` has its own range above this one.
///
/// Ports are claimed in blocks. A block belongs to the process that holds the abstract socket of its name, and the kernel takes
/// the name back when that process ends, however it ends.
pub fn free_port() -> u16 {
    static CLAIMED: Mutex<Claimed> = Mutex::new(Claimed { names: Vec::new(), ports: 0..0 });
    let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        // A program that knows nothing of blocks may listen there.
        if let Some(port) = claimed.ports.by_ref().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return port;
        }
        claimed.take_block();
    }
}

/// See [`free_port`].
struct Claimed {
    names: Vec<UnixListener>,
    /// What is left of the newest block.
    ports: Range<u16>,
}

impl Claimed {
    fn take_block(&mut self) {
        const FIRST: u16 = 10_000;
        const BLOCK: u16 = 200;
        const BLOCKS: u16 = 30;
        for number in 0..BLOCKS {
            let name = SocketAddr::from_abstract_name(format!("ringbeam-test-ports-{number}")).expect("the name is short");
            if let Ok(held) = UnixListener::bind_addr(&name) {
                self.names.push(held);
                self.ports = FIRST + number * BLOCK..FIRST + (number + 1) * BLOCK;
                return;
            }
        }
        panic!("all {BLOCKS} blocks of loopback ports from {FIRST} on are taken");
    }
}

impl Ring {
    /// Founds a ring and waits until every shard has a leader.
    pub async fn start(name: &str, plan: Plan) -> Ring {
        let mut ring = Ring::prepare(name, plan);
        for id in 1..=ring.plan.nodes {
            ring.spawn(id);
        }
        ring.wait_ready().await;
        ring
    }

    /// The same without starting anything.
    pub fn prepare(name: &str, plan: Plan) -> Ring {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/var/tmp/ringbeam-test-{name}-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).expect("a directory can be made in /var/tmp");
        let peers: Vec<(u64, String)> = (1..=plan.nodes).map(|id| (id, plan.address(id))).collect();
        let founders: Vec<String> = peers.iter().map(|(id, peer)| format!("{{ id = {id}, peer = \"{peer}\" }}")).collect();
        let mut ring = Ring { root, founders: founders.join(", "), nodes: Vec::new(), links: Vec::new(), plan };
        for (id, peer) in peers {
            ring.place(id, peer);
        }
        ring
    }

    /// [`Ring::start`] without its first node and without waiting.
    pub fn start_founding(name: &str, plan: Plan) -> Ring {
        let mut ring = Ring::prepare(name, plan);
        for id in 2..=ring.plan.nodes {
            ring.spawn(id);
        }
        ring
    }

    /// A place for one more node, which is no founder: configured, not started.
    pub fn place_joiner(&mut self, id: u64) {
        self.place(id, self.plan.address(id));
    }

    /// Changes a node's configuration file: every occurrence of `from`, which must be there.
    pub fn configure(&self, id: u64, from: &str, to: &str) {
        let path = &self.node(id).config;
        let text = fs::read_to_string(path).expect("the configuration can be read");
        assert!(text.contains(from), "no {from:?} in {text}");
        fs::write(path, text.replace(from, to)).expect("the configuration can be written");
    }

    /// `peer`: where the others reach it.
    fn place(&mut self, id: u64, peer: String) {
        let listens = match self.plan.peer_delay {
            None => peer.clone(),
            Some(one_way) => {
                let listens = self.plan.address(id);
                self.links.push(delay::Link::start(&peer, &listens, one_way, self.plan.peer_bytes_per_s));
                listens
            }
        };
        if let Some(net) = &self.plan.net {
            net.settle(id).expect("the first node could be settled");
        }
        let node = Node {
            id,
            client: self.plan.address(id),
            peer,
            listens,
            admin: self.plan.address(id),
            data: self.root.join(format!("node-{id}")),
            config: self.root.join(format!("node-{id}.toml")),
            log: self.root.join(format!("node-{id}.log")),
            child: None,
        };
        let role = if self.plan.tie_breakers.contains(&id) { "tie-breaker" } else { "voter" };
        let text = format!(
            "[node]\nid = {id}\ndata_dir = {:?}\nrole = \"{role}\"\nregion = \"r{id}\"\npin_cores = false\n\
             [listen]\nclient = {:?}\npeer = {:?}\nadvertise_peer = {:?}\nadmin = {:?}\n\
             [ring]\nshards = {}\nfounders = [{}]\n{}",
            node.data, node.client, node.listens, node.peer, node.admin, self.plan.shards, self.founders, self.plan.extra
        );
        fs::write(&node.config, text).expect("a file can be written");
        self.nodes.push(node);
    }

    pub fn node(&self, id: u64) -> &Node {
        self.nodes.iter().find(|n| n.id == id).expect("the node has a place")
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.id == id).expect("the node has a place")
    }

    /// Starts the process of a node.
    pub fn spawn(&mut self, id: u64) {
        let node = self.node(id);
        assert!(node.child.is_none(), "node {id} runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(&node.log).expect("a log file can be opened");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringbeam"));
        command
            .args(["serve", "--config"])
            .arg(&node.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be copied"))
            .stderr(log);
        if let Some(net) = &self.plan.net {
            net.at_home(id, &mut command);
        }
        if let Some(library) = &self.plan.wall_clocks {
            clock::follow(&mut command, library, &self.clock_file(id));
        }
        die_with_parent(&mut command);
        self.node_mut(id).child = Some(command.spawn().expect("the binary starts"));
    }

    pub fn pid(&self, id: u64) -> Option<u32> {
        self.node(id).child.as_ref().map(Child::id)
    }

    pub fn runs(&self, id: u64) -> bool {
        self.node(id).child.is_some()
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self, id: u64) {
        if let Some(mut child) = self.node_mut(id).child.take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
    }

    /// `kill -9` for several nodes as nearly at once as a process can.
    pub fn kill_all(&mut self, ids: &[u64]) {
        let mut children: Vec<Child> = ids.iter().filter_map(|id| self.node_mut(*id).child.take()).collect();
        for child in &mut children {
            child.kill().expect("a child can be killed");
        }
        for child in &mut children {
            child.wait().expect("a child can be waited for");
        }
    }

    /// SIGTERM, and waits; gives the exit code and how long it took.
    pub fn terminate(&mut self, id: u64) -> (Option<i32>, Duration) {
        let mut child = self.node_mut(id).child.take().expect("the node runs");
        let began = Instant::now();
        signal(child.id(), "TERM");
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return (status.code(), began.elapsed());
            }
            assert!(began.elapsed() < Duration::from_secs(20), "node {id} does not end after SIGTERM");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the process has ended by itself; its exit code.
    pub fn wait_end(&mut self, id: u64, limit: Duration) -> Option<i32> {
        let mut child = self.node_mut(id).child.take().expect("the node runs");
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("node {id} still runs after {limit:?}; its log:\n{}", self.tail(id));
    }

    /// Starts a node that must refuse to run; what it said. Its exit code is 1.
    pub fn refused(&mut self, id: u64) -> String {
        let before = self.said(id).len();
        self.spawn(id);
        let code = self.wait_end(id, Duration::from_secs(20));
        let said = self.said(id).split_off(before);
        assert_eq!(code, Some(1), "node {id} said: {said}");
        said
    }

    /// All that a node has logged.
    pub fn said(&self, id: u64) -> String {
        fs::read_to_string(&self.node(id).log).unwrap_or_default()
    }

    /// Waits until a node has logged `text`.
    pub async fn wait_said(&self, id: u64, text: &str) {
        let began = Instant::now();
        while !self.said(id).contains(text) {
            assert!(began.elapsed() < Duration::from_secs(30), "node {id} never said {text:?}:\n{}", self.tail(id));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The end of a node's log.
    pub fn tail(&self, id: u64) -> String {
        let text = fs::read_to_string(&self.node(id).log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Client addresses of all nodes, comma separated.
    pub fn endpoints(&self) -> String {
        self.nodes.iter().map(|n| n.client.as_str()).collect::<Vec<_>>().join(",")
    }

    /// A client of the ring.
    pub async fn client(&self) -> Client {
        let began = Instant::now();
        loop {
            match Client::connect(&self.endpoints()).await {
                Ok(client) => return client,
                Err(e) if began.elapsed() > self.plan.patience => {
                    panic!("no client connection: {e}\n{}", self.tails());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub fn tails(&self) -> String {
        self.nodes.iter().map(|n| format!("--- node {}\n{}\n", n.id, self.tail(n.id))).collect()
    }

    /// One node's status of one shard, from the node itself.
    pub async fn status(&self, client: &Client, id: u64, shard: u32) -> Option<Status> {
        client.status_of(&self.node(id).client, shard).await.ok()
    }

    /// Waits until `holds` holds of the statuses of all running nodes.
    pub async fn wait_for(&self, what: &str, limit: Duration, mut holds: impl FnMut(&[Status]) -> bool) -> Vec<Status> {
        let began = Instant::now();
        loop {
            let mut statuses = Vec::new();
            if let Ok(client) = Client::connect(&self.endpoints()).await {
                for node in self.nodes.iter().filter(|n| n.child.is_some()) {
                    for shard in 0..self.plan.shards {
                        statuses.extend(self.status(&client, node.id, shard).await);
                    }
                }
            }
            if holds(&statuses) {
                return statuses;
            }
            assert!(began.elapsed() < limit, "not within {limit:?}: {what}\n{statuses:#?}\n{}", self.tails());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every shard has a leader that leads by its own word.
    pub async fn wait_ready(&self) -> Vec<Status> {
        let shards = self.plan.shards;
        self.wait_for("every shard has a leader", self.plan.patience, |statuses| {
            (0..shards).all(|shard| statuses.iter().any(|s| s.shard == shard && s.raft_state == "leader" && s.leader == s.node))
        })
        .await
    }

    /// Waits until node `id` has applied what the others had committed when it was asked, of every shard.
    pub async fn wait_caught_up(&self, id: u64) {
        let committed = |of: &[Status], shard: u32| of.iter().filter(|s| s.shard == shard).map(|s| s.committed_index).max();
        let now = self.wait_ready().await;
        let shards = self.plan.shards;
        self.wait_for("the node has caught up", 2 * self.plan.patience, |statuses| {
            (0..shards).all(|shard| {
                let mine = statuses.iter().find(|s| s.node == id && s.shard == shard);
                mine.is_some_and(|s| s.leader != 0 && Some(s.applied_index) >= committed(&now, shard))
            })
        })
        .await;
    }

    /// Waits until all running nodes that keep state have applied the same index of every shard and have equal hashes: see [`are_equal`].
    pub async fn wait_converged(&self) -> Vec<Status> {
        let running = self.nodes.iter().filter(|n| n.child.is_some()).count();
        let shards = self.plan.shards;
        self.wait_for("all nodes have equal states, of few enough keys to be hashed", 2 * self.plan.patience, |statuses| {
            statuses.len() == running * shards as usize && (0..shards).all(|shard| are_equal(statuses, shard))
        })
        .await
    }

    /// The node that leads `shard` once all running nodes agree on it: founders campaign against each other for a moment, and a
    /// client without the SDK's patience must not meet that.
    pub async fn settled_leader(&self, shard: u32) -> u64 {
        self.settled(shard).await.0
    }

    /// That leader and its term.
    pub async fn settled(&self, shard: u32) -> (u64, u64) {
        let running = self.nodes.iter().filter(|n| n.child.is_some()).count();
        let settled = |statuses: &[Status]| {
            let of: Vec<&Status> = statuses.iter().filter(|s| s.shard == shard).collect();
            let leads = of.iter().find(|s| s.raft_state == "leader")?;
            // The leader's own entry is committed: it has a quorum.
            let agreed =
                of.iter().all(|s| (s.leader, s.term) == (leads.node, leads.term)) && leads.committed_index == leads.last_index;
            (of.len() == running && agreed).then_some((leads.node, leads.term))
        };
        let limit = self.plan.patience;
        let statuses = self.wait_for("all nodes agree on a leader", limit, |statuses| settled(statuses).is_some()).await;
        settled(&statuses).expect("it was so a moment ago")
    }

    /// Leader and term of shard 0 once all running nodes name the same, while clients write.
    pub async fn settled_under_load(&self) -> (u64, u64) {
        let running = self.nodes.iter().filter(|n| n.child.is_some()).count();
        let limit = self.plan.patience;
        let of_one_mind = |s: &[Status]| {
            s.len() == running && s[0].leader != 0 && s.iter().all(|n| (n.leader, n.term) == (s[0].leader, s[0].term))
        };
        let statuses = self.wait_for("all nodes name one leader", limit, of_one_mind).await;
        (statuses[0].leader, statuses[0].term)
    }

    /// The node that leads `shard`.
    pub async fn leader(&self, shard: u32) -> u64 {
        let statuses = self.wait_ready().await;
        let leads = |s: &&Status| s.shard == shard && s.raft_state == "leader";
        statuses.iter().filter(leads).max_by_key(|s| (s.term, s.node)).map(|s| s.node).expect("wait_ready saw one")
    }
}

/// Whether the nodes that keep `shard`'s state have applied all that is in their logs, and are seen to have equal states. A node does not
/// hash a state of more than 50,000 keys (`shards/admin.rs`) and says 0: that is seen to equal nothing.
pub fn are_equal(statuses: &[Status], shard: u32) -> bool {
    let of: Vec<&Status> = statuses.iter().filter(|s| s.shard == shard && s.role != Role::TieBreaker).collect();
    of.windows(2).all(|w| w[0].applied_index == w[1].applied_index && w[0].state_hash == w[1].state_hash)
        && of.iter().all(|s| s.state_hash != 0 && s.applied_index == s.last_index)
}

impl Drop for Ring {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            eprintln!("the ring's files are kept in {}", self.root.display());
        } else {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// Sends a signal by name to a process that this test started.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
    assert!(status.is_ok_and(|s| s.success()), "kill -{name} {pid}");
}

/// Runs the binary with `args` and gives (exit code, stdout, stderr).
pub fn ringbeam(args: &[&str]) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_ringbeam")).args(args).stdin(Stdio::null()).output().expect("the binary runs");
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

/// The same beside what else runs in the test, with `--endpoints`.
pub async fn ringbeam_at(endpoints: &str, args: &[&str]) -> (i32, String, String) {
    let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
    args.extend(["--endpoints".to_string(), endpoints.to_string()]);
    let run = move || ringbeam(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.expect("the command ends")
}

/// Copies a directory tree.
pub fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The child is killed when the thread that starts it ends, also when this process is killed: no test leaves nodes behind.
fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}
