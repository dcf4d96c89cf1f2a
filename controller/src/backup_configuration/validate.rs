//! What a BackupConfiguration asks for that cannot be done: found before anything runs, and named.

use k8s_openapi::api::core::v1::VolumeMount;
use stash_crds::BackupConfiguration;
use stash_crds::reference::TargetRef;
use stash_crds::target::Driver;
pub use stash_crds::usage_policy::may_use;

use stash_proto::job::args;

use crate::executor::is_plain_path;
use crate::repository::backend::AddressRule;
use crate::{go_duration, hooks};

/// What is backed up, once it is known to be something that can be. It is in the configuration's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What it is.
    pub kind: TargetKind,
    /// Its name.
    pub name: String,
}

/// A kind of which backups can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A PersistentVolumeClaim: one host.
    Claim,
    /// A Deployment: one host, which one of its pods stands for.
    Deployment,
    /// A StatefulSet: a host for each replica.
    StatefulSet,
    /// A DaemonSet: a host for each node that has a pod of it.
    DaemonSet,
    /// A ReplicaSet: one host.
    ReplicaSet,
    /// A ReplicationController: one host.
    ReplicationController,
}

impl std::fmt::Display for TargetKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Claim => "PersistentVolumeClaim",
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::ReplicationController => "ReplicationController",
        })
    }
}

/// Returns what is backed up.
///
/// # Errors
///
/// A sentence for the user: which field asks for what cannot be done.
pub fn target(configuration: &BackupConfiguration) -> Result<Target, String> {
    let reference = configuration.spec.target.as_ref().and_then(|target| target.reference.as_ref());
    let Some(reference) = reference else {
        return Err("spec.target.ref is needed: backups without a target are not supported yet".to_owned());
    };
    let own = configuration.metadata.namespace.as_deref().unwrap_or_default();
    named(reference, own, "backed up from")
}

/// Returns what `reference` names, in the namespace `own`. What is done with it is said in messages: "backed up from", "restored in".
///
/// # Errors
///
/// A sentence for the user: which field asks for what cannot be done.
pub fn named(reference: &TargetRef, own: &str, done: &str) -> Result<Target, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (version, kind, name) = (text(&reference.api_version), text(&reference.kind), text(&reference.name));
    if name.is_empty() {
        return Err("spec.target.ref.name is needed".to_owned());
    }
    if reference.namespace.as_deref().is_some_and(|namespace| !namespace.is_empty() && namespace != own) {
        return Err(format!("spec.target.ref.namespace must be {own}: a {kind} is {done} its own namespace"));
    }
    let found = match (version.as_str(), kind.as_str()) {
        ("v1", "PersistentVolumeClaim") => TargetKind::Claim,
        ("apps/v1", "Deployment") => TargetKind::Deployment,
        ("apps/v1", "StatefulSet") => TargetKind::StatefulSet,
        ("apps/v1", "DaemonSet") => TargetKind::DaemonSet,
        ("apps/v1", "ReplicaSet") => TargetKind::ReplicaSet,
        ("v1", "ReplicationController") => TargetKind::ReplicationController,
        _ => {
            let known = "v1 PersistentVolumeClaim and ReplicationController, apps/v1 Deployment, StatefulSet, DaemonSet and ReplicaSet are";
            return Err(format!("spec.target.ref: {version} {kind} is not supported yet; {known}"));
        }
    };
    Ok(Target { kind: found, name })
}

/// Returns what is wrong with the volumeMounts of a target, a sentence each.
pub fn mount_problems(mounts: &[VolumeMount]) -> Vec<String> {
    let place = "spec.target.volumeMounts";
    let mut problems = Vec::new();
    for wanted in mounts {
        if !is_plain_path(&wanted.mount_path) {
            problems.push(format!("{place}: the mountPath {:?} is no absolute path without ..", wanted.mount_path));
        }
        if wanted.sub_path_expr.as_ref().is_some_and(|expression| !expression.is_empty()) {
            problems.push(format!(
                "{place}: subPathExpr of {} is not supported: it needs the pod's own environment",
                wanted.name
            ));
        }
    }
    problems
}

