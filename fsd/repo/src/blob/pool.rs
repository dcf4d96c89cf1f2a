//! Memory for blobs that stays mapped.
//!
//! A fresh large allocation costs a page fault for every 4 KiB on first touch, one to two microseconds each on a virtual
//! machine: measured, that was more than decrypting and unpacking into it. So large buffers are extents of one [`Arena`] that
//! is mapped once and never given back. Extents are taken at the lowest address that fits, so that no more of it is ever
//! touched than was used at a time. What finds no room there is an allocation of its own.

mod arena;

use std::fmt;
use std::sync::Arc;

use self::arena::{Arena, Extent};
use crate::budget::Grant;

/// Smaller buffers are left to the allocator, which keeps such blocks by itself, and are not rounded.
const SMALLEST_EXTENT_BYTES: usize = 32 << 10;

/// Extents are whole pages.
const PAGE_BYTES: usize = 4 << 10;

/// Where buffers come from.
pub(crate) struct Pool {
    /// `None` where the system gives no address space.
    arena: Option<Arena>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("arena", &self.arena).finish()
    }
}

impl Pool {
    /// Makes a pool whose arena has this size.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let arena = Arena::new(bytes).inspect_err(|error| tracing::debug!(%error, "no arena for blobs")).ok();
        Arc::new(Self { arena })
    }

    /// Takes a buffer of at least `bytes`, paid out of `grant`, which must hold [`size_class`] of them.
    ///
    /// Its content is what the last user left there, or zeros. Returns `None` if the grant is too small.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize, grant: &mut Grant) -> Option<Buffer> {
        let class_bytes = size_class(bytes);
        let grant = grant.split(class_bytes)?;
        let extent = (class_bytes >= SMALLEST_EXTENT_BYTES)
            .then(|| self.arena.as_ref().and_then(|arena| arena.take(class_bytes)))
            .flatten();
        let memory = match extent {
            Some(extent) => Memory::Extent { extent, pool: Arc::clone(self) },
            None => Memory::Own(vec![0; class_bytes]),
        };
        Some(Buffer { memory, grant })
    }
}

/// Returns how large a buffer for `bytes` is.
pub(crate) const fn size_class(bytes: usize) -> usize {
    if bytes < SMALLEST_EXTENT_BYTES { bytes } else { bytes.next_multiple_of(PAGE_BYTES) }
}

enum Memory {
    Own(Vec<u8>),
    /// `pool` has the arena that the extent was taken from.
    Extent {
        extent: Extent,
        pool: Arc<Pool>,
    },
}

/// A buffer that returns to its pool.
pub(crate) struct Buffer {
    memory: Memory,
    grant: Grant,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.len()).finish_non_exhaustive()
    }
}

impl Buffer {
    /// Says that the work on it is done; from now on it is cached or read.
    pub(crate) fn settle(&mut self) {
        self.grant.settle();
    }

    /// Returns how much memory it takes.
    pub(crate) fn capacity_bytes(&self) -> usize {
        self.len()
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Own(memory) => memory,
            Memory::Extent { extent, pool } => pool.arena.as_ref().map_or(&[], |arena| arena.bytes(extent)),
        }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Own(memory) => memory,
            Memory::Extent { extent, pool } => pool.arena.as_ref().map_or(&mut [], |arena| arena.bytes_mut(extent)),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Memory::Extent { extent, pool } = &mut self.memory
            && let Some(arena) = &pool.arena
        {
            arena.give_back(extent);
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
    fn test_size_class_wastes_less_than_a_page() {
        for bytes in (0..(70 << 20)).step_by(4097).chain([32 << 10, 1 << 20, (1 << 20) + 1, 64 << 20]) {
            let class = size_class(bytes);
            assert!(class >= bytes && class < bytes + PAGE_BYTES, "{bytes} -> {class}");
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
        assert_eq!(budget.used_bytes(), 2 << 20, "what lies idle is nobody's");
        let again = pool.take((1 << 20) - 100, &mut grant).unwrap();
        assert_eq!(again[0], 7, "the same memory");
        assert_eq!(again.len(), 1 << 20);
        drop((grant, again));
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
    fn test_what_finds_no_room_is_an_allocation_of_its_own() {
        for pool in [Pool::new(2 << 20), Pool::new(0)] {
            let budget = budget();
            let mut grant = budget.try_reserve(4 << 20).unwrap();
            let mut buffers: Vec<_> = (0..4).map(|_| pool.take(1 << 20, &mut grant).unwrap()).collect();
            for (number, buffer) in (0..).zip(&mut buffers) {
                buffer.fill(number);
            }
            for (number, buffer) in (0..).zip(&buffers) {
                assert!(buffer.len() == 1 << 20 && buffer.iter().all(|byte| *byte == number));
            }
        }
    }
}
