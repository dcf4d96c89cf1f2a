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
    world.kubectl().run(&[
        "wait",
        "crd/volumesnapshots.snapshot.storage.k8s.io",
        "--for=condition=Established",
        "--timeout=60s",
    ]);
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
    shop.namespace.apply(json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": "by-hand"},
        "spec": {"source": {"persistentVolumeClaimName": "data"}}
    }));
    ready(&shop, "by-hand");
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
}
