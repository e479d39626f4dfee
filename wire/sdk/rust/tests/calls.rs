//! Calls against a good ring: routing, pipelining, order of replies, sessions, options.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fake::{Act, Asked, Ring};
use ringbeam_sdk::{Client, Code, Consistency, Error, GetOptions, PutOptions, Refusal};
use ringbeam_wire::slots;

#[tokio::test]
async fn put_get_delete_from_any_one_endpoint() {
    let ring = Ring::start(3, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(3)).await.unwrap();
    assert!(!client.put("k", "v").await.unwrap().existed);
    assert_eq!(&client.get("k").await.unwrap().unwrap().value[..], b"v");
    assert!(client.put("k", "").await.unwrap().existed);
    assert_eq!(&client.get("k").await.unwrap().unwrap().value[..], b"", "an empty value is a value");
    assert!(client.delete("k").await.unwrap().existed);
    assert!(client.get("k").await.unwrap().is_none());
    assert!(ring.puts().iter().all(|&(node, ..)| node == 1), "writes go to the leader only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_one_client_and_one_connection_per_shard() {
    let ring = Ring::start(3, 4, |_, _, _| None).await;
    let client = Client::connect(&ring.endpoints().join(", ")).await.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    let key = format!("{task}/{n}");
                    client.put(&key, &key).await.unwrap();
                    assert_eq!(client.get(&key).await.unwrap().unwrap().value, key.as_bytes());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(ring.applied(), 64 * 50);
    for (at, asked) in ring.asked.lock().unwrap().iter() {
        if let Asked::Put { key, .. } = asked {
            assert_eq!(at.shard, slots::shard_of(slots::slot_of(key), 4));
        }
    }
    for shard in 0..4 {
        let hellos =
            |node| ring.count(|at, asked| at.node == node && at.shard == shard && matches!(asked, Asked::Hello { .. }));
        assert_eq!(hellos(1), 1, "one connection to the leader of shard {shard}");
        let sessions = ring.count(|at, asked| at.shard == shard && *asked == Asked::OpenSession);
        assert_eq!(sessions, 1, "one session in shard {shard}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_fill_the_socket_and_all_arrive_whole() {
    let ring = Ring::start(1, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let tasks: Vec<_> = (0..24_u8)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..4_u8 {
                    let value = vec![task.wrapping_mul(7) ^ n; 300_000 + usize::from(task) * 1_000];
                    client.put([b'k', task], &value).await.unwrap();
                    assert_eq!(client.get([b'k', task]).await.unwrap().unwrap().value, value);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn sequences_are_dense_and_the_floor_follows_the_answers() {
    let ring = Ring::start(1, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    for n in 0..5 {
        client.put(format!("{n}"), "v").await.unwrap();
    }
    let seen: Vec<(u64, u64)> = ring
        .asked
        .lock()
        .unwrap()
        .iter()
        .filter_map(|(_, asked)| match asked {
            Asked::Put { sequence, below, .. } => Some((*sequence, *below)),
            _ => None,
        })
        .collect();
    assert_eq!(seen, [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
}

#[tokio::test]
async fn replies_out_of_order_reach_their_calls() {
    // The later a read is asked, the sooner it is answered.
    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::Get { key, .. } => {
            let n: u64 = String::from_utf8_lossy(key).parse().unwrap();
            Some(Act::Later(Duration::from_millis(60 - n), Box::new(Act::Value(Some(key.clone())))))
        }
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let finished = Arc::new(AtomicU32::new(0));
    let tasks: Vec<_> = (0..60_u32)
        .map(|n| {
            let (client, finished) = (client.clone(), finished.clone());
            tokio::spawn(async move {
                let found = client.get(n.to_string()).await.unwrap().unwrap();
                assert_eq!(found.value, n.to_string().as_bytes());
                (n, finished.fetch_add(1, Ordering::SeqCst))
            })
        })
        .collect();
    let mut overtaken = 0;
    for task in tasks {
        let (n, place) = task.await.unwrap();
        overtaken += u32::from(place != n);
    }
    assert!(overtaken > 30, "replies came in another order than requests, {overtaken} of 60");
}

#[tokio::test]
async fn oversize_and_empty_are_refused_by_name_and_the_connection_lives_on() {
    let ring = Ring::start(1, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let refused = |result: Result<_, Error>| match result {
        Err(Error::Refused(Refusal { code, message, .. })) => (code, message),
        other => panic!("expected a refusal, got {other:?}"),
    };
    let too_large = vec![0; fake::VALUE_BYTES_MAX as usize + 1];
    let (code, message) = refused(client.put("k", &too_large).await);
    assert_eq!((code, message.as_str()), (Code::ValueTooLarge, "the value has 1048577 bytes, the limit is 1048576"));
    assert_eq!(refused(client.put("", "v").await).0, Code::KeyEmpty);
    assert_eq!(refused(client.put([b'k'; 4097], "v").await).0, Code::KeyTooLarge);
    assert_eq!(refused(client.namespace(&"n".repeat(65)).put("k", "v").await).0, Code::BadNamespace);
    client.put("k", &too_large[1..]).await.unwrap();
    let found = client.get("k").await.unwrap().unwrap();
    assert_eq!(found.value.len(), fake::VALUE_BYTES_MAX as usize);
    assert_eq!(ring.puts().len(), 1);
}

#[tokio::test]
async fn namespaces_and_options_reach_the_ring() {
    let ring = Ring::start(1, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let carts = client.namespace("carts").with_timeout(Duration::from_secs(1));
    carts.put("k", "v").await.unwrap();
    let options =
        PutOptions { namespace: Some("flags".into()), timeout: Some(Duration::from_millis(400)), ..PutOptions::default() };
    carts.put_with("k", "v", &options).await.unwrap();
    client.put("k", "v").await.unwrap();
    let seen: Vec<(String, u32)> = ring
        .asked
        .lock()
        .unwrap()
        .iter()
        .filter_map(|(at, asked)| match asked {
            Asked::Put { namespace, .. } => Some((namespace.clone(), at.deadline_ms)),
            _ => None,
        })
        .collect();
    let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["carts", "flags", ""]);
    for ((_, told), most) in seen.iter().zip([1_000, 400, 5_000]) {
        assert!((most * 7 / 8 - 20..=most).contains(told), "told {told} ms of {most}");
    }
}

#[tokio::test]
async fn local_reads_go_to_the_own_region() {
    let ring = Ring::start(3, 1, |_, _, _| None).await;
    let client = Client::builder().endpoints(ring.endpoints()).region("r2").connect().await.unwrap();
    client.put("k", "v").await.unwrap();
    let options = GetOptions { consistency: Some(Consistency::Local), ..GetOptions::default() };
    for _ in 0..5 {
        assert!(client.get_with("k", &options).await.unwrap().is_some());
    }
    assert_eq!(ring.count(|at, asked| at.node == 2 && matches!(asked, Asked::Get { local: true, .. })), 5);
}

#[tokio::test]
async fn a_full_window_waits_and_every_write_happens_once() {
    let ring = Ring::start(1, 1, |ring, at, asked| match asked {
        Asked::Put { .. } => Some(Act::Later(Duration::from_millis(2), Box::new(ring.usual(at, asked)))),
        _ => None,
    })
    .await;
    ring.window.store(4, Ordering::SeqCst);
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.put(format!("{n}"), "v").await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(ring.applied(), 100);
    for (_, asked) in ring.asked.lock().unwrap().iter() {
        if let Asked::Put { sequence, below, .. } = asked {
            assert!(sequence - below < 4, "sequence {sequence} above floor {below}");
        }
    }
}

#[tokio::test]
async fn a_dropped_call_frees_its_place_and_its_sequence() {
    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::Put { key, .. } if key == b"lost" => Some(Act::Silence),
        _ => None,
    })
    .await;
    ring.window.store(2, Ordering::SeqCst);
    let client = Client::connect(&ring.address(1)).await.unwrap();
    for _ in 0..10 {
        let gone = tokio::time::timeout(Duration::from_millis(5), client.put("lost", "v")).await;
        assert!(gone.is_err(), "the fake never answers this key");
    }
    client.put("kept", "v").await.unwrap();
}

#[tokio::test]
async fn dropping_the_client_closes_its_session() {
    let ring = Ring::start(1, 1, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    client.put("k", "v").await.unwrap();
    drop(client);
    let started = Instant::now();
    while ring.count(|_, asked| *asked == Asked::CloseSession(1)) == 0 {
        assert!(started.elapsed() < Duration::from_secs(5), "no goodbye came");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn operators_commands_go_to_the_leader_and_status_to_everyone() {
    let ring = Ring::start(3, 2, |_, _, _| None).await;
    ring.lead(2);
    let client = Client::connect(&ring.address(1)).await.unwrap();
    assert_eq!(client.shards(), 2);
    assert_eq!(client.ring(), fake::RING);
    assert_eq!(client.ring_promote(1, 3).await.unwrap(), "RingPromote { node: 3 } by node 2");
    assert!(client.ring_add(0, 4, "127.0.0.1:1").await.unwrap().contains("by node 2"));
    assert!(client.ring_remove(0, 4, true).await.unwrap().contains("force: true"));
    assert!(client.ring_transfer(0, 1).await.unwrap().contains("to: 1"));
    assert!(matches!(client.ring_transfer(9, 1).await, Err(Error::Protocol(why)) if why.contains("no shard 9")));
    assert_eq!(client.topology_of(1).await.unwrap().leader, 2);
    assert!(client.ping(0).await.unwrap() < Duration::from_secs(5));
    let all = client.status().await;
    let places: Vec<(u64, u32)> = all.iter().map(|&(node, shard, _)| (node, shard)).collect();
    assert_eq!(places, [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]);
    assert!(all.iter().all(|(node, shard, status)| { status.as_ref().is_ok_and(|s| s.node == *node && s.shard == *shard) }));
}
