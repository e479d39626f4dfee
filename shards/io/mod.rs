//! The seam: everything a shard may know of the outside world, as one trait.
//!
//! ```text
//!            shard code (generic over E: Env)
//!                       |
//!        clock  tasks  random  disk  network
//!                       |
//!          uring/              sim/ (tests)
//!          glommio, io_uring   virtual clock, seeded, faulty
//! ```
//!
//! Clock, tasks and random numbers are associated functions, not methods: openraft's runtime trait has no `self`, and a
//! simulator keeps "the current node" in a thread-local anyway. Disk and network are values that a shard is given.
//!
//! **What is promised**, and checked by `conformance.rs` against every implementation:
//! - One executor is one thread. Tasks run in FIFO order of their wakes and are never moved.
//! - `now` is monotonic within a node. It has no relation to wall clocks or to other nodes' `now`.
//! - A write is durable when `write_durable_at` (or `sync` after `write_at`) has returned `Ok`, and not a moment before.
//!   Until then any subset of its 4 KiB blocks may survive a crash; a block is never torn within itself (the disk's
//!   physical sector; `docs/format.md` says what happens on a disk that breaks this).
//! - A file made by `create` has its full length and initialised blocks when the call returns: writes inside it change no
//!   metadata.
//! - `rename`, `create` and `remove` are durable after `sync_dir` of the parent.
//! - A connection delivers bytes in order or not at all; an `Err` or a read of 0 ends it.
//! - Paths that leave the data directory are refused with `InvalidInput`.
//!
//! **Not promised**: that two writes in flight at once land in their order; that a failed write wrote nothing; that `read_at`
//! sees a write that has not returned yet; fairness between tasks beyond FIFO.
//!
//! **Not here**: frames and messages (`wire`), what a shard does with a connection (`connection.rs`).

pub mod channel;
pub mod conformance;
#[cfg(feature = "sim")]
pub mod sim;
pub mod uring;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::ops::{Add, Deref, DerefMut, Sub};
use std::time::Duration;

/// Bytes that are written and read as one unit: every offset and length handed to a [`File`] is a multiple of this.
pub const BLOCK_BYTES: usize = 4096;

