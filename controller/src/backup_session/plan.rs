//! Decides what a session does next. Pure.
//!
//! A session begins (or is skipped, or waits), its hosts are backed up by a Job each, then one Job looks after the repository, then it
//! is closed; a failed one may be followed by another. Hooks are called before the first Job, and after the last: where they act on the
//! target's pods before the repository is looked after, else when the outcome is known. Each step is decided from the status and from the Jobs, so that it does not
//! matter when the controller was stopped: what was decided and not written down is decided again, and names are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stash_crds::backup_configuration::InvokerPhase;
use stash_crds::backup_session::{BackupSessionPhase, BackupSessionStatus, HostBackupPhase, HostBackupStats};
use stash_crds::conditions as aspects;
use stash_crds::target::Driver;
use stash_crds::{BackupConfiguration, BackupSession, reasons};

use super::outcome::{HostOutcome, Upkeep, Work};
use super::phase;
use crate::conditions::{Conditions, is_true};
use crate::hooks::runner::Progress;
use crate::hooks::summary::Summary;
use crate::hooks::{Point, is_started};
use crate::plan::{Notice, sooner, transitions, until};
use crate::{go_duration, names};

mod close;
mod hooks;
mod start;
mod work;

/// Annotation of sessions: the uid of the failed session that they try again.
pub const RETRY_OF_ANNOTATION: &str = "stash.appscode.com/retry-of";

/// How long a session that waits for others is left alone; their changes wake it earlier.
const WAIT: Duration = Duration::from_secs(5);
/// Reason of `BackendRepositoryInitialized`: a first host makes the repository, and the others wait. Not in Stash.
pub const INITIALIZING_BACKEND_REPOSITORY: &str = "InitializingBackendRepository";

/// Reason of `BackupExecutorEnsured`: hosts wait until others on their node are done. Not in Stash.
pub const WAITING_FOR_NODE: &str = "WaitingForNode";

/// How often the pods are looked at beside which Jobs run: one that leaves is not held up.
const LOOK_AT_PODS: Duration = Duration::from_secs(4);
/// When it is looked again at a Job whose Secret was to be made once more.
const LOOK_AT_SECRET: Duration = Duration::from_secs(2);
/// How long a session waits for its configuration to be looked at.
const WAIT_FOR_INVOKER: Duration = Duration::from_secs(1);

/// A host that is backed up by a Job of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name in the repository.
    pub name: String,
    /// Its Job's name.
    pub job: String,
    /// Which replica of a StatefulSet it is.
    pub ordinal: Option<usize>,
    /// Which node's pod of a DaemonSet it is, or which claim a VolumeSnapshot is taken of: what is counted when a session begins.
    pub part: Option<String>,
}

/// What a plan is made from.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The object.
    pub session: &'a BackupSession,
    /// The configuration that asked for it, unless it is gone.
    pub invoker: Option<&'a BackupConfiguration>,
    /// The other sessions of that configuration.
    pub siblings: Vec<&'a BackupSession>,
    /// The sessions of others on the same target that are not done.
    pub rivals: Vec<&'a BackupSession>,
    /// How many sessions of the cluster run, or wait and are older, and how many may.
    pub load: Load,
    /// The hosts of the target.
    pub hosts: Vec<Host>,
    /// What is known of the repository in the backend.
    pub backend: BackendState,
    /// Whether the parts of the target were written down: they are those of the beginning, for as long as the session runs.
    pub parts_are_written: bool,
    /// The Jobs that have not begun and may lack their Secret: who made them may have been stopped before it made that.
    pub without_secret: BTreeSet<String>,
    /// When that is tried again of others, where a Secret of the name was there, which may be that of a Job before it.
    pub secret_again: Option<Timestamp>,
    /// Whether a Job runs beside a pod, which has to be looked at.
    pub beside: bool,
    /// Their Jobs, by name.
    pub jobs: BTreeMap<String, Work<HostOutcome>>,
    /// The Job that looks after the repository.
    pub upkeep: Work<Upkeep>,
    /// How far the hooks are, as far as this process knows.
    pub hooks: Hooks,
    /// Whether such a Job of another session is at work on the same repository.
    pub repository_is_busy: bool,
    /// Whether the Repository says when its first backup was.
    pub has_first_backup_time: bool,
}

