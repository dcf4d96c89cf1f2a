//! What templates of hooks see of a session, and which outcomes a hook is called after. Pure.

use std::time::Duration;

use jiff::Timestamp;
use stash_crds::backup_session::{BackupSessionStatus, BackupTargetStatus, HostBackupPhase};
use stash_crds::conditions::{self as aspects, Condition, FALSE, TRUE};
use stash_crds::hooks::{BackupExecutionPolicy, RestoreExecutionPolicy};
use stash_crds::restore_session::{HostRestorePhase, RestoreSessionStatus};
use stash_crds::{BackupSession, RestoreSession};

use super::template::value::Value;
use crate::go_duration;

/// Stash's summary of a session, for a target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the field of the same name in Stash's documentation")]
pub struct Summary {
    pub name: String,
    pub namespace: String,
    pub invoker_api_group: String,
    pub invoker_kind: String,
    pub invoker_name: String,
    pub target_api_version: String,
    pub target_kind: String,
    pub target_name: String,
    pub target_namespace: String,
    /// `Succeeded` or `Failed`: what is known until now.
    pub phase: &'static str,
    /// Since the session was made, as Go writes it.
    pub duration: String,
    pub error: String,
    pub retry_left: i32,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            name: String::new(),
            namespace: String::new(),
            invoker_api_group: String::new(),
            invoker_kind: String::new(),
            invoker_name: String::new(),
            target_api_version: String::new(),
            target_kind: String::new(),
            target_name: String::new(),
            target_namespace: String::new(),
            phase: "Succeeded",
            duration: String::new(),
            error: String::new(),
            retry_left: 0,
        }
    }
}

impl Summary {
    /// Sums up `session`, of which `status` is what is known `now`.
    pub fn of(session: &BackupSession, status: &BackupSessionStatus, now: Timestamp) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let target = status.targets.first();
        let reference = target.and_then(|target| target.reference.clone()).unwrap_or_default();
        let created = session.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        let took = Duration::try_from(now.duration_since(created)).unwrap_or_default();
        let error = target.and_then(failure).or_else(|| status.conditions.iter().find_map(bad));
        Self {
            name: text(&session.metadata.name),
            namespace: text(&session.metadata.namespace),
            invoker_api_group: text(&session.spec.invoker.api_group),
            invoker_kind: session.spec.invoker.kind.clone(),
            invoker_name: session.spec.invoker.name.clone(),
            target_api_version: text(&reference.api_version),
            target_kind: text(&reference.kind),
            target_name: text(&reference.name),
            target_namespace: text(&reference.namespace),
            phase: if error.is_some() { "Failed" } else { "Succeeded" },
            duration: go_duration::format_rounded(took),
            error: error.unwrap_or_default(),
            retry_left: session.spec.retry_left.unwrap_or(0),
        }
    }

    /// Sums up a restore, of which `status` is what is known `now`. It is its own invoker.
    pub fn of_restore(session: &RestoreSession, status: &RestoreSessionStatus, now: Timestamp) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let reference = session.spec.target.as_ref().and_then(|target| target.reference.clone()).unwrap_or_default();
        let namespace = text(&session.metadata.namespace);
        let created = session.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        let took = Duration::try_from(now.duration_since(created)).unwrap_or_default();
        let ended = |phase: &Option<HostRestorePhase>| {
            matches!(phase, Some(HostRestorePhase::Failed | HostRestorePhase::Unknown))
        };
        let of_host = status.stats.iter().find(|stats| ended(&stats.phase)).map(|stats| text(&stats.error));
        let error = of_host.or_else(|| status.conditions.iter().find_map(bad));
        Self {
            name: text(&session.metadata.name),
            target_namespace: reference
                .namespace
                .clone()
                .filter(|own| !own.is_empty())
                .unwrap_or_else(|| namespace.clone()),
            namespace,
            invoker_api_group: "stash.appscode.com".to_owned(),
            invoker_kind: "RestoreSession".to_owned(),
            invoker_name: text(&session.metadata.name),
            target_api_version: text(&reference.api_version),
            target_kind: text(&reference.kind),
            target_name: text(&reference.name),
            phase: if error.is_some() { "Failed" } else { "Succeeded" },
            duration: go_duration::format_rounded(took),
            error: error.unwrap_or_default(),
            retry_left: 0,
        }
    }

    /// Returns why a hook of `policy` is not called after this outcome of a restore; nothing if it is.
    pub fn spares_restore(&self, policy: &RestoreExecutionPolicy) -> Option<String> {
        let failed = self.phase == "Failed";
        let called = match policy {
            RestoreExecutionPolicy::Always => true,
            RestoreExecutionPolicy::OnFailure => failed,
            RestoreExecutionPolicy::OnSuccess => !failed,
            // It was refused when the session was looked at.
            RestoreExecutionPolicy::Other(_) => false,
        };
        let outcome = if failed { "the restore failed" } else { "the restore succeeded" };
        (!called).then(|| format!("executionPolicy is {policy} and {outcome}"))
    }

    /// Returns summaries such as templates will see.
    pub fn samples() -> [Self; 2] {
        let failed = Self { phase: "Failed", error: "it failed".to_owned(), retry_left: 1, ..Self::default() };
        [Self::default(), failed]
    }

    /// Returns it as templates see it.
    pub fn value(&self) -> Value {
        let text = |text: &str| Value::Text(text.to_owned());
        Value::record([
            ("Name", "name", text(&self.name)),
            ("Namespace", "namespace", text(&self.namespace)),
            (
                "Invoker",
                "invoker",
                Value::record([
                    ("APIGroup", "apiGroup", text(&self.invoker_api_group)),
                    ("Kind", "kind", text(&self.invoker_kind)),
                    ("Name", "name", text(&self.invoker_name)),
                ]),
            ),
            (
                "Target",
                "target",
                Value::record([
                    ("APIVersion", "apiVersion", text(&self.target_api_version)),
                    ("Kind", "kind", text(&self.target_kind)),
                    ("Name", "name", text(&self.target_name)),
                    ("Namespace", "namespace", text(&self.target_namespace)),
                ]),
            ),
            (
                "Status",
                "status",
                Value::record([
                    ("Phase", "phase", text(self.phase)),
                    ("Duration", "duration", text(&self.duration)),
                    ("Error", "error", text(&self.error)),
                ]),
            ),
            ("RetryLeft", "retryLeft", Value::Number(self.retry_left.into())),
        ])
    }

    /// Returns why a hook of `policy` is not called after this outcome; nothing if it is.
    pub fn spares(&self, policy: &BackupExecutionPolicy) -> Option<String> {
        let failed = self.phase == "Failed";
        let called = match policy {
            BackupExecutionPolicy::Always => true,
            BackupExecutionPolicy::OnFailure => failed,
            BackupExecutionPolicy::OnSuccess => !failed,
            BackupExecutionPolicy::OnFinalRetryFailure => failed && self.retry_left <= 0,
            // It was refused when the configuration was looked at.
            BackupExecutionPolicy::Other(_) => false,
        };
        let outcome = match (failed, self.retry_left > 0) {
            (false, _) => "the backup succeeded",
            (true, true) => "the backup failed and is tried again",
            (true, false) => "the backup failed",
        };
        (!called).then(|| format!("executionPolicy is {policy} and {outcome}"))
    }
}

