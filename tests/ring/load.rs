//! Load with a memory: tasks that write through the SDK from a thread of their own, and remember what the ring has promised.
//!
//! ```text
//!   uniques   a new key each time           acknowledged -> must be there; refused -> must never be; unknown -> may be
//!   counters  1, 2, 3 ... on one key        the value never goes back, and is the last acknowledged or a later attempt
//!   toggles   put, delete, put, delete ...  `existed` must be false, true, false, true ...
//! ```
//!
//! What a write applied twice shows: a unique key that existed before its first put; a toggle whose `existed` is the wrong way
//! round; a counter whose stored revision is not the acknowledged one; a revision that was given twice.
//!
//! The load has its own thread and runtime, so that a test may block (kill, wait for a process) without a pause in the load.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringbeam_sdk::{Client, Error, Revision, Written};
use ringbeam_wire::slots::{shard_of, slot_of};

/// How many tasks of each kind; each has one write in flight.
#[derive(Clone, Copy, Debug)]
pub struct Tasks {
    pub uniques: u32,
    pub counters: u32,
    pub toggles: u32,
    /// Pause of a unique-key task after each write.
    pub pause: Duration,
    /// Pause of the others.
    pub pause_rest: Duration,
    /// Deadline of each write.
    pub timeout: Duration,
}

/// What became of a unique key's put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Acked(Revision),
    Never,
    Unknown,
}

/// One counter key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    pub attempted: u64,
    pub acked: u64,
    pub acked_revision: Revision,
}

/// What the ring has promised so far.
#[derive(Default)]
pub struct Ledger {
    pub uniques: BTreeMap<String, Fate>,
    pub counters: BTreeMap<String, Counter>,
    /// Moments of acknowledgements, in order.
    pub acks: Vec<Instant>,
    pub unknown: u64,
    pub never: u64,
    /// Answers that were given again to a retry: evidence that retries met writes that had been applied.
    pub duplicates: u64,
    /// Promises broken, in words.
    pub broken: Vec<String>,
    revisions: HashSet<(u32, Revision)>,
    shards: u32,
}

impl Ledger {
    fn acked(&mut self, key: &str, written: &Written) {
        self.acks.push(Instant::now());
        self.duplicates += u64::from(written.duplicate);
        let shard = shard_of(slot_of(key.as_bytes()), self.shards);
        if !self.revisions.insert((shard, written.revision)) {
            self.broken.push(format!("{key}: revision {:?} of shard {shard} was given twice", written.revision));
        }
    }

    fn failed(&mut self, key: &str, error: &Error) -> Fate {
        match error {
            Error::Unknown { .. } => {
                self.unknown += 1;
                return Fate::Unknown;
            }
            Error::Protocol(why) | Error::Misuse(why) => self.broken.push(format!("{key}: {why}")),
            Error::Refused(_) | Error::Timeout { .. } | Error::Connect(_) => {}
        }
        self.never += 1;
        Fate::Never
    }

    fn note_unique(&mut self, key: String, answer: &Result<Written, Error>) {
        let fate = match answer {
            Ok(written) => {
                self.acked(&key, written);
                if written.existed {
                    self.broken.push(format!("{key}: applied twice, it existed before its only put: {written:?}"));
                }
                Fate::Acked(written.revision)
            }
            Err(e) => self.failed(&key, e),
        };
        self.uniques.insert(key, fate);
    }

    fn note_counter(&mut self, key: &str, number: u64, answer: &Result<Written, Error>) {
        let written = match answer {
            Ok(written) => written,
            Err(e) => {
                self.failed(key, e);
                return;
            }
        };
        self.acked(key, written);
        let counter = self.counters.entry(key.to_string()).or_default();
        let Counter { acked, acked_revision, .. } = *counter;
        (counter.acked, counter.acked_revision) = (number, written.revision);
        if written.revision <= acked_revision {
            let why = format!("{key}: {number} at {:?}, though {acked} was at {acked_revision:?}", written.revision);
            self.broken.push(why);
        }
    }

    fn note_toggle(&mut self, key: &str, exists: bool, answer: &Result<Written, Error>) -> Fate {
        let written = match answer {
            Ok(written) => written,
            Err(e) => return self.failed(key, e),
        };
        self.acked(key, written);
        if written.existed != exists {
            let what = if exists { "delete" } else { "put" };
            self.broken.push(format!("{key}: {what} says existed {}, applied twice or lost: {written:?}", written.existed));
        }
        Fate::Acked(written.revision)
    }

