use proptest::prelude::*;

use super::super::seal::Purpose;
use super::*;
use crate::crypto::MasterKey;

fn keys(byte: u8) -> Keys {
    let master_key = MasterKey::from_parts(&mut [byte; 64]);
    Keys {
        record: SealKey::derive(&master_key, Purpose::BlobRecord),
        table: SealKey::derive(&master_key, Purpose::BlobTable),
    }
}

const SEGMENT: SegmentId = [0x11; 12];

#[test]
fn test_header_is_as_the_format_description_draws_it() {
    let header = encode_header(&keys(1), &SEGMENT);
    assert_eq!(&header[..8], b"STASHBLB");
    assert_eq!(header[8..12], [0, 0, 0, 1]);
    assert_eq!(header[12..24], SEGMENT);
    assert!(header[24..48].iter().all(|byte| *byte == 0));
    assert_eq!(decode_header(&keys(1), &header), Head::Ours(SEGMENT));
    assert_eq!(decode_header(&keys(2), &header), Head::Damaged);
    let mut newer = header;
    newer[11] = 2;
    assert_eq!(decode_header(&keys(1), &newer), Head::OtherVersion(2));
    for at in (0..8).chain(12..HEADER_BYTES) {
        let mut changed = header;
        changed[at] ^= 1;
        assert_eq!(decode_header(&keys(1), &changed), Head::Damaged, "byte {at}");
    }
}

#[test]
fn test_record_is_as_the_format_description_draws_it() {
    let record = RecordHeader { id: BlobId(Id::new([0xab; 32])), kind: BlobKind::Tree, len_bytes: 40 };
    let ciphertext: Vec<u8> = (0..40).collect();
    let header = record.encode(&keys(1), &SEGMENT, 64, &ciphertext);
    assert_eq!(&header[..4], b"blob");
    assert_eq!(header[4..8], [1, 0, 0, 0]);
    assert_eq!(header[8..16], [0, 0, 0, 40, 0, 0, 0, 0]);
    assert_eq!(header[16..48], [0xab; 32]);
    assert_eq!(RecordHeader::decode(&header), Some(record));
    assert_eq!(record.next_offset(64), Some(168));
    assert_eq!(record.next_offset(u32::MAX - 64), None);
}

#[test]
fn test_a_record_is_bound_to_its_blob_place_and_content() {
    let record = RecordHeader { id: BlobId(Id::new([0xab; 32])), kind: BlobKind::Data, len_bytes: 48 };
    let ciphertext: Vec<u8> = (0..48).collect();
    let header = record.encode(&keys(1), &SEGMENT, 64, &ciphertext);
    let check = |header: &[u8; 64], keys: &Keys, segment: &SegmentId, offset, ciphertext: &[u8]| {
        RecordHeader::check(header, keys, segment, offset, ends(ciphertext))
    };
    assert!(check(&header, &keys(1), &SEGMENT, 64, &ciphertext));
    assert!(!check(&header, &keys(2), &SEGMENT, 64, &ciphertext));
    assert!(!check(&header, &keys(1), &[0x12; 12], 64, &ciphertext));
    assert!(!check(&header, &keys(1), &SEGMENT, 65, &ciphertext));
    for at in 0..RECORD_HEADER_BYTES {
        let mut changed = header;
        changed[at] ^= 0x80;
        assert!(!check(&changed, &keys(1), &SEGMENT, 64, &ciphertext), "header byte {at}");
    }
    for at in (0..16).chain(32..48) {
        let mut changed = ciphertext.clone();
        changed[at] ^= 0x80;
        assert!(!check(&header, &keys(1), &SEGMENT, 64, &changed), "ciphertext byte {at}");
    }
}

#[test]
fn test_data_and_tree_of_one_id_have_different_keys() {
    let id = BlobId(Id::new([0xab; 32]));
    assert_ne!(short_key(&id, BlobKind::Data), short_key(&id, BlobKind::Tree));
}

