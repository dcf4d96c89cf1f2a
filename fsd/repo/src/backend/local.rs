//! A repository in a directory: plain `pread` on kept file descriptors.
//!
//! Invariants: what [`Backend::write`] returned for survives a power cut (file and directory are synced) and was never
//! half visible (temporary file, then rename). A kept descriptor still reads a pack that a prune has removed meanwhile.
//!
//! [`Backend::read_range`] and [`Backend::read_full`] open the file anew and replace the kept descriptor, so that a
//! caller that got bad bytes from [`Backend::read_local`] sees a repaired file by asking again through them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rustix::fs::FsWord;
use rustix::io::{Errno, ReadWriteFlags};

use super::error::{Failure, buffer, range_len, target};
use super::{Backend, BackendErrorKind, BackendResult, FileKind, ListEntry, Retry};
use crate::id::Id;

mod fds;

/// Reads and writes in parallel that pay on a disk (restic's default, `local.connections`).
pub const DEFAULT_CONNECTIONS: usize = 2;

/// The type of a file system in memory (statfs(2), linux/magic.h).
const TMPFS_MAGIC: FsWord = 0x0102_1994;

/// A directory that holds a repository.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    location: String,
    connections: usize,
    fds: fds::OpenFiles,
}

impl LocalBackend {
    /// Names a directory; nothing is opened yet.
    #[must_use]
    pub fn new(root: impl AsRef<Path>) -> Self {
        Self::with_connections(root, DEFAULT_CONNECTIONS)
    }

    /// Names a directory on which `connections` reads in parallel pay.
    #[must_use]
    pub fn with_connections(root: impl AsRef<Path>, connections: usize) -> Self {
        let root = root.as_ref().to_owned();
        let location = root.display().to_string();
        Self { inner: Arc::new(Inner { root, location, connections, fds: fds::OpenFiles::default() }) }
    }

    /// Returns the directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        target: String,
        work: impl FnOnce(&Inner) -> Result<T, Failure> + Send + 'static,
    ) -> BackendResult<T> {
        let inner = Arc::clone(&self.inner);
        let joined = tokio::task::spawn_blocking(move || work(&inner)).await;
        let result = joined.unwrap_or_else(|_| {
            Err(Failure::new(BackendErrorKind::Other, Retry::Permanent, "the task that did it was stopped"))
        });
        result.map_err(|failure| failure.at(operation, target, &self.inner.location))
    }
}

impl Inner {
    fn path(&self, kind: FileKind, id: &Id) -> PathBuf {
        self.root.join(kind.path(id))
    }

    /// Opens a file anew and keeps its descriptor in place of an older one.
    fn open(&self, kind: FileKind, id: &Id) -> Result<Arc<File>, Failure> {
        // A FIFO must not block the open; O_NONBLOCK means nothing to a regular file.
        let opened =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(self.path(kind, id));
        let file = match opened {
            Ok(file) => Arc::new(file),
            Err(error) => {
                self.fds.remove(kind, id);
                return Err(error.into());
            }
        };
        if !file.metadata()?.is_file() {
            return Err(Failure::new(BackendErrorKind::Other, Retry::Permanent, "not a regular file"));
        }
        if kind == FileKind::Pack {
            self.fds.insert(kind, id, &file);
        }
        Ok(file)
    }

