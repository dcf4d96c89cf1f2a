//! What must hold for any bytes that a parser is given: run by libFuzzer (`fuzz_targets/`), and by `cargo test` over the kept
//! corpus (`tests/suites/corpus.rs`, which includes this file).

use stash_repo::backend::location::Location;
use stash_repo::config::Config;
use stash_repo::crypto::MasterKey;
use stash_repo::format::blob_segment::{self, RecordHeader};
use stash_repo::format::{index_file, tree, unpacked};
use stash_repo::{Snapshot, SnapshotId, key};

/// A name, and what is checked of any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// The targets; each has a folder of its name in `corpus/`.
pub const TARGETS: [Target; 9] = [
    ("blob_segment", blob_segment),
    ("config", config),
    ("index_file", index_file),
    ("key_file", key_file),
    ("location", location),
    ("sealed", sealed),
    ("snapshot", snapshot),
    ("tree", tree),
    ("unpacked", unpacked),
];

/// A segment of the disk cache that somebody else wrote.
pub fn blob_segment(data: &[u8]) {
    if let Some(header) = data.first_chunk() {
        let _ = RecordHeader::decode(header).map(|header| header.next_offset(u32::MAX - 100));
    }
    if let Some((trailer, rest)) = data.split_first_chunk() {
        let _ = blob_segment::table_offset(trailer, rest.len() as u64);
    }
}

/// A repository's `config`, opened.
pub fn config(data: &[u8]) {
    let _ = Config::parse(data);
}

/// An index file, opened: every entry that is let through lies inside of 32 bits of its pack.
pub fn index_file(data: &[u8]) {
    let _ = index_file::parse(data, |blob| {
        assert!(blob.offset.checked_add(blob.len_bytes).is_some());
    });
}

/// A key file, and what its password opens.
pub fn key_file(data: &[u8]) {
    let _ = key::KeyFile::parse(data);
    let _ = key::parse_master_key(data);
}

/// An address that a person typed.
pub fn location(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(location) = Location::parse(text) {
        assert!(!location.to_string().is_empty());
    }
}

/// Bytes that nobody sealed with the key are never opened.
pub fn sealed(data: &[u8]) {
    let key = MasterKey::from_parts(&mut [7; 64]);
    assert!(key.open_in_place(&mut data.to_vec()).is_err());
}

/// A snapshot file, opened.
pub fn snapshot(data: &[u8]) {
    let _ = Snapshot::parse(SnapshotId::default(), data);
}

/// A tree blob: memory is bounded by the input, and every entry that is shown is one that a filesystem can show.
pub fn tree(data: &[u8]) {
    let Ok(tree) = tree::parse(data) else { return };
    assert!(tree.weight_bytes() <= 4096 + data.len() * 64);
    let mut last: Option<&[u8]> = None;
    for node in tree.iter() {
        let name = node.name();
        assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0));
        assert!(last.is_none_or(|last| last < name));
        assert_eq!(tree.find(name).map(|found| found.position), Some(node.position));
        assert!(node.mode() <= 0o7777);
        last = Some(name);
    }
}

/// However a frame lies about its length, no more than the limit comes out.
pub fn unpacked(data: &[u8]) {
    const LIMIT_BYTES: usize = 1 << 20;
    if let Ok(plain) = unpacked::decode(data, LIMIT_BYTES) {
        assert!(plain.len() <= LIMIT_BYTES.max(data.len()));
    }
}
