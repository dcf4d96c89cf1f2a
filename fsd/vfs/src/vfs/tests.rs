use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use stash_repo::{RepoError, SnapshotId};
use tokio::runtime::Runtime;

use super::*;
use crate::inode::{FileStore, Record};
use crate::testing::{Fake, Names, Node, blob_of};
use Node::{Dir, File, Link};

const NEVER: Duration = Duration::from_secs(1_000_000);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn show(fake: &Arc<Fake>, namespace: NamespaceOptions, interval: Duration, table: InodeTable) -> VfsResult<Vfs> {
    let source: Arc<dyn Source> = Arc::<Fake>::clone(fake);
    let options = VfsOptions { prefetch: true, layout_owner: Some((7, 8)), ..VfsOptions::default() };
    Vfs::over(vec![("repo".to_owned(), source, namespace)], options, table, interval).await
}

fn table() -> InodeTable {
    InodeTable::new(100_000, None)
}

fn latest() -> NamespaceOptions {
    NamespaceOptions { root: Some("latest".to_owned()), ..NamespaceOptions::default() }
}

const TIMES: [&str; 3] =
    ["2024-01-01T00:00:00+00:00[UTC]", "2024-02-01T00:00:00+00:00[UTC]", "2024-03-01T00:00:00+00:00[UTC]"];

fn some_tree() -> Vec<Node> {
    vec![
        Dir("a", vec![File("f1"), File("f2"), Link("l1", 5), Dir("deep", vec![File("leaf")])]),
        Dir("b", vec![Link("l2", 5), Link("l3", 6)]),
        File("z"),
    ]
}

async fn names(vfs: &Vfs, dir: Ino, plus: bool) -> Vec<(String, Ino)> {
    let mut sink = Names { limit: usize::MAX, ..Names::default() };
    vfs.readdir(dir, 0, plus, &mut sink).await.unwrap();
    sink.entries.drain(..).skip(2).map(|(ino, _, _, name, _)| (name, ino)).collect()
}

#[tokio::test]
async fn test_try_gives_up_where_a_tree_is_lacking_and_gives_nothing() {
    let fake = Arc::new(Fake::default());
    fake.add(1, TIMES[0], fake.tree(&some_tree()));
    let vfs = show(&fake, latest(), NEVER, table()).await.unwrap();
    let mut sink = Names { limit: 100, ..Names::default() };
    assert!(vfs.try_readdir(Ino::ROOT, 0, true, &mut sink).is_none());
    assert!(sink.entries.is_empty());
    assert!(vfs.try_lookup(Ino::ROOT, b"a").is_none());
    assert!(vfs.try_getattr(Ino::ROOT).is_some(), "the root needs no tree");
    vfs.lookup(Ino::ROOT, b"a").await.unwrap();
    assert!(vfs.try_lookup(Ino::ROOT, b"a").is_some());
    vfs.try_readdir(Ino::ROOT, 0, true, &mut sink).unwrap().unwrap();
    assert_eq!(sink.entries.len(), 5);
}

#[tokio::test]
async fn test_a_directory_can_be_resumed_at_every_entry() {
    let fake = Arc::new(Fake::default());
    let nodes: Vec<Node> = (0..30).map(|n| File(Box::leak(format!("f{n:02}").into_boxed_str()))).collect();
    let tree = fake.tree(&nodes);
    for number in 0..30 {
        fake.add(number, TIMES[0], tree);
    }
    let vfs = show(&fake, NamespaceOptions::default(), NEVER, table()).await.unwrap();
    let ids = vfs.resolve(b"ids").await.unwrap().ino;
    let snapshot = vfs.resolve(b"snapshots/latest").await.unwrap();
    assert_eq!(snapshot.kind, FileType::Symlink);
    let target = vfs.readlink(snapshot.ino).await.unwrap();
    assert_eq!(target, "2024-01-01T00:00:00Z-29");
    let inside = vfs.resolve(b"snapshots/2024-01-01T00:00:00Z-29").await.unwrap().ino;
    for dir in [Ino::ROOT, ids, inside] {
        let mut whole = Names { limit: usize::MAX, ..Names::default() };
        vfs.readdir(dir, 0, false, &mut whole).await.unwrap();
        assert_eq!(whole.entries[..2].iter().map(|entry| entry.3.as_str()).collect::<Vec<_>>(), [".", ".."]);
        for at in 0..whole.entries.len() {
            let offset = whole.entries[at].1;
            for limit in [1, 3, usize::MAX] {
                let mut rest = Names { limit, ..Names::default() };
                vfs.readdir(dir, offset, false, &mut rest).await.unwrap();
                let expected = &whole.entries[at + 1..];
                assert_eq!(rest.entries, expected[..expected.len().min(limit)]);
            }
        }
        let mut none = Names { limit: 9, ..Names::default() };
        vfs.readdir(dir, u64::MAX, false, &mut none).await.unwrap();
        assert!(none.entries.is_empty());
    }
}

