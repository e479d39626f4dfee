//! Who this data directory belongs to: the file `identity`, the first thing a node reads.
//!
//! A directory is *new* (it has an incarnation and a node id, and no ring), *founded* (it knows its ring), or *started* (its
//! shards have logs). The incarnation is random and made with the directory: the ring's membership names it, so an empty disk
//! under a known id is another member, which nobody listens to.
//!
//! ```text
//! identity:  one frame of the peer protocol, a reply with `Identity` (wire/schema.fbs): u32 bytes | u32 crc32 | payload
//! ```
//!
//! **Invariants**
//! - It is replaced as a whole (temporary file, fsync, rename, fsync of the directory): there is always a valid one, or none.
//! - Node id and incarnation never change; the ring, once set, never changes, nor does the node's role in it; `started` is never taken
//!   back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ringbeam_wire::Role;
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::peer::{Encoder, Identity, Member, PeerReplyBody, parse_reply};

const NAME: &str = "identity";
const FRAME_BYTES_MAX: usize = 1 << 20;

/// The identity of one data directory.
#[derive(Debug, Clone)]
pub struct DataDirectory {
    path: PathBuf,
    /// What the file says.
    pub identity: Identity,
}

impl DataDirectory {
    /// Reads the identity in `path`, or makes a new one for `me`, whose incarnation is filled in. Refuses a directory of
    /// another node, with another number of shards or in another role, by name.
    pub fn open(path: &Path, me: &Member, shards: u32) -> Result<DataDirectory, String> {
        fs::create_dir_all(path).map_err(|e| format!("data directory {}: {e}", path.display()))?;
        let file = path.join(NAME);
        let found = match fs::read(&file) {
            Ok(bytes) => Some(decode(&bytes).map_err(|why| format!("{}: {why}", file.display()))?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(format!("{}: {e}", file.display())),
        };
        let Some(mut identity) = found else {
            if let Some(stray) = first_shard_directory(path) {
                return Err(format!(
                    "{} has {stray} but no identity: a part of it is lost. Restore it whole, or empty it and give the node a \
                     new id with: ringbeam ring replace --node {} --by NEW_ID --peer HOST:PORT",
                    path.display(),
                    me.node
                ));
            }
            let incarnation = loop {
                match rand::random::<u64>() {
                    0 => continue,
                    n => break n,
                }
            };
            let member = Member { incarnation, ..me.clone() };
            let identity =
                Identity { node: me.node, incarnation, ring: 0, shards, member, members: Vec::new(), started: false };
            let directory = DataDirectory { path: path.to_path_buf(), identity };
            directory.save().map_err(|e| format!("{}: {e}", file.display()))?;
            return Ok(directory);
        };
        if identity.node != me.node {
            return Err(format!(
                "{} belongs to node {}, the configuration says node {} (node.id): use the directory of this node",
                path.display(),
                identity.node,
                me.node
            ));
        }
        if identity.ring != 0 && identity.shards != shards {
            return Err(format!(
                "{} belongs to a ring of {} shards, the configuration says {shards} (ring.shards): the number is fixed when \
                 the ring is founded",
                path.display(),
                identity.shards
            ));
        }
        if identity.ring != 0 && identity.member.role != me.role {
            let (node, peer) = (me.node, &me.peer);
            // An observer takes nobody's vote over.
            let how = match me.role {
                Role::Observer => {
                    format!("ringbeam ring add --node NEW_ID --peer {peer}, then: ringbeam ring remove --node {node}")
                }
                _ => format!("ringbeam ring replace --node {node} --by NEW_ID --peer {peer}"),
            };
            return Err(format!(
                "{} is of a node that its ring knows as {}, the configuration says {} (node.role): a node keeps the role in which it \
                 came to its ring. Set it back; or start a new node, with an id that was never used and an empty directory, and \
                 run: {how}",
                path.display(),
                identity.member.role,
                me.role
            ));
        }
        // It may be of a process that was killed before it had synced the directory.
        File::open(path).and_then(|directory| directory.sync_all()).map_err(|e| format!("{}: {e}", path.display()))?;
        identity.shards = shards;
        identity.member = Member { incarnation: identity.incarnation, ..me.clone() };
        Ok(DataDirectory { path: path.to_path_buf(), identity })
    }

    /// Sets the ring, durably.
    pub fn join(&mut self, ring: u64, members: Vec<Member>) -> io::Result<()> {
        assert!(ring != 0 && self.identity.ring == 0, "a directory joins one ring, once");
        self.identity.ring = ring;
        self.identity.members = members;
        self.save()
    }

    /// Notes that every shard has a log, durably.
    pub fn mark_started(&mut self) -> io::Result<()> {
        self.identity.started = true;
        self.save()
    }

    /// Names a shard that was started and whose log is gone, if there is one.
    pub fn lost_shard(&self) -> Option<u32> {
        let has_log = |shard: &u32| {
            let log = self.path.join(format!("shard-{shard}")).join("log");
            fs::read_dir(log)
                .is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("wal-"))))
        };
        if self.identity.started { (0..self.identity.shards).find(|shard| !has_log(shard)) } else { None }
    }

    fn save(&self) -> io::Result<()> {
        let mut bytes = Vec::new();
        Encoder::new().reply(&mut bytes, 0, &PeerReplyBody::Identity(Box::new(self.identity.clone())));
        let temporary = self.path.join("identity.tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path.join(NAME))?;
        File::open(&self.path)?.sync_all()
    }
}

