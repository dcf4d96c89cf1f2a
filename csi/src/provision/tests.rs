use parking_lot::Mutex;
use serde_json::{Value, json};
use tonic::Code;

use super::*;
use crate::cluster::fake::FakeCluster;
use crate::proto::v1::CapacityRange;
use crate::proto::v1::volume_capability::access_mode::Mode as Access;
use crate::proto::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use crate::status::code;

fn capability(mode: Access) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

fn request(mode: Access, parameters: &[(&str, &str)]) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: "pvc-1".to_owned(),
        volume_capabilities: vec![capability(mode)],
        parameters: parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..CreateVolumeRequest::default()
    }
}

fn cluster() -> FakeCluster {
    let read = |value: Value| serde_json::from_value(value).unwrap();
    let snapshot = |namespace: &str, name: &str, paths: Value| {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": namespace},
            "status": {
                "tree": "", "paths": paths, "hostname": "h", "username": "", "repository": "repo", "totalBytes": 5,
                "snapshotID": "0a".repeat(32), "snapshotTime": "2026-01-01T00:00:00Z",
            },
        }))
        .unwrap()
    };
    let claim = |name: &str, source: Value| {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop"}, "spec": {"dataSourceRef": source},
        }))
        .unwrap()
    };
    let read_claim = |value: Value| serde_json::from_value(value).unwrap();
    let of_snapshot = |name: &str, namespace: Value| json!({"apiGroup": SNAPSHOT_GROUP, "kind": "Snapshot", "name": name, "namespace": namespace});
    FakeCluster {
        repositories: vec![
            read(json!({"metadata": {"name": "repo", "namespace": "shop"}, "spec": {"backend": {}}})),
            serde_json::from_value(
                json!({"metadata": {"name": "repo", "namespace": "storage"}, "spec": {"backend": {}}}),
            )
            .unwrap(),
        ],
        snapshots: Mutex::new(vec![
            snapshot("shop", "repo-one", json!(["/data"])),
            snapshot("shop", "repo-two", json!(["/data", "/logs"])),
            snapshot("storage", "repo-far", json!(["/data"])),
        ]),
        namespaces: [("shop".to_owned(), BTreeMap::new())].into(),
        claims: vec![
            claim("plain", Value::Null),
            claim("one", of_snapshot("repo-one", Value::Null)),
            claim("two", of_snapshot("repo-two", Value::Null)),
            read_claim(json!({
                "metadata": {"name": "annotated", "namespace": "shop", "annotations": {
                    "fs.stash.appscode.com/mode": "overlay", "fs.stash.appscode.com/scratchSize": "1Mi",
                    "fs.stash.appscode.com/path": "/data/a", "fs.stash.appscode.com/uid": "0"
                }},
                "spec": {"dataSourceRef": of_snapshot("repo-one", Value::Null)},
            })),
            claim("far", of_snapshot("repo-far", json!("storage"))),
            claim("none", of_snapshot("repo-none", Value::Null)),
            claim("cloned", json!({"kind": "PersistentVolumeClaim", "name": "plain"})),
        ],
        ..FakeCluster::default()
    }
}

const OF_CLASS: [(&str, &str); 3] = [("repository", "repo"), ("repositoryNamespace", "shop"), ("snapshot", "latest")];

async fn made(request: &CreateVolumeRequest) -> Result<Made, RpcError> {
    make(&cluster(), &parse(request)?).await
}

fn of_claim(name: &str) -> Vec<(&str, &str)> {
    vec![(CLAIM_NAMESPACE, "shop"), (CLAIM_NAME, name), (VOLUME_NAME, "pvc-1")]
}

