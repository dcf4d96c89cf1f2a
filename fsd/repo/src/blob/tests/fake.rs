//! The fake store and index, and a maker of packs.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::backend::{Backend, BackendError, BackendErrorKind, BackendResult, FileKind, ListEntry, Retry};
use crate::blob::{BlobKind, Blobs, BlobsConfig, Locate};
use crate::cache::DiskCache;
use crate::crypto::MasterKey;
use crate::error::RepoResult;
use crate::id::{BlobId, Id, PackId};
use crate::index::BlobLocation;
use crate::metrics::Metrics;

/// How the fake store is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// On the decoding threads.
    Disk,
    /// Not remote, but by `read_range` only.
    Async,
    /// Over a network.
    Network,
}

/// What a read meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    NotFound,
    Unavailable,
    Short,
    Flip,
    Stall,
}

#[derive(Debug)]
pub(super) struct Fake {
    reach: Reach,
    packs: Mutex<HashMap<PackId, Vec<u8>>>,
    /// Faults of the next reads of a pack.
    once: Mutex<HashMap<PackId, VecDeque<Fault>>>,
    /// Faults of all reads of a pack.
    always: Mutex<HashMap<PackId, Fault>>,
    /// Reads need a permit while it is closed.
    gate: Semaphore,
    gated: AtomicBool,
    pub(super) reads: Mutex<Vec<(PackId, Range<u64>)>>,
    running: AtomicUsize,
    pub(super) most_running: AtomicUsize,
}

impl Fake {
    fn error(kind: BackendErrorKind, id: &Id) -> BackendError {
        BackendError {
            kind,
            retry: Retry::Temporary,
            operation: "read",
            target: FileKind::Pack.path(id),
            location: "fake:".to_owned(),
            message: "as told".to_owned(),
        }
    }

    fn read(&self, id: &Id, range: Range<u64>) -> Result<Vec<u8>, (BackendErrorKind, bool)> {
        let pack = PackId(*id);
        self.reads.lock().push((pack, range.clone()));
        let once = self.once.lock().get_mut(&pack).and_then(VecDeque::pop_front);
        let fault = once.or_else(|| self.always.lock().get(&pack).copied());
        let packs = self.packs.lock();
        let content = packs.get(&pack).ok_or((BackendErrorKind::NotFound, false))?;
        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        assert!(start <= end, "a range that runs backwards");
        let mut bytes = content.get(start..end).ok_or((BackendErrorKind::Corrupt, false))?.to_vec();
        match fault {
            None => {}
            Some(Fault::NotFound) => return Err((BackendErrorKind::NotFound, false)),
            Some(Fault::Unavailable) => return Err((BackendErrorKind::Unavailable, false)),
            Some(Fault::Short) => return Err((BackendErrorKind::Corrupt, false)),
            Some(Fault::Stall) => return Err((BackendErrorKind::Other, true)),
            Some(Fault::Flip) => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
        }
        Ok(bytes)
    }

    pub(super) fn fail_once(&self, pack: PackId, faults: &[Fault]) {
        self.once.lock().entry(pack).or_default().extend(faults);
    }

    pub(super) fn fail_always(&self, pack: PackId, fault: Fault) {
        self.always.lock().insert(pack, fault);
    }

    pub(super) fn mend(&self) {
        self.always.lock().clear();
        self.once.lock().clear();
    }

    pub(super) fn remove(&self, pack: PackId) {
        self.packs.lock().remove(&pack);
    }

    pub(super) fn close_gate(&self) {
        self.gated.store(true, SeqCst);
    }

    pub(super) fn open_gate(&self) {
        self.gated.store(false, SeqCst);
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// Returns how many reads have begun and not ended.
    pub(super) fn running(&self) -> usize {
        self.running.load(SeqCst)
    }

    pub(super) fn count(&self) -> usize {
        self.reads.lock().len()
    }
}

#[async_trait]
impl Backend for Fake {
    fn location(&self) -> &str {
        "fake:"
    }

    fn concurrency(&self) -> usize {
        8
    }

