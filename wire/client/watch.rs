//! Watching a range of keys: one request, then events with its id until it ends.
//!
//! ```text
//!   Watch ─▶ WatchStarted ─▶ [Events: what there is] ─▶ Events ─▶ Events ─▶ .. ─▶ WatchEnded
//! ```
//!
//! **Invariants**: events of one watch ascend by revision, but for those of a snapshot, which come in the order of their keys; `index` of
//! [`Events`] never goes back, and everything up to it has been sent.

use super::build::{Body, Builder, build_item, build_revision, bytes, namespace};
use super::data::{Fold, build_fold, check_range, parse_fold};
use super::parse::{parse_item, parse_revision};
use super::{Item, Revision};
use crate::limits::check_namespace;
use crate::malformed::Malformed;
use crate::refusal::Refusal;
use crate::schema;

/// Asks for every change of a range of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch<'a> {
    /// Namespace; "" is the default one.
    pub namespace: &'a str,
    /// As in [`Scan::from`](super::Scan::from).
    pub from: &'a [u8],
    /// As in [`Scan::until`](super::Scan::until).
    pub until: &'a [u8],
    /// Only what came behind this revision; `None`: from now on.
    pub after: Option<Revision>,
    /// First what there is, then what changes; `after` is not looked at.
    pub snapshot: bool,
    /// Without puts.
    pub no_puts: bool,
    /// Without deletions and expiries.
    pub no_deletes: bool,
    /// With the values from before, where they are known.
    pub previous: bool,
    /// One who is slow gets the newest of each key instead of each change.
    pub conflate: bool,
    /// An empty [`Events`] at least this often, milliseconds; 0: none.
    pub progress_ms: u32,
}

/// The watch is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStarted {
    /// What came up to this log index is not sent, or is in the snapshot.
    pub index: u64,
    /// The oldest revision that could be asked for.
    pub oldest: Revision,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// It has a new value.
    #[default]
    Put,
    /// It was deleted.
    Delete,
    /// Its time was up, or its lease's.
    Expire,
    /// Its value was changed by a delta, which is the event's value.
    Extend(Fold),
    /// It is as it is: part of the snapshot that a watch began with.
    Snapshot,
}

/// One change of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// What happened.
    pub kind: EventKind,
    /// The key.
    pub key: &'a [u8],
    /// The new value, or the delta; empty when there is none.
    pub value: &'a [u8],
    /// Of the change.
    pub revision: Revision,
    /// What was there before: when asked for, and known.
    pub previous: Option<Item<'a>>,
    /// Changes of this key before this one were left out.
    pub conflated: bool,
}

/// Some events of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events<'a> {
    /// In their order.
    pub events: Vec<Event<'a>>,
    /// Everything up to this log index has been sent.
    pub index: u64,
    /// Ring time at that index, milliseconds.
    pub ring_time_ms: u64,
    /// With this, all of the snapshot has been sent.
    pub snapshot_ends: bool,
}

/// The watch is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchEnded {
    /// Number of a [`Code`](crate::refusal::Code).
    pub code: u16,
    /// Why, for people.
    pub message: String,
    /// Everything up to this log index was sent: go on from there.
    pub index: u64,
    /// The oldest revision that could be asked for.
    pub oldest: Revision,
}

impl Watch<'_> {
    /// Refuses what no node takes.
    pub fn check(&self) -> Result<(), Refusal> {
        check_namespace(self.namespace)?;
        check_range("watch", self.from, self.until)
    }
}

// ---- from bytes ----

