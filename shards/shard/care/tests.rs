//! A small ring in a simulated world: what whoever waits is told, and how long a shard is without a leader.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future;
use ringbeam_wire::client::{self, Consistency, Encoder, Get, Hello, Life, Put, ReplyBody, RequestBody};
use ringbeam_wire::peer::Member;
use ringbeam_wire::preamble::{Kind, Preamble, VERSION};
use ringbeam_wire::refusal::{Code, Refusal};

use crate::io::sim::{Crash, HostId, Sim, SimDisk, SimNet, SimWriter, World, listen};
use crate::io::{Env, Net, Writer};
use crate::probe::{View, probes};
use crate::raft::link::FrameReader;
use crate::raft::replica::Timers;
use crate::raft::runtime::timeout;
use crate::shard::{Settings, run};
use crate::wal::WalConfig;
use crate::watch::Bounds;

const RING: u64 = 7;
const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(300);
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(600);
/// What the world's own delays add to a time.
const SLACK: Duration = Duration::from_millis(50);

fn member(node: u64) -> Member {
    let (peer, client) = (format!("node-{node}:2"), format!("node-{node}:1"));
    Member { node, incarnation: node, peer, client, ..Member::default() }
}

fn settings(node: u64, read_lease: Duration) -> Settings {
    let log = WalConfig {
        segment_bytes: 512 << 10,
        cache_bytes: 64 << 10,
        spare_segments: 1,
        stock_ahead: false,
        entry_bytes_max: 128 << 10,
    };
    let timers = Timers {
        heartbeat: Duration::from_millis(100),
        election_timeout_min: ELECTION_TIMEOUT_MIN,
        election_timeout_max: ELECTION_TIMEOUT_MAX,
        read_lease,
    };
    Settings {
        node: member(node),
        ring: RING,
        shard: 0,
        shards: 1,
        founders: (1..=3).map(member).collect(),
        dir: "shard-0".to_string(),
        version: "simulated".to_string(),
        key_bytes_max: 1 << 10,
        value_bytes_max: 32 << 10,
        queue_bytes_max: 256 << 10,
        batch_bytes_max: 64 << 10,
        log,
        snapshot_after_bytes: 64 << 20,
        snapshot_pause: Duration::ZERO,
        timers,
        state: Default::default(),
        history: Bounds { bytes_max: 1 << 20, age_ms_max: 60_000 },
        pinned_bytes_max: 64 << 10,
    }
}

/// Three voters, and a machine for clients.
struct Ring {
    world: World,
    nodes: Vec<HostId>,
    client: HostId,
}

impl Ring {
    fn new(seed: u64, read_lease: Duration) -> Ring {
        let world = World::new(seed, Default::default());
        let nodes: Vec<HostId> = (1..=3).map(|node| world.add_host(&format!("node-{node}"))).collect();
        let client = world.add_host("client");
        for (node, host) in (1..).zip(&nodes) {
            let (me, disk) = (member(node), world.disk(*host));
            world.links().name(&me.peer, *host);
            world.links().name(&me.client, *host);
            world.start(*host, || async move {
                let net = SimNet::new();
                for (address, kind) in [(&me.client, Kind::Client), (&me.peer, Kind::Peer)] {
                    let door = net.clone();
                    let is_for = move |preamble: &_| Preamble::decode(preamble).is_ok_and(|preamble| preamble.kind == kind);
                    listen(address, move |preamble| is_for(preamble).then(|| door.clone()));
                }
                run::<Sim>(settings(node, read_lease), disk, net, || {}).await.expect("the shard starts");
            });
        }
        Ring { world, nodes, client }
    }

    fn host(&self, node: u64) -> HostId {
        self.nodes[node as usize - 1]
    }

    fn disk(&self, node: u64) -> SimDisk {
        self.world.disk(self.host(node))
    }

    fn view(&self, node: u64) -> Option<View> {
        probes(&self.world, self.host(node)).first()?.view()
    }

