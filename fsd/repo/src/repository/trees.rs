//! Directories, decoded and kept.
//!
//! Invariants: a tree is decoded once, however many ask for it at once. What is fetched is never lost because the one who
//! asked went away: every fetch that may wait is a task of the runtime. Small trees on a local disk are decoded by whoever
//! comes first, the reader or the decoding thread that works ahead of him. Errors are not kept. Of large trees one is on its way at a time, and
//! small ones come in batches of bounded length, so that a hostile repository cannot fill memory by being walked.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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
/// JSON above this is decoded on a thread that may block, one at a time: 1 MiB takes some milliseconds.
const LARGE_TREE_BYTES: usize = 1 << 20;
/// The most JSON of a batch.
const BATCH_BYTES: usize = 2 << 20;
/// How many trees are kept beside the cache that it could not hold: two, for those who compare two snapshots. A directory of
/// 100,000 entries would otherwise be decoded for each of them.
const HUGE_TREES: usize = 2;
/// How many trees are fetched together: enough to share requests, few enough that the first does not wait for long.
const BATCH: usize = 32;
/// The most trees on their way ahead of a reader.
const AHEAD_LIMIT: usize = 512;

type Reply = RepoResult<Arc<Tree>>;
/// What the others wait for while one fetches.
type Waiting = Shared<oneshot::Receiver<Reply>>;
/// A tree to fetch, and who is told.
type Wanted = (TreeId, oneshot::Sender<Reply>);

/// A tree on its way.
#[derive(Debug)]
struct Flight {
    waiting: Waiting,
    /// There until somebody begins; whoever takes it must do the work.
    begin: Option<oneshot::Sender<Reply>>,
}

/// The decoded trees of a repository. Cheap to clone.
#[derive(Clone)]
pub(super) struct Trees {
    inner: Arc<Inner>,
}

struct Inner {
    blobs: Blobs,
    cache: Cache<TreeId, Arc<Tree>>,
    /// Trees of more than this do not go into the cache.
    huge_bytes: usize,
    /// The last of those.
    huge: Mutex<VecDeque<(TreeId, Arc<Tree>)>>,
    /// Trees that are being fetched.
    flights: Mutex<HashMap<TreeId, Flight>>,
    /// Held while a large tree is fetched and decoded; nothing else is waited for while it is, but the engine.
    large: tokio::sync::Mutex<()>,
    deadline: Duration,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

impl fmt::Debug for Trees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trees").field("kept", &self.inner.cache.entry_count()).finish_non_exhaustive()
    }
}

