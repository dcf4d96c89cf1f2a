//! Volumes that can be written: what a program does with them, what they leave, and what restarts, a full disk and a hostile backup do.

use std::ffi::CString;
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use stash_control::Overlay;
use stash_tests::fixture::run;
use stash_tests::small_disk::SmallDisk;

use super::*;

fn overlay_of(restic: &Restic, source: &Path, volume: &str, scratch_bytes: u64) -> MountRequest {
    MountRequest { overlay: Some(Overlay { scratch_bytes }), ..request(restic, source, volume) }
}

impl Node {
    fn overlay(&self, restic: &Restic, source: &Path, volume: &str) -> PathBuf {
        self.mount(overlay_of(restic, source, volume, 32 << 20)).unwrap();
        self.volume(volume)
    }

    /// The line of the kernel's table of what is mounted on a volume.
    fn overlay_line(&self, volume: &str) -> Option<String> {
        let mountpoint = format!(" {} ", self.volume(volume).display());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().rfind(|line| line.contains(&mountpoint)).map(str::to_owned)
    }

    /// What is left of overlays: names in the scratch directory, what is mounted there, loop devices of files there.
    fn left(&self) -> Vec<String> {
        let scratch = self.folder.path().canonicalize().unwrap().join("scratch");
        let scratch = scratch.to_str().unwrap();
        let names = fs::read_dir(scratch).unwrap().map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        // An overlay's own line names its layers among the options, the last field.
        let mounted = |line: &&str| line.split(" - ").next().unwrap().contains(scratch);
        let devices = fs::read_dir("/sys/block").unwrap().filter_map(|device| {
            let file = fs::read_to_string(device.unwrap().path().join("loop/backing_file")).ok()?;
            file.starts_with(scratch).then_some(file)
        });
        names.chain(table.lines().filter(mounted).map(str::to_owned)).chain(devices).collect()
    }

    fn nothing_is_left(&self) {
        wait_for("nothing is left", || self.left().is_empty().then_some(()));
    }
}

#[test]
fn test_an_overlay_is_written_and_goes_whole() {
    let (restic, source) = repository();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o2751)).unwrap();
    chown(&source, Some(1000), Some(1001)).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o2751)).unwrap();
    restic.backup([&source]);
    let mut node = Node::start();
    let root = node.overlay(&restic, &source, "v1");
    let other = node.overlay(&restic, &source, "v2");
    let line = node.overlay_line("v1").unwrap();
    assert!(line.contains(" rw,nosuid,nodev,") && line.contains(" - overlay stash-fs:v1 "), "{line}");
    let (found, expected) = (fs::metadata(&root).unwrap(), fs::metadata(&source).unwrap());
    assert_eq!((found.mode(), found.uid(), found.gid()), (expected.mode(), 1000, 1001));
    assert_eq!(found.mtime(), expected.mtime());

    // As any directory.
    fs::write(root.join("new"), "new").unwrap();
    fs::write(root.join("dir/f1"), "changed").unwrap();
    let mut big = File::options().append(true).open(root.join("big")).unwrap();
    big.write_all(b"tail").unwrap();
    assert_eq!(fs::metadata(root.join("big")).unwrap().len(), (5 << 20) + 4);
    fs::remove_file(root.join("dir/f2")).unwrap();
    fs::rename(root.join("dir"), root.join("renamed")).unwrap();
    assert_eq!(fs::read_to_string(root.join("renamed/f1")).unwrap(), "changed");
    assert_eq!(fs::read_to_string(root.join("renamed/f3")).unwrap(), "3");
    assert_eq!(fs::read_dir(root.join("renamed")).unwrap().count(), 99);
    fs::set_permissions(root.join("renamed/f4"), fs::Permissions::from_mode(0o600)).unwrap();
    chown(root.join("renamed/f4"), Some(5), Some(6)).unwrap();
    let found = fs::metadata(root.join("renamed/f4")).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o600, 5, 6));
    write_mapped(&root.join("renamed/f5"), b'!');
    assert_eq!(fs::read_to_string(root.join("renamed/f5")).unwrap(), "!");
    fs::hard_link(root.join("new"), root.join("hard")).unwrap();
    std::os::unix::fs::symlink("new", root.join("link")).unwrap();
    fs::remove_dir_all(root.join("renamed")).unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    assert_eq!(fs::read_dir(root.join("dir")).unwrap().count(), 0, "nothing of the snapshot shines through");

    // Nobody else sees it, and the snapshot is what it was.
    assert_eq!(fs::read_to_string(other.join("dir/f1")).unwrap(), "1");
    assert!(!other.join("new").exists());

    drop(big);
    let open = File::open(root.join("new")).unwrap();
    assert_eq!(node.unmount("v1", false), Err(Code::FailedPrecondition), "it is in use");
    assert_eq!(node.unmount("v1", true), Ok(()));
    assert_eq!(node.overlay_line("v1"), None);
    assert_eq!(std::io::read_to_string(&open).unwrap(), "new", "an open file stays good");
    // Nothing is mounted there: whoever wants the same again waits for its end, also where another daemon is asked.
    for daemon in 0..2 {
        if daemon > 0 {
            node.restart_daemon();
        }
        wait_for("what is known of both", || {
            let troubles: Vec<_> = node.list().into_iter().map(|mount| mount.trouble).collect();
            matches!(&troubles[..], [one, two] if one.contains("detached") && two.is_empty()).then_some(())
        });
        assert_eq!(node.mount(overlay_of(&restic, &source, "v1", 32 << 20)), Err(Code::Aborted));
    }
    assert_eq!(std::io::read_to_string(&File::open(other.join("dir/f1")).unwrap()).unwrap(), "1");
    drop(open);
    node.unmount_when_free("v2");
    node.unmount_when_free("v2");
    node.nothing_is_left();
    wait_for("no mount is known", || node.list().is_empty().then_some(()));
    // What was written went with it.
    let root = node.overlay(&restic, &source, "v1");
    assert!(!root.join("new").exists() && root.join("dir/f2").exists());
    node.unmount_when_free("v1");
    node.nothing_is_left();
}

