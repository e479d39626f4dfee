//! What a call does after an attempt that did not succeed: give up, or try again, where and when.
//!
//! ```text
//!   seen                              write with session         write without, ring change    read
//!   final refusal                     Refused                    Refused                       Refused
//!   busy refusal (nothing happened)   again, back-off            again, back-off               again, back-off
//!   NotLeader, leader given           again there, at once       same                          same
//!   NotLeader, no leader yet          search, back-off           same                          same
//!   connection lost, never sent       search, again              search, again                 search, again
//!   connection lost after sending     search, same sequence      Unknown                       search, again
//!   refusal "outcome unknown"         again, same sequence       Unknown                       again
//!   SessionExpired, nothing sent yet  new session, again         -                             -
//!   SessionExpired after a lost send  Unknown                    -                             -
//!   deadline, nothing may have happened   Timeout, or the refusal that held it up
//!   deadline, or any final refusal, after a lost send   Unknown
//! ```
//!
//! **Invariants**
//! - `Refused` and `Timeout` are said only when no copy of the request can have happened or can still happen.
//! - A write that may have happened is repeated only with the ticket it was first sent with.
//! - Waiting has full jitter, between [`BACKOFF_MS_MIN`] and at most [`BACKOFF_MS_MAX`], never less than the server asked for.
//!
//! **Not here**: clocks and randomness (`dice` is an argument), who leads (`routing.rs`), sequences (`session.rs`).

use std::time::Duration;

use ringbeam_wire::refusal::{Code, Refusal};

use crate::limits::{BACKOFF_MS_MAX, BACKOFF_MS_MIN, FRESH_READERS_TRIED, REDIRECTS_AT_ONCE_MAX, SESSIONS_LOST_MAX};

/// What may be done with a request whose fate is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing: may be repeated at will.
    Read,
    /// A write with a ticket: may be repeated with the same ticket.
    ExactlyOnce,
    /// A write without a session, or a change of the ring: must not be repeated.
    AtMostOnce,
}

/// How an attempt ended without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// The node refused.
    Refused(&'a Refusal),
    /// No connection, or it ended; `sent`: the whole request had left by then.
    Lost {
        /// Whether the node may have read the request.
        sent: bool,
    },
    /// Our own buffers are full; nothing left.
    Busy,
    /// The deadline passed while waiting for the reply.
    DeadlinePassed,
}

/// What to tell the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The last refusal; nothing happened.
    Refused,
    /// It may or may not have happened.
    Unknown,
    /// It certainly did not happen, time is up.
    Timeout,
}

/// Where the next attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leader {
    /// To the same node.
    Same,
    /// To the node that the refusal names.
    Named,
    /// Unknown: ask around.
    Search,
}

/// The next step of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The call ends.
    Fail(Verdict),
    /// The call goes on.
    Again {
        /// Wait this long first.
        after: Duration,
        /// Where to.
        leader: Leader,
        /// With a new session and a new ticket.
        new_session: bool,
    },
}

/// One call's history, as far as decisions need it.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    kind: Kind,
    may_have_happened: bool,
    refused: bool,
    attempts: u32,
    redirects: u32,
    sessions_lost: u32,
}

impl Effort {
    /// Nothing tried yet.
    pub fn new(kind: Kind) -> Effort {
        Effort { kind, may_have_happened: false, refused: false, attempts: 0, redirects: 0, sessions_lost: 0 }
    }

    /// Attempts that have ended.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Decides what follows an attempt. `dice`: 64 random bits.
    pub fn after(&mut self, seen: Seen<'_>, dice: u64) -> Next {
        self.attempts = self.attempts.saturating_add(1);
        self.refused = matches!(seen, Seen::Refused(refusal) if refusal.code != Code::NotLeader);
        match seen {
            Seen::Busy => again(backoff(self.attempts, dice), Leader::Same),
            Seen::DeadlinePassed => {
                self.may_have_happened |= self.kind != Kind::Read;
                Next::Fail(self.out_of_time())
            }
            Seen::Lost { sent } => {
                if let Some(end) = self.fate_unknown(sent) {
                    return end;
                }
                let after = if self.attempts <= 1 { Duration::ZERO } else { backoff(self.attempts, dice) };
                again(after, Leader::Search)
            }
            Seen::Refused(refusal) => self.after_refusal(refusal, dice),
        }
    }

    /// What to say when the deadline comes before the next attempt.
    pub fn out_of_time(&self) -> Verdict {
        match (self.may_have_happened, self.refused) {
            (true, _) => Verdict::Unknown,
            (false, true) => Verdict::Refused,
            (false, false) => Verdict::Timeout,
        }
    }

