use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::fake::{Fault, Reach, Setup, text, until};
use crate::blob::BlobKind;
use crate::error::RepoError;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_many_waiters_one_fetch() {
    let fixture = Setup::of(Reach::Network).build();
    let id = fixture.put(BlobKind::Data, &[(text(1, 500_000), true)])[0];
    fixture.store.close_gate();
    let readers: Vec<_> = (0..100)
        .map(|_| {
            let blobs = fixture.blobs.clone();
            tokio::spawn(async move { blobs.get(id, BlobKind::Data, usize::MAX).await.map(|blob| blob.len()) })
        })
        .collect();
    until("joining", || fixture.metrics.blob_joined.get() == 99).await;
    fixture.store.open_gate();
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap(), 500_000);
    }
    assert_eq!(fixture.store.count(), 1);
    assert_eq!(fixture.metrics.blob_fetches.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_reader_joins_a_prefetch_under_way() {
    let fixture = Setup::of(Reach::Network).build();
    let id = fixture.put(BlobKind::Data, &[(text(1, 500_000), true)])[0];
    fixture.store.close_gate();
    assert_eq!(fixture.blobs.prefetch(&[id], BlobKind::Data), 1);
    until("the download", || fixture.store.most_running.load(SeqCst) == 1).await;
    let reader = tokio::spawn({
        let blobs = fixture.blobs.clone();
        async move { blobs.get(id, BlobKind::Data, usize::MAX).await.map(|blob| blob.len()) }
    });
    until("joining", || fixture.metrics.blob_joined.get() == 1).await;
    fixture.store.open_gate();
    assert_eq!(reader.await.unwrap().unwrap(), 500_000);
    assert_eq!(fixture.store.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_reader_does_not_wait_behind_prefetches() {
    let fixture = Setup::of(Reach::Network).build();
    // One pack each, so that each is a download of its own; six of them may run ahead, the rest waits.
    let ids: Vec<_> = (0..10).map(|n| fixture.put(BlobKind::Data, &[(text(n, 500_000), true)])[0]).collect();
    fixture.store.close_gate();
    assert_eq!(fixture.blobs.prefetch(&ids, BlobKind::Data), 10);
    until("six downloads", || fixture.store.most_running.load(SeqCst) == 6).await;
    let reader = tokio::spawn({
        let (blobs, id) = (fixture.blobs.clone(), ids[9]);
        async move { blobs.get(id, BlobKind::Data, usize::MAX).await.map(|blob| blob.len()) }
    });
    until("the reader's download", || fixture.store.most_running.load(SeqCst) == 7).await;
    fixture.store.open_gate();
    assert_eq!(reader.await.unwrap().unwrap(), 500_000);
    until("the rest", || fixture.blobs.engine.flights.len() == 0).await;
    assert_eq!(fixture.store.count(), 10, "none was fetched twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_waiter_that_needs_more_than_the_flight_brings_gets_it() {
    let fixture = Setup::of(Reach::Async).build();
    let plain = text(1, 2 << 20);
    let id = fixture.put(BlobKind::Data, &[(plain.clone(), true)])[0];
    fixture.store.close_gate();
    let small = tokio::spawn({
        let blobs = fixture.blobs.clone();
        async move { blobs.get(id, BlobKind::Data, 10).await.map(|blob| blob.len()) }
    });
    until("the download", || fixture.store.most_running.load(SeqCst) == 1).await;
    let large = tokio::spawn({
        let blobs = fixture.blobs.clone();
        async move { blobs.get(id, BlobKind::Data, usize::MAX).await.map(|blob| blob.len()) }
    });
    until("joining", || fixture.metrics.blob_joined.get() == 1).await;
    fixture.store.open_gate();
    assert!(small.await.unwrap().unwrap() >= 10);
    assert_eq!(large.await.unwrap().unwrap(), plain.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_dropped_reader_leaves_the_flight_to_others() {
    let fixture = Setup::of(Reach::Network).build();
    let id = fixture.put(BlobKind::Data, &[(text(1, 500_000), true)])[0];
    fixture.store.close_gate();
    let first = tokio::spawn({
        let blobs = fixture.blobs.clone();
        async move { blobs.get(id, BlobKind::Data, usize::MAX).await.map(|blob| blob.len()) }
    });
    until("the download", || fixture.store.most_running.load(SeqCst) == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = tokio::spawn({
        let blobs = fixture.blobs.clone();
        async move { blobs.get(id, BlobKind::Data, usize::MAX).await.map(|blob| blob.len()) }
    });
    until("joining", || fixture.metrics.blob_joined.get() == 1).await;
    fixture.store.open_gate();
    assert_eq!(second.await.unwrap().unwrap(), 500_000);
    assert_eq!(fixture.store.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_no_request_outlives_the_deadline() {
    for reach in [Reach::Async, Reach::Network] {
        let fixture = Setup { deadline: Duration::from_millis(200), ..Setup::of(reach) }.build();
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let places = fixture.pack(kind, &[(text(kind as u64, 5000), true)]);
            fixture.learn(&places);
            let (id, location) = places[0];
            let ids = [id];
            fixture.store.fail_always(location.pack, Fault::Stall);
            let begun = std::time::Instant::now();
            let (one, many) = tokio::join!(fixture.blobs.get(id, kind, usize::MAX), fixture.blobs.get_many(&ids, kind));
            for result in std::iter::once(one).chain(many) {
                let error = result.unwrap_err();
                assert!(matches!(error, RepoError::Deadline { .. }), "{error}");
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "the waiters waited on");
            fixture.store.mend();
            until("the old flight's end", || fixture.blobs.engine.flights.len() == 0).await;
            assert_eq!(fixture.blobs.get(id, kind, usize::MAX).await.unwrap().len(), 5000);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_an_engine_goes_away_with_its_threads_and_memory() {
    let fixture = Setup::of(Reach::Disk).build();
    let id = fixture.put(BlobKind::Data, &[(text(1, 500_000), true)])[0];
    let blob = fixture.blobs.get(id, BlobKind::Data, usize::MAX).await.unwrap();
    let budget = fixture.blobs.engine.budget.clone();
    drop(fixture);
    assert!(budget.used_bytes() > 0, "the reader still holds it");
    drop(blob);
    // The thread that decoded it may hold the engine for a moment.
    until("all memory came back", || budget.used_bytes() == 0).await;
}
