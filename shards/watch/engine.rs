//! The watches of a shard: who is where, and who gets what next. Pure: history, state, time and the way out are arguments.
//!
//! ```text
//!              from now                              caught up
//!   ask ──────────────────────▶ Live ◀──────────────────────────── Behind ◀── ask, after a revision
//!    │                           │  its connection has no room       ▲  │
//!    │                           └──────────▶ paused ───── room ─────┘  │ the history has left it behind
//!    │  with a snapshot                                                 ▼
//!    └─────────────────▶ Copying, page by page ◀─── it may conflate ── or it ends, with the index that it was told last
//! ```
//!
//! **Live** watches have all there is up to one offset of the history, the same for all of them: a change is looked up in their index
//! and goes to those it concerns. **Behind** ones have a cursor each; up to `TOGETHER_MAX` whose cursors are near each other go
//! through the same slice of the history together. A **paused** one costs its memory and nothing else. **Copying** ones get pages of
//! the state (`copying.rs`).
//!
//! A turn does a bounded amount of work and says whether there is more (`plan.rs`): the caller lets other tasks run in between.
//!
//! **Invariants**
//! - A watch is told each change of its range behind where it began, once and in order, or that it is at its end, or that a copy
//!   begins anew: never a gap in silence. A message is only made when its connection has room for it.
//! - `index` of what a watch is told never goes back, and all up to it was told before or with it.
//! - A live watch is never paused and is in the index of live ones; one behind that is not paused and not in a plan is in `behind`.
//! - A number is not given to another watch while a plan may still name it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ringbeam_wire::client::{Events, WatchEnded, WatchStarted};
use ringbeam_wire::refusal::Code;

use super::history::{Gone, History, Past};
use super::index::{Index, Shape};
use super::limits::{CONNECTION_WATCHES_MAX, NOTICES_MAX, PROGRESS_MIN, RESUME_MAX, SHARD_WATCHES_MAX};
use super::plan::Plan;
use crate::io::Instant;
use crate::state::events::ChangeKind;
use crate::state::{Revision, State};

/// The way out to connections.
pub(crate) trait Out {
    /// Whether a message may be put behind what waits for this connection.
    fn has_room(&self, connection: u64) -> bool;
    /// A message of a watch.
    fn events(&mut self, connection: u64, request: u64, events: Events<'_>);
    /// The last message of a watch.
    fn ended(&mut self, connection: u64, request: u64, ended: &WatchEnded);
}

/// What a watch asks for, and from where on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub namespace: String,
    pub from: Vec<u8>,
    pub until: Vec<u8>,
    pub after: Option<Revision>,
    pub snapshot: bool,
    pub no_puts: bool,
    pub no_deletes: bool,
    pub previous: bool,
    pub conflate: bool,
    pub progress: Option<Duration>,
}

/// Why a watch is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// What it asks for is gone.
    Compacted { oldest: Revision },
    /// The connection has a watch of this request already.
    SameRequest,
    /// What there are too many of, and how many may be.
    TooMany(&'static str, usize),
}

/// How a watch stands.
#[derive(Debug)]
pub(super) enum Phase {
    Live,
    Behind,
    /// Behind, and part of the plan under way.
    Planned,
    /// Pages of the state: all keys up to this one were sent.
    Copying {
        sent: Option<Vec<u8>>,
        /// Because it was left behind, not because it asked.
        again: bool,
    },
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub connection: u64,
    pub request: u64,
    pub shape: Shape,
    pub wanted: Wanted,
    pub phase: Phase,
    pub paused: bool,
    /// It was paused, and has not caught up yet.
    pub lags: bool,
    /// Nothing before this offset is still to be told.
    pub cursor: u64,
    /// Nor anything up to this revision.
    pub after: Revision,
    /// What it was told last.
    pub index: u64,
    pub told_at: Instant,
    /// When it is looked at whether it is to be told that nothing happened.
    due_at: Instant,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    pub(super) slots: Vec<Option<Watcher>>,
    free: Vec<u32>,
    /// Numbers that are free once the plan is done.
    freed: Vec<u32>,
    connections: BTreeMap<u64, Connection>,
    pub(super) live: Index,
    /// Live watches have all up to this offset and log index.
    pub(super) live_at: u64,
    pub(super) live_index: u64,
    pub(super) behind: BTreeSet<(u64, u32)>,
    pub(super) copying: VecDeque<u32>,
    pub(super) plan: Option<Plan>,
    /// Live watches and those behind take turns.
    pub(super) behind_is_next: bool,
    /// Connections with room again that have paused watches.
    resumable: BTreeSet<u64>,
    due: BTreeSet<(Instant, u32)>,
    count: usize,
}

