//! From index files and older segments to a new segment, in bounded memory.
//!
//! New records are collected in a buffer; a full buffer is sorted and spooled as a run. At the end all runs and the
//! merged segments are merged into one sorted sequence, which is written page by page. Every step can be repeated, so
//! that a disk that refuses half way costs no second download: the segment is then made in memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::io;
use std::sync::Arc;

use super::dir::Dir;
use super::segment::{Cursor, Segment, SegmentError};
use super::storage::{Spool, Storage};
use crate::error::{RepoError, RepoResult};
use crate::format::index_file::IndexedBlob;
use crate::format::index_segment::{
    Counts, FENCE_BYTES, FENCES_PER_PAGE, FILES_PER_PAGE, Header, PACK_BYTES, PACKS_PER_PAGE, PAGE_BYTES, Page,
    RECORD_BYTES, RECORDS_PER_PAGE, RawRecord, Record, SegmentId, encode_pack, fence_of, len_of, pack_of, seal_page,
    set_pack,
};
use crate::format::seal::SealKey;
use crate::id::{ID_BYTES, IndexId, PackId};

/// How many records are sorted in memory: 24 MiB.
const RUN_RECORDS: usize = (24 << 20) / RECORD_BYTES;
/// How many records of a run are read at once in a merge: 96 KiB, so that 20 runs (ten million blobs) take 2 MiB.
const RUN_READ_RECORDS: usize = 2048;
/// How many bytes are written at once.
const WRITE_BYTES: usize = 64 * PAGE_BYTES;
/// Stands for a pack that the new segment does not have.
const NO_PACK: u32 = u32::MAX;

/// A segment in the making.
#[derive(Debug)]
pub(super) struct Build {
    dir: Option<Dir>,
    key: SealKey,
    run_records: usize,
    /// Records that are not in a run yet.
    buffer: Vec<RawRecord>,
    /// Sorted runs, one after the other.
    runs: Spool,
    /// How many records each run has.
    run_lens: Vec<u64>,
    /// Entries of the table of packs.
    packs: Spool,
    pack_count: u32,
    files: Vec<IndexId>,
    merged: Vec<Merged>,
}

/// An older segment whose records go into the new one.
#[derive(Debug)]
struct Merged {
    segment: Arc<Segment>,
    /// From its packs' numbers to the new ones, ascending; [`NO_PACK`] where the index file is gone.
    packs: Vec<u32>,
}

/// Why a segment could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    /// An older segment is damaged: plan again without it.
    #[error("an older segment is damaged")]
    Damaged(Arc<Segment>),
    /// Neither the disk nor memory took it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// More packs or pages than the format counts.
    #[error("more packs or blobs than an index segment can hold")]
    TooLarge,
}

impl From<BuildError> for RepoError {
    fn from(error: BuildError) -> Self {
        Self::Local { what: "building an index segment".to_owned(), reason: error.to_string() }
    }
}

impl Build {
    /// Begins a segment that will lie in `dir`, or in memory for `None` and where the directory takes nothing.
    pub(super) fn new(dir: Option<Dir>, key: &SealKey) -> Self {
        let spool = |dir: &Option<Dir>| {
            Spool::new(dir.as_ref().and_then(|dir| {
                dir.unnamed()
                    .inspect_err(
                        |error| tracing::warn!(dir = %dir.path().display(), %error, "the index is kept in memory"),
                    )
                    .ok()
            }))
        };
        Self {
            run_records: RUN_RECORDS,
            buffer: Vec::new(),
            runs: spool(&dir),
            run_lens: Vec::new(),
            packs: spool(&dir),
            pack_count: 0,
            files: Vec::new(),
            merged: Vec::new(),
            key: key.clone(),
            dir,
        }
    }

    /// Sets how many records are sorted in memory.
    #[cfg(test)]
    pub(super) fn with_run_records(mut self, run_records: usize) -> Self {
        self.run_records = run_records;
        self
    }

