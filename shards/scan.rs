//! Pages of a scan: of the moment at which they are made, or all of one moment, which is pinned by the first.
//!
//! ```text
//!   first page ─▶ read.rs: when it is fresh enough ─▶ answer ─ more, and the asker wants more ─▶ pinned, in the same moment
//!   page of a pin ─▶ [page] narrow, make, answer; the last one may get lost, so the pin stays until its client says that it has it
//!   [care] sweep: pins that nobody has asked for lately; what was shed, in pieces
//! ```
//! A pin is this node's: the state keeps what changes for it (`state/kept/pins.rs`). It is of no connection, so that a scan goes on over another
//! one; who never comes back costs what changes for [`PIN_IDLE_MAX`].
//!
//! **Invariants**
//! - A page of a pin that is answered is of the pin's index, whoever leads meanwhile, and needs nobody else: what was committed stays so.
//! - Pins are bounded in number, in bytes, and by the time for which they rest.
//! - `more` of a page says that something follows; or that too much which is newer was passed by to know ([`STEPS_MAX`]).
//! - Its age is that of the first page, and the time since then.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use ringbeam_wire::client::{self, Item, Items, Moment, ReplyBody, RequestBody, Scan};
use ringbeam_wire::limits::{ITEMS_BYTES_MAX, SCAN_ITEMS_MAX};
use ringbeam_wire::refusal::{Code, Refusal};

use crate::attest;
use crate::batcher::Waiter;
use crate::error::{deadline_exceeded, internal, overloaded};
use crate::fresh::lengthened_ms;
use crate::io::{Env, Instant};
use crate::limits::{PIN_IDLE_MAX, PIN_RESTED, PINS_MAX, SHED_FREED_MAX, SHED_PATIENCE, STEPS_MAX};
use crate::shard::{Settings, Shard};
use crate::state::{Found, NotPinned, State, Step};

/// The pins of a shard.
#[derive(Default)]
pub(crate) struct Scans(RefCell<BTreeMap<u64, Pin>>);

#[derive(Clone, Copy)]
struct Pin {
    pinned: Instant,
    /// A page was asked for last.
    used: Instant,
    /// Of the first page.
    age_ms: Option<u32>,
    /// Its last page was answered.
    done: bool,
}

impl Pin {
    /// Nobody has asked for it lately.
    fn is_idle(&self, now: Instant) -> bool {
        now.since(self.used) > if self.done { PIN_RESTED } else { PIN_IDLE_MAX }
    }

    fn age_ms(&self, now: Instant) -> Option<u32> {
        self.age_ms?.checked_add(lengthened_ms(now.since(self.pinned))?).filter(|ms| *ms < u32::MAX)
    }
}

impl Scans {
    /// How many moments are pinned.
    #[cfg(feature = "sim")]
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether there may be one more; the one that has rested longest goes for it, if it has rested for a while.
    fn room(&self, now: Instant) -> Result<Option<u64>, Refusal> {
        let pins = self.0.borrow();
        if pins.len() < PINS_MAX {
            return Ok(None);
        }
        let oldest = pins.iter().min_by_key(|(_, pin)| pin.used).filter(|(_, pin)| now.since(pin.used) > PIN_RESTED);
        oldest.map(|(id, _)| Some(*id)).ok_or_else(|| overloaded("scans of one moment under way", pins.len(), PINS_MAX))
    }
}

/// What is left of a scan's range behind its last key.
fn rest(scan: &Scan<'_>, last: &[u8]) -> (Vec<u8>, Vec<u8>) {
    match scan.backward {
        true => (scan.from.to_vec(), last.to_vec()),
        false => ([last, &[0]].concat(), scan.until.to_vec()),
    }
}

fn most(scan: &Scan<'_>) -> usize {
    match scan.limit {
        0 => SCAN_ITEMS_MAX as usize,
        limit => limit.min(SCAN_ITEMS_MAX) as usize,
    }
}

