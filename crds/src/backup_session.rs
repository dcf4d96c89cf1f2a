//! BackupSession: one run of a BackupConfiguration or BackupBatch.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::{Condition, Conditions};
use crate::core_schema::Core;
use crate::reference::TargetRef;
use crate::rules::rule;
use crate::string_enum::string_enum;
use crate::tolerant::{self, default_when_absent};

/// One run of a BackupConfiguration or BackupBatch.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "stash.appscode.com",
    version = "v1beta1",
    kind = "BackupSession",
    plural = "backupsessions",
    category = "stash",
    category = "appscode",
    category = "all",
    namespaced,
    doc = "One run of a backup.",
    derive = "PartialEq",
    status = "BackupSessionStatus",
    printcolumn = r#"{"name": "Invoker-Type", "type": "string", "jsonPath": ".spec.invoker.kind"}"#,
    printcolumn = r#"{"name": "Invoker-Name", "type": "string", "jsonPath": ".spec.invoker.name"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Duration", "type": "string", "jsonPath": ".status.sessionDuration"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
#[schemars(extend("required" = ["invoker"], "x-kubernetes-validations" = [
    rule("self == oldSelf", "the spec of a BackupSession cannot be changed"),
]))]
pub struct BackupSessionSpec {
    /// Who asked for it.
    pub invoker: BackupInvokerRef,
    /// How often it is tried again if it fails.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub retry_left: Option<i32>,
}

default_when_absent!(BackupSessionSpec);

/// The BackupConfiguration or BackupBatch that asked for a session, in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["kind", "name"], "x-kubernetes-validations" = [
    rule("self.kind in ['BackupConfiguration', 'BackupBatch']", "the invoker is a BackupConfiguration or a BackupBatch")
        .field_path(".kind"),
    rule("!has(self.apiGroup) || self.apiGroup in ['', 'stash.appscode.com']", "the invoker's group is stash.appscode.com")
        .field_path(".apiGroup"),
]))]
pub struct BackupInvokerRef {
    /// `stash.appscode.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub api_group: Option<String>,
    /// `BackupConfiguration` or `BackupBatch`.
    #[schemars(length(max = 253))]
    pub kind: String,
    /// Its name.
    pub name: String,
}

string_enum! {
    /// How far a session is.
    BackupSessionPhase {
        /// Nothing has begun.
        Pending,
        /// It was not taken.
        Skipped,
        /// Something runs.
        Running,
        /// All went well.
        Succeeded,
        /// Something did not.
        Failed,
        /// It cannot be told. Never set.
        Unknown,
    }
}

string_enum! {
    /// How far the backup of a target is.
    BackupTargetPhase {
        /// Nothing has begun.
        Pending,
        /// All hosts were backed up.
        Succeeded,
        /// Some host is not done.
        Running,
        /// Some host, or a hook, failed.
        Failed,
    }
}

string_enum! {
    /// How the backup of a host ended.
    HostBackupPhase {
        /// Well.
        Succeeded,
        /// Not well.
        Failed,
    }
}

/// What happened in a session.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupSessionStatus {
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<BackupSessionPhase>,
    /// How long it took, as `1m2s`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    pub session_duration: Option<String>,
    /// When it has to be done.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    #[schemars(with = "Option<Core<Time>>")]
    pub session_deadline: Option<Time>,
    /// Whether a session that tries again was made.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    pub retried: Option<bool>,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    #[schemars(with = "Option<Core<Time>>")]
    pub next_retry: Option<Time>,
    /// What was done for the session as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    #[schemars(with = "Conditions")]
    pub conditions: Vec<Condition>,
    /// What was done for each target.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    pub targets: Vec<BackupTargetStatus>,
}

/// What happened to a target.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupTargetStatus {
    /// The target.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<TargetRef>,
    /// How many hosts there are.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub total_hosts: Option<i32>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<BackupTargetPhase>,
    /// What is done before, as `InitializeBackendRepository`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    pub pre_backup_actions: Vec<String>,
    /// What is done after, as `ApplyRetentionPolicy`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    pub post_backup_actions: Vec<String>,
    /// What was done for the target.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    #[schemars(with = "Conditions")]
    pub conditions: Vec<Condition>,
    /// What happened on each host.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    pub stats: Vec<HostBackupStats>,
}

/// Action of a target: the repository is initialised.
pub const INITIALIZE_BACKEND_REPOSITORY: &str = "InitializeBackendRepository";
/// Action of a target: old snapshots are forgotten.
pub const APPLY_RETENTION_POLICY: &str = "ApplyRetentionPolicy";
/// Action of a target: the repository is checked.
pub const VERIFY_REPOSITORY_INTEGRITY: &str = "VerifyRepositoryIntegrity";
/// Action of a target: the repository's figures are published.
pub const SEND_REPOSITORY_METRICS: &str = "SendRepositoryMetrics";

/// What happened on a host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostBackupStats {
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<HostBackupPhase>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The snapshots that were taken.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    pub snapshots: Vec<SnapshotStats>,
}

/// What was stored in a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotStats {
    /// The snapshot's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The path that was backed up, or the name of the file that was piped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How much was read, as `1.234 MiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_size: Option<String>,
    /// How much was stored, as `1.234 MiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uploaded: Option<String>,
    /// How long it took, as `m:ss` or `h:mm:ss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processing_time: Option<String>,
    /// How many files there were.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    pub file_stats: Option<FileStats>,
}

/// How many files a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FileStats {
    /// All.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub total_files: Option<i64>,
    /// Those that the last snapshot did not have.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub new_files: Option<i64>,
    /// Those that were different.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub modified_files: Option<i64>,
    /// Those that were the same.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub unmodified_files: Option<i64>,
}
