//! One host's disk: directories, what each operation takes, and what a crash makes of it. It outlives the host's processes.
//!
//! ```text
//!   directory   names as programs see them      names on the medium      operations between the two, in order
//!   shard-0     a, c                            a, b                     create c, remove b
//!               a crash keeps some of the first operations, none of the others; sync_dir keeps all so far
//! ```
//! The content of files is in [`super::inode`].
//!
//! **Not simulated**: directories that vanish (they are made durably), renames between directories (nobody asks for one).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut};
use std::rc::{Rc, Weak};

use super::executor::with_current;
use super::inode::{Covered, Inode};
use super::random::Random;
use super::sleep::SimSleep;
use super::trace::Fault;
use super::world::{HostId, Inner};
use crate::io::{BLOCK_BYTES, Disk, File};

type Node = Rc<RefCell<Inode>>;

/// How a disk behaves. May change at any time.
#[derive(Clone, Copy, Debug)]
pub struct DiskSettings {
    /// A write that is its own sync, or a sync: nanoseconds, from and to.
    pub durable_ns: (u64, u64),
    /// A plain write or a read.
    pub access_ns: (u64, u64),
    /// Something with names.
    pub name_ns: (u64, u64),
    /// Added for each KiB.
    pub kib_ns: u64,
    /// Everything takes this many times longer.
    pub slowness: u64,
    /// Bytes that fit.
    pub capacity: u64,
    /// Durable writes and syncs that fail, of a million.
    pub sync_failure_ppm: u64,
    /// Durable writes and syncs that say so and are not, of a million. No ring survives that: it shows that a checker notices.
    pub lies_ppm: u64,
    /// Unsynced blocks that land a few blocks from their place at a power loss, of a million. Beyond what `File` promises.
    pub misplace_ppm: u64,
}

impl Default for DiskSettings {
    fn default() -> Self {
        DiskSettings {
            durable_ns: (100_000, 500_000),
            access_ns: (30_000, 120_000),
            name_ns: (30_000, 300_000),
            kib_ns: 1_000,
            slowness: 1,
            capacity: u64::MAX,
            sync_failure_ppm: 0,
            lies_ppm: 0,
            misplace_ppm: 0,
        }
    }
}

#[derive(Debug)]
enum NameChange {
    Made(String, Node),
    Removed(String),
    Renamed(String, String),
}

#[derive(Debug, Default)]
struct Directory {
    seen: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    changes: VecDeque<NameChange>,
    /// Changes that are durable, counted from the beginning.
    settled: u64,
}

impl Directory {
    fn change(&mut self, change: NameChange) {
        apply(&mut self.seen, &change);
        self.changes.push_back(change);
    }

    fn made(&self) -> u64 {
        self.settled + self.changes.len() as u64
    }

    /// The first changes, up to `made` in all, become durable.
    fn settle(&mut self, made: u64) {
        while self.settled < made {
            let Some(change) = self.changes.pop_front() else { break };
            apply(&mut self.durable, &change);
            self.settled += 1;
        }
    }
}

