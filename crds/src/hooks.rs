//! What is called before and after a backup or restore.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core_schema::Core;
use crate::rules::{exactly_one, rule};
use crate::string_enum::string_enum;

/// The actions of a hook, in the order in which Stash looks for them.
pub const ACTIONS: [&str; 4] = ["exec", "httpGet", "httpPost", "tcpSocket"];

/// What is called around a backup.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupHooks {
    /// Called before; if it fails, the backup does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_backup: Option<Hook>,
    /// Called after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_backup: Option<PostBackupHook>,
}

/// What is called around a restore.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreHooks {
    /// Called before; if it fails, the restore does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_restore: Option<Hook>,
    /// Called after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_restore: Option<PostRestoreHook>,
}

/// One action, and where it is done.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule(exactly_one(&ACTIONS),
    "a hook has exactly one action: exec, httpGet, httpPost or tcpSocket")]))]
pub struct Hook {
    /// A command in a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    /// A request by HTTP GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
    /// A request by HTTP POST.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_post: Option<HttpPostAction>,
    /// A connection by TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketAction>,
    /// The container in which a command runs, and whose named ports count; the first if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
}

/// A hook after a backup.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PostBackupHook {
    /// The action.
    #[serde(flatten)]
    pub hook: Hook,
    /// After which outcomes it is called.
    pub execution_policy: BackupExecutionPolicy,
}

/// A hook after a restore.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PostRestoreHook {
    /// The action.
    #[serde(flatten)]
    pub hook: Hook,
    /// After which outcomes it is called.
    pub execution_policy: RestoreExecutionPolicy,
}

string_enum! {
    /// After which outcomes of a backup a hook is called.
    #[derive(Default)]
    BackupExecutionPolicy {
        /// After each.
        #[default]
        Always,
        /// When the backup failed.
        OnFailure,
        /// When the backup succeeded.
        OnSuccess,
        /// When the backup failed and is not tried again.
        OnFinalRetryFailure,
    }
}

string_enum! {
    /// After which outcomes of a restore a hook is called.
    #[derive(Default)]
    RestoreExecutionPolicy {
        /// After each.
        #[default]
        Always,
        /// When the restore failed.
        OnFailure,
        /// When the restore succeeded.
        OnSuccess,
    }
}

/// A command in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule("has(self.command) && size(self.command) > 0",
    "an exec hook needs a command")]))]
pub struct ExecAction {
    /// The command and its arguments; no shell is involved. Templates are filled in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub command: Vec<String>,
}

/// A request by HTTP GET.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port"]))]
pub struct HttpGetAction {
    /// The path on the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The port: a number, or the name of a container's port.
    #[schemars(with = "Core<IntOrString>")]
    pub port: IntOrString,
    /// The host; the pod's address if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `HTTP` or `HTTPS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([Hh][Tt][Tt][Pp][Ss]?)?$"))]
    pub scheme: Option<String>,
    /// Headers of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<HttpHeader>,
}

/// A request by HTTP POST.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port"]))]
pub struct HttpPostAction {
    /// Where the request goes.
    #[serde(flatten)]
    pub target: HttpGetAction,
    /// What is sent. Templates are filled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// A form that is sent; it wins over `body`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub form: Vec<FormEntry>,
}

/// A header of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name", "value"]))]
pub struct HttpHeader {
    /// The header's name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// An entry of a form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FormEntry {
    /// The entry's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// A connection by TCP: it is enough that it opens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port"]))]
pub struct TcpSocketAction {
    /// The port: a number, or the name of a container's port.
    #[schemars(with = "Core<IntOrString>")]
    pub port: IntOrString,
    /// The host; the pod's address if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl Default for HttpGetAction {
    fn default() -> Self {
        Self { path: None, port: IntOrString::Int(0), host: None, scheme: None, http_headers: Vec::new() }
    }
}

impl Default for TcpSocketAction {
    fn default() -> Self {
        Self { port: IntOrString::Int(0), host: None }
    }
}
