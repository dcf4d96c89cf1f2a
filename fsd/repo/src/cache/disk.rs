//! The disk cache of ciphertext blobs.
//!
//! Blobs are kept as they lie in packs, encrypted: nothing on this disk can be read without the repository's password.
//! They are appended to *segments* (64 MiB files); a full segment gets a table of contents and never changes again.
//! Whole segments are evicted, the oldest first; what is still read out of those next in line is written anew.
//!
//! A cache may vanish, be damaged or be shared at any time, and no reader may notice but by the clock:
//!
//! * One process writes a segment and holds a lock on it; all others read it up to where it is whole. A segment whose
//!   writer was killed is taken over by the next process that opens the cache: its torn end is cut, its table written.
//! * A record's seal binds the blob's id to the ciphertext's own nonce and MAC ([`RecordHeader::encode`]). So
//!   [`DiskCache::get`] never returns another blob's bytes; damage *inside* a ciphertext is found by whoever decrypts it,
//!   who then calls [`DiskCache::remove`]. Only blobs whose hash was found right may be [`DiskCache::put`].
//! * Nothing is synced: what a power cut leaves is found out by the seals.
//! * Puts are queued for one thread and dropped while the disk is slow, full or gone.
//!
//! In memory a blob takes about 30 bytes, and counts as 4 KiB at least, so that the cache's size bounds memory too.

mod files;
mod state;
mod writer;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;

use self::files::{Files, Loaded};
use self::state::{Place, SegmentName, State};
use self::writer::{Work, Writer};
use crate::blob::BlobKind;
use crate::crypto::MasterKey;
use crate::format::blob_segment::{CIPHER_MIN_BYTES, Keys, RECORD_HEADER_BYTES, RecordHeader, ends, short_key};
use crate::format::seal::{Purpose, SealKey};
use crate::id::BlobId;
use crate::metrics::{Counter, Metrics};

/// The size of a segment of a big cache: eviction takes this much at once, and 64 tables make up the default cache.
const SEGMENT_BYTES: u64 = 64 << 20;
/// A small cache has this many segments, so that eviction takes an eighth of it at once.
const SEGMENTS_MIN: u64 = 8;
/// A cache smaller than this is not worth its files.
const CACHE_MIN_BYTES: u64 = 1 << 20;
/// How many bytes of blobs may wait to be written: a second of a slow disk.
const QUEUE_BYTES: usize = 16 << 20;
/// How many blobs may wait to be written.
const QUEUE_BLOBS: usize = 1024;
/// How often the directory is looked through for other processes' blobs, at most, while blobs are missed.
const RESCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Blobs on disk, shared by all mounts of a repository on this machine. Cheap to clone.
///
/// The last clone to go waits for the queue and completes its segment.
#[derive(Debug, Clone, Default)]
pub struct DiskCache {
    /// `None`: switched off.
    inner: Option<Arc<Inner>>,
}

struct Inner {
    core: Arc<Core>,
    /// `None` only while it is dropped.
    queue: Option<Sender<Work>>,
    /// `None` only while it is dropped.
    thread: Option<JoinHandle<()>>,
}

/// What readers and the writing thread share.
#[derive(Debug)]
struct Core {
    files: Files,
    /// The size of the whole cache, of all processes.
    max_bytes: u64,
    /// The size of a segment.
    segment_bytes: u64,
    /// Never held during I/O.
    state: Mutex<State>,
    /// When the directory was last looked through. Held while it is; no one waits for it.
    rescanned: Mutex<Instant>,
    metrics: Arc<Metrics>,
    queued_bytes: AtomicUsize,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    hits: Counter,
    misses: Counter,
    stored: Counter,
    dropped: Counter,
    rewritten: Counter,
    evicted: Counter,
}

/// What a cache holds and has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskCacheStats {
    /// Whether there is a cache at all.
    pub enabled: bool,
    /// The files' bytes, of all processes.
    pub bytes: u64,
    /// Blobs that can be found.
    pub blobs: usize,
    /// Segments.
    pub segments: usize,
    /// Blobs that were returned.
    pub hits: u64,
    /// Blobs that were asked for and not there.
    pub misses: u64,
    /// Blobs that were written.
    pub stored: u64,
    /// Blobs that were not written because the disk was slow, full or gone.
    pub dropped: u64,
    /// Blobs that were written anew before their segment was evicted.
    pub rewritten: u64,
    /// Segments that this process evicted.
    pub evicted: u64,
}

