//! Backups on the whole cluster: the controller, its Jobs in the image that users get, volumes of every kind, an S3 server, and restic as
//! the judge of what was stored.

mod at_start;
mod chart;
mod copies;
mod faults;
mod populated;
mod power;
mod restored;
mod stores;
mod volumes;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use stash_tests::cluster::{BUSYBOX, Cluster, Kubectl, Namespace, only_controller, wait_until};
use stash_tests::controller::{Controller, import_image};
use stash_tests::fixture::run;
use stash_tests::mounted::clean;
use stash_tests::servers::{Minio, Toxiproxy};

const PASSWORD: &str = "correct horse battery staple";
const BUCKET: &str = "backups";

struct World {
    cluster: Cluster,
    minio: Minio,
    toxiproxy: Toxiproxy,
    folder: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        Self::on(Cluster::start())
    }

    fn on(cluster: Cluster) -> Self {
        for definition in stash_crds::definitions() {
            cluster.kubectl().apply(&serde_json::to_value(definition).unwrap());
        }
        cluster.kubectl().wait_for_definitions();
        import_image(&cluster);
        let minio = Minio::start_on(cluster.host());
        minio.create_bucket(BUCKET);
        Self { cluster, minio, toxiproxy: Toxiproxy::start(), folder: tempfile::tempdir().unwrap() }
    }

    fn kubectl(&self) -> &Kubectl {
        self.cluster.kubectl()
    }

    fn controller(&self, release: &Namespace<'_>) -> Controller {
        let log = self.folder.path().join("controller.log");
        Controller::start(self.kubectl().kubeconfig(), &log, &["--jitter=0s", "--namespace", release.name()])
    }

    fn shop(&self) -> Shop<'_> {
        let shop = Shop { world: self, namespace: self.cluster.namespace() };
        let mut keys = json!({"RESTIC_PASSWORD": PASSWORD});
        for (key, value) in self.minio.environment() {
            keys[key] = json!(value);
        }
        let metadata = json!({"name": "s3"});
        shop.namespace.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys}));
        shop
    }
}

/// A namespace with what its owner wants to be backed up.
struct Shop<'a> {
    world: &'a World,
    namespace: Namespace<'a>,
}

/// What is backed up, and what has to come of it.
struct Case {
    name: &'static str,
    target: Value,
    /// By host: the files of its snapshots.
    hosts: BTreeMap<String, Vec<(&'static str, String)>>,
}

impl Shop<'_> {
    fn prefix(&self, name: &str) -> String {
        format!("{}/{name}", self.namespace.name())
    }

    fn configure(&self, case: &Case) {
        self.configure_at(self.world.minio.address(), case.name, &case.target, &json!({}));
    }

