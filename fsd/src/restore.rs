//! Restoring: copies a snapshot into a directory. It comes from the trees of a repository, with no FUSE in between, or from a
//! directory in which it is mounted ([`Source`]), so that whoever restores needs no credentials and shares the node's cache.
//!
//! How it goes: a planner walks the snapshot, makes directories and whatever has no content, and decides by what is there
//! already (see [`decide`]); files go in batches to workers. Of a repository these fetch blobs in the order in which they lie in
//! packs, several runs at once, and write them to their places ([`content`]); of what is mounted they read each file from its beginning
//! to its end, several files at once ([`streams`]). A batch's hard links and the metadata of the directories that it completes follow when
//! its files are done, and batches end in order: so a directory's times are set last.
//!
//! Invariants:
//! * Nothing outside the target is touched: every path is opened from the target's descriptor without following symbolic
//!   links ([`root`]), and names with `/` or `..` never leave the tree decoder.
//! * A file stands under its real name only when it is whole: it is written as `.stash-fs.<hash>.part` beside it and renamed.
//!   The hash is that of path and content (size and time where it is mounted), so that a rerun finds the part, checks what it holds
//!   and goes on.
//! * What fails is named, counted and does not end the rest. Memory is bounded by the batches in flight.

mod after;
mod batch;
mod content;
mod decide;
mod delete;
mod entry;
mod meta;
mod mounted;
mod plan;
mod root;
mod special;
mod streams;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use clap::ValueEnum;
use futures::StreamExt as _;
use futures::stream;
use rustix::fs::FileType;
use rustix::io::Errno;
use stash_repo::{NodeKind, Repository};

use crate::filter::Filter;
use crate::walk::{Located, Visited};
use entry::{Entry, Start};
use mounted::Found;
use root::Root;

pub use meta::Owner;

/// The file that marks a directory as one that is not whole: whoever makes it removes it when all is restored. `--delete` leaves it.
pub(crate) const UNFINISHED: &str = ".stash-fs-restoring";

/// The attribute by which the root of a volume remembers for whom it was restored. It is no data and never copied or removed: one that a
/// snapshot has is of another time, and one that is there may be of others who share the volume.
pub(crate) const RESTORED_BY: &str = "user.stash-fs.restored-by";
/// The file in its place. `--delete` leaves it.
pub(crate) const RESTORED_BY_FILE: &str = ".stash-fs-restored-by";

/// Batches that are worked on at once: while one waits for its last blobs the next goes on.
const BATCHES_IN_FLIGHT: usize = 3;

/// restic's `--overwrite`: what becomes of a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Overwrite {
    /// It is replaced, unless its content is the same
    #[default]
    Always,
    /// It is replaced, unless size and modification time are the same
    IfChanged,
    /// It is replaced if the snapshot's is newer
    IfNewer,
    /// It is kept
    Never,
}

/// Where it comes from: the content of a directory goes into the target, anything else under its name.
#[derive(Debug)]
pub enum Source {
    /// What a path of a snapshot names.
    Stored {
        /// The repository that holds it.
        repository: Repository,
        /// What is restored.
        from: Located,
    },
    /// A directory in which a snapshot or a part of it is mounted. It is only read.
    Mounted {
        /// The directory.
        directory: OwnedFd,
        /// The one entry of it that is restored, where that is no directory.
        name: Option<Vec<u8>>,
    },
}

impl Source {
    /// Finds what a path names in a snapshot that is mounted at `root`; nothing if it is not there. Links are not followed.
    ///
    /// # Errors
    /// What is mounted does not tell.
    pub fn mounted(root: OwnedFd, path: &[u8]) -> io::Result<Option<Self>> {
        let root = Root::from(root);
        let names = path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".");
        let path: Vec<u8> = names.flat_map(|name| [b"/", name]).flatten().copied().collect();
        if path.is_empty() {
            return Ok(Some(Self::Mounted { directory: root.dir(b"")?, name: None }));
        }
        let (directory, name) = match root.parent(&path) {
            Ok(found) => found,
            Err(error) if is_nothing_there(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(match root::look(&directory, &name)? {
            None => None,
            Some(stat) if root::file_type(&stat) == FileType::Directory => {
                Some(Self::Mounted { directory: root.dir(&path)?, name: None })
            }
            Some(_) => Some(Self::Mounted { directory, name: Some(name.into_bytes()) }),
        })
    }

    /// Returns whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        match self {
            Self::Stored { from: Located::Root(_), .. } | Self::Mounted { name: None, .. } => true,
            Self::Stored { from: Located::Entry(entry), .. } => entry.node().kind() == NodeKind::Dir,
            Self::Mounted { name: Some(_), .. } => false,
        }
    }
}

