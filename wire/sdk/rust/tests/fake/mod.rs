//! A ring of fake nodes in this process that speaks the real wire: what the SDK is tested against.
//!
//! Every request is noted in `asked`. A test's `script` may answer it; what it leaves to the fake is answered as a good ring
//! would: the leader writes into one map with exactly-once by (session, sequence), the others redirect.

#![allow(dead_code)] // each test uses a part of it
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringbeam_sdk::{Code, LeaseState, Refusal, Role, SlotRange};
use ringbeam_wire::client::{
    Consistency, Encoder, Event, Events, Item, Items, Member, Moment, ReplyBody, RequestBody, Revision, Status, Topology,
    Value, WatchStarted, Welcome, Written, parse_request,
};
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::preamble::Preamble;
use ringbeam_wire::slots;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

pub const RING: u64 = 0xbea4;
pub const VALUE_BYTES_MAX: u32 = 1 << 20;

/// A request, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Hello { ring: u64, versions: (u16, u16) },
    Put { namespace: String, key: Vec<u8>, value: Vec<u8>, session: u64, sequence: u64, below: u64 },
    Delete { key: Vec<u8>, session: u64, sequence: u64 },
    Get { key: Vec<u8>, local: bool, consistency: Consistency },
    OpenSession,
    CloseSession(u64),
    Topology,
    Follow,
    Status,
    Ping,
    Watch { snapshot: bool },
    Scan { from: Vec<u8>, limit: u32, moment: Moment },
    Unpin(u64),
    Ring(String),
}

/// What a fake node does about it.
pub enum Act {
    Written(Written),
    Value(Option<Vec<u8>>),
    /// A value as of an index, with an age, stale or not.
    Aged(Vec<u8>, u64, Option<u32>, bool),
    Refuse(Refusal),
    Opened(u64),
    Topology(Topology),
    Status(Box<Status>),
    Done(String),
    Welcome(Welcome),
    /// A page of a scan: its keys, its index, whether there is more, and the pin.
    Items(Vec<&'static str>, u64, bool, u64),
    /// A lease with this id.
    Lease(u64),
    /// A watch that begins, and of which nothing comes.
    Watching,
    /// A put of this key at this index, to who watches.
    Event(String, u64),
    /// Several messages that answer one request.
    Each(Vec<Act>),
    /// No answer, ever.
    Silence,
    /// The connection ends at once.
    Close,
    /// The other act, later; meanwhile others are answered.
    Later(Duration, Box<Act>),
    /// As a good ring would, and then the connection ends instead of answering.
    ApplyAndClose,
}

/// Whom a request reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub node: u64,
    pub shard: u32,
    /// Counts the connections of all nodes.
    pub connection: u32,
    pub deadline_ms: u32,
}

type Replies = mpsc::UnboundedSender<Vec<u8>>;
type Script = dyn Fn(&Ring, At, &Asked) -> Option<Act> + Send + Sync;

pub struct Ring {
    pub members: Vec<Member>,
    pub shards: u32,
    pub leader: AtomicU64,
    pub term: AtomicU64,
    pub window: AtomicU32,
    pub asked: Mutex<Vec<(At, Asked)>>,
    pub store: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Answers by (session, sequence), and how many writes were applied.
    answers: Mutex<BTreeMap<(u64, u64), Written>>,
    sessions: AtomicU64,
    connections: AtomicU32,
    /// Connections of which neither side has ended.
    pub open: AtomicU32,
    /// Who follows the topology: shard, request id, and the way there.
    followers: Mutex<Vec<(u32, u64, Replies)>>,
    /// Watches that have begun and whose connections live.
    pub watches: AtomicU32,
    script: Box<Script>,
}

