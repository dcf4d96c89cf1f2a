//! How the pods of a backup or restore run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvFromSource, EnvVar, Lifecycle, PodReadinessGate, PodSecurityContext, Probe, ResourceRequirements,
    SecurityContext, Toleration, TopologySpreadConstraint,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core_schema::Core;
use crate::tolerant;

/// How the pods of a backup or restore run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeSettings {
    /// Settings of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRuntimeSettings>,
    /// Settings of its containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerRuntimeSettings>,
}

/// Settings of a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodRuntimeSettings {
    /// Labels of the pod.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,
    /// Annotations of the pod.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,
    /// Labels of the nodes on which it may run.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Its service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Annotations of a service account that is made for it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub service_account_annotations: BTreeMap<String, String>,
    /// Whether the service account's token is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automount_service_account_token: Option<bool>,
    /// The node on which it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Security settings of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Core<PodSecurityContext>>")]
    pub security_context: Option<PodSecurityContext>,
    /// Secrets with which images are pulled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<ImagePullSecret>,
    /// Affinity to nodes and pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Core<Affinity>>")]
    pub affinity: Option<Affinity>,
    /// The scheduler that places it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_name: Option<String>,
    /// Taints that it bears.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Core<Toleration>>")]
    pub tolerations: Vec<Toleration>,
    /// Its priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Its priority.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub priority: Option<i32>,
    /// Conditions beyond those of its containers that make it ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Core<PodReadinessGate>>")]
    pub readiness_gates: Vec<PodReadinessGate>,
    /// Its runtime class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// Whether its environment names the services of the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_service_links: Option<bool>,
    /// How pods are spread over the cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Core<TopologySpreadConstraint>>", extend(
        "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["topologyKey", "whenUnsatisfiable"]))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
}

/// Settings of a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerRuntimeSettings {
    /// Requests and limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Core<ResourceRequirements>>")]
    pub resources: Option<ResourceRequirements>,
    /// When the container is restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Core<Probe>>")]
    pub liveness_probe: Option<Probe>,
    /// When the container is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Core<Probe>>")]
    pub readiness_probe: Option<Probe>,
    /// What runs when the container starts and stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Core<Lifecycle>>")]
    pub lifecycle: Option<Lifecycle>,
    /// Security settings of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Core<SecurityContext>>")]
    pub security_context: Option<SecurityContext>,
    /// The scheduling priority of its processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice: Option<Nice>,
    /// The priority of their I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ionice: Option<Ionice>,
    /// Its environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Core<EnvVar>>")]
    pub env: Vec<EnvVar>,
    /// Where more of its environment comes from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Core<EnvFromSource>>")]
    pub env_from: Vec<EnvFromSource>,
}

/// A Secret with which images are pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImagePullSecret {
    /// The Secret's name.
    pub name: String,
}

/// The scheduling priority of processes, as `nice` sets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Nice {
    /// From -20, most favoured, to 19.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub adjustment: Option<i32>,
}

/// The priority of the I/O of processes, as `ionice` sets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Ionice {
    /// 1 real-time, 2 best-effort, 3 idle.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub class: Option<i32>,
    /// From 0, most favoured, to 7.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub class_data: Option<i32>,
}
