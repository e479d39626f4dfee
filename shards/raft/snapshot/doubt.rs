//! Whether the newest snapshot may still be relied on, once somebody has said that it does not read back well.
//!
//! ```text
//!   trusted ─▶ a peer refuses it, or it cannot be read ─▶ read through here ─┬─ damaged ──────────────────▶ distrusted
//!      ▲                                                                     ├─ good, refused too often ──▶ distrusted
//!      │                                                                     └─ good ─▶ trusted
//!      └───── another one has its name (made from the state in memory, or installed from a leader) ◀──────────┘
//! ```
//! A distrusted snapshot is sent to nobody, and no entry is dropped from the log because it covers it. Its file stays until another takes its place: raft
//! needs to know of one, and a node that stops in between finds it when it starts, and says by name what is wrong.
//!
//! **Invariant**: what was said of one file is never held against the next.

use std::cell::Cell;

use super::check::read_through;
use crate::io::{Env, may_pass};
use crate::limits::{CARE_INTERVAL, SNAPSHOT_REFUSALS_MAX};
use crate::raft::machine::Machine;

/// What is held against the newest snapshot.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// Files that were the newest one, before this one.
    files: Cell<u64>,
    refusals: Cell<u32>,
    distrusted: Cell<bool>,
}

impl Doubts {
    /// There is another file.
    pub fn end(&self) {
        self.files.set(self.files.get() + 1);
        self.refusals.set(0);
        self.distrusted.set(false);
    }
}

impl<E: Env> Machine<E> {
    /// The newest snapshot is damaged: another is due.
    pub(crate) fn distrusts_snapshot(&self) -> bool {
        self.doubts().distrusted.get()
    }

    /// Waits until the newest snapshot is one that may be relied on.
    pub(crate) async fn snapshot_made_again(&self) {
        while self.distrusts_snapshot() {
            E::sleep(CARE_INTERVAL).await;
        }
    }

    /// Somebody could not read the snapshot at `path`: `why`, in his words. If it is the newest still, it is read through here.
    pub(crate) async fn doubt_snapshot(&self, path: &str, why: &str) {
        let doubts = self.doubts();
        if planted!(RottenSnapshotKept) || self.newest_path().as_deref() != Some(path) || self.distrusts_snapshot() {
            return;
        }
        let file = doubts.files.get();
        doubts.refusals.set(doubts.refusals.get() + 1);
        let read = read_through::<E>(self.disk(), path, None).await;
        if doubts.files.get() != file {
            return;
        }
        match read {
            // It says nothing of the file.
            Err(own) if may_pass(&own) => tracing::warn!(path, "the newest snapshot could not be looked at: {own}"),
            Err(own) => self.distrust(&format!("it is damaged on this node's disk, which should be looked at: {own}")),
            Ok(_) if doubts.refusals.get() >= SNAPSHOT_REFUSALS_MAX => {
                self.distrust(&format!("it reads back well here, and was refused {} times: {why}", doubts.refusals.get()));
            }
            Ok(_) => tracing::warn!(path, "a snapshot that reads back well here was refused: {why}"),
        }
    }

    fn distrust(&self, why: &str) {
        tracing::error!(path = self.newest_path(), "the newest snapshot is not sent any more, another is made: {why}");
        self.doubts().distrusted.set(true);
    }
}