    /// Longest time without an acknowledgement between `from` and `to`.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let first = self.acks.partition_point(|at| *at < from).saturating_sub(1);
        let seen = self.acks[first..].iter().copied().take_while(|at| *at <= to);
        let mut last = None;
        let mut longest = Duration::ZERO;
        for at in seen.chain([to]) {
            longest = longest.max(at.duration_since(last.unwrap_or(at)));
            last = Some(at);
        }
        longest
    }
}

/// A running load.
pub struct Load {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts the tasks. They share `clients` clients, each of which has one session per shard.
    pub fn start(endpoints: &str, shards: u32, clients: u32, tasks: Tasks) -> Load {
        let ledger = Arc::new(Mutex::new(Ledger { shards, ..Ledger::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, flag, endpoints) = (ledger.clone(), stop.clone(), endpoints.to_string());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
            runtime.block_on(drive(shared, flag, endpoints, clients, tasks));
        });
        Load { ledger, stop, thread: Some(thread) }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no task panics while it holds the ledger")
    }

    pub fn acks(&self) -> usize {
        self.ledger().acks.len()
    }

    /// Waits until `count` more writes have been acknowledged.
    pub async fn wait_acks(&self, count: usize, limit: Duration) {
        let (began, before) = (Instant::now(), self.acks());
        while self.acks() < before + count {
            assert!(began.elapsed() < limit, "only {} of {count} writes were acknowledged in {limit:?}", self.acks() - before);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the load; every write in flight gets its answer first.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no task of the load panics");
        }
    }

    pub fn assert_unbroken(&self) {
        let ledger = self.ledger();
        assert!(ledger.broken.is_empty(), "{} promises broken:\n{}", ledger.broken.len(), ledger.broken.join("\n"));
    }

    /// Reads every counter, and every unique key that `wanted` picks, linearizably, and holds them against the ledger.
    pub async fn verify(&self, client: &Client, wanted: impl Fn(&str) -> bool) -> usize {
        let uniques: Vec<(String, Fate)> =
            self.ledger().uniques.iter().filter(|(k, _)| wanted(k)).map(|(k, fate)| (k.clone(), *fate)).collect();
        let counters: Vec<String> = self.ledger().counters.keys().cloned().collect();
        let checked = uniques.len() + counters.len();
        let mut lanes = tokio::task::JoinSet::new();
        let chunk = uniques.len().div_ceil(LANES).max(1);
        for part in uniques.chunks(chunk).map(<[_]>::to_vec) {
            let (client, ledger) = (client.clone(), self.ledger.clone());
            lanes.spawn(async move {
                for (key, fate) in part {
                    verify_unique(&client, &ledger, &key, fate).await;
                }
            });
        }
        for key in counters {
            let (client, ledger) = (client.clone(), self.ledger.clone());
            lanes.spawn(async move { verify_counter(&client, &ledger, &key).await });
        }
        while let Some(lane) = lanes.join_next().await {
            lane.expect("a reading task ends well");
        }
        self.assert_unbroken();
        checked
    }

