//! Restores with the driver VolumeSnapshotter: the claims of `volumeClaimTemplates` name VolumeSnapshots, and the cluster's storage fills them.
//! Pure.
//!
//! As in Stash each claim is a host. No Repository is read and no Job runs; a host is restored when its claim is bound.

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;
use stash_crds::RestoreSession;
use stash_crds::target::Driver;

use super::plan::Host;
use super::report::HostOutcome;
use super::{attach, claims};
use crate::backup_session::outcome::Work;

/// The kind that claims name.
const KIND: &str = "VolumeSnapshot";
/// Its API group.
const GROUP: &str = "snapshot.storage.k8s.io";
/// How long a claim may take to be bound. Stash's.
const LIMIT: Duration = Duration::from_hours(2);

/// Whether a session restores VolumeSnapshots.
pub fn is_wanted(session: &RestoreSession) -> bool {
    session.spec.driver == Driver::VolumeSnapshotter
}

/// Whether hosts are restored by their claims alone, without a Job.
pub fn is_by_claims(session: &RestoreSession) -> bool {
    is_wanted(session) || attach::is_wanted(session)
}

/// Returns what a session asks for that VolumeSnapshots cannot do, a sentence each.
pub fn problems(session: &RestoreSession) -> Vec<String> {
    if !is_wanted(session) {
        return Vec::new();
    }
    let mut problems = Vec::new();
    if attach::is_wanted(session) {
        problems.push("spec.strategy: with the driver VolumeSnapshotter the cluster's storage fills claims".to_owned());
    }
    let target = session.spec.target.clone().unwrap_or_default();
    if target.volume_claim_templates.is_empty() {
        problems.push(
            "spec.target.volumeClaimTemplates: the driver VolumeSnapshotter makes claims: they say which, and of which VolumeSnapshots"
                .to_owned(),
        );
    }
    let templates = claims::claims(session, Some(0)).unwrap_or_default();
    for (index, template) in templates.iter().enumerate().filter(|(_, template)| source(template).is_none()) {
        problems.push(format!(
            "spec.target.volumeClaimTemplates[{index}]: the spec of {} names no VolumeSnapshot in dataSource",
            template.name_any()
        ));
    }
    problems
}

/// Returns the VolumeSnapshot of which a claim is.
pub fn source(claim: &PersistentVolumeClaim) -> Option<&str> {
    let spec = claim.spec.as_ref()?;
    let plain = spec.data_source.as_ref().map(|source| (&source.api_group, &source.kind, &source.name));
    let of_any = || spec.data_source_ref.as_ref().map(|source| (&source.api_group, &source.kind, &source.name));
    let (group, kind, name) = plain.or_else(of_any)?;
    (kind == KIND && group.as_deref() == Some(GROUP)).then_some(name)
}

/// Returns the hosts of a session: its claims.
pub fn hosts(session: &RestoreSession) -> Vec<Host> {
    let replicas = session.spec.target.as_ref().and_then(|target| target.replicas);
    let ordinals: Vec<Option<usize>> = match replicas {
        Some(replicas) => (0..usize::try_from(replicas).unwrap_or(0)).map(Some).collect(),
        None => vec![None],
    };
    let made = ordinals.into_iter().flat_map(|ordinal| {
        let claims = claims::claims(session, ordinal).unwrap_or_default();
        claims.into_iter().map(move |claim| {
            let name = claim.name_any();
            Host { job: name.clone(), name, ordinal, part: None }
        })
    });
    made.collect()
}

/// Returns the claims of a host.
///
/// # Errors
///
/// A sentence for the user: a template is none.
pub fn of_host(session: &RestoreSession, host: &Host) -> Result<Vec<PersistentVolumeClaim>, String> {
    let mut claims = claims::claims(session, host.ordinal)?;
    if is_wanted(session) {
        claims.retain(|claim| claim.name_any() == host.name);
    }
    Ok(claims)
}

