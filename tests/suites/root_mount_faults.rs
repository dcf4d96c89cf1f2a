//! What may happen to a store, a repository or the program while a mount is in use.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Signal;
use serde_json::json;
use stash_tests::fixture::{pattern, rounds, run};
use stash_tests::mounted::{MountBuilder, Mounted, wait_for};
use stash_tests::restic::Restic;
use stash_tests::servers::{Answer, Minio, Recorded, Recorder, Toxiproxy};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(2);
/// What a machine that does much else takes beside.
const SLACK: Duration = Duration::from_secs(5);
const PASSWORD: &str = "password";

/// Files of 300 KB, none like another.
fn make_files(dir: &Path, count: u64) -> Vec<PathBuf> {
    fs::create_dir_all(dir).unwrap();
    let make = |number| {
        let path = dir.join(format!("file-{number:03}"));
        fs::write(&path, pattern(300_000, number)).unwrap();
        path
    };
    (0..count).map(make).collect()
}

/// Where a mount of all snapshots shows a path of the last one.
fn shown(mount: &Mounted, path: &Path) -> PathBuf {
    mount.join("snapshots/latest").join(path.strip_prefix("/").unwrap())
}

fn assert_same(mount: &Mounted, path: &Path) {
    let read = fs::read(shown(mount, path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(read == fs::read(path).unwrap(), "{} differs", path.display());
}

/// A repository in a bucket, with a backup of some files.
struct Bucket {
    minio: Minio,
    files: Vec<PathBuf>,
    _source: TempDir,
}

impl Bucket {
    fn new(files: u64) -> Self {
        let minio = Minio::start();
        minio.create_bucket("bucket");
        let source = TempDir::new().unwrap();
        let files = make_files(&source.path().join("files"), files);
        let restic = |arguments: &[&str]| {
            let mut command = stash_tests::mounted::clean(std::process::Command::new("restic"));
            command.args(["--no-cache", "-r", &minio.repository("bucket", "repo")]).args(arguments);
            run(command.envs(minio.environment()).env("RESTIC_PASSWORD", PASSWORD))
        };
        restic(&["init"]);
        restic(&["backup", source.path().to_str().unwrap()]);
        Self { minio, files, _source: source }
    }

    /// Prepares a mount by somebody who may only list and get.
    fn mount(&self, address: std::net::SocketAddr) -> MountBuilder {
        let mut builder = Mounted::builder(Minio::repository_at(address, "bucket", "repo"), PASSWORD);
        for (name, value) in self.minio.list_and_get_environment("bucket") {
            builder = builder.env(name, value);
        }
        builder
    }
}

#[test]
fn test_a_store_that_fails_is_an_error_in_time_and_then_read_again() {
    let bucket = Bucket::new(24);
    let toxiproxy = Toxiproxy::start();
    let proxy = toxiproxy.proxy(bucket.minio.address());
    let mount = bucket.mount(proxy.address()).arg("--deadline=2s").arg("--prefetch=off").mount();
    let mut files = bucket.files.iter();
    assert_same(&mount, files.next().unwrap());
    for (fault, attributes) in [
        ("silence", json!({ "timeout": 0 })),
        ("reset_peer", json!({ "timeout": 0 })),
        ("limit_data", json!({ "bytes": 100 })),
        ("cut", json!({})),
    ] {
        match fault {
            "cut" => proxy.set_enabled(false),
            "silence" => proxy.add("timeout", attributes),
            kind => proxy.add(kind, attributes),
        }
        let file = files.next().unwrap();
        // A name that was never looked at, so nothing of it is known.
        let started = Instant::now();
        let error = fs::read(shown(&mount, file)).unwrap_err();
        let took = started.elapsed();
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()), "{fault}: {error}");
        // The kernel asks again for the one page that the program wants.
        assert!(took < DEADLINE * 3 + SLACK, "{fault}: {took:?}");
        match fault {
            "cut" => proxy.set_enabled(true),
            "silence" => proxy.remove("timeout"),
            kind => proxy.remove(kind),
        }
        assert_same(&mount, file);
        assert_same(&mount, files.next().unwrap());
    }
    // Slow is no failure.
    proxy.add("bandwidth", json!({ "rate": 1024 }));
    proxy.latency(100);
    assert_same(&mount, files.next().unwrap());
    assert!(mount.unmount().success());
}

