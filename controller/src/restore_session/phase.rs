//! The phases of a restore: what Stash computes from counts and conditions.

use stash_crds::RestoreSession;
use stash_crds::conditions as aspects;
use stash_crds::restore_session::{HostRestorePhase, RestorePhase, RestoreSessionStatus};

use crate::conditions::{is_false, is_true};

/// Whether a restore is over.
pub fn is_final(phase: Option<&RestorePhase>) -> bool {
    phase.is_some_and(RestorePhase::is_final)
}

/// Whether nothing more happens to a session.
pub fn is_over(session: &RestoreSession) -> bool {
    is_final(session.status.as_ref().and_then(|status| status.phase.as_ref()))
}

/// Returns how far the hosts of the target are.
pub fn of_target(status: &RestoreSessionStatus) -> RestorePhase {
    let bad = |aspect| is_false(&status.conditions, aspect);
    if bad(aspects::RESTORE_EXECUTOR_ENSURED)
        || bad(aspects::PRE_RESTORE_HOOK_EXECUTION_SUCCEEDED)
        || bad(aspects::POST_RESTORE_HOOK_EXECUTION_SUCCEEDED)
    {
        return RestorePhase::Failed;
    }
    let Some(total) = status.total_hosts.filter(|_| !bad(aspects::RESTORE_TARGET_FOUND)) else {
        return RestorePhase::Pending;
    };
    let count =
        |phase: HostRestorePhase| status.stats.iter().filter(|stats| stats.phase.as_ref() == Some(&phase)).count();
    let (unknown, failed) = (count(HostRestorePhase::Unknown), count(HostRestorePhase::Failed));
    let ended = unknown + failed + count(HostRestorePhase::Succeeded);
    match (usize::try_from(total) == Ok(ended), unknown, failed) {
        (false, ..) => RestorePhase::Running,
        (true, 1.., _) => RestorePhase::Unknown,
        (true, 0, 1..) => RestorePhase::Failed,
        (true, 0, 0) => RestorePhase::Succeeded,
    }
}

/// Returns how far a restore is.
///
/// In one thing Stash's order is not kept: what is asked for and not possible is `Invalid` before anything is counted, where Stash
/// says `Pending` for ever.
pub fn of_session(status: &RestoreSessionStatus) -> RestorePhase {
    let conditions = &status.conditions;
    let (pushed, bad) = (is_true(conditions, aspects::METRICS_PUSHED), |aspect| is_false(conditions, aspect));
    if bad(aspects::METRICS_PUSHED) || (pushed && is_true(conditions, aspects::DEADLINE_EXCEEDED)) {
        return RestorePhase::Failed;
    }
    let missing = [aspects::REPOSITORY_FOUND, aspects::BACKEND_SECRET_FOUND, aspects::RESTORE_TARGET_FOUND];
    if status.total_hosts.is_none() && bad(aspects::VALIDATION_PASSED) && !missing.iter().any(|aspect| bad(aspect)) {
        return RestorePhase::Invalid;
    }
    let target = of_target(status);
    if conditions.is_empty() || target == RestorePhase::Pending || missing.iter().any(|aspect| bad(aspect)) {
        return RestorePhase::Pending;
    }
    if is_final(Some(&target)) {
        return if pushed { target } else { RestorePhase::Running };
    }
    if bad(aspects::VALIDATION_PASSED) { RestorePhase::Invalid } else { RestorePhase::Running }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn test_phases_are_those_of_stash() {
        use RestorePhase::{Failed, Invalid, Pending, Running, Succeeded, Unknown};
        let well = ("RepositoryFound", "True");
        let pushed = ("MetricsPushed", "True");
        for (total, stats, conditions, expected) in [
            (None, &[][..], &[][..], Pending),
            (None, &[], &[("RepositoryFound", "False")], Pending),
            (None, &[], &[well, ("BackendSecretFound", "False")], Pending),
            (None, &[], &[well, ("RestoreTargetFound", "False")], Pending),
            (None, &[], &[well, ("ValidationPassed", "False")], Invalid),
            (None, &[], &[("RepositoryFound", "False"), ("ValidationPassed", "False")], Pending),
            (Some(2), &[], &[well], Running),
            (Some(2), &["Succeeded"], &[well], Running),
            (Some(2), &["Succeeded", "Succeeded"], &[well], Running),
            (Some(2), &["Succeeded", "Succeeded"], &[well, pushed], Succeeded),
            (Some(2), &["Succeeded", "Failed"], &[well, pushed], Failed),
            (Some(2), &["Failed", "Unknown"], &[well, pushed], Unknown),
            (Some(1), &[], &[well, ("RestoreExecutorEnsured", "False")], Running),
            (Some(1), &[], &[well, ("RestoreExecutorEnsured", "False"), pushed], Failed),
            (Some(1), &[], &[well, ("PreRestoreHookExecutionSucceeded", "False"), pushed], Failed),
            (Some(1), &["Succeeded"], &[well, ("PostRestoreHookExecutionSucceeded", "False"), pushed], Failed),
            (Some(1), &["Succeeded"], &[well, ("DeadlineExceeded", "True"), pushed], Failed),
            (Some(1), &["Succeeded"], &[well, ("MetricsPushed", "False")], Failed),
            (Some(1), &[], &[("RestoreTargetFound", "False")], Pending),
        ] {
            let listed: Vec<Value> =
                conditions.iter().map(|(aspect, status)| json!({"type": aspect, "status": status})).collect();
            let hosts: Vec<Value> = stats.iter().map(|phase| json!({"hostname": "h", "phase": phase})).collect();
            let status = json!({"totalHosts": total, "stats": hosts, "conditions": listed});
            let status: RestoreSessionStatus = serde_json::from_value(status).unwrap();
            assert_eq!(of_session(&status), expected, "{total:?} {stats:?} {conditions:?}");
        }
    }
}
