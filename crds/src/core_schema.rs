//! Schemas of the types that Kubernetes defines.
//!
//! Stash's objects hold parts of pods and claims. Their Rust types are those of `k8s-openapi`; these markers stand for them where a
//! schema is derived (`#[schemars(with = "Core<Affinity>")]`). Descriptions are left out, as Stash does: with them a definition
//! would outgrow what `kubectl apply` can keep in an annotation.

use std::borrow::Cow;
use std::marker::PhantomData;

use k8s_openapi::api::core::v1::Volume;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

/// What Kubernetes accepts as a quantity, as its own tools write it into schemas. It holds for strings; integers are accepted too.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// The schema of a type of Kubernetes, without its descriptions.
pub(crate) struct Core<T>(PhantomData<T>);

impl<T: JsonSchema> JsonSchema for Core<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        object(plain::<T>())
    }
}

/// The schema of the sources of a volume: a volume without its name.
pub(crate) struct VolumeSource;

impl VolumeSource {
    /// Returns the names of all sources, in order.
    pub(crate) fn names() -> Vec<String> {
        let volume = plain::<Volume>();
        let properties = volume["properties"].as_object().cloned().unwrap_or_default();
        let mut names: Vec<String> =
            properties.into_iter().map(|(name, _)| name).filter(|name| name != "name").collect();
        names.sort();
        names
    }
}

impl JsonSchema for VolumeSource {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "VolumeSource".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut volume = plain::<Volume>();
        if let Some(properties) = volume["properties"].as_object_mut() {
            properties.remove("name");
        }
        if let Some(schema) = volume.as_object_mut() {
            schema.remove("required");
        }
        object(volume)
    }
}

/// The schema of an object of which everything is kept and nothing is read.
pub(crate) struct Opaque;

impl JsonSchema for Opaque {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Opaque".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}

fn plain<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    simplify(&mut schema);
    schema
}

fn object(schema: Value) -> Schema {
    Schema::try_from(schema).unwrap_or_default()
}

/// Removes descriptions and titles, and gives quantities their pattern.
fn simplify(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("title");
    let description = object.remove("description");
    let quantity = description.and_then(|d| d.as_str().map(|d| d.starts_with("Quantity is"))).unwrap_or(false);
    if quantity && object.contains_key("x-kubernetes-int-or-string") {
        object.insert("pattern".to_owned(), QUANTITY.into());
    }
    for_each_subschema(object, &mut simplify);
}

/// Calls `f` for each schema directly within `schema`; names of properties are never taken for keywords.
pub(crate) fn for_each_subschema(schema: &mut Map<String, Value>, f: &mut dyn FnMut(&mut Value)) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(&mut *f);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(keyword) {
            f(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements};

    use super::*;

    fn schema<T: JsonSchema>() -> Value {
        T::json_schema(&mut SchemaSettings::openapi3().into_generator()).to_value()
    }

    #[test]
    fn test_quantities_are_numbers_or_matching_strings() {
        let limits = &schema::<Core<ResourceRequirements>>()["properties"]["limits"];
        assert_eq!(limits["additionalProperties"]["x-kubernetes-int-or-string"], true);
        assert_eq!(limits["additionalProperties"]["pattern"], QUANTITY);
    }

    #[test]
    fn test_nothing_is_described_or_referred_to() {
        let text = schema::<Core<Affinity>>().to_string();
        assert!(text.contains("nodeAffinity") && !text.contains("description") && !text.contains("$ref"), "{text}");
    }

    #[test]
    fn test_a_volume_source_has_no_name() {
        let source = schema::<VolumeSource>();
        assert!(source["properties"].get("name").is_none() && source.get("required").is_none());
        assert!(source["properties"]["hostPath"]["properties"]["path"].is_object());
        assert!(VolumeSource::names().contains(&"persistentVolumeClaim".to_owned()));
    }
}
