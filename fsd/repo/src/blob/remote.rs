//! Blobs from afar: out of the disk cache, or downloaded side by side on tokio; decoded on the decoding threads.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::BlobKind;
use super::cpu::Priority;
use super::decode::{Decoder, Order, Sealed};
use super::engine::Engine;
use super::plan::{self, Limits, Run};
use super::unit::{Paid, Work, scratch_bytes, slice};
use super::window::{Entered, Taken};
use crate::backend::{BackendError, BackendErrorKind, FileKind, Retry};
use crate::budget::Grant;
use crate::error::{RepoError, RepoResult};
use crate::id::{BlobId, PackId};

/// Below this a second thread's wake-up costs more than it brings.
const SPLIT_BYTES: usize = 256 << 10;

/// Blobs that came with one download and wait for a decoding thread.
struct Arrived {
    bytes: Bytes,
    /// What piece of the pack the bytes are.
    range: Range<u32>,
    works: Mutex<(VecDeque<Work>, Grant)>,
    scratch_bytes: usize,
}

impl Engine {
    /// Takes what it can from the disk cache, on a decoding thread, and sends for the rest.
    pub(super) fn run_disk(self: &Arc<Self>, decoder: &mut Decoder, paid: Paid) {
        let Paid { mut unit, mut grant } = paid;
        let mut sealed = decoder.take_kept();
        let mut missing = Vec::new();
        for work in unit.take() {
            if !self.disk.get_into(&work.order.id, work.ticket.kind, &mut sealed) {
                missing.push(work);
                continue;
            }
            if sealed.len() != work.order.sealed_bytes() {
                // Another pack's copy of the blob, packed otherwise. It is as good, but not what was paid for.
                missing.push(work);
                continue;
            }
            // The cache's own seal says that these bytes were put under this id, after they had been hashed.
            let hash = self.verify || work.ticket.kind == BlobKind::Tree;
            let work = Work { order: Order { hash, ..work.order }, ..work };
            let Some(mut own) = grant.split(work.order.copied_output_bytes()) else {
                tracing::error!(id = %work.order.id.0.short(), "a blob was not paid for");
                continue;
            };
            // Counted before the waiter is told: who has the blob finds it counted.
            self.metrics.blob_disk_hits.inc();
            self.decode(decoder, work, Sealed::Piece(&mut sealed), &mut own, true);
        }
        if self.kept.is_some() {
            decoder.keep(sealed);
        }
        drop(grant);
        for (mut unit, bytes) in self.units(missing, unit.priority) {
            unit.past_disk = true;
            self.launch(unit, bytes);
        }
    }

    /// Downloads a unit and hands it to the decoding threads.
    pub(super) async fn run_remote(self: &Arc<Self>, paid: Paid) {
        let _permit = match paid.unit.priority {
            // The semaphore is never closed.
            Priority::Background => self.ahead.acquire().await.ok(),
            Priority::Foreground => None,
        };
        if paid.unit.is_empty() {
            return;
        }
        if !self.backend.is_remote() {
            return self.run_exactly(paid).await;
        }
        if paid.unit.kind == BlobKind::Tree {
            return self.run_windowed(paid).await;
        }
        match self.windows.take(paid) {
            Taken::Ready(paid, bytes) => self.hand_over_unit(paid, bytes),
            Taken::Waits => {}
            Taken::Missing(paid) => self.run_alone(paid).await,
        }
    }

    /// Fetches directories with their neighbours.
    async fn run_windowed(self: &Arc<Self>, paid: Paid) {
        let leave_bytes = self.budget.limit_bytes() / 8;
        match self.windows.enter(paid, |bytes| self.budget.try_reserve_leaving(bytes, leave_bytes)) {
            Entered::Ready(paid, bytes) => self.hand_over_unit(paid, bytes),
            Entered::Waits => {}
            Entered::Fetch { key, unit: mut paid, range } => {
                let result = self.fetch(paid.unit.pack, range.clone()).await;
                let result = result.map(|bytes| match paid.grant.split(bytes.len()) {
                    Some(grant) => paid_bytes(bytes, grant),
                    None => bytes,
                });
                let waited = self.windows.arrived(key, result.as_ref().ok().cloned());
                self.hand_over_window(std::iter::once(paid).chain(waited), &range, &result).await;
            }
        }
    }