#[tokio::test]
async fn test_blocks_are_what_all_repositories_store() {
    let fakes = [Arc::new(Fake::default()), Arc::new(Fake::default())];
    let parts = ["a", "b"].into_iter().zip(&fakes).map(|(name, fake)| {
        let source: Arc<dyn Source> = Arc::clone(fake) as Arc<dyn Source>;
        (name.to_owned(), source, NamespaceOptions::default())
    });
    let vfs = Vfs::over(parts.collect(), VfsOptions::default(), table(), NEVER).await.unwrap();
    let figures = vfs.statfs();
    // Twice 10,000 bytes.
    assert_eq!((figures.block_bytes, figures.blocks, figures.name_bytes), (4096, 5, 255));
}

#[tokio::test]
async fn test_what_does_not_fit_is_not_counted() {
    let fake = Arc::new(Fake::default());
    fake.add(1, TIMES[0], fake.tree(&some_tree()));
    for namespace in [latest(), NamespaceOptions::default()] {
        let vfs = show(&fake, namespace, NEVER, table()).await.unwrap();
        for limit in 0..5 {
            let mut sink = Names { limit, ..Names::default() };
            vfs.readdir(Ino::ROOT, 0, true, &mut sink).await.unwrap();
            let counted: Vec<Ino> =
                sink.entries.iter().filter(|entry| entry.4.is_some()).map(|entry| entry.0).collect();
            assert_eq!(counted.len(), limit.saturating_sub(2));
            assert_eq!(vfs.statfs().files, 1 + counted.len() as u64);
            for ino in counted {
                vfs.forget(ino, 1);
            }
            assert_eq!(vfs.statfs().files, 1);
        }
    }
}

#[tokio::test]
async fn test_a_full_table_lists_without_attributes() {
    let fake = Arc::new(Fake::default());
    fake.add(1, TIMES[0], fake.tree(&some_tree()));
    let vfs = show(&fake, latest(), NEVER, InodeTable::new(3, None)).await.unwrap();
    let mut sink = Names { limit: 9, ..Names::default() };
    vfs.readdir(Ino::ROOT, 0, true, &mut sink).await.unwrap();
    let with: Vec<bool> = sink.entries[2..].iter().map(|entry| entry.4.is_some()).collect();
    assert_eq!(with, [true, true, false]);
    assert!(matches!(vfs.lookup(Ino::ROOT, b"z").await, Err(VfsError::TooManyInodes)));
    vfs.forget(sink.entries[2].0, 1);
    assert_eq!(vfs.lookup(Ino::ROOT, b"z").await.unwrap().attr.ino, sink.entries[4].0, "the number it was listed with");
}

#[tokio::test]
async fn test_hard_links_share_an_inode_wherever_the_snapshot_is_shown() {
    let fake = Arc::new(Fake::default());
    let id = fake.add(1, TIMES[0], fake.tree(&some_tree()));
    fake.add(2, TIMES[1], fake.tree(&some_tree()));
    let vfs = show(&fake, NamespaceOptions::default(), NEVER, table()).await.unwrap();
    let find = async |path: String| vfs.resolve(path.as_bytes()).await.unwrap();
    let short = id.0.short();
    let l1 = find(format!("ids/{short}/a/l1")).await;
    assert_eq!((l1.nlink, l1.size), (2, 10));
    assert_eq!(find(format!("ids/{short}/b/l2")).await.ino, l1.ino);
    assert_eq!(find("hosts/host/2024-01-01T00:00:00Z/b/l2".to_owned()).await.ino, l1.ino);
    assert_ne!(find(format!("ids/{short}/b/l3")).await.ino, l1.ino);
    assert_ne!(find("snapshots/latest".to_owned()).await.ino, l1.ino);
    assert_ne!(find("snapshots/2024-02-01T00:00:00Z/b/l2".to_owned()).await.ino, l1.ino, "another snapshot");
    // A directory may have one name only, so that of each layout has its own number.
    let (a, b) = (format!("ids/{short}/a"), "snapshots/2024-01-01T00:00:00Z/a".to_owned());
    assert_ne!(find(a).await.ino, find(b).await.ino);
}

