//! A node full of pods that read snapshots, and the loss of its power: what was mounted is gone with the processes that held it, kubelet
//! asks for each volume again, and every pod reads.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use serde_json::{Value, json};
use sha2::Digest as _;
use stash_tests::cluster::{BUSYBOX, Kubectl, wait_until};
use stash_tests::controller::kubeconfig_of;
use stash_tests::fixture::{pattern, rounds};

use super::volumes::{mounts, volume};
use super::{Shop, World, chart, workload};

/// The taint of a node that the driver is not ready on.
const NOT_READY: &str = "fs.stash.appscode.com/agent-not-ready";
/// As many as kubelet takes by default; what the chart installs is beside them.
const FULL: usize = 110;

pub(super) fn test_power(world: &World) {
    // A new node, as its maker hands it over: nothing but what the chart puts on each node comes there before the driver is ready.
    let kubectl = world.kubectl();
    kubectl.run(&["taint", "nodes", "node-1", &format!("{NOT_READY}=:NoSchedule")]);
    let release = chart::install(world, &["node.removeStartupTaint=true"]);
    assert!(!kubectl.run(&["get", "node", "node-1", "-o", "yaml"]).contains(NOT_READY));
    the_driver_changes_nothing_else_of_a_node(world, release.name());
    let shop = world.shop();
    let source = tempfile::tempdir().unwrap();
    let mut sums = String::new();
    for number in 0..8 {
        let (name, content) = (format!("file-{number}"), pattern(1 << 20, number));
        sums.push_str(&format!("{}  {name}\n", hex::encode(sha2::Sha256::digest(&content))));
        fs::write(source.path().join(name), content).unwrap();
    }
    fs::write(source.path().join("sums"), sums).unwrap();
    shop.backed_up_elsewhere("full", source.path(), world.minio.address());
    let count = FULL.min(rounds());
    let asked = Instant::now();
    let attributes = json!({"repository": "full", "snapshot": "latest", "path": source.path()});
    shop.namespace.apply(workload("Deployment", "readers", json!({"replicas": count, "template": reader(attributes)})));
    let first = all_have_read(&shop, count, &BTreeMap::new());
    println!("{count} pods had read their volumes after {:.1} s", asked.elapsed().as_secs_f64());

    // Another snapshot meanwhile: a volume stays what it was.
    fs::write(source.path().join("sums"), "another").unwrap();
    shop.restic("full", &["backup", "--host", "host-0", source.path().to_str().unwrap()]);
    let lost = Instant::now();
    world.cluster.lose_power();
    all_have_read(&shop, count, &first);
    println!("{count} pods had read again {:.1} s after the loss of power", lost.elapsed().as_secs_f64());
    let restarted =
        release.run(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"]);
    assert!(restarted.split(' ').all(|count| count == "1"), "each of ours was started once more: {restarted}");
    shop.namespace.run(&["delete", "deployment", "readers"]);
    wait_until("the volumes to go", || mounts(&shop).is_empty().then_some(()));
    chart::uninstall(world, &release);
}

/// The right is to patch nodes; the policy makes it what it is for. A token that is not of a pod of the node changes nothing at all.
fn the_driver_changes_nothing_else_of_a_node(world: &World, release: &str) {
    let account = Kubectl::new(kubeconfig_of(world.kubectl(), release, chart::NODE_ACCOUNT));
    let refused = |arguments: &[&str]| account.try_run(arguments, "").unwrap_err();
    let said = refused(&["label", "node", "node-1", "a=b"]);
    assert!(said.contains("changes its own node only"), "{said}");
    // As the driver in its pod, by the token that it has there.
    let driver =
        world.kubectl().run(&["-n", release, "get", "pods", "-l", "app.kubernetes.io/component=node", "-o", "name"]);
    let pod = driver.trim().trim_start_matches("pod/");
    let bound =
        ["-n", release, "create", "token", chart::NODE_ACCOUNT, "--bound-object-kind=Pod", "--bound-object-name", pod];
    let token = world.kubectl().run(&bound);
    let refused = |arguments: &[&str]| refused(&[arguments, &["--token", token.trim()]].concat());
    for (arguments, why) in [
        (&["label", "node", "node-1", "a=b"][..], "changes nothing of a node but its taints"),
        (&["annotate", "node", "node-1", "a=b"], "changes nothing of a node but its taints"),
        (
            &["patch", "node", "node-1", "-p", r#"{"spec":{"unschedulable":true}}"#],
            "changes nothing of a node but its taints",
        ),
        (&["taint", "node", "node-1", "a=b:NoSchedule"], "and changes no other"),
        (&["delete", "node", "node-1"], "orbidden"),
        (&["get", "nodes"], "orbidden"),
    ] {
        let said = refused(arguments);
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
}

/// A pod that is ready when it has read all.
fn reader(attributes: Value) -> Value {
    let container = |name: &str, script: &str| {
        json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "backup", "mountPath": "/backup"}]})
    };
    json!({
        "metadata": {"labels": {"app": "readers"}},
        "spec": {
            "terminationGracePeriodSeconds": 1, "volumes": [volume(attributes)],
            "initContainers": [container("check", "cd /backup && sha256sum -c sums")],
            "containers": [container("main", "exec sleep 3600")]
        }
    })
}

/// Waits until that many pods have read all, in other containers than `before`, and each has one mount; returns the containers by pod.
fn all_have_read(shop: &Shop<'_>, count: usize, before: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let read = || {
        let pods = shop.namespace.get("pods")["items"].as_array().unwrap().clone();
        let ready = pods.iter().filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true).map(|pod| {
            let container = &pod["status"]["containerStatuses"][0]["containerID"];
            (pod["metadata"]["name"].to_string(), container.to_string())
        });
        ready.filter(|(name, container)| before.get(name) != Some(container)).collect::<BTreeMap<_, _>>()
    };
    let mut seen = BTreeMap::new();
    while seen.len() < count {
        seen = wait_until("another pod to have read", || Some(read()).filter(|now| now.len() > seen.len()));
    }
    let names = |all: &BTreeMap<String, String>| all.keys().cloned().collect::<Vec<_>>();
    assert!(before.is_empty() || names(before) == names(&seen), "they are the same pods");
    // The node has its folders at two places; each shows what is mounted at the other.
    let seen_by_kubelet = mounts(shop).iter().filter(|place| place.starts_with("/var/lib/kubelet")).count();
    assert_eq!(seen_by_kubelet, count, "one mount a pod: {:?}", mounts(shop));
    seen
}
