//! Backups: one now, and whether a schedule is kept.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use stash_crds::backup_configuration::InvokerPhase;
use stash_crds::backup_session::{
    BackupInvokerRef, BackupSessionPhase, BackupSessionSpec, BackupSessionStatus, HostBackupPhase,
};
use stash_crds::conditions::FALSE;
use stash_crds::labels::session_labels;
use stash_crds::names::GROUP;
use stash_crds::{BackupConfiguration, BackupSession};
use stash_fs::cli::output::show_name;
use stash_fs::cli::{CliError, CliResult, Exit};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::args::ClusterArgs;
use crate::block_on;
use crate::cluster::{Cluster, ask};

/// Who writes, as managed fields show it.
const WRITER: &str = "kubectl-stash";
/// How often a session is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// When it is said that nobody takes a session up.
const IDLE: Duration = Duration::from_secs(15);

/// Lets the schedule of a BackupConfiguration rest, or keeps it again.
///
/// # Errors
///
/// There is none, or it must not be changed.
pub(crate) fn pause(options: &ClusterArgs, name: &str, paused: bool) -> CliResult<u8> {
    block_on(async {
        let cluster = Cluster::connect(options).await?;
        let (api, found) = configuration(&cluster, name).await?;
        let state = if paused { "paused" } else { "resumed" };
        if found.spec.paused == paused {
            println!("backupconfiguration/{name} is {state} already");
            return Ok(Exit::Success as u8);
        }
        let parameters = PatchParams { field_manager: Some(WRITER.to_owned()), ..PatchParams::default() };
        let change = Patch::Merge(json!({"spec": {"paused": paused}}));
        let what = format!("change the BackupConfiguration {}/{name}", cluster.namespace);
        ask(&what, api.patch(name, &parameters, &change)).await?;
        println!("backupconfiguration/{name} {state}");
        Ok(Exit::Success as u8)
    })
}

/// Starts a backup; with `wait` follows it to its end.
///
/// # Errors
///
/// There is no such BackupConfiguration, or no session may be made. That the backup failed is the exit code 1.
pub(crate) fn trigger(options: &ClusterArgs, name: &str, wait: bool) -> CliResult<u8> {
    block_on(async {
        let cluster = Cluster::connect(options).await?;
        let (_, found) = configuration(&cluster, name).await?;
        let phase = found.status.as_ref().and_then(|status| status.phase.clone());
        if phase.is_some_and(|phase| phase != InvokerPhase::Ready) {
            eprintln!(
                "kubectl stash: the BackupConfiguration {name} is not ready: the session will be skipped; \
                 `kubectl describe backupconfiguration -n {} {name}` says why",
                cluster.namespace
            );
        }
        let sessions = Api::<BackupSession>::namespaced(cluster.client.clone(), &cluster.namespace);
        let parameters = PostParams { field_manager: Some(WRITER.to_owned()), ..PostParams::default() };
        let what = format!("create a BackupSession in {}", cluster.namespace);
        let made = ask(&what, sessions.create(&parameters, &session(&found))).await?;
        let session = made.metadata.name.unwrap_or_default();
        println!("backupsession/{session} created");
        if wait { follow(&cluster, &sessions, &session).await } else { Ok(Exit::Success as u8) }
    })
}

async fn configuration(cluster: &Cluster, name: &str) -> CliResult<(Api<BackupConfiguration>, BackupConfiguration)> {
    let namespace = &cluster.namespace;
    let api = Api::<BackupConfiguration>::namespaced(cluster.client.clone(), namespace);
    let found = ask(&format!("get the BackupConfiguration {namespace}/{name}"), api.get_opt(name)).await?;
    let found = found.ok_or_else(|| {
        CliError::failure(format!("there is no BackupConfiguration {namespace}/{name}"))
            .hint(format!("`kubectl get backupconfigurations -n {namespace}` lists what there is"))
    })?;
    Ok((api, found))
}