/// Writes the first byte of a file through a mapping.
#[expect(unsafe_code, reason = "mmap(2) has no safe wrapper")]
fn write_mapped(path: &Path, byte: u8) {
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
    let file = File::options().read(true).write(true).open(path).unwrap();
    // SAFETY: a new mapping of a file that is not empty, written within its first page and never after munmap.
    unsafe {
        let start = mmap(std::ptr::null_mut(), 4096, ProtFlags::WRITE, MapFlags::SHARED, &file, 0).unwrap();
        *start.cast::<u8>() = byte;
        msync(start, 4096, MsyncFlags::SYNC).unwrap();
        munmap(start, 4096).unwrap();
    }
}

#[test]
fn test_a_full_scratch_space_is_the_writers_alone() {
    let (restic, source) = repository();
    let node = Node::start();
    let (root, other) = (node.overlay(&restic, &source, "v1"), node.overlay(&restic, &source, "v2"));
    let fill = || {
        let mut file = File::create(root.join("fill")).unwrap();
        let bytes = vec![1; 1 << 20];
        (0..64).find_map(|_| file.write_all(&bytes).and_then(|()| file.sync_data()).err())
    };
    assert_eq!(fill().expect("32 MiB are not 64").kind(), ErrorKind::StorageFull);
    assert!(fs::write(root.join("dir/f1"), vec![2; 1 << 20]).is_err(), "nor does a copy of a file fit");
    assert_eq!(fs::read_to_string(root.join("dir/f7")).unwrap(), "7", "reading goes on");
    fs::write(other.join("new"), vec![3; 1 << 20]).unwrap();
    fs::remove_file(root.join("fill")).unwrap();
    fs::write(root.join("fill"), vec![4; 1 << 20]).unwrap();
    for volume in ["v1", "v2"] {
        node.unmount_when_free(volume);
    }
    node.nothing_is_left();
}

