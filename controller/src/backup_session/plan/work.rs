//! The middle of a session: what its Jobs did, and what follows.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stash_crds::backup_session::{BackupTargetStatus, HostBackupPhase, HostBackupStats};
use stash_crds::conditions::{self as aspects, UNKNOWN};
use stash_crds::reasons;

use super::{Action, Draft, Figures, Host, LOOK_AT_PODS, LOOK_AT_SECRET, WAIT};
use crate::backup_session::outcome::{HostOutcome, Step, Upkeep, Work};
use crate::backup_session::phase;
use crate::conditions::{find, is_false, is_true};
use crate::plan::until;
use crate::units;

impl Draft<'_> {
    pub(super) fn work(&mut self) {
        if self.observed.invoker.is_none() {
            return self.abandon();
        }
        if !self.pre_hook() {
            return;
        }
        if let Some(again) = self.observed.secret_again {
            self.wait(until(again, self.now));
        }
        let began = |target: &BackupTargetStatus| find(&target.conditions, aspects::BACKUP_EXECUTOR_ENSURED).is_some();
        let began = self.plan.status.targets.iter().any(began);
        let cannot_begin = self.pre_hook_failed() || self.is_late();
        if !began && !cannot_begin {
            self.ensure_executor();
            return self.wait_for_deadline();
        }
        let never_started =
            |target: &BackupTargetStatus| is_false(&target.conditions, aspects::BACKUP_EXECUTOR_ENSURED);
        let has_jobs = !self.plan.status.targets.iter().any(never_started);
        let hosts = self.observed.hosts.clone();
        let postponed = self.is_postponed();
        let waiting = if self.is_initializing() { hosts.get(1..).unwrap_or_default() } else { &[] };
        for host in hosts.iter().filter(|_| began && has_jobs) {
            if self.is_done(&host.name) || (waiting.contains(host) && self.is_absent(host)) {
                continue;
            }
            if postponed && self.is_absent(host) {
                self.plan.actions.push(Action::StartBackup(host.clone()));
                self.wait(WAIT);
                continue;
            }
            match self.observed.jobs.get(&host.job) {
                Some(Work::Reported(outcome)) => self.record(&host.name, outcome),
                Some(Work::Silent(why)) => self.fail(&host.name, &format!("the Job ended without a report: {why}")),
                Some(Work::Disrupted(why)) => self.disrupt(&host.name, why),
                Some(Work::Absent) | None if self.is_of_volume_snapshots() => {
                    self.disrupt(&host.name, "the VolumeSnapshot was deleted");
                }
                Some(Work::Absent) | None => self.disrupt(&host.name, "the Job was deleted"),
                Some(Work::Left(why)) => {
                    self.disrupt(&host.name, why);
                    self.plan.actions.push(Action::StopJobs(vec![host.job.clone()]));
                }
                Some(Work::Running) => {
                    if self.observed.without_secret.contains(&host.job) {
                        self.plan.actions.push(Action::StartBackup(host.clone()));
                        self.wait(LOOK_AT_SECRET);
                    }
                    if self.observed.beside {
                        self.wait(LOOK_AT_PODS);
                    }
                }
            }
        }
        self.start_waiting(&hosts, waiting);
        if postponed && !hosts.iter().any(|host| self.is_absent(host) && !self.is_done(&host.name)) {
            self.executor_is_ensured();
        }
        for target in &mut self.plan.status.targets {
            target.phase = Some(phase::of_target(target));
        }
        if self.is_late() && !self.is_closing() {
            self.exceed();
        }
        if !has_jobs {
            // Of several hosts, some may have a Job.
            self.stop(hosts.iter().map(|host| host.job.clone()).collect());
        } else if !self.is_exceeded() && !self.pre_hook_failed() && !self.is_looked_after() {
            return self.wait_for_deadline();
        }
        // Also where the work died: what the hook before stopped has to go on.
        if self.post_hook() {
            self.close();
        }
    }

    /// Waits for the hosts and then looks after the repository. Returns whether that is done, or is not to be done.
    fn is_looked_after(&mut self) -> bool {
        if !self.observed.hosts.iter().all(|host| self.is_done(&host.name)) {
            return false;
        }
        // What the hook before stopped must not wait for the repository.
        if self.post_hook_acts_on_pods() && !self.post_hook() {
            return false;
        }
        // What a failed backup left behind is not a reason to forget what there is.
        if !self.is_backed_up() {
            return true;
        }
        if self.is_of_volume_snapshots() {
            self.retain();
            return true;
        }
        self.upkeep()
    }

    /// Whether a first host makes the repository, and the others wait for it.
    fn is_initializing(&self) -> bool {
        let said = find(&self.plan.status.conditions, aspects::BACKEND_REPOSITORY_INITIALIZED);
        said.is_some_and(|said| said.status == UNKNOWN)
    }

    /// Whether hosts wait for a place on their node.
    fn is_postponed(&self) -> bool {
        let mut targets = self.plan.status.targets.iter();
        let said = targets.find_map(|target| find(&target.conditions, aspects::BACKUP_EXECUTOR_ENSURED));
        said.is_some_and(|said| said.status == UNKNOWN)
    }

    fn is_absent(&self, host: &Host) -> bool {
        matches!(self.observed.jobs.get(&host.job), Some(Work::Absent) | None)
    }

    /// Starts the hosts that waited for the repository, when there is one; when the first host ended without, they cannot be backed up.
    fn start_waiting(&mut self, hosts: &[Host], waiting: &[Host]) {
        let Some(first) = hosts.first().filter(|_| !waiting.is_empty()) else { return };
        if is_true(&self.plan.status.conditions, aspects::BACKEND_REPOSITORY_INITIALIZED) {
            let absent = waiting.iter().filter(|host| !self.is_done(&host.name) && self.is_absent(host));
            self.plan.actions.extend(absent.cloned().map(Action::StartBackup).collect::<Vec<_>>());
        } else if self.is_done(&first.name) {
            for host in waiting {
                if self.is_absent(host) && !self.is_done(&host.name) {
                    self.fail(&host.name, &format!("the backup of {} ended and left no repository", first.name));
                }
            }
        }
    }

    /// Ends a session whose configuration is gone: nobody says any more what it should do.
    fn abandon(&mut self) {
        self.stop(self.observed.jobs.keys().cloned().collect());
        if !self.plan.status.targets.iter().all(phase::is_target_final)
            && let Some(mut conditions) = self.target_conditions()
        {
            let message = "Backup was disrupted: the BackupConfiguration was deleted.";
            conditions.is(aspects::BACKUP_DISRUPTED, reasons::FAILED_TO_COMPLETE_DUE_TO_DISRUPTION, message);
        }
        self.close();
    }

    /// Has Jobs deleted that are at work.
    fn stop(&mut self, jobs: Vec<String>) {
        let running = |job: &String| matches!(self.observed.jobs.get(job), Some(Work::Running | Work::Left(_)));
        let jobs: Vec<String> = jobs.into_iter().filter(running).collect();
        if !jobs.is_empty() {
            self.plan.actions.push(Action::StopJobs(jobs));
        }
    }

    fn wait_for_deadline(&mut self) {
        if let Some(deadline) = self.plan.status.session_deadline.clone() {
            self.wait(until(deadline.0, self.now));
        }
    }

    fn is_done(&self, host: &str) -> bool {
        let mut stats = self.plan.status.targets.iter().flat_map(|target| &target.stats);
        stats.any(|stats| stats.hostname.as_deref() == Some(host))
    }

    /// Whether nothing is left to do but to close.
    fn is_closing(&self) -> bool {
        let upkeep_is_done = find(&self.plan.status.conditions, aspects::REPOSITORY_METRICS_PUSHED).is_some();
        let reported = matches!(self.observed.upkeep, Work::Reported(_));
        self.plan.status.targets.iter().all(phase::is_target_final)
            && (upkeep_is_done || reported || !self.is_backed_up())
    }

    fn record(&mut self, host: &str, outcome: &HostOutcome) {
        match &outcome.repository {
            Some(Ok(())) => {
                let message = "Repository exist in the backend.";
                self.conditions().is(
                    aspects::BACKEND_REPOSITORY_INITIALIZED,
                    reasons::BACKEND_REPOSITORY_FOUND,
                    message,
                );
            }
            Some(Err(why)) => {
                let reason = reasons::FAILED_TO_INITIALIZE_BACKEND_REPOSITORY;
                let message = format!("Failed to initialize backend repository. Reason: {why}");
                self.conditions().is_not(aspects::BACKEND_REPOSITORY_INITIALIZED, reason, message);
            }
            None => {}
        }
        let phase = if outcome.error.is_some() { HostBackupPhase::Failed } else { HostBackupPhase::Succeeded };
        self.push(HostBackupStats {
            hostname: Some(host.to_owned()),
            phase: Some(phase),
            duration: outcome.duration.clone(),
            error: outcome.error.clone(),
            snapshots: outcome.snapshots.clone(),
        });
    }

    fn push(&mut self, stats: HostBackupStats) {
        if let Some(target) = self.plan.status.targets.first_mut() {
            target.stats.push(stats);
        }
    }

    fn fail(&mut self, host: &str, why: &str) {
        self.push(HostBackupStats {
            hostname: Some(host.to_owned()),
            phase: Some(HostBackupPhase::Failed),
            error: Some(why.to_owned()),
            ..HostBackupStats::default()
        });
    }

    fn disrupt(&mut self, host: &str, why: &str) {
        self.fail(host, why);
        if let Some(mut conditions) = self.target_conditions() {
            let message = format!("Backup of {host} was disrupted: {why}.");
            conditions.is(aspects::BACKUP_DISRUPTED, reasons::FAILED_TO_COMPLETE_DUE_TO_DISRUPTION, message);
        }
    }

    /// Ends what takes longer than it may: the work itself, not only the phase.
    fn exceed(&mut self) {
        let deadline = self.plan.status.session_deadline.as_ref().map_or(self.now, |deadline| deadline.0);
        let allowed = std::time::Duration::try_from(deadline.duration_since(self.created())).unwrap_or_default();
        let message = format!("Failed to complete backup within {}.", crate::go_duration::format(allowed));
        let hosts = self.observed.hosts.clone();
        let mut jobs: Vec<String> = Vec::new();
        for host in hosts {
            if !self.is_done(&host.name) {
                self.fail(&host.name, &message);
                if self.observed.jobs.get(&host.job) != Some(&Work::Absent) {
                    jobs.push(host.job);
                }
            }
        }
        if self.observed.upkeep == Work::Running {
            jobs.push(crate::names::maintenance_job(
                self.observed.session.metadata.name.as_deref().unwrap_or_default(),
            ));
        }
        if !jobs.is_empty() {
            self.plan.actions.push(Action::StopJobs(jobs));
        }
        self.conditions().is(aspects::DEADLINE_EXCEEDED, reasons::FAILED_TO_COMPLETE_WITHIN_DEADLINE, message);
    }

    /// Has old VolumeSnapshots deleted. If that fails it is said in the place of this.
    fn retain(&mut self) {
        if find(&self.plan.status.conditions, aspects::RETENTION_POLICY_APPLIED).is_none() {
            self.plan.actions.push(Action::RetainVolumeSnapshots);
            let message = "Successfully applied retention policy.";
            self.conditions().is(
                aspects::RETENTION_POLICY_APPLIED,
                reasons::SUCCESSFULLY_APPLIED_RETENTION_POLICY,
                message,
            );
        }
    }

    /// Looks after the repository. Returns whether that is done.
    fn upkeep(&mut self) -> bool {
        if find(&self.plan.status.conditions, aspects::REPOSITORY_METRICS_PUSHED).is_some() {
            return true;
        }
        match self.observed.upkeep.clone() {
            Work::Absent if self.observed.repository_is_busy => {
                self.wait(WAIT);
                false
            }
            Work::Absent => {
                self.plan.actions.push(Action::StartUpkeep);
                false
            }
            Work::Running | Work::Left(_) => {
                let name = self.observed.session.metadata.name.as_deref().unwrap_or_default();
                if self.observed.without_secret.contains(&crate::names::maintenance_job(name)) {
                    self.plan.actions.push(Action::StartUpkeep);
                    self.wait(LOOK_AT_SECRET);
                }
                false
            }
            Work::Reported(upkeep) => {
                self.record_upkeep(&upkeep);
                true
            }
            Work::Silent(why) | Work::Disrupted(why) => {
                // The backup itself is safe, and its own phase says so.
                let failed = Err(format!("the maintenance Job ended without a report: {why}"));
                self.record_upkeep(&Upkeep { forget: Some(failed), ..Upkeep::default() });
                true
            }
        }
    }

    /// Says of each step on its own how it went: a check that failed does not hide that old snapshots were forgotten.
    fn record_upkeep(&mut self, upkeep: &Upkeep) {
        let mut figures = Figures::default();
        let mut first = None;
        if let Some(step) = &upkeep.forget {
            let words = ("apply retention policy", "applied retention policy");
            let reasons = (reasons::FAILED_TO_APPLY_RETENTION_POLICY, reasons::SUCCESSFULLY_APPLIED_RETENTION_POLICY);
            self.say_step(aspects::RETENTION_POLICY_APPLIED, step, words, reasons);
        }
        if let Some(step) = &upkeep.check {
            let words = ("verify repository integrity", "verified repository integrity");
            let reasons =
                (reasons::FAILED_TO_VERIFY_REPOSITORY_INTEGRITY, reasons::SUCCESSFULLY_VERIFIED_REPOSITORY_INTEGRITY);
            self.say_step(aspects::REPOSITORY_INTEGRITY_VERIFIED, step, words, reasons);
        }
        if let Some(step) = &upkeep.stats {
            let words = ("push repository metrics", "pushed repository metrics");
            let reasons = (reasons::FAILED_TO_PUSH_REPOSITORY_METRICS, reasons::SUCCESSFULLY_PUSHED_REPOSITORY_METRICS);
            self.say_step(aspects::REPOSITORY_METRICS_PUSHED, step, words, reasons);
        }
        if let Some(Ok(forgotten)) = upkeep.forget {
            figures.snapshot_count = Some(forgotten.kept);
            figures.snapshots_removed_on_last_cleanup = Some(forgotten.removed);
        }
        if let Some(Ok(sound)) = upkeep.check {
            figures.integrity = Some(sound);
        }
        if let Some(Ok(measured)) = &upkeep.stats {
            figures.total_size = Some(units::size(measured.bytes));
            figures.snapshot_count = Some(measured.snapshots);
            first = measured.first;
        }
        figures.last_backup_time = Some(Time(self.created()));
        if !self.observed.has_first_backup_time {
            // Snapshots that others took before count.
            let first = first.map_or_else(|| self.created(), |first| first.min(self.created()));
            figures.first_backup_time = Some(Time(crate::conditions::whole_second(first)));
        }
        self.plan.actions.push(Action::WriteFigures(figures));
    }

    fn say_step<T>(&mut self, aspect: &str, step: &Step<T>, words: (&str, &str), reasons: (&str, &str)) {
        match step {
            Ok(_) => self.conditions().is(aspect, reasons.1, format!("Successfully {}.", words.1)),
            Err(why) => self.conditions().is_not(aspect, reasons.0, format!("Failed to {}. Reason: {why}", words.0)),
        }
    }
}
