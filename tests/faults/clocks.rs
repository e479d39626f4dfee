//! Wall clocks that jump. Nothing of a ring depends on them: no write is lost, no session, key or lease ends early or lives on, no
//! read is old, and no jump makes an election.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::book::Load;
use crate::lives::Lives;
use crate::ring::skip::{Need, skipped};
use crate::ring::{Plan, Ring, SMALL_LOG};
use crate::sessions::Sessions;
use crate::stage::{Machine, SOON, Stage};

/// Jumps, ms: what a correction makes, and what an operator does.
const JUMPS_MS: [i64; 3] = [-400, 3_600_000, -3_600_000];

/// A fault among others.
pub async fn jump_there_and_back(stage: &mut Stage) -> String {
    let node = stage.pick_node().await;
    let jump = JUMPS_MS[stage.random.below(JUMPS_MS.len() as u64) as usize];
    stage.ring.set_clock(node, jump);
    stage.ring.wait_clock(node, jump);
    stage.load.book.goes_on(50, SOON).await;
    stage.sessions.look(&stage.ring).await;
    stage.ring.set_clock(node, 0);
    stage.ring.wait_clock(node, 0);
    stage.load.book.goes_on(50, SOON).await;
    format!("node {node}, {jump} ms and back")
}

/// Election timeouts here: longer than a machine of two cores stands still when it does other things as well.
const ELECTION_MS: (u64, u64) = (3_000, 5_000);

/// Longer than any node waits before it campaigns: an election that a jump makes by silencing somebody has begun by then.
const WATCHED: Duration = Duration::from_secs(6);

/// Sessions live for this long here: much longer than this takes, much less than an hour.
const LIFETIME_MS: u64 = 120_000;

/// The other side of it, in a ring of its own: what is out of time is refused, by the true time, on clocks that are an hour slow.
const SHORT_LIFETIME_MS: u64 = 2_000;

/// A machine that stands still makes elections too: then there is nothing to see, and it is done again, so often in all.
const TRIES: u32 = 3;

/// Nothing but jumps: the term of the ring stays what it is.
pub async fn jumps_start_no_election(machine: &Machine) {
    let Some(library) = &machine.wall_clocks else { return };
    let mut tries = 1;
    while let Err(why) = jumps(library).await {
        if tries == TRIES {
            skipped("history_under_faults_is_linearizable: clock jumps alone", Need::Calm, &format!("{tries} times: {why}"));
            break;
        }
        println!("clocks: once more: {why}");
        tries += 1;
    }
    sessions_end_in_time(library).await;
}

/// An error says why a jump cannot be told from what this machine did.
async fn jumps(library: &Path) -> Result<(), String> {
    let began = Instant::now();
    let ring = ring(library, LIFETIME_MS).await;
    let client = ring.client().await;
    let mut sessions = Sessions::open(&ring).await;
    sessions.look(&ring).await;
    let mut load = Load::start(&client, &ring.endpoints(), 1).await;
    let mut lives = Lives::begin(&ring).await;
    let quiet = ring.settled_under_load().await;
    let stalls = Stalls::watch();
    // The leader first, then the others.
    let nodes: Vec<u64> = (0..3).map(|after| (quiet.0 + after - 1) % 3 + 1).collect();
    for node in &nodes {
        for jump in JUMPS_MS {
            lives.add().await;
            ring.set_clock(*node, jump);
            ring.wait_clock(*node, jump);
            lives.look(&ring).await;
            load.book.goes_on(50, SOON).await;
            lives.look(&ring).await;
            sessions.look(&ring).await;
        }
    }
    // All are an hour slow now.
    lives.add().await;
    tokio::time::sleep(WATCHED).await;
    load.book.goes_on(50, SOON).await;
    lives.look(&ring).await;
    sessions.look(&ring).await;
    let stall = stalls.longest();
    let after = ring.settled_under_load().await;
    if after != quiet {
        let still = stall >= Duration::from_millis(ELECTION_MS.0 / 2);
        assert!(still, "(leader, term): a jump of a wall clock made an election\n{}", ring.tails());
        return Err(format!("an election, and this machine stood still for {stall:?}"));
    }
    // And what a leader began goes on with one whose clock is two hours ahead of its.
    for next in &nodes[1..] {
        lives.add().await;
        ring.set_clock(*next, 3_600_000);
        ring.wait_clock(*next, 3_600_000);
        hand_over(&ring, *next).await;
        lives.look(&ring).await;
        ring.set_clock(*next, -3_600_000);
        ring.wait_clock(*next, -3_600_000);
        lives.look(&ring).await;
    }
    let lived = lives.end(&ring).await;
    load.stop();
    ring.wait_converged().await;
    println!(
        "clocks: {JUMPS_MS:?} ms on each node: {}; {}; longest stall of this machine {} ms; {:.1} s",
        load.judge(&ring.root),
        lived.as_deref().unwrap_or("a lease lapsed"),
        stall.as_millis(),
        began.elapsed().as_secs_f64()
    );
    lived.map(|_| ()).ok_or_else(|| format!("a lease lapsed, as nobody was able to keep it alive; stood still for {stall:?}"))
}

/// Node `next` leads.
async fn hand_over(ring: &Ring, next: u64) {
    let (client, began) = (ring.client().await, Instant::now());
    while ring.settled_under_load().await.0 != next {
        assert!(began.elapsed() < SOON, "node {next} does not lead\n{}", ring.tails());
        // Refused while `next` lacks something; asked again then.
        let _ = client.ring_transfer(0, next).await;
    }
}

/// A session that nobody uses does end, however the wall clock stands: else the checks above could not fail.
async fn sessions_end_in_time(library: &Path) {
    let ring = ring(library, SHORT_LIFETIME_MS).await;
    for id in 1..=3 {
        ring.set_clock(id, -3_600_000);
        ring.wait_clock(id, -3_600_000);
    }
    // Use is noted in whole seconds.
    let unused = Sessions::open(&ring).await;
    unused.wait_expired(&ring, Duration::from_millis(SHORT_LIFETIME_MS + 1_500)).await;
}

async fn ring(library: &Path, lifetime_ms: u64) -> Ring {
    let (least, most) = ELECTION_MS;
    let extra = SMALL_LOG.replace("[limits]\n", &format!("[limits]\nsession_lifetime_ms = {lifetime_ms}\n"))
        + &format!("[timers]\nheartbeat_ms = 100\nelection_timeout_min_ms = {least}\nelection_timeout_max_ms = {most}\n")
        + "[logging]\nlevel = \"debug\"\n";
    let ring = Ring::start("clocks", Plan { wall_clocks: Some(library.into()), extra, ..Plan::default() }).await;
    ring.settled(0).await;
    ring
}

/// How long this machine gave this process no time.
struct Stalls {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Stalls {
    fn watch() -> Stalls {
        let over = Arc::new(AtomicBool::new(false));
        let flag = over.clone();
        let thread = std::thread::spawn(move || {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            while !flag.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            longest
        });
        Stalls { over, thread }
    }

    fn longest(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends well")
    }
}
