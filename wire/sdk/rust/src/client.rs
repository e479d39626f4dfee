//! The client: what applications hold. Cheap to clone, shared by any number of tasks.
//!
//! **Invariants**
//! - One ring for life: every connection of a client is to nodes of the ring that its first endpoint belonged to.
//! - One session per shard, so all clones together have one order of sequences per shard.
//!
//! **Not here**: how a call is carried out (`call.rs`), transactions (`txn.rs`), leases (`lease.rs`), reads of several keys (`scan.rs`), commands for operators
//! (`admin.rs`).

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringbeam_wire::client::{self as wire, Life, RequestBody, Topology, Written};
use ringbeam_wire::slots::slot_of;

use crate::answer::{Answer, Read, Value};
use crate::budget::Budget;
use crate::builder::Builder;
use crate::consistency::{Consistency, Marks, Token};
use crate::error::Error;
use crate::hedge::HedgeBudget;
use crate::lease::Holder;
use crate::observe::Hooks;
use crate::pool::Pool;
use crate::request::{Time, What, odd};
use crate::routing::Routes;
use crate::shard::{Led, Shard};

/// A ring's client. See the head of the crate for what it promises.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
    namespace: Arc<str>,
    pub(crate) timeout: Duration,
    consistency: Consistency,
    pub(crate) seen: Arc<Marks>,
}

/// How one put, delete or transaction differs from the client's settings.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Deadline of this call; `None`: the client's.
    pub timeout: Option<Duration>,
    /// Namespace of this call; `None`: the client's.
    pub namespace: Option<String>,
    /// Of a put: the key goes when so much ring time has passed, not before and hardly later. Rounded up to milliseconds.
    pub ttl: Option<Duration>,
    /// Of a put: the key goes when this lease ends.
    pub lease: Option<Holder>,
}

/// How one read differs from the client's settings.
#[derive(Clone, Debug, Default)]
pub struct GetOptions {
    /// How fresh the answer must be; `None`: as the client's [`Client::consistency`] says.
    pub consistency: Option<Consistency>,
    /// A read that any node may serve asks a second one when the first has not answered by then; `None`: never. At most one in twenty
    /// reads that say so does. For `get`; worth it at about the 95th percentile of the latency.
    pub hedge: Option<Duration>,
    /// Deadline of this call; `None`: the client's.
    pub timeout: Option<Duration>,
    /// Namespace of this call; `None`: the client's.
    pub namespace: Option<String>,
}

/// What all clones share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) sessions: bool,
    /// Off in tests only, which show what it is for.
    pub(crate) jitter: bool,
    budget: Mutex<Budget>,
    pub(crate) hedges: HedgeBudget,
    pub(crate) hooks: Hooks,
    pub(crate) pool: Arc<Pool>,
    pub(crate) shards: Vec<Shard>,
    /// The shard of every slot. Read by every call, so without a lock.
    slots: Vec<AtomicU16>,
    routes: Mutex<Routes>,
}

impl Client {
    /// Connects with default settings. `endpoints`: host:port of any nodes, comma separated; one that answers is enough.
    pub async fn connect(endpoints: &str) -> Result<Client, Error> {
        Client::builder().endpoints([endpoints]).connect().await
    }

