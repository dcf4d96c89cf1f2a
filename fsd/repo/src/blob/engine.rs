//! The engine: who does what on which thread.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;

use super::cpu::{CpuPool, Priority};
use super::decode::{Decoder, Order};
use super::flight::{Flight, Flights, Joined, Ticket};
use super::memory::MemoryCache;
use super::pool::{Pool, size_class};
use super::{BlobData, BlobKind, BlobsConfig, Locate};
use crate::backend::{Backend, FileKind};
use crate::budget::{Budget, Grant, Reclaim, cgroup};
use crate::crypto::MasterKey;
use crate::error::{RepoError, RepoResult};
use crate::id::BlobId;
use crate::index::BlobLocation;
use crate::metrics::Metrics;

pub(crate) struct Engine {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) locate: Arc<dyn Locate>,
    key: Arc<MasterKey>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) runtime: Handle,
    verify: bool,
    pub(super) deadline: Duration,
    pub(super) budget: Budget,
    pool: Arc<Pool>,
    memory: Arc<MemoryCache>,
    flights: Arc<Flights>,
    cpu: CpuPool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("backend", &self.backend)
            .field("budget", &self.budget)
            .field("flights", &self.flights.len())
            .finish_non_exhaustive()
    }
}

/// What a blob still needs: the duty to end its flight, how to decode it, and the memory for that.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) ticket: Ticket,
    pub(super) order: Order,
    pub(super) grant: Grant,
}

struct GiveBack {
    pool: Weak<Pool>,
    memory: Weak<MemoryCache>,
}

impl Reclaim for GiveBack {
    fn trim(&self, wanted_bytes: usize) {
        if let Some(pool) = self.pool.upgrade() {
            pool.trim(wanted_bytes);
        }
    }

    fn flush(&self) {
        if let Some(memory) = self.memory.upgrade() {
            memory.clear();
        }
        self.trim(usize::MAX);
    }
}

