//! Raw pieces of packs: neighbours of what was asked for, and what a long reader comes to soon.
//!
//! Directories are small, and those that a walk visits one after the other lie side by side in a few tree packs. Over a
//! network a request costs more than a megabyte: so a directory is fetched with its neighbourhood, which stays here for a
//! while.
//!
//! A sequential reader's next blobs are *staged*: downloaded in long pieces and kept sealed until they are near. Sealed they
//! take a third of the memory that they take decoded, so that more of them are under way, in fewer requests. A staged piece
//! goes when all its blobs were taken out.
//!
//! Nothing in a window is trusted: each blob is authenticated when it is taken out.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;

use super::plan::slice;
use super::unit::Paid;
use crate::budget::Grant;
use crate::id::PackId;
use crate::index::BlobLocation;

/// The first window in a pack: a look into one directory should not cost more than a round trip.
const FIRST_BYTES: u32 = 512 << 10;

/// The following ones: somebody walks. Four megabytes take a round trip's time at 200 MB/s.
const NEXT_BYTES: u32 = 4 << 20;

/// How many packs' ends are remembered.
const MAX_ENDS: usize = 4096;

/// Pieces of packs, bounded by `limit_bytes` and by the budget.
pub(crate) struct Windows {
    state: Mutex<State>,
    limit_bytes: usize,
}

#[derive(Default)]
struct State {
    /// Oldest use first.
    ready: Vec<Window>,
    pending: Vec<Pending>,
    /// Of those that are ready.
    bytes: usize,
    /// Of those that are staged, ready or on their way.
    staged_bytes: usize,
    next_key: u64,
    /// Up to where packs are known to reach, by what the index said so far. A request beyond the end of a pack fails.
    ends: HashMap<PackId, u32>,
}

struct Window {
    key: u64,
    pack: PackId,
    range: Range<u32>,
    staged: Option<Staged>,
    /// Hold the grant that pays for them.
    bytes: Bytes,
}

struct Pending {
    key: u64,
    pack: PackId,
    range: Range<u32>,
    staged: Option<Staged>,
    waiting: Vec<Paid>,
}

/// What a staged window was fetched for.
#[derive(Debug, Clone, Copy)]
struct Staged {
    /// How many of its blobs have not been taken out.
    left: usize,
}

impl fmt::Debug for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Windows")
            .field("ready", &state.ready.len())
            .field("bytes", &state.bytes)
            .finish_non_exhaustive()
    }
}

/// What [`Windows::take`] found.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A window holds the range: here are its bytes.
    Ready(Paid, Bytes),
    /// It is on its way; the unit is handed on when it comes.
    Waits,
    /// No window has it.
    Missing(Paid),
}

/// What [`Windows::enter`] decided.
#[derive(Debug)]
pub(crate) enum Entered {
    /// As [`Taken::Ready`].
    Ready(Paid, Bytes),
    /// As [`Taken::Waits`].
    Waits,
    /// The caller fetches this range, which holds the unit's, and then calls [`Windows::arrived`] with the key.
    Fetch { key: u64, unit: Paid, range: Range<u32> },
}

