//! An opened repository.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::blob::Blobs;
use crate::error::RepoResult;
use crate::format::snapshot::Snapshot;
use crate::format::tree::Tree;
use crate::id::TreeId;
use crate::index::Index;
use crate::metrics::Metrics;

/// How a repository is opened.
#[derive(Debug, Clone)]
pub struct RepositoryOptions {
    /// The folder of all caches; `None` keeps nothing on disk.
    pub cache_dir: Option<PathBuf>,
    /// The most that the disk cache of blobs takes.
    pub cache_size_bytes: u64,
    /// The budget of memory for everything in flight, decoded or fetched ahead.
    pub memory_bytes: usize,
    /// Hash every data blob, also from a local disk.
    pub verify: bool,
    /// No request outlives this.
    pub deadline: Duration,
}

impl Default for RepositoryOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            cache_size_bytes: 4 << 30,
            memory_bytes: 64 << 20,
            verify: false,
            deadline: Duration::from_secs(30),
        }
    }
}

/// An opened repository: cheap to clone, shared by all readers.
#[derive(Debug, Clone)]
pub struct Repository {
    _inner: Arc<()>,
}

impl Repository {
    /// Opens a repository: config, key. The index is loaded by [`Repository::refresh`].
    ///
    /// # Errors
    /// `NoRepository`, `WrongPassword`, `Unsupported` (hot/cold, unknown version), or the store failed.
    pub async fn open(backend: Arc<dyn Backend>, password: &str, options: RepositoryOptions) -> RepoResult<Self> {
        let _ = (backend, password, options);
        todo!()
    }

    /// Lists the index files and takes in what is new; returns whether anything changed.
    ///
    /// # Errors
    /// The list or an index file could not be read.
    pub async fn refresh(&self) -> RepoResult<bool> {
        todo!()
    }

    /// Lists all snapshots, oldest first. Files that were read before are not read again.
    ///
    /// # Errors
    /// The list failed. A snapshot that cannot be read is left out, counted and logged.
    pub async fn snapshots(&self) -> RepoResult<Vec<Arc<Snapshot>>> {
        todo!()
    }

    /// Returns a directory if memory holds it.
    #[must_use]
    pub fn try_tree(&self, id: &TreeId) -> Option<Arc<Tree>> {
        let _ = id;
        todo!()
    }

    /// Returns a directory.
    ///
    /// # Errors
    /// It cannot be had or is not a tree.
    pub async fn tree(&self, id: TreeId) -> RepoResult<Arc<Tree>> {
        let _ = id;
        todo!()
    }

    /// Starts to fetch directories that will be asked for soon; never waits.
    pub fn prefetch_trees(&self, ids: &[TreeId]) {
        let _ = ids;
        todo!()
    }

    /// Returns the store.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        todo!()
    }

    /// Returns the blob engine.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        todo!()
    }

    /// Returns the index as it is now.
    #[must_use]
    pub fn index(&self) -> Index {
        todo!()
    }

    /// Returns the counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        todo!()
    }
}
