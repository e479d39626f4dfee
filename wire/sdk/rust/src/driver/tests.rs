//! A driver that is stepped by hand, over a real socket, so that what happens between two of its steps can be chosen.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::sync::Mutex;
use std::task::Wake;
use std::time::Duration;

use ringbeam_wire::client::{Encoder, ReplyBody, Welcome, parse_request};
use ringbeam_wire::limits::REPLY_FRAME_BYTES_MAX;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::connection::{Call, Doubt};

/// What nothing here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection, its driver, and the node's end.
async fn connected() -> (Arc<Connection>, Driver, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (ours, node) = tokio::join!(TcpStream::connect(&address), listener.accept());
    let (reader, writer) = ours.unwrap().into_split();
    let (welcome, encoder) = (Welcome::default(), Encoder::new());
    let connection = Connection::new((&*address).into(), welcome, writer, encoder, Doubt::default(), Arc::default());
    let connection = Arc::new(connection);
    let driver = Driver::new(connection.clone(), reader, Decoder::new(REPLY_FRAME_BYTES_MAX as usize));
    (connection, driver, node.unwrap().0)
}

fn ping(connection: &Connection, until: Instant) -> Pin<Box<Call<'_>>> {
    Box::pin(connection.call(RequestBody::Ping, until, 1))
}

fn poll(call: &mut Pin<Box<Call<'_>>>) -> Poll<Outcome> {
    call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Lets time pass and the runtime notice, without a step of the driver.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A caller that asks again as soon as it is woken, on whatever thread wakes it.
struct AsksAgain(Arc<Connection>, Mutex<Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>>);

impl Wake for AsksAgain {
    fn wake(self: Arc<Self>) {
        let connection = self.0.clone();
        let mut again: Pin<Box<dyn Future<Output = Outcome> + Send>> = Box::pin(async move {
            let until = Instant::now() + 3 * SWEEP;
            connection.call(RequestBody::Ping, until, 1).await
        });
        assert!(again.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        *self.1.lock().unwrap() = Some(again);
    }
}

/// A lone call writes itself. One that did so after the driver had found nobody to sweep for, and before it slept, woke nobody: the driver
/// slept without a timer, and at a node that had fallen silent the call never ended.
#[tokio::test]
async fn a_call_that_comes_between_the_sweep_and_the_sleep_ends_by_its_deadline() {
    let (connection, mut driver, _mute) = connected().await;
    let mut cx = Context::from_waker(Waker::noop());
    let again = Arc::new(AsksAgain(connection.clone(), Mutex::default()));
    let waker = Waker::from(again.clone());
    let mut first = ping(&connection, Instant::now());
    assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(driver.turn(&mut cx).is_pending());
    // This one has to wake the driver, which so has nobody else to be woken by.
    let mut second = ping(&connection, Instant::now());
    assert!(poll(&mut second).is_pending() && connection.lock().driver.is_none());
    pass(3 * SWEEP).await;
    // From here on as in life: it has a turn when something wakes it.
    tokio::spawn(async move { poll_fn(|cx| driver.turn(cx)).await });
    let third = loop {
        pass(SWEEP).await;
        if let Some(third) = again.1.lock().unwrap().take() {
            break third;
        }
    };
    assert!(matches!(poll(&mut second), Poll::Ready(Outcome::DeadlinePassed)));
    let outcome = tokio::time::timeout(PATIENCE, third).await.expect("somebody ends the call");
    assert!(matches!(outcome, Outcome::DeadlinePassed));
}

/// Deadlines were looked at only once nothing more was there to be read.
#[tokio::test]
async fn deadlines_are_kept_in_a_stream_of_replies_without_end() {
    let (connection, mut driver, node) = connected().await;
    let mut cx = Context::from_waker(Waker::noop());
    // To calls that went away. Each time as many as the socket takes, so that there is always more than one read of them.
    let mut replies = Vec::new();
    while replies.len() < 1 << 20 {
        Encoder::new().reply(&mut replies, NOBODY, &ReplyBody::Done { message: "x".repeat(1 << 10) });
    }
    let mut at = 0;
    let mut call = ping(&connection, Instant::now() + 3 * SWEEP);
    assert!(poll(&mut call).is_pending());
    let started = Instant::now();
    node.writable().await.unwrap();
    while started.elapsed() < PATIENCE {
        while let Ok(bytes) = node.try_write(&replies[at..]) {
            at = (at + bytes) % replies.len();
        }
        // Real drivers let their callers run as well.
        tokio::task::yield_now().await;
        if let Poll::Ready(Err(why)) = driver.turn(&mut cx) {
            panic!("{why}");
        }
        match poll(&mut call) {
            Poll::Ready(Outcome::DeadlinePassed) => return,
            Poll::Ready(other) => panic!("{other:?}"),
            Poll::Pending => {}
        }
    }
    panic!("not swept in {PATIENCE:?}");
}

/// Whoever closed a connection told the calls of a half-written piece that they had not been sent, and then the driver sent them.
#[tokio::test]
async fn what_was_said_not_to_be_sent_is_not_sent() {
    let (connection, mut driver, mut node) = connected().await;
    let mut cx = Context::from_waker(Waker::noop());
    let value = vec![b'v'; 64 << 10];
    let put = |key| {
        let put = ringbeam_wire::client::Put { key, value: &value, ..Default::default() };
        Box::pin(connection.call(RequestBody::Put(put), Instant::now() + PATIENCE, 1))
    };
    // More than the sockets hold, then one behind all that the driver has taken.
    let keys: Vec<String> = (0..400).map(|n| format!("{n}")).collect();
    let mut calls: Vec<_> = keys.iter().map(|key| put(key.as_bytes())).collect();
    let mut filled = 0;
    for call in &mut calls {
        assert!(poll(call).is_pending());
        filled += 1;
        if filled % 100 == 0 {
            assert!(driver.turn(&mut cx).is_pending());
        }
        if connection.lock().writing {
            break;
        }
    }
    assert!(connection.lock().writing, "the sockets hold less than 25 MiB");
    assert!(poll(&mut calls[filled]).is_pending());
    connection.close("as the test wants it");
    let unsent: Vec<usize> = (0..=filled)
        .filter(|at| match poll(&mut calls[*at]) {
            Poll::Ready(Outcome::Lost { sent }) => !sent,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(unsent.contains(&filled), "nobody has begun to write the last one");
    // The node takes everything, so the driver could go on.
    let mut decoder = Decoder::new(1 << 20);
    let mut reached = Vec::new();
    let mut driving = std::pin::pin!(async {
        connection.writer.writable().await.unwrap();
        while poll_fn(|cx| driver.turn(cx)).await.is_ok() {}
        connection.lock().sent
    });
    let (mut received, mut sent) = (0, None);
    while sent.is_none_or(|sent| received < sent) {
        tokio::select! {
            end = &mut driving, if sent.is_none() => sent = Some(end),
            bytes = node.read(decoder.space()) => {
                received += bytes.as_ref().map_or(0, |bytes| *bytes as u64);
                decoder.filled(bytes.unwrap());
            }
            () = pass(PATIENCE) => panic!("{received} bytes of {sent:?} have come"),
        }
        while let Some(payload) = decoder.next().unwrap() {
            let RequestBody::Put(put) = parse_request(&payload).unwrap().body else { panic!("only puts were sent") };
            reached.push(String::from_utf8_lossy(put.key).parse::<usize>().unwrap());
        }
    }
    let lied: Vec<&usize> = unsent.iter().filter(|at| reached.contains(at)).collect();
    assert!(lied.is_empty(), "{lied:?} were said not to be sent");
}
