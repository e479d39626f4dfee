//! What a client keeps per shard: who leads it, whom it reads from, its session, and who waits for what.
//!
//! One lock, held for some tens of nanoseconds twice per write.
//!
//! **Not here**: finding leaders (`leader.rs`), opening sessions (`turn.rs`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::connection::Connection;
use crate::routing::Address;
use crate::search::Search;
use crate::session::{NoTicket, Session, Ticket};

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    state: Mutex<State>,
    /// For the leader.
    pub(crate) search: Search,
    /// Held by the one task that opens a session.
    pub(crate) opening: tokio::sync::Mutex<()>,
    /// Told when the session's window has room again, or the session is another.
    pub(crate) room: Notify,
}

#[derive(Debug, Default)]
struct State {
    leader: Option<Arc<Connection>>,
    /// Where a redirect points, until somebody has gone there.
    named: Option<Address>,
    reader: Option<Arc<Connection>>,
    session: Session,
    /// Tasks that wait for room.
    waiting: u64,
}

impl Shard {
    /// Everything a write needs, when it is all there: the usual case.
    pub(crate) fn begin_write(&self) -> Option<(Arc<Connection>, Turn<'_>)> {
        let mut state = self.lock();
        let leader = state.leader.clone()?;
        let ticket = state.session.begin().ok()?;
        Some((leader, Turn { shard: self, ticket }))
    }

    /// A place in the session.
    pub(crate) fn begin(&self) -> Result<Turn<'_>, NoTicket> {
        self.lock().session.begin().map(|ticket| Turn { shard: self, ticket })
    }

    pub(crate) fn has_session(&self) -> bool {
        self.lock().session.id() != 0
    }

    /// Whether [`Shard::begin`] would not answer that the window is full.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.lock();
        state.session.id() == 0 || state.session.room() > 0
    }

    pub(crate) fn leader(&self) -> Option<Arc<Connection>> {
        self.lock().leader.clone()
    }

    pub(crate) fn reader(&self) -> Option<Arc<Connection>> {
        self.lock().reader.clone()
    }

    pub(crate) fn lead_by(&self, connection: Arc<Connection>) {
        self.lock().leader = Some(connection);
    }

    pub(crate) fn read_from(&self, connection: Arc<Connection>) {
        self.lock().reader = Some(connection);
    }

    /// This connection does not reach the leader any more; perhaps `named` does. News of another one than the present
    /// leader's is old and changes nothing.
    pub(crate) fn not_leader(&self, connection: &Arc<Connection>, named: Option<Address>) {
        let mut state = self.lock();
        if state.leader.as_ref().is_some_and(|leader| Arc::ptr_eq(leader, connection)) {
            state.leader = None;
            state.named = named;
        }
    }

    /// Another node leads by now, unless somebody has found that already.
    pub(crate) fn replace_leader(&self, old: &Arc<Connection>, new: Arc<Connection>) {
        let mut state = self.lock();
        if state.leader.as_ref().is_some_and(|leader| Arc::ptr_eq(leader, old)) {
            state.leader = Some(new);
        }
    }

    /// This connection is no good to read from.
    pub(crate) fn not_reader(&self, connection: &Arc<Connection>) {
        let mut state = self.lock();
        if state.reader.as_ref().is_some_and(|reader| Arc::ptr_eq(reader, connection)) {
            state.reader = None;
        }
    }

    /// Where a redirect points; told once.
    pub(crate) fn take_named(&self) -> Option<Address> {
        self.lock().named.take()
    }

    pub(crate) fn session_opened(&self, id: u64, window: u32) {
        self.lock().session.opened(id, window);
        self.room.notify_waiters();
    }

    pub(crate) fn session_expired(&self, id: u64) {
        self.lock().session.expired(id);
        self.room.notify_waiters();
    }

    /// Counts a task that waits for room, while the guard lives.
    pub(crate) fn wait_for_room(&self) -> Waiting<'_> {
        self.lock().waiting += 1;
        Waiting(self)
    }

    /// The open session and the leader, for a goodbye.
    pub(crate) fn farewell(&self) -> Option<(Arc<Connection>, u64)> {
        let state = self.lock();
        let session = state.session.id();
        state.leader.clone().filter(|_| session != 0).map(|leader| (leader, session))
    }

    fn settle(&self, ticket: Ticket) {
        let mut state = self.lock();
        let freed = state.session.settle(ticket).min(state.waiting);
        drop(state);
        for _ in 0..freed {
            self.room.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write's ticket. Dropping it settles the sequence: the caller has its answer, or has given up, or is gone.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    shard: &'a Shard,
    pub(crate) ticket: Ticket,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shard.settle(self.ticket);
    }
}

/// See [`Shard::wait_for_room`].
pub(crate) struct Waiting<'a>(&'a Shard);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting = state.waiting.saturating_sub(1);
    }
}
