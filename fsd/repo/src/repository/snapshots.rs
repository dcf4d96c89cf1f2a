//! The list of snapshots.
//!
//! A snapshot file never changes: one that was read once is kept, in memory parsed, on disk as it is stored (encrypted; its
//! hash is its name, so whatever else lies there is not taken for it).

mod kept;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use parking_lot::Mutex;

use super::store::Store;
use crate::backend::{BackendErrorKind, FileKind};
use crate::error::{RepoError, RepoResult};
use crate::format::SNAPSHOT_LIMIT_BYTES;
use crate::format::snapshot::Snapshot;
use crate::id::SnapshotId;

/// After how long a snapshot that was damaged or denied is read again.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// The most memory that all snapshots may take; a hostile list could hold millions of 1 MiB each.
const MEMORY_LIMIT_BYTES: usize = 128 << 20;
/// The fewest files read side by side.
const MIN_CONCURRENCY: usize = 2;

/// The snapshots of a repository.
#[derive(Debug)]
pub(super) struct Snapshots {
    store: Arc<Store>,
    /// The file that keeps the stored bytes.
    file: Option<PathBuf>,
    known: Mutex<Known>,
    /// Held while a list is made and its files are read; taken before `known`.
    listing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    snapshots: BTreeMap<SnapshotId, Arc<Snapshot>>,
    /// Those that are left out, and when they were tried.
    unreadable: HashMap<SnapshotId, Instant>,
    /// The kept file was looked into.
    kept_read: bool,
}

impl Snapshots {
    pub(super) fn new(store: Arc<Store>, file: Option<PathBuf>) -> Self {
        Self { store, file, known: Mutex::default(), listing: tokio::sync::Mutex::default() }
    }

    pub(super) fn unreadable(&self) -> Vec<SnapshotId> {
        let mut ids: Vec<_> = self.known.lock().unreadable.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// See [`super::Repository::snapshots`].
    pub(super) async fn list(&self) -> RepoResult<Vec<Arc<Snapshot>>> {
        let _one_at_a_time = self.listing.lock().await;
        let listed = self.store.backend.list(FileKind::Snapshot).await?;
        let listed: std::collections::HashSet<_> = listed.into_iter().map(|entry| SnapshotId(entry.id)).collect();
        self.take_kept(&listed).await;
        let missing = {
            let mut known = self.known.lock();
            known.snapshots.retain(|id, _| listed.contains(id));
            known.unreadable.retain(|id, _| listed.contains(id));
            let wanted = |id: &SnapshotId| {
                !known.snapshots.contains_key(id)
                    && known.unreadable.get(id).is_none_or(|tried| tried.elapsed() >= RETRY_AFTER)
            };
            let mut missing: Vec<_> = listed.iter().copied().filter(wanted).collect();
            missing.sort_unstable();
            missing
        };
        let read = self.read(missing).await?;
        self.keep(&listed, read).await;
        let mut all: Vec<_> = self.known.lock().snapshots.values().cloned().collect();
        all.sort_by_key(|snapshot| (snapshot.time.timestamp(), snapshot.id));
        Ok(all)
    }

    /// Takes what an earlier process kept on disk, once.
    async fn take_kept(&self, listed: &std::collections::HashSet<SnapshotId>) {
        let Some(file) = self.file.clone().filter(|_| !self.known.lock().kept_read) else {
            return;
        };
        let kept = tokio::task::spawn_blocking(move || kept::load(&file)).await.unwrap_or_default();
        let mut known = self.known.lock();
        known.kept_read = true;
        for (id, stored) in kept.into_iter().filter(|(id, _)| listed.contains(id)) {
            match self.open(id, stored) {
                Ok(snapshot) => drop(known.snapshots.insert(id, Arc::new(snapshot))),
                Err(error) => {
                    self.store.metrics.cache_damage.inc();
                    tracing::warn!(%error, "a kept snapshot is read again");
                }
            }
        }
    }

    /// Reads snapshots from the store, and returns those that could be as they are stored.
    async fn read(&self, ids: Vec<SnapshotId>) -> RepoResult<Vec<(SnapshotId, Bytes)>> {
        let concurrency = self.store.backend.concurrency().max(MIN_CONCURRENCY);
        let mut reads = futures::stream::iter(ids)
            .map(|id| async move { (id, self.read_one(id).await) })
            .buffer_unordered(concurrency);
        let mut read = Vec::new();
        let mut weight: usize = self.known.lock().snapshots.values().map(|snapshot| snapshot.weight_bytes()).sum();
        while let Some((id, result)) = reads.next().await {
            match result {
                Ok((snapshot, stored)) => {
                    weight = weight.saturating_add(snapshot.weight_bytes());
                    if weight > MEMORY_LIMIT_BYTES {
                        let reason = format!("all snapshots take more than the {MEMORY_LIMIT_BYTES} bytes they may");
                        return Err(RepoError::Unsupported { reason });
                    }
                    let mut known = self.known.lock();
                    known.unreadable.remove(&id);
                    known.snapshots.insert(id, Arc::new(snapshot));
                    drop(known);
                    read.push((id, stored));
                }
                Err(RepoError::Backend(error)) => match error.kind {
                    // Removed since the list was made.
                    BackendErrorKind::NotFound => {}
                    BackendErrorKind::Denied | BackendErrorKind::Corrupt => {
                        self.leave_out(id, &RepoError::Backend(error));
                    }
                    _ => return Err(RepoError::Backend(error)),
                },
                Err(error) => self.leave_out(id, &error),
            }
        }
        Ok(read)
    }

    /// Reads one snapshot; twice where what came is damaged, because the way here may be to blame.
    async fn read_one(&self, id: SnapshotId) -> RepoResult<(Snapshot, Bytes)> {
        let mut again = true;
        loop {
            let stored = self.store.read_stored(FileKind::Snapshot, &id.0, SNAPSHOT_LIMIT_BYTES).await?;
            match self.open(id, stored.clone()) {
                Ok(snapshot) => return Ok((snapshot, stored)),
                Err(RepoError::WrongHash { .. }) if again => again = false,
                Err(error) => return Err(error),
            }
        }
    }

    fn open(&self, id: SnapshotId, stored: Bytes) -> RepoResult<Snapshot> {
        self.store.open(FileKind::Snapshot, &id.0, stored, SNAPSHOT_LIMIT_BYTES, |json| {
            Snapshot::parse(id, json).map_err(|error| error.of("snapshot", id.0))
        })
    }

    fn leave_out(&self, id: SnapshotId, error: &RepoError) {
        let mut known = self.known.lock();
        if known.unreadable.insert(id, Instant::now()).is_none() {
            self.store.metrics.snapshots_unreadable.inc();
            tracing::warn!(%error, "a snapshot is left out");
        }
    }

    /// Writes the kept file anew where snapshots came or went.
    async fn keep(&self, listed: &std::collections::HashSet<SnapshotId>, read: Vec<(SnapshotId, Bytes)>) {
        let Some(file) = self.file.clone() else {
            return;
        };
        if read.is_empty() {
            return;
        }
        let listed = listed.clone();
        let written = tokio::task::spawn_blocking(move || kept::save(&file, &listed, read)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the snapshots are not kept on disk"),
            Err(error) => tracing::warn!(%error, "the snapshots are not kept on disk"),
        }
    }
}
