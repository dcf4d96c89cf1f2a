//! A tree that answers from memory: the floor of what FUSE itself costs, and a tree that fails on demand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use stash_fs::fuse::ReadTree;
use stash_repo::{RepoError, Timestamp};
use stash_vfs::{Attr, DirSink, Entry, FileType, Ino, ReadData, StatFs, VfsError, VfsResult};

/// What an inode of the tree is.
#[derive(Debug, Clone)]
pub enum Content {
    /// A directory: names and inodes, in the order in which they are listed.
    Dir(Vec<(Vec<u8>, Ino)>),
    /// A file.
    File(Bytes),
    /// A symbolic link.
    Symlink(Vec<u8>),
}

/// How an inode misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What memory holds panics, on the fuser thread.
    PanicAtOnce,
    /// Memory holds nothing, and the task panics.
    PanicLater,
    /// Memory holds nothing, and the task never ends.
    Never,
    /// Memory holds nothing, and the task fails.
    Fail,
    /// Memory holds nothing; the task answers.
    Later,
}

#[derive(Debug)]
struct Node {
    content: Content,
    fault: Option<Fault>,
    xattrs: Vec<(Bytes, Bytes)>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: HashMap<u64, Node>,
    lookups: Mutex<HashMap<u64, u64>>,
}

/// The tree. Build it first, then share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree(Arc<Inner>);

/// Makes a [`MemoryTree`].
#[derive(Debug)]
pub struct MemoryTreeBuilder {
    nodes: HashMap<u64, Node>,
    next: u64,
}

impl Default for MemoryTreeBuilder {
    fn default() -> Self {
        let root = Node { content: Content::Dir(Vec::new()), fault: None, xattrs: Vec::new() };
        Self { nodes: HashMap::from([(Ino::ROOT.0, root)]), next: 2 }
    }
}

impl MemoryTreeBuilder {
    /// Adds an inode below a directory.
    pub fn add(&mut self, parent: Ino, name: impl AsRef<[u8]>, content: Content) -> Ino {
        let ino = Ino(self.next);
        self.next += 1;
        self.nodes.insert(ino.0, Node { content, fault: None, xattrs: Vec::new() });
        match &mut self.nodes.get_mut(&parent.0).unwrap().content {
            Content::Dir(entries) => entries.push((name.as_ref().to_vec(), ino)),
            other => panic!("{other:?} is no directory"),
        }
        ino
    }

    /// Adds a directory.
    pub fn dir(&mut self, parent: Ino, name: impl AsRef<[u8]>) -> Ino {
        self.add(parent, name, Content::Dir(Vec::new()))
    }

    /// Adds a file.
    pub fn file(&mut self, parent: Ino, name: impl AsRef<[u8]>, bytes: impl Into<Bytes>) -> Ino {
        self.add(parent, name, Content::File(bytes.into()))
    }

    /// Makes an inode misbehave when it is read or listed.
    pub fn fault(&mut self, ino: Ino, fault: Fault) {
        self.nodes.get_mut(&ino.0).unwrap().fault = Some(fault);
    }

    /// Adds an extended attribute.
    pub fn xattr(&mut self, ino: Ino, name: &'static str, value: &[u8]) {
        let pair = (Bytes::from_static(name.as_bytes()), Bytes::copy_from_slice(value));
        self.nodes.get_mut(&ino.0).unwrap().xattrs.push(pair);
    }

    /// Ends building.
    #[must_use]
    pub fn build(self) -> MemoryTree {
        MemoryTree(Arc::new(Inner { nodes: self.nodes, ..Inner::default() }))
    }
}

impl MemoryTree {
    /// Starts a tree.
    #[must_use]
    pub fn builder() -> MemoryTreeBuilder {
        MemoryTreeBuilder::default()
    }

    /// Returns how many lookups the kernel has not taken back.
    #[must_use]
    pub fn lookups(&self) -> u64 {
        self.0.lookups.lock().unwrap().values().sum()
    }

    fn node(&self, ino: Ino) -> VfsResult<&Node> {
        self.0.nodes.get(&ino.0).ok_or(VfsError::Stale)
    }

    fn entry(&self, ino: Ino) -> VfsResult<Entry> {
        let (kind, size, mode) = match &self.node(ino)?.content {
            Content::Dir(_) => (FileType::Dir, 0, 0o755),
            Content::File(bytes) => (FileType::File, bytes.len() as u64, 0o644),
            Content::Symlink(target) => (FileType::Symlink, target.len() as u64, 0o777),
        };
        let time = Timestamp { secs: 1_500_000_000, nanos: 123_456_789 };
        let blocks = size.div_ceil(512);
        let attr = Attr {
            ino,
            kind,
            size,
            blocks,
            mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
        };
        Ok(Entry { attr, ttl: Duration::from_secs(86_400) })
    }

    fn count(&self, ino: Ino) {
        *self.0.lookups.lock().unwrap().entry(ino.0).or_default() += 1;
    }

    fn find(&self, parent: Ino, name: &[u8]) -> VfsResult<Entry> {
        let Content::Dir(entries) = &self.node(parent)?.content else { return Err(VfsError::NotADirectory) };
        // The floor's directories are large: a binary search, where they are sorted, as a real one has.
        let place = match entries.binary_search_by(|(have, _)| have.as_slice().cmp(name)) {
            Ok(place) => Some(place),
            Err(_) => entries.iter().position(|(have, _)| have == name),
        };
        let (_, ino) = &entries[place.ok_or(VfsError::NotFound)?];
        let entry = self.entry(*ino)?;
        self.count(*ino);
        Ok(entry)
    }

