//! openraft's state machine onto `state`, with snapshots in slices.
//!
//! The state lives in memory; what makes it durable is the log and the newest snapshot. A tie-breaker keeps no state: it
//! follows indexes and memberships, and its snapshots hold only those.
//!
//! ```text
//! committed entries ─▶ apply ─▶ State ◀─ reads (read.rs)
//!                               │ freeze: pre-images keep the frozen moment while apply goes on
//!                               ▼ slices, a pause between them
//!                             building.tmp ─ sync, rename ─▶ snapshot-<index>-<term>.snap
//! ```
//!
//! **Invariants**
//! - Entries are applied in index order, each once; the answers depend on nothing but the entries.
//! - A snapshot holds exactly the state as of its last log id, whatever is applied while it is written.
//! - No step holds the core longer than about `limits::HOLD_MAX`.

mod snapshots;

pub use snapshots::Builder;
pub(super) use snapshots::meta_in;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry;
use openraft::storage::EntryResponder;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend};

use super::snapshot::{self, SnapshotFile};
use super::{Applied, TLogId, Types};
use crate::io::channel::Notify;
use crate::io::{Env, Instant, channel};
use crate::limits::HOLD_MAX;
use crate::raft;
use crate::state::{State, command};
use crate::watch::{Bounds, Feed};

/// How the machine of one shard is set up.
#[derive(Clone, Debug)]
pub struct MachineSettings {
    /// Directory of the shard, below the data directory.
    pub dir: String,
    /// A tie-breaker keeps no state.
    pub keeps_state: bool,
    /// Bounds of sessions.
    pub limits: crate::state::Limits,
    /// Least pause after each slice of a snapshot; zero: never any pause.
    pub snapshot_pause: Duration,
    /// A snapshot is written by the time that half of this has come to the log since it began.
    pub snapshot_after_bytes: u64,
    /// How much of what happened lately is kept for watches.
    pub history: Bounds,
}

/// The state of one shard, shared by raft (which changes it) and reads. Clones share it.
pub struct Machine<E: Env>(Rc<Inner<E>>);

struct Inner<E: Env> {
    disk: E::Disk,
    settings: MachineSettings,
    state: RefCell<State>,
    /// Counts replacements of the state by an installed snapshot: a builder notices that its frozen state is gone.
    generation: Cell<u64>,
    applied: RefCell<Option<TLogId<E>>>,
    /// Bytes of the batches applied since the process began.
    applied_bytes: Cell<u64>,
    membership: RefCell<StoredMembershipOf<Types<E>>>,
    snapshot: RefCell<Option<SnapshotOf<Types<E>, SnapshotFile>>>,
    /// Held while a finished file gets its name and the older one goes: a build that ends late must not remove what was installed.
    publishing: channel::Mutex<()>,
    /// What is held against the newest snapshot.
    doubts: snapshot::Doubts,
    led_since: Cell<Option<LedSince>>,
    /// The least log index that somebody waits for; the greatest number: nobody waits.
    awaited: Cell<u64>,
    reached: Notify,
    /// Hears of each change.
    feed: Rc<Feed>,
}

/// A leader's first entry was applied here.
#[derive(Clone, Copy)]
struct LedSince {
    /// Whose, term and node.
    leader: (u64, u64),
    /// The ring time that the state had reached, and when.
    ring_time_ms: u64,
    at: Instant,
}

impl<E: Env> Clone for Machine<E> {
    fn clone(&self) -> Self {
        Machine(self.0.clone())
    }
}

