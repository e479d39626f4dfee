//! What is to be measured: from the command line, or from the environment that peerbench gives to an external generator.
//!
//! **Invariants**
//! - A [`Workload`] exists only if it can be run: something is in flight, there are keys, the rate is above zero.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use ringbeam_sdk::{Consistency, PutOptions};
use ringbeam_wire::limits::VALUE_BYTES_HARD_MAX;

use super::BenchArgs;
use crate::cli::freshness::consistency;

/// Most operations in flight in all, so that a mistyped number is a message and not all of the memory.
pub const IN_FLIGHT_MAX: u64 = 1 << 20;

/// Longest time that can be asked for, seconds: a year, well within what an `Instant` can add.
const SECONDS_MAX: f64 = 365.0 * 86_400.0;

/// What the operations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Op {
    /// Writes only.
    Put,
    /// Reads only.
    Get,
    /// Reads and writes; `--read-percent` says how many are reads.
    Mixed,
}

/// One run of the generator.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Client addresses, host:port, separated by commas.
    pub endpoints: String,
    /// Region of the clients; "": none.
    pub region: String,
    /// The namespace of all keys.
    pub namespace: String,
    /// What the operations are.
    pub op: Op,
    /// Share of reads of [`Op::Mixed`], 0 to 100.
    pub read_percent: u64,
    /// Of the reads.
    pub consistency: Consistency,
    /// SDK clients, each with its own connections.
    pub clients: u32,
    /// Operations in flight on each client.
    pub inflight: u32,
    /// Bytes of a value.
    pub value_bytes: u32,
    /// Keys are drawn uniformly from this many.
    pub keys: u64,
    /// The measured window; `None`: until stopped.
    pub window: Option<Duration>,
    /// Load before the window, not measured.
    pub warmup: Duration,
    /// Operations a second of an open loop; `None`: closed loop.
    pub rate: Option<f64>,
    /// Threads with a runtime each; at least 1, at most one a client.
    pub threads: u32,
    /// An operation that takes longer is an error.
    pub timeout: Duration,
    /// The keys go this long after each put.
    pub ttl: Option<Duration>,
    /// The keys go with this lease.
    pub lease: Option<u64>,
    /// The keys are there already.
    pub skip_load: bool,
    /// Where the result goes.
    pub json: Option<PathBuf>,
}

impl Workload {
    /// How its puts differ from plain ones.
    pub fn life(&self) -> PutOptions {
        PutOptions { ttl: self.ttl, lease: self.lease.map(Into::into), ..PutOptions::default() }
    }

    /// The workload of a command line. With `--peerbench` all of it comes from `environment`.
    pub fn new(args: &BenchArgs, environment: impl Fn(&str) -> Option<String>) -> Result<Workload, String> {
        let mut workload = Workload {
            endpoints: args.endpoints.clone(),
            region: args.region.clone(),
            namespace: args.namespace.clone(),
            op: args.op,
            read_percent: u64::from(args.read_percent),
            consistency: consistency(args.consistency, args.max_age, args.stale_ok)?,
            clients: args.clients,
            inflight: args.inflight,
            value_bytes: args.value_size,
            keys: args.keys,
            window: Some(seconds("--seconds", args.seconds)?),
            warmup: seconds("--warmup", args.warmup)?,
            rate: args.rate,
            threads: args.threads,
            timeout: Duration::from_millis(args.timeout_ms),
            ttl: args.ttl,
            lease: args.lease,
            skip_load: args.skip_load,
            json: args.json.clone(),
        };
        if args.peerbench {
            workload.take_peerbench(&environment)?;
        }
        workload.check()
    }

