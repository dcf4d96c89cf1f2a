//! A workload whose pods run is restored when they start anew: before all of its containers, once, and not at all on half of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use stash_tests::cluster::{BUSYBOX, Namespace, wait_until};
use stash_tests::fixture::run;
use stash_tests::mounted::clean;

use super::restored::{ended, restore, volume};
use super::{Shop, claim, reference, template, workload};

const INIT: &str = "stash-fs-init";
const ANNOTATION: &str = "fs.stash.appscode.com/restore-at-start";

/// An application that says what it found, and would rather not start than on half of it.
const SCRIPT: &str = "[ ! -e /store/.stash-fs-restoring ] || exit 9; \
    [ -e /store/entries ] || { echo first > /store/entries; dd if=/dev/urandom of=/store/big bs=1M count=4 2>/dev/null; }; \
    cat /store/entries";

fn ledger(shop: &Shop<'_>) -> Value {
    let of = |name: &str| json!({"metadata": {"name": name}, "spec": claim("ReadWriteOnce")});
    let mut made = of("ledger");
    made["apiVersion"] = json!("v1");
    made["kind"] = json!("PersistentVolumeClaim");
    shop.namespace.apply(made);
    let mounts = json!([{"name": "store", "mountPath": "/store"}]);
    let volumes = json!([{"name": "store", "persistentVolumeClaim": {"claimName": "ledger"}}]);
    let mut template = template("ledger", SCRIPT, &mounts, &volumes);
    // Nobody in it is root, and another init container looks at the data first.
    template["spec"]["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000});
    template["spec"]["initContainers"] = json!([{
        "name": "schema", "image": BUSYBOX, "command": ["sh", "-c", "cat /store/entries || true"], "volumeMounts": mounts
    }]);
    let more = json!({"replicas": 1, "strategy": {"type": "Recreate"}, "template": template});
    shop.namespace.apply(workload("Deployment", "ledger", more));
    rolled_out(shop);
    json!({"ref": reference("apps/v1", "Deployment", "ledger"), "paths": ["/store"], "volumeMounts": mounts})
}

fn rolled_out(shop: &Shop<'_>) {
    shop.namespace.run(&["rollout", "status", "deployment/ledger", "--timeout=300s"]);
}

/// The pod of the workload that is not leaving.
fn pod(shop: &Shop<'_>) -> Option<Value> {
    let pods = shop.namespace.get("pods")["items"].as_array().unwrap().clone();
    let is_one =
        |pod: &&Value| pod["metadata"]["labels"]["app"] == "ledger" && pod["metadata"]["deletionTimestamp"].is_null();
    pods.iter().find(is_one).cloned()
}

fn said(shop: &Shop<'_>, container: &str) -> String {
    let name = pod(shop).unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    shop.namespace.run(&["logs", &name, "-c", container]).trim().to_owned()
}

/// Pods restored, and no Job under what runs; why it did not is in the controller's log.
fn by_no_job(shop: &Shop<'_>, release: &Namespace<'_>, session: &str) {
    let jobs = shop.namespace.run(&["get", "jobs", "-o", "name"]);
    let is_there = jobs.contains(&format!("stash-restore-{session}-"));
    assert!(!is_there, "{jobs}{}", release.run(&["logs", "deployment/stash-fs-controller"]));
}

/// How the init container of a pod ended.
fn init_ended(pod: &Value) -> Option<Value> {
    let statuses = pod["status"]["initContainerStatuses"].as_array()?;
    let status = statuses.iter().find(|status| status["name"] == INIT)?;
    ["state", "lastState"].iter().map(|state| status[*state]["terminated"].clone()).find(|ended| !ended.is_null())
}

fn rules(target: &Value) -> Value {
    let mut into = target.clone();
    into.as_object_mut().unwrap().remove("paths");
    into["rules"] = json!([{"paths": ["/store"]}]);
    into
}

fn chattr(flag: &str, path: &Path) {
    run(clean(Command::new("chattr")).args([flag, path.to_str().unwrap()]));
}

pub(super) fn test_at_start(shop: &Shop<'_>, release: &Namespace<'_>) {
    let target = ledger(shop);
    shop.configure_at(shop.world.minio.address(), "ledger", &target, &json!({}));
    shop.trigger("ledger", "ledger-1");
    shop.succeeded("ledger-1");
    shop.mirrored("ledger", 1);
    let template = |shop: &Shop<'_>| shop.namespace.get("deployment/ledger")["spec"]["template"].clone();
    let (before, store) = (template(shop), volume(shop, "ledger"));
    let (entries, big) = (store.join("entries"), store.join("big"));
    let whole = fs::read(&big).unwrap();

    // All of it is back before anything of it starts.
    fs::write(&entries, "spoilt\n").unwrap();
    fs::write(&big, "spoilt").unwrap();
    let first = pod(shop).unwrap()["metadata"]["uid"].clone();
    let done = restore(shop, "ledger", "ledger", &rules(&target));
    rolled_out(shop);
    assert_ne!(pod(shop).unwrap()["metadata"]["uid"], first);
    assert_eq!((said(shop, "schema").as_str(), said(shop, "main").as_str()), ("first", "first"));
    assert_eq!(fs::read(&big).unwrap(), whole);
    let conditions = done["status"]["conditions"].as_array().unwrap();
    let injected = conditions.iter().find(|said| said["type"] == "StashInitContainerInjected").unwrap();
    assert_eq!((&injected["status"], &done["status"]["stats"][0]["hostname"]), (&json!("True"), &json!("host-0")));
    by_no_job(shop, release, "ledger");

    // What starts later finds what was written since.
    fs::write(&entries, "later\n").unwrap();
    let name = pod(shop).unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    shop.namespace.run(&["delete", "pod", &name, "--timeout=300s"]);
    rolled_out(shop);
    assert_eq!(said(shop, "main"), "later");
    let state = init_ended(&pod(shop).unwrap()).unwrap();
    assert_eq!(state["exitCode"], 0, "{state:#}");
    println!("an init container with nothing to do ran from {} to {}", state["startedAt"], state["finishedAt"]);

    half_of_it_is_never_started(shop, release, &target, &big);
    assert_eq!((said(shop, "main").as_str(), fs::read(&big).unwrap() == whole), ("first", true));

    // Without its sessions the workload is what it was.
    shop.namespace.run(&["delete", "restoresessions", "ledger", "ledger-half", "ledger-whole", "--timeout=300s"]);
    assert_eq!(template(shop), before);
    rolled_out(shop);
    wait_until("a pod without the init container", || {
        let pod = pod(shop)?;
        (pod["metadata"]["annotations"][ANNOTATION].is_null() && init_ended(&pod).is_none()).then_some(())
    });
    wait_until("the right to go", || {
        let roles = shop.namespace.run(&["get", "roles", "-o", "name"]);
        (!roles.contains("stash-fs-restores")).then_some(())
    });
    shop.namespace.run(&["delete", "deployment", "ledger", "--timeout=300s"]);
    each_pod_gets_what_is_its_own(shop, release);
}

/// A host for each replica, and for each node: the pods find their own, in volumes of other kinds as well.
fn each_pod_gets_what_is_its_own(shop: &Shop<'_>, release: &Namespace<'_>) {
    const OWN: &str = "[ -e /store/name ] || hostname > /store/name; cat /store/name";
    let mounts = json!([{"name": "store", "mountPath": "/store"}]);
    let claims = json!([{"metadata": {"name": "store"}, "spec": claim("ReadWriteOnce")}]);
    let path = format!("/var/lib/{}-crew", shop.namespace.name());
    let folder = json!([{"name": "store", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}]);
    for (kind, name, more, volumes) in [
        (
            "StatefulSet",
            "crew",
            json!({"replicas": 2, "serviceName": "crew", "volumeClaimTemplates": claims}),
            json!([]),
        ),
        ("DaemonSet", "agents", json!({}), folder),
    ] {
        let mut spec = more;
        spec["template"] = template(name, OWN, &mounts, &volumes);
        shop.namespace.apply(workload(kind, name, spec));
        let what = format!("{}/{name}", kind.to_lowercase());
        let rolled_out = || shop.namespace.run(&["rollout", "status", &what, "--timeout=300s"]);
        rolled_out();
        let target = json!({"ref": reference("apps/v1", kind, name), "paths": ["/store"], "volumeMounts": mounts});
        shop.configure_at(shop.world.minio.address(), name, &target, &json!({}));
        let session = format!("{name}-1");
        shop.trigger(name, &session);
        let hosts = shop.succeeded(&session)["status"]["targets"][0]["totalHosts"].as_u64().unwrap();
        shop.mirrored(name, usize::try_from(hosts).unwrap());
        let files: Vec<PathBuf> = match kind {
            "StatefulSet" => ["store-crew-0", "store-crew-1"].map(|claim| volume(shop, claim).join("name")).into(),
            _ => vec![shop.world.cluster.node_path(&path).join("name")],
        };
        let before: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        files.iter().for_each(|file| fs::write(file, "spoilt\n").unwrap());
        let done = restore(shop, name, name, &rules(&target));
        assert_eq!(done["status"]["totalHosts"].as_u64(), Some(hosts));
        rolled_out();
        let after: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        assert_eq!(after, before, "{kind}");
        let said = shop.namespace.run(&["logs", &format!("--selector=app={name}"), "-c", "main"]);
        assert!(!said.contains("spoilt") && said.contains(before[0].trim()), "{kind}: {said}");
        by_no_job(shop, release, name);
        shop.namespace.run(&["delete", "restoresession", name, "--timeout=300s"]);
        shop.namespace.run(&["delete", &what, "--timeout=300s"]);
    }
}

/// A file cannot be restored: nothing of the application starts, until another session restores all.
fn half_of_it_is_never_started(shop: &Shop<'_>, release: &Namespace<'_>, target: &Value, big: &Path) {
    fs::write(big, "half").unwrap();
    chattr("+i", big);
    let failed = ended(shop, "ledger-half", "ledger", &rules(target));
    chattr("-i", big);
    by_no_job(shop, release, "ledger-half");
    assert_eq!(failed["status"]["phase"], "Failed", "{failed:#}");
    let error = failed["status"]["stats"][0]["error"].as_str().unwrap();
    assert!(error.contains("/store/big"), "{failed:#}");
    // It is not tried again, neither in that pod nor in another.
    let name = pod(shop).unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    wait_until("the init container to fail again", || {
        let pod = shop.namespace.get(&format!("pod/{name}"));
        let status = pod["status"]["initContainerStatuses"].as_array()?.iter().find(|one| one["name"] == INIT)?.clone();
        (status["restartCount"].as_u64() >= Some(1) && init_ended(&pod).is_some()).then_some(())
    });
    shop.namespace.run(&["delete", "pod", &name, "--timeout=300s"]);
    let refused = wait_until("another pod to fail", || init_ended(&pod(shop)?));
    let told = refused["message"].as_str().unwrap();
    assert!(refused["exitCode"] == 1 && told.contains("host-0 was not restored"), "{refused:#}");
    let waiting = pod(shop).unwrap();
    for container in waiting["status"]["containerStatuses"].as_array().unwrap() {
        assert_eq!((&container["restartCount"], &container["started"]), (&json!(0), &json!(false)), "{container:#}");
    }
    assert!(big.with_file_name(".stash-fs-restoring").exists());
    restore(shop, "ledger-whole", "ledger", &rules(target));
    rolled_out(shop);
}
