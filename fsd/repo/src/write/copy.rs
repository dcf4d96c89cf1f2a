//! Copying snapshots from one repository to another.

use std::collections::BTreeSet;
use std::future::Future;

use rustic_core::CheckOptions;
use rustic_core::repofile::SnapshotFile;
use serde_json::Value;

use super::adapter::rustic_id;
use super::gate::Snapshots;
use super::session::{Session, rustic_error};
use super::snapshots::{self, SnapshotJson, identity};
use crate::error::{RepoError, RepoResult};
use crate::id::{Id, SnapshotId};

/// A snapshot that was copied, or was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// In the source.
    pub from: SnapshotId,
    /// In the target.
    pub to: SnapshotId,
    /// Whether it was written now.
    pub new: bool,
}

/// Copies snapshots with all that they need. Those that were copied before are left alone.
///
/// `rustic_core` leaves out blobs that the source's index does not name, so the source's trees are checked first.
///
/// # Errors
/// The source lacks something that a snapshot needs, so nothing was copied; a store failed; a lock was lost; `stop` ended.
/// Snapshots are written last.
pub async fn copy(
    from: &Session,
    to: &Session,
    wanted: &[SnapshotJson],
    stop: impl Future<Output = ()>,
) -> RepoResult<Vec<Copied>> {
    let present = snapshots::read_all(to.access()).await?;
    let mut copied = Vec::new();
    let mut missing = Vec::new();
    for snapshot in wanted {
        match present.iter().find(|other| is_copy(other, snapshot)) {
            Some(other) => copied.push(Copied { from: snapshot.id, to: other.id, new: false }),
            None => missing.push(snapshot),
        }
    }
    if missing.is_empty() {
        return Ok(copied);
    }
    let trees: BTreeSet<Id> = missing.iter().map(|snapshot| snapshot.tree.0).collect();
    let (source_gate, gate) = (from.gate(Snapshots::Refuse), to.gate(Snapshots::Withhold));
    let work = {
        let (from, to, source_gate, gate) = (from.clone(), to.clone(), source_gate.clone(), gate.clone());
        move |runtime: tokio::runtime::Handle| {
            let source = from.open(&source_gate, runtime.clone())?;
            let ids = trees.iter().map(|id| rustic_core::TreeId::from(rustic_id(id)));
            let results = source
                .check_with_trees(CheckOptions::default(), ids.clone().collect())
                .map_err(|error| rustic_error(&source_gate, "check what to copy", &error))?;
            if let Some((_, finding)) = results.0.iter().find(|(level, _)| format!("{level:?}") == "Error") {
                let reason = format!("the source is damaged, `check` names all: {finding}");
                return Err(RepoError::Rustic { operation: "copy", reason });
            }
            let source = source.to_indexed().map_err(|error| rustic_error(&source_gate, "read the index", &error))?;
            let target = to.open(&gate, runtime)?;
            let target = target.to_indexed_ids().map_err(|error| rustic_error(&gate, "read the index", &error))?;
            let files: Vec<_> = ids.map(|tree| SnapshotFile { tree, ..SnapshotFile::default() }).collect();
            source.copy(&target, &files).map_err(|error| rustic_error(&gate, "copy", &error))
        }
    };
    to.run(&gate, stop, work).await?;
    gate.check()?;
    for snapshot in missing {
        let mut fields = snapshot.fields.clone();
        // As restic: the parent stays behind, and where it comes from is kept.
        fields.remove("parent");
        fields.remove("parents");
        fields.insert("original".to_owned(), Value::from(snapshot.original().to_string()));
        let id = snapshots::write(to.access(), to.lease(), &fields).await?;
        copied.push(Copied { from: snapshot.id, to: id, new: true });
    }
    Ok(copied)
}

/// Whether `other`, in the target, is a copy of `snapshot`: it comes from the same first snapshot and says the same.
fn is_copy(other: &SnapshotJson, snapshot: &SnapshotJson) -> bool {
    identity(other) == identity(snapshot)
        && other.tree == snapshot.tree
        && other.time.timestamp() == snapshot.time.timestamp()
        && other.hostname() == snapshot.hostname()
        && other.tags() == snapshot.tags()
        && other.paths() == snapshot.paths()
}
