//! Calls against a ring in trouble: redirects, lost connections, deadlines, refusals, expired sessions.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fake::{Act, Asked, Ring};
use ringbeam_sdk::{Client, Code, Error, GetOptions, Refusal, Topology};
use ringbeam_wire::client::Welcome;

fn is_write(asked: &Asked) -> bool {
    matches!(asked, Asked::Put { .. } | Asked::Delete { .. })
}

#[tokio::test]
async fn a_redirect_with_an_address_is_followed() {
    let ring = Ring::start(3, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("a", "1").await.unwrap();
    ring.lead(3);
    client.put("b", "2").await.unwrap();
    client.put("c", "3").await.unwrap();
    let nodes: Vec<(u64, u64)> = ring.puts().iter().map(|&(node, _, sequence, _)| (node, sequence)).collect();
    assert_eq!(nodes, [(1, 1), (1, 2), (3, 2), (3, 3)], "the redirected write keeps its sequence");
    assert_eq!(
        ring.count(|at, asked| at.node == 2 && !matches!(asked, Asked::Hello { .. } | Asked::Topology | Asked::Follow)),
        0
    );
}

#[tokio::test]
async fn no_leader_yet_is_waited_for_with_backoff() {
    let ring = Ring::start(3, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("a", "1").await.unwrap();
    ring.lead(0);
    let elected = tokio::spawn({
        let ring = ring.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(400)).await;
            ring.lead(2);
        }
    });
    let started = Instant::now();
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.put(format!("{n}"), "v").await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    elected.await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(1_500), "found {:?} after the start", started.elapsed());
    assert_eq!(ring.applied(), 101);
    let questions = ring.count(|_, asked| *asked == Asked::Topology);
    assert!(questions < 300, "one task asks for all, not each for itself: {questions} questions");
}

/// Between regions a handshake takes longer than a call may: the search ran on its callers' time, one after the other, so none of them ever
/// ended one, and the client found its new leader only when it was restarted.
#[tokio::test]
async fn a_leader_is_found_that_takes_longer_to_reach_than_a_call_may_last() {
    let ring = Ring::start(2, 1, |ring, at, asked| match asked {
        Asked::Hello { .. } if at.node == 2 => Some(Act::Later(Duration::from_millis(400), Box::new(ring.usual(at, asked)))),
        Asked::Put { .. } if at.node == 1 && ring.leader.load(Ordering::SeqCst) == 2 => Some(Act::Close),
        _ => None,
    })
    .await;
    let client = Client::builder().endpoints([ring.address(1)]).timeout(Duration::from_millis(150)).connect().await.unwrap();
    client.put("before", "1").await.unwrap();
    ring.lead(2);
    let mut found = false;
    for n in 0..100 {
        found |= client.put(format!("{n}"), "v").await.is_ok();
        if found {
            break;
        }
    }
    assert!(found, "100 calls of 150 ms each did not find a leader that answers within 400 ms");
}

#[tokio::test]
async fn without_a_leader_the_call_ends_as_a_timeout() {
    let ring = Ring::start(3, 1, |_, _, _| None).await;
    ring.lead(0);
    let client = Client::builder().endpoints(ring.endpoints()).timeout(Duration::from_millis(300)).connect().await.unwrap();
    let started = Instant::now();
    match client.put("a", "1").await {
        Err(Error::Timeout { timeout_ms: 300, why }) => assert!(why.contains("no leader of shard 0"), "{why}"),
        other => panic!("expected a timeout, got {other:?}"),
    }
    assert!(started.elapsed() < Duration::from_millis(500));
}

