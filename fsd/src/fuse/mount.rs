//! The system's side of a mount: mount(2) or fusermount3, read-ahead, unmounting.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::FS_TYPE;
use super::mountinfo::{self, MountEntry};

/// Why a filesystem could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// There is no FUSE in this kernel or container.
    #[error("cannot open /dev/fuse: {0}; load the module (`modprobe fuse`), or give the container this device")]
    NoDevice(#[source] io::Error),
    /// mount(2) failed.
    #[error("cannot mount on {}: {source}", mountpoint.display())]
    Mount {
        /// Where.
        mountpoint: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no fusermount3.
    #[error("cannot run fusermount3: {0}; ordinary users need it to mount (package fuse3)")]
    NoHelper(#[source] io::Error),
    /// fusermount3 refused.
    #[error("cannot mount on {}: {message}", mountpoint.display())]
    Helper {
        /// Where.
        mountpoint: PathBuf,
        /// What it said.
        message: String,
    },
    /// The first exchange with the kernel failed.
    #[error("the kernel did not take the session: {0}")]
    Handshake(#[source] io::Error),
    /// Files below the mountpoint are in use.
    #[error("{} is in use", .0.display())]
    Busy(PathBuf),
    /// Nothing of ours is mounted there.
    #[error("no stash-fs is mounted on {}", .0.display())]
    NotMounted(PathBuf),
    /// umount(2) or fusermount3 failed.
    #[error("cannot unmount {}: {message}", mountpoint.display())]
    Unmount {
        /// Where.
        mountpoint: PathBuf,
        /// What the system said.
        message: String,
    },
    /// A file of the system could not be read.
    #[error("cannot read {what}: {source}")]
    System {
        /// Which.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What the kernel is told of a mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// The name in the first column of `mount` and `df`, without secrets.
    pub source: String,
    /// All users may use the mount, not only its owner.
    pub allow_other: bool,
    /// The kernel checks modes and ACLs.
    pub default_permissions: bool,
}

/// Mounts, and returns the connection to the kernel. Root mounts by itself; where that is not allowed, fusermount3 does.
///
/// `mountpoint` must be canonical.
///
/// # Errors
/// The system refused.
pub(crate) fn mount(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    if rustix::process::geteuid().is_root() {
        match mount_direct(mountpoint, options) {
            // Root of a container without CAP_SYS_ADMIN, or of another user namespace.
            Err(MountError::Mount { source, .. }) if source.raw_os_error() == Some(libc::EPERM) => {}
            result => return result,
        }
    }
    mount_by_helper(mountpoint, options)
}

fn mount_direct(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = |source: io::Error| MountError::Mount { mountpoint: mountpoint.to_owned(), source };
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(MountError::NoDevice)?;
    // include/uapi and fs/fuse/inode.c: `rootmode` is the type of the root, its permissions come with GETATTR.
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw()
    );
    for (set, name) in [(options.allow_other, "allow_other"), (options.default_permissions, "default_permissions")] {
        if set {
            data.push(',');
            data.push_str(name);
        }
    }
    let data = CString::new(data).map_err(|error| failed(error.into()))?;
    // Never dev or suid: what a backup holds was somebody else's decision.
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount(plain_source(&options.source), mountpoint, FS_TYPE, flags, data.as_c_str())
        .map_err(|errno| failed(errno.into()))?;
    Ok(device.into())
}

/// fusermount3 mounts for ordinary users and sends the connection back over a socket (its standard input here, so that no
/// descriptor has to be let through exec).
fn mount_by_helper(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(|source| MountError::System { what: "a socket pair", source })?;
    let mut child = Command::new("fusermount3")
        .arg("-o")
        .arg(helper_options(options))
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MountError::NoHelper)?;
    let received = receive_descriptor(&ours);
    let mut message = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What it says is only for the error message.
        drop(stderr.by_ref().take(64 << 10).read_to_string(&mut message));
    }
    let status = child.wait().map_err(MountError::NoHelper)?;
    let message = message.trim().trim_start_matches("fusermount3: ").to_owned();
    match received {
        Ok(Some(connection)) if status.success() => Ok(connection),
        _ => Err(MountError::Helper {
            mountpoint: mountpoint.to_owned(),
            message: if message.is_empty() { format!("fusermount3 ended with {status}") } else { message },
        }),
    }
}

fn helper_options(options: &MountOptions) -> String {
    let mut list = format!("ro,nodev,nosuid,subtype=stash-fs,fsname={}", plain_source(&options.source));
    if options.default_permissions {
        list.push_str(",default_permissions");
    }
    if options.allow_other {
        list.push_str(",allow_other");
    }
    list
}

/// Options are separated by commas, and not all helpers understand escapes.
fn plain_source(source: &str) -> String {
    let plain: String = source.chars().map(|c| if matches!(c, ',' | '\\' | '\0' | '\n') { '_' } else { c }).collect();
    if plain.is_empty() { "stash-fs".to_owned() } else { plain }
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0_u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}

/// Returns the device of the mount that was just made, from the table alone.
pub(crate) fn device_of(mountpoint: &Path) -> Result<(u32, u32), MountError> {
    let mounts = mountinfo::read().map_err(|source| MountError::System { what: "/proc/self/mountinfo", source })?;
    mountinfo::topmost(&mounts, mountpoint)
        .filter(|entry| entry.is_ours())
        .map(|entry| entry.device)
        .ok_or_else(|| MountError::NotMounted(mountpoint.to_owned()))
}

/// Raises how far the kernel reads ahead of a sequential reader. INIT can only lower it below 128 KiB; only root may raise
/// it. Without it reads are as right, but slower.
pub(crate) fn set_read_ahead((major, minor): (u32, u32), kib: u32) {
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, kib.to_string()) {
        tracing::debug!(path, kib, %error, "read-ahead stays as it is");
    }
}

