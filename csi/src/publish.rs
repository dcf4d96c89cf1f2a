//! Publishing a volume: from a request of kubelet to a mount.
//!
//! Read (pure) -> hold the volume -> what was chosen before -> judge -> choose -> credentials -> write down -> mount.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use stash_crds::Repository;
use stash_crds::access::AddressRule;
use stash_proto::job::Instead;
use zeroize::Zeroizing;

use crate::at_start::{self, Shows};
use crate::authorise::{self, Account, Refused};
use crate::capability;
use crate::cluster::{Cluster, SecretData};
use crate::daemon::{MountRequest, NodeDaemon};
use crate::folder;
use crate::lock::Locks;
use crate::names::{MountName, VolumeId};
use crate::pins::{Pin, Pins};
use crate::proto::v1::NodePublishVolumeRequest;
use crate::repository;
use crate::resolve::{Chosen, choose, usual_name};
use crate::status::{RpcError, code, may_be_mounted};
use crate::target::TargetPath;
use crate::volume::{self, Mode, PodInfo, SnapshotChoice, Wanted};

/// What the node's calls share.
#[derive(Debug)]
pub struct NodeContext {
    /// The API server.
    pub cluster: Arc<dyn Cluster>,
    /// The node daemon.
    pub daemon: Arc<dyn NodeDaemon>,
    /// What was chosen for mounts.
    pub pins: Pins,
    /// Which volumes are worked on.
    pub locks: Locks,
    /// Which servers are refused.
    pub addresses: AddressRule,
    /// Kubelet's directory.
    pub kubelet: PathBuf,
    /// The node's name.
    pub node: String,
    /// How many volumes the node may have; without it, by the daemon's memory.
    pub max_volumes: Option<i64>,
}

/// A volume that is to be published.
#[derive(Debug)]
pub struct PublishRequest {
    /// Which.
    pub volume: VolumeId,
    /// Where.
    pub target: TargetPath,
    /// What it is to show.
    pub wanted: Wanted,
    /// For which pod.
    pub pod: PodInfo,
    /// Whether it is written to.
    pub mode: Mode,
    /// The digest of all that was asked for, but for secrets.
    pub asked: String,
    /// What kubelet read of a Secret for it.
    secrets: SecretData,
}

/// Reads a request. Pure.
///
/// # Errors
///
/// Something in it is wrong.
pub fn parse(request: NodePublishVolumeRequest, kubelet: &std::path::Path) -> Result<PublishRequest, RpcError> {
    let volume = VolumeId::parse(&request.volume_id)?;
    let target = TargetPath::parse(&request.target_path, kubelet)?;
    let usage = capability::usage(request.volume_capability.as_ref())?;
    let (wanted, pod) = volume::parse(&request.volume_context)?;
    let mode = capability::mode(wanted.mode, usage, request.readonly);
    let mut digest = Sha256::new();
    for (name, value) in &request.volume_context {
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name);
        digest.update((value.len() as u64).to_le_bytes());
        digest.update(value);
    }
    // Two requests that differ in this alone are different to CSI, even if they are mounted alike.
    digest.update([u8::from(request.readonly), u8::from(usage.reads_only)]);
    let secrets = request.secrets.into_iter().map(|(key, value)| (key, Zeroizing::new(value.into_bytes()))).collect();
    Ok(PublishRequest { volume, target, wanted, pod, mode, asked: hex::encode(digest.finalize()), secrets })
}

/// Publishes a volume. Asked again, it changes nothing.
///
/// # Errors
///
/// Nothing is mounted, but where the code says that it may be.
pub async fn publish(context: &NodeContext, request: &PublishRequest) -> Result<(), RpcError> {
    let name = MountName::of(&request.volume, &request.target);
    let pin = context.pins.read(&name).await?;
    let mounted = context.daemon.list().await?.into_iter().find(|mounted| mounted.name == name);
    let is_mounted = mounted.is_some();
    if let (Some(mounted), Some(pin)) = (&mounted, &pin) {
        if pin.asked != request.asked {
            return Err(RpcError::Exists(request.volume.to_string()));
        }
        // An overlay is mounted after its snapshot: until the daemon serves it again, there may be only that. So it is asked.
        // So it is where it is just being mounted, or has not been gone on with yet.
        if mounted.snapshot.is_some() && (request.mode == Mode::ReadOnly || mounted.trouble.is_none()) {
            return Ok(());
        }
    }
    let known = pin.filter(|pin| pin.asked == request.asked);
    let (chosen, repository) = match permitted(context, request, known).await? {
        Permitted::Snapshot(chosen, repository) => (chosen, *repository),
        Permitted::Instead(instead) => return show(context, request, &name, instead).await,
    };
    let secret = if request.secrets.is_empty() {
        let namespace = repository.metadata.namespace.as_deref().unwrap_or_default();
        match repository::secret_name(&repository) {
            "" => None,
            name => context.cluster.secret(namespace, name).await?,
        }
    } else {
        Some(request.secrets.clone())
    };
    let access = repository::access(&repository, secret.as_ref(), &context.addresses)?;
    let mount = MountRequest {
        name: name.clone(),
        target: request.target.clone(),
        repository: access,
        snapshot: chosen.id.clone(),
        path: request.wanted.path.clone(),
        mode: request.mode,
        scratch_bytes: request.wanted.scratch_bytes,
        ownership: request.wanted.ownership,
        prefetch: request.wanted.prefetch,
    };
    let made = folder::make(&context.kubelet, &request.target)?;
    let mounted = write_down_and_mount(context, &mount, &Pin::new(request.asked.clone(), &chosen)).await;
    let nothing_is_mounted = mounted.as_ref().is_err_and(|error| !may_be_mounted(code(error))) && !is_mounted;
    if nothing_is_mounted {
        // Nothing is left of what failed for good. A folder that was there before is not ours.
        if made {
            folder::remove(&context.kubelet, &request.target)?;
        }
        context.pins.remove(&name).await?;
    }
    mounted
}

