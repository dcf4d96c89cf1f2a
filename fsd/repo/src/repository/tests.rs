use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};

use super::*;
use crate::backend::LocalBackend;
use crate::blob::BlobKind;
use crate::format::tree::{NodeKind, NodeRef};
use crate::id::{BlobId, PackId};
use crate::key::KeyFile;
use crate::testing::MemoryBackend;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");

/// A repository that restic wrote, and what restic says of it.
struct Golden {
    store: Arc<MemoryBackend>,
    snapshots: Vec<Value>,
    trees: Vec<Value>,
}

impl Golden {
    fn load(name: &str) -> Self {
        let store = MemoryBackend::new();
        store.load(&Path::new(GOLDEN).join(name));
        let text = |end: &str| std::fs::read_to_string(Path::new(GOLDEN).join(format!("{name}.{end}.json"))).unwrap();
        let snapshots = serde_json::from_str(&text("snapshots")).unwrap();
        let trees = text("trees").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Self { store, snapshots, trees }
    }

    fn v1() -> Self {
        Self::load("restic-0.14.0-v1")
    }

    async fn open(&self, cache: Option<&Path>) -> Repository {
        Repository::open(self.store.clone(), "golden", options(cache)).await.unwrap()
    }

    fn snapshot_ids(&self) -> Vec<Id> {
        self.snapshots.iter().map(|snapshot| text(&snapshot["id"]).parse().unwrap()).collect()
    }
}

fn options(cache: Option<&Path>) -> RepositoryOptions {
    RepositoryOptions { cache_dir: cache.map(Path::to_owned), ..RepositoryOptions::default() }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// Compares an entry with what restic printed of it.
fn assert_entry(node: NodeRef<'_>, expected: &Value) {
    let kind = match text(&expected["type"]) {
        "file" => NodeKind::File,
        "dir" => NodeKind::Dir,
        "symlink" => NodeKind::Symlink,
        "dev" => NodeKind::BlockDevice,
        "chardev" => NodeKind::CharDevice,
        "fifo" => NodeKind::Fifo,
        "socket" => NodeKind::Socket,
        other => panic!("{other}"),
    };
    assert_eq!(node.kind(), kind);
    let numbers =
        [node.uid().into(), node.gid().into(), node.size(), node.links(), node.inode(), node.device_id(), node.rdev()];
    let names = ["uid", "gid", "size", "links", "inode", "device_id", "device"];
    assert_eq!(numbers, names.map(|name| number(&expected[name])));
    assert_eq!((node.user(), node.group()), (text(&expected["user"]), text(&expected["group"])));
    for (time, name) in [(node.atime(), "atime"), (node.mtime(), "mtime"), (node.ctime(), "ctime")] {
        let expected: jiff::Timestamp = text(&expected[name]).parse().unwrap();
        assert_eq!(i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos), expected.as_nanosecond(), "{name}");
    }
    let content: Vec<_> = node.content().iter().map(ToString::to_string).collect();
    let blobs = expected["content"].as_array().map_or(&[][..], Vec::as_slice);
    assert_eq!(content, blobs.iter().map(text).collect::<Vec<_>>());
    assert_eq!(node.subtree().map(|id| id.to_string()).unwrap_or_default(), text(&expected["subtree"]));
    assert_eq!(node.xattrs().len(), expected["extended_attributes"].as_array().map_or(0, Vec::len));
}

