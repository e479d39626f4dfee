//! Files.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;

use super::{Disk, Env, File, SMALL_DISK_BYTES_MAX, World};
use crate::io::BLOCK_BYTES;

type FileOf<E> = <<E as Env>::Disk as Disk>::File;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A directory of its own for each check.
async fn directory<E: Env>(world: &impl World<E>, name: &str) -> E::Disk {
    let disk = world.disk();
    disk.create_dir(name).await.expect("create_dir");
    disk
}

/// A buffer whose bytes say where they belong.
fn pattern<E: Env>(file: &FileOf<E>, bytes: usize, seed: u64) -> (<FileOf<E> as File>::Buffer, Vec<u8>) {
    let mut buffer = file.buffer(bytes);
    assert_eq!(buffer.len(), bytes, "a buffer has the length that was asked for");
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in buffer.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let copy = buffer.to_vec();
    (buffer, copy)
}

async fn all_of<E: Env>(file: &FileOf<E>) -> Vec<u8> {
    let bytes = usize::try_from(file.len()).expect("small files");
    file.read_at(0, bytes).await.expect("read the whole file")
}

pub(super) async fn created_file_is_zeroed_and_full_length<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "zeroed").await;
    for blocks in [1, 3, 257] {
        let name = format!("zeroed/{blocks}");
        let file = disk.create(&name, blocks * BLOCK).await.expect("create");
        assert_eq!(file.len(), blocks * BLOCK);
        assert!(!file.is_empty());
        file.close().await.expect("close");
        let file = disk.open(&name).await.expect("open");
        assert_eq!(file.len(), blocks * BLOCK, "the length outlives the handle");
        assert!(all_of::<E>(&file).await.iter().all(|byte| *byte == 0), "a new file has zeros only");
    }
}

pub(super) async fn create_refuses_a_taken_name_and_a_broken_length<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "refused").await;
    let file = disk.create("refused/taken", BLOCK).await.expect("create");
    let (buffer, written) = pattern::<E>(&file, BLOCK_BYTES, 1);
    file.write_durable_at(0, buffer).await.expect("write");
    let again = disk.create("refused/taken", 2 * BLOCK).await.err().expect("the name is taken");
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(all_of::<E>(&file).await, written, "the file of that name was left alone");
    for bytes in [0, 1, BLOCK - 1, BLOCK + 512] {
        let broken = disk.create("refused/broken", bytes).await.err().expect("not whole blocks");
        assert_eq!(broken.kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(disk.list("refused").await.expect("list"), ["taken"]);
}

/// A reserved file's room has whatever the disk has there; none of it may be seen.
pub(super) async fn reserved_file_is_zeroed_and_full_length<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "reserved").await;
    for blocks in [1, 3, 257] {
        let name = format!("reserved/{blocks}");
        let file = disk.reserve(&name, blocks * BLOCK).await.expect("reserve");
        assert_eq!(file.len(), blocks * BLOCK);
        assert!(all_of::<E>(&file).await.iter().all(|byte| *byte == 0), "what was reserved has zeros only");
        let beyond = file.read_at(blocks * BLOCK, BLOCK_BYTES).await.expect_err("beyond the end");
        assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
        let (buffer, written) = pattern::<E>(&file, BLOCK_BYTES, blocks);
        file.write_at((blocks - 1) * BLOCK, buffer).await.expect("the last block can be written");
        file.sync().await.expect("sync");
        file.close().await.expect("close");
        let file = disk.open(&name).await.expect("open");
        assert_eq!(file.len(), blocks * BLOCK, "the length outlives the handle");
        let found = all_of::<E>(&file).await;
        let (before, last) = found.split_at(found.len() - BLOCK_BYTES);
        assert!(before.iter().all(|byte| *byte == 0), "what was not written has zeros");
        assert_eq!(last, written);
    }
}

pub(super) async fn reserved_file_grows_by_zeros_and_keeps_what_it_has<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "grown").await;
    let file = disk.reserve("grown/file", 2 * BLOCK).await.expect("reserve");
    let (buffer, mut expected) = pattern::<E>(&file, 2 * BLOCK_BYTES, 11);
    file.write_at(0, buffer).await.expect("write");
    for (asked, has) in [(300, 300), (4, 300), (300, 300), (301, 301)] {
        file.reserve(asked * BLOCK).await.expect("reserve more");
        assert_eq!(file.len(), has * BLOCK, "{asked} blocks were asked for");
        expected.resize(has as usize * BLOCK_BYTES, 0);
        assert!(all_of::<E>(&file).await == expected, "{has} blocks: what was there, then zeros");
    }
    let (buffer, written) = pattern::<E>(&file, BLOCK_BYTES, 12);
    file.write_at(300 * BLOCK, buffer).await.expect("the new end can be written");
    expected[300 * BLOCK_BYTES..].copy_from_slice(&written);
    file.sync().await.expect("sync");
    file.close().await.expect("close");
    let file = disk.open("grown/file").await.expect("open");
    assert_eq!(file.len(), 301 * BLOCK, "the new length outlives the handle");
    assert!(all_of::<E>(&file).await == expected, "grown, and changed by reopening");
}

