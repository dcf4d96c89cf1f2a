//! BackupBlueprint: how targets that ask for it by annotation are backed up.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::hooks::BackupHooks;
use crate::reference::TaskRef;
use crate::repository::{UsagePolicy, wipe_out_rule};
use crate::retention::RetentionPolicy;
use crate::runtime_settings::RuntimeSettings;
use crate::schedule::{CronTemplate, GoDuration, RetryConfig};
use crate::tolerant::{self, default_when_absent};
use crate::volumes::{ClaimTemplate, EmptyDirSettings};

/// How targets that ask for it by annotation are backed up: a Repository and a BackupConfiguration with variables.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "stash.appscode.com",
    version = "v1beta1",
    kind = "BackupBlueprint",
    plural = "backupblueprints",
    shortname = "bb",
    category = "stash",
    category = "appscode",
    doc = "How targets that ask for it by annotation are backed up.",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Task", "type": "string", "jsonPath": ".spec.task.name"}"#,
    printcolumn = r#"{"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
#[schemars(extend("required" = ["backend", "retentionPolicy"], "x-kubernetes-validations" = [wipe_out_rule()]))]
pub struct BackupBlueprintSpec {
    /// Where repositories lie. Variables as `${TARGET_NAME}` are filled in.
    pub backend: Backend,
    /// Who may use the Repositories; without this, their own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_policy: Option<UsagePolicy>,
    /// Whether the stored data is deleted with the Repository.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wipe_out: bool,
    /// Where objects of backups are made; in the target's namespace if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_namespace: Option<String>,
    /// Where the Repository is made; in `backupNamespace` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo_namespace: Option<String>,
    /// When: a cron line.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<CronTemplate>")]
    pub schedule: Option<String>,
    /// How it is done, for targets that are no plain files. Variables are filled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskRef>,
    /// What is kept.
    pub retention_policy: RetentionPolicy,
    /// How pods run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_settings: Option<RuntimeSettings>,
    /// The directory for temporary files and caches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temp_dir: Option<EmptyDirSettings>,
    /// A claim for data on its way. Variables are filled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interim_volume_template: Option<ClaimTemplate>,
    /// What is called before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<BackupHooks>,
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
}

default_when_absent!(BackupBlueprintSpec);
