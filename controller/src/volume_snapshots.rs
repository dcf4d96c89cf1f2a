//! `driver: VolumeSnapshotter`: a VolumeSnapshot of each claim, which the cluster's storage makes and keeps.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use stash_crds::retention::RetentionPolicy;
use stash_crds::{BackupConfiguration, BackupSession, names as labels};

use crate::backup_session::outcome::{HostOutcome, Work};
use crate::context::Context;
use crate::errors::{ReconcileError, is_already_exists, is_not_found};
use crate::executor::ExecutorError;
use crate::workload::Workload;
use crate::{go_duration, names};

pub mod retention;

/// For how long an error of the storage may be one that passes.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);

fn api(namespace: &str, context: &Context) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("snapshot.storage.k8s.io", "v1", "VolumeSnapshot");
    Api::namespaced_with(context.client.clone(), namespace, &ApiResource::from_gvk(&kind))
}

/// Returns the claims of a workload: those that its pods name, and those that are made for `replicas` of them.
pub fn claims(workload: &Workload, replicas: i32) -> Vec<String> {
    let volumes = workload.template.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let named = volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone()));
    let made = workload.claims.iter().flat_map(|template: &PersistentVolumeClaim| {
        let pods = workload.ordinals(replicas).map(|ordinal| workload.pod_name(ordinal));
        pods.map(move |pod| format!("{}-{pod}", template.name_any())).collect::<Vec<_>>()
    });
    named.chain(made).collect()
}

/// Returns the name of the VolumeSnapshot of a claim: the claim's, and what the session's ends in, as in Stash.
pub fn name(claim: &str, session: &str) -> String {
    let suffix = session.rsplit_once('-').map_or(session, |(_, suffix)| suffix);
    format!("{claim}-{suffix}")
}

/// Asks for the snapshot of a claim.
///
/// # Errors
///
/// It was not asked for.
pub async fn create(
    session: &BackupSession,
    invoker: &BackupConfiguration,
    claim: &str,
    context: &Context,
) -> Result<(), ExecutorError> {
    let namespace = session.namespace().unwrap_or_default();
    let name = name(claim, &session.name_any());
    let class = invoker.spec.target.as_ref().and_then(|target| target.snapshot_class_name.clone());
    let mut spec = json!({"source": {"persistentVolumeClaimName": claim}});
    // Without a class it is the default one; an empty name would be none.
    if let Some(class) = class.filter(|class| !class.is_empty()) {
        spec["volumeSnapshotClassName"] = json!(class);
    }
    let object = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {"name": name, "namespace": namespace, "labels": own_labels(invoker)}, "spec": spec
    });
    let object: DynamicObject =
        serde_json::from_value(object).map_err(|error| ReconcileError::Json("VolumeSnapshot", error))?;
    match api(&namespace, context).create(&Context::create_parameters(), &object).await {
        Ok(_) => Ok(()),
        Err(error) if is_already_exists(&error) => Ok(()),
        Err(error) if is_not_found(&error) => Err(ExecutorError::Impossible(
            "the cluster has no VolumeSnapshots (snapshot.storage.k8s.io/v1): its CSI snapshot controller is not installed".to_owned(),
        )),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
            Err(ExecutorError::Host(format!("Failed to create VolumeSnapshot {name}: {}", status.message)))
        }
        Err(error) => Err(ReconcileError::of(format!("create VolumeSnapshot {name}"), error).into()),
    }
}

/// Returns the labels of what a configuration makes: by them its retention finds what is its own.
fn own_labels(invoker: &BackupConfiguration) -> BTreeMap<String, String> {
    let mut made = names::backup_labels(None);
    made.insert(labels::INVOKER_TYPE_LABEL.to_owned(), "BackupConfiguration".to_owned());
    made.insert(labels::INVOKER_NAME_LABEL.to_owned(), names::cut63(&invoker.name_any()));
    made
}

/// Returns how far the snapshot of a claim is.
///
/// # Errors
///
/// The API server did not tell.
pub async fn work(
    session: &BackupSession,
    claim: &str,
    context: &Context,
) -> Result<Work<HostOutcome>, ReconcileError> {
    let namespace = session.namespace().unwrap_or_default();
    let name = name(claim, &session.name_any());
    match api(&namespace, context).get_opt(&name).await {
        Ok(Some(snapshot)) => Ok(progress(&snapshot, context.now())),
        Ok(None) => Ok(Work::Absent),
        // A cluster without the kind answers in another way than one without the object.
        Err(error) if is_not_found(&error) => Ok(Work::Absent),
        Err(error) => Err(ReconcileError::of(format!("look up VolumeSnapshot {name}"), error)),
    }
}

