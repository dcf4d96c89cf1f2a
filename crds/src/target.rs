//! What is backed up, and what is restored.

use k8s_openapi::api::core::v1::VolumeMount;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::core_schema::Core;
use crate::reference::TargetRef;
use crate::rules::rule;
use crate::string_enum::string_enum;
use crate::tolerant;
use crate::volumes::ClaimTemplate;

string_enum! {
    /// How data is taken.
    #[derive(Default)]
    Driver {
        /// Files are read and stored in a repository.
        #[default]
        Restic,
        /// Volumes are snapshotted by their storage.
        VolumeSnapshotter,
    }
}

string_enum! {
    /// In which order the members of a batch are worked on.
    #[derive(Default)]
    ExecutionOrder {
        /// At once.
        #[default]
        Parallel,
        /// One after the other, as they stand.
        Sequential,
    }
}

/// What is backed up.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupTarget {
    /// The host under which snapshots are kept, or the start of its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub alias: Option<String>,
    /// The object that is backed up.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<TargetRef>,
    /// The paths that are backed up, each as a snapshot of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub paths: Vec<String>,
    /// Where volumes are mounted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Core<VolumeMount>>")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Patterns of what is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096))]
    pub exclude: Vec<String>,
    /// More options of restic's `backup`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub args: Vec<String>,
    /// Of how many replicas of a StatefulSet the claims are snapshotted. For `VolumeSnapshotter` only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,
    /// The VolumeSnapshotClass. For `VolumeSnapshotter` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_class_name: Option<String>,
}

/// What is restored.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreTarget {
    /// The host whose snapshots are restored, or the start of its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub alias: Option<String>,
    /// The object that is restored.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<TargetRef>,
    /// Where volumes are mounted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Core<VolumeMount>>")]
    pub volume_mounts: Vec<VolumeMount>,
    /// How many replicas are restored, each into claims of its own; 1 if not given.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "tolerant::integer")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,
    /// Claims that are made and restored into. A name may hold `${POD_ORDINAL}`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub volume_claim_templates: Vec<ClaimTemplate>,
    /// What is restored for which host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Rules")]
    pub rules: Vec<Rule>,
    /// More options of restic's `restore`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub args: Vec<String>,
}

/// What is restored for some hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "!(has(self.snapshots) && size(self.snapshots) > 0 && has(self.paths) && size(self.paths) > 0)",
    "a rule names snapshots or paths, not both")]))]
pub struct Rule {
    /// The hosts to which the rule applies; without any, it applies to all that no other rule names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40), inner(length(max = 253)))]
    pub target_hosts: Vec<String>,
    /// The host whose snapshots are restored; the same host if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_host: Option<String>,
    /// The snapshots: ids, or `latest`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub snapshots: Vec<String>,
    /// The paths of which the latest snapshots are restored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub paths: Vec<String>,
    /// Patterns of what is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096))]
    pub exclude: Vec<String>,
    /// Patterns of what is restored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096))]
    pub include: Vec<String>,
}

/// The schema of a list of rules. Hosts are compared with each other, so both bounds count twice in what the rule costs.
pub(crate) struct Rules;

impl JsonSchema for Rules {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rules".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rules = json!([
            rule(
                "self.filter(r, !has(r.targetHosts) || size(r.targetHosts) == 0).size() <= 1",
                "at most one rule is without targetHosts"
            ),
            rule(
                "self.all(r, !has(r.targetHosts) || r.targetHosts.all(h, self.exists_one(o, has(o.targetHosts) && h in o.targetHosts)))",
                "a host stands in the targetHosts of one rule only"
            ),
        ]);
        let mut schema = Vec::<Rule>::json_schema(generator);
        schema.insert("maxItems".to_owned(), 64.into());
        schema.insert("x-kubernetes-validations".to_owned(), rules);
        schema
    }
}

/// The schema of a restore target within a batch: there the rule on hosts is paid for each member, so lists are shorter.
pub(crate) struct MemberRestoreTarget;

impl JsonSchema for MemberRestoreTarget {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MemberRestoreTarget".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = RestoreTarget::json_schema(generator);
        let mut shorten = |pointer: &str, max: u32| {
            if let Some(Value::Object(list)) = schema.pointer_mut(pointer) {
                list.insert("maxItems".to_owned(), max.into());
            }
        };
        shorten("/properties/rules", 20);
        shorten("/properties/rules/items/properties/targetHosts", 20);
        schema
    }
}
