//! `cas`, `txn`, `scan`: conditional writes, and keys in order.
//!
//! **Not here**: what they mean (the SDK's `txn.rs` and `scan.rs`).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use ringbeam_sdk::{Compare, Entry, Expect, Range, Relation, Revision, Step, Target, Transacted, Txn};
use ringbeam_wire::limits::VALUE_BYTES_HARD_MAX;
use serde::Deserialize;
use serde_json::json;

use super::exit::{Exit, Failure};
use super::freshness::{FreshnessArgs, add_age, is_of_any_node, warn_if_stale};
use super::keys::{bytes_json, found_json, revision, revision_json};
use super::{Reach, print, print_json};

/// Arguments of `cas`.
#[derive(Debug, Args)]
pub struct CasArgs {
    /// The key.
    key: OsString,
    /// Its new value.
    #[arg(allow_negative_numbers = true)]
    value: OsString,
    #[command(flatten)]
    expect: ExpectArgs,
    /// Namespace of the key.
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ExpectArgs {
    /// Only if the key has no value.
    #[arg(long)]
    absent: bool,
    /// Only if the key last changed at this revision, as `put` and `get --json` show it: INDEX.POSITION.
    #[arg(long, value_name = "REVISION", value_parser = parse_revision)]
    revision: Option<Revision>,
    /// Only if the key has this value.
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    value_is: Option<OsString>,
}

/// Arguments of `txn`.
#[derive(Debug, Args)]
#[command(after_help = TXN_HELP)]
pub struct TxnArgs {
    /// The transaction, in JSON; "-": standard input.
    file: PathBuf,
    /// Namespace of its keys.
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
}

const TXN_HELP: &str = r#"The file:
  {"compares": [{"key": "{job:7}.leader", "value": "me"},
                {"key": "{job:7}.state", "relation": "less", "revision": "120.0"},
                {"key": "{job:7}.done", "absent": true}],
   "then":      [{"put": {"key": "{job:7}.state", "value": "done"}}, {"delete": "{job:7}.leader"}],
   "otherwise": [{"get": "{job:7}.leader"}]}
All compares hold: the steps of `then` are done, else those of `otherwise`; gets see what was before. A compare has one of
"value", "revision" and "absent"; "relation" is "equal" (unless said), "not_equal", "less" or "greater": what the key has
stands so to what is given. All keys must be of one shard: a {tag} in braces keeps them together.

Exit codes:
  0  the compares held
  1  they did not
  2  wrong arguments or file; nothing was asked of the ring
  3  the ring refused, and nothing happened
  4  the outcome is unknown: it may have happened; `ringbeam outcome` tells
  5  no connection, or not done in time: nothing happened"#;

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// Keys that begin so; without it all.
    #[arg(conflicts_with_all = ["from", "until"])]
    prefix: Option<OsString>,
    /// From this key on.
    #[arg(long, value_name = "KEY")]
    from: Option<OsString>,
    /// Before this key.
    #[arg(long, value_name = "KEY")]
    until: Option<OsString>,
    /// From the last key down.
    #[arg(long)]
    backward: bool,
    /// Without values.
    #[arg(long)]
    keys_only: bool,
    /// So many keys at most.
    #[arg(long, value_name = "KEYS")]
    limit: Option<u64>,
    /// Asked for in pages of so many keys.
    #[arg(long, value_name = "KEYS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    page: u32,
    /// Each page as of its own moment, instead of all keys of a shard as of one: for a scan that takes long.
    #[arg(long)]
    unpinned: bool,
    #[command(flatten)]
    freshness: FreshnessArgs,
    /// Namespace of the keys.
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
}

