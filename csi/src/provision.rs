//! Volumes for claims: what CreateVolume promises. Pure, but for the looking up.
//!
//! A volume that is made holds nothing: it is a promise to show a snapshot, written into the volume's context with the snapshot's whole id.
//! So it is bound at once, any number of nodes can have it, and deleting it deletes nothing. Whoever mounts it is judged then
//! ([`authorise`]), by the namespace and the account of his pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, SecretReference};
use sha2::{Digest as _, Sha256};
use stash_crds::Snapshot;
use stash_crds::names::SNAPSHOT_GROUP;

use crate::authorise;
use crate::capability::{CapabilityError, usage};
use crate::cluster::{Cluster, ClusterError};
use crate::names::is_object_name;
use crate::proto::v1::{CreateVolumeRequest, VolumeCapability};
use crate::publish::choice;
use crate::resolve::{Chosen, choose};
use crate::status::RpcError;
use crate::volume::{
    self, GID, MODE, Mode, PATH, PREFETCH, REPOSITORY, REPOSITORY_NAMESPACE, SCRATCH_SIZE, SNAPSHOT, SnapshotChoice,
    SnapshotPath, UID, Wanted,
};

/// The claim that a volume is for, as external-provisioner says it with `--extra-create-metadata`.
pub const CLAIM_NAME: &str = "csi.storage.k8s.io/pvc/name";
/// The claim's namespace.
pub const CLAIM_NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";
/// The volume's name, by the same.
pub const VOLUME_NAME: &str = "csi.storage.k8s.io/pv/name";

/// What stands before an attribute in an annotation of a claim. Those that say how a snapshot is shown may stand there, and win over the class.
pub const CLAIM_ATTRIBUTE: &str = "fs.stash.appscode.com";

/// The longest name of a volume.
const NAME_LIMIT: usize = 128;

/// Why no volume is made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// The name is none.
    #[error("name must be of 1 to {limit} letters, digits, '.', '_' and '-'; it is {0:?}", limit = NAME_LIMIT)]
    Name(String),
    /// Something is asked for that there is not.
    #[error("{0} is not supported: a volume shows a snapshot of a Repository")]
    Unsupported(&'static str),
    /// The Repository's namespace is not known.
    #[error("repositoryNamespace is needed in the StorageClass, or external-provisioner's --extra-create-metadata")]
    NoNamespace,
    /// There is no such claim.
    #[error("there is no PersistentVolumeClaim {0}")]
    NoClaim(String),
    /// There is no such Snapshot in the claim's own namespace.
    #[error("there is no Snapshot {0}; `kubectl get snapshots` lists those that there are")]
    NoSnapshot(String),
    /// The claim is to hold something else.
    #[error("the dataSourceRef of {claim} is a {kind}; this driver makes volumes of Snapshots ({group})", group = SNAPSHOT_GROUP)]
    DataSource {
        /// The claim, with its namespace.
        claim: String,
        /// What it names.
        kind: String,
    },
    /// A volume of this name is another one.
    #[error("the volume {0} was made already, with another size or of another source")]
    Exists(String),
    /// It cannot have that size.
    #[error("required_bytes {asked} is more than limit_bytes {limit}")]
    Size {
        /// The least.
        asked: i64,
        /// The most.
        limit: i64,
    },
    /// An overlay is of one node.
    #[error("mode: overlay is for volumes of one node: accessModes must be ReadWriteOnce or ReadWriteOncePod")]
    OverlayReaders,
}

/// A volume that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateRequest {
    /// What it is called, and its id.
    pub name: String,
    /// The least of bytes that it is to have.
    pub bytes: i64,
    /// The claim, with its namespace: namespace, name.
    pub claim: Option<(String, String)>,
    /// What the StorageClass says.
    pub parameters: BTreeMap<String, String>,
    /// The digest of all that was asked for, but for the name and secrets.
    pub asked: String,
    writers: bool,
}

/// A volume that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// How many bytes it has: those that were asked for, or those of the snapshot.
    pub bytes: i64,
    /// Its context: the attributes of a volume, with the snapshot's id.
    pub context: BTreeMap<String, String>,
}

