//! Removing a repository as a whole, so that nothing half-removed looks whole or is taken for a new one.
//!
//! The config goes first, under an exclusive lock: from then on nobody opens the repository, to read or to write. The keys go last: while
//! there is one, nobody makes a new repository among the remains ([`super::init`] refuses), whose snapshots would then be ones that
//! nobody can read. Whatever ends the work in between, it goes on by [`remove`] alone, which needs no key.
//!
//! Only files of a repository are removed: those that [`Backend::list`] names. Whatever else lies there, or below, stays.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};

use super::access::Access;
use crate::backend::{Backend, FileKind};
use crate::error::RepoResult;
use crate::id::Id;
use crate::lock::Lease;

/// What is removed after the config and under the lock: what names data before the data itself.
pub const CONTENT: [FileKind; 3] = [FileKind::Snapshot, FileKind::Index, FileKind::Pack];

/// What is removed at the end.
pub const REST: [FileKind; 2] = [FileKind::Lock, FileKind::Key];

/// Removes the config: there is no repository any more. `lease` is of an exclusive lock.
///
/// # Errors
/// `Unsupported`: the repository is append-only. The lock was lost, or the store failed.
pub async fn close(access: &Access, lease: &Lease) -> RepoResult<()> {
    access.config().check_may_remove()?;
    lease.check()?;
    Ok(access.backend().remove(FileKind::Config, &Id::default()).await?)
}

/// Removes all files of `kinds`, kind by kind, and returns how many there were. Those that are gone already are no error.
///
/// # Errors
/// The store failed. What was removed until then stays removed.
pub async fn remove(backend: &Arc<dyn Backend>, kinds: &[FileKind]) -> RepoResult<u64> {
    let mut removed = 0;
    for &kind in kinds {
        let entries = backend.list(kind).await?;
        removed += entries.len() as u64;
        let removals = entries.iter().map(|entry| async move { backend.remove(kind, &entry.id).await });
        let concurrency = backend.concurrency().max(1);
        futures::stream::iter(removals).buffer_unordered(concurrency).try_collect::<()>().await?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::memory::MemoryBackend;
    use crate::error::RepoError;
    use crate::write::init::{InitOptions, init};

    #[tokio::test]
    async fn test_between_config_and_keys_there_is_no_repository_and_none_can_be_made() {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
        let access = init(backend.clone(), "p", &InitOptions::default()).await.unwrap();
        let pack = Id::hash(b"pack");
        backend.write(FileKind::Pack, &pack, "x".into()).await.unwrap();
        close(&access, &Lease::for_ever()).await.unwrap();
        let opened = Access::open(backend.clone(), "p", None).await;
        assert!(matches!(opened, Err(RepoError::NoRepository { .. })), "{opened:?}");
        assert_eq!(remove(&backend, &CONTENT).await.unwrap(), 1);
        let made = init(backend.clone(), "p", &InitOptions::default()).await;
        assert!(matches!(made, Err(RepoError::Unsupported { .. })), "{made:?}");
        assert_eq!(remove(&backend, &REST).await.unwrap(), 1);
        assert_eq!(remove(&backend, &REST).await.unwrap(), 0);
        for kind in FileKind::LISTED {
            assert_eq!(backend.list(kind).await.unwrap(), []);
        }
        init(backend, "p", &InitOptions::default()).await.unwrap();
    }
}
