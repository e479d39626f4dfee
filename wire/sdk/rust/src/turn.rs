//! A write's place in the shard's session: taken, waited for, or after the session is opened.
//!
//! Whatever goes wrong here, nothing of the write itself has been sent.

use std::sync::Arc;
use std::time::Instant;

use ringbeam_wire::client::RequestBody;
use ringbeam_wire::refusal::Refusal;
use tokio::time::timeout_at;

use crate::answer::{Answer, Outcome};
use crate::client::Inner;
use crate::connection::Connection;
use crate::error::Error;
use crate::limits::OPEN_SESSION_TIMEOUT;
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

    /// Opened by a task of its own: a session that opens when its caller has given up is the next caller's. It would else be nobody's,
    /// and the ring would keep it until it expires.
    async fn open_session(self: &Arc<Self>, job: &Job<'_>, connection: &Arc<Connection>) -> Result<(), NoTurn> {
        let opening = tokio::spawn(self.clone().session_for_all(job.number, connection.clone()));
        match timeout_at(job.time.deadline.into(), opening).await {
            Ok(Ok(ended)) => ended,
            // The runtime ends.
            Ok(Err(_)) => Err(NoTurn::Lost),
            Err(_) => Err(late(connection)),
        }
    }

    async fn session_for_all(self: Arc<Self>, number: u32, connection: Arc<Connection>) -> Result<(), NoTurn> {
        let Some(shard) = self.shards.get(number as usize) else { return Err(NoTurn::Lost) };
        let deadline = Instant::now() + OPEN_SESSION_TIMEOUT;
        let Ok(_opening) = timeout_at(deadline.into(), shard.opening.lock()).await else { return Err(late(&connection)) };
        if shard.has_session() {
            return Ok(());
        }
        let told = deadline_ms(deadline.saturating_duration_since(Instant::now()));
        match connection.call(RequestBody::OpenSession, deadline, told).await {
            Outcome::Answer(Answer::SessionOpened(id)) if id != 0 => {
                shard.session_opened(id, connection.welcome.session_window);
                Ok(())
            }
            Outcome::Answer(Answer::Refused(refusal)) => Err(NoTurn::Refused(refusal)),
            Outcome::Answer(other) => Err(NoTurn::Odd(odd(&other))),
            Outcome::DeadlinePassed => Err(late(&connection)),
            Outcome::Lost { .. } | Outcome::Busy => Err(NoTurn::Lost),
        }
    }
}

fn late(connection: &Connection) -> NoTurn {
    NoTurn::Late(format!("{} opened no session in time", connection.address))
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
