//! The copier: what is there already, what is in the way, what fails half way, and what must never be touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stash_tests::fixture::{make_every_kind, pattern, run};
use stash_tests::forge::{Forge, PASSWORD, dir_node, file_node, node};
use stash_tests::mounted::{copy_program, stash_fs, wait_for, without_sys_admin};
use stash_tests::restic::Restic;

use crate::cli::{lines, ours, outcome};

/// A repository with one snapshot of a small tree, and the tree.
struct Small {
    restic: Restic,
    source: tempfile::TempDir,
    spec: String,
}

impl Small {
    fn new() -> Self {
        let source = tempfile::tempdir().unwrap();
        let at = |name: &str| source.path().join(name);
        fs::create_dir_all(at("dir/inner")).unwrap();
        fs::write(at("text"), "text").unwrap();
        fs::write(at("dir/big"), pattern(5 << 20, 1)).unwrap();
        fs::write(at("dir/inner/leaf"), "leaf").unwrap();
        symlink("text", at("link")).unwrap();
        let restic = Restic::init();
        restic.backup([source.path()]);
        let spec = format!("latest:{}", source.path().display());
        Self { restic, source, spec }
    }

    fn restore(&self, target: &Path, arguments: &[&str]) -> (i32, String, String) {
        outcome(ours(&self.restic).args(["restore", &self.spec, "--target"]).arg(target).args(arguments))
    }

    fn summary(&self, target: &Path, arguments: &[&str]) -> Value {
        let (code, stdout, stderr) = self.restore(target, &[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{stderr}");
        lines(&stdout).pop().unwrap()
    }
}

fn differences(source: &Path, copy: &Path) -> String {
    run(Command::new("rsync")
        .args(["-aHAX", "--numeric-ids", "--devices", "--specials", "--checksum", "--delete", "--dry-run"])
        .arg("--itemize-changes")
        .arg(format!("{}/", source.display()))
        .arg(format!("{}/", copy.display())))
}

/// As [`differences`], without the directory itself: a target that was there keeps its own metadata.
fn differences_below(source: &Path, copy: &Path) -> String {
    differences(source, copy).lines().filter(|line| !line.ends_with(" ./")).collect()
}

/// Names below a directory that are no directories, with what they hold.
fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            // A restore that goes on meanwhile renames what is whole.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.is_dir() {
                stack.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap_or_default());
            }
        }
    }
    found
}

fn parts(root: &Path) -> usize {
    contents(root).keys().filter(|path| path.to_string_lossy().ends_with(".part")).count()
}

#[test]
fn test_a_rerun_leaves_what_is_the_same() {
    let small = Small::new();
    let out = small.restic.scratch().join("out");
    let first = small.summary(&out, &[]);
    assert_eq!(first["files_restored"], 6, "{first}");
    assert_eq!(first["bytes_restored"], (5 << 20) + 8);
    assert_eq!(differences(small.source.path(), &out), "");
    let inode = out.join("dir/big").metadata().unwrap().ino();
    for arguments in
        [&[][..], &["--verify"], &["--overwrite", "if-changed"], &["--overwrite", "if-changed", "--verify"]]
    {
        let again = small.summary(&out, arguments);
        assert_eq!(
            (&again["files_restored"], &again["files_skipped"]),
            (&0.into(), &6.into()),
            "{arguments:?} {again}"
        );
        assert_eq!(again["bytes_restored"], 0);
        assert_eq!(out.join("dir/big").metadata().unwrap().ino(), inode);
    }
    assert_eq!(differences(small.source.path(), &out), "");
}

