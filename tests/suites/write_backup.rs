//! What our backup stores, judged by Debian's restic: by its check, its restore and its own backup of the same tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use stash_repo::{BlobKind, TreeId};
use stash_tests::engine;
use stash_tests::faulty_fs;
use stash_tests::fixture::{make_every_kind, rsync_differences, run};
use stash_tests::restic::Restic;

/// Reads the tree of a snapshot, node by node: what restic and we wrote, without what must differ.
async fn nodes(restic: &Restic, snapshot: &str) -> BTreeMap<String, Value> {
    let repository = engine::open(&restic.path(), restic.password(), None).await.unwrap();
    let snapshots = repository.snapshots().await.unwrap();
    let root = snapshots.iter().find(|one| one.id.to_string().starts_with(snapshot)).unwrap().tree;
    let mut found = BTreeMap::new();
    let mut pending: Vec<(String, TreeId)> = vec![(String::new(), root)];
    while let Some((path, id)) = pending.pop() {
        let blob = repository.blobs().get(id.blob(), BlobKind::Tree, usize::MAX).await.unwrap();
        let tree: Value = serde_json::from_slice(&blob).unwrap();
        for node in tree["nodes"].as_array().unwrap() {
            let mut node = node.clone();
            let path = format!("{path}/{}", node["name"].as_str().unwrap());
            if let Some(subtree) = node.as_object_mut().unwrap().remove("subtree") {
                pending.push((path.clone(), subtree.as_str().unwrap().parse().unwrap()));
            }
            for time in ["mtime", "atime", "ctime"] {
                let moment: jiff::Timestamp = node[time].as_str().unwrap().parse().unwrap();
                node[time] = moment.to_string().into();
            }
            if let Some(attributes) = node.get_mut("extended_attributes").and_then(Value::as_array_mut) {
                attributes.sort_by_key(|attribute| attribute["name"].to_string());
            }
            found.insert(path, node);
        }
    }
    found
}

#[test]
fn root_test_backup_of_every_kind_of_inode_is_restics() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for version in ["1", "2"] {
        let source = tempfile::tempdir().unwrap();
        make_every_kind(&source.path().join("tree"));
        let restic = Restic::init_with_ours(version);
        restic.stash_fs([Path::new("backup"), source.path()]);
        restic.check_all();

        let target = tempfile::tempdir().unwrap();
        restic.run(["restore", "latest", "--target", target.path().to_str().unwrap()]);
        let restored = target.path().join(source.path().strip_prefix("/").unwrap());
        // restic restores no sockets.
        let flags = ["-aHAX", "--exclude=/socket"];
        let differences = rsync_differences(&flags, &source.path().join("tree"), &restored.join("tree"));
        assert_eq!(differences, "", "format {version}");

        let ours = restic.snapshots()[0]["id"].as_str().unwrap().to_owned();
        let theirs = restic.backup(["--force".as_ref(), source.path().as_os_str()]);
        let mut ours = runtime.block_on(nodes(&restic, &ours));
        let theirs = runtime.block_on(nodes(&restic, &theirs));
        // restic leaves sockets out; ours are stored, and any reader of the format knows them.
        ours.retain(|_, node| node["type"] != "socket");
        // What is above the source belongs to others, who change it meanwhile.
        let inside = source.path().to_str().unwrap();
        for (path, node) in theirs.iter().filter(|(path, _)| path.starts_with(inside)) {
            assert_eq!(ours.get(path), Some(node), "{path}, format {version}");
        }
        assert_eq!(ours.len(), theirs.len());
    }
}