fn apply(names: &mut BTreeMap<String, Node>, change: &NameChange) {
    match change {
        NameChange::Made(name, node) => {
            names.insert(name.clone(), node.clone());
        }
        NameChange::Removed(name) => {
            names.remove(name);
        }
        NameChange::Renamed(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

/// The disk of one host. Clones are handles to it.
#[derive(Clone)]
pub struct SimDisk(Rc<Device>);

struct Device {
    world: Weak<Inner>,
    host: HostId,
    settings: Cell<DiskSettings>,
    random: RefCell<Random>,
    directories: RefCell<BTreeMap<String, Directory>>,
    writes: Cell<u64>,
    failures_ahead: Cell<u64>,
    /// A sync of a file has failed once.
    has_failed: Cell<bool>,
}

fn error(kind: ErrorKind, verb: &str, path: &str, why: &str) -> io::Error {
    io::Error::new(kind, format!("{verb} {path}: {why}"))
}

/// The path without empty and `.` parts, or why it is none.
fn clean(path: &str) -> io::Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if path.starts_with('/') || parts.contains(&"..") || path.contains('\0') {
        return Err(error(ErrorKind::InvalidInput, "path", path, "leaves the data directory"));
    }
    Ok(parts.join("/"))
}

/// Directory and name of a file's path.
fn split(path: &str) -> io::Result<(String, String)> {
    let path = clean(path)?;
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
    Ok((dir.to_string(), name.to_string()))
}

impl SimDisk {
    pub(super) fn new(world: Weak<Inner>, host: HostId, random: Random) -> SimDisk {
        let directories = RefCell::new(BTreeMap::from([(String::new(), Directory::default())]));
        SimDisk(Rc::new(Device {
            world,
            host,
            settings: Cell::default(),
            random: RefCell::new(random),
            directories,
            writes: Cell::new(0),
            failures_ahead: Cell::new(0),
            has_failed: Cell::new(false),
        }))
    }

    // ---- faults and looks, from outside ----

    /// How it behaves now.
    pub fn settings(&self) -> DiskSettings {
        self.0.settings.get()
    }

    /// From now on it behaves so.
    pub fn set(&self, change: impl FnOnce(&mut DiskSettings)) {
        let mut settings = self.0.settings.get();
        let before = settings;
        change(&mut settings);
        self.0.settings.set(settings);
        if settings.slowness > before.slowness {
            self.count(Fault::SlowDisk);
        }
    }

    /// The next `count` durable writes or syncs fail.
    pub fn fail_syncs(&self, count: u64) {
        self.0.failures_ahead.set(count);
    }

    /// Bytes in use: of every file that has a name, and of no other.
    pub fn used(&self) -> u64 {
        self.0.directories.borrow().values().flat_map(|dir| dir.seen.values()).map(|node| node.borrow().reserved).sum()
    }

    /// Every file's path, in order.
    pub fn paths(&self) -> Vec<String> {
        let directories = self.0.directories.borrow();
        let path = |dir: &str, name: &str| if dir.is_empty() { name.to_string() } else { format!("{dir}/{name}") };
        directories.iter().flat_map(|(dir, d)| d.seen.keys().map(move |name| path(dir, name))).collect()
    }

    /// Blocks of a file whose bytes are durable and were not written again since.
    pub fn settled_blocks(&self, path: &str) -> Vec<u64> {
        self.node(path).map(|node| node.borrow().settled_blocks()).unwrap_or_default()
    }

    /// Files of this process with bytes that a failed sync has left behind: nothing will make them durable.
    pub fn doomed_files(&self) -> Vec<String> {
        if !self.0.has_failed.get() {
            return Vec::new();
        }
        let doomed = |path: &String| self.node(path).is_ok_and(|node| node.borrow().is_doomed());
        self.paths().into_iter().filter(doomed).collect()
    }

    /// Blocks that no sync covers yet, of the file that has most of them, of those with this in their path.
    pub fn unsynced_blocks(&self, part: &str) -> usize {
        let directories = self.0.directories.borrow();
        let files = directories.iter().flat_map(|(dir, d)| d.seen.iter().map(move |(name, node)| (dir, name, node)));
        let named = files.filter(|(dir, name, _)| dir.contains(part) || name.contains(part));
        named.map(|(_, _, node)| node.borrow().dirty_blocks()).max().unwrap_or(0)
    }

    /// Bit rot: flips a bit of a block. False when there is no such file, or nothing was ever written there. Whether the ring
    /// has promised to survive it is the caller's to know.
    pub fn flip_bit(&self, path: &str, block: u64, bit: u64) -> bool {
        let flipped = self.node(path).is_ok_and(|node| node.borrow_mut().flip(block, bit));
        if flipped {
            self.count(Fault::Rot);
            self.tell(|| format!("bit {bit} of block {block} of {path} flips"));
        }
        flipped
    }

    /// Somebody else has written this block, durably.
    pub fn put_block(&self, path: &str, block: u64, bytes: &[u8]) -> bool {
        self.node(path).is_ok_and(|node| node.borrow_mut().put(block, bytes))
    }

    /// The bytes of a file as a program would read them now.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let node = self.node(path).ok()?;
        let node = node.borrow();
        Some(node.read(0, node.bytes() as usize))
    }

    /// Empties the disk: another one was put in.
    pub fn replace(&self) {
        *self.0.directories.borrow_mut() = BTreeMap::from([(String::new(), Directory::default())]);
    }

    /// After a kill: gives a digest of what was decided.
    pub(super) fn settle_kill(&self) -> u64 {
        let mut random = self.0.random.borrow_mut();
        for directory in self.0.directories.borrow().values() {
            directory.seen.values().for_each(|node| node.borrow_mut().settle_kill(&mut random));
        }
        random.bits()
    }

    /// After a power loss: only what the medium has is left.
    pub(super) fn settle_power_loss(&self) -> u64 {
        let mut random = self.0.random.borrow_mut();
        let misplace_ppm = self.settings().misplace_ppm;
        for directory in self.0.directories.borrow_mut().values_mut() {
            let kept = random.below(directory.changes.len() as u64 + 1);
            if kept < directory.changes.len() as u64 {
                self.count(Fault::LostName);
            }
            directory.settle(directory.settled + kept);
            directory.changes.clear();
            directory.seen = directory.durable.clone();
            for node in directory.seen.values() {
                node.borrow_mut().settle_power_loss(&mut random, misplace_ppm, |fault| self.count(fault));
            }
        }
        random.bits()
    }

    fn count(&self, fault: Fault) {
        if let Some(world) = self.0.world.upgrade() {
            world.trace.count(fault);
        }
    }

    fn tell(&self, line: impl FnOnce() -> String) {
        if let Some(world) = self.0.world.upgrade() {
            world.tell(|| format!("{}: {}", world.host(self.0.host).name, line()));
        }
    }

    // ---- operations ----

    fn node(&self, path: &str) -> io::Result<Node> {
        let (dir, name) = split(path)?;
        let directories = self.0.directories.borrow();
        let found = directories.get(&dir).and_then(|dir| dir.seen.get(&name));
        found.cloned().ok_or_else(|| error(ErrorKind::NotFound, "open", path, "no such file"))
    }

    fn file(&self, node: Node) -> SimFile {
        let bytes = Rc::new(Cell::new(node.borrow().bytes()));
        SimFile { device: self.clone(), node, bytes }
    }

    fn with_directory<T>(&self, dir: &str, change: impl FnOnce(&mut Directory) -> T) -> io::Result<T> {
        let mut directories = self.0.directories.borrow_mut();
        let found = directories.get_mut(dir).ok_or_else(|| error(ErrorKind::NotFound, "open", dir, "no such directory"))?;
        Ok(change(found))
    }

    /// What an operation takes.
    fn takes(&self, base: (u64, u64), bytes: usize) -> SimSleep {
        debug_assert!(with_current(|p| p.host == self.0.host), "a process uses the disk of its host");
        let settings = self.settings();
        let ns = self.0.random.borrow_mut().between(base) + (bytes as u64 / 1024) * settings.kib_ns;
        SimSleep::world(ns * settings.slowness)
    }

    async fn name_time(&self) {
        self.takes(self.settings().name_ns, 0).await;
    }

    fn sync_fails(&self) -> bool {
        let ahead = self.0.failures_ahead.get();
        self.0.failures_ahead.set(ahead.saturating_sub(1));
        let ppm = self.settings().sync_failure_ppm;
        ahead > 0 || (ppm > 0 && self.0.random.borrow_mut().chance(ppm))
    }

    /// Makes durable what `covered` says, unless the disk fails.
    fn finish_sync(&self, node: &Node, covered: &Covered) -> io::Result<()> {
        if self.sync_fails() {
            node.borrow_mut().fail(covered, &mut self.0.random.borrow_mut());
            self.0.has_failed.set(true);
            self.count(Fault::SyncFailure);
            self.tell(|| "a sync fails".to_string());
            return Err(io::Error::other("the simulated disk failed to sync"));
        }
        let ppm = self.settings().lies_ppm;
        if ppm == 0 || !self.0.random.borrow_mut().chance(ppm) {
            node.borrow_mut().make_durable(covered);
        }
        Ok(())
    }

    fn room_for(&self, bytes: u64, path: &str) -> io::Result<()> {
        if self.used().saturating_add(bytes) <= self.settings().capacity {
            return Ok(());
        }
        self.count(Fault::FullDisk);
        Err(error(ErrorKind::StorageFull, "create", path, "no room on the simulated disk"))
    }

    /// Gives `path` a new, empty file.
    fn make(&self, path: &str, reserved: u64) -> io::Result<Node> {
        let (dir, name) = split(path)?;
        self.with_directory(&dir, |_| ())?;
        self.room_for(reserved, path)?;
        let node = Rc::new(RefCell::new(Inode::with_room(reserved)));
        self.with_directory(&dir, |d| d.change(NameChange::Made(name, node.clone())))?;
        Ok(node)
    }
}

/// Bytes zeroed in one piece by `create`.
const ZERO_SLICE_BYTES: u64 = 256 << 10;

impl Disk for SimDisk {
    type File = SimFile;

    async fn create_dir(&self, dir: &str) -> io::Result<()> {
        let dir = clean(dir)?;
        self.name_time().await;
        let ends = || dir.match_indices('/').map(|(at, _)| at).chain([dir.len()]);
        let new = ends().filter(|end| !self.0.directories.borrow().contains_key(&dir[..*end])).count();
        // A directory takes no room here, but there has to be a block for it.
        if new > 0 {
            self.room_for((new * BLOCK_BYTES) as u64, &dir)?;
        }
        let mut directories = self.0.directories.borrow_mut();
        for end in ends() {
            directories.entry(dir[..end].to_string()).or_default();
        }
        Ok(())
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let dir = clean(dir)?;
        self.name_time().await;
        self.with_directory(&dir, |d| d.seen.keys().cloned().collect())
    }

    async fn create(&self, path: &str, bytes: u64) -> io::Result<SimFile> {
        let (dir, name) = split(path)?;
        if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(error(ErrorKind::InvalidInput, "create", path, "its length must be a positive number of blocks"));
        }
        self.name_time().await;
        if self.with_directory(&dir, |d| d.seen.contains_key(&name))? {
            return Err(error(ErrorKind::AlreadyExists, "create", path, "the name is taken"));
        }
        let node = self.make(path, bytes)?;
        while node.borrow().bytes() < bytes {
            let slice = ZERO_SLICE_BYTES.min(bytes - node.borrow().bytes());
            self.takes((0, 0), slice as usize).await;
            let written = node.borrow().bytes() + slice;
            node.borrow_mut().lengthen(written);
        }
        let covered = node.borrow().covered();
        self.takes(self.settings().durable_ns, 0).await;
        if let Err(failed) = self.finish_sync(&node, &covered) {
            self.with_directory(&dir, |d| d.change(NameChange::Removed(name)))?;
            return Err(failed);
        }
        Ok(self.file(node))
    }

    async fn reserve(&self, path: &str, bytes: u64) -> io::Result<SimFile> {
        let (dir, name) = split(path)?;
        self.name_time().await;
        if self.with_directory(&dir, |d| d.seen.contains_key(&name))? {
            self.with_directory(&dir, |d| d.change(NameChange::Removed(name)))?;
        }
        let node = self.make(path, bytes)?;
        node.borrow_mut().lengthen(bytes);
        Ok(self.file(node))
    }

    async fn open(&self, path: &str) -> io::Result<SimFile> {
        split(path)?;
        self.name_time().await;
        let node = self.node(path)?;
        if node.borrow().bytes() == 0 {
            return Err(error(ErrorKind::InvalidData, "open", path, "it has no block"));
        }
        Ok(self.file(node))
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let ((from_dir, old), (to_dir, new)) = (split(from)?, split(to)?);
        if from_dir != to_dir {
            return Err(error(ErrorKind::Unsupported, "rename", from, "to another directory is not simulated"));
        }
        // The change may be seen, or survive a crash, before the caller hears of it.
        self.node(from)?;
        self.with_directory(&from_dir, |d| d.change(NameChange::Renamed(old, new)))?;
        self.name_time().await;
        Ok(())
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        let (dir, name) = split(path)?;
        self.node(path)?;
        self.with_directory(&dir, |d| d.change(NameChange::Removed(name)))?;
        self.name_time().await;
        Ok(())
    }

    async fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let dir = clean(dir)?;
        let made = self.with_directory(&dir, |d| d.made())?;
        self.takes(self.settings().durable_ns, 0).await;
        if self.sync_fails() {
            self.count(Fault::SyncFailure);
            return Err(io::Error::other("the simulated disk failed to sync a directory"));
        }
        self.with_directory(&dir, |d| d.settle(made))
    }
}

