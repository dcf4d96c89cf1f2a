//! A disk that a test fills, makes read-only, or puts on it what other disks do not take.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::mounted::wait_for;

/// A file system of its own in memory, unmounted when dropped. It takes extended attributes of any length.
#[derive(Debug)]
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Mounts one of so many KiB.
    #[must_use]
    pub fn new(kib: u64) -> Self {
        let dir = TempDir::with_prefix("stash-fs-disk-").unwrap();
        let disk = Self { dir };
        assert!(disk.mount(&format!("size={kib}k")), "mount tmpfs");
        disk
    }

    fn mount(&self, options: &str) -> bool {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "stash-fs-small-disk"]).arg(self.dir.path());
        command.status().unwrap().success()
    }

    /// Has nothing be written from now on, as soon as nobody writes: a child that another test is just starting has a copy of what was open
    /// here.
    pub fn make_read_only(&self) {
        wait_for("nobody to write", || self.mount("remount,ro").then_some(()));
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes all space that is left.
    pub fn fill(&self) {
        let mut file = File::create(self.path().join("filler")).unwrap();
        while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
    }

    /// How much can still be written.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.path()).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Waits until whoever wrote there has let go: a child that another test is just starting has a copy of its locks.
    pub fn let_go(&self, dir: &str) {
        let is_free = |path: &PathBuf| File::open(path).unwrap().try_lock().is_ok();
        wait_for("the writer's locks", || self.files(dir).iter().all(is_free).then_some(()));
    }

    /// Returns what is in one of its directories, which need not be there.
    #[must_use]
    pub fn files(&self, dir: &str) -> Vec<PathBuf> {
        fs::read_dir(self.path().join(dir))
            .map_or_else(|_| Vec::new(), |entries| entries.map(|e| e.unwrap().path()).collect())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.dir.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
