//! Connecting: endpoints, Hello, and what refuses it.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fake::{Act, Asked, Ring};
use ringbeam_sdk::{Client, Code, Error, Refusal};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

#[tokio::test]
async fn one_endpoint_that_answers_is_enough() {
    let ring = Ring::start(3, 1, |_, _, _| None).await;
    let endpoints = format!("{}, {},", fake::nobody().await, ring.address(2));
    let client = Client::connect(&endpoints).await.unwrap();
    client.put("k", "v").await.unwrap();
}

#[tokio::test]
async fn endpoints_that_do_not_answer_are_named() {
    let (one, other) = (fake::nobody().await, fake::nobody().await);
    let started = Instant::now();
    match Client::builder().endpoints([one.to_string(), other.to_string()]).connect().await {
        Err(Error::Connect(why)) => {
            assert!(why.contains(&one.to_string()) && why.contains(&other.to_string()), "{why}");
        }
        other => panic!("expected no connection, got {other:?}"),
    }
    assert!(started.elapsed() < Duration::from_secs(1), "a refused connection is no reason to wait");
    assert!(matches!(Client::connect(" , ").await, Err(Error::Connect(why)) if why.contains("empty")));
}

async fn refused_with(code: Code) -> Error {
    let ring = Ring::start(1, 1, move |_, _, asked| match asked {
        Asked::Hello { .. } => Some(Act::Refuse(Refusal::new(code, "as the test wants it"))),
        _ => None,
    })
    .await;
    Client::connect(&ring.address(1)).await.unwrap_err()
}

#[tokio::test]
async fn refusals_of_hello_reach_the_caller() {
    for code in [Code::UnsupportedVersion, Code::HelloFirst, Code::WrongRing] {
        match refused_with(code).await {
            Error::Refused(refusal) => assert_eq!(refusal.code, code),
            other => panic!("expected {code}, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_expected_ring_is_sent_and_checked() {
    let ring = Ring::start(2, 1, |_, _, _| None).await;
    let wrong = Client::builder().endpoints(ring.endpoints()).ring(7).connect().await;
    assert!(matches!(wrong, Err(Error::Protocol(why)) if why.contains("expected was 7")));
    assert_eq!(ring.count(|_, asked| matches!(asked, Asked::Hello { ring: 7, .. })), 2);
    let right = Client::builder().endpoints(ring.endpoints()).ring(fake::RING).connect().await.unwrap();
    right.put("k", "v").await.unwrap();
}

#[tokio::test]
async fn later_connections_ask_for_the_ring_that_answered_first() {
    let ring = Ring::start(2, 2, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    for n in 0..20 {
        client.put(format!("{n}"), "v").await.unwrap();
    }
    assert!(ring.count(|at, asked| at.shard == 1 && matches!(asked, Asked::Hello { ring: fake::RING, .. })) > 0);
}

#[tokio::test]
async fn what_is_not_ringbeam_is_said_to_be_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    match Client::connect(&address).await {
        Err(Error::Protocol(why)) => assert!(why.contains(&address), "{why}"),
        other => panic!("expected a protocol error, got {other:?}"),
    }
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_costs_no_more_than_a_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let started = Instant::now();
    let mute = listener.local_addr().unwrap().to_string();
    let failed = Client::builder().endpoints([mute]).timeout(Duration::from_millis(200)).connect().await;
    assert!(matches!(failed, Err(Error::Connect(_))));
    assert!(started.elapsed() < Duration::from_millis(500));
}

/// Calls that had to wait for a leader are spread over the time that there was none. Who calls when there is one has waited for nothing,
/// however long ago the client came, or the leader before went.
#[tokio::test]
async fn who_calls_when_there_is_a_leader_does_not_wait() {
    let ring = Ring::start(3, 1, |_, _, _| None).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::connect(&ring.address(2)).await.unwrap());
    }
    for leader in [1, 3, 2] {
        ring.lead(leader);
        ring.tell();
        tokio::time::sleep(Duration::from_millis(400)).await;
        for client in &clients {
            let started = Instant::now();
            client.put("k", "v").await.unwrap();
            assert!(started.elapsed() < Duration::from_millis(100), "node {leader}, a call after {:?}", started.elapsed());
        }
    }
}

/// A dial outlives who wanted it. When it came to its end after the client was gone, nobody ever closed what it had opened: a socket, a task
/// and a place at the node for each such client.
#[tokio::test]
async fn a_connection_that_opens_after_its_client_is_gone_is_closed() {
    let ring = Ring::start(2, 1, |ring, at, asked| match asked {
        Asked::Hello { .. } if at.node == 2 => Some(Act::Later(Duration::from_millis(500), Box::new(ring.usual(at, asked)))),
        _ => None,
    })
    .await;
    let dialled = async |dials| {
        while ring.count(|at, asked| at.node == 2 && matches!(asked, Asked::Hello { .. })) < dials {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let all_closed = async |whose: &str| {
        let began = Instant::now();
        while ring.open.load(Ordering::SeqCst) > 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "{whose}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Node 1 answers first, and the client goes while node 2 has still to say welcome.
    let client = Client::builder().endpoints(ring.endpoints()).connect().await.unwrap();
    dialled(1).await;
    drop(client);
    all_closed("of a client that was dropped").await;
    // There is no client yet, and the time to find one is over.
    let late = Client::builder().endpoints([ring.address(2)]).timeout(Duration::from_millis(100)).connect().await;
    assert!(matches!(late, Err(Error::Connect(_))), "{late:?}");
    dialled(2).await;
    all_closed("of a client that found no ring in time").await;
    // Nobody waits for it any more.
    let endpoint = ring.address(2);
    let given_up = tokio::spawn(async move { Client::connect(&endpoint).await });
    dialled(3).await;
    given_up.abort();
    all_closed("of a client that was given up").await;
}
