//! The log on disk of one shard: votes, entries, truncations and purges as one ordered stream of durable records.
//!
//! On the way of a write this is the WAL step: raft appends an entry, the log makes it durable, `flushed` is called.
//!
//! ```text
//! append, save_vote, truncate_after, purge
//!        |  pending records            readable at once (index.rs)
//!        v
//!   flusher (writer.rs)                one flush in flight, the rest gathers: group commit
//!        |  whole 4 KiB blocks         block.rs, record.rs
//!        v
//!   wal-...01.seg  wal-...02.seg | wal-...03.seg     spare-...00.seg
//!   full           current         next, prepared    recycled           (segment.rs)
//! ```
//!
//! The bytes are drawn in `docs/format.md`. What recovery does with each kind of damage is a truth table in `recovery.rs`.
//!
//! **Invariants**
//! - Records become durable in the order of the calls, and `flushed` callbacks are called in that order, each once, after
//!   its record is durable or with the error that says it may not be.
//! - A flush begins on a new block, and no block is written twice in the life of its segment (but for wiping a cut flush):
//!   a torn write cannot damage what an earlier flush made durable.
//! - There is one flush in flight. So a block of flush *s+1* proves that flush *s* was durable.
//! - After a failed flush nothing is ever written again: the log is dead ([`Wal::fault`]).
//! - A segment is freed only once a *durable* purge covers all that was ever in it, the oldest first.
//! - What [`Wal::open`] found is durable before it returns: it may have read a flush that was written but never synced.
//!
//! **Bounds**
//! - A flush: [`FLUSH_BYTES_MAX`] of records, or one larger record alone. A record: `entry_bytes_max` of payload.
//! - A segment holds at least two of the largest flushes; `open` refuses a configuration where it does not.
//! - A full disk: when the next segment cannot be made, [`Wal::has_room`] says so as soon as one largest flush more than what is
//!   on its way would not fit. Whoever appends entries of clients holds a [`Claim`] for them, so that what was taken always fits;
//!   beyond the claims a reserve is kept for votes and what else raft writes for itself (room.rs).
//! - Pending records are bounded by whoever calls `append`; the log itself takes what it is given.
//!
//! **Not here**: snapshots, the meaning of entries, locking the directory against a second process (the node does it).

mod block;
mod index;
mod log;
mod read;
mod record;
mod recovery;
mod replay;
mod room;
mod segments;
#[cfg(test)]
mod tests;
mod writer;

pub use recovery::error::{Full, OpenError};
pub use room::{Claim, NoRoom};
pub use segments::config::WalConfig;
use segments::{chores, segment};

use crate::io::{Env, Instant};
use bytes::Bytes;
use std::io::Result;
use std::ops::Range;
use std::rc::Rc;

/// Records gathered into one flush, at most; a larger record goes alone. About 3 ms at 1.4 GB/s: a bound on how long a lone
/// write waits for the flush in front of it.
pub const FLUSH_BYTES_MAX: usize = 4 << 20;
/// Largest `entry_bytes_max`: a flush of it has fewer than 65,536 blocks.
pub const ENTRY_BYTES_HARD_MAX: usize = 128 << 20;

/// Position of an entry: who wrote it in which term, and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// Term of the leader that wrote it.
    pub term: u64,
    /// Node id of that leader.
    pub leader: u64,
    /// Log index.
    pub index: u64,
}

/// A raft vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Vote {
    /// Term voted in.
    pub term: u64,
    /// Node voted for.
    pub node: u64,
    /// That node has won.
    pub committed: bool,
}

/// One log entry; kind and payload are opaque to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub id: LogId,
    /// What the payload is, for raft.
    pub kind: u8,
    /// At most [`WalConfig::entry_bytes_max`].
    pub payload: Bytes,
}

/// Whose log it is. In every segment's header; a log of anybody else is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Owner {
    /// Ring id.
    pub ring: u64,
    /// Node id.
    pub node: u64,
    /// The data directory's random id.
    pub incarnation: u64,
    /// Shard id.
    pub shard: u32,
}

/// The log of one shard. Clones are handles to one log.
pub struct Wal<E: Env>(Rc<writer::Shared<E>>);

impl<E: Env> Clone for Wal<E> {
    fn clone(&self) -> Self {
        Wal(self.0.clone())
    }
}

impl<E: Env> std::fmt::Debug for Wal<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal").field("dir", &self.0.dir).field("last", &self.last()).finish_non_exhaustive()
    }
}

impl<E: Env> Wal<E> {
    /// Opens the log in `dir`, or makes a new one, and recovers what is durable in it.
    pub async fn open(disk: E::Disk, dir: &str, owner: Owner, config: WalConfig) -> std::result::Result<Wal<E>, OpenError> {
        config.check()?;
        let recovered = replay::recover::<E>(&disk, dir, owner, &config).await?;
        Ok(Wal(writer::Shared::start(disk, dir, owner, config, recovered)))
    }

