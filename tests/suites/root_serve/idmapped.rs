//! A volume in a pod with `hostUsers: false`: the runtime maps the owners of the mount by the pod's user namespace, and a program there
//! reads files as the user that they have in the backup.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::process::{Child, Command, Stdio};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use stash_tests::mounted::wait_for;
use stash_tests::restic::Restic;

use super::{Node, request};

/// Where the users 0 to 65,535 of the namespace are on the machine, as kubelet gives a pod a range of its own.
const FIRST: u32 = 131_072;
const USER: u32 = 1000;

/// A user namespace, for as long as this lives.
struct Users(Child);

impl Users {
    fn start() -> Self {
        let child = Command::new("unshare").args(["--user", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        let path = |name: &str| format!("/proc/{}/{name}", child.id());
        wait_for("the namespace", || (fs::read_link(path("ns/user")).ok()? != own).then_some(()));
        for map in ["uid_map", "gid_map"] {
            fs::write(path(map), format!("0 {FIRST} 65536")).unwrap();
        }
        Self(child)
    }

    /// What a program prints that runs there as `user`.
    fn run(&self, user: u32, program: &[&str]) -> Option<String> {
        let (target, user) = (self.0.id().to_string(), user.to_string());
        let enter = ["--user", "--target", &target, "--setuid", &user, "--setgid", &user];
        let output = Command::new("nsenter").args(enter).args(program).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Has a mount that is nowhere yet show owners as the namespace has them (mount_setattr(2)).
#[expect(unsafe_code, reason = "mount_setattr(2) has no safe wrapper")]
fn map_owners(mount: BorrowedFd<'_>, users: BorrowedFd<'_>) -> std::io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    // include/uapi/linux/mount.h
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let userns_fd = u64::try_from(users.as_raw_fd()).unwrap();
    let attr = MountAttr { attr_set: MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    // SAFETY: both descriptors are open, the path is an empty string of C, and the structure has the size that is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn test_owners_are_mapped_for_pods_with_users_of_their_own() {
    let restic = Restic::init();
    let source = restic.scratch().join("source");
    fs::create_dir_all(&source).unwrap();
    let secret = source.join("secret");
    fs::write(&secret, "mine").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o400)).unwrap();
    chown(&secret, Some(USER), Some(USER)).unwrap();
    restic.backup([&source]);
    let mut node = Node::start();
    // Nobody but root finds the way through a temporary folder.
    fs::set_permissions(node.folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    node.mount(request(&restic, &source, "v1")).unwrap();

    let users = Users::start();
    let namespace = File::open(format!("/proc/{}/ns/user", users.0.id())).unwrap();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mapped = open_tree(CWD, node.volume("v1"), flags).unwrap();
    map_owners(mapped.as_fd(), namespace.as_fd()).unwrap();
    let place = node.volume("v2");
    move_mount(mapped.as_fd(), "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();

    let file = place.join("secret");
    assert_eq!(fs::metadata(&file).unwrap().uid(), FIRST + USER);
    let path = file.to_str().unwrap();
    let reads = |user: u32| users.run(user, &["cat", path]);
    assert_eq!((reads(USER).as_deref(), reads(USER + 1)), (Some("mine"), None));
    assert_eq!(users.run(USER, &["stat", "-c", "%u:%g", path]).as_deref(), Some("1000:1000\n"));
    // Another daemon serves it the same way, and the volume itself is as it was.
    node.restart_daemon();
    node.settle(1);
    rustix::fs::fadvise(File::open(&file).unwrap(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert_eq!(reads(USER).as_deref(), Some("mine"));
    assert_eq!(fs::metadata(node.volume("v1").join("secret")).unwrap().uid(), USER);
    unmount(&place, UnmountFlags::DETACH).unwrap();
    node.unmount_when_free("v1");
}
