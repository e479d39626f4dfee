//! The generator: threads with a runtime each, clients on them, slots on those, one operation in flight on each slot.
//!
//! ```text
//! Load::start ── thread 0..T ── runtime, LocalSet ── clients c, c+T, .. ── inflight slots each ── put/get ── one Tally
//!      │            connect, write the keys ──▶ Ready
//!      ◀───────────────────────────────────────┘
//!      └── go: start, window ──▶ slots run     each second: the Tally is swapped for an empty one and sent ──▶ Load::next
//! ```
//!
//! **Invariants**
//! - An operation belongs to the window it was sent in (open loop: was due in), so a stall at the window's end is not lost.
//! - An operation allocates nothing here: keys are on the stack, values are made before.
//! - Open loop: what is not sent within [`DRAIN`] of the window's end is unsent and counts with the age it reached.
//!
//! The definitions are those of peerbench's README, so that figures can stand side by side.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use ringbeam_sdk::{Client, Error, GetOptions, Written};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

use super::material::{Random, key, values};
use super::schedule::{Pacer, Schedule};
use super::tally::{Tally, record};
use super::workload::Workload;

/// Operations still waiting for a slot this long after the window count as unsent.
const DRAIN: Duration = Duration::from_secs(10);

/// A failed operation pauses its slot for this long: a ring in trouble is not asked in a loop.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Tries of one key when keys are written before the run, with [`LOAD_PAUSE`] in between.
const LOAD_TRIES_MAX: u32 = 20;
const LOAD_PAUSE: Duration = Duration::from_millis(100);

/// The least slots of a client that write keys before the run: a single one would take minutes.
const LOAD_SLOTS_MIN: u32 = 16;

/// "Until stopped".
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A running load.
pub struct Load {
    plan: Arc<Plan>,
    events: mpsc::Receiver<Event>,
    threads: Vec<JoinHandle<()>>,
    window: Window,
    start_unix: Duration,
    ticks: usize,
    ended: usize,
    second: Tally,
}

/// What every thread shares.
struct Plan {
    workload: Workload,
    values: Vec<Vec<u8>>,
    /// Keys written before the run.
    loaded: AtomicU64,
    /// Open loop: the number of the next operation.
    next: AtomicU64,
    stop: AtomicBool,
}

/// When things begin and end.
#[derive(Clone, Copy, Debug)]
struct Window {
    start: Instant,
    from: Instant,
    to: Instant,
}

enum Event {
    /// A thread's clients are connected, and its keys are written.
    Ready(oneshot::Sender<Window>),
    /// A thread cannot go on.
    Failed(String),
    /// A second of a thread.
    Second(Box<Tally>),
    /// A thread's slots have all ended; its last tally.
    Ended(Box<Tally>),
}

/// What [`Load::next`] returns.
#[derive(Debug)]
pub enum Next {
    /// The last second of all threads.
    Second(Box<Tally>),
    /// Nothing within the time given.
    Nothing,
    /// What was left, and the end.
    Ended(Box<Tally>),
}

impl Load {
    /// Connects, writes the keys unless they are there, and starts. `stop` is looked at while that takes long;
    /// an error is a sentence for a person.
    pub fn start(workload: Workload, stop: &AtomicBool) -> Result<Load, String> {
        let (events, received) = mpsc::channel();
        let plan = Arc::new(Plan {
            values: values(workload.value_bytes),
            workload,
            loaded: AtomicU64::new(0),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for number in 0..plan.workload.threads {
            let (plan, events) = (plan.clone(), events.clone());
            let thread = std::thread::Builder::new()
                .name(format!("load-{number}"))
                .spawn(move || live(number, &plan, &events))
                .map_err(|error| format!("thread {number} of the load cannot be started: {error}"))?;
            threads.push(thread);
        }
        let mut waiting = Vec::new();
        while waiting.len() < threads.len() {
            match received.recv_timeout(Duration::from_millis(100)) {
                Ok(Event::Ready(go)) => waiting.push(go),
                Ok(Event::Failed(why)) => return Err(why),
                Ok(Event::Second(_) | Event::Ended(_)) => {}
                Err(mpsc::RecvTimeoutError::Timeout) if !stop.load(Ordering::Relaxed) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err("stopped before the load began".into());
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err("a thread of the load ended early".into());
                }
            }
        }
        let start = Instant::now() + Duration::from_millis(10);
        let from = start + plan.workload.warmup;
        let window = Window { start, from, to: from + plan.workload.window.unwrap_or(FOREVER) };
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for go in waiting {
            // A thread that is gone says so through its channel.
            let _ = go.send(window);
        }
        Ok(Load {
            plan,
            events: received,
            threads,
            window,
            start_unix: unix + Duration::from_millis(10),
            ticks: 0,
            ended: 0,
            second: Tally::default(),
        })
    }

    /// Waits at most `timeout` for the next second.
    pub fn next(&mut self, timeout: Duration) -> Next {
        let until = Instant::now() + timeout;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Second(tally)) => {
                    self.second.add(*tally);
                    self.ticks += 1;
                    if self.ticks >= self.threads.len() - self.ended {
                        self.ticks = 0;
                        return Next::Second(Box::new(std::mem::take(&mut self.second)));
                    }
                }
                Ok(Event::Ended(tally)) => {
                    self.second.add(*tally);
                    self.ended += 1;
                    if self.ended == self.threads.len() {
                        for thread in self.threads.drain(..) {
                            let _ = thread.join();
                        }
                        return Next::Ended(Box::new(std::mem::take(&mut self.second)));
                    }
                }
                Ok(Event::Ready(_)) => {}
                Ok(Event::Failed(why)) => {
                    self.second.errors += 1;
                    self.second.first_error.get_or_insert(why);
                    self.ended += 1;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => return Next::Nothing,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Next::Ended(Box::new(std::mem::take(&mut self.second)));
                }
            }
        }
    }

    /// Lets no slot send anything more. The window ends now, if it was to end later.
    pub fn stop(&mut self) {
        self.plan.stop.store(true, Ordering::Relaxed);
        self.window.to = self.window.to.min(Instant::now()).max(self.window.from);
    }

    /// Whether the window has begun.
    pub fn measures(&self) -> bool {
        Instant::now() >= self.window.from
    }

    /// The measured window, Unix time, as long as it lasted.
    pub fn window_unix(&self) -> (Duration, Duration) {
        let begin = self.start_unix + self.window.from.saturating_duration_since(self.window.start);
        (begin, begin + self.window.to.saturating_duration_since(self.window.from))
    }
}

