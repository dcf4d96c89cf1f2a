use std::collections::HashMap;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::id::Id;

const MIB: u64 = 1 << 20;

fn master_key() -> MasterKey {
    MasterKey::from_parts(&mut [5; 64])
}

fn open(dir: &Path, max_bytes: u64) -> DiskCache {
    DiskCache::open(dir.to_owned(), max_bytes, &master_key(), Arc::default())
}

fn core(cache: &DiskCache) -> &Core {
    &cache.inner.as_ref().unwrap().core
}

fn blob_id(n: u32) -> BlobId {
    BlobId(Id::hash(&n.to_be_bytes()))
}

fn plain(n: u32, len: usize) -> Vec<u8> {
    Id::hash(&n.to_le_bytes()).as_bytes().iter().copied().cycle().take(len).collect()
}

/// Says whether what the cache returned is right, as the blob engine does: by decrypting it.
fn decrypts(n: u32, len: usize, mut ciphertext: Vec<u8>) -> bool {
    match master_key().open_in_place(&mut ciphertext) {
        Ok(opened) => {
            assert_eq!(opened, plain(n, len), "authentic and yet another blob");
            true
        }
        Err(_) => false,
    }
}

fn put(cache: &DiskCache, n: u32, len: usize) {
    cache.put(&blob_id(n), BlobKind::Data, &master_key().seal(&plain(n, len)));
}

/// Asserts that a blob is there and right.
fn assert_has(cache: &DiskCache, n: u32, len: usize) {
    let found = cache.get(&blob_id(n), BlobKind::Data).unwrap_or_else(|| panic!("blob {n} is missing"));
    assert!(decrypts(n, len, found), "blob {n}");
}

/// What a directory holds. A cache that is open may remove a segment meanwhile.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            read => Some((path, read.unwrap())),
        })
        .collect();
    files.sort();
    files
}

fn disk_bytes(dir: &Path) -> u64 {
    files(dir).iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

/// What a killed process leaves: its files as they are, without its locks.
fn image(from: &Path) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (path, bytes) in files(from) {
        std::fs::write(dir.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    dir
}

#[test]
fn test_put_get_and_reopen() {
    let dir = TempDir::new().unwrap();
    let cache = open(dir.path(), 64 * MIB);
    for n in 0..100 {
        assert_eq!(cache.get(&blob_id(n), BlobKind::Data), None);
        put(&cache, n, 100 * n as usize);
    }
    cache.flush();
    let check = |cache: &DiskCache| {
        for n in 0..100 {
            assert_has(cache, n, 100 * n as usize);
            assert_eq!(cache.get(&blob_id(n), BlobKind::Tree), None);
        }
    };
    check(&cache);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.stored, stats.dropped, stats.blobs, stats.segments), (100, 100, 0, 100, 1));
    drop(cache);
    let cache = open(dir.path(), 64 * MIB);
    check(&cache);
    assert_eq!(cache.stats().blobs, 100);
}

#[test]
fn test_nothing_plain_is_on_disk() {
    let dir = TempDir::new().unwrap();
    let cache = open(dir.path(), MIB);
    put(&cache, 1, 5000);
    drop(cache);
    let [(_, bytes)] = files(dir.path()).try_into().unwrap();
    let plain = plain(1, 32);
    assert!(!bytes.windows(16).any(|window| plain.windows(16).any(|part| part == window)));
    assert!(!bytes.windows(16).any(|window| window == &master_key().expose_parts()[..16]));
}

#[test]
fn test_data_and_tree_of_one_id_are_two_blobs() {
    let dir = TempDir::new().unwrap();
    let cache = open(dir.path(), MIB);
    let (data, tree) = (master_key().seal(b"data"), master_key().seal(b"tree"));
    cache.put(&blob_id(1), BlobKind::Data, &data);
    cache.put(&blob_id(1), BlobKind::Tree, &tree);
    cache.flush();
    assert_eq!(cache.get(&blob_id(1), BlobKind::Data), Some(data));
    assert_eq!(cache.get(&blob_id(1), BlobKind::Tree), Some(tree));
    cache.remove(&blob_id(1));
    assert_eq!(cache.get(&blob_id(1), BlobKind::Data), None);
    assert_eq!(cache.get(&blob_id(1), BlobKind::Tree), None);
}

