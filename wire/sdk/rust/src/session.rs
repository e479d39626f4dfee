//! The client's half of exactly-once: which sequence a write gets, and below which all are answered.
//!
//! One session per (client, shard), opened at the shard's leader when the first write needs it. Every write takes the next
//! sequence; its retries keep it, so the shard applies it once however often it arrives.
//!
//! ```text
//!   sequences   1 2 3 4 5 6 7 8 9 ...
//!               s s s . s . s
//!                     ^       ^
//!                     floor   next       next - floor <= window
//! ```
//!
//! A sequence is *settled* (s) when nobody will send or ask for it again: its caller has the answer, or has gone away.
//! `answered_below` is the floor: the lowest sequence that is not settled.
//!
//! **Lost writes.** A caller that was told that the outcome is unknown may ask for it, and the shard forgets all answers below the floor.
//! So the sequence is *held*: it stays unsettled until its outcome is known ([`Session::release`]), until its time is over, or until
//! the window has gone on by a quarter, so that writes which nobody asks about never stop those that go on.
//!
//! What a held write costs is order. A late copy of it may be applied after later writes of the session, as it may after those that
//! were under way with it; never twice. Who must know asks: that settles it (`Op::Resolve` is a fence), and so does the first write
//! that carries a floor above it. A caller that has gone away leaves its sequence at once: nobody has the numbers to ask with.
//!
//! **Invariants**
//! - `floor <= next`, and `next - floor <= window`: the shard never has to remember more than `window` answers.
//! - No sequence is given out twice in a session, and none below the floor.
//! - Sequences of an earlier session never move the floor of this one.
//! - What is held is neither settled nor below the floor, and begins less than a quarter of the window before `next`.
//!
//! **Not here**: clocks, sockets, waiting. Who finds the window full waits elsewhere (`client.rs`).

use std::collections::BTreeMap;

use crate::limits::{OUTCOME_WINDOW_PART, SESSION_WINDOW_DEFAULT, SESSION_WINDOW_MAX};

/// The place of one write in a session. Its retries carry the same ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The session, as the shard named it.
    pub session: u64,
    /// From 1, unique in the session.
    pub sequence: u64,
    /// All sequences below this one were settled when the ticket was made.
    pub answered_below: u64,
}

/// Why there is no ticket now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTicket {
    /// No session is open: open one, tell [`Session::opened`], come again.
    NotOpen,
    /// The window is full: come again when a write is settled.
    WindowFull,
}

/// One shard's session. See the head of this file.
#[derive(Clone, Debug)]
pub struct Session {
    id: u64,
    next: u64,
    floor: u64,
    window: u64,
    /// One bit per sequence of the window, at `sequence % window`; set: settled.
    settled: Vec<u64>,
    /// Writes whose answers may be asked for: until when, by sequence. At most a part of the window.
    held: BTreeMap<u64, u64>,
}

impl Default for Session {
    fn default() -> Session {
        Session::new()
    }
}

impl Session {
    /// No session yet.
    pub fn new() -> Session {
        Session { id: 0, next: 1, floor: 1, window: 0, settled: Vec::new(), held: BTreeMap::new() }
    }

    /// The open session, 0 when there is none.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// All sequences below this one are settled.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Writes that could begin now.
    pub fn room(&self) -> u64 {
        self.window.saturating_sub(self.next - self.floor)
    }

    /// The shard opened session `id`, in which `window` writes may be unanswered (0: not said).
    pub fn opened(&mut self, id: u64, window: u32) {
        let window = if window == 0 { SESSION_WINDOW_DEFAULT } else { window.min(SESSION_WINDOW_MAX) };
        self.id = id;
        self.next = 1;
        self.floor = 1;
        self.window = u64::from(window);
        self.held.clear();
        self.settled.clear();
        self.settled.resize(window.div_ceil(64) as usize, 0);
    }

    /// The shard does not know session `id` any more. News of an older session changes nothing.
    pub fn expired(&mut self, id: u64) {
        if self.id == id {
            *self = Session::new();
        }
    }

    /// A ticket for a new write.
    pub fn begin(&mut self) -> Result<Ticket, NoTicket> {
        if self.id == 0 {
            return Err(NoTicket::NotOpen);
        }
        if self.room() == 0 {
            return Err(NoTicket::WindowFull);
        }
        let sequence = self.next;
        self.next += 1;
        self.release_beyond_part();
        Ok(Ticket { session: self.id, sequence, answered_below: self.floor })
    }

