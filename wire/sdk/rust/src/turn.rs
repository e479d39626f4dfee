//! A write's place in the shard's session: taken, waited for, or after the session is opened.
//!
//! Whatever goes wrong here, nothing of the write itself has been sent.

use std::sync::Arc;

use ringbeam_wire::client::RequestBody;
use ringbeam_wire::refusal::Refusal;
use tokio::time::timeout_at;

use crate::answer::{Answer, Outcome};
use crate::client::Inner;
use crate::connection::Connection;
use crate::error::Error;
use crate::request::{Job, deadline_ms, odd};
use crate::session::NoTicket;
use crate::shard::Turn;

/// Why there is no place in the session.
pub(crate) enum NoTurn {
    /// The deadline passed.
    Late(String),
    /// The node opened no session.
    Refused(Box<Refusal>),
    /// The connection was lost.
    Lost,
    /// The node answered nonsense.
    Odd(Error),
}

impl Inner {
    /// A place in the shard's session, which is opened if need be.
    pub(crate) async fn take_turn<'a>(
        self: &Arc<Self>,
        job: &Job<'a>,
        connection: &Arc<Connection>,
    ) -> Result<Turn<'a>, NoTurn> {
        loop {
            match job.shard.begin() {
                Ok(turn) => return Ok(turn),
                Err(NoTicket::WindowFull) => wait_for_room(job).await?,
                Err(NoTicket::NotOpen) => self.open_session(job, connection).await?,
            }
        }
    }

    async fn open_session(&self, job: &Job<'_>, connection: &Arc<Connection>) -> Result<(), NoTurn> {
        let late = || NoTurn::Late(format!("{} opened no session in time", connection.address));
        let opening = timeout_at(job.time.deadline.into(), job.shard.opening.lock()).await;
        let Ok(_opening) = opening else {
            return Err(late());
        };
        if job.shard.has_session() {
            return Ok(());
        }
        let told = deadline_ms(job.time.remaining());
        match connection.call(RequestBody::OpenSession, job.time.deadline, told).await {
            Outcome::Answer(Answer::SessionOpened(id)) if id != 0 => {
                job.shard.session_opened(id, connection.welcome.session_window);
                Ok(())
            }
            Outcome::Answer(Answer::Refused(refusal)) => Err(NoTurn::Refused(refusal)),
            Outcome::Answer(other) => Err(NoTurn::Odd(odd(&other))),
            Outcome::DeadlinePassed => Err(late()),
            Outcome::Lost { .. } | Outcome::Busy => Err(NoTurn::Lost),
        }
    }
}

/// Returns when it is worth another look whether the session has room.
async fn wait_for_room(job: &Job<'_>) -> Result<(), NoTurn> {
    let _waiting = job.shard.wait_for_room();
    let mut room = std::pin::pin!(job.shard.room.notified());
    // From here on a notification is kept for us; only now is it safe to look again before waiting.
    room.as_mut().enable();
    if job.shard.has_room() {
        return Ok(());
    }
    let late = |_| NoTurn::Late("too many writes of this client are unanswered, and no answer came in time".into());
    timeout_at(job.time.deadline.into(), room).await.map_err(late)
}
