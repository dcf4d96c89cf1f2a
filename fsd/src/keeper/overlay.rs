//! Volumes that can be written: overlayfs, with the mount of a snapshot below and bounded scratch space above.
//!
//! While a volume is made, its layers are mounted in a folder of its own in the scratch directory: `lower`, the snapshot, and
//! `scratch`, an ext4 in a file of that size, which has no name any more once it is a loop device. As soon as the overlay is there, both
//! are detached: the overlay holds them, so unmounting it (by whomever) is the end of the FUSE connection, the filesystem, the
//! loop device and the file, and there is nothing that could be left. What is left by a keeper that was killed in between is swept.
//!
//! Whose an overlay is stands in its source, `stash-fs:SESSION`.
//!
//! Making one asks the daemon (attributes of the root), and unmounting one writes to the disk: both block, so the keeper does them
//! beside its loop ([`work`](super::work)).

mod format;
mod loop_device;

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lgetxattr, listxattr, setxattr, statvfs, utimensat};
use rustix::mount::{MountFlags, UnmountFlags};

use super::message::SessionName;
use super::place::Target;
use crate::fuse::mountinfo::{self, MountEntry};
pub use format::SIZES;
use loop_device::LoopDevice;

/// What the source of an overlay begins with.
const SOURCE: &str = "stash-fs:";
/// Where the snapshot is mounted, in the folder of a session.
const LOWER: &str = "lower";
/// Where the scratch space is mounted.
const SCRATCH: &str = "scratch";
/// The file of the scratch space, as long as it has a name.
const FILE: &str = "file";
/// The most bytes of the names, and of a value, of extended attributes (xattr(7)).
const XATTR_BYTES: usize = 64 << 10;

/// Why there is no overlay.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The size is beyond the bounds.
    #[error("scratch space of {asked} bytes: it must be from {least} to {most}", least = SIZES.start())]
    Size {
        /// What was asked for.
        asked: u64,
        /// The most.
        most: u64,
    },
    /// The disk has less than that.
    #[error("scratch space of {asked} bytes: the node has {free} in {}", directory.display())]
    Space {
        /// What was asked for.
        asked: u64,
        /// What there is.
        free: u64,
        /// Where.
        directory: PathBuf,
    },
    /// The mount of the snapshot is gone.
    #[error("the snapshot of {0} is not mounted any more")]
    NoLower(SessionName),
    /// Somebody uses it.
    #[error("{} is in use", .0.display())]
    Busy(PathBuf),
    /// There is none.
    #[error("no overlay of {0} is mounted")]
    NotMounted(SessionName),
    /// The system refused.
    #[error("cannot {what}: {source}")]
    System {
        /// What was done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> OverlayError {
    move |error| OverlayError::System { what, source: error.into() }
}

/// Returns the session whose overlay a mount is.
#[must_use]
pub fn session_of(entry: &MountEntry) -> Option<SessionName> {
    let name = entry.source.strip_prefix(SOURCE).filter(|_| entry.fs_type == "overlay")?;
    SessionName::new(name).ok()
}

/// The scratch directory of a keeper.
#[derive(Debug, Clone)]
pub struct Overlays {
    directory: PathBuf,
    limit_bytes: u64,
}

impl Overlays {
    /// Uses a directory, which is made if it is not there, for its owner alone.
    ///
    /// # Errors
    /// It cannot be made, or its name has characters that mean something in the options of overlayfs.
    pub fn open(directory: &Path, limit_bytes: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let directory = directory.canonicalize()?;
        let plain = directory.to_str().is_some_and(|text| !text.contains([',', ':', '\\', '"']));
        if !plain {
            let message = "its path must be without comma, colon, quotation mark and backslash";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self { directory, limit_bytes })
    }

