//! An opened repository.
//!
//! Opening reads the config and a key; the index is taken in by [`Repository::refresh`]. What is read of a repository is
//! bounded, authenticated and hashed here or in the blob engine before a parser sees it.

mod cache_dir;
mod snapshots;
mod store;
mod trees;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::runtime::Handle;

use self::snapshots::Snapshots;
use self::store::Store;
use self::trees::Trees;
use crate::backend::{Backend, BackendErrorKind, FileKind};
use crate::blob::{Blobs, BlobsConfig};
use crate::budget::Budget;
use crate::cache::disk::DiskCache;
use crate::config::Config;
use crate::crypto::MasterKey;
use crate::error::{RepoError, RepoResult};
use crate::format::SMALL_FILE_LIMIT_BYTES;
use crate::format::snapshot::Snapshot;
use crate::format::tree::Tree;
use crate::id::{Id, KeyId, SnapshotId, TreeId};
use crate::index::Index;
use crate::key::search;
use crate::metrics::Metrics;

/// The part of the memory that decoded trees may take: 16 MiB of the default hold the 80,000 entries of a large snapshot.
const TREE_SHARE: usize = 4;

/// The same of a budget that up to 32 repositories share.
const SHARED_TREE_SHARE: usize = 32;

/// How a repository is opened.
#[derive(Debug, Clone)]
pub struct RepositoryOptions {
    /// The folder of all caches; `None` keeps nothing on disk.
    pub cache_dir: Option<PathBuf>,
    /// The most that the disk cache of blobs takes.
    pub cache_size_bytes: u64,
    /// The budget of memory for everything in flight, decoded or fetched ahead, of this repository alone: a process that opens
    /// several, or that a control group limits, divides before ([`share_bytes`](crate::budget::cgroup::share_bytes)).
    pub memory_bytes: usize,
    /// A budget that all repositories of a process share, instead of one of `memory_bytes` for this one.
    pub budget: Option<Budget>,
    /// Hash every data blob, also from a local disk.
    pub verify: bool,
    /// No request outlives this.
    pub deadline: Duration,
    /// The beginning of the id of the key file that the password most likely belongs to.
    pub key_hint: Option<String>,
    /// Where figures go: those that the store counts in.
    pub metrics: Arc<Metrics>,
}

impl Default for RepositoryOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            cache_size_bytes: 4 << 30,
            memory_bytes: 64 << 20,
            budget: None,
            verify: false,
            deadline: Duration::from_secs(30),
            key_hint: None,
            metrics: Arc::default(),
        }
    }
}

/// An opened repository: cheap to clone, shared by all readers.
#[derive(Debug, Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    config: Config,
    key_id: Option<KeyId>,
    /// `<cache>/<repository id>`, made and writable.
    cache_dir: Option<PathBuf>,
    blobs: Blobs,
    trees: Trees,
    snapshots: Snapshots,
}

impl Repository {
    /// Opens a repository: config, key. The index is loaded by [`Repository::refresh`].
    ///
    /// Must be called in a tokio runtime, which serves the repository from then on.
    ///
    /// # Errors
    /// `NoRepository`, `WrongPassword`, `Unsupported` (hot/cold, unknown version), or the store failed.
    pub async fn open(backend: Arc<dyn Backend>, password: &str, options: RepositoryOptions) -> RepoResult<Self> {
        let hint = options.key_hint.as_deref();
        let (sealed, (mut key_id, mut key)) = read_config_and_key(&backend, password, hint).await?;
        if key.verify(&sealed).is_err() {
            (key_id, key) = search::search_for_config(&backend, password, hint, &sealed).await?;
        }
        let config = Config::open(sealed, &key)?;
        Self::assemble(backend, key, Some(key_id), config, options)
    }

    /// Opens a repository whose master key is known, without the work of a password.
    ///
    /// # Errors
    /// As [`Repository::open`]; `WrongMac` for the key of another repository.
    pub async fn open_with_key(
        backend: Arc<dyn Backend>,
        key: MasterKey,
        options: RepositoryOptions,
    ) -> RepoResult<Self> {
        let config = Config::open(read_config(&backend).await?, &key)?;
        Self::assemble(backend, key, None, config, options)
    }