#[tokio::test]
async fn test_restics_repositories_of_both_formats_read_as_restic_says() {
    for (version, name) in [(1, "restic-0.14.0-v1"), (2, "restic-0.14.0-v2")] {
        let golden = Golden::load(name);
        let repository = golden.open(None).await;
        assert_eq!((repository.config().version, repository.location()), (version, "memory"));
        assert!(repository.refresh().await.unwrap());
        let snapshots = repository.snapshots().await.unwrap();
        assert_eq!(snapshots.len(), 2);
        for (snapshot, expected) in snapshots.iter().zip(&golden.snapshots) {
            assert_eq!(snapshot.id.to_string(), text(&expected["id"]));
            assert_eq!(snapshot.tree.to_string(), text(&expected["tree"]));
            assert_eq!(
                (snapshot.hostname.as_str(), snapshot.username.as_str()),
                ("golden", text(&expected["username"]))
            );
            assert_eq!(json!(snapshot.paths), expected["paths"]);
            assert_eq!(json!(snapshot.tags), expected["tags"]);
            assert_eq!(snapshot.time.timestamp(), text(&expected["time"]).parse().unwrap());
            assert_eq!(snapshot.parent.map(|id| id.to_string()).unwrap_or_default(), text(&expected["parent"]));
        }
        assert_eq!(snapshots[1].time.offset().seconds(), 5 * 3600 + 1800);
        for expected in &golden.trees {
            let tree = repository.tree(text(&expected["id"]).parse().unwrap()).await.unwrap();
            let nodes = expected["nodes"].as_array().unwrap();
            assert_eq!((tree.len(), tree.rejected()), (nodes.len(), 0));
            for node in tree.iter() {
                // The places of equal names: by inode, which restic prints as it is.
                let expected = nodes.iter().find(|expected| number(&expected["inode"]) == node.inode()).unwrap();
                assert_entry(node, expected);
            }
        }
    }
}

#[tokio::test]
async fn test_a_walk_finds_every_odd_inode() {
    let golden = Golden::v1();
    let repository = golden.open(None).await;
    repository.refresh().await.unwrap();
    let first = repository.snapshots().await.unwrap().remove(0);
    let mut tree = repository.tree(first.tree).await.unwrap();
    for name in ["tmp", "golden"] {
        tree = repository.tree(tree.find(name.as_bytes()).unwrap().subtree().unwrap()).await.unwrap();
    }
    let numbers = tree.find(b"numbers").unwrap();
    assert_eq!((numbers.mode(), numbers.uid(), numbers.gid()), (0o4755, 12345, 54321));
    assert_eq!(tree.find(b"empty").unwrap().mode(), 0o1777);
    let xattrs: BTreeSet<_> = tree.find(b"file").unwrap().xattrs().collect();
    assert_eq!(xattrs, [(&b"user.text"[..], &b"value"[..]), (b"user.bytes", b"\0\xff\0")].into());
    assert_eq!(tree.find(b"empty-file").unwrap().mtime(), crate::Timestamp { secs: 4_102_444_800, nanos: 1 });
    let data = repository.blobs().get(numbers.content()[0], BlobKind::Data, usize::MAX).await.unwrap();
    assert!(data.starts_with(b"1\n2\n3\n") && data.len() as u64 == numbers.size());

    let dir = repository.tree(tree.find(b"dir").unwrap().subtree().unwrap()).await.unwrap();
    let names: BTreeSet<_> = dir.iter().map(NodeRef::name).collect();
    let odd: [&[u8]; 8] =
        [b"new\nline", b"quote\"s", b"back\\slash", b"\xff\xfe", "ä€😀".as_bytes(), b" ", b"%41", b"tab\tbell\x07"];
    assert!(odd.iter().all(|name| names.contains(name)), "{names:?}");
    assert_eq!(dir.find(b"link").unwrap().link_target(), b"../file");
    assert_eq!(dir.find(b"link").unwrap().mtime().secs, -315_619_200);
    assert_eq!(dir.find(b"hard-link").unwrap().inode(), tree.find(b"file").unwrap().inode());
    assert_eq!(dir.find(b"deeper").unwrap().mode(), 0o2750);
    assert_eq!(dir.find(b"char").unwrap().mode(), 0);
}

