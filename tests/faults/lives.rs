//! Keys and leases with a time of their own, while wall clocks jump: they go by the time that has passed, whatever the clocks say.
//!
//! ```text
//!   sent ── the ring has it ── answered
//!    └────── TTL: it is there ──────┐└────── TTL + LATE: it is gone ──────┐
//! ```
//! Both bounds are this process' own monotonic time, so they hold however slow the machine is.
//!
//! **Not here**: what a time means to every kind of write (`leases.rs`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringbeam_sdk::{Client, Code, Error, Holder, PutOptions};
use ringbeam_wire::client::{Consistency, Get, RequestBody};

use crate::ring::Ring;
use crate::ring::raw::{Got, Raw};
use crate::stage::SOON;

/// Of the short lives: longer than it takes to look after a jump.
const TTL: Duration = Duration::from_secs(5);

/// Of the long one: much longer than all this takes, and shorter than a clock jumps.
const LONG_TTL: Duration = Duration::from_secs(1_800);

/// So much after its time a key is gone. A clock that is an hour slow would keep it for an hour.
const LATE: Duration = Duration::from_secs(30);

const LONG: &str = "life/long";
const KEPT: &str = "life/kept";

/// What has its time from a moment between these two on.
#[derive(Clone, Copy)]
struct Begun {
    sent: Instant,
    answered: Instant,
}

/// Keys and leases that are looked after.
pub struct Lives {
    client: Client,
    short: Vec<(String, Begun)>,
    number: u32,
    gone: u32,
    keeper: Option<Keeper>,
    lapsed: bool,
}

impl Lives {
    /// A key with a long life, and one whose lease is kept alive from here on.
    pub async fn begin(ring: &Ring) -> Lives {
        let client = ring.client().await.with_timeout(SOON);
        put(&client, LONG, Some(LONG_TTL), None).await.expect("a write");
        for node in &ring.nodes {
            ring.wait_caught_up(node.id).await;
        }
        let keeper = Some(Keeper::start(&client, &ring.endpoints()).await);
        Lives { client, short: Vec::new(), number: 0, gone: 0, keeper, lapsed: false }
    }

    /// Two short lives begin: a key with a time, and one whose lease nobody keeps alive.
    pub async fn add(&mut self) {
        self.number += 1;
        let (timed, leased) = (format!("life/timed/{}", self.number), format!("life/leased/{}", self.number));
        let begun = put(&self.client, &timed, Some(TTL), None).await.expect("a write");
        self.short.push((timed, begun));
        let sent = Instant::now();
        let lease = self.client.grant_lease(0, TTL).await.expect("a lease").lease;
        let begun = Begun { sent, answered: Instant::now() };
        match put(&self.client, &leased, None, Some(lease)).await {
            Ok(_) => self.short.push((leased, begun)),
            Err(e) => assert!(sent.elapsed() >= TTL, "a lease ended {:?} after it was asked for: {e}", sent.elapsed()),
        }
    }

    /// Nothing is gone before its time, nothing is there long after it, on whichever node.
    pub async fn look(&mut self, ring: &Ring) {
        assert!(self.has(LONG).await, "a key with {LONG_TTL:?} to live is gone");
        for node in ring.nodes.iter().filter(|node| ring.runs(node.id)) {
            let body = RequestBody::Get(Get { key: LONG.as_bytes(), consistency: Consistency::Local, ..Get::default() });
            let got = Raw::greeted(&node.client, 0).ask(&body);
            assert!(matches!(got, Got::Value(Some(_))), "a key with {LONG_TTL:?} to live, read at node {}: {got:?}", node.id);
        }
        for (key, begun) in std::mem::take(&mut self.short) {
            let asked = Instant::now();
            if self.has(&key).await {
                let over = asked.saturating_duration_since(begun.answered);
                assert!(over < TTL + LATE, "{key} has {TTL:?} to live and is there after {over:?}");
                self.short.push((key, begun));
            } else {
                let lived = begun.sent.elapsed();
                assert!(lived >= TTL, "{key} had {TTL:?} to live and went after {lived:?}");
                self.gone += 1;
            }
        }
        let Some(keeper) = &self.keeper else { return };
        // Read before the key is: a lease can only be prolonged meanwhile.
        let kept = keeper.last();
        if !self.has(KEPT).await {
            let left_alone = kept.sent.elapsed();
            assert!(left_alone >= TTL, "a lease of {TTL:?} ended {left_alone:?} after it was kept alive");
            self.lapsed = true;
        }
    }