impl DiskCache {
    /// Opens the cache in `dir` (made where it is missing), of at most `max_bytes`.
    ///
    /// The seals are keyed from the repository's master key. Never fails: where there can be no cache, a warning is
    /// logged and [`DiskCache::disabled`] returned.
    #[must_use]
    pub fn open(dir: PathBuf, max_bytes: u64, master_key: &MasterKey, metrics: Arc<Metrics>) -> Self {
        if max_bytes < CACHE_MIN_BYTES {
            if max_bytes > 0 {
                tracing::warn!(max_bytes, "no disk cache: its size is below 1 MiB");
            }
            return Self::disabled();
        }
        match Self::try_open(dir.clone(), max_bytes, master_key, metrics) {
            Ok(cache) => cache,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "no disk cache");
                Self::disabled()
            }
        }
    }

    /// Returns a cache that holds nothing.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { inner: None }
    }

    fn try_open(dir: PathBuf, max_bytes: u64, master_key: &MasterKey, metrics: Arc<Metrics>) -> io::Result<Self> {
        let keys = Keys {
            record: SealKey::derive(master_key, Purpose::BlobRecord),
            table: SealKey::derive(master_key, Purpose::BlobTable),
        };
        let core = Arc::new(Core {
            files: Files::create(dir, keys)?,
            max_bytes,
            segment_bytes: (max_bytes / SEGMENTS_MIN).min(SEGMENT_BYTES),
            state: Mutex::default(),
            rescanned: Mutex::new(Instant::now()),
            metrics,
            queued_bytes: AtomicUsize::new(0),
            counters: Counters::default(),
        });
        core.rescan()?;
        let (queue, work) = bounded(QUEUE_BLOBS);
        let writer = Writer::new(core.clone());
        let thread = std::thread::Builder::new().name("disk-cache".to_owned()).spawn(move || writer.run(&work))?;
        Ok(Self { inner: Some(Arc::new(Inner { core, queue: Some(queue), thread: Some(thread) })) })
    }

    /// Returns a blob's ciphertext (nonce, content, MAC) if the cache has it.
    ///
    /// The record is authentic: it was put under this id and kind. Its content is not checked yet: decrypting does that,
    /// and what fails must be [removed](Self::remove). A right MAC proves that these are the bytes that were put, so data
    /// need no second hashing.
    #[must_use]
    pub fn get(&self, id: &BlobId, kind: BlobKind) -> Option<Vec<u8>> {
        let mut ciphertext = Vec::new();
        self.get_into(id, kind, &mut ciphertext).then_some(ciphertext)
    }

    /// Returns whether the cache knows of a blob; no I/O.
    #[must_use]
    pub fn contains(&self, id: &BlobId, kind: BlobKind) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.core.state.lock().contains(id, kind))
    }

    /// Like [`DiskCache::get`], into a buffer whose content is replaced. Returns whether the cache has the blob; if not,
    /// the buffer's content is unspecified.
    pub fn get_into(&self, id: &BlobId, kind: BlobKind, ciphertext: &mut Vec<u8>) -> bool {
        let Some(inner) = &self.inner else { return false };
        let core = &inner.core;
        let place = core.state.lock().find(id, kind);
        let place = place.or_else(|| core.try_rescan().then(|| core.state.lock().find(id, kind)).flatten());
        let found = place.is_some_and(|(place, name)| core.read(id, kind, place, &name, ciphertext));
        if found {
            core.counters.hits.inc();
            if place.is_some_and(|(_, name)| core.state.lock().is_next_to_go(&name)) {
                core.counters.rewritten.inc();
                inner.enqueue(id, kind, ciphertext);
            }
        } else {
            core.counters.misses.inc();
        }
        found
    }

    /// Offers a blob's ciphertext, whose content was found to be what `id` names. Never waits for the disk.
    pub fn put(&self, id: &BlobId, kind: BlobKind, ciphertext: &[u8]) {
        let Some(inner) = &self.inner else { return };
        if !self.contains(id, kind) {
            inner.enqueue(id, kind, ciphertext);
        }
    }

    /// Forgets a blob of either kind, because its content turned out to be damaged. It is counted as damage.
    ///
    /// Its record stays on disk until its segment goes; the next put comes after it and hides it for good.
    pub fn remove(&self, id: &BlobId) {
        let Some(inner) = &self.inner else { return };
        let mut state = inner.core.state.lock();
        if state.remove(short_key(id, BlobKind::Data)) | state.remove(short_key(id, BlobKind::Tree)) {
            inner.core.metrics.cache_damage.inc();
        }
    }

    /// Waits until everything that was put is written or dropped.
    pub fn flush(&self) {
        let Some(queue) = self.inner.as_ref().and_then(|inner| inner.queue.as_ref()) else { return };
        let (done, wait) = bounded(0);
        if queue.send(Work::Flush(done)).is_ok() {
            // An error means that the thread is gone, thus that there is nothing to wait for.
            wait.recv().ok();
        }
    }

    /// Returns what the cache holds and has done.
    #[must_use]
    pub fn stats(&self) -> DiskCacheStats {
        let Some(inner) = &self.inner else { return DiskCacheStats::default() };
        let (state, counters) = (inner.core.state.lock(), &inner.core.counters);
        DiskCacheStats {
            enabled: true,
            bytes: state.file_bytes(),
            blobs: state.blobs(),
            segments: state.segments(),
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            stored: counters.stored.get(),
            dropped: counters.dropped.get(),
            rewritten: counters.rewritten.get(),
            evicted: counters.evicted.get(),
        }
    }
}