impl Trees {
    pub(super) fn new(
        blobs: Blobs,
        memory_bytes: usize,
        deadline: Duration,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> Self {
        let cache = Cache::builder()
            .max_capacity(memory_bytes as u64)
            .weigher(|_, tree: &Arc<Tree>| u32::try_from(tree.weight_bytes() + ENTRY_BYTES).unwrap_or(u32::MAX))
            // Trees that were fetched ahead have no history: a policy that asks for one would throw them away.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let inner = Inner {
            blobs,
            cache,
            huge_bytes: memory_bytes / 2,
            huge: Mutex::default(),
            flights: Mutex::default(),
            large: tokio::sync::Mutex::default(),
            deadline,
            metrics,
            runtime,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns a tree if memory holds it.
    pub(super) fn try_get(&self, id: &TreeId) -> Option<Arc<Tree>> {
        let tree = self.inner.kept(id)?;
        self.inner.metrics.tree_memory_hits.inc();
        Some(tree)
    }

    /// Returns a tree that memory does not hold by decoding it on this thread, where that is quickly done and nobody is at it.
    pub(super) fn get_here(&self, id: &TreeId) -> Option<Arc<Tree>> {
        let Takeoff::New(sender, _) = self.take_off(*id) else { return None };
        match self.inner.fetch_here(*id, sender) {
            Ok(reply) => reply.ok(),
            Err(sender) => {
                let (inner, id) = (self.inner.clone(), *id);
                self.inner.runtime.spawn(async move { inner.fetch_one(id, sender).await });
                None
            }
        }
    }

    /// Returns a tree.
    pub(super) async fn get(&self, id: TreeId) -> Reply {
        if let Some(tree) = self.try_get(&id) {
            return Ok(tree);
        }
        let flight = match self.take_off(id) {
            Takeoff::Joined(flight) => flight,
            Takeoff::New(sender, flight) => {
                // It may have landed between our look into the cache and our ticket.
                if let Some(tree) = self.inner.kept(&id) {
                    self.inner.tell(id, Ok(tree), sender);
                } else {
                    let inner = self.inner.clone();
                    self.inner.runtime.spawn(async move { inner.fetch_one(id, sender).await });
                }
                flight
            }
        };
        // The timer belongs to the runtime, wherever this future is polled.
        let timed = {
            let _entered = self.inner.runtime.enter();
            tokio::time::timeout(self.inner.deadline, flight)
        };
        match timed.await {
            Ok(Ok(reply)) => reply,
            // The sender is dropped unused only where the runtime shuts down.
            Ok(Err(_)) => Err(RepoError::Cancelled),
            Err(_) => Err(RepoError::Deadline { seconds: self.inner.deadline.as_secs() }),
        }
    }

    /// Starts to fetch trees.
    pub(super) fn prefetch(&self, ids: &[TreeId]) {
        let mut batch = Vec::new();
        for id in ids {
            if self.inner.cache.contains_key(id) || self.inner.huge(id).is_some() {
                continue;
            }
            if self.inner.flights.lock().len() >= AHEAD_LIMIT {
                break;
            }
            if self.plan(*id) {
                batch.push(*id);
                if batch.len() == BATCH {
                    self.fetch(std::mem::take(&mut batch));
                }
            }
        }
        if !batch.is_empty() {
            self.fetch(batch);
        }
    }

    /// Fetches what is planned: on a decoding thread from a local disk, else by tasks.
    fn fetch(&self, batch: Vec<TreeId>) {
        let (inner, ids) = (self.inner.clone(), batch.clone());
        let here = move || {
            let mut wanted: Vec<Wanted> = Vec::new();
            for id in ids {
                // Readers take trees out of the plan while this goes on.
                let Some(sender) = inner.begin(&id) else { continue };
                if let Err(sender) = inner.fetch_here(id, sender) {
                    wanted.push((id, sender));
                }
            }
            if !wanted.is_empty() {
                let runtime = inner.runtime.clone();
                runtime.spawn(async move { inner.fetch_batch(wanted).await });
            }
        };
        if self.inner.blobs.in_background(here).is_none() {
            let inner = self.inner.clone();
            let wanted: Vec<Wanted> = batch.into_iter().filter_map(|id| Some((id, inner.begin(&id)?))).collect();
            self.inner.runtime.spawn(async move { inner.fetch_batch(wanted).await });
        }
    }

    /// Notes that a tree will be fetched; false if it is on its way.
    fn plan(&self, id: TreeId) -> bool {
        match self.inner.flights.lock().entry(id) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                let (sender, receiver) = oneshot::channel();
                entry.insert(Flight { waiting: receiver.shared(), begin: Some(sender) });
                true
            }
        }
    }

    /// Joins the fetch of a tree or begins one.
    fn take_off(&self, id: TreeId) -> Takeoff {
        match self.inner.flights.lock().entry(id) {
            Entry::Occupied(mut entry) => match entry.get_mut().begin.take() {
                Some(sender) => Takeoff::New(sender, entry.get().waiting.clone()),
                None => Takeoff::Joined(entry.get().waiting.clone()),
            },
            Entry::Vacant(entry) => {
                let (sender, receiver) = oneshot::channel();
                let waiting = receiver.shared();
                entry.insert(Flight { waiting: waiting.clone(), begin: None });
                Takeoff::New(sender, waiting)
            }
        }
    }
}

enum Takeoff {
    Joined(Waiting),
    New(oneshot::Sender<Reply>, Waiting),
}

impl Inner {
    fn kept(&self, id: &TreeId) -> Option<Arc<Tree>> {
        self.cache.get(id).or_else(|| self.huge(id))
    }

    /// Takes on the work of a planned fetch; `None` if somebody did already.
    fn begin(&self, id: &TreeId) -> Option<oneshot::Sender<Reply>> {
        self.flights.lock().get_mut(id)?.begin.take()
    }

