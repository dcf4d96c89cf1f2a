//! What memory holds of the tree: the table of inodes, the layout, and which tree each directory is.

use std::collections::HashMap;
use std::sync::Arc;

use stash_repo::budget::Budget;
use stash_repo::{NodeRef, RepoError, Timestamp, Tree, TreeId};

use super::{DirSink, Inner, NAME_BYTES};
use crate::attr::{Entry, FileType, LAYOUT_TTL, Owners, SNAPSHOT_TTL, of_layout, of_node};
use crate::error::{VfsError, VfsResult};
use crate::inode::room::Room;
use crate::inode::table::{Full, Identity};
use crate::inode::{Ino, InodeTable, Link, Record};
use crate::namespace::layout::{FIRST_OFFSET, Layout, LayoutKind, LayoutNode};

/// The deepest directory that is shown. Linux' `PATH_MAX` is 4,096 bytes, so no path of more components can be named; a
/// tree that contains itself ends here.
pub(crate) const MAX_DEPTH: u32 = 4_096;

/// The most directories whose tree is remembered (some 70 bytes each). Others are found through their parents.
const MAX_DIRS: usize = 128 << 10;

/// How many changed records a FORGET leaves unwritten; whatever names an inode writes them before.
const UNCOMMITTED_FORGETS: usize = 256;

/// A directory below a snapshot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dir {
    pub(super) tree: TreeId,
    /// What its entries' ids are hashed under.
    pub(super) seed: u64,
    /// What the snapshot's hard links are hashed under.
    pub(super) link_seed: u64,
    pub(super) repo: usize,
    pub(super) depth: u32,
}

/// A node of a backup: its place, with the tree that holds it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) repo: usize,
    pub(super) dir: Ino,
    pub(super) tree: Arc<Tree>,
    pub(super) position: usize,
}

impl Node {
    /// Looks at the node.
    pub(super) fn get<T>(&self, look: impl FnOnce(NodeRef<'_>) -> Result<T, Stop>) -> Result<T, Stop> {
        look(self.tree.get(self.position).ok_or(VfsError::Stale)?)
    }
}

/// A directory of the layout, which may be one that is gone but still held.
#[derive(Debug)]
pub(super) struct LayoutDir {
    layout: Arc<Layout>,
    ino: Ino,
    gone: Option<LayoutNode>,
}

impl LayoutDir {
    fn node(&self) -> Option<&LayoutNode> {
        self.gone.as_ref().or_else(|| self.layout.get(self.ino))
    }

    /// Returns the repository whose list decides the entries.
    pub(super) fn repo(&self) -> Option<usize> {
        match self.node()?.kind {
            LayoutKind::Dir { repo, .. } => repo,
            LayoutKind::Snapshot(_) | LayoutKind::Link(_) => None,
        }
    }
}

/// What an operation has fetched so far.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) trees: Vec<(TreeId, Arc<Tree>)>,
    /// The list was looked up again already.
    pub(super) listed: bool,
}

/// Why an operation cannot go on.
#[derive(Debug)]
pub(super) enum Stop {
    Lack(Lack),
    Fail(VfsError),
}

/// What an operation lacks.
#[derive(Debug)]
pub(super) enum Lack {
    Tree { repo: usize, id: TreeId },
    List { repo: usize },
}

impl From<VfsError> for Stop {
    fn from(error: VfsError) -> Self {
        Self::Fail(error)
    }
}

impl From<Full> for VfsError {
    fn from(_: Full) -> Self {
        Self::TooManyInodes
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) table: InodeTable,
    /// Directories below snapshots by their ids: a cache of what the table and the trees say.
    dirs: HashMap<Ino, Dir>,
    pub(super) layout: Arc<Layout>,
    /// What is in no list any more but held by the kernel. Directories here have no entries.
    gone: HashMap<Ino, LayoutNode>,
    /// What the table takes of a budget, where it shares one.
    room: Option<Room>,
}

/// Returns a node's entry.
pub(super) fn entry(ino: Ino, node: NodeRef<'_>, owners: &Owners) -> Entry {
    Entry { attr: of_node(ino, node, owners), ttl: SNAPSHOT_TTL }
}