/// An open file.
#[derive(Clone)]
pub struct SimFile {
    device: SimDisk,
    node: Node,
    /// As at opening, and as lengthened by this handle or its clones.
    bytes: Rc<Cell<u64>>,
}

impl SimFile {
    fn check(&self, offset: u64, bytes: usize) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "offset {offset} is not a multiple of {BLOCK_BYTES}");
        assert!(bytes.is_multiple_of(BLOCK_BYTES), "{bytes} bytes are not a multiple of {BLOCK_BYTES}");
        match offset.checked_add(bytes as u64) {
            Some(end) if end <= self.bytes.get() => Ok(()),
            _ => Err(io::Error::new(ErrorKind::UnexpectedEof, format!("{bytes} bytes at {offset} are beyond the end"))),
        }
    }

    /// The write's number; it may be seen from now on.
    fn begin(&self, offset: u64, data: &[u8]) -> u64 {
        let write = self.device.0.writes.get() + 1;
        self.device.0.writes.set(write);
        self.node.borrow_mut().begin_write(write, offset, data);
        write
    }
}

impl File for SimFile {
    type Buffer = SimBuffer;

    fn len(&self) -> u64 {
        self.bytes.get()
    }

    async fn reserve(&self, bytes: u64) -> io::Result<()> {
        let has = self.bytes.get();
        if bytes <= has {
            return Ok(());
        }
        self.device.name_time().await;
        self.device.room_for(bytes - has, "a longer file")?;
        self.node.borrow_mut().lengthen(bytes);
        self.bytes.set(bytes);
        Ok(())
    }

