//! A directory that is restored into, or copied from: every path below it is opened from its descriptor, and no symbolic link
//! is followed.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};

/// One path in one call is at most this long; longer ones are opened piece by piece.
///
/// Source: `path_resolution(7)`, PATH_MAX is 4096 with the NUL.
const MAX_PATH_BYTES: usize = 4000;

/// How directories are opened.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory.
#[derive(Debug)]
pub(super) struct Root {
    /// `None` in a dry run whose target does not exist.
    root: Option<OwnedFd>,
    /// It was not there before.
    pub(super) made: bool,
    /// The kernel, or a filter of system calls, has no `openat2`.
    no_openat2: AtomicBool,
}

/// The parts of a path below a directory: `/a/b` is `("/a", "b")`.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A name for a system call. Names from trees hold no NUL.
pub(super) fn c_name(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

impl From<OwnedFd> for Root {
    fn from(root: OwnedFd) -> Self {
        Self { root: Some(root), made: false, no_openat2: AtomicBool::new(false) }
    }
}

impl Root {
    /// Opens the directory; makes it unless `dry_run`.
    pub(super) fn open(path: &Path, dry_run: bool) -> io::Result<Self> {
        let open =
            || rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let (root, made) = match open() {
            Err(rustix::io::Errno::NOENT) if dry_run => (None, true),
            Err(rustix::io::Errno::NOENT) => {
                std::fs::create_dir_all(path)?;
                (Some(open()?), true)
            }
            other => (Some(other?), false),
        };
        Ok(Self { root, made, no_openat2: AtomicBool::new(false) })
    }

    /// Opens a directory below it; the empty path is the directory itself.
    pub(super) fn dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let root = self.root.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let path = path.strip_prefix(b"/").unwrap_or(path);
        if path.is_empty() {
            return Ok(rustix::fs::openat(root, c".", DIRECTORY, Mode::empty())?);
        }
        let mut at: Option<OwnedFd> = None;
        for piece in pieces(path) {
            let from = at.as_ref().map_or_else(|| root.as_fd(), AsFd::as_fd);
            at = Some(self.open_piece(from, piece)?);
        }
        at.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn open_piece(&self, from: BorrowedFd<'_>, piece: &[u8]) -> io::Result<OwnedFd> {
        if !self.no_openat2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(from, c_name(piece)?, DIRECTORY, Mode::empty(), resolve) {
                Ok(fd) => return Ok(fd),
                // Linux before 5.6, and old container runtimes' filters.
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                    self.no_openat2.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut at: Option<OwnedFd> = None;
        for name in piece.split(|&b| b == b'/') {
            if name.is_empty() || name == b"." || name == b".." {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            let from = at.as_ref().map_or(from, AsFd::as_fd);
            at = Some(rustix::fs::openat(from, c_name(name)?, DIRECTORY, Mode::empty())?);
        }
        at.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Opens the directory that a path lies in, and returns the last name.
    pub(super) fn parent(&self, path: &[u8]) -> io::Result<(OwnedFd, CString)> {
        let (parent, name) = split(path);
        Ok((self.dir(parent)?, c_name(name)?))
    }
}

/// Splits a path at slashes into pieces that one call takes.
fn pieces(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = match rest.get(..MAX_PATH_BYTES) {
            None => rest.len(),
            // A name alone is never that long: the call says so itself.
            Some(head) => head.iter().rposition(|&b| b == b'/').unwrap_or(rest.len()),
        };
        let (piece, tail) = rest.split_at(end);
        rest = tail.strip_prefix(b"/").unwrap_or(tail);
        Some(piece)
    })
}

/// Looks at a name without following it; `None` if there is nothing.
pub(super) fn look(dir: impl AsFd, name: &CStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns the kind of what was looked at.
pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The path of a name in an open directory that system calls without a descriptor take. Not followed beyond the directory.
pub(super) fn proc_path(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<CString> {
    use std::os::fd::AsRawFd as _;
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    c_name(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_long_paths_are_opened_piece_by_piece() {
        let long = vec!["d".repeat(200); 100].join("/");
        let split: Vec<&[u8]> = pieces(long.as_bytes()).collect();
        assert!(split.len() > 4 && split.iter().all(|piece| piece.len() <= MAX_PATH_BYTES));
        assert_eq!(split.join(&b'/'), long.as_bytes());

        let dir = tempfile::tempdir().unwrap();
        let target = Root::open(dir.path(), false).unwrap();
        let mut path = Vec::new();
        for _ in 0..30 {
            let (parent, name) = (target.dir(&path).unwrap(), "d".repeat(200));
            rustix::fs::mkdirat(parent, name.as_str(), Mode::RWXU).unwrap();
            path.extend(format!("/{name}").bytes());
        }
        for without in [false, true] {
            target.no_openat2.store(without, Ordering::Relaxed);
            assert!(path.len() > 4096 && target.dir(&path).is_ok());
        }
    }

    #[test]
    fn test_symbolic_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("outside/x")).unwrap();
        std::fs::create_dir(dir.path().join("t")).unwrap();
        std::os::unix::fs::symlink("../outside", dir.path().join("t/link")).unwrap();
        let target = Root::open(&dir.path().join("t"), false).unwrap();
        for without in [false, true] {
            target.no_openat2.store(without, Ordering::Relaxed);
            for path in ["/link", "/link/x", "/..", "/../outside"] {
                assert!(target.dir(path.as_bytes()).is_err(), "{path}");
            }
        }
    }
}