    /// Settings first.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(inner: Inner, timeout: Duration) -> Client {
        let inner = Arc::new(inner);
        inner.pool.serve(Arc::downgrade(&inner));
        let seen = Arc::new(Marks::new(inner.shards.len()));
        Client { inner, namespace: "".into(), timeout, consistency: Consistency::default(), seen }
    }

    /// The same client, working in another namespace: at most 64 bytes, "" is the default one.
    pub fn namespace(&self, name: &str) -> Client {
        Client { namespace: name.into(), ..self.clone() }
    }

    /// The same client with another deadline per call.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { timeout, ..self.clone() }
    }

    /// The same client with another freshness of its reads, where a call does not say its own. Linearizable unless said.
    pub fn consistency(&self, consistency: Consistency) -> Client {
        Client { consistency, ..self.clone() }
    }

    /// What the session has seen so far: clones of this client share it.
    pub fn session_token(&self) -> Token {
        self.seen.token(self.inner.routes().ring())
    }

    /// The same client with a session of its own, which goes on where the token's is. Refuses a token of another ring.
    pub fn with_token(&self, token: &Token) -> Result<Client, Error> {
        let ring = self.inner.routes().ring();
        // A token that has seen nothing is of no ring.
        if token.ring() != ring && *token != Token::default() {
            return Err(Error::Protocol(format!("the token is of ring {:016x}, this client's is {ring:016x}", token.ring())));
        }
        Ok(Client { seen: Arc::new(Marks::of(self.inner.shards.len(), token)), ..self.clone() })
    }

    /// Sets a key. Returns once it is durable on a quorum and applied.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.put_with(key, value, &PutOptions::default()).await
    }

    /// Sets a key, with options.
    pub async fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &PutOptions,
    ) -> Result<Written, Error> {
        let (key, value) = (key.as_ref(), value.as_ref());
        let (mut life, mut timeout, mut whole) = (Life::default(), options.timeout, None);
        if options.ttl.is_some() || options.lease.is_some() {
            // A lease may have to be granted first: the write has what is left of the call's time.
            let time = Time::start(self.time(options.timeout));
            life = self.life(key, options, time).await?;
            (timeout, whole) = (Some(time.remaining()), Some(time));
        }
        let what = What::Put { namespace: self.name(&options.namespace), key, value, life };
        let answer = self.write(key, what, timeout).await;
        written(answer.map_err(|error| whole.map_or(error.clone(), |time| time.of_the_call(error)))?)
    }

    /// Removes a key. [`Written::existed`] says whether it was there.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.delete_with(key, &PutOptions::default()).await
    }

    /// Removes a key, with options.
    pub async fn delete_with(&self, key: impl AsRef<[u8]>, options: &PutOptions) -> Result<Written, Error> {
        let key = key.as_ref();
        let what = What::Delete { namespace: self.name(&options.namespace), key };
        written(self.write(key, what, options.timeout).await?)
    }

    /// Reads a key, linearizably unless [`Client::consistency`] says otherwise. `None`: it has no value.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, Error> {
        self.get_with(key, &GetOptions::default()).await
    }

    /// Reads a key, with options.
    pub async fn get_with(&self, key: impl AsRef<[u8]>, options: &GetOptions) -> Result<Option<Value>, Error> {
        Ok(self.read(key, options).await?.found)
    }

    /// Reads a key: also of one without a value it says what the answer reflects, and how old it may be.
    pub async fn read(&self, key: impl AsRef<[u8]>, options: &GetOptions) -> Result<Read, Error> {
        let key = key.as_ref();
        let (number, _) = self.inner.shard_of(key);
        let consistency = self.freshness(number, options);
        let what = What::Get { namespace: self.name(&options.namespace), key, consistency };
        let answer = match options.hedge {
            None => self.inner.read(number, what, self.time(options.timeout)).await?,
            Some(after) => Box::pin(self.inner.read_hedged(number, what, self.time(options.timeout), after)).await?,
        };
        self.saw(number, &answer);
        match answer {
            Answer::Value(found) => Ok(found.read()),
            other => Err(odd(&other)),
        }
    }

    /// A write of `key`, in this client's session.
    pub(crate) async fn write(&self, key: &[u8], what: What<'_>, of_call: Option<Duration>) -> Result<Answer, Error> {
        self.inner.write(key, what, self.time(of_call), &self.seen).await
    }

    /// A read of a shard, in this client's session.
    pub(crate) async fn read_of(&self, number: u32, what: What<'_>, of_call: Option<Duration>) -> Result<Answer, Error> {
        let answer = self.inner.read(number, what, self.time(of_call)).await?;
        self.saw(number, &answer);
        Ok(answer)
    }

    fn saw(&self, number: u32, answer: &Answer) {
        if let Some(index) = answer.index() {
            self.seen.saw(number, index);
        }
    }

    /// How fresh a read must be, as the wire says it.
    pub(crate) fn freshness(&self, number: u32, options: &GetOptions) -> wire::Consistency {
        options.consistency.unwrap_or(self.consistency).on_the_wire(self.seen.at(number))
    }

    /// The namespace of a call.
    pub(crate) fn name<'a>(&'a self, of_call: &'a Option<String>) -> &'a str {
        of_call.as_deref().unwrap_or(&self.namespace)
    }

    /// The time of a call.
    pub(crate) fn time(&self, of_call: Option<Duration>) -> Duration {
        of_call.unwrap_or(self.timeout)
    }
}

fn written(answer: Answer) -> Result<Written, Error> {
    match answer {
        Answer::Written(written) => Ok(written),
        other => Err(odd(&other)),
    }
}

impl Inner {
    pub(crate) fn new(pool: Arc<Pool>, routes: Routes, sessions: bool, jitter: bool, hooks: Hooks) -> Inner {
        let slots = routes.slot_table().into_iter().map(AtomicU16::new).collect();
        let shards = (0..routes.shards()).map(|_| Shard::default()).collect();
        let budget = Mutex::new(Budget::new(Instant::now()));
        let hedges = HedgeBudget::default();
        Inner { sessions, jitter, budget, hedges, hooks, pool, shards, slots, routes: Mutex::new(routes) }
    }

    /// Takes a retry out of the budget. False: there is none.
    pub(crate) fn may_retry(&self) -> bool {
        let fresh = self.shards.iter().map(Shard::harvest).sum();
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.earn(fresh, Instant::now());
        budget.spend()
    }

    /// 64 bits for a wait with full jitter.
    pub(crate) fn dice(&self) -> u64 {
        if self.jitter { fastrand::u64(..) } else { u64::MAX }
    }

    pub(crate) fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node that this client follows tells what has changed.
    pub(crate) fn told(&self, topology: &Topology) {
        self.learn(topology);
        let address = self.routes().address_of(topology.leader);
        if let (Some(address), Some(shard)) = (address, self.shards.get(topology.shard as usize)) {
            shard.told(Led { term: topology.term, node: topology.leader }, address);
        }
    }

    /// Takes over a topology if it is news. One that does not fit is ignored: its sender is not of this ring.
    pub(crate) fn learn(&self, topology: &Topology) {
        let mut routes = self.routes();
        if let Ok(true) = routes.learn(topology) {
            for (slot, shard) in self.slots.iter().zip(routes.slot_table()) {
                slot.store(shard, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn shard_of(&self, key: &[u8]) -> (u32, &Shard) {
        let slot = usize::from(slot_of(key));
        let number = self.slots.get(slot).map_or(0, |shard| shard.load(Ordering::Relaxed));
        // `Routes` lets no topology in whose shards differ from those of the founding, so this index is there.
        (u32::from(number), &self.shards[usize::from(number)])
    }
}

impl Drop for Inner {
    /// The ring keeps a session's answers until it expires; a goodbye frees them at once.
    fn drop(&mut self) {
        const WHY: &str = "the client was dropped";
        for (leader, session) in self.shards.iter().filter_map(Shard::farewell) {
            leader.close_saying(&RequestBody::CloseSession { session }, WHY);
        }
        self.pool.close(WHY);
    }
}
