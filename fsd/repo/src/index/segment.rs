//! One segment: an immutable sorted run of records with its own fence keys, packs and index files.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

use super::BlobLocation;
use super::storage::Storage;
use crate::blob::BlobKind;
use crate::error::RepoError;
use crate::format::index_segment::{
    FENCES_PER_PAGE, FILES_PER_PAGE, Header, Layout, PACKS_PER_PAGE, PAGE_BYTES, Page, PageError, RECORDS_PER_PAGE,
    RawRecord, Record, SearchKey, check_page, compare, fence_at, fence_of, file_at, pack_at, record_at,
};
use crate::format::seal::SealKey;
use crate::id::{BlobId, IndexId, PackId};

/// The most places of one blob that a search returns: a hostile index may name millions.
const PLACES_LIMIT: usize = 64;

/// How many packs are remembered. The files of a directory mostly lie in few.
const RECENT_PACKS: usize = 256;

/// A pack with its number.
type RecentPack = Option<(u32, PackId)>;

/// An opened segment.
pub(super) struct Segment {
    /// The file's path; `None` in memory.
    pub(super) path: Option<PathBuf>,
    /// What the first page says.
    pub(super) header: Header,
    /// Where the sections lie.
    pub(super) layout: Layout,
    /// The index files whose blobs are here, in the order of their numbers.
    pub(super) files: Vec<IndexId>,
    /// The first id's beginning of each page of records, ascending.
    fences: Vec<u64>,
    /// Packs that were looked up, each at the remainder of its number: a segment never changes, and reading and checking their
    /// page again takes as long as finding the blob.
    recent_packs: Mutex<Box<[RecentPack]>>,
    storage: Storage,
    key: SealKey,
    /// A page was found damaged: the next refresh drops the segment and builds it again.
    damaged: AtomicBool,
}

/// Why a segment could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SegmentError {
    /// The file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It could be read and is not what it should be.
    #[error(transparent)]
    Page(#[from] PageError),
}

impl Segment {
    /// Opens a segment: reads its header, fence keys and index files, 1 MB for ten million blobs.
    pub(super) fn open(storage: Storage, path: Option<PathBuf>, key: &SealKey) -> Result<Self, SegmentError> {
        let file_bytes = storage.len_bytes()?;
        let mut page = [0; PAGE_BYTES];
        if file_bytes < PAGE_BYTES as u64 {
            return Err(PageError::NotASegment.into());
        }
        storage.read_at(0, &mut page)?;
        let (header, layout) = Header::decode(key, &page, file_bytes)?;
        let mut segment = Self {
            path,
            header,
            layout,
            files: Vec::new(),
            fences: Vec::new(),
            recent_packs: Mutex::new(vec![None; RECENT_PACKS].into()),
            storage,
            key: key.clone(),
            damaged: AtomicBool::new(false),
        };
        // The header is authentic and its numbers fit the file's length, so these allocations are bounded by it.
        segment.fences = segment.read_table(layout.fences, layout.record_pages(), FENCES_PER_PAGE, fence_at)?;
        segment.files = segment.read_table(layout.files, header.counts.files, FILES_PER_PAGE, file_at)?;
        if !segment.fences.is_sorted() {
            return Err(PageError::Damaged(layout.fences).into());
        }
        Ok(segment)
    }

    fn read_table<T>(
        &self,
        first_page: u32,
        count: u32,
        per_page: usize,
        entry: fn(&Page, usize) -> T,
    ) -> Result<Vec<T>, SegmentError> {
        let count = count as usize;
        let mut entries = Vec::with_capacity(count);
        let mut page = [0; PAGE_BYTES];
        for number in first_page.. {
            if entries.len() == count {
                break;
            }
            self.read_page(number, &mut page)?;
            let here = per_page.min(count - entries.len());
            entries.extend((0..here).map(|position| entry(&page, position)));
        }
        Ok(entries)
    }

    /// Reads a page and checks its seal.
    pub(super) fn read_page(&self, number: u32, page: &mut Page) -> Result<(), SegmentError> {
        self.storage.read_at(u64::from(number) * PAGE_BYTES as u64, page)?;
        check_page(&self.key, &self.header.id, number, page)?;
        Ok(())
    }

    /// Returns how many records the page of records with this number (from 0) holds.
    pub(super) fn records_in(&self, record_page: u32) -> usize {
        let before = u64::from(record_page) * RECORDS_PER_PAGE as u64;
        let left = self.header.counts.blobs.saturating_sub(before);
        usize::try_from(left).unwrap_or(usize::MAX).min(RECORDS_PER_PAGE)
    }

    /// Finds the first place of a blob of this kind.
    pub(super) fn find(&self, id: &BlobId, kind: BlobKind) -> Result<Option<Record>, SegmentError> {
        let mut found = None;
        self.scan((*id, kind), |record| {
            found = (record.id == *id && record.kind == kind).then_some(record);
            false
        })?;
        Ok(found)
    }

    /// Finds the first place of a blob, data before trees.
    pub(super) fn find_any(&self, id: &BlobId) -> Result<Option<Record>, SegmentError> {
        let mut found = None;
        self.scan((*id, BlobKind::Data), |record| {
            found = (record.id == *id).then_some(record);
            false
        })?;
        Ok(found)
    }

