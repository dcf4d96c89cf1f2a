//! The figures that Stash pushes, under both families of its names: read from the objects when somebody asks, so that a controller that
//! is started again has them at once. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt as _;
use stash_crds::backup_session::{BackupSessionPhase, BackupTargetStatus, HostBackupPhase, HostBackupStats};
use stash_crds::{BackupConfiguration, BackupSession, Repository};

use super::exposition::{Exposition, Labels};
use crate::backup_session::history;
use crate::repository::{backend, location};
use crate::stores::repository_ref;
use crate::{go_duration, units};

/// Collects the figures of configurations and their last sessions.
pub(super) fn sessions(
    configurations: &[Arc<BackupConfiguration>],
    mut of: impl FnMut(&BackupConfiguration) -> Vec<Arc<BackupSession>>,
    all: &mut Exposition,
) {
    for configuration in configurations {
        let mut sessions = of(configuration);
        sessions.sort_by(|a, b| history::by_age(b, a));
        let phase = |session: &BackupSession| history::phase(session).cloned();
        // The history keeps the last for a while, and the status remembers it.
        let remembered = configuration.status.as_ref().and_then(|status| status.last_backup_time.as_ref());
        let last = history::last_success(sessions.iter().map(|session| &**session));
        let last = last.max(remembered.map(|time| time.0));
        let ended = sessions
            .iter()
            .find(|session| matches!(phase(session), Some(BackupSessionPhase::Succeeded | BackupSessionPhase::Failed)));
        if let Some(session) = ended {
            session_figures(configuration, session, last, all);
        }
    }
}

/// The name of Stash's pushed figures, old and new.
pub(super) fn both(all: &mut Exposition, new: &str, old: &str, help: &'static str, labels: &Labels<'_>, value: f64) {
    all.gauge(&format!("stash_appscode_com_{new}"), help, labels, value);
    all.gauge(&format!("stash_{old}"), help, labels, value);
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn float(number: i64) -> f64 {
    number as f64
}

pub(super) fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn session_figures(
    configuration: &BackupConfiguration,
    session: &BackupSession,
    last_success: Option<Timestamp>,
    all: &mut Exposition,
) {
    let repository = repository_ref(configuration).map(|reference| reference.name).unwrap_or_default();
    let labels: Labels<'_> = vec![
        ("invoker_kind", "BackupConfiguration".to_owned()),
        ("invoker_name", configuration.name_any()),
        ("namespace", configuration.namespace().unwrap_or_default()),
        ("driver", configuration.spec.driver.to_string()),
        ("repository", repository),
    ];
    let status = session.status.clone().unwrap_or_default();
    let success = status.phase == Some(BackupSessionPhase::Succeeded);
    both(
        all,
        "backupsession_success",
        "backup_session_success",
        "Whether the last session succeeded.",
        &labels,
        truth(success),
    );
    if success {
        let seconds = status.session_duration.as_deref().and_then(|text| go_duration::parse(text).ok());
        if let Some(seconds) = seconds {
            let help = "How long the last session took.";
            let value = seconds.as_secs_f64();
            both(all, "backupsession_duration_seconds", "backup_session_duration_seconds", help, &labels, value);
        }
        let (help, count) = (
            "How many targets the last session had.",
            f64::from(u32::try_from(status.targets.len()).unwrap_or(u32::MAX)),
        );
        both(all, "backupsession_target_count_total", "backup_target_count_total", help, &labels, count);
    }
    if let Some(time) = last_success {
        let (help, value) = ("When a session succeeded last.", float(time.as_second()));
        both(all, "backupsession_last_success_time_seconds", "backup_last_success_time_seconds", help, &labels, value);
    }
    for target in &status.targets {
        target_figures(target, &labels, last_success, all);
    }
}

