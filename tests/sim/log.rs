//! What nodes log, on standard error: `RINGBEAM_SIM_LOG=info cargo test --test sim -- SEED`.
//!
//! **Invariant**: a run that is logged is the same run: looks at the clock on behalf of a log line cost nothing.

use std::fmt;
use std::str::FromStr;

use ringbeam_shards::io::sim::{aside, current_host, world_now_ns};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Log lines from here on, if the environment asks for them.
pub fn init() {
    let Ok(level) = std::env::var("RINGBEAM_SIM_LOG") else { return };
    let Ok(level) = LevelFilter::from_str(&level) else {
        eprintln!("RINGBEAM_SIM_LOG={level}: not one of error, warn, info, debug, trace");
        return;
    };
    let lines = tracing_subscriber::fmt().with_max_level(level).with_timer(Virtual).with_ansi(false);
    let lines = lines.with_writer(std::io::stderr).finish();
    tracing::subscriber::set_global_default(Aside(lines)).expect("nobody else logs in this process");
}

/// Virtual time.
struct Virtual;

impl FormatTime for Virtual {
    fn format_time(&self, to: &mut Writer<'_>) -> fmt::Result {
        match current_host() {
            Some(host) => write!(to, "{:.6} host {}", world_now_ns() as f64 / 1e9, host.0),
            None => write!(to, "outside"),
        }
    }
}

/// Writes down what happens without changing it.
struct Aside<S>(S);

impl<S: Subscriber> Subscriber for Aside<S> {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        self.0.register_callsite(metadata)
    }
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.0.max_level_hint()
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        aside(|| self.0.new_span(span))
    }
    fn record(&self, span: &Id, values: &Record<'_>) {
        aside(|| self.0.record(span, values));
    }
    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.0.record_follows_from(span, follows);
    }
    fn event(&self, event: &Event<'_>) {
        aside(|| self.0.event(event));
    }
    fn enter(&self, span: &Id) {
        self.0.enter(span);
    }
    fn exit(&self, span: &Id) {
        self.0.exit(span);
    }
    fn clone_span(&self, id: &Id) -> Id {
        self.0.clone_span(id)
    }
    fn try_close(&self, id: Id) -> bool {
        self.0.try_close(id)
    }
}
