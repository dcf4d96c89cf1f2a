//! What a Job restores into the volumes of a target: which snapshot goes where, what tells a volume that is not whole, and how it goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use stash_proto::job::{BackupTask, ErrorCode, JobTask, RestoreSource, RestoreTask};
use stash_tests::fixture::{make_every_kind, pattern, rsync_differences};
use stash_tests::mounted::wait_for;
use stash_tests::restic::Restic;
use stash_tests::servers::{Minio, Toxiproxy};
use tempfile::TempDir;

use super::store;
use super::{Ended, Files};

/// What is left in a volume that is not whole.
const MARK: &str = ".stash-fs-restoring";

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn latest(host: &str, path: &str) -> RestoreSource {
    RestoreSource::Latest { host: host.to_owned(), path: path.to_owned() }
}

/// A target: volumes below a root of their own.
struct Target {
    root: TempDir,
}

impl Target {
    fn new(mounts: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for mount in mounts {
            fs::create_dir_all(root.path().join(&mount[1..])).unwrap();
        }
        Self { root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(&path[1..])
    }

    fn task(&self, mounts: &[&str], sources: Vec<RestoreSource>) -> RestoreTask {
        RestoreTask {
            sources,
            mounts: mounts.iter().map(|&mount| mount.to_owned()).collect(),
            root: Some(text(self.root.path())),
            ..RestoreTask::default()
        }
    }

    fn is_marked(&self, mount: &str) -> bool {
        self.at(mount).join(MARK).exists()
    }
}

fn job(restic: &Restic, task: RestoreTask) -> Files {
    Files::new(restic.path().to_str().unwrap(), JobTask::Restore(task), &[("RESTIC_PASSWORD", restic.password())])
}

fn well(ended: Ended) -> Ended {
    assert_eq!(ended.report.error, None, "{}", ended.said);
    ended
}

/// Backs a folder up as the workload's `/data` and so on: with our Job, as restic has no root.
fn back_up(restic: &Restic, root: &Path, host: &str, paths: &[&str]) {
    let task = BackupTask {
        host: host.to_owned(),
        paths: paths.iter().map(|&path| path.to_owned()).collect(),
        root: Some(text(root)),
        ..BackupTask::default()
    };
    let secret = [("RESTIC_PASSWORD", restic.password())];
    well(Files::new(restic.path().to_str().unwrap(), JobTask::Backup(task), &secret).run());
}

#[test]
fn root_test_restore_brings_every_kind_back_from_a_repository_of_restic() {
    let source = tempfile::tempdir().unwrap();
    let data = source.path().join("data");
    make_every_kind(&data);
    // restic stores none.
    fs::remove_file(data.join("socket")).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o2710)).unwrap();
    std::os::unix::fs::chown(&data, Some(999), Some(998)).unwrap();
    let restic = Restic::init();
    restic.backup([data.as_os_str(), "--host".as_ref(), "host-0".as_ref()]);
    let mount = text(&data);
    let target = Target::new(&[&mount]);
    let task = target.task(&[&mount], vec![latest("host-0", &format!("{mount}/"))]);
    let ended = well(job(&restic, task.clone()).run());
    // The volume's own root, too.
    assert_eq!(rsync_differences(&["-aHAX"], &data, &target.at(&mount)), "", "{}", ended.said);
    let first = ended.restored();
    assert!(first.restored > 10 && first.restored_bytes > 9 << 20 && first.failed.count == 0, "{first:?}");
    assert_eq!(first.snapshots.len(), 1);
    assert!(restic.files("locks").is_empty());
    // An attribute that the snapshot does not have goes.
    xattr::set(target.at(&format!("{mount}/empty")), "user.stale", b"x").unwrap();
    // What is equal is left.
    let again = well(job(&restic, task).run());
    let again = again.restored();
    assert_eq!((again.restored, again.restored_bytes, again.failed.count), (0, 0, 0), "{again:?}");
    assert_eq!(again.unchanged_bytes, first.restored_bytes);
    assert_eq!(rsync_differences(&["-aHAX"], &data, &target.at(&mount)), "");
}

