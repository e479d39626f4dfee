//! `namespace`: what the ring says of a namespace, for clients that do not say it themselves.

use std::time::Duration;

use clap::{Args, Subcommand};
use ringbeam_sdk::Policy;
use serde_json::json;

use super::exit::{Exit, Failure};
use super::freshness::{Freshness, consistency, parse_age};
use super::{Reach, print, print_json};

/// Arguments of `namespace`.
#[derive(Debug, Args)]
pub struct NamespaceArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say how fresh reads of a namespace are that do not say so themselves.
    Set {
        /// The namespace; "" is the default one.
        name: String,
        /// How fresh its reads are to be.
        #[arg(long, value_enum)]
        consistency: Freshness,
        /// For bounded: how old an answer may be, as in 250ms or 1.5s.
        #[arg(long, value_name = "AGE", value_parser = parse_age)]
        max_age: Option<Duration>,
        /// For bounded: answer all the same when no node can show that, and say so.
        #[arg(long)]
        stale_ok: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Print what is said of a namespace. Exits with 1 if nothing is.
    Get {
        /// The namespace; "" is the default one.
        name: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Say nothing of a namespace any more. Exits with 1 if nothing was said.
    Unset {
        /// The namespace; "" is the default one.
        name: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Print all namespaces of which something is said, each with it.
    List {
        #[command(flatten)]
        reach: Reach,
    },
}

pub async fn run(args: NamespaceArgs) -> Result<Exit, Failure> {
    match args.what {
        What::Set { name, consistency: freshness, max_age, stale_ok, reach } => {
            let policy = Policy::reads(consistency(freshness, max_age, stale_ok).map_err(Failure::usage)?);
            reach.connect().await?.set_policy(&name, &policy).await?;
            say(&reach, &name, Some(&policy))?;
            Ok(Exit::Done)
        }
        What::Get { name, reach } => {
            let policy = reach.connect().await?.policy(&name).await?;
            if policy.is_none() && !reach.json {
                eprintln!("ringbeam: nothing is said of namespace {name:?}: reads are linearizable unless they say otherwise");
                return Ok(Exit::No);
            }
            say(&reach, &name, policy.as_ref())?;
            Ok(if policy.is_some() { Exit::Done } else { Exit::No })
        }
        What::Unset { name, reach } => {
            let existed = reach.connect().await?.remove_policy(&name).await?;
            if reach.json {
                print_json(&json!({ "namespace": name, "existed": existed }))?;
            } else if !existed {
                eprintln!("ringbeam: nothing was said of namespace {name:?}");
            }
            Ok(if existed { Exit::Done } else { Exit::No })
        }
        What::List { reach } => {
            let policies = reach.connect().await?.policies().await?;
            if reach.json {
                let all = policies.iter().map(|(name, policy)| json!({ "namespace": name, "policy": policy.words() }));
                print_json(&all.collect())?;
            } else {
                let lines: String = policies.iter().map(|(name, policy)| format!("{name}\t{}\n", policy.words())).collect();
                print(lines.as_bytes())?;
            }
            Ok(Exit::Done)
        }
    }
}

fn say(reach: &Reach, name: &str, policy: Option<&Policy>) -> Result<(), Failure> {
    let words = policy.map(Policy::words);
    if reach.json {
        return print_json(&json!({ "namespace": name, "policy": words }));
    }
    print(format!("{}\n", words.unwrap_or_default()).as_bytes())
}
