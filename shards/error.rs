//! Refusals in the words of this node. Who must act: the client. What the shard itself must act on is a fault, which stops it
//! and never crosses the wire but as `ShardFault`.

use ringbeam_wire::refusal::{Code, Refusal};

use crate::limits::OVERLOADED_RETRY_MS;
use crate::state::Denied;

/// The refusal of a write that the state machine denied, the same on every node.
pub(crate) fn denied(why: Denied) -> Refusal {
    match Code::from_u16(why.code()) {
        Some(code) => Refusal::new(code, why.to_string()),
        None => Refusal::new(Code::Internal, format!("denial {} has no code", why.code())),
    }
}

/// Proposed, and nobody knows what became of it.
pub(crate) fn outcome_unknown(why: &str) -> Refusal {
    Refusal::new(Code::OutcomeUnknown, format!("the write was proposed and may be applied: {why}"))
}

/// The client's deadline passed while the write was on its way through raft.
pub(crate) fn deadline_unknown() -> Refusal {
    outcome_unknown("no quorum confirmed it before the deadline")
}

/// The deadline passed while it waited.
pub(crate) fn deadline_exceeded() -> Refusal {
    Refusal::new(Code::DeadlineExceeded, "the deadline passed while the request waited; it was not carried out")
}

/// The queue is full.
pub(crate) fn overloaded(what: &str, used: usize, limit: usize) -> Refusal {
    let mut refusal = Refusal::new(Code::Overloaded, format!("{what}: {used} of {limit} in use; try again later"));
    refusal.retry_after_ms = OVERLOADED_RETRY_MS;
    refusal
}

/// A rule of this program was broken; the client can only report it.
pub(crate) fn internal(what: &str) -> Refusal {
    Refusal::new(Code::Internal, format!("internal error: {what}; please report it"))
}
