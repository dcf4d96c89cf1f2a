//! What a Job's report says, as the status has it. Pure.
//!
//! A report is the termination message of a pod: what cannot be read is a Job without a report.

use std::time::Duration;

use stash_crds::backup_session::{FileStats, SnapshotStats};
use stash_proto::job::{ErrorCode, JobError, JobReport, Outcome, SnapshotReport, Step as Reported};

use super::outcome::{Forgotten, HostOutcome, Measured, Step, Upkeep, Work};
use crate::{go_duration, units};

/// How long a text of a report may be in a status.
const TEXT_LIMIT: usize = 1024;

/// Reads the report of a Job that backed up a host.
pub fn host(message: &str) -> Work<HostOutcome> {
    let report = match read(message) {
        Ok(report) => report,
        Err(work) => return work,
    };
    let (backup, began) = match report.outcome {
        Outcome::Backup(backup) => (backup, true),
        Outcome::Nothing | Outcome::Maintain(_) | Outcome::Restore(_) => Default::default(),
    };
    let repository = match &report.error {
        Some(error) if is_of_repository(error.code) => Some(Err(said(error))),
        _ if began => Some(Ok(())),
        _ => None,
    };
    Work::Reported(HostOutcome {
        repository,
        error: report.error.as_ref().map(|error| {
            let unreadable = backup.unreadable.names.iter().map(|name| text(name));
            let names: Vec<String> = [said(error)].into_iter().chain(unreadable).collect();
            names.join("; ")
        }),
        duration: Some(go_duration::format(duration(report.duration_seconds))),
        snapshots: backup.snapshots.iter().map(snapshot).collect(),
    })
}

/// Reads the report of a Job that looked after a repository.
pub fn upkeep(message: &str) -> Work<Upkeep> {
    let report = match read(message) {
        Ok(report) => report,
        Err(work) => return work,
    };
    let done = match report.outcome {
        Outcome::Maintain(done) => done,
        Outcome::Nothing | Outcome::Backup(_) | Outcome::Restore(_) => Default::default(),
    };
    // Pruning is part of applying the policy, as in Stash: a failure of either is one of the policy.
    let pruned = done.prune.map(|prune| step(prune, |_| ()));
    let forgot = done.forget.map(|forget| step(forget, |found| Forgotten { kept: found.kept, removed: found.removed }));
    let mut upkeep = Upkeep {
        forget: match (forgot, pruned) {
            (Some(Ok(_)) | None, Some(Err(why))) => Some(Err(why)),
            (forgot, _) => forgot,
        },
        check: done.check.map(|check| step(check, |found| found.integrity)),
        stats: done.stats.map(|stats| {
            step(stats, |found| Measured {
                bytes: found.total_bytes,
                snapshots: found.snapshots,
                first: found.first_snapshot.and_then(|time| time.parse().ok()),
            })
        }),
    };
    if let Some(error) = &report.error
        && upkeep == Upkeep::default()
    {
        // It came to no step at all.
        upkeep.forget = Some(Err(said(error)));
    }
    Work::Reported(upkeep)
}

/// Returns why a Job failed, as its report says it; `None` for one that did not.
pub fn failure(message: &str) -> Option<String> {
    match JobReport::parse(message) {
        Ok(report) => report.error.as_ref().map(said),
        Err(_) => Some("what its pod left is no report".to_owned()),
    }
}

fn read<T>(message: &str) -> Result<JobReport, Work<T>> {
    // What a pod says is shown to nobody: it may be anything.
    let report = JobReport::parse(message).map_err(|_| Work::Silent("what its pod left is no report".to_owned()))?;
    match &report.error {
        Some(error) if error.code == ErrorCode::Disrupted => Err(Work::Disrupted(said(error))),
        _ => Ok(report),
    }
}

/// Whether a failure says that there is no repository that can be used.
fn is_of_repository(code: ErrorCode) -> bool {
    match code {
        ErrorCode::BadAddress
        | ErrorCode::BadSecret
        | ErrorCode::WrongPassword
        | ErrorCode::NoRepository
        | ErrorCode::Denied
        | ErrorCode::Unreachable => true,
        // What was opened may be full, locked or damaged; the rest is of the source and of the Job.
        _ => false,
    }
}

fn step<T, U>(step: Reported<T>, found: impl FnOnce(T) -> U) -> Step<U> {
    match step {
        Reported::Done(done) => Ok(found(done)),
        Reported::Failed(error) => Err(said(&error)),
    }
}

pub(crate) fn said(error: &JobError) -> String {
    text(&error.message)
}

