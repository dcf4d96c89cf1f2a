//! AppBinding: how an application, mostly a database, is reached.
//!
//! The definition belongs to a catalog that other operators use too, and write objects of; a foreign one is left alone. So it has no
//! rules of ours, and accepts what later versions of the catalog added.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::reference::{TaskRef, TypedObjectReference};
use crate::tolerant::{self, default_when_absent};

/// How an application is reached.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "appcatalog.appscode.com",
    version = "v1alpha1",
    kind = "AppBinding",
    plural = "appbindings",
    category = "catalog",
    category = "appscode",
    category = "all",
    namespaced,
    doc = "How an application is reached.",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Type", "type": "string", "jsonPath": ".spec.type"}"#,
    printcolumn = r#"{"name": "Version", "type": "string", "jsonPath": ".spec.version"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
#[schemars(extend("required" = ["clientConfig"]))]
pub struct AppBindingSpec {
    /// What it is: `<group>/<resource>`, or a resource.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// The object that manages it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_ref: Option<TypedObjectReference>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where it is, and how it proves who it is.
    pub client_config: ClientConfig,
    /// The Secret with its credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<BindingSecret>,
    /// What is done to the credentials before they are used, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret_transforms: Vec<SecretTransform>,
    /// Settings for those who use the binding, of a kind of their own; see [`StashAddon`].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<EmbeddedResource>")]
    pub parameters: Option<Value>,
    /// The Secret with a client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_secret: Option<BindingSecret>,
}

default_when_absent!(AppBindingSpec);

/// Where an application is, and how it proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConfig {
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceReference>,
    /// Whether its certificate is taken unseen.
    #[serde(rename = "insecureSkipTLSVerify", skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_tls_verify: bool,
    /// The certificates of who signed its own, in PEM, as base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "byte"))]
    pub ca_bundle: Option<String>,
    /// The name in its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// The service of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name", "port", "scheme"]))]
pub struct ServiceReference {
    /// The scheme of its address.
    pub scheme: String,
    /// Its namespace; the binding's if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(with = "i32")]
    pub port: Option<i32>,
    /// The path of its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The query of its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// A Secret in the binding's namespace. Later versions of the catalog write group and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BindingSecret {
    /// Its group: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    /// Its kind: `Secret`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
}

/// One change of the credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretTransform {
    /// A key gets another name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rename_key: Option<RenameKey>,
    /// A key is added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_key: Option<AddKey>,
    /// The keys of another Secret are added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_keys_from: Option<AddKeysFrom>,
    /// A key is removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove_key: Option<RemoveKey>,
}

/// A key that gets another name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["from", "to"]))]
pub struct RenameKey {
    /// Its name.
    pub from: String,
    /// Its new name.
    pub to: String,
}

/// A key that is added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["key"]))]
pub struct AddKey {
    /// Its name.
    pub key: String,
    /// Its value, as base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "byte"))]
    pub value: Option<String>,
    /// Its value, as it is; it wins over `value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub string_value: Option<String>,
}

/// Where keys are added from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AddKeysFrom {
    /// The Secret, in the binding's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<BindingSecret>,
}

/// A key that is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["key"]))]
pub struct RemoveKey {
    /// Its name.
    pub key: String,
}

/// The schema of an object within another: it says what it is, and anything beside.
struct EmbeddedResource;

impl JsonSchema for EmbeddedResource {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EmbeddedResource".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true,
        })
    }
}

/// What `parameters` may hold for us, whatever they call themselves: only the key `stash` is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StashAddon {
    /// How the application is backed up and restored.
    pub stash: StashAddonSpec,
}

/// How an application is backed up and restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StashAddonSpec {
    /// The Tasks.
    pub addon: AddonTasks,
}

/// The Tasks of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AddonTasks {
    /// The Task that backs it up.
    pub backup_task: TaskRef,
    /// The Task that restores it.
    pub restore_task: TaskRef,
}
