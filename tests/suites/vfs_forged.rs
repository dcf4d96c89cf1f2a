//! The tree over repositories that no honest program writes.

use std::sync::Arc;

use serde_json::json;
use stash_repo::{BlobId, Id};
use stash_tests::forge::{Forge, PASSWORD, dir_node, file_node, node};
use stash_tests::tree_reader::{list, open, read_all, show};
use stash_vfs::{FileType, Ino, NamespaceOptions, Vfs, VfsError};
use tempfile::TempDir;

struct Forged {
    folder: TempDir,
    forge: Forge,
}

impl Forged {
    fn new() -> Self {
        let folder = TempDir::with_prefix("stash-fs-forged-").unwrap();
        let forge = Forge::create(folder.path());
        Self { folder, forge }
    }

    async fn show(&self) -> Vfs {
        let repository = open(self.folder.path(), PASSWORD).await;
        show(&repository, NamespaceOptions { root: Some("latest".into()), ..NamespaceOptions::default() })
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn test_a_directory_without_subtree_fails_alone() {
    let mut it = Forged::new();
    let blob = it.forge.blob("data", b"content");
    let tree = it.forge.tree(&[dir_node("broken", None), file_node("file", 7, &[blob])]);
    it.forge.snapshot(tree);
    let vfs = it.show().await;
    let names: Vec<_> = list(&vfs, Ino::ROOT, 10, true).await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [&b"broken"[..], b"file"]);
    let broken = vfs.resolve(b"broken").await.unwrap();
    assert_eq!(broken.kind, FileType::Dir);
    let error = list(&vfs, broken.ino, 10, true).await.unwrap_err();
    assert!(error.to_string().contains("broken"), "{error}");
    assert!(matches!(error, VfsError::Repo { .. }), "{error:?}");
    let file = vfs.resolve(b"file").await.unwrap();
    assert_eq!(read_all(&vfs, file.ino, 100).await.unwrap(), b"content");
}

#[tokio::test]
async fn test_a_directory_whose_tree_is_lost_fails_alone() {
    let mut it = Forged::new();
    let lost = stash_repo::TreeId(Id::hash(b"nowhere"));
    let tree = it.forge.tree(&[dir_node("lost", Some(lost)), dir_node("void", None)]);
    it.forge.snapshot(tree);
    let vfs = it.show().await;
    let dir = vfs.resolve(b"lost").await.unwrap();
    assert!(matches!(list(&vfs, dir.ino, 10, true).await, Err(VfsError::Repo { path, .. }) if path == "/lost"));
    assert_eq!(list(&vfs, Ino::ROOT, 10, false).await.unwrap().len(), 2);
}

#[tokio::test]
async fn test_a_chain_of_directories_ends_at_4096() {
    let mut it = Forged::new();
    let mut tree = it.forge.tree(&[]);
    for _ in 0..4_200 {
        tree = it.forge.tree(&[dir_node("d", Some(tree))]);
    }
    it.forge.snapshot(tree);
    let vfs = it.show().await;
    let mut at = Ino::ROOT;
    let mut depth = 0;
    let error = loop {
        match vfs.lookup(at, b"d").await {
            Ok(entry) => at = entry.attr.ino,
            Err(error) => break error,
        }
        depth += 1;
    };
    assert_eq!(depth, 4_097, "the directory at the limit is named, and cannot be entered");
    assert!(error.to_string().contains("4096"), "{error}");
}

#[tokio::test]
async fn test_a_lost_blob_takes_only_its_own_range() {
    let mut it = Forged::new();
    let (a, c) = (vec![b'a'; 3_000], vec![b'c'; 5_000]);
    let (first, last) = (it.forge.blob("data", &a), it.forge.blob("data", &c));
    let lost = BlobId(Id::hash(b"lost"));
    let tree = it.forge.tree(&[
        file_node("middle", 10_000, &[first, lost, last]),
        file_node("only", 2_000, &[lost]),
        file_node("short", 9_000, &[first, last]),
        file_node("long", 7_000, &[first, last]),
    ]);
    it.forge.snapshot(tree);
    let vfs = it.show().await;
    let middle = vfs.resolve(b"middle").await.unwrap().ino;
    assert_eq!(vfs.read(middle, 0, 3_000).await.unwrap().to_vec(), a);
    assert_eq!(vfs.read(middle, 5_000, 9_000).await.unwrap().to_vec(), c);
    for (offset, len) in [(0, 3_001), (3_000, 1), (4_999, 1), (4_999, 100)] {
        let error = vfs.read(middle, offset, len).await.unwrap_err();
        assert!(error.to_string().starts_with("/middle: "), "{error}");
        assert!(error.to_string().contains(&lost.to_string()), "{error}");
    }
    assert_eq!(vfs.read(middle, 10_000, 1).await.unwrap().len(), 0);
    let only = vfs.resolve(b"only").await.unwrap().ino;
    assert!(vfs.read(only, 0, 10).await.is_err());
    // Sizes that disagree: the content is what its blobs are.
    for name in ["short", "long"] {
        let file = vfs.resolve(name.as_bytes()).await.unwrap();
        assert_eq!(read_all(&vfs, file.ino, 4_096).await.unwrap(), [a.clone(), c.clone()].concat(), "{name}");
    }
    assert_eq!(vfs.resolve(b"short").await.unwrap().size, 9_000);
}

#[tokio::test]
async fn test_absurd_sizes_and_contents_are_harmless() {
    let mut it = Forged::new();
    let blob = it.forge.blob("data", b"tiny");
    let many = vec![blob; 100_000];
    let tree = it.forge.tree(&[
        file_node("huge", i64::MAX.unsigned_abs(), &[blob]),
        file_node("many", 400_000, &many),
        file_node("none", 1 << 40, &[]),
    ]);
    it.forge.snapshot(tree);
    let vfs = it.show().await;
    let huge = vfs.resolve(b"huge").await.unwrap();
    assert_eq!(vfs.read(huge.ino, 0, 100).await.unwrap().to_vec(), b"tiny");
    for offset in [4, 1 << 40, u64::MAX - 1, u64::MAX] {
        assert_eq!(vfs.read(huge.ino, offset, u32::MAX).await.unwrap().len(), 0, "{offset}");
    }
    let many = vfs.resolve(b"many").await.unwrap();
    assert_eq!(vfs.read(many.ino, 399_998, 100).await.unwrap().to_vec(), b"ny");
    let none = vfs.resolve(b"none").await.unwrap();
    assert_eq!(vfs.read(none.ino, 0, 100).await.unwrap().len(), 0);
    assert_eq!(vfs.seek(none.ino, 5, false).await.unwrap(), 5);
}

#[tokio::test]
async fn test_names_that_no_kernel_takes_are_left_out() {
    let mut it = Forged::new();
    let long = "x".repeat(256);
    let just = "y".repeat(255);
    let nodes: Vec<_> = ["", ".", "..", "a/b", "nul\0", &long, &just, "fine"]
        .map(|name| node(name, "fifo", json!({})))
        .into_iter()
        .collect();
    let tree = it.forge.tree(&nodes);
    it.forge.snapshot(tree);
    let vfs = it.show().await;
    for chunk in [1, 100] {
        let names: Vec<_> =
            list(&vfs, Ino::ROOT, chunk, true).await.unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, [b"fine".to_vec(), just.clone().into_bytes()]);
    }
    assert!(matches!(vfs.lookup(Ino::ROOT, long.as_bytes()).await, Err(VfsError::NameTooLong)));
    assert!(matches!(vfs.lookup(Ino::ROOT, b"a/b").await, Err(VfsError::NotFound)));
}