/// What is known of the repository in the backend, before a Job looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// There is one, as far as the Repository or another session says.
    Known,
    /// Nobody has seen it; another session is about to.
    BeingMade,
    /// Nobody has seen it.
    Unknown,
}

/// How far the hooks of a session are, as far as this process knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// The one before the backup.
    pub pre: Progress,
    /// The one after it.
    pub post: Progress,
}

impl Hooks {
    /// Returns how far the hook of `point` is.
    pub fn of(&self, point: Point) -> &Progress {
        match point {
            Point::PreBackup | Point::PreRestore => &self.pre,
            Point::PostBackup | Point::PostRestore => &self.post,
        }
    }
}

/// A hook that is to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRun {
    /// Which.
    pub point: Point,
    /// What its templates see.
    pub summary: Summary,
    /// How long it may take.
    pub limit: Duration,
}

/// How much is under way in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sessions that run, or wait and are older than this one.
    pub ahead: usize,
    /// How many may run.
    pub limit: Option<usize>,
}

/// Something to do, before the status is written.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Writes down the parts of the target: the nodes of a DaemonSet, or the claims of which snapshots are taken.
    WriteParts(Vec<String>),
    /// Remembers that a hook is started once the status says so.
    AnnounceHook(Point),
    /// Starts a hook of which the status says that it may run.
    RunHook(Box<HookRun>),
    /// Makes the Job of a host.
    StartBackup(Host),
    /// Makes the Job that looks after the repository.
    StartUpkeep,
    /// Deletes the VolumeSnapshots that are kept no longer.
    RetainVolumeSnapshots,
    /// Deletes Jobs that are not done.
    StopJobs(Vec<String>),
    /// Writes what is known of the repository.
    WriteFigures(Figures),
    /// Makes the session that tries again.
    CreateRetry {
        /// Its name.
        name: String,
        /// How often it may be tried again after that.
        retry_left: i32,
    },
    /// Deletes old sessions.
    DeleteSessions(Vec<String>),
}

/// What a session found out about its repository. It goes to the Repository's status.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// When the first backup was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_backup_time: Option<Time>,
    /// When this one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_backup_time: Option<Time>,
    /// Whether the check found nothing wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub integrity: Option<bool>,
    /// How much is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_size: Option<String>,
    /// How many snapshots there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_count: Option<u64>,
    /// How many were forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots_removed_on_last_cleanup: Option<u64>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is done first, in order.
    pub actions: Vec<Action>,
    /// The status after it.
    pub status: BackupSessionStatus,
    /// When to look again.
    pub requeue: Option<Duration>,
}

/// Returns what is told of a status that was `old` before.
pub fn notices(old: &BackupSessionStatus, status: &BackupSessionStatus) -> Vec<Notice> {
    let mut notices = transitions(&old.conditions, &status.conditions);
    for target in &status.targets {
        let before = old.targets.iter().find(|before| before.reference == target.reference);
        let before = before.map(|before| before.conditions.as_slice()).unwrap_or_default();
        notices.extend(transitions(before, &target.conditions));
    }
    for notice in &mut notices {
        // That a hook was started, or that a backup waits, is nothing to be warned of.
        notice.warning &= !is_started(&notice.reason) && notice.reason != WAITING_FOR_NODE;
    }
    notices
}

/// A plan while it is made.
#[derive(Debug)]
struct Draft<'a> {
    observed: &'a Observed<'a>,
    now: Timestamp,
    plan: Plan,
}

