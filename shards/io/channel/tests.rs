//! The channels without an executor: futures are polled by hand, wakes are counted and their order is kept.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex as SyncMutex;
use std::task::{Context, Poll, Wake, Waker};

use super::{Mutex, Notify, mpsc, oneshot, watch};

/// Wakes as they happened, by the name of who was woken.
#[derive(Clone, Default)]
struct Log(Arc<SyncMutex<Vec<u32>>>);

struct Name {
    name: u32,
    log: Log,
}

impl Wake for Name {
    fn wake(self: Arc<Self>) {
        self.log.0.lock().expect("no test panics here").push(self.name);
    }
}

impl Log {
    fn waker(&self, name: u32) -> Waker {
        Waker::from(Arc::new(Name { name, log: self.clone() }))
    }
    fn woken(&self) -> Vec<u32> {
        std::mem::take(&mut *self.0.lock().expect("no test panics here"))
    }
}

fn poll<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

fn ready<F: Future>(future: F) -> F::Output {
    match poll(pin!(future), Waker::noop()) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits, but everything is there"),
    }
}

fn waits<F: Future>(future: F) -> bool {
    poll(pin!(future), Waker::noop()).is_pending()
}

mod notify {
    use super::*;

    #[test]
    fn permit_is_kept_once() {
        let bell = Notify::new();
        bell.notify_one();
        bell.notify_one();
        ready(bell.notified());
        assert!(waits(bell.notified()));
    }

    #[test]
    fn waiters_are_woken_first_come_first_served() {
        let (bell, log) = (Notify::new(), Log::default());
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(bell.notified())).collect();
        for (name, notified) in (0..).zip(&mut waiting) {
            assert!(poll(notified.as_mut(), &log.waker(name)).is_pending());
        }
        bell.notify_one();
        bell.notify_one();
        assert_eq!(log.woken(), [0, 1]);
        assert!(poll(waiting[2].as_mut(), &log.waker(2)).is_pending(), "not yet its turn");
        assert!(poll(waiting[1].as_mut(), &log.waker(1)).is_ready());
        assert!(poll(waiting[0].as_mut(), &log.waker(0)).is_ready());
        bell.notify_waiters();
        assert_eq!(log.woken(), [2, 3]);
        assert!(waits(bell.notified()), "notify_waiters leaves no permit");
    }

    #[test]
    fn dropped_waiter_leaves_the_line() {
        let (bell, log) = (Notify::new(), Log::default());
        let (mut first, mut second) = (Box::pin(bell.notified()), Box::pin(bell.notified()));
        assert!(poll(first.as_mut(), &log.waker(1)).is_pending());
        assert!(poll(second.as_mut(), &log.waker(2)).is_pending());
        drop(first);
        bell.notify_one();
        assert_eq!(log.woken(), [2]);
    }

    #[test]
    fn notification_of_a_dropped_waiter_goes_on() {
        let (bell, log) = (Notify::new(), Log::default());
        let (mut first, mut second) = (Box::pin(bell.notified()), Box::pin(bell.notified()));
        assert!(poll(first.as_mut(), &log.waker(1)).is_pending());
        assert!(poll(second.as_mut(), &log.waker(2)).is_pending());
        bell.notify_one();
        drop(first);
        assert_eq!(log.woken(), [1, 2]);
        bell.notify_one();
        drop(second); // had been granted too: back to a permit, and one is already there
        ready(bell.notified());
    }

    #[test]
    fn last_waker_is_the_one_that_counts() {
        let (bell, log) = (Notify::new(), Log::default());
        let mut notified = Box::pin(bell.notified());
        assert!(poll(notified.as_mut(), &log.waker(1)).is_pending());
        assert!(poll(notified.as_mut(), &log.waker(2)).is_pending());
        bell.notify_one();
        assert_eq!(log.woken(), [2]);
    }
}

mod queue {
    use super::*;
    use mpsc::{TryRecvError, TrySendError};

    #[test]
    fn values_arrive_in_order_and_the_bound_holds() {
        let (sender, mut receiver) = mpsc::channel(2);
        ready(sender.send(1)).expect("open");
        sender.try_send(2).expect("room");
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!(receiver.len(), 2);
        assert_eq!(ready(receiver.recv()), Some(1));
        assert_eq!(receiver.try_recv(), Ok(2));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert!(waits(receiver.recv()));
    }

