//! Mounts that outlive their processes: daemon and keeper are killed under readers, who must not notice.

mod keeper;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rustix::fs::Advice;
use rustix::process::{Signal, kill_process};
use sha2::{Digest as _, Sha256};
use stash_tests::fixture::{rounds, run};
use stash_tests::forge::{Forge, PASSWORD, dir_node, file_node};
use stash_tests::kept::KeptMount;
use stash_tests::kernel_caches;
use stash_tests::mounted::{clean, copy_program, mounted_device, umount_when_free, wait_for};
use stash_tests::restic::Restic;
use tempfile::TempDir;

/// A repository with one snapshot of this shape: `big`, and `d<n>/f<n>`.
fn repository(big_bytes: usize, dirs: usize, files: usize) -> (Restic, PathBuf) {
    let restic = Restic::init();
    let source = tree(&restic, big_bytes, dirs, files);
    restic.backup([&source]);
    (restic, source)
}

/// What is backed up of that shape.
fn tree(restic: &Restic, big_bytes: usize, dirs: usize, files: usize) -> PathBuf {
    let source = restic.scratch().join("source");
    fs::create_dir(&source).unwrap();
    let mut big = vec![0; big_bytes];
    rand::rng().fill(&mut big[..]);
    fs::write(source.join("big"), big).unwrap();
    for dir in 0..dirs {
        let dir = source.join(format!("d{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..files {
            fs::write(dir.join(format!("f{file}")), format!("{}/{file}", dir.display())).unwrap();
        }
    }
    fs::hard_link(source.join("d0/f0"), source.join("link")).unwrap();
    source
}

/// git, whatever the settings of whoever runs the tests are.
fn git(arguments: &[&str]) -> Command {
    let mut command = clean(Command::new("git"));
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_OPTIONAL_LOCKS", "0");
    command.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*"]).args(arguments);
    command
}

/// A project with a history, packed and loose.
fn project(at: &Path) {
    fs::create_dir(at).unwrap();
    let run = |arguments: &[&str]| run(git(&["-C", at.to_str().unwrap()]).args(arguments));
    run(&["init", "-q"]);
    for commit in 0..4 {
        for file in 0..50 {
            fs::write(at.join(format!("{}-{file}", commit.min(2))), format!("{commit}{file}").repeat(500)).unwrap();
        }
        run(&["add", "."]);
        run(&["commit", "-q", "-m", "a"]);
        if commit == 2 {
            run(&["gc", "-q"]);
        }
    }
}

/// Checks a project out into an empty folder; git reads all of it where it is.
fn checkout(project: &Path, wanted: &Path) -> io::Result<()> {
    let to = TempDir::new()?;
    let (tree, index) = (to.path().join("tree"), to.path().join("index"));
    fs::create_dir(&tree)?;
    let done = |command: &mut Command| {
        let output = command.output()?;
        let said = [output.stdout, output.stderr].concat();
        if output.status.success() {
            Ok(())
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&said).into_owned()))
        }
    };
    let mut read = git(&["--git-dir"]);
    read.arg(project.join(".git")).arg("--work-tree").arg(&tree).args(["read-tree", "--reset", "-u", "HEAD"]);
    done(read.env("GIT_INDEX_FILE", index))?;
    done(clean(Command::new("diff")).args(["-r", "--exclude=.git"]).arg(wanted).arg(&tree))
}

fn mount(restic: &Restic, arguments: &[&str]) -> KeptMount {
    KeptMount::start(&restic.path(), restic.password(), arguments)
}

fn below(mount: &KeptMount, source: &Path) -> PathBuf {
    mount.join("snapshots/latest").join(source.strip_prefix("/").unwrap())
}

fn digest(mut file: &File) -> io::Result<[u8; 32]> {
    // So that the daemon is asked, not the page cache.
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
    let (mut hash, mut buffer, mut offset) = (Sha256::new(), vec![0; 256 << 10], 0);
    loop {
        let read = file.read_at(&mut buffer, offset)?;
        if read == 0 {
            let _ = &mut file;
            return Ok(hash.finalize().into());
        }
        hash.update(&buffer[..read]);
        offset += read as u64;
    }
}

