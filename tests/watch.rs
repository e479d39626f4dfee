//! Watches on real rings: nothing is missed and nothing repeated, whoever is killed; gaps are said; the slow cost little.
//!
//! **Not here**: the engine alone, under random work (`shards/watch/tests`); rings under all faults (`tests/sim`).

#[path = "watch/places.rs"]
mod places;
mod ring;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::raw::Raw;
use ring::{Plan, Ring, SMALL_LOG, ringbeam_at};
use ringbeam_sdk::{
    Batch, Bytes, CacheOptions, Client, Code, EventKind, PutOptions, Range, Revision, Token, Watch, WatchError, WatchOptions,
};
use ringbeam_wire::client::{self as wire, ReplyBody, RequestBody};

const LITTLE_HISTORY: &str = "[watch]\nhistory_bytes_max = 1048576\n";

async fn start(name: &str, shards: u32, extra: &str) -> (Ring, Client) {
    let extra = format!("{SMALL_LOG}{extra}");
    let ring = Ring::start(name, Plan { nodes: 3, shards, extra, ..Plan::default() }).await;
    let client = ring.client().await;
    (ring, client)
}

/// A write, or several that may have happened.
#[derive(Default)]
struct Ledger {
    /// What was acknowledged: shard's key, revision, value (none: deleted).
    acked: Vec<(Vec<u8>, Revision, Option<Vec<u8>>)>,
    /// Values of writes whose outcome is unknown, or of deletes (none).
    unknown: BTreeSet<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Writers, each with keys of its own, until they are told to stop.
struct Writers {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writers {
    fn start(client: &Client, count: usize) -> Writers {
        let (ledger, stop) = (Arc::new(Mutex::new(Ledger::default())), Arc::new(AtomicBool::new(false)));
        let tasks = (0..count).map(|writer| {
            let (client, ledger, stop) = (client.with_timeout(Duration::from_secs(20)), ledger.clone(), stop.clone());
            tokio::spawn(async move {
                for number in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("w/{writer}/{}", number % 7).into_bytes();
                    let value = (number % 5 != 4).then(|| format!("{writer}-{number}").into_bytes());
                    let written = match &value {
                        Some(value) => client.put(&key, value).await,
                        None => client.delete(&key).await,
                    };
                    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
                    match written {
                        // A delete of nothing changes nothing.
                        Ok(written) if value.is_some() || written.existed => ledger.acked.push((key, written.revision, value)),
                        Ok(_) => {}
                        Err(_) => drop(ledger.unknown.insert((key, value))),
                    }
                }
            })
        });
        Writers { tasks: tasks.collect(), ledger, stop }
    }

    fn acked(&self) -> usize {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).acked.len()
    }

