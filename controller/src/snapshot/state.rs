//! What the mirror remembers of each Repository: what was listed, and when. All of it is found again after a restart.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;
use stash_crds::Repository;
use stash_repo::SnapshotId;
use tokio::sync::Semaphore;

use super::due::{Last, Stamp};
use super::requests::Requests;
use crate::access;
use crate::repository::finding::Finding;
use crate::wake::Wakes;

/// How many repositories are listed at once.
const LISTED_AT_ONCE: usize = 8;
/// How many are tried again at once after a failure that nothing has changed of: they do not keep others waiting.
const RETRIED_AT_ONCE: usize = 4;
/// How many passwords are tried at once: each takes 32 MiB and more.
const OPENED_AT_ONCE: usize = 2;

/// What is remembered of a Repository.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The last list.
    pub last: Option<Last>,
    /// What it held, if it did not fail.
    pub listed: Option<Listed>,
    /// When the snapshots that were forgotten of late were deleted.
    pub accepted: Vec<Timestamp>,
    /// What was told last, so that it is told once.
    pub told: HashSet<String>,
    /// What came of opening it.
    pub found: Option<Found>,
    /// The pod that serves it, if it is a volume.
    pub access: Option<access::Run>,
    /// With which version of its Secret the last Job was made that removes it; within, none: there was no Secret.
    pub wiped_with: Option<Option<String>>,
}

/// What came of opening a repository.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it was opened for.
    pub stamp: Stamp,
    /// What came of it.
    pub finding: Finding,
}

/// A list of snapshots.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What it was made for.
    pub stamp: Stamp,
    /// What it held.
    pub ids: Arc<BTreeSet<SnapshotId>>,
}

/// What is remembered of all Repositories, and what they share.
#[derive(Debug)]
pub struct Mirrors {
    /// Which Repositories have to be looked at for their Snapshots.
    pub queue: Arc<Wakes<Repository>>,
    /// Which have to be looked at for themselves.
    pub repositories: Arc<Wakes<Repository>>,
    /// How many are listed at once.
    pub places: Semaphore,
    /// How many are tried again at once.
    pub retries: Semaphore,
    /// How many passwords are tried at once.
    pub opens: Semaphore,
    /// How many objects are written at once.
    pub requests: Requests,
    // Never held across an await.
    states: Mutex<HashMap<ObjectRef<Repository>, State>>,
    said: Mutex<HashMap<ObjectRef<Repository>, (Timestamp, bool)>>,
}