/// All entries below a directory: path to (inode, size).
fn walk(root: &Path) -> io::Result<BTreeMap<PathBuf, (u64, u64)>> {
    let (mut found, mut stack) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.path().symlink_metadata()?;
            if metadata.is_dir() {
                stack.push(entry.path());
            }
            found.insert(entry.path(), (metadata.ino(), metadata.len()));
        }
    }
    Ok(found)
}

#[test]
fn test_open_files_and_directories_outlive_the_daemon() {
    let (restic, source) = repository(3 << 20, 20, 50);
    let mount = mount(&restic, &[]);
    let root = below(&mount, &source);
    let before = walk(&root).unwrap();
    assert_eq!(before.len(), 20 * 51 + 2);
    let mut big = File::open(root.join("big")).unwrap();
    let mut half = vec![0; 1 << 20];
    big.read_exact(&mut half).unwrap();
    let link = File::open(root.join("link")).unwrap();
    let dir = rustix::fs::open(root.join("d7"), rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    // A program that stands in a directory of the mount.
    let mut shell = Command::new("sh")
        .args(["-c", "read line; pwd -P; cat f3; ls | wc -l"])
        .current_dir(root.join("d9"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();

    for _ in 0..3 {
        mount.kill_daemon();
        kernel_caches::forget();
    }
    assert_eq!(mounted_device(mount.path()), Some(mount.device), "it is the same mount");
    let mut rest = Vec::new();
    big.read_to_end(&mut rest).unwrap();
    assert_eq!([half, rest].concat(), fs::read(source.join("big")).unwrap());
    assert_eq!(link.metadata().unwrap().ino(), before[&root.join("link")].0);
    let text = fs::read_to_string(root.join("link")).unwrap();
    assert_eq!(text, format!("{}/0", source.join("d0").display()));
    let found = rustix::fs::openat(&dir, "f1", rustix::fs::OFlags::empty(), rustix::fs::Mode::empty()).unwrap();
    assert_eq!(rustix::fs::fstat(found).unwrap().st_ino, before[&root.join("d7/f1")].0);
    drop(shell.stdin.take());
    let output = shell.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.ends_with("50\n") && said.contains("/d9\n"), "{said}");
    assert_eq!(walk(&root).unwrap(), before, "every entry has the inode that it had");
}

#[test]
fn soak_a_file_that_was_open_before_a_walk_over_many_entries() {
    // A million in the soak.
    let (dirs, files) = if rounds() > 20 { (1_000, 1_000) } else { (50, 1_000) };
    let folder = TempDir::new().unwrap();
    let mut forge = Forge::create(folder.path());
    let blob = forge.blob("data", b"content");
    let names: Vec<String> = (0..files).map(|file| format!("f{file:04}")).collect();
    let mut names: Vec<_> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    let nodes: Vec<_> = names.iter().map(|name| file_node(name, 7, &[blob])).collect();
    let tree = forge.tree(&nodes);
    let tops: Vec<_> = (0..dirs).map(|dir| dir_node(&format!("d{dir:04}"), Some(tree))).collect();
    let top = forge.tree(&tops);
    forge.snapshot(top);
    let mount = KeptMount::start(folder.path(), PASSWORD, &["latest"]);

    let file = File::open(mount.join("d0007/f0009")).unwrap();
    let count = || Command::new("find").arg(mount.path()).arg("-type").arg("f").output().unwrap();
    let lines = |output: &std::process::Output| output.stdout.iter().filter(|byte| **byte == b'\n').count();
    let found = count();
    assert!(found.status.success());
    assert_eq!(lines(&found), dirs * files);
    let began = Instant::now();
    mount.kill_daemon();
    let pause = began.elapsed();
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let mut text = [0; 7];
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"content");
    assert_eq!(lines(&count()), dirs * files);
    println!("{} entries: another daemon served {} ms after the kill", dirs * files, pause.as_millis());
}

/// Programs that read without a pause, until they are told to stop; what goes wrong is kept.
struct Readers {
    stop: Arc<AtomicBool>,
    passes: Vec<Arc<AtomicUsize>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    errors: Arc<Mutex<Vec<io::Error>>>,
}

impl Readers {
    fn start(mut all: Vec<Box<dyn FnMut() -> io::Result<()> + Send>>) -> Self {
        let (stop, errors) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let passes: Vec<_> = all.iter().map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let threads = all
            .drain(..)
            .zip(&passes)
            .map(|(mut read, passes)| {
                let (stop, errors, passes) = (Arc::clone(&stop), Arc::clone(&errors), Arc::clone(passes));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Err(error) = read() {
                            errors.lock().unwrap().push(error);
                        }
                        passes.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { stop, passes, threads, errors }
    }

    /// Waits until each has read everything once more, from its beginning.
    fn wait_for_a_whole_pass(&self) {
        let before: Vec<usize> = self.passes.iter().map(|passes| passes.load(Ordering::Relaxed)).collect();
        wait_for("every reader's next pass", || {
            self.passes.iter().zip(&before).all(|(now, before)| now.load(Ordering::Relaxed) > before + 1).then_some(())
        });
    }

    fn end(self) -> Vec<io::Error> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.errors.lock().unwrap())
    }
}

/// Reads a file through a mapping.
#[expect(unsafe_code, reason = "mmap(2) has no safe wrapper")]
fn mapped_sum(file: &File, len: usize) -> io::Result<u64> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
    // SAFETY: a new mapping, read within its length and never after munmap. A page that cannot be read ends the test by SIGBUS,
    // which is what it is to find out.
    unsafe {
        let start = mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, 0)?;
        let bytes = std::slice::from_raw_parts(start.cast::<u8>(), len);
        let sum = bytes.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
        munmap(start, len)?;
        Ok(sum)
    }
}

