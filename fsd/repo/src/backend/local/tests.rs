use super::*;

fn backend() -> (tempfile::TempDir, LocalBackend) {
    let dir = tempfile::tempdir().unwrap();
    let backend = LocalBackend::new(dir.path().join("repo"));
    (dir, backend)
}

async fn created() -> (tempfile::TempDir, LocalBackend) {
    let (dir, backend) = backend();
    backend.create().await.unwrap();
    (dir, backend)
}

const ZERO: Id = Id::new([0; 32]);

#[tokio::test]
async fn test_create_makes_restics_folders_once() {
    let (_dir, backend) = created().await;
    for dir in ["keys", "locks", "snapshots", "index", "data/00", "data/a7", "data/ff"] {
        let metadata = fs::metadata(backend.root().join(dir)).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o700, "{dir}");
    }
    backend.write(FileKind::Config, &ZERO, Bytes::from_static(b"config")).await.unwrap();
    assert_eq!(backend.create().await.unwrap_err().kind, BackendErrorKind::Conflict);
    let again = backend.write(FileKind::Config, &ZERO, Bytes::from_static(b"other")).await.unwrap_err();
    assert_eq!(again.kind, BackendErrorKind::Conflict);
    assert_eq!(backend.read_full(FileKind::Config, &ZERO, 100).await.unwrap(), "config");
}

#[tokio::test]
async fn test_files_are_read_only_and_leave_nothing_else_behind() {
    let (_dir, backend) = created().await;
    let id = Id::hash(b"pack");
    backend.write(FileKind::Pack, &id, Bytes::from_static(b"pack")).await.unwrap();
    let path = backend.root().join(FileKind::Pack.path(&id));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o400);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn test_a_repository_for_a_group_stays_one() {
    let (_dir, backend) = created().await;
    fs::write(backend.root().join("config"), b"x").unwrap();
    fs::set_permissions(backend.root().join("config"), fs::Permissions::from_mode(0o440)).unwrap();
    let id = Id::hash(b"x");
    backend.write(FileKind::Key, &id, Bytes::from_static(b"x")).await.unwrap();
    let mode = fs::metadata(backend.root().join(FileKind::Key.path(&id))).unwrap().mode();
    // The umask of the test may take the group's right away at creation; the mode is set again when whole.
    assert_eq!(mode & 0o7777, 0o440);
}

#[tokio::test]
async fn test_list_takes_ids_only_and_packs_only_where_they_can_be_read() {
    let (_dir, backend) = created().await;
    let id = Id::hash(b"1");
    backend.write(FileKind::Pack, &id, Bytes::from_static(b"abc")).await.unwrap();
    let data = backend.root().join("data");
    let folder = data.join(&id.to_hex()[..2]);
    fs::write(folder.join(format!("{id}-tmp-123")), b"").unwrap();
    fs::write(data.join("README"), b"").unwrap();
    fs::write(data.join("zz"), b"").unwrap();
    let foreign = Id::new([0xfe; 32]);
    fs::write(data.join("00").join(foreign.to_string()), b"").unwrap();
    fs::create_dir(data.join("fe").join(foreign.to_string())).unwrap();
    assert_eq!(backend.list(FileKind::Pack).await.unwrap(), [ListEntry { id, len_bytes: 3 }]);
    assert_eq!(backend.list(FileKind::Index).await.unwrap(), []);
}

#[tokio::test]
async fn test_a_missing_folder_is_an_empty_list_and_a_broken_one_an_error() {
    let (_dir, backend) = backend();
    assert_eq!(backend.list(FileKind::Pack).await.unwrap(), []);
    backend.create().await.unwrap();
    // A symlink that leads nowhere is not a file that vanished, but a loop is an error.
    let looping = backend.root().join("snapshots");
    fs::remove_dir(&looping).unwrap();
    std::os::unix::fs::symlink("snapshots", &looping).unwrap();
    assert!(backend.list(FileKind::Snapshot).await.is_err());
}