fn target_figures(
    target: &BackupTargetStatus,
    labels: &Labels<'_>,
    last_success: Option<Timestamp>,
    all: &mut Exposition,
) {
    let reference = target.reference.clone().unwrap_or_default();
    let version = reference.api_version.unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group).to_owned();
    let mut labels = labels.clone();
    labels.extend([
        ("kind", reference.kind.unwrap_or_default()),
        ("group", group),
        ("name", reference.name.unwrap_or_default()),
    ]);
    let success = target.phase == Some(stash_crds::backup_session::BackupTargetPhase::Succeeded);
    let help = "Whether the target was backed up.";
    both(all, "backupsession_target_success", "backup_target_success", help, &labels, truth(success));
    if success {
        let (help, count) = ("How many hosts the target has.", f64::from(target.total_hosts.unwrap_or(0)));
        both(all, "backupsession_target_host_count_total", "backup_target_host_count_total", help, &labels, count);
        if let Some(time) = last_success {
            let (help, value) = ("When the target was backed up last.", float(time.as_second()));
            let (new, old) =
                ("backupsession_target_last_success_time_seconds", "backup_target_last_success_time_seconds");
            both(all, new, old, help, &labels, value);
        }
    }
    for stats in &target.stats {
        host_figures(stats, &labels, all);
    }
}

fn host_figures(stats: &HostBackupStats, labels: &Labels<'_>, all: &mut Exposition) {
    let mut labels = labels.clone();
    labels.push(("hostname", stats.hostname.clone().unwrap_or_default()));
    let success = stats.phase == Some(HostBackupPhase::Succeeded);
    let mut said = |what: &str, help: &'static str, value: f64| {
        both(all, &format!("backupsession_host_{what}"), &format!("backup_host_{what}"), help, &labels, value);
    };
    said("backup_success", "Whether the host was backed up.", truth(success));
    if !success {
        return;
    }
    if let Some(duration) = stats.duration.as_deref().and_then(|text| go_duration::parse(text).ok()) {
        said("backup_duration_seconds", "How long the backup of the host took.", duration.as_secs_f64());
    }
    let sum = |value: fn(&stash_crds::backup_session::SnapshotStats) -> Option<f64>| -> f64 {
        stats.snapshots.iter().filter_map(value).sum()
    };
    let files = |value: fn(&stash_crds::backup_session::FileStats) -> Option<i64>| -> f64 {
        stats.snapshots.iter().filter_map(|snapshot| value(snapshot.file_stats.as_ref()?)).map(float).sum()
    };
    said("data_size_bytes", "How much the host holds.", sum(|s| units::bytes(s.total_size.as_deref()?)));
    said("data_uploaded_bytes", "How much of it was new.", sum(|s| units::bytes(s.uploaded.as_deref()?)));
    let seconds = sum(|s| units::seconds(s.processing_time.as_deref()?));
    said("data_processing_time_seconds", "How long reading and storing took.", seconds);
    said("files_total", "How many files the host has.", files(|files| files.total_files));
    said("files_new", "How many of them are new.", files(|files| files.new_files));
    said("files_modified", "How many of them were changed.", files(|files| files.modified_files));
    said("files_unmodified", "How many of them were not.", files(|files| files.unmodified_files));
}

/// Collects the figures of a Repository.
pub(super) fn repository(repository: &Repository, all: &mut Exposition) {
    let Some(status) = &repository.status else { return };
    let spec = &repository.spec.backend;
    let place = location::place(spec);
    let labels: Labels<'_> = vec![
        ("name", repository.name_any()),
        ("namespace", repository.namespace().unwrap_or_default()),
        ("backend", backend::provider(spec).unwrap_or_default().to_owned()),
        ("bucket", place.0),
        ("prefix", place.1),
    ];
    let mut said = |what: &str, help: &'static str, value: Option<f64>| {
        if let Some(value) = value {
            both(all, &format!("repository_{what}"), &format!("repository_{what}"), help, &labels, value);
        }
    };
    said("integrity", "Whether the last check found nothing wrong.", status.integrity.map(truth));
    said("size_bytes", "How much is stored.", status.total_size.as_deref().and_then(units::bytes));
    said("snapshot_count", "How many snapshots there are.", status.snapshot_count.map(float));
    said(
        "snapshot_cleaned",
        "How many the last retention removed.",
        status.snapshots_removed_on_last_cleanup.map(float),
    );
}

