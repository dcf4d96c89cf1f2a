//! Decides what becomes of the data of a Repository that is being deleted, and of the object. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use stash_crds::names::KEEP_DATA_ANNOTATION;

use crate::jobs::Progress;
use crate::plan::{Notice, until};

/// Reason of `DataWipedOut`: nothing was begun yet.
pub const WAITS: &str = "WipeOutWaits";
/// Reason of `DataWipedOut`: a Job is at work.
pub const AT_WORK: &str = "WipingOut";
/// Reason of `DataWipedOut`: a Job failed, and there will be another.
pub const FAILED: &str = "WipeOutFailed";
/// Reason of the event: the data stays, and the object goes.
pub const KEPT: &str = "DataKept";
/// Reason of the event: the data is gone, and the object goes.
pub const DONE: &str = "DataWipedOut";

/// How long after a deletion it is waited for what may be deleted with it: the Namespace, the definition.
const SETTLE: SignedDuration = SignedDuration::from_secs(3);
/// The shortest and the longest pause after a Job that failed. It is half of the time for which it has been tried.
const RETRY: (SignedDuration, SignedDuration) = (SignedDuration::from_secs(30), SignedDuration::from_mins(30));
/// How long a Job may wait for its Secret, which is made right after it.
const SECRET_LIMIT: SignedDuration = SignedDuration::from_secs(30);
/// How long a Job may wait for a node: others that look after the repository wait for it.
const BEGIN_LIMIT: SignedDuration = SignedDuration::from_mins(15);
/// How long a Job may take. The next goes on where it was.
const JOB_LIMIT: SignedDuration = SignedDuration::from_hours(24);
/// How often it is looked whether what is waited for has come, where nothing tells.
const LOOK: Duration = Duration::from_secs(10);

/// Why the data stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// `wipeOut` is not set, or cannot be.
    NotAsked,
    /// The annotation says so.
    Annotated,
    /// Another Repository, `namespace/name`, has the same.
    Shared(String),
}

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Since when the object is being deleted.
    pub since: Timestamp,
    /// Why the data stays, if it does.
    pub keep: Option<Keep>,
    /// Whether the Namespace is being deleted, as far as has been seen.
    pub namespace_dies: bool,
    /// Whether the Namespace and the definition live, as the API server says it now; `None`: it was not asked.
    pub lives: Option<bool>,
    /// The Job that wipes, unless there is none.
    pub job: Option<Progress>,
    /// Whether the Secret was changed since that Job was made.
    pub secret_changed: bool,
    /// Whether another Job looks after the repository.
    pub is_busy: bool,
}

/// What is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether the object is let go.
    pub release: bool,
    /// Whether the API server has to be asked what lives, before anything is decided.
    pub ask: bool,
    /// Whether a Job is made.
    pub wipe: bool,
    /// Whether the Job is deleted.
    pub drop_job: bool,
    /// The reason and the message of the condition, if it is said anew.
    pub say: Option<(&'static str, String)>,
    /// What is told when the object is let go.
    pub notice: Option<Notice>,
    /// When to look again.
    pub requeue: Option<Duration>,
}

/// How the user ends it, whatever is in the way.
pub(super) fn way_out() -> String {
    format!(
        "To keep the data and let this object go, take spec.wipeOut back or set annotation {KEEP_DATA_ANNOTATION} to \"true\""
    )
}

