//! What is downloaded for a long reader and stays sealed until it is near.

use std::sync::atomic::Ordering::SeqCst;

use super::fake::{Fault, Fixture, Reach, Setup, text, until};
use crate::blob::BlobKind;
use crate::id::BlobId;
use crate::index::BlobLocation;

const MIB: usize = 1 << 20;

/// Blobs of a long file, dealt out over two packs in turn, as restic's two packers do. Returns them in the file's order, with
/// what they hold, and how long they are sealed.
fn long_file(fixture: &Fixture, blobs: u64) -> (Vec<(BlobId, Vec<u8>)>, usize) {
    let content: Vec<_> = (0..blobs).map(|n| (text(n, MIB), true)).collect();
    let turn = |which| content.iter().skip(which).step_by(2).cloned().collect::<Vec<_>>();
    let places: Vec<_> = [0, 1].map(|which| fixture.pack(BlobKind::Data, &turn(which))).into();
    let sealed_bytes = places.iter().flatten().map(|(_, at): &(_, BlobLocation)| at.len_bytes as usize).sum();
    places.iter().for_each(|places| fixture.learn(places));
    let ids = (0..content.len()).map(|n| places[n % 2][n / 2].0);
    (ids.zip(content.into_iter().map(|(plain, _)| plain)).collect(), sealed_bytes)
}

fn ids(file: &[(BlobId, Vec<u8>)]) -> Vec<BlobId> {
    file.iter().map(|(id, _)| *id).collect()
}

fn fetched_bytes(fixture: &Fixture) -> usize {
    fixture.store.reads.lock().iter().map(|(_, range)| usize::try_from(range.end - range.start).unwrap()).sum()
}

fn staged_bytes(fixture: &Fixture) -> usize {
    fixture.blobs.engine.windows.staged_bytes()
}

/// Reads a file as `stash-vfs` does: four blobs are decoded ahead, and what comes then is staged.
async fn read_through(fixture: &Fixture, file: &[(BlobId, Vec<u8>)]) {
    let ids = ids(file);
    let mut staged = 0;
    for (place, (id, plain)) in file.iter().enumerate() {
        let near = (place + 5).min(ids.len());
        fixture.blobs.prefetch(&ids[place + 1..near], BlobKind::Data);
        staged = staged.max(near);
        staged += fixture.blobs.stage(&ids[staged..]);
        let blob = fixture.blobs.get(*id, BlobKind::Data, usize::MAX).await.unwrap();
        assert!(blob[..] == plain[..], "blob {place}");
        fixture.blobs.let_go(&ids[..place], BlobKind::Data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_long_file_comes_in_long_requests_and_each_byte_once() {
    let fixture = Setup::of(Reach::Network).build();
    let (file, sealed_bytes) = long_file(&fixture, 80);
    assert!(sealed_bytes > 20 * MIB);
    read_through(&fixture, &file).await;
    let requests = fixture.store.count();
    assert!(requests <= 24, "{requests} requests for {sealed_bytes} bytes");
    assert_eq!(fetched_bytes(&fixture), sealed_bytes);
    assert_eq!(staged_bytes(&fixture), 0, "what was taken out is gone");
    fixture.blobs.let_go(&ids(&file), BlobKind::Data);
    until("all memory is back", || fixture.budget_used() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_reader_waits_for_what_is_on_its_way() {
    let fixture = Setup::of(Reach::Network).build();
    let (file, sealed_bytes) = long_file(&fixture, 10);
    fixture.store.close_gate();
    assert_eq!(fixture.blobs.stage(&ids(&file)), 10);
    until("two downloads", || fixture.store.most_running.load(SeqCst) == 2).await;
    let readers: Vec<_> = file
        .iter()
        .map(|(id, _)| {
            let (blobs, id) = (fixture.blobs.clone(), *id);
            tokio::spawn(async move { blobs.get(id, BlobKind::Data, usize::MAX).await })
        })
        .collect();
    until("ten flights", || fixture.blobs.engine.flights.len() == 10).await;
    fixture.store.open_gate();
    for (reader, (_, plain)) in readers.into_iter().zip(&file) {
        assert!(reader.await.unwrap().unwrap()[..] == plain[..]);
    }
    assert_eq!((fixture.store.count(), fetched_bytes(&fixture)), (2, sealed_bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_download_that_fails_costs_nobody_more_than_its_own_request() {
    for fault in [Fault::Unavailable, Fault::Short, Fault::Flip, Fault::NotFound] {
        let fixture = Setup::of(Reach::Network).build();
        let (file, _) = long_file(&fixture, 10);
        for (id, _) in &file[..2] {
            let pack = fixture.index.known.lock()[id][0].pack;
            fixture.store.fail_once(pack, &[fault]);
        }
        assert_eq!(fixture.blobs.stage(&ids(&file)), 10);
        for (id, plain) in &file {
            let blob = fixture.blobs.get(*id, BlobKind::Data, usize::MAX).await.unwrap();
            assert!(blob[..] == plain[..], "{fault:?}");
        }
        assert_eq!(fixture.metrics.blobs_lost.get(), 0, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_no_more_is_staged_than_there_is_room_for() {
    let fixture = Setup { memory_bytes: 32 * MIB, ..Setup::of(Reach::Network) }.build();
    let (file, sealed_bytes) = long_file(&fixture, 80);
    let ids = ids(&file);
    let taken = fixture.blobs.stage(&ids);
    let staged = staged_bytes(&fixture);
    assert!(taken < ids.len() && staged <= 8 * MIB && staged > 4 * MIB, "{taken} blobs, {staged} of {sealed_bytes}");
    assert_eq!(fixture.blobs.stage(&ids[taken..]), 0, "little room is not worth a request");
    until("it came", || fetched_bytes(&fixture) == staged).await;
    assert_eq!(fixture.blobs.stage(&ids[..taken]), 0);
    // Who needs the memory gets it; who comes to the blobs then fetches them again.
    let large = fixture.put(BlobKind::Data, &(100..108).map(|n| (text(n, 8 * MIB), false)).collect::<Vec<_>>());
    for id in &large {
        assert_eq!(fixture.blobs.get(*id, BlobKind::Data, usize::MAX).await.unwrap().len(), 8 * MIB);
        assert!(fixture.budget_used() <= 32 * MIB);
    }
    read_through(&fixture, &file).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_what_is_near_already_is_not_staged() {
    for reach in [Reach::Disk, Reach::Async] {
        let fixture = Setup::of(reach).build();
        let (file, _) = long_file(&fixture, 10);
        assert_eq!((fixture.blobs.stage(&ids(&file)), fixture.store.count()), (0, 0), "{reach:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let fixture = Setup::of(Reach::Network).build_over(Some(dir.path()));
    let (file, _) = long_file(&fixture, 10);
    for result in fixture.blobs.get_many(&ids(&file), BlobKind::Data).await {
        result.unwrap();
    }
    let requests = fixture.store.count();
    assert_eq!((fixture.blobs.stage(&ids(&file)), staged_bytes(&fixture)), (10, 0), "memory has it");
    let fixture = fixture.restart(dir.path()).await;
    assert_eq!((fixture.blobs.stage(&ids(&file)), staged_bytes(&fixture)), (10, 0), "the disk cache has it");
    read_through(&fixture, &file).await;
    assert_eq!(fixture.store.count(), requests);
}