#[test]
fn test_size_is_bounded_and_the_oldest_go_first() {
    let dir = TempDir::new().unwrap();
    let cache = open(dir.path(), 2 * MIB);
    for n in 0..400 {
        put(&cache, n, 20_000);
        cache.flush();
        assert!(disk_bytes(dir.path()) <= 2 * MIB);
    }
    let stats = cache.stats();
    assert!(stats.evicted > 10 && stats.dropped == 0, "{stats:?}");
    assert_eq!(stats.bytes, disk_bytes(dir.path()));
    // At least six of eight segments hold the newest.
    for n in 400 - 6 * 12..400 {
        assert_has(&cache, n, 20_000);
    }
    assert_eq!(cache.get(&blob_id(0), BlobKind::Data), None);
}

#[test]
fn test_tiny_blobs_count_as_4_kib_so_that_memory_is_bounded() {
    let dir = TempDir::new().unwrap();
    let cache = open(dir.path(), MIB);
    for n in 0..1000 {
        put(&cache, n, 1);
        cache.flush();
        assert!(cache.stats().blobs <= 256);
    }
}

#[test]
fn test_what_is_read_survives_eviction() {
    let dir = TempDir::new().unwrap();
    let cache = open(dir.path(), 2 * MIB);
    put(&cache, 0, 20_000);
    for n in 1..1000 {
        put(&cache, n, 20_000);
        cache.flush();
        assert_has(&cache, 0, 20_000);
        cache.flush();
    }
    let stats = cache.stats();
    assert!(stats.rewritten > 0 && stats.rewritten < 100, "written anew once in a round, not at each read: {stats:?}");
}

#[test]
fn test_a_blob_that_is_too_long_or_too_short_is_not_taken() {
    let dir = TempDir::new().unwrap();
    let cache = open(dir.path(), MIB);
    cache.put(&blob_id(1), BlobKind::Data, &[0; 31]);
    cache.put(&blob_id(2), BlobKind::Data, &vec![0; 128 << 10]);
    cache.flush();
    assert_eq!((cache.stats().blobs, cache.stats().dropped), (0, 0));
}

#[test]
fn test_no_directory_or_no_size_means_no_cache() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for cache in [open(&file, MIB), open(Path::new("/proc/none"), MIB), open(dir.path(), 0), open(dir.path(), 1000)] {
        put(&cache, 1, 100);
        cache.flush();
        cache.remove(&blob_id(1));
        assert_eq!(cache.get(&blob_id(1), BlobKind::Data), None);
        assert_eq!(cache.stats(), DiskCacheStats::default());
    }
}

#[test]
fn test_a_directory_that_vanishes_is_missed_by_nobody() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("blobs");
    let cache = open(&path, MIB);
    put(&cache, 1, 100);
    cache.flush();
    std::fs::remove_dir_all(&path).unwrap();
    assert_eq!(cache.get(&blob_id(1), BlobKind::Data), None);
    for n in 2..200 {
        put(&cache, n, 10_000);
    }
    cache.flush();
    assert!(cache.stats().dropped > 0, "the next segment cannot be begun");
}

#[test]
fn test_puts_are_dropped_while_the_disk_is_slow() {
    let dir = TempDir::new().unwrap();
    let cache = open(dir.path(), 512 * MIB);
    let inner = cache.inner.as_ref().unwrap();
    let state = inner.core.state.lock();
    // The thread waits for the lock at the first.
    for n in 0..40 {
        inner.enqueue(&blob_id(n), BlobKind::Data, &vec![1; 1 << 20]);
    }
    drop(state);
    cache.flush();
    let stats = cache.stats();
    assert_eq!((stats.stored, stats.dropped), (15, 25), "16 MiB wait, headers included");
    assert_eq!(inner.core.queued_bytes.load(Relaxed), 0);
}

