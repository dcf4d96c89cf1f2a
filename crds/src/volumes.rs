//! Space that a backup or restore needs: claims and directories.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaimSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core_schema::{Core, Opaque};

/// The directory for temporary files and caches.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EmptyDirSettings {
    /// Where it lies: on the node's disk if empty, `Memory`, or huge pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<String>,
    /// How large it may grow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Core<Quantity>>")]
    pub size_limit: Option<Quantity>,
    /// Whether to work without a cache.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disable_caching: bool,
}

/// A claim that is made: what a user says of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimTemplate {
    /// `v1`; not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `PersistentVolumeClaim`; not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name, labels and annotations of the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<PartialObjectMeta>,
    /// The claim's spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Core<PersistentVolumeClaimSpec>>")]
    pub spec: Option<PersistentVolumeClaimSpec>,
    /// Accepted, since claims that were read from a cluster hold it; not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Opaque>")]
    pub status: Option<Value>,
}

/// The metadata that a template may set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PartialObjectMeta {
    /// The object's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The start of a name that the API server completes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generate_name: Option<String>,
    /// The object's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The object's labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The object's annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The objects with which it goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<OwnerReference>,
}

/// An object with which another goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["apiVersion", "kind", "name", "uid"]))]
pub struct OwnerReference {
    /// The owner's API version.
    pub api_version: String,
    /// The owner's kind.
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's uid.
    pub uid: String,
    /// Whether the owner manages the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether the owner waits for the object to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}
