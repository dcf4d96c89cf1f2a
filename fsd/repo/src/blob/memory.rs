//! The memory cache of decoded blobs.

use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;

use super::{BlobData, BlobKind};
use crate::id::BlobId;

/// A blob as the cache holds it. Evicting empties it at once: moka itself drops what it evicts some operations later, when
/// no thread can be looking at it any more, and until then the budget would count memory that nobody has.
type Held = Arc<Mutex<Option<BlobData>>>;

/// Decoded blobs by id and kind (data may have a directory's id, and need not have been hashed). Each weighs what its buffer
/// takes, and its buffer holds the grant that pays for it, so bytes that the cache has evicted but that a reader still holds
/// stay accounted for.
#[derive(Debug)]
pub(crate) struct MemoryCache {
    blobs: Cache<(BlobId, BlobKind), Held>,
}

impl MemoryCache {
    /// Makes a cache of at most `limit_bytes`.
    ///
    /// Least recently used goes first. TinyLFU, moka's default, would turn away what was fetched ahead: nobody has asked for
    /// it yet, so it is the least frequently used of all.
    pub(crate) fn new(limit_bytes: usize) -> Self {
        let blobs = Cache::builder()
            .max_capacity(limit_bytes as u64)
            .weigher(|_, held: &Held| {
                let bytes = held.lock().as_ref().map_or(0, BlobData::capacity_bytes);
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(|_, held, _| {
                let blob = held.lock().take();
                // Not under the lock.
                drop(blob);
            })
            .build();
        Self { blobs }
    }

    /// Returns a blob of which at least `upto` bytes, or all, are there.
    pub(crate) fn get(&self, id: &BlobId, kind: BlobKind, upto: usize) -> Option<BlobData> {
        let held = self.blobs.get(&(*id, kind))?;
        let held = held.lock();
        held.as_ref().filter(|blob| blob.covers(upto)).cloned()
    }

    /// Takes in a blob and evicts what has no room beside it before returning.
    pub(crate) fn insert(&self, id: BlobId, kind: BlobKind, blob: BlobData) {
        self.blobs.insert((id, kind), Arc::new(Mutex::new(Some(blob))));
        // moka evicts in batches of its own choosing; the memory is wanted back now.
        self.blobs.run_pending_tasks();
    }

    /// Forgets some blobs. Their memory is free once no reader holds them.
    pub(crate) fn remove(&self, ids: &[BlobId], kind: BlobKind) {
        for id in ids {
            self.blobs.invalidate(&(*id, kind));
        }
    }

    /// Forgets all blobs and gives their memory back before returning.
    pub(crate) fn clear(&self) {
        // `invalidate_all` only sets a time mark; entries would stay until maintenance comes across them.
        let keys: Vec<_> = self.blobs.iter().map(|(key, _)| *key).collect();
        for key in keys {
            self.blobs.invalidate(&key);
        }
        self.blobs.run_pending_tasks();
    }

    /// Returns how many bytes of buffers it holds.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.blobs.weighted_size()
    }
}

impl Drop for MemoryCache {
    fn drop(&mut self) {
        self.clear();
    }
}