#[test]
fn test_overwrite_policies() {
    let small = Small::new();
    let original = fs::read(small.source.path().join("dir/big")).unwrap();
    let time = small.source.path().join("dir/big").metadata().unwrap().modified().unwrap();
    let second = std::time::Duration::from_secs(1);
    // One byte is wrong in the middle; the time is as in the snapshot, or later.
    for (policy, same_time, mended) in [
        ("always", true, true),
        ("always", false, true),
        ("if-changed", true, false),
        ("if-changed", false, true),
        ("if-newer", true, false),
        ("if-newer", false, false),
        ("never", true, false),
    ] {
        let out = tempfile::tempdir().unwrap();
        small.summary(out.path(), &[]);
        let big = out.path().join("dir/big");
        let mut damaged = original.clone();
        damaged[3 << 20] ^= 1;
        fs::write(&big, &damaged).unwrap();
        fs::File::open(&big).unwrap().set_modified(if same_time { time } else { time + second }).unwrap();
        let report = small.summary(out.path(), &["--overwrite", policy]);
        let now = fs::read(&big).unwrap();
        assert_eq!(now == original, mended, "{policy} {same_time}");
        assert_eq!(now == damaged, !mended, "{policy} {same_time}");
        assert_eq!(report["files_restored"], i32::from(mended), "{policy} {same_time} {report}");
        assert_eq!(parts(out.path()), 0);
    }
    // A newer snapshot replaces an older file; what is missing is restored under every policy.
    for policy in ["if-newer", "never"] {
        let out = tempfile::tempdir().unwrap();
        small.summary(out.path(), &["--overwrite", policy]);
        assert_eq!(fs::read(out.path().join("dir/big")).unwrap(), original);
        fs::write(out.path().join("dir/big"), "old").unwrap();
        fs::File::open(out.path().join("dir/big")).unwrap().set_modified(time - second).unwrap();
        small.summary(out.path(), &["--overwrite", policy]);
        assert_eq!(fs::read(out.path().join("dir/big")).unwrap() == original, policy == "if-newer");
    }
}

#[test]
fn test_delete_removes_only_what_it_may() {
    let small = Small::new();
    let out = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("precious"), "x").unwrap();
    let litter = || {
        small.summary(out.path(), &[]);
        fs::create_dir_all(out.path().join("dir/extra/deep")).unwrap();
        fs::write(out.path().join("dir/extra/deep/x"), "x").unwrap();
        fs::write(out.path().join("stray"), "x").unwrap();
        fs::write(out.path().join("stray.keep"), "x").unwrap();
        fs::remove_file(out.path().join("leave")).ok();
        symlink(outside.path(), out.path().join("leave")).unwrap();
    };
    litter();
    let report = small.summary(out.path(), &["--delete", "--dry-run"]);
    assert_eq!(report["files_deleted"], 6, "{report}");
    assert!(out.path().join("stray").exists());
    let report = small.summary(out.path(), &["--delete"]);
    assert_eq!(report["files_deleted"], 6, "{report}");
    assert_eq!(differences_below(small.source.path(), out.path()), "");
    assert!(outside.path().join("precious").exists());
    // What is excluded stays, and so does a directory that holds it.
    litter();
    fs::write(out.path().join("dir/extra/deep/y.keep"), "x").unwrap();
    small.summary(out.path(), &["--delete", "--exclude", "*.keep"]);
    assert!(out.path().join("stray.keep").exists() && out.path().join("dir/extra/deep/y.keep").exists());
    assert!(!out.path().join("stray").exists() && !out.path().join("dir/extra/deep/x").exists());
    // Only what is included goes.
    litter();
    small.summary(out.path(), &["--delete", "--include", "/dir"]);
    assert!(out.path().join("stray").exists() && !out.path().join("dir/extra").exists());
    // The whole system is not removed by a slip.
    let (code, _, stderr) = small.restore(Path::new("/"), &["--delete", "--dry-run"]);
    assert!(code == 2 && stderr.contains("--include or --exclude"), "{stderr}");
}

