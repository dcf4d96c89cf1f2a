//! The hooks of a session.
//!
//! A hook's condition is `Unknown` before it is started, and says how it ended after. What this process knows of it comes from memory
//! ([`Progress`]); what it knows nothing of was started by one that was stopped, and is started again.

use std::time::Duration;

use stash_crds::conditions::{Condition, UNKNOWN};

use super::{Action, Draft, HookRun};
use crate::backup_session::outcome::backed_up;
use crate::conditions::{find, is_false};
use crate::hooks::runner::Progress;
use crate::hooks::summary::Summary;
use crate::hooks::{self, Point, STARTED, STARTED_AGAIN};
use crate::plan::until;

/// How long a hook that runs is left alone; its end wakes the session.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Draft<'_> {
    /// Sees to the hook before the backup. Returns whether that is over.
    ///
    /// That it succeeded is written down before a Job is made: else a restart would call it again beside the Job.
    pub(super) fn pre_hook(&mut self) -> bool {
        let was_open = self.said(Point::PreBackup).is_some_and(|said| said.status == UNKNOWN);
        self.hook(Point::PreBackup) && (!was_open || self.pre_hook_failed())
    }

    /// Sees to the hook after the backup. Returns whether that is over.
    pub(super) fn post_hook(&mut self) -> bool {
        self.hook(Point::PostBackup)
    }

    /// Whether the hook before the backup failed, so that there is no backup.
    pub(super) fn pre_hook_failed(&self) -> bool {
        let mut targets = self.plan.status.targets.iter();
        targets.any(|target| is_false(&target.conditions, Point::PreBackup.aspect()))
    }

    /// Whether the hook after the backup acts on the target's pods: then it must not wait for the repository to be looked after.
    pub(super) fn post_hook_acts_on_pods(&self) -> bool {
        let hook = self.observed.invoker.and_then(|invoker| Point::PostBackup.hook(invoker));
        hook.is_some_and(hooks::call::acts_on_pods)
    }

    /// Whether the data of all hosts is stored.
    pub(super) fn is_backed_up(&self) -> bool {
        self.plan.status.targets.iter().all(backed_up)
    }

    fn said(&self, point: Point) -> Option<&Condition> {
        self.plan.status.targets.first().and_then(|target| find(&target.conditions, point.aspect()))
    }

    fn hook(&mut self, point: Point) -> bool {
        let wanted = self.observed.invoker.is_some_and(|invoker| point.hook(invoker).is_some());
        match self.said(point).map(|said| said.status == UNKNOWN) {
            Some(false) => true,
            Some(true) => self.follow(point, wanted),
            None if !wanted => true,
            None => match self.spared(point) {
                Some(why) => {
                    let message = format!("Skipped executing {} hook. Reason: {why}.", point.field());
                    self.say(point, true, message);
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
        let invoker = self.observed.invoker?;
        if point == Point::PreBackup {
            return None;
        }
        let has_pre_hook = Point::PreBackup.hook(invoker).is_some();
        if has_pre_hook && self.said(Point::PreBackup).is_none() {
            return Some("the preBackup hook was not executed".to_owned());
        }
        Summary::of(self.observed.session, &self.plan.status, self.now).spares(&hooks::policy(invoker))
    }

    /// Has a hook started once the status says that it may run.
    fn announce(&mut self, point: Point, reason: &str) {
        if let Some(mut conditions) = self.target_conditions() {
            conditions.is_unknown(point.aspect(), reason, format!("Executing {} hook.", point.field()));
        }
        self.plan.actions.push(Action::AnnounceHook(point));
    }

    /// Follows a hook of which the status says that it may run.
    fn follow(&mut self, point: Point, wanted: bool) -> bool {
        let too_late = point == Point::PreBackup && self.is_late();
        match self.observed.hooks.of(point).clone() {
            Progress::Ended(outcome) => self.record_hook(point, outcome),
            Progress::Running => {
                self.wait(LOOK_AGAIN);
                false
            }
            Progress::Announced if too_late => {
                self.record_hook(point, Err("the time for the session was over before it began".to_owned()))
            }
            Progress::Announced if wanted => {
                self.run(point);
                false
            }
            Progress::Unknown if wanted && !too_late => {
                self.announce(point, STARTED_AGAIN);
                false
            }
            Progress::Announced => self.record_hook(point, Err("it was taken out of the configuration".to_owned())),
            Progress::Unknown => {
                let then = if too_late { "the time for the session is over" } else { "the configuration lacks it now" };
                let why = format!("the controller was stopped while it ran; how it ended is not known, and {then}");
                self.record_hook(point, Err(why))
            }
        }
    }

    fn run(&mut self, point: Point) {
        let invoker = self.observed.invoker;
        // An annotation that cannot be read is said by the configuration.
        let limit = invoker.and_then(|invoker| hooks::time_limit(invoker).ok()).unwrap_or(hooks::TIMEOUT);
        let deadline = self.plan.status.session_deadline.as_ref().map(|time| until(time.0, self.now));
        let limit = match (point, deadline) {
            (Point::PreBackup, Some(deadline)) => limit.min(deadline),
            // What was stopped has to be started again, however late it is.
            _ => limit,
        };
        let summary = Summary::of(self.observed.session, &self.plan.status, self.now);
        self.plan.actions.push(Action::RunHook(Box::new(HookRun { point, summary, limit })));
        self.wait(LOOK_AGAIN);
    }

    fn record_hook(&mut self, point: Point, outcome: hooks::perform::Outcome) -> bool {
        let again = self.said(point).is_some_and(|said| said.reason.as_deref() == Some(STARTED_AGAIN));
        let again = if again { " A controller that was stopped may have executed it before." } else { "" };
        let (well, message) = match outcome {
            Ok(place) => (true, format!("Successfully executed {} hook.{place}{again}", point.field())),
            Err(why) => (false, format!("Failed to execute {} hook. Reason: {why}.{again}", point.field())),
        };
        self.say(point, well, message);
        true
    }

    fn say(&mut self, point: Point, well: bool, message: String) {
        let (succeeded, failed) = point.reasons();
        if let Some(mut conditions) = self.target_conditions() {
            if well {
                conditions.is(point.aspect(), succeeded, message);
            } else {
                conditions.is_not(point.aspect(), failed, message);
            }
        }
    }
}
