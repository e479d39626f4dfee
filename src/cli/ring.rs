//! `ring`: who belongs to the ring, who votes, who leads.
//!
//! A ring has one raft group per shard, so every change is made in each, one after the other, from the first to the last:
//!
//! ```text
//! replace OLD by NEW:   add NEW to 0, 1, 2 ...   promote NEW in 0, 1, 2 ... (waits until it has caught up)
//!                       per shard: transfer, if OLD leads it, then remove OLD
//! ```
//!
//! **Invariants**
//! - Every step may be repeated: a shard in which it is done already says so. So a command that was interrupted anywhere is
//!   finished by giving it again, and a lost answer is no reason to stop.
//! - `status` shows a change that was left half way, with the command that finishes it.
//!
//! **Not here**: whether a change is safe. The shard's leader decides that (`shards/raft/replica/members.rs`).

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use ringbeam_sdk::{Client, Code, Error, Role};
use serde_json::json;

use super::exit::{Exit, Failure};
use super::{Reach, print, print_json};

/// For `--help`.
pub const HELP: &str = "\
A change is made in every shard, one after the other, with a line for each. Interrupted, it is finished by giving the same
command again; `ringbeam status` shows where it stands.

Exit codes:
  0  done in every shard
  2  wrong arguments
  3  a shard's leader refused; shards named before are done
  4  the outcome in one shard is unknown; give the command again
  5  no connection, or not done in time; give the command again";

/// Between two tries of a step that must wait.
const TRY_EVERY: Duration = Duration::from_millis(200);
/// Between two lines that say what is being waited for.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// Hand-overs tried before a removal; leadership may come back in between.
const TRANSFERS_MAX: u32 = 5;

// What leaders say about states that pass by themselves, from `shards/raft/replica/members.rs` and from openraft.
const BEHIND: &str = "log entries behind";
const SILENT: &str = "does not answer; promote it when it does";
const CHANGING: &str = "undergoing a configuration change";
const OUT_OF_REACH: &str = "the node at ";
const LACKING: &str = "lack some of it";
const LEADS: &str = "leads this shard";
const FULL: &str = "at most 7 voters";

/// Arguments of `ring`.
#[derive(Debug, Args)]
pub struct RingArgs {
    #[command(subcommand)]
    change: Change,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Add a running, new node: it follows, without a vote.
    Add {
        /// Its node id.
        #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        node: u64,
        /// Its peer address.
        #[arg(long, value_name = "HOST:PORT", value_parser = address)]
        peer: String,
        #[command(flatten)]
        how: How,
    },
    /// Give a node that has caught up its vote.
    Promote {
        /// Its node id.
        #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        node: u64,
        #[command(flatten)]
        how: How,
    },
    /// Remove a node, whether it runs or not; shards that it leads are handed over first.
    Remove {
        /// Its node id.
        #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        node: u64,
        /// Also when the voters that are left and answer are no quorum: shards stand still until more of them are back. And beside a
        /// tie-breaker, when they lack some of what is acknowledged: it is lost with whoever has it.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        how: How,
    },
    /// Put a new node in the place of another: add, wait until it has caught up, promote, remove the other.
    Replace {
        /// The node that goes.
        #[arg(long, value_name = "OLD", value_parser = clap::value_parser!(u64).range(1..))]
        node: u64,
        /// The node that comes: an id that was never used.
        #[arg(long, value_name = "NEW", value_parser = clap::value_parser!(u64).range(1..))]
        by: u64,
        /// The peer address of the node that comes.
        #[arg(long, value_name = "HOST:PORT", value_parser = address)]
        peer: String,
        #[command(flatten)]
        how: How,
    },
    /// Hand the leadership of a shard, or of all, to another node.
    Transfer {
        /// The shard [default: all].
        #[arg(long, value_name = "S")]
        shard: Option<u32>,
        /// The node that shall lead [default: the voter that lacks the least].
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        to: Option<u64>,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Debug, Args)]
struct How {
    /// Longest wait in one shard for a node to catch up, or for a leader that can carry the step out, milliseconds.
    #[arg(long, default_value_t = 60_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=86_400_000))]
    wait_ms: u64,
    #[command(flatten)]
    reach: Reach,
}

fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(1..))) if !host.is_empty() => Ok(text.to_string()),
        _ => Err("it must be host:port with a port from 1 to 65535".into()),
    }
}

