//! `driver: VolumeSnapshotter`, with the test as the cluster's snapshot controller.

use serde_json::{Value, json};
use stash_tests::cluster::wait_until;

use stash_tests::shop::{Shop, World, condition, said};

use super::said_of;

/// The kind as the CSI project defines it, without its schema.
fn define(world: &World) {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version =
        json!({"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}});
    let names = json!({"kind": "VolumeSnapshot", "listKind": "VolumeSnapshotList", "plural": "volumesnapshots", "singular": "volumesnapshot"});
    world.kubectl().apply(&json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "volumesnapshots.snapshot.storage.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-csi/external-snapshotter/pull/665"}
        },
        "spec": {"group": "snapshot.storage.k8s.io", "scope": "Namespaced", "names": names, "versions": [version]}
    }));
    world.kubectl().wait_for_definitions();
}

fn ready(shop: &Shop<'_>, name: &str) -> Value {
    let snapshot = wait_until(&format!("VolumeSnapshot {name}"), || {
        shop.list("volumesnapshots").into_iter().find(|snapshot| snapshot["metadata"]["name"] == name)
    });
    let taken = snapshot["metadata"]["creationTimestamp"].clone();
    shop.patch_status("volumesnapshot", name, &json!({"readyToUse": true, "creationTime": taken}));
    snapshot
}

pub(super) fn volume_snapshots_are_taken_and_kept_by_policy(world: &World) {
    let shop = world.shop();
    shop.claim();
    let policy = json!({"name": "keep", "keepLast": 1, "prune": true});
    let more =
        json!({"driver": "VolumeSnapshotter", "repository": null, "retentionPolicy": policy, "backupHistoryLimit": 5});
    shop.configuration("0 0 29 2 *", more);
    shop.namespace.wait("backupconfiguration/nightly", "jsonpath={.status.phase}=Ready");
    shop.trigger("early-1");
    // The cluster has no such kind yet.
    let failed = shop.wait_for_phase("early-1", "Failed");
    let ensured = condition(&failed["status"]["targets"][0], "");
    assert!(ensured.is_none() && said(&failed["status"]["targets"][0]) == ["BackupExecutorEnsured=False"], "{failed}");

    define(world);
    let by_hand = |name: &str| {
        shop.namespace.apply(json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": name},
            "spec": {"source": {"persistentVolumeClaimName": "data"}}
        }));
        ready(&shop, name);
    };
    by_hand("by-hand");
    for round in [1, 2] {
        shop.trigger(&format!("vs-{round}"));
        let snapshot = ready(&shop, &format!("data-{round}"));
        assert_eq!(snapshot["spec"], json!({"source": {"persistentVolumeClaimName": "data"}}));
        assert!(snapshot["metadata"]["ownerReferences"].is_null());
        let done = shop.wait_for_phase(&format!("vs-{round}"), "Succeeded");
        assert_eq!(said_of(&done), ["RetentionPolicyApplied=True", "BackupHistoryCleaned=True", "MetricsPushed=True"]);
        let stats = &done["status"]["targets"][0]["stats"][0];
        assert_eq!((&stats["hostname"], &stats["phase"]), (&json!("data"), &json!("Succeeded")));
    }
    let names: Vec<Value> =
        shop.list("volumesnapshots").iter().map(|snapshot| snapshot["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["by-hand", "data-2"], "retention touches its own only");
    assert!(shop.list("jobs").is_empty());
    // What has the name already is not this session's backup, complete as it is: that has a name of its own.
    by_hand("data-3");
    shop.trigger("vs-3");
    let own = wait_until("a VolumeSnapshot of another name", || {
        let mut names = shop.list("volumesnapshots").into_iter().map(|snapshot| snapshot["metadata"]["name"].clone());
        names.find_map(|name| name.as_str().filter(|name| name.starts_with("data-3-")).map(str::to_owned))
    });
    ready(&shop, &own);
    shop.wait_for_phase("vs-3", "Succeeded");
    let names: Vec<Value> =
        shop.list("volumesnapshots").iter().map(|snapshot| snapshot["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["by-hand", "data-3", own.as_str()], "and retention knows it by that");
    volume_snapshots_come_back(world, &shop, &own);
}

/// Claims that name VolumeSnapshots, with the test as the cluster's storage. Each is a host, as in Stash.
fn volume_snapshots_come_back(world: &World, shop: &Shop<'_>, snapshot: &str) {
    for (name, mode) in [("at-once", "Immediate"), ("when-used", "WaitForFirstConsumer")] {
        world.kubectl().apply(&json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": "none.example",
            "volumeBindingMode": mode
        }));
    }
    let restore = |name: &str, replicas: Value, claim: &str, class: &str, snapshot: &str| {
        let source = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": snapshot});
        let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class, "dataSource": source,
            "resources": {"requests": {"storage": "1Gi"}}});
        let target =
            json!({"replicas": replicas, "volumeClaimTemplates": [{"metadata": {"name": claim}, "spec": spec}]});
        shop.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1beta1", "kind": "RestoreSession", "metadata": {"name": name},
            "spec": {"driver": "VolumeSnapshotter", "target": target}
        }));
    };
    let ended = |name: &str, phase: &str| {
        wait_until(&format!("restore {name} to be {phase}"), || {
            let object = shop.namespace.get(&format!("restoresession/{name}"));
            (object["status"]["phase"] == phase).then_some(object)
        })
    };
    restore("back", json!(2), "store-${POD_ORDINAL}", "at-once", snapshot);
    for name in ["store-0", "store-1"] {
        let made = wait_until("the claim", || shop.list("pvc").into_iter().find(|pvc| pvc["metadata"]["name"] == name));
        assert_eq!(
            (&made["spec"]["dataSource"]["name"], &made["metadata"]["ownerReferences"]),
            (&json!(snapshot), &Value::Null)
        );
        shop.patch_status("pvc", name, &json!({"phase": "Bound"}));
    }
    let done = ended("back", "Succeeded");
    let hosts: Vec<&str> =
        done["status"]["stats"].as_array().unwrap().iter().map(|stats| stats["hostname"].as_str().unwrap()).collect();
    assert_eq!((hosts, &done["status"]["totalHosts"]), (vec!["store-0", "store-1"], &json!(2)));
    assert_eq!(
        said(&done["status"]),
        ["ValidationPassed=True", "RestoreExecutorEnsured=True", "MetricsPushed=True"],
        "no Repository is read"
    );

    restore("lacking", Value::Null, "lacking", "at-once", "none");
    let said = condition(&ended("lacking", "Failed"), "RestoreExecutorEnsured").unwrap();
    assert!(said["message"].as_str().unwrap().ends_with("/none does not exist"), "{said}");
    restore("taken", Value::Null, "store-0", "at-once", snapshot);
    let said = condition(&ended("taken", "Failed"), "RestoreExecutorEnsured").unwrap();
    assert!(said["message"].as_str().unwrap().contains("exists already"), "{said}");
    restore("later", Value::Null, "later", "when-used", snapshot);
    let unknown = ended("later", "Unknown");
    let error = unknown["status"]["stats"][0]["error"].as_str().unwrap();
    assert_eq!(error, "StorageClass when-used binds PersistentVolumeClaim later when its first pod comes");
    for name in ["at-once", "when-used"] {
        world.kubectl().run(&["delete", "storageclass", name]);
    }
}
