//! Packs of trees that we write ourselves.
//!
//! `rustic_core` stores a stream's node before its length is known, thus with length 0. So the trees of a stream's backup
//! are taken from the packs that it wrote, the length is put in, and they are written once more.
//!
//! Format: restic, `doc/design.rst`, "Pack Format" and "Indexing".

use bytes::Bytes;
use serde_json::{Value, json};

use super::access::Access;
use crate::backend::FileKind;
use crate::error::{RepoError, RepoResult};
use crate::id::Id;

/// Blob types in a pack's header.
const TREE: u8 = 1;
const COMPRESSED_TREE: u8 = 3;

/// A blob in a pack's header.
struct HeaderEntry {
    id: Id,
    range: std::ops::Range<usize>,
    compressed: bool,
}

/// Finds a tree in packs that were just written.
pub(super) fn find_tree(access: &Access, packs: &[Bytes], id: &Id) -> RepoResult<Option<Vec<u8>>> {
    for pack in packs {
        let damaged = |reason: &str| RepoError::Format { what: "pack", id: Id::hash(pack), reason: reason.to_owned() };
        let entries = header(access, pack).ok_or_else(|| damaged("the header of a pack of trees is not one"))?;
        let Some(entry) = entries.into_iter().find(|entry| entry.id == *id) else { continue };
        let mut sealed = pack.get(entry.range).ok_or_else(|| damaged("a blob lies outside"))?.to_vec();
        let plain =
            access.key().open_in_place(&mut sealed).map_err(|_| RepoError::WrongMac { what: "tree", id: *id })?;
        let json = if entry.compressed {
            zstd::decode_all(&*plain).map_err(|error| damaged(&error.to_string()))?
        } else {
            plain.to_vec()
        };
        return Ok(Some(json));
    }
    Ok(None)
}

fn header(access: &Access, pack: &[u8]) -> Option<Vec<HeaderEntry>> {
    let (rest, length) = pack.split_last_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let mut sealed = rest.get(rest.len().checked_sub(length)?..)?.to_vec();
    let mut header: &[u8] = access.key().open_in_place(&mut sealed).ok()?;
    let mut entries = Vec::new();
    let mut offset = 0;
    while let Some((kind, rest)) = header.split_first() {
        let compressed = match *kind {
            TREE => false,
            COMPRESSED_TREE => true,
            _ => return None,
        };
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let rest = if compressed { rest.get(4..)? } else { rest };
        let (id, rest) = rest.split_first_chunk::<32>()?;
        let end = usize::try_from(u32::from_le_bytes(*length)).ok()?.checked_add(offset)?;
        entries.push(HeaderEntry { id: Id::new(*id), range: offset..end, compressed });
        (offset, header) = (end, rest);
    }
    Some(entries)
}

/// Writes trees as a pack, and the index file that names it. Returns once both are durable.
pub(super) async fn write_trees(access: &Access, trees: &[(Id, Vec<u8>)]) -> RepoResult<()> {
    let compress = access.config().version >= 2;
    let local = |reason: String| RepoError::Local { what: "make a pack of trees".to_owned(), reason };
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|error| local(error.to_string()));
    let (mut pack, mut header, mut blobs) = (Vec::new(), Vec::new(), Vec::<Value>::new());
    for (id, json) in trees {
        let sealed = if compress {
            let packed = zstd::bulk::compress(json, zstd::DEFAULT_COMPRESSION_LEVEL);
            access.key().seal(&packed.map_err(|error| local(error.to_string()))?)
        } else {
            access.key().seal(json)
        };
        let mut blob = json!({"id": id, "type": "tree", "offset": length(&pack)?, "length": length(&sealed)?});
        header.push(if compress { COMPRESSED_TREE } else { TREE });
        header.extend(length(&sealed)?.to_le_bytes());
        if compress {
            header.extend(length(json)?.to_le_bytes());
            blob["uncompressed_length"] = length(json)?.into();
        }
        header.extend(id.as_bytes());
        pack.extend(sealed);
        blobs.push(blob);
    }
    let header = access.key().seal(&header);
    let header_length = length(&header)?;
    pack.extend(header);
    pack.extend(header_length.to_le_bytes());
    let id = Id::hash(&pack);
    access.backend().write(FileKind::Pack, &id, pack.into()).await?;
    let index = json!({"packs": [{"id": id, "blobs": blobs}]});
    let index = serde_json::to_vec(&index).map_err(|error| local(error.to_string()))?;
    access.write_file(FileKind::Index, &index).await?;
    Ok(())
}
