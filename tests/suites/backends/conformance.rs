//! One set of expectations for every backend.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stash_repo::backend::memory::MemoryBackend;
use stash_repo::backend::{Backend, ConnectOptions, FileKind, ListEntry, Location, Retry, connect};
use stash_repo::{BackendErrorKind, Id};
use stash_tests::mounted::wait_for;
use stash_tests::servers::{Minio, RcloneServer, Sshd};

async fn reach(address: &str, options: &ConnectOptions) -> Arc<dyn Backend> {
    connect(&Location::parse(address).unwrap(), options).await.unwrap()
}

fn options() -> ConnectOptions {
    ConnectOptions { deadline: Duration::from_secs(20), ..ConnectOptions::default() }
}

fn content(seed: u8, len: usize) -> Bytes {
    (0..len).map(|i| u8::try_from((i * 31 + i / 251) % 256).unwrap() ^ seed).collect()
}

/// What every backend does, on an empty place.
async fn conform(backend: &Arc<dyn Backend>) {
    let zero = Id::default();
    backend.create().await.unwrap();
    for kind in FileKind::LISTED {
        assert_eq!(backend.list(kind).await.unwrap(), [], "{kind:?} of a new repository");
    }
    let missing = backend.read_full(FileKind::Config, &zero, 1000).await.unwrap_err();
    assert_eq!((missing.kind, missing.retry), (BackendErrorKind::NotFound, Retry::Permanent), "{missing}");

    backend.write(FileKind::Config, &zero, Bytes::from_static(b"config")).await.unwrap();
    assert_eq!(backend.read_full(FileKind::Config, &zero, 1000).await.unwrap(), "config");
    let again = backend.create().await.unwrap_err();
    assert_eq!(again.kind, BackendErrorKind::Conflict, "a second repository at the same place: {again}");

    // Files of every kind, of lengths around the sizes that transports cut at.
    for kind in FileKind::LISTED {
        let mut expected = Vec::new();
        for (seed, len) in [(1, 1), (2, 32_768), (3, 32_769), (4, 300_000)] {
            let content = content(seed, len);
            let id = Id::hash(&content);
            backend.write(kind, &id, content.clone()).await.unwrap();
            expected.push(ListEntry { id, len_bytes: len as u64 });
            assert_eq!(backend.read_full(kind, &id, len as u64).await.unwrap(), content, "{kind:?} {len}");
        }
        let mut listed = backend.list(kind).await.unwrap();
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected, "{kind:?}");
    }

    let whole = content(4, 300_000);
    let id = Id::hash(&whole);
    for range in [0..1, 0..300_000, 299_999..300_000, 32_767..32_770, 5..5, 100_000..290_001] {
        let usize_range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let read = backend.read_range(FileKind::Pack, &id, range.clone()).await.unwrap();
        assert_eq!(read, whole.slice(usize_range), "{range:?}");
    }
    for range in [299_999..300_001, 300_000..300_001, 400_000..400_010] {
        let short = backend.read_range(FileKind::Pack, &id, range.clone()).await.unwrap_err();
        assert_eq!((short.kind, short.retry), (BackendErrorKind::Corrupt, Retry::Permanent), "{range:?}: {short}");
    }
    let long = backend.read_full(FileKind::Pack, &id, 299_999).await.unwrap_err();
    assert_eq!(long.kind, BackendErrorKind::Corrupt, "{long}");
    let other = Id::hash(b"not there");
    let missing = backend.read_range(FileKind::Pack, &other, 0..10).await.unwrap_err();
    assert_eq!((missing.kind, missing.retry), (BackendErrorKind::NotFound, Retry::Permanent), "{missing}");

    // Many at once.
    let reads = (0..64_u64).map(|i| {
        let (backend, whole) = (Arc::clone(backend), whole.clone());
        tokio::spawn(async move {
            let start = i * 4000;
            let read = backend.read_range(FileKind::Pack, &id, start..start + 4096).await.unwrap();
            let start = usize::try_from(start).unwrap();
            assert_eq!(read, whole.slice(start..start + 4096));
        })
    });
    for read in reads.collect::<Vec<_>>() {
        read.await.unwrap();
    }

    // The same content again is no error: an answer may have been lost.
    backend.write(FileKind::Lock, &id, whole.clone()).await.unwrap();
    backend.remove(FileKind::Lock, &id).await.unwrap();
    backend.remove(FileKind::Lock, &id).await.unwrap();
    let missing = backend.read_full(FileKind::Lock, &id, 1 << 20).await.unwrap_err();
    assert_eq!(missing.kind, BackendErrorKind::NotFound);
    assert!(backend.list(FileKind::Lock).await.unwrap().iter().all(|entry| entry.id != id));
}

#[tokio::test]
async fn local() {
    let dir = tempfile::tempdir().unwrap();
    let backend = reach(&format!("local:{}", dir.path().join("repo").display()), &options()).await;
    conform(&backend).await;
    assert!(!backend.is_remote());
}

