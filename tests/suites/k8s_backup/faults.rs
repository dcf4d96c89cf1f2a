//! What goes wrong in a cluster, and what is said of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stash_tests::cluster::{self, BUSYBOX, wait_until};
use stash_tests::servers::Proxy;

use super::{Shop, World, claim, reference, template, workload};

pub(super) fn test_faults(world: &World) {
    a_pod_that_leaves_is_not_held_up(world);
    a_node_is_drained_during_a_backup(world);
    a_job_that_loses_its_pod_is_tried_again(world);
    a_wrong_password_is_said_and_a_right_one_helps(world);
    a_store_that_is_away_is_said(world);
    a_quota_is_said(world);
}

/// A claim with something in it.
fn written_claim(shop: &Shop<'_>, megabytes: u32) -> Value {
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": claim("ReadWriteOnce")
    }));
    let script = format!("dd if=/dev/urandom of=/data/file bs=1M count={megabytes} 2>/dev/null");
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "writer"},
        "spec": {
            "restartPolicy": "Never", "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "containers": [{"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]
        }
    }));
    shop.namespace.wait_for_pod("writer");
    json!({"ref": reference("v1", "PersistentVolumeClaim", "data")})
}

fn condition(conditions: &Value, aspect: &str) -> Option<Value> {
    conditions.as_array()?.iter().find(|condition| condition["type"] == aspect).cloned()
}

/// Waits until the Job of a session reads and writes.
fn wait_for_running_pod(shop: &Shop<'_>, session: &str) -> String {
    wait_until("the Job's pod to run", || {
        let pods = shop.namespace.get("pods")["items"].as_array().unwrap().clone();
        let ours =
            |pod: &&Value| pod["metadata"]["name"].as_str().unwrap().starts_with(&format!("stash-backup-{session}"));
        let pod = pods.iter().find(ours)?;
        (pod["status"]["phase"] == "Running").then(|| pod["metadata"]["name"].as_str().unwrap().to_owned())
    })
}

/// A Deployment of one pod whose claim's backup, of the session `slow`, is under way through a proxy that lets little through.
fn backed_up_slowly<'w>(world: &'w World, shop: &Shop<'_>) -> Proxy<'w> {
    let slow = world.toxiproxy.proxy_on(world.cluster.host(), world.minio.address());
    slow.slow_uploads(50);
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "web"}, "spec": claim("ReadWriteOnce")
    }));
    let mounts = json!([{"name": "data", "mountPath": "/data"}]);
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "web"}}]);
    let script = "dd if=/dev/urandom of=/data/file bs=1M count=64 2>/dev/null";
    let template = template("web", script, &mounts, &volumes);
    shop.namespace.apply(workload("Deployment", "web", json!({"replicas": 1, "template": template})));
    shop.namespace.run(&["rollout", "status", "deployment/web", "--timeout=300s"]);
    let target = json!({"ref": reference("apps/v1", "Deployment", "web"), "paths": ["/data"], "volumeMounts": mounts});
    shop.configure_at(slow.address(), "web", &target, &json!({}));
    shop.trigger("web", "slow");
    wait_for_running_pod(shop, "slow");
    slow
}

fn disrupted(session: &Value) -> String {
    assert_eq!(session["status"]["phase"], "Failed", "{:#}", session["status"]);
    let condition = condition(&session["status"]["targets"][0]["conditions"], "BackupDisrupted");
    condition.expect("BackupDisrupted")["message"].as_str().unwrap().to_owned()
}

fn a_pod_that_leaves_is_not_held_up(world: &World) {
    let shop = world.shop();
    let _slow = backed_up_slowly(world, &shop);
    let left = Instant::now();
    shop.namespace.run(&["scale", "deployment/web", "--replicas=0"]);
    let why = disrupted(&shop.ended("slow"));
    assert!(why.contains("left its node"), "{why}");
    wait_until("the Job's pod to go", || {
        let pods = shop.namespace.get("pods")["items"].as_array().unwrap().clone();
        pods.iter().all(|pod| !pod["metadata"]["name"].to_string().contains("stash-backup-slow")).then_some(())
    });
    // The bound is 10 s; a busy machine and the test's own looks take the rest.
    assert!(left.elapsed() < Duration::from_secs(60), "{:?}", left.elapsed());
}

fn a_node_is_drained_during_a_backup(world: &World) {
    let shop = world.shop();
    let slow = backed_up_slowly(world, &shop);
    let nodes = shop.namespace.get("nodes");
    let node = nodes["items"][0]["metadata"]["name"].as_str().unwrap();
    let how = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--grace-period=5", "--timeout=300s"];
    let drain = cluster::drain();
    // It fails if a pod, the Job's included, does not leave.
    world.kubectl().run(&[&["drain", node][..], &how].concat());
    let why = disrupted(&shop.ended("slow"));
    assert!(!why.is_empty());
    world.kubectl().run(&["uncordon", node]);
    drop(drain);
    slow.remove("uploads");
    shop.namespace.run(&["rollout", "status", "deployment/web", "--timeout=300s"]);
    shop.trigger("web", "again");
    shop.succeeded("again");
    shop.restic("web", &["check"]);
}

