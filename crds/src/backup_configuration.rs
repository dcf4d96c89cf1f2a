//! BackupConfiguration: what is backed up, when, where to, and what is kept.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::{Condition, Conditions};
use crate::core_schema::Core;
use crate::hooks::BackupHooks;
use crate::reference::{RepositoryRef, TaskRef};
use crate::retention::RetentionPolicy;
use crate::rules::rule;
use crate::runtime_settings::RuntimeSettings;
use crate::schedule::{Cron, GoDuration, RetryConfig};
use crate::string_enum::string_enum;
use crate::target::{BackupTarget, Driver};
use crate::tolerant::{self, default_when_absent};
use crate::volumes::{ClaimTemplate, EmptyDirSettings};

/// What asks for a repository where files are stored in one.
pub(crate) fn repository_rule() -> kube::core::Rule {
    rule("self.driver != 'Restic' || has(self.repository)", "the driver Restic needs a repository")
        .field_path(".repository")
}

/// What is backed up, when, where to, and what is kept.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "stash.appscode.com",
    version = "v1beta1",
    kind = "BackupConfiguration",
    plural = "backupconfigurations",
    shortname = "bc",
    category = "stash",
    category = "appscode",
    category = "all",
    namespaced,
    doc = "A target that is backed up by schedule.",
    derive = "PartialEq",
    status = "BackupConfigurationStatus",
    printcolumn = r#"{"name": "Task", "type": "string", "jsonPath": ".spec.task.name"}"#,
    printcolumn = r#"{"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"}"#,
    printcolumn = r#"{"name": "Paused", "type": "boolean", "jsonPath": ".spec.paused"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
#[schemars(extend("required" = ["retentionPolicy"], "x-kubernetes-validations" = [repository_rule()]))]
pub struct BackupConfigurationSpec {
    /// How data is taken.
    pub driver: Driver,
    /// Where to. Not read with `VolumeSnapshotter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryRef>,
    /// When: a cron line. `CRON_TZ=Europe/Vienna ` may stand before it, which Stash does not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Cron>")]
    pub schedule: Option<String>,
    /// What is kept.
    pub retention_policy: RetentionPolicy,
    /// Whether the schedule rests.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// How many sessions are kept; 1 if not given.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub backup_history_limit: Option<i32>,
    /// How long a session may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<GoDuration>")]
    pub time_out: Option<String>,
    /// How a failed session is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_config: Option<RetryConfig>,
    /// How it is done, for targets that are no plain files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskRef>,
    /// What is backed up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<BackupTarget>,
    /// How pods run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_settings: Option<RuntimeSettings>,
    /// The directory for temporary files and caches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temp_dir: Option<EmptyDirSettings>,
    /// A claim for data on its way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interim_volume_template: Option<ClaimTemplate>,
    /// What is called before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<BackupHooks>,
}

default_when_absent!(BackupConfigurationSpec);

string_enum! {
    /// Whether backups can be taken.
    InvokerPhase {
        /// What was asked for is not possible.
        Invalid,
        /// They can.
        Ready,
        /// Something is missing.
        NotReady,
    }
}

/// What is known about the backups of a target.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupConfigurationStatus {
    /// The spec's generation that was last looked at.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub observed_generation: Option<i64>,
    /// Whether backups can be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<InvokerPhase>,
    /// Why or why not.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    #[schemars(with = "Conditions")]
    pub conditions: Vec<Condition>,
    /// When the next session is due. Not in Stash.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    #[schemars(with = "Option<Core<Time>>")]
    pub next_backup_time: Option<Time>,
    /// When the last session that succeeded ended. Not in Stash.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    #[schemars(with = "Option<Core<Time>>")]
    pub last_backup_time: Option<Time>,
}
