//! Where a repository's files lie: lists, ranged reads, writes and removals.
//!
//! One trait, [`Backend`], and one implementation for each way to reach a store. Concerns that all share are decorators:
//! a timeout *inside* each retry, a total deadline, a limit of parallel requests, a limit of bandwidth, metrics, and for
//! tests recorded and injected calls. Only the retry decorator retries, and it reads [`BackendError::retry`] only.
//!
//! Invariants: a failed list is an error, never a short list. A read returns exactly the bytes asked for or an error.
//! Messages carry no secrets: not from the URL, not from a response body.

mod child;
pub mod connect;
mod decorated;
mod error;
pub mod faulty;
mod http;
pub mod local;
mod located;
pub mod location;
pub mod memory;
mod opendal;
mod rclone;
pub mod recorded;
mod rest;
mod settings;
mod sftp;
mod tls;

pub use connect::{ConnectOptions, connect, decorated};
pub use decorated::Operation;
pub use local::LocalBackend;
pub use location::Location;

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::id::Id;

/// The kinds of files in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKind {
    /// The one `config` file. Its id is all zeros here and not part of its path.
    Config,
    /// `keys/<id>`
    Key,
    /// `locks/<id>`
    Lock,
    /// `snapshots/<id>`
    Snapshot,
    /// `index/<id>`
    Index,
    /// `data/<first two digits>/<id>`
    Pack,
}

impl FileKind {
    /// All kinds that are listed, thus all but `Config`.
    pub const LISTED: [Self; 5] = [Self::Key, Self::Lock, Self::Snapshot, Self::Index, Self::Pack];

    /// Returns the name of the folder (restic's default layout), or `config`.
    #[must_use]
    pub const fn dirname(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Key => "keys",
            Self::Lock => "locks",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
        }
    }

    /// Returns the path below the repository's root.
    ///
    /// Source: restic, `doc/design.rst`, "Repository Layout".
    #[must_use]
    pub fn path(self, id: &Id) -> String {
        match self {
            Self::Config => "config".to_owned(),
            Self::Pack => {
                let hex = id.to_hex();
                format!("data/{}/{hex}", &hex[..2])
            }
            _ => format!("{}/{id}", self.dirname()),
        }
    }
}

/// A file in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListEntry {
    /// The file's name.
    pub id: Id,
    /// Its length.
    pub len_bytes: u64,
}

/// What went wrong, in words that a caller can decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendErrorKind {
    /// The file or the repository is not there.
    NotFound,
    /// The store refused the credentials or the right.
    Denied,
    /// The file exists already.
    Conflict,
    /// The store answered with fewer or other bytes than asked for.
    Corrupt,
    /// The store did not answer in time, reset the connection or answered with a 5xx.
    Unavailable,
    /// The disk or the quota is full.
    Full,
    /// The store does not do this.
    Unsupported,
    /// Wrong address, option or credential syntax.
    Invalid,
    /// Everything else.
    Other,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request will fail the same way.
    Permanent,
    /// It may pass.
    Temporary,
}

/// A failed request to a store.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {target} in {location}: {message}")]
pub struct BackendError {
    /// What kind of failure.
    pub kind: BackendErrorKind,
    /// Whether the retry decorator tries again.
    pub retry: Retry,
    /// `read`, `list`, `write`, `remove`, `create` or `connect`.
    pub operation: &'static str,
    /// What was asked for, as `index/1234abcd` or `snapshots`.
    pub target: String,
    /// Where, without secrets.
    pub location: String,
    /// What happened, without secrets and without a response body.
    pub message: String,
}

/// The result of a backend call.
pub type BackendResult<T> = Result<T, BackendError>;

/// A store of a repository's files.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Returns the repository's address in restic's syntax, without secrets.
    fn location(&self) -> &str;

    /// Returns how many requests in parallel pay (1 to 2 for a local disk, tens for an object store).
    fn concurrency(&self) -> usize;

    /// Returns whether a read costs a network round trip. Decides hashing, gaps that are read over, and windows.
    fn is_remote(&self) -> bool;

    /// Lists all files of a kind.
    ///
    /// # Errors
    /// Any failure, also half way through: a list is whole or an error. A missing folder is an empty list.
    async fn list(&self, kind: FileKind) -> BackendResult<Vec<ListEntry>>;

    /// Reads a whole file of at most `limit_bytes`.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` where the file is longer than the limit.
    async fn read_full(&self, kind: FileKind, id: &Id, limit_bytes: u64) -> BackendResult<Bytes>;

    /// Reads exactly the bytes of `range`.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` where the file ends before the range does.
    async fn read_range(&self, kind: FileKind, id: &Id, range: Range<u64>) -> BackendResult<Bytes>;

    /// Fills `buf` from `offset` on this thread, without a copy, where the store is a local disk; `None` elsewhere.
    fn read_local(&self, kind: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> Option<BackendResult<()>> {
        let _ = (kind, id, offset, buf);
        None
    }

    /// Fills `buf` as [`Backend::read_local`] does if the kernel has the bytes in memory. `false` means nothing: they are not
    /// there, this is no local disk, or the read failed.
    fn read_cached(&self, kind: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> bool {
        let _ = (kind, id, offset, buf);
        false
    }

    /// Writes a file: durable when this returns, never half visible.
    ///
    /// # Errors
    /// Any; nothing is visible then.
    async fn write(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()>;

    /// Writes a file unless there is one of its name. A store that cannot do both in one request writes it all the same: whoever
    /// has to know which one is there reads it.
    ///
    /// # Errors
    /// `Conflict`: there is one, which an attempt of this very call may have written. Any other.
    async fn write_new(&self, kind: FileKind, id: &Id, content: Bytes) -> BackendResult<()> {
        self.write(kind, id, content).await
    }

    /// Removes a file; one that is not there is no error.
    ///
    /// # Errors
    /// Any other.
    async fn remove(&self, kind: FileKind, id: &Id) -> BackendResult<()>;

    /// Makes the place for a new repository (folders, bucket), where the store needs one.
    ///
    /// # Errors
    /// Any.
    async fn create(&self) -> BackendResult<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_path_is_restics_default_layout() {
        let id = Id::new([0xab; 32]);
        assert_eq!(FileKind::Config.path(&id), "config");
        assert_eq!(FileKind::Key.path(&id), format!("keys/{id}"));
        assert_eq!(FileKind::Pack.path(&id), format!("data/ab/{id}"));
    }
}