    async fn wait_acked(&self, more: usize) {
        let (due, began) = (self.acked() + more, Instant::now());
        while self.acked() < due {
            assert!(began.elapsed() < Duration::from_secs(90), "{} of {due} writes after 90 s", self.acked());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a writer");
        }
        std::mem::take(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn next(watch: &mut Watch) -> Batch {
    let next = tokio::time::timeout(Duration::from_secs(60), watch.next()).await;
    next.expect("an event in time").expect("no gap").expect("the runtime lives")
}

/// What a watch is to have seen: everything up to these last keys, one in each shard.
async fn ends(client: &Client, shards: u32) -> Vec<Bytes> {
    let shard = |key: &str| ringbeam_wire::slots::shard_of(ringbeam_wire::slots::slot_of(key.as_bytes()), shards);
    let mut ends = Vec::new();
    for wanted in 0..shards {
        let key = (0..).map(|n| format!("w/end/{n}")).find(|key| shard(key) == wanted).expect("one of many is there");
        client.put(&key, "end").await.expect("a write");
        ends.push(Bytes::from(key));
    }
    ends
}

async fn until_ends(watch: &mut Watch, ends: &[Bytes], mut see: impl FnMut(&Batch)) {
    let mut due: BTreeSet<Bytes> = ends.iter().cloned().collect();
    while !due.is_empty() {
        let batch = next(watch).await;
        batch.events.iter().for_each(|event| {
            due.remove(&event.key);
        });
        see(&batch);
    }
}

#[tokio::test]
async fn a_watch_misses_and_repeats_nothing_whoever_is_killed() {
    let (mut ring, client) = start("watch-kills", 2, "").await;
    client.put("w/0/0", "before").await.expect("a write");
    let mut follower = client.watch(&Range::prefix("w/"), &WatchOptions::default().previous()).await.expect("a watch");
    let writers = Writers::start(&client, 8);
    // A second one reads a part, and is taken up from its token by another client, twice.
    let mut parts: Vec<Batch> = Vec::new();
    let mut token: Option<Vec<u8>> = None;
    let reader = tokio::spawn({
        let endpoints = ring.endpoints();
        async move {
            let mut batches = Vec::new();
            let ends = loop {
                batches.push(next(&mut follower).await);
                if batches.iter().rev().take(1).any(|batch: &Batch| batch.events.iter().any(|event| event.key == "w/stop")) {
                    break endpoints;
                }
            };
            (batches, ends)
        }
    });
    writers.wait_acked(100).await;
    for round in 0..3u64 {
        let leader = ring.leader(0).await;
        let victim = if round == 0 { leader } else { leader % 3 + 1 };
        ring.kill(victim);
        writers.wait_acked(200).await;
        let other = ring.client().await;
        let options = match &token {
            Some(token) => WatchOptions::from_token(token).expect("its own token"),
            None => WatchOptions::default(),
        };
        let mut watch = other.watch(&Range::prefix("w/"), &options).await.expect("a watch");
        writers.wait_acked(50).await;
        for _ in 0..20 {
            parts.push(next(&mut watch).await);
        }
        token = Some(watch.token());
        drop(watch);
        ring.spawn(victim);
        ring.wait_caught_up(victim).await;
    }
    let ledger = writers.stop().await;
    let last = ends(&client, 2).await;
    let mut rest = client.watch(&Range::prefix("w/"), &WatchOptions::from_token(&token.expect("set")).expect("a token")).await;
    until_ends(rest.as_mut().expect("a watch"), &last, |batch| parts.push(batch.clone())).await;
    client.put("w/stop", "now").await.expect("a write");
    let (batches, _) = reader.await.expect("the reader");

    let seen = check(&batches, &ledger, None);
    assert!(ledger.acked.len() > 500 && seen >= ledger.acked.len(), "{seen} events for {} writes", ledger.acked.len());
    let first = parts[0].events[0].revision;
    let begun = (0..2).map(|shard| parts.iter().find(|batch| batch.shard == shard).map(|batch| batch.events[0].revision));
    let begun: Vec<Revision> = begun.map(|revision| revision.unwrap_or(first)).collect();
    check(&parts, &ledger, Some(&begun));
}

/// A node that lags behind the session has what the session has seen still to come: that is no change to a watch that begins now.
#[tokio::test]
async fn what_the_session_has_seen_is_no_change() {
    let (_ring, client) = start("watch-ahead", 1, "").await;
    let first = client.put("w/first", "v").await.expect("a write").revision;
    // Whoever is asked lags behind: the session has seen two log entries more than there are. docs/format.md draws the token.
    let mut token = client.session_token().to_bytes();
    let checked = token.len() - 4;
    token[checked - 8..checked].copy_from_slice(&(first.index + 2).to_le_bytes());
    let checksum = crc32fast::hash(&token[..checked]);
    token[checked..].copy_from_slice(&checksum.to_le_bytes());
    let ahead = client.with_token(&Token::from_bytes(&token).expect("a token")).expect("of this ring");
    let mut watch = ahead.watch(&Range::prefix("w/"), &WatchOptions::default()).await.expect("a watch");
    let mut written = Vec::new();
    for n in 0..5 {
        written.push(client.put(format!("w/{n}"), "v").await.expect("a write").revision);
    }
    let mut told = Vec::new();
    while told.last() != written.last() {
        told.extend(next(&mut watch).await.events.iter().map(|event| event.revision));
    }
    written.retain(|revision| revision.index > first.index + 2);
    assert!(!written.is_empty() && told == written, "{told:?} told, {written:?} are new");
}

/// Ascending, all that was acknowledged (behind `begun`, in each shard), and nothing that nobody wrote.
fn check(batches: &[Batch], ledger: &Ledger, begun: Option<&[Revision]>) -> usize {
    let (mut last, mut seen) = (BTreeMap::new(), BTreeMap::new());
    let mut before: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    for batch in batches {
        for event in &batch.events {
            let last = last.insert(batch.shard, event.revision);
            assert!(last.is_none_or(|last| last < event.revision), "{:?} after {last:?}", event.revision);
            let value = (event.kind == EventKind::Put).then(|| event.value.to_vec());
            seen.insert((event.key.to_vec(), event.revision), value.clone());
            let known = before.remove(&event.key);
            if let (Some((previous, _)), Some(known)) = (&event.previous, &known) {
                assert_eq!(previous, known, "what was there before {:?}", event.revision);
            }
            if value.is_some() {
                before.insert(event.key.clone(), event.value.clone());
            }
        }
    }
    let shard = |key: &[u8]| ringbeam_wire::slots::shard_of(ringbeam_wire::slots::slot_of(key), 2) as usize;
    let due = ledger.acked.iter().filter(|(key, revision, _)| begun.is_none_or(|begun| *revision >= begun[shard(key)]));
    let mut written = BTreeSet::new();
    for (key, revision, value) in due {
        let place = (key.clone(), *revision);
        let name = String::from_utf8_lossy(key);
        assert_eq!(seen.get(&place), Some(value), "{name} at {revision:?} was acknowledged");
        written.insert(place);
    }
    for ((key, revision), value) in &seen {
        let marker = key.starts_with(b"w/end") || key == b"w/stop";
        let known = written.contains(&(key.clone(), *revision)) || ledger.unknown.contains(&(key.clone(), value.clone()));
        assert!(marker || known, "{} at {revision:?}: nobody wrote that", String::from_utf8_lossy(key));
    }
    seen.len()
}

#[tokio::test]
async fn a_copy_and_what_follows_it_is_the_state() {
    let (_ring, client) = start("watch-copies", 2, "").await;
    for n in 0..3_000u32 {
        // More than a page in each shard; few of them are written again.
        if n % 60 == 0 {
            let puts = (n..n + 60).map(|n| {
                let client = client.clone();
                tokio::spawn(async move { client.put(format!("w/x/{n:05}"), vec![b'x'; 100]).await })
            });
            for put in puts.collect::<Vec<_>>() {
                put.await.expect("a task").expect("a write");
            }
        }
    }
    let writers = Writers::start(&client, 8);
    writers.wait_acked(50).await;
    let mut watches = Vec::new();
    for _ in 0..3 {
        let watch = client.watch(&Range::prefix("w/"), &WatchOptions::default().snapshot()).await.expect("a watch");
        watches.push(watch);
        writers.wait_acked(100).await;
    }
    writers.stop().await;
    let last = ends(&client, 2).await;
    let entries = client.scan(Range::prefix("w/")).all().await.expect("a scan");
    let state: BTreeMap<Bytes, Bytes> = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    for watch in &mut watches {
        let (mut keys, mut copied, mut ended) = (BTreeMap::new(), 0, 0);
        until_ends(watch, &last, |batch| {
            ended += usize::from(batch.copy_ends);
            for event in &batch.events {
                copied += usize::from(event.kind == EventKind::Snapshot);
                keys.remove(&event.key);
                if event.kind != EventKind::Delete {
                    keys.insert(event.key.clone(), event.value.clone());
                }
            }
        })
        .await;
        assert!(keys == state, "{} keys, the ring has {}", keys.len(), state.len());
        assert!(copied >= 3_000 && ended == 2, "{copied} keys copied, {ended} copies ended");
    }
}

#[tokio::test]
async fn what_is_not_kept_is_said_and_begun_anew_by_who_wants_that() {
    let (_ring, client) = start("watch-compacted", 1, LITTLE_HISTORY).await;
    let first = client.put("w/first", "1").await.expect("a write").revision;
    for n in 0..60 {
        client.put(format!("w/{n}"), vec![b'v'; 50_000]).await.expect("a write");
    }
    // Followers hear of the last writes a moment later; all of them have dropped the first by then.
    let late = client.watch(&Range::all(), &WatchOptions::default().after(first)).await;
    let Err(WatchError::Compacted { shard: 0, oldest }) = late else { panic!("{late:?}") };
    assert!(oldest > first, "{oldest:?}");
    let message = WatchError::Compacted { shard: 0, oldest }.to_string();
    assert!(message.contains(&format!("{}.{}", oldest.index, oldest.position)) && message.contains("snapshot"), "{message}");
    let options = WatchOptions::default().after(first).restart();
    let mut watch = client.watch(&Range::all(), &options).await.expect("a watch");
    let last = ends(&client, 1).await;
    let (mut keys, mut begins, mut copy_ended) = (BTreeSet::new(), 0, false);
    until_ends(&mut watch, &last, |batch| {
        begins += u32::from(batch.copy_begins);
        copy_ended |= batch.copy_ends;
        keys.extend(batch.events.iter().map(|event| event.key.clone()));
    })
    .await;
    assert_eq!((keys.len(), begins, copy_ended), (62, 1, true));
}

/// What a raw watch got until it had `enough`.
fn receive(raw: &mut Raw, mut enough: impl FnMut(u64, &ReplyBody<'_>) -> bool) {
    let began = Instant::now();
    let mut done = false;
    while !done {
        assert!(began.elapsed() < Duration::from_secs(60), "not in time");
        let got = raw.next_as(|reply| enough(reply.id, &reply.body), Duration::from_secs(30)).expect("a connection");
        done = got.expect("a message in time");
    }
}

#[tokio::test]
async fn one_who_does_not_read_is_left_behind_and_told_so() {
    let (ring, client) = start("watch-slow", 1, LITTLE_HISTORY).await;
    let leader = ring.leader(0).await;
    let watch = wire::Watch { from: b"w/", until: b"w0", ..wire::Watch::default() };
    let mut raw = Raw::greeted(&ring.node(leader).client, 0);
    let ended = raw.send(0, &RequestBody::Watch(watch));
    let conflated = raw.send(0, &RequestBody::Watch(wire::Watch { conflate: true, ..watch }));
    let mut started = 0;
    receive(&mut raw, |_, body| {
        started += u32::from(matches!(body, ReplyBody::WatchStarted(_)));
        started == 2
    });
    // More than sockets and history hold, ten at a time: one who takes nothing for 30 s is disconnected.
    let mut revisions = Vec::new();
    for round in 0..50u8 {
        let puts = (0..10).map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.put(format!("w/{n}"), vec![round; 60_000]).await })
        });
        for put in puts.collect::<Vec<_>>() {
            let revision = put.await.expect("a task").expect("a write").revision;
            revisions.push((revision.index, revision.position));
        }
    }
    revisions.sort_unstable();
    let (mut got, mut index, mut copy) = (Vec::new(), 0, BTreeMap::new());
    let (mut end, mut copied) = (None, false);
    receive(&mut raw, |id, body| {
        match body {
            ReplyBody::Events(events) if id == ended => {
                got.extend(events.events.iter().map(|event| (event.revision.index, event.revision.position)));
                index = events.index;
            }
            ReplyBody::WatchEnded(why) if id == ended => end = Some((**why).clone()),
            ReplyBody::Events(events) if id == conflated => {
                for event in &events.events {
                    copied |= event.kind == EventKind::Snapshot && event.conflated;
                    copy.insert(event.key.to_vec(), (event.value.to_vec(), (event.revision.index, event.revision.position)));
                }
            }
            _ => {}
        }
        end.is_some() && copy.values().any(|(_, revision)| Some(revision) == revisions.last())
    });
    let end = end.expect("it was ended");
    assert_eq!((end.code, end.index), (Code::WatchTooSlow as u16, index));
    assert!(end.oldest.index > index && end.message.contains(&index.to_string()), "{end:?}");
    assert_eq!(got, revisions[..got.len()], "no gap before the end");
    assert!(!got.is_empty() && got.len() < 450, "{} of 500 events", got.len());
    assert!(copied, "the other one got a copy");
    let newest: BTreeSet<(u64, u32)> = copy.values().map(|(_, revision)| *revision).collect();
    assert!(newest.iter().eq(&revisions[490..]), "the newest of each key: {newest:?}");
    assert!(copy.len() == 10 && copy.values().all(|(value, _)| *value == [49; 60_000]), "{} keys", copy.len());
}

