//! Snapshot: one backup of one path of one host.
//!
//! In Stash an aggregated API answers for Snapshots by reading the repository at each request. Here they are objects that the controller
//! mirrors from the repository, so that listing them costs nothing and labels select. They have no `status` sub-resource: only the
//! controller writes them, each with one request.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core_schema::Core;
use crate::tolerant;

/// A Snapshot has no spec.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "repositories.stash.appscode.com",
    version = "v1alpha1",
    kind = "Snapshot",
    plural = "snapshots",
    singular = "snapshot",
    category = "storage",
    category = "appscode",
    category = "all",
    namespaced,
    no_spec,
    doc = "One backup of one path of one host.",
    derive = "PartialEq",
    status = "SnapshotStatus",
    printcolumn = r#"{"name": "ID", "type": "string", "jsonPath": ".status.shortID"}"#,
    printcolumn = r#"{"name": "Repository", "type": "string", "jsonPath": ".status.repository"}"#,
    printcolumn = r#"{"name": "Hostname", "type": "string", "jsonPath": ".status.hostname"}"#,
    printcolumn = r#"{"name": "Created At", "type": "string", "jsonPath": ".status.snapshotTime"}"#
)]
pub struct SnapshotSpec {}

/// What a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["gid", "hostname", "paths", "repository", "tree", "uid", "username"]))]
pub struct SnapshotStatus {
    /// The id of its tree.
    pub tree: String,
    /// The paths that were backed up.
    #[serde(deserialize_with = "tolerant::list")]
    pub paths: Vec<String>,
    /// The host.
    pub hostname: String,
    /// The user who took it.
    pub username: String,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(with = "i64")]
    pub uid: Option<i64>,
    /// The user's group.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(with = "i64")]
    pub gid: Option<i64>,
    /// Its tags.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant::list")]
    pub tags: Vec<String>,
    /// Its Repository, in the same namespace.
    pub repository: String,
    /// Its id, 64 hexadecimal digits. Not in Stash, where it is the object's uid.
    #[serde(rename = "snapshotID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub snapshot_id: Option<String>,
    /// The first eight digits of its id. Not in Stash.
    #[serde(rename = "shortID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub short_id: Option<String>,
    /// When it was taken. Not in Stash, where it is the object's creation time.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::or_none")]
    #[schemars(with = "Option<Core<Time>>")]
    pub snapshot_time: Option<Time>,
    /// How many bytes its files have. Not in Stash.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub total_bytes: Option<i64>,
    /// How many files it has. Not in Stash.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub total_files: Option<i64>,
    /// How long it took, as `1m2s`. Not in Stash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}