impl Inner {
    fn enqueue(&self, id: &BlobId, kind: BlobKind, ciphertext: &[u8]) {
        let core = &self.core;
        let bytes = RECORD_HEADER_BYTES + ciphertext.len();
        if ciphertext.len() < CIPHER_MIN_BYTES || !core.fits(bytes) {
            return;
        }
        let room = core.queued_bytes.fetch_add(bytes, Relaxed) + bytes <= QUEUE_BYTES.max(bytes);
        let sent = room
            && self.queue.as_ref().is_some_and(|queue| {
                let mut record = Vec::with_capacity(bytes);
                record.resize(RECORD_HEADER_BYTES, 0);
                record.extend_from_slice(ciphertext);
                queue.try_send(Work::Put { id: *id, kind, record }).is_ok()
            });
        if !sent {
            core.queued_bytes.fetch_sub(bytes, Relaxed);
            core.counters.dropped.inc();
        }
    }
}

impl Core {
    /// Returns whether a record of this length has a place in a segment.
    fn fits(&self, record_bytes: usize) -> bool {
        record_bytes as u64 <= self.segment_bytes
    }

    /// Reads a record; false where it is not what was looked for.
    fn read(&self, id: &BlobId, kind: BlobKind, place: Place, name: &SegmentName, ciphertext: &mut Vec<u8>) -> bool {
        let header = match self.files.open(name).and_then(|file| self.read_record(&file, place, ciphertext)) {
            Ok(header) => header,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Another process evicted it.
                self.state.lock().remove_segment(place.segment);
                return false;
            }
            Err(error) => {
                self.note_damage(name, &error);
                self.state.lock().remove_at(short_key(id, kind), place);
                return false;
            }
        };
        let checked = RecordHeader::check(&header, &self.files.keys, &name.id, place.offset, ends(ciphertext));
        match RecordHeader::decode(&header) {
            Some(found) if checked => found.id == *id && found.kind == kind,
            _ => {
                self.note_damage(name, &"wrong seal");
                self.state.lock().remove_at(short_key(id, kind), place);
                false
            }
        }
    }

    fn read_record(
        &self,
        file: &File,
        place: Place,
        ciphertext: &mut Vec<u8>,
    ) -> io::Result<[u8; RECORD_HEADER_BYTES]> {
        let mut header = [0; RECORD_HEADER_BYTES];
        file.read_exact_at(&mut header, u64::from(place.offset))?;
        let record = RecordHeader::decode(&header).ok_or(io::ErrorKind::InvalidData)?;
        let len = record.len_bytes as usize;
        // Not authenticated yet: no more memory than a segment may hold.
        if u64::from(record.len_bytes) > file.metadata()?.len() || !self.fits(len) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        ciphertext.resize(len, 0);
        file.read_exact_at(ciphertext, u64::from(place.offset) + RECORD_HEADER_BYTES as u64)?;
        Ok(header)
    }

    fn note_damage(&self, name: &SegmentName, error: &dyn fmt::Display) {
        self.metrics.cache_damage.inc();
        tracing::warn!(segment = %name, %error, "a cached blob is damaged and will be fetched again");
    }

    /// Looks for blobs of other processes, unless that was done just now or is being done; returns whether it was done.
    fn try_rescan(&self) -> bool {
        {
            let Some(mut last) = self.rescanned.try_lock() else { return false };
            if last.elapsed() < RESCAN_INTERVAL {
                return false;
            }
            *last = Instant::now();
        }
        self.rescan().is_ok()
    }

    /// Takes in what other processes wrote, and forgets what they removed.
    fn rescan(&self) -> io::Result<()> {
        let names = self.files.list()?;
        let known = self.state.lock().begin_rescan(&names);
        for (name, scanned) in names.into_iter().zip(known) {
            let Some(scanned) = scanned else { continue };
            match self.files.load(&name, scanned) {
                Ok(Loaded::Segment(segment)) => self.state.lock().insert_segment(name, segment),
                Ok(Loaded::NotYet) => {}
                Ok(Loaded::Damaged) => {
                    self.metrics.cache_damage.inc();
                    tracing::warn!(segment = %name, "a segment of the disk cache is damaged and was removed");
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(segment = %name, %error, "a segment of the disk cache cannot be read"),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("core", &self.core).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.queue.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the disk cache's thread ended by a panic");
        }
    }
}

#[cfg(test)]
mod tests;
