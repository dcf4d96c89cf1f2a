use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::backend::{BackendError, BackendErrorKind, ListEntry, Retry};
use crate::error::RepoError;
use crate::format::index_file::IndexedBlob;
use crate::id::Id;

fn master_key(byte: u8) -> MasterKey {
    MasterKey::from_parts(&mut [byte; 64])
}

/// A repository's index files, as a table.
#[derive(Debug, Default)]
struct Source {
    files: Mutex<BTreeMap<IndexId, Vec<IndexedBlob>>>,
    /// These cannot be decoded: they fail after having given half of their blobs.
    broken: Mutex<HashSet<IndexId>>,
    /// The store does not answer for these.
    down: Mutex<HashSet<IndexId>>,
    /// These are longer than any index file may be.
    too_long: Mutex<HashSet<IndexId>>,
    fetches: AtomicUsize,
}

impl Source {
    fn put(&self, file: u32, blobs: Vec<IndexedBlob>) {
        self.files.lock().insert(file_id(file), blobs);
    }

    fn list(&self) -> Vec<ListEntry> {
        let files = self.files.lock();
        files.iter().map(|(id, blobs)| ListEntry { id: id.0, len_bytes: 45 * blobs.len() as u64 }).collect()
    }
}

#[async_trait]
impl IndexSource for Source {
    fn concurrency(&self) -> usize {
        3
    }

    async fn fetch(&self, id: IndexId) -> RepoResult<Bytes> {
        self.fetches.fetch_add(1, SeqCst);
        let error = |kind| BackendError {
            kind,
            retry: Retry::Permanent,
            operation: "read",
            target: id.to_string(),
            location: "here".to_owned(),
            message: "no".to_owned(),
        };
        if self.down.lock().contains(&id) {
            return Err(error(BackendErrorKind::Unavailable).into());
        }
        if self.too_long.lock().contains(&id) {
            return Err(error(BackendErrorKind::Corrupt).into());
        }
        if !self.files.lock().contains_key(&id) {
            return Err(error(BackendErrorKind::NotFound).into());
        }
        Ok(Bytes::new())
    }

    fn parse(&self, id: IndexId, _stored: Bytes, each: &mut dyn FnMut(IndexedBlob)) -> RepoResult<()> {
        let files = self.files.lock();
        let blobs = files.get(&id).cloned().unwrap_or_default();
        if self.broken.lock().contains(&id) {
            blobs[..blobs.len() / 2].iter().for_each(|blob| each(*blob));
            return Err(RepoError::Format { what: "index", id: id.0, reason: "broken".to_owned() });
        }
        blobs.into_iter().for_each(each);
        Ok(())
    }
}

fn file_id(n: u32) -> IndexId {
    IndexId(Id::hash(format!("file {n}").as_bytes()))
}

fn pack_id(n: u32) -> PackId {
    PackId(Id::hash(format!("pack {n}").as_bytes()))
}

fn blob_id(n: u32) -> BlobId {
    BlobId(Id::hash(format!("blob {n}").as_bytes()))
}

fn blob(n: u32, pack: u32) -> IndexedBlob {
    IndexedBlob {
        pack: pack_id(pack),
        id: blob_id(n),
        kind: if n.is_multiple_of(7) { BlobKind::Tree } else { BlobKind::Data },
        offset: n,
        len_bytes: 100 + n,
        uncompressed_bytes: n.is_multiple_of(2).then_some(200 + n),
    }
}

/// `count` blobs from number `first`, 50 to a pack.
fn blobs(first: u32, count: u32) -> Vec<IndexedBlob> {
    (first..first + count).map(|n| blob(n, n / 50)).collect()
}

fn location(blob: &IndexedBlob) -> BlobLocation {
    BlobLocation {
        pack: blob.pack,
        offset: blob.offset,
        len_bytes: blob.len_bytes,
        uncompressed_bytes: blob.uncompressed_bytes,
        kind: blob.kind,
    }
}

