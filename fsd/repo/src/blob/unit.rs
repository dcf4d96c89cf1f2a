//! Pieces of work: blobs that are read with one request, and what that takes of the budget.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::BlobKind;
use super::cpu::Priority;
use super::decode::Order;
use super::flight::Ticket;
use super::plan;
use super::pool::size_class;
use crate::budget::Grant;
use crate::error::RepoError;
use crate::id::PackId;

/// One blob to fetch: the duty to end its flight, and how to decode it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) ticket: Ticket,
    pub(crate) order: Order,
}

/// Where work waits until somebody does it. A reader who joins a prefetch that has not begun takes the work out and has it
/// done at once; whoever comes to the slot after that finds it empty. A slot that is dropped ends its flight.
#[derive(Debug)]
pub(crate) struct Slot(Mutex<Option<Work>>);

impl Slot {
    pub(crate) fn new(work: Work) -> Arc<Self> {
        let flight = work.ticket.flight();
        let slot = Arc::new(Self(Mutex::new(Some(work))));
        flight.set_slot(Arc::downgrade(&slot));
        slot
    }

    pub(crate) fn take(&self) -> Option<Work> {
        self.0.lock().take()
    }

    fn is_empty(&self) -> bool {
        self.0.lock().is_none()
    }
}

/// Blobs that are read with one request.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) pack: PackId,
    pub(crate) range: Range<u32>,
    /// What its blobs are.
    pub(crate) kind: BlobKind,
    slots: Vec<Arc<Slot>>,
    pub(crate) priority: Priority,
    /// Whether the disk cache was asked already.
    pub(crate) past_disk: bool,
    /// Whether a window has its bytes, or will have them: then they are paid for there.
    pub(crate) windowed: bool,
}

impl Unit {
    /// Makes a unit of blobs that lie in `range` of `pack`.
    pub(crate) fn new(pack: PackId, range: Range<u32>, works: Vec<Work>, priority: Priority) -> Self {
        let kind = works.first().map_or(BlobKind::Data, |work| work.ticket.kind);
        Self {
            pack,
            range,
            kind,
            slots: works.into_iter().map(Slot::new).collect(),
            priority,
            past_disk: false,
            windowed: false,
        }
    }

    /// Makes a unit of one blob.
    pub(crate) fn one(work: Work, priority: Priority) -> Self {
        let location = work.order.location;
        let range = location.offset..location.offset.saturating_add(location.len_bytes);
        Self::new(location.pack, range, vec![work], priority)
    }

    /// Returns the length of the range.
    pub(crate) fn range_bytes(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }

    /// Returns how many blobs it was made of.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns how many blobs readers have not taken out.
    pub(crate) fn left(&self) -> usize {
        self.slots.iter().filter(|slot| !slot.is_empty()).count()
    }

    /// Returns whether readers have taken all work out.
    pub(crate) fn is_empty(&self) -> bool {
        self.left() == 0
    }

    /// Ends all its flights with an error.
    pub(crate) fn fail(mut self, error: &RepoError) {
        for work in self.take() {
            work.ticket.finish(Err(error.clone()));
        }
    }

    /// Takes out what has to be done still, and narrows the range to it.
    pub(crate) fn take(&mut self) -> Vec<Work> {
        let works: Vec<_> = self.slots.drain(..).filter_map(|slot| slot.take()).collect();
        let ranges = works.iter().map(|work| {
            let location = work.order.location;
            (location.offset, location.offset.saturating_add(location.len_bytes))
        });
        if let Some((start, end)) = ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) {
            self.range = start..end;
        }
        works
    }
}

/// Returns what a run of blobs takes on a local disk: the bytes read, and those that are decoded into.
///
/// A single blob is decrypted in the buffer that it is read into and stays there if it is not compressed; those of a longer
/// run share the buffer, and those of them that are not compressed are copied out.
pub(crate) fn local_bytes(range_bytes: usize, orders: &[Order]) -> usize {
    let outputs = match orders {
        [order] => order.output_bytes(),
        orders => orders.iter().map(Order::copied_output_bytes).sum(),
    };
    size_class(range_bytes).saturating_add(outputs)
}

/// Returns what a run of blobs takes from a network: the bytes that came, a buffer to decrypt in for each of `threads`, and
/// those that are decoded into.
pub(crate) fn remote_bytes(range_bytes: usize, orders: &[Order], threads: usize) -> usize {
    let outputs: usize = orders.iter().map(Order::copied_output_bytes).sum();
    range_bytes.saturating_add(outputs).saturating_add(scratch_bytes(orders).saturating_mul(threads.min(orders.len())))
}

/// Returns how large a buffer the longest of these takes to be decrypted in.
pub(crate) fn scratch_bytes(orders: &[Order]) -> usize {
    orders.iter().map(|order| size_class(order.sealed_bytes())).max().unwrap_or(0)
}

/// A run of blobs whose memory is reserved.
#[derive(Debug)]
pub(crate) struct Paid {
    pub(crate) unit: Unit,
    pub(crate) grant: Grant,
}

/// Returns where a blob lies in the bytes of a unit's range.
pub(crate) fn slice(range: &Range<u32>, order: &Order) -> Option<Range<usize>> {
    plan::slice(range, &order.location)
}
