//! The blocking client: the same ring, without async.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fake::{Act, Asked, Ring};
use ringbeam_sdk::blocking::Client;
use ringbeam_sdk::{Error, PutOptions};

/// A ring in a thread of its own, for as long as the test runs.
fn ring(nodes: u64, script: impl Fn(&Ring, fake::At, &Asked) -> Option<Act> + Send + Sync + 'static) -> Arc<Ring> {
    let (started, start) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            started.send(Ring::start(nodes, 2, script).await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    start.recv().unwrap()
}

/// One test at a time: one of them counts threads.
static ALONE: Mutex<()> = Mutex::new(());

/// Threads of this process that drive blocking clients.
fn drivers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "ringbeam-client").count()
}

/// Waits until there are none.
fn gone() {
    let until = Instant::now() + Duration::from_secs(5);
    while drivers() > 0 && Instant::now() < until {
        thread::yield_now();
    }
    assert_eq!(drivers(), 0, "threads are left");
}

#[test]
fn calls_wait_and_many_threads_share_one_client() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let ring = ring(3, |_, _, _| None);
    let client = Client::connect(&ring.address(2)).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let client = client.clone();
            thread::spawn(move || {
                for n in 0..50 {
                    client.put(format!("{thread}/{n}"), "v").unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(ring.applied(), 400, "each write once");
    assert_eq!(&client.get("3/7").unwrap().unwrap().value[..], b"v");
    assert!(client.delete("3/7").unwrap().existed && client.get("3/7").unwrap().is_none());
    client.namespace("other").put_with("k", "v", &PutOptions::default()).unwrap();
    let named = |_, asked: &Asked| matches!(asked, Asked::Put { namespace, .. } if namespace == "other");
    assert_eq!(ring.count(named), 1);
    assert!(client.wait(client.within().ping(0)).unwrap() < Duration::from_secs(1), "what has no method of its own");
    let hellos = |asked: &Asked| matches!(asked, Asked::Hello { .. });
    assert!(ring.count(|_, asked| hellos(asked)) <= 6, "connections are shared: {}", ring.count(|_, asked| hellos(asked)));
}

#[test]
fn deadlines_hold_and_the_threads_end_with_the_last_clone() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let ring = ring(1, |_, _, asked| matches!(asked, Asked::Get { .. }).then_some(Act::Silence));
    // Clients of the tests before end by themselves.
    gone();
    let client = Client::connect(&ring.address(1)).unwrap();
    let hasty = client.with_timeout(Duration::from_millis(100));
    let started = Instant::now();
    assert!(matches!(hasty.get("k"), Err(Error::Timeout { timeout_ms: 100, .. })));
    assert!(started.elapsed() < Duration::from_millis(400), "{:?}", started.elapsed());
    drop(client);
    assert_eq!(drivers(), 1, "a clone is left");
    assert!(matches!(hasty.get("k"), Err(Error::Timeout { .. })), "and works");
    drop(hasty);
    gone();
}

#[test]
fn inside_a_runtime_every_call_is_an_error_and_no_panic() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let ring = ring(1, |_, _, _| None);
    let client = Client::connect(&ring.address(1)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let misuse = |result: Result<(), Error>| match result {
        Err(Error::Misuse(why)) => assert!(why.contains("inside a tokio runtime"), "{why}"),
        other => panic!("expected an error about the runtime, got {other:?}"),
    };
    runtime.block_on(async {
        misuse(client.put("k", "v").map(drop));
        misuse(client.get("k").map(drop));
        misuse(client.status().map(drop));
        misuse(client.scan(ringbeam_sdk::Range::all()).next().unwrap().map(drop));
        misuse(Client::connect(&ring.address(1)).map(drop));
        let (inside, address) = (client.clone(), ring.address(1));
        tokio::spawn(async move { inside.put("k", "v").map(drop) }).await.map(misuse).unwrap();
        let inside = client.clone();
        tokio::task::spawn_blocking(move || inside.put("k", "v").map(drop)).await.map(misuse).unwrap();
        drop(Client::connect(&address));
    });
    client.put("k", "v").unwrap();
    assert_eq!(ring.puts().len(), 1, "nothing else was sent");
    // The last clone may go anywhere.
    runtime.block_on(async move { drop(client) });
}
