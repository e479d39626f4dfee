//! The way of a call: find the node, take a ticket, send, and do what `retry.rs` says until there is an answer or no time.
//!
//! ```text
//!   put -> shard of the key -> leader known, session open, room?  -- yes --> send --> Written
//!                                       | no                          | anything else
//!                                       v                             v
//!                              find leader, open session  <----  retry.rs: where, when, or why not
//! ```
//!
//! The first line runs without an allocation and without waiting for anything but the reply. Everything below it is one loop,
//! boxed, so that the futures of usual calls stay small.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringbeam_wire::client::RequestBody;
use ringbeam_wire::refusal::Code;

use crate::answer::{Answer, Outcome};
use crate::budget;
use crate::client::Inner;
use crate::connection::Connection;
use crate::consistency::Marks;
use crate::error::Error;
use crate::leader::NotFound;
use crate::limits::{FRESH_PATIENCE, FRESH_READERS_TRIED};
use crate::observe::Tally;
use crate::request::{Job, Time, What, Why, deadline_ms};
use crate::retry::{Effort, Kind, Leader, Next, Seen, Verdict};
use crate::routing::Address;
use crate::shard::{Shard, Turn};
use crate::turn::NoTurn;

type First<'a> = (Arc<Connection>, Option<Turn<'a>>, Outcome);

impl Inner {
    /// A write of `key`, which says which shard; its answer is of the write's kind.
    pub(crate) async fn write(
        self: &Arc<Self>,
        key: &[u8],
        what: What<'_>,
        timeout: Duration,
        seen: &Marks,
    ) -> Result<Answer, Error> {
        self.write_to(self.shard_of(key).0, what, timeout, seen).await
    }

    /// A write of the shard with this number.
    pub(crate) async fn write_to(
        self: &Arc<Self>,
        number: u32,
        what: What<'_>,
        timeout: Duration,
        seen: &Marks,
    ) -> Result<Answer, Error> {
        let (time, shard) = (Time::start(timeout), self.shard(number)?);
        let answer = if self.hooks.wanted() {
            let kind = what.kind();
            let asked = async move |tally: &mut Tally| self.try_write(number, shard, what, time, tally).await;
            self.hooks.watch(kind, number, time.started, asked).await?
        } else {
            self.try_write(number, shard, what, time, &mut Tally::default()).await?
        };
        seen.saw(number, answer.index().unwrap_or(0));
        Ok(answer)
    }

    async fn try_write(
        self: &Arc<Self>,
        number: u32,
        shard: &Shard,
        what: What<'_>,
        time: Time,
        tally: &mut Tally,
    ) -> Result<Answer, Error> {
        let timeout = time.timeout;
        let kind = if self.sessions { Kind::ExactlyOnce } else { Kind::AtMostOnce };
        let mut first = None;
        if let Some((leader, turn)) = shard.begin_write(time.started) {
            what.check(leader.welcome.value_bytes_max).map_err(Error::Refused)?;
            tally.asked(leader.welcome.node);
            let outcome = leader.call(what.body(Some(turn.ticket)), time.deadline, deadline_ms(timeout)).await;
            if matches!(&outcome, Outcome::Answer(answer) if answer.is_of_a_write())
                && let Outcome::Answer(answer) = outcome
            {
                leader.health.answered();
                return Ok(answer);
            }
            first = Some((leader, Some(turn), outcome));
        }
        Box::pin(self.carry_out(Job { number, shard, kind, what, time, pin: None }, first, tally)).await
    }

    /// A read of the shard with this number; its answer is `Value` or `Items`.
    pub(crate) async fn read(self: &Arc<Self>, number: u32, what: What<'_>, timeout: Duration) -> Result<Answer, Error> {
        let time = Time::start(timeout);
        if !self.hooks.wanted() {
            return self.try_read(number, what, time, &mut Tally::default()).await;
        }
        let kind = what.kind();
        self.hooks.watch(kind, number, time.started, async move |tally| self.try_read(number, what, time, tally).await).await
    }