    #[test]
    fn waiting_senders_are_not_overtaken() {
        let (sender, mut receiver) = mpsc::channel(1);
        let log = Log::default();
        sender.try_send(0).expect("room");
        let (mut first, mut second) = (Box::pin(sender.send(1)), Box::pin(sender.send(2)));
        assert!(poll(first.as_mut(), &log.waker(1)).is_pending());
        assert!(poll(second.as_mut(), &log.waker(2)).is_pending());
        assert_eq!(ready(receiver.recv()), Some(0));
        assert_eq!(log.woken(), [1]);
        assert_eq!(sender.try_send(9), Err(TrySendError::Full(9)), "the free slot is the first waiter's");
        assert!(waits(sender.send(9)));
        assert!(poll(second.as_mut(), &log.waker(2)).is_pending());
        assert_eq!(poll(first.as_mut(), &log.waker(1)), Poll::Ready(Ok(())));
        assert_eq!(ready(receiver.recv()), Some(1));
        assert_eq!(poll(second.as_mut(), &log.waker(2)), Poll::Ready(Ok(())));
        assert_eq!(ready(receiver.recv()), Some(2));
    }

    #[test]
    fn cancelled_sender_passes_its_slot_on() {
        let (sender, mut receiver) = mpsc::channel(1);
        let log = Log::default();
        sender.try_send(0).expect("room");
        let (mut first, mut second) = (Box::pin(sender.send(1)), Box::pin(sender.send(2)));
        assert!(poll(first.as_mut(), &log.waker(1)).is_pending());
        assert!(poll(second.as_mut(), &log.waker(2)).is_pending());
        assert_eq!(ready(receiver.recv()), Some(0));
        drop(first); // granted, not taken
        assert_eq!(log.woken(), [1, 2]);
        assert_eq!(poll(second.as_mut(), &log.waker(2)), Poll::Ready(Ok(())));
        assert_eq!(ready(receiver.recv()), Some(2), "the cancelled value was never sent");
        let mut third = Box::pin(sender.send(3));
        assert_eq!(poll(third.as_mut(), &log.waker(3)), Poll::Ready(Ok(())));
        sender.try_send(4).expect_err("the bound still holds");
    }

    #[test]
    fn cancelled_sender_without_others_frees_the_slot() {
        let (sender, mut receiver) = mpsc::channel(1);
        sender.try_send(0).expect("room");
        let mut waiting = Box::pin(sender.send(1));
        assert!(poll(waiting.as_mut(), Waker::noop()).is_pending());
        assert_eq!(receiver.try_recv(), Ok(0));
        drop(waiting);
        sender.try_send(2).expect("the slot is free again");
        assert_eq!(receiver.try_recv(), Ok(2));
    }

    #[test]
    fn receiver_ends_when_the_last_sender_goes() {
        let (sender, mut receiver) = mpsc::channel(4);
        let log = Log::default();
        let other = sender.clone();
        sender.try_send(1).expect("room");
        drop(sender);
        assert_eq!(ready(receiver.recv()), Some(1));
        let waker = log.waker(7);
        assert!(receiver.poll_recv(&mut Context::from_waker(&waker)).is_pending());
        drop(other);
        assert_eq!(log.woken(), [7]);
        assert_eq!(ready(receiver.recv()), None);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn weak_sender_does_not_keep_it_open() {
        let (sender, mut receiver) = mpsc::channel(4);
        let weak = sender.downgrade();
        weak.upgrade().expect("a sender lives").try_send(1).expect("room");
        drop(sender);
        assert!(weak.upgrade().is_none());
        assert!(weak.clone().upgrade().is_none());
        assert_eq!(ready(receiver.recv()), Some(1));
        assert_eq!(ready(receiver.recv()), None);
    }

    #[test]
    fn senders_learn_that_the_receiver_is_gone() {
        let (sender, receiver) = mpsc::channel(1);
        let log = Log::default();
        sender.try_send(0).expect("room");
        let mut waiting = Box::pin(sender.send(1));
        assert!(poll(waiting.as_mut(), &log.waker(1)).is_pending());
        drop(receiver);
        assert_eq!(log.woken(), [1]);
        assert_eq!(poll(waiting.as_mut(), &log.waker(1)), Poll::Ready(Err(mpsc::SendError(1))));
        assert_eq!(sender.try_send(2), Err(TrySendError::Closed(2)));
        assert!(sender.is_closed());
    }

    #[test]
    fn closed_receiver_still_gets_what_was_queued() {
        let (sender, mut receiver) = mpsc::channel(2);
        sender.try_send(1).expect("room");
        receiver.close();
        assert_eq!(sender.try_send(2), Err(TrySendError::Closed(2)));
        assert_eq!(ready(receiver.recv()), Some(1));
        assert_eq!(ready(receiver.recv()), None);
    }

    #[test]
    fn queued_values_may_use_the_channel_when_they_drop() {
        struct Sends(mpsc::Sender<Option<Sends>>);
        impl Drop for Sends {
            fn drop(&mut self) {
                assert!(self.0.try_send(None).is_err(), "the receiver is gone");
            }
        }
        let (sender, receiver) = mpsc::channel(2);
        assert!(sender.try_send(Some(Sends(sender.clone()))).is_ok());
        drop(receiver);
    }
}

mod one_value {
    use super::*;

