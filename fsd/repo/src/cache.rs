//! Caches on disk. What memory caches belongs to the blob engine and to the tree reader.

pub mod disk;

pub use disk::{DiskCache, DiskCacheStats};
