//! Decides what becomes of objects that somebody deletes: whether their snapshots are forgotten, now or later. Pure.
//!
//! A deletion erases only where all of this holds: the Namespace, the definition of the kind and the Repository live; the repository's
//! own list names the snapshot; it was not the mirror that deleted; and there are few deletions, or somebody confirmed them. Whatever
//! else deletes objects (a namespace that goes, a chart, a mistake in a selector) erases nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use stash_crds::names::CONFIRM_FORGET_ANNOTATION;
use stash_proto::job::FORGET_LIMIT;
use stash_repo::SnapshotId;

use crate::plan::{Notice, until};

/// How many deletions within [`WINDOW`] are carried out without a confirmation.
pub const FREE: usize = 20;
/// Within what time deletions count together.
pub const WINDOW: SignedDuration = SignedDuration::from_secs(60);
/// How long after a deletion it is waited for others, and for what may be deleted with it.
const SETTLE: SignedDuration = SignedDuration::from_secs(3);
/// How long others that come are waited for at most.
const SETTLE_LIMIT: SignedDuration = SignedDuration::from_secs(30);
/// How long after a Job that failed the next one is made.
const RETRY: SignedDuration = SignedDuration::from_mins(5);
/// How long a Job may wait for its Secret, which is made right after it.
const SECRET_LIMIT: SignedDuration = SignedDuration::from_secs(30);
/// How long a Job may wait for a node: others that look after the repository wait for it.
const BEGIN_LIMIT: SignedDuration = SignedDuration::from_mins(15);
/// How long a Job may take: it waits for locks, and removes data that is not needed any more.
const JOB_LIMIT: SignedDuration = SignedDuration::from_hours(6);
/// How often it is looked whether what is waited for has come, where nothing tells.
const LOOK: Duration = Duration::from_secs(10);
/// The same where a person is waited for.
const LOOK_SELDOM: Duration = Duration::from_secs(60);

/// An object that somebody deletes; it has our finalizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Its name.
    pub name: String,
    /// The snapshot that it says it is of.
    pub id: Option<SnapshotId>,
    /// Since when it is being deleted.
    pub since: Timestamp,
}

/// What is known of the Job that forgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// There is none.
    Absent,
    /// It is not done.
    AtWork {
        /// When it was made.
        made: Timestamp,
        /// Whether it has what it is told.
        has_secret: bool,
        /// Whether its pod runs.
        has_begun: bool,
    },
    /// It is done.
    Done {
        /// When.
        at: Timestamp,
        /// Why it failed, if it did.
        failed: Option<String>,
        /// Whether the repository was listed since.
        is_listed: bool,
    },
}

/// What a user says of many deletions, by the Repository's annotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirmation {
    /// Nothing.
    #[default]
    Absent,
    /// They are meant: `true`.
    Yes,
    /// They are not: `false`.
    No,
}

impl Confirmation {
    /// Reads the annotation.
    pub fn of(value: Option<&str>) -> Self {
        match value {
            Some("true") => Self::Yes,
            Some("false") => Self::No,
            _ => Self::Absent,
        }
    }
}

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The objects that somebody deletes.
    pub deleted: &'a [Deleted],
    /// Whether the Namespace, the kind's definition and the Repository live, as the API server says it now; `None`: it was not asked.
    pub lives: Option<bool>,
    /// The list of the repository as it is reached now; `None`: there is none yet.
    pub listed: Option<&'a BTreeSet<SnapshotId>>,
    /// When the snapshots that were forgotten of late had been deleted.
    pub accepted: &'a [Timestamp],
    /// What the user says.
    pub confirmation: Confirmation,
    /// The Job that forgets.
    pub job: Job,
    /// Whether another Job looks after the repository.
    pub is_busy: bool,
}

/// What is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Objects that are let go, by name.
    pub release: Vec<String>,
    /// Snapshots that a Job is made for.
    pub forget: Vec<Deleted>,
    /// Whether the API server has to be asked what lives, before anything is decided.
    pub ask: bool,
    /// Whether the Job is deleted.
    pub drop_job: bool,
    /// Whether the confirmation was for these deletions, and is taken back.
    pub confirmation_is_used: bool,
    /// What is told of the Repository.
    pub notice: Option<Notice>,
    /// When to look again.
    pub requeue: Option<Duration>,
}

