//! Readers that go through directories, and through their small files.
//!
//! Nobody says that he is walking a tree; it shows. A directory is listed whose parent was listed just before: then the
//! directories that follow in the order of a walk are wanted soon. Files of one directory are opened one after another: then
//! the files behind them, of this directory and of those that follow, are. Both plans look at trees that memory holds,
//! from where the reader is onwards, and name what is lacking; the next plan goes on from what has come meanwhile. So a plan
//! costs no wait and keeps no state that could go wrong, and a reader that stops leaves nothing running.
//!
//! A plan is made again when a part of what it saw has been consumed, so that its cost is spread over many directories or
//! files.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use stash_repo::{BlobId, NodeKind, Tree, TreeId};

use super::Limits;
use crate::inode::Ino;
use crate::sparse;

/// In which order a walk takes the entries of a directory. Programs that keep the directories to visit on a stack take the
/// last one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Order {
    #[default]
    Forward,
    Backward,
}

/// A directory on the way from the reader up to the root, and its entries that are still to be visited.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    tree: Arc<Tree>,
    left: Range<usize>,
}

impl Level {
    /// All entries are to be visited.
    pub(crate) fn whole(tree: Arc<Tree>) -> Self {
        let left = 0..tree.len();
        Self { tree, left }
    }

    /// The reader is in the entry at `position`, or has been there: those that follow are to be visited.
    pub(crate) fn beyond(tree: Arc<Tree>, position: usize, order: Order) -> Self {
        let left = match order {
            Order::Forward => position + 1..tree.len(),
            Order::Backward => 0..position.min(tree.len()),
        };
        Self { tree, left }
    }

    fn take(&mut self, order: Order) -> Option<usize> {
        match order {
            Order::Forward => self.left.next(),
            Order::Backward => self.left.next_back(),
        }
    }
}

/// How many levels above the reader a plan looks at.
pub(crate) const LEVELS: usize = 16;

/// The most entries that one plan looks at: a directory of a million files must not cost a millisecond at every step.
const SCAN_ENTRIES: usize = 4_096;

/// A directory without evidence of a walk is most likely listed alone: this part of the limit is fetched all the same.
const ALONE_PART: usize = 8;

/// How many directories are remembered as evidence: a few walks of some depth.
const LISTED: usize = 32;

/// Evidence of walks through directories.
#[derive(Debug, Default)]
pub(crate) struct Walks {
    /// Directories that were listed, or had a child listed, last, and where that child stands in them; the newest last.
    listed: Vec<(Ino, Option<usize>)>,
    order: Order,
    /// Directories that may be listed before the next plan.
    credit: usize,
}

/// What a plan for directories found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TreePlan {
    /// Trees that memory lacks, in the order of the walk.
    pub(crate) lacking: Vec<TreeId>,
    /// Trees ahead that memory holds.
    pub(crate) ready: usize,
}

impl Walks {
    /// Takes note that a directory is listed; returns how many trees ahead are to be looked at, if any. `parent` is the
    /// directory that it stands in, and where.
    pub(crate) fn on_list(&mut self, dir: Ino, parent: Option<(Ino, usize)>, limits: &Limits) -> Option<usize> {
        let place = parent.and_then(|(parent, _)| self.listed.iter().position(|(listed, _)| *listed == parent));
        let walking = place.is_some();
        // Whoever goes back up lists nothing on his way, so a directory's parent does not age while its children are listed.
        if let (Some(place), Some((parent, position))) = (place, parent) {
            let (_, last) = self.listed.remove(place);
            self.listed.push((parent, Some(position)));
            let order = match last {
                Some(last) if last > position => Order::Backward,
                Some(last) if last < position => Order::Forward,
                _ => self.order,
            };
            if order != self.order {
                (self.order, self.credit) = (order, 0);
            }
        }
        self.listed.retain(|(listed, _)| *listed != dir);
        self.listed.push((dir, None));
        if self.listed.len() > LISTED {
            self.listed.remove(0);
        }
        if !walking {
            self.credit = 0;
            return Some((limits.trees / ALONE_PART).max(1));
        }
        if self.credit > 0 {
            self.credit -= 1;
            return None;
        }
        Some(limits.trees)
    }

    /// Returns the order in which the walk goes on.
    pub(crate) fn order(&self) -> Order {
        self.order
    }

    /// Notes what the plan found: a quarter of what is ready may be consumed before the next.
    pub(crate) fn planned(&mut self, plan: &TreePlan) {
        self.credit = plan.ready / 4;
    }
}