impl Ring {
    /// `nodes` nodes, all leaders of everything being node 1.
    pub async fn start(
        nodes: u64,
        shards: u32,
        script: impl Fn(&Ring, At, &Asked) -> Option<Act> + Send + Sync + 'static,
    ) -> Arc<Ring> {
        let mut listeners = Vec::new();
        let mut members = Vec::new();
        for node in 1..=nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
            let client = listener.local_addr().expect("a bound socket has an address").to_string();
            members.push(Member { node, client, region: format!("r{node}"), role: Role::Voter, ..Member::default() });
            listeners.push((node, listener));
        }
        let ring = Arc::new(Ring {
            members,
            shards,
            leader: AtomicU64::new(1),
            term: AtomicU64::new(1),
            window: AtomicU32::new(256),
            asked: Mutex::default(),
            store: Mutex::default(),
            answers: Mutex::default(),
            sessions: AtomicU64::new(0),
            connections: AtomicU32::new(0),
            open: AtomicU32::new(0),
            followers: Mutex::default(),
            watches: AtomicU32::new(0),
            script: Box::new(script),
        });
        for (node, listener) in listeners {
            tokio::spawn(serve(ring.clone(), node, listener));
        }
        ring
    }

    pub fn address(&self, node: u64) -> String {
        self.members[node as usize - 1].client.clone()
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }

    pub fn lead(&self, node: u64) {
        self.leader.store(node, Ordering::SeqCst);
        self.term.fetch_add(1, Ordering::SeqCst);
    }

    /// Tells everyone who follows how things are now.
    pub fn tell(&self) {
        for (shard, id, replies) in self.followers.lock().unwrap().iter() {
            let _ = replies.send(encode(*id, Act::Topology(self.topology(*shard))));
        }
    }

    pub fn applied(&self) -> usize {
        self.answers.lock().unwrap().len()
    }

    pub fn expire(&self, session: u64) -> Act {
        Act::Refuse(Refusal::new(Code::SessionExpired, format!("session {session} is not known")))
    }

    /// All requests of a kind so far, as (node, session, sequence, key).
    pub fn puts(&self) -> Vec<(u64, u64, u64, String)> {
        let asked = self.asked.lock().unwrap();
        let puts = asked.iter().filter_map(|(at, asked)| match asked {
            Asked::Put { session, sequence, key, .. } => {
                Some((at.node, *session, *sequence, String::from_utf8_lossy(key).into_owned()))
            }
            _ => None,
        });
        puts.collect()
    }

    pub fn count(&self, which: impl Fn(At, &Asked) -> bool) -> usize {
        self.asked.lock().unwrap().iter().filter(|(at, asked)| which(*at, asked)).count()
    }

    pub fn not_leader(&self) -> Refusal {
        match self.leader.load(Ordering::SeqCst) {
            0 => Refusal::not_leader(0, ""),
            leader => Refusal::not_leader(leader, self.address(leader)),
        }
    }

    pub fn topology(&self, shard: u32) -> Topology {
        let ranges = slots::ranges(self.shards).into_iter();
        Topology {
            epoch: 1,
            ring: RING,
            shard,
            leader: self.leader.load(Ordering::SeqCst),
            term: self.term.load(Ordering::SeqCst),
            slots: ranges.map(|(first, end, shard)| SlotRange { first, end, shard }).collect(),
            members: self.members.clone(),
        }
    }

    /// What a good ring would answer.
    pub fn usual(&self, at: At, asked: &Asked) -> Act {
        let leads = self.leader.load(Ordering::SeqCst) == at.node;
        match asked {
            Asked::Hello { .. } => Act::Welcome(Welcome {
                version: 1,
                ring: RING,
                node: at.node,
                shard: at.shard,
                key_bytes_max: 4096,
                value_bytes_max: VALUE_BYTES_MAX,
                session_window: self.window.load(Ordering::SeqCst),
                ..Welcome::default()
            }),
            Asked::Topology | Asked::Follow => Act::Topology(self.topology(at.shard)),
            Asked::Status => Act::Status(Box::new(Status { node: at.node, shard: at.shard, ..Status::default() })),
            Asked::Ping => Act::Done("here".into()),
            Asked::Watch { .. } => Act::Watching,
            Asked::Unpin(_) => Act::Done(String::new()),
            Asked::Scan { .. } if leads => Act::Items(Vec::new(), 1, false, 0),
            Asked::Get { key, local, .. } if leads || *local => Act::Value(self.store.lock().unwrap().get(key).cloned()),
            _ if !leads => Act::Refuse(self.not_leader()),
            Asked::Get { .. } => Act::Value(None),
            Asked::Scan { .. } => Act::Silence,
            Asked::OpenSession => Act::Opened(self.sessions.fetch_add(1, Ordering::SeqCst) + 1),
            Asked::CloseSession(_) => Act::Written(Written::default()),
            Asked::Put { key, value, session, sequence, .. } => {
                Act::Written(self.apply(*session, *sequence, |store| store.insert(key.clone(), value.clone()).is_some()))
            }
            Asked::Delete { key, session, sequence } => {
                Act::Written(self.apply(*session, *sequence, |store| store.remove(key).is_some()))
            }
            Asked::Ring(what) => Act::Done(format!("{what} by node {}", at.node)),
        }
    }

    fn apply(&self, session: u64, sequence: u64, op: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>) -> bool) -> Written {
        let mut answers = self.answers.lock().unwrap();
        if let Some(first) = answers.get(&(session, sequence)) {
            return Written { duplicate: true, ..*first };
        }
        let existed = op(&mut self.store.lock().unwrap());
        let revision = Revision { index: answers.len() as u64 + 1, position: 0 };
        let written = Written { revision, existed, ..Written::default() };
        answers.insert((session, sequence), written);
        written
    }
}

