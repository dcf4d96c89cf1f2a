//! The index: from a blob's id to where it lies.

use std::sync::Arc;

use crate::blob::BlobKind;
use crate::error::RepoResult;
use crate::id::{BlobId, PackId};

/// Where a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobLocation {
    /// In which pack.
    pub pack: PackId,
    /// Where its ciphertext begins.
    pub offset: u32,
    /// How long nonce, ciphertext and MAC are together.
    pub len_bytes: u32,
    /// How long the plain bytes are if they are compressed (format 2); `None` if they are stored as they are.
    pub uncompressed_bytes: Option<u32>,
    /// Data or tree.
    pub kind: BlobKind,
}

/// The overhead of an encrypted blob: 16 bytes of nonce and 16 of MAC.
pub const CIPHER_OVERHEAD_BYTES: u32 = 32;

impl BlobLocation {
    /// Returns how long the blob's plain bytes are.
    #[must_use]
    pub fn plain_bytes(&self) -> u32 {
        self.uncompressed_bytes.unwrap_or_else(|| self.len_bytes.saturating_sub(CIPHER_OVERHEAD_BYTES))
    }
}

/// All index files of a repository, searchable.
#[derive(Debug, Clone)]
pub struct Index {
    _inner: Arc<()>,
}

impl Index {
    /// Finds a blob: at most one page read, no wait on the network. `Ok(None)` if no index file names it.
    ///
    /// # Errors
    /// The page on disk is damaged (the segment is dropped and rebuilt by the next refresh).
    pub fn lookup(&self, id: &BlobId) -> RepoResult<Option<BlobLocation>> {
        let _ = id;
        todo!()
    }

    /// Finds every place of a blob, for healing.
    ///
    /// # Errors
    /// As [`Index::lookup`].
    pub fn lookup_all(&self, id: &BlobId) -> RepoResult<Vec<BlobLocation>> {
        let _ = id;
        todo!()
    }
}
