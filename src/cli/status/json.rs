//! The status for programs: `status --json`, and `/status` of the admin port. Keys are as in `wire/schema.fbs`.

use ringbeam_sdk::{Progress, Status};
use serde_json::{Value, json};

use super::Report;
use super::report::{NodeReport, ShardReport};

/// The whole ring.
pub fn report(report: &Report) -> Value {
    json!({
        "ring": ring_id(report.ring),
        "shards": report.shards.iter().map(shard).collect::<Vec<_>>(),
        "nodes": report.nodes.iter().map(node).collect::<Vec<_>>(),
        "findings": report.findings,
    })
}

/// A ring's id as everywhere in output: JSON numbers lose the low bits of large ones.
pub fn ring_id(ring: u64) -> String {
    format!("{ring:016x}")
}

fn shard(shard: &ShardReport) -> Value {
    let best = shard.best();
    json!({
        "shard": shard.shard,
        "leader": shard.leader.as_ref().map(|s| s.node),
        "term": best.map(|s| s.term),
        "last_index": best.map(|s| s.last_index),
        "committed_index": best.map(|s| s.committed_index),
        "applied_index": best.map(|s| s.applied_index),
        "voters": best.map_or_else(Vec::new, |s| s.voters.iter().map(progress).collect()),
        "voters_joint": best.is_some_and(|s| s.voters_joint),
        "replicas": shard.replicas.iter().map(status).collect::<Vec<_>>(),
    })
}

fn node(node: &NodeReport) -> Value {
    let (member, status) = (node.member.as_ref(), node.status.as_ref());
    json!({
        "node": node.node,
        "reachable": status.is_some(),
        "error": node.error,
        "role": node.role().map(|role| role.as_str()),
        "version": status.map(|s| &s.version),
        "uptime_ms": status.map(|s| s.uptime_ms),
        "client": member.map(|m| &m.client),
        "peer": member.map(|m| &m.peer),
        "admin": member.map(|m| &m.admin),
        "region": member.map(|m| &m.region),
    })
}

/// One shard on one node.
pub fn status(status: &Status) -> Value {
    json!({
        "node": status.node,
        "ring": ring_id(status.ring),
        "shard": status.shard,
        "shards": status.shards,
        "version": status.version,
        "role": status.role.as_str(),
        "uptime_ms": status.uptime_ms,
        "raft_state": status.raft_state,
        "leader": status.leader,
        "term": status.term,
        "last_index": status.last_index,
        "committed_index": status.committed_index,
        "applied_index": status.applied_index,
        "snapshot_index": status.snapshot_index,
        "purged_index": status.purged_index,
        "keys": status.keys,
        "state_bytes": status.state_bytes,
        "state_hash": ring_id(status.state_hash),
        "log_bytes": status.log_bytes,
        "sessions": status.sessions,
        "connections": status.connections,
        "voters": status.voters.iter().map(progress).collect::<Vec<_>>(),
        "voters_joint": status.voters_joint,
        "fault": status.fault,
        "ring_time_ms": status.ring_time_ms,
    })
}

fn progress(progress: &Progress) -> Value {
    json!({
        "node": progress.node,
        "role": progress.role.as_str(),
        "matched": progress.matched,
        "lag": progress.lag,
        "learner": progress.learner,
    })
}