    /// Downloads what will be asked for after what is being decoded ahead, in long pieces that stay sealed. Returns how many
    /// blobs from the front were taken on.
    pub(super) fn stage(self: &Arc<Self>, ids: &[BlobId]) -> usize {
        let mut room_bytes = self.windows.room_bytes();
        if room_bytes == 0 || !self.backend.is_remote() {
            return 0;
        }
        let mut wanted = Vec::new();
        let mut places = Vec::new();
        let mut taken = ids.len();
        for (place, id) in ids.iter().enumerate() {
            if self.disk.contains(id, BlobKind::Data) || self.memory.get(id, BlobKind::Data, usize::MAX).is_some() {
                continue;
            }
            // What no index names, or no sound one, shows up when it is asked for.
            let Ok(Some(location)) = self.locate.lookup(id) else { continue };
            if self.order_at(*id, BlobKind::Data, usize::MAX, location).is_err() || self.windows.has(&location) {
                continue;
            }
            let Some(left_bytes) = room_bytes.checked_sub(location.len_bytes as usize) else {
                taken = place;
                break;
            };
            room_bytes = left_bytes;
            wanted.push(location);
            places.push(place);
        }
        for Run { pack, range, members } in plan::plan(&wanted, &[], Limits::STAGED) {
            let Some(grant) = self.budget.try_reserve_leaving(range.len(), self.budget.limit_bytes() / 8) else {
                let first = members.iter().filter_map(|member| places.get(*member)).min();
                taken = taken.min(first.map_or(0, |place| *place));
                continue;
            };
            let key = self.windows.stage(pack, range.clone(), members.len());
            let engine = Arc::clone(self);
            self.runtime.spawn(async move { engine.run_staged(key, pack, range, grant).await });
        }
        taken
    }

    async fn run_staged(self: &Arc<Self>, key: u64, pack: PackId, range: Range<u32>, grant: Grant) {
        let permit = self.ahead.acquire().await.ok();
        let result = self.fetch(pack, range.clone()).await.map(|bytes| paid_bytes(bytes, grant));
        drop(permit);
        let waited = self.windows.arrived(key, result.as_ref().ok().cloned());
        self.hand_over_window(waited.into_iter(), &range, &result).await;
    }

    /// Hands over units whose bytes lie in a `range` that came, or did not.
    async fn hand_over_window(
        self: &Arc<Self>,
        units: impl Iterator<Item = Paid>,
        range: &Range<u32>,
        result: &RepoResult<Bytes>,
    ) {
        for paid in units {
            match result {
                Ok(bytes) => {
                    let start = (paid.unit.range.start - range.start) as usize;
                    let own = bytes.slice(start..start + paid.unit.range_bytes());
                    self.hand_over_unit(paid, own);
                }
                // It may have been the neighbourhood that failed; what was asked for is tried by itself.
                Err(error) if *range == paid.unit.range => {
                    let Paid { mut unit, .. } = paid;
                    self.heal_all(unit.take(), error);
                }
                Err(_) => self.run_alone(paid).await,
            }
        }
    }

    /// Fetches a unit's range after the window went that was to have it, and so the memory for it.
    async fn run_alone(self: &Arc<Self>, paid: Paid) {
        let Paid { mut unit, grant } = paid;
        if !unit.windowed {
            return self.run_exactly(Paid { unit, grant }).await;
        }
        let (priority, works) = (unit.priority, unit.take());
        drop(grant);
        for (mut unit, bytes) in self.units(works, priority) {
            unit.past_disk = true;
            self.launch(unit, bytes);
        }
    }

    /// Fetches nothing but a unit's range.
    async fn run_exactly(self: &Arc<Self>, paid: Paid) {
        let Paid { mut unit, grant } = paid;
        let works = unit.take();
        if works.is_empty() {
            return;
        }
        match self.fetch(unit.pack, unit.range.clone()).await {
            Ok(bytes) => self.hand_over(works, unit.range, unit.priority, bytes, grant),
            Err(error) => self.heal_all(works, &error),
        }
    }

    fn heal_all(self: &Arc<Self>, works: Vec<Work>, error: &RepoError) {
        for Work { ticket, order } in works {
            self.heal(ticket, Some(order), error.clone());
        }
    }

