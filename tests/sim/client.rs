//! A client inside the simulated world: the real wire protocol, and the SDK's own decisions (`routing`, `retry`, `session`) without
//! tokio.
//!
//! ```text
//!   put, delete, swap, get ─▶ ticket ─▶ attempt ─▶ Effort::after ─▶ again there, elsewhere, or an outcome
//!                                                               └─ nobody is named: all are asked who leads, the latest wins
//! ```
//! Its first request goes to any node, as that of a client whose topology is old. One call at a time: whoever wants several in flight
//! has several clients. Each shard has a connection and a session.
//!
//! **Invariants**
//! - [`Outcome::Refused`] and [`Outcome::Timeout`] are said only when the write cannot have happened and cannot happen later.
//! - A write is repeated only with the session and sequence that it was first sent with.
//!
//! **Not here**: what is asked, and what is remembered of the answers (`history.rs`).

mod outcome;

mod write;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ringbeam_sdk::limits::{OUTCOME_HELD, PROBE_GRACE, PROBE_TIMEOUT};
use ringbeam_sdk::retry::{Effort, Kind as Repeat, Leader, Next, Seen, Verdict};
use ringbeam_sdk::routing::{Address, Claim, Routes, believe};
use ringbeam_sdk::session::{Session, Ticket};
use ringbeam_shards::io::channel::Notify;
use ringbeam_shards::io::sim::{Sim, SimNet, SimReader, SimWriter, world_now_ns};
use ringbeam_shards::io::{Env, Instant, Net, Reader, Writer};
use ringbeam_shards::raft::runtime::timeout;
use ringbeam_wire::client::{
    Consistency, Counted, Encoder, Get, Hello, RangeDeleted, Reply, ReplyBody, RequestBody, Revision, Topology, Written,
};
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::limits::REPLY_FRAME_BYTES_MAX;
use ringbeam_wire::preamble::{Kind, Preamble, VERSION};
use ringbeam_wire::refusal::{Code, Refusal};
use ringbeam_wire::slots::{shard_of, slot_of};

pub use write::Write;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    Done(T),
    /// It certainly did not happen.
    Refused(Refusal),
    /// It certainly did not happen, and time is up.
    Timeout,
    /// It may have happened, or may yet.
    Unknown,
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub value: Vec<u8>,
    pub revision: Revision,
}

/// The answer of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub found: Option<Found>,
    /// The applied log index that it reflects.
    pub index: u64,
    pub age_ms: Option<u32>,
    pub stale: bool,
}

/// What a transaction of one key came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swapped {
    pub succeeded: bool,
    pub duplicate: bool,
    pub revision: Revision,
    /// What was there before.
    pub found: Option<Found>,
}

/// An answer as far as calls need it.
pub enum Answer {
    Written(Written),
    Swapped(Swapped),
    Counted(Counted),
    Erased(RangeDeleted),
    /// `None`: it never happens.
    Resolved(Option<Written>),
    Leased(u64),
    Value(Read),
    Opened(u64),
    Refused(Refusal),
    Other,
}

/// How an attempt ended.
enum Attempt {
    Answered(Answer),
    Lost { sent: bool },
    DeadlinePassed,
}

pub struct Connection {
    pub reader: SimReader,
    pub writer: SimWriter,
    pub decoder: Decoder,
    /// Who is there, and how many writes a session may have open.
    pub node: u64,
    pub window: u32,
}

/// What the client keeps of one shard.
struct Shard {
    address: String,
    connection: Option<Connection>,
    session: Session,
}

/// See the head of this file.
pub struct Client {
    net: SimNet,
    addresses: Vec<String>,
    /// What nodes have told of the ring; `None` before any did.
    routes: Option<Routes>,
    shards: u32,
    by_shard: BTreeMap<u32, Shard>,
    request: u64,
    encoder: Encoder,
    last_write: Option<(u64, u64)>,
}

/// An attempt without an answer for this long is given up: the host may be gone without a word.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// An attempt to connect takes at most this.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// The clock by which lost writes are held.
fn clock_ms() -> u64 {
    world_now_ns() / 1_000_000
}

impl<T> Outcome<T> {
    /// The same of what `take` finds in it; where it finds nothing, nobody knows what became of the call.
    fn map<U>(self, take: impl FnOnce(T) -> Option<U>) -> Outcome<U> {
        match self {
            Outcome::Done(done) => take(done).map_or(Outcome::Unknown, Outcome::Done),
            Outcome::Refused(refusal) => Outcome::Refused(refusal),
            Outcome::Timeout => Outcome::Timeout,
            Outcome::Unknown => Outcome::Unknown,
        }
    }
}

