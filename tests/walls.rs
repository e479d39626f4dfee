//! The walls: who may know whom (docs/architecture.md), held over the source tree itself.
//!
//! Every rule is a pure function from a file to its breaches, so that each can be shown a made-up offender: a rule that cannot
//! fail would not be noticed when it stops looking. The test at the end does that for all of them.
//!
//! **Not here**: what the compiler holds (crates that are no dependency), and style.

#[path = "walls/source.rs"]
mod source;

use std::io::Write;
use std::path::Path;

use source::{Source, manifests, tree};

const FOLDERS: [&str; 5] = ["shards", "wire", "src", "tests", "benches"];

/// Longest file, lines. One that needs more has a wall inside that nobody drew.
const FILE_LINES_MAX: usize = 600;

/// Longer files, each with its reason.
const LONG_FILES: [(&str, &str); 1] = [("wire/schema_generated.rs", "flatc writes it, nobody reads it")];

/// Lines of code of the hot path in formatted sources: whole files, counted as in [`hot_path_lines`], and room for mending. The budget is
/// 2,500; docs/architecture.md says what stands between the two, and how many lines a put runs.
const HOT_PATH_LINES_MAX: usize = 5_618;

/// What a file of `shards` may name, of `shards`: a room, or a file at its top, and its neighbours.
const MAY_IMPORT: [(&str, &[&str]); 22] = [
    ("io", &["io"]),
    ("wal", &["wal", "io"]),
    ("state", &["state"]),
    ("limits", &["limits", "io", "state"]),
    ("error", &["error", "limits", "state"]),
    // Its state machine shows what it ran to a simulated ring's window: cargo feature `sim`.
    ("raft", &["raft", "wal", "state", "watch", "io", "limits", "probe"]),
    ("admission", &["admission", "limits", "state"]),
    // A waiter goes back to the connection that it came from.
    ("batcher", &["batcher", "limits", "state", "io", "connection"]),
    (
        "connection",
        &[
            "admin",
            "admission",
            "batcher",
            "connection",
            "data",
            "error",
            "io",
            "leases",
            "limits",
            "raft",
            "read",
            "scan",
            "shard",
            "state",
            "topology",
            "watch",
            "write",
        ],
    ),
    ("watch", &["admission", "batcher", "connection", "io", "limits", "shard", "state", "watch"]),
    ("leases", &["batcher", "error", "io", "limits", "shard", "state", "write"]),
    ("read", &["admission", "attest", "batcher", "error", "io", "leases", "limits", "raft", "read", "scan", "shard", "state"]),
    ("scan", &["attest", "batcher", "error", "fresh", "io", "limits", "shard", "state"]),
    // How old a state is: pure.
    ("fresh", &["io", "limits"]),
    ("attest", &["admission", "attest", "fresh", "io", "limits", "raft", "read", "shard"]),
    ("topology", &["admin", "batcher", "connection", "io", "limits", "raft", "shard"]),
    ("write", &["admission", "batcher", "data", "error", "io", "leases", "limits", "raft", "shard", "state", "write"]),
    // Writes beyond put and delete: to and from the way of a write.
    ("data", &["batcher", "data", "error", "io", "shard", "state", "write"]),
    // A simulated ring's window: cargo feature `sim`.
    ("probe", &["io", "raft", "shard", "state", "wal"]),
    // Mistakes that tests plant; `planted!` names it everywhere. Cargo feature `sim`.
    ("planted", &[]),
    ("admin", &["admin", "admission", "batcher", "error", "io", "limits", "raft", "shard", "state"]),
    (
        "shard",
        &[
            "admission",
            "attest",
            "batcher",
            "connection",
            "error",
            "io",
            "leases",
            "limits",
            "probe",
            "raft",
            "read",
            "scan",
            "shard",
            "state",
            "topology",
            "wal",
            "watch",
            "write",
        ],
    ),
];

/// The outside world, which a shard meets through the seam only: a simulator must be able to stand in for all of it.
const OUTSIDE_WORLD: [&str; 9] = [
    "std::thread",
    "std::net",
    "std::fs",
    "std::process",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
    "mio",
    "socket2",
];

/// Their iteration order differs from run to run.
const DEFAULT_HASHERS: [&str; 3] = ["HashMap", "HashSet", "RandomState"];

/// A rule: the breaches in one file, in words.
type Rule = fn(&Source) -> Vec<String>;

const RULES: [(&str, Rule); 9] = [
    ("openraft only in shards/raft", openraft_stays_in_raft),
    ("glommio only in shards/io/uring", glommio_stays_in_uring),
    ("rooms know only their neighbours", rooms_know_their_neighbours),
    ("no outside world in a shard", shards_meet_the_world_through_the_seam),
    ("no default hashers in a shard", shards_have_no_default_hashers),
    ("admission and batcher are pure", admission_and_batcher_are_pure),
    ("crates know only crates below them", crates_know_those_below),
    ("wire has no async, no clock, no sockets", wire_is_bytes),
    ("files are short", files_are_short),
];