impl<E: Env> Machine<E> {
    /// Looks at the state. `read` must not wait for anything.
    pub fn with_state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        let value = read(&self.0.state.borrow());
        // Another look is under way: its end is soon enough.
        if let Ok(mut state) = self.0.state.try_borrow_mut() {
            state.forget_folds();
        }
        value
    }

    /// Changes what is kept for scans, and nothing else.
    pub fn change_pins<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.state.borrow_mut())
    }

    /// Index of the entry applied last; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.0.applied.borrow().as_ref().map_or(0, |id| id.index)
    }

    /// From now on [`Machine::awaited_is_applied`] waits for `index`, or for an earlier one that it waits for already.
    pub fn await_index(&self, index: u64) {
        self.0.awaited.set(self.0.awaited.get().min(index));
    }

    /// Completes when the least of the indexes that are waited for is applied; by then none is.
    pub async fn awaited_is_applied(&self) {
        self.0.reached.notified().await;
    }

    fn has_applied(&self, index: u64) {
        if index >= self.0.awaited.get() {
            self.0.awaited.set(u64::MAX);
            self.0.reached.notify_one();
        }
    }

    /// The ring's time now, as the leader of `(term, node)` carries it on: what the log said when it began to lead, and its monotonic
    /// clock since. Before that it stands still. So between two batches, whoever made them, no more ring time passes than time did.
    pub fn ring_time_ms(&self, leader: (u64, u64), now: Instant) -> u64 {
        let reached_ms = self.0.state.borrow().ring_time_ms();
        match self.0.led_since.get() {
            Some(since) if since.leader == leader => {
                reached_ms.max(since.ring_time_ms + now.since(since.at).as_millis() as u64)
            }
            _ => reached_ms,
        }
    }

    /// Whether an entry of this leader is applied, and so all that was acknowledged before it led.
    pub fn has_led_since(&self, leader: (u64, u64)) -> bool {
        self.0.led_since.get().is_some_and(|since| since.leader == leader)
    }

    /// A leader's first entry: all that was before it is applied.
    fn led_from_here(&self, id: &TLogId<E>) {
        let id = raft::log_id_out::<E>(id);
        let ring_time_ms = self.0.state.borrow().ring_time_ms();
        self.0.led_since.set(Some(LedSince { leader: (id.term, id.leader), ring_time_ms, at: E::now() }));
    }

    /// What watches are served from.
    pub fn feed(&self) -> Rc<Feed> {
        self.0.feed.clone()
    }

    pub(super) fn disk(&self) -> &E::Disk {
        &self.0.disk
    }

    pub(super) fn doubts(&self) -> &snapshot::Doubts {
        &self.0.doubts
    }

    /// Where the newest snapshot is.
    pub(super) fn newest_path(&self) -> Option<String> {
        self.0.snapshot.borrow().as_ref().map(|newest| newest.snapshot.path.clone())
    }

    /// Under which a snapshot is loaded here; `None`: no state is kept.
    pub(crate) fn limits(&self) -> Option<crate::state::Limits> {
        self.0.settings.keeps_state.then_some(self.0.settings.limits)
    }

    /// An entry that is no batch. The first membership has index 0, which is where a state begins.
    fn advance(&self, index: u64) {
        if index > 0 {
            self.0.state.borrow_mut().advance(index);
            self.0.feed.passed(index);
        }
    }

    fn apply_batch(&self, index: u64, payload: &[u8]) -> io::Result<Applied> {
        let began = E::now();
        let mut answers = Vec::new();
        self.0.applied_bytes.set(self.0.applied_bytes.get() + payload.len() as u64);
        if self.0.settings.keeps_state {
            let batch = command::parse(payload).map_err(|why| {
                // It passed two checksums and was made by our own builder: this binary does not understand the log.
                io::Error::new(io::ErrorKind::InvalidData, format!("log index {index}: batch: {why}"))
            })?;
            let mut state = self.0.state.borrow_mut();
            let ring_time_ms = state.ring_time_ms().max(batch.ring_time_ms);
            let feed = &self.0.feed;
            feed.record(index, ring_time_ms, |changes| state.apply_to(index, &batch, &mut answers, changes));
            #[cfg(feature = "sim")]
            crate::probe::ran(&self.0.settings.dir, index, &batch, &answers);
        }
        Ok(Applied { answers, index, began, ended: E::now() })
    }
}

impl<E: Env> RaftStateMachine<Types<E>> for Machine<E> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder<E>;

    async fn applied_state(&mut self) -> io::Result<(Option<TLogId<E>>, StoredMembershipOf<Types<E>>)> {
        Ok((*self.0.applied.borrow(), self.0.membership.borrow().clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types<E>>>> + Unpin + OptionalSend,
    {
        let mut held_since = E::now();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let id = entry.log_id();
            let applied = match entry.payload {
                EntryPayload::Normal(batch) => self.apply_batch(id.index, &batch.payload)?,
                EntryPayload::Blank => {
                    self.advance(id.index);
                    self.led_from_here(&id);
                    Applied { index: id.index, ..Applied::default() }
                }
                EntryPayload::Membership(m) => {
                    self.advance(id.index);
                    *self.0.membership.borrow_mut() = openraft::StoredMembership::new(Some(id), m);
                    Applied { index: id.index, ..Applied::default() }
                }
            };
            *self.0.applied.borrow_mut() = Some(id);
            self.has_applied(id.index);
            if let Some(responder) = responder {
                responder.send(applied);
            }
            if E::now().since(held_since) > HOLD_MAX {
                E::yield_now().await;
                held_since = E::now();
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<E> {
        Builder { machine: self.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types<E>>, file: SnapshotFile) -> io::Result<()> {
        self.install(meta, file).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types<E>, SnapshotFile>>> {
        Ok(self.0.snapshot.borrow().clone())
    }
}