#[test]
fn test_links_in_the_target_are_not_followed() {
    let small = Small::new();
    let out = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("inner")).unwrap();
    fs::write(outside.path().join("text"), "precious").unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o700)).unwrap();
    symlink(outside.path(), out.path().join("dir")).unwrap();
    symlink(outside.path().join("text"), out.path().join("text")).unwrap();
    let report = small.summary(out.path(), &[]);
    assert_eq!(report["files_failed"], 0);
    assert_eq!(fs::read(outside.path().join("text")).unwrap(), b"precious");
    assert_eq!(contents(outside.path()).len(), 1);
    assert!(out.path().join("dir").symlink_metadata().unwrap().is_dir());
    assert_eq!(fs::read(out.path().join("text")).unwrap(), b"text");
    assert_eq!(outside.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn test_a_hostile_snapshot_stays_in_the_target() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("repository");
    let mut forge = Forge::create(&repository);
    let blob = forge.blob("data", b"evil");
    let evil = |name: &str| file_node(name, 4, &[blob]);
    let inner = forge.tree(&[evil("x")]);
    // Two entries of one name, a link and a directory; names that climb; a directory without a tree; a lost blob.
    let lost = stash_repo::BlobId(stash_repo::Id::hash(b"lost"));
    let root = forge.tree(&[
        evil("../up"),
        evil("/etc/evil"),
        evil("a/b"),
        evil(".."),
        evil(""),
        dir_node("headless", None),
        file_node("lost", 4, &[lost]),
        node("out", "symlink", json!({ "linktarget": folder.path().join("outside") })),
        dir_node("out", Some(inner)),
        evil("honest"),
    ]);
    forge.snapshot(root);
    drop(forge);
    fs::create_dir(folder.path().join("outside")).unwrap();
    let target = folder.path().join("target");
    let (code, _, stderr) = outcome(
        stash_fs()
            .args(["--no-cache", "-r"])
            .arg(&repository)
            .env("RESTIC_PASSWORD", PASSWORD)
            .args(["restore", "latest", "--target"])
            .arg(&target),
    );
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("/lost: blob ") && stderr.contains("/headless: the directory has no tree"), "{stderr}");
    assert_eq!(fs::read(target.join("honest")).unwrap(), b"evil");
    assert_eq!(contents(&folder.path().join("outside")).len(), 0);
    assert!(!folder.path().join("up").exists() && !target.join("etc").exists() && !target.join("lost").exists());
    assert_eq!(parts(&target), 0);
}

#[test]
fn test_a_lost_pack_is_named_and_the_rest_goes_on() {
    let source = tempfile::tempdir().unwrap();
    let restic = Restic::init();
    // Two backups, so that each file has its own pack.
    fs::write(source.path().join("good"), pattern(1 << 20, 1)).unwrap();
    restic.backup([source.path()]);
    fs::write(source.path().join("bad"), pattern(1 << 20, 2)).unwrap();
    restic.backup([source.path()]);
    let stat = |name: &str| -> Value {
        let spec = format!("latest:{}/{name}", source.path().display());
        serde_json::from_str(&run(ours(&restic).args(["stat", "--json", &spec]))).unwrap()
    };
    let pack = stat("bad")["blobs"][0]["pack"].as_str().unwrap().to_owned();
    assert!(stat("good")["blobs"].as_array().unwrap().iter().all(|blob| blob["pack"] != pack.as_str()));
    let stored = restic.path().join("data").join(&pack[..2]).join(&pack);
    let whole = fs::read(&stored).unwrap();
    fs::set_permissions(&stored, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&stored, vec![0; whole.len()]).unwrap();
    let out = tempfile::tempdir().unwrap();
    let spec = format!("latest:{}", source.path().display());
    let restore = || outcome(ours(&restic).args(["restore", &spec, "--target"]).arg(out.path()));
    let (code, _, stderr) = restore();
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("restore /bad: "), "{stderr}");
    assert!(stderr.contains("1 files or directories were not restored"), "{stderr}");
    assert_eq!(fs::read(out.path().join("good")).unwrap(), pattern(1 << 20, 1));
    assert!(!out.path().join("bad").exists());
    assert_eq!(parts(out.path()), 0);
    // With --json the failure is a line on standard error, restic's.
    let (_, _, stderr) = outcome(ours(&restic).args(["restore", "--json", &spec, "--target"]).arg(out.path()));
    assert!(
        stderr.lines().any(|line| line.contains("\"message_type\":\"error\"") && line.contains("\"/bad\"")),
        "{stderr}"
    );
    // The pack is back: a rerun goes on.
    fs::write(&stored, whole).unwrap();
    assert_eq!(restore().0, 0);
    assert_eq!(fs::read(out.path().join("bad")).unwrap(), pattern(1 << 20, 2));
}

