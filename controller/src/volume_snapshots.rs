//! `driver: VolumeSnapshotter`: a VolumeSnapshot of each claim, which the cluster's storage makes and keeps.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use stash_crds::retention::RetentionPolicy;
use stash_crds::{BackupConfiguration, BackupSession, names as labels};

use crate::backup_session::outcome::{HostOutcome, Work};
use crate::context::Context;
use crate::errors::{ReconcileError, is_already_exists, is_not_found};
use crate::executor::{ExecutorError, not_taken};
use crate::jobs::SESSION_UID_ANNOTATION;
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

/// Returns the names that the snapshot of a claim may have: that in Stash, and another one where somebody has that. Sessions of two
/// configurations that fall due in the same second have the same end.
fn names_of(claim: &str, session: &BackupSession) -> [String; 2] {
    let name = name(claim, &session.name_any());
    let other = format!("{name}-{}", names::short_hash(&session.uid().unwrap_or_default()));
    [name, other]
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
    let class = invoker.spec.target.as_ref().and_then(|target| target.snapshot_class_name.clone());
    let mut spec = json!({"source": {"persistentVolumeClaimName": claim}});
    // Without a class it is the default one; an empty name would be none.
    if let Some(class) = class.filter(|class| !class.is_empty()) {
        spec["volumeSnapshotClassName"] = json!(class);
    }
    let annotations = json!({SESSION_UID_ANNOTATION: session.uid().unwrap_or_default()});
    let labels = own_labels(&invoker.name_any());
    let object = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {"namespace": namespace, "labels": labels, "annotations": annotations}, "spec": spec
    });
    let mut object: DynamicObject =
        serde_json::from_value(object).map_err(|error| ReconcileError::Json("VolumeSnapshot", error))?;
    let (api, names) = (api(&namespace, context), names_of(claim, session));
    for name in &names {
        object.metadata.name = Some(name.clone());
        match api.create(&Context::create_parameters(), &object).await {
            Ok(_) => return Ok(()),
            Err(error) if is_already_exists(&error) => {
                let found = api.get(name).await;
                let found =
                    found.map_err(|error| ReconcileError::of(format!("look up VolumeSnapshot {name}"), error))?;
                if is_of(&found, session) {
                    return Ok(());
                }
            }
            Err(error) if is_not_found(&error) => {
                return Err(ExecutorError::Impossible(
                    "the cluster has no VolumeSnapshots (snapshot.storage.k8s.io/v1): its CSI snapshot controller is not installed".to_owned(),
                ));
            }
            Err(error) => return Err(not_taken(&format!("create VolumeSnapshot {name}"), error, ExecutorError::Host)),
        }
    }
    Err(ExecutorError::Host(foreign(&names)))
}

/// Whether a snapshot of a name that ours may have is of `session`.
fn is_of(snapshot: &DynamicObject, session: &BackupSession) -> bool {
    if let Some(uid) = snapshot.annotations().get(SESSION_UID_ANNOTATION) {
        return session.metadata.uid.as_ref() == Some(uid);
    }
    // Controllers before this annotation made it without: then it is of the same configuration, and not older than its session.
    let own = own_labels(&session.spec.invoker.name);
    let made = |metadata: &ObjectMeta| metadata.creation_timestamp.as_ref().map(|time| time.0);
    own.iter().all(|(key, value)| snapshot.labels().get(key) == Some(value))
        && made(&snapshot.metadata).is_some_and(|time| Some(time) >= made(&session.metadata))
}

/// Says that the names of a snapshot are taken.
fn foreign([name, other]: &[String; 2]) -> String {
    format!("VolumeSnapshots {name} and {other} exist already and are not of this session; delete one of them")
}

/// Returns the labels of what a configuration makes: by them its retention finds what is its own.
fn own_labels(invoker: &str) -> BTreeMap<String, String> {
    let mut made = names::backup_labels(None);
    made.insert(labels::INVOKER_TYPE_LABEL.to_owned(), "BackupConfiguration".to_owned());
    made.insert(labels::INVOKER_NAME_LABEL.to_owned(), names::cut63(invoker));
    made
}

/// Returns whether there is a snapshot of this name.
///
/// # Errors
///
/// The API server did not tell.
pub async fn exists(namespace: &str, name: &str, context: &Context) -> Result<bool, ReconcileError> {
    match api(namespace, context).get_opt(name).await {
        Ok(found) => Ok(found.is_some()),
        // The cluster does not have the kind.
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(ReconcileError::of(format!("look up VolumeSnapshot {name}"), error)),
    }
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
    let api = api(&namespace, context);
    for name in names_of(claim, session) {
        match api.get_opt(&name).await {
            Ok(Some(snapshot)) if is_of(&snapshot, session) => return Ok(progress(&snapshot, context.now())),
            Ok(_) => {}
            // A cluster without the kind answers in another way than one without the object.
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(ReconcileError::of(format!("look up VolumeSnapshot {name}"), error)),
        }
    }
    Ok(Work::Absent)
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
    let selector: Vec<String> =
        own_labels(&invoker.name_any()).iter().map(|(key, value)| format!("{key}={value}")).collect();
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

    fn session() -> BackupSession {
        serde_json::from_value(json!({
            "metadata": {"name": "nightly-5", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"invoker": {"kind": "BackupConfiguration", "name": "nightly"}}
        }))
        .unwrap()
    }

    #[test]
    fn test_a_snapshot_of_another_session_is_not_taken_for_its_own() {
        let (own, others) = (json!(own_labels("nightly")), json!(own_labels("weekly")));
        let (before, after) = ("2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z");
        for (what, uid, labels, made, expected) in [
            ("its own", json!("u"), &own, after, true),
            ("of an earlier session of the name", json!("before"), &own, after, false),
            ("without a uid", json!(""), &own, after, false),
            ("made before there was the annotation", Value::Null, &own, after, true),
            ("old", Value::Null, &own, before, false),
            ("of another configuration", Value::Null, &others, after, false),
            ("by hand", Value::Null, &Value::Null, after, false),
        ] {
            let annotations = if uid.is_null() { Value::Null } else { json!({SESSION_UID_ANNOTATION: uid}) };
            let snapshot: DynamicObject = serde_json::from_value(json!({
                "metadata": {"name": "data-5", "creationTimestamp": made, "labels": labels, "annotations": annotations},
                "status": {"readyToUse": true}
            }))
            .unwrap();
            assert_eq!(is_of(&snapshot, &session()), expected, "{what}");
        }
    }

    #[test]
    fn test_sessions_that_end_alike_have_names_of_their_own() {
        let [name, other] = names_of("data", &session());
        assert_eq!(name, "data-5", "Stash's");
        let twin =
            BackupSession { metadata: ObjectMeta { uid: Some("v".to_owned()), ..session().metadata }, ..session() };
        let [same, different] = names_of("data", &twin);
        assert_eq!(same, name);
        assert!(other.starts_with("data-5-") && different.starts_with("data-5-") && other != different);
        assert!(foreign(&[name, other.clone()]).contains(&other));
    }

    #[test]
    fn test_how_far_a_snapshot_is() {
        let of = |status: Value, minutes: i64| {
            let snapshot: DynamicObject = serde_json::from_value(json!({
                "metadata": {
                    "name": "s", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {SESSION_UID_ANNOTATION: "u"}
                },
                "status": status
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