/// A node that begins a snapshot anew, while somebody still reads the one of that name.
pub(super) async fn reserve_replaces_a_file_that_is_open<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "replaced").await;
    let old = disk.create("replaced/file", 3 * BLOCK).await.expect("create");
    let (buffer, before) = pattern::<E>(&old, 3 * BLOCK_BYTES, 13);
    old.write_durable_at(0, buffer).await.expect("write");
    let new = disk.reserve("replaced/file", 2 * BLOCK).await.expect("reserve over it");
    assert_eq!((old.len(), new.len()), (3 * BLOCK, 2 * BLOCK));
    assert!(all_of::<E>(&new).await.iter().all(|byte| *byte == 0), "nothing of the old file is in the new one");
    let (buffer, written) = pattern::<E>(&new, BLOCK_BYTES, 14);
    new.write_durable_at(BLOCK, buffer).await.expect("write");
    assert!(all_of::<E>(&old).await == before, "an open handle keeps its file");
    old.close().await.expect("close");
    new.close().await.expect("close");
    assert_eq!(disk.list("replaced").await.expect("list"), ["file"]);
    let found = disk.open("replaced/file").await.expect("open");
    assert_eq!(found.len(), 2 * BLOCK);
    assert_eq!(found.read_at(BLOCK, BLOCK_BYTES).await.expect("read"), written);
}

pub(super) async fn durable_write_is_read_back_after_reopening<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "durable").await;
    let file = disk.create("durable/file", 8 * BLOCK).await.expect("create");
    let (buffer, written) = pattern::<E>(&file, 2 * BLOCK_BYTES, 2);
    file.write_durable_at(3 * BLOCK, buffer).await.expect("write");
    assert_eq!(file.read_at(3 * BLOCK, 2 * BLOCK_BYTES).await.expect("read"), written);
    file.close().await.expect("close");
    let file = disk.open("durable/file").await.expect("open");
    assert_eq!(file.read_at(3 * BLOCK, 2 * BLOCK_BYTES).await.expect("read"), written);
}

pub(super) async fn synced_write_is_read_back_after_reopening<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "synced").await;
    let file = disk.create("synced/file", 8 * BLOCK).await.expect("create");
    let (buffer, written) = pattern::<E>(&file, BLOCK_BYTES, 3);
    file.write_at(BLOCK, buffer).await.expect("write");
    file.sync().await.expect("sync");
    file.close().await.expect("close");
    let file = disk.open("synced/file").await.expect("open");
    assert_eq!(file.read_at(BLOCK, BLOCK_BYTES).await.expect("read"), written);
}

pub(super) async fn write_changes_nothing_beside_it<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "beside").await;
    let file = disk.create("beside/file", 4 * BLOCK).await.expect("create");
    let (buffer, mut expected) = pattern::<E>(&file, 4 * BLOCK_BYTES, 4);
    file.write_durable_at(0, buffer).await.expect("write");
    let (buffer, second) = pattern::<E>(&file, BLOCK_BYTES, 5);
    file.write_durable_at(2 * BLOCK, buffer).await.expect("overwrite");
    expected[2 * BLOCK_BYTES..3 * BLOCK_BYTES].copy_from_slice(&second);
    assert_eq!(all_of::<E>(&file).await, expected);
}

pub(super) async fn big_write_is_whole<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "big").await;
    let bytes = 9 << 20;
    let file = disk.create("big/file", bytes as u64).await.expect("create");
    let (buffer, written) = pattern::<E>(&file, bytes, 6);
    file.write_durable_at(0, buffer).await.expect("write");
    assert!(all_of::<E>(&file).await == written, "nine megabytes came back changed");
    file.close().await.expect("close");
    disk.remove("big/file").await.expect("remove");
}

pub(super) async fn writes_in_flight_together_all_land<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "together").await;
    let file = disk.create("together/file", 64 * BLOCK).await.expect("create");
    let left = Rc::new(Cell::new(64));
    let mut expected = Vec::new();
    for block in 0..64 {
        let (buffer, written) = pattern::<E>(&file, BLOCK_BYTES, 100 + block);
        expected.extend_from_slice(&written);
        let (file, left) = (file.clone(), left.clone());
        E::spawn(async move {
            file.write_durable_at(block * BLOCK, buffer).await.expect("write");
            left.set(left.get() - 1);
        });
    }
    while left.get() > 0 {
        E::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(all_of::<E>(&file).await, expected);
}

pub(super) async fn nothing_is_read_or_written_beyond_the_end<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "beyond").await;
    let file = disk.create("beyond/file", 2 * BLOCK).await.expect("create");
    for (offset, blocks) in [(2, 1), (1, 2), (0, 3), (1 << 40, 1)] {
        let read = file.read_at(offset * BLOCK, blocks * BLOCK_BYTES).await;
        assert_eq!(read.expect_err("beyond the end").kind(), ErrorKind::UnexpectedEof);
        let (buffer, _) = pattern::<E>(&file, blocks * BLOCK_BYTES, 7);
        let written = file.write_durable_at(offset * BLOCK, buffer).await;
        assert_eq!(written.expect_err("beyond the end").kind(), ErrorKind::UnexpectedEof);
        let (buffer, _) = pattern::<E>(&file, blocks * BLOCK_BYTES, 8);
        let written = file.write_at(offset * BLOCK, buffer).await;
        assert_eq!(written.expect_err("beyond the end").kind(), ErrorKind::UnexpectedEof);
    }
    assert!(all_of::<E>(&file).await.iter().all(|byte| *byte == 0), "a refused write wrote something");
}