#[test]
fn test_damage_that_a_reader_found_is_healed_for_good() {
    let dir = TempDir::new().unwrap();
    let cache = open(dir.path(), MIB);
    put(&cache, 1, 5000);
    drop(cache);
    let [(path, mut bytes)] = files(dir.path()).try_into().unwrap();
    bytes[1000] ^= 1;
    std::fs::write(path, bytes).unwrap();

    let metrics = Arc::new(Metrics::default());
    let cache = DiskCache::open(dir.path().to_owned(), MIB, &master_key(), metrics.clone());
    let damaged = cache.get(&blob_id(1), BlobKind::Data).unwrap();
    assert!(!decrypts(1, 5000, damaged));
    cache.remove(&blob_id(1));
    assert_eq!(metrics.cache_damage.get(), 1);
    assert_eq!(cache.get(&blob_id(1), BlobKind::Data), None);
    put(&cache, 1, 5000);
    cache.flush();
    assert_has(&cache, 1, 5000);
    drop(cache);
    assert_has(&open(dir.path(), MIB), 1, 5000);
}

#[test]
fn test_another_repositorys_segments_are_not_taken() {
    let dir = TempDir::new().unwrap();
    put(&open(dir.path(), MIB), 1, 100);
    let other = MasterKey::from_parts(&mut [6; 64]);
    let cache = DiskCache::open(dir.path().to_owned(), MIB, &other, Arc::default());
    assert_eq!(cache.get(&blob_id(1), BlobKind::Data), None);
    assert_eq!(files(dir.path()).len(), 0, "what is nobody's is removed");
}

#[test]
fn test_another_versions_segments_are_left_alone() {
    let dir = TempDir::new().unwrap();
    put(&open(dir.path(), MIB), 1, 100);
    let [(path, mut bytes)] = files(dir.path()).try_into().unwrap();
    bytes[11] = 2;
    std::fs::write(&path, &bytes).unwrap();
    let metrics = Arc::new(Metrics::default());
    let cache = DiskCache::open(dir.path().to_owned(), MIB, &master_key(), metrics.clone());
    assert_eq!((cache.get(&blob_id(1), BlobKind::Data), metrics.cache_damage.get()), (None, 0));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn test_a_writer_that_was_ended_at_once_leaves_no_damage() {
    let dir = TempDir::new().unwrap();
    put(&open(dir.path(), MIB), 1, 100);
    let [(path, bytes)] = files(dir.path()).try_into().unwrap();
    for begun in [0, 7] {
        std::fs::write(&path, &bytes[..begun]).unwrap();
        let metrics = Arc::new(Metrics::default());
        let cache = DiskCache::open(dir.path().to_owned(), MIB, &master_key(), metrics.clone());
        assert_eq!((cache.get(&blob_id(1), BlobKind::Data), metrics.cache_damage.get()), (None, 0));
        assert!(!path.exists(), "nobody has to look at it again");
    }
}

#[test]
fn test_mounts_share_a_directory() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (open(dir.path(), 2 * MIB), open(dir.path(), 2 * MIB));
    put(&one, 1, 1000);
    one.flush();
    core(&two).rescan().unwrap();
    assert_has(&two, 1, 1000);
    // The first goes on in the same segment, and only what is new is read.
    put(&one, 2, 1000);
    put(&two, 3, 1000);
    one.flush();
    two.flush();
    for cache in [&one, &two] {
        core(cache).rescan().unwrap();
        for n in 1..4 {
            assert_has(cache, n, 1000);
        }
        assert_eq!(cache.stats().blobs, 3);
    }
    // The second fills the whole cache: it evicts what the first has completed, not what it is writing.
    for n in 10..500 {
        put(&two, n, 20_000);
        two.flush();
        assert!(disk_bytes(dir.path()) <= 2 * MIB);
    }
    assert_has(&one, 1, 1000);
    drop(one);
    for n in 500..1000 {
        put(&two, n, 20_000);
        two.flush();
    }
    assert_eq!(two.get(&blob_id(1), BlobKind::Data), None, "after its writer has gone its segment goes as well");
}

