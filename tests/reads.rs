//! Reads with a contract on a real ring, in the wire's own frames: what a node shows of its age, sessions over any node, bounds that are
//! kept, refused or flagged while nobody leads; and the topology, told again when it changes.
//!
//! **Not here**: what the SDK makes of it (`wire/sdk/rust`); whether an age can be false (the simulator, docs/simulation.md).

mod ring;

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use ring::raw::Raw;
use ring::{Plan, Ring, SMALL_LOG, ringbeam, signal};
use ringbeam_wire::client::{Consistency, Get, GetMany, Moment, Reply, ReplyBody, RequestBody, Scan, Topology};
use ringbeam_wire::refusal::Code;

/// An answer that takes longer is lost.
const ANSWER_MAX: Duration = Duration::from_secs(20);

const KEY: &[u8] = b"key";

fn plan() -> Plan {
    Plan { extra: SMALL_LOG.to_string(), ..Plan::default() }
}

/// What a read was answered.
#[derive(Clone, Debug)]
enum Read {
    Value { value: Vec<u8>, index: u64, age_ms: Option<u32>, stale: bool },
    Refused(Code, String),
}

impl Read {
    fn of(reply: &Reply<'_>) -> Read {
        match &reply.body {
            ReplyBody::Value(v) => Read::Value { value: v.value.to_vec(), index: v.index, age_ms: v.age_ms, stale: v.stale },
            ReplyBody::Items(items) => Read::Value {
                value: items.items.first().map_or(Vec::new(), |item| item.value.to_vec()),
                index: items.index,
                age_ms: items.age_ms,
                stale: items.stale,
            },
            ReplyBody::Refused(refusal) => Read::Refused(refusal.code, refusal.message.clone()),
            other => panic!("no answer to a read: {other:?}"),
        }
    }

    fn value(self) -> (Vec<u8>, u64, Option<u32>, bool) {
        match self {
            Read::Value { value, index, age_ms, stale } => (value, index, age_ms, stale),
            Read::Refused(code, why) => panic!("refused: {code:?} {why}"),
        }
    }

    fn refused(self) -> (Code, String) {
        match self {
            Read::Refused(code, why) => (code, why),
            Read::Value { .. } => panic!("answered: {self:?}"),
        }
    }
}

fn get(consistency: Consistency) -> RequestBody<'static> {
    RequestBody::Get(Get { namespace: "", key: KEY, consistency })
}

fn bounded(age_ms_max: u32) -> Consistency {
    Consistency::Bounded { age_ms_max, stale_ok: false }
}

fn read(raw: &mut Raw, deadline_ms: u32, body: &RequestBody<'_>) -> Read {
    raw.send(deadline_ms, body);
    raw.next_as(Read::of, ANSWER_MAX).expect("an answer comes").expect("the node keeps the connection")
}