fn open(dir: &Path) -> Index {
    Index::open(Some(dir.to_owned()), &master_key(9), Arc::default())
}

fn refresh(index: &Index, source: &Arc<Source>) -> RepoResult<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(index.refresh(&source.list(), source.clone()))
}

/// Asserts that the index says exactly what the source's readable files say, and nothing of the numbers in `absent`.
fn assert_equal(index: &Index, source: &Source, absent: impl IntoIterator<Item = u32>) {
    let mut model: BTreeMap<BlobId, Vec<BlobLocation>> = BTreeMap::new();
    for (file, blobs) in source.files.lock().iter() {
        if !source.broken.lock().contains(file) && !source.down.lock().contains(file) {
            for blob in blobs {
                let places = model.entry(blob.id).or_default();
                if !places.contains(&location(blob)) {
                    places.push(location(blob));
                }
            }
        }
    }
    for (id, expected) in &model {
        let places = index.lookup_all(id).unwrap();
        assert_eq!(places.len(), expected.len(), "{id}");
        assert!(expected.iter().all(|place| places.contains(place)), "{id}: {places:?}, not {expected:?}");
        assert!(expected.contains(&index.lookup(id).unwrap().unwrap()));
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let found = index.lookup_kind(id, kind).unwrap();
            let of_kind: Vec<_> = expected.iter().filter(|place| place.kind == kind).collect();
            match found {
                Some(place) => {
                    assert!(of_kind.contains(&&place));
                    let plain = index.plain_bytes(id, kind).unwrap().unwrap();
                    assert!(of_kind.iter().any(|place| place.plain_bytes() == plain));
                }
                None => assert!(of_kind.is_empty(), "{id} {kind:?}"),
            }
        }
    }
    for n in absent {
        if !model.contains_key(&blob_id(n)) {
            assert_eq!(index.lookup(&blob_id(n)).unwrap(), None);
            assert!(index.lookup_all(&blob_id(n)).unwrap().is_empty());
            assert_eq!(index.plain_bytes(&blob_id(n), BlobKind::Data).unwrap(), None);
        }
    }
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "idx"));
    paths.sort();
    paths
}

#[test]
fn test_refresh_builds_and_reopens_without_fetching() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    for file in 0..5 {
        source.put(file, blobs(file * 1000, 1000));
    }
    let index = open(dir.path());
    assert_eq!(index.lookup(&blob_id(1)).unwrap(), None);
    assert!(refresh(&index, &source).unwrap());
    assert_equal(&index, &source, 5000..5200);
    assert!(!refresh(&index, &source).unwrap(), "nothing is new");
    assert_eq!(source.fetches.load(SeqCst), 5);

    let again = open(dir.path());
    assert_equal(&again, &source, 5000..5200);
    assert!(!refresh(&again, &source).unwrap());
    assert_eq!(source.fetches.load(SeqCst), 5, "all came from the directory");
    let stats = again.stats();
    assert_eq!((stats.segments, stats.segments_in_memory, stats.index_files, stats.blobs), (1, 0, 5, 5000));
}

#[test]
fn test_refresh_takes_in_new_files_and_keeps_few_segments() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    let index = open(dir.path());
    for file in 0..60 {
        source.put(file, blobs(file * 100, 100));
        assert!(refresh(&index, &source).unwrap());
    }
    assert_equal(&index, &source, 6000..6100);
    assert_eq!(source.fetches.load(SeqCst), 60, "each file is fetched once");
    assert!(index.stats().segments <= 4, "{:?}", index.stats());
    assert_eq!(segment_files(dir.path()).len(), index.stats().segments, "superseded files are removed");
}

