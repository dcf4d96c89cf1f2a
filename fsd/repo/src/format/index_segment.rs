//! The bytes of an index segment: pages of sorted records, the packs that they name, the index files that they are from.
//!
//! `docs/format.md` draws the file. All integers are big-endian, so that records sort as their bytes do.
//!
//! Nothing here does I/O. A page is looked at only after its seal was found right, and its numbers are checked even then.

use super::number::{get_u32, get_u64, put_u32, put_u64};
use super::seal::{SEAL_BYTES, Seal, SealKey};
use crate::blob::BlobKind;
use crate::id::{BlobId, ID_BYTES, Id, IndexId, PackId};

/// The bytes of a page: what file systems and disks read at once.
pub const PAGE_BYTES: usize = 4096;
/// The bytes of a page before its seal.
pub const PAYLOAD_BYTES: usize = PAGE_BYTES - SEAL_BYTES;
/// The bytes of a record.
pub const RECORD_BYTES: usize = ID_BYTES + 4 * 4;
/// How many records a page holds: they fill it to the byte.
pub const RECORDS_PER_PAGE: usize = PAYLOAD_BYTES / RECORD_BYTES;
const _: () = assert!(RECORDS_PER_PAGE * RECORD_BYTES == PAYLOAD_BYTES);
/// The bytes of a pack's entry: its id and the number of the index file that named it.
pub const PACK_BYTES: usize = ID_BYTES + 4;
/// How many packs a page holds.
pub const PACKS_PER_PAGE: usize = PAYLOAD_BYTES / PACK_BYTES;
/// The bytes of a fence key: the beginning of a page's first id.
pub const FENCE_BYTES: usize = 8;
/// How many fence keys a page holds.
pub const FENCES_PER_PAGE: usize = PAYLOAD_BYTES / FENCE_BYTES;
/// How many ids of index files a page holds.
pub const FILES_PER_PAGE: usize = PAYLOAD_BYTES / ID_BYTES;
/// The bytes of a segment's random name.
pub const SEGMENT_ID_BYTES: usize = 12;

/// What every segment begins with.
pub const MAGIC: [u8; 8] = *b"STASHIDX";
/// The version that this code reads and writes.
pub const VERSION: u32 = 2;

const VERSION_OFFSET: usize = MAGIC.len();
const PAGE_SIZE_OFFSET: usize = VERSION_OFFSET + 4;
const SEGMENT_ID_OFFSET: usize = PAGE_SIZE_OFFSET + 4;
const BLOBS_OFFSET: usize = 32;
const PACKS_OFFSET: usize = BLOBS_OFFSET + 8;
const FILES_OFFSET: usize = PACKS_OFFSET + 4;
const STORED_OFFSET: usize = FILES_OFFSET + 4;
const HEADER_END: usize = STORED_OFFSET + 8;
const _: () = assert!(SEGMENT_ID_OFFSET + SEGMENT_ID_BYTES <= BLOBS_OFFSET && HEADER_END <= PAYLOAD_BYTES);

const LEN_OFFSET: usize = ID_BYTES;
const PACK_OFFSET: usize = LEN_OFFSET + 4;
const START_OFFSET: usize = PACK_OFFSET + 4;
const UNCOMPRESSED_OFFSET: usize = START_OFFSET + 4;
/// The bit beside the length that says tree.
const TREE_BIT: u32 = 1 << 31;

/// A segment's random name: it is in the nonce of each page, so that pages of two segments cannot be exchanged.
pub type SegmentId = [u8; SEGMENT_ID_BYTES];

/// The bytes of a record.
pub type RawRecord = [u8; RECORD_BYTES];
/// The bytes of a page.
pub type Page = [u8; PAGE_BYTES];

/// The part of a record that a search compares: the id, and beneath it data before trees.
pub type SearchKey = (BlobId, BlobKind);

/// One blob at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The blob.
    pub id: BlobId,
    /// Data or tree.
    pub kind: BlobKind,
    /// The ciphertext's length, below 2^31.
    pub len_bytes: u32,
    /// The pack's number in this segment.
    pub pack: u32,
    /// Where the ciphertext begins in the pack.
    pub offset: u32,
    /// The plain length of a compressed blob; 0 stands for none.
    pub uncompressed_bytes: Option<u32>,
}

impl Record {
    /// Returns the bytes; they sort by id, then data before trees.
    #[must_use]
    pub fn encode(&self) -> RawRecord {
        let tree = if self.kind == BlobKind::Tree { TREE_BIT } else { 0 };
        let mut raw = [0; RECORD_BYTES];
        raw[..ID_BYTES].copy_from_slice(self.id.as_bytes());
        put_u32(&mut raw, LEN_OFFSET, (self.len_bytes & !TREE_BIT) | tree);
        put_u32(&mut raw, PACK_OFFSET, self.pack);
        put_u32(&mut raw, START_OFFSET, self.offset);
        put_u32(&mut raw, UNCOMPRESSED_OFFSET, self.uncompressed_bytes.unwrap_or(0));
        raw
    }

