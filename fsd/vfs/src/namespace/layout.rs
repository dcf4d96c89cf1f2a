//! The directories above the snapshots.
//!
//! A [`Layout`] is built anew whenever the list of snapshots has changed, and never changes itself. Ids and the order of
//! entries follow from names and snapshot ids alone, so a name keeps its id, and a half-read directory goes on where it
//! was, across lists, remounts and processes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use stash_repo::{Snapshot, Timestamp, TreeId};

use super::{Namespace, Pin};
use crate::attr::{Attr, FileType, timestamp};
use crate::inode::{Ino, link_seed, snapshot_ino};

/// The offset after `.` and `..`; offsets of entries are greater.
pub(crate) const FIRST_OFFSET: u64 = 2;

/// All directories above the snapshots.
#[derive(Debug)]
pub(crate) struct Layout {
    nodes: Vec<LayoutNode>,
    by_ino: HashMap<Ino, u32>,
    /// Nodes by what [`Ino::child`] says of their parent and name.
    by_name: HashMap<Ino, u32>,
}

/// A directory, snapshot or link of the layout.
#[derive(Debug, Clone)]
pub(crate) struct LayoutNode {
    pub(crate) ino: Ino,
    pub(crate) parent: Ino,
    pub(crate) name: Box<str>,
    /// Where a reader of the parent goes on after this entry: grows along the parent's children.
    pub(crate) offset: u64,
    pub(crate) time: Timestamp,
    pub(crate) kind: LayoutKind,
}

#[derive(Debug, Clone)]
pub(crate) enum LayoutKind {
    /// Children by offset; the repository whose list decides them, if one does.
    Dir {
        children: Vec<u32>,
        repo: Option<usize>,
    },
    Snapshot(SnapshotRoot),
    Link(Box<str>),
}

/// Where a snapshot, or a directory of one, begins.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotRoot {
    pub(crate) repo: usize,
    pub(crate) tree: TreeId,
    /// What its entries' ids are hashed under.
    pub(crate) seed: u64,
    /// What its hard links' ids are hashed under.
    pub(crate) link_seed: u64,
    /// What a directory below a snapshot is; a snapshot itself has no attributes.
    pub(crate) own: Option<Arc<RootDir>>,
}

/// A directory of a backup that is a root.
#[derive(Debug)]
pub(crate) struct RootDir {
    pub(crate) attr: Attr,
    /// Its extended attributes, access control lists among them.
    pub(crate) xattrs: Vec<(Bytes, Bytes)>,
}

/// A repository's part of the layout.
#[derive(Debug)]
pub(crate) enum Part {
    /// Its snapshots by its templates.
    Templates { namespace: Arc<Namespace>, snapshots: Vec<Arc<Snapshot>> },
    /// One directory of one snapshot.
    Root(PinnedRoot),
}

/// One directory of one snapshot, as a root.
#[derive(Debug, Clone)]
pub(crate) struct PinnedRoot {
    pub(crate) pin: Pin,
    pub(crate) tree: TreeId,
    pub(crate) path: Vec<u8>,
    pub(crate) own: Option<Arc<RootDir>>,
}

impl LayoutNode {
    pub(crate) const fn file_type(&self) -> FileType {
        match self.kind {
            LayoutKind::Dir { .. } | LayoutKind::Snapshot(_) => FileType::Dir,
            LayoutKind::Link(_) => FileType::Symlink,
        }
    }

    /// Returns the directory of a backup that it is.
    pub(crate) fn own(&self) -> Option<&RootDir> {
        match &self.kind {
            LayoutKind::Snapshot(root) => root.own.as_deref(),
            LayoutKind::Dir { .. } | LayoutKind::Link(_) => None,
        }
    }
}

