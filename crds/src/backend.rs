//! Where a repository lies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::core_schema::VolumeSource;
use crate::rules::{exactly_one, rule};
use crate::tolerant;

/// The names of the backends, in the order in which Stash looks for them.
pub const BACKENDS: [&str; 7] = ["local", "s3", "gcs", "azure", "swift", "b2", "rest"];

/// Where the repository lies, and the Secret that opens it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule(exactly_one(&BACKENDS),
    "exactly one backend must be given: local, s3, gcs, azure, swift, b2 or rest")]))]
pub struct Backend {
    /// The Secret with the repository's password and the store's credentials, in the Repository's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_secret_name: Option<String>,
    /// A volume of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalBackend>,
    /// A bucket of Amazon S3, or of a store that speaks its protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Backend>,
    /// A bucket of Google Cloud Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsBackend>,
    /// A container of Azure Blob Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureBackend>,
    /// A container of OpenStack Swift.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swift: Option<SwiftBackend>,
    /// A bucket of Backblaze B2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b2: Option<B2Backend>,
    /// A server of restic's REST protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<RestBackend>,
}

/// A volume of the cluster as backend: one source of a volume beside the path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["mountPath"], "x-kubernetes-validations" = [
    rule(exactly_one(&VolumeSource::names()), "exactly one volume source must be given beside mountPath and subPath"),
    rule(r"!self.mountPath.matches('^/*stash(/|$)')", "the volume must not be mounted under /stash").field_path(".mountPath"),
    rule(r"!self.mountPath.matches('(^|/)[.][.]?(/|$)')", "the path must not hold . or .. as a part").field_path(".mountPath"),
]))]
pub struct LocalBackend {
    /// Where the volume is mounted: the repository's address within pods. Not under `/stash`.
    #[schemars(length(min = 1, max = 4096))]
    pub mount_path: String,
    /// The folder of the volume that is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// The source of the volume, as in a pod's `volumes`.
    #[serde(flatten)]
    #[schemars(with = "VolumeSource")]
    pub source: Map<String, Value>,
}

/// A bucket of Amazon S3, or of a store that speaks its protocol.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["bucket", "endpoint"]))]
pub struct S3Backend {
    /// The server: a host, or an address with scheme.
    #[schemars(length(min = 1))]
    pub endpoint: String,
    /// The bucket.
    #[schemars(length(min = 1))]
    pub bucket: String,
    /// The folder within the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The bucket's region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether the server's certificate is taken unseen.
    #[serde(rename = "insecureTLS", skip_serializing_if = "std::ops::Not::not")]
    pub insecure_tls: bool,
}

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["bucket"]))]
pub struct GcsBackend {
    /// The bucket.
    #[schemars(length(min = 1))]
    pub bucket: String,
    /// The folder within the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How many connections are open at most.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub max_connections: Option<i64>,
}

/// A container of Azure Blob Storage.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["container"]))]
pub struct AzureBackend {
    /// The container.
    #[schemars(length(min = 1))]
    pub container: String,
    /// The folder within the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How many connections are open at most.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub max_connections: Option<i64>,
}

/// A container of OpenStack Swift.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["container"]))]
pub struct SwiftBackend {
    /// The container.
    #[schemars(length(min = 1))]
    pub container: String,
    /// The folder within the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// A bucket of Backblaze B2.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["bucket"]))]
pub struct B2Backend {
    /// The bucket.
    #[schemars(length(min = 1))]
    pub bucket: String,
    /// The folder within the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How many connections are open at most.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    pub max_connections: Option<i64>,
}

/// A server of restic's REST protocol.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["url"]))]
pub struct RestBackend {
    /// The repository's address.
    #[schemars(length(min = 1))]
    pub url: String,
}
