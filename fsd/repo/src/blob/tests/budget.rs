use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use super::fake::{Reach, Setup, text, until};
use crate::blob::BlobKind;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_two_hundred_readers_stay_inside_the_budget() {
    for reach in [Reach::Disk, Reach::Network] {
        let fixture = Setup { memory_bytes: 32 << 20, ..Setup::of(reach) }.build();
        let ids: Arc<Vec<_>> = Arc::new(
            (0..60_u64)
                .flat_map(|n| {
                    let size = [500, 30_000, 700_000, 1 << 20, 3 << 20][(n % 5) as usize];
                    fixture.put(BlobKind::Data, &[(text(n, size), n % 2 == 0)])
                })
                .collect(),
        );
        let limit_bytes = fixture.blobs.engine.budget.limit_bytes();
        assert_eq!(limit_bytes, 32 << 20);
        let (most, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let watch = std::thread::spawn({
            let (most, stop) = (most.clone(), stop.clone());
            let budget = fixture.blobs.engine.budget.clone();
            move || {
                while !stop.load(SeqCst) {
                    most.fetch_max(budget.used_bytes(), SeqCst);
                    std::thread::yield_now();
                }
            }
        });
        let readers: Vec<_> = (0..200_usize)
            .map(|reader| {
                let (blobs, ids) = (fixture.blobs.clone(), ids.clone());
                tokio::spawn(async move {
                    for turn in 0..6 {
                        let place = (reader * 31 + turn * 17) % ids.len();
                        let upto = if turn % 2 == 0 { usize::MAX } else { 1000 };
                        let blob = blobs.get(ids[place], BlobKind::Data, upto).await.unwrap();
                        assert!(!blob.is_empty());
                        if turn == 3 {
                            blobs.prefetch(&ids[place..], BlobKind::Data);
                        }
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.await.unwrap();
        }
        stop.store(true, SeqCst);
        watch.join().unwrap();
        let most = most.load(SeqCst);
        assert!(most <= limit_bytes, "{reach:?}: {most} of {limit_bytes}");
        assert!(most > limit_bytes / 2, "{reach:?}: the test does not press, {most} of {limit_bytes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_readers_that_hold_one_blob_and_wait_for_another_all_get_on() {
    let fixture = Setup { memory_bytes: 0, ..Setup::of(Reach::Disk) }.build();
    // Forty times 2 x 2 MiB against 24 MiB.
    let ids: Vec<_> = (0..80).flat_map(|n| fixture.put(BlobKind::Data, &[(text(n, 2 << 20), true)])).collect();
    let barrier = Arc::new(tokio::sync::Barrier::new(8));
    let readers: Vec<_> = ids
        .chunks(2)
        .map(|pair| {
            let (blobs, pair, barrier) = (fixture.blobs.clone(), pair.to_vec(), barrier.clone());
            tokio::spawn(async move {
                let first = blobs.get(pair[0], BlobKind::Data, usize::MAX).await.unwrap();
                // Eight at a time hold their first.
                barrier.wait().await;
                let second = blobs.get(pair[1], BlobKind::Data, usize::MAX).await.unwrap();
                first.len() + second.len()
            })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 4 << 20);
    }
    until("quiet", || fixture.blobs.engine.flights.len() == 0).await;
    assert!(fixture.budget_used() <= fixture.blobs.engine.budget.limit_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_prefetch_takes_from_the_front_what_there_is_room_for() {
    for reach in [Reach::Disk, Reach::Network] {
        let fixture = Setup { memory_bytes: 32 << 20, ..Setup::of(reach) }.build();
        let ids = fixture.put(BlobKind::Data, &(0..32).map(|n| (text(n, 1 << 20), true)).collect::<Vec<_>>());
        let taken = fixture.blobs.prefetch(&ids, BlobKind::Data);
        assert!((3..=12).contains(&taken), "{reach:?}: {taken}");
        until("fetched", || fixture.blobs.engine.flights.len() == 0).await;
        for id in &ids[..taken] {
            assert!(fixture.blobs.engine.memory.get(id, BlobKind::Data, usize::MAX).is_some(), "{reach:?}");
        }
        // What is there counts as taken on, but while it lies unread no more is.
        assert!(fixture.blobs.prefetch(&ids, BlobKind::Data) <= 12);
        until("fetched", || fixture.blobs.engine.flights.len() == 0).await;
        for id in &ids[..taken] {
            assert!(fixture.blobs.try_get(id, usize::MAX).is_some());
        }
        assert!(fixture.blobs.prefetch(&ids[taken..], BlobKind::Data) > 0, "{reach:?}: reading makes room");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_prefetch_of_what_is_lost_neither_fails_nor_waits() {
    let fixture = Setup::of(Reach::Network).build();
    let lost = crate::id::BlobId(crate::id::Id::hash(b"lost"));
    assert_eq!(fixture.blobs.prefetch(&[lost], BlobKind::Data), 1);
    assert_eq!(fixture.blobs.engine.flights.len(), 0);
    assert!(fixture.blobs.get(lost, BlobKind::Data, usize::MAX).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_what_a_reader_lets_go_of_is_free() {
    for reach in [Reach::Disk, Reach::Network] {
        let fixture = Setup { memory_bytes: 32 << 20, ..Setup::of(reach) }.build();
        let contents: Vec<_> = (0..8).map(|n| (text(n, 1 << 20), true)).collect();
        let ids = fixture.put(BlobKind::Data, &contents);
        for id in &ids {
            drop(fixture.blobs.get(*id, BlobKind::Data, usize::MAX).await.unwrap());
        }
        let budget = &fixture.blobs.engine.budget;
        until("the work is paid", || budget.used_bytes() == 8 << 20).await;
        let held = fixture.blobs.try_get(&ids[1], usize::MAX).unwrap();
        fixture.blobs.let_go(&ids[..4], BlobKind::Data);
        // One of the four is held by its reader. Who decoded the last may let go of it a moment later.
        until("the others are free", || budget.used_bytes() == 5 << 20).await;
        for (place, id) in ids.iter().enumerate() {
            assert_eq!(fixture.blobs.try_get(id, usize::MAX).is_some(), place >= 4, "{reach:?} {place}");
        }
        assert!(held[..] == contents[1].0[..], "{reach:?}: a reader keeps what it holds");
        let again = fixture.blobs.get(ids[0], BlobKind::Data, usize::MAX).await.unwrap();
        assert!(again[..] == contents[0].0[..], "{reach:?}: and it can be had again");
    }
}
