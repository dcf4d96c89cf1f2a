//! Volumes for claims, without a sidecar: what external-provisioner does, also for a claim whose `dataSourceRef` names a Snapshot.
//!
//! external-provisioner calls no driver for a claim whose `dataSourceRef` is of a kind that it does not know. So this watches the claims
//! that the cluster's controller gives to this driver, asks the Controller service as a sidecar would, and makes the object. Replays are
//! harmless: the object's name comes from the claim's uid, and what it holds once stays. A volume is deleted by deleting its object.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
    SecretReference,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Client, Resource as _, ResourceExt as _};
use stash_crds::names::COMPONENT_LABEL;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::controller::ControllerService;
use crate::names::DRIVER;
use crate::populate::source::SourceError;
use crate::populate::{self, Copier, objects};
use crate::proto::v1::volume_capability::access_mode::Mode;
use crate::proto::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use crate::proto::v1::{CreateVolumeRequest, VolumeCapability};
use crate::provision::{self, CLAIM_NAME, CLAIM_NAMESPACE};
use crate::status::{RpcError, code};

/// How the cluster's controller says whose a claim is, in its words of today and of before 1.23.
const PROVISIONERS: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// How a volume says who made it; the cluster's controller leaves its deletion to that one.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// How long after a failure it is tried again: a Snapshot may be mirrored meanwhile, a Repository made.
const AGAIN: Duration = Duration::from_secs(15);
/// The same where the API server was away.
const SOON: Duration = Duration::from_secs(3);

/// Why a claim has no volume yet.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionerError {
    /// It is not made.
    #[error(transparent)]
    Refused(#[from] RpcError),
    /// It is not filled.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The claim asks for what cannot be.
    #[error("{0}")]
    Claim(String),
    /// The API server did not do it.
    #[error("the API server did not {what}: {source}")]
    Api {
        /// What it was asked to do.
        what: String,
        /// What it said.
        source: Box<kube::Error>,
    },
}

pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(kube::Error) -> ProvisionerError {
    let what = what.into();
    move |error| ProvisionerError::Api { what, source: Box::new(error) }
}

/// Returns whether the cluster gave a claim to this driver.
pub fn is_given(claim: &PersistentVolumeClaim) -> bool {
    PROVISIONERS.iter().any(|name| claim.annotations().get(*name).is_some_and(|value| value == DRIVER))
}

/// Returns whether a claim waits for a volume of this driver.
pub fn waits(claim: &PersistentVolumeClaim) -> bool {
    is_given(claim) && populate::volume_name(claim).is_none() && claim.metadata.deletion_timestamp.is_none()
}

/// Returns whether the object of a volume is ours to delete: its claim is gone, and its class says that it goes with it.
pub fn is_left(volume: &PersistentVolume) -> bool {
    let spec = volume.spec.as_ref();
    let deletes = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let ours = volume.annotations().get(PROVISIONED_BY).is_some_and(|value| value == DRIVER)
        && spec.and_then(|spec| spec.csi.as_ref()).is_some_and(|source| source.driver == DRIVER);
    ours && deletes && phase == Some("Released") && volume.metadata.deletion_timestamp.is_none()
}

/// Returns what the Controller service is asked for, as external-provisioner asks it.
///
/// # Errors
///
/// The claim has an access mode that there is not.
pub fn request(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    uid: &str,
) -> Result<CreateVolumeRequest, ProvisionerError> {
    let spec = claim.spec.clone().unwrap_or_default();
    let is_block = spec.volume_mode.as_deref() == Some("Block");
    let flags = class.mount_options.clone().unwrap_or_default();
    let mount = || AccessType::Mount(MountVolume { mount_flags: flags.clone(), ..MountVolume::default() });
    let capability = |mode: &String| {
        let mode = match mode.as_str() {
            "ReadWriteOnce" => Mode::SingleNodeWriter,
            "ReadWriteOncePod" => Mode::SingleNodeSingleWriter,
            "ReadOnlyMany" => Mode::MultiNodeReaderOnly,
            "ReadWriteMany" => Mode::MultiNodeMultiWriter,
            other => return Err(ProvisionerError::Claim(format!("the access mode {other:?} is not known"))),
        };
        let access_type = if is_block { AccessType::Block(BlockVolume {}) } else { mount() };
        Ok(VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), access_type: Some(access_type) })
    };
    let modes = spec.access_modes.unwrap_or_default();
    let mut parameters = class.parameters.clone().unwrap_or_default();
    parameters.insert(CLAIM_NAMESPACE.to_owned(), claim.namespace().unwrap_or_default());
    parameters.insert(CLAIM_NAME.to_owned(), claim.name_any());
    Ok(CreateVolumeRequest {
        name: format!("pvc-{uid}"),
        volume_capabilities: modes.iter().map(capability).collect::<Result<_, _>>()?,
        parameters: parameters.into_iter().collect(),
        ..CreateVolumeRequest::default()
    })
}

