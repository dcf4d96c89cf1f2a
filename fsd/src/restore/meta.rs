//! Owner, mode, extended attributes and times of what was restored, in the order in which none undoes another.
//!
//! The owner comes first, because `chown` clears setuid and capabilities; then attributes, because a file that its mode
//! makes read-only takes none from its owner; then the mode; times last. Where the owner cannot be set, setuid and setgid
//! are left out: they would give the rights of somebody whom the snapshot does not name.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use stash_repo::{NodeKind, NodeRef, Timestamp};

use super::root::{c_name, proc_path};
use super::{RESTORED_BY, Shared};

/// Who owns what is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owner {
    /// Who owned it when it was backed up.
    #[default]
    Stored,
    /// Whoever restores.
    Own,
    /// This user, and this group or else the stored one.
    Fixed(u32, Option<u32>),
}

/// More than any list of names that a kernel gives (`XATTR_LIST_MAX`).
const LIST_BYTES: usize = 64 << 10;

/// As much as the names of most files.
const FEW_BYTES: usize = 512;
/// The longest value of an attribute (`XATTR_SIZE_MAX`).
const VALUE_BYTES: usize = 64 << 10;

/// The metadata of an entry.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    kind: NodeKind,
    mode: u32,
    owner: Option<(u32, u32)>,
    atime: Timestamp,
    pub(super) mtime: Timestamp,
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl Meta {
    pub(super) fn of(node: NodeRef<'_>, owner: Owner) -> Self {
        Self {
            kind: node.kind(),
            mode: node.mode(),
            owner: match owner {
                Owner::Stored => Some((node.uid(), node.gid())),
                Owner::Own => None,
                Owner::Fixed(uid, gid) => Some((uid, gid.unwrap_or_else(|| node.gid()))),
            },
            atime: node.atime(),
            mtime: node.mtime(),
            xattrs: node.xattrs().filter_map(|(name, value)| Some((c_name(name).ok()?, value.to_vec()))).collect(),
        }
    }

    /// Takes it from an entry of a mounted snapshot, which lies in `dir` or, without a name, is `dir`.
    ///
    /// # Errors
    /// Its attributes cannot be read.
    pub(super) fn of_mounted(
        shared: &Shared,
        kind: NodeKind,
        stat: &Stat,
        dir: BorrowedFd<'_>,
        name: Option<&CStr>,
    ) -> io::Result<Self> {
        let handle = match name {
            Some(name) => Handle::Path(proc_path(dir, name)?),
            None => Handle::Open(dir),
        };
        let time = |secs, nanos| Timestamp { secs, nanos: u32::try_from(nanos).unwrap_or(0) };
        Ok(Self {
            kind,
            mode: stat.st_mode & 0o7777,
            owner: match shared.options.owner {
                Owner::Stored => Some((stat.st_uid, stat.st_gid)),
                Owner::Own => None,
                Owner::Fixed(uid, gid) => Some((uid, gid.unwrap_or(stat.st_gid))),
            },
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            xattrs: read_xattrs(shared, &handle)?,
        })
    }

    /// Gives an open regular file or directory its metadata.
    pub(super) fn apply(&self, shared: &Shared, fd: BorrowedFd<'_>) -> io::Result<()> {
        let now = rustix::fs::fstat(fd)?;
        let owned = self.set_owner(shared, &now, |uid, gid| rustix::fs::fchown(fd, uid, gid))?;
        self.set_xattrs(shared, &Handle::Open(fd))?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode_when(owned)))?;
        rustix::fs::futimens(fd, &self.times())?;
        Ok(())
    }

    /// Gives a name in an open directory its metadata; a symbolic link is not followed.
    pub(super) fn apply_at(&self, shared: &Shared, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        let now = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let owned = self
            .set_owner(shared, &now, |uid, gid| rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
        self.set_xattrs(shared, &Handle::Path(proc_path(dir, name)?))?;
        // A symbolic link has no mode of its own. Nothing else can stand in its place: the entry was just made.
        if self.kind != NodeKind::Symlink {
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(self.mode_when(owned)), AtFlags::empty())?;
        }
        rustix::fs::utimensat(dir, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn mode_when(&self, owned: bool) -> u32 {
        let sticky_of_directories = if self.kind == NodeKind::Dir { 0o1000 } else { 0 };
        if owned { self.mode & 0o7777 } else { self.mode & (0o777 | sticky_of_directories) }
    }

    fn times(&self) -> Timestamps {
        // What the file system cannot hold it clamps itself.
        let spec = |time: Timestamp| Timespec { tv_sec: time.secs, tv_nsec: time.nanos.min(999_999_999).into() };
        Timestamps { last_access: spec(self.atime), last_modification: spec(self.mtime) }
    }

    /// Sets the owner; returns whether the entry belongs to whom it should.
    fn set_owner(
        &self,
        shared: &Shared,
        now: &Stat,
        chown: impl FnOnce(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    ) -> io::Result<bool> {
        let Some((uid, gid)) = self.owner else { return Ok(false) };
        if (now.st_uid, now.st_gid) == (uid, gid) {
            return Ok(true);
        }
        // -1 is nobody's number: system calls take it for `leave it`.
        let wanted = |id: u32| (id != u32::MAX).then_some(id);
        match chown(wanted(uid).map(Uid::from_raw), wanted(gid).map(Gid::from_raw)) {
            Ok(()) => Ok(true),
            // Who may not give files away (an ordinary user, root of a user namespace, root on NFS) keeps them.
            Err(Errno::PERM | Errno::INVAL) if !shared.privileged => {
                shared.note_once(
                    &shared.counters.owner_noted,
                    "owners are not restored: only root may give files away (setuid and setgid bits are left out)",
                );
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the attributes that are stored, and removes what is not: a default ACL of the directory, say.
    fn set_xattrs(&self, shared: &Shared, handle: &Handle<'_>) -> io::Result<()> {
        let stored: BTreeSet<&[u8]> = self.xattrs.iter().map(|(name, _)| name.to_bytes()).collect();
        for name in handle.list()? {
            let is_data = name.to_bytes() != RESTORED_BY.as_bytes();
            if is_data && !stored.contains(name.to_bytes()) && is_ours_to_remove(name.to_bytes()) {
                match handle.remove(&name) {
                    Ok(()) | Err(Errno::NODATA) => {}
                    Err(errno) if is_forgiven(shared, &name, errno) => {}
                    Err(error) => return Err(named("remove attribute", &name, error)),
                }
            }
        }
        for (name, value) in self.xattrs.iter().filter(|(name, _)| name.to_bytes() != RESTORED_BY.as_bytes()) {
            match handle.set(name, value) {
                Ok(()) => {}
                Err(errno) if is_forgiven(shared, name, errno) => {
                    shared.note_once(
                        &shared.counters.xattr_noted,
                        "some extended attributes are not restored: only root with CAP_SYS_ADMIN may set those of `security` and `trusted`",
                    );
                }
                Err(error) => return Err(named("set attribute", name, error)),
            }
        }
        Ok(())
    }
}

/// Reads all attributes. Those of `trusted` may be listed for everybody, and are read by root alone.
fn read_xattrs(shared: &Shared, handle: &Handle<'_>) -> io::Result<Vec<(CString, Vec<u8>)>> {
    let names = handle.list()?;
    let mut buffer = if names.is_empty() { Vec::new() } else { vec![0; VALUE_BYTES] };
    let mut xattrs = Vec::with_capacity(names.len());
    for name in names {
        match handle.get(&name, &mut buffer) {
            Ok(length) => xattrs.push((name, buffer.get(..length).unwrap_or_default().to_vec())),
            Err(errno) if is_forgiven(shared, &name, errno) => {
                shared.note_once(
                    &shared.counters.xattr_noted,
                    "some extended attributes are read by root with CAP_SYS_ADMIN alone, and are not restored",
                );
            }
            Err(error) => return Err(named("read attribute", &name, error)),
        }
    }
    Ok(xattrs)
}

fn named(what: &str, name: &CStr, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{what} {}: {error}", name.to_string_lossy()))
}

/// Whether an attribute may be left out: an ordinary user has few, and root in a container has not those of administrators.
fn is_forgiven(shared: &Shared, name: &CStr, errno: Errno) -> bool {
    match errno {
        // The last one is what the kernel says to who may not read one of `trusted` (fs/xattr.c).
        Errno::PERM | Errno::ACCESS | Errno::NODATA => !shared.privileged || is_for_administrators(name),
        Errno::OPNOTSUPP => !shared.privileged,
        _ => false,
    }
}

/// Whether an attribute takes CAP_SYS_ADMIN of the first user namespace to be read (`trusted`) or set (xattr(7)). Those of files that
/// have capabilities take no more than CAP_SETFCAP, which a Job has, and the programs do not work without.
fn is_for_administrators(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"trusted.") || name.starts_with(b"security.") && name != b"security.capability"
}

/// Attributes that come from the place where a file was made. Labels of security modules are the system's own.
fn is_ours_to_remove(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") || name.starts_with(b"trusted.")
}

/// What attributes are set on.
enum Handle<'a> {
    Open(BorrowedFd<'a>),
    /// Not followed at its end.
    Path(CString),
}

impl Handle<'_> {
    fn list(&self) -> io::Result<Vec<CString>> {
        let list = |buffer: &mut [u8]| match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd.as_fd(), buffer),
            Self::Path(path) => rustix::fs::llistxattr(path.as_c_str(), buffer),
        };
        // Few have more than that.
        let mut few = [0_u8; FEW_BYTES];
        let mut many = Vec::new();
        let names = match list(&mut few) {
            Ok(length) => few.get(..length),
            // The file system has none.
            Err(Errno::OPNOTSUPP) => None,
            Err(Errno::RANGE) => {
                many.resize(LIST_BYTES, 0);
                let length = list(&mut many)?;
                many.get(..length)
            }
            Err(error) => return Err(error.into()),
        };
        names.unwrap_or_default().split(|&b| b == 0).filter(|name| !name.is_empty()).map(c_name).collect()
    }

    /// Reads a value; returns its length.
    fn get(&self, name: &CStr, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::Path(path) => rustix::fs::lgetxattr(path.as_c_str(), name, buffer),
        }
    }

    fn set(&self, name: &CStr, value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Path(path) => rustix::fs::lsetxattr(path.as_c_str(), name, value, XattrFlags::empty()),
        }
    }

    fn remove(&self, name: &CStr) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fremovexattr(fd, name),
            Self::Path(path) => rustix::fs::lremovexattr(path.as_c_str(), name),
        }
    }
}
