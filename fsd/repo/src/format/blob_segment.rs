//! The bytes of a segment of the blob cache: records of ciphertext one after the other, at the end a table of contents.
//!
//! `docs/format.md` draws the file. All integers are big-endian. Nothing here does I/O.

use super::number::{get_u32, get_u64, put_u32};
use super::seal::{NONCE_BYTES, SEAL_BYTES, Seal, SealKey};
use crate::blob::BlobKind;
use crate::id::{BlobId, ID_BYTES, Id};

/// The bytes of a segment's random name.
pub const SEGMENT_ID_BYTES: usize = 12;
/// A segment's random name: it is in the nonce of each record, so that records of two segments cannot be exchanged.
pub type SegmentId = [u8; SEGMENT_ID_BYTES];

/// What every segment begins with.
pub const MAGIC: [u8; 8] = *b"STASHBLB";
/// The version that this code reads and writes.
pub const VERSION: u32 = 1;
/// The bytes of a segment's header.
pub const HEADER_BYTES: usize = 64;
/// The bytes before a record's ciphertext.
pub const RECORD_HEADER_BYTES: usize = 64;
/// The bytes of an entry of the table of contents.
pub const ENTRY_BYTES: usize = 16;
/// The bytes after the table.
pub const TRAILER_BYTES: usize = 32;
/// The shortest ciphertext: nonce and MAC.
pub const CIPHER_MIN_BYTES: usize = 32;

const RECORD_MAGIC: [u8; 4] = *b"blob";
const TRAILER_MAGIC: [u8; 8] = *b"STASHTOC";
const SEALED_BYTES: usize = RECORD_HEADER_BYTES - SEAL_BYTES;
const VERSION_OFFSET: usize = MAGIC.len();
const SEGMENT_ID_OFFSET: usize = VERSION_OFFSET + 4;
const KIND_OFFSET: usize = RECORD_MAGIC.len();
const LEN_OFFSET: usize = 8;
const ID_OFFSET: usize = 16;
const _: () = assert!(ID_OFFSET + ID_BYTES == SEALED_BYTES && HEADER_BYTES == RECORD_HEADER_BYTES);
const COUNT_OFFSET: usize = TRAILER_MAGIC.len();
const TABLE_OFFSET: usize = COUNT_OFFSET + 4;
const _: () = assert!(TABLE_OFFSET + 4 + SEAL_BYTES == TRAILER_BYTES);

/// The two keys of a cache: of its records and of its tables, whose nonces may be equal.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Seals headers of segments (nonce offset 0) and records (theirs).
    pub record: SealKey,
    /// Seals tables of contents.
    pub table: SealKey,
}

/// What a segment's first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A segment that this program can use.
    Ours(SegmentId),
    /// A segment of another version of this program: left alone.
    OtherVersion(u32),
    /// Anything else.
    Damaged,
}

/// Returns a segment's header.
#[must_use]
pub fn encode_header(keys: &Keys, id: &SegmentId) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    put_u32(&mut header, VERSION_OFFSET, VERSION);
    header[SEGMENT_ID_OFFSET..SEGMENT_ID_OFFSET + SEGMENT_ID_BYTES].copy_from_slice(id);
    let seal = keys.record.seal(&nonce(id, 0), &[&header[..SEALED_BYTES]]);
    header[SEALED_BYTES..].copy_from_slice(&seal);
    header
}

/// Reads a segment's header.
#[must_use]
pub fn decode_header(keys: &Keys, header: &[u8; HEADER_BYTES]) -> Head {
    if header[..MAGIC.len()] != MAGIC {
        return Head::Damaged;
    }
    let version = get_u32(header, VERSION_OFFSET);
    if version != VERSION {
        return Head::OtherVersion(version);
    }
    let mut id = SegmentId::default();
    id.copy_from_slice(&header[SEGMENT_ID_OFFSET..SEGMENT_ID_OFFSET + SEGMENT_ID_BYTES]);
    if keys.record.check(&nonce(&id, 0), &[&header[..SEALED_BYTES]], &seal_at(header, SEALED_BYTES)) {
        Head::Ours(id)
    } else {
        Head::Damaged
    }
}