/// Returns what is asked for and cannot be done, a sentence each.
pub fn problems(configuration: &BackupConfiguration, addresses: &AddressRule) -> Vec<String> {
    let spec = &configuration.spec;
    let mut problems = Vec::new();
    if !matches!(spec.driver, Driver::Restic | Driver::VolumeSnapshotter) {
        problems.push(format!("spec.driver: {} is not known; Restic and VolumeSnapshotter are", spec.driver));
    }
    match target(configuration) {
        Err(problem) => problems.push(problem),
        Ok(Target { kind: TargetKind::Claim, .. }) => {}
        Ok(_) if spec.driver == Driver::VolumeSnapshotter => {}
        Ok(_) => {
            let target = spec.target.clone().unwrap_or_default();
            if target.paths.is_empty() || target.volume_mounts.is_empty() {
                problems.push("spec.target: of a workload, paths and volumeMounts say what is backed up".to_owned());
            }
        }
    }
    let task = spec.task.as_ref().and_then(|task| task.name.as_deref()).unwrap_or_default();
    if !task.is_empty() && task != "pvc-backup" {
        problems.push(format!("spec.task.name: the task {task} is not supported yet"));
    }
    problems.extend(hooks::problems(configuration, addresses));
    if spec.interim_volume_template.is_some() {
        problems.push("spec.interimVolumeTemplate is not supported yet".to_owned());
    }
    let target = spec.target.clone().unwrap_or_default();
    if let Some(path) = target.paths.iter().find(|path| !path.starts_with('/')) {
        problems.push(format!("spec.target.paths: {path:?} is not an absolute path"));
    }
    problems.extend(mount_problems(&target.volume_mounts));
    if let Err(refused) = args::parse(&target.args) {
        problems.push(format!("spec.target.args: {refused}"));
    }
    let durations = [
        ("spec.timeOut", spec.time_out.as_deref()),
        ("spec.retryConfig.delay", spec.retry_config.as_ref().and_then(|retry| retry.delay.as_deref())),
    ];
    for (field, text) in durations {
        if let Some(Err(problem)) = text.map(go_duration::parse) {
            problems.push(format!("{field}: {problem}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn configuration(spec: Value) -> BackupConfiguration {
        serde_json::from_value(json!({
            "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupConfiguration",
            "metadata": {"name": "c", "namespace": "shop"}, "spec": spec
        }))
        .unwrap()
    }

    fn claim(more: Value) -> Value {
        let mut spec =
            json!({"target": {"ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data"}}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    }

    fn with_target(more: Value) -> Value {
        let mut spec = claim(json!({}));
        for (key, value) in more.as_object().unwrap() {
            spec["target"][key] = value.clone();
        }
        spec
    }

    #[test]
    fn test_what_cannot_be_done_is_named() {
        assert_eq!(
            target(&configuration(claim(json!({})))),
            Ok(Target { kind: TargetKind::Claim, name: "data".to_owned() })
        );
        for (spec, expected) in [
            (claim(json!({})), ""),
            (
                claim(
                    json!({"task": {"name": "pvc-backup"}, "hooks": {}, "timeOut": "1h", "retryConfig": {"delay": "2m"}}),
                ),
                "",
            ),
            (json!({}), "spec.target.ref is needed"),
            (
                json!({"target": {"ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}}}),
                "spec.target.ref.name is needed",
            ),
            (
                json!({"target": {"ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "a", "namespace": "b"}}}),
                "spec.target.ref.namespace must be shop",
            ),
            (
                json!({"target": {"ref": {"apiVersion": "batch/v1", "kind": "CronJob", "name": "a"}}}),
                "spec.target.ref: batch/v1 CronJob is not supported",
            ),
            (
                json!({"target": {"ref": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}}}),
                "spec.target: of a workload, paths",
            ),
            (
                json!({"target": {"ref": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "a"}, "paths": ["/data"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}}),
                "",
            ),
            (claim(json!({"driver": "VolumeSnapshotter"})), ""),
            (claim(json!({"driver": "Tapes"})), "spec.driver: Tapes is not known"),
            (
                json!({"driver": "VolumeSnapshotter", "target": {"ref": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}}}),
                "",
            ),
            (claim(json!({"task": {"name": "postgres-backup-14.0"}})), "spec.task.name: the task postgres-backup-14.0"),
            (claim(json!({"hooks": {"preBackup": {"exec": {"command": ["a"]}}}})), ""),
            (claim(json!({"hooks": {"preBackup": {"exec": {}}}})), "spec.hooks.preBackup: exec.command: "),
            (claim(json!({"interimVolumeTemplate": {}})), "spec.interimVolumeTemplate"),
            (with_target(json!({"paths": ["/data", "logs"]})), "spec.target.paths: \"logs\" is not"),
            (
                with_target(json!({"volumeMounts": [{"name": "a", "mountPath": "/a/../b"}]})),
                "spec.target.volumeMounts: the mountPath",
            ),
            (
                with_target(json!({"volumeMounts": [{"name": "a", "mountPath": "/a", "subPathExpr": "$(X)"}]})),
                "spec.target.volumeMounts: subPathExpr of a",
            ),
            (with_target(json!({"args": ["--stdin"]})), "spec.target.args: --stdin: "),
            (with_target(json!({"args": ["--ignore-inode"]})), ""),
            (claim(json!({"timeOut": "5 days"})), "spec.timeOut: \"5 days\" is no duration"),
            (claim(json!({"retryConfig": {"delay": "-1s"}})), "spec.retryConfig.delay: \"-1s\" is negative"),
        ] {
            let found = problems(&configuration(spec.clone()), &AddressRule::default());
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{spec}: {found:?}");
            assert!(found.iter().all(|problem| problem.starts_with(expected)), "{spec}: {found:?}");
        }
    }
}