impl Answer {
    /// Of a write: whether there was a value, as 0 or 1, or how many went and whether there are more.
    pub fn said(&self) -> Option<(u32, bool)> {
        match self {
            Answer::Written(written) => Some((u32::from(written.existed), false)),
            Answer::Erased(deleted) => Some((deleted.deleted, deleted.more)),
            _ => None,
        }
    }
}

impl Outcome<Answer> {
    pub fn written(self) -> Outcome<Written> {
        self.map(|answer| match answer {
            Answer::Written(written) => Some(written),
            _ => None,
        })
    }

    pub fn leased(self) -> Outcome<u64> {
        self.map(|answer| match answer {
            Answer::Leased(lease) => Some(lease),
            _ => None,
        })
    }
}

impl Client {
    /// A client that knows these nodes. Connects when it is first asked for something.
    pub fn new(addresses: Vec<String>, shards: u32) -> Client {
        Client {
            net: SimNet::new(),
            addresses,
            routes: None,
            shards,
            by_shard: BTreeMap::new(),
            request: 0,
            encoder: Encoder::new(),
            last_write: None,
        }
    }

    /// Sets a key, exactly once.
    pub async fn put(&mut self, key: &[u8], value: &[u8], limit: Duration) -> Outcome<Written> {
        self.write(Write::Put(key, value), limit).await.written()
    }

    /// Adds to a counter, exactly once.
    pub async fn add(&mut self, key: &[u8], delta: i64, limit: Duration) -> Outcome<Counted> {
        self.write(Write::Add(key, delta), limit).await.map(|answer| match answer {
            Answer::Counted(counted) => Some(counted),
            _ => None,
        })
    }

    /// Removes a key, exactly once.
    pub async fn delete(&mut self, key: &[u8], limit: Duration) -> Outcome<Written> {
        self.write(Write::Delete(key), limit).await.written()
    }

    /// Sets a key if it is at `revision` (zero: it has no value), exactly once.
    pub async fn swap(&mut self, key: &[u8], value: &[u8], revision: Revision, limit: Duration) -> Outcome<Swapped> {
        self.write(Write::Swap(key, value, revision), limit).await.map(|answer| match answer {
            Answer::Swapped(swapped) => Some(swapped),
            _ => None,
        })
    }

    /// Reads a key.
    pub async fn get(&mut self, key: &[u8], consistency: Consistency, limit: Duration) -> Outcome<Read> {
        self.get_in("", key, consistency, limit).await
    }

    /// Reads a key of a namespace.
    pub async fn get_in(&mut self, namespace: &str, key: &[u8], consistency: Consistency, limit: Duration) -> Outcome<Read> {
        let (shard, end) = (self.shard_of(key), Sim::now() + limit);
        let body = RequestBody::Get(Get { namespace, key, consistency });
        let mut effort = Effort::new(Repeat::Read);
        loop {
            let attempt = self.attempt(shard, &body, end).await;
            if let Attempt::Answered(Answer::Value(read)) = attempt {
                return Outcome::Done(read);
            }
            if let Err(over) = self.after(shard, attempt, &mut effort, end).await {
                return over;
            }
        }
    }

    /// What one node has applied, asked once.
    pub async fn get_at(&mut self, address: &str, key: &[u8], consistency: Consistency, limit: Duration) -> Option<Read> {
        let shard = self.shard_of(key);
        self.turn_to(shard, address.to_string());
        let body = RequestBody::Get(Get { namespace: "", key, consistency });
        match self.attempt(shard, &body, Sim::now() + limit).await {
            Attempt::Answered(Answer::Value(read)) => Some(read),
            _ => None,
        }
    }

    /// The ring's nodes, from now on: its endpoints have been configured anew.
    pub fn know(&mut self, addresses: &[String]) {
        if self.addresses != addresses {
            self.addresses = addresses.to_vec();
            self.routes = None;
        }
    }

    /// Session and sequence of the newest write; `None` when it had none yet.
    pub fn last_write(&self) -> Option<(u64, u64)> {
        self.last_write
    }

    /// A request that changes the ring or asks of it, once, to one node, without any retry.
    pub async fn ask(&mut self, address: &str, shard: u32, body: &RequestBody<'_>, limit: Duration) -> Result<(), String> {
        self.turn_to(shard, address.to_string());
        match self.attempt(shard, body, Sim::now() + limit).await {
            Attempt::Answered(Answer::Refused(refusal)) => Err(refusal.to_string()),
            Attempt::Answered(_) => Ok(()),
            Attempt::Lost { .. } => Err("the connection was lost".to_string()),
            Attempt::DeadlinePassed => Err("no answer in time".to_string()),
        }
    }