/// Collects what Stash's exporter of states shows of a configuration.
pub(super) fn configuration(configuration: &BackupConfiguration, all: &mut Exposition) {
    let labels: Labels<'_> = vec![
        ("namespace", configuration.namespace().unwrap_or_default()),
        ("backupconfiguration", configuration.name_any()),
    ];
    let (new, old) = ("backupconfiguration_created", "backupconfiguration_created");
    if let Some(time) = &configuration.metadata.creation_timestamp {
        both(all, new, old, "When the BackupConfiguration was made.", &labels, float(time.0.as_second()));
    }
    let target = configuration.spec.target.as_ref().and_then(|target| target.reference.clone()).unwrap_or_default();
    let mut info = labels.clone();
    info.extend([
        ("driver", configuration.spec.driver.to_string()),
        ("repository", repository_ref(configuration).map(|reference| reference.name).unwrap_or_default()),
        ("schedule", configuration.spec.schedule.clone().unwrap_or_default()),
        ("target_api_version", target.api_version.unwrap_or_default()),
        ("target_kind", target.kind.unwrap_or_default()),
        ("target_name", target.name.unwrap_or_default()),
    ]);
    let name = "backupconfiguration_info";
    both(all, name, name, "What the BackupConfiguration says.", &info, 1.0);
    let name = "backupconfiguration_conditions";
    for condition in configuration.status.iter().flat_map(|status| &status.conditions) {
        for status in ["True", "False", "Unknown"] {
            let mut labels = labels.clone();
            labels.extend([("condition", condition.type_.clone()), ("status", status.to_owned())]);
            let is = truth(condition.status == status);
            both(all, name, name, "The conditions of the BackupConfiguration.", &labels, is);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;

    fn objects() -> (Arc<BackupConfiguration>, Arc<BackupSession>) {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        let configuration = json!({
            "metadata": {"name": "nightly", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"driver": "Restic", "repository": {"name": "r"}, "target": {"ref": target}, "schedule": "@daily"},
            "status": {"conditions": [{"type": "RepositoryFound", "status": "True"}]}
        });
        let files = json!({"totalFiles": 9, "newFiles": 2, "modifiedFiles": 3, "unmodifiedFiles": 4});
        let snapshot = json!({
            "name": "ab", "path": "/a", "totalSize": "1.500 KiB", "uploaded": "10 B", "processingTime": "1:01", "fileStats": files
        });
        let stats = json!([
            {"hostname": "host-0", "phase": "Succeeded", "duration": "1.5s", "snapshots": [snapshot, snapshot]},
        ]);
        let session = json!({
            "metadata": {"name": "nightly-1", "namespace": "shop", "creationTimestamp": "2026-01-02T00:00:00Z"},
            "spec": {"invoker": {"kind": "BackupConfiguration", "name": "nightly"}},
            "status": {"phase": "Succeeded", "sessionDuration": "1m5s", "targets": [
                {"ref": target, "totalHosts": 1, "phase": "Succeeded", "stats": stats}
            ]}
        });
        (Arc::new(serde_json::from_value(configuration).unwrap()), Arc::new(serde_json::from_value(session).unwrap()))
    }

    fn text(configuration: Arc<BackupConfiguration>, sessions_are: &[Arc<BackupSession>]) -> String {
        let (mut all, mut text) = (Exposition::default(), String::new());
        sessions(&[configuration], |_| sessions_are.to_vec(), &mut all);
        all.write(&mut text);
        text
    }

    #[test]
    fn test_figures_of_a_session_have_both_of_stashs_names() {
        let (configuration, session) = objects();
        let said = text(configuration, &[session]);
        let session = "invoker_kind=\"BackupConfiguration\",invoker_name=\"nightly\",namespace=\"shop\",driver=\"Restic\",repository=\"r\"";
        let target = format!("{session},kind=\"Deployment\",group=\"apps\",name=\"web\"");
        let host = format!("{target},hostname=\"host-0\"");
        for (name, labels, value) in [
            ("backupsession_success", session, "1"),
            ("backupsession_duration_seconds", session, "65"),
            ("backupsession_target_count_total", session, "1"),
            ("backupsession_last_success_time_seconds", session, "1767312065"),
            ("backupsession_target_success", &target, "1"),
            ("backupsession_target_host_count_total", &target, "1"),
            ("backupsession_host_backup_duration_seconds", &host, "1.5"),
            ("backupsession_host_data_size_bytes", &host, "3072"),
            ("backupsession_host_data_uploaded_bytes", &host, "20"),
            ("backupsession_host_data_processing_time_seconds", &host, "122"),
            ("backupsession_host_files_total", &host, "18"),
            ("backupsession_host_files_unmodified", &host, "8"),
        ] {
            let line = format!("stash_appscode_com_{name}{{{labels}}} {value}\n");
            assert!(said.contains(&line), "{line}{said}");
        }
        for old in [
            "stash_backup_session_success",
            "stash_backup_target_count_total",
            "stash_backup_last_success_time_seconds",
            "stash_backup_target_success",
            "stash_backup_host_backup_success",
            "stash_backup_host_files_modified",
        ] {
            assert!(said.contains(&format!("\n{old}{{")), "{old}");
        }
    }

    #[test]
    fn test_of_a_failure_only_that_is_said_and_when_it_went_well_last() {
        let (configuration, session) = objects();
        let (mut configuration, mut failed) = ((*configuration).clone(), (*session).clone());
        // The session that succeeded is gone; the configuration remembers it.
        let status = configuration.status.as_mut().unwrap();
        status.last_backup_time = Some(Time("2026-01-02T00:00:00Z".parse().unwrap()));
        let status = failed.status.as_mut().unwrap();
        status.phase = Some(BackupSessionPhase::Failed);
        status.targets[0].stats[0].phase = Some(HostBackupPhase::Failed);
        let said = text(Arc::new(configuration), &[Arc::new(failed)]);
        assert!(said.contains("stash_backup_session_success{") && !said.contains("session_duration_seconds"), "{said}");
        assert!(said.contains("repository=\"r\"} 1767312000"), "{said}");
        assert!(!said.contains("host_data_size_bytes"), "{said}");
    }

    #[test]
    fn test_figures_of_repositories_and_configurations() {
        let s3 = json!({"endpoint": "s3.example", "bucket": "b", "prefix": "/p/"});
        let object: Repository = serde_json::from_value(json!({
            "metadata": {"name": "r", "namespace": "shop"}, "spec": {"backend": {"s3": s3}},
            "status": {"integrity": true, "totalSize": "2.000 MiB", "snapshotCount": 5, "snapshotsRemovedOnLastCleanup": 1}
        }))
        .unwrap();
        let (mut all, mut said) = (Exposition::default(), String::new());
        repository(&object, &mut all);
        configuration(&objects().0, &mut all);
        all.write(&mut said);
        let labels = "name=\"r\",namespace=\"shop\",backend=\"s3\",bucket=\"b\",prefix=\"p\"";
        for (name, value) in
            [("integrity", "1"), ("size_bytes", "2097152"), ("snapshot_count", "5"), ("snapshot_cleaned", "1")]
        {
            assert!(said.contains(&format!("\nstash_repository_{name}{{{labels}}} {value}\n")), "{name}: {said}");
            assert!(
                said.contains(&format!("\nstash_appscode_com_repository_{name}{{{labels}}} {value}\n")),
                "{name}: {said}"
            );
        }
        assert!(said.contains("condition=\"RepositoryFound\",status=\"True\"} 1\n"), "{said}");
        assert!(said.contains("target_kind=\"Deployment\",target_name=\"web\"} 1\n"), "{said}");
    }
}
