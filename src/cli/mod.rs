//! The command line: what a person types, and what the exit code says to a script.
//!
//! Every command but `serve` is a client of a ring, through the SDK like any other. Results go to standard output, fit for
//! pipes; everything about them goes to standard error.
//!
//! **Not here**: arguments of a node. A node has a file (`config.rs`).

pub mod bench;
mod change;
mod completions;
mod data;
pub mod dev;
mod exit;
mod freshness;
mod keys;
mod lease;
mod namespace;
mod ring;
pub mod status;
#[cfg(test)]
mod tests;
mod watch;

use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ringbeam_sdk::Client;

use crate::config::Config;
use crate::{logging, node};
use exit::{Exit, Failure};

/// A replicated, durable, strongly consistent key-value store.
#[derive(Debug, Parser)]
#[command(name = "ringbeam", version, about, after_help = exit::HELP, propagate_version = true, infer_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node of a ring.
    Serve(ServeArgs),
    /// Run a whole ring on this machine, and show it at work.
    Dev(dev::DevArgs),
    /// Measure a ring under load.
    Bench(bench::BenchArgs),
    /// Set a key; prints the revision once the write is durable on a quorum.
    #[command(after_help = exit::HELP)]
    Put(keys::PutArgs),
    /// Print the value of a key, byte for byte.
    #[command(after_help = exit::HELP)]
    Get(keys::GetArgs),
    /// Remove a key; prints the revision.
    #[command(after_help = exit::HELP)]
    Delete(keys::DeleteArgs),
    /// Set a key if it is as expected; prints the revision, exits with 1 if it is not.
    #[command(after_help = exit::HELP)]
    Cas(data::CasArgs),
    /// Put bytes behind a value, or change JSON by a merge patch; prints the revision. Only the delta goes through the log.
    #[command(after_help = exit::HELP)]
    Append(change::AppendArgs),
    /// Add to a counter; prints the sum. Exits with 3 if it would leave its bounds.
    #[command(after_help = exit::HELP)]
    Incr(change::IncrArgs),
    /// Remove a range of keys, slice by slice; prints how many there were.
    #[command(after_help = exit::HELP)]
    DeleteRange(change::DeleteRangeArgs),
    /// Settle what became of a write whose answer was lost; the error that said so names the numbers.
    #[command(after_help = exit::HELP)]
    Outcome(change::OutcomeArgs),
    /// Carry out a transaction: compares, then one of two lists of gets, puts and deletes, all at once.
    Txn(data::TxnArgs),
    /// Print keys in their order: each on a line with a tab and its value. --json tells bytes that are not text.
    #[command(after_help = exit::HELP)]
    Scan(data::ScanArgs),
    /// Print every change of a range of keys as it happens, a line each: revision, what happened, key, value. Ends by Ctrl-C.
    #[command(after_help = watch::HELP)]
    Watch(watch::WatchArgs),
    /// Grant, keep alive, revoke or look at a lease of one shard: keys put with it go when it ends.
    #[command(after_help = exit::HELP)]
    Lease(lease::LeaseArgs),
    /// Say how fresh the reads of a namespace are that do not say so themselves, or print what is said.
    #[command(after_help = exit::HELP)]
    Namespace(namespace::NamespaceArgs),
    /// Show how the ring is.
    #[command(after_help = exit::HELP)]
    Status(status::StatusArgs),
    /// Change the members of a ring, or who leads.
    #[command(after_help = ring::HELP)]
    Ring(ring::RingArgs),
    /// Print what makes a shell complete these commands and their options.
    #[command(after_help = completions::HELP)]
    Completions(completions::CompletionsArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The node's file; deploy/node.toml shows every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// How a command reaches the ring.
#[derive(Debug, Args)]
pub struct Reach {
    /// Client addresses of any nodes, host:port, separated by commas; one that answers is enough.
    #[arg(long, env = "RINGBEAM_ENDPOINTS", default_value = "127.0.0.1:7701", value_name = "HOST:PORT,...")]
    pub endpoints: String,
    /// Region of this client: reads that any node may serve go to nodes of it first. Empty: none.
    #[arg(long, env = "RINGBEAM_REGION", default_value = "")]
    pub region: String,
    /// Longest time for the call, milliseconds.
    #[arg(long, default_value_t = 5_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub timeout_ms: u64,
    /// Answer in JSON.
    #[arg(long)]
    pub json: bool,
}

impl Reach {
    /// A client for one command.
    async fn connect(&self) -> Result<Client, Failure> {
        let client = Client::builder()
            .endpoints([&self.endpoints])
            .region(&self.region)
            .timeout(Duration::from_millis(self.timeout_ms))
            .client_name(concat!("ringbeam-cli/", env!("CARGO_PKG_VERSION")))
            .connect()
            .await?;
        Ok(client)
    }
}

/// The whole program.
pub fn run() -> ExitCode {
    // Usage errors end here, with clap's code, which is ours: 2.
    let result = match Cli::parse().command {
        Command::Serve(args) => return serve(&args),
        Command::Dev(args) => return dev::run(args),
        Command::Bench(args) => return bench::run(args),
        Command::Put(args) => block_on(keys::put(args)),
        Command::Get(args) => block_on(keys::get(args)),
        Command::Delete(args) => block_on(keys::delete(args)),
        Command::Cas(args) => block_on(data::cas(args)),
        Command::Incr(args) => block_on(change::incr(args)),
        Command::DeleteRange(args) => block_on(change::delete_range(args)),
        Command::Outcome(args) => block_on(change::outcome(args)),
        Command::Append(args) => block_on(change::append(args)),
        Command::Txn(args) => block_on(data::txn(args)),
        Command::Scan(args) => block_on(data::scan(args)),
        Command::Watch(args) => block_on(watch::run(args)),
        Command::Lease(args) => block_on(lease::run(args)),
        Command::Namespace(args) => block_on(namespace::run(args)),
        Command::Status(args) => block_on(status::run(args)),
        Command::Ring(args) => block_on(ring::run(args)),
        Command::Completions(args) => completions::print(args.shell),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("ringbeam: {}", failure.message);
            failure.exit.into()
        }
    }
}

/// A wrong file is told apart from a node that cannot go on: the first needs a person, the second may do better next time.
fn serve(args: &ServeArgs) -> ExitCode {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(why) => {
            eprintln!("ringbeam: {why}");
            return Exit::Usage.into();
        }
    };
    let guard = logging::start(config.logging.level);
    let served = node::serve(&config);
    // The lines before the last word come before it.
    drop(guard);
    match served {
        Ok(()) => Exit::Done.into(),
        Err(why) => {
            eprintln!("ringbeam: {why}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Failure::usage(format!("no runtime for network calls: {e}")))?.block_on(command)
}

/// Writes a result. A reader that has seen enough (`| head`) is no error; a full disk behind a redirection is.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::usage(format!("standard output: {e}"))),
        _ => Ok(()),
    }
}

fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(format!("{value}\n").as_bytes())
}
