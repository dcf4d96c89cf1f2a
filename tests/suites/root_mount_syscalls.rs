//! Every system call that reads a mount, and those that would write, on a repository that restic made.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, SeekFrom as Seek};
use rustix::io::Errno;
use stash_tests::fixture;
use stash_tests::mounted::Mounted;
use stash_tests::restic::Restic;

struct Tree {
    restic: Restic,
    source: PathBuf,
    mount: Mounted,
}

impl Tree {
    /// Every kind of inode, backed up by restic, and mounted; without the socket, which restic 0.14 does not store.
    fn new() -> Self {
        let restic = Restic::init();
        let source = restic.scratch().join("source");
        fixture::make_every_kind(&source);
        fs::remove_file(source.join("socket")).unwrap();
        restic.backup([&source]);
        let mount = restic.mount().root(&format!("latest:{}", source.display())).mount();
        Self { restic, source, mount }
    }

    fn both(&self, name: impl AsRef<Path>) -> [PathBuf; 2] {
        [self.source.join(&name), self.mount.join(&name)]
    }
}

fn listed(path: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    names.sort();
    names
}

#[test]
fn test_reading_gives_what_was_backed_up() {
    let tree = Tree::new();
    assert!(tree.restic.path().is_dir());
    stat_and_links(&tree);
    readdir_and_seekdir(&tree);
    read_pread_and_mmap(&tree);
    holes(&tree);
    attributes(&tree);
    statfs_access_ioctl_sync(&tree);
    writes_are_refused(&tree);
}

fn stat_and_links(tree: &Tree) {
    for name in listed(&tree.source) {
        let [have, got] = tree.both(OsStr::from_bytes(&name)).map(|path| fs::symlink_metadata(path).unwrap());
        let facts = |m: &fs::Metadata| {
            let kind = m.file_type();
            let size = if kind.is_dir() { 0 } else { m.size() };
            (m.mode(), m.uid(), m.gid(), size, m.mtime(), m.mtime_nsec(), m.rdev(), kind.is_fifo(), kind.is_socket())
        };
        assert_eq!(facts(&got), facts(&have), "{}", String::from_utf8_lossy(&name));
        if !have.is_dir() {
            assert_eq!(got.nlink(), have.nlink(), "{}", String::from_utf8_lossy(&name));
        }
        if have.is_symlink() {
            let [have, got] = tree.both(OsStr::from_bytes(&name)).map(|path| fs::read_link(path).unwrap());
            assert_eq!(got, have);
        }
    }
    let ino = |name: &str| fs::metadata(tree.mount.join(name)).unwrap().ino();
    assert_eq!(ino("linked"), ino("dir/linked-too"), "hard links share an inode");
    assert_ne!(ino("linked"), ino("one"));
    let missing = fs::metadata(tree.mount.join("nothing/at/all")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let through_file = fs::metadata(tree.mount.join("one/below")).unwrap_err();
    assert_eq!(through_file.kind(), ErrorKind::NotADirectory);
    let long = fs::metadata(tree.mount.join("x".repeat(256))).unwrap_err();
    assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
    assert_eq!(fs::read(tree.mount.join("dir")).unwrap_err().raw_os_error(), Some(libc::EISDIR));
    // Through the kernel's handles: nfsd and friends find an inode that is still held.
    assert_eq!(File::open(tree.mount.join("fifo-absent")).unwrap_err().kind(), ErrorKind::NotFound);
}

fn readdir_and_seekdir(tree: &Tree) {
    for name in ["", "dir", "dir/void", "many"] {
        let [have, got] = tree.both(name).map(|path| listed(&path));
        assert_eq!(got, have, "{name}");
    }
    // telldir(3) and seekdir(3): the offset of an entry leads to the entry behind it, also in a directory of many pages.
    let open = || File::open(tree.mount.join("many")).unwrap();
    let read_all = |dir: &File| -> Vec<(Vec<u8>, u64)> {
        let mut buffer = Vec::with_capacity(4096);
        let mut reader = rustix::fs::RawDir::new(dir.as_fd(), buffer.spare_capacity_mut());
        let mut entries = Vec::new();
        while let Some(entry) = reader.next() {
            let entry = entry.unwrap();
            entries.push((entry.file_name().to_bytes().to_vec(), entry.next_entry_cookie()));
        }
        entries
    };
    let dir = open();
    let whole = read_all(&dir);
    assert_eq!(whole.len(), listed(&tree.source.join("many")).len() + 2);
    for place in [0, 1, 2, 700, whole.len() - 2] {
        rustix::fs::seek(&dir, Seek::Start(whole[place].1)).unwrap();
        assert_eq!(read_all(&dir), whole[place + 1..], "after entry {place}");
    }
    rustix::fs::seek(&dir, Seek::Start(0)).unwrap();
    assert_eq!(read_all(&dir).len(), whole.len());
    assert_eq!(read_all(&open()), whole, "the order is the same every time");
}

fn read_pread_and_mmap(tree: &Tree) {
    for name in ["empty", "one", "page", "big", "sparse", "linked", "dir/deep/er/and/deeper/leaf"] {
        let [have, got] = tree.both(name).map(|path| fs::read(path).unwrap());
        assert!(got == have, "{name} differs");
    }
    let [have, got] = tree.both("big").map(|path| File::open(path).unwrap());
    let len = have.metadata().unwrap().len();
    let mut seed = 7_u64;
    for _ in 0..200 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (offset, size) = ((seed >> 20) % (len + 4096), usize::try_from((seed >> 50) % 70_000).unwrap());
        let read = |file: &File| {
            let mut buffer = vec![0; size];
            let count = file.read_at(&mut buffer, offset).unwrap();
            buffer.truncate(count);
            buffer
        };
        assert!(read(&got) == read(&have), "{size} bytes at {offset}");
    }
    let mut direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(tree.mount.join("big")).unwrap();
    let mut bytes = Vec::new();
    direct.read_to_end(&mut bytes).unwrap();
    assert!(bytes == fs::read(tree.source.join("big")).unwrap(), "O_DIRECT");
    // cmp(1) maps nothing; a program that is run from the mount is mapped by the kernel.
    let python = "import mmap,sys; f=open(sys.argv[1],'rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ); \
                  sys.stdout.buffer.write(m[:])";
    let output =
        std::process::Command::new("python3").args(["-c", python]).arg(tree.mount.join("big")).output().unwrap();
    assert!(output.stdout == fs::read(tree.source.join("big")).unwrap(), "mmap: {:?}", output.stderr);
}

