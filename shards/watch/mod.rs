//! Watches: who asks is told every change of a range of keys, in order, from a revision on, from now on, or behind a copy of what
//! there is. Served by every node that keeps state.
//!
//! ```text
//!   raft: machine.rs ── apply ──▶ Feed: history.rs, what happened lately ──▶ [pump] engine.rs: who gets what ──▶ outboxes
//!                                                     connection.rs ── ask, unwatch, room, close ──▶ │
//!   history.rs  the last changes of the shard, in bytes      index.rs    who watches this key?
//!   engine.rs   watches and their places                     plan.rs     a slice of the history on its way
//!   copying.rs  pages of the state before the changes        limits.rs   every bound, with its reason
//! ```
//!
//! A write pays for the copy into the history and for nothing else: watches are looked up later, by the pump, in turns of about 100 us
//! between which everything else runs. So 10,000 watches delay their own events before they delay a write.
//!
//! **A slow client** costs what waits in its outbox ([`limits::EVENT_BYTES_MAX`]) and the places of its watches. They are paused: when it
//! reads again, they go on behind what it got. If the history has gone on without them, they begin anew with a copy (`conflate`), or end
//! with `WatchTooSlow` and the index they had. One that takes nothing for [`crate::limits::SEND_STALL_MAX`] is disconnected.
//!
//! **Not here**: merging shards, going on elsewhere after a disconnect (the SDK).

mod copying;
mod engine;
mod history;
mod index;
pub mod limits;
mod plan;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use ringbeam_wire::client::{Events, ReplyBody, Watch, WatchEnded};
use ringbeam_wire::refusal::{Code, Refusal};

use crate::admission::Reason;
use crate::batcher::Waiter;
use crate::connection::Outbox;
use crate::io::channel::Notify;
use crate::io::{Env, Instant};
use crate::shard::Shard;
use crate::state::Revision;
use engine::{Engine, NotTaken, Out, Wanted};
pub use history::{Bounds, History, Recorder};

/// What the state machine tells, and whom it wakes.
#[derive(Debug)]
pub struct Feed {
    history: RefCell<History>,
    /// There is something new, or somebody has room again, or asks.
    ready: Notify,
    /// Somebody watches.
    watched: Cell<bool>,
}

impl Feed {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Rc<Feed> {
        Rc::new(Feed { history: RefCell::new(History::new(bounds)), ready: Notify::new(), watched: Cell::new(false) })
    }

    /// Lends out the history to a batch that is applied: `apply` tells the recorder, and is done with all up to `index`.
    pub fn record<T>(&self, index: u64, ring_time_ms: u64, apply: impl FnOnce(&mut Recorder<'_>) -> T) -> T {
        let mut history = self.history.borrow_mut();
        let done = apply(&mut history.recorder(ring_time_ms));
        history.applied_through(index);
        if self.watched.get() {
            self.ready.notify_one();
        }
        done
    }

    /// Bytes of the history.
    #[cfg(feature = "sim")]
    pub fn bytes(&self) -> u64 {
        self.history.borrow().bytes()
    }

    /// The entry at `index` changed no key.
    pub fn passed(&self, index: u64) {
        self.history.borrow_mut().applied_through(index);
        if self.watched.get() {
            self.ready.notify_one();
        }
    }

    /// The state was replaced, by one as of `index`.
    pub fn reset(&self, index: u64, ring_time_ms: u64) {
        self.history.borrow_mut().reset(index, ring_time_ms);
        self.ready.notify_one();
    }
}

/// The watches of a shard.
#[derive(Default)]
pub(crate) struct Hub {
    engine: RefCell<Engine>,
    connections: RefCell<BTreeMap<u64, Rc<Outbox>>>,
    last_connection: Cell<u64>,
}

struct Ways<'a>(&'a BTreeMap<u64, Rc<Outbox>>);

impl Out for Ways<'_> {
    fn has_room(&self, connection: u64) -> bool {
        self.0.get(&connection).is_some_and(|outbox| outbox.has_event_room())
    }
    fn events(&mut self, connection: u64, request: u64, events: Events<'_>) {
        if let Some(outbox) = self.0.get(&connection) {
            outbox.tell(request, &ReplyBody::Events(events));
        }
    }
    fn ended(&mut self, connection: u64, request: u64, ended: &WatchEnded) {
        if let Some(outbox) = self.0.get(&connection) {
            outbox.tell(request, &ReplyBody::WatchEnded(Box::new(ended.clone())));
        }
    }
}