/// Starts a restore that takes seconds, and waits until it has written something.
fn slow_restore(restic: &Restic, spec: &str, out: &Path) -> std::process::Child {
    let child = ours(restic)
        .args(["--limit-download", "4096", "restore", spec, "--target"])
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the first part", || (out.is_dir() && parts(out) > 0).then_some(()));
    child
}

#[test]
fn test_killed_or_interrupted_and_run_again() {
    let source = tempfile::tempdir().unwrap();
    for i in 0..8 {
        fs::write(source.path().join(format!("f{i}")), pattern(6 << 20, i)).unwrap();
    }
    let restic = Restic::init();
    restic.backup([source.path()]);
    let spec = format!("latest:{}", source.path().display());
    for signal in [Signal::KILL, Signal::INT] {
        let out = restic.scratch().join(format!("out-{signal:?}"));
        let mut child = slow_restore(&restic, &spec, &out);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        if signal == Signal::INT {
            assert_eq!(status.code(), Some(130));
        }
        // Never a half file under its real name.
        for (name, bytes) in contents(&out) {
            if !name.to_string_lossy().ends_with(".part") {
                assert_eq!(Some(bytes), fs::read(source.path().join(&name)).ok(), "{}", name.display());
            }
        }
        let again = run(ours(&restic).args(["restore", "--json", &spec, "--target"]).arg(&out));
        let report = lines(&again).pop().unwrap();
        assert_eq!(report["files_failed"], 0);
        assert_eq!(parts(&out), 0);
        assert_eq!(differences_below(source.path(), &out), "");
    }
}

#[test]
fn test_sparse_leaves_holes() {
    let source = tempfile::tempdir().unwrap();
    let file = fs::File::create(source.path().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 20 << 20).unwrap();
    file.set_len(40 << 20).unwrap();
    let restic = Restic::init();
    restic.backup([source.path()]);
    let spec = format!("latest:{}", source.path().display());
    let out = tempfile::tempdir().unwrap();
    for (argument, most, least) in [("--sparse", 1 << 20, 0), ("--verify", u64::MAX, 40 << 20)] {
        let target = out.path().join(argument);
        run(ours(&restic).args(["restore", &spec, argument, "--target"]).arg(&target));
        let restored = target.join("sparse");
        assert_eq!(fs::read(&restored).unwrap(), fs::read(source.path().join("sparse")).unwrap());
        let taken = restored.metadata().unwrap().blocks() * 512;
        assert!((least..=most).contains(&taken), "{argument}: {taken} bytes");
    }
}

#[test]
fn test_a_directory_in_the_way() {
    let small = Small::new();
    let out = tempfile::tempdir().unwrap();
    fs::create_dir_all(out.path().join("text/full")).unwrap();
    fs::create_dir_all(out.path().join("link")).unwrap();
    let (code, _, stderr) = small.restore(out.path(), &[]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("restore /text: ") && stderr.contains("--delete removes it"), "{stderr}");
    assert!(out.path().join("text/full").is_dir());
    assert!(out.path().join("link").symlink_metadata().unwrap().is_symlink(), "an empty one gives way");
    assert_eq!(small.restore(out.path(), &["--delete"]).0, 0);
    assert_eq!(fs::read(out.path().join("text")).unwrap(), b"text");
}

