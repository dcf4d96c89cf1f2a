//! `stats`: what snapshots hold, counted in restic's four ways.

use std::collections::{HashMap, HashSet};

use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;
use stash_repo::{BlobId, Id, NodeKind, NodeRef, Repository, TreeId};

use super::output::{Out, show_name};
use super::progress::Progress;
use super::select::SnapshotFilter;
use super::units::format_bytes;
use super::{CliError, CliResult, Context, Exit};
use crate::walk::{Step, Visited, Walk};

/// The arguments of `stats`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only these snapshots
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    filter: SnapshotFilter,
    /// What is counted
    #[arg(long, value_enum, default_value = "restore-size")]
    mode: Mode,
}

/// restic's counting modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// The size of all files as if each snapshot were restored
    RestoreSize,
    /// The size of files with different contents
    FilesByContents,
    /// The size of blobs as they are stored
    RawData,
    /// The size of the blobs of each file
    BlobsPerFile,
}

/// The counts, as restic's JSON has them.
#[derive(Debug, Default, Serialize)]
struct Counts {
    total_size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_uncompressed_size: u64,
    #[serde(skip_serializing_if = "is_none_or_zero")]
    compression_ratio: Option<f64>,
    #[serde(skip_serializing_if = "is_none_or_zero")]
    compression_progress: Option<f64>,
    #[serde(skip_serializing_if = "is_none_or_zero")]
    compression_space_saving: Option<f64>,
    total_file_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_blob_count: u64,
    snapshots_count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_none_or_zero(number: &Option<f64>) -> bool {
    number.is_none_or(|number| number == 0.0)
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let repository = context.open().await?;
    let snapshots = args.filter.select(&repository, &args.snapshots).await?;
    let mut out = context.out();
    out.say("scanning...")?;
    out.finish()?;
    let progress = Progress::items(&context.global, "snapshots");
    progress.add_total(0, snapshots.len() as u64);
    let mut count = Count::new(&repository, args.mode);
    for snapshot in &snapshots {
        count.snapshot(snapshot.tree, &progress).await?;
        progress.add(0, 1);
    }
    progress.finish();
    let failed = count.failed;
    print(&count.finish()?, args.mode, &mut out)?;
    out.finish()?;
    Ok(if failed == 0 { Exit::Success } else { Exit::Incomplete })
}

struct Count<'a> {
    repository: &'a Repository,
    mode: Mode,
    counts: Counts,
    failed: u64,
    /// Contents that were counted, by the hash of their blobs' ids.
    contents: HashSet<Id>,
    /// The blobs of each path that were counted.
    by_path: HashMap<Vec<u8>, HashSet<BlobId>>,
    blobs: HashSet<BlobId>,
    trees: HashSet<TreeId>,
}

impl<'a> Count<'a> {
    fn new(repository: &'a Repository, mode: Mode) -> Self {
        Self {
            repository,
            mode,
            counts: Counts::default(),
            failed: 0,
            contents: HashSet::new(),
            by_path: HashMap::new(),
            blobs: HashSet::new(),
            trees: HashSet::new(),
        }
    }

    async fn snapshot(&mut self, root: TreeId, progress: &Progress) -> CliResult<()> {
        self.counts.snapshots_count += 1;
        // Hard links are counted once in each snapshot.
        let mut links = HashSet::new();
        if self.mode == Mode::RawData && !self.trees.insert(root) {
            return Ok(());
        }
        let mut walk = Walk::new(self.repository, root);
        while let Some(step) = walk.next().await {
            match step {
                Step::Entry(entry) => match self.mode {
                    Mode::RestoreSize => self.restore_size(entry.node(), &mut links),
                    Mode::FilesByContents | Mode::BlobsPerFile => self.contents(&entry)?,
                    Mode::RawData => {
                        let node = entry.node();
                        self.blobs.extend(node.content());
                        // A tree that was walked holds nothing new.
                        if node.subtree().is_some_and(|tree| !self.trees.insert(tree)) {
                            walk.skip();
                        }
                    }
                },
                Step::Failed { path, error } => {
                    self.failed += 1;
                    progress.note(&format!("stash-fs: count {}: {error}", show_name(&path)));
                }
                Step::Leave { .. } => {}
            }
        }
        Ok(())
    }

