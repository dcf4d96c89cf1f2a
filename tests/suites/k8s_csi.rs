//! The CSI driver: a real API server, a real node daemon and keeper, a repository that restic wrote behind a real server. The test plays
//! kubelet and the mirror of snapshots. Whole pods are in the suites of the cluster.

mod overlay;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use stash_csi::proto::registration::registration_client::RegistrationClient;
use stash_csi::proto::registration::{InfoRequest, RegistrationStatus};
use stash_csi::proto::v1::controller_client::ControllerClient;
use stash_csi::proto::v1::identity_client::IdentityClient;
use stash_csi::proto::v1::volume_capability::access_mode::Mode;
use stash_csi::proto::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use stash_csi::proto::v1::{
    CreateVolumeRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest, ProbeRequest, VolumeCapability,
};
use stash_tests::cluster::{ApiServer, Kubectl, Namespace, wait_until};
use stash_tests::controller::kubeconfig_of;
use stash_tests::csi::{Driver, NODE, Node, connect, nodes, origin, play_kubelet};
use stash_tests::mounted::wait_for;
use stash_tests::restic::Restic;
use stash_tests::servers::{RcloneServer, tool};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A server with the definitions of all kinds, a repository with two snapshots behind a server of its own, and a node.
struct World {
    server: ApiServer,
    restic: Restic,
    store: RcloneServer,
    node: Node,
    runtime: Runtime,
}

/// A pod that runs on the node, as its volumes are asked for.
struct Pod {
    namespace: String,
    name: String,
    uid: String,
    account: String,
}

impl World {
    fn start() -> Self {
        let server = server_with_definitions();
        let restic = Restic::init();
        let data = restic.scratch().join("data");
        fs::create_dir(&data).unwrap();
        for content in ["first", "second"] {
            fs::write(data.join("file"), content).unwrap();
            restic.backup([data.as_os_str(), "--host".as_ref(), "host-0".as_ref()]);
        }
        let store = RcloneServer::start(&restic.path(), None);
        Self { server, restic, store, node: Node::start(), runtime: runtime() }
    }

    fn kubectl(&self) -> &Kubectl {
        self.server.kubectl()
    }

    /// The folder that was backed up.
    fn data(&self) -> String {
        self.restic.scratch().join("data").display().to_string()
    }

    /// The ids of the snapshots, the oldest first.
    fn ids(&self) -> Vec<String> {
        self.restic.snapshots().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Makes the Repository, its Secret, and an object for each snapshot.
    fn repository(&self, namespace: &Namespace<'_>, policy: Value) {
        repository(namespace, &self.restic, &self.store, policy);
    }

    /// Gives the driver an account with the rights of the chart, and of one Secret; returns how it is reached as that.
    fn account(&self, storage: &Namespace<'_>) -> PathBuf {
        for (role, file) in [("stash-csi-node", "node"), ("stash-csi-controller", "provisioner")] {
            let path = format!("../deploy/charts/stash-fs/files/rbac/{file}.yaml");
            let rules = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
            let head =
                format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: {role}}}\n");
            self.kubectl()
                .try_run(&["apply", "--validate=strict", "-f", "-"], &format!("{head}rules:\n{rules}"))
                .unwrap();
        }
        let account = format!("{}:csi", storage.name());
        storage.run(&["create", "serviceaccount", "csi"]);
        for role in ["stash-csi-node", "stash-csi-controller"] {
            let (role, name) = (format!("--clusterrole={role}"), format!("{role}-{}", storage.name()));
            let account = format!("--serviceaccount={account}");
            self.kubectl().run(&["create", "clusterrolebinding", &name, &role, &account]);
        }
        storage.run(&["create", "role", "keys", "--verb=get", "--resource=secrets", "--resource-name=keys"]);
        storage.run(&["create", "rolebinding", "keys", "--role=keys", &format!("--serviceaccount={account}")]);
        let user = format!("--as=system:serviceaccount:{account}");
        wait_until("the account's rights", || {
            let may =
                |words: &[&str]| self.kubectl().try_run(&[&["auth", "can-i"], words, &[&user]].concat(), "").is_ok();
            let secret = ["get", "secrets/keys", "-n", storage.name()];
            (may(&["get", "pods", "-A"]) && may(&["get", "persistentvolumes"]) && may(&secret)).then_some(())
        });
        kubeconfig_of(self.kubectl(), storage.name(), "csi")
    }

    /// Makes a pod on the node.
    fn pod(&self, namespace: &Namespace<'_>, name: &str, account: &str) -> Pod {
        namespace.apply(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": NODE, "serviceAccountName": account, "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
                "containers": [{"name": "c", "image": "localhost/none:1"}],
                "volumes": [{"name": "data", "csi": {"driver": "fs.stash.appscode.com"}}],
            },
        }));
        let uid = namespace.get(&format!("pod/{name}"))["metadata"]["uid"].as_str().unwrap().to_owned();
        Pod { namespace: namespace.name().to_owned(), name: name.to_owned(), uid, account: account.to_owned() }
    }

    fn request(&self, pod: &Pod, attributes: &[(&str, &str)]) -> NodePublishVolumeRequest {
        let mut volume_context: std::collections::BTreeMap<_, _> = pod.context(true).into_iter().collect();
        volume_context.extend(attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        NodePublishVolumeRequest {
            volume_id: format!("csi-{}", pod.uid),
            target_path: self.node.volume(&pod.uid, "data").display().to_string(),
            volume_capability: Some(capability(Mode::SingleNodeWriter)),
            volume_context,
            ..NodePublishVolumeRequest::default()
        }
    }

    fn publish(&self, driver: &Driver, request: NodePublishVolumeRequest) -> Result<(), Status> {
        driver.publish(&self.runtime, request)
    }

    fn unpublish(&self, driver: &Driver, published: &NodePublishVolumeRequest) {
        driver.unpublish(&self.runtime, published);
    }
}

