use std::collections::HashMap;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::id::Id;

fn master_key() -> MasterKey {
    MasterKey::from_parts(&mut [5; 64])
}

fn open(dir: &Path, max_bytes: u64) -> DiskCache {
    DiskCache::open(dir.to_owned(), max_bytes, &master_key(), Arc::default())
}

fn blob_id(n: u32) -> BlobId {
    BlobId(Id::hash(&n.to_be_bytes()))
}

/// A blob's ciphertext: by its number, so that every test knows what to expect.
fn ciphertext(n: u32, len: usize) -> Vec<u8> {
    let seed = Id::hash(&n.to_le_bytes());
    seed.as_bytes().iter().copied().cycle().take(len.max(CIPHER_MIN_BYTES)).collect()
}

#[test]
fn test_put_get_and_reopen() {
    let dir = TempDir::new().unwrap();
    let cache = open(dir.path(), 64 << 20);
    for n in 0..100 {
        assert_eq!(cache.get(&blob_id(n), BlobKind::Data), None);
        cache.put(&blob_id(n), BlobKind::Data, &ciphertext(n, 100 * n as usize));
    }
    cache.flush();
    let check = |cache: &DiskCache| {
        for n in 0..100 {
            assert_eq!(cache.get(&blob_id(n), BlobKind::Data), Some(ciphertext(n, 100 * n as usize)), "{n}");
            assert_eq!(cache.get(&blob_id(n), BlobKind::Tree), None);
        }
    };
    check(&cache);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.stored, stats.dropped, stats.blobs, stats.segments), (100, 100, 0, 100, 1));
    drop(cache);
    let cache = open(dir.path(), 64 << 20);
    check(&cache);
    assert_eq!(cache.stats().blobs, 100);
}
