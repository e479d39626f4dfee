//! Files of one data directory: O_DIRECT through io_uring, names through a helper thread.
//!
//! **Invariants**
//! - A file never grows and never changes its extents after `create`: its blocks are written once with zeros before anybody
//!   sees it. (Growing costs 4 ms a write through glommio here, and a block that was only reserved 60 µs a flush.)
//! - Every offset and length is a multiple of [`BLOCK_BYTES`]; a write ends inside the file.
//!
//! **Crash story of `create`**: room is reserved without changing the length, then zeros are appended in slices, then the
//! file is synced. If we stop on the way, a shorter file of whole zero blocks remains under the name: callers create under
//! a temporary name and rename.
//!
//! **Durable writes** have two ways (4 KiB, one in flight, medians of 3 to 5 runs; ext4, virtio, Linux 6.18, 2 cores):
//!
//! | | what it is | alone | 3 processes | beside one busy core |
//! |---|---|---|---|---|
//! | `Dsync` | one request through a second descriptor opened with O_DSYNC | 134 us | 172 us | 3,970 us |
//! | `Fdatasync` | a write, then an fdatasync | 158 us | 231 us | 117 us |
//!
//! O_DSYNC saves a hop, but its second half runs on a kernel worker bound to the core that took the interrupt: when that
//! core is busy, it may wait for the scheduler's tick. So `Adaptive`, the default, measures both and takes the quicker one; see
//! [`Adaptive`].
//!
//! **Not here**: caching, retries, or a second chance after an error.

use std::cell::Cell;
use std::fs;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use glommio::GlommioError;
use glommio::io::{DmaBuffer, DmaFile, OpenOptions};

use super::adaptive::{Adaptive, Way};
use super::{blocking, removal};
use crate::io::{BLOCK_BYTES, Disk, File};

/// Bytes zeroed in one piece by `create`: small enough that a log flush beside it waits well under a millisecond.
const ZERO_SLICE_BYTES: usize = 256 << 10;

/// Bytes read in one request. Far larger reads have been seen to wedge old kernels, and a read this long is already at the
/// disk's bandwidth.
const READ_SLICE_BYTES: usize = 256 << 10;

/// How a write becomes durable. All are equally durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DurableWrites {
    /// Whichever of the two is the faster one at the moment.
    #[default]
    Adaptive,
    /// One request through a descriptor opened with O_DSYNC.
    Dsync,
    /// A write, then an fdatasync.
    Fdatasync,
}

/// The files of one data directory. May be made outside an executor and sent to it.
#[derive(Clone, Debug)]
pub struct UringDisk {
    root: Arc<Path>,
    durable_writes: DurableWrites,
}

impl UringDisk {
    /// The directory `root`, which [`Disk::create_dir`] makes if need be.
    pub fn new(root: PathBuf, durable_writes: DurableWrites) -> Self {
        // glommio opens relative paths with system calls on the executor, so the root is made absolute here, once.
        let root = std::path::absolute(&root).unwrap_or(root);
        UringDisk { root: root.into(), durable_writes }
    }

    /// Full path of a name below the root.
    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || name.contains('\0') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("path {name:?} leaves the data directory: use a relative path without '..'"),
            ));
        }
        Ok(self.root.join(name))
    }

    async fn open_path(&self, path: PathBuf, bytes: u64) -> io::Result<UringFile> {
        let plain = open_direct(&path, 0).await?;
        let dsync = match self.durable_writes {
            DurableWrites::Adaptive | DurableWrites::Dsync => Some(open_direct(&path, libc::O_DSYNC).await?),
            DurableWrites::Fdatasync => None,
        };
        let adaptive = (self.durable_writes == DurableWrites::Adaptive).then(|| ADAPTIVE.with(Rc::clone));
        Ok(UringFile { inner: Rc::new(Descriptors { plain, dsync, bytes: Cell::new(bytes), path, adaptive }) })
    }
}

thread_local! {
    /// What this executor knows of the disk: a node has one, and all its files share what was learnt.
    static ADAPTIVE: Rc<Adaptive> = Rc::default();
}

async fn open_direct(path: &Path, flags: i32) -> io::Result<DmaFile> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).dma_open(path).await;
    // Only the source still has the kernel's number.
    file.map_err(|e| if let GlommioError::EnhancedIoError { source, .. } = e { source } else { e.into() })
        .map_err(|e| named(e, "open", path))
}

/// The error with what was tried and where; keeps its kind, where there is one.
fn named(error: io::Error, verb: &str, path: &Path) -> io::Error {
    let kind = match error.raw_os_error() {
        // Of the process, of the machine: connections may end.
        Some(libc::EMFILE | libc::ENFILE) => io::ErrorKind::QuotaExceeded,
        _ => error.kind(),
    };
    io::Error::new(kind, format!("{verb} {}: {error}", path.display()))
}

impl Disk for UringDisk {
    type File = UringFile;

