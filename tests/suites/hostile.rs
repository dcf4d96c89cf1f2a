//! Repositories that an attacker wrote: an error for what is wrong, the rest readable, nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use stash_repo::{BlobId, Id, RepoError, TreeId};
use stash_tests::engine::{self, Found, latest, open, read_everything};
use stash_tests::fixture::pattern;
use stash_tests::forge::{Forge, PASSWORD, dir_node, file_node, node};

type Tree = std::collections::BTreeMap<Vec<u8>, Found>;

/// Forges a repository and reads everything in it.
fn read(forge: impl FnOnce(&mut Forge) -> TreeId) -> Tree {
    let dir = tempfile::tempdir().unwrap();
    let mut forged = Forge::create(dir.path());
    let tree = forge(&mut forged);
    forged.snapshot(tree);
    read_repository(dir.path())
}

fn read_repository(root: &Path) -> Tree {
    engine::run(async {
        let repository = open(root, PASSWORD, None).await.unwrap();
        read_everything(&latest(&repository).await.unwrap()).await
    })
}

fn good(tree: &Tree, path: &str, bytes: &[u8]) {
    let want = Found::File(bytes.len() as u64, Ok(Id::hash(bytes)));
    assert_eq!(tree.get(path.as_bytes()), Some(&want), "{path}");
}

fn bad(tree: &Tree, path: &str) {
    let found = tree.get(path.as_bytes()).unwrap_or_else(|| panic!("{path} is not listed"));
    assert!(found.error().is_some(), "{path}: {found:?}");
}

#[test]
fn test_hostile_an_honest_forgery_reads() {
    let bytes = pattern(3_000_000, 1);
    let tree = read(|forge| {
        let blob = forge.blob("data", &bytes);
        let leaf = forge.tree(&[file_node("leaf", 3_000_000, &[blob])]);
        forge.tree(&[dir_node("dir", Some(leaf)), node("link", "symlink", json!({ "linktarget": "dir/leaf" }))])
    });
    good(&tree, "/dir/leaf", &bytes);
    assert_eq!(tree.get(&b"/link"[..]), Some(&Found::Link(b"dir/leaf".to_vec())));
}

#[test]
fn test_hostile_names_that_no_filesystem_shows_are_left_out() {
    let tree = read(|forge| {
        let blob = forge.blob("data", b"ok");
        let mut nodes: Vec<_> = ["..", ".", "", "a/b", "/etc/passwd", "nul\0", "../../up", "twice", "twice"]
            .iter()
            .map(|name| file_node(name, 2, &[blob]))
            .collect();
        nodes.push(file_node("zz-good", 2, &[blob]));
        forge.tree(&nodes)
    });
    good(&tree, "/zz-good", b"ok");
    good(&tree, "/twice", b"ok");
    assert_eq!(tree.len(), 3, "{:?}", tree.keys().map(|k| String::from_utf8_lossy(k)).collect::<Vec<_>>());
}

#[test]
fn test_hostile_a_name_of_100_mb_costs_no_memory_and_no_other_entry_of_other_trees() {
    let tree = read(|forge| {
        let blob = forge.blob("data", b"ok");
        let long = forge.tree(&[file_node(&"n".repeat(100 << 20), 2, &[blob])]);
        let medium = forge.tree(&[file_node(&"n".repeat(5_000), 2, &[blob]), file_node("zz", 2, &[blob])]);
        forge.tree(&[dir_node("long", Some(long)), dir_node("medium", Some(medium)), file_node("zz", 2, &[blob])])
    });
    bad(&tree, "/long");
    good(&tree, "/medium/zz", b"ok");
    good(&tree, "/zz", b"ok");
}

#[test]
fn test_hostile_directories_without_a_subtree_or_with_one_that_is_none() {
    let tree = read(|forge| {
        let blob = forge.blob("data", b"ok");
        let not_a_tree = forge.tree_bytes(b"{\"nodes\":[{\"name\":");
        let data_as_tree = TreeId(blob.0);
        let nowhere = TreeId(Id::hash(b"nowhere"));
        forge.tree(&[
            dir_node("a-none", None),
            dir_node("b-cut", Some(not_a_tree)),
            dir_node("c-data", Some(data_as_tree)),
            dir_node("d-nowhere", Some(nowhere)),
            file_node("zz", 2, &[blob]),
        ])
    });
    for dir in ["/a-none", "/b-cut", "/c-data", "/d-nowhere"] {
        bad(&tree, dir);
    }
    good(&tree, "/zz", b"ok");
}

#[test]
fn test_hostile_depth_ends() {
    let tree = read(|forge| {
        let mut tree = forge.tree(&[]);
        for _ in 0..6_000 {
            tree = forge.tree(&[dir_node("d", Some(tree))]);
        }
        tree
    });
    let deepest = tree.keys().map(|path| path.iter().filter(|b| **b == b'/').count()).max().unwrap();
    assert!(deepest <= 4_100, "{deepest} directories deep");
}

