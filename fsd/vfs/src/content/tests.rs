use proptest::prelude::*;
use stash_repo::{Id, RepoError};

use super::*;

fn id(number: usize) -> BlobId {
    BlobId(Id::hash(&number.to_le_bytes()))
}

/// A table over blobs of these lengths; `None` is lost.
fn table(lengths: &[Option<u32>], size: u64) -> Content {
    let ids: Vec<BlobId> = (0..lengths.len()).map(id).collect();
    let length = |id: &BlobId| Ok(lengths[ids.iter().position(|own| own == id).unwrap()]);
    let mut content = Content::default();
    assert!(content.extend(&ids, size, u64::MAX, usize::MAX, length).unwrap());
    content
}

fn blob(index: usize, range: Range<usize>) -> Option<Piece> {
    Some(Piece::Blob { index, range })
}

#[test]
fn test_pieces() {
    let content = table(&[Some(10), Some(5), Some(0), Some(20)], 35);
    for (offset, len, expected) in [
        (0, 4, blob(0, 0..4)),
        (0, 100, blob(0, 0..10)),
        (9, 2, blob(0, 9..10)),
        (10, 5, blob(1, 0..5)),
        (15, 1, blob(3, 0..1)),
        (34, 9, blob(3, 19..20)),
        (35, 1, None),
        (u64::MAX, 1, None),
        (3, 0, None),
    ] {
        assert_eq!(content.piece(offset, len), expected, "{offset} {len}");
    }
    assert!(content.lost.is_none());
}

#[test]
fn test_empty_and_single() {
    assert_eq!(table(&[], 10).piece(0, 1), None);
    let single = table(&[None], 10);
    assert_eq!(single.piece(4, 100), blob(0, 4..104), "its length is seen when it is read");
}

#[test]
fn test_lost_blobs_take_nothing_with_them() {
    let (a, b) = (Some(10), Some(20));
    // (lengths, node's size) -> what is at each of these offsets
    for (lengths, size, at) in [
        (&[a, None, b][..], 60, &[(0, blob(0, 0..1)), (10, None), (39, None), (40, blob(2, 0..1))][..]),
        (&[None, b], 30, &[(0, None), (9, None), (10, blob(1, 0..1))]),
        (&[a, None], 30, &[(9, blob(0, 9..10)), (10, None), (29, None)]),
        (&[a, None, None, b], 50, &[(10, None), (29, None), (30, blob(3, 0..1))]),
        // The one between two lost ones cannot be placed.
        (&[a, None, b, None, a], 100, &[(9, blob(0, 9..10)), (10, None), (89, None), (90, blob(4, 0..1))]),
        // The node's size is less than what is known: nothing after the lost one can be placed.
        (&[a, None, b], 25, &[(9, blob(0, 9..10)), (10, None), (24, None)]),
    ] {
        let content = table(lengths, size);
        assert!(content.lost.is_some());
        let lost = lengths.iter().position(Option::is_none).unwrap();
        for (offset, expected) in at {
            let expected = expected.clone().unwrap_or(Piece::Lost { index: lost });
            assert_eq!(content.piece(*offset, 1), Some(expected), "{lengths:?} at {offset}");
        }
        assert_eq!(content.piece(size.max(30), 1).filter(|_| size == 25), None);
    }
}

#[test]
fn test_look_ups_are_counted_and_go_on() {
    let ids: Vec<BlobId> = (0..1_000).map(id).collect();
    let calls = std::cell::Cell::new(0);
    let length = |_: &BlobId| {
        calls.set(calls.get() + 1);
        Ok(Some(10))
    };
    let mut content = Content::default();
    assert!(content.extend(&ids, 10_000, 25, 10, length).unwrap());
    assert_eq!(calls.get(), 3, "no further than the reader");
    assert!(content.extend(&ids, 10_000, 7, 0, length).unwrap(), "known already");
    assert!(!content.extend(&ids, 10_000, 9_999, 100, length).unwrap());
    assert_eq!(calls.get(), 103);
    assert!(content.extend(&ids, 10_000, 9_999, 897, length).unwrap());
    assert_eq!(calls.get(), 1_000);
}

#[test]
fn test_a_failed_look_up_is_tried_again() {
    let ids: Vec<BlobId> = (0..3).map(id).collect();
    let mut content = Content::default();
    let fails = |_: &BlobId| Err(RepoError::Cancelled);
    assert!(content.extend(&ids, 30, 25, 10, fails).is_err());
    assert!(content.extend(&ids, 30, 25, 10, |_| Ok(Some(10))).unwrap());
    assert_eq!(content.piece(25, 1), blob(2, 5..6));
}

proptest! {
    /// Cut anyhow and read anyhow, the pieces are the blobs one after another.
    #[test]
    fn test_pieces_are_the_concatenation(
        lengths in prop::collection::vec(0..50_u32, 2..30),
        offset in 0..1_600_u64,
        len in 1..200_usize,
        lookups in 1..5_usize,
    ) {
        let ids: Vec<BlobId> = (0..lengths.len()).map(id).collect();
        let length = |id: &BlobId| Ok(ids.iter().position(|own| own == id).map(|at| lengths[at]));
        let flat: Vec<(usize, usize)> =
            lengths.iter().enumerate().flat_map(|(index, len)| (0..*len as usize).map(move |at| (index, at))).collect();
        let last = offset + len as u64 - 1;
        let mut content = Content::default();
        while !content.extend(&ids, flat.len() as u64, last, lookups, length).unwrap() {}
        let (mut at, mut left, mut read) = (offset, len, Vec::new());
        while let Some(Piece::Blob { index, range }) = content.piece(at, left) {
            prop_assert!(!range.is_empty());
            at += range.len() as u64;
            left -= range.len();
            read.extend(range.map(|at| (index, at)));
        }
        let from = usize::try_from(offset).unwrap().min(flat.len());
        prop_assert_eq!(read.as_slice(), &flat[from..(from + len).min(flat.len())]);
    }
}
