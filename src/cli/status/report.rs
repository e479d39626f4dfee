//! What all the answers together say.
//!
//! **Invariants**
//! - A shard's leader is the node that says so itself in the highest term; what others believe is not shown as a fact.
//! - Membership is what that leader says. It is the same in all shards, or a finding names the command that makes it so.

use std::collections::{BTreeMap, BTreeSet};

use ringbeam_sdk::{Error, Member, Progress, Role, Status};

/// How the ring is.
#[derive(Debug)]
pub struct Report {
    /// Ring id.
    pub ring: u64,
    /// In the order of their numbers.
    pub shards: Vec<ShardReport>,
    /// In the order of their ids.
    pub nodes: Vec<NodeReport>,
    /// What needs somebody's attention, a sentence each, with the command where there is one.
    pub findings: Vec<String>,
}

/// One shard over all nodes.
#[derive(Debug)]
pub struct ShardReport {
    /// Number of the shard.
    pub shard: u32,
    /// The leader's status; `None`: nobody leads, or cannot be reached.
    pub leader: Option<Status>,
    /// Every node that answered, the leader included.
    pub replicas: Vec<Status>,
}

/// One node over all shards.
#[derive(Debug)]
pub struct NodeReport {
    /// Node id.
    pub node: u64,
    /// As the ring knows it, if a leader could be asked.
    pub member: Option<Member>,
    /// The first shard's answer.
    pub status: Option<Status>,
    /// Why it, or one of its shards, gave none.
    pub error: Option<String>,
}

/// What a node is in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Absent,
    Learner,
    Voter,
}

impl Report {
    /// Puts the answers together.
    pub fn new(ring: u64, shards: u32, answers: Vec<(u64, u32, Result<Status, Error>)>, members: Vec<Member>) -> Report {
        let mut nodes: BTreeMap<u64, NodeReport> = BTreeMap::new();
        let mut replicas: BTreeMap<u32, Vec<Status>> = (0..shards).map(|shard| (shard, Vec::new())).collect();
        for (node, shard, answer) in answers {
            let report = nodes.entry(node).or_insert_with(|| NodeReport::silent(node));
            match answer {
                Ok(status) => {
                    report.status.get_or_insert_with(|| status.clone());
                    replicas.entry(shard).or_default().push(status);
                }
                Err(error) => {
                    report.error.get_or_insert_with(|| error.to_string());
                }
            }
        }
        for member in members {
            let node = member.node;
            nodes.entry(node).or_insert_with(|| NodeReport::silent(node)).member = Some(member);
        }
        let shards = replicas.into_iter().map(|(shard, replicas)| ShardReport::new(shard, replicas)).collect();
        let mut report = Report { ring, shards, nodes: nodes.into_values().collect(), findings: Vec::new() };
        report.find_troubles();
        report
    }

    fn find_troubles(&mut self) {
        let mut found = Vec::new();
        for node in &self.nodes {
            if let Some(error) = &node.error {
                let how = if node.status.is_some() { "does not answer for every shard" } else { "cannot be reached" };
                found.push(format!("node {} {how}: {error}", node.node));
            }
        }
        for shard in &self.shards {
            if shard.leader.is_none() {
                let believed: BTreeSet<u64> = shard.replicas.iter().map(|s| s.leader).filter(|&leader| leader != 0).collect();
                let believed: Vec<String> = believed.iter().map(u64::to_string).collect();
                found.push(match believed.is_empty() {
                    true => format!("shard {} has no leader: no writes; is a majority of its voters up?", shard.shard),
                    false => {
                        format!("shard {}: node {} should lead, but does not say so itself", shard.shard, believed.join(" or "))
                    }
                });
            }
            for status in &shard.replicas {
                if let Some(fault) = &status.fault {
                    found.push(format!("shard {} on node {} does not serve: {fault}", shard.shard, status.node));
                }
            }
        }
        found.extend(self.unfinished_changes());
        self.findings = found;
    }

