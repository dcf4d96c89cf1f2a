//! An object: how it is named, how it is found, and what it says of a snapshot. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource as _, ResourceExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use stash_crds::snapshot::SnapshotStatus;
use stash_crds::{Repository, Snapshot, names as labels};
use stash_repo::SnapshotId;

use crate::conditions::whole_second;
use crate::{go_duration, names};

/// Annotation: of what the object was made beside its snapshot. Another value means that it is made anew.
pub const MADE_OF_ANNOTATION: &str = "stash.appscode.com/mirrored-of";

/// What objects look like; counted up where that changes.
const FORM: &str = "1";
/// The longest name of a Repository within a short name, as in Stash: together they are a label's value.
const SHORT_LIMIT: usize = 54;
/// The same within a whole one: together they are a name of the API.
const WHOLE_LIMIT: usize = 253 - 65;
/// How long a name in a snapshot may be in a status.
const NAME_LIMIT_BYTES: usize = 1024;
/// How much all paths of a snapshot, and all tags, may take in a status.
const LIST_LIMIT_BYTES: usize = 64 << 10;

/// Keys of labels by which tools know what is theirs. A Snapshot with one of them would be pruned with what it was not made with.
const CLAIMS: [&str; 3] = ["app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart"];
/// The domains of such keys.
const CLAIMING_DOMAINS: [&str; 5] = ["argoproj.io", "fluxcd.io", "cattle.io", "k14s.io", "olm.operatorframework.io"];

/// Returns the name that a snapshot's object has as a rule: `<repository>-<first eight digits>`, as in Stash.
pub fn short_name(repository: &str, id: &SnapshotId) -> String {
    format!("{}-{}", cut(repository, SHORT_LIMIT), id.0.short())
}

/// Returns the name that it has where another snapshot has the short one.
pub fn whole_name(repository: &str, id: &SnapshotId) -> String {
    format!("{}-{id}", cut(repository, WHOLE_LIMIT))
}

fn cut(repository: &str, limit: usize) -> &str {
    // Names of the API are ASCII.
    let cut = repository.get(..limit).unwrap_or(repository);
    cut.trim_end_matches(['.', '-'])
}

/// Returns `text` as the value of a label: what may not stand in one becomes `_`.
pub fn label_value(text: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let value: String = text.chars().take(63).map(|c| if fine(c) { c } else { '_' }).collect();
    value.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// Returns the labels of a Repository that its Snapshots have too, as in Stash.
fn inherited(repository: &Repository) -> BTreeMap<String, String> {
    let claims = |key: &str| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let is_of = |other: &str| domain == other || domain.ends_with(&format!(".{other}"));
        CLAIMS.contains(&key) || CLAIMING_DOMAINS.iter().any(|other| is_of(other))
    };
    let own = repository.labels().iter().filter(|(key, _)| !claims(key));
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Returns of what the objects of a Repository are made, beside their snapshots: a value that changes with it.
pub fn made_of(repository: &Repository) -> String {
    let labels: Vec<String> = inherited(repository).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    names::digest(&format!("{FORM};{}", labels.join(";")))
}

/// Chooses the names of snapshots that have no object yet, in the order in which they come; `taken` says whose a name is already.
pub fn choose_names(
    repository: &str,
    snapshots: impl IntoIterator<Item = SnapshotId>,
    taken: impl Fn(&str) -> Option<SnapshotId>,
) -> HashMap<SnapshotId, String> {
    let mut chosen: HashMap<String, SnapshotId> = HashMap::new();
    let mut named = HashMap::new();
    for id in snapshots {
        let short = short_name(repository, &id);
        let owner = chosen.get(&short).copied().or_else(|| taken(&short));
        let name = if owner.is_none_or(|owner| owner == id) { short } else { whole_name(repository, &id) };
        chosen.insert(name.clone(), id);
        named.insert(id, name);
    }
    named
}

/// Makes an object as it is applied.
pub fn object(repository: &Repository, name: &str, snapshot: &stash_repo::Snapshot) -> Value {
    let mut own = inherited(repository);
    own.insert(labels::SNAPSHOT_REPOSITORY_LABEL.to_owned(), names::cut63(&repository.name_any()));
    own.insert(labels::SNAPSHOT_HOSTNAME_LABEL.to_owned(), label_value(&snapshot.hostname));
    json!({
        "apiVersion": Snapshot::api_version(&()),
        "kind": Snapshot::kind(&()),
        "metadata": {
            "name": name,
            "namespace": repository.namespace(),
            "labels": own,
            "annotations": {
                labels::SNAPSHOT_REPOSITORY_ANNOTATION: repository.name_any(),
                labels::SNAPSHOT_ID_ANNOTATION: snapshot.id.to_string(),
                MADE_OF_ANNOTATION: made_of(repository),
            },
            "finalizers": [labels::SNAPSHOT_FINALIZER],
        },
        "status": status(&repository.name_any(), snapshot),
    })
}

fn status(repository: &str, snapshot: &stash_repo::Snapshot) -> SnapshotStatus {
    let summary = Summary::of(snapshot);
    let time = whole_second(snapshot.time.timestamp());
    // Other years are no times of the API.
    let time = (1..=9999).contains(&snapshot.time.with_time_zone(jiff::tz::TimeZone::UTC).year()).then_some(Time(time));
    SnapshotStatus {
        tree: snapshot.tree.to_string(),
        paths: bounded(&snapshot.paths),
        hostname: shortened(&snapshot.hostname),
        username: shortened(&snapshot.username),
        uid: Some(snapshot.uid.into()),
        gid: Some(snapshot.gid.into()),
        tags: bounded(&snapshot.tags),
        repository: repository.to_owned(),
        snapshot_id: Some(snapshot.id.to_string()),
        short_id: Some(snapshot.id.0.short()),
        snapshot_time: time,
        total_bytes: summary.total_bytes_processed.and_then(|number| number.try_into().ok()),
        total_files: summary.total_files_processed.and_then(|number| number.try_into().ok()),
        duration: summary.duration().map(go_duration::format),
    }
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(NAME_LIMIT_BYTES)].to_owned()
}

