//! The phases of a session and of its targets: what Stash computes from counts and conditions, to the letter.

use stash_crds::backup_session::{
    BackupSessionPhase, BackupSessionStatus, BackupTargetPhase, BackupTargetStatus, HostBackupPhase,
};
use stash_crds::conditions as aspects;

use crate::conditions::{is_false, is_true};

/// Returns how far the backup of a target is.
pub fn of_target(target: &BackupTargetStatus) -> BackupTargetPhase {
    let conditions = &target.conditions;
    let failed = is_false(conditions, aspects::BACKUP_EXECUTOR_ENSURED)
        || is_false(conditions, aspects::PRE_BACKUP_HOOK_EXECUTION_SUCCEEDED)
        || is_false(conditions, aspects::POST_BACKUP_HOOK_EXECUTION_SUCCEEDED)
        || is_true(conditions, aspects::BACKUP_DISRUPTED);
    if failed {
        return BackupTargetPhase::Failed;
    }
    let Some(total) = target.total_hosts else { return BackupTargetPhase::Pending };
    let count =
        |phase: HostBackupPhase| target.stats.iter().filter(|stats| stats.phase.as_ref() == Some(&phase)).count();
    let (succeeded, failed) = (count(HostBackupPhase::Succeeded), count(HostBackupPhase::Failed));
    if usize::try_from(total).is_ok_and(|total| succeeded + failed == total) {
        if failed > 0 { BackupTargetPhase::Failed } else { BackupTargetPhase::Succeeded }
    } else {
        BackupTargetPhase::Running
    }
}

/// Whether a target is done.
pub fn is_target_final(target: &BackupTargetStatus) -> bool {
    matches!(target.phase, Some(BackupTargetPhase::Succeeded | BackupTargetPhase::Failed))
}

/// Returns how far a session is. The phases of its targets are those that the status says.
pub fn of_session(status: &BackupSessionStatus) -> BackupSessionPhase {
    let conditions = &status.conditions;
    let (pushed, bad) = (is_true(conditions, aspects::METRICS_PUSHED), |aspect| is_false(conditions, aspect));
    if bad(aspects::METRICS_PUSHED) {
        return BackupSessionPhase::Failed;
    }
    if is_true(conditions, aspects::BACKUP_SKIPPED) {
        return BackupSessionPhase::Skipped;
    }
    let broken = is_true(conditions, aspects::DEADLINE_EXCEEDED)
        || bad(aspects::BACKUP_HISTORY_CLEANED)
        || bad(aspects::GLOBAL_PRE_BACKUP_HOOK_SUCCEEDED)
        || bad(aspects::GLOBAL_POST_BACKUP_HOOK_SUCCEEDED);
    if pushed && broken {
        return BackupSessionPhase::Failed;
    }
    if status.targets.iter().all(|target| matches!(target.phase, None | Some(BackupTargetPhase::Pending))) {
        return BackupSessionPhase::Pending;
    }
    if pushed && status.targets.iter().all(is_target_final) {
        let failed = status.targets.iter().any(|target| target.phase == Some(BackupTargetPhase::Failed))
            || bad(aspects::RETENTION_POLICY_APPLIED)
            || bad(aspects::REPOSITORY_METRICS_PUSHED)
            || bad(aspects::REPOSITORY_INTEGRITY_VERIFIED);
        return if failed { BackupSessionPhase::Failed } else { BackupSessionPhase::Succeeded };
    }
    BackupSessionPhase::Running
}

