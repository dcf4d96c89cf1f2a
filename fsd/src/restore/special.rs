//! Entries that are neither files nor directories: symbolic links, devices, fifos and sockets.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use stash_repo::{NodeKind, Timestamp};

use super::Shared;
use super::decide::Existing;
use super::delete::part_name;
use super::entry::{Entry, part_hash};
use super::meta::Meta;
use super::root::file_type;

/// Returns what stands at a place.
pub(super) fn existing(stat: &Stat) -> Existing {
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let mtime = Timestamp { secs: stat.st_mtime, nanos };
    match file_type(stat) {
        FileType::Directory => Existing::Dir,
        FileType::RegularFile => Existing::File { size: stat.st_size.cast_unsigned(), mtime },
        _ => Existing::Other { mtime },
    }
}

/// Returns whether a symbolic link, device, fifo or socket stands there already.
pub(super) fn is_same_special(dir: &OwnedFd, name: &CStr, stat: &Stat, entry: &Entry) -> io::Result<bool> {
    Ok(match (entry.kind(), file_type(stat)) {
        (NodeKind::Symlink, FileType::Symlink) => {
            let wanted = entry.link_target()?;
            rustix::fs::readlinkat(dir, name, Vec::new()).is_ok_and(|target| target.to_bytes() == &*wanted)
        }
        (NodeKind::Fifo, FileType::Fifo) | (NodeKind::Socket, FileType::Socket) => true,
        (NodeKind::BlockDevice, FileType::BlockDevice) | (NodeKind::CharDevice, FileType::CharacterDevice) => {
            stat.st_rdev == entry.rdev()
        }
        _ => false,
    })
}

/// Makes a symbolic link, device, fifo or socket beside its place, and moves it there.
pub(super) fn make_special(shared: &Shared, dir: &OwnedFd, name: &CStr, entry: &Entry, meta: &Meta) -> io::Result<()> {
    let part = part_name(&part_hash(entry.path()));
    let _ = rustix::fs::unlinkat(dir, part.as_c_str(), AtFlags::empty());
    let node_of = |kind, device| rustix::fs::mknodat(dir, part.as_c_str(), kind, Mode::RUSR | Mode::WUSR, device);
    match entry.kind() {
        NodeKind::Symlink => {
            let target = CString::new(&*entry.link_target()?)
                .map_err(|_| io::Error::other("the symbolic link's target holds a NUL byte"))?;
            rustix::fs::symlinkat(target.as_c_str(), dir, part.as_c_str())?;
        }
        NodeKind::BlockDevice => node_of(FileType::BlockDevice, entry.rdev())?,
        NodeKind::CharDevice => node_of(FileType::CharacterDevice, entry.rdev())?,
        NodeKind::Fifo => node_of(FileType::Fifo, 0)?,
        NodeKind::Socket => node_of(FileType::Socket, 0)?,
        NodeKind::File | NodeKind::Dir => return Err(io::ErrorKind::InvalidInput.into()),
    }
    let placed = meta
        .apply_at(shared, dir.as_fd(), &part)
        .and_then(|()| Ok(rustix::fs::renameat(dir, part.as_c_str(), dir, name)?));
    if placed.is_err() {
        let _ = rustix::fs::unlinkat(dir, part.as_c_str(), AtFlags::empty());
    }
    placed
}
