//! The files of a repository in a directory.
//!
//! Invariant: no open leaves the directory, whatever lies in it. A symbolic link is followed as long as it stays below, as restic follows
//! it; the kernel judges that (`openat2` with `RESOLVE_BENEATH`), not a comparison of paths.

use std::ffi::CStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use stash_repo::{FileKind, Id};

use super::request;

/// How much of a list is made in one go.
const LIST_CHUNK_BYTES: usize = 64 << 10;

/// A directory that holds a repository.
#[derive(Debug)]
pub struct Directory {
    root: OwnedFd,
    path: PathBuf,
}

/// Why a file is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It is not there.
    #[error("not found")]
    NotFound,
    /// It leads out of the directory, or is no regular file.
    #[error("not a file of the repository")]
    Foreign,
    /// It may not be read.
    #[error("permission denied")]
    Denied,
    /// The system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for FileError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR => Self::NotFound,
            Errno::XDEV | Errno::LOOP => Self::Foreign,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            errno => Self::Io(errno.into()),
        }
    }
}

impl Directory {
    /// Opens the directory, which may be empty.
    ///
    /// # Errors
    /// It is not there, or no directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// Returns the path by which it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_below(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty(), resolve)
    }

    /// Opens a file; returns it and its length in bytes.
    pub(super) fn file(&self, kind: FileKind, id: &Id) -> Result<(File, u64), FileError> {
        self.regular(&kind.path(id))
    }

    fn regular(&self, path: &str) -> Result<(File, u64), FileError> {
        // A FIFO must not block the open; the flag means nothing to a regular file.
        let file = File::from(self.open_below(path, OFlags::NONBLOCK | OFlags::NOCTTY)?);
        let metadata = file.metadata()?;
        if metadata.is_file() { Ok((file, metadata.len())) } else { Err(FileError::Foreign) }
    }

    /// Opens a folder; `None` where there is none.
    fn folder(&self, path: &str) -> Result<Option<Dir>, FileError> {
        match self.open_below(path, OFlags::DIRECTORY) {
            Ok(folder) => Ok(Some(Dir::new(folder)?)),
            // A plain file where a folder would be holds nothing.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Makes the list of a kind, piece by piece: `[{"name":"<id>","size":<bytes>},...]`.
#[derive(Debug)]
pub(super) struct Lister {
    directory: Arc<Directory>,
    /// The folders that are still to be read, last first.
    folders: Vec<String>,
    open: Option<(String, Dir)>,
    has_begun: bool,
    is_first: bool,
    is_done: bool,
}

impl Lister {
    /// Begins a list. A folder that is not there is an empty one.
    ///
    /// # Errors
    /// The first folder cannot be read: nothing was answered yet.
    pub(super) fn new(directory: Arc<Directory>, kind: FileKind) -> Result<Self, FileError> {
        let name = kind.dirname();
        let folders = match kind {
            FileKind::Pack => (0..=u8::MAX).rev().map(|byte| format!("{name}/{byte:02x}")).collect(),
            _ => vec![name.to_owned()],
        };
        // So that what cannot be listed at all is a status and no list that breaks off.
        drop(directory.folder(name)?);
        Ok(Self { directory, folders, open: None, has_begun: false, is_first: true, is_done: false })
    }

    /// Returns the next piece; `None` after the last.
    ///
    /// # Errors
    /// A folder or a file cannot be read: the list is worth nothing.
    pub(super) fn next(&mut self) -> Result<Option<String>, FileError> {
        if self.is_done {
            return Ok(None);
        }
        let mut piece = String::with_capacity(LIST_CHUNK_BYTES + 256);
        if !std::mem::replace(&mut self.has_begun, true) {
            piece.push('[');
        }
        while piece.len() < LIST_CHUNK_BYTES {
            let Some((path, folder)) = &mut self.open else {
                let Some(path) = self.folders.pop() else {
                    piece.push(']');
                    self.is_done = true;
                    break;
                };
                self.open = self.directory.folder(&path)?.map(|folder| (path, folder));
                continue;
            };
            let Some(entry) = folder.read() else {
                self.open = None;
                continue;
            };
            let entry = entry?;
            let Some(id) = listed(path, entry.file_name()) else { continue };
            let Some(len_bytes) = length(&self.directory, folder, path, entry.file_name())? else { continue };
            let comma = if std::mem::take(&mut self.is_first) { "" } else { "," };
            // Writing to a String cannot fail.
            let _infallible = write!(piece, r#"{comma}{{"name":"{}","size":{len_bytes}}}"#, id.to_hex());
        }
        Ok(Some(piece))
    }
}

/// Returns the id that a file is listed by. Temporary and foreign files are none; a pack lies below its first two digits.
fn listed(folder: &str, name: &CStr) -> Option<Id> {
    let name = name.to_str().ok()?;
    let id = request::id(name)?;
    folder.strip_prefix("data/").is_none_or(|digits| name.starts_with(digits)).then_some(id)
}

/// Returns the length of a file in a folder; `None` for what is no file, or is gone.
fn length(directory: &Directory, folder: &Dir, path: &str, name: &CStr) -> Result<Option<u64>, FileError> {
    let found = match rustix::fs::statat(folder.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        // Removed since it was read.
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Ok(u64::try_from(found.st_size).ok()),
        FileType::Symlink => match directory.regular(&format!("{path}/{}", name.to_string_lossy())) {
            Ok((_, len_bytes)) => Ok(Some(len_bytes)),
            Err(FileError::NotFound) => Ok(None),
            Err(error) => Err(error),
        },
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn list(directory: &Arc<Directory>, kind: FileKind) -> Result<Vec<(String, u64)>, FileError> {
        let mut lister = Lister::new(Arc::clone(directory), kind)?;
        let mut text = String::new();
        while let Some(piece) = lister.next()? {
            text.push_str(&piece);
        }
        let values: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let mut files: Vec<_> = values
            .iter()
            .map(|file| (file["name"].as_str().unwrap().to_owned(), file["size"].as_u64().unwrap()))
            .collect();
        files.sort();
        Ok(files)
    }

    fn name(byte: u8) -> String {
        format!("{byte:02x}").repeat(32)
    }

    #[test]
    fn test_lists_hold_the_files_of_a_kind_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let directory = Arc::new(Directory::open(folder.path()).unwrap());
        assert_eq!(list(&directory, FileKind::Pack).unwrap(), []);
        assert_eq!(list(&directory, FileKind::Key).unwrap(), []);
        for folder in ["data/aa", "data/bb", "data/AA", "keys", "elsewhere"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        fs::write(path(&format!("data/aa/{}", name(0xaa))), "12345").unwrap();
        fs::write(path(&format!("data/aa/{}", name(0xbb))), "in a wrong folder").unwrap();
        fs::write(path(&format!("data/aa/{}-tmp-1", name(0xaa))), "x").unwrap();
        fs::write(path(&format!("data/{}", name(0xcc))), "in none").unwrap();
        fs::create_dir(path(&format!("data/bb/{}", name(0xbb)))).unwrap();
        fs::write(path("elsewhere/file"), "123").unwrap();
        symlink("../elsewhere/file", path(&format!("keys/{}", name(1)))).unwrap();
        symlink("nowhere", path(&format!("keys/{}", name(2)))).unwrap();
        assert_eq!(list(&directory, FileKind::Pack).unwrap(), [(name(0xaa), 5)]);
        assert_eq!(list(&directory, FileKind::Key).unwrap(), [(name(1), 3)]);
        // A link out of the directory is no reason for a short list.
        symlink("/etc/passwd", path(&format!("keys/{}", name(3)))).unwrap();
        assert!(matches!(list(&directory, FileKind::Key), Err(FileError::Foreign)));
    }

    #[test]
    fn test_long_lists_come_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("index")).unwrap();
        for n in 0..3000_u32 {
            let id = Id::hash(&n.to_le_bytes());
            fs::write(folder.path().join(format!("index/{}", id.to_hex())), "").unwrap();
        }
        let directory = Arc::new(Directory::open(folder.path()).unwrap());
        let mut lister = Lister::new(Arc::clone(&directory), FileKind::Index).unwrap();
        let mut pieces = 0;
        while let Some(piece) = lister.next().unwrap() {
            assert!(piece.len() < LIST_CHUNK_BYTES + 256);
            pieces += 1;
        }
        assert!(pieces > 3, "{pieces}");
        assert_eq!(list(&directory, FileKind::Index).unwrap().len(), 3000);
    }

    #[test]
    fn test_no_file_outside_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("repository");
        fs::create_dir_all(root.join("keys")).unwrap();
        fs::write(folder.path().join("outside"), "secret").unwrap();
        let directory = Directory::open(&root).unwrap();
        let of = |byte| Id::new([byte; 32]);
        let link = |byte, to: &str| symlink(to, root.join(FileKind::Key.path(&of(byte)))).unwrap();
        link(1, "../../outside");
        link(2, "/etc/passwd");
        link(3, "/proc/self/fd/0");
        link(4, "../config");
        link(5, "loop");
        symlink("loop", root.join("keys/loop")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join(FileKind::Key.path(&of(6))), Mode::RUSR).unwrap();
        fs::create_dir(root.join(FileKind::Key.path(&of(7)))).unwrap();
        fs::write(root.join("config"), "config").unwrap();
        let opened = |byte| directory.file(FileKind::Key, &of(byte));
        for byte in [1, 2, 3, 5, 6, 7] {
            assert!(matches!(opened(byte), Err(FileError::Foreign)), "{byte}: {:?}", opened(byte));
        }
        assert_eq!(opened(4).unwrap().1, 6, "a link that stays below");
        assert!(matches!(opened(8), Err(FileError::NotFound)));
        assert!(matches!(directory.file(FileKind::Pack, &of(8)), Err(FileError::NotFound)));
        // A folder that leads out is none of its kind.
        symlink(folder.path(), root.join("snapshots")).unwrap();
        assert!(matches!(Lister::new(Arc::new(directory), FileKind::Snapshot), Err(FileError::Foreign)));
    }
}
