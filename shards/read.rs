//! THE WAY OF A READ: a get, several keys at once, the first page of a range (those that follow: `scan.rs`).
//!
//! | consistency | who answers | what it waits for |
//! |---|---|---|
//! | local | any node that keeps state | nothing |
//! | linearizable | the leader | a quorum confirms, after the read arrived, that it still leads; one round serves all that wait. Nothing, while it holds a lease (`raft/replica/lease.rs`) |
//! | session | any node that keeps state | it has applied the index that the session has seen (`attest.rs`) |
//! | bounded | any node that keeps state | it can show that its state is fresh enough (`attest.rs`, `fresh.rs`) |
//!
//! Every answer says which log index it reflects and, where that is known, how old it may be.
//!
//! **Invariant**: a linearizable read reflects every write that was acknowledged anywhere before the read arrived: the round that
//! serves it began after its arrival, or nobody else could be elected when it was made.
//!
//! An answer is as of one log index, and bounded: it is made without a pause, and a page ends where a bound is reached. Pages take as
//! long as a hundred gets, so each is a task of its own: others run in between.
//!
//! A key whose time is up is read until an entry of the log has taken it out (`leases.rs`): a moment later, or much later while no
//! leader is there to propose it. Who must not see it compares ring times.
//!
//! **Caveat**: a local read is served by whatever this node has applied, and a follower hears of a commit after the client does, with
//! the next append (`limits::COMMIT_UPDATE_WAIT`). When the leader dies in between, its followers have the entry and cannot know
//! that it was acknowledged: local reads lack it until a quorum has elected a leader, for as long as that takes.

use std::rc::Rc;

use bytes::Bytes;
use ringbeam_wire::client::{self, Consistency, Get, GetMany, Items, Moment, ReplyBody, RequestBody, Scan, Value};
use ringbeam_wire::limits::ITEMS_BYTES_MAX;
use ringbeam_wire::refusal::{Code, Refusal};

use crate::admission::Reason;
use crate::attest;
use crate::batcher::Waiter;
use crate::error::{internal, overloaded};
use crate::io::{Env, Instant};
use crate::leases;
use crate::limits::{FRESH_WAITING_MAX, READS_WAITING_MAX};
use crate::raft::replica::NotApplied;
use crate::scan::{self, bounded, item};
use crate::shard::Shard;
use crate::state::{Found, State};

/// A read that waits for its round, or for its turn. What it asks stays in the frame.
pub(crate) struct Reading {
    pub frame: Bytes,
    pub waiter: Waiter,
    /// Room that its connection keeps for the answer, bytes.
    pub promised: usize,
    /// It asks for several keys.
    pub is_page: bool,
    pub consistency: Consistency,
}

/// Answers a read, now or after the next round. `body` is one that [`consistency`] knows.
pub(crate) fn arrive<E: Env>(shard: &Rc<Shard<E>>, body: &RequestBody<'_>, frame: &Bytes, waiter: Waiter) {
    if let Err(refusal) = may_read(shard, body) {
        return waiter.answer(&ReplyBody::Refused(refusal));
    }
    if let RequestBody::Scan(Scan { moment: Moment::Pinned { .. }, .. }) = body {
        return E::spawn(scan::pinned(shard.clone(), frame.clone(), waiter));
    }
    // Not when it arrived: it may have waited for room on its connection, and an age is one of this moment.
    let (consistency, now) = (consistency(body), E::now());
    let ready = match consistency {
        Consistency::Linearizable => shard.replica.holds_lease(now) || planted!(FollowerReads) && shard.keeps_state(),
        Consistency::Local => true,
        Consistency::Session { .. } | Consistency::Bounded { .. } => attest::is_ready(shard, consistency, now),
    };
    if consistency != Consistency::Linearizable {
        attest::wanted(shard, now);
    }
    let is_page = !matches!(body, RequestBody::Get(_) | RequestBody::GetLease { .. });
    if ready && !is_page {
        return answer(shard, body, waiter, now);
    }
    // The answer may change until then; a connection's bound need not be exact.
    let promised = shard.replica.machine().with_state(|state| match body {
        RequestBody::Get(get) => state.get(get.namespace, get.key).map_or(0, |found| found.value.len()),
        RequestBody::GetLease { .. } => 0,
        _ => ITEMS_BYTES_MAX as usize,
    });
    waiter.outbox.promise(promised);
    let reading = Reading { frame: frame.clone(), waiter, promised, is_page, consistency };
    if ready {
        serve_in_turn(shard, reading, now);
    } else if consistency == Consistency::Linearizable {
        shard.readings.borrow_mut().push(reading);
        shard.replica.rounds.wanted.notify_one();
    } else {
        attest::wait(shard, reading);
    }
}

/// Answers a read whose time has come: a page once others have had theirs.
pub(crate) fn serve_in_turn<E: Env>(shard: &Rc<Shard<E>>, reading: Reading, now: Instant) {
    if reading.is_page {
        E::spawn(take_turn(shard.clone(), reading));
    } else {
        serve(shard, reading, now);
    }
}

async fn take_turn<E: Env>(shard: Rc<Shard<E>>, reading: Reading) {
    let now = E::now();
    // What was fresh enough when it was its turn may be no more.
    if matches!(reading.consistency, Consistency::Bounded { stale_ok: false, .. })
        && !attest::is_ready(&shard, reading.consistency, now)
    {
        return attest::wait(&shard, reading);
    }
    serve(&shard, reading, now);
}

fn serve<E: Env>(shard: &Shard<E>, Reading { frame, waiter, promised, .. }: Reading, now: Instant) {
    waiter.outbox.redeem(promised);
    match client::parse_request(&frame) {
        Ok(request) => answer(shard, &request.body, waiter, now),
        Err(_) => waiter.answer(&ReplyBody::Refused(internal("a read's frame changed"))),
    }
}