/// Decides what a session does next.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let session = observed.session;
    let old = session.status.clone().unwrap_or_default();
    let quiet = Plan { actions: Vec::new(), status: old.clone(), requeue: None };
    if session.metadata.deletion_timestamp.is_some() {
        return quiet;
    }
    let mut draft = Draft { observed, now, plan: quiet };
    if phase::is_final(old.phase.as_ref()) {
        draft.retry();
        return draft.plan;
    }
    if old.targets.is_empty() {
        draft.start();
    }
    if !draft.plan.status.targets.is_empty() && !old.targets.is_empty() {
        draft.work();
    }
    draft.finish()
}

impl Draft<'_> {
    fn finish(mut self) -> Plan {
        for target in &mut self.plan.status.targets {
            target.phase = Some(phase::of_target(target));
        }
        self.plan.status.phase = Some(phase::of_session(&self.plan.status));
        self.plan
    }

    fn conditions(&mut self) -> Conditions<'_> {
        let generation = self.observed.session.metadata.generation;
        Conditions::new(&mut self.plan.status.conditions, generation, self.now)
    }

    fn target_conditions(&mut self) -> Option<Conditions<'_>> {
        let generation = self.observed.session.metadata.generation;
        let target = self.plan.status.targets.first_mut()?;
        Some(Conditions::new(&mut target.conditions, generation, self.now))
    }

    fn wait(&mut self, time: Duration) {
        self.plan.requeue = sooner(self.plan.requeue, Some(time));
    }

    fn created(&self) -> Timestamp {
        self.observed.session.metadata.creation_timestamp.as_ref().map_or(self.now, |time| time.0)
    }

    /// Makes the session that follows a failed one, when its time has come.
    fn retry(&mut self) {
        let session = self.observed.session;
        let left = session.spec.retry_left.unwrap_or(0);
        let failed = self.plan.status.phase == Some(BackupSessionPhase::Failed);
        if !failed || left <= 0 || self.plan.status.retried == Some(true) {
            return;
        }
        let Some(invoker) = self.observed.invoker.filter(|invoker| invoker.metadata.deletion_timestamp.is_none())
        else {
            return;
        };
        let Some(next) = self.plan.status.next_retry.as_ref().map(|time| time.0) else {
            let delay = invoker.spec.retry_config.as_ref().and_then(|retry| retry.delay.as_deref());
            // A delay that cannot be read is said by the configuration; meanwhile none is better than no retry.
            let delay = delay.and_then(|text| go_duration::parse(text).ok()).unwrap_or_default();
            let next = SignedDuration::try_from(delay).ok().and_then(|delay| self.now.checked_add(delay).ok());
            let next = crate::conditions::whole_second(next.unwrap_or(self.now));
            self.plan.status.next_retry = Some(Time(next));
            self.wait(until(next, self.now));
            return;
        };
        if next > self.now {
            self.wait(until(next, self.now));
            return;
        }
        // It was made, and the status that says so was not written.
        if self.observed.siblings.iter().any(|sibling| is_retry_of(sibling, session)) {
            self.plan.status.retried = Some(true);
            return;
        }
        let name = names::session(&session.spec.invoker.name, next);
        // A name of the same second is taken by the session that failed, or by one of the schedule.
        let taken = |name: &str| {
            let mut all = self.observed.siblings.iter().copied().chain([session]);
            all.any(|other| other.metadata.name.as_deref() == Some(name))
        };
        let name = if taken(&name) {
            let later = next.checked_add(SignedDuration::from_secs(1)).unwrap_or(next);
            names::session(&session.spec.invoker.name, later)
        } else {
            name
        };
        self.plan.actions.push(Action::CreateRetry { name, retry_left: left - 1 });
        self.plan.status.retried = Some(true);
    }

    /// Whether the time for the session is over. It is not, once it is done.
    fn is_late(&self) -> bool {
        let deadline = self.plan.status.session_deadline.as_ref();
        deadline.is_some_and(|deadline| self.now > deadline.0)
    }

    /// Whether the cluster's storage takes the backup, and there is no repository.
    fn is_of_volume_snapshots(&self) -> bool {
        self.observed.invoker.is_some_and(|invoker| invoker.spec.driver == Driver::VolumeSnapshotter)
    }

    fn is_exceeded(&self) -> bool {
        is_true(&self.plan.status.conditions, aspects::DEADLINE_EXCEEDED)
    }
}

