//! The book of a real ring: tasks that write and read a few keys that they share, and a history of what they asked and were told, in
//! the form that the simulator's checkers judge.
//!
//! **Invariant**: times in the history are in the order of the events: the clock is read under its lock. Every key is written before
//! the first read, and none is deleted.
//!
//! **Not here**: the loads of other tests, which keep their own promises (`load.rs`, `light.rs`).

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringbeam_sdk::{Client, Error};
use ringbeam_wire::client::{Consistency, Get, Put, ReplyBody, RequestBody};
use ringbeam_wire::preamble::{Kind, Preamble};
use ringbeam_wire::slots::{shard_of, slot_of};

use crate::check::{self, linear::search::Effort};
use crate::history::{History, Op, Outcome, Revision, Ticket, value_bytes, value_of};
use crate::ring::random::Random;
use crate::ring::raw::{Raw, hello};

/// Tasks that write and read, and the keys that they share: few, so that they meet.
const TASKS: u32 = 12;
const KEYS: u64 = 6;
/// Who else writes: the first values of all keys, a flood, and one that stays with a node.
const FIRST: u32 = TASKS;
const FLOOD: u32 = TASKS + 1;
const LOYAL: u32 = TASKS + 2;
/// Keys of the flood only.
const FLOOD_KEYS: u64 = 8;

/// Longest pause of a task between two operations. The checks are for what happens under faults, not under load.
const PAUSE_US_MAX: u64 = 16_000;

/// Deadline of an operation.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What was asked and told.
pub struct Book {
    history: Mutex<History>,
    began: Instant,
    values: AtomicU64,
    written: AtomicU64,
    over: AtomicBool,
}

