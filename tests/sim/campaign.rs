//! The command line of the simulator: one seed, a short run for CI, or a campaign over all cores.
//!
//! ```text
//!   cargo test --test sim                                        short: seeds 1 ..= N within a time, then determinism
//!   cargo test --test sim -- SEED                                replays a seed and prints its story
//!   cargo test --release --test sim -- campaign --minutes 60     every seed from 1 on, a thread a core, a line each 10 s
//!   cargo test --release --test sim -- campaign --bug NAME       how many seeds until a planted bug is found
//!   cargo test --release --test sim -- planted                   the bugs that written plans and the first seeds must find
//! ```
//!
//! | option of a campaign | |
//! |---|---|
//! | `--seeds N` | at most so many |
//! | `--minutes M` | begins no seed later than that |
//! | `--threads T` | else one a core |
//! | `--from S` | first seed, else 1 |
//! | `--bug NAME` | with this planted bug: ends at the first seed that fails |
//! | `--repeat R` | that many times, each from another range of seeds; prints the median |
//!
//! **Invariants**
//! - A seed that panics is a failure with its message, as one that breaks a promise is. The campaign goes on.
//! - The exit status is 0 only when no seed failed and, when a bug was planted, each repetition found it.
//! - What is not understood is refused by name; what libtest and nextest pass to every target is understood.
//!
//! **Not here**: what a seed does.

#[path = "campaign/arguments.rs"]
mod arguments;
#[path = "campaign/report.rs"]
mod report;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::plan::{Kind, Plan, scenarios};
use arguments::{Order, Search, parse};
use report::{Report, rounded};

/// Seeds of the short run, those that it runs however long they take, and the time after which it begins no more of the others.
const SHORT_SEEDS: u64 = 24;
const SHORT_SEEDS_MIN: u64 = 2;
const SHORT_BUDGET: Duration = Duration::from_secs(20);

/// Planted bugs that the first seeds must find, within so many: nothing else would tell that plans or checkers have become blind.
const SEEDS_BUGS: [&str; 6] = [
    "vote-not-persisted",
    "snapshot-without-sessions",
    "retry-applied-twice",
    "follower-acks-before-fsync",
    "expires-early",
    "watch-skips-while-paused",
];
const BUG_SEEDS: u64 = 12;

/// Seeds that two processes must run alike: short ones, with faults of 15 kinds and with other things, of which [`twins`] says what.
const TWIN_SEED: u64 = 3;

/// Seeds of one repetition of a search for a planted bug, when the command line does not say.
const SEARCH_SEEDS: u64 = 10_000;

const LINE_EVERY: Duration = Duration::from_secs(10);

/// What a run is told besides its seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Keep a readable account of everything.
    pub story: bool,
    /// The planted bug, by name.
    pub bug: Option<String>,
}

/// What became of a seed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Broken promises in words; none, and the seed is good.
    pub violations: Vec<String>,
    /// The last events, readable.
    pub story: String,
    /// Virtual time.
    pub simulated: Duration,
    /// Faults that struck, by kind. Kinds that did not strike may stand there with 0: then the campaign names them.
    pub faults: BTreeMap<&'static str, u64>,
    /// Over all that happened.
    pub hash: u64,
    /// Of clients.
    pub operations: u64,
    /// Voters that the ring was founded with.
    pub voters: usize,
}

