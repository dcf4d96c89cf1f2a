//! What is right is kept whole by our types, and the corpus holds every field. Whether it is accepted, and what is wrong refused, is
//! for a real API server to say: `k8s_crds` of `tests/suites`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stash_crds::{
    AppBinding, BackupBatch, BackupBlueprint, BackupConfiguration, BackupSession, Function, Repository, RestoreBatch,
    RestoreSession, Snapshot, Task,
};

use crate::schema::{default, schema_of};

/// A document of the corpora.
pub(crate) struct Document {
    /// Where it stands, for messages.
    pub place: String,
    /// What it holds.
    pub object: Value,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn documents(name: &str) -> Vec<Document> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for part in text.split("\n---\n") {
            let object: Value =
                serde_saphyr::from_str(part).unwrap_or_else(|e| panic!("{}: {e}\n{part}", file.display()));
            let place = format!("{} {}", file.file_name().unwrap().to_string_lossy(), object["metadata"]["name"]);
            found.push(Document { place, object });
        }
    }
    found
}

/// The object as its type reads and writes it.
fn through_type(object: &Value) -> Value {
    fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(object.clone()).unwrap()).unwrap()
    }
    match object["kind"].as_str().unwrap() {
        "Repository" => through::<Repository>(object),
        "BackupConfiguration" => through::<BackupConfiguration>(object),
        "BackupSession" => through::<BackupSession>(object),
        "BackupBatch" => through::<BackupBatch>(object),
        "BackupBlueprint" => through::<BackupBlueprint>(object),
        "RestoreSession" => through::<RestoreSession>(object),
        "RestoreBatch" => through::<RestoreBatch>(object),
        "Function" => through::<Function>(object),
        "Task" => through::<Task>(object),
        "AppBinding" => through::<AppBinding>(object),
        "Snapshot" => through::<Snapshot>(object),
        other => panic!("{other}"),
    }
}

/// Removes what says the same as its absence, and writes quantities as texts.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.iter().map(|(name, inner)| {
                let inner = match (name.as_str(), inner) {
                    ("cpu" | "memory" | "storage" | "sizeLimit", Value::Number(number)) => number.to_string().into(),
                    _ => normal(inner),
                };
                (name.clone(), inner)
            });
            let empty = |inner: &Value| inner == &Value::Bool(false) || inner.as_array().is_some_and(Vec::is_empty);
            kept.filter(|(_, inner)| !empty(inner)).collect()
        }
        Value::Array(items) => items.iter().map(normal).collect(),
        other => other.clone(),
    }
}

#[test]
fn test_types_keep_every_field() {
    for document in documents("valid") {
        let schema = schema_of(&document.object);
        let [mut read, mut written] = [document.object.clone(), through_type(&document.object)];
        default(&schema, &mut read);
        default(&schema, &mut written);
        assert_eq!(normal(&written), normal(&read), "{}", document.place);
        assert_eq!(through_type(&written), written, "{}", document.place);
    }
}

/// A field of ours: its name, and what is said of it. Kinds that share a type share its fields.
type Field = (String, String);

#[test]
fn test_right_objects_hold_every_field() {
    let objects: Vec<Value> = documents("valid").into_iter().map(|d| d.object).collect();
    let (mut held, mut missing) = (BTreeSet::new(), Vec::new());
    for definition in stash_crds::definitions() {
        let of_kind: Vec<&Value> =
            objects.iter().filter(|o| o["kind"] == definition.spec.names.kind.as_str()).collect();
        assert!(!of_kind.is_empty(), "no {} in the corpus", definition.spec.names.kind);
        let schema = schema_of(of_kind[0]);
        for part in ["spec", "status"] {
            let inner: Vec<&Value> = of_kind.iter().filter_map(|object| object.get(part)).collect();
            let path = format!("{}.{part}", definition.spec.names.kind);
            find_fields(&schema["properties"][part], &inner, &path, &mut held, &mut missing);
        }
    }
    missing.retain(|(field, _)| !held.contains(field));
    let missing: Vec<_> = missing.into_iter().map(|(_, path)| path).collect();
    assert_eq!(missing, [""; 0]);
}

fn find_fields(
    schema: &Value,
    values: &[&Value],
    path: &str,
    held: &mut BTreeSet<Field>,
    missing: &mut Vec<(Field, String)>,
) {
    if schema["items"].is_object() {
        let items: Vec<&Value> = values.iter().filter_map(|value| value.as_array()).flatten().collect();
        return find_fields(&schema["items"], &items, path, held, missing);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        // Only our fields are described; those of Kubernetes' own types are not ours to list.
        let Some(description) = property["description"].as_str() else { continue };
        let field = (name.clone(), description.to_owned());
        let inside: Vec<&Value> = values.iter().filter_map(|value| value.get(name)).collect();
        let path = format!("{path}.{name}");
        if inside.is_empty() {
            missing.push((field, path));
        } else {
            held.insert(field);
            find_fields(property, &inside, &path, held, missing);
        }
    }
}