impl Pod {
    /// What kubelet says of it.
    fn context(&self, ephemeral: bool) -> Vec<(String, String)> {
        let pairs = [
            ("csi.storage.k8s.io/pod.name", self.name.as_str()),
            ("csi.storage.k8s.io/pod.namespace", &self.namespace),
            ("csi.storage.k8s.io/pod.uid", &self.uid),
            ("csi.storage.k8s.io/serviceAccount.name", &self.account),
            ("csi.storage.k8s.io/ephemeral", if ephemeral { "true" } else { "false" }),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

/// A server with the definitions of all kinds.
pub(crate) fn server_with_definitions() -> ApiServer {
    let server = ApiServer::start();
    for definition in stash_crds::definitions() {
        server.kubectl().apply(&serde_json::to_value(definition).unwrap());
    }
    server.kubectl().wait_for_definitions();
    server
}

/// Makes the Repository `repo`, its Secret `keys`, and an object for each snapshot, as the mirror does.
pub(crate) fn repository(namespace: &Namespace<'_>, restic: &Restic, store: &RcloneServer, policy: Value) {
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
        "stringData": {"RESTIC_PASSWORD": restic.password()},
    }));
    namespace.apply(json!({
        "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": "repo"},
        "spec": {
            "backend": {"storageSecretName": "keys", "rest": {"url": format!("http://{}/", store.address())}},
            "usagePolicy": policy,
        },
    }));
    for one in restic.snapshots() {
        let id = one["id"].as_str().unwrap();
        namespace.apply(json!({
            "apiVersion": "repositories.stash.appscode.com/v1alpha1", "kind": "Snapshot",
            "metadata": {"name": format!("repo-{}", &id[..8]), "labels": {"repository": "repo"}},
            "status": {
                "tree": one["tree"], "paths": one["paths"], "hostname": one["hostname"], "username": "root", "uid": 0,
                "gid": 0, "repository": "repo", "snapshotID": id, "snapshotTime": one["time"],
                "totalBytes": 6, "totalFiles": 1,
            },
        }));
    }
}