impl Layout {
    /// Builds the layout: one repository is the root itself, of several each has a directory with its name.
    pub(crate) fn build<'a>(parts: impl ExactSizeIterator<Item = (&'a str, &'a Part)>) -> Self {
        let alone = parts.len() == 1;
        let mut builder = Builder::new(alone);
        for (repo, (name, part)) in parts.enumerate() {
            match part {
                Part::Templates { namespace, snapshots } => {
                    let top = if alone {
                        builder.claim(0, repo);
                        0
                    } else {
                        builder.unique(0, name, LayoutKind::Dir { children: Vec::new(), repo: Some(repo) }, EPOCH)
                    };
                    builder.templates(top, repo, namespace, snapshots);
                }
                Part::Root(root) => builder.pinned(name, repo, root, alone),
            }
        }
        builder.finish()
    }

    /// Finds a node by its id.
    pub(crate) fn get(&self, ino: Ino) -> Option<&LayoutNode> {
        self.by_ino.get(&ino).and_then(|number| self.nodes.get(*number as usize))
    }

    /// Finds a child by name.
    pub(crate) fn child<'a>(&'a self, dir: &'a LayoutNode, name: &[u8]) -> Option<&'a LayoutNode> {
        let node = |number: &u32| self.nodes.get(*number as usize);
        let is_it = |node: &&LayoutNode| node.parent == dir.ino && node.name.as_bytes() == name;
        // The root is its own parent, but no child.
        let is_it = |found: &&LayoutNode| found.ino != Ino::ROOT && is_it(found);
        match self.by_name.get(&Ino::child(dir.ino.0, name)).and_then(node).filter(is_it) {
            Some(found) => Some(found),
            // Another name hashes the same: look at each.
            None => self.children(dir).find(is_it),
        }
    }

    /// Returns the children by offset.
    pub(crate) fn children<'a>(&'a self, dir: &'a LayoutNode) -> impl Iterator<Item = &'a LayoutNode> {
        let children = match &dir.kind {
            LayoutKind::Dir { children, .. } => children.as_slice(),
            LayoutKind::Snapshot(_) | LayoutKind::Link(_) => &[],
        };
        children.iter().filter_map(|number| self.nodes.get(*number as usize))
    }

    /// Returns all nodes.
    pub(crate) fn nodes(&self) -> &[LayoutNode] {
        &self.nodes
    }
}

const EPOCH: Timestamp = Timestamp { secs: 0, nanos: 0 };

struct Builder {
    nodes: Vec<LayoutNode>,
    names: HashMap<(u32, Box<str>), u32>,
    /// The number that the next equal name gets.
    suffixes: HashMap<(u32, Box<str>), u32>,
    by_ino: HashMap<Ino, u32>,
    by_name: HashMap<Ino, u32>,
}

impl Builder {
    fn new(alone: bool) -> Self {
        let kind = LayoutKind::Dir { children: Vec::new(), repo: alone.then_some(0) };
        let root = LayoutNode { ino: Ino::ROOT, parent: Ino::ROOT, name: "".into(), offset: 0, time: EPOCH, kind };
        Self {
            nodes: vec![root],
            names: HashMap::new(),
            suffixes: HashMap::new(),
            by_ino: HashMap::from([(Ino::ROOT, 0)]),
            by_name: HashMap::new(),
        }
    }

    fn claim(&mut self, number: u32, owner: usize) {
        if let LayoutKind::Dir { repo, .. } = &mut self.nodes[number as usize].kind {
            *repo = Some(owner);
        }
    }

    fn pinned(&mut self, name: &str, repo: usize, root: &PinnedRoot, alone: bool) {
        let time = root.pin.time;
        let link_seed = link_seed(&root.pin.snapshot);
        let snapshot = |at: Ino| SnapshotRoot {
            repo,
            tree: root.tree,
            seed: Ino::child(snapshot_ino(at, &root.pin.snapshot).0, &root.path).0,
            link_seed,
            own: root.own.clone(),
        };
        if alone {
            self.nodes[0].kind = LayoutKind::Snapshot(snapshot(Ino::ROOT));
            self.nodes[0].time = time;
        } else {
            let at = Ino::child(Ino::ROOT.0, name.as_bytes());
            self.unique(0, name, LayoutKind::Snapshot(snapshot(at)), time);
        }
    }

