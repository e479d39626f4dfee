//! `ringbeam dev`: a whole ring on this machine, real node processes on loopback, with load to look at.
//!
//! ```text
//! ring.rs   the directory: nodes, shards, ports      nodes.rs  the processes      ready.rs  whether the ring serves
//! start nodes -> every shard has a leader and takes a write -> say where -> load (unless --idle) -> SIGTERM to all
//! ```
//!
//! Exit codes: 0 a clean end, 1 the ring did not start or a node did not stop cleanly, 2 wrong arguments.
//!
//! **Invariants**
//! - Everything that concerns node processes happens on the main thread: see `nodes.rs`.
//!
//! **Not here**: restarting a node that died. That it stays away is what one wants to look at; the line that tells of its
//! death says how to start it again.

mod nodes;
mod ports;
mod ready;
mod ring;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringbeam_sdk::Consistency;
use serde_json::json;

use super::bench::load::{Load, Next};
use super::bench::report::{Report, live, remove_stale, write_atomically};
use super::bench::tally::Tally;
use super::bench::workload::{Op, Workload};
use nodes::{Death, Nodes, how};
use ring::{Lock, Ring};

/// The namespace of dev's own keys, so that they are never among a person's.
const NAMESPACE: &str = "ringbeam-dev";

/// How often nodes and signals are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Arguments of `dev`.
#[derive(Clone, Debug, clap::Args)]
pub struct DevArgs {
    /// Nodes: 3, 5 or 7 [default: 3, or what the directory holds].
    #[arg(long, value_parser = ["3", "5", "7"])]
    pub nodes: Option<String>,
    /// Shards [default: 1, or what the directory holds].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(ringbeam_wire::limits::SHARDS_MAX)))]
    pub shards: Option<u32>,
    /// Where the ring lives, on a disk; the same ring again if there is one.
    #[arg(long, default_value = "ringbeam-dev")]
    pub dir: PathBuf,
    /// Write endpoints, process ids and directories here once the ring serves.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// No load: just the ring.
    #[arg(long)]
    pub idle: bool,
    /// End after this many seconds of service [default: at Ctrl-C].
    #[arg(long = "for", value_name = "SECONDS")]
    pub seconds: Option<f64>,
}

/// Runs it, on the main thread.
pub fn run(args: DevArgs) -> ExitCode {
    match dev(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("ringbeam dev: {why}");
            ExitCode::FAILURE
        }
    }
}

fn dev(args: &DevArgs) -> Result<(), String> {
    let time = match args.seconds {
        None => None,
        Some(seconds) => Some(
            Duration::try_from_secs_f64(seconds)
                .map_err(|error| format!("--for is {seconds}: {error}, give seconds of at least 0"))?,
        ),
    };
    let stop = Arc::new(AtomicBool::new(false));
    // A terminal that is closed ends it as Ctrl-C does.
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, stop.clone())
            .map_err(|error| format!("signal {signal} cannot be caught: {error}"))?;
    }
    std::fs::create_dir_all(&args.dir).map_err(|error| format!("{}: {error}", args.dir.display()))?;
    let dir = args.dir.canonicalize().map_err(|error| format!("{}: {error}", args.dir.display()))?;
    let _lock = Lock::take(&dir)?;
    let asked = args.nodes.as_ref().and_then(|nodes| nodes.parse().ok());
    let (ring, claim) = Ring::open(&dir, asked, args.shards)?;
    ring.check_ports()?;
    if let Some(path) = &args.json {
        // Whoever waits for the file must not take an earlier ring's for this one's.
        remove_stale(path)?;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // A node has an executor a core, but no more than shards. Pinned ones of several nodes would share a core while others idle.
    let pin = ring.nodes() as usize * cores.min(ring.shards as usize) <= cores;
    let mut nodes = Nodes::start(&ring, &dir, pin)?;
    let verb = if claim.is_some() { "founding" } else { "restarting" };
    say(&format!("{verb} a ring of {} nodes and {} shards in {}", ring.nodes(), ring.shards, dir.display()));

    let ended = serve(args, time, &ring, &mut nodes, &stop);
    let complaints = nodes.stop();
    ended?;
    if complaints.is_empty() {
        say(&format!("all nodes have stopped; the ring stays in {}", dir.display()));
        Ok(())
    } else {
        Err(complaints.join("; "))
    }
}

/// From started nodes to the end of the load.
fn serve(args: &DevArgs, time: Option<Duration>, ring: &Ring, nodes: &mut Nodes, stop: &AtomicBool) -> Result<(), String> {
    let began = Instant::now();
    match ready::wait(nodes, ring.shards, NAMESPACE, stop) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(why) => {
            show_logs(nodes);
            return Err(why);
        }
    }
    introduce(nodes, began.elapsed());
    if let Some(path) = &args.json {
        write_atomically(path, &format!("{:#}\n", describe(nodes)))?;
    }
    let until = time.map(|time| Instant::now() + time);
    let over = || stop.load(Ordering::Relaxed) || until.is_some_and(|until| Instant::now() >= until);
    let hint = if time.is_some() { "" } else { "; Ctrl-C ends it" };
    if args.idle {
        say(&format!("idle{hint}"));
        while !over() {
            std::thread::sleep(LOOK);
            report_deaths(nodes, false);
        }
        return Ok(());
    }
    say(&format!(
        "load: puts and gets, 64 in flight, 256 B values{hint}. Kill a node to see the others carry on: kill -9 PID\n"
    ));
    look_on(Load::start(workload(nodes.endpoints()), stop), nodes, over, stop)
}