#[tokio::test]
async fn test_a_second_open_reads_only_config_and_key() {
    let golden = Golden::v1();
    let cache = tempfile::tempdir().unwrap();
    let first = golden.open(Some(cache.path())).await;
    first.refresh().await.unwrap();
    let snapshots = first.snapshots().await.unwrap();
    let dir = cache.path().join(first.config().id.to_hex());
    assert_eq!(first.cache_dir(), Some(dir.as_path()));
    let before = golden.store.reads.load(Relaxed);
    assert_eq!(first.snapshots().await.unwrap().len(), 2);
    assert!(!first.refresh().await.unwrap());
    assert_eq!(golden.store.reads.load(Relaxed), before);

    let second = golden.open(Some(cache.path())).await;
    second.refresh().await.unwrap();
    let ids = |snapshots: &[Arc<Snapshot>]| snapshots.iter().map(|snapshot| snapshot.id).collect::<Vec<_>>();
    assert_eq!(ids(&second.snapshots().await.unwrap()), ids(&snapshots));
    assert_eq!(golden.store.reads.load(Relaxed) - before, 2);

    // What lies there is no secret, and damage only costs a read.
    let kept = std::fs::read(dir.join("snapshots")).unwrap();
    assert!(!kept.windows(6).any(|window| window == b"golden"));
    let mut damaged = kept.clone();
    damaged[60] ^= 1;
    std::fs::write(dir.join("snapshots"), damaged).unwrap();
    let third = golden.open(Some(cache.path())).await;
    assert_eq!(ids(&third.snapshots().await.unwrap()), ids(&snapshots));
    assert_eq!(std::fs::read(dir.join("snapshots")).unwrap().len(), kept.len());
}

#[tokio::test]
async fn test_the_list_follows_the_repository() {
    let golden = Golden::v1();
    let repository = golden.open(None).await;
    let ids = golden.snapshot_ids();
    let kind = FileKind::Snapshot;
    let content = golden.store.read_full(kind, &ids[1], 1 << 20).await.unwrap();
    golden.store.remove(kind, &ids[1]).await.unwrap();
    let listed = async || repository.snapshots().await.unwrap().iter().map(|one| one.id.0).collect::<Vec<_>>();
    assert_eq!(listed().await, ids[..1]);
    golden.store.put(kind, ids[1], content);
    assert_eq!(listed().await, ids);
    golden.store.remove(kind, &ids[0]).await.unwrap();
    assert_eq!(listed().await, ids[1..]);
    golden.store.fail_lists(Some(BackendErrorKind::Unavailable));
    assert!(matches!(repository.snapshots().await, Err(RepoError::Backend(_))));
    golden.store.fail_lists(None);
    assert_eq!(listed().await, ids[1..]);
}

#[tokio::test]
async fn test_a_snapshot_that_cannot_be_read_is_left_out_by_name_or_fails_the_list() {
    let golden = Golden::v1();
    let ids = golden.snapshot_ids();
    let kind = FileKind::Snapshot;
    let good = golden.store.read_full(kind, &ids[1], 1 << 20).await.unwrap();
    let other = golden.store.read_full(kind, &ids[0], 1 << 20).await.unwrap();
    let mut flipped = good.to_vec();
    flipped[40] ^= 1;
    for bad in [flipped, good[..good.len() - 1].to_vec(), vec![], other.to_vec(), vec![0; 4 << 20]] {
        golden.store.put(kind, ids[1], bad);
        let repository = golden.open(None).await;
        assert_eq!(repository.snapshots().await.unwrap().len(), 1);
        assert_eq!(repository.unreadable_snapshots(), [SnapshotId(ids[1])]);
        assert_eq!(repository.metrics().snapshots_unreadable.get(), 1);
        // It is not read again each time somebody looks.
        let before = golden.store.reads.load(Relaxed);
        assert_eq!(repository.snapshots().await.unwrap().len(), 1);
        assert_eq!(golden.store.reads.load(Relaxed), before);
    }
    golden.store.put(kind, ids[1], good);
    for (error, whole) in [
        (BackendErrorKind::Denied, true),
        (BackendErrorKind::NotFound, true),
        (BackendErrorKind::Unavailable, false),
        (BackendErrorKind::Other, false),
    ] {
        golden.store.fail(kind, ids[1], Some(error));
        let repository = golden.open(None).await;
        assert_eq!(repository.snapshots().await.is_ok_and(|all| all.len() == 1), whole, "{error:?}");
        golden.store.fail(kind, ids[1], None);
        let expected = if error == BackendErrorKind::Denied { 1 } else { 2 };
        assert_eq!(repository.snapshots().await.unwrap().len(), expected, "{error:?}");
    }
}

