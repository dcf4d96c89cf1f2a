//! The index: from a blob's id to where it lies.
//!
//! All index files of a repository are kept as a few *segments*: sorted records in checksummed pages, of which memory
//! holds one 8-byte fence key per page (1 MB for ten million blobs). A search reads one page of one segment, mostly; no
//! memory grows with the repository, nothing is mapped, so no damaged disk can kill the process.
//!
//! Segments never change. [`Index::refresh`] makes new index files into a segment, merges small segments, rewrites those
//! whose index files were removed by a prune, and replaces damaged ones, while readers go on. Without a directory, or
//! where its disk is full or read-only, segments live in memory; no reader ever sees an error because of that.
//!
//! This module does not know how index files are fetched, decrypted or parsed ([`IndexSource`]), nor what packs hold.

mod build;
mod dir;
mod plan;
mod refresh;
mod segment;
mod storage;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use self::dir::Dir;
pub use self::refresh::IndexSource;
use self::segment::{Segment, SegmentError};
use self::storage::Storage;
use crate::blob::BlobKind;
use crate::crypto::MasterKey;
use crate::error::RepoResult;
use crate::format::index_segment::PageError;
use crate::format::seal::{Purpose, SealKey};
use crate::id::{BlobId, IndexId, PackId};
use crate::metrics::Metrics;

/// Where a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobLocation {
    /// In which pack.
    pub pack: PackId,
    /// Where its ciphertext begins.
    pub offset: u32,
    /// How long nonce, ciphertext and MAC are together.
    pub len_bytes: u32,
    /// How long the plain bytes are if they are compressed (format 2); `None` if they are stored as they are.
    pub uncompressed_bytes: Option<u32>,
    /// Data or tree.
    pub kind: BlobKind,
}

/// The overhead of an encrypted blob: 16 bytes of nonce and 16 of MAC.
pub const CIPHER_OVERHEAD_BYTES: u32 = 32;

impl BlobLocation {
    /// Returns how long the blob's plain bytes are.
    #[must_use]
    pub fn plain_bytes(&self) -> u32 {
        self.uncompressed_bytes.unwrap_or_else(|| self.len_bytes.saturating_sub(CIPHER_OVERHEAD_BYTES))
    }
}

/// All index files of a repository, searchable. Cheap to clone; clones see each other's refreshes.
#[derive(Debug, Clone)]
pub struct Index {
    shared: Arc<Shared>,
}

/// The segments at one moment, those with the most blobs first.
type Segments = Arc<[Arc<Segment>]>;

#[derive(Debug)]
struct Shared {
    /// Where segments are kept; `None` keeps them in memory.
    dir: Option<Dir>,
    key: SealKey,
    metrics: Arc<Metrics>,
    /// Replaced as a whole, held only to clone or to replace the `Arc`.
    segments: RwLock<Segments>,
    /// Index files that could not be decoded: they are not fetched again and again.
    unreadable: Mutex<HashSet<IndexId>>,
    /// Held during a refresh; no other lock is held when it is taken.
    refreshing: tokio::sync::Mutex<()>,
}

/// How big an index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexStats {
    /// Segments.
    pub segments: usize,
    /// How many of them are in memory because no disk took them.
    pub segments_in_memory: usize,
    /// Index files that are taken in.
    pub index_files: usize,
    /// Blobs, each place of a blob counted.
    pub blobs: u64,
    /// What the index holds of the process's memory.
    pub memory_bytes: usize,
}

impl Index {
    /// Opens what is kept in `dir` (made where it is missing), or begins an empty index.
    ///
    /// The seals of all pages are keyed from the repository's master key. Damaged files are dropped,
    /// counted and built again by [`Index::refresh`]; a directory that cannot be used is warned of and not used.
    #[must_use]
    pub fn open(dir: Option<PathBuf>, master_key: &MasterKey, metrics: Arc<Metrics>) -> Self {
        let dir = dir.and_then(|path| {
            Dir::create(path.clone())
                .inspect_err(|error| {
                    tracing::warn!(dir = %path.display(), %error, "no index cache: the index is kept in memory");
                })
                .ok()
        });
        let shared = Shared {
            dir,
            key: SealKey::derive(master_key, Purpose::IndexPage),
            metrics,
            segments: RwLock::new(Arc::new([])),
            unreadable: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        };
        if let Some(dir) = &shared.dir {
            dir.remove_leftovers();
        }
        shared.open_new();
        Self { shared: Arc::new(shared) }
    }

    /// Finds a place of a blob of any kind: mostly two page reads, no wait on the network. `Ok(None)` if no index file
    /// names it.
    ///
    /// # Errors
    /// A page on disk is damaged and no other segment has the blob (the next refresh rebuilds the segment).
    pub fn lookup(&self, id: &BlobId) -> RepoResult<Option<BlobLocation>> {
        self.first(|segment| match segment.find_any(id)? {
            Some(record) => segment.locate(&record).map(Some),
            None => Ok(None),
        })
    }

