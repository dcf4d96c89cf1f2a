//! Snapshot files.

use crate::id::{SnapshotId, TreeId};

/// A snapshot: who backed up what, when, and the tree that was stored.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The file's id.
    pub id: SnapshotId,
    /// When the backup began, with the writer's offset from UTC.
    pub time: jiff::Zoned,
    /// The root.
    pub tree: TreeId,
    /// The absolute paths that were backed up.
    pub paths: Vec<String>,
    /// The host.
    pub hostname: String,
    /// The user.
    pub username: String,
    /// The user's id.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// The tags.
    pub tags: Vec<String>,
    /// The snapshot that unchanged files were taken from.
    pub parent: Option<SnapshotId>,
    /// The first form of a snapshot that was rewritten.
    pub original: Option<SnapshotId>,
    /// The patterns that were left out.
    pub excludes: Vec<String>,
    /// Who wrote it, as `restic 0.17.0`.
    pub program_version: String,
    /// The writer's own counts, where it stored them, as they are in the file.
    pub summary: Option<Box<serde_json::value::RawValue>>,
}