    fn read_at(&self, kind: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> Result<(), Failure> {
        let file = match self.fds.get(kind, id) {
            Some(file) => file,
            None => self.open(kind, id)?,
        };
        self.fill(&file, kind, id, offset, buf)
    }

    /// Fills `buf` or, where that fails, forgets the descriptor.
    fn fill(&self, file: &File, kind: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> Result<(), Failure> {
        file.read_exact_at(buf, offset).map_err(|error| {
            self.fds.remove(kind, id);
            if error.kind() == io::ErrorKind::UnexpectedEof {
                let end = offset.saturating_add(buf.len() as u64);
                return Failure::ends_before(end);
            }
            error.into()
        })
    }

    /// Fills `buf` from the page cache, or returns false. A file that was not open yet is opened.
    fn read_cached(&self, kind: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> bool {
        let Some(file) = self.fds.get(kind, id).or_else(|| self.open(kind, id).ok()) else { return false };
        let len_bytes = buf.len();
        let mut vectors = [io::IoSliceMut::new(buf)];
        // Less than all means that the next page is not there; nobody waits for it here.
        match rustix::io::preadv2(&*file, &mut vectors, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => read == len_bytes,
            // tmpfs does not know the flag, and never waits.
            Err(Errno::OPNOTSUPP) if rustix::fs::fstatfs(&*file).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC) => {
                file.read_exact_at(buf, offset).is_ok()
            }
            Err(_) => false,
        }
    }

    fn list(&self, kind: FileKind) -> Result<Vec<ListEntry>, Failure> {
        let root = self.root.join(kind.dirname());
        let mut entries = Vec::new();
        if kind != FileKind::Pack {
            list_dir(&root, None, &mut entries)?;
            return Ok(entries);
        }
        for dir in read_dir(&root)? {
            let dir = dir?;
            // Only a file below the folder of its first two digits can be read again.
            let name = dir.file_name();
            let Some(name) = name.to_str().filter(|name| name.len() == 2) else { continue };
            list_dir(&dir.path(), Some(name), &mut entries)?;
        }
        Ok(entries)
    }

    fn write(&self, kind: FileKind, id: &Id, content: &[u8]) -> Result<(), Failure> {
        let path = self.path(kind, id);
        let dir = path.parent().unwrap_or(&self.root);
        let (dir_mode, file_mode) = self.modes();
        let temp = temp_path(&path);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(file_mode);
        let file = match options.open(&temp) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && kind != FileKind::Config => {
                make_dirs(dir, dir_mode)?;
                sync_dir(dir.parent().unwrap_or(&self.root))?;
                options.open(&temp)?
            }
            opened => opened?,
        };
        let written = self.finish(kind, file, &temp, &path, file_mode, content);
        if written.is_err() {
            // Best effort: the name holds no id and is never listed.
            drop(fs::remove_file(&temp));
        }
        written
    }

    fn finish(
        &self,
        kind: FileKind,
        mut file: File,
        temp: &Path,
        path: &Path,
        mode: u32,
        content: &[u8],
    ) -> Result<(), Failure> {
        file.write_all(content)?;
        ignore_unsupported(file.sync_all())?;
        // restic: files are read-only once whole. Stores that know no modes (CIFS) are no reason to fail.
        drop(file.set_permissions(fs::Permissions::from_mode(mode & !0o222)));
        drop(file);
        if kind == FileKind::Config {
            // The one name that two processes may want at once with different content.
            rename_new(temp, path)?;
        } else {
            fs::rename(temp, path)?;
        }
        sync_dir(path.parent().unwrap_or(&self.root))
    }

    /// The modes of new directories and files: for the group too where the `config` file is readable by it (restic,
    /// `backend/util.DeriveModesFromFileInfo`).
    fn modes(&self) -> (u32, u32) {
        let group = fs::metadata(self.root.join("config")).is_ok_and(|config| config.mode() & 0o040 != 0);
        if group { (0o770, 0o660) } else { (0o700, 0o600) }
    }

    fn create(&self) -> Result<(), Failure> {
        if fs::exists(self.root.join("config"))? {
            return Err(Failure::taken());
        }
        let (mode, _) = self.modes();
        for kind in FileKind::LISTED {
            make_dirs(&self.root.join(kind.dirname()), mode)?;
        }
        // restic makes all 256 at once, so that a backup does not.
        for byte in 0..=u8::MAX {
            make_dirs(&self.root.join(format!("data/{byte:02x}")), mode)?;
        }
        sync_dir(&self.root.join("data"))?;
        sync_dir(&self.root)
    }
}

/// Lists a directory that may be missing; what is there but cannot be listed is an error.
fn read_dir(path: &Path) -> Result<impl Iterator<Item = io::Result<fs::DirEntry>> + use<>, Failure> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        // A plain file where a folder of packs would be is no pack.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None.into_iter().flatten()),
        Err(error) => Err(error.into()),
    }
}