fn readers(root: &Path, source: &Path, with_mapping: bool) -> Readers {
    let wrong = |what: &str| io::Error::other(format!("{what}: wrong content"));
    let wanted = digest(&File::open(source.join("big")).unwrap()).unwrap();
    let walked = walk(root).unwrap();
    let (big, tree, dir) = (root.join("big"), root.to_owned(), root.join("d3"));
    let kept_open = File::open(&big).unwrap();
    let mut all: Vec<Box<dyn FnMut() -> io::Result<()> + Send>> = vec![
        Box::new(move || if digest(&File::open(&big)?)? == wanted { Ok(()) } else { Err(wrong("sha256 of big")) }),
        Box::new(move || {
            kernel_caches::forget();
            if walk(&tree)? == walked { Ok(()) } else { Err(wrong("a walk")) }
        }),
        Box::new(move || {
            let output = Command::new("cat").args(["f1", "f2"]).current_dir(&dir).output()?;
            if output.status.success() {
                Ok(())
            } else {
                Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
            }
        }),
    ];
    if source.join("project").exists() {
        let (from, wanted) = (root.join("project"), source.join("project"));
        all.push(Box::new(move || checkout(&from, &wanted)));
    }
    if with_mapping {
        let len = usize::try_from(kept_open.metadata().unwrap().len()).unwrap();
        let wanted = mapped_sum(&File::open(source.join("big")).unwrap(), len).unwrap();
        all.push(Box::new(
            move || if mapped_sum(&kept_open, len)? == wanted { Ok(()) } else { Err(wrong("mapped big")) },
        ));
    }
    Readers::start(all)
}

/// Returns at a random moment within the 150 ms after `from`.
fn at_a_random_moment(from: Duration) {
    // A random moment is what this is about, not the end of something.
    std::thread::park_timeout(from + Duration::from_millis(rand::rng().random_range(0..150)));
}

#[test]
fn soak_no_reader_notices_that_daemon_or_keeper_are_killed() {
    let restic = Restic::init();
    let source = tree(&restic, 24 << 20, 10, 100);
    project(&source.join("project"));
    restic.backup([&source]);
    let mount = mount(&restic, &[]);
    let readers = readers(&below(&mount, &source), &source, true);
    for round in 0..rounds() {
        at_a_random_moment(Duration::ZERO);
        match round % 3 {
            0 | 1 => mount.kill_daemon(),
            _ => mount.kill_keeper(),
        }
        readers.wait_for_a_whole_pass();
    }
    let errors = readers.end();
    assert!(errors.is_empty(), "{errors:?}\n{}", mount.log());
    mount.umount_when_free();
    mount.wait_for_the_end();
}

