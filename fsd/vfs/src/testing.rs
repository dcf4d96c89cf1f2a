//! What the tests of this crate share: snapshots, trees, and a repository in memory.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use futures::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use stash_repo::format::tree::parse;
use stash_repo::{BlobData, BlobId, Id, RepoError, RepoResult, Snapshot, SnapshotId, Tree, TreeId};

use crate::attr::Entry;
use crate::source::Source;
use crate::{DirSink, FileType, Ino};

/// Makes a snapshot of nothing; `number` decides its id.
pub(crate) fn snapshot(number: u32, time: &str) -> Snapshot {
    Snapshot {
        id: SnapshotId(Id::hash(format!("snapshot {number}").as_bytes())),
        time: time.parse().unwrap(),
        tree: TreeId(Id::hash(b"")),
        paths: Vec::new(),
        hostname: "host".to_owned(),
        username: "user".to_owned(),
        uid: 0,
        gid: 0,
        tags: Vec::new(),
        parent: None,
        original: None,
        excludes: Vec::new(),
        program_version: String::new(),
        summary: None,
    }
}

/// An entry of a tree in the making.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Dir(&'static str, Vec<Self>),
    File(&'static str),
    /// A hard-linked file: name, inode.
    Link(&'static str, u64),
}

/// The blob of a file.
pub(crate) fn blob_of(name: &str) -> BlobId {
    BlobId(Id::hash(name.as_bytes()))
}

/// A repository in memory. Trees are there, but `try_tree` finds only those that were fetched.
#[derive(Debug)]
pub(crate) struct Fake {
    trees: Mutex<HashMap<TreeId, Arc<Tree>>>,
    pub(crate) resident: Mutex<HashSet<TreeId>>,
    pub(crate) snapshots: Mutex<RepoResult<Vec<Arc<Snapshot>>>>,
    pub(crate) prefetched_trees: Mutex<Vec<TreeId>>,
    pub(crate) prefetched_blobs: Mutex<Vec<BlobId>>,
    /// Whether it is at the other end of a network.
    pub(crate) remote: AtomicBool,
    /// Trees that somebody had to wait for.
    pub(crate) waits: AtomicUsize,
    pub(crate) lists: AtomicUsize,
    pub(crate) refreshes: AtomicUsize,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            trees: Mutex::default(),
            resident: Mutex::default(),
            snapshots: Mutex::new(Ok(Vec::new())),
            prefetched_trees: Mutex::default(),
            prefetched_blobs: Mutex::default(),
            remote: AtomicBool::default(),
            waits: AtomicUsize::new(0),
            lists: AtomicUsize::new(0),
            refreshes: AtomicUsize::new(0),
        }
    }
}

impl Fake {
    /// Stores a directory and what is below it.
    pub(crate) fn tree(&self, nodes: &[Node]) -> TreeId {
        let mut json = String::from("{\"nodes\":[");
        for (at, node) in nodes.iter().enumerate() {
            if at > 0 {
                json.push(',');
            }
            let (name, rest) = match node {
                Node::Dir(name, below) => {
                    let id = self.tree(below);
                    (name, format!("\"type\":\"dir\",\"mode\":2147484141,\"subtree\":\"{id}\",\"links\":0"))
                }
                Node::File(name) => (
                    name,
                    format!(
                        "\"type\":\"file\",\"mode\":420,\"size\":10,\"links\":1,\"content\":[\"{}\"]",
                        blob_of(name)
                    ),
                ),
                Node::Link(name, inode) => (
                    name,
                    format!(
                        "\"type\":\"file\",\"mode\":420,\"size\":10,\"links\":2,\"inode\":{inode},\"content\":[\"{}\"]",
                        blob_of("linked")
                    ),
                ),
            };
            write!(json, "{{\"name\":\"{name}\",{rest}}}").unwrap();
        }
        json.push_str("]}");
        let id = TreeId(Id::hash(json.as_bytes()));
        self.trees.lock().insert(id, Arc::new(parse(json.as_bytes()).unwrap()));
        id
    }

    /// Returns a tree whether it was fetched or not.
    pub(crate) fn any_tree(&self, id: &TreeId) -> Arc<Tree> {
        Arc::clone(&self.trees.lock()[id])
    }

    /// Adds a snapshot of a tree.
    pub(crate) fn add(&self, number: u32, time: &str, tree: TreeId) -> SnapshotId {
        let mut new = snapshot(number, time);
        new.tree = tree;
        let id = new.id;
        let mut snapshots = self.snapshots.lock();
        let mut all = snapshots.clone().unwrap_or_default();
        all.push(Arc::new(new));
        *snapshots = Ok(all);
        id
    }

    /// Forgets a snapshot.
    pub(crate) fn remove(&self, id: SnapshotId) {
        if let Ok(all) = &mut *self.snapshots.lock() {
            all.retain(|snapshot| snapshot.id != id);
        }
    }
}

impl Source for Fake {
    fn is_remote(&self) -> bool {
        self.remote.load(Relaxed)
    }

    fn snapshots(&self) -> BoxFuture<'_, RepoResult<Vec<Arc<Snapshot>>>> {
        self.lists.fetch_add(1, Relaxed);
        let all = self.snapshots.lock().clone();
        async move { all }.boxed()
    }

    fn refresh(&self) -> BoxFuture<'_, RepoResult<bool>> {
        self.refreshes.fetch_add(1, Relaxed);
        async { Ok(true) }.boxed()
    }

    fn try_tree(&self, id: &TreeId) -> Option<Arc<Tree>> {
        self.resident.lock().contains(id).then(|| self.any_tree(id))
    }

    fn tree(&self, id: TreeId) -> BoxFuture<'_, RepoResult<Arc<Tree>>> {
        self.waits.fetch_add(1, Relaxed);
        self.resident.lock().insert(id);
        let found = self.trees.lock().get(&id).map(Arc::clone);
        async move { found.ok_or_else(|| RepoError::BlobMissing { id: id.blob() }) }.boxed()
    }

    fn prefetch_trees(&self, ids: &[TreeId]) {
        self.prefetched_trees.lock().extend_from_slice(ids);
        self.resident.lock().extend(ids);
    }

    fn try_blob(&self, _id: &BlobId, _upto: usize) -> Option<BlobData> {
        None
    }

    fn blob(&self, id: BlobId, _upto: usize) -> BoxFuture<'_, RepoResult<BlobData>> {
        async move { Err(RepoError::BlobMissing { id }) }.boxed()
    }

    fn prefetch_blobs(&self, ids: &[BlobId]) -> usize {
        self.prefetched_blobs.lock().extend_from_slice(ids);
        ids.len()
    }

    fn stored_bytes(&self) -> u64 {
        10_000
    }

    fn plain_bytes(&self, _id: &BlobId) -> RepoResult<Option<u32>> {
        Ok(Some(10))
    }
}

/// A sink that holds so many entries.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) entries: Vec<(Ino, u64, FileType, String, Option<Entry>)>,
    pub(crate) limit: usize,
}

impl DirSink for Names {
    fn add(&mut self, ino: Ino, next: u64, kind: FileType, name: &[u8], entry: Option<&Entry>) -> bool {
        if self.entries.len() >= self.limit {
            return true;
        }
        self.entries.push((ino, next, kind, String::from_utf8(name.to_vec()).unwrap(), entry.copied()));
        false
    }
}
