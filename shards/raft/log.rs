//! openraft's log storage onto the shard's log.
//!
//! Vote, entries, truncations and purges go through one queue of the log and become durable in the order of the calls; an
//! append returns at once and its callback is completed by the flush that made it durable.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::storage::RaftLogStorage;
use openraft::storage::{IOFlushed, LogState};
use openraft::{OptionalSend, RaftLogReader};

use super::{TEntry, TLogId, TVote, Types};
use crate::io::Env;
use crate::io::channel::oneshot;
use crate::limits::READ_BYTES_MAX;
use crate::raft;
use crate::wal::Wal;

/// The log of one shard as openraft sees it. Clones share the log.
pub struct LogStore<E: Env> {
    wal: Wal<E>,
}

impl<E: Env> LogStore<E> {
    /// A view of `wal`.
    pub fn new(wal: Wal<E>) -> Self {
        LogStore { wal }
    }
}

impl<E: Env> Clone for LogStore<E> {
    fn clone(&self) -> Self {
        LogStore { wal: self.wal.clone() }
    }
}

/// Waits for one operation of the log to become durable.
async fn durable(start: impl FnOnce(Box<dyn FnOnce(io::Result<()>)>)) -> io::Result<()> {
    let (tx, rx) = oneshot::channel();
    start(Box::new(move |result| {
        // The waiter is gone only when its raft is shutting down.
        let _ = tx.send(result);
    }));
    rx.await.unwrap_or_else(|_| Err(io::Error::other("the log was closed before it answered")))
}

impl<E: Env> RaftLogReader<Types<E>> for LogStore<E> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<TEntry<E>>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(&i) => i,
            Bound::Excluded(&i) => i + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&i) => i + 1,
            Bound::Excluded(&i) => i,
            Bound::Unbounded => self.wal.last().map_or(0, |id| id.index + 1),
        };
        let mut entries: Vec<TEntry<E>> = Vec::new();
        let mut next = start;
        // openraft expects the whole range: read it in pieces of bounded size.
        while next < end {
            let piece = read::<E>(&self.wal, next, end).await?;
            // The log may begin after `start`.
            let Some(last) = piece.last() else { break };
            next = last.log_id.index + 1;
            entries.extend(piece);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<TEntry<E>>, io::Error> {
        read::<E>(&self.wal, start, end).await
    }

    async fn read_vote(&mut self) -> Result<Option<TVote<E>>, io::Error> {
        Ok(self.wal.vote().map(raft::vote_in::<E>))
    }
}

async fn read<E: Env>(wal: &Wal<E>, start: u64, end: u64) -> io::Result<Vec<TEntry<E>>> {
    // What is read at once is appended at once by a follower, whose log keeps room for it.
    let entries = wal.read(start..end, READ_BYTES_MAX.min(wal.append_bytes_max())).await?;
    entries.into_iter().map(|e| raft::entry_in::<E>(e.id, e.kind, e.payload).map_err(io::Error::other)).collect()
}

impl<E: Env> RaftLogStorage<Types<E>> for LogStore<E> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types<E>>, io::Error> {
        Ok(LogState {
            last_purged_log_id: self.wal.purged().map(raft::log_id_in::<E>),
            last_log_id: self.wal.last().map(raft::log_id_in::<E>),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &TVote<E>) -> Result<(), io::Error> {
        if planted!(VoteNotPersisted) {
            return Ok(());
        }
        durable(|flushed| self.wal.save_vote(raft::vote_out::<E>(vote), flushed)).await
    }

    async fn save_committed(&mut self, committed: Option<TLogId<E>>) -> Result<(), io::Error> {
        self.wal.save_committed(committed.as_ref().map(raft::log_id_out::<E>));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<TLogId<E>>, io::Error> {
        let committed = if planted!(CommittedAhead) { self.wal.last() } else { self.wal.committed() };
        Ok(committed.map(raft::log_id_in::<E>))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<E>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = TEntry<E>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(raft::entry_out::<E>).collect();
        self.wal.append(entries, move |result| callback.io_completed(result));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<TLogId<E>>) -> Result<(), io::Error> {
        durable(|flushed| self.wal.truncate_after(last.as_ref().map(raft::log_id_out::<E>), flushed)).await
    }

    async fn purge(&mut self, upto: TLogId<E>) -> Result<(), io::Error> {
        let upto = raft::log_id_out::<E>(&upto);
        let upto = self.wal.committed().filter(|id| planted!(PurgeUpToCommitted) && *id > upto).unwrap_or(upto);
        durable(|flushed| self.wal.purge(upto, flushed)).await
    }
}
