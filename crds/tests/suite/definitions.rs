//! The definitions themselves: names, columns, bounds, and that what is committed is what the types say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stash_crds::{definitions, file_name, yaml};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn by_kind() -> Vec<(String, Value)> {
    definitions().into_iter().map(|d| (d.spec.names.kind.clone(), serde_json::to_value(d).unwrap())).collect()
}

fn definition(kind: &str) -> Value {
    by_kind().into_iter().find(|(name, _)| name == kind).unwrap().1
}

fn schema(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// Calls `f` with each schema and where it stands.
fn walk(schema: &Value, path: &str, f: &mut dyn FnMut(&str, &Value)) {
    f(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), f);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{path}[]"), f);
    }
    if schema["additionalProperties"].is_object() {
        walk(&schema["additionalProperties"], &format!("{path}{{}}"), f);
    }
}

fn walk_all(f: &mut dyn FnMut(&str, &Value)) {
    for (kind, definition) in by_kind() {
        walk(schema(&definition), &kind, f);
    }
}

#[test]
fn test_what_is_committed_is_what_the_types_say() {
    // A chart cannot hold what lies outside of it.
    for folder in ["deploy/crds", "deploy/charts/stash-fs/files/crds"] {
        let dir = root().join(folder);
        let mut expected = BTreeSet::new();
        for definition in definitions() {
            let name = file_name(&definition);
            let committed = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
            assert!(committed == yaml(&definition).unwrap(), "{folder}/{name} is stale: make crds");
            expected.insert(name);
        }
        let found: BTreeSet<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(found, expected, "{folder}");
    }
}

#[test]
fn test_committed_yaml_reads_back() {
    for definition in definitions() {
        let read: Value = serde_saphyr::from_str(&yaml(&definition).unwrap()).unwrap();
        assert_eq!(read, serde_json::to_value(&definition).unwrap(), "{}", definition.spec.names.kind);
    }
}

/// Kind, group and version, plural, short name, scope, categories, status sub-resource, columns: section 1 of Stash's API.
type Names<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, &'a str, bool, &'a str);

#[test]
fn test_names_and_columns_are_those_of_stash() {
    let stash: &[Names<'_>] = &[
        (
            "Repository",
            "stash.appscode.com/v1alpha1",
            "repositories",
            "repo",
            "Namespaced",
            "stash appscode",
            true,
            "Integrity=.status.integrity:boolean Size=.status.totalSize:string Snapshot-Count=.status.snapshotCount:integer \
             Last-Successful-Backup=.status.lastBackupTime:date Age",
        ),
        (
            "BackupConfiguration",
            "stash.appscode.com/v1beta1",
            "backupconfigurations",
            "bc",
            "Namespaced",
            "stash appscode all",
            true,
            "Task=.spec.task.name:string Schedule=.spec.schedule:string Paused=.spec.paused:boolean Phase=.status.phase:string Age",
        ),
        (
            "BackupSession",
            "stash.appscode.com/v1beta1",
            "backupsessions",
            "",
            "Namespaced",
            "stash appscode all",
            true,
            "Invoker-Type=.spec.invoker.kind:string Invoker-Name=.spec.invoker.name:string Phase=.status.phase:string \
             Duration=.status.sessionDuration:string Age",
        ),
        (
            "RestoreSession",
            "stash.appscode.com/v1beta1",
            "restoresessions",
            "restore",
            "Namespaced",
            "stash appscode all",
            true,
            "Repository=.spec.repository.name:string Phase=.status.phase:string Duration=.status.sessionDuration:string Age Progress=.status.progress:string",
        ),
        (
            "BackupBatch",
            "stash.appscode.com/v1beta1",
            "backupbatches",
            "",
            "Namespaced",
            "stash appscode all",
            true,
            "Schedule=.spec.schedule:string Paused=.spec.paused:boolean Phase=.status.phase:string Age",
        ),
        (
            "RestoreBatch",
            "stash.appscode.com/v1beta1",
            "restorebatches",
            "",
            "Namespaced",
            "stash appscode all",
            true,
            "Repository=.spec.repository.name:string Phase=.status.phase:string Duration=.status.sessionDuration:string Age",
        ),
        ("Function", "stash.appscode.com/v1beta1", "functions", "fn", "Cluster", "stash appscode", false, "Age"),
        ("Task", "stash.appscode.com/v1beta1", "tasks", "task", "Cluster", "stash appscode", false, "Age"),
        (
            "BackupBlueprint",
            "stash.appscode.com/v1beta1",
            "backupblueprints",
            "bb",
            "Cluster",
            "stash appscode",
            false,
            "Task=.spec.task.name:string Schedule=.spec.schedule:string Age",
        ),
        (
            "AppBinding",
            "appcatalog.appscode.com/v1alpha1",
            "appbindings",
            "",
            "Namespaced",
            "catalog appscode all",
            false,
            "Type=.spec.type:string Version=.spec.version:string Age",
        ),
        (
            "Snapshot",
            "repositories.stash.appscode.com/v1alpha1",
            "snapshots",
            "",
            "Namespaced",
            "storage appscode all",
            false,
            "ID=.status.shortID:string Repository=.status.repository:string Hostname=.status.hostname:string Created_At=.status.snapshotTime:string",
        ),
    ];
    assert_eq!(definitions().len(), stash.len());
    for (kind, version, plural, short, scope, categories, status, columns) in stash {
        let definition = definition(kind);
        let spec = &definition["spec"];
        let names = &spec["names"];
        let words = |list: &Value| {
            list.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            format!("{}/{}", spec["group"].as_str().unwrap(), spec["versions"][0]["name"].as_str().unwrap()),
            *version
        );
        assert_eq!((&names["plural"], &names["singular"]), (&json!(plural), &json!(kind.to_lowercase())));
        assert_eq!(
            (words(&names["shortNames"]).as_str(), words(&names["categories"]).as_str()),
            (*short, *categories),
            "{kind}"
        );
        assert_eq!(spec["scope"], *scope);
        assert_eq!(spec["versions"].as_array().unwrap().len(), 1);
        assert_eq!((&spec["versions"][0]["served"], &spec["versions"][0]["storage"]), (&json!(true), &json!(true)));
        assert_eq!(spec["versions"][0]["subresources"]["status"].is_object(), *status, "{kind}");
        let found: Vec<String> =
            spec["versions"][0]["additionalPrinterColumns"].as_array().unwrap().iter().map(column).collect();
        assert_eq!(found.join(" "), *columns, "{kind}");
        let label = if *kind == "AppBinding" { "catalog" } else { "stash" };
        assert_eq!(definition["metadata"]["labels"], json!({ "app.kubernetes.io/name": label }));
    }
}