impl Inner {
    /// Finds which tree a directory below a snapshot is, through its parents if need be.
    pub(super) fn dir(&self, state: &mut State, context: &Context, ino: Ino) -> Result<Dir, Stop> {
        let mut below: Vec<(Ino, Record)> = Vec::new();
        let mut at = ino;
        let mut dir = loop {
            if let Some(dir) = state.dir(at) {
                break dir;
            }
            let record = state.table.get(at).ok_or(VfsError::Stale)?;
            if record.tree_position().is_none() || below.len() > MAX_DEPTH as usize {
                return Err(VfsError::Stale.into());
            }
            below.push((at, record));
            at = Ino(record.parent);
        };
        for (at, record) in below.into_iter().rev() {
            let tree = self.tree(context, dir.repo, dir.tree)?;
            let node = record.tree_position().and_then(|position| tree.get(position)).ok_or(VfsError::Stale)?;
            if node.kind() != FileType::Dir {
                return Err(VfsError::NotADirectory.into());
            }
            dir = child_dir(&dir, at, node).map_err(|reason| {
                let source = RepoError::BadTree { id: dir.tree, reason };
                VfsError::Repo { path: String::from_utf8_lossy(node.name()).into_owned(), source }
            })?;
            state.remember(at, dir);
        }
        Ok(dir)
    }
}

/// Returns the directory that a node of `dir` is.
fn child_dir(dir: &Dir, ino: Ino, node: NodeRef<'_>) -> Result<Dir, String> {
    if dir.depth >= MAX_DEPTH {
        return Err(format!("directories are nested more than {MAX_DEPTH} deep"));
    }
    let tree = node.subtree().ok_or_else(|| "a directory has no subtree".to_owned())?;
    Ok(Dir { tree, seed: ino.0, link_seed: dir.link_seed, repo: dir.repo, depth: dir.depth + 1 })
}

impl State {
    pub(super) fn new(table: InodeTable, layout: Arc<Layout>, budget: Option<Budget>) -> Self {
        Self { table, dirs: HashMap::new(), layout, gone: HashMap::new(), room: budget.map(Room::new) }
    }

    /// Checks that the table may take in another inode.
    fn check_room(&mut self) -> Result<(), Full> {
        let inodes = self.table.len();
        let admitted = self.room.as_mut().is_none_or(|room| room.admits(inodes));
        if admitted { Ok(()) } else { Err(Full) }
    }

    /// Returns a directory that is known without I/O: remembered, or where a snapshot begins.
    fn dir(&self, ino: Ino) -> Option<Dir> {
        if let Some(dir) = self.dirs.get(&ino) {
            return Some(*dir);
        }
        match &self.layout_node(ino)?.kind {
            LayoutKind::Snapshot(root) => {
                Some(Dir { tree: root.tree, seed: root.seed, link_seed: root.link_seed, repo: root.repo, depth: 0 })
            }
            LayoutKind::Dir { .. } | LayoutKind::Link(_) => None,
        }
    }

    /// Returns the tree of a directory below a snapshot, if it is known without I/O.
    pub(super) fn tree_of(&self, ino: Ino) -> Option<TreeId> {
        self.dir(ino).map(|dir| dir.tree)
    }

    fn remember(&mut self, ino: Ino, dir: Dir) {
        if self.dirs.len() >= MAX_DIRS {
            self.dirs.clear();
        }
        self.dirs.insert(ino, dir);
    }

    /// Finds a node of the layout.
    pub(super) fn layout_node(&self, ino: Ino) -> Option<&LayoutNode> {
        self.layout.get(ino).or_else(|| self.gone.get(&ino))
    }

    /// Finds a directory of the layout; `None` for what lies below a snapshot.
    pub(super) fn layout_dir(&self, ino: Ino) -> Result<Option<LayoutDir>, Stop> {
        if self.dirs.contains_key(&ino) {
            return Ok(None);
        }
        match self.layout_node(ino).map(|node| &node.kind) {
            Some(LayoutKind::Link(_)) => Err(VfsError::NotADirectory.into()),
            Some(LayoutKind::Dir { .. }) => {
                Ok(Some(LayoutDir { layout: Arc::clone(&self.layout), ino, gone: self.gone.get(&ino).cloned() }))
            }
            Some(LayoutKind::Snapshot(_)) | None => Ok(None),
        }
    }

