//! A slice of the history on its way to the watches it concerns: all live ones, or some of those behind.
//!
//! ```text
//!   gather: from `start`, a few events at a time, up to the end of a log index ─▶ who watches it? ─▶ (watch, event), the event copied
//!   deliver: sorted by watch, a few messages at a time ─▶ done: everyone in it has all up to `end`
//! ```
//! The events that somebody watches are copied out, so that the history may drop them meanwhile. A message says the index up to which
//! its watch has been told all: that of the slice's end. When the events of one watch are too many for one message, those before the
//! last say the index before the slice; they end between two revisions, and one who goes on behind the last event it has misses and
//! repeats nothing.
//!
//! **Invariants**
//! - One plan at a time; a live one begins where the one before ended.
//! - Who is paused in the middle has been told nothing of the plan, and keeps the cursor it began with.

use std::collections::BTreeMap;

use ringbeam_wire::client::{Event, EventKind, Events, Item};

use super::engine::{Engine, Out, Phase, Watcher};
use super::history::{History, Past};
use super::index::{Index, Shape};
use super::limits::{DELIVER_MAX, GATHER_MAX, MESSAGE_BYTES, SLICE_BYTES, TOGETHER_MAX};
use crate::io::Instant;
use crate::state::events::ChangeKind;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Plan {
    /// Of whom: the participants, or `None`: all live watches.
    together: Option<(Index, Vec<u32>)>,
    start: u64,
    /// How far it has gathered.
    at: u64,
    /// Where it must not go beyond.
    until: u64,
    /// Log index and ring time of the event gathered last.
    last: Option<(u64, u64)>,
    /// What was copied out.
    bytes: Vec<u8>,
    /// Who gets which event: its place in `bytes`.
    matches: Vec<(u32, u32)>,
    /// Log index and ring time up to which it goes, once all is gathered.
    index: Option<(u64, u64)>,
    /// Matches that were delivered.
    delivered: usize,
}

impl Plan {
    fn new(together: Option<(Index, Vec<u32>)>, start: u64, until: u64) -> Plan {
        let (bytes, matches) = (Vec::new(), Vec::new());
        Plan { together, start, at: start, until, last: None, bytes, matches, index: None, delivered: 0 }
    }

    /// Where those join who become live now: events before this offset were looked up already.
    pub fn live_from(&self) -> Option<u64> {
        self.together.is_none().then_some(self.at)
    }

    /// A participant is gone.
    pub fn leave(&mut self, shape: &Shape, slot: u32) {
        if let Some((index, _)) = &mut self.together {
            index.remove(shape, slot);
        }
    }
}

impl Engine {
    /// Does some of the plan under way, or makes the next; true when there is more to do.
    pub(super) fn turn_plan(&mut self, history: &mut History, now: Instant, out: &mut impl Out) -> bool {
        let Some(mut plan) = self.plan.take().or_else(|| self.next_plan(history, out)) else {
            return self.live_at < history.end() || !self.behind.is_empty();
        };
        if plan.index.is_none() {
            if plan.at < history.start() {
                self.lost(plan);
                return true;
            }
            self.gather(&mut plan, history);
            if plan.index.is_none() {
                self.plan = Some(plan);
                return true;
            }
            plan.matches.sort_unstable();
        }
        if self.deliver(&mut plan, now, out) {
            self.plan = Some(plan);
            return true;
        }
        self.finish(&plan);
        self.live_at < history.end() || !self.behind.is_empty()
    }

    fn next_plan(&mut self, history: &mut History, out: &mut impl Out) -> Option<Plan> {
        if self.live.is_empty() {
            (self.live_at, self.live_index) = (history.end(), history.applied());
        }
        if self.live_at == history.end() {
            self.live_index = history.applied();
        } else if self.behind.is_empty() || !std::mem::take(&mut self.behind_is_next) {
            self.behind_is_next = true;
            return Some(Plan::new(None, self.live_at, history.end()));
        }
        self.plan_together(history, out)
    }

