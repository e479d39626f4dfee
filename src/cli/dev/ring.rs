//! The directory of a dev ring: which nodes, shards and ports it has, kept in `dev.json` so that the next start is the same ring.
//!
//! ```text
//! DIR/dev.json           nodes, shards, ports       DIR/node-1.toml   configuration, written at each start
//! DIR/dev.lock           held while dev runs        DIR/node-1.log    what the node says
//!                                                   DIR/node-1/       its data
//! ```
//!
//! **Invariants**
//! - A ring keeps its ports for life: its members' addresses are in its log.
//! - One `dev` at a time works in a directory.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ports::{Claim, Ports, pick};
use crate::cli::bench::report::write_atomically;
use crate::config::{Config, FounderEntry};

/// Format of `dev.json`.
const FORMAT: u32 = 1;

/// Segments of a dev ring's log, bytes: two of the largest flushes of 1 MiB values fit, and a start is quick.
const SEGMENT_BYTES: u64 = 16 << 20;

/// How long a port that is in use is tried again, and the pause between two tries.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// Log after which a dev node takes a snapshot, bytes: the directory stays small.
const SNAPSHOT_AFTER_BYTES: u64 = 64 << 20;

/// What `dev.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    format: u32,
    /// Shards of the ring.
    pub shards: u32,
    /// Of node 1, 2, ..
    pub ports: Vec<Ports>,
}

/// Held as long as `dev` works in the directory.
pub struct Lock(#[expect(dead_code, reason = "the lock lasts until the file is closed")] File);

impl Ring {
    /// The ring of `dir`, which is made if there is none, with the claim on its ports. `nodes` and `shards` are what was asked
    /// for, if anything.
    pub fn open(dir: &Path, nodes: Option<u32>, shards: Option<u32>) -> Result<(Ring, Option<Claim>), String> {
        let path = dir.join("dev.json");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let ring: Ring = serde_json::from_str(&text).map_err(|error| {
                    format!("{}: {error}. Delete {} to begin with a new ring", path.display(), dir.display())
                })?;
                ring.check(dir, nodes, shards)?;
                Ok((ring, None))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (ports, claim) =
                    pick(nodes.unwrap_or(3)).map_err(|error| format!("no free ports on 127.0.0.1: {error}"))?;
                let ring = Ring { format: FORMAT, shards: shards.unwrap_or(1), ports };
                let text = serde_json::to_string_pretty(&ring).map_err(|error| error.to_string())?;
                write_atomically(&path, &(text + "\n"))?;
                Ok((ring, Some(claim)))
            }
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    fn check(&self, dir: &Path, nodes: Option<u32>, shards: Option<u32>) -> Result<(), String> {
        let remedy = format!("Leave the option out, name another --dir, or delete {} to begin with a new ring", dir.display());
        if self.format != FORMAT {
            return Err(format!(
                "{} was made by another version (format {}, this one writes {FORMAT}). {remedy}",
                dir.display(),
                self.format
            ));
        }
        if let Some(nodes) = nodes.filter(|&nodes| nodes != self.nodes()) {
            return Err(format!(
                "{} holds a ring of {} nodes, --nodes {nodes} was asked for. {remedy}",
                dir.display(),
                self.nodes()
            ));
        }
        match shards.filter(|&shards| shards != self.shards) {
            Some(shards) => Err(format!(
                "{} holds a ring of {} shards, --shards {shards} was asked for. {remedy}",
                dir.display(),
                self.shards
            )),
            None => Ok(()),
        }
    }

    /// Number of nodes.
    pub fn nodes(&self) -> u32 {
        self.ports.len() as u32
    }

    /// Node ids and their ports.
    pub fn members(&self) -> impl Iterator<Item = (u64, Ports)> {
        (1..).zip(self.ports.iter().copied())
    }

    /// Whether every port can be had now; else says which one cannot.
    pub fn check_ports(&self) -> Result<(), String> {
        for (node, ports) in self.members() {
            for (port, what) in [(ports.client, "client"), (ports.peer, "peer"), (ports.admin, "admin")] {
                bind_patiently(port).map_err(|error| {
                    format!(
                        "port {port} ({what} port of node {node}) cannot be had: {error}. A ring keeps its ports for life: \
                         end what uses it (a node started by hand?), or name another --dir"
                    )
                })?;
            }
        }
        Ok(())
    }

    /// The configuration of one node. `pin`: executors are pinned to cores.
    pub fn config(&self, dir: &Path, node: u64, ports: Ports, pin: bool) -> Config {
        let mut config = Config::default();
        config.node.id = node;
        config.node.data_dir = data_dir(dir, node);
        config.node.region = format!("r{node}");
        config.node.pin_cores = pin;
        config.listen.client = address(ports.client);
        config.listen.peer = address(ports.peer);
        config.listen.admin = address(ports.admin);
        config.ring.shards = self.shards;
        config.ring.founders = self.members().map(|(id, ports)| FounderEntry { id, peer: address(ports.peer) }).collect();
        config.log.segment_bytes = SEGMENT_BYTES;
        config.log.snapshot_after_bytes = SNAPSHOT_AFTER_BYTES;
        config
    }
}

impl Lock {
    /// Refuses when another `dev` has it.
    pub fn take(dir: &Path) -> Result<Lock, String> {
        let path = dir.join("dev.lock");
        let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        // SAFETY: the descriptor is open for the call.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(format!("another `ringbeam dev` runs in {}: stop it, or name another --dir", dir.display()));
        }
        Ok(Lock(file))
    }
}