/// Returns the object of a volume that was made for a claim. `secret` holds the Repository's keys; kubelet hands them over.
pub fn object(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    name: String,
    context: BTreeMap<String, String>,
    secret: Option<SecretReference>,
) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    // No quantity is counted: the volume has the size that was asked for, which is what binding compares.
    let asked = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let read_only = !context.contains_key(crate::volume::MODE);
    let source = CSIPersistentVolumeSource {
        driver: DRIVER.to_owned(),
        volume_handle: name.clone(),
        read_only: Some(read_only),
        volume_attributes: Some(context),
        node_publish_secret_ref: secret,
        ..CSIPersistentVolumeSource::default()
    };
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name),
            annotations: Some(BTreeMap::from([(PROVISIONED_BY.to_owned(), DRIVER.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(asked.into_iter().filter(|(name, _)| name == "storage").collect()),
            claim_ref: Some(ObjectReference { field_path: None, ..claim.object_ref(&()) }),
            csi: Some(source),
            mount_options: class.mount_options.clone(),
            persistent_volume_reclaim_policy: Some(class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

struct Provisioner {
    client: Client,
    cluster: Arc<dyn Cluster>,
    service: ControllerService,
    recorder: Recorder,
    copier: Option<Copier>,
}

impl Provisioner {
    async fn provision(&self, claim: &PersistentVolumeClaim) -> Result<(), ProvisionerError> {
        let spec = claim.spec.clone().unwrap_or_default();
        let class = spec.storage_class_name.unwrap_or_default();
        let class = Api::<StorageClass>::all(self.client.clone()).get_opt(&class).await;
        let class = class.map_err(failed("look up the StorageClass"))?;
        let class = class.filter(|class| class.provisioner == DRIVER);
        let class = class.ok_or_else(|| ProvisionerError::Claim("its StorageClass is gone".to_owned()))?;
        let request = request(claim, &class, &claim.uid().unwrap_or_default())?;
        let made = self.service.create(request).await?;
        let context = made.volume_context.into_iter().collect();
        let secret = provision::secret(self.cluster.as_ref(), &context).await.map_err(RpcError::from)?;
        let volume = object(claim, &class, made.volume_id, context, secret);
        let name = volume.name_any();
        let api = Api::<PersistentVolume>::all(self.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(failed(format!("make the PersistentVolume {name}"))(error)),
            Ok(_) => {
                tracing::info!(volume = name, claim = claim.name_any(), namespace = claim.namespace(), "bound");
                self.tell(claim, EventType::Normal, "ProvisioningSucceeded", format!("Made the volume {name}")).await;
                Ok(())
            }
        }
    }

    async fn tell(&self, claim: &PersistentVolumeClaim, type_: EventType, reason: &str, note: String) {
        tell(&self.recorder, &claim.object_ref(&()), "Provision", type_, reason, note).await;
    }
}

/// Tells something as an event of `about`.
pub(crate) async fn tell(
    recorder: &Recorder,
    about: &ObjectReference,
    action: &str,
    type_: EventType,
    reason: &str,
    note: String,
) {
    let note = Some(note.chars().take(1000).collect());
    let event = Event { type_, reason: reason.to_owned(), note, action: action.to_owned(), secondary: None };
    if let Err(error) = recorder.publish(&event, about).await {
        tracing::warn!(%error, reason, "an event was not written");
    }
}

async fn reconcile_claim(claim: Arc<PersistentVolumeClaim>, to: Arc<Provisioner>) -> Result<Action, ProvisionerError> {
    if !is_given(&claim)
        && let Some(copier) = to.copier.as_ref().filter(|_| populate::concerns(&claim))
    {
        return copier.populate(&claim).await;
    }
    if !waits(&claim) {
        return Ok(Action::await_change());
    }
    match to.provision(&claim).await {
        Ok(()) => Ok(Action::await_change()),
        Err(error) => {
            to.tell(&claim, EventType::Warning, "ProvisioningFailed", error.to_string()).await;
            Err(error)
        }
    }
}

async fn reconcile_volume(volume: Arc<PersistentVolume>, to: Arc<Provisioner>) -> Result<Action, ProvisionerError> {
    if !is_left(&volume) {
        return Ok(Action::await_change());
    }
    let preconditions = Preconditions { uid: volume.uid(), resource_version: volume.resource_version() };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let api = Api::<PersistentVolume>::all(to.client.clone());
    match api.delete(&volume.name_any(), &parameters).await {
        // It is gone, or another: that is seen.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        other => drop(other.map_err(failed("delete a PersistentVolume whose claim is gone"))?),
    }
    tracing::info!(volume = volume.name_any(), "deleted with its claim");
    Ok(Action::await_change())
}

fn again<K>(_: Arc<K>, error: &ProvisionerError, _: Arc<Provisioner>) -> Action {
    // What is refused, as by a quota, is seldom allowed a moment later.
    let is_refusal =
        |error: &kube::Error| matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code));
    Action::requeue(match error {
        ProvisionerError::Api { source, .. } if is_refusal(source) => AGAIN,
        ProvisionerError::Api { .. } => SOON,
        ProvisionerError::Refused(refused) | ProvisionerError::Source(SourceError::Rpc(refused))
            if code(refused) == tonic::Code::Unavailable =>
        {
            SOON
        }
        ProvisionerError::Refused(_) | ProvisionerError::Source(_) | ProvisionerError::Claim(_) => AGAIN,
    })
}

/// Makes volumes until `stopped` says stop. With the image that holds `stash-fs`, claims of other classes are populated as well.
pub async fn run(client: Client, cluster: Arc<dyn Cluster>, image: Option<String>, stopped: watch::Receiver<bool>) {
    let reporter = Reporter { controller: DRIVER.to_owned(), instance: None };
    let recorder = Recorder::new(client.clone(), reporter);
    let copier = image.map(|image| Copier {
        client: client.clone(),
        cluster: Arc::clone(&cluster),
        recorder: recorder.clone(),
        image,
    });
    let copies = copier.is_some();
    let context = Arc::new(Provisioner {
        client: client.clone(),
        service: ControllerService::new(Arc::clone(&cluster)),
        cluster,
        recorder,
        copier,
    });
    let told = |mut stopped: watch::Receiver<bool>| async move {
        drop(stopped.wait_for(|stopped| *stopped).await);
    };
    let all_claims = || Api::<PersistentVolumeClaim>::all(client.clone());
    let mut claims = Controller::new(all_claims(), watcher::Config::default());
    if copies {
        let ours = watcher::Config::default().labels(&format!("{COMPONENT_LABEL}={}", objects::COMPONENT));
        claims = claims.owns(all_claims(), ours.clone()).owns(Api::<Job>::all(client.clone()), ours);
    }
    let claims = claims
        .graceful_shutdown_on(told(stopped.clone()))
        .run(reconcile_claim, again, Arc::clone(&context))
        .for_each(|done| async {
            if let Err(error) = done {
                tracing::warn!(%error, "a claim has no volume");
            }
        });
    let volumes = Controller::new(Api::<PersistentVolume>::all(client.clone()), watcher::Config::default())
        .graceful_shutdown_on(told(stopped))
        .run(reconcile_volume, again, context)
        .for_each(|done| async {
            if let Err(error) = done {
                tracing::warn!(%error, "a volume was not deleted");
            }
        });
    tokio::join!(claims, volumes);
}

#[cfg(test)]
mod tests;
