//! Workloads that are restored when their pods start: what the controller's account may change of them, and the whole way of a session with
//! these rights, the controller killed after each step. The test makes pods, and is their kubelet.

use serde_json::{Value, json};
use stash_tests::cluster::{Kubectl, Namespace, wait_until};
use stash_tests::controller::Controller;

use super::{Installed, NAMESPACE, names};

const ROLE: &str = "stash-fs-restores";
const INIT: &str = "stash-fs-init";
const ANNOTATION: &str = "fs.stash.appscode.com/restore-at-start";

fn controller(installed: &Installed) -> Controller {
    installed.controller_with(&["--copy-by-volume", "--restore-at-start"])
}

/// A Deployment with an account of its own, a Repository and a snapshot of its volume.
fn shop(namespace: &Namespace<'_>) {
    let keys = json!({"RESTIC_PASSWORD": "p", "AWS_ACCESS_KEY_ID": "i", "AWS_SECRET_ACCESS_KEY": "k"});
    let backend = json!({"storageSecretName": "keys", "s3": {"endpoint": "https://s3.example", "bucket": "b"}});
    let status = json!({"tree": "t", "paths": ["/data"], "hostname": "host-0", "username": "root", "uid": 0, "gid": 0, "repository": "repo",
        "snapshotID": "a".repeat(64), "snapshotTime": "2026-01-01T00:00:00Z"});
    let template = json!({
        "metadata": {"labels": {"app": "web"}, "annotations": {"note": "theirs"}},
        "spec": {
            "serviceAccountName": "web", "initContainers": [{"name": "schema", "image": "busybox"}],
            "containers": [{"name": "web", "image": "busybox", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
        }
    });
    let deployment = |name: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
            "selector": {"matchLabels": {"app": "web"}}, "template": template
        }})
    };
    for object in [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": keys}),
        json!({"apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": "repo"}, "spec": {"backend": backend}}),
        json!({"apiVersion": "repositories.stash.appscode.com/v1alpha1", "kind": "Snapshot",
            "metadata": {"name": "repo-aaaaaaaa", "labels": {"repository": "repo"}}, "status": status}),
        deployment("web"),
        deployment("other"),
    ] {
        namespace.apply(object);
    }
}

fn restore(namespace: &Namespace<'_>, name: &str) {
    let target = json!({
        "ref": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}], "rules": [{"snapshots": ["aaaaaaaa"]}]
    });
    namespace.apply(
        json!({"apiVersion": "stash.appscode.com/v1beta1", "kind": "RestoreSession", "metadata": {"name": name},
        "spec": {"repository": {"name": "repo"}, "target": target}}),
    );
}

fn template(namespace: &Namespace<'_>) -> Value {
    namespace.get("deployment/web")["spec"]["template"].clone()
}

fn has_container(namespace: &Namespace<'_>) -> bool {
    template(namespace)["spec"]["initContainers"][0]["name"] == INIT
}

