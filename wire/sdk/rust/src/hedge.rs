//! Hedged reads: a read that any node may serve and that takes its time is asked of a second node too, and the first good answer wins.
//!
//! ```text
//!   read ─▶ node A ......................................▶ dropped, if B was first
//!             └ after `GetOptions::hedge` ─▶ node B ──▶ answer
//! ```
//!
//! It cuts the latencies of a node that pauses (a full core, a slow link) from the tail of many. It costs the second request, so it is for
//! few: at most one in twenty of the reads that ask for it, from a budget of its own, so that a ring that is slow as a whole gets 5 %
//! more to do and not twice as much.
//!
//! **Not here**: reads that only the leader may serve; for these `hedge` changes nothing.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::answer::{Answer, Outcome};
use crate::client::Inner;
use crate::connection::Connection;
use crate::error::Error;
use crate::limits::{HEDGE_ONE_IN, HEDGE_RESERVE};
use crate::request::{Time, What, deadline_ms};

/// What reads put in and hedges take out: one of [`HEDGE_ONE_IN`].
#[derive(Debug)]
pub(crate) struct HedgeBudget(AtomicI64);

impl Default for HedgeBudget {
    fn default() -> HedgeBudget {
        HedgeBudget(AtomicI64::new(HEDGE_RESERVE * HEDGE_ONE_IN))
    }
}

impl HedgeBudget {
    fn earn(&self) {
        // Beyond the reserve by as many reads as are counted at once, at most.
        if self.0.load(Ordering::Relaxed) < HEDGE_RESERVE * HEDGE_ONE_IN {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn spend(&self) -> bool {
        let enough = |left: i64| (left >= HEDGE_ONE_IN).then_some(left - HEDGE_ONE_IN);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_ok()
    }
}

impl Inner {
    /// A read that asks a second node after `after`. Its answer is `Value` or `Items`.
    pub(crate) async fn read_hedged(
        self: &Arc<Self>,
        number: u32,
        what: What<'_>,
        timeout: Duration,
        after: Duration,
    ) -> Result<Answer, Error> {
        if !what.reads_anywhere() {
            return self.read(number, what, timeout).await;
        }
        self.hedges.earn();
        let time = Time::start(timeout);
        let mut first = pin!(self.read(number, what.clone(), timeout));
        if let Ok(result) = tokio::time::timeout(after, &mut first).await {
            return result;
        }
        if !self.hedges.spend() {
            return first.await;
        }
        let result = first_good(&mut first, self.ask_another(number, &what, time)).await;
        let won = matches!(result, Ok((_, true)));
        if let Some(metrics) = &self.hooks.0 {
            metrics.hedged(number, won);
        }
        result.map(|(answer, _)| answer)
    }

    /// Asks, once, a node that is not the one that reads go to. `None`: no good answer.
    async fn ask_another(self: &Arc<Self>, number: u32, what: &What<'_>, time: Time) -> Option<Answer> {
        let shard = self.shards.get(number as usize)?;
        let address = shard.another_reader(fastrand::u64(..))?;
        let connection: Arc<Connection> = self.pool.open(&address, number, time.deadline).await.ok()?;
        match connection.call(what.body(None), time.deadline, deadline_ms(time.remaining())).await {
            Outcome::Answer(answer @ (Answer::Value(_) | Answer::Items(_))) => {
                connection.health.answered();
                Some(answer)
            }
            Outcome::Answer(Answer::Refused(refusal)) => {
                connection.health.refused(&refusal);
                None
            }
            _ => None,
        }
    }
}

/// The first that has a good answer, and whether that was the second; the first one's error when neither has.
async fn first_good(
    first: &mut (impl Future<Output = Result<Answer, Error>> + Unpin),
    second: impl Future<Output = Option<Answer>>,
) -> Result<(Answer, bool), Error> {
    let mut second = pin!(second);
    tokio::select! {
        biased;
        result = &mut *first => match result {
            Ok(answer) => Ok((answer, false)),
            Err(error) => second.await.map(|answer| (answer, true)).ok_or(error),
        },
        found = &mut second => match found {
            Some(answer) => Ok((answer, true)),
            None => Ok((first.await?, false)),
        },
    }
}
