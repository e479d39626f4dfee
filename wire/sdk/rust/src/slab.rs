//! The calls in flight on one connection, by request id, without a hash map and without an allocation per call.
//!
//! ```text
//!   request id   generation (32 bits) | place (32 bits)
//!   place        free -> waiting (waker, deadline) -> done (outcome) -> free, generation + 1
//! ```
//!
//! **Invariants**
//! - A reply reaches the call that asked, or nobody: a place that was freed has another generation, so the late reply of a
//!   call that went away finds nothing.
//! - A place is freed by its call only, never by a reply: the call takes its outcome or drops.
//!
//! **Not here**: the lock around it, time (`now` is an argument), bytes.

use std::task::Waker;
use std::time::Instant;

use crate::limits::IN_FLIGHT_MAX;

/// No place: end of the list of free ones.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum Place<T> {
    Free { next: u32 },
    Waiting { waker: Waker, deadline: Instant, end: u64 },
    Done(T),
}

/// See the head of this file. `T` is the outcome of a call.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<(u32, Place<T>)>,
    free: u32,
    waiting: u32,
}

/// What a call finds when it looks for its outcome.
#[derive(Debug)]
pub(crate) enum Look<T> {
    /// Not there yet; the waker is kept, and here is the one it replaces.
    Waiting(Option<Waker>),
    /// There; the place is free again.
    Done(T),
}

/// What a call that went away leaves: its waker or its outcome. Dropping a waker may drop a task and with it other calls,
/// which take the lock around this slab, so nothing of a caller is ever dropped under that lock.
pub(crate) struct Left<T>(#[allow(dead_code)] Place<T>);

impl<T> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab { places: Vec::new(), free: NONE, waiting: 0 }
    }

    /// Calls that wait for a reply.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// A place for a new call, and its request id. `None`: [`IN_FLIGHT_MAX`] are taken.
    pub(crate) fn insert(&mut self, waker: Waker, deadline: Instant) -> Option<u64> {
        let waiting = Place::Waiting { waker, deadline, end: u64::MAX };
        let at = self.free;
        let id = match self.places.get_mut(at as usize) {
            Some((generation, place)) => {
                if let Place::Free { next } = *place {
                    self.free = next;
                }
                *place = waiting;
                id_of(*generation, at)
            }
            None => {
                let at = u32::try_from(self.places.len()).ok().filter(|&at| at < IN_FLIGHT_MAX)?;
                self.places.push((0, waiting));
                id_of(0, at)
            }
        };
        self.waiting += 1;
        Some(id)
    }

    /// Notes where in the connection's stream of bytes the request ends.
    pub(crate) fn ends_at(&mut self, id: u64, offset: u64) {
        if let Some(Place::Waiting { end, .. }) = self.place(id) {
            *end = offset;
        }
    }

    /// The outcome of a call has come. Returns whom to wake; nobody when the call went away.
    pub(crate) fn complete(&mut self, id: u64, outcome: T) -> Option<Waker> {
        let place = self.place(id)?;
        if !matches!(place, Place::Waiting { .. }) {
            return None;
        }
        let Place::Waiting { waker, .. } = std::mem::replace(place, Place::Done(outcome)) else {
            return None;
        };
        self.waiting -= 1;
        Some(waker)
    }

    /// The call looks for its outcome.
    pub(crate) fn look(&mut self, id: u64, waker: &Waker) -> Option<Look<T>> {
        match self.place(id)? {
            Place::Waiting { waker: kept, .. } => {
                let stale = !kept.will_wake(waker);
                Some(Look::Waiting(stale.then(|| std::mem::replace(kept, waker.clone()))))
            }
            Place::Free { .. } => None,
            Place::Done(_) => match self.free(id) {
                Some(Place::Done(outcome)) => Some(Look::Done(outcome)),
                _ => None,
            },
        }
    }

    /// The call goes away, with or without an outcome. What it leaves is for the caller to drop, outside the lock.
    pub(crate) fn forget(&mut self, id: u64) -> Option<Left<T>> {
        let left = self.free(id)?;
        if let Place::Waiting { .. } = left {
            self.waiting -= 1;
        }
        Some(Left(left))
    }

    /// Ends all waiting calls for which `outcome` (of deadline and end of the request) gives one.
    pub(crate) fn sweep(&mut self, wakers: &mut Vec<Waker>, mut outcome: impl FnMut(Instant, u64) -> Option<T>) {
        for (_, place) in &mut self.places {
            let Place::Waiting { deadline, end, .. } = place else {
                continue;
            };
            let Some(done) = outcome(*deadline, *end) else {
                continue;
            };
            if let Place::Waiting { waker, .. } = std::mem::replace(place, Place::Done(done)) {
                self.waiting -= 1;
                wakers.push(waker);
            }
        }
    }

    fn place(&mut self, id: u64) -> Option<&mut Place<T>> {
        let (generation, place) = self.places.get_mut((id & u64::from(u32::MAX)) as usize)?;
        (u64::from(*generation) == id >> 32).then_some(place)
    }

    fn free(&mut self, id: u64) -> Option<Place<T>> {
        let free = self.free;
        let place = self.place(id)?;
        if matches!(place, Place::Free { .. }) {
            return None;
        }
        let old = std::mem::replace(place, Place::Free { next: free });
        let at = (id & u64::from(u32::MAX)) as u32;
        self.free = at;
        if let Some((generation, _)) = self.places.get_mut(at as usize) {
            *generation = generation.wrapping_add(1);
        }
        Some(old)
    }
}

