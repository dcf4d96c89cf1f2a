//! What `stat` shows.
//!
//! Directories have one link, whatever they hold: to count their subdirectories, each would have to be decoded before its
//! parent may be listed. 1 is what btrfs and overlayfs say for "not counted", and `find` and `fts` then count themselves.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use stash_repo::{NodeRef, Timestamp};

use crate::inode::Ino;
use crate::sparse;

pub use stash_repo::NodeKind as FileType;

/// The attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Which inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileType,
    /// Its size; for a symbolic link the length of its target.
    pub size: u64,
    /// 512-byte blocks that are not holes.
    pub blocks: u64,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u32,
    /// Hard links as stored, at least 1; 1 for directories.
    pub nlink: u32,
    /// The owner, after mapping.
    pub uid: u32,
    /// The group, after mapping.
    pub gid: u32,
    /// The device number of a device node, in the kernel's encoding for FUSE (32 bits).
    pub rdev: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
}

/// An inode with how long a kernel may believe in its name and its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The attributes.
    pub attr: Attr,
    /// Long below a snapshot, which never changes; short where snapshots are listed.
    pub ttl: Duration,
}

/// How long a kernel may believe in what lies below a snapshot. It never changes; a day is as good as for ever.
pub const SNAPSHOT_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a kernel may believe in where snapshots are listed: a name that was forgotten, or that a new snapshot has taken,
/// is seen after this at the latest.
pub const LAYOUT_TTL: Duration = Duration::from_secs(1);

/// Who owns what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owners {
    /// Everything belongs to this user.
    pub(crate) uid: Option<u32>,
    /// Everything belongs to this group.
    pub(crate) gid: Option<u32>,
    /// The owner of what no backup holds.
    pub(crate) layout: (u32, u32),
}

impl Owners {
    pub(crate) fn new(owner_root: bool, uid: Option<u32>, gid: Option<u32>, layout: Option<(u32, u32)>) -> Self {
        let uid = uid.or_else(|| owner_root.then_some(0));
        let gid = gid.or_else(|| owner_root.then_some(0));
        // The owner of a process's directory in /proc is its effective user.
        let own = || std::fs::metadata("/proc/self").map_or((0, 0), |meta| (meta.uid(), meta.gid()));
        let (layout_uid, layout_gid) = layout.unwrap_or_else(own);
        Self { uid, gid, layout: (uid.unwrap_or(layout_uid), gid.unwrap_or(layout_gid)) }
    }
}

/// Returns the attributes of a node of a backup.
pub(crate) fn of_node(ino: Ino, node: NodeRef<'_>, owners: &Owners) -> Attr {
    let kind = node.kind();
    let (size, blocks) = match kind {
        FileType::File => (node.size(), sparse::blocks(node.size(), node.content())),
        FileType::Symlink => (node.link_target().len() as u64, 0),
        FileType::Dir | FileType::BlockDevice | FileType::CharDevice | FileType::Fifo | FileType::Socket => (0, 0),
    };
    let rdev = match kind {
        FileType::BlockDevice | FileType::CharDevice => encode_rdev(node.rdev()),
        _ => 0,
    };
    let nlink = match kind {
        FileType::Dir => 1,
        _ => u32::try_from(node.links()).unwrap_or(u32::MAX).max(1),
    };
    Attr {
        ino,
        kind,
        size,
        blocks,
        mode: node.mode() & 0o7777,
        nlink,
        uid: owners.uid.unwrap_or_else(|| node.uid()),
        gid: owners.gid.unwrap_or_else(|| node.gid()),
        rdev,
        atime: node.atime(),
        mtime: node.mtime(),
        ctime: node.ctime(),
    }
}

/// Returns the attributes of a directory or link of the layout.
pub(crate) fn of_layout(ino: Ino, kind: FileType, size: u64, time: Timestamp, owners: &Owners) -> Attr {
    Attr {
        ino,
        kind,
        size,
        blocks: 0,
        mode: if kind == FileType::Symlink { 0o777 } else { 0o555 },
        nlink: 1,
        uid: owners.layout.0,
        gid: owners.layout.1,
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
    }
}

/// Re-encodes a `st_rdev` as the kernel's `new_encode_dev` does (`include/linux/kdev_t.h`): 12 bits of major, 20 of minor.
/// What does not fit names no device of this kernel: 0.
fn encode_rdev(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    if major < 1 << 12 && minor < 1 << 20 { (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12) } else { 0 }
}

/// Returns a time as inodes have it: whole seconds downwards, nanoseconds upwards.
pub(crate) fn timestamp(time: &jiff::Zoned) -> Timestamp {
    let nanos = time.timestamp().as_nanosecond();
    Timestamp {
        secs: i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or_default(),
        nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_rdev_encoding() {
        for (major, minor, expected) in [
            (1, 3, 0x103),
            (8, 1, 0x801),
            (259, 0, 0x1_0300),
            (4_095, 255, 0xf_ffff),
            (10, 0x1_2345, 0x1230_0a45),
            (4_095, 0xf_ffff, 0xffff_ffff),
            (4_096, 0, 0),
            (0, 0x10_0000, 0),
        ] {
            assert_eq!(encode_rdev(libc::makedev(major, minor)), expected, "{major}:{minor}");
        }
    }

    #[test]
    fn test_owners() {
        let table = [
            ((true, None, None, Some((5, 6))), (Some(0), Some(0), (0, 0))),
            ((false, Some(7), None, Some((5, 6))), (Some(7), None, (7, 6))),
            ((true, Some(7), Some(8), Some((5, 6))), (Some(7), Some(8), (7, 8))),
            ((false, None, None, Some((5, 6))), (None, None, (5, 6))),
        ];
        for ((root, uid, gid, layout), (own_uid, own_gid, own_layout)) in table {
            let owners = Owners::new(root, uid, gid, layout);
            assert_eq!((owners.uid, owners.gid, owners.layout), (own_uid, own_gid, own_layout));
        }
    }

    #[test]
    fn test_time_before_1970() {
        let time: jiff::Zoned = "1969-12-31T23:59:59.25+00:00[UTC]".parse().unwrap();
        assert_eq!(timestamp(&time), Timestamp { secs: -1, nanos: 250_000_000 });
    }
}