fn column(column: &Value) -> String {
    let text = |key: &str| column[key].as_str().unwrap_or_default().replace(' ', "_");
    match (text("name"), text("jsonPath"), text("type")) {
        (age, path, date) if age == "Age" && path == ".metadata.creationTimestamp" && date == "date" => age,
        (name, path, type_) => format!("{name}={path}:{type_}"),
    }
}

#[test]
fn test_defaults_are_those_of_stash() {
    let mut found = BTreeSet::new();
    walk_all(&mut |path, schema| {
        if let Some(default) = schema.get("default") {
            found.insert(format!("{} {default}", path.rsplit('.').next().unwrap()));
        }
    });
    let expected = [
        r#"driver "Restic""#,
        r#"executionOrder "Parallel""#,
        r#"executionPolicy "Always""#,
        r#"from "Same""#,
        "maxRetry 1",
        // Names of Secrets: of images, and of AppBindings.
        r#"name """#,
    ];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn test_null_is_no_value() {
    // Where null is a value, `has()` finds it.
    walk_all(&mut |path, schema| {
        assert!(schema.get("nullable").is_none(), "{path}");
        assert!(!schema["enum"].as_array().is_some_and(|values| values.contains(&Value::Null)), "{path}");
        for keyword in ["anyOf", "oneOf", "allOf", "$ref", "title"] {
            assert!(schema.get(keyword).is_none(), "{path} has {keyword}");
        }
    });
}

#[test]
fn test_numbers_are_bounded_by_their_format() {
    walk_all(&mut |path, schema| {
        let format = schema["format"].as_str().unwrap_or_default();
        assert!(!format.starts_with("uint"), "{path}");
        if format == "int32" || (schema["x-kubernetes-int-or-string"] == true && schema.get("pattern").is_none()) {
            assert!(schema["minimum"].is_number() && schema["maximum"].is_number(), "{path}");
        }
    });
}

#[test]
fn test_what_rules_iterate_is_bounded() {
    walk_all(&mut |path, schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let text = rule["rule"].as_str().unwrap();
            assert!(rule["message"].as_str().is_some_and(|message| !message.is_empty()), "{path}: {text}");
            if schema["type"] == "array" {
                assert!(schema["maxItems"].is_number(), "{path} is iterated and has no bound");
            }
            if schema["type"] == "string" {
                assert!(schema["maxLength"].is_number(), "{path} is matched and has no bound");
            }
        }
    });
    let definition = definition("RestoreSession");
    let hosts = &schema(&definition)["properties"]["spec"]["properties"]["rules"]["items"]["properties"]["targetHosts"];
    assert!(hosts["maxItems"].is_number() && hosts["items"]["maxLength"].is_number());
}

#[test]
fn test_conditions_are_lists_by_type() {
    let mut found = 0;
    walk_all(&mut |path, schema| {
        if path.ends_with(".conditions") {
            assert_eq!(schema["x-kubernetes-list-map-keys"], json!(["type"]), "{path}");
            assert_eq!(schema["items"]["required"], json!(["lastTransitionTime", "status", "type"]));
            found += 1;
        }
    });
    assert!(found >= 8, "{found}");
}

#[test]
fn test_every_rule_is_documented() {
    let text = std::fs::read_to_string(root().join("docs/compatibility.md")).unwrap();
    let mut rules = BTreeSet::new();
    walk_all(&mut |_, schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            rules.insert(rule["message"].as_str().unwrap().to_owned());
        }
    });
    assert!(rules.len() >= 15, "{rules:?}");
    for message in rules {
        assert!(text.contains(&message), "docs/compatibility.md does not list: {message}");
    }
}

#[test]
fn test_what_is_ours_says_so_and_is_documented() {
    let text = std::fs::read_to_string(root().join("docs/compatibility.md")).unwrap();
    let mut ours = BTreeSet::new();
    walk_all(&mut |path, schema| {
        let description = schema["description"].as_str().unwrap_or_default();
        if description.contains("Not in Stash") {
            ours.insert(path.to_owned());
        }
    });
    assert!(ours.contains("RestoreSession.spec.strategy"), "{ours:?}");
    for path in ours {
        assert!(text.contains(&format!("`{path}`")), "docs/compatibility.md does not list {path}");
    }
}

#[test]
fn test_definitions_fit_where_they_are_kept() {
    for definition in definitions() {
        // `kubectl apply` keeps what was applied in an annotation of at most 256 KiB.
        let size = serde_json::to_string(&definition).unwrap().len();
        assert!(size < 256 << 10, "{} has {size} bytes", definition.spec.names.kind);
    }
}