impl Book {
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until `more` further writes were acknowledged.
    pub async fn goes_on(&self, more: u64, limit: Duration) {
        let (from, began) = (self.written(), Instant::now());
        while self.written() < from + more {
            let so_far = self.written() - from;
            assert!(began.elapsed() < limit, "only {so_far} of {more} writes acknowledged within {limit:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Longest time without an acknowledged write since `from`.
    pub fn longest_gap(&self, from: Instant) -> Duration {
        let from_ns = from.saturating_duration_since(self.began).as_nanos() as u64;
        let history = self.lock();
        let written = |outcome| matches!(outcome, Outcome::Written { .. });
        let mut ends: Vec<u64> =
            history.operations().iter().filter(|o| written(o.outcome)).filter_map(|o| o.completed_ns).collect();
        ends.push(self.now_ns());
        ends.retain(|end| *end > from_ns);
        ends.sort_unstable();
        let begins = std::iter::once(from_ns).chain(ends.iter().copied());
        Duration::from_nanos(begins.zip(&ends).map(|(begin, end)| end - begin).max().unwrap_or(0))
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("no test runs for centuries")
    }

    fn open(&self, client: u32, key: u32, op: Op) -> Ticket {
        let shard = shard_of(slot_of(name(key).as_bytes()), 1);
        let mut history = self.lock();
        history.invoke(client, shard, key, op, None, self.now_ns())
    }

    fn close(&self, ticket: Ticket, outcome: Outcome) {
        if matches!(outcome, Outcome::Written { .. }) {
            self.written.fetch_add(1, Ordering::Relaxed);
        }
        let mut history = self.lock();
        history.complete(ticket, outcome, self.now_ns());
    }

    async fn put(&self, client: &Client, id: u32, key: u32, bytes: usize) -> Outcome {
        let value = self.values.fetch_add(1, Ordering::Relaxed) + 1;
        let ticket = self.open(id, key, Op::Put { value });
        let outcome = match client.put(name(key), value_bytes(value, bytes)).await {
            Ok(w) => Outcome::Written { revision: revision(w.revision), existed: w.existed, duplicate: w.duplicate },
            Err(Error::Unknown { .. }) => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        };
        self.close(ticket, outcome);
        outcome
    }

    async fn get(&self, client: &Client, id: u32, key: u32) -> Outcome {
        let ticket = self.open(id, key, Op::Get);
        let outcome = match client.get(name(key)).await {
            // Every key is written before the first read, and nothing is deleted: a read of nothing has lost a write, whatever it
            // reflects.
            Ok(None) => Outcome::Read { found: None, index: u64::MAX >> 1 },
            Ok(Some(v)) => {
                Outcome::Read { found: Some((value_of(&v.value).unwrap_or(0), revision(v.revision))), index: v.index }
            }
            Err(_) => Outcome::Failed,
        };
        self.close(ticket, outcome);
        outcome
    }
}

fn name(key: u32) -> String {
    format!("key{key}")
}

fn revision(revision: ringbeam_sdk::Revision) -> Revision {
    Revision { index: revision.index, position: revision.position }
}

/// A load with its book.
pub struct Load {
    pub book: Arc<Book>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Writes each key once, while the ring is at rest and well, and starts the tasks.
    pub async fn start(client: &Client, endpoints: &str, seed: u64) -> Load {
        let (history, began, zero) = (Mutex::default(), Instant::now(), || AtomicU64::new(0));
        let book = Arc::new(Book { history, began, values: zero(), written: zero(), over: AtomicBool::new(false) });
        for key in 0..(KEYS + FLOOD_KEYS) as u32 {
            let written = book.put(client, FIRST, key, 8).await;
            assert!(matches!(written, Outcome::Written { .. }), "the ring is at rest and well: {written:?}");
        }
        // A thread of its own: the test's waits for processes.
        let (shared, endpoints) = (book.clone(), endpoints.to_string());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                for id in 0..TASKS {
                    // A client each: connections of their own, and sessions.
                    let client = Client::connect(&endpoints).await.expect("the ring serves").with_timeout(TIMEOUT);
                    tasks.spawn(run(shared.clone(), client, id, Random::of(seed ^ u64::from(id) << 32)));
                }
                while let Some(ended) = tasks.join_next().await {
                    ended.expect("a task of the load does not panic");
                }
            });
        });
        Load { book, thread: Some(thread) }
    }

    /// Ends the load; every operation gets its answer first.
    pub fn stop(&mut self) {
        self.book.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load ends");
        }
    }

    /// Large values on keys of their own until `enough`, to use up the room of a disk.
    pub async fn flood(&self, client: &Client, limit: Duration, what: &str, enough: impl AsyncFn() -> bool) {
        let began = Instant::now();
        while !enough().await {
            assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
            for key in 0..FLOOD_KEYS {
                self.book.put(client, FLOOD, (KEYS + key) as u32, 48_000).await;
            }
        }
    }

    /// Reads what the flood has written: the history says whether that is lost.
    pub async fn read_flood(&self, client: &Client) {
        for key in 0..FLOOD_KEYS {
            let read = self.book.get(client, FLOOD, (KEYS + key) as u32).await;
            assert!(matches!(read, Outcome::Read { found: Some(_), .. }), "key {key} of the flood: {read:?}");
        }
    }

    /// All checkers of the history. One that is no good is kept in `folder`. Gives what was judged, in words.
    pub fn judge(&self, folder: &Path) -> String {
        assert!(self.thread.is_none(), "the load has ended");
        let history = self.book.lock();
        let operations = history.operations();
        let number = |holds: fn(&Outcome) -> bool| operations.iter().filter(|operation| holds(&operation.outcome)).count();
        let written = number(|outcome| matches!(outcome, Outcome::Written { .. }));
        let duplicates = number(|outcome| matches!(outcome, Outcome::Written { duplicate: true, .. }));
        let read = number(|outcome| matches!(outcome, Outcome::Read { .. }));
        let unknown = number(|outcome| matches!(outcome, Outcome::Unknown));
        let failed = number(|outcome| matches!(outcome, Outcome::Failed));
        assert!(written > 100 && read > 100, "{written} writes and {read} reads are no load");
        let found = check::judge(&history, None, Effort::default());
        if !found.is_empty() {
            let path = folder.join("history.txt");
            let mut file = File::create(&path).expect("the ring's directory can be written");
            history.write_to(&mut file).expect("the history can be written");
            panic!("{} (history: {})", found.join("\n"), path.display());
        }
        format!(
            "{} operations: {written} written ({duplicates} answered again), {read} read, {unknown} unknown, {failed} refused",
            operations.len()
        )
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After a failure nobody waits; the thread ends by itself.
        self.book.over.store(true, Ordering::Relaxed);
    }
}

