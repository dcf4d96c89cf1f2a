//! The engine: who does what on which thread.
//!
//! A reader's `get` joins or begins a flight. Its work, alone or with that of neighbours, is a unit, which runs once its
//! memory is reserved: on a local disk as a whole on a decoding thread (`local`), else as a download on tokio and then on
//! decoding threads (`remote`). What fails on the way goes to `heal`.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::cpu::{CpuPool, Priority};
use super::decode::{Decoded, Decoder, KEPT_BYTES, Order, Sealed};
use super::flight::{Flight, Flights, Joined, Ticket};
use super::memory::MemoryCache;
use super::plan::{self, Limits, Run};
use super::pool::Pool;
use super::unit::{self, Paid, Unit, Work};
use super::window::Windows;
use super::{BlobData, BlobKind, BlobsConfig, Locate};
use crate::backend::Backend;
use crate::budget::{Budget, Grant, Reclaim, Staying};
use crate::cache::disk::DiskCache;
use crate::crypto::MasterKey;
use crate::error::{RepoError, RepoResult};
use crate::id::BlobId;
use crate::index::BlobLocation;
use crate::metrics::Metrics;

pub(crate) struct Engine {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) locate: Arc<dyn Locate>,
    pub(super) key: Arc<MasterKey>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) runtime: Handle,
    pub(super) verify: bool,
    pub(super) deadline: Duration,
    pub(super) budget: Budget,
    pub(super) pool: Arc<Pool>,
    pub(super) memory: Arc<MemoryCache>,
    pub(super) windows: Arc<Windows>,
    /// Switched off for a local store, which is its own disk cache.
    pub(super) disk: DiskCache,
    pub(super) disk_enabled: bool,
    /// Pays for what the decoding threads keep for blobs of the disk cache; without it they keep nothing.
    pub(super) kept: Option<Staying>,
    pub(super) flights: Arc<Flights>,
    pub(super) cpu: CpuPool,
    /// Downloads that nobody waits for: fewer than the store takes, so that a reader finds room.
    pub(super) ahead: Semaphore,
    /// Bytes that were fetched ahead, or are on their way, and that nobody has asked for yet.
    pub(super) unread_bytes: Arc<AtomicUsize>,
    /// Whether blobs are read on the decoding threads, with no hop over tokio.
    pub(super) local: AtomicBool,
    /// The place that was looked up last, for whoever asks for the length of a blob and then for the blob. Taken once. Should
    /// it be outdated by then, the bytes there are not the blob, and it is looked for anew.
    pub(super) looked_up: Mutex<Option<(BlobId, BlobLocation)>>,
    /// When the index was last refreshed because a blob was missing or bad. Held during the refresh.
    pub(super) refreshed: tokio::sync::Mutex<Option<Instant>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("backend", &self.backend)
            .field("budget", &self.budget)
            .field("flights", &self.flights.len())
            .field("cached_bytes", &self.memory.weight_bytes())
            .field("windows", &self.windows)
            .field("pool", &self.pool)
            .field("cpu", &self.cpu)
            .finish_non_exhaustive()
    }
}

/// How far one of many blobs is.
enum Begun {
    There(BlobData),
    /// On its way, begun by this request, for the whole.
    Own(Arc<Flight>),
    /// On its way for others, who may need less of it.
    Others(BlobId),
}

/// Who gives memory back to the budget: cheapest first.
struct GiveBack {
    windows: Weak<Windows>,
    memory: Weak<MemoryCache>,
}

impl Reclaim for GiveBack {
    fn trim(&self, wanted_bytes: usize, ahead: bool) {
        if let Some(windows) = self.windows.upgrade() {
            windows.trim(wanted_bytes, !ahead);
        }
    }

    fn flush(&self) {
        if let Some(memory) = self.memory.upgrade() {
            memory.clear();
        }
        self.trim(usize::MAX, false);
    }