pub(super) async fn clones_share_the_file<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "clones").await;
    let file = disk.create("clones/file", BLOCK).await.expect("create");
    let clone = file.clone();
    let (buffer, written) = pattern::<E>(&file, BLOCK_BYTES, 9);
    file.write_durable_at(0, buffer).await.expect("write");
    file.close().await.expect("close one");
    assert_eq!(all_of::<E>(&clone).await, written);
    clone.close().await.expect("close the last");
}

pub(super) async fn rename_replaces<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "rename").await;
    let old = disk.create("rename/b", BLOCK).await.expect("create");
    let new = disk.create("rename/a", 2 * BLOCK).await.expect("create");
    let (buffer, written) = pattern::<E>(&new, BLOCK_BYTES, 10);
    new.write_durable_at(0, buffer).await.expect("write");
    disk.rename("rename/a", "rename/b").await.expect("rename");
    disk.sync_dir("rename").await.expect("sync_dir");
    assert_eq!(disk.list("rename").await.expect("list"), ["b"]);
    let found = disk.open("rename/b").await.expect("open");
    assert_eq!(found.len(), 2 * BLOCK);
    assert_eq!(found.read_at(0, BLOCK_BYTES).await.expect("read"), written);
    assert!(all_of::<E>(&old).await.iter().all(|byte| *byte == 0), "an open handle keeps its file");
    let missing = disk.rename("rename/none", "rename/b").await.expect_err("nothing of that name");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

pub(super) async fn list_is_sorted_and_has_files_only<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "list").await;
    assert!(disk.list("list").await.expect("list").is_empty());
    disk.create_dir("list/deep/er").await.expect("create_dir");
    disk.create_dir("list/deep/er").await.expect("create_dir again");
    for name in ["b", "a", "c10", "c9", "deep/hidden"] {
        disk.create(&format!("list/{name}"), BLOCK).await.expect("create");
    }
    assert_eq!(disk.list("list").await.expect("list"), ["a", "b", "c10", "c9"]);
    assert_eq!(disk.list("list/deep").await.expect("list"), ["hidden"]);
    disk.remove("list/b").await.expect("remove");
    disk.sync_dir("list").await.expect("sync_dir");
    assert_eq!(disk.list("list").await.expect("list"), ["a", "c10", "c9"]);
}

pub(super) async fn missing_file_is_not_found<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "missing").await;
    assert_eq!(disk.open("missing/file").await.err().expect("open").kind(), ErrorKind::NotFound);
    assert_eq!(disk.remove("missing/file").await.expect_err("remove").kind(), ErrorKind::NotFound);
    assert_eq!(disk.list("missing/dir").await.expect_err("list").kind(), ErrorKind::NotFound);
    let created = disk.create("missing/dir/file", BLOCK).await.err().expect("create");
    assert_eq!(created.kind(), ErrorKind::NotFound);
}

pub(super) async fn path_outside_is_refused<E: Env>(world: &impl World<E>) {
    let disk = world.disk();
    for path in ["../file", "/file", "a/../../file"] {
        let created = disk.create(path, BLOCK).await.err().expect("outside");
        assert_eq!(created.kind(), ErrorKind::InvalidInput, "{path}");
        assert_eq!(disk.open(path).await.err().expect("outside").kind(), ErrorKind::InvalidInput, "{path}");
    }
}

pub(super) async fn full_disk_refuses_and_keeps_nothing<E: Env>(world: &impl World<E>) {
    let disk = world.small_disk().expect("the suite leaves this out where there is none");
    disk.create_dir("full").await.expect("create_dir");
    for _ in 0..3 {
        let full = disk.create("full/file", SMALL_DISK_BYTES_MAX).await.err().expect("it cannot fit");
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        assert!(disk.list("full").await.expect("list").is_empty(), "something was left behind");
    }
    let fits = disk.create("full/file", BLOCK).await.expect("what fits is made");
    fits.close().await.expect("close");
}

pub(super) async fn other_tasks_run_during_create<E: Env>(world: &impl World<E>) {
    let disk = directory::<E>(world, "slices").await;
    let (turns, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let (count, until) = (turns.clone(), done.clone());
    E::spawn(async move {
        while !until.get() {
            count.set(count.get() + 1);
            E::yield_now().await;
        }
    });
    disk.create("slices/file", 4 << 20).await.expect("create");
    done.set(true);
    assert!(turns.get() >= 4, "another ready task had {} turns while four megabytes were zeroed", turns.get());
    disk.remove("slices/file").await.expect("remove");
}