#[test]
fn walls_stand() {
    let sources = tree(Path::new(env!("CARGO_MANIFEST_DIR")), &FOLDERS);
    assert!(sources.len() > 100, "the walk found {} files only", sources.len());
    let mut breaches = Vec::new();
    for (name, rule) in RULES {
        breaches.extend(sources.iter().flat_map(rule).map(|breach| format!("{name}: {breach}")));
    }
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

#[test]
fn dependencies_say_what_for() {
    let manifests = manifests(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(manifests.len() >= 4, "the walk found {} manifests only", manifests.len());
    let silent: Vec<String> = manifests.iter().flat_map(|(path, text)| unexplained(path, text)).collect();
    assert!(silent.is_empty(), "dependencies without a comment that says what for:\n{}", silent.join("\n"));
}

#[test]
fn hot_path_stays_within_its_bound() {
    let sources = tree(Path::new(env!("CARGO_MANIFEST_DIR")), &["shards", "wire"]);
    let lines: usize = sources.iter().filter(|source| is_hot(&source.path)).map(|source| hot_path_lines(&source.text)).sum();
    // Past the test harness, which keeps what `println!` says of a test that passes.
    let _ = writeln!(std::io::stderr(), "hot path: {lines} lines of code, at most {HOT_PATH_LINES_MAX}; the budget is 2,500");
    assert!(
        lines <= HOT_PATH_LINES_MAX,
        "the hot path has {lines} lines of code, at most {HOT_PATH_LINES_MAX} are allowed: delete some. (The bound is for \
         formatted sources: has `cargo fmt --all` been run?)"
    );
    assert!(lines > HOT_PATH_LINES_MAX / 2, "{lines} lines: does `is_hot` still know where the hot path is?");
}

// ---- rules ----

fn openraft_stays_in_raft(source: &Source) -> Vec<String> {
    let allowed = source.path.starts_with("shards/raft/");
    ["openraft", "openraft_rt"]
        .into_iter()
        .filter(|word| !allowed && source.says(word))
        .map(|word| said(source, word))
        .collect()
}

fn glommio_stays_in_uring(source: &Source) -> Vec<String> {
    let breach = !source.path.starts_with("shards/io/uring/") && source.says("glommio");
    breach.then(|| said(source, "glommio")).into_iter().collect()
}

fn rooms_know_their_neighbours(source: &Source) -> Vec<String> {
    let module = source.module();
    let (true, Some(&room)) = (source.path.starts_with("shards/"), module.first()) else { return Vec::new() };
    if source.is_test {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{}: a room that DESIGN does not know; say in MAY_IMPORT what it may import", source.path)];
    };
    let names = source.names();
    let foreign = names.iter().filter(|name| {
        let target = name.strip_prefix("crate::").map(|inside| inside.split("::").next().unwrap_or(inside));
        target.is_some_and(|target| !allowed.contains(&target))
    });
    foreign.map(|name| format!("{}: {room} may not import {name}", source.path)).collect()
}

fn shards_meet_the_world_through_the_seam(source: &Source) -> Vec<String> {
    if !source.path.starts_with("shards/") || source.path.starts_with("shards/io/uring/") || source.is_test {
        return Vec::new();
    }
    let is_world = |name: &&String| OUTSIDE_WORLD.iter().any(|world| *name == world || name.starts_with(&format!("{world}::")));
    let named = source.names().iter().filter(is_world).map(|name| said(source, name)).collect::<Vec<_>>();
    let clock = source.says("SystemTime").then(|| said(source, "SystemTime"));
    named.into_iter().chain(clock).collect()
}

fn shards_have_no_default_hashers(source: &Source) -> Vec<String> {
    if !source.path.starts_with("shards/") || source.path.starts_with("shards/io/uring/") || source.is_test {
        return Vec::new();
    }
    DEFAULT_HASHERS.into_iter().filter(|word| source.says(word)).map(|word| said(source, word)).collect()
}

/// Their decisions must not depend on when or where they are asked: `now` is an argument.
fn admission_and_batcher_are_pure(source: &Source) -> Vec<String> {
    if !matches!(source.path.as_str(), "shards/admission.rs" | "shards/batcher.rs") {
        return Vec::new();
    }
    ["async", "await", "Env", "now()"]
        .into_iter()
        .filter(|word| source.code.contains(word))
        .map(|word| said(source, word))
        .collect()
}

/// The binary is no library: nobody can name it, and `src` stays unknown to all.
fn crates_know_those_below(source: &Source) -> Vec<String> {
    let above: &[&str] = match source.path.as_str() {
        path if path.starts_with("wire/sdk/") => &["ringbeam_shards"],
        path if path.starts_with("wire/") => &["ringbeam_shards", "ringbeam_sdk"],
        path if path.starts_with("shards/") => &["ringbeam_sdk"],
        _ => &[],
    };
    above.iter().filter(|name| source.says(name)).map(|name| said(source, name)).collect()
}

fn wire_is_bytes(source: &Source) -> Vec<String> {
    if !source.path.starts_with("wire/") || source.path.starts_with("wire/sdk/") || source.is_test {
        return Vec::new();
    }
    let names = source.names();
    let world = ["std::thread", "std::net", "std::fs", "std::time", "tokio", "glommio"];
    let named = names.iter().filter(|name| world.iter().any(|world| name.starts_with(world))).map(|name| said(source, name));
    named.chain(source.says("async").then(|| said(source, "async"))).collect()
}

fn files_are_short(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let excused = LONG_FILES.iter().any(|(path, _)| *path == source.path);
    (lines > FILE_LINES_MAX && !excused)
        .then(|| format!("{}: {lines} lines, at most {FILE_LINES_MAX}", source.path))
        .into_iter()
        .collect()
}

fn said(source: &Source, word: &str) -> String {
    format!("{} names {word}", source.path)
}

/// Dependencies that no comment above or beside them explains. Our own crates and those that the workspace explains need none.
fn unexplained(path: &str, manifest: &str) -> Vec<String> {
    let (mut in_dependencies, mut explained, mut silent) = (false, false, Vec::new());
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
        } else if line.starts_with('#') {
            explained = true;
            continue;
        } else if in_dependencies && line.contains('=') {
            let ours = line.contains("path =") || line.contains(".workspace = true");
            if !ours && !explained && !line.contains(" # ") {
                silent.push(format!("{path}: {line}"));
            }
        }
        explained = false;
    }
    silent
}

