//! `dump` of directories, unpacked by foreign programs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use stash_tests::fixture::{make_every_kind, rsync_differences, run};
use stash_tests::restic::Restic;

use super::{ours, outcome};

#[test]
fn root_test_tar_unpacks_to_the_same_tree() {
    let source = tempfile::tempdir().unwrap();
    let tree = source.path().join("tree");
    make_every_kind(&tree);
    for (name, acl) in [("dir", "u:1234:rx,d:u:4321:rwx,d:g:77:r"), ("odd:name", "g:4294967294:rw"), ("one", "m::r")] {
        if name == "odd:name" {
            fs::write(tree.join(name), "x").unwrap();
        }
        run(Command::new("setfacl").args(["-m", acl]).arg(tree.join(name)));
    }
    xattr::set(tree.join("one"), "user.a=b%25=%3D", b"=\n%").unwrap();
    let restic = Restic::init();
    restic.backup([source.path()]);
    let target = tempfile::tempdir().unwrap();
    let mut dump =
        ours(&restic).args(["dump", "latest", tree.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
    run(Command::new("tar")
        .args(["--extract", "--numeric-owner", "--same-owner", "--preserve-permissions", "--xattrs", "--acls"])
        .args(["--xattrs-include=*", "--absolute-names", "--directory"])
        .arg(target.path())
        .stdin(dump.stdout.take().unwrap()));
    assert!(dump.wait().unwrap().success());
    // No archive holds a socket.
    fs::remove_file(tree.join("socket")).unwrap();
    let times = fs::metadata(target.path().join(tree.strip_prefix("/").unwrap())).unwrap().modified().unwrap();
    fs::File::open(&tree).unwrap().set_modified(times).unwrap();
    let unpacked = target.path().join(tree.strip_prefix("/").unwrap());
    assert_eq!(rsync_differences(&["-aHAX"], &tree, &unpacked), "");
    let acls = |root: &Path| {
        run(Command::new("getfacl").args(["--recursive", "--numeric", "--absolute-names", "."]).current_dir(root))
    };
    let expected = acls(&tree);
    assert!(expected.contains("default:user:4321:rwx") && expected.contains("group:4294967294:rw-"), "{expected}");
    assert_eq!(acls(&unpacked), expected);
    let attribute = xattr::get(unpacked.join("one"), "user.a=b%25=%3D").unwrap();
    assert_eq!(attribute.as_deref(), Some(b"=\n%".as_slice()));
}

#[test]
fn test_tar_lists_what_restics_tar_lists() {
    let source = tempfile::tempdir().unwrap();
    for name in ["a/b/c", "a/d", &format!("{}/{}", "long".repeat(40), "name".repeat(50))] {
        let path = source.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    std::os::unix::fs::symlink("t".repeat(300), source.path().join("link")).unwrap();
    let restic = Restic::init();
    restic.backup([source.path()]);
    let list = |command: &mut Command| {
        let output = command.args(["dump", "latest", "/"]).output().unwrap();
        let tar = source.path().join("tar");
        fs::write(&tar, output.stdout).unwrap();
        run(Command::new("tar").args(["--list", "--verbose", "--numeric-owner", "--file"]).arg(&tar))
    };
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(list(&mut ours(&restic))), sorted(list(&mut restic.command())));
}

#[test]
fn test_zip_unpacks_to_the_same_files() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir_all(source.path().join("a/void")).unwrap();
    fs::write(source.path().join("a/text"), "text ".repeat(10_000)).unwrap();
    fs::write(source.path().join("a/random"), stash_tests::fixture::pattern(3 << 20, 1)).unwrap();
    fs::write(source.path().join("a/empty"), "").unwrap();
    fs::write(source.path().join("ümlaut"), "ü").unwrap();
    std::os::unix::fs::symlink("a/text", source.path().join("link")).unwrap();
    let restic = Restic::init();
    restic.backup([source.path()]);
    let target = tempfile::tempdir().unwrap();
    let zip = target.path().join("x.zip");
    let path = source.path().to_str().unwrap();
    run(ours(&restic).args(["dump", "--archive", "zip", "latest", path, "--target"]).arg(&zip));
    let out = target.path().join("out");
    run(Command::new("unzip").arg("-q").arg(&zip).arg("-d").arg(&out));
    let unpacked = out.join(path.trim_start_matches('/'));
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(source.path()).arg(unpacked));
}

#[test]
fn test_dump_of_what_is_no_file_says_so() {
    let source = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("x", source.path().join("link")).unwrap();
    let restic = Restic::init();
    restic.backup([source.path()]);
    let link = source.path().join("link");
    let (code, _, stderr) = outcome(ours(&restic).args(["dump", "latest", link.to_str().unwrap()]));
    assert!(code == 1 && stderr.contains("is neither a file nor a directory"), "{stderr}");
    let (code, _, stderr) = outcome(ours(&restic).args(["dump", "latest", "/nowhere"]));
    assert!(code == 1 && stderr.contains("has no"), "{stderr}");
}
