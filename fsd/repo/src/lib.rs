//! Restic-format repositories, for reading fast and, through `rustic_core`, for writing.
//!
//! The layers, bottom up:
//!
//! * [`backend`]: where a repository's files lie (a directory, an object store, restic's REST protocol, SFTP), as lists,
//!   ranged reads, writes and removals, wrapped in limits, deadlines, retries and metrics.
//! * [`crypto`], [`key`], [`config`]: from a password to the master key, within limits that a hostile key file cannot lift.
//! * [`mod@format`]: bounded parsers, `&[u8]` in, typed value out. Nothing here does I/O; every one of them is fuzzed.
//! * [`index`]: blob id to (pack, offset, length), in checksummed pages on disk, made incrementally.
//! * [`blob`]: coalesced, single-flight, authenticated, decoded, cached, self-healing reads of blobs.
//! * [`repository`]: opens a repository and hands out snapshots, trees and blobs.
//! * [`lock`] and [`mod@write`]: restic's locks, and backup, forget, prune, copy and check by `rustic_core` under them.
//!
//! This crate knows nothing of FUSE and nothing of Kubernetes.

pub mod backend;
pub mod blob;
pub mod budget;
pub mod cache;
pub mod config;
pub mod crypto;
pub mod error;
pub mod format;
pub mod id;
pub mod index;
pub mod key;
pub mod lock;
pub mod metrics;
pub mod repository;
#[cfg(test)]
pub(crate) mod testing;
pub mod write;

pub use backend::{Backend, BackendError, BackendErrorKind, FileKind, ListEntry};
pub use blob::{BlobData, BlobKind, Blobs, BlobsConfig, Locate};
pub use error::{RepoError, RepoResult};
pub use format::snapshot::Snapshot;
pub use format::tree::{NodeKind, NodeRef, Timestamp, Tree};
pub use id::{BlobId, Id, IndexId, KeyId, PackId, SnapshotId, TreeId};
pub use index::{BlobLocation, Index};
pub use metrics::Metrics;
pub use repository::{Repository, RepositoryOptions};
