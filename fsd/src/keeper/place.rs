//! From a typed place to a directory.
//!
//! A keeper with a base directory mounts below it only, and a daemon names no path: it names a volume, or a pod and its
//! volume. Directories on the way are opened one below the other without following a symbolic link, and what is mounted on
//! is the opened directory itself: nobody who can rename directories meanwhile can lead a mount elsewhere.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::message::{Place, Refusal};

/// Where a keeper mounts.
#[derive(Debug)]
pub enum Base {
    /// Anywhere: the keeper of a person's own mount, who could mount there without it.
    Anywhere,
    /// Below this directory.
    Below {
        /// The directory.
        directory: OwnedFd,
        /// Its canonical path.
        path: PathBuf,
    },
}

/// A directory to mount on.
#[derive(Debug)]
pub struct Target {
    /// As the kernel's table of mounts calls it.
    pub mountpoint: PathBuf,
    /// What to hand to mount(2).
    pub path: PathBuf,
    /// The directory behind `path`.
    _directory: Option<OwnedFd>,
}

/// Why a place is not mounted on.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Such a place is not for this keeper, or its names are none.
    #[error("{0} is no place that this keeper mounts on")]
    Forbidden(String),
    /// It is not there, or a symbolic link leads to it.
    #[error("cannot open {place} ({path}): {source}")]
    Open {
        /// What was asked for.
        place: String,
        /// Where that is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl PlaceError {
    /// Returns the sort of refusal.
    #[must_use]
    pub const fn refusal(&self) -> Refusal {
        match self {
            Self::Forbidden(_) => Refusal::Forbidden,
            Self::Open { .. } => Refusal::NotFound,
        }
    }
}

impl Base {
    /// Opens the base directory.
    ///
    /// # Errors
    /// It is not there.
    pub fn below(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let directory = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self::Below { directory, path })
    }

    /// Returns the path of a place below the base, or `None` where there is none for this keeper.
    fn relative(&self, place: &Place) -> Option<PathBuf> {
        match (self, place) {
            (Self::Below { .. }, Place::Volume(id)) if place.is_plain() => Some(PathBuf::from(id)),
            (Self::Below { .. }, Place::Pod { uid, volume }) if place.is_plain() => {
                Some(PathBuf::from(format!("pods/{uid}/volumes/kubernetes.io~csi/{volume}/mount")))
            }
            _ => None,
        }
    }

    /// Returns the place's path as the kernel's table calls it, without opening anything.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn mountpoint(&self, place: &Place) -> Result<PathBuf, PlaceError> {
        let forbidden = || PlaceError::Forbidden(place.shown());
        match (self, place.path()) {
            (Self::Anywhere, Some(path)) if path.is_absolute() => Ok(path),
            (Self::Below { path, .. }, None) => Ok(path.join(self.relative(place).ok_or_else(forbidden)?)),
            _ => Err(forbidden()),
        }
    }

    /// Opens the directory of a place.
    ///
    /// # Errors
    /// `Forbidden`; `Open` where it is missing or a symbolic link is on the way.
    pub fn open(&self, place: &Place) -> Result<Target, PlaceError> {
        let mountpoint = self.mountpoint(place)?;
        let Self::Below { directory, .. } = self else {
            return Ok(Target { path: mountpoint.clone(), mountpoint, _directory: None });
        };
        let relative = self.relative(place).ok_or_else(|| PlaceError::Forbidden(place.shown()))?;
        let opened = rustix::fs::openat2(
            directory,
            &relative,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(|errno| PlaceError::Open {
            place: place.shown(),
            path: mountpoint.clone(),
            source: errno.into(),
        })?;
        // mount(2) takes paths: this one leads to the opened directory, whatever its names lead to now.
        let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
        Ok(Target { mountpoint, path, _directory: Some(opened) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(id: &str) -> Place {
        Place::Volume(id.to_owned())
    }

    fn pod(uid: &str, volume: &str) -> Place {
        Place::Pod { uid: uid.to_owned(), volume: volume.to_owned() }
    }

    #[test]
    fn test_places_below_a_base() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let base = Base::below(&root).unwrap();
        std::fs::create_dir_all(root.join("v1")).unwrap();
        std::fs::create_dir_all(root.join("pods/uid-1/volumes/kubernetes.io~csi/data/mount")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        std::os::unix::fs::symlink("v1", root.join("inside")).unwrap();
        std::os::unix::fs::symlink("/", root.join("pods/uid-2")).unwrap();

        let target = base.open(&volume("v1")).unwrap();
        assert_eq!(target.mountpoint, root.join("v1"));
        assert_eq!(std::fs::read_link(&target.path).unwrap(), root.join("v1"));
        let target = base.open(&pod("uid-1", "data")).unwrap();
        assert_eq!(target.mountpoint, root.join("pods/uid-1/volumes/kubernetes.io~csi/data/mount"));

        let table = [
            (volume("missing"), Refusal::NotFound),
            (volume("file"), Refusal::NotFound),
            (volume("link"), Refusal::NotFound),
            (volume("inside"), Refusal::NotFound),
            (pod("uid-2", "data"), Refusal::NotFound),
            (volume(".."), Refusal::Forbidden),
            (volume(""), Refusal::Forbidden),
            (volume("a/b"), Refusal::Forbidden),
            (volume("a\0b"), Refusal::Forbidden),
            (volume(&"a".repeat(254)), Refusal::Forbidden),
            (pod("../..", "data"), Refusal::Forbidden),
            (pod("uid-1", "../../../../../etc"), Refusal::Forbidden),
            (Place::Path(b"/etc".to_vec()), Refusal::Forbidden),
        ];
        for (place, refusal) in table {
            assert_eq!(base.open(&place).unwrap_err().refusal(), refusal, "{place:?}");
        }
    }

    #[test]
    fn test_a_directory_that_is_moved_away_is_still_the_one_that_was_opened() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let base = Base::below(&root).unwrap();
        std::fs::create_dir(root.join("v")).unwrap();
        let target = base.open(&volume("v")).unwrap();
        std::fs::rename(root.join("v"), root.join("old")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("v")).unwrap();
        assert_eq!(std::fs::read_link(&target.path).unwrap(), root.join("old"));
    }

    #[test]
    fn test_a_persons_own_keeper_takes_paths_only() {
        let base = Base::Anywhere;
        assert_eq!(base.open(&Place::Path(b"/etc".to_vec())).unwrap().path, Path::new("/etc"));
        for place in [volume("v"), pod("u", "v"), Place::Path(b"etc".to_vec()), Place::Path(Vec::new())] {
            assert_eq!(base.open(&place).unwrap_err().refusal(), Refusal::Forbidden, "{place:?}");
        }
    }
}