impl Windows {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { state: Mutex::default(), limit_bytes }
    }

    /// Remembers that a pack reaches at least to the end of this blob.
    pub(crate) fn learn(&self, location: &BlobLocation) {
        let mut state = self.state.lock();
        if state.ends.len() >= MAX_ENDS {
            state.ends.clear();
        }
        let end = location.offset.saturating_add(location.len_bytes);
        let known = state.ends.entry(location.pack).or_default();
        *known = end.max(*known);
    }

    /// Returns whether a window has these bytes or will have them.
    pub(crate) fn has(&self, location: &BlobLocation) -> bool {
        let range = location.offset..location.offset.saturating_add(location.len_bytes);
        let state = self.state.lock();
        let ready = state.ready.iter().map(|window| (window.pack, &window.range));
        let mut all = ready.chain(state.pending.iter().map(|pending| (pending.pack, &pending.range)));
        all.any(|(pack, held)| pack == location.pack && holds(held, &range))
    }

    /// Returns how many more bytes may be staged: nothing while there is little room, so that what is staged next is worth a
    /// request.
    pub(crate) fn room_bytes(&self) -> usize {
        let room_bytes = self.limit_bytes.saturating_sub(self.state.lock().staged_bytes);
        if room_bytes >= self.limit_bytes / 4 { room_bytes } else { 0 }
    }

    /// Returns how many bytes are staged, ready or on their way.
    #[cfg(test)]
    pub(crate) fn staged_bytes(&self) -> usize {
        self.state.lock().staged_bytes
    }

    /// Returns how many units wait for windows.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().pending.iter().map(|pending| pending.waiting.len()).sum()
    }

    /// Notes that a piece of a pack is being fetched for `blobs` that are to be taken out later. The caller calls
    /// [`Windows::arrived`] with the key.
    pub(crate) fn stage(&self, pack: PackId, range: Range<u32>, blobs: usize) -> u64 {
        let mut state = self.state.lock();
        state.staged_bytes += range.len();
        state.begin(pack, range, Some(Staged { left: blobs }))
    }

    /// Takes the bytes of a unit out of the window that has them.
    pub(crate) fn take(&self, paid: Paid) -> Taken {
        self.state.lock().take(paid)
    }

    /// Finds out where the bytes of a unit come from. `reserve` pays for what a window takes beyond the unit's own range.
    pub(crate) fn enter(&self, paid: Paid, reserve: impl FnOnce(usize) -> Option<Grant>) -> Entered {
        let mut state = self.state.lock();
        let paid = match state.take(paid) {
            Taken::Ready(paid, bytes) => return Entered::Ready(paid, bytes),
            Taken::Waits => return Entered::Waits,
            Taken::Missing(paid) => paid,
        };
        let (pack, range) = (paid.unit.pack, paid.unit.range.clone());
        let wide = state.neighbourhood(pack, &range);
        let wide_bytes = (wide.end - wide.start) as usize;
        let more_bytes = wide_bytes - paid.unit.range_bytes();
        // Not under the lock: reserving may trim, and trimming comes back to us.
        drop(state);
        let more = if more_bytes > 0 && wide_bytes <= self.limit_bytes { reserve(more_bytes) } else { None };
        let mut state = self.state.lock();
        // Who looked at the same time may have begun with the neighbourhood meanwhile.
        let mut paid = match state.take(paid) {
            Taken::Ready(paid, bytes) => return Entered::Ready(paid, bytes),
            Taken::Waits => return Entered::Waits,
            Taken::Missing(paid) => paid,
        };
        let fetched = match more {
            Some(more) => {
                paid.grant.merge(more);
                wide
            }
            None => range,
        };
        let key = state.begin(pack, fetched.clone(), None);
        Entered::Fetch { key, unit: paid, range: fetched }
    }

    /// Takes in what came (nothing after a failure) and returns the units that waited for it.
    pub(crate) fn arrived(&self, key: u64, came: Option<Bytes>) -> Vec<Paid> {
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        let Some(place) = state.pending.iter().position(|pending| pending.key == key) else { return Vec::new() };
        let Pending { pack, range, mut staged, waiting, .. } = state.pending.swap_remove(place);
        if let Some(staged) = &mut staged {
            state.staged_bytes -= range.len();
            let taken: usize = waiting.iter().map(|paid| paid.unit.left()).sum();
            staged.left = staged.left.saturating_sub(taken);
        }
        if let Some(bytes) = came.filter(|_| staged.is_none_or(|staged| staged.left > 0)) {
            state.push(Window { key, pack, range, staged, bytes });
            while state.bytes > self.limit_bytes {
                dropped.extend(state.pop(true));
            }
        }
        drop(state);
        drop(dropped);
        waiting
    }

    /// Lets windows go, the longest unused first, until `bytes` are free or none is left; with `staged` those as well that
    /// were fetched for a reader who is on its way.
    pub(crate) fn trim(&self, bytes: usize, staged: bool) {
        let mut dropped = Vec::new();
        let mut freed_bytes = 0;
        let mut state = self.state.lock();
        while freed_bytes < bytes {
            let Some(window) = state.pop(staged) else { break };
            freed_bytes += window.bytes.len();
            dropped.push(window);
        }
        drop(state);
        drop(dropped);
    }

    /// Lets go what holds bytes of this blob: they were bad.
    pub(crate) fn forget(&self, location: &BlobLocation) {
        let mut state = self.state.lock();
        while let Some(place) = state
            .ready
            .iter()
            .position(|window| window.pack == location.pack && slice(&window.range, location).is_some())
        {
            drop(state.remove(place));
        }
    }
}

