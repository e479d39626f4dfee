//! What is no append: the beginning and the end of a log, votes, truncations, purges, and its death.

use std::io;
use std::rc::Rc;

use super::{Flushed, Shared, run_flusher};
use crate::io::channel::{Notify, oneshot};
use crate::io::{Disk, Env, File};
use crate::wal::log::Log;
use crate::wal::record::Record;
use crate::wal::replay::Recovered;
use crate::wal::{LogId, Owner, WalConfig, chores, segment};
use std::cell::RefCell;

impl<E: Env> Shared<E> {
    pub fn start(
        disk: E::Disk,
        dir: &str,
        owner: Owner,
        config: WalConfig,
        recovered: Recovered<<E::Disk as Disk>::File>,
    ) -> Rc<Self> {
        let log = Log::new(recovered);
        let shared = Rc::new(Shared {
            disk,
            dir: dir.to_owned(),
            owner,
            config,
            log: RefCell::new(log),
            work: Rc::new(Notify::new()),
            chores: Rc::new(Notify::new()),
            chores_ended: Notify::new(),
        });
        E::spawn(run_flusher(Rc::downgrade(&shared), shared.work.clone()));
        E::spawn(chores::run_chores(Rc::downgrade(&shared), shared.chores.clone()));
        shared.log.borrow_mut().retire();
        shared.chores.notify_one();
        shared
    }

    /// Takes a vote or a purge.
    pub fn push(&self, record: Record, flushed: Flushed) {
        let mut log = self.log.borrow_mut();
        if let Some(error) = log.refusal() {
            drop(log);
            return flushed(Err(error));
        }
        let mut record = Some(record);
        if let Some(Record::Purge(upto)) = record {
            if log.state.purged.is_some_and(|purged| purged.index >= upto.index) {
                record = None;
            } else {
                log.index.purge(upto.index);
            }
        }
        if let Some(record) = &record {
            log.state.apply(record);
        }
        log.enqueue(record, Some(flushed));
        drop(log);
        self.work.notify_one();
    }

    pub fn truncate_after(&self, after: Option<LogId>, flushed: Flushed) {
        let mut log = self.log.borrow_mut();
        if let Some(error) = log.refusal() {
            drop(log);
            return flushed(Err(error));
        }
        let after = match (after, log.state.purged) {
            (Some(after), Some(purged)) if after.index <= purged.index => Some(purged),
            (after, purged) => after.or(purged),
        };
        let record = if after.map(|id| id.index) >= log.state.last.map(|id| id.index) {
            None
        } else {
            if let Some(id) = after.filter(|_| after != log.state.purged) {
                let held = log.index.id_at(id.index);
                assert_eq!(held, Some(id), "truncation after an entry that the log does not have");
            }
            let from = after.map_or(0, |id| id.index + 1);
            log.index.truncate_from(from);
            log.forget_history(from);
            let record = Record::Truncate(after);
            log.state.apply(&record);
            if planted!(TruncationForgotten) { None } else { Some(record) }
        };
        log.enqueue(record, Some(flushed));
        drop(log);
        self.work.notify_one();
    }

    pub async fn close(&self) {
        let sealed = {
            let mut log = self.log.borrow_mut();
            if log.closed {
                return;
            }
            log.closed = true;
            let (done, sealed) = oneshot::channel();
            if log.fault.is_none() {
                let flushed = move |_| {
                    let _ = done.send(());
                };
                log.enqueue(Some(Record::Seal), Some(Box::new(flushed)));
            }
            sealed
        };
        self.work.notify_one();
        // An error is a dead log or a full disk: then there is nothing to seal, and whoever waited has been told.
        let _ = sealed.await;
        self.log.borrow_mut().stopped = true;
        self.work.notify_one();
        self.chores.notify_one();
        self.chores_ended.notified().await;
        let segments = std::mem::take(&mut self.log.borrow_mut().segments);
        for segment in segments {
            if let Err(error) = segment.file.close().await {
                tracing::warn!(dir = self.dir, %error, "closing a log segment failed; everything in it is durable");
            }
        }
    }

    /// Nothing is pending, and no chore.
    #[cfg(test)]
    pub fn idle(&self) -> bool {
        let log = self.log.borrow();
        let prepared = log.next.is_some() || log.block == 1;
        log.pending.is_empty() && log.retired.is_empty() && prepared
    }

    /// After a failed flush nobody knows what is on disk: nothing is written any more, and everybody who waits is told.
    pub(super) fn die(&self, error: &io::Error) {
        let (in_flight, pending) = {
            let mut log = self.log.borrow_mut();
            let segment = log.segments.back().map_or(0, |segment| segment.number);
            let place = format!("{} at block {}", segment::Name::Segment(segment).path(&self.dir), log.block);
            log.fault = Some(format!("the flush to {place} failed: {error}"));
            log.pending_bytes = 0;
            (std::mem::take(&mut log.in_flight), std::mem::take(&mut log.pending))
        };
        for flushed in in_flight.into_iter().chain(pending.into_iter().filter_map(|pending| pending.flushed)) {
            flushed(Err(io::Error::new(error.kind(), error.to_string())));
        }
    }
}

impl<E: Env> Drop for Shared<E> {
    fn drop(&mut self) {
        let log = self.log.get_mut();
        let pending = log.pending.drain(..).filter_map(|pending| pending.flushed);
        for flushed in log.in_flight.drain(..).chain(pending) {
            flushed(Err(io::Error::other("the log was dropped before it could flush")));
        }
        // The tasks wake, find the log gone, and end.
        self.work.notify_one();
        self.chores.notify_one();
    }
}