#[test]
fn test_refresh_drops_what_a_prune_removed_without_fetching_the_rest() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    for file in 0..4 {
        source.put(file, blobs(file * 500, 500));
    }
    let index = open(dir.path());
    refresh(&index, &source).unwrap();
    source.files.lock().remove(&file_id(1));
    source.files.lock().remove(&file_id(2));
    source.put(9, blobs(600, 100));
    assert!(refresh(&index, &source).unwrap());
    assert_equal(&index, &source, 500..1500);
    assert_eq!(source.fetches.load(SeqCst), 5);
    source.files.lock().clear();
    source.put(10, Vec::new());
    assert!(refresh(&index, &source).unwrap());
    assert_equal(&index, &source, 0..2000);
    assert_eq!(index.stats().blobs, 0);
}

#[test]
fn test_an_empty_list_empties_nothing() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    source.put(1, blobs(0, 100));
    let index = open(dir.path());
    refresh(&index, &source).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(!runtime.block_on(index.refresh(&[], source.clone())).unwrap());
    assert_equal(&index, &source, []);
    assert_eq!(segment_files(dir.path()).len(), 1);
}

/// A caller with a deadline may drop a refresh at any of its waits; the next one does the work.
#[test]
fn test_a_dropped_refresh_leaves_nothing_half_done() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    for file in 0..4 {
        source.put(file, blobs(file * 100, 100));
    }
    let index = open(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for polls in 1..12 {
        runtime.block_on(async {
            let listed = source.list();
            let mut refresh = std::pin::pin!(index.refresh(&listed, source.clone()));
            for _ in 0..polls {
                if futures::poll!(refresh.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        });
        assert!([0, 400].contains(&index.stats().blobs));
    }
    refresh(&index, &source).unwrap();
    assert_equal(&index, &source, 400..410);
}

/// A segment of version 2, byte for byte: a change of what is written is a change of the format, and gets a new version
/// with its own file beside this one.
#[test]
fn test_golden_segment_of_version_2() {
    let key = SealKey::derive(&master_key(9), Purpose::IndexPage);
    let mut build = build::Build::new(None, &key);
    for (file, first) in [(1, 0), (2, 100)] {
        let added = build.add_file(file_id(file), |each| {
            blobs(first, 60).into_iter().for_each(each);
            Ok(())
        });
        added.unwrap().unwrap();
    }
    let written = build.finish_as([0x11; 12]).unwrap();
    let Storage::Memory(bytes) = &written else { panic!("no directory was given") };
    let golden = include_bytes!("../../testdata/index-v2.idx");
    if bytes[..] != golden[..] {
        let path = std::env::temp_dir().join("index-v2.idx");
        std::fs::write(&path, bytes).unwrap();
        panic!("what is written now, see {}, is not version 2", path.display());
    }
    let segment = Segment::open(Storage::Memory(golden.to_vec()), None, &key).unwrap();
    assert_eq!(segment.files, [file_id(1), file_id(2)]);
    for blob in blobs(0, 60).iter().chain(&blobs(100, 60)) {
        let record = segment.find(&blob.id, blob.kind).unwrap().unwrap();
        assert_eq!(segment.locate(&record).unwrap(), location(blob));
    }
    let len_bytes = |blob: &IndexedBlob| u64::from(blob.len_bytes);
    let stored_bytes: u64 = blobs(0, 60).iter().chain(&blobs(100, 60)).map(len_bytes).sum();
    assert_eq!(segment.header.counts.stored_bytes, stored_bytes);

    let old = include_bytes!("../../testdata/index-v1.idx");
    let refused = Segment::open(Storage::Memory(old.to_vec()), None, &key).unwrap_err();
    assert!(matches!(refused, SegmentError::Page(PageError::Version(1))), "{refused}");
}

#[test]
fn test_lookup_tells_data_and_trees_of_one_id_apart() {
    let source = Arc::new(Source::default());
    let data = IndexedBlob { kind: BlobKind::Data, ..blob(1, 1) };
    let tree = IndexedBlob { kind: BlobKind::Tree, len_bytes: 77, uncompressed_bytes: None, ..blob(1, 2) };
    source.put(1, vec![data]);
    source.put(2, vec![tree]);
    source.put(3, vec![IndexedBlob { kind: BlobKind::Tree, ..blob(2, 3) }]);
    let index = Index::open(None, &master_key(9), Arc::default());
    refresh(&index, &source).unwrap();
    assert_equal(&index, &source, []);
    assert_eq!(index.lookup_kind(&blob_id(1), BlobKind::Data).unwrap(), Some(location(&data)));
    assert_eq!(index.lookup_kind(&blob_id(1), BlobKind::Tree).unwrap(), Some(location(&tree)));
    assert_eq!(index.lookup_kind(&blob_id(2), BlobKind::Data).unwrap(), None);
    assert_eq!(index.lookup(&blob_id(2)).unwrap().unwrap().kind, BlobKind::Tree);
}

#[test]
fn test_lookup_bears_ids_that_were_chosen_to_collide() {
    // All ids begin with the same 8 bytes, thus all pages have the same fence; one blob has thousands of places.
    let source = Arc::new(Source::default());
    let hostile = |n: u32| {
        let mut id = [0xee; 32];
        id[28..].copy_from_slice(&n.to_be_bytes());
        IndexedBlob { id: BlobId(Id::new(id)), ..blob(n, n / 100) }
    };
    source.put(1, (0..4000).map(hostile).collect());
    source.put(2, (0..4000).map(|n| IndexedBlob { offset: n, ..hostile(1000) }).collect());
    let index = Index::open(None, &master_key(9), Arc::default());
    refresh(&index, &source).unwrap();
    for n in (0..4000).filter(|n| *n != 1000) {
        let blob = hostile(n);
        assert_eq!(index.lookup_kind(&blob.id, blob.kind).unwrap(), Some(location(&blob)), "{n}");
        assert_eq!(index.lookup(&blob.id).unwrap(), Some(location(&blob)), "{n}");
    }
    assert_eq!(index.lookup(&hostile(4000).id).unwrap(), None);
    let places = index.lookup_all(&hostile(1000).id).unwrap();
    assert_eq!(places.len(), 64, "bounded");
}

#[test]
fn test_unreadable_index_files_are_left_out_whole() {
    let source = Arc::new(Source::default());
    source.put(1, blobs(0, 300));
    source.put(2, blobs(1000, 300));
    source.put(3, Vec::new());
    source.broken.lock().insert(file_id(2));
    source.too_long.lock().insert(file_id(3));
    let index = Index::open(None, &master_key(9), Arc::default());
    assert!(refresh(&index, &source).unwrap());
    assert_equal(&index, &source, 1000..1300);
    let unreadable: HashSet<_> = index.unreadable().into_iter().collect();
    assert_eq!(unreadable, HashSet::from([file_id(2), file_id(3)]));
    assert!(!refresh(&index, &source).unwrap(), "they are not fetched again");
    assert_eq!(source.fetches.load(SeqCst), 3);
    source.files.lock().remove(&file_id(3));
    assert!(!refresh(&index, &source).unwrap());
    assert_eq!(index.unreadable(), [file_id(2)], "what is gone is forgotten");
}

#[test]
fn test_a_failing_store_keeps_what_was_fetched() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    for file in 0..8 {
        source.put(file, blobs(file * 100, 100));
    }
    let last = IndexId(source.list()[7].id);
    source.down.lock().insert(last);
    let index = open(dir.path());
    let error = refresh(&index, &source).unwrap_err();
    assert!(matches!(error, RepoError::Backend(_)), "{error}");
    let kept = index.stats().index_files;
    assert!(kept >= 5, "{kept} were done when the last one failed");
    source.down.lock().clear();
    assert!(refresh(&index, &source).unwrap());
    assert_equal(&index, &source, []);
    assert_eq!(source.fetches.load(SeqCst), 8 + 8 - kept);
}

#[test]
fn test_a_file_that_a_prune_removes_meanwhile_is_left_out() {
    let source = Arc::new(Source::default());
    source.put(1, blobs(0, 10));
    let mut listed = source.list();
    listed.push(ListEntry { id: Id::hash(b"gone"), len_bytes: 10 });
    let index = Index::open(None, &master_key(9), Arc::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(runtime.block_on(index.refresh(&listed, source.clone())).unwrap());
    assert_equal(&index, &source, []);
}

#[test]
fn test_a_damaged_page_is_an_error_once_and_then_healed() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    source.put(1, blobs(0, 500));
    let metrics = Arc::new(Metrics::default());
    let index = Index::open(Some(dir.path().to_owned()), &master_key(9), metrics.clone());
    refresh(&index, &source).unwrap();
    let [path] = segment_files(dir.path()).try_into().unwrap();
    let layout = index.shared.segments()[0].layout;
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for page in layout.packs..layout.fences {
        file.write_all_at(b"damage", u64::from(page) * 4096 + 100).unwrap();
    }
    for n in 0..500 {
        let error = index.lookup(&blob_id(n)).unwrap_err();
        assert!(error.to_string().contains(".idx"), "names the file: {error}");
        index.lookup_all(&blob_id(n)).unwrap_err();
    }
    assert_eq!(metrics.cache_damage.get(), 1);
    assert!(refresh(&index, &source).unwrap());
    assert_equal(&index, &source, 500..510);
    assert_eq!(source.fetches.load(SeqCst), 2);
    assert!(!path.exists());
}

#[test]
fn test_a_damaged_segment_that_is_being_merged_is_loaded_anew() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    source.put(1, blobs(0, 500));
    let index = open(dir.path());
    refresh(&index, &source).unwrap();
    let [path] = segment_files(dir.path()).try_into().unwrap();
    let page = index.shared.segments()[0].layout.records;
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"damage", u64::from(page) * 4096 + 7).unwrap();
    source.put(2, blobs(1000, 500));
    assert!(refresh(&index, &source).unwrap());
    assert_equal(&index, &source, []);
    assert_eq!(index.stats().segments, 1);
}

