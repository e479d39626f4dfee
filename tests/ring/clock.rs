//! Wall clocks that jump: a node under libfaketime reads an offset from a file, at every look at its clock. Monotonic clocks are
//! the kernel's own.
//!
//! **Invariant**: whether a node's wall clock has moved is read from its own log lines, which are stamped with it.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use ringbeam_wire::preamble::{Kind, Preamble};

use super::Ring;

/// libfaketime on this machine, or what is missing.
pub fn library() -> Result<PathBuf, String> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let candidates = folders.map(|folder| Path::new(folder).join("faketime/libfaketimeMT.so.1"));
    candidates.into_iter().find(|path| path.exists()).ok_or_else(|| "libfaketimeMT.so.1 (Debian package faketime)".to_string())
}

/// The command will have a wall clock that follows `file`.
pub fn follow(command: &mut Command, library: &Path, file: &Path) {
    if !file.exists() {
        write(file, 0);
    }
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", file)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1");
}

/// In one step: a reader must never see half of it.
fn write(file: &Path, offset_ms: i64) {
    let new = file.with_extension("new");
    fs::write(&new, format!("{:+.3}", offset_ms as f64 / 1e3)).expect("a file can be written");
    fs::rename(new, file).expect("a file can be renamed");
}

impl Ring {
    /// The wall clock of a node is so far from the true one from now on.
    pub fn set_clock(&self, id: u64, offset_ms: i64) {
        assert!(self.plan.wall_clocks.is_some(), "the plan has no clocks to move");
        write(&self.clock_file(id), offset_ms);
    }

    /// Waits until the node itself tells a time that is so far from the true one, within 150 ms. It must log at `debug`: a peer
    /// connection that begins with nonsense is a line in its log.
    pub fn wait_clock(&self, id: u64, offset_ms: i64) {
        let began = Instant::now();
        let mut told = None;
        while began.elapsed() < Duration::from_secs(30) {
            let (before, from) = (SystemTime::now(), self.said(id).len());
            let Ok(mut knock) = TcpStream::connect(&self.node(id).listens) else { continue };
            let _ = knock.write_all(&Preamble::new(Kind::Peer, 0).encode()).and_then(|()| knock.write_all(&[0xff; 64]));
            let line = loop {
                let said = self.said(id);
                let lines = said.get(from..).unwrap_or_default();
                if let Some(line) = lines.lines().find(|line| line.contains("before its hello")) {
                    break Some(line.to_string());
                }
                if before.elapsed().is_ok_and(|waited| waited > Duration::from_secs(1)) {
                    break None;
                }
                std::thread::sleep(Duration::from_millis(2));
            };
            let Some(stamp) = line.as_deref().and_then(time_of_day_ms) else { continue };
            // The line was written between these two moments.
            let [earliest, latest] = [before, SystemTime::now()].map(|at| {
                let at_ms = at.duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970").as_millis() as i64;
                away_ms(stamp - at_ms - offset_ms)
            });
            told = Some((latest, earliest));
            if latest >= -150 && earliest <= 150 {
                return;
            }
        }
        panic!("node {id} tells no time that is {offset_ms} ms off; off by {told:?} ms more\n{}", self.tail(id));
    }

    pub(super) fn clock_file(&self, id: u64) -> PathBuf {
        self.root.join(format!("node-{id}.clock"))
    }
}

const DAY_MS: i64 = 24 * 3_600_000;

/// A difference of two times of a day, the short way round.
fn away_ms(difference: i64) -> i64 {
    (difference + DAY_MS / 2).rem_euclid(DAY_MS) - DAY_MS / 2
}

/// Of a line that begins with a time as 2026-11-21T18:51:56.123456Z.
fn time_of_day_ms(line: &str) -> Option<i64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = time.split(':');
    let mut next = || parts.next()?.parse::<f64>().ok();
    let (hours, minutes, seconds) = (next()?, next()?, next()?);
    Some(((hours * 60.0 + minutes) * 60_000.0 + seconds * 1e3) as i64)
}
