//! `incr`, `append`, `delete-range`: writes that change what is there; `outcome`: what became of a write.
//!
//! **Not here**: what they mean (the SDK's `counter.rs`, `append.rs`, `erase.rs`, `outcome.rs`); conditional writes (`data.rs`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use ringbeam_sdk::{AddOptions, Counted, Happened, Outcome, Range, Ticket};
use serde_json::json;

use super::exit::{Exit, Failure};
use super::keys::{found_json, revision, revision_json, written_json};
use super::{Reach, print, print_json};

/// Arguments of `incr`.
#[derive(Debug, Args)]
pub struct IncrArgs {
    /// The key; without a value it counts as 0.
    key: OsString,
    /// What is added.
    #[arg(long, default_value_t = 1, value_name = "NUMBER", allow_negative_numbers = true)]
    by: i64,
    /// Refuse a sum below this.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    min: Option<i64>,
    /// Refuse a sum above this.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    max: Option<i64>,
    /// Namespace of the key.
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
}

/// Arguments of `delete-range`.
#[derive(Debug, Args)]
pub struct DeleteRangeArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Namespace of the keys.
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
}

/// Something must be said: nobody deletes everything by forgetting an argument.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct WhichArgs {
    /// Keys that begin so.
    #[arg(conflicts_with_all = ["from", "until", "all"])]
    prefix: Option<OsString>,
    /// From this key on.
    #[arg(long, value_name = "KEY", conflicts_with = "all")]
    from: Option<OsString>,
    /// Before this key.
    #[arg(long, value_name = "KEY", conflicts_with = "all")]
    until: Option<OsString>,
    /// All keys of the namespace.
    #[arg(long)]
    all: bool,
}

impl WhichArgs {
    /// A word that is empty says nothing: mostly it is a variable that was never set.
    fn range(&self) -> Result<Range, Failure> {
        let bytes = |key: &Option<OsString>| key.as_ref().map_or(Vec::new(), |key| key.as_bytes().to_vec());
        let (prefix, from, until) = (bytes(&self.prefix), bytes(&self.from), bytes(&self.until));
        if self.all {
            return Ok(Range::all());
        }
        if !prefix.is_empty() {
            return Ok(Range::prefix(prefix));
        }
        if self.until.is_some() && until.is_empty() {
            return Err(Failure::usage("--until is empty: name the key that is the first to stay, or leave --until out"));
        }
        if from.is_empty() && until.is_empty() {
            let what = if self.prefix.is_some() { "the prefix" } else { "--from" };
            let right = "name a prefix or a key, or say --all if all keys of the namespace are to go";
            return Err(Failure::usage(format!("{what} is empty: {right}")));
        }
        Ok(Range::between(from, until))
    }
}

pub async fn delete_range(args: DeleteRangeArgs) -> Result<Exit, Failure> {
    let range = args.which.range()?;
    let client = args.reach.connect().await?.namespace(&args.namespace);
    let deleted = client.delete_range(range).await?;
    if args.reach.json {
        print_json(&json!({ "deleted": deleted }))?;
    } else {
        print(format!("{deleted}\n").as_bytes())?;
    }
    Ok(Exit::Done)
}

/// Arguments of `outcome`.
#[derive(Debug, Args)]
pub struct OutcomeArgs {
    /// The shard that the write was sent to.
    shard: u32,
    /// The session that it was sent in.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    session: u64,
    /// Its sequence in the session.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    sequence: u64,
    #[command(flatten)]
    reach: Reach,
}

pub async fn outcome(args: OutcomeArgs) -> Result<Exit, Failure> {
    let client = args.reach.connect().await?;
    let OutcomeArgs { shard, session, sequence, .. } = args;
    let outcome = client.outcome(&Ticket { shard, session, sequence }).await?;
    if args.reach.json {
        print_json(&outcome_json(&outcome))?;
    }
    match outcome {
        Outcome::Happened(done) => {
            if !args.reach.json {
                print(format!("{}\n", revision(done.revision)).as_bytes())?;
            }
            Ok(Exit::Done)
        }
        Outcome::Never => {
            eprintln!("ringbeam: it did not happen, and never will");
            Ok(Exit::No)
        }
    }
}

fn outcome_json(outcome: &Outcome) -> serde_json::Value {
    match outcome {
        Outcome::Never => json!({ "happened": false }),
        Outcome::Happened(Happened { revision, ring_time_ms, existed, gets }) => json!({
            "happened": true,
            "revision": revision_json(*revision),
            "ring_time_ms": ring_time_ms,
            "existed": existed,
            "gets": gets.iter().map(|found| found_json(found.as_ref())).collect::<Vec<_>>(),
        }),
    }
}

/// Arguments of `append`.
#[derive(Debug, Args)]
pub struct AppendArgs {
    /// The key.
    key: OsString,
    /// What is put behind its value, or the patch.
    #[arg(allow_negative_numbers = true)]
    delta: OsString,
    /// The value is JSON and the delta a merge patch (RFC 7396): members are set, those that are null go.
    #[arg(long)]
    merge_patch: bool,
    /// Namespace of the key.
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
}

pub async fn append(args: AppendArgs) -> Result<Exit, Failure> {
    let client = args.reach.connect().await?.namespace(&args.namespace);
    let (key, delta) = (args.key.as_bytes(), args.delta.as_bytes());
    let written = if args.merge_patch { client.merge_patch(key, delta).await? } else { client.append(key, delta).await? };
    if args.reach.json {
        print_json(&written_json(&written))?;
    } else {
        print(format!("{}\n", revision(written.revision)).as_bytes())?;
    }
    Ok(Exit::Done)
}

pub async fn incr(args: IncrArgs) -> Result<Exit, Failure> {
    let client = args.reach.connect().await?.namespace(&args.namespace);
    let all = AddOptions::default();
    let options = AddOptions { min: args.min.unwrap_or(all.min), max: args.max.unwrap_or(all.max), ..all };
    let counted = client.add_with(args.key.as_bytes(), args.by, &options).await?;
    if args.reach.json {
        print_json(&counted_json(&counted))?;
    } else {
        print(format!("{}\n", counted.value).as_bytes())?;
    }
    Ok(Exit::Done)
}

fn counted_json(counted: &Counted) -> serde_json::Value {
    json!({
        "value": counted.value,
        "revision": revision_json(counted.revision),
        "ring_time_ms": counted.ring_time_ms,
        "duplicate": counted.duplicate,
    })
}