    #[test]
    fn value_wakes_the_receiver() {
        let (sender, mut receiver) = oneshot::channel();
        let log = Log::default();
        assert!(poll(Pin::new(&mut receiver), &log.waker(1)).is_pending());
        sender.send(5).expect("the receiver lives");
        assert_eq!(log.woken(), [1]);
        assert_eq!(ready(receiver), Ok(5));
    }

    #[test]
    fn each_end_learns_that_the_other_is_gone() {
        let (sender, receiver) = oneshot::channel::<u32>();
        drop(sender);
        assert_eq!(ready(receiver), Err(oneshot::RecvError));

        let (sender, receiver) = oneshot::channel();
        assert!(!sender.is_closed());
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.send(5), Err(5));
    }

    #[test]
    fn unread_value_is_dropped_with_the_receiver() {
        let value = Rc::new(());
        let (sender, receiver) = oneshot::channel();
        sender.send(value.clone()).expect("the receiver lives");
        drop(receiver);
        assert_eq!(Rc::strong_count(&value), 1);
    }
}

mod latest {
    use super::*;

    #[test]
    fn unseen_value_completes_at_once_and_only_once() {
        let (sender, mut receiver) = watch::channel(0);
        assert!(waits(receiver.changed()), "the first value counts as seen");
        sender.send(1).expect("a receiver lives");
        sender.send(2).expect("a receiver lives");
        assert!(receiver.has_changed());
        assert_eq!(*receiver.borrow(), 2);
        ready(receiver.changed()).expect("open");
        assert!(waits(receiver.changed()), "two sends, one change");
        sender.send(3).expect("a receiver lives");
        assert_eq!(*receiver.borrow_and_update(), 3);
        assert!(waits(receiver.changed()), "seen by borrow_and_update");
    }

    #[test]
    fn receivers_are_woken_in_order_and_clones_keep_what_they_saw() {
        let (sender, receiver) = watch::channel(0);
        let log = Log::default();
        let mut receivers = [receiver.clone(), receiver.clone(), receiver];
        let mut waiting: Vec<_> = receivers.iter_mut().map(|r| Box::pin(r.changed())).collect();
        for (name, changed) in (0..).zip(&mut waiting) {
            assert!(poll(changed.as_mut(), &log.waker(name)).is_pending());
        }
        sender.send(1).expect("receivers live");
        assert_eq!(log.woken(), [0, 1, 2]);
        assert_eq!(poll(waiting[1].as_mut(), &log.waker(1)), Poll::Ready(Ok(())));
        drop(waiting);
        assert!(!receivers[1].clone().has_changed());
        assert!(receivers[0].clone().has_changed());
        assert!(!sender.subscribe().has_changed(), "a new receiver has seen what is there");
    }

    #[test]
    fn silent_modification_wakes_nobody() {
        let (sender, mut receiver) = watch::channel(0);
        let log = Log::default();
        let mut changed = Box::pin(receiver.changed());
        assert!(poll(changed.as_mut(), &log.waker(1)).is_pending());
        assert!(!sender.send_if_modified(|value| {
            *value = 5;
            false
        }));
        assert!(log.woken().is_empty());
        assert!(sender.send_if_modified(|value| {
            *value += 1;
            true
        }));
        assert_eq!(log.woken(), [1]);
        drop(changed);
        assert_eq!(*receiver.borrow(), 6);
    }

    #[test]
    fn last_value_is_seen_before_the_end() {
        let (sender, mut receiver) = watch::channel(0);
        let other = sender.clone();
        other.send(1).expect("a receiver lives");
        drop((sender, other));
        ready(receiver.changed()).expect("the last value first");
        assert_eq!(ready(receiver.changed()), Err(watch::RecvError));
    }

