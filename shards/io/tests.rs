//! The conformance suite over the real world.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::conformance::{self, World};
use super::uring::{
    ConnectionLimits, DurableWrites, Executors, Listeners, Port, RunError, Sockets, StopFlag, Uring, UringDisk, UringNet,
    available_cores, run,
};
use super::{Disk, PreambleBytes};

#[path = "../../tests/ring/skip.rs"]
mod skip;

/// A directory on a real disk, gone when the test ends.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new(name: &str) -> Directory {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/var/tmp/ringbeam-io-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Directory(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file system of one megabyte in memory, for the tests of a full disk.
struct SmallDisk(Directory);

impl SmallDisk {
    /// `None`, said by the name of the check that needs it, where this process may not mount.
    fn new() -> Option<SmallDisk> {
        let directory = Directory::new("small");
        let target = std::ffi::CString::new(directory.path().as_os_str().as_encoded_bytes()).expect("no zero byte");
        // SAFETY: all pointers lead to strings that end with a zero byte and live across the call.
        let outcome =
            unsafe { libc::mount(c"none".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=1m".as_ptr().cast()) };
        if outcome != 0 {
            let why = format!("no small disk can be mounted: {}", io::Error::last_os_error());
            skip::skipped("full_disk_refuses_and_keeps_nothing", skip::Need::Mounts, &why);
            return None;
        }
        Some(SmallDisk(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let target = std::ffi::CString::new(self.0.path().as_os_str().as_encoded_bytes()).expect("no zero byte");
        // SAFETY: the pointer leads to a string that ends with a zero byte and lives across the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Preambles of these tests: "TEST", the shard, a tag.
pub(super) fn preamble(shard: u8, tag: u8) -> PreambleBytes {
    let mut bytes = *b"TEST............";
    (bytes[4], bytes[5]) = (shard, tag);
    bytes
}

pub(super) fn route(port: Port, preamble: &PreambleBytes) -> Option<u32> {
    (port == Port::Client && preamble.starts_with(b"TEST")).then(|| preamble[4].into())
}

pub(super) fn loopback() -> Listeners {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Listeners { client: any, peer: any }
}

/// Two executors, on one core if there is only one.
pub(super) fn two_executors() -> Executors {
    let cores = available_cores();
    Executors { cores: vec![cores[0], cores[cores.len() - 1]], pin: false, io_memory_bytes: 64 << 10 }
}

struct Real {
    directory: PathBuf,
    small: Option<PathBuf>,
    durable_writes: DurableWrites,
    net: UringNet,
    addresses: Listeners,
}

impl World<Uring> for Real {
    fn disk(&self) -> UringDisk {
        UringDisk::new(self.directory.clone(), self.durable_writes)
    }
    fn small_disk(&self) -> Option<UringDisk> {
        self.small.clone().map(|path| UringDisk::new(path, self.durable_writes))
    }
    fn net(&self) -> UringNet {
        self.net.clone()
    }
    fn address(&self) -> String {
        self.addresses.client.to_string()
    }
    fn silent_address(&self) -> String {
        "127.0.0.1:1".into()
    }
    fn preamble(&self, tag: u8) -> PreambleBytes {
        preamble(1, tag)
    }
}

/// Runs the suite in shard 1 of 2, on the second of two executors: half of its connections are handed over to it.
fn real_world_keeps_every_promise(durable_writes: DurableWrites) {
    let directory = Directory::new("conformance");
    let small = SmallDisk::new();
    let executors = two_executors();
    let sockets = Sockets::bind(&loopback(), executors.cores.len()).expect("loopback ports");
    let addresses = sockets.addresses();
    let stop = StopFlag::new();
    let (path, small) = (directory.path().to_owned(), small.as_ref().map(|s| s.0.path().to_owned()));
    let over = stop.clone();
    let outcome = run(&executors, sockets, ConnectionLimits::default(), route, 2, &stop, move |shard, net| {
        let (directory, small, over) = (path.clone(), small.clone(), over.clone());
        async move {
            if shard == 0 {
                super::Net::stopping(&net).await;
                super::Net::close(&net);
                assert!(super::Net::accept(&net).await.is_none(), "nothing is for shard 0, and nothing comes after the close");
                return Ok(());
            }
            let world = Real { directory, small, durable_writes, net, addresses };
            let names = conformance::all::<Uring>(&world).await;
            println!("{} promises kept", names.len());
            over.stop();
            super::Net::stopping(&world.net).await;
            Ok::<(), RunError>(())
        }
    });
    outcome.expect("every promise is kept");
    assert!(stop.is_stopped());
}

#[test]
fn real_world_keeps_every_promise_with_adaptive_writes() {
    real_world_keeps_every_promise(DurableWrites::Adaptive);
}

#[test]
fn real_world_keeps_every_promise_with_dsync() {
    real_world_keeps_every_promise(DurableWrites::Dsync);
}

#[test]
fn real_world_keeps_every_promise_with_fdatasync() {
    real_world_keeps_every_promise(DurableWrites::Fdatasync);
}

#[test]
fn directory_is_made_with_its_parents() {
    let directory = Directory::new("parents");
    let root = directory.path().join("not/there/yet");
    let disk = UringDisk::new(root.clone(), DurableWrites::default());
    super::uring::block_on(async move { disk.create_dir("wal").await.expect("create_dir") }).expect("executor");
    assert!(root.join("wal").is_dir());
}