    /// A change of the ring, at whoever leads the shard: every node is asked in turn until one has done it.
    pub async fn change_ring(&mut self, shard: u32, body: &RequestBody<'_>, limit: Duration) -> Result<(), String> {
        let end = Sim::now() + limit;
        loop {
            let mut why = String::new();
            for address in self.addresses.clone() {
                match self.ask(&address, shard, body, Duration::from_secs(5)).await {
                    Ok(()) => return Ok(()),
                    Err(refused) => why = format!("{address}: {refused}"),
                }
            }
            if Sim::now() >= end {
                return Err(why);
            }
            Sim::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The session that it has with the shard of `key`; 0 when there is none.
    pub fn session_of(&self, key: &[u8]) -> u64 {
        self.by_shard.get(&self.shard_of(key)).map_or(0, |shard| shard.session.id())
    }

    /// Where a key is.
    pub fn shard_of(&self, key: &[u8]) -> u32 {
        shard_of(slot_of(key), self.shards)
    }

    pub async fn write(&mut self, write: Write<'_>, limit: Duration) -> Outcome<Answer> {
        let (shard, end) = (self.shard_of(write.key()), Sim::now() + limit);
        let mut effort = Effort::new(Repeat::ExactlyOnce);
        self.last_write = None;
        let mut ticket = match self.ticket(shard, end).await {
            Ok(ticket) => ticket,
            Err(over) => return over,
        };
        let outcome = loop {
            self.last_write = Some((ticket.session, ticket.sequence));
            let attempt = self.attempt(shard, &write.body(ticket), end).await;
            if let Attempt::Answered(
                answer @ (Answer::Written(_) | Answer::Swapped(_) | Answer::Counted(_) | Answer::Erased(_) | Answer::Leased(_)),
            ) = attempt
            {
                break Outcome::Done(answer);
            }
            match self.after(shard, attempt, &mut effort, end).await {
                Err(over) => break over,
                Ok(false) => {}
                Ok(true) => {
                    self.shard(shard).session.expired(ticket.session);
                    ticket = match self.ticket(shard, end).await {
                        Ok(ticket) => ticket,
                        Err(over) => break over,
                    };
                }
            }
        };
        let session = &mut self.shard(shard).session;
        if matches!(outcome, Outcome::Unknown) {
            session.hold(ticket, clock_ms() + OUTCOME_HELD.as_millis() as u64);
        }
        session.settle(ticket);
        if matches!(&outcome, Outcome::Refused(refusal) if refusal.code == Code::SessionExpired) {
            session.expired(ticket.session);
        }
        outcome
    }

    /// A ticket; opens a session first if there is none.
    async fn ticket<T>(&mut self, shard: u32, end: Instant) -> Result<Ticket, Outcome<T>> {
        // A session that was opened and whose id was lost is forgotten by the ring in time.
        let mut effort = Effort::new(Repeat::Read);
        loop {
            let session = &mut self.shard(shard).session;
            session.release_before(clock_ms());
            if let Ok(ticket) = session.begin() {
                return Ok(ticket);
            }
            let attempt = self.attempt(shard, &RequestBody::OpenSession, end).await;
            if let Attempt::Answered(Answer::Opened(session)) = attempt {
                let shard = self.shard(shard);
                let window = shard.connection.as_ref().map_or(0, |connection| connection.window);
                shard.session.opened(session, window);
                continue;
            }
            self.after(shard, attempt, &mut effort, end).await?;
        }
    }

    fn shard(&mut self, shard: u32) -> &mut Shard {
        let addresses = &self.addresses;
        self.by_shard.entry(shard).or_insert_with(|| Shard {
            address: addresses[Sim::random() as usize % addresses.len()].clone(),
            connection: None,
            session: Session::new(),
        })
    }

    fn turn_to(&mut self, shard: u32, address: String) {
        let shard = self.shard(shard);
        if shard.address != address {
            shard.connection = None;
            shard.address = address;
        }
    }

    /// Decides what follows an attempt, and waits as long as it says. `Ok(true)`: with a new session.
    async fn after<T>(&mut self, shard: u32, attempt: Attempt, effort: &mut Effort, end: Instant) -> Result<bool, Outcome<T>> {
        let refusal = match &attempt {
            Attempt::Answered(Answer::Refused(refusal)) => Some(refusal.clone()),
            _ => None,
        };
        let seen = match (&refusal, &attempt) {
            (Some(refusal), _) => Seen::Refused(refusal),
            (None, Attempt::Lost { sent }) => Seen::Lost { sent: *sent },
            (None, Attempt::DeadlinePassed) => Seen::DeadlinePassed,
            // An answer of another kind: the connection is of no use.
            (None, Attempt::Answered(_)) => Seen::Lost { sent: true },
        };
        if !matches!(seen, Seen::Refused(_)) {
            self.shard(shard).connection = None;
        }
        let over = |verdict| match (verdict, refusal.clone()) {
            (Verdict::Refused, Some(refusal)) => Outcome::Refused(refusal),
            (Verdict::Unknown, _) => Outcome::Unknown,
            (Verdict::Timeout | Verdict::Refused, _) => Outcome::Timeout,
        };
        let (wait, leader, new_session) = match effort.after(seen, Sim::random()) {
            Next::Fail(verdict) => return Err(over(verdict)),
            Next::Again { after, leader, new_session } => (after, leader, new_session),
        };
        if Sim::now() + wait >= end {
            return Err(over(effort.out_of_time()));
        }
        match (leader, refusal) {
            (Leader::Same, _) => {}
            (Leader::Named, Some(refusal)) if !refusal.leader_address.is_empty() => self.turn_to(shard, refusal.leader_address),
            (Leader::Named | Leader::Search, _) => {
                let found = self.find_leader(shard, end).await;
                let next = found.unwrap_or_else(|| self.addresses[Sim::random() as usize % self.addresses.len()].clone());
                self.turn_to(shard, next);
            }
        }
        if !wait.is_zero() {
            Sim::sleep(wait).await;
        }
        Ok(new_session)
    }

    /// Asks every node that is known who leads the shard, all at once, and gives the address of the latest leader that was named.
    async fn find_leader(&mut self, shard: u32, end: Instant) -> Option<String> {
        let known: Vec<Address> = match &self.routes {
            Some(routes) => routes.askable(),
            None => self.addresses.iter().map(|address| Address::from(address.as_str())).collect(),
        };
        let asked = known.len();
        let told = Rc::new((RefCell::new(Vec::new()), Notify::new()));
        for address in known {
            let (net, told) = (self.net.clone(), told.clone());
            Sim::spawn(async move {
                let answer = timeout::<Sim, _>(PROBE_TIMEOUT, topology_of(&net, &address, shard)).await;
                told.0.borrow_mut().push(answer.ok().and_then(Result::ok));
                told.1.notify_one();
            });
        }
        let mut until = end.min(Sim::now() + PROBE_TIMEOUT);
        let mut answers = 0;
        while answers < asked && Sim::now() < until {
            // Too late is as good as no answer: the loop looks.
            let _ = timeout::<Sim, _>(until.since(Sim::now()), told.1.notified()).await;
            let heard = told.0.borrow();
            if heard[answers..].iter().flatten().any(|(_, topology): &(u64, Topology)| topology.leader != 0) {
                until = until.min(Sim::now() + PROBE_GRACE);
            }
            answers = heard.len();
        }
        let heard: Vec<(u64, Topology)> = told.0.borrow_mut().drain(..).flatten().collect();
        for (_, topology) in &heard {
            self.learn(topology);
        }
        let claim = |(from, topology): &(u64, Topology)| Claim { from: *from, leader: topology.leader, term: topology.term };
        let claims: Vec<Claim> = heard.iter().map(claim).collect();
        let leader = believe(&claims)?.leader;
        self.routes.as_ref()?.address_of(leader).map(|address| address.to_string())
    }

    /// Takes a topology over; of another ring, or with other shards, there is none here.
    fn learn(&mut self, topology: &Topology) {
        match &mut self.routes {
            Some(routes) => assert!(routes.learn(topology).is_ok(), "the ring's own topology: {topology:?}"),
            None => {
                let endpoints: Vec<Address> = self.addresses.iter().map(|a| Address::from(a.as_str())).collect();
                self.routes = Routes::new("", &endpoints, topology).ok();
            }
        }
    }

    /// Sends a request to the node that is taken for the leader, and waits for its answer.
    async fn attempt(&mut self, shard: u32, body: &RequestBody<'_>, end: Instant) -> Attempt {
        let left = end.since(Sim::now());
        if left.is_zero() {
            return Attempt::Lost { sent: false };
        }
        if self.shard(shard).connection.is_none() {
            let address = self.shard(shard).address.clone();
            match timeout::<Sim, _>(left.min(CONNECT_MAX), open(&self.net, &address, shard)).await {
                Ok(Ok(connection)) => self.shard(shard).connection = Some(connection),
                Ok(Err(_)) | Err(_) => return Attempt::Lost { sent: false },
            }
        }
        let Some(mut connection) = self.shard(shard).connection.take() else { return Attempt::Lost { sent: false } };
        self.request += 1;
        let left = end.since(Sim::now());
        let deadline_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        let mut out = Vec::new();
        self.encoder.request(&mut out, self.request, deadline_ms, body);
        let request = self.request;
        let answered = timeout::<Sim, _>(left.min(SILENCE_MAX), async {
            connection.writer.write_all(&out).await?;
            connection.answer(request).await
        });
        match answered.await {
            Ok(Ok(answer)) => {
                self.shard(shard).connection = Some(connection);
                Attempt::Answered(answer)
            }
            Err(_) if Sim::now() >= end => Attempt::DeadlinePassed,
            Ok(Err(_)) | Err(_) => Attempt::Lost { sent: true },
        }
    }
}

/// Who leads a shard, as one node has it, and which node that is.
async fn topology_of(net: &SimNet, address: &str, shard: u32) -> std::io::Result<(u64, Topology)> {
    let mut connection = open(net, address, shard).await?;
    let mut out = Vec::new();
    Encoder::new().request(&mut out, 1, PROBE_TIMEOUT.as_millis() as u32, &RequestBody::GetTopology);
    connection.writer.write_all(&out).await?;
    let node = connection.node;
    connection
        .reply(1, |body| match body {
            ReplyBody::Topology(topology) => Ok((node, topology)),
            other => Err(std::io::Error::other(format!("{other:?} is no topology"))),
        })
        .await?
}

/// A connection on which a node has said welcome.
pub async fn open(net: &SimNet, address: &str, shard: u32) -> std::io::Result<Connection> {
    let preamble = Preamble { version: VERSION, kind: Kind::Client, shard };
    let (reader, writer) = net.connect(address, preamble.encode()).await?;
    let decoder = Decoder::new(REPLY_FRAME_BYTES_MAX as usize);
    let mut connection = Connection { reader, writer, decoder, node: 0, window: 0 };
    let hello = Hello { version_min: VERSION, version_max: VERSION, features: 0, ring: 0, client: "simulated" };
    let mut out = Vec::new();
    Encoder::new().request(&mut out, 0, 0, &RequestBody::Hello(hello));
    connection.writer.write_all(&out).await?;
    (connection.node, connection.window) = connection
        .reply(0, |body| match body {
            ReplyBody::Welcome(welcome) => Ok((welcome.node, welcome.session_window)),
            other => Err(std::io::Error::other(format!("{other:?} is no welcome"))),
        })
        .await??;
    Ok(connection)
}

impl Connection {
    async fn answer(&mut self, request: u64) -> std::io::Result<Answer> {
        self.reply(request, |body| match body {
            ReplyBody::Written(written) => Answer::Written(written),
            ReplyBody::Lease(lease) => Answer::Leased(lease.lease),
            ReplyBody::Value(value) => {
                let found = value.found.then(|| Found { value: value.value.to_vec(), revision: value.revision });
                Answer::Value(Read { found, index: value.index, age_ms: value.age_ms, stale: value.stale })
            }
            ReplyBody::Transacted(transacted) => Answer::Swapped(Swapped {
                succeeded: transacted.succeeded,
                duplicate: transacted.duplicate,
                revision: transacted.revision,
                found: transacted
                    .gets
                    .first()
                    .filter(|item| item.found)
                    .map(|item| Found { value: item.value.to_vec(), revision: item.revision }),
            }),
            ReplyBody::Counted(counted) => Answer::Counted(counted),
            ReplyBody::RangeDeleted(deleted) => Answer::Erased(deleted),
            ReplyBody::Resolved(resolved) => Answer::Resolved(outcome::told(&resolved)),
            ReplyBody::SessionOpened { session, .. } => Answer::Opened(session),
            ReplyBody::Refused(refusal) => Answer::Refused(refusal),
            _ => Answer::Other,
        })
        .await
    }

    /// Waits for the reply to `request`; those to earlier ones, given up long ago, are thrown away.
    pub async fn reply<T>(&mut self, request: u64, take: impl FnOnce(ReplyBody<'_>) -> T) -> std::io::Result<T> {
        loop {
            while let Some(frame) = self.decoder.next().map_err(std::io::Error::other)? {
                let Reply { id, body } = ringbeam_wire::client::parse_reply(&frame).map_err(std::io::Error::other)?;
                if id == request {
                    return Ok(take(body));
                }
            }
            let read = self.reader.read(self.decoder.space()).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.decoder.filled(read);
        }
    }
}