    fn after_refusal(&mut self, refusal: &Refusal, dice: u64) -> Next {
        if let Some(end) = self.fate_unknown(refusal.unknown) {
            return end;
        }
        let asked = Duration::from_millis(u64::from(refusal.retry_after_ms));
        let wait = asked.max(backoff(self.attempts, dice));
        match refusal.code {
            Code::NotLeader if refusal.leader_address.is_empty() => again(wait, Leader::Search),
            Code::NotLeader => {
                self.redirects += 1;
                let at_once = self.redirects <= REDIRECTS_AT_ONCE_MAX && refusal.retry_after_ms == 0;
                again(if at_once { Duration::ZERO } else { wait }, Leader::Named)
            }
            Code::Overloaded
            | Code::DiskFull
            | Code::SessionWindowFull
            | Code::TooManySessions
            | Code::TooManyLeases
            | Code::TooManyWatches
            | Code::OutcomeUnknown => again(wait, Leader::Same),
            // It has waited already, and another node may be fresher.
            Code::NotFresh if self.attempts <= FRESH_READERS_TRIED => again(Duration::ZERO, Leader::Search),
            Code::ShardFault | Code::NotServing | Code::ShuttingDown | Code::NotFresh => again(wait, Leader::Search),
            Code::SessionExpired if self.kind == Kind::ExactlyOnce && !self.may_have_happened => {
                self.sessions_lost += 1;
                if self.sessions_lost > SESSIONS_LOST_MAX {
                    return Next::Fail(Verdict::Refused);
                }
                let after = if self.sessions_lost == 1 { Duration::ZERO } else { wait };
                Next::Again { after, leader: Leader::Same, new_session: true }
            }
            // Whoever asks for an outcome; a read has no session.
            Code::AlreadyAnswered if self.kind == Kind::Read => Next::Fail(Verdict::Refused),
            // Its answer was given once and is forgotten: whatever it was, we do not have it.
            Code::AlreadyAnswered => {
                self.may_have_happened = true;
                Next::Fail(Verdict::Unknown)
            }
            Code::DeadlineExceeded => {
                self.refused = false;
                Next::Fail(self.out_of_time())
            }
            Code::SessionExpired
            | Code::KeyEmpty
            | Code::KeyTooLarge
            | Code::ValueTooLarge
            | Code::BadNamespace
            | Code::BadRequest
            | Code::UnsupportedVersion
            | Code::WrongRing
            | Code::WrongShard
            | Code::Membership
            | Code::HelloFirst
            | Code::Incarnation
            | Code::SequenceReused
            | Code::CrossShard
            | Code::TransactionTooLarge
            | Code::DuplicateKey
            | Code::ResultTooLarge
            | Code::OutOfBounds
            | Code::NotANumber
            | Code::NotJson
            | Code::LeaseNotFound
            | Code::Compacted
            | Code::WatchTooSlow
            | Code::SnapshotDamaged
            | Code::Internal => Next::Fail(self.out_of_time()),
        }
    }

    /// A copy of the request may be on its way to happen, if `so`. Ends the call when it must not be repeated.
    fn fate_unknown(&mut self, so: bool) -> Option<Next> {
        if !so || self.kind == Kind::Read {
            return None;
        }
        self.may_have_happened = true;
        (self.kind == Kind::AtMostOnce).then_some(Next::Fail(Verdict::Unknown))
    }
}

/// Full jitter: uniform between [`BACKOFF_MS_MIN`] and a cap that doubles with each attempt up to [`BACKOFF_MS_MAX`].
pub fn backoff(attempts: u32, dice: u64) -> Duration {
    let cap = BACKOFF_MS_MIN.saturating_mul(1 << attempts.clamp(1, 16)).min(BACKOFF_MS_MAX);
    let span_us = (cap - BACKOFF_MS_MIN) * 1_000 + 1;
    Duration::from_micros(BACKOFF_MS_MIN * 1_000 + dice % span_us)
}

/// Whether a node that refuses a connection with this code will do so for good.
pub fn lasts(code: Code) -> bool {
    matches!(code, Code::UnsupportedVersion | Code::WrongRing | Code::HelloFirst | Code::BadRequest | Code::WrongShard)
}

