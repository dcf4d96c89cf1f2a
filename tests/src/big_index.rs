//! Repositories with an index of any size: real, compressed and encrypted index files over packs that do not exist.
//!
//! Ten million blobs, the index of some 10 TB, take seconds and memory for one index file.

use std::io::Write as _;

use stash_repo::{BlobId, BlobKind, BlobLocation, FileKind, Id, PackId};

use crate::forge::Forge;

/// How many blobs restic puts into an index file before it begins another.
pub const BLOBS_PER_FILE: u64 = 50_000;
/// How many blobs of about 1 MiB make a pack.
const BLOBS_PER_PACK: u64 = 16;
/// Every such blob is a tree.
const TREE_EVERY: u64 = 10;
/// What stands before a compressed file of format 2.
const COMPRESSED: u8 = 2;

/// Returns the id of blob `n`: as evenly spread as hashes are.
#[must_use]
pub fn blob_id(n: u64) -> BlobId {
    BlobId(spread(n, 0))
}

/// Returns where blob `n` lies.
#[must_use]
pub fn location(n: u64) -> BlobLocation {
    let word = mix(n);
    let small = |bits: u64| u32::try_from(word >> (64 - bits)).unwrap();
    let len_bytes = 300_000 + small(20);
    BlobLocation {
        pack: PackId(spread(n / BLOBS_PER_PACK, 1)),
        offset: u32::try_from(n % BLOBS_PER_PACK).unwrap() * 1_500_000,
        len_bytes,
        uncompressed_bytes: (!n.is_multiple_of(4)).then_some(len_bytes + small(19)),
        kind: if n.is_multiple_of(TREE_EVERY) { BlobKind::Tree } else { BlobKind::Data },
    }
}

/// Writes the index files of blobs `0..blobs`.
pub fn write(forge: &mut Forge, blobs: u64) {
    let mut json = Vec::new();
    let mut stored = Vec::new();
    for first in (0..blobs).step_by(usize::try_from(BLOBS_PER_FILE).unwrap()) {
        json.clear();
        file_json(&mut json, first, blobs.min(first + BLOBS_PER_FILE));
        stored.clear();
        stored.push(COMPRESSED);
        zstd::stream::copy_encode(&json[..], &mut stored, 1).unwrap();
        forge.unpacked(FileKind::Index, &stored);
    }
}

fn file_json(json: &mut Vec<u8>, first: u64, end: u64) {
    json.extend_from_slice(br#"{"packs":["#);
    for n in first..end {
        let place = location(n);
        if n == first || n.is_multiple_of(BLOBS_PER_PACK) {
            if n != first {
                json.extend_from_slice(b"]},");
            }
            write!(json, r#"{{"id":"{}","blobs":["#, place.pack).unwrap();
        } else {
            json.push(b',');
        }
        let kind = if place.kind == BlobKind::Tree { "tree" } else { "data" };
        let (id, offset, length) = (blob_id(n), place.offset, place.len_bytes);
        write!(json, r#"{{"id":"{id}","type":"{kind}","offset":{offset},"length":{length}"#).unwrap();
        if let Some(plain) = place.uncompressed_bytes {
            write!(json, r#","uncompressed_length":{plain}"#).unwrap();
        }
        json.push(b'}');
    }
    json.extend_from_slice(b"]}]}");
}

fn spread(n: u64, salt: u64) -> Id {
    let mut bytes = [0; 32];
    for (i, part) in (0..).zip(bytes.chunks_exact_mut(8)) {
        part.copy_from_slice(&mix(n ^ salt << 60 ^ (i + 1) << 50).to_be_bytes());
    }
    Id::new(bytes)
}

/// The finalizer of `SplitMix64`: a bijection that spreads.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