    async fn create_dir(&self, dir: &str) -> io::Result<()> {
        let (root, path) = (self.root.clone(), self.path(dir)?);
        blocking(move || create_dir_durably(&root, &path)).await
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let path = self.path(dir)?;
        blocking(move || list_files(&path).map_err(|e| named(e, "list", &path))).await
    }

    async fn create(&self, path: &str, bytes: u64) -> io::Result<UringFile> {
        let path = self.path(path)?;
        if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("create {} with {bytes} bytes: must be a positive multiple of {BLOCK_BYTES}", path.display()),
            ));
        }
        create_zeroed(&path, bytes).await.map_err(|e| named(e, "create", &path))?;
        self.open_path(path, bytes).await
    }

    async fn reserve(&self, path: &str, bytes: u64) -> io::Result<UringFile> {
        let path = self.path(path)?;
        let reserved = path.clone();
        blocking(move || {
            match fs::remove_file(&reserved) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let file = reserve(&reserved, bytes)?;
            lengthen(&file, bytes)
        })
        .await
        .map_err(|e| named(e, "reserve", &path))?;
        self.open_path(path, bytes).await
    }

    async fn open(&self, path: &str) -> io::Result<UringFile> {
        let path = self.path(path)?;
        let measured = path.clone();
        let bytes = blocking(move || fs::metadata(&measured).map(|m| m.len())).await;
        let bytes = bytes.map_err(|e| named(e, "open", &path))?;
        if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("open {}: its length of {bytes} bytes is not whole blocks of {BLOCK_BYTES}", path.display()),
            ));
        }
        self.open_path(path, bytes).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        blocking(move || fs::rename(&from, &to).map_err(|e| named(e, "rename", &from))).await
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.path(path)?;
        removal::remove(&path).await.map_err(|e| named(e, "remove", &path))
    }

    async fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let path = self.path(dir)?;
        blocking(move || sync_directory(&path)).await
    }
}

/// A full fsync: whether fdatasync covers a directory's entries differs between file systems.
fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| named(e, "sync directory", path))
}

/// Makes `root` and then each directory down to `path`; syncs the parent of every one that was not there, or lies below the root: a
/// process that was killed may have made it, and not have synced its parent.
fn create_dir_durably(root: &Path, path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = path;
    while !at.is_dir() {
        missing.push(at);
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(named(e, "create directory", dir)),
        }
        sync_directory(dir.parent().unwrap_or(root))?;
    }
    for dir in path.ancestors().take_while(|dir| *dir != root && dir.starts_with(root)) {
        sync_directory(dir.parent().unwrap_or(root))?;
    }
    Ok(())
}

fn list_files(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        match entry.file_name().into_string() {
            Ok(name) => names.push(name),
            Err(name) => {
                let message = format!("file name {name:?} is not UTF-8; nothing of ours is called so, move it away");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Makes the file and writes its zeros, one slice a call to the helper thread, so that renames and syncs get in between.
/// Leaves nothing when it fails.
async fn create_zeroed(path: &Path, bytes: u64) -> io::Result<()> {
    let file = {
        let path = path.to_owned();
        blocking(move || reserve(&path, bytes)).await?
    };
    let zeroed = zero(Arc::new(file), bytes).await;
    if zeroed.is_err() {
        let path = path.to_owned();
        let _ = blocking(move || fs::remove_file(&path)).await;
    }
    zeroed
}

/// A new, empty file with room for `bytes` set aside, so that a full disk is noticed before anything is written.
fn reserve(path: &Path, bytes: u64) -> io::Result<fs::File> {
    let open = |flags| fs::OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(path);
    let file = match open(libc::O_DIRECT) {
        // In memory (tmpfs) there is nothing to be direct about; the host check has refused it unless told otherwise.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => open(0)?,
        other => other?,
    };
    let length = libc::off_t::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    // SAFETY: fallocate takes no pointers; `file` owns the descriptor for the whole call.
    let outcome = unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, length) };
    let error = if outcome == 0 { None } else { Some(io::Error::last_os_error()) };
    match error {
        // A file system without reservation: then the zeros themselves find out whether there is room.
        Some(e) if e.raw_os_error() != Some(libc::EOPNOTSUPP) => {
            let _ = fs::remove_file(path);
            Err(e)
        }
        _ => Ok(file),
    }
}

/// Reserves room and sets the length, in one step each.
fn lengthen(file: &fs::File, bytes: u64) -> io::Result<()> {
    let length = libc::off_t::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    // SAFETY: fallocate takes no pointers; `file` owns the descriptor for the whole call.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::EOPNOTSUPP) => file.set_len(bytes),
        e => Err(e),
    }
}

#[repr(align(4096))]
struct Zeros([u8; ZERO_SLICE_BYTES]);
static ZEROS: Zeros = Zeros([0; ZERO_SLICE_BYTES]);