    fn buffer(&self, bytes: usize) -> SimBuffer {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES), "{bytes} bytes are not whole blocks");
        // What is in it is unspecified, so it is never what anybody wants.
        SimBuffer(vec![0xA5; bytes])
    }

    async fn write_at(&self, offset: u64, buffer: SimBuffer) -> io::Result<()> {
        self.check(offset, buffer.len())?;
        let (write, blocks) = (self.begin(offset, &buffer), (buffer.len() / BLOCK_BYTES) as u64);
        self.device.takes(self.device.settings().access_ns, buffer.len()).await;
        self.node.borrow_mut().end_write(write, offset, blocks);
        Ok(())
    }

    async fn write_durable_at(&self, offset: u64, buffer: SimBuffer) -> io::Result<()> {
        self.check(offset, buffer.len())?;
        let (write, blocks) = (self.begin(offset, &buffer), (buffer.len() / BLOCK_BYTES) as u64);
        self.device.takes(self.device.settings().durable_ns, buffer.len()).await;
        let mut node = self.node.borrow_mut();
        node.end_write(write, offset, blocks);
        let covered = node.covered_by_write(write, offset, blocks);
        drop(node);
        self.device.finish_sync(&self.node, &covered)
    }

    async fn sync(&self) -> io::Result<()> {
        let covered = self.node.borrow().covered();
        self.device.takes(self.device.settings().durable_ns, 0).await;
        self.device.finish_sync(&self.node, &covered)
    }

    async fn read_at(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.check(offset, bytes)?;
        self.device.takes(self.device.settings().access_ns, bytes).await;
        Ok(self.node.borrow().read(offset, bytes))
    }

    async fn close(self) -> io::Result<()> {
        Ok(())
    }
}

/// Memory that is written to the simulated disk.
#[derive(Debug)]
pub struct SimBuffer(Vec<u8>);

impl Deref for SimBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for SimBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
