//! The middle and the end of a restore: its Jobs, what they did, and the closing condition.

use std::time::Duration;

use stash_crds::restore_session::{HostRestorePhase, HostRestoreStats, RestoreSessionStatus};
use stash_crds::{conditions as aspects, reasons};

use super::{Action, Draft, Host, LOOK_AT_SECRET};
use crate::backup_session::outcome::Work;
use crate::conditions::{find, is_false, is_true};
use crate::go_duration;
use crate::plan::{Notice, until};
use crate::restore_session::at_start::Way;
use crate::restore_session::snapshotter;

/// How often claims are looked at that are to be bound.
const LOOK_AT_CLAIMS: Duration = Duration::from_secs(1);
/// How often those that copy are asked how far they are.
const LOOK_AT_PROGRESS: Duration = Duration::from_secs(10);
/// How often pods are looked at that restore.
const LOOK_AT_PODS: Duration = Duration::from_secs(2);

/// Reason of an event: a host was restored. Stash's.
const HOST_RESTORE_SUCCEEDED: &str = "Host Restore Succeeded";
/// Reason of an event: a host was not restored. Stash's.
const HOST_RESTORE_FAILED: &str = "Host Restore Failed";

impl Draft<'_> {
    pub(super) fn work(&mut self) {
        if !self.pre_hook() {
            return;
        }
        let began = find(&self.plan.status.conditions, aspects::RESTORE_EXECUTOR_ENSURED).is_some();
        if !began && !self.pre_hook_failed() && !self.is_late() {
            self.ensure_executor();
            self.wait_for_hosts();
            return self.wait_for_deadline();
        }
        let has_jobs = !is_false(&self.plan.status.conditions, aspects::RESTORE_EXECUTOR_ENSURED);
        let hosts = self.observed.hosts.clone();
        for host in hosts.iter().filter(|_| began && has_jobs) {
            if !self.is_done(&host.name) {
                self.look_at(host);
            }
        }
        let all_done = self.observed.hosts.iter().all(|host| self.is_done(&host.name));
        if self.is_late() && !all_done {
            self.exceed();
        } else if !has_jobs {
            // Of several hosts, some may have a Job.
            self.stop();
        } else if !self.is_exceeded() && !self.pre_hook_failed() && !all_done {
            self.keep_at_start();
            // What is not answered just now was true a moment ago.
            if self.observed.progress.is_some() {
                self.plan.status.progress.clone_from(&self.observed.progress);
            }
            self.wait_for_hosts();
            return self.wait_for_deadline();
        }
        // Also where the work died: what the hook before stopped has to go on.
        if self.post_hook() {
            self.close();
        }
    }

    fn ensure_executor(&mut self) {
        let hosts = self.observed.hosts.clone();
        let (ruled, others): (Vec<Host>, Vec<Host>) = hosts.into_iter().partition(|host| self.has_rule(host));
        let mut message = "Successfully ensured restore executor.".to_owned();
        if !others.is_empty() {
            let names: Vec<&str> = others.iter().map(|host| host.name.as_str()).collect();
            message = format!("{message} No rule is for {}: nothing is restored there.", names.join(", "));
        }
        self.conditions().is(
            aspects::RESTORE_EXECUTOR_ENSURED,
            reasons::SUCCESSFULLY_ENSURED_RESTORE_EXECUTOR,
            message,
        );
        for host in others {
            self.push(HostRestoreStats {
                hostname: Some(host.name.clone()),
                phase: Some(HostRestorePhase::Succeeded),
                ..HostRestoreStats::default()
            });
            self.plan.actions.push(Action::MakeClaims(host));
        }
        if matches!(self.observed.way, Way::AtStart(_)) {
            self.inject();
        } else {
            self.plan.actions.extend(ruled.into_iter().map(Action::StartRestore));
        }
        if self.observed.hosts.iter().all(|host| self.is_done(&host.name)) {
            self.wait(Duration::from_millis(1));
        }
    }

    /// Has the init container put into the workload.
    fn inject(&mut self) {
        self.plan.actions.push(Action::Inject);
        self.conditions().is(
            aspects::STASH_INIT_CONTAINER_INJECTED,
            reasons::INIT_CONTAINER_INJECTION_SUCCEEDED,
            "Successfully injected init-container: pods restore their volumes when they start anew.",
        );
    }

    /// Sees to it that the workload keeps its init container, and that each host has a pod that restores it.
    fn keep_at_start(&mut self) {
        if !matches!(self.observed.way, Way::AtStart(_)) {
            return;
        }
        if !self.observed.is_injected {
            // Somebody applied the workload as it was.
            self.inject();
        }
        if !self.observed.elections.is_empty() {
            self.plan.actions.push(Action::Elect(self.observed.elections.clone()));
        }
    }

    fn look_at(&mut self, host: &Host) {
        match self.observed.jobs.get(&host.job).cloned() {
            Some(Work::Reported(outcome)) => {
                let phase = match &outcome.error {
                    _ if outcome.is_unknown => HostRestorePhase::Unknown,
                    Some(_) => HostRestorePhase::Failed,
                    None => HostRestorePhase::Succeeded,
                };
                self.push(HostRestoreStats {
                    hostname: Some(host.name.clone()),
                    phase: Some(phase),
                    duration: outcome.duration,
                    error: outcome.error,
                });
            }
            Some(Work::Silent(why)) => self.fail(&host.name, &format!("the Job ended without a report: {why}")),
            Some(Work::Disrupted(why) | Work::Left(why)) => {
                self.fail(
                    &host.name,
                    &format!("the Job was disrupted: {why}; another RestoreSession goes on where it ended"),
                );
            }
            Some(Work::Absent) | None if snapshotter::is_by_claims(self.observed.session) => {
                self.fail(&host.name, "a claim of it was deleted");
            }
            // There is none.
            Some(Work::Absent) | None if matches!(self.observed.way, Way::AtStart(_)) => {}
            Some(Work::Absent) | None => self.fail(&host.name, "the Job was deleted"),
            Some(Work::Running) => {
                if self.observed.without_secret.contains(&host.job) {
                    self.plan.actions.push(Action::StartRestore(host.clone()));
                    self.wait(LOOK_AT_SECRET);
                } else if let Some(again) = self.observed.secret_again {
                    self.wait(until(again, self.now));
                }
            }
        }
    }

    fn is_done(&self, host: &str) -> bool {
        self.plan.status.stats.iter().any(|stats| stats.hostname.as_deref() == Some(host))
    }

    fn push(&mut self, stats: HostRestoreStats) {
        self.plan.status.stats.push(stats);
    }

    fn fail(&mut self, host: &str, why: &str) {
        self.push(failed(host, why));
    }

    /// Has the Jobs deleted that are at work.
    fn stop(&mut self) {
        let jobs = self.observed.hosts.iter().map(|host| host.job.clone());
        let running = |job: &String| matches!(self.observed.jobs.get(job), Some(Work::Running | Work::Left(_)));
        let jobs: Vec<String> = jobs.filter(running).collect();
        if !jobs.is_empty() {
            self.plan.actions.push(Action::StopJobs(jobs));
        }
    }

    /// Looks again at claims that are not bound and at pods that restore, and says what is waited for.
    fn wait_for_hosts(&mut self) {
        match &self.observed.way {
            _ if snapshotter::is_by_claims(self.observed.session) => self.wait(LOOK_AT_CLAIMS),
            Way::AtStart(_) => self.wait(LOOK_AT_PODS),
            Way::Jobs | Way::Undecided => return self.wait(LOOK_AT_PROGRESS),
        }
        let waits: Vec<&str> = self.observed.waits.values().map(String::as_str).collect();
        if !waits.is_empty() {
            let message = format!("Successfully ensured restore executor. {}", waits.join(" "));
            let reason = reasons::SUCCESSFULLY_ENSURED_RESTORE_EXECUTOR;
            self.conditions().is(aspects::RESTORE_EXECUTOR_ENSURED, reason, message);
        }
    }

    fn is_exceeded(&self) -> bool {
        is_true(&self.plan.status.conditions, aspects::DEADLINE_EXCEEDED)
    }

    /// Ends what takes longer than it may: the work itself, not only the phase.
    fn exceed(&mut self) {
        let allowed = self.observed.session.spec.time_out.clone().unwrap_or_default();
        let message = format!("Failed to complete restore within {allowed}.");
        for host in self.observed.hosts.clone() {
            if !self.is_done(&host.name) {
                let why = self.observed.waits.get(&host.name).map_or(String::new(), |why| format!(" {why}"));
                self.fail(&host.name, &format!("{message}{why}"));
            }
        }
        self.stop();
        self.conditions().is(aspects::DEADLINE_EXCEEDED, reasons::FAILED_TO_COMPLETE_WITHIN_DEADLINE, message);
    }

    pub(super) fn wait_for_deadline(&mut self) {
        if let Some(deadline) = self.plan.status.session_deadline.clone() {
            self.wait(until(deadline.0, self.now));
        }
    }

    /// Closes a restore of which nothing runs any more. The last condition is the one that Stash waits for.
    fn close(&mut self) {
        let message = "Successfully pushed metrics: the controller serves them at /metrics.";
        self.conditions().is(aspects::METRICS_PUSHED, reasons::SUCCESSFULLY_PUSHED_METRICS, message);
        let created = self.observed.session.metadata.creation_timestamp.as_ref().map_or(self.now, |time| time.0);
        let took = Duration::try_from(self.now.duration_since(created)).unwrap_or_default();
        self.plan.status.session_duration.get_or_insert_with(|| go_duration::format_rounded(took));
        self.plan.status.progress = None;
        self.plan.requeue = None;
    }
}

/// Returns what is said of a host that was not restored.
pub(super) fn failed(host: &str, why: &str) -> HostRestoreStats {
    HostRestoreStats {
        hostname: Some(host.to_owned()),
        phase: Some(HostRestorePhase::Failed),
        error: Some(why.to_owned()),
        ..HostRestoreStats::default()
    }
}

/// Returns what is told of hosts that are done now and were not before.
pub(super) fn host_notices(old: &RestoreSessionStatus, status: &RestoreSessionStatus) -> Vec<Notice> {
    let is_new = |stats: &&HostRestoreStats| !old.stats.iter().any(|before| before.hostname == stats.hostname);
    let told = status.stats.iter().filter(is_new).map(|stats| {
        let host = stats.hostname.as_deref().unwrap_or_default();
        match &stats.error {
            Some(error) => Notice::warning(HOST_RESTORE_FAILED, format!("Failed to restore {host}. Reason: {error}")),
            None => Notice::normal(HOST_RESTORE_SUCCEEDED, format!("Successfully restored {host}.")),
        }
    });
    told.collect()
}
