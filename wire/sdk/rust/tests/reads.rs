//! Reads with a contract, as the SDK asks for them: sessions and their tokens, whom it asks when a node is not fresh enough or not well, and
//! what it does with a topology that it is told, or cannot ask for.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;
#[path = "reads/scans.rs"]
mod scans;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fake::{Act, Asked, Ring};
use ringbeam_sdk::{Client, Code, Consistency, Error, GetOptions, Refusal, Token};
use ringbeam_wire::client as wire;

fn options(consistency: Consistency) -> GetOptions {
    GetOptions { consistency: Some(consistency), ..GetOptions::default() }
}

/// The reads so far: which node, and how fresh they had to be.
fn reads(ring: &Ring) -> Vec<(u64, wire::Consistency)> {
    let asked = ring.asked.lock().unwrap();
    let reads = asked.iter().filter_map(|(at, asked)| match asked {
        Asked::Get { consistency, .. } => Some((at.node, *consistency)),
        _ => None,
    });
    reads.collect()
}

fn aged(_: &Ring, _: fake::At, asked: &Asked) -> Option<Act> {
    match asked {
        Asked::Get { consistency: wire::Consistency::Session { index_min }, .. } => {
            Some(Act::Aged(b"v".to_vec(), index_min + 10, Some(7), false))
        }
        Asked::Get { .. } => Some(Act::Aged(b"v".to_vec(), 500, None, true)),
        _ => None,
    }
}

#[tokio::test]
async fn a_session_asks_for_what_it_has_written_and_seen_and_goes_on_elsewhere() {
    let ring = Ring::start(3, 1, aged).await;
    let client = Client::connect(&ring.endpoints().join(",")).await.unwrap();
    let session = client.namespace("carts").consistency(Consistency::Session);
    session.put("a", "1").await.unwrap();
    session.put("a", "2").await.unwrap();
    let read = session.read("a", &GetOptions::default()).await.unwrap();
    assert_eq!((read.index, read.age, read.stale), (12, Some(Duration::from_millis(7)), false));
    let value = session.get("a").await.unwrap().expect("the fake has everything");
    assert_eq!((value.index, value.age), (22, Some(Duration::from_millis(7))));
    // A client of the same session, by bytes; and one that has seen nothing.
    let token = Token::from_bytes(&session.session_token().to_bytes()).unwrap();
    let elsewhere = Client::connect(&ring.endpoints().join(",")).await.unwrap().with_token(&token).unwrap();
    elsewhere.get_with("a", &options(Consistency::Session)).await.unwrap();
    client.with_token(&Token::default()).unwrap().get_with("a", &options(Consistency::Session)).await.unwrap();
    let minima: Vec<u64> = reads(&ring)
        .iter()
        .map(|(_, consistency)| match consistency {
            wire::Consistency::Session { index_min } => *index_min,
            other => panic!("{other:?} is not what was asked for"),
        })
        .collect();
    assert_eq!(minima, [2, 12, 22, 0]);
    // Not of the session, and no default: what was said for the call.
    let read = session.read("a", &options(Consistency::Local)).await.unwrap();
    assert_eq!((read.age, read.stale, session.session_token().index_of(0)), (None, true, 500));
}

