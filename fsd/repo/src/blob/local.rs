//! Blobs on a local disk: read, checked and decoded on one thread, without a hop.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::decode::{Decoder, Sealed};
use super::engine::Engine;
use super::pool::Buffer;
use super::unit::{Paid, Work, slice};
use crate::backend::FileKind;
use crate::budget::Grant;
use crate::error::{RepoError, RepoResult};
use crate::id::PackId;

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

    /// Fills `buf` from a pack, on this thread; `None` if the store does not do that.
    pub(super) fn read_local(&self, pack: PackId, offset: u32, buf: &mut [u8]) -> Option<RepoResult<()>> {
        let read = self.backend.read_local(FileKind::Pack, &pack.0, u64::from(offset), buf)?;
        Some(read.map_err(RepoError::from))
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
            self.decode(decoder, work, Sealed::Own(buffer), grant);
            return;
        }
        // Blobs of a sound pack do not overlap; where an index says that they do, the second one's bytes were overwritten by
        // decrypting the first. Its MAC fails then, and it is healed by a read of its own.
        for work in works {
            match slice(range, &work.order).and_then(|slice| buffer.get_mut(slice)) {
                Some(piece) => {
                    self.decode(decoder, work, Sealed::Piece(piece), grant);
                }
                None => drop(work),
            }
        }
    }
}
