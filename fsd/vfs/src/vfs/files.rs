//! Files and their reads.

use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use stash_repo::RepoError;

use super::state::{Context, Stop};
use super::{Inner, Vfs};
use crate::attr::FileType;
use crate::error::{VfsError, VfsResult};
use crate::inode::Ino;
use crate::read::{FileState, ReadData};
use crate::source::Source;

/// The most memory that tables of files take: enough for one of a million blobs.
const TABLE_BYTES: u64 = 8 << 20;

/// So many tables are kept however long they are: those of the files that are being read.
const TABLES_MIN: u32 = 4;

/// Files that are or were being read. The kernel does not say what is open (see `docs/design/0003-no-open.md`), and need not:
/// a state that is gone is made again by the next read, at the cost of its look-ups.
#[derive(Debug)]
pub(super) struct Files {
    states: Cache<Ino, Arc<FileState>>,
}

impl Files {
    pub(super) fn new() -> Self {
        let weight = |_: &Ino, file: &Arc<FileState>| {
            let most = u32::try_from(TABLE_BYTES).unwrap_or(u32::MAX) / TABLES_MIN;
            u32::try_from(file.weight_bytes()).unwrap_or(most).min(most)
        };
        // Least recently used goes first: the default would turn a new file away for one that was read often.
        let policy = EvictionPolicy::lru();
        let states = Cache::builder().max_capacity(TABLE_BYTES).weigher(weight).eviction_policy(policy).build();
        Self { states }
    }

    /// Forgets a state that proved wrong, so that the next read makes another.
    fn drop_state(&self, ino: Ino) {
        self.states.invalidate(&ino);
    }
}

impl Vfs {
    /// Reads from memory; `None` where that needs I/O. Shorter than asked for only at the end of the file, which is where
    /// its blobs end, as in restic; [`crate::Attr::size`] is what the node says.
    #[must_use]
    pub fn try_read(&self, ino: Ino, offset: u64, len_bytes: u32) -> Option<VfsResult<ReadData>> {
        let state = match self.now(|context| self.inner.file_state(context, ino))? {
            Ok(state) => state,
            Err(error) => return Some(Err(error)),
        };
        let source = match self.inner.source(state.repo) {
            Ok(source) => source,
            Err(error) => return Some(Err(error)),
        };
        let read = state.try_read(&*source, offset, len_bytes as usize)?;
        Some(read.map_err(|source| self.inner.failed(ino, source)))
    }

    /// Reads.
    ///
    /// # Errors
    /// `IsADirectory`, `Stale`, `Repo` for this range alone.
    pub async fn read(&self, ino: Ino, offset: u64, len_bytes: u32) -> VfsResult<ReadData> {
        let (state, source) = self.file(ino).await?;
        let error = match state.read(&*source, offset, len_bytes as usize).await {
            Ok(data) => return Ok(data),
            Err(error) => error,
        };
        if !matches!(error, RepoError::BlobMissing { .. }) {
            return Err(self.inner.failed(ino, error));
        }
        // What is lost is looked for again by the next read.
        self.inner.files.drop_state(ino);
        if !self.refresh_index(state.repo).await {
            return Err(self.inner.failed(ino, error));
        }
        // The index has changed: a prune moved the blob, or a backup brought it again.
        let (state, source) = self.file(ino).await?;
        state.read(&*source, offset, len_bytes as usize).await.map_err(|source| self.inner.failed(ino, source))
    }

    pub(super) async fn file(&self, ino: Ino) -> VfsResult<(Arc<FileState>, Arc<dyn Source>)> {
        let state = self.with_io(ino, |context| self.inner.file_state(context, ino)).await?;
        let source = self.inner.source(state.repo)?;
        Ok((state, source))
    }
}

impl Inner {
    fn file_state(&self, context: &Context, ino: Ino) -> Result<Arc<FileState>, Stop> {
        if let Some(state) = self.files.states.get(&ino) {
            return Ok(state);
        }
        if let Some(node) = self.state.lock().layout_node(ino) {
            return Err(match node.file_type() {
                FileType::Dir => VfsError::IsADirectory.into(),
                _ => VfsError::Invalid.into(),
            });
        }
        let node = self.node(context, ino)?;
        node.get(|found| match found.kind() {
            FileType::File => Ok(()),
            FileType::Dir => Err(VfsError::IsADirectory.into()),
            _ => Err(VfsError::Invalid.into()),
        })?;
        self.ahead.on_file(&self.state, node.repo, node.dir, &node.tree, node.position);
        let state = FileState::new(node.repo, node.tree, node.position, self.ahead.is_on());
        // Another reader may have been first.
        Ok(self.files.states.get_with(ino, || Arc::new(state)))
    }

    /// Names what failed.
    pub(super) fn failed(&self, ino: Ino, source: RepoError) -> VfsError {
        let path = self.state.lock().path(ino, |dir| self.sources.get(dir.repo)?.try_tree(&dir.tree));
        VfsError::Repo { path, source }
    }
}
