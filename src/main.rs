//! The ringbeam binary: one node of the ring (`serve`), and what people do with one.
//!
//! ```text
//! config.rs    the file of a node, checked whole         logging.rs   log lines, never in a shard's way
//! identity.rs  whose data directory it is                founding.rs  how it comes to a ring
//! node.rs      puts shards on cores and runs them        admin/       health, status and metrics over HTTP
//! descriptors.rs  how many connections fit them
//! cli/         put, get, delete, incr, status, ring, dev, bench
//! ```
//!
//! **Not here**: anything on the way of a write. That is `shards/write.rs`.

mod admin;
mod cli;
mod config;
mod descriptors;
mod founding;
mod identity;
mod logging;
mod node;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