#[test]
fn test_hostile_blobs_that_lie_about_themselves() {
    let zeros = vec![0; 1 << 20];
    let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 19).unwrap();
    let fine = zstd::bulk::compress(&zeros, 3).unwrap();
    let id = |name: &str| BlobId(Id::hash(name.as_bytes()));
    let tree = read(|forge| {
        // Claims less than it unpacks to, more than it unpacks to, and is no frame at all.
        forge.blob_as(id("bomb"), "data", &bomb, Some(1 << 20));
        forge.blob_as(id("short"), "data", &fine, Some(2 << 20));
        forge.blob_as(id("absurd"), "data", &fine, Some(u32::MAX));
        forge.blob_as(id("no-frame"), "data", b"this is not zstd", Some(100));
        let good = forge.blob("data", b"ok");
        forge.tree(&[
            file_node("absurd", 1 << 20, &[id("absurd")]),
            file_node("bomb", 1 << 20, &[id("bomb")]),
            file_node("gone", 10, &[id("gone")]),
            file_node("no-frame", 100, &[id("no-frame")]),
            file_node("short", 2 << 20, &[id("short")]),
            file_node("zz", 2, &[good]),
        ])
    });
    for file in ["/absurd", "/bomb", "/gone", "/no-frame", "/short"] {
        bad(&tree, file);
    }
    good(&tree, "/zz", b"ok");
}

#[test]
fn test_hostile_index_entries_outside_of_their_packs() {
    let pack = Id::hash(b"no such pack");
    let blob = |name: &str, offset: u32, length: u32| json!({ "id": Id::hash(name.as_bytes()), "type": "data", "offset": offset, "length": length });
    let tree = read(|forge| {
        forge.lie(&json!({ "id": pack, "blobs": [blob("far", u32::MAX - 40, 1_000_000), blob("tiny", 0, 3), blob("no-pack", 0, 100)] }));
        let good = forge.blob("data", b"ok");
        let content = |name: &str| [BlobId(Id::hash(name.as_bytes()))];
        forge.tree(&[
            file_node("far", 100, &content("far")),
            file_node("no-pack", 68, &content("no-pack")),
            file_node("tiny", 1, &content("tiny")),
            file_node("zz", 2, &[good]),
        ])
    });
    for file in ["/far", "/no-pack", "/tiny"] {
        bad(&tree, file);
    }
    good(&tree, "/zz", b"ok");
}

#[test]
fn test_hostile_sizes_that_content_does_not_have() {
    let tree = read(|forge| {
        let blob = forge.blob("data", b"12345");
        forge.tree(&[
            // Larger than any file can be: left out.
            file_node("a-absurd", u64::MAX, &[blob]),
            file_node("a-more", 1 << 60, &[blob]),
            file_node("b-less", 1, &[blob, blob]),
            file_node("c-none", 1 << 40, &[]),
            file_node("zz", 5, &[blob]),
        ])
    });
    good(&tree, "/zz", b"12345");
    // Whatever is shown, it ends: read_everything returned.
    assert_eq!(tree.len(), 5);
}

#[test]
fn test_hostile_key_files_that_ask_for_terabytes_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut forge = Forge::create(dir.path());
    for (n, r, p) in [
        (1u64 << 40, 8, 1),
        (1 << 20, 1 << 20, 1),
        (1 << 15, 8, 1 << 30),
        (0, 0, 0),
        (3, 8, 1),
        (u64::MAX, u32::MAX, u32::MAX),
    ] {
        forge.key_file(n, r, p);
    }
    let blob = forge.blob("data", b"ok");
    let tree = forge.tree(&[file_node("zz", 2, &[blob])]);
    forge.snapshot(tree);
    let started = Instant::now();
    good(&read_repository(dir.path()), "/zz", b"ok");
    assert!(started.elapsed() < Duration::from_secs(60), "a limit did not hold");
}

#[test]
fn test_hostile_no_more_than_sixteen_keys_are_tried() {
    let dir = tempfile::tempdir().unwrap();
    let mut forge = Forge::create(dir.path());
    for n in 0..40 {
        forge.key_file(1 << 10, 8, 1 + (n % 8));
    }
    let tree = forge.tree(&[]);
    forge.snapshot(tree);
    let error = engine::run(open(dir.path(), "not the password", None)).unwrap_err();
    assert!(!matches!(error, RepoError::WrongPassword { tried } if tried > 16), "{error}");
    assert!(error.to_string().contains("first 16 of 41"), "{error}");
}

#[test]
fn test_hostile_swapped_blobs_are_not_served_where_names_depend_on_them() {
    let tree = read(|forge| {
        let blob = forge.blob("data", b"ok");
        // A tree blob under another tree's id: its MAC is right, its hash is not.
        let wanted = TreeId(Id::hash(b"the tree that was stored"));
        let other = format!("{{\"nodes\":[{}]}}\n", file_node("evil", 2, &[blob]));
        forge.blob_as(wanted.blob(), "tree", other.as_bytes(), None);
        forge.tree(&[dir_node("a-swapped", Some(wanted)), file_node("zz", 2, &[blob])])
    });
    bad(&tree, "/a-swapped");
    good(&tree, "/zz", b"ok");
}
