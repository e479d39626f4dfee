//! What a test leaves out because this machine lacks something, said by name where everybody sees it.
//!
//! The harness keeps to itself what a test prints that passes. So this is written past it, to the real standard error, and to the file
//! that `RINGBEAM_SKIPPED` names: `.ci/run` closes with what is in there.
//!
//! **Invariant**: what is named in `RINGBEAM_MUST_RUN` is not left out; the test fails instead. `.ci/run` names what it has seen to work
//! a moment before.

use std::fs::OpenOptions;
use std::io::Write;

/// What not every machine has. The names are those of `RINGBEAM_MUST_RUN`, separated by spaces.
#[allow(dead_code, reason = "each test file uses its part")]
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A file system in a file, mounted by root.
    LoopDevices,
    /// A file system in memory, mounted by root.
    Mounts,
    /// Network namespaces, veth and a packet filter.
    Namespaces,
    /// libfaketime.
    WallClocks,
    /// A directory in memory that anybody may write to.
    Memory,
    /// Thousands of open files in one process.
    Descriptors,
    /// A machine that does not stand still. Nobody can have seen that before.
    Calm,
}

/// `what`, a test or a part of one, is not run for the lack of `need`. Fails where that must be there.
pub fn skipped(what: &str, need: Need, why: &str) {
    let (must_run, name) = (std::env::var("RINGBEAM_MUST_RUN").unwrap_or_default(), format!("{need:?}"));
    let seen = must_run.split(' ').any(|one| one == name);
    assert!(!seen, "{what} is not run, although {name} is in RINGBEAM_MUST_RUN: {why}");
    let line = format!("SKIPPED {what} ({name}): {}\n", why.replace('\n', " "));
    // Not with a macro: the harness would keep it.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = std::env::var_os("RINGBEAM_SKIPPED") {
        let list = OpenOptions::new().create(true).append(true).open(list);
        list.and_then(|mut list| list.write_all(line.as_bytes())).expect("the list of what is skipped can be written");
    }
}