    fn templates(&mut self, top: u32, repo: usize, namespace: &Namespace, snapshots: &[Arc<Snapshot>]) {
        for template in &namespace.templates {
            self.dirs(top, repo, template.fixed_prefix());
        }
        let mut shown: Vec<&Arc<Snapshot>> =
            snapshots.iter().filter(|snapshot| namespace.filter.admits(snapshot)).collect();
        // Oldest first, so that of equal names the older keeps its name when a newer comes.
        shown.sort_by_key(|snapshot| (snapshot.time.timestamp(), snapshot.id));
        // The newest of each place that ends in a time: (directory, stem) -> link target.
        let mut latest: HashMap<(u32, String), (String, Timestamp)> = HashMap::new();
        for snapshot in shown {
            let time = timestamp(&snapshot.time);
            for place in namespace.templates.iter().flat_map(|template| template.places(snapshot, &namespace.time)) {
                let whole = match &place.time {
                    Some(time) => format!("{}{time}", place.prefix),
                    None => place.prefix.clone(),
                };
                let (dirs, name) =
                    whole.trim_end_matches('/').rsplit_once('/').unwrap_or_else(|| ("", whole.trim_end_matches('/')));
                let parent = self.dirs(top, repo, dirs);
                let kind = LayoutKind::Snapshot(SnapshotRoot {
                    repo,
                    tree: snapshot.tree,
                    seed: 0,
                    link_seed: link_seed(&snapshot.id),
                    own: None,
                });
                let number = self.add_snapshot(parent, &component(name), snapshot, kind, time);
                if place.time.is_some() {
                    let (dirs, stem) = place.prefix.rsplit_once('/').unwrap_or(("", &place.prefix));
                    let dir = self.dirs(top, repo, dirs);
                    latest.insert((dir, stem.to_owned()), (self.path_below(dir, number), time));
                }
            }
        }
        let mut latest: Vec<_> = latest.into_iter().collect();
        latest.sort();
        for ((dir, stem), (target, time)) in latest {
            let name = component(&format!("{stem}latest"));
            // A snapshot whose own name is "latest" keeps it.
            if !self.names.contains_key(&(dir, name.as_str().into())) {
                // A kernel keeps a link's target with its inode, so another target is another inode.
                let at = Ino::child(self.nodes[dir as usize].ino.0, name.as_bytes());
                let ino = Ino::child(at.0, target.as_bytes());
                self.add(dir, &name, Some(ino), LayoutKind::Link(target.into()), time);
            }
        }
    }

    fn add_snapshot(&mut self, parent: u32, name: &str, snapshot: &Snapshot, kind: LayoutKind, time: Timestamp) -> u32 {
        let name = self.free_name(parent, name);
        let at = Ino::child(self.nodes[parent as usize].ino.0, name.as_bytes());
        // The name alone is not enough: after a snapshot was forgotten, another may get its name.
        let number = self.add(parent, &name, Some(snapshot_ino(at, &snapshot.id)), kind, time);
        let node = &mut self.nodes[number as usize];
        if let LayoutKind::Snapshot(root) = &mut node.kind {
            root.seed = node.ino.0;
        }
        number
    }

    /// Finds or makes the directories of a path. Where a snapshot or a link has a name already, the directory gets a number.
    fn dirs(&mut self, top: u32, repo: usize, path: &str) -> u32 {
        path.split('/').filter(|part| !part.is_empty()).fold(top, |parent, part| {
            let part = component(part);
            let mut name = part.clone();
            let mut number = 1;
            loop {
                match self.names.get(&(parent, name.as_str().into())) {
                    None => {
                        let kind = LayoutKind::Dir { children: Vec::new(), repo: Some(repo) };
                        return self.add(parent, &name, None, kind, EPOCH);
                    }
                    Some(found) if matches!(self.nodes[*found as usize].kind, LayoutKind::Dir { .. }) => return *found,
                    Some(_) => {
                        name = format!("{part}-{number}");
                        number += 1;
                    }
                }
            }
        })
    }