/// Answers a page of the state as it is, and pins this moment for those that follow.
pub(crate) fn answer<E: Env>(shard: &Shard<E>, scan: &Scan<'_>, waiter: Waiter, now: Instant) {
    let machine = shard.replica.machine();
    let pinned = machine.with_state(|state| {
        let age_ms = shard.attest.age_ms(state.applied(), now);
        let page = Items { age_ms, stale: attest::is_stale(scan.consistency, age_ms), ..page(state, scan) };
        let wanted = matches!(scan.moment, Moment::Pin { keys } if page.items.len() < keys as usize);
        let last = page.items.last().filter(|_| page.more && wanted);
        let Some((from, until)) = last.map(|last| rest(scan, last.key)) else {
            waiter.answer(&ReplyBody::Items(page));
            return None;
        };
        let gone = match shard.scans.room(now) {
            Ok(gone) => gone,
            Err(refusal) => {
                waiter.answer(&ReplyBody::Refused(refusal));
                return None;
            }
        };
        let id = E::random().max(1);
        waiter.answer(&ReplyBody::Items(Items { pinned: id, ..page }));
        Some((id, from, until, age_ms, gone))
    });
    if let Some((id, from, until, age_ms, gone)) = pinned {
        gone.into_iter().for_each(|gone| unpin(shard, gone));
        machine.change_pins(|state| state.pin(id, scan.namespace, &from, &until, shard.settings.pinned_bytes_max));
        shard.scans.0.borrow_mut().insert(id, Pin { pinned: now, used: now, age_ms, done: false });
    }
}

fn page<'a>(state: &'a State, scan: &Scan<'_>) -> Items<'a> {
    let range = state.range(scan.namespace, scan.from, scan.until, scan.backward);
    let items = range.map(|(key, found)| item(key, Some(found), scan.keys_only));
    bounded(state, items, most(scan))
}

pub(crate) fn item<'a>(key: &'a [u8], found: Option<Found<'a>>, key_only: bool) -> Item<'a> {
    match found {
        Some(Found { value, revision }) => {
            let value = if key_only { &[] } else { value };
            Item { key, found: true, value, revision: revision.into() }
        }
        None => Item { key, ..Item::default() },
    }
}

/// The first items, up to `limit` and to the bytes that an answer may have.
pub(crate) fn bounded<'a>(state: &State, mut items: impl Iterator<Item = Item<'a>>, limit: usize) -> Items<'a> {
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

/// What came of one turn of a page.
enum Turn {
    /// It is answered; the last one or not.
    Done { more: bool },
    /// Nothing yet: all keys up to this one are newer.
    Further(Vec<u8>),
}

/// Answers a page of a pinned moment, when it is its turn.
pub(crate) async fn pinned<E: Env>(shard: Rc<Shard<E>>, frame: Bytes, waiter: Waiter) {
    // Room that its connection keeps for the answer.
    let promised = ITEMS_BYTES_MAX as usize;
    let outbox = waiter.outbox.clone();
    outbox.promise(promised);
    E::yield_now().await;
    let mut waiter = Some(waiter);
    let refusal = match client::parse_request(&frame).map(|request| request.body) {
        Ok(RequestBody::Scan(scan)) => make::<E>(&shard, &scan, &mut waiter).await.err(),
        _ => Some(internal("a read's frame changed")),
    };
    outbox.redeem(promised);
    if let (Some(refusal), Some(waiter)) = (refusal, waiter.take()) {
        waiter.answer(&ReplyBody::Refused(refusal));
    }
}