    async fn try_read(self: &Arc<Self>, number: u32, what: What<'_>, time: Time, tally: &mut Tally) -> Result<Answer, Error> {
        let timeout = time.timeout;
        let shard = self.shard(number)?;
        let mut first = None;
        if let Some(node) = shard.begin_read(time.started, what.reads_anywhere()) {
            what.check(u32::MAX).map_err(Error::Refused)?;
            tally.asked(node.welcome.node);
            let (deadline, told) = attempt(&what, &time, timeout);
            let outcome = node.call(what.body(None), deadline, told).await;
            if let Outcome::Answer(answer @ (Answer::Value(_) | Answer::Items(_))) = outcome {
                node.health.answered();
                shard.reader_answered(&node);
                return Ok(answer.by(&node));
            }
            first = Some((node, None, outcome));
        }
        Box::pin(self.carry_out(Job { number, shard, kind: Kind::Read, what, time, pin: None }, first, tally)).await
    }

    pub(crate) fn shard(&self, number: u32) -> Result<&Shard, Error> {
        let none = || Error::Protocol(format!("there is no shard {number}, this ring has {}", self.shards.len()));
        self.shards.get(number as usize).ok_or_else(none)
    }

    /// A command for the shard's leader that is not about a key.
    pub(crate) async fn command(
        self: &Arc<Self>,
        number: u32,
        kind: Kind,
        body: RequestBody<'_>,
        timeout: Duration,
    ) -> Result<Answer, Error> {
        let (shard, time) = (self.shard(number)?, Time::start(timeout));
        let job = Job { number, shard, kind, what: What::Ring(body), time, pin: None };
        if !self.hooks.wanted() {
            return Box::pin(self.carry_out(job, None, &mut Tally::default())).await;
        }
        self.hooks.watch("ring", number, time.started, async move |tally| self.carry_out(job, None, tally).await).await
    }

