//! A ring of simulated nodes, and what can be done to it.
//!
//! ```text
//!   Ring ─▶ World (hosts, network, clock) ─▶ host "node-1": process incarnations of node 1, one after the other, on one disk
//!                                            host "client-1": tasks that write and read
//! ```
//! The driver lets time pass ([`Ring::run_for`]) and strikes in between; processes that have ended by themselves are reaped
//! within [`REAP`]. Nodes are named by their ids, from 1.
//!
//! **Not here**: when what happens (`plan.rs`), what was promised and whether it was kept (`history.rs`, `check`).

mod node;

pub use node::{Control, Directory, NodeSettings, Outcome};

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use ringbeam_shards::io::Env;
use ringbeam_shards::io::sim::{Crash, DiskSettings, HostId, Random, Settings as WorldSettings, Sim, SimDisk, World};
use ringbeam_shards::planted::{self, Bug};
use ringbeam_shards::probe::{Probe, View, probes, refused};
use ringbeam_wire::peer::{Identity, Member, Role};

/// How a ring is built.
#[derive(Clone, Debug)]
pub struct RingSettings {
    /// Roles of the founders, node 1 first: voters and tie-breakers. An observer joins later ([`Ring::add_newcomer`]).
    pub roles: Vec<Role>,
    pub shards: u32,
    pub node: NodeSettings,
    pub world: WorldSettings,
    /// How disks of nodes behave while all is well.
    pub disk: DiskSettings,
    /// Clocks of nodes drift by up to this much, in either direction, from the start.
    pub drift_ppm_max: u64,
}

impl RingSettings {
    /// `voters` nodes that all vote and lead.
    pub fn voters(voters: usize, shards: u32) -> RingSettings {
        RingSettings {
            roles: vec![Role::Voter; voters],
            shards,
            node: NodeSettings::default(),
            world: WorldSettings::default(),
            disk: DiskSettings::default(),
            drift_ppm_max: 200,
        }
    }
}

/// Ended processes are noticed this often.
const REAP: Duration = Duration::from_millis(10);

struct Node {
    host: HostId,
    directory: Rc<RefCell<Directory>>,
    control: Option<Rc<Control>>,
    /// How its last process ended, when by itself.
    ended: Option<Outcome>,
    /// Processes that it has had.
    lives: u32,
    /// It is out of the ring for good, and is not started again.
    retired: bool,
}

/// See the head of this file.
pub struct Ring {
    pub world: World,
    settings: RingSettings,
    random: Random,
    ring: u64,
    nodes: BTreeMap<u64, Node>,
    clients: Vec<HostId>,
    operator: Option<HostId>,
    /// Who was asked to stop, and has, is started again at once.
    supervised: bool,
}

/// Where clients reach a node.
pub fn client_address(node: u64) -> String {
    format!("node-{node}:7701")
}

/// Where a node's peers reach it.
pub fn peer_address(node: u64) -> String {
    format!("node-{node}:7801")
}

impl Ring {
    /// A founded ring of running nodes.
    pub fn new(seed: u64, settings: RingSettings) -> Ring {
        let world = World::new(seed, settings.world);
        let mut random = Random::new(seed, 7);
        let ring = random.bits().max(1);
        let nodes = BTreeMap::new();
        let mut this = Ring {
            world,
            settings: settings.clone(),
            random,
            ring,
            nodes,
            clients: Vec::new(),
            operator: None,
            supervised: false,
        };
        for (node, role) in (1..).zip(&settings.roles) {
            this.add_host(node, *role);
        }
        let members: Vec<Member> = this.nodes.values().map(|n| n.directory.borrow().identity.member.clone()).collect();
        for node in this.nodes.values() {
            let mut directory = node.directory.borrow_mut();
            directory.founder = true;
            (directory.identity.ring, directory.identity.members) = (ring, members.clone());
        }
        for node in this.ids() {
            this.start(node);
        }
        this
    }

