//! Single flight: whoever asks for a blob that somebody is fetching already waits for that fetch. Waiters hold no thread.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::prefetch::Unread;
use super::unit::{Slot, Work};
use super::{BlobData, BlobKind};
use crate::error::{RepoError, RepoResult};
use crate::id::BlobId;

/// One fetch of one blob, shared by those who wait for it.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) id: BlobId,
    pub(crate) kind: BlobKind,
    /// The most that anybody wants of it so far.
    upto: AtomicUsize,
    /// Whether a reader waits, or nobody yet.
    wanted: AtomicBool,
    /// There while it is a prefetch that no reader has joined.
    unread: Mutex<Option<Unread>>,
    /// Where the work waits to be begun; dangling before and after that.
    slot: Mutex<Weak<Slot>>,
    result: OnceLock<RepoResult<BlobData>>,
    done: Notify,
}

impl Flight {
    /// Returns how much is wanted of the blob, as far as is known now.
    pub(crate) fn upto(&self) -> usize {
        self.upto.load(Acquire)
    }

    /// Says where the work waits.
    pub(crate) fn set_slot(&self, slot: Weak<Slot>) {
        *self.slot.lock() = slot;
    }

    /// Counts it among what is fetched ahead.
    pub(crate) fn set_unread(&self, unread: Unread) {
        *self.unread.lock() = Some(unread);
        if self.is_wanted() {
            drop(self.take_unread());
        }
    }

    /// Returns the count, to go on with the blob; `None` if a reader has joined.
    pub(crate) fn take_unread(&self) -> Option<Unread> {
        self.unread.lock().take()
    }

    /// Says that a reader waits, and takes the work out of its queue if it waits there still: the caller does it now.
    pub(crate) fn want(&self) -> Option<Work> {
        if self.wanted.swap(true, AcqRel) {
            return None;
        }
        drop(self.take_unread());
        let slot = self.slot.lock().upgrade();
        slot.and_then(|slot| slot.take())
    }

    /// Returns whether a reader waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Acquire)
    }

    /// Waits for the end. What it brings may be less than this waiter needs if the work had begun before it came.
    pub(crate) async fn wait(&self) -> RepoResult<BlobData> {
        loop {
            let mut done = pin!(self.done.notified());
            done.as_mut().enable();
            if let Some(result) = self.result.get() {
                return result.clone();
            }
            done.await;
        }
    }
}

/// All fetches under way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    by_id: Mutex<HashMap<(BlobId, BlobKind), Arc<Flight>>>,
}

/// What [`Flights::join`] found.
#[derive(Debug)]
pub(crate) enum Joined {
    /// A new one: the caller must see to it that it ends.
    New(Ticket),
    /// One that is under way.
    Old(Arc<Flight>),
}

impl Flights {
    /// Joins the fetch of a blob or begins one.
    pub(crate) fn join(self: &Arc<Self>, id: BlobId, kind: BlobKind, upto: usize, wanted: bool) -> Joined {
        match self.by_id.lock().entry((id, kind)) {
            Entry::Occupied(entry) => {
                entry.get().upto.fetch_max(upto, AcqRel);
                Joined::Old(Arc::clone(entry.get()))
            }
            Entry::Vacant(entry) => {
                let flight = Arc::new(Flight {
                    id,
                    kind,
                    upto: AtomicUsize::new(upto),
                    wanted: AtomicBool::new(wanted),
                    unread: Mutex::default(),
                    slot: Mutex::default(),
                    result: OnceLock::new(),
                    done: Notify::new(),
                });
                entry.insert(Arc::clone(&flight));
                Joined::New(Ticket { flight, flights: Arc::clone(self) })
            }
        }
    }

    /// Returns how many are under way.
    pub(crate) fn len(&self) -> usize {
        self.by_id.lock().len()
    }
}

/// The duty to end a flight. Dropped without a result, its waiters get `Cancelled`.
#[derive(Debug)]
pub(crate) struct Ticket {
    flight: Arc<Flight>,
    flights: Arc<Flights>,
}

impl std::ops::Deref for Ticket {
    type Target = Flight;
    fn deref(&self) -> &Flight {
        &self.flight
    }
}

impl Ticket {
    /// Returns the flight, to wait for it.
    pub(crate) fn flight(&self) -> Arc<Flight> {
        Arc::clone(&self.flight)
    }

    /// Ends the flight: waiters get the result, the next asker begins anew.
    pub(crate) fn finish(self, result: RepoResult<BlobData>) {
        self.end(result);
    }

    fn end(&self, result: RepoResult<BlobData>) {
        if self.flight.result.set(result).is_ok() {
            // Out of the map before the waiters wake: one who needs more than came must not meet it again.
            self.flights.by_id.lock().remove(&(self.flight.id, self.flight.kind));
            self.flight.done.notify_waiters();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(Err(RepoError::Cancelled));
    }
}