/// Keeps the first texts of a list; one that ends with `...` says that there are more.
fn bounded(list: &[String]) -> Vec<String> {
    let mut bytes = 0;
    let mut kept: Vec<String> = Vec::new();
    for text in list {
        bytes += text.len() + 1;
        if bytes > LIST_LIMIT_BYTES {
            kept.push("...".to_owned());
            break;
        }
        kept.push(text.clone());
    }
    kept
}

/// What writers count, as far as they do: restic since 0.17, `rustic`, and we.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Summary {
    backup_start: Option<Timestamp>,
    backup_end: Option<Timestamp>,
    total_files_processed: Option<u64>,
    total_bytes_processed: Option<u64>,
}

impl Summary {
    fn of(snapshot: &stash_repo::Snapshot) -> Self {
        let json = snapshot.summary.as_ref().map(|summary| summary.get());
        json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
    }

    fn duration(&self) -> Option<Duration> {
        let took = self.backup_end?.duration_since(self.backup_start?);
        Duration::try_from(took).ok()
    }
}

#[cfg(test)]
mod tests {
    use stash_repo::Id;

    use super::*;

    fn repository(name: &str, own: Value) -> Repository {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop", "labels": own}, "spec": {}}))
            .unwrap()
    }

    fn id(digits: &str) -> SnapshotId {
        format!("{digits:0<64}").parse().unwrap()
    }

    #[test]
    fn test_names_are_those_of_stash() {
        let first = id("c1014ca6f0");
        let long = "r".repeat(70);
        let dotted = format!("{}.{}", "r".repeat(53), "x");
        for (repository, expected) in [
            ("gcs-repo", "gcs-repo-c1014ca6".to_owned()),
            ("my.repo", "my.repo-c1014ca6".to_owned()),
            (&long, format!("{}-c1014ca6", "r".repeat(54))),
            (&dotted, format!("{}-c1014ca6", "r".repeat(53))),
        ] {
            assert_eq!(short_name(repository, &first), expected);
        }
        assert_eq!(whole_name("r", &first), format!("r-{first}"));
        assert_eq!(whole_name(&"r".repeat(253), &first).len(), 253);
    }

    #[test]
    fn test_who_comes_second_has_the_whole_id_in_its_name() {
        let (a, b, c, d) = (id("c1014ca61"), id("c1014ca62"), id("d2"), id("e3"));
        let taken = HashMap::from([("r-d2000000".to_owned(), c), ("r-e3000000".to_owned(), a)]);
        let names = choose_names("r", [a, b, c, d], |name| taken.get(name).copied());
        assert_eq!(names[&a], "r-c1014ca6");
        assert_eq!(names[&b], format!("r-{b}"));
        assert_eq!(names[&c], "r-d2000000", "its own name is not another's");
        assert_eq!(names[&d], format!("r-{d}"));
    }