#[tokio::test]
async fn test_a_new_snapshot_appears_and_a_forgotten_one_goes_on_for_those_inside() {
    let fake = Arc::new(Fake::default());
    let tree = fake.tree(&some_tree());
    let old = fake.add(1, TIMES[0], tree);
    let vfs = show(&fake, NamespaceOptions::default(), Duration::ZERO, table()).await.unwrap();
    let ids = vfs.resolve(b"ids").await.unwrap().ino;
    assert_eq!(names(&vfs, ids, false).await.len(), 1);
    let inside = vfs.resolve(format!("ids/{}/a", old.0.short()).as_bytes()).await.unwrap().ino;
    let before = vfs.getattr(ids).await.unwrap().attr;

    let new = fake.add(2, TIMES[1], tree);
    let refreshes = fake.refreshes.load(Relaxed);
    assert!(vfs.try_lookup(ids, b"x").is_none(), "an old list is looked up again");
    assert_eq!(names(&vfs, ids, false).await.len(), 2);
    assert_eq!(fake.refreshes.load(Relaxed), refreshes + 1, "a new snapshot needs a new index");
    assert_ne!(vfs.getattr(ids).await.unwrap().attr.mtime, before.mtime);
    assert_eq!(vfs.getattr(ids).await.unwrap().ttl, crate::attr::LAYOUT_TTL);

    fake.remove(old);
    let listed: Vec<String> = names(&vfs, ids, false).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, [new.0.short()]);
    assert!(matches!(vfs.lookup(ids, old.0.short().as_bytes()).await, Err(VfsError::NotFound)));
    assert_eq!(names(&vfs, inside, true).await.len(), 4, "whoever is inside reads on");
    assert_eq!(vfs.getattr(inside).await.unwrap().ttl, crate::attr::SNAPSHOT_TTL);
    let leaf = vfs.lookup(vfs.lookup(inside, b"deep").await.unwrap().attr.ino, b"leaf").await.unwrap();
    assert_eq!(leaf.attr.kind, FileType::File);
    // A list that is the same again builds nothing anew.
    let layout = Arc::as_ptr(&vfs.inner.state.lock().layout);
    names(&vfs, ids, false).await;
    assert_eq!(layout, Arc::as_ptr(&vfs.inner.state.lock().layout));
}

#[tokio::test]
async fn test_the_last_forget_ends_a_forgotten_snapshot() {
    let fake = Arc::new(Fake::default());
    let old = fake.add(1, TIMES[0], fake.tree(&some_tree()));
    let vfs = show(&fake, NamespaceOptions::default(), Duration::ZERO, table()).await.unwrap();
    let ids = vfs.lookup(Ino::ROOT, b"ids").await.unwrap().attr.ino;
    let root = vfs.lookup(ids, old.0.short().as_bytes()).await.unwrap().attr.ino;
    let z = vfs.lookup(root, b"z").await.unwrap().attr.ino;
    fake.remove(old);
    names(&vfs, ids, false).await;
    // The directory goes first, as it may.
    vfs.forget(root, 1);
    assert!(vfs.getattr(z).await.is_ok());
    vfs.forget(z, 1);
    assert!(matches!(vfs.getattr(z).await, Err(VfsError::Stale)));
    assert!(matches!(vfs.getattr(root).await, Err(VfsError::Stale)));
    assert_eq!(vfs.statfs().files, 2);
}

#[tokio::test]
async fn test_a_failed_list_keeps_the_old_one() {
    let fake = Arc::new(Fake::default());
    fake.add(1, TIMES[0], fake.tree(&[]));
    let vfs = show(&fake, NamespaceOptions::default(), Duration::ZERO, table()).await.unwrap();
    let ids = vfs.resolve(b"ids").await.unwrap().ino;
    *fake.snapshots.lock() = Err(RepoError::Deadline { seconds: 30 });
    let lists = fake.lists.load(Relaxed);
    assert_eq!(names(&vfs, ids, false).await.len(), 1);
    assert!(fake.lists.load(Relaxed) > lists);
}

