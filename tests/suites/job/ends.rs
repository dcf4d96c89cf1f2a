//! Jobs that fail: each with its word, a report and no secret in it.

use std::fs;
use std::path::{Path, PathBuf};

use stash_proto::job::{ErrorCode, JobReport, Outcome};
use stash_repo::backend::{ConnectOptions, Location, connect};
use stash_repo::lock::{Held, hostname};
use stash_repo::write::Access;
use stash_tests::mounted::unmount_at;
use stash_tests::restic::Restic;

use super::{Ended, Files, sources};

fn fails(files: &Files, code: ErrorCode, words: &str) -> Ended {
    let ended = files.run();
    assert_eq!(ended.error(), Some(code), "{}", ended.said);
    assert!(ended.message().contains(words), "{}", ended.message());
    ended
}

#[test]
fn test_each_failure_has_its_word() {
    let (folder, one, _) = sources();
    let restic = Restic::init_with_ours("2");
    let files = || Files::backup(&restic, &[&one]);

    let wrong = files();
    wrong.set("RESTIC_PASSWORD", "geheim");
    let ended = fails(&wrong, ErrorCode::WrongPassword, "wrong password");
    assert!(!ended.said.contains("geheim"), "{}", ended.said);
    let missing = files();
    fs::remove_file(missing.folder.path().join("secret/RESTIC_PASSWORD")).unwrap();
    fails(&missing, ErrorCode::BadSecret, "RESTIC_PASSWORD");
    fs::remove_dir(missing.folder.path().join("secret")).unwrap();
    fails(&missing, ErrorCode::BadSecret, "RESTIC_PASSWORD");

    let mut args = files();
    args.task().args = ["--stdin", "--host=x"].map(str::to_owned).into();
    fails(&args, ErrorCode::BadArguments, "--stdin: a Job has no standard input");
    args.task().args = vec!["--exclude=[a".to_owned()];
    fails(&args, ErrorCode::BadArguments, "[a");
    args.task().args = vec!["--parent=abcdef".to_owned()];
    fails(&args, ErrorCode::BadArguments, "abcdef");

    let mut address = files();
    address.spec.repository.address = "rest:https://user:geheim@host/".to_owned();
    let ended = fails(&address, ErrorCode::BadAddress, "REST_SERVER_PASSWORD");
    assert!(!ended.said.contains("geheim"), "{}", ended.said);
    address.spec.repository.address = "s3:host/bucket".to_owned();
    fails(&address, ErrorCode::BadAddress, "AWS_ACCESS_KEY_ID");
    address.spec.repository.address = "s3:host/bucket".to_owned();
    address.spec.repository.options.insert("s3.conections".to_owned(), "1".to_owned());
    fails(&address, ErrorCode::BadAddress, "s3.conections");

    let mut spec = files();
    spec.task().host.clear();
    fails(&spec, ErrorCode::BadSpec, "task.backup.host");
    spec.spec.version = 7;
    fails(&spec, ErrorCode::BadSpec, "version 7");
    let ended = spec.ended(&spec.command_on(Path::new("/does/not/exist")).output().unwrap());
    assert_eq!((ended.error(), &ended.report.outcome), (Some(ErrorCode::BadSpec), &Outcome::Nothing));

    assert!(restic.snapshots().is_empty());
    assert!(restic.files("locks").is_empty());
    drop(folder);
}

#[test]
fn test_the_environment_is_not_used() {
    let (_folder, one, _) = sources();
    let restic = Restic::init_with_ours("2");
    let files = Files::backup(&restic, &[&one]);
    let mut command = files.command();
    for (name, value) in [
        ("RESTIC_REPOSITORY", "/elsewhere"),
        ("RESTIC_PASSWORD", "another"),
        ("RESTIC_HOST", "another"),
        ("RESTIC_COMPRESSION", "nonsense"),
        ("RESTIC_PACK_SIZE", "nonsense"),
        ("RUST_LOG", "trace"),
    ] {
        command.env(name, value);
    }
    let ended = files.ended(&command.output().unwrap());
    assert_eq!(ended.backup().snapshots.len(), 1);
    assert_eq!(restic.snapshots()[0]["hostname"], "host-0");
    assert!(!ended.said.contains("TRACE") && ended.said.contains("backed up"), "{}", ended.said);
}

#[test]
fn test_a_lock_is_waited_for_and_a_dead_ones_removed() {
    let (_folder, one, _) = sources();
    let restic = Restic::init_with_ours("2");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let access = runtime.block_on(async {
        let location = Location::local(restic.path());
        let backend = connect(&location, &ConnectOptions::default()).await.unwrap();
        Access::open(backend, restic.password(), None).await.unwrap()
    });
    let take = || runtime.block_on(Held::take(&access, true, std::time::Duration::ZERO, std::future::pending()));
    let held = take().unwrap();
    let mut files = Files::backup(&restic, &[&one]);
    files.task().args = vec!["--retry-lock=1s".to_owned()];
    fails(&files, ErrorCode::Locked, &hostname());
    assert_eq!(restic.files("locks").len(), 1);
    // A name that is not the holder's changes nothing.
    files.spec.dead_hosts = vec!["job-x-1".to_owned()];
    fails(&files, ErrorCode::Locked, &hostname());
    files.spec.dead_hosts.push(hostname());
    assert_eq!(files.run().backup().snapshots.len(), 1);
    assert!(restic.files("locks").is_empty());
    drop(held);
}

#[test]
fn test_a_report_of_many_snapshots_is_cut_to_what_fits() {
    let (folder, one, _) = sources();
    let restic = Restic::init_with_ours("2");
    let paths: Vec<_> = (0..30).map(|n| folder.path().join(format!("{n}-{}", "x".repeat(150)))).collect();
    for path in &paths {
        fs::create_dir(path).unwrap();
        fs::copy(one.join("file-0"), path.join("file")).unwrap();
    }
    let ended = Files::backup(&restic, &paths.iter().map(AsRef::as_ref).collect::<Vec<_>>()).run();
    let outcome = ended.backup();
    assert!(outcome.omitted_snapshots > 0 && !outcome.snapshots.is_empty());
    assert_eq!(outcome.snapshots.len() as u64 + outcome.omitted_snapshots, 30);
    assert_eq!(restic.snapshots().len(), 30);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        unmount_at(&self.0);
    }
}

/// Kubernetes binds a file over `/dev/termination-log`: it can be written to, and not be replaced.
#[test]
fn root_test_a_report_goes_into_a_file_that_is_mounted() {
    let (_folder, one, _) = sources();
    let restic = Restic::init_with_ours("2");
    let files = Files::backup(&restic, &[&one]);
    let below = files.folder.path().join("below");
    fs::write(&below, "").unwrap();
    fs::write(files.report(), "").unwrap();
    rustix::mount::mount_bind(&below, files.report()).unwrap();
    let mounted = Unmount(files.report());
    let ended = files.run();
    drop(mounted);
    assert_eq!(ended.backup().snapshots.len(), 1);
    assert_eq!(JobReport::parse(&fs::read_to_string(below).unwrap()).unwrap(), ended.report);
    assert_eq!(fs::read_to_string(files.report()).unwrap(), "");
    let names: Vec<_> = fs::read_dir(files.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "something was left beside the report: {names:?}");
}