/// Returns a session of a configuration: as the controller makes them, but with a name that the API server completes. It is not tried
/// again, as in Stash.
fn session(configuration: &BackupConfiguration) -> BackupSession {
    let metadata = &configuration.metadata;
    let (name, namespace) = (metadata.name.clone().unwrap_or_default(), metadata.namespace.clone().unwrap_or_default());
    let target = configuration.spec.target.as_ref().and_then(|target| target.reference.clone()).unwrap_or_default();
    BackupSession {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            labels: Some(session_labels(metadata.labels.as_ref(), &name, &target, &namespace)),
            owner_references: Some(configuration.controller_owner_ref(&()).into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: BackupSessionSpec {
            invoker: BackupInvokerRef {
                api_group: Some(GROUP.to_owned()),
                kind: "BackupConfiguration".to_owned(),
                name,
            },
            retry_left: Some(0),
        },
        status: None,
    }
}

/// Follows a session to its end.
async fn follow(cluster: &Cluster, sessions: &Api<BackupSession>, name: &str) -> CliResult<u8> {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = BTreeSet::new();
    let idle = Instant::now() + IDLE;
    let mut is_idle = true;
    loop {
        looks.tick().await;
        let what = format!("get the BackupSession {}/{name}", cluster.namespace);
        let found = ask(&what, sessions.get_opt(name)).await?;
        let Some(found) = found else {
            return Err(CliError::failure(format!("the BackupSession {}/{name} was deleted", cluster.namespace)));
        };
        let status = found.status.unwrap_or_default();
        for line in lines(&status) {
            if said.insert(line.clone()) {
                println!("{line}");
            }
        }
        if is_idle && status.phase.is_none() && Instant::now() >= idle {
            is_idle = false;
            eprintln!("kubectl stash: nobody has taken the session up yet; does stash-controller run?");
        }
        match status.phase {
            Some(BackupSessionPhase::Succeeded) => return Ok(Exit::Success as u8),
            Some(BackupSessionPhase::Failed | BackupSessionPhase::Skipped) => {
                return Err(CliError::failure(format!("the BackupSession {name} did not succeed"))
                    .hint(format!("`kubectl describe backupsession -n {} {name}` says all", cluster.namespace)));
            }
            _ => {}
        }
    }
}

/// Returns what can be said of a session so far; what was said before stays the same.
fn lines(status: &BackupSessionStatus) -> Vec<String> {
    let mut lines = Vec::new();
    for target in &status.targets {
        let reference = target.reference.clone().unwrap_or_default();
        let named = [reference.kind, reference.name].into_iter().flatten().collect::<Vec<_>>().join("/");
        if let Some(total) = target.total_hosts {
            lines.push(format!("{named}: {total} hosts"));
        }
        for host in &target.stats {
            let hostname = host.hostname.as_deref().unwrap_or_default();
            match &host.phase {
                Some(HostBackupPhase::Succeeded) => {
                    let snapshots =
                        host.snapshots.iter().filter_map(|one| Some(one.name.as_deref()?.get(..8)?.to_owned()));
                    let snapshots: Vec<String> = snapshots.collect();
                    let took = host.duration.as_deref().unwrap_or_default();
                    lines.push(format!("{named}: {hostname}: Succeeded in {took}: {}", snapshots.join(" ")));
                }
                Some(_) => {
                    lines.push(format!("{named}: {hostname}: Failed: {}", host.error.as_deref().unwrap_or_default()));
                }
                None => {}
            }
        }
    }
    let failures = status.conditions.iter().chain(status.targets.iter().flat_map(|target| &target.conditions));
    for condition in failures.filter(|condition| condition.status == FALSE) {
        let message = condition.message.as_deref().or(condition.reason.as_deref()).unwrap_or_default();
        lines.push(format!("{}: {message}", condition.type_));
    }
    match &status.phase {
        Some(BackupSessionPhase::Skipped) => {
            let skipped = status.conditions.iter().find(|one| one.type_ == stash_crds::conditions::BACKUP_SKIPPED);
            let why = skipped.and_then(|one| one.message.clone()).unwrap_or_default();
            lines.push(format!("Skipped: {why}"));
        }
        Some(phase) => lines.push(match &status.session_duration {
            Some(took) if *phase != BackupSessionPhase::Running => format!("{phase} in {took}"),
            _ => phase.to_string(),
        }),
        None => {}
    }
    lines.iter().map(|line| show_name(line.as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn test_what_is_said_of_a_session() {
        let target =
            |stats: Value| json!([{"ref": {"kind": "StatefulSet", "name": "db"}, "totalHosts": 2, "stats": stats}]);
        let done = json!([{"hostname": "db-0", "phase": "Succeeded", "duration": "2s", "snapshots": [{"name": "0a1b2c3d4e"}]}]);
        let failed = json!([{"hostname": "db-1", "phase": "Failed", "error": "no\nroom"}]);
        let skipped =
            json!([{"type": "BackupSkipped", "status": "True", "message": "another runs", "lastTransitionTime": null}]);
        let odd = json!([{"type": "RetentionPolicyApplied", "status": "False", "message": "locked", "lastTransitionTime": null}]);
        for (status, expected) in [
            (json!({}), &[][..]),
            (json!({"phase": "Pending"}), &["Pending"]),
            (json!({"phase": "Running", "targets": target(json!([]))}), &["StatefulSet/db: 2 hosts", "Running"]),
            (
                json!({"phase": "Running", "targets": target(done)}),
                &["StatefulSet/db: 2 hosts", "StatefulSet/db: db-0: Succeeded in 2s: 0a1b2c3d", "Running"],
            ),
            (
                json!({"phase": "Failed", "sessionDuration": "3s", "targets": target(failed)}),
                &["StatefulSet/db: 2 hosts", "StatefulSet/db: db-1: Failed: no\\nroom", "Failed in 3s"],
            ),
            (json!({"phase": "Skipped", "conditions": skipped}), &["Skipped: another runs"]),
            (
                json!({"phase": "Succeeded", "sessionDuration": "3s", "conditions": odd}),
                &["RetentionPolicyApplied: locked", "Succeeded in 3s"],
            ),
        ] {
            let status: BackupSessionStatus = serde_json::from_value(status).unwrap();
            assert_eq!(lines(&status), expected);
        }
    }

    #[test]
    fn test_a_session_is_as_the_controllers_own() {
        let configuration: BackupConfiguration = serde_json::from_value(json!({
            "metadata": {"name": "nightly", "namespace": "shop", "uid": "u", "labels": {"team": "a"}},
            "spec": {"target": {"ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data"}}},
        }))
        .unwrap();
        let made = serde_json::to_value(session(&configuration)).unwrap();
        assert_eq!(made["metadata"]["generateName"], "nightly-");
        assert_eq!(made["metadata"]["labels"]["team"], "a");
        assert_eq!(made["metadata"]["labels"]["stash.appscode.com/invoker-name"], "nightly");
        assert_eq!(made["metadata"]["labels"]["stash.appscode.com/target-namespace"], "shop");
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u");
        let invoker = json!({"apiGroup": "stash.appscode.com", "kind": "BackupConfiguration", "name": "nightly"});
        assert_eq!(made["spec"], json!({"invoker": invoker, "retryLeft": 0}));
    }
}
