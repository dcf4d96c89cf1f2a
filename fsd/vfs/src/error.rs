//! What can fail on the tree, in the words of a filesystem.

use stash_repo::RepoError;

/// The result of an operation on the tree.
pub type VfsResult<T> = Result<T, VfsError>;

/// A failed operation on the tree. `fuse/errno.rs` gives each variant its errno.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VfsError {
    /// There is no such name.
    #[error("no such file or directory")]
    NotFound,
    /// The inode is not a directory.
    #[error("not a directory")]
    NotADirectory,
    /// The inode is a directory.
    #[error("is a directory")]
    IsADirectory,
    /// The inode is not a symbolic link, or the argument makes no sense.
    #[error("invalid argument")]
    Invalid,
    /// There is no such extended attribute.
    #[error("no such extended attribute")]
    NoAttribute,
    /// `SEEK_DATA` or `SEEK_HOLE` beyond the end.
    #[error("offset is beyond the end of the file")]
    BeyondEnd,
    /// The node id is not known (any more): its snapshot was forgotten, or it never was one of ours.
    #[error("stale file handle")]
    Stale,
    /// A name is longer than a filesystem allows.
    #[error("file name too long")]
    NameTooLong,
    /// As many inodes are held as the table of node ids admits (or the table could not be written).
    #[error("too many inodes are in use")]
    TooManyInodes,
    /// A template, a filter or a root of the command line makes no sense. Only [`crate::Vfs::new`] returns it.
    #[error("{option}: {reason}")]
    Option {
        /// Which option, as `--time-template`.
        option: &'static str,
        /// What is wrong with it and what it should be.
        reason: String,
    },
    /// The repository failed.
    #[error("{path}: {source}")]
    Repo {
        /// Which file or directory, as far as it is known.
        path: String,
        /// What failed.
        source: RepoError,
    },
}
