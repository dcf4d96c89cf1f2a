//! Decides what is said of a BackupConfiguration, and whether a session begins. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stash_crds::backup_configuration::{BackupConfigurationStatus, InvokerPhase};
use stash_crds::conditions::{
    self as aspects, BACKEND_SECRET_FOUND, BACKUP_TARGET_FOUND, CRON_JOB_CREATED, REPOSITORY_FOUND, TRUE,
    VALIDATION_PASSED,
};
use stash_crds::target::Driver;
use stash_crds::{BackupConfiguration, Repository, names as labels, reasons};

use super::validate;
use crate::conditions::{Conditions, find, is_true, whole_second};
use crate::plan::{Notice, transitions, until};
use crate::repository::backend::AddressRule;
use crate::repository::used::{Used, is_first_look};
use crate::schedule::{Due, Schedule, ScheduleError, Timing, jitter};
use crate::secrets::Known;
use crate::{go_duration, names};

/// Annotation, ours: sessions begin up to so long after their time, always the same for a configuration.
pub const JITTER_ANNOTATION: &str = "stash.appscode.com/jitter";
/// Annotation, ours: a session that could not begin for so long is left out.
pub const STARTING_DEADLINE_ANNOTATION: &str = "stash.appscode.com/starting-deadline";

/// Reason of an event: sessions were left out because they would have begun too late.
pub const SESSION_MISSED: &str = "BackupSessionMissed";
/// Reason of an event: a session was made.
pub const SESSION_CREATED: &str = "BackupSessionCreated";

/// How long a look-up that failed is waited for.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What is known about what is backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// It exists.
    Found,
    /// It does not.
    Missing,
}

/// What a plan is made from.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The object.
    pub configuration: &'a BackupConfiguration,
    /// The Repository that it names, if there is one.
    pub repository: Option<&'a Repository>,
    /// What is known of that one's Secret.
    pub secret: Known,
    /// The labels of the configuration's namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// What is backed up.
    pub target: TargetState,
    /// The bound of jitter where no annotation says one.
    pub jitter: Duration,
    /// When the last of its sessions that exist and succeeded ended.
    pub last_success: Option<Timestamp>,
    /// Which servers hooks must not ask.
    pub addresses: &'a AddressRule,
}

/// A session to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// Its name: of the configuration and the time, so that no time has two.
    pub name: String,
    /// When it was to begin.
    pub time: Timestamp,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How often it is tried again.
    pub retry_left: i32,
    /// The uid of the failed session that it tries again.
    pub retry_of: Option<String>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The session that begins now.
    pub session: Option<NewSession>,
    /// The status.
    pub status: BackupConfigurationStatus,
    /// Whether the finalizer, which Stash set, is taken off.
    pub release: bool,
    /// What is told.
    pub notices: Vec<Notice>,
    /// When to look again.
    pub requeue: Option<Duration>,
}

/// Whether nothing is decided yet: what is found of the Secret wakes the configuration.
pub fn waits(observed: &Observed<'_>) -> bool {
    observed.configuration.metadata.deletion_timestamp.is_none()
        && observed.configuration.spec.driver == Driver::Restic
        && is_first_look(observed.repository, &observed.secret)
}

/// Decides what is said of a BackupConfiguration, and whether a session begins.
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let configuration = observed.configuration;
    let meta = &configuration.metadata;
    let old = configuration.status.clone().unwrap_or_default();
    if meta.deletion_timestamp.is_some() {
        let release = meta.finalizers.iter().flatten().any(|finalizer| finalizer == labels::INVOKER_FINALIZER);
        return Plan { session: None, status: old, release, notices: Vec::new(), requeue: None };
    }
    let mut status = BackupConfigurationStatus { observed_generation: meta.generation, ..old.clone() };
    let timing = timing(observed);
    let complete = say(observed, &mut status, timing.as_ref().map(|timing| timing.as_ref().map(|_| ())), now);
    status.phase = Some(phase(&status, &configuration.spec.driver));
    let mut notices = transitions(&old.conditions, &status.conditions);

    let timing = timing.ok().flatten().filter(|_| !configuration.spec.paused);
    let announced = old.next_backup_time.as_ref().map(|time| time.0);
    let due = timing.map_or(Due { run: None, missed: false, next: None }, |timing| timing.due(announced, now));
    let ready = status.phase == Some(InvokerPhase::Ready);
    if due.missed {
        notices.push(Notice::warning(SESSION_MISSED, "A session was left out: it would have begun too late."));
    }
    // What is due stays due until it can be done; then it is made up for.
    let (run, next) =
        if ready { (due.run, due.next) } else { (None, if due.run.is_some() { announced } else { due.next }) };
    status.next_backup_time = next.map(Time);
    // Sessions go; that there was one stays.
    let remembered = old.last_backup_time.as_ref().map(|time| time.0);
    status.last_backup_time = remembered.max(observed.last_success.map(whole_second)).map(Time);
    let session = run.map(|time| new_session(configuration, time));
    let wait = next.filter(|_| ready || due.run.is_none()).map(|next| until(next, now));
    let requeue = if complete { wait } else { crate::plan::sooner(wait, Some(LOOK_AGAIN)) };
    Plan { session, status, release: false, notices, requeue }
}

