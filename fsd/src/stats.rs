//! What snapshots hold, counted in restic's four ways.

use std::collections::{HashMap, HashSet};

use clap::ValueEnum;
use serde::Serialize;
use stash_repo::{BlobId, Id, NodeKind, NodeRef, RepoError, RepoResult, Repository, TreeId};

use crate::walk::{Step, Visited, Walk};

/// restic's counting modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
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
pub(crate) struct Counts {
    pub(crate) total_size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total_uncompressed_size: u64,
    #[serde(skip_serializing_if = "is_none_or_zero")]
    pub(crate) compression_ratio: Option<f64>,
    #[serde(skip_serializing_if = "is_none_or_zero")]
    pub(crate) compression_progress: Option<f64>,
    #[serde(skip_serializing_if = "is_none_or_zero")]
    pub(crate) compression_space_saving: Option<f64>,
    pub(crate) total_file_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total_blob_count: u64,
    pub(crate) snapshots_count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_none_or_zero(number: &Option<f64>) -> bool {
    number.is_none_or(|number| number == 0.0)
}

/// Counts, snapshot by snapshot.
#[derive(Debug)]
pub(crate) struct Count<'a> {
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
    pub(crate) fn new(repository: &'a Repository, mode: Mode) -> Self {
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

    /// Returns how many directories could not be read.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// Counts what a snapshot holds. A directory that cannot be read is told to `failed` and left out.
    pub(crate) async fn snapshot(
        &mut self,
        root: TreeId,
        failed: &(dyn Fn(&[u8], &RepoError) + Sync),
    ) -> RepoResult<()> {
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
                    failed(&path, &error);
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
    fn contents(&mut self, entry: &Visited) -> RepoResult<()> {
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

    /// Returns the counts.
    pub(crate) fn finish(mut self) -> RepoResult<Counts> {
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

fn missing(id: BlobId) -> RepoError {
    RepoError::BlobMissing { id }
}
