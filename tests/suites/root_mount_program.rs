//! `stash-fs mount` and `umount` as a person, systemd and mount(8) use them.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process};
use stash_tests::mounted::{
    Mounted, clean, mounted_device, program, stash_fs, umount_when_free, unmount_when_free, wait_for,
};
use stash_tests::restic::Restic;
use stash_tests::servers::free_port;
use tempfile::TempDir;

/// A repository with one snapshot of a small directory, and that directory.
fn repository() -> (Restic, PathBuf) {
    let restic = Restic::init();
    let source = restic.scratch().join("source");
    fs::create_dir_all(source.join("dir")).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    fs::write(source.join("dir/big"), vec![b'x'; 3 << 20]).unwrap();
    restic.backup([&source]);
    (restic, source)
}

fn below(mountpoint: &Path, source: &Path) -> PathBuf {
    mountpoint.join("snapshots/latest").join(source.strip_prefix("/").unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a process is a keeper, which names its daemon's arguments too.
fn is_keeper(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().split(|byte| *byte == 0).nth(1) == Some(b"keep")
}

/// Finds the daemons and keepers that name this mountpoint in their arguments.
fn processes_of(mountpoint: &Path) -> Vec<i32> {
    let wanted = mountpoint.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments: Vec<_> = line.split(|byte| *byte == 0).map(text).collect();
            arguments.first().is_some_and(|program| program.ends_with("stash-fs"))
                && arguments.iter().any(|a| a == wanted)
        })
        .collect()
}

fn wait_for_no_process(mountpoint: &Path) {
    wait_for("the end of the daemon", || processes_of(mountpoint).is_empty().then_some(()));
}

fn umount(mountpoint: &Path, arguments: &[&str]) -> Output {
    stash_fs().arg("umount").args(arguments).arg(mountpoint).output().unwrap()
}

/// A mountpoint that is unmounted, and whose daemon is ended, when it is dropped.
struct Mountpoint(TempDir);

impl Mountpoint {
    fn new() -> Self {
        Self(TempDir::with_prefix("stash-fs-point-").unwrap())
    }

    fn path(&self) -> PathBuf {
        // Not canonicalize: a dead mount cannot be asked.
        self.0.path().to_owned()
    }
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        while mounted_device(self.0.path()).is_some() {
            if rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).is_err() {
                break;
            }
        }
        for pid in processes_of(self.0.path()) {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
    }
}

#[test]
fn test_sigterm_unmounts_and_exits_0() {
    let (restic, source) = repository();
    let mount = restic.mount().mount();
    assert_eq!(fs::read_to_string(below(mount.path(), &source).join("file")).unwrap(), "content");
    let mountpoint = mount.path().to_owned();
    let (major, minor) = mounted_device(&mountpoint).unwrap();
    let read_ahead = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")).unwrap();
    assert_eq!(read_ahead.trim(), "4096");
    assert!(mount.unmount().success());
    assert_eq!(mounted_device(&mountpoint), None);
}

#[test]
fn test_busy_mount_is_detached_and_ends_with_its_last_file() {
    let (restic, source) = repository();
    let mut mount = restic.mount().mount();
    let mut file = File::open(below(mount.path(), &source).join("dir/big")).unwrap();
    mount.signal(Signal::INT);
    wait_for("the mount is detached", || mounted_device(mount.path()).is_none().then_some(()));
    wait_for("the message", || mount.stderr().contains("is in use").then_some(()));
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 3 << 20, "an open file can be read to its end");
    drop(file);
    assert!(mount.wait().success(), "{}", mount.stderr());
}

#[test]
fn test_second_signal_ends_at_once() {
    let (restic, source) = repository();
    let mut mount = restic.mount().mount();
    let file = File::open(below(mount.path(), &source).join("file")).unwrap();
    mount.signal(Signal::TERM);
    wait_for("the message", || mount.stderr().contains("is in use").then_some(()));
    mount.signal(Signal::TERM);
    assert_eq!(mount.wait().code(), Some(130), "{}", mount.stderr());
    drop(file);
}