    /// The loop. `first`: an attempt that was made already.
    pub(crate) async fn carry_out<'a>(
        self: &Arc<Self>,
        job: Job<'a>,
        first: Option<First<'a>>,
        tally: &mut Tally,
    ) -> Result<Answer, Error> {
        let mut effort = Effort::new(job.kind);
        let mut turn: Option<Turn<'a>> = None;
        let mut last = None;
        let mut why = Why::default();
        // Nodes that could not answer a read that a fresher one may.
        let mut too_old = 0;
        if let Some((connection, first_turn, outcome)) = first {
            turn = first_turn;
            last = Some((connection, outcome));
        }
        loop {
            if let Some((connection, outcome)) = last.take() {
                let outcome = match outcome {
                    Outcome::Answer(answer) if !matches!(answer, Answer::Refused(_)) => {
                        connection.health.answered();
                        job.shard.reader_answered(&connection);
                        return Ok(answer.by(&connection));
                    }
                    // Only this attempt's time is over: another node may be quicker, and fresher.
                    Outcome::DeadlinePassed if job.what.may_be_refused_as_old() && !job.time.remaining().is_zero() => {
                        Outcome::Lost { sent: true }
                    }
                    other => other,
                };
                let (seen, named) = match &outcome {
                    Outcome::Answer(Answer::Refused(refusal)) => (Seen::Refused(refusal), Some(&*refusal.leader_address)),
                    Outcome::Lost { sent } => (Seen::Lost { sent: *sent }, None),
                    Outcome::DeadlinePassed => (Seen::DeadlinePassed, None),
                    Outcome::Busy | Outcome::Answer(_) => (Seen::Busy, None),
                };
                if let Seen::Refused(refusal) = seen {
                    connection.health.refused(refusal);
                    if refusal.code == Code::NotLeader {
                        job.shard.deny(connection.welcome.node);
                    }
                }
                let next = effort.after(seen, self.dice());
                let (after, leader, new_session) = match next {
                    Next::Fail(verdict) => {
                        return Err(Why::of(&connection, outcome).error(verdict, &job, turn.as_ref()));
                    }
                    Next::Again { leader, .. } if budget::costs(seen, leader, effort.attempts()) && !self.may_retry() => {
                        return Err(Why::of(&connection, outcome).spent().error(effort.out_of_time(), &job, turn.as_ref()));
                    }
                    Next::Again { after, leader, new_session } => (after, leader, new_session),
                };
                match leader {
                    Leader::Same => {}
                    Leader::Named => job.shard.not_leader(&connection, named.map(Address::from), Instant::now()),
                    Leader::Search => job.shard.not_leader(&connection, None, Instant::now()),
                }
                if leader != Leader::Same {
                    if job.what.reads_anywhere() {
                        job.shard.not_reader(&connection);
                    }
                    too_old += u32::from(job.what.may_be_refused_as_old());
                }
                if new_session && let Some(turn) = turn.take() {
                    job.shard.session_expired(turn.ticket.session);
                }
                why = Why::of(&connection, outcome);
                if after >= job.time.remaining() {
                    return Err(why.error(effort.out_of_time(), &job, turn.as_ref()));
                }
                if !after.is_zero() {
                    tokio::time::sleep(after).await;
                }
            }
            let anywhere = job.what.reads_anywhere() && too_old < FRESH_READERS_TRIED;
            let found = match job.pin {
                Some(pin) => pin.reach(self, job.number, job.time.deadline).await,
                None if anywhere => self.find_reader(job.number, job.shard, job.time.deadline).await,
                None => self.find_leader(job.number, job.shard, job.time.deadline).await,
            };
            let connection = match found {
                Ok(connection) => connection,
                // What was refused before says more than that nobody else was found.
                Err(_) if too_old > 0 && why.is_refusal() => return Err(why.error(Verdict::Refused, &job, None)),
                Err(NotFound { error: Some(error), .. }) if effort.out_of_time() != Verdict::Unknown => return Err(error),
                Err(NotFound { why, .. }) => {
                    return Err(Why::text(why).error(effort.out_of_time(), &job, turn.as_ref()));
                }
            };
            // Not of what may have been sent already: another node may take values of this size.
            if effort.out_of_time() != Verdict::Unknown
                && let Err(refusal) = job.what.check(connection.welcome.value_bytes_max)
            {
                return Err(Error::Refused(refusal));
            }
            if job.kind == Kind::ExactlyOnce && turn.is_none() {
                // Nothing of the write itself has been sent, whatever became of the opening.
                match self.take_turn(&job, &connection).await {
                    Ok(taken) => turn = Some(taken),
                    // What was refused before says more than that one more try came too late.
                    Err(NoTurn::Late(_)) if why.is_refusal() => return Err(why.error(effort.out_of_time(), &job, None)),
                    Err(NoTurn::Late(text)) => {
                        return Err(Why::text(text).error(Verdict::Timeout, &job, None));
                    }
                    Err(NoTurn::Odd(error)) => return Err(error),
                    Err(NoTurn::Refused(mut refusal)) => {
                        refusal.unknown = false;
                        last = Some((connection, Outcome::Answer(Answer::Refused(refusal))));
                        continue;
                    }
                    Err(NoTurn::Lost) => {
                        last = Some((connection, Outcome::Lost { sent: false }));
                        continue;
                    }
                }
            }
            let remaining = job.time.remaining();
            if remaining.is_zero() {
                return Err(why.error(effort.out_of_time(), &job, turn.as_ref()));
            }
            let body = job.what.body(turn.as_ref().map(|turn| turn.ticket));
            tally.asked(connection.welcome.node);
            let (deadline, told) =
                if anywhere { attempt(&job.what, &job.time, remaining) } else { (job.time.deadline, deadline_ms(remaining)) };
            let outcome = connection.call(body, deadline, told).await;
            last = Some((connection, outcome));
        }
    }
}

/// Until when an attempt at a node that may not be fresh enough waits, and what the node is told: another one may be fresher.
fn attempt(what: &What<'_>, time: &Time, remaining: Duration) -> (Instant, u32) {
    if !what.may_be_refused_as_old() || remaining <= FRESH_PATIENCE {
        return (time.deadline, deadline_ms(remaining));
    }
    (Instant::now() + FRESH_PATIENCE, deadline_ms(FRESH_PATIENCE))
}
