//! One call: what it asks, for how long, and what to say when it fails.
//!
//! **Not here**: carrying it out (`call.rs`).

use std::time::{Duration, Instant};

use ringbeam_wire::client::{
    Add, Consistency, Delete, DeleteRange, Extend, Get, GetMany, Life, Put, RequestBody, Scan, Transact,
};
use ringbeam_wire::limits::{check_key, check_namespace, check_value};
use ringbeam_wire::refusal::Refusal;

use crate::answer::{Answer, Outcome};
use crate::connection::Connection;
use crate::error::Error;
use crate::limits::DEADLINE_MARGIN_MAX;
use crate::pinned::Pin;
use crate::retry::{Kind, Verdict};
use crate::session::Ticket;
use crate::shard::{Shard, Turn};

/// What is asked, without the ticket.
#[derive(Clone)]
pub(crate) enum What<'a> {
    Put {
        namespace: &'a str,
        key: &'a [u8],
        value: &'a [u8],
        life: Life,
    },
    Delete {
        namespace: &'a str,
        key: &'a [u8],
    },
    Get {
        namespace: &'a str,
        key: &'a [u8],
        consistency: Consistency,
    },
    /// Without its ticket; `shards` of the ring.
    Txn {
        transact: &'a Transact<'a>,
        shards: u32,
    },
    /// Without its ticket.
    Add(Add<'a>),
    /// Without its ticket.
    DeleteRange(DeleteRange<'a>),
    /// Without its ticket.
    Extend(Extend<'a>),
    Scan(Scan<'a>),
    GetMany(&'a GetMany<'a>),
    Ring(RequestBody<'a>),
}

/// A call's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    pub(crate) started: Instant,
    pub(crate) deadline: Instant,
    pub(crate) timeout: Duration,
}

/// One call in the loop.
pub(crate) struct Job<'a> {
    pub(crate) number: u32,
    pub(crate) shard: &'a Shard,
    pub(crate) kind: Kind,
    pub(crate) what: What<'a>,
    pub(crate) time: Time,
    /// Only the node that keeps this will do.
    pub(crate) pin: Option<&'a Pin>,
}

impl Time {
    pub(crate) fn start(timeout: Duration) -> Time {
        let now = Instant::now();
        // A timeout beyond what a clock can say is no deadline in practice; a year is as good.
        let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(365 * 86_400));
        Time { started: now, deadline, timeout }
    }

    pub(crate) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// An error of a part of this call, which had what was left of its time: it was tried for all of it.
    pub(crate) fn of_the_call(&self, error: Error) -> Error {
        match error {
            Error::Timeout { why, .. } if self.remaining().is_zero() => {
                Error::Timeout { timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX), why }
            }
            other => other,
        }
    }
}

/// What the server is told of `remaining`: see [`DEADLINE_MARGIN_MAX`].
pub(crate) fn deadline_ms(remaining: Duration) -> u32 {
    let told = remaining - (remaining / 8).min(DEADLINE_MARGIN_MAX);
    u32::try_from(told.as_millis()).unwrap_or(u32::MAX).max(1)
}

