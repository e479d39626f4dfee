//! Before anything starts: can this machine keep the promises, and is the data directory ours alone?
//!
//! Each problem is one sentence with what was found and what to do about it. Nothing falls back to something weaker by
//! itself; `allow_volatile` is the one switch, and it is for tests.
//!
//! **Not here**: how fast the disk is (that is the doctor's).

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::io::BLOCK_BYTES;

/// Least RLIMIT_MEMLOCK with which an executor's rings can be made.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Registered memory that an executor gets at most: a few full flushes. More would be locked for nothing.
const IO_MEMORY_BYTES_MAX: u64 = 1 << 20;

/// Name of the lock file in a data directory.
const LOCK_FILE: &str = "LOCK";

/// What this machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport {
    /// Type of the file system below the data directory.
    pub file_system: String,
    /// Whether what is written there survives a restart of the machine.
    pub durable: bool,
    /// Memory that may be locked, in bytes; `u64::MAX` for no limit.
    pub memlock_bytes: u64,
    /// Descriptors that may be open, after the limit has been raised as far as it goes.
    pub descriptors: u64,
}

/// Why this machine cannot run a node, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostProblem(String);

impl fmt::Display for HostProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for HostProblem {}

/// Checks everything that a node with its data in `dir` (which must exist) needs; raises the limit of open descriptors.
/// With `allow_volatile`, a file system in memory or of a container passes; without, it is refused.
pub fn check_host(dir: &Path, allow_volatile: bool) -> Result<HostReport, HostProblem> {
    check_io_uring()?;
    let memlock_bytes = check_memlock()?;
    let (file_system, durable) = file_system(dir)?;
    if !durable && !allow_volatile {
        return Err(HostProblem(format!(
            "{} is on {file_system}, which does not survive a restart of the machine or container: move the data directory \
             to a real disk, or, for tests only, set node.allow_volatile_disk = true",
            dir.display()
        )));
    }
    if durable || file_system != "tmpfs" {
        check_direct(dir, &file_system)?;
    }
    Ok(HostReport { file_system, durable, memlock_bytes, descriptors: raise_descriptors()? })
}

/// Where the kernel tells its features in `struct io_uring_params`, in words, and the one that an executor sleeps by.
const FEATURES_AT: usize = 5;
const FEATURE_EXT_ARG: u32 = 1 << 8;

fn check_io_uring() -> Result<(), HostProblem> {
    // struct io_uring_params is 120 bytes, all of which may be zero on the way in.
    let mut parameters = [0u32; 30];
    // SAFETY: the pointer leads to 120 writable bytes, which is what the call reads and fills.
    let outcome = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
    if let Ok(descriptor) = i32::try_from(outcome)
        && descriptor >= 0
    {
        // SAFETY: the call has just made this descriptor and nobody else knows it.
        drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
        if parameters[FEATURES_AT] & FEATURE_EXT_ARG == 0 {
            let why = "this kernel's io_uring cannot wait with a timeout: use Linux 5.11 or newer";
            return Err(HostProblem(why.to_string()));
        }
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let advice = match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel has no io_uring (or a sandbox hides it): use Linux 5.11 or newer",
        Some(libc::EPERM) => {
            "io_uring is forbidden: set the sysctl kernel.io_uring_disabled=0, and in a container use a seccomp profile \
             that allows io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::ENOMEM) => "the kernel cannot lock memory for a ring: raise RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=)",
        _ => "io_uring does not work here",
    };
    Err(HostProblem(format!("{advice} (io_uring_setup: {error})")))
}

fn limit(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives across the call, which fills it.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

fn check_memlock() -> Result<u64, HostProblem> {
    let limit = limit(libc::RLIMIT_MEMLOCK).map_err(|e| HostProblem(format!("cannot read RLIMIT_MEMLOCK: {e}")))?;
    if limit.rlim_cur < MEMLOCK_BYTES_MIN {
        return Err(HostProblem(format!(
            "RLIMIT_MEMLOCK is {} bytes, but io_uring needs at least {MEMLOCK_BYTES_MIN}: raise it with `ulimit -l 8192` or \
             in the systemd unit with LimitMEMLOCK=8M",
            limit.rlim_cur
        )));
    }
    Ok(limit.rlim_cur)
}

/// Memory each of `executors` can register: it counts once for each of three rings, and half of the limit stays free.
pub(crate) fn io_memory_bytes(executors: usize) -> usize {
    let memlock = limit(libc::RLIMIT_MEMLOCK).map_or(0, |l| l.rlim_cur);
    let share = memlock / (6 * executors.max(1) as u64);
    usize::try_from(share.clamp(64 << 10, IO_MEMORY_BYTES_MAX)).unwrap_or(64 << 10)
}

fn raise_descriptors() -> Result<u64, HostProblem> {
    let problem = |e: io::Error| HostProblem(format!("cannot raise the limit of open descriptors (RLIMIT_NOFILE): {e}"));
    let mut limit = limit(libc::RLIMIT_NOFILE).map_err(problem)?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is a filled structure that lives across the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(problem(io::Error::last_os_error()));
        }
    }
    Ok(limit.rlim_cur)
}

