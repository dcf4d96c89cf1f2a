//! The hooks that run: a task each, and what is known of it.
//!
//! A hook is announced before its condition is written and started after, so that the status of a session always says that it may run.
//! What is known is in memory only: after a restart nothing is, and that says that a hook was started by another process.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Point;
use super::perform::Outcome;

/// How far a hook is, as far as this process knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// This process knows nothing of it.
    #[default]
    Unknown,
    /// It is about to be started: its condition may not be written yet.
    Announced,
    /// It runs.
    Running,
    /// It ended.
    Ended(Outcome),
}

/// The hooks that run.
#[derive(Clone, Debug, Default)]
pub struct Runner {
    // Never held across an await.
    hooks: Arc<Mutex<HashMap<Key, Progress>>>,
}

/// A session's uid, and which of its hooks.
type Key = (String, Point);

impl Runner {
    /// Returns how far a hook of the session with `uid` is.
    pub fn progress(&self, uid: &str, point: Point) -> Progress {
        self.hooks.lock().get(&(uid.to_owned(), point)).cloned().unwrap_or_default()
    }

    /// Remembers that a hook will be started. What is known of it already stays.
    pub fn announce(&self, uid: &str, point: Point) {
        self.hooks.lock().entry((uid.to_owned(), point)).or_insert(Progress::Announced);
    }

    /// Starts a hook, unless it was started before; `wake` is called when it ended, so that its session is looked at.
    pub fn start(
        &self,
        uid: &str,
        point: Point,
        call: impl Future<Output = Outcome> + Send + 'static,
        wake: impl FnOnce() + Send + 'static,
    ) {
        let key = (uid.to_owned(), point);
        match self.hooks.lock().entry(key.clone()).or_default() {
            Progress::Running | Progress::Ended(_) => return,
            progress => *progress = Progress::Running,
        }
        let hooks = Arc::clone(&self.hooks);
        let task = tokio::spawn(call);
        tokio::spawn(async move {
            let broke = |_| Err("its task broke off; how it ended is not known".to_owned());
            let outcome = task.await.unwrap_or_else(broke);
            // A session that is gone was forgotten.
            if let Some(progress) = hooks.lock().get_mut(&key) {
                *progress = Progress::Ended(outcome);
            }
            wake();
        });
    }

    /// Forgets the hooks of a session that is done.
    pub fn forget(&self, uid: &str) {
        self.hooks.lock().retain(|(other, _), _| other != uid);
    }

    /// Forgets the hooks of sessions that are no more.
    pub fn keep(&self, lives: impl Fn(&str) -> bool) {
        self.hooks.lock().retain(|(uid, _), _| lives(uid));
    }

    /// Returns how many hooks run.
    pub fn running(&self) -> usize {
        self.hooks.lock().values().filter(|progress| **progress == Progress::Running).count()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn test_a_hook_runs_once_and_wakes_its_session() {
        let runner = Runner::default();
        let progress = || runner.progress("uid", Point::PreBackup);
        assert_eq!(progress(), Progress::Unknown);
        runner.announce("uid", Point::PreBackup);
        assert_eq!(progress(), Progress::Announced);
        let (finish, finished) = oneshot::channel::<Outcome>();
        let (wake, woken) = oneshot::channel();
        runner.start("uid", Point::PreBackup, async { finished.await.unwrap() }, || wake.send(()).unwrap());
        runner.announce("uid", Point::PreBackup);
        runner.start("uid", Point::PreBackup, async { panic!("it was started before") }, || {});
        assert_eq!((progress(), runner.running()), (Progress::Running, 1));
        finish.send(Err("it failed".to_owned())).unwrap();
        woken.await.unwrap();
        assert_eq!(progress(), Progress::Ended(Err("it failed".to_owned())));
        assert_eq!(runner.progress("uid", Point::PostBackup), Progress::Unknown);
        runner.forget("uid");
        assert_eq!(progress(), Progress::Unknown);
    }

    #[tokio::test]
    async fn test_a_hook_that_breaks_has_ended() {
        let runner = Runner::default();
        let (wake, woken) = oneshot::channel();
        runner.start("uid", Point::PostBackup, async { panic!("on purpose") }, || wake.send(()).unwrap());
        woken.await.unwrap();
        assert!(matches!(runner.progress("uid", Point::PostBackup), Progress::Ended(Err(_))));
        runner.keep(|uid| uid != "uid");
        assert_eq!(runner.progress("uid", Point::PostBackup), Progress::Unknown);
    }
}
