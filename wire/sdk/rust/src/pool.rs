//! The connections of a client: one per (node, shard), opened when first needed, shared by all tasks.
//!
//! Two tasks that need the same connection wait for one dial. It has a task and a time of its own: a caller who gives up does not end it,
//! or callers with little time left could go on ending it for ever where a handshake takes longer than that. A dial that failed answers everyone for
//! [`CONNECT_FAILURE_SHARED`], so that a thousand tasks knock once at a dead node and not a thousand times. A dial that outlives the client
//! ends what it has opened.
//! Bounded by the addresses ever known times shards.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::time::{timeout, timeout_at};

use crate::breaker::{self, Leave};
use crate::client::Inner;
use crate::connection::{Connection, Doubt};
use crate::handshake::{self, OpenError};
use crate::health::Health;
use crate::limits::{CONNECT_FAILURE_SHARED, CONNECT_TIMEOUT};
use crate::observe::Hooks;
use crate::routing::Address;

type Entries = HashMap<Address, HashMap<u32, Arc<Entry>>>;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Pool {
    client: String,
    hooks: Hooks,
    /// The ring that nodes must belong to; 0 until the first answered.
    ring: AtomicU64,
    entries: Mutex<Entries>,
    /// Its client is gone.
    closed: AtomicBool,
    health: Mutex<HashMap<Address, Arc<Health>>>,
    /// Handed to every connection.
    doubt: Doubt,
}

#[derive(Debug, Default)]
struct Entry {
    connection: Mutex<Option<Arc<Connection>>>,
    /// Held while dialling; the last failure.
    dialling: tokio::sync::Mutex<Option<(Instant, OpenError)>>,
}

impl Pool {
    pub(crate) fn new(client: String, ring: u64, hooks: Hooks) -> Pool {
        Pool {
            client,
            hooks,
            ring: AtomicU64::new(ring),
            entries: Mutex::default(),
            closed: AtomicBool::new(false),
            health: Mutex::default(),
            doubt: Doubt::default(),
        }
    }

    /// From now on connections tell `client` when their node may not lead any more.
    pub(crate) fn serve(&self, client: Weak<Inner>) {
        // Set once: a pool has one client.
        let _ = self.doubt.set(client);
    }

    /// The ring that nodes must belong to, and what this client says it is.
    pub(crate) fn identity(&self) -> (u64, String) {
        (self.ring.load(Ordering::Relaxed), self.client.clone())
    }

    /// From now on only nodes of this ring.
    pub(crate) fn belong_to(&self, ring: u64) {
        self.ring.store(ring, Ordering::Relaxed);
    }

    /// The connection to this node and shard, opened if need be, until `deadline` at most.
    pub(crate) async fn open(
        self: &Arc<Self>,
        address: &Address,
        shard: u32,
        deadline: Instant,
    ) -> Result<Arc<Connection>, OpenError> {
        let entry = self.entries().entry(address.clone()).or_default().entry(shard).or_default().clone();
        if let Some(connection) = entry.open() {
            return Ok(connection);
        }
        let until = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        let dialling = tokio::spawn(self.clone().dial(entry, address.clone(), shard));
        match timeout_at(until.into(), dialling).await {
            Ok(Ok(dialled)) => dialled,
            Ok(Err(_)) => Err(OpenError::Connect(format!("{address}: the runtime that connects has ended"))),
            Err(_) => Err(OpenError::Connect(format!("{address}: no connection before the deadline"))),
        }
    }

    async fn dial(self: Arc<Self>, entry: Arc<Entry>, address: Address, shard: u32) -> Result<Arc<Connection>, OpenError> {
        let mut failure = entry.dialling.lock().await;
        if let Some(connection) = entry.open() {
            return Ok(connection);
        }
        if let Some((_, error)) = failure.as_ref().filter(|(at, _)| at.elapsed() < CONNECT_FAILURE_SHARED) {
            return Err(error.clone());
        }
        let (health, ring) = (self.health_of(&address), self.ring.load(Ordering::Relaxed));
        let opening = handshake::open(&address, shard, ring, &self.client, &self.doubt, &health);
        let late = |_| Err(OpenError::Connect(format!("{address}: no connection within {CONNECT_TIMEOUT:?}")));
        match timeout(CONNECT_TIMEOUT, opening).await.unwrap_or_else(late) {
            // Begun before the client had its ring, and answered by another one's node.
            Ok(connection) if ![0, connection.welcome.ring].contains(&self.ring.load(Ordering::Relaxed)) => {
                connection.close("the node is of another ring");
                Err(OpenError::Protocol(connection.why_closed()))
            }
            Ok(connection) => {
                entry.keep(connection.clone());
                // Looked at once it is kept: either this sees the flag, or whoever set it finds the connection.
                if self.closed.load(Ordering::SeqCst) {
                    connection.close("the client was dropped");
                    return Err(OpenError::Connect(connection.why_closed()));
                }
                if let Some(metrics) = &self.hooks.0 {
                    metrics.connection_opened(connection.welcome.node, shard);
                }
                *failure = None;
                Ok(connection)
            }
            Err(error) => {
                // What is refused or makes no sense is an answer, and no reason to leave the node alone.
                if matches!(error, OpenError::Connect(_)) {
                    health.failed();
                }
                *failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Who of these may be asked: not those that failed again and again just now, but always somebody.
    pub(crate) fn admit(&self, addresses: Vec<Address>) -> Vec<Address> {
        let now = Instant::now();
        let leaves: Vec<Leave> = addresses.iter().map(|address| self.health_of(address).ask(now)).collect();
        let admitted = breaker::admit(&leaves);
        admitted.into_iter().filter_map(|at| addresses.get(at).cloned()).collect()
    }

    fn health_of(&self, address: &Address) -> Arc<Health> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.entry(address.clone()).or_default().clone()
    }

    /// The same node is known under another address too.
    pub(crate) fn also_known_as(&self, address: &Address, connection: &Arc<Connection>) {
        let shard = connection.welcome.shard;
        let entry = self.entries().entry(address.clone()).or_default().entry(shard).or_default().clone();
        if entry.open().is_none() {
            entry.keep(connection.clone());
        }
    }

    /// Ends all connections, also those that are being opened.
    pub(crate) fn close(&self, why: &str) {
        self.closed.store(true, Ordering::SeqCst);
        let entries = std::mem::take(&mut *self.entries());
        for entry in entries.into_values().flat_map(HashMap::into_values) {
            if let Some(connection) = entry.open() {
                connection.close(why);
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    /// Of a client that came to be, it is closed already; this is for one that found no ring, or was given up while it looked for one.
    fn drop(&mut self) {
        self.close("the client was dropped");
    }
}

impl Entry {
    fn open(&self) -> Option<Arc<Connection>> {
        let kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.filter(|connection| connection.is_open())
    }

    fn keep(&self, connection: Arc<Connection>) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }
}
