//! The directory of index segments, which several processes may share.
//!
//! Protocol: rename only. A segment is written under a random temporary name, made durable, renamed to its own random
//! name and never changed again; whoever opens it checks its seals. So a reader needs no lock, sees a whole segment or
//! none, and keeps what it has opened when another process removes the file. The worst that a race can do is that two
//! processes build the same segment, or that a removed one is built again. Two locks spare work, and correctness does
//! not need them: each temporary file is locked by its writer, so that those of killed processes can be told and
//! removed, and removals of superseded segments are made under a lock on the directory's file `lock`, if it is free.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::format::index_segment::SegmentId;

/// What the names of segments end with.
const SEGMENT_SUFFIX: &str = ".idx";
/// What the names of unfinished files begin with.
const TEMP_PREFIX: &str = "tmp-";
/// The file that is locked while superseded segments are removed.
const LOCK_NAME: &str = "lock";

/// A directory of segments.
#[derive(Debug, Clone)]
pub(super) struct Dir {
    path: PathBuf,
}

/// A file that gets its name when it is whole; removed if it never does.
#[derive(Debug)]
pub(super) struct TempFile {
    path: Option<PathBuf>,
    file: File,
}

impl Dir {
    /// Makes the directory where it is missing, readable by its owner only.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Lists the segments.
    pub(super) fn segments(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.ends_with(SEGMENT_SUFFIX)) {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// Begins a file under a temporary name.
    pub(super) fn create_temp(&self) -> io::Result<TempFile> {
        loop {
            let path = self.path.join(format!("{TEMP_PREFIX}{:016x}", rand::random::<u64>()));
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            // Between creation and lock another process may have taken the file for a leftover.
            let locked = match file.try_lock() {
                Ok(()) => file.metadata()?.nlink() > 0,
                Err(TryLockError::WouldBlock) => false,
                // A file system without locks: leftovers are told by nobody, and stay.
                Err(TryLockError::Error(_)) => true,
            };
            if locked {
                return Ok(TempFile { path: Some(path), file });
            }
        }
    }

    /// Makes a file without a name.
    pub(super) fn unnamed(&self) -> io::Result<File> {
        let temp = self.create_temp()?;
        let file = temp.file.try_clone()?;
        drop(temp);
        Ok(file)
    }

    /// Makes a whole file durable and gives it its name.
    pub(super) fn publish(&self, mut temp: TempFile, id: &SegmentId) -> io::Result<(PathBuf, File)> {
        temp.file.sync_all()?;
        let path = self.path.join(format!("{}{SEGMENT_SUFFIX}", hex::encode(id)));
        let from = temp.path.take().ok_or(io::ErrorKind::NotFound)?;
        if let Err(error) = fs::rename(&from, &path) {
            temp.path = Some(from);
            return Err(error);
        }
        File::open(&self.path)?.sync_all()?;
        let file = temp.file.try_clone()?;
        // The lock said that the file is being written. It may be unknown to the file system, see `create_temp`.
        drop(file.unlock());
        Ok((path, file))
    }

    /// Removes files of superseded or damaged segments, unless another process is doing the same; those that stay are
    /// looked at again by the next process that opens the directory.
    pub(super) fn remove(&self, paths: &[PathBuf]) {
        if paths.is_empty() {
            return;
        }
        let Some(_lock) = self.try_lock() else { return };
        for path in paths {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "an old index segment could not be removed");
            }
        }
    }

    /// Removes what killed processes left behind.
    pub(super) fn remove_leftovers(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            if !entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMP_PREFIX)) {
                continue;
            }
            let path = entry.path();
            if let Ok(file) = File::open(&path)
                && file.try_lock().is_ok()
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::debug!(path = %path.display(), %error, "a leftover could not be removed");
            }
        }
    }

    fn try_lock(&self) -> Option<File> {
        let path = self.path.join(LOCK_NAME);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).ok()?;
        file.try_lock().ok()?;
        Some(file)
    }
}

impl TempFile {
    /// Returns the file.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::debug!(path = %path.display(), %error, "a temporary file could not be removed");
        }
    }
}
