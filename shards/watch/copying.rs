//! A watch that begins with what there is: pages of the state, and between them what has changed in the pages before.
//!
//! ```text
//!   state at 40      page 1: keys up to "d"        state at 43   since 40: changes of keys up to "d"    page 2: from behind "d"
//!   ─────────────────────────────────────▶ index 40 ──────────────────────────────────────────────────────────────▶ index 43 ..
//! ```
//! **Why it is one consistent step.** A step runs without a pause, and state and history are changed together: what the history has
//! at its end is what the state is. Let the client have exactly the state at index *i* for keys up to *k* (at first: no key). A step
//! sends the changes of keys up to *k* behind *i* and up to *j*. If *j* is the applied index, the page that follows in the same
//! message is the state at *j* for the next keys, up to *k'*: so the client has the state at *j* for keys up to *k'*. If the history
//! was too much for one step, *j* is less and there is no page: the state at *j* for keys up to *k*. With the last page *k'* is the
//! end of the range, `snapshot_ends` is said, and the watch goes on behind *j* like any other.
//!
//! The core is held for one page, or for a slice of the history. Nothing is copied, frozen or kept for a watch that copies but its
//! place; if the history leaves that behind, it ends.

use ringbeam_wire::client::{Event, EventKind, Events};

use super::engine::{Engine, Out, Phase};
use super::history::History;
use super::limits::{PAGE_BYTES_MAX, PAGE_ITEMS_MAX, SLICE_BYTES};
use super::plan::{event, fitting};
use crate::io::Instant;
use crate::state::State;

impl Engine {
    /// One step of the watch that has waited longest; true when there are more.
    pub(super) fn turn_copy(&mut self, history: &mut History, state: &State, now: Instant, out: &mut impl Out) -> bool {
        let Some(slot) = self.copying.pop_front() else { return false };
        if let Some(watcher) = self.slots[slot as usize].as_ref()
            && let Phase::Copying { sent, .. } = &watcher.phase
            && !watcher.paused
        {
            if !out.has_room(watcher.connection) {
                self.pause(slot, watcher.cursor);
            } else if sent.is_some() && watcher.cursor < history.start() {
                self.left_behind(slot, history, out);
            } else {
                self.copy(slot, history, state, now, out);
            }
        }
        !self.copying.is_empty()
    }

    fn copy(&mut self, slot: u32, history: &History, state: &State, now: Instant, out: &mut impl Out) {
        let Some(watcher) = self.slots[slot as usize].as_mut() else { return };
        let Phase::Copying { sent, again } = &mut watcher.phase else { return };
        let (sent, again) = (sent.take(), *again);
        let (mut events, mut last) = (Vec::new(), None);
        let mut at = (history.end(), history.applied(), history.ring_time_ms());
        if let Some(sent) = &sent {
            for (offset, past) in history.from(watcher.cursor) {
                if let Some((index, ms)) = last.filter(|(index, _)| past.revision.index > *index)
                    && offset - watcher.cursor >= SLICE_BYTES
                {
                    at = (offset, past.revision.index.saturating_sub(1).max(index), ms);
                    break;
                }
                last = Some((past.revision.index, past.ring_time_ms));
                if watcher.covers(&past) && past.key <= &sent[..] && watcher.wants(offset, &past) {
                    events.push(event(&past, watcher.wanted.previous));
                }
            }
        }
        let (cursor, index, ring_time_ms) = at;
        let (mut next, mut ends) = (sent, false);
        if cursor == history.end() {
            assert_eq!(state.applied(), history.applied(), "state and history change together");
            let from = next.as_ref().map_or_else(|| watcher.wanted.from.clone(), |sent| [&sent[..], &[0]].concat());
            let mut page = state.range(&watcher.wanted.namespace, &from, &watcher.wanted.until, false);
            let (mut items, mut bytes) = (0, 0);
            ends = loop {
                if items == PAGE_ITEMS_MAX || bytes >= PAGE_BYTES_MAX {
                    break false;
                }
                let Some((key, found)) = page.next() else { break true };
                (items, bytes) = (items + 1, bytes + key.len() + found.value.len());
                let (value, revision) = (found.value, found.revision.into());
                events.push(Event { kind: EventKind::Snapshot, key, value, revision, previous: None, conflated: again });
            };
            if let Some(last) = events.last().filter(|event| event.kind == EventKind::Snapshot) {
                next = Some(last.key.to_vec());
            }
        }
        while let Some(fit) = fitting(&events) {
            let rest = events.split_off(fit);
            let message = Events { events, index: watcher.index, ring_time_ms, snapshot_ends: false };
            out.events(watcher.connection, watcher.request, message);
            events = rest;
        }
        watcher.index = watcher.index.max(index);
        let message = Events { events, index: watcher.index, ring_time_ms, snapshot_ends: ends };
        out.events(watcher.connection, watcher.request, message);
        (watcher.cursor, watcher.told_at) = (cursor, now);
        if ends {
            self.join_live(slot, cursor);
        } else {
            watcher.phase = Phase::Copying { sent: next, again };
            self.copying.push_back(slot);
        }
    }
}