#[test]
fn test_second_backup_reads_only_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    for name in ["same", "changed", "touched"] {
        fs::write(source.join(name), name.repeat(1000)).unwrap();
    }
    let restic = Restic::init_with_ours("2");
    let backup_of = |source: &Path, arguments: &[&str]| -> Value {
        let mut command = restic.stash_fs_command();
        let text = run(command.current_dir(folder.path()).args(["--json", "backup"]).arg(source).args(arguments));
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.rfind(|line| line["message_type"] == "summary").unwrap()
    };
    // Named from where it lies, so that no directory above it is in the snapshot.
    let backup = |arguments: &[&str]| backup_of(Path::new("source"), arguments);
    let first = backup(&[]);
    assert_eq!((&first["files_new"], &first["files_unmodified"]), (&3.into(), &0.into()));
    fs::write(source.join("changed"), "other").unwrap();
    // The same bytes and times under another inode.
    let copy = source.join("copy");
    fs::copy(source.join("touched"), &copy).unwrap();
    run(Command::new("touch").arg("-r").arg(source.join("touched")).arg(&copy));
    fs::rename(&copy, source.join("touched")).unwrap();
    let second = backup(&[]);
    assert_eq!((&second["files_changed"], &second["files_unmodified"]), (&2.into(), &1.into()), "{second}");
    let snapshots = restic.snapshots();
    assert_eq!(snapshots[1]["parent"], snapshots[0]["id"]);

    assert_eq!(backup(&["--force"])["files_new"], 3);
    let count = restic.files("snapshots").len();
    let skipped = backup(&["--skip-if-unchanged"]);
    assert_eq!((&skipped["files_unmodified"], skipped.get("snapshot_id")), (&3.into(), None), "{skipped}");
    assert_eq!(restic.files("snapshots").len(), count);
    let before = restic.files("data").len() + restic.files("snapshots").len();
    fs::write(source.join("new"), "new").unwrap();
    let dry = backup(&["--dry-run"]);
    assert_eq!((&dry["files_new"], dry.get("snapshot_id")), (&1.into(), None));
    assert_eq!(restic.files("data").len() + restic.files("snapshots").len(), before, "a dry run wrote");
    assert!(backup(&["--skip-if-unchanged"]).get("snapshot_id").is_some(), "a new file is a change");

    // As restic: an absolute path brings the directories above it, whose changes are changes.
    backup_of(&source, &[]);
    fs::write(folder.path().join("beside"), "").unwrap();
    let above = backup_of(&source, &["--skip-if-unchanged"]);
    assert_eq!(above["files_unmodified"], 4, "{above}");
    assert!(above.get("snapshot_id").is_some(), "{above}");
    assert!(restic.files("locks").is_empty());
    restic.check_all();
}

#[test]
fn test_a_producer_that_fails_leaves_no_snapshot() {
    let restic = Restic::init_with_ours("2");
    for script in ["head -c 1048576 /dev/urandom; exit 1", "head -c 1048576 /dev/urandom; kill -9 $$", "exit 3"] {
        let arguments = ["backup", "--stdin-from-command", "--stdin-filename", "dump.sql", "--", "sh", "-c", script];
        let output = restic.stash_fs_command().args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{script}: {stderr}");
        assert!(stderr.contains("the command failed"), "{stderr}");
        assert!(restic.files("snapshots").is_empty(), "{script}");
        assert!(restic.files("locks").is_empty(), "{script}");
    }
    restic.check_all();
}

#[test]
fn test_a_producer_gets_no_secrets() {
    let restic = Restic::init_with_ours("2");
    restic.stash_fs(["backup", "--stdin-from-command", "--stdin-filename", "/a/b/env", "--", "env"]);
    let stored = restic.run(["dump", "latest", "/a/b/env"]);
    assert!(stored.contains("PATH="));
    assert!(!stored.contains("test password"), "{stored}");
}

#[test]
fn test_a_stream_is_stored_with_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let content = stash_tests::fixture::pattern(9_000_001, 5);
    fs::write(folder.path().join("content"), &content).unwrap();
    for version in ["1", "2"] {
        let restic = Restic::init_with_ours(version);
        for _ in 0..2 {
            let mut command = restic.stash_fs_command();
            let stdin = fs::File::open(folder.path().join("content")).unwrap();
            run(command.args(["backup", "--stdin", "--stdin-filename", "dir/stream"]).stdin(Stdio::from(stdin)));
        }
        let entries = restic.entries("latest");
        assert_eq!(entries["/dir/stream"]["size"], content.len());
        assert_eq!(entries["/dir"]["type"], "dir");
        let dumped = restic.command().args(["dump", "latest", "/dir/stream"]).output().unwrap();
        assert!(dumped.stdout == content, "the stream differs");
        assert_eq!(restic.snapshots()[0]["paths"][0], "/dir/stream");
        restic.check_all();
    }
}

#[test]
fn root_test_what_cannot_be_read_is_named_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let session = faulty_fs::mount(folder.path());
    let restic = Restic::init_with_ours("2");
    let output = restic.stash_fs_command().arg("backup").arg(folder.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    for (during, name) in [("read", "eio"), ("read", "short"), ("open", "open-denied"), ("stat", "stat-eio")] {
        let line = format!("error: {during} {}", folder.path().join(name).display());
        assert!(stderr.contains(&line), "no `{line}` in {stderr}");
    }
    let entries = restic.entries("latest");
    let files: Vec<_> = entries.values().filter(|node| node["type"] == "file").collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!((&files[0]["name"], &files[0]["size"]), (&"whole".into(), &faulty_fs::FILE_BYTES.into()));
    drop(session);
    restic.check_all();
}

