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
//! A sequence is *settled* (s) when nobody will send it again: its caller has the answer, or has been told that the outcome
//! is unknown, or has gone away. `answered_below` is the floor: the lowest sequence that is not settled.
//!
//! **Abandoned writes.** A caller that timed out leaves its sequence at once, it does not hold the floor. That is safe: the
//! shard refuses sequences below a session's floor, so a late copy of the abandoned write is applied before the next write
//! that carries the higher floor, or never. It cannot happen twice and cannot overtake. What is lost is only the remembered
//! answer, which nobody waits for. And it is useful: once a later write of the same session has been answered, the fate of
//! the abandoned one is final and a linearizable read shows it.
//!
//! **Invariants**
//! - `floor <= next`, and `next - floor <= window`: the shard never has to remember more than `window` answers.
//! - No sequence is given out twice in a session, and none below the floor.
//! - Sequences of an earlier session never move the floor of this one.
//!
//! **Not here**: clocks, sockets, waiting. Who finds the window full waits elsewhere (`client.rs`).

use crate::limits::{SESSION_WINDOW_DEFAULT, SESSION_WINDOW_MAX};

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
}

impl Default for Session {
    fn default() -> Session {
        Session::new()
    }
}

impl Session {
    /// No session yet.
    pub fn new() -> Session {
        Session { id: 0, next: 1, floor: 1, window: 0, settled: Vec::new() }
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
        Ok(Ticket { session: self.id, sequence, answered_below: self.floor })
    }

    /// Nobody will send `ticket` again. Returns how many more writes may begin because of it.
    pub fn settle(&mut self, ticket: Ticket) -> u64 {
        if ticket.session != self.id || ticket.sequence < self.floor || ticket.sequence >= self.next {
            return 0;
        }
        self.set(ticket.sequence, true);
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

    /// Against a set of the unsettled sequences, in a random order of begin and settle.
    #[test]
    fn floor_is_the_minimum_of_the_unsettled() {
        for seed in 0..200 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let window = dice.u32(1..130);
            let mut session = open(window);
            let mut open_writes: Vec<Ticket> = Vec::new();
            let mut model = BTreeSet::new();
            for _ in 0..2_000 {
                if dice.bool() {
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
                    session.settle(ticket);
                }
                assert_eq!(session.floor(), model.first().copied().unwrap_or(session.next));
            }
        }
    }
}