#[tokio::test]
async fn test_every_operation_refuses_what_it_is_not_for() {
    let mut it = Forged::new();
    let blob = it.forge.blob("data", b"content");
    let empty = it.forge.tree(&[]);
    let tree = it.forge.tree(&[
        file_node("file", 7, &[blob]),
        dir_node("dir", Some(empty)),
        node("link", "symlink", json!({ "linktarget": "file" })),
    ]);
    it.forge.snapshot(tree);
    let vfs = it.show().await;
    let [file, dir, link] = ["file", "dir", "link"].map(|name| {
        let vfs = vfs.clone();
        async move { vfs.resolve(name.as_bytes()).await.unwrap().ino }
    });
    let (file, dir, link) = (file.await, dir.await, link.await);
    assert!(matches!(vfs.lookup(file, b"x").await, Err(VfsError::NotADirectory)));
    assert!(matches!(list(&vfs, link, 1, true).await, Err(VfsError::NotADirectory)));
    assert!(matches!(vfs.read(dir, 0, 1).await, Err(VfsError::IsADirectory)));
    assert!(matches!(vfs.read(link, 0, 1).await, Err(VfsError::Invalid)));
    assert!(matches!(vfs.readlink(file).await, Err(VfsError::Invalid)));
    assert_eq!(vfs.readlink(link).await.unwrap(), "file");
    let stranger = Ino(0x1234_5678_9abc);
    assert!(matches!(vfs.getattr(stranger).await, Err(VfsError::Stale)));
    assert!(matches!(vfs.read(stranger, 0, 1).await, Err(VfsError::Stale)));
    assert!(matches!(vfs.try_lookup(stranger, b"x"), Some(Err(VfsError::Stale))));
    vfs.forget(stranger, u64::MAX);
    // The root is the snapshot's own directory, and cannot be forgotten.
    vfs.forget(Ino::ROOT, u64::MAX);
    assert_eq!(vfs.getattr(Ino::ROOT).await.unwrap().attr.kind, FileType::Dir);
}

/// Two threads walk, look up and forget the same tree; in the end the kernel holds nothing and so does the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_nothing_is_left_when_all_is_forgotten() {
    let mut it = Forged::new();
    let leaf: Vec<_> = (0..50).map(|n| node(&format!("f{n}"), "fifo", json!({}))).collect();
    let leaf = it.forge.tree(&leaf);
    let dirs: Vec<_> = (0..20).map(|n| dir_node(&format!("d{n}"), Some(leaf))).collect();
    let tree = it.forge.tree(&dirs);
    it.forge.snapshot(tree);
    let vfs = Arc::new(it.show().await);
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let vfs = Arc::clone(&vfs);
            tokio::spawn(async move {
                let mut held = Vec::new();
                for dir in list(&vfs, Ino::ROOT, 7, true).await.unwrap() {
                    held.push(dir.ino);
                    held.extend(list(&vfs, dir.ino, 7, true).await.unwrap().into_iter().map(|entry| entry.ino));
                }
                held
            })
        })
        .collect();
    let mut held = Vec::new();
    for task in tasks {
        held.push(task.await.unwrap());
    }
    for held in held {
        assert_eq!((held.len(), vfs.statfs().files), (20 * 51, 20 * 51 + 1));
        for ino in held {
            vfs.forget(ino, 1);
        }
    }
    assert_eq!(vfs.statfs().files, 1);
}
