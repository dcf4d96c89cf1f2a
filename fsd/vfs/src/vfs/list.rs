//! The list of snapshots, looked up again while somebody looks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use stash_repo::{Snapshot, SnapshotId};

use super::Vfs;
use crate::attr::{FileType, Owners, of_node, timestamp};
use crate::error::{VfsError, VfsResult};
use crate::inode::Ino;
use crate::namespace::filter::RootSpec;
use crate::namespace::layout::{Layout, Part, PinnedRoot, RootDir};
use crate::namespace::{NamespaceOptions, Pin};
use crate::source::Source;

/// A list is looked up again at most this often: one list request.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// How long a reader waits for a new list. A store that is slower than this goes on in the background, and readers see the
/// old list: a directory that hangs helps nobody.
const LIST_PATIENCE: Duration = Duration::from_secs(2);

/// The lists of all repositories.
#[derive(Debug)]
pub(super) struct Lists {
    began: Instant,
    repos: Vec<Repo>,
    /// What the layout is built from.
    parts: Mutex<Vec<(String, Part)>>,
    interval: Duration,
}

#[derive(Debug)]
struct Repo {
    source: Arc<dyn Source>,
    /// `None` where the root is one snapshot, which never changes.
    live: Option<Live>,
    /// When the index was last refreshed for a lost blob, in milliseconds since `began`.
    refreshed_millis: AtomicU64,
}

#[derive(Debug)]
struct Live {
    /// When the list was last looked up or tried to be, in milliseconds since `began`.
    checked_millis: AtomicU64,
    /// Held while it is looked up.
    looking: tokio::sync::Mutex<()>,
}

impl Lists {
    pub(super) async fn open(
        parts: Vec<(String, Arc<dyn Source>, NamespaceOptions)>,
        owners: &Owners,
        interval: Duration,
    ) -> VfsResult<(Self, Layout)> {
        let mut repos = Vec::new();
        let mut built = Vec::new();
        for (name, source, options) in parts {
            let namespace = Arc::new(options.check()?);
            let failed = |source| VfsError::Repo { path: "snapshots".to_owned(), source };
            let (part, live) = match &namespace.root {
                Some(root) => {
                    let pin = match namespace.pinned {
                        Some(pin) => pin,
                        None => {
                            let snapshots = source.snapshots().await.map_err(failed)?;
                            let snapshot = root.find(&snapshots, &namespace.filter).map_err(failed)?;
                            Pin { snapshot: snapshot.id, tree: snapshot.tree, time: timestamp(&snapshot.time) }
                        }
                    };
                    (Part::Root(pinned_root(&*source, root, pin, owners).await?), None)
                }
                None => {
                    let snapshots = source.snapshots().await.map_err(failed)?;
                    let live = Live { checked_millis: AtomicU64::new(0), looking: tokio::sync::Mutex::new(()) };
                    (Part::Templates { namespace, snapshots }, Some(live))
                }
            };
            repos.push(Repo { source, live, refreshed_millis: AtomicU64::new(0) });
            built.push((name, part));
        }
        let layout = Layout::build(built.iter().map(|(name, part)| (name.as_str(), part)));
        let lists = Self { began: Instant::now(), repos, parts: Mutex::new(built), interval };
        Ok((lists, layout))
    }

    fn now_millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_due(&self, since_millis: u64) -> bool {
        Duration::from_millis(self.now_millis().saturating_sub(since_millis)) >= self.interval
    }

    /// Returns which snapshot each root is; `None` for a repository of which all snapshots are shown.
    pub(super) fn pins(&self) -> Vec<Option<Pin>> {
        let pin = |part: &(String, Part)| match &part.1 {
            Part::Root(root) => Some(root.pin),
            Part::Templates { .. } => None,
        };
        self.parts.lock().iter().map(pin).collect()
    }

    /// Returns whether a repository's list may be looked up again.
    pub(super) fn is_old(&self, repo: usize) -> bool {
        let live = self.repos.get(repo).and_then(|repo| repo.live.as_ref());
        live.is_some_and(|live| self.is_due(live.checked_millis.load(Relaxed)))
    }
}

impl Vfs {
    /// Looks a list up again and takes in what changed; waits a bounded time. A failure keeps the old list.
    pub(super) async fn look_again(&self, repo: usize) {
        let vfs = self.clone();
        let looking = tokio::spawn(async move { vfs.look(repo).await });
        if tokio::time::timeout(LIST_PATIENCE, looking).await.is_err() {
            tracing::warn!(repo, "the list of snapshots takes long; showing the old one until it is there");
        }
    }

