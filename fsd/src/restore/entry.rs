//! What is restored, as either source has it: the trees of a repository, or a directory in which a snapshot is mounted.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use stash_repo::{BlobId, Id, NodeKind, Repository, Timestamp, TreeId};
use tokio::runtime::Handle;

use super::meta::Meta;
use super::mounted::{DirWalk, Found};
use super::root::Root;
use super::{Origin, Shared};
use crate::walk::{self, Visited, Walk};

/// An entry, with its path below what is restored.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// Of a tree.
    Stored(Visited),
    /// Of a mounted directory.
    Mounted(Found),
}

impl Entry {
    pub(super) fn path(&self) -> &[u8] {
        match self {
            Self::Stored(entry) => &entry.path,
            Self::Mounted(found) => &found.path,
        }
    }

    pub(super) fn kind(&self) -> NodeKind {
        match self {
            Self::Stored(entry) => entry.node().kind(),
            Self::Mounted(found) => found.kind(),
        }
    }

    pub(super) fn mtime(&self) -> Timestamp {
        match self {
            Self::Stored(entry) => entry.node().mtime(),
            Self::Mounted(found) => found.mtime(),
        }
    }

    /// Returns how many names it has.
    pub(super) fn links(&self) -> u64 {
        match self {
            Self::Stored(entry) => entry.node().links(),
            Self::Mounted(found) => found.stat.st_nlink,
        }
    }

    /// Returns the number of a device.
    pub(super) fn rdev(&self) -> u64 {
        match self {
            Self::Stored(entry) => entry.node().rdev(),
            Self::Mounted(found) => found.stat.st_rdev,
        }
    }

    /// Returns the size that a file is said to have; nothing for other kinds.
    pub(super) fn stated_bytes(&self) -> u64 {
        match self {
            _ if self.kind() != NodeKind::File => 0,
            Self::Stored(entry) => entry.node().size(),
            Self::Mounted(found) => found.stat.st_size.cast_unsigned(),
        }
    }

    /// Returns what tells that two entries are one file.
    pub(super) fn link_key(&self) -> Option<(u64, u64)> {
        let (device, inode) = match self {
            Self::Stored(entry) => (entry.node().device_id(), entry.node().inode()),
            Self::Mounted(found) => (found.stat.st_dev, found.stat.st_ino),
        };
        (self.links() > 1 && inode != 0 && self.kind() != NodeKind::Dir).then_some((device, inode))
    }

    /// Returns where a symbolic link leads.
    ///
    /// # Errors
    /// What is mounted does not tell.
    pub(super) fn link_target(&self) -> io::Result<Cow<'_, [u8]>> {
        match self {
            Self::Stored(entry) => Ok(Cow::Borrowed(entry.node().link_target())),
            Self::Mounted(found) => found.link_target().map(Cow::Owned),
        }
    }

    /// Returns its metadata.
    ///
    /// # Errors
    /// What is mounted does not tell.
    pub(super) fn meta(&self, shared: &Shared) -> io::Result<Meta> {
        match self {
            Self::Stored(entry) => Ok(Meta::of(entry.node(), shared.options.owner)),
            Self::Mounted(found) => found.meta(shared),
        }
    }

    /// Names a part by where it goes and what it will hold, as far as that is known.
    pub(super) fn part_hash(&self) -> String {
        match self {
            Self::Stored(entry) => {
                hash(self.path(), entry.node().content().iter().map(BlobId::as_bytes).map(<[u8; 32]>::as_slice))
            }
            Self::Mounted(found) => {
                let Timestamp { secs, nanos } = found.mtime();
                let known = [found.stat.st_size.to_le_bytes(), secs.to_le_bytes(), u64::from(nanos).to_le_bytes()];
                hash(self.path(), known.iter().map(<[u8; 8]>::as_slice))
            }
        }
    }
}

/// Names a part that has no content.
pub(super) fn part_hash(path: &[u8]) -> String {
    hash(path, std::iter::empty())
}

