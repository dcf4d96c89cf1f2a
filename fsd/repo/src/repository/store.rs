//! A repository's files: read, authenticated, and taken into the index.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::backend::{Backend, FileKind};
use crate::blob::Locate;
use crate::crypto::{MasterKey, OVERHEAD_BYTES};
use crate::error::{RepoError, RepoResult};
use crate::format::index_file::{self, IndexedBlob};
use crate::format::{INDEX_LIMIT_BYTES, unpacked};
use crate::id::{BlobId, Id, IndexId};
use crate::index::{BlobLocation, Index, IndexSource};
use crate::metrics::Metrics;

/// What reads of all kinds share.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) key: MasterKey,
    pub(super) index: Index,
    pub(super) metrics: Arc<Metrics>,
}

/// The longest stored file whose plain bytes are within a limit: what zstd cannot shrink grows by less than 1/256.
fn stored_limit(plain_limit: usize) -> u64 {
    (plain_limit + plain_limit / 256 + 1024 + OVERHEAD_BYTES) as u64
}

impl Store {
    /// Lists the index files and takes in what is new.
    pub(super) async fn refresh_index(self: &Arc<Self>) -> RepoResult<bool> {
        let listed = self.backend.list(FileKind::Index).await?;
        self.index.refresh(&listed, Arc::new(IndexFiles(self.clone()))).await
    }

    /// Reads a file as it is stored.
    pub(super) async fn read_stored(&self, kind: FileKind, id: &Id, plain_limit: usize) -> RepoResult<Bytes> {
        Ok(self.backend.read_full(kind, id, stored_limit(plain_limit)).await?)
    }

    /// Reads a file that is not a pack. See [`super::Repository::read_unpacked`].
    pub(super) async fn read_unpacked(&self, kind: FileKind, id: &Id, limit: usize) -> RepoResult<Vec<u8>> {
        let stored = self.read_stored(kind, id, limit).await?;
        self.open(kind, id, stored, limit, |json| Ok(json.to_vec()))
    }

    /// Checks that a stored file hashes to its id, opens and unpacks it, and gives its JSON to `parse`.
    pub(super) fn open<T>(
        &self,
        kind: FileKind,
        id: &Id,
        stored: Bytes,
        limit: usize,
        parse: impl FnOnce(&[u8]) -> RepoResult<T>,
    ) -> RepoResult<T> {
        let what = name(kind);
        let actual = Id::hash(&stored);
        if actual != *id {
            return Err(RepoError::WrongHash { what, id: *id, actual });
        }
        let mut sealed = Vec::from(stored);
        let plain = self.key.open_in_place(&mut sealed).map_err(|_| RepoError::WrongMac { what, id: *id })?;
        let json = unpacked::decode(plain, limit).map_err(|error| error.of(what, *id))?;
        parse(&json)
    }
}

/// What errors call a file of this kind.
fn name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Config => "config",
        FileKind::Key => "key",
        FileKind::Lock => "lock",
        FileKind::Snapshot => "snapshot",
        FileKind::Index => "index",
        FileKind::Pack => "pack",
    }
}

#[async_trait]
impl Locate for Arc<Store> {
    fn lookup(&self, id: &BlobId) -> RepoResult<Option<BlobLocation>> {
        self.index.lookup(id)
    }

    fn lookup_all(&self, id: &BlobId) -> RepoResult<Vec<BlobLocation>> {
        self.index.lookup_all(id)
    }

    async fn refresh(&self) -> RepoResult<bool> {
        self.refresh_index().await
    }
}

/// The index files, for the index.
struct IndexFiles(Arc<Store>);

#[async_trait]
impl IndexSource for IndexFiles {
    fn concurrency(&self) -> usize {
        self.0.backend.concurrency()
    }

    async fn fetch(&self, id: IndexId) -> RepoResult<Bytes> {
        self.0.read_stored(FileKind::Index, &id.0, INDEX_LIMIT_BYTES).await
    }

    fn parse(&self, id: IndexId, stored: Bytes, each: &mut dyn FnMut(IndexedBlob)) -> RepoResult<()> {
        self.0.open(FileKind::Index, &id.0, stored, INDEX_LIMIT_BYTES, |json| {
            let info = index_file::parse(json, each).map_err(|error| error.of("index", id.0))?;
            if info.rejected > 0 {
                tracing::warn!(index = %id.0.short(), entries = info.rejected, "an index file names blobs that cannot be");
            }
            Ok(())
        })
    }
}
