//! Caches on a disk that is small, full or read-only: no reader sees an error, and nothing half written is left.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use stash_repo::cache::DiskCache;
use stash_repo::crypto::MasterKey;
use stash_repo::{BlobId, BlobKind, Id, Repository};
use stash_tests::big_index;
use stash_tests::engine::open;
use stash_tests::forge::{Forge, PASSWORD};
use stash_tests::small_disk::SmallDisk;
use tempfile::TempDir;

fn key() -> MasterKey {
    MasterKey::from_parts(&mut [3; 64])
}

fn cache(dir: &Path) -> DiskCache {
    DiskCache::open(dir.join("blobs"), 1 << 30, &key(), Arc::default())
}

fn blob_id(n: u32) -> BlobId {
    BlobId(Id::hash(&n.to_be_bytes()))
}

/// Returns how many of these blobs the cache has, all of them right.
fn found(cache: &DiskCache, blobs: &[Vec<u8>]) -> usize {
    let right = |(n, blob): (u32, &Vec<u8>)| {
        let found = cache.get(&blob_id(n), BlobKind::Data);
        assert!(found.is_none() || found.as_ref() == Some(blob), "blob {n}");
        found.is_some()
    };
    (0..).zip(blobs).filter(|pair| right(*pair)).count()
}

#[test]
fn root_blob_cache_leaves_room_on_a_small_disk_and_goes_on_when_it_is_full() {
    let disk = SmallDisk::new(8 << 10);
    let blobs: Vec<_> = (0..200).map(|_| key().seal(&[7; 100_000])).collect();
    let one = cache(disk.path());
    for (n, blob) in (0..).zip(&blobs) {
        one.put(&blob_id(n), BlobKind::Data, blob);
        one.flush();
    }
    let stats = one.stats();
    assert!(stats.stored > 60 && stats.dropped > 60, "{stats:?}");
    assert!(disk.free_bytes() >= (8 << 20) / 20, "a twentieth stays free");
    assert_eq!(found(&one, &blobs), usize::try_from(stats.stored).unwrap());
    disk.fill();
    assert_eq!(found(&one, &blobs), usize::try_from(stats.stored).unwrap(), "what is there can be read");
    drop(one);
    disk.let_go("blobs");

    let two = cache(disk.path());
    assert!(found(&two, &blobs) > 60);
    let more = key().seal(&[8; 100_000]);
    for n in 1000..1010 {
        two.put(&blob_id(n), BlobKind::Data, &more);
    }
    two.flush();
    found(&two, &blobs);
    let taken = (1000..1010).filter(|n| two.get(&blob_id(*n), BlobKind::Data).is_some()).count();
    assert!(taken > 0, "old blobs make way for new ones where others filled the disk: {:?}", two.stats());
}

#[test]
fn root_blob_cache_on_a_read_only_disk_is_read() {
    let disk = SmallDisk::new(8 << 10);
    let blobs: Vec<_> = (0..20).map(|_| key().seal(&[7; 10_000])).collect();
    let one = cache(disk.path());
    for (n, blob) in (0..).zip(&blobs) {
        one.put(&blob_id(n), BlobKind::Data, blob);
    }
    drop(one);
    disk.make_read_only();
    let two = cache(disk.path());
    assert_eq!(found(&two, &blobs), 20);
    two.put(&blob_id(100), BlobKind::Data, &blobs[0]);
    two.flush();
    assert_eq!((two.stats().stored, two.stats().dropped), (0, 1));
}

fn assert_index_is_right(repository: &Repository, blobs: u64) {
    for n in (0..blobs).step_by(97) {
        let place = big_index::location(n);
        assert_eq!(repository.index().lookup_kind(&big_index::blob_id(n), place.kind).unwrap(), Some(place), "{n}");
    }
}

fn big_repository(blobs: u64) -> TempDir {
    let root = TempDir::new().unwrap();
    let mut forge = Forge::create(root.path());
    big_index::write(&mut forge, blobs);
    root
}

#[tokio::test]
async fn root_index_on_a_full_disk_is_kept_in_memory() {
    let blobs = 60_000;
    let root = big_repository(blobs);
    // The segment takes 3 MiB: the disk refuses at once, half way, at the end, or not.
    for kib in [32, 200, 1 << 10, 2 << 10, 3 << 10, 16 << 10] {
        let disk = SmallDisk::new(kib);
        let repository = open(root.path(), PASSWORD, Some(disk.path().to_owned())).await.unwrap();
        assert_index_is_right(&repository, blobs);
        let stats = repository.index().stats();
        assert_eq!((stats.blobs, stats.segments), (blobs, 1));
        assert_eq!(stats.segments_in_memory, usize::from(kib < 8 << 10), "{kib} KiB: {stats:?}");
        let dir = repository.cache_dir().unwrap().join("index");
        let dir = dir.strip_prefix(disk.path()).unwrap().to_str().unwrap().to_owned();
        let segments = disk.files(&dir);
        assert_eq!(segments.len(), usize::from(kib >= 8 << 10), "{segments:?}");
        drop(repository);
        // The same disk, filled: what is there serves, what is not is built in memory.
        disk.fill();
        let repository = open(root.path(), PASSWORD, Some(disk.path().to_owned())).await.unwrap();
        assert_index_is_right(&repository, blobs);
    }
}

#[tokio::test]
async fn root_index_on_a_read_only_disk_serves_and_grows_in_memory() {
    let root = big_repository(20_000);
    let disk = SmallDisk::new(16 << 10);
    drop(open(root.path(), PASSWORD, Some(disk.path().to_owned())).await.unwrap());
    disk.make_read_only();
    let repository = open(root.path(), PASSWORD, Some(disk.path().to_owned())).await.unwrap();
    assert_index_is_right(&repository, 20_000);
    let mut forge = Forge::create(&root.path().join("more"));
    big_index::write(&mut forge, 30_000);
    for entry in fs::read_dir(root.path().join("more/index")).unwrap() {
        let path = entry.unwrap().path();
        fs::rename(&path, root.path().join("index").join(path.file_name().unwrap())).unwrap();
    }
    assert!(repository.refresh().await.unwrap());
    assert_index_is_right(&repository, 30_000);
}
