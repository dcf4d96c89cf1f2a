//! What the tree asks of a repository.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use stash_repo::{BlobData, BlobId, BlobKind, RepoResult, Repository, Snapshot, Tree, TreeId};

/// A repository as this crate uses it; tests have their own. `try_*` never waits and does no I/O.
pub(crate) trait Source: fmt::Debug + Send + Sync + 'static {
    /// Whether a read costs a network round trip.
    fn is_remote(&self) -> bool;
    /// Lists all snapshots, oldest first.
    fn snapshots(&self) -> BoxFuture<'_, RepoResult<Vec<Arc<Snapshot>>>>;
    /// Takes in new index files.
    fn refresh(&self) -> BoxFuture<'_, RepoResult<bool>>;
    fn try_tree(&self, id: &TreeId) -> Option<Arc<Tree>>;
    /// A small tree, decoded on this thread; never waits.
    fn tree_here(&self, id: &TreeId) -> Option<Arc<Tree>> {
        let _ = id;
        None
    }
    fn tree(&self, id: TreeId) -> BoxFuture<'_, RepoResult<Arc<Tree>>>;
    fn prefetch_trees(&self, ids: &[TreeId]);
    fn try_blob(&self, id: &BlobId, upto: usize) -> Option<BlobData>;
    /// A small blob, decoded on this thread; never waits. With `keep` memory keeps it.
    fn blob_here(&self, id: &BlobId, keep: bool) -> Option<BlobData> {
        let _ = (id, keep);
        None
    }
    fn blob(&self, id: BlobId, upto: usize) -> BoxFuture<'_, RepoResult<BlobData>>;
    /// Starts to fetch; returns how many from the front were taken on.
    fn prefetch_blobs(&self, ids: &[BlobId]) -> usize;
    /// Starts to download what comes after that, to be decoded later; returns how many from the front were taken on.
    fn stage_blobs(&self, ids: &[BlobId]) -> usize {
        let _ = ids;
        0
    }
    /// Says that memory need not keep these blobs any longer.
    fn let_go(&self, ids: &[BlobId]) {
        let _ = ids;
    }
    /// How many bytes the repository stores by the index; no I/O.
    fn stored_bytes(&self) -> u64;
    /// A blob's plain length by the index: at most one page read. `None` if no index names it.
    fn plain_bytes(&self, id: &BlobId) -> RepoResult<Option<u32>>;
}

impl Source for Repository {
    fn is_remote(&self) -> bool {
        self.backend().is_remote()
    }

    fn snapshots(&self) -> BoxFuture<'_, RepoResult<Vec<Arc<Snapshot>>>> {
        Box::pin(self.snapshots())
    }

    fn refresh(&self) -> BoxFuture<'_, RepoResult<bool>> {
        Box::pin(self.refresh())
    }

    fn try_tree(&self, id: &TreeId) -> Option<Arc<Tree>> {
        self.try_tree(id)
    }

    fn tree_here(&self, id: &TreeId) -> Option<Arc<Tree>> {
        self.tree_here(id)
    }

    fn tree(&self, id: TreeId) -> BoxFuture<'_, RepoResult<Arc<Tree>>> {
        Box::pin(self.tree(id))
    }

    fn prefetch_trees(&self, ids: &[TreeId]) {
        self.prefetch_trees(ids);
    }

    fn try_blob(&self, id: &BlobId, upto: usize) -> Option<BlobData> {
        self.blobs().try_get(id, upto)
    }

    fn blob_here(&self, id: &BlobId, keep: bool) -> Option<BlobData> {
        self.blobs().get_here(id, BlobKind::Data, keep)
    }

    fn blob(&self, id: BlobId, upto: usize) -> BoxFuture<'_, RepoResult<BlobData>> {
        Box::pin(self.blobs().get(id, BlobKind::Data, upto))
    }

    fn prefetch_blobs(&self, ids: &[BlobId]) -> usize {
        self.blobs().prefetch(ids, BlobKind::Data)
    }

    fn stage_blobs(&self, ids: &[BlobId]) -> usize {
        self.blobs().stage(ids)
    }

    fn let_go(&self, ids: &[BlobId]) {
        self.blobs().let_go(ids, BlobKind::Data);
    }

    fn stored_bytes(&self) -> u64 {
        self.index().stored_bytes()
    }

    fn plain_bytes(&self, id: &BlobId) -> RepoResult<Option<u32>> {
        self.blobs().plain_bytes(id)
    }
}
