//! What a backup reads: a walk like restic's, that names every entry it could not read.
//!
//! * `files`: the file system that paths are looked up in.
//! * `targets`: which paths stand where in the snapshot.
//! * `walk`: the entries, in the order that `rustic_core` wants (depth first, by bytes of the name).
//! * `node`: from an inode to what the snapshot says of it.
//! * `reader`: the bytes of a file, exactly as many as its inode said.
//! * [`producer`]: one file from standard input or a command's output.
//!
//! An entry that cannot be read is left out of the snapshot and reported as a [`Loss`]: one that vanished, one that may not
//! be read, one whose read failed half way, one that became shorter meanwhile. A file that grew is stored up to the size
//! that it had when it was looked at; that is no loss.

mod files;
pub(crate) mod node;
pub mod producer;
mod reader;
mod select;
mod targets;
mod walk;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustic_core::{ReadSource, RusticResult};

use super::gate::Gate;
use crate::error::{RepoError, RepoResult};
use files::Files;
use node::NodeMaker;
pub(crate) use reader::FileOpen;
use reader::Readers;
pub use select::Marker;
use targets::Targets;
use walk::Walk;

/// The most losses that are kept for the report; all are counted, and all are told as they come.
const KEPT_LOSSES: usize = 10_000;

/// An entry, or a part of what is known of it, that is not in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Which.
    pub path: PathBuf,
    /// What was being done: `stat`, `list`, `open`, `read`, `read link`, `read extended attributes`, `store`.
    pub during: &'static str,
    /// What happened.
    pub reason: String,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.during, self.path.display(), self.reason)
    }
}

/// Something worth telling that is no loss.
pub type Note = Loss;

/// Who is told of losses and notes as they come, from any thread.
pub trait Listener: Send + Sync + 'static {
    /// An entry is not in the snapshot.
    fn loss(&self, loss: &Loss);
    /// An entry is in the snapshot, but changed while it was read.
    fn note(&self, note: &Note);
}

/// Whether a path is left out, by its absolute path alone.
pub type Exclude = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// What is read, and how.
#[derive(Clone, Default)]
pub struct SourceOptions {
    /// Files and directories, as they were named.
    pub targets: Vec<PathBuf>,
    /// The directory that the targets, which are absolute then, are looked up below, as if it were the root; the snapshot has
    /// their paths without it. `None`: the root of this process.
    pub root: Option<PathBuf>,
    /// What is left out by its path.
    pub exclude: Option<Exclude>,
    /// What is left out because of a file beside it.
    pub markers: Vec<Marker>,
    /// Files that are larger are left out.
    pub exclude_larger_than: Option<u64>,
    /// Other filesystems than the targets' own are left out.
    pub one_file_system: bool,
    /// Store access times; else they are stored as the times of the last change.
    pub with_atime: bool,
    /// How many files are read at a time; never more than there are CPUs.
    pub read_concurrency: Option<usize>,
}

impl fmt::Debug for SourceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceOptions").field("targets", &self.targets).finish_non_exhaustive()
    }
}

/// Losses so far, shared by all parts of a source.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<LedgerInner>);

struct LedgerInner {
    listener: Arc<dyn Listener>,
    /// Reading for a store that takes nothing any more is senseless.
    gate: Option<Gate>,
    /// A leaf lock.
    kept: Mutex<Vec<Loss>>,
    losses: AtomicU64,
    /// Entries, other than directories, that were given to be stored.
    given: AtomicU64,
    /// Entries that were given, but could not be read then.
    withdrawn: AtomicU64,
    /// What makes going on senseless.
    fatal: Mutex<Option<RepoError>>,
    stopped: AtomicBool,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("losses", &self.0.losses).finish_non_exhaustive()
    }
}

impl Ledger {
    pub(crate) fn new(listener: Arc<dyn Listener>, gate: Option<Gate>) -> Self {
        Self(Arc::new(LedgerInner {
            listener,
            gate,
            kept: Mutex::default(),
            losses: AtomicU64::new(0),
            given: AtomicU64::new(0),
            withdrawn: AtomicU64::new(0),
            fatal: Mutex::default(),
            stopped: AtomicBool::new(false),
        }))
    }

