use super::*;

fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

fn claim(node: Option<&str>) -> PersistentVolumeClaim {
    let mut claim = json!({
        "metadata": {
            "name": "data", "namespace": "shop", "uid": "0-1", "labels": {"app": "db"},
            "annotations": {"fs.stash.appscode.com/path": "/x", "a": "b"}
        },
        "spec": {
            "storageClassName": "fast", "accessModes": ["ReadWriteMany"], "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": "1Gi"}}, "volumeAttributesClassName": "gold",
            "selector": {"matchLabels": {"a": "b"}},
            "dataSource": {"kind": "Snapshot", "name": "repo-1"}, "dataSourceRef": {"kind": "Snapshot", "name": "repo-1"}
        }
    });
    if let Some(node) = node {
        claim["metadata"]["annotations"][SELECTED_NODE] = json!(node);
    }
    read(claim)
}

fn attributes() -> BTreeMap<String, String> {
    [("repository", "repo"), ("repositoryNamespace", "shop"), ("snapshot", "0a"), ("path", "/data")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

#[test]
fn test_the_prime_claim_is_the_claim_without_content() {
    let made = prime(&claim(Some("node-1")), &attributes());
    assert_eq!(
        json!(made),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": "stash-populate-0-1", "namespace": "shop",
                "labels": {"app.kubernetes.io/component": "stash-populate", "app.kubernetes.io/managed-by": "stash.appscode.com"},
                "annotations": {
                    "fs.stash.appscode.com/repository": "repo", "fs.stash.appscode.com/repositoryNamespace": "shop",
                    "fs.stash.appscode.com/snapshot": "0a", "fs.stash.appscode.com/path": "/data", SELECTED_NODE: "node-1"
                },
                "ownerReferences": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data", "uid": "0-1"}]
            },
            "spec": {
                "storageClassName": "fast", "accessModes": ["ReadWriteMany"], "volumeMode": "Filesystem",
                "resources": {"requests": {"storage": "1Gi"}}, "volumeAttributesClassName": "gold"
            }
        })
    );
    assert_eq!(pinned(&made), attributes());
}

#[test]
fn test_the_job_has_the_two_volumes_its_orders_and_nothing_else() {
    let claim = claim(None);
    let mut made = prime(&claim, &attributes());
    made.metadata.uid = Some("0-2".to_owned());
    let job = job(&claim, &made, Some("keys".to_owned()), "registry/stash-fs:1");
    assert_eq!(job.metadata.annotations.as_ref().unwrap()[PRIME], "0-2");
    assert_eq!(job.metadata.owner_references, made.metadata.owner_references);
    let template = job.spec.unwrap().template;
    let orders = &template.metadata.unwrap().annotations.unwrap()[SPEC_ANNOTATION];
    let orders = CopySpec::parse(orders.as_bytes()).unwrap();
    assert!(!orders.opens_repository());
    let JobTask::Restore(task) = orders.task else { panic!("{orders:?}") };
    assert_eq!(
        (json!(task.sources), task.mounts, task.root.as_deref()),
        (
            json!([{"mounted": {"snapshot": "0a", "root": "/snapshot", "paths": ["/"]}}]),
            vec!["/".to_owned()],
            Some("/volume")
        )
    );
    let pod = template.spec.unwrap();
    assert_eq!((pod.automount_service_account_token, pod.tolerations), (Some(false), None));
    assert_eq!(
        json!(pod.volumes),
        json!([
            {"name": "job", "downwardAPI": {"items": [
                {"path": "spec.json", "fieldRef": {"fieldPath": "metadata.annotations['fs.stash.appscode.com/job']"}}
            ]}},
            {"name": "snapshot", "csi": {
                "driver": DRIVER, "readOnly": true, "nodePublishSecretRef": {"name": "keys"}, "volumeAttributes": attributes()
            }},
            {"name": "volume", "persistentVolumeClaim": {"claimName": "stash-populate-0-1"}}
        ])
    );
    // The driver takes the attributes as they are.
    let wanted = crate::volume::wanted(&attributes(), &[]);
    assert_eq!(wanted.unwrap().path.as_str(), "/data");
    let security = pod.containers[0].security_context.clone().unwrap();
    assert_eq!(security.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
    assert_eq!((security.privileged, security.allow_privilege_escalation), (None, Some(false)));
}

#[test]
fn test_a_copy_runs_where_the_pod_waits() {
    let claim = claim(Some("node-1"));
    let job = job(&claim, &prime(&claim, &attributes()), None, "i");
    let tolerations = job.spec.unwrap().template.spec.unwrap().tolerations;
    assert_eq!(json!(tolerations), json!([{"operator": "Exists", "effect": "NoSchedule"}]));
}

#[test]
fn test_a_volume_is_given_as_it_was_seen() {
    let claim = claim(None);
    let volume = read(json!({"metadata": {"name": "pv", "resourceVersion": "7"}}));
    assert_eq!(
        rebind(&claim, &prime(&claim, &attributes()), &volume),
        json!({
            "metadata": {"resourceVersion": "7", "annotations": {POPULATED_FROM: "shop/repo-1@0a"}},
            "spec": {"claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "shop", "name": "data", "uid": "0-1",
                "resourceVersion": null
            }}
        })
    );
}