/// A segment of version 1, byte for byte: a change of what is written is a change of the format, and gets a new version
/// with its own file beside this one.
#[test]
fn test_golden_segment_of_version_1() {
    let mut bytes = encode_header(&keys(5), &SEGMENT).to_vec();
    let mut table = Vec::new();
    let blobs: Vec<(RecordHeader, Vec<u8>)> = (1..5)
        .map(|n: u8| {
            let kind = if n.is_multiple_of(2) { BlobKind::Tree } else { BlobKind::Data };
            let ciphertext: Vec<u8> = (0..30 + n * 40).collect();
            let len_bytes = u32::try_from(ciphertext.len()).unwrap();
            (RecordHeader { id: BlobId(Id::new([n; 32])), kind, len_bytes }, ciphertext)
        })
        .collect();
    for (record, ciphertext) in &blobs {
        let offset = u32::try_from(bytes.len()).unwrap();
        table.push(Entry { key: short_key(&record.id, record.kind), offset, len_bytes: record.len_bytes });
        bytes.extend_from_slice(&record.encode(&keys(5), &SEGMENT, offset, ciphertext));
        bytes.extend_from_slice(ciphertext);
    }
    let offset = u32::try_from(bytes.len()).unwrap();
    bytes.extend_from_slice(&encode_table(&keys(5), &SEGMENT, offset, &table));

    let golden = include_bytes!("../../../testdata/blobs-v1.blobs");
    if bytes[..] != golden[..] {
        let path = std::env::temp_dir().join("blobs-v1.blobs");
        std::fs::write(&path, bytes).unwrap();
        panic!("what is written now, see {}, is not version 1", path.display());
    }
    assert_eq!(decode_header(&keys(5), golden.first_chunk().unwrap()), Head::Ours(SEGMENT));
    assert_eq!(table_offset(golden.last_chunk().unwrap(), golden.len() as u64), Some(offset));
    assert_eq!(decode_table(&keys(5), &SEGMENT, offset, &golden[offset as usize..]), Some(table.clone()));
    for (entry, (record, ciphertext)) in table.iter().zip(&blobs) {
        let header = golden[entry.offset as usize..].first_chunk().unwrap();
        assert_eq!(RecordHeader::decode(header), Some(*record));
        assert!(RecordHeader::check(header, &keys(5), &SEGMENT, entry.offset, ends(ciphertext)));
    }
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry = (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(key, offset, len_bytes)| Entry {
        key,
        offset,
        len_bytes,
    });
    proptest::collection::vec(entry, 0..50)
}

proptest! {
    #[test]
    fn test_table_round_trip(entries in entries(), offset in 64_u32.., flip: proptest::sample::Index) {
        let table = encode_table(&keys(1), &SEGMENT, offset, &entries);
        let file_bytes = u64::from(offset) + table.len() as u64;
        let trailer = table.last_chunk().unwrap();
        prop_assert_eq!(table_offset(trailer, file_bytes), Some(offset));
        prop_assert_eq!(table_offset(trailer, file_bytes + 1), None);
        prop_assert_eq!(decode_table(&keys(1), &SEGMENT, offset, &table), Some(entries));
        prop_assert_eq!(decode_table(&keys(1), &SEGMENT, offset ^ 1, &table), None);
        prop_assert_eq!(decode_table(&keys(2), &SEGMENT, offset, &table), None);
        let mut changed = table.clone();
        let at = flip.index(table.len());
        changed[at] ^= 4;
        prop_assert_eq!(decode_table(&keys(1), &SEGMENT, offset, &changed), None);
        prop_assert_eq!(decode_table(&keys(1), &SEGMENT, offset, &table[..at]), None);
    }

    #[test]
    fn test_any_bytes_are_borne(bytes in proptest::collection::vec(any::<u8>(), 0..200), offset: u32, len: u64) {
        prop_assert_eq!(decode_table(&keys(1), &SEGMENT, offset, &bytes), None);
        if let Some(header) = bytes.first_chunk() {
            prop_assert_eq!(decode_header(&keys(1), header), Head::Damaged);
        }
        if let Some(header) = bytes.first_chunk() {
            prop_assert_eq!(RecordHeader::decode(header), None);
        }
        if let Some(trailer) = bytes.last_chunk() {
            prop_assert_eq!(table_offset(trailer, len), None);
        }
    }

    #[test]
    fn test_record_round_trip(id: [u8; 32], tree: bool, offset: u32, ciphertext in proptest::collection::vec(any::<u8>(), 32..300)) {
        let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
        let len_bytes = u32::try_from(ciphertext.len()).unwrap();
        let record = RecordHeader { id: BlobId(Id::new(id)), kind, len_bytes };
        let header = record.encode(&keys(1), &SEGMENT, offset, &ciphertext);
        prop_assert_eq!(RecordHeader::decode(&header), Some(record));
        prop_assert!(RecordHeader::check(&header, &keys(1), &SEGMENT, offset, ends(&ciphertext)));
    }
}