#[tokio::test]
async fn memory() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
    conform(&stash_repo::backend::decorated(backend, &options())).await;
}

#[tokio::test]
async fn rclone_over_stdio_is_started_again_and_ends_with_the_backend() {
    let dir = tempfile::tempdir().unwrap();
    // The wrapper leaves the process id, so that the test ends what it started and nothing else.
    let pid = dir.path().join("pid");
    let program = format!("sh -c 'echo $$ > {}; exec rclone \"$@\"' rclone", pid.display());
    let mut options = options();
    options.extended.insert("rclone.program".into(), program);
    let backend = reach(&format!("rclone:{}", dir.path().join("repo").display()), &options).await;
    assert!(!pid.exists(), "nothing is started before the first request");
    conform(&backend).await;
    assert!(options.metrics.backend_retries.get() == 0);

    is_started_again_and_ends_with_the_backend(backend, &pid).await;
}

#[tokio::test]
async fn rclone_that_cannot_work_says_why_without_what_it_was_told() {
    // Long enough for a program to start where others keep the processors busy; all of it is used, since it might work next time.
    let mut options = ConnectOptions { deadline: Duration::from_secs(10), ..ConnectOptions::default() };
    options.environment.insert("RCLONE_CONFIG".into(), "/notfound".into());
    let backend = reach("rclone:nosuchremote,pass=hush:path", &options).await;
    let error = backend.list(FileKind::Key).await.unwrap_err().to_string();
    // Which of the two is seen first is rclone's affair; both end in what it printed.
    assert!(error.contains("rclone ended") || error.contains("the connection to rclone broke"), "{error}");
    assert!(error.contains("rclone:nosuchremote,..."), "{error}");
    assert!(!error.contains("hush"), "{error}");

    options.extended.insert("rclone.program".into(), "/no/such/rclone".into());
    let error = reach("rclone:x:y", &options).await.list(FileKind::Key).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn sftp_through_a_command() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let mut options = options();
    let command = format!("sh -c 'echo $$ > {}; exec /usr/lib/openssh/sftp-server'", pid.display());
    options.extended.insert("sftp.command".into(), command);
    let backend = reach(&format!("sftp:nohost:{}", dir.path().join("a/repo").display()), &options).await;
    conform(&backend).await;

    // As on a local disk: modes, and nothing left behind.
    use std::os::unix::fs::PermissionsExt as _;
    let keys: Vec<_> = std::fs::read_dir(dir.path().join("a/repo/keys")).unwrap().map(Result::unwrap).collect();
    assert_eq!(keys.len(), 4);
    assert!(keys.iter().all(|key| key.metadata().unwrap().permissions().mode() & 0o777 == 0o400));

    is_started_again_and_ends_with_the_backend(backend, &pid).await;
}

#[tokio::test]
async fn sftp_keeps_packs_open_but_not_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.extended.insert("sftp.command".into(), "/usr/lib/openssh/sftp-server".into());
    let backend = reach(&format!("sftp:nohost:{}", dir.path().display()), &options).await;
    let packs: Vec<_> = (0..200_usize).map(|i| Bytes::from(format!("pack {i}"))).collect();
    for pack in &packs {
        backend.write(FileKind::Pack, &Id::hash(pack), pack.clone()).await.unwrap();
    }
    for _ in 0..2 {
        let reads = packs.iter().map(|pack| {
            let (backend, pack) = (Arc::clone(&backend), pack.clone());
            tokio::spawn(async move {
                let read = backend.read_range(FileKind::Pack, &Id::hash(&pack), 0..pack.len() as u64).await;
                assert_eq!(read.unwrap(), pack);
            })
        });
        for read in reads.collect::<Vec<_>>() {
            read.await.unwrap();
        }
    }
    assert_eq!(options.metrics.backend_errors.get(), 0);
}

#[tokio::test]
async fn root_sftp_through_ssh() {
    let sshd = Sshd::start();
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.extended.insert("sftp.args".into(), sshd.ssh_args());
    conform(&reach(&sshd.repository(&dir.path().join("repo")), &options).await).await;

    // A host key that is not known: ssh's own refusal is told.
    options.deadline = Duration::from_secs(10);
    options.extended.insert("sftp.args".into(), "-F none -o BatchMode=yes -o UserKnownHostsFile=/dev/null".into());
    let error = reach(&sshd.repository(dir.path()), &options).await.list(FileKind::Key).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unavailable);
    assert!(error.to_string().contains("Host key verification failed"), "{error}");
}