    fn list(&self, ino: Ino, offset: u64, plus: bool, sink: &mut impl DirSink) -> VfsResult<()> {
        let Content::Dir(entries) = &self.node(ino)?.content else { return Err(VfsError::NotADirectory) };
        for place in offset..entries.len() as u64 + 2 {
            let full = match place {
                0 => sink.add(ino, 1, FileType::Dir, b".", None),
                1 => sink.add(Ino::ROOT, 2, FileType::Dir, b"..", None),
                _ => {
                    let (name, child) = &entries[usize::try_from(place - 2).unwrap()];
                    let entry = self.entry(*child)?;
                    let full = sink.add(*child, place + 1, entry.attr.kind, name, plus.then_some(&entry));
                    if plus && !full {
                        self.count(*child);
                    }
                    full
                }
            };
            if full {
                break;
            }
        }
        Ok(())
    }

    fn bytes(&self, ino: Ino, offset: u64, len_bytes: u32) -> VfsResult<ReadData> {
        match &self.node(ino)?.content {
            Content::File(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(len_bytes as usize).min(bytes.len());
                Ok(bytes.slice(start..end).into())
            }
            Content::Dir(_) => Err(VfsError::IsADirectory),
            Content::Symlink(_) => Err(VfsError::Invalid),
        }
    }

    /// Whether memory answers for this inode.
    fn at_once(&self, ino: Ino) -> bool {
        match self.node(ino).ok().and_then(|node| node.fault) {
            None => true,
            Some(Fault::PanicAtOnce) => panic!("asked to panic at once"),
            Some(_) => false,
        }
    }

    async fn later(&self, ino: Ino) -> VfsResult<()> {
        match self.node(ino)?.fault {
            None | Some(Fault::Later | Fault::PanicAtOnce) => Ok(()),
            Some(Fault::PanicLater) => panic!("asked to panic later"),
            Some(Fault::Never) => std::future::pending().await,
            Some(Fault::Fail) => {
                let source = RepoError::Unsupported { reason: "asked to fail".into() };
                Err(VfsError::Repo { path: format!("/inode/{}", ino.0), source })
            }
        }
    }
}

impl ReadTree for MemoryTree {
    fn try_lookup(&self, parent: Ino, name: &[u8]) -> Option<VfsResult<Entry>> {
        Some(self.find(parent, name))
    }

    async fn lookup(&self, parent: Ino, name: &[u8]) -> VfsResult<Entry> {
        self.find(parent, name)
    }

    fn forget(&self, all: &[(Ino, u64)]) {
        let mut lookups = self.0.lookups.lock().unwrap();
        for (ino, count) in all {
            let left = lookups.get_mut(&ino.0).unwrap_or_else(|| panic!("{ino:?} was never looked up"));
            *left = left.checked_sub(*count).unwrap_or_else(|| panic!("{ino:?} was forgotten too often"));
        }
    }

    fn try_getattr(&self, ino: Ino) -> Option<VfsResult<Entry>> {
        Some(self.entry(ino))
    }

    async fn getattr(&self, ino: Ino) -> VfsResult<Entry> {
        self.entry(ino)
    }

    async fn readlink(&self, ino: Ino) -> VfsResult<Bytes> {
        self.later(ino).await?;
        match &self.node(ino)?.content {
            Content::Symlink(target) => Ok(Bytes::copy_from_slice(target)),
            _ => Err(VfsError::Invalid),
        }
    }

    fn try_readdir<S: DirSink>(&self, ino: Ino, offset: u64, plus: bool, sink: &mut S) -> Option<VfsResult<()>> {
        self.at_once(ino).then(|| self.list(ino, offset, plus, sink))
    }

    async fn readdir<S: DirSink + Send>(&self, ino: Ino, offset: u64, plus: bool, sink: &mut S) -> VfsResult<()> {
        let fault = self.node(ino)?.fault;
        // A listing that fails fails on its way, not before.
        self.list(ino, offset, plus, sink)?;
        if fault.is_some() { self.later(ino).await } else { Ok(()) }
    }

    fn try_read(&self, ino: Ino, offset: u64, len_bytes: u32) -> Option<VfsResult<ReadData>> {
        self.at_once(ino).then(|| self.bytes(ino, offset, len_bytes))
    }

    async fn read(&self, ino: Ino, offset: u64, len_bytes: u32) -> VfsResult<ReadData> {
        self.later(ino).await?;
        self.bytes(ino, offset, len_bytes)
    }

    async fn seek(&self, ino: Ino, offset: u64, hole: bool) -> VfsResult<u64> {
        match &self.node(ino)?.content {
            Content::File(bytes) if offset < bytes.len() as u64 => Ok(if hole { bytes.len() as u64 } else { offset }),
            _ => Err(VfsError::BeyondEnd),
        }
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> VfsResult<Bytes> {
        let found = self.node(ino)?.xattrs.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.clone()).ok_or(VfsError::NoAttribute)
    }

    async fn listxattr(&self, ino: Ino) -> VfsResult<Vec<Bytes>> {
        Ok(self.node(ino)?.xattrs.iter().map(|(name, _)| name.clone()).collect())
    }

    fn statfs(&self) -> StatFs {
        StatFs { block_bytes: 4096, blocks: 1000, files: self.0.nodes.len() as u64, name_bytes: 255 }
    }
}