/// Looks at most `budget` directories ahead. `levels` begins with the root's side and ends with the reader's directory.
pub(crate) fn plan_trees(
    mut levels: Vec<Level>,
    order: Order,
    budget: usize,
    get: impl Fn(&TreeId) -> Option<Arc<Tree>>,
) -> TreePlan {
    let mut plan = TreePlan::default();
    let mut scan = SCAN_ENTRIES;
    while let Some(id) = next_dir(&mut levels, order, &mut scan) {
        match get(&id) {
            Some(tree) => {
                plan.ready += 1;
                levels.push(Level::whole(tree));
            }
            None => plan.lacking.push(id),
        }
        if plan.ready + plan.lacking.len() >= budget {
            break;
        }
    }
    plan
}

/// Takes the next directory in the order of a walk.
fn next_dir(levels: &mut Vec<Level>, order: Order, scan: &mut usize) -> Option<TreeId> {
    while let Some(level) = levels.last_mut() {
        while let Some(position) = level.take(order) {
            *scan = scan.checked_sub(1)?;
            let Some(node) = level.tree.get(position) else { continue };
            if let Some(id) = node.subtree().filter(|_| node.kind() == NodeKind::Dir) {
                return Some(id);
            }
        }
        levels.pop();
    }
    None
}

/// Evidence of readers that go through small files.
#[derive(Debug, Default)]
pub(crate) struct FileRuns {
    runs: Vec<FileRun>,
    tick: u64,
    /// Directories that plans have covered.
    planned: HashSet<TreeId>,
    /// Where the last file stands: its position in its directory, after that of the directory in its own, and so on.
    last: Vec<usize>,
    /// How many files in a row were each in a directory of its own, further on in the order of a walk.
    steps: u32,
}

#[derive(Debug)]
struct FileRun {
    dir: Ino,
    position: usize,
    /// How many files were opened in order.
    run: u32,
    /// Files that may be opened before the next plan.
    credit: usize,
    tick: u64,
}

/// How many directories are watched at once.
const RUNS: usize = 8;
/// How many directories that were covered are remembered.
const PLANNED: usize = 4_096;
/// Entries that a reader in order may skip (directories, links, names that do not fit its pattern).
const SKIP_ENTRIES: usize = 16;
/// Files opened in order before the next are fetched ahead.
const RUN_LENGTH: u32 = 2;

/// Files in further and further directories before those between are fetched ahead as well: somebody takes a few of many, as
/// a search by name does. Over a network, asking for each alone costs more than all that lies between.
const SPARSE_STEPS: u32 = 4;
/// So many times more files are planned then.
const SPARSE_FACTOR: usize = 8;

/// What a plan for small files found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FilePlan {
    /// Blobs in the order in which they will be wanted.
    pub(crate) blobs: Vec<BlobId>,
    /// Of how many files they are.
    pub(crate) files: usize,
    /// Trees that memory lacks and that come next.
    pub(crate) lacking: Vec<TreeId>,
}

impl FileRuns {
    /// Takes note that a file is opened; returns whether to plan. `place` is the path to it from above, by positions.
    pub(crate) fn on_file(&mut self, dir: Ino, tree: &TreeId, position: usize, place: Vec<usize>) -> bool {
        if self.last[..self.last.len().saturating_sub(1)] != place[..place.len().saturating_sub(1)] {
            self.steps = if place > self.last { self.steps.saturating_add(1) } else { 0 };
        }
        self.last = place;
        let in_order = self.on_file_in_order(dir, tree, position);
        in_order || self.is_sparse() && !self.planned.contains(tree)
    }

    fn is_sparse(&self) -> bool {
        self.steps >= SPARSE_STEPS
    }

    fn on_file_in_order(&mut self, dir: Ino, tree: &TreeId, position: usize) -> bool {
        self.tick += 1;
        let tick = self.tick;
        let planned = self.planned.contains(tree);
        let run = if let Some(run) = self.runs.iter_mut().find(|run| run.dir == dir) {
            let step = position.checked_sub(run.position);
            match step {
                Some(0) => return false,
                Some(step) if step <= SKIP_ENTRIES => {
                    run.run = run.run.saturating_add(1);
                    run.credit = run.credit.saturating_sub(1);
                }
                _ => (run.run, run.credit) = (0, 0),
            }
            run.position = position;
            run
        } else {
            // The directory after one that was read in order: the walk goes on where the plan said it would.
            let (run, credit) = match self.runs.iter().max_by_key(|run| run.tick) {
                Some(last) if planned && last.run >= RUN_LENGTH => (last.run, last.credit.saturating_sub(1)),
                Some(last) if last.run > 2 * RUN_LENGTH && position <= SKIP_ENTRIES => (RUN_LENGTH, 0),
                _ => (0, 0),
            };
            if self.runs.len() >= RUNS
                && let Some(oldest) = (0..self.runs.len()).min_by_key(|at| self.runs[*at].tick)
            {
                self.runs.swap_remove(oldest);
            }
            self.runs.push(FileRun { dir, position, run, credit, tick });
            let Some(run) = self.runs.last_mut() else { return false };
            run
        };
        run.tick = tick;
        run.run >= RUN_LENGTH && run.credit == 0
    }

