//! RestoreSession: one restore of a target.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup_configuration::repository_rule;
use crate::conditions::{Condition, Conditions};
use crate::core_schema::Core;
use crate::hooks::RestoreHooks;
use crate::reference::{RepositoryRef, TaskRef};
use crate::rules::{rule, unchanged};
use crate::runtime_settings::RuntimeSettings;
use crate::schedule::GoDuration;
use crate::string_enum::string_enum;
use crate::target::{Driver, RestoreTarget, Rule, Rules};
use crate::tolerant::{self, default_when_absent};
use crate::volumes::{ClaimTemplate, EmptyDirSettings};

/// The spec's fields that never change. `rules` is the exception: see [`immutable`].
const FIELDS: [&str; 16] = [
    ".driver",
    ".repository",
    ".task",
    ".target.alias",
    ".target.ref",
    ".target.volumeMounts",
    ".target.replicas",
    ".target.volumeClaimTemplates",
    ".target.args",
    ".runtimeSettings",
    ".tempDir",
    ".interimVolumeTemplate",
    ".hooks",
    ".timeOut",
    ".strategy",
    ".overlay",
];

/// What refuses changes.
///
/// Stash moves the deprecated `rules` to `target.rules` when an object is stored. So that the manifest can be applied again over what
/// Stash stored, the two places are one: what counts may not change, where it stands may.
fn immutable() -> kube::core::Rule {
    let mut same: Vec<String> = FIELDS.iter().map(|field| format!("({})", unchanged(field))).collect();
    let rules = |of: &str| {
        format!(
            "(has({of}.rules) ? dyn({of}.rules) : \
             (has({of}.target) && has({of}.target.rules) ? dyn({of}.target.rules) : dyn([])))"
        )
    };
    same.push(format!("{} == {}", rules("self"), rules("oldSelf")));
    rule(same.join(" && "), "the spec of a RestoreSession cannot be changed: make another one")
}

/// One restore of a target.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "stash.appscode.com",
    version = "v1beta1",
    kind = "RestoreSession",
    plural = "restoresessions",
    shortname = "restore",
    category = "stash",
    category = "appscode",
    category = "all",
    namespaced,
    doc = "One restore of a target.",
    derive = "PartialEq",
    status = "RestoreSessionStatus",
    printcolumn = r#"{"name": "Repository", "type": "string", "jsonPath": ".spec.repository.name"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Duration", "type": "string", "jsonPath": ".status.sessionDuration"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Progress", "type": "string", "jsonPath": ".status.progress"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
#[schemars(extend("x-kubernetes-validations" = [
    immutable(),
    repository_rule(),
    rule("!has(self.overlay) || (has(self.strategy) && self.strategy == 'Overlay')", "overlay needs the strategy Overlay")
        .field_path(".overlay"),
]))]
pub struct RestoreSessionSpec {
    /// How data was taken.
    pub driver: Driver,
    /// Where from. Not read with `VolumeSnapshotter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryRef>,
    /// How it is done, for targets that are no plain files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskRef>,
    /// What is restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<RestoreTarget>,
    /// What is restored for which host. Deprecated: it stands for `target.rules`, and wins over it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Rules")]
    pub rules: Vec<Rule>,
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
    /// How long it may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<GoDuration>")]
    pub time_out: Option<String>,
    /// How the data gets there; `Copy` if not given. Not in Stash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<RestoreStrategy>,
    /// Where changes are kept with the strategy `Overlay`. Not in Stash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlaySettings>,
}

default_when_absent!(RestoreSessionSpec);

string_enum! {
    /// How data gets from a snapshot to a volume.
    RestoreStrategy {
        /// It is copied into the target.
        Copy,
        /// The claims are read-only volumes of the snapshot itself.
        Attach,
        /// The claims are the snapshot under a layer that takes changes.
        Overlay,
    }
}

/// Where the changes to an overlaid snapshot are kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OverlaySettings {
    /// How much may change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Core<Quantity>>")]
    pub scratch_size: Option<Quantity>,
    /// The class of a claim that keeps the changes; on the node's disk if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
}

string_enum! {
    /// How far a restore is.
    RestorePhase {
        /// Nothing has begun.
        Pending,
        /// Something runs.
        Running,
        /// All went well.
        Succeeded,
        /// Something did not.
        Failed,
        /// It cannot be told, as of a claim that is bound when first used.
        Unknown,
        /// What was asked for is not possible.
        Invalid,
    }
}

impl RestorePhase {
    /// Whether nothing more happens to a restore. One that is `Invalid` is looked at again: what was in its way may go.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Unknown)
    }
}

string_enum! {
    /// How far the restore of a host is.
    HostRestorePhase {
        /// It ended well.
        Succeeded,
        /// It did not.
        Failed,
        /// It runs.
        Running,
        /// It cannot be told.
        Unknown,
    }
}

/// What happened in a restore.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreSessionStatus {
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<RestorePhase>,
    /// How many hosts there are.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub total_hosts: Option<i32>,
    /// How long it took, as `1m2s`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    pub session_duration: Option<String>,
    /// When it has to be done.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    #[schemars(with = "Option<Core<Time>>")]
    pub session_deadline: Option<Time>,
    /// How far copying is, while it runs, as `42% of 1.500 GiB, 2m10s left`. Not in Stash.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    pub progress: Option<String>,
    /// What happened on each host.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    pub stats: Vec<HostRestoreStats>,
    /// What was done.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    #[schemars(with = "Conditions")]
    pub conditions: Vec<Condition>,
}

/// What happened on a host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostRestoreStats {
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<HostRestorePhase>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