/// Whether `other` was made because `session` failed.
fn is_retry_of(other: &BackupSession, session: &BackupSession) -> bool {
    let named = other.metadata.annotations.as_ref().and_then(|annotations| annotations.get(RETRY_OF_ANNOTATION));
    named.is_some() && named == session.metadata.uid.as_ref()
}

/// Whether `invoker` was looked at as it is now.
fn is_settled(invoker: &BackupConfiguration) -> bool {
    let status = invoker.status.as_ref();
    status.is_some_and(|status| status.phase.is_some() && status.observed_generation == invoker.metadata.generation)
}

fn is_ready(invoker: &BackupConfiguration) -> bool {
    invoker.status.as_ref().is_some_and(|status| status.phase == Some(InvokerPhase::Ready))
}

/// Says that the Job of a host could not be made, and that it makes no sense to try again.
pub fn executor_failed(plan: &mut Plan, message: &str, now: Timestamp) {
    for target in &mut plan.status.targets {
        let mut conditions = Conditions::new(&mut target.conditions, None, now);
        conditions.is_not(aspects::BACKUP_EXECUTOR_ENSURED, reasons::FAILED_TO_ENSURE_BACKUP_EXECUTOR, message);
        target.phase = Some(phase::of_target(target));
    }
    plan.status.phase = Some(phase::of_session(&plan.status));
}

/// Says that the Job of a host waits for a place on its node.
pub fn host_waits(plan: &mut Plan, why: &str, now: Timestamp) {
    for target in &mut plan.status.targets {
        let mut conditions = Conditions::new(&mut target.conditions, None, now);
        let message = format!("Backups wait for a place: {why}.");
        conditions.is_unknown(aspects::BACKUP_EXECUTOR_ENSURED, WAITING_FOR_NODE, message);
    }
    plan.requeue = sooner(plan.requeue, Some(WAIT));
}

/// Says that a host cannot be backed up. Others can.
pub fn host_failed(plan: &mut Plan, host: &str, why: &str) {
    if let Some(target) = plan.status.targets.first_mut() {
        target.stats.push(HostBackupStats {
            hostname: Some(host.to_owned()),
            phase: Some(HostBackupPhase::Failed),
            error: Some(why.to_owned()),
            ..HostBackupStats::default()
        });
        target.phase = Some(phase::of_target(target));
    }
    plan.status.phase = Some(phase::of_session(&plan.status));
}

/// Says that VolumeSnapshots could not be deleted.
pub fn retention_failed(plan: &mut Plan, message: &str, now: Timestamp) {
    let mut conditions = Conditions::new(&mut plan.status.conditions, None, now);
    let said = format!("Failed to apply retention policy. Reason: {message}");
    conditions.is_not(aspects::RETENTION_POLICY_APPLIED, reasons::FAILED_TO_APPLY_RETENTION_POLICY, said);
    plan.status.phase = Some(phase::of_session(&plan.status));
}

/// Says that old sessions could not be deleted. The session fails, as Stash's does.
pub fn history_failed(plan: &mut Plan, message: &str, now: Timestamp) {
    let mut conditions = Conditions::new(&mut plan.status.conditions, None, now);
    conditions.is_not(aspects::BACKUP_HISTORY_CLEANED, reasons::FAILED_TO_CLEAN_BACKUP_HISTORY, message);
    plan.status.phase = Some(phase::of_session(&plan.status));
}

#[cfg(test)]
mod tests;