/// A transaction in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TxnFile {
    #[serde(default)]
    compares: Vec<CompareIn>,
    #[serde(default)]
    then: Vec<StepIn>,
    #[serde(default)]
    otherwise: Vec<StepIn>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CompareIn {
    key: String,
    #[serde(default)]
    relation: RelationIn,
    value: Option<String>,
    revision: Option<String>,
    absent: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RelationIn {
    #[default]
    Equal,
    NotEqual,
    Less,
    Greater,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum StepIn {
    Get(String),
    Put { key: String, value: String },
    Delete(String),
}

pub async fn cas(args: CasArgs) -> Result<Exit, Failure> {
    let client = args.reach.connect().await?.namespace(&args.namespace);
    let expect = match (&args.expect.revision, &args.expect.value_is) {
        (Some(revision), _) => Expect::Revision(*revision),
        (_, Some(value)) => Expect::Value(value.as_bytes()),
        _ => Expect::Absent,
    };
    let done = client.cas(args.key.as_bytes(), expect, args.value.as_bytes()).await?;
    if args.reach.json {
        print_json(&transacted_json(&done))?;
    } else if done.succeeded {
        print(format!("{}\n", revision(done.revision)).as_bytes())?;
    }
    Ok(held(&done, "the key is not as expected; nothing was written"))
}

pub async fn txn(args: TxnArgs) -> Result<Exit, Failure> {
    let name = args.file.display().to_string();
    let mut text = String::new();
    let most = 2 * u64::from(VALUE_BYTES_HARD_MAX);
    let from: Box<dyn Read> = match name.as_str() {
        "-" => Box::new(io::stdin()),
        _ => Box::new(File::open(&args.file).map_err(|e| Failure::usage(format!("{name}: {e}")))?),
    };
    from.take(most).read_to_string(&mut text).map_err(|e| Failure::usage(format!("{name}: {e}")))?;
    let file: TxnFile = serde_json::from_str(&text).map_err(|e| Failure::usage(format!("{name}: {e}")))?;
    let txn = file.txn().map_err(|why| Failure::usage(format!("{name}: {why}")))?;
    let client = args.reach.connect().await?.namespace(&args.namespace);
    let done = client.txn(&txn).await?;
    if args.reach.json {
        print_json(&transacted_json(&done))?;
    } else {
        print(format!("{}\n", revision(done.revision)).as_bytes())?;
        for found in &done.gets {
            print(found.as_ref().map_or(&b""[..], |found| &found.value))?;
            print(b"\n")?;
        }
    }
    Ok(held(&done, "the compares do not hold; what was done is `otherwise`"))
}

pub async fn scan(args: ScanArgs) -> Result<Exit, Failure> {
    let client = args.reach.connect().await?;
    let bytes = |key: &Option<OsString>| key.as_ref().map_or(Vec::new(), |key| key.as_bytes().to_vec());
    let mut range = match &args.prefix {
        Some(prefix) => Range::prefix(prefix.as_bytes()),
        None => Range::between(bytes(&args.from), bytes(&args.until)),
    };
    range = range.page(args.page);
    if args.unpinned {
        range = range.unpinned();
    }
    if args.backward {
        range = range.backward();
    }
    if args.keys_only {
        range = range.keys_only();
    }
    if let Some(limit) = args.limit {
        range = range.limit(limit);
    }
    let (client, options) = args.freshness.apply(client, &args.namespace).await?;
    let mut scan = client.scan_with(range, &options);
    while let Some(entry) = scan.next().await? {
        if args.reach.json {
            print_json(&entry_json(&entry, args.keys_only))?;
        } else {
            let value = if args.keys_only { Vec::new() } else { [b"\t", &entry.value[..]].concat() };
            print(&[&entry.key[..], &value, b"\n"].concat())?;
        }
    }
    warn_if_stale(scan.age(), scan.stale());
    if args.reach.json && is_of_any_node(&options) {
        let mut end = json!({ "end": true });
        add_age(&mut end, &client, scan.age(), scan.stale());
        print_json(&end)?;
    }
    Ok(Exit::Done)
}

fn held(done: &Transacted, not: &str) -> Exit {
    if done.succeeded {
        return Exit::Done;
    }
    eprintln!("ringbeam: {not}");
    Exit::No
}

impl TxnFile {
    fn txn(&self) -> Result<Txn<'_>, String> {
        let mut txn = Txn::new();
        for (at, compare) in self.compares.iter().enumerate() {
            txn = txn.when(compare.compare().map_err(|why| format!("compares[{at}]: {why}"))?);
        }
        txn = self.then.iter().fold(txn, |txn, step| txn.then(step.step()));
        Ok(self.otherwise.iter().fold(txn, |txn, step| txn.otherwise(step.step())))
    }
}

impl CompareIn {
    fn compare(&self) -> Result<Compare<'_>, String> {
        let relation = match self.relation {
            RelationIn::Equal => Relation::Equal,
            RelationIn::NotEqual => Relation::NotEqual,
            RelationIn::Less => Relation::Less,
            RelationIn::Greater => Relation::Greater,
        };
        let target = match (&self.value, &self.revision, self.absent) {
            (Some(value), None, None) => Target::Value(value.as_bytes()),
            (None, Some(revision), None) => Target::Revision(parse_revision(revision)?),
            (None, None, Some(true)) => Target::Revision(Revision::default()),
            _ => return Err("it needs one of \"value\", \"revision\" and \"absent\": true".into()),
        };
        Ok(Compare { key: self.key.as_bytes(), relation, target })
    }
}

