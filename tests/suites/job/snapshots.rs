//! What a backup stores and reports.

use std::fs;
use std::os::unix::fs::symlink;

use stash_proto::job::{ErrorCode, IoNice};
use stash_tests::faulty_fs;
use stash_tests::restic::Restic;

use super::{Files, sources};

#[test]
fn test_each_path_is_a_snapshot_of_the_host() {
    let (folder, one, two) = sources();
    let restic = Restic::init_with_ours("2");
    let mut files = Files::backup(&restic, &[&one, &two]);
    files.task().tags = vec!["stash".to_owned()];
    files.task().args = ["--tag=a,b", "--exclude", "file-2", "--compression=max", "-q"].map(str::to_owned).into();
    (files.task().nice, files.task().ionice) = (Some(5), Some(IoNice { class: 2, class_data: Some(7) }));
    let ended = files.run();
    assert_eq!(ended.code, 0);
    let outcome = ended.backup();
    assert!(!outcome.initialized && outcome.unreadable.count == 0);
    let snapshots = restic.snapshots();
    assert_eq!((snapshots.len(), outcome.snapshots.len()), (2, 2));
    for (path, report) in [&one, &two].into_iter().zip(&outcome.snapshots) {
        assert_eq!(report.path, path.to_str().unwrap());
        let stored = snapshots.iter().find(|snapshot| snapshot["id"] == report.id.as_str()).unwrap();
        assert_eq!((&stored["hostname"], &stored["paths"]), (&"host-0".into(), &serde_json::json!([path])));
        assert_eq!(stored["tags"], serde_json::json!(["stash", "a", "b"]));
        assert_eq!((report.files.total, report.files.new), (2, 2));
        let bytes: u64 = [0, 1].iter().map(|n| fs::metadata(path.join(format!("file-{n}"))).unwrap().len()).sum();
        assert_eq!(report.total_bytes, bytes);
        assert!(report.uploaded_bytes > 0 && report.processing_seconds > 0.0);
    }
    restic.check_all();
    assert!(restic.files("locks").is_empty());

    // The next one finds its parents, by host and path.
    fs::write(one.join("file-0"), "changed").unwrap();
    let ended = files.run();
    let counts: Vec<_> = ended.backup().snapshots.iter().map(|report| report.files).collect();
    assert_eq!((counts[0].new, counts[0].modified, counts[0].unmodified), (0, 1, 1));
    assert_eq!((counts[1].new, counts[1].modified, counts[1].unmodified), (0, 0, 2));
    let snapshots = restic.snapshots();
    assert!(snapshots[2]["parent"] == snapshots[0]["id"] || snapshots[2]["parent"] == snapshots[1]["id"]);
    drop(folder);
}

#[test]
fn test_a_repository_is_made_where_that_is_asked_for() {
    let (_folder, one, _) = sources();
    let restic = Restic::init_with_ours("2");
    fs::remove_dir_all(restic.path()).unwrap();
    let mut files = Files::backup(&restic, &[&one]);
    let ended = files.run();
    assert_eq!(ended.error(), Some(ErrorCode::NoRepository), "{}", ended.said);
    assert!(!restic.path().exists());
    files.task().initialize = true;
    assert!(files.run().backup().initialized);
    assert!(!files.run().backup().initialized);
    assert_eq!(restic.snapshots().len(), 2);
    restic.check_all();
}

/// The workload's file system lies somewhere else in the Job's, and is stored as the workload sees it.
#[test]
fn test_paths_below_a_root_are_stored_as_the_workload_has_them() {
    let (folder, one, _) = sources();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("data/deep")).unwrap();
    fs::copy(one.join("file-0"), root.join("data/file")).unwrap();
    fs::write(root.join("data/deep/skipped.log"), "x").unwrap();
    fs::create_dir(root.join("etc")).unwrap();
    fs::write(root.join("etc/hostname"), "the workload's").unwrap();
    symlink("/etc", root.join("data/etc")).unwrap();
    symlink(folder.path(), root.join("data/outside")).unwrap();
    let restic = Restic::init_with_ours("2");
    let mut files = Files::backup(&restic, &["/data".as_ref(), "/data/etc/hostname".as_ref()]);
    files.task().root = Some(root.to_str().unwrap().to_owned());
    files.task().exclude = vec!["/data/**/*.log".to_owned()];
    let ended = files.run();
    let outcome = ended.backup();
    assert_eq!(outcome.snapshots[0].path, "/data");
    let entries: Vec<_> = restic.entries(&outcome.snapshots[0].id).into_keys().collect();
    assert_eq!(entries, ["/data", "/data/deep", "/data/etc", "/data/file", "/data/outside"]);
    let stored = restic.run(["dump", &outcome.snapshots[1].id, "/data/etc/hostname"]);
    assert_eq!(stored, "the workload's");
    assert_eq!(restic.snapshots()[0]["paths"], serde_json::json!(["/data"]));

    // What lies outside is not there.
    files.task().paths = vec!["/data/outside/one/file-0".to_owned()];
    let ended = files.run();
    assert_eq!(ended.error(), Some(ErrorCode::SourceMissing), "{}", ended.said);
    restic.check_all();
}

#[test]
fn test_a_path_that_is_not_there_is_named_and_the_others_are_backed_up() {
    let (folder, one, two) = sources();
    let restic = Restic::init_with_ours("2");
    let gone = folder.path().join("gone");
    let ended = Files::backup(&restic, &[&one, &gone, &two]).run();
    assert_eq!(ended.error(), Some(ErrorCode::SourceMissing));
    assert!(ended.message().contains(gone.to_str().unwrap()), "{}", ended.message());
    assert_eq!(ended.backup_so_far().snapshots.len(), 2);
    assert_eq!(ended.backup_so_far().unreadable.count, 0);
    assert_eq!(restic.snapshots().len(), 2);
    assert!(restic.files("locks").is_empty());
}

#[test]
fn root_test_what_cannot_be_read_is_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let session = faulty_fs::mount(folder.path());
    let restic = Restic::init_with_ours("2");
    let ended = Files::backup(&restic, &[folder.path()]).run();
    assert_eq!((ended.code, ended.error()), (3, Some(ErrorCode::PartlyRead)), "{}", ended.said);
    let outcome = ended.backup_so_far();
    assert_eq!((outcome.snapshots.len(), outcome.unreadable.count), (1, 4));
    assert_eq!(outcome.snapshots[0].files.total, 1);
    for name in ["eio", "short", "open-denied", "stat-eio"] {
        assert!(outcome.unreadable.names.iter().any(|text| text.contains(name)), "{:?}", outcome.unreadable.names);
    }
    drop(session);
    restic.check_all();
}

#[test]
fn test_an_unchanged_source_may_be_skipped() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/file"), "x").unwrap();
    let restic = Restic::init_with_ours("2");
    let mut files = Files::backup(&restic, &["/data".as_ref()]);
    // Nothing above it changes meanwhile.
    files.task().root = Some(folder.path().to_str().unwrap().to_owned());
    files.task().args = vec!["--skip-if-unchanged".to_owned()];
    assert!(!files.run().backup().snapshots[0].id.is_empty());
    let ended = files.run();
    assert_eq!((ended.backup().snapshots[0].id.as_str(), restic.snapshots().len()), ("", 1));
}