#[test]
fn test_dry_run_changes_nothing() {
    let small = Small::new();
    let out = small.restic.scratch().join("out");
    let report = small.summary(&out, &["--dry-run"]);
    assert_eq!((&report["files_restored"], &report["files_skipped"]), (&6.into(), &0.into()), "{report}");
    assert!(!out.exists());
    small.summary(&out, &[]);
    fs::write(out.join("text"), "other").unwrap();
    let report = small.summary(&out, &["--dry-run"]);
    assert_eq!((&report["files_restored"], &report["files_skipped"]), (&1.into(), &5.into()), "{report}");
    assert_eq!(fs::read(out.join("text")).unwrap(), b"other");
}

#[test]
fn test_one_file_and_the_ways_to_what_is_included() {
    let small = Small::new();
    let out = tempfile::tempdir().unwrap();
    let file = format!("{}/dir/inner/leaf", small.spec);
    run(ours(&small.restic).args(["restore", &file, "--target"]).arg(out.path()));
    assert_eq!(fs::read(out.path().join("leaf")).unwrap(), b"leaf");
    let out = tempfile::tempdir().unwrap();
    fs::set_permissions(small.source.path().join("dir"), fs::Permissions::from_mode(0o711)).unwrap();
    small.restic.backup([small.source.path()]);
    small.summary(out.path(), &["--include", "/dir/inner/leaf"]);
    assert_eq!(contents(out.path()).len(), 1);
    assert_eq!(out.path().join("dir").metadata().unwrap().permissions().mode() & 0o777, 0o711);
}

#[test]
fn root_test_owners_are_mapped() {
    let small = Small::new();
    std::os::unix::fs::chown(small.source.path().join("text"), Some(77), Some(78)).unwrap();
    small.restic.backup([small.source.path()]);
    let owner = |arguments: &[&str]| {
        let out = tempfile::tempdir().unwrap();
        small.summary(out.path(), arguments);
        let metadata = out.path().join("text").metadata().unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner(&[]), (77, 78));
    assert_eq!(owner(&["--no-owner"]), (0, 0));
    assert_eq!(owner(&["--owner", "5"]), (5, 78));
    assert_eq!(owner(&["--owner", "5:6"]), (5, 6));
}

#[test]
fn root_test_an_ordinary_user_restores_what_may_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let source = folder.path().join("source");
    make_every_kind(&source);
    // A directory that nobody but root could write into.
    fs::create_dir(source.join("locked")).unwrap();
    fs::write(source.join("locked/in"), "in").unwrap();
    fs::set_permissions(source.join("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    let restic = Restic::init();
    restic.backup([&source]);
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(restic.scratch()));
    let binary = folder.path().join("stash-fs");
    copy_program(&binary);
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    std::os::unix::fs::chown(&out, Some(65_534), Some(65_534)).unwrap();
    let restore = || {
        let mut command = stash_tests::mounted::clean(Command::new(&binary));
        command.args(["--no-cache", "-r"]).arg(restic.path()).env("RESTIC_PASSWORD", restic.password());
        command.args(["restore", &format!("latest:{}", source.display()), "--target"]).arg(&out);
        outcome(command.uid(65_534).gid(65_534).current_dir("/"))
    };
    let (code, _, stderr) = restore();
    // Devices are the one thing that cannot be made at all.
    assert_eq!(code, 3, "{stderr}");
    let failed: Vec<&str> = stderr.lines().filter(|line| line.starts_with("stash-fs: restore ")).collect();
    assert!(failed.len() == 2 && failed.iter().all(|l| l.contains("/char") || l.contains("/block")), "{stderr}");
    assert_eq!(stderr.matches("owners are not restored").count(), 1, "{stderr}");
    let metadata = |name: &str| out.join(name).symlink_metadata().unwrap();
    assert_eq!((metadata("owned").uid(), metadata("suid").permissions().mode() & 0o7777), (65_534, 0o755));
    assert_eq!(metadata("locked").permissions().mode() & 0o777, 0o555);
    assert_eq!(xattr::get(out.join("one"), "user.colour").unwrap().unwrap(), b"blue");
    assert_eq!(fs::read(out.join("big")).unwrap(), fs::read(source.join("big")).unwrap());
    assert_eq!(metadata("one").mtime_nsec(), 987_654_321);
    // Again, over what is read-only now.
    assert_eq!(restore().0, 3);
    assert_eq!(metadata("locked").permissions().mode() & 0o777, 0o555);
}

