//! `diff`: what changed between two snapshots. Directories with the same tree are not looked into.

mod count;

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use clap::Args as ClapArgs;
use serde::Serialize;
use stash_repo::{NodeKind, NodeRef, Repository, Snapshot, Tree, TreeId};

use super::output::{Out, show_name};
use super::select::{SnapshotFilter, split_spec};
use super::{CliError, CliResult, Context, Exit};
use crate::walk::{MAX_DEPTH, locate};
use count::Totals;

/// The arguments of `diff`.
///
/// Each line begins with what happened: `+` added, `-` removed, `M` content, `U` metadata, `T` kind; `?` with `M`: the
/// content differs though all metadata is the same.
#[derive(Debug, ClapArgs)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The earlier snapshot
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    from: String,
    /// The later snapshot
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    to: String,
    #[command(flatten)]
    filter: SnapshotFilter,
    /// Also show what differs in metadata alone
    #[arg(long)]
    metadata: bool,
    /// Do not count blobs, for which the directories that both snapshots share must be read
    #[arg(long)]
    no_blobs: bool,
}

/// A line of output.
#[derive(Serialize)]
struct Change<'a> {
    message_type: &'static str,
    path: &'a str,
    modifier: &'a str,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let repository = context.open().await?;
    let (before, from) = root(&repository, &args.filter, &args.from).await?;
    let (after, to) = root(&repository, &args.filter, &args.to).await?;
    let mut out = context.out();
    out.say(format_args!("comparing snapshot {} to {}:\n", before.id.0.short(), after.id.0.short()))?;
    let mut diff =
        Diff { repository: &repository, out, metadata: args.metadata, totals: Totals::new(from, to), failed: 0 };
    diff.run(from, to).await?;
    let Diff { mut out, totals, failed, .. } = diff;
    totals.print(&repository, (&args.from, &args.to), !args.no_blobs, &mut out).await?;
    out.finish()?;
    Ok(if failed == 0 { Exit::Success } else { Exit::Incomplete })
}

async fn root(repository: &Repository, filter: &SnapshotFilter, spec: &str) -> CliResult<(Arc<Snapshot>, TreeId)> {
    let (name, path) = split_spec(spec);
    let snapshot = filter.one(repository, name).await?;
    let tree = locate(repository, snapshot.tree, path.unwrap_or("/").as_bytes()).await?.and_then(|at| at.tree());
    let tree = tree.ok_or_else(|| CliError::failure(format!("{spec} is not a directory of the snapshot")))?;
    Ok((snapshot, tree))
}

struct Diff<'a> {
    repository: &'a Repository,
    out: Out,
    metadata: bool,
    totals: Totals,
    failed: u64,
}

/// A directory to look into: one that differs, or one that is on one side only.
enum Work {
    Pair(TreeId, TreeId),
    Only(Side, TreeId),
}

/// Which snapshot has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

/// A directory that is being looked at: the trees of both sides, an empty place for the side that has none, and how far.
struct Frame {
    path: Vec<u8>,
    before: Option<(Arc<Tree>, usize)>,
    after: Option<(Arc<Tree>, usize)>,
}

impl Frame {
    /// Takes the next name: the entries of both sides that have it.
    fn next(&mut self) -> Option<(Option<NodeRef<'_>>, Option<NodeRef<'_>>)> {
        fn peek(side: &Option<(Arc<Tree>, usize)>) -> Option<NodeRef<'_>> {
            side.as_ref().and_then(|(tree, at)| tree.get(*at))
        }
        let order = match (peek(&self.before), peek(&self.after)) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.name().cmp(new.name()),
        };
        /// Goes on by one where this side has the name.
        fn take(side: &mut Option<(Arc<Tree>, usize)>, has: bool) -> Option<NodeRef<'_>> {
            let (tree, at) = side.as_mut().filter(|_| has)?;
            *at += 1;
            tree.get(*at - 1)
        }
        Some((take(&mut self.before, order.is_le()), take(&mut self.after, order.is_ge())))
    }
}

