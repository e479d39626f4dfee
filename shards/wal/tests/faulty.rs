//! A disk that fails on demand, around the real one; and the `Env` that goes with it.

use crate::io::uring::{Uring, UringDisk};
use crate::io::{BLOCK_BYTES, Disk, Env, File, Instant};
use std::cell::Cell;
use std::future::Future;
use std::io::{Error, ErrorKind, Result};
use std::rc::Rc;
use std::time::Duration;

/// What shall go wrong. Every change of the disk counts as one step.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Steps so far.
    pub steps: Cell<u64>,
    /// From this step on nothing is done any more, as if the process had died: the step itself is done in part.
    pub stop_at: Cell<Option<u64>>,
    /// Which blocks of the write at `stop_at` still reach the disk; bit n is block n, blocks from 63 on go with bit 63.
    pub torn_mask: Cell<u64>,
    /// The step at `stop_at` fails; later ones work again. A disk error rather than a crash.
    pub once: Cell<bool>,
    /// Reads wait while this is set.
    pub hold_reads: Cell<bool>,
    /// There is no room for new files.
    pub full: Cell<bool>,
    /// So many syncs of a directory fail.
    pub unsynced_dirs: Cell<u32>,
    /// No segment is renamed or removed.
    pub segments_stay: Cell<bool>,
}

enum Step {
    Whole,
    Torn,
    Nothing,
}

impl Faults {
    fn step(&self) -> Step {
        let step = self.steps.get();
        self.steps.set(step + 1);
        match self.stop_at.get() {
            Some(stop) if step == stop => Step::Torn,
            Some(stop) if step > stop && !self.once.get() => Step::Nothing,
            _ => Step::Whole,
        }
    }
    fn step_or_fail(&self) -> Result<()> {
        match self.step() {
            Step::Whole => Ok(()),
            Step::Torn | Step::Nothing => Err(Error::other("injected: the disk failed")),
        }
    }
    fn leave(&self, path: &str) -> Result<()> {
        self.step_or_fail()?;
        let stays = self.segments_stay.get() && path.contains("/wal-");
        if stays { Err(Error::other("injected: it stays")) } else { Ok(()) }
    }
    /// The fault has happened.
    pub fn stopped(&self) -> bool {
        self.stop_at.get().is_some_and(|stop| self.steps.get() > stop)
    }
}

#[derive(Clone, Debug)]
pub(super) struct FaultyDisk<D> {
    pub disk: D,
    pub faults: Rc<Faults>,
}

#[derive(Clone, Debug)]
pub(super) struct FaultyFile<F> {
    file: F,
    faults: Rc<Faults>,
}

impl<D: Disk> Disk for FaultyDisk<D> {
    type File = FaultyFile<D::File>;
    async fn create_dir(&self, dir: &str) -> Result<()> {
        self.disk.create_dir(dir).await
    }
    async fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.disk.list(dir).await
    }
    async fn create(&self, path: &str, bytes: u64) -> Result<Self::File> {
        if self.faults.full.get() {
            return Err(Error::new(ErrorKind::StorageFull, "injected: no space left"));
        }
        match self.faults.step() {
            Step::Whole => {}
            Step::Torn => {
                // A crash in the middle of the zeros leaves a shorter file.
                self.disk.create(path, bytes / 2 / BLOCK_BYTES as u64 * BLOCK_BYTES as u64).await?;
                return Err(Error::other("injected: crashed while creating"));
            }
            Step::Nothing => return Err(Error::other("injected: the disk failed")),
        }
        Ok(FaultyFile { file: self.disk.create(path, bytes).await?, faults: self.faults.clone() })
    }
    async fn reserve(&self, path: &str, bytes: u64) -> Result<Self::File> {
        self.faults.step_or_fail()?;
        Ok(FaultyFile { file: self.disk.reserve(path, bytes).await?, faults: self.faults.clone() })
    }
    async fn open(&self, path: &str) -> Result<Self::File> {
        Ok(FaultyFile { file: self.disk.open(path).await?, faults: self.faults.clone() })
    }
    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.faults.leave(from)?;
        self.disk.rename(from, to).await
    }
    async fn remove(&self, path: &str) -> Result<()> {
        self.faults.leave(path)?;
        self.disk.remove(path).await
    }
    async fn sync_dir(&self, dir: &str) -> Result<()> {
        self.faults.step_or_fail()?;
        if let Some(left) = self.faults.unsynced_dirs.get().checked_sub(1) {
            self.faults.unsynced_dirs.set(left);
            return Err(Error::other("injected: no descriptor for the directory"));
        }
        self.disk.sync_dir(dir).await
    }
}

impl<F: File> FaultyFile<F> {
    async fn write(&self, offset: u64, buffer: F::Buffer) -> Result<()> {
        match self.faults.step() {
            Step::Whole => self.file.write_durable_at(offset, buffer).await,
            Step::Torn => {
                for (number, block) in buffer.chunks(BLOCK_BYTES).enumerate() {
                    if self.faults.torn_mask.get() >> number.min(63) & 1 == 1 {
                        let mut one = self.file.buffer(BLOCK_BYTES);
                        one.copy_from_slice(block);
                        self.file.write_durable_at(offset + (number * BLOCK_BYTES) as u64, one).await?;
                    }
                }
                Err(Error::other("injected: the write failed"))
            }
            Step::Nothing => Err(Error::other("injected: the disk failed")),
        }
    }
}

impl<F: File> File for FaultyFile<F> {
    type Buffer = F::Buffer;
    fn len(&self) -> u64 {
        self.file.len()
    }
    async fn reserve(&self, bytes: u64) -> Result<()> {
        self.faults.step_or_fail()?;
        self.file.reserve(bytes).await
    }
    fn buffer(&self, bytes: usize) -> F::Buffer {
        self.file.buffer(bytes)
    }
    async fn write_at(&self, offset: u64, buffer: F::Buffer) -> Result<()> {
        self.write(offset, buffer).await
    }
    async fn write_durable_at(&self, offset: u64, buffer: F::Buffer) -> Result<()> {
        self.write(offset, buffer).await
    }
    async fn sync(&self) -> Result<()> {
        self.faults.step_or_fail()?;
        self.file.sync().await
    }
    async fn read_at(&self, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        while self.faults.hold_reads.get() {
            Uring::sleep(Duration::from_millis(1)).await;
        }
        self.file.read_at(offset, bytes).await
    }
    async fn close(self) -> Result<()> {
        self.file.close().await
    }
}

/// The real world but for its disk.
#[derive(Clone, Debug)]
pub(super) struct Faulty;

impl Env for Faulty {
    type Disk = FaultyDisk<UringDisk>;
    type Net = <Uring as Env>::Net;
    type Sleep = <Uring as Env>::Sleep;
    fn now() -> Instant {
        Uring::now()
    }
    fn sleep(duration: Duration) -> Self::Sleep {
        Uring::sleep(duration)
    }
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        Uring::block_on(future)
    }
    fn spawn(task: impl Future<Output = ()> + 'static) {
        Uring::spawn(task);
    }
    fn yield_now() -> impl Future<Output = ()> {
        Uring::yield_now()
    }
    fn random() -> u64 {
        Uring::random()
    }
}