async fn run(book: Arc<Book>, client: Client, id: u32, mut random: Random) {
    while !book.over.load(Ordering::Relaxed) {
        let key = random.below(KEYS) as u32;
        if random.below(2) == 0 {
            book.put(&client, id, key, 8 + random.below(2000) as usize).await;
        } else {
            book.get(&client, id, key).await;
        }
        tokio::time::sleep(Duration::from_micros(random.below(PAUSE_US_MAX))).await;
    }
}

/// A client that stays with one node and believes no other: it asks a leader that has been deposed and may not know.
pub struct Loyal {
    over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Loyal {
    /// Reads and writes at `address` until it is ended.
    pub fn start(book: &Arc<Book>, address: &str) -> Loyal {
        let over = Arc::new(AtomicBool::new(false));
        let (flag, book, address) = (over.clone(), book.clone(), address.to_string());
        let thread = std::thread::spawn(move || {
            let (mut random, mut connection, mut answers) = (Random::of(book.now_ns()), None, 0);
            while !flag.load(Ordering::Relaxed) {
                let raw = match connection.take().or_else(|| dial(&address)) {
                    Some(raw) => raw,
                    None => {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    }
                };
                connection = ask(&book, raw, random.below(KEYS) as u32, random.below(4) == 0, &mut answers);
                std::thread::sleep(Duration::from_millis(3));
            }
            answers
        });
        Loyal { over, thread }
    }

    /// How many answers the node gave it, refusals too.
    pub fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends well")
    }
}

/// How long the loyal client waits: longer than a paused leader sleeps, so that its question is there when it wakes up.
const LOYAL_PATIENCE: Duration = Duration::from_secs(5);

fn dial(address: &str) -> Option<Raw> {
    let address = address.parse().expect("an address of a test");
    let stream = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
    let mut raw = Raw::over(stream);
    raw.bytes(&Preamble::new(Kind::Client, 0).encode());
    raw.send(1_000, &hello());
    raw.next_as(|reply| matches!(reply.body, ReplyBody::Welcome(_)), LOYAL_PATIENCE)
        .ok()
        .flatten()
        .filter(|welcome| *welcome)?;
    Some(raw)
}

/// One question, noted with its answer; the connection, if it is still good.
fn ask(book: &Book, mut raw: Raw, key: u32, write: bool, answers: &mut u64) -> Option<Raw> {
    let value = if write { book.values.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
    let ticket = book.open(LOYAL, key, if write { Op::Put { value } } else { Op::Get });
    let (name, bytes) = (name(key), value_bytes(value, 100));
    if write {
        raw.send(400, &RequestBody::Put(Put { key: name.as_bytes(), value: &bytes, ..Put::default() }));
    } else {
        let consistency = Consistency::Linearizable;
        raw.send(400, &RequestBody::Get(Get { key: name.as_bytes(), consistency, ..Get::default() }));
    }
    let told = raw.next_as(
        |reply| match &reply.body {
            ReplyBody::Written(w) => {
                Outcome::Written { revision: revision(w.revision), existed: w.existed, duplicate: w.duplicate }
            }
            ReplyBody::Value(v) => {
                let found = v.found.then(|| (value_of(v.value).unwrap_or(0), revision(v.revision)));
                Outcome::Read { found, index: v.index }
            }
            ReplyBody::Refused(refusal) if refusal.unknown => Outcome::Unknown,
            ReplyBody::Refused(_) => Outcome::Failed,
            other => panic!("{other:?} answers a put or a get"),
        },
        LOYAL_PATIENCE,
    );
    let Ok(Some(outcome)) = told else {
        // A read changes nothing, whether it was answered or not.
        book.close(ticket, if write { Outcome::Unknown } else { Outcome::Failed });
        return None;
    };
    *answers += 1;
    book.close(ticket, outcome);
    Some(raw)
}
