//! What became of a write whose answer was lost.
//!
//! ```no_run
//! # async fn example(client: ringbeam_sdk::Client) -> Result<(), ringbeam_sdk::Error> {
//! use ringbeam_sdk::Outcome;
//!
//! let error = match client.put("cart:7", "paid").await {
//!     Ok(_) => return Ok(()),
//!     Err(error) => error,
//! };
//! let Some(ticket) = error.ticket() else { return Err(error) };
//! match client.outcome(&ticket).await? {
//!     Outcome::Happened(done) => println!("it is at {:?}", done.revision),
//!     Outcome::Never => println!("it did not happen, and never will: try again"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! To ask is to settle: from the answer on, a copy of the write that is still on its way somewhere is refused. Asking again, by whomever,
//! gives the same answer.
//!
//! The ring keeps the answer until a later write of this client says that it is no longer needed. The client holds that back for a
//! minute, or until a quarter of the session's window has been used since, whichever comes first (`session.rs`), and does not close the
//! session when it ends. After that `outcome` is refused with `AlreadyAnswered` (later writes went on) or `SessionExpired` (nobody used
//! the session for long): then only a read can tell.

use ringbeam_wire::client::{Place, RequestBody, Revision};
use ringbeam_wire::refusal::{Code, Refusal};

use crate::answer::{Answer, Value};
use crate::client::Client;
use crate::error::Error;
use crate::request::odd;
use crate::retry::Kind;

/// The place of a write whose outcome is unknown; see [`Error::ticket`]. Three numbers, which may be kept and asked with later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The shard it was sent to.
    pub shard: u32,
    /// The session it was sent in.
    pub session: u64,
    /// Its sequence in the session.
    pub sequence: u64,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied, once.
    Happened(Happened),
    /// It was not applied, and never will be.
    Never,
}

/// What the answer of the write would have said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Of the write.
    pub revision: Revision,
    /// Ring time of its batch, milliseconds.
    pub ring_time_ms: u64,
    /// The key had a value before; of a transaction: its compares held; of a range: it had keys.
    pub existed: bool,
    /// What the gets of a transaction found, in their order. Of a counter: what it became. Of a slice of a range: how many keys went, in
    /// decimal, and an empty value if there were more.
    pub gets: Vec<Option<Value>>,
}

impl Client {
    /// Settles what became of a write: see the head of this file.
    pub async fn outcome(&self, ticket: &Ticket) -> Result<Outcome, Error> {
        let &Ticket { shard, session, sequence } = ticket;
        let place = Place { session, sequence, answered_below: 0 };
        // It may be asked as often as one likes: the second answer is the first.
        let asked = self.inner.command(shard, Kind::Read, RequestBody::Resolve(place), self.timeout).await;
        match asked {
            Ok(Answer::Resolved(outcome)) => {
                self.inner.shard(shard)?.release(session, sequence);
                Ok(*outcome)
            }
            Ok(other) => Err(odd(&other)),
            Err(Error::Refused(refusal)) => Err(Error::Refused(unknowable(refusal))),
            Err(other) => Err(other),
        }
    }
}

/// Says what a refusal means to whoever asked.
fn unknowable(refusal: Refusal) -> Refusal {
    let why = match refusal.code {
        Code::AlreadyAnswered => "its answer is no longer kept, as later writes of the session went on",
        Code::SessionExpired => "its session is gone, and the answers with it",
        _ => return refusal,
    };
    Refusal { message: format!("whether it happened cannot be known any more, read to see: {why}"), ..refusal }
}
