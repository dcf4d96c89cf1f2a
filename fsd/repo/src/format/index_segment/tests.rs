use proptest::prelude::*;

use super::super::seal::Purpose;
use super::*;
use crate::crypto::MasterKey;

fn key() -> SealKey {
    SealKey::derive(&MasterKey::from_parts(&mut [1; 64]), Purpose::IndexPage)
}

#[test]
fn test_records_fill_a_page_to_the_byte() {
    assert_eq!(
        (RECORD_BYTES, RECORDS_PER_PAGE, PACKS_PER_PAGE, FENCES_PER_PAGE, FILES_PER_PAGE),
        (48, 85, 113, 510, 127)
    );
}

#[test]
fn test_layout_of_ten_million_blobs() {
    let counts = Counts { blobs: 10_000_000, packs: 640_000, files: 200, stored_bytes: 0 };
    let layout = counts.layout().unwrap();
    assert_eq!(layout, Layout { packs: 1, records: 5665, fences: 123_313, files: 123_544, end: 123_546 });
    assert_eq!(layout.record_pages() as usize * FENCE_BYTES, 941_184, "what memory holds");
    assert_eq!(Counts { blobs: u64::MAX, ..Counts::default() }.layout(), None);
    assert_eq!(Counts { blobs: u64::from(u32::MAX) * 85, packs: 1, ..Counts::default() }.layout(), None);
    assert_eq!(Counts::default().layout().unwrap().end, 1);
}

#[test]
fn test_header_is_as_the_format_description_draws_it() {
    let header = Header { id: [0x11; 12], counts: Counts { blobs: 85, packs: 2, files: 3, stored_bytes: 4 << 32 } };
    let page = header.encode(&key());
    assert_eq!(&page[..8], b"STASHIDX");
    assert_eq!(page[8..12], [0, 0, 0, 2]);
    assert_eq!(page[12..16], [0, 0, 0x10, 0]);
    assert_eq!(page[16..28], [0x11; 12]);
    assert_eq!(page[32..40], [0, 0, 0, 0, 0, 0, 0, 85]);
    assert_eq!(page[40..48], [0, 0, 0, 2, 0, 0, 0, 3]);
    assert_eq!(page[48..56], [0, 0, 0, 4, 0, 0, 0, 0]);
    assert!(page[56..PAYLOAD_BYTES].iter().all(|byte| *byte == 0));
    let bytes = 5 * PAGE_BYTES as u64;
    assert_eq!(Header::decode(&key(), &page, bytes).unwrap().0, header);
    assert_eq!(Header::decode(&key(), &page, bytes + 1), Err(PageError::Counts), "the file is longer");
    assert_eq!(Header::decode(&key(), &page, bytes - 4096), Err(PageError::Counts), "the file is cut");
    assert_eq!(
        Header::decode(&SealKey::derive(&MasterKey::from_parts(&mut [2; 64]), Purpose::IndexPage), &page, bytes),
        Err(PageError::Damaged(0))
    );
    for at in (0..PAGE_BYTES).step_by(3) {
        let mut changed = page;
        changed[at] ^= 0x40;
        assert!(Header::decode(&key(), &changed, bytes).is_err(), "byte {at}");
    }
}

#[test]
fn test_record_bytes_are_golden() {
    let record = Record {
        id: BlobId(Id::new([0xab; 32])),
        kind: BlobKind::Tree,
        len_bytes: 0x0102_0304,
        pack: 5,
        offset: 6,
        uncompressed_bytes: Some(7),
    };
    let expected = format!("{}81020304{:08x}{:08x}{:08x}", "ab".repeat(32), 5, 6, 7);
    assert_eq!(hex::encode(record.encode()), expected);
}

#[test]
fn test_a_page_is_bound_to_its_segment_and_number() {
    let mut page = [7; PAGE_BYTES];
    seal_page(&key(), &[1; 12], 3, &mut page);
    assert_eq!(check_page(&key(), &[1; 12], 3, &page), Ok(()));
    assert_eq!(check_page(&key(), &[1; 12], 4, &page), Err(PageError::Damaged(4)));
    assert_eq!(check_page(&key(), &[2; 12], 3, &page), Err(PageError::Damaged(3)));
}

fn record() -> impl Strategy<Value = Record> {
    (any::<[u8; 32]>(), any::<bool>(), 0_u32..1 << 31, any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
        |(id, tree, len_bytes, pack, offset, uncompressed)| Record {
            id: BlobId(Id::new(id)),
            kind: if tree { BlobKind::Tree } else { BlobKind::Data },
            len_bytes,
            pack,
            offset,
            uncompressed_bytes: (uncompressed != 0).then_some(uncompressed),
        },
    )
}

proptest! {
    #[test]
    fn test_record_round_trip(record in record(), pack: u32) {
        let mut raw = record.encode();
        prop_assert_eq!(Record::decode(&raw), record);
        prop_assert_eq!(pack_of(&raw), record.pack);
        set_pack(&mut raw, pack);
        prop_assert_eq!(Record::decode(&raw), Record { pack, ..record });
    }

    #[test]
    fn test_any_bytes_are_a_record(raw: [u8; 32], rest: [u8; 16]) {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..32].copy_from_slice(&raw);
        bytes[32..].copy_from_slice(&rest);
        prop_assert_eq!(Record::decode(&bytes).encode(), bytes);
    }

    #[test]
    fn test_records_sort_as_searches_do(a in record(), b in record(), same_id: bool) {
        let b = Record { id: if same_id { a.id } else { b.id }, ..b };
        let tree = |record: &Record| record.kind == BlobKind::Tree;
        let expected = (a.id, tree(&a)).cmp(&(b.id, tree(&b)));
        prop_assert_eq!(compare(&a.encode(), &(b.id, b.kind)), expected);
        if expected.is_ne() {
            prop_assert_eq!(a.encode().cmp(&b.encode()), expected);
        }
    }

    #[test]
    fn test_header_round_trip(id: [u8; 12], blobs in 0_u64..1 << 38, packs: u32, files: u32, stored_bytes: u64) {
        let header = Header { id, counts: Counts { blobs, packs, files, stored_bytes } };
        if let Some(layout) = header.counts.layout() {
            prop_assert_eq!(Header::decode(&key(), &header.encode(&key()), layout.file_bytes()), Ok((header, layout)));
        }
    }

    #[test]
    fn test_any_page_is_refused(bytes in proptest::collection::vec(any::<u8>(), PAGE_BYTES), magic: bool, len: u64) {
        let mut page: Page = bytes.try_into().unwrap();
        if magic {
            page[..8].copy_from_slice(&MAGIC);
            page[8..12].copy_from_slice(&VERSION.to_be_bytes());
        }
        prop_assert!(Header::decode(&key(), &page, len).is_err());
    }
}
