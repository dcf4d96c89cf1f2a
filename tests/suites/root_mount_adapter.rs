//! The adapter and the session over a tree from memory: answers, panics, deadlines, counted lookups, the recorded INIT.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use stash_fs::fuse::mount::MountOptions;
use stash_fs::fuse::{DispatchOptions, FuseMetrics, FuseSession, MountError, Op, SessionOptions};
use stash_tests::kernel_caches;
use stash_tests::memory_tree::{Content, Fault, MemoryTree};
use stash_tests::mounted::{LIMIT, mounted_device, unmount_at, unmount_when_free, wait_for};
use stash_vfs::Ino;
use tempfile::TempDir;
use tokio::runtime::Runtime;

struct Session {
    session: Option<FuseSession>,
    runtime: Runtime,
    metrics: Arc<FuseMetrics>,
    folder: TempDir,
}

impl Session {
    fn start(tree: &MemoryTree, deadline: Duration, threads: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let folder = TempDir::with_prefix("stash-fs-adapter-").unwrap();
        let options = SessionOptions {
            mount: MountOptions { source: "memory,tree".into(), allow_other: true, default_permissions: true },
            threads,
            read_ahead_kib: 1024,
            dispatch: DispatchOptions { deadline, max_in_flight: 8 },
        };
        let metrics = Arc::new(FuseMetrics::default());
        let mountpoint = folder.path().canonicalize().unwrap();
        let session =
            FuseSession::start(tree.clone(), &mountpoint, &options, runtime.handle().clone(), Arc::clone(&metrics))
                .unwrap();
        Self { session: Some(session), runtime, metrics, folder }
    }