fn capability(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

#[test]
fn test_csi_sanity_passes_whole() {
    let world = World::start();
    let namespace = world.server.namespace();
    world.repository(&namespace, Value::Null);
    let driver = Driver::start(&world.node, &world.account(&namespace), &[]);
    let pod = world.pod(&namespace, "sanity", "default");
    let socket = world.node.path("kubelet.sock");
    play_kubelet(&world.runtime, &socket, driver.socket().to_owned(), pod.context(false));

    let parameters = world.node.path("parameters.yaml");
    let class = json!({"repository": "repo", "repositoryNamespace": namespace.name(), "snapshot": "latest"});
    fs::write(&parameters, class.to_string()).unwrap();
    // The folder is called otherwise where kubelet mounts.
    let check = world.node.path("check.sh");
    let script = "#!/bin/sh\npath=${1%/target}; [ \"$path\" = \"$1\" ] || path=$path/mount\n\
                  if [ -d \"$path\" ]; then printf directory; else printf not_found; fi\n";
    fs::write(&check, script).unwrap();
    fs::set_permissions(&check, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let volume = world.node.volume(&pod.uid, "sanity").parent().unwrap().to_owned();
    fs::remove_dir(&volume).unwrap();
    let output = Command::new(tool("csi-sanity"))
        .arg(format!("--csi.endpoint=unix://{}", socket.display()))
        .arg(format!("--csi.mountdir={}", volume.display()))
        .arg(format!("--csi.stagingdir={}", world.node.path("staging").display()))
        .arg(format!("--csi.testvolumeparameters={}", parameters.display()))
        .arg(format!("--csi.checkpathcmd={}", check.display()))
        .args(["--ginkgo.no-color", "--ginkgo.v"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let summary = said.lines().rev().find(|line| line.contains("Passed")).unwrap_or("no summary");
    println!("{summary}");
    assert!(output.status.success() && summary.contains("| 0 Failed |"), "{said}");
    let passed: u32 = summary.split(" Passed").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(passed >= 30, "{summary}");
    assert_eq!(world.node.mounts(), Vec::<PathBuf>::new());
}

#[test]
fn test_a_pods_volume_is_its_snapshot_whatever_restarts() {
    let mut world = World::start();
    let namespace = world.server.namespace();
    world.repository(&namespace, Value::Null);
    let kubeconfig = world.account(&namespace);
    let pod = world.pod(&namespace, "reader", "default");
    let driver = Driver::start(&world.node, &kubeconfig, &[]);
    let data = world.data();
    let attributes = [("repository", "repo"), ("snapshot", "latest"), ("path", data.as_str()), ("uid", "1000")];
    let request = world.request(&pod, &attributes);
    let target = PathBuf::from(&request.target_path);
    world.publish(&driver, request.clone()).unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "second");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(target.join("file")).unwrap()), 1000);
    let refused = fs::write(target.join("new"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let device = |path: &Path| std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).unwrap());
    let before = device(&target);

    // A newer snapshot, another driver, another daemon: the volume stays what it was, and open files stay good.
    let open = fs::File::open(target.join("file")).unwrap();
    driver.kill();
    world.node.restart_daemon();
    let driver = Driver::start(&world.node, &kubeconfig, &[]);
    wait_for("the volume to be published again", || world.publish(&driver, request.clone()).ok());
    assert_eq!(device(&target), before);
    assert_eq!(std::io::read_to_string(open).unwrap(), "second");
    assert_eq!(world.node.mounts(), vec![target.clone()]);

    let stats = NodeGetVolumeStatsRequest {
        volume_id: request.volume_id.clone(),
        volume_path: request.target_path.clone(),
        ..NodeGetVolumeStatsRequest::default()
    };
    let stats = world.runtime.block_on(async { nodes(driver.socket()).await.node_get_volume_stats(stats).await });
    let stats = stats.unwrap().into_inner();
    assert_eq!((stats.usage[0].total, stats.volume_condition.map(|one| one.abnormal)), (6, Some(false)));

    // The secret is where it must be and nowhere else.
    let password = world.restic.password();
    let process = |name: &str| fs::read(format!("/proc/{}/{name}", driver.pid())).unwrap();
    let pins: Vec<u8> =
        fs::read_dir(world.node.path("csi/pins")).unwrap().flat_map(|e| fs::read(e.unwrap().path()).unwrap()).collect();
    assert!(!pins.is_empty());
    for (place, bytes) in [
        ("the log", world.node.log().into_bytes()),
        ("the arguments", process("cmdline")),
        ("the environment", process("environ")),
        ("the pins", pins),
    ] {
        assert!(!String::from_utf8_lossy(&bytes).contains(password), "the password is in {place}");
    }

    world.unpublish(&driver, &request);
    world.unpublish(&driver, &request);
    assert!(!target.exists() && world.node.mounts().is_empty());
    assert_eq!(fs::read_dir(world.node.path("csi/pins")).unwrap().count(), 0);
}

#[test]
fn test_other_tenants_get_in_by_policy_and_by_right_only() {
    let world = World::start();
    let (storage, shop) = (world.server.namespace(), world.server.namespace());
    world.repository(&storage, json!({"allowedNamespaces": {"from": "Same"}}));
    let driver = Driver::start(&world.node, &world.account(&storage), &[]);
    let pod = world.pod(&shop, "reader", "tenant");
    let ids = world.ids();
    let data = world.data();
    let ask = |attributes: &[(&str, &str)]| {
        let usual = [("repository", "repo"), ("repositoryNamespace", storage.name()), ("path", data.as_str())];
        let request = world.request(&pod, &[&usual, attributes].concat());
        let answer = world.publish(&driver, request.clone());
        if answer.is_ok() {
            world.unpublish(&driver, &request);
        }
        answer.map_err(|status| (status.code(), status.message().to_owned()))
    };
    let refused = |attributes: &[(&str, &str)], code: Code, words: &str| {
        let (found, message) = ask(attributes).unwrap_err();
        assert!(found == code && message.contains(words), "{found:?} {message}");
    };
    let latest = [("snapshot", "latest")];
    refused(&latest, Code::PermissionDenied, "its usagePolicy does not admit the namespace");
    refused(&[("snapshot", &ids[0])], Code::PermissionDenied, "its usagePolicy does not admit");
    refused(&[("repository", "none"), latest[0]], Code::PermissionDenied, "does not exist, or its usagePolicy");

    world.repository(&storage, json!({"allowedNamespaces": {"from": "All"}}));
    refused(&latest, Code::PermissionDenied, "may not mount snapshots");
    // The right to one Snapshot is the right to that one.
    let first = format!("repo-{}", &ids[0][..8]);
    storage.run(&[
        "create",
        "role",
        "mount",
        "--verb=mount",
        "--resource=snapshots.repositories.stash.appscode.com",
        &format!("--resource-name={first}"),
    ]);
    let account = format!("--serviceaccount={}:tenant", shop.name());
    storage.run(&["create", "rolebinding", "mount", "--role=mount", &account]);
    wait_until("the right to one snapshot", || ask(&[("snapshot", &first)]).ok());
    assert_eq!(ask(&[("snapshot", &ids[0])]), Ok(()));
    assert_eq!(ask(&[("snapshot", &ids[0][..12])]), Ok(()));
    refused(&latest, Code::PermissionDenied, "may not mount snapshots");
    refused(&[("snapshot", &ids[1])], Code::PermissionDenied, "may not mount snapshots");

    // Who says that he is another pod, or wants to be mounted elsewhere.
    let mut request = world.request(&pod, &[("repository", "repo"), ("snapshot", "latest")]);
    request.volume_context.insert("csi.storage.k8s.io/pod.namespace".to_owned(), storage.name().to_owned());
    let status = world.publish(&driver, request).unwrap_err();
    assert!(status.code() == Code::PermissionDenied && status.message().contains("there is none"), "{status:?}");
    let mut request = world.request(&pod, &[("repository", "repo"), ("snapshot", "latest")]);
    request.target_path = format!("{}/pods/../../etc", world.node.kubelet().display());
    assert_eq!(world.publish(&driver, request).unwrap_err().code(), Code::InvalidArgument);
    // A path that leads out of the snapshot, or to what is not there.
    refused(&[("snapshot", &first), ("path", "/../etc")], Code::InvalidArgument, "the attribute path is");
    let (_, message) = ask(&[("snapshot", &first), ("path", "/none")]).unwrap_err();
    assert!(message.contains("there is no directory none"), "{message}");
    assert!(world.node.mounts().is_empty());
}

#[test]
fn test_a_claim_of_a_snapshot_is_pinned_and_mounted() {
    let world = World::start();
    let namespace = world.server.namespace();
    world.repository(&namespace, Value::Null);
    let driver = Driver::start(&world.node, &world.account(&namespace), &[]);
    let ids = world.ids();
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "claim"},
        "spec": {
            "accessModes": ["ReadOnlyMany"], "storageClassName": "stash-snapshot",
            "resources": {"requests": {"storage": "1Gi"}},
            "dataSourceRef": {
                "apiGroup": "repositories.stash.appscode.com", "kind": "Snapshot", "name": format!("repo-{}", &ids[0][..8]),
            },
        },
    }));
    let parameters = [("namespace", namespace.name()), ("name", "claim")];
    let parameters = parameters.map(|(key, value)| (format!("csi.storage.k8s.io/pvc/{key}"), value.to_owned()));
    let request = CreateVolumeRequest {
        name: "pvc-1".to_owned(),
        volume_capabilities: vec![capability(Mode::MultiNodeReaderOnly)],
        parameters: parameters.into(),
        ..CreateVolumeRequest::default()
    };
    let volume = world.runtime.block_on(async {
        let mut controller = ControllerClient::with_origin(connect(driver.socket()).await, origin());
        let made = controller.create_volume(request.clone()).await.unwrap().into_inner().volume.unwrap();
        assert_eq!(controller.create_volume(request).await.unwrap().into_inner().volume.as_ref(), Some(&made));
        made
    });
    assert_eq!(
        (volume.volume_context["snapshot"].as_str(), volume.volume_context["path"].as_str()),
        (ids[0].as_str(), world.data().as_str())
    );

    let pod = world.pod(&namespace, "reader", "default");
    let mut request = world.request(&pod, &[]);
    request.volume_id = volume.volume_id;
    request.target_path = world.node.volume(&pod.uid, "pvc-1").display().to_string();
    request.volume_context = volume.volume_context;
    request.volume_context.extend(pod.context(false));
    world.publish(&driver, request.clone()).unwrap();
    assert_eq!(fs::read_to_string(Path::new(&request.target_path).join("file")).unwrap(), "first");
    world.unpublish(&driver, &request);
}

