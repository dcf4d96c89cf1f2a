//! Raw pieces of packs that came lately: neighbours of what was asked for.
//!
//! Directories are small, and those that a walk visits one after the other lie side by side in a few tree packs. Over a
//! network a request costs more than a megabyte: so a directory is fetched with its neighbourhood, which stays here for a
//! while. Nothing in a window is trusted: each blob is authenticated when it is taken out.

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
    bytes: usize,
    next_key: u64,
    /// Up to where packs are known to reach, by what the index said so far. A request beyond the end of a pack fails.
    ends: HashMap<PackId, u32>,
}

struct Window {
    pack: PackId,
    range: Range<u32>,
    /// Hold the grant that pays for them.
    bytes: Bytes,
}

struct Pending {
    key: u64,
    pack: PackId,
    range: Range<u32>,
    waiting: Vec<Paid>,
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

/// What [`Windows::enter`] decided.
#[derive(Debug)]
pub(crate) enum Entered {
    /// A window holds the range: here are its bytes.
    Ready(Paid, Bytes),
    /// Somebody is fetching it; the unit is handed on when it comes.
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

    /// Finds out where the bytes of a unit come from. `reserve` pays for what a window takes beyond the unit's own range.
    pub(crate) fn enter(&self, mut paid: Paid, reserve: impl FnOnce(usize) -> Option<Grant>) -> Entered {
        let mut state = self.state.lock();
        let (pack, range) = (paid.unit.pack, paid.unit.range.clone());
        if let Some(bytes) = state.find(pack, &range) {
            return Entered::Ready(paid, bytes);
        }
        let holds = |pending: &&mut Pending| {
            pending.pack == pack && pending.range.start <= range.start && range.end <= pending.range.end
        };
        if let Some(pending) = state.pending.iter_mut().find(holds) {
            pending.waiting.push(paid);
            return Entered::Waits;
        }
        let wide = state.neighbourhood(pack, &range);
        let wide_bytes = (wide.end - wide.start) as usize;
        let more_bytes = wide_bytes - paid.unit.range_bytes();
        // Not under the lock: reserving may trim, and trimming comes back to us.
        drop(state);
        let fetched = if more_bytes > 0 && wide_bytes <= self.limit_bytes {
            reserve(more_bytes).map(|more| {
                paid.grant.merge(more);
                wide
            })
        } else {
            None
        };
        let fetched = fetched.unwrap_or(range);
        let mut state = self.state.lock();
        let key = state.next_key;
        state.next_key += 1;
        state.pending.push(Pending { key, pack, range: fetched.clone(), waiting: Vec::new() });
        Entered::Fetch { key, unit: paid, range: fetched }
    }

    /// Takes in what came (nothing after a failure) and returns the units that waited for it.
    pub(crate) fn arrived(&self, key: u64, came: Option<Bytes>) -> Vec<Paid> {
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        let Some(place) = state.pending.iter().position(|pending| pending.key == key) else { return Vec::new() };
        let Pending { pack, range, waiting, .. } = state.pending.swap_remove(place);
        if let Some(bytes) = came {
            state.bytes += bytes.len();
            state.ready.push(Window { pack, range, bytes });
            while state.bytes > self.limit_bytes {
                dropped.extend(state.pop());
            }
        }
        drop(state);
        drop(dropped);
        waiting
    }

    /// Lets windows go, the longest unused first, until `bytes` are free or none is left.
    pub(crate) fn trim(&self, bytes: usize) {
        let mut dropped = Vec::new();
        let mut freed_bytes = 0;
        let mut state = self.state.lock();
        while freed_bytes < bytes {
            let Some(window) = state.pop() else { break };
            freed_bytes += window.bytes.len();
            dropped.push(window);
        }
        drop(state);
        drop(dropped);
    }

    /// Lets go what holds bytes of this blob: they were bad.
    pub(crate) fn forget(&self, location: &BlobLocation) {
        let mut state = self.state.lock();
        let mut kept_bytes = 0;
        state.ready.retain(|window| {
            let keep = window.pack != location.pack || slice(&window.range, location).is_none();
            kept_bytes += if keep { window.bytes.len() } else { 0 };
            keep
        });
        state.bytes = kept_bytes;
    }
}

impl State {
    fn find(&mut self, pack: PackId, range: &Range<u32>) -> Option<Bytes> {
        let place = self.ready.iter().position(|window| {
            window.pack == pack && window.range.start <= range.start && range.end <= window.range.end
        })?;
        let window = self.ready.remove(place);
        let start = (range.start - window.range.start) as usize;
        let end = (range.end - window.range.start) as usize;
        // A backend returns what was asked for; a window that is short all the same is of no use.
        let bytes = (end <= window.bytes.len()).then(|| window.bytes.slice(start..end));
        if bytes.is_some() {
            self.ready.push(window);
        } else {
            self.bytes -= window.bytes.len();
        }
        bytes
    }

    fn pop(&mut self) -> Option<Window> {
        if self.ready.is_empty() {
            return None;
        }
        let window = self.ready.remove(0);
        self.bytes -= window.bytes.len();
        Some(window)
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