#[tokio::test]
async fn test_a_list_is_looked_up_only_while_somebody_looks() {
    let fake = Arc::new(Fake::default());
    let id = fake.add(1, TIMES[0], fake.tree(&some_tree()));
    let vfs = show(&fake, NamespaceOptions::default(), Duration::ZERO, table()).await.unwrap();
    let inside = vfs.resolve(format!("ids/{}", id.0.short()).as_bytes()).await.unwrap().ino;
    let lists = fake.lists.load(Relaxed);
    names(&vfs, inside, true).await;
    vfs.lookup(inside, b"a").await.unwrap();
    vfs.getattr(Ino::ROOT).await.unwrap();
    assert_eq!(fake.lists.load(Relaxed), lists, "below a snapshot nothing can change");

    let patient = show(&fake, NamespaceOptions::default(), NEVER, table()).await.unwrap();
    let lists = fake.lists.load(Relaxed);
    for _ in 0..10 {
        names(&patient, Ino::ROOT, true).await;
        assert!(patient.try_lookup(Ino::ROOT, b"ids").is_some());
    }
    assert_eq!(fake.lists.load(Relaxed), lists, "the list is fresh");
}

#[tokio::test]
async fn test_roots() {
    let fake = Arc::new(Fake::default());
    fake.add(1, TIMES[0], fake.tree(&[File("old")]));
    let id = fake.add(2, TIMES[1], fake.tree(&some_tree()));
    let root = |spec: &str| NamespaceOptions { root: Some(spec.to_owned()), ..NamespaceOptions::default() };
    for (spec, expected) in [
        ("latest".to_owned(), &["a", "b", "z"][..]),
        ("latest~1".to_owned(), &["old"]),
        ("latest:/a".to_owned(), &["deep", "f1", "f2", "l1"]),
        (format!("{id}:a/deep/"), &["leaf"]),
    ] {
        let vfs = show(&fake, root(&spec), Duration::ZERO, table()).await.unwrap();
        let shown: Vec<String> = names(&vfs, Ino::ROOT, true).await.into_iter().map(|(name, _)| name).collect();
        assert_eq!(shown, expected, "{spec}");
        assert_eq!(vfs.getattr(Ino::ROOT).await.unwrap().attr.kind, FileType::Dir);
    }
    // A directory of a snapshot has its own attributes, a snapshot has the layout's.
    let sub = show(&fake, root("latest:a"), NEVER, table()).await.unwrap().getattr(Ino::ROOT).await.unwrap().attr;
    assert_eq!((sub.mode, sub.uid), (0o755, 0));
    let whole = show(&fake, root("latest"), NEVER, table()).await.unwrap().getattr(Ino::ROOT).await.unwrap().attr;
    assert_eq!((whole.mode, whole.uid, whole.gid), (0o555, 7, 8));
    for (spec, expected) in [
        ("latest~2", "no snapshot found for latest~2".to_owned()),
        ("latest:/a/f1", format!("there is no directory a/f1 in snapshot {}", id.0.short())),
        ("latest:nowhere", format!("there is no directory nowhere in snapshot {}", id.0.short())),
        ("newest", "a snapshot is".to_owned()),
    ] {
        let error = show(&fake, root(spec), NEVER, table()).await.unwrap_err().to_string();
        assert!(error.contains(&expected), "{error}");
    }
}

