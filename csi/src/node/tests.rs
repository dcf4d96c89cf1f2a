use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::{Value, json};
use stash_crds::access::AddressRule;
use tonic::Code;

use super::*;
use crate::cluster::fake::FakeCluster;
use crate::daemon::{DaemonError, DaemonErrorKind, DaemonStats, MountRequest, Mounted, NodeDaemon};
use crate::lock::Locks;
use crate::names::DRIVER;
use crate::pins::Pins;
use crate::proto::v1::VolumeCapability;
use crate::proto::v1::node_server::Node as _;
use crate::proto::v1::volume_capability::access_mode::Mode as Access;
use crate::proto::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use crate::volume::Mode;

/// What is wrong with a mount that an earlier daemon left.
const WAITS: &str = "not yet";

/// A daemon in memory, which counts what is mounted and can be told to fail.
#[derive(Debug, Default)]
struct FakeDaemon {
    mounts: Mutex<BTreeMap<MountName, MountRequest>>,
    calls: Mutex<Vec<&'static str>>,
    fails: Mutex<Option<DaemonErrorKind>>,
    trouble: Mutex<Option<String>>,
    /// Held while a mount is to take long.
    slow: tokio::sync::Mutex<()>,
}

#[async_trait::async_trait]
impl NodeDaemon for FakeDaemon {
    async fn mount(&self, request: &MountRequest) -> Result<(), DaemonError> {
        self.calls.lock().push("mount");
        drop(self.slow.lock().await);
        if let Some(kind) = *self.fails.lock() {
            return Err(DaemonError::new(kind, "told to fail"));
        }
        let mut mounts = self.mounts.lock();
        let taken = mounts.values().any(|other| other.target == request.target && other.name != request.name);
        if taken || mounts.get(&request.name).is_some_and(|other| other != request) {
            return Err(DaemonError::new(DaemonErrorKind::Exists, "it is there"));
        }
        mounts.insert(request.name.clone(), request.clone());
        Ok(())
    }

    async fn unmount(&self, name: &MountName, _: &TargetPath) -> Result<(), DaemonError> {
        self.calls.lock().push("unmount");
        self.mounts.lock().remove(name);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Mounted>, DaemonError> {
        let trouble = self.trouble.lock().clone();
        let one = |request: &MountRequest| Mounted {
            name: request.name.clone(),
            // As of one that an earlier daemon left.
            snapshot: Some(request.snapshot.clone()).filter(|_| trouble.as_deref() != Some(WAITS)),
            trouble: trouble.clone(),
        };
        Ok(self.mounts.lock().values().map(one).collect())
    }

    async fn stats(&self) -> Result<DaemonStats, DaemonError> {
        Ok(DaemonStats { memory_limit_bytes: 256 << 20 })
    }
}

fn snapshot(first: &str, host: &str, day: u8) -> Value {
    json!({
        "metadata": {"name": format!("repo-{first}"), "namespace": "storage"},
        "status": {
            "tree": "", "paths": ["/data"], "hostname": host, "username": "", "repository": "repo",
            "snapshotID": format!("{first}{}", "0".repeat(56)), "snapshotTime": format!("2026-01-0{day}T00:00:00Z"),
            "totalBytes": 100, "totalFiles": 7,
        },
    })
}

fn cluster() -> FakeCluster {
    let repository = |namespace: &str, from: &str| {
        json!({
            "metadata": {"name": "repo", "namespace": namespace},
            "spec": {
                "backend": {"storageSecretName": "keys", "s3": {"endpoint": "s3.example", "bucket": namespace}},
                "usagePolicy": {"allowedNamespaces": {"from": from}},
            },
        })
    };
    let pod = |name: &str, account: &str| {
        json!({
            "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}")},
            "spec": {
                "nodeName": "node-1", "serviceAccountName": account, "containers": [{"name": "c"}],
                "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
                "volumes": [{"name": "data", "csi": {"driver": DRIVER}}],
            },
        })
    };
    let read = |value: Value| serde_json::from_value(value).unwrap();
    let keys = vec![("RESTIC_PASSWORD".to_owned(), b"geheim".to_vec())];
    FakeCluster {
        repositories: vec![
            read(repository("storage", "All")),
            serde_json::from_value(repository("private", "Same")).unwrap(),
        ],
        snapshots: Mutex::new(
            [snapshot("aaaa0001", "host-0", 1), snapshot("aaaa0002", "host-0", 2), snapshot("bbbb0003", "host-1", 3)]
                .map(|one| serde_json::from_value(one).unwrap())
                .into(),
        ),
        namespaces: [("shop".to_owned(), BTreeMap::new())].into(),
        pods: [pod("reader", "reader"), pod("stranger", "default")]
            .map(|one| serde_json::from_value(one).unwrap())
            .into(),
        secrets: [
            (("storage".to_owned(), "keys".to_owned()), keys.clone()),
            (("private".to_owned(), "keys".to_owned()), keys),
        ]
        .into(),
        grants: vec![("system:serviceaccount:shop:reader".to_owned(), "storage".to_owned(), "*".to_owned())],
        ..FakeCluster::default()
    }
}