    /// Takes in a new layout; what it lacks and the kernel holds goes on to work.
    pub(super) fn replace_layout(&mut self, layout: Arc<Layout>) {
        for node in self.layout.nodes() {
            if layout.get(node.ino).is_none() && self.table.get(node.ino).is_some() {
                let mut node = node.clone();
                if let LayoutKind::Dir { children, .. } = &mut node.kind {
                    children.clear();
                }
                self.gone.insert(node.ino, node);
            }
        }
        self.gone.retain(|ino, _| layout.get(*ino).is_none());
        self.layout = layout;
    }

    pub(super) fn forget(&mut self, lookups: &[(Ino, u64)]) {
        let Self { table, dirs, gone, room, .. } = self;
        for (ino, count) in lookups {
            table.release(*ino, *count, |freed| {
                dirs.remove(&freed);
                gone.remove(&freed);
            });
        }
        if let Some(room) = room {
            room.shrink(table.len());
        }
        // Not each by itself: it costs a write, and the kernel sends them one by one. What a process that takes over finds too
        // much of stays in its table, and does no other harm.
        if table.uncommitted() < UNCOMMITTED_FORGETS {
            return;
        }
        if let Err(error) = table.commit() {
            tracing::warn!(%error, "the table of inodes could not be written; what was freed stays in it");
        }
    }

    /// Writes the table before a reply names what is new in it.
    pub(super) fn commit(&mut self) -> VfsResult<()> {
        self.table.commit().map_err(|error| {
            tracing::error!(%error, "the table of inodes could not be written");
            VfsError::TooManyInodes
        })
    }

    /// Counts a lookup of a node and returns its entry.
    pub(super) fn admit(&mut self, dir: &Dir, parent: Ino, node: NodeRef<'_>, owners: &Owners) -> VfsResult<Entry> {
        let (natural, identity) = identify(dir, node)?;
        self.check_room()?;
        let ino = self.table.acquire(natural, parent, identity)?;
        if node.kind() == FileType::Dir
            && let Ok(child) = child_dir(dir, ino, node)
        {
            self.remember(ino, child);
        }
        Ok(entry(ino, node, owners))
    }

    #[expect(clippy::too_many_arguments, reason = "a directory is a place, a tree and an inode")]
    pub(super) fn readdir<S: DirSink>(
        &mut self,
        dir: &Dir,
        tree: &Tree,
        ino: Ino,
        offset: u64,
        plus: bool,
        sink: &mut S,
        owners: &Owners,
    ) -> Result<(), Stop> {
        if self.dots(ino, offset, sink) {
            return Ok(());
        }
        let first = usize::try_from(offset.saturating_sub(FIRST_OFFSET)).unwrap_or(usize::MAX);
        for position in first..tree.len() {
            let Some(node) = tree.get(position) else { break };
            let name = node.name();
            if name.len() > NAME_BYTES {
                continue;
            }
            let next = position as u64 + FIRST_OFFSET + 1;
            let full = match if plus { self.admit(dir, ino, node, owners).map(Some) } else { Ok(None) } {
                Ok(Some(entry)) => {
                    let full = sink.add(entry.attr.ino, next, node.kind(), name, Some(&entry));
                    if full {
                        self.forget(&[(entry.attr.ino, 1)]);
                    }
                    full
                }
                // Without attributes: not asked for, or no room for another inode.
                Ok(None) | Err(_) => {
                    let (natural, identity) = identify(dir, node)?;
                    sink.add(self.table.peek(natural, ino, identity), next, node.kind(), name, None)
                }
            };
            if full {
                break;
            }
        }
        self.commit()?;
        Ok(())
    }

    /// Gives `.` and `..`; returns whether the sink is full.
    fn dots<S: DirSink>(&self, ino: Ino, offset: u64, sink: &mut S) -> bool {
        let parent = self.table.get(ino).map_or(Ino::ROOT, |record| Ino(record.parent.max(Ino::ROOT.0)));
        (offset < 1 && sink.add(ino, 1, FileType::Dir, b".", None))
            || (offset < FIRST_OFFSET && sink.add(parent, FIRST_OFFSET, FileType::Dir, b"..", None))
    }