    fn is_gone(&self) -> bool {
        self.windows.strong_count() == 0 && self.memory.strong_count() == 0
    }
}

impl Engine {
    pub(super) fn new(config: BlobsConfig) -> RepoResult<Arc<Self>> {
        let budget = config.budget.unwrap_or_else(|| Budget::new(config.memory_bytes, Arc::clone(&config.metrics)));
        let limit_bytes = budget.limit_bytes();
        // Half for what was decoded. The rest is what moves: a stream over a network at 200 MB/s with 20 ms of latency has
        // some 16 MiB in flight and in decoding.
        let memory = Arc::new(MemoryCache::new(limit_bytes / 2));
        let windows = Arc::new(Windows::new(limit_bytes / 4));
        let pool = Pool::new(limit_bytes);
        budget.add_reclaim(Box::new(GiveBack { windows: Arc::downgrade(&windows), memory: Arc::downgrade(&memory) }));
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cpu = CpuPool::new(threads).map_err(|error| RepoError::Local {
            what: "start decoding threads".to_owned(),
            reason: error.to_string(),
        })?;
        let disk = if config.backend.is_remote() { config.disk } else { DiskCache::disabled() };
        // Each of many repositories has its own: together they take a quarter at most, and the others do without.
        let keep = || budget.reserve_to_stay(threads * KEPT_BYTES, limit_bytes / 4);
        let kept = disk.stats().enabled.then(keep).flatten();
        Ok(Arc::new(Self {
            local: AtomicBool::new(!config.backend.is_remote()),
            ahead: Semaphore::new((config.backend.concurrency() / 4 * 3).max(1)),
            backend: config.backend,
            locate: config.locate,
            key: config.key,
            metrics: config.metrics,
            runtime: config.runtime,
            verify: config.verify,
            deadline: config.deadline,
            budget,
            pool,
            memory,
            windows,
            disk_enabled: disk.stats().enabled,
            disk,
            kept,
            flights: Arc::default(),
            cpu,
            unread_bytes: Arc::default(),
            looked_up: Mutex::default(),
            refreshed: tokio::sync::Mutex::new(None),
        }))
    }

    pub(super) fn try_get(&self, id: &BlobId, upto: usize) -> Option<BlobData> {
        let found = self.memory.get(id, BlobKind::Data, upto).or_else(|| self.memory.get(id, BlobKind::Tree, upto));
        self.hit(found)
    }

    /// Returns what memory holds for a reader of this kind. Directories that were read as data need not have been hashed.
    fn cached(&self, id: &BlobId, kind: BlobKind, upto: usize) -> Option<BlobData> {
        self.hit(self.memory.get(id, kind, upto))
    }

    fn hit(&self, found: Option<BlobData>) -> Option<BlobData> {
        let blob = found?;
        blob.touch();
        self.metrics.blob_memory_hits.inc();
        Some(blob)
    }

    /// Ends a future that takes longer than the deadline allows, inside or outside of tokio.
    pub(super) async fn within_deadline<T>(&self, work: impl Future<Output = RepoResult<T>>) -> RepoResult<T> {
        let timeout = {
            let _inside = self.runtime.enter();
            tokio::time::timeout(self.deadline, work)
        };
        timeout.await.unwrap_or_else(|_| Err(RepoError::Deadline { seconds: self.deadline.as_secs() }))
    }

    pub(super) async fn get(self: &Arc<Self>, id: BlobId, kind: BlobKind, upto: usize) -> RepoResult<BlobData> {
        loop {
            if let Some(blob) = self.cached(&id, kind, upto) {
                return Ok(blob);
            }
            let (flight, own) = match self.flights.join(id, kind, upto, true) {
                Joined::New(ticket) => {
                    let flight = ticket.flight();
                    self.begin(ticket, upto);
                    (flight, true)
                }
                Joined::Old(flight) => {
                    self.metrics.blob_joined.inc();
                    self.hurry(&flight);
                    (flight, false)
                }
            };
            match flight.wait().await {
                Ok(blob) if blob.covers(upto) => return Ok(blob),
                // It had begun with less before we came.
                Ok(_) => {}
                Err(error) if own || !matches!(error, RepoError::Deadline { .. } | RepoError::Cancelled) => {
                    return Err(error);
                }
                // Others had less time left, or it was a prefetch that found no room.
                Err(_) => {}
            }
        }
    }