async fn write_down_and_mount(context: &NodeContext, mount: &MountRequest, pin: &Pin) -> Result<(), RpcError> {
    context.pins.write(&mount.name, pin).await?;
    Ok(context.daemon.mount(mount).await?)
}

/// Shows something in place of a snapshot: nothing is mounted, and nobody is asked for anything.
async fn show(
    context: &NodeContext,
    request: &PublishRequest,
    name: &MountName,
    instead: Instead,
) -> Result<(), RpcError> {
    let text = serde_json::to_vec(&instead).unwrap_or_default();
    context.pins.write(name, &Pin::of_instead(request.asked.clone(), instead)).await?;
    let filled = folder::make(&context.kubelet, &request.target)
        .and_then(|_| folder::fill(&context.kubelet, &request.target, &text));
    if let Err(error) = filled {
        // Kubelet takes it for final: nothing is left of it.
        folder::remove(&context.kubelet, &request.target)?;
        context.pins.remove(name).await?;
        return Err(error.into());
    }
    Ok(())
}

/// What a request may have.
enum Permitted {
    Snapshot(Chosen, Box<Repository>),
    Instead(Instead),
}

/// Judges a request, and chooses the snapshot; `known` is what was chosen before.
async fn permitted(context: &NodeContext, request: &PublishRequest, known: Option<Pin>) -> Result<Permitted, RpcError> {
    let PublishRequest { wanted, pod, target, .. } = request;
    let found = context.cluster.pod(&pod.namespace, &pod.name).await?;
    let account = authorise::account(pod, found.as_ref(), target.pod_volume().as_ref(), &context.node)?;
    if let Some(found) = &found {
        authorise::ownership(found, wanted.ownership)?;
    }
    if let Some(instead) = known.as_ref().and_then(|pin| pin.instead.clone()) {
        return Ok(Permitted::Instead(instead));
    }
    let mut known = known.as_ref().and_then(Pin::chosen);
    if let (SnapshotChoice::AtStart { session: name, source }, Some(found), None) = (&wanted.snapshot, &found, &known) {
        // Before the Repository: where nothing is to be done, it may be gone.
        let session = context.cluster.restore_session(&pod.namespace, name).await?;
        match at_start::decide(session.as_ref(), name, found, &context.node, source)? {
            Shows::Instead(instead) => return Ok(Permitted::Instead(instead)),
            Shows::Snapshot(id) => known = Some(Chosen { id, object: None, bytes: 0, files: 0 }),
        }
    }
    let namespace = wanted.repository_namespace.as_deref().unwrap_or(&pod.namespace);
    let labels = context.cluster.namespace_labels(&pod.namespace).await?;
    let repository = context.cluster.repository(namespace, &wanted.repository).await?;
    let repository =
        authorise::policy(repository.as_ref(), namespace, &wanted.repository, &pod.namespace, labels.as_ref())?;
    let chosen = match known {
        Some(chosen) => Ok(chosen),
        None => choice(context.cluster.as_ref(), wanted, namespace).await,
    };
    if namespace != pod.namespace {
        // Whoever may not mount does not learn which snapshots there are: he is asked before a failure to choose is told.
        let object = chosen.as_ref().ok().and_then(|chosen| chosen.object.as_deref());
        review(context.cluster.as_ref(), &account, namespace, &wanted.repository, object).await?;
    }
    Ok(Permitted::Snapshot(chosen?, Box::new(repository.clone())))
}

async fn review(
    cluster: &dyn Cluster,
    account: &Account,
    namespace: &str,
    repository: &str,
    object: Option<&str>,
) -> Result<(), RpcError> {
    if cluster.may_mount(account, namespace, object).await? {
        return Ok(());
    }
    let repository = format!("{namespace}/{repository}");
    Err(Refused::Account { account: account.clone(), repository, namespace: namespace.to_owned() }.into())
}

/// Looks up what a choice needs, and chooses.
pub(crate) async fn choice(cluster: &dyn Cluster, wanted: &Wanted, namespace: &str) -> Result<Chosen, RpcError> {
    let Wanted { repository, snapshot, path, .. } = wanted;
    let objects = match snapshot {
        SnapshotChoice::Named(name) => cluster.snapshot(namespace, name).await?.into_iter().collect(),
        // One object is enough to know its name and size.
        SnapshotChoice::Id(id) => cluster.snapshot(namespace, &usual_name(repository, id)).await?.into_iter().collect(),
        SnapshotChoice::AtStart { .. } => Vec::new(),
        SnapshotChoice::Prefix(_) | SnapshotChoice::Latest { .. } => cluster.snapshots(namespace, repository).await?,
    };
    Ok(choose(snapshot, path, namespace, repository, &objects)?)
}