    /// A host with an empty disk and a directory of its own, in no ring yet.
    fn add_host(&mut self, node: u64, role: Role) {
        let host = self.world.add_host(&format!("node-{node}"));
        self.world.disk(host).set(|disk| *disk = self.settings.disk);
        let drift = self.random.below(2 * self.settings.drift_ppm_max + 1) as i64 - self.settings.drift_ppm_max as i64;
        if drift != 0 {
            self.world.set_drift(host, drift);
        }
        let incarnation = self.random.bits().max(1);
        let member = Member {
            node,
            incarnation,
            peer: peer_address(node),
            client: client_address(node),
            admin: String::new(),
            region: String::new(),
            role,
        };
        for address in [&member.peer, &member.client] {
            self.world.links().name(address, host);
        }
        let shards = self.settings.shards;
        let identity = Identity { node, incarnation, ring: 0, shards, member, members: Vec::new(), started: false };
        let directory = Rc::new(RefCell::new(Directory { identity, founder: false }));
        self.nodes.insert(node, Node { host, directory, control: None, ended: None, lives: 0, retired: false });
    }

    /// Adds a running node with an empty disk, which waits for `RingAdd` at a member. Its id must be new.
    pub fn add_newcomer(&mut self, node: u64, role: Role) {
        assert!(!self.nodes.contains_key(&node), "node id {node} was used before");
        self.add_host(node, role);
        self.start(node);
    }

    // ---- who is there ----

    /// Node ids, in order.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// Whether there is such a node, retired or not.
    pub fn has(&self, node: u64) -> bool {
        self.nodes.contains_key(&node)
    }

    /// The node whose machine this is.
    pub fn node_on(&self, host: HostId) -> Option<u64> {
        self.nodes.iter().find(|(_, node)| node.host == host).map(|(id, _)| *id)
    }

    /// Of the node's directory.
    pub fn incarnation(&self, node: u64) -> u64 {
        self.node(node).directory.borrow().identity.incarnation
    }

    /// How often the node's process has begun.
    pub fn lives(&self, node: u64) -> u32 {
        self.node(node).lives
    }