    /// An entry or a part of it is not in the snapshot.
    pub(crate) fn lose(&self, path: &Path, during: &'static str, reason: impl fmt::Display) {
        let loss = Loss { path: path.to_owned(), during, reason: reason.to_string() };
        self.0.listener.loss(&loss);
        self.0.losses.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.0.kept.lock();
        if kept.len() < KEPT_LOSSES {
            kept.push(loss);
        }
    }

    /// An entry that was given to be stored could not be read.
    pub(crate) fn withdraw(&self, path: &Path, during: &'static str, reason: impl fmt::Display) {
        self.0.withdrawn.fetch_add(1, Ordering::AcqRel);
        self.lose(path, during, reason);
    }

    pub(crate) fn note(&self, path: &Path, during: &'static str, reason: impl fmt::Display) {
        self.0.listener.note(&Note { path: path.to_owned(), during, reason: reason.to_string() });
    }

    pub(crate) fn give(&self) {
        self.0.given.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends the source with an error that is no entry's.
    pub(crate) fn fail(&self, error: RepoError) {
        self.0.fatal.lock().get_or_insert(error);
        self.stop();
    }

    /// Makes the source end early: no further entries, and reads fail.
    pub(crate) fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire) || self.0.gate.as_ref().is_some_and(|gate| gate.check().is_err())
    }

    pub(crate) fn fatal(&self) -> Option<RepoError> {
        self.0.fatal.lock().clone()
    }

    /// Returns how many losses there were, and the first of them.
    pub(crate) fn losses(&self) -> (u64, Vec<Loss>) {
        (self.0.losses.load(Ordering::Acquire), self.0.kept.lock().clone())
    }

    /// Returns how many entries, other than directories, must be in the snapshot.
    pub(crate) fn expected(&self) -> u64 {
        self.0.given.load(Ordering::Acquire) - self.0.withdrawn.load(Ordering::Acquire)
    }
}

/// Files and directories of this machine.
#[derive(Debug)]
pub(crate) struct LocalSource {
    targets: Targets,
    options: SourceOptions,
    files: Files,
    ledger: Ledger,
    readers: Readers,
}

impl LocalSource {
    /// Resolves the targets. Those that do not exist are told as losses, as restic does.
    ///
    /// # Errors
    /// `NoSource`: no target exists; a target is a root of its own (two that cannot stand in one tree).
    pub(crate) fn new(options: SourceOptions, ledger: Ledger) -> RepoResult<Self> {
        let files = match &options.root {
            None => Files::default(),
            Some(root) => Files::beneath(root).map_err(|error| RepoError::Local {
                what: format!("open {}", root.display()),
                reason: error.to_string(),
            })?,
        };
        let mut existing = Vec::new();
        for target in &options.targets {
            match files.look(target) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    ledger.lose(target, "stat", "it does not exist");
                }
                // Another failure is told when the walk comes to it.
                _ => existing.push(target.clone()),
            }
        }
        if existing.is_empty() {
            return Err(RepoError::NoSource);
        }
        let targets = Targets::new(&existing, &files)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let readers = Readers::new(options.read_concurrency.unwrap_or(cpus).clamp(1, cpus));
        Ok(Self { targets, options, files, ledger, readers })
    }

    /// Returns the absolute paths that the snapshot is of, as restic writes them.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        self.targets.absolute()
    }
}

impl ReadSource for LocalSource {
    type Open = FileOpen;
    type Iter = Walk;

    fn size(&self) -> RusticResult<Option<u64>> {
        let silent = Ledger::new(Arc::new(Silent), None);
        let walk = Walk::new(&self.targets, &self.options, &self.files, silent, None, self.readers.clone());
        Ok(Some(walk.total_bytes(&self.ledger)))
    }

    fn entries(&self) -> Walk {
        let nodes = NodeMaker::new(self.options.with_atime, self.files.clone(), self.ledger.clone());
        Walk::new(&self.targets, &self.options, &self.files, self.ledger.clone(), Some(nodes), self.readers.clone())
    }
}

struct Silent;

impl Listener for Silent {
    fn loss(&self, _loss: &Loss) {}
    fn note(&self, _note: &Note) {}
}