fn holes(tree: &Tree) {
    let [have, got] = tree.both("hole").map(|path| File::open(path).unwrap());
    let len = have.metadata().unwrap().len();
    assert_eq!(rustix::fs::seek(&got, Seek::Data(0)).unwrap_err(), Errno::NXIO, "nothing but a hole");
    assert_eq!(rustix::fs::seek(&got, Seek::Hole(0)).unwrap(), 0);
    assert_eq!(got.metadata().unwrap().blocks(), 0);
    let full = File::open(tree.mount.join("big")).unwrap();
    let full_len = full.metadata().unwrap().len();
    assert_eq!(rustix::fs::seek(&full, Seek::Data(5)).unwrap(), 5);
    assert_eq!(rustix::fs::seek(&full, Seek::Hole(5)).unwrap(), full_len, "the end counts as a hole");
    for offset in [full_len, full_len + 1] {
        assert_eq!(rustix::fs::seek(&full, Seek::Data(offset)).unwrap_err(), Errno::NXIO);
        assert_eq!(rustix::fs::seek(&full, Seek::Hole(offset)).unwrap_err(), Errno::NXIO);
    }
    // What is data in the source is data here: nothing that was written is shown as a hole.
    let sparse = File::open(tree.mount.join("sparse")).unwrap();
    let data = rustix::fs::seek(&sparse, Seek::Data(0)).unwrap();
    assert!(data > 0 && data <= 5 << 20, "{data}");
    let hole = rustix::fs::seek(&sparse, Seek::Hole(data)).unwrap();
    assert!(hole >= (5 << 20) + 70_000, "{hole}");
    assert!(sparse.metadata().unwrap().blocks() * 512 < 40 << 20);
    let mut got = got;
    assert_eq!(got.seek(SeekFrom::End(0)).unwrap(), len);
}

