//! The state machine's snapshots: found when it is opened, installed, written in slices. `machine.rs` draws it.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use openraft::RaftSnapshotBuilder;
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};

use super::{Inner, Machine, MachineSettings};
use crate::io::channel::Notify;
use crate::io::{Disk, Env, channel, may_pass};
use crate::limits::{SNAPSHOT_REST_MAX, SNAPSHOT_REST_TIMES, SNAPSHOT_SLICE_BYTES};
use crate::raft;
use crate::raft::snapshot::check::read_through;
use crate::raft::snapshot::{self, BUILDING, Meta, SnapshotFile};
use crate::raft::{TLogId, Types, membership_in, membership_out};
use crate::state::State;
use crate::watch::Feed;

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
            applied_bytes: Cell::new(0),
            membership: RefCell::new(Default::default()),
            snapshot: RefCell::new(found),
            publishing: channel::Mutex::new(()),
            doubts: snapshot::Doubts::default(),
            led_since: Cell::new(None),
            awaited: Cell::new(u64::MAX),
            reached: Notify::new(),
        })))
    }

    /// Takes the state of a snapshot in the place of this one.
    pub(super) async fn install(&self, meta: &SnapshotMetaOf<Types<E>>, file: SnapshotFile) -> io::Result<()> {
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
}

/// Writes one snapshot.
pub struct Builder<E: Env> {
    pub(super) machine: Machine<E>,
}

/// How fast a snapshot is written: in a small part of the core's time, unless the log grows faster than that.
struct Pace {
    least: Duration,
    /// That the snapshot has.
    keys: u64,
    /// By the time that so much has come to the log, all of them are to be written.
    log_bytes_max: u64,
}

impl Pace {
    /// The pause after a slice that took so long, when so many keys are left, and so much has come to the log since the beginning.
    fn pause(&self, took: Duration, keys_left: u64, log_bytes: u64) -> Duration {
        let (left, log_left) = (u128::from(keys_left), u128::from(self.log_bytes_max.saturating_sub(log_bytes)));
        let late = left * u128::from(self.log_bytes_max) > u128::from(self.keys) * log_left;
        if late || self.least.is_zero() {
            return self.least;
        }
        self.least.max(took.saturating_mul(SNAPSHOT_REST_TIMES).min(SNAPSHOT_REST_MAX))
    }
}

enum Attempt<T> {
    Done(T),
    /// The state was replaced under it: from the start.
    Again,
}

impl<E: Env> RaftSnapshotBuilder<Types<E>> for Builder<E> {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types<E>, SnapshotFile>> {
        loop {
            match self.attempt().await {
                Ok(Attempt::Done(snapshot)) => return Ok(snapshot),
                Ok(Attempt::Again) => E::sleep(Duration::ZERO).await,
                // An error here would stop the shard; a full disk must not, nor clients that hold all descriptors.
                Err(why) if may_pass(&why) => {
                    let inner = &self.machine.0;
                    tracing::warn!(dir = inner.settings.dir, %why, "no room for a snapshot; trying again each second");
                    let _ = inner.disk.remove(&format!("{}/{BUILDING}", inner.settings.dir)).await;
                    E::sleep(Duration::from_secs(1)).await;
                }
                Err(why) => return Err(why),
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
        match result? {
            Some(bytes) => {
                let _alone = inner.publishing.lock().await;
                if inner.generation.get() != generation && !planted!(OldSnapshotPublished) {
                    return Ok(Attempt::Again);
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
            None => Ok(Attempt::Again),
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
        let mut writer = snapshot::Writer::<E>::create(&inner.disk, &path, &meta).await?;
        let began_at_bytes = inner.applied_bytes.get();
        let pace = Pace {
            least: inner.settings.snapshot_pause,
            keys: inner.state.borrow().keys_owed(),
            log_bytes_max: inner.settings.snapshot_after_bytes / 2,
        };
        // A tie-breaker has nothing frozen: its first slice is the end.
        loop {
            if inner.generation.get() != generation {
                return Ok(None);
            }
            let began = E::now();
            let slice = inner.state.borrow_mut().slice(SNAPSHOT_SLICE_BYTES);
            let took = E::now().since(began);
            let Some(slice) = slice else { break };
            if !slice.is_empty() {
                writer.frame(&slice).await?;
            }
            let (owed, log_bytes) = (inner.state.borrow().keys_owed(), inner.applied_bytes.get() - began_at_bytes);
            match pace.pause(took, owed, log_bytes) {
                Duration::ZERO => E::yield_now().await,
                pause => E::sleep(pause).await,
            }
        }
        writer.finish().await.map(Some)
    }
}

/// What openraft knows of a snapshot.
pub(in crate::raft) fn meta_in<E: Env>(meta: &Meta) -> Result<SnapshotMetaOf<Types<E>>, String> {
    let membership = membership_in(&meta.membership)?;
    Ok(openraft::SnapshotMeta {
        last_log_id: meta.last.map(raft::log_id_in::<E>),
        last_membership: openraft::StoredMembership::new(meta.membership_at.map(raft::log_id_in::<E>), membership),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_micros(250);
    const TOOK: Duration = Duration::from_micros(50);

    #[test]
    fn snapshot_takes_its_time_while_it_is_ahead_of_the_log_and_hurries_behind_it() {
        let pace = Pace { least: LEAST, keys: 1000, log_bytes_max: 1 << 20 };
        assert_eq!(pace.pause(TOOK, 1000, 0), TOOK * SNAPSHOT_REST_TIMES);
        assert_eq!(pace.pause(Duration::ZERO, 1000, 0), LEAST);
        assert_eq!(pace.pause(Duration::MAX, 1000, 0), SNAPSHOT_REST_MAX, "a process that was stopped meanwhile");
        assert_eq!(pace.pause(TOOK, 500, 1 << 19), TOOK * SNAPSHOT_REST_TIMES);
        assert_eq!(pace.pause(TOOK, 501, 1 << 19), LEAST);
        assert_eq!(pace.pause(TOOK, 1, u64::MAX), LEAST);
        assert_eq!(pace.pause(TOOK, 0, u64::MAX), TOOK * SNAPSHOT_REST_TIMES, "its last slices carry no keys");
    }

    #[test]
    fn snapshot_without_a_pause_never_waits() {
        let pace = Pace { least: Duration::ZERO, keys: 1000, log_bytes_max: 1 << 20 };
        assert_eq!(pace.pause(TOOK, 1000, 0), Duration::ZERO);
    }
}