#[test]
fn soak_without_resend_only_requests_in_flight_fail_and_nobody_waits_for_ever() {
    let (restic, source) = repository(24 << 20, 10, 100);
    let mount = mount(&restic, &["--no-resend"]);
    let root = below(&mount, &source);
    // Without the mapping: EIO is SIGBUS there.
    let readers = readers(&root, &source, false);
    for round in 0..rounds() {
        // Just begun, or after the second after which the next one starts without a pause: nothing but pauses would be most of this.
        at_a_random_moment(Duration::from_secs(round as u64 % 2));
        mount.kill_daemon();
        // This is what hangs if a request is left unanswered.
        readers.wait_for_a_whole_pass();
    }
    let errors = readers.end();
    let is_io =
        |error: &io::Error| error.raw_os_error() == Some(libc::EIO) || error.to_string().contains("Input/output error");
    assert!(errors.iter().all(is_io), "{errors:?}");
    assert!(errors.len() <= 3 * rounds(), "each reader had one request in flight at most: {errors:?}");
    println!("{} kills, {} readers got EIO", rounds(), errors.len());
    assert_eq!(
        digest(&File::open(root.join("big")).unwrap()).unwrap(),
        digest(&File::open(source.join("big")).unwrap()).unwrap()
    );
}

#[test]
fn test_both_killed_is_a_clean_end() {
    let (restic, source) = repository(1 << 20, 2, 2);
    let mount = mount(&restic, &[]);
    let file = File::open(below(&mount, &source).join("big")).unwrap();
    mount.kill_both();
    let error = fs::metadata(mount.path()).unwrap_err();
    // A request that the kernel had not handed over yet is told that it was aborted.
    let at_once = [Some(libc::ENOTCONN), Some(libc::ECONNABORTED)];
    assert!(at_once.contains(&error.raw_os_error()), "an error at once, not a reader that hangs: {error}");
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    assert!(file.read_at(&mut [0; 16], 0).is_err());
    drop(file);
    mount.umount_when_free();
    assert_eq!(mounted_device(mount.path()), None);
}

#[test]
fn test_both_end_with_the_mount() {
    let (restic, source) = repository(1 << 20, 2, 2);
    // By umount, after either was replaced; by SIGTERM; by umount while there is no daemon.
    let first = mount(&restic, &[]);
    first.kill_daemon();
    first.kill_keeper();
    first.umount_when_free();
    first.wait_for_the_end();
    let second = mount(&restic, &[]);
    second.kill_daemon();
    kill_process(second.daemon(), Signal::TERM).unwrap();
    second.wait_for_the_end();
    assert_eq!(mounted_device(second.path()), None);
    // Detached while it is in use, a mount goes on until it is closed, also with another daemon.
    let third = mount(&restic, &[]);
    let file = File::open(below(&third, &source).join("big")).unwrap();
    assert!(third.umount(&["-l"]).status.success());
    third.kill_daemon();
    assert_eq!(digest(&file).unwrap(), digest(&File::open(source.join("big")).unwrap()).unwrap());
    drop(file);
    third.wait_for_the_end();
}

#[test]
fn test_a_pause_is_bounded() {
    let (restic, source) = repository(1 << 20, 2, 2);
    let mount = mount(&restic, &["--max-pause", "2s"]);
    let file = File::open(below(&mount, &source).join("big")).unwrap();
    // No daemon can go on without its repository.
    let away = restic.scratch().join("away");
    fs::rename(restic.path(), &away).unwrap();
    let began = Instant::now();
    kill_process(mount.daemon(), Signal::KILL).unwrap();
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    assert!(file.read_at(&mut [0; 16], 0).is_err(), "it waits, and then it fails");
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    mount.wait_for_the_end();
    assert_eq!(mounted_device(mount.path()), None, "it is detached");
    fs::rename(away, restic.path()).unwrap();
}

