//! The operations.
//!
//! Every operation is written once, as a synchronous function over what memory holds ([`state`]) that stops where it lacks a
//! directory or a fresh list. `try_*` gives up there; the async twin fetches what is lacking and starts again, keeping what it
//! fetched, so that no eviction can make it go in circles.

mod files;
mod list;
mod readahead;
mod state;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use stash_repo::budget::Budget;
use stash_repo::{RepoError, Repository, TreeId};

use crate::attr::{Attr, Entry, FileType, Owners};
use crate::error::{VfsError, VfsResult};
use crate::inode::{Ino, InodeTable, table};
use crate::namespace::layout::LayoutKind;
use crate::namespace::{NamespaceOptions, Pin};
use crate::source::Source;
use files::Files;
use list::Lists;
use readahead::ReadAhead;
use state::{Context, Lack, Node, State, Stop};

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
    /// Extended attributes whose names begin so are not shown.
    pub hidden_xattrs: Option<&'static str>,
    /// A budget that the table of inodes shares with data; without it the table is bounded by its limit alone.
    pub budget: Option<Budget>,
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
    /// What the repositories store, in blocks: all of it is used and nothing free.
    pub blocks: u64,
    /// Inodes that the kernel holds, the root among them.
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
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    sources: Vec<Arc<dyn Source>>,
    owners: Owners,
    /// Never held over a wait. Locks are taken in the order state, files.
    state: Mutex<State>,
    lists: Lists,
    files: Files,
    ahead: ReadAhead,
    hidden_xattrs: Option<&'static str>,
}

/// Name and value of an extended attribute.
type Xattr<'a> = (&'a [u8], &'a [u8]);

/// What `statfs` counts in.
const STATFS_BLOCK_BYTES: u32 = 4096;

/// The longest name that Linux takes (`NAME_MAX`). Longer ones in a backup are not shown: a kernel would refuse the whole
/// directory.
pub(crate) const NAME_BYTES: usize = 255;

impl Vfs {
    /// Builds the tree: lists snapshots, and resolves a root if one is asked for, so that a bad one fails here.
    ///
    /// # Errors
    /// A list failed, a template makes no sense, or the root does not exist.
    pub async fn new(mounted: Vec<Mounted>, options: VfsOptions) -> VfsResult<Self> {
        Self::with_table(mounted, options, InodeTable::new(table::DEFAULT_LIMIT, None)).await
    }

    /// As [`Vfs::new`], going on with the inodes that another process held, or keeping them where another can find them.
    ///
    /// # Errors
    /// As [`Vfs::new`].
    pub async fn with_table(mounted: Vec<Mounted>, options: VfsOptions, table: InodeTable) -> VfsResult<Self> {
        let parts = mounted
            .into_iter()
            .map(|mounted| {
                let source: Arc<dyn Source> = Arc::new(mounted.repository);
                (mounted.name, source, mounted.namespace)
            })
            .collect();
        Self::over(parts, options, table, list::INTERVAL).await
    }