    /// Reads a piece of a pack within the deadline.
    pub(super) async fn fetch(&self, pack: PackId, range: Range<u32>) -> RepoResult<Bytes> {
        let wanted_bytes = (range.end - range.start) as usize;
        let range = u64::from(range.start)..u64::from(range.end);
        let read = async { Ok(self.backend.read_range(FileKind::Pack, &pack.0, range).await?) };
        let bytes = self.within_deadline(read).await?;
        if bytes.len() == wanted_bytes {
            return Ok(bytes);
        }
        Err(RepoError::from(BackendError {
            kind: BackendErrorKind::Corrupt,
            retry: Retry::Temporary,
            operation: "read",
            target: FileKind::Pack.path(&pack.0),
            location: self.backend.location().to_owned(),
            message: format!("{} bytes instead of {wanted_bytes}", bytes.len()),
        }))
    }

    fn hand_over_unit(self: &Arc<Self>, paid: Paid, bytes: Bytes) {
        let Paid { mut unit, grant } = paid;
        let (range, priority) = (unit.range.clone(), unit.priority);
        self.hand_over(unit.take(), range, priority, bytes, grant);
    }

    /// Queues what came for decoding: `bytes` are the `range` of the works' pack.
    fn hand_over(
        self: &Arc<Self>,
        works: Vec<Work>,
        range: Range<u32>,
        priority: Priority,
        bytes: Bytes,
        grant: Grant,
    ) {
        if works.is_empty() {
            return;
        }
        let wanted = works.iter().any(|work| work.ticket.is_wanted());
        let priority = if wanted { Priority::Foreground } else { priority };
        let jobs = if bytes.len() < SPLIT_BYTES { 1 } else { self.cpu.threads().min(works.len()) };
        let orders: Vec<_> = works.iter().map(|work| work.order).collect();
        let scratch_bytes = scratch_bytes(&orders);
        let arrived = Arc::new(Arrived { bytes, range, works: Mutex::new((works.into(), grant)), scratch_bytes });
        for _ in 0..jobs {
            let (engine, arrived) = (Arc::clone(self), Arc::clone(&arrived));
            self.cpu.push(priority, Box::new(move |decoder| engine.decode_arrived(decoder, &arrived)));
        }
    }

    fn decode_arrived(self: &Arc<Self>, decoder: &mut Decoder, arrived: &Arrived) {
        let mut scratch = None;
        loop {
            let (work, mut grant) = {
                let mut state = arrived.works.lock();
                let (works, grant) = &mut *state;
                let Some(work) = works.pop_front() else { return };
                if scratch.is_none() && !work.order.is_stored() {
                    scratch = self.pool.take(arrived.scratch_bytes, grant);
                }
                let Some(own) = grant.split(work.order.copied_output_bytes()) else {
                    tracing::error!(id = %work.order.id.0.short(), "a blob was not paid for");
                    continue;
                };
                (work, own)
            };
            let Some(sealed) = slice(&arrived.range, &work.order).and_then(|slice| arrived.bytes.get(slice)) else {
                continue;
            };
            let own = if work.order.is_stored() {
                self.pool.take(sealed.len(), &mut grant).map(|mut own| {
                    own[..sealed.len()].copy_from_slice(sealed);
                    Sealed::Own(own)
                })
            } else {
                scratch.as_mut().and_then(|scratch| scratch.get_mut(..sealed.len())).map(|scratch| {
                    scratch.copy_from_slice(sealed);
                    Sealed::Piece(scratch)
                })
            };
            if let Some(own) = own {
                self.metrics.blob_fetches.inc();
                let (id, kind, hashed) = (work.order.id, work.ticket.kind, work.order.hash);
                if self.decode(decoder, work, own, &mut grant, true).is_some() && hashed {
                    self.disk.put(&id, kind, sealed);
                }
            }
        }
    }
}

/// Binds a grant to the bytes that it pays for: it lasts as long as any slice of them.
fn paid_bytes(bytes: Bytes, mut grant: Grant) -> Bytes {
    struct Owner {
        bytes: Bytes,
        _grant: Grant,
    }
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    grant.settle();
    Bytes::from_owner(Owner { bytes, _grant: grant })
}
