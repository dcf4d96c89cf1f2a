//! Blobs on a local disk: read, checked and decoded on one thread, without a hop.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::cpu::Priority;
use super::decode::{Decoder, Sealed};
use super::engine::Engine;
use super::flight::Joined;
use super::pool::Buffer;
use super::unit::{Paid, Work, slice};
use super::{BlobData, BlobKind};
use crate::backend::FileKind;
use crate::budget::Grant;
use crate::error::{RepoError, RepoResult};
use crate::id::{BlobId, PackId};

/// A blob up to this length is decoded where it is asked for: some 100 microseconds, about what waking another thread and
/// being woken by it costs on a virtual machine.
const HERE_BYTES: u32 = 128 << 10;

impl Engine {
    /// Runs a unit on a decoding thread.
    pub(super) fn run_local(self: &Arc<Self>, decoder: &mut Decoder, paid: Paid) {
        let Paid { mut unit, mut grant } = paid;
        let works = unit.take();
        if works.is_empty() {
            return;
        }
        let range_bytes = unit.range_bytes();
        let Some(mut buffer) = self.pool.take(range_bytes, &mut grant) else {
            // Cannot be: the unit was paid for with its whole range. Its flights end as cancelled.
            tracing::error!(range_bytes, "a unit of blobs was not paid for");
            return;
        };
        match self.read_local(unit.pack, unit.range.start, &mut buffer[..range_bytes]) {
            Some(Ok(())) => {
                self.metrics.blob_fetches.add(works.len() as u64);
                self.decode_local(decoder, works, &unit.range, buffer, &mut grant);
            }
            Some(Err(error)) => {
                for Work { ticket, order } in works {
                    self.heal(ticket, Some(order), error.clone());
                }
            }
            None => {
                // The store is not remote, but cannot read on this thread either.
                self.local.store(false, Relaxed);
                drop((buffer, grant));
                let priority = unit.priority;
                for (unit, bytes) in self.units(works, priority) {
                    self.launch(unit, bytes);
                }
            }
        }
    }

    /// Reads and decodes a small blob on the calling thread, if that takes no longer than to hand it to another: the store is
    /// local, the kernel has the bytes in memory, and nobody is at it yet. A prefetch that has not begun is done here. `None`,
    /// and nothing was begun, where any of this is not so; also where what came was bad and is being healed.
    ///
    /// With `keep` a blob of data goes into the cache.
    pub(super) fn get_here(self: &Arc<Self>, id: &BlobId, kind: BlobKind, keep: bool) -> Option<BlobData> {
        thread_local! {
            static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new());
        }
        if !self.local.load(Relaxed) {
            return None;
        }
        let looked_up = self.looked_up.lock().take().filter(|(looked_up, _)| looked_up == id);
        let location = match looked_up {
            Some((_, location)) => location,
            None => self.locate.lookup(id).ok()??,
        };
        if location.plain_bytes().max(location.len_bytes) > HERE_BYTES {
            return None;
        }
        let order = self.order_at(*id, kind, usize::MAX, location).ok()?;
        let sealed_bytes = order.sealed_bytes();
        let mut grant = self.budget.try_reserve(self.unit_bytes(sealed_bytes, &[order]))?;
        let mut buffer = self.pool.take(sealed_bytes, &mut grant)?;
        let (pack, offset) = (&location.pack.0, u64::from(location.offset));
        if !self.backend.read_cached(FileKind::Pack, pack, offset, buffer.get_mut(..sealed_bytes)?) {
            return None;
        }
        let ticket = match self.flights.join(*id, kind, usize::MAX, true) {
            Joined::New(ticket) => ticket,
            Joined::Old(flight) => flight.want()?.ticket,
        };
        self.metrics.blob_fetches.inc();
        let work = Work { ticket, order };
        DECODER.with_borrow_mut(|decoder| self.decode(decoder, work, Sealed::Own(buffer), &mut grant, keep))
    }

    /// Fills `buf` from a pack, on this thread; `None` if the store does not do that.
    pub(super) fn read_local(&self, pack: PackId, offset: u32, buf: &mut [u8]) -> Option<RepoResult<()>> {
        let read = self.backend.read_local(FileKind::Pack, &pack.0, u64::from(offset), buf)?;
        Some(read.map_err(RepoError::from))
    }

    /// Has something done on a decoding thread; `None`, and it is not done, where the store is not local.
    pub(super) fn in_background(&self, work: impl FnOnce() + Send + 'static) -> Option<()> {
        self.local.load(Relaxed).then(|| self.cpu.push(Priority::Background, Box::new(move |_| work())))
    }

    fn decode_local(
        self: &Arc<Self>,
        decoder: &mut Decoder,
        mut works: Vec<Work>,
        range: &Range<u32>,
        mut buffer: Buffer,
        grant: &mut Grant,
    ) {
        if works.len() == 1
            && let Some(work) = works.pop()
        {
            self.decode(decoder, work, Sealed::Own(buffer), grant, true);
            return;
        }
        // Blobs of a sound pack do not overlap; where an index says that they do, the second one's bytes were overwritten by
        // decrypting the first. Its MAC fails then, and it is healed by a read of its own.
        for work in works {
            match slice(range, &work.order).and_then(|slice| buffer.get_mut(slice)) {
                Some(piece) => {
                    self.decode(decoder, work, Sealed::Piece(piece), grant, true);
                }
                None => drop(work),
            }
        }
    }
}