    /// Fetches and decodes on this thread, or gives the duty to do so back.
    fn fetch_here(&self, id: TreeId, sender: oneshot::Sender<Reply>) -> Result<Reply, oneshot::Sender<Reply>> {
        if let Some(tree) = self.kept(&id) {
            self.tell(id, Ok(Arc::clone(&tree)), sender);
            return Ok(Ok(tree));
        }
        let Some(blob) = self.blobs.get_here(&id.blob(), BlobKind::Tree, false) else { return Err(sender) };
        let reply = decode(id, &blob);
        self.land_decoded(id, reply.clone(), sender);
        Ok(reply)
    }

    fn huge(&self, id: &TreeId) -> Option<Arc<Tree>> {
        self.huge.lock().iter().find(|(kept, _)| kept == id).map(|(_, tree)| tree.clone())
    }

    /// How long a tree is, by the index. One that the index does not know counts nothing: its fetch finds out why.
    fn plain_bytes(&self, id: &TreeId) -> usize {
        self.blobs.plain_bytes(&id.blob()).ok().flatten().map_or(0, |bytes| bytes as usize)
    }

    async fn fetch_one(&self, id: TreeId, sender: oneshot::Sender<Reply>) {
        let _one_at_a_time = match self.plain_bytes(&id) {
            LARGE_TREE_BYTES.. => Some(self.large.lock().await),
            _ => None,
        };
        let blob = self.blobs.get(id.blob(), BlobKind::Tree, usize::MAX).await;
        self.land(id, blob, sender).await;
    }

    /// Fetches small trees together, as many as make [`BATCH_BYTES`], and then the large ones.
    async fn fetch_batch(&self, batch: Vec<Wanted>) {
        let (mut together, mut bytes, mut large) = (Vec::new(), 0, Vec::new());
        for wanted in batch {
            match self.plain_bytes(&wanted.0) {
                LARGE_TREE_BYTES.. => large.push(wanted),
                len => {
                    if bytes + len > BATCH_BYTES {
                        self.fetch_together(std::mem::take(&mut together)).await;
                        bytes = 0;
                    }
                    bytes += len;
                    together.push(wanted);
                }
            }
        }
        self.fetch_together(together).await;
        for (id, sender) in large {
            self.fetch_one(id, sender).await;
        }
    }

    async fn fetch_together(&self, wanted: Vec<Wanted>) {
        let ids: Vec<BlobId> = wanted.iter().map(|(id, _)| id.blob()).collect();
        let blobs = self.blobs.get_many(&ids, BlobKind::Tree).await;
        for ((id, sender), blob) in wanted.into_iter().zip(blobs) {
            self.land(id, blob, sender).await;
        }
    }

    /// Decodes what came, keeps it and tells who waits.
    async fn land(&self, id: TreeId, blob: RepoResult<BlobData>, sender: oneshot::Sender<Reply>) {
        let reply = match blob {
            Ok(blob) if blob.len() > LARGE_TREE_BYTES => tokio::task::spawn_blocking(move || decode(id, &blob))
                .await
                .unwrap_or_else(|_| Err(RepoError::BadTree { id, reason: "its decoding stopped".to_owned() })),
            Ok(blob) => decode(id, &blob),
            Err(error) => Err(error),
        };
        self.land_decoded(id, reply, sender);
    }

    /// Keeps what was decoded and tells who waits.
    fn land_decoded(&self, id: TreeId, reply: Reply, sender: oneshot::Sender<Reply>) {
        if let Ok(tree) = &reply {
            self.metrics.tree_decodes.inc();
            self.keep(id, tree);
        }
        self.tell(id, reply, sender);
    }

    fn tell(&self, id: TreeId, reply: Reply, sender: oneshot::Sender<Reply>) {
        // The tree is in the cache: who comes between finds it there.
        self.flights.lock().remove(&id);
        // Nobody waits for what was fetched ahead.
        let _nobody = sender.send(reply);
    }

    fn keep(&self, id: TreeId, tree: &Arc<Tree>) {
        if tree.weight_bytes() <= self.huge_bytes {
            self.cache.insert(id, tree.clone());
            return;
        }
        let mut huge = self.huge.lock();
        huge.truncate(HUGE_TREES - 1);
        huge.push_front((id, tree.clone()));
    }
}

fn decode(id: TreeId, json: &[u8]) -> Reply {
    let tree = tree::parse(json).map_err(|error| RepoError::BadTree { id, reason: error.reason })?;
    if tree.rejected() > 0 {
        tracing::warn!(tree = %id.0.short(), entries = tree.rejected(), "a directory holds entries that cannot be shown");
    }
    Ok(Arc::new(tree))
}