async fn make<E: Env>(shard: &Rc<Shard<E>>, scan: &Scan<'_>, waiter: &mut Option<Waiter>) -> Result<(), Refusal> {
    let Moment::Pinned { pin, index } = scan.moment else { return Err(internal("a page of no pin")) };
    let machine = shard.replica.machine();
    let (mut from, mut until) = (scan.from.to_vec(), scan.until.to_vec());
    loop {
        let now = E::now();
        if waiter.as_ref().is_none_or(|waiter| waiter.outbox.is_closed()) {
            return Ok(());
        }
        if waiter.as_ref().and_then(|waiter| waiter.deadline).is_some_and(|deadline| deadline <= now) {
            return Err(deadline_exceeded());
        }
        // To what was asked for, not to how far this has come: who gets no answer asks for the same page again.
        let narrowed = machine.change_pins(|state| state.narrow(pin, index, scan.namespace, scan.from, scan.until));
        narrowed.map_err(|why| not_pinned(shard, pin, index, why))?;
        let age_ms = shard.scans.0.borrow_mut().get_mut(&pin).and_then(|held| {
            held.used = now;
            held.age_ms(now)
        });
        let turn = machine.with_state(|state| {
            let (mut items, mut bytes, mut steps, mut passed, mut more) = (Vec::new(), 0, 0, None, false);
            for step in state.pinned(pin, &from, &until, scan.backward) {
                let full = items.len() == most(scan) || bytes >= ITEMS_BYTES_MAX as usize;
                match step {
                    // What is behind a page that is full may be newer, all of it.
                    Step::Newer(key) if steps < STEPS_MAX => passed = Some(key),
                    Step::Item(key, found) if !full && steps < STEPS_MAX => {
                        bytes += key.len() + found.value.len();
                        items.push(item(key, Some(found), scan.keys_only));
                    }
                    _ => {
                        more = true;
                        break;
                    }
                }
                steps += 1;
            }
            match passed.filter(|_| more && items.is_empty()) {
                Some(passed) => Turn::Further(passed.to_vec()),
                None => {
                    let pinned = if more { pin } else { 0 };
                    if let Some(waiter) = waiter.take() {
                        waiter.answer(&ReplyBody::Items(Items { items, index, more, age_ms, stale: false, pinned }));
                    }
                    Turn::Done { more }
                }
            }
        });
        match turn {
            Turn::Further(passed) => (from, until) = rest(&Scan { from: &from, until: &until, ..*scan }, &passed),
            Turn::Done { more } => {
                shard.scans.0.borrow_mut().get_mut(&pin).into_iter().for_each(|pin| pin.done = !more);
                return Ok(());
            }
        }
        E::yield_now().await;
    }
}

fn not_pinned<E: Env>(shard: &Shard<E>, pin: u64, index: u64, why: NotPinned) -> Refusal {
    let Settings { shard: number, node, pinned_bytes_max, .. } = &shard.settings;
    let rested = PIN_IDLE_MAX.as_secs();
    match why {
        NotPinned::Gone => Refusal::new(
            Code::Compacted,
            format!(
                "node {} does not keep the state of shard {number} at log index {index} for this scan any more: no page was asked for within \
                 {rested} s, more than {pinned_bytes_max} bytes have changed meanwhile for scans, or the node or its state was replaced",
                node.node
            ),
        ),
        NotPinned::Other(is) => {
            Refusal::new(Code::BadRequest, format!("pin {pin:#x} is of log index {is}, not of {index}, as the page says"))
        }
        NotPinned::Outside => {
            let why = format!(
                "the page is not within what is left of pin {pin:#x}: its namespace and its range, behind the pages before it"
            );
            Refusal::new(Code::BadRequest, why)
        }
    }
}

/// A pin is not needed any more.
pub(crate) fn unpin<E: Env>(shard: &Shard<E>, pin: u64) {
    shard.scans.0.borrow_mut().remove(&pin);
    shard.replica.machine().change_pins(|state| state.unpin(pin));
}

/// Gives up pins that nobody asks for, and frees what was shed.
pub(crate) async fn sweep<E: Env>(shard: &Shard<E>) {
    let (machine, now) = (shard.replica.machine(), E::now());
    let idle: Vec<u64> = shard.scans.0.borrow().iter().filter(|(_, pin)| pin.is_idle(now)).map(|(id, _)| *id).collect();
    idle.into_iter().for_each(|pin| unpin(shard, pin));
    if !shard.scans.0.borrow().is_empty() {
        machine.with_state(|state| shard.scans.0.borrow_mut().retain(|pin, _| state.is_pinned(*pin)));
    }
    while machine.change_pins(|state| state.free_shed(SHED_FREED_MAX)) && E::now().since(now) < SHED_PATIENCE {
        E::yield_now().await;
    }
}
