//! Going on with what an earlier daemon served: its sessions wait at the keeper, and their volumes here until they are served again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use stash_vfs::{Mounted, NamespaceOptions, Vfs};

use super::spec::MountSpec;
use super::tree::{Resume, Tree, Volumes};
use super::{Daemon, DaemonError, Slot, Volume, blocking};
use crate::keeper::message::Refusal;
use crate::keeper::{Link, LinkError, Place, SessionName};
use crate::kept::{self, KeptError, Left};

/// A volume of an earlier daemon, that cannot be served yet.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) session: SessionName,
    /// Where, if what that daemon left can be read.
    pub(super) place: Option<Place>,
    pub(super) trouble: String,
}

/// A session of an earlier daemon that is not served again yet.
#[derive(Debug, Default)]
pub(super) struct LeftSession {
    /// What of it is still mounted; nothing of one that was detached in use.
    pub(super) mounted: BTreeSet<SessionName>,
    /// Why it is not known which volumes show it. Then one stands for all, with the session's name.
    pub(super) unread: Option<String>,
}

/// The volumes of a session that wait.
enum Taken {
    /// All of them, and where they are as far as that is known.
    All(BTreeMap<SessionName, Option<Place>>),
    /// None, since one is being unmounted.
    Later,
    /// The last one was unmounted, and nobody goes on with it.
    Gone,
}

/// Between two attempts to have a session held as it is.
const PAUSE: Duration = Duration::from_secs(1);