/// Returns why the backup of a target failed, if it did.
fn failure(target: &BackupTargetStatus) -> Option<String> {
    let failed = target.stats.iter().find(|stats| stats.phase == Some(HostBackupPhase::Failed));
    let of_host = failed.map(|stats| stats.error.clone().unwrap_or_default());
    of_host.or_else(|| target.conditions.iter().find_map(bad))
}

/// Returns what a condition says if it is a bad one.
fn bad(condition: &Condition) -> Option<String> {
    let worst = [aspects::DEADLINE_EXCEEDED, aspects::BACKUP_DISRUPTED].contains(&condition.type_.as_str());
    let bad = condition.status == FALSE || (worst && condition.status == TRUE);
    bad.then(|| condition.message.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn summary(status: Json, retry_left: i32) -> Summary {
        let session: BackupSession = serde_json::from_value(json!({
            "metadata": {"name": "nightly-1", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"invoker": {"apiGroup": "stash.appscode.com", "kind": "BackupConfiguration", "name": "nightly"},
                "retryLeft": retry_left}, "status": status
        }))
        .unwrap();
        let status = session.status.clone().unwrap();
        Summary::of(&session, &status, "2026-01-01T00:01:10.4Z".parse().unwrap())
    }

    #[test]
    fn test_a_session_is_summed_up_as_in_stash() {
        let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "namespace": "shop"});
        let well = summary(json!({"targets": [{"ref": reference, "stats": [{"phase": "Succeeded"}]}]}), 0);
        assert_eq!(
            well.value().json(),
            json!({
                "name": "nightly-1", "namespace": "shop",
                "invoker": {"apiGroup": "stash.appscode.com", "kind": "BackupConfiguration", "name": "nightly"},
                "target": reference, "status": {"phase": "Succeeded", "duration": "1m10s", "error": ""}, "retryLeft": 0
            })
        );
        let condition =
            |aspect: &str, status: &str| json!({"type": aspect, "status": status, "message": format!("{aspect}!")});
        for (target, conditions, expected) in [
            (json!({"stats": [{"phase": "Succeeded"}, {"phase": "Failed", "error": "full"}]}), json!([]), "full"),
            (json!({"conditions": [condition("BackupExecutorEnsured", "False")]}), json!([]), "BackupExecutorEnsured!"),
            (json!({"conditions": [condition("BackupDisrupted", "True")]}), json!([]), "BackupDisrupted!"),
            (json!({}), json!([condition("RetentionPolicyApplied", "False")]), "RetentionPolicyApplied!"),
            (json!({}), json!([condition("DeadlineExceeded", "True")]), "DeadlineExceeded!"),
            (
                json!({"conditions": [condition("PreBackupHookExecutionSucceeded", "Unknown")]}),
                json!([condition("RetentionPolicyApplied", "True")]),
                "",
            ),
        ] {
            let found = summary(json!({"targets": [target], "conditions": conditions}), 0);
            let phase = if expected.is_empty() { "Succeeded" } else { "Failed" };
            assert_eq!((found.phase, found.error.as_str()), (phase, expected), "{target} {conditions}");
        }
    }

    #[test]
    fn test_policies() {
        use BackupExecutionPolicy::{Always, OnFailure, OnFinalRetryFailure, OnSuccess};
        for (policy, well, failed, finally) in [
            (Always, true, true, true),
            (OnSuccess, true, false, false),
            (OnFailure, false, true, true),
            (OnFinalRetryFailure, false, false, true),
        ] {
            let called = |phase, retry_left| Summary { phase, retry_left, ..Summary::default() }.spares(&policy);
            assert_eq!(called("Succeeded", 0).is_none(), well, "{policy}");
            assert_eq!(called("Failed", 1).is_none(), failed, "{policy}");
            assert_eq!(called("Failed", 0).is_none(), finally, "{policy}");
        }
        let spared = Summary { phase: "Failed", retry_left: 2, ..Summary::default() }.spares(&OnFinalRetryFailure);
        assert_eq!(
            spared.as_deref(),
            Some("executionPolicy is OnFinalRetryFailure and the backup failed and is tried again")
        );
    }
}