/// A repository made here, blob by blob.
struct Forged {
    store: Arc<MemoryBackend>,
    key: MasterKey,
}

impl Forged {
    fn new(config: &str) -> Self {
        let (store, key) = (MemoryBackend::new(), MasterKey::generate());
        store.put(FileKind::Config, Id::default(), key.seal(config.as_bytes()));
        Self { store, key }
    }

    fn plain() -> Self {
        Self::new(&format!(r#"{{"version":1,"id":"{}"}}"#, "ab".repeat(32)))
    }

    /// Puts tree blobs into one pack, each under the id that it is given, and an index file.
    fn put_trees(&self, trees: &[(Id, &str)]) -> PackId {
        let (mut pack, mut blobs) = (Vec::new(), Vec::new());
        for (id, json) in trees {
            let sealed = self.key.seal(json.as_bytes());
            blobs.push(json!({"id": id, "type": "tree", "offset": pack.len(), "length": sealed.len()}));
            pack.extend(sealed);
        }
        let pack = PackId(self.store.put_hashed(FileKind::Pack, pack));
        let index = json!({"packs": [{"id": pack, "blobs": blobs}]}).to_string();
        self.store.put_hashed(FileKind::Index, self.key.seal(index.as_bytes()));
        pack
    }

    async fn open(&self) -> RepoResult<Repository> {
        let repository = Repository::open_with_key(self.store.clone(), self.key.clone(), options(None)).await?;
        repository.refresh().await?;
        Ok(repository)
    }
}

const TREE: &str = r#"{"nodes":[{"name":"a","type":"fifo"}]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_many_who_ask_at_once_share_one_decoding() {
    let forged = Forged::plain();
    let id = Id::hash(TREE.as_bytes());
    forged.put_trees(&[(id, TREE)]);
    let repository = forged.open().await.unwrap();
    assert!(repository.try_tree(&TreeId(id)).is_none());
    repository.prefetch_trees(&[TreeId(id), TreeId(id)]);
    let asked = (0..100).map(|_| {
        let repository = repository.clone();
        tokio::spawn(async move { repository.tree(TreeId(id)).await.unwrap().len() })
    });
    for asked in asked.collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap(), 1);
    }
    assert_eq!(repository.metrics().tree_decodes.get(), 1);
    assert!(repository.try_tree(&TreeId(id)).is_some());
}

#[tokio::test]
async fn test_a_small_tree_of_a_local_disk_is_decoded_by_who_asks() {
    let path = Path::new(GOLDEN).join("restic-0.14.0-v1");
    let open = || async {
        let repository = Repository::open(Arc::new(LocalBackend::new(&path)), "golden", options(None)).await.unwrap();
        repository.refresh().await.unwrap();
        let tree = repository.snapshots().await.unwrap()[0].tree;
        (repository, tree)
    };
    // Once in any way: the kernel has its bytes now.
    let (first, root) = open().await;
    let expected = first.tree(root).await.unwrap().len();
    let (repository, root) = open().await;
    assert!(repository.try_tree(&root).is_none());
    assert_eq!(repository.tree_here(&root).unwrap().len(), expected);
    assert_eq!(repository.try_tree(&root).unwrap().len(), expected);
    assert_eq!((repository.metrics().tree_decodes.get(), repository.metrics().blob_fetches.get()), (1, 1));
    assert!(repository.tree_here(&TreeId(Id::hash(b"nowhere"))).is_none());

    // What is not on a local disk is begun, and waited for by whoever can wait.
    let golden = Golden::v1();
    let repository = golden.open(None).await;
    repository.refresh().await.unwrap();
    assert!(repository.tree_here(&root).is_none());
    assert_eq!(repository.tree(root).await.unwrap().len(), expected);
    assert_eq!(repository.metrics().tree_decodes.get(), 1);
}