/// The age that a local read is given, once there is one.
fn known_age(raw: &mut Raw) -> u32 {
    let began = Instant::now();
    loop {
        if let Some(age) = read(raw, 1000, &get(Consistency::Local)).value().2 {
            return age;
        }
        assert!(began.elapsed() < ANSWER_MAX, "local reads want their age, and it is never known");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn every_node_serves_sessions_and_bounds_and_says_its_age() {
    let ring = Ring::start("reads", plan()).await;
    let client = ring.client().await;
    let index = client.put(KEY, "new").await.expect("the ring writes").revision.index;
    let leader = ring.settled_leader(0).await;
    for id in 1..=3 {
        let mut raw = Raw::greeted(&ring.node(id).client, 0);
        let (value, at, ..) = read(&mut raw, 5000, &get(Consistency::Session { index_min: index })).value();
        assert!(value == b"new" && at >= index, "node {id} has come to {at}, the write was {index}");
        // A scan and several keys keep the same contracts.
        let scan = RequestBody::Scan(Scan { consistency: bounded(3000), ..Scan::default() });
        let (value, _, age, stale) = read(&mut raw, 5000, &scan).value();
        assert!(value == b"new" && age.is_some_and(|age| age <= 3000) && !stale, "node {id}: {age:?} {stale}");
        let consistency = Consistency::Session { index_min: index };
        let many = RequestBody::GetMany(Box::new(GetMany { namespace: "", keys: vec![KEY], consistency }));
        assert_eq!(read(&mut raw, 5000, &many).value().0, b"new");
        // All that was acknowledged before the bound is in it, whatever the bound is.
        for age_ms_max in [200, 1000] {
            let (value, _, age, stale) = read(&mut raw, 5000, &get(bounded(age_ms_max))).value();
            assert!(age.is_some_and(|age| age <= age_ms_max) && !stale && value == b"new", "node {id}: {age:?} {stale}");
        }
        assert!(known_age(&mut raw) < 10_000);
        let (code, why) = read(&mut raw, 5000, &get(bounded(0))).refused();
        assert!(code == Code::BadRequest && why.contains("at least 1"), "{why}");
    }
    let mut raw = Raw::greeted(&ring.node(leader).client, 0);
    let age = read(&mut raw, 5000, &get(Consistency::Linearizable)).value().2;
    assert!(age.is_some_and(|age| age < 5000), "a confirmed read is as old as its round: {age:?}");
}

#[tokio::test]
async fn a_session_waits_for_its_index_and_no_longer_than_it_may() {
    let ring = Ring::start("reads-session", plan()).await;
    let client = ring.client().await;
    let index = client.put(KEY, "old").await.expect("the ring writes").revision.index;
    let leader = ring.settled_leader(0).await;
    let mut raw = Raw::greeted(&ring.node(leader % 3 + 1).client, 0);
    // Not there yet: the read waits, and is answered by what the next write brings.
    let behind = read(&mut raw, 5000, &get(Consistency::Session { index_min: index })).value().1;
    raw.send(20_000, &get(Consistency::Session { index_min: behind + 1 }));
    client.put(KEY, "new").await.expect("the ring writes");
    let (value, at, ..) = raw.next_as(Read::of, ANSWER_MAX).expect("it is answered").expect("open").value();
    assert!(value == b"new" && at > behind, "{at} after {behind}");
    // Never there: refused at the deadline, with both numbers.
    let began = Instant::now();
    let (code, why) = read(&mut raw, 300, &get(Consistency::Session { index_min: 1_000_000 })).refused();
    assert!(code == Code::NotFresh && why.contains("1000000") && why.contains("applied log index"), "{code:?} {why}");
    assert!(began.elapsed() >= Duration::from_millis(290), "refused after {:?}, the deadline was 300 ms", began.elapsed());
}

#[tokio::test]
async fn without_a_leader_bounds_are_refused_or_flagged_and_ages_grow() {
    let ring = Ring::start("reads-cut", plan()).await;
    let client = ring.client().await;
    client.put(KEY, "kept").await.expect("the ring writes");
    let leader = ring.settled_leader(0).await;
    let (alone, stopped) = (leader % 3 + 1, [leader, (leader + 1) % 3 + 1]);
    let mut raw = Raw::greeted(&ring.node(alone).client, 0);
    assert_eq!(read(&mut raw, 5000, &get(bounded(2000))).value().0, b"kept");
    let pids = stopped.map(|id| ring.pid(id).expect("it runs"));
    for pid in pids {
        signal(pid, "STOP");
    }
    let began = Instant::now();
    // What it knew stays good for as long as it was; then nothing is fresh enough any more, and a new leader there is none.
    let refused = loop {
        match read(&mut raw, 400, &get(bounded(250))) {
            Read::Refused(code, why) => break (code, why),
            Read::Value { age_ms, .. } => assert!(age_ms.is_some_and(|age| age <= 250), "{age_ms:?} is beyond 250 ms"),
        }
        assert!(began.elapsed() < Duration::from_secs(10), "a node alone shows that it is fresh for 10 s");
    };
    assert!(refused.0 == Code::NotFresh && refused.1.contains("250 ms"), "{refused:?}");
    let stale_ok = Consistency::Bounded { age_ms_max: 250, stale_ok: true };
    let asked = Instant::now();
    let (value, _, age, stale) = read(&mut raw, 20_000, &get(stale_ok)).value();
    assert!(value == b"kept" && stale && age.is_some_and(|age| age > 250), "{age:?} {stale}");
    assert!(asked.elapsed() < Duration::from_secs(5), "an old answer is welcome, and took {:?}", asked.elapsed());
    // A page, and a plain local read, which goes on with its age.
    let scan = RequestBody::Scan(Scan { consistency: stale_ok, ..Scan::default() });
    assert!(read(&mut raw, 20_000, &scan).value().3, "a page that is too old is flagged too");
    let before = (Instant::now(), known_age(&mut raw));
    std::thread::sleep(Duration::from_millis(100));
    let passed = before.0.elapsed().as_millis() as u32;
    let (value, _, age, stale) = read(&mut raw, 1000, &get(Consistency::Local)).value();
    let age = age.expect("an age that was known stays known");
    assert!(value == b"kept" && !stale && age + 1 >= before.1 + passed, "{age} ms, {passed} ms after {} ms", before.1);
    for pid in pids {
        signal(pid, "CONT");
    }
    let healed = Instant::now();
    while let Read::Refused(code, why) = read(&mut raw, 1000, &get(bounded(250))) {
        assert_eq!(code, Code::NotFresh, "{why}");
        assert!(healed.elapsed() < Duration::from_secs(30), "still not fresh: {why}");
    }
}

/// The next topology that says who leads.
fn told(raw: &mut Raw, limit: Duration) -> io::Result<(u64, Topology)> {
    let topology = |reply: &Reply<'_>| match &reply.body {
        ReplyBody::Topology(topology) => (reply.id, topology.clone()),
        other => panic!("no topology: {other:?}"),
    };
    raw.next_as(topology, limit).map(|told| told.expect("the node keeps the connection"))
}

#[tokio::test]
async fn who_follows_the_topology_is_told_who_leads_now() {
    let ring = Ring::start("reads-topology", plan()).await;
    let leader = ring.settled_leader(0).await;
    let heir = leader % 3 + 1;
    for id in 1..=3 {
        let mut raw = Raw::greeted(&ring.node(id).client, 0);
        let request = raw.send(0, &RequestBody::FollowTopology);
        let (answered, topology) = told(&mut raw, ANSWER_MAX).expect("the topology comes at once");
        assert!(answered == request && topology.members.len() == 3, "{topology:?}");
        let mut leads = topology.leader;
        let again = raw.send(0, &RequestBody::FollowTopology);
        // What changes meanwhile is told in between: the lead moves to where it belongs by itself, too.
        let changed = Cell::new(leads);
        let refused = |reply: &Reply<'_>| {
            if let ReplyBody::Topology(topology) = &reply.body {
                changed.set(topology.leader);
            }
            (reply.id == again).then(|| Read::of(reply))
        };
        let twice = loop {
            if let Some(twice) = raw.next_as(refused, ANSWER_MAX).expect("an answer").expect("open") {
                break twice;
            }
        };
        assert_eq!(twice.refused().0, Code::BadRequest, "one stream a connection is enough");
        leads = if changed.get() == 0 { leads } else { changed.get() };
        while leads == 0 {
            leads = told(&mut raw, ANSWER_MAX).expect("a change is told").1.leader;
        }
        let to = if id == 1 && leads != heir { heir } else { leads % 3 + 1 };
        let args = ["ring", "transfer", "--to", &to.to_string(), "--endpoints", &ring.endpoints()];
        let (code, out, err) = ringbeam(&args);
        assert_eq!(code, 0, "{out}{err}");
        while leads != to {
            let (answered, topology) = told(&mut raw, ANSWER_MAX).expect("a change is told");
            assert_eq!(answered, request, "with the id of the request");
            leads = topology.leader;
        }
        // The connection still serves everything else.
        let local = raw.send(1000, &get(Consistency::Local));
        let answered = |reply: &Reply<'_>| (reply.id == local).then(|| Read::of(reply));
        let read = loop {
            if let Some(read) = raw.next_as(answered, ANSWER_MAX).expect("an answer").expect("open") {
                break read;
            }
        };
        read.value();
    }
}

