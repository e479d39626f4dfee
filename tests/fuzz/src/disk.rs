//! Files on a simulated disk: put there, and looked at.

use ringbeam_shards::io::sim::{HostId, Settings, SimDisk, World};
use ringbeam_shards::io::{BLOCK_BYTES, Disk, File};
use std::collections::BTreeMap;

/// Paths and contents.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A world with one machine, whose disk has these files, all durable. Lengths are whole blocks.
/// Worlds with one seed draw the same random numbers: a log that is written in one is read in another, as ids of segments must
/// not be drawn twice.
pub fn world_with(seed: u64, files: &Files) -> (World, HostId) {
    let world = World::new(seed, Settings::default());
    let host = world.add_host("alone");
    let disk = world.disk(host);
    world.block_on(host, async move {
        for (path, contents) in files {
            put(&disk, path, contents).await;
        }
    });
    (world, host)
}

async fn put(disk: &SimDisk, path: &str, contents: &[u8]) {
    assert!(contents.len().is_multiple_of(BLOCK_BYTES), "{path} has {} bytes", contents.len());
    let (dir, _) = path.rsplit_once('/').unwrap_or(("", path));
    disk.create_dir(dir).await.expect("a directory can be made");
    let file = disk.reserve(path, contents.len() as u64).await.expect("there is room");
    if !contents.is_empty() {
        let mut buffer = file.buffer(contents.len());
        buffer.copy_from_slice(contents);
        file.write_at(0, buffer).await.expect("the disk works");
        file.sync().await.expect("the disk works");
    }
    disk.sync_dir(dir).await.expect("the disk works");
}

/// All files as a program would read them now.
pub fn files_of(disk: &SimDisk) -> Files {
    disk.paths().into_iter().filter_map(|path| disk.contents(&path).map(|contents| (path, contents))).collect()
}

/// With zeros up to whole blocks.
pub fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes
}