#[tokio::test]
async fn a_token_of_another_ring_is_refused() {
    let ring = Ring::start(1, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("a", "1").await.unwrap();
    let mut bytes = client.session_token().to_bytes();
    bytes[1] ^= 1;
    let body = bytes.len() - 4;
    let checksum = crc32fast::hash(&bytes[..body]).to_le_bytes();
    bytes[body..].copy_from_slice(&checksum);
    let foreign = Token::from_bytes(&bytes).unwrap();
    assert!(matches!(client.with_token(&foreign), Err(Error::Protocol(why)) if why.contains("ring")));
}

#[tokio::test]
async fn who_is_not_fresh_enough_sends_the_read_on_and_at_last_to_the_leader() {
    let ring = Ring::start(4, 1, |_, at, asked| match asked {
        Asked::Get { .. } if at.node != 1 => Some(Act::Refuse(Refusal::new(Code::NotFresh, "too far behind"))),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.endpoints().join(",")).await.unwrap();
    client.put("a", "1").await.unwrap();
    let bound = Consistency::bounded(Duration::from_millis(80));
    client.get_with("a", &options(bound)).await.unwrap();
    let asked = reads(&ring);
    assert_eq!(asked.last().unwrap().0, 1, "the leader has the last word: {asked:?}");
    assert!((2..=3).contains(&asked.len()), "two others at most come before: {asked:?}");
    let wanted = wire::Consistency::Bounded { age_ms_max: 80, stale_ok: false };
    assert!(asked.iter().all(|(_, consistency)| *consistency == wanted), "{asked:?}");
}

#[tokio::test]
async fn a_silent_node_delays_a_session_a_moment_only() {
    let ring = Ring::start(3, 1, |ring, at, asked| match asked {
        Asked::Get { .. } if at.node != 1 => Some(Act::Silence),
        Asked::Get { .. } => aged(ring, at, asked),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.endpoints().join(",")).await.unwrap().with_timeout(Duration::from_secs(20));
    let began = Instant::now();
    assert!(client.get_with("a", &options(Consistency::Session)).await.unwrap().is_some());
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?} to try another", began.elapsed());
}

#[tokio::test]
async fn a_node_that_fails_fast_attracts_no_reads() {
    let ring = Ring::start(3, 1, |_, at, asked| match asked {
        Asked::Get { .. } if at.node == 2 => Some(Act::Refuse(Refusal::new(Code::ShardFault, "its log is broken"))),
        Asked::Get { .. } => Some(Act::Later(Duration::from_millis(1), Box::new(Act::Value(Some(b"v".to_vec()))))),
        _ => None,
    })
    .await;
    // It is the one of the client's own region, and by far the quickest.
    let client = Client::builder().endpoints(ring.endpoints()).region("r2").connect().await.unwrap();
    for _ in 0..500 {
        assert!(client.get_with("k", &options(Consistency::Local)).await.unwrap().is_some());
    }
    let failed = reads(&ring).iter().filter(|(node, _)| *node == 2).count();
    assert!((1..=8).contains(&failed), "{failed} of 500 reads went to the broken node");
}

#[tokio::test]
async fn news_of_another_leader_is_followed_at_once() {
    // Node 1 does not notice that it leads no more: nothing but the news moves the writes.
    let ring = Ring::start(3, 1, |_, at, asked| match asked {
        Asked::Put { .. } if at.node == 1 => Some(Act::Written(wire::Written::default())),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("a", "1").await.unwrap();
    let polls = |ring: &Ring| ring.count(|_, asked| *asked == Asked::Topology);
    let before = polls(&ring);
    let streams = ring.count(|_, asked| *asked == Asked::Follow);
    assert_eq!(streams, ring.count(|_, asked| matches!(asked, Asked::Hello { .. })), "one stream a connection");
    ring.lead(2);
    ring.tell();
    let began = Instant::now();
    while ring.puts().last().unwrap().0 != 2 {
        client.put("b", "2").await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "the news is not followed");
    }
    assert_eq!(polls(&ring), before, "nobody was asked who leads");
    // Old news changes nothing. It comes before the answer to the first of these, on the same connection.
    ring.term.store(1, Ordering::SeqCst);
    ring.leader.store(1, Ordering::SeqCst);
    ring.tell();
    ring.leader.store(2, Ordering::SeqCst);
    for key in ["c", "d"] {
        client.put(key, "3").await.unwrap();
        assert_eq!(ring.puts().last().unwrap().0, 2);
    }
}

/// `RINGBEAM_CUT_SECONDS=3600` makes it an hour.
#[tokio::test]
async fn without_any_control_traffic_calls_go_on_from_the_last_topology() {
    static CUT: AtomicBool = AtomicBool::new(false);
    let seconds = std::env::var("RINGBEAM_CUT_SECONDS").map_or(3, |seconds| seconds.parse().expect("whole seconds"));
    let ring = Ring::start(3, 1, |ring, at, asked| match asked {
        Asked::Topology | Asked::Follow if CUT.load(Ordering::SeqCst) => Some(Act::Silence),
        // A node that has gone: the one that led before.
        Asked::Hello { .. } | Asked::Put { .. } if ring.leader.load(Ordering::SeqCst) == at.node % 3 + 1 => Some(Act::Close),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap().with_timeout(Duration::from_secs(20));
    client.put("a", "1").await.unwrap();
    CUT.store(true, Ordering::SeqCst);
    let (began, length) = (Instant::now(), Duration::from_secs(seconds));
    let (mut calls, mut longest) = (0_u32, Duration::ZERO);
    while began.elapsed() < length {
        // Six times its leader dies, and nobody says who is next: whoever is asked for the write itself does.
        let leader = u64::from((began.elapsed() * 7).div_duration_f32(length) as u32) % 3 + 1;
        if ring.leader.load(Ordering::SeqCst) != leader {
            ring.lead(leader);
        }
        let called = Instant::now();
        client.put("b", calls.to_string()).await.unwrap();
        assert_eq!(ring.puts().last().unwrap().0, leader);
        let linear = client.get("b").await.unwrap();
        let local = client.get_with("b", &options(Consistency::Local)).await.unwrap();
        assert!(linear.is_some() && local.is_some(), "call {calls}");
        longest = longest.max(called.elapsed());
        calls += 1;
        tokio::time::sleep(length / 3_000).await;
    }
    let polls = ring.count(|_, asked| matches!(asked, Asked::Topology | Asked::Follow));
    println!(
        "{calls} writes and twice as many reads in {length:?} without control traffic, {polls} times asked; longest {longest:?}"
    );
    assert!(calls > 100);
}