/// What a record's header says. It is to be believed only after [`RecordHeader::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// The blob.
    pub id: BlobId,
    /// Data or tree.
    pub kind: BlobKind,
    /// The ciphertext's length, at least [`CIPHER_MIN_BYTES`].
    pub len_bytes: u32,
}

impl RecordHeader {
    /// Returns the bytes that stand before `ciphertext` at `offset` of `segment`.
    ///
    /// The seal covers the header and the ciphertext's own nonce and MAC, which in turn cover the ciphertext: so it binds
    /// the id to the content, and costs nothing.
    #[must_use]
    pub fn encode(
        &self,
        keys: &Keys,
        segment: &SegmentId,
        offset: u32,
        ciphertext: &[u8],
    ) -> [u8; RECORD_HEADER_BYTES] {
        let mut header = [0; RECORD_HEADER_BYTES];
        header[..RECORD_MAGIC.len()].copy_from_slice(&RECORD_MAGIC);
        header[KIND_OFFSET] = match self.kind {
            BlobKind::Data => 0,
            BlobKind::Tree => 1,
        };
        put_u32(&mut header, LEN_OFFSET, self.len_bytes);
        header[ID_OFFSET..SEALED_BYTES].copy_from_slice(self.id.as_bytes());
        let (first, last) = ends(ciphertext);
        let seal = keys.record.seal(&nonce(segment, offset), &[&header[..SEALED_BYTES], first, last]);
        header[SEALED_BYTES..].copy_from_slice(&seal);
        header
    }

    /// Reads the bytes; `None` if they are not the beginning of a record.
    #[must_use]
    pub fn decode(header: &[u8; RECORD_HEADER_BYTES]) -> Option<Self> {
        let kind = match header[KIND_OFFSET] {
            0 => BlobKind::Data,
            1 => BlobKind::Tree,
            _ => return None,
        };
        let len_bytes = get_u32(header, LEN_OFFSET);
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&header[ID_OFFSET..SEALED_BYTES]);
        (header[..RECORD_MAGIC.len()] == RECORD_MAGIC && len_bytes as usize >= CIPHER_MIN_BYTES).then_some(Self {
            id: BlobId(Id::new(id)),
            kind,
            len_bytes,
        })
    }

    /// Returns whether the header belongs to this place and to a ciphertext that begins with `first` and ends in `last`.
    #[must_use]
    pub fn check(
        header: &[u8; RECORD_HEADER_BYTES],
        keys: &Keys,
        segment: &SegmentId,
        offset: u32,
        (first, last): (&[u8; 16], &[u8; 16]),
    ) -> bool {
        let seal = seal_at(header, SEALED_BYTES);
        keys.record.check(&nonce(segment, offset), &[&header[..SEALED_BYTES], first, last], &seal)
    }

    /// Returns where the next record begins after this one at `offset`.
    #[must_use]
    pub fn next_offset(&self, offset: u32) -> Option<u32> {
        offset.checked_add(u32::try_from(RECORD_HEADER_BYTES).ok()?)?.checked_add(self.len_bytes)
    }
}

/// Returns the first and the last 16 bytes of a ciphertext of at least [`CIPHER_MIN_BYTES`]: its nonce and its MAC.
#[must_use]
pub fn ends(ciphertext: &[u8]) -> (&[u8; 16], &[u8; 16]) {
    let first = ciphertext.first_chunk().expect("a ciphertext has a nonce");
    let last = ciphertext.last_chunk().expect("a ciphertext has a MAC");
    (first, last)
}

/// One blob in a table of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// See [`short_key`].
    pub key: u64,
    /// Where the record begins.
    pub offset: u32,
    /// The ciphertext's length.
    pub len_bytes: u32,
}

