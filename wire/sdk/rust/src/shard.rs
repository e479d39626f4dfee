//! What a client keeps per shard: who leads it, whom it reads from, its session, and who waits for what.
//!
//! One lock, held for some tens of nanoseconds twice per write.
//!
//! **Not here**: finding leaders (`leader.rs`), opening sessions (`turn.rs`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::connection::Connection;
use crate::limits::OUTCOME_HELD;
use crate::pace::{self, Flow};
use crate::readers::{Candidate, Readers};
use crate::routing::Address;
use crate::search::Search;
use crate::session::{NoTicket, Session, Ticket};

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    state: Mutex<State>,
    /// For the leader.
    pub(crate) search: Search,
    /// Whom it reads from, where any node will do.
    reading: Mutex<Reading>,
    /// Some of those have failed and not answered since.
    troubled: AtomicBool,
    /// Told when a node that is followed says that another one leads.
    pub(crate) news: Notify,
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
    /// The node that has said last that it does not lead.
    denied: Option<u64>,
    /// The latest leader that a node told of.
    led: Led,
    session: Session,
    /// Tasks that wait for room.
    waiting: u64,
    flow: Flow,
    /// Since when there has been no leader, and how many calls a second there were then.
    leaderless: Option<(Instant, f64)>,
    /// The last time.
    found: Option<Found>,
}

/// The leader was found: those that waited for it are let go by and by.
#[derive(Clone, Copy, Debug)]
struct Found {
    at: Instant,
    /// Within how long they go.
    window: Duration,
    waiting: u64,
    /// Of them so far.
    gone: u64,
}

/// A leader and its term. A term can have two leaders: the one with the greater id is the later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Led {
    pub(crate) term: u64,
    pub(crate) node: u64,
}

#[derive(Debug)]
struct Reading {
    /// What times count from.
    since: Instant,
    readers: Readers<Arc<Connection>>,
}

impl Default for Reading {
    fn default() -> Reading {
        Reading { since: Instant::now(), readers: Readers::default() }
    }
}

impl Shard {
    /// Counts a write's first attempt. Everything it needs, when it is all there: the usual case.
    pub(crate) fn begin_write(&self, now: Instant) -> Option<(Arc<Connection>, Turn<'_>)> {
        let mut state = self.lock();
        state.flow.begin(now);
        let leader = state.leader.clone()?;
        let (ticket, freed) = state.begin().ok()?;
        drop(state);
        self.wake(freed);
        Some((leader, Turn { shard: self, ticket }))
    }

    /// Counts a read's first attempt. The node it goes to, when it is known: the usual case.
    pub(crate) fn begin_read(&self, now: Instant, anywhere: bool) -> Option<Arc<Connection>> {
        let mut state = self.lock();
        state.flow.begin(now);
        if !anywhere {
            return state.leader.clone();
        }
        drop(state);
        self.reader(now)
    }

    /// First attempts since the last time.
    pub(crate) fn harvest(&self) -> u64 {
        self.lock().flow.harvest()
    }

    /// A place in the session.
    pub(crate) fn begin(&self) -> Result<Turn<'_>, NoTicket> {
        let (ticket, freed) = self.lock().begin()?;
        self.wake(freed);
        Ok(Turn { shard: self, ticket })
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

    /// The node that is chosen to read from, while it is.
    pub(crate) fn reader(&self, now: Instant) -> Option<Arc<Connection>> {
        let reading = self.reading();
        reading.readers.current(now.saturating_duration_since(reading.since))
    }

    pub(crate) fn may_read_from(&self, candidates: Vec<Candidate>) {
        self.reading().readers.set(candidates);
    }

    /// Chooses for a while, and gives the connection if it is open.
    pub(crate) fn choose_reader(&self, dice: u64) -> Option<(Address, Option<Arc<Connection>>)> {
        let leader = self.leader().map(|leader| leader.address.clone());
        let mut reading = self.reading();
        let now = reading.since.elapsed();
        reading.readers.choose(now, dice, leader.as_deref(), |connection| connection.busy())
    }

    /// One that is not chosen, for a second opinion.
    pub(crate) fn another_reader(&self, dice: u64) -> Option<Address> {
        let reading = self.reading();
        reading.readers.another(reading.since.elapsed(), dice)
    }

    /// Whom to measure now.
    pub(crate) fn survey(&self) -> Vec<Address> {
        let mut reading = self.reading();
        let now = reading.since.elapsed();
        if reading.readers.survey_is_due(now) { reading.readers.to_survey(now) } else { Vec::new() }
    }

    pub(crate) fn reader_measured(&self, address: &str, round_trip: Duration) {
        self.reading().readers.measured(address, round_trip);
    }

    pub(crate) fn reader_failed(&self, address: &str) {
        let mut reading = self.reading();
        let now = reading.since.elapsed();
        reading.readers.failed(address, now);
        self.troubled.store(true, Ordering::Relaxed);
    }

