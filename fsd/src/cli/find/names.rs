//! Names in snapshots. A directory in which nothing was found is not searched again.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use stash_repo::{NodeRef, Repository, Snapshot, TreeId};

use super::super::node::{FindNode, long_line, show_snapshot_time};
use super::super::output::{Out, show_name};
use super::super::{CliError, CliResult, Exit};
use super::{Args, unreadable};
use crate::filter::Patterns;
use crate::walk::{Step, Walk};

pub(super) async fn find(
    args: &Args,
    repository: &Repository,
    snapshots: &[Arc<Snapshot>],
    out: &mut Out,
) -> CliResult<Exit> {
    let mut search = Search::new(args)?;
    let mut report = Report { long: args.long, any: false };
    let mut exit = Exit::Success;
    report.begin(out)?;
    for snapshot in snapshots {
        let mut hits = 0_u64;
        let mut walk = Walk::new(repository, snapshot.tree);
        // For each directory on the way down: whether something was found in it.
        let mut found_in: Vec<bool> = Vec::new();
        let mut depth = 0;
        while let Some(step) = walk.next().await {
            match step {
                Step::Entry(entry) => {
                    let node = entry.node();
                    found_in.truncate(depth);
                    let (matched, below) = search.patterns.matches(&entry.path);
                    if matched && search.in_time(node) {
                        report.hit(snapshot, hits, &entry.path, node, out)?;
                        hits += 1;
                        found_in.iter_mut().for_each(|found| *found = true);
                    }
                    if let Some(tree) = node.subtree() {
                        if below && !search.is_barren(tree, &entry.path, matched) {
                            depth += 1;
                            found_in.push(false);
                        } else {
                            walk.skip();
                        }
                    }
                }
                Step::Leave { path, tree } => {
                    // The root is not counted.
                    if depth > 0 {
                        depth -= 1;
                        if found_in.pop() == Some(false) {
                            search.remember_barren(tree, path);
                        }
                    }
                }
                Step::Failed { path, error } => {
                    exit = Exit::Incomplete;
                    depth = depth.saturating_sub(1);
                    found_in.pop();
                    out.finish()?;
                    unreadable(&path, &error)?;
                }
            }
        }
        report.end(snapshot, hits, out)?;
    }
    report.finish(out)?;
    Ok(exit)
}

struct Search {
    patterns: Patterns,
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
    /// No pattern looks at more than one name, so what is in a directory matches or not wherever it stands.
    names_only: bool,
    /// Directories without a hit: by tree, and where the path matters, by path.
    barren: HashSet<(TreeId, Vec<u8>)>,
}

impl Search {
    fn new(args: &Args) -> CliResult<Self> {
        Ok(Self {
            patterns: Patterns::parse(&args.patterns, args.ignore_case)
                .map_err(|error| CliError::usage(error.to_string()))?,
            oldest: args.oldest,
            newest: args.newest,
            names_only: !args.patterns.iter().any(|pattern| pattern.contains('/') || pattern.contains('!')),
            barren: HashSet::new(),
        })
    }

    fn in_time(&self, node: NodeRef<'_>) -> bool {
        let time = (node.mtime().secs, i64::from(node.mtime().nanos));
        let key = |limit: Timestamp| {
            let nanos = i64::from(limit.subsec_nanosecond());
            // jiff's nanoseconds have the sign of the seconds.
            if nanos < 0 { (limit.as_second() - 1, nanos + 1_000_000_000) } else { (limit.as_second(), nanos) }
        };
        self.oldest.is_none_or(|limit| time >= key(limit)) && self.newest.is_none_or(|limit| time <= key(limit))
    }

    fn key(&self, tree: TreeId, path: &[u8]) -> (TreeId, Vec<u8>) {
        (tree, if self.names_only { Vec::new() } else { path.to_vec() })
    }

    /// All in a matching directory matches, so what was remembered of its tree elsewhere says nothing.
    fn is_barren(&self, tree: TreeId, path: &[u8], matched: bool) -> bool {
        !(self.names_only && matched) && self.barren.contains(&self.key(tree, path))
    }

    fn remember_barren(&mut self, tree: TreeId, path: Vec<u8>) {
        let key = if self.names_only { (tree, Vec::new()) } else { (tree, path) };
        self.barren.insert(key);
    }
}

/// restic's output: a heading a snapshot with hits, or one JSON array over all snapshots.
struct Report {
    long: bool,
    any: bool,
}

impl Report {
    fn begin(&mut self, out: &mut Out) -> CliResult<()> {
        if out.json { out.bytes(b"[") } else { Ok(()) }
    }

    fn hit(
        &mut self,
        snapshot: &Snapshot,
        before: u64,
        path: &[u8],
        node: NodeRef<'_>,
        out: &mut Out,
    ) -> CliResult<()> {
        if out.json {
            out.bytes(match (before, self.any) {
                (0, false) => b"{\"matches\":[".as_slice(),
                (0, true) => b",{\"matches\":[",
                _ => b",",
            })?;
            self.any = true;
            let json = serde_json::to_vec(&FindNode::new(path, node)).map_err(std::io::Error::from)?;
            return out.bytes(&json);
        }
        if before == 0 {
            if self.any {
                out.say("")?;
            }
            self.any = true;
            let heading = (snapshot.id.0.short(), show_snapshot_time(snapshot));
            out.say(format_args!("Found matching entries in snapshot {} from {}", heading.0, heading.1))?;
        }
        if self.long { out.line(long_line(path, node)) } else { out.line(show_name(path)) }
    }

    fn end(&mut self, snapshot: &Snapshot, hits: u64, out: &mut Out) -> CliResult<()> {
        if out.json && hits > 0 {
            out.bytes(format!("],\"hits\":{hits},\"snapshot\":\"{}\"}}", snapshot.id).as_bytes())?;
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Out) -> CliResult<()> {
        if out.json { out.line("]") } else { Ok(()) }
    }
}
