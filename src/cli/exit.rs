//! What the exit code says. Scripts build on these numbers: they never change.

use std::process::ExitCode;

use ringbeam_sdk::{Error, Ticket};

/// For `--help`.
pub const HELP: &str = "\
Exit codes:
  0  done
  1  get: the key has no value; cas, txn: what was expected does not hold; lease
     revoke: there is none; outcome: it never happened; serve: the node cannot
     start or go on
  2  wrong arguments, configuration or local file; nothing was asked of the ring
  3  the ring refused, and nothing happened
  4  the outcome is unknown: it may have happened; `ringbeam outcome` tells
  5  no connection, or not done in time: nothing happened";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// As asked.
    Done = 0,
    /// The key has no value, or is not as expected.
    No = 1,
    /// The arguments, the configuration or a local file are wrong.
    Usage = 2,
    /// The ring said no.
    Refused = 3,
    /// The write may have happened.
    Unknown = 4,
    /// Nobody answered in time.
    NoConnection = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// A sentence for the person.
    pub message: String,
}

impl Failure {
    /// The person's side is wrong.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match &error {
            // A refusal may itself say that the write's fate is open.
            Error::Refused(refusal) if refusal.unknown => Exit::Unknown,
            Error::Refused(_) => Exit::Refused,
            Error::Unknown { .. } => Exit::Unknown,
            Error::Misuse(_) => Exit::Usage,
            Error::Timeout { .. } | Error::Connect(_) | Error::Protocol(_) => Exit::NoConnection,
        };
        let mut message = error.to_string();
        if let Some(Ticket { shard, session, sequence }) = error.ticket() {
            message += &format!("\nringbeam: to settle what became of it: ringbeam outcome {shard} {session} {sequence}");
        }
        Failure { exit, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_names_the_command_that_settles_it() {
        let unknown = |session| Failure::from(Error::Unknown { shard: 3, session, sequence: 5, why: "it was lost".into() });
        let failure = unknown(1 << 20);
        assert_eq!(failure.exit, Exit::Unknown);
        assert!(
            failure.message.ends_with("\nringbeam: to settle what became of it: ringbeam outcome 3 1048576 5"),
            "{failure:?}"
        );
        assert!(!unknown(0).message.contains("ringbeam outcome"), "of a write without a session nothing is kept");
    }
}
