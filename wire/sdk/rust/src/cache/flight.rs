//! Fetches under way: one for all who miss the same key.
//!
//! **Invariants**
//! - At most one fetch of a key lets others join it at a time.
//! - What it found is kept only if nothing said meanwhile that the key has changed.
//! - A fetch whose caller went away is gone on with by one of those who wait for it; without any it is forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::answer::Value;
use crate::error::Error;

/// What a fetch came to, and when it began.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) result: Result<Option<Value>, Error>,
    pub(super) as_of: Instant,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Bytes, Arc<OnceCell<Fetched>>>>);

/// A place in a fetch.
pub(super) struct Joined<'a> {
    flights: &'a Flights,
    key: Bytes,
    pub(super) flight: Arc<OnceCell<Fetched>>,
}

impl Flights {
    /// Joins the fetch of this key, or makes one.
    pub(super) fn join(&self, key: &[u8]) -> Joined<'_> {
        let mut flights = self.lock();
        if let Some((key, flight)) = flights.get_key_value(key) {
            return Joined { flights: self, key: key.clone(), flight: flight.clone() };
        }
        let (key, flight) = (Bytes::copy_from_slice(key), Arc::<OnceCell<Fetched>>::default());
        flights.insert(key.clone(), flight.clone());
        Joined { flights: self, key, flight }
    }

    /// The fetch has ended: nobody joins it any more, and it is kept unless the key was left alone meanwhile.
    pub(super) fn land(&self, joined: &Joined<'_>, keep: impl FnOnce()) {
        let mut flights = self.lock();
        if flights.get(&joined.key).is_some_and(|flight| Arc::ptr_eq(flight, &joined.flight)) {
            flights.remove(&joined.key);
            keep();
        }
    }

    /// The key has changed: what is fetched now is not kept, and nobody joins it any more.
    pub(super) fn leave_alone(&self, key: &[u8], forget: impl FnOnce()) {
        let mut flights = self.lock();
        flights.remove(key);
        forget();
    }

    /// [`Flights::leave_alone`] of every key.
    pub(super) fn leave_all_alone(&self, forget: impl FnOnce()) {
        let mut flights = self.lock();
        flights.clear();
        forget();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, Arc<OnceCell<Fetched>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Joined<'_> {
    /// The last one who goes away without an end takes the fetch with it.
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // This one's and the table's.
        let alone = Arc::strong_count(&self.flight) <= 2;
        if alone && flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.key);
        }
    }
}