#[test]
fn test_restore_puts_each_path_into_its_volume() {
    let workload = Target::new(&["/data/inner", "/logs"]);
    fs::write(workload.at("/data/file"), "a").unwrap();
    fs::write(workload.at("/data/inner/file"), "b").unwrap();
    fs::write(workload.at("/logs/one.log"), "c").unwrap();
    let restic = Restic::init_with_ours("2");
    back_up(&restic, workload.root.path(), "host-0", &["/data", "/logs", "/data/file"]);
    let (mounts, all) = (["/data", "/data/inner", "/logs"], ["/data", "/logs", "/data/file"]);
    let target = Target::new(&mounts);
    let ended = well(job(&restic, target.task(&mounts, all.map(|path| latest("host-0", path)).to_vec())).run());
    assert_eq!(rsync_differences(&["-a"], &workload.at("/data"), &target.at("/data")), "", "{}", ended.said);
    assert_eq!(rsync_differences(&["-a"], &workload.at("/logs"), &target.at("/logs")), "");
    assert_eq!(ended.restored().snapshots.len(), 3);

    // A snapshot of more than the volumes gives them what it has for them.
    let whole = Restic::init_with_ours("2");
    back_up(&whole, workload.root.path(), "host-0", &["/"]);
    let target = Target::new(&["/data"]);
    well(job(&whole, target.task(&["/data"], vec![RestoreSource::Snapshot("latest".to_owned())])).run());
    assert_eq!(rsync_differences(&["-a"], &workload.at("/data"), &target.at("/data")), "");
    assert!(!target.root.path().join("logs").exists());
}

#[test]
fn test_restore_takes_the_snapshot_that_the_rule_names() {
    let workload = Target::new(&["/data"]);
    let restic = Restic::init_with_ours("2");
    for (host, content) in [("host-0", "first"), ("host-0", "second"), ("host-1", "other"), ("host-0", "last")] {
        fs::write(workload.at("/data/file"), content).unwrap();
        back_up(&restic, workload.root.path(), host, &["/data"]);
    }
    let ids: Vec<String> =
        restic.snapshots().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect();
    let named = |name: &str| RestoreSource::Snapshot(name.to_owned());
    for (source, expected) in [
        (latest("host-0", "/data"), "last"),
        (latest("host-1", "/data"), "other"),
        (named(&ids[0]), "first"),
        (named(&ids[1][..8]), "second"),
        (named("latest"), "last"),
    ] {
        let target = Target::new(&["/data"]);
        well(job(&restic, target.task(&["/data"], vec![source.clone()])).run());
        assert_eq!(fs::read_to_string(target.at("/data/file")).unwrap(), expected, "{source:?}");
        assert!(!target.is_marked("/data"));
    }
    // Nothing is begun where one of several is not there, or has no place.
    let target = Target::new(&["/data", "/other"]);
    for (mount, sources, code, words) in [
        (
            "/data",
            vec![latest("host-0", "/data"), latest("host-7", "/data")],
            ErrorCode::NoSnapshot,
            "/data of host host-7",
        ),
        ("/data", vec![named("00000000")], ErrorCode::NoSnapshot, "00000000"),
        ("/other", vec![latest("host-0", "/data")], ErrorCode::NoTarget, "holds /data, where the target has no volume"),
        ("/gone", vec![latest("host-0", "/data")], ErrorCode::NoTarget, "open the volume at /gone"),
    ] {
        let ended = job(&restic, target.task(&[mount], sources)).run();
        assert_eq!(ended.error(), Some(code), "{}", ended.said);
        assert!(ended.message().contains(words), "{}", ended.message());
    }
    assert_eq!(
        fs::read_dir(target.at("/data")).unwrap().count() + fs::read_dir(target.at("/other")).unwrap().count(),
        0
    );
}