    /// It has answered a read: that ends a row of failures, and nothing else does.
    pub(crate) fn reader_answered(&self, connection: &Connection) {
        if self.troubled.load(Ordering::Relaxed) {
            let mut reading = self.reading();
            reading.readers.answered(&connection.address);
            self.troubled.store(reading.readers.any_failed(), Ordering::Relaxed);
        }
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leader is found. Those that waited for it are let go by and by: see `pace.rs`. `at_once`: by a search that did not have to
    /// wait for there to be one; then nobody has waited for longer than this one look.
    pub(crate) fn lead_by(&self, connection: Arc<Connection>, at_once: bool, now: Instant) {
        let waiting = self.search.seekers();
        let mut state = self.lock();
        let leaderless = state.leaderless.take();
        state.found = leaderless.filter(|_| !at_once).map(|(since, per_second)| {
            let window = pace::spread(waiting, per_second, now.saturating_duration_since(since));
            Found { at: now, window, waiting, gone: 0 }
        });
        state.denied = state.denied.filter(|node| *node != connection.welcome.node);
        state.leader = Some(connection);
    }

    /// Since when there has been no leader, from now on if there was one.
    pub(crate) fn leaderless(&self, now: Instant) -> Instant {
        let mut state = self.lock();
        let per_second = state.flow.per_second(now);
        state.leaderless.get_or_insert((now, per_second)).0
    }

    /// For how long a task still waits that has waited for the leader, now that it is found.
    pub(crate) fn share(&self, now: Instant, dice: u64) -> Duration {
        let mut state = self.lock();
        let Some(found) = &mut state.found else { return Duration::ZERO };
        let share = pace::share(found.window, found.gone, found.waiting, dice);
        found.gone += 1;
        (found.at + share).saturating_duration_since(now)
    }

    pub(crate) fn read_from(&self, address: &str, connection: &Arc<Connection>) {
        self.reading().readers.connected(address, connection.clone());
    }

    /// A node that this client follows says who leads. News that is older than what is known changes nothing.
    pub(crate) fn told(&self, led: Led, address: Address) {
        let mut state = self.lock();
        if led <= state.led {
            return;
        }
        state.led = led;
        if state.leader.as_ref().is_none_or(|leader| leader.welcome.node != led.node) {
            let now = Instant::now();
            let per_second = state.flow.per_second(now);
            // If nobody has waited for it, who calls next is not to wait for what passed until then.
            state.leaderless = self.search.is_wanted().then(|| state.leaderless.unwrap_or((now, per_second)));
            state.leader = None;
            state.named = Some(address);
            drop(state);
            self.news.notify_waiters();
        }
    }

    /// This connection does not reach the leader any more; perhaps `named` does. News of another one than the present
    /// leader's is old and changes nothing.
    pub(crate) fn not_leader(&self, connection: &Arc<Connection>, named: Option<Address>, now: Instant) {
        let mut state = self.lock();
        if state.leader.as_ref().is_some_and(|leader| Arc::ptr_eq(leader, connection)) {
            let per_second = state.flow.per_second(now);
            state.leaderless.get_or_insert((now, per_second));
            state.leader = None;
            state.named = named;
        }
    }

    /// This node says that it does not lead. Others may go on naming it for a while.
    pub(crate) fn deny(&self, node: u64) {
        self.lock().denied = Some(node);
    }

    /// See [`Shard::deny`]: the last one.
    pub(crate) fn denied(&self) -> Option<u64> {
        self.lock().denied
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
        self.reader_failed(&connection.address);
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

    /// The open session and the leader, for a goodbye; `None`: none is due.
    pub(crate) fn farewell(&self) -> Option<(Arc<Connection>, u64)> {
        let state = self.lock();
        let session = state.session.id();
        // A session that has answers which somebody may still ask for ends by itself.
        state.leader.clone().filter(|_| session != 0 && !state.session.holds()).map(|leader| (leader, session))
    }

    /// Nobody asks any more for the outcome of this write.
    pub(crate) fn release(&self, session: u64, sequence: u64) {
        self.free(|open| open.release(session, sequence));
    }

    fn settle(&self, ticket: Ticket) {
        self.free(|session| session.settle(ticket));
    }

    /// Does something that makes room in the session, and wakes as many as it has room for.
    fn free(&self, act: impl FnOnce(&mut Session) -> u64) {
        let mut state = self.lock();
        let freed = act(&mut state.session).min(state.waiting);
        drop(state);
        self.wake(freed);
    }

    fn wake(&self, freed: u64) {
        for _ in 0..freed {
            self.room.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A ticket, and how many who wait for room have some, because what was held too long is held no more.
    fn begin(&mut self) -> Result<(Ticket, u64), NoTicket> {
        let floor = self.session.floor();
        if self.session.holds() {
            self.session.release_before(clock_ms());
        }
        let ticket = self.session.begin()?;
        Ok((ticket, (self.session.floor() - floor).min(self.waiting)))
    }
}

/// Milliseconds since the first call.
fn clock_ms() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed().as_millis() as u64
}

/// A write's ticket. Dropping it settles the sequence, unless [`Turn::hold`] was said: the caller has its answer, or is
/// gone.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    shard: &'a Shard,
    pub(crate) ticket: Ticket,
}

impl Turn<'_> {
    /// The outcome is unknown to the caller, who may ask for it: its answer is to be kept for a while.
    pub(crate) fn hold(&self) {
        let until_ms = clock_ms() + OUTCOME_HELD.as_millis() as u64;
        self.shard.free(|session| session.hold(self.ticket, until_ms));
    }
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
