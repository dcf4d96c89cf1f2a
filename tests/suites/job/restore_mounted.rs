//! What a Job restores from snapshots that it mounts: with no repository, no Secret, and the same guarantees as from a repository.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use stash_proto::job::{BackupTask, ErrorCode, JobTask, MaintainTask, RestoreSource, RestoreTask};
use stash_tests::faulty_fs;
use stash_tests::fixture::{make_every_kind, pattern, rsync_differences};
use stash_tests::mounted::{Mounted, wait_for, without_sys_admin};
use stash_tests::restic::Restic;
use stash_tests::servers::{Minio, Toxiproxy};
use tempfile::TempDir;

use super::store;
use super::{Ended, Files};

/// What is left in a volume that is not whole.
const MARK: &str = ".stash-fs-restoring";

fn source(root: &Path, paths: &[&str]) -> RestoreSource {
    let (root, paths) = (root.to_str().unwrap().to_owned(), paths.iter().map(|&path| path.to_owned()).collect());
    RestoreSource::Mounted { snapshot: "0a1b2c3d".to_owned(), root, paths }
}

/// All of a directory into all of a volume.
fn all(from: &Path, to: &Path) -> RestoreTask {
    RestoreTask {
        sources: vec![source(from, &["/"])],
        mounts: vec!["/".to_owned()],
        root: Some(to.to_str().unwrap().to_owned()),
        ..RestoreTask::default()
    }
}

fn run(task: RestoreTask) -> Ended {
    let files = Files::new("", JobTask::Restore(task), &[]);
    files.ended(&files.command_without_secret().output().unwrap())
}

fn well(ended: Ended) -> Ended {
    assert_eq!(ended.report.error, None, "{}", ended.said);
    ended
}

fn with_args(task: RestoreTask, args: &[&str]) -> RestoreTask {
    RestoreTask { args: args.iter().map(|&arg| arg.to_owned()).collect(), ..task }
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn root_test_mounted_every_kind_comes_back_and_what_is_equal_is_left() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_every_kind(from.path());
    fs::set_permissions(from.path(), fs::Permissions::from_mode(0o2710)).unwrap();
    std::os::unix::fs::chown(from.path(), Some(999), Some(998)).unwrap();
    let ended = well(run(all(from.path(), to.path())));
    assert_eq!(rsync_differences(&["-aHAX"], from.path(), to.path()), "", "{}", ended.said);
    let first = ended.restored();
    assert!(first.restored > 1500 && first.restored_bytes > 9 << 20 && first.failed.count == 0, "{first:?}");
    assert_eq!(first.snapshots, ["0a1b2c3d"]);
    // An attribute that the snapshot does not have goes.
    xattr::set(to.path().join("empty"), "user.stale", b"x").unwrap();
    let again = well(run(all(from.path(), to.path())));
    let again = again.restored();
    assert_eq!((again.restored, again.restored_bytes, again.failed.count), (0, 0, 0), "{again:?}");
    assert_eq!(again.unchanged_bytes, first.restored_bytes);
    assert_eq!(rsync_differences(&["-aHAX"], from.path(), to.path()), "");

    // With holes where the source has them, and read again.
    let sparse = tempfile::tempdir().unwrap();
    well(run(with_args(all(from.path(), sparse.path()), &["--sparse", "--verify"])));
    assert_eq!(rsync_differences(&["-aHAX"], from.path(), sparse.path()), "");
    for name in ["sparse", "hole"] {
        let blocks = |root: &TempDir| fs::metadata(root.path().join(name)).unwrap().blocks();
        assert!(blocks(&sparse) <= blocks(&from) + 16, "{name}: {} of {}", blocks(&sparse), blocks(&from));
    }
}