/// What a server does wrong with every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    Status(u16),
    /// Half of what was asked for, as if that were all.
    Short,
    /// More than what was asked for.
    Long,
    /// Another content of the same length.
    Content,
}

/// Answers as a server of restic's REST protocol over a folder.
fn serve(folder: &Path, request: &Recorded, wrong: Wrong) -> Answer {
    if let Wrong::Status(status) = wrong {
        return Answer::new(status, "<secret-body>");
    }
    let (kind, name) = request.path.trim_start_matches('/').split_once('/').unwrap_or_else(|| (&request.path[1..], ""));
    let mut answer = if !name.is_empty() || kind == "config" {
        let path = if kind == "data" { format!("data/{}/{name}", &name[..2]) } else { format!("{kind}/{name}") };
        let Ok(content) = fs::read(folder.join(path.trim_end_matches('/'))) else { return Answer::new(404, "") };
        match request.header("range").map(|range| range.trim_start_matches("bytes=").split_once('-').unwrap()) {
            Some((first, last)) => {
                let [first, last] = [first, last].map(|number| number.parse::<usize>().unwrap());
                Answer::new(206, &content[first..=last])
            }
            None => Answer::new(200, content),
        }
    } else {
        let mut folders = vec![folder.join(kind)];
        let mut listed = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else {
                    listed.push(json!({ "name": entry.file_name().to_str().unwrap(), "size": metadata.len() }));
                }
            }
        }
        let list = serde_json::to_vec(&listed).unwrap();
        Answer::new(200, list).header("content-type", "application/vnd.x.restic.rest.v2")
    };
    match wrong {
        Wrong::Nothing | Wrong::Status(_) => {}
        Wrong::Short => answer.body.truncate(answer.body.len() / 2),
        Wrong::Long => answer.body.extend_from_slice(b"more"),
        Wrong::Content => answer.body.iter_mut().for_each(|byte| *byte ^= 0x55),
    }
    answer
}

/// 403, 404, 500, and bodies that are too short, too long or of another content: each is EIO in time, in a log line that says
/// what it was and nothing of what the server sent, and afterwards the same names are read.
#[test]
fn test_a_store_that_answers_wrong_is_an_error_in_time_and_then_read_again() {
    let restic = Restic::init();
    let source = TempDir::new().unwrap();
    let faults = [
        (Wrong::Status(403), "HTTP status 403"),
        (Wrong::Status(404), "HTTP status 404"),
        (Wrong::Status(500), "HTTP status 500"),
        (Wrong::Short, "bytes instead of"),
        (Wrong::Long, "the answer is longer than"),
        (Wrong::Content, "MAC"),
    ];
    let files = make_files(&source.path().join("files"), 2);
    let directory = files[0].parent().unwrap();
    restic.backup([source.path()]);
    let wrong = Arc::new(Mutex::new(Wrong::Nothing));
    let server = {
        let (folder, wrong) = (restic.path(), Arc::clone(&wrong));
        Recorder::start(move |request| serve(&folder, request, *wrong.lock().unwrap()))
    };
    let repository = format!("rest:http://{}/", server.address());
    for (fault, cause) in faults {
        // A new one for each fault, that has read nothing yet.
        let mount =
            Mounted::builder(repository.as_str(), restic.password()).arg("--deadline=2s").arg("--prefetch=off").mount();
        let failing = |what: &str, call: &dyn Fn() -> std::io::Result<()>| {
            *wrong.lock().unwrap() = fault;
            let (logged, started) = (mount.stderr().len(), Instant::now());
            let error = call().unwrap_err();
            let took = started.elapsed();
            assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()), "{fault:?}, {what}: {error}");
            // The kernel asks again for the one page that the program wants.
            assert!(took < DEADLINE * 3 + SLACK, "{fault:?}, {what}: {took:?}");
            // Lines are written after the answer.
            let log = wait_for(&format!("{cause:?} in the log of {fault:?}, {what}"), || {
                let log = mount.stderr()[logged..].to_owned();
                (log.contains("a program got EIO") && log.contains(cause)).then_some(log)
            });
            *wrong.lock().unwrap() = Wrong::Nothing;
            assert!(log.contains(&server.address().to_string()) && !log.contains("secret"), "{fault:?}, {what}: {log}");
        };
        failing("list", &|| fs::read_dir(shown(&mount, directory)).map(drop));
        assert_same(&mount, &files[0]);
        failing("read", &|| fs::read(shown(&mount, &files[1])).map(drop));
        assert_same(&mount, &files[1]);
        assert!(mount.unmount().success());
    }
}