/// Decides it.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let all = || observed.deleted.iter().map(|deleted| deleted.name.clone()).collect();
    if observed.lives == Some(false) {
        return Plan { release: all(), ..plan };
    }
    let Some(listed) = observed.listed else {
        // What cannot be listed is not forgotten, and not let go either: the user may want it forgotten.
        plan.requeue = (!observed.deleted.is_empty()).then_some(LOOK_SELDOM);
        return plan;
    };
    let (pending, gone): (Vec<_>, Vec<_>) =
        observed.deleted.iter().cloned().partition(|deleted| deleted.id.is_some_and(|id| listed.contains(&id)));
    plan.release = gone.into_iter().map(|deleted| deleted.name).collect();
    match &observed.job {
        Job::Absent => {}
        Job::AtWork { made, has_secret, has_begun } => {
            let age = now.duration_since(*made);
            let is_late = age > JOB_LIMIT || (!has_begun && age > BEGIN_LIMIT);
            plan.drop_job = is_late || (!has_secret && age > SECRET_LIMIT);
            if is_late {
                let text = "The Job that forgets took too long, or no node took it; another one is made.";
                plan.notice = Some(Notice::warning("ForgetFailed", text));
            }
            plan.requeue = Some(if plan.drop_job { Duration::from_secs(1) } else { LOOK });
            return plan;
        }
        // Which are gone is seen in the list.
        Job::Done { is_listed: false, .. } => return Plan { requeue: Some(LOOK), ..Plan::default() },
        Job::Done { at, failed: Some(why), .. } if !pending.is_empty() => {
            let names = names(&pending);
            plan.notice = Some(Notice::warning("ForgetFailed", format!("{names} could not be forgotten: {why}")));
            let again = at.saturating_add(RETRY).unwrap_or(now);
            plan.drop_job = again <= now;
            plan.requeue = Some(if plan.drop_job { Duration::from_secs(1) } else { until(again, now) });
            return plan;
        }
        Job::Done { .. } => {
            plan.drop_job = true;
            plan.requeue = (!pending.is_empty()).then_some(Duration::from_secs(1));
            return plan;
        }
    }
    let times = || pending.iter().map(|deleted| deleted.since);
    let (Some(oldest), Some(newest)) = (times().min(), times().max()) else { return plan };
    let settled = newest.saturating_add(SETTLE).unwrap_or(now);
    let waited = oldest.saturating_add(SETTLE_LIMIT).unwrap_or(now);
    if now < settled.min(waited) {
        plan.requeue = Some(until(settled.min(waited), now));
        return plan;
    }
    if observed.lives.is_none() {
        return Plan { ask: true, ..plan };
    }
    let is_many = most_within_window(times().chain(observed.accepted.iter().copied())) > FREE;
    match observed.confirmation {
        _ if !is_many => {}
        Confirmation::Yes => plan.confirmation_is_used = pending.len() <= FORGET_LIMIT,
        Confirmation::No => {
            plan.release = all();
            plan.confirmation_is_used = true;
            let text =
                format!("{} stay in the repository: annotation {CONFIRM_FORGET_ANNOTATION} said so", names(&pending));
            plan.notice = Some(Notice::normal("ForgetDeclined", text));
            return plan;
        }
        Confirmation::Absent => {
            let text = format!(
                "{} Snapshots were deleted, more than {FREE} within a minute: nothing is forgotten until annotation \
                 {CONFIRM_FORGET_ANNOTATION} of this Repository is \"true\"; \"false\" gives the objects back",
                pending.len()
            );
            plan.notice = Some(Notice::warning("ForgetWaits", text));
            plan.requeue = Some(LOOK_SELDOM);
            return plan;
        }
    }
    if observed.is_busy {
        plan.confirmation_is_used = false;
        plan.requeue = Some(LOOK);
        return plan;
    }
    plan.forget = pending;
    plan.forget.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
    plan.forget.truncate(FORGET_LIMIT);
    plan.requeue = Some(LOOK);
    plan
}

