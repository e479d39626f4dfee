//! What a call can come to, owned: decoded by the driver, taken by the caller.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringbeam_wire::client::{
    Counted, Item, Items, Lease, RangeDeleted, ReplyBody, Revision, Status, Topology, Written, parse_reply,
};
use ringbeam_wire::refusal::Refusal;

use crate::connection::Connection;
use crate::limits::VALUE_BYTES_COPIED_MAX;
use crate::outcome::{Happened, Outcome as Fate};
use crate::scan::{Entry, Page};
use crate::txn::Transacted;

/// A key's value, as a read found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bytes.
    pub value: Bytes,
    /// When the key last changed.
    pub revision: Revision,
    /// The applied log index of the shard that this answer reflects.
    pub index: u64,
    /// The answer reflects every write that was acknowledged this long before it was made, or longer ago; `None`: not known.
    pub age: Option<Duration>,
    /// It may be older than [`Consistency::bounded`](crate::Consistency::bounded) asked for.
    pub stale: bool,
}

/// What a read found, if only that there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The key's value; `None`: it has none.
    pub found: Option<Value>,
    /// As in [`Value::index`].
    pub index: u64,
    /// As in [`Value::age`].
    pub age: Option<Duration>,
    /// As in [`Value::stale`].
    pub stale: bool,
}

/// The same, in the room that a place of a slab has.
#[derive(Debug)]
pub(crate) struct Found {
    value: Option<Bytes>,
    revision: Revision,
    index: u64,
    /// The greatest number: not known.
    age_ms: u32,
    stale: bool,
}

impl Found {
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    pub(crate) fn read(self) -> Read {
        let Found { revision, index, stale, .. } = self;
        let age = age_of(Some(self.age_ms).filter(|ms| *ms < u32::MAX));
        let found = self.value.map(|value| Value { value, revision, index, age, stale });
        Read { found, index, age, stale }
    }
}

pub(crate) fn age_of(age_ms: Option<u32>) -> Option<Duration> {
    age_ms.map(|ms| Duration::from_millis(u64::from(ms)))
}

/// A node's reply.
#[derive(Debug)]
pub(crate) enum Answer {
    Written(Written),
    Value(Found),
    SessionOpened(u64),
    Topology(Box<Topology>),
    Status(Box<Status>),
    Done(Box<str>),
    Transacted(Box<Transacted>),
    Counted(Counted),
    RangeDeleted(RangeDeleted),
    Resolved(Box<Fate>),
    Items(Box<Page>),
    Lease(Box<Lease>),
    Refused(Box<Refusal>),
    /// One that answers nothing which this client asks.
    Odd(&'static str),
}

impl Answer {
    /// Whether a write was carried out.
    pub(crate) fn is_of_a_write(&self) -> bool {
        matches!(self, Answer::Written(_) | Answer::Transacted(_) | Answer::Counted(_) | Answer::RangeDeleted(_))
    }

    /// The log index of its shard that it shows; none of what is not about the state.
    pub(crate) fn index(&self) -> Option<u64> {
        match self {
            Answer::Written(written) => Some(written.revision.index),
            Answer::Transacted(transacted) => Some(transacted.revision.index),
            Answer::Counted(counted) => Some(counted.revision.index),
            Answer::RangeDeleted(gone) => Some(gone.revision.index),
            Answer::Value(found) => Some(found.index()),
            Answer::Items(page) => Some(page.index),
            _ => None,
        }
    }

    /// Notes who has answered, where what follows must be asked of the same node.
    pub(crate) fn by(mut self, node: &Arc<Connection>) -> Answer {
        if let Answer::Items(page) = &mut self
            && page.pinned != 0
        {
            page.by = Some(node.clone());
        }
        self
    }

