//! RestoreBatch: several targets that are restored together.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup_configuration::repository_rule;
use crate::conditions::{Condition, Conditions};
use crate::core_schema::Core;
use crate::hooks::RestoreHooks;
use crate::reference::{RepositoryRef, TargetRef, TaskRef};
use crate::restore_session::{HostRestoreStats, RestorePhase};
use crate::runtime_settings::RuntimeSettings;
use crate::schedule::GoDuration;
use crate::string_enum::string_enum;
use crate::target::{Driver, ExecutionOrder, MemberRestoreTarget, RestoreTarget};
use crate::tolerant::{self, default_when_absent};
use crate::volumes::{ClaimTemplate, EmptyDirSettings};

/// Several targets that are restored together.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "stash.appscode.com",
    version = "v1beta1",
    kind = "RestoreBatch",
    plural = "restorebatches",
    category = "stash",
    category = "appscode",
    category = "all",
    namespaced,
    doc = "Targets that are restored together.",
    derive = "PartialEq",
    status = "RestoreBatchStatus",
    printcolumn = r#"{"name": "Repository", "type": "string", "jsonPath": ".spec.repository.name"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Duration", "type": "string", "jsonPath": ".status.sessionDuration"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
#[schemars(extend("x-kubernetes-validations" = [repository_rule()]))]
pub struct RestoreBatchSpec {
    /// How data was taken.
    pub driver: Driver,
    /// Where from. Not read with `VolumeSnapshotter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryRef>,
    /// What is restored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub members: Vec<RestoreBatchMember>,
    /// In which order.
    pub execution_order: ExecutionOrder,
    /// What is called before the first and after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<RestoreHooks>,
    /// How long it may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<GoDuration>")]
    pub time_out: Option<String>,
}

default_when_absent!(RestoreBatchSpec);

/// One of the targets.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreBatchMember {
    /// How it is done, for targets that are no plain files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskRef>,
    /// What is restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MemberRestoreTarget>")]
    pub target: Option<RestoreTarget>,
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
    pub hooks: Option<RestoreHooks>,
}

string_enum! {
    /// How far the restore of a target is.
    RestoreTargetPhase {
        /// Nothing has begun.
        Pending,
        /// All hosts were restored.
        Succeeded,
        /// Some host is not done.
        Running,
        /// Some host, or a hook, failed.
        Failed,
        /// It cannot be told. Stash knows it too, and its schema refuses it.
        Unknown,
    }
}

/// What happened in a batch of restores.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreBatchStatus {
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<RestorePhase>,
    /// How long it took, as `1m2s`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    pub session_duration: Option<String>,
    /// When it has to be done.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    #[schemars(with = "Option<Core<Time>>")]
    pub session_deadline: Option<Time>,
    /// What was done for the batch as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    #[schemars(with = "Conditions")]
    pub conditions: Vec<Condition>,
    /// What was done for each target.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    pub members: Vec<RestoreMemberStatus>,
}

/// What happened to a target.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["ref"]))]
pub struct RestoreMemberStatus {
    /// The target.
    #[serde(rename = "ref")]
    pub reference: TargetRef,
    /// What was done for the target.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    #[schemars(with = "Conditions")]
    pub conditions: Vec<Condition>,
    /// How many hosts there are.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub total_hosts: Option<i32>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<RestoreTargetPhase>,
    /// What happened on each host.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    pub stats: Vec<HostRestoreStats>,
}
