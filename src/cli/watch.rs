//! `watch`: changes as they happen, a line each.
//!
//! **Not here**: how a watch goes on after a disconnect (the SDK's `watch.rs`).

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::Args;
use ringbeam_sdk::{Batch, Error, Event, EventKind, Range, Revision, WatchError, WatchOptions};
use serde_json::json;

use super::Reach;
use super::data::parse_revision;
use super::exit::{Exit, Failure};
use super::keys::{bytes_json, revision, revision_json};

/// For `--help`.
pub const HELP: &str = "\
A line: the revision, the kind (put, delete, expire, extend, snapshot), the key and the value, divided by tabs; with --previous what
was there before, behind one more tab. Revisions are of a shard each, so --after needs a prefix with a {tag}, unless the ring has one
shard. --json tells bytes that are not text, and when a copy begins and ends.

Exit codes:
  0  the count or the time was reached, or it was interrupted
  2  wrong arguments, or --after with keys of several shards; nothing is watched
  3  the ring refused, or does not keep what was asked for any more
  5  no connection";

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Keys that begin so; without it all.
    #[arg(conflicts_with_all = ["from", "until"])]
    prefix: Option<OsString>,
    /// From this key on.
    #[arg(long, value_name = "KEY")]
    from: Option<OsString>,
    /// Before this key.
    #[arg(long, value_name = "KEY")]
    until: Option<OsString>,
    /// Only what came behind this revision, which is of one shard; without it, what comes from now on.
    #[arg(long, value_name = "INDEX.POSITION", value_parser = parse_revision)]
    after: Option<Revision>,
    /// First what there is.
    #[arg(long, conflicts_with = "after")]
    snapshot: bool,
    /// With what was there before.
    #[arg(long)]
    previous: bool,
    /// When too much happens, only the newest of each key.
    #[arg(long)]
    conflate: bool,
    /// So many events, then end.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// So long, then end.
    #[arg(long = "for", value_name = "SECONDS", value_parser = parse_seconds)]
    duration: Option<Duration>,
    /// Namespace of the keys.
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("{text:?} is no number of seconds, as in 1.5"))
}

pub async fn run(args: WatchArgs) -> Result<Exit, Failure> {
    let client = args.reach.connect().await?.namespace(&args.namespace);
    let bytes = |key: &Option<OsString>| key.as_ref().map_or(Vec::new(), |key| key.as_bytes().to_vec());
    let range = match &args.prefix {
        Some(prefix) => Range::prefix(prefix.as_bytes()),
        None => Range::between(bytes(&args.from), bytes(&args.until)),
    };
    let mut options = WatchOptions::default();
    if let Some(after) = args.after {
        options = options.after(after);
    }
    if args.snapshot {
        options = options.snapshot();
    }
    if args.previous {
        options = options.previous();
    }
    if args.conflate {
        options = options.conflate().restart();
    }
    let mut watch = client.watch(&range, &options).await.map_err(|error| match (error, args.after) {
        (WatchError::Failed(Error::Misuse(_)), Some(Revision { index, position })) => Failure::usage(format!(
            "--after {index}.{position}: a revision is of one shard, and these keys are in several. Give a prefix with a {{tag}}, as in \
             'cart:{{42}}:', or take --snapshot instead"
        )),
        (error, _) => error.into(),
    })?;
    let left = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(left);
    let mut count = args.count.unwrap_or(u64::MAX);
    loop {
        let batch = tokio::select! {
            biased;
            () = &mut left => return Ok(Exit::Done),
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Done),
            next = watch.next() => match next? {
                Some(batch) => batch,
                None => return Ok(Exit::Done),
            },
        };
        let lines = lines(&batch, &mut count, args.reach.json, args.previous);
        let mut out = io::stdout().lock();
        match out.write_all(&lines).and_then(|()| out.flush()) {
            // A reader that has seen enough: nobody needs the rest.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Done),
            Err(e) => return Err(Failure::usage(format!("standard output: {e}"))),
            Ok(()) if count == 0 => return Ok(Exit::Done),
            Ok(()) => {}
        }
    }
}

/// A batch as it is printed; takes its events off `count`.
fn lines(batch: &Batch, count: &mut u64, json: bool, previous: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mark = |what: &str, out: &mut Vec<u8>| {
        if json {
            out.extend_from_slice(
                format!("{}\n", json!({ "kind": what, "shard": batch.shard, "index": batch.index })).as_bytes(),
            );
        }
    };
    if batch.copy_begins {
        mark("copy_begins", &mut out);
    }
    for event in batch.events.iter().take(usize::try_from(*count).unwrap_or(usize::MAX)) {
        *count -= 1;
        if json {
            out.extend_from_slice(event_json(event, batch.shard).to_string().as_bytes());
        } else {
            let head = format!("{}\t{}\t", revision(event.revision), name(event.kind));
            [head.as_bytes(), &event.key, b"\t", &event.value].iter().for_each(|part| out.extend_from_slice(part));
            if let Some((value, _)) = event.previous.as_ref().filter(|_| previous) {
                out.push(b'\t');
                out.extend_from_slice(value);
            }
        }
        out.push(b'\n');
    }
    if batch.copy_ends {
        mark("copy_ends", &mut out);
    }
    out
}

fn name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Put => "put",
        EventKind::Delete => "delete",
        EventKind::Expire => "expire",
        EventKind::Extend(_) => "extend",
        EventKind::Snapshot => "snapshot",
    }
}

fn event_json(event: &Event, shard: u32) -> serde_json::Value {
    let ((key, key_encoding), (value, encoding)) = (bytes_json(&event.key), bytes_json(&event.value));
    let mut json = json!({
        "kind": name(event.kind),
        "shard": shard,
        "revision": revision_json(event.revision),
        "key": key,
        "key_encoding": key_encoding,
    });
    if matches!(event.kind, EventKind::Put | EventKind::Extend(_) | EventKind::Snapshot) {
        json["value"] = value.into();
        json["encoding"] = encoding.into();
    }
    if let Some((value, revision)) = &event.previous {
        let (value, encoding) = bytes_json(value);
        json["previous"] = json!({ "value": value, "encoding": encoding, "revision": revision_json(*revision) });
    }
    if event.conflated {
        json["conflated"] = true.into();
    }
    json
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Failure {
        match error {
            WatchError::Compacted { .. } => Failure { exit: Exit::Refused, message: error.to_string() },
            WatchError::Failed(error) => error.into(),
        }
    }
}
