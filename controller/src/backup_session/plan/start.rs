//! The beginning of a session: it starts, waits, or is skipped.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stash_crds::backup_session::{
    APPLY_RETENTION_POLICY, BackupSessionPhase, BackupTargetStatus, INITIALIZE_BACKEND_REPOSITORY,
    SEND_REPOSITORY_METRICS, VERIFY_REPOSITORY_INTEGRITY,
};
use stash_crds::reference::TargetRef;
use stash_crds::{BackupConfiguration, BackupSession, conditions as aspects, reasons};

use super::{
    Action, BackendState, Draft, INITIALIZING_BACKEND_REPOSITORY, WAIT, WAIT_FOR_INVOKER, is_ready, is_settled,
};
use crate::backup_session::history;
use crate::backup_session::phase::is_final;
use crate::go_duration;
use crate::plan::until;

impl Draft<'_> {
    pub(super) fn start(&mut self) {
        let session = self.observed.session;
        let invoker = self.observed.invoker.filter(|invoker| invoker.metadata.deletion_timestamp.is_none());
        let Some(invoker) = invoker else {
            let reference = &session.spec.invoker;
            return self.skip(&format!("{} {} does not exist", reference.kind, reference.name));
        };
        if !is_settled(invoker) {
            return self.wait(WAIT_FOR_INVOKER);
        }
        if !is_ready(invoker) {
            return self.skip(&format!("{} {} is not ready", session.spec.invoker.kind, session.spec.invoker.name));
        }
        let running = |other: &&&BackupSession| history::phase(other) == Some(&BackupSessionPhase::Running);
        if let Some(other) = self.observed.siblings.iter().find(running) {
            let name = other.metadata.name.clone().unwrap_or_default();
            return self.skip(&format!("BackupSession {name} of the same invoker is running"));
        }
        let load = self.observed.load;
        // Two that make a repository at once would each shut the other out.
        let is_second = self.observed.backend == BackendState::BeingMade;
        if is_second || self.has_to_wait() || load.limit.is_some_and(|limit| load.ahead >= limit) {
            return self.wait(WAIT);
        }
        self.begin(invoker);
    }

    /// Whether another session on the same target goes first: an older one, or one of another configuration that runs.
    fn has_to_wait(&self) -> bool {
        let session = self.observed.session;
        let is_older = |other: &BackupSession| history::by_age(other, session).is_lt();
        // Of two that have not begun both would find none that runs.
        let elder = self.observed.siblings.iter().any(|sibling| {
            let waits = !is_final(history::phase(sibling)) && sibling.metadata.deletion_timestamp.is_none();
            waits && is_older(sibling)
        });
        elder
            || self
                .observed
                .rivals
                .iter()
                .any(|rival| history::phase(rival) == Some(&BackupSessionPhase::Running) || is_older(rival))
    }

    fn skip(&mut self, why: &str) {
        let message = format!("Skipped taking new backup. Reason: {why}.");
        self.conditions().is(aspects::BACKUP_SKIPPED, reasons::SKIPPED_TAKING_NEW_BACKUP, message);
        self.clean_history(&BackupSessionPhase::Skipped);
    }

    fn begin(&mut self, invoker: &BackupConfiguration) {
        let hosts = self.observed.hosts.clone();
        let namespace = self.observed.session.metadata.namespace.clone();
        let reference = invoker.spec.target.as_ref().and_then(|target| target.reference.clone()).unwrap_or_default();
        let own = reference.namespace.clone().filter(|namespace| !namespace.is_empty());
        let has_repository = !self.is_of_volume_snapshots();
        let names = |names: &[&str]| names.iter().filter(|_| has_repository).map(|&name| name.to_owned()).collect();
        self.plan.status.targets = vec![BackupTargetStatus {
            reference: Some(TargetRef { namespace: own.or(namespace), ..reference }),
            total_hosts: Some(i32::try_from(hosts.len()).unwrap_or(i32::MAX)),
            pre_backup_actions: names(&[INITIALIZE_BACKEND_REPOSITORY]),
            post_backup_actions: names(&[APPLY_RETENTION_POLICY, VERIFY_REPOSITORY_INTEGRITY, SEND_REPOSITORY_METRICS]),
            ..BackupTargetStatus::default()
        }];
        let time_out = invoker.spec.time_out.as_deref().and_then(|text| go_duration::parse(text).ok());
        let time_out = time_out.and_then(|time_out| SignedDuration::try_from(time_out).ok());
        if let Some(deadline) = time_out.and_then(|time_out| self.created().checked_add(time_out).ok()) {
            let deadline = crate::conditions::whole_second(deadline);
            self.plan.status.session_deadline = Some(Time(deadline));
            self.wait(until(deadline, self.now));
        }
        let parts: Vec<String> = hosts.into_iter().filter_map(|host| host.part).collect();
        if !parts.is_empty() && !self.observed.parts_are_written {
            self.plan.actions.push(Action::WriteParts(parts));
        }
        if self.pre_hook() {
            self.ensure_executor();
        }
    }

    /// Says that all Jobs were made.
    pub(super) fn executor_is_ensured(&mut self) {
        if let Some(mut conditions) = self.target_conditions() {
            let message = "Successfully ensured backup executor.";
            conditions.is(aspects::BACKUP_EXECUTOR_ENSURED, reasons::SUCCESSFULLY_ENSURED_BACKUP_EXECUTOR, message);
        }
    }

    /// Makes the Jobs of all hosts; of the first alone where that has to make the repository.
    pub(super) fn ensure_executor(&mut self) {
        self.executor_is_ensured();
        let mut starting = self.observed.hosts.clone();
        if starting.len() > 1 && !self.is_of_volume_snapshots() && self.observed.backend != BackendState::Known {
            starting.truncate(1);
            let message = format!("The backup of {} makes the repository if there is none.", starting[0].name);
            self.conditions().is_unknown(
                aspects::BACKEND_REPOSITORY_INITIALIZED,
                INITIALIZING_BACKEND_REPOSITORY,
                message,
            );
        }
        self.plan.actions.extend(starting.into_iter().map(Action::StartBackup));
    }
}
