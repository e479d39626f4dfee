//! What a fault acts on: a ring with everything that this machine allows, its load, and who watches it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringbeam_sdk::{Client, Status};

use crate::book::{Load, Loyal};
use crate::ring::disk::SmallDisk;
use crate::ring::net::{Net, Way};
use crate::ring::random::Random;
use crate::ring::skip::{Need, skipped};
use crate::ring::{Plan, Ring, SMALL_LOG, clock};
use crate::sessions::Sessions;

/// For what takes seconds on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// What this machine can do. `None`: not, and it was said why.
pub struct Machine {
    pub net: Option<Arc<Net>>,
    pub disks: bool,
    pub wall_clocks: Option<PathBuf>,
}

impl Machine {
    /// Tries everything; this process is then in namespaces of its own, if that is possible.
    pub fn look() -> Machine {
        fn said<T>(what: &str, need: Need, found: Result<T, String>) -> Option<T> {
            found.inspect_err(|why| skipped(&format!("history_under_faults_is_linearizable: {what}"), need, why)).ok()
        }
        let cuts = "Isolated, Minority, Deaf, Mute, Partial, Flapping";
        let net = said(cuts, Need::Namespaces, Net::enter()).map(Arc::new);
        let folder = PathBuf::from(format!("/var/tmp/ringbeam-test-faults-{}", std::process::id()));
        let disk = SmallDisk::new(&folder, "disk", 8);
        let disks = said("FullFollower, FullLeader, FullAll", Need::LoopDevices, disk).is_some();
        let _ = std::fs::remove_dir_all(&folder);
        Machine { net, disks, wall_clocks: said("Clock, Clocks", Need::WallClocks, clock::library()) }
    }
}

/// A ring under load.
pub struct Stage {
    pub load: Load,
    pub sessions: Sessions,
    pub watcher: Client,
    pub machine_net: Option<Arc<Net>>,
    /// Of each node that has one. Before the ring, which removes the directory that they are mounted in.
    pub disks: BTreeMap<u64, SmallDisk>,
    pub ring: Ring,
    /// Ids of the members; who was replaced is none any more.
    pub members: Vec<u64>,
    pub random: Random,
}

/// Room of each node, MiB.
const DISK_MIB: u64 = 96;

impl Stage {
    pub async fn start(machine: &Machine, nodes: u64, mut random: Random) -> Stage {
        // A snapshot less often: a disk that is full is to be full for the log.
        let extra = SMALL_LOG.replace("snapshot_after_bytes = 2097152", "snapshot_after_bytes = 8388608");
        let plan = Plan {
            nodes,
            net: machine.net.clone(),
            wall_clocks: machine.wall_clocks.clone(),
            patience: SOON,
            // Clocks are read from the log.
            extra: extra + "[logging]\nlevel = \"debug\"\n",
            ..Plan::default()
        };
        let mut ring = Ring::prepare("faults", plan);
        let mut disks = BTreeMap::new();
        for id in 1..=nodes {
            if machine.disks {
                disks.insert(id, small_disk(&mut ring, id));
            }
            ring.spawn(id);
        }
        ring.settled(0).await;
        let watcher = ring.client().await.with_timeout(Duration::from_secs(5));
        let mut sessions = Sessions::open(&ring).await;
        // From the first fault on there is something to repeat.
        sessions.look(&ring).await;
        let load = Load::start(&watcher, &ring.endpoints(), random.next()).await;
        let members = (1..=nodes).collect();
        Stage { load, sessions, watcher, machine_net: machine.net.clone(), disks, ring, members, random }
    }

    pub fn net(&self) -> Arc<Net> {
        self.machine_net.clone().expect("faults of the net are dealt where there is one")
    }

    pub fn disk(&self, id: u64) -> &SmallDisk {
        self.disks.get(&id).expect("faults of disks are dealt where there are some")
    }

    /// A place for one more node; not started.
    pub fn place(&mut self) -> u64 {
        let id = 1 + self.ring.nodes.iter().map(|node| node.id).max().expect("there are nodes");
        self.ring.place_joiner(id);
        if !self.disks.is_empty() {
            let disk = small_disk(&mut self.ring, id);
            self.disks.insert(id, disk);
        }
        id
    }

