//! A moment that a node keeps for a scan: pages of it come from that node, over whichever connection there is to it.
//!
//! **Invariants**
//! - Every page is of the index of the first one; a node that answers with another is not believed.
//! - Who drops the last handle tells the node, if the connection is open; else it finds out by itself, within 30 s.
//! - While keys are taken from a scan, no pin of it rests so long that its node gives it up.
//!
//! **Not here**: what is done when it fails, as for all calls (`call.rs`); what a scan makes of pages (`scan.rs`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringbeam_wire::client::{Moment, RequestBody};

use crate::answer::Answer;
use crate::client::Inner;
use crate::connection::Connection;
use crate::error::Error;
use crate::leader::NotFound;
use crate::limits::PIN_ASKED_AGAIN;
use crate::observe::Tally;
use crate::request::{Job, Time, What};
use crate::retry::{Kind, backoff};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Pin {
    id: u64,
    index: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The last connection to the node.
    node: Arc<Connection>,
    /// It has answered last.
    used: Instant,
}

impl Pin {
    pub(crate) fn new(id: u64, index: u64, node: Arc<Connection>) -> Arc<Pin> {
        Arc::new(Pin { id, index, state: Mutex::new(State { node, used: Instant::now() }) })
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment::Pinned { pin: self.id, index: self.index }
    }

    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// The node is to hear of it, or gives it up some time.
    pub(crate) fn has_rested(&self) -> bool {
        self.lock().used.elapsed() > PIN_ASKED_AGAIN
    }

    fn node(&self) -> Arc<Connection> {
        self.lock().node.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to the node that keeps it, opened anew if need be.
    pub(crate) async fn reach(&self, inner: &Inner, shard: u32, deadline: Instant) -> Result<Arc<Connection>, NotFound> {
        let mut tries = 0;
        loop {
            let node = self.node();
            if node.is_open() {
                return Ok(node);
            }
            let why = match inner.pool.open(&node.address, shard, deadline).await {
                Ok(node) => {
                    self.lock().node = node.clone();
                    return Ok(node);
                }
                Err(error) => format!("the node that keeps the moment of this scan is not reached: {error}"),
            };
            tries += 1;
            let wait = backoff(tries, inner.dice());
            if Instant::now() + wait >= deadline {
                return Err(NotFound { why, error: None });
            }
            tokio::time::sleep(wait).await;
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.node().post(&RequestBody::Unpin { pin: self.id });
    }
}

impl Inner {
    /// A page of a pinned moment, which must not say how fresh it is to be: it is of that moment.
    pub(crate) async fn read_pinned(
        self: &Arc<Self>,
        number: u32,
        pin: &Pin,
        what: What<'_>,
        timeout: Duration,
    ) -> Result<Answer, Error> {
        let (time, kind) = (Time::start(timeout), what.kind());
        let job = Job { number, shard: self.shard(number)?, kind: Kind::Read, what, time, pin: Some(pin) };
        let answer = if self.hooks.wanted() {
            let asked = async move |tally: &mut Tally| self.carry_out(job, None, tally).await;
            self.hooks.watch(kind, number, time.started, asked).await?
        } else {
            Box::pin(self.carry_out(job, None, &mut Tally::default())).await?
        };
        pin.lock().used = Instant::now();
        Ok(answer)
    }
}