struct Node {
    service: NodeService,
    cluster: Arc<FakeCluster>,
    daemon: Arc<FakeDaemon>,
    kubelet: tempfile::TempDir,
}

impl Node {
    async fn start(cluster: FakeCluster) -> Self {
        let kubelet = tempfile::tempdir().unwrap();
        let (cluster, daemon) = (Arc::new(cluster), Arc::new(FakeDaemon::default()));
        for pod in ["reader", "stranger"] {
            std::fs::create_dir_all(kubelet.path().join(format!("pods/uid-{pod}/volumes/kubernetes.io~csi/data")))
                .unwrap();
        }
        let mut node =
            Self { service: Self::service(&cluster, &daemon, kubelet.path()).await, cluster, daemon, kubelet };
        node.restart().await;
        node
    }

    async fn service(cluster: &Arc<FakeCluster>, daemon: &Arc<FakeDaemon>, kubelet: &std::path::Path) -> NodeService {
        NodeService::new(Arc::new(NodeContext {
            cluster: Arc::<FakeCluster>::clone(cluster),
            daemon: Arc::<FakeDaemon>::clone(daemon),
            pins: Pins::open(kubelet.join("pins")).await.unwrap(),
            locks: Locks::default(),
            addresses: AddressRule::default(),
            kubelet: kubelet.to_owned(),
            node: "node-1".to_owned(),
            max_volumes: None,
        }))
    }

    /// Another process takes over.
    async fn restart(&mut self) {
        self.service = Self::service(&self.cluster, &self.daemon, self.kubelet.path()).await;
    }

    fn target(&self, pod: &str) -> String {
        self.kubelet.path().join(format!("pods/uid-{pod}/volumes/kubernetes.io~csi/data/mount")).display().to_string()
    }

    fn request(&self, pod: &str, attributes: &[(&str, &str)]) -> NodePublishVolumeRequest {
        let account = if pod == "reader" { "reader" } else { "default" };
        let uid = format!("uid-{pod}");
        let of_pod = [
            ("csi.storage.k8s.io/pod.name", pod),
            ("csi.storage.k8s.io/pod.namespace", "shop"),
            ("csi.storage.k8s.io/pod.uid", &uid),
            ("csi.storage.k8s.io/serviceAccount.name", account),
            ("csi.storage.k8s.io/ephemeral", "true"),
        ];
        let usual = [("repository", "repo"), ("repositoryNamespace", "storage"), ("snapshot", "latest")];
        let all = of_pod.iter().chain(&usual).chain(attributes);
        NodePublishVolumeRequest {
            volume_id: format!("csi-{pod}"),
            target_path: self.target(pod),
            volume_capability: Some(VolumeCapability {
                access_mode: Some(AccessMode { mode: Access::SingleNodeWriter.into() }),
                access_type: Some(AccessType::Mount(MountVolume::default())),
            }),
            volume_context: all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..NodePublishVolumeRequest::default()
        }
    }

    async fn publish(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.service.node_publish_volume(Request::new(request)).await.map(drop)
    }

