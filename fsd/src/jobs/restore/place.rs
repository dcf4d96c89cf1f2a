//! Which entries of a snapshot go to which volume, and the directories of the volumes. No symbolic link of a volume is followed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use stash_proto::job::{ErrorCode, JobError, RestoreTask};

use super::mark::{self, Mark};
use super::record::{self, By};

/// How a directory of a volume is opened.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A part of a snapshot that goes to one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its path in the snapshot and in the target.
    pub(super) path: String,
    /// The volume, by its place in the task.
    pub(super) mount: usize,
    /// The snapshot is of more than this, and may hold nothing here.
    pub(super) may_lack: bool,
}

fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect()
}

/// Divides what a snapshot is of among volumes; returns also what is of none.
///
/// Of a path within a volume that path is restored, into the innermost; of a path above volumes what the snapshot has at each of them.
pub(super) fn pieces(paths: &[String], mounts: &[String]) -> (Vec<Piece>, Vec<String>) {
    let places: Vec<Vec<&str>> = mounts.iter().map(|mount| parts(mount)).collect();
    let (mut pieces, mut elsewhere) = (Vec::<Piece>::new(), Vec::new());
    for path in paths {
        let of = parts(path);
        let around = (0..places.len()).filter(|&at| of.starts_with(&places[at])).max_by_key(|&at| places[at].len());
        if let Some(mount) = around.filter(|_| path.starts_with('/')) {
            pieces.push(Piece { path: format!("/{}", of.join("/")), mount, may_lack: false });
            continue;
        }
        // One that lies in another is reached through that.
        let outermost = |at: &usize| {
            let inner = &places[*at];
            inner.starts_with(&of)
                && !places.iter().any(|other| other != inner && other.starts_with(&of) && inner.starts_with(other))
        };
        let below: Vec<usize> = (0..places.len()).filter(|at| path.starts_with('/') && outermost(at)).collect();
        if below.is_empty() {
            elsewhere.push(path.clone());
        }
        let of_mount = |mount: usize| Piece { path: format!("/{}", places[mount].join("/")), mount, may_lack: true };
        pieces.extend(below.into_iter().map(of_mount));
    }
    (pieces, elsewhere)
}

/// Returns the volumes that lie below what a piece is of: it is written to them through its own volume.
fn within(piece: &Piece, mounts: &[(String, OwnedFd)]) -> Vec<usize> {
    let of = parts(&piece.path);
    let is_below = |at: &usize| *at != piece.mount && parts(&mounts[*at].0).starts_with(&of);
    (0..mounts.len()).filter(is_below).collect()
}

/// The volumes of a target, as the Job mounts them.
#[derive(Debug)]
pub(in crate::jobs) struct Volumes {
    mounts: Vec<(String, OwnedFd)>,
}

/// A directory that something is restored into.
#[derive(Debug)]
pub(super) struct Place {
    directory: OwnedFd,
    /// Its path as the target has it; empty for `/`.
    pub(super) seen: String,
}

impl Place {
    /// Returns a path that leads to the directory, whatever its names become, for as long as this lives.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }
}

impl Volumes {
    /// Opens them.
    ///
    /// # Errors
    /// One is not there.
    pub(in crate::jobs) fn open(task: &RestoreTask) -> Result<Self, JobError> {
        let root = task.root.as_deref().unwrap_or_default().trim_end_matches('/');
        let mut mounts = Vec::new();
        for mount in &task.mounts {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = openat(CWD, format!("{root}{mount}"), flags, Mode::empty());
            let opened = opened.map_err(|error| failed(&format!("open the volume at {mount}"), error.into()))?;
            mounts.push((mount.clone(), opened));
        }
        Ok(Self { mounts })
    }