    async fn look(&self, repo: usize) {
        let lists = &self.inner.lists;
        let Some(Repo { source, live: Some(live), .. }) = lists.repos.get(repo) else { return };
        let _looking = live.looking.lock().await;
        if !lists.is_due(live.checked_millis.load(Relaxed)) {
            // Another reader just did.
            return;
        }
        // Set before as well as after: one reader waits for a slow store, the others see the old list.
        live.checked_millis.store(lists.now_millis(), Relaxed);
        let listed = source.snapshots().await;
        live.checked_millis.store(lists.now_millis(), Relaxed);
        match listed {
            Ok(snapshots) => {
                if self.has_new(repo, &snapshots)
                    && let Err(error) = source.refresh().await
                {
                    tracing::warn!(%error, repo, "the index could not be refreshed; new snapshots may not be readable yet");
                }
                self.take_in(repo, snapshots);
            }
            Err(error) => tracing::warn!(%error, repo, "snapshots could not be listed; showing the old list"),
        }
    }

    /// Returns whether a list has snapshots that are not shown yet, whose blobs the index may lack.
    fn has_new(&self, repo: usize, snapshots: &[Arc<Snapshot>]) -> bool {
        match self.inner.lists.parts.lock().get(repo) {
            Some((_, Part::Templates { snapshots: old, .. })) => !ids(snapshots).is_subset(&ids(old)),
            _ => false,
        }
    }

    /// Builds the layout anew if the list has changed.
    fn take_in(&self, repo: usize, snapshots: Vec<Arc<Snapshot>>) {
        let mut parts = self.inner.lists.parts.lock();
        let Some((_, Part::Templates { snapshots: old, .. })) = parts.get_mut(repo) else { return };
        let (before, after) = (ids(old), ids(&snapshots));
        if before == after {
            return;
        }
        *old = snapshots;
        let layout = Layout::build(parts.iter().map(|(name, part)| (name.as_str(), part)));
        self.inner.state.lock().replace_layout(Arc::new(layout));
        let (new, gone) = (after.difference(&before).count(), before.difference(&after).count());
        tracing::info!(repo, new, gone, "the list of snapshots has changed");
    }

    /// Refreshes the index because a blob is missing, at most every few seconds; returns whether that may have helped.
    pub(super) async fn refresh_index(&self, repo: usize) -> bool {
        let lists = &self.inner.lists;
        let Some(Repo { source, refreshed_millis, .. }) = lists.repos.get(repo) else { return false };
        let last = refreshed_millis.load(Relaxed);
        if last != 0 && !lists.is_due(last) {
            return false;
        }
        refreshed_millis.store(lists.now_millis().max(1), Relaxed);
        match source.refresh().await {
            Ok(changed) => changed,
            Err(error) => {
                tracing::warn!(%error, repo, "the index could not be refreshed to find a missing blob");
                false
            }
        }
    }
}

fn ids(snapshots: &[Arc<Snapshot>]) -> BTreeSet<SnapshotId> {
    snapshots.iter().map(|snapshot| snapshot.id).collect()
}

/// Finds the directory that is to be the root.
async fn pinned_root(source: &dyn Source, root: &RootSpec, pin: Pin, owners: &Owners) -> VfsResult<PinnedRoot> {
    let failed = |path: &[u8], source| VfsError::Repo { path: String::from_utf8_lossy(path).into_owned(), source };
    let path = root.path().join(&b'/');
    let mut tree = pin.tree;
    let mut own = None;
    for name in root.path() {
        let entries = source.tree(tree).await.map_err(|source| failed(&path, source))?;
        let node = entries.find(name).filter(|node| node.kind() == FileType::Dir);
        let found = node.and_then(|node| node.subtree().map(|tree| (tree, node)));
        let Some((below, node)) = found else {
            return Err(VfsError::Option {
                option: "SNAPSHOT[:PATH]",
                reason: format!(
                    "there is no directory {} in snapshot {}",
                    String::from_utf8_lossy(&path),
                    pin.snapshot.0.short()
                ),
            });
        };
        let copied = |(name, value): (&[u8], &[u8])| (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        let xattrs = node.xattrs().map(copied).collect();
        own = Some(Arc::new(RootDir { attr: of_node(Ino::ROOT, node, owners), xattrs }));
        tree = below;
    }
    Ok(PinnedRoot { pin, tree, path, own })
}
