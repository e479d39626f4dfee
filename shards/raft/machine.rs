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

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry;
use openraft::storage::EntryResponder;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::snapshot::check::read_through;
use super::snapshot::{self, BUILDING, Meta, SnapshotFile};
use super::{Applied, TLogId, Types, membership_in, membership_out};
use crate::io::channel::Notify;
use crate::io::{Disk, Env, Instant, channel};
use crate::limits::{HOLD_MAX, SNAPSHOT_SLICE_BYTES};
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
    /// Pause after each snapshot chunk, so that the log's flushes go first on a shared disk.
    pub snapshot_pause: Duration,
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
    /// An empty state, and the newest snapshot in its directory, which openraft then installs.
    pub async fn open(disk: E::Disk, settings: MachineSettings) -> io::Result<Self> {
        disk.create_dir(&settings.dir).await?;
        let newest = snapshot::newest::<E>(&disk, &settings.dir).await?;
        let found = match newest {
            None => None,
            Some(path) => {
                let (reader, meta) = snapshot::Reader::<E>::open(&disk, &path).await?;
                let meta = meta_in::<E>(&meta).map_err(|why| reader.bad(&why))?;
                // The exact length is found when the frames are read; the whole file is right, too.
                Some(openraft::Snapshot { meta, snapshot: SnapshotFile::new(path, 0) })
            }
        };
        Ok(Machine(Rc::new(Inner {
            state: RefCell::new(State::new(settings.limits)),
            feed: Feed::new(settings.history),
            disk,
            settings,
            generation: Cell::new(0),
            applied: RefCell::new(None),
            membership: RefCell::new(Default::default()),
            snapshot: RefCell::new(found),
            publishing: channel::Mutex::new(()),
            doubts: snapshot::Doubts::default(),
            led_since: Cell::new(None),
            awaited: Cell::new(u64::MAX),
            reached: Notify::new(),
        })))
    }

    /// Looks at the state. `read` must not wait for anything.
    pub fn with_state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        let value = read(&self.0.state.borrow());
        // Another look is under way: its end is soon enough.
        if let Ok(mut state) = self.0.state.try_borrow_mut() {
            state.forget_folds();
        }
        value
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
        let inner = &self.0;
        let checked = match file.take_checked() {
            Some(checked) => checked,
            None => read_through::<E>(&inner.disk, &file.path, self.limits()).await?,
        };
        let last = meta.last_log_id.as_ref().map(raft::log_id_out::<E>);
        if checked.meta.last != last {
            let why = format!("snapshot {} holds {:?}, offered was {last:?}", file.path, checked.meta.last);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let _alone = inner.publishing.lock().await;
        if let Some(state) = checked.state {
            inner.feed.reset(state.applied(), state.ring_time_ms());
            *inner.state.borrow_mut() = state;
        }
        inner.generation.set(inner.generation.get() + 1);
        *inner.applied.borrow_mut() = meta.last_log_id;
        self.has_applied(self.applied_index());
        *inner.membership.borrow_mut() = meta.last_membership.clone();
        let path = snapshot::name_of(&inner.settings.dir, last);
        if path != file.path {
            snapshot::publish::<E>(&inner.disk, &inner.settings.dir, &file.path, last).await?;
        }
        let snapshot = SnapshotFile::new(path, checked.bytes);
        *inner.snapshot.borrow_mut() = Some(openraft::Snapshot { meta: meta.clone(), snapshot });
        inner.doubts.end();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types<E>, SnapshotFile>>> {
        Ok(self.0.snapshot.borrow().clone())
    }
}

/// Writes one snapshot.
pub struct Builder<E: Env> {
    machine: Machine<E>,
}

enum Attempt<T> {
    Done(T),
    /// No room on the disk, or the state was replaced under it: from the start, later.
    Again(Duration),
}

impl<E: Env> RaftSnapshotBuilder<Types<E>> for Builder<E> {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types<E>, SnapshotFile>> {
        loop {
            match self.attempt().await? {
                Attempt::Done(snapshot) => return Ok(snapshot),
                // An error here would stop the shard; a full disk must not.
                Attempt::Again(pause) => E::sleep(pause).await,
            }
        }
    }
}