/// One thread from beginning to end.
fn live(number: u32, plan: &Arc<Plan>, events: &mpsc::Sender<Event>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = events.send(Event::Failed(format!("no runtime can be made: {error}")));
            return;
        }
    };
    let ended = LocalSet::new().block_on(&runtime, drive(number, plan.clone(), events.clone()));
    let _ = events.send(match ended {
        Ok(tally) => Event::Ended(Box::new(tally)),
        Err(why) => Event::Failed(why),
    });
}

async fn drive(number: u32, plan: Arc<Plan>, events: mpsc::Sender<Event>) -> Result<Tally, String> {
    let workload = &plan.workload;
    let mut clients = Vec::new();
    for client in (number..workload.clients).step_by(workload.threads as usize) {
        let connected = Client::builder()
            .endpoints([&workload.endpoints])
            .region(&workload.region)
            .timeout(workload.timeout)
            .client_name("ringbeam bench")
            .connect()
            .await
            .map_err(|error| format!("client {client}: {error}"))?;
        clients.push(connected.namespace(&workload.namespace));
    }
    if !workload.skip_load {
        write_keys(&plan, &clients).await?;
    }
    let pacer = Rc::new(Pacer::new().map_err(|error| format!("no timer can be made: {error}"))?);
    let (go, going) = oneshot::channel();
    let _ = events.send(Event::Ready(go));
    // Whoever started the load gave up.
    let Ok(window) = going.await else {
        return Ok(Tally::default());
    };

    let thread = Rc::new(Thread {
        plan: plan.clone(),
        window,
        tally: RefCell::default(),
        pacer,
        read: GetOptions { consistency: Some(workload.consistency), ..GetOptions::default() },
    });
    let pacing = spawn_local({
        let thread = thread.clone();
        async move { thread.pacer.run(&thread.plan.stop).await }
    });
    let mut slots = Vec::new();
    for (place, client) in clients.into_iter().enumerate() {
        for slot in 0..workload.inflight {
            let seed = (u64::from(number) << 48) | ((place as u64) << 24) | u64::from(slot);
            slots.push(spawn_local(Slot { thread: thread.clone(), client: client.clone(), random: Random::new(seed) }.run()));
        }
    }
    let telling = spawn_local({
        let thread = thread.clone();
        async move {
            let mut seconds = tokio::time::interval_at((window.start + Duration::from_secs(1)).into(), Duration::from_secs(1));
            loop {
                seconds.tick().await;
                let _ = events.send(Event::Second(Box::new(thread.tally.take())));
            }
        }
    });
    for slot in slots {
        slot.await.map_err(|error| format!("a slot of the load broke: {error}"))?;
    }
    telling.abort();
    pacing.abort();
    Ok(thread.tally.take())
}

