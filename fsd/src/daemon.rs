//! The node daemon (`stash-fs serve`): many mounts of many repositories, under one budget of memory, behind a keeper.
//!
//! * [`spec`]: what a mount is asked to be, checked.
//! * [`repositories`]: opened repositories, shared by their mounts.
//! * [`tree`]: what is served, and the volumes that show it.
//! * [`resume`]: goes on with what an earlier daemon served.
//! * [`unmount`]: takes a volume away.
//! * [`warm`]: reads ahead of those who will read.
//! * [`rpc`]: the calls of the control API, and the one table from an error to a gRPC code.
//!
//! Invariants: a mount's name has one operation at a time; an operation that was begun is ended, also when its caller is gone;
//! this process never unmounts because it ends. It has no right to mount: the keeper does that.

mod repositories;
mod resume;
pub mod rpc;
pub mod spec;
mod tree;
mod unmount;
mod warm;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stash_repo::RepoError;
use stash_repo::budget::Budget;
use stash_vfs::{Ino, Mounted, Pin, Vfs, VfsError, VfsOptions};

use crate::fuse::mount::MountOptions;
use crate::fuse::{DispatchOptions, FuseMetrics, Recovery, SessionOptions};
use crate::keeper::{Link, LinkError, SessionName};
use crate::kept::{self, KeptError, KeptRepository, New};
use crate::telemetry::{MountCounts, Sources};
pub use repositories::OpenOptions;
use repositories::{Entry, Repositories};
use resume::{LeftSession, Waiting, waiting};
use spec::{MountSpec, SpecError};
use tree::{Resume, Tree, Turn, Turns};
use unmount::Unmounted;

/// How far the kernel reads ahead of a sequential reader, as in `mount`.
const READ_AHEAD_KIB: u32 = 4096;

/// How the daemon works.
#[derive(Debug, Clone)]
pub struct Options {
    /// How repositories are opened.
    pub open: OpenOptions,
    /// The memory for all of them.
    pub memory_bytes: usize,
    /// The deadline of a request.
    pub deadline: Duration,
    /// What becomes of the requests that an earlier daemon left unanswered.
    pub recovery: Recovery,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The request makes no sense, or is not allowed.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Another mount has the name.
    #[error("there is another mount with the name {0}")]
    Exists(SessionName),
    /// Another call for the same mount is under way.
    #[error("another call for {0} is under way")]
    Busy(SessionName),
    /// There is no such mount.
    #[error("there is no mount {0}")]
    NoMount(SessionName),
    /// An earlier daemon's mount has not been gone on with yet.
    #[error("{name} waits to be served again: {trouble}")]
    Waiting {
        /// Which.
        name: SessionName,
        /// Why.
        trouble: String,
    },
    /// The keeper mounts no overlays.
    #[error(
        "this node has no scratch space for volumes that can be written: its keeper needs --scratch DIR (node.scratch.enabled of the chart)"
    )]
    NoScratch,
    /// It makes none so large.
    #[error("scratch space of {asked} bytes is more than the {most} that this node's keeper allows (--scratch-max)")]
    Scratch {
        /// What was asked for.
        asked: u64,
        /// The most.
        most: u64,
    },
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The tree cannot be built.
    #[error(transparent)]
    Tree(#[from] VfsError),
    /// The mount cannot be made.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// A task of this process panicked; this is a bug.
    #[error("a task failed: {0}")]
    Task(String),
}

impl From<LinkError> for DaemonError {
    fn from(error: LinkError) -> Self {
        Self::Kept(error.into())
    }
}

/// A volume that is served.
#[derive(Debug, Clone)]
struct Volume {
    spec: Arc<MountSpec>,
    tree: Arc<Tree>,
}

/// What is known of a name.
#[derive(Debug, Clone)]
enum Slot {
    /// An operation is under way.
    Busy,
    /// It is served.
    Served(Volume),
    /// It will be.
    Waiting(Waiting),
}