    /// What the live watches, or those of a plan, were to be told is gone from the history: each is left behind on its own.
    fn lost(&mut self, plan: Plan) {
        let slots: Vec<u32> = match &plan.together {
            Some((_, slots)) => slots.clone(),
            None => (0..self.slots.len() as u32).collect(),
        };
        for slot in slots {
            let Some(watcher) = self.slots[slot as usize].as_mut() else { continue };
            match (&watcher.phase, &plan.together) {
                (Phase::Live, None) => self.live.remove(&watcher.shape, slot),
                (Phase::Planned, Some(_)) => {}
                _ => continue,
            }
            watcher.phase = Phase::Behind;
            watcher.cursor = watcher.cursor.max(plan.start);
            self.behind.insert((watcher.cursor, slot));
        }
        self.plan_done();
    }

    fn gather(&mut self, plan: &mut Plan, history: &History) {
        let index = match &mut plan.together {
            Some((index, _)) => index,
            None => &mut self.live,
        };
        for (looked_at, (offset, past)) in history.from(plan.at).enumerate() {
            let is_next = plan.last.is_some_and(|(last, _)| past.revision.index > last);
            if is_next && (offset - plan.start >= SLICE_BYTES || offset >= plan.until) {
                (plan.at, plan.index) = (offset, plan.last.map(|(_, ms)| (past.revision.index - 1, ms)));
                return;
            }
            if looked_at == GATHER_MAX {
                plan.at = offset;
                return;
            }
            plan.last = Some((past.revision.index, past.ring_time_ms));
            let at = plan.bytes.len() as u32;
            let mut watched = false;
            let (slots, matches) = (&self.slots, &mut plan.matches);
            index.watching(past.namespace, past.key, |slot| {
                if slots[slot as usize].as_ref().is_some_and(|watcher| watcher.wants(offset, &past)) {
                    watched = true;
                    matches.push((slot, at));
                }
            });
            if watched {
                past.encode(&mut plan.bytes);
            }
        }
        (plan.at, plan.index) = (history.end(), Some((history.applied(), history.ring_time_ms())));
    }

    /// True when there is more to deliver.
    fn deliver(&mut self, plan: &mut Plan, now: Instant, out: &mut impl Out) -> bool {
        let (index, ring_time_ms) = plan.index.expect("delivered once all is gathered");
        for _ in 0..DELIVER_MAX {
            let Some(&(slot, _)) = plan.matches.get(plan.delivered) else { return false };
            let rest = &plan.matches[plan.delivered..];
            let (mine, _) = rest.split_at(rest.partition_point(|(other, _)| *other == slot));
            plan.delivered += mine.len();
            let Some(watcher) = self.slots[slot as usize].as_mut() else { continue };
            if !matches!((&watcher.phase, &plan.together), (Phase::Live, None) | (Phase::Planned, Some(_))) {
                continue;
            }
            if !out.has_room(watcher.connection) {
                self.pause(slot, if planted!(WatchSkipsWhilePaused) { plan.at } else { plan.start });
                continue;
            }
            let pasts = mine.iter().filter_map(|(_, at)| Some(Past::decode(plan.bytes.get(*at as usize..)?)?.0)).collect();
            tell(watcher, pasts, index, ring_time_ms, out);
            watcher.told_at = now;
        }
        true
    }

    fn finish(&mut self, plan: &Plan) {
        let (index, _) = plan.index.expect("done once all is gathered");
        match &plan.together {
            None => (self.live_at, self.live_index) = (plan.at, index),
            Some((_, slots)) => {
                for slot in slots {
                    let Some(watcher) = self.slots[*slot as usize].as_mut() else { continue };
                    if !matches!(watcher.phase, Phase::Planned) {
                        continue;
                    }
                    watcher.cursor = watcher.cursor.max(plan.at);
                    if watcher.cursor >= self.live_at {
                        let cursor = watcher.cursor;
                        self.join_live(*slot, cursor);
                    } else {
                        watcher.phase = Phase::Behind;
                        self.behind.insert((watcher.cursor, *slot));
                    }
                }
            }
        }
        self.plan_done();
    }

