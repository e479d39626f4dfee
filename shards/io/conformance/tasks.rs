//! Clock, tasks and random numbers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::{Env, World};
use crate::io::Disk;
use crate::io::channel::{Notify, mpsc};

pub(super) async fn now_never_goes_back<E: Env>(_: &impl World<E>) {
    let mut before = E::now();
    for _ in 0..1_000 {
        let now = E::now();
        assert!(now >= before, "now went from {before:?} to {now:?}");
        before = now;
    }
}

pub(super) async fn sleep_is_never_early<E: Env>(_: &impl World<E>) {
    for micros in [0, 1, 300, 1_000, 7_500] {
        let duration = Duration::from_micros(micros);
        let began = E::now();
        E::sleep(duration).await;
        let slept = E::now().since(began);
        assert!(slept >= duration, "slept {slept:?} instead of {duration:?}");
    }
}

pub(super) async fn sleeps_end_in_the_order_of_their_ends<E: Env>(_: &impl World<E>) {
    let (ended, mut ends) = mpsc::channel(4);
    for millis in [40, 10, 30, 20] {
        let ended = ended.clone();
        E::spawn(async move {
            E::sleep(Duration::from_millis(millis)).await;
            ended.try_send(millis).expect("room for all");
        });
    }
    for expected in [10, 20, 30, 40] {
        assert_eq!(ends.recv().await, Some(expected));
    }
}

pub(super) async fn spawned_task_waits_until_its_spawner_does<E: Env>(_: &impl World<E>) {
    let ran = Rc::new(Cell::new(false));
    let seen = ran.clone();
    E::spawn(async move { seen.set(true) });
    assert!(!ran.get(), "the task ran inside spawn, in the middle of its spawner's borrows");
    E::yield_now().await;
    assert!(ran.get(), "the task was ready and did not run");
}

pub(super) async fn tasks_run_in_the_order_of_their_wakes<E: Env>(_: &impl World<E>) {
    let order = Rc::new(RefCell::new(Vec::new()));
    let bells: Vec<_> = (0..8).map(|_| Rc::new(Notify::new())).collect();
    for (number, bell) in bells.iter().cloned().enumerate() {
        let order = order.clone();
        E::spawn(async move {
            bell.notified().await;
            order.borrow_mut().push(number);
        });
    }
    E::yield_now().await;
    let rung = [3, 0, 7, 5, 1, 6, 2, 4];
    for number in rung {
        bells[number].notify_one();
    }
    E::yield_now().await;
    assert_eq!(*order.borrow(), rung);
}

pub(super) async fn yield_lets_every_ready_task_run<E: Env>(_: &impl World<E>) {
    let turns = Rc::new(Cell::new(0));
    for round in 1..=50 {
        for _ in 0..16 {
            let turns = turns.clone();
            E::spawn(async move { turns.set(turns.get() + 1) });
        }
        E::yield_now().await;
        assert_eq!(turns.get(), 16 * round, "tasks that have run after {round} yields");
    }
}

pub(super) async fn yielding_tasks_do_not_silence_clock_and_disk<E: Env>(world: &impl World<E>) {
    let over = Rc::new(Cell::new(false));
    for _ in 0..4 {
        let over = over.clone();
        E::spawn(async move {
            while !over.get() {
                E::yield_now().await;
            }
        });
    }
    let disk = world.disk();
    for _ in 0..5 {
        E::sleep(Duration::from_millis(1)).await;
        disk.create_dir("busy").await.expect("create_dir");
    }
    over.set(true);
}

pub(super) async fn random_numbers_differ<E: Env>(_: &impl World<E>) {
    let mut numbers: Vec<u64> = (0..1_000).map(|_| E::random()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 1_000, "a thousand 64-bit numbers had duplicates");
    let ones: u32 = numbers.iter().map(|n| n.count_ones()).sum();
    assert!((31_000..33_000).contains(&ones), "{ones} of 64,000 bits are set");
}
