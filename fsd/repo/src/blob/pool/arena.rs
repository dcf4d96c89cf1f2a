//! One mapping, cut into extents.
#![expect(unsafe_code, reason = "extents of one mapping are lent as slices; the free list keeps them apart")]

use std::collections::BTreeMap;
use std::{fmt, io, ptr, slice};

use parking_lot::Mutex;

/// Anonymous memory, of which extents are lent.
///
/// Invariants: `free` and all lent extents cover the mapping exactly and never overlap; neighbours in `free` are merged.
pub(super) struct Arena {
    start: *mut u8,
    len_bytes: usize,
    /// Length by offset.
    free: Mutex<BTreeMap<usize, usize>>,
}

// SAFETY: the pointer is to a mapping that nothing else knows of. It is read and written through extents alone, and of each
// byte there is one extent at a time.
unsafe impl Send for Arena {}
// SAFETY: as above; `free` is behind a lock, and `start` and `len_bytes` never change.
unsafe impl Sync for Arena {}

/// A part of an arena, lent to one owner. It cannot be cloned and must be given back to the arena that it came from.
#[derive(Debug)]
pub(super) struct Extent {
    offset: usize,
    len_bytes: usize,
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free_bytes: usize = self.free.lock().values().sum();
        f.debug_struct("Arena").field("bytes", &self.len_bytes).field("free_bytes", &free_bytes).finish_non_exhaustive()
    }
}

impl Arena {
    /// Maps an arena; its pages take memory when they are touched first.
    ///
    /// # Errors
    /// The system gives no address space; `len_bytes` is 0.
    pub(super) fn new(len_bytes: usize) -> io::Result<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), len_bytes, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), len_bytes, free: Mutex::new(BTreeMap::from([(0, len_bytes)])) })
    }

    /// Takes the lowest extent that has room; `None` if there is none.
    pub(super) fn take(&self, len_bytes: usize) -> Option<Extent> {
        let mut free = self.free.lock();
        let (offset, room) =
            free.iter().find(|(_, room)| **room >= len_bytes).map(|(offset, room)| (*offset, *room))?;
        free.remove(&offset);
        if room > len_bytes {
            free.insert(offset + len_bytes, room - len_bytes);
        }
        Some(Extent { offset, len_bytes })
    }

    /// Takes an extent back. It is empty afterwards.
    pub(super) fn give_back(&self, extent: &mut Extent) {
        let Extent { mut offset, mut len_bytes } = std::mem::replace(extent, Extent { offset: 0, len_bytes: 0 });
        if len_bytes == 0 {
            return;
        }
        let mut free = self.free.lock();
        if let Some((before, room)) = free.range(..offset).next_back().map(|(before, room)| (*before, *room))
            && before + room == offset
        {
            free.remove(&before);
            (offset, len_bytes) = (before, len_bytes + room);
        }
        if let Some(room) = free.remove(&(offset + len_bytes)) {
            len_bytes += room;
        }
        free.insert(offset, len_bytes);
    }

    /// Returns the bytes of an extent of this arena.
    pub(super) fn bytes<'a>(&'a self, extent: &'a Extent) -> &'a [u8] {
        // SAFETY: the extent lies in the mapping, which lives as long as `self`, and is initialised: anonymous memory is
        // zeros. Whoever holds a reference to the extent keeps it from being written or given back.
        unsafe { slice::from_raw_parts(self.start.add(extent.offset), extent.len_bytes) }
    }

    /// Returns the bytes of an extent of this arena, to write.
    pub(super) fn bytes_mut<'a>(&'a self, extent: &'a mut Extent) -> &'a mut [u8] {
        // SAFETY: as in `bytes`, and the extent is borrowed for this alone.
        unsafe { slice::from_raw_parts_mut(self.start.add(extent.offset), extent.len_bytes) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length. Extents hold their pool, so none is left.
        unsafe { libc::munmap(self.start.cast(), self.len_bytes) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_there_is_no_arena_of_nothing() {
        assert!(Arena::new(0).is_err());
    }

    proptest! {
        /// Extents never overlap, what is written into one stays, and all that is given back is one extent again.
        #[test]
        fn test_extents_are_apart_and_come_back(steps in proptest::collection::vec((0_usize..8, 1_usize..400), 1..200)) {
            let arena = Arena::new(1 << 20).unwrap();
            let mut lent: Vec<Option<(Extent, u8)>> = (0..8).map(|_| None).collect();
            for (number, (place, kib)) in steps.into_iter().enumerate() {
                let mark = number.to_le_bytes()[0];
                if let Some((mut extent, mark)) = lent[place].take() {
                    prop_assert!(arena.bytes(&extent).iter().all(|byte| *byte == mark));
                    arena.give_back(&mut extent);
                    prop_assert!(arena.bytes(&extent).is_empty());
                } else if let Some(mut extent) = arena.take(kib << 10) {
                    prop_assert_eq!(arena.bytes(&extent).len(), kib << 10);
                    arena.bytes_mut(&mut extent).fill(mark);
                    lent[place] = Some((extent, mark));
                } else {
                    let used: usize = lent.iter().flatten().map(|(extent, _)| extent.len_bytes).sum();
                    let widest = arena.free.lock().values().copied().max().unwrap_or(0);
                    prop_assert!(widest < kib << 10, "{used} bytes are lent, and {widest} lie together");
                }
            }
            for (mut extent, mark) in lent.into_iter().flatten() {
                prop_assert!(arena.bytes(&extent).iter().all(|byte| *byte == mark));
                arena.give_back(&mut extent);
            }
            prop_assert_eq!(arena.free.lock().clone(), BTreeMap::from([(0, 1 << 20)]));
        }
    }
}
