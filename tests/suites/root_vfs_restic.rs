//! The tree over repositories that Debian's restic wrote, against the directories that were backed up.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use stash_repo::Timestamp;
use stash_tests::fixture::{make_every_kind, pattern};
use stash_tests::mounted::{unmount_when_free, wait_for};
use stash_tests::restic::Restic;
use stash_tests::tree_reader::{list, open, read_all, show, walk};
use stash_vfs::{FileType, Ino, NamespaceOptions, Vfs, VfsError};

fn latest(path: &Path) -> NamespaceOptions {
    NamespaceOptions { root: Some(format!("latest:{}", path.display())), ..NamespaceOptions::default() }
}

fn walk_source(root: &Path) -> BTreeMap<Vec<u8>, PathBuf> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                left.push(path.clone());
            }
            let mut name = b"/".to_vec();
            name.extend_from_slice(path.strip_prefix(root).unwrap().as_os_str().as_bytes());
            found.insert(name, path);
        }
    }
    found
}

fn kind(meta: &fs::Metadata) -> FileType {
    let own = meta.file_type();
    match () {
        () if own.is_dir() => FileType::Dir,
        () if own.is_symlink() => FileType::Symlink,
        () if own.is_fifo() => FileType::Fifo,
        () if own.is_socket() => FileType::Socket,
        () if own.is_block_device() => FileType::BlockDevice,
        () if own.is_char_device() => FileType::CharDevice,
        () => FileType::File,
    }
}

/// Sockets are not backed up by restic.
fn is_stored(path: &Path) -> bool {
    !path.symlink_metadata().unwrap().file_type().is_socket()
}