#[test]
fn test_overlays_are_asked_for_once_and_within_bounds() {
    let (restic, source) = repository();
    let mut node = Node::start();
    let first = overlay_of(&restic, &source, "v1", 32 << 20);
    let snapshot = node.mount(first.clone()).unwrap();
    let line = node.overlay_line("v1");
    assert_eq!(node.mount(first.clone()), Ok(snapshot));
    assert_eq!(node.overlay_line("v1"), line);
    for (other, code) in [
        (overlay_of(&restic, &source, "v1", 33 << 20), Code::AlreadyExists),
        (request(&restic, &source, "v1"), Code::AlreadyExists),
        (MountRequest { name: "v2".into(), ..first.clone() }, Code::AlreadyExists),
        (MountRequest { name: "v2".into(), ..request(&restic, &source, "v1") }, Code::AlreadyExists),
        (overlay_of(&restic, &source, "v2", 1 << 20), Code::InvalidArgument),
        (overlay_of(&restic, &source, "v2", 3 << 30), Code::InvalidArgument),
    ] {
        assert_eq!(node.mount(other.clone()), Err(code), "{} {:?}", other.name, other.overlay);
    }
    assert_eq!(node.list().len(), 1, "what failed left nothing");
    // The next daemon knows what it was asked for.
    node.restart_daemon();
    node.settle(1);
    assert_eq!(node.mount(overlay_of(&restic, &source, "v1", 33 << 20)), Err(Code::AlreadyExists));
    assert!(node.mount(first).is_ok());
    node.unmount_when_free("v1");
    node.nothing_is_left();

    // A keeper without scratch space.
    node.keeper.kill().unwrap();
    node.keeper.wait().unwrap();
    let folder = node.folder.path().to_owned();
    drop(fs::remove_file(folder.join("keeper.sock")));
    let mut command = stash_fs();
    command.args(["keep", "--socket"]).arg(folder.join("keeper.sock")).arg("--base").arg(folder.join("base"));
    node.keeper = Node::spawn(command, &folder);
    wait_for("another keeper refuses", || {
        let refused = node.mount(overlay_of(&restic, &source, "v2", 0)).err();
        (refused == Some(Code::FailedPrecondition)).then_some(())
    });
    node.mount(request(&restic, &source, "v2")).unwrap();
}

#[test]
fn soak_a_writer_outlives_daemon_and_keeper() {
    let (restic, source) = repository();
    let mut node = Node::start();
    let root = node.overlay(&restic, &source, "v1");
    // It copies files of the snapshot up, appends, renames and reads, until it is told to stop; anything wrong ends it.
    let script = r#"
        n=0
        while [ ! -e "$1" ]; do
            n=$((n + 1)); f=$((n % 99))
            echo $n >> log && cat dir/f$f > /dev/null && echo more >> dir/f$f && mv dir/f$f dir/g && mv dir/g dir/f$f || exit 1
        done
        echo $n > count
    "#;
    let mut writer = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(node.folder.path().join("stop"))
        .current_dir(&root)
        .spawn()
        .unwrap();
    // The first file that is closed asks the daemon whether it wants to know. That must not be the copy of `big` that the next daemon
    // closes when it is started from here.
    assert_eq!(fs::read(root.join("dir/f99")).unwrap(), b"99");
    let big = File::open(root.join("big")).unwrap();
    for round in 0..rounds() {
        if round % 2 == 0 {
            node.restart_daemon();
        } else {
            node.restart_keeper();
        }
        rustix::fs::fadvise(&big, 0, None, Advice::DontNeed).unwrap();
        let mut bytes = vec![0; 5 << 20];
        big.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == b'x'));
        node.settle(1);
    }
    fs::write(node.folder.path().join("stop"), "").unwrap();
    assert!(writer.wait().unwrap().success(), "the writer noticed");
    let count: usize = fs::read_to_string(root.join("count")).unwrap().trim().parse().unwrap();
    assert_eq!(fs::read_to_string(root.join("log")).unwrap().lines().count(), count);
    drop(big);
    node.unmount_when_free("v1");
    node.nothing_is_left();
}

#[test]
fn test_an_overlay_of_both_killed_is_detached_and_swept() {
    let (restic, source) = repository();
    let mut node = Node::start();
    let root = node.overlay(&restic, &source, "v1");
    fs::write(root.join("new"), "new").unwrap();
    // What a keeper leaves that is killed while it makes one.
    for name in ["v9/lower", "v9/scratch"] {
        fs::create_dir_all(node.folder.path().join("scratch").join(name)).unwrap();
    }
    fs::write(node.folder.path().join("scratch/v9/file"), "left").unwrap();
    for child in [&mut node.keeper, &mut node.daemon] {
        child.kill().unwrap();
    }
    for child in [&mut node.keeper, &mut node.daemon] {
        child.wait().unwrap();
    }
    assert!(fs::read(root.join("dir/f50")).is_err(), "an error, not a reader that hangs");
    node.keeper = Node::keep(node.folder.path());
    node.daemon = Node::serve(node.folder.path());
    wait_for("the dead overlay is detached", || node.overlay_line("v1").is_none().then_some(()));
    node.nothing_is_left();
    assert_eq!(node.list(), []);
    let root = node.overlay(&restic, &source, "v1");
    assert!(!root.join("new").exists());
    node.unmount_when_free("v1");
    node.nothing_is_left();
}