impl Mirrors {
    /// Remembers nothing yet. Findings wake `repositories`.
    pub fn new(queue: Arc<Wakes<Repository>>, repositories: Arc<Wakes<Repository>>) -> Self {
        Self {
            queue,
            repositories,
            places: Semaphore::new(LISTED_AT_ONCE),
            retries: Semaphore::new(RETRIED_AT_ONCE),
            opens: Semaphore::new(OPENED_AT_ONCE),
            requests: Requests::default(),
            states: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// Has a Repository looked at for its Snapshots.
    pub fn wake(&self, repository: ObjectRef<Repository>) {
        self.queue.wake(repository);
    }

    /// Returns what is remembered of a Repository.
    pub fn state(&self, repository: &ObjectRef<Repository>) -> State {
        self.states.lock().get(repository).cloned().unwrap_or_default()
    }

    /// Changes it.
    pub fn change<T>(&self, repository: &ObjectRef<Repository>, change: impl FnOnce(&mut State) -> T) -> T {
        change(self.states.lock().entry(repository.clone()).or_default())
    }

    /// Remembers that a pod serves a repository, unless `limit` have one already; returns whether it does. Those of Repositories that
    /// do not exist any more go with these.
    pub fn begin_access(
        &self,
        repository: &ObjectRef<Repository>,
        run: access::Run,
        limit: usize,
        exists: impl Fn(&ObjectRef<Repository>) -> bool,
    ) -> bool {
        let mut states = self.states.lock();
        for (other, state) in states.iter_mut().filter(|(_, state)| state.access.is_some()) {
            if !exists(other) {
                state.access = None;
            }
        }
        let others = states.iter().filter(|(other, state)| *other != repository && state.access.is_some()).count();
        if others >= limit {
            return false;
        }
        states.entry(repository.clone()).or_default().access = Some(run);
        true
    }

    /// Remembers what came of opening a repository, and has its Repository say so; returns whether it is news.
    pub fn note(&self, repository: &ObjectRef<Repository>, stamp: &Stamp, finding: Finding) -> bool {
        let is_news = self.change(repository, |state| {
            let same = |found: &Found| found.stamp.reaches_the_same(stamp) && found.finding.class == finding.class;
            if state.found.as_ref().is_some_and(same) {
                return false;
            }
            state.found = Some(Found { stamp: stamp.clone(), finding });
            true
        });
        if is_news {
            self.repositories.wake(repository.clone());
        }
        is_news
    }

    /// Drops what is remembered of a Repository that is gone.
    pub fn drop_state(&self, repository: &ObjectRef<Repository>) {
        self.states.lock().remove(repository);
    }

    /// Returns whether the API server said within `believed` that a Repository is gone.
    pub fn said_of(&self, repository: &ObjectRef<Repository>, now: Timestamp, believed: Duration) -> Option<bool> {
        let limit = SignedDuration::try_from(believed).unwrap_or_default();
        let said = self.said.lock().get(repository).copied();
        said.filter(|(at, _)| now.duration_since(*at).abs() <= limit).map(|(_, gone)| gone)
    }

    /// Remembers what it said. Of each Repository once, and no more than there are.
    pub fn keep_said_of(&self, repository: ObjectRef<Repository>, now: Timestamp, gone: bool) {
        let mut said = self.said.lock();
        said.retain(|_, (at, _)| now.duration_since(*at).abs() < SignedDuration::from_mins(1));
        said.insert(repository, (now, gone));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::StreamExt as _;

    use super::*;
    use crate::repository::finding::Class;

    #[test]
    fn test_no_more_pods_than_may_serve_repositories() {
        let mirrors = Mirrors::new(Arc::default(), Arc::default());
        let made = access::certificates::make(Timestamp::UNIX_EPOCH).unwrap();
        let begin = |name: &str| {
            let run = access::Run {
                job: format!("stash-access-{name}"),
                made: Timestamp::UNIX_EPOCH,
                identity: made.identity.clone(),
            };
            mirrors.begin_access(&ObjectRef::new(name).within("shop"), run, 2, |other| other.name != "gone")
        };
        assert_eq!(["a", "b", "a", "c"].map(begin), [true, true, true, false]);
        mirrors.change(&ObjectRef::new("a").within("shop"), |state| state.access = None);
        assert_eq!(["gone", "c", "b", "d"].map(begin), [true, true, true, false]);
    }

    #[test]
    fn test_only_news_wakes_the_repository() {
        let repositories = Arc::new(Wakes::default());
        let mirrors = Mirrors::new(Arc::default(), Arc::clone(&repositories));
        let mut woken = Box::pin(repositories.stream());
        let reference = ObjectRef::<Repository>::new("r").within("shop");
        let of = |class, words: &str| Finding { class, detail: words.to_owned() };
        let (first, changed) = (Stamp::default(), Stamp { secret: Some("2".to_owned()), ..Stamp::default() });
        for (stamp, finding, is_news) in [
            (&first, of(Class::Unreachable, "no answer"), true),
            (&first, of(Class::Unreachable, "connection refused"), false),
            (&first, of(Class::Denied, "status 403"), true),
            (&changed, of(Class::Denied, "status 403"), true),
            (&changed, of(Class::Denied, "status 403"), false),
            (&changed, Finding::opened(), true),
        ] {
            assert_eq!(mirrors.note(&reference, stamp, finding), is_news);
            assert_eq!(woken.next().now_or_never().is_some(), is_news);
        }
        assert_eq!(mirrors.state(&reference).found.unwrap().finding.class, Class::Opened);
    }
}