    /// Returns the largest scratch space of a volume.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes.min(*SIZES.end())
    }

    fn folder(&self, session: &SessionName) -> PathBuf {
        self.directory.join(session.as_str())
    }

    /// Makes the folder on which the snapshot of a session is to be mounted.
    ///
    /// # Errors
    /// The size is not possible here, or the disk failed.
    pub fn prepare(&self, session: &SessionName, scratch_bytes: u64) -> Result<PathBuf, OverlayError> {
        if !(*SIZES.start()..=self.limit_bytes()).contains(&scratch_bytes) {
            return Err(OverlayError::Size { asked: scratch_bytes, most: self.limit_bytes() });
        }
        let disk = statvfs(&self.directory).map_err(system("look at the scratch directory"))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < scratch_bytes {
            return Err(OverlayError::Space { asked: scratch_bytes, free, directory: self.directory.clone() });
        }
        self.clear(session)?;
        for name in [LOWER, SCRATCH] {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder
                .create(self.folder(session).join(name))
                .map_err(system("make a folder in the scratch directory"))?;
        }
        Ok(self.folder(session).join(LOWER))
    }

    /// Mounts the overlay of a session, unless it is there. Blocks for as long as the daemon does not answer.
    ///
    /// # Errors
    /// `NoLower`, or the system refused; then there is no overlay.
    pub fn make(&self, session: &SessionName, target: &Target, scratch_bytes: u64) -> Result<(), OverlayError> {
        let mounts = mountinfo::read().map_err(system("read what is mounted"))?;
        let there = mountinfo::topmost(&mounts, &target.mountpoint).and_then(session_of);
        if there.as_ref() == Some(session) {
            return self.clear(session);
        }
        let folder = self.folder(session);
        let (lower, scratch) = (folder.join(LOWER), folder.join(SCRATCH));
        if !mountinfo::topmost(&mounts, &lower).is_some_and(MountEntry::is_ours) {
            return Err(OverlayError::NoLower(session.clone()));
        }
        // That of a keeper that was killed meanwhile.
        detach_all(&mounts, &scratch)?;
        let made = self.mount_scratch(&folder, &scratch, scratch_bytes).and_then(|()| {
            copy_root(&lower, &scratch.join("upper")).map_err(system("copy the attributes of the snapshot's root"))?;
            fs::create_dir(scratch.join("work")).map_err(system("make a folder in the scratch space"))?;
            mount_overlay(session, target, &lower, &scratch)
        });
        // The overlay holds its layers. Without it the daemon ends what it has begun.
        match made {
            Ok(()) => self.clear(session),
            Err(error) => {
                let mounts = mountinfo::read().map_err(system("read what is mounted"))?;
                detach_all(&mounts, &scratch)?;
                Err(error)
            }
        }
    }

    fn mount_scratch(&self, folder: &Path, scratch: &Path, bytes: u64) -> Result<(), OverlayError> {
        let path = folder.join(FILE);
        drop(fs::remove_file(&path));
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(system("make the file of the scratch space"))?;
        fs::remove_file(&path).map_err(system("unlink the file of the scratch space"))?;
        format::format(&file, bytes).map_err(system("write the filesystem of the scratch space"))?;
        let device = LoopDevice::attach(&file).map_err(system("attach a loop device"))?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
        rustix::mount::mount(&device.path, scratch, "ext4", flags, None).map_err(system("mount the scratch space"))
    }

    /// Takes away what is in the scratch directory of a session.
    ///
    /// # Errors
    /// The system refused.
    pub fn clear(&self, session: &SessionName) -> Result<(), OverlayError> {
        self.clear_folder(&self.folder(session))
    }

    fn clear_folder(&self, folder: &Path) -> Result<(), OverlayError> {
        let mounts = mountinfo::read().map_err(system("read what is mounted"))?;
        let (lower, scratch, file) = (folder.join(LOWER), folder.join(SCRATCH), folder.join(FILE));
        detach_all(&mounts, &lower)?;
        detach_all(&mounts, &scratch)?;
        // By rmdir: whatever should still be mounted is not looked into.
        for removed in [fs::remove_file(file), fs::remove_dir(lower), fs::remove_dir(scratch), fs::remove_dir(folder)] {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(system("clear a folder of the scratch directory")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes away what belongs to no session that is `wanted`.
    pub fn sweep(&self, wanted: impl Fn(&SessionName) -> bool) {
        let names = match fs::read_dir(&self.directory) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name()),
            Err(error) => return tracing::error!(%error, "the scratch directory cannot be read"),
        };
        for name in names {
            // What has another name was not made here.
            let Some(session) = name.to_str().and_then(|name| SessionName::new(name).ok()) else { continue };
            if wanted(&session) {
                continue;
            }
            tracing::warn!(%session, "what an earlier keeper left of it is removed");
            if let Err(error) = self.clear(&session) {
                tracing::error!(%session, %error, "scratch space cannot be removed");
            }
        }
    }
}

/// Unmounts the overlay of a session. Blocks while what was written goes to the disk.
///
/// # Errors
/// `Busy`, `NotMounted`, or the system refused.
pub fn unmount(session: &SessionName, mountpoint: &Path, lazy: bool) -> Result<(), OverlayError> {
    let mounts = mountinfo::read().map_err(system("read what is mounted"))?;
    if mountinfo::topmost(&mounts, mountpoint).and_then(session_of).as_ref() != Some(session) {
        return Err(OverlayError::NotMounted(session.clone()));
    }
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(mountpoint, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(OverlayError::Busy(mountpoint.to_owned())),
        Err(errno) => Err(system("unmount an overlay")(errno)),
    }
}

/// Detaches all that is mounted on a folder.
fn detach_all(mounts: &[MountEntry], folder: &Path) -> Result<(), OverlayError> {
    for _ in mounts.iter().filter(|entry| entry.mountpoint == folder) {
        match rustix::mount::unmount(folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // It was unmounted meanwhile.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(system("detach a layer")(errno)),
        }
    }
    Ok(())
}