/// The files whose code a write may run through, as the team counts them: a rough cut, the same from day to day.
fn is_hot(path: &str) -> bool {
    let Some((folder, name)) = path.rsplit_once('/') else { return false };
    let name = name.trim_end_matches(".rs");
    let named = match folder {
        "shards" => ["write", "shard", "connection", "admission", "batcher"].contains(&name),
        "shards/raft" | "shards/wal" | "shards/state" => true,
        // Each change is copied into it; the rest of the room a write does not enter.
        "shards/watch" => name == "history",
        "shards/io" => name == "mod",
        "wire" => ["frame", "client", "peer", "slots"].contains(&name),
        _ => false,
    };
    // What a steady write does not enter has a folder of its own inside its room, or one of these names.
    let cold = ["snapshot", "recovery", "replay", "read_index", "test", "sim_doors"];
    named && !cold.iter().any(|cold| name.contains(cold))
}

/// Lines that are neither empty nor a comment, up to the first that is for tests only; without those that plant a bug, and the
/// blocks of an `if planted!(..)`: no binary has them.
fn hot_path_lines(text: &str) -> usize {
    // A module of tests ends a file; one that is declared is two lines.
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let (mut count, mut planted) = (0, None);
    for line in text[..tests].lines().filter(|line| !line.contains("#[cfg(test)]")) {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        match planted {
            Some(block) if indent == block && code == "}" => planted = None,
            Some(_) => {}
            None if code.starts_with("if planted!(") && code.ends_with('{') => planted = Some(indent),
            None => count += usize::from(!code.is_empty() && !code.starts_with("//") && !code.contains("planted!(")),
        }
    }
    count
}

// ---- what the rules themselves are held to ----

/// A rule, a file (path, text) that breaks it, and one that does not.
type Offender<'a> = (&'a str, (&'a str, &'a str), (&'a str, &'a str));

