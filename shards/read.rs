//! THE WAY OF A READ: a get, several keys at once, a page of a range.
//!
//! | consistency | who answers | what it waits for |
//! |---|---|---|
//! | local | any node that keeps state | nothing |
//! | linearizable | the leader | a quorum confirms, after the read arrived, that it still leads; one round serves all that wait |
//!
//! **Invariant**: a linearizable read reflects every write that was acknowledged anywhere before the read arrived: the round that
//! serves it began after its arrival.
//!
//! An answer is as of one log index, and bounded: it is made without a pause, and a page ends where a bound is reached. Pages take as
//! long as a hundred gets, so each is a task of its own: others run in between.
//!
//! **Caveat**: a local read is served by whatever this node has applied, and a follower hears of a commit after the client does, with
//! the next append (`limits::COMMIT_UPDATE_WAIT`). When the leader dies in between, its followers have the entry and cannot know
//! that it was acknowledged: local reads lack it until a quorum has elected a leader, for as long as that takes.

use std::rc::Rc;

use bytes::Bytes;
use ringbeam_wire::client::{self, Consistency, Get, GetMany, Item, Items, ReplyBody, RequestBody, Scan, Value};
use ringbeam_wire::limits::{ITEMS_BYTES_MAX, SCAN_ITEMS_MAX};
use ringbeam_wire::refusal::{Code, Refusal};

use crate::admission::Reason;
use crate::batcher::Waiter;
use crate::error::{internal, overloaded};
use crate::io::Env;
use crate::limits::READS_WAITING_MAX;
use crate::raft::replica::NotApplied;
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
}

/// Answers a read, now or after the next round. `body` is one that [`consistency`] knows.
pub(crate) fn arrive<E: Env>(shard: &Rc<Shard<E>>, body: &RequestBody<'_>, frame: &Bytes, waiter: Waiter) {
    if let Err(refusal) = may_read(shard, body) {
        return waiter.answer(&ReplyBody::Refused(refusal));
    }
    let at_once = consistency(body) == Consistency::Local || planted!(FollowerReads) && shard.keeps_state();
    let is_page = !matches!(body, RequestBody::Get(_));
    if at_once && !is_page {
        return answer(shard, body, waiter);
    }
    // The answer may change until then; a connection's bound need not be exact.
    let promised = shard.replica.machine().with_state(|state| match body {
        RequestBody::Get(get) => state.get(get.namespace, get.key).map_or(0, |found| found.value.len()),
        _ => ITEMS_BYTES_MAX as usize,
    });
    waiter.outbox.promise(promised);
    let reading = Reading { frame: frame.clone(), waiter, promised, is_page };
    if at_once {
        E::spawn(take_turn(shard.clone(), reading));
    } else {
        shard.readings.borrow_mut().push(reading);
        shard.reads.notify_one();
    }
}

async fn take_turn<E: Env>(shard: Rc<Shard<E>>, reading: Reading) {
    serve(&shard, reading);
}

/// Answers a read whose time has come.
fn serve<E: Env>(shard: &Shard<E>, Reading { frame, waiter, promised, .. }: Reading) {
    waiter.outbox.redeem(promised);
    match client::parse_request(&frame) {
        Ok(request) => answer(shard, &request.body, waiter),
        Err(_) => waiter.answer(&ReplyBody::Refused(internal("a read's frame changed"))),
    }
}

fn consistency(body: &RequestBody<'_>) -> Consistency {
    match body {
        RequestBody::Get(get) => get.consistency,
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
    if consistency(body) != Consistency::Local {
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

fn answer<E: Env>(shard: &Shard<E>, body: &RequestBody<'_>, waiter: Waiter) {
    shard.replica.machine().with_state(|state| {
        let body = match body {
            RequestBody::Get(get) => ReplyBody::Value(value(state, get)),
            RequestBody::GetMany(many) => ReplyBody::Items(many_items(state, many)),
            RequestBody::Scan(scan) => ReplyBody::Items(page(state, scan)),
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

fn item<'a>(key: &'a [u8], found: Option<Found<'a>>) -> Item<'a> {
    match found {
        Some(Found { value, revision }) => Item { key, found: true, value, revision: revision.into() },
        None => Item { key, ..Item::default() },
    }
}

/// As many of the keys as an answer may hold; `more` when that is not all.
fn many_items<'a>(state: &'a State, many: &GetMany<'_>) -> Items<'a> {
    let found = many.keys.iter().map(|key| item(&[], state.get(many.namespace, key)));
    bounded(state, found, many.keys.len())
}

fn page<'a>(state: &'a State, scan: &Scan<'_>) -> Items<'a> {
    let limit = match scan.limit {
        0 => SCAN_ITEMS_MAX,
        limit => limit.min(SCAN_ITEMS_MAX),
    };
    let range = state.range(scan.namespace, scan.from, scan.until, scan.backward);
    let items = range.map(|(key, found)| item(key, Some(found)));
    let items = items.map(|item| if scan.keys_only { Item { value: &[], ..item } } else { item });
    bounded(state, items, limit as usize)
}

/// The first items, up to `limit` and to the bytes that an answer may have.
fn bounded<'a>(state: &State, mut items: impl Iterator<Item = Item<'a>>, limit: usize) -> Items<'a> {
    let (mut page, mut bytes) = (Vec::new(), 0);
    while page.len() < limit && bytes < ITEMS_BYTES_MAX as usize {
        let Some(item) = items.next() else {
            return Items { items: page, index: state.applied(), ..Items::default() };
        };
        bytes += item.key.len() + item.value.len();
        page.push(item);
    }
    Items { items: page, index: state.applied(), more: items.next().is_some(), ..Items::default() }
}

/// One round: confirms leadership once for all reads that wait now.
pub(crate) async fn round<E: Env>(shard: &Rc<Shard<E>>) {
    let readings = std::mem::take(&mut *shard.readings.borrow_mut());
    if readings.is_empty() {
        return;
    }
    let confirmed = shard.replica.confirm_leadership().await;
    let late = if planted!(ReadJoinsRound) { std::mem::take(&mut *shard.readings.borrow_mut()) } else { Vec::new() };
    for reading in readings.into_iter().chain(late) {
        let refusal = match &confirmed {
            Ok(()) if reading.is_page => {
                E::spawn(take_turn(shard.clone(), reading));
                continue;
            }
            Ok(()) => {
                serve(shard, reading);
                continue;
            }
            Err(NotApplied::NotLeader) => shard.explain(Reason::NotLeader),
            Err(NotApplied::Unknown(why)) => Refusal::new(Code::NotLeader, format!("leadership could not be confirmed: {why}")),
        };
        reading.waiter.outbox.redeem(reading.promised);
        reading.waiter.answer(&ReplyBody::Refused(refusal));
    }
}
