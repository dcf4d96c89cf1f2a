//! Trees that are served, and the volumes that show them.
//!
//! Volumes that show the very same (snapshot, path, owners, credentials) are one session, mounted at several places: the kernel
//! holds its names and pages once, and what one pod has read the next one does not ask for.
//!
//! Invariants: what the keeper holds names a place before something is mounted there, and until nothing is; whoever adds or
//! removes a volume of a shared tree has its [`Turn`].

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use stash_vfs::{Pin, Vfs};

use super::repositories::Entry;
use super::spec::MountSpec;
use crate::fuse::FuseSession;
use crate::keeper::message::{MAX_PLACES, Refusal};
use crate::keeper::{Link, LinkError, Place, SessionName};
use crate::kept::{self, KeptError, KeptRepository};

/// Volumes by their names, and where each is.
pub(super) type Volumes = BTreeMap<SessionName, Place>;

/// What the next daemon is to know of a session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Resume {
    /// What its first volume was asked to be; the others are asked the same, but for their names and places.
    pub(super) spec: MountSpec,
    pub(super) repository: KeptRepository,
    /// What shows it. A daemon that knew of one volume a session did not say.
    #[serde(default)]
    volumes: Option<Volumes>,
}

impl Resume {
    /// What is to be known of a session with its first volume.
    pub(super) fn new(spec: MountSpec, repository: KeptRepository) -> Self {
        let volumes = Some([(spec.name.clone(), spec.place.clone())].into());
        Self { spec, repository, volumes }
    }

    /// Returns the volumes that show it.
    pub(super) fn volumes(&self) -> Volumes {
        let first = || [(self.spec.name.clone(), self.spec.place.clone())].into();
        self.volumes.clone().unwrap_or_else(first)
    }
}

/// A session that is served.
#[derive(Debug)]
pub(super) struct Tree {
    /// Its name at the keeper: mostly that of its first volume.
    pub(super) session: SessionName,
    pub(super) fuse: FuseSession,
    pub(super) vfs: Vfs,
    pub(super) pin: Option<Pin>,
    /// A leaf lock.
    pub(super) resume: Mutex<Resume>,
    /// It was let go of at the keeper: the name may be another one's since.
    pub(super) released: Mutex<bool>,
    /// An overlay that was detached in use: nothing is mounted in its place, which is not free before its last file is closed.
    pub(super) leaving: AtomicBool,
    /// Held here, the repository stays among those that are open.
    pub(super) entry: Arc<Entry>,
}

impl Tree {
    /// Shows it as one more volume; returns whether that can be: not where it is about to end, or at too many places. Blocks.
    ///
    /// # Errors
    /// The keeper refused, or there is none; then it shows what it did before.
    pub(super) fn add(&self, link: &Link, spec: &MountSpec) -> Result<bool, KeptError> {
        let before = self.resume.lock().volumes();
        let is_taken = before.values().any(|place| *place == spec.place);
        if self.fuse.has_ended() || before.is_empty() || before.len() >= MAX_PLACES || is_taken {
            return Ok(false);
        }
        let mut volumes = before.clone();
        volumes.insert(spec.name.clone(), spec.place.clone());
        let added = self.show(link, volumes).and_then(|()| Ok(link.bind(&self.session, &spec.place)?));
        let Err(error) = added else { return Ok(true) };
        if let Err(error) = self.show(link, before) {
            tracing::warn!(session = %self.session, %error, "the keeper holds a place at which nothing is mounted");
        }
        match error {
            KeptError::Keeper(LinkError::Refused { kind: Refusal::NotFound | Refusal::Full, .. }) => Ok(false),
            error => Err(error),
        }
    }

    /// Lets go of it, whose mounts have ended. Blocks.
    pub(super) fn release(&self, link: &Link) {
        self.release_after(link, || ());
    }

    /// The same, however it ended: the kernel may have cut the connection and left the mounts, which nobody can read any more. Blocks.
    pub(super) fn end(&self, link: &Link) {
        self.release_after(link, || {
            let volumes = self.resume.lock().volumes();
            for (name, place) in &volumes {
                match link.unmount(&self.session, Some(place), true) {
                    Ok(()) => tracing::warn!(volume = %name, "the kernel had ended its connection: it is detached"),
                    Err(LinkError::Refused { kind: Refusal::NotFound, .. }) => {}
                    Err(error) => tracing::error!(volume = %name, %error, "it has ended, and may still be mounted"),
                }
            }
        });
    }

    fn release_after(&self, link: &Link, before: impl FnOnce()) {
        // Locked over all of it: whoever comes second must not go on before it is done, or the dead session is taken for what is mounted next.
        let mut released = self.released.lock();
        if !*released {
            before();
            link.release(&self.session);
            *released = true;
        }
    }

    /// Returns the volumes that show it beside one.
    pub(super) fn others(&self, name: &SessionName) -> Volumes {
        let mut volumes = self.resume.lock().volumes();
        volumes.remove(name);
        volumes
    }

    /// Sees to it that it is mounted wherever it was to be when the last daemon ended, which may have been in the middle of something.
    /// Blocks.
    ///
    /// # Errors
    /// There is no keeper, or it does not hold it with what is left.
    pub(super) fn show_again(&self, link: &Link, volumes: Volumes) -> Result<(), KeptError> {
        let mut shown = Volumes::new();
        for (name, place) in volumes {
            match if link.binds() { link.bind(&self.session, &place) } else { Ok(()) } {
                Err(LinkError::Refused { kind: Refusal::NotFound, message }) => {
                    tracing::warn!(volume = %name, message, "it is not mounted again");
                    continue;
                }
                Err(LinkError::Refused { message, .. }) => {
                    tracing::error!(volume = %name, message, "it may not be mounted");
                }
                result => result?,
            }
            shown.insert(name, place);
        }
        if shown == self.resume.lock().volumes() { Ok(()) } else { self.show(link, shown) }
    }

    /// Has it be held with these volumes. Blocks.
    ///
    /// # Errors
    /// It is not held any more, or the keeper refused.
    pub(super) fn show(&self, link: &Link, volumes: Volumes) -> Result<(), KeptError> {
        let places: Vec<Place> = volumes.values().cloned().collect();
        let state = {
            let mut resume = self.resume.lock();
            resume.volumes = Some(volumes);
            kept::state(&self.fuse, &*resume)?
        };
        Ok(link.hold_at(&self.session, &places, state)?)
    }
}

/// The right to change which volumes show a tree, and the tree, if it is served.
pub(super) type Turn = Arc<tokio::sync::Mutex<Weak<Tree>>>;

/// One after another, those who want the same tree.
#[derive(Debug, Default)]
pub(super) struct Turns {
    all: Mutex<Vec<(MountSpec, Turn)>>,
}

impl Turns {
    /// Returns the turn of those who want to see the same.
    pub(super) fn of(&self, spec: &MountSpec) -> Turn {
        let mut all = self.all.lock();
        // Those that nobody holds, and whose tree has ended.
        all.retain(|(_, turn)| {
            Arc::strong_count(turn) > 1 || turn.try_lock().map_or(true, |tree| tree.strong_count() > 0)
        });
        if let Some((_, turn)) = all.iter().find(|(other, _)| other.shows_the_same(spec)) {
            return Arc::clone(turn);
        }
        let turn = Turn::default();
        all.push((spec.clone(), Arc::clone(&turn)));
        turn
    }
}
