//! `ringbeam bench`: the load generator, closed and open loop, alone or as peerbench's external generator.
//!
//! ```text
//! workload.rs  what is asked      material.rs  keys, values      schedule.rs  when operations are due
//! load.rs      threads, clients, slots         tally.rs  what was seen         report.rs  what is said about it
//! ```
//!
//! Progress goes to standard error, the result to standard output. Exit codes: 0 the run ended (errors of single operations are
//! in the result), 1 it could not run or not be saved, 2 wrong arguments.
//!
//! **Not here**: CPU and memory of the servers, and other stores. peerbench measures those around this.

#[cfg(test)]
mod fake;
pub mod load;
mod material;
pub mod report;
mod schedule;
pub mod tally;
pub mod workload;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringbeam_sdk::Client;

use super::freshness::{Freshness, parse_age};
use load::{Load, Next};
use report::Report;
use tally::Tally;
use workload::{Op, Workload};

/// Arguments of `bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Client addresses of any nodes, host:port, separated by commas.
    #[arg(long, env = "RINGBEAM_ENDPOINTS", default_value = "127.0.0.1:7701")]
    pub endpoints: String,
    /// Region of this client: reads that any node may serve go to nodes of it first. Empty: none.
    #[arg(long, env = "RINGBEAM_REGION", default_value = "")]
    pub region: String,
    /// Namespace of the keys.
    #[arg(long, default_value = "")]
    pub namespace: String,
    /// What the operations are.
    #[arg(long, value_enum, default_value = "put")]
    pub op: Op,
    /// Mixed: share of reads, percent.
    #[arg(long, default_value_t = 50)]
    pub read_percent: u32,
    /// How fresh reads are.
    #[arg(long, value_enum, default_value = "linearizable")]
    pub consistency: Freshness,
    /// For bounded: how old answers may be, as in 250ms or 1.5s.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    pub max_age: Option<Duration>,
    /// For bounded: take older answers, too.
    #[arg(long)]
    pub stale_ok: bool,
    /// Clients, each with connections of its own.
    #[arg(long, default_value_t = 16)]
    pub clients: u32,
    /// Operations in flight on each client.
    #[arg(long, default_value_t = 4)]
    pub inflight: u32,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    pub value_size: u32,
    /// Keys, drawn uniformly, 16 bytes each.
    #[arg(long, default_value_t = 10_000)]
    pub keys: u64,
    /// Seconds to measure.
    #[arg(long, default_value_t = 15.0)]
    pub seconds: f64,
    /// Seconds of load before that.
    #[arg(long, default_value_t = 3.0)]
    pub warmup: f64,
    /// Open loop at this many operations a second, timed from when each was due [default: closed loop].
    #[arg(long)]
    pub rate: Option<f64>,
    /// Threads that drive the clients; 0: one.
    #[arg(long, default_value_t = 0)]
    pub threads: u32,
    /// An operation that takes longer is an error, milliseconds.
    #[arg(long, default_value_t = 10_000)]
    pub timeout_ms: u64,
    /// Each put gives its key so much time: 500ms, 30s, 5m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = super::lease::time)]
    pub ttl: Option<Duration>,
    /// Each put attaches its key to this lease, which is of its shard.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub lease: Option<u64>,
    /// Do not write every key first: they are there already.
    #[arg(long)]
    pub skip_load: bool,
    /// Write the result here too.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Take everything from PEERBENCH_* and write PEERBENCH_JSON: as the command of `peerbench run --command`.
    #[arg(long)]
    pub peerbench: bool,
}

/// Runs it.
pub fn run(args: BenchArgs) -> ExitCode {
    let workload = match Workload::new(&args, |name| std::env::var(name).ok()) {
        Ok(workload) => workload,
        Err(why) => {
            eprintln!("ringbeam bench: {why}");
            return ExitCode::from(2);
        }
    };
    match measure(workload) {
        Ok(report) => {
            // Under peerbench standard output is peerbench's table.
            if !args.peerbench {
                // A reader that has seen enough is no failure.
                let _ = std::io::stdout().write_all(report.text().as_bytes());
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("ringbeam bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn measure(workload: Workload) -> Result<Report, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends the process the usual way.
        signal_hook::flag::register_conditional_default(signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(|error| format!("signal {signal} cannot be caught: {error}"))?;
    }
    let server_version = server_version(&workload)?;
    if !workload.skip_load {
        eprintln!("writing {} keys", report::thousands(workload.keys as f64));
    }
    let mut load = Load::start(workload.clone(), &stop)?;
    let mut progress = Progress::new();
    let mut total = Tally::default();
    let mut stopping = false;
    let tally = loop {
        if stop.load(Ordering::Relaxed) && !stopping {
            stopping = true;
            load.stop();
        }
        match load.next(Duration::from_millis(100)) {
            Next::Nothing => {}
            Next::Second(second) => {
                progress.show(load.measures(), &second);
                total.add(*second);
            }
            Next::Ended(rest) => {
                total.add(*rest);
                break total;
            }
        }
    };
    progress.end();
    let report = Report { window: load.window_unix(), workload, tally, server_version };
    if let Some(path) = &report.workload.json {
        report.save(path)?;
    }
    Ok(report)
}

/// Of whichever node answers for shard 0; "" when none says it, which is no reason not to measure.
fn server_version(workload: &Workload) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime can be made: {error}"))?;
    runtime.block_on(async {
        let client = Client::builder()
            .endpoints([&workload.endpoints])
            .timeout(workload.timeout.min(Duration::from_secs(5)))
            .connect()
            .await
            .map_err(|error| error.to_string())?;
        let first = workload.endpoints.split(',').next().unwrap_or_default().trim();
        let status = client.with_timeout(Duration::from_secs(1)).status_of(first, 0).await;
        Ok(status.map(|status| status.version).unwrap_or_default())
    })
}

/// A line a second: overwritten on a terminal.
pub struct Progress {
    seconds: u64,
    overwrites: bool,
    open: bool,
}

impl Progress {
    /// On standard error.
    pub fn new() -> Progress {
        Progress { seconds: 0, overwrites: std::io::stderr().is_terminal(), open: false }
    }

    fn show(&mut self, measures: bool, second: &Tally) {
        self.seconds += 1;
        let phase = if measures { "" } else { "  (warm-up)" };
        let line = format!("{:>5} s {}{phase}", self.seconds, report::live(second));
        let mut error = std::io::stderr().lock();
        // A terminal that is gone is no reason to stop measuring.
        let _ = if self.overwrites { write!(error, "\r\x1b[K{line}") } else { writeln!(error, "{line}") };
        self.open = self.overwrites;
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            eprintln!();
        }
    }
}
