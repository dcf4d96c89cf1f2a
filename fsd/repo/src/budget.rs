//! One byte budget for everything that is in flight, decoded or fetched ahead.
//!
//! Bytes are reserved *before* they are allocated, and given back when the memory is. A [`Grant`] is such a reservation; it
//! travels with the buffer that it pays for, from the request over the decoder into the cache and to the last reader.
//!
//! Invariants:
//! * The sum of all grants stays within the limit, with one exception (below).
//! * Reservations that wait are served in order, and nobody overtakes them.
//! * The foreground always makes progress: when a reservation waits and no grant is *working* any more (all bytes lie in
//!   caches or in the hands of readers), caches are emptied, and if that is not enough the one at the front is granted all
//!   the same. So a reader that holds one blob and waits for the next cannot deadlock with others who do alike, and a
//!   single blob larger than the whole budget can be read.
//! * A holder of a working grant never waits for another one: all that a piece of work needs is reserved at once.
//! * What stays ([`Budget::reserve_to_stay`]) is bounded by itself, and does not depend on what caches hold at the moment: they make room.

pub mod cgroup;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::metrics::Metrics;

/// The least budget: one blob of restic's largest chunk (8 MiB), plain and encrypted, and some room beside it.
pub const MIN_BUDGET_BYTES: usize = 24 << 20;

/// Whoever holds memory that can be had back.
pub(crate) trait Reclaim: Send + Sync {
    /// Frees windows. Called often: where nobody waits for the bytes (`ahead`), only those that are cheap to lose.
    fn trim(&self, wanted_bytes: usize, ahead: bool);

    /// Frees all that can be freed. Called when nothing else helps.
    fn flush(&self);

    /// Whether there is nothing any more that could be freed.
    fn is_gone(&self) -> bool {
        false
    }
}

/// A limit of bytes that many share.
#[derive(Clone)]
pub struct Budget {
    inner: Arc<Inner>,
}

struct Inner {
    limit_bytes: usize,
    state: Mutex<State>,
    /// How many reservations wait; while any does, nobody takes the fast path.
    waiting: AtomicUsize,
    /// How many of the bytes stay where they are, whatever others need.
    staying_bytes: AtomicUsize,
    /// Held by the reservation at the front, across its wait. Tokio's mutex is fair.
    turn: tokio::sync::Mutex<()>,
    /// Told when bytes come back or work ends.
    freed: Notify,
    /// Those who give memory back: one for each repository that shares the budget.
    reclaim: RwLock<Vec<Box<dyn Reclaim>>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    used_bytes: usize,
    /// Grants whose holders are at work and will settle or drop them without waiting for this budget.
    working: usize,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("limit_bytes", &self.inner.limit_bytes)
            .field("state", &*self.inner.state.lock())
            .finish_non_exhaustive()
    }
}

