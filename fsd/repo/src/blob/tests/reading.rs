use super::fake::{Reach, Setup, block_on, text};
use crate::blob::BlobKind;
use crate::error::RepoError;
use crate::id::{BlobId, Id};

const SIZES: [usize; 9] = [0, 1, 100, 4096, 65_537, 300_000, 1 << 20, (1 << 20) + 1, 5 << 20];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_get_returns_what_was_stored() {
    for reach in [Reach::Disk, Reach::Async, Reach::Network] {
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let fixture = Setup::of(reach).build();
            let blobs: Vec<_> =
                SIZES.iter().flat_map(|&size| [(text(1, size), true), (text(2, size), false)]).skip(1).collect();
            let ids = fixture.put(kind, &blobs);
            for (id, (plain, compressed)) in ids.iter().zip(&blobs) {
                let blob = fixture.blobs.get(*id, kind, usize::MAX).await.unwrap();
                assert!(blob.is_whole());
                assert!(blob[..] == plain[..], "{reach:?} {kind:?} {} {compressed}", plain.len());
                assert_eq!(fixture.blobs.plain_bytes(id).unwrap(), u32::try_from(plain.len()).ok());
                // Directories are kept decoded, by the repository.
                assert_eq!(fixture.blobs.try_get(id, usize::MAX).is_some(), kind == BlobKind::Data);
            }
            let many = fixture.blobs.get_many(&ids, kind).await;
            assert!(many.iter().zip(&blobs).all(|(blob, (plain, _))| blob.as_ref().unwrap()[..] == plain[..]));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_get_decodes_a_prefix_where_no_hash_is_due() {
    let plain = text(3, 2 << 20);
    for compress in [true, false] {
        for (reach, verify, kind, prefix) in [
            (Reach::Disk, false, BlobKind::Data, true),
            (Reach::Async, false, BlobKind::Data, true),
            (Reach::Disk, true, BlobKind::Data, false),
            (Reach::Disk, false, BlobKind::Tree, false),
            (Reach::Network, false, BlobKind::Data, false),
        ] {
            let fixture = Setup { verify, ..Setup::of(reach) }.build();
            let id = fixture.put(kind, &[(plain.clone(), compress)])[0];
            let name = format!("{reach:?} verify {verify} {kind:?} compressed {compress}");
            let blob = fixture.blobs.get(id, kind, 300_000).await.unwrap();
            assert_eq!(blob.is_whole(), !prefix, "{name}");
            assert!(blob.len() >= 300_000 && blob[..] == plain[..blob.len()], "{name}");
            if prefix {
                assert!(fixture.metrics.decoded_bytes.get() < 400_000, "{name}");
                assert!(fixture.blobs.try_get(&id, 300_000).is_some());
                assert!(fixture.blobs.try_get(&id, usize::MAX).is_none(), "{name}: a prefix is not the whole");
                assert!(fixture.blobs.try_get(&id, blob.len() + 1).is_none(), "{name}");
            }
            let whole = fixture.blobs.get(id, kind, usize::MAX).await.unwrap();
            assert!(whole.is_whole() && whole[..] == plain[..], "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_prefix_that_is_nearly_all_is_decoded_whole() {
    let fixture = Setup::of(Reach::Disk).build();
    let plain = text(4, 1 << 20);
    let id = fixture.put(BlobKind::Data, &[(plain, true)])[0];
    let blob = fixture.blobs.get(id, BlobKind::Data, 1_000_000).await.unwrap();
    assert!(blob.is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_tampered_blob_is_no_prefix_either() {
    let fixture = Setup::of(Reach::Disk).build();
    let places = fixture.pack(BlobKind::Data, &[(text(5, 4 << 20), true)]);
    fixture.learn(&places);
    // The flip is in the middle of the sealed bytes, far behind what is asked for.
    fixture.store.fail_always(places[0].1.pack, super::fake::Fault::Flip);
    let error = fixture.blobs.get(places[0].0, BlobKind::Data, 1).await.unwrap_err();
    assert!(matches!(error, RepoError::WrongMac { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_swapped_blob_is_found_out_where_hashes_are_checked() {
    for (reach, verify, kind, found) in [
        (Reach::Disk, false, BlobKind::Data, false),
        (Reach::Disk, true, BlobKind::Data, true),
        (Reach::Disk, false, BlobKind::Tree, true),
        (Reach::Network, false, BlobKind::Data, true),
        (Reach::Network, false, BlobKind::Tree, true),
    ] {
        let fixture = Setup { verify, ..Setup::of(reach) }.build();
        let places = fixture.pack(kind, &[(text(6, 1000), true), (text(7, 1000), true)]);
        let (first, other) = (places[0].0, places[1].1);
        fixture.learn(&[(first, other)]);
        let result = fixture.blobs.get(first, kind, usize::MAX).await;
        let wrong_hash = matches!(&result, Err(RepoError::WrongHash { .. }));
        assert_eq!(wrong_hash, found, "{reach:?} verify {verify} {kind:?}: {result:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_directory_read_as_data_does_not_pass_for_a_checked_one() {
    let fixture = Setup::of(Reach::Disk).build();
    let places = fixture.pack(BlobKind::Data, &[(text(6, 1000), true), (text(7, 1000), true)]);
    fixture.learn(&[(places[0].0, places[1].1)]);
    fixture.blobs.get(places[0].0, BlobKind::Data, usize::MAX).await.unwrap();
    let error = fixture.blobs.get(places[0].0, BlobKind::Tree, usize::MAX).await.unwrap_err();
    assert!(matches!(error, RepoError::WrongHash { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_small_neighbours_are_fetched_ahead_with_one_read() {
    for reach in [Reach::Disk, Reach::Network] {
        let fixture = Setup::of(reach).build();
        let blobs: Vec<_> = (0..40).map(|n| (text(n, 3000), n % 3 != 0)).collect();
        let ids = fixture.put(BlobKind::Data, &blobs);
        assert_eq!(fixture.blobs.prefetch(&ids, BlobKind::Data), ids.len());
        for (id, (plain, _)) in ids.iter().zip(&blobs) {
            assert!(fixture.blobs.get(*id, BlobKind::Data, usize::MAX).await.unwrap()[..] == plain[..]);
        }
        // A reader that comes before the prefetch has begun reads for itself.
        assert!(fixture.store.count() <= 3, "{reach:?}: {}", fixture.store.count());
    }
}

#[test]
fn test_get_works_outside_of_tokio() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for reach in [Reach::Disk, Reach::Network] {
        let fixture = {
            let _inside = runtime.enter();
            Setup::of(reach).build()
        };
        let id = fixture.put(BlobKind::Data, &[(text(8, 100_000), true)])[0];
        let blob = block_on(fixture.blobs.get(id, BlobKind::Data, usize::MAX)).unwrap();
        assert_eq!(blob.len(), 100_000);
        let missing = BlobId(Id::hash(b"nowhere"));
        let error = block_on(fixture.blobs.get(missing, BlobKind::Data, usize::MAX)).unwrap_err();
        assert!(matches!(error, RepoError::BlobMissing { .. }), "{error}");
        assert_eq!(fixture.blobs.plain_bytes(&missing).unwrap(), None);
    }
}
