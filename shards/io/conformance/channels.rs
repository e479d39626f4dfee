//! The channels on this executor's wakes (their own tests run them without one).

use std::rc::Rc;

use super::{Env, World, once};
use crate::io::channel::{Notify, mpsc};

pub(super) async fn senders_are_served_in_the_order_of_asking<E: Env>(_: &impl World<E>) {
    let (sender, mut receiver) = mpsc::channel(2);
    for number in 0..32 {
        let sender = sender.clone();
        E::spawn(async move { sender.send(number).await.expect("the receiver lives") });
    }
    drop(sender);
    let mut received = Vec::new();
    while let Some(number) = receiver.recv().await {
        received.push(number);
    }
    assert_eq!(received, (0..32).collect::<Vec<_>>());
}

pub(super) async fn cancelled_waiter_passes_its_turn_on<E: Env>(_: &impl World<E>) {
    let bell = Rc::new(Notify::new());
    let (rang, mut rung) = mpsc::channel(1);
    let mut first = Box::pin(bell.notified());
    assert!(once(first.as_mut()).await.is_none(), "nobody has rung yet");
    let second = bell.clone();
    E::spawn(async move {
        second.notified().await;
        rang.try_send(()).expect("room for one");
    });
    E::yield_now().await;
    bell.notify_one();
    drop(first);
    assert_eq!(rung.recv().await, Some(()));
}