    /// Takes in the blobs of an older segment that come from index files for which `live` (by their number) is true.
    pub(super) fn merge(&mut self, segment: Arc<Segment>, live: &[bool]) -> Result<(), BuildError> {
        let mut numbers = Vec::with_capacity(live.len());
        for (file, live) in segment.files.iter().zip(live) {
            numbers.push(if *live { self.push_file(*file)? } else { NO_PACK });
        }
        let mut packs = Vec::with_capacity(segment.header.counts.packs as usize);
        let mut entries = Vec::new();
        let mut next = self.pack_count;
        let scanned = segment.packs(|pack, file| {
            let number = numbers.get(file as usize).copied().unwrap_or(NO_PACK);
            if number == NO_PACK {
                packs.push(NO_PACK);
            } else {
                packs.push(next);
                next += 1;
                entries.extend_from_slice(&encode_pack(&pack, number));
            }
            Ok(())
        });
        if scanned.is_err() {
            return Err(BuildError::Damaged(segment));
        }
        self.push_packs(&entries)?;
        self.merged.push(Merged { segment, packs });
        Ok(())
    }

    /// Takes in an index file. `parse` gives its blobs, pack by pack; if it fails, nothing of the file stays.
    ///
    /// The outer error says that no segment can be made, the inner one is `parse`'s.
    pub(super) fn add_file(
        &mut self,
        file: IndexId,
        parse: impl FnOnce(&mut dyn FnMut(IndexedBlob)) -> RepoResult<()>,
    ) -> Result<RepoResult<()>, BuildError> {
        let before = self.buffer.len();
        let number = u32::try_from(self.files.len()).map_err(|_| BuildError::TooLarge)?;
        let mut entries = Vec::new();
        let mut last: Option<PackId> = None;
        let mut next = self.pack_count;
        let buffer = &mut self.buffer;
        let parsed = parse(&mut |blob| {
            if last != Some(blob.pack) {
                last = Some(blob.pack);
                entries.extend_from_slice(&encode_pack(&blob.pack, number));
                next = next.saturating_add(1);
            }
            let record = Record {
                id: blob.id,
                kind: blob.kind,
                len_bytes: blob.len_bytes,
                pack: next - 1,
                offset: blob.offset,
                uncompressed_bytes: blob.uncompressed_bytes,
            };
            buffer.push(record.encode());
        });
        if let Err(error) = parsed {
            self.buffer.truncate(before);
            return Ok(Err(error));
        }
        self.push_packs(&entries)?;
        self.push_file(file)?;
        // Only between files, because a file that ends badly is taken back.
        if self.buffer.len() >= self.run_records {
            self.spool_run()?;
        }
        Ok(Ok(()))
    }

    fn push_file(&mut self, file: IndexId) -> Result<u32, BuildError> {
        let number = u32::try_from(self.files.len()).map_err(|_| BuildError::TooLarge)?;
        self.files.push(file);
        Ok(number)
    }

    fn push_packs(&mut self, entries: &[u8]) -> Result<(), BuildError> {
        let count = u32::try_from(entries.len() / PACK_BYTES).map_err(|_| BuildError::TooLarge)?;
        // The last number stands for no pack.
        let total = self.pack_count.checked_add(count).filter(|total| *total < NO_PACK).ok_or(BuildError::TooLarge)?;
        self.packs.append(entries)?;
        self.pack_count = total;
        Ok(())
    }

    fn spool_run(&mut self) -> Result<(), BuildError> {
        self.buffer.sort_unstable();
        self.runs.append(self.buffer.as_flattened())?;
        self.run_lens.push(self.buffer.len() as u64);
        self.buffer.clear();
        Ok(())
    }

    /// Writes the segment and opens it; `None` if it would name no index file.
    pub(super) fn finish(mut self) -> Result<Option<Segment>, BuildError> {
        if self.files.is_empty() {
            return Ok(None);
        }
        self.sort_last()?;
        let id: SegmentId = rand::random();
        if let Some(dir) = self.dir.clone() {
            match self.write_file(&dir, id) {
                Err(BuildError::Io(error)) => {
                    tracing::warn!(dir = %dir.path().display(), %error, "the index segment is kept in memory");
                }
                other => return other.map(Some),
            }
        }
        // A new name: the pages that were written under the old one may differ from those of this attempt.
        let storage = self.write(Storage::Memory(Vec::new()), rand::random())?;
        self.open(storage, None).map(Some)
    }

