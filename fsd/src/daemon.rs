//! The node daemon (`stash-fs serve`): many mounts of many repositories, under one budget of memory, behind a keeper.
//!
//! * [`spec`]: what a mount is asked to be, checked.
//! * [`repositories`]: opened repositories, shared by their mounts.
//! * [`warm`]: reads ahead of those who will read.
//! * [`rpc`]: the calls of the control API, and the one table from an error to a gRPC code.
//!
//! Invariants: a mount's name has one operation at a time; an operation that was begun is ended, also when its caller is gone;
//! this process never unmounts because it ends. It has no right to mount: the keeper does that.

mod repositories;
pub mod rpc;
pub mod spec;
mod warm;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use stash_repo::RepoError;
use stash_repo::budget::Budget;
use stash_vfs::{Ino, Mounted, NamespaceOptions, Pin, Vfs, VfsError, VfsOptions};

use crate::fuse::mount::MountOptions;
use crate::fuse::{DispatchOptions, FuseMetrics, FuseSession, Recovery, SessionOptions};
use crate::keeper::message::Refusal;
use crate::keeper::{Link, LinkError, SessionName};
use crate::kept::{self, KeptError, KeptRepository, Left, New};
use crate::telemetry::{MountCounts, Sources};
pub use repositories::OpenOptions;
use repositories::{Entry, Repositories};
use spec::{MountSpec, SpecError};

/// How far the kernel reads ahead of a sequential reader, as in `mount`.
const READ_AHEAD_KIB: u32 = 4096;

/// How long an unmounted session may take to end; one that is detached takes as long as its last open file.
const END_LIMIT: Duration = Duration::from_secs(5);

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

/// What the next daemon is to know of a mount.
#[derive(Debug, Serialize, Deserialize)]
struct Resume {
    spec: MountSpec,
    repository: KeptRepository,
}

/// A mount that is served.
#[derive(Debug)]
struct Volume {
    spec: MountSpec,
    /// Holds the repository among those that are open.
    _entry: Arc<Entry>,
    vfs: Vfs,
    session: FuseSession,
    pin: Option<Pin>,
}

