//! The writer: takes records, and makes them durable one flush after the other.
//!
//! ```text
//! append -> pending -> work.notify -> flusher: encode -> write_durable_at -> callbacks -> again while anything is pending
//!                                        |  first flush of a segment, purges
//!                                        v
//!                                     chores (chores.rs): free purged segments, prepare the next one
//! ```
//!
//! **Invariants**
//! - Only the flusher writes blocks, only the chores make and free segments; each is one task.
//! - No borrow of `log` is held across an await or a callback.
//!
//! The tasks hold weak references: when the last handle is dropped they end, and callbacks not yet called get an error.

use super::chores;
use super::log::{Log, Next};
use super::record::Record;
use super::replay::Recovered;
use super::segment;
use super::{Entry, LogId, Owner, WalConfig};
use crate::io::channel::{Notify, oneshot};
use crate::io::{Disk, Env, File};
use std::cell::RefCell;
use std::io;
use std::rc::{Rc, Weak};

/// Called once its records are durable, or not.
pub(super) type Flushed = Box<dyn FnOnce(io::Result<()>)>;

/// What the handles and the tasks share.
pub(super) struct Shared<E: Env> {
    pub disk: E::Disk,
    pub dir: String,
    pub owner: Owner,
    pub config: WalConfig,
    pub log: RefCell<Log<E>>,
    /// Something is pending, or a segment has come that a flush waits for.
    pub work: Rc<Notify>,
    /// There may be a chore.
    pub chores: Rc<Notify>,
    pub chores_ended: Notify,
}

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

    pub fn append(&self, entries: Vec<Entry>, flushed: Flushed) {
        let mut log = self.log.borrow_mut();
        if let Some(error) = log.refusal() {
            drop(log);
            return flushed(Err(error));
        }
        let mut flushed = Some(flushed);
        let last = entries.len().checked_sub(1);
        if last.is_none() {
            log.enqueue(None, flushed.take());
        }
        for (at, entry) in entries.into_iter().enumerate() {
            let (id, length) = (entry.id, entry.payload.len());
            if let Some(before) = log.state.last {
                assert_eq!(id.index, before.index + 1, "entry {id:?} does not follow {before:?}");
            }
            assert!(length <= self.config.entry_bytes_max, "entry {id:?} has {length} bytes: entry_bytes_max");
            let record = Record::Entry(entry.clone());
            log.state.apply(&record);
            log.index.push(entry, None);
            log.enqueue(Some(record), if Some(at) == last { flushed.take() } else { None });
        }
        drop(log);
        self.work.notify_one();
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

    pub fn save_committed(&self, id: Option<LogId>) {
        self.log.borrow_mut().state.apply(&Record::Committed(id));
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

    /// Does one flush if anything is pending. False when there is nothing more to do for now.
    async fn flush(&self) -> bool {
        let next = {
            let mut log = self.log.borrow_mut();
            if log.fault.is_some() || log.pending.is_empty() {
                return false;
            }
            log.encode(self.config.gather_bytes_max())
        };
        match next {
            Next::NoSegment => {
                let give_up = {
                    let log = self.log.borrow();
                    log.full.clone().filter(|_| log.closed)
                };
                match give_up {
                    Some(full) => self.die(&io::Error::new(io::ErrorKind::StorageFull, full.to_string())),
                    None => self.chores.notify_one(),
                }
                return false;
            }
            Next::Nothing => {}
            Next::Write(flush) => {
                let written = flush.file.write_durable_at(flush.offset, flush.buffer).await;
                if let Err(error) = written.or_else(|error| if planted!(SyncErrorIgnored) { Ok(()) } else { Err(error) }) {
                    self.die(&error);
                    return false;
                }
                let mut log = self.log.borrow_mut();
                let first = log.block == 1;
                log.flushed(flush.blocks, flush.entries, E::now());
                log.index.evict(self.config.cache_bytes);
                if log.retire() || first {
                    self.chores.notify_one();
                }
            }
        }
        let mut called = std::mem::take(&mut self.log.borrow_mut().in_flight);
        for flushed in called.drain(..) {
            flushed(Ok(()));
        }
        // Nobody but this task fills it, so the allocation goes back.
        self.log.borrow_mut().in_flight = called;
        true
    }

    /// After a failed flush nobody knows what is on disk: nothing is written any more, and everybody who waits is told.
    fn die(&self, error: &io::Error) {
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

async fn run_flusher<E: Env>(shared: Weak<Shared<E>>, work: Rc<Notify>) {
    loop {
        work.notified().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        while shared.flush().await {}
        if shared.log.borrow().stopped {
            return;
        }
    }
}
