use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::cluster::fake::FakeCluster;

fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

fn claim(change: Value) -> PersistentVolumeClaim {
    let mut claim = json!({
        "metadata": {"name": "data", "namespace": "shop", "uid": "0-1"},
        "spec": {
            "accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Ki"}},
            "dataSourceRef": {"apiGroup": "repositories.stash.appscode.com", "kind": "Snapshot", "name": "repo-1"}
        }
    });
    for (pointer, value) in change.as_object().unwrap() {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        claim.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    read(claim)
}

fn cluster(claim: &PersistentVolumeClaim, from: &str) -> FakeCluster {
    let policy = json!({"allowedNamespaces": {"from": from, "selector": {"matchLabels": {"team": "storage"}}}});
    let snapshot = json!({
        "metadata": {"name": "repo-1", "namespace": "shop"},
        "status": {
            "tree": "", "paths": ["/data"], "hostname": "h", "username": "", "repository": "repo", "totalBytes": 1000,
            "snapshotID": "0a".repeat(32), "snapshotTime": "2026-01-01T00:00:00Z",
        },
    });
    let repository =
        json!({"metadata": {"name": "repo", "namespace": "shop"}, "spec": {"backend": {}, "usagePolicy": policy}});
    FakeCluster {
        repositories: vec![read(repository)],
        snapshots: Mutex::new(vec![read(snapshot)]),
        namespaces: [("shop".to_owned(), BTreeMap::new())].into(),
        claims: vec![claim.clone()],
        ..FakeCluster::default()
    }
}

#[tokio::test]
async fn test_what_a_claim_is_populated_with() {
    let id = "0a".repeat(32);
    for (change, path) in [
        (json!({}), Some("/data")),
        (json!({"/metadata/annotations": {"fs.stash.appscode.com/path": "/data/a"}}), Some("/data/a")),
        (json!({"/metadata/annotations": {"fs.stash.appscode.com/path": "/"}}), None),
    ] {
        let claim = claim(change);
        let found = source(&cluster(&claim, "Same"), &claim).await.unwrap();
        let said =
            ["repository", "repositoryNamespace", "snapshot", "path"].map(|name| found.get(name).map(String::as_str));
        assert_eq!(said, [Some("repo"), Some("shop"), Some(&id), path]);
    }
}

#[tokio::test]
async fn test_what_is_not_populated() {
    let named = |name: &str| json!({"apiGroup": "repositories.stash.appscode.com", "kind": "Snapshot", "name": name});
    let annotated =
        |name: &str, value: &str| json!({"/metadata/annotations": {format!("fs.stash.appscode.com/{name}"): value}});
    for (change, from, words) in [
        (json!({"/spec/dataSourceRef": named("repo-2")}), "Same", "there is no Snapshot shop/repo-2"),
        (
            json!({}),
            "Selector",
            "the Repository shop/repo does not exist, or its usagePolicy does not admit the namespace shop",
        ),
        (
            json!({"/spec/resources": {"requests": {"storage": "999"}}}),
            "Same",
            "has 1000 bytes, and the claim requests 999",
        ),
        (annotated("mode", "overlay"), "Same", "the annotation fs.stash.appscode.com/mode is for claims of the driver"),
        (annotated("scratchSize", "1Gi"), "Same", "the annotation fs.stash.appscode.com/scratchSize is for"),
        (annotated("path", "/../etc"), "Same", "the attribute path is"),
    ] {
        let claim = claim(change);
        let error = source(&cluster(&claim, from), &claim).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let claim = claim(json!({}));
    let away = FakeCluster { away: true, ..cluster(&claim, "Same") };
    assert!(matches!(source(&away, &claim).await, Err(SourceError::Rpc(RpcError::Cluster(_)))));
}