#[test]
fn test_kubelet_is_told_where_the_driver_is() {
    let (node, runtime) = (Node::start(), runtime());
    // Nobody asks the API server.
    let kubeconfig = node.path("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}], "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    fs::write(&kubeconfig, config.to_string()).unwrap();
    let registry = node.path("registry");
    let arguments =
        ["--registry", registry.to_str().unwrap(), "--kubelet-endpoint", "/var/lib/kubelet/plugins/x/csi.sock"];
    let socket = registry.join("fs.stash.appscode.com-reg.sock");
    let open = |driver: &Driver| {
        let own = driver.socket().to_owned();
        wait_for("the registration's socket", || socket.exists().then_some(()));
        let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).unwrap()) & 0o777;
        assert_eq!((mode(&socket), mode(&own)), (0o600, 0o600));
        runtime.block_on(async { RegistrationClient::with_origin(connect(&socket).await, origin()) })
    };

    let driver = Driver::start(&node, &kubeconfig, &arguments);
    let mut kubelet = open(&driver);
    let info = runtime.block_on(kubelet.get_info(InfoRequest {})).unwrap().into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "fs.stash.appscode.com"));
    assert_eq!(info.endpoint, "/var/lib/kubelet/plugins/x/csi.sock");
    assert_eq!(info.supported_versions, ["1.0.0"]);
    let status =
        |plugin_registered: bool, error: &str| RegistrationStatus { plugin_registered, error: error.to_owned() };
    runtime.block_on(kubelet.notify_registration_status(status(true, ""))).unwrap();
    let ready = runtime.block_on(async {
        let mut identity = IdentityClient::with_origin(connect(driver.socket()).await, origin());
        identity.probe(ProbeRequest {}).await.unwrap().into_inner().ready
    });
    assert_eq!(ready, Some(true));
    driver.stop();
    assert!(driver.wait().success() && !socket.exists());

    // Whoever is not taken ends, so that he is started again and somebody sees why.
    let driver = Driver::start(&node, &kubeconfig, &arguments);
    let mut kubelet = open(&driver);
    runtime.block_on(kubelet.notify_registration_status(status(false, "no such version"))).unwrap();
    assert!(!driver.wait().success());
    assert!(node.log().contains("kubelet did not take the driver: no such version"), "{}", node.log());
}
