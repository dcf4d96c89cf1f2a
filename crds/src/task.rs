//! Task: the steps of a backup or restore that is more than files.

use k8s_openapi::api::core::v1::Volume;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core_schema::Core;
use crate::reference::Param;
use crate::tolerant::default_when_absent;

/// The steps of a backup or restore. Any text may hold variables as `${TARGET_NAME}`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "stash.appscode.com",
    version = "v1beta1",
    kind = "Task",
    plural = "tasks",
    shortname = "task",
    category = "stash",
    category = "appscode",
    doc = "The steps of a backup or restore.",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct TaskSpec {
    /// The steps, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<FunctionRef>,
    /// Volumes that the steps share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Core<Volume>>")]
    pub volumes: Vec<Volume>,
}

default_when_absent!(TaskSpec);

/// A step: a Function, with values for its variables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct FunctionRef {
    /// The Function's name.
    pub name: String,
    /// Values of variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<Param>,
}
