//! A directory in which a snapshot is mounted: what is in it, without following links, and a walk over it.
//!
//! Nothing is taken for granted that a file system may refuse: an entry that cannot be looked at is one step of the walk.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Stat};
use stash_repo::{NodeKind, Timestamp};

use super::Shared;
use super::content::open_regular;
use super::delete::names;
use super::entry::{Entry, Keep, Step};
use super::meta::Meta;
use super::root::{Root, file_type, look};
use crate::walk::MAX_DEPTH;

/// How many directories of a walk are held open: the deepest. Others are opened again on the way back.
const OPEN_DIRECTORIES: usize = 64;

/// An entry of the directory.
#[derive(Debug, Clone)]
pub(super) struct Found {
    root: Arc<Root>,
    /// Below the directory; empty for itself.
    pub(super) path: Vec<u8>,
    pub(super) stat: Stat,
}

impl Found {
    /// Looks at the directory itself.
    pub(super) fn root(root: &Arc<Root>) -> io::Result<Self> {
        let stat = rustix::fs::fstat(root.dir(b"")?)?;
        Ok(Self { root: root.clone(), path: Vec::new(), stat })
    }

    /// Looks at what lies at a path.
    pub(super) fn at(root: &Arc<Root>, path: Vec<u8>) -> io::Result<Self> {
        let (dir, name) = root.parent(&path)?;
        let stat = look(&dir, &name)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { root: root.clone(), path, stat })
    }

    pub(super) fn kind(&self) -> NodeKind {
        match file_type(&self.stat) {
            FileType::Directory => NodeKind::Dir,
            FileType::Symlink => NodeKind::Symlink,
            FileType::BlockDevice => NodeKind::BlockDevice,
            FileType::CharacterDevice => NodeKind::CharDevice,
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            _ => NodeKind::File,
        }
    }

    pub(super) fn mtime(&self) -> Timestamp {
        Timestamp { secs: self.stat.st_mtime, nanos: u32::try_from(self.stat.st_mtime_nsec).unwrap_or(0) }
    }

    /// Opens a regular file for reading.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let (dir, name) = self.root.parent(&self.path)?;
        open_regular(&dir, &name)
    }

    pub(super) fn link_target(&self) -> io::Result<Vec<u8>> {
        let (dir, name) = self.root.parent(&self.path)?;
        Ok(rustix::fs::readlinkat(&dir, name, Vec::new())?.into_bytes())
    }

    pub(super) fn meta(&self, shared: &Shared) -> io::Result<Meta> {
        if self.path.is_empty() {
            return Meta::of_mounted(shared, self.kind(), &self.stat, self.root.dir(b"")?.as_fd(), None);
        }
        let (dir, name) = self.root.parent(&self.path)?;
        Meta::of_mounted(shared, self.kind(), &self.stat, dir.as_fd(), Some(&name))
    }
}

#[derive(Debug)]
struct Frame {
    names: std::vec::IntoIter<CString>,
    dir: Option<OwnedFd>,
    /// How long the path of this directory is.
    path_bytes: usize,
}

/// A walk in progress.
#[derive(Debug)]
pub(super) struct DirWalk {
    root: Arc<Root>,
    stack: Vec<Frame>,
    path: Vec<u8>,
    /// The directory that was given last is entered by the next step.
    enter: bool,
}

impl DirWalk {
    pub(super) fn new(root: Arc<Root>) -> Self {
        Self { root, stack: Vec::new(), path: Vec::new(), enter: true }
    }

    /// See [`super::entry::Walker::skip`].
    pub(super) fn skip(&mut self) {
        if std::mem::take(&mut self.enter) {
            self.leave_name();
        }
    }