    /// The same with the store at another address; `more` goes into the configuration.
    fn configure_at(&self, store: SocketAddr, name: &str, target: &Value, more: &Value) {
        let endpoint = format!("http://{store}");
        let s3 = json!({"endpoint": endpoint, "bucket": BUCKET, "prefix": self.prefix(name)});
        self.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": name},
            "spec": {"backend": {"storageSecretName": "s3", "s3": s3}}
        }));
        let mut spec = json!({
            "schedule": "0 0 29 2 *", "repository": {"name": name}, "target": target, "timeOut": "5m",
            "retentionPolicy": {"name": "keep", "keepLast": 2, "prune": true}
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupConfiguration", "metadata": {"name": name}, "spec": spec
        }));
        self.namespace.wait(&format!("backupconfiguration/{name}"), "jsonpath={.status.phase}=Ready");
    }

    fn trigger(&self, configuration: &str, session: &str) {
        self.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupSession", "metadata": {"name": session},
            "spec": {"invoker": {"apiGroup": "stash.appscode.com", "kind": "BackupConfiguration", "name": configuration}}
        }));
    }

    /// Waits for a session to end.
    fn ended(&self, session: &str) -> Value {
        wait_until(&format!("session {session} to end"), || {
            let object = self.namespace.get(&format!("backupsession/{session}"));
            let phase = object["status"]["phase"].as_str().unwrap_or_default();
            ["Succeeded", "Failed", "Skipped"].contains(&phase).then_some(object)
        })
    }

    /// Waits for a session to end well.
    fn succeeded(&self, session: &str) -> Value {
        let object = self.ended(session);
        assert_eq!(object["status"]["phase"], "Succeeded", "{}: {:#}", session, object["status"]);
        object
    }

    fn restic(&self, repository: &str, arguments: &[&str]) -> String {
        let mut command = clean(Command::new("restic"));
        let address = self.world.minio.repository(BUCKET, &self.prefix(repository));
        command.args(["--no-cache", "--repo", &address]).args(arguments).env("RESTIC_PASSWORD", PASSWORD);
        run(command.envs(self.world.minio.environment()))
    }

    /// A Repository in which restic stored a folder of this machine, with its Snapshot; `store` is where it is reached.
    fn backed_up_elsewhere(&self, name: &str, folder: &Path, store: SocketAddr) {
        self.restic(name, &["init"]);
        self.restic(name, &["backup", "--host", "host-0", folder.to_str().unwrap()]);
        let s3 = json!({"endpoint": format!("http://{store}"), "bucket": BUCKET, "prefix": self.prefix(name)});
        self.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": name},
            "spec": {"backend": {"storageSecretName": "s3", "s3": s3}}
        }));
        self.mirrored(name, 1);
    }

    /// The names of the Snapshots of a Repository.
    fn snapshots(&self, repository: &str) -> Vec<String> {
        let label = format!("repository={repository}");
        let kind = "snapshots.repositories.stash.appscode.com";
        let names = self.namespace.run(&["get", kind, "-l", &label, "-o", "jsonpath={.items[*].metadata.name}"]);
        names.split_whitespace().map(str::to_owned).collect()
    }

    /// Waits until so many snapshots at least of a Repository are objects.
    fn mirrored(&self, repository: &str, count: usize) {
        wait_until("the snapshots as objects", || (self.snapshots(repository).len() >= count).then_some(()));
    }

    /// The uids of the pods and how often their containers were started again.
    fn pods(&self) -> BTreeMap<String, String> {
        let pods = self.namespace.get("pods")["items"].as_array().unwrap().clone();
        let theirs = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"].is_string());
        theirs
            .map(|pod| {
                let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
                (pod["metadata"]["name"].to_string(), format!("{} {restarts}", pod["metadata"]["uid"]))
            })
            .collect()
    }

    /// What the volumes of the namespace hold: mode, owner, time of the last change of each entry.
    fn volumes(&self) -> BTreeMap<String, String> {
        let mut entries = BTreeMap::new();
        for claim in self.namespace.get("persistentvolumeclaims")["items"].as_array().unwrap() {
            if let Some(volume) = claim["spec"]["volumeName"].as_str() {
                let path = self.world.cluster.node_path(format!("/var/lib/volumes/{volume}"));
                walk(&path, &mut entries);
            }
        }
        assert!(!entries.is_empty());
        entries
    }
}

fn walk(path: &Path, entries: &mut BTreeMap<String, String>) {
    let facts = fs::symlink_metadata(path).unwrap();
    let said = format!("{:o} {}:{} {}.{}", facts.mode(), facts.uid(), facts.gid(), facts.ctime(), facts.ctime_nsec());
    entries.insert(path.display().to_string(), said);
    if facts.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path(), entries));
    }
}

fn reference(version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "name": name})
}

fn claim(mode: &str) -> Value {
    json!({"accessModes": [mode], "resources": {"requests": {"storage": "16Mi"}}})
}

/// What the pods of a workload are made from: they run `script`, and then go on.
fn template(app: &str, script: &str, mounts: &Value, volumes: &Value) -> Value {
    let script = format!("{script}; touch /tmp/written; exec sleep 3600");
    let ready = json!({"exec": {"command": ["test", "-e", "/tmp/written"]}, "periodSeconds": 1});
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 1, "volumes": volumes,
            "containers": [{
                "name": "main", "image": BUSYBOX, "command": ["sh", "-c", script], "volumeMounts": mounts, "readinessProbe": ready
            }]
        }
    })
}

