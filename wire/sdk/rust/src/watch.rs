//! Watching a range: every change of its keys, from all shards, as long as anybody listens.
//!
//! ```no_run
//! # async fn example(client: ringbeam_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use ringbeam_sdk::{Range, WatchOptions};
//!
//! let mut watch = client.watch(&Range::prefix("cart:"), &WatchOptions::default().snapshot()).await?;
//! while let Some(batch) = watch.next().await? {
//!     for event in &batch.events {
//!         println!("{:?} {:?} at {:?}", event.kind, event.key, event.revision);
//!     }
//!     // What has been seen so far, as bytes: another process goes on there by `WatchOptions::from_token`.
//!     let _token = watch.token();
//! }
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!   shard 0: lane ─ connection to any node ─▶ batches ┐
//!   shard 1: lane ─ connection to any node ─▶ batches ┴─▶ a queue of QUEUED_MAX ─▶ next()
//! ```
//!
//! **What is promised.** In each shard, changes come in the order of their revisions, each once, whatever connections and nodes come
//! and go: a lane goes on, at any node, behind the last event that it has queued. A transaction is never divided. Between shards there
//! is no order. What a node does not keep any more is asked of the others; if none has it, `next` says [`WatchError::Compacted`], or,
//! with [`WatchOptions::restart`], a batch that [begins a copy](Batch::copy_begins). A watch that begins now, also at a node that lags
//! behind, begins behind all that the client's session has seen: what it wrote before is not told as if it came after.
//!
//! **Backpressure.** A caller who does not call `next` fills the queue, then nothing is read from the sockets, then the nodes pause the
//! watch: nothing grows. One who stays away for longer than the nodes keep history finds a gap, said as above.
//!
//! **Not here**: one connection for many watches: a lane is a socket of its own, so that not reading it delays no call.

mod lane;
mod token;

use std::time::Duration;

use bytes::Bytes;
use ringbeam_wire::client::{EventKind, Revision};
use ringbeam_wire::limits::check_namespace;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::client::Client;
use crate::error::Error;
use crate::scan::Range;
use lane::{Began, Lane, Said};
use token::Token;

/// Batches that wait for the caller, of all shards together.
const QUEUED_MAX: usize = 64;

/// How a watch is to begin, and what of it is wanted.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    pub(crate) namespace: Option<String>,
    pub(crate) begin: Begin,
    pub(crate) no_puts: bool,
    pub(crate) no_deletes: bool,
    pub(crate) previous: bool,
    pub(crate) conflate: bool,
    pub(crate) restart: bool,
    /// How often a node says how far it is when nothing happens; `None`: each second.
    pub(crate) progress: Option<Duration>,
}

#[derive(Clone, Debug, Default)]
pub(crate) enum Begin {
    #[default]
    Now,
    After(Revision),
    Copy,
    Token(Token),
}

/// Why a watch does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchError {
    /// No node keeps what comes next. Begin anew with [`WatchOptions::snapshot`], or let the watch do so: [`WatchOptions::restart`].
    Compacted {
        /// The shard.
        shard: u32,
        /// What came behind this revision of the shard is still kept.
        oldest: Revision,
    },
    /// Anything else.
    Failed(Error),
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key.
    pub key: Bytes,
    /// The new value, or the delta; empty when there is none.
    pub value: Bytes,
    /// Of the change, in the batch's shard.
    pub revision: Revision,
    /// What was there before: when asked for, and known.
    pub previous: Option<(Bytes, Revision)>,
    /// Changes of this key before this one were left out.
    pub conflated: bool,
}

/// Some events of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Of which shard.
    pub shard: u32,
    /// In their order: by revision, those of a copy by key.
    pub events: Vec<Event>,
    /// Everything up to this log index of the shard has come. Events behind it are a part of a large batch, more of which follows.
    pub index: u64,
    /// Ring time at that index, milliseconds.
    pub ring_time_ms: u64,
    /// A copy of what the range has in this shard begins: what is known of it is over. Until it ends, only the keys that have come are
    /// up to date.
    pub copy_begins: bool,
    /// The copy is whole: what has not come is not there.
    pub copy_ends: bool,
}

/// A watch under way. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    queue: mpsc::Receiver<Said>,
    /// Up to where the caller has everything.
    token: Token,
    failed: Option<WatchError>,
    _lanes: JoinSet<()>,
}

impl WatchOptions {
    /// From where another watch of the same range was: [`Watch::token`].
    pub fn from_token(token: &[u8]) -> Result<WatchOptions, Error> {
        let token = Token::decode(token).map_err(|why| Error::Protocol(format!("no token of a watch: {why}")))?;
        Ok(WatchOptions { begin: Begin::Token(token), ..WatchOptions::default() })
    }

    /// Only what came behind this revision: for ranges of one shard, as revisions of different shards have nothing in common. Of a range of
    /// several it is [`Error::Misuse`]; [`WatchOptions::from_token`] goes on in all of them.
    pub fn after(self, revision: Revision) -> WatchOptions {
        WatchOptions { begin: Begin::After(revision), ..self }
    }

    /// First what there is, as events of kind [`EventKind::Snapshot`], then what changes.
    pub fn snapshot(self) -> WatchOptions {
        WatchOptions { begin: Begin::Copy, ..self }
    }

    /// Without puts.
    pub fn no_puts(self) -> WatchOptions {
        WatchOptions { no_puts: true, ..self }
    }

    /// Without deletes and expiries.
    pub fn no_deletes(self) -> WatchOptions {
        WatchOptions { no_deletes: true, ..self }
    }

