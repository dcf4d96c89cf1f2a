//! Repository: where backups are kept, and who may use it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::conditions::{Condition, Conditions};
use crate::core_schema::Core;
use crate::reference::TypedObjectReference;
use crate::rules::rule;
use crate::string_enum::string_enum;
use crate::tolerant::{self, default_when_absent};

/// What refuses `wipeOut` where nothing could be wiped.
pub(crate) fn wipe_out_rule() -> kube::core::Rule {
    rule(
        "!has(self.wipeOut) || !self.wipeOut || !has(self.backend) || !(has(self.backend.local) || has(self.backend.b2))",
        "wipeOut cannot be used with the backends local and b2",
    )
    .field_path(".wipeOut")
}

/// Where backups are kept, and who may use it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "stash.appscode.com",
    version = "v1alpha1",
    kind = "Repository",
    plural = "repositories",
    singular = "repository",
    shortname = "repo",
    category = "stash",
    category = "appscode",
    namespaced,
    doc = "A repository of backups.",
    derive = "PartialEq",
    status = "RepositoryStatus",
    printcolumn = r#"{"name": "Integrity", "type": "boolean", "jsonPath": ".status.integrity"}"#,
    printcolumn = r#"{"name": "Size", "type": "string", "jsonPath": ".status.totalSize"}"#,
    printcolumn = r#"{"name": "Snapshot-Count", "type": "integer", "jsonPath": ".status.snapshotCount"}"#,
    printcolumn = r#"{"name": "Last-Successful-Backup", "type": "date", "format": "date-time", "jsonPath": ".status.lastBackupTime"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
#[schemars(extend("required" = ["backend"], "x-kubernetes-validations" = [wipe_out_rule()]))]
pub struct RepositorySpec {
    /// Where the repository lies.
    pub backend: Backend,
    /// Who may use it; without this, its own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_policy: Option<UsagePolicy>,
    /// Whether the stored data is deleted with the object.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wipe_out: bool,
}

default_when_absent!(RepositorySpec);

/// Who may use a Repository.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UsagePolicy {
    /// The namespaces from which it may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,
}

/// Namespaces from which a Repository may be used.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedNamespaces {
    /// Which they are.
    pub from: AllowedFrom,
    /// The labels of namespaces; read with `Selector` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Core<LabelSelector>>")]
    pub selector: Option<LabelSelector>,
}

string_enum! {
    /// Which namespaces may use a Repository.
    #[derive(Default)]
    AllowedFrom {
        /// All of the cluster.
        All,
        /// Those with matching labels.
        Selector,
        /// The Repository's own.
        #[default]
        Same,
    }
}

/// What is known about a repository.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RepositoryStatus {
    /// The spec's generation that was last looked at.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub observed_generation: Option<i64>,
    /// When the first backup was taken.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    #[schemars(with = "Option<Core<Time>>")]
    pub first_backup_time: Option<Time>,
    /// When the last backup was taken after which the repository was checked.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    #[schemars(with = "Option<Core<Time>>")]
    pub last_backup_time: Option<Time>,
    /// Whether the last check found nothing wrong.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    pub integrity: Option<bool>,
    /// How much is stored, as `1.234 GiB`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    pub total_size: Option<String>,
    /// How many snapshots there are.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub snapshot_count: Option<i64>,
    /// How many snapshots were last forgotten.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub snapshots_removed_on_last_cleanup: Option<i64>,
    /// Who uses the Repository.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    pub references: Vec<TypedObjectReference>,
    /// Why it does not work, if so. Not in Stash.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    #[schemars(with = "Conditions")]
    pub conditions: Vec<Condition>,
}