/// Returns the 64 bits by which a blob is found: the beginning of its id, other bits for a tree than for data.
///
/// Two blobs may share them; the record tells them apart.
#[must_use]
pub fn short_key(id: &BlobId, kind: BlobKind) -> u64 {
    let key = get_u64(id.as_bytes(), 0);
    match kind {
        BlobKind::Data => key,
        BlobKind::Tree => !key,
    }
}

/// Returns the table that ends a segment whose records end at `offset`.
///
/// `entries` are so few that their number and place fit 32 bits.
#[must_use]
pub fn encode_table(keys: &Keys, segment: &SegmentId, offset: u32, entries: &[Entry]) -> Vec<u8> {
    let mut table = Vec::with_capacity(entries.len() * ENTRY_BYTES + TRAILER_BYTES);
    for entry in entries {
        table.extend_from_slice(&entry.key.to_be_bytes());
        table.extend_from_slice(&entry.offset.to_be_bytes());
        table.extend_from_slice(&entry.len_bytes.to_be_bytes());
    }
    let count = u32::try_from(entries.len()).expect("a segment has fewer records than bytes");
    let mut trailer = [0; TRAILER_BYTES - SEAL_BYTES];
    trailer[..COUNT_OFFSET].copy_from_slice(&TRAILER_MAGIC);
    put_u32(&mut trailer, COUNT_OFFSET, count);
    put_u32(&mut trailer, TABLE_OFFSET, offset);
    let seal = keys.table.seal(&nonce(segment, offset), &[&table, &trailer]);
    table.extend_from_slice(&trailer);
    table.extend_from_slice(&seal);
    table
}

/// Returns where the table begins, by the last bytes of a file of `file_bytes`; `None` if there is none.
#[must_use]
pub fn table_offset(trailer: &[u8; TRAILER_BYTES], file_bytes: u64) -> Option<u32> {
    let (count, offset) = (get_u32(trailer, COUNT_OFFSET), get_u32(trailer, TABLE_OFFSET));
    let end = u64::from(offset) + u64::from(count) * ENTRY_BYTES as u64 + TRAILER_BYTES as u64;
    (trailer[..COUNT_OFFSET] == TRAILER_MAGIC && offset as usize >= HEADER_BYTES && end == file_bytes).then_some(offset)
}

/// Reads a table with its trailer, all that follows `offset`; `None` if its seal is wrong.
#[must_use]
pub fn decode_table(keys: &Keys, segment: &SegmentId, offset: u32, table: &[u8]) -> Option<Vec<Entry>> {
    let (sealed, seal) = table.split_last_chunk::<SEAL_BYTES>()?;
    if sealed.len() % ENTRY_BYTES != 0 || !keys.table.check(&nonce(segment, offset), &[sealed], seal) {
        return None;
    }
    let entries = &sealed[..sealed.len().checked_sub(TRAILER_BYTES - SEAL_BYTES)?];
    let entry = |bytes: &[u8; ENTRY_BYTES]| Entry {
        key: get_u64(bytes, 0),
        offset: get_u32(bytes, 8),
        len_bytes: get_u32(bytes, 12),
    };
    Some(entries.as_chunks::<ENTRY_BYTES>().0.iter().map(entry).collect())
}

/// The nonce of what is at `offset`: a segment has one writer, which writes nothing twice at one place.
fn nonce(segment: &SegmentId, offset: u32) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..SEGMENT_ID_BYTES].copy_from_slice(segment);
    nonce[SEGMENT_ID_BYTES..].copy_from_slice(&offset.to_be_bytes());
    nonce
}

fn seal_at(bytes: &[u8], offset: usize) -> Seal {
    let mut seal = Seal::default();
    seal.copy_from_slice(&bytes[offset..offset + SEAL_BYTES]);
    seal
}

#[cfg(test)]
mod tests;