#[test]
fn test_unmounted_by_umount_exits_0() {
    let (restic, _) = repository();
    let mut mount = restic.mount().mount();
    unmount_when_free(|| Command::new("umount").arg(mount.path()).status().unwrap().success().then_some(()));
    assert!(mount.wait().success(), "{}", mount.stderr());

    let mut mount = restic.mount().mount();
    umount_when_free(mount.path());
    assert!(mount.wait().success(), "{}", mount.stderr());
    let output = umount(mount.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no stash-fs is mounted"), "{}", text(&output.stderr));
}

#[test]
fn test_umount_says_busy_and_lazy_detaches() {
    let (restic, source) = repository();
    let mut mount = restic.mount().mount();
    let file = File::open(below(mount.path(), &source).join("file")).unwrap();
    let output = umount(mount.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is in use") && text(&output.stderr).contains("umount -l"));
    // By a relative path and through a symbolic link as well.
    let link = restic.scratch().join("link");
    std::os::unix::fs::symlink(mount.path(), &link).unwrap();
    assert!(umount(&link, &["-l"]).status.success());
    assert_eq!(mounted_device(mount.path()), None);
    drop(file);
    assert!(mount.wait().success());
}

#[test]
fn test_dead_mount_is_named_and_can_be_unmounted() {
    let (restic, _) = repository();
    let mountpoint = Mountpoint::new();
    let mut mount = restic.mount().on(mountpoint.path()).mount();
    mount.signal(Signal::KILL);
    mount.wait();
    let dead = wait_for("ENOTCONN", || fs::metadata(mountpoint.path()).err());
    assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
    let refused = restic.mount().on(mountpoint.path()).try_mount().unwrap_err();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("already mounted") && refused.stderr.contains("stash-fs umount"),
        "{}",
        refused.stderr
    );
    umount_when_free(&mountpoint.path());
    assert!(restic.mount().on(mountpoint.path()).mount().unmount().success());
}

#[test]
fn test_refused_mountpoints() {
    let (restic, _) = repository();
    let file = restic.scratch().join("file");
    fs::write(&file, "").unwrap();
    for (mountpoint, message) in [
        (restic.path(), "would hide its own repository"),
        (restic.path().join("data"), "lies in its own repository"),
        (restic.scratch().to_owned(), "would hide its own repository"),
        (file, "is not a directory"),
        (restic.scratch().join("nothing"), "does not exist"),
        (program().parent().unwrap().to_owned(), "would hide stash-fs itself"),
    ] {
        let refused = restic.mount().on(&mountpoint).try_mount().unwrap_err();
        assert_eq!(refused.status.code(), Some(1), "{}", mountpoint.display());
        assert!(refused.stderr.contains(message), "{}: {}", mountpoint.display(), refused.stderr);
        assert!(refused.stderr.contains("\"hint\"") || message.contains("not a dir"), "{}", refused.stderr);
    }
    let mount = restic.mount().mount();
    let refused = restic.mount().on(mount.path()).try_mount().unwrap_err();
    assert!(refused.stderr.contains("already mounted"), "{}", refused.stderr);
    let cache = TempDir::new().unwrap();
    let refused = restic.mount().cache_dir(cache.path().join("below")).on(cache.path()).try_mount().unwrap_err();
    assert!(refused.stderr.contains("would hide its own cache"), "{}", refused.stderr);
}

#[test]
fn test_errors_come_before_anything_is_mounted() {
    let (restic, _) = repository();
    for (mounted, code, message) in [
        (Mounted::builder(restic.path(), "wrong"), 12, "wrong password"),
        (Mounted::builder(restic.scratch().join("nothing"), "x"), 10, "no repository"),
        (restic.mount().root("latest:/nowhere"), 1, "nowhere"),
        (restic.mount().root("0000dead"), 1, "0000dead"),
        (restic.mount().arg("--time-template=%"), 1, "time"),
        (restic.mount().arg("--nonsense"), 2, "--nonsense"),
    ] {
        let mountpoint = Mountpoint::new();
        let shown = format!("{mounted:?}");
        match mounted.on(mountpoint.path()).try_mount() {
            // Go takes any text as a layout of times, and so do we.
            Ok(_) if shown.contains("--time-template") => {}
            Ok(_) => panic!("{shown} was mounted"),
            Err(refused) => {
                assert_eq!(refused.status.code(), Some(code), "{shown}: {}", refused.stderr);
                assert!(refused.stderr.contains(message), "{shown}: {}", refused.stderr);
            }
        }
        assert_eq!(mounted_device(&mountpoint.path()), None);
    }
}

#[test]
fn test_daemon_returns_when_the_tree_can_be_read() {
    let (restic, source) = repository();
    let mountpoint = Mountpoint::new();
    let log = restic.scratch().join("log");
    let daemon = |password: &str| {
        let mut command = stash_fs();
        command.env("RESTIC_PASSWORD", password).current_dir(restic.scratch());
        // A relative address: the daemon leaves this directory.
        command.args(["-r", "repository", "--no-cache", "-v", "mount", "--daemon", "--log-file"]).arg(&log);
        command.arg(mountpoint.path()).output().unwrap()
    };
    let output = daemon("wrong");
    assert_eq!(output.status.code(), Some(12), "the child's exit code is the parent's");
    assert!(text(&output.stderr).contains("wrong password"), "{}", text(&output.stderr));
    assert_eq!(processes_of(&mountpoint.path()), [] as [i32; 0]);

    let output = daemon(restic.password());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(below(&mountpoint.path(), &source).join("file")).unwrap(), "content");
    let (keepers, daemons): (Vec<i32>, Vec<i32>) =
        processes_of(&mountpoint.path()).into_iter().partition(|pid| is_keeper(*pid));
    let ([pid], [keeper]) = (&daemons[..], &keepers[..]) else { panic!("one daemon and one keeper") };
    let (pid, keeper) = (*pid, *keeper);
    assert_eq!(fs::read_link(format!("/proc/{keeper}/cwd")).unwrap(), Path::new("/"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!((fields[3].parse::<i32>().unwrap(), fields[4]), (pid, "0"), "its own session, without a terminal");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/2")).unwrap(), Path::new("/dev/null"));
    kill_process(Pid::from_raw(pid).unwrap(), Signal::USR1).unwrap();
    wait_for("figures in the log", || {
        fs::read_to_string(&log).unwrap_or_default().contains("served 7 bytes").then_some(())
    });
    umount_when_free(&mountpoint.path());
    wait_for_no_process(&mountpoint.path());
    assert!(fs::read_to_string(&log).unwrap().contains("mounted"));
}

/// Runs a shell script as root where what it mounts is seen by nobody else: the system's own folders stay as they are.
fn in_own_namespace(script: &str, arguments: &[&Path]) -> String {
    let mut command = clean(Command::new("unshare"));
    command.args(["--mount", "--", "sh", "-euc", script, "sh"]).args(arguments).current_dir("/");
    let output = command.output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}: {out}{err}", output.status);
    out
}

#[test]
fn test_mount_8_and_a_line_of_fstab() {
    let (restic, source) = repository();
    let mountpoint = Mountpoint::new();
    let (repository, place) = (restic.path(), mountpoint.path());
    let cache = restic.scratch().join("cache");
    let options =
        format!("password-file={},ro,allow_other,cache-dir={}", restic.password_file().display(), cache.display());
    let fstab = restic.scratch().join("fstab");
    let line = format!(
        "{} {} fuse.stash-fs {options},snapshot=latest:{},noauto,_netdev,nofail,x-systemd.automount 0 0\n",
        repository.display(),
        place.display(),
        source.display()
    );
    fs::write(&fstab, line).unwrap();

    // mount(8) empties PATH, so the program must lie where a shell looks by default.
    let script = r#"
        program=$1; repository=$2; place=$3; options=$4; fstab=$5; file=$6
        mount -t tmpfs none /usr/local/sbin
        ln -s "$program" /usr/local/sbin/stash-fs
        mount -t fuse.stash-fs "$repository" "$place" -o "$options"
        cat "$file"; echo
        grep "$place" /proc/self/mountinfo
        umount "$place"
        mount -T "$fstab" "$place"
        cat "$place/file"; echo
        stash-fs umount "$place"
        ln -s "$program" /usr/local/sbin/mount.fuse.stash-fs
        mount.fuse.stash-fs "$repository" "$place" -n -o "rw,$options" -t fuse.stash-fs
        cat "$file"; echo
        umount "$place"
        # What fails is said by mount(8).
        mount -t fuse.stash-fs "$repository" "$place" -o password-file=/nowhere/at/all 2>&1 || echo "failed with $?"
    "#;
    let file = below(&place, &source).join("file");
    let out = in_own_namespace(script, &[&program(), &repository, &place, Path::new(&options), &fstab, &file]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("content", "content", "content"), "{out}");
    assert!(lines[1].contains(&format!("- fuse.stash-fs {} ", repository.display())), "{out}");
    assert!(lines[1].contains("allow_other") && lines[1].contains("ro,nosuid,nodev"), "{out}");
    assert!(out.contains("/nowhere/at/all") && out.contains("failed with"), "{out}");
    wait_for_no_process(&place);
}

#[test]
fn test_an_ordinary_user_mounts_through_fusermount3() {
    let (restic, source) = repository();
    let folder = TempDir::with_prefix("stash-fs-nobody-").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mountpoint = Mountpoint::new();
    std::os::unix::fs::chown(mountpoint.path(), Some(65534), Some(65534)).unwrap();
    // Neither the checkout nor the repository need be open to nobody; /dev/fuse is, wherever udev made it.
    let script = r#"
        program=$1; repository=$2; place=$3; folder=$4; file=$5; password=$6
        cp "$program" "$folder/stash-fs"
        cp -r "$repository" "$folder/repository"
        chmod -R a+rX "$folder/repository"
        mknod "$folder/fuse" c 10 229
        chmod 666 "$folder/fuse"
        mount --bind "$folder/fuse" /dev/fuse
        nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; }
        export RESTIC_PASSWORD="$password"
        nobody "$folder/stash-fs" -r "$folder/repository" --no-cache mount --daemon --uid=65534 "$place"
        nobody cat "$file"; echo
        grep "$place" /proc/self/mountinfo
        cat "$file" 2>&1 || echo "not even root"
        nobody "$folder/stash-fs" umount "$place"
        grep "$place" /proc/self/mountinfo || echo unmounted
    "#;
    let (place, file) = (mountpoint.path(), below(&mountpoint.path(), &source).join("file"));
    let password = PathBuf::from(restic.password());
    let out = in_own_namespace(script, &[&program(), &restic.path(), &place, folder.path(), &file, &password]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "content", "{out}");
    assert!(lines[1].contains(" fuse.stash-fs ") && lines[1].contains("user_id=65534"), "{out}");
    assert!(out.contains("Permission denied") && out.contains("not even root"), "without allow_other: {out}");
    assert_eq!(lines.last(), Some(&"unmounted"), "{out}");
    wait_for_no_process(&place);
}

