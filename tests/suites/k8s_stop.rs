//! The cluster ends without a trace. The name of this suite is the last of those that use the cluster: the tests run in
//! the order of their names, so that it need not be started once more for others.

use std::process::{Command, Stdio};

use serde_json::json;
use stash_tests::cluster::{BUSYBOX, Cluster, ExclusiveCluster, Machine};

fn start_pod_with_claim() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "left", "namespace": "default" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } }
    }));
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "left", "namespace": "default" },
        "spec": {
            "containers": [{
                "name": "main", "image": BUSYBOX, "command": ["sleep", "100000"],
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }]
            }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "left" } }]
        }
    }));
    kubectl.run(&["wait", "pod/left", "--for=condition=Ready", "--timeout=300s"]);
}

#[test]
fn test_nothing_is_left_of_a_cluster_after_a_kill_and_after_its_end() {
    start_pod_with_claim();
    let mut cluster = ExclusiveCluster::start();
    let running = Machine::observe();
    cluster.kill_and_start();
    drop(cluster);
    start_pod_with_claim();
    let mut cluster = ExclusiveCluster::start();
    let before = cluster.stop();
    let left = Machine::observe().since(&before);
    assert!(left.is_empty(), "{left:#?}");
    assert!(running.since(&before).len() > 10, "what is looked at shows a cluster: {:#?}", running.since(&before));
}

#[test]
fn test_a_second_cluster_on_the_machine_is_refused() {
    let _first = Cluster::start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/cluster.sh");
    let output = Command::new(script).arg("run").stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("a cluster runs on this machine already"), "{said}");
}
