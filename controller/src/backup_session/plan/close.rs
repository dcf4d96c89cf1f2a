//! The end of a session.

use std::time::Duration;

use stash_crds::backup_session::BackupSessionPhase;
use stash_crds::{conditions as aspects, reasons};

use super::{Action, Draft};
use crate::backup_session::{history, phase};
use crate::go_duration;

impl Draft<'_> {
    /// Closes a session of which nothing runs any more. The last condition is the one that Stash waits for: its figures are published.
    pub(super) fn close(&mut self) {
        for target in &mut self.plan.status.targets {
            target.phase = Some(phase::of_target(target));
        }
        // The phase that it will have counts for the history, so the last condition comes first.
        let message = "Successfully pushed metrics: the controller serves them at /metrics.";
        self.conditions().is(aspects::METRICS_PUSHED, reasons::SUCCESSFULLY_PUSHED_METRICS, message);
        let outcome = phase::of_session(&self.plan.status);
        self.clean_history(&outcome);
        // In the order in which it is done.
        let conditions = &mut self.plan.status.conditions;
        if let Some(place) = conditions.iter().position(|condition| condition.type_ == aspects::METRICS_PUSHED) {
            let pushed = conditions.remove(place);
            conditions.push(pushed);
        }
        let took = Duration::try_from(self.now.duration_since(self.created())).unwrap_or_default();
        self.plan.status.session_duration.get_or_insert_with(|| go_duration::format_rounded(took));
        self.plan.requeue = None;
    }

    pub(super) fn clean_history(&mut self, outcome: &BackupSessionPhase) {
        if let Some(invoker) = self.observed.invoker {
            let limit = invoker.spec.backup_history_limit.unwrap_or(1);
            let superfluous = history::superfluous(self.observed.session, outcome, &self.observed.siblings, limit);
            if !superfluous.is_empty() {
                self.plan.actions.push(Action::DeleteSessions(superfluous));
            }
        }
        let message = "Successfully cleaned up backup history according to backupHistoryLimit.";
        self.conditions().is(aspects::BACKUP_HISTORY_CLEANED, reasons::SUCCESSFULLY_CLEANED_BACKUP_HISTORY, message);
    }
}