/// Every byte of a segment is sealed: whatever is flipped or cut, an index opened on it gives right answers or none.
#[test]
fn test_damage_anywhere_never_gives_a_wrong_answer() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    source.put(1, blobs(0, 400));
    refresh(&open(dir.path()), &source).unwrap();
    let [path] = segment_files(dir.path()).try_into().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let mut images: Vec<Vec<u8>> = (0..whole.len()).step_by(509).map(|at| flipped(&whole, at)).collect();
    images.extend((0..whole.len()).step_by(1021).map(|len| whole[..len].to_vec()));
    images.push([&whole[..], &[0; 4096]].concat());
    // Pages exchanged, each of them with a right seal.
    let pages = whole.len() / 4096;
    for page in 1..pages {
        let mut image = whole.clone();
        image[page * 4096..][..4096].copy_from_slice(&whole[(page % (pages - 1) + 1) * 4096..][..4096]);
        images.push(image);
    }
    for (number, image) in images.iter().enumerate() {
        std::fs::write(&path, image).unwrap();
        let metrics = Arc::new(Metrics::default());
        let index = Index::open(Some(dir.path().to_owned()), &master_key(9), metrics.clone());
        for blob in source.files.lock()[&file_id(1)].iter().step_by(7) {
            match index.lookup_kind(&blob.id, blob.kind) {
                Ok(Some(found)) => assert_eq!(found, location(blob), "image {number}"),
                Ok(None) => assert_eq!(index.stats().segments, 0, "image {number}"),
                Err(_) => assert_eq!(metrics.cache_damage.get(), 1),
            }
        }
        refresh(&index, &source).unwrap();
        for blob in source.files.lock()[&file_id(1)].iter().step_by(7) {
            // A page that no lookup had touched may be the damaged one: then this is an error, and the next refresh heals.
            if index.lookup_kind(&blob.id, blob.kind).is_err() {
                refresh(&index, &source).unwrap();
            }
            assert_eq!(index.lookup_kind(&blob.id, blob.kind).unwrap(), Some(location(blob)), "image {number}");
        }
        drop(index);
        for path in segment_files(dir.path()) {
            std::fs::remove_file(path).unwrap();
        }
    }
}