    /// The variables of peerbench's README, all of which it always sets; RATE is empty for a closed loop.
    fn take_peerbench(&mut self, environment: &impl Fn(&str) -> Option<String>) -> Result<(), String> {
        let text = |name: &str| {
            environment(name)
                .ok_or_else(|| format!("{name} is not set: --peerbench is for `peerbench run --command`, which sets it"))
        };
        self.endpoints = text("PEERBENCH_ENDPOINTS")?;
        (self.op, self.consistency) = match text("PEERBENCH_OP")?.as_str() {
            "put" => (Op::Put, Consistency::Linearizable),
            "get-linearizable" => (Op::Get, Consistency::Linearizable),
            "get-local" => (Op::Get, Consistency::Local),
            "mixed" => (Op::Mixed, Consistency::Linearizable),
            other => {
                return Err(format!("PEERBENCH_OP is {other:?}, it must be put, get-linearizable, get-local or mixed"));
            }
        };
        self.clients = number("PEERBENCH_CLIENTS", &text("PEERBENCH_CLIENTS")?)?;
        self.inflight = number("PEERBENCH_INFLIGHT", &text("PEERBENCH_INFLIGHT")?)?;
        self.value_bytes = number("PEERBENCH_VALUE_SIZE", &text("PEERBENCH_VALUE_SIZE")?)?;
        self.keys = number("PEERBENCH_KEYS", &text("PEERBENCH_KEYS")?)?;
        self.read_percent = number("PEERBENCH_READ_PERCENT", &text("PEERBENCH_READ_PERCENT")?)?;
        let window: f64 = number("PEERBENCH_SECONDS", &text("PEERBENCH_SECONDS")?)?;
        self.window = Some(seconds("PEERBENCH_SECONDS", window)?);
        let warmup: f64 = number("PEERBENCH_WARMUP", &text("PEERBENCH_WARMUP")?)?;
        self.warmup = seconds("PEERBENCH_WARMUP", warmup)?;
        let rate = text("PEERBENCH_RATE")?;
        self.rate = match rate.trim() {
            "" => None,
            rate => Some(number("PEERBENCH_RATE", rate)?),
        };
        let timeout_ms = number("PEERBENCH_TIMEOUT_MS", &text("PEERBENCH_TIMEOUT_MS")?)?;
        self.timeout = Duration::from_millis(timeout_ms);
        self.skip_load = match text("PEERBENCH_SKIP_LOAD")?.as_str() {
            "0" => false,
            "1" => true,
            other => {
                return Err(format!("PEERBENCH_SKIP_LOAD is {other:?}, it must be 0 or 1"));
            }
        };
        self.json = Some(PathBuf::from(text("PEERBENCH_JSON")?));
        Ok(())
    }

    fn check(mut self) -> Result<Workload, String> {
        let inflight = u64::from(self.clients) * u64::from(self.inflight);
        if !(1..=IN_FLIGHT_MAX).contains(&inflight) {
            return Err(format!(
                "{} clients with {} in flight each are {inflight} operations in flight, it must be 1 to {IN_FLIGHT_MAX}",
                self.clients, self.inflight
            ));
        }
        if self.keys == 0 {
            return Err("--keys is 0, at least one is needed".into());
        }
        if self.value_bytes > VALUE_BYTES_HARD_MAX {
            return Err(format!(
                "values of {} bytes were asked for, the wire's limit is {VALUE_BYTES_HARD_MAX}",
                self.value_bytes
            ));
        }
        if self.read_percent > 100 {
            return Err(format!("--read-percent is {}, it must be 0 to 100", self.read_percent));
        }
        if let Some(rate) = self.rate
            && !(rate.is_finite() && rate > 0.0)
        {
            return Err(format!("the rate is {rate}, it must be above 0 operations a second"));
        }
        if self.window == Some(Duration::ZERO) {
            return Err("the window has 0 seconds, nothing can be measured in it".into());
        }
        if self.timeout.is_zero() {
            return Err("the timeout is 0 ms, every operation would fail".into());
        }
        self.threads = self.threads.clamp(1, self.clients);
        Ok(self)
    }

    /// Whether an operation is a read: `draw` is uniform below 100.
    pub fn reads(&self, draw: u64) -> bool {
        match self.op {
            Op::Put => false,
            Op::Get => true,
            Op::Mixed => draw < self.read_percent,
        }
    }

    /// The operation's name, as peerbench spells it.
    pub fn op_name(&self) -> &'static str {
        match (self.op, self.consistency) {
            (Op::Put, _) => "put",
            (Op::Get, Consistency::Linearizable) => "get-linearizable",
            (Op::Get, Consistency::Local) => "get-local",
            (Op::Get, Consistency::Session) => "get-session",
            (Op::Get, Consistency::Bounded { .. }) => "get-bounded",
            (Op::Mixed, _) => "mixed",
        }
    }
}