    #[test]
    fn end_wakes_who_waits() {
        let (sender, mut receiver) = watch::channel(0);
        let log = Log::default();
        let mut changed = Box::pin(receiver.changed());
        assert!(poll(changed.as_mut(), &log.waker(1)).is_pending());
        drop(sender);
        assert_eq!(log.woken(), [1]);
        assert_eq!(poll(changed.as_mut(), &log.waker(1)), Poll::Ready(Err(watch::RecvError)));
    }

    #[test]
    fn send_without_receivers_gives_the_value_back() {
        let (sender, receiver) = watch::channel(0);
        drop(receiver);
        assert_eq!(sender.send(1), Err(watch::SendError(1)));
        assert!(sender.send_if_modified(|value| {
            *value = 2;
            true
        }));
        let receiver = sender.subscribe();
        assert_eq!((*receiver.borrow(), *sender.borrow()), (2, 2));
    }
}

mod lock {
    use super::*;

    #[test]
    fn turns_pass_in_the_order_of_asking() {
        let (mutex, log) = (Mutex::new(0), Log::default());
        let mut guard = ready(mutex.lock());
        *guard += 1;
        assert!(mutex.try_lock().is_none());
        let (mut first, mut second) = (Box::pin(mutex.lock()), Box::pin(mutex.lock()));
        assert!(poll(first.as_mut(), &log.waker(1)).is_pending());
        assert!(poll(second.as_mut(), &log.waker(2)).is_pending());
        drop(guard);
        assert_eq!(log.woken(), [1]);
        assert!(mutex.try_lock().is_none(), "it is the first waiter's, taken or not");
        assert!(poll(second.as_mut(), &log.waker(2)).is_pending());
        let Poll::Ready(guard) = poll(first.as_mut(), &log.waker(1)) else { panic!("its turn") };
        assert_eq!(*guard, 1);
        drop(guard);
        assert_eq!(log.woken(), [2]);
        assert!(poll(second.as_mut(), &log.waker(2)).is_ready());
        assert!(mutex.try_lock().is_some());
    }

    #[test]
    fn turn_of_a_dropped_waiter_passes_on() {
        let (mutex, log) = (Mutex::new(()), Log::default());
        let guard = ready(mutex.lock());
        let (mut first, mut second) = (Box::pin(mutex.lock()), Box::pin(mutex.lock()));
        assert!(poll(first.as_mut(), &log.waker(1)).is_pending());
        assert!(poll(second.as_mut(), &log.waker(2)).is_pending());
        drop(guard);
        drop(first);
        assert_eq!(log.woken(), [1, 2]);
        drop(second);
        assert!(mutex.try_lock().is_some(), "nobody waits any more");
    }
}

/// Random sends, receives and cancellations: every value that was not cancelled arrives once, and every sender is served.
#[test]
fn queue_loses_nothing_under_random_cancellation() {
    for seed in 1..=200u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = |sides: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % sides as u64).expect("a few sides")
        };
        let (sender, mut receiver) = mpsc::channel(3);
        let received = RefCell::new(Vec::new());
        let mut waiting: Vec<(u32, Pin<Box<mpsc::Send<'_, u32>>>)> = Vec::new();
        let (mut next, mut cancelled) = (0, Vec::new());
        for _ in 0..200 {
            match roll(4) {
                0 | 1 => {
                    let mut send = Box::pin(sender.send(next));
                    if poll(send.as_mut(), Waker::noop()).is_pending() {
                        waiting.push((next, send));
                    }
                    next += 1;
                }
                2 => received.borrow_mut().extend(receiver.try_recv().ok()),
                _ if !waiting.is_empty() => {
                    let at = roll(waiting.len());
                    cancelled.push(waiting.remove(at).0);
                }
                _ => {}
            }
            if roll(2) == 0 {
                waiting.retain_mut(|(_, send)| poll(send.as_mut(), Waker::noop()).is_pending());
            }
        }
        loop {
            waiting.retain_mut(|(_, send)| poll(send.as_mut(), Waker::noop()).is_pending());
            match receiver.try_recv() {
                Ok(value) => received.borrow_mut().push(value),
                Err(_) => break,
            }
        }
        assert!(waiting.is_empty(), "seed {seed}: a sender was never served");
        let expected: Vec<u32> = (0..next).filter(|value| !cancelled.contains(value)).collect();
        received.borrow_mut().sort_unstable();
        assert_eq!(*received.borrow(), expected, "seed {seed}");
    }
}