#[test]
fn rules_find_what_breaks_them() {
    let long = "\n".repeat(FILE_LINES_MAX + 1);
    // The rule's name, a file that breaks it, and one beside it that does not.
    let offenders: [Offender<'_>; 21] = [
        ("openraft only", ("shards/shard.rs", "use openraft::Raft;"), ("shards/raft/log.rs", "use openraft::Raft;")),
        ("openraft only", ("src/node.rs", "fn f(_: openraft_rt::Mpsc) {}"), ("src/node.rs", "// openraft\nfn f() {}")),
        ("glommio only", ("shards/io/mod.rs", "use glommio::timer;"), ("shards/io/uring/net.rs", "use glommio::timer;")),
        ("glommio only", ("src/node.rs", "glommio::executor()"), ("src/node.rs", "say(\"glommio\")")),
        (
            "rooms know",
            ("shards/state/table.rs", "use crate::io::Env;"),
            ("shards/state/table.rs", "use super::record::Record;"),
        ),
        ("rooms know", ("shards/state/mod.rs", "use super::raft;"), ("shards/raft/log.rs", "use crate::state::State;")),
        ("rooms know", ("shards/state/run.rs", "fn f() { crate::wal::open() }"), ("shards/state/tests.rs", "use crate::wal;")),
        (
            "rooms know",
            ("shards/wal/log.rs", "use crate::{io, raft::log};"),
            ("shards/wal/log.rs", "use crate::{io::{Env, File}};"),
        ),
        ("rooms know", ("shards/io/channel/mpsc.rs", "use crate::wal::Wal;"), ("shards/shard.rs", "use crate::wal::Wal;")),
        (
            "rooms know",
            ("shards/admission.rs", "use crate::raft::replica::Replica;"),
            ("shards/lib.rs", "pub use crate::raft;"),
        ),
        ("rooms know", ("shards/helpers.rs", ""), ("shards/limits.rs", "use crate::io::BLOCK_BYTES;")),
        ("no outside", ("shards/wal/log.rs", "std::thread::sleep(x)"), ("shards/io/uring/disk.rs", "std::thread::sleep(x)")),
        ("no outside", ("shards/raft/link.rs", "use std::{net::TcpStream, fmt};"), ("shards/raft/link.rs", "use std::fmt;")),
        (
            "no outside",
            ("shards/read.rs", "use std::time::{Duration, Instant};"),
            ("shards/read.rs", "use std::time::Duration;"),
        ),
        (
            "no outside",
            ("shards/read.rs", "fn f(t: SystemTime) {}"),
            ("shards/read.rs", "#[cfg(test)] mod tests { fn f(t: SystemTime) {} }"),
        ),
        ("no default", ("shards/batcher.rs", "HashMap::new()"), ("shards/batcher.rs", "BTreeMap::new()")),
        ("admission and", ("shards/batcher.rs", "let at = E::now();"), ("shards/batcher.rs", "fn push(now: Instant) {}")),
        (
            "crates know",
            ("shards/lib.rs", "use ringbeam_sdk::Client;"),
            ("wire/sdk/rust/src/call.rs", "use ringbeam_wire::frame;"),
        ),
        ("crates know", ("wire/lib.rs", "use ringbeam_shards::wal;"), ("src/node.rs", "use ringbeam_shards::wal;")),
        ("wire has", ("wire/frame.rs", "pub async fn read() {}"), ("wire/sdk/rust/src/call.rs", "pub async fn read() {}")),
        ("files are", ("src/main.rs", &long), ("wire/schema_generated.rs", &long)),
    ];
    for (name, (path, text), (innocent_path, innocent)) in offenders {
        let (_, rule) = RULES.iter().find(|(found, _)| found.starts_with(name)).expect("a rule has that name");
        assert!(!rule(&Source::new(path, text)).is_empty(), "{name}: {path} with {text:?} is not found");
        let found = rule(&Source::new(innocent_path, innocent));
        assert!(found.is_empty(), "{name}: {innocent_path} with {innocent:?} is blamed: {found:?}");
    }
    for (name, _) in RULES {
        assert!(offenders.iter().any(|(tried, ..)| name.starts_with(tried)), "{name}: nothing shows that it can fail");
    }
}

#[test]
fn unexplained_dependencies_are_found() {
    let good = "[package]\nname = \"x\"\n[dependencies]\n# Bytes.\nbytes = \"1\"\nrand = \"0.1\" # Chance.\nours = { path = \"x\" }\n\
                tracing.workspace = true\n";
    assert_eq!(unexplained("Cargo.toml", good), Vec::<String>::new());
    let bad = "[workspace.dependencies]\n# Bytes.\nbytes = \"1\"\nrand = \"0.1\"\n[dev-dependencies]\nlibc = \"0.2\"\n[profile.dev]\nlto = true\n";
    assert_eq!(unexplained("Cargo.toml", bad), ["Cargo.toml: rand = \"0.1\"", "Cargo.toml: libc = \"0.2\""]);
}

#[test]
fn hot_path_is_counted_without_comments_and_tests() {
    assert_eq!(hot_path_lines("//! Head.\n\nfn f() {\n    // Why.\n}\n#[cfg(test)]\nmod tests {}\n"), 2);
    let planted = "fn f() {\n    if planted!(X) {\n        if a {\n        }\n    }\n    g(planted!(Y));\n    h();\n}\n";
    assert_eq!(hot_path_lines(planted), 3);
    assert!(is_hot("shards/wal/writer.rs") && is_hot("wire/frame.rs") && is_hot("shards/io/mod.rs"));
    assert!(!is_hot("shards/wal/recovery.rs") && !is_hot("shards/wal/tests/basic.rs") && !is_hot("shards/read.rs"));
}