/// Reads a request. Pure.
///
/// # Errors
///
/// Something in it is wrong.
pub fn parse(request: &CreateVolumeRequest) -> Result<CreateRequest, RpcError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = request.name.as_str();
    if name.is_empty() || name.len() > NAME_LIMIT || !name.chars().all(plain) {
        return Err(ProvisionError::Name(name.chars().take(NAME_LIMIT).collect()).into());
    }
    let writers = check_capabilities(&request.volume_capabilities)?;
    if request.volume_content_source.is_some() {
        return Err(ProvisionError::Unsupported("volume_content_source").into());
    }
    if !request.mutable_parameters.is_empty() {
        return Err(ProvisionError::Unsupported("mutable_parameters").into());
    }
    let range = request.capacity_range.unwrap_or_default();
    let (bytes, limit) = (range.required_bytes, range.limit_bytes);
    if bytes < 0 || limit < 0 || (limit > 0 && bytes > limit) {
        return Err(ProvisionError::Size { asked: bytes, limit }.into());
    }
    let value = |key: &str| request.parameters.get(key).filter(|value| !value.is_empty()).cloned();
    let claim = value(CLAIM_NAMESPACE).zip(value(CLAIM_NAME));
    if let Some((namespace, name)) = &claim
        && !(is_object_name(namespace) && is_object_name(name))
    {
        return Err(ProvisionError::NoClaim(format!("{namespace}/{name}")).into());
    }
    let mut digest = Sha256::new();
    digest.update(format!("{bytes} {limit} {writers};"));
    for (name, value) in &request.parameters {
        digest.update(format!("{} {name}={} {value};", name.len(), value.len()));
    }
    Ok(CreateRequest {
        name: name.to_owned(),
        bytes,
        claim,
        parameters: request.parameters.clone(),
        asked: hex::encode(digest.finalize()),
        writers,
    })
}

/// Returns whether any of the ways in which a volume is to be used writes.
///
/// # Errors
///
/// There is none, or one is not possible.
pub fn check_capabilities(capabilities: &[VolumeCapability]) -> Result<bool, CapabilityError> {
    if capabilities.is_empty() {
        return Err(CapabilityError::Missing);
    }
    let mut writers = true;
    for capability in capabilities {
        writers &= !usage(Some(capability))?.reads_only;
    }
    Ok(writers)
}

/// Returns the Snapshot that a claim is to hold: namespace and name.
///
/// # Errors
///
/// It is to hold something else.
pub fn data_source(claim: &PersistentVolumeClaim) -> Result<Option<(String, String)>, ProvisionError> {
    let spec = claim.spec.clone().unwrap_or_default();
    let own = claim.metadata.namespace.clone().unwrap_or_default();
    let shown = || format!("{own}/{}", claim.metadata.name.as_deref().unwrap_or_default());
    let (group, kind, name, namespace) = match (spec.data_source_ref, spec.data_source) {
        (Some(reference), _) => (reference.api_group, reference.kind, reference.name, reference.namespace),
        (None, Some(reference)) => (reference.api_group, reference.kind, reference.name, None),
        (None, None) => return Ok(None),
    };
    if group.as_deref() != Some(SNAPSHOT_GROUP) || kind != "Snapshot" {
        return Err(ProvisionError::DataSource { claim: shown(), kind });
    }
    Ok(Some((namespace.filter(|namespace| !namespace.is_empty()).unwrap_or(own), name)))
}

