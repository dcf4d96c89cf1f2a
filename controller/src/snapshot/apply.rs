//! Writes objects: a few at once, in chunks, and no more than a look may take.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::Value;
use stash_crds::{Repository, Snapshot};
use stash_repo::SnapshotId;
use stash_repo::write::Access;
use stash_repo::write::catalog::{self, Found};
use tokio::time::Instant;

use super::forget::Deleted;
use super::requests::AT_ONCE;
use super::{Meta, object, plan};
use crate::context::{Context, MANAGER};
use crate::errors::ReconcileError;
use crate::repository::open::{OpenError, within_deadline};

/// How many snapshots are read and written before it is looked at the clock. A hostile one takes a megabyte until it is cut.
const CHUNK: usize = 64;

/// Removes objects until `end`; returns whether all are removed.
pub(super) async fn remove_all(gone: &[Arc<Meta>], end: Instant, context: &Context) -> Result<bool, ReconcileError> {
    for chunk in gone.chunks(CHUNK) {
        if Instant::now() >= end {
            return Ok(false);
        }
        let removals = chunk.iter().map(|meta| super::remove(meta, context)).collect::<Vec<_>>();
        futures::stream::iter(removals).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    Ok(true)
}

/// Lets objects go whose deletion is done.
pub(super) async fn release_all(objects: &[Arc<Meta>], context: &Context) -> Result<(), ReconcileError> {
    let releases = objects.iter().map(|meta| super::let_go(meta, context)).collect::<Vec<_>>();
    futures::stream::iter(releases).buffer_unordered(AT_ONCE).try_collect().await
}

/// Returns of objects that somebody deletes the ids of their snapshots, and the names of those that do not say which it is.
///
/// The annotation by which objects are found can be changed by whoever may write them; the status, which is asked for here, cannot.
pub(super) async fn verified(
    namespace: &str,
    deleted: &[Deleted],
    context: &Context,
) -> Result<(Vec<String>, Vec<String>), ReconcileError> {
    let looks = deleted.iter().map(|deleted| async move {
        let _permit = context.mirrors.requests.permit().await;
        let found = context.api::<Snapshot>(namespace).get_opt(&deleted.name).await;
        let found = found.map_err(|error| ReconcileError::of(format!("look up Snapshot {}", deleted.name), error))?;
        let said = found.and_then(|found| found.status).and_then(|status| status.snapshot_id);
        let id = deleted.id.map(|id| id.to_string());
        Ok((deleted.name.clone(), said.filter(|said| Some(said) == id.as_ref())))
    });
    let looks = futures::stream::iter(looks.collect::<Vec<_>>()).buffered(AT_ONCE);
    let seen: Vec<(String, Option<String>)> = looks.try_collect().await?;
    let (known, unknown): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(_, id)| id.is_some());
    Ok((known.into_iter().filter_map(|(_, id)| id).collect(), unknown.into_iter().map(|(name, _)| name).collect()))
}

/// Reads snapshots and makes their objects until `end`; returns whether all are made.
pub(super) async fn make_all(
    repository: &Repository,
    plan: &plan::Plan,
    access: &Access,
    end: Instant,
    context: &Context,
) -> Result<bool, OpenError> {
    let namespace = repository.namespace().unwrap_or_default();
    for chunk in plan.lacking.chunks(CHUNK) {
        if Instant::now() >= end {
            return Ok(false);
        }
        let mut read = within_deadline(read(access, chunk)).await?;
        read.sort_by_key(|snapshot| (snapshot.time.timestamp(), snapshot.id));
        let taken = |name: &str| {
            let meta = context.stores.snapshots.get(&crate::stores::as_ref_of(name, Some(&namespace)))?;
            // One that is not ours has the name as well.
            Some(plan::id_of(&meta).unwrap_or_default())
        };
        let fresh = read.iter().map(|snapshot| snapshot.id).filter(|id| !plan.named.contains_key(id));
        let mut named: HashMap<SnapshotId, String> = object::choose_names(&repository.name_any(), fresh, taken);
        named.extend(chunk.iter().filter_map(|id| Some((*id, plan.named.get(id)?.clone()))));
        let objects = read.iter().filter_map(|snapshot| Some((named.get(&snapshot.id)?, snapshot)));
        let writes = objects.map(|(name, snapshot)| write(repository, name, snapshot, context)).collect::<Vec<_>>();
        futures::stream::iter(writes).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    Ok(true)
}

async fn read(access: &Access, ids: &[SnapshotId]) -> Result<Vec<stash_repo::Snapshot>, OpenError> {
    let mut reads = std::pin::pin!(catalog::read(access, ids.to_vec()));
    let mut read = Vec::new();
    while let Some((id, found)) = reads.try_next().await? {
        match found {
            Found::Snapshot(snapshot) => read.push(*snapshot),
            Found::Gone => {}
            Found::Unreadable(error) => {
                tracing::warn!(snapshot = id.0.short(), repository = access.backend().location(), %error, "a snapshot cannot be read; it has no object");
            }
        }
    }
    Ok(read)
}

/// Writes an object under its name; where another snapshot has that already, under the whole one.
async fn write(
    repository: &Repository,
    name: &str,
    snapshot: &stash_repo::Snapshot,
    context: &Context,
) -> Result<(), ReconcileError> {
    let whole = object::whole_name(&repository.name_any(), &snapshot.id);
    match apply(object::object(repository, name, snapshot), name, context).await {
        Err(error) if error.is_invalid() && name != whole => {
            match apply(object::object(repository, &whole, snapshot), &whole, context).await {
                // One snapshot that nobody can describe does not keep others from being mirrored.
                Err(error) if error.is_invalid() => {
                    tracing::warn!(name, error = error.story(), "a Snapshot is refused; it is left out");
                    Ok(())
                }
                applied => applied,
            }
        }
        applied => applied,
    }
}

async fn apply(object: Value, name: &str, context: &Context) -> Result<(), ReconcileError> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let _permit = context.mirrors.requests.permit().await;
    let parameters = PatchParams::apply(MANAGER).force();
    let applied = context.api::<Snapshot>(&namespace).patch(name, &parameters, &Patch::Apply(object)).await;
    applied.map(drop).map_err(|error| ReconcileError::of(format!("write Snapshot {name}"), error))
}