    /// Nodes whose process runs.
    pub fn live(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, node)| self.world.is_up(node.host)).map(|(id, _)| *id).collect()
    }

    pub fn shards(&self) -> u32 {
        self.settings.shards
    }

    pub fn ring_id(&self) -> u64 {
        self.ring
    }

    pub fn settings(&self) -> &RingSettings {
        &self.settings
    }

    fn node(&self, node: u64) -> &Node {
        self.nodes.get(&node).unwrap_or_else(|| panic!("the ring has no node {node}"))
    }

    pub fn host(&self, node: u64) -> HostId {
        self.node(node).host
    }

    pub fn role(&self, node: u64) -> Role {
        self.node(node).directory.borrow().identity.member.role
    }

    pub fn disk(&self, node: u64) -> SimDisk {
        self.world.disk(self.host(node))
    }

    /// Client addresses of all nodes that serve clients.
    pub fn client_addresses(&self) -> Vec<String> {
        let serves = |node: &u64| self.role(*node) != Role::TieBreaker && !self.node(*node).retired;
        self.ids().into_iter().filter(serves).map(client_address).collect()
    }

    /// How the node's last process ended by itself; `None` while it runs or when it was crashed.
    pub fn ended(&self, node: u64) -> Option<&Outcome> {
        self.node(node).ended.as_ref()
    }

    /// All shards of the running process have opened their logs. One that cannot serves nobody, and says why when it ends.
    pub fn is_open(&self, node: u64) -> bool {
        self.node(node).control.as_ref().is_some_and(|control| control.opened.get() == self.settings.shards)
    }

    /// The running process was asked to stop.
    pub fn is_stopping(&self, node: u64) -> bool {
        self.node(node).control.as_ref().is_some_and(|control| control.stops())
    }

    /// Why shards of the running process did not start.
    pub fn refusing(&self, node: u64) -> Vec<String> {
        refused(&self.world, self.host(node))
    }

    // ---- life and death ----

    /// Starts a process on a node that has none, on whatever its disk holds.
    pub fn start(&mut self, node: u64) {
        let settings = self.settings.node.clone();
        let Some(found) = self.nodes.get_mut(&node) else { return };
        if self.world.is_up(found.host) || found.retired {
            return;
        }
        found.lives += 1;
        let control = Rc::new(Control::default());
        (found.control, found.ended) = (Some(control.clone()), None);
        let (directory, disk) = (found.directory.clone(), self.world.disk(found.host));
        self.world.tell(format!("node-{node}: starts"));
        self.world.start(found.host, || node::serve(directory, settings, disk, control));
    }

    /// The node's process ends at once.
    pub fn crash(&mut self, node: u64, how: Crash) {
        self.world.crash(self.host(node), how);
        if let Some(found) = self.nodes.get_mut(&node) {
            found.control = None;
        }
    }

    /// The node is no member any more: its machine is switched off for good.
    pub fn retire(&mut self, node: u64) {
        self.crash(node, Crash::Kill);
        if let Some(found) = self.nodes.get_mut(&node) {
            found.retired = true;
        }
    }

    /// The node begins anew on an empty disk, under its known id.
    pub fn wipe(&mut self, node: u64) {
        self.crash(node, Crash::Kill);
        self.disk(node).replace();
        let incarnation = self.random.bits().max(1);
        {
            let mut directory = self.node(node).directory.borrow_mut();
            let Directory { identity, founder } = &mut *directory;
            *founder = false;
            if !planted::is(Bug::EmptyDiskVotes) {
                (identity.incarnation, identity.member.incarnation) = (incarnation, incarnation);
                (identity.ring, identity.started) = (0, false);
                identity.members.clear();
            }
        }
        self.world.tell(format!("node-{node}: has an empty disk"));
        self.start(node);
    }

    /// SIGTERM: the process hands leadership over, seals its logs and ends, if it can.
    pub fn stop(&self, node: u64) {
        let found = self.node(node);
        if let Some(control) = &found.control {
            self.world.tell(format!("node-{node}: is asked to stop"));
            self.world.enter(found.host, || control.stop());
        }
    }

    pub fn pause(&self, node: u64) {
        self.world.pause(self.host(node));
    }

    pub fn resume(&self, node: u64) {
        self.world.resume(self.host(node));
    }

    // ---- links ----

    /// Cuts the nodes of `side` off from all other nodes; clients reach everybody.
    pub fn partition(&self, side: &[u64]) {
        for (a, b) in self.pairs_across(side) {
            self.world.links().cut_both_ways(a, b);
        }
    }

    /// As a partition whose edge says so: connections end, and new ones are refused.
    pub fn reject(&self, side: &[u64]) {
        for (a, b) in self.pairs_across(side) {
            self.world.links().refuse_both_ways(a, b);
        }
    }

    fn pairs_across(&self, side: &[u64]) -> Vec<(HostId, HostId)> {
        let others: Vec<u64> = self.ids().into_iter().filter(|id| !side.contains(id)).collect();
        side.iter().flat_map(|a| others.iter().map(|b| (self.host(*a), self.host(*b)))).collect()
    }

    pub fn cut_one_way(&self, from: u64, to: u64) {
        self.world.links().cut_one_way(self.host(from), self.host(to));
    }

    pub fn clog(&self, from: u64, to: u64, duration: Duration) {
        self.world.links().clog(self.host(from), self.host(to), duration);
    }

    pub fn reset_connections(&self, a: u64, b: u64) {
        self.world.links().reset(self.host(a), self.host(b));
    }

    /// What goes between the two takes up to so long.
    pub fn slow_link(&self, a: HostId, b: HostId, ms: u64) {
        let range = (Duration::from_millis(ms) / 2, Duration::from_millis(ms));
        self.world.links().slow(a, b, range);
        self.world.links().slow(b, a, range);
    }

    pub fn heal_all(&self) {
        self.world.links().heal_all();
    }

    /// Every fault off: links healed, disks fast and with room, everybody runs, and whose shard has stopped is restarted.
    pub fn all_well(&mut self) {
        self.heal_all();
        for node in self.ids() {
            self.well(node);
            if self.has_fault(node) {
                self.crash(node, Crash::Kill);
            }
            self.start(node);
        }
    }

    /// The node's machine does what it usually does.
    pub fn well(&self, node: u64) {
        self.resume(node);
        self.disk(node).set(|disk| *disk = self.settings.disk);
        self.disk(node).fail_syncs(0);
        self.world.set_slowness(self.host(node), 1);
    }

    /// A shard of the running process has stopped.
    pub fn has_fault(&self, node: u64) -> bool {
        let stopped = self.probes(node).iter().filter_map(|probe| probe.view()).any(|view| view.fault.is_some());
        stopped || !self.refusing(node).is_empty()
    }

    // ---- time ----

    /// Lets time pass and reaps who has ended.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.world.now() + duration;
        while self.world.now() < end {
            self.world.run_for(REAP.min(end - self.world.now()));
            self.reap();
        }
    }

    /// Lets time pass until `condition` holds; false when it did not within `limit`.
    pub fn run_until(&mut self, limit: Duration, mut condition: impl FnMut(&Ring) -> bool) -> bool {
        let end = self.world.now() + limit;
        while !condition(self) {
            if self.world.now() >= end {
                return false;
            }
            self.run_for(REAP);
        }
        true
    }

    fn reap(&mut self) {
        let mut stopped = Vec::new();
        for (id, node) in &mut self.nodes {
            let Some(control) = node.control.take_if(|control| control.is_over()) else { continue };
            let outcome = control.outcome.borrow().clone();
            self.world.tell(format!("node-{id}: {outcome:?}"));
            if outcome == Outcome::Stopped {
                stopped.push(*id);
            }
            node.ended = Some(outcome);
            self.world.reap(node.host);
        }
        if self.supervised {
            stopped.into_iter().for_each(|id| self.start(id));
        }
    }

    /// From now on, who was asked to stop, and has, is started again at once; or not.
    pub fn supervise(&mut self, on: bool) {
        self.supervised = on;
    }

    // ---- clients ----

    /// A host for client tasks.
    pub fn add_client_host(&mut self) -> HostId {
        let host = self.world.add_host(&format!("client-{}", self.clients.len() + 1));
        self.clients.push(host);
        host
    }

    /// Hosts for client tasks, in the order in which they came.
    pub fn clients(&self) -> &[HostId] {
        &self.clients
    }

    /// Runs a task of the operator, who has a host of its own.
    pub fn run_operator<F: Future<Output = ()> + 'static>(&mut self, task: F) {
        let host = *self.operator.get_or_insert_with(|| {
            let host = self.world.add_host("operator");
            self.world.start(host, std::future::pending);
            host
        });
        self.world.enter(host, || Sim::spawn(task));
    }

    /// Runs a client's process, with as many tasks as it likes.
    pub fn start_client<F: Future<Output = ()> + 'static>(&self, host: HostId, main: impl FnOnce() -> F) {
        self.world.start(host, main);
    }

    // ---- looks ----

    /// Windows into the shards of a live node.
    pub fn probes(&self, node: u64) -> Vec<Rc<dyn Probe>> {
        probes(&self.world, self.host(node))
    }

    /// All running shards of live nodes.
    pub fn views(&self) -> Vec<View> {
        self.live().into_iter().flat_map(|node| self.probes(node)).filter_map(|probe| probe.view()).collect()
    }

    /// A shard of a live node.
    pub fn view(&self, node: u64, shard: u32) -> Option<View> {
        self.probes(node).iter().filter_map(|probe| probe.view()).find(|view| view.shard == shard)
    }

    /// Who leads a shard, in the latest term, as far as any live node believes of itself.
    pub fn leader(&self, shard: u32) -> Option<u64> {
        let leads = self.views().into_iter().filter(|view| view.shard == shard && view.leads);
        leads.max_by_key(|view| (view.vote.term, view.vote.node)).map(|view| view.node)
    }

    /// True when all shards of all live nodes are open and have applied all that any of them has in its log, and states are equal.
    pub fn converged(&self) -> bool {
        let open = self.live().into_iter().all(|node| self.is_open(node));
        open && (0..self.settings.shards).all(|shard| {
            let probes: Vec<_> = self.live().into_iter().flat_map(|node| self.probes(node)).collect();
            let views: Vec<View> = probes.iter().filter_map(|p| p.view()).filter(|v| v.shard == shard).collect();
            let last = views.iter().filter_map(|view| view.last).max_by_key(|id| id.index);
            let digests: Vec<(u64, u64)> = probes
                .iter()
                .filter(|probe| probe.view().is_some_and(|view| view.shard == shard))
                .filter_map(|probe| probe.digest())
                .collect();
            views.iter().all(|view| view.last == last && Some(view.applied_index) == last.map(|id| id.index))
                && digests.windows(2).all(|pair| pair[0] == pair[1])
        })
    }
}