fn flipped(whole: &[u8], at: usize) -> Vec<u8> {
    let mut image = whole.to_vec();
    image[at] ^= 1 << (at % 8);
    image
}

#[test]
fn test_another_repositorys_segment_is_not_taken() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    source.put(1, blobs(0, 10));
    refresh(&open(dir.path()), &source).unwrap();
    let other = Index::open(Some(dir.path().to_owned()), &master_key(1), Arc::default());
    assert_eq!(other.stats(), IndexStats::default());
}

#[test]
fn test_other_versions_are_left_alone() {
    for version in [1, 3] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("other.idx");
        let mut page = vec![0; 4096];
        page[..8].copy_from_slice(b"STASHIDX");
        page[11] = version;
        std::fs::write(&path, &page).unwrap();
        let metrics = Arc::new(Metrics::default());
        let index = Index::open(Some(dir.path().to_owned()), &master_key(9), metrics.clone());
        assert_eq!((index.stats().segments, metrics.cache_damage.get()), (0, 0));
        assert!(path.exists());
    }
}

#[test]
fn test_a_directory_that_cannot_be_used_means_memory() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let source = Arc::new(Source::default());
    source.put(1, blobs(0, 500));
    for path in [None, Some(file), Some(PathBuf::from("/proc/no-such-directory/index"))] {
        let index = Index::open(path, &master_key(9), Arc::default());
        assert!(refresh(&index, &source).unwrap());
        assert_equal(&index, &source, []);
        assert_eq!(index.stats().segments_in_memory, 1);
    }
}

