//! Fetches what the state machines of [`crate::prefetch`] ask for.

use std::sync::Arc;

use parking_lot::Mutex;
use stash_repo::{Tree, TreeId};

use super::state::State;
use crate::inode::Ino;
use crate::prefetch::ahead::{FileRuns, LEVELS, Level, Order, Walks, plan_trees};
use crate::prefetch::{Limits, limits};
use crate::source::Source;

/// The readers of directories and small files of each repository.
#[derive(Debug)]
pub(super) struct ReadAhead {
    repos: Vec<Repo>,
}

#[derive(Debug)]
struct Repo {
    source: Arc<dyn Source>,
    limits: Limits,
    /// Locked after the state, and only where the other is free: who is late plans nothing.
    walks: Mutex<Walks>,
    files: Mutex<FileRuns>,
}

impl ReadAhead {
    pub(super) fn new(sources: &[Arc<dyn Source>], on: bool) -> Self {
        let repo = |source: &Arc<dyn Source>| Repo {
            source: Arc::clone(source),
            limits: limits(source.is_remote()),
            walks: Mutex::default(),
            files: Mutex::default(),
        };
        Self { repos: if on { sources.iter().map(repo).collect() } else { Vec::new() } }
    }

    /// Returns whether anything is fetched ahead.
    pub(super) fn is_on(&self) -> bool {
        !self.repos.is_empty()
    }

    /// A directory below a snapshot was listed from its beginning.
    pub(super) fn on_readdir(&self, state: &Mutex<State>, repo: usize, dir: Ino, tree: &Arc<Tree>) {
        let Some(repo) = self.repos.get(repo) else { return };
        let mut walks = repo.walks.lock();
        let parent = state.lock().table.get(dir).and_then(|record| Some((Ino(record.parent), record.tree_position()?)));
        let Some(budget) = walks.on_list(dir, parent, &repo.limits) else { return };
        let order = walks.order();
        let levels = repo.levels(state, dir, tree, order);
        let plan = plan_trees(levels, order, budget, |id| repo.source.try_tree(id));
        walks.planned(&plan);
        drop(walks);
        if !plan.lacking.is_empty() {
            repo.source.prefetch_trees(&plan.lacking);
        }
    }

    /// A file is about to be read.
    pub(super) fn on_file(&self, state: &Mutex<State>, repo: usize, dir: Ino, tree: &Arc<Tree>, position: usize) {
        let Some(repo) = self.repos.get(repo).filter(|repo| repo.limits.files > 0) else { return };
        let id = state.lock().tree_of(dir);
        let Some(id) = id else { return };
        let place = repo.place(state, dir, position);
        let mut files = repo.files.lock();
        if !files.on_file(dir, &id, position, place) {
            return;
        }
        let levels = repo.levels(state, dir, tree, Order::Forward);
        let plan = files.plan(dir, position, levels, &repo.limits, |id| repo.source.try_tree(id));
        drop(files);
        if !plan.lacking.is_empty() {
            repo.source.prefetch_trees(&plan.lacking);
        }
        if !plan.blobs.is_empty() {
            // What the budget does not admit is wanted later, and planned again then.
            repo.source.prefetch_blobs(&plan.blobs);
        }
    }
}

impl Repo {
    /// The positions of the directories above a file, from the root's side, and its own.
    fn place(&self, state: &Mutex<State>, dir: Ino, position: usize) -> Vec<usize> {
        let state = state.lock();
        let (mut place, mut at) = (vec![position], dir);
        while place.len() <= LEVELS
            && let Some(record) = state.table.get(at)
            && let Some(position) = record.tree_position()
        {
            place.push(position);
            at = Ino(record.parent);
        }
        place.reverse();
        place
    }

    /// The directories from the root's side to the reader's, as far as memory holds them.
    fn levels(&self, state: &Mutex<State>, dir: Ino, tree: &Arc<Tree>, order: Order) -> Vec<Level> {
        let mut above: Vec<(TreeId, usize)> = Vec::new();
        {
            let state = state.lock();
            let mut at = dir;
            while above.len() < LEVELS
                && let Some(record) = state.table.get(at)
                && let Some(position) = record.tree_position()
                && let Some(id) = state.tree_of(Ino(record.parent))
            {
                above.push((id, position));
                at = Ino(record.parent);
            }
        }
        let mut levels: Vec<Level> = above
            .into_iter()
            .map_while(|(id, position)| self.source.try_tree(&id).map(|tree| Level::beyond(tree, position, order)))
            .collect();
        levels.reverse();
        levels.push(Level::whole(Arc::clone(tree)));
        levels
    }
}
