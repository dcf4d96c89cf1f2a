//! Buffers that are kept when their last user is done with them.
//!
//! A fresh large allocation costs a page fault for every 4 KiB on first touch, 10 to 20 % of what decoding a blob into it
//! costs; a kept one costs nothing. Kept (idle) buffers stay paid for by their grant and are given up when the budget is short.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::budget::Grant;

/// Smaller buffers are left to the allocator, which keeps such blocks by itself, and are not rounded to classes.
const SMALLEST_KEPT_BYTES: usize = 32 << 10;

/// A buffer up to this many times the wanted size may serve in its place: restic's chunks differ in size from one to the
/// next, and an exact match would be rare.
const FIT_NUMERATOR: usize = 3;
const FIT_DENOMINATOR: usize = 2;

/// Idle buffers.
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    /// The most bytes that lie idle.
    limit_bytes: usize,
}

#[derive(Default)]
struct Idle {
    by_size: BTreeMap<usize, Vec<(Vec<u8>, Grant)>>,
    bytes: usize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("idle_bytes", &self.idle.lock().bytes).finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), limit_bytes })
    }

    /// Takes a buffer of at least `bytes`, paid out of `grant`, which must hold [`size_class`] of them.
    ///
    /// Its content is what the last user left there, or zeros. Returns `None` if the grant is too small.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize, grant: &mut Grant) -> Option<Buffer> {
        let class_bytes = size_class(bytes);
        let mut own = grant.split(class_bytes)?;
        if class_bytes >= SMALLEST_KEPT_BYTES
            && let Some((memory, mut paid)) = self.idle.lock().pop(class_bytes)
        {
            // The idle buffer brings its own grant; the one that was asked for goes back.
            own.shrink(0);
            std::mem::swap(&mut own, &mut paid);
            drop(paid);
            own.work();
            return Some(Buffer { memory, grant: Some(own), pool: Arc::clone(self) });
        }
        Some(Buffer { memory: vec![0; class_bytes], grant: Some(own), pool: Arc::clone(self) })
    }

    /// Frees idle buffers, the largest first, until `bytes` are free or none is left.
    pub(crate) fn trim(&self, bytes: usize) {
        let mut dropped = Vec::new();
        let mut freed_bytes = 0;
        let mut idle = self.idle.lock();
        while freed_bytes < bytes {
            let Some(entry) = idle.by_size.last_entry().map(|entry| *entry.key()).and_then(|size| idle.pop(size))
            else {
                break;
            };
            freed_bytes += entry.0.len();
            dropped.push(entry);
        }
        // Unmapping takes its time and the grants tell waiters: neither under the lock.
        drop(idle);
        drop(dropped);
    }

    fn keep(&self, memory: Vec<u8>, mut grant: Grant) {
        grant.settle();
        let size = memory.len();
        let mut idle = self.idle.lock();
        if idle.bytes + size > self.limit_bytes {
            drop(idle);
            return;
        }
        idle.bytes += size;
        idle.by_size.entry(size).or_default().push((memory, grant));
    }
}

impl Idle {
    /// Takes the smallest buffer that fits without much waste; of these the one that was used last.
    fn pop(&mut self, class_bytes: usize) -> Option<(Vec<u8>, Grant)> {
        let most = class_bytes / FIT_DENOMINATOR * FIT_NUMERATOR;
        let (&size, list) = self.by_size.range_mut(class_bytes..=most).next()?;
        let entry = list.pop();
        if list.is_empty() {
            self.by_size.remove(&size);
        }
        if entry.is_some() {
            self.bytes -= size;
        }
        entry
    }
}

/// Returns how large a buffer for `bytes` is: four classes for each doubling, so at most a quarter is wasted.
pub(crate) const fn size_class(bytes: usize) -> usize {
    if bytes < SMALLEST_KEPT_BYTES {
        return bytes;
    }
    bytes.next_multiple_of(bytes.next_power_of_two() / 8)
}

/// A buffer that returns to its pool.
pub(crate) struct Buffer {
    memory: Vec<u8>,
    /// Always there until drop.
    grant: Option<Grant>,
    pool: Arc<Pool>,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.memory.len()).finish_non_exhaustive()
    }
}

impl Buffer {
    /// Says that the work on it is done; from now on it is cached or read.
    pub(crate) fn settle(&mut self) {
        if let Some(grant) = &mut self.grant {
            grant.settle();
        }
    }

    /// Returns how much memory it takes.
    pub(crate) fn capacity_bytes(&self) -> usize {
        self.memory.len()
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(grant) = self.grant.take()
            && self.memory.len() >= SMALLEST_KEPT_BYTES
        {
            self.pool.keep(std::mem::take(&mut self.memory), grant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    fn budget() -> Budget {
        Budget::new(64 << 20, Arc::default())
    }

    #[test]
    fn test_size_class_wastes_at_most_a_quarter() {
        for bytes in (0..(70 << 20)).step_by(4097).chain([32 << 10, 1 << 20, (1 << 20) + 1, 64 << 20]) {
            let class = size_class(bytes);
            assert!(class >= bytes && class <= bytes + bytes / 4 + 1, "{bytes} -> {class}");
            assert_eq!(size_class(class), class, "{bytes}");
        }
    }

    #[test]
    fn test_take_reuses_and_accounts() {
        let (budget, pool) = (budget(), Pool::new(8 << 20));
        let mut grant = budget.try_reserve(3 << 20).unwrap();
        let mut first = pool.take(1 << 20, &mut grant).unwrap();
        first[0] = 7;
        assert_eq!(budget.used_bytes(), 3 << 20);
        drop(first);
        assert_eq!(budget.used_bytes(), 3 << 20, "idle buffers stay paid for");
        let again = pool.take((1 << 20) - 100, &mut grant).unwrap();
        assert_eq!(again[0], 7, "the same memory");
        assert_eq!(budget.used_bytes(), 2 << 20, "what it did not need went back");
        drop(grant);
        assert_eq!(budget.used_bytes(), 1 << 20);
        drop(again);
        pool.trim(1);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn test_take_refuses_what_the_grant_does_not_pay() {
        let (budget, pool) = (budget(), Pool::new(8 << 20));
        let mut grant = budget.try_reserve(1000).unwrap();
        assert!(pool.take(1001, &mut grant).is_none());
        assert!(pool.take(1000, &mut grant).is_some());
        assert!(pool.take(1, &mut grant).is_none());
    }

    #[test]
    fn test_idle_bytes_are_limited() {
        let (budget, pool) = (budget(), Pool::new(2 << 20));
        let mut grant = budget.try_reserve(4 << 20).unwrap();
        let buffers: Vec<_> = (0..4).map(|_| pool.take(1 << 20, &mut grant).unwrap()).collect();
        drop(buffers);
        drop(grant);
        assert_eq!(budget.used_bytes(), 2 << 20);
    }
}