/// Returns a text as a status may hold it: short, and in one line.
pub(crate) fn text(text: &str) -> String {
    text.chars().take(TEXT_LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn snapshot(report: &SnapshotReport) -> SnapshotStats {
    let number = |number: u64| Some(i64::try_from(number).unwrap_or(i64::MAX));
    SnapshotStats {
        name: Some(text(&report.id)),
        path: Some(text(&report.path)),
        total_size: Some(units::size(report.total_bytes)),
        uploaded: Some(units::size(report.uploaded_bytes)),
        processing_time: Some(units::clock(duration(report.processing_seconds))),
        file_stats: Some(FileStats {
            total_files: number(report.files.total),
            new_files: number(report.files.new),
            modified_files: number(report.files.modified),
            unmodified_files: number(report.files.unmodified),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn host_of(report: Value) -> HostOutcome {
        match host(&report.to_string()) {
            Work::Reported(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn upkeep_of(report: Value) -> Upkeep {
        match upkeep(&report.to_string()) {
            Work::Reported(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn failed(code: &str, message: &str) -> Value {
        json!({"code": code, "message": message})
    }

    #[test]
    fn test_reports_of_hosts() {
        let snapshot = json!({
            "id": "ab", "path": "/stash-data", "totalBytes": 5_452_595, "uploadedBytes": 10, "processingSeconds": 61.5,
            "files": {"total": 3, "new": 1, "modified": 1, "unmodified": 1}
        });
        let outcome = host_of(json!({"durationSeconds": 1.5, "outcome": {"backup": {"snapshots": [snapshot]}}}));
        assert_eq!(
            (outcome.repository, outcome.error, outcome.duration.as_deref()),
            (Some(Ok(())), None, Some("1.5s"))
        );
        assert_eq!(
            serde_json::to_value(&outcome.snapshots[0]).unwrap(),
            json!({"name": "ab", "path": "/stash-data", "totalSize": "5.200 MiB", "uploaded": "10 B", "processingTime": "1:01",
                "fileStats": {"totalFiles": 3, "newFiles": 1, "modifiedFiles": 1, "unmodifiedFiles": 1}})
        );
        let wrong = host_of(json!({"error": failed("wrong-password", "the password\nopens no key")}));
        let why = "the password opens no key".to_owned();
        assert_eq!((wrong.error, wrong.repository), (Some(why.clone()), Some(Err(why))));
        let full = host_of(json!({"error": failed("full", "no space"), "outcome": {"backup": {}}}));
        assert_eq!((full.error.as_deref(), full.repository), (Some("no space"), Some(Ok(()))));
        let bad = host_of(json!({"error": failed("bad-arguments", "--stdin: no")}));
        assert_eq!((bad.error.as_deref(), bad.repository), (Some("--stdin: no"), None));
        let unreadable = json!({"backup": {"unreadable": {"count": 2, "names": ["/a: denied", "/b: denied"]}}});
        let partly = host_of(json!({"error": failed("partly-read", "2 entries"), "outcome": unreadable}));
        assert_eq!(partly.error.as_deref(), Some("2 entries; /a: denied; /b: denied"));
        assert_eq!(host_of(json!({"durationSeconds": -1e300})).duration.as_deref(), Some("0s"));
    }

    #[test]
    fn test_what_is_no_report_of_work_done() {
        for nonsense in ["", "panicked at", "[]", "{\"durationSeconds\": \"x\"}"] {
            assert!(matches!(host(nonsense), Work::Silent(_)), "{nonsense}");
        }
        let stopped = json!({"error": failed("disrupted", "told to stop")}).to_string();
        assert_eq!(host(&stopped), Work::Disrupted("told to stop".to_owned()));
        assert_eq!(upkeep(&stopped), Work::Disrupted("told to stop".to_owned()));
    }

    #[test]
    fn test_reports_of_upkeep() {
        let done = |what: Value| json!({"done": what});
        let all = json!({
            "forget": done(json!({"kept": 5, "removed": 2})), "prune": done(json!({})), "check": done(json!({"integrity": true})),
            "stats": done(json!({"totalBytes": 7, "snapshots": 5, "firstSnapshot": "2026-01-01T00:00:00Z"}))
        });
        let read = upkeep_of(json!({"outcome": {"maintain": all.clone()}}));
        assert_eq!(read.forget, Some(Ok(Forgotten { kept: 5, removed: 2 })));
        let first = Some("2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!((read.check, read.stats), (Some(Ok(true)), Some(Ok(Measured { bytes: 7, snapshots: 5, first }))));
        let mut locked = all;
        locked["prune"] = json!({"failed": failed("locked", "somebody has it")});
        let read = upkeep_of(json!({"error": failed("locked", "somebody has it"), "outcome": {"maintain": locked}}));
        assert_eq!((read.forget, read.check), (Some(Err("somebody has it".to_owned())), Some(Ok(true))));
        let denied = upkeep_of(json!({"error": failed("denied", "no")}));
        assert_eq!((denied.forget, denied.check), (Some(Err("no".to_owned())), None));
    }
}
