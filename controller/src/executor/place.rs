//! Where the Job of a host goes, and what it mounts: asks the API server, and leaves the deciding to `volumes` and `beside`.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, VolumeMount};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use stash_crds::names as labels;
use stash_crds::target::BackupTarget;

use super::beside::{self, is_bound_to_a_node};
use super::volumes::{PodVolumes, Reach, mount};
use super::{ExecutorError, find};
use crate::backup_configuration::validate::{Target, TargetKind};
use crate::backup_session::plan::Host;
use crate::context::Context;
use crate::errors::ReconcileError;
use crate::jobs::{Beside, Mount, Source};
use crate::workload::{Workload, is_running};

/// Where a claim is mounted if nobody says it, as in Stash.
const DEFAULT_MOUNT: &str = "/stash-data";

/// Where a Job goes, and what it mounts.
#[derive(Debug)]
pub(super) struct Placement {
    /// What it mounts, read-only.
    pub(super) mounts: Vec<Mount>,
    /// The pod beside which it runs, because a volume of that pod can be read nowhere else.
    pub(super) beside: Option<Beside>,
}

/// Finds out where the Job that backs up `host` goes.
///
/// # Errors
///
/// What is wanted cannot be read, or the API server did not tell.
pub(super) async fn place(
    target: &Target,
    host: &Host,
    wanted: &BackupTarget,
    namespace: &str,
    context: &Context,
) -> Result<Placement, ExecutorError> {
    if target.kind == TargetKind::Claim {
        let mut wanted = wanted.volume_mounts.first().cloned().unwrap_or_default();
        if wanted.mount_path.is_empty() {
            DEFAULT_MOUNT.clone_into(&mut wanted.mount_path);
        }
        return of_claims(&[(wanted, target.name.clone())], namespace, context).await;
    }
    let found = Workload::find(target, namespace, &context.client).await?;
    let Some(workload) = found else {
        return Err(ExecutorError::Host(format!("{} {namespace}/{} does not exist.", target.kind, target.name)));
    };
    let pods = workload.pods(namespace, &context.client).await?;
    let pod = pods.iter().filter(|pod| is_running(pod)).find(|pod| match (host.ordinal, &host.part) {
        (Some(ordinal), _) => pod.name_any() == workload.pod_name(ordinal),
        (None, Some(node)) => pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(node),
        (None, None) => true,
    });
    let volumes = match pod {
        Some(pod) => beside::volumes(pod),
        None => beside::volumes_without_pod(&workload, host.ordinal),
    };
    let reach = volumes.reach(&wanted.volume_mounts).map_err(ExecutorError::Host)?;
    let mut claims = Vec::new();
    for reach in &reach {
        claims.push(match reach {
            Reach::Claim(claim) => Some(find::<PersistentVolumeClaim>(namespace, claim, context).await?),
            Reach::Folder(_) => None,
        });
    }
    let alone = |claim: &PersistentVolumeClaim| beside::is_for_one_pod(claim) && pod.is_some();
    let by_node = claims.iter().any(|claim| claim.as_ref().is_none_or(&alone));
    if !by_node {
        let bound = claims.iter().flatten().any(is_bound_to_a_node);
        let named = wanted.volume_mounts.iter().cloned().zip(claims.iter().flatten().map(ResourceExt::name_any));
        return match pod {
            Some(pod) => Ok(Placement {
                mounts: named.map(|(wanted, claim)| mount(&wanted, Source::Claim(claim))).collect(),
                beside: if bound { Some(beside::of(pod)) } else { None },
            }),
            None => of_claims(&named.collect::<Vec<_>>(), namespace, context).await,
        };
    }
    let mut mounts = Vec::new();
    for ((wanted, reach), claim) in wanted.volume_mounts.iter().zip(reach).zip(&claims) {
        let folder = match (reach, claim) {
            (Reach::Folder(folder), _) => folder,
            (Reach::Claim(_), Some(claim)) => folder_of(claim, &volumes, context).await?,
            (Reach::Claim(claim), None) => return Err(ExecutorError::Host(format!("claim {claim} is gone"))),
        };
        mounts.push(mount(wanted, Source::Folder(folder)));
    }
    Ok(Placement { mounts, beside: pod.map(beside::of) })
}

/// Claims of which no workload's pod is known: where one can be mounted on one node only, whoever has it says which.
async fn of_claims(
    wanted: &[(VolumeMount, String)],
    namespace: &str,
    context: &Context,
) -> Result<Placement, ExecutorError> {
    let mut claims = Vec::new();
    for (_, claim) in wanted {
        claims.push(find::<PersistentVolumeClaim>(namespace, claim, context).await?);
    }
    let bound: Vec<&PersistentVolumeClaim> = claims.iter().filter(|claim| is_bound_to_a_node(claim)).collect();
    let pods = if bound.is_empty() { Vec::new() } else { pods_of(namespace, context).await? };
    let user = beside::user_of_all(&bound, &pods).map_err(ExecutorError::Host)?;
    let by_node = user.filter(|_| bound.iter().any(|claim| beside::is_for_one_pod(claim)));
    let mut mounts = Vec::new();
    for ((wanted, name), claim) in wanted.iter().zip(&claims) {
        let source = match by_node {
            Some(pod) => Source::Folder(folder_of(claim, &beside::volumes(pod), context).await?),
            None => Source::Claim(name.clone()),
        };
        mounts.push(mount(wanted, source));
    }
    Ok(Placement { mounts, beside: user.map(beside::of) })
}

async fn pods_of(namespace: &str, context: &Context) -> Result<Vec<Pod>, ReconcileError> {
    // A Job of ours that is about to end has the claim as well, and is nobody to run beside.
    let others = format!("{}!={}", labels::MANAGED_BY_LABEL, labels::MANAGED_BY);
    let pods = context.api::<Pod>(namespace).list(&ListParams::default().labels(&others)).await;
    pods.map(|pods| pods.items).map_err(|error| ReconcileError::of("list the pods of a claim", error))
}

/// Returns the folder of the node in which a claim is mounted for a pod.
async fn folder_of(
    claim: &PersistentVolumeClaim,
    pod: &PodVolumes,
    context: &Context,
) -> Result<String, ExecutorError> {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let volume = match name {
        Some(name) => {
            let found = Api::<PersistentVolume>::all(context.client.clone()).get_opt(name).await;
            found.map_err(|error| ReconcileError::of(format!("look up PersistentVolume {name}"), error))?
        }
        None => None,
    };
    pod.folder_of_claim(claim, volume.as_ref()).map_err(ExecutorError::Host)
}