    pub(super) async fn get_many(self: &Arc<Self>, ids: &[BlobId], kind: BlobKind) -> Vec<RepoResult<BlobData>> {
        let mut works = Vec::new();
        let begun: Vec<_> = ids
            .iter()
            .map(|id| {
                if let Some(blob) = self.cached(id, kind, usize::MAX) {
                    return Begun::There(blob);
                }
                match self.flights.join(*id, kind, usize::MAX, true) {
                    Joined::New(ticket) => {
                        let flight = ticket.flight();
                        works.extend(self.prepare(ticket));
                        Begun::Own(flight)
                    }
                    Joined::Old(flight) => {
                        self.hurry(&flight);
                        Begun::Others(*id)
                    }
                }
            })
            .collect();
        for (unit, bytes) in self.units(works, Priority::Foreground) {
            self.launch(unit, bytes);
        }
        let waits = begun.into_iter().map(|begun| async move {
            match begun {
                Begun::There(blob) => Ok(blob),
                Begun::Own(flight) => self.within_deadline(flight.wait()).await,
                Begun::Others(id) => self.within_deadline(self.get(id, kind, usize::MAX)).await,
            }
        });
        futures::future::join_all(waits).await
    }

    /// Has a prefetch done at once that a reader waits for now.
    fn hurry(self: &Arc<Self>, flight: &Flight) {
        if let Some(mut work) = flight.want() {
            work.order.upto = flight.upto();
            self.launch_one(work);
        }
    }

    fn begin(self: &Arc<Self>, ticket: Ticket, upto: usize) {
        // A fetch may have ended between our look into memory and our ticket.
        if let Some(blob) = self.memory.get(&ticket.id, ticket.kind, upto) {
            return ticket.finish(Ok(blob));
        }
        if let Some(work) = self.prepare(ticket) {
            self.launch_one(work);
        }
    }

    /// Finds out where a blob lies. A failure goes to healing.
    pub(super) fn prepare(self: &Arc<Self>, ticket: Ticket) -> Option<Work> {
        match self.order(&ticket) {
            Ok(order) => Some(Work { ticket, order }),
            Err(error) => {
                self.heal(ticket, None, error);
                None
            }
        }
    }

    pub(super) fn order(&self, flight: &Flight) -> RepoResult<Order> {
        let id = flight.id;
        let location = self.locate.lookup(&id)?.ok_or(RepoError::BlobMissing { id })?;
        let order = self.order_at(id, flight.kind, flight.upto(), location)?;
        if flight.kind == BlobKind::Tree && self.backend.is_remote() {
            self.windows.learn(&location);
        }
        Ok(order)
    }

    /// Says what to do with the bytes at a place, if its lengths make sense.
    pub(super) fn order_at(
        &self,
        id: BlobId,
        kind: BlobKind,
        upto: usize,
        location: BlobLocation,
    ) -> RepoResult<Order> {
        let hash = self.verify || self.backend.is_remote() || kind == BlobKind::Tree;
        let order = Order { id, location, upto, hash };
        order.check().map_err(|error| error.on(id, &location))?;
        Ok(order)
    }

    fn launch_one(self: &Arc<Self>, work: Work) {
        let bytes = self.unit_bytes(work.order.sealed_bytes(), &[work.order]);
        self.launch(Unit::one(work, Priority::Foreground), bytes);
    }