/// The daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Daemon {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    link: Link,
    budget: Budget,
    repositories: Repositories,
    turns: Turns,
    slots: Mutex<BTreeMap<SessionName, Slot>>,
    /// Sessions of an earlier daemon that are not served again yet. Locked before the slots where both are.
    left: Mutex<BTreeMap<SessionName, LeftSession>>,
    /// Of all mounts together.
    fuse: Arc<FuseMetrics>,
}

/// Between two looks at what nobody mounts.
const IDLE_LOOK: Duration = Duration::from_secs(60);

/// Lets go of repositories that nobody mounts any more, as long as there is a daemon.
async fn let_go_of_idle(daemon: Weak<Inner>) {
    loop {
        #[expect(clippy::disallowed_methods, reason = "a look every minute, at nothing that would tell")]
        tokio::time::sleep(IDLE_LOOK).await;
        let Some(daemon) = daemon.upgrade() else { return };
        let gone = daemon.repositories.let_go_of_idle(Instant::now());
        if gone > 0 {
            tracing::info!(gone, "repositories that nobody mounts are closed");
        }
    }
}

/// A line of [`Daemon::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The mount's name.
    pub name: SessionName,
    /// The repository's address.
    pub repository: String,
    /// The snapshot that is the root.
    pub snapshot: Option<String>,
    /// What is wrong.
    pub trouble: Option<String>,
}

