//! Jobs on a real S3 server: with the Secret's keys alone, and when it gives no answer.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use stash_proto::job::{BackupTask, ErrorCode, JobTask, MaintainTask, Retention};
use stash_repo::backend::{ConnectOptions, LocalBackend, Location, connect};
use stash_repo::{Backend, BackendError, BackendErrorKind, FileKind, Id};
use stash_tests::fixture::pattern;
use stash_tests::mounted::{clean, wait_for};
use stash_tests::servers::{Minio, Toxiproxy};
use tokio::runtime::Runtime;

use super::{Files, sources};

pub(super) const PASSWORD: &str = "geheimes wort";

pub(super) fn files(address: &str, environment: &BTreeMap<String, String>, task: JobTask) -> Files {
    let files = Files::new(address, task, &[("RESTIC_PASSWORD", PASSWORD)]);
    environment.iter().for_each(|(key, value)| files.set(key, value));
    files
}

pub(super) fn backup(path: &std::path::Path) -> JobTask {
    let paths = vec![path.to_str().unwrap().to_owned()];
    JobTask::Backup(BackupTask { host: "host-0".to_owned(), paths, initialize: true, ..BackupTask::default() })
}

pub(super) fn restic(minio: &Minio, address: &str, arguments: &[&str]) -> String {
    let mut command = clean(Command::new("restic"));
    command.args(["--no-cache", "--repo", address]).args(arguments).env("RESTIC_PASSWORD", PASSWORD);
    stash_tests::fixture::run(command.envs(minio.environment()))
}

pub(super) fn backend(runtime: &Runtime, minio: &Minio, address: &str) -> Arc<dyn Backend> {
    let options = ConnectOptions { environment: minio.environment(), ..ConnectOptions::default() };
    runtime.block_on(connect(&Location::parse(address).unwrap(), &options)).unwrap()
}

#[test]
fn test_the_secrets_keys_reach_the_store_and_no_output() {
    let minio = Minio::start();
    minio.create_bucket("bucket");
    let (_folder, one, _) = sources();
    let address = minio.repository("bucket", "a/b");
    let environment = minio.environment();
    let job = files(&address, &environment, backup(&one));
    let ended = job.run();
    assert!(ended.backup().initialized);
    let snapshots: serde_json::Value =
        serde_json::from_str(&restic(&minio, &address, &["snapshots", "--json"])).unwrap();
    assert_eq!(
        (&snapshots[0]["id"], &snapshots[0]["hostname"]),
        (&json!(ended.backup().snapshots[0].id), &json!("host-0"))
    );
    let retention = Retention { keep_last: 1, prune: true, ..Retention::default() };
    let task = MaintainTask { forget: Some(retention), check: true, stats: true, ..MaintainTask::default() };
    let maintained = files(&address, &environment, JobTask::Maintain(task)).run();
    assert_eq!(maintained.code, 0, "{}", maintained.said);
    restic(&minio, &address, &["check", "--read-data"]);

    // With everything said that there is to say, and with keys that are refused.
    let mut command = job.command();
    let loud = job.ended(&command.args(["-vvv"]).output().unwrap());
    let wrong = files(&address, &environment, backup(&one));
    wrong.set("AWS_SECRET_ACCESS_KEY", "falscher-schluessel");
    let refused = wrong.ended(&wrong.command().arg("-vvv").output().unwrap());
    assert_eq!(refused.error(), Some(ErrorCode::Denied), "{}", refused.message());
    let secrets = environment.values().map(String::as_str).chain([PASSWORD, "falscher-schluessel"]);
    // The id of a key is no secret: it stands in every request's signature.
    for secret in secrets.filter(|secret| *secret != environment["AWS_ACCESS_KEY_ID"]) {
        for said in [&ended.said, &maintained.said, &loud.said, &refused.said] {
            assert!(!said.contains(secret), "{secret} in {said}");
        }
    }
}

#[test]
fn test_two_that_make_a_repository_at_once_end_up_with_one() {
    let minio = Minio::start();
    minio.create_bucket("bucket");
    let (_folder, one, _) = sources();
    for round in 0..4 {
        let address = minio.repository("bucket", &format!("r{round}"));
        let jobs: Vec<_> = (0..3).map(|_| files(&address, &minio.environment(), backup(&one))).collect();
        let spawn = |job: &Files| job.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let children: Vec<_> = jobs.iter().map(spawn).collect();
        let ended: Vec<_> =
            jobs.iter().zip(children).map(|(job, child)| job.ended(&child.wait_with_output().unwrap())).collect();
        let made = ended.iter().filter(|ended| ended.backup().initialized).count();
        assert_eq!(made, 1, "{}", ended.iter().map(|ended| ended.said.as_str()).collect::<String>());
        let keys = restic(&minio, &address, &["key", "list", "--json"]);
        let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
        assert_eq!(keys.as_array().unwrap().len(), 1, "{keys}");
        let snapshots = restic(&minio, &address, &["snapshots", "--json"]);
        let snapshots: serde_json::Value = serde_json::from_str(&snapshots).unwrap();
        assert_eq!(snapshots.as_array().unwrap().len(), 3);
        restic(&minio, &address, &["check", "--read-data"]);
    }
}