/// While a quorum has promised to elect nobody else, the leader answers linearizable reads alone; when the promises are over, it does not.
/// Without them it never does.
#[tokio::test]
async fn a_leader_reads_by_lease_where_its_followers_promise_and_only_while_they_do() {
    // So long that nothing here depends on how busy the machine is.
    let timers = "[timers]\nheartbeat_ms = 200\nelection_timeout_min_ms = 2000\nelection_timeout_max_ms = 4000\n";
    for (lease_ms, by_lease) in [(2_000, true), (0, false)] {
        let extra = format!("{timers}read_lease_ms = {lease_ms}\n");
        let ring = Ring::start(&format!("reads-lease-{lease_ms}"), Plan { nodes: 3, extra, ..Plan::default() }).await;
        let client = ring.client().await;
        client.put("k", "v").await.expect("a write");
        let read = async |patience_ms: u64| {
            let got = client.with_timeout(Duration::from_millis(patience_ms)).get("k").await;
            got.map(|found| found.expect("it was written").value.to_vec())
        };
        assert_eq!(read(5_000).await.expect("all is well"), b"v");
        let leader = ring.leader(0).await;
        let followers: Vec<u32> = (1..=3).filter(|id| *id != leader).filter_map(|id| ring.pid(id)).collect();
        followers.iter().for_each(|pid| ring::signal(*pid, "STOP"));
        let alone = read(1_000).await;
        assert_eq!(alone.is_ok(), by_lease, "promises of {lease_ms} ms: {alone:?}");
        tokio::time::sleep(Duration::from_millis(2_200)).await;
        let late = read(1_000).await;
        followers.iter().for_each(|pid| ring::signal(*pid, "CONT"));
        assert!(late.is_err(), "promises of {lease_ms} ms, all of them over: {late:?}");
        assert_eq!(read(20_000).await.expect("they are back"), b"v");
    }
}

