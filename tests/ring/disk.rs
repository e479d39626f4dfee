//! Small disks: an ext4 in a file, behind a loop device, that a test can fill to the last byte and give room again.
//!
//! Needs root and loop devices; a machine without them says why.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How often a mount is tried again before this machine is said to have no loop device.
const MOUNTS: u32 = 5;

/// A small ext4; gone when dropped.
pub struct SmallDisk {
    image: PathBuf,
    /// Where it is mounted.
    pub mount: PathBuf,
}

impl SmallDisk {
    /// In `dir`, `mib` MiB. An error says why this machine cannot have one.
    pub fn new(dir: &Path, name: &str, mib: u64) -> Result<SmallDisk, String> {
        let disk = SmallDisk { image: dir.join(format!("{name}.img")), mount: dir.join(name) };
        fs::create_dir_all(&disk.mount).map_err(|e| e.to_string())?;
        fs::File::create(&disk.image).and_then(|file| file.set_len(mib << 20)).map_err(|e| e.to_string())?;
        let (image, mount) = (disk.image.display().to_string(), disk.mount.display().to_string());
        run(&["mkfs.ext4", "-q", "-m", "0", &image])?;
        // Who asks for a free loop device at the same moment may get the same one; the later mount fails.
        let mut mounted = run(&["mount", "-o", "loop", &image, &mount]);
        for _ in 0..MOUNTS {
            if mounted.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            mounted = run(&["mount", "-o", "loop", &image, &mount]);
        }
        mounted.map(|()| disk)
    }

    /// Leaves no byte.
    pub fn fill(&self) {
        let mut ballast = fs::OpenOptions::new().create(true).append(true).open(self.ballast()).expect("a file can be opened");
        for size in [1 << 20, 4096] {
            let zeros = vec![0; size];
            while ballast.write_all(&zeros).is_ok() {}
        }
        let _ = ballast.sync_all();
    }

    /// Gives the room back.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is there");
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }
}

fn run(command: &[&str]) -> Result<(), String> {
    let out = Command::new(command[0]).args(&command[1..]).output().map_err(|e| format!("{}: {e}", command[0]))?;
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}", command.join(" "), String::from_utf8_lossy(&out.stderr).trim())),
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: after a failed test the nodes still run, and end a moment later.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).output();
        let _ = fs::remove_file(&self.image);
    }
}
