use super::fake::{Reach, Setup, text};
use crate::blob::BlobKind;
use crate::error::RepoError;
use crate::index::BlobLocation;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_what_the_index_claims_is_checked_before_and_after() {
    for reach in [Reach::Disk, Reach::Network] {
        type Change = fn(&mut BlobLocation);
        let changes: [(&str, Change, &str); 9] = [
            ("shorter than the overhead", |at| at.len_bytes = 31, "cannot be a sealed blob"),
            ("past 4 GiB", |at| at.offset = u32::MAX - 100, "cannot be a sealed blob"),
            ("a huge sealed blob", |at| at.len_bytes = (64 << 20) + 1, "limit"),
            ("a huge plain blob", |at| at.uncompressed_bytes = Some((64 << 20) + 1), "limit"),
            ("more plain bytes than there are", |at| at.uncompressed_bytes = Some(300_001), "300000 plain bytes"),
            ("fewer plain bytes than there are", |at| at.uncompressed_bytes = Some(299_999), "zstd"),
            ("compressed as if it were not", |at| at.uncompressed_bytes = None, ""),
            ("a wrong offset", |at| at.offset += 1, "MAC"),
            ("a wrong length", |at| at.len_bytes -= 1, "MAC"),
        ];
        for (name, change, expected) in changes {
            for upto in [1, usize::MAX] {
                let fixture = Setup::of(reach).build();
                let mut places = fixture.pack(BlobKind::Data, &[(text(1, 300_000), true), (text(2, 10), true)]);
                change(&mut places[0].1);
                fixture.learn(&places);
                let result = fixture.blobs.get(places[0].0, BlobKind::Data, upto).await;
                let name = format!("{reach:?} {name} {upto}");
                match (result, expected) {
                    // Without a hash nothing says that it is not the blob; see docs/semantics.md.
                    (Ok(_), "") if reach == Reach::Disk => {}
                    (Err(RepoError::WrongHash { .. }), "") if reach == Reach::Network => {}
                    // A prefix ends before the claim is found out.
                    (Ok(blob), "zstd" | "300000 plain bytes") if upto == 1 && reach == Reach::Disk => {
                        assert!(!blob.is_whole(), "{name}");
                    }
                    (Err(error), _) => assert!(error.to_string().contains(expected), "{name}: {error}"),
                    (Ok(_), _) => panic!("{name} was taken"),
                }
                assert!(
                    fixture.blobs.get(places[1].0, BlobKind::Data, usize::MAX).await.is_ok(),
                    "{name}: the neighbour"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_prefix_that_ends_early_is_an_error() {
    let fixture = Setup::of(Reach::Disk).build();
    let mut places = fixture.pack(BlobKind::Data, &[(text(1, 1000), true)]);
    places[0].1.uncompressed_bytes = Some(10 << 20);
    fixture.learn(&places);
    let error = fixture.blobs.get(places[0].0, BlobKind::Data, 2 << 20).await.unwrap_err();
    assert!(error.to_string().contains("1000 plain bytes"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_bytes_that_are_not_zstd_are_an_error() {
    for upto in [1, usize::MAX] {
        let fixture = Setup::of(Reach::Disk).build();
        let mut places = fixture.pack(BlobKind::Data, &[(text(1, 400_000), false)]);
        places[0].1.uncompressed_bytes = Some(400_000);
        fixture.learn(&places);
        let error = fixture.blobs.get(places[0].0, BlobKind::Data, upto).await.unwrap_err();
        assert!(error.to_string().contains("zstd"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_blobs_that_overlap_are_read_one_by_one() {
    let fixture = Setup::of(Reach::Disk).build();
    let plain = text(1, 2000);
    let places = fixture.pack(BlobKind::Data, &[(plain.clone(), true)]);
    // The same sealed bytes under two ids: decrypting the first in place destroys the second's.
    let other = crate::id::BlobId(crate::id::Id::hash(b"another name"));
    fixture.learn(&places);
    fixture.learn(&[(other, places[0].1)]);
    let many = fixture.blobs.get_many(&[places[0].0, other], BlobKind::Data).await;
    assert!(many[0].as_ref().unwrap()[..] == plain[..]);
    // Healing hashes, so the false name is found out.
    assert!(matches!(many[1], Err(RepoError::WrongHash { .. } | RepoError::WrongMac { .. })), "{:?}", many[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_blob_larger_than_the_budget_can_be_read() {
    for reach in [Reach::Disk, Reach::Network] {
        let fixture = Setup { memory_bytes: 0, ..Setup::of(reach) }.build();
        let large = vec![7; 60 << 20];
        let ids = fixture.put(BlobKind::Tree, &[(text(1, 4 << 20), true), (large, true)]);
        for id in [ids[0], ids[1], ids[0]] {
            assert!(fixture.blobs.get(id, BlobKind::Tree, usize::MAX).await.is_ok());
        }
        let limit_bytes = fixture.blobs.engine.budget.limit_bytes();
        assert!(fixture.budget_used() <= limit_bytes, "{} of {limit_bytes}", fixture.budget_used());
    }
}
