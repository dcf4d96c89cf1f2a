//! Fetches what the state machines of [`crate::prefetch`] ask for.

use std::sync::Arc;

use stash_repo::{Tree, TreeId};

use crate::inode::Ino;
use crate::source::Source;

#[derive(Debug)]
pub(super) struct ReadAhead {
    sources: Vec<Arc<dyn Source>>,
    on: bool,
}

impl ReadAhead {
    pub(super) fn new(sources: &[Arc<dyn Source>], on: bool) -> Self {
        Self { sources: sources.to_vec(), on }
    }

    /// A directory was read from its beginning.
    pub(super) fn on_readdir(&self, repo: usize, _id: TreeId, tree: &Tree) {
        let Some(source) = self.sources.get(repo).filter(|_| self.on) else { return };
        let children: Vec<TreeId> = tree.iter().filter_map(stash_repo::NodeRef::subtree).take(64).collect();
        if !children.is_empty() {
            source.prefetch_trees(&children);
        }
    }

    /// A file is about to be read.
    pub(super) fn on_file(&self, _repo: usize, _dir: Ino, _tree: &Arc<Tree>, _position: usize) {}
}