/// A pod as the cluster's controllers would make it from the template.
fn pod(namespace: &Namespace<'_>, name: &str) -> String {
    let mut made = template(namespace);
    made["apiVersion"] = json!("v1");
    made["kind"] = json!("Pod");
    made["metadata"]["name"] = json!(name);
    made["metadata"]["labels"]["pod-template-hash"] = json!("1");
    made["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "1", "controller": true}]);
    made["spec"]["nodeName"] = json!("node-1");
    namespace.apply(made);
    namespace.get(&format!("pod/{name}"))["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn says(namespace: &Namespace<'_>, pod: &str, state: Value) {
    let status = json!({"name": INIT, "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "state": state});
    let patch = json!({"status": {"phase": "Pending", "initContainerStatuses": [status]}}).to_string();
    namespace.run(&["patch", "pod", pod, "--subresource=status", "--type=merge", "-p", &patch]);
}

fn session(namespace: &Namespace<'_>, name: &str) -> Value {
    namespace.get(&format!("restoresession/{name}"))
}

/// The uid of the pod that was chosen.
fn chosen(namespace: &Namespace<'_>, name: &str) -> Option<String> {
    let session = session(namespace, name);
    let orders: Value = serde_json::from_str(session["metadata"]["annotations"][ANNOTATION].as_str()?).unwrap();
    orders["hosts"]["one"]["pod"].as_str().map(str::to_owned)
}

#[test]
fn test_a_workload_is_changed_and_changed_back_with_the_rights_of_the_chart() {
    // The controller of the tests knows its Jobs' image under this name.
    let installed = Installed::start_with(&["--set", "image.registry=localhost", "--set", "image.jobs.tag=test"]);
    let space = installed.server.namespace();
    shop(&space);
    space.run(&["create", "serviceaccount", "web"]);
    let before = template(&space);
    let running = controller(&installed);
    restore(&space, "drill");
    wait_until("the init container", || has_container(&space).then_some(()));
    nothing_else_may_be_changed(&space, &installed.account());
    running.kill();

    // Whoever comes next chooses a pod of those that have it, and another when that one goes.
    let running = controller(&installed);
    let first = pod(&space, "web-1-a");
    wait_until("a pod to be chosen", || (chosen(&space, "drill")? == first).then_some(()));
    running.kill();
    space.run(&["delete", "pod", "web-1-a", "--force", "--grace-period=0"]);
    let second = pod(&space, "web-1-b");
    let running = controller(&installed);
    wait_until("another pod to be chosen", || (chosen(&space, "drill")? == second).then_some(()));
    says(&space, "web-1-b", json!({"running": {}}));
    wait_until("what is waited for", || {
        let conditions = session(&space, "drill")["status"]["conditions"].as_array()?.clone();
        let said = conditions.iter().find(|said| said["type"] == "RestoreExecutorEnsured")?.clone();
        said["message"].as_str()?.ends_with("web-1-b restores.").then_some(())
    });
    running.kill();
    let report = json!({"durationSeconds": 1.5, "outcome": {"restore": {"restored": 3}}}).to_string();
    says(&space, "web-1-b", json!({"terminated": {"exitCode": 0, "message": report}}));
    let running = controller(&installed);
    let done = wait_until("the session to end", || {
        let session = session(&space, "drill");
        (session["status"]["phase"] == "Succeeded").then_some(session)
    });
    assert_eq!(done["status"]["stats"], json!([{"hostname": "host-0", "phase": "Succeeded", "duration": "1.5s"}]));
    assert_eq!(done["metadata"]["finalizers"], json!(["stash.appscode.com"]));

    // Another session's takes its place, and the first one has nothing to take away.
    restore(&space, "again");
    wait_until("the container of the other", || {
        let volumes = template(&space)["spec"]["volumes"].as_array()?.clone();
        volumes.iter().any(|one| one["csi"]["volumeAttributes"]["restoreSession"] == "again").then_some(())
    });
    space.run(&["delete", "restoresession", "drill", "--timeout=300s"]);
    assert!(has_container(&space));
    // A session that goes while nobody looks is let go by who comes next.
    running.kill();
    space.run(&["delete", "restoresession", "again", "--wait=false"]);
    let running = controller(&installed);
    wait_until("the template as before", || (template(&space) == before).then_some(()));
    wait_until("the session to go", || {
        (!names(installed.kubectl(), "restoresessions").contains(&"again".to_owned())).then_some(())
    });
    wait_until("the right to go", || (!names(installed.kubectl(), "roles").contains(&ROLE.to_owned())).then_some(()));
    let log = running.log();
    assert!(!log.contains("forbidden") && !log.contains("denied") && !log.contains("panic"), "{log}");
    assert!(running.stop());
}

/// What a thief of the account might want of the workload.
fn nothing_else_may_be_changed(space: &Namespace<'_>, account: &Kubectl) {
    let patch = |name: &str, change: &Value| {
        let change = change.to_string();
        let arguments =
            ["-n", space.name(), "patch", "deployment", name, "--dry-run=server", "--type=strategic", "-p", &change];
        account.try_run(&arguments, "")
    };
    let pod = |change: Value| json!({"spec": {"template": {"spec": change}}});
    let container = |change: Value| {
        let mut init = template(space)["spec"]["initContainers"][0].clone();
        super::merge(&mut init, change);
        pod(json!({ "initContainers": [init] }))
    };
    let own = |change: Value| {
        let mut volume = json!({"name": "stash-fs-snapshot-7"});
        super::merge(&mut volume, change);
        pod(json!({ "volumes": [volume] }))
    };
    let snapshot = |attributes: Value, read_only: bool| {
        own(json!({"csi": {"driver": "fs.stash.appscode.com", "readOnly": read_only, "volumeAttributes": attributes}}))
    };
    let mounted = |path: &str| container(json!({"volumeMounts": [{"name": "stash-fs-snapshot-0", "mountPath": path}]}));
    let shows = "volumes that show a RestoreSession's snapshots only";
    for (change, refusal) in [
        (pod(json!({})), None),
        (
            snapshot(json!({"repository": "repo", "restoreSession": "drill", "restoreSource": "/snapshot/7"}), true),
            None,
        ),
        (json!({"spec": {"replicas": 3}}), Some("and nothing else of it")),
        (pod(json!({"containers": [{"name": "web", "image": "evil"}]})), Some("no container of others")),
        (pod(json!({"containers": [{"name": "more", "image": "evil"}]})), Some("no container of others")),
        (pod(json!({"initContainers": [{"name": "schema", "image": "evil"}]})), Some("no container of others")),
        (pod(json!({"initContainers": [{"name": "more", "image": "evil"}]})), Some("no container of others")),
        (container(json!({"image": "evil"})), Some("in the image of the release only")),
        (container(json!({"command": ["sh"]})), Some("in the image of the release only")),
        (container(json!({"args": ["x"]})), Some("in the image of the release only")),
        (container(json!({"envFrom": [{"secretRef": {"name": "keys"}}]})), Some("in the image of the release only")),
        (
            container(json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": true}})),
            Some("capabilities of a restore at most"),
        ),
        (
            container(json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}})),
            Some("capabilities of a restore at most"),
        ),
        (
            pod(json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "other"}}]})),
            Some("no volume of others"),
        ),
        (pod(json!({"volumes": [{"name": "more", "secret": {"secretName": "keys"}}]})), Some("no volume of others")),
        (own(json!({"secret": {"secretName": "keys"}})), Some(shows)),
        (own(json!({"hostPath": {"path": "/"}})), Some(shows)),
        (snapshot(json!({"repository": "repo", "snapshot": "latest"}), true), Some(shows)),
        (snapshot(json!({"repository": "repo"}), false), Some(shows)),
        (
            container(json!({"env": [{"name": "PATH", "value": "/snapshot/0"}]})),
            Some("in the image of the release only"),
        ),
        (mounted("/usr/bin"), Some("mounts nothing over its own program")),
        (mounted("/workload/../usr/bin"), Some("mounts nothing over its own program")),
        (mounted("/snapshot/0/bin"), Some("mounts nothing over its own program")),
        (mounted("/workload/more"), None),
        (pod(json!({"serviceAccountName": "default"})), Some("does not change serviceAccountName")),
        (pod(json!({"hostNetwork": true})), Some("does not change hostNetwork")),
        (pod(json!({"securityContext": {"runAsUser": 0}})), Some("does not change securityContext")),
        (pod(json!({"nodeSelector": {"a": "b"}})), Some("does not change nodeSelector")),
        (json!({"spec": {"template": {"metadata": {"labels": {"more": "x"}}}}}), Some("writes one annotation")),
        (json!({"spec": {"template": {"metadata": {"annotations": {"note": "ours"}}}}}), Some("writes one annotation")),
        (json!({"spec": {"template": {"metadata": {"annotations": {"note": null}}}}}), Some("writes one annotation")),
    ] {
        match (patch("web", &change), refusal) {
            (Ok(_), None) => {}
            (Err(error), Some(refusal)) => assert!(error.contains(refusal), "{change}: {error}"),
            (made, refusal) => panic!("{change}: {made:?}, not {refusal:?}"),
        }
    }
    // By the Role the right is for what is restored.
    let refused = patch("other", &pod(json!({}))).unwrap_err();
    assert!(refused.contains("forbidden"), "{refused}");
    let role = |name: &str, namespace: &str, rule: Value| {
        let labels =
            json!({"app.kubernetes.io/managed-by": "stash.appscode.com", "app.kubernetes.io/component": "restores"});
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": name, "namespace": namespace, "labels": labels}, "rules": [rule]});
        account
            .try_run(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"], &role.to_string())
    };
    let rule = |resources: Value, names: Value, verbs: Value| json!({"apiGroups": ["apps"], "resources": resources, "resourceNames": names, "verbs": verbs});
    let named = "that change workloads by their names only";
    for (namespace, rule, refusal) in [
        (space.name(), rule(json!(["deployments"]), json!(["web"]), json!(["patch"])), None),
        (space.name(), rule(json!(["deployments"]), json!([]), json!(["patch"])), Some(named)),
        (space.name(), rule(json!(["deployments"]), json!(["web"]), json!(["*"])), Some(named)),
        (space.name(), rule(json!(["*"]), json!(["web"]), json!(["patch"])), Some(named)),
        (
            NAMESPACE,
            rule(json!(["deployments"]), json!(["web"]), json!(["patch"])),
            Some("no workloads in its own namespace"),
        ),
    ] {
        match (role(ROLE, namespace, rule.clone()), refusal) {
            (Ok(_), None) => {}
            (Err(error), Some(refusal)) => assert!(error.contains(refusal), "{rule}: {error}"),
            (made, refusal) => panic!("{rule}: {made:?}, not {refusal:?}"),
        }
    }
    let refused =
        role("stash-fs-repositories", space.name(), rule(json!(["deployments"]), json!(["web"]), json!(["patch"])));
    assert!(refused.is_err());
}
