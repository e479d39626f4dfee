//! `put`, `get`, `delete`: keys and values are bytes, whatever the terminal thinks of them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use ringbeam_sdk::{PutOptions, Revision, Value, Written};
use ringbeam_wire::limits::VALUE_BYTES_HARD_MAX;
use serde_json::json;

use super::exit::{Exit, Failure};
use super::freshness::{FreshnessArgs, add_age, token_text, warn_if_stale};
use super::{Reach, print, print_json};

/// Arguments of `put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// The key.
    key: OsString,
    /// The value; "-" or nothing: standard input, byte for byte.
    #[arg(conflicts_with = "file", allow_negative_numbers = true)]
    value: Option<OsString>,
    /// Take the value from this file.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The key goes when so much time has passed: 500ms, 30s, 5m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = super::lease::time)]
    ttl: Option<Duration>,
    /// The same in milliseconds.
    #[arg(long, value_name = "MS", conflicts_with = "ttl", value_parser = clap::value_parser!(u64).range(1..))]
    ttl_ms: Option<u64>,
    /// The key goes when this lease of its shard ends; see `ringbeam lease`.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    lease: Option<u64>,
    /// Namespace of the key.
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The key.
    key: OsString,
    #[command(flatten)]
    freshness: FreshnessArgs,
    /// Namespace of the key.
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The key.
    key: OsString,
    /// Namespace of the key.
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
}

pub async fn put(args: PutArgs) -> Result<Exit, Failure> {
    let value = args.value()?;
    let client = args.reach.connect().await?.namespace(&args.namespace);
    let ttl = args.ttl.or(args.ttl_ms.map(Duration::from_millis));
    let options = PutOptions { ttl, lease: args.lease.map(Into::into), ..PutOptions::default() };
    let written = client.put_with(args.key.as_bytes(), value, &options).await?;
    if args.reach.json {
        let mut json = written_json(&written);
        json["token"] = token_text(&client).into();
        print_json(&json)?;
    } else {
        print(format!("{}\n", revision(written.revision)).as_bytes())?;
    }
    Ok(Exit::Done)
}

pub async fn get(args: GetArgs) -> Result<Exit, Failure> {
    let client = args.reach.connect().await?;
    let (client, options) = args.freshness.apply(client, &args.namespace).await?;
    let read = client.read(args.key.as_bytes(), &options).await?;
    let exit = if read.found.is_some() { Exit::Done } else { Exit::No };
    warn_if_stale(read.age, read.stale);
    match read.found {
        found if args.reach.json => {
            let mut json = found_json(found.as_ref());
            json["index"] = read.index.into();
            add_age(&mut json, &client, read.age, read.stale);
            print_json(&json)?;
        }
        Some(found) => {
            print(&found.value)?;
            // A person's prompt belongs on its own line; a pipe gets the value and nothing else.
            if io::stdout().is_terminal() {
                print(b"\n")?;
            }
        }
        None => eprintln!("ringbeam: the key has no value"),
    }
    Ok(exit)
}

pub async fn delete(args: DeleteArgs) -> Result<Exit, Failure> {
    let client = args.reach.connect().await?.namespace(&args.namespace);
    let written = client.delete(args.key.as_bytes()).await?;
    if args.reach.json {
        print_json(&written_json(&written))?;
    } else {
        print(format!("{}\n", revision(written.revision)).as_bytes())?;
        if !written.existed {
            eprintln!("ringbeam: the key had no value");
        }
    }
    Ok(Exit::Done)
}

impl PutArgs {
    fn value(&self) -> Result<Vec<u8>, Failure> {
        match (&self.file, &self.value) {
            (Some(path), _) => {
                let name = path.display().to_string();
                read_value(File::open(path).map_err(|e| Failure::usage(format!("--file {name}: {e}")))?, &name)
            }
            (None, Some(value)) if value != "-" => Ok(value.as_bytes().to_vec()),
            (None, None) if io::stdin().is_terminal() => {
                Err(Failure::usage("no value: give it as an argument, with --file, or \"-\" for standard input"))
            }
            (None, _) => read_value(io::stdin(), "standard input"),
        }
    }
}

/// The bytes of `from`. What no node can ever take is not read to its end.
fn read_value(from: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let most = u64::from(VALUE_BYTES_HARD_MAX);
    from.take(most + 1).read_to_end(&mut value).map_err(|e| Failure::usage(format!("{name}: {e}")))?;
    if value.len() as u64 > most {
        return Err(Failure::usage(format!("{name}: it has more than {most} bytes, the longest value of any ring")));
    }
    Ok(value)
}

/// Log index and position in the batch, as in `12.0`.
pub fn revision(revision: Revision) -> String {
    format!("{}.{}", revision.index, revision.position)
}

pub fn revision_json(revision: Revision) -> serde_json::Value {
    json!({ "index": revision.index, "position": revision.position })
}

pub fn written_json(written: &Written) -> serde_json::Value {
    let b = &written.breakdown;
    json!({
        "revision": revision_json(written.revision),
        "existed": written.existed,
        "ring_time_ms": written.ring_time_ms,
        "breakdown": { "queue_us": b.queue_us, "fsync_us": b.fsync_us, "quorum_us": b.quorum_us, "apply_us": b.apply_us },
    })
}

/// Bytes as text if they are, else in base64; and which of the two.
pub fn bytes_json(bytes: &[u8]) -> (String, &'static str) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_string(), "utf8"),
        Err(_) => (STANDARD.encode(bytes), "base64"),
    }
}

pub fn found_json(found: Option<&Value>) -> serde_json::Value {
    let Some(found) = found else {
        return json!({ "found": false });
    };
    let (value, encoding) = bytes_json(&found.value);
    json!({
        "found": true,
        "value": value,
        "encoding": encoding,
        "revision": revision_json(found.revision),
        "index": found.index,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text_and_other_bytes_become_base64() {
        let found = |value: &'static [u8]| Value {
            value: bytes::Bytes::from_static(value),
            revision: Revision { index: 7, position: 2 },
            index: 9,
            age: None,
            stale: false,
        };
        let text = found_json(Some(&found("grüße".as_bytes())));
        assert_eq!((&text["value"], &text["encoding"]), (&json!("grüße"), &json!("utf8")));
        assert_eq!(text["revision"], json!({ "index": 7, "position": 2 }));
        let other = found_json(Some(&found(b"\xff\x00")));
        assert_eq!((&other["value"], &other["encoding"]), (&json!("/wA="), &json!("base64")));
        assert_eq!(found_json(None), json!({ "found": false }));
        assert_eq!(revision(Revision { index: 7, position: 2 }), "7.2");
    }

    #[test]
    fn too_long_a_value_is_refused_before_it_is_all_read() {
        let failure = read_value(io::repeat(1), "endless").expect_err("no end");
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.message, "endless: it has more than 16777216 bytes, the longest value of any ring");
        assert_eq!(read_value(&b"x"[..], "short"), Ok(b"x".to_vec()));
    }
}
