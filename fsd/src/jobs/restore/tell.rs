//! What is told of a restore: counts and names for the report, progress for the log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stash_proto::job::{Progress, RestoreOutcome};

use crate::cli::Interrupt;
use crate::cli::output::show_name;
use crate::restore::{Action, Observer};

/// How many names the report tries to hold, and how many lines the log.
const KEPT_NAMES: usize = 8;
const LOGGED_NAMES: u64 = 1000;
/// How often the log says how far it is.
const EVERY: Duration = Duration::from_secs(30);

/// Counts of all snapshots together.
#[derive(Debug)]
pub(super) struct Tell {
    interrupt: Interrupt,
    started: Instant,
    restored: AtomicU64,
    unchanged: AtomicU64,
    deleted: AtomicU64,
    restored_bytes: AtomicU64,
    unchanged_bytes: AtomicU64,
    failed: AtomicU64,
    total_bytes: AtomicU64,
    done_bytes: AtomicU64,
    /// Leaf locks.
    names: Mutex<Vec<String>>,
    place: Mutex<String>,
    said: Mutex<Instant>,
}

impl Tell {
    pub(super) fn new(interrupt: Interrupt) -> Self {
        Self {
            interrupt,
            started: Instant::now(),
            restored: AtomicU64::default(),
            unchanged: AtomicU64::default(),
            deleted: AtomicU64::default(),
            restored_bytes: AtomicU64::default(),
            unchanged_bytes: AtomicU64::default(),
            failed: AtomicU64::default(),
            total_bytes: AtomicU64::default(),
            done_bytes: AtomicU64::default(),
            names: Mutex::default(),
            place: Mutex::default(),
            said: Mutex::new(Instant::now()),
        }
    }

    /// Says which directory paths are counted from now on.
    pub(super) fn enter(&self, directory: &str) {
        directory.clone_into(&mut self.place.lock());
    }

    /// Adds it all to a report.
    pub(super) fn add_to(&self, outcome: &mut RestoreOutcome) {
        outcome.restored = self.restored.load(Relaxed);
        outcome.unchanged = self.unchanged.load(Relaxed);
        outcome.deleted = self.deleted.load(Relaxed);
        outcome.restored_bytes = self.restored_bytes.load(Relaxed);
        outcome.unchanged_bytes = self.unchanged_bytes.load(Relaxed);
        outcome.failed.count = self.failed.load(Relaxed);
        outcome.failed.names.clone_from(&self.names.lock());
        tracing::info!(
            restored = outcome.restored,
            unchanged = outcome.unchanged,
            failed = outcome.failed.count,
            bytes = outcome.restored_bytes,
            seconds = self.started.elapsed().as_secs(),
            "restored"
        );
    }

    /// Says how far it is.
    pub(super) fn how_far(&self) -> Progress {
        let (bytes, of_bytes) = (self.done_bytes.load(Relaxed), self.total_bytes.load(Relaxed));
        Progress {
            entries: self.restored.load(Relaxed) + self.unchanged.load(Relaxed),
            bytes,
            of_bytes,
            seconds_left: seconds_left(self.started.elapsed(), bytes, of_bytes),
        }
    }

    fn progress(&self) {
        let due = self.said.try_lock().is_some_and(|mut said| {
            let due = said.elapsed() >= EVERY;
            if due {
                *said = Instant::now();
            }
            due
        });
        if !due {
            return;
        }
        let Progress { entries, bytes, of_bytes, seconds_left } = self.how_far();
        tracing::info!(files = entries, bytes, of_bytes, seconds_left, "progress");
    }
}

/// How long the rest will take if it goes on so; nothing while that is not known.
fn seconds_left(elapsed: Duration, done: u64, total: u64) -> Option<u64> {
    let rest = u128::from(total.checked_sub(done)?);
    let seconds = rest.saturating_mul(u128::from(elapsed.as_secs())).checked_div(u128::from(done))?;
    u64::try_from(seconds).ok()
}

impl Observer for Tell {
    fn done(&self, action: Action, _: &[u8], bytes: u64) {
        match action {
            Action::Restored | Action::Updated => {
                self.restored.fetch_add(1, Relaxed);
                self.restored_bytes.fetch_add(bytes, Relaxed);
            }
            Action::Unchanged | Action::Kept => {
                self.unchanged.fetch_add(1, Relaxed);
                self.unchanged_bytes.fetch_add(bytes, Relaxed);
                self.done_bytes.fetch_add(bytes, Relaxed);
            }
            Action::Deleted => {
                self.deleted.fetch_add(1, Relaxed);
            }
        }
        self.progress();
    }

    fn failed(&self, path: &[u8], error: &str) {
        let text = format!("{}{}: {error}", self.place.lock(), show_name(path));
        if self.failed.fetch_add(1, Relaxed) < LOGGED_NAMES {
            tracing::warn!("not restored: {text}");
        }
        let mut names = self.names.lock();
        if names.len() < KEPT_NAMES {
            names.push(text);
        }
    }

    fn note(&self, text: &str) {
        tracing::warn!("{text}");
    }

    fn wants_total(&self) -> bool {
        true
    }

    fn found(&self, _: u64, bytes: u64) {
        self.total_bytes.fetch_add(bytes, Relaxed);
    }

    fn wrote(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Relaxed);
        self.progress();
    }

    fn stop(&self) -> bool {
        self.interrupt.is_set()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_names_are_those_of_the_target_and_bounded() {
        let tell = Tell::new(Interrupt::default());
        tell.enter("/data");
        for n in 0..20 {
            tell.failed(format!("/file-{n}").as_bytes(), "denied");
        }
        tell.done(Action::Restored, b"/a", 5);
        tell.done(Action::Kept, b"/b", 7);
        let mut outcome = RestoreOutcome::default();
        tell.add_to(&mut outcome);
        assert_eq!((outcome.failed.count, outcome.failed.names.len()), (20, 8));
        assert_eq!(outcome.failed.names[0], "/data/file-0: denied");
        assert_eq!((outcome.restored, outcome.restored_bytes, outcome.unchanged_bytes), (1, 5, 7));
    }

    #[test]
    fn test_the_rest_is_guessed_from_what_was_done() {
        let left = |done, total| seconds_left(Duration::from_secs(60), done, total);
        assert_eq!((left(25, 100), left(0, 100), left(100, 100), left(101, 100)), (Some(180), None, Some(0), None));
    }
}
