//! A log of another version of the binary's under this one: it is refused by name, and left as it is.
//!
//! ```text
//!   put: power loss, one segment's header says another version ─▶ starts, and refuses ─▶ undo: is anything changed? as before
//! ```
//! Power is lost first, so that all that the log then has is durable: later crashes change nothing of it.
//!
//! **Not here**: what else strikes meanwhile. Rot would be taken for a change: whoever lets it strike undoes this first.

use std::collections::BTreeMap;

use ringbeam_shards::io::sim::Crash;

use crate::random::Random;
use crate::world::{Outcome, Ring};

/// Where a segment's header says its version, and what its checksum covers (docs/format.md).
const VERSION_AT: usize = 8;
const CHECKED_FROM: usize = 4;
const BLOCK_BYTES: usize = 4096;

/// Versions that are not this binary's.
const OTHERS: [u16; 2] = [0, 2];

/// The log of one shard of a node, as long as it is another version's.
pub struct Foreign {
    shard: u32,
    segment: String,
    header: Vec<u8>,
    version: u16,
    files: BTreeMap<String, Vec<u8>>,
    /// Processes that the node had had by then.
    lives: u32,
}

impl Foreign {
    /// The power goes, and what comes back has been written by another version. `None`: the node has no log yet.
    pub fn put(ring: &mut Ring, node: u64, random: &mut Random) -> Option<Foreign> {
        ring.crash(node, Crash::PowerLoss);
        let disk = ring.disk(node);
        let settled = |path: &String| path.contains("/wal-") && disk.settled_blocks(path).contains(&0);
        let segments: Vec<String> = disk.paths().into_iter().filter(settled).collect();
        if segments.is_empty() {
            return None;
        }
        let (segment, version) = (random.pick(&segments).clone(), *random.pick(&OTHERS));
        let shard = segment.trim_start_matches("shard-").split('/').next()?.parse().ok()?;
        let header = disk.contents(&segment)?.get(..BLOCK_BYTES)?.to_vec();
        let mut other = header.clone();
        other[VERSION_AT..VERSION_AT + 2].copy_from_slice(&version.to_le_bytes());
        let checksum = crc32fast::hash(&other[CHECKED_FROM..]);
        other[..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
        disk.put_block(&segment, 0, &other);
        ring.world.tell(format!("node-{node}: {segment} is of version {version}"));
        let files = log_of(ring, node, shard);
        Some(Foreign { shard, segment, header, version, files, lives: ring.lives(node) })
    }

    /// A process runs on it, and has not said that it refuses it.
    pub fn is_open_question(&self, ring: &Ring, node: u64) -> bool {
        ring.lives(node) > self.lives && ring.live().contains(&node) && ring.refusing(node).is_empty()
    }

    /// The log is the node's own again, and it starts. Says what was done to the log meanwhile: nothing is right.
    /// `hurt`: its log may be damaged besides, and the damage may be found first.
    pub fn undo(self, ring: &mut Ring, node: u64, hurt: bool) -> Vec<String> {
        let unanswered = self.is_open_question(ring, node);
        let Foreign { shard, segment, header, version, files, .. } = self;
        let mut wrong = Vec::new();
        let log = format!("node {node}: a log of shard {shard} with {segment} of version {version}");
        if ring.view(node, shard).is_some() {
            wrong.push(format!("version: {log} was opened"));
        }
        if unanswered {
            wrong.push(format!("version: {log} was not refused"));
        }
        let ended = match ring.ended(node) {
            Some(Outcome::Failed(why)) => Some(why.clone()),
            _ => None,
        };
        let said: Vec<String> = ring.refusing(node).into_iter().chain(ended).collect();
        let named = |why: &String| why.contains(&format!("format version {version}")) || hurt && why.contains("is corrupt");
        if !said.is_empty() && !said.iter().any(named) {
            wrong.push(format!("version: {log} was refused, but not for that: {said:?}"));
        }
        let now = log_of(ring, node, shard);
        let changed = files.keys().chain(now.keys()).find(|path| files.get(*path) != now.get(*path));
        wrong.extend(changed.map(|path| format!("version: {log}: {path} was changed")));
        ring.crash(node, Crash::Kill);
        ring.disk(node).put_block(&segment, 0, &header);
        ring.start(node);
        wrong
    }
}

fn log_of(ring: &Ring, node: u64, shard: u32) -> BTreeMap<String, Vec<u8>> {
    let (disk, log) = (ring.disk(node), format!("shard-{shard}/log/"));
    let paths = disk.paths().into_iter().filter(|path| path.starts_with(&log));
    paths.map(|path| (path.clone(), disk.contents(&path).unwrap_or_default())).collect()
}
