//! What a Job is told, from the objects of the API. Pure.

use stash_crds::runtime_settings::RuntimeSettings;
use stash_crds::target::Rule;
use stash_crds::{Backend, BackupConfiguration, Repository, RestoreSession};
use stash_proto::job::{
    BackupTask, IoNice, JobSpec, JobTask, MaintainTask, RepositoryAccess, RestoreSource, RestoreTask, Retention,
    VERSION,
};

use crate::jobs::WORKLOAD_ROOT;
use crate::repository::backend::BackendProblem;
use crate::repository::location::{Settings, location, settings};

/// Why a Job cannot be told what to do.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The repository has no address.
    #[error(transparent)]
    Backend(#[from] BackendProblem),
    /// The Job would not take it.
    #[error("the Job would not take its spec: {0}")]
    Refused(#[from] stash_proto::job::SpecError),
    /// It cannot be written.
    #[error("the Job's spec cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Returns what the Job that backs up `host` is told.
///
/// # Errors
///
/// The repository has no address, or the objects ask for what a Job refuses.
pub fn backup(
    repository: &Repository,
    invoker: &BackupConfiguration,
    host: &str,
    paths: Vec<String>,
    initialize: bool,
) -> Result<Vec<u8>, SpecError> {
    let target = invoker.spec.target.clone().unwrap_or_default();
    let (nice, ionice) = priority(invoker.spec.runtime_settings.as_ref());
    let task = BackupTask {
        host: host.to_owned(),
        paths,
        exclude: target.exclude,
        args: target.args,
        initialize,
        nice,
        ionice,
        root: Some(WORKLOAD_ROOT.to_owned()),
        cache: !invoker.spec.temp_dir.as_ref().is_some_and(|temp_dir| temp_dir.disable_caching),
        ..BackupTask::default()
    };
    write(repository, JobTask::Backup(task))
}

/// Returns nice and ionice, as the user says them.
fn priority(runtime: Option<&RuntimeSettings>) -> (Option<i32>, Option<IoNice>) {
    let container = runtime.and_then(|runtime| runtime.container.as_ref());
    let ionice = container.and_then(|container| container.ionice.as_ref());
    let ionice = ionice.and_then(|ionice| Some(IoNice { class: ionice.class?, class_data: ionice.class_data }));
    (container.and_then(|container| container.nice.as_ref()).and_then(|nice| nice.adjustment), ionice)
}

/// Returns what the Job that restores `sources` by `rule` is told; `mounts` are where the target has its volumes. Of what it mounts
/// it is told no repository.
///
/// # Errors
///
/// The repository has no address, or the objects ask for what a Job refuses.
pub fn restore(
    repository: &Repository,
    session: &RestoreSession,
    rule: &Rule,
    sources: Vec<RestoreSource>,
    mounts: Vec<String>,
) -> Result<JobSpec, SpecError> {
    let (nice, ionice) = priority(session.spec.runtime_settings.as_ref());
    let task = RestoreTask {
        sources,
        include: rule.include.clone(),
        exclude: rule.exclude.clone(),
        args: session.spec.target.as_ref().map(|target| target.args.clone()).unwrap_or_default(),
        mounts,
        root: Some(WORKLOAD_ROOT.to_owned()),
        nice,
        ionice,
        cache: !session.spec.temp_dir.as_ref().is_some_and(|temp_dir| temp_dir.disable_caching),
    };
    let place = if task.is_mounted() { RepositoryAccess::default() } else { access(&repository.spec.backend)? };
    checked(place, JobTask::Restore(task))
}

/// Returns what the Job that looks after the repository is told.
///
/// # Errors
///
/// The repository has no address.
pub fn upkeep(repository: &Repository, invoker: &BackupConfiguration) -> Result<Vec<u8>, SpecError> {
    let policy = &invoker.spec.retention_policy;
    let keep = |number: Option<i64>| u32::try_from(number.unwrap_or(0).max(0)).unwrap_or(u32::MAX);
    let retention = Retention {
        keep_last: keep(policy.keep_last),
        keep_hourly: keep(policy.keep_hourly),
        keep_daily: keep(policy.keep_daily),
        keep_weekly: keep(policy.keep_weekly),
        keep_monthly: keep(policy.keep_monthly),
        keep_yearly: keep(policy.keep_yearly),
        keep_tags: policy.keep_tags.clone(),
        prune: policy.prune,
        dry_run: policy.dry_run,
    };
    let task = MaintainTask { forget: Some(retention), check: true, stats: true, ..MaintainTask::default() };
    write(repository, JobTask::Maintain(task))
}

fn write(repository: &Repository, task: JobTask) -> Result<Vec<u8>, SpecError> {
    text(&checked(access(&repository.spec.backend)?, task)?)
}

fn checked(repository: RepositoryAccess, task: JobTask) -> Result<JobSpec, SpecError> {
    let spec = JobSpec { version: VERSION, repository, dead_hosts: Vec::new(), task };
    spec.check()?;
    Ok(spec)
}

/// Returns what a Job is told as it reads it.
///
/// # Errors
///
/// It cannot be written.
pub fn text(spec: &JobSpec) -> Result<Vec<u8>, SpecError> {
    Ok(serde_json::to_vec(spec)?)
}

/// Returns what the Job that forgets snapshots is told.
///
/// # Errors
///
/// The repository has no address.
pub fn forget(repository: &Repository, snapshots: Vec<String>) -> Result<Vec<u8>, SpecError> {
    write(repository, JobTask::Maintain(MaintainTask { forget_snapshots: snapshots, ..MaintainTask::default() }))
}

/// Returns what the Job that removes the repository is told.
///
/// # Errors
///
/// The repository has no address.
pub fn wipe_out(repository: &Repository) -> Result<Vec<u8>, SpecError> {
    write(repository, JobTask::Maintain(MaintainTask { wipe_out: true, ..MaintainTask::default() }))
}

/// Returns where a repository is, and how it is reached, but for credentials.
///
/// # Errors
///
/// There is not exactly one backend.
pub fn access(backend: &Backend) -> Result<RepositoryAccess, BackendProblem> {
    let Settings { options, environment, insecure_tls } = settings(backend);
    Ok(RepositoryAccess { address: location(backend)?, options, insecure_tls, environment })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn repository(backend: Value) -> Repository {
        serde_json::from_value(json!({"metadata": {}, "spec": {"backend": backend}})).unwrap()
    }

    #[test]
    fn test_a_job_is_told_what_the_objects_say() {
        let s3 = json!({"s3": {"endpoint": "http://minio:9000", "bucket": "b", "region": "eu", "insecureTLS": true}});
        let repository = repository(s3);
        let invoker: BackupConfiguration = serde_json::from_value(json!({"metadata": {}, "spec": {
            "target": {"exclude": ["*.tmp"], "args": ["--ignore-inode"]},
            "runtimeSettings": {"container": {"nice": {"adjustment": 5}, "ionice": {"class": 2, "classData": 4}}},
            "tempDir": {"disableCaching": true},
            "retentionPolicy": {"name": "p", "keepLast": 5, "keepDaily": -1, "keepTags": ["a"], "prune": true}
        }}))
        .unwrap();
        let read = |bytes: Vec<u8>| -> Value { serde_json::from_slice(&bytes).unwrap() };
        let place = json!({
            "address": "s3:http://minio:9000/b", "insecureTls": true, "environment": {"AWS_DEFAULT_REGION": "eu"}
        });
        let bytes = backup(&repository, &invoker, "host-0", vec!["/stash-data".to_owned()], true).unwrap();
        assert!(JobSpec::parse(&bytes).is_ok());
        assert_eq!(
            read(bytes),
            json!({"version": 1, "repository": place, "task": {"backup": {
                "host": "host-0", "paths": ["/stash-data"], "exclude": ["*.tmp"], "args": ["--ignore-inode"],
                "initialize": true, "root": "/workload", "nice": 5, "ionice": {"class": 2, "classData": 4}
            }}})
        );
        assert_eq!(
            read(upkeep(&repository, &invoker).unwrap()),
            json!({"version": 1, "repository": place, "task": {"maintain": {
                "forget": {"keepLast": 5, "keepTags": ["a"], "prune": true}, "check": true, "stats": true
            }}})
        );
        assert!(backup(&repository, &invoker, "host-0", vec!["data".to_owned()], true).is_err());
        let id = "0a".repeat(32);
        let told = read(forget(&repository, vec![id.clone()]).unwrap());
        assert_eq!(told["task"], json!({"maintain": {"forgetSnapshots": [id]}}));
        assert!(forget(&repository, vec!["latest".to_owned()]).is_err());
        assert_eq!(read(wipe_out(&repository).unwrap())["task"], json!({"maintain": {"wipeOut": true}}));
    }

    #[test]
    fn test_who_mounts_snapshots_is_told_no_repository() {
        let repository = repository(json!({"s3": {"endpoint": "minio", "bucket": "b"}}));
        let session: RestoreSession = serde_json::from_value(json!({"metadata": {}, "spec": {}})).unwrap();
        let told = |sources| -> Value {
            let spec = restore(&repository, &session, &Rule::default(), sources, vec!["/data".to_owned()]).unwrap();
            let bytes = text(&spec).unwrap();
            assert!(JobSpec::parse(&bytes).is_ok());
            serde_json::from_slice(&bytes).unwrap()
        };
        let (snapshot, root) = ("0a".repeat(32), "/snapshot/0".to_owned());
        let mounted = RestoreSource::Mounted { snapshot, root, paths: vec!["/data".to_owned()] };
        assert_eq!(told(vec![mounted]).get("repository"), None);
        let named = RestoreSource::Snapshot("0a1b2c3d".to_owned());
        assert_eq!(told(vec![named])["repository"], json!({"address": "s3:minio/b"}));
    }

    #[test]
    fn test_connections_are_an_option_of_the_backend() {
        let access = access(&repository(json!({"gcs": {"bucket": "b", "maxConnections": 7}})).spec.backend).unwrap();
        assert_eq!(access.options, BTreeMap::from([("gs.connections".to_owned(), "7".to_owned())]));
        let none =
            super::access(&repository(json!({"azure": {"container": "c", "maxConnections": 0}})).spec.backend).unwrap();
        assert_eq!(none.options, BTreeMap::new());
    }

    #[test]
    fn test_all_keys_of_a_secret_that_are_handed_out_are_read() {
        for provider in ["s3", "gcs", "azure", "swift", "b2", "rest", "local"] {
            let mut keys = crate::repository::backend::secret_keys(provider);
            assert!(keys.all(stash_proto::job::secret::is_read), "{provider}");
        }
    }
}
