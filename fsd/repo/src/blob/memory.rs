//! The memory cache of decoded blobs.

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{BlobData, BlobKind};
use crate::id::BlobId;

/// Decoded blobs by id and kind (data may have a directory's id, and need not have been hashed). Each weighs what its buffer takes, and its buffer holds the grant that pays for it, so bytes that
/// the cache has evicted but that a reader still holds stay accounted for.
#[derive(Debug)]
pub(crate) struct MemoryCache {
    blobs: Cache<(BlobId, BlobKind), BlobData>,
}

impl MemoryCache {
    /// Makes a cache of at most `limit_bytes`.
    ///
    /// Least recently used goes first. TinyLFU, moka's default, would turn away what was fetched ahead: nobody has asked for
    /// it yet, so it is the least frequently used of all.
    pub(crate) fn new(limit_bytes: usize) -> Self {
        let blobs = Cache::builder()
            .max_capacity(limit_bytes as u64)
            .weigher(|_, blob: &BlobData| u32::try_from(blob.capacity_bytes()).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { blobs }
    }

    /// Returns a blob of which at least `upto` bytes, or all, are there.
    pub(crate) fn get(&self, id: &BlobId, kind: BlobKind, upto: usize) -> Option<BlobData> {
        self.blobs.get(&(*id, kind)).filter(|blob| blob.covers(upto))
    }

    /// Takes in a blob and evicts what has no room beside it before returning.
    pub(crate) fn insert(&self, id: BlobId, kind: BlobKind, blob: BlobData) {
        self.blobs.insert((id, kind), blob);
        // moka evicts in batches of its own choosing; the memory is wanted back now.
        self.blobs.run_pending_tasks();
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