/// Unmounts what is on top at `mountpoint` if it is ours and, where a device is given, that very mount. `lazy` detaches it
/// at once, and open files keep working until they are closed. A mount whose daemon is dead is unmounted as well: it is not
/// asked anything.
///
/// # Errors
/// `NotMounted`, `Busy`, `Unmount`.
pub fn unmount(mountpoint: &Path, device: Option<(u32, u32)>, lazy: bool) -> Result<(), MountError> {
    let mounts = mountinfo::read().map_err(|source| MountError::System { what: "/proc/self/mountinfo", source })?;
    mountinfo::topmost(&mounts, mountpoint)
        .filter(|entry: &&MountEntry| entry.is_ours() && device.is_none_or(|device| device == entry.device))
        .ok_or_else(|| MountError::NotMounted(mountpoint.to_owned()))?;
    let flags = if lazy { UnmountFlags::NOFOLLOW | UnmountFlags::DETACH } else { UnmountFlags::NOFOLLOW };
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy(mountpoint.to_owned())),
        Err(Errno::PERM) => unmount_by_helper(mountpoint, lazy),
        Err(errno) => Err(MountError::Unmount { mountpoint: mountpoint.to_owned(), message: errno.to_string() }),
    }
}

fn unmount_by_helper(mountpoint: &Path, lazy: bool) -> Result<(), MountError> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(mountpoint).stdin(Stdio::null()).output().map_err(MountError::NoHelper)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // fusermount3 has one exit code for everything; this is strerror(EBUSY) in its untranslated message.
    if message.contains("busy") {
        return Err(MountError::Busy(mountpoint.to_owned()));
    }
    Err(MountError::Unmount { mountpoint: mountpoint.to_owned(), message })
}

/// Returns how long the kernel waits for an answer before it aborts the whole connection, where an administrator has set a
/// limit (`fs.fuse.default_request_timeout` and `max_request_timeout`, Linux 6.15; 0 means none).
#[must_use]
pub fn kernel_request_timeout() -> Option<Duration> {
    let read = |name: &str| std::fs::read_to_string(Path::new("/proc/sys/fs/fuse").join(name)).ok();
    ["default_request_timeout", "max_request_timeout"]
        .into_iter()
        .filter_map(read)
        .filter_map(|text| limit(&text))
        .min()
}

fn limit(text: &str) -> Option<Duration> {
    text.trim().parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

/// Ends a connection by force: every request in flight and all later ones fail. For root, and for a mount that is hung.
///
/// # Errors
/// It is not there, or not ours to end.
pub fn abort(device: (u32, u32)) -> io::Result<()> {
    // fs/fuse/control.c: a connection is named by the minor number of its anonymous device.
    let mut file = File::options().write(true).open(format!("/sys/fs/fuse/connections/{}/abort", device.1))?;
    io::Write::write_all(&mut file, b"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_no_source_can_smuggle_an_option() {
        let options = |source: &str| {
            helper_options(&MountOptions { source: source.into(), allow_other: false, default_permissions: true })
        };
        assert_eq!(
            options("s3:host/a,suid,allow_other\\,b"),
            "ro,nodev,nosuid,subtype=stash-fs,fsname=s3:host/a_suid_allow_other__b,default_permissions"
        );
        assert_eq!(options(""), "ro,nodev,nosuid,subtype=stash-fs,fsname=stash-fs,default_permissions");
    }

    #[test]
    fn test_kernel_limits_are_seconds_and_0_is_none() {
        let table = [("0\n", None), ("60\n", Some(60)), ("", None), ("x", None)];
        for (text, expected) in table {
            assert_eq!(limit(text), expected.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn test_what_is_not_ours_is_not_unmounted() {
        assert!(matches!(unmount(Path::new("/proc"), None, false), Err(MountError::NotMounted(_))));
        assert!(matches!(unmount(Path::new("/nowhere"), None, true), Err(MountError::NotMounted(_))));
    }
}
