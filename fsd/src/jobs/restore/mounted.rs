//! Snapshots that the Job mounts: the driver of the node opened the repository, and what is read comes through its cache.
//!
//! Whoever serves the mount may be away for a while, and then every look at it waits. So no look is taken on a thread that has to
//! hear signals.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use stash_proto::job::{ErrorCode, JobError, RestoreSource};

use super::{Part, Work, all_pieces, present};
use crate::restore::Source;

/// A part of a mounted snapshot.
#[derive(Debug)]
pub(super) struct Place {
    /// Where the snapshot is mounted.
    root: String,
    /// As the snapshot has it.
    path: String,
}

impl Place {
    /// Opens it.
    ///
    /// # Errors
    /// It is not there any more, or the mount does not answer as it should.
    pub(super) async fn open(&self) -> Result<Source, JobError> {
        let gone = || JobError::new(ErrorCode::Damaged, format!("{} is gone from {}", self.path, self.root));
        find(&self.root, &self.path).await?.ok_or_else(gone)
    }
}

/// Finds in a mounted snapshot what goes to the volumes.
///
/// # Errors
/// It is not mounted, or holds what has no place.
pub(super) async fn look_up(source: &RestoreSource, mounts: &[String]) -> Result<Work, JobError> {
    let RestoreSource::Mounted { snapshot, root, paths } = source else {
        return Err(JobError::new(ErrorCode::BadSpec, "a snapshot that is not mounted needs a repository"));
    };
    let mut found = Vec::new();
    for piece in all_pieces(snapshot, paths, mounts)? {
        let place = Place { root: root.clone(), path: piece.path.clone() };
        let is_there = find(root, &piece.path).await?.is_some();
        found.push((piece, is_there.then_some(Part::Mounted(place))));
    }
    Ok(Work { snapshot: snapshot.clone(), pieces: present(snapshot, found, mounts)? })
}

async fn find(root: &str, path: &str) -> Result<Option<Source>, JobError> {
    let (directory, below) = (root.to_owned(), path.to_owned());
    let look = move || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root: OwnedFd = openat(CWD, directory, flags, Mode::empty())?;
        Source::mounted(root, below.as_bytes())
    };
    let found = tokio::task::spawn_blocking(look).await;
    let found = found.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    found.map_err(|error| {
        JobError::new(
            ErrorCode::Unreachable,
            format!("look at {path} of the snapshot that is mounted at {root}: {error}"),
        )
    })
}