#[tokio::test]
async fn test_prefetched_trees_come_in_few_requests() {
    let forged = Forged::plain();
    let texts: Vec<_> = (0..100).map(|n| TREE.replace("\"a\"", &format!("\"{n}\""))).collect();
    let trees: Vec<_> = texts.iter().map(|text| (Id::hash(text.as_bytes()), text.as_str())).collect();
    forged.put_trees(&trees);
    let repository = forged.open().await.unwrap();
    let before = forged.store.reads.load(Relaxed);
    let ids: Vec<_> = trees.iter().map(|(id, _)| TreeId(*id)).collect();
    repository.prefetch_trees(&ids);
    for id in &ids {
        assert_eq!(repository.tree(*id).await.unwrap().len(), 1);
    }
    let requests = forged.store.reads.load(Relaxed) - before;
    assert!(requests <= 100 / 16, "{requests} requests for 100 trees of one pack");
    assert_eq!(repository.metrics().tree_decodes.get(), 100);
}

#[tokio::test]
async fn test_trees_that_the_cache_cannot_hold_are_kept_one_by_one() {
    let forged = Forged::plain();
    // Each takes more than half of a cache of 1 MiB, and more than 1 MiB of JSON.
    let text = |n: usize| {
        let entries: Vec<_> = (0..20_000).map(|entry| format!(r#"{{"name":"{entry}-{n}","type":"fifo"}}"#)).collect();
        format!(r#"{{"nodes":[{}],"padding":"{}"}}"#, entries.join(","), "x".repeat(1 << 20))
    };
    let texts: Vec<_> = (0..3).map(text).collect();
    let trees: Vec<_> = texts.iter().map(|text| (Id::hash(text.as_bytes()), text.as_str())).collect();
    forged.put_trees(&trees);
    let small = RepositoryOptions { memory_bytes: 4 << 20, ..options(None) };
    let repository = Repository::open_with_key(forged.store.clone(), forged.key.clone(), small).await.unwrap();
    repository.refresh().await.unwrap();
    let ids: Vec<_> = trees.iter().map(|(id, _)| TreeId(*id)).collect();
    repository.prefetch_trees(&ids);
    for id in &ids {
        assert_eq!(repository.tree(*id).await.unwrap().len(), 20_000);
    }
    assert_eq!(repository.metrics().tree_decodes.get(), 3);
    let kept: Vec<_> = ids.iter().filter(|id| repository.try_tree(id).is_some()).collect();
    assert_eq!(kept, [&ids[1], &ids[2]]);
}

#[tokio::test]
async fn test_damaged_trees_are_errors_that_are_not_kept() {
    let forged = Forged::plain();
    let (good, other, text) = (Id::hash(TREE.as_bytes()), Id::hash(b"other"), "no tree at all");
    let no_tree = Id::hash(text.as_bytes());
    forged.put_trees(&[(other, TREE), (no_tree, text)]);
    let repository = forged.open().await.unwrap();
    // Another blob of the repository under this id has a good MAC, and a wrong hash.
    repository.tree(TreeId(other)).await.unwrap_err();
    assert!(matches!(repository.tree(TreeId(no_tree)).await, Err(RepoError::BadTree { id, .. }) if id.0 == no_tree));
    repository.tree(TreeId(good)).await.unwrap_err();
    assert_eq!(repository.metrics().tree_decodes.get(), 0);
    forged.put_trees(&[(good, TREE), (other, TREE)]);
    repository.refresh().await.unwrap();
    assert_eq!(repository.tree(TreeId(good)).await.unwrap().len(), 1);
    repository.tree(TreeId(other)).await.unwrap_err();
}

#[tokio::test]
async fn test_damaged_index_files_are_left_out_and_named() {
    let forged = Forged::plain();
    let id = Id::hash(TREE.as_bytes());
    forged.put_trees(&[(id, TREE)]);
    let bad = [
        forged.store.put_hashed(FileKind::Index, forged.key.seal(b"{\"packs\":7}")),
        forged.store.put_hashed(FileKind::Index, forged.key.seal(&zstd_bomb())),
        forged.store.put_hashed(FileKind::Index, MasterKey::generate().seal(b"{}")),
        forged.store.put_hashed(FileKind::Index, &b"short"[..]),
        Id::hash(b"another name"),
    ];
    forged.store.put(FileKind::Index, bad[4], forged.key.seal(b"{}"));
    let repository = forged.open().await.unwrap();
    assert_eq!(repository.tree(TreeId(id)).await.unwrap().len(), 1);
    let unreadable: BTreeSet<_> = repository.index().unreadable().into_iter().map(|id| id.0).collect();
    assert_eq!(unreadable, bad.into());
    for id in bad {
        let read = repository.read_unpacked(FileKind::Index, &id, 1 << 20).await;
        assert_eq!(read.is_ok(), id == bad[0], "{read:?}");
    }
}

/// 1 GiB in some KiB.
fn zstd_bomb() -> Vec<u8> {
    let frame = zstd::encode_all(&vec![b' '; 16 << 20][..], 19).unwrap();
    [vec![2], frame.repeat(64)].concat()
}

#[tokio::test]
async fn test_open_fails_with_what_is_wrong() {
    let golden = Golden::v1();
    let open =
        |store: &Arc<MemoryBackend>, password: &'static str| Repository::open(store.clone(), password, options(None));
    assert!(matches!(open(&golden.store, "other").await, Err(RepoError::WrongPassword { tried: 1 })));
    assert!(matches!(open(&MemoryBackend::new(), "golden").await, Err(RepoError::NoRepository { .. })));
    golden.store.fail(FileKind::Config, Id::default(), Some(BackendErrorKind::Denied));
    assert!(matches!(open(&golden.store, "golden").await, Err(RepoError::Backend(_))));

    for (config, refused) in
        [(r#""version":3"#, true), (r#""version":2,"is_hot":true"#, true), (r#""version":2"#, false)]
    {
        let forged = Forged::new(&format!(r#"{{{config},"id":"{}"}}"#, "ab".repeat(32)));
        let file = KeyFile::create(&forged.key, b"pw", "", "", "").unwrap();
        let key = forged.store.put_hashed(FileKind::Key, file.to_json().unwrap());
        let opened = open(&forged.store, "pw").await;
        assert_eq!(matches!(opened, Err(RepoError::Unsupported { .. })), refused, "{config}");
        if let Ok(repository) = opened {
            assert_eq!(repository.key_id(), Some(KeyId(key)));
            assert_eq!(repository.master_key().expose_parts(), forged.key.expose_parts());
        }
        let stranger = Repository::open_with_key(forged.store.clone(), MasterKey::generate(), options(None)).await;
        assert!(matches!(stranger, Err(RepoError::WrongMac { what: "config", .. })));
    }
}

#[tokio::test]
async fn test_lost_blobs_are_named() {
    let repository = Forged::plain().open().await.unwrap();
    let id = TreeId(Id::hash(b"nowhere"));
    assert!(matches!(repository.tree(id).await, Err(RepoError::BlobMissing { id: blob }) if blob == BlobId(id.0)));
}