    fn is_remote(&self) -> bool {
        self.reach == Reach::Network
    }

    async fn list(&self, _: FileKind) -> BackendResult<Vec<ListEntry>> {
        unimplemented!("the blob engine lists nothing")
    }

    async fn read_full(&self, _: FileKind, _: &Id, _: u64) -> BackendResult<Bytes> {
        unimplemented!("the blob engine reads no whole file")
    }

    async fn read_range(&self, kind: FileKind, id: &Id, range: Range<u64>) -> BackendResult<Bytes> {
        assert_eq!(kind, FileKind::Pack);
        let running = self.running.fetch_add(1, SeqCst) + 1;
        self.most_running.fetch_max(running, SeqCst);
        if self.gated.load(SeqCst) {
            self.gate.acquire().await.unwrap().forget();
        }
        tokio::task::yield_now().await;
        let result = self.read(id, range);
        if let Err((_, true)) = result {
            std::future::pending::<()>().await;
        }
        self.running.fetch_sub(1, SeqCst);
        result.map(Bytes::from).map_err(|(kind, _)| Self::error(kind, id))
    }

    fn read_local(&self, _: FileKind, id: &Id, offset: u64, buf: &mut [u8]) -> Option<BackendResult<()>> {
        if self.reach != Reach::Disk {
            return None;
        }
        let result = self.read(id, offset..offset + buf.len() as u64);
        Some(result.map(|bytes| buf.copy_from_slice(&bytes)).map_err(|(kind, _)| Self::error(kind, id)))
    }

    async fn write(&self, _: FileKind, _: &Id, _: Bytes) -> BackendResult<()> {
        unimplemented!("the blob engine writes nothing")
    }

    async fn remove(&self, _: FileKind, _: &Id) -> BackendResult<()> {
        unimplemented!("the blob engine removes nothing")
    }

    async fn create(&self) -> BackendResult<()> {
        unimplemented!("the blob engine makes nothing")
    }
}

/// An index: what it knows, and what it learns by the next refresh.
#[derive(Debug, Default)]
pub(super) struct FakeIndex {
    pub(super) known: Mutex<HashMap<BlobId, Vec<BlobLocation>>>,
    pub(super) after_refresh: Mutex<HashMap<BlobId, Vec<BlobLocation>>>,
    pub(super) refreshes: AtomicUsize,
}

#[async_trait]
impl Locate for FakeIndex {
    fn lookup(&self, id: &BlobId) -> RepoResult<Option<BlobLocation>> {
        Ok(self.known.lock().get(id).and_then(|places| places.first()).copied())
    }

    fn lookup_all(&self, id: &BlobId) -> RepoResult<Vec<BlobLocation>> {
        Ok(self.known.lock().get(id).cloned().unwrap_or_default())
    }

    async fn refresh(&self) -> RepoResult<bool> {
        self.refreshes.fetch_add(1, SeqCst);
        let learnt = std::mem::take(&mut *self.after_refresh.lock());
        let changed = !learnt.is_empty();
        self.known.lock().extend(learnt);
        Ok(changed)
    }
}

/// A repository of fake parts with a real engine.
pub(super) struct Fixture {
    pub(super) store: Arc<Fake>,
    pub(super) index: Arc<FakeIndex>,
    pub(super) key: MasterKey,
    pub(super) metrics: Arc<Metrics>,
    pub(super) blobs: Blobs,
    setup: Setup,
    packs: AtomicUsize,
}

/// How an engine under test is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) reach: Reach,
    pub(super) memory_bytes: usize,
    pub(super) verify: bool,
    pub(super) deadline: Duration,
}

impl Setup {
    pub(super) const fn of(reach: Reach) -> Self {
        Self { reach, memory_bytes: 64 << 20, verify: false, deadline: Duration::from_secs(60) }
    }

    /// Must be called within a runtime.
    pub(super) fn build(self) -> Fixture {
        self.build_over(None)
    }

