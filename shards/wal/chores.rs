//! Chores beside the writer: free purged segments, prepare the next one, try again while the disk refuses.
//!
//! If we stop anywhere in here, nothing of the log is lost: see the crash stories in `segment.rs`.

use super::Full;
use super::segment;
use super::writer::Shared;
use crate::io::Env;
use crate::io::channel::Notify;
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
        }
        let chore = {
            let mut log = self.log.borrow_mut();
            let number = log.segments.back().map_or(1, |segment| segment.number + 1);
            if log.fault.is_some() || log.stopped {
                return false;
            }
            // The next segment first: a flush may wait for it. But a spare for it is worth the wait.
            let wanted = log.next.is_none() && log.block > 1;
            match log.retired.front() {
                Some(oldest) if !wanted || log.spares.is_empty() => {
                    let keep = log.spares.len() < self.config.spare_segments as usize;
                    Chore::Free { number: oldest.number, keep }
                }
                _ if wanted => Chore::Prepare { number, spares: std::mem::take(&mut log.spares) },
                _ => return false,
            }
        };
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
        };
        if let Err(error) = &outcome {
            tracing::warn!(dir = self.dir, %error, "a log segment could not be made or freed; trying again");
            self.retry_later();
        }
        outcome.is_ok()
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

pub(super) async fn run_chores<E: Env>(shared: Weak<Shared<E>>, chores: Rc<Notify>) {
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