    async fn unpublish(&self, pod: &str) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest { volume_id: format!("csi-{pod}"), target_path: self.target(pod) };
        self.service.node_unpublish_volume(Request::new(request)).await.map(drop)
    }

    fn mounts(&self) -> Vec<MountRequest> {
        self.daemon.mounts.lock().values().cloned().collect()
    }

    /// Whether nothing is left: no mount, no folder, no record.
    fn is_clean(&self, pod: &str) -> bool {
        let pins = std::fs::read_dir(self.kubelet.path().join("pins")).unwrap().count();
        self.mounts().is_empty() && pins == 0 && !std::path::Path::new(&self.target(pod)).exists()
    }
}

#[tokio::test]
async fn test_a_volume_is_mounted_once_and_taken_away() {
    let node = Node::start(cluster()).await;
    let request = node.request("reader", &[("path", "/data"), ("uid", "1000"), ("gid", "2000"), ("prefetch", "true")]);
    for _ in 0..3 {
        node.publish(request.clone()).await.unwrap();
    }
    assert_eq!(*node.daemon.calls.lock(), ["mount"]);
    let mounts = node.mounts();
    assert_eq!(mounts.len(), 1);
    let mount = &mounts[0];
    assert!(mount.snapshot.as_str().starts_with("bbbb0003"));
    assert_eq!((mount.path.as_str(), mount.mode, mount.prefetch), ("/data", Mode::ReadOnly, true));
    assert_eq!((mount.ownership.uid, mount.ownership.gid), (Some(1000), Some(2000)));
    assert_eq!(
        (mount.repository.address.as_str(), mount.repository.password.as_str()),
        ("s3:s3.example/storage", "geheim")
    );
    assert!(std::path::Path::new(&node.target("reader")).is_dir());

    let other = node.request("reader", &[("path", "/data"), ("snapshot", "aaaa0001")]);
    assert_eq!(node.publish(other).await.unwrap_err().code(), Code::AlreadyExists);
    let read_only = NodePublishVolumeRequest { readonly: true, ..request };
    assert_eq!(node.publish(read_only).await.unwrap_err().code(), Code::AlreadyExists);

    for _ in 0..3 {
        node.unpublish("reader").await.unwrap();
        assert!(node.is_clean("reader"));
    }
}

/// A RestoreSession of which `pod` restores the one host.
fn restore(pod: Option<&str>, status: Value) -> stash_crds::RestoreSession {
    let id = format!("aaaa0001{}", "0".repeat(56));
    let source = json!({"mounted": {"snapshot": id, "root": "/snapshot/0", "paths": ["/data"]}});
    let task = json!({"sources": [source], "mounts": ["/data"]});
    let host = json!({"host": "host-0", "pod": pod, "spec": {"version": 1, "task": {"restore": task}}});
    let orders = json!({"version": 1, "session": "u", "by": "one", "hosts": {"one": host}}).to_string();
    let annotations = json!({stash_proto::job::AT_START_ANNOTATION: orders});
    let metadata = json!({"name": "drill", "namespace": "shop", "annotations": annotations});
    serde_json::from_value(json!({"metadata": metadata, "spec": {}, "status": status})).unwrap()
}