#[tokio::test]
async fn writes_cut_in_flight_are_repeated_at_the_new_leader_with_the_same_sequence() {
    // Node 1 applies and dies before it answers; then it is gone from its clients' view.
    let ring = Ring::start(3, 1, |ring, at, asked| match asked {
        Asked::Put { key, .. } if key.starts_with(b"cut") && at.node == 1 => {
            ring.lead(2);
            Some(Act::ApplyAndClose)
        }
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("before", "1").await.unwrap();
    // ApplyAndClose changes the leader first, so the fake's node 1 does not apply; node 2 must.
    let written = client.put("cut", "2").await.unwrap();
    assert!(!written.duplicate);
    let puts: Vec<(u64, u64, u64)> =
        ring.puts().iter().map(|&(node, session, sequence, _)| (node, session, sequence)).collect();
    assert_eq!(puts, [(1, 1, 1), (1, 1, 2), (2, 1, 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_write_whose_answer_is_lost_is_applied_once() {
    static CUTS: AtomicU32 = AtomicU32::new(0);
    let ring = Ring::start(3, 2, |ring, at, asked| {
        let leads = ring.leader.load(Ordering::SeqCst) == at.node;
        if leads && is_write(asked) && CUTS.fetch_add(1, Ordering::SeqCst) % 80 == 9 {
            return Some(Act::ApplyAndClose);
        }
        None
    })
    .await;
    let client = Client::connect(&ring.endpoints().join(",")).await.unwrap();
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut duplicates = 0;
                for n in 0..20 {
                    duplicates += u32::from(client.put(format!("{task}/{n}"), "v").await.unwrap().duplicate);
                }
                duplicates
            })
        })
        .collect();
    let mut duplicates = 0;
    for task in tasks {
        duplicates += task.await.unwrap();
    }
    assert!(duplicates > 0, "some answers were lost and given again");
    assert_eq!(ring.applied(), 32 * 20, "each write was applied exactly once");
}

#[tokio::test]
async fn reads_cut_in_flight_are_repeated() {
    static CUT: AtomicU32 = AtomicU32::new(0);
    let ring = Ring::start(2, 1, |_, _, asked| match asked {
        Asked::Get { .. } if CUT.fetch_add(1, Ordering::SeqCst) < 2 => Some(Act::Close),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    assert!(client.get("k").await.unwrap().is_none());
}

#[tokio::test]
async fn the_deadline_is_honoured_and_says_what_is_certain() {
    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::Put { key, .. } | Asked::Get { key, .. } if key == b"slow" => Some(Act::Silence),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("k", "v").await.unwrap();
    let hasty = client.with_timeout(Duration::from_millis(100));
    let started = Instant::now();
    match hasty.put("slow", "v").await {
        Err(Error::Unknown { shard: 0, session: 1, sequence: 2, why }) => assert!(why.contains("in time"), "{why}"),
        other => panic!("expected an unknown outcome, got {other:?}"),
    }
    assert!(matches!(hasty.get("slow").await, Err(Error::Timeout { timeout_ms: 100, .. })));
    let both = started.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_millis(400)).contains(&both), "took {both:?}");
    client.put("k", "v").await.unwrap();
    let asked = ring.asked.lock().unwrap();
    let Some((_, Asked::Put { sequence: 3, below: 2, .. })) = asked.last() else {
        panic!("the lost write holds the floor, for whoever asks what became of it: {:?}", asked.last());
    };
}

#[tokio::test]
async fn a_server_that_says_too_late_makes_it_certain() {
    let ring = Ring::start(1, 1, |_, at, asked| match asked {
        Asked::Put { .. } => {
            let late = Refusal::new(Code::DeadlineExceeded, "the deadline passed in the queue");
            let told = Duration::from_millis(u64::from(at.deadline_ms));
            Some(Act::Later(told, Box::new(Act::Refuse(late))))
        }
        _ => None,
    })
    .await;
    let client = Client::builder().endpoints(ring.endpoints()).timeout(Duration::from_millis(400)).connect().await.unwrap();
    assert!(matches!(client.put("k", "v").await, Err(Error::Timeout { .. })));
}

#[tokio::test]
async fn overloaded_is_retried_after_the_time_it_says() {
    static REFUSED: AtomicU32 = AtomicU32::new(0);
    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::Put { .. } if REFUSED.fetch_add(1, Ordering::SeqCst) < 3 => {
            Some(Act::Refuse(Refusal::new(Code::Overloaded, "the queue is full").retry_after_ms(60)))
        }
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let started = Instant::now();
    client.put("k", "v").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(180), "came back after {:?}", started.elapsed());
    let sequences: Vec<u64> = ring.puts().iter().map(|&(_, _, sequence, _)| sequence).collect();
    assert_eq!(sequences, [1; 4]);
}

#[tokio::test]
async fn overloaded_until_the_deadline_ends_as_the_refusal() {
    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::Put { .. } => Some(Act::Refuse(Refusal::new(Code::DiskFull, "no room for the log").retry_after_ms(50))),
        _ => None,
    })
    .await;
    let client = Client::builder().endpoints(ring.endpoints()).timeout(Duration::from_millis(200)).connect().await.unwrap();
    let started = Instant::now();
    match client.put("k", "v").await {
        Err(Error::Refused(refusal)) => assert_eq!(refusal.code, Code::DiskFull),
        other => panic!("expected the refusal, got {other:?}"),
    }
    assert!(started.elapsed() < Duration::from_millis(300));
}