    /// Plans: the files that follow `position` in `tree`, then those of the directories that follow. `levels` as in
    /// [`plan_trees`], the reader's directory last.
    pub(crate) fn plan(
        &mut self,
        dir: Ino,
        position: usize,
        mut levels: Vec<Level>,
        limits: &Limits,
        get: impl Fn(&TreeId) -> Option<Arc<Tree>>,
    ) -> FilePlan {
        let mut plan = FilePlan::default();
        let factor = if self.is_sparse() { SPARSE_FACTOR } else { 1 };
        let mut room = Room { files: limits.files * factor, bytes: limits.file_bytes, scan: SCAN_ENTRIES };
        let Some(own) = levels.last_mut() else { return plan };
        *own = Level::beyond(Arc::clone(&own.tree), position, Order::Forward);
        let own = Arc::clone(&own.tree);
        if self.planned.len() >= PLANNED {
            self.planned.clear();
        }
        let full = take_files(&own, position + 1, &mut plan, &mut room)
            || self.take_dirs(levels, true, limits.trees, &get, &mut plan, &mut room);
        // Who takes a directory's files before its directories has not been in those before the file either.
        if !full && !self.is_sparse() {
            let before = vec![Level::beyond(own, position, Order::Backward)];
            self.take_dirs(before, false, limits.trees, &get, &mut plan, &mut room);
        }
        if let Some(run) = self.runs.iter_mut().find(|run| run.dir == dir) {
            run.credit = plan.files / 2;
        }
        plan
    }

    /// Takes the files of the directories in `levels`, in the order of a walk; those that a plan has covered only with
    /// `again`. Returns whether there is no more room.
    fn take_dirs(
        &mut self,
        mut levels: Vec<Level>,
        again: bool,
        most_lacking: usize,
        get: &impl Fn(&TreeId) -> Option<Arc<Tree>>,
        plan: &mut FilePlan,
        room: &mut Room,
    ) -> bool {
        while plan.lacking.len() < most_lacking
            && let Some(id) = next_dir(&mut levels, Order::Forward, &mut room.scan)
        {
            if !again && self.planned.contains(&id) {
                continue;
            }
            let Some(tree) = get(&id) else {
                plan.lacking.push(id);
                continue;
            };
            self.planned.insert(id);
            if take_files(&tree, 0, plan, room) {
                return true;
            }
            levels.push(Level::whole(tree));
        }
        false
    }
}

/// What a plan may still take.
struct Room {
    files: usize,
    bytes: u64,
    scan: usize,
}

/// A file up to this length is fetched whole, of a longer one the first blob: whoever reads on is a sequential reader.
const SMALL_FILE_BYTES: u64 = 1 << 20;

/// Takes a directory's files from a position on; returns whether there is no more room.
fn take_files(tree: &Tree, from: usize, plan: &mut FilePlan, room: &mut Room) -> bool {
    for position in from..tree.len() {
        if room.files == 0 || room.scan == 0 {
            return true;
        }
        room.scan -= 1;
        let Some(node) = tree.get(position).filter(|node| node.kind() == NodeKind::File) else { continue };
        let content = node.content();
        let wanted = if node.size() <= SMALL_FILE_BYTES { content } else { &content[..content.len().min(1)] };
        // A small file has few blobs, unless somebody wants us to work.
        let wanted = &wanted[..wanted.len().min(8)];
        let Some(bytes) = room.bytes.checked_sub(node.size().min(SMALL_FILE_BYTES)) else { return true };
        if wanted.is_empty() {
            continue;
        }
        room.bytes = bytes;
        room.files -= 1;
        plan.files += 1;
        plan.blobs.extend(wanted.iter().filter(|id| !sparse::is_zeros(id)));
    }
    false
}

#[cfg(test)]
mod tests;