    /// Writes the segment under a given name, in memory.
    #[cfg(test)]
    pub(super) fn finish_as(mut self, id: SegmentId) -> Result<Storage, BuildError> {
        self.sort_last()?;
        self.write(Storage::Memory(Vec::new()), id)
    }

    /// Sorts what is left in the buffer; a run of its own if there are others, to free the buffer.
    fn sort_last(&mut self) -> Result<(), BuildError> {
        if self.run_lens.is_empty() {
            self.buffer.sort_unstable();
        } else if !self.buffer.is_empty() {
            self.spool_run()?;
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn write_file(&self, dir: &Dir, id: SegmentId) -> Result<Segment, BuildError> {
        let temp = dir.create_temp()?;
        let storage = self.write(Storage::File(temp.file()?), id)?;
        drop(storage);
        let (path, file) = dir.publish(temp, &id)?;
        self.open(Storage::File(file), Some(path))
    }

    fn open(&self, storage: Storage, path: Option<std::path::PathBuf>) -> Result<Segment, BuildError> {
        Segment::open(storage, path, &self.key).map_err(|error| match error {
            SegmentError::Io(error) => BuildError::Io(error),
            SegmentError::Page(error) => BuildError::Io(io::Error::new(io::ErrorKind::InvalidData, error)),
        })
    }

    /// Writes all pages; the header, which makes them a segment, last.
    fn write(&self, storage: Storage, id: SegmentId) -> Result<Storage, BuildError> {
        let mut writer = Writer {
            storage,
            key: &self.key,
            id,
            page_number: 0,
            written_bytes: 0,
            pending: Vec::with_capacity(WRITE_BYTES),
            page: [0; PAGE_BYTES],
            filled: 0,
        };
        writer.pending.resize(PAGE_BYTES, 0);
        writer.page_number = 1;

        let mut chunk = vec![0; PACKS_PER_PAGE * PACK_BYTES];
        let mut offset = 0;
        while offset < self.packs.len_bytes() {
            let left = usize::try_from(self.packs.len_bytes() - offset).unwrap_or(usize::MAX);
            let part = chunk.len().min(left);
            let part = &mut chunk[..part];
            self.packs.read_at(offset, part)?;
            for entry in part.chunks_exact(PACK_BYTES) {
                writer.push(entry, PACKS_PER_PAGE)?;
            }
            offset += part.len() as u64;
        }
        writer.end_section()?;

        let mut fences = Vec::new();
        let mut blobs = 0_u64;
        let mut stored_bytes = 0_u64;
        self.merge_sorted(|record| {
            if blobs.is_multiple_of(RECORDS_PER_PAGE as u64) {
                fences.push(fence_of(record));
            }
            blobs += 1;
            stored_bytes = stored_bytes.saturating_add(len_of(record).into());
            writer.push(record, RECORDS_PER_PAGE)
        })?;
        writer.end_section()?;

        for fence in &fences {
            writer.push(&fence.to_be_bytes() as &[u8; FENCE_BYTES], FENCES_PER_PAGE)?;
        }
        writer.end_section()?;
        for file in &self.files {
            writer.push(file.as_bytes() as &[u8; ID_BYTES], FILES_PER_PAGE)?;
        }
        writer.end_section()?;

        let files = u32::try_from(self.files.len()).map_err(|_| BuildError::TooLarge)?;
        let header = Header { id, counts: Counts { blobs, packs: self.pack_count, files, stored_bytes } };
        header.counts.layout().ok_or(BuildError::TooLarge)?;
        writer.finish(&header)
    }

    /// Gives all records in order.
    fn merge_sorted(&self, mut each: impl FnMut(&RawRecord) -> Result<(), BuildError>) -> Result<(), BuildError> {
        let mut sources = Vec::with_capacity(self.merged.len() + self.run_lens.len() + 1);
        sources
            .extend(self.merged.iter().map(|merged| Source::Segment { cursor: Cursor::new(&merged.segment), merged }));
        let mut offset = 0;
        for len in &self.run_lens {
            let end = offset + len * RECORD_BYTES as u64;
            sources.push(Source::Run { spool: &self.runs, offset, end, buffer: Vec::new(), position: 0 });
            offset = end;
        }
        sources.push(Source::Buffer(self.buffer.iter()));

        let mut heap = BinaryHeap::with_capacity(sources.len());
        for (number, source) in sources.iter_mut().enumerate() {
            if let Some(record) = source.next()? {
                heap.push(Reverse((record, number)));
            }
        }
        while let Some(mut top) = heap.peek_mut() {
            let Reverse((record, number)) = &mut *top;
            each(record)?;
            match sources[*number].next()? {
                Some(next) => *record = next,
                None => drop(PeekMut::pop(top)),
            }
        }
        Ok(())
    }
}

/// One sorted sequence of a merge.
enum Source<'a> {
    Segment { cursor: Cursor<'a>, merged: &'a Merged },
    Run { spool: &'a Spool, offset: u64, end: u64, buffer: Vec<RawRecord>, position: usize },
    Buffer(std::slice::Iter<'a, RawRecord>),
}

impl Source<'_> {
    fn next(&mut self) -> Result<Option<RawRecord>, BuildError> {
        match self {
            Self::Segment { cursor, merged } => loop {
                let damaged = || BuildError::Damaged(merged.segment.clone());
                let Some(mut record) = cursor.next().map_err(|_| damaged())? else { return Ok(None) };
                let pack = *merged.packs.get(pack_of(&record) as usize).ok_or_else(damaged)?;
                if pack != NO_PACK {
                    set_pack(&mut record, pack);
                    return Ok(Some(record));
                }
            },
            Self::Run { spool, offset, end, buffer, position } => {
                if *position == buffer.len() {
                    let left = usize::try_from((*end - *offset) / RECORD_BYTES as u64).unwrap_or(usize::MAX);
                    buffer.resize(left.min(RUN_READ_RECORDS), [0; RECORD_BYTES]);
                    spool.read_at(*offset, buffer.as_flattened_mut())?;
                    *offset += buffer.as_flattened().len() as u64;
                    *position = 0;
                }
                let record = buffer.get(*position).copied();
                *position += 1;
                Ok(record)
            }
            Self::Buffer(records) => Ok(records.next().copied()),
        }
    }
}

/// Fills, seals and writes pages one after the other.
struct Writer<'a> {
    storage: Storage,
    key: &'a SealKey,
    id: SegmentId,
    /// The number of the page being filled.
    page_number: u32,
    written_bytes: u64,
    /// Sealed pages that are not written yet.
    pending: Vec<u8>,
    page: Page,
    /// How many entries the page holds.
    filled: usize,
}

impl Writer<'_> {
    /// Appends an entry to the section, of which a page holds `per_page`.
    fn push(&mut self, entry: &[u8], per_page: usize) -> Result<(), BuildError> {
        self.page[self.filled * entry.len()..][..entry.len()].copy_from_slice(entry);
        self.filled += 1;
        if self.filled == per_page { self.end_section() } else { Ok(()) }
    }

    /// Ends the page if it holds anything.
    fn end_section(&mut self) -> Result<(), BuildError> {
        if self.filled == 0 {
            return Ok(());
        }
        seal_page(self.key, &self.id, self.page_number, &mut self.page);
        self.pending.extend_from_slice(&self.page);
        self.page = [0; PAGE_BYTES];
        self.filled = 0;
        self.page_number = self.page_number.checked_add(1).ok_or(BuildError::TooLarge)?;
        if self.pending.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BuildError> {
        self.storage.write_at(self.written_bytes, &self.pending)?;
        self.written_bytes += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    fn finish(mut self, header: &Header) -> Result<Storage, BuildError> {
        self.flush()?;
        self.storage.write_at(0, &header.encode(self.key))?;
        Ok(self.storage)
    }
}
