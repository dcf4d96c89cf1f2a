//! BackupBatch: several targets that are backed up together.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup_configuration::{InvokerPhase, repository_rule};
use crate::conditions::{Condition, Conditions};
use crate::hooks::BackupHooks;
use crate::reference::{RepositoryRef, TargetRef, TaskRef};
use crate::retention::RetentionPolicy;
use crate::rules::rule;
use crate::runtime_settings::RuntimeSettings;
use crate::schedule::{Cron, GoDuration, RetryConfig};
use crate::target::{BackupTarget, Driver, ExecutionOrder};
use crate::tolerant::{self, default_when_absent};
use crate::volumes::{ClaimTemplate, EmptyDirSettings};

/// Several targets that are backed up together.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "stash.appscode.com",
    version = "v1beta1",
    kind = "BackupBatch",
    plural = "backupbatches",
    category = "stash",
    category = "appscode",
    category = "all",
    namespaced,
    doc = "Targets that are backed up together by schedule.",
    derive = "PartialEq",
    status = "BackupBatchStatus",
    printcolumn = r#"{"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"}"#,
    printcolumn = r#"{"name": "Paused", "type": "boolean", "jsonPath": ".spec.paused"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
#[schemars(extend("required" = ["retentionPolicy"], "x-kubernetes-validations" = [repository_rule()]))]
pub struct BackupBatchSpec {
    /// What is backed up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), extend("x-kubernetes-validations" = [rule(
        "self.all(m, !has(m.target) || !has(m.target.alias) || m.target.alias == '' || \
         self.exists_one(o, has(o.target) && has(o.target.alias) && o.target.alias == m.target.alias))",
        "no two members have the same target.alias: their snapshots could not be told apart")]))]
    pub members: Vec<BackupBatchMember>,
    /// When: a cron line. `CRON_TZ=Europe/Vienna ` may stand before it, which Stash does not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Cron>")]
    pub schedule: Option<String>,
    /// How Stash's trigger runs; not read, since the controller keeps the schedule itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_settings: Option<RuntimeSettings>,
    /// How data is taken.
    pub driver: Driver,
    /// Where to. Not read with `VolumeSnapshotter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryRef>,
    /// What is kept.
    pub retention_policy: RetentionPolicy,
    /// Whether the schedule rests.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// How many sessions are kept; 1 if not given.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub backup_history_limit: Option<i32>,
    /// What is called before the first and after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<BackupHooks>,
    /// In which order.
    pub execution_order: ExecutionOrder,
    /// How long a session may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<GoDuration>")]
    pub time_out: Option<String>,
    /// How a failed session is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_config: Option<RetryConfig>,
}

default_when_absent!(BackupBatchSpec);

/// One of the targets.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupBatchMember {
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

/// What is known about the backups of a batch.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupBatchStatus {
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
    /// The same for each member.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    pub member_conditions: Vec<MemberConditions>,
}

/// What is known about a member.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["target"]))]
pub struct MemberConditions {
    /// The member's target.
    pub target: TargetRef,
    /// What is known.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    #[schemars(with = "Conditions")]
    pub conditions: Vec<Condition>,
}