    /// Reads the bytes. Every pattern is a record; whether its pack exists is for the caller to see.
    #[must_use]
    pub fn decode(raw: &RawRecord) -> Self {
        let len = get_u32(raw, LEN_OFFSET);
        let uncompressed = get_u32(raw, UNCOMPRESSED_OFFSET);
        Self {
            id: BlobId(get_id(raw, 0)),
            kind: if len & TREE_BIT == 0 { BlobKind::Data } else { BlobKind::Tree },
            len_bytes: len_of(raw),
            pack: pack_of(raw),
            offset: get_u32(raw, START_OFFSET),
            uncompressed_bytes: (uncompressed != 0).then_some(uncompressed),
        }
    }
}

/// Returns the pack's number of an encoded record.
#[must_use]
pub fn pack_of(raw: &RawRecord) -> u32 {
    get_u32(raw, PACK_OFFSET)
}

/// Returns the ciphertext's length of an encoded record.
#[must_use]
pub fn len_of(raw: &RawRecord) -> u32 {
    get_u32(raw, LEN_OFFSET) & !TREE_BIT
}

/// Replaces the pack's number of an encoded record.
pub fn set_pack(raw: &mut RawRecord, pack: u32) {
    put_u32(raw, PACK_OFFSET, pack);
}

/// Compares a record with what is searched.
#[must_use]
pub fn compare(raw: &RawRecord, key: &SearchKey) -> std::cmp::Ordering {
    raw[..ID_BYTES].cmp(key.0.as_bytes()).then_with(|| {
        let is_tree = raw[LEN_OFFSET] & 0x80 != 0;
        is_tree.cmp(&(key.1 == BlobKind::Tree))
    })
}

/// Returns the fence key of an id.
#[must_use]
pub fn fence_of(id: &[u8]) -> u64 {
    get_u64(id, 0)
}

/// How many there are of what, thus where which page lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Records.
    pub blobs: u64,
    /// Entries of the table of packs.
    pub packs: u32,
    /// Index files.
    pub files: u32,
    /// The ciphertext of all records, which the layout does not depend on.
    pub stored_bytes: u64,
}

/// Where the sections of a segment begin, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The first page of packs.
    pub packs: u32,
    /// The first page of records.
    pub records: u32,
    /// The first page of fence keys.
    pub fences: u32,
    /// The first page of ids of index files.
    pub files: u32,
    /// The number of pages.
    pub end: u32,
}

impl Counts {
    /// Returns where the sections lie; `None` if there are more pages than 32 bits count.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        let pages = |count: u64, per_page: usize| u32::try_from(count.div_ceil(per_page as u64)).ok();
        let record_pages = pages(self.blobs, RECORDS_PER_PAGE)?;
        let packs = 1_u32;
        let records = packs.checked_add(pages(u64::from(self.packs), PACKS_PER_PAGE)?)?;
        let fences = records.checked_add(record_pages)?;
        let files = fences.checked_add(pages(u64::from(record_pages), FENCES_PER_PAGE)?)?;
        let end = files.checked_add(pages(u64::from(self.files), FILES_PER_PAGE)?)?;
        Some(Layout { packs, records, fences, files, end })
    }
}

impl Layout {
    /// Returns the file's length.
    #[must_use]
    pub const fn file_bytes(&self) -> u64 {
        self.end as u64 * PAGE_BYTES as u64
    }

    /// Returns how many pages of records there are.
    #[must_use]
    pub const fn record_pages(&self) -> u32 {
        self.fences - self.records
    }
}

/// What the first page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The segment's name.
    pub id: SegmentId,
    /// What it holds.
    pub counts: Counts,
}

/// Why a page is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// It does not begin as a segment does.
    #[error("not an index segment")]
    NotASegment,
    /// It was written by a newer or much older program.
    #[error("version {0} of index segments, this program reads {VERSION}")]
    Version(u32),
    /// The seal is wrong.
    #[error("page {0} is damaged")]
    Damaged(u32),
    /// The numbers do not fit one another or the file.
    #[error("the header's numbers do not fit the file")]
    Counts,
}

