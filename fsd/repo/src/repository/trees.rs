//! Directories, decoded and kept.
//!
//! Invariants: a tree is decoded once, however many ask for it at once. What is fetched is never lost because the one who
//! asked went away: every fetch is a task of the runtime. Errors are not kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use futures::future::{FutureExt as _, Shared};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::blob::{BlobData, BlobKind, Blobs};
use crate::error::{RepoError, RepoResult};
use crate::format::tree::{self, Tree};
use crate::id::{BlobId, TreeId};
use crate::metrics::Metrics;

/// What the cache itself takes for an entry (moka's nodes, the key), by its documentation and rounded up.
const ENTRY_BYTES: usize = 256;
/// JSON above this is decoded on a thread that may block: 1 MiB takes some milliseconds.
const LARGE_TREE_BYTES: usize = 1 << 20;
/// How many trees are fetched together: enough to share requests, few enough that the first does not wait for long.
const BATCH: usize = 32;
/// The most trees on their way ahead of a reader.
const AHEAD_LIMIT: usize = 512;

type Reply = RepoResult<Arc<Tree>>;
/// What the others wait for while one fetches.
type Flight = Shared<oneshot::Receiver<Reply>>;

/// The decoded trees of a repository. Cheap to clone.
#[derive(Clone)]
pub(super) struct Trees {
    inner: Arc<Inner>,
}

struct Inner {
    blobs: Blobs,
    cache: Cache<TreeId, Arc<Tree>>,
    /// Trees that are being fetched.
    flights: Mutex<HashMap<TreeId, Flight>>,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

impl fmt::Debug for Trees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trees").field("kept", &self.inner.cache.entry_count()).finish_non_exhaustive()
    }
}

impl Trees {
    pub(super) fn new(blobs: Blobs, memory_bytes: usize, metrics: Arc<Metrics>, runtime: Handle) -> Self {
        let cache = Cache::builder()
            .max_capacity(memory_bytes as u64)
            .weigher(|_, tree: &Arc<Tree>| u32::try_from(tree.weight_bytes() + ENTRY_BYTES).unwrap_or(u32::MAX))
            // Trees that were fetched ahead have no history: a policy that asks for one would throw them away.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { inner: Arc::new(Inner { blobs, cache, flights: Mutex::default(), metrics, runtime }) }
    }

    /// Returns a tree if memory holds it.
    pub(super) fn try_get(&self, id: &TreeId) -> Option<Arc<Tree>> {
        let tree = self.inner.cache.get(id)?;
        self.inner.metrics.tree_memory_hits.inc();
        Some(tree)
    }

    /// Returns a tree.
    pub(super) async fn get(&self, id: TreeId) -> Reply {
        if let Some(tree) = self.try_get(&id) {
            return Ok(tree);
        }
        let flight = match self.take_off(id) {
            Takeoff::Joined(flight) => flight,
            Takeoff::New(sender, flight) => {
                let inner = self.inner.clone();
                self.inner.runtime.spawn(async move {
                    let blob = inner.blobs.get(id.blob(), BlobKind::Tree, usize::MAX).await;
                    inner.land(id, blob, sender).await;
                });
                flight
            }
        };
        // The sender is dropped unused only where the runtime shuts down.
        flight.await.unwrap_or(Err(RepoError::Cancelled))
    }

    /// Starts to fetch trees.
    pub(super) fn prefetch(&self, ids: &[TreeId]) {
        let mut batch = Vec::new();
        for id in ids {
            if self.inner.cache.contains_key(id) {
                continue;
            }
            if self.inner.flights.lock().len() >= AHEAD_LIMIT {
                break;
            }
            if let Takeoff::New(sender, _) = self.take_off(*id) {
                batch.push((*id, sender));
                if batch.len() == BATCH {
                    self.fetch(std::mem::take(&mut batch));
                }
            }
        }
        if !batch.is_empty() {
            self.fetch(batch);
        }
    }

    fn fetch(&self, batch: Vec<(TreeId, oneshot::Sender<Reply>)>) {
        let inner = self.inner.clone();
        self.inner.runtime.spawn(async move {
            let ids: Vec<BlobId> = batch.iter().map(|(id, _)| id.blob()).collect();
            let blobs = inner.blobs.get_many(&ids, BlobKind::Tree).await;
            for ((id, sender), blob) in batch.into_iter().zip(blobs) {
                inner.land(id, blob, sender).await;
            }
        });
    }

    /// Joins the fetch of a tree or begins one.
    fn take_off(&self, id: TreeId) -> Takeoff {
        let mut flights = self.inner.flights.lock();
        if let Some(flight) = flights.get(&id) {
            return Takeoff::Joined(flight.clone());
        }
        let (sender, receiver) = oneshot::channel();
        let flight = receiver.shared();
        flights.insert(id, flight.clone());
        Takeoff::New(sender, flight)
    }
}

enum Takeoff {
    Joined(Flight),
    New(oneshot::Sender<Reply>, Flight),
}

impl Inner {
    /// Decodes what came, keeps it and tells who waits.
    async fn land(&self, id: TreeId, blob: RepoResult<BlobData>, sender: oneshot::Sender<Reply>) {
        let reply = match blob {
            Ok(blob) if blob.len() > LARGE_TREE_BYTES => tokio::task::spawn_blocking(move || decode(id, &blob))
                .await
                .unwrap_or_else(|_| Err(RepoError::BadTree { id, reason: "its decoding stopped".to_owned() })),
            Ok(blob) => decode(id, &blob),
            Err(error) => Err(error),
        };
        if let Ok(tree) = &reply {
            self.metrics.tree_decodes.inc();
            self.cache.insert(id, tree.clone());
        }
        // In this order: who comes between finds the tree in the cache.
        self.flights.lock().remove(&id);
        // Nobody waits for what was fetched ahead.
        let _nobody = sender.send(reply);
    }
}

fn decode(id: TreeId, json: &[u8]) -> Reply {
    let tree = tree::parse(json).map_err(|error| RepoError::BadTree { id, reason: error.reason })?;
    if tree.rejected() > 0 {
        tracing::warn!(tree = %id.0.short(), entries = tree.rejected(), "a directory holds entries that cannot be shown");
    }
    Ok(Arc::new(tree))
}
