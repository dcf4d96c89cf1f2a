//! What populates claims, with the rights and under the policies of the chart; the test is what makes volumes, binds them and runs Jobs.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use stash_tests::cluster::{ApiServer, Kubectl, Namespace, wait_until};
use stash_tests::controller::kubeconfig_of;
use stash_tests::mounted::{clean, sibling};

use super::{NAMESPACE, merged};

/// The image that the chart names, with no values.
const IMAGE: &str = "stash-fs:0.1.0";
/// The account that the chart makes.
const ACCOUNT: &str = "stash-fs-provisioner";
const ID: &str = "0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d";

pub(super) fn test_populate(server: &ApiServer) {
    let shop = server.namespace();
    let kubectl = server.kubectl();
    kubectl.apply(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "fast"},
        "provisioner": "fast.example.org"}));
    shop.apply(json!({"apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": "repo"},
        "spec": {"backend": {"storageSecretName": "keys", "rest": {"url": "http://store.example.org/"}}}}));
    shop.apply(json!({"apiVersion": "repositories.stash.appscode.com/v1alpha1", "kind": "Snapshot",
        "metadata": {"name": "repo-0a1b2c3d", "labels": {"repository": "repo"}},
        "status": {"tree": "", "paths": ["/data"], "hostname": "host-0", "username": "root", "uid": 0, "gid": 0, "repository": "repo",
            "snapshotID": ID, "snapshotTime": "2026-01-01T00:00:00Z", "totalBytes": 2000, "totalFiles": 1}}));
    let kubeconfig = kubeconfig_of(kubectl, NAMESPACE, ACCOUNT);
    let account = Kubectl::new(kubeconfig.clone());
    policies_hold(&account, kubectl);

    let log = tempfile::NamedTempFile::new().unwrap();
    let start = || Provisioner::start(&account, log.as_file());
    let claim = |name: &str, more: Value| {
        let source =
            json!({"apiGroup": "repositories.stash.appscode.com", "kind": "Snapshot", "name": "repo-0a1b2c3d"});
        let spec = json!({"storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "dataSourceRef": source,
            "resources": {"requests": {"storage": "1Mi"}}});
        shop.apply(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": merged(spec, more)}));
    };
    claim("data", json!({}));
    claim("small", json!({"resources": {"requests": {"storage": "1999"}}}));
    claim("none", json!({"dataSourceRef": {"name": "repo-none"}}));
    claim("blocks", json!({"volumeMode": "Block"}));
    let uid = shop.get("pvc/data")["metadata"]["uid"].as_str().unwrap().to_owned();
    let name = format!("stash-populate-{uid}");

    // Killed after each step; the next one goes on.
    let running = start();
    let job = wait_until("the Job", || found(&shop, "job", &name));
    drop(running);
    let prime = shop.get(&format!("pvc/{name}"));
    assert_eq!(prime["metadata"]["annotations"]["fs.stash.appscode.com/snapshot"], ID);
    assert_eq!(prime["spec"]["dataSourceRef"], Value::Null);
    let volumes = &job["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes[1]["csi"]["volumeAttributes"]["path"], "/data", "{volumes}");
    assert_eq!(volumes[1]["csi"]["nodePublishSecretRef"]["name"], "keys", "{volumes}");
    assert_eq!(volumes[2]["persistentVolumeClaim"]["claimName"], name.as_str(), "{volumes}");
    assert!(!volumes.to_string().contains("\"secret\""), "{volumes}");

    make_volume(kubectl, "pv-data", &prime);
    bind(&shop, &name, "pv-data");
    let running = start();
    // A Job that is not complete gives nothing away, however often it is looked at.
    let waits = |what: &str| wait_until(what, || told(&shop, "small", "PopulateRefused"));
    assert!(waits("a refusal").contains("has 2000 bytes, and the claim requests 1999"));
    assert_eq!(holder(kubectl, "pv-data"), prime["metadata"]["uid"].as_str().unwrap());
    drop(running);
    complete(&shop, &name);
    let running = start();
    wait_until("the volume to be given", || (holder(kubectl, "pv-data") == uid).then_some(()));
    drop(running);
    assert!(found(&shop, "job", &name).is_some() && found(&shop, "pvc", &name).is_some());

    bind(&shop, "data", "pv-data");
    let _running = start();
    wait_until("the Job to go", || found(&shop, "job", &name).is_none().then_some(()));
    let goes = wait_until("the prime claim to go", || {
        let prime = found(&shop, "pvc", &name)?;
        prime["metadata"]["deletionTimestamp"].is_string().then_some(prime)
    });
    assert_eq!(goes["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    wait_until("the end to be told", || told(&shop, "data", "Populated"));
    assert!(wait_until("what is missing", || told(&shop, "none", "PopulateRefused")).contains("there is no Snapshot"));
    assert!(wait_until("what cannot be", || told(&shop, "blocks", "PopulateRefused")).contains("volumeMode is Block"));
    let claims = shop.get("pvc")["items"].as_array().unwrap().len();
    assert_eq!(claims, 5, "nothing was made for what is refused");
    let said = std::fs::read_to_string(log.path()).unwrap();
    assert!(!said.contains("forbidden") && !said.contains("denied") && !said.contains("panic"), "{said}");
}

/// What populates, as a process that is killed when it is dropped.
struct Provisioner(Child);

impl Provisioner {
    fn start(account: &Kubectl, log: &File) -> Self {
        let mut command = clean(Command::new(sibling("stash-csi")));
        command.env("KUBECONFIG", account.kubeconfig()).env("RUST_LOG", "warn,stash_csi=debug");
        command.args(["--provision", "--image", IMAGE]).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.stderr(log.try_clone().unwrap()).spawn().unwrap())
    }
}

impl Drop for Provisioner {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn found(shop: &Namespace<'_>, kind: &str, name: &str) -> Option<Value> {
    let found = shop.run(&["get", kind, name, "--ignore-not-found", "-o", "json"]);
    serde_json::from_str(&found).ok()
}

/// What an event of a claim says.
fn told(shop: &Namespace<'_>, claim: &str, reason: &str) -> Option<String> {
    let events = shop.get("events.events.k8s.io")["items"].as_array().unwrap().clone();
    let event = events.into_iter().find(|event| event["regarding"]["name"] == claim && event["reason"] == reason)?;
    Some(event["note"].as_str().unwrap().to_owned())
}

fn holder(kubectl: &Kubectl, volume: &str) -> String {
    kubectl.run(&["get", "pv", volume, "-o", "jsonpath={.spec.claimRef.uid}"])
}

fn volume(name: &str, claim: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, "annotations": {"a": "b"}}, "spec": {
        "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
        "persistentVolumeReclaimPolicy": "Delete", "csi": {"driver": "fast.example.org", "volumeHandle": name},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim["metadata"]["namespace"],
            "name": claim["metadata"]["name"], "uid": claim["metadata"]["uid"]}}})
}

