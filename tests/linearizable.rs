//! A real ring under real faults, and what its clients were told: held by the checkers of the simulator to one order of all
//! operations of each key.
//!
//! Rounds of faults: 4, or as many as `RINGBEAM_HISTORY_ROUNDS` says. Each kills, stops and continues, or pauses whoever leads, at a
//! random moment under load. A history that is no good is kept as a file that can be judged again.

mod ring;

#[allow(dead_code, reason = "the simulator uses the rest")]
#[path = "sim/check/mod.rs"]
mod check;
#[allow(dead_code, reason = "the simulator uses the rest")]
#[path = "sim/history.rs"]
mod history;
#[allow(dead_code, reason = "the checkers' own tests use it")]
#[path = "sim/random.rs"]
mod random;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use check::linear::search::Effort;
use history::{History, Op, Outcome, Revision, value_bytes, value_of};
use ring::random::{Random, count};
use ring::{Plan, Ring, SMALL_LOG, signal};
use ringbeam_sdk::{Client, Error};
use ringbeam_wire::slots::{shard_of, slot_of};

/// Tasks that write and read, and the keys that they share: few, so that they meet.
const TASKS: u32 = 12;
const KEYS: u64 = 6;

/// What the tasks share.
struct Book {
    history: Mutex<History>,
    began: Instant,
    values: AtomicU64,
    over: AtomicBool,
}

impl Book {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("no test runs for centuries")
    }

    fn open(&self, client: u32, key: u32, op: Op) -> history::Ticket {
        let shard = shard_of(slot_of(name(key).as_bytes()), 1);
        // The clock is read inside the lock, and an answer's too: the history's times are in the order of the events.
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.invoke(client, shard, key, op, None, self.now_ns())
    }

    fn close(&self, ticket: history::Ticket, outcome: Outcome) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.complete(ticket, outcome, self.now_ns());
    }
}

fn name(key: u32) -> String {
    format!("key{key}")
}

fn revision(revision: ringbeam_sdk::Revision) -> Revision {
    Revision { index: revision.index, position: revision.position }
}

async fn put(book: &Book, client: &Client, id: u32, key: u32, bytes: usize) -> Outcome {
    let value = book.values.fetch_add(1, Ordering::Relaxed) + 1;
    let ticket = book.open(id, key, Op::Put { value });
    let outcome = match client.put(name(key), value_bytes(value, bytes)).await {
        Ok(w) => Outcome::Written { revision: revision(w.revision), existed: w.existed, duplicate: w.duplicate },
        Err(Error::Unknown { .. }) => Outcome::Unknown,
        Err(_) => Outcome::Failed,
    };
    book.close(ticket, outcome);
    outcome
}

async fn get(book: &Book, client: &Client, id: u32, key: u32) {
    let ticket = book.open(id, key, Op::Get);
    let outcome = match client.get(name(key)).await {
        // Every key is written before the first read, and nothing is deleted: a read of nothing has lost a write, whatever it
        // reflects.
        Ok(None) => Outcome::Read { found: None, index: u64::MAX >> 1 },
        Ok(Some(v)) => Outcome::Read { found: Some((value_of(&v.value).unwrap_or(0), revision(v.revision))), index: v.index },
        Err(_) => Outcome::Failed,
    };
    book.close(ticket, outcome);
}

async fn load(book: Arc<Book>, client: Client, id: u32, mut random: Random) {
    while !book.over.load(Ordering::Relaxed) {
        let key = random.below(KEYS) as u32;
        if random.below(2) == 0 {
            put(&book, &client, id, key, 8 + random.below(2000) as usize).await;
        } else {
            get(&book, &client, id, key).await;
        }
        tokio::time::sleep(Duration::from_micros(random.below(4000))).await;
    }
}

/// Without the harness: it would run the checkers' own tests here, which `checkers.rs` does.
fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    history_under_faults_is_linearizable();
    println!("test history_under_faults_is_linearizable ... ok");
}

fn history_under_faults_is_linearizable() {
    let rounds = count("RINGBEAM_HISTORY_ROUNDS", 4);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut ring = runtime.block_on(Ring::start("history", Plan { extra: SMALL_LOG.into(), ..Plan::default() }));
    let client = runtime.block_on(ring.client());
    let began = Instant::now();
    let book = Arc::new(Book { history: Mutex::default(), began, values: AtomicU64::new(0), over: AtomicBool::new(false) });
    runtime.block_on(async {
        for key in 0..KEYS as u32 {
            let written = put(&book, &client, TASKS, key, 8).await;
            assert!(matches!(written, Outcome::Written { .. }), "the ring is at rest and well: {written:?}");
        }
    });
    // The load has a thread of its own: this one waits for processes.
    let (shared, endpoints) = (book.clone(), ring.endpoints());
    let loading = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for id in 0..TASKS {
                // A client each: connections of their own, and sessions.
                let client = Client::connect(&endpoints).await.expect("the ring serves").with_timeout(Duration::from_secs(4));
                tasks.spawn(load(shared.clone(), client, id, Random::of(u64::from(id))));
            }
            while let Some(ended) = tasks.join_next().await {
                ended.expect("a task of the load does not panic");
            }
        });
    });
    let mut random = Random::seeded("RINGBEAM_HISTORY_SEED");
    let (mut killed, mut paused) = (0, 0);
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(300 + random.below(700)));
        let leader = runtime.block_on(ring.leader(0));
        let node = if random.below(3) == 0 { 1 + random.below(3) } else { leader };
        if (round + 1) % 2 == 0 {
            // It wakes up deposed, and must not answer reads from its memory.
            let pid = ring.pid(node).expect("it runs");
            signal(pid, "STOP");
            std::thread::sleep(Duration::from_millis(800 + random.below(1200)));
            signal(pid, "CONT");
            paused += 1;
        } else {
            ring.kill(node);
            std::thread::sleep(Duration::from_millis(random.below(1000)));
            ring.spawn(node);
            killed += 1;
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    book.over.store(true, Ordering::Relaxed);
    loading.join().expect("the load ends");
    runtime.block_on(ring.wait_converged());
    let history = book.history.lock().unwrap_or_else(PoisonError::into_inner);
    let operations = history.operations();
    let number = |holds: fn(&Outcome) -> bool| operations.iter().filter(|operation| holds(&operation.outcome)).count();
    let written = number(|outcome| matches!(outcome, Outcome::Written { .. }));
    let read = number(|outcome| matches!(outcome, Outcome::Read { .. }));
    let unknown = number(|outcome| matches!(outcome, Outcome::Unknown));
    println!(
        "{} operations: {written} written, {read} read, {unknown} unknown; {killed} kills, {paused} pauses, {:.1} s",
        operations.len(),
        began.elapsed().as_secs_f64()
    );
    assert!(written > 100 && read > 100, "{written} writes and {read} reads are no load");
    let found = check::judge(&history, None, Effort::default());
    if !found.is_empty() {
        let path = ring.root.join("history.txt");
        let mut file = std::fs::File::create(&path).expect("the ring's directory can be written");
        history.write_to(&mut file).expect("the history can be written");
        panic!("{} (history: {})", found.join("\n"), path.display());
    }
}