#[test]
fn test_a_directory_that_vanishes_means_memory() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    source.put(1, blobs(0, 500));
    let index = open(&dir.path().join("index"));
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    assert!(refresh(&index, &source).unwrap());
    assert_equal(&index, &source, []);
    assert_eq!(index.stats().segments_in_memory, 1);
}

#[test]
fn test_leftovers_of_killed_processes_are_removed_and_live_ones_are_not() {
    let dir = TempDir::new().unwrap();
    let store = Dir::create(dir.path().to_owned()).unwrap();
    let live = store.create_temp().unwrap();
    std::fs::write(dir.path().join("tmp-0123456789abcdef"), "left").unwrap();
    drop(open(dir.path()));
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    drop(live);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn test_two_processes_share_what_either_builds() {
    let dir = TempDir::new().unwrap();
    let source = Arc::new(Source::default());
    source.put(1, blobs(0, 500));
    let (one, two) = (open(dir.path()), open(dir.path()));
    refresh(&one, &source).unwrap();
    assert!(refresh(&two, &source).unwrap(), "it finds what the first has built");
    assert_eq!(source.fetches.load(SeqCst), 1);
    assert_equal(&two, &source, []);
    // The first supersedes a segment that the second reads.
    source.put(2, blobs(1000, 500));
    refresh(&one, &source).unwrap();
    assert_eq!(two.lookup(&blob_id(3)).unwrap(), Some(location(&blob(3, 0))));
    refresh(&two, &source).unwrap();
    assert_equal(&two, &source, []);
    assert_eq!(source.fetches.load(SeqCst), 2);
    // Both at once.
    source.put(3, blobs(2000, 500));
    std::thread::scope(|scope| {
        scope.spawn(|| refresh(&one, &source).unwrap());
        scope.spawn(|| refresh(&two, &source).unwrap());
    });
    let three = open(dir.path());
    refresh(&three, &source).unwrap();
    for index in [&one, &two, &three] {
        assert_equal(index, &source, 3000..3010);
    }
}

#[test]
fn test_many_runs_and_segments_merge_into_one_order() {
    let dir = TempDir::new().unwrap();
    let store = Dir::create(dir.path().to_owned()).unwrap();
    let key = SealKey::derive(&master_key(9), Purpose::IndexPage);
    let mut merged = Vec::new();
    for round in 0..3 {
        let mut build = build::Build::new(Some(store.clone()), &key).with_run_records(100);
        for segment in merged.drain(..) {
            build.merge(segment, &[true, false, true, true, true]).unwrap();
        }
        for file in 0..5 {
            let first = round * 10_000 + file * 1_000;
            let added = build.add_file(file_id(first), |each| {
                blobs(first, 333).into_iter().for_each(each);
                Ok(())
            });
            added.unwrap().unwrap();
        }
        merged.push(Arc::new(build.finish().unwrap().unwrap()));
    }
    let segment = &merged[0];
    // The second of the ten files of round two was dropped in round three, and so was all that it called the sixth on.
    let mut cursor = segment::Cursor::new(segment);
    let mut last = None;
    let mut count = 0;
    while let Some(record) = cursor.next().unwrap() {
        assert!(last < Some(record), "sorted");
        last = Some(record);
        count += 1;
    }
    assert_eq!(count, segment.blobs());
    assert_eq!(segment.blobs(), 333 * segment.files.len() as u64);
}

#[derive(Debug, Clone)]
enum Step {
    Add { file: u32, first: u32, count: u32, pack: u32 },
    Remove { file: u32 },
    Refresh,
    Reopen,
    Damage { segment: usize, at: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u32..12, 0_u32..300, 0_u32..300, 0_u32..4)
            .prop_map(|(file, first, count, pack)| Step::Add { file, first, count, pack }),
        2 => (0_u32..12).prop_map(|file| Step::Remove { file }),
        3 => Just(Step::Refresh),
        1 => Just(Step::Reopen),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(segment, at)| Step::Damage { segment, at }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is added, removed, damaged and reopened: after a refresh the index says what the index files say.
    #[test]
    fn test_index_equals_its_model(steps in proptest::collection::vec(step(), 1..24)) {
        let dir = TempDir::new().unwrap();
        let source = Arc::new(Source::default());
        let mut index = open(dir.path());
        let mut version = 0;
        for step in steps {
            match step {
                Step::Add { file, first, count, pack } => {
                    // Files never change: another content is another file.
                    version += 1;
                    let blobs = (first..first + count).map(|n| blob(n, pack * 10 + n / 50)).collect();
                    source.put(file + 100 * version, blobs);
                }
                Step::Remove { file } => source.files.lock().retain(|id, _| (0..=version).all(|v| *id != file_id(file + 100 * v))),
                Step::Refresh => {
                    refresh(&index, &source).unwrap();
                    // Damage shows when a page is read; a second refresh heals it.
                    let damaged = (0..600).any(|n| index.lookup_all(&blob_id(n)).is_err());
                    let segments = index.shared.segments();
                    if damaged || segments.iter().any(|segment| segment.is_damaged()) {
                        refresh(&index, &source).unwrap();
                    }
                    // An empty list empties nothing.
                    if !source.list().is_empty() {
                        assert_equal(&index, &source, 0..600);
                    }
                }
                Step::Reopen => index = open(dir.path()),
                Step::Damage { segment, at } => {
                    let files = segment_files(dir.path());
                    if !files.is_empty() {
                        let path = &files[segment % files.len()];
                        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
                        let at = at % file.metadata().unwrap().len();
                        let mut byte = [0];
                        file.read_exact_at(&mut byte, at).unwrap();
                        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
                    }
                }
            }
        }
    }
}
