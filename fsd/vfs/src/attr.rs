//! What `stat` shows.

use std::time::Duration;

use stash_repo::Timestamp;

use crate::inode::Ino;

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
    /// Hard links, at least 1.
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