/// Takes a watch, or says why not.
pub(crate) fn ask<E: Env>(shard: &Shard<E>, watch: &Watch<'_>, waiter: Waiter) {
    if let Err(refusal) = may_watch(shard, watch) {
        return waiter.answer(&ReplyBody::Refused(refusal));
    }
    let hub = &shard.watches;
    let outbox = waiter.outbox.clone();
    if outbox.watching.get() == 0 {
        hub.last_connection.set(hub.last_connection.get() + 1);
        outbox.watching.set(hub.last_connection.get());
        hub.connections.borrow_mut().insert(outbox.watching.get(), outbox.clone());
    }
    let wanted = Wanted {
        namespace: watch.namespace.to_string(),
        from: watch.from.to_vec(),
        until: watch.until.to_vec(),
        after: watch.after.map(|after| Revision { index: after.index, position: after.position }),
        snapshot: watch.snapshot,
        no_puts: watch.no_puts,
        no_deletes: watch.no_deletes,
        previous: watch.previous,
        conflate: watch.conflate,
        progress: (watch.progress_ms > 0).then(|| Duration::from_millis(watch.progress_ms.into())),
    };
    let feed = shard.replica.machine().feed();
    let taken =
        hub.engine.borrow_mut().ask(outbox.watching.get(), waiter.request, wanted, &mut feed.history.borrow_mut(), E::now());
    match taken {
        Ok(started) => waiter.answer(&ReplyBody::WatchStarted(started)),
        Err(NotTaken::Compacted { oldest }) => {
            let after = watch.after.unwrap_or_default();
            let message = format!(
                "the changes behind {}.{} are not kept any more on node {}; the oldest revision to go on behind is {}.{}",
                after.index, after.position, shard.settings.node.node, oldest.index, oldest.position
            );
            let ended = WatchEnded { code: Code::Compacted as u16, message, index: after.index, oldest: oldest.into() };
            waiter.answer(&ReplyBody::WatchEnded(Box::new(ended)));
        }
        Err(NotTaken::SameRequest) => {
            let why = format!("request {} of this connection is a watch already", waiter.request);
            waiter.answer(&ReplyBody::Refused(Refusal::new(Code::BadRequest, why)));
        }
        Err(NotTaken::TooMany(what, most)) => {
            let why = format!("{what}: there are {most}, more may not be");
            waiter.answer(&ReplyBody::Refused(Refusal::new(Code::TooManyWatches, why)));
        }
    }
    feed.watched.set(!hub.engine.borrow().is_empty());
    feed.ready.notify_one();
}

fn may_watch<E: Env>(shard: &Shard<E>, watch: &Watch<'_>) -> Result<(), Refusal> {
    watch.check()?;
    if !watch.until.is_empty() && watch.from >= watch.until {
        return Err(Refusal::new(Code::BadRequest, "the range to watch ends before it begins"));
    }
    if let Some(why) = shard.fault() {
        return Err(shard.explain(Reason::Fault(why)));
    }
    if !shard.keeps_state() {
        return Err(Refusal::new(Code::NotServing, "this node is a tie-breaker: it keeps no state and has nothing to watch"));
    }
    Ok(())
}

/// Ends a watch of this connection.
pub(crate) fn unwatch<E: Env>(shard: &Shard<E>, watch: u64, waiter: Waiter) {
    let feed = shard.replica.machine().feed();
    let mut engine = shard.watches.engine.borrow_mut();
    let ended = engine.unwatch(waiter.outbox.watching.get(), watch, &mut feed.history.borrow_mut());
    feed.watched.set(!engine.is_empty());
    waiter.answer(&match ended {
        true => ReplyBody::Done { message: String::new() },
        false => ReplyBody::Refused(Refusal::new(Code::BadRequest, format!("request {watch} of this connection is no watch"))),
    });
}

/// A connection has taken some of what waited for it.
pub(crate) fn room<E: Env>(shard: &Shard<E>, outbox: &Outbox) {
    if shard.watches.engine.borrow_mut().room(outbox.watching.get()) {
        shard.replica.machine().feed().ready.notify_one();
    }
}

/// A connection is no more.
pub(crate) fn close<E: Env>(shard: &Shard<E>, outbox: &Outbox) {
    let feed = shard.replica.machine().feed();
    let mut engine = shard.watches.engine.borrow_mut();
    engine.close(outbox.watching.get(), &mut feed.history.borrow_mut());
    shard.watches.connections.borrow_mut().remove(&outbox.watching.get());
    feed.watched.set(!engine.is_empty());
}

/// Brings what happens to those who watch, a bounded amount at a time.
pub(crate) async fn pump<E: Env>(shard: Rc<Shard<E>>) {
    let machine = shard.replica.machine().clone();
    let feed = machine.feed();
    loop {
        let due = shard.watches.engine.borrow().next_due();
        match due {
            None => feed.ready.notified().await,
            Some(due) => future::or(feed.ready.notified(), E::sleep(due.since(E::now()))).await,
        }
        while turn(&shard, &feed, E::now()) {
            E::yield_now().await;
        }
    }
}

fn turn<E: Env>(shard: &Shard<E>, feed: &Feed, now: Instant) -> bool {
    let (connections, mut history) = (shard.watches.connections.borrow(), feed.history.borrow_mut());
    let mut engine = shard.watches.engine.borrow_mut();
    let more = shard.replica.machine().with_state(|state| engine.turn(&mut history, state, now, &mut Ways(&connections)));
    feed.watched.set(!engine.is_empty());
    more
}
