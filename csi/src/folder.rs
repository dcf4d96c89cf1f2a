//! The folder on which a volume is mounted: made before, removed after. The one thing that the driver itself changes on a node.
//!
//! Each path is opened below kubelet's directory without following a symbolic link, and the folder is made and removed by its name in
//! what was opened. Neither looks into the folder, so a mount that does not answer holds nobody up; a folder with something in it, or
//! with something mounted on it, is not removed.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use stash_proto::job::INSTEAD_FILE;

use crate::target::TargetPath;

/// How the folder is opened, where nothing is mounted on it.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("the folder {target} of the volume cannot be {what}: {source}")]
pub struct FolderError {
    target: String,
    what: &'static str,
    source: io::Error,
}

fn failed(target: &TargetPath, what: &'static str, errno: Errno) -> FolderError {
    FolderError { target: target.to_string(), what, source: errno.into() }
}

/// Opens the parent of a target; returns the target's own name beside it.
fn parent<'a>(kubelet: &Path, target: &'a TargetPath) -> rustix::io::Result<(rustix::fd::OwnedFd, &'a str)> {
    let base = rustix::fs::open(kubelet, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let (parent, name) = target.as_str().rsplit_once('/').unwrap_or((".", target.as_str()));
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(&base, parent, flags, Mode::empty(), resolve)?;
    Ok((opened, name))
}

/// Makes the folder; returns whether it was not there. Its parents are kubelet's and must be there.
///
/// # Errors
///
/// A parent is not there or is a symbolic link, or the disk failed.
pub fn make(kubelet: &Path, target: &TargetPath) -> Result<bool, FolderError> {
    let made = parent(kubelet, target).and_then(|(parent, name)| rustix::fs::mkdirat(parent, name, Mode::from(0o750)));
    match made {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(failed(target, "made", errno)),
    }
}

/// Puts what is shown in place of a snapshot into the folder, on which nothing is mounted.
///
/// # Errors
///
/// A symbolic link leads to it, or the disk failed.
pub fn fill(kubelet: &Path, target: &TargetPath, instead: &[u8]) -> Result<(), FolderError> {
    let filled = parent(kubelet, target).and_then(|(parent, name)| {
        let folder = rustix::fs::openat(parent, name, FOLDER, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Whoever the container runs as may read it.
        let file = rustix::fs::openat(&folder, INSTEAD_FILE, flags, Mode::from(0o644))?;
        let mut rest = instead;
        while !rest.is_empty() {
            rest = rest.get(rustix::io::write(&file, rest)?..).unwrap_or_default();
        }
        rustix::fs::fsync(&file)
    });
    filled.map_err(|errno| failed(target, "filled", errno))
}

/// Removes the folder, with what [`fill`] put there. None is no error.
///
/// # Errors
///
/// It holds something else, or something is mounted on it, or a symbolic link leads to it.
pub fn remove(kubelet: &Path, target: &TargetPath) -> Result<(), FolderError> {
    let removed = parent(kubelet, target).and_then(|(parent, name)| {
        match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            // Of one on which something is mounted the kernel says that it is busy.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let folder = rustix::fs::openat(&parent, name, FOLDER, Mode::empty())?;
                match rustix::fs::unlinkat(folder, INSTEAD_FILE, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR),
                    failed => failed,
                }
            }
            done => done,
        }
    });
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(target, "removed", errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> TargetPath {
        TargetPath::parse(&format!("/k/{path}"), Path::new("/k")).unwrap()
    }

    #[test]
    fn test_a_folder_is_made_and_removed_and_nothing_else() {
        let kubelet = tempfile::tempdir().unwrap();
        let at = |path: &str| kubelet.path().join(path);
        std::fs::create_dir_all(at("pods/1")).unwrap();
        let volume = target("pods/1/mount");
        assert!(make(kubelet.path(), &volume).unwrap());
        assert!(!make(kubelet.path(), &volume).unwrap());
        std::fs::write(at("pods/1/mount/file"), "data").unwrap();
        let error = remove(kubelet.path(), &volume).unwrap_err().to_string();
        assert!(error.contains("the folder pods/1/mount of the volume cannot be removed"), "{error}");
        assert!(at("pods/1/mount/file").exists());
        std::fs::remove_file(at("pods/1/mount/file")).unwrap();
        // What lies there in place of a snapshot goes with it.
        for text in ["a longer one", "short"] {
            fill(kubelet.path(), &volume, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(at("pods/1/mount").join(INSTEAD_FILE)).unwrap(), text);
        }
        remove(kubelet.path(), &volume).unwrap();
        remove(kubelet.path(), &volume).unwrap();
        assert!(at("pods/1").exists());
        // Kubelet has taken the parent away as well.
        remove(kubelet.path(), &target("pods/2/mount")).unwrap();
        assert!(make(kubelet.path(), &target("pods/2/mount")).is_err());
        // A file in its place is not ours.
        std::fs::write(at("pods/1/mount"), "data").unwrap();
        assert!(remove(kubelet.path(), &volume).is_err() && at("pods/1/mount").exists());
    }

    #[test]
    fn test_no_symbolic_link_leads_elsewhere() {
        let kubelet = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), kubelet.path().join("pods")).unwrap();
        std::fs::create_dir(outside.path().join("there")).unwrap();
        assert!(make(kubelet.path(), &target("pods/mount")).is_err());
        assert!(remove(kubelet.path(), &target("pods/there")).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        // Nor is a link removed that stands where the folder should.
        std::os::unix::fs::symlink(outside.path(), kubelet.path().join("link")).unwrap();
        assert!(remove(kubelet.path(), &target("link")).is_err());
        assert!(!make(kubelet.path(), &target("link")).unwrap());
    }
}