    pub(crate) async fn over(
        parts: Vec<(String, Arc<dyn Source>, NamespaceOptions)>,
        options: VfsOptions,
        table: InodeTable,
        list_interval: Duration,
    ) -> VfsResult<Self> {
        let owners = Owners::new(options.owner_root, options.uid, options.gid, options.layout_owner);
        let sources: Vec<Arc<dyn Source>> = parts.iter().map(|(_, source, _)| Arc::clone(source)).collect();
        let (lists, layout) = Lists::open(parts, &owners, list_interval).await?;
        let inner = Inner {
            owners,
            state: Mutex::new(State::new(table, Arc::new(layout), options.budget)),
            lists,
            files: Files::new(),
            ahead: ReadAhead::new(&sources, options.prefetch),
            hidden_xattrs: options.hidden_xattrs,
            sources,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns, for each repository in the order of [`Vfs::new`], which snapshot its root is: what a process that takes the
    /// mount over puts into [`NamespaceOptions::pinned`]. `None` where all snapshots are shown.
    #[must_use]
    pub fn pins(&self) -> Vec<Option<Pin>> {
        self.inner.lists.pins()
    }

    /// Runs an operation on what memory holds, or not at all.
    fn now<T>(&self, operation: impl FnOnce(&Context) -> Result<T, Stop>) -> Option<VfsResult<T>> {
        match operation(&Context::default()) {
            Ok(value) => Some(Ok(value)),
            Err(Stop::Fail(error)) => Some(Err(error)),
            Err(Stop::Lack(_)) => None,
        }
    }

    /// Runs an operation until it lacks nothing. `ino` is what it is about, for messages.
    async fn with_io<T>(&self, ino: Ino, mut operation: impl FnMut(&Context) -> Result<T, Stop>) -> VfsResult<T> {
        let mut context = Context::default();
        let mut refreshed = false;
        loop {
            match operation(&context) {
                Ok(value) => return Ok(value),
                Err(Stop::Fail(error)) => return Err(error),
                Err(Stop::Lack(Lack::Tree { repo, id })) => {
                    let source = self.inner.source(repo)?;
                    match source.tree(id).await {
                        Ok(tree) => context.trees.push((id, tree)),
                        // A prune may have moved it.
                        Err(RepoError::BlobMissing { .. }) if !refreshed && self.refresh_index(repo).await => {
                            refreshed = true;
                        }
                        Err(source) => return Err(self.inner.failed(ino, source)),
                    }
                }
                Err(Stop::Lack(Lack::List { repo })) => {
                    self.look_again(repo).await;
                    context.listed = true;
                }
            }
        }
    }

    /// Finds a name; `None` where that needs I/O.
    #[must_use]
    pub fn try_lookup(&self, parent: Ino, name: &[u8]) -> Option<VfsResult<Entry>> {
        self.now(|context| self.inner.lookup(context, parent, name))
    }

    /// Finds a name.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `NameTooLong`, `TooManyInodes`, `Stale`, `Repo`.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> VfsResult<Entry> {
        self.with_io(parent, |context| self.inner.lookup(context, parent, name)).await
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.forget_all(&[(ino, count)]);
    }

    /// Takes back so many lookups of each.
    pub fn forget_all(&self, lookups: &[(Ino, u64)]) {
        self.inner.state.lock().forget(lookups);
    }

    /// Returns attributes; `None` where that needs I/O.
    #[must_use]
    pub fn try_getattr(&self, ino: Ino) -> Option<VfsResult<Entry>> {
        self.now(|context| self.inner.getattr(context, ino))
    }

    /// Returns attributes.
    ///
    /// # Errors
    /// `Stale`, `Repo`.
    pub async fn getattr(&self, ino: Ino) -> VfsResult<Entry> {
        self.with_io(ino, |context| self.inner.getattr(context, ino)).await
    }

    /// Returns where a symbolic link points.
    ///
    /// # Errors
    /// `Invalid` for another kind, `Stale`, `Repo`.
    pub async fn readlink(&self, ino: Ino) -> VfsResult<Bytes> {
        self.with_io(ino, |context| {
            let state = self.inner.state.lock();
            if let Some(node) = state.layout_node(ino) {
                return match &node.kind {
                    LayoutKind::Link(target) => Ok(Bytes::copy_from_slice(target.as_bytes())),
                    LayoutKind::Dir { .. } | LayoutKind::Snapshot(_) => Err(VfsError::Invalid.into()),
                };
            }
            drop(state);
            self.inner.node(context, ino)?.get(|node| match node.kind() {
                FileType::Symlink => Ok(Bytes::copy_from_slice(node.link_target())),
                _ => Err(VfsError::Invalid.into()),
            })
        })
        .await
    }

    /// Gives a directory's entries from `offset` on to `sink`, `.` and `..` included; `None` (and nothing given) where that
    /// needs I/O. With `plus` every entry but those two comes with attributes and counts as a lookup, unless the table of
    /// inodes is full: then it comes without.
    pub fn try_readdir<S: DirSink>(&self, ino: Ino, offset: u64, plus: bool, sink: &mut S) -> Option<VfsResult<()>> {
        self.now(|context| self.inner.readdir(context, ino, offset, plus, sink))
    }

    /// As [`Vfs::try_readdir`], with I/O.
    ///
    /// # Errors
    /// `NotADirectory`, `TooManyInodes`, `Stale`, `Repo`.
    pub async fn readdir<S: DirSink + Send>(&self, ino: Ino, offset: u64, plus: bool, sink: &mut S) -> VfsResult<()> {
        self.with_io(ino, |context| self.inner.readdir(context, ino, offset, plus, sink)).await
    }

    /// Finds the next data (`hole` false) or hole (`hole` true) at or after `offset`. Holes are what [`Attr::blocks`] leaves
    /// out.
    ///
    /// # Errors
    /// `BeyondEnd`, `Stale`, `Repo`.
    pub async fn seek(&self, ino: Ino, offset: u64, hole: bool) -> VfsResult<u64> {
        let (file, source) = self.file(ino).await?;
        file.seek(&*source, offset, hole).await?.map_err(|source| self.inner.failed(ino, source))
    }

    /// Returns an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `Stale`, `Repo`.
    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> VfsResult<Bytes> {
        if self.is_hidden(name) {
            return Err(VfsError::NoAttribute);
        }
        let found = self.xattrs(ino, |mut xattrs| {
            Iterator::find(&mut xattrs, |(own, _)| *own == name).map(|(_, value)| Bytes::copy_from_slice(value))
        });
        found.await?.ok_or(VfsError::NoAttribute)
    }

    /// Returns the names of all extended attributes.
    ///
    /// # Errors
    /// `Stale`, `Repo`.
    pub async fn listxattr(&self, ino: Ino) -> VfsResult<Vec<Bytes>> {
        self.xattrs(ino, |xattrs| xattrs.map(|(name, _)| Bytes::copy_from_slice(name)).collect()).await
    }

    fn is_hidden(&self, xattr: &[u8]) -> bool {
        self.inner.hidden_xattrs.is_some_and(|prefix| xattr.starts_with(prefix.as_bytes()))
    }

    /// Looks at the extended attributes that are shown. Of what the layout shows only a directory of a backup has any.
    async fn xattrs<T>(&self, ino: Ino, look: impl Fn(&mut dyn Iterator<Item = Xattr<'_>>) -> T) -> VfsResult<T> {
        let shown = |(name, _): &Xattr<'_>| !self.is_hidden(name);
        self.with_io(ino, |context| {
            if let Some(node) = self.inner.state.lock().layout_node(ino) {
                let own = node.own().into_iter().flat_map(|own| &own.xattrs);
                return Ok(look(&mut own.map(|(name, value)| (&name[..], &value[..])).filter(shown)));
            }
            self.inner.node(context, ino)?.get(|node| Ok(look(&mut node.xattrs().filter(shown))))
        })
        .await
    }

    /// Returns figures of the whole tree.
    #[must_use]
    pub fn statfs(&self) -> StatFs {
        let files = self.inner.state.lock().table.len();
        let stored_bytes =
            self.inner.sources.iter().fold(0_u64, |sum, source| sum.saturating_add(source.stored_bytes()));
        let blocks = stored_bytes.div_ceil(STATFS_BLOCK_BYTES.into());
        StatFs { block_bytes: STATFS_BLOCK_BYTES, blocks, files: files.into(), name_bytes: 255 }
    }

    /// Resolves a path from the root, without following symbolic links; counts one lookup of what it returns.
    ///
    /// # Errors
    /// As [`Vfs::lookup`].
    pub async fn resolve(&self, path: &[u8]) -> VfsResult<Attr> {
        let mut at = self.getattr(Ino::ROOT).await?.attr;
        for name in path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
            let found = self.lookup(at.ino, name).await;
            if at.ino != Ino::ROOT {
                self.forget(at.ino, 1);
            }
            at = found?.attr;
        }
        Ok(at)
    }
}

impl Inner {
    fn source(&self, repo: usize) -> VfsResult<Arc<dyn Source>> {
        self.sources.get(repo).map(Arc::clone).ok_or(VfsError::Stale)
    }

