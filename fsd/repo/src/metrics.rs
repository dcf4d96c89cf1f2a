//! Counters that every layer of this crate writes to and that `--metrics` and SIGUSR1 show.
//!
//! Plain relaxed atomics: a counter never orders anything. Durations are kept as histograms with fixed bounds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Returns the present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the histogram's buckets, in microseconds; the last bucket has none.
pub const LATENCY_BOUNDS_MICROS: [u64; 12] =
    [50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 5_000_000, 30_000_000];

/// How long something took, as counts by fixed bounds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; LATENCY_BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// Returns the counts by bucket, the last without bound, and the sum.
    #[must_use]
    pub fn snapshot(&self) -> ([u64; LATENCY_BOUNDS_MICROS.len() + 1], Duration) {
        let counts = std::array::from_fn(|i| self.buckets[i].load(Relaxed));
        (counts, Duration::from_micros(self.sum_micros.load(Relaxed)))
    }
}

/// All counters of one repository.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests to the store, every attempt counted.
    pub backend_requests: Counter,
    /// Attempts that failed.
    pub backend_errors: Counter,
    /// Attempts that were made again.
    pub backend_retries: Counter,
    /// Bytes that came from the store.
    pub backend_read_bytes: Counter,
    /// Bytes that went to the store.
    pub backend_written_bytes: Counter,
    /// How long an attempt took.
    pub backend_latency: Histogram,
    /// Blobs that memory held.
    pub blob_memory_hits: Counter,
    /// Blobs that the disk cache held.
    pub blob_disk_hits: Counter,
    /// Blobs that had to be fetched from the store.
    pub blob_fetches: Counter,
    /// Blobs that another reader was already fetching.
    pub blob_joined: Counter,
    /// Plain bytes that were decoded.
    pub decoded_bytes: Counter,
    /// Blobs that were asked for ahead of their reader.
    pub blob_prefetched: Counter,
    /// Trees that memory held.
    pub tree_memory_hits: Counter,
    /// Trees that were decoded.
    pub tree_decodes: Counter,
    /// Reads that a first source failed and another served: cache dropped, index refreshed, other pack.
    pub heals: Counter,
    /// Blobs that no source could serve.
    pub blobs_lost: Counter,
    /// Snapshots that are left out because they are damaged or denied.
    pub snapshots_unreadable: Counter,
    /// Damaged pieces of our caches that were dropped and rebuilt.
    pub cache_damage: Counter,
    /// Bytes of the budget in use now (a gauge).
    pub budget_used_bytes: AtomicU64,
}