fn workload(kind: &str, name: &str, more: Value) -> Value {
    let version = if kind == "ReplicationController" { "v1" } else { "apps/v1" };
    let selector =
        if kind == "ReplicationController" { json!({"app": name}) } else { json!({"matchLabels": {"app": name}}) };
    let mut spec = json!({"selector": selector});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn one(host: &str, files: &[(&'static str, &str)]) -> BTreeMap<String, Vec<(&'static str, String)>> {
    let files = files.iter().map(|(path, content)| (*path, (*content).to_owned())).collect();
    BTreeMap::from([(host.to_owned(), files)])
}

/// A claim that nobody uses any more.
fn standalone_claim(shop: &Shop<'_>) -> Case {
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": claim("ReadWriteOnce")
    }));
    let script = "umask 027; mkdir /data/a; cd /data/a; echo kept > file; dd if=/dev/urandom of=big bs=1M count=4 2>/dev/null; \
         sha256sum < big > sum; chown -R 1234:4321 .; chmod 4711 file";
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "writer"},
        "spec": {
            "restartPolicy": "Never", "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "containers": [{"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]
        }
    }));
    shop.namespace.wait_for_pod("writer");
    Case {
        name: "claim",
        target: json!({"ref": reference("v1", "PersistentVolumeClaim", "data")}),
        hosts: one("host-0", &[("/stash-data/a/file", "kept\n")]),
    }
}

/// Three replicas, each with a claim of its own.
fn stateful_set(shop: &Shop<'_>) -> Case {
    let mounts = json!([{"name": "store", "mountPath": "/store"}]);
    let template = template("db", "hostname > /store/name; mkfifo /store/fifo", &mounts, &json!([]));
    let claims = json!([{"metadata": {"name": "store"}, "spec": claim("ReadWriteOnce")}]);
    let more = json!({
        "replicas": 3, "serviceName": "db", "podManagementPolicy": "Parallel", "template": template, "volumeClaimTemplates": claims
    });
    shop.namespace.apply(workload("StatefulSet", "db", more));
    let hosts = (0..3).map(|ordinal| (format!("main-{ordinal}"), vec![("/store/name", format!("db-{ordinal}\n"))]));
    Case {
        name: "db",
        target: json!({
            "alias": "main", "ref": reference("apps/v1", "StatefulSet", "db"), "paths": ["/store"], "volumeMounts": mounts
        }),
        hosts: hosts.collect(),
    }
}

/// A Deployment with a volume of each kind.
fn deployment(shop: &Shop<'_>) -> Case {
    shop.namespace.run(&["create", "configmap", "settings", "--from-literal=colour=green"]);
    shop.namespace.run(&["create", "secret", "generic", "token", "--from-literal=value=geheim"]);
    let name = shop.namespace.name();
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "web"}, "spec": claim("ReadWriteOnce")
    }));
    let projected = json!({"sources": [{"configMap": {"name": "settings"}}, {"secret": {"name": "token"}}]});
    let field = json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}});
    let volumes = json!([
        {"name": "claim", "persistentVolumeClaim": {"claimName": "web"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "token", "secret": {"secretName": "token"}},
        {"name": "both", "projected": projected},
        {"name": "facts", "downwardAPI": {"items": [field]}},
        {"name": "host", "hostPath": {"path": format!("/var/lib/{name}"), "type": "DirectoryOrCreate"}},
        {"name": "own", "ephemeral": {"volumeClaimTemplate": {"spec": claim("ReadWriteOnce")}}}
    ]);
    let names = ["claim", "scratch", "memory", "settings", "token", "both", "facts", "host", "own"];
    let mounts: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "mountPath": format!("/mnt/{name}")})).collect();
    let script = "for volume in claim scratch memory host own; do echo $volume > /mnt/$volume/file; done";
    let template = template("web", script, &json!(mounts), &volumes);
    shop.namespace.apply(workload("Deployment", "web", json!({"replicas": 1, "template": template})));
    Case {
        name: "web",
        target: json!({"ref": reference("apps/v1", "Deployment", "web"), "paths": ["/mnt"], "volumeMounts": mounts}),
        hosts: one(
            "host-0",
            &[
                ("/mnt/claim/file", "claim\n"),
                ("/mnt/scratch/file", "scratch\n"),
                ("/mnt/memory/file", "memory\n"),
                ("/mnt/host/file", "host\n"),
                ("/mnt/own/file", "own\n"),
            ],
        ),
    }
}

