//! From (file, offset, length) to bytes.

use std::ops::Deref;

use bytes::Bytes;
use stash_repo::BlobData;

/// The bytes of a read: a piece of one blob, shared with the cache, or bytes put together from several.
#[derive(Debug, Clone)]
pub enum ReadData {
    /// A range of one blob.
    Blob(BlobData, std::ops::Range<usize>),
    /// Bytes of several blobs, or of a hole.
    Bytes(Bytes),
}

impl Deref for ReadData {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Blob(blob, range) => blob.get(range.clone()).unwrap_or_default(),
            Self::Bytes(bytes) => bytes,
        }
    }
}
