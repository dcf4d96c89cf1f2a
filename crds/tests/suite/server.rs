//! What an API server does with an object, as far as it can be said without one: unknown fields, types, bounds and defaults, in its
//! words; the rules are evaluated by kube's own CEL. Stricter than the real one nowhere: the corpora are run against both.

use kube::core::cel::Validator;
use regex::Regex;
use serde_json::{Map, Value};

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

/// What is wrong with `object`, as `PATH: MESSAGE` each.
pub(crate) fn refusals(object: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = schema_of(object);
    let mut object = object.clone();
    default(&schema, &mut object);
    let mut found = Vec::new();
    check(&schema, &object, "", &mut found);
    if !found.is_empty() {
        return found;
    }
    let old = old.map(|old| {
        let mut old = old.clone();
        default(&schema, &mut old);
        old
    });
    match Validator::new().validate(&schema, &object, old.as_ref()) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|e| format!("{}: {}: Invalid value", e.field_path, e.message)).collect(),
    }
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

fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let mut say = |message: String| found.push(format!("{path}: {message}"));
    let number_or_text = schema["x-kubernetes-int-or-string"] == true;
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        _ if number_or_text => value.is_i64() || value.is_string(),
        other => panic!("{path} has the type {other:?}"),
    };
    if !fits {
        return say(format!("must be of type {}", schema["type"].as_str().unwrap_or("integer or string")));
    }
    if let Some(values) = schema["enum"].as_array().filter(|values| !values.contains(value)) {
        say(format!("Unsupported value: {value} of {values:?}"));
    }
    match value {
        Value::String(text) => check_text(schema, text, &mut say),
        Value::Number(number) => {
            let number = number.as_f64().unwrap();
            if schema["minimum"].as_f64().is_some_and(|minimum| number < minimum) {
                say(format!("should be greater than or equal to {}", schema["minimum"]));
            }
            if schema["maximum"].as_f64().is_some_and(|maximum| number > maximum) {
                say(format!("should be less than or equal to {}", schema["maximum"]));
            }
        }
        Value::Array(items) => {
            if schema["maxItems"].as_u64().is_some_and(|most| items.len() as u64 > most) {
                say(format!("must have at most {} items", schema["maxItems"]));
            }
            check_keys(schema, items, path, found);
            for (i, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{i}]"), found);
            }
        }
        Value::Object(object) => check_object(schema, object, path, found),
        _ => {}
    }
}

fn check_text(schema: &Value, text: &str, say: &mut dyn FnMut(String)) {
    let length = text.chars().count() as u64;
    if schema["minLength"].as_u64().is_some_and(|least| length < least) {
        say(format!("should be at least {} chars long", schema["minLength"]));
    }
    if schema["maxLength"].as_u64().is_some_and(|most| length > most) {
        say(format!("may not be more than {} bytes", schema["maxLength"]));
    }
    if schema["pattern"].as_str().is_some_and(|pattern| !Regex::new(pattern).unwrap().is_match(text)) {
        say(format!("should match '{}'", schema["pattern"]));
    }
    if schema["format"] == "byte" && !text.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c)) {
        say("must be of type byte".to_owned());
    }
}

fn check_keys(schema: &Value, items: &[Value], path: &str, found: &mut Vec<String>) {
    let Some(keys) = schema["x-kubernetes-list-map-keys"].as_array() else { return };
    let key = |item: &Value| keys.iter().map(|key| item[key.as_str().unwrap()].clone()).collect::<Vec<_>>();
    for (i, item) in items.iter().enumerate() {
        if items[..i].iter().any(|earlier| key(earlier) == key(item)) {
            found.push(format!("{path}[{i}]: Duplicate value"));
        }
    }
}

fn check_object(schema: &Value, object: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    let inside = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap();
        if !object.contains_key(name) {
            found.push(format!("{}: Required value", inside(name)));
        }
    }
    if schema["x-kubernetes-embedded-resource"] == true {
        for name in ["apiVersion", "kind"].into_iter().filter(|name| !object.contains_key(*name)) {
            found.push(format!("{}: must not be empty", inside(name)));
        }
    }
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true || path == "metadata";
    for (name, value) in object {
        if let Some(property) = schema["properties"].get(name) {
            check(property, value, &inside(name), found);
        } else if schema["additionalProperties"].is_object() {
            check(&schema["additionalProperties"], value, &inside(name), found);
        } else if !open {
            found.push(format!("strict decoding error: unknown field \"{}\"", inside(name)));
        }
    }
}