/// The load, until it is over.
fn look_on(load: Result<Load, String>, nodes: &mut Nodes, over: impl Fn() -> bool, stop: &AtomicBool) -> Result<(), String> {
    let mut load = match load {
        Ok(load) => load,
        Err(_) if stop.load(Ordering::Relaxed) => return Ok(()),
        Err(why) => return Err(why),
    };
    let overwrites = std::io::stdout().is_terminal();
    let (mut total, mut seconds, mut stopping) = (Tally::default(), 0_u64, false);
    let total = loop {
        if !stopping && over() {
            stopping = true;
            load.stop();
        }
        report_deaths(nodes, overwrites);
        match load.next(LOOK) {
            Next::Nothing => {}
            Next::Second(second) => {
                seconds += 1;
                let line = format!("{seconds:>5} s {}", live(&second));
                let mut out = std::io::stdout().lock();
                // A reader that is gone is no reason to end the ring.
                let _ =
                    if overwrites { write!(out, "\r\x1b[K{line}").and_then(|()| out.flush()) } else { writeln!(out, "{line}") };
                total.add(*second);
            }
            Next::Ended(rest) => {
                total.add(*rest);
                break total;
            }
        }
    };
    let report = Report {
        window: load.window_unix(),
        workload: workload(nodes.endpoints()),
        tally: total,
        server_version: String::new(),
    };
    say(&format!("\n\n{}", report.text()));
    Ok(())
}

/// A moderate load: what a person wants to see moving, not the most that the machine can do.
fn workload(endpoints: String) -> Workload {
    Workload {
        endpoints,
        region: String::new(),
        namespace: NAMESPACE.into(),
        op: Op::Mixed,
        read_percent: 50,
        consistency: Consistency::Linearizable,
        clients: 4,
        inflight: 16,
        value_bytes: 256,
        keys: 10_000,
        window: None,
        warmup: Duration::ZERO,
        rate: None,
        threads: 1,
        timeout: Duration::from_secs(5),
        ttl: None,
        lease: None,
        skip_load: false,
        json: None,
    }
}

fn introduce(nodes: &Nodes, took: Duration) {
    say(&format!("serving after {:.1} s\n", took.as_secs_f64()));
    say(&format!("endpoints  {}", nodes.endpoints()));
    for node in nodes.iter() {
        say(&format!(
            "node {}     pid {:<8} client {}  peer {}  admin {}  data {}",
            node.id,
            node.pid,
            node.client,
            node.peer,
            node.admin,
            node.data.display()
        ));
    }
    say("");
}

/// A line for the person. A reader that is gone (`| head`) is no reason to end the ring.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// The file of `--json`.
fn describe(nodes: &Nodes) -> serde_json::Value {
    let text = |path: &Path| path.display().to_string();
    let each = nodes.iter().map(|node| {
        json!({
            "id": node.id, "pid": node.pid, "client": node.client, "peer": node.peer, "admin": node.admin,
            "data": text(&node.data), "config": text(&node.config), "log": text(&node.log),
        })
    });
    let endpoints: Vec<_> = nodes.iter().map(|node| node.client.as_str()).collect();
    json!({ "endpoints": endpoints, "nodes": each.collect::<Vec<_>>() })
}

/// A line for each node that died since the last look.
fn report_deaths(nodes: &mut Nodes, overwrites: bool) {
    for death in nodes.deaths() {
        let config = nodes.iter().find(|node| node.id == death.id).map_or("", |node| node.config.to_str().unwrap_or(""));
        let clear = if overwrites { "\r\x1b[K" } else { "" };
        say(&format!("{clear}{}", obituary(&death, nodes.running(), nodes.iter().count())));
        say(&format!("      start it again: ringbeam serve --config {config}"));
    }
}

/// What a death means.
fn obituary(death: &Death, running: usize, nodes: usize) -> String {
    let quorum = nodes / 2 + 1;
    let meaning = if running >= quorum {
        format!("the quorum of {quorum} is kept, the ring carries on")
    } else {
        format!("that is no quorum ({quorum}): no write is acknowledged until one is back")
    };
    format!("node {} (pid {}) {}: {running} of {nodes} run, {meaning}", death.id, death.pid, how(death.status))
}

fn show_logs(nodes: &Nodes) {
    const LINES: usize = 12;
    for node in nodes.iter() {
        eprintln!("--- node {}, end of {}", node.id, node.log.display());
        for line in node.last_words(LINES) {
            eprintln!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn a_death_says_whether_the_quorum_is_kept() {
        let death = Death { id: 2, pid: 77, status: ExitStatus::from_raw(9) };
        assert_eq!(
            obituary(&death, 2, 3),
            "node 2 (pid 77) was killed (SIGKILL): 2 of 3 run, the quorum of 2 is kept, the ring carries on"
        );
        assert!(obituary(&death, 1, 3).contains("no quorum (2)"));
        assert!(obituary(&death, 3, 5).contains("quorum of 3 is kept"));
    }
}
