//! Client sessions: what makes a retried write happen once.
//!
//! ```text
//!                 floor (answered_below)           window
//! sequences  1 2 3 | 4    5     7    8          at most session_window answers kept
//!            gone  | kept answers, with a CRC of the command each
//! ```
//!
//! A client numbers its writes 1, 2, 3 ... within a session. The session keeps the answer of each write it applied until the
//! client says, with a later write, that it has that answer. In this order:
//!
//! | the write's session or sequence        | answer                                                        |
//! |----------------------------------------|---------------------------------------------------------------|
//! | unknown, closed or out of time         | `SessionExpired`                                              |
//! | below the floor                        | `AlreadyAnswered`                                             |
//! | kept, same command                     | the first answer, `duplicate`; not applied again              |
//! | kept, and the write is a `Resolve`     | the first answer, whatever its command was                    |
//! | kept, another command                  | `SequenceReused`                                              |
//! | as many answers kept as may be         | `SessionWindowFull`                                           |
//! | otherwise                              | applied, and the answer kept                                  |
//!
//! A `Resolve` with the session and sequence of a write whose reply was lost settles what became of that write: it finds the answer,
//! or takes the write's place with an answer that says "never", and then a late copy of the write is a reuse of its sequence. Below
//! the floor, or when the session is gone, nobody can know any more, and that is what is said.
//!
//! A denied write changes no key and is not kept, but it has been heard: it counts as use, and it raises the floor.
//!
//! What a transaction's gets found is kept with its answer and counts as so many answers more, 32 bytes each, against the bound of
//! all sessions and against that of its own.
//!
//! Use is noted in whole seconds of ring time, so that the order by last use changes once a second and session and not with
//! every write. A session lives for its lifetime after the end of its last second of use. From then on it is refused; its
//! memory is freed a bounded number of sessions at a time, oldest first, by the batches that follow.
//!
//! **Invariants**: `by_last_use` has exactly one entry for each session. `answers` is the sum of all sessions' `places`, and
//! these what their windows take. A window is
//! strictly ascending by sequence, and none is below the floor.

mod life;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::answer::{Answer, Denied, Revision};
use super::command::{Op, Write};
use super::freeze::Frozen;
use super::limits::{
    EXPIRED_PER_BATCH_MAX, Limits, NUMBER_PLACES_MAX, PLACE_BYTES, POSITIONS_MAX, RESULT_PLACES_MAX, SESSION_PLACES_MAX,
};

/// One session. `changed_at` is not replicated state: it is 0 for what a snapshot brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    pub floor: u64,
    pub last_use_s: u64,
    pub changed_at: u64,
    pub window: VecDeque<Kept>,
    /// What the window takes: one for each answer, and what gets found.
    pub places: u64,
}

/// The answer of an applied write, in 32 bytes and what its gets found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub sequence: u64,
    pub index: u64,
    pub ring_time_ms: u64,
    /// The position; the bit above all positions says that the key existed, the next one that there is what gets found, the third
    /// that the write never happens.
    pub position_and_existed: u32,
    pub command_crc: u32,
    pub gets: Option<Rc<[u8]>>,
}

const EXISTED: u32 = POSITIONS_MAX;
/// See [`Kept::position_and_existed`].
pub(super) const HAS_GETS: u32 = POSITIONS_MAX << 1;
const NEVER: u32 = POSITIONS_MAX << 2;
/// First word that is none of a position and these bits.
pub(super) const POSITION_AND_BITS_MAX: u32 = POSITIONS_MAX << 3;

impl Kept {
    fn answer(&self) -> Answer {
        Answer {
            outcome: Ok(()),
            revision: Revision { index: self.index, position: self.position_and_existed & (POSITIONS_MAX - 1) },
            ring_time_ms: self.ring_time_ms,
            existed: self.position_and_existed & EXISTED != 0,
            never: self.position_and_existed & NEVER != 0,
            duplicate: true,
            gets: self.gets.clone(),
        }
    }

    fn places(&self) -> u64 {
        1 + self.gets.as_ref().map_or(0, |gets| gets.len().div_ceil(PLACE_BYTES) as u64)
    }
}

/// All sessions of a shard.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: BTreeMap<u64, Session>,
    by_last_use: BTreeSet<(u64, u64)>,
    answers: u64,
}

/// Ring time and log index of the batch being applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub index: u64,
    pub ring_time_ms: u64,
}

/// Whether a write is to be applied.
pub(super) enum Admission<'a> {
    Apply(Seat<'a>),
    Answered(Answer),
    Denied(Denied),
}

/// The place where the answer of an admitted write will be kept.
pub(super) struct Seat<'a> {
    session: &'a mut Session,
    answers: &'a mut u64,
    at: usize,
    sequence: u64,
    command_crc: u32,
}

impl Seat<'_> {
    /// Keeps the answer.
    pub fn keep(self, answer: &Answer) {
        let kept = Kept {
            sequence: self.sequence,
            index: answer.revision.index,
            ring_time_ms: answer.ring_time_ms,
            position_and_existed: answer.revision.position
                | if answer.existed { EXISTED } else { 0 }
                | if answer.gets.is_some() { HAS_GETS } else { 0 }
                | if answer.never { NEVER } else { 0 },
            command_crc: self.command_crc,
            gets: answer.gets.clone(),
        };
        *self.answers += kept.places();
        self.session.places += kept.places();
        // Nearly always the newest one. A general insert would move it through memory, and wait there for all that is being stored.
        if self.at == self.session.window.len() {
            self.session.window.push_back(kept);
        } else {
            self.session.window.insert(self.at, kept);
        }
    }
}

