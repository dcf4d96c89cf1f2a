//! Schemas of our kinds, and the defaults that they fill in.

use serde_json::Value;

/// The schema of the kind of an object.
pub(crate) fn schema_of(object: &Value) -> Value {
    let definition = stash_crds::definitions()
        .into_iter()
        .find(|d| {
            object["kind"] == d.spec.names.kind.as_str()
                && object["apiVersion"] == format!("{}/{}", d.spec.group, d.spec.versions[0].name)
        })
        .unwrap_or_else(|| panic!("no kind for {object}"));
    serde_json::to_value(definition.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap())
        .unwrap()
}

/// Fills in defaults, as the API server does before it looks at an object.
pub(crate) fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                if let (false, Some(default)) = (object.contains_key(name), property.get("default")) {
                    object.insert(name.clone(), default.clone());
                }
                if let Some(inner) = object.get_mut(name) {
                    default_inner(property, inner);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(&schema["items"], item)),
        _ => {}
    }
}

fn default_inner(schema: &Value, value: &mut Value) {
    default(schema, value);
}