fn hash<'a>(path: &[u8], content: impl Iterator<Item = &'a [u8]>) -> String {
    let mut bytes = path.to_vec();
    bytes.push(0);
    bytes.extend(content.flatten());
    let mut hex = Id::hash(&bytes).to_hex();
    hex.truncate(16);
    hex
}

/// What is in a directory, for whoever removes everything else.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keep {
    /// What a tree says.
    Tree(TreeId),
    /// What the mounted directory of the same path holds.
    Listed,
}

impl Keep {
    /// Returns the names; on a thread that may wait.
    ///
    /// # Errors
    /// They cannot be read: nothing is removed.
    pub(super) fn names(&self, shared: &Shared, path: &[u8]) -> io::Result<HashSet<Vec<u8>>> {
        match (self, &shared.origin) {
            (Self::Tree(id), _) => {
                let tree = Handle::current().block_on(shared.repository()?.tree(*id)).map_err(io::Error::other)?;
                Ok(tree.iter().map(|node| node.name().to_vec()).collect())
            }
            (Self::Listed, Origin::Mounted(root)) => {
                let names = super::delete::names(&root.dir(path)?)?;
                Ok(names.into_iter().map(std::ffi::CString::into_bytes).collect())
            }
            (Self::Listed, Origin::Repository(_)) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Where a restore begins.
#[derive(Debug)]
pub(super) enum Start {
    /// At a tree of a repository; of all but a snapshot's root there is an entry.
    Tree(Repository, TreeId, Option<Visited>),
    /// At a mounted directory.
    Directory(Arc<Root>),
    /// At one entry that is no directory.
    Single(Entry),
}

impl Start {
    /// Returns the entry of the directory that is restored into the target, if it has one.
    ///
    /// # Errors
    /// What is mounted does not tell.
    pub(super) fn directory(&self) -> io::Result<Option<Entry>> {
        match self {
            Self::Tree(_, _, entry) => Ok(entry.clone().map(Entry::Stored)),
            Self::Directory(root) => Found::root(root).map(|found| Some(Entry::Mounted(found))),
            Self::Single(_) => Ok(None),
        }
    }

    /// Begins a walk over it, on a thread that may wait.
    pub(super) fn walker<'a>(&'a self, handle: &'a Handle) -> Option<Walker<'a>> {
        match self {
            Self::Tree(repository, tree, _) => Some(Walker::Stored(Walk::new(repository, *tree), handle)),
            Self::Directory(root) => Some(Walker::Mounted(DirWalk::new(root.clone()))),
            Self::Single(_) => None,
        }
    }
}

/// A walk, depth first, names in the order of their bytes.
#[derive(Debug)]
pub(super) enum Walker<'a> {
    Stored(Walk<'a>, &'a Handle),
    Mounted(DirWalk),
}

/// One step of a [`Walker`].
#[derive(Debug)]
pub(super) enum Step {
    /// An entry; a directory comes before what is in it.
    Entry(Entry),
    /// All that is in a directory was walked.
    Leave(Keep),
    /// An entry of a directory could not be looked at.
    Lost { path: Vec<u8>, error: String },
    /// A directory could not be read.
    Failed { path: Vec<u8>, error: String },
}

impl Walker<'_> {
    /// Goes on; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Step> {
        let (walk, handle) = match self {
            Self::Stored(walk, handle) => (walk, handle),
            Self::Mounted(walk) => return walk.next(),
        };
        Some(match handle.block_on(walk.next())? {
            walk::Step::Entry(entry) => Step::Entry(Entry::Stored(entry)),
            walk::Step::Leave { tree, .. } => Step::Leave(Keep::Tree(tree)),
            walk::Step::Failed { path, error } => Step::Failed { path, error: error.to_string() },
        })
    }

    /// Does not enter the directory that was given last; there is no [`Step::Leave`] for it then.
    pub(super) fn skip(&mut self) {
        match self {
            Self::Stored(walk, _) => walk.skip(),
            Self::Mounted(walk) => walk.skip(),
        }
    }
}