    pub async fn leader(&self) -> u64 {
        self.ring.leader(0).await
    }

    pub fn others(&self, than: u64) -> Vec<u64> {
        self.members.iter().copied().filter(|id| *id != than).collect()
    }

    /// One of them.
    pub fn pick(&mut self, of: &[u64]) -> u64 {
        of[self.random.below(of.len() as u64) as usize]
    }

    /// The leader as often as not: most of what can go wrong goes wrong there.
    pub async fn pick_node(&mut self) -> u64 {
        if self.random.below(2) == 0 {
            return self.leader().await;
        }
        let members = self.members.clone();
        self.pick(&members)
    }

    /// What a node says of itself, if clients reach it.
    pub async fn status(&self, id: u64) -> Option<Status> {
        self.ring.status(&self.watcher, id, 0).await
    }

    /// Waits until one of `nodes` leads, later than (`term`, `leader`).
    pub async fn another_leads(&self, nodes: &[u64], term: u64, leader: u64) -> u64 {
        let began = Instant::now();
        loop {
            for id in nodes {
                let status = self.status(*id).await;
                if status.is_some_and(|s| s.raft_state == "leader" && s.leader == *id && (s.term, *id) > (term, leader)) {
                    return *id;
                }
            }
            assert!(began.elapsed() < SOON, "none of {nodes:?} leads after {leader} in term {term}\n{}", self.ring.tails());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until `holds` holds of a node's status.
    pub async fn wait_status(&self, id: u64, what: &str, holds: impl Fn(&Status) -> bool) {
        let began = Instant::now();
        while !self.status(id).await.is_some_and(|status| holds(&status)) {
            assert!(began.elapsed() < SOON, "node {id}, not within {SOON:?}: {what}\n{}", self.ring.tails());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every member runs, follows one leader, and has what was committed when it was asked: any of them may fail now.
    pub async fn whole(&self) {
        for id in &self.members {
            assert!(self.ring.runs(*id), "node {id} is left dead");
            self.ring.wait_caught_up(*id).await;
        }
        self.ring.settled_under_load().await;
    }

    /// Cuts ways to or from node `at`, with a client that stays with it, until `until` is done and for a random while longer; then
    /// mends. Each cut direction must have dropped something, and the node must have answered its client, when clients reach it.
    pub async fn while_cut(&mut self, ways: &[Way], at: u64, until: impl AsyncFnOnce(&Stage)) {
        let net = self.net();
        let asking = Loyal::start(&self.load.book, &self.ring.node(at).client);
        net.cut(ways);
        let mended = Mended(net.clone());
        until(self).await;
        let longer = self.random.millis(700);
        tokio::time::sleep(longer).await;
        let began = Instant::now();
        loop {
            let dropped = net.dropped();
            assert_eq!(dropped.len(), ways.len(), "one count for each way");
            // Followers may have nothing to say to each other.
            let strikes = |from: bool| {
                let mut touched = ways.iter().zip(&dropped).filter(|(way, _)| way.begins_or_ends(at, from)).peekable();
                touched.peek().is_none() || touched.any(|(_, packets)| *packets > 0)
            };
            if strikes(true) && strikes(false) {
                break;
            }
            assert!(began.elapsed() < SOON, "cuts that cut nothing: {ways:?} dropped {dropped:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drop(mended);
        let answers = asking.end();
        let reached = !ways.contains(&Way::ToClients(at));
        assert!(!reached || answers > 0, "node {at}, which clients reach, said nothing");
    }
}

/// Mends the net when it is dropped, on every way out.
struct Mended(Arc<Net>);

impl Drop for Mended {
    fn drop(&mut self) {
        self.0.heal();
    }
}

/// A small disk of its own for a node that has not been started.
fn small_disk(ring: &mut Ring, id: u64) -> SmallDisk {
    let disk = SmallDisk::new(&ring.root, &format!("disk-{id}"), DISK_MIB).expect("this machine has small disks");
    let (before, data) = (ring.node(id).data.clone(), disk.mount.join("data"));
    std::fs::create_dir_all(&data).expect("a new disk has room");
    ring.configure(id, &format!("{before:?}"), &format!("{data:?}"));
    let node = ring.nodes.iter_mut().find(|node| node.id == id).expect("it has a place");
    node.data = data;
    disk
}