/// Says of a claim that is not bound whether that can be waited for: `took` is how long it has been there, `class` is its StorageClass.
pub fn waits(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, took: Duration) -> Work<HostOutcome> {
    let name = claim.name_any();
    let of_class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
    let failed = |why: String| Work::Reported(HostOutcome { error: Some(why), ..HostOutcome::default() });
    match class {
        None if !of_class.is_empty() => {
            failed(format!("StorageClass {of_class} of PersistentVolumeClaim {name} does not exist"))
        }
        Some(class) if class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer") => {
            let why = format!("StorageClass {of_class} binds PersistentVolumeClaim {name} when its first pod comes");
            Work::Reported(HostOutcome { error: Some(why), is_unknown: true, ..HostOutcome::default() })
        }
        _ if took > LIMIT => failed(format!("PersistentVolumeClaim {name} was not bound within 2 hours")),
        _ => Work::Running,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn template(name: &str, source: Value) -> Value {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "dataSource": source}})
    }

    fn snapshot(name: &str) -> Value {
        json!({"apiGroup": GROUP, "kind": KIND, "name": name})
    }

    fn session(more: Value, target: Value) -> RestoreSession {
        let mut spec = json!({"driver": "VolumeSnapshotter", "target": target});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let metadata = json!({"name": "r", "namespace": "shop", "uid": "u"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn test_each_claim_is_a_host() {
        let templates = ["data-db-${POD_ORDINAL}", "logs-db-${POD_ORDINAL}"]
            .map(|name| template(name, snapshot(&format!("{name}-1"))));
        let session = session(json!({}), json!({"replicas": 2, "volumeClaimTemplates": templates}));
        assert_eq!(problems(&session), Vec::<String>::new());
        let hosts = hosts(&session);
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["data-db-0", "logs-db-0", "data-db-1", "logs-db-1"]);
        let claims = of_host(&session, &hosts[3]).unwrap();
        assert_eq!((claims.len(), source(&claims[0])), (1, Some("logs-db-1-1")));
    }

    #[test]
    fn test_what_cannot_be_done_is_named() {
        let one = |source| json!({"volumeClaimTemplates": [template("data", source)]});
        for (more, target, expected) in [
            (json!({}), one(snapshot("s")), ""),
            (json!({"driver": "Restic"}), json!({}), ""),
            (json!({"strategy": "Attach"}), one(snapshot("s")), "spec.strategy: with the driver VolumeSnapshotter"),
            (json!({}), json!({}), "spec.target.volumeClaimTemplates: the driver"),
            (json!({}), one(Value::Null), "spec.target.volumeClaimTemplates[0]: the spec of data names no"),
            (
                json!({}),
                one(json!({"apiGroup": "repositories.stash.appscode.com", "kind": "Snapshot", "name": "s"})),
                "spec.target.volumeClaimTemplates[0]: the spec of data names no",
            ),
        ] {
            let found = problems(&session(more.clone(), target.clone()));
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{more} {target}: {found:?}");
            assert!(found.iter().all(|problem| problem.starts_with(expected)), "{more} {target}: {found:?}");
        }
    }

    #[test]
    fn test_what_is_waited_for() {
        let session = session(json!({}), json!({"volumeClaimTemplates": [template("data", snapshot("s"))]}));
        let claim = &claims::claims(&session, None).unwrap()[0];
        let class = |mode: &str| -> StorageClass {
            serde_json::from_value(json!({"metadata": {"name": "fast"}, "provisioner": "p", "volumeBindingMode": mode}))
                .unwrap()
        };
        let told = |class: Option<&StorageClass>, seconds| match waits(claim, class, Duration::from_secs(seconds)) {
            Work::Reported(outcome) => (outcome.is_unknown, outcome.error.unwrap_or_default()),
            other => (false, format!("{other:?}")),
        };
        let late = 2 * 3600 + 1;
        for (class, seconds, unknown, expected) in [
            (Some(class("Immediate")), 5, false, "Running"),
            (Some(class("Immediate")), late, false, "PersistentVolumeClaim data was not bound within 2 hours"),
            (
                Some(class("WaitForFirstConsumer")),
                0,
                true,
                "StorageClass fast binds PersistentVolumeClaim data when its first pod comes",
            ),
            (None, 0, false, "StorageClass fast of PersistentVolumeClaim data does not exist"),
        ] {
            assert_eq!(told(class.as_ref(), seconds), (unknown, expected.to_owned()));
        }
    }
}