/// A DaemonSet: a host for each node, named after it.
fn daemon_set(shop: &Shop<'_>) -> Case {
    let name = shop.namespace.name();
    let volumes =
        json!([{"name": "logs", "hostPath": {"path": format!("/var/log/{name}"), "type": "DirectoryOrCreate"}}]);
    let mounts = json!([{"name": "logs", "mountPath": "/logs"}]);
    let template = template("agent", "echo line > /logs/log", &mounts, &volumes);
    shop.namespace.apply(workload("DaemonSet", "agent", json!({"template": template})));
    Case {
        name: "agent",
        target: json!({"ref": reference("apps/v1", "DaemonSet", "agent"), "paths": ["/logs"], "volumeMounts": mounts}),
        hosts: one("node-1", &[("/logs/log", "line\n")]),
    }
}

/// Kinds of old, one of them with a claim that no second pod may mount.
fn old_kinds(shop: &Shop<'_>) -> Vec<Case> {
    let case = |kind: &'static str, version: &str, name: &'static str, volume: Value, replicas: bool| {
        let mounts = json!([{"name": "v", "mountPath": "/v"}]);
        let template = template(name, "echo old > /v/file", &mounts, &json!([volume]));
        let more = if replicas { json!({"replicas": 1, "template": template}) } else { json!({"template": template}) };
        shop.namespace.apply(workload(kind, name, more));
        Case {
            name,
            target: json!({"alias": name, "ref": reference(version, kind, name), "paths": ["/v"], "volumeMounts": mounts}),
            hosts: one(name, &[("/v/file", "old\n")]),
        }
    };
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "alone"}, "spec": claim("ReadWriteOncePod")
    }));
    vec![
        case(
            "ReplicaSet",
            "apps/v1",
            "set",
            json!({"name": "v", "persistentVolumeClaim": {"claimName": "alone"}}),
            true,
        ),
        case("ReplicationController", "v1", "controlled", json!({"name": "v", "emptyDir": {}}), true),
    ]
}

#[test]
fn test_backups_on_a_real_cluster() {
    let _alone = only_controller();
    let world = World::start();
    let release = world.cluster.namespace();
    let controller = world.controller(&release);
    let shop = world.shop();
    let mut cases = vec![standalone_claim(&shop), stateful_set(&shop), deployment(&shop), daemon_set(&shop)];
    cases.extend(old_kinds(&shop));
    shop.namespace.run(&["wait", "pods", "--selector=app", "--for=condition=Ready", "--timeout=300s"]);
    let ready = |kind: &str| shop.namespace.run(&["rollout", "status", kind, "--timeout=300s"]);
    ["statefulset/db", "deployment/web", "daemonset/agent"].into_iter().for_each(|kind| drop(ready(kind)));

    let (pods, volumes) = (shop.pods(), shop.volumes());
    cases.iter().for_each(|case| shop.configure(case));
    cases.iter().for_each(|case| shop.trigger(case.name, &format!("{}-1", case.name)));
    for case in &cases {
        let session = shop.succeeded(&format!("{}-1", case.name));
        a_session_says_what_was_done(&session, case);
    }
    assert_eq!(shop.pods(), pods, "no pod was restarted");
    assert_eq!(shop.volumes(), volumes, "no volume was changed");
    for case in &cases {
        restic_restores(&shop, case);
        a_repository_says_what_it_holds(&shop, case);
    }
    old_snapshots_are_forgotten(&shop);
    jobs_go_with_their_sessions(&shop, &release);
    faults::test_faults(&world);
    restored::test_restores(&world);
    let log = controller.log();
    assert!(!log.contains(PASSWORD) && !log.contains("panic"), "{log}");
    assert!(controller.stop());
}

#[test]
fn test_the_chart_on_a_real_cluster() {
    let _alone = only_controller();
    chart::test_chart(&World::start());
}

#[test]
fn soak_a_node_full_of_pods_loses_its_power() {
    let _alone = only_controller();
    power::test_power(&World::on(Cluster::start_alone()));
}

fn a_session_says_what_was_done(session: &Value, case: &Case) {
    let target = &session["status"]["targets"][0];
    assert_eq!(target["totalHosts"], case.hosts.len(), "{}", case.name);
    let mut stats = target["stats"].as_array().unwrap().clone();
    stats.sort_by_key(|stats| stats["hostname"].to_string());
    let hosts: Vec<&str> = stats.iter().map(|stats| stats["hostname"].as_str().unwrap()).collect();
    assert_eq!(hosts, case.hosts.keys().collect::<Vec<_>>(), "{}", case.name);
    for stats in &stats {
        assert_eq!(stats["phase"], "Succeeded", "{stats}");
        let snapshot = &stats["snapshots"][0];
        assert_eq!(snapshot["name"].as_str().unwrap().len(), 64);
        assert!(snapshot["fileStats"]["totalFiles"].as_u64().unwrap() > 0, "{snapshot}");
    }
    let conditions: Vec<String> = session["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("{}={}", c["type"].as_str().unwrap(), c["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        conditions,
        [
            "BackendRepositoryInitialized=True",
            "RetentionPolicyApplied=True",
            "RepositoryIntegrityVerified=True",
            "RepositoryMetricsPushed=True",
            "BackupHistoryCleaned=True",
            "MetricsPushed=True"
        ],
        "{}",
        case.name
    );
}