/// Refuses a read that has waited.
pub(crate) fn refuse(reading: Reading, refusal: Refusal) {
    reading.waiter.outbox.redeem(reading.promised);
    reading.waiter.answer(&ReplyBody::Refused(refusal));
}

fn consistency(body: &RequestBody<'_>) -> Consistency {
    match body {
        RequestBody::Get(get) => get.consistency,
        // Of a moment that was fresh enough.
        RequestBody::Scan(Scan { moment: Moment::Pinned { .. }, .. }) => Consistency::Local,
        RequestBody::Scan(scan) => scan.consistency,
        RequestBody::GetMany(many) => many.consistency,
        _ => Consistency::Linearizable,
    }
}

fn may_read<E: Env>(shard: &Shard<E>, body: &RequestBody<'_>) -> Result<(), Refusal> {
    let names = shard.names();
    let check = |namespace, key| names.check(namespace, key).map_err(|(code, why)| Refusal::new(code, why));
    match body {
        RequestBody::Get(get) => check(get.namespace, get.key)?,
        RequestBody::Scan(scan) => scan.check()?,
        RequestBody::GetMany(many) => {
            many.check()?;
            many.keys.iter().try_for_each(|key| check(many.namespace, key))?;
        }
        _ => {}
    }
    if let Some(why) = shard.fault() {
        return Err(shard.explain(Reason::Fault(why)));
    }
    match consistency(body) {
        Consistency::Linearizable => {
            if !shard.replica.leads() && !planted!(FollowerReads) {
                return Err(shard.explain(Reason::NotLeader));
            }
            within("reads that wait", shard.readings.borrow().len(), READS_WAITING_MAX)
        }
        _ if !shard.keeps_state() => {
            Err(Refusal::new(Code::NotServing, "this node is a tie-breaker: it keeps no state and serves no reads"))
        }
        Consistency::Local => Ok(()),
        Consistency::Bounded { age_ms_max: 0, .. } => {
            Err(Refusal::new(Code::BadRequest, "a bound of 0 ms: no answer is so fresh; at least 1, or a linearizable read"))
        }
        Consistency::Session { .. } | Consistency::Bounded { .. } => {
            within("reads that wait to be fresh", shard.attest.waiting(), FRESH_WAITING_MAX)
        }
    }
}

fn within(what: &str, waiting: usize, limit: usize) -> Result<(), Refusal> {
    if waiting < limit { Ok(()) } else { Err(overloaded(what, waiting, limit)) }
}

/// Answers from the state as it is. `now`: a moment ago at most, so that an age may be a moment too great.
fn answer<E: Env>(shard: &Shard<E>, body: &RequestBody<'_>, waiter: Waiter, now: Instant) {
    if let RequestBody::Scan(scan) = body {
        return scan::answer(shard, scan, waiter, now);
    }
    shard.replica.machine().with_state(|state| {
        let age_ms = shard.attest.age_ms(state.applied(), now);
        let stale = attest::is_stale(consistency(body), age_ms);
        let body = match body {
            RequestBody::Get(get) => ReplyBody::Value(Value { age_ms, stale, ..value(state, get) }),
            RequestBody::GetMany(many) => ReplyBody::Items(Items { age_ms, stale, ..many_items(state, many) }),
            RequestBody::GetLease { lease } => leases::found(state, *lease, shard.replica.ring_time_ms(now)),
            _ => ReplyBody::Refused(internal("not a read")),
        };
        waiter.answer(&body);
    });
}

fn value<'a>(state: &'a State, get: &Get<'_>) -> Value<'a> {
    let index = state.applied();
    match state.get(get.namespace, get.key) {
        Some(Found { value, revision }) => Value { found: true, value, revision: revision.into(), index, ..Value::default() },
        None => Value { index, ..Value::default() },
    }
}

/// As many of the keys as an answer may hold; `more` when that is not all.
fn many_items<'a>(state: &'a State, many: &GetMany<'_>) -> Items<'a> {
    let found = many.keys.iter().map(|key| item(&[], state.get(many.namespace, key), false));
    bounded(state, found, many.keys.len())
}

/// One round: confirms leadership once for all reads that wait now, here or at nodes that ask how far the log is committed. Whoever has
/// stopped waiting by then was answered by the sweep (`shard/care.rs`).
pub(crate) async fn round<E: Env>(shard: &Rc<Shard<E>>) {
    let questions = shard.replica.rounds.take();
    if shard.readings.borrow().is_empty() && questions.is_empty() {
        return;
    }
    shard.in_round.swap(&shard.readings);
    let began = E::now();
    let confirmed = shard.replica.confirm_leadership().await;
    let readings = std::mem::take(&mut *shard.in_round.borrow_mut());
    let late = if planted!(ReadJoinsRound) { std::mem::take(&mut *shard.readings.borrow_mut()) } else { Vec::new() };
    let now = E::now();
    if let Ok(index) = &confirmed {
        shard.attest.learn(began, *index);
        for question in questions {
            // Who asked may have gone.
            let _ = question.send(*index);
        }
    }
    for reading in readings.into_iter().chain(late) {
        match &confirmed {
            Ok(_) => serve_in_turn(shard, reading, now),
            Err(NotApplied::NotLeader) => refuse(reading, shard.explain(Reason::NotLeader)),
            Err(NotApplied::Unknown(why)) => {
                let why = format!("leadership could not be confirmed: {why}");
                refuse(reading, Refusal::new(Code::NotLeader, why));
            }
        }
    }
}
