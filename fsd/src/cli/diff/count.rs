//! The summary of `diff`: entries and blobs that came and went.

use std::collections::HashSet;

use serde::Serialize;
use stash_repo::{BlobId, NodeKind, NodeRef, Repository, TreeId};

use super::super::CliResult;
use super::super::output::Out;
use super::super::units::format_bytes;
use crate::walk::{Step, Walk};

/// Counts of what is on one side only, as restic's JSON has them.
#[derive(Debug, Default, Serialize)]
pub(super) struct Counts {
    files: u64,
    dirs: u64,
    others: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_blobs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tree_blobs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

impl Counts {
    pub(super) fn add(&mut self, kind: NodeKind) {
        match kind {
            NodeKind::File => self.files += 1,
            NodeKind::Dir => self.dirs += 1,
            _ => self.others += 1,
        }
    }
}

/// The blobs of one side.
#[derive(Debug, Default)]
pub(super) struct BlobSet {
    data: HashSet<BlobId>,
    trees: HashSet<TreeId>,
}

impl BlobSet {
    pub(super) fn add(&mut self, node: NodeRef<'_>) {
        match node.kind() {
            NodeKind::File => self.data.extend(node.content()),
            NodeKind::Dir => self.trees.extend(node.subtree()),
            _ => {}
        }
    }
}

/// All that the summary needs.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) before: BlobSet,
    pub(super) after: BlobSet,
    pub(super) added: Counts,
    pub(super) removed: Counts,
    pub(super) changed_files: u64,
    /// Directories that both sides have: their blobs are neither added nor removed.
    pub(super) common: Vec<TreeId>,
}

#[derive(Serialize)]
struct Statistics<'a> {
    message_type: &'static str,
    source_snapshot: &'a str,
    target_snapshot: &'a str,
    changed_files: u64,
    added: Counts,
    removed: Counts,
}

impl Totals {
    pub(super) fn new(from: TreeId, to: TreeId) -> Self {
        let mut totals = Self::default();
        totals.before.trees.insert(from);
        totals.after.trees.insert(to);
        totals
    }

    /// Prints the summary; with `blobs` also what came and went in the repository.
    pub(super) async fn print(
        mut self,
        repository: &Repository,
        (from, to): (&str, &str),
        blobs: bool,
        out: &mut Out,
    ) -> CliResult<()> {
        if blobs {
            let (mut new, mut gone) = (self.after.without(&self.before), self.before.without(&self.after));
            remove_common(repository, std::mem::take(&mut self.common), &mut new, &mut gone).await?;
            new.count(repository, &mut self.added)?;
            gone.count(repository, &mut self.removed)?;
        }
        let (added, removed) = (&self.added, &self.removed);
        if out.json {
            return out.json_line(&Statistics {
                message_type: "statistics",
                source_snapshot: from,
                target_snapshot: to,
                changed_files: self.changed_files,
                added: self.added,
                removed: self.removed,
            });
        }
        out.say("")?;
        let changed = self.changed_files;
        out.say(format_args!("Files:       {:5} new, {:5} removed, {changed:5} changed", added.files, removed.files))?;
        out.say(format_args!("Dirs:        {:5} new, {:5} removed", added.dirs, removed.dirs))?;
        out.say(format_args!("Others:      {:5} new, {:5} removed", added.others, removed.others))?;
        let pairs = [
            ("Data Blobs:", added.data_blobs, removed.data_blobs),
            ("Tree Blobs:", added.tree_blobs, removed.tree_blobs),
        ];
        for (what, new, gone) in pairs {
            if let (Some(new), Some(gone)) = (new, gone) {
                out.say(format_args!("{what}  {new:5} new, {gone:5} removed"))?;
            }
        }
        for (what, bytes) in [("  Added:  ", added.bytes), ("  Removed:", removed.bytes)] {
            if let Some(bytes) = bytes {
                out.say(format_args!("{what} {}", format_bytes(bytes)))?;
            }
        }
        Ok(())
    }
}

impl BlobSet {
    fn without(&self, other: &Self) -> Self {
        Self {
            data: self.data.difference(&other.data).copied().collect(),
            trees: self.trees.difference(&other.trees).copied().collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trees.is_empty()
    }

    fn count(&self, repository: &Repository, counts: &mut Counts) -> CliResult<()> {
        let mut bytes = 0;
        for id in self.data.iter().copied().chain(self.trees.iter().map(|tree| tree.blob())) {
            bytes += repository.index().lookup(&id)?.map_or(0, |location| u64::from(location.plain_bytes()));
        }
        counts.data_blobs = Some(self.data.len() as u64);
        counts.tree_blobs = Some(self.trees.len() as u64);
        counts.bytes = Some(bytes);
        Ok(())
    }
}

/// Takes what lies in directories of both snapshots out of what seems to be new or gone.
async fn remove_common(
    repository: &Repository,
    common: Vec<TreeId>,
    new: &mut BlobSet,
    gone: &mut BlobSet,
) -> CliResult<()> {
    let mut walked = HashSet::new();
    for root in common {
        if !walked.insert(root) {
            continue;
        }
        let mut walk = Walk::new(repository, root);
        while let Some(step) = walk.next().await {
            if new.is_empty() && gone.is_empty() {
                return Ok(());
            }
            // A tree that cannot be read takes nothing out: its blobs stay in the count.
            let Step::Entry(entry) = step else { continue };
            let node = entry.node();
            for blob in node.content() {
                new.data.remove(blob);
                gone.data.remove(blob);
            }
            if let Some(tree) = node.subtree() {
                new.trees.remove(&tree);
                gone.trees.remove(&tree);
                if !walked.insert(tree) {
                    walk.skip();
                }
            }
        }
    }
    Ok(())
}
