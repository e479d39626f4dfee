//! Chores beside the writer: free purged segments, prepare the next one, stock spares, try again while the disk refuses.
//!
//! Zeroing a segment while writes go on costs them twice: its bytes go through the same disk, and each flush of the log waits
//! for what the disk holds of them. So a log that has just been opened makes the segments of a whole cycle, from one snapshot
//! to the next, and from then on they go round.
//!
//! If we stop anywhere in here, nothing of the log is lost: see the crash stories in `segment.rs`.

use crate::io::Env;
use crate::io::channel::Notify;
use crate::wal::Full;
use crate::wal::log::Log;
use crate::wal::segment;
use crate::wal::writer::Shared;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Pause between two attempts to make a segment or to free one.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

impl<E: Env> Shared<E> {
    /// Does one chore. False when there is none, or it has to wait.
    async fn chore(&self) -> bool {
        enum Chore {
            Free { number: u64, keep: bool },
            Prepare { number: u64, spares: Vec<u64> },
            Stock { number: u64 },
        }
        let chore = {
            let mut log = self.log.borrow_mut();
            let number = log.segments.back().map_or(1, |segment| segment.number + 1);
            if log.fault.is_some() || log.stopped {
                return false;
            }
            // The next segment first: a flush may wait for it. But a spare for it is worth the wait, unless it has just not come.
            let wanted = log.next.is_none() && log.block > 1;
            match log.retired.front() {
                Some(oldest) if !log.retrying && (!wanted || log.spares.is_empty()) => {
                    let keep = log.spares.len() < self.config.spare_segments as usize;
                    Chore::Free { number: oldest.number, keep }
                }
                _ if wanted => Chore::Prepare { number, spares: std::mem::take(&mut log.spares) },
                _ => match self.next_to_stock(&log) {
                    Some(number) => Chore::Stock { number },
                    None => return false,
                },
            }
        };
        let frees = matches!(chore, Chore::Free { .. });
        let outcome = match chore {
            Chore::Free { number, keep } => {
                let freed = segment::free(&self.disk, &self.dir, number, keep).await;
                if freed.is_ok() {
                    let mut log = self.log.borrow_mut();
                    log.retired.pop_front();
                    if keep {
                        log.spares.push(number);
                    }
                }
                freed
            }
            Chore::Prepare { number, mut spares } => {
                let bytes = self.config.segment_bytes;
                let made = segment::prepare::<E>(&self.disk, &self.dir, self.owner, number, bytes, &mut spares).await;
                let mut log = self.log.borrow_mut();
                log.spares = spares;
                let outcome = made.map(|segment| log.next = Some(segment));
                log.full = outcome.as_ref().err().map(|e| Full { missing_bytes: bytes, why: e.to_string() });
                self.work.notify_one();
                outcome
            }
            Chore::Stock { number } => {
                if let Err(error) = segment::stock(&self.disk, &self.dir, number, self.config.segment_bytes).await {
                    // Not needed yet. When it is, its lack is told; the next used segment is a reason to try again.
                    tracing::debug!(dir = self.dir, %error, "no spare log segment could be made ahead");
                    return false;
                }
                self.log.borrow_mut().spares.push(number);
                Ok(())
            }
        };
        if let Err(error) = &outcome {
            tracing::warn!(dir = self.dir, %error, "a log segment could not be made or freed; trying again");
            self.retry_later();
        }
        // What cannot be freed for now is passed by: the next segment may be made without it.
        outcome.is_ok() || frees
    }

    /// The number of a spare that is to be made ahead. Numbers of their own, which no used segment reaches.
    fn next_to_stock(&self, log: &Log<E>) -> Option<u64> {
        let segments = log.segments.len() + log.retired.len() + log.spares.len() + usize::from(log.next.is_some());
        let enough = !self.config.stock_ahead || segments > self.config.spare_segments as usize;
        if enough { None } else { (segment::FIRST_STOCKED..).find(|number| !log.spares.contains(number)) }
    }

    fn retry_later(&self) {
        if std::mem::replace(&mut self.log.borrow_mut().retrying, true) {
            return;
        }
        let chores = self.chores.clone();
        E::spawn(async move {
            E::sleep(RETRY_PAUSE).await;
            chores.notify_one();
        });
    }
}

pub(in crate::wal) async fn run_chores<E: Env>(shared: Weak<Shared<E>>, chores: Rc<Notify>) {
    loop {
        chores.notified().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.log.borrow_mut().retrying = false;
        while shared.chore().await {}
        if shared.log.borrow().stopped {
            shared.chores_ended.notify_one();
            return;
        }
    }
}