#[tokio::test]
async fn test_an_init_container_sees_its_snapshot_until_its_host_is_done() {
    let mut cluster = cluster();
    let own = json!({"metadata": {"name": "repo", "namespace": "shop"}, "spec": {
        "backend": {"storageSecretName": "keys", "s3": {"endpoint": "s3.example", "bucket": "b"}}
    }});
    cluster.repositories.push(serde_json::from_value(own).unwrap());
    let keys = cluster.secrets[&("storage".to_owned(), "keys".to_owned())].clone();
    cluster.secrets.insert(("shop".to_owned(), "keys".to_owned()), keys);
    let mut node = Node::start(cluster).await;
    let request = |node: &Node, pod: &str| {
        let mut request = node.request(pod, &[("restoreSession", "drill"), ("restoreSource", "/snapshot/0")]);
        request.volume_context.retain(|name, _| !["repositoryNamespace", "snapshot"].contains(&name.as_str()));
        request
    };
    let now = |node: &Node, session: stash_crds::RestoreSession| *node.cluster.restores.lock() = vec![session];
    let running = || json!({"phase": "Running"});
    // Nobody was chosen: kubelet asks again, and nothing is left meanwhile.
    now(&node, restore(None, running()));
    assert_eq!(node.publish(request(&node, "reader")).await.unwrap_err().code(), Code::Unavailable);
    assert!(node.is_clean("reader"));
    now(&node, restore(Some("uid-reader"), running()));
    node.publish(request(&node, "reader")).await.unwrap();
    assert!(node.mounts()[0].snapshot.as_str().starts_with("aaaa0001"));
    let waits = node.publish(request(&node, "stranger")).await.unwrap_err();
    assert!(waits.message().contains("host-0 of the RestoreSession drill is restored by one pod"), "{waits}");
    // It is done: who starts now sees that there is nothing to do, also when all else is gone.
    let done = json!({"phase": "Succeeded", "stats": [{"hostname": "host-0", "phase": "Succeeded"}]});
    now(&node, restore(Some("uid-reader"), done));
    for _ in 0..2 {
        node.publish(request(&node, "stranger")).await.unwrap();
        node.restart().await;
        node.cluster.restores.lock().clear();
    }
    let instead = std::path::Path::new(&node.target("stranger")).join(stash_proto::job::INSTEAD_FILE);
    assert_eq!(std::fs::read_to_string(&instead).unwrap(), "\"nothing\"");
    let stats = NodeGetVolumeStatsRequest {
        volume_id: "csi-stranger".to_owned(),
        volume_path: node.target("stranger"),
        ..NodeGetVolumeStatsRequest::default()
    };
    let stats = node.service.node_get_volume_stats(Request::new(stats)).await.unwrap().into_inner();
    assert!(!stats.volume_condition.unwrap().abnormal && stats.usage.is_empty());
    // The first one keeps what it has.
    node.publish(request(&node, "reader")).await.unwrap();
    assert_eq!(node.mounts().len(), 1);
    for pod in ["reader", "stranger"] {
        node.unpublish(pod).await.unwrap();
    }
    assert!(node.is_clean("reader") && node.is_clean("stranger"));
    // What names a snapshot has no place beside it, and it is of a pod alone.
    let both = node.request("reader", &[("restoreSession", "drill"), ("restoreSource", "/snapshot/0")]);
    assert_eq!(node.publish(both).await.unwrap_err().code(), Code::InvalidArgument);
    let mut claimed = request(&node, "reader");
    claimed.volume_context.remove("csi.storage.k8s.io/ephemeral");
    assert_eq!(node.publish(claimed).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn test_a_volume_keeps_its_snapshot_whatever_restarts() {
    let mut node = Node::start(cluster()).await;
    let request = node.request("reader", &[("host", "host-0")]);
    node.publish(request.clone()).await.unwrap();
    assert!(node.mounts()[0].snapshot.as_str().starts_with("aaaa0002"));
    node.cluster.snapshots.lock().push(serde_json::from_value(snapshot("cccc0004", "host-0", 4)).unwrap());
    // The driver alone.
    node.restart().await;
    node.publish(request.clone()).await.unwrap();
    // The whole node: nothing is mounted any more.
    node.daemon.mounts.lock().clear();
    node.restart().await;
    node.publish(request.clone()).await.unwrap();
    assert!(node.mounts()[0].snapshot.as_str().starts_with("aaaa0002"));
    // Another pod, or the same after it was taken away, sees what is latest then.
    node.unpublish("reader").await.unwrap();
    node.publish(request).await.unwrap();
    assert!(node.mounts()[0].snapshot.as_str().starts_with("cccc0004"));
}

#[tokio::test]
async fn test_who_may_not_gets_nothing_and_leaves_nothing() {
    let node = Node::start(cluster()).await;
    let changed = |pod: &str, attributes: &[(&str, &str)], change: fn(&mut NodePublishVolumeRequest)| {
        let mut request = node.request(pod, attributes);
        change(&mut request);
        request
    };
    let as_it_is = |_: &mut NodePublishVolumeRequest| ();
    for (request, code, words) in [
        (changed("stranger", &[], as_it_is), Code::PermissionDenied, "the service account shop/default may not mount"),
        // A stranger does not learn which snapshots there are.
        (changed("stranger", &[("host", "nobody")], as_it_is), Code::PermissionDenied, "shop/default may not mount"),
        (changed("reader", &[("host", "nobody")], as_it_is), Code::NotFound, "no snapshot of the host nobody"),
        (
            changed("reader", &[("repositoryNamespace", "private")], as_it_is),
            Code::PermissionDenied,
            "the Repository private/repo does not exist, or its usagePolicy",
        ),
        (
            changed("reader", &[("repository", "none")], as_it_is),
            Code::PermissionDenied,
            "the Repository storage/none does not exist, or its usagePolicy",
        ),
        (
            changed("stranger", &[("csi.storage.k8s.io/serviceAccount.name", "reader")], as_it_is),
            Code::PermissionDenied,
            "it has another service account",
        ),
        (
            changed(
                "stranger",
                &[("csi.storage.k8s.io/pod.name", "reader"), ("csi.storage.k8s.io/pod.uid", "uid-reader")],
                as_it_is,
            ),
            Code::PermissionDenied,
            "its uid is not that of the target's folder",
        ),
        (
            changed("reader", &[("csi.storage.k8s.io/pod.namespace", "storage")], as_it_is),
            Code::PermissionDenied,
            "there is none",
        ),
        (changed("reader", &[("uid", "0")], as_it_is), Code::InvalidArgument, "the attribute uid is 0"),
        (changed("reader", &[("passwd", "x")], as_it_is), Code::InvalidArgument, "\"passwd\" is not known"),
        (
            changed("reader", &[], |r| r.target_path = "/etc".to_owned()),
            Code::InvalidArgument,
            "is not below kubelet's",
        ),
        (changed("reader", &[], |r| r.target_path.clear()), Code::InvalidArgument, "target_path is needed"),
        (changed("reader", &[], |r| r.volume_id.clear()), Code::InvalidArgument, "volume_id is needed"),
        (changed("reader", &[], |r| r.volume_capability = None), Code::InvalidArgument, "volume_capability is needed"),
    ] {
        let status = node.publish(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(words) && !status.message().contains("geheim"), "{status:?}");
    }
    assert!(node.is_clean("reader") && node.is_clean("stranger") && node.daemon.calls.lock().is_empty());
}

#[tokio::test]
async fn test_without_an_api_server_nothing_is_mounted_and_all_can_be_taken_away() {
    let mut node = Node::start(cluster()).await;
    node.publish(node.request("reader", &[])).await.unwrap();
    let away = Arc::new(FakeCluster { away: true, ..cluster() });
    node.cluster = away;
    node.restart().await;
    // What is mounted is: nobody needs to be asked.
    node.publish(node.request("reader", &[])).await.unwrap();
    assert_eq!(node.publish(node.request("stranger", &[])).await.unwrap_err().code(), Code::Unavailable);
    node.unpublish("reader").await.unwrap();
    assert!(node.is_clean("reader"));
}

#[tokio::test]
async fn test_what_is_left_of_a_failure_fits_its_code() {
    for (kind, code, clean) in [
        (DaemonErrorKind::Unauthenticated, Code::Unauthenticated, true),
        (DaemonErrorKind::NotFound, Code::NotFound, true),
        (DaemonErrorKind::Precondition, Code::FailedPrecondition, true),
        (DaemonErrorKind::Internal, Code::Internal, true),
        (DaemonErrorKind::Unavailable, Code::Unavailable, false),
        (DaemonErrorKind::Exhausted, Code::ResourceExhausted, false),
    ] {
        let node = Node::start(cluster()).await;
        *node.daemon.fails.lock() = Some(kind);
        assert_eq!(node.publish(node.request("reader", &[])).await.unwrap_err().code(), code);
        assert_eq!(node.is_clean("reader"), clean, "{kind:?}");
        // Kubelet unpublishes after the latter, and may after the former.
        node.unpublish("reader").await.unwrap();
        assert!(node.is_clean("reader"), "{kind:?}");
    }
}

#[tokio::test]
async fn test_a_second_call_for_a_volume_is_told_to_come_back() {
    let node = Node::start(cluster()).await;
    let slow = node.daemon.slow.lock().await;
    let service = node.service.clone();
    let request = node.request("reader", &[]);
    let first = tokio::spawn(async move { service.node_publish_volume(Request::new(request)).await });
    while node.daemon.calls.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.publish(node.request("reader", &[])).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(node.unpublish("reader").await.unwrap_err().code(), Code::Aborted);
    // A caller that hangs up does not let the volume go: the work goes on.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(node.unpublish("reader").await.unwrap_err().code(), Code::Aborted);
    drop(slow);
    while let Err(status) = node.unpublish("reader").await {
        assert_eq!(status.code(), Code::Aborted);
        tokio::task::yield_now().await;
    }
    assert!(node.is_clean("reader"));
}

#[tokio::test]
async fn test_kubelets_secret_counts_and_is_not_read_otherwise() {
    let node = Node::start(cluster()).await;
    let mut request = node.request("reader", &[]);
    request.secrets = [("RESTIC_PASSWORD".to_owned(), "of kubelet".to_owned())].into();
    node.publish(request).await.unwrap();
    assert_eq!(node.mounts()[0].repository.password.as_str(), "of kubelet");
    assert!(!node.cluster.asked.lock().iter().any(|asked| asked.starts_with("secret")));
    node.unpublish("reader").await.unwrap();
    let mut request = node.request("reader", &[]);
    request.secrets = [("OTHER".to_owned(), "geheim".to_owned())].into();
    let status = node.publish(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("RESTIC_PASSWORD") && !status.message().contains("geheim"), "{status:?}");
    assert!(node.is_clean("reader"));
}

#[tokio::test]
async fn test_stats_and_condition_come_from_tables() {
    let node = Node::start(cluster()).await;
    let stats = |volume: &str, path: &str| {
        let request = NodeGetVolumeStatsRequest {
            volume_id: volume.to_owned(),
            volume_path: path.to_owned(),
            ..NodeGetVolumeStatsRequest::default()
        };
        let service = node.service.clone();
        async move { service.node_get_volume_stats(Request::new(request)).await.map(Response::into_inner) }
    };
    node.publish(node.request("reader", &[])).await.unwrap();
    let target = node.target("reader");
    let found = stats("csi-reader", &target).await.unwrap();
    assert_eq!((found.usage[0].total, found.usage[1].total), (100, 7));
    assert!(!found.volume_condition.unwrap().abnormal);
    *node.daemon.trouble.lock() = Some("the store does not answer".to_owned());
    let condition = stats("csi-reader", &target).await.unwrap().volume_condition.unwrap();
    assert_eq!((condition.abnormal, condition.message.as_str()), (true, "the store does not answer"));
    *node.daemon.trouble.lock() = Some(WAITS.to_owned());
    let condition = stats("csi-reader", &target).await.unwrap().volume_condition.unwrap();
    assert_eq!((condition.abnormal, condition.message.as_str()), (true, WAITS));
    // Asked again meanwhile, the daemon decides.
    let before = node.daemon.calls.lock().len();
    node.publish(node.request("reader", &[])).await.unwrap();
    assert_eq!(node.daemon.calls.lock()[before..], ["mount"]);
    for (volume, path, code) in [
        ("", target.as_str(), Code::InvalidArgument),
        ("csi-reader", "", Code::InvalidArgument),
        ("csi-other", &target, Code::NotFound),
        ("csi-reader", &node.target("stranger"), Code::NotFound),
        ("csi-reader", "some/path", Code::NotFound),
    ] {
        assert_eq!(stats(volume, path).await.unwrap_err().code(), code, "{volume} {path}");
    }
    let info = node.service.node_get_info(Request::new(NodeGetInfoRequest {})).await.unwrap().into_inner();
    assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("node-1", 64));
}
