//! The file system that a backup's paths are looked up in: this process's own, or what lies below a directory.
//!
//! Below a directory links lead where they would if it were the root (openat2(2), `RESOLVE_IN_ROOT`): a link of a workload
//! to `/etc` is its own `/etc`. No link, no `..` and no race between looking and opening leads out, so that whoever may
//! write there cannot have a file of this process's own stored.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often a look-up is tried that a rename somewhere on the way made uncertain.
const ATTEMPTS: u32 = 128;

/// Where paths are looked up. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files(Option<Arc<OwnedFd>>);

impl Files {
    /// Looks paths up below a directory.
    pub(super) fn beneath(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
        Ok(Self(Some(Arc::new(root))))
    }

    /// Looks at an entry; a link is the entry itself.
    pub(super) fn look(&self, path: &Path) -> io::Result<Metadata> {
        match &self.0 {
            None => std::fs::symlink_metadata(path),
            Some(root) => File::from(resolve(root, path, OFlags::PATH | OFlags::NOFOLLOW)?).metadata(),
        }
    }

    /// Looks at what an entry leads to.
    pub(super) fn look_through(&self, path: &Path) -> io::Result<Metadata> {
        match &self.0 {
            None => std::fs::metadata(path),
            Some(root) => File::from(resolve(root, path, OFlags::PATH)?).metadata(),
        }
    }

    /// Lists the names in a directory.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let Some(root) = &self.0 else {
            return std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name())).collect();
        };
        let mut names = Vec::new();
        for entry in Dir::new(resolve(root, path, OFlags::DIRECTORY)?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Reads where a link leads.
    pub(super) fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let Some(root) = &self.0 else { return std::fs::read_link(path) };
        let link = resolve(root, path, OFlags::PATH | OFlags::NOFOLLOW)?;
        // An empty path is the link that is open (readlinkat(2)).
        let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// Opens a file for reading.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        match &self.0 {
            None => File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path),
            Some(root) => Ok(resolve(root, path, flags)?.into()),
        }
    }

    /// Lists the names of an entry's extended attributes.
    pub(super) fn list_xattrs(&self, path: &Path) -> io::Result<Vec<OsString>> {
        match &self.0 {
            None => Ok(xattr::list(path)?.collect()),
            Some(root) => Opened::new(root, path)?.list_xattrs(),
        }
    }

    /// Reads an extended attribute of an entry; `None` if it is gone.
    pub(super) fn read_xattr(&self, path: &Path, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        match &self.0 {
            None => xattr::get(path, name),
            Some(root) => Opened::new(root, path)?.read_xattr(name),
        }
    }
}

/// An entry that is open by its path alone, and its name in `/proc`: the calls for attributes take no such descriptor.
struct Opened {
    name: PathBuf,
    _entry: OwnedFd,
}

impl Opened {
    fn new(root: &OwnedFd, path: &Path) -> io::Result<Self> {
        let entry = resolve(root, path, OFlags::PATH | OFlags::NOFOLLOW)?;
        Ok(Self { name: format!("/proc/self/fd/{}", entry.as_raw_fd()).into(), _entry: entry })
    }

    fn list_xattrs(&self) -> io::Result<Vec<OsString>> {
        Ok(xattr::list_deref(&self.name)?.collect())
    }

    fn read_xattr(&self, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        xattr::get_deref(&self.name, name)
    }
}

fn resolve(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let mut attempt = 1;
    loop {
        match rustix::fs::openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::AGAIN | Errno::INTR) if attempt < ATTEMPTS => attempt += 1,
            result => return Ok(result?),
        }
    }
}