/// The type of the file system, and whether it keeps what is written to it.
fn file_system(dir: &Path) -> Result<(String, bool), HostProblem> {
    let problem = |e: &dyn fmt::Display| HostProblem(format!("cannot look at the file system of {}: {e}", dir.display()));
    let path = CString::new(dir.as_os_str().as_bytes()).map_err(|e| problem(&e))?;
    // SAFETY: an all-zero statfs is a valid value; `path` ends with a zero byte, and both live across the call.
    let (outcome, status) = unsafe {
        let mut status: libc::statfs = std::mem::zeroed();
        (libc::statfs(path.as_ptr(), &raw mut status), status)
    };
    if outcome != 0 {
        return Err(problem(&io::Error::last_os_error()));
    }
    Ok(match status.f_type {
        libc::TMPFS_MAGIC => ("tmpfs".into(), false),
        RAMFS_MAGIC => ("ramfs".into(), false),
        libc::OVERLAYFS_SUPER_MAGIC => ("overlayfs".into(), false),
        libc::EXT4_SUPER_MAGIC => ("ext4".into(), true),
        libc::XFS_SUPER_MAGIC => ("xfs".into(), true),
        libc::BTRFS_SUPER_MAGIC => ("btrfs".into(), true),
        other => (format!("file system {other:#x}"), true),
    })
}

const RAMFS_MAGIC: libc::__fsword_t = 0x8584_58f6;

#[repr(align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// Writes a block past the page cache and reads it back: what the log does all the time must work once. A disk that has no
/// block left has at least opened the file: the node that comes back on it can read, vote and say that it is full.
fn check_direct(dir: &Path, file_system: &str) -> Result<(), HostProblem> {
    let path = dir.join(format!(".direct-{}", std::process::id()));
    let probed = probe_direct(&path);
    let _ = fs::remove_file(&path);
    probed.map_err(|e| {
        let advice = match e.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "this user must be able to write there",
            io::ErrorKind::StorageFull => "the disk is full: free some space",
            _ => "the log needs O_DIRECT: use ext4 or xfs on a local disk",
        };
        HostProblem(format!("cannot write directly to {} ({file_system}): {e}; {advice}", dir.display()))
    })
}

fn probe_direct(path: &Path) -> io::Result<()> {
    let file =
        fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(path)?;
    let written = Box::new(Block([0x5a; BLOCK_BYTES]));
    match file.write_all_at(&written.0, 0) {
        Err(e) if e.kind() == io::ErrorKind::StorageFull => {
            tracing::warn!(path = %path.display(), "the disk is full: nothing can be written to try it");
            return Ok(());
        }
        written => written?,
    }
    file.sync_data()?;
    let mut read = Box::new(Block([0; BLOCK_BYTES]));
    file.read_exact_at(&mut read.0, 0)?;
    if read.0 != written.0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the block read back is not the block written"));
    }
    Ok(())
}

/// The data directory, held by this process alone until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    _file: fs::File,
    path: PathBuf,
}

impl DirLock {
    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes `dir` (which must exist) for this process. Two nodes on one directory would destroy its log.
pub fn lock_dir(dir: &Path) -> Result<DirLock, HostProblem> {
    let path = dir.join(LOCK_FILE);
    let problem = |e: io::Error| HostProblem(format!("cannot lock the data directory by {}: {e}", path.display()));
    let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(problem)?;
    // SAFETY: flock takes no pointers; `file` owns the descriptor.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(problem(error));
        }
        // The holder may be between taking the lock and writing its id; then we do not know it.
        let mut holder = String::new();
        let _ = file.take(32).read_to_string(&mut holder);
        let holder = holder.trim().parse::<u32>().map_or("another process".into(), |pid| format!("process {pid}"));
        return Err(HostProblem(format!(
            "the data directory {} is in use by {holder}: stop it first, or give this node a directory of its own",
            dir.display()
        )));
    }
    file.set_len(0).map_err(problem)?;
    file.seek(SeekFrom::Start(0)).map_err(problem)?;
    writeln!(file, "{}", std::process::id()).map_err(problem)?;
    Ok(DirLock { _file: file, path })
}