/// Whether what the disk refused may go well later, though nothing is done about the file: there was no room (`StorageFull`), or a
/// quota was used up, that of descriptors among them (`QuotaExceeded`).
pub fn may_pass(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The outside world of a shard.
#[allow(async_fn_in_trait)]
pub trait Env: Clone + std::fmt::Debug + 'static {
    /// Files below one node's data directory.
    type Disk: Disk;
    /// Connections of one shard.
    type Net: Net;
    /// A pending [`Env::sleep`].
    type Sleep: Future<Output = ()> + Unpin + 'static;

    /// The monotonic clock.
    fn now() -> Instant;
    /// Completes once `duration` has passed; never early.
    fn sleep(duration: Duration) -> Self::Sleep;
    /// Starts a task on this executor. It first runs after the caller has given way, never inside this call, so the caller
    /// may hold borrows. It runs until it returns or the node stops; dropping nothing cancels it.
    fn spawn(task: impl Future<Output = ()> + 'static);
    /// Lets every other ready task run once. A task that yields again and again does not keep clock, disk and network from
    /// getting on.
    fn yield_now() -> impl Future<Output = ()>;
    /// 64 uniformly random bits; not for secrets.
    fn random() -> u64;
    /// Runs `future` to its end on an executor of its own: for tests and tools, never inside a shard.
    fn block_on<T>(future: impl Future<Output = T>) -> T;
}

/// Nanoseconds on the node's monotonic clock, from an origin without meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
    /// Whole microseconds since `earlier`, saturating at `u32::MAX` (71 minutes).
    pub fn micros_since(self, earlier: Instant) -> u32 {
        u32::try_from(self.0.saturating_sub(earlier.0) / 1_000).unwrap_or(u32::MAX)
    }
}
impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}
impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, d: Duration) -> Instant {
        Instant(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// One node's data directory. Paths are relative to it, `/`-separated, without `..`. Whatever needs a descriptor says `QuotaExceeded` when
/// there is none left.
#[allow(async_fn_in_trait)]
pub trait Disk: Clone + 'static {
    /// An open file.
    type File: File;
    /// Makes a directory and its parents, durably. Not an error when it is there.
    async fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Names of the files directly in `dir`, sorted. One that a process made which was killed need not be durable: [`Disk::sync_dir`] before
    /// anything relies on it.
    async fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes a file of exactly `bytes` zero bytes (a multiple of [`BLOCK_BYTES`]), all blocks written and synced.
    /// `StorageFull` when there is no room, and then nothing is left behind; `AlreadyExists` when the name is taken;
    /// `InvalidInput` for a length that is not a positive number of blocks. Works in slices, so that other tasks go on.
    /// A crash on the way (or dropping the call) may leave a shorter file of zeros: create under a temporary name.
    async fn create(&self, path: &str, bytes: u64) -> io::Result<Self::File>;
    /// Makes a file of `bytes` zero bytes whose room is reserved but not written: cheap, for files that are written once, in
    /// order, and synced at the end. Replaces a file that was there.
    async fn reserve(&self, path: &str, bytes: u64) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing; `InvalidData` when its length is not a positive number of blocks.
    async fn open(&self, path: &str) -> io::Result<Self::File>;
    /// Replaces `to` by `from`, atomically; durable after [`Disk::sync_dir`].
    async fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; durable after [`Disk::sync_dir`].
    async fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes names in `dir` durable.
    async fn sync_dir(&self, dir: &str) -> io::Result<()>;
}

/// An open file. Handles are cheap to clone and refer to one file.
#[allow(async_fn_in_trait)]
pub trait File: Clone + 'static {
    /// Memory that the disk can write from without a copy.
    type Buffer: Deref<Target = [u8]> + DerefMut + 'static;
    /// Length in bytes at open or create.
    fn len(&self) -> u64;
    /// True when the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Lengthens a file made by [`Disk::reserve`] to `bytes`, in the same way; a shorter length changes nothing.
    async fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// A buffer of `bytes` (a multiple of [`BLOCK_BYTES`]). Its contents are unspecified.
    fn buffer(&self, bytes: usize) -> Self::Buffer;
    /// Writes at an aligned offset inside the file (`UnexpectedEof` beyond its end: a file never grows). Volatile until
    /// [`File::sync`].
    async fn write_at(&self, offset: u64, buffer: Self::Buffer) -> io::Result<()>;
    /// Writes and makes durable, by whichever way is fastest here.
    async fn write_durable_at(&self, offset: u64, buffer: Self::Buffer) -> io::Result<()>;
    /// Makes all completed writes durable.
    async fn sync(&self) -> io::Result<()>;
    /// Reads exactly `bytes` at an aligned offset; `UnexpectedEof` beyond the end.
    async fn read_at(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>>;
    /// Closes this handle's descriptor once the last clone is closed or dropped.
    async fn close(self) -> io::Result<()>;
}

/// The 16 bytes that open every connection, in plain: see `ringbeam_wire::preamble`.
pub type PreambleBytes = [u8; 16];

/// The connections of one shard. Ports, the accept loop and the hand-over between cores are behind it.
#[allow(async_fn_in_trait)]
pub trait Net: Clone + 'static {
    /// Receiving half of a connection.
    type Reader: Reader;
    /// Sending half of a connection.
    type Writer: Writer;
    /// The next connection for this shard; its preamble has been read. `None` after [`Net::close`]. Cancel-safe: a
    /// dropped call has taken no connection.
    async fn accept(&self) -> Option<(PreambleBytes, Self::Reader, Self::Writer)>;
    /// Completes once the node has been asked to stop, at once if it was asked before. Connections go on arriving until the
    /// shard closes: what it still has to settle with its peers needs them.
    async fn stopping(&self);
    /// Takes no more connections: `accept` yields `None` from now on.
    fn close(&self);
    /// Connects to `address` (host:port) and sends `preamble`.
    async fn connect(&self, address: &str, preamble: PreambleBytes) -> io::Result<(Self::Reader, Self::Writer)>;
}

/// Receiving half of a connection.
#[allow(async_fn_in_trait)]
pub trait Reader: 'static {
    /// Reads some bytes into `buffer`; 0 is the end. Cancel-safe: a dropped call has consumed nothing.
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// Sending half of a connection.
#[allow(async_fn_in_trait)]
pub trait Writer: 'static {
    /// Sends all of `bytes`, in order after what was sent before. Dropped on the way, it may have sent a part of them: then
    /// the connection is only good for ending.
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Ends the connection in both directions: what was sent arrives, then the end; the own reader half sees the end too.
    /// Dropping both halves ends it as well, dropping one of them does not.
    async fn shutdown(&mut self) -> io::Result<()>;
}
