//! How a call fails, by who must act.

use std::fmt;

use ringbeam_wire::refusal::Refusal;

use crate::outcome::Ticket;

/// Why a call gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The ring said no, and nothing happened: change the request, or come back later when the code says so
    /// (`Overloaded`, `DiskFull`, `TooManySessions`).
    Refused(Refusal),
    /// The request was sent and its answer was lost: it may have happened, may happen shortly, or never.
    ///
    /// Ask [`Client::outcome`](crate::Client::outcome) with [`Error::ticket`]: from its answer on the outcome is final. So it is without
    /// asking once a later write to the same shard has succeeded that began more than a minute, or a quarter of the session's window of
    /// writes, after this one ended: the shard no longer accepts the lost one then.
    Unknown {
        /// The shard it was sent to.
        shard: u32,
        /// The session it was sent in; 0: none.
        session: u64,
        /// Its sequence in the session; 0: none.
        sequence: u64,
        /// What was seen last.
        why: String,
    },
    /// The deadline passed, or the client's retry budget was spent, and the request certainly did not happen: try again, with more time
    /// if it was short.
    Timeout {
        /// For how long it was tried, milliseconds: the call's deadline, unless `why` says that the retry budget was spent before.
        timeout_ms: u64,
        /// What held it up.
        why: String,
    },
    /// No node could be reached at all: the operator or the list of endpoints must change.
    Connect(String),
    /// A node answered with something that is no answer, or the SDK and the ring do not fit together: a defect, or an
    /// endpoint that is not ringbeam.
    Protocol(String),
    /// The program asks in a way that cannot work, and nothing was sent: the program must change.
    Misuse(String),
}

impl Error {
    /// What to ask [`Client::outcome`](crate::Client::outcome) with. `None`: it is certain what happened, or the write had no session.
    pub fn ticket(&self) -> Option<Ticket> {
        match *self {
            Error::Unknown { shard, session, sequence, .. } if session != 0 => Some(Ticket { shard, session, sequence }),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(refusal) => {
                write!(f, "the ring refused, nothing happened: {refusal}")?;
                if refusal.retry_after_ms > 0 {
                    write!(f, " (worth another try after {} ms)", refusal.retry_after_ms)?;
                }
                Ok(())
            }
            Error::Unknown { shard, session: 0, why, .. } => {
                write!(f, "the outcome is unknown, read shard {shard} to see whether it happened: {why}")
            }
            Error::Unknown { shard, session, sequence, why } => write!(
                f,
                "the outcome is unknown, read shard {shard} to see whether it happened \
                 (session {session}, sequence {sequence}): {why}"
            ),
            Error::Timeout { timeout_ms, why } => {
                write!(f, "not done within {timeout_ms} ms, and it certainly did not happen: try again. {why}")
            }
            Error::Connect(why) => write!(f, "no connection, check the endpoints and whether the nodes run: {why}"),
            Error::Misuse(why) => write!(f, "this cannot work, nothing was sent: {why}"),
            Error::Protocol(why) => write!(f, "not a sensible answer, check versions and what listens there: {why}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use ringbeam_wire::refusal::Code;

    #[test]
    fn sentences_say_what_is_certain_and_who_acts() {
        let refused = Error::Refused(Refusal::new(Code::ValueTooLarge, "the value has 9 bytes, the limit is 8"));
        assert_eq!(
            refused.to_string(),
            "the ring refused, nothing happened: ValueTooLarge: the value has 9 bytes, the limit is 8"
        );
        let unknown = Error::Unknown { shard: 3, session: 8, sequence: 5, why: "the connection ended".into() };
        assert_eq!(
            unknown.to_string(),
            "the outcome is unknown, read shard 3 to see whether it happened (session 8, sequence 5): the connection ended"
        );
        let timeout = Error::Timeout { timeout_ms: 50, why: "no leader is known".into() };
        assert!(timeout.to_string().contains("certainly did not happen"));
    }
}