impl Sessions {
    /// Decides over a write that has a session, as the module's table says.
    pub fn admit(&mut self, write: &Write<'_>, now: Moment, limits: &Limits, mut frozen: Option<&mut Frozen>) -> Admission<'_> {
        if planted!(AnswersEvictedEarly) && self.answers > 4 {
            let oldest = self.by_last_use.iter().find(|(_, id)| self.by_id.get(id).is_some_and(|s| !s.window.is_empty()));
            if let Some((id, session)) = oldest.and_then(|(_, id)| Some((*id, self.by_id.get_mut(id)?))) {
                frozen.as_deref_mut().into_iter().for_each(|frozen| frozen.keep_session(id, session));
                session.changed_at = now.index;
                session.window.clear();
                self.answers -= std::mem::take(&mut session.places);
            }
        }
        let Some(session) = self.by_id.get_mut(&write.session) else {
            return Admission::Denied(Denied::SessionExpired);
        };
        if expired(session.last_use_s, now.ring_time_ms, limits) {
            return Admission::Denied(Denied::SessionExpired);
        }
        if let Some(frozen) = frozen {
            frozen.keep_session(write.session, session);
        }
        session.changed_at = now.index;
        let second = now.ring_time_ms / 1_000;
        if second != session.last_use_s {
            self.by_last_use.remove(&(session.last_use_s, write.session));
            self.by_last_use.insert((second, write.session));
            session.last_use_s = second;
        }
        self.answers -= session.raise_floor(write.answered_below);

        if write.sequence < session.floor {
            return Admission::Denied(Denied::AlreadyAnswered);
        }
        let command_crc = write.command_crc();
        let at = match session.find(write.sequence) {
            Ok(at) if planted!(RetryAppliedTwice) => {
                let places = session.window.remove(at).map_or(0, |kept| kept.places());
                session.places -= places;
                self.answers -= places;
                at
            }
            Ok(at) if session.window[at].command_crc == command_crc || matches!(write.op, Op::Resolve) => {
                return Admission::Answered(session.window[at].answer());
            }
            Ok(_) => return Admission::Denied(Denied::SequenceReused),
            Err(at) => at,
        };
        // Before it runs nobody knows what its gets will find.
        let needs = match write.op {
            Op::Transact(transaction) if transaction.reads() => 1 + RESULT_PLACES_MAX,
            Op::Add { .. } | Op::DeleteRange { .. } => 1 + NUMBER_PLACES_MAX,
            _ => 1,
        };
        let full = session.window.len() >= limits.session_window as usize
            || session.places + needs > SESSION_PLACES_MAX
            || self.answers + needs > u64::from(limits.answers_max);
        if full {
            return Admission::Denied(Denied::SessionWindowFull);
        }
        Admission::Apply(Seat { session, answers: &mut self.answers, at, sequence: write.sequence, command_crc })
    }

    /// Forgets sessions whose time is up, a bounded number of them.
    pub fn expire(&mut self, now: Moment, limits: &Limits, mut frozen: Option<&mut Frozen>) {
        for _ in 0..EXPIRED_PER_BATCH_MAX {
            if !self.remove_oldest_expired(now, limits, frozen.as_deref_mut()) {
                return;
            }
        }
    }

    fn remove_oldest_expired(&mut self, now: Moment, limits: &Limits, frozen: Option<&mut Frozen>) -> bool {
        match self.by_last_use.first() {
            Some(&(last_use_s, id)) if expired(last_use_s, now.ring_time_ms, limits) => {
                self.remove(id, frozen);
                true
            }
            _ => false,
        }
    }
}

impl Session {
    fn find(&self, sequence: u64) -> Result<usize, usize> {
        match self.window.back() {
            Some(last) if last.sequence >= sequence => self.window.binary_search_by_key(&sequence, |kept| kept.sequence),
            _ => Err(self.window.len()), // the common case: the next sequence
        }
    }

    /// Drops the answers below `answered_below`; what they took.
    fn raise_floor(&mut self, answered_below: u64) -> u64 {
        if answered_below <= self.floor {
            return 0;
        }
        self.floor = answered_below;
        let mut dropped = 0;
        while let Some(kept) = self.window.front().filter(|kept| kept.sequence < answered_below) {
            dropped += kept.places();
            self.window.pop_front();
        }
        self.places -= dropped;
        if self.window.capacity() > 64 && self.window.len() < self.window.capacity() / 8 {
            self.window.shrink_to(self.window.len() * 2); // a burst is over
        }
        dropped
    }
}

/// Never early: the whole second of the last use counts as use.
fn expired(last_use_s: u64, ring_time_ms: u64, limits: &Limits) -> bool {
    let end_of_use_ms = last_use_s.saturating_add(1).saturating_mul(1_000);
    end_of_use_ms.saturating_add(limits.session_lifetime_ms) <= ring_time_ms
}