/// The keys of a page of a scan, its pin and its index.
fn keys(raw: &mut Raw, scan: Scan<'_>) -> (Vec<String>, u64, u64) {
    raw.send(20_000, &RequestBody::Scan(scan));
    let of = |reply: &Reply<'_>| match &reply.body {
        ReplyBody::Items(page) => {
            let keys = page.items.iter().map(|item| String::from_utf8_lossy(item.key).into_owned()).collect();
            (keys, page.pinned, page.index)
        }
        other => panic!("no page: {other:?}"),
    };
    raw.next_as(of, ANSWER_MAX).expect("an answer comes").expect("the node keeps the connection")
}

/// A page that passed by more newer keys than one turn takes gave up the beginning of its range on the way. The client that lost its
/// connection before the answer asked again from there, and its scan ended with `BadRequest`.
#[tokio::test]
async fn a_pinned_page_behind_many_newer_keys_can_be_asked_for_again() {
    let ring = Ring::start("reads-pinned", Plan { nodes: 1, ..plan() }).await;
    let client = ring.client().await.with_timeout(ANSWER_MAX);
    for key in ["a1", "a2", "c1", "c2"] {
        client.put(key, "old").await.expect("the ring writes");
    }
    let mut raw = Raw::greeted(&ring.node(1).client, 0);
    let first = Scan { limit: 2, moment: Moment::Pin { keys: 100 }, ..Scan::default() };
    let (forward, pin, index) = keys(&mut raw, first);
    let (backward, back_pin, back_index) = keys(&mut raw, Scan { backward: true, ..first });
    assert_eq!((forward, backward), (vec!["a1".into(), "a2".into()], vec!["c2".into(), "c1".into()]));
    let pinned = |pin, index| Scan { limit: 1, moment: Moment::Pinned { pin, index }, ..first };
    let ahead = Scan { from: b"a2\0", ..pinned(pin, index) };
    let behind = Scan { until: b"c1", backward: true, ..pinned(back_pin, back_index) };
    for hundred in 0..50 {
        let mut writes = tokio::task::JoinSet::new();
        for n in 0..100 {
            let client = client.clone();
            writes.spawn(async move { client.put(format!("b/{}", hundred * 100 + n), "new").await.map(|_| ()) });
        }
        while let Some(written) = writes.join_next().await {
            written.expect("a write ends well").expect("the ring writes");
        }
        // Each time the same page, over another connection; at the end it takes two turns.
        let mut raw = Raw::greeted(&ring.node(1).client, 0);
        assert_eq!(keys(&mut raw, ahead).0, ["c1"]);
        assert_eq!(keys(&mut raw, behind).0, ["a2"]);
    }
}
