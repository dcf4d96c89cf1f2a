//! Index files: which blobs lie where in which packs.
//!
//! Source: restic, `doc/design.rst`, "Indexing": `{"supersedes": [id], "packs": [{"id", "blobs": [{"id", "type", "offset",
//! "length", "uncompressed_length"}]}]}`. Repositories older than restic 0.2 hold the bare list of packs.

use super::json::{JsonError, Reader};
use super::{BLOB_LIMIT_BYTES, FormatError, INDEX_LIMIT_BYTES};
use crate::blob::BlobKind;
use crate::id::{BlobId, Id, IndexId, PackId};
use crate::index::CIPHER_OVERHEAD_BYTES;

/// The longest ciphertext of a blob: zstd grows what it cannot shrink by less than 1/256 (`ZSTD_COMPRESSBOUND`).
const CIPHER_LIMIT_BYTES: u32 = BLOB_LIMIT_U32 + BLOB_LIMIT_U32 / 256 + 64 + CIPHER_OVERHEAD_BYTES;
/// [`BLOB_LIMIT_BYTES`] in the type of lengths.
const BLOB_LIMIT_U32: u32 = 64 << 20;
const _: () = assert!(BLOB_LIMIT_U32 as usize == BLOB_LIMIT_BYTES);

/// A blob in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedBlob {
    /// The pack.
    pub pack: PackId,
    /// The blob.
    pub id: BlobId,
    /// Data or tree.
    pub kind: BlobKind,
    /// Where its ciphertext begins.
    pub offset: u32,
    /// How long nonce, ciphertext and MAC are together: at least [`CIPHER_OVERHEAD_BYTES`], and the end fits 32 bits.
    pub len_bytes: u32,
    /// How long its plain bytes are if they are compressed, at most [`BLOB_LIMIT_BYTES`]; never 0.
    pub uncompressed_bytes: Option<u32>,
}

/// What an index file says besides its blobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexFileInfo {
    /// The index files that this one replaces.
    pub supersedes: Vec<IndexId>,
    /// How many packs it names.
    pub packs: usize,
    /// How many blobs were given to the visitor.
    pub blobs: usize,
    /// How many entries were left out: of an unknown type, beyond a limit, or overlapping another of their pack.
    pub rejected: usize,
}

/// Reads an index file and gives each blob to `each`: pack by pack, by offset within a pack.
///
/// # Errors
/// The file is too long, or not an index file. Blobs given before that must be thrown away.
pub fn parse(plain: &[u8], mut each: impl FnMut(IndexedBlob)) -> Result<IndexFileInfo, FormatError> {
    if plain.len() > INDEX_LIMIT_BYTES {
        return Err(FormatError::new(format!("{} bytes, at most {INDEX_LIMIT_BYTES} are read", plain.len())));
    }
    let mut info = IndexFileInfo::default();
    let mut blobs = Vec::new();
    let mut reader = Reader::new(plain);
    let mut packs = |reader: &mut Reader<'_>, info: &mut IndexFileInfo| {
        reader.array(|reader| {
            let pack = parse_pack(reader, &mut blobs, info)?;
            visit(pack, &mut blobs, info, &mut each);
            Ok::<_, JsonError>(())
        })
    };
    if reader.peek() == Some(b'[') {
        packs(&mut reader, &mut info)?;
    } else {
        reader.object(|reader, key| match key {
            b"supersedes" => reader.array(|reader| {
                info.supersedes.push(IndexId(Id::new(reader.id()?)));
                Ok(())
            }),
            b"packs" => packs(reader, &mut info),
            _ => reader.skip(),
        })?;
    }
    reader.end()?;
    Ok(info)
}

/// Reads one pack into `blobs`.
fn parse_pack<'a>(
    reader: &mut Reader<'a>,
    blobs: &mut Vec<IndexedBlob>,
    info: &mut IndexFileInfo,
) -> Result<PackId, JsonError> {
    blobs.clear();
    let mut pack = None;
    reader.object(|reader, key| match key {
        b"id" => {
            pack = Some(PackId(Id::new(reader.id()?)));
            Ok(())
        }
        b"blobs" => reader.array(|reader| {
            match parse_blob(reader)? {
                Some(blob) => blobs.push(blob),
                None => info.rejected += 1,
            }
            Ok::<_, JsonError>(())
        }),
        _ => reader.skip(),
    })?;
    info.packs += 1;
    pack.ok_or_else(|| reader.error("a pack without an id"))
}

/// Reads one entry; `None` for one that cannot be.
fn parse_blob(reader: &mut Reader<'_>) -> Result<Option<IndexedBlob>, JsonError> {
    let (mut id, mut kind) = (None, None);
    let (mut offset, mut len, mut uncompressed) = (0, 0, 0);
    reader.object(|reader, key| {
        match key {
            b"id" => id = Some(BlobId(Id::new(reader.id()?))),
            b"type" => {
                kind = match reader.string()?.bytes {
                    b"data" => Some(BlobKind::Data),
                    b"tree" => Some(BlobKind::Tree),
                    _ => None,
                };
            }
            b"offset" => offset = reader.u64()?,
            b"length" => len = reader.u64()?,
            b"uncompressed_length" => uncompressed = reader.u64()?,
            _ => reader.skip()?,
        }
        Ok::<_, JsonError>(())
    })?;
    let id = id.ok_or_else(|| reader.error("a blob without an id"))?;
    let checked = || {
        let (offset, len) = (u32::try_from(offset).ok()?, u32::try_from(len).ok()?);
        let uncompressed = u32::try_from(uncompressed).ok()?;
        offset.checked_add(len)?;
        let fits = (CIPHER_OVERHEAD_BYTES..=CIPHER_LIMIT_BYTES).contains(&len)
            && uncompressed <= BLOB_LIMIT_U32
            && (uncompressed != 0 || len <= BLOB_LIMIT_U32 + CIPHER_OVERHEAD_BYTES);
        fits.then_some(IndexedBlob {
            pack: PackId::default(),
            id,
            kind: kind?,
            offset,
            len_bytes: len,
            uncompressed_bytes: (uncompressed != 0).then_some(uncompressed),
        })
    };
    Ok(checked())
}

/// Gives a pack's blobs to the visitor, without those that overlap another.
fn visit(pack: PackId, blobs: &mut [IndexedBlob], info: &mut IndexFileInfo, each: &mut impl FnMut(IndexedBlob)) {
    blobs.sort_unstable_by_key(|blob| (blob.offset, blob.len_bytes, blob.id));
    let mut end = 0;
    for blob in blobs {
        if blob.offset < end {
            info.rejected += 1;
            continue;
        }
        end = blob.offset + blob.len_bytes;
        info.blobs += 1;
        each(IndexedBlob { pack, ..*blob });
    }
}

#[cfg(test)]
mod tests;
