use serde_json::{Value, json};

use super::*;

fn claim(change: impl FnOnce(&mut Value)) -> PersistentVolumeClaim {
    let mut object = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": "yesterday", "namespace": "shop", "uid": "0-1",
            "annotations": {"volume.kubernetes.io/storage-provisioner": DRIVER}
        },
        "spec": {
            "storageClassName": "stash-snapshot", "accessModes": ["ReadOnlyMany"],
            "resources": {"requests": {"storage": "3Gi"}},
            "dataSourceRef": {"apiGroup": "repositories.stash.appscode.com", "kind": "Snapshot", "name": "repo-1"}
        }
    });
    change(&mut object);
    serde_json::from_value(object).unwrap()
}

fn class(change: impl FnOnce(&mut Value)) -> StorageClass {
    let mut object = json!({
        "metadata": {"name": "stash-snapshot"}, "provisioner": DRIVER, "reclaimPolicy": "Delete",
        "parameters": {"path": "/data"}
    });
    change(&mut object);
    serde_json::from_value(object).unwrap()
}

#[test]
fn test_only_what_the_cluster_gave_to_the_driver_gets_a_volume() {
    assert!(waits(&claim(|_| {})));
    let beta = |claim: &mut Value| {
        claim["metadata"]["annotations"] = json!({"volume.beta.kubernetes.io/storage-provisioner": DRIVER});
    };
    assert!(waits(&claim(beta)));
    let others: [fn(&mut Value); 4] = [
        |claim| claim["metadata"]["annotations"] = json!({}),
        |claim| {
            claim["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"] = json!("ebs.csi.aws.com");
        },
        |claim| claim["spec"]["volumeName"] = json!("pvc-0-1"),
        |claim| claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
    ];
    for (index, other) in others.into_iter().enumerate() {
        assert!(!waits(&claim(other)), "{index}");
    }
}

#[test]
fn test_a_claim_asks_as_a_sidecar_does() {
    let asked = request(&claim(|_| {}), &class(|_| {}), "0-1").unwrap();
    assert_eq!(asked.name, "pvc-0-1");
    let parameters: BTreeMap<_, _> = asked.parameters.clone().into_iter().collect();
    let expected = [(CLAIM_NAME, "yesterday"), (CLAIM_NAMESPACE, "shop"), ("path", "/data")];
    assert_eq!(parameters, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let parsed = crate::provision::parse(&asked).unwrap();
    assert_eq!(parsed.claim, Some(("shop".to_owned(), "yesterday".to_owned())));

    let many = claim(|claim| claim["spec"]["accessModes"] = json!(["ReadWriteMany"]));
    assert!(crate::provision::parse(&request(&many, &class(|_| {}), "0-1").unwrap()).is_err());
    let block = claim(|claim| claim["spec"]["volumeMode"] = json!("Block"));
    assert!(crate::provision::parse(&request(&block, &class(|_| {}), "0-1").unwrap()).is_err());
    let odd = claim(|claim| claim["spec"]["accessModes"] = json!(["WriteOnlyNever"]));
    assert!(request(&odd, &class(|_| {}), "0-1").unwrap_err().to_string().contains("WriteOnlyNever"));
}

#[test]
fn test_the_object_is_bound_to_its_claim_and_holds_no_secret() {
    let secret = SecretReference { name: Some("keys".to_owned()), namespace: Some("shop".to_owned()) };
    let context = BTreeMap::from([("snapshot".to_owned(), "ab".repeat(32))]);
    let retain = class(|class| class["reclaimPolicy"] = json!("Retain"));
    let volume = object(&claim(|_| {}), &retain, "pvc-0-1".to_owned(), context.clone(), Some(secret.clone()));
    let spec = volume.spec.clone().unwrap();
    let claimed = spec.claim_ref.unwrap();
    let named = [claimed.namespace.as_deref(), claimed.name.as_deref(), claimed.uid.as_deref()];
    assert_eq!(named, [Some("shop"), Some("yesterday"), Some("0-1")]);
    assert_eq!(spec.capacity.unwrap()["storage"].0, "3Gi");
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
    let source = spec.csi.unwrap();
    assert_eq!((source.read_only, source.volume_handle.as_str()), (Some(true), "pvc-0-1"));
    assert_eq!((source.volume_attributes, source.node_publish_secret_ref), (Some(context), Some(secret)));

    let overlay = BTreeMap::from([("mode".to_owned(), "overlay".to_owned())]);
    let volume = object(&claim(|_| {}), &class(|_| {}), "pvc-0-1".to_owned(), overlay, None);
    assert_eq!(volume.spec.unwrap().csi.unwrap().read_only, Some(false));
}

#[test]
fn test_only_our_own_volumes_go_with_their_claims() {
    let left = |change: fn(&mut PersistentVolume)| {
        let mut volume = object(&claim(|_| {}), &class(|_| {}), "pvc-0-1".to_owned(), BTreeMap::new(), None);
        volume.status = serde_json::from_value(json!({"phase": "Released"})).unwrap();
        change(&mut volume);
        is_left(&volume)
    };
    assert!(left(|_| {}));
    assert!(!left(|volume| volume.status = None));
    assert!(!left(|volume| volume.metadata.annotations = None));
    assert!(!left(|volume| volume.spec.as_mut().unwrap().csi.as_mut().unwrap().driver = "other".to_owned()));
    assert!(!left(|volume| {
        volume.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Retain".to_owned());
    }));
}
