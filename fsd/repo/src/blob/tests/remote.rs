use std::collections::HashMap;

use super::fake::{Fixture, Reach, Setup, text, until};
use crate::blob::BlobKind;
use crate::id::BlobId;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_get_many_asks_once_for_neighbours() {
    let fixture = Setup::of(Reach::Network).build();
    let blobs: Vec<_> = (0..100).map(|n| (text(n, 20_000), n % 2 == 0)).collect();
    let ids = fixture.put(BlobKind::Data, &blobs);
    let many = fixture.blobs.get_many(&ids, BlobKind::Data).await;
    assert!(many.iter().zip(&blobs).all(|(blob, (plain, _))| blob.as_ref().unwrap()[..] == plain[..]));
    assert_eq!(fixture.store.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_downloads_run_side_by_side() {
    let fixture = Setup::of(Reach::Network).build();
    let ids: Vec<_> = (0..4).flat_map(|n| fixture.put(BlobKind::Data, &[(text(n, 100_000), true)])).collect();
    fixture.store.close_gate();
    let reader = tokio::spawn({
        let blobs = fixture.blobs.clone();
        async move { blobs.get_many(&ids, BlobKind::Data).await.into_iter().filter(Result::is_ok).count() }
    });
    until("four downloads", || fixture.store.most_running.load(std::sync::atomic::Ordering::SeqCst) == 4).await;
    fixture.store.open_gate();
    assert_eq!(reader.await.unwrap(), 4);
}

/// Directories as restic writes them: each after those below it. Returns the root and the children of each.
fn tree_packs(fixture: &Fixture, fan: usize, depth: usize) -> (BlobId, HashMap<BlobId, Vec<BlobId>>) {
    /// As large as restic 0.14's packs.
    const PACK_BYTES: usize = 4 << 20;
    struct Writer<'a> {
        fixture: &'a Fixture,
        pending: Vec<(Vec<u8>, bool)>,
        bytes: usize,
        children: HashMap<BlobId, Vec<BlobId>>,
        next: u64,
    }
    impl Writer<'_> {
        fn write(&mut self, fan: usize, depth: usize) -> BlobId {
            let below: Vec<_> =
                if depth == 0 { Vec::new() } else { (0..fan).map(|_| self.write(fan, depth - 1)).collect() };
            self.next += 1;
            let plain = text(self.next, 4000);
            let id = BlobId(crate::id::Id::hash(&plain));
            self.pending.push((plain, true));
            self.bytes += 1500;
            if self.bytes > PACK_BYTES {
                self.flush();
            }
            self.children.insert(id, below);
            id
        }

        fn flush(&mut self) {
            self.fixture.put(BlobKind::Tree, &std::mem::take(&mut self.pending));
            self.bytes = 0;
        }
    }
    let mut writer = Writer { fixture, pending: Vec::new(), bytes: 0, children: HashMap::new(), next: 0 };
    let root = writer.write(fan, depth);
    writer.flush();
    (root, writer.children)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_walk_over_directories_costs_few_requests() {
    for ahead in [true, false] {
        let fixture = Setup::of(Reach::Network).build();
        let (root, children) = tree_packs(&fixture, 16, 3);
        assert!(children.len() > 4000);
        let mut stack = vec![root];
        let mut seen = 0;
        while let Some(id) = stack.pop() {
            fixture.blobs.get(id, BlobKind::Tree, usize::MAX).await.unwrap();
            seen += 1;
            if ahead {
                fixture.blobs.prefetch(&children[&id], BlobKind::Tree);
            }
            stack.extend(children[&id].iter().rev());
        }
        assert_eq!(seen, children.len());
        let reads = fixture.store.count();
        assert!(reads <= if ahead { 16 } else { 40 }, "ahead {ahead}: {reads} requests for {seen} directories");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_one_directory_does_not_cost_a_whole_pack() {
    let fixture = Setup::of(Reach::Network).build();
    let blobs: Vec<_> = (0..4000).map(|n| (text(n, 4000), true)).collect();
    let ids = fixture.put(BlobKind::Tree, &blobs);
    fixture.blobs.get(ids[3000], BlobKind::Tree, usize::MAX).await.unwrap();
    let reads = fixture.store.reads.lock().clone();
    assert_eq!(reads.len(), 1);
    assert!(reads[0].1.end - reads[0].1.start <= 1 << 20, "{reads:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_readers_of_one_neighbourhood_share_its_download() {
    let fixture = Setup::of(Reach::Network).build();
    let ids = fixture.put(BlobKind::Tree, &(0..50).map(|n| (text(n, 4000), true)).collect::<Vec<_>>());
    // The index is asked about the last one first, so that the pack's end is known.
    fixture.store.close_gate();
    let readers: Vec<_> = ids
        .iter()
        .rev()
        .map(|&id| {
            let blobs = fixture.blobs.clone();
            tokio::spawn(async move { blobs.get(id, BlobKind::Tree, usize::MAX).await.is_ok() })
        })
        .collect();
    let (store, windows) = (&fixture.store, &fixture.blobs.engine.windows);
    until("fifty that wait", || store.running() + windows.waiting() == ids.len()).await;
    fixture.store.open_gate();
    for reader in readers {
        assert!(reader.await.unwrap());
    }
    assert!(fixture.store.count() <= 3, "{:?}", fixture.store.reads.lock());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_the_disk_cache_serves_the_next_engine() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Setup::of(Reach::Network).build_over(Some(dir.path()));
    let data: Vec<_> = (0..20u16).map(|n| (text(n.into(), 100_000 + usize::from(n)), n % 2 == 0)).collect();
    let trees: Vec<_> = (20..30).map(|n| (text(n, 3000), true)).collect();
    let (data_ids, tree_ids) = (fixture.put(BlobKind::Data, &data), fixture.put(BlobKind::Tree, &trees));
    for (ids, kind) in [(&data_ids, BlobKind::Data), (&tree_ids, BlobKind::Tree)] {
        assert!(fixture.blobs.get_many(ids, kind).await.iter().all(Result::is_ok));
    }
    let reads = fixture.store.count();
    let fixture = fixture.restart(dir.path()).await;
    for (ids, kind, blobs) in [(&data_ids, BlobKind::Data, &data), (&tree_ids, BlobKind::Tree, &trees)] {
        for (id, (plain, _)) in ids.iter().zip(blobs) {
            assert!(fixture.blobs.get(*id, kind, usize::MAX).await.unwrap()[..] == plain[..]);
        }
    }
    assert_eq!(fixture.store.count(), reads, "nothing came over the network");
    assert_eq!(fixture.metrics.blob_disk_hits.get(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_damage_in_the_disk_cache_is_healed_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Setup::of(Reach::Network).build_over(Some(dir.path()));
    let plain = text(1, 1 << 20);
    let id = fixture.put(BlobKind::Data, &[(plain.clone(), true)])[0];
    fixture.blobs.get(id, BlobKind::Data, usize::MAX).await.unwrap();
    let fixture = fixture.restart(dir.path()).await;
    let mut flipped = 0;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.len() > 100_000 {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    assert!(fixture.blobs.get(id, BlobKind::Data, usize::MAX).await.unwrap()[..] == plain[..]);
    assert_eq!((fixture.metrics.heals.get(), fixture.metrics.blobs_lost.get()), (1, 0));
    assert_eq!(fixture.metrics.cache_damage.get(), 1);
    // What came from the store took its place.
    let fixture = fixture.restart(dir.path()).await;
    let reads = fixture.store.count();
    assert!(fixture.blobs.get(id, BlobKind::Data, usize::MAX).await.unwrap()[..] == plain[..]);
    assert_eq!(fixture.store.count(), reads);
}
