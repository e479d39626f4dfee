//! What all connections to one node know of it together: whether it answers, and whether it is to be left alone (`breaker.rs`).
//!
//! An answer of a node that has not failed costs one load of a flag.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ringbeam_wire::refusal::{Code, Refusal};

use crate::breaker::{Breaker, Leave};

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// It has failed since it answered last.
    troubled: AtomicBool,
    breaker: Mutex<Breaker>,
}

impl Health {
    /// It gave a good answer.
    pub(crate) fn answered(&self) {
        if self.troubled.load(Ordering::Relaxed) {
            let mut breaker = self.breaker();
            breaker.answered();
            self.troubled.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn failed(&self) {
        let mut breaker = self.breaker();
        breaker.failed(Instant::now(), fastrand::u64(..));
        self.troubled.store(true, Ordering::Relaxed);
    }

    /// Health is good answers, not quick ones: a node that refuses as it cannot serve has failed.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        if matches!(refusal.code, Code::ShardFault | Code::NotServing | Code::ShuttingDown) {
            self.failed();
        }
    }

    pub(crate) fn ask(&self, now: Instant) -> Leave {
        self.breaker().ask(now)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
