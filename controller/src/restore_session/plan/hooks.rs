//! The hooks of a restore, by the same rules as those of a backup: a condition is `Unknown` before its hook is started, and says how it
//! ended after; what this process knows nothing of was started by one that was stopped, and is started again.

use std::time::Duration;

use stash_crds::conditions::{Condition, UNKNOWN};

use super::{Action, Draft};
use crate::backup_session::plan::HookRun;
use crate::conditions::{find, is_false};
use crate::hooks::runner::Progress;
use crate::hooks::summary::Summary;
use crate::hooks::{self, Point, STARTED, STARTED_AGAIN};
use crate::plan::until;

/// How long a hook that runs is left alone; its end wakes the session.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Draft<'_> {
    /// Sees to the hook before the restore. Returns whether that is over.
    ///
    /// That it succeeded is written down before a Job is made: else a restart would call it again beside the Job.
    pub(super) fn pre_hook(&mut self) -> bool {
        let was_open = self.said(Point::PreRestore).is_some_and(|said| said.status == UNKNOWN);
        self.hook(Point::PreRestore) && (!was_open || self.pre_hook_failed())
    }

    /// Sees to the hook after the restore. Returns whether that is over.
    pub(super) fn post_hook(&mut self) -> bool {
        self.hook(Point::PostRestore)
    }

    /// Whether the hook before the restore failed, so that nothing is restored.
    pub(super) fn pre_hook_failed(&self) -> bool {
        is_false(&self.plan.status.conditions, Point::PreRestore.aspect())
    }

    fn said(&self, point: Point) -> Option<&Condition> {
        find(&self.plan.status.conditions, point.aspect())
    }

    fn hook(&mut self, point: Point) -> bool {
        let wanted = point.restore_hook(self.observed.session).is_some();
        match self.said(point).map(|said| said.status == UNKNOWN) {
            Some(false) => true,
            Some(true) => self.follow(point),
            None if !wanted => true,
            None => match self.spared(point) {
                Some(why) => {
                    self.tell(point, true, format!("Skipped executing {} hook. Reason: {why}.", point.field()));
                    true
                }
                None => {
                    self.announce(point, STARTED);
                    false
                }
            },
        }
    }

    /// Returns why a hook is not called at all.
    fn spared(&self, point: Point) -> Option<String> {
        let session = self.observed.session;
        if point == Point::PreRestore {
            return None;
        }
        if Point::PreRestore.restore_hook(session).is_some() && self.said(Point::PreRestore).is_none() {
            return Some("the preRestore hook was not executed".to_owned());
        }
        let summary = Summary::of_restore(session, &self.plan.status, self.now);
        summary.spares_restore(&hooks::restore_policy(session))
    }

    /// Has a hook started once the status says that it may run.
    fn announce(&mut self, point: Point, reason: &str) {
        self.conditions().is_unknown(point.aspect(), reason, format!("Executing {} hook.", point.field()));
        self.plan.actions.push(Action::AnnounceHook(point));
    }

    /// Follows a hook of which the status says that it may run.
    fn follow(&mut self, point: Point) -> bool {
        let too_late = point == Point::PreRestore && self.is_late();
        match self.observed.hooks.of(point).clone() {
            Progress::Ended(outcome) => self.record(point, outcome),
            Progress::Running => {
                self.wait(LOOK_AGAIN);
                false
            }
            Progress::Announced if too_late => {
                self.record(point, Err("the time for the session was over before it began".to_owned()))
            }
            Progress::Announced => {
                self.run(point);
                false
            }
            Progress::Unknown if too_late => {
                let why = "the controller was stopped while it ran; how it ended is not known, and the time for the session is over";
                self.record(point, Err(why.to_owned()))
            }
            Progress::Unknown => {
                self.announce(point, STARTED_AGAIN);
                false
            }
        }
    }

    fn run(&mut self, point: Point) {
        let session = self.observed.session;
        // An annotation that cannot be read was refused before.
        let limit = hooks::time_limit(session).unwrap_or(hooks::TIMEOUT);
        let deadline = self.plan.status.session_deadline.as_ref().map(|time| until(time.0, self.now));
        let limit = match (point, deadline) {
            (Point::PreRestore, Some(deadline)) => limit.min(deadline),
            // What was stopped has to be started again, however late it is.
            _ => limit,
        };
        let summary = Summary::of_restore(session, &self.plan.status, self.now);
        self.plan.actions.push(Action::RunHook(Box::new(HookRun { point, summary, limit })));
        self.wait(LOOK_AGAIN);
    }

    fn record(&mut self, point: Point, outcome: hooks::perform::Outcome) -> bool {
        let again = self.said(point).is_some_and(|said| said.reason.as_deref() == Some(STARTED_AGAIN));
        let again = if again { " A controller that was stopped may have executed it before." } else { "" };
        let (well, message) = match outcome {
            Ok(place) => (true, format!("Successfully executed {} hook.{place}{again}", point.field())),
            Err(why) => (false, format!("Failed to execute {} hook. Reason: {why}.{again}", point.field())),
        };
        self.tell(point, well, message);
        true
    }

    fn tell(&mut self, point: Point, well: bool, message: String) {
        let (succeeded, failed) = point.reasons();
        let mut conditions = self.conditions();
        if well {
            conditions.is(point.aspect(), succeeded, message);
        } else {
            conditions.is_not(point.aspect(), failed, message);
        }
    }
}