#[tokio::test]
async fn an_expired_session_is_replaced_when_nothing_was_sent_before() {
    static EXPIRED: AtomicU64 = AtomicU64::new(0);
    let ring = Ring::start(1, 1, |ring, _, asked| match asked {
        Asked::Put { session, .. } if *session <= EXPIRED.load(Ordering::SeqCst) => Some(ring.expire(*session)),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("a", "1").await.unwrap();
    EXPIRED.store(1, Ordering::SeqCst);
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.put(format!("{n}"), "v").await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(ring.applied(), 21);
    assert_eq!(ring.count(|_, asked| *asked == Asked::OpenSession), 2, "one new session for all");
}

#[tokio::test]
async fn an_expired_session_makes_a_write_unknown_that_may_have_been_applied() {
    static PUTS: AtomicU32 = AtomicU32::new(0);
    let ring = Ring::start(1, 1, |ring, _, asked| match asked {
        Asked::Put { key, session, .. } if key == b"lost" => match PUTS.fetch_add(1, Ordering::SeqCst) {
            0 => Some(Act::Close),
            _ => Some(ring.expire(*session)),
        },
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    match client.put("lost", "v").await {
        Err(Error::Unknown { session: 1, sequence: 1, why, .. }) => assert!(why.contains("SessionExpired"), "{why}"),
        other => panic!("expected an unknown outcome, got {other:?}"),
    }
}

#[tokio::test]
async fn a_session_that_opens_too_late_for_its_caller_is_the_next_ones() {
    let slowly = Duration::from_millis(300);
    let ring = Ring::start(1, 1, move |ring, at, asked| match asked {
        Asked::OpenSession => Some(Act::Later(slowly, Box::new(ring.usual(at, asked)))),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    match client.with_timeout(Duration::from_millis(100)).put("k", "v").await {
        Err(Error::Timeout { why, .. }) => assert!(why.contains("opened no session in time"), "{why}"),
        other => panic!("expected a timeout, got {other:?}"),
    }
    tokio::time::sleep(slowly).await;
    client.put("k", "v").await.unwrap();
    assert_eq!(ring.count(|_, asked| *asked == Asked::OpenSession), 1, "the first session is used, and no other is opened");
}

#[tokio::test]
async fn what_was_refused_is_said_also_when_one_more_try_comes_too_late() {
    static OPENINGS: AtomicU32 = AtomicU32::new(0);
    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::OpenSession if OPENINGS.fetch_add(1, Ordering::SeqCst) == 0 => {
            Some(Act::Refuse(Refusal::new(Code::TooManySessions, "1000 are open")))
        }
        Asked::OpenSession => Some(Act::Silence),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap().with_timeout(Duration::from_millis(300));
    match client.put("k", "v").await {
        Err(Error::Refused(refusal)) => assert_eq!(refusal.code, Code::TooManySessions),
        other => panic!("expected the refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_write_that_may_have_been_applied_is_not_said_to_be_refused_for_its_size() {
    // Node 1 ends with the write in its hands. Node 2 is configured for smaller values.
    let ring = Ring::start(2, 1, |ring, at, asked| match (asked, at.node) {
        (Asked::Hello { .. }, 2) => match ring.usual(at, asked) {
            Act::Welcome(welcome) => Some(Act::Welcome(Welcome { value_bytes_max: 4, ..welcome })),
            other => Some(other),
        },
        (Asked::Put { .. }, 1) => {
            ring.lead(2);
            Some(Act::Close)
        }
        (Asked::Put { .. }, _) => Some(Act::Refuse(Refusal::new(Code::ValueTooLarge, "6 bytes, the limit is 4"))),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    match client.put("k", "larger").await {
        Err(Error::Unknown { why, .. }) => assert!(why.contains("ValueTooLarge"), "{why}"),
        other => panic!("expected an unknown outcome, got {other:?}"),
    }
}

#[tokio::test]
async fn without_sessions_a_lost_write_is_unknown_at_once() {
    let ring = Ring::start(1, 1, |_, _, asked| is_write(asked).then_some(Act::Close)).await;
    let client = Client::builder().endpoints(ring.endpoints()).exactly_once(false).connect().await.unwrap();
    assert!(matches!(client.put("k", "v").await, Err(Error::Unknown { session: 0, sequence: 0, .. })));
    assert_eq!(ring.puts().len(), 1);
    assert_eq!(ring.count(|_, asked| *asked == Asked::OpenSession), 0);
}

#[tokio::test]
async fn a_change_of_the_ring_is_not_repeated_when_its_answer_is_lost() {
    let ring = Ring::start(1, 1, |_, _, asked| matches!(asked, Asked::Ring(_)).then_some(Act::Close)).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    assert!(matches!(client.ring_transfer(0, 2).await, Err(Error::Unknown { .. })));
    assert_eq!(ring.count(|_, asked| matches!(asked, Asked::Ring(_))), 1);
}

#[tokio::test]
async fn a_silent_leader_is_left_and_its_writes_go_to_the_next() {
    // Node 1 stops answering anything, as a host that lost its network does.
    static MUTE: AtomicU32 = AtomicU32::new(0);
    let ring = Ring::start(3, 1, |_, at, _| (at.node == 1 && MUTE.load(Ordering::SeqCst) == 1).then_some(Act::Silence)).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("a", "1").await.unwrap();
    MUTE.store(1, Ordering::SeqCst);
    ring.lead(2);
    let started = Instant::now();
    client.put("b", "2").await.unwrap();
    let took = started.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "took {took:?}");
    assert_eq!(ring.count(|at, asked| at.node == 1 && *asked == Asked::Ping), 1, "it was pinged before it was given up");
    let puts: Vec<(u64, u64)> = ring.puts().iter().map(|&(node, _, sequence, _)| (node, sequence)).collect();
    assert_eq!(puts, [(1, 1), (1, 2), (2, 2)]);
}

#[tokio::test]
async fn a_leader_cut_off_from_its_quorum_is_left_for_one_of_a_later_term() {
    // Node 1 still believes in itself and answers everything but writes; node 2 leads in a later term.
    static CUT: AtomicU32 = AtomicU32::new(0);
    let ring = Ring::start(3, 1, |ring, at, asked| {
        if at.node != 1 || CUT.load(Ordering::SeqCst) == 0 {
            return None;
        }
        match asked {
            Asked::Put { .. } => Some(Act::Silence),
            Asked::Topology => Some(Act::Topology(Topology { leader: 1, term: 1, ..ring.topology(at.shard) })),
            _ => None,
        }
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("a", "1").await.unwrap();
    CUT.store(1, Ordering::SeqCst);
    // Nobody leads elsewhere yet: the write stays where it is. Then somebody does.
    let elected = tokio::spawn({
        let ring = ring.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            ring.lead(2);
        }
    });
    let started = Instant::now();
    client.put("b", "2").await.unwrap();
    elected.await.unwrap();
    let took = started.elapsed();
    assert!((Duration::from_millis(1_500)..Duration::from_secs(4)).contains(&took), "took {took:?}");
    let puts: Vec<(u64, u64)> = ring.puts().iter().map(|&(node, _, sequence, _)| (node, sequence)).collect();
    assert_eq!(puts, [(1, 1), (1, 2), (2, 2)]);
}

/// What does not fit into one answer is asked for again, and each time anew with all of the call's time.
#[tokio::test]
async fn several_keys_in_many_answers_have_one_deadline() {
    // A key an answer, a third of the call's time each: the answers to ten keys would take three times as long as it may.
    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::Ring(what) if what.starts_with("GetMany") => {
            Some(Act::Later(Duration::from_millis(200), Box::new(Act::Items(vec!["k"], 1, true, 0))))
        }
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let options = GetOptions { timeout: Some(Duration::from_millis(600)), ..GetOptions::default() };
    let keys: Vec<String> = (0..10).map(|n| format!("k{n}")).collect();
    let late = client.get_many_with(&keys, &options).await;
    assert!(matches!(late, Err(Error::Timeout { timeout_ms: 600, .. })), "{late:?}");
    let asked = ring.count(|_, asked| matches!(asked, Asked::Ring(what) if what.starts_with("GetMany")));
    assert!((1..=4).contains(&asked), "asked {asked} times");
}