/// Chooses the snapshot of a volume.
///
/// # Errors
///
/// There is none, or the claim's namespace may not use the Repository.
pub async fn make(cluster: &dyn Cluster, request: &CreateRequest) -> Result<Made, RpcError> {
    let others = [CLAIM_NAME, CLAIM_NAMESPACE, VOLUME_NAME];
    let mut parameters = request.parameters.clone();
    let source = match &request.claim {
        None => None,
        Some((namespace, name)) => {
            let claim = cluster.claim(namespace, name).await?;
            let claim = claim.ok_or_else(|| ProvisionError::NoClaim(format!("{namespace}/{name}")))?;
            parameters.extend(annotated(&claim));
            data_source(&claim)?
        }
    };
    let claim_namespace = request.claim.as_ref().map(|(namespace, _)| namespace.as_str());
    let (wanted, namespace, chosen) = match source {
        Some((namespace, name)) => {
            let (rest, with_path) = volume::beside_snapshot(&parameters, &others)?;
            let object = cluster.snapshot(&namespace, &name).await?;
            if object.is_none() && claim_namespace == Some(namespace.as_str()) {
                return Err(ProvisionError::NoSnapshot(format!("{namespace}/{name}")).into());
            }
            let status = object.as_ref().and_then(|object| object.status.clone()).unwrap_or_default();
            let wanted = Wanted { repository: status.repository, snapshot: SnapshotChoice::Named(name), ..rest };
            let path = if with_path { wanted.path.clone() } else { only_path(object.as_ref()) };
            let wanted = Wanted { path, ..wanted };
            // A Snapshot elsewhere is not spoken of before its Repository lets in.
            let objects: Vec<Snapshot> = object.into_iter().collect();
            let chosen = choose(&wanted.snapshot, &wanted.path, &namespace, &wanted.repository, &objects);
            (wanted, namespace, chosen.map_err(RpcError::from))
        }
        None => {
            let wanted = volume::wanted(&parameters, &others)?;
            let namespace = wanted.repository_namespace.clone().or_else(|| claim_namespace.map(str::to_owned));
            let namespace = namespace.ok_or(ProvisionError::NoNamespace)?;
            let chosen = choice(cluster, &wanted, &namespace).await;
            (wanted, namespace, chosen)
        }
    };
    if wanted.mode == Mode::Overlay && !request.writers {
        return Err(ProvisionError::OverlayReaders.into());
    }
    if let Some(own) = claim_namespace {
        let labels = cluster.namespace_labels(own).await?;
        let repository = cluster.repository(&namespace, &wanted.repository).await?;
        authorise::policy(repository.as_ref(), &namespace, &wanted.repository, own, labels.as_ref())?;
    }
    let chosen = chosen?;
    let bytes = if request.bytes > 0 { request.bytes } else { chosen.bytes };
    Ok(Made { bytes, context: context(&wanted, &namespace, &chosen) })
}

/// Returns where the keys of a volume's Repository are.
///
/// # Errors
///
/// The API server does not say.
pub async fn secret(
    cluster: &dyn Cluster,
    context: &BTreeMap<String, String>,
) -> Result<Option<SecretReference>, ClusterError> {
    let (Some(namespace), Some(name)) = (context.get(REPOSITORY_NAMESPACE), context.get(REPOSITORY)) else {
        return Ok(None);
    };
    let repository = cluster.repository(namespace, name).await?;
    let secret = repository.and_then(|repository| repository.spec.backend.storage_secret_name);
    let secret = secret.filter(|secret| !secret.is_empty());
    Ok(secret.map(|secret| SecretReference { name: Some(secret), namespace: Some(namespace.clone()) }))
}

/// Returns the attributes that a claim's annotations say.
fn annotated(claim: &PersistentVolumeClaim) -> BTreeMap<String, String> {
    let annotations = claim.metadata.annotations.clone().unwrap_or_default();
    let of = |name: &str| Some((name.to_owned(), annotations.get(&format!("{CLAIM_ATTRIBUTE}/{name}"))?.clone()));
    [MODE, SCRATCH_SIZE, PATH].into_iter().filter_map(of).collect()
}

/// Of a snapshot of one path, that path: a claim that held it holds it again at its root.
fn only_path(object: Option<&Snapshot>) -> SnapshotPath {
    let paths = object.and_then(|object| object.status.as_ref()).map(|status| status.paths.as_slice());
    match paths.unwrap_or_default() {
        [only] => SnapshotPath::parse(only).unwrap_or_default(),
        _ => SnapshotPath::default(),
    }
}

/// Returns the attributes of a volume that shows what was chosen.
fn context(wanted: &Wanted, namespace: &str, chosen: &Chosen) -> BTreeMap<String, String> {
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let pairs = [
        (REPOSITORY, Some(wanted.repository.clone())),
        (REPOSITORY_NAMESPACE, Some(namespace.to_owned())),
        (SNAPSHOT, Some(chosen.id.to_string())),
        (PATH, Some(wanted.path.as_str().to_owned()).filter(|path| path != "/")),
        (MODE, (wanted.mode == Mode::Overlay).then(|| wanted.mode.as_str().to_owned())),
        (SCRATCH_SIZE, wanted.scratch_bytes.map(|bytes| bytes.to_string())),
        (UID, number(wanted.ownership.uid)),
        (GID, number(wanted.ownership.gid)),
        (PREFETCH, wanted.prefetch.then(|| "true".to_owned())),
    ];
    pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests;
