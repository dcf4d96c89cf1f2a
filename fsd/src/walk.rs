//! Walks over the trees of a snapshot, depth first, names in the order of their bytes.
//!
//! The trees of a directory's children are asked for ahead, so that a walk over a network does not wait a round trip for
//! each. A tree that cannot be had is one step of the walk and not its end.

use std::sync::Arc;

use stash_repo::{NodeKind, NodeRef, RepoError, RepoResult, Repository, Tree, TreeId};

/// The deepest directory: deeper ones are errors, so that a hostile repository cannot exhaust memory.
pub const MAX_DEPTH: usize = 4096;

/// One entry of a directory, with the path it was found at.
#[derive(Debug, Clone)]
pub struct Visited {
    /// The directory.
    pub tree: Arc<Tree>,
    /// The directory's id.
    pub tree_id: TreeId,
    /// The entry's place in it.
    pub position: usize,
    /// From the root of the walk; begins with `/`.
    pub path: Vec<u8>,
}

impl Visited {
    /// Returns the entry.
    #[must_use]
    pub fn node(&self) -> NodeRef<'_> {
        self.tree.get(self.position).expect("a walk visits only entries that are there")
    }
}

/// One step of a [`Walk`].
#[derive(Debug)]
pub enum Step {
    /// An entry; a directory comes before what is in it.
    Entry(Visited),
    /// All that is in a directory was walked.
    Leave {
        /// The directory.
        path: Vec<u8>,
        /// Its tree.
        tree: TreeId,
    },
    /// A directory could not be read; the walk goes on after it.
    Failed {
        /// The directory.
        path: Vec<u8>,
        /// Why.
        error: RepoError,
    },
}

#[derive(Debug)]
struct Frame {
    tree: Arc<Tree>,
    id: TreeId,
    next: usize,
    /// How long the path of this directory is.
    path_bytes: usize,
}

/// A walk in progress.
#[derive(Debug)]
pub struct Walk<'a> {
    repository: &'a Repository,
    stack: Vec<Frame>,
    path: Vec<u8>,
    /// The directory that was given last and is entered by the next step.
    enter: Option<Option<TreeId>>,
}

impl<'a> Walk<'a> {
    /// Starts at a tree, whose path is `/`.
    #[must_use]
    pub fn new(repository: &'a Repository, root: TreeId) -> Self {
        Self { repository, stack: Vec::new(), path: Vec::new(), enter: Some(Some(root)) }
    }

    /// Does not enter the directory that [`Walk::next`] gave last; there is no [`Step::Leave`] for it then.
    pub fn skip(&mut self) {
        if self.enter.take().is_some() {
            self.leave_name();
        }
    }

    /// Goes on; `None` at the end.
    pub async fn next(&mut self) -> Option<Step> {
        if let Some(subtree) = self.enter.take() {
            match self.load(subtree).await {
                Ok((id, tree)) => self.push(id, tree),
                Err(error) => {
                    let path = self.shown_path();
                    self.leave_name();
                    return Some(Step::Failed { path, error });
                }
            }
        }
        let frame = self.stack.last_mut()?;
        let Some(node) = frame.tree.get(frame.next) else {
            let step = Step::Leave { path: self.shown_path(), tree: self.stack.pop()?.id };
            self.leave_name();
            return Some(step);
        };
        self.path.truncate(frame.path_bytes);
        self.path.push(b'/');
        self.path.extend_from_slice(node.name());
        if node.kind() == NodeKind::Dir {
            self.enter = Some(node.subtree());
        }
        let visited =
            Visited { tree: frame.tree.clone(), tree_id: frame.id, position: frame.next, path: self.path.clone() };
        frame.next += 1;
        Some(Step::Entry(visited))
    }

    async fn load(&self, subtree: Option<TreeId>) -> RepoResult<(TreeId, Arc<Tree>)> {
        let Some(id) = subtree else {
            return Err(RepoError::Unsupported { reason: "the directory has no tree".to_owned() });
        };
        if self.stack.len() >= MAX_DEPTH {
            return Err(RepoError::BadTree { id, reason: format!("it is deeper than {MAX_DEPTH} directories") });
        }
        Ok((id, self.repository.tree(id).await?))
    }

    fn push(&mut self, id: TreeId, tree: Arc<Tree>) {
        let subtrees: Vec<TreeId> = tree.iter().filter_map(NodeRef::subtree).collect();
        if !subtrees.is_empty() {
            self.repository.prefetch_trees(&subtrees);
        }
        self.stack.push(Frame { tree, id, next: 0, path_bytes: self.path.len() });
    }

    /// Takes the last name off the path.
    fn leave_name(&mut self) {
        let parent = self.stack.last().map_or(0, |frame| frame.path_bytes);
        self.path.truncate(parent);
    }

    fn shown_path(&self) -> Vec<u8> {
        let bytes = self.path.clone();
        if bytes.is_empty() { b"/".to_vec() } else { bytes }
    }
}

/// What a path in a snapshot names.
#[derive(Debug, Clone)]
pub enum Located {
    /// The root: it has a tree and no node.
    Root(TreeId),
    /// An entry.
    Entry(Visited),
}

impl Located {
    /// Returns the tree of the root or of a directory.
    #[must_use]
    pub fn tree(&self) -> Option<TreeId> {
        match self {
            Self::Root(tree) => Some(*tree),
            Self::Entry(entry) => entry.node().subtree(),
        }
    }
}

/// Finds a path from a snapshot's root; symbolic links are not followed. Empty parts, `.` and a slash at the end do not
/// matter; `..` is a name that no directory has.
///
/// # Errors
/// A tree on the way could not be read.
pub async fn locate(repository: &Repository, root: TreeId, path: &[u8]) -> RepoResult<Option<Located>> {
    let mut names = path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".").peekable();
    let mut tree_id = root;
    let mut walked = Vec::new();
    while let Some(name) = names.next() {
        let tree = repository.tree(tree_id).await?;
        let Some(node) = tree.find(name) else { return Ok(None) };
        walked.push(b'/');
        walked.extend_from_slice(name);
        if names.peek().is_none() {
            let position = node.position;
            return Ok(Some(Located::Entry(Visited { tree, tree_id, position, path: walked })));
        }
        match node.subtree() {
            Some(subtree) => tree_id = subtree,
            None => return Ok(None),
        }
    }
    Ok(Some(Located::Root(root)))
}
