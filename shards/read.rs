//! THE WAY OF A READ.
//!
//! | consistency | who answers | what it waits for |
//! |---|---|---|
//! | local | any node that keeps state | nothing |
//! | linearizable | the leader | a quorum confirms, after the read arrived, that it still leads; one round serves all that wait |
//!
//! **Invariant**: a linearizable read reflects every write that was acknowledged anywhere before the read arrived: the round that
//! serves it began after its arrival.
//!
//! **Caveat**: a local read is served by whatever this node has applied, and a follower hears of a commit after the client does, with
//! the next append (`limits::COMMIT_UPDATE_WAIT`). When the leader dies in between, its followers have the entry and cannot know
//! that it was acknowledged: local reads lack it until a quorum has elected a leader, for as long as that takes.

use std::rc::Rc;

use bytes::Bytes;
use ringbeam_wire::client::{self, Consistency, Get, ReplyBody, RequestBody, Revision, Value};
use ringbeam_wire::refusal::{Code, Refusal};

use crate::admission::Reason;
use crate::batcher::Waiter;
use crate::error::{internal, overloaded};
use crate::io::Env;
use crate::limits::READS_WAITING_MAX;
use crate::raft::replica::NotApplied;
use crate::shard::Shard;

/// A linearizable read that waits for its round. The key stays in the frame.
pub(crate) struct Reading {
    pub frame: Bytes,
    pub waiter: Waiter,
    /// Room that its connection keeps for the answer, bytes.
    pub promised: usize,
}

/// Answers a get, now or after the next round.
pub(crate) fn get<E: Env>(shard: &Shard<E>, get: &Get<'_>, frame: &Bytes, waiter: Waiter) {
    if let Err(refusal) = may_read(shard, get) {
        return waiter.answer(&ReplyBody::Refused(refusal));
    }
    match get.consistency {
        Consistency::Local => answer(shard, get, waiter),
        Consistency::Linearizable if planted!(FollowerReads) && shard.keeps_state() => answer(shard, get, waiter),
        Consistency::Linearizable => {
            // The value may change until the answer; a connection's bound need not be exact.
            let state = shard.replica.machine();
            let promised = state.with_state(|s| s.get(get.namespace, get.key).map_or(0, |found| found.value.len()));
            waiter.outbox.promise(promised);
            shard.readings.borrow_mut().push(Reading { frame: frame.clone(), waiter, promised });
            shard.reads.notify_one();
        }
    }
}

fn may_read<E: Env>(shard: &Shard<E>, get: &Get<'_>) -> Result<(), Refusal> {
    shard.names().check(get.namespace, get.key).map_err(|(code, why)| Refusal::new(code, why))?;
    if let Some(why) = shard.fault() {
        return Err(shard.explain(Reason::Fault(why)));
    }
    if get.consistency == Consistency::Linearizable {
        if !shard.replica.leads() && !planted!(FollowerReads) {
            return Err(shard.explain(Reason::NotLeader));
        }
        let waiting = shard.readings.borrow().len();
        if waiting >= READS_WAITING_MAX {
            return Err(overloaded("reads that wait", waiting, READS_WAITING_MAX));
        }
    } else if !shard.keeps_state() {
        return Err(Refusal::new(Code::NotServing, "this node is a tie-breaker: it keeps no state and serves no reads"));
    }
    Ok(())
}

fn answer<E: Env>(shard: &Shard<E>, get: &Get<'_>, waiter: Waiter) {
    shard.replica.machine().with_state(|state| {
        let index = state.applied();
        let value = match state.get(get.namespace, get.key) {
            Some(found) => Value {
                found: true,
                value: found.value,
                revision: Revision { index: found.revision.index, position: found.revision.position },
                index,
            },
            None => Value { found: false, value: &[], revision: Revision::default(), index },
        };
        waiter.answer(&ReplyBody::Value(value));
    });
}

/// One round: confirms leadership once for all reads that wait now.
pub(crate) async fn round<E: Env>(shard: &Rc<Shard<E>>) {
    let readings = std::mem::take(&mut *shard.readings.borrow_mut());
    if readings.is_empty() {
        return;
    }
    let confirmed = shard.replica.confirm_leadership().await;
    let late = if planted!(ReadJoinsRound) { std::mem::take(&mut *shard.readings.borrow_mut()) } else { Vec::new() };
    for Reading { frame, waiter, promised } in readings.into_iter().chain(late) {
        waiter.outbox.redeem(promised);
        match &confirmed {
            Ok(()) => match client::parse_request(&frame).map(|r| r.body) {
                Ok(RequestBody::Get(get)) => answer(shard, &get, waiter),
                _ => waiter.answer(&ReplyBody::Refused(internal("a read's frame changed"))),
            },
            Err(NotApplied::NotLeader) => waiter.answer(&ReplyBody::Refused(shard.explain(Reason::NotLeader))),
            Err(NotApplied::Unknown(why)) => {
                let why = format!("leadership could not be confirmed: {why}");
                waiter.answer(&ReplyBody::Refused(Refusal::new(Code::NotLeader, why)));
            }
        }
    }
}