/// A Job's root has no CAP_SYS_ADMIN, and the mount lists what it may not read.
#[test]
fn root_test_mounted_by_fuse_attributes_of_administrators_are_left() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), "file").unwrap();
    for (name, value) in [("trusted.volume", "gluster"), ("user.colour", "blue")] {
        xattr::set(from.path().join("file"), name, value.as_bytes()).unwrap();
    }
    let restic = Restic::init();
    restic.backup([from.path()]);
    let root = format!("latest:{}", from.path().display());
    let mounted = Mounted::builder(restic.path(), restic.password()).root(&root).mount();
    let to = tempfile::tempdir().unwrap();
    let files = Files::new("", JobTask::Restore(all(mounted.path(), to.path())), &[]);
    let ended = well(files.ended(&without_sys_admin(&files.command_without_secret()).output().unwrap()));
    assert_eq!(ended.restored().failed.count, 0, "{}", ended.said);
    assert!(ended.said.contains("CAP_SYS_ADMIN"), "{}", ended.said);
    let at = |name: &str| xattr::get(to.path().join("file"), name).unwrap();
    assert_eq!((at("trusted.volume"), at("user.colour").unwrap()), (None, b"blue".to_vec()));
}

#[test]
fn root_test_mounted_by_fuse_comes_back_with_links_and_attributes() {
    let from = tempfile::tempdir().unwrap();
    let data = from.path().join("data");
    make_every_kind(&data);
    // restic stores none.
    fs::remove_file(data.join("socket")).unwrap();
    let restic = Restic::init();
    restic.backup([data.as_os_str()]);
    let mounted = Mounted::builder(restic.path(), restic.password()).root("latest").mount();
    let to = tempfile::tempdir().unwrap();
    let mount = data.to_str().unwrap();
    fs::create_dir_all(to.path().join(&mount[1..])).unwrap();
    let task = RestoreTask {
        sources: vec![source(mounted.path(), &[mount])],
        mounts: vec![mount.to_owned()],
        ..all(mounted.path(), to.path())
    };
    let ended = well(run(task));
    assert_eq!(rsync_differences(&["-aHAX"], &data, &to.path().join(&mount[1..])), "", "{}", ended.said);
    // A folder of the snapshot, mounted by itself: what that folder has comes back as well.
    let folder = Mounted::builder(restic.path(), restic.password()).root(&format!("latest:{mount}")).mount();
    let volume = tempfile::tempdir().unwrap();
    well(run(all(folder.path(), volume.path())));
    assert_eq!(rsync_differences(&["-aHAX"], &data, volume.path()), "");
    assert_eq!(xattr::get(volume.path(), "user.of-the-top").unwrap().as_deref(), Some(&b"x"[..]));
}

#[test]
fn test_mounted_parts_go_to_their_volumes_and_no_link_is_followed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    for folder in ["data/inner", "logs"] {
        fs::create_dir_all(from.path().join(folder)).unwrap();
    }
    fs::write(from.path().join("data/inner/file"), "a").unwrap();
    fs::write(from.path().join("logs/one"), "b").unwrap();
    symlink(outside.path(), from.path().join("data/link")).unwrap();
    let task = |mounts: &[&str], paths: &[&str]| {
        mounts.iter().for_each(|mount| fs::create_dir_all(to.path().join(&mount[1..])).unwrap());
        let mounts = mounts.iter().map(|&mount| mount.to_owned()).collect();
        RestoreTask { sources: vec![source(from.path(), paths)], mounts, ..all(from.path(), to.path()) }
    };
    // One path is a file.
    well(run(task(&["/data", "/logs"], &["/data/inner/file", "/logs"])));
    assert_eq!(fs::read_to_string(to.path().join("data/inner/file")).unwrap(), "a");
    assert_eq!(names(&to.path().join("logs")), ["one"]);
    well(run(task(&["/data", "/logs"], &["/"])));
    assert_eq!(fs::read_link(to.path().join("data/link")).unwrap(), outside.path());
    for (mounts, paths, code, words) in [
        (&["/data"][..], &["/data/link/secret"][..], ErrorCode::Damaged, "lacks /data/link/secret"),
        (&["/data"], &["/data/gone"], ErrorCode::Damaged, "lacks /data/gone"),
        (&["/data"], &["/logs"], ErrorCode::NoTarget, "holds /logs, where the target has no volume"),
        (&["/other"], &["/"], ErrorCode::NoTarget, "holds nothing for /other"),
    ] {
        let ended = run(task(mounts, paths));
        assert_eq!(ended.error(), Some(code), "{}", ended.said);
        assert!(ended.message().contains(words), "{}", ended.message());
    }
    // What a link of the volume leads to is not written.
    fs::remove_dir_all(to.path().join("logs")).unwrap();
    fs::create_dir(to.path().join("logs")).unwrap();
    fs::remove_dir_all(to.path().join("data/inner")).unwrap();
    symlink(outside.path(), to.path().join("data/inner")).unwrap();
    well(run(task(&["/data"], &["/data"])));
    assert_eq!(names(outside.path()), ["secret"]);
    assert!(to.path().join("data/inner").is_dir() && !to.path().join("data/inner").is_symlink());
}