/// Whether a path leads nowhere: also through a file or a link.
fn is_nothing_there(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// What of it, where to and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory, made if need be. It may be a symbolic link; what is below it is never followed.
    pub target: PathBuf,
    /// What is taken.
    pub filter: Filter,
    /// What becomes of files that are there.
    pub overwrite: Overwrite,
    /// Remove what the snapshot does not hold, as far as the filter takes it.
    pub delete: bool,
    /// Change nothing, only tell.
    pub dry_run: bool,
    /// Leave holes for zeros.
    pub sparse: bool,
    /// Read every restored file again and compare; also files that `if-changed` would skip.
    pub verify: bool,
    /// Who owns what is restored.
    pub owner: Owner,
    /// Give the target itself the metadata of the directory that is restored into it, also if it was there. One that was not
    /// there gets it anyway.
    pub root_metadata: bool,
}

/// What was done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was not there.
    Restored,
    /// It was there and different.
    Updated,
    /// It was there and the same.
    Unchanged,
    /// It was there and is kept by `--overwrite`.
    Kept,
    /// It was removed by `--delete`.
    Deleted,
}

/// Who is told what happens. Called from several threads.
pub trait Observer: Send + Sync {
    /// Something was done, with this many bytes of content.
    fn done(&self, action: Action, path: &[u8], bytes: u64);
    /// Something failed, and the rest goes on.
    fn failed(&self, path: &[u8], error: &str);
    /// Something a person should know, once.
    fn note(&self, text: &str);
    /// Whether [`Observer::found`] is of use: counting ahead costs a second walk.
    fn wants_total(&self) -> bool;
    /// More work was found.
    fn found(&self, files: u64, bytes: u64);
    /// Bytes were written.
    fn wrote(&self, bytes: u64);
    /// Whether the work should end; what was begun is completed.
    fn stop(&self) -> bool;
}

/// The counts of a restore. Entries of all kinds are files here, as in restic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Restored or updated.
    pub files_restored: u64,
    /// Left as they were.
    pub files_skipped: u64,
    /// Removed by `--delete`.
    pub files_deleted: u64,
    /// Failed.
    pub files_failed: u64,
    /// Bytes of content written.
    pub bytes_restored: u64,
    /// Bytes of content that were there.
    pub bytes_skipped: u64,
    /// The work was stopped before its end.
    pub stopped: bool,
}

/// A restore that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The target.
    #[error("open target directory {path}: {source}")]
    Target {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is mounted.
    #[error("look at what is mounted: {0}")]
    Mounted(io::Error),
    /// What is to be restored is a directory without a tree.
    #[error("the directory has no tree in the repository")]
    NoTree,
}

/// Counts under way.
#[derive(Debug, Default)]
struct Counters {
    files_restored: AtomicU64,
    files_skipped: AtomicU64,
    files_deleted: AtomicU64,
    files_failed: AtomicU64,
    bytes_restored: AtomicU64,
    bytes_skipped: AtomicU64,
    /// Owners could not be set and it was said.
    owner_noted: AtomicBool,
    /// Attributes could not be set and it was said.
    xattr_noted: AtomicBool,
}

/// What is read from.
#[derive(Clone)]
enum Origin {
    /// Where blobs and trees are.
    Repository(Repository),
    /// A directory in which a snapshot is mounted.
    Mounted(Arc<Root>),
}

/// What all workers share.
struct Shared {
    origin: Origin,
    target: Root,
    options: Options,
    observer: Arc<dyn Observer>,
    counters: Counters,
    privileged: bool,
    /// How many groups of blobs, or chunks of files, are fetched or written at once.
    groups: Arc<tokio::sync::Semaphore>,
}

impl Shared {
    /// Returns the repository. Nothing of what is mounted asks for it.
    fn repository(&self) -> io::Result<&Repository> {
        match &self.origin {
            Origin::Repository(repository) => Ok(repository),
            Origin::Mounted(_) => Err(io::Error::other("what is mounted has no repository")),
        }
    }

    fn done(&self, action: Action, path: &[u8], bytes: u64) {
        let (files, sum) = match action {
            Action::Restored | Action::Updated => (&self.counters.files_restored, Some(&self.counters.bytes_restored)),
            Action::Unchanged | Action::Kept => (&self.counters.files_skipped, Some(&self.counters.bytes_skipped)),
            Action::Deleted => (&self.counters.files_deleted, None),
        };
        files.fetch_add(1, Relaxed);
        if let Some(sum) = sum {
            sum.fetch_add(bytes, Relaxed);
        }
        self.observer.done(action, path, bytes);
    }