fn again(after: Duration, leader: Leader) -> Next {
    Next::Again { after, leader, new_session: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Seen<'_> = Seen::Lost { sent: true };

    fn refused(code: Code) -> Refusal {
        Refusal::new(code, "because")
    }

    fn leader_of(next: Next) -> Leader {
        match next {
            Next::Again { leader, new_session: false, .. } => leader,
            other => panic!("expected another attempt, got {other:?}"),
        }
    }

    #[test]
    fn a_lost_write_is_repeated_only_with_a_ticket() {
        assert_eq!(leader_of(Effort::new(Kind::ExactlyOnce).after(LOST, 1)), Leader::Search);
        assert_eq!(leader_of(Effort::new(Kind::Read).after(LOST, 1)), Leader::Search);
        assert_eq!(Effort::new(Kind::AtMostOnce).after(LOST, 1), Next::Fail(Verdict::Unknown));
        let unsent = Seen::Lost { sent: false };
        assert_eq!(leader_of(Effort::new(Kind::AtMostOnce).after(unsent, 1)), Leader::Search);
    }

    #[test]
    fn an_expired_session_is_renewed_only_while_nothing_may_have_happened() {
        let expired = refused(Code::SessionExpired);
        let mut fresh = Effort::new(Kind::ExactlyOnce);
        let renewed = Next::Again { after: Duration::ZERO, leader: Leader::Same, new_session: true };
        assert_eq!(fresh.after(Seen::Refused(&expired), 1), renewed);
        let mut lost = Effort::new(Kind::ExactlyOnce);
        lost.after(LOST, 1);
        assert_eq!(lost.after(Seen::Refused(&expired), 1), Next::Fail(Verdict::Unknown));
    }

    #[test]
    fn sessions_that_never_live_end_the_call() {
        let expired = refused(Code::SessionExpired);
        let mut effort = Effort::new(Kind::ExactlyOnce);
        let ends = (0..10).map(|_| effort.after(Seen::Refused(&expired), 1)).find(|n| matches!(n, Next::Fail(_)));
        assert_eq!(ends, Some(Next::Fail(Verdict::Refused)));
    }

    #[test]
    fn redirects_are_followed_at_once_and_then_with_backoff() {
        let redirect = Refusal::not_leader(2, "127.0.0.1:2");
        let mut effort = Effort::new(Kind::ExactlyOnce);
        let waits: Vec<bool> = (0..4)
            .map(|_| match effort.after(Seen::Refused(&redirect), 77) {
                Next::Again { after, leader: Leader::Named, .. } => after > Duration::ZERO,
                other => panic!("expected a redirect, got {other:?}"),
            })
            .collect();
        assert_eq!(waits, [false, false, true, true]);
        let nobody = Refusal::not_leader(0, "");
        assert_eq!(leader_of(Effort::new(Kind::Read).after(Seen::Refused(&nobody), 1)), Leader::Search);
    }

    #[test]
    fn retry_after_is_a_lower_bound() {
        let busy = refused(Code::Overloaded).retry_after_ms(700);
        match Effort::new(Kind::ExactlyOnce).after(Seen::Refused(&busy), 3) {
            Next::Again { after, leader: Leader::Same, .. } => assert_eq!(after, Duration::from_millis(700)),
            other => panic!("expected a back-off, got {other:?}"),
        }
    }

    #[test]
    fn verdict_at_the_deadline_says_what_is_certain() {
        assert_eq!(Effort::new(Kind::ExactlyOnce).out_of_time(), Verdict::Timeout);
        let busy = refused(Code::Overloaded);
        let mut effort = Effort::new(Kind::ExactlyOnce);
        effort.after(Seen::Refused(&busy), 1);
        assert_eq!(effort.out_of_time(), Verdict::Refused);
        effort.after(LOST, 1);
        assert_eq!(effort.out_of_time(), Verdict::Unknown);
        assert_eq!(Effort::new(Kind::Read).after(Seen::DeadlinePassed, 1), Next::Fail(Verdict::Timeout));
        assert_eq!(Effort::new(Kind::ExactlyOnce).after(Seen::DeadlinePassed, 1), Next::Fail(Verdict::Unknown));
        let late = refused(Code::DeadlineExceeded);
        assert_eq!(Effort::new(Kind::ExactlyOnce).after(Seen::Refused(&late), 1), Next::Fail(Verdict::Timeout));
    }

    /// Whatever is seen in whatever order: once a copy may have happened, nothing certain is ever said again.
    #[test]
    fn nothing_certain_is_said_after_a_lost_copy() {
        for &code in Code::ALL {
            for second in Code::ALL.iter().map(|&c| refused(c)) {
                let mut effort = Effort::new(Kind::ExactlyOnce);
                effort.after(LOST, 1);
                effort.after(Seen::Refused(&refused(code)), 1);
                let next = effort.after(Seen::Refused(&second), 1);
                assert!(!matches!(next, Next::Fail(Verdict::Refused | Verdict::Timeout)), "{code} then {second}: {next:?}");
                assert_eq!(effort.out_of_time(), Verdict::Unknown);
                assert!(!matches!(next, Next::Again { new_session: true, .. }), "{code} then {second}");
            }
        }
    }

    #[test]
    fn backoff_stays_in_its_bounds_and_spreads() {
        for attempts in 0..40 {
            for dice in [0, 1, 999, u64::MAX / 3, u64::MAX] {
                let wait = backoff(attempts, dice).as_micros() as u64;
                assert!((BACKOFF_MS_MIN * 1_000..=BACKOFF_MS_MAX * 1_000).contains(&wait), "{attempts} {dice} {wait}");
            }
        }
        assert_ne!(backoff(6, 12_345), backoff(6, 54_321));
    }
}