async fn serve(ring: Arc<Ring>, node: u64, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let connection = ring.connections.fetch_add(1, Ordering::SeqCst);
        let ring = ring.clone();
        tokio::spawn(async move {
            ring.open.fetch_add(1, Ordering::SeqCst);
            converse(ring.clone(), node, connection, stream).await;
            ring.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn converse(ring: Arc<Ring>, node: u64, connection: u32, stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let mut preamble = [0; 16];
    if reader.read_exact(&mut preamble).await.is_err() {
        return;
    }
    let shard = Preamble::decode(&preamble).expect("the SDK sends a preamble").shard;
    let (replies, mut outbox) = mpsc::unbounded_channel::<Vec<u8>>();
    let writing = tokio::spawn(async move {
        while let Some(bytes) = outbox.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut decoder = Decoder::new(32 << 20);
    let mut watches = 0;
    'conversation: loop {
        let bytes = match reader.read(decoder.space()).await {
            Ok(bytes) if bytes > 0 => bytes,
            _ => break,
        };
        decoder.filled(bytes);
        while let Some(payload) = decoder.next().expect("the SDK sends whole frames") {
            let request = parse_request(&payload).expect("the SDK sends requests");
            let at = At { node, shard, connection, deadline_ms: request.deadline_ms };
            let asked = owned(&request.body);
            ring.asked.lock().unwrap().push((at, asked.clone()));
            let act = (ring.script)(&ring, at, &asked).unwrap_or_else(|| ring.usual(at, &asked));
            match act {
                Act::Close => break 'conversation,
                Act::ApplyAndClose => {
                    ring.usual(at, &asked);
                    break 'conversation;
                }
                Act::Later(delay, act) => {
                    let (replies, id) = (replies.clone(), request.id);
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        let _ = replies.send(encode(id, *act));
                    });
                }
                Act::Silence => {}
                act => {
                    if asked == Asked::Follow {
                        ring.followers.lock().unwrap().push((shard, request.id, replies.clone()));
                    }
                    if matches!(asked, Asked::Watch { .. }) {
                        watches += 1;
                        ring.watches.fetch_add(1, Ordering::SeqCst);
                    }
                    let _ = replies.send(encode(request.id, act));
                }
            }
        }
    }
    ring.watches.fetch_sub(watches, Ordering::SeqCst);
    writing.abort();
}

fn encode(id: u64, act: Act) -> Vec<u8> {
    let mut out = Vec::new();
    let value;
    let body = match act {
        Act::Written(written) => ReplyBody::Written(written),
        Act::Value(found) => {
            value = found;
            let found = value.is_some();
            ReplyBody::Value(Value { found, value: value.as_deref().unwrap_or_default(), ..Value::default() })
        }
        Act::Aged(found, index, age_ms, stale) => {
            value = Some(found);
            let value = value.as_deref().unwrap_or_default();
            ReplyBody::Value(Value { found: true, value, index, age_ms, stale, ..Value::default() })
        }
        Act::Items(keys, index, more, pinned) => {
            let item = |key: &&'static str| Item { key: key.as_bytes(), found: true, value: b"v", ..Item::default() };
            ReplyBody::Items(Items { items: keys.iter().map(item).collect(), index, more, pinned, ..Items::default() })
        }
        Act::Lease(lease) => ReplyBody::Lease(LeaseState { lease, ..LeaseState::default() }),
        Act::Event(key, index) => {
            value = Some(key.into_bytes());
            let (key, revision) = (value.as_deref().unwrap_or_default(), Revision { index, position: 0 });
            ReplyBody::Events(Events { events: vec![Event { key, revision, ..Event::default() }], index, ..Events::default() })
        }
        Act::Each(acts) => return acts.into_iter().flat_map(|act| encode(id, act)).collect(),
        Act::Refuse(refusal) => ReplyBody::Refused(refusal),
        Act::Opened(session) => ReplyBody::SessionOpened { session, lifetime_ms: 60_000 },
        Act::Topology(topology) => ReplyBody::Topology(topology),
        Act::Status(status) => ReplyBody::Status(status),
        Act::Done(message) => ReplyBody::Done { message },
        Act::Welcome(welcome) => ReplyBody::Welcome(welcome),
        Act::Watching => ReplyBody::WatchStarted(WatchStarted { index: 1, oldest: Revision::default() }),
        Act::Silence | Act::Close | Act::Later(..) | Act::ApplyAndClose => {
            unreachable!("these send nothing")
        }
    };
    Encoder::new().reply(&mut out, id, &body);
    out
}

fn owned(body: &RequestBody<'_>) -> Asked {
    match body {
        RequestBody::Hello(hello) => Asked::Hello { ring: hello.ring, versions: (hello.version_min, hello.version_max) },
        RequestBody::Put(put) => Asked::Put {
            namespace: put.namespace.into(),
            key: put.key.into(),
            value: put.value.into(),
            session: put.session,
            sequence: put.sequence,
            below: put.answered_below,
        },
        RequestBody::Delete(delete) => {
            Asked::Delete { key: delete.key.into(), session: delete.session, sequence: delete.sequence }
        }
        RequestBody::Get(get) => {
            Asked::Get { key: get.key.into(), local: get.consistency == Consistency::Local, consistency: get.consistency }
        }
        RequestBody::OpenSession => Asked::OpenSession,
        RequestBody::CloseSession { session } => Asked::CloseSession(*session),
        RequestBody::GetTopology => Asked::Topology,
        RequestBody::FollowTopology => Asked::Follow,
        RequestBody::GetStatus => Asked::Status,
        RequestBody::Ping => Asked::Ping,
        RequestBody::Watch(watch) => Asked::Watch { snapshot: watch.snapshot },
        RequestBody::Scan(scan) => Asked::Scan { from: scan.from.into(), limit: scan.limit, moment: scan.moment },
        RequestBody::Unpin { pin } => Asked::Unpin(*pin),
        other => Asked::Ring(format!("{other:?}")),
    }
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
    listener.local_addr().expect("a bound socket has an address")
}