    /// Nobody will send `ticket` again; one that is held stays so. Returns how many more writes may begin because of it.
    pub fn settle(&mut self, ticket: Ticket) -> u64 {
        if !self.is_open(ticket.session, ticket.sequence) || self.held.contains_key(&ticket.sequence) {
            return 0;
        }
        self.settle_sequence(ticket.sequence)
    }

    /// The outcome of `ticket` is unknown, and its answer is to be kept until `until_ms` of the caller's clock, as long as there is room.
    /// Returns how many more writes may begin.
    pub fn hold(&mut self, ticket: Ticket, until_ms: u64) -> u64 {
        if !self.is_open(ticket.session, ticket.sequence) {
            return 0;
        }
        self.held.insert(ticket.sequence, until_ms);
        self.release_beyond_part()
    }

    /// Whether anything is held.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Nobody asks any more for the outcome of this write. Returns how many more may begin.
    pub fn release(&mut self, session: u64, sequence: u64) -> u64 {
        if session != self.id || self.held.remove(&sequence).is_none() {
            return 0;
        }
        self.settle_sequence(sequence)
    }

    /// What was held until now or before is held no more. Returns how many more writes may begin.
    pub fn release_before(&mut self, now_ms: u64) -> u64 {
        let over: Vec<u64> = self.held.iter().filter(|(_, until)| **until <= now_ms).map(|(sequence, _)| *sequence).collect();
        over.into_iter().map(|sequence| self.release(self.id, sequence)).sum()
    }

    /// What is held begins within its part of the window.
    fn release_beyond_part(&mut self) -> u64 {
        let mut freed = 0;
        while let Some(&first) = self.held.keys().next()
            && self.next - first > self.window / OUTCOME_WINDOW_PART
        {
            freed += self.release(self.id, first);
        }
        freed
    }

    /// Whether somebody may still settle this sequence.
    fn is_open(&self, session: u64, sequence: u64) -> bool {
        session == self.id && sequence >= self.floor && sequence < self.next && !self.is_set(sequence)
    }

    fn settle_sequence(&mut self, sequence: u64) -> u64 {
        self.set(sequence, true);
        let before = self.floor;
        while self.floor < self.next && self.is_set(self.floor) {
            self.set(self.floor, false);
            self.floor += 1;
        }
        self.floor - before
    }

    fn place(&self, sequence: u64) -> (usize, u64) {
        let at = sequence % self.window.max(1);
        ((at / 64) as usize, 1 << (at % 64))
    }