/// Decides it.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let kept = |why: String| Plan {
        release: true,
        notice: Some(Notice::normal(KEPT, format!("{why}: the data stays in the backend"))),
        ..Plan::default()
    };
    match &observed.keep {
        Some(Keep::NotAsked) => return Plan { release: true, ..Plan::default() },
        Some(Keep::Annotated) => return kept(format!("Annotation {KEEP_DATA_ANNOTATION} says so")),
        // A Job that is at work is not stopped for it: what it began is no repository any more.
        Some(Keep::Shared(other)) if observed.job.is_none() => {
            return kept(format!("It is also that of Repository {other}"));
        }
        Some(Keep::Shared(_)) | None => {}
    }
    if observed.namespace_dies || observed.lives == Some(false) {
        return kept("The Namespace or the definition of Repository is being deleted with this object".to_owned());
    }
    match &observed.job {
        None => {}
        Some(Progress::AtWork { made, has_secret, has_begun }) => {
            let age = now.duration_since(*made);
            let is_late = age > JOB_LIMIT || (!has_begun && age > BEGIN_LIMIT);
            let drop_job = is_late || (!has_secret && age > SECRET_LIMIT);
            let say = if is_late {
                (FAILED, "The Job took too long, or no node took it; another one is made.".to_owned())
            } else {
                (AT_WORK, "A Job removes the repository from the backend.".to_owned())
            };
            let requeue = Some(if drop_job { Duration::from_secs(1) } else { LOOK });
            return Plan { drop_job, say: Some(say), requeue, ..Plan::default() };
        }
        Some(Progress::Done { failed: None, .. }) => {
            let notice = Notice::normal(DONE, "The repository was removed from the backend");
            return Plan { release: true, drop_job: true, notice: Some(notice), ..Plan::default() };
        }
        Some(Progress::Done { at, failed: Some(why) }) => {
            let pause = (at.duration_since(observed.since) / 2).clamp(RETRY.0, RETRY.1);
            let again = at.saturating_add(pause).unwrap_or(now);
            let drop_job = observed.secret_changed || again <= now;
            let say = (FAILED, format!("{why}. It is tried again. {}.", way_out()));
            let requeue = Some(if drop_job { Duration::from_secs(1) } else { until(again, now).min(LOOK * 6) });
            return Plan { drop_job, say: Some(say), requeue, ..Plan::default() };
        }
    }
    let settled = observed.since.saturating_add(SETTLE).unwrap_or(now);
    if now < settled {
        return Plan { requeue: Some(until(settled, now)), ..Plan::default() };
    }
    if observed.is_busy {
        let say = (WAITS, "Another Job looks after the repository; it is waited for.".to_owned());
        return Plan { say: Some(say), requeue: Some(LOOK), ..Plan::default() };
    }
    if observed.lives.is_none() {
        return Plan { ask: true, ..Plan::default() };
    }
    let say = (AT_WORK, "A Job removes the repository from the backend.".to_owned());
    Plan { wipe: true, say: Some(say), requeue: Some(LOOK), ..Plan::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn observed(change: impl FnOnce(&mut Observed)) -> Observed {
        let mut observed = Observed {
            since: at(0),
            keep: None,
            namespace_dies: false,
            lives: Some(true),
            job: None,
            secret_changed: false,
            is_busy: false,
        };
        change(&mut observed);
        observed
    }

    fn at_work(made: i64, has_secret: bool, has_begun: bool) -> Option<Progress> {
        Some(Progress::AtWork { made: at(made), has_secret, has_begun })
    }

    fn done(second: i64, failed: Option<&str>) -> Option<Progress> {
        Some(Progress::Done { at: at(second), failed: failed.map(str::to_owned) })
    }

    /// What is done, in a word, and the reason that is said or told.
    fn outcome(plan: &Plan) -> (&'static str, Option<&str>) {
        let reason = plan.say.as_ref().map(|(reason, _)| *reason);
        let reason = reason.or_else(|| plan.notice.as_ref().map(|notice| notice.reason.as_str()));
        let what = match (plan.release, plan.ask, plan.wipe, plan.drop_job) {
            (true, false, false, _) => "release",
            (false, true, false, false) => "ask",
            (false, false, true, false) => "wipe",
            (false, false, false, true) => "drop",
            (false, false, false, false) => "wait",
            _ => "confused",
        };
        (what, reason)
    }

    #[test]
    fn test_what_becomes_of_the_data() {
        type Change = fn(&mut Observed);
        let table: [(&str, i64, Change, &str, Option<&str>); 23] = [
            ("just deleted", 1, |_| {}, "wait", None),
            ("not asked yet", 3, |o| o.lives = None, "ask", None),
            ("all lives", 3, |_| {}, "wipe", Some(AT_WORK)),
            ("not wanted", 0, |o| o.keep = Some(Keep::NotAsked), "release", None),
            ("annotated", 0, |o| o.keep = Some(Keep::Annotated), "release", Some(KEPT)),
            (
                "annotated later",
                99,
                |o| (o.keep, o.job) = (Some(Keep::Annotated), done(50, Some("x"))),
                "release",
                Some(KEPT),
            ),
            (
                "annotated at work",
                9,
                |o| (o.keep, o.job) = (Some(Keep::Annotated), at_work(5, true, true)),
                "release",
                Some(KEPT),
            ),
            ("shared", 9, |o| o.keep = Some(Keep::Shared("shop/other".to_owned())), "release", Some(KEPT)),
            (
                "shared since the Job was made",
                9,
                |o| (o.keep, o.job) = (Some(Keep::Shared("shop/other".to_owned())), at_work(5, true, true)),
                "wait",
                Some(AT_WORK),
            ),
            ("the Namespace goes", 0, |o| (o.namespace_dies, o.lives) = (true, None), "release", Some(KEPT)),
            (
                "the Namespace goes meanwhile",
                9,
                |o| (o.namespace_dies, o.job) = (true, at_work(5, true, true)),
                "release",
                Some(KEPT),
            ),
            ("the definition goes", 9, |o| o.lives = Some(false), "release", Some(KEPT)),
            ("busy", 9, |o| o.is_busy = true, "wait", Some(WAITS)),
            ("at work", 9, |o| o.job = at_work(5, true, true), "wait", Some(AT_WORK)),
            ("its Secret is on its way", 9, |o| o.job = at_work(5, false, false), "wait", Some(AT_WORK)),
            ("its Secret never came", 40, |o| o.job = at_work(5, false, false), "drop", Some(AT_WORK)),
            ("no node took it", 1000, |o| o.job = at_work(5, true, false), "drop", Some(FAILED)),
            ("it takes long", 80_000, |o| o.job = at_work(5, true, true), "wait", Some(AT_WORK)),
            ("it takes too long", 90_000, |o| o.job = at_work(5, true, true), "drop", Some(FAILED)),
            ("done", 9, |o| o.job = done(8, None), "release", Some(DONE)),
            ("failed", 9, |o| o.job = done(8, Some("x")), "wait", Some(FAILED)),
            (
                "failed, and the Secret was changed",
                9,
                |o| (o.job, o.secret_changed) = (done(8, Some("x")), true),
                "drop",
                Some(FAILED),
            ),
            ("failed a while ago", 38, |o| o.job = done(8, Some("x")), "drop", Some(FAILED)),
        ];
        for (what, now, change, expected, reason) in table {
            let plan = plan(&observed(change), at(now));
            assert_eq!(outcome(&plan), (expected, reason), "{what}: {plan:?}");
            // Whoever waits is looked at again by itself.
            assert_eq!(plan.requeue.is_some(), !plan.release && !plan.ask, "{what}");
        }
    }

    #[test]
    fn test_pauses_grow_with_the_time_that_it_is_tried() {
        for (failed, pause) in [(10, 30), (60, 30), (600, 300), (3600, 1800), (90_000, 1800)] {
            let observed = observed(|observed| observed.job = done(failed, Some("no answer")));
            let before = plan(&observed, at(failed + pause - 1));
            assert!(!before.drop_job && before.requeue == Some(Duration::from_secs(1)), "{failed}: {before:?}");
            assert!(plan(&observed, at(failed + pause)).drop_job, "{failed}");
        }
    }

    #[test]
    fn test_whoever_waits_is_told_the_way_out() {
        let failed = plan(&observed(|observed| observed.job = done(8, Some("no answer"))), at(9));
        let (_, message) = failed.say.unwrap();
        assert!(message.contains("no answer") && message.contains(KEEP_DATA_ANNOTATION), "{message}");
        assert!(message.contains("spec.wipeOut"), "{message}");
    }
}