#[test]
fn test_ready_is_told_to_the_service_manager() {
    let (restic, source) = repository();
    let path = restic.scratch().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mount = restic.mount().env("NOTIFY_SOCKET", &path).mount();
    let mut buffer = [0; 512];
    let len = socket.recv(&mut buffer).unwrap();
    assert!(buffer[..len].starts_with(b"READY=1\n"), "{}", text(&buffer[..len]));
    assert!(below(mount.path(), &source).join("file").exists(), "ready means readable");
    assert!(mount.unmount().success());
    let len = socket.recv(&mut buffer).unwrap();
    assert!(buffer[..len].starts_with(b"STOPPING=1"), "{}", text(&buffer[..len]));
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn test_figures_over_http_and_by_sigusr1() {
    let (restic, source) = repository();
    let port = free_port();
    let mount = restic.mount().arg(format!("--metrics={port}")).mount();
    assert_eq!(fs::read(below(mount.path(), &source).join("dir/big")).unwrap().len(), 3 << 20);
    let figures = get(&format!("127.0.0.1:{port}"), "/metrics");
    let figure = |name: &str| -> u64 {
        let line = figures.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {figures}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    assert!(figure("stash_fs_fuse_read_bytes_total ") >= 3 << 20);
    assert!(figure("stash_fs_fuse_request_seconds_count{op=\"lookup\"}") > 0);
    assert!(figure("stash_fs_backend_requests_total{repository=\"repository\"}") > 0);
    assert!(figure("stash_fs_decoded_bytes_total{repository=\"repository\"}") > 0);
    assert_eq!(figure("stash_fs_fuse_panics_total "), 0);
    mount.signal(Signal::USR1);
    wait_for("the summary", || mount.stderr().contains("bytes from the store").then_some(()));
    let refused = restic.mount().arg(format!("--metrics={port}")).try_mount().unwrap_err();
    assert!(refused.stderr.contains("cannot serve metrics"), "{}", refused.stderr);
}

#[test]
fn test_several_repositories_with_their_own_passwords() {
    let (first, source) = repository();
    let (second, other) = repository();
    let own = second.scratch().join("own-password");
    fs::write(&own, "another password\n").unwrap();
    second.run(["key", "passwd", "--new-password-file", own.to_str().unwrap()]);
    let builder = first.mount().arg("--repo").arg(second.path());
    let mount =
        builder.arg("--repo-password-file").arg(first.password_file()).arg("--repo-password-file").arg(&own).mount();
    let mut names: Vec<_> = fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["repository", "repository-2"]);
    for (name, source) in [("repository", &source), ("repository-2", &other)] {
        assert_eq!(fs::read_to_string(below(&mount.join(name), source).join("file")).unwrap(), "content");
    }
    let refused =
        first.mount().arg("--repo").arg(second.path()).arg("--repo-password-file").arg(&own).try_mount().unwrap_err();
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
}

#[test]
fn test_a_new_snapshot_is_seen_and_latest_follows() {
    let (restic, source) = repository();
    let mount = restic.mount().mount();
    let file = below(mount.path(), &source).join("file");
    let before = fs::read_link(mount.join("snapshots/latest")).unwrap();
    let count = || fs::read_dir(mount.join("snapshots")).unwrap().count();
    assert_eq!((fs::read_to_string(&file).unwrap().as_str(), count()), ("content", 2));
    fs::write(source.join("file"), "changed").unwrap();
    // Snapshots of one second would have one name.
    wait_for("another second", || (restic_time() != before.to_string_lossy()).then_some(()));
    let id = restic.backup([&source]);
    wait_for("the new snapshot in the list", || (count() == 3).then_some(()));
    wait_for("latest", || (fs::read_link(mount.join("snapshots/latest")).unwrap() != before).then_some(()));
    assert_eq!(fs::read_to_string(&file).unwrap(), "changed");
    assert!(mount.join("ids").join(&id[..8]).exists());
    restic.run(["forget", &id]);
    wait_for("the forgotten snapshot is gone", || (count() == 2).then_some(()));
    wait_for("latest goes back", || (fs::read_link(mount.join("snapshots/latest")).unwrap() == before).then_some(()));
    assert_eq!(fs::read_to_string(&file).unwrap(), "content");
}

/// The present second as restic names a snapshot.
fn restic_time() -> String {
    let output = Command::new("date").arg("+%Y-%m-%dT%H:%M:%S%:z").output().unwrap();
    text(&output.stdout).trim().replace("+00:00", "Z")
}

#[test]
fn test_memory_at_default_budgets() {
    let restic = Restic::init();
    let source = restic.scratch().join("source");
    fs::create_dir_all(&source).unwrap();
    let mut seed = 1_u64;
    for number in 0..4 {
        let mut file = File::create(source.join(format!("big-{number}"))).unwrap();
        for _ in 0..64 {
            let block: Vec<u8> = (0..1 << 17)
                .flat_map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed.to_le_bytes()
                })
                .collect();
            file.write_all(&block).unwrap();
        }
    }
    restic.backup([&source]);
    let cache = TempDir::new().unwrap();
    let mount = restic.mount().cache_dir(cache.path()).mount();
    let below = below(mount.path(), &source);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let path = below.join(format!("big-{number}"));
            scope.spawn(move || {
                let mut file = File::open(path).unwrap();
                std::io::copy(&mut file, &mut std::io::sink()).unwrap();
            });
        }
    });
    let highest = mount.status_kib("VmHWM");
    assert!(highest <= 150_000, "VmHWM {highest} KiB");
    println!("VmHWM {highest} KiB after 256 MiB by four readers");
}