fn seconds(name: &str, value: f64) -> Result<Duration, String> {
    if !(0.0..=SECONDS_MAX).contains(&value) {
        return Err(format!("{name} is {value}, it must be 0 to {SECONDS_MAX} seconds"));
    }
    Ok(Duration::from_secs_f64(value))
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("{name} is {text:?}, which is no number that fits"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(args_override_self = true)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    pub(in super::super) fn args(words: &str) -> BenchArgs {
        Line::parse_from(["bench"].into_iter().chain(words.split_whitespace())).args
    }

    fn peerbench(name: &str) -> Option<String> {
        let value = match name {
            "PEERBENCH_ENDPOINTS" => "127.0.0.1:1,127.0.0.1:2",
            "PEERBENCH_OP" => "get-local",
            "PEERBENCH_CLIENTS" => "16",
            "PEERBENCH_INFLIGHT" => "4",
            "PEERBENCH_VALUE_SIZE" => "256",
            "PEERBENCH_KEYS" => "10000",
            "PEERBENCH_READ_PERCENT" => "50",
            "PEERBENCH_SECONDS" => "1.5",
            "PEERBENCH_WARMUP" => "0.5",
            "PEERBENCH_RATE" => "",
            "PEERBENCH_TIMEOUT_MS" => "10000",
            "PEERBENCH_SKIP_LOAD" => "1",
            "PEERBENCH_JSON" => "/x/y.json",
            _ => return None,
        };
        Some(value.into())
    }

    #[test]
    fn peerbench_environment_is_taken_whole() {
        let workload = Workload::new(&args("--peerbench --clients 3 --rate 7"), peerbench).expect("all are set");
        assert_eq!(workload.endpoints, "127.0.0.1:1,127.0.0.1:2");
        assert_eq!((workload.op, workload.consistency), (Op::Get, Consistency::Local));
        assert_eq!((workload.clients, workload.inflight), (16, 4));
        assert_eq!(workload.window, Some(Duration::from_millis(1500)));
        assert_eq!(workload.warmup, Duration::from_millis(500));
        assert_eq!(workload.rate, None, "an empty rate is a closed loop");
        assert!(workload.skip_load);
        assert_eq!(workload.json, Some(PathBuf::from("/x/y.json")));
        assert_eq!(workload.op_name(), "get-local");
    }

    #[test]
    fn a_missing_or_odd_variable_is_named() {
        let without = |name: &str| {
            if name == "PEERBENCH_KEYS" { None } else { peerbench(name) }
        };
        let error = Workload::new(&args("--peerbench"), without).expect_err("KEYS is missing");
        assert!(error.contains("PEERBENCH_KEYS"), "{error}");
        let odd = |name: &str| {
            if name == "PEERBENCH_RATE" { Some("fast".into()) } else { peerbench(name) }
        };
        let error = Workload::new(&args("--peerbench"), odd).expect_err("no number");
        assert!(error.contains("PEERBENCH_RATE is \"fast\""), "{error}");
    }

    #[test]
    fn workloads_that_cannot_run_are_refused() {
        let bad = [
            "--clients 0",
            "--keys 0",
            "--rate 0",
            "--rate NaN",
            "--seconds 0",
            "--seconds -1",
            "--timeout-ms 0",
            "--value-size 20000000",
            "--clients 4000000000 --inflight 4000000000",
        ];
        for words in bad {
            let words = words.replace(" -1", "=-1");
            assert!(Workload::new(&args(&words), |_| None).is_err(), "{words}");
        }
        let workload = Workload::new(&args("--threads 99 --clients 3"), |_| None).expect("it can run");
        assert_eq!(workload.threads, 3, "no thread without a client");
    }

    #[test]
    fn mixed_reads_as_often_as_asked() {
        let workload = Workload::new(&args("--op mixed --read-percent 30"), |_| None).expect("it can run");
        assert_eq!((0..100).filter(|&draw| workload.reads(draw)).count(), 30);
    }
}