/// Whether a session is done. What Stash never sets counts as done: it will not go on.
pub fn is_final(phase: Option<&BackupSessionPhase>) -> bool {
    use BackupSessionPhase::{Failed, Other, Pending, Running, Skipped, Succeeded, Unknown};
    match phase {
        Some(Succeeded | Failed | Skipped | Unknown) => true,
        Some(Pending | Running | Other(_)) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn target(total: Value, stats: &[&str], conditions: &[(&str, &str)]) -> BackupTargetStatus {
        let stats: Vec<Value> = stats.iter().map(|phase| json!({"hostname": "h", "phase": phase})).collect();
        let conditions: Vec<Value> =
            conditions.iter().map(|(aspect, status)| json!({"type": aspect, "status": status})).collect();
        serde_json::from_value(json!({"totalHosts": total, "stats": stats, "conditions": conditions})).unwrap()
    }

    #[test]
    fn test_phases_of_targets() {
        let (s, f) = ("Succeeded", "Failed");
        for (total, stats, conditions, expected) in [
            (json!(null), &[][..], &[][..], BackupTargetPhase::Pending),
            (json!(2), &[], &[], BackupTargetPhase::Running),
            (json!(2), &[s], &[], BackupTargetPhase::Running),
            (json!(2), &[s, s], &[], BackupTargetPhase::Succeeded),
            (json!(2), &[s, f], &[], BackupTargetPhase::Failed),
            (json!(2), &[s, "Odd"], &[], BackupTargetPhase::Running),
            (json!(0), &[], &[], BackupTargetPhase::Succeeded),
            (json!(-1), &[], &[], BackupTargetPhase::Running),
            (json!(1), &[s], &[("BackupExecutorEnsured", "False")], BackupTargetPhase::Failed),
            (json!(1), &[s], &[("BackupExecutorEnsured", "True")], BackupTargetPhase::Succeeded),
            (json!(1), &[], &[("PreBackupHookExecutionSucceeded", "False")], BackupTargetPhase::Failed),
            (json!(1), &[s], &[("PostBackupHookExecutionSucceeded", "False")], BackupTargetPhase::Failed),
            (json!(null), &[], &[("BackupDisrupted", "True")], BackupTargetPhase::Failed),
        ] {
            assert_eq!(
                of_target(&target(total.clone(), stats, conditions)),
                expected,
                "{total} {stats:?} {conditions:?}"
            );
        }
    }

    #[test]
    fn test_phases_of_sessions() {
        use BackupSessionPhase::{Failed, Pending, Running, Skipped, Succeeded};
        let pushed = ("MetricsPushed", "True");
        for (targets, conditions, expected) in [
            (&[][..], &[][..], Pending),
            (&["Pending"], &[], Pending),
            (&["Pending", "Running"], &[], Running),
            (&["Succeeded"], &[], Running),
            (&["Succeeded"], &[("RetentionPolicyApplied", "False")], Running),
            (&["Succeeded"], &[pushed], Succeeded),
            (&["Succeeded", "Failed"], &[pushed], Failed),
            (&["Succeeded", "Running"], &[pushed], Running),
            (&["Succeeded"], &[("MetricsPushed", "False")], Failed),
            (&["Running"], &[("BackupSkipped", "True"), pushed], Skipped),
            (&["Running"], &[("DeadlineExceeded", "True")], Running),
            (&["Running"], &[("DeadlineExceeded", "True"), pushed], Failed),
            (&["Succeeded"], &[("BackupHistoryCleaned", "False"), pushed], Failed),
            (&[], &[("GlobalPreBackupHookSucceeded", "False"), pushed], Failed),
            (&["Succeeded"], &[("GlobalPostBackupHookSucceeded", "False"), pushed], Failed),
            (&["Succeeded"], &[("RetentionPolicyApplied", "False"), pushed], Failed),
            (&["Succeeded"], &[("RepositoryIntegrityVerified", "False"), pushed], Failed),
            (&["Succeeded"], &[("RepositoryMetricsPushed", "False"), pushed], Failed),
            (&["Succeeded"], &[("RepositoryMetricsPushed", "True"), pushed], Succeeded),
        ] {
            let targets_json: Vec<Value> = targets.iter().map(|phase| json!({"phase": phase})).collect();
            let listed: Vec<Value> =
                conditions.iter().map(|(aspect, status)| json!({"type": aspect, "status": status})).collect();
            let status = serde_json::from_value(json!({"targets": targets_json, "conditions": listed})).unwrap();
            assert_eq!(of_session(&status), expected, "{targets:?} {conditions:?}");
        }
    }
}
