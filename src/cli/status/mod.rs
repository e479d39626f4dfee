//! `status`: how the ring is, asked of every node, for people and for programs.
//!
//! ```text
//! every (node, shard) --GetStatus--> Report (report.rs) --+--> table (table.rs)
//!                                                          +--> JSON (json.rs)
//! ```
//!
//! **Not here**: judging. A ring with a dead node still answers with exit code 0; what is wrong is in the findings.

pub mod json;
mod report;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use clap::Args;

use super::exit::{Exit, Failure};
use super::{Reach, print, print_json};

pub use report::Report;

/// Longest wait for one node. A node that is up answers in milliseconds, and a dead one must not hide the rest for long.
const NODE_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    reach: Reach,
}

pub async fn run(args: StatusArgs) -> Result<Exit, Failure> {
    let client = args.reach.connect().await?;
    let hurried = client.with_timeout(NODE_TIMEOUT_MAX.min(Duration::from_millis(args.reach.timeout_ms)));
    let answers = hurried.status().await;
    // Addresses only; without a leader there are none, and the status matters all the more.
    let members = hurried.topology().await.map(|topology| topology.members).unwrap_or_default();
    let report = Report::new(client.ring(), client.shards(), answers, members);
    if args.reach.json {
        print_json(&json::report(&report))?;
    } else {
        print(table::render(&report).as_bytes())?;
    }
    Ok(Exit::Done)
}