    /// The first of `among` to lead, and how long that took.
    fn await_leader(&self, among: &[u64]) -> (u64, Duration) {
        let (began, mut leader) = (self.world.now(), None);
        self.world.run_until(Duration::from_secs(30), Duration::from_millis(1), || {
            leader = among.iter().copied().find(|node| self.view(*node).is_some_and(|view| view.leads));
            leader.is_some()
        });
        (leader.expect("somebody leads"), self.world.now() - began)
    }

    /// A leader that has committed, and the two others.
    fn led(&self) -> (u64, [u64; 2]) {
        let mut leader = self.await_leader(&[1, 2, 3]).0;
        // All three found the ring: the first to lead need not stay.
        while self.world.block_on(self.client, put_once(leader)) != Said::Done {
            leader = self.await_leader(&[1, 2, 3]).0;
        }
        let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
        (leader, [others[0], others[1]])
    }
}

async fn put_once(node: u64) -> Said {
    Caller::dial(node).await.expect("the node is up").put(b"value").await
}

/// The end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Done,
    Refused(Refusal),
    /// The connection ended, or there was no answer for long.
    Nothing,
}

impl Said {
    fn code(&self) -> Option<Code> {
        match self {
            Said::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }
}

/// A client's connection, for one call after the other.
struct Caller {
    frames: FrameReader<Sim>,
    writer: SimWriter,
}

impl Caller {
    async fn dial(node: u64) -> Option<Caller> {
        let preamble = Preamble { version: VERSION, kind: Kind::Client, shard: 0 };
        let (reader, writer) = SimNet::new().connect(&member(node).client, preamble.encode()).await.ok()?;
        let mut caller = Caller { frames: FrameReader::new(reader, 1 << 20), writer };
        let hello = Hello { version_min: VERSION, version_max: VERSION, features: 0, ring: RING, client: "test" };
        (caller.call(0, &RequestBody::Hello(hello)).await == Said::Done).then_some(caller)
    }

    async fn call(&mut self, deadline_ms: u32, body: &RequestBody<'_>) -> Said {
        let mut out = Vec::new();
        Encoder::new().request(&mut out, 1, deadline_ms, body);
        let answer = async {
            self.writer.write_all(&out).await.ok()?;
            self.frames.next().await.ok()?
        };
        let Ok(Some(frame)) = timeout::<Sim, _>(Duration::from_secs(20), answer).await else { return Said::Nothing };
        match client::parse_reply(&frame).expect("a node's frames are replies").body {
            ReplyBody::Refused(refusal) => Said::Refused(refusal),
            _ => Said::Done,
        }
    }

    async fn put(&mut self, value: &[u8]) -> Said {
        let life = Life::default();
        let put = Put { namespace: "", key: b"key", value, session: 0, sequence: 0, answered_below: 0, life };
        self.call(0, &RequestBody::Put(put)).await
    }