#[tokio::test]
async fn test_reads_are_exact_or_fail() {
    let (_dir, backend) = created().await;
    let id = Id::hash(b"1");
    backend.write(FileKind::Pack, &id, Bytes::from_static(b"0123456789")).await.unwrap();
    assert_eq!(backend.read_range(FileKind::Pack, &id, 2..5).await.unwrap(), "234");
    assert_eq!(backend.read_range(FileKind::Pack, &id, 10..10).await.unwrap(), "");
    let mut buf = [0; 4];
    backend.read_local(FileKind::Pack, &id, 6, &mut buf).unwrap().unwrap();
    assert_eq!(&buf, b"6789");
    let mut cached = [0; 4];
    assert!(backend.read_cached(FileKind::Pack, &id, 6, &mut cached), "it was read just now");
    assert_eq!(&cached, b"6789");
    assert!(!backend.read_cached(FileKind::Pack, &id, 7, &mut cached), "the file ends before");
    assert!(!backend.read_cached(FileKind::Pack, &ZERO, 0, &mut cached), "there is no such file");

    let short = backend.read_range(FileKind::Pack, &id, 8..11).await.unwrap_err();
    assert_eq!((short.kind, short.retry), (BackendErrorKind::Corrupt, Retry::Permanent));
    let short = backend.read_local(FileKind::Pack, &id, 7, &mut buf).unwrap().unwrap_err();
    assert_eq!(short.kind, BackendErrorKind::Corrupt);
    let absurd = backend.read_range(FileKind::Pack, &id, 0..u64::MAX).await.unwrap_err();
    assert_eq!(absurd.kind, BackendErrorKind::Invalid);
    #[expect(clippy::reversed_empty_ranges, reason = "a damaged index may say so")]
    let reversed = backend.read_range(FileKind::Pack, &id, 5..2).await.unwrap_err();
    assert_eq!(reversed.kind, BackendErrorKind::Invalid);
    let long = backend.read_full(FileKind::Pack, &id, 9).await.unwrap_err();
    assert_eq!(long.kind, BackendErrorKind::Corrupt);
    assert_eq!(backend.read_full(FileKind::Pack, &id, 10).await.unwrap(), "0123456789");
    let gone = backend.read_full(FileKind::Pack, &ZERO, 9).await.unwrap_err();
    assert_eq!((gone.kind, gone.retry), (BackendErrorKind::NotFound, Retry::Permanent));
    assert_eq!(gone.target, "data/00000000");
}

#[tokio::test]
async fn test_a_removed_pack_is_still_read_and_a_repaired_one_seen_by_asking_again() {
    let (_dir, backend) = created().await;
    let id = Id::hash(b"1");
    let path = backend.root().join(FileKind::Pack.path(&id));
    let read = |backend: &LocalBackend| {
        let mut buf = [0; 3];
        backend.read_local(FileKind::Pack, &id, 0, &mut buf).unwrap().map(|()| buf)
    };
    backend.write(FileKind::Pack, &id, Bytes::from_static(b"old")).await.unwrap();
    assert_eq!(&read(&backend).unwrap(), b"old");
    fs::remove_file(&path).unwrap();
    assert_eq!(&read(&backend).unwrap(), b"old", "the descriptor was kept");
    fs::write(&path, b"new").unwrap();
    assert_eq!(backend.read_range(FileKind::Pack, &id, 0..3).await.unwrap(), "new");
    assert_eq!(&read(&backend).unwrap(), b"new");
    backend.remove(FileKind::Pack, &id).await.unwrap();
    assert_eq!(read(&backend).unwrap_err().kind, BackendErrorKind::NotFound);
    backend.remove(FileKind::Pack, &id).await.unwrap();
}

#[tokio::test]
async fn test_what_is_no_file_neither_blocks_nor_reads() {
    let (_dir, backend) = created().await;
    let (fifo, dir) = (Id::hash(b"fifo"), Id::hash(b"dir"));
    let path = backend.root().join(FileKind::Pack.path(&fifo));
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    fs::create_dir(backend.root().join(FileKind::Pack.path(&dir))).unwrap();
    for id in [fifo, dir] {
        assert_eq!(backend.read_full(FileKind::Pack, &id, 9).await.unwrap_err().kind, BackendErrorKind::Other);
        assert!(backend.read_local(FileKind::Pack, &id, 0, &mut [0]).unwrap().is_err());
    }
}

#[tokio::test]
async fn test_a_full_disk_says_so_and_leaves_nothing_visible() {
    let (_dir, backend) = created().await;
    let id = Id::hash(b"1");
    let folder = backend.root().join("data").join(&id.to_hex()[..2]);
    fs::remove_dir(&folder).unwrap();
    std::os::unix::fs::symlink("/dev/full", &folder).unwrap();
    let error = backend.write(FileKind::Pack, &id, Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.retry, Retry::Permanent);
    let failure = Failure::from(io::Error::from_raw_os_error(libc::ENOSPC)).at("write", "x", "y");
    assert_eq!(failure.kind, BackendErrorKind::Full);
}