    fn failed(&self, path: &[u8], error: impl std::fmt::Display) {
        self.counters.files_failed.fetch_add(1, Relaxed);
        self.observer.failed(path, &error.to_string());
    }

    /// Says something the first time.
    fn note_once(&self, said: &AtomicBool, text: &str) {
        if !said.swap(true, Relaxed) {
            self.observer.note(text);
        }
    }

    fn report(&self) -> Report {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        Report {
            files_restored: get(&self.counters.files_restored),
            files_skipped: get(&self.counters.files_skipped),
            files_deleted: get(&self.counters.files_deleted),
            files_failed: get(&self.counters.files_failed),
            bytes_restored: get(&self.counters.bytes_restored),
            bytes_skipped: get(&self.counters.bytes_skipped),
            stopped: self.observer.stop(),
        }
    }
}

/// What a source is: its repository or its directory, and where to begin.
fn begin(source: Source) -> Result<(Origin, Start), RestoreError> {
    match source {
        Source::Stored { repository, from } => {
            let start = match from {
                Located::Root(tree) => Start::Tree(repository.clone(), tree, None),
                Located::Entry(entry) if entry.node().kind() == NodeKind::Dir => {
                    let tree = entry.node().subtree().ok_or(RestoreError::NoTree)?;
                    Start::Tree(repository.clone(), tree, Some(entry))
                }
                Located::Entry(entry) => {
                    let path = [b"/", entry.node().name()].concat();
                    Start::Single(Entry::Stored(Visited { path, ..entry }))
                }
            };
            Ok((Origin::Repository(repository), start))
        }
        Source::Mounted { directory, name } => {
            let root = Arc::new(Root::from(directory));
            let start = match name {
                None => Start::Directory(root.clone()),
                Some(name) => {
                    let found = Found::at(&root, [b"/", name.as_slice()].concat());
                    Start::Single(Entry::Mounted(found.map_err(RestoreError::Mounted)?))
                }
            };
            Ok((Origin::Mounted(root), start))
        }
    }
}

/// Restores a source: the content of a directory into the target, or one entry under its name.
///
/// # Errors
/// The target cannot be opened, or there is nothing to restore. What fails later is named to the observer and counted.
pub async fn restore(source: Source, options: Options, observer: Arc<dyn Observer>) -> Result<Report, RestoreError> {
    let (origin, start) = begin(source)?;
    let target = Root::open(&options.target, options.dry_run)
        .map_err(|source| RestoreError::Target { path: options.target.clone(), source })?;
    let in_flight = match origin {
        Origin::Repository(_) => content::GROUPS_IN_FLIGHT,
        Origin::Mounted(_) => streams::IN_FLIGHT,
    };
    let shared = Arc::new(Shared {
        origin,
        target,
        options,
        observer,
        counters: Counters::default(),
        privileged: rustix::process::geteuid().is_root(),
        groups: Arc::new(tokio::sync::Semaphore::new(in_flight)),
    });
    let (start, handle) = (Arc::new(start), tokio::runtime::Handle::current());
    let (batches, queue) = tokio::sync::mpsc::channel(1);
    let planner = tokio::task::spawn_blocking({
        let (shared, start, handle) = (shared.clone(), start.clone(), handle.clone());
        move || plan::run(&shared, &start, &batches, &handle)
    });
    let counter = tokio::task::spawn_blocking({
        let (shared, start) = (shared.clone(), start.clone());
        move || {
            if let Some(walker) = start.walker(&handle).filter(|_| shared.observer.wants_total()) {
                plan::count(&shared, walker);
            }
        }
    });
    let work = stream::unfold(queue, |mut queue| async { queue.recv().await.map(|batch| (batch, queue)) })
        .map(|batch| tokio::spawn(content::run(shared.clone(), batch)))
        .buffered(BATCHES_IN_FLIGHT)
        .for_each(|batch| {
            let shared = shared.clone();
            async move {
                let batch = join(batch);
                join(tokio::task::spawn_blocking(move || after::finish(&shared, batch)).await);
            }
        });
    let (planned, (), counted) = tokio::join!(planner, work, counter);
    join(planned).map_err(RestoreError::Mounted)?;
    join(counted);
    Ok(shared.report())
}

/// A worker's panic goes on in the caller.
fn join<T>(result: Result<T, tokio::task::JoinError>) -> T {
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