/// Adds the files whose names are ids (and start with `prefix`); temporary and foreign files are none of ours.
fn list_dir(path: &Path, prefix: Option<&str>, entries: &mut Vec<ListEntry>) -> Result<(), Failure> {
    for entry in read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| prefix.is_none_or(|prefix| name.starts_with(prefix))) else {
            continue;
        };
        let Ok(id) = name.parse::<Id>() else { continue };
        // The name follows a symlink, as reading does.
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_file() => entries.push(ListEntry { id, len_bytes: metadata.len() }),
            Ok(_) => {}
            // Removed between the two calls: it is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A name beside the file that no list takes for an id and no two writers share.
fn temp_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!("-tmp-{:016x}", rand::random::<u64>()));
    path.with_file_name(name)
}

fn make_dirs(path: &Path, mode: u32) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(Into::into)
}

/// Renames unless the new name is taken.
fn rename_new(from: &Path, to: &Path) -> Result<(), Failure> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // A file system without the flag (NFS): look, then rename.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            if fs::exists(to)? {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
            }
            fs::rename(from, to).map_err(Into::into)
        }
        Err(error) => Err(io::Error::from(error).into()),
    }
}

fn sync_dir(path: &Path) -> Result<(), Failure> {
    ignore_unsupported(File::open(path)?.sync_all())
}

/// Network file systems that cannot sync say so; restic goes on there, and so do we.
fn ignore_unsupported(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTSUP | libc::EINVAL | libc::ENOTTY)) => Ok(()),
        result => result.map_err(Into::into),
    }
}

#[async_trait]
impl Backend for LocalBackend {
    fn location(&self) -> &str {
        &self.inner.location
    }

    fn concurrency(&self) -> usize {
        self.inner.connections
    }

    fn is_remote(&self) -> bool {
        false
    }

    async fn list(&self, kind: FileKind) -> BackendResult<Vec<ListEntry>> {
        self.blocking("list", kind.dirname().to_owned(), move |inner| inner.list(kind)).await
    }

    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> BackendResult<Bytes> {
        let name = *id;
        self.blocking("read", target(kind, id), move |inner| {
            let file = inner.open(kind, &name)?;
            let len_bytes = file.metadata()?.len();
            if len_bytes > limit_bytes {
                return Err(Failure::too_long(limit_bytes));
            }
            let mut buf = buffer(len_bytes)?;
            inner.fill(&file, kind, &name, 0, &mut buf)?;
            Ok(buf.freeze())
        })
        .await
    }

    async fn read_range(&self, kind: FileKind, id: &Id, range: Range<u64>) -> BackendResult<Bytes> {
        let name = *id;
        self.blocking("read", target(kind, id), move |inner| {
            let len_bytes = range_len(&range)?;
            let file = inner.open(kind, &name)?;
            // Before memory is taken for a range that a damaged index made up.
            if range.end > file.metadata()?.len() {
                return Err(Failure::ends_before(range.end));
            }
            let mut buf: BytesMut = buffer(len_bytes)?;
            inner.fill(&file, kind, &name, range.start, &mut buf)?;
            Ok(buf.freeze())
        })
        .await
    }

    fn read_local(&self, kind: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> Option<BackendResult<()>> {
        let result = self.inner.read_at(kind, id, offset, buf);
        Some(result.map_err(|failure| failure.at("read", target(kind, id), &self.inner.location)))
    }

    fn read_cached(&self, kind: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> bool {
        self.inner.read_cached(kind, id, offset, buf)
    }

    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
        let name = *id;
        self.blocking("write", target(kind, id), move |inner| inner.write(kind, &name, &content)).await
    }

    async fn remove(&self, kind: FileKind, id: &Id) -> BackendResult<()> {
        let name = *id;
        self.blocking("remove", target(kind, id), move |inner| {
            inner.fds.remove(kind, &name);
            match fs::remove_file(inner.path(kind, &name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result.map_err(Into::into),
            }
        })
        .await
    }

    async fn create(&self) -> BackendResult<()> {
        self.blocking("create", "repository".to_owned(), Inner::create).await
    }
}

#[cfg(test)]
mod tests;