    /// Makes one with a disk cache in `dir`.
    pub(super) fn build_over(self, dir: Option<&Path>) -> Fixture {
        let store = Arc::new(Fake {
            reach: self.reach,
            packs: Mutex::default(),
            once: Mutex::default(),
            always: Mutex::default(),
            gate: Semaphore::new(0),
            gated: AtomicBool::new(false),
            reads: Mutex::default(),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
        });
        self.assemble(store, Arc::default(), MasterKey::generate(), dir)
    }

    fn assemble(self, store: Arc<Fake>, index: Arc<FakeIndex>, key: MasterKey, dir: Option<&Path>) -> Fixture {
        let metrics = Arc::new(Metrics::default());
        let disk = dir
            .map_or_else(DiskCache::disabled, |dir| DiskCache::open(dir.to_owned(), 64 << 20, &key, metrics.clone()));
        let blobs = Blobs::new(BlobsConfig {
            backend: store.clone(),
            locate: index.clone(),
            key: Arc::new(key.clone()),
            disk,
            metrics: metrics.clone(),
            runtime: Handle::current(),
            memory_bytes: self.memory_bytes,
            budget: None,
            verify: self.verify,
            deadline: self.deadline,
        })
        .unwrap();
        Fixture { setup: self, store, index, key, metrics, blobs, packs: AtomicUsize::new(0) }
    }
}

impl Fixture {
    /// Ends the engine, and makes another one over the same store, index and disk cache.
    pub(super) async fn restart(self, dir: &Path) -> Self {
        let Self { store, index, key, blobs, setup, .. } = self;
        // Decoding threads put blobs into the disk cache after their readers have them.
        until("the last job's end", || Arc::strong_count(&blobs.engine) == 1).await;
        let disk = blobs.engine.disk.clone();
        drop(blobs);
        disk.flush();
        drop(disk);
        setup.assemble(store, index, key, Some(dir))
    }

    /// Writes a pack of blobs one after the other, and returns where they lie; the index does not know them.
    pub(super) fn pack(&self, kind: BlobKind, blobs: &[(Vec<u8>, bool)]) -> Vec<(BlobId, BlobLocation)> {
        let number = self.packs.fetch_add(1, SeqCst) as u64;
        let pack = PackId(Id::hash(&number.to_le_bytes()));
        let mut content = Vec::new();
        let mut places = Vec::new();
        for (plain, compress) in blobs {
            let packed = if *compress { zstd::bulk::compress(plain, 1).unwrap() } else { plain.clone() };
            let sealed = self.key.seal(&packed);
            places.push((
                BlobId(Id::hash(plain)),
                BlobLocation {
                    pack,
                    offset: u32::try_from(content.len()).unwrap(),
                    len_bytes: u32::try_from(sealed.len()).unwrap(),
                    uncompressed_bytes: compress.then(|| u32::try_from(plain.len()).unwrap()),
                    kind,
                },
            ));
            content.extend_from_slice(&sealed);
        }
        self.store.packs.lock().insert(pack, content);
        places
    }

    pub(super) fn learn(&self, places: &[(BlobId, BlobLocation)]) {
        let mut known = self.index.known.lock();
        for (id, location) in places {
            known.entry(*id).or_default().push(*location);
        }
    }

    /// Writes a pack that the index knows.
    pub(super) fn put(&self, kind: BlobKind, blobs: &[(Vec<u8>, bool)]) -> Vec<BlobId> {
        let places = self.pack(kind, blobs);
        self.learn(&places);
        places.into_iter().map(|(id, _)| id).collect()
    }

    pub(super) fn budget_used(&self) -> usize {
        self.blobs.engine.budget.used_bytes()
    }
}

/// Bytes that compress about three to one; `seed` makes them different.
pub(super) fn text(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len_bytes + 16);
    while bytes.len() < len_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = b"the quick brown fox jumps over a lazy dog "[(state % 37) as usize..].first_chunk::<5>();
        bytes.extend_from_slice(word.unwrap_or(b"stash"));
        bytes.push(state.to_le_bytes()[3]);
    }
    bytes.truncate(len_bytes);
    bytes
}

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen");
        tokio::task::yield_now().await;
    }
}

/// Polls a future on this thread, with no runtime around it.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