    fn assemble(
        backend: Arc<dyn Backend>,
        key: MasterKey,
        key_id: Option<KeyId>,
        config: Config,
        options: RepositoryOptions,
    ) -> RepoResult<Self> {
        let runtime = Handle::try_current()
            .map_err(|error| RepoError::Local { what: "open the repository".to_owned(), reason: error.to_string() })?;
        let metrics = options.metrics;
        let cache_dir = options.cache_dir.as_deref().and_then(|caches| cache_dir::create(caches, &config.id));
        let index = Index::open(cache_dir.as_ref().map(|dir| dir.join("index")), &key, metrics.clone());
        let store = Arc::new(Store { backend, key, index, metrics });
        let tree_bytes = match &options.budget {
            Some(shared) => shared.limit_bytes() / SHARED_TREE_SHARE,
            None => options.memory_bytes / TREE_SHARE,
        };
        let disk = match cache_dir.as_ref().filter(|_| store.backend.is_remote()) {
            Some(dir) => {
                let dir = dir.join("blobs");
                DiskCache::open(dir, options.cache_size_bytes, &store.key, store.metrics.clone())
            }
            None => DiskCache::disabled(),
        };
        let blobs = Blobs::new(BlobsConfig {
            disk,
            backend: store.backend.clone(),
            locate: Arc::new(store.clone()),
            key: Arc::new(store.key.clone()),
            metrics: store.metrics.clone(),
            runtime: runtime.clone(),
            memory_bytes: options.memory_bytes.saturating_sub(tree_bytes),
            budget: options.budget,
            verify: options.verify,
            deadline: options.deadline,
        })?;
        let trees = Trees::new(blobs.clone(), tree_bytes, options.deadline, store.metrics.clone(), runtime);
        let snapshots = Snapshots::new(store.clone(), cache_dir.as_ref().map(|dir| dir.join("snapshots")));
        let inner = Inner { store, config, key_id, cache_dir, blobs, trees, snapshots };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Lists the index files and takes in what is new; returns whether anything changed.
    ///
    /// # Errors
    /// The list or an index file could not be read.
    pub async fn refresh(&self) -> RepoResult<bool> {
        self.inner.store.refresh_index().await
    }

    /// Lists all snapshots, oldest first. Files that were read before are not read again.
    ///
    /// A snapshot that is damaged or may not be read is left out, counted, logged and named by
    /// [`Repository::unreadable_snapshots`].
    ///
    /// # Errors
    /// The list failed, or the store did not answer for a snapshot: a list that lacks one for a while would be taken for
    /// whole.
    pub async fn snapshots(&self) -> RepoResult<Vec<Arc<Snapshot>>> {
        self.inner.snapshots.list().await
    }

    /// Returns the snapshots that the last list left out.
    #[must_use]
    pub fn unreadable_snapshots(&self) -> Vec<SnapshotId> {
        self.inner.snapshots.unreadable()
    }

    /// Returns a directory if memory holds it.
    #[must_use]
    pub fn try_tree(&self, id: &TreeId) -> Option<Arc<Tree>> {
        self.inner.trees.try_get(id)
    }

    /// Returns a directory that memory does not hold by decoding it on this thread, where that costs less than having it done:
    /// on a local disk, if it is small and the kernel has its bytes. Never waits.
    #[must_use]
    pub fn tree_here(&self, id: &TreeId) -> Option<Arc<Tree>> {
        self.inner.trees.get_here(id)
    }

    /// Returns a directory. Many who ask for one at once share one fetch; dropping the future leaves nothing half done.
    ///
    /// # Errors
    /// It cannot be had or is not a tree.
    pub async fn tree(&self, id: TreeId) -> RepoResult<Arc<Tree>> {
        self.inner.trees.get(id).await
    }

    /// Starts to fetch directories that will be asked for soon, those in front first; never waits. What is more than can be
    /// taken on is left out.
    pub fn prefetch_trees(&self, ids: &[TreeId]) {
        self.inner.trees.prefetch(ids);
    }

    /// Reads a file that is not a pack: checks that it hashes to its id, opens and unpacks it.
    ///
    /// # Errors
    /// The store failed, the file is damaged, or it unpacks to more than `limit_bytes`.
    pub async fn read_unpacked(&self, kind: FileKind, id: &Id, limit_bytes: usize) -> RepoResult<Vec<u8>> {
        self.inner.store.read_unpacked(kind, id, limit_bytes).await
    }

    /// Returns the store.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.inner.store.backend
    }

    /// Returns the store's address, without secrets.
    #[must_use]
    pub fn location(&self) -> &str {
        self.inner.store.backend.location()
    }

    /// Returns what the repository says of itself.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Returns the key that everything is sealed with.
    #[must_use]
    pub fn master_key(&self) -> &MasterKey {
        &self.inner.store.key
    }

    /// Returns the key file that the password opened; `None` where the repository was opened by its master key.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.inner.key_id
    }

    /// Returns the folder of this repository's caches, which exists and belongs to us; `None` if nothing is kept on disk.
    #[must_use]
    pub fn cache_dir(&self) -> Option<&Path> {
        self.inner.cache_dir.as_deref()
    }

    /// Returns the blob engine.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// Returns the index, which follows every refresh.
    #[must_use]
    pub fn index(&self) -> Index {
        self.inner.store.index.clone()
    }

    /// Returns the counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.store.metrics
    }
}

/// Reads the sealed config and finds the key, side by side: on a network each costs round trips. Where both fail, the config
/// says why: a place without a repository has no keys either.
async fn read_config_and_key(
    backend: &Arc<dyn Backend>,
    password: &str,
    key_hint: Option<&str>,
) -> RepoResult<(Vec<u8>, (KeyId, MasterKey))> {
    let sealed = pin!(read_config(backend));
    let found = pin!(search::search(backend, password, key_hint));
    match select(sealed, found).await {
        Either::Left((sealed, found)) => Ok((sealed?, found.await?)),
        Either::Right((found, sealed)) => Ok((sealed.await?, found?)),
    }
}

/// Reads the sealed config.
async fn read_config(backend: &Arc<dyn Backend>) -> RepoResult<Vec<u8>> {
    let read = backend.read_full(FileKind::Config, &Id::default(), SMALL_FILE_LIMIT_BYTES as u64).await;
    match read {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) if error.kind == BackendErrorKind::NotFound => {
            Err(RepoError::NoRepository { location: backend.location().to_owned() })
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
