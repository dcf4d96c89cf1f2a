//! What was backed up comes back: into a claim, into the claims of a StatefulSet, and into claims that are made for it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stash_tests::cluster::{BUSYBOX, wait_until};

use super::{Shop, World, claim, reference, template, workload};

pub(super) fn test_restores(world: &World) {
    a_claim_comes_back(world);
    a_stateful_set_comes_back(world);
    claims_are_made_for_what_was_lost(world);
}

/// What a volume holds, byte for byte: of each entry its kind, mode, owner, last change and content.
pub(super) fn content(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in
            [folder.clone()].into_iter().chain(fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()))
        {
            let facts = fs::symlink_metadata(&path).unwrap();
            let bytes = if facts.is_file() {
                format!("{:?}", fs::read(&path).unwrap())
            } else if facts.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else {
                String::new()
            };
            let said = format!(
                "{:o} {}:{} {}.{} {bytes}",
                facts.mode(),
                facts.uid(),
                facts.gid(),
                facts.mtime(),
                facts.mtime_nsec()
            );
            if facts.is_dir() && path != folder {
                folders.push(path.clone());
            }
            found.insert(path.strip_prefix(root).unwrap().to_owned(), said);
        }
    }
    found
}

/// Where the volume of a claim lies.
pub(super) fn volume(shop: &Shop<'_>, claim: &str) -> PathBuf {
    let name = wait_until(&format!("claim {claim} to be bound"), || {
        shop.namespace.get(&format!("pvc/{claim}"))["spec"]["volumeName"].as_str().map(str::to_owned)
    });
    shop.world.cluster.node_path(format!("/var/lib/volumes/{name}"))
}

fn empty(root: &Path) {
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
    }
}

fn back_up(shop: &Shop<'_>, name: &str, target: &Value) {
    shop.configure_at(shop.world.minio.address(), name, target, &json!({}));
    let session = format!("{name}-1");
    shop.trigger(name, &session);
    shop.succeeded(&session);
}

/// Restores, and returns how it ended.
pub(super) fn ended(shop: &Shop<'_>, name: &str, repository: &str, target: &Value) -> Value {
    shop.namespace.apply(json!({
        "apiVersion": "stash.appscode.com/v1beta1", "kind": "RestoreSession", "metadata": {"name": name},
        "spec": {"repository": {"name": repository}, "timeOut": "5m", "target": target}
    }));
    wait_until(&format!("restore {name} to end"), || {
        let object = shop.namespace.get(&format!("restoresession/{name}"));
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        ["Succeeded", "Failed", "Invalid"].contains(&phase).then_some(object)
    })
}

/// Restores, well.
pub(super) fn restore(shop: &Shop<'_>, name: &str, repository: &str, target: &Value) -> Value {
    let ended = ended(shop, name, repository, target);
    assert_eq!(ended["status"]["phase"], "Succeeded", "{name}: {:#}", ended["status"]);
    ended
}

/// Writes something of each kind, as somebody who is not root.
const WRITE: &str = "umask 027; mkdir -p /store/a/b; hostname > /store/a/name; dd if=/dev/urandom of=/store/a/b/big bs=1M count=3 2>/dev/null; \
    ln -s a/name /store/link; ln /store/a/name /store/a/b/other; mkfifo /store/fifo; chmod 4711 /store/a/name; chown -R 1234:4321 /store";

fn a_claim_comes_back(world: &World) {
    let shop = world.shop();
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": claim("ReadWriteOnce")
    }));
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "writer"},
        "spec": {
            "restartPolicy": "Never", "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "containers": [{"name": "main", "image": BUSYBOX, "command": ["sh", "-c", WRITE],
                "volumeMounts": [{"name": "data", "mountPath": "/store"}]}]
        }
    }));
    shop.namespace.wait_for_pod("writer");
    let target = json!({"ref": reference("v1", "PersistentVolumeClaim", "data")});
    back_up(&shop, "data", &target);
    let place = volume(&shop, "data");
    let before = content(&place);
    empty(&place);
    fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut into = target.clone();
    into["rules"] = json!([{"paths": ["/stash-data"]}]);
    let done = restore(&shop, "data", "data", &into);
    assert_eq!(content(&place), before);
    assert_eq!(done["status"]["stats"][0]["hostname"], "host-0");
    // Once more, by the snapshot, over what was changed meanwhile.
    fs::write(place.join("a/name"), "spoilt").unwrap();
    let snapshots: Vec<Value> = serde_json::from_str(&shop.restic("data", &["snapshots", "--json"])).unwrap();
    into["rules"] = json!([{"snapshots": [snapshots[0]["short_id"]]}]);
    restore(&shop, "data-again", "data", &into);
    assert_eq!(content(&place), before);
}

fn stateful_set(shop: &Shop<'_>) -> Value {
    let mounts = json!([{"name": "store", "mountPath": "/store"}]);
    let template = template("db", WRITE, &mounts, &json!([]));
    let claims = json!([{"metadata": {"name": "store"}, "spec": claim("ReadWriteOnce")}]);
    let more = json!({
        "replicas": 2, "serviceName": "db", "podManagementPolicy": "Parallel", "template": template, "volumeClaimTemplates": claims
    });
    shop.namespace.apply(workload("StatefulSet", "db", more));
    shop.namespace.run(&["rollout", "status", "statefulset/db", "--timeout=300s"]);
    json!({"ref": reference("apps/v1", "StatefulSet", "db"), "paths": ["/store"], "volumeMounts": mounts})
}

fn stop(shop: &Shop<'_>) {
    shop.namespace.run(&["scale", "statefulset/db", "--replicas=0"]);
    wait_until("the pods to go", || {
        let pods = shop.namespace.get("pods")["items"].as_array().unwrap().clone();
        pods.iter().all(|pod| pod["metadata"]["labels"]["app"] != "db").then_some(())
    });
}

fn a_stateful_set_comes_back(world: &World) {
    let shop = world.shop();
    let target = stateful_set(&shop);
    back_up(&shop, "db", &target);
    // The application rests while its volumes are written to.
    stop(&shop);
    let places = ["store-db-0", "store-db-1"].map(|claim| volume(&shop, claim));
    let before = places.each_ref().map(|place| content(place));
    places.iter().for_each(|place| empty(place));
    let into = json!({
        "ref": target["ref"], "volumeMounts": target["volumeMounts"], "replicas": 2, "rules": [{"paths": ["/store"]}]
    });
    let done = restore(&shop, "db", "db", &into);
    assert_eq!(done["status"]["totalHosts"], 2);
    assert_eq!(places.each_ref().map(|place| content(place)), before);
    shop.namespace.run(&["scale", "statefulset/db", "--replicas=2"]);
}

fn claims_are_made_for_what_was_lost(world: &World) {
    let shop = world.shop();
    let target = stateful_set(&shop);
    back_up(&shop, "db", &target);
    stop(&shop);
    let before = ["store-db-0", "store-db-1"].map(|claim| content(&volume(&shop, claim)));
    shop.namespace.run(&["delete", "statefulset/db"]);
    shop.namespace.run(&["delete", "pvc", "--all", "--timeout=300s"]);
    let into = json!({
        "replicas": 2, "volumeMounts": [{"name": "store-db", "mountPath": "/store"}], "rules": [{"paths": ["/store"]}],
        "volumeClaimTemplates": [{"metadata": {"name": "store-db-${POD_ORDINAL}"}, "spec": claim("ReadWriteOnce")}]
    });
    restore(&shop, "db", "db", &into);
    let after = ["store-db-0", "store-db-1"].map(|claim| content(&volume(&shop, claim)));
    assert_eq!(after, before);
}