/// Writes the keys, each once, with all clients of all threads.
async fn write_keys(plan: &Arc<Plan>, clients: &[Client]) -> Result<(), String> {
    let slots: Vec<_> = clients
        .iter()
        .flat_map(|client| (0..plan.workload.inflight.max(LOAD_SLOTS_MIN)).map(|_| client.clone()))
        .map(|client| spawn_local(write_keys_in_one_slot(plan.clone(), client)))
        .collect();
    let mut outcome = Ok(());
    for slot in slots {
        let ended = slot.await.map_err(|error| format!("a slot of the load broke: {error}"))?;
        outcome = outcome.and(ended);
    }
    outcome
}

async fn write_keys_in_one_slot(plan: Arc<Plan>, client: Client) -> Result<(), String> {
    loop {
        let number = plan.loaded.fetch_add(1, Ordering::Relaxed);
        if number >= plan.workload.keys {
            return Ok(());
        }
        let value = &plan.values[(number % plan.values.len() as u64) as usize];
        let mut tries = 0;
        while let Err(error) = client.put_with(key(number), value, &plan.workload.life()).await {
            tries += 1;
            if tries == LOAD_TRIES_MAX {
                // The others need not go through their tries too.
                plan.loaded.store(plan.workload.keys, Ordering::Relaxed);
                return Err(format!("key {number} cannot be written before the run: {error}"));
            }
            tokio::time::sleep(LOAD_PAUSE).await;
        }
    }
}

/// What the slots of one thread share.
struct Thread {
    plan: Arc<Plan>,
    window: Window,
    tally: RefCell<Tally>,
    pacer: Rc<Pacer>,
    read: GetOptions,
}

/// One operation in flight.
struct Slot {
    thread: Rc<Thread>,
    client: Client,
    random: Random,
}

impl Slot {
    async fn run(mut self) {
        self.thread.pacer.until(self.thread.window.start).await;
        match self.thread.plan.workload.rate {
            None => self.closed_loop().await,
            Some(rate) => self.open_loop(Schedule { start: self.thread.window.start, rate }).await,
        }
    }

    async fn closed_loop(&mut self) {
        let mut sent = Instant::now();
        while sent < self.thread.window.to && !self.stopped() {
            sent = self.operate(sent, None).await;
        }
    }

    async fn open_loop(&mut self, schedule: Schedule) {
        let window = self.thread.window;
        loop {
            let due = schedule.due(self.thread.plan.next.fetch_add(1, Ordering::Relaxed));
            if due >= window.to || self.stopped() {
                return;
            }
            self.thread.pacer.until(due).await;
            let now = Instant::now();
            // Stopped while it waited: it is not due, and would be counted in a window that ended without it.
            if now < due {
                return;
            }
            if now < window.to + DRAIN {
                self.operate(due, Some(now)).await;
            } else if due >= window.from {
                let mut tally = self.thread.tally.borrow_mut();
                tally.unsent += 1;
                record(&mut tally.latency, now - due);
            }
        }
    }

    /// One operation, timed from `from`. Returns when it was done, or when the pause after a failure was over.
    async fn operate(&mut self, from: Instant, sent: Option<Instant>) -> Instant {
        let plan = &self.thread.plan;
        let workload = &plan.workload;
        let key = key(self.random.below(workload.keys));
        let outcome = if workload.reads(self.random.below(100)) {
            self.get(&key).await
        } else {
            let value = &plan.values[self.random.below(plan.values.len() as u64) as usize];
            self.client.put_with(key, value, &workload.life()).await.map(Some).map_err(say)
        };
        let done = Instant::now();
        let measured = from >= self.thread.window.from;
        let error = match outcome {
            Ok(written) => {
                let mut tally = self.thread.tally.borrow_mut();
                if measured {
                    record(&mut tally.latency, done - from);
                    tally.bytes += u64::from(workload.value_bytes);
                    if let Some(written) = written {
                        tally.writes.count(&written);
                    }
                    if let Some(sent) = sent {
                        record(&mut tally.send_lag, sent - from);
                    }
                } else {
                    record(&mut tally.warmup, done - from);
                }
                return done;
            }
            Err(error) => error,
        };
        {
            let mut tally = self.thread.tally.borrow_mut();
            if measured {
                tally.errors += 1;
            } else {
                tally.warmup_errors += 1;
            }
            tally.first_error.get_or_insert(error);
        }
        tokio::time::sleep(ERROR_PAUSE).await;
        Instant::now()
    }

    /// A read that finds another value than any that was written is a failure.
    async fn get(&self, key: &[u8]) -> Result<Option<Written>, String> {
        let bytes = self.thread.plan.workload.value_bytes as usize;
        let found = self.client.get_with(key, &self.thread.read).await.map_err(say)?;
        match found.map(|found| found.value.len()) {
            Some(found) if found == bytes => Ok(None),
            Some(found) => {
                let key = String::from_utf8_lossy(key);
                Err(format!("{key} holds {found} bytes, not {bytes}: without --skip-load it is written first"))
            }
            None => {
                let key = String::from_utf8_lossy(key);
                Err(format!("{key} was not found: without --skip-load it is written first"))
            }
        }
    }