#[test]
fn test_two_that_write_a_config_at_once_are_told_apart_by_the_store() {
    let (minio, runtime, folder) = (Minio::start(), Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    minio.create_bucket("bucket");
    let local: Arc<dyn Backend> = Arc::new(LocalBackend::new(folder.path()));
    runtime.block_on(local.create()).unwrap();
    for store in [backend(&runtime, &minio, &minio.repository("bucket", "a")), local] {
        let writes = (0..8).map(|number| {
            let store = store.clone();
            async move { store.write_new(FileKind::Config, &Id::default(), format!("config {number}").into()).await }
        });
        let written = runtime.block_on(futures::future::join_all(writes));
        let (won, lost): (Vec<_>, Vec<_>) = written.into_iter().enumerate().partition(|(_, written)| written.is_ok());
        assert_eq!(won.len(), 1, "{lost:?}");
        let conflict = |error: &(usize, Result<(), BackendError>)| {
            error.1.as_ref().is_err_and(|error| error.kind == BackendErrorKind::Conflict)
        };
        assert!(lost.iter().all(conflict), "{lost:?}");
        let found = runtime.block_on(store.read_full(FileKind::Config, &Id::default(), 100)).unwrap();
        assert_eq!(found, format!("config {}", won[0].0));
    }
}

#[test]
fn test_a_store_that_may_be_read_only_denies() {
    let minio = Minio::start();
    minio.create_bucket("bucket");
    let (_folder, one, _) = sources();
    let address = minio.repository("bucket", "a");
    files(&address, &minio.environment(), backup(&one)).run().backup();
    let reader = minio.list_and_get_environment("bucket");
    let ended = files(&address, &reader, backup(&one)).run();
    assert_eq!(ended.error(), Some(ErrorCode::Denied), "{}", ended.message());
    assert!(!ended.message().contains("<Error>") && ended.backup_so_far().snapshots.is_empty());
}

#[test]
fn test_a_signal_ends_a_backup_though_the_store_stalls() {
    let (minio, toxiproxy) = (Minio::start(), Toxiproxy::start());
    minio.create_bucket("bucket");
    let proxy = toxiproxy.proxy(minio.address());
    let direct = minio.repository("bucket", "a");
    let (_folder, one, _) = sources();
    files(&direct, &minio.environment(), backup(&one)).run().backup();
    fs::write(one.join("large"), pattern(200 << 20, 7)).unwrap();
    let runtime = Runtime::new().unwrap();
    let store = backend(&runtime, &minio, &direct);
    let count = |kind| runtime.block_on(store.list(kind)).unwrap().len();
    let before = count(FileKind::Pack);

    let job = files(&Minio::repository_at(proxy.address(), "bucket", "a"), &minio.environment(), backup(&one));
    let child = job.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the first pack", || (count(FileKind::Pack) > before).then_some(()));
    assert_eq!(count(FileKind::Lock), 1);
    // Nothing that the server says comes through any more.
    proxy.add("timeout", json!({ "timeout": 0 }));
    let stopped = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    proxy.remove("timeout");
    let output = child.wait_with_output().unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(15), "{:?}", stopped.elapsed());
    let ended = job.ended(&output);
    assert_eq!((ended.code, ended.error()), (1, Some(ErrorCode::Disrupted)), "{}", ended.said);
    assert!(ended.backup_so_far().snapshots.is_empty());
    assert_eq!((count(FileKind::Snapshot), count(FileKind::Lock)), (1, 0), "{}", ended.said);

    // What was stored until then is whole, and the next backup goes on with it.
    files(&direct, &minio.environment(), backup(&one)).run().backup();
    restic(&minio, &direct, &["check", "--read-data"]);
}

#[test]
fn test_a_signal_is_reported_though_the_store_is_dead() {
    let (minio, toxiproxy) = (Minio::start(), Toxiproxy::start());
    minio.create_bucket("bucket");
    let proxy = toxiproxy.proxy(minio.address());
    let (_folder, one, _) = sources();
    proxy.add("timeout", json!({ "timeout": 0 }));
    let job = files(&Minio::repository_at(proxy.address(), "bucket", "a"), &minio.environment(), backup(&one));
    let child = job.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The runtime has sockets of its own, for signals. Whether they are all that is there makes no difference: who is asked in its
    // first moment reports as well.
    let pid = child.id();
    wait_for("a connection", || {
        let sockets = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|entry| {
            fs::read_link(entry.ok()?.path()).ok().filter(|to| to.to_string_lossy().starts_with("socket:"))
        });
        (sockets.count() > 1).then_some(())
    });
    let stopped = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let ended = job.ended(&child.wait_with_output().unwrap());
    assert!(stopped.elapsed() < Duration::from_secs(15), "{:?}", stopped.elapsed());
    assert_eq!(ended.error(), Some(ErrorCode::Disrupted), "{}", ended.said);
}
