//! A driver that is stepped by hand, over a real socket, so that what happens between two of its steps can be chosen.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::time::Duration;

use ringbeam_wire::client::{Encoder, Welcome, parse_request};
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

fn poll(call: &mut Pin<Box<Call<'_>>>) -> Poll<Outcome> {
    call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Lets time pass and the runtime notice, without a step of the driver.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
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