impl Daemon {
    /// Starts to go on with whatever the keeper holds. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn start(options: Options, link: Link) -> Result<Self, DaemonError> {
        let budget = Budget::new(options.memory_bytes, Arc::default());
        let repositories = Repositories::new(options.open.clone(), budget.clone());
        let left = link.left();
        let (mut slots, mut sessions) = (BTreeMap::new(), BTreeMap::new());
        for session in &left {
            let (volumes, of_session) = waiting(&link, session);
            slots.extend(volumes.into_iter().map(|(name, waiting)| (name, Slot::Waiting(waiting))));
            sessions.insert(session.clone(), of_session);
        }
        let inner = Inner {
            options,
            link,
            budget,
            repositories,
            turns: Turns::default(),
            slots: Mutex::new(slots),
            left: Mutex::new(sessions),
            fuse: Arc::default(),
        };
        let daemon = Self { inner: Arc::new(inner) };
        // What it holds is left to this process; all else of ours is dead.
        daemon.inner.link.settled()?;
        for name in left {
            let daemon = daemon.clone();
            drop(tokio::spawn(async move { daemon.resume_until_served(name).await }));
        }
        drop(tokio::spawn(let_go_of_idle(Arc::downgrade(&daemon.inner))));
        Ok(daemon)
    }

    /// Mounts, unless the very same is mounted already. Returns the snapshot that is the root.
    ///
    /// # Errors
    /// `Exists`, `Busy`, or the mount cannot be made; then nothing is mounted.
    pub async fn mount(&self, spec: MountSpec) -> Result<Option<Pin>, DaemonError> {
        let name = spec.name.clone();
        {
            let mut slots = self.inner.slots.lock();
            match slots.get(&name) {
                None => drop(slots.insert(name.clone(), Slot::Busy)),
                Some(Slot::Served(volume)) if volume.tree.leaving.load(Relaxed) => return Err(DaemonError::Busy(name)),
                Some(Slot::Served(volume)) if *volume.spec == spec => return Ok(volume.tree.pin),
                Some(Slot::Served(_)) => return Err(DaemonError::Exists(name)),
                Some(Slot::Busy) => return Err(DaemonError::Busy(name)),
                Some(Slot::Waiting(Waiting { trouble, .. })) => {
                    return Err(DaemonError::Waiting { name, trouble: trouble.clone() });
                }
            }
        }
        let daemon = self.clone();
        self.to_the_end(name, async move {
            let spec = Arc::new(spec);
            let tree = match daemon.turn(&spec) {
                Some(turn) => daemon.share(&turn, &spec).await?,
                None => daemon.try_mount(&spec).await?,
            };
            Ok((tree.pin, Some(Slot::Served(Volume { spec, tree }))))
        })
        .await
    }

    /// Returns the turn of those who see the same, where a session may be shared.
    fn turn(&self, spec: &MountSpec) -> Option<Turn> {
        spec.may_be_shared().then(|| self.inner.turns.of(spec))
    }

    /// Mounts what is served already at one more place, or else mounts it.
    async fn share(&self, turn: &Turn, spec: &Arc<MountSpec>) -> Result<Arc<Tree>, DaemonError> {
        let mut now = turn.lock().await;
        if let Some(tree) = now.upgrade()
            && self.inner.link.binds()
        {
            let (link, own, spec) = (self.inner.link.clone(), Arc::clone(&tree), Arc::clone(spec));
            if blocking(move || own.add(&link, &spec)).await?? {
                return Ok(tree);
            }
        }
        let tree = self.try_mount(spec).await?;
        *now = Arc::downgrade(&tree);
        Ok(tree)
    }

    /// Unmounts; a name that has no mount is no error.
    ///
    /// # Errors
    /// `Busy`; the mount is in use and not to be detached.
    pub async fn unmount(&self, name: SessionName, lazy: bool) -> Result<(), DaemonError> {
        let before = {
            let left = self.inner.left.lock();
            let mut slots = self.inner.slots.lock();
            match slots.get(&name) {
                // Unless it belongs to a session of which that is not known.
                None => match left.values().find_map(|left| left.unread.clone()) {
                    Some(trouble) => return Err(DaemonError::Waiting { name, trouble }),
                    None => return Ok(()),
                },
                Some(Slot::Busy) => return Err(DaemonError::Busy(name)),
                Some(slot) => {
                    let before = slot.clone();
                    slots.insert(name.clone(), Slot::Busy);
                    before
                }
            }
        };
        let daemon = self.clone();
        self.to_the_end(name.clone(), async move {
            let unmounted = match before.clone() {
                Slot::Busy => Err(DaemonError::Busy(name)),
                Slot::Waiting(waiting) => daemon.unmount_waiting(&name, waiting, lazy).await.map(|()| Unmounted::Gone),
                Slot::Served(volume) => daemon.unmount_served(&volume, lazy).await,
            };
            Ok(match unmounted {
                Ok(Unmounted::Gone) => (Ok(()), None),
                Ok(Unmounted::InUse) => (Ok(()), Some(before)),
                Err(error) => (Err(error), Some(before)),
            })
        })
        .await?
    }

    /// Lists all mounts.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let listed = |(name, slot): (&SessionName, &Slot)| {
            let (repository, snapshot, trouble) = match slot {
                Slot::Busy => (String::new(), None, Some("an operation is under way".to_owned())),
                Slot::Waiting(waiting) => (String::new(), None, Some(waiting.trouble.clone())),
                Slot::Served(volume) => {
                    let snapshot = volume.tree.pin.map(|pin| pin.snapshot.to_string());
                    let leaving = volume.tree.leaving.load(Relaxed);
                    let trouble = leaving.then(|| "it was detached, and somebody has a file of it open".to_owned());
                    (volume.spec.repository.address.clone(), snapshot, trouble)
                }
            };
            Listed { name: name.clone(), repository, snapshot, trouble }
        };
        self.inner.slots.lock().iter().map(listed).collect()
    }

    /// Returns how many mounts show something of a repository.
    fn mounts_of(&self, entry: &Arc<Entry>) -> u32 {
        let shows = |slot: &&Slot| matches!(slot, Slot::Served(volume) if Arc::ptr_eq(&volume.tree.entry, entry));
        u32::try_from(self.inner.slots.lock().values().filter(shows).count()).unwrap_or(u32::MAX)
    }

    /// Returns what a served mount shows.
    fn vfs(&self, name: &SessionName) -> Result<Vfs, DaemonError> {
        match self.inner.slots.lock().get(name) {
            Some(Slot::Served(volume)) => Ok(volume.tree.vfs.clone()),
            Some(Slot::Busy) => Err(DaemonError::Busy(name.clone())),
            Some(Slot::Waiting(Waiting { trouble, .. })) => {
                Err(DaemonError::Waiting { name: name.clone(), trouble: trouble.clone() })
            }
            None => Err(DaemonError::NoMount(name.clone())),
        }
    }

    /// Reads a file, or all below a directory, into the caches; returns how many files and bytes.
    ///
    /// # Errors
    /// There is no such mount or path, or something cannot be read.
    pub async fn warm(&self, name: &SessionName, path: &str) -> Result<(u64, u64), DaemonError> {
        let tree = self.vfs(name)?;
        Ok(warm::warm(&tree, path.as_bytes()).await?)
    }

    /// Forgets what nobody mounts of the repositories with this address; returns how many.
    #[must_use]
    pub fn forget(&self, address: &str) -> u32 {
        self.inner.repositories.forget(address)
    }

    /// Returns where the figures of now come from. Repositories are named by their addresses, without what opens them.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let mut mounts = MountCounts::default();
        for slot in self.inner.slots.lock().values() {
            match slot {
                Slot::Served(_) => mounts.served += 1,
                Slot::Waiting(_) => mounts.waiting += 1,
                Slot::Busy => {}
            }
        }
        let fuse = Arc::clone(&self.inner.fuse);
        Sources { fuse, repositories: self.inner.repositories.figures(), mounts: Some(mounts) }
    }

    /// Returns the budget that all share.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.inner.budget
    }

    /// Runs an operation to its end, also when the caller is gone; it says what the name is then.
    async fn to_the_end<T: Send + 'static>(
        &self,
        name: SessionName,
        operation: impl Future<Output = Result<(T, Option<Slot>), DaemonError>> + Send + 'static,
    ) -> Result<T, DaemonError> {
        let (daemon, own) = (self.clone(), name.clone());
        let task = tokio::spawn(async move {
            let (result, slot) = match operation.await {
                Ok((value, slot)) => (Ok(value), slot),
                Err(error) => (Err(error), None),
            };
            daemon.set(&own, slot);
            result
        });
        match task.await {
            Ok(result) => result,
            Err(panic) => {
                self.set(&name, None);
                Err(DaemonError::Task(panic.to_string()))
            }
        }
    }

    fn set(&self, name: &SessionName, slot: Option<Slot>) {
        let mut slots = self.inner.slots.lock();
        match slot {
            // It may have ended meanwhile.
            Some(Slot::Served(volume)) if volume.tree.fuse.has_ended() => drop(slots.remove(name)),
            Some(slot) => drop(slots.insert(name.clone(), slot)),
            None => drop(slots.remove(name)),
        }
    }

    /// Lets go of a session, whose mounts have ended.
    async fn release(&self, tree: &Arc<Tree>) -> Result<(), DaemonError> {
        let (link, tree) = (self.inner.link.clone(), Arc::clone(tree));
        blocking(move || tree.release(&link)).await
    }

    /// Sees to a session's end, whoever brings that about.
    fn watch(&self, tree: Tree) -> Arc<Tree> {
        let tree = Arc::new(tree);
        let (daemon, watched) = (self.clone(), Arc::clone(&tree));
        drop(tokio::spawn(async move {
            let ended = watched.fuse.ended().await;
            tracing::info!(session = %watched.session, ?ended, "unmounted");
            let (link, own) = (daemon.inner.link.clone(), Arc::clone(&watched));
            drop(blocking(move || own.end(&link)).await);
            let shows = |slot: &Slot| matches!(slot, Slot::Served(volume) if Arc::ptr_eq(&volume.tree, &watched));
            daemon.inner.slots.lock().retain(|_, slot| !shows(slot));
        }));
        tree
    }

    fn session_options(&self, source: String) -> SessionOptions {
        SessionOptions {
            mount: MountOptions { source, allow_other: true, default_permissions: true },
            threads: 1,
            read_ahead_kib: READ_AHEAD_KIB,
            dispatch: DispatchOptions {
                // The layers below have the deadline too, and name the file.
                deadline: self.inner.options.deadline + Duration::from_secs(1),
                ..DispatchOptions::default()
            },
        }
    }

    fn vfs_options(&self, spec: &MountSpec) -> VfsOptions {
        VfsOptions {
            uid: spec.uid,
            gid: spec.gid,
            prefetch: true,
            // Whatever a backup holds of them, to overlayfs they are its own.
            hidden_xattrs: spec.scratch_bytes.map(|_| "trusted.overlay."),
            budget: Some(self.inner.budget.clone()),
            ..VfsOptions::default()
        }
    }

    /// What cannot be had is refused before the repository is opened for it.
    fn check_scratch(&self, spec: &MountSpec) -> Result<(), DaemonError> {
        match (spec.scratch_bytes, self.inner.link.scratch_limit_bytes()) {
            (None, _) => Ok(()),
            (Some(_), 0) => Err(DaemonError::NoScratch),
            (Some(asked), most) if asked > most => Err(DaemonError::Scratch { asked, most }),
            (Some(_), _) => Ok(()),
        }
    }

    async fn try_mount(&self, spec: &MountSpec) -> Result<Arc<Tree>, DaemonError> {
        self.check_scratch(spec)?;
        let entry = self.inner.repositories.entry(&spec.repository);
        let repository = self.inner.repositories.open(&entry, None).await?;
        let (table, file) = kept::new_table(kept::TABLE_LIMIT)?;
        let mounted = Mounted { name: String::new(), repository: repository.clone(), namespace: spec.namespace(None) };
        let vfs = Vfs::with_table(vec![mounted], self.vfs_options(spec), table).await?;
        vfs.getattr(Ino::ROOT).await?;
        let pin = vfs.pins().into_iter().next().flatten();
        let resume = Resume::new(spec.clone(), KeptRepository::new(repository.master_key(), pin));
        let options = self.session_options(repository.location().to_owned());
        let (link, tree, place) = (self.inner.link.clone(), vfs.clone(), spec.place.clone());
        let (name, scratch_bytes) = (spec.name.clone(), spec.scratch_bytes);
        let metrics = Arc::clone(&self.inner.fuse);
        let (session, fuse, resume) = blocking(move || {
            let session = session_of(&link, &name)?;
            let new = New { session: &session, place, scratch_bytes, table: file, resume: &resume };
            let fuse = new.serve(&link, tree, &options, metrics)?;
            Ok::<_, DaemonError>((session, fuse, resume))
        })
        .await??;
        tracing::info!(volume = %spec.name, repository = repository.location(), "mounted");
        let (resume, released, leaving) = (Mutex::new(resume), Mutex::default(), AtomicBool::new(false));
        Ok(self.watch(Tree { session, fuse, vfs, pin, resume, released, leaving, entry }))
    }
}

/// Returns a name for a session: that of its volume, unless another session has it that was shared, or detached in use. Blocks.
fn session_of(link: &Link, volume: &SessionName) -> Result<SessionName, DaemonError> {
    let others = ('0'..='9').filter_map(|digit| {
        let stem: String = volume.as_str().chars().take(62).collect();
        SessionName::new(&format!("{stem}.{digit}")).ok()
    });
    let mut names = std::iter::once(volume.clone()).chain(others);
    names.find(|name| !link.has(name)).ok_or_else(|| DaemonError::Exists(volume.clone()))
}

/// Runs what blocks where that is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DaemonError> {
    tokio::task::spawn_blocking(work).await.map_err(|panic| DaemonError::Task(panic.to_string()))
}