    /// Appends entries that follow [`Wal::last`]. They can be read at once; `flushed` is called once they are durable.
    ///
    /// # Panics
    /// When an index does not follow, or a payload is larger than `entry_bytes_max`: both are the caller's to prevent.
    pub fn append(&self, entries: Vec<Entry>, flushed: impl FnOnce(Result<()>) + 'static) {
        let own = entries.last().is_some_and(|last| last.id.leader == self.0.owner.node);
        if [planted!(FollowerAcksBeforeFsync), planted!(LeaderAcksBeforeFsync)][usize::from(own)] {
            self.0.append(entries, Box::new(drop));
            return flushed(Ok(()));
        }
        self.0.append(entries, Box::new(flushed));
    }

    /// Replaces the vote.
    pub fn save_vote(&self, vote: Vote, flushed: impl FnOnce(Result<()>) + 'static) {
        self.0.push(record::Record::Vote(vote), Box::new(flushed));
    }

    /// Notes how far is committed. Rides along with the next flush and never causes one; after a crash an older value may
    /// come back, and it is never beyond the entries.
    pub fn save_committed(&self, id: Option<LogId>) {
        self.0.save_committed(id);
    }

    /// Drops all entries after `last`; `None`: all entries.
    ///
    /// # Panics
    /// When `last` names an entry that the log has with another term.
    pub fn truncate_after(&self, last: Option<LogId>, flushed: impl FnOnce(Result<()>) + 'static) {
        self.0.truncate_after(last, Box::new(flushed));
    }

    /// Drops all entries up to and with `upto`, which may lie beyond the last. Whole segments that are not needed any more
    /// are recycled once the purge is durable.
    pub fn purge(&self, upto: LogId, flushed: impl FnOnce(Result<()>) + 'static) {
        self.0.push(record::Record::Purge(upto), Box::new(flushed));
    }

    /// The entries of `range` that the log has, in order, from its first on; no more than `bytes_max` of payload, but at least
    /// one if there is one. From memory or from disk.
    pub async fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>> {
        read::read(&self.0, range, bytes_max).await
    }

    /// Something that was appended is not durable yet.
    pub fn is_flushing(&self) -> bool {
        let log = self.0.log.borrow();
        !log.pending.is_empty() || !log.in_flight.is_empty()
    }

    /// The vote last saved, durable or not.
    pub fn vote(&self) -> Option<Vote> {
        self.0.log.borrow().state.vote
    }
    /// The commit position last saved.
    pub fn committed(&self) -> Option<LogId> {
        self.0.log.borrow().state.committed
    }
    /// The last purged entry.
    pub fn purged(&self) -> Option<LogId> {
        self.0.log.borrow().state.purged
    }
    /// The last entry; the last purged one when there is none.
    pub fn last(&self) -> Option<LogId> {
        self.0.log.borrow().state.last
    }
    /// The id of an entry, also of the last purged one.
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        let log = self.0.log.borrow();
        log.index.id_at(index).or(log.state.purged.filter(|id| id.index == index))
    }
    /// Bytes on disk from the first entry that is not purged to the end of the log.
    pub fn bytes(&self) -> u64 {
        self.0.log.borrow().bytes()
    }
    /// When the flush that made this entry durable ended. Known for the entries of the last
    /// [`FLUSH_HISTORY`] flushes.
    pub fn flushed_at(&self, index: u64) -> Option<Instant> {
        self.0.log.borrow().flushed_at(index)
    }
    /// Index of the log's newest entry that is durable. `None`: a truncation that reaches it is not durable yet.
    pub fn flushed_through(&self) -> Option<u64> {
        self.0.log.borrow().flushed_through()
    }
    /// Why the log is dead, once a flush has failed.
    pub fn fault(&self) -> Option<String> {
        self.0.log.borrow().fault.clone()
    }
    /// Whether new writes may enter raft. `Full` while the next segment cannot be made and the current one is nearly used up.
    pub fn has_room(&self) -> std::result::Result<(), Full> {
        self.0.log.borrow().has_room(&self.0.config)
    }
    /// Room for so many entries with so many bytes of payload together, in one `append`.
    pub fn claim(&self, entries: usize, payload_bytes: usize) -> std::result::Result<Claim, NoRoom> {
        self.0.log.borrow().claim(&self.0.config, entries, payload_bytes)
    }
    /// Entries of this many bytes of payload may go into one append: several such claims fit a segment.
    pub fn append_bytes_max(&self) -> usize {
        self.0.config.segment_bytes as usize / 8
    }
    /// See [`WalConfig::entry_bytes_max`].
    pub fn entry_bytes_max(&self) -> usize {
        self.0.config.entry_bytes_max
    }
    /// Flushes what is pending, seals the log and stops its tasks. Other handles' later writes fail.
    pub async fn close(self) {
        self.0.close().await;
    }
}

/// Flushes whose end [`Wal::flushed_at`] remembers.
pub const FLUSH_HISTORY: usize = 1024;
