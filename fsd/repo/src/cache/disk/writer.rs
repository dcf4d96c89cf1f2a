//! The thread that writes: it alone appends, completes and evicts for this process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::Core;
use super::files::FIRST_RECORD_OFFSET;
use super::state::{BLOB_CHARGE_BYTES, Place, SegmentName};
use crate::blob::BlobKind;
use crate::format::blob_segment::{Entry, RECORD_HEADER_BYTES, RecordHeader, encode_header, short_key};
use crate::id::BlobId;

/// How long nothing is written after the disk refused.
const PAUSE: Duration = Duration::from_secs(30);
/// How much of the file system is left free: a twentieth, at most 1 GiB. A cache must not make others fail.
const FREE_PART: u64 = 20;
const FREE_MAX_BYTES: u64 = 1 << 30;

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Work {
    /// Write a blob. `record` is its ciphertext after room for the record's header.
    Put { id: BlobId, kind: BlobKind, record: Vec<u8> },
    /// Say when everything before is done.
    Flush(Sender<()>),
}

/// The segment that is appended to.
#[derive(Debug)]
struct Active {
    name: SegmentName,
    number: u32,
    file: File,
    tail: u32,
    entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Writer {
    core: Arc<Core>,
    active: Option<Active>,
    /// Nothing is written before.
    paused_until: Option<Instant>,
}

impl Writer {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core, active: None, paused_until: None }
    }

    /// Works until all senders are gone, then completes its segment.
    pub(super) fn run(mut self, work: &Receiver<Work>) {
        for work in work {
            match work {
                Work::Put { id, kind, mut record } => {
                    let bytes = record.len();
                    self.put(&id, kind, &mut record);
                    self.core.queued_bytes.fetch_sub(bytes, Relaxed);
                }
                // The one who waits may have gone.
                Work::Flush(done) => drop(done.send(())),
            }
        }
        self.complete();
    }

    fn put(&mut self, id: &BlobId, kind: BlobKind, record: &mut [u8]) {
        // Two readers may have fetched it at once.
        if self.core.state.lock().contains(id, kind) {
            return;
        }
        let paused = self.paused_until.is_some_and(|until| Instant::now() < until);
        let stored = !paused && self.try_put(id, kind, record);
        if stored { self.core.counters.stored.inc() } else { self.core.counters.dropped.inc() }
    }

    fn try_put(&mut self, id: &BlobId, kind: BlobKind, record: &mut [u8]) -> bool {
        let written =
            self.make_room(record.len()).and_then(|room| if room { self.append(id, kind, record) } else { Ok(false) });
        match written {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(dir = %self.core.files.dir().display(), %error, pause_seconds = PAUSE.as_secs(), "the disk cache takes no blobs for now");
                // Nothing is ever written twice at one place: the segment ends before the failed record.
                self.complete();
                self.paused_until = Some(Instant::now() + PAUSE);
                false
            }
        }
    }

    fn append(&mut self, id: &BlobId, kind: BlobKind, record: &mut [u8]) -> io::Result<bool> {
        let active = match &mut self.active {
            Some(active) => active,
            None => self.active.insert(Self::begin(&self.core)?),
        };
        let (header, ciphertext) = record.split_at_mut(RECORD_HEADER_BYTES);
        let len_bytes = u32::try_from(ciphertext.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let record_header = RecordHeader { id: *id, kind, len_bytes };
        let next = record_header.next_offset(active.tail).ok_or(io::ErrorKind::FileTooLarge)?;
        header.copy_from_slice(&record_header.encode(&self.core.files.keys, &active.name.id, active.tail, ciphertext));
        active.file.write_all_at(record, u64::from(active.tail))?;
        let key = short_key(id, kind);
        let place = Place { segment: active.number, offset: active.tail };
        active.entries.push(Entry { key, offset: active.tail, len_bytes });
        active.tail = next;
        self.core.state.lock().insert_own(key, place, u64::from(next));
        Ok(true)
    }

    fn begin(core: &Core) -> io::Result<Active> {
        let name = SegmentName { sequence: core.state.lock().next_sequence(), id: rand::random() };
        let file = core.files.create_segment(&name)?;
        file.write_all_at(&encode_header(&core.files.keys, &name.id), 0)?;
        let number = core.state.lock().begin_own(name, u64::from(FIRST_RECORD_OFFSET));
        Ok(Active { name, number, file, tail: FIRST_RECORD_OFFSET, entries: Vec::new() })
    }

    /// Makes room for a record: completes a full segment, evicts old ones. Returns whether there is room.
    fn make_room(&mut self, record_bytes: usize) -> io::Result<bool> {
        let core = self.core.clone();
        let is_full = |active: &Active| {
            u64::from(active.tail) + record_bytes as u64 > core.segment_bytes
                || active.entries.len() as u64 >= core.segment_bytes / BLOB_CHARGE_BYTES
        };
        if self.active.as_ref().is_some_and(is_full) {
            self.complete();
        }
        let mut evictable = None;
        if self.active.is_none() {
            // Other processes write and evict as well.
            core.rescan()?;
            let mut oldest = core.state.lock().by_age().into_iter();
            while core.state.lock().charge(core.segment_bytes) + core.segment_bytes > core.max_bytes {
                if !core.evict_next(&mut oldest) {
                    return Ok(false);
                }
            }
            core.state.lock().draw_line(core.max_bytes, core.segment_bytes);
            evictable = Some(oldest);
        }
        let mut oldest = evictable;
        while !core.has_free_space(record_bytes)? {
            let oldest = oldest.get_or_insert_with(|| core.state.lock().by_age().into_iter());
            if !core.evict_next(oldest) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        Ok(true)
    }

    /// Ends the active segment with its table. One that cannot be ended is scanned by whoever opens it.
    fn complete(&mut self) {
        let Some(Active { name, number, file, tail, entries }) = self.active.take() else { return };
        match self.core.files.complete(&file, &name, tail, &entries) {
            Ok(file_bytes) => self.core.state.lock().complete_own(number, file_bytes),
            Err(error) => {
                tracing::debug!(segment = %name, %error, "a segment of the disk cache has no table");
                self.core.state.lock().complete_own(number, u64::from(tail));
            }
        }
    }
}

impl Core {
    /// Evicts the next segment that can be evicted; returns whether there was one.
    fn evict_next(&self, oldest: &mut impl Iterator<Item = (SegmentName, u32)>) -> bool {
        for (name, number) in oldest {
            if self.files.remove(&name) {
                self.state.lock().remove_segment(number);
                self.counters.evicted.inc();
                return true;
            }
        }
        false
    }

    fn has_free_space(&self, bytes: usize) -> io::Result<bool> {
        let disk = rustix::fs::statvfs(self.files.dir())?;
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(free >= (total / FREE_PART).min(FREE_MAX_BYTES).saturating_add(bytes as u64))
    }
}
