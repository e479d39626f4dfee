//! What a program can see of its client: a span per call, and hooks for its own metrics.
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use ringbeam_sdk::{CallEnded, Client, Ended, Metrics};
//!
//! #[derive(Default)]
//! struct Counts {
//!     calls: AtomicU64,
//!     failures: AtomicU64,
//! }
//!
//! impl Metrics for Counts {
//!     fn call_ended(&self, call: &CallEnded) {
//!         self.calls.fetch_add(1, Ordering::Relaxed);
//!         if call.ended != Ended::Done {
//!             self.failures.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }
//! }
//!
//! let builder = Client::builder().metrics(Counts::default());
//! ```
//!
//! **Spans** (`tracing`, level DEBUG, target `ringbeam_sdk`): `call` with `kind`, `shard`, and at its end `node`, `attempts` and `ended`.
//!
//! **Cost**: without metrics and without a subscriber for these spans a call pays for two branches, no clock, no allocation; with them
//! an allocation and a look at the clock.
//!
//! **Not here**: what the numbers are exported to.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Instrument;
use tracing::field::Empty;

use crate::answer::Answer;
use crate::error::Error;

/// What a client tells a program, as it happens. All methods do nothing unless they are written; they are called on the task of the call
/// or of the connection, so they must not block.
pub trait Metrics: Send + Sync + 'static {
    /// A call has ended. One whose future was dropped before tells nothing.
    fn call_ended(&self, call: &CallEnded) {
        let _ = call;
    }

    /// A connection to a node's shard is open.
    fn connection_opened(&self, node: u64, shard: u32) {
        let _ = (node, shard);
    }

    /// A connection to a node's shard has ended, and not because the client ended it.
    fn connection_lost(&self, node: u64, shard: u32, why: &str) {
        let _ = (node, shard, why);
    }

    /// A second node was asked, as the first took its time; `won`: its answer was the first good one.
    fn hedged(&self, shard: u32, won: bool) {
        let _ = (shard, won);
    }

    /// A near-cache was asked.
    fn cache(&self, asked: Cached) {
        let _ = asked;
    }
}

/// A call that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallEnded {
    /// What was asked: "put", "get", ..
    pub kind: &'static str,
    /// Of which shard.
    pub shard: u32,
    /// How it ended.
    pub ended: Ended,
    /// Requests that were sent for it, or tried to be; 0: no node was found.
    pub attempts: u32,
    /// The node that was asked last; 0: none.
    pub node: u64,
    /// From its beginning to its end.
    pub duration: Duration,
}

/// How a call ended: with an answer, or with which [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// With an answer.
    Done,
    /// [`Error::Refused`].
    Refused,
    /// [`Error::Unknown`].
    Unknown,
    /// [`Error::Timeout`].
    Timeout,
    /// Any other.
    Failed,
}

/// What a near-cache did with a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cached {
    /// Answered it.
    Hit,
    /// Answered that there is no such key.
    NegativeHit,
    /// Let it wait for a fetch that was under way.
    Coalesced,
    /// Fetched.
    Miss,
    /// Was off, as it had not paid: the read went to the ring like any other.
    Bypassed,
}

/// The hooks of a client.
#[derive(Clone, Default)]
pub(crate) struct Hooks(pub(crate) Option<Arc<dyn Metrics>>);

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Metrics" } else { "no Metrics" })
    }
}

/// What is known of a call's attempts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) attempts: u32,
    pub(crate) node: u64,
}

impl Tally {
    pub(crate) fn asked(&mut self, node: u64) {
        self.attempts += 1;
        self.node = node;
    }
}

impl Hooks {
    /// Whether anybody wants to know of a call.
    pub(crate) fn wanted(&self) -> bool {
        self.0.is_some() || tracing::enabled!(tracing::Level::DEBUG)
    }

    /// Carries out a call, and tells of it. Boxed, so that calls that nobody looks at stay small.
    pub(crate) async fn watch(
        &self,
        kind: &'static str,
        shard: u32,
        started: Instant,
        call: impl AsyncFnOnce(&mut Tally) -> Result<Answer, Error>,
    ) -> Result<Answer, Error> {
        let span = tracing::debug_span!("call", kind, shard, node = Empty, attempts = Empty, ended = Empty);
        let mut tally = Tally::default();
        let result = Box::pin(call(&mut tally).instrument(span.clone())).await;
        self.ended(&span, kind, shard, started, tally, &result);
        result
    }

    /// A call is over.
    fn ended(
        &self,
        span: &tracing::Span,
        kind: &'static str,
        shard: u32,
        started: Instant,
        tally: Tally,
        result: &Result<Answer, Error>,
    ) {
        let ended = match result {
            Ok(_) => Ended::Done,
            Err(Error::Refused(_)) => Ended::Refused,
            Err(Error::Unknown { .. }) => Ended::Unknown,
            Err(Error::Timeout { .. }) => Ended::Timeout,
            Err(_) => Ended::Failed,
        };
        if !span.is_disabled() {
            span.record("node", tally.node);
            span.record("attempts", tally.attempts);
            span.record("ended", tracing::field::debug(ended));
        }
        if let Some(metrics) = &self.0 {
            let Tally { attempts, node } = tally;
            metrics.call_ended(&CallEnded { kind, shard, ended, attempts, node, duration: started.elapsed() });
        }
    }
}