impl Engine {
    pub(super) fn new(config: BlobsConfig) -> RepoResult<Arc<Self>> {
        let limit_bytes = cgroup::cap_bytes(config.memory_bytes, cgroup::memory_limit_bytes());
        let budget = Budget::new(limit_bytes, Arc::clone(&config.metrics));
        let limit_bytes = budget.limit_bytes();
        let pool = Pool::new(limit_bytes / 16);
        let memory = Arc::new(MemoryCache::new(limit_bytes / 8 * 5));
        budget.set_reclaim(Box::new(GiveBack { pool: Arc::downgrade(&pool), memory: Arc::downgrade(&memory) }));
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cpu = CpuPool::new(threads).map_err(|error| RepoError::Local {
            what: "start decoding threads".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Arc::new(Self {
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
            flights: Arc::default(),
            cpu,
        }))
    }

    pub(super) fn try_get(&self, id: &BlobId, upto: usize) -> Option<BlobData> {
        let blob = self.memory.get(id, upto)?;
        self.metrics.blob_memory_hits.inc();
        Some(blob)
    }

    pub(super) fn lookup(&self, id: &BlobId) -> RepoResult<Option<BlobLocation>> {
        self.locate.lookup(id)
    }

    /// Ends a future that takes longer than the deadline allows, inside or outside of tokio.
    pub(super) async fn within_deadline<T>(&self, work: impl Future<Output = RepoResult<T>>) -> RepoResult<T> {
        let timeout = {
            let _inside = self.runtime.enter();
            tokio::time::timeout(self.deadline, work)
        };
        timeout.await.unwrap_or_else(|_| Err(self.too_late()))
    }

    fn too_late(&self) -> RepoError {
        RepoError::Deadline { seconds: self.deadline.as_secs() }
    }

    pub(super) async fn get(self: &Arc<Self>, id: BlobId, kind: BlobKind, upto: usize) -> RepoResult<BlobData> {
        loop {
            let (flight, own) = match self.flights.join(id, kind, upto, true) {
                Joined::New(ticket) => {
                    // A fetch may have ended between our look into memory and this.
                    if let Some(blob) = self.memory.get(&id, upto) {
                        ticket.finish(Ok(blob.clone()));
                        return Ok(blob);
                    }
                    let flight = ticket.flight();
                    self.start(ticket, Priority::Foreground);
                    (flight, true)
                }
                Joined::Old(flight) => {
                    self.metrics.blob_joined.inc();
                    (flight, false)
                }
            };
            match flight.wait().await {
                Ok(blob) if blob.covers(upto) => return Ok(blob),
                Ok(_) => {}
                Err(error) if own || !matches!(error, RepoError::Deadline { .. } | RepoError::Cancelled) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }

    pub(super) async fn get_many(self: &Arc<Self>, ids: &[BlobId], kind: BlobKind) -> Vec<RepoResult<BlobData>> {
        futures::future::join_all(ids.iter().map(|id| self.within_deadline(self.get(*id, kind, usize::MAX)))).await
    }

    pub(super) fn prefetch(self: &Arc<Self>, ids: &[BlobId], kind: BlobKind) -> usize {
        for (taken, id) in ids.iter().enumerate() {
            if self.memory.get(id, usize::MAX).is_some() {
                continue;
            }
            if self.budget.used_bytes() > self.budget.limit_bytes() / 8 * 7 {
                return taken;
            }
            if let Joined::New(ticket) = self.flights.join(*id, kind, usize::MAX, false) {
                self.metrics.blob_prefetched.inc();
                self.start(ticket, Priority::Background);
            }
        }
        ids.len()
    }

    /// Begins to fetch one blob.
    fn start(self: &Arc<Self>, ticket: Ticket, priority: Priority) {
        let id = ticket.id;
        let location = match self.locate.lookup(&id) {
            Ok(Some(location)) => location,
            Ok(None) => return ticket.finish(Err(RepoError::BlobMissing { id })),
            Err(error) => return ticket.finish(Err(error)),
        };
        let order = self.order(&ticket, location);
        if let Err(error) = order.check() {
            return ticket.finish(Err(error.on(id, &location)));
        }
        let bytes = size_class(order.sealed_bytes()) + order.output_bytes();
        if let Some(grant) = self.budget.try_reserve(bytes) {
            return self.dispatch(Work { ticket, order, grant }, priority);
        }
        let engine = Arc::clone(self);
        drop(self.runtime.spawn(async move {
            let grant = engine.budget.reserve(bytes).await;
            engine.dispatch(Work { ticket, order, grant }, priority);
        }));
    }

    fn order(&self, flight: &Flight, location: BlobLocation) -> Order {
        let hash = self.verify || self.backend.is_remote() || flight.kind == BlobKind::Tree;
        Order { id: flight.id, location, upto: flight.upto(), hash }
    }

    fn dispatch(self: &Arc<Self>, work: Work, priority: Priority) {
        let engine = Arc::clone(self);
        if self.backend.is_remote() {
            drop(self.runtime.spawn(async move {
                let location = work.order.location;
                let offset = u64::from(location.offset);
                let range = offset..offset + u64::from(location.len_bytes);
                match engine.backend.read_range(FileKind::Pack, &location.pack.0, range).await {
                    Ok(sealed) => {
                        let own = Arc::clone(&engine);
                        engine.cpu.push(
                            priority,
                            Box::new(move |decoder| {
                                own.finish(decoder, work, |buffer| {
                                    let room = buffer.get_mut(..sealed.len()).ok_or(RepoError::Cancelled)?;
                                    room.copy_from_slice(&sealed);
                                    Ok(())
                                });
                            }),
                        );
                    }
                    Err(error) => work.ticket.finish(Err(error.into())),
                }
            }));
            return;
        }
        self.cpu.push(
            priority,
            Box::new(move |decoder| {
                let location = work.order.location;
                let backend = Arc::clone(&engine.backend);
                let handle = engine.runtime.clone();
                engine.finish(decoder, work, |buffer| {
                    let room = &mut buffer[..location.len_bytes as usize];
                    let offset = u64::from(location.offset);
                    match backend.read_local(FileKind::Pack, &location.pack.0, offset, room) {
                        Some(result) => Ok(result?),
                        None => {
                            let range = offset..offset + u64::from(location.len_bytes);
                            let bytes = handle.block_on(backend.read_range(FileKind::Pack, &location.pack.0, range))?;
                            room.copy_from_slice(&bytes);
                            Ok(())
                        }
                    }
                });
            }),
        );
    }

    fn finish(&self, decoder: &mut Decoder, mut work: Work, fill: impl FnOnce(&mut [u8]) -> RepoResult<()>) {
        let result = self.fill_and_decode(decoder, &mut work, fill);
        work.ticket.finish(result);
    }

    fn fill_and_decode(
        &self,
        decoder: &mut Decoder,
        work: &mut Work,
        fill: impl FnOnce(&mut [u8]) -> RepoResult<()>,
    ) -> RepoResult<BlobData> {
        self.metrics.blob_fetches.inc();
        let order = &work.order;
        let mut sealed = self.pool.take(order.sealed_bytes(), &mut work.grant).ok_or(RepoError::Cancelled)?;
        fill(&mut sealed)?;
        let decoded = decoder
            .decode(&self.key, order, sealed, &self.pool, &mut work.grant)
            .map_err(|error| error.on(order.id, &order.location))?;
        self.metrics.decoded_bytes.add(decoded.len_bytes as u64);
        let blob = BlobData::new(decoded);
        self.memory.insert(order.id, blob.clone());
        Ok(blob)
    }
}
