//! THE WAY OF A WRITE, on one page.
//!
//! | step | what happens | where | time in the reply |
//! |---|---|---|---|
//! | 1 frame | a put arrives; checksum, message, sizes are verified | `connection.rs` | |
//! | 2 admit | this node leads, queue and disk have room, or it is refused with a number | `admission.rs` | |
//! | 3 batch | its bytes are copied once, behind those that wait already | `batcher.rs` | queue |
//! | 4 propose | all that waits becomes one raft entry; an idle shard does not wait | here | |
//! | 5 append | leader's log and followers get it at the same moment, each flushes once | `raft/`, `wal/` | fsync |
//! | 6 commit | a quorum of voters has it on disk, the leader perhaps not among them | openraft | quorum |
//! | 7 apply | the state machine runs the batch and gives one answer a write | `state/` | apply |
//! | 8 ack | answers go to their connections; each connection sends once | here | |
//!
//! **Invariants**
//! - A write is acknowledged only after step 6, and its answer is the one that step 7 gave on every node.
//! - A refusal before step 4 says "certainly not applied", raft's own at step 4 too: it appends nothing. After it the outcome is
//!   unknown until step 7, and a client that loses us there asks again with the same session and sequence.
//! - Step 4 takes only what the log has room for, on a full disk as well; the room is kept until the log has them.
//! - Writes of one connection enter the log in the order in which they arrived.
//!
//! **Not here**: reads (`read.rs`), what a write means (`state/`), retries (the SDK).

use std::rc::Rc;

use ringbeam_wire::client::{Breakdown, Item, ReplyBody, Transacted, Written};
use ringbeam_wire::refusal::{Code, Refusal};

use crate::admission::{self, Reason};
use crate::batcher::{Batch, Form, Waiter};
use crate::data;
use crate::error::{denied, internal, outcome_unknown};
use crate::io::{Env, Instant};
use crate::leases;
use crate::raft::replica::NotApplied;
use crate::raft::{Applied, Claim};
use crate::shard::Shard;
use crate::state::command::Write;
use crate::state::{Answer, Found};

/// Steps 2 and 3: takes a write that has just arrived, or refuses it at once.
pub(crate) fn offer<E: Env>(shard: &Shard<E>, write: &Write<'_>, waiter: Waiter) {
    let mut batcher = shard.batcher.borrow_mut();
    match shard.admit(batcher.bytes(), |standing| admission::admit(standing, write)) {
        Ok(()) => match batcher.push(write, waiter, || shard.replica.ring_time_ms(E::now())) {
            Ok(()) => shard.work.notify_one(),
            Err((waiter, why)) => waiter.answer(&ReplyBody::Refused(Refusal::new(Code::BadRequest, why))),
        },
        Err(reason) => waiter.answer(&ReplyBody::Refused(shard.explain(reason))),
    }
}

/// Steps 4 to 8: one batch, from the queue to its answers.
pub(crate) async fn carry<E: Env>(shard: Rc<Shard<E>>, batch: Rc<Batch>, room: Claim) {
    let taken = E::now();
    let outcome = shard.replica.propose(batch.payload(), room).await;
    let acked = E::now();
    match outcome {
        Ok(applied) => acknowledge(&shard, &batch, &applied, taken, acked),
        Err(NotApplied::NotLeader) => batch.answer_all(|_, _| ReplyBody::Refused(shard.explain(Reason::NotLeader))),
        Err(_) if planted!(UnknownSaidAsRefused) => {
            batch.answer_all(|_, _| ReplyBody::Refused(shard.explain(Reason::NotLeader)))
        }
        Err(NotApplied::Unknown(why)) => batch.answer_all(|_, _| ReplyBody::Refused(outcome_unknown(&why))),
    }
}

/// Step 8, for each write of the batch.
fn acknowledge<E: Env>(shard: &Shard<E>, batch: &Batch, applied: &Applied, taken: Instant, acked: Instant) {
    let flushed = shard.replica.wal().flushed_at(applied.index).unwrap_or(acked);
    batch.answer_all(|position, waiter| {
        let position = if planted!(AnswersOffByOne) { (position + 1) % applied.answers.len().max(1) } else { position };
        let Some(answer) = applied.answers.get(position) else { return ReplyBody::Refused(internal("no answer")) };
        if let Err(why) = answer.outcome {
            return ReplyBody::Refused(denied(why));
        }
        let breakdown = Breakdown {
            queue_us: taken.micros_since(waiter.arrived),
            fsync_us: flushed.micros_since(taken),
            quorum_us: applied.began.micros_since(taken),
            apply_us: acked.micros_since(applied.began),
        };
        match waiter.form {
            Form::SessionOpened => shard.session_opened(answer),
            Form::Transacted => transacted(answer, breakdown),
            Form::Leased(lease) => leases::leased(shard, answer, lease),
            Form::Counted => data::counted(answer, breakdown),
            Form::RangeDeleted => data::range_deleted(answer, breakdown),
            Form::Resolved => data::resolved(answer),
            Form::Written => ReplyBody::Written(Written {
                revision: answer.revision.into(),
                ring_time_ms: answer.ring_time_ms,
                existed: answer.existed,
                duplicate: answer.duplicate,
                breakdown,
            }),
        }
    });
}

/// What a transaction's gets found, or what is kept in that form.
pub(crate) fn items(answer: &Answer) -> Vec<Item<'_>> {
    let item = |Found { value, revision }| Item { key: &[], found: true, value, revision: revision.into() };
    answer.found().map(|found| found.map_or(Item::default(), item)).collect()
}

fn transacted(answer: &Answer, breakdown: Breakdown) -> ReplyBody<'_> {
    ReplyBody::Transacted(Box::new(Transacted {
        revision: answer.revision.into(),
        ring_time_ms: answer.ring_time_ms,
        succeeded: answer.existed,
        duplicate: answer.duplicate,
        breakdown,
        gets: items(answer),
    }))
}