impl<'a> What<'a> {
    pub(crate) fn body(&self, ticket: Option<Ticket>) -> RequestBody<'a> {
        let Ticket { session, sequence, answered_below } =
            ticket.unwrap_or(Ticket { session: 0, sequence: 0, answered_below: 0 });
        match self {
            &What::Put { namespace, key, value, life } => {
                RequestBody::Put(Put { namespace, key, value, session, sequence, answered_below, life })
            }
            &What::Delete { namespace, key } => {
                RequestBody::Delete(Delete { namespace, key, session, sequence, answered_below })
            }
            &What::Get { namespace, key, consistency } => RequestBody::Get(Get { namespace, key, consistency }),
            &What::Txn { transact, .. } => {
                RequestBody::Transact(Box::new(Transact { session, sequence, answered_below, ..transact.clone() }))
            }
            &What::Add(add) => RequestBody::Add(Add { session, sequence, answered_below, ..add }),
            &What::DeleteRange(range) => RequestBody::DeleteRange(DeleteRange { session, sequence, answered_below, ..range }),
            &What::Extend(extend) => RequestBody::Extend(Extend { session, sequence, answered_below, ..extend }),
            &What::Scan(scan) => RequestBody::Scan(scan),
            &What::GetMany(many) => RequestBody::GetMany(Box::new(many.clone())),
            What::Ring(body) => body.clone(),
        }
    }

    /// Its name, for whoever looks at calls.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            What::Put { .. } => "put",
            What::Delete { .. } => "delete",
            What::Get { .. } => "get",
            What::Txn { .. } => "txn",
            What::Add(_) => "add",
            What::DeleteRange(_) => "delete_range",
            What::Extend(_) => "extend",
            What::Scan(_) => "scan",
            What::GetMany(_) => "get_many",
            What::Ring(_) => "ring",
        }
    }

    /// Refuses what the node would refuse, before it can stop the connection for everyone: a frame that is too large is.
    pub(crate) fn check(&self, value_bytes_max: u32) -> Result<(), Refusal> {
        match *self {
            What::Put { namespace, key, value, .. } => {
                check_namespace(namespace).and_then(|()| check_key(key)).and_then(|()| check_value(value, value_bytes_max))
            }
            What::Delete { namespace, key } | What::Get { namespace, key, .. } => {
                check_namespace(namespace).and_then(|()| check_key(key))
            }
            What::Txn { transact, shards } => {
                check_namespace(transact.namespace).and_then(|()| transact.check(value_bytes_max, shards))
            }
            What::Add(add) => check_namespace(add.namespace).and_then(|()| check_key(add.key)).and_then(|()| add.check()),
            What::DeleteRange(range) => range.check(),
            What::Extend(Extend { namespace, key, delta, .. }) => {
                check_namespace(namespace).and_then(|()| check_key(key)).and_then(|()| check_value(delta, value_bytes_max))
            }
            What::Scan(scan) => scan.check(),
            What::GetMany(many) => check_namespace(many.namespace).and_then(|()| many.check()),
            What::Ring(_) => Ok(()),
        }
    }

    pub(crate) fn reads_anywhere(&self) -> bool {
        self.consistency().is_some_and(|consistency| consistency != Consistency::Linearizable)
    }

    /// It waits for a node to be fresh enough, and another may be.
    pub(crate) fn may_be_refused_as_old(&self) -> bool {
        matches!(self.consistency(), Some(Consistency::Session { .. } | Consistency::Bounded { .. }))
    }

    fn consistency(&self) -> Option<Consistency> {
        match self {
            What::Get { consistency, .. } => Some(*consistency),
            What::Scan(scan) => Some(scan.consistency),
            What::GetMany(many) => Some(many.consistency),
            _ => None,
        }
    }
}

/// What was seen last, for the caller's error.
#[derive(Default)]
pub(crate) struct Why {
    text: String,
    refusal: Option<Refusal>,
    /// The call ends as it may not be repeated any more, with time left.
    spent: bool,
}

impl Why {
    pub(crate) fn text(text: String) -> Why {
        Why { text, ..Why::default() }
    }

    /// Whether the ring refused it.
    pub(crate) fn is_refusal(&self) -> bool {
        self.refusal.is_some()
    }

    pub(crate) fn of(connection: &Connection, outcome: Outcome) -> Why {
        let address = &connection.address;
        match outcome {
            Outcome::Answer(Answer::Refused(refusal)) => {
                Why { text: format!("{address}: {refusal}"), refusal: Some(*refusal), spent: false }
            }
            Outcome::Answer(other) => Why::text(format!("{address} answered with {}", other.kind())),
            Outcome::Lost { .. } => Why::text(connection.why_closed()),
            Outcome::DeadlinePassed => Why::text(format!("{address} did not answer in time")),
            Outcome::Busy => Why::text(format!("too much is in flight to {address}")),
        }
    }

    /// It would be tried again, but the client's retry budget is spent.
    pub(crate) fn spent(mut self) -> Why {
        const SPENT: &str = "; not tried again, as this client's retry budget is spent";
        self.text.push_str(SPENT);
        if let Some(refusal) = &mut self.refusal {
            refusal.message.push_str(SPENT);
        }
        Why { spent: true, ..self }
    }

    pub(crate) fn error(self, verdict: Verdict, job: &Job<'_>, turn: Option<&Turn<'_>>) -> Error {
        match (verdict, self.refusal) {
            (Verdict::Refused, Some(refusal)) => Error::Refused(refusal),
            (Verdict::Unknown, _) => {
                turn.into_iter().for_each(Turn::hold);
                let (session, sequence) = turn.map_or((0, 0), |turn| (turn.ticket.session, turn.ticket.sequence));
                Error::Unknown { shard: job.number, session, sequence, why: self.text }
            }
            (Verdict::Refused | Verdict::Timeout, _) => {
                let tried = if self.spent { job.time.started.elapsed() } else { job.time.timeout };
                let timeout_ms = u64::try_from(tried.as_millis()).unwrap_or(u64::MAX);
                Error::Timeout { timeout_ms, why: self.text }
            }
        }
    }
}

pub(crate) fn odd(answer: &Answer) -> Error {
    Error::Protocol(format!("a node answered with {}, which is no answer to this request", answer.kind()))
}