#[test]
fn test_an_evicted_segment_is_a_miss_for_other_mounts() {
    let dir = TempDir::new().unwrap();
    let one = open(dir.path(), 64 * MIB);
    put(&one, 1, 1000);
    drop(one);
    let two = open(dir.path(), 64 * MIB);
    for (path, _) in files(dir.path()) {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(two.get(&blob_id(1), BlobKind::Data), None);
    assert_eq!((two.stats().blobs, two.stats().segments), (0, 0));
}

#[test]
fn test_a_killed_writers_segment_is_completed_once() {
    let dir = TempDir::new().unwrap();
    let live = open(dir.path(), MIB);
    for n in 0..5 {
        put(&live, n, 1000);
    }
    live.flush();
    let killed = image(dir.path());
    let [(_, before)] = files(killed.path()).try_into().unwrap();
    let cache = open(killed.path(), MIB);
    let [(_, after)] = files(killed.path()).try_into().unwrap();
    assert!(after.len() > before.len() && after.starts_with(&before));
    for n in 0..5 {
        assert_has(&cache, n, 1000);
    }
    // The living one's segment is left alone.
    let [(_, bytes)] = files(dir.path()).try_into().unwrap();
    drop(open(dir.path(), MIB));
    assert_eq!(files(dir.path())[0].1, bytes);
}

/// Where each record of a segment with these blobs ends.
fn record_ends(blobs: &[(u32, usize)]) -> Vec<usize> {
    let mut end = 64;
    blobs
        .iter()
        .map(|(_, len)| {
            end += 64 + 32 + len;
            end
        })
        .collect()
}

/// A process that is killed at any byte of what it writes leaves a cache that the next one uses.
#[test]
fn test_every_prefix_of_what_is_written_can_be_opened() {
    let dir = TempDir::new().unwrap();
    let blobs: Vec<_> = (0..6).map(|n| (n, 10 + 40 * n as usize)).collect();
    let cache = open(dir.path(), MIB);
    for (n, len) in &blobs {
        put(&cache, *n, *len);
    }
    drop(cache);
    let [(path, whole)] = files(dir.path()).try_into().unwrap();
    let name = path.file_name().unwrap();
    let ends = record_ends(&blobs);
    for cut in 0..=whole.len() {
        // What the file system had not written yet may be missing or zero.
        for zeros in [0, 100] {
            let killed = TempDir::new().unwrap();
            let mut bytes = whole[..cut].to_vec();
            bytes.resize(cut + zeros, 0);
            // A record that ends in zeros is whole before its last byte was written.
            let is_whole = |end: usize| bytes.get(..end) == whole.get(..end);
            std::fs::write(killed.path().join(name), &bytes).unwrap();
            let cache = open(killed.path(), MIB);
            for ((n, len), end) in blobs.iter().zip(&ends) {
                let found = cache.get(&blob_id(*n), BlobKind::Data);
                assert_eq!(found.is_some(), is_whole(*end), "blob {n} of {cut} bytes and {zeros} zeros");
                assert!(found.is_none_or(|found| decrypts(*n, *len, found)));
            }
            if cut % 16 == 0 {
                put(&cache, 99, 500);
                drop(cache);
                let cache = open(killed.path(), MIB);
                assert_has(&cache, 99, 500);
                assert_eq!(cache.stats().blobs, 1 + ends.iter().filter(|end| is_whole(**end)).count());
            }
        }
    }
}

/// Whatever bit is wrong, a blob that the cache returns is the right one or does not decrypt.
#[test]
fn test_every_flipped_bit_is_found() {
    let dir = TempDir::new().unwrap();
    let blobs: Vec<_> = (0..3).map(|n| (n, 10 + 40 * n as usize)).collect();
    let cache = open(dir.path(), MIB);
    for (n, len) in &blobs {
        put(&cache, *n, *len);
    }
    cache.flush();
    let incomplete = files(dir.path());
    drop(cache);
    let complete = files(dir.path());
    for [(path, whole)] in [incomplete, complete].map(|files| <[_; 1]>::try_from(files).unwrap()) {
        for bit in 0..whole.len() * 8 {
            if bit % 8 != (bit / 8) % 8 {
                continue;
            }
            let damaged = TempDir::new().unwrap();
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(damaged.path().join(path.file_name().unwrap()), bytes).unwrap();
            let cache = open(damaged.path(), MIB);
            for (n, len) in &blobs {
                if let Some(found) = cache.get(&blob_id(*n), BlobKind::Data)
                    && !decrypts(*n, *len, found)
                {
                    cache.remove(&blob_id(*n));
                    assert_eq!(cache.get(&blob_id(*n), BlobKind::Data), None);
                }
                put(&cache, *n, *len);
            }
            cache.flush();
            for (n, len) in &blobs {
                assert_has(&cache, *n, *len);
            }
        }
    }
}

#[test]
fn test_segment_names() {
    let name = SegmentName { sequence: 0x1f, id: [0xab; 12] };
    assert_eq!(name.to_string(), format!("000000000000001f-{}.blobs", "ab".repeat(12)));
    assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
    for bad in
        ["", "lock", ".blobs", "1-ab.blobs", &name.to_string().to_uppercase(), &format!("+{name}"), &format!("{name}x")]
    {
        assert_eq!(SegmentName::parse(bad), None, "{bad}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put { n: u32, len: usize, tree: bool },
    Get { n: u32 },
    Remove { n: u32 },
    Flush,
    Reopen,
    Kill,
    Switch,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_u32..200, 0_usize..30_000, any::<bool>()).prop_map(|(n, len, tree)| Step::Put { n, len, tree }),
        6 => (0_u32..200).prop_map(|n| Step::Get { n }),
        1 => (0_u32..200).prop_map(|n| Step::Remove { n }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        2 => Just(Step::Switch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Two mounts share a cache that is a twentieth of what goes through it, are closed and killed: every answer is
    /// right, what was put last is there, and the disk holds no more than it may.
    #[test]
    fn test_cache_equals_its_model(steps in proptest::collection::vec(step(), 1..200)) {
        let mut dir = TempDir::new().unwrap();
        let mut caches = [open(dir.path(), MIB), open(dir.path(), MIB)];
        let mut model: HashMap<(u32, bool), Vec<u8>> = HashMap::new();
        let mut last: Option<(u32, bool)> = None;
        let kind = |tree| if tree { BlobKind::Tree } else { BlobKind::Data };
        for step in steps {
            match step {
                Step::Put { n, len, tree } => {
                    // A blob's id says what it holds; its ciphertext is whatever it was sealed to first.
                    let sealed = model.entry((n, tree)).or_insert_with(|| master_key().seal(&plain(n, len)));
                    caches[0].put(&blob_id(n), kind(tree), sealed);
                    last = Some((n, tree));
                }
                Step::Get { n } => for tree in [false, true] {
                    if let Some(found) = caches[0].get(&blob_id(n), kind(tree)) {
                        prop_assert_eq!(Some(&found), model.get(&(n, tree)));
                    }
                },
                Step::Remove { n } => {
                    caches[0].flush();
                    caches[0].remove(&blob_id(n));
                    prop_assert_eq!(core(&caches[0]).state.lock().find(&blob_id(n), BlobKind::Data), None);
                    last = last.filter(|(last, _)| *last != n);
                }
                Step::Flush => {
                    caches[0].flush();
                    prop_assert!(disk_bytes(dir.path()) <= MIB, "{} bytes", disk_bytes(dir.path()));
                    if let Some((n, tree)) = last {
                        prop_assert_eq!(caches[0].get(&blob_id(n), kind(tree)), model.get(&(n, tree)).cloned());
                    }
                }
                Step::Reopen => {
                    caches[0] = DiskCache::disabled();
                    caches[0] = open(dir.path(), MIB);
                    if let Some((n, tree)) = last {
                        prop_assert_eq!(caches[0].get(&blob_id(n), kind(tree)), model.get(&(n, tree)).cloned());
                    }
                }
                Step::Kill => {
                    let killed = image(dir.path());
                    caches = [open(killed.path(), MIB), open(killed.path(), MIB)];
                    dir = killed;
                    last = None;
                }
                Step::Switch => {
                    caches[0].flush();
                    caches.swap(0, 1);
                    last = None;
                }
            }
        }
        prop_assert_eq!(caches[0].stats().dropped, 0);
    }
}