/// `127.0.0.1:port`.
pub fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// A node's data directory.
pub fn data_dir(dir: &Path, node: u64) -> PathBuf {
    dir.join(format!("node-{node}"))
}

/// Binds `port`, which a killed node may still hold for a moment: the kernel tears its rings down after the process is gone.
fn bind_patiently(port: u16) -> io::Result<TcpListener> {
    let began = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < BIND_PATIENCE => {
                thread::sleep(BIND_PAUSE)
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fresh directory that is gone afterwards.
    struct Fresh(PathBuf);

    impl Fresh {
        fn new(name: &str) -> Fresh {
            let dir = std::env::temp_dir().join(format!("ringbeam-dev-test-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).expect("a temporary directory can be made");
            Fresh(dir)
        }
    }

    impl Drop for Fresh {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_directory_is_the_same_ring_again() {
        let dir = Fresh::new("again");
        let (made, claim) = Ring::open(&dir.0, Some(5), Some(2)).expect("a new ring");
        assert!(claim.is_some());
        let (again, claim) = Ring::open(&dir.0, None, None).expect("the same ring");
        assert!(claim.is_none() && again == made && again.nodes() == 5 && again.shards == 2);
        Ring::open(&dir.0, Some(5), Some(2)).expect("what it holds may be asked for");
    }

    #[test]
    fn another_size_than_the_directory_holds_is_refused() {
        let dir = Fresh::new("mismatch");
        Ring::open(&dir.0, None, None).expect("a new ring");
        let error = Ring::open(&dir.0, Some(7), None).expect_err("3 nodes are there");
        assert!(error.contains("a ring of 3 nodes, --nodes 7") && error.contains("delete"), "{error}");
        let error = Ring::open(&dir.0, None, Some(4)).expect_err("1 shard is there");
        assert!(error.contains("a ring of 1 shards, --shards 4"), "{error}");
        fs::write(dir.0.join("dev.json"), "{\"format\": 1").expect("writable");
        let error = Ring::open(&dir.0, None, None).expect_err("half a file");
        assert!(error.contains("dev.json"), "{error}");
    }

    #[test]
    fn a_port_in_use_is_named() {
        let (ports, _claim) = pick(7).expect("21 ports are free");
        let ring = Ring { format: FORMAT, shards: 1, ports };
        ring.check_ports().expect("they are free");
        let _taken = TcpListener::bind(("127.0.0.1", ring.ports[2].peer)).expect("it is free");
        let error = ring.check_ports().expect_err("one is taken");
        assert!(error.contains("peer port of node 3"), "{error}");
    }

    #[test]
    fn one_dev_at_a_time_works_in_a_directory() {
        let dir = Fresh::new("lock");
        let first = Lock::take(&dir.0).expect("nobody has it");
        assert!(Lock::take(&dir.0).is_err_and(|error| error.contains("another `ringbeam dev`")));
        drop(first);
        Lock::take(&dir.0).expect("it was let go");
    }

    #[test]
    fn configurations_are_valid_and_name_all_founders() {
        let dir = Path::new("/somewhere");
        let ring = Ring { format: FORMAT, shards: 2, ports: pick(3).expect("free ports").0 };
        for (node, ports) in ring.members() {
            let config = ring.config(dir, node, ports, false);
            let parsed = Config::parse(&config.to_toml(), "node.toml").expect("a valid file");
            assert_eq!(parsed, config);
            assert_eq!(parsed.ring.founders.len(), 3);
        }
    }
}