#[test]
fn test_mounted_follows_patterns_and_flags() {
    let from = tempfile::tempdir().unwrap();
    fs::create_dir_all(from.path().join("data/dir")).unwrap();
    for name in ["a.log", "b.txt", "dir/c.log"] {
        fs::write(from.path().join("data").join(name), name).unwrap();
    }
    let restored = |change: &dyn Fn(&mut RestoreTask)| {
        let to = tempfile::tempdir().unwrap();
        fs::create_dir(to.path().join("data")).unwrap();
        fs::write(to.path().join("data/extra"), "x").unwrap();
        fs::write(to.path().join("data/b.txt"), "other").unwrap();
        let mut task = RestoreTask {
            sources: vec![source(from.path(), &["/data"])],
            mounts: vec!["/data".to_owned()],
            ..all(from.path(), to.path())
        };
        change(&mut task);
        let ended = run(task);
        let there: Vec<&str> = ["a.log", "b.txt", "dir/c.log", "extra", MARK]
            .into_iter()
            .filter(|name| to.path().join("data").join(name).exists())
            .collect();
        let text = fs::read_to_string(to.path().join("data/b.txt")).unwrap_or_default();
        (format!("{} {text}", there.join(" ")), ended)
    };
    let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    assert_eq!(restored(&|_| ()).0, "a.log b.txt dir/c.log extra b.txt");
    assert_eq!(restored(&|task| task.exclude = list(&["/data/*.log"])).0, "b.txt dir/c.log extra b.txt");
    assert_eq!(restored(&|task| task.include = list(&["*.log"])).0, "a.log b.txt dir/c.log extra other");
    assert_eq!(restored(&|task| task.args = list(&["--delete"])).0, "a.log b.txt dir/c.log b.txt");
    assert_eq!(restored(&|task| task.args = list(&["--overwrite=never"])).0, "a.log b.txt dir/c.log extra other");
    let (there, ended) = restored(&|task| task.args = list(&["--tag=nightly"]));
    assert_eq!((there.as_str(), ended.error()), ("b.txt extra other", Some(ErrorCode::BadSpec)), "{}", ended.said);
}

#[test]
fn root_test_mounted_names_what_cannot_be_read_and_marks_the_volume() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let session = faulty_fs::mount(from.path());
    // What stands there already is neither lost nor taken for right.
    fs::write(to.path().join("eio"), pattern(usize::try_from(faulty_fs::FILE_BYTES).unwrap(), 5)).unwrap();
    fs::write(to.path().join("extra"), "x").unwrap();
    let ended = run(with_args(all(from.path(), to.path()), &["--delete"]));
    assert_eq!((ended.code, ended.error()), (3, Some(ErrorCode::PartlyRestored)), "{}", ended.said);
    let failed = &ended.restored().failed;
    assert_eq!(failed.count, 4, "{}", ended.said);
    for (name, why) in [
        ("/eio: ", "Input/output error"),
        ("/open-denied: ", "Permission denied"),
        ("/short: ", "ends before the size"),
        ("/stat-eio: ", "Input/output error"),
    ] {
        let said = failed.names.iter().find(|said| said.starts_with(name));
        assert!(said.is_some_and(|said| said.contains(why)), "{name}: {failed:?}");
    }
    assert_eq!(names(to.path()), [MARK, "eio", "whole"], "no part is left");
    assert_eq!(fs::read(to.path().join("whole")).unwrap(), fs::read(from.path().join("whole")).unwrap());
    drop(session);
}