impl<E: Env> Builder<E> {
    async fn attempt(&self) -> io::Result<Attempt<SnapshotOf<Types<E>, SnapshotFile>>> {
        let inner = &self.machine.0;
        // One moment: position, membership and frozen state, with no await between them.
        let last = *inner.applied.borrow();
        let membership = inner.membership.borrow().clone();
        let generation = inner.generation.get();
        if planted!(SnapshotHoldsMore) {
            E::sleep(inner.settings.snapshot_pause).await;
        }
        if inner.settings.keeps_state && inner.state.borrow_mut().freeze().is_err() {
            return Err(io::Error::other("a snapshot is being taken already"));
        }
        if planted!(SnapshotSaysMore) {
            E::sleep(inner.settings.snapshot_pause).await;
        }
        let last = if planted!(SnapshotSaysMore) { *inner.applied.borrow() } else { last };
        let result = self.write(&last, &membership, generation).await;
        inner.state.borrow_mut().thaw();
        match result {
            Ok(Some(bytes)) => {
                let _alone = inner.publishing.lock().await;
                if inner.generation.get() != generation && !planted!(OldSnapshotPublished) {
                    return Ok(Attempt::Again(Duration::ZERO));
                }
                let at = last.as_ref().map(raft::log_id_out::<E>);
                let from = format!("{}/{BUILDING}", inner.settings.dir);
                let path = snapshot::publish::<E>(&inner.disk, &inner.settings.dir, &from, at).await?;
                let meta = openraft::SnapshotMeta { last_log_id: last, last_membership: membership };
                let snapshot = openraft::Snapshot { meta, snapshot: SnapshotFile::new(path, bytes) };
                *inner.snapshot.borrow_mut() = Some(snapshot.clone());
                inner.doubts.end();
                Ok(Attempt::Done(snapshot))
            }
            Ok(None) => Ok(Attempt::Again(Duration::ZERO)),
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                tracing::warn!(dir = inner.settings.dir, "no room for a snapshot; trying again each second");
                let _ = inner.disk.remove(&format!("{}/{BUILDING}", inner.settings.dir)).await;
                Ok(Attempt::Again(Duration::from_secs(1)))
            }
            Err(e) => Err(e),
        }
    }

    /// The length of the written file; `None` when the state was replaced meanwhile.
    async fn write(
        &self,
        last: &Option<TLogId<E>>,
        membership: &StoredMembershipOf<Types<E>>,
        generation: u64,
    ) -> io::Result<Option<u64>> {
        let inner = &self.machine.0;
        let meta = Meta {
            last: last.as_ref().map(raft::log_id_out::<E>),
            membership_at: membership.log_id().as_ref().map(raft::log_id_out::<E>),
            membership: membership_out(membership.membership()).encode(),
            has_state: inner.settings.keeps_state,
        };
        let path = format!("{}/{BUILDING}", inner.settings.dir);
        let mut writer = snapshot::Writer::<E>::create(&inner.disk, &path, &meta, inner.settings.snapshot_pause).await?;
        // A tie-breaker has nothing frozen: its first slice is the end.
        loop {
            if inner.generation.get() != generation {
                return Ok(None);
            }
            let slice = inner.state.borrow_mut().slice(SNAPSHOT_SLICE_BYTES);
            let Some(slice) = slice else { break };
            if !slice.is_empty() {
                writer.frame(&slice).await?;
            }
            E::yield_now().await;
        }
        writer.finish().await.map(Some)
    }
}

/// What openraft knows of a snapshot.
pub(super) fn meta_in<E: Env>(meta: &Meta) -> Result<SnapshotMetaOf<Types<E>>, String> {
    let membership = membership_in(&meta.membership)?;
    Ok(openraft::SnapshotMeta {
        last_log_id: meta.last.map(raft::log_id_in::<E>),
        last_membership: openraft::StoredMembership::new(meta.membership_at.map(raft::log_id_in::<E>), membership),
    })
}
