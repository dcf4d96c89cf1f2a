//! Bounded parsers of what a repository, which may be hostile, holds. No I/O here.
//!
//! All take a slice that the caller has authenticated and bounded (the limits are here), allocate no more than a small
//! multiple of its length, never recurse on its account, and never panic.

pub mod blob_segment;
pub mod go_mode;
pub mod index_file;
pub mod index_segment;
mod json;
mod number;
pub(crate) mod quote;
pub mod seal;
pub mod snapshot;
mod time;
pub mod tree;
pub mod unpacked;

use crate::error::RepoError;
use crate::id::Id;

/// The longest index file, as plain JSON. restic starts a new one at 50,000 blobs, thus near 8 MiB.
pub const INDEX_LIMIT_BYTES: usize = 64 << 20;
/// The longest tree, as plain JSON: about 150,000 entries.
pub const TREE_LIMIT_BYTES: usize = 64 << 20;
/// The longest snapshot file, as plain JSON.
pub const SNAPSHOT_LIMIT_BYTES: usize = 1 << 20;
/// The longest blob, plain. restic's chunker cuts at 8 MiB; other writers let the user set more.
pub const BLOB_LIMIT_BYTES: usize = 64 << 20;
/// The longest key file and `config` file; real ones have less than 1 KiB.
pub const SMALL_FILE_LIMIT_BYTES: usize = 64 << 10;

/// Bytes that are not what their format asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct FormatError {
    /// Expected against actual, with the place in the bytes where that helps.
    pub reason: String,
}

impl FormatError {
    /// Makes an error.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }

    /// Says which file it was.
    #[must_use]
    pub fn of(self, what: &'static str, id: Id) -> RepoError {
        RepoError::Format { what, id, reason: self.reason }
    }
}

impl From<json::JsonError> for FormatError {
    fn from(error: json::JsonError) -> Self {
        Self::new(error.to_string())
    }
}
