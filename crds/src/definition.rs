//! The definitions as they are installed: what the types derive, made whole.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps,
};
use kube::CustomResourceExt;
use kube::core::Rule;
use serde_json::{Map, Value, json};

use crate::core_schema::for_each_subschema;
use crate::rules::{rule, unchanged};
use crate::{
    AppBinding, BackupBatch, BackupBlueprint, BackupConfiguration, BackupSession, Function, Repository, RestoreBatch,
    RestoreSession, Snapshot, Task,
};

/// Returns the definitions of all kinds, each as it is installed.
///
/// # Panics
///
/// Never: what the types derive is a schema. A test makes each.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        finished::<Repository>("stash", &[]),
        finished::<BackupConfiguration>("stash", &[target_rule()]),
        finished::<BackupSession>("stash", &[]),
        finished::<BackupBatch>("stash", &[]),
        finished::<BackupBlueprint>("stash", &[]),
        finished::<RestoreSession>("stash", &[]),
        finished::<RestoreBatch>("stash", &[]),
        finished::<Function>("stash", &[]),
        finished::<Task>("stash", &[]),
        finished::<AppBinding>("catalog", &[]),
        without_status_subresource(finished::<Snapshot>("stash", &snapshot_rules())),
    ]
}

/// Returns the name of the file in `deploy/crds` that holds `definition`.
pub fn file_name(definition: &CustomResourceDefinition) -> String {
    format!("{}_{}.yaml", definition.spec.group, definition.spec.names.plural)
}

/// Refuses another target while backups are taken of one, as Stash's webhook does.
fn target_rule() -> Rule {
    let same = unchanged(".spec.target.ref");
    rule(
        format!("!has(self.status) || !has(self.status.phase) || self.status.phase != 'Ready' || ({same})"),
        "the target cannot be changed while the phase is Ready",
    )
}

/// Keep a Snapshot the object of one snapshot, of which its name tells the id.
fn snapshot_rules() -> [Rule; 2] {
    let id = "has(self.status) && has(self.status.snapshotID)";
    let old = "has(oldSelf.status) && has(oldSelf.status.snapshotID)";
    [
        rule(
            format!("!({old}) || ({id} && self.status.snapshotID == oldSelf.status.snapshotID)"),
            "the snapshotID of a Snapshot cannot be changed",
        ),
        rule(
            format!(
                "!({id}) || (self.status.snapshotID.matches('^[0-9a-f]{{64}}$') && \
                 (self.metadata.name.endsWith('-' + self.status.snapshotID.substring(0, 8)) || \
                 self.metadata.name.endsWith('-' + self.status.snapshotID)))"
            ),
            "the snapshotID has 64 hexadecimal digits, and the name ends with the first eight or with all",
        ),
    ]
}

fn finished<K: CustomResourceExt>(label: &str, root_rules: &[Rule]) -> CustomResourceDefinition {
    let mut definition = K::crd();
    definition.metadata.labels = Some([("app.kubernetes.io/name".to_owned(), label.to_owned())].into());
    for version in &mut definition.spec.versions {
        if let Some(schema) = schema_mut(version) {
            *schema = finished_schema(schema, root_rules);
        }
    }
    definition
}

fn schema_mut(version: &mut CustomResourceDefinitionVersion) -> Option<&mut JSONSchemaProps> {
    version.schema.as_mut()?.open_api_v3_schema.as_mut()
}

fn finished_schema(schema: &JSONSchemaProps, root_rules: &[Rule]) -> JSONSchemaProps {
    let mut value = serde_json::to_value(schema).expect("a schema is JSON");
    tidy(&mut value);
    if let Some(root) = value.as_object_mut() {
        add_root(root, root_rules);
    }
    serde_json::from_value(value).expect("a tidied schema is a schema")
}

/// Adds what every object has, and the rules that look at more than the spec.
fn add_root(root: &mut Map<String, Value>, rules: &[Rule]) {
    if let Some(Value::Object(properties)) = root.get_mut("properties") {
        properties.insert("apiVersion".to_owned(), json!({ "type": "string" }));
        properties.insert("kind".to_owned(), json!({ "type": "string" }));
        properties.insert("metadata".to_owned(), json!({ "type": "object" }));
    }
    if !rules.is_empty() {
        root.insert("x-kubernetes-validations".to_owned(), json!(rules));
    }
}

/// Removes what deriving adds and the API does not have: null as a value, titles, defaults of what is required.
///
/// The API server takes null for absent where a schema does not allow it. Where one does, null is kept, and `has()` finds it.
fn tidy(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("nullable");
    object.remove("title");
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let port = object.get("x-kubernetes-int-or-string") == Some(&json!(true)) && !object.contains_key("pattern");
    if port || object.get("format") == Some(&json!("int32")) {
        // The API server does not hold numbers to their format, and a larger one could not be read.
        object.entry("minimum").or_insert(json!(f64::from(i32::MIN)));
        object.entry("maximum").or_insert(json!(f64::from(i32::MAX)));
    }
    let required: Vec<String> = object
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for name in required {
            if let Some(Value::Object(property)) = properties.get_mut(&name) {
                property.remove("default");
            }
        }
    }
    for_each_subschema(object, &mut tidy);
}

fn without_status_subresource(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        version.subresources = None;
    }
    definition
}

/// Returns `definition` as YAML.
///
/// # Errors
///
/// None are known; the writer of YAML has some to tell.
pub fn yaml(definition: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(definition)
}
