use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Result<(IndexFileInfo, Vec<IndexedBlob>), FormatError> {
    let mut blobs = Vec::new();
    let info = parse(text.as_bytes(), |blob| blobs.push(blob))?;
    Ok((info, blobs))
}

fn id(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

/// A file of one pack with these entries, as (type, offset, length, uncompressed length).
fn one_pack(entries: &[(&str, u64, u64, u64)]) -> String {
    let blobs: Vec<_> = entries
        .iter()
        .zip(1..)
        .map(|((kind, offset, length, uncompressed), n)| {
            format!(
                r#"{{"id":"{}","type":"{kind}","offset":{offset},"length":{length},"uncompressed_length":{uncompressed}}}"#,
                id(n)
            )
        })
        .collect();
    format!(r#"{{"packs":[{{"id":"{}","blobs":[{}]}}]}}"#, id(0xaa), blobs.join(","))
}

#[test]
fn test_parse_reads_what_the_format_description_shows() {
    let text = format!(
        r#"{{
          "supersedes": ["{}"],
          "packs": [
            {{"id": "{}", "size": 5000, "blobs": [
              {{"id": "{}", "type": "data", "offset": 38, "length": 112, "uncompressed_length": 511}},
              {{"id": "{}", "type": "tree", "offset": 0, "length": 38}}
            ]}},
            {{"blobs": null, "id": "{}"}}
          ],
          "packs_to_delete": [{{"deep": [[[]]]}}]
        }}"#,
        id(9),
        id(8),
        id(1),
        id(2),
        id(7)
    );
    let (info, blobs) = parsed(&text).unwrap();
    assert_eq!(info.supersedes, [id(9).parse().unwrap()]);
    assert_eq!((info.packs, info.blobs, info.rejected), (2, 2, 0));
    let pack = id(8).parse().unwrap();
    let tree = IndexedBlob {
        pack,
        id: id(2).parse().unwrap(),
        kind: BlobKind::Tree,
        offset: 0,
        len_bytes: 38,
        uncompressed_bytes: None,
    };
    let data = IndexedBlob {
        pack,
        id: id(1).parse().unwrap(),
        kind: BlobKind::Data,
        offset: 38,
        len_bytes: 112,
        uncompressed_bytes: Some(511),
    };
    assert_eq!(blobs, [tree, data]);
}

#[test]
fn test_parse_takes_a_bare_list_and_a_late_id() {
    let pack = format!(r#"{{"blobs":[{{"length":40,"type":"data","id":"{}"}}],"id":"{}"}}"#, id(1), id(2));
    for text in [format!("[{pack}]"), format!(r#"{{"packs":[{pack}]}}"#)] {
        let (info, blobs) = parsed(&text).unwrap();
        assert_eq!(info.blobs, 1);
        assert_eq!(blobs[0].pack, id(2).parse().unwrap());
    }
    assert_eq!(parsed("{}").unwrap().0, IndexFileInfo::default());
}

#[test]
fn test_parse_leaves_out_entries_that_cannot_be() {
    const MAX: u64 = 64 << 20;
    for (why, entries, kept) in [
        ("whole", vec![("data", 0, 32, 0), ("data", 32, 32 + MAX, 0)], vec![1, 2]),
        ("no room for nonce and MAC", vec![("data", 0, 31, 0)], vec![]),
        ("unknown type", vec![("sparse", 0, 40, 0)], vec![]),
        ("longer than a blob may be", vec![("data", 0, MAX + 33, 0)], vec![]),
        ("unpacks to more than a blob may be", vec![("data", 0, 100, MAX + 1)], vec![]),
        ("end beyond 32 bits", vec![("data", u64::from(u32::MAX) - 99, 100, 0)], vec![]),
        ("end at 32 bits", vec![("data", u64::from(u32::MAX) - 100, 100, 0)], vec![1]),
        ("offset beyond 32 bits", vec![("data", 1 << 32, 100, 0)], vec![]),
        ("length beyond 32 bits", vec![("data", 0, u64::MAX, 0)], vec![]),
        ("unpacked length beyond 32 bits", vec![("data", 0, 100, u64::MAX)], vec![]),
        ("overlap", vec![("data", 50, 100, 0), ("data", 0, 100, 0)], vec![2]),
        ("inside another", vec![("data", 0, 100, 0), ("tree", 10, 40, 0), ("data", 100, 40, 0)], vec![1, 3]),
        ("same place", vec![("data", 0, 100, 0), ("data", 0, 100, 0)], vec![1]),
    ] {
        let (info, blobs) = parsed(&one_pack(&entries)).unwrap();
        let ids: Vec<_> = blobs.iter().map(|blob| blob.id.as_bytes()[0]).collect();
        assert_eq!(ids, kept, "{why}");
        assert_eq!((info.blobs, info.rejected), (kept.len(), entries.len() - kept.len()), "{why}");
    }
}

#[test]
fn test_parse_refuses_what_is_no_index_file() {
    for bad in [
        "",
        "7",
        "\"x\"",
        r#"{"packs":7}"#,
        r#"{"packs":[{"blobs":[]}]}"#,
        r#"{"packs":[{"id":"00","blobs":[]}]}"#,
        &one_pack(&[("data", 0, 40, 0)]).replace(&id(1), "zz"),
        &one_pack(&[("data", 0, 40, 0)]).replace("\"offset\":0", "\"offset\":-1"),
        &one_pack(&[]).replace("]}]}", "]}]} {}"),
        &format!(r#"{{"packs":[{{"id":"{}","blobs":[{{"type":"data","offset":0,"length":40}}]}}]}}"#, id(1)),
        &one_pack(&[("data", 0, 40, 0)])[..100],
    ] {
        assert!(parsed(bad).is_err(), "{bad}");
    }
    let error = parsed(&" ".repeat(INDEX_LIMIT_BYTES + 1)).unwrap_err();
    assert_eq!(error.to_string(), "67108865 bytes, at most 67108864 are read");
}

proptest! {
    #[test]
    fn prop_any_bytes_end(bytes: Vec<u8>) {
        drop(parse(&bytes, |_| ()));
    }

    #[test]
    fn prop_damage_ends_and_never_lets_a_bad_entry_through(
        entries in prop::collection::vec((0_u64..1 << 33, 0_u64..1 << 27, 0_u64..1 << 27), 0..20),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let entries: Vec<_> = entries.into_iter().map(|(offset, len, plain)| ("data", offset, len, plain)).collect();
        let mut text = one_pack(&entries).into_bytes();
        let (info, blobs) = parsed(std::str::from_utf8(&text).unwrap()).unwrap();
        prop_assert_eq!(info.blobs + info.rejected, entries.len());
        for pair in blobs.windows(2) {
            prop_assert!(pair[0].offset.checked_add(pair[0].len_bytes).unwrap() <= pair[1].offset);
        }
        let at = at.index(text.len());
        text[at] = byte;
        drop(parse(&text, |_| ()));
        drop(parse(&text[..at], |_| ()));
    }
}
