//! Conditions: the entry of a list, and the types that Stash uses.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::core_schema::Core;
use crate::tolerant;

/// What is known about one aspect of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["lastTransitionTime", "status", "type"]))]
pub struct Condition {
    /// The aspect: a constant of [`conditions`](crate::conditions).
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The spec's generation of which this is said.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub observed_generation: Option<i64>,
    /// When this was first said as it is.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    #[schemars(with = "Core<Time>")]
    pub last_transition_time: Option<Time>,
    /// How bad it is: `Error`, `Warning`, `Info`, or not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Why, for programs: a constant of [`reasons`](crate::reasons).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The schema of a list of conditions: one of a type, so that two writers do not fight.
pub(crate) struct Conditions;

impl JsonSchema for Conditions {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Conditions".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Vec::<Condition>::json_schema(generator);
        schema.insert("x-kubernetes-list-type".to_owned(), "map".into());
        schema.insert("x-kubernetes-list-map-keys".to_owned(), serde_json::json!(["type"]));
        schema
    }
}

/// The aspect is as it should be.
pub const TRUE: &str = "True";
/// The aspect is not as it should be.
pub const FALSE: &str = "False";
/// It could not be found out.
pub const UNKNOWN: &str = "Unknown";

/// Severity: a human must look.
pub const SEVERITY_ERROR: &str = "Error";
/// Severity: odd, but work goes on.
pub const SEVERITY_WARNING: &str = "Warning";
/// Severity: nothing to worry about.
pub const SEVERITY_INFO: &str = "Info";

// Of a Repository. Those that it shares with others are below.

/// The data goes with the Repository, whose `wipeOut` says so. Ours.
pub const DATA_WIPED_OUT: &str = "DataWipedOut";

// Of what is asked for: BackupConfiguration, BackupBatch, RestoreSession, RestoreBatch.

/// The Repository exists.
pub const REPOSITORY_FOUND: &str = "RepositoryFound";
/// The Repository's Secret exists.
pub const BACKEND_SECRET_FOUND: &str = "BackendSecretFound";
/// What the schema cannot check holds, as the Repository's `usagePolicy`.
pub const VALIDATION_PASSED: &str = "ValidationPassed";
/// What is backed up exists.
pub const BACKUP_TARGET_FOUND: &str = "BackupTargetFound";
/// What is restored exists.
pub const RESTORE_TARGET_FOUND: &str = "RestoreTargetFound";
/// Stash's sidecar is in the workload. Read from objects that Stash wrote; never set here, where nothing is injected.
pub const STASH_SIDECAR_INJECTED: &str = "StashSidecarInjected";
/// The init container that restores is in the workload.
pub const STASH_INIT_CONTAINER_INJECTED: &str = "StashInitContainerInjected";
/// The schedule is kept. In Stash by a CronJob, here by the controller.
pub const CRON_JOB_CREATED: &str = "CronJobCreated";

// Of a BackupSession.

/// The repository exists, or was initialised. Also of a Repository, here.
pub const BACKEND_REPOSITORY_INITIALIZED: &str = "BackendRepositoryInitialized";
/// Old snapshots were forgotten.
pub const RETENTION_POLICY_APPLIED: &str = "RetentionPolicyApplied";
/// The repository was checked.
pub const REPOSITORY_INTEGRITY_VERIFIED: &str = "RepositoryIntegrityVerified";
/// The repository's figures were published.
pub const REPOSITORY_METRICS_PUSHED: &str = "RepositoryMetricsPushed";
/// The batch's hook before all backups succeeded.
pub const GLOBAL_PRE_BACKUP_HOOK_SUCCEEDED: &str = "GlobalPreBackupHookSucceeded";
/// The batch's hook after all backups succeeded.
pub const GLOBAL_POST_BACKUP_HOOK_SUCCEEDED: &str = "GlobalPostBackupHookSucceeded";
/// The session was skipped.
pub const BACKUP_SKIPPED: &str = "BackupSkipped";
/// Old sessions were deleted.
pub const BACKUP_HISTORY_CLEANED: &str = "BackupHistoryCleaned";
/// The session's figures were published: the last step before it ends.
pub const METRICS_PUSHED: &str = "MetricsPushed";
/// The work took longer than it may.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

// Of a target of a BackupSession.

/// What does the backup was made.
pub const BACKUP_EXECUTOR_ENSURED: &str = "BackupExecutorEnsured";
/// The hook before the backup succeeded.
pub const PRE_BACKUP_HOOK_EXECUTION_SUCCEEDED: &str = "PreBackupHookExecutionSucceeded";
/// The hook after the backup succeeded, or was not due.
pub const POST_BACKUP_HOOK_EXECUTION_SUCCEEDED: &str = "PostBackupHookExecutionSucceeded";
/// The pod that did the backup, or that it was beside, went.
pub const BACKUP_DISRUPTED: &str = "BackupDisrupted";

// Of a restore.

/// What does the restore was made.
pub const RESTORE_EXECUTOR_ENSURED: &str = "RestoreExecutorEnsured";
/// The Job that restores was made. Read from objects that Stash wrote.
pub const RESTORE_JOB_CREATED: &str = "RestoreJobCreated";
/// Work that follows a restore was done. Set by addons.
pub const RESTORE_COMPLETED: &str = "RestoreCompleted";
/// The hook before the restore succeeded.
pub const PRE_RESTORE_HOOK_EXECUTION_SUCCEEDED: &str = "PreRestoreHookExecutionSucceeded";
/// The hook after the restore succeeded, or was not due.
pub const POST_RESTORE_HOOK_EXECUTION_SUCCEEDED: &str = "PostRestoreHookExecutionSucceeded";
/// The batch's hook before all restores succeeded.
pub const GLOBAL_PRE_RESTORE_HOOK_SUCCEEDED: &str = "GlobalPreRestoreHookSucceeded";
/// The batch's hook after all restores succeeded.
pub const GLOBAL_POST_RESTORE_HOOK_SUCCEEDED: &str = "GlobalPostRestoreHookSucceeded";