    /// A plan for those behind whose cursors are near the lowest. One who is too late, or not behind any more, needs no plan.
    fn plan_together(&mut self, history: &mut History, out: &mut impl Out) -> Option<Plan> {
        for _ in 0..TOGETHER_MAX {
            let (cursor, slot) = self.behind.first().copied()?;
            if cursor >= history.start() && cursor < self.live_at {
                break;
            }
            self.behind.remove(&(cursor, slot));
            if cursor < history.start() {
                self.left_behind(slot, history, out);
            } else {
                self.join_live(slot, cursor);
            }
        }
        let start = self.behind.first().filter(|(cursor, _)| *cursor >= history.start() && *cursor < self.live_at)?.0;
        let near = self.behind.range(..(self.live_at.min(start + SLICE_BYTES), 0)).take(TOGETHER_MAX).copied();
        let (mut index, mut slots) = (Index::default(), Vec::new());
        for (cursor, slot) in near.collect::<Vec<_>>() {
            self.behind.remove(&(cursor, slot));
            let Some(watcher) = self.slots[slot as usize].as_mut() else { continue };
            watcher.phase = Phase::Planned;
            index.insert(&watcher.shape, slot);
            slots.push(slot);
        }
        Some(Plan::new(Some((index, slots)), start, self.live_at))
    }
}

/// One watch's events of a slice that ends at `index`, as few messages as they fit.
fn tell(watcher: &mut Watcher, pasts: Vec<Past<'_>>, index: u64, ring_time_ms: u64, out: &mut impl Out) {
    let conflates = watcher.wanted.conflate && watcher.lags;
    let mut events = if conflates { conflated(&pasts) } else { pasts.iter().map(|past| (past, false)).collect() };
    let mut events: Vec<Event<'_>> =
        events.drain(..).map(|(past, conflated)| Event { conflated, ..event(past, watcher.wanted.previous) }).collect();
    while let Some(fit) = fitting(&events) {
        let rest = events.split_off(fit);
        let (before, ring_time_ms) = (watcher.index, ring_time_ms);
        out.events(watcher.connection, watcher.request, Events { events, index: before, ring_time_ms, snapshot_ends: false });
        events = rest;
    }
    watcher.index = watcher.index.max(index);
    let index = watcher.index;
    out.events(watcher.connection, watcher.request, Events { events, index, ring_time_ms, snapshot_ends: false });
}

/// How many of the events go into a message of their own, because more follow: they end with a revision. `None`: all fit.
pub(super) fn fitting(events: &[Event<'_>]) -> Option<usize> {
    let mut bytes = 0;
    for (at, event) in events.iter().enumerate() {
        bytes += event.key.len() + event.value.len() + event.previous.map_or(0, |item| item.value.len()) + 64;
        let next = events.get(at + 1)?;
        if bytes >= MESSAGE_BYTES && next.revision != event.revision {
            return Some(at + 1);
        }
    }
    None
}

/// The event as the wire has it.
pub(super) fn event<'a>(past: &Past<'a>, previous: bool) -> Event<'a> {
    let kind = match past.kind {
        ChangeKind::Put => EventKind::Put,
        ChangeKind::Delete => EventKind::Delete,
        ChangeKind::Expire => EventKind::Expire,
        ChangeKind::Extend(fold) => EventKind::Extend(fold),
    };
    let before = past.previous.filter(|_| previous);
    let previous =
        before.map(|found| Item { found: true, value: found.value, revision: found.revision.into(), ..Item::default() });
    Event { kind, key: past.key, value: past.value, revision: past.revision.into(), previous, conflated: false }
}

/// Of each key only what has come since its last whole value, and whether something before that was left out.
pub(super) fn conflated<'a, 'b>(pasts: &'b [Past<'a>]) -> Vec<(&'b Past<'a>, bool)> {
    let mut whole = BTreeMap::new();
    for (at, past) in pasts.iter().enumerate() {
        let first = whole.entry(past.key).or_insert((at, at));
        if !matches!(past.kind, ChangeKind::Extend(_)) {
            first.1 = at;
        }
    }
    let kept = pasts.iter().enumerate().filter_map(|(at, past)| {
        let (first, last) = whole.get(past.key).copied()?;
        (at >= last).then_some((past, at == last && first < last))
    });
    kept.collect()
}