    /// Returns a directory from what was just fetched or from memory.
    fn tree(&self, context: &Context, repo: usize, id: TreeId) -> Result<Arc<stash_repo::Tree>, Stop> {
        if let Some((_, tree)) = context.trees.iter().find(|(fetched, _)| *fetched == id) {
            return Ok(Arc::clone(tree));
        }
        let source = self.source(repo)?;
        source.try_tree(&id).or_else(|| source.tree_here(&id)).ok_or(Stop::Lack(Lack::Tree { repo, id }))
    }

    fn lookup(&self, context: &Context, parent: Ino, name: &[u8]) -> Result<Entry, Stop> {
        if name.len() > NAME_BYTES {
            return Err(VfsError::NameTooLong.into());
        }
        let mut state = self.state.lock();
        if let Some(dir) = state.layout_dir(parent)? {
            if let Some(repo) = dir.repo().filter(|repo| !context.listed && self.lists.is_old(*repo)) {
                return Err(Stop::Lack(Lack::List { repo }));
            }
            return state.layout_lookup(&dir, name, &self.owners);
        }
        let dir = self.dir(&mut state, context, parent)?;
        let tree = self.tree(context, dir.repo, dir.tree)?;
        let node = tree.find(name).ok_or(VfsError::NotFound)?;
        let entry = state.admit(&dir, parent, node, &self.owners)?;
        state.commit()?;
        Ok(entry)
    }

    fn getattr(&self, context: &Context, ino: Ino) -> Result<Entry, Stop> {
        if let Some(entry) = self.state.lock().layout_entry(ino, &self.owners) {
            return Ok(entry);
        }
        self.node(context, ino)?.get(|node| Ok(state::entry(ino, node, &self.owners)))
    }

    /// Finds the node of an inode below a snapshot.
    fn node(&self, context: &Context, ino: Ino) -> Result<Node, Stop> {
        let mut state = self.state.lock();
        let record = state.table.get(ino).ok_or(VfsError::Stale)?;
        let position = record.tree_position().ok_or(VfsError::Stale)?;
        let parent = Ino(record.parent);
        let dir = self.dir(&mut state, context, parent)?;
        drop(state);
        let tree = self.tree(context, dir.repo, dir.tree)?;
        Ok(Node { repo: dir.repo, dir: parent, tree, position })
    }

    fn readdir<S: DirSink>(
        &self,
        context: &Context,
        ino: Ino,
        offset: u64,
        plus: bool,
        sink: &mut S,
    ) -> Result<(), Stop> {
        let mut state = self.state.lock();
        if let Some(dir) = state.layout_dir(ino)? {
            if let Some(repo) = dir.repo().filter(|repo| !context.listed && self.lists.is_old(*repo)) {
                return Err(Stop::Lack(Lack::List { repo }));
            }
            return state.layout_readdir(&dir, offset, plus, sink, &self.owners);
        }
        let dir = self.dir(&mut state, context, ino)?;
        let tree = self.tree(context, dir.repo, dir.tree)?;
        state.readdir(&dir, &tree, ino, offset, plus, sink, &self.owners)?;
        drop(state);
        if offset == 0 {
            self.ahead.on_readdir(&self.state, dir.repo, ino, &tree);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
