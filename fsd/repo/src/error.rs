//! What can fail on a repository.

use crate::backend::BackendError;
use crate::id::{BlobId, Id, PackId, TreeId};

/// The result of a repository call.
pub type RepoResult<T> = Result<T, RepoError>;

/// A failed repository call: what failed on which id, expected against actual.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// The store failed.
    #[error(transparent)]
    Backend(#[from] std::sync::Arc<BackendError>),
    /// There is no `config` file.
    #[error("there is no repository at {location}")]
    NoRepository {
        /// Where, without secrets.
        location: String,
    },
    /// No key file opens with this password.
    #[error("wrong password, or no key found ({tried} key files tried)")]
    WrongPassword {
        /// How many key files were tried.
        tried: usize,
    },
    /// A file of the repository is not what its format or a limit asks for.
    #[error("{what} {id}: {reason}")]
    Format {
        /// `key`, `config`, `snapshot`, `index`, `tree`, `pack`.
        what: &'static str,
        /// Which.
        id: Id,
        /// Expected against actual.
        reason: String,
    },
    /// The repository is of a kind that is not read.
    #[error("{reason}")]
    Unsupported {
        /// What, and what to do instead.
        reason: String,
    },
    /// The message authentication code does not match.
    #[error("{what} {id}: wrong MAC, the data was changed or belongs to another key")]
    WrongMac {
        /// `blob`, `index`, `snapshot`, `config`, `key`.
        what: &'static str,
        /// Which.
        id: Id,
    },
    /// The bytes hash to another id.
    #[error("{what} {id}: the bytes hash to {actual}")]
    WrongHash {
        /// `blob`, `index`, `snapshot`, `tree`.
        what: &'static str,
        /// Which.
        id: Id,
        /// What they hash to.
        actual: Id,
    },
    /// No index entry names the blob.
    #[error("blob {id} is in no pack that the index names")]
    BlobMissing {
        /// Which.
        id: BlobId,
    },
    /// A blob could not be decoded.
    #[error("blob {id} in pack {pack}: {reason}")]
    BadBlob {
        /// Which.
        id: BlobId,
        /// Where.
        pack: PackId,
        /// Expected against actual.
        reason: String,
    },
    /// A tree could not be used.
    #[error("tree {id}: {reason}")]
    BadTree {
        /// Which.
        id: TreeId,
        /// Expected against actual.
        reason: String,
    },
    /// No snapshot fits.
    #[error("no snapshot found for {spec}")]
    SnapshotNotFound {
        /// What was asked for.
        spec: String,
    },
    /// Several snapshots fit.
    #[error("{spec} fits {count} snapshots; give more digits")]
    SnapshotAmbiguous {
        /// What was asked for.
        spec: String,
        /// How many fit.
        count: usize,
    },
    /// The request did not end in time.
    #[error("no answer within {seconds} s")]
    Deadline {
        /// The deadline.
        seconds: u64,
    },
    /// Somebody holds a lock that excludes us.
    #[error("the repository is locked by {holder}")]
    Locked {
        /// Who, since when, which lock: fits after "locked by".
        holder: String,
    },
    /// Our own lock was removed by somebody, or is too old to be sure of.
    #[error("our lock on the repository was lost: {reason}")]
    LockLost {
        /// How.
        reason: String,
    },
    /// Nothing of what is to be backed up is there.
    #[error("backup: none of the files and directories to back up exists")]
    NoSource,
    /// A local file (cache, temporary) failed.
    #[error("{what}: {reason}")]
    Local {
        /// Which path and operation.
        what: String,
        /// What the system said.
        reason: String,
    },
    /// `rustic_core` failed.
    #[error("{operation}: {reason}")]
    Rustic {
        /// What was being done.
        operation: &'static str,
        /// What it said.
        reason: String,
    },
    /// The work was stopped.
    #[error("stopped")]
    Cancelled,
}

impl From<BackendError> for RepoError {
    fn from(error: BackendError) -> Self {
        Self::Backend(std::sync::Arc::new(error))
    }
}