pub async fn run(args: RingArgs) -> Result<Exit, Failure> {
    let how = match &args.change {
        Change::Add { how, .. } | Change::Promote { how, .. } | Change::Remove { how, .. } => how,
        Change::Replace { how, .. } | Change::Transfer { how, .. } => how,
    };
    let client = how.reach.connect().await?;
    let work = Work { client, json: how.reach.json, wait: Duration::from_millis(how.wait_ms) };
    match &args.change {
        Change::Add { node, peer, .. } => work.add(*node, peer).await?,
        Change::Promote { node, .. } => work.promote(*node).await?,
        Change::Remove { node, force, .. } => work.remove(*node, *force).await?,
        Change::Replace { node, by, peer, .. } => work.replace(*node, *by, peer).await?,
        Change::Transfer { shard, to, .. } => work.transfer(*shard, *to).await?,
    }
    Ok(Exit::Done)
}

/// One command under way.
struct Work {
    client: Client,
    json: bool,
    wait: Duration,
}

impl Work {
    async fn add(&self, node: u64, peer: &str) -> Result<(), Failure> {
        for shard in 0..self.client.shards() {
            // Once the first shard has told it the ring, the node starts its shards: for a moment nobody is there.
            let passing: &[&str] = if shard == 0 { &[CHANGING] } else { &[CHANGING, OUT_OF_REACH] };
            let done = self.step(shard, passing, async || self.client.ring_add(shard, node, peer).await).await?;
            self.say(shard, &done)?;
        }
        Ok(())
    }

    async fn promote(&self, node: u64) -> Result<(), Failure> {
        for shard in 0..self.client.shards() {
            let done = self.step(shard, &[CHANGING], async || self.client.ring_promote(shard, node).await).await?;
            self.say(shard, &done)?;
        }
        Ok(())
    }

    async fn remove(&self, node: u64, force: bool) -> Result<(), Failure> {
        for shard in 0..self.client.shards() {
            self.remove_from(shard, node, force, &[CHANGING]).await?;
        }
        Ok(())
    }

    async fn remove_from(&self, shard: u32, node: u64, force: bool, passing: &[&str]) -> Result<(), Failure> {
        for tried in 1.. {
            self.lead_away(shard, node).await?;
            let removed = self.step(shard, passing, async || self.client.ring_remove(shard, node, force).await).await;
            match removed {
                Err(failure) if failure.message.contains(LEADS) && tried < TRANSFERS_MAX => {}
                Err(failure) => return Err(failure),
                Ok(done) => return self.say(shard, &done),
            }
        }
        Ok(())
    }

    /// Hands the shard over if `node` leads it, and waits until somebody else does.
    async fn lead_away(&self, shard: u32, node: u64) -> Result<(), Failure> {
        if self.leader(shard).await? != node {
            return Ok(());
        }
        let done = self.step(shard, &[], async || self.client.ring_transfer(shard, 0).await).await?;
        self.say(shard, &done)?;
        let deadline = Instant::now() + self.wait;
        while self.leader(shard).await? == node && Instant::now() < deadline {
            tokio::time::sleep(TRY_EVERY).await;
        }
        Ok(())
    }

    async fn leader(&self, shard: u32) -> Result<u64, Failure> {
        let topology = self.client.topology_of(shard).await.map_err(|error| failed(shard, error))?;
        Ok(topology.leader)
    }

    async fn transfer(&self, shard: Option<u32>, to: Option<u64>) -> Result<(), Failure> {
        let shards = self.client.shards();
        if let Some(shard) = shard.filter(|&shard| shard >= shards) {
            return Err(Failure::usage(format!("--shard {shard}: the ring has shards 0 to {}", shards - 1)));
        }
        for shard in shard.map_or(0..shards, |shard| shard..shard + 1) {
            let hand_over = async || self.client.ring_transfer(shard, to.unwrap_or(0)).await;
            let done = match to {
                Some(_) => self.step(shard, &[], hand_over).await?,
                // To anybody: a second try after a lost answer would hand it on once more.
                None => hand_over().await.map_err(|error| failed(shard, error))?,
            };
            self.say(shard, &done)?;
        }
        Ok(())
    }

    async fn replace(&self, old: u64, new: u64, peer: &str) -> Result<(), Failure> {
        if old == new {
            return Err(Failure::usage(format!("--by {new}: a node cannot replace itself; give the new one an id never used")));
        }
        self.add(new, peer).await?;
        let members = self.client.topology().await?.members;
        let role = |node| members.iter().find(|m| m.node == node).map(|m| m.role);
        match (role(new), role(old)) {
            // Observers have no vote to give or to take.
            (Some(Role::Observer), Some(Role::Observer) | None) => {}
            (Some(Role::Observer), Some(_)) => {
                let why = format!(
                    "node {new} is an observer by its configuration (node.role), node {old} votes: it cannot replace it"
                );
                return Err(Failure { exit: Exit::Refused, message: why });
            }
            _ => self.promote_in_place_of(old, new).await?,
        }
        for shard in 0..self.client.shards() {
            self.remove_from(shard, old, false, &[CHANGING, LACKING]).await?;
        }
        Ok(())
    }