    /// With what was there before.
    pub fn previous(self) -> WatchOptions {
        WatchOptions { previous: true, ..self }
    }

    /// One who is slow gets the newest of each key instead of each change, marked [`Event::conflated`]; one who is so slow that nobody
    /// keeps the changes gets a [copy](Batch::copy_begins).
    pub fn conflate(self) -> WatchOptions {
        WatchOptions { conflate: true, ..self }
    }

    /// When changes are lost, begin anew with a [copy](Batch::copy_begins) instead of an error.
    pub fn restart(self) -> WatchOptions {
        WatchOptions { restart: true, ..self }
    }

    /// In this namespace; otherwise in the client's.
    pub fn namespace(self, name: &str) -> WatchOptions {
        WatchOptions { namespace: Some(name.into()), ..self }
    }
}

impl Client {
    /// Watches a range. When it returns, every shard has begun: later writes are seen. The client's timeout is for this beginning.
    pub async fn watch(&self, range: &Range, options: &WatchOptions) -> Result<Watch, WatchError> {
        let namespace = self.name(&options.namespace).to_string();
        check_namespace(&namespace).map_err(Error::Refused)?;
        let shards = self.inner.shards.len() as u32;
        let ring = self.inner.routes().ring();
        let (queued, queue) = mpsc::channel(QUEUED_MAX);
        // Beside the queue, which shards that have begun may fill before others do. Each says one thing.
        let (starting, mut started) = mpsc::channel(shards.max(1) as usize);
        let mut lanes = JoinSet::new();
        let only = range.only_shard(|key| self.inner.shard_of(key).0);
        if let (Begin::After(Revision { index, position }), None, 2..) = (&options.begin, only, shards) {
            let why = format!(
                "a watch after revision {index}.{position} of a range in {shards} shards: a revision is of one shard. Watch one key or \
                 a prefix with a {{tag}}, or go on from a watch's token"
            );
            return Err(Error::Misuse(why).into());
        }
        let mut token = Token::new(ring, shards);
        if let Begin::Token(given) = &options.begin {
            given.check(ring, shards).map_err(Error::Protocol)?;
            token = given.clone();
        }
        let mut missing = 0;
        for shard in (0..shards).filter(|shard| only.is_none_or(|only| only == *shard)) {
            let (after, copy) = match &options.begin {
                Begin::Now => (None, false),
                Begin::Copy => (None, true),
                Begin::After(revision) => (Some(*revision), false),
                Begin::Token(token) => token.place(shard),
            };
            let (client, namespace, options) = (self.clone(), namespace.clone(), options.clone());
            let (from, until) = range.ends();
            // What begins now, at whichever node, does not go back behind what the caller has seen.
            let seen = if after.is_none() && !copy { self.seen.at(shard) } else { 0 };
            let starting = Some(starting.clone());
            let lane = Lane { client, shard, namespace, from, until, options, after, seen, copying: copy, starting };
            lanes.spawn(lane.run(queued.clone()));
            missing += 1;
        }
        drop((queued, starting));
        let until = Instant::now() + self.timeout;
        while missing > 0 {
            match timeout_at(until, started.recv()).await {
                Ok(Some(Ok(Began { shard, after, copying }))) => {
                    // One who goes on from here before the copy has come begins with it again.
                    token.set(shard, after, copying);
                    missing -= 1;
                }
                Ok(Some(Err(why))) => return Err(why),
                Ok(None) => return Err(Error::Connect("the runtime has ended".into()).into()),
                Err(_) => {
                    let timeout_ms = self.timeout.as_millis() as u64;
                    let why = format!("{missing} of {shards} shards could not be watched on any node");
                    return Err(Error::Timeout { timeout_ms, why }.into());
                }
            }
        }
        Ok(Watch { queue, token, failed: None, _lanes: lanes })
    }
}

impl Watch {
    /// The next events; waits for them. After an error, always that error. `None`: the runtime ends.
    pub async fn next(&mut self) -> Result<Option<Batch>, WatchError> {
        loop {
            let batch = self.progress().await?;
            if batch.as_ref().is_none_or(|batch| !batch.events.is_empty() || batch.copy_begins || batch.copy_ends) {
                return Ok(batch);
            }
        }
    }

    /// As [`Watch::next`], and how far it has come when nothing happens.
    pub(crate) async fn progress(&mut self) -> Result<Option<Batch>, WatchError> {
        if let Some(why) = &self.failed {
            return Err(why.clone());
        }
        match self.queue.recv().await {
            None => Ok(None),
            Some(Said::Failed(why)) => {
                self.failed = Some(why.clone());
                Err(why)
            }
            Some(Said::Batch { batch, after, copying }) => {
                self.token.set(batch.shard, after, copying);
                Ok(Some(batch))
            }
        }
    }

    /// What `next` has returned, as bytes, for [`WatchOptions::from_token`]: 20 and 13 for each shard.
    pub fn token(&self) -> Vec<u8> {
        self.token.encode()
    }
}

impl From<Error> for WatchError {
    fn from(error: Error) -> WatchError {
        WatchError::Failed(error)
    }
}

impl std::fmt::Display for WatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WatchError::Compacted { shard, oldest: Revision { index, position } } => write!(
                f,
                "the next changes of shard {shard} are not kept any more by any node that answers: what is kept begins behind \
                 {index}.{position}. Begin anew, with a snapshot"
            ),
            WatchError::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for WatchError {}