fn a_job_that_loses_its_pod_is_tried_again(world: &World) {
    let shop = world.shop();
    let slow = world.toxiproxy.proxy_on(world.cluster.host(), world.minio.address());
    slow.slow_uploads(50);
    let target = written_claim(&shop, 32);
    let retry = json!({"retryConfig": {"maxRetry": 1, "delay": "1s"}, "backupHistoryLimit": 3});
    shop.configure_at(slow.address(), "data", &target, &retry);
    shop.namespace.apply(json!({
        "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupSession", "metadata": {"name": "lost"},
        "spec": {"invoker": {"apiGroup": "stash.appscode.com", "kind": "BackupConfiguration", "name": "data"}, "retryLeft": 1}
    }));
    let pod = wait_for_running_pod(&shop, "lost");
    shop.namespace.run(&["delete", "pod", &pod, "--grace-period=0", "--force"]);
    // Not before: with the whole line for itself the Job is done before its pod is gone.
    slow.remove("uploads");
    let failed = shop.ended("lost");
    let disrupted = condition(&failed["status"]["targets"][0]["conditions"], "BackupDisrupted");
    assert!(disrupted.is_some(), "{:#}", failed["status"]);
    let again = wait_until("the session that tries again", || {
        let sessions = shop.namespace.get("backupsessions")["items"].as_array().unwrap().clone();
        let other = sessions.iter().find(|session| session["metadata"]["name"] != "lost")?;
        Some(other["metadata"]["name"].as_str().unwrap().to_owned())
    });
    shop.succeeded(&again);
    shop.restic("data", &["check"]);
}

fn a_wrong_password_is_said_and_a_right_one_helps(world: &World) {
    let shop = world.shop();
    let target = written_claim(&shop, 1);
    shop.configure_at(world.minio.address(), "data", &target, &json!({}));
    shop.trigger("data", "right");
    shop.succeeded("right");
    let set_password = |password: &str| {
        let patch = json!({"stringData": {"RESTIC_PASSWORD": password}}).to_string();
        shop.namespace.run(&["patch", "secret", "s3", "--type=merge", "-p", &patch]);
    };
    set_password("another");
    shop.trigger("data", "wrong");
    let failed = shop.ended("wrong");
    let stats = &failed["status"]["targets"][0]["stats"][0];
    assert!(stats["error"].as_str().unwrap().contains("password"), "{stats}");
    let initialized = condition(&failed["status"]["conditions"], "BackendRepositoryInitialized").unwrap();
    assert_eq!(initialized["status"], "False");
    set_password(super::PASSWORD);
    shop.trigger("data", "again");
    shop.succeeded("again");
    let repository = shop.namespace.get("repository/data");
    assert_eq!(repository["status"]["snapshotCount"], 2);
}

fn a_store_that_is_away_is_said(world: &World) {
    let shop = world.shop();
    let store = world.toxiproxy.proxy_on(world.cluster.host(), world.minio.address());
    let target = written_claim(&shop, 1);
    shop.configure_at(store.address(), "data", &target, &json!({}));
    store.set_enabled(false);
    shop.trigger("data", "away");
    let failed = shop.ended("away");
    let stats = &failed["status"]["targets"][0]["stats"][0];
    assert!(stats["error"].as_str().unwrap().contains("no connection"), "{stats}");
    store.set_enabled(true);
    shop.trigger("data", "back");
    shop.succeeded("back");
    // The bucket is gone: nothing was promised, and it is said.
    let endpoint = format!("http://{}", world.minio.address());
    let s3 = json!({"endpoint": endpoint, "bucket": "nowhere"});
    shop.namespace.apply(json!({
        "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": "data"},
        "spec": {"backend": {"storageSecretName": "s3", "s3": s3}}
    }));
    shop.trigger("data", "nowhere");
    let failed = shop.ended("nowhere");
    let stats = &failed["status"]["targets"][0]["stats"][0];
    assert!(stats["error"].as_str().unwrap().contains("nowhere"), "{stats}");
}

fn a_quota_is_said(world: &World) {
    let shop = world.shop();
    let target = written_claim(&shop, 1);
    shop.configure_at(world.minio.address(), "data", &target, &json!({}));
    shop.namespace.run(&["create", "quota", "none", "--hard=count/jobs.batch=0"]);
    let quota = || shop.namespace.get("resourcequota/none")["status"]["hard"].is_object().then_some(());
    wait_until("the quota to be known", quota);
    shop.trigger("data", "quota");
    let failed = shop.ended("quota");
    let ensured = condition(&failed["status"]["targets"][0]["conditions"], "BackupExecutorEnsured").unwrap();
    assert_eq!(ensured["status"], "False");
    assert!(ensured["message"].as_str().unwrap().contains("exceeded quota"), "{ensured}");
}
