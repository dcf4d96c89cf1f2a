//! Fetching what will be asked for: as much as memory allows, behind everything that somebody waits for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::BlobKind;
use super::cpu::Priority;
use super::engine::Engine;
use super::flight::Joined;
use super::unit::{Paid, Work};
use crate::id::BlobId;

/// Bytes that were fetched ahead and that nobody has asked for yet. Dropped when somebody does, or when they go unread.
#[derive(Debug)]
pub(crate) struct Unread {
    bytes: usize,
    sum: Arc<AtomicUsize>,
}

impl Unread {
    /// Counts bytes if the sum stays within the limit. One blob is always admitted.
    fn admit(sum: &Arc<AtomicUsize>, bytes: usize, limit_bytes: usize) -> Option<Self> {
        sum.try_update(Relaxed, Relaxed, |sum| {
            let next = sum.checked_add(bytes)?;
            (sum == 0 || next <= limit_bytes).then_some(next)
        })
        .ok()?;
        Some(Self { bytes, sum: Arc::clone(sum) })
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.bytes, Relaxed);
    }
}

impl Engine {
    pub(super) fn prefetch(self: &Arc<Self>, ids: &[BlobId], kind: BlobKind) -> usize {
        let limit_bytes = self.budget.limit_bytes();
        // What lies unread must fit into the cache (half of the budget) with room for what is being read: else it is evicted
        // before its reader comes, and fetched twice.
        let unread_limit = limit_bytes / 8 * 3;
        let mut works = Vec::new();
        // Where in `ids` the works are; the first one that finds no room ends the count.
        let mut places = HashMap::new();
        let mut taken = ids.len();
        for (place, id) in ids.iter().enumerate() {
            if self.memory.get(id, kind, usize::MAX).is_some() {
                continue;
            }
            let Joined::New(ticket) = self.flights.join(*id, kind, usize::MAX, false) else { continue };
            // What no index names, or no sound one, shows up when it is asked for: the ticket goes, and nobody is told.
            let Ok(order) = self.order(&ticket) else { continue };
            let plain_bytes = order.location.plain_bytes() as usize;
            let Some(unread) = Unread::admit(&self.unread_bytes, plain_bytes, unread_limit) else {
                taken = place;
                break;
            };
            ticket.set_unread(unread);
            places.insert(*id, place);
            works.push(Work { ticket, order });
        }
        for (mut unit, bytes) in self.units(works, Priority::Background) {
            if let Some(grant) = self.budget.try_reserve_leaving(bytes, limit_bytes / 8) {
                self.metrics.blob_prefetched.add(unit.len() as u64);
                self.run(Paid { unit, grant });
            } else {
                let refused = unit.take();
                taken = refused.iter().filter_map(|work| places.get(&work.order.id)).fold(taken, |a, b| a.min(*b));
            }
        }
        taken
    }
}