fn make_volume(kubectl: &Kubectl, name: &str, claim: &Value) {
    kubectl.apply(&volume(name, claim));
}

/// What the cluster's controller does with a claim.
fn bind(shop: &Namespace<'_>, claim: &str, volume: &str) {
    let patch = |more: &[&str], patch: Value| {
        shop.run(&[&["patch", "pvc", claim, "--type=merge", "-p", &patch.to_string()], more].concat())
    };
    patch(&[], json!({"spec": {"volumeName": volume}}));
    patch(&["--subresource=status"], json!({"status": {"phase": "Bound"}}));
}

/// What the cluster's controller says of a Job whose pod ended well.
fn complete(shop: &Namespace<'_>, job: &str) {
    let time = "2026-01-01T00:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": time});
    let conditions = [condition("SuccessCriteriaMet"), condition("Complete")];
    let status = json!({"startTime": time, "completionTime": time, "succeeded": 1, "conditions": conditions});
    let patch = json!({"status": status}).to_string();
    shop.run(&["patch", "job", job, "--subresource=status", "--type=merge", "-p", &patch]);
}

/// What the account may create and change is narrower than its roles say.
fn policies_hold(account: &Kubectl, kubectl: &Kubectl) {
    let of_claim = |uid: &str| {
        json!({"namespace": "default", "name": format!("stash-populate-{uid}"),
            "ownerReferences": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data", "uid": uid}]})
    };
    let claim = |more: Value| {
        let spec = json!({"storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}});
        merged(
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": of_claim("u"), "spec": spec}),
            more,
        )
    };
    let job = |container: Value, pod: Value| {
        let security = json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["CHOWN"], "drop": ["ALL"]}});
        let plain =
            json!({"name": "copy", "image": IMAGE, "command": ["stash-fs", "job"], "securityContext": security});
        let spec = json!({"restartPolicy": "Never", "automountServiceAccountToken": false,
            "containers": [merged(plain, container)], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "stash-populate-u"}}]});
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": of_claim("u"),
            "spec": {"template": {"spec": merged(spec, pod)}}})
    };
    let volumes = |source: Value| job(json!({}), json!({"volumes": [merged(source, json!({"name": "v"}))]}));
    let snapshot = |driver: &str, read_only: bool| json!({"csi": {"driver": driver, "readOnly": read_only}});
    let (own, new) = ("stash-populate-<uid> of the claim with that uid only", "claims of new and empty volumes only");
    let (token, mounts) = ("without an account and its token only", "mount snapshots and their own prime claim only");
    let (image, rights) =
        ("run stash-fs job in the image of the release only", "the capabilities of a restore at most");
    let of_secret = json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]});
    let with = |security: Value| job(json!({"securityContext": security}), json!({}));
    let second = json!([{"name": "b", "image": IMAGE, "command": ["stash-fs", "job"]}]);
    let cases = [
        (claim(json!({})), None),
        (claim(json!({"metadata": {"name": "mine"}})), Some(own)),
        (claim(json!({"metadata": {"ownerReferences": null}})), Some(own)),
        (claim(json!({"spec": {"volumeName": "theirs"}})), Some(new)),
        (claim(json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}})), Some(new)),
        (claim(json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "theirs"}}})), Some(new)),
        (claim(json!({"spec": {"storageClassName": ""}})), Some(new)),
        (job(json!({}), json!({})), None),
        (merged(job(json!({}), json!({})), json!({"metadata": {"name": "mine"}})), Some(own)),
        (job(json!({}), json!({"automountServiceAccountToken": null})), Some(token)),
        (job(json!({}), json!({"serviceAccountName": "admin"})), Some(token)),
        (volumes(json!({"hostPath": {"path": "/"}})), Some(mounts)),
        (volumes(json!({"secret": {"secretName": "s"}})), Some(mounts)),
        (volumes(json!({"persistentVolumeClaim": {"claimName": "theirs"}})), Some(mounts)),
        (volumes(json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})), Some(mounts)),
        (volumes(snapshot("fs.stash.appscode.com", true)), None),
        (volumes(snapshot("fs.stash.appscode.com", false)), Some(mounts)),
        (volumes(snapshot("secrets-store.csi.k8s.io", true)), Some(mounts)),
        (job(json!({"image": "evil"}), json!({})), Some(image)),
        (job(json!({"command": ["sh", "-c", "x"]}), json!({})), Some(image)),
        (job(of_secret, json!({})), Some(image)),
        (job(json!({}), json!({"initContainers": second})), Some(image)),
        (job(json!({}), json!({"hostNetwork": true})), Some(rights)),
        (with(json!({"privileged": true, "allowPrivilegeEscalation": null})), Some(rights)),
        (with(json!({"allowPrivilegeEscalation": null})), Some(rights)),
        (with(json!({"capabilities": {"add": ["SYS_ADMIN"]}})), Some(rights)),
    ];
    let dry_run = ["create", "--dry-run=server", "-f", "-"];
    // A policy is in force a moment after it was made.
    for (object, _) in cases.iter().filter(|(_, refusal)| refusal.is_some()) {
        wait_until("the policies", || account.try_run(&dry_run, &object.to_string()).is_err().then_some(()));
    }
    for (object, refusal) in cases {
        match (account.try_run(&dry_run, &object.to_string()), refusal) {
            (Ok(_), None) => {}
            (Err(error), Some(refusal)) => assert!(error.contains(refusal), "{object}: {error}"),
            (made, refusal) => panic!("{object}: {made:?}, not {refusal:?}"),
        }
    }

    // A volume goes from a prime claim to the claim of that, and nothing else of it changes.
    let prime = json!({"metadata": merged(of_claim("0-1"), json!({"uid": "0-2"}))});
    kubectl.apply(&volume("pv-prime", &prime));
    kubectl.apply(&volume("pv-theirs", &json!({"metadata": {"namespace": "default", "name": "db", "uid": "0-3"}})));
    let given = |uid: &str, more: Value| {
        merged(json!({"spec": {"claimRef": {"namespace": "default", "name": "data", "uid": uid}}}), more)
    };
    let (to_its_own, only) =
        ("to the claim that this is for, and to no other", "of a volume whose it is, and nothing else");
    let from = json!({"metadata": {"annotations": {"fs.stash.appscode.com/populated-from": "x"}}});
    for (name, patch, refusal) in [
        ("pv-prime", given("0-1", from), None),
        ("pv-prime", given("0-9", json!({})), Some(to_its_own)),
        ("pv-prime", given("0-1", json!({"spec": {"claimRef": {"namespace": "other"}}})), Some(to_its_own)),
        ("pv-theirs", given("0-1", json!({})), Some(to_its_own)),
        ("pv-prime", given("0-1", json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})), Some(only)),
        ("pv-prime", given("0-1", json!({"spec": {"mountOptions": ["suid"]}})), Some(only)),
        ("pv-prime", given("0-1", json!({"metadata": {"annotations": {"a": "c"}}})), Some(only)),
        ("pv-prime", given("0-1", json!({"metadata": {"annotations": {"b": "c"}}})), Some(only)),
        ("pv-prime", given("0-1", json!({"metadata": {"labels": {"b": "c"}}})), Some(only)),
    ] {
        let patch = patch.to_string();
        let arguments = ["patch", "pv", name, "--dry-run=server", "--type=merge", "-p", &patch];
        match (account.try_run(&arguments, ""), refusal) {
            (Ok(_), None) => {}
            (Err(error), Some(refusal)) => assert!(error.contains(refusal), "{patch}: {error}"),
            (made, refusal) => panic!("{name} {patch}: {made:?}, not {refusal:?}"),
        }
    }
    kubectl.apply(&claim(json!({"metadata": {"name": "theirs", "ownerReferences": null}})));
    let refused = account.try_run(&["delete", "pvc", "-n", "default", "theirs", "--dry-run=server"], "").unwrap_err();
    assert!(refused.contains(own), "{refused}");
}
