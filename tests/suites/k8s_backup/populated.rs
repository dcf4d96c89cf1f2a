//! Claims of the cluster's ordinary class that name a Snapshot: copied, by whoever lives, and bound when all is there.

use std::time::Instant;

use serde_json::{Value, json};
use stash_tests::cluster::{BUSYBOX, Namespace, wait_until};

use super::Shop;
use super::volumes::kill;

/// What is in the command line of what populates, and in no other.
const PROVISIONER: &str = "--provision";

pub(super) fn test_populated(shop: &Shop<'_>) {
    let snapshot = shop.snapshots("claim").remove(0);
    let claim = |namespace: &Namespace<'_>, annotations: Value| {
        namespace.apply(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "copy", "annotations": annotations},
            "spec": {
                "storageClassName": "standard", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "16Mi"}},
                "dataSourceRef": {"apiGroup": "repositories.stash.appscode.com", "kind": "Snapshot", "name": snapshot}
            }
        }));
    };
    // Another tenant's: the name means nothing in his namespace. The class waits for no pod of his.
    let other = shop.world.shop();
    claim(&other.namespace, json!({"volume.kubernetes.io/selected-node": "node-1"}));

    let asked = Instant::now();
    claim(&shop.namespace, json!({}));
    let script =
        "set -e; cd /data/a; cat file; stat -c '%u:%g %a' file; sha256sum < big; cat sum; echo mine > new; ls -a /data";
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "copied"},
        "spec": {
            "restartPolicy": "Never",
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "copy"}}],
            "containers": [{"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]
        }
    }));
    let uid = shop.namespace.get("pvc/copy")["metadata"]["uid"].as_str().unwrap().to_owned();
    let prime = format!("pvc/stash-populate-{uid}");
    wait_until("the prime claim", || {
        shop.world.kubectl().try_run(&["-n", shop.namespace.name(), "get", &prime], "").ok()
    });
    kill(&[PROVISIONER]);
    let said = shop.namespace.wait_for_pod("copied");
    println!("a claim was populated in {:.2} s", asked.elapsed().as_secs_f64());
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["kept", "1234:4321 4711"], "{said}");
    assert!(lines[2] == lines[3] && lines[2].len() > 64, "{said}");
    assert_eq!(lines[4..], [".", "..", "a"], "{said}");

    wait_until("the prime claim and its Job to go", || {
        let ours = ["get", "pvc,jobs", "-l", "app.kubernetes.io/component=stash-populate", "-o", "name"];
        shop.namespace.run(&ours).is_empty().then_some(())
    });
    let bound = shop.namespace.get("pvc/copy");
    assert_eq!(bound["status"]["phase"], "Bound");
    let volume = bound["spec"]["volumeName"].as_str().unwrap();
    let volume =
        shop.world.kubectl().run(&["get", "pv", volume, "-o", "jsonpath={.status.phase} {.spec.claimRef.uid}"]);
    assert_eq!(volume, format!("Bound {uid}"));
    let told = |namespace: &Namespace<'_>, reason: &str| {
        let events = namespace.get("events")["items"].as_array().unwrap().clone();
        let event = events.into_iter().find(|event| event["reason"] == reason)?;
        Some(event["message"].as_str().unwrap().to_owned())
    };
    assert!(told(&shop.namespace, "Populated").unwrap().contains("which holds the Snapshot"));

    let why = wait_until("the refusal", || told(&other.namespace, "PopulateRefused"));
    assert!(why.contains("there is no Snapshot"), "{why}");
    let claims = other.namespace.get("pvc")["items"].as_array().unwrap().clone();
    assert!(claims.len() == 1 && claims[0]["status"]["phase"] == "Pending", "{claims:?}");
    shop.namespace.run(&["delete", "pod/copied", "pvc/copy"]);
}