    /// A linearizable read; how it ended, and after how long.
    async fn read(&mut self, deadline_ms: u32) -> (Said, Duration) {
        let began = Sim::now();
        let get = Get { namespace: "", key: b"key", consistency: Consistency::Linearizable };
        let said = self.call(deadline_ms, &RequestBody::Get(get)).await;
        (said, Sim::now().since(began))
    }
}

/// A leader died; one that has all was elected by one whose disk is full, answers heartbeats, and takes no entries. The new leader's first
/// entry was not committed for as long as that took, and neither was any read answered, whatever its deadline; nor those behind it.
#[test]
fn reads_of_a_leader_that_cannot_commit_are_refused_by_their_deadlines() {
    let ring = Ring::new(1, Duration::ZERO);
    let (leader, [full, heir]) = ring.led();
    let used = ring.disk(full).used();
    ring.disk(full).set(|disk| disk.capacity = used);
    ring.world.block_on(ring.client, async {
        let mut caller = Caller::dial(leader).await.expect("the leader is up");
        let last = |node| ring.view(node).and_then(|view| view.last).map_or(0, |id| id.index);
        for _ in 0..500 {
            assert_eq!(caller.put(&[7; 16 << 10]).await, Said::Done);
            if last(full) + 5 < last(heir) {
                return;
            }
        }
        panic!("the full disk takes everything");
    });
    ring.world.crash(ring.host(leader), Crash::Kill);
    assert_eq!(ring.await_leader(&[full, heir]).0, heir, "the other one lacks entries");

    let [first, queued, patient] = ring.world.block_on(ring.client, async {
        let (a, b, c) = (Caller::dial(heir).await, Caller::dial(heir).await, Caller::dial(heir).await);
        let (Some(mut first), Some(mut queued), Some(mut patient)) = (a, b, c) else { panic!("the heir is up") };
        let queued = async {
            // The round of the first read is under way by then.
            Sim::sleep(Duration::from_millis(50)).await;
            queued.read(200).await
        };
        future::join3(first.read(200), queued, patient.read(0)).await.into()
    });
    for (said, took) in [first, queued] {
        assert_eq!(said.code(), Some(Code::DeadlineExceeded), "{said:?}");
        assert!(took < Duration::from_millis(200) + SLACK, "{took:?}");
    }
    assert_eq!(patient.0.code(), Some(Code::NotLeader), "{patient:?}");
    assert!(patient.1 < 2 * ELECTION_TIMEOUT_MAX + SLACK, "{:?}", patient.1);

    // All is well again, and what was refused is answered.
    ring.disk(full).set(|disk| disk.capacity = u64::MAX);
    let committed = || ring.view(heir).is_some_and(|view| view.committed.is_some() && view.committed == view.last);
    assert!(ring.world.run_until(Duration::from_secs(30), Duration::from_millis(10), committed));
    let read = async { Caller::dial(heir).await.expect("the heir is up").read(200).await.0 };
    assert_eq!(ring.world.block_on(ring.client, read), Said::Done);
}

/// The followers of a leader whose sync had failed saw their connections close, knocked at its door, and were welcomed: they took it for
/// alive, and its lease decided.
#[test]
fn a_leader_whose_sync_fails_is_replaced_before_its_lease_ends() {
    for seed in 1..=3 {
        let ring = Ring::new(seed, Duration::ZERO);
        let (leader, others) = ring.led();
        ring.disk(leader).fail_syncs(u64::MAX);
        let said = ring.world.block_on(ring.client, async {
            let mut caller = Caller::dial(leader).await.expect("the leader is up");
            timeout::<Sim, _>(Duration::from_millis(5), caller.put(b"value")).await
        });
        assert_ne!(said.ok(), Some(Said::Done), "seed {seed}");
        let fault = || ring.view(leader).is_some_and(|view| view.fault.is_some());
        assert!(ring.world.run_until(Duration::from_secs(1), Duration::from_millis(1), fault), "seed {seed}");
        let (_, took) = ring.await_leader(&others);
        assert!(took < ELECTION_TIMEOUT_MIN, "seed {seed}: {took:?}");
    }
}

/// A follower that had waited for the end of what it had promised to the dead leader gave up when it had promised more meanwhile, with its
/// answer to an append that was on its way to the disk: nobody tried again, and raft's lease decided.
#[test]
fn promises_that_are_made_after_a_leaders_end_are_waited_for() {
    let read_lease = ELECTION_TIMEOUT_MIN;
    for seed in 1..=5 {
        let ring = Ring::new(seed, read_lease);
        let (leader, others) = ring.led();
        for node in others {
            ring.disk(node).set(|disk| disk.durable_ns = (4_000_000, 8_000_000));
        }
        let written = Rc::new(Cell::new(0));
        ring.world.start(ring.client, future::pending::<()>);
        for _ in 0..8 {
            let written = written.clone();
            let writing = async move {
                let mut caller = Caller::dial(leader).await.expect("the leader is up");
                while caller.put(b"value").await == Said::Done {
                    written.set(written.get() + 1);
                }
            };
            ring.world.enter(ring.client, || Sim::spawn(writing));
        }
        assert!(ring.world.run_until(Duration::from_secs(10), Duration::from_millis(1), || written.get() > 200));
        ring.world.crash(ring.host(leader), Crash::Kill);
        let (_, took) = ring.await_leader(&others);
        assert!(took > read_lease / 2, "seed {seed}: {took:?}, and nobody else could be elected for {read_lease:?}");
        assert!(took < ELECTION_TIMEOUT_MAX, "seed {seed}: {took:?}");
    }
}
