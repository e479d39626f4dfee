//! Leases and lives of keys between the wire and the state machine: requests in, answers out, and the loop that takes out what is due.
//!
//! ```text
//!  put with a life, grant, keep, revoke ─▶ write::offer, as any write             get ─▶ read.rs, at the leader
//!  [expire]  the leader looks at the state's next expiry by its ring time ─▶ an `Expire` of the log, one slice after the other
//! ```
//!
//! Keys go by the log alone: each slice is an entry of its own that takes out a bounded number, on every node the same. One is on its
//! way at a time, and a pause follows it, several times as long as it took to apply: a million keys that expire together are taken out beside the
//! writes, not before them. An `Expire` that finds nothing due notes the time, when no write has for a while.
//!
//! **Invariants**
//! - Nothing goes before its time: an `Expire` is judged by its batch's ring time, and between two batches no more ring time passes than time did.
//! - Only what leads proposes; what two leaders propose at once only takes out more of what is due.
//!
//! **Not here**: what a life does to a key (`state/ops/leases.rs`).

use std::rc::Rc;
use std::time::Duration;

use ringbeam_wire::client::{Lease, Life, Place, ReplyBody, RequestBody, Step, Transact, check_ttl};
use ringbeam_wire::limits::LEASE_TTL_MS_MIN;
use ringbeam_wire::refusal::Refusal;

use crate::batcher::{Form, Waiter};
use crate::error::denied;
use crate::io::Env;
use crate::limits::{CARE_INTERVAL, EXPIRE_KEYS_MAX, EXPIRE_PAUSE, EXPIRE_PAUSE_TIMES, EXPIRY_LOOK, RING_TIME_NOTE};
use crate::shard::Shard;
use crate::state::command::{Builder, Op, Write};
use crate::state::{Answer, Denied, State};
use crate::write;

/// Carries out a put with a life, or what is asked of a lease but [`RequestBody::GetLease`].
pub(crate) fn carry_out<E: Env>(shard: &Shard<E>, body: &RequestBody<'_>, mut waiter: Waiter) {
    let (namespace, place, op, refused) = match body {
        RequestBody::Put(put) => {
            let place = Place { session: put.session, sequence: put.sequence, answered_below: put.answered_below };
            let op = Op::PutFor { key: put.key, life: put.life, value: put.value };
            (put.namespace, place, op, check_life(put.life))
        }
        RequestBody::GrantLease { ttl_ms, place } => {
            waiter.form = Form::Leased(0);
            ("", *place, Op::GrantLease { ttl_ms: *ttl_ms }, check_ttl("lease", *ttl_ms, LEASE_TTL_MS_MIN))
        }
        RequestBody::KeepLease { lease } => {
            waiter.form = Form::Leased(*lease);
            ("", Place::default(), Op::KeepLease { lease: *lease }, Ok(()))
        }
        RequestBody::RevokeLease { lease, place } => ("", *place, Op::RevokeLease { lease: *lease }, Ok(())),
        _ => return,
    };
    if let Err(refusal) = refused {
        return waiter.answer(&ReplyBody::Refused(refusal));
    }
    let Place { session, sequence, answered_below } = place;
    write::offer(shard, &Write { namespace, session, sequence, answered_below, op }, waiter);
}

fn check_life(life: Life) -> Result<(), Refusal> {
    if life.ttl_ms == 0 { Ok(()) } else { check_ttl("key", life.ttl_ms, 1) }
}

/// Refuses a transaction in which a key's time is none.
pub(crate) fn check_lives(transact: &Transact<'_>) -> Result<(), Refusal> {
    let mut steps = transact.then.iter().chain(&transact.otherwise);
    steps.try_for_each(|step| if let Step::Put { life, .. } = step { check_life(*life) } else { Ok(()) })
}

/// The answer to a grant (`lease` 0) or to keeping a lease.
pub(crate) fn leased<E: Env>(shard: &Shard<E>, answer: &Answer, lease: u64) -> ReplyBody<'static> {
    let lease = if lease == 0 { answer.revision.session_id() } else { lease };
    // A retry may come when it has ended; what it was granted is told all the same.
    let now = shard.replica.machine().with_state(|state| state.lease(lease, answer.ring_time_ms)).unwrap_or_default();
    ReplyBody::Lease(Lease {
        lease,
        ttl_ms: now.ttl_ms,
        left_ms: now.left_ms,
        keys: now.keys,
        revision: answer.revision.into(),
        ring_time_ms: answer.ring_time_ms,
        duplicate: answer.duplicate,
    })
}

/// A lease as it is at this ring time.
pub(crate) fn found(state: &State, lease: u64, ring_time_ms: u64) -> ReplyBody<'static> {
    match state.lease(lease, ring_time_ms) {
        Some(now) => ReplyBody::Lease(Lease {
            lease,
            ttl_ms: now.ttl_ms,
            left_ms: now.left_ms,
            keys: now.keys,
            ring_time_ms: ring_time_ms.max(state.ring_time_ms()),
            ..Lease::default()
        }),
        None => ReplyBody::Refused(denied(Denied::LeaseNotFound)),
    }
}

/// Takes out what is due, as long as the shard runs.
pub(crate) async fn expire<E: Env>(shard: Rc<Shard<E>>) {
    let mut builder = Builder::new();
    let mut pause = CARE_INTERVAL;
    loop {
        E::sleep(pause).await;
        pause = slice(&shard, &mut builder).await;
    }
}

/// Takes out one slice of what is due, if anything is; the pause until the next look.
async fn slice<E: Env>(shard: &Shard<E>, builder: &mut Builder) -> Duration {
    let machine = shard.replica.machine();
    let Some(next) = machine.with_state(State::next_expiry_ms).filter(|_| shard.replica.leads()) else { return CARE_INTERVAL };
    let ring_time_ms = shard.replica.ring_time_ms(E::now());
    let due = next <= ring_time_ms + if planted!(ExpiresEarly) { 1_000 } else { 0 };
    let silent_ms = ring_time_ms - machine.with_state(State::ring_time_ms);
    if !due && silent_ms < RING_TIME_NOTE.as_millis() as u64 {
        return EXPIRY_LOOK;
    }
    builder.start(ring_time_ms);
    let op = Op::Expire { most: EXPIRE_KEYS_MAX };
    let pushed = builder.push(&Write { namespace: "", session: 0, sequence: 0, answered_below: 0, op });
    assert!(pushed.is_ok(), "an expiry within its bounds is a write");
    let payload = builder.finish();
    // Where the log has no room, nothing goes; deletes need room like any entry.
    let Ok(room) = shard.replica.wal().claim(1, payload.len()) else { return CARE_INTERVAL };
    match shard.replica.propose(payload, room).await {
        Ok(applied) => EXPIRE_PAUSE.max(applied.ended.since(applied.began) * EXPIRE_PAUSE_TIMES).min(CARE_INTERVAL),
        Err(_) => CARE_INTERVAL,
    }
}
