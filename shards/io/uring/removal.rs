//! Files that go, without a disk that stands still.
//!
//! ```text
//!   name gone ─▶ anybody else has it open? ─no─▶ shortened step by step, beside everything else ─▶ closed
//!                                          └yes─▶ the last one who closes it gives all of it back at once
//! ```
//! A file system with online discard tells the disk of each block that becomes free, in the call that frees it. For 110 MB that
//! took 17 ms here, and a flush of the log that came meanwhile waited for all of it; a step of 1 MB is a hundredth of that.
//!
//! **Invariant**: a file is shortened only when its name is gone and nobody else has it open.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::Timer;

use super::blocking;

/// Given back at once, at least.
const STEP_BYTES: u64 = 1 << 20;
/// A larger file goes in larger steps: it must be gone before the next one of its kind.
const STEPS_MAX: u64 = 4096;
const PAUSE: Duration = Duration::from_millis(1);

/// Removes the name; gives the room of a large file back in the background, as the executor finds time.
pub(super) async fn remove(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    let (file, bytes) = blocking(move || take(&path)).await?;
    if let Some(file) = file {
        glommio::spawn_local(shorten(Arc::new(file), bytes)).detach();
    }
    Ok(())
}

/// Removes the name. The file and its length, if there is more to do.
fn take(path: &Path) -> io::Result<(Option<fs::File>, u64)> {
    let large = fs::OpenOptions::new().write(true).open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    fs::remove_file(path)?;
    Ok(match large {
        Ok((bytes, file)) if bytes > STEP_BYTES && is_alone(&file) => (Some(file), bytes),
        _ => (None, 0),
    })
}

/// Whether no other descriptor of this file is open: only then the kernel grants a lease for writing. Any doubt is a no.
fn is_alone(file: &fs::File) -> bool {
    // SAFETY: F_SETLEASE takes a number, no pointer; `file` owns the descriptor for both calls.
    let lease = |kind: libc::c_int| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } == 0;
    // Nobody can open it any more, so there is nothing to be told of.
    lease(libc::F_WRLCK) && lease(libc::F_UNLCK)
}

async fn shorten(file: Arc<fs::File>, mut bytes: u64) {
    let step = STEP_BYTES.max(bytes / STEPS_MAX);
    while bytes > 0 {
        bytes = bytes.saturating_sub(step);
        let file = file.clone();
        // What fails here is freed when the file is closed.
        if blocking(move || file.set_len(bytes)).await.is_err() {
            return;
        }
        Timer::new(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::PathBuf;

    use super::*;
    use crate::io::tests::Directory;

    fn file_of(bytes: usize) -> (Directory, PathBuf) {
        let directory = Directory::new("removal");
        let path = directory.path().join("file");
        fs::write(&path, vec![7; bytes]).expect("written");
        (directory, path)
    }

    #[test]
    fn large_file_is_shortened_once_its_name_is_gone() {
        let (_directory, path) = file_of(3 << 20);
        let (file, bytes) = take(&path).expect("removed");
        assert_eq!((file.is_some(), bytes, path.exists()), (true, 3 << 20, false));
        let file = Arc::new(file.expect("more to do"));
        let ours = file.clone();
        glommio::LocalExecutorBuilder::default()
            .spawn(move || shorten(ours, bytes))
            .expect("an executor")
            .join()
            .expect("ended");
        assert_eq!(file.metadata().expect("open").len(), 0);
    }

    #[test]
    fn file_that_somebody_reads_is_left_whole() {
        let (_directory, path) = file_of(3 << 20);
        let mut reader = fs::File::open(&path).expect("opened");
        assert!(take(&path).expect("removed").0.is_none());
        let mut found = Vec::new();
        reader.read_to_end(&mut found).expect("read");
        assert_eq!(found, vec![7; 3 << 20]);
    }

    #[test]
    fn small_file_goes_at_once_and_a_missing_one_is_an_error() {
        let (_directory, path) = file_of(100);
        assert!(take(&path).expect("removed").0.is_none());
        assert!(!path.exists());
        assert_eq!(take(&path).map(|_| ()).map_err(|e| e.kind()), Err(io::ErrorKind::NotFound));
    }
}