    fn stopped(&self) -> bool {
        self.thread.plan.stop.load(Ordering::Relaxed)
    }
}

fn say(error: Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, Stall};
    use super::super::workload::tests::args;
    use super::*;

    /// Runs `words` against a fake node to the end.
    fn drive(words: &str, stall: Option<Stall>) -> (Tally, u64) {
        let fake = Fake::start(stall);
        let words = format!("--endpoints {} --clients 1 --inflight 1 --seconds 1 --warmup 0 {words}", fake.address);
        let workload = Workload::new(&args(&words), |_| None).expect("it can run");
        let mut load = Load::start(workload, &AtomicBool::new(false)).expect("the fake node answers");
        let mut total = Tally::default();
        loop {
            match load.next(Duration::from_secs(60)) {
                Next::Second(second) => total.add(*second),
                Next::Ended(rest) => {
                    total.add(*rest);
                    return (total, fake.puts.load(Ordering::Relaxed));
                }
                Next::Nothing => panic!("the load does not end"),
            }
        }
    }

    fn stall(time_ms: u64) -> Option<Stall> {
        Some(Stall { before_put: 20, time: Duration::from_millis(time_ms) })
    }

    #[test]
    fn open_loop_counts_the_wait_behind_a_stall() {
        let (tally, puts) = drive("--skip-load --rate 100", stall(500));
        assert_eq!((tally.ops(), puts, tally.errors, tally.unsent), (100, 100, 0, 0));
        // About 50 operations fell due during the stall, and the one slot was busy.
        assert!(tally.latency.value_at_quantile(0.9) > 200_000);
        assert!(tally.send_lag.value_at_quantile(0.9) > 200_000);
    }

    #[test]
    fn closed_loop_keeps_the_stall_itself() {
        let (tally, _) = drive("--skip-load", stall(500));
        assert!(tally.ops() > 50 && tally.latency.max() > 400_000, "{tally:?}");
        assert!(tally.latency.value_at_quantile(0.5) < 100_000);
        let means = tally.writes.means_us().expect("writes were counted");
        assert_eq!(means, [("queue", 1.0), ("fsync", 2.0), ("quorum", 3.0), ("apply", 4.0)]);
    }

    #[test]
    fn a_slow_answer_is_an_error() {
        let (tally, _) = drive("--skip-load --timeout-ms 300", stall(400));
        assert_eq!(tally.errors, 1, "{:?}", tally.first_error);
    }

    #[test]
    fn keys_are_written_once_and_reads_check_what_they_find() {
        let (tally, puts) = drive("--op get --keys 300 --clients 3 --threads 2 --inflight 2", None);
        assert_eq!((puts, tally.errors), (300, 0));
        assert!(tally.ops() > 50 && tally.writes.count == 0);
        let (tally, _) = drive("--op get --skip-load --value-size 100", None);
        assert!(tally.ops() == 0 && tally.errors > 5);
        assert!(tally.first_error.is_some_and(|error| error.contains("holds 256 bytes, not 100")));
    }

    #[test]
    fn a_stop_does_not_wait_for_operations_that_are_due_much_later() {
        // Ctrl-C once had to wait for all of 64 slots to come due: ten minutes at this rate.
        let fake = Fake::start(None);
        let words =
            format!("--endpoints {} --clients 4 --inflight 16 --seconds 600 --warmup 0 --skip-load --rate 0.1", fake.address);
        let workload = Workload::new(&args(&words), |_| None).expect("it can run");
        let mut load = Load::start(workload, &AtomicBool::new(false)).expect("the fake node answers");
        let mut total = Tally::default();
        while fake.puts.load(Ordering::Relaxed) == 0 {
            let next = load.next(Duration::from_millis(10));
            assert!(matches!(next, Next::Nothing | Next::Second(_)), "it runs");
        }
        load.stop();
        // 63 slots wait for operations that are due 10 to 630 s from now.
        let mut seconds = 0;
        loop {
            match load.next(Duration::from_secs(60)) {
                Next::Second(second) => {
                    seconds += 1;
                    assert!(seconds < 5, "it ends at once");
                    total.add(*second);
                }
                Next::Ended(rest) => break total.add(*rest),
                Next::Nothing => panic!("it ends at once"),
            }
        }
        let puts = fake.puts.load(Ordering::Relaxed);
        assert!(puts <= 2 && total.unsent == 0, "{puts} puts: what was not due counts nowhere");
    }

    #[test]
    fn an_operation_of_the_warmup_is_not_in_the_window() {
        let (tally, puts) = drive("--skip-load --rate 100 --warmup 0.5", None);
        assert_eq!((tally.ops(), tally.warmup.len(), puts), (100, 50, 150));
    }
}