fn decode(bytes: &[u8]) -> Result<Identity, String> {
    let mut decoder = Decoder::new(FRAME_BYTES_MAX);
    let mut rest = bytes;
    let frame = loop {
        match decoder.next().map_err(|e| e.to_string())? {
            Some(frame) => break frame,
            None if rest.is_empty() => return Err("it is cut short; restore it from a backup of the directory".into()),
            None => {
                let space = decoder.space();
                let n = space.len().min(rest.len());
                space[..n].copy_from_slice(&rest[..n]);
                decoder.filled(n);
                rest = &rest[n..];
            }
        }
    };
    match parse_reply(&frame).map_err(|e| e.to_string())?.body {
        PeerReplyBody::Identity(identity) => Ok(*identity),
        _ => Err("it holds another message than an identity".into()),
    }
}

fn first_shard_directory(path: &Path) -> Option<String> {
    let names = fs::read_dir(path).ok()?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("shard-")).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ringbeam-identity-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn me(node: u64) -> Member {
        Member { node, peer: "127.0.0.1:1".into(), ..Member::default() }
    }

    #[test]
    fn identity_survives_and_refuses_another_node_shard_count_or_role() {
        let path = scratch("survives");
        let observer = Member { role: Role::Observer, ..me(2) };
        DataDirectory::open(&path, &observer, 4).expect("a new directory opens");
        let mut directory = DataDirectory::open(&path, &me(2), 4).expect("in no ring yet, it may become anything");
        let incarnation = directory.identity.incarnation;
        directory.join(77, vec![me(2)]).expect("a new directory joins");
        let again = DataDirectory::open(&path, &me(2), 4).expect("the same node opens it");
        assert_eq!((again.identity.ring, again.identity.incarnation), (77, incarnation));
        let role = DataDirectory::open(&path, &observer, 4).expect_err("another role is refused");
        assert!(role.contains("knows as voter") && role.contains("says observer (node.role)"), "{role}");
        assert!(role.contains("ring add --node NEW_ID") && role.contains("ring remove --node 2"), "{role}");
        let other = DataDirectory::open(&path, &me(3), 4).expect_err("another node is refused");
        assert!(other.contains("belongs to node 2") && other.contains("node 3"), "{other}");
        let shards = DataDirectory::open(&path, &me(2), 5).expect_err("another shard count is refused");
        assert!(shards.contains("4 shards") && shards.contains("says 5"), "{shards}");
        let _ = fs::remove_dir_all(&path);
    }

    #[test]
    fn damaged_identity_is_refused_at_every_byte() {
        let path = scratch("damaged");
        DataDirectory::open(&path, &me(2), 4).expect("a new directory opens");
        let good = fs::read(path.join(NAME)).expect("the file is there");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(path.join(NAME), &bad).expect("the file can be written");
            assert!(DataDirectory::open(&path, &me(2), 4).is_err(), "byte {at}");
            fs::write(path.join(NAME), &good[..at]).expect("the file can be written");
            assert!(DataDirectory::open(&path, &me(2), 4).is_err(), "cut at {at}");
        }
        let _ = fs::remove_dir_all(&path);
    }

    #[test]
    fn lost_log_of_a_started_shard_is_named() {
        let path = scratch("lost");
        let mut directory = DataDirectory::open(&path, &me(2), 2).expect("a new directory opens");
        for shard in 0..2 {
            let log = path.join(format!("shard-{shard}/log"));
            fs::create_dir_all(&log).expect("a directory can be made");
            fs::write(log.join("wal-0000000000000000.seg"), b"x").expect("a file can be made");
        }
        directory.mark_started().expect("it can be marked");
        assert_eq!(directory.lost_shard(), None);
        fs::remove_dir_all(path.join("shard-1")).expect("it can be removed");
        assert_eq!(directory.lost_shard(), Some(1));
        fs::remove_file(path.join(NAME)).expect("it can be removed");
        let stray = DataDirectory::open(&path, &me(2), 2).expect_err("shards without identity are refused");
        assert!(stray.contains("shard-0"), "{stray}");
        let _ = fs::remove_dir_all(&path);
    }
}