fn attributes(tree: &Tree) {
    let path = tree.mount.join("one");
    for name in ["user.absent", "system.posix_acl_access", "security.selinux", "nonsense"] {
        let answer = xattr::get(&path, name);
        match answer {
            Ok(value) => assert_eq!(value, None, "{name}"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{name}: {error}"),
        }
    }
    let mut compared = 0;
    for name in listed(&tree.source) {
        let [have, got] = tree.both(OsStr::from_bytes(&name)).map(|path| {
            let mut all: Vec<_> =
                xattr::list(&path).unwrap().map(|name| (name.clone(), xattr::get(&path, name).unwrap())).collect();
            all.sort();
            all
        });
        assert_eq!(got, have, "{}", String::from_utf8_lossy(&name));
        compared += have.len();
        for (attribute, value) in &have {
            // A buffer that is too small is ERANGE, and a size of 0 asks for the size.
            let path = tree.mount.join(OsStr::from_bytes(&name));
            let attribute = CString::new(attribute.as_bytes()).unwrap();
            let len = value.as_ref().unwrap().len();
            let size = rustix::fs::lgetxattr_query(&path, attribute.as_c_str()).unwrap();
            assert_eq!(size, len);
            if len > 1 {
                let short = rustix::fs::lgetxattr(&path, attribute.as_c_str(), &mut vec![0_u8; len - 1][..]);
                assert_eq!(short.unwrap_err(), Errno::RANGE);
            }
        }
    }
    assert!(compared > 0, "the fixture has extended attributes");
}

fn statfs_access_ioctl_sync(tree: &Tree) {
    let figures = rustix::fs::statvfs(tree.mount.path()).unwrap();
    assert_eq!((figures.f_namemax, figures.f_bfree, figures.f_bavail), (255, 0, 0));
    assert!(figures.f_files > 0 && figures.f_bsize > 0);
    assert!(figures.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    // What is stored, without the packs' own headers: all of it used, nothing free.
    let mut packs = 0;
    for folder in fs::read_dir(tree.restic.path().join("data")).unwrap() {
        packs += fs::read_dir(folder.unwrap().path())
            .unwrap()
            .map(|pack| pack.unwrap().metadata().unwrap().len())
            .sum::<u64>();
    }
    let shown = figures.f_blocks * figures.f_frsize;
    assert!(shown > packs / 10 * 9 && shown <= packs + 4096, "df shows {shown} bytes, the packs have {packs}");
    let df = fixture::run(
        std::process::Command::new("df").args(["-B1", "--output=size,used,avail,pcent"]).arg(tree.mount.path()),
    );
    let words: Vec<_> = df.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words, [&shown.to_string(), &shown.to_string(), "0", "100%"], "{df}");
    let path = tree.mount.join("one");
    rustix::fs::access(&path, rustix::fs::Access::READ_OK).unwrap();
    assert_eq!(rustix::fs::access(&path, rustix::fs::Access::WRITE_OK).unwrap_err(), Errno::ROFS);
    let file = File::open(&path).unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    File::open(tree.mount.path()).unwrap().sync_all().unwrap();
    let flags = rustix::fs::ioctl_getflags(&file).unwrap_err();
    assert!(matches!(flags, Errno::NOTTY | Errno::OPNOTSUPP), "{flags}");
    // Locks are the kernel's own.
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockShared).unwrap();
}

fn writes_are_refused(tree: &Tree) {
    let at = |name: &str| tree.mount.join(name);
    let refused = |what: &str, result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS), "{what}");
    };
    refused("open for writing", OpenOptions::new().write(true).open(at("one")).map(drop));
    refused("open for appending", OpenOptions::new().append(true).open(at("one")).map(drop));
    refused("create", File::create_new(at("new")).map(drop));
    refused(
        "truncate",
        rustix::fs::open(at("one"), rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::TRUNC, Mode::empty())
            .map(drop)
            .map_err(Into::into),
    );
    refused("mkdir", fs::create_dir(at("new")));
    refused("rmdir", fs::remove_dir(at("dir/void")));
    refused("unlink", fs::remove_file(at("one")));
    refused("rename", fs::rename(at("one"), at("two")));
    refused("link", fs::hard_link(at("one"), at("two")));
    refused("symlink", symlink("one", at("two")));
    refused("mknod", rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RUSR).map_err(Into::into));
    refused("chmod", fs::set_permissions(at("one"), fs::metadata(at("one")).unwrap().permissions()));
    refused("chown", std::os::unix::fs::chown(at("one"), Some(1), Some(1)));
    refused("utimens", File::open(at("one")).unwrap().set_modified(std::time::UNIX_EPOCH));
    refused("setxattr", xattr::set(at("one"), "user.new", b"x"));
    refused("removexattr", xattr::remove(at("one"), "user.new"));
}