pub(super) fn parse_watch(watch: schema::Watch<'_>) -> Watch<'_> {
    Watch {
        namespace: watch.namespace().unwrap_or_default(),
        from: watch.from().map_or(&[], |from| from.bytes()),
        until: watch.until().map_or(&[], |until| until.bytes()),
        after: watch.after().map(parse_revision),
        snapshot: watch.snapshot(),
        no_puts: watch.no_puts(),
        no_deletes: watch.no_deletes(),
        previous: watch.previous(),
        conflate: watch.conflate(),
        progress_ms: watch.progress_ms(),
    }
}

pub(super) fn parse_started(started: schema::WatchStarted<'_>) -> WatchStarted {
    let oldest = started.oldest().map_or_else(Revision::default, parse_revision);
    WatchStarted { index: started.index(), oldest }
}

pub(super) fn parse_ended(ended: schema::WatchEnded<'_>) -> WatchEnded {
    WatchEnded {
        code: ended.code(),
        message: ended.message().unwrap_or_default().to_string(),
        index: ended.index(),
        oldest: ended.oldest().map_or_else(Revision::default, parse_revision),
    }
}

pub(super) fn parse_events(events: schema::Events<'_>, id: u64) -> Result<Events<'_>, Malformed> {
    Ok(Events {
        events: events.events().into_iter().flatten().map(|event| parse_event(event, id)).collect::<Result<_, _>>()?,
        index: events.index(),
        ring_time_ms: events.ring_time_ms(),
        snapshot_ends: events.snapshot_ends(),
    })
}

fn parse_event(event: schema::Event<'_>, id: u64) -> Result<Event<'_>, Malformed> {
    let kind = match event.kind() {
        schema::EventKind::Put => EventKind::Put,
        schema::EventKind::Delete => EventKind::Delete,
        schema::EventKind::Expire => EventKind::Expire,
        schema::EventKind::Extend => EventKind::Extend(parse_fold(event.fold(), id, "reply.body.events")?),
        schema::EventKind::Snapshot => EventKind::Snapshot,
        schema::EventKind(other) => {
            let known = "known are 0 (put), 1 (delete), 2 (expire), 3 (extend), 4 (snapshot)";
            return Err(Malformed::new(id, format!("reply.body.events.kind is {other}, {known}")));
        }
    };
    let revision = event.revision().ok_or_else(|| Malformed::absent(id, "the revision of an event"))?;
    Ok(Event {
        kind,
        key: event.key().map_or(&[], |key| key.bytes()),
        value: event.value().map_or(&[], |value| value.bytes()),
        revision: parse_revision(revision),
        previous: event.previous().map(|item| parse_item(item, id)).transpose()?,
        conflated: event.conflated(),
    })
}

// ---- to bytes ----

pub(super) fn build_watch(b: &mut Builder, watch: &Watch<'_>) -> Body {
    let after = watch.after.map(build_revision);
    let args = schema::WatchArgs {
        namespace: namespace(b, watch.namespace),
        from: bytes(b, watch.from),
        until: bytes(b, watch.until),
        after: after.as_ref(),
        snapshot: watch.snapshot,
        no_puts: watch.no_puts,
        no_deletes: watch.no_deletes,
        previous: watch.previous,
        conflate: watch.conflate,
        progress_ms: watch.progress_ms,
    };
    schema::Watch::create(b, &args).as_union_value()
}

pub(super) fn build_started(b: &mut Builder, started: &WatchStarted) -> Body {
    let args = schema::WatchStartedArgs { index: started.index, oldest: Some(&build_revision(started.oldest)) };
    schema::WatchStarted::create(b, &args).as_union_value()
}

pub(super) fn build_ended(b: &mut Builder, ended: &WatchEnded) -> Body {
    let args = schema::WatchEndedArgs {
        code: ended.code,
        message: Some(b.create_string(&ended.message)),
        index: ended.index,
        oldest: Some(&build_revision(ended.oldest)),
    };
    schema::WatchEnded::create(b, &args).as_union_value()
}

pub(super) fn build_events(b: &mut Builder, events: &Events<'_>) -> Body {
    let mut built = Vec::with_capacity(events.events.len());
    for event in &events.events {
        let (kind, fold) = match event.kind {
            EventKind::Put => (schema::EventKind::Put, Fold::default()),
            EventKind::Delete => (schema::EventKind::Delete, Fold::default()),
            EventKind::Expire => (schema::EventKind::Expire, Fold::default()),
            EventKind::Extend(fold) => (schema::EventKind::Extend, fold),
            EventKind::Snapshot => (schema::EventKind::Snapshot, Fold::default()),
        };
        let revision = build_revision(event.revision);
        let args = schema::EventArgs {
            kind,
            key: bytes(b, event.key),
            value: if event.value.is_empty() { None } else { bytes(b, event.value) },
            revision: Some(&revision),
            fold: build_fold(fold),
            previous: event.previous.as_ref().map(|item| build_item(b, item)),
            conflated: event.conflated,
        };
        built.push(schema::Event::create(b, &args));
    }
    let args = schema::EventsArgs {
        events: Some(b.create_vector(&built)),
        index: events.index,
        ring_time_ms: events.ring_time_ms,
        snapshot_ends: events.snapshot_ends,
    };
    schema::Events::create(b, &args).as_union_value()
}