fn new_session(configuration: &BackupConfiguration, time: Timestamp) -> NewSession {
    let meta = &configuration.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let target = configuration.spec.target.as_ref().and_then(|target| target.reference.clone()).unwrap_or_default();
    let retry = configuration.spec.retry_config.as_ref();
    NewSession {
        name: names::session(name, time),
        time,
        labels: names::session_labels(
            meta.labels.as_ref(),
            name,
            &target,
            meta.namespace.as_deref().unwrap_or_default(),
        ),
        retry_left: retry.map_or(0, |retry| retry.max_retry.unwrap_or(1).max(0)),
        retry_of: None,
    }
}

/// Returns when sessions begin; nothing if only when they are asked for.
fn timing(observed: &Observed<'_>) -> Result<Option<Timing>, String> {
    let configuration = observed.configuration;
    let Some(line) = configuration.spec.schedule.as_deref().filter(|line| !line.trim().is_empty()) else {
        return Ok(None);
    };
    let schedule = Schedule::parse(line).map_err(|problem: ScheduleError| format!("spec.schedule: {problem}"))?;
    let annotation = |name: &str| {
        let text = configuration.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name));
        let read = text.map(|text| go_duration::parse(text.trim()));
        read.transpose().map_err(|problem| format!("the annotation {name}: {problem}"))
    };
    let bound = annotation(JITTER_ANNOTATION)?.unwrap_or(observed.jitter);
    let uid = configuration.metadata.uid.as_deref().unwrap_or_default();
    Ok(Some(Timing {
        schedule,
        jitter: jitter(uid, bound),
        starting_deadline: annotation(STARTING_DEADLINE_ANNOTATION)?,
    }))
}

/// Says what is known, in Stash's order; a condition that depends on one that is missing keeps what it said.
///
/// Returns whether all could be looked up. Watches wake us when something appears; looking again is for what they do not see.
fn say(
    observed: &Observed<'_>,
    status: &mut BackupConfigurationStatus,
    timing: Result<Option<()>, &String>,
    now: Timestamp,
) -> bool {
    let configuration = observed.configuration;
    let spec = &configuration.spec;
    let own = configuration.metadata.namespace.as_deref().unwrap_or_default();
    let mut conditions = Conditions::new(&mut status.conditions, configuration.metadata.generation, now);
    let mut problems = validate::problems(configuration, observed.addresses);
    if spec.driver == Driver::Restic {
        let used = Used {
            reference: &spec.repository.clone().unwrap_or_default(),
            repository: observed.repository,
            secret: observed.secret.clone(),
            own,
            namespace_labels: observed.namespace_labels,
        };
        if !used.say(&mut conditions, &mut problems) {
            return false;
        }
    }
    if problems.is_empty() {
        conditions.is(VALIDATION_PASSED, reasons::RESOURCE_VALIDATION_PASSED, "Successfully validated.");
    } else {
        conditions.is_not(VALIDATION_PASSED, reasons::RESOURCE_VALIDATION_FAILED, problems.join("; "));
    }

    let target = spec.target.as_ref().and_then(|target| target.reference.clone()).unwrap_or_default();
    let shown = format!(
        "{} {}/{}",
        target.kind.as_deref().unwrap_or_default(),
        target.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(own),
        target.name.as_deref().unwrap_or_default()
    );
    match validate::target(configuration) {
        // What it is was said above; whether it exists is not looked up.
        Err(_) => conditions.forget(BACKUP_TARGET_FOUND),
        Ok(_) if observed.target == TargetState::Missing => {
            let message = format!("Backup target {shown} does not exist.");
            conditions.is_not(BACKUP_TARGET_FOUND, reasons::TARGET_NOT_AVAILABLE, message);
            return false;
        }
        Ok(_) => conditions.is(BACKUP_TARGET_FOUND, reasons::TARGET_AVAILABLE, format!("Backup target {shown} found.")),
    }
    match timing {
        Err(problem) => conditions.is_not(CRON_JOB_CREATED, reasons::CRON_JOB_CREATION_FAILED, problem.as_str()),
        Ok(None) => {
            let message = "There is no schedule: sessions begin when they are created.";
            conditions.is(CRON_JOB_CREATED, reasons::CRON_JOB_CREATION_SUCCEEDED, message);
        }
        Ok(Some(())) => {
            let message = "The controller keeps the schedule; there is no CronJob.";
            conditions.is(CRON_JOB_CREATED, reasons::CRON_JOB_CREATION_SUCCEEDED, message);
        }
    }
    true
}

/// Returns the phase that Stash would compute from the conditions.
fn phase(status: &BackupConfigurationStatus, driver: &Driver) -> InvokerPhase {
    let conditions = &status.conditions;
    let lacks = |aspect| find(conditions, aspect).is_some_and(|condition| condition.status != TRUE);
    let has_repository = is_true(conditions, REPOSITORY_FOUND) && is_true(conditions, BACKEND_SECRET_FOUND);
    if lacks(REPOSITORY_FOUND) || lacks(BACKEND_SECRET_FOUND) {
        InvokerPhase::NotReady
    } else if crate::conditions::is_false(conditions, aspects::VALIDATION_PASSED) {
        InvokerPhase::Invalid
    } else if is_true(conditions, VALIDATION_PASSED)
        && is_true(conditions, CRON_JOB_CREATED)
        && (*driver != Driver::Restic || has_repository)
    {
        InvokerPhase::Ready
    } else {
        InvokerPhase::NotReady
    }
}

#[cfg(test)]
mod tests;