    fn restore_size(&mut self, node: NodeRef<'_>, links: &mut HashSet<(u64, u64)>) {
        self.counts.total_file_count += 1;
        if node.kind() == NodeKind::File
            && (node.links() <= 1 || node.inode() == 0 || links.insert((node.device_id(), node.inode())))
        {
            self.counts.total_size = self.counts.total_size.saturating_add(node.size());
        }
    }

    /// restic counts everything that is not a file as one empty content.
    fn contents(&mut self, entry: &Visited) -> CliResult<()> {
        let node = entry.node();
        let ids: Vec<u8> = node.content().iter().flat_map(|id| id.as_bytes()).copied().collect();
        if !self.contents.insert(Id::hash(&ids)) {
            return Ok(());
        }
        if self.mode == Mode::FilesByContents {
            self.counts.total_file_count += 1;
            if node.kind() == NodeKind::File {
                self.counts.total_size = self.counts.total_size.saturating_add(node.size());
            }
            return Ok(());
        }
        for &blob in node.content() {
            let blobs = self.by_path.entry(entry.path.clone()).or_insert_with(|| {
                self.counts.total_file_count += 1;
                HashSet::new()
            });
            if blobs.insert(blob) {
                self.counts.total_blob_count += 1;
                let location = self.repository.index().lookup(&blob)?.ok_or_else(|| missing(blob))?;
                self.counts.total_size += u64::from(location.plain_bytes());
            }
        }
        Ok(())
    }

    fn finish(mut self) -> CliResult<Counts> {
        let counts = &mut self.counts;
        if self.mode != Mode::RawData {
            return Ok(self.counts);
        }
        let (mut compressed, mut compressed_plain) = (0_u64, 0_u64);
        let overhead = u64::from(stash_repo::index::CIPHER_OVERHEAD_BYTES);
        for id in self.blobs.iter().copied().chain(self.trees.iter().map(|tree| tree.blob())) {
            let location = self.repository.index().lookup(&id)?.ok_or_else(|| missing(id))?;
            let stored = u64::from(location.len_bytes);
            let plain = u64::from(location.plain_bytes()) + overhead;
            counts.total_blob_count += 1;
            counts.total_size += stored;
            counts.total_uncompressed_size += plain;
            if location.uncompressed_bytes.is_some() {
                compressed += stored;
                compressed_plain += plain;
            }
        }
        // A repository of format 1 has no compressed blobs: restic shows none of these then.
        if compressed == 0 {
            counts.total_uncompressed_size = 0;
        } else {
            #[expect(clippy::cast_precision_loss, reason = "ratios of sizes, shown with two digits")]
            let ratio = |a: u64, b: u64| a as f64 / b as f64;
            counts.compression_ratio = Some(ratio(compressed_plain, compressed));
            counts.compression_progress = Some(ratio(compressed_plain, counts.total_uncompressed_size) * 100.0);
            counts.compression_space_saving =
                Some((1.0 - ratio(counts.total_size, counts.total_uncompressed_size)) * 100.0);
        }
        Ok(self.counts)
    }
}

fn missing(id: BlobId) -> CliError {
    stash_repo::RepoError::BlobMissing { id }.into()
}

fn print(counts: &Counts, mode: Mode, out: &mut Out) -> CliResult<()> {
    if out.json {
        return out.json_line(counts);
    }
    let mode = mode.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    out.line(format_args!("Stats in {mode} mode:"))?;
    let line = |out: &mut Out, what: &str, value: String| out.line(format_args!("{what:>24}:  {value}"));
    line(out, "Snapshots processed", counts.snapshots_count.to_string())?;
    if counts.total_blob_count > 0 {
        line(out, "Total Blob Count", counts.total_blob_count.to_string())?;
    }
    if counts.total_file_count > 0 {
        line(out, "Total File Count", counts.total_file_count.to_string())?;
    }
    if counts.total_uncompressed_size > 0 {
        line(out, "Total Uncompressed Size", format_bytes(counts.total_uncompressed_size))?;
    }
    line(out, "Total Size", format_bytes(counts.total_size))?;
    let percentages = [
        ("Compression Progress", counts.compression_progress, "%"),
        ("Compression Ratio", counts.compression_ratio, "x"),
        ("Compression Space Saving", counts.compression_space_saving, "%"),
    ];
    for (what, value, unit) in percentages {
        if let Some(value) = value {
            line(out, what, format!("{value:.2}{unit}"))?;
        }
    }
    Ok(())
}