#[test]
fn test_restore_follows_patterns_and_flags() {
    let workload = Target::new(&["/data/dir"]);
    for name in ["a.log", "b.txt", "dir/c.log"] {
        fs::write(workload.at("/data").join(name), name).unwrap();
    }
    let restic = Restic::init_with_ours("2");
    back_up(&restic, workload.root.path(), "host-0", &["/data"]);
    let restored = |change: &dyn Fn(&mut RestoreTask)| {
        let target = Target::new(&["/data"]);
        fs::write(target.at("/data/extra"), "x").unwrap();
        let mut task = target.task(&["/data"], vec![latest("host-0", "/data")]);
        change(&mut task);
        let ended = job(&restic, task).run();
        let there: Vec<&str> = ["a.log", "b.txt", "dir/c.log", "extra", MARK]
            .into_iter()
            .filter(|name| target.at("/data").join(name).exists())
            .collect();
        (there.join(" "), ended)
    };
    let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    // Patterns are matched against the paths that the snapshot has.
    assert_eq!(restored(&|task| task.exclude = list(&["/data/*.log"])).0, "b.txt dir/c.log extra");
    assert_eq!(restored(&|task| task.include = list(&["*.log"])).0, "a.log dir/c.log extra");
    assert_eq!(restored(&|task| task.args = list(&["--iinclude=/DATA/B*"])).0, "b.txt extra");
    assert_eq!(restored(&|task| task.args = list(&["--delete", "--no-lock", "-q"])).0, "a.log b.txt dir/c.log");
    for (args, code) in [
        (&["--target", "/etc"][..], ErrorCode::BadArguments),
        (&["--dry-run"], ErrorCode::BadArguments),
        (&["--exclude=["], ErrorCode::BadArguments),
        (&["--tag=nightly"], ErrorCode::NoSnapshot),
    ] {
        let (there, ended) = restored(&|task| task.args = list(args));
        assert_eq!((there.as_str(), ended.error()), ("extra", Some(code)), "{}", ended.said);
    }
    let (there, ended) = restored(&|task| (task.include, task.exclude) = (list(&["a"]), list(&["b"])));
    assert_eq!((there.as_str(), ended.error()), ("extra", Some(ErrorCode::BadSpec)), "{}", ended.said);
}

/// Renames the largest pack of those that were not there before; returns where it was, and where it is.
fn put_aside_the_largest_pack(restic: &Restic, before: &[String]) -> (PathBuf, PathBuf) {
    let new = restic.files("data").into_iter().filter(|name| !before.contains(name));
    let paths = new.map(|name| restic.path().join("data").join(&name[..2]).join(name));
    let stored = paths.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let aside = stored.with_extension("aside");
    fs::rename(&stored, &aside).unwrap();
    (stored, aside)
}

#[test]
fn test_restore_names_what_it_lacks_and_marks_the_volume() {
    let workload = Target::new(&["/data"]);
    let restic = Restic::init_with_ours("2");
    fs::write(workload.at("/data/good"), pattern(1 << 20, 1)).unwrap();
    back_up(&restic, workload.root.path(), "host-0", &["/data"]);
    let before = restic.files("data");
    fs::write(workload.at("/data/bad"), pattern(1 << 20, 2)).unwrap();
    back_up(&restic, workload.root.path(), "host-0", &["/data"]);
    // The largest of the new packs holds the second file.
    let (stored, aside) = put_aside_the_largest_pack(&restic, &before);
    let target = Target::new(&["/data"]);
    let task = target.task(&["/data"], vec![latest("host-0", "/data")]);
    let ended = job(&restic, task.clone()).run();
    assert_eq!((ended.code, ended.error()), (3, Some(ErrorCode::PartlyRestored)), "{}", ended.said);
    assert_eq!(ended.restored().failed.count, 1);
    assert!(ended.restored().failed.names[0].starts_with("/data/bad: "), "{}", ended.said);
    assert!(target.is_marked("/data") && target.at("/data/good").exists() && !target.at("/data/bad").exists());
    fs::rename(&aside, &stored).unwrap();
    let ended = well(job(&restic, task).run());
    assert_eq!((ended.restored().restored_bytes, ended.restored().unchanged_bytes), (1 << 20, 1 << 20));
    assert!(!target.is_marked("/data"));
    assert_eq!(rsync_differences(&["-a"], &workload.at("/data"), &target.at("/data")), "");
}