    fn join(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Returns how many requests of a kind were answered. A request is counted after its answer: of one thread's
    /// requests, one more that is answered proves that those before it are counted.
    fn requests(&self, op: Op) -> u64 {
        rustix::fs::statfs(self.folder.path()).unwrap();
        self.metrics.op(op).latency.snapshot().0.iter().sum()
    }

    fn session(&self) -> &FuseSession {
        self.session.as_ref().unwrap()
    }

    fn end(&mut self) {
        if let Some(session) = self.session.take() {
            unmount_when_free(|| match session.unmount(false) {
                Err(MountError::Busy(_)) => None,
                ended => ended.map(Some).unwrap(),
            });
            assert!(self.runtime.block_on(session.ended_within(LIMIT)), "the session goes on after umount");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            drop(session.unmount(true));
        }
    }
}

const LONG: Duration = Duration::from_secs(60);

fn raw_error(path: &Path) -> Option<i32> {
    fs::read(path).unwrap_err().raw_os_error()
}

#[test]
fn test_files_directories_links_and_attributes() {
    let mut builder = MemoryTree::builder();
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = builder.file(Ino::ROOT, "file", content.clone());
    builder.xattr(file, "user.one", b"1");
    builder.xattr(file, "user.two", b"");
    builder.add(Ino::ROOT, "link", Content::Symlink(b"file".to_vec()));
    let many = builder.dir(Ino::ROOT, "many");
    for number in 0..3000 {
        builder.file(many, format!("name-{number:05}"), vec![b'x'; number % 7]);
    }
    let tree = builder.build();
    let _remembered = kernel_caches::remembered();
    let mut mount = Session::start(&tree, LONG, 2);

    assert_eq!(fs::read(mount.join("file")).unwrap(), content);
    assert_eq!(fs::read(mount.join("link")).unwrap(), content);
    let metadata = fs::metadata(mount.join("file")).unwrap();
    assert_eq!((metadata.len(), metadata.mtime(), metadata.mtime_nsec()), (12_000_000, 1_500_000_000, 123_456_789));
    let mut names: Vec<_> = fs::read_dir(mount.join("many")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 3000);
    assert_eq!(names[2999], "name-02999");
    assert_eq!(xattr::get(mount.join("file"), "user.one").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(xattr::get(mount.join("file"), "user.two").unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(xattr::get(mount.join("file"), "user.three").unwrap(), None, "ENODATA, never ENOSYS");
    assert_eq!(xattr::list(mount.join("file")).unwrap().count(), 2);
    let file = File::open(mount.join("file")).unwrap();
    let mut part = [0; 10];
    file.read_exact_at(&mut part, 11_999_990).unwrap();
    assert_eq!(part, content[11_999_990..]);
    drop(file);
    assert_eq!(fs::metadata(mount.join("nothing")).unwrap_err().kind(), ErrorKind::NotFound);

    assert_eq!(mount.requests(Op::Open) + mount.requests(Op::Release), 0, "the kernel opens files by itself");
    assert!(tree.lookups() > 3000);
    mount.end();
    assert_eq!(mounted_device(mount.folder.path()), None);
}

#[test]
fn test_second_look_costs_no_request() {
    let mut builder = MemoryTree::builder();
    let dir = builder.dir(Ino::ROOT, "dir");
    for number in 0..100 {
        builder.file(dir, format!("{number:03}"), "content");
    }
    let _remembered = kernel_caches::remembered();
    let mount = Session::start(&builder.build(), LONG, 1);
    let requests = |op| mount.requests(op);
    let walk = || {
        for entry in fs::read_dir(mount.join("dir")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().len(), 7);
            assert_eq!(fs::read(entry.path()).unwrap(), b"content");
        }
        // Names that are not there are remembered as well.
        assert!(!mount.join("dir/absent").exists());
    };
    walk();
    let ops = [Op::Lookup, Op::Getattr, Op::Open, Op::Read, Op::Release, Op::Readdir, Op::Readdirplus];
    let before = ops.map(requests);
    assert!(requests(Op::Lookup) < 10, "READDIRPLUS brings the attributes: {} lookups", requests(Op::Lookup));
    walk();
    walk();
    assert_eq!(ops.map(requests), before, "{ops:?}");
}

#[test]
fn test_panics_are_answered_eio_and_the_mount_goes_on() {
    let mut builder = MemoryTree::builder();
    let at_once = builder.file(Ino::ROOT, "at-once", "x");
    builder.fault(at_once, Fault::PanicAtOnce);
    let later = builder.file(Ino::ROOT, "later", "x");
    builder.fault(later, Fault::PanicLater);
    let list = builder.dir(Ino::ROOT, "list");
    builder.file(list, "a", "");
    builder.fault(list, Fault::PanicLater);
    builder.file(Ino::ROOT, "good", "good");
    let tree = builder.build();
    let mount = Session::start(&tree, LONG, 1);
    for _ in 0..3 {
        assert_eq!(raw_error(&mount.join("at-once")), Some(libc::EIO));
        assert_eq!(raw_error(&mount.join("later")), Some(libc::EIO));
        assert_eq!(
            fs::read_dir(mount.join("list")).unwrap().next().unwrap().unwrap_err().raw_os_error(),
            Some(libc::EIO)
        );
        assert_eq!(fs::read(mount.join("good")).unwrap(), b"good");
    }
    assert!(mount.metrics.panics.get() >= 9, "{}", mount.metrics.panics.get());
    assert!(mount.metrics.op(Op::Read).failures.get() >= 6);
    wait_for("no task in flight", || {
        (mount.metrics.in_flight.load(std::sync::atomic::Ordering::Relaxed) == 0).then_some(())
    });
}

#[test]
fn test_deadline_answers_eio_while_others_are_served() {
    let mut builder = MemoryTree::builder();
    let never = builder.file(Ino::ROOT, "never", "x");
    builder.fault(never, Fault::Never);
    let list = builder.dir(Ino::ROOT, "list");
    builder.file(list, "a", "");
    builder.fault(list, Fault::Never);
    builder.file(Ino::ROOT, "good", "good");
    let fail = builder.file(Ino::ROOT, "fail", "x");
    builder.fault(fail, Fault::Fail);
    let tree = builder.build();
    let mount = Session::start(&tree, Duration::from_millis(300), 1);
    // Other tests have the kernel forget what is not in use.
    let held = ["never", "list", "good", "fail"]
        .map(|name| rustix::fs::open(mount.join(name), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap());
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            ["never", "never", "never"].map(|name| scope.spawn(|| raw_error(&mount.join(name)))).into();
        let listed =
            scope.spawn(|| fs::read_dir(mount.join("list")).unwrap().next().unwrap().unwrap_err().raw_os_error());
        assert_eq!(fs::read(mount.join("good")).unwrap(), b"good");
        for reader in readers {
            assert_eq!(reader.join().unwrap(), Some(libc::EIO));
        }
        assert_eq!(listed.join().unwrap(), Some(libc::EIO));
    });
    assert!(mount.metrics.deadlines.get() >= 3);
    assert_eq!(raw_error(&mount.join("fail")), Some(libc::EIO));
    // What a listing counted before it failed was given back: only what the kernel knows is counted.
    let lookups = wait_for("lookups of names alone", || {
        let lookups = tree.lookups();
        (lookups <= 8).then_some(lookups)
    });
    assert!(lookups >= 4, "{lookups}");
    drop(held);
}

#[test]
fn test_more_readers_than_tasks_are_all_served() {
    let mut builder = MemoryTree::builder();
    let names: Vec<String> = (0..64).map(|number| format!("file-{number}")).collect();
    for name in &names {
        let ino = builder.file(Ino::ROOT, name, name.clone().into_bytes());
        builder.fault(ino, Fault::Later);
    }
    let mount = Session::start(&builder.build(), LONG, 2);
    std::thread::scope(|scope| {
        for name in &names {
            let mount = &mount;
            scope.spawn(move || assert_eq!(fs::read(mount.join(name)).unwrap(), name.as_bytes()));
        }
    });
    assert!(mount.metrics.op(Op::Read).deferred.get() >= 64);
}

#[test]
fn test_init_is_recorded_and_asks_for_what_reading_needs() {
    use fuser::InitFlags;

    let mut mount = Session::start(&MemoryTree::default_tree(), LONG, 1);
    let init = mount.session().init().clone();
    // fuse_in_header: len, opcode 26 (INIT); fuse_out_header: len, error 0.
    assert_eq!(u32::from_ne_bytes(init.request[4..8].try_into().unwrap()), 26);
    assert_eq!(i32::from_ne_bytes(init.reply[4..8].try_into().unwrap()), 0);
    // fuse_init_out: major, minor, max_readahead, flags, max_background, congestion, max_write, time_gran, max_pages, _, flags2.
    let word = |at: usize| u64::from(u32::from_ne_bytes(init.reply[at..at + 4].try_into().unwrap()));
    let half = |at: usize| u16::from_ne_bytes(init.reply[at..at + 2].try_into().unwrap());
    let flags = InitFlags::from_bits_retain(word(28) | word(48) << 32);
    for wanted in [
        InitFlags::FUSE_ASYNC_READ,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_MAX_PAGES,
        InitFlags::FUSE_POSIX_ACL,
    ] {
        assert!(flags.contains(wanted), "{wanted:?} in {flags:?}");
    }
    assert!(!flags.contains(InitFlags::FUSE_READDIRPLUS_AUTO) && !flags.contains(InitFlags::FUSE_OVER_IO_URING));
    assert_eq!(half(32), 128, "max_background");
    assert_eq!(half(44), 256, "max_pages");
    let (major, minor) = mount.session().device();
    let read_ahead = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")).unwrap();
    assert_eq!(read_ahead.trim(), "1024");
    mount.end();
}

#[test]
fn test_remounted_for_writing_nothing_can_be_written() {
    use std::os::unix::fs::PermissionsExt as _;

    let mut mount = Session::start(&MemoryTree::default_tree(), LONG, 1);
    let flags = rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOSUID;
    rustix::mount::mount_remount(mount.folder.path(), flags, "").unwrap();
    let at = |name: &str| mount.join(name);
    let table: [(&str, std::io::Result<()>); 14] = [
        ("open for writing", fs::OpenOptions::new().write(true).open(at("file")).map(drop)),
        ("open for both", fs::OpenOptions::new().read(true).write(true).open(at("file")).map(drop)),
        ("create", File::create_new(at("new")).map(drop)),
        ("mkdir", fs::create_dir(at("new"))),
        ("rmdir", fs::remove_dir(at("dir"))),
        ("unlink", fs::remove_file(at("file"))),
        ("rename", fs::rename(at("file"), at("new"))),
        ("link", fs::hard_link(at("file"), at("new"))),
        ("symlink", std::os::unix::fs::symlink("file", at("new"))),
        ("mknod", rustix::fs::mkfifoat(rustix::fs::CWD, at("new"), rustix::fs::Mode::RUSR).map_err(Into::into)),
        ("chmod", fs::set_permissions(at("file"), fs::Permissions::from_mode(0o600))),
        ("chown", std::os::unix::fs::chown(at("file"), Some(1), None)),
        ("setxattr", xattr::set(at("file"), "user.new", b"x")),
        ("removexattr", xattr::remove(at("file"), "user.new")),
    ];
    for (what, result) in table {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS), "{what}");
    }
    assert_eq!(fs::read(at("file")).unwrap(), b"content");
    mount.end();
}

#[test]
fn test_unmounted_by_somebody_else() {
    let mut mount = Session::start(&MemoryTree::default_tree(), LONG, 2);
    let start = Instant::now();
    unmount_at(mount.folder.path());
    let session = mount.session.take().unwrap();
    assert!(mount.runtime.block_on(session.ended_within(LIMIT)), "after {:?}", start.elapsed());
    assert!(session.unmount(false).is_err(), "a later mount on the same place is not ours to unmount");
}

trait DefaultTree {
    fn default_tree() -> Self;
}

impl DefaultTree for MemoryTree {
    fn default_tree() -> Self {
        let mut builder = Self::builder();
        builder.file(Ino::ROOT, "file", "content");
        builder.dir(Ino::ROOT, "dir");
        builder.build()
    }
}