#[derive(Debug, Default)]
struct Connection {
    watches: BTreeMap<u64, u32>,
    paused: BTreeSet<u32>,
}

impl Watcher {
    /// Whether it is to be told of this change, which is of its range.
    pub fn wants(&self, offset: u64, past: &Past<'_>) -> bool {
        let filtered = match past.kind {
            ChangeKind::Put | ChangeKind::Extend(_) => self.wanted.no_puts,
            ChangeKind::Delete | ChangeKind::Expire => self.wanted.no_deletes,
        };
        !filtered && offset >= self.cursor && past.revision > self.after
    }

    /// Whether a key of its range is also of its namespace: how one that copies looks at the history.
    pub fn covers(&self, past: &Past<'_>) -> bool {
        let Wanted { namespace, from, until, .. } = &self.wanted;
        past.namespace == namespace.as_bytes() && past.key >= &from[..] && (until.is_empty() || past.key < &until[..])
    }
}

impl Engine {
    /// Whether anything may be to do.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// When somebody is to be told that nothing happened.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    // ---- what connections ask ----

    /// Takes a watch.
    pub fn ask(
        &mut self,
        connection: u64,
        request: u64,
        mut wanted: Wanted,
        history: &mut History,
        now: Instant,
    ) -> Result<WatchStarted, NotTaken> {
        let shape = Shape::of(&wanted.namespace, &wanted.from, &wanted.until);
        if self.count >= SHARD_WATCHES_MAX {
            return Err(NotTaken::TooMany("watches of this shard on this node", SHARD_WATCHES_MAX));
        }
        if let Some(connection) = self.connections.get(&connection) {
            if connection.watches.len() >= CONNECTION_WATCHES_MAX {
                return Err(NotTaken::TooMany("watches of this connection", CONNECTION_WATCHES_MAX));
            }
            if connection.watches.contains_key(&request) {
                return Err(NotTaken::SameRequest);
            }
        }
        if !self.live.has_room(&shape) {
            return Err(NotTaken::TooMany("ranges being watched that are no prefix", super::limits::ODD_RANGES_MAX));
        }
        wanted.progress = wanted.progress.map(|every| every.max(PROGRESS_MIN));
        let (mut phase, mut cursor) = (Phase::Live, history.end());
        let (mut after, mut index) = (Revision::default(), history.applied());
        if wanted.snapshot {
            phase = Phase::Copying { sent: None, again: false };
        } else if let Some(given) = wanted.after {
            cursor = history.seek(given).map_err(|Gone { oldest }| NotTaken::Compacted { oldest })?;
            (after, index) = (given, if given.position == u32::MAX { given.index } else { given.index.saturating_sub(1) });
            if self.is_empty() {
                // Nobody was there for whom it should have been kept up to date.
                (self.live_at, self.live_index) = (history.end(), history.applied());
            }
            if cursor < self.plan.as_ref().and_then(Plan::live_from).unwrap_or(self.live_at) {
                phase = Phase::Behind;
            }
        }
        history.previous_wanted += usize::from(wanted.previous);
        let progress = wanted.progress;
        let due_at = now + progress.unwrap_or_default();
        let watcher = Watcher {
            connection,
            request,
            shape,
            wanted,
            phase,
            paused: false,
            lags: false,
            cursor,
            after,
            index,
            told_at: now,
            due_at,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        match watcher.phase {
            Phase::Live => self.live.insert(&watcher.shape, slot),
            Phase::Behind | Phase::Planned => {
                self.behind.insert((cursor, slot));
            }
            Phase::Copying { .. } => self.copying.push_back(slot),
        }
        if progress.is_some() {
            self.due.insert((due_at, slot));
        }
        self.slots[slot as usize] = Some(watcher);
        self.connections.entry(connection).or_default().watches.insert(request, slot);
        self.count += 1;
        Ok(WatchStarted { index, oldest: history.oldest().into() })
    }

    /// Ends a watch; false when there is none.
    pub fn unwatch(&mut self, connection: u64, request: u64, history: &mut History) -> bool {
        let slot = self.connections.get(&connection).and_then(|connection| connection.watches.get(&request)).copied();
        slot.is_some_and(|slot| self.remove(slot, history).is_some())
    }

    /// Ends all watches of a connection.
    pub fn close(&mut self, connection: u64, history: &mut History) {
        let slots: Vec<u32> = self.connections.get(&connection).into_iter().flat_map(|c| c.watches.values().copied()).collect();
        slots.into_iter().for_each(|slot| drop(self.remove(slot, history)));
    }

    /// A connection has taken some of what waited for it. True: a turn may find something to do.
    pub fn room(&mut self, connection: u64) -> bool {
        let paused = self.connections.get(&connection).is_some_and(|connection| !connection.paused.is_empty());
        if paused {
            self.resumable.insert(connection);
        }
        paused
    }

    // ---- turns ----

    /// Does some of what there is to do; true when there is more.
    pub fn turn(&mut self, history: &mut History, state: &State, now: Instant, out: &mut impl Out) -> bool {
        if self.is_empty() {
            return false;
        }
        self.resume(out);
        let planned = self.turn_plan(history, now, out);
        let copied = self.turn_copy(history, state, now, out);
        let noticed = self.turn_notices(now, out);
        planned || copied || noticed || !self.resumable.is_empty()
    }

    /// Lets paused watches go on whose connections have room.
    fn resume(&mut self, out: &impl Out) {
        let mut left = RESUME_MAX;
        while let Some(connection) = self.resumable.first().copied() {
            let Some(paused) = self.connections.get_mut(&connection).map(|c| &mut c.paused).filter(|p| !p.is_empty()) else {
                self.resumable.remove(&connection);
                continue;
            };
            if !out.has_room(connection) {
                // It will say when it has.
                self.resumable.remove(&connection);
                continue;
            }
            if left == 0 {
                return;
            }
            let Some(slot) = paused.pop_first() else { continue };
            left -= 1;
            let Some(watcher) = self.slots[slot as usize].as_mut() else { continue };
            watcher.paused = false;
            match watcher.phase {
                Phase::Copying { .. } => self.copying.push_back(slot),
                _ => {
                    self.behind.insert((watcher.cursor, slot));
                }
            }
        }
    }

    /// A watch's connection has no room: it keeps its place, and costs nothing until there is.
    pub(super) fn pause(&mut self, slot: u32, cursor: u64) {
        let Some(watcher) = self.slots[slot as usize].as_mut() else { return };
        if matches!(watcher.phase, Phase::Live) {
            self.live.remove(&watcher.shape, slot);
        }
        if !matches!(watcher.phase, Phase::Copying { .. }) {
            watcher.phase = Phase::Behind;
            watcher.cursor = watcher.cursor.max(cursor);
        }
        (watcher.paused, watcher.lags) = (true, true);
        if let Some(connection) = self.connections.get_mut(&watcher.connection) {
            connection.paused.insert(slot);
        }
    }

    /// A watch has all that live ones have.
    pub(super) fn join_live(&mut self, slot: u32, cursor: u64) {
        let Some(watcher) = self.slots[slot as usize].as_mut() else { return };
        (watcher.phase, watcher.cursor, watcher.lags) = (Phase::Live, cursor, false);
        self.live.insert(&watcher.shape, slot);
    }

    /// What a watch needs is not kept any more: it goes on with a copy, if it may leave out changes, or ends. So does one in the middle
    /// of a copy: nothing in its messages would say that another one begins.
    pub(super) fn left_behind(&mut self, slot: u32, history: &mut History, out: &mut impl Out) {
        let Some(watcher) = self.slots[slot as usize].as_mut() else { return };
        // What is gone may be what it had, or did not ask for.
        let has = watcher.after.max(Revision { index: watcher.index, position: u32::MAX });
        if let Ok(offset) = history.seek(has) {
            (watcher.cursor, watcher.after) = (offset, has);
            match watcher.phase {
                Phase::Copying { .. } => self.copying.push_back(slot),
                _ => {
                    self.behind.insert((offset, slot));
                }
            }
            return;
        }
        if watcher.wanted.conflate && !watcher.wanted.no_puts && !matches!(watcher.phase, Phase::Copying { .. }) {
            watcher.phase = Phase::Copying { sent: None, again: true };
            self.copying.push_back(slot);
            return;
        }
        let oldest = history.oldest();
        let Some(watcher) = self.remove(slot, history) else { return };
        let message = format!(
            "its client did not take its events: all up to log index {} was sent, and what is kept begins behind {}.{}",
            watcher.index, oldest.index, oldest.position
        );
        let ended = WatchEnded { code: Code::WatchTooSlow as u16, message, index: watcher.index, oldest: oldest.into() };
        out.ended(watcher.connection, watcher.request, &ended);
    }

    fn turn_notices(&mut self, now: Instant, out: &mut impl Out) -> bool {
        for _ in 0..NOTICES_MAX {
            let Some((_, slot)) = self.due.first().copied().filter(|(at, _)| *at <= now) else { return false };
            self.due.pop_first();
            let Some(watcher) = self.slots[slot as usize].as_mut() else { continue };
            let every = watcher.wanted.progress.unwrap_or(PROGRESS_MIN);
            let silent = now.since(watcher.told_at);
            watcher.due_at = if silent < every { watcher.told_at + every } else { now + every };
            self.due.insert((watcher.due_at, slot));
            if silent < every || watcher.paused || !out.has_room(watcher.connection) {
                continue;
            }
            if matches!(watcher.phase, Phase::Live) {
                watcher.index = watcher.index.max(self.live_index);
            }
            watcher.told_at = now;
            let notice = Events { index: watcher.index, ..Events::default() };
            out.events(watcher.connection, watcher.request, notice);
        }
        self.due.first().is_some_and(|(at, _)| *at <= now)
    }

    fn remove(&mut self, slot: u32, history: &mut History) -> Option<Watcher> {
        let watcher = self.slots[slot as usize].take()?;
        self.count -= 1;
        if watcher.wanted.previous {
            history.previous_wanted -= 1;
        }
        match watcher.phase {
            Phase::Live => self.live.remove(&watcher.shape, slot),
            Phase::Behind => {
                self.behind.remove(&(watcher.cursor, slot));
            }
            Phase::Planned => {
                if let Some(plan) = &mut self.plan {
                    plan.leave(&watcher.shape, slot);
                }
            }
            // Its turn finds nobody, or the next with this number, which then has two.
            Phase::Copying { .. } => {}
        }
        self.due.remove(&(watcher.due_at, slot));
        if let Some(connection) = self.connections.get_mut(&watcher.connection) {
            connection.watches.remove(&watcher.request);
            connection.paused.remove(&slot);
            if connection.watches.is_empty() {
                self.connections.remove(&watcher.connection);
                self.resumable.remove(&watcher.connection);
            }
        }
        match self.plan {
            Some(_) => self.freed.push(slot),
            None => self.free.push(slot),
        }
        if self.count == 0 {
            self.plan = None;
            self.free.append(&mut self.freed);
        }
        Some(watcher)
    }

    /// The plan is done: its numbers may be used again.
    pub(super) fn plan_done(&mut self) {
        self.plan = None;
        self.free.append(&mut self.freed);
    }
}
