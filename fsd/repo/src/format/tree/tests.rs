use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::format::{FormatError, TREE_LIMIT_BYTES};
use crate::id::Id;

fn id(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

/// A tree of these entries, which are JSON objects without `{}`.
fn tree(entries: &[&str]) -> Tree {
    parse(json(entries).as_bytes()).unwrap()
}

fn json(entries: &[&str]) -> String {
    format!("{{\"nodes\":[{}]}}\n", entries.iter().map(|entry| format!("{{{entry}}}")).collect::<Vec<_>>().join(","))
}

fn names(tree: &Tree) -> Vec<&[u8]> {
    tree.iter().map(NodeRef::name).collect()
}

#[test]
fn test_every_field_of_a_file() {
    let json = format!(
        r#""name":"a \\\"b\\\"","type":"file","mode":420,"mtime":"2026-11-22T19:52:21.623533528Z",
        "atime":"2026-11-22T19:52:22+01:00","ctime":"1969-12-31T23:59:59.5Z","uid":4294967294,"gid":100,"user":"u\u00e4",
        "group":"g","inode":18446744073709551615,"device_id":65024,"size":9223372036854775807,"links":3,
        "extended_attributes":[{{"name":"user.a","value":"AP8A"}},{{"name":"user.empty","value":null}}],
        "content":["{}","{}"],"generic_attributes":{{"windows.x":[1]}},"error":"","path":"""#,
        id(1),
        id(2)
    );
    let tree = tree(&[&json]);
    let node = tree.find(br#"a "b""#).unwrap();
    assert_eq!((node.kind(), node.mode(), node.size(), node.links()), (NodeKind::File, 0o644, i64::MAX as u64, 3));
    assert_eq!((node.uid(), node.gid(), node.user(), node.group()), (4_294_967_294, 100, "uä", "g"));
    assert_eq!((node.inode(), node.device_id(), node.rdev()), (u64::MAX, 65024, 0));
    assert_eq!(node.mtime(), Timestamp { secs: 1_795_377_141, nanos: 623_533_528 });
    assert_eq!(node.atime(), Timestamp { secs: 1_795_373_542, nanos: 0 });
    assert_eq!(node.ctime(), Timestamp { secs: -1, nanos: 500_000_000 });
    assert_eq!(node.content(), [BlobId(Id::new([1; 32])), BlobId(Id::new([2; 32]))]);
    assert_eq!(node.xattrs().collect::<Vec<_>>(), [(&b"user.a"[..], &b"\0\xff\0"[..]), (b"user.empty", b"")]);
    assert_eq!((node.subtree(), node.link_target(), tree.rejected()), (None, &b""[..], 0));
}

#[test]
fn test_what_belongs_to_other_kinds_is_ignored() {
    let all = format!(r#""content":["{}"],"subtree":"{}","linktarget":"to","device":77"#, id(1), id(2));
    let kinds = ["dev", "chardev", "dir", "fifo", "file", "socket", "symlink"];
    let entries: Vec<_> = kinds.iter().map(|kind| format!(r#""name":"{kind}","type":"{kind}",{all}"#)).collect();
    let tree = tree(&entries.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(tree.len(), 7);
    for node in tree.iter() {
        let (kind, name) = (node.kind(), String::from_utf8_lossy(node.name()));
        let is = |kinds: &[&str]| kinds.contains(&&*name);
        assert_eq!(node.content().len(), usize::from(is(&["file"])), "{kind:?}");
        assert_eq!(node.subtree().is_some(), is(&["dir"]), "{kind:?}");
        assert_eq!(node.link_target(), if is(&["symlink"]) { &b"to"[..] } else { b"" }, "{kind:?}");
        assert_eq!(node.rdev(), if is(&["dev", "chardev"]) { 77 } else { 0 }, "{kind:?}");
    }
}

#[test]
fn test_modes_are_gos() {
    const DIR: u32 = 1 << 31;
    for (go, expected) in [
        (0o644, 0o644),
        (0o777 | DIR, 0o777),
        (0o755 | 1 << 23, 0o4755),
        (0o750 | 1 << 22 | DIR, 0o2750),
        (0o777 | 1 << 20 | DIR, 0o1777),
        (1 << 23 | 1 << 22 | 1 << 20, 0o7000),
        // Neither Unix's own bits nor those of kinds mean anything here.
        (0o7000 | 1 << 27 | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19, 0),
        (u32::MAX, 0o7777),
    ] {
        let tree = tree(&[&format!(r#""name":"a","type":"file","mode":{go}"#)]);
        assert_eq!(tree.get(0).unwrap().mode(), expected, "{go:#o}");
    }
}

#[test]
fn test_names_that_no_reader_may_see_are_left_out() {
    let (long, longest) = ("n".repeat(NAME_LIMIT_BYTES + 1), "n".repeat(NAME_LIMIT_BYTES));
    for (quoted, shown) in [
        ("a", true),
        ("...", true),
        (r"\\xff", true),
        (r"new\\nline", true),
        (&longest, true),
        ("", false),
        (".", false),
        ("..", false),
        ("a/b", false),
        ("/", false),
        (r"\\x2f", false),
        (r"\u002f", false),
        (r"a\\x00b", false),
        (r"a\u0000b", false),
        (r"\\x2e\\x2e", false),
        (r"\\q", false),
        (&long, false),
    ] {
        let tree = tree(&[&format!(r#""name":"{quoted}","type":"file""#), r#""name":"last","type":"fifo""#]);
        assert_eq!((tree.len(), tree.rejected()), (1 + usize::from(shown), usize::from(!shown)), "{quoted:.20}");
        assert!(tree.find(b"last").is_some(), "{quoted:.20}");
    }
}

#[test]
fn test_entries_that_cannot_be_are_left_out() {
    let (long, target) = ("x".repeat(256), "t".repeat(LINK_LIMIT_BYTES + 1));
    let value = "A".repeat(XATTR_LIMIT_BYTES / 3 * 4 + 4);
    for (why, entry) in [
        ("no name", r#""type":"file""#.to_owned()),
        ("no type", r#""name":"a""#.to_owned()),
        ("unknown type", r#""name":"a","type":"irregular""#.to_owned()),
        ("size beyond any file", r#""name":"a","type":"file","size":9223372036854775808"#.to_owned()),
        ("long target", format!(r#""name":"a","type":"symlink","linktarget":"{target}""#)),
        ("NUL in the target", r#""name":"a","type":"symlink","linktarget":"a\u0000""#.to_owned()),
        ("long attribute name", format!(r#""name":"a","type":"file","extended_attributes":[{{"name":"{long}"}}]"#)),
        ("no attribute name", r#""name":"a","type":"file","extended_attributes":[{}]"#.to_owned()),
        ("NUL in attribute", r#""name":"a","type":"file","extended_attributes":[{"name":"\u0000"}]"#.to_owned()),
        (
            "many attributes",
            format!(r#""name":"a","type":"file","extended_attributes":[{{"name":"u","value":"{value}"}}]"#),
        ),
    ] {
        let tree = tree(&[&entry, r#""name":"last","type":"fifo""#]);
        assert_eq!((names(&tree), tree.rejected()), (vec![&b"last"[..]], 1), "{why}");
        assert!(tree.weight_bytes() < 1000, "{why}: {}", tree.weight_bytes());
    }
}

#[test]
fn test_second_entries_of_a_name_are_left_out_and_order_does_not_matter() {
    let tree = tree(&[
        r#""name":"b","type":"fifo","uid":1"#,
        r#""name":"a","type":"fifo","uid":2"#,
        r#""name":"b","type":"fifo","uid":3"#,
        r#""name":"\\x62","type":"fifo","uid":4"#,
        r#""name":"A","type":"fifo","uid":5"#,
    ]);
    assert_eq!(names(&tree), [b"A", b"a", b"b"]);
    assert_eq!(tree.iter().map(NodeRef::uid).collect::<Vec<_>>(), [5, 2, 1]);
    assert_eq!(tree.rejected(), 2);
    for node in tree.iter() {
        assert_eq!(tree.find(node.name()).unwrap().position, node.position);
    }
    assert!(tree.find(b"c").is_none() && tree.find(b"").is_none() && tree.get(3).is_none());
}

#[test]
fn test_links_prefer_raw_targets() {
    let target = |entry: &str| {
        let tree = tree(&[&format!(r#""name":"a","type":"symlink",{entry}"#)]);
        tree.get(0).unwrap().link_target().to_vec()
    };
    assert_eq!(target(r#""linktarget":"plain\\nas it is""#), br"plain\nas it is");
    assert_eq!(target(r#""linktarget":"to\ufffd","linktarget_raw":"dG//""#), b"to\xff");
    assert_eq!(target(r#""linktarget_raw":"dG//","linktarget":"to\ufffd""#), target(r#""linktarget_raw":"dG//""#));
    assert_eq!(target(r#""linktarget":"to","linktarget_raw":null"#), b"to");
}

#[test]
fn test_a_directory_may_lack_its_tree() {
    let with = format!(r#""name":"b","type":"dir","subtree":"{}""#, id(7));
    let tree = tree(&[r#""name":"a","type":"dir","subtree":null"#, &with, r#""name":"c","type":"dir""#]);
    let subtrees: Vec<_> = tree.iter().map(NodeRef::subtree).collect();
    assert_eq!(subtrees, [None, Some(TreeId(Id::new([7; 32]))), None]);
}

#[test]
fn test_empty_trees() {
    for json in [r#"{"nodes":null}"#, r#"{"nodes":[]}"#, "{}", "null", " { } \n"] {
        let tree = parse(json.as_bytes()).unwrap();
        assert!(tree.is_empty() && tree.find(b"a").is_none(), "{json}");
    }
}

#[test]
fn test_what_is_no_tree_is_an_error() {
    let good =
        json(&[&format!(r#""name":"a","type":"file","mtime":"2026-11-22T19:52:21Z","uid":7,"content":["{}"]"#, id(1))]);
    assert_eq!(parse(good.as_bytes()).unwrap().len(), 1);
    for bad in [
        String::new(),
        "[]".to_owned(),
        "{\"nodes\":7}".to_owned(),
        "{\"nodes\":[7]}".to_owned(),
        good.replace("2026", "26"),
        good.replace(":7", ":-7"),
        good.replace(":7", ":4294967296"),
        good.replace(":7", ":1e3"),
        good.replace("\"a\"", "7"),
        good.replace(&id(1), "01"),
        good.replace(&id(1), &"zz".repeat(32)),
        good.replace("\n", "{}"),
        good.replace("}]}", "},]}"),
        good.replace("\"uid\":7", &format!("\"x\":{}", "[".repeat(100_000))),
        good.replace("\"uid\":7", "\"extended_attributes\":[{\"name\":\"a\",\"value\":\"*\"}]"),
    ] {
        assert!(parse(bad.as_bytes()).is_err(), "{bad:.200}");
    }
    let long = " ".repeat(TREE_LIMIT_BYTES + 1);
    assert_eq!(parse(long.as_bytes()).unwrap_err().to_string(), "67108865 bytes, at most 67108864 are read");
}

#[test]
fn test_memory_is_bounded_by_the_json() {
    // The most entries: one byte of name each would repeat, so numbers.
    let entries: Vec<_> = (0..=ENTRIES_LIMIT).map(|n| format!(r#"{{"name":"{n:x}","type":"fifo"}}"#)).collect();
    let text = format!("{{\"nodes\":[{}]}}", entries.join(","));
    assert_eq!(parse(text.as_bytes()).unwrap_err(), FormatError::new("more than the 524288 entries that are read"));
    // Attributes without a name cost nothing, and a name of 50 MB is one entry that is left out.
    let empty =
        format!(r#"{{"nodes":[{{"name":"a","type":"fifo","extended_attributes":[{}{{}}]}}]}}"#, "{},".repeat(1 << 20));
    let long = format!(r#"{{"nodes":[{{"name":"{}","type":"fifo"}}]}}"#, "n".repeat(50 << 20));
    for text in [empty, long] {
        let tree = parse(text.as_bytes()).unwrap();
        assert_eq!((tree.len(), tree.rejected()), (0, 1));
        assert!(tree.weight_bytes() < 1000);
    }
}

#[test]
fn test_owners_are_shared_only_where_all_is_equal() {
    let entry = |name: &str, rest: &str| format!(r#""name":"{name}","type":"fifo","uid":1,"gid":2,{rest}"#);
    let tree = tree(&[
        &entry("a", r#""user":"u","group":"g","device_id":1"#),
        &entry("b", r#""user":"u","group":"g","device_id":1"#),
        &entry("c", r#""user":"u","group":"g","device_id":2"#),
        &entry("d", r#""user":"v","group":"g","device_id":2"#),
        &entry("e", r#""user":"v","group":"h","device_id":2"#),
        &entry("f", r#""user":"v\u0041","group":"h","device_id":2"#),
        &entry("g", &format!(r#""user":"{}""#, "x".repeat(10_000))),
    ]);
    assert_eq!(tree.owners.len(), 6);
    let owners: Vec<_> =
        tree.iter().map(|node| format!("{}:{}@{}", node.user(), node.group(), node.device_id())).collect();
    assert_eq!(owners, ["u:g@1", "u:g@1", "u:g@2", "v:g@2", "v:h@2", "vA:h@2", ":@0"]);
}

/// What `parse` must find of an entry, written down the slow way.
#[derive(Debug, Clone)]
struct Model {
    name: String,
    kind: &'static str,
    uid: u32,
    size: u64,
    content: Vec<[u8; 32]>,
    xattrs: Vec<(String, Vec<u8>)>,
    target: String,
}

fn model() -> impl Strategy<Value = Model> {
    let name = prop_oneof![4 => "[a-c]{1,3}", 1 => "[a./ä\\\\\"]{0,3}", 1 => "[ -~]{1,20}"];
    let kind = prop::sample::select(vec!["file", "dir", "symlink", "fifo", "socket", "dev", "chardev", "odd"]);
    let xattrs = prop::collection::vec(("[a-z.]{1,9}", any::<Vec<u8>>()), 0..3);
    let content = prop::collection::vec(any::<[u8; 32]>(), 0..4);
    (name, kind, any::<u32>(), 0..1_u64 << 62, content, xattrs, "[ -~]{0,20}").prop_map(
        |(name, kind, uid, size, content, xattrs, target)| Model { name, kind, uid, size, content, xattrs, target },
    )
}

fn write(models: &[Model]) -> Vec<u8> {
    use base64::Engine as _;
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let nodes: Vec<_> = models
        .iter()
        .map(|model| {
            serde_json::json!({
                "name": model.name.replace('\\', "\\\\").replace('"', "\\\""),
                "type": model.kind,
                "uid": model.uid,
                "size": model.size,
                "content": model.content.iter().map(hex::encode).collect::<Vec<_>>(),
                "subtree": model.content.first().map(hex::encode),
                "linktarget": model.target,
                "extended_attributes": model.xattrs.iter()
                    .map(|(name, value)| serde_json::json!({"name": name, "value": base64(value)}))
                    .collect::<Vec<_>>(),
            })
        })
        .collect();
    serde_json::to_vec(&serde_json::json!({ "nodes": nodes })).unwrap()
}

proptest! {
    #[test]
    fn prop_trees_hold_what_was_written(models in prop::collection::vec(model(), 0..30)) {
        let tree = parse(&write(&models)).unwrap();
        let mut expected = BTreeMap::new();
        for model in &models {
            let hidden = ["", ".", ".."].contains(&model.name.as_str()) || model.name.contains('/') || model.kind == "odd";
            if !hidden {
                expected.entry(model.name.as_bytes()).or_insert(model);
            }
        }
        prop_assert_eq!(names(&tree), expected.keys().copied().collect::<Vec<_>>());
        prop_assert_eq!(tree.rejected(), models.len() - expected.len());
        for (node, model) in tree.iter().zip(expected.values()) {
            prop_assert_eq!((node.uid(), node.size()), (model.uid, model.size));
            let content: Vec<_> = node.content().iter().map(|blob| *blob.as_bytes()).collect();
            prop_assert_eq!(content, if model.kind == "file" { model.content.clone() } else { vec![] });
            let subtree = node.subtree().map(|id| *id.as_bytes());
            prop_assert_eq!(subtree, model.content.first().copied().filter(|_| model.kind == "dir"));
            let target = if model.kind == "symlink" { model.target.as_bytes() } else { b"" };
            prop_assert_eq!(node.link_target(), target);
            let xattrs: Vec<_> = node.xattrs().map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec())).collect();
            prop_assert_eq!(&xattrs, &model.xattrs);
            prop_assert_eq!(tree.find(node.name()).unwrap().position, node.position);
        }
    }

    #[test]
    fn prop_damage_ends(models in prop::collection::vec(model(), 1..5), at: prop::sample::Index, byte: u8, bytes: Vec<u8>) {
        drop(parse(&bytes));
        let mut text = write(&models);
        let at = at.index(text.len());
        text[at] = byte;
        drop(parse(&text[..at]));
        if let Ok(tree) = parse(&text) {
            for node in tree.iter() {
                let _ = (node.name(), node.user(), node.group(), node.content(), node.subtree(), node.link_target(), node.rdev());
                prop_assert!(node.xattrs().all(|(name, _)| !name.is_empty()));
            }
        }
    }
}

/// Not a bound, which a busy machine would break, but a figure for whoever looks (`--nocapture`).
#[test]
fn test_parse_is_not_an_entry_at_a_time() {
    let entries: Vec<_> = (0..20_000)
        .map(|n| {
            format!(
                r#"{{"name":"some-file-name-{n:05}.txt","type":"file","mode":420,"mtime":"2026-11-22T19:52:21.623533528+01:00",
"atime":"2026-11-22T19:52:21.623533528+01:00","ctime":"2026-11-22T19:52:21.623533528+01:00","uid":1000,"gid":1000,
"user":"somebody","group":"somebody","inode":{n},"device_id":65024,"size":4096,"links":1,"content":["{}"]}}"#,
                id(7)
            )
            .replace('\n', "")
        })
        .collect();
    let text = format!("{{\"nodes\":[{}]}}", entries.join(","));
    let began = std::time::Instant::now();
    let rounds = 5;
    for _ in 0..rounds {
        assert_eq!(parse(text.as_bytes()).unwrap().len(), 20_000);
    }
    let elapsed = began.elapsed().as_secs_f64() / f64::from(rounds);
    let weight = parse(text.as_bytes()).unwrap().weight_bytes();
    println!(
        "{:.0} MB/s, {:.0} ns an entry, {} bytes an entry",
        text.len() as f64 / elapsed / 1e6,
        elapsed * 1e9 / 20_000.0,
        weight / 20_000
    );
    assert!(elapsed < 5.0);
}