#[test]
fn test_the_snapshot_stays_although_latest_is_another_or_it_is_forgotten() {
    let (restic, source) = repository(1 << 20, 2, 2);
    let mount = mount(&restic, &[&format!("latest:{}", source.display())]);
    let before = walk(mount.path()).unwrap();
    fs::write(source.join("new"), "x").unwrap();
    restic.backup([&source]);
    mount.kill_daemon();
    kernel_caches::forget();
    assert_eq!(walk(mount.path()).unwrap(), before);
    let first = restic.snapshots()[0]["id"].as_str().unwrap().to_owned();
    restic.run(["forget", &first]);
    mount.kill_daemon();
    kernel_caches::forget();
    assert_eq!(walk(mount.path()).unwrap(), before);
    assert_eq!(
        digest(&File::open(mount.join("big")).unwrap()).unwrap(),
        digest(&File::open(source.join("big")).unwrap()).unwrap()
    );
}

#[test]
fn test_damaged_tables_cost_what_they_held_and_no_more() {
    let (restic, source) = repository(1 << 20, 4, 20);
    let mount = mount(&restic, &[]);
    let root = below(&mount, &source);
    walk(&root).unwrap();
    let file = File::open(root.join("d1/f1")).unwrap();
    let mut random = vec![0; 16 << 10];
    rand::rng().fill(&mut random[..]);
    let in_flight = File::from(mount.memory_file("stash-fs-in-flight"));
    in_flight.write_all_at(&random[..1024], 8).unwrap();
    mount.kill_daemon();
    assert_eq!(walk(&root).unwrap().len(), 4 * 21 + 2, "numbers that nobody waits for are answered to nobody");

    let table = File::from(mount.memory_file("stash-fs-inodes"));
    table.write_all_at(&random, 0).unwrap();
    table.set_len(random.len() as u64 + 13).unwrap();
    mount.kill_daemon();
    kernel_caches::forget();
    // What the kernel holds and the table lost is stale; from the root on everything is found again.
    let stale = file.metadata().and_then(|_| digest(&file).map(drop));
    assert!(stale.is_ok() || stale.unwrap_err().raw_os_error() == Some(libc::ESTALE));
    let walked = wait_for("a walk", || walk(&root).ok());
    assert_eq!(walked.len(), 4 * 21 + 2);
    assert_eq!(
        digest(&File::open(root.join("big")).unwrap()).unwrap(),
        digest(&File::open(source.join("big")).unwrap()).unwrap()
    );

    let state = File::from(mount.memory_file("stash-fs-state"));
    assert!(state.write_all_at(b"x", 0).is_err() && state.set_len(0).is_err(), "the state is sealed");
    assert!(in_flight.set_len(0).is_err(), "nobody can make the daemon fault");
}

#[test]
fn test_a_program_that_was_replaced_is_the_one_that_goes_on() {
    let (restic, source) = repository(1 << 20, 2, 2);
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("stash-fs");
    copy_program(&program);
    let mountpoint = folder.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let log = folder.path().join("log");
    let mut command = stash_tests::mounted::clean(Command::new(&program));
    command.env("RESTIC_PASSWORD", restic.password()).args(["--no-cache", "-v", "--repo"]).arg(restic.path());
    command.args(["mount", "--daemon", "--log-file"]).arg(&log).arg(&mountpoint);
    assert!(command.status().unwrap().success());
    let file =
        File::open(mountpoint.join("snapshots/latest").join(source.strip_prefix("/").unwrap()).join("big")).unwrap();
    let pid_of = |verb: &str| {
        fs::read_dir("/proc").unwrap().find_map(|entry| {
            let entry = entry.ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let ours = line.starts_with(program.to_str().unwrap()) && line.contains(verb) && !line.contains("\0keep\0");
            ours.then(|| entry.file_name().to_str()?.parse::<i32>().ok()).flatten()
        })
    };
    let old = pid_of("daemon-child").unwrap();
    // An upgrade: another file under the same name.
    fs::rename(&program, folder.path().join("old")).unwrap();
    copy_program(&program);
    kill_process(rustix::process::Pid::from_raw(old).unwrap(), Signal::KILL).unwrap();
    let new = wait_for("the new daemon", || pid_of("daemon-resumed"));
    assert_eq!(fs::read_link(format!("/proc/{new}/exe")).unwrap(), program);
    assert_eq!(digest(&file).unwrap(), digest(&File::open(source.join("big")).unwrap()).unwrap());
    drop(file);
    umount_when_free(&mountpoint);
    wait_for("the end", || pid_of("daemon-resumed").is_none().then_some(()));
}