    fn is_set(&self, sequence: u64) -> bool {
        let (word, bit) = self.place(sequence);
        self.settled.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn set(&mut self, sequence: u64, on: bool) {
        let (word, bit) = self.place(sequence);
        if let Some(bits) = self.settled.get_mut(word) {
            if on { *bits |= bit } else { *bits &= !bit }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn open(window: u32) -> Session {
        let mut session = Session::new();
        session.opened(7, window);
        session
    }

    fn sequence(session: &mut Session) -> Ticket {
        session.begin().expect("the window has room")
    }

    #[test]
    fn nothing_begins_before_the_session_is_open() {
        assert_eq!(Session::new().begin(), Err(NoTicket::NotOpen));
    }

    #[test]
    fn floor_follows_the_lowest_unsettled_write() {
        let mut session = open(8);
        let tickets: Vec<Ticket> = (0..4).map(|_| sequence(&mut session)).collect();
        assert_eq!(tickets.iter().map(|t| t.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(session.settle(tickets[1]), 0);
        assert_eq!(session.settle(tickets[2]), 0);
        assert_eq!(session.floor(), 1);
        assert_eq!(session.settle(tickets[0]), 3);
        assert_eq!(sequence(&mut session).answered_below, 4);
    }

    #[test]
    fn window_bounds_the_span_and_not_the_count() {
        let mut session = open(3);
        let first = sequence(&mut session);
        for _ in 0..2 {
            let later = sequence(&mut session);
            session.settle(later);
        }
        assert_eq!(session.begin(), Err(NoTicket::WindowFull), "one unanswered write still holds the floor");
        assert_eq!(session.settle(first), 3);
        assert_eq!(session.room(), 3);
    }

    #[test]
    fn an_abandoned_write_does_not_hold_the_floor() {
        let mut session = open(2);
        let abandoned = sequence(&mut session);
        let kept = sequence(&mut session);
        session.settle(abandoned);
        assert_eq!(sequence(&mut session).answered_below, kept.sequence);
    }

    #[test]
    fn settling_twice_or_in_another_session_changes_nothing() {
        let mut session = open(4);
        let ticket = sequence(&mut session);
        assert_eq!(session.settle(ticket), 1);
        assert_eq!(session.settle(ticket), 0);
        session.expired(6);
        assert_eq!(session.id(), 7);
        session.expired(7);
        assert_eq!(session.begin(), Err(NoTicket::NotOpen));
        session.opened(9, 4);
        assert_eq!(session.settle(ticket), 0);
        assert_eq!(sequence(&mut session), Ticket { session: 9, sequence: 1, answered_below: 1 });
    }

    #[test]
    fn a_lost_write_holds_the_floor_until_it_is_asked_for_or_its_time_is_over() {
        for asked in [true, false] {
            let mut session = open(40);
            let lost = sequence(&mut session);
            session.hold(lost, 1_000);
            assert_eq!(session.settle(lost), 0, "its turn ends, and it stays held");
            for _ in 0..5 {
                let later = sequence(&mut session);
                assert_eq!((later.answered_below, session.settle(later)), (1, 0));
            }
            assert_eq!(session.release_before(999), 0);
            assert!(session.holds());
            let freed = if asked { session.release(7, 1) } else { session.release_before(1_000) };
            assert_eq!((freed, session.floor(), session.holds()), (6, 7, false));
            assert_eq!(session.release(7, 1), 0);
        }
    }

    #[test]
    fn lost_writes_hold_a_quarter_of_the_window_and_no_more() {
        let mut session = open(40);
        let lost = sequence(&mut session);
        session.hold(lost, u64::MAX);
        for _ in 0..9 {
            let later = sequence(&mut session);
            session.settle(later);
        }
        assert_eq!(session.floor(), 1);
        assert_eq!(sequence(&mut session).answered_below, 11, "the eleventh begins without it");
        assert!(!session.holds());
        // Of a session that is no more, and in a window without a quarter, nothing is held.
        session.hold(Ticket { session: 6, ..lost }, u64::MAX);
        assert!(!session.holds());
        let mut narrow = open(3);
        let lost = sequence(&mut narrow);
        assert_eq!(narrow.hold(lost, u64::MAX), 1);
        assert_eq!(narrow.settle(lost), 0);
        assert_eq!(narrow.floor(), 2);
    }

    /// Against a set of the unsettled sequences, in a random order of everything that may be done.
    #[test]
    fn floor_is_the_minimum_of_the_unsettled() {
        for seed in 0..200 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let window = dice.u32(1..130);
            let mut session = open(window);
            let mut open_writes: Vec<Ticket> = Vec::new();
            let mut model = BTreeSet::new();
            let mut held: BTreeMap<u64, u64> = BTreeMap::new();
            let mut now_ms = 0;
            for _ in 0..2_000 {
                let floor = session.floor();
                let mut freed = None;
                if dice.u8(..10) == 0 {
                    now_ms += dice.u64(..20);
                    freed = Some(session.release_before(now_ms));
                    held.retain(|sequence, until| *until > now_ms || !model.remove(sequence));
                } else if dice.u8(..10) == 0 {
                    let sequence = dice.u64(..session.next + 1);
                    freed = Some(session.release(7, sequence));
                    if held.remove(&sequence).is_some() {
                        model.remove(&sequence);
                    }
                } else if dice.u8(..8) == 0 && !open_writes.is_empty() {
                    let ticket = open_writes.swap_remove(dice.usize(..open_writes.len()));
                    freed = Some(session.hold(ticket, now_ms + 30));
                    held.insert(ticket.sequence, now_ms + 30);
                    // Its turn ends.
                    let settled = session.settle(ticket);
                    assert_eq!(settled, 0);
                } else if dice.bool() {
                    match session.begin() {
                        Ok(ticket) => {
                            assert!(model.insert(ticket.sequence), "no sequence twice");
                            open_writes.push(ticket);
                        }
                        Err(why) => {
                            assert_eq!(why, NoTicket::WindowFull);
                            let low = *model.first().expect("a full window has unsettled writes");
                            assert_eq!(session.next - low, u64::from(window));
                        }
                    }
                } else if !open_writes.is_empty() {
                    let ticket = open_writes.swap_remove(dice.usize(..open_writes.len()));
                    model.remove(&ticket.sequence);
                    freed = Some(session.settle(ticket));
                }
                held.retain(|sequence, _| session.next - sequence <= u64::from(window) / 4 || !model.remove(sequence));
                assert_eq!(session.holds(), !held.is_empty());
                assert!(freed.is_none_or(|freed| freed == session.floor() - floor), "who waits for room is told of all of it");
                assert_eq!(session.floor(), model.first().copied().unwrap_or(session.next));
            }
        }
    }
}
