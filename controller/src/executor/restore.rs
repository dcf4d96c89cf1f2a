//! Starts the Job that restores a host: it writes to claims, and to nothing else.
//!
//! Where every node has the driver, it mounts the snapshots that it restores, if it is known for certain which these are; else it gets
//! credentials. A Job that is there already, made by a controller that was stopped then, keeps to its way.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::{Resource as _, ResourceExt as _};
use stash_crds::labels::snapshots_of;
use stash_crds::target::BackupTarget;
use stash_crds::{Repository, RestoreSession};
use stash_proto::job::RestoreSource;
use stash_repo::write::catalog;

use super::{Access, ExecutorError, access, make, place};
use crate::backup_session::observe::repository_key;
use crate::backup_session::plan as backup;
use crate::context::Context;
use crate::errors::ReconcileError;
use crate::jobs::shown::{Shown, Snapshot};
use crate::jobs::{self, Beside, JobRequest, Mount, Purpose, Source};
use crate::repository::open::{OpenError, Place, within_deadline};
use crate::restore_session::observe::locate;
use crate::restore_session::plan::Host;
use crate::restore_session::validate::{Destination, destination};
use crate::restore_session::{claims, rules, shown};
use crate::spec;

/// Starts the Job that restores `host`, whose claims `made` were made for it, if there are templates.
///
/// # Errors
///
/// It was not started.
pub async fn start(
    session: &RestoreSession,
    repository: Option<&Repository>,
    host: &Host,
    made: &[PersistentVolumeClaim],
    context: &Context,
) -> Result<(), ExecutorError> {
    let namespace = session.namespace().unwrap_or_default();
    // Who may use the Repository is asked at every use.
    let Access { repository, local, credentials } = access(repository, &namespace, context).await?;
    let rule = rules::of(session, &host.name);
    let rule = rule.ok_or_else(|| ExecutorError::Host(format!("no rule is for {}", host.name)))?;
    let (mounts, beside) = volumes(session, host, made, &namespace, context).await?;
    let paths = mounts.iter().map(|mount| mount.path.clone()).collect();
    let wanted = rules::sources(rule, &host.name);
    let shown = match locate(session, &host.job, context).await? {
        Some(job) => jobs::shown::of_job(&job),
        None => choose(session, repository, &host.name, &wanted, context).await?,
    };
    let by_volume = !shown.is_empty();
    let sources = if by_volume { jobs::shown::sources(&shown) } else { wanted };
    let credentials = if by_volume { BTreeMap::new() } else { credentials };
    let spec = spec::text(&spec::restore(repository, session, rule, sources, paths)?)?;
    let request = JobRequest {
        name: host.job.clone(),
        namespace: namespace.clone(),
        owner: session.controller_owner_ref(&()).unwrap_or_default(),
        session_namespace: Some(namespace),
        repository: repository_key(repository),
        purpose: Purpose::Restore,
        secret_keys: credentials.keys().copied().collect(),
        mounts,
        local,
        shown: by_volume.then(|| Shown {
            repository: repository.name_any(),
            secret: repository.spec.backend.storage_secret_name.clone().unwrap_or_default(),
            snapshots: shown,
        }),
        beside,
        runtime: session.spec.runtime_settings.as_ref(),
        temp_dir: session.spec.temp_dir.as_ref(),
    };
    make(&request, spec, credentials, context).await
}

/// Chooses the snapshots that the Job mounts; none: it reads with credentials.
pub(super) async fn choose(
    session: &RestoreSession,
    repository: &Repository,
    host: &str,
    wanted: &[RestoreSource],
    context: &Context,
) -> Result<Vec<Snapshot>, ExecutorError> {
    if !context.options.copy_by_volume {
        return Ok(Vec::new());
    }
    let said = |why: &str| {
        tracing::info!(restore = session.name_any(), host, why, "the Job reads with credentials");
        Ok(Vec::new())
    };
    if let Some(why) = shown::objection(session, repository) {
        return said(why);
    }
    let listed = if shown::needs_list(wanted) {
        // What was backed up a moment ago may have no object yet.
        match list(repository, context).await {
            Ok(ids) => Some(ids),
            // The API server may tell the next time; without it no Job could be made either.
            Err(OpenError::Api(error)) => return Err(error.into()),
            Err(error) => return said(&format!("the repository cannot be listed here: {error}")),
        }
    } else {
        None
    };
    let namespace = repository.namespace().unwrap_or_default();
    let name = repository.name_any();
    let objects =
        context.api::<stash_crds::Snapshot>(&namespace).list(&ListParams::default().labels(&snapshots_of(&name))).await;
    let objects =
        objects.map_err(|error| ReconcileError::of(format!("list the Snapshots of Repository {name}"), error))?;
    shown::choose(wanted, &name, &objects.items, listed.as_ref()).or_else(|why| said(&why))
}

/// Returns the ids of the snapshots that a repository holds at this moment.
async fn list(repository: &Repository, context: &Context) -> Result<BTreeSet<String>, OpenError> {
    let place = Place::of(repository, None, context).await?;
    let listed = within_deadline(async { Ok(catalog::list(&place.connect().await?).await?) }).await?;
    Ok(listed.iter().map(ToString::to_string).collect())
}

/// Returns what the Job mounts, and the pod beside which it has to run because a claim is on its node.
async fn volumes(
    session: &RestoreSession,
    host: &Host,
    made: &[PersistentVolumeClaim],
    namespace: &str,
    context: &Context,
) -> Result<(Vec<Mount>, Option<Beside>), ExecutorError> {
    let target = session.spec.target.clone().unwrap_or_default();
    let destination = destination(session).map_err(ExecutorError::Impossible)?;
    let Destination::Target(named) = destination else {
        let mounts = claims::mounts(&target, made, host.ordinal).map_err(ExecutorError::Host)?;
        return Ok((mounts, None));
    };
    let wanted = BackupTarget { volume_mounts: target.volume_mounts, ..BackupTarget::default() };
    let host =
        backup::Host { name: host.name.clone(), job: host.job.clone(), ordinal: host.ordinal, part: host.part.clone() };
    let placed = place::place(&named, &host, &wanted, namespace, context).await?;
    if let Some(why) = placed.mounts.iter().find_map(unreachable) {
        return Err(ExecutorError::Host(why));
    }
    Ok((placed.mounts, placed.beside))
}

/// Says why nothing is restored into a volume that is no claim which a Job may mount.
fn unreachable(mount: &Mount) -> Option<String> {
    match mount.source {
        Source::Claim(_) => None,
        Source::Folder(_) => Some(format!(
            "the volume at {} cannot be restored into: it is a ReadWriteOncePod claim that a pod holds, or a volume that only its node has. \
             Stop the pod, or restore into claims of volumeClaimTemplates",
            mount.path
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_folders_of_a_node_are_never_written_to() {
        let mount = |source| Mount { source, path: "/data".to_owned(), sub_path: None };
        assert_eq!(unreachable(&mount(Source::Claim("data".to_owned()))), None);
        let why = unreachable(&mount(Source::Folder("/var/lib/kubelet".to_owned()))).unwrap();
        assert!(why.starts_with("the volume at /data") && !why.contains("kubelet"), "{why}");
    }
}
