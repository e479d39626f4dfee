//! What operators ask of a shard: its status, its topology, and changes of the ring. Not on the way of any write or read.

use std::rc::Rc;

use bytes::Bytes;
use ringbeam_wire::client::{self, ReplyBody, RequestBody, SlotRange, Status, Topology};
use ringbeam_wire::refusal::{Code, Refusal};
use ringbeam_wire::slots;

use crate::admission::Reason;
use crate::batcher::Waiter;
use crate::io::Env;
use crate::raft::replica::NOT_LEADER;
use crate::shard::Shard;

/// A state larger than this is not hashed on request: it would hold the core for more than some milliseconds.
const HASH_KEYS_MAX: u64 = 50_000;

pub(crate) fn topology<E: Env>(shard: &Shard<E>) -> Topology {
    let leadership = shard.replica.leadership();
    Topology {
        epoch: shard.replica.membership_index(),
        ring: shard.settings.ring,
        shard: shard.settings.shard,
        leader: leadership.leader.map_or(0, |m| m.node),
        term: leadership.term,
        slots: slots::ranges(shard.settings.shards)
            .into_iter()
            .map(|(first, end, shard)| SlotRange { first, end, shard })
            .collect(),
        members: shard.replica.members(),
    }
}

pub(crate) fn status<E: Env>(shard: &Shard<E>) -> Status {
    let replica = &shard.replica;
    let standing = replica.standing();
    let machine = replica.machine();
    let (keys, state_bytes, sessions) = machine.with_state(|s| (s.keys(), s.bytes(), s.sessions()));
    Status {
        node: shard.settings.node.node,
        ring: shard.settings.ring,
        shard: shard.settings.shard,
        shards: shard.settings.shards,
        version: shard.settings.version.clone(),
        role: shard.settings.node.role,
        uptime_ms: E::now().since(shard.started).as_millis() as u64,
        raft_state: if shard.fault().is_some() { "stopped".to_string() } else { standing.raft_state },
        leader: standing.leader,
        term: standing.term,
        last_index: replica.last_index(),
        committed_index: standing.committed_index,
        applied_index: machine.applied_index(),
        snapshot_index: standing.snapshot_index,
        purged_index: replica.wal().purged().map_or(0, |id| id.index),
        keys,
        state_bytes,
        state_hash: if keys <= HASH_KEYS_MAX { machine.with_state(|s| s.hash()) } else { 0 },
        log_bytes: replica.wal().bytes(),
        sessions,
        connections: shard.connections.get() as u64,
        voters: standing.progress,
        voters_joint: standing.joint,
        fault: shard.fault(),
        ring_time_ms: replica.ring_time_ms(E::now()),
    }
}

/// Carries out a `Ring...` request at the leader. `frame` was parsed once already.
pub(crate) async fn change_ring<E: Env>(shard: Rc<Shard<E>>, frame: Bytes, waiter: Waiter) {
    let result = match client::parse_request(&frame).map(|r| r.body) {
        _ if !shard.replica.leads() => Err(NOT_LEADER.to_string()),
        Ok(RequestBody::RingAdd { node, peer }) => shard.replica.add(node, peer).await,
        Ok(RequestBody::RingPromote { node }) => shard.replica.promote(node).await,
        Ok(RequestBody::RingRemove { node, force }) => shard.replica.remove(node, force).await,
        Ok(RequestBody::RingTransfer { to }) => transfer(&shard, to).await,
        _ => Err("not a change of the ring".to_string()),
    };
    let answer = match result {
        Ok(message) => ReplyBody::Done { message },
        Err(why) if why == NOT_LEADER => ReplyBody::Refused(shard.explain(Reason::NotLeader)),
        Err(why) => ReplyBody::Refused(Refusal::new(Code::Membership, why)),
    };
    waiter.answer(&answer);
}

async fn transfer<E: Env>(shard: &Shard<E>, to: u64) -> Result<String, String> {
    let to = match to {
        0 => shard.replica.best_heir().ok_or_else(|| no_heir(shard))?,
        to => to,
    };
    shard.replica.transfer_on_request(to).await?;
    Ok(format!("node {to} leads shard {}", shard.settings.shard))
}

fn no_heir<E: Env>(shard: &Shard<E>) -> String {
    let me = shard.settings.node.node;
    let others = shard.replica.standing().progress.iter().any(|p| !p.learner && p.node != me);
    if others { "no other voter can lead: none is in reach".into() } else { format!("node {me} is the only voter") }
}