fn id_of(generation: u32, at: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn insert(slab: &mut Slab<u32>) -> u64 {
        slab.insert(Waker::noop().clone(), Instant::now()).expect("the slab has room")
    }

    #[test]
    fn outcomes_reach_their_calls_in_any_order() {
        let mut slab = Slab::new();
        let ids: Vec<u64> = (0..3).map(|_| insert(&mut slab)).collect();
        for &at in &[2, 0, 1] {
            assert!(slab.complete(ids[at], at as u32).is_some());
        }
        assert_eq!(slab.waiting(), 0);
        for (at, &id) in ids.iter().enumerate() {
            assert!(matches!(slab.look(id, Waker::noop()), Some(Look::Done(n)) if n == at as u32));
            assert!(slab.look(id, Waker::noop()).is_none(), "an outcome is taken once");
        }
    }

    #[test]
    fn a_late_reply_of_a_forgotten_call_reaches_nobody() {
        let mut slab = Slab::new();
        let gone = insert(&mut slab);
        slab.forget(gone);
        slab.forget(gone);
        let next = insert(&mut slab);
        assert_eq!(gone as u32, next as u32, "the place is used again");
        assert!(slab.complete(gone, 1).is_none());
        assert!(matches!(slab.look(next, Waker::noop()), Some(Look::Waiting(_))));
        assert_eq!(slab.waiting(), 1);
    }

    #[test]
    fn a_second_reply_does_not_replace_the_first() {
        let mut slab = Slab::new();
        let id = insert(&mut slab);
        slab.complete(id, 1);
        assert!(slab.complete(id, 2).is_none());
        assert!(slab.complete(u64::MAX, 3).is_none());
        assert!(matches!(slab.look(id, Waker::noop()), Some(Look::Done(1))));
    }

    #[test]
    fn sweep_ends_what_is_due_and_leaves_the_rest() {
        let mut slab = Slab::new();
        let now = Instant::now();
        let early = slab.insert(Waker::noop().clone(), now).expect("room");
        let late = slab.insert(Waker::noop().clone(), now + Duration::from_secs(9)).expect("room");
        let mut wakers = Vec::new();
        slab.sweep(&mut wakers, |deadline, _| (deadline <= now).then_some(4));
        assert_eq!((wakers.len(), slab.waiting()), (1, 1));
        assert!(matches!(slab.look(early, Waker::noop()), Some(Look::Done(4))));
        assert!(matches!(slab.look(late, Waker::noop()), Some(Look::Waiting(_))));
    }

    #[test]
    fn places_are_bounded() {
        let mut slab: Slab<u32> = Slab::new();
        let now = Instant::now();
        let taken = (0..IN_FLIGHT_MAX + 9).filter_map(|_| slab.insert(Waker::noop().clone(), now)).count();
        assert_eq!(taken, IN_FLIGHT_MAX as usize);
    }
}