/// Makes the directory for changes, with what the root of the snapshot has: the overlay's root shows what this one has.
fn copy_root(lower: &Path, upper: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(lower)?;
    fs::create_dir(upper)?;
    chown(upper, Some(found.uid()), Some(found.gid()))?;
    // After chown, which clears bits of it.
    fs::set_permissions(upper, fs::Permissions::from_mode(found.mode() & 0o7777))?;
    let mut names = vec![0; XATTR_BYTES];
    let len = listxattr(lower, &mut names)?;
    for name in names[..len].split(|byte| *byte == 0) {
        // Access lists and what users wrote; all else is for the kernel.
        if !name.starts_with(b"user.") && !name.starts_with(b"system.posix_acl_") {
            continue;
        }
        let name = CString::new(name)?;
        let mut value = vec![0; XATTR_BYTES];
        let len = lgetxattr(lower, &name, &mut value)?;
        setxattr(upper, &name, &value[..len], XattrFlags::empty())?;
    }
    let time = |seconds: i64, nanoseconds: i64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(found.atime(), found.atime_nsec()),
        last_modification: time(found.mtime(), found.mtime_nsec()),
    };
    utimensat(CWD, upper, &times, AtFlags::empty())?;
    Ok(())
}

/// The options, one by one:
///
/// * `redirect_dir=on`: directories of the snapshot can be renamed. Redirects are attributes `trusted.overlay.*`; the daemon shows none
///   that a backup holds, so the only ones are in the scratch space, and lead into the same snapshot.
/// * `metacopy=off`, `index=off`, `nfs_export=off`: nothing but names and whole files is looked for in the layers.
/// * `xino=off`: inode numbers of a snapshot have all 64 bits, so there is no room for the layer in them.
/// * `volatile`: nothing has to outlive the mount, so fsync need not wait for the disk (Linux 5.10).
const OPTIONS: &str = "redirect_dir=on,metacopy=off,index=off,nfs_export=off,xino=off,volatile";

fn mount_overlay(session: &SessionName, target: &Target, lower: &Path, scratch: &Path) -> Result<(), OverlayError> {
    let what = "mount the overlay";
    let (lower, scratch) = (lower.display(), scratch.display());
    let options = format!("lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work,{OPTIONS}");
    let options = CString::new(options).map_err(|error| system(what)(io::Error::from(error)))?;
    let source = format!("{SOURCE}{session}");
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount(source, &target.path, "overlay", flags, options.as_c_str()).map_err(system(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SessionName {
        SessionName::new(text).unwrap()
    }

    #[test]
    fn test_whose_an_overlay_is() {
        for (fs_type, source, expected) in [
            ("overlay", "stash-fs:v1", Some("v1")),
            ("overlay", "overlay", None),
            ("overlay", "stash-fs:../v1", None),
            ("ext4", "stash-fs:v1", None),
        ] {
            let entry =
                MountEntry { device: (0, 1), mountpoint: "/m".into(), fs_type: fs_type.into(), source: source.into() };
            assert_eq!(session_of(&entry), expected.map(name), "{fs_type} {source}");
        }
    }

    #[test]
    fn test_sizes_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let overlays = Overlays::open(&folder.path().join("scratch"), 64 << 20).unwrap();
        for bytes in [0, (16 << 20) - 1, (64 << 20) + 1, u64::MAX] {
            assert!(matches!(overlays.prepare(&name("a"), bytes), Err(OverlayError::Size { .. })), "{bytes}");
        }
        let huge = Overlays::open(&folder.path().join("scratch"), u64::MAX).unwrap();
        assert_eq!(huge.limit_bytes(), *SIZES.end());
        assert!(matches!(huge.prepare(&name("a"), *SIZES.end()), Err(OverlayError::Space { .. })));

        let lower = overlays.prepare(&name("a"), 16 << 20).unwrap();
        overlays.prepare(&name("b"), 16 << 20).unwrap();
        assert!(lower.is_dir());
        fs::write(folder.path().join("scratch/b/file"), "left").unwrap();
        overlays.sweep(|session| session == &name("a"));
        assert!(lower.is_dir() && !folder.path().join("scratch/b").exists());
        overlays.clear(&name("a")).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("scratch")).unwrap().count(), 0);
        for odd in ["a,b", "a:b", "a\\b"] {
            let error = Overlays::open(&folder.path().join(odd), 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{odd}");
        }
    }

    #[test]
    fn test_the_root_keeps_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (lower, upper) = (folder.path().join("lower"), folder.path().join("upper"));
        fs::create_dir(&lower).unwrap();
        fs::set_permissions(&lower, fs::Permissions::from_mode(0o2751)).unwrap();
        setxattr(&lower, "user.a", b"value", XattrFlags::empty()).unwrap();
        let old = Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 };
        utimensat(CWD, &lower, &Timestamps { last_access: old, last_modification: old }, AtFlags::empty()).unwrap();
        copy_root(&lower, &upper).unwrap();
        let (found, copied) = (fs::metadata(&lower).unwrap(), fs::metadata(&upper).unwrap());
        assert_eq!((copied.mode(), copied.mtime(), copied.mtime_nsec()), (found.mode(), 1_000_000_000, 5));
        let mut value = [0; 16];
        let len = lgetxattr(&upper, "user.a", &mut value[..]).unwrap();
        assert_eq!(&value[..len], b"value");
    }
}
