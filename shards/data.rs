//! Writes beyond put and delete, on their way into the log and back: counters, deltas, ranges that go, the fate of a lost write.
//!
//! They go the way of every write (`write.rs`); here is what is checked of each before, and what its answer looks like.
//!
//! **Not here**: what they do (`state/`); transactions (`connection.rs`).

use ringbeam_wire::client::{
    Add, Breakdown, Counted, DeleteRange, Extend, Fold, Place, RangeDeleted, ReplyBody, RequestBody, Resolved, Revision,
};
use ringbeam_wire::refusal::{Code, Refusal};

use crate::batcher::{Form, Waiter};
use crate::error::internal;
use crate::io::Env;
use crate::shard::Shard;
use crate::state::Answer;
use crate::state::Malformed;
use crate::state::command::{Op, Write};
use crate::state::counter::{self, Addition};
use crate::state::erase::{self, Erasure};
use crate::state::extend::{self, Extension};
use crate::state::limits::MERGED_BYTES_MAX;
use crate::write;

/// Takes a write of one of these kinds.
pub(crate) fn arrive<E: Env>(shard: &Shard<E>, body: &RequestBody<'_>, waiter: impl FnOnce(Form) -> Waiter) {
    match body {
        RequestBody::Add(add) => add_in(shard, add, waiter(Form::Counted)),
        RequestBody::DeleteRange(range) => delete_range_in(shard, range, waiter(Form::RangeDeleted)),
        RequestBody::Extend(extend) => extend_in(shard, extend, waiter(Form::Written)),
        RequestBody::Resolve(place) => resolve_in(shard, *place, waiter(Form::Resolved)),
        _ => waiter(Form::Written).answer(&ReplyBody::Refused(internal("not one of these writes"))),
    }
}

fn add_in<E: Env>(shard: &Shard<E>, add: &Add<'_>, waiter: Waiter) {
    if let Err(refusal) = add.check() {
        return waiter.answer(&ReplyBody::Refused(refusal));
    }
    let &Add { namespace, key, session, sequence, answered_below, .. } = add;
    match Addition::parse(&counter::encode(add)) {
        Ok(addition) => {
            let op = Op::Add { key, addition };
            write::offer(shard, &Write { namespace, session, sequence, answered_below, op }, waiter);
        }
        Err(why) => refuse(waiter, &why),
    }
}

/// A patch that is none goes no further; what it is to change is for the state machine to look at.
fn extend_in<E: Env>(shard: &Shard<E>, extend: &Extend<'_>, waiter: Waiter) {
    if extend.fold == Fold::MergePatch
        && let Err(refusal) = check_patch(extend.delta)
    {
        return waiter.answer(&ReplyBody::Refused(refusal));
    }
    let &Extend { namespace, key, session, sequence, answered_below, .. } = extend;
    match Extension::parse(&extend::encode(extend, shard.settings.value_bytes_max as u32)) {
        Ok(extension) => {
            let op = Op::Extend { key, extension };
            write::offer(shard, &Write { namespace, session, sequence, answered_below, op }, waiter);
        }
        Err(why) => refuse(waiter, &why),
    }
}

fn check_patch(patch: &[u8]) -> Result<(), Refusal> {
    let (bytes, limit) = (patch.len(), MERGED_BYTES_MAX);
    if bytes > limit {
        return Err(Refusal::new(Code::ValueTooLarge, format!("the merge patch has {bytes} bytes, the limit is {limit}")));
    }
    extend::check_json(patch).map_err(|why| Refusal::new(Code::NotJson, format!("the merge patch is no JSON: {why}")))
}

fn delete_range_in<E: Env>(shard: &Shard<E>, range: &DeleteRange<'_>, waiter: Waiter) {
    if let Err(refusal) = range.check() {
        return waiter.answer(&ReplyBody::Refused(refusal));
    }
    let &DeleteRange { namespace, from, session, sequence, answered_below, .. } = range;
    match Erasure::parse(&erase::encode(range)) {
        Ok(erasure) => {
            let op = Op::DeleteRange { from, erasure };
            write::offer(shard, &Write { namespace, session, sequence, answered_below, op }, waiter);
        }
        Err(why) => refuse(waiter, &why),
    }
}

fn resolve_in<E: Env>(shard: &Shard<E>, place: Place, waiter: Waiter) {
    let Place { session, sequence, answered_below } = place;
    if session == 0 || sequence == 0 {
        let why = format!("session {session}, sequence {sequence} is no write of a session; nothing is kept of others");
        return waiter.answer(&ReplyBody::Refused(Refusal::new(Code::BadRequest, why)));
    }
    write::offer(shard, &Write { namespace: "", session, sequence, answered_below, op: Op::Resolve }, waiter);
}

fn refuse(waiter: Waiter, why: &Malformed) {
    waiter.answer(&ReplyBody::Refused(Refusal::new(Code::BadRequest, why.to_string())));
}

/// The answer to an addition.
pub(crate) fn counted(answer: &Answer, breakdown: Breakdown) -> ReplyBody<'static> {
    let Some(value) = answer.sum() else { return ReplyBody::Refused(internal("an addition without a sum")) };
    ReplyBody::Counted(Counted {
        revision: answer.revision.into(),
        ring_time_ms: answer.ring_time_ms,
        value,
        duplicate: answer.duplicate,
        breakdown,
    })
}

/// The answer to a range delete.
pub(crate) fn range_deleted(answer: &Answer, breakdown: Breakdown) -> ReplyBody<'static> {
    let Some((deleted, more)) = answer.erased() else {
        return ReplyBody::Refused(internal("a range that went without a number"));
    };
    ReplyBody::RangeDeleted(RangeDeleted {
        revision: answer.revision.into(),
        ring_time_ms: answer.ring_time_ms,
        deleted,
        more,
        duplicate: answer.duplicate,
        breakdown,
    })
}

/// What became of a write.
pub(crate) fn resolved(answer: &Answer) -> ReplyBody<'_> {
    let happened = !answer.never;
    ReplyBody::Resolved(Box::new(Resolved {
        happened,
        existed: answer.existed,
        revision: if happened { answer.revision.into() } else { Revision::default() },
        ring_time_ms: answer.ring_time_ms,
        gets: write::items(answer),
    }))
}