/// A program that a store is reached through and that left its id: it is started again where it was killed, and does not
/// outlive the backend.
async fn is_started_again_and_ends_with_the_backend(backend: Arc<dyn Backend>, pid: &std::path::Path) {
    let first = Process::of(pid);
    first.kill();
    assert_eq!(backend.read_full(FileKind::Config, &Id::default(), 100).await.unwrap(), "config");
    let second = Process::of(pid);
    assert_ne!(first.pid, second.pid);
    drop(backend);
    wait_for("the end of the program", || second.has_ended().then_some(()));
}

/// A process that a wrapper left the id of.
struct Process {
    pid: i32,
}

impl Process {
    fn of(file: &std::path::Path) -> Self {
        Self { pid: std::fs::read_to_string(file).unwrap().trim().parse().unwrap() }
    }

    fn rustix(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_raw(self.pid).unwrap()
    }

    fn kill(&self) {
        rustix::process::kill_process(self.rustix(), rustix::process::Signal::KILL).unwrap();
    }

    fn has_ended(&self) -> bool {
        rustix::process::test_kill_process(self.rustix()).is_err()
    }
}

#[tokio::test]
async fn s3() {
    let minio = Minio::start();
    minio.create_bucket("bucket");
    let environment = minio.environment();
    let mut options = ConnectOptions { environment, ..options() };
    for (prefix, v1) in [("", "false"), ("a/b c", "true")] {
        options.extended.insert("s3.list-objects-v1".into(), v1.into());
        conform(&reach(&minio.repository("bucket", prefix), &options).await).await;
    }
}

#[tokio::test]
async fn s3_with_a_credential_that_may_only_list_and_get() {
    let minio = Minio::start();
    minio.create_bucket("bucket");
    let address = minio.repository("bucket", "repo");
    let writer = reach(&address, &ConnectOptions { environment: minio.environment(), ..options() }).await;
    let pack = content(1, 5000);
    let id = Id::hash(&pack);
    writer.write(FileKind::Pack, &id, pack.clone()).await.unwrap();

    let environment = minio.list_and_get_environment("bucket");
    let reader = reach(&address, &ConnectOptions { environment, ..options() }).await;
    assert_eq!(reader.list(FileKind::Pack).await.unwrap(), [ListEntry { id, len_bytes: 5000 }]);
    assert_eq!(reader.list(FileKind::Snapshot).await.unwrap(), []);
    assert_eq!(reader.read_full(FileKind::Pack, &id, 1 << 20).await.unwrap(), pack);
    assert_eq!(reader.read_range(FileKind::Pack, &id, 10..20).await.unwrap(), pack.slice(10..20));
    let missing = reader.read_full(FileKind::Config, &Id::default(), 100).await.unwrap_err();
    assert_eq!(missing.kind, BackendErrorKind::NotFound, "{missing}");
    let denied = reader.write(FileKind::Lock, &id, pack).await.unwrap_err();
    assert_eq!((denied.kind, denied.retry), (BackendErrorKind::Denied, Retry::Permanent), "{denied}");
    let denied = reader.remove(FileKind::Pack, &id).await.unwrap_err();
    assert_eq!(denied.kind, BackendErrorKind::Denied, "{denied}");
}

#[tokio::test]
async fn s3_says_what_is_wrong() {
    let minio = Minio::start();
    minio.create_bucket("bucket");
    let mut wrong = minio.environment();
    wrong.insert("AWS_SECRET_ACCESS_KEY".into(), "hush-hush".into());
    for (address, environment, kind) in [
        (minio.repository("bucket", ""), wrong, BackendErrorKind::Denied),
        (minio.repository("nobucket", ""), minio.environment(), BackendErrorKind::NotFound),
    ] {
        let backend = reach(&address, &ConnectOptions { environment, ..options() }).await;
        let error = backend.list(FileKind::Snapshot).await.unwrap_err();
        assert_eq!((error.kind, error.retry), (kind, Retry::Permanent), "{error}");
        assert!(!error.to_string().contains("hush"), "{error}");
        assert!(error.to_string().starts_with("list snapshots in s3:http://127.0.0.1:"), "{error}");
    }
}

#[tokio::test]
async fn rest_with_an_account() {
    let dir = tempfile::tempdir().unwrap();
    let server = RcloneServer::start(dir.path(), Some(("user", "p:w@d")));
    let address = server.address();
    conform(&reach(&format!("rest:http://user:p%3Aw%40d@{address}/one/"), &options()).await).await;
    let environment =
        [("RESTIC_REST_USERNAME".into(), "user".into()), ("RESTIC_REST_PASSWORD".into(), "p:w@d".into())].into();
    conform(&reach(&format!("rest:http://{address}/two"), &ConnectOptions { environment, ..options() }).await).await;

    let wrong = reach(&format!("rest:http://user:hush@{address}/one/"), &options()).await;
    let denied = wrong.list(FileKind::Snapshot).await.unwrap_err();
    assert_eq!(denied.kind, BackendErrorKind::Denied);
    assert!(!denied.to_string().contains("hush"), "{denied}");
}