#[test]
fn test_mounted_needs_no_secret_and_everything_else_does() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("file"), "a").unwrap();
    well(run(all(from.path(), to.path())));
    let named =
        RestoreTask { sources: vec![RestoreSource::Snapshot("latest".to_owned())], ..all(from.path(), to.path()) };
    for task in [JobTask::Restore(named), JobTask::Maintain(MaintainTask::default())] {
        let files = Files::new("/nowhere", task, &[]);
        let ended = files.ended(&files.command_without_secret().output().unwrap());
        assert_eq!(ended.error(), Some(ErrorCode::BadSecret), "{}", ended.said);
    }
    let gone = run(all(&from.path().join("gone"), to.path()));
    assert_eq!(gone.error(), Some(ErrorCode::Unreachable), "{}", gone.said);
}

#[test]
fn root_test_mounted_that_is_stopped_goes_on() {
    let (minio, toxiproxy) = (Minio::start(), Toxiproxy::start());
    minio.create_bucket("bucket");
    let proxy = toxiproxy.proxy(minio.address());
    let from = tempfile::tempdir().unwrap();
    fs::create_dir(from.path().join("data")).unwrap();
    for n in 0..4 {
        fs::write(from.path().join(format!("data/file-{n}")), pattern(6 << 20, n)).unwrap();
    }
    // Which several read at once.
    fs::write(from.path().join("data/large"), pattern(40 << 20, 9)).unwrap();
    let backup = BackupTask {
        host: "host-0".to_owned(),
        paths: vec!["/data".to_owned()],
        root: Some(from.path().to_str().unwrap().to_owned()),
        initialize: true,
        ..BackupTask::default()
    };
    store::files(&minio.repository("bucket", "a"), &minio.environment(), JobTask::Backup(backup)).run().backup();
    proxy.add("bandwidth", serde_json::json!({ "rate": 16384 }));
    let slow = Minio::repository_at(proxy.address(), "bucket", "a");
    let mut builder = Mounted::builder(slow, store::PASSWORD).root("latest:/data");
    for (name, value) in minio.list_and_get_environment("bucket") {
        builder = builder.env(name, value);
    }
    let mounted = builder.mount();
    let to = tempfile::tempdir().unwrap();
    let task = all(mounted.path(), to.path());
    let child_of = |signal: Signal| {
        let job = Files::new("", JobTask::Restore(task.clone()), &[]);
        let marked = || fs::metadata(to.path().join(MARK)).and_then(|mark| mark.modified()).ok();
        let before = marked();
        let mut command = job.command_without_secret();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("something to be written", || {
            (marked() != before && names(to.path()).iter().any(|name| name != MARK)).then_some(())
        });
        kill_process(Pid::from_child(&child), signal).unwrap();
        (job, child.wait_with_output().unwrap())
    };
    child_of(Signal::KILL);
    assert!(to.path().join(MARK).exists());
    let (job, output) = child_of(Signal::TERM);
    let ended = job.ended(&output);
    assert_eq!(ended.error(), Some(ErrorCode::Disrupted), "{}", ended.said);
    assert_eq!(ended.restored().failed.count, 0, "{}", ended.said);
    assert!(to.path().join(MARK).exists());
    let ended = well(run(task));
    assert_eq!(rsync_differences(&["-aHAX"], &from.path().join("data"), to.path()), "", "{}", ended.said);
    assert_eq!(names(to.path()), ["file-0", "file-1", "file-2", "file-3", "large"]);
}
