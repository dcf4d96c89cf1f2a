//! What a mount needs of a tree.

use std::future::Future;

use bytes::Bytes;
use stash_vfs::{DirSink, Entry, Ino, ReadData, StatFs, Vfs, VfsResult};

/// A read-only tree that can be mounted.
///
/// `try_*` answers from memory and never waits, or returns `None`; its twin does I/O. `lookup`, and every entry of a
/// `readdir` with `plus` except `.` and `..`, counts one lookup that `forget` takes back.
pub trait ReadTree: Clone + Send + Sync + 'static {
    /// Finds a name; `None` where that needs I/O.
    fn try_lookup(&self, parent: Ino, name: &[u8]) -> Option<VfsResult<Entry>>;
    /// Finds a name.
    fn lookup(&self, parent: Ino, name: &[u8]) -> impl Future<Output = VfsResult<Entry>> + Send;
    /// Takes back lookups, so many of each.
    fn forget(&self, lookups: &[(Ino, u64)]);
    /// Returns attributes; `None` where that needs I/O.
    fn try_getattr(&self, ino: Ino) -> Option<VfsResult<Entry>>;
    /// Returns attributes.
    fn getattr(&self, ino: Ino) -> impl Future<Output = VfsResult<Entry>> + Send;
    /// Returns where a symbolic link points.
    fn readlink(&self, ino: Ino) -> impl Future<Output = VfsResult<Bytes>> + Send;
    /// Lists a directory; `None`, and nothing given to the sink, where that needs I/O.
    fn try_readdir<S: DirSink>(&self, ino: Ino, offset: u64, plus: bool, sink: &mut S) -> Option<VfsResult<()>>;
    /// Lists a directory.
    fn readdir<S: DirSink + Send>(
        &self,
        ino: Ino,
        offset: u64,
        plus: bool,
        sink: &mut S,
    ) -> impl Future<Output = VfsResult<()>> + Send;
    /// Reads; `None` where that needs I/O.
    fn try_read(&self, ino: Ino, offset: u64, len_bytes: u32) -> Option<VfsResult<ReadData>>;
    /// Reads.
    fn read(&self, ino: Ino, offset: u64, len_bytes: u32) -> impl Future<Output = VfsResult<ReadData>> + Send;
    /// Finds the next data, or the next hole.
    fn seek(&self, ino: Ino, offset: u64, hole: bool) -> impl Future<Output = VfsResult<u64>> + Send;
    /// Returns an extended attribute.
    fn getxattr(&self, ino: Ino, name: &[u8]) -> impl Future<Output = VfsResult<Bytes>> + Send;
    /// Returns the names of all extended attributes.
    fn listxattr(&self, ino: Ino) -> impl Future<Output = VfsResult<Vec<Bytes>>> + Send;
    /// Returns figures of the whole tree.
    fn statfs(&self) -> StatFs;
}

impl ReadTree for Vfs {
    fn try_lookup(&self, parent: Ino, name: &[u8]) -> Option<VfsResult<Entry>> {
        Self::try_lookup(self, parent, name)
    }

    fn lookup(&self, parent: Ino, name: &[u8]) -> impl Future<Output = VfsResult<Entry>> + Send {
        Self::lookup(self, parent, name)
    }

    fn forget(&self, lookups: &[(Ino, u64)]) {
        self.forget_all(lookups);
    }

    fn try_getattr(&self, ino: Ino) -> Option<VfsResult<Entry>> {
        Self::try_getattr(self, ino)
    }

    fn getattr(&self, ino: Ino) -> impl Future<Output = VfsResult<Entry>> + Send {
        Self::getattr(self, ino)
    }

    fn readlink(&self, ino: Ino) -> impl Future<Output = VfsResult<Bytes>> + Send {
        Self::readlink(self, ino)
    }

    fn try_readdir<S: DirSink>(&self, ino: Ino, offset: u64, plus: bool, sink: &mut S) -> Option<VfsResult<()>> {
        Self::try_readdir(self, ino, offset, plus, sink)
    }

    fn readdir<S: DirSink + Send>(
        &self,
        ino: Ino,
        offset: u64,
        plus: bool,
        sink: &mut S,
    ) -> impl Future<Output = VfsResult<()>> + Send {
        Self::readdir(self, ino, offset, plus, sink)
    }

    fn try_read(&self, ino: Ino, offset: u64, len_bytes: u32) -> Option<VfsResult<ReadData>> {
        Self::try_read(self, ino, offset, len_bytes)
    }

    fn read(&self, ino: Ino, offset: u64, len_bytes: u32) -> impl Future<Output = VfsResult<ReadData>> + Send {
        Self::read(self, ino, offset, len_bytes)
    }

    fn seek(&self, ino: Ino, offset: u64, hole: bool) -> impl Future<Output = VfsResult<u64>> + Send {
        Self::seek(self, ino, offset, hole)
    }

    fn getxattr(&self, ino: Ino, name: &[u8]) -> impl Future<Output = VfsResult<Bytes>> + Send {
        Self::getxattr(self, ino, name)
    }

    fn listxattr(&self, ino: Ino) -> impl Future<Output = VfsResult<Vec<Bytes>>> + Send {
        Self::listxattr(self, ino)
    }

    fn statfs(&self) -> StatFs {
        Self::statfs(self)
    }
}
