//! The snapshots of a repository as a mirror of them reads it: their names alone, which costs one list, and then the files of
//! those that it does not know yet, by the bounded decoder of readers.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};

use super::access::Access;
use crate::backend::{Backend, BackendErrorKind, FileKind};
use crate::error::{RepoError, RepoResult};
use crate::format::SNAPSHOT_LIMIT_BYTES;
use crate::format::snapshot::Snapshot;
use crate::id::SnapshotId;

/// Lists the ids of all snapshots. Needs no key.
///
/// # Errors
/// The list failed: it is whole or an error.
pub async fn list(backend: &Arc<dyn Backend>) -> RepoResult<BTreeSet<SnapshotId>> {
    let entries = backend.list(FileKind::Snapshot).await?;
    Ok(entries.into_iter().map(|entry| SnapshotId(entry.id)).collect())
}

/// What lies under a snapshot's id.
#[derive(Debug)]
pub enum Found {
    /// A snapshot.
    Snapshot(Box<Snapshot>),
    /// Nothing: it was removed since the list was made.
    Gone,
    /// A file that is damaged, or that the store does not let us read.
    Unreadable(RepoError),
}

/// Reads snapshots side by side, in no order.
///
/// # Errors
/// Of each: the store did not answer, which says nothing about the snapshot.
pub fn read(access: &Access, ids: Vec<SnapshotId>) -> impl Stream<Item = RepoResult<(SnapshotId, Found)>> + Send {
    let concurrency = access.backend().concurrency().max(1);
    let access = access.clone();
    let read = move |id| {
        let access = access.clone();
        async move { read_one(&access, id).await.map(|found| (id, found)) }
    };
    futures::stream::iter(ids).map(read).buffer_unordered(concurrency)
}

async fn read_one(access: &Access, id: SnapshotId) -> RepoResult<Found> {
    let json = match access.read_file(FileKind::Snapshot, "snapshot", id.0, SNAPSHOT_LIMIT_BYTES).await {
        Ok(json) => json,
        Err(RepoError::Backend(error)) => {
            return match error.kind {
                BackendErrorKind::NotFound => Ok(Found::Gone),
                BackendErrorKind::Denied | BackendErrorKind::Corrupt => {
                    Ok(Found::Unreadable(RepoError::Backend(error)))
                }
                _ => Err(RepoError::Backend(error)),
            };
        }
        Err(error) => return Ok(Found::Unreadable(error)),
    };
    Ok(match Snapshot::parse(id, &json) {
        Ok(snapshot) => Found::Snapshot(Box::new(snapshot)),
        Err(error) => Found::Unreadable(error.of("snapshot", id.0)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::backend::memory::MemoryBackend;
    use crate::id::Id;
    use crate::write::init::{InitOptions, init};

    #[tokio::test]
    async fn test_names_cost_one_list_and_files_are_read_by_name() {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
        let access = init(backend.clone(), "p", &InitOptions::default()).await.unwrap();
        let json = json!({"time": "2026-01-01T00:00:00Z", "tree": "02".repeat(32), "hostname": "h"}).to_string();
        let good = SnapshotId(access.write_file(FileKind::Snapshot, json.as_bytes()).await.unwrap());
        let no_snapshot = SnapshotId(access.write_file(FileKind::Snapshot, b"{}").await.unwrap());
        let damaged = SnapshotId(Id::hash(b"other"));
        backend.write(FileKind::Snapshot, &damaged.0, "x".into()).await.unwrap();
        assert_eq!(list(&backend).await.unwrap(), BTreeSet::from([good, no_snapshot, damaged]));
        let gone = SnapshotId(Id::hash(b"gone"));
        let found: Vec<_> = read(&access, vec![good, no_snapshot, damaged, gone]).collect().await;
        assert_eq!(found.len(), 4);
        for found in found {
            let (id, found) = found.unwrap();
            match found {
                Found::Snapshot(snapshot) => assert_eq!((id, snapshot.hostname.as_str()), (good, "h")),
                Found::Gone => assert_eq!(id, gone),
                Found::Unreadable(_) => assert!(id == damaged || id == no_snapshot),
            }
        }
    }
}
