//! Blobs: from an id to authenticated plain bytes.

use std::ops::Deref;
use std::sync::Arc;

use crate::error::RepoResult;
use crate::id::BlobId;

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobKind {
    /// A piece of a file.
    Data,
    /// A directory.
    Tree,
}

/// Plain bytes of a blob, from its beginning; shared, cheap to clone. The last clone gives the buffer back.
///
/// It may hold fewer bytes than the blob has where the caller asked for a prefix (see [`Blobs::get`]).
#[derive(Debug, Clone)]
pub struct BlobData {
    _inner: Arc<Vec<u8>>,
}

impl Deref for BlobData {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self._inner
    }
}

/// The blob engine of one repository.
#[derive(Debug, Clone)]
pub struct Blobs {
    _inner: Arc<()>,
}

impl Blobs {
    /// Returns the first `upto` bytes (all for `usize::MAX`) if memory holds them; never waits, never does I/O.
    #[must_use]
    pub fn try_get(&self, id: &BlobId, upto: usize) -> Option<BlobData> {
        let _ = (id, upto);
        todo!()
    }

    /// Returns at least the first `upto` bytes of a blob (all for `usize::MAX`), authenticated.
    ///
    /// A random reader passes the end of what it needs, and pays for decoding no further.
    ///
    /// # Errors
    /// No source could serve it, or the deadline passed.
    pub async fn get(&self, id: BlobId, kind: BlobKind, upto: usize) -> RepoResult<BlobData> {
        let _ = (id, kind, upto);
        todo!()
    }

    /// Returns whole blobs, fetched together: neighbours in a pack cost one request.
    pub async fn get_many(&self, ids: &[BlobId], kind: BlobKind) -> Vec<RepoResult<BlobData>> {
        let _ = (ids, kind);
        todo!()
    }

    /// Starts to fetch blobs that will be asked for soon, as many from the front as the budget admits, and returns how
    /// many were taken on (or were there already). Never waits. Failures show up when the blob is asked for.
    pub fn prefetch(&self, ids: &[BlobId], kind: BlobKind) -> usize {
        let _ = (ids, kind);
        todo!()
    }

    /// Returns how long a blob's plain bytes are, by the index; `Ok(None)` for a lost blob.
    ///
    /// # Errors
    /// The index could not be read.
    pub fn plain_bytes(&self, id: &BlobId) -> RepoResult<Option<u32>> {
        let _ = id;
        todo!()
    }
}