    /// Puts work together into units, with what memory each takes.
    pub(super) fn units(&self, works: Vec<Work>, priority: Priority) -> Vec<(Unit, usize)> {
        let locations: Vec<_> = works.iter().map(|work| work.order.location).collect();
        let (limits, staged) = if self.local.load(Relaxed) {
            (Limits::LOCAL, Vec::new())
        } else {
            let staged = |location: &BlobLocation| location.kind == BlobKind::Data && self.windows.has(location);
            (Limits::REMOTE, locations.iter().map(staged).collect())
        };
        let mut works: Vec<_> = works.into_iter().map(Some).collect();
        let runs = plan::plan(&locations, &staged, limits).into_iter();
        runs.map(|Run { pack, range, members }| {
            let windowed = members.first().is_some_and(|member| staged.get(*member).is_some_and(|staged| *staged));
            let works: Vec<_> = members.into_iter().filter_map(|member| works[member].take()).collect();
            let orders: Vec<_> = works.iter().map(|work| work.order).collect();
            let bytes = self.unit_bytes(if windowed { 0 } else { range.len() }, &orders);
            let mut unit = Unit::new(pack, range, works, priority);
            unit.windowed = windowed;
            (unit, bytes)
        })
        .collect()
    }

    pub(super) fn unit_bytes(&self, range_bytes: usize, orders: &[Order]) -> usize {
        if self.local.load(Relaxed) {
            unit::local_bytes(range_bytes, orders)
        } else {
            unit::remote_bytes(range_bytes, orders, self.cpu.threads())
        }
    }

    /// Reserves memory for a unit, waiting for it if need be, and runs it.
    pub(super) fn launch(self: &Arc<Self>, unit: Unit, bytes: usize) {
        if let Some(grant) = self.budget.try_reserve(bytes) {
            return self.run(Paid { unit, grant });
        }
        let engine = Arc::clone(self);
        self.runtime.spawn(async move {
            let reserved = engine.within_deadline(async { Ok(engine.budget.reserve(bytes).await) }).await;
            match reserved {
                Ok(grant) => engine.run(Paid { unit, grant }),
                Err(error) => unit.fail(&error),
            }
        });
    }

    /// Runs a unit: all memory that it takes is reserved.
    pub(super) fn run(self: &Arc<Self>, paid: Paid) {
        let engine = Arc::clone(self);
        if self.local.load(Relaxed) {
            self.cpu.push(paid.unit.priority, Box::new(move |decoder| engine.run_local(decoder, paid)));
        } else if self.disk_enabled && !paid.unit.past_disk {
            self.cpu.push(paid.unit.priority, Box::new(move |decoder| engine.run_disk(decoder, paid)));
        } else {
            self.runtime.spawn(async move { engine.run_remote(paid).await });
        }
    }

    /// Decodes a blob and ends its flight, or has it healed. Returns it if the bytes were good. With `keep` a blob of data goes
    /// into the cache.
    pub(super) fn decode(
        self: &Arc<Self>,
        decoder: &mut Decoder,
        work: Work,
        sealed: Sealed<'_>,
        grant: &mut Grant,
        keep: bool,
    ) -> Option<BlobData> {
        let Work { ticket, order } = work;
        match decoder.decode(&self.key, &order, sealed, &self.pool, grant) {
            Ok(decoded) => {
                let blob = self.publish(&ticket, decoded, keep);
                ticket.finish(Ok(blob.clone()));
                Some(blob)
            }
            Err(error) => {
                self.heal(ticket, Some(order), error.on(order.id, &order.location));
                None
            }
        }
    }

    /// Makes a blob of what was decoded, and with `keep` puts it into the cache.
    pub(super) fn publish(&self, flight: &Flight, decoded: Decoded, keep: bool) -> BlobData {
        self.metrics.decoded_bytes.add(decoded.len_bytes as u64);
        let blob = BlobData::new(decoded, flight.take_unread());
        // Directories are kept decoded (`repository::trees`); their JSON is not wanted twice.
        if keep && flight.kind == BlobKind::Data {
            self.memory.insert(flight.id, flight.kind, blob.clone());
        }
        blob
    }
}