/// Tells how far a snapshot is. An error may pass: storage tries again.
fn progress(snapshot: &DynamicObject, now: Timestamp) -> Work<HostOutcome> {
    if snapshot.metadata.deletion_timestamp.is_some() {
        return Work::Absent;
    }
    let made = snapshot.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let took = now.duration_since(made);
    let status = snapshot.data.get("status").unwrap_or(&Value::Null);
    let mut outcome = HostOutcome::default();
    if status["readyToUse"] == true {
        let taken = status["creationTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok()).unwrap_or(made);
        let took = std::time::Duration::try_from(taken.duration_since(made)).unwrap_or_default();
        outcome.duration = Some(go_duration::format(took));
        return Work::Reported(outcome);
    }
    match status["error"]["message"].as_str() {
        Some(message) if took > PATIENCE => {
            outcome.error = Some(message.chars().take(1024).collect());
            Work::Reported(outcome)
        }
        _ => Work::Running,
    }
}

/// Deletes the snapshots of `claims` that `policy` does not keep, of those that this configuration made and that are complete.
///
/// # Errors
///
/// Some were not deleted.
pub async fn retain(
    session: &BackupSession,
    invoker: &BackupConfiguration,
    claims: &[String],
    policy: &RetentionPolicy,
    context: &Context,
) -> Result<(), ReconcileError> {
    let api = api(&session.namespace().unwrap_or_default(), context);
    let selector: Vec<String> = own_labels(invoker).iter().map(|(key, value)| format!("{key}={value}")).collect();
    let found = api.list(&ListParams::default().labels(&selector.join(","))).await;
    let found = found.map_err(|error| ReconcileError::of("list the VolumeSnapshots", error))?;
    for claim in claims {
        let own: Vec<&DynamicObject> = found.items.iter().filter(|snapshot| is_complete_of(snapshot, claim)).collect();
        let times: Vec<Timestamp> = own.iter().map(|snapshot| taken(snapshot)).collect();
        let kept = retention::kept(&times, policy);
        for (snapshot, _) in own.iter().zip(kept).filter(|(_, kept)| !kept && !policy.dry_run) {
            let name = snapshot.name_any();
            match api.delete(&name, &DeleteParams::default()).await {
                Err(error) if !is_not_found(&error) => {
                    return Err(ReconcileError::of(format!("delete VolumeSnapshot {name}"), error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_complete_of(snapshot: &DynamicObject, claim: &str) -> bool {
    let source = snapshot.data.pointer("/spec/source/persistentVolumeClaimName");
    let ready = snapshot.data.pointer("/status/readyToUse");
    source.is_some_and(|source| source == claim)
        && ready.is_some_and(|ready| *ready == true)
        && snapshot.metadata.deletion_timestamp.is_none()
}

fn taken(snapshot: &DynamicObject) -> Timestamp {
    let told = snapshot.data.pointer("/status/creationTime").and_then(Value::as_str);
    let made = snapshot.metadata.creation_timestamp.as_ref().map(|time| time.0);
    told.and_then(|time| time.parse().ok()).or(made).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;

    use super::*;

    #[test]
    fn test_claims_of_a_workload() {
        let set: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {
            "selector": {}, "serviceName": "db", "volumeClaimTemplates": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}],
            "template": {"spec": {"containers": [], "volumes": [
                {"name": "tmp", "emptyDir": {}}, {"name": "shared", "persistentVolumeClaim": {"claimName": "common"}}
            ]}}
        }}))
        .unwrap();
        assert_eq!(claims(&set.into(), 2), ["common", "a-db-0", "a-db-1", "b-db-0", "b-db-1"]);
        assert_eq!(name("data", "nightly-1700000000"), "data-1700000000");
        assert_eq!(name("data", "byhand"), "data-byhand");
    }

    #[test]
    fn test_how_far_a_snapshot_is() {
        let of = |status: Value, minutes: i64| {
            let snapshot: DynamicObject = serde_json::from_value(json!({
                "metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": status
            }))
            .unwrap();
            let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            progress(&snapshot, now.checked_add(SignedDuration::from_mins(minutes)).unwrap())
        };
        let error = json!({"readyToUse": false, "error": {"message": "no such class"}});
        assert_eq!(of(Value::Null, 500), Work::Running);
        assert_eq!(of(json!({"readyToUse": false}), 500), Work::Running);
        assert_eq!(of(error.clone(), 1), Work::Running);
        let failed = HostOutcome { error: Some("no such class".to_owned()), ..HostOutcome::default() };
        assert_eq!(of(error, 11), Work::Reported(failed));
        let ready = of(json!({"readyToUse": true, "creationTime": "2026-01-01T00:00:02Z"}), 1);
        let done = HostOutcome { duration: Some("2s".to_owned()), ..HostOutcome::default() };
        assert_eq!(ready, Work::Reported(done));
    }
}
