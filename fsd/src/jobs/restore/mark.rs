//! What tells a volume that is not whole: a file of a name that nobody else uses, from before the first byte until after the last.
//!
//! Whoever starts an application on a volume can look for it. It stays where a restore was stopped, failed, or could not restore
//! everything; the next one that succeeds removes it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, fstat, futimens, openat, statat, unlinkat};
use rustix::io::Errno;
use stash_proto::job::JobError;

use super::place::{failed, sync};
use crate::restore::UNFINISHED;

const TEXT: &str = "A restore into this volume has begun and has not ended well: what is here is not whole.\n\
    A restore that succeeds removes this file.\n";

/// The mark of one volume.
#[derive(Debug)]
pub(super) struct Mark {
    volume: OwnedFd,
    mount: String,
}

impl Mark {
    /// Sets it, so that it is there after a crash as well. One that is there already stays.
    ///
    /// # Errors
    /// The volume cannot be written to.
    pub(super) fn set(volume: &OwnedFd, mount: &str) -> io::Result<Self> {
        put(volume, UNFINISHED, TEXT)?;
        sync(volume)?;
        Ok(Self { volume: volume.try_clone()?, mount: mount.to_owned() })
    }

    /// Takes it away when all is on the disk, and leaves the directory's times as they were restored.
    ///
    /// # Errors
    /// The volume did not take all.
    pub(super) fn remove(self) -> Result<(), JobError> {
        let removed = || -> io::Result<()> {
            rustix::fs::syncfs(&self.volume)?;
            keep_times(&self.volume, || match unlinkat(&self.volume, UNFINISHED, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(error.into()),
            })?;
            sync(&self.volume)
        };
        removed().map_err(|error| failed(&format!("finish the volume at {}", self.mount), error))
    }
}

/// Whether a volume has the mark.
///
/// # Errors
/// The volume cannot be read.
pub(super) fn is_set(volume: &OwnedFd) -> io::Result<bool> {
    match statat(volume, UNFINISHED, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes a file of a volume's root, on disk but for its name. No symbolic link is followed.
pub(super) fn put(volume: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(volume, name, flags, Mode::from_raw_mode(0o644))?);
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Changes what is in a directory and leaves its times as they are.
pub(super) fn keep_times(directory: &OwnedFd, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let before = fstat(directory)?;
    change()?;
    let nanos = |nanos| i64::try_from(nanos).unwrap_or(0);
    let times = Timestamps {
        last_access: Timespec { tv_sec: before.st_atime, tv_nsec: nanos(before.st_atime_nsec) },
        last_modification: Timespec { tv_sec: before.st_mtime, tv_nsec: nanos(before.st_mtime_nsec) },
    };
    Ok(futimens(directory, &times)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn test_a_mark_comes_and_goes_and_leaves_times() {
        let folder = tempfile::tempdir().unwrap();
        let volume = OwnedFd::from(File::open(folder.path()).unwrap());
        let mark = Mark::set(&volume, "/data").unwrap();
        let again = Mark::set(&volume, "/data").unwrap();
        assert!(std::fs::read_to_string(folder.path().join(UNFINISHED)).unwrap().contains("not whole"));
        let past = Timespec { tv_sec: 1_000_000, tv_nsec: 5 };
        futimens(&volume, &Timestamps { last_access: past, last_modification: past }).unwrap();
        mark.remove().unwrap();
        again.remove().unwrap();
        let left = std::fs::metadata(folder.path()).unwrap();
        assert_eq!((left.mtime(), left.mtime_nsec()), (1_000_000, 5));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
