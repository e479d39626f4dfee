//! Tests of the whole log, on the real disk.
//!
//! Every test has a directory of its own below the target directory or /var/tmp, never in memory. A crash is a copy of the
//! directory: what the copy holds is what had been written by then.

mod basic;
mod cost;
mod damage;
mod faults;
mod faulty;
mod model;
mod recycle;
mod room;
mod table;

use super::*;
use crate::io::channel::oneshot;
use crate::io::uring::{DurableWrites, Uring, UringDisk, block_on};
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const OWNER: Owner = Owner { ring: 0xABCD, node: 2, incarnation: 77, shard: 3 };

/// Small, so that a test crosses segments with few bytes: 64 blocks, entries up to 24 KiB.
pub(super) const SMALL: WalConfig = WalConfig {
    segment_bytes: 64 * 4096,
    cache_bytes: 16 << 10,
    spare_segments: 2,
    stock_ahead: false,
    entry_bytes_max: 24 << 10,
};

/// A directory that goes away with its test.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let base = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("ringbeam-wal-{name}-{}-{unique}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a scratch directory can be made");
        Scratch(path)
    }
    pub fn disk(&self) -> UringDisk {
        UringDisk::new(self.0.clone(), DurableWrites::Dsync)
    }
    /// A copy of everything in it as it is now. A file renamed meanwhile is looked for again.
    pub fn copy(&self, name: &str) -> Scratch {
        loop {
            let copy = Scratch::new(name);
            let to = copy.0.join("log");
            std::fs::create_dir_all(&to).expect("a directory can be made");
            let names = self.names();
            let copied = names.iter().all(|name| std::fs::copy(self.file(name), to.join(name)).is_ok());
            if copied && names == self.names() {
                return copy;
            }
        }
    }
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join("log").join(name)
    }
    pub fn names(&self) -> Vec<String> {
        let list = std::fs::read_dir(self.0.join("log")).expect("the log's directory can be listed");
        let mut names: Vec<String> = list.map(|e| e.expect("listed").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).expect("the file can be read")
    }
    /// Overwrites bytes of a file in place.
    pub fn overwrite(&self, name: &str, offset: usize, bytes: &[u8]) {
        let file = std::fs::OpenOptions::new().write(true).open(self.file(name)).expect("the file is there");
        file.write_all_at(bytes, offset as u64).and_then(|()| file.sync_all()).expect("the file can be written");
    }
    /// Flips one bit.
    pub fn flip(&self, name: &str, offset: usize) {
        let byte = self.read(name)[offset];
        self.overwrite(name, offset, &[byte ^ 0x10]);
    }
    pub async fn open(&self, config: WalConfig) -> std::result::Result<Wal<Uring>, OpenError> {
        Wal::open(self.disk(), "log", OWNER, config).await
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn run(test: impl Future<Output = ()>) {
    block_on(test).expect("this machine has io_uring");
}

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId { term, leader: 1, index }
}

/// An entry whose payload tells term and index at every byte.
pub(super) fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let payload: Vec<u8> = (0..bytes).map(|at| (term * 31 + index * 7 + at as u64) as u8).collect();
    Entry { id: id(term, index), kind: (index % 5) as u8, payload: Bytes::from(payload) }
}

/// Starts something that calls back, and waits for the callback.
pub(super) async fn durable(start: impl FnOnce(Box<dyn FnOnce(Result<()>)>)) -> Result<()> {
    let (done, waiting) = oneshot::channel();
    start(Box::new(move |outcome| {
        let _ = done.send(outcome);
    }));
    waiting.await.unwrap_or_else(|_| Err(std::io::Error::other("the callback was dropped")))
}

pub(super) async fn append<E: Env>(wal: &Wal<E>, entries: Vec<Entry>) -> Result<()> {
    durable(|flushed| wal.append(entries, flushed)).await
}

pub(super) async fn all<E: Env>(wal: &Wal<E>) -> Vec<Entry> {
    wal.read(0..u64::MAX, usize::MAX).await.expect("the log can be read")
}

/// Waits until nothing is pending and no segment is to be made or freed.
pub(super) async fn until_idle<E: Env>(wal: &Wal<E>) {
    for _ in 0..400 {
        if wal.fault().is_some() || wal.0.idle() {
            return;
        }
        Uring::sleep(std::time::Duration::from_micros(500)).await;
    }
}