impl StepIn {
    fn step(&self) -> Step<'_> {
        match self {
            StepIn::Get(key) => Step::get(key),
            StepIn::Put { key, value } => Step::put(key, value),
            StepIn::Delete(key) => Step::delete(key),
        }
    }
}

/// INDEX.POSITION.
/// INDEX.POSITION, as `put` prints it.
pub fn parse_revision(text: &str) -> Result<Revision, String> {
    let parts = text.split_once('.').and_then(|(index, position)| Some((index.parse().ok()?, position.parse().ok()?)));
    let (index, position) = parts.ok_or_else(|| format!("revision {text:?}, it must be INDEX.POSITION, as in 12.0"))?;
    Ok(Revision { index, position })
}

fn transacted_json(done: &Transacted) -> serde_json::Value {
    let gets: Vec<_> = done.gets.iter().map(|found| found_json(found.as_ref())).collect();
    json!({
        "succeeded": done.succeeded,
        "revision": revision_json(done.revision),
        "ring_time_ms": done.ring_time_ms,
        "gets": gets,
    })
}

fn entry_json(entry: &Entry, keys_only: bool) -> serde_json::Value {
    let (key, key_encoding) = bytes_json(&entry.key);
    let mut json = json!({ "key": key, "key_encoding": key_encoding, "revision": revision_json(entry.revision) });
    if !keys_only {
        let (value, encoding) = bytes_json(&entry.value);
        json["value"] = value.into();
        json["encoding"] = encoding.into();
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transaction_of_the_help_is_one() {
        let text = TXN_HELP.split_once("The file:").and_then(|(_, rest)| rest.split_once("All compares hold")).expect("both").0;
        let file: TxnFile = serde_json::from_str(text).expect("JSON");
        let txn = format!("{:?}", file.txn().expect("a transaction"));
        for part in ["relation: Less, target: Revision(Revision { index: 120, position: 0 })", "Delete", "otherwise: [Get"] {
            assert!(txn.contains(part), "{part}: {txn}");
        }
        assert_eq!((file.compares.len(), file.then.len(), file.otherwise.len()), (3, 2, 1));
    }

    #[test]
    fn what_is_no_transaction_is_named_with_its_place() {
        let refused = |text: &str| match serde_json::from_str::<TxnFile>(text) {
            Ok(file) => file.txn().expect_err("no transaction"),
            Err(e) => e.to_string(),
        };
        assert!(refused(r#"{"compare": []}"#).contains("unknown field `compare`"));
        assert!(refused(r#"{"then": [{"increment": "k"}]}"#).contains("unknown variant `increment`"));
        let two = r#"{"compares": [{"key": "a", "absent": true}, {"key": "b", "value": "1", "revision": "1.0"}]}"#;
        assert_eq!(refused(two), "compares[1]: it needs one of \"value\", \"revision\" and \"absent\": true");
        let odd = r#"{"compares": [{"key": "a", "revision": "7"}]}"#;
        assert_eq!(refused(odd), "compares[0]: revision \"7\", it must be INDEX.POSITION, as in 12.0");
    }
}
