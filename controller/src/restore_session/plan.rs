//! Decides what a restore does next. Pure.
//!
//! What is asked for is checked, and waited for where something is missing; then the hook before is called, each host gets a Job, and
//! when all are done, or the time is over, the hook after is called and the session closed. It is never tried again, as in Stash.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stash_crds::conditions as aspects;
use stash_crds::restore_session::RestoreSessionStatus;
use stash_crds::{Repository, RestoreSession, names as labels, reasons};

use super::at_start::Way;
use super::report::HostOutcome;
use super::validate::{self, Destination};
use super::{phase, rules, snapshotter};
use crate::backup_configuration::plan::TargetState;
use crate::backup_configuration::validate::TargetKind;
use crate::backup_session::outcome::Work;
use crate::backup_session::plan::{HookRun, Hooks};
use crate::conditions::{Conditions, is_true};
use crate::go_duration;
use crate::hooks::{Point, is_started};
use crate::plan::{Notice, sooner, transitions};
use crate::repository::backend::AddressRule;
use crate::repository::used::{Used, is_first_look};
use crate::secrets::Known;

mod hooks;
mod work;

/// How long what is missing is waited for; watches wake the session earlier.
const WAIT: Duration = Duration::from_secs(5);
/// When it is looked again at a Job whose Secret was to be made once more.
const LOOK_AT_SECRET: Duration = Duration::from_secs(2);

/// Reason of `RestoreExecutorEnsured`: another restore of the same target goes first. Not in Stash.
pub const WAITING_FOR_RESTORE: &str = "WaitingForRestore";

/// A host that is restored by a Job of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its name: by it rules are found, and snapshots where no rule says another.
    pub name: String,
    /// Its Job's name.
    pub job: String,
    /// Which replica it is.
    pub ordinal: Option<usize>,
    /// Which node's pod of a DaemonSet it is.
    pub part: Option<String>,
}

/// Whether nothing is decided yet: what is found of the Secret wakes the session.
pub fn waits(observed: &Observed<'_>) -> bool {
    observed.session.metadata.deletion_timestamp.is_none() && is_first_look(observed.repository, &observed.secret)
}

/// What a plan is made from.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The object.
    pub session: &'a RestoreSession,
    /// The Repository that it names, if there is one.
    pub repository: Option<&'a Repository>,
    /// What is known of that one's Secret.
    pub secret: Known,
    /// The labels of the session's namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// What is restored into.
    pub target: TargetState,
    /// Another session that restores the same target, and goes first.
    pub rival: Option<String>,
    /// The hosts of the target.
    pub hosts: Vec<Host>,
    /// Whether the nodes of a DaemonSet were written down.
    pub parts_are_written: bool,
    /// The Jobs that have not begun and may lack their Secret: who made them may have been stopped before it made that.
    pub without_secret: BTreeSet<String>,
    /// When that is tried again of others, where a Secret of the name was there, which may be that of a Job before it.
    pub secret_again: Option<Timestamp>,
    /// The Jobs of the hosts, by name; of a host without one how far its claims are.
    pub jobs: BTreeMap<String, Work<HostOutcome>>,
    /// What hosts wait for that no Job restores: which claim is not bound, which pod has not begun.
    pub waits: BTreeMap<String, String>,
    /// How hosts are restored.
    pub way: Way,
    /// Whether the workload has the init container, if they are restored by one.
    pub is_injected: bool,
    /// The pods that are to restore hosts, and are not written down: uids, by the hosts' keys.
    pub elections: BTreeMap<String, String>,
    /// How far those are together that copy, if they say it.
    pub progress: Option<String>,
    /// How far the hooks are, as far as this process knows.
    pub hooks: Hooks,
    /// Which servers hooks must not ask.
    pub addresses: &'a AddressRule,
}