#[tokio::test]
async fn watches_are_bounded_ended_and_refused_by_name() {
    let (ring, client) = start("watch-limits", 1, "").await;
    let mut raw = Raw::greeted(&ring.node(1).client, 0);
    let mut last = 0;
    let mut refusals = Vec::new();
    let mut answered = 0;
    for n in 0..4_097 {
        let key = format!("k{n}").into_bytes();
        let until = [&key[..], b"\0"].concat();
        last = raw.send(0, &RequestBody::Watch(wire::Watch { from: &key, until: &until, ..wire::Watch::default() }));
        receive(&mut raw, |_, body| {
            answered += 1;
            if let ReplyBody::Refused(refusal) = body {
                refusals.push(refusal.clone());
            }
            true
        });
    }
    assert_eq!((answered, refusals.len()), (4_097, 1));
    assert_eq!(refusals[0].code, Code::TooManyWatches);
    assert!(refusals[0].message.contains("4096"), "{}", refusals[0].message);
    let unwatch = raw.send(0, &RequestBody::Unwatch { watch: last - 1 });
    receive(&mut raw, |id, body| id == unwatch && matches!(body, ReplyBody::Done { .. }));
    let again = raw.send(0, &RequestBody::Unwatch { watch: last - 1 });
    receive(&mut raw, |id, body| id == again && matches!(body, ReplyBody::Refused(why) if why.code == Code::BadRequest));
    // One key of many is told, and the one that was given up is not.
    client.put("k4095", "given up").await.expect("a write");
    client.put("k17", "told").await.expect("a write");
    receive(&mut raw, |_, body| {
        let ReplyBody::Events(events) = body else { panic!("{body:?}") };
        let keys: Vec<&[u8]> = events.events.iter().map(|event| event.key).collect();
        assert_eq!(keys, [b"k17"]);
        true
    });
    let backward = wire::Watch { from: b"b", until: b"a", ..wire::Watch::default() };
    let id = raw.send(0, &RequestBody::Watch(backward));
    receive(&mut raw, |of, body| of == id && matches!(body, ReplyBody::Refused(why) if why.code == Code::BadRequest));
}