    /// Goes on; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Step> {
        if std::mem::take(&mut self.enter)
            && let Err(error) = self.open()
        {
            let path = self.path.clone();
            self.leave_name();
            let path = if path.is_empty() { b"/".to_vec() } else { path };
            return Some(Step::Failed { path, error: format!("read the mounted directory: {error}") });
        }
        let frame = self.stack.last_mut()?;
        let Some(name) = frame.names.next() else {
            self.stack.pop();
            self.leave_name();
            return Some(Step::Leave(Keep::Listed));
        };
        self.path.truncate(frame.path_bytes);
        self.path.push(b'/');
        self.path.extend_from_slice(name.to_bytes());
        match self.look(&name) {
            Ok(stat) => {
                let found = Found { root: self.root.clone(), path: self.path.clone(), stat };
                self.enter = found.kind() == NodeKind::Dir;
                Some(Step::Entry(Entry::Mounted(found)))
            }
            Err(error) => {
                let path = self.path.clone();
                self.leave_name();
                Some(Step::Lost { path, error: format!("look at what is mounted: {error}") })
            }
        }
    }

    fn look(&mut self, name: &CString) -> io::Result<Stat> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let frame = self.stack.last_mut().ok_or_else(missing)?;
        let dir = match &frame.dir {
            Some(dir) => dir,
            None => {
                let path = self.path.get(..frame.path_bytes).unwrap_or_default();
                frame.dir.insert(self.root.dir(path)?)
            }
        };
        look(dir, name)?.ok_or_else(missing)
    }

    fn open(&mut self) -> io::Result<()> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(io::Error::other(format!("it is deeper than {MAX_DEPTH} directories")));
        }
        let dir = self.root.dir(&self.path)?;
        let names = names(&dir)?.into_iter();
        self.stack.push(Frame { names, dir: Some(dir), path_bytes: self.path.len() });
        let above = self.stack.len().checked_sub(OPEN_DIRECTORIES + 1);
        if let Some(frame) = above.and_then(|at| self.stack.get_mut(at)) {
            frame.dir = None;
        }
        Ok(())
    }

    /// Takes the last name off the path.
    fn leave_name(&mut self) {
        let parent = self.stack.last().map_or(0, |frame| frame.path_bytes);
        self.path.truncate(parent);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn walked(folder: &Path, skipped: &[u8]) -> Vec<String> {
        let root = rustix::fs::open(folder, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let mut walk = DirWalk::new(Arc::new(Root::from(root)));
        let mut steps = Vec::new();
        while let Some(step) = walk.next() {
            let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
            steps.push(match step {
                Step::Entry(entry) => {
                    if entry.path() == skipped {
                        walk.skip();
                    }
                    shown(entry.path())
                }
                Step::Leave(_) => "leave".to_owned(),
                Step::Lost { path, .. } => format!("lost {}", shown(&path)),
                Step::Failed { path, .. } => format!("failed {}", shown(&path)),
            });
        }
        steps
    }

    #[test]
    fn test_a_walk_goes_deep_in_order_and_follows_no_link() {
        let folder = tempfile::tempdir().unwrap();
        for dir in ["b/deep", "skipped/x"] {
            std::fs::create_dir_all(folder.path().join(dir)).unwrap();
        }
        std::fs::write(folder.path().join("b/file"), "x").unwrap();
        std::fs::write(folder.path().join("a"), "x").unwrap();
        std::os::unix::fs::symlink("b", folder.path().join("link")).unwrap();
        assert_eq!(
            walked(folder.path(), b"/skipped"),
            ["/a", "/b", "/b/deep", "leave", "/b/file", "leave", "/link", "/skipped", "leave"]
        );
    }

    #[test]
    fn test_directories_above_the_open_ones_are_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut at = folder.path().to_owned();
        for _ in 0..OPEN_DIRECTORIES + 10 {
            at.push("d");
            std::fs::create_dir(&at).unwrap();
            std::fs::write(at.join("z"), "").unwrap();
        }
        let steps = walked(folder.path(), b"");
        assert_eq!(steps.iter().filter(|step| step.ends_with("/z")).count(), OPEN_DIRECTORIES + 10, "{steps:?}");
    }
}