/// What is known of a name.
#[derive(Debug, Clone)]
enum Slot {
    /// An operation is under way.
    Busy,
    /// It is served.
    Served(Arc<Volume>),
    /// An earlier daemon's, that cannot be served yet.
    Waiting(String),
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
    slots: Mutex<BTreeMap<SessionName, Slot>>,
    /// Of all mounts together.
    fuse: Arc<FuseMetrics>,
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
        let slots = left.iter().map(|name| (name.clone(), Slot::Waiting("not yet".to_owned()))).collect();
        let (slots, fuse) = (Mutex::new(slots), Arc::default());
        let daemon = Self { inner: Arc::new(Inner { options, link, budget, repositories, slots, fuse }) };
        // What it holds is left to this process; all else of ours is dead.
        daemon.inner.link.settled()?;
        for name in left {
            let daemon = daemon.clone();
            drop(tokio::spawn(async move { daemon.resume_until_served(name).await }));
        }
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
                Some(Slot::Served(volume)) if volume.spec == spec => return Ok(volume.pin),
                Some(Slot::Served(_)) => return Err(DaemonError::Exists(name)),
                Some(Slot::Busy) => return Err(DaemonError::Busy(name)),
                Some(Slot::Waiting(trouble)) => {
                    return Err(DaemonError::Waiting { name, trouble: trouble.clone() });
                }
            }
        }
        let daemon = self.clone();
        self.to_the_end(name, async move {
            let volume = daemon.try_mount(spec).await?;
            Ok((volume.pin, daemon.admit(volume)))
        })
        .await
    }

    /// Unmounts; a name that has no mount is no error.
    ///
    /// # Errors
    /// `Busy`; the mount is in use and not to be detached.
    pub async fn unmount(&self, name: SessionName, lazy: bool) -> Result<(), DaemonError> {
        let before = {
            let mut slots = self.inner.slots.lock();
            match slots.get(&name) {
                None => return Ok(()),
                Some(Slot::Busy) => return Err(DaemonError::Busy(name)),
                Some(slot) => {
                    let before = slot.clone();
                    slots.insert(name.clone(), Slot::Busy);
                    before
                }
            }
        };
        let daemon = self.clone();
        let session = name.clone();
        self.to_the_end(name, async move {
            let link = daemon.inner.link.clone();
            let asked = session.clone();
            let unmounted = blocking(move || link.unmount(&asked, lazy)).await?;
            match unmounted {
                Ok(()) | Err(LinkError::Refused { kind: Refusal::NotFound, .. }) => {}
                Err(error) => return Ok((Err(error.into()), Some(before))),
            }
            if let Slot::Served(volume) = before
                && !volume.session.ended_within(END_LIMIT).await
            {
                // Detached and in use: it is served until its last file is closed, and held until then.
                return Ok((Ok(()), Some(Slot::Served(volume))));
            }
            let link = daemon.inner.link.clone();
            blocking(move || link.release(&session)).await?;
            Ok((Ok(()), None))
        })
        .await?
    }

    /// Lists all mounts.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let listed = |(name, slot): (&SessionName, &Slot)| {
            let (repository, snapshot, trouble) = match slot {
                Slot::Busy => (String::new(), None, Some("an operation is under way".to_owned())),
                Slot::Waiting(trouble) => (String::new(), None, Some(trouble.clone())),
                Slot::Served(volume) => {
                    let snapshot = volume.pin.map(|pin| pin.snapshot.to_string());
                    (volume.spec.repository.address.clone(), snapshot, None)
                }
            };
            Listed { name: name.clone(), repository, snapshot, trouble }
        };
        self.inner.slots.lock().iter().map(listed).collect()
    }

    /// Returns a served mount's tree.
    fn tree(&self, name: &SessionName) -> Result<Vfs, DaemonError> {
        match self.inner.slots.lock().get(name) {
            Some(Slot::Served(volume)) => Ok(volume.vfs.clone()),
            Some(Slot::Busy) => Err(DaemonError::Busy(name.clone())),
            Some(Slot::Waiting(trouble)) => Err(DaemonError::Waiting { name: name.clone(), trouble: trouble.clone() }),
            None => Err(DaemonError::NoMount(name.clone())),
        }
    }

    /// Reads a file, or all below a directory, into the caches; returns how many files and bytes.
    ///
    /// # Errors
    /// There is no such mount or path, or something cannot be read.
    pub async fn warm(&self, name: &SessionName, path: &str) -> Result<(u64, u64), DaemonError> {
        let tree = self.tree(name)?;
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
            Some(Slot::Served(volume)) if volume.session.has_ended() => drop(slots.remove(name)),
            Some(slot) => drop(slots.insert(name.clone(), slot)),
            None => drop(slots.remove(name)),
        }
    }

    /// Makes a served mount known, and sees to its end, whoever brings that about.
    fn admit(&self, volume: Volume) -> Option<Slot> {
        let volume = Arc::new(volume);
        let (daemon, watched) = (self.clone(), Arc::clone(&volume));
        drop(tokio::spawn(async move {
            let ended = watched.session.ended().await;
            let name = watched.spec.name.clone();
            tracing::info!(volume = %name, ?ended, "unmounted");
            let link = daemon.inner.link.clone();
            let released = name.clone();
            drop(blocking(move || link.release(&released)).await);
            let mut slots = daemon.inner.slots.lock();
            if matches!(slots.get(&name), Some(Slot::Served(now)) if Arc::ptr_eq(now, &watched)) {
                slots.remove(&name);
            }
        }));
        Some(Slot::Served(volume))
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

    async fn try_mount(&self, spec: MountSpec) -> Result<Volume, DaemonError> {
        self.check_scratch(&spec)?;
        let entry = self.inner.repositories.entry(&spec.repository);
        let repository = self.inner.repositories.open(&entry, None).await?;
        let (table, file) = kept::new_table(kept::TABLE_LIMIT)?;
        let mounted = Mounted { name: String::new(), repository: repository.clone(), namespace: spec.namespace(None) };
        let vfs = Vfs::with_table(vec![mounted], self.vfs_options(&spec), table).await?;
        vfs.getattr(Ino::ROOT).await?;
        let pin = vfs.pins().into_iter().next().flatten();
        let resume = Resume { spec: spec.clone(), repository: KeptRepository::new(repository.master_key(), pin) };
        let options = self.session_options(repository.location().to_owned());
        let (link, tree, place) = (self.inner.link.clone(), vfs.clone(), spec.place.clone());
        let (name, scratch_bytes) = (spec.name.clone(), spec.scratch_bytes);
        let fuse = Arc::clone(&self.inner.fuse);
        let session = blocking(move || {
            let new = New { session: &name, place, scratch_bytes, table: file, resume: &resume };
            new.serve(&link, tree, &options, fuse)
        })
        .await??;
        tracing::info!(volume = %spec.name, repository = repository.location(), "mounted");
        Ok(Volume { spec, _entry: entry, vfs, session, pin })
    }

    /// Goes on with an earlier daemon's mount, as often as it takes; the keeper gives it up when the pause is too long.
    async fn resume_until_served(&self, name: SessionName) {
        let mut pause = Duration::from_millis(200);
        loop {
            {
                let mut slots = self.inner.slots.lock();
                match slots.get(&name) {
                    Some(Slot::Waiting(_)) => drop(slots.insert(name.clone(), Slot::Busy)),
                    // It was unmounted meanwhile.
                    _ => return,
                }
            }
            match self.try_resume(&name).await {
                Ok(volume) => {
                    let slot = self.admit(volume);
                    return self.set(&name, slot);
                }
                Err(DaemonError::Kept(KeptError::Keeper(LinkError::Refused { kind: Refusal::NotFound, .. }))) => {
                    tracing::error!(volume = %name, "the keeper has given the mount up");
                    return self.set(&name, None);
                }
                Err(error) => {
                    tracing::error!(volume = %name, %error, "cannot go on with the mount of an earlier daemon yet");
                    self.set(&name, Some(Slot::Waiting(error.to_string())));
                }
            }
            #[expect(clippy::disallowed_methods, reason = "a retry's backoff")]
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    async fn try_resume(&self, name: &SessionName) -> Result<Volume, DaemonError> {
        let (link, own) = (self.inner.link.clone(), name.clone());
        let (left, table) = blocking(move || {
            let mut left = Left::<Resume>::take(&link, &own)?;
            let (table, _) = left.table(kept::TABLE_LIMIT)?;
            Ok::<_, KeptError>((left, table))
        })
        .await??;
        let Resume { spec, repository: known } = &left.resume;
        let spec = spec.clone();
        let entry = self.inner.repositories.entry(&spec.repository);
        let repository = self.inner.repositories.open(&entry, Some(known)).await?;
        let namespace: NamespaceOptions = spec.namespace(known.pin());
        let mounted = Mounted { name: String::new(), repository: repository.clone(), namespace };
        let vfs = Vfs::with_table(vec![mounted], self.vfs_options(&spec), table).await?;
        let pin = vfs.pins().into_iter().next().flatten();
        let options = self.session_options(repository.location().to_owned());
        let (link, tree, recovery) = (self.inner.link.clone(), vfs.clone(), self.inner.options.recovery);
        let fuse = Arc::clone(&self.inner.fuse);
        let session = blocking(move || left.serve(&link, tree, recovery, &options, fuse)).await??;
        tracing::info!(volume = %name, repository = repository.location(), "going on with the mount of a daemon that ended");
        Ok(Volume { spec, _entry: entry, vfs, session, pin })
    }
}

/// Runs what blocks where that is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DaemonError> {
    tokio::task::spawn_blocking(work).await.map_err(|panic| DaemonError::Task(panic.to_string()))
}
