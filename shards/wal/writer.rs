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
//! Votes, truncations, purges, and how a log begins and ends: `writer/rare.rs`.
//!
//! The tasks hold weak references: when the last handle is dropped they end, and callbacks not yet called get an error.

mod rare;

use super::log::{Log, Next};
use super::record::Record;
use super::{Entry, LogId, Owner, WalConfig};
use crate::io::channel::Notify;
use crate::io::{Env, File};
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

    pub fn save_committed(&self, id: Option<LogId>) {
        self.log.borrow_mut().state.apply(&Record::Committed(id));
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
