//! Which snapshot a claim is populated with, and whether it may be: judged as for a volume of the driver's own class.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;

use super::{Refusal, name};
use crate::cluster::Cluster;
use crate::proto::v1::volume_capability::access_mode::Mode;
use crate::proto::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use crate::proto::v1::{CreateVolumeRequest, VolumeCapability};
use crate::provision::{self, CLAIM_ATTRIBUTE, CLAIM_NAME, CLAIM_NAMESPACE};
use crate::quantity;
use crate::status::RpcError;
use crate::volume::{MODE, SCRATCH_SIZE};

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The claim is not one for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is none, or it may not be had.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

/// Returns the attributes of a volume that shows what the claim is to hold.
///
/// # Errors
///
/// There is no such Snapshot, the claim's namespace may not use its Repository, or it does not fit.
pub async fn source(
    cluster: &dyn Cluster,
    claim: &PersistentVolumeClaim,
) -> Result<BTreeMap<String, String>, SourceError> {
    for attribute in [MODE, SCRATCH_SIZE] {
        let annotation = format!("{CLAIM_ATTRIBUTE}/{attribute}");
        if claim.annotations().contains_key(&annotation) {
            return Err(Refusal::Annotation { annotation }.into());
        }
    }
    let capability = VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeReaderOnly.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    };
    let parameters = [(CLAIM_NAMESPACE, claim.namespace().unwrap_or_default()), (CLAIM_NAME, claim.name_any())];
    let request = CreateVolumeRequest {
        name: name(&claim.uid().unwrap_or_default()),
        volume_capabilities: vec![capability],
        parameters: parameters.map(|(key, value)| (key.to_owned(), value)).into(),
        ..CreateVolumeRequest::default()
    };
    let made = provision::make(cluster, &provision::parse(&request)?).await?;
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let asked = requests.and_then(|requests| requests.get("storage")).map(|quantity| quantity.0.clone());
    let asked = asked.unwrap_or_default();
    let needed = u64::try_from(made.bytes).unwrap_or(0);
    if quantity::bytes(&asked).is_some_and(|bytes| bytes < needed) {
        let snapshot =
            claim.spec.as_ref().and_then(|spec| spec.data_source_ref.as_ref()).map(|named| named.name.clone());
        return Err(Refusal::TooSmall { snapshot: snapshot.unwrap_or_default(), needed: made.bytes, asked }.into());
    }
    Ok(made.context)
}

#[cfg(test)]
mod tests;
