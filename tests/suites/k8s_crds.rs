//! What a real API server makes of our kinds: `crds/testdata` says what it must accept, and what it must refuse and how.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use stash_tests::cluster::ApiServer;

/// What is said of a document in the line above it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Accepted,
    Refused { path: String, message: String },
}

/// A document of `crds/testdata`.
#[derive(Debug)]
struct Document {
    /// Its file, and where in it, for messages.
    place: String,
    object: Value,
    wanted: Wanted,
    /// It is there before the next one comes.
    stored: bool,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn documents(folder: &str) -> Vec<Document> {
    let mut files: Vec<_> = std::fs::read_dir(root().join("crds/testdata").join(folder))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let mut documents = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = format!("{text}\n");
        for (number, part) in text.split("\n---\n").enumerate() {
            let place = format!("{} {}", file.file_name().unwrap().display(), number + 1);
            let object: Value = serde_saphyr::from_str(part).unwrap_or_else(|error| panic!("{place}: {error}"));
            if object.is_null() {
                continue;
            }
            let header = |name: &str| part.lines().find_map(|line| line.strip_prefix(&format!("# {name}")));
            let wanted = match header("refused: ") {
                Some(refused) => {
                    let (path, message) = refused.split_once(": ").unwrap_or_else(|| panic!("{place}: {refused}"));
                    Wanted::Refused { path: path.to_owned(), message: message.to_owned() }
                }
                None => Wanted::Accepted,
            };
            documents.push(Document { place, object, wanted, stored: header("stored").is_some() });
        }
    }
    documents
}

/// An API server with our kinds, and the paths under which it serves them.
struct Api {
    server: ApiServer,
    /// By group and kind: version, plural, whether it is namespaced, whether its status is written by itself.
    kinds: BTreeMap<(String, String), (String, String, bool, bool)>,
}

impl Api {
    fn start() -> Self {
        let server = ApiServer::start();
        let folder = root().join("deploy/crds");
        let folder = folder.to_str().unwrap();
        server.kubectl().run(&["apply", "--server-side", "--validate=strict", "-f", folder]);
        server.kubectl().wait_for_definitions();
        let kinds = stash_crds::definitions()
            .into_iter()
            .map(|definition| {
                let (spec, version) = (definition.spec, 0);
                let version = spec.versions.into_iter().nth(version).unwrap();
                let status = version.subresources.is_some_and(|subresources| subresources.status.is_some());
                let namespaced = spec.scope == "Namespaced";
                ((spec.group, spec.names.kind), (version.name, spec.names.plural, namespaced, status))
            })
            .collect();
        Self { server, kinds }
    }

    /// Returns where objects of this one's kind are made, and its name.
    fn place(&self, object: &Value) -> (String, String, bool) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (group, _) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap();
        let kind = text(&object["kind"]);
        let (version, plural, namespaced, status) = &self.kinds[&(group.to_owned(), kind)];
        let folder = match object["metadata"]["namespace"].as_str() {
            Some(namespace) if *namespaced => format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}"),
            _ => format!("/apis/{group}/{version}/{plural}"),
        };
        (folder, text(&object["metadata"]["name"]), *status)
    }

    fn make_namespaces(&self, documents: &[Document]) {
        let names: std::collections::BTreeSet<_> =
            documents.iter().filter_map(|document| document.object["metadata"]["namespace"].as_str()).collect();
        for name in names {
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            assert_eq!(self.server.request("POST", "/api/v1/namespaces", &namespace).0, 201);
        }
    }

    /// Makes an object, or changes it if it is there.
    fn write(&self, object: &Value) -> (u16, Value) {
        let (folder, name, _) = self.place(object);
        let (status, old) = self.server.request("GET", &format!("{folder}/{name}"), &Value::Null);
        if status == 404 {
            return self.server.request("POST", &folder, object);
        }
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        self.server.request("PUT", &format!("{folder}/{name}"), &object)
    }

    /// The same for its status, where that is written by itself.
    fn write_status(&self, object: &Value) -> Option<(u16, Value)> {
        let (folder, name, by_itself) = self.place(object);
        let status = object.get("status").filter(|_| by_itself)?;
        Some(self.server.request("PATCH", &format!("{folder}/{name}/status"), &json!({ "status": status })))
    }
}

#[test]
fn test_what_stash_accepts_is_accepted_under_strict_validation() {
    let api = Api::start();
    let documents = documents("valid");
    assert!(documents.len() > 40, "{}", documents.len());
    api.make_namespaces(&documents);
    for document in &documents {
        let (status, answer) = api.write(&document.object);
        assert!(matches!(status, 200 | 201), "{}: {status} {}", document.place, answer["message"]);
        // What is there can be written again as it is: no rule stands in the way of an update.
        if let Some((status, answer)) = api.write_status(&document.object) {
            assert_eq!(status, 200, "{}: {}", document.place, answer["message"]);
            assert_eq!(answer["status"], document.object["status"], "{}", document.place);
        }
        let (status, answer) = api.write(&document.object);
        assert_eq!(status, 200, "{}: {}", document.place, answer["message"]);
    }
}

#[test]
fn test_what_is_wrong_is_refused_by_field_and_rule() {
    let api = Api::start();
    let documents = documents("wrong");
    assert!(documents.len() >= 60, "{}", documents.len());
    api.make_namespaces(&documents);
    let mut others = Vec::new();
    for document in &documents {
        let (status, answer) = api.write(&document.object);
        others.extend(other_than(document, status, &answer));
    }
    assert!(others.is_empty(), "{} of {}:\n{}", others.len(), documents.len(), others.join("\n"));
}

#[test]
fn test_what_may_not_change_does_not() {
    let api = Api::start();
    let documents = documents("updates");
    api.make_namespaces(&documents);
    let mut others = Vec::new();
    for document in &documents {
        let (status, answer) = api.write(&document.object);
        if document.stored {
            assert!(matches!(status, 200 | 201), "{}: {status} {}", document.place, answer["message"]);
            if let Some((status, answer)) = api.write_status(&document.object) {
                assert_eq!(status, 200, "{}: {}", document.place, answer["message"]);
            }
        } else {
            others.extend(other_than(document, status, &answer));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}

/// Says how an answer differs from what a document says of itself.
fn other_than(document: &Document, status: u16, answer: &Value) -> Option<String> {
    let text = answer["message"].as_str().unwrap_or_default();
    let right = match &document.wanted {
        Wanted::Accepted => matches!(status, 200 | 201),
        Wanted::Refused { path, message } => {
            matches!(status, 400 | 422) && text.contains(path.as_str()) && text.contains(message.as_str())
        }
    };
    (!right).then(|| format!("{}: {:?}, not {status} {text}", document.place, document.wanted))
}
