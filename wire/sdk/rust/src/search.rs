//! The search for a shard's leader, as its callers and the task that searches see it.
//!
//! **Invariants**
//! - One task searches at a time, and [`Search::over`] is told whenever it ends, however it ends.
//! - Nobody waits: no search goes on for longer than its round.
//!
//! **Not here**: where it looks (`leader.rs`).

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::error::Error;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Search {
    state: Mutex<State>,
    /// Told when a search has ended.
    pub(crate) over: Notify,
}

#[derive(Debug, Default)]
struct State {
    under_way: bool,
    /// Calls that wait for the leader.
    seekers: u64,
    /// What the last round came to.
    why: Option<String>,
    /// Set when the last search ended because waiting longer would not have helped.
    hopeless: Option<Error>,
}

impl Search {
    /// Counts a call that waits for the leader, while the guard lives.
    pub(crate) fn seek(&self) -> Seeking<'_> {
        self.lock().seekers += 1;
        Seeking(self)
    }

    /// True for whoever is to start the task that searches: none does.
    pub(crate) fn begin(&self) -> bool {
        let mut state = self.lock();
        if state.under_way {
            return false;
        }
        *state = State { under_way: true, seekers: state.seekers, why: None, hopeless: None };
        true
    }

    /// The task that searches has ended.
    pub(crate) fn end(&self) {
        self.lock().under_way = false;
        self.over.notify_waiters();
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.seekers() > 0
    }

    /// Calls that wait.
    pub(crate) fn seekers(&self) -> u64 {
        self.lock().seekers
    }

    /// What a round came to.
    pub(crate) fn say(&self, why: String) {
        self.lock().why = Some(why);
    }

    /// It has ended, and waiting longer would not help.
    pub(crate) fn fail(&self, why: String, error: Error) {
        let mut state = self.lock();
        state.why = Some(why);
        state.hopeless = Some(error);
    }

    pub(crate) fn why(&self) -> Option<String> {
        self.lock().why.clone()
    }

    /// What [`Search::fail`] said, unless another search has begun.
    pub(crate) fn failed(&self) -> Option<(String, Error)> {
        let state = self.lock();
        Some((state.why.clone()?, state.hopeless.clone()?))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Search::seek`].
pub(crate) struct Seeking<'a>(&'a Search);

impl Drop for Seeking<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.seekers = state.seekers.saturating_sub(1);
    }
}