#[tokio::test]
async fn the_command_prints_a_line_for_each_event() {
    let (ring, client) = start("watch-command", 1, "").await;
    client.put("c/a", "1").await.expect("a write");
    let (endpoints, stop) = (ring.endpoints(), Arc::new(AtomicBool::new(false)));
    let writer = tokio::spawn({
        let (client, stop) = (client.clone(), stop.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                client.put("c/b", "2").await.expect("a write");
                client.delete("c/b").await.expect("a write");
            }
        }
    });
    let (code, out, err) = ringbeam_at(&endpoints, &["watch", "c/a", "--snapshot", "--count", "1"]).await;
    assert_eq!((code, out.lines().count()), (0, 1), "{err}");
    assert!(out.ends_with("\tsnapshot\tc/a\t1\n"), "{out}");
    let (code, out, err) = ringbeam_at(&endpoints, &["watch", "c/", "--previous", "--count", "6", "--json"]).await;
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("the writer");
    assert_eq!((code, out.lines().count()), (0, 6), "{err}");
    let mut last = 0;
    for line in out.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let index = event["revision"]["index"].as_u64().expect("a revision");
        assert!(index > last, "{line}");
        last = index;
        assert_eq!(event["key"], "c/b");
        match event["kind"].as_str() {
            Some("put") => assert_eq!(event["value"], "2"),
            kind => assert_eq!((kind, &event["previous"]["value"]), (Some("delete"), &"2".into()), "{line}"),
        }
    }
    let (code, out, _) = ringbeam_at(&endpoints, &["watch", "none/", "--for", "0.3"]).await;
    assert_eq!((code, &out[..]), (0, ""));
}