    /// Nobody keeps the lease alive any more; waits until all short lives have ended. What they were, or `None`: this machine stood still
    /// for so long that the lease lapsed, as it must then.
    pub async fn end(mut self, ring: &Ring) -> Option<String> {
        let since = self.keeper.as_ref().expect("it ends here only").since;
        // What is kept alive for less than twice its time shows nothing.
        tokio::time::sleep((2 * TTL + Duration::from_secs(1)).saturating_sub(since.elapsed())).await;
        self.look(ring).await;
        let kept = self.keeper.take().expect("it ends here only").end();
        if self.lapsed {
            return None;
        }
        self.short.push((KEPT.into(), kept));
        while !self.short.is_empty() {
            self.look(ring).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let long = (kept.sent - since).as_secs_f64();
        Some(format!("{} short lives; a lease of {TTL:?} kept alive for {long:.0} s", self.gone))
    }

    async fn has(&self, key: &str) -> bool {
        self.client.get(key).await.expect("a read").is_some()
    }
}

async fn put(client: &Client, key: &str, ttl: Option<Duration>, lease: Option<u64>) -> Result<Begun, Error> {
    let options = PutOptions { ttl, lease: lease.map(Holder::Id), ..PutOptions::default() };
    let sent = Instant::now();
    client.put_with(key, "v", &options).await?;
    Ok(Begun { sent, answered: Instant::now() })
}

/// Keeps a lease alive from a thread of its own: the test's waits for clocks.
struct Keeper {
    since: Instant,
    last: Arc<Mutex<Begun>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// A lease with a key.
    async fn start(client: &Client, endpoints: &str) -> Keeper {
        let since = Instant::now();
        let lease = client.grant_lease(0, TTL).await.expect("a lease").lease;
        let last = Arc::new(Mutex::new(Begun { sent: since, answered: Instant::now() }));
        let over = Arc::new(AtomicBool::new(false));
        let (shared, flag, endpoints) = (last.clone(), over.clone(), endpoints.to_string());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(keep(&endpoints, lease, &shared, &flag));
        });
        let keeper = Keeper { since, last, over, thread: Some(thread) };
        put(client, KEPT, None, Some(lease)).await.expect("a write with a lease that is kept alive");
        keeper
    }

    /// The last time that it was kept alive.
    fn last(&self) -> Begun {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets it go; what [`last`](Self::last) says then.
    fn end(mut self) -> Begun {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("a lease that is kept alive does not end");
        self.last()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // After a failure nobody waits; the thread ends by itself.
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Until it is over, or the lease has lapsed since it was kept alive last. Panics when it ends before that.
async fn keep(endpoints: &str, lease: u64, last: &Mutex<Begun>, over: &AtomicBool) {
    let client = Client::connect(endpoints).await.expect("the ring serves").with_timeout(TTL);
    while !over.load(Ordering::Relaxed) {
        let sent = Instant::now();
        match client.keep_lease(0, lease).await {
            Ok(_) => *last.lock().unwrap_or_else(PoisonError::into_inner) = Begun { sent, answered: Instant::now() },
            Err(Error::Refused(refusal)) if refusal.code == Code::LeaseNotFound => {
                let left_alone = last.lock().unwrap_or_else(PoisonError::into_inner).sent.elapsed();
                assert!(left_alone >= TTL, "a lease of {TTL:?} ended {left_alone:?} after it was kept alive");
                return;
            }
            // No answer says nothing.
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