async fn assert_same_xattrs(vfs: &Vfs, ino: Ino, path: &Path) {
    let shown = path.display();
    let mut names: Vec<_> = vfs.listxattr(ino).await.unwrap();
    names.sort();
    let mut expected: Vec<_> = xattr::list(path).unwrap().collect();
    expected.sort();
    assert_eq!(names.len(), expected.len(), "{shown}: {names:?}");
    for (own, expected) in names.iter().zip(&expected) {
        assert_eq!(own, expected.as_bytes(), "{shown}");
        let value = xattr::get(path, expected).unwrap().unwrap();
        assert_eq!(vfs.getxattr(ino, own).await.unwrap(), value, "{shown}");
    }
    assert!(matches!(vfs.getxattr(ino, b"user.none").await, Err(VfsError::NoAttribute)), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_every_kind_of_inode_is_as_it_was() {
    let restic = Restic::init();
    let source = restic.scratch().join("source");
    make_every_kind(&source);
    restic.backup([source.as_os_str()]);
    let repository = open(&restic.path(), restic.password()).await;
    let vfs = show(&repository, latest(&source)).await.unwrap();
    let shown = walk(&vfs, Ino::ROOT).await;
    let stored: BTreeMap<_, _> = walk_source(&source).into_iter().filter(|(_, path)| is_stored(path)).collect();
    assert_eq!(shown.keys().collect::<Vec<_>>(), stored.keys().collect::<Vec<_>>());

    for (name, path) in &stored {
        let (attr, meta) = (shown[name], path.symlink_metadata().unwrap());
        let name = String::from_utf8_lossy(name);
        assert_eq!(attr.kind, kind(&meta), "{name}");
        assert_eq!(attr.mode, meta.mode() & 0o7777, "{name}");
        assert_eq!((attr.uid, attr.gid), (meta.uid(), meta.gid()), "{name}");
        let mtime = Timestamp { secs: meta.mtime(), nanos: u32::try_from(meta.mtime_nsec()).unwrap() };
        assert_eq!(attr.mtime, mtime, "{name}");
        match attr.kind {
            FileType::Dir => assert_eq!((attr.size, attr.nlink), (0, 1), "{name}"),
            FileType::File => {
                assert_eq!((attr.size, u64::from(attr.nlink)), (meta.size(), meta.nlink()), "{name}");
                for step in [1 << 20, 70_000] {
                    let read = read_all(&vfs, attr.ino, step).await.unwrap();
                    assert!(read == fs::read(path).unwrap(), "{name} in steps of {step}");
                }
            }
            FileType::Symlink => {
                let target = fs::read_link(path).unwrap();
                assert_eq!(vfs.readlink(attr.ino).await.unwrap(), target.as_os_str().as_bytes(), "{name}");
                assert_eq!(attr.size, target.as_os_str().len() as u64, "{name}");
            }
            FileType::BlockDevice | FileType::CharDevice => {
                let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
                assert_eq!(attr.rdev, (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12), "{name}");
            }
            FileType::Fifo | FileType::Socket => {}
        }
        if attr.kind != FileType::Symlink {
            assert_same_xattrs(&vfs, attr.ino, path).await;
        }
    }
    assert_same_xattrs(&vfs, Ino::ROOT, &source).await;
    let linked: Vec<Ino> =
        ["/linked", "/dir/linked-too", "/many/linked-three"].map(|name| shown[name.as_bytes()].ino).to_vec();
    assert!(linked.iter().all(|ino| *ino == linked[0]), "{linked:?}");

    // Another mount, another order of looking: the same numbers.
    let again = show(&repository, latest(&source)).await.unwrap();
    for (name, attr) in shown.iter().rev().step_by(7) {
        assert_eq!(again.resolve(name).await.unwrap(), *attr, "{}", String::from_utf8_lossy(name));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_holes_are_found_without_their_bytes() {
    let restic = Restic::init();
    let source = restic.scratch().join("source");
    make_every_kind(&source);
    restic.backup([source.as_os_str()]);
    let vfs = show(&open(&restic.path(), restic.password()).await, latest(&source)).await.unwrap();

    let hole = vfs.resolve(b"hole").await.unwrap();
    assert_eq!((hole.size, hole.blocks), (32 << 20, 0), "restic cuts zeros into blobs of 512 KiB, and all are holes");
    assert_eq!(vfs.seek(hole.ino, 0, true).await.unwrap(), 0);
    assert!(matches!(vfs.seek(hole.ino, 0, false).await, Err(VfsError::BeyondEnd)));

    let sparse = vfs.resolve(b"sparse").await.unwrap();
    let bytes = fs::read(source.join("sparse")).unwrap();
    assert!(sparse.blocks * 512 < 4 << 20, "{} blocks", sparse.blocks);
    assert!(sparse.blocks * 512 > 70_000);
    // The map of data and holes covers the file, and holes are zeros.
    let (mut at, mut data_bytes) = (0, 0);
    loop {
        let data = match vfs.seek(sparse.ino, at, false).await {
            Ok(data) => data,
            Err(VfsError::BeyondEnd) => sparse.size,
            Err(error) => panic!("{error}"),
        };
        let from = usize::try_from(at).unwrap();
        assert!(bytes[from..usize::try_from(data).unwrap()].iter().all(|byte| *byte == 0), "{at}..{data}");
        if data == sparse.size {
            break;
        }
        at = vfs.seek(sparse.ino, data, true).await.unwrap();
        assert!(at > data);
        data_bytes += at - data;
        if at == sparse.size {
            break;
        }
    }
    assert_eq!(data_bytes.div_ceil(512), sparse.blocks, "st_blocks and SEEK_DATA agree");
    assert!(matches!(vfs.seek(sparse.ino, sparse.size, true).await, Err(VfsError::BeyondEnd)));
    let one = vfs.resolve(b"one").await.unwrap();
    assert_eq!((vfs.seek(one.ino, 0, false).await.unwrap(), vfs.seek(one.ino, 0, true).await.unwrap()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_reads_anywhere_in_a_file_of_many_blobs() {
    let restic = Restic::init();
    let source = restic.scratch().join("source");
    fs::create_dir(&source).unwrap();
    let bytes = pattern(24 << 20, 5);
    fs::write(source.join("file"), &bytes).unwrap();
    restic.backup([source.as_os_str()]);
    let repository = open(&restic.path(), restic.password()).await;
    let vfs = show(&repository, latest(&source)).await.unwrap();
    let file = vfs.resolve(b"file").await.unwrap();
    let mut state = 1_u64;
    for round in 0..400 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let offset = usize::try_from((state >> 20) % (25 << 20)).unwrap();
        let len = [1, 4_096, 131_072, 3 << 20][round % 4];
        let read = vfs.read(file.ino, offset as u64, u32::try_from(len).unwrap()).await.unwrap();
        let expected = &bytes[offset.min(bytes.len())..(offset + len).min(bytes.len())];
        assert!(read.to_vec() == *expected, "{len} bytes at {offset}: {} came", read.len());
    }
}

/// What restic itself shows, by its mount.
fn restic_mount(restic: &Restic, arguments: &[&str]) -> BTreeMap<String, Option<String>> {
    let mountpoint = restic.scratch().join("restic-mount");
    fs::create_dir_all(&mountpoint).unwrap();
    let mut child = restic.command().arg("mount").args(arguments).arg(&mountpoint).spawn().unwrap();
    let device = fs::metadata(restic.scratch()).unwrap().dev();
    wait_for("restic's mount", || {
        let there = fs::metadata(&mountpoint).is_ok_and(|meta| meta.dev() != device);
        (there && fs::read_dir(&mountpoint).is_ok()).then_some(())
    });
    let mut found = BTreeMap::new();
    let mut left = vec![mountpoint.clone()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&mountpoint).unwrap().to_str().unwrap().to_owned();
            let link = fs::read_link(&path).ok().map(|target| target.to_str().unwrap().to_owned());
            // Below a snapshot lies the source: the layout ends there.
            if link.is_none() && !path.join("inside").exists() {
                left.push(path);
            }
            found.insert(name, link);
        }
    }
    let unmount = || std::process::Command::new("fusermount3").arg("-u").arg(&mountpoint).status().unwrap();
    unmount_when_free(|| unmount().success().then_some(()));
    child.wait().unwrap();
    found
}

async fn our_layout(vfs: &Vfs) -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    let mut left = vec![(String::new(), Ino::ROOT)];
    while let Some((path, dir)) = left.pop() {
        for entry in list(vfs, dir, 3, true).await.unwrap() {
            let name = format!("{path}{}", String::from_utf8(entry.name).unwrap());
            let link = match entry.kind {
                FileType::Symlink => Some(String::from_utf8(vfs.readlink(entry.ino).await.unwrap().to_vec()).unwrap()),
                _ => None,
            };
            let snapshot = link.is_none() && vfs.lookup(entry.ino, b"inside").await.is_ok();
            if link.is_none() && !snapshot {
                left.push((format!("{name}/"), entry.ino));
            }
            found.insert(name, link);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_the_layout_is_restics() {
    let restic = Restic::init();
    let source = restic.scratch().join("inside");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), b"x").unwrap();
    for (host, tags, time) in [
        ("alpha", &[][..], "2024-01-02 03:04:05"),
        ("alpha", &["daily"], "2024-01-02 03:04:05"),
        ("beta", &["daily", "a/b"], "2024-05-06 07:08:09"),
        ("beta", &["weekly"], "2023-05-06 17:08:09"),
    ] {
        // Relative, so that "inside" is the snapshot's first entry.
        let mut backup = restic.command();
        backup.current_dir(restic.scratch()).args(["backup", "inside", "--host", host, "--time", time]);
        for tag in tags {
            backup.args(["--tag", tag]);
        }
        stash_tests::fixture::run(&mut backup);
    }
    let repository = open(&restic.path(), restic.password()).await;
    let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    for (arguments, namespace) in [
        (&[][..], NamespaceOptions::default()),
        (
            &["--time-template", "Mon Jan _2 15-04-05.000 PM 06 002 MST Z07:00 -0700", "--path-template", "x/%h/%T"],
            NamespaceOptions {
                time_template: Some("Mon Jan _2 15-04-05.000 PM 06 002 MST Z07:00 -0700".into()),
                path_templates: strings(&["x/%h/%T"]),
                ..NamespaceOptions::default()
            },
        ),
        (
            &["--path-template", "%h/%i", "--path-template", "%u/%%/%T", "--host", "beta"],
            NamespaceOptions {
                path_templates: strings(&["%h/%i", "%u/%%/%T"]),
                hosts: strings(&["beta"]),
                ..NamespaceOptions::default()
            },
        ),
        (
            &["--time-template", "2006/01/02", "--tag", "daily", "--path-template", "by-time/%T"],
            NamespaceOptions {
                time_template: Some("2006/01/02".into()),
                path_templates: strings(&["by-time/%T"]),
                tags: strings(&["daily"]),
                ..NamespaceOptions::default()
            },
        ),
    ] {
        let ours = our_layout(&show(&repository, namespace).await.unwrap()).await;
        assert_eq!(ours, restic_mount(&restic, arguments), "{arguments:?}");
    }
}
