//! How many backups run on a node at once.

use serde_json::json;
use stash_tests::shop::{Shop, World, backed_up, condition};

/// A claim that a pod on the only node has, so that its backup has to run there.
fn mounted(world: &World) -> Shop<'_> {
    let shop = world.shop();
    shop.ready(json!({}));
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db"},
        "spec": {"nodeName": "node-7", "containers": [{"name": "db", "image": "registry.example/db:1"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}
    }));
    shop
}

#[test]
fn test_backups_of_a_node_wait_for_each_other() {
    let world = World::start();
    let controller = world.controller(&["--jitter=0s", "--max-running-per-node=1"]);
    let (one, two, elsewhere) = (mounted(&world), mounted(&world), world.shop());
    one.trigger("first");
    let job = one.wait_for_job("stash-backup-first-0");
    two.trigger("second");
    let waits = |shop: &Shop<'_>| {
        let session = shop.session("second");
        condition(&json!({"status": session["status"]["targets"][0]}), "BackupExecutorEnsured").unwrap_or_default()
    };
    two.wait_for_phase("second", "Running");
    let said = waits(&two);
    assert_eq!((&said["status"], &said["reason"]), (&json!("Unknown"), &json!("WaitingForNode")));
    assert_eq!(said["message"], "Backups wait for a place: on node node-7 1 backups run, as many as may.");
    // Who may run anywhere does not wait.
    elsewhere.ready(json!({}));
    elsewhere.trigger("third");
    elsewhere.wait_for_job("stash-backup-third-0");
    assert!(two.list("jobs").is_empty());
    one.end(&job, &backed_up(), 0);
    let done = two.play("second");
    assert_eq!(done["status"]["phase"], "Succeeded");
    assert_eq!(waits(&two)["status"], "True");
    assert!(controller.stop());
}