    /// Finds the places of a blob of any kind, at most [`PLACES_LIMIT`] of each kind.
    pub(super) fn find_all(&self, id: &BlobId, places: &mut Vec<Record>) -> Result<(), SegmentError> {
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let mut left = PLACES_LIMIT;
            self.scan((*id, kind), |record| {
                let fits = record.id == *id && record.kind == kind;
                if fits {
                    places.push(record);
                    left -= 1;
                }
                fits && left > 0
            })?;
        }
        Ok(())
    }

    /// Gives the records from the first that is not below `key`, in order, until `each` returns false.
    fn scan(&self, key: SearchKey, mut each: impl FnMut(Record) -> bool) -> Result<(), SegmentError> {
        let fence = fence_of(key.0.as_bytes());
        let mut page = [0; PAGE_BYTES];
        // The first record not below the key lies in the last page that begins below it, or begins the next page. Pages
        // whose fence equals the key's may begin below it or not; more than one of them come from chosen ids only.
        let mut low = self.fences.partition_point(|f| *f < fence).saturating_sub(1);
        let mut high = self.fences.partition_point(|f| *f <= fence);
        while high - low > 2 {
            let middle = low + (high - low) / 2;
            self.read_record_page(middle, &mut page)?;
            if compare(record_at(&page, 0), &key).is_lt() {
                low = middle;
            } else {
                high = middle;
            }
        }
        for number in low..self.fences.len() {
            let count = self.read_record_page(number, &mut page)?;
            let first = partition(count, |position| compare(record_at(&page, position), &key).is_lt());
            for position in first..count {
                if !each(Record::decode(record_at(&page, position))) {
                    return Ok(());
                }
            }
            if self.fences.get(number + 1).is_none_or(|next| *next > fence) {
                break;
            }
        }
        Ok(())
    }

    fn read_record_page(&self, number: usize, page: &mut Page) -> Result<usize, SegmentError> {
        let number = u32::try_from(number).map_err(|_| PageError::Counts)?;
        self.read_page(self.layout.records + number, page)?;
        Ok(self.records_in(number))
    }

    /// Reads where a record points: one page of the table of packs.
    pub(super) fn locate(&self, record: &Record) -> Result<BlobLocation, SegmentError> {
        let pack = self.pack(record.pack)?;
        Ok(BlobLocation {
            pack,
            offset: record.offset,
            len_bytes: record.len_bytes,
            uncompressed_bytes: record.uncompressed_bytes,
            kind: record.kind,
        })
    }

    fn pack(&self, number: u32) -> Result<PackId, SegmentError> {
        if number >= self.header.counts.packs {
            return Err(PageError::Counts.into());
        }
        let place = number as usize % RECENT_PACKS;
        if let Some((_, pack)) = self.recent_packs.lock()[place].filter(|(recent, _)| *recent == number) {
            return Ok(pack);
        }
        let position = number as usize;
        let page_number = u32::try_from(position / PACKS_PER_PAGE).map_err(|_| PageError::Counts)?;
        let mut page = [0; PAGE_BYTES];
        self.read_page(self.layout.packs + page_number, &mut page)?;
        let (pack, _) = pack_at(&page, position % PACKS_PER_PAGE);
        self.recent_packs.lock()[place] = Some((number, pack));
        Ok(pack)
    }

    /// Gives each pack and the number of its index file, by the packs' numbers.
    pub(super) fn packs(&self, mut each: impl FnMut(PackId, u32) -> io::Result<()>) -> Result<(), SegmentError> {
        let mut page = [0; PAGE_BYTES];
        for number in 0..self.header.counts.packs as usize {
            if number % PACKS_PER_PAGE == 0 {
                let page_number = u32::try_from(number / PACKS_PER_PAGE).map_err(|_| PageError::Counts)?;
                self.read_page(self.layout.packs + page_number, &mut page)?;
            }
            let (pack, file) = pack_at(&page, number % PACKS_PER_PAGE);
            each(pack, file)?;
        }
        Ok(())
    }

    /// Returns how many records there are.
    pub(super) fn blobs(&self) -> u64 {
        self.header.counts.blobs
    }

    /// Returns whether a page was found damaged.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged.load(Relaxed)
    }

    /// Remembers the damage; returns whether it is news.
    pub(super) fn set_damaged(&self) -> bool {
        !self.damaged.swap(true, Relaxed)
    }

    /// Returns how much memory the segment holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.fences.capacity() * size_of::<u64>()
            + self.files.capacity() * size_of::<IndexId>()
            + RECENT_PACKS * size_of::<RecentPack>()
            + self.storage.memory_bytes()
    }

    /// Says which segment failed how, for a reader.
    pub(super) fn error(&self, error: &SegmentError) -> RepoError {
        let what = match &self.path {
            Some(path) => format!("index segment {}", path.display()),
            None => "index segment in memory".to_owned(),
        };
        RepoError::Local { what, reason: error.to_string() }
    }
}

/// Returns how many of `0..count` come before the first for which `before` is false.
fn partition(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("path", &self.path)
            .field("counts", &self.header.counts)
            .field("damaged", &self.is_damaged())
            .finish_non_exhaustive()
    }
}

/// The records of a segment in order, for a merge.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    segment: &'a Segment,
    page: Box<Page>,
    next_page: u32,
    position: usize,
    count: usize,
}

impl<'a> Cursor<'a> {
    /// Begins at the first record.
    pub(super) fn new(segment: &'a Segment) -> Self {
        Self { segment, page: Box::new([0; PAGE_BYTES]), next_page: 0, position: 0, count: 0 }
    }

    /// Returns the next record.
    pub(super) fn next(&mut self) -> Result<Option<RawRecord>, SegmentError> {
        if self.position == self.count {
            if self.next_page == self.segment.layout.record_pages() {
                return Ok(None);
            }
            self.segment.read_page(self.segment.layout.records + self.next_page, &mut self.page)?;
            self.count = self.segment.records_in(self.next_page);
            self.next_page += 1;
            self.position = 0;
        }
        let record = *record_at(&self.page, self.position);
        self.position += 1;
        Ok(Some(record))
    }
}
