//! Blobs: from an id to authenticated plain bytes.
//!
//! `resolve -> group by pack -> coalesce neighbours -> one ranged read -> verify the MAC -> decrypt in place -> zstd into an
//! exact, kept buffer -> cache -> reply`. One fetch at a time for a blob, however many ask; downloads side by side on tokio,
//! decoding on a thread for each core; one byte budget over all of it.
//!
//! Invariants:
//! * No byte is handed out before the MAC of its whole blob was checked, and for trees, for data that came over a network,
//!   and for all data where it is asked for, before the plain bytes hashed to the id.
//! * Every length is checked before memory is allocated by it.
//! * Memory is reserved in the budget before it is allocated.
//! * What fails is tried elsewhere (past caches, after a refresh of the index, in every other pack that holds the blob) before
//!   it is an error, and then it is one for that blob only.
//! * No request outlives its deadline.

mod cpu;
mod decode;
mod engine;
mod flight;
mod heal;
mod local;
mod memory;
mod plan;
mod pool;
mod prefetch;
mod remote;
mod unit;
mod window;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::backend::Backend;
use crate::budget::Budget;
use crate::cache::disk::DiskCache;
use crate::crypto::MasterKey;
use crate::error::RepoResult;
use crate::id::BlobId;
use crate::index::BlobLocation;
use crate::metrics::Metrics;

use engine::Engine;
use pool::Buffer;
use prefetch::Unread;

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobKind {
    /// A piece of a file.
    Data,
    /// A directory.
    Tree,
}

/// Plain bytes of a blob, from its beginning; shared, cheap to clone. The last clone gives the buffer back.
///
/// It may hold fewer bytes than the blob has where the caller asked for a prefix (see [`Blobs::get`]).
///
/// It counts against the memory budget as long as it lives: hold it while you copy out of it, not longer.
#[derive(Debug, Clone)]
pub struct BlobData {
    inner: Arc<Plain>,
}

#[derive(Debug)]
struct Plain {
    buffer: Buffer,
    /// The bytes lie at `start..start + len_bytes` of the buffer.
    start: usize,
    len_bytes: usize,
    whole: bool,
    /// There until the first reader of what was fetched ahead.
    unread: Mutex<Option<Unread>>,
}

impl Deref for BlobData {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.inner.buffer.get(self.inner.start..self.inner.start + self.inner.len_bytes).unwrap_or_default()
    }
}

impl BlobData {
    fn new(decoded: decode::Decoded, unread: Option<Unread>) -> Self {
        let decode::Decoded { mut buffer, start, len_bytes, whole } = decoded;
        buffer.settle();
        Self { inner: Arc::new(Plain { buffer, start, len_bytes, whole, unread: Mutex::new(unread) }) }
    }

    /// Says that somebody reads it.
    fn touch(&self) {
        drop(self.inner.unread.lock().take());
    }

    /// Returns whether these are all bytes of the blob.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.inner.whole
    }

    /// Returns whether a reader of the first `upto` bytes is served.
    fn covers(&self, upto: usize) -> bool {
        self.inner.whole || self.inner.len_bytes >= upto
    }

    fn capacity_bytes(&self) -> usize {
        self.inner.buffer.capacity_bytes()
    }
}

/// Who knows where blobs lie. The repository implements it over its index.
#[async_trait]
pub trait Locate: fmt::Debug + Send + Sync + 'static {
    /// Finds a blob in the index as it is now; see [`crate::Index::lookup`].
    ///
    /// # Errors
    /// The index could not be read.
    fn lookup(&self, id: &BlobId) -> RepoResult<Option<BlobLocation>>;

    /// Finds every place of a blob; see [`crate::Index::lookup_all`].
    ///
    /// # Errors
    /// The index could not be read.
    fn lookup_all(&self, id: &BlobId) -> RepoResult<Vec<BlobLocation>>;

    /// Takes in index files that are new and lets go those that are gone. The engine calls it when a pack is gone or bad, at
    /// most once in a few seconds.
    ///
    /// # Errors
    /// The list or an index file could not be read.
    async fn refresh(&self) -> RepoResult<bool>;
}