#[tokio::test]
async fn test_a_walk_is_read_ahead_and_a_lone_list_hardly() {
    fn wide(depth: u32) -> Vec<Node> {
        if depth == 0 {
            return vec![File("f")];
        }
        ["d0", "d1", "d2", "d3"].map(|name| Dir(name, wide(depth - 1))).into_iter().chain([File("f")]).collect()
    }
    let fake = Arc::new(Fake::default());
    // Equal trees have equal ids; names below differ so that all 341 are different.
    fn unlike(nodes: &mut Vec<Node>, path: &str) {
        for node in nodes.iter_mut() {
            if let Dir(name, below) = node {
                let path = format!("{path}{name}");
                unlike(below, &path);
            }
        }
        nodes.push(File(Box::leak(format!("z{path}").into_boxed_str())));
    }
    let mut nodes = wide(4);
    unlike(&mut nodes, "");
    fake.add(1, TIMES[0], fake.tree(&nodes));
    let vfs = show(&fake, latest(), NEVER, table()).await.unwrap();
    let (mut left, mut dirs) = (vec![Ino::ROOT], 0);
    while let Some(dir) = left.pop() {
        dirs += 1;
        let mut sink = Names { limit: usize::MAX, ..Names::default() };
        vfs.readdir(dir, 0, true, &mut sink).await.unwrap();
        // Depth first, in the order of names.
        left.extend(sink.entries.iter().skip(2).rev().filter(|entry| entry.2 == FileType::Dir).map(|entry| entry.0));
    }
    assert_eq!(dirs, 341);
    let waits = fake.waits.load(Relaxed);
    assert!(waits <= 3, "waited for {waits} of {dirs} trees");
    assert!(fake.prefetched_trees.lock().len() < 341 * 2, "little is asked for twice");
}

#[tokio::test]
async fn test_small_files_in_order_are_fetched_ahead_and_others_are_not() {
    let fake = Arc::new(Fake::default());
    fake.remote.store(true, Relaxed);
    let leak = |name: String| -> &'static str { Box::leak(name.into_boxed_str()) };
    let nodes: Vec<Node> = (0..1_000).map(|n| File(leak(format!("f{n:03}")))).collect();
    fake.add(1, TIMES[0], fake.tree(&nodes));
    let vfs = show(&fake, latest(), NEVER, table()).await.unwrap();
    let files = names(&vfs, Ino::ROOT, true).await;
    for at in [50, 3, 77, 20, 91, 8] {
        drop(vfs.try_read(files[at].1, 0, 1));
    }
    assert!(fake.prefetched_blobs.lock().is_empty(), "read anywhere");
    let mut late = 0;
    for (at, (name, ino)) in files.iter().enumerate() {
        if !fake.prefetched_blobs.lock().contains(&blob_of(name)) {
            late += 1;
        }
        drop(vfs.try_read(*ino, 0, 1));
        assert!(fake.prefetched_blobs.lock().len() <= at * 2 + 250);
    }
    assert!(late <= 3, "{late} files were not there");
}

/// Walks with lookups, forgets some, hands the table over and checks that everything held resolves.
#[tokio::test]
async fn test_another_process_resolves_what_the_kernel_holds() {
    let fake = Arc::new(Fake::default());
    let id = fake.add(1, TIMES[0], fake.tree(&some_tree()));
    let file = tempfile::tempfile().unwrap();
    let first = InodeTable::new(1_000, Some(Box::new(FileStore::new(file.try_clone().unwrap()))));
    let vfs = show(&fake, NamespaceOptions::default(), NEVER, first).await.unwrap();
    let paths = ["a", "a/f1", "a/l1", "a/deep", "a/deep/leaf", "b", "b/l2", "z"];
    let mut held: BTreeMap<&str, Attr> = BTreeMap::new();
    for path in paths {
        held.insert(path, vfs.resolve(format!("ids/{}/{path}", id.0.short()).as_bytes()).await.unwrap());
    }
    drop(vfs);

    // Nothing is in memory, and the only word from the other process is the file.
    fake.resident.lock().clear();
    let (records, _): (Vec<Record>, _) = FileStore::read(&file).unwrap();
    let table = InodeTable::from_records(records, 1_000, Some(Box::new(FileStore::new(file))));
    let next = show(&fake, NamespaceOptions::default(), NEVER, table).await.unwrap();
    for (path, attr) in held.iter().rev() {
        assert_eq!(next.getattr(attr.ino).await.unwrap().attr, *attr, "{path}");
    }
    assert!(next.try_read(held["a/deep/leaf"].ino, 0, 1).is_none());
    assert_eq!(next.lookup(held["a/deep"].ino, b"leaf").await.unwrap().attr, held["a/deep/leaf"]);
    next.forget(held["a/deep/leaf"].ino, 1);
    for attr in held.values() {
        next.forget(attr.ino, 1);
    }
    next.forget(held["a/l1"].ino, 1);
    // The root, and the two directories above the snapshot: FORGETs are written in lots, so those that the first process had
    // not written yet are counted still.
    assert_eq!(next.statfs().files, 3, "counts were handed over, too");
}

