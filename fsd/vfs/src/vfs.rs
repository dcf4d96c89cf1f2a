//! The operations.

use std::sync::Arc;

use bytes::Bytes;
use stash_repo::Repository;

use crate::attr::{Attr, Entry, FileType};
use crate::error::VfsResult;
use crate::inode::Ino;
use crate::namespace::NamespaceOptions;
use crate::read::ReadData;

/// A repository in a mount.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// The name of its directory where a mount holds several repositories; not used where it holds one.
    pub name: String,
    /// The repository, its index loaded.
    pub repository: Repository,
    /// Its layout.
    pub namespace: NamespaceOptions,
}

/// How the tree is shown.
#[derive(Debug, Clone, Default)]
pub struct VfsOptions {
    /// Everything belongs to 0:0.
    pub owner_root: bool,
    /// Everything belongs to this user.
    pub uid: Option<u32>,
    /// Everything belongs to this group.
    pub gid: Option<u32>,
    /// Who owns the directories that no backup holds (the layout): by default the process's own.
    pub layout_owner: Option<(u32, u32)>,
    /// Fetch ahead of readers.
    pub prefetch: bool,
}

/// Where a directory's entries go. One call an entry, in a stable order.
pub trait DirSink {
    /// Takes an entry; `next` is the offset at which a reader goes on after it. Returns true if it did not fit.
    fn add(&mut self, ino: Ino, next: u64, kind: FileType, name: &[u8], entry: Option<&Entry>) -> bool;
}

/// Figures of the whole tree for `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatFs {
    /// Block size.
    pub block_bytes: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Inodes that the kernel holds.
    pub files: u64,
    /// The longest name.
    pub name_bytes: u32,
}

/// A read-only tree over the snapshots of one or several repositories.
///
/// Every `lookup` and every entry given to a sink of `readdir` with `plus` counts one lookup of its inode, which `forget`
/// takes back, as FUSE counts them.
#[derive(Debug, Clone)]
pub struct Vfs {
    _inner: Arc<()>,
}

impl Vfs {
    /// Builds the tree: lists snapshots, and resolves a root if one is asked for, so that a bad one fails here.
    ///
    /// # Errors
    /// A list failed, or the root does not exist.
    pub async fn new(mounted: Vec<Mounted>, options: VfsOptions) -> VfsResult<Self> {
        let _ = (mounted, options);
        todo!()
    }

    /// Finds a name; `None` where that needs I/O.
    #[must_use]
    pub fn try_lookup(&self, parent: Ino, name: &[u8]) -> Option<VfsResult<Entry>> {
        let _ = (parent, name);
        todo!()
    }

    /// Finds a name.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `Stale`, `Repo`.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> VfsResult<Entry> {
        let _ = (parent, name);
        todo!()
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, ino: Ino, count: u64) {
        let _ = (ino, count);
        todo!()
    }

    /// Returns attributes; `None` where that needs I/O.
    #[must_use]
    pub fn try_getattr(&self, ino: Ino) -> Option<VfsResult<Entry>> {
        let _ = ino;
        todo!()
    }

    /// Returns attributes.
    ///
    /// # Errors
    /// `Stale`, `Repo`.
    pub async fn getattr(&self, ino: Ino) -> VfsResult<Entry> {
        let _ = ino;
        todo!()
    }

    /// Returns where a symbolic link points.
    ///
    /// # Errors
    /// `Invalid` for another kind, `Stale`, `Repo`.
    pub async fn readlink(&self, ino: Ino) -> VfsResult<Bytes> {
        let _ = ino;
        todo!()
    }

    /// Gives a directory's entries from `offset` on to `sink`, `.` and `..` included; `None` (and nothing given) where that
    /// needs I/O. With `plus` every entry but those two comes with attributes and counts as a lookup.
    pub fn try_readdir<S: DirSink>(&self, ino: Ino, offset: u64, plus: bool, sink: &mut S) -> Option<VfsResult<()>> {
        let _ = (ino, offset, plus, sink);
        todo!()
    }

    /// As [`Vfs::try_readdir`], with I/O.
    ///
    /// # Errors
    /// `NotADirectory`, `Stale`, `Repo`.
    pub async fn readdir<S: DirSink + Send>(&self, ino: Ino, offset: u64, plus: bool, sink: &mut S) -> VfsResult<()> {
        let _ = (ino, offset, plus, sink);
        todo!()
    }

    /// A file was opened: its prefetch state lives until as many `release`s.
    ///
    /// # Errors
    /// `IsADirectory`, `Stale`.
    pub fn open(&self, ino: Ino) -> VfsResult<()> {
        let _ = ino;
        todo!()
    }

    /// A file was closed.
    pub fn release(&self, ino: Ino) {
        let _ = ino;
        todo!()
    }

    /// Reads from memory; `None` where that needs I/O. Shorter than asked for only at the end of the file.
    #[must_use]
    pub fn try_read(&self, ino: Ino, offset: u64, len_bytes: u32) -> Option<VfsResult<ReadData>> {
        let _ = (ino, offset, len_bytes);
        todo!()
    }

    /// Reads.
    ///
    /// # Errors
    /// `IsADirectory`, `Stale`, `Repo` for this range alone.
    pub async fn read(&self, ino: Ino, offset: u64, len_bytes: u32) -> VfsResult<ReadData> {
        let _ = (ino, offset, len_bytes);
        todo!()
    }

    /// Finds the next data (`hole` false) or hole (`hole` true) at or after `offset`.
    ///
    /// # Errors
    /// `BeyondEnd`, `Stale`, `Repo`.
    pub async fn seek(&self, ino: Ino, offset: u64, hole: bool) -> VfsResult<u64> {
        let _ = (ino, offset, hole);
        todo!()
    }

    /// Returns an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `Stale`, `Repo`.
    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> VfsResult<Bytes> {
        let _ = (ino, name);
        todo!()
    }

    /// Returns the names of all extended attributes.
    ///
    /// # Errors
    /// `Stale`, `Repo`.
    pub async fn listxattr(&self, ino: Ino) -> VfsResult<Vec<Bytes>> {
        let _ = ino;
        todo!()
    }

    /// Returns figures of the whole tree.
    #[must_use]
    pub fn statfs(&self) -> StatFs {
        todo!()
    }

    /// Resolves a path from the root, without following symbolic links; counts one lookup of what it returns.
    ///
    /// # Errors
    /// As [`Vfs::lookup`].
    pub async fn resolve(&self, path: &[u8]) -> VfsResult<Attr> {
        let _ = path;
        todo!()
    }
}
