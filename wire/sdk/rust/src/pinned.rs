//! A moment that a node keeps for a scan: pages of it come from that node, over whichever connection there is to it.
//!
//! **Invariants**
//! - Every page is of the index of the first one; a node that answers with another is not believed.
//! - Who drops the last handle tells the node, if the connection is open; else it finds out by itself, within 30 s.
//! - While keys are taken from a scan, no pin of it rests so long that its node gives it up.
//!
//! **Not here**: the first page, which is a read like others (`call.rs`); what a scan makes of pages (`scan.rs`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringbeam_wire::client::{Moment, RequestBody};

use crate::answer::{Answer, Outcome};
use crate::budget;
use crate::client::Inner;
use crate::connection::Connection;
use crate::error::Error;
use crate::limits::PIN_ASKED_AGAIN;
use crate::observe::Tally;
use crate::request::{Job, Time, What, Why, deadline_ms};
use crate::retry::{Effort, Kind, Next, Seen};

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
    async fn reach(&self, inner: &Inner, shard: u32, deadline: Instant) -> Result<Arc<Connection>, String> {
        let node = self.node();
        if node.is_open() {
            return Ok(node);
        }
        let node = inner.pool.open(&node.address, shard, deadline).await.map_err(|error| error.to_string())?;
        self.lock().node = node.clone();
        Ok(node)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.node().post(&RequestBody::Unpin { pin: self.id });
    }
}

impl Inner {
    /// A page of a pinned moment.
    pub(crate) async fn read_pinned(
        self: &Arc<Self>,
        number: u32,
        pin: &Pin,
        what: What<'_>,
        timeout: Duration,
    ) -> Result<Answer, Error> {
        let time = Time::start(timeout);
        if !self.hooks.wanted() {
            return self.try_pinned(number, pin, what, time, &mut Tally::default()).await;
        }
        let asked = async move |tally: &mut Tally| self.try_pinned(number, pin, what, time, tally).await;
        self.hooks.watch("scan", number, time.started, asked).await
    }

    async fn try_pinned(
        self: &Arc<Self>,
        number: u32,
        pin: &Pin,
        what: What<'_>,
        time: Time,
        tally: &mut Tally,
    ) -> Result<Answer, Error> {
        let job = Job { number, shard: self.shard(number)?, kind: Kind::Read, what, time };
        let mut effort = Effort::new(Kind::Read);
        loop {
            let (node, outcome) = match pin.reach(self, number, time.deadline).await {
                Ok(node) => {
                    tally.asked(node.welcome.node);
                    let outcome = node.call(job.what.body(None), time.deadline, deadline_ms(time.remaining())).await;
                    (Some(node), outcome)
                }
                Err(why) if time.remaining().is_zero() => return Err(Why::text(why).error(effort.out_of_time(), &job, None)),
                Err(_) => (None, Outcome::Lost { sent: false }),
            };
            let seen = match &outcome {
                Outcome::Answer(Answer::Refused(refusal)) => Seen::Refused(refusal),
                Outcome::Answer(_) => {
                    node.iter().for_each(|node| node.health.answered());
                    pin.lock().used = Instant::now();
                    let Outcome::Answer(answer) = outcome else { continue };
                    return Ok(answer);
                }
                Outcome::Lost { sent } => Seen::Lost { sent: *sent },
                Outcome::DeadlinePassed => Seen::DeadlinePassed,
                Outcome::Busy => Seen::Busy,
            };
            let next = effort.after(seen, self.dice());
            let spent = matches!(next, Next::Again { leader, .. } if budget::costs(seen, leader, effort.attempts()))
                && !self.may_retry();
            let why = match &node {
                Some(node) => Why::of(node, outcome),
                None => Why::text(pin.node().why_closed()),
            };
            match next {
                Next::Fail(verdict) => return Err(why.error(verdict, &job, None)),
                Next::Again { .. } if spent => return Err(why.spent().error(effort.out_of_time(), &job, None)),
                Next::Again { after, .. } if after >= time.remaining() => {
                    return Err(why.error(effort.out_of_time(), &job, None));
                }
                Next::Again { after, .. } => tokio::time::sleep(after).await,
            }
        }
    }
}