/// As in a container, which has no CAP_SYS_ADMIN.
#[test]
fn root_test_root_without_rights_leaves_attributes_of_administrators() {
    let small = Small::new();
    let at = |root: &Path, name: &str| xattr::get(root.join("text"), name).unwrap();
    for (name, value) in [("trusted.volume", "gluster"), ("security.test", "hash"), ("user.colour", "blue")] {
        xattr::set(small.source.path().join("text"), name, value.as_bytes()).unwrap();
    }
    small.restic.backup([small.source.path()]);
    let whole = tempfile::tempdir().unwrap();
    small.summary(whole.path(), &[]);
    assert_eq!(at(whole.path(), "trusted.volume").unwrap(), b"gluster");
    assert_eq!(at(whole.path(), "security.test").unwrap(), b"hash");
    let out = tempfile::tempdir().unwrap();
    let mut command = without_sys_admin(&ours(&small.restic));
    let (code, _, stderr) = outcome(command.args(["restore", &small.spec, "--target"]).arg(out.path()));
    assert_eq!((code, stderr.matches("CAP_SYS_ADMIN").count()), (0, 1), "{stderr}");
    assert_eq!((at(out.path(), "trusted.volume"), at(out.path(), "security.test")), (None, None));
    assert_eq!(at(out.path(), "user.colour").unwrap(), b"blue");
    assert_eq!(fs::read(out.path().join("text")).unwrap(), b"text");
}

#[test]
fn root_test_a_full_disk_is_named_and_smaller_files_follow() {
    struct Tmpfs(tempfile::TempDir);
    impl Drop for Tmpfs {
        fn drop(&mut self) {
            rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).ok();
        }
    }
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("a-large"), pattern(24 << 20, 1)).unwrap();
    fs::write(source.path().join("b-small"), pattern(1 << 20, 2)).unwrap();
    fs::write(source.path().join("c-small"), pattern(1 << 20, 3)).unwrap();
    let restic = Restic::init();
    restic.backup([source.path()]);
    let disk = Tmpfs(tempfile::tempdir().unwrap());
    let options = c"size=8m";
    rustix::mount::mount("tmpfs", disk.0.path(), "tmpfs", rustix::mount::MountFlags::empty(), options).unwrap();
    let spec = format!("latest:{}", source.path().display());
    let (code, _, stderr) = outcome(ours(&restic).args(["restore", &spec, "--target"]).arg(disk.0.path()));
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("restore /a-large: No space left on device"), "{stderr}");
    assert_eq!(parts(disk.0.path()), 0);
    assert!(!disk.0.path().join("a-large").exists());
    for (name, seed) in [("b-small", 2), ("c-small", 3)] {
        assert_eq!(fs::read(disk.0.path().join(name)).unwrap(), pattern(1 << 20, seed), "{name}");
    }
}

#[test]
fn root_test_a_restore_by_us_is_a_restore_by_restic() {
    let source = tempfile::tempdir().unwrap();
    make_every_kind(&source.path().join("tree"));
    for version in ["1", "2"] {
        let restic = Restic::init_with(&["--repository-version", version]);
        restic.backup([source.path()]);
        let (ours_out, theirs_out) = (restic.scratch().join("ours"), restic.scratch().join("theirs"));
        run(ours(&restic).args(["restore", "latest", "--target"]).arg(&ours_out));
        restic.run(["restore", "latest", "--target", theirs_out.to_str().unwrap()]);
        let below = |out: &Path| out.join(source.path().strip_prefix("/").unwrap());
        let tree = below(&theirs_out).join("tree").metadata().unwrap().modified().unwrap();
        fs::File::open(below(&ours_out).join("tree")).unwrap().set_modified(tree).unwrap();
        assert_eq!(differences(&below(&theirs_out), &below(&ours_out)), "", "format {version}");
    }
}