    /// Changes of the membership that were interrupted. Commands go from the first shard to the last, so where shards differ, the
    /// first shows what was wanted.
    fn unfinished_changes(&self) -> Vec<String> {
        let led: Vec<(u32, &Status)> = self.shards.iter().filter_map(|s| Some((s.shard, s.leader.as_ref()?))).collect();
        let Some(&(first_shard, first)) = led.first() else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let nodes: BTreeSet<u64> = led.iter().flat_map(|(_, s)| s.voters.iter().map(|p| p.node)).collect();
        for node in nodes {
            let here = standing(first, node);
            if let Some((shard, there)) =
                led.iter().map(|(shard, s)| (shard, standing(s, node))).find(|(_, there)| *there != here)
            {
                found.push(format!(
                    "node {node} is {} in shard {first_shard} and {} in shard {shard}; finish the change: {}",
                    words(here),
                    words(there),
                    self.finishing(node, here, there)
                ));
            } else if here == Standing::Learner && first.voters.iter().any(|p| p.node == node && p.role != Role::Observer) {
                found.push(format!("node {node} has no vote yet; once it has caught up: ringbeam ring promote --node {node}"));
            }
        }
        let joint: Vec<String> = led.iter().filter(|(_, s)| s.voters_joint).map(|(shard, _)| shard.to_string()).collect();
        if !joint.is_empty() {
            found.push(format!(
                "a change of the voters is half done in shard {}; its leader completes it as soon as quorums of both answer",
                joint.join(", ")
            ));
        }
        found
    }

    fn finishing(&self, node: u64, wanted: Standing, elsewhere: Standing) -> String {
        match (wanted, elsewhere) {
            (Standing::Voter, Standing::Absent) => {
                format!("{}, then ringbeam ring promote --node {node}", self.adding(node))
            }
            (Standing::Voter, _) => format!("ringbeam ring promote --node {node}"),
            (Standing::Learner, Standing::Absent) => self.adding(node),
            // A voter becomes a learner only on its way out.
            (Standing::Learner | Standing::Absent, _) => {
                format!("ringbeam ring remove --node {node}")
            }
        }
    }

    fn adding(&self, node: u64) -> String {
        let member = self.nodes.iter().find(|n| n.node == node).and_then(|n| n.member.as_ref());
        let peer = member.map_or("HOST:PORT", |member| member.peer.as_str());
        format!("ringbeam ring add --node {node} --peer {peer}")
    }
}

impl ShardReport {
    fn new(shard: u32, mut replicas: Vec<Status>) -> ShardReport {
        replicas.sort_by_key(|status| status.node);
        let leads = |status: &&Status| status.raft_state == "leader" && status.fault.is_none();
        let leader = replicas.iter().filter(leads).max_by_key(|status| status.term).cloned();
        ShardReport { shard, leader, replicas }
    }

    /// The leader, or else whoever knows most.
    pub fn best(&self) -> Option<&Status> {
        self.leader.as_ref().or_else(|| self.replicas.iter().max_by_key(|s| (s.term, s.committed_index)))
    }

    /// Members other than the leader, with how far behind they are.
    pub fn followers(&self) -> impl Iterator<Item = &Progress> {
        let leader = self.leader.as_ref();
        leader.into_iter().flat_map(|l| l.voters.iter().filter(|p| p.node != l.node))
    }
}

impl NodeReport {
    fn silent(node: u64) -> NodeReport {
        NodeReport { node, member: None, status: None, error: None }
    }

    /// By its own word, else by the ring's.
    pub fn role(&self) -> Option<Role> {
        self.status.as_ref().map(|s| s.role).or(self.member.as_ref().map(|m| m.role))
    }
}

fn standing(status: &Status, node: u64) -> Standing {
    match status.voters.iter().find(|p| p.node == node) {
        None => Standing::Absent,
        Some(p) if p.learner => Standing::Learner,
        Some(_) => Standing::Voter,
    }
}

fn words(standing: Standing) -> &'static str {
    match standing {
        Standing::Absent => "no member",
        Standing::Learner => "without a vote",
        Standing::Voter => "a voter",
    }
}