    /// Returns the entry of a node of the layout.
    pub(super) fn layout_entry(&self, ino: Ino, owners: &Owners) -> Option<Entry> {
        self.layout_node(ino).map(|node| layout_entry(ino, node, owners))
    }

    pub(super) fn layout_lookup(&mut self, dir: &LayoutDir, name: &[u8], owners: &Owners) -> Result<Entry, Stop> {
        let node = dir.node().and_then(|node| dir.layout.child(node, name)).ok_or(VfsError::NotFound)?;
        let ino = self.table.acquire(node.ino, dir.ino, Identity::Layout).map_err(VfsError::from)?;
        self.commit()?;
        Ok(layout_entry(ino, node, owners))
    }

    pub(super) fn layout_readdir<S: DirSink>(
        &mut self,
        dir: &LayoutDir,
        offset: u64,
        plus: bool,
        sink: &mut S,
        owners: &Owners,
    ) -> Result<(), Stop> {
        let Some(node) = dir.node() else { return Err(VfsError::Stale.into()) };
        if self.dots(dir.ino, offset, sink) {
            return Ok(());
        }
        for node in dir.layout.children(node).filter(|node| node.offset > offset) {
            let counted = if plus { self.table.acquire(node.ino, dir.ino, Identity::Layout).ok() } else { None };
            let entry = counted.map(|ino| layout_entry(ino, node, owners));
            if sink.add(node.ino, node.offset, node.file_type(), node.name.as_bytes(), entry.as_ref()) {
                if let Some(ino) = counted {
                    self.forget(&[(ino, 1)]);
                }
                break;
            }
        }
        self.commit()?;
        Ok(())
    }

    /// Returns the path of an inode for messages, as far as memory tells.
    pub(super) fn path(&self, ino: Ino, tree_of: impl Fn(&Dir) -> Option<Arc<Tree>>) -> String {
        let mut names: Vec<String> = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT && names.len() <= MAX_DEPTH as usize {
            let (name, parent) = if let Some(node) = self.layout_node(at) {
                (node.name.to_string(), node.parent)
            } else if let Some(record) = self.table.get(at) {
                let parent = Ino(record.parent);
                let tree = self.dir(parent).and_then(|dir| tree_of(&dir));
                let node = tree.as_ref().zip(record.tree_position()).and_then(|(tree, position)| tree.get(position));
                let name = node.map_or_else(|| format!("<{:016x}>", at.0), |node| lossy(node.name()));
                (name, parent)
            } else {
                (format!("<{:016x}>", at.0), Ino::ROOT)
            };
            names.push(name);
            at = parent;
        }
        names.reverse();
        format!("/{}", names.join("/"))
    }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Returns the id that a node has by nature, and what tells it from another of the same id.
fn identify(dir: &Dir, node: NodeRef<'_>) -> VfsResult<(Ino, Identity)> {
    // The highest bit and the highest number have other meanings; no tree of 64 MiB comes near.
    let position = u32::try_from(node.position)
        .ok()
        .filter(|position| *position < Record::LAYOUT)
        .ok_or(VfsError::TooManyInodes)?;
    if node.links() > 1 && node.kind() != FileType::Dir {
        let link = Link::of(dir.link_seed, node);
        return Ok((link.ino, Identity::Link(position, link)));
    }
    Ok((Ino::child(dir.seed, node.name()), Identity::Position(position)))
}

fn layout_entry(ino: Ino, node: &LayoutNode, owners: &Owners) -> Entry {
    let attr = |size, time: Timestamp| of_layout(ino, node.file_type(), size, time, owners);
    let attr = match (node.own(), &node.kind) {
        (Some(own), _) => crate::attr::Attr { ino, ..own.attr },
        (None, LayoutKind::Snapshot(_) | LayoutKind::Dir { .. }) => attr(0, node.time),
        (None, LayoutKind::Link(target)) => attr(target.len() as u64, node.time),
    };
    Entry { attr, ttl: LAYOUT_TTL }
}