impl Budget {
    /// Makes a budget of `limit_bytes`, at least [`MIN_BUDGET_BYTES`].
    #[must_use]
    pub fn new(limit_bytes: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            inner: Arc::new(Inner {
                limit_bytes: limit_bytes.max(MIN_BUDGET_BYTES),
                state: Mutex::default(),
                waiting: AtomicUsize::new(0),
                staying_bytes: AtomicUsize::new(0),
                turn: tokio::sync::Mutex::new(()),
                freed: Notify::new(),
                reclaim: RwLock::default(),
                metrics,
            }),
        }
    }

    /// Names another one who gives memory back when it is short, and forgets those who are gone.
    pub(crate) fn add_reclaim(&self, reclaim: Box<dyn Reclaim>) {
        let mut all = self.inner.reclaim.write();
        all.retain(|one| !one.is_gone());
        all.push(reclaim);
    }

    /// Returns the limit.
    #[must_use]
    pub fn limit_bytes(&self) -> usize {
        self.inner.limit_bytes
    }

    /// Returns how many bytes are reserved now.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.inner.state.lock().used_bytes
    }

    /// Reserves bytes for work if there is room and nobody waits; never waits.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<Grant> {
        self.try_reserve_leaving(bytes, 0)
    }

    /// As [`Budget::try_reserve`], but only if `leave_bytes` stay free beside it: for work that nobody waits for.
    #[must_use]
    pub fn try_reserve_leaving(&self, bytes: usize, leave_bytes: usize) -> Option<Grant> {
        if self.inner.waiting.load(SeqCst) > 0 {
            return None;
        }
        self.take_or_trim(bytes, leave_bytes)
    }

    /// Reserves bytes for work, in order of arrival. The caller must not hold a working grant.
    pub async fn reserve(&self, bytes: usize) -> Grant {
        if let Some(grant) = self.try_reserve(bytes) {
            return grant;
        }
        let _waiting = Waiting::new(&self.inner);
        let _turn = self.inner.turn.lock().await;
        loop {
            let mut freed = pin!(self.inner.freed.notified());
            freed.as_mut().enable();
            if let Some(grant) = self.take_or_trim(bytes, 0) {
                return grant;
            }
            if self.inner.state.lock().working == 0 {
                self.flush();
                if let Some(grant) = self.take(bytes, 0, false) {
                    return grant;
                }
                if let Some(grant) = self.take(bytes, 0, true) {
                    tracing::debug!(bytes, used = self.used_bytes(), "memory budget overdrawn by one request");
                    return grant;
                }
            }
            freed.await;
        }
    }

    fn take_or_trim(&self, bytes: usize, leave_bytes: usize) -> Option<Grant> {
        self.take(bytes, leave_bytes, false).or_else(|| {
            for reclaim in self.inner.reclaim.read().iter() {
                reclaim.trim(bytes.saturating_add(leave_bytes), leave_bytes > 0);
            }
            self.take(bytes, leave_bytes, false)
        })
    }

    /// Reserves bytes for what no cache gives back, unless all that stays would then be more than `most_bytes`. Never waits: caches are
    /// emptied for it, and what is in the hands of readers comes back by itself, so that they need not be had at once.
    #[must_use]
    pub fn reserve_to_stay(&self, bytes: usize, most_bytes: usize) -> Option<Staying> {
        let staying = &self.inner.staying_bytes;
        let fits = |staying: usize| staying.checked_add(bytes).filter(|sum| *sum <= most_bytes);
        staying.fetch_update(SeqCst, SeqCst, fits).ok()?;
        let mut grant = self.take_or_trim(bytes, 0).unwrap_or_else(|| {
            self.flush();
            self.give(&mut self.inner.state.lock(), bytes)
        });
        grant.settle();
        Some(Staying { grant })
    }

    fn flush(&self) {
        for reclaim in self.inner.reclaim.read().iter() {
            reclaim.flush();
        }
    }

    /// Takes bytes; with `overdraw` beyond the limit, if nobody works.
    fn take(&self, bytes: usize, leave_bytes: usize, overdraw: bool) -> Option<Grant> {
        let mut state = self.inner.state.lock();
        let used_bytes = state.used_bytes.checked_add(bytes)?;
        let fits = used_bytes.checked_add(leave_bytes).is_some_and(|sum| sum <= self.inner.limit_bytes);
        if !fits && (!overdraw || state.working > 0) {
            return None;
        }
        Some(self.give(&mut state, bytes))
    }

    /// Gives bytes out for work, whatever the limit.
    fn give(&self, state: &mut State, bytes: usize) -> Grant {
        state.used_bytes = state.used_bytes.saturating_add(bytes);
        state.working += 1;
        self.inner.show(state);
        Grant { inner: Arc::clone(&self.inner), bytes, working: true }
    }
}

impl Inner {
    fn show(&self, state: &State) {
        self.metrics.budget_used_bytes.store(state.used_bytes as u64, Relaxed);
    }

    fn give_back(&self, bytes: usize, worked: bool) {
        let mut state = self.state.lock();
        state.used_bytes -= bytes;
        state.working -= usize::from(worked);
        self.show(&state);
        drop(state);
        if self.waiting.load(SeqCst) > 0 {
            self.freed.notify_one();
        }
    }
}

/// Counts a reservation that waits, also when its future is dropped.
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn new(inner: &'a Inner) -> Self {
        inner.waiting.fetch_add(1, SeqCst);
        Self(inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

/// Bytes of a budget that are spoken for; dropping gives them back.
pub struct Grant {
    inner: Arc<Inner>,
    bytes: usize,
    working: bool,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("bytes", &self.bytes).field("working", &self.working).finish_non_exhaustive()
    }
}

impl Grant {
    /// Returns how many bytes it holds.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `bytes` out as a grant of its own, as working as this one; `None` if it holds fewer.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Option<Self> {
        self.bytes = self.bytes.checked_sub(bytes)?;
        if self.working {
            self.inner.state.lock().working += 1;
        }
        Some(Self { inner: Arc::clone(&self.inner), bytes, working: self.working })
    }

    /// Takes in another grant of the same budget.
    pub(crate) fn merge(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.inner, &other.inner), "a grant of another budget");
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(spare_bytes) = self.bytes.checked_sub(bytes) {
            self.bytes = bytes;
            self.inner.give_back(spare_bytes, false);
        }
    }

    /// Says that the work is done and the bytes stay where they are: in a cache, or in a reader's hands.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.working) {
            self.inner.give_back(0, true);
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.inner.give_back(self.bytes, self.working);
    }
}

/// Bytes of a budget that no cache gives back; dropping gives them back.
#[derive(Debug)]
pub struct Staying {
    grant: Grant,
}

impl Drop for Staying {
    fn drop(&mut self) {
        self.grant.inner.staying_bytes.fetch_sub(self.grant.bytes, SeqCst);
    }
}

#[cfg(test)]
mod tests;
