//! Whatever etcd holds is read: one odd object must not stop the list of its kind.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stash_crds::backup_configuration::InvokerPhase;
use stash_crds::target::{Driver, ExecutionOrder};
use stash_crds::{
    AppBinding, BackupBatch, BackupBlueprint, BackupConfiguration, BackupSession, Function, Repository, RestoreBatch,
    RestoreSession, Snapshot, Task,
};

fn objects() -> Vec<Value> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/odd/objects.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn all<T: DeserializeOwned>(kind: &str) -> Vec<T> {
    let found: Vec<T> = objects()
        .into_iter()
        .filter(|object| object["kind"] == kind)
        .map(|object| serde_json::from_value(object.clone()).unwrap_or_else(|e| panic!("{e}: {object}")))
        .collect();
    assert!(found.len() >= 2, "{kind}");
    found
}

fn named<T: DeserializeOwned + ResourceExt>(kind: &str, name: &str) -> T {
    all::<T>(kind).into_iter().find(|object| object.name_any() == name).unwrap()
}

#[test]
fn test_every_kind_is_read() {
    all::<Repository>("Repository");
    all::<BackupConfiguration>("BackupConfiguration");
    all::<BackupSession>("BackupSession");
    all::<BackupBatch>("BackupBatch");
    all::<BackupBlueprint>("BackupBlueprint");
    all::<RestoreSession>("RestoreSession");
    all::<RestoreBatch>("RestoreBatch");
    all::<Function>("Function");
    all::<Task>("Task");
    all::<AppBinding>("AppBinding");
    all::<Snapshot>("Snapshot");
}

#[test]
fn test_an_absent_spec_is_an_empty_one() {
    let repository: Repository = named("Repository", "no-spec");
    assert_eq!(repository.spec, stash_crds::RepositorySpec::default());
    let configuration: BackupConfiguration = named("BackupConfiguration", "no-spec");
    assert_eq!(configuration.spec.driver, Driver::Restic);
    let batch: BackupBatch = named("BackupBatch", "no-spec");
    assert_eq!(batch.spec.execution_order, ExecutionOrder::Parallel);
}

#[test]
fn test_what_makes_sense_is_kept() {
    let repository: Repository = named("Repository", "old-status");
    let status = repository.status.unwrap();
    assert_eq!((status.observed_generation, status.last_backup_time, status.integrity), (None, None, None));
    assert_eq!(status.references.len(), 1);
    assert_eq!(repository.spec.backend.gcs.unwrap().max_connections, Some(i64::MAX));

    let configuration: BackupConfiguration = named("BackupConfiguration", "odd");
    assert_eq!(configuration.spec.driver, Driver::Other("Velero".to_owned()));
    assert_eq!(configuration.spec.backup_history_limit, Some(i32::MAX));
    assert_eq!(configuration.spec.retention_policy.keep_last, None);
    let size = configuration.spec.temp_dir.unwrap().size_limit.unwrap();
    assert_eq!(size.0, "1073741824");
    let status = configuration.status.unwrap();
    assert_eq!(status.phase, Some(InvokerPhase::Other("Perplexed".to_owned())));
    assert_eq!(status.conditions.len(), 1);

    let session: BackupSession = named("BackupSession", "odd");
    let status = session.status.unwrap();
    assert_eq!(status.phase.unwrap().as_str(), "5");
    assert_eq!(status.targets.len(), 1);
    assert_eq!(status.targets[0].post_backup_actions, ["ApplyRetentionPolicy"]);
    assert_eq!(status.targets[0].stats[0].snapshots.len(), 1);
}

#[test]
fn test_a_port_is_a_number_or_a_name() {
    let hook: stash_crds::hooks::Hook = serde_json::from_value(json!({"httpGet": {"port": "http"}})).unwrap();
    assert_eq!(hook.http_get.unwrap().port, IntOrString::String("http".to_owned()));
    let hook: stash_crds::hooks::PostBackupHook =
        serde_json::from_value(json!({"httpPost": {"port": 8080, "body": "b"}})).unwrap();
    assert_eq!(hook.hook.http_post.unwrap().target.port, IntOrString::Int(8080));
}
