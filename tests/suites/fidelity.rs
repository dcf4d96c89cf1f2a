//! A tree of every kind of inode, stored by restic, seen through the mount and after a restore, judged by foreign tools.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use stash_tests::fixture::{make_every_kind, rsync_differences, run};
use stash_tests::mounted::stash_fs;
use stash_tests::restic::Restic;

/// One line for each entry: kind, mode, owners, size, links, device, times to the nanosecond, name, target.
fn stats(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let output =
        Command::new("find").current_dir(root).args([".", "-printf", r"%p\0%y %m %U %G %s %T@ %l\0"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut fields = output.stdout.split(|b| *b == 0);
    let mut found = BTreeMap::new();
    while let (Some(path), Some(line)) = (fields.next().filter(|p| !p.is_empty()), fields.next()) {
        let mut line = String::from_utf8_lossy(line).into_owned();
        // A directory's size is its filesystem's own affair.
        if line.starts_with('d') {
            let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            words[4] = "-".to_owned();
            line = words.join(" ");
        }
        found.insert(path.to_vec(), line);
    }
    found
}

fn dump(program: &str, args: &[&str], root: &Path) -> String {
    run(Command::new(program).args(args).arg(".").current_dir(root).env("LC_ALL", "C"))
}

fn assert_equal_trees(source: &Path, copy: &Path) {
    assert_eq!(rsync_differences(&["-aHAX"], source, copy), "", "rsync finds differences");
    run(Command::new("diff")
        .args(["-r", "--no-dereference", "--exclude=fifo", "--exclude=socket", "--exclude=char", "--exclude=block"])
        .arg(source)
        .arg(copy));
    let (ours, theirs) = (stats(copy), stats(source));
    for (path, line) in &theirs {
        assert_eq!(ours.get(path), Some(line), "{}", String::from_utf8_lossy(path));
    }
    assert_eq!(ours.len(), theirs.len());
    let attributes = ["-R", "-h", "-d", "-m", "-", "--absolute-names"];
    assert_eq!(sorted(&dump("getfattr", &attributes, copy)), sorted(&dump("getfattr", &attributes, source)));
    let acls = ["-R", "-P", "-n", "--absolute-names"];
    assert_eq!(sorted(&dump("getfacl", &acls, copy)), sorted(&dump("getfacl", &acls, source)));
}

/// Both tools walk in the order of the directory.
fn sorted(text: &str) -> Vec<&str> {
    let mut blocks: Vec<&str> = text.split("\n\n").collect();
    blocks.sort_unstable();
    blocks
}

/// The tree without its socket: restic 0.14 neither stores nor makes one.
fn make_what_restic_stores(root: &Path) {
    make_every_kind(root);
    std::fs::remove_file(root.join("socket")).unwrap();
}

/// Our program on restic's repository.
fn ours(restic: &Restic) -> Command {
    let mut command = stash_fs();
    command.args(["--no-cache", "--repo"]).arg(restic.path()).env("RESTIC_PASSWORD", restic.password());
    command
}

#[test]
fn root_test_fidelity_of_a_mount_of_what_restic_wrote() {
    for version in ["1", "2"] {
        let source = tempfile::tempdir().unwrap();
        make_what_restic_stores(&source.path().join("tree"));
        let restic = Restic::init_with(&["--repository-version", version]);
        restic.backup([source.path()]);
        let mounted = restic.mount().mount();
        let tree = mounted.path().join("snapshots/latest").join(source.path().strip_prefix("/").unwrap()).join("tree");
        assert_equal_trees(&source.path().join("tree"), &tree);

        // Hard links are one inode; devices keep their numbers; holes cost no blocks.
        use std::os::unix::fs::MetadataExt;
        let stat = |name: &str| std::fs::symlink_metadata(tree.join(name)).unwrap();
        assert_eq!(stat("linked").ino(), stat("dir/linked-too").ino());
        assert_eq!(stat("linked").nlink(), 3);
        assert_eq!(stat("char").rdev(), rustix::fs::makedev(1, 3));
        assert_eq!(stat("block").rdev(), rustix::fs::makedev(259, 70_000));
        assert!(stat("one").nlink() >= 1);
    }
}

#[test]
fn root_test_fidelity_of_a_restore_of_what_restic_wrote() {
    let source = tempfile::tempdir().unwrap();
    make_what_restic_stores(&source.path().join("tree"));
    let restic = Restic::init();
    restic.backup([source.path()]);
    let target = tempfile::tempdir().unwrap();
    let inside = format!("latest:{}", source.path().join("tree").display());
    run(ours(&restic).args(["restore", &inside, "--target"]).arg(target.path().join("out")));
    assert_equal_trees(&source.path().join("tree"), &target.path().join("out"));
}

#[test]
fn root_test_fidelity_of_our_backup_restored_by_restic() {
    let source = tempfile::tempdir().unwrap();
    make_what_restic_stores(&source.path().join("tree"));
    for version in ["1", "2"] {
        let restic = Restic::init_with(&["--repository-version", version]);
        run(ours(&restic).args(["backup", "--quiet"]).arg(source.path()));
        restic.run(["check", "--read-data"]);
        let target = tempfile::tempdir().unwrap();
        restic.run(["restore", "latest", "--target", target.path().to_str().unwrap()]);
        let restored = target.path().join(source.path().strip_prefix("/").unwrap()).join("tree");
        assert_eq!(rsync_differences(&["-aHAX"], &source.path().join("tree"), &restored), "");
    }
}
