//! Starts the Job that restores a host: it writes to claims, and to nothing else.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Resource as _, ResourceExt as _};
use stash_crds::target::BackupTarget;
use stash_crds::{Repository, RestoreSession};

use super::{Access, ExecutorError, access, make, place};
use crate::backup_session::observe::repository_key;
use crate::backup_session::plan as backup;
use crate::context::Context;
use crate::jobs::{Beside, JobRequest, Mount, Purpose, Source};
use crate::restore_session::plan::Host;
use crate::restore_session::validate::{Destination, destination};
use crate::restore_session::{claims, rules};
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
    let spec = spec::restore(repository, session, rule, &host.name, paths)?;
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
        beside,
        runtime: session.spec.runtime_settings.as_ref(),
        temp_dir: session.spec.temp_dir.as_ref(),
    };
    make(&request, spec, credentials, context).await
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