    /// Returns the name, or with the first number that makes it unique.
    fn free_name(&mut self, parent: u32, name: &str) -> String {
        if !self.names.contains_key(&(parent, name.into())) {
            return name.to_owned();
        }
        let next = self.suffixes.entry((parent, name.into())).or_insert(1);
        loop {
            let unique = format!("{name}-{next}");
            *next += 1;
            if !self.names.contains_key(&(parent, unique.as_str().into())) {
                return unique;
            }
        }
    }

    fn unique(&mut self, parent: u32, name: &str, kind: LayoutKind, time: Timestamp) -> u32 {
        let name = self.free_name(parent, &component(name));
        self.add(parent, &name, None, kind, time)
    }

    fn add(&mut self, parent: u32, name: &str, ino: Option<Ino>, kind: LayoutKind, time: Timestamp) -> u32 {
        let number = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let parent_ino = self.nodes[parent as usize].ino;
        let by_name = Ino::child(parent_ino.0, name.as_bytes());
        let mut ino = ino.unwrap_or(by_name);
        while self.by_ino.contains_key(&ino) {
            ino = ino.next_probe();
        }
        self.by_ino.insert(ino, number);
        self.by_name.insert(by_name, number);
        self.names.insert((parent, name.into()), number);
        // 62 bits of the hash, so that it stays positive as the kernel's `off_t`.
        let offset = (by_name.0 >> 2) + FIRST_OFFSET + 1;
        self.nodes.push(LayoutNode { ino, parent: parent_ino, name: name.into(), offset, time, kind });
        if let LayoutKind::Dir { children, .. } = &mut self.nodes[parent as usize].kind {
            children.push(number);
        }
        number
    }

    /// Returns the path of a node relative to a directory above it.
    fn path_below(&self, dir: u32, number: u32) -> String {
        let dir = self.nodes[dir as usize].ino;
        let mut node = &self.nodes[number as usize];
        let mut path = node.name.to_string();
        while node.parent != dir && node.parent != Ino::ROOT {
            let Some(parent) = self.by_ino.get(&node.parent) else { break };
            node = &self.nodes[*parent as usize];
            path = format!("{}/{path}", node.name);
        }
        path
    }

    /// Orders children and gives directories their times. A directory's time is that of the newest snapshot below, its
    /// nanoseconds a checksum of its entries: a kernel that keeps a directory's entries compares this time, so it must
    /// change whenever they do, also when a snapshot in the middle is forgotten.
    fn finish(mut self) -> Layout {
        // Children come after their parents, so one pass from the end sees them first.
        for number in (0..self.nodes.len()).rev() {
            let LayoutKind::Dir { children, .. } = &mut self.nodes[number].kind else { continue };
            let mut children = std::mem::take(children);
            children.sort_by(|a, b| {
                let (a, b) = (&self.nodes[*a as usize], &self.nodes[*b as usize]);
                (a.offset, &a.name).cmp(&(b.offset, &b.name))
            });
            let mut last = FIRST_OFFSET;
            let (mut newest, mut checksum) = (0, 0_u64);
            for child in &children {
                let child = &mut self.nodes[*child as usize];
                child.offset = child.offset.max(last + 1);
                last = child.offset;
                newest = newest.max(child.time.secs);
                checksum = checksum.rotate_left(5) ^ child.ino.0;
            }
            let nanos = u32::try_from(checksum % 1_000_000_000).unwrap_or_default();
            let node = &mut self.nodes[number];
            node.time = Timestamp { secs: newest, nanos };
            if let LayoutKind::Dir { children: slot, .. } = &mut node.kind {
                *slot = children;
            }
        }
        Layout { nodes: self.nodes, by_ino: self.by_ino, by_name: self.by_name }
    }
}

/// Makes a text one component of a path.
fn component(text: &str) -> String {
    super::template::file_name(text)
}

#[cfg(test)]
mod tests;