/// Something to do, before the status is written.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Writes down the nodes of a DaemonSet.
    WriteParts(Vec<String>),
    /// Remembers that a hook is started once the status says so.
    AnnounceHook(Point),
    /// Starts a hook of which the status says that it may run.
    RunHook(Box<HookRun>),
    /// Makes the claims of a host, and no Job: no rule is for it.
    MakeClaims(Host),
    /// Makes the claims of a host and, where they are copied into, its Job.
    StartRestore(Host),
    /// Decides how a workload is restored, and writes it down.
    ChooseWay,
    /// Puts the init container into the workload.
    Inject,
    /// Takes it out.
    Withdraw,
    /// Writes down which pods restore their hosts: uids, by the hosts' keys.
    Elect(BTreeMap<String, String>),
    /// Deletes Jobs that are not done.
    StopJobs(Vec<String>),
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is done first, in order.
    pub actions: Vec<Action>,
    /// The status after it.
    pub status: RestoreSessionStatus,
    /// Whether the finalizer is taken off, which Stash sets, and we where a workload was changed.
    pub release: bool,
    /// When to look again.
    pub requeue: Option<Duration>,
}

/// Returns what is told of a status that was `old` before.
pub fn notices(old: &RestoreSessionStatus, status: &RestoreSessionStatus) -> Vec<Notice> {
    let mut notices = transitions(&old.conditions, &status.conditions);
    for notice in &mut notices {
        // That a hook was started, or that a restore waits, is nothing to be warned of.
        notice.warning &= !is_started(&notice.reason) && notice.reason != WAITING_FOR_RESTORE;
    }
    notices.extend(work::host_notices(old, status));
    notices
}

/// A plan while it is made.
#[derive(Debug)]
struct Draft<'a> {
    observed: &'a Observed<'a>,
    now: Timestamp,
    plan: Plan,
}

/// Decides what a restore does next.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let meta = &observed.session.metadata;
    let old = observed.session.status.clone().unwrap_or_default();
    let mut quiet = Plan { actions: Vec::new(), status: old.clone(), release: false, requeue: None };
    if meta.deletion_timestamp.is_some() {
        quiet.release = meta.finalizers.iter().flatten().any(|finalizer| finalizer == labels::INVOKER_FINALIZER);
        if quiet.release && matches!(observed.way, Way::AtStart(_)) {
            quiet.actions.push(Action::Withdraw);
        }
        return quiet;
    }
    if phase::is_final(old.phase.as_ref()) {
        return quiet;
    }
    let mut draft = Draft { observed, now, plan: quiet };
    match old.total_hosts {
        None => draft.start(),
        Some(_) => draft.work(),
    }
    draft.plan.status.phase = Some(phase::of_session(&draft.plan.status));
    draft.plan
}