#[tokio::test]
async fn test_a_volume_is_a_promise_of_one_snapshot() {
    let id = "0a".repeat(32);
    let pinned = [("repository", "repo"), ("repositoryNamespace", "shop"), ("snapshot", id.as_str())];
    let context = |more: &[(&str, &str)]| -> BTreeMap<String, String> {
        pinned.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let found = made(&request(Access::SingleNodeWriter, &OF_CLASS)).await.unwrap();
    assert_eq!(found, Made { bytes: 5, context: context(&[]) });
    // Of a snapshot of one path its content; of several, all of them.
    let found = made(&request(Access::MultiNodeReaderOnly, &of_claim("one"))).await.unwrap();
    assert_eq!(found.context, context(&[("path", "/data")]));
    let found = made(&request(Access::MultiNodeReaderOnly, &of_claim("two"))).await.unwrap();
    assert_eq!(found.context, context(&[]));
    let overlay = [("mode", "overlay"), ("scratchSize", "2Gi"), ("path", "/")];
    let mut asked = request(Access::SingleNodeWriter, &[&of_claim("one")[..], &overlay].concat());
    asked.capacity_range = Some(CapacityRange { required_bytes: 10, limit_bytes: 0 });
    let found = made(&asked).await.unwrap();
    assert_eq!(found, Made { bytes: 10, context: context(&[("mode", "overlay"), ("scratchSize", "2147483648")]) });
    // What the claim's annotations say wins over the class.
    let of_annotated = request(Access::SingleNodeWriter, &[&of_claim("annotated")[..], &[("mode", "ro")]].concat());
    assert_eq!(
        made(&of_annotated).await.unwrap().context,
        context(&[("mode", "overlay"), ("scratchSize", "1048576"), ("path", "/data/a")])
    );
    // The namespace of the claim is that of the Repository where none is said.
    let short = [&of_claim("plain")[..], &[("repository", "repo"), ("snapshot", "repo-one")]].concat();
    assert_eq!(made(&request(Access::SingleNodeWriter, &short)).await.unwrap().context, context(&[]));
}

#[tokio::test]
async fn test_what_is_no_volume() {
    let with = |change: fn(&mut CreateVolumeRequest)| {
        let mut request = request(Access::SingleNodeWriter, &OF_CLASS);
        change(&mut request);
        request
    };
    let writer = Access::SingleNodeWriter;
    let reader = Access::MultiNodeReaderOnly;
    let both = [&of_claim("one")[..], &[("repository", "repo")]].concat();
    let overlay = [&of_claim("one")[..], &[("mode", "overlay")]].concat();
    let far_class =
        [&of_claim("plain")[..], &[("repository", "repo"), ("repositoryNamespace", "storage"), ("snapshot", "latest")]]
            .concat();
    for (request, expected, words) in [
        (with(|r| r.name.clear()), Code::InvalidArgument, "name must be"),
        (with(|r| r.name = "a/b".to_owned()), Code::InvalidArgument, "name must be"),
        (with(|r| r.name = "a".repeat(129)), Code::InvalidArgument, "name must be"),
        (with(|r| r.volume_capabilities.clear()), Code::InvalidArgument, "volume_capability is needed"),
        (
            with(|r| r.volume_capabilities = vec![capability(Access::MultiNodeMultiWriter)]),
            Code::InvalidArgument,
            "ReadWriteMany is not possible",
        ),
        (
            with(|r| r.mutable_parameters = [("a".to_owned(), "b".to_owned())].into()),
            Code::InvalidArgument,
            "mutable_parameters is not supported",
        ),
        (
            with(|r| r.capacity_range = Some(CapacityRange { required_bytes: 2, limit_bytes: 1 })),
            Code::OutOfRange,
            "required_bytes 2 is more than limit_bytes 1",
        ),
        (
            with(|r| drop(r.parameters.insert("size".to_owned(), "1".to_owned()))),
            Code::InvalidArgument,
            "\"size\" is not known",
        ),
        (
            with(|r| drop(r.parameters.remove("repositoryNamespace"))),
            Code::InvalidArgument,
            "repositoryNamespace is needed",
        ),
        (request(writer, &of_claim("gone")), Code::NotFound, "there is no PersistentVolumeClaim shop/gone"),
        (request(writer, &of_claim("none")), Code::NotFound, "there is no Snapshot shop/repo-none"),
        (request(writer, &of_claim("cloned")), Code::InvalidArgument, "is a PersistentVolumeClaim; this driver"),
        (request(writer, &of_claim("plain")), Code::InvalidArgument, "the attribute repository is needed"),
        (request(writer, &of_claim("far")), Code::PermissionDenied, "the Repository storage/repo does not exist, or"),
        (request(writer, &far_class), Code::PermissionDenied, "the Repository storage/repo does not exist, or"),
        (request(writer, &both), Code::InvalidArgument, "it must be left out: the claim's dataSourceRef"),
        (request(reader, &overlay), Code::InvalidArgument, "mode: overlay is for volumes of one node"),
    ] {
        let error = made(&request).await.unwrap_err();
        assert_eq!(code(&error), expected, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}