impl Header {
    /// Returns the first page, sealed.
    #[must_use]
    pub fn encode(&self, key: &SealKey) -> Page {
        let mut page = [0; PAGE_BYTES];
        page[..MAGIC.len()].copy_from_slice(&MAGIC);
        put_u32(&mut page, VERSION_OFFSET, VERSION);
        put_u32(&mut page, PAGE_SIZE_OFFSET, u32::try_from(PAGE_BYTES).expect("a page is small"));
        page[SEGMENT_ID_OFFSET..SEGMENT_ID_OFFSET + SEGMENT_ID_BYTES].copy_from_slice(&self.id);
        put_u64(&mut page, BLOBS_OFFSET, self.counts.blobs);
        put_u32(&mut page, PACKS_OFFSET, self.counts.packs);
        put_u32(&mut page, FILES_OFFSET, self.counts.files);
        put_u64(&mut page, STORED_OFFSET, self.counts.stored_bytes);
        seal_page(key, &self.id, 0, &mut page);
        page
    }

    /// Reads the first page of a file of `file_bytes`.
    ///
    /// # Errors
    /// It is not one, or not all of one.
    pub fn decode(key: &SealKey, page: &Page, file_bytes: u64) -> Result<(Self, Layout), PageError> {
        if page[..MAGIC.len()] != MAGIC {
            return Err(PageError::NotASegment);
        }
        let version = get_u32(page, VERSION_OFFSET);
        if version != VERSION {
            return Err(PageError::Version(version));
        }
        let mut id = [0; SEGMENT_ID_BYTES];
        id.copy_from_slice(&page[SEGMENT_ID_OFFSET..SEGMENT_ID_OFFSET + SEGMENT_ID_BYTES]);
        check_page(key, &id, 0, page)?;
        let counts = Counts {
            blobs: get_u64(page, BLOBS_OFFSET),
            packs: get_u32(page, PACKS_OFFSET),
            files: get_u32(page, FILES_OFFSET),
            stored_bytes: get_u64(page, STORED_OFFSET),
        };
        let layout = counts.layout().ok_or(PageError::Counts)?;
        if layout.file_bytes() != file_bytes {
            return Err(PageError::Counts);
        }
        Ok((Self { id, counts }, layout))
    }
}

/// Seals a page in place. The nonce is the segment's name and the page's number: each is written once.
pub fn seal_page(key: &SealKey, segment: &SegmentId, number: u32, page: &mut Page) {
    let (payload, seal) = page.split_at_mut(PAYLOAD_BYTES);
    seal.copy_from_slice(&key.seal(&nonce(segment, number), &[payload]));
}

/// Checks a page's seal.
///
/// # Errors
/// It is wrong.
pub fn check_page(key: &SealKey, segment: &SegmentId, number: u32, page: &Page) -> Result<(), PageError> {
    let (payload, stored) = page.split_at(PAYLOAD_BYTES);
    let mut seal = Seal::default();
    seal.copy_from_slice(stored);
    if key.check(&nonce(segment, number), &[payload], &seal) { Ok(()) } else { Err(PageError::Damaged(number)) }
}

fn nonce(segment: &SegmentId, number: u32) -> [u8; 16] {
    let mut nonce = [0; 16];
    nonce[..SEGMENT_ID_BYTES].copy_from_slice(segment);
    nonce[SEGMENT_ID_BYTES..].copy_from_slice(&number.to_be_bytes());
    nonce
}

/// Returns the record at `position` of a page; `position` is below [`RECORDS_PER_PAGE`].
#[must_use]
pub fn record_at(page: &Page, position: usize) -> &RawRecord {
    page[position * RECORD_BYTES..][..RECORD_BYTES].try_into().expect("the slice has a record's length")
}

/// Returns the entry at `position` of a page of packs: the pack and the number of its index file.
#[must_use]
pub fn pack_at(page: &Page, position: usize) -> (PackId, u32) {
    let entry = &page[position * PACK_BYTES..][..PACK_BYTES];
    (PackId(get_id(entry, 0)), get_u32(entry, ID_BYTES))
}

/// Returns the bytes of a pack's entry.
#[must_use]
pub fn encode_pack(pack: &PackId, file: u32) -> [u8; PACK_BYTES] {
    let mut entry = [0; PACK_BYTES];
    entry[..ID_BYTES].copy_from_slice(pack.as_bytes());
    put_u32(&mut entry, ID_BYTES, file);
    entry
}

/// Returns the fence key at `position` of a page of them.
#[must_use]
pub fn fence_at(page: &Page, position: usize) -> u64 {
    fence_of(&page[position * FENCE_BYTES..])
}

/// Returns the id at `position` of a page of index files.
#[must_use]
pub fn file_at(page: &Page, position: usize) -> IndexId {
    IndexId(get_id(page, position * ID_BYTES))
}

fn get_id(bytes: &[u8], offset: usize) -> Id {
    let mut id = [0; ID_BYTES];
    id.copy_from_slice(&bytes[offset..offset + ID_BYTES]);
    Id::new(id)
}

#[cfg(test)]
mod tests;