#[test]
fn root_test_files_of_others_are_named_to_a_user() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("closed")).unwrap();
    fs::write(source.join("secret"), "x").unwrap();
    fs::write(source.join("open"), "x").unwrap();
    run(Command::new("chmod").args(["-R", "go+rX"]).arg(folder.path()));
    run(Command::new("chmod").arg("0700").arg(source.join("closed")));
    run(Command::new("chmod").arg("0600").arg(source.join("secret")));
    let restic = Restic::init_with_ours("2");
    run(Command::new("chown").args(["-R", "65534:65534"]).arg(restic.scratch()));
    let own = restic.stash_fs_command();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(own.get_program()).args(own.get_args());
    let output = command.arg("backup").arg(&source).env("RESTIC_PASSWORD", restic.password()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    for name in ["secret", "closed"] {
        assert!(stderr.contains(&source.join(name).display().to_string()), "{name}: {stderr}");
    }
    let entries = restic.entries("latest");
    let names: Vec<_> = entries.values().filter_map(|node| node["name"].as_str()).collect();
    assert!(names.contains(&"open") && !names.contains(&"secret") && !names.contains(&"closed"), "{names:?}");
}

/// The same arguments to restic and to us give the same entries.
#[test]
fn test_what_is_left_out_is_what_restic_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    for (path, size) in [
        ("a/x.log", 10),
        ("a/keep.log", 10),
        ("a/X.LOG", 10),
        ("a/deep/er/y.log", 10),
        ("a/large", 5000),
        ("cache/data", 10),
        ("marked/data", 10),
        ("marked/sub/data", 10),
        ("b/c/d/e", 10),
        ("b/c/f", 10),
        ("empty/.keep", 0),
    ] {
        let path = source.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![b'x'; size]).unwrap();
    }
    fs::write(source.join("cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\nmore").unwrap();
    fs::write(source.join("a/CACHEDIR.TAG"), "no signature").unwrap();
    fs::write(source.join("marked/.nobackup"), "").unwrap();
    fs::write(folder.path().join("patterns"), "# note\n*.log\n!keep.log\n$NOTHING\n").unwrap();
    fs::write(folder.path().join("list"), "source/a/*.log\nsource/b\n").unwrap();
    fs::write(folder.path().join("raw"), "source/b\0source/a/large\0").unwrap();
    let whole = source.to_str().unwrap();
    let table: &[&[&str]] = &[
        &["source"],
        &["."],
        &[whole],
        &["source/b/c", "source/b/c/d"],
        &["source/b/c/d", "source/b"],
        &["source/a/../b", "./source//a"],
        &["source/a", "source/b/c/f", whole],
        &["--exclude", "*.log", "source"],
        &["--exclude", "*.log", "--exclude", "!keep.log", "source"],
        &["--iexclude", "*.LOG", "source"],
        &["--exclude", "a/deep", "--exclude", "b/**/e", "source"],
        &["--exclude", "/source", "source"],
        &["--exclude-file", "patterns", "source"],
        &["--exclude-caches", "source"],
        &["--exclude-if-present", ".nobackup", "source"],
        &["--exclude-if-present", "CACHEDIR.TAG:no sig", "source"],
        &["--exclude-larger-than", "4k", "source"],
        &["--files-from", "list"],
        &["--files-from-raw", "raw"],
        &["--one-file-system", "source"],
    ];
    let (theirs, ours) = (Restic::init(), Restic::init_with_ours("2"));
    for arguments in table {
        let expected = theirs.command().current_dir(folder.path()).arg("backup").args(*arguments).status().unwrap();
        let mut command = ours.stash_fs_command();
        let output = command.current_dir(folder.path()).arg("backup").args(*arguments).output().unwrap();
        assert_eq!(output.status.code(), expected.code(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let list = |restic: &Restic| restic.entries("latest").into_keys().collect::<Vec<_>>();
        assert_eq!(list(&ours), list(&theirs), "{arguments:?}");
        let paths = |restic: &Restic| restic.snapshots().last().unwrap()["paths"].clone();
        assert_eq!(paths(&ours), paths(&theirs), "{arguments:?}");
    }
    ours.check_all();
}

#[test]
fn test_what_restic_refuses_is_refused() {
    let restic = Restic::init_with_ours("2");
    for (arguments, code) in [
        (&["backup"][..], 2),
        (&["backup", "/does/not/exist"], 1),
        (&["backup", "--stdin", "/etc"], 2),
        (&["backup", "--stdin-from-command"], 2),
        (&["backup", "--exclude", "[", "/etc/hostname"], 2),
        (&["backup", "--parent", "0123456789", "/etc/hostname"], 1),
        (&["backup", "--use-fs-snapshot", "/etc/hostname"], 2),
        (&["--pack-size", "1", "backup", "/etc/hostname"], 2),
    ] {
        let output = restic.stash_fs_command().args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(!stderr.is_empty());
        assert!(restic.files("snapshots").is_empty() && restic.files("locks").is_empty(), "{arguments:?}");
    }
}