impl Diff<'_> {
    /// Compares depth first, in the order of names, with a stack of its own: depth is bounded, recursion would not be.
    async fn run(&mut self, from: TreeId, to: TreeId) -> CliResult<()> {
        let mut stack = vec![self.enter(b"/".to_vec(), Work::Pair(from, to)).await?];
        while let Some(frame) = stack.last_mut() {
            let directory = frame.path.clone();
            let child = match frame.next() {
                None => {
                    stack.pop();
                    continue;
                }
                Some((Some(old), Some(new))) => self.both(&directory, old, new)?,
                Some((Some(old), None)) => self.one(&directory, Side::Before, old)?,
                Some((None, Some(new))) => self.one(&directory, Side::After, new)?,
                Some((None, None)) => None,
            };
            let Some((path, work)) = child else { continue };
            if stack.len() >= MAX_DEPTH {
                self.fail(&path, "it is too deep")?;
            } else {
                match self.enter(path.clone(), work).await {
                    Ok(frame) => stack.push(frame),
                    Err(error) => self.fail(&path, error.message)?,
                }
            }
        }
        Ok(())
    }

    async fn enter(&self, path: Vec<u8>, work: Work) -> CliResult<Frame> {
        let (before, after) = match work {
            Work::Pair(from, to) => (Some(from), Some(to)),
            Work::Only(Side::Before, tree) => (Some(tree), None),
            Work::Only(Side::After, tree) => (None, Some(tree)),
        };
        let mut frame = Frame { path, before: None, after: None };
        if let Some(tree) = before {
            frame.before = Some((self.repository.tree(tree).await?, 0));
        }
        if let Some(tree) = after {
            frame.after = Some((self.repository.tree(tree).await?, 0));
        }
        self.prefetch(&frame);
        Ok(frame)
    }

    /// Asks ahead for the trees of directories that will be looked into.
    fn prefetch(&self, frame: &Frame) {
        let trees = |side: &Option<(Arc<Tree>, usize)>| -> HashSet<TreeId> {
            side.iter().flat_map(|(tree, _)| tree.iter().filter_map(NodeRef::subtree)).collect()
        };
        let (before, after) = (trees(&frame.before), trees(&frame.after));
        let differ: Vec<TreeId> = before.symmetric_difference(&after).copied().collect();
        if !differ.is_empty() {
            self.repository.prefetch_trees(&differ);
        }
    }

    /// An entry of one side only; returns the directory to look into.
    fn one(&mut self, path: &[u8], side: Side, node: NodeRef<'_>) -> CliResult<Option<(Vec<u8>, Work)>> {
        let name = join(path, node);
        match side {
            Side::Before => {
                self.totals.before.add(node);
                self.totals.removed.add(node.kind());
            }
            Side::After => {
                self.totals.after.add(node);
                self.totals.added.add(node.kind());
            }
        }
        self.change(&name, if side == Side::Before { "-" } else { "+" })?;
        match (node.kind(), node.subtree()) {
            (NodeKind::Dir, Some(tree)) => return Ok(Some((name, Work::Only(side, tree)))),
            (NodeKind::Dir, None) => self.fail(&name, "the directory has no tree")?,
            _ => {}
        }
        Ok(None)
    }

    /// An entry of both sides; returns the directory to look into.
    fn both(&mut self, path: &[u8], old: NodeRef<'_>, new: NodeRef<'_>) -> CliResult<Option<(Vec<u8>, Work)>> {
        self.totals.before.add(old);
        self.totals.after.add(new);
        let name = join(path, new);
        let mut modifier = String::new();
        if old.kind() != new.kind() {
            modifier.push('T');
        }
        let both = |kind| old.kind() == kind && new.kind() == kind;
        if both(NodeKind::File) && old.content() != new.content() {
            modifier.push('M');
            self.totals.changed_files += 1;
            if same_metadata(old, new) {
                modifier.push('?');
            }
        } else if self.metadata && !same_entry(old, new) {
            modifier.push('U');
        }
        if !modifier.is_empty() {
            self.change(&name, &modifier)?;
        }
        if both(NodeKind::Dir) {
            match (old.subtree(), new.subtree()) {
                (Some(from), Some(to)) if from == to => self.totals.common.push(from),
                (Some(from), Some(to)) => return Ok(Some((name, Work::Pair(from, to)))),
                _ => self.fail(&name, "the directory has no tree")?,
            }
        }
        Ok(None)
    }

    fn change(&mut self, path: &[u8], modifier: &str) -> CliResult<()> {
        if self.out.quiet {
            Ok(())
        } else if self.out.json {
            let path = String::from_utf8_lossy(path);
            self.out.json_line(&Change { message_type: "change", path: &path, modifier })
        } else {
            self.out.line(format_args!("{modifier:<5}{}", show_name(path)))
        }
    }

    fn fail(&mut self, path: &[u8], why: impl std::fmt::Display) -> CliResult<()> {
        self.failed += 1;
        self.out.finish()?;
        eprintln!("stash-fs: compare {}: {why}", show_name(path));
        Ok(())
    }
}

/// The path of an entry; a directory's ends in a slash.
fn join(directory: &[u8], node: NodeRef<'_>) -> Vec<u8> {
    let mut path = [directory, node.name()].concat();
    if node.kind() == NodeKind::Dir {
        path.push(b'/');
    }
    path
}

/// Returns whether all but name, content and tree is the same.
fn same_metadata(a: NodeRef<'_>, b: NodeRef<'_>) -> bool {
    a.kind() == b.kind()
        && a.mode() == b.mode()
        && (a.uid(), a.gid(), a.user(), a.group()) == (b.uid(), b.gid(), b.user(), b.group())
        && (a.mtime(), a.atime(), a.ctime()) == (b.mtime(), b.atime(), b.ctime())
        && (a.inode(), a.device_id(), a.links(), a.rdev()) == (b.inode(), b.device_id(), b.links(), b.rdev())
        && a.size() == b.size()
        && a.link_target() == b.link_target()
        && a.xattrs().eq(b.xattrs())
}

/// Returns whether restic would call the entries equal.
fn same_entry(a: NodeRef<'_>, b: NodeRef<'_>) -> bool {
    same_metadata(a, b) && a.content() == b.content() && a.subtree() == b.subtree()
}