/// Carries out the command line (without the program's name) with `simulate`.
///
/// `bugs` are the names of those that `simulate` can plant.
pub fn run(
    arguments: impl Iterator<Item = String>,
    bugs: &[&str],
    simulate: impl Fn(u64, &Options) -> Outcome + Sync,
) -> ExitCode {
    let arguments: Vec<String> = arguments.collect();
    let order = match parse(&arguments).and_then(|order| order.known(bugs)) {
        Ok(order) => order,
        Err(why) => {
            eprintln!("sim: {why}");
            return ExitCode::from(2);
        }
    };
    listen_to_panics();
    let mut out = std::io::stdout();
    let good = match order {
        Order::List => true,
        Order::Hash { seed } => {
            let outcome = attempt(&simulate, seed, &Options::default());
            println!("{:016x}", outcome.hash);
            outcome.violations.iter().for_each(|violation| eprintln!("{violation}"));
            // Two that panic are not alike.
            outcome.violations.is_empty()
        }
        Order::Replay { seed, bug } => replay(&simulate, seed, bug, &mut out),
        Order::Short => short(&simulate, &mut out),
        Order::Planted => known(&simulate, &mut out),
        Order::Campaign(search) if search.bug.is_some() => hunt(&simulate, &search, &mut out),
        Order::Campaign(search) => campaign(&simulate, &search, &mut out).failures.is_empty(),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

type Simulate<'a> = &'a (dyn Fn(u64, &Options) -> Outcome + Sync);

fn replay(simulate: Simulate<'_>, seed: u64, bug: Option<String>, out: &mut dyn Write) -> bool {
    let began = Instant::now();
    let outcome = attempt(simulate, seed, &Options { story: true, bug });
    say(out, &outcome.story);
    let faults: Vec<String> =
        outcome.faults.iter().filter(|(_, count)| **count > 0).map(|(kind, count)| format!("{kind} {count}")).collect();
    say(out, &format!("faults: {}", faults.join(", ")));
    for violation in &outcome.violations {
        say(out, &format!("VIOLATION: {violation}"));
    }
    say(
        out,
        &format!(
            "seed {seed}: {} violations, {} operations, {} simulated in {}, hash {:016x}",
            outcome.violations.len(),
            outcome.operations,
            rounded(outcome.simulated),
            rounded(began.elapsed()),
            outcome.hash
        ),
    );
    outcome.violations.is_empty()
}

fn short(simulate: Simulate<'_>, out: &mut dyn Write) -> bool {
    let written = Search { from: scenarios::FROM, seeds: Some(scenarios::COUNT), ..Search::default() };
    if !campaign(simulate, &written, out).failures.is_empty() {
        return false;
    }
    let search = Search { seeds: Some(SHORT_SEEDS), least: SHORT_SEEDS_MIN, time: Some(SHORT_BUDGET), ..Search::default() };
    let report = campaign(simulate, &search, out);
    if report.seeds < SHORT_SEEDS {
        say(out, &format!("sim: {} of {SHORT_SEEDS} seeds fit into {}", report.seeds, rounded(SHORT_BUDGET)));
    }
    if !report.failures.is_empty() {
        return false;
    }
    sees(simulate, &known_bugs(scenarios::QUICK_BUGS, 0), out) && is_alike(TWIN_SEED, out)
}

/// What the short run has no time for: all the bugs that must be found, and a second ring in two processes.
fn known(simulate: Simulate<'_>, out: &mut dyn Write) -> bool {
    let seen = sees(simulate, &known_bugs(scenarios::BUGS.len(), SEEDS_BUGS.len()), out);
    twins().into_iter().all(|seed| is_alike(seed, out)) && seen
}

/// Whether two processes run the seed alike.
fn is_alike(seed: u64, out: &mut dyn Write) -> bool {
    let other = std::thread::spawn(move || hash_in_a_process(seed));
    let one = hash_in_a_process(seed);
    alike(seed, one, other.join().unwrap_or_else(|_| Err("its thread ended".to_string())), out)
}

/// Planted bugs that must be found: so many by written plans, and so many by the first seeds.
fn known_bugs(plans: usize, by_seeds: usize) -> Vec<(&'static str, u64, u64)> {
    let written = scenarios::BUGS[..plans].iter().map(|(plan, bug)| (*bug, scenarios::FROM + plan, 1));
    written.chain(SEEDS_BUGS[..by_seeds].iter().map(|bug| (*bug, 1, BUG_SEEDS))).collect()
}

/// Whether each planted bug is found: its name, the first seed, and how many seeds there are for it.
fn sees(simulate: Simulate<'_>, planted: &[(&str, u64, u64)], out: &mut dyn Write) -> bool {
    let next = AtomicUsize::new(0);
    let (sender, missed) = mpsc::channel();
    std::thread::scope(|threads| {
        for _ in 0..Search::default().threads() {
            let (sender, next) = (sender.clone(), &next);
            threads.spawn(move || {
                while let Some((bug, from, seeds)) = planted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let options = Options { story: false, bug: Some(bug.to_string()) };
                    if (*from..from + seeds).all(|seed| attempt(simulate, seed, &options).violations.is_empty()) {
                        let _ = sender.send(format!("sim: BLIND: bug {bug} was not found by {seeds} seeds from {from} on"));
                    }
                }
            });
        }
    });
    drop(sender);
    let missed: Vec<String> = missed.iter().collect();
    missed.iter().for_each(|line| say(out, line));
    say(out, &format!("sim: {} of {} planted bugs found", planted.len() - missed.len(), planted.len()));
    missed.is_empty()
}

/// The seeds that two processes must run alike: the short one, and the first of a ring of five or more with a tie-breaker, whose nodes
/// promise a lease and whose members change.
fn twins() -> [u64; 2] {
    let other = (TWIN_SEED + 1..).find(|seed| {
        let plan = Plan::new(*seed);
        let members = &plan.founders;
        let changes = [Kind::AddObserver, Kind::Promote, Kind::Remove, Kind::Replace].map(|kind| plan.count(kind));
        let short = plan.faulty_us() < 30_000_000;
        short
            && members.voters.len() >= 5
            && members.tie_breaker.is_some()
            && plan.read_lease_ms > 0
            && changes.iter().sum::<usize>() > 0
    });
    [TWIN_SEED, other.unwrap_or(TWIN_SEED)]
}

/// The same seed in two processes, each with addresses and hashers of its own.
fn alike(seed: u64, one: Result<String, String>, other: Result<String, String>, out: &mut dyn Write) -> bool {
    let (verdict, good) = match (one, other) {
        (Ok(a), Ok(b)) if a == b => (format!("sim: seed {seed} in two processes: both {a}"), true),
        (Ok(a), Ok(b)) => (format!("sim: NOT DETERMINISTIC: seed {seed} gave {a}, then {b}"), false),
        (Err(why), _) | (_, Err(why)) => (format!("sim: seed {seed} could not be run in a process of its own: {why}"), false),
    };
    say(out, &verdict);
    good
}

fn hash_in_a_process(seed: u64) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new(program).args(["replay", &seed.to_string(), "--hash"]).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
    match output.status.success() && text.len() == 16 {
        true => Ok(text),
        false => Err(format!("{}, {text:?}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Runs seeds until they or the time are used up. With a planted bug it ends when the lowest failing seed is known.
fn campaign(simulate: Simulate<'_>, search: &Search, out: &mut dyn Write) -> Report {
    let options = Options { story: false, bug: search.bug.clone() };
    let end = search.seeds.map_or(u64::MAX, |seeds| search.from.saturating_add(seeds));
    let (next, lowest) = (AtomicU64::new(search.from), AtomicU64::new(u64::MAX));
    let (began, mut report) = (Instant::now(), Report::new(search.from));
    let (sender, results) = mpsc::channel();
    std::thread::scope(|threads| {
        for _ in 0..search.threads() {
            let (sender, options, next, lowest) = (sender.clone(), &options, &next, &lowest);
            threads.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let late = search.time.is_some_and(|time| began.elapsed() >= time) && seed - search.from >= search.least;
                    let over = options.bug.is_some() && seed > lowest.load(Ordering::Relaxed);
                    if seed >= end || over || late {
                        return;
                    }
                    let before = thread_cpu();
                    let outcome = attempt(simulate, seed, options);
                    let cpu = thread_cpu().saturating_sub(before);
                    if !outcome.violations.is_empty() {
                        lowest.fetch_min(seed, Ordering::Relaxed);
                    }
                    if sender.send((seed, outcome, cpu)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut line_at = began + LINE_EVERY;
        loop {
            match results.recv_timeout(line_at.saturating_duration_since(Instant::now())) {
                Ok((seed, outcome, cpu)) => {
                    if !outcome.violations.is_empty() && options.bug.is_none() {
                        say(out, &report::failure(seed, &outcome));
                    }
                    report.add(seed, outcome, cpu);
                }
                Err(RecvTimeoutError::Timeout) => {
                    say(out, &report.line(began.elapsed()));
                    line_at = Instant::now() + LINE_EVERY;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    if options.bug.is_none() {
        say(out, &report.summary(began.elapsed()));
    }
    report
}

/// How many seeds it takes to find a planted bug, counted as one thread would: up to the lowest seed that fails.
fn hunt(simulate: Simulate<'_>, search: &Search, out: &mut dyn Write) -> bool {
    let name = search.bug.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for repetition in 0..search.repeat {
        // Far apart: no seed is in two ranges.
        let from = search.from + repetition * 1_000_000_000;
        let once = Search { from, seeds: search.seeds.or(Some(SEARCH_SEEDS)), ..search.clone() };
        let began = Instant::now();
        let report = campaign(simulate, &once, out);
        let took = rounded(began.elapsed());
        match report.failures.iter().next() {
            Some((seed, violation)) => {
                let seeds = seed - from + 1;
                say(out, &format!("bug {name}: found by seed {seed}, after {seeds} seeds, {took}: {violation}"));
                say(out, &format!("  {} --bug {name}", report::command(*seed)));
                found.push(seeds);
            }
            None => say(out, &format!("bug {name}: NOT FOUND in {} seeds, {took}", report.seeds)),
        }
    }
    found.sort_unstable();
    if let Some(most) = found.last() {
        let median = found[(found.len() - 1) / 2];
        say(
            out,
            &format!("bug {name}: found in {} of {} searches; seeds: median {median}, most {most}", found.len(), search.repeat),
        );
    }
    found.len() as u64 == search.repeat
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of seeds become failures: their message is kept, and not printed in the middle of other lines.
fn listen_to_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload().downcast_ref::<&str>().map(|text| (*text).to_string());
        let text =
            text.or_else(|| info.payload().downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_string());
        let place = info.location().map_or(String::new(), |place| format!("{}:{}: ", place.file(), place.line()));
        PANIC.with_borrow_mut(|kept| {
            // The first is the cause; others come from what it left behind.
            kept.get_or_insert(format!("panic at {place}{text}"));
        });
    }));
}

fn attempt(simulate: Simulate<'_>, seed: u64, options: &Options) -> Outcome {
    PANIC.set(None);
    catch_unwind(AssertUnwindSafe(|| simulate(seed, options))).unwrap_or_else(|_| {
        let message = PANIC.take().unwrap_or_else(|| "panic without a message".to_string());
        Outcome { violations: vec![message], ..Outcome::default() }
    })
}

/// What this thread has used of a core, as the kernel counts it; zero where it does not say.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default())
}

fn say(out: &mut dyn Write, line: &str) {
    // A reader that went away does not stop a campaign.
    let _ = writeln!(out, "{}", line.trim_end());
    let _ = out.flush();
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;

    fn good(seed: u64) -> Outcome {
        let faults = BTreeMap::from([("kill", seed % 3), ("bit rot", 0)]);
        Outcome { simulated: Duration::from_secs(60), faults, hash: seed, operations: 10, ..Outcome::default() }
    }

    /// Every seed that ends in 77 breaks a promise, every one that ends in 88 panics.
    fn simulate(seed: u64, options: &Options) -> Outcome {
        match seed % 100 {
            77 if options.bug.as_deref() != Some("none") => Outcome {
                violations: vec![format!("seed {seed} lost a write")],
                story: "it was there\nthen it was not".to_string(),
                ..good(seed)
            },
            88 if options.bug.is_none() => panic!("seed {seed} went wrong"),
            _ => good(seed),
        }
    }

    fn search(from: u64, seeds: u64) -> Search {
        Search { from, seeds: Some(seeds), threads: Some(3), ..Search::default() }
    }

    fn text(out: Vec<u8>) -> String {
        String::from_utf8(out).expect("it is text")
    }

    #[test]
    fn campaign_runs_every_seed_once_and_counts() {
        let mut out = Vec::new();
        let report = campaign(&simulate, &search(1, 70), &mut out);
        assert_eq!((report.seeds, report.operations, report.failures.len()), (70, 700, 0));
        assert_eq!(report.simulated, Duration::from_secs(70 * 60));
        assert_eq!(report.faults, BTreeMap::from([("kill", (1..=70).map(|seed| seed % 3).sum()), ("bit rot", 0)]));
        let out = text(out);
        assert!(out.contains("70 seeds") && out.contains("1.2 simulated hours"), "{out}");
        assert!(out.contains("1 of 2 kinds struck; never: bit rot"), "{out}");
    }

    #[test]
    fn failing_and_panicking_seeds_are_failures_with_their_command() {
        listen_to_panics();
        let mut out = Vec::new();
        let report = campaign(&simulate, &search(50, 100), &mut out);
        let _ = std::panic::take_hook();
        assert_eq!(report.seeds, 100);
        assert_eq!(report.failures.keys().copied().collect::<Vec<_>>(), [77, 88]);
        assert!(report.failures[&88].contains("campaign.rs") && report.failures[&88].contains("seed 88 went wrong"));
        let out = text(out);
        assert!(out.contains("cargo test --test sim -- 77") && out.contains("then it was not"), "{out}");
        assert!(out.contains("cargo test --test sim -- 88") && out.contains("2 seeds FAILED"), "{out}");
    }

    #[test]
    fn hunt_counts_seeds_to_the_lowest_that_fails() {
        let mut out = Vec::new();
        let once = Search { bug: Some("forgetful".to_string()), repeat: 3, ..search(1, 500) };
        assert!(hunt(&simulate, &once, &mut out), "{}", text(out.clone()));
        let out = text(out);
        assert!(out.contains("found by seed 77, after 77 seeds"), "{out}");
        assert!(out.contains("found in 3 of 3 searches; seeds: median 77, most 77"), "{out}");
        assert!(out.contains("-- 77 --bug forgetful"), "{out}");
        let mut out = Vec::new();
        assert!(!hunt(&simulate, &Search { bug: Some("none".to_string()), ..search(1, 200) }, &mut out));
        assert!(text(out).contains("NOT FOUND in 200 seeds"));
    }

    #[test]
    fn campaign_ends_with_its_time() {
        let slow = |seed: u64, _: &Options| {
            std::thread::sleep(Duration::from_millis(20));
            good(seed)
        };
        let search = Search { time: Some(Duration::from_millis(100)), threads: Some(2), ..Search::default() };
        let report = campaign(&slow, &search, &mut Vec::new());
        assert!((2..100).contains(&report.seeds), "{} seeds", report.seeds);
    }

    #[test]
    fn a_planted_bug_that_is_not_found_is_noticed() {
        listen_to_panics();
        let mut out = Vec::new();
        assert!(sees(&simulate, &[("forgetful", 70, 10)], &mut out), "{}", text(out.clone()));
        assert!(!sees(&simulate, &[("forgetful", 70, 10), ("none", 70, 10)], &mut out));
        assert!(text(out).contains("BLIND: bug none was not found by 10 seeds from 70 on"));
    }

    #[test]
    fn the_second_twin_is_another_ring() {
        let [short, other] = twins();
        assert!(short != other && Plan::new(other).founders.voters.len() >= 5);
    }

    #[test]
    fn some_seeds_run_however_long_they_take() {
        let search = Search { time: Some(Duration::ZERO), least: 5, ..search(10, 100) };
        assert_eq!(campaign(&simulate, &search, &mut Vec::new()).seeds, 5);
    }

    #[test]
    fn seeds_that_run_differently_are_noticed() {
        let twin = |hashes: [Result<&str, &str>; 2]| {
            let [one, other] = hashes.map(|hash| hash.map(str::to_string).map_err(str::to_string));
            let mut out = Vec::new();
            let good = alike(7, one, other, &mut out);
            (good, text(out))
        };
        assert!(twin([Ok("a"), Ok("a")]).0);
        let (good, out) = twin([Ok("a"), Ok("b")]);
        assert!(!good && out.contains("NOT DETERMINISTIC"), "{out}");
        assert!(!twin([Ok("a"), Err("it died")]).0);
    }

    #[test]
    fn replay_tells_the_story() {
        let mut out = Vec::new();
        assert!(!replay(&simulate, 77, None, &mut out));
        let out = text(out);
        assert!(out.contains("then it was not") && out.contains("VIOLATION: seed 77 lost a write"), "{out}");
        assert!(out.contains("hash 000000000000004d"), "{out}");
        assert!(replay(&simulate, 78, None, &mut Vec::new()));
    }
}
