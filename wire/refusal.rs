//! How a node says no: a stable number, whether the write certainly did not happen, and a sentence for people.
//!
//! Numbers are forever: they are in logs, dashboards and SDKs of every language. They are added at the end and never reused.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)+) => {
        /// Why a request was refused. The number is what travels.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code { $($(#[$doc])* $name = $number,)+ }

        impl Code {
            /// All codes, in the order of their numbers.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];
            /// The code with this number, if this build knows it.
            pub fn from_u16(number: u16) -> Option<Code> {
                match number { $($number => Some(Code::$name),)+ _ => None }
            }
            /// The code's name, as in this source and in metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)+ }
            }
        }
    };
}

codes! {
    /// This node does not lead the shard; `leader` and `leader_address` say who does, 0 and "" when none is known.
    NotLeader = 1,
    /// A queue is full; `retry_after_ms` says when to come back.
    Overloaded = 2,
    /// The deadline passed before the request was started.
    DeadlineExceeded = 3,
    /// The write was started and its fate is not known; ask again with the same session and sequence.
    OutcomeUnknown = 4,
    /// A key has at least one byte.
    KeyEmpty = 5,
    /// Longer than `limits::KEY_BYTES_MAX`.
    KeyTooLarge = 6,
    /// Longer than the node's configured limit.
    ValueTooLarge = 7,
    /// Not a namespace name, or too long.
    BadNamespace = 8,
    /// The bytes are not a request; the message says where.
    BadRequest = 9,
    /// No protocol version that both sides speak.
    UnsupportedVersion = 10,
    /// The caller expects another ring.
    WrongRing = 11,
    /// The key belongs to another shard, or the shard does not exist.
    WrongShard = 12,
    /// The session was closed or not used for its lifetime.
    SessionExpired = 13,
    /// The client said that it has the answer of this sequence: it is forgotten.
    AlreadyAnswered = 14,
    /// Too many writes of the session are unanswered.
    SessionWindowFull = 15,
    /// The shard holds as many sessions as it may.
    TooManySessions = 16,
    /// No room for the log; reads go on.
    DiskFull = 17,
    /// The shard's log or state is broken on this node.
    ShardFault = 18,
    /// The node is not ready, or its role serves no clients.
    NotServing = 19,
    /// The node is stopping.
    ShuttingDown = 20,
    /// The change of membership is impossible; the message says why.
    Membership = 21,
    /// The first request of a connection is `Hello`.
    HelloFirst = 22,
    /// The caller's or the callee's data directory is not the one the ring knows.
    Incarnation = 23,
    /// The sequence was used before for another write.
    SequenceReused = 24,
    /// A defect of the node; the message is for its makers.
    Internal = 25,
    /// The keys of a transaction are of several shards.
    CrossShard = 26,
    /// A transaction of too many parts or bytes.
    TransactionTooLarge = 27,
    /// A transaction writes a key twice.
    DuplicateKey = 28,
    /// The gets of a transaction found more than its answer may have; it changed nothing.
    ResultTooLarge = 29,
    /// A counter would leave the bounds that its caller gave; it is unchanged.
    OutOfBounds = 30,
    /// The value to add to is not a decimal number of 64 bits.
    NotANumber = 31,
    /// The value to patch, or the patch, is not JSON.
    NotJson = 32,
    /// The lease is unknown: never granted in this shard, revoked, or not kept alive for its time.
    LeaseNotFound = 33,
    /// The shard holds as many leases as it may.
    TooManyLeases = 34,
    /// This node cannot show that its answer would be as fresh as asked for; another one may.
    NotFresh = 35,
    /// What was asked for is no longer kept: the changes to watch from (the message says what is the oldest), or the moment of a scan.
    Compacted = 36,
    /// A watcher did not take its events for so long that they are no longer kept.
    WatchTooSlow = 37,
    /// The connection or the shard has as many watches as it may.
    TooManyWatches = 38,
    /// Between nodes: the snapshot that was sent does not read back well, and nothing of it was installed; the message says where.
    SnapshotDamaged = 39,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// True: the write may or may not happen. False: it certainly did not and will not.
    pub unknown: bool,
    /// The place, the value, and what would be right, for people.
    pub message: String,
    /// For [`Code::NotLeader`]: the leader's node id, 0 when none is known.
    pub leader: u64,
    /// For [`Code::NotLeader`]: the leader's client address (host:port), "" when none is known.
    pub leader_address: String,
    /// When to try again, milliseconds; 0: not said.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// A refusal without leader and retry time. `unknown` is true for [`Code::OutcomeUnknown`] only.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            unknown: code == Code::OutcomeUnknown,
            message: message.into(),
            leader: 0,
            leader_address: String::new(),
            retry_after_ms: 0,
        }
    }

    /// [`Code::NotLeader`], pointing to `leader` (0: none known) at `leader_address`.
    pub fn not_leader(leader: u64, leader_address: impl Into<String>) -> Refusal {
        let message = match leader {
            0 => "this node does not lead the shard, and no leader is known".to_string(),
            leader => format!("this node does not lead the shard, node {leader} does"),
        };
        Refusal { leader, leader_address: leader_address.into(), ..Refusal::new(Code::NotLeader, message) }
    }

    /// The same, with a time to come back.
    pub fn retry_after_ms(self, retry_after_ms: u32) -> Refusal {
        Refusal { retry_after_ms, ..self }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_run_from_1_without_gaps_and_come_back() {
        for (at, &code) in Code::ALL.iter().enumerate() {
            assert_eq!(code as usize, at + 1);
            assert_eq!(Code::from_u16(code as u16), Some(code));
        }
        assert_eq!(Code::from_u16(0), None);
        assert_eq!(Code::from_u16(Code::ALL.len() as u16 + 1), None);
    }

    #[test]
    fn only_an_unknown_outcome_is_unknown() {
        for &code in Code::ALL {
            assert_eq!(Refusal::new(code, "").unknown, code == Code::OutcomeUnknown);
        }
        assert_eq!(Refusal::new(Code::DiskFull, "no room").to_string(), "DiskFull: no room");
    }
}
