//! Log lines to standard error, written by a thread of their own.
//!
//! **Invariant**: a shard never waits for a log line. What the thread cannot write in time is dropped, not queued without bound:
//! a terminal or pipe that nobody reads must not stop a ring.

use std::io::{IsTerminal, stderr};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};

use crate::config::Level;

/// Lines that may wait for the writing thread; more are dropped. At 200 bytes each, under 2 MiB.
const LINES_WAITING_MAX: usize = 8_192;

/// Starts logging for the whole process. What waits is written when the guard is dropped.
#[must_use = "log lines are written as long as the guard lives"]
pub fn start(level: Level) -> WorkerGuard {
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES_WAITING_MAX).lossy(true).thread_name("log").finish(stderr());
    let lines = tracing_subscriber::fmt::layer().with_ansi(stderr().is_terminal()).with_target(false).with_writer(writer);
    let started = tracing_subscriber::registry().with(lines.with_filter(filter(level)));
    if tracing::subscriber::set_global_default(started).is_err() {
        eprintln!("ringbeam: logging was started before; the level stays as it is");
    }
    guard
}

/// openraft tells each vote and each step at `info`: that is for who debugs raft.
fn filter(level: Level) -> Targets {
    let (ours, rafts) = match level {
        Level::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
        Level::Debug => (LevelFilter::DEBUG, LevelFilter::INFO),
        Level::Info => (LevelFilter::INFO, LevelFilter::WARN),
        Level::Warn => (LevelFilter::WARN, LevelFilter::ERROR),
        Level::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
    };
    Targets::new().with_default(ours).with_target("openraft", rafts)
}