fn holds(outer: &Range<u32>, inner: &Range<u32>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

impl State {
    fn begin(&mut self, pack: PackId, range: Range<u32>, staged: Option<Staged>) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.pending.push(Pending { key, pack, range, staged, waiting: Vec::new() });
        key
    }

    fn take(&mut self, paid: Paid) -> Taken {
        let (pack, range) = (paid.unit.pack, &paid.unit.range);
        if let Some(place) = self.ready.iter().position(|window| window.pack == pack && holds(&window.range, range)) {
            let mut window = self.remove(place);
            let start = (range.start - window.range.start) as usize;
            let end = (range.end - window.range.start) as usize;
            // A backend returns what was asked for; a window that is short all the same is of no use.
            if end > window.bytes.len() {
                return Taken::Missing(paid);
            }
            let bytes = window.bytes.slice(start..end);
            if let Some(staged) = &mut window.staged {
                staged.left = staged.left.saturating_sub(paid.unit.left());
            }
            if window.staged.is_none_or(|staged| staged.left > 0) {
                self.push(window);
            }
            return Taken::Ready(paid, bytes);
        }
        match self.pending.iter_mut().find(|pending| pending.pack == pack && holds(&pending.range, range)) {
            Some(pending) => {
                pending.waiting.push(paid);
                Taken::Waits
            }
            None => Taken::Missing(paid),
        }
    }

    fn push(&mut self, window: Window) {
        self.bytes += window.bytes.len();
        self.staged_bytes += if window.staged.is_some() { window.range.len() } else { 0 };
        self.ready.push(window);
    }

    fn remove(&mut self, place: usize) -> Window {
        let window = self.ready.remove(place);
        self.bytes -= window.bytes.len();
        self.staged_bytes -= if window.staged.is_some() { window.range.len() } else { 0 };
        window
    }

    /// Takes out the window that was not used for longest of those that nobody is on the way to; then, with `staged`, the one
    /// whose reader comes last.
    fn pop(&mut self, staged: bool) -> Option<Window> {
        let place = self.ready.iter().position(|window| window.staged.is_none());
        let last = || self.ready.iter().enumerate().max_by_key(|(_, window)| window.key).map(|(place, _)| place);
        let place = place.or_else(|| staged.then(last).flatten())?;
        Some(self.remove(place))
    }

    /// Returns which range to fetch for `range`: an aligned piece of the pack around it, as far as the pack is known to reach,
    /// without what other windows hold already.
    fn neighbourhood(&self, pack: PackId, range: &Range<u32>) -> Range<u32> {
        let others = || {
            let ready = self.ready.iter().map(|window| (window.pack, &window.range));
            ready
                .chain(self.pending.iter().map(|pending| (pending.pack, &pending.range)))
                .filter(|other| other.0 == pack)
        };
        let size = if others().next().is_some() { NEXT_BYTES } else { FIRST_BYTES };
        let known_end = self.ends.get(&pack).copied().unwrap_or(0).max(range.end);
        let mut start = range.start / size * size;
        let mut end = range.end.max(start.saturating_add(size)).min(known_end);
        // restic writes a directory after those below it. At the end of what is known of a pack, as at a snapshot's root, all
        // that a walk visits next lies before.
        if end - start < size {
            start = start.min(end.saturating_sub(size));
        }
        for (_, other) in others() {
            if other.end > start && other.end <= range.start {
                start = other.end;
            }
            if other.start < end && other.start >= range.end {
                end = other.start;
            }
        }
        start..end
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::blob::cpu::Priority;
    use crate::blob::unit::Unit;
    use crate::budget::Budget;
    use crate::id::Id;

    fn unit(budget: &Budget, range: Range<u32>) -> Paid {
        let unit = Unit::new(PackId(Id::hash(b"pack")), range, Vec::new(), Priority::Foreground);
        Paid { grant: budget.try_reserve(unit.range_bytes()).unwrap(), unit }
    }

    #[test]
    fn test_who_looks_at_the_same_time_waits_for_the_first() {
        let budget = Budget::new(16 << 20, Arc::default());
        let windows = Windows::new(8 << 20);
        let mut first = None;
        // The first comes while the second has its room reserved.
        let second = windows.enter(unit(&budget, 9000..10_000), |bytes| {
            first = Some(windows.enter(unit(&budget, 8000..10_000), |bytes| budget.try_reserve(bytes)));
            budget.try_reserve(bytes)
        });
        assert!(matches!(first, Some(Entered::Fetch { range: Range { start: 0, end: 10_000 }, .. })), "{first:?}");
        assert!(matches!(second, Entered::Waits), "{second:?}");
        assert_eq!((windows.waiting(), budget.used_bytes()), (1, 11_000), "and its room is given back");
    }
}