    #[test]
    fn test_labels_of_the_repository_are_inherited_but_for_claims() {
        let own = json!({
            "team": "a", "repository": "other", "app.kubernetes.io/instance": "app", "app.kubernetes.io/managed-by": "Helm",
            "kustomize.toolkit.fluxcd.io/name": "x", "argocd.argoproj.io/instance": "y", "app.kubernetes.io/name": "shop"
        });
        let repository = repository("r", own);
        let made = object(&repository, "r-x", &snapshot(json!({"hostname": "web 1/ä"})));
        let expected = json!({"team": "a", "repository": "r", "hostname": "web_1", "app.kubernetes.io/name": "shop"});
        assert_eq!(made["metadata"]["labels"], expected);
        let other = self::repository("r", json!({"team": "b"}));
        assert_ne!(made_of(&repository), made_of(&other));
        assert_eq!(made["metadata"]["annotations"][MADE_OF_ANNOTATION], made_of(&repository));
    }

    #[test]
    fn test_who_looks_for_the_snapshots_of_a_repository_finds_them() {
        for name in ["r".to_owned(), format!("{}.{}", "a".repeat(40), "b".repeat(40)), "-".repeat(3) + "r"] {
            let made = object(&repository(&name, json!({})), "x", &snapshot(json!({"hostname": "h"})));
            let written = made["metadata"]["labels"]["repository"].as_str().unwrap();
            assert_eq!(stash_crds::labels::snapshots_of(&name), format!("repository={written}"));
        }
    }

    #[test]
    fn test_values_of_labels() {
        let long = "a".repeat(70);
        for (text, expected) in [
            ("host-0", "host-0"),
            ("db.example.org", "db.example.org"),
            ("", ""),
            ("_x-", "x"),
            ("a b", "a_b"),
            ("äö", ""),
            (&long, &long[..63]),
        ] {
            assert_eq!(label_value(text), expected, "{text}");
        }
    }

    fn snapshot(more: Value) -> stash_repo::Snapshot {
        let mut json = json!({"time": "2026-11-22T19:52:21.6+05:30", "tree": "02".repeat(32)});
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        stash_repo::Snapshot::parse(SnapshotId(Id::new([0xab; 32])), json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn test_fields_are_those_of_stash_and_ours() {
        let made = object(
            &repository("r", json!({})),
            "r-abababab",
            &snapshot(json!({
                "paths": ["/data"], "hostname": "h", "username": "root", "uid": 4_294_967_294_u32, "gid": 7, "tags": ["a"],
                "summary": {"backup_start": "2026-11-22T14:00:00Z", "backup_end": "2026-11-22T14:01:02.5Z",
                    "total_files_processed": 12, "total_bytes_processed": 1_048_576, "files_new": 1}
            })),
        );
        let expected = json!({
            "tree": "02".repeat(32), "paths": ["/data"], "hostname": "h", "username": "root", "uid": 4_294_967_294_u32,
            "gid": 7, "tags": ["a"], "repository": "r", "snapshotID": "ab".repeat(32), "shortID": "abababab",
            "snapshotTime": "2026-11-22T14:22:21Z", "totalBytes": 1_048_576, "totalFiles": 12, "duration": "1m2.5s"
        });
        assert_eq!(made["status"], expected);
        assert_eq!(made["metadata"]["finalizers"], json!(["stash.appscode.com/forget"]));
        assert!(made["metadata"]["ownerReferences"].is_null());
    }

    #[test]
    fn test_what_nobody_counted_is_left_out_and_what_is_too_much_is_cut() {
        let paths: Vec<String> = (0..3000).map(|n| format!("/{n}{}", "x".repeat(60))).collect();
        let odd = json!({"paths": paths, "hostname": "ä".repeat(4000), "summary": {"total_files_processed": "many"}, "time": "0000-12-31T00:00:00Z"});
        let made = object(&repository("r", json!({})), "r-abababab", &snapshot(odd));
        let status = &made["status"];
        for field in ["totalBytes", "totalFiles", "duration", "snapshotTime"] {
            assert!(status[field].is_null(), "{field}");
        }
        assert_eq!(status["paths"].as_array().unwrap().last().unwrap(), "...");
        assert!(made.to_string().len() < 100_000);
    }
}