    async fn promote_in_place_of(&self, old: u64, new: u64) -> Result<(), Failure> {
        for shard in 0..self.client.shards() {
            let promote = async || self.client.ring_promote(shard, new).await;
            let mut promoted = self.step(shard, &[CHANGING, BEHIND, SILENT], promote).await;
            if promoted.as_ref().is_err_and(|failure| failure.message.contains(FULL)) {
                // Seven vote already: the old one goes first, and for a moment six vote.
                self.remove_from(shard, old, false, &[CHANGING, LACKING]).await?;
                promoted = self.step(shard, &[CHANGING, BEHIND, SILENT], promote).await;
            }
            self.say(shard, &promoted?)?;
        }
        Ok(())
    }

    /// One step in one shard, tried again while what stands in its way passes by itself.
    async fn step(
        &self,
        shard: u32,
        passing: &[&str],
        call: impl AsyncFn() -> Result<String, Error>,
    ) -> Result<String, Failure> {
        let deadline = Instant::now() + self.wait;
        let mut said: Option<Instant> = None;
        loop {
            let error = match call().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if !passes(&error, passing) || Instant::now() >= deadline {
                return Err(failed(shard, error));
            }
            if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                said = Some(Instant::now());
                eprintln!("shard {shard}: trying again: {}", sentence(&error));
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    }

    fn say(&self, shard: u32, done: &str) -> Result<(), Failure> {
        match self.json {
            true => print_json(&json!({ "shard": shard, "done": done })),
            false => print(format!("shard {shard}: {done}\n").as_bytes()),
        }
    }
}

/// Whether the same step is worth another try. Steps may be repeated, so a lost answer is.
fn passes(error: &Error, passing: &[&str]) -> bool {
    match error {
        Error::Unknown { .. } | Error::Timeout { .. } => true,
        Error::Refused(refusal) => {
            refusal.code == Code::Membership && passing.iter().any(|part| refusal.message.contains(part))
        }
        Error::Connect(_) | Error::Protocol(_) | Error::Misuse(_) => false,
    }
}

fn sentence(error: &Error) -> String {
    match error {
        Error::Refused(refusal) => refusal.message.clone(),
        other => other.to_string(),
    }
}

fn failed(shard: u32, error: Error) -> Failure {
    let failure = Failure::from(error);
    let again = match failure.exit {
        Exit::Refused => "",
        _ => "\nGive the same command again to go on from there.",
    };
    Failure { message: format!("shard {shard}: {}{again}", failure.message), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringbeam_sdk::Refusal;

    fn work_error(code: Code, message: &str) -> Error {
        Error::Refused(Refusal::new(code, message))
    }

    #[test]
    fn only_what_passes_by_itself_is_tried_again() {
        let behind = work_error(Code::Membership, "node 4 is 9000 log entries behind; promote it when it is at most 1024");
        assert!(passes(&behind, &[CHANGING, BEHIND]));
        assert!(!passes(&behind, &[CHANGING]), "promote alone refuses at once");
        assert!(!passes(&work_error(Code::DiskFull, "log entries behind"), &[BEHIND]));
        let lacking = "without node 3 only [1] of the voters {1, 2, 4} would have all that is acknowledged: [2] lack some of it, and a \
                       tie-breaker keeps no state. 2 should have it: bring them up to date, or give --force";
        assert!(passes(&work_error(Code::Membership, lacking), &[LACKING]));
        assert!(passes(&Error::Timeout { timeout_ms: 1, why: String::new() }, &[]));
        assert!(passes(&Error::Unknown { shard: 0, session: 0, sequence: 0, why: String::new() }, &[]));
        assert!(!passes(&Error::Connect("nobody".into()), &[BEHIND]));
    }

    #[test]
    fn a_failure_names_its_shard_and_says_how_to_go_on() {
        let refused = failed(2, work_error(Code::Membership, "node 4 is the only voter"));
        assert_eq!(refused.exit, Exit::Refused);
        assert!(refused.message.starts_with("shard 2: ") && !refused.message.contains("again to go on"), "{}", refused.message);
        let lost = failed(1, Error::Timeout { timeout_ms: 5, why: String::new() });
        assert_eq!(lost.exit, Exit::NoConnection);
        assert!(lost.message.ends_with("Give the same command again to go on from there."));
    }
}