/// What a blob engine is made of.
#[derive(Debug)]
pub struct BlobsConfig {
    /// The store, with its limits, retries and deadlines.
    pub backend: Arc<dyn Backend>,
    /// The index.
    pub locate: Arc<dyn Locate>,
    /// What blobs are sealed with.
    pub key: Arc<MasterKey>,
    /// Ciphertext on disk, for a remote store; not used for a local one.
    pub disk: DiskCache,
    /// Where figures go.
    pub metrics: Arc<Metrics>,
    /// Where downloads and timers run.
    pub runtime: Handle,
    /// The memory for all blobs: in flight, decoded, fetched ahead. Capped by the control group's limit.
    pub memory_bytes: usize,
    /// A budget that is shared with others, instead of one of `memory_bytes`.
    pub budget: Option<Budget>,
    /// Hash every data blob, also from a local disk.
    pub verify: bool,
    /// No request outlives this.
    pub deadline: Duration,
}

/// The blob engine of one repository.
#[derive(Debug, Clone)]
pub struct Blobs {
    engine: Arc<Engine>,
}

impl Blobs {
    /// Starts the engine: one decoding thread for each core.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn new(config: BlobsConfig) -> RepoResult<Self> {
        Ok(Self { engine: Engine::new(config)? })
    }

    /// Returns the first `upto` bytes (all for `usize::MAX`) if memory holds them; never waits, never does I/O.
    #[must_use]
    pub fn try_get(&self, id: &BlobId, upto: usize) -> Option<BlobData> {
        self.engine.try_get(id, upto)
    }

    /// Returns a whole blob that is small, on a local disk and in the kernel's memory, by decoding it on this thread; `None`
    /// otherwise, and then nothing was begun. Never waits. It does not look into memory: see [`Blobs::try_get`]. Without `keep`
    /// memory does not keep the blob either: for a reader who takes all of it at once.
    #[must_use]
    pub fn get_here(&self, id: &BlobId, kind: BlobKind, keep: bool) -> Option<BlobData> {
        self.engine.get_here(id, kind, keep)
    }

    /// Has `work` done on a decoding thread, behind all that somebody waits for. `None`, and nothing is done, where the
    /// decoding threads have no local disk to read from.
    pub(crate) fn in_background(&self, work: impl FnOnce() + Send + 'static) -> Option<()> {
        self.engine.in_background(work)
    }

    /// Returns at least the first `upto` bytes of a blob (all for `usize::MAX`), authenticated.
    ///
    /// A random reader passes the end of what it needs, and pays for decoding no further. May be polled outside of tokio;
    /// dropping the future leaves nothing half done.
    ///
    /// # Errors
    /// No source could serve it, or the deadline passed.
    pub async fn get(&self, id: BlobId, kind: BlobKind, upto: usize) -> RepoResult<BlobData> {
        self.engine.within_deadline(self.engine.get(id, kind, upto)).await
    }

    /// Returns whole blobs, fetched together: neighbours in a pack cost one request.
    ///
    /// All of them lie in memory when this returns: ask for no more at once than fits well into the budget.
    pub async fn get_many(&self, ids: &[BlobId], kind: BlobKind) -> Vec<RepoResult<BlobData>> {
        self.engine.get_many(ids, kind).await
    }

    /// Starts to fetch blobs that will be asked for soon, as many from the front as the budget admits, and returns how
    /// many were taken on (or were there already). Never waits. Failures show up when the blob is asked for.
    pub fn prefetch(&self, ids: &[BlobId], kind: BlobKind) -> usize {
        self.engine.prefetch(ids, kind)
    }

    /// Starts to download data blobs that will be asked for after those that are being fetched ahead: in long pieces, which stay
    /// sealed until then. Returns how many from the front were taken on; 0 where nothing is gained by it, or there is no room
    /// now. Never waits.
    pub fn stage(&self, ids: &[BlobId]) -> usize {
        self.engine.stage(ids)
    }

    /// Says that blobs will not be asked for again soon: memory forgets them.
    pub fn let_go(&self, ids: &[BlobId], kind: BlobKind) {
        self.engine.memory.remove(ids, kind);
    }

    /// Returns how long a blob's plain bytes are, by the index; `Ok(None)` for a lost blob.
    ///
    /// # Errors
    /// The index could not be read.
    pub fn plain_bytes(&self, id: &BlobId) -> RepoResult<Option<u32>> {
        let location = self.engine.locate.lookup(id)?;
        *self.engine.looked_up.lock() = location.map(|location| (*id, location));
        Ok(location.map(|location| location.plain_bytes()))
    }
}

#[cfg(test)]
mod tests;
