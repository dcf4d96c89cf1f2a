use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::fake::{Fault, Reach, Setup, text};
use crate::backend::BackendErrorKind;
use crate::blob::BlobKind;
use crate::error::RepoError;
use crate::id::{BlobId, Id};

const FAULTS: [Fault; 5] = [Fault::NotFound, Fault::Unavailable, Fault::Short, Fault::Flip, Fault::Stall];
const REACHES: [Reach; 3] = [Reach::Disk, Reach::Async, Reach::Network];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_fault_that_passes_is_healed_by_reading_again() {
    for reach in REACHES {
        for kind in [BlobKind::Data, BlobKind::Tree] {
            for fault in [Fault::Unavailable, Fault::Short, Fault::Flip] {
                let fixture = Setup::of(reach).build();
                let places = fixture.pack(kind, &[(text(1, 200_000), true)]);
                fixture.learn(&places);
                fixture.store.fail_once(places[0].1.pack, &[fault]);
                let blob = fixture.blobs.get(places[0].0, kind, usize::MAX).await;
                assert_eq!(blob.unwrap().len(), 200_000, "{reach:?} {kind:?} {fault:?}");
                assert_eq!((fixture.metrics.heals.get(), fixture.metrics.blobs_lost.get()), (1, 0));
                assert_eq!(fixture.index.refreshes.load(SeqCst), 0, "no list for a passing fault");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_lasting_fault_is_healed_from_another_pack() {
    for reach in REACHES {
        for fault in FAULTS.into_iter().filter(|fault| *fault != Fault::Stall) {
            for known_before in [true, false] {
                let fixture = Setup::of(reach).build();
                let blobs = [(text(1, 200_000), true), (text(2, 1000), true)];
                let bad = fixture.pack(BlobKind::Data, &blobs);
                let good = fixture.pack(BlobKind::Data, &blobs);
                fixture.learn(&bad);
                if known_before {
                    fixture.learn(&good);
                } else {
                    // A prune has repacked it; the next refresh shows where.
                    fixture.index.after_refresh.lock().extend(good.iter().map(|(id, place)| (*id, vec![*place])));
                }
                fixture.store.fail_always(bad[0].1.pack, fault);
                let ids: Vec<_> = bad.iter().map(|(id, _)| *id).collect();
                let name = format!("{reach:?} {fault:?} known {known_before}");
                for (blob, (plain, _)) in fixture.blobs.get_many(&ids, BlobKind::Data).await.iter().zip(&blobs) {
                    assert!(blob.as_ref().unwrap()[..] == plain[..], "{name}");
                }
                // A flip in the middle of what is read at once hits one of the two.
                let heals = if fault == Fault::Flip { 1..=2 } else { 2..=2 };
                assert!(heals.contains(&fixture.metrics.heals.get()), "{name}: {}", fixture.metrics.heals.get());
                assert_eq!(fixture.metrics.blobs_lost.get(), 0, "{name}");
                assert_eq!(fixture.index.refreshes.load(SeqCst), 1, "{name}: once for all");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_what_no_source_has_is_lost_alone() {
    for reach in REACHES {
        for fault in FAULTS {
            let deadline = Duration::from_millis(if fault == Fault::Stall { 200 } else { 60_000 });
            if fault == Fault::Stall && reach == Reach::Disk {
                continue;
            }
            let fixture = Setup { deadline, ..Setup::of(reach) }.build();
            let bad = fixture.pack(BlobKind::Data, &[(text(1, 200_000), true)]);
            let good = fixture.put(BlobKind::Data, &[(text(2, 200_000), true)])[0];
            fixture.learn(&bad);
            fixture.store.fail_always(bad[0].1.pack, fault);
            let error = fixture.blobs.get(bad[0].0, BlobKind::Data, usize::MAX).await.unwrap_err();
            let fits = match fault {
                Fault::NotFound => is_backend(&error, BackendErrorKind::NotFound),
                Fault::Unavailable => is_backend(&error, BackendErrorKind::Unavailable),
                Fault::Short => is_backend(&error, BackendErrorKind::Corrupt),
                Fault::Flip => matches!(error, RepoError::WrongMac { .. }),
                Fault::Stall => matches!(error, RepoError::Deadline { .. }),
            };
            assert!(fits, "{reach:?} {fault:?}: {error}");
            if fault != Fault::Stall {
                assert_eq!(
                    (fixture.metrics.heals.get(), fixture.metrics.blobs_lost.get()),
                    (0, 1),
                    "{reach:?} {fault:?}"
                );
            }
            assert!(fixture.blobs.get(good, BlobKind::Data, usize::MAX).await.is_ok(), "{reach:?} {fault:?}");
        }
    }
}

fn is_backend(error: &RepoError, kind: BackendErrorKind) -> bool {
    matches!(error, RepoError::Backend(error) if error.kind == kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_pack_that_is_gone_is_not_asked_for_twice() {
    let fixture = Setup::of(Reach::Network).build();
    let places = fixture.pack(BlobKind::Data, &[(text(1, 1000), true)]);
    fixture.learn(&places);
    fixture.store.remove(places[0].1.pack);
    assert!(fixture.blobs.get(places[0].0, BlobKind::Data, usize::MAX).await.is_err());
    assert_eq!(fixture.store.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_blob_that_the_index_does_not_name_yet_is_found_by_a_refresh() {
    let fixture = Setup::of(Reach::Disk).build();
    let places = fixture.pack(BlobKind::Tree, &[(text(1, 1000), true)]);
    fixture.index.after_refresh.lock().extend(places.iter().map(|(id, place)| (*id, vec![*place])));
    assert_eq!(fixture.blobs.get(places[0].0, BlobKind::Tree, usize::MAX).await.unwrap().len(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_many_lost_blobs_cost_one_refresh() {
    let fixture = Setup::of(Reach::Network).build();
    let ids: Vec<_> = (0..100_u32).map(|n| BlobId(Id::hash(&n.to_le_bytes()))).collect();
    for result in fixture.blobs.get_many(&ids, BlobKind::Data).await {
        assert!(matches!(result, Err(RepoError::BlobMissing { .. })));
    }
    assert_eq!(fixture.index.refreshes.load(SeqCst), 1);
    assert_eq!(fixture.metrics.blobs_lost.get(), 100);
    assert_eq!(fixture.budget_used(), 0);
}