#[test]
fn test_restore_marks_a_volume_that_lies_in_another() {
    let mounts = ["/data", "/data/inner", "/data-2"];
    let workload = Target::new(&mounts);
    let restic = Restic::init_with_ours("2");
    fs::write(workload.at("/data/file"), "a").unwrap();
    back_up(&restic, workload.root.path(), "host-0", &["/data"]);
    let before = restic.files("data");
    fs::write(workload.at("/data/inner/bad"), pattern(1 << 20, 2)).unwrap();
    back_up(&restic, workload.root.path(), "host-0", &["/data"]);
    // The largest of the new packs holds what lies in the inner volume.
    let (stored, aside) = put_aside_the_largest_pack(&restic, &before);
    let target = Target::new(&mounts);
    // Who else restored what they share stays written down.
    xattr::set(target.at("/data/inner"), "user.stash-fs.restored-by", b"u/host-1").unwrap();
    let task = target.task(&mounts, vec![latest("host-0", "/data")]);
    let ended = job(&restic, task.clone()).run();
    assert_eq!((ended.code, ended.error()), (3, Some(ErrorCode::PartlyRestored)), "{}", ended.said);
    assert!(ended.restored().failed.names[0].starts_with("/data/inner/bad: "), "{}", ended.said);
    assert_eq!(mounts.map(|mount| target.is_marked(mount)), [true, true, false]);
    fs::rename(&aside, &stored).unwrap();
    let ended = well(job(&restic, task.clone()).run());
    assert_eq!(mounts.map(|mount| target.is_marked(mount)), [false; 3], "{}", ended.said);
    assert_eq!(rsync_differences(&["-a"], &workload.at("/data"), &target.at("/data")), "");
    assert_eq!(
        xattr::get(target.at("/data/inner"), "user.stash-fs.restored-by").unwrap().as_deref(),
        Some(&b"u/host-1"[..])
    );

    // A snapshot that has no such directory removes neither the volume nor, before all is restored, its mark.
    let bare = Restic::init_with_ours("2");
    let empty = Target::new(&["/data"]);
    fs::write(empty.at("/data/file"), pattern(1 << 20, 3)).unwrap();
    back_up(&bare, empty.root.path(), "host-0", &["/data"]);
    let (stored, aside) = put_aside_the_largest_pack(&bare, &[]);
    let task = RestoreTask { args: vec!["--delete".to_owned()], ..task };
    let ended = job(&bare, task.clone()).run();
    assert_eq!(ended.error(), Some(ErrorCode::PartlyRestored), "{}", ended.said);
    assert_eq!(mounts.map(|mount| target.is_marked(mount)), [true, true, false]);
    fs::rename(&aside, &stored).unwrap();
    well(job(&bare, task).run());
    assert_eq!(mounts.map(|mount| target.is_marked(mount)), [false; 3]);
    assert_eq!(fs::read_dir(target.at("/data/inner")).unwrap().count(), 0);
}

#[test]
fn test_restore_that_is_stopped_goes_on() {
    let (minio, toxiproxy) = (Minio::start(), Toxiproxy::start());
    minio.create_bucket("bucket");
    let proxy = toxiproxy.proxy(minio.address());
    let workload = Target::new(&["/data"]);
    for n in 0..8 {
        fs::write(workload.at("/data").join(format!("file-{n}")), pattern(6 << 20, n)).unwrap();
    }
    let direct = minio.repository("bucket", "a");
    let backup = BackupTask {
        host: "host-0".to_owned(),
        paths: vec!["/data".to_owned()],
        root: Some(text(workload.root.path())),
        initialize: true,
        ..BackupTask::default()
    };
    store::files(&direct, &minio.environment(), JobTask::Backup(backup)).run().backup();
    // Readers need no more than that.
    let reader = minio.list_and_get_environment("bucket");
    let target = Target::new(&["/data"]);
    let task = target.task(&["/data"], vec![latest("host-0", "/data")]);
    proxy.add("bandwidth", serde_json::json!({ "rate": 4096 }));
    let slow = Minio::repository_at(proxy.address(), "bucket", "a");
    let child_of = |signal: Signal| {
        let job = store::files(&slow, &reader, JobTask::Restore(task.clone()));
        let marked = || fs::metadata(target.at("/data").join(MARK)).and_then(|mark| mark.modified()).ok();
        let before = marked();
        let child = job.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("something to be written", || {
            let names = fs::read_dir(target.at("/data")).unwrap().map(|entry| entry.unwrap().file_name());
            (marked() != before && names.filter(|name| name != MARK).count() > 0).then_some(())
        });
        kill_process(Pid::from_child(&child), signal).unwrap();
        (job, child.wait_with_output().unwrap())
    };
    child_of(Signal::KILL);
    assert!(target.is_marked("/data"));
    let (job, output) = child_of(Signal::TERM);
    let ended = job.ended(&output);
    assert_eq!(ended.error(), Some(ErrorCode::Disrupted), "{}", ended.said);
    assert!(target.is_marked("/data"));
    let ended = well(store::files(&direct, &reader, JobTask::Restore(task)).run());
    assert!(ended.restored().failed.count == 0 && !target.is_marked("/data"), "{}", ended.said);
    assert_eq!(rsync_differences(&["-a"], &workload.at("/data"), &target.at("/data")), "");
}
