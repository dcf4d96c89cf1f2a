//! What is right is accepted and kept whole; what is wrong is refused with its name.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stash_crds::{
    AppBinding, BackupBatch, BackupBlueprint, BackupConfiguration, BackupSession, Function, Repository, RestoreBatch,
    RestoreSession, Snapshot, Task,
};

use crate::server::{default, refusals, schema_of};

/// A document of the corpora.
pub(crate) struct Document {
    /// Where it stands, for messages.
    pub place: String,
    /// The header above it.
    pub header: String,
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
            let header = part.lines().filter_map(|line| line.strip_prefix("# ")).collect::<Vec<_>>().join("\n");
            let object: Value =
                serde_saphyr::from_str(part).unwrap_or_else(|e| panic!("{}: {e}\n{part}", file.display()));
            let place = format!("{} {}", file.file_name().unwrap().to_string_lossy(), object["metadata"]["name"]);
            found.push(Document { place, header, object });
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
fn test_right_objects_are_accepted() {
    for document in documents("valid") {
        assert_eq!(refusals(&document.object, None), [""; 0], "{}", document.place);
        // As when it is applied again.
        assert_eq!(refusals(&document.object, Some(&document.object)), [""; 0], "{}", document.place);
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

#[test]
fn test_right_objects_hold_every_field() {
    // Fields of Kubernetes' own types are not ours to list.
    let mut missing = Vec::new();
    let objects: Vec<Value> = documents("valid").into_iter().map(|d| d.object).collect();
    for definition in stash_crds::definitions() {
        let of_kind: Vec<&Value> =
            objects.iter().filter(|o| o["kind"] == definition.spec.names.kind.as_str()).collect();
        assert!(!of_kind.is_empty(), "no {} in the corpus", definition.spec.names.kind);
        let schema = schema_of(of_kind[0]);
        for part in ["spec", "status"] {
            let inner: Vec<&Value> = of_kind.iter().filter_map(|object| object.get(part)).collect();
            find_missing(
                &schema["properties"][part],
                &inner,
                &format!("{}.{part}", definition.spec.names.kind),
                &mut missing,
            );
        }
    }
    assert_eq!(missing, [""; 0]);
}

fn find_missing(schema: &Value, values: &[&Value], path: &str, missing: &mut Vec<String>) {
    let items: Vec<&Value> = values.iter().filter_map(|value| value.as_array()).flatten().collect();
    if schema["items"].is_object() {
        return find_missing(&schema["items"], &items, path, missing);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        // Only our fields are described.
        if property.get("description").is_none() {
            continue;
        }
        let inside: Vec<&Value> = values.iter().filter_map(|value| value.get(name)).collect();
        let path = format!("{path}.{name}");
        if inside.is_empty() {
            missing.push(path);
        } else {
            find_missing(property, &inside, &path, missing);
        }
    }
}

/// `PATH` and `MESSAGE` of a header `refused: PATH: MESSAGE`.
fn expected(header: &str) -> Option<(&str, &str)> {
    header.lines().find_map(|line| line.strip_prefix("refused: ")).map(|rest| rest.split_once(": ").unwrap())
}

fn assert_refused(place: &str, header: &str, found: &[String]) {
    let (path, message) = expected(header).unwrap_or_else(|| panic!("{place} has no header"));
    assert!(found.iter().any(|f| f.contains(path) && f.contains(message)), "{place}: {header:?}, but {found:?}");
}

#[test]
fn test_wrong_objects_are_refused_by_name() {
    let documents = documents("wrong");
    assert!(documents.len() >= 60, "only {}", documents.len());
    for document in documents {
        assert_refused(&document.place, &document.header, &refusals(&document.object, None));
    }
}

#[test]
fn test_changes_are_accepted_or_refused() {
    let documents = documents("updates");
    for pair in documents.chunks(2) {
        let [old, new] = pair else { panic!("{} is alone", pair[0].place) };
        assert!(old.header.starts_with("stored"), "{}", old.place);
        let mut changed = new.object.clone();
        // An update of a kind with a status leaves the status.
        if let (None, Some(status)) = (changed.get("status"), old.object.get("status")) {
            changed["status"] = status.clone();
        }
        let found = refusals(&changed, Some(&old.object));
        if new.header.starts_with("accepted") {
            assert_eq!(found, [""; 0], "{}", new.place);
        } else {
            assert_refused(&new.place, &new.header, &found);
        }
    }
}