fn names(deleted: &[Deleted]) -> String {
    match deleted {
        [one] => format!("Snapshot {}", one.name),
        many => format!("{} Snapshots", many.len()),
    }
}

/// Returns how many of `times` lie within one window at most.
fn most_within_window(times: impl Iterator<Item = Timestamp>) -> usize {
    let mut times: Vec<Timestamp> = times.collect();
    times.sort_unstable();
    let mut first = 0;
    let mut most = 0;
    for (index, time) in times.iter().enumerate() {
        while time.duration_since(times[first]) >= WINDOW {
            first += 1;
        }
        most = most.max(index + 1 - first);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn id(number: usize) -> SnapshotId {
        format!("{number:064x}").parse().unwrap()
    }

    fn deleted(numbers: impl IntoIterator<Item = usize>, since: i64) -> Vec<Deleted> {
        numbers.into_iter().map(|n| Deleted { name: format!("r-{n}"), id: Some(id(n)), since: at(since) }).collect()
    }

    /// What a plan comes to, in a word.
    fn word(plan: &Plan) -> &'static str {
        let done = (!plan.release.is_empty(), !plan.forget.is_empty(), plan.drop_job, plan.ask);
        match done {
            (false, true, false, false) => "forget",
            (true, false, false, false) => "release",
            (true, true, false, false) => "release and forget",
            (false, false, true, false) => "drop job",
            (true, false, true, false) => "release and drop job",
            (false, false, false, true) => "ask",
            (false, false, false, false) if plan.requeue.is_some() => "wait",
            (false, false, false, false) => "nothing",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn test_a_deletion_erases_only_where_everything_holds() {
        let (one, many) = (deleted([1], 0), deleted(1..=21, 0));
        let twenty = deleted(1..=20, 0);
        let listed: BTreeSet<_> = (1..=30).map(id).collect();
        let other: BTreeSet<_> = [id(99)].into();
        let (unnamed, half) = (vec![Deleted { id: None, ..one[0].clone() }], deleted([1, 99], 0));
        let (fresh, trickle) = (deleted([1], 98), [deleted([1], 50), deleted([2], 99)].concat());
        let still = [deleted([1], 60), deleted([2], 99)].concat();
        let spread: Vec<_> = (0..30).flat_map(|n| deleted([n + 1], -300 + 10 * i64::try_from(n).unwrap())).collect();
        let accepted = vec![at(-30); 20];
        let long_ago = vec![at(-61); 20];
        let base = Observed {
            deleted: &one,
            lives: Some(true),
            listed: Some(&listed),
            accepted: &[],
            confirmation: Confirmation::Absent,
            job: Job::Absent,
            is_busy: false,
        };
        let at_work = |made, has_secret, has_begun| Job::AtWork { made: at(made), has_secret, has_begun };
        let done = |second, failed: bool, is_listed| Job::Done {
            at: at(second),
            failed: failed.then(|| "locked".to_owned()),
            is_listed,
        };
        let job = |job| Observed { job, ..base.clone() };
        let with = |deleted, confirmation| Observed { deleted, confirmation, ..base.clone() };
        let table = [
            ("all holds", base.clone(), "forget"),
            ("nobody was asked yet", Observed { lives: None, ..base.clone() }, "ask"),
            ("the namespace, kind or Repository goes", Observed { lives: Some(false), ..base.clone() }, "release"),
            (
                "... whatever else",
                Observed { lives: Some(false), listed: None, ..with(&many, Confirmation::Yes) },
                "release",
            ),
            ("the repository cannot be listed", Observed { listed: None, ..base.clone() }, "wait"),
            ("the snapshot is gone already", Observed { listed: Some(&other), ..base.clone() }, "release"),
            ("... of one of two", Observed { deleted: &half, ..base.clone() }, "release and forget"),
            ("it does not say which it is", Observed { deleted: &unnamed, ..base.clone() }, "release"),
            ("nothing is deleted", Observed { deleted: &[], ..base.clone() }, "nothing"),
            ("just now", Observed { deleted: &fresh, ..base.clone() }, "wait"),
            ("another one just now", Observed { deleted: &still, ..base.clone() }, "forget"),
            ("others go on coming", Observed { deleted: &trickle, ..base.clone() }, "forget"),
            ("twenty within a minute", with(&twenty, Confirmation::Absent), "forget"),
            ("more within a minute", with(&many, Confirmation::Absent), "wait"),
            ("... confirmed", with(&many, Confirmation::Yes), "forget"),
            ("... declined", with(&many, Confirmation::No), "release"),
            ("few, declined: it is not asked for", with(&one, Confirmation::No), "forget"),
            ("more, one after the other", with(&spread, Confirmation::Absent), "forget"),
            ("with those that were forgotten just now", Observed { accepted: &accepted, ..base.clone() }, "wait"),
            ("with those of before", Observed { accepted: &long_ago, ..base.clone() }, "forget"),
            ("another Job is at work", Observed { is_busy: true, ..base.clone() }, "wait"),
            ("the Job is at work", job(at_work(50, true, true)), "wait"),
            ("the Job is at work for long", job(at_work(-3000, true, true)), "wait"),
            ("the Job is at work for ever", job(at_work(-30_000, true, true)), "drop job"),
            ("no node takes the Job", job(at_work(-3000, true, false)), "drop job"),
            ("the Job has just been made", job(at_work(99, false, false)), "wait"),
            ("the Job never got its Secret", job(at_work(0, false, false)), "drop job"),
            ("the Job is done, and nobody has looked", job(done(90, false, false)), "wait"),
            ("the Job is done, the snapshot is there: another's", job(done(90, false, true)), "drop job"),
            ("the Job failed", job(done(90, true, true)), "wait"),
            ("the Job failed a while ago", job(done(-300, true, true)), "drop job"),
            ("the Job did it", Observed { listed: Some(&other), ..job(done(90, false, true)) }, "release and drop job"),
            (
                "it failed, and they are gone",
                Observed { listed: Some(&other), ..job(done(90, true, true)) },
                "release and drop job",
            ),
            ("the Job is left over", Observed { deleted: &[], ..job(done(90, false, true)) }, "drop job"),
        ];
        for (what, observed, expected) in table {
            let plan = plan(&observed, at(100));
            assert_eq!(word(&plan), expected, "{what}: {plan:?}");
        }
    }

    #[test]
    fn test_many_are_forgotten_in_parts_and_the_confirmation_lasts_until_the_last() {
        let many = deleted(0..1500, 0);
        let listed: BTreeSet<_> = (0..1500).map(id).collect();
        let observed = Observed {
            deleted: &many,
            lives: Some(true),
            listed: Some(&listed),
            accepted: &[],
            confirmation: Confirmation::Yes,
            job: Job::Absent,
            is_busy: false,
        };
        let first = plan(&observed, at(100));
        assert_eq!((first.forget.len(), first.confirmation_is_used), (1000, false));
        let last = plan(&Observed { deleted: &many[..500], ..observed.clone() }, at(100));
        assert_eq!((last.forget.len(), last.confirmation_is_used), (500, true));
        let busy = plan(&Observed { deleted: &many[..500], is_busy: true, ..observed }, at(100));
        assert!(busy.forget.is_empty() && !busy.confirmation_is_used);
    }

    #[test]
    fn test_what_waits_is_told() {
        let many = deleted(0..25, 0);
        let listed: BTreeSet<_> = (0..25).map(id).collect();
        let observed = Observed {
            deleted: &many,
            lives: Some(true),
            listed: Some(&listed),
            accepted: &[],
            confirmation: Confirmation::Absent,
            job: Job::Absent,
            is_busy: false,
        };
        let notice = plan(&observed, at(100)).notice.unwrap();
        assert!(notice.warning && notice.message.contains("stash.appscode.com/confirm-forget"), "{notice:?}");
        let failed = Job::Done { at: at(90), failed: Some("the repository is locked".to_owned()), is_listed: true };
        let notice = plan(&Observed { deleted: &many[..1], job: failed, ..observed }, at(100)).notice.unwrap();
        assert_eq!(notice.message, "Snapshot r-0 could not be forgotten: the repository is locked");
        assert_eq!(Confirmation::of(Some("yes please")), Confirmation::Absent);
    }
}