    /// Its kind, for a message about an answer that does not fit.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Answer::Written(_) => "Written",
            Answer::Value(_) => "Value",
            Answer::SessionOpened(_) => "SessionOpened",
            Answer::Topology(_) => "Topology",
            Answer::Status(_) => "Status",
            Answer::Done(_) => "Done",
            Answer::Transacted(_) => "Transacted",
            Answer::Counted(_) => "Counted",
            Answer::RangeDeleted(_) => "RangeDeleted",
            Answer::Resolved(_) => "Resolved",
            Answer::Items(_) => "Items",
            Answer::Lease(_) => "Lease",
            Answer::Refused(_) => "Refused",
            Answer::Odd(kind) => kind,
        }
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answer(Answer),
    /// The connection is no more. `sent`: the whole request had left.
    Lost {
        sent: bool,
    },
    /// The deadline passed before the reply came.
    DeadlinePassed,
    /// Too much is in flight; nothing was sent.
    Busy,
}

const _: () = assert!(size_of::<Outcome>() <= 72, "one of these lies in every place of a slab");

/// Decodes one reply: the request's id and the outcome.
pub(crate) fn decode(payload: &Bytes) -> Result<(u64, Outcome), String> {
    let reply = parse_reply(payload).map_err(|malformed| format!("the node sent no sensible reply: {malformed}"))?;
    let answer = match reply.body {
        ReplyBody::Written(written) => Answer::Written(written),
        ReplyBody::Value(value) => Answer::Value(Found {
            value: value.found.then(|| keep(payload, value.value)),
            revision: value.revision,
            index: value.index,
            age_ms: value.age_ms.unwrap_or(u32::MAX),
            stale: value.stale,
        }),
        ReplyBody::SessionOpened { session, .. } => Answer::SessionOpened(session),
        ReplyBody::Topology(topology) => Answer::Topology(Box::new(topology)),
        ReplyBody::Status(status) => Answer::Status(status),
        ReplyBody::Refused(refusal) => Answer::Refused(Box::new(refusal)),
        ReplyBody::Done { message } => Answer::Done(message.into()),
        ReplyBody::Welcome(_) => Answer::Odd("Welcome"),
        ReplyBody::Transacted(transacted) => Answer::Transacted(Box::new(Transacted {
            revision: transacted.revision,
            ring_time_ms: transacted.ring_time_ms,
            succeeded: transacted.succeeded,
            duplicate: transacted.duplicate,
            breakdown: transacted.breakdown,
            gets: gets(payload, &transacted.gets, transacted.revision.index),
        })),
        ReplyBody::Items(Items { items, index, more, age_ms, stale, pinned }) => {
            let entry = |item: &Item<'_>| Entry {
                key: keep(payload, item.key),
                value: keep(payload, item.value),
                revision: item.revision,
            };
            let entries = items.iter().map(|item| item.found.then(|| entry(item))).collect();
            Answer::Items(Box::new(Page { entries, index, more, age: age_of(age_ms), stale, pinned, by: None }))
        }
        ReplyBody::Counted(counted) => Answer::Counted(counted),
        ReplyBody::RangeDeleted(gone) => Answer::RangeDeleted(gone),
        ReplyBody::Lease(lease) => Answer::Lease(Box::new(lease)),
        ReplyBody::Resolved(resolved) if !resolved.happened => Answer::Resolved(Box::new(Fate::Never)),
        ReplyBody::Resolved(resolved) => Answer::Resolved(Box::new(Fate::Happened(Happened {
            revision: resolved.revision,
            ring_time_ms: resolved.ring_time_ms,
            existed: resolved.existed,
            gets: gets(payload, &resolved.gets, resolved.revision.index),
        }))),
        ReplyBody::WatchStarted(_) => Answer::Odd("WatchStarted"),
        ReplyBody::Events(_) => Answer::Odd("Events"),
        ReplyBody::WatchEnded(_) => Answer::Odd("WatchEnded"),
    };
    Ok((reply.id, Outcome::Answer(answer)))
}

/// What gets found that were done as of this log index.
fn gets(payload: &Bytes, items: &[Item<'_>], index: u64) -> Vec<Option<Value>> {
    let value =
        |item: &Item<'_>| Value { value: keep(payload, item.value), revision: item.revision, index, age: None, stale: false };
    items.iter().map(|item| item.found.then(|| value(item))).collect()
}

fn keep(payload: &Bytes, value: &[u8]) -> Bytes {
    if value.len() <= VALUE_BYTES_COPIED_MAX { Bytes::copy_from_slice(value) } else { payload.slice_ref(value) }
}