    /// Finds a place of a blob of one kind; a data and a tree blob may share an id.
    ///
    /// # Errors
    /// As [`Index::lookup`].
    pub fn lookup_kind(&self, id: &BlobId, kind: BlobKind) -> RepoResult<Option<BlobLocation>> {
        self.first(|segment| match segment.find(id, kind)? {
            Some(record) => segment.locate(&record).map(Some),
            None => Ok(None),
        })
    }

    /// Finds how long a blob's plain bytes are: one page read.
    ///
    /// # Errors
    /// As [`Index::lookup`].
    pub fn plain_bytes(&self, id: &BlobId, kind: BlobKind) -> RepoResult<Option<u32>> {
        self.first(|segment| {
            let record = segment.find(id, kind)?;
            Ok(record.map(|record| {
                record.uncompressed_bytes.unwrap_or_else(|| record.len_bytes.saturating_sub(CIPHER_OVERHEAD_BYTES))
            }))
        })
    }

    /// Finds every place of a blob (at most 64 per kind and segment), for healing.
    ///
    /// # Errors
    /// As [`Index::lookup`], if no place was found.
    pub fn lookup_all(&self, id: &BlobId) -> RepoResult<Vec<BlobLocation>> {
        let mut places = Vec::new();
        let mut failed = None;
        for segment in self.shared.segments().iter() {
            let mut records = Vec::new();
            let found = segment.find_all(id, &mut records).and_then(|()| {
                for record in &records {
                    let place = segment.locate(record)?;
                    // The same pack may be named by two index files.
                    if !places.contains(&place) {
                        places.push(place);
                    }
                }
                Ok(())
            });
            if let Err(error) = found {
                failed = Some(self.shared.damage(segment, &error));
            }
        }
        match failed {
            Some(error) if places.is_empty() => Err(error),
            _ => Ok(places),
        }
    }

    /// Returns how big the index is.
    #[must_use]
    pub fn stats(&self) -> IndexStats {
        let segments = self.shared.segments();
        IndexStats {
            segments: segments.len(),
            segments_in_memory: segments.iter().filter(|segment| segment.path.is_none()).count(),
            index_files: refresh::covered(&segments).len(),
            blobs: segments.iter().map(|segment| segment.blobs()).sum(),
            memory_bytes: segments.iter().map(|segment| segment.memory_bytes()).sum(),
        }
    }

    /// Returns how many bytes of ciphertext the index knows, each place of a blob counted: a sum of one number a segment.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let segments = self.shared.segments();
        segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.header.counts.stored_bytes))
    }

    /// Returns the index files that were left out because they could not be decoded.
    #[must_use]
    pub fn unreadable(&self) -> Vec<IndexId> {
        self.shared.unreadable.lock().iter().copied().collect()
    }

    /// Returns the first answer that a segment gives.
    fn first<T>(&self, search: impl Fn(&Segment) -> Result<Option<T>, SegmentError>) -> RepoResult<Option<T>> {
        let mut failed = None;
        for segment in self.shared.segments().iter() {
            match search(segment) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => failed = Some(self.shared.damage(segment, &error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

impl Shared {
    fn segments(&self) -> Segments {
        self.segments.read().clone()
    }

    fn replace(&self, mut segments: Vec<Arc<Segment>>) {
        segments.sort_by_key(|segment| (std::cmp::Reverse(segment.blobs()), segment.header.id));
        *self.segments.write() = segments.into();
    }

    /// Opens segments in the directory that are not open yet; returns whether there were any.
    fn open_new(&self) -> bool {
        let Some(dir) = &self.dir else { return false };
        let paths = dir.segments().unwrap_or_else(|error| {
            tracing::warn!(dir = %dir.path().display(), %error, "the index cache could not be listed");
            Vec::new()
        });
        let mut segments = self.segments().to_vec();
        let mut damaged = Vec::new();
        let mut found = false;
        for path in paths {
            if segments.iter().any(|segment| segment.path.as_ref() == Some(&path)) {
                continue;
            }
            // One that is gone was superseded by another process just now.
            let Ok(file) = std::fs::File::open(&path) else { continue };
            match Segment::open(Storage::File(file), Some(path.clone()), &self.key) {
                Ok(segment) => {
                    found = true;
                    segments.push(Arc::new(segment));
                }
                // Another version of this program shares the directory: its segments are not ours to judge.
                Err(SegmentError::Page(PageError::Version(version))) => {
                    tracing::debug!(path = %path.display(), version, "an index segment of another version is left alone");
                }
                Err(error) => {
                    self.metrics.cache_damage.inc();
                    tracing::warn!(path = %path.display(), %error, "an index segment is dropped and will be built again");
                    damaged.push(path);
                }
            }
        }
        dir.remove(&damaged);
        if found {
            self.replace(segments);
        }
        found
    }

    fn damage(&self, segment: &Segment, error: &SegmentError) -> crate::error::RepoError {
        self.note_damage(segment, &error.to_string());
        segment.error(error)
    }

    fn note_damage(&self, segment: &Segment, error: &str) {
        if segment.set_damaged() {
            self.metrics.cache_damage.inc();
            tracing::warn!(path = ?segment.path, error, "an index segment will be built again");
        }
    }
}

#[cfg(test)]
mod tests;