#[test]
fn test_a_backup_cannot_speak_to_overlayfs() {
    let restic = Restic::init();
    let source = restic.scratch().join("source");
    fs::create_dir_all(source.join("secret")).unwrap();
    fs::create_dir_all(source.join("lure/inner")).unwrap();
    fs::write(source.join("secret/file"), "secret").unwrap();
    fs::write(source.join("plain"), "plain").unwrap();
    fs::write(source.join("empty"), "").unwrap();
    // A whiteout, and all that overlayfs writes to itself.
    mknodat(CWD, source.join("whiteout"), FileType::CharacterDevice, Mode::RUSR, makedev(0, 0)).unwrap();
    mknodat(CWD, source.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
    for (path, name, value) in [
        ("lure", "redirect", "/secret"),
        ("lure/inner", "redirect", "/../../../../../etc"),
        ("lure", "opaque", "y"),
        ("plain", "redirect", "/secret/file"),
        ("plain", "metacopy", ""),
        ("empty", "metacopy", ""),
        ("empty", "redirect", "/../../../../etc/shadow"),
        ("secret", "whiteout", "y"),
        ("", "redirect", "/secret"),
        ("", "opaque", "y"),
    ] {
        set_xattr(&source.join(path), &format!("trusted.overlay.{name}"), value);
    }
    set_xattr(&source.join("plain"), "user.own", "value");
    fs::copy("/bin/true", source.join("suid")).unwrap();
    fs::set_permissions(source.join("suid"), fs::Permissions::from_mode(0o4755)).unwrap();
    restic.backup([&source]);
    let node = Node::start();
    node.mount(request(&restic, &source, "v2")).unwrap();
    let shown = xattr::get(node.volume("v2").join("lure"), "trusted.overlay.redirect").unwrap();
    assert_eq!(shown.as_deref(), Some(&b"/secret"[..]), "the backup holds them");

    let root = node.overlay(&restic, &source, "v1");
    assert_eq!(fs::read_dir(root.join("lure")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(root.join("lure/inner")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(root.join("plain")).unwrap(), "plain");
    assert_eq!(fs::read_to_string(root.join("empty")).unwrap(), "");
    assert_eq!(fs::read_to_string(root.join("secret/file")).unwrap(), "secret");
    assert_eq!(xattr::get(root.join("plain"), "user.own").unwrap().as_deref(), Some(&b"value"[..]));
    // To overlayfs it is a name that was removed; one may be made in its place.
    assert_eq!(fs::symlink_metadata(root.join("whiteout")).unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(root.join("whiteout"), "mine").unwrap();
    assert_eq!(fs::read_to_string(root.join("whiteout")).unwrap(), "mine");
    // Devices are none, and nobody becomes somebody else.
    assert_eq!(File::open(root.join("null")).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(node.overlay_line("v1").unwrap().contains("nosuid,nodev"));
    // Copied up and renamed, they are no more than before.
    for path in ["plain", "empty", "lure/inner", "lure"] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o700)).unwrap();
        fs::rename(root.join(path), root.join("moved")).unwrap();
        fs::rename(root.join("moved"), root.join(path)).unwrap();
    }
    assert_eq!(fs::read_to_string(root.join("plain")).unwrap(), "plain");
    assert_eq!(fs::read_to_string(root.join("empty")).unwrap(), "");
    assert_eq!(fs::read_dir(root.join("lure/inner")).unwrap().count(), 0);
    node.unmount_when_free("v1");
    node.nothing_is_left();
}

#[test]
fn test_the_root_and_what_is_copied_up_keep_their_attributes() {
    // Not every disk takes attributes longer than a block.
    let disk = SmallDisk::new(1 << 10);
    let (restic, source) = (Restic::init(), disk.path().join("source"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    for path in [source.clone(), source.join("file")] {
        set_xattr(&path, "user.long", &"v".repeat(20_000));
        run(Command::new("setfacl").args(["-m", "u:1234:rwx,g::-"]).arg(path));
    }
    restic.backup([&source]);
    let node = Node::start();
    node.mount(request(&restic, &source, "v2")).unwrap();
    let root = node.overlay(&restic, &source, "v1");
    fs::write(root.join("file"), "changed").unwrap();
    let acl = |path: &Path| run(Command::new("getfacl").args(["-n", "-c", "."]).current_dir(path));
    for shown in [node.volume("v2"), root.clone()] {
        assert_eq!(acl(&shown), acl(&source));
        for path in [shown.clone(), shown.join("file")] {
            assert_eq!(xattr::get(&path, "user.long").unwrap().unwrap().len(), 20_000, "{}", path.display());
        }
    }
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "changed");
    node.unmount_when_free("v1");
    node.unmount_when_free("v2");
    node.nothing_is_left();
}

fn set_xattr(path: &Path, name: &str, value: &str) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    rustix::fs::lsetxattr(&path, name, value.as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
}