    /// Marks the volumes that will be written to: those of the pieces, and those that lie in them.
    ///
    /// # Errors
    /// One cannot be written to: nothing is restored.
    pub(super) fn mark<'a>(&self, pieces: impl Iterator<Item = &'a Piece>) -> Result<Vec<Mark>, JobError> {
        let (mut used, mut nested) = (BTreeSet::new(), BTreeSet::new());
        for piece in pieces {
            used.insert(piece.mount);
            nested.extend(within(piece, &self.mounts));
        }
        let mut marks = Vec::new();
        for &at in used.union(&nested) {
            let (mount, volume) = &self.mounts[at];
            match Mark::set(volume, mount) {
                Ok(mark) => marks.push(mark),
                // Nothing can be spoilt there, and the snapshot may have nothing for it.
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && !used.contains(&at) => {}
                Err(error) => return Err(failed(&format!("mark the volume at {mount} as unfinished"), error)),
            }
        }
        Ok(marks)
    }

    /// Returns where a volume is that a restore left in the middle.
    ///
    /// # Errors
    /// One cannot be read.
    pub(in crate::jobs) fn unfinished(&self) -> Result<Option<&str>, JobError> {
        for (mount, volume) in &self.mounts {
            if mark::is_set(volume).map_err(|error| failed(&format!("look at the volume at {mount}"), error))? {
                return Ok(Some(mount));
            }
        }
        Ok(None)
    }

    /// Returns whether a session restored them for a host. It is written down when all was done, so one that says it is enough: another may
    /// be new in a new pod, or may not be written to. What says it of no host is believed only where all volumes say it: one of several may
    /// be shared with the host that it is of.
    ///
    /// # Errors
    /// One cannot be read.
    pub(in crate::jobs) fn are_restored_by(&self, session: &str, host: &str) -> Result<bool, JobError> {
        let mut all = !self.mounts.is_empty();
        for (mount, volume) in &self.mounts {
            let by = record::by(volume, session, host);
            match by.map_err(|error| failed(&format!("look at the volume at {mount}"), error))? {
                By::Host => return Ok(true),
                By::Unnamed => {}
                By::Nobody => all = false,
            }
        }
        Ok(all)
    }

    /// Has the volumes remember that a session restored them for a host, but those that are read-only: nothing was restored there.
    ///
    /// # Errors
    /// One cannot be written to.
    pub(in crate::jobs) fn record(&self, session: &str, host: &str) -> Result<(), JobError> {
        self.mounts.iter().try_for_each(|(mount, volume)| match record::write(volume, session, host) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            done => done.map_err(|error| failed(&format!("finish the volume at {mount}"), error)),
        })
    }

    /// Opens the directory that a piece goes to, and makes it: its own, or of what is no directory the one that it lies in.
    ///
    /// # Errors
    /// Something else stands in the way.
    pub(super) fn directory(&self, piece: &Piece, is_dir: bool) -> Result<Place, JobError> {
        let (mount, volume) = &self.mounts[piece.mount];
        let whole = parts(&piece.path);
        let names = if is_dir { whole.as_slice() } else { &whole[..whole.len().saturating_sub(1)] };
        let seen: String = names.iter().map(|name| format!("/{name}")).collect();
        let below = names.get(parts(mount).len()..).unwrap_or_default();
        let directory = descend(volume, below).map_err(|error| failed(&format!("make the directory {seen}"), error))?;
        Ok(Place { directory, seen })
    }
}

fn descend(volume: &OwnedFd, names: &[&str]) -> io::Result<OwnedFd> {
    let mut at = openat(volume, c".", DIRECTORY, Mode::empty())?;
    for name in names {
        match mkdirat(at.as_fd(), *name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = openat(at.as_fd(), *name, DIRECTORY, Mode::empty())?;
    }
    Ok(at)
}

/// Says that a volume cannot be used.
pub(super) fn failed(what: &str, error: io::Error) -> JobError {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::Full,
        _ => ErrorCode::NoTarget,
    };
    JobError::new(code, format!("{what}: {error}"))
}

/// Writes all of a directory's names to its disk.
pub(super) fn sync(directory: &OwnedFd) -> io::Result<()> {
    File::from(directory.try_clone()?).sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_what_goes_where() {
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        for (paths, mounts, expected, lost) in [
            (&["/data"][..], &["/data"][..], &[("/data", 0, false)][..], &[][..]),
            (&["/data/"], &["/data/"], &[("/data", 0, false)], &[]),
            (&["/data/db"], &["/data"], &[("/data/db", 0, false)], &[]),
            (&["/data/db"], &["/data", "/data/db"], &[("/data/db", 1, false)], &[]),
            (&["/data"], &["/data", "/data/db"], &[("/data", 0, false)], &[]),
            (&["/"], &["/data", "/data/db", "/logs"], &[("/data", 0, true), ("/logs", 2, true)], &[]),
            (&["/var"], &["/var/lib"], &[("/var/lib", 0, true)], &[]),
            (&["/data", "/etc"], &["/data"], &[("/data", 0, false)], &["/etc"]),
            (&["/database"], &["/data"], &[], &["/database"]),
            (&["data"], &["/data"], &[], &["data"]),
            (&["/a"], &["/"], &[("/a", 0, false)], &[]),
        ] {
            let (found, elsewhere) = pieces(&list(paths), &list(mounts));
            let expected: Vec<Piece> = expected
                .iter()
                .map(|&(path, mount, may_lack)| Piece { path: path.to_owned(), mount, may_lack })
                .collect();
            assert_eq!((found, elsewhere), (expected, list(lost)), "{paths:?} {mounts:?}");
        }
    }

    #[test]
    fn test_links_in_a_volume_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let (volume, outside) = (folder.path().join("w/data"), folder.path().join("outside"));
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        let root = Some(folder.path().join("w").to_str().unwrap().to_owned());
        let task = RestoreTask { mounts: vec!["/data".to_owned()], root, ..RestoreTask::default() };
        let volumes = Volumes::open(&task).unwrap();
        let piece = |path: &str| Piece { path: path.to_owned(), mount: 0, may_lack: false };
        let error = volumes.directory(&piece("/data/link/deep"), true).unwrap_err();
        assert_eq!((error.code, std::fs::read_dir(&outside).unwrap().count()), (ErrorCode::NoTarget, 0));
        let place = volumes.directory(&piece("/data/a/file"), false).unwrap();
        assert_eq!((place.seen.as_str(), place.path().is_dir()), ("/data/a", true));
        assert!(volume.join("a").is_dir() && !volume.join("a/file").exists());
        assert!(Volumes::open(&RestoreTask { mounts: vec!["/other".to_owned()], ..task }).is_err());
    }
}