#[test]
fn test_a_prune_by_restic_under_a_mount_is_survived() {
    let restic = Restic::init();
    let source = TempDir::new().unwrap();
    let kept = make_files(&source.path().join("kept"), 12);
    make_files(&source.path().join("gone"), 12);
    restic.backup([source.path()]);
    fs::remove_dir_all(source.path().join("gone")).unwrap();
    restic.backup([source.path()]);
    let packs = restic.files("data");
    let mount = restic.mount().arg("--prefetch=off").mount();
    assert_same(&mount, &kept[0]);
    restic.run(["forget", "--keep-last", "1", "--prune", "--max-unused", "0"]);
    assert!(packs.iter().any(|pack| !restic.files("data").contains(pack)), "nothing was pruned");
    for file in &kept {
        assert_same(&mount, file);
    }
    // The list follows, and a mount that begins now sees the same.
    assert_same(&restic.mount().mount(), &kept[0]);
    assert!(mount.unmount().success());
}

/// 200 programs that read here and there in a file that is four times the budget get what the file holds, and the process
/// stays within the budget and what it takes itself.
#[test]
fn test_200_readers_stay_within_the_budget() {
    const FILE_BYTES: usize = 256 << 20;
    const READERS: usize = 200;
    let restic = Restic::init();
    let file = restic.scratch().join("big");
    fs::write(&file, pattern(FILE_BYTES, 5)).unwrap();
    restic.backup([&file]);
    let mount = restic.mount().arg("--memory=64M").mount();
    let (through, source) = (fs::File::open(shown(&mount, &file)).unwrap(), fs::File::open(&file).unwrap());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let (mut read, mut expected) = (vec![0; 100_000], vec![0; 100_000]);
                for _ in 0..8 {
                    // Steps that meet every part of the file in no order.
                    let number = next.fetch_add(1, Relaxed) as u64;
                    let offset = number * 104_729_001 % (FILE_BYTES as u64 - 100_000);
                    through.read_exact_at(&mut read, offset).unwrap();
                    source.read_exact_at(&mut expected, offset).unwrap();
                    assert!(read == expected, "at {offset}");
                }
            });
        }
    });
    let high_water_kib = mount.status_kib("VmHWM");
    assert!(high_water_kib < 150_000_000 / 1024, "{high_water_kib} KiB");
    drop((through, source));
    assert!(mount.unmount().success());
}

/// Killed at any moment, the program leaves caches that the next mount uses or makes anew: what is read is right, always.
#[test]
fn soak_kill_9_leaves_caches_that_the_next_mount_can_use() {
    let rounds = rounds();
    let bucket = Bucket::new(12);
    let cache = TempDir::new().unwrap();
    for round in 0..rounds {
        let mut mount = bucket.mount(bucket.minio.address()).cache_dir(cache.path()).mount();
        let path = mount.path().to_owned();
        std::thread::scope(|scope| {
            for (number, file) in bucket.files.iter().enumerate() {
                let shown = shown(&mount, file);
                let ended = [Errno::IO, Errno::CONNABORTED].map(|errno| Some(errno.raw_os_error()));
                scope.spawn(move || match fs::read(&shown) {
                    Ok(read) => assert!(read == fs::read(file).unwrap(), "round {round}: {} differs", file.display()),
                    // The mount went away under the reader.
                    Err(error) => assert!(
                        error.kind() == ErrorKind::NotConnected || ended.contains(&error.raw_os_error()),
                        "round {round}: {error}"
                    ),
                });
                if number == round % bucket.files.len() {
                    mount.signal(Signal::KILL);
                }
            }
        });
        mount.wait();
        drop(mount);
        assert_eq!(stash_tests::mounted::mounted_device(&path), None);
    }
    let mount = bucket.mount(bucket.minio.address()).cache_dir(cache.path()).mount();
    for file in &bucket.files {
        assert_same(&mount, file);
    }
    assert!(mount.unmount().success());
}