fn restic_restores(shop: &Shop<'_>, case: &Case) {
    shop.restic(case.name, &["check", "--read-data"]);
    let snapshots: Vec<Value> = serde_json::from_str(&shop.restic(case.name, &["snapshots", "--json"])).unwrap();
    let mut hosts: Vec<&str> = snapshots.iter().map(|snapshot| snapshot["hostname"].as_str().unwrap()).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, case.hosts.keys().collect::<Vec<_>>(), "{}", case.name);
    for snapshot in &snapshots {
        let target = tempfile::tempdir().unwrap();
        let id = snapshot["id"].as_str().unwrap();
        shop.restic(case.name, &["restore", id, "--target", target.path().to_str().unwrap()]);
        for (path, content) in &case.hosts[snapshot["hostname"].as_str().unwrap()] {
            let restored = target.path().join(path.trim_start_matches('/'));
            assert_eq!(fs::read_to_string(&restored).unwrap(), *content, "{}: {path}", case.name);
        }
        match case.name {
            "claim" => {
                let facts = fs::metadata(target.path().join("stash-data/a/file")).unwrap();
                assert_eq!((facts.mode() & 0o7777, facts.uid(), facts.gid()), (0o4711, 1234, 4321));
            }
            "web" => {
                // What kubelet writes at once stands behind links, and they are stored as they are.
                let colour = target.path().join("mnt/settings/colour");
                assert!(fs::symlink_metadata(&colour).unwrap().is_symlink());
                assert_eq!(fs::read_to_string(colour).unwrap(), "green");
                assert_eq!(fs::read_to_string(target.path().join("mnt/both/value")).unwrap(), "geheim");
                assert!(fs::read_to_string(target.path().join("mnt/facts/labels")).unwrap().contains("app=\"web\""));
            }
            _ => {}
        }
    }
}

fn a_repository_says_what_it_holds(shop: &Shop<'_>, case: &Case) {
    let repository = shop.namespace.get(&format!("repository/{}", case.name));
    let status = &repository["status"];
    assert_eq!(status["integrity"], true, "{status}");
    assert_eq!(status["snapshotCount"], case.hosts.len(), "{status}");
    for field in ["firstBackupTime", "lastBackupTime", "totalSize"] {
        assert!(status[field].is_string(), "{field}: {status}");
    }
    assert_eq!(status["references"][0]["name"], case.name);
}

/// Retention keeps two of each host and path.
fn old_snapshots_are_forgotten(shop: &Shop<'_>) {
    for round in 2..=3 {
        let session = format!("db-{round}");
        shop.trigger("db", &session);
        shop.succeeded(&session);
    }
    let snapshots: Vec<Value> = serde_json::from_str(&shop.restic("db", &["snapshots", "--json"])).unwrap();
    assert_eq!(snapshots.len(), 6);
    let status = shop.namespace.get("repository/db")["status"].clone();
    assert_eq!((&status["snapshotCount"], &status["snapshotsRemovedOnLastCleanup"]), (&json!(6), &json!(3)));
}

/// Jobs that read what only a node has go with their sessions, and their credentials with them.
fn jobs_go_with_their_sessions(shop: &Shop<'_>, release: &Namespace<'_>) {
    let left = |namespace: &Namespace<'_>| {
        let objects = namespace.get("jobs,secrets")["items"].as_array().unwrap().clone();
        objects.iter().filter(|object| object["metadata"]["name"].to_string().contains("stash-")).count()
    };
    assert!(left(release) > 0, "there are Jobs in the release namespace");
    shop.namespace.run(&["delete", "backupsessions", "--all"]);
    wait_until("the Jobs and their Secrets to go", || (left(release) + left(&shop.namespace) == 0).then_some(()));
}