impl Daemon {
    /// Goes on with what an earlier daemon served, as often as it takes; the keeper gives it up when the pause is too long.
    pub(super) async fn resume_until_served(&self, session: SessionName) {
        let mut pause = Duration::from_millis(200);
        loop {
            match self.take_waiting(&session) {
                Taken::Gone => return,
                Taken::Later => {}
                Taken::All(volumes) => match self.try_resume(&session, &volumes).await {
                    Ok(tree) => return self.served_again(&tree, volumes),
                    Err(DaemonError::Kept(KeptError::Keeper(LinkError::Refused {
                        kind: Refusal::NotFound, ..
                    }))) => {
                        self.inner.left.lock().remove(&session);
                        tracing::error!(%session, "the keeper has given the mount up");
                        return volumes.keys().for_each(|name| self.set(name, None));
                    }
                    Err(error) => {
                        tracing::error!(%session, %error, "cannot go on with the mount of an earlier daemon yet");
                        for (name, place) in volumes {
                            let (session, trouble) = (session.clone(), error.to_string());
                            self.set(&name, Some(Slot::Waiting(Waiting { session, place, trouble })));
                        }
                    }
                },
            }
            #[expect(clippy::disallowed_methods, reason = "a retry's backoff")]
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    /// Begins an operation on all volumes of a session that wait.
    fn take_waiting(&self, session: &SessionName) -> Taken {
        let left = self.inner.left.lock();
        let Some(LeftSession { mounted, .. }) = left.get(session) else { return Taken::Gone };
        let mut slots = self.inner.slots.lock();
        let waits = |name| matches!(slots.get(name), Some(Slot::Waiting(waiting)) if waiting.session == *session);
        if !mounted.iter().all(waits) {
            return Taken::Later;
        }
        let mut taken = BTreeMap::new();
        for name in mounted {
            if let Some(Slot::Waiting(waiting)) = slots.insert(name.clone(), Slot::Busy) {
                taken.insert(name.clone(), waiting.place);
            }
        }
        Taken::All(taken)
    }

    /// Makes the volumes of a session known that is served again.
    fn served_again(&self, tree: &Arc<Tree>, waited: BTreeMap<SessionName, Option<Place>>) {
        let (spec, shown) = {
            let resume = tree.resume.lock();
            (resume.spec.clone(), resume.volumes())
        };
        self.inner.left.lock().remove(&tree.session);
        for name in waited.into_keys().filter(|name| !shown.contains_key(name)) {
            self.set(&name, None);
        }
        for (name, place) in shown {
            let spec = Arc::new(MountSpec { name: name.clone(), place, ..spec.clone() });
            self.set(&name, Some(Slot::Served(Volume { spec, tree: Arc::clone(tree) })));
        }
    }

    async fn try_resume(
        &self,
        session: &SessionName,
        waiting: &BTreeMap<SessionName, Option<Place>>,
    ) -> Result<Arc<Tree>, DaemonError> {
        let (link, own) = (self.inner.link.clone(), session.clone());
        let (resume, left, table) = blocking(move || {
            let (resume, mut left) = Left::take::<Resume>(&link, &own)?;
            let (table, _) = left.table(kept::TABLE_LIMIT)?;
            Ok::<_, KeptError>((resume, left, table))
        })
        .await??;
        let spec = &resume.spec;
        let entry = self.inner.repositories.entry(&spec.repository);
        let repository = self.inner.repositories.open(&entry, Some(&resume.repository)).await?;
        let namespace: NamespaceOptions = spec.namespace(resume.repository.pin());
        let mounted = Mounted { name: String::new(), repository: repository.clone(), namespace };
        let vfs = Vfs::with_table(vec![mounted], self.vfs_options(spec), table).await?;
        let pin = vfs.pins().into_iter().next().flatten();
        let mut volumes = resume.volumes();
        // Where it could not be read before, it is now.
        volumes.retain(|name, _| waiting.contains_key(name) || waiting.values().any(Option::is_none));
        let volumes = mounted_of(volumes, &self.inner.link, left.places());
        let options = self.session_options(repository.location().to_owned());
        let (link, served, recovery) = (self.inner.link.clone(), vfs.clone(), self.inner.options.recovery);
        let metrics = Arc::clone(&self.inner.fuse);
        let (fuse, leaving) = blocking(move || left.serve(&link, served, recovery, &options, metrics)).await??;
        // From here on it is served: nothing may fail that would have it be taken once more.
        tracing::info!(%session, repository = repository.location(), "going on with the mount of a daemon that ended");
        let spec = spec.clone();
        let resume = Mutex::new(resume);
        let (session, released, leaving) = (session.clone(), Mutex::default(), AtomicBool::new(leaving));
        let tree = self.watch(Tree { session, fuse, vfs, pin, resume, released, leaving, entry });
        if let Some(turn) = self.turn(&spec) {
            let mut now = turn.lock().await;
            self.show_again(&tree, &volumes).await;
            if !volumes.is_empty() {
                *now = Arc::downgrade(&tree);
            }
        }
        Ok(tree)
    }

    /// Has a session be mounted where it was to be, as often as it takes.
    async fn show_again(&self, tree: &Arc<Tree>, volumes: &Volumes) {
        while !tree.fuse.has_ended() {
            let (link, own, volumes) = (self.inner.link.clone(), Arc::clone(tree), volumes.clone());
            let shown = blocking(move || own.show_again(&link, volumes)).await;
            match shown.and_then(|shown| Ok(shown?)) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(session = %tree.session, %error, "it may not be mounted at all its places");
                }
            }
            #[expect(clippy::disallowed_methods, reason = "a retry's backoff")]
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Returns those volumes that were not unmounted since it was written which there are: the keeper knows.
fn mounted_of<'a>(mut volumes: Volumes, link: &Link, places: impl Iterator<Item = &'a Place>) -> Volumes {
    let places: Vec<&Place> = places.collect();
    volumes.retain(|_, place| !link.binds() || places.contains(&&*place));
    volumes
}

/// Returns the volumes of a session that an earlier daemon left.
pub(super) fn waiting(link: &Link, session: &SessionName) -> (BTreeMap<SessionName, Waiting>, LeftSession) {
    let slot = |place, trouble| Waiting { session: session.clone(), place, trouble };
    let (volumes, unread): (BTreeMap<SessionName, Waiting>, _) = match Left::take::<Resume>(link, session) {
        Ok((resume, left)) => {
            let volumes = mounted_of(resume.volumes(), link, left.places());
            let waits = |(name, place)| (name, slot(Some(place), "not yet".to_owned()));
            (volumes.into_iter().map(waits).collect(), None)
        }
        // It is tried again, and what is wrong is shown until then.
        Err(error) => ([(session.clone(), slot(None, error.to_string()))].into(), Some(error.to_string())),
    };
    let mounted = volumes.keys().cloned().collect();
    (volumes, LeftSession { mounted, unread })
}
