//! The cluster does what the other suites need of it.

use std::path::Path;

use serde_json::{Value, json};
use stash_tests::cluster::{BUSYBOX, Cluster, Image, no_drain, wait_until};
use stash_tests::servers::Minio;

/// A pod that runs a script once; `more` goes into its `spec`.
fn pod(name: &str, script: &str, more: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec(script, more) })
}

fn spec(script: &str, more: Value) -> Value {
    let mut container = json!({ "name": "main", "image": BUSYBOX, "command": ["sh", "-c", script] });
    let mut spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1 });
    for (key, value) in more.as_object().unwrap() {
        let place = if key == "volumeMounts" { &mut container } else { &mut spec };
        place[key] = value.clone();
    }
    spec["containers"] = json!([container]);
    spec
}

#[test]
fn test_node_is_ready_and_a_pod_leaves_its_message() {
    let (cluster, _pods) = (Cluster::start(), no_drain());
    let nodes = cluster.kubectl().run(&["get", "nodes", "--no-headers"]);
    assert!(nodes.starts_with("node-1 ") && nodes.contains(" Ready "), "{nodes}");
    let namespace = cluster.namespace();
    namespace.apply(pod("one", "echo printed; echo '{\"left\":1}' > /dev/termination-log", json!({})));
    assert_eq!(namespace.wait_for_pod("one"), "printed\n");
    let ended = &namespace.get("pod/one")["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["message"]), (&json!(0), &json!("{\"left\":1}\n")));
}

#[test]
fn test_claim_is_provisioned_written_read_and_removed() {
    let (cluster, _pods) = (Cluster::start(), no_drain());
    let namespace = cluster.namespace();
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "64Mi" } } }
    }));
    let volumes = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }]);
    let mounts = json!([{ "name": "data", "mountPath": "/data" }]);
    let more = json!({ "volumes": volumes, "volumeMounts": mounts });
    namespace.apply(pod("writer", "echo kept > /data/file", more.clone()));
    namespace.wait_for_pod("writer");
    namespace.apply(pod("reader", "cat /data/file", more));
    assert_eq!(namespace.wait_for_pod("reader"), "kept\n");

    let claim = namespace.get("persistentvolumeclaim/data");
    let volume = claim["spec"]["volumeName"].as_str().unwrap();
    let path = cluster.node_path(format!("/var/lib/volumes/{volume}/file"));
    assert_eq!(std::fs::read(&path).unwrap(), b"kept\n");
    namespace.run(&["delete", "pods", "--all"]);
    namespace.run(&["delete", "persistentvolumeclaim", "data"]);
    namespace.wait(&format!("persistentvolume/{volume}"), "delete");
    assert!(!path.exists());
}

#[test]
fn test_service_of_a_deployment_is_reached_by_pods_and_by_us() {
    let (cluster, _pods) = (Cluster::start(), no_drain());
    let namespace = cluster.namespace();
    let mut template = spec("mkdir /www; echo served > /www/index.html; httpd -f -p 8080 -h /www", json!({}));
    template["restartPolicy"] = json!("Always");
    namespace.apply(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": {
            "replicas": 2, "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": template }
        }
    }));
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] }
    }));
    namespace.wait("deployment/web", "condition=Available");
    let service = namespace.get("service/web");
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    // The rules of kube-proxy follow within a second.
    let script = format!("until timeout 2 wget -qO- http://{address}/; do sleep 1; done");
    namespace.apply(pod("client", &script, json!({})));
    assert_eq!(namespace.wait_for_pod("client"), "served\n");
    assert!(std::net::TcpStream::connect((address, 80)).is_ok(), "from this machine");
}

#[test]
fn test_api_server_is_reached_by_pods() {
    let (cluster, _pods) = (Cluster::start(), no_drain());
    let namespace = cluster.namespace();
    let script = "cd /var/run/secrets/kubernetes.io/serviceaccount
        wget -qO- --no-check-certificate --header \"Authorization: Bearer $(cat token)\" https://198.19.0.1/version";
    namespace.apply(pod("client", script, json!({})));
    assert!(namespace.wait_for_pod("client").contains("\"major\": \"1\""));
}

#[test]
fn test_s3_of_this_machine_is_reached_by_pods() {
    let (cluster, _pods) = (Cluster::start(), no_drain());
    let minio = Minio::start_on(cluster.host());
    let namespace = cluster.namespace();
    let script = format!("wget -qO- http://{}/minio/health/ready && echo yes", minio.address());
    namespace.apply(pod("client", &script, json!({})));
    assert_eq!(namespace.wait_for_pod("client"), "yes\n");
}

#[test]
fn test_job_runs_on_the_node_that_it_requires() {
    let (cluster, _pods) = (Cluster::start(), no_drain());
    let namespace = cluster.namespace();
    let job = |name: &str, node: &str| {
        let term = json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [node] }] });
        let required = json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] } });
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
            "spec": { "template": { "spec": spec("true", json!({ "affinity": { "nodeAffinity": required } })) } }
        })
    };
    namespace.apply(job("here", "node-1"));
    namespace.apply(job("nowhere", "node-2"));
    namespace.wait("job/here", "condition=Complete");
    let pods = ["get", "pods", "-l", "job-name=nowhere", "-o", "jsonpath={.items[*].status.conditions[*].reason}"];
    wait_until("the scheduler's answer", || namespace.run(&pods).contains("Unschedulable").then_some(()));
}

#[test]
fn test_image_of_ours_runs_as_nobody() {
    let (cluster, _pods) = (Cluster::start(), no_drain());
    let config =
        json!({ "Entrypoint": ["/busybox", "sh", "-c", "/busybox id -u; /busybox cat /etc/note"], "User": "65534" });
    let note = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(note.path(), "inside\n").unwrap();
    std::fs::set_permissions(note.path(), std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    let image = Image::new("localhost/test-image:1", config).file("/busybox", Path::new("/bin/busybox"));
    let image = image.file("/etc/note", note.path());
    cluster.import(&image);
    let namespace = cluster.namespace();
    let mut object = pod("one", "", json!({ "securityContext": { "runAsNonRoot": true } }));
    object["spec"]["containers"] = json!([{ "name": "main", "image": image.name() }]);
    namespace.apply(object);
    assert_eq!(namespace.wait_for_pod("one"), "65534\ninside\n");
}
