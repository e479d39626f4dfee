//! What applying a write answers.

use std::fmt;
use std::rc::Rc;

use super::limits::{INDEX_MAX, POSITION_BITS, POSITIONS_MAX};
use super::{Found, counter, erase, transaction};

/// When a key last changed: log index and position in its batch. Totally ordered within a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Log index of the batch.
    pub index: u64,
    /// Position in the batch, from 0.
    pub position: u32,
}

impl Revision {
    /// The id of the session that the `OpenSession` at this revision opened. Never 0, unique in the shard.
    pub fn session_id(self) -> u64 {
        assert!(self.index > 0 && self.index < INDEX_MAX, "log index {} does not fit a session id", self.index);
        assert!(self.position < POSITIONS_MAX, "position {} does not fit a session id", self.position);
        (self.index << POSITION_BITS) | u64::from(self.position)
    }
}

impl From<Revision> for ringbeam_wire::client::Revision {
    fn from(Revision { index, position }: Revision) -> Self {
        ringbeam_wire::client::Revision { index, position }
    }
}

/// Why a write in the log changed nothing. Deterministic: every node denies the same writes.
///
/// The numbers are those of the wire's refusals and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Denied {
    /// The value would be longer than it may be.
    ValueTooLarge = 7,
    /// The session is unknown: never opened, closed, or unused for longer than its lifetime.
    SessionExpired = 13,
    /// The client has said that it knows the answer of this sequence, so it is no longer kept.
    AlreadyAnswered = 14,
    /// The session (or all sessions together) has too many answers that nobody has acknowledged.
    SessionWindowFull = 15,
    /// As many sessions as may be are open and in use.
    TooManySessions = 16,
    /// The session has used this sequence for another command.
    SequenceReused = 24,
    /// The gets of a transaction found more than an answer may hold.
    ResultTooLarge = 29,
    /// A counter would leave its bounds, or what 64 bits hold.
    OutOfBounds = 30,
    /// What is to be added to is no number.
    NotANumber = 31,
    /// A merge patch, or what it is to change, is no JSON.
    NotJson = 32,
    /// The lease has ended, or never was.
    LeaseNotFound = 33,
    /// The shard has as many leases as it may.
    TooManyLeases = 34,
}

impl Denied {
    /// The wire's refusal code.
    pub fn code(self) -> u16 {
        self as u16
    }
    /// A sentence for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Denied::ValueTooLarge => {
                "the value would be longer than it may be (limits.value_bytes_max; what merge patches apply to: 65536 bytes)"
            }
            Denied::SessionExpired => "the session is unknown or has expired; open a new one",
            Denied::AlreadyAnswered => "the session has acknowledged the answer of this sequence already",
            Denied::SessionWindowFull => "the session has too many unacknowledged writes; raise answered_below",
            Denied::TooManySessions => "the shard has as many sessions as it may; close some or retry later",
            Denied::SequenceReused => "the session used this sequence for another command; use the next sequence",
            Denied::ResultTooLarge => "the gets of the transaction found more than 65536 bytes; read those keys by themselves",
            Denied::OutOfBounds => {
                "the sum would be out of the bounds that were given, or of 64 bits; the counter is as it was"
            }
            Denied::NotJson => {
                "the patch or the value that it is to change is no JSON, or nested deeper than 128; nothing was changed"
            }
            Denied::NotANumber => "the value is not a decimal number of 64 bits, so nothing can be added to it",
            Denied::LeaseNotFound => "the lease has ended, or never was; grant a new one",
            Denied::TooManyLeases => "the shard has as many leases as it may; revoke some or retry later",
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Applied (now or, for a duplicate, the first time), or denied without a change to any key.
    pub outcome: Result<(), Denied>,
    /// Of the write itself; for a duplicate, of the first time.
    pub revision: Revision,
    /// Ring time at `revision`, in milliseconds.
    pub ring_time_ms: u64,
    /// The key had a value before; for `CloseSession`, the session was open; for a transaction, its compares held; for a range,
    /// it had keys.
    pub existed: bool,
    /// No such write has been applied, and none ever will be: the answer to an `Op::Resolve` that found nothing.
    pub never: bool,
    /// This is the answer of an earlier, identical write of the session; nothing was applied again.
    pub duplicate: bool,
    /// What a transaction's gets found, or what an addition made; see [`Answer::found`].
    pub(super) gets: Option<Rc<[u8]>>,
}

impl Answer {
    /// What a transaction's gets found, in their order; of an addition, what it made of its key; of a
    /// range delete, see [`Answer::erased`].
    pub fn found(&self) -> impl Iterator<Item = Option<Found<'_>>> {
        transaction::found(self.gets.as_deref().unwrap_or_default())
    }

    /// Keys that went with a range, and whether it has more.
    pub fn erased(&self) -> Option<(u32, bool)> {
        erase::noted(self)
    }

    /// The sum that an addition came to.
    pub fn sum(&self) -> Option<i64> {
        counter::number(self.found().next()??.value)
    }
}