#[derive(Debug, Clone)]
enum Op {
    Lookup(usize, usize),
    List(usize, usize),
    Forget(usize, u64),
    Evict,
    NewSnapshot,
    ForgetSnapshot(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0..30_usize, 0..14_usize).prop_map(|(dir, name)| Op::Lookup(dir, name)),
        3 => (0..30_usize, 0..6_usize).prop_map(|(dir, limit)| Op::List(dir, limit)),
        5 => (0..30_usize, 1..4_u64).prop_map(|(ino, count)| Op::Forget(ino, count)),
        1 => Just(Op::Evict),
        1 => Just(Op::NewSnapshot),
        1 => (0..5_usize).prop_map(Op::ForgetSnapshot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A kernel that looks up, lists and forgets at will, while trees leave memory and snapshots come and go: every number it
    /// holds keeps its attributes, and the tree holds exactly what the kernel and the paths to it need.
    #[test]
    fn test_numbers_that_the_kernel_holds_stay_good(ops in prop::collection::vec(op(), 1..80)) {
        runtime().block_on(async {
            let fake = Arc::new(Fake::default());
            let tree = fake.tree(&some_tree());
            let mut snapshots: Vec<SnapshotId> = vec![fake.add(0, TIMES[0], tree)];
            let options = NamespaceOptions { path_templates: vec!["%i".into(), "t/%T".into()], ..NamespaceOptions::default() };
            let vfs = show(&fake, options, Duration::ZERO, table()).await.unwrap();
            let mut kernel: BTreeMap<Ino, (u64, Attr)> = BTreeMap::new();
            for (step, op) in (1..).zip(ops) {
                let held: Vec<Ino> = std::iter::once(Ino::ROOT).chain(kernel.keys().copied()).collect();
                match op {
                    Op::Lookup(dir, name) => {
                        let short = snapshots.first().map_or_else(String::new, |id| id.0.short());
                        let names = ["a", "b", "z", "f1", "f2", "l1", "l2", "l3", "deep", "leaf", "t", "latest", &short, "?"];
                        let dir = held[dir % held.len()];
                        if let Ok(entry) = vfs.lookup(dir, names[name].as_bytes()).await {
                            let known = kernel.entry(entry.attr.ino).or_insert((0, entry.attr));
                            known.0 += 1;
                        }
                    }
                    Op::List(dir, limit) => {
                        let mut sink = Names { limit, ..Names::default() };
                        if vfs.readdir(held[dir % held.len()], 2, true, &mut sink).await.is_ok() {
                            for (ino, _, kind, _, entry) in sink.entries {
                                let attr = entry.unwrap().attr;
                                assert_eq!((ino, kind), (attr.ino, attr.kind));
                                kernel.entry(ino).or_insert((0, attr)).0 += 1;
                            }
                        }
                    }
                    Op::Forget(which, count) => {
                        let ino = held[which % held.len()];
                        if let Some((known, _)) = kernel.get_mut(&ino) {
                            let count = count.min(*known);
                            *known -= count;
                            if *known == 0 {
                                kernel.remove(&ino);
                            }
                            vfs.forget(ino, count);
                        }
                    }
                    Op::Evict => fake.resident.lock().clear(),
                    Op::NewSnapshot => snapshots.push(fake.add(step, TIMES[step as usize % 3], tree)),
                    Op::ForgetSnapshot(which) => {
                        if !snapshots.is_empty() {
                            fake.remove(snapshots.remove(which % snapshots.len()));
                        }
                    }
                }
                for (ino, (_, attr)) in &kernel {
                    let now = vfs.getattr(*ino).await.expect("the kernel holds it").attr;
                    // But for times: those of the layout's directories change with their entries.
                    assert_eq!((now.ino, now.kind, now.size), (attr.ino, attr.kind, attr.size));
                }
                assert!(vfs.statfs().files > kernel.len() as u64);
            }
            for (ino, (count, _)) in kernel {
                vfs.forget(ino, count);
            }
            assert_eq!(vfs.statfs().files, 1);
        });
    }
}