/// What changes is out of the cache long before the bound; what does not, stays beyond it; and the bound holds while nodes are killed.
#[tokio::test]
async fn a_cache_that_follows_drops_what_changes_and_keeps_what_does_not() {
    let (mut ring, client) = start("watch-cache", 2, "").await;
    let client = client.namespace("cached").with_timeout(Duration::from_secs(20));
    let age_max = Duration::from_secs(2);
    let options = CacheOptions { age_max, keep_at_once: true, switches_off: false, ..CacheOptions::default() };
    let cache = client.cached(options);
    cache.follow().await.expect("the ring serves watches");
    cache.follow().await.expect("again changes nothing");
    let cold: Vec<String> = (0..32).map(|number| format!("cold/{number}")).collect();
    for key in &cold {
        client.put(key, "v").await.expect("the ring is well");
    }
    // What is fetched while the watch tells of its change is not kept.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for key in &cold {
        cache.get(key).await.expect("the ring is well");
    }

    // A change by somebody else is seen well within the bound.
    client.put("hot", "0").await.expect("the ring is well");
    cache.get("hot").await.expect("the ring is well");
    client.put("hot", "1").await.expect("the ring is well");
    let changed = Instant::now();
    while &cache.get("hot").await.expect("the ring is well").expect("it is there").value[..] != b"1" {
        assert!(changed.elapsed() < age_max / 2, "a change is not taken out");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // What nobody changes is not fetched again.
    let before = cache.stats().misses;
    tokio::time::sleep(age_max * 2).await;
    for key in &cold {
        cache.get(key).await.expect("the ring is well");
    }
    // A few, if this machine stood still for a moment; without the watch it would be all 32.
    let again = cache.stats().misses - before;
    assert!(again < 8, "{again} entries that the watch vouches for were fetched again: {:?}", cache.stats());

    // Whatever becomes of nodes and watches, nothing is older than the bound.
    let acked = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (client, acked, stop) = (client.clone(), acked.clone(), stop.clone());
        tokio::spawn(async move {
            for number in 2u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if client.put("hot", number.to_string()).await.is_ok() {
                    acked.lock().unwrap_or_else(PoisonError::into_inner).push((number, Instant::now()));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let (mut reads, began) = (0, Instant::now());
    for node in [1, 2, 3] {
        ring.kill(node);
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            let asked = Instant::now();
            let Ok(found) = cache.get("hot").await else { continue };
            let text = String::from_utf8_lossy(&found.expect("it is there").value).into_owned();
            let number: u64 = text.parse().expect("a number was put");
            let overwritten = {
                let acked = acked.lock().unwrap_or_else(PoisonError::into_inner);
                acked.iter().find(|(later, _)| *later > number).map(|(_, at)| *at)
            };
            let age = overwritten.map_or(Duration::ZERO, |at| asked.saturating_duration_since(at));
            assert!(age < age_max, "{number} was overwritten {age:?} before it was asked for");
            reads += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ring.spawn(node);
        ring.wait_ready().await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("the writer ends well");
    let (stats, writes) = (cache.stats(), acked.lock().unwrap_or_else(PoisonError::into_inner).len());
    println!("{reads} reads of a key with {writes} writes in {:?}: {stats:?}", began.elapsed());
    assert!(stats.hits > reads / 4, "the cache answers, too: {stats:?}");
}

/// The blocking client watches, extends and holds leases too, from threads without a runtime.
#[tokio::test]
async fn a_blocking_client_watches_what_another_thread_does() {
    let (ring, _client) = start("watch-blocking", 2, "").await;
    let endpoints = ring.endpoints();
    let done = tokio::task::spawn_blocking(move || std::thread::spawn(move || blocking(&endpoints)).join());
    done.await.expect("a thread can be made").expect("the thread ends well");
}

fn blocking(endpoints: &str) {
    let client = ringbeam_sdk::blocking::Client::connect(endpoints).expect("the ring serves");
    let range = Range::prefix("b/");
    let mut watch = client.watch(&range, &WatchOptions::default()).expect("the ring serves watches");
    client.append("b/text", "one,").expect("the ring is well");
    client.append("b/text", "two").expect("the ring is well");
    client.merge_patch("b/doc", r#"{"a":1}"#).expect("the ring is well");
    let lease = client.lease(Duration::from_secs(2));
    let options = PutOptions { lease: Some(lease.holder()), ..PutOptions::default() };
    client.put_with("b/held", "by a lease", &options).expect("the ring is well");
    // It is kept alive for longer than its time.
    assert!(!lease.lost_within(Duration::from_secs(4)).expect("no runtime here") && lease.is_alive());
    assert!(client.get("b/held").expect("the ring is well").is_some());
    lease.revoke().expect("the ring is well");
    assert!(lease.lost_within(Duration::ZERO).expect("no runtime here"));
    let mut seen: BTreeMap<Vec<u8>, Vec<EventKind>> = BTreeMap::new();
    while seen.values().map(Vec::len).sum::<usize>() < 5 {
        let batch = watch.next_within(Duration::from_secs(20)).expect("the ring is well").expect("five changes come");
        batch.events.iter().for_each(|event| seen.entry(event.key.to_vec()).or_default().push(event.kind));
    }
    assert_eq!(seen[&b"b/text"[..]].len(), 2, "{seen:?}");
    assert_eq!(seen[&b"b/held"[..]].len(), 2, "put, and gone with its lease: {seen:?}");
    assert_eq!(&client.get("b/text").expect("the ring is well").expect("it is there").value[..], b"one,two");

    // From its token another watch goes on.
    let token = watch.token();
    drop(watch);
    client.put("b/later", "x").expect("the ring is well");
    let mut again = client.watch(&range, &WatchOptions::from_token(&token).expect("its own")).expect("the ring is well");
    let batch = again.next().expect("the ring lives").expect("the ring is well");
    assert_eq!(&batch.events[0].key[..], b"b/later");
    assert_eq!(again.next_within(Duration::from_millis(300)).expect("the ring is well"), None);
}