impl Draft<'_> {
    fn conditions(&mut self) -> Conditions<'_> {
        let generation = self.observed.session.metadata.generation;
        Conditions::new(&mut self.plan.status.conditions, generation, self.now)
    }

    fn wait(&mut self, time: Duration) {
        self.plan.requeue = sooner(self.plan.requeue, Some(time));
    }

    /// Whether the time for the session is over.
    fn is_late(&self) -> bool {
        let deadline = self.plan.status.session_deadline.as_ref();
        deadline.is_some_and(|deadline| self.now > deadline.0)
    }

    /// Checks what is asked for, and begins when nothing is missing.
    fn start(&mut self) {
        let complete = self.say();
        if !complete || !is_true(&self.plan.status.conditions, aspects::VALIDATION_PASSED) {
            return self.wait(WAIT);
        }
        if let Some(rival) = &self.observed.rival {
            // Two that write the same files would each take the other's for whole.
            let message = format!("RestoreSession {rival} of the same target runs.");
            self.conditions().is_unknown(aspects::RESTORE_EXECUTOR_ENSURED, WAITING_FOR_RESTORE, message);
            return self.wait(WAIT);
        }
        self.conditions().forget(aspects::RESTORE_EXECUTOR_ENSURED);
        let parts: Option<Vec<String>> = self.observed.hosts.iter().map(|host| host.part.clone()).collect();
        if let Some(parts) = parts.filter(|parts| !parts.is_empty() && !self.observed.parts_are_written) {
            self.plan.actions.push(Action::WriteParts(parts));
            return;
        }
        if self.observed.way == Way::Undecided {
            self.plan.actions.push(Action::ChooseWay);
            return;
        }
        self.plan.status.total_hosts = Some(i32::try_from(self.observed.hosts.len()).unwrap_or(i32::MAX));
        let time_out = self.observed.session.spec.time_out.as_deref().and_then(|text| go_duration::parse(text).ok());
        let deadline = time_out.and_then(|time_out| SignedDuration::try_from(time_out).ok());
        let deadline = deadline.and_then(|time_out| self.now.checked_add(time_out).ok());
        self.plan.status.session_deadline = deadline.map(|deadline| Time(crate::conditions::whole_second(deadline)));
        self.work();
    }

    /// Says what is known, in Stash's order. Returns whether all could be looked up.
    fn say(&mut self) -> bool {
        let (observed, session) = (self.observed, self.observed.session);
        let own = session.metadata.namespace.as_deref().unwrap_or_default();
        let mut problems = validate::problems(session, observed.addresses);
        let destination = validate::destination(session);
        let reference = session.spec.repository.clone().unwrap_or_default();
        let mut conditions = Conditions::new(&mut self.plan.status.conditions, session.metadata.generation, self.now);
        // The cluster's storage has what is restored: there is no Repository.
        let reads_repository = !snapshotter::is_wanted(session);
        let used = Used {
            reference: &reference,
            repository: observed.repository,
            secret: observed.secret.clone(),
            own,
            namespace_labels: observed.namespace_labels,
        };
        if reads_repository && !used.say(&mut conditions, &mut problems) {
            return false;
        }
        if let Ok(Destination::Target(target)) = &destination
            && observed.target == TargetState::Found
            && observed.hosts.is_empty()
        {
            let how = match target.kind {
                TargetKind::StatefulSet => "spec.target.replicas says of how many of its claims",
                _ => "a host is a node on which a pod of it runs",
            };
            problems.push(format!("{} {} has no hosts to restore; {how}", target.kind, target.name));
        }
        if problems.is_empty() {
            let message = "Successfully validated.";
            conditions.is(aspects::VALIDATION_PASSED, reasons::RESOURCE_VALIDATION_PASSED, message);
        } else {
            let message = problems.join("; ");
            conditions.is_not(aspects::VALIDATION_PASSED, reasons::RESOURCE_VALIDATION_FAILED, message);
        }
        let Ok(Destination::Target(target)) = destination else {
            conditions.forget(aspects::RESTORE_TARGET_FOUND);
            return true;
        };
        let shown = format!("{} {own}/{}", target.kind, target.name);
        if observed.target == TargetState::Missing {
            let message = format!("Restore target {shown} does not exist.");
            conditions.is_not(aspects::RESTORE_TARGET_FOUND, reasons::TARGET_NOT_AVAILABLE, message);
            return false;
        }
        let message = format!("Restore target {shown} found.");
        conditions.is(aspects::RESTORE_TARGET_FOUND, reasons::TARGET_AVAILABLE, message);
        true
    }

    /// Whether a rule is for a host.
    fn has_rule(&self, host: &Host) -> bool {
        snapshotter::is_wanted(self.observed.session) || rules::of(self.observed.session, &host.name).is_some()
    }
}

/// Says that the Job of a host could not be made, and that it makes no sense to try again.
pub fn executor_failed(plan: &mut Plan, message: &str, now: Timestamp) {
    let mut conditions = Conditions::new(&mut plan.status.conditions, None, now);
    conditions.is_not(aspects::RESTORE_EXECUTOR_ENSURED, reasons::FAILED_TO_ENSURE_RESTORE_EXECUTOR, message);
    plan.status.phase = Some(phase::of_session(&plan.status));
}

/// Says that a host cannot be restored. Others can.
pub fn host_failed(plan: &mut Plan, host: &str, why: &str) {
    plan.status.stats.push(work::failed(host, why));
    plan.status.phase = Some(phase::of_session(&plan.status));
}

#[cfg(test)]
mod tests;
