//! The parts of a target that a session writes down when it begins, as an annotation: they are those of the beginning for as long as it runs.

use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::context::Context;
use crate::errors::ReconcileError;

/// Annotation of a session: the nodes of its DaemonSet, or the claims of which snapshots are taken, when it began, separated by commas.
const PARTS_ANNOTATION: &str = "stash.appscode.com/parts";

/// Returns the parts that were written down when a session began.
pub fn parts_of(session: &impl ResourceExt) -> Option<Vec<String>> {
    let text = session.annotations().get(PARTS_ANNOTATION)?;
    Some(text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect())
}

/// Writes down the parts of the target of a session. The status is then decided on again, over the version that has them.
///
/// # Errors
///
/// Always: [`ReconcileError::Stale`] when it was done.
pub async fn write_parts<K>(session: &K, parts: &[String], context: &Context) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let metadata = json!({ "annotations": { PARTS_ANNOTATION: parts.join(",") } });
    let patched = context.patch_metadata(session, metadata).await;
    let what = || format!("write down the parts of {} {}", K::kind(&()), session.name_any());
    patched.map_err(|error| ReconcileError::of(what(), error))?;
    Err(ReconcileError::Stale)
}
