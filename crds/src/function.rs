//! Function: one step of a Task, a container with variables.

use k8s_openapi::api::core::v1::{ContainerPort, VolumeDevice, VolumeMount};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core_schema::Core;
use crate::runtime_settings::ContainerRuntimeSettings;
use crate::tolerant::default_when_absent;

/// One step of a Task: a container. Any text may hold variables as `${TARGET_NAME}`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "stash.appscode.com",
    version = "v1beta1",
    kind = "Function",
    plural = "functions",
    shortname = "fn",
    category = "stash",
    category = "appscode",
    doc = "One step of a Task.",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct FunctionSpec {
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The command, instead of the image's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The directory in which it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Ports on which it listens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Core<ContainerPort>>")]
    pub ports: Vec<ContainerPort>,
    /// Where volumes are mounted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Core<VolumeMount>>")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Where volumes appear as block devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Core<VolumeDevice>>")]
    pub volume_devices: Vec<VolumeDevice>,
    /// Settings of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_settings: Option<ContainerRuntimeSettings>,
    /// A PodSecurityPolicy. Accepted; Kubernetes has none any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_security_policy_name: Option<String>,
}

default_when_absent!(FunctionSpec);
