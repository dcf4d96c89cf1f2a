//! The floor of FUSE: our adapter over a tree that answers from memory, so that nothing but the kernel's protocol costs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use stash_fs::fuse::mount::MountOptions;
use stash_fs::fuse::{DispatchOptions, FuseSession, ReadTree, SessionOptions};
use stash_vfs::{Attr, DirSink, Entry, FileType, Ino, ReadData, StatFs, VfsError, VfsResult};

use crate::measure::sequential;

/// As long as the file that the mounts are measured with.
const FILE_BYTES: u64 = 2 << 30;
/// One reply's bytes lie in this; reads take slices of it.
const PATTERN_BYTES: usize = 2 << 20;
const FILE: Ino = Ino(2);
const NAME: &[u8] = b"floor.bin";
const TTL: Duration = Duration::from_secs(3600);

/// A directory with one file.
#[derive(Debug, Clone)]
struct MemoryTree {
    pattern: Bytes,
}

impl MemoryTree {
    fn entry(ino: Ino) -> VfsResult<Entry> {
        let (kind, size, mode) = match ino {
            Ino::ROOT => (FileType::Dir, 0, 0o755),
            FILE => (FileType::File, FILE_BYTES, 0o644),
            _ => return Err(VfsError::Stale),
        };
        let time = stash_repo::Timestamp::default();
        let attr = Attr {
            ino,
            kind,
            size,
            blocks: size / 512,
            mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
        };
        Ok(Entry { attr, ttl: TTL })
    }
}

impl ReadTree for MemoryTree {
    fn try_lookup(&self, parent: Ino, name: &[u8]) -> Option<VfsResult<Entry>> {
        Some(if parent == Ino::ROOT && name == NAME { Self::entry(FILE) } else { Err(VfsError::NotFound) })
    }

    async fn lookup(&self, parent: Ino, name: &[u8]) -> VfsResult<Entry> {
        self.try_lookup(parent, name).unwrap_or(Err(VfsError::NotFound))
    }

    fn forget(&self, _: &[(Ino, u64)]) {}

    fn try_getattr(&self, ino: Ino) -> Option<VfsResult<Entry>> {
        Some(Self::entry(ino))
    }

    async fn getattr(&self, ino: Ino) -> VfsResult<Entry> {
        Self::entry(ino)
    }

    async fn readlink(&self, _: Ino) -> VfsResult<Bytes> {
        Err(VfsError::Invalid)
    }

    fn try_readdir<S: DirSink>(&self, _: Ino, offset: u64, plus: bool, sink: &mut S) -> Option<VfsResult<()>> {
        if offset == 0 {
            let entry = Self::entry(FILE).ok();
            sink.add(FILE, 1, FileType::File, NAME, entry.as_ref().filter(|_| plus));
        }
        Some(Ok(()))
    }

    async fn readdir<S: DirSink + Send>(&self, ino: Ino, offset: u64, plus: bool, sink: &mut S) -> VfsResult<()> {
        self.try_readdir(ino, offset, plus, sink).unwrap_or(Ok(()))
    }

    fn try_read(&self, _: Ino, offset: u64, len_bytes: u32) -> Option<VfsResult<ReadData>> {
        let len = FILE_BYTES.saturating_sub(offset).min(u64::from(len_bytes)).min(PATTERN_BYTES as u64);
        Some(Ok(self.pattern.slice(..len as usize).into()))
    }

    async fn read(&self, ino: Ino, offset: u64, len_bytes: u32) -> VfsResult<ReadData> {
        self.try_read(ino, offset, len_bytes).unwrap_or(Err(VfsError::Stale))
    }

    async fn seek(&self, _: Ino, offset: u64, hole: bool) -> VfsResult<u64> {
        Ok(if hole { FILE_BYTES } else { offset })
    }

    async fn getxattr(&self, _: Ino, _: &[u8]) -> VfsResult<Bytes> {
        Err(VfsError::NoAttribute)
    }

    async fn listxattr(&self, _: Ino) -> VfsResult<Vec<Bytes>> {
        Ok(Vec::new())
    }

    fn statfs(&self) -> StatFs {
        StatFs { block_bytes: 4096, name_bytes: 255, ..StatFs::default() }
    }
}

/// Mounts the memory tree on `at` and reads its file from end to end; returns its length and how long it took.
pub(crate) fn read_through_kernel(at: &Path) -> Result<(u64, Duration)> {
    std::fs::create_dir_all(at)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let tree = MemoryTree { pattern: vec![0x5a; PATTERN_BYTES].into() };
    let options = SessionOptions {
        mount: MountOptions { source: "floor".to_owned(), allow_other: false, default_permissions: true },
        threads: 1,
        read_ahead_kib: 4096,
        dispatch: DispatchOptions::default(),
    };
    let session = FuseSession::start(tree, at, &options, runtime.handle().clone(), Arc::default())?;
    let read = sequential(&at.join("floor.bin")).context("read the floor's file");
    session.unmount(false)?;
    read
}