    /// Removes unique keys that `wanted` picks and forgets them: each that was acknowledged must have existed.
    pub async fn reap(&self, client: &Client, wanted: impl Fn(&str) -> bool) {
        let mut keys = Vec::new();
        self.ledger().uniques.retain(|k, fate| {
            let take = wanted(k);
            if take {
                keys.push((k.clone(), *fate));
            }
            !take
        });
        let mut lanes = tokio::task::JoinSet::new();
        let chunk = keys.len().div_ceil(LANES).max(1);
        for part in keys.chunks(chunk).map(<[_]>::to_vec) {
            let (client, ledger) = (client.clone(), self.ledger.clone());
            lanes.spawn(async move {
                for (key, fate) in part {
                    let answer = client.delete(&key).await;
                    if let (Ok(written), Fate::Acked(_)) = (&answer, fate)
                        && !written.existed
                    {
                        lock(&ledger).broken.push(format!("{key}: acknowledged, and gone when it was deleted"));
                    }
                }
            });
        }
        while let Some(lane) = lanes.join_next().await {
            lane.expect("a deleting task ends well");
        }
        self.assert_unbroken();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that fails must not wait for the writes in flight: the thread ends by itself when the flag is seen.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Reads and deletions at once in `verify` and `reap`.
const LANES: usize = 64;

/// Attempts to read one key; each has the client's deadline, and the ring may be electing.
const READ_ATTEMPTS: u32 = 6;

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().expect("no task panics while it holds the ledger")
}

async fn drive(ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>, endpoints: String, clients: u32, tasks: Tasks) {
    let mut connected = Vec::new();
    while connected.len() < clients as usize {
        match Client::builder().endpoints([&endpoints]).timeout(tasks.timeout).connect().await {
            Ok(client) => connected.push(client),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    let mut running = tokio::task::JoinSet::new();
    let client = |number: u32| connected[number as usize % connected.len()].clone();
    for task in 0..tasks.uniques {
        running.spawn(uniques(client(task), ledger.clone(), stop.clone(), task, tasks.pause));
    }
    for task in 0..tasks.counters {
        running.spawn(counter(client(task), ledger.clone(), stop.clone(), task, tasks.pause_rest));
    }
    for task in 0..tasks.toggles {
        running.spawn(toggle(client(task), ledger.clone(), stop.clone(), task, tasks.pause_rest));
    }
    while let Some(task) = running.join_next().await {
        task.expect("a writing task ends well");
    }
}

/// After a failed write, so that a ring that refuses at once is not asked a million times a second.
const FAILURE_PAUSE: Duration = Duration::from_millis(1);

async fn uniques(client: Client, ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>, task: u32, pause: Duration) {
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("u/{task}/{number}");
        let answer = client.put(&key, unique_value(&key)).await;
        let pause = if answer.is_err() { FAILURE_PAUSE.max(pause) } else { pause };
        lock(&ledger).note_unique(key, &answer);
        number += 1;
        rest(pause).await;
    }
}

/// No pause costs no timer.
async fn rest(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

/// The value of a unique key: its name, then bytes up to a length that depends on it.
fn unique_value(key: &str) -> Vec<u8> {
    let mut value = key.as_bytes().to_vec();
    value.resize(64 + usize::from(slot_of(key.as_bytes())) % 448, b'.');
    value
}

async fn verify_unique(client: &Client, ledger: &Mutex<Ledger>, key: &str, fate: Fate) {
    let found = match read(client, key).await {
        Ok(found) => found,
        Err(e) => return lock(ledger).broken.push(format!("{key} cannot be read: {e}")),
    };
    let why = match (&found, fate) {
        (None, Fate::Acked(revision)) => format!("lost: acknowledged with {revision:?}, not there"),
        (Some(value), Fate::Acked(revision)) if value.revision != revision => {
            format!("acknowledged with {revision:?}, stored with {:?}: applied twice", value.revision)
        }
        (Some(value), Fate::Never) => format!("certainly did not happen, said the SDK; it is there, {:?}", value.revision),
        (Some(value), _) if value.value != unique_value(key) => "another value than was put".to_string(),
        _ => return,
    };
    lock(ledger).broken.push(format!("{key}: {why}"));
}

async fn counter(client: Client, ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>, task: u32, pause: Duration) {
    let key = format!("c/{task}");
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        lock(&ledger).counters.entry(key.clone()).or_default().attempted = number;
        let answer = client.put(&key, number.to_string()).await;
        lock(&ledger).note_counter(&key, number, &answer);
        rest(if answer.is_err() { FAILURE_PAUSE.max(pause) } else { pause }).await;
    }
}

async fn verify_counter(client: &Client, ledger: &Mutex<Ledger>, key: &str) {
    let before = lock(ledger).counters.get(key).copied().unwrap_or_default();
    let found = match read(client, key).await {
        Ok(found) => found,
        Err(e) => return lock(ledger).broken.push(format!("{key} cannot be read: {e}")),
    };
    let mut book = lock(ledger);
    let after = book.counters.get(key).copied().unwrap_or_default();
    let value =
        found.as_ref().and_then(|f| std::str::from_utf8(&f.value).ok()).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    if value < before.acked || value > after.attempted {
        book.broken
            .push(format!("{key}: {value}, with {} acknowledged before and {} attempted", before.acked, after.attempted));
    }
    if let Some(found) = found
        && value == after.acked
        && found.revision != after.acked_revision
    {
        let why = format!("{key}: {value} acknowledged with {:?}, stored with {:?}", after.acked_revision, found.revision);
        book.broken.push(format!("{why}: applied twice"));
    }
}

async fn toggle(client: Client, ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>, task: u32, pause: Duration) {
    let mut generation = 0u32;
    let mut exists = false;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("t/{task}/{generation}");
        let answer = if exists { client.delete(&key).await } else { client.put(&key, "x").await };
        let fate = lock(&ledger).note_toggle(&key, exists, &answer);
        match fate {
            Fate::Acked(_) => exists = !exists,
            Fate::Never => tokio::time::sleep(FAILURE_PAUSE).await,
            Fate::Unknown => {
                // What this key is now is anybody's guess; the next one starts clean.
                generation += 1;
                exists = false;
            }
        }
        rest(pause).await;
    }
}

async fn read(client: &Client, key: &str) -> Result<Option<ringbeam_sdk::Value>, Error> {
    let mut attempts = 0;
    loop {
        match client.get(key).await {
            Ok(found) => return Ok(found),
            Err(e) if attempts == READ_ATTEMPTS => return Err(e),
            Err(_) => attempts += 1,
        }
    }
}