async fn zero(file: Arc<fs::File>, bytes: u64) -> io::Result<()> {
    let mut offset = 0;
    while offset < bytes {
        let file = file.clone();
        let slice = usize::try_from(bytes - offset).map_or(ZERO_SLICE_BYTES, |left| left.min(ZERO_SLICE_BYTES));
        blocking(move || file.write_all_at(&ZEROS.0[..slice], offset)).await?;
        offset += slice as u64;
    }
    blocking(move || file.sync_all()).await
}

#[derive(Debug)]
struct Descriptors {
    plain: DmaFile,
    dsync: Option<DmaFile>,
    bytes: Cell<u64>,
    path: PathBuf,
    adaptive: Option<Rc<Adaptive>>,
}

/// An open file. Clones share the descriptors.
#[derive(Clone, Debug)]
pub struct UringFile {
    inner: Rc<Descriptors>,
}

impl UringFile {
    /// Asserts alignment, which is the caller's to keep, and refuses what does not lie inside the file.
    fn check(&self, offset: u64, bytes: usize) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "offset {offset} is not a multiple of {BLOCK_BYTES}");
        assert!(bytes.is_multiple_of(BLOCK_BYTES), "{bytes} bytes are not a multiple of {BLOCK_BYTES}");
        match offset.checked_add(bytes as u64) {
            Some(end) if end <= self.inner.bytes.get() => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{bytes} bytes at {offset} do not lie inside the file's {}", self.inner.bytes.get()),
            )),
        }
    }
}

async fn write_whole(file: &DmaFile, offset: u64, buffer: DmaBuffer) -> io::Result<()> {
    let bytes = buffer.len();
    let written = file.write_at(buffer, offset).await.map_err(io::Error::from)?;
    if written != bytes {
        let message = format!("the disk took {written} of {bytes} bytes at {offset}");
        return Err(io::Error::new(io::ErrorKind::WriteZero, message));
    }
    Ok(())
}

impl File for UringFile {
    type Buffer = UringBuffer;

    fn len(&self) -> u64 {
        self.inner.bytes.get()
    }

    async fn reserve(&self, bytes: u64) -> io::Result<()> {
        if bytes <= self.inner.bytes.get() {
            return Ok(());
        }
        let path = self.inner.path.clone();
        blocking(move || {
            let file = fs::OpenOptions::new().write(true).open(&path);
            file.and_then(|file| lengthen(&file, bytes)).map_err(|e| named(e, "lengthen", &path))
        })
        .await?;
        self.inner.bytes.set(bytes);
        Ok(())
    }

    fn buffer(&self, bytes: usize) -> UringBuffer {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES), "{bytes} bytes are not whole blocks");
        UringBuffer(self.inner.plain.alloc_dma_buffer(bytes))
    }

    async fn write_at(&self, offset: u64, buffer: UringBuffer) -> io::Result<()> {
        self.check(offset, buffer.len())?;
        write_whole(&self.inner.plain, offset, buffer.0).await
    }

    async fn write_durable_at(&self, offset: u64, buffer: UringBuffer) -> io::Result<()> {
        self.check(offset, buffer.len())?;
        let inner = &*self.inner;
        let way = match (&inner.adaptive, &inner.dsync) {
            (Some(adaptive), _) => adaptive.way(),
            (None, Some(_)) => Way::Dsync,
            (None, None) => Way::Fdatasync,
        };
        let began = Instant::now();
        match &inner.dsync {
            Some(dsync) if way == Way::Dsync => write_whole(dsync, offset, buffer.0).await?,
            _ => {
                write_whole(&inner.plain, offset, buffer.0).await?;
                self.sync().await?;
            }
        }
        if let Some(adaptive) = &inner.adaptive {
            adaptive.took(way, began.elapsed());
        }
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        self.inner.plain.fdatasync().await.map_err(io::Error::from)
    }

    async fn read_at(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.check(offset, bytes)?;
        let mut read = Vec::with_capacity(bytes);
        while read.len() < bytes {
            let slice = (bytes - read.len()).min(READ_SLICE_BYTES);
            let at = offset + read.len() as u64;
            let piece = self.inner.plain.read_at_aligned(at, slice).await.map_err(io::Error::from)?;
            if piece.len() != slice {
                let message = format!("the file ended at {}, it had {} bytes", at + piece.len() as u64, self.inner.bytes.get());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            read.extend_from_slice(&piece);
        }
        Ok(read)
    }

    async fn close(self) -> io::Result<()> {
        let Ok(descriptors) = Rc::try_unwrap(self.inner) else {
            return Ok(()); // another clone still uses them
        };
        descriptors.plain.close().await.map_err(io::Error::from)?;
        match descriptors.dsync {
            Some(dsync) => dsync.close().await.map_err(io::Error::from),
            None => Ok(()),
        }
    }
}

/// Memory that the disk writes from without a copy: aligned, and registered with the ring while there is room.
#[derive(Debug)]
pub struct UringBuffer(DmaBuffer);

impl Deref for UringBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl DerefMut for UringBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}
