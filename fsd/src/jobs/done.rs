//! What a Job has done so far.

use parking_lot::Mutex;
use stash_proto::job::{BackupOutcome, MaintainOutcome, Outcome, RestoreOutcome};

/// The outcome while it comes about. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct Done(Mutex<Outcome>);

impl Done {
    /// Changes the outcome of a backup.
    pub(super) fn backup<T>(&self, change: impl FnOnce(&mut BackupOutcome) -> T) -> T {
        let mut outcome = self.0.lock();
        loop {
            match &mut *outcome {
                Outcome::Backup(backup) => return change(backup),
                other => *other = Outcome::Backup(BackupOutcome::default()),
            }
        }
    }

    /// Changes the outcome of maintenance.
    pub(super) fn maintain<T>(&self, change: impl FnOnce(&mut MaintainOutcome) -> T) -> T {
        let mut outcome = self.0.lock();
        loop {
            match &mut *outcome {
                Outcome::Maintain(maintain) => return change(maintain),
                other => *other = Outcome::Maintain(MaintainOutcome::default()),
            }
        }
    }

    /// Changes the outcome of a restore.
    pub(super) fn restore<T>(&self, change: impl FnOnce(&mut RestoreOutcome) -> T) -> T {
        let mut outcome = self.0.lock();
        loop {
            match &mut *outcome {
                Outcome::Restore(restore) => return change(restore),
                other => *other = Outcome::Restore(RestoreOutcome::default()),
            }
        }
    }

    /// Returns what was done.
    pub(super) fn take(&self) -> Outcome {
        std::mem::take(&mut self.0.lock())
    }
}
