use k8s_openapi::api::apps::v1::Deployment;

use super::*;

const SESSION: &str = "11112222-3333-4444-5555-666677778888";

fn session(mounts: Value) -> RestoreSession {
    serde_json::from_value(json!({"metadata": {"name": "drill", "namespace": "shop", "uid": SESSION}, "spec": {
        "repository": {"name": "repo"}, "target": {"volumeMounts": mounts},
        "runtimeSettings": {"container": {"resources": {"limits": {"memory": "1Gi"}}}}
    }}))
    .unwrap()
}

fn orders(by: &str, hosts: Value) -> AtStart {
    let mut all = json!({});
    for (key, sources) in hosts.as_object().unwrap() {
        let sources: Vec<Value> = (0..sources.as_u64().unwrap())
            .map(|at| json!({"mounted": {"snapshot": "0a".repeat(32), "root": format!("/snapshot/{at}"), "paths": ["/data"]}}))
            .collect();
        let task = json!({"sources": sources, "mounts": ["/data"], "root": "/workload"});
        all[key] = json!({"host": format!("host-{key}"), "spec": {"version": 1, "task": {"restore": task}}});
    }
    AtStart::parse(&json!({"version": 1, "session": SESSION, "by": by, "hosts": all}).to_string()).unwrap()
}

fn workload() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "resourceVersion": "7"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}, "annotations": {"note": "x"}},
            "spec": {
                "initContainers": [{"name": "schema", "image": "i", "fieldOfALaterRelease": 1}],
                "containers": [{"name": "web", "image": "i"}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "stash-fs-mine", "emptyDir": {}}]
            }
        }
    }})
}

/// Merges as the API server does (RFC 7386).
fn merge(into: &mut Value, change: &Value) {
    let Some(change) = change.as_object() else { return *into = change.clone() };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in change {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

fn injected(workload: &Value, orders: &AtStart) -> Value {
    let session = session(json!([{"name": "data", "mountPath": "/data", "subPath": "a"}]));
    let mut changed = workload.clone();
    merge(&mut changed, &inject(workload, &session, orders, "stash-fs:1", "keys").unwrap());
    changed
}

fn typed(workload: &Value) -> Workload {
    Workload::from(serde_json::from_value::<Deployment>(workload.clone()).unwrap())
}

#[test]
fn test_the_container_goes_before_all_others_and_leaves_no_trace() {
    let before = workload();
    let orders = orders("one", json!({"one": 2}));
    let changed = injected(&before, &orders);
    let spec = &changed["spec"]["template"]["spec"];
    let names = |list: &str| -> Vec<String> {
        spec[list].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("initContainers"), [INIT_CONTAINER, "schema"]);
    assert_eq!(spec["initContainers"][1]["fieldOfALaterRelease"], 1);
    let ours = ["stash-fs-orders", "stash-fs-state", "stash-fs-snapshot-0", "stash-fs-snapshot-1"];
    assert_eq!(names("volumes"), [&["data", "stash-fs-mine"][..], &ours[..]].concat());
    let container = &spec["initContainers"][0];
    assert_eq!(container["securityContext"]["runAsNonRoot"], false);
    assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(mounts.contains(&json!({"name": "data", "mountPath": "/workload/data", "subPath": "a"})));
    assert!(mounts.contains(&json!({"name": "stash-fs-snapshot-1", "mountPath": "/snapshot/1", "readOnly": true})));
    let csi = json!({"driver": "fs.stash.appscode.com", "readOnly": true, "nodePublishSecretRef": {"name": "keys"}, "volumeAttributes": {
        "repository": "repo", "restoreSession": "drill", "restoreSource": "/snapshot/1"
    }});
    assert_eq!(spec["volumes"][5]["csi"], csi);
    assert!(is_injected(&typed(&changed), SESSION) && !is_injected(&typed(&changed), "another"));
    assert!(!is_injected(&typed(&before), SESSION));
    // Once more changes nothing, and another session's takes its place.
    assert_eq!(injected(&changed, &orders), changed);
    let other = AtStart { session: "another".to_owned(), ..super::tests::orders("one", json!({"one": 1})) };
    let replaced = injected(&changed, &other);
    assert!(is_injected(&typed(&replaced), "another"));
    assert_eq!(withdraw(&replaced, SESSION), None);
    // Taken out, it is as before.
    for changed in [changed, injected(&before, &orders)] {
        let mut after = changed.clone();
        merge(&mut after, &withdraw(&changed, SESSION).unwrap());
        assert_eq!(after, before);
    }
    assert_eq!(withdraw(&before, SESSION), None);
    let mut alone = before.clone();
    alone["spec"]["template"]["spec"] = json!({"containers": [{"name": "web", "image": "i"}]});
    let mut after = injected(&alone, &orders);
    let change = withdraw(&after, SESSION).unwrap();
    merge(&mut after, &change);
    assert_eq!(after, alone);
}

#[test]
fn test_what_was_decided() {
    let mounted = || session(json!([{"name": "data", "mountPath": "/data"}]));
    let with = |orders: Value| -> Way {
        let mut session = mounted();
        session.metadata.annotations = Some([(AT_START_ANNOTATION.to_owned(), orders.to_string())].into());
        decided(&session)
    };
    let some = orders("one", json!({"one": 1}));
    let text = |orders: &AtStart| serde_json::to_value(orders).unwrap();
    assert_eq!(decided(&mounted()), Way::Undecided);
    assert_eq!(with(text(&some)), Way::AtStart(Box::new(some.clone())));
    assert_eq!(with(text(&by_jobs(&mounted()))), Way::Jobs);
    // A copy of another session's, and what nobody can read.
    assert_eq!(with(text(&AtStart { session: "u".to_owned(), ..some.clone() })), Way::Jobs);
    assert_eq!(with(json!("odd")), Way::Jobs);
    // What somebody wrote himself.
    for (place, value) in [
        ("/hosts/one/spec/task/restore/sources/0/mounted/root", json!("/usr/bin")),
        ("/hosts/one/spec/task/restore/sources/0/mounted/root", json!("/snapshot/../usr")),
        ("/hosts/one/spec/task/restore/root", json!("/")),
        ("/hosts/one/spec/task/restore/mounts", json!(["/data", "/etc"])),
    ] {
        let mut odd = text(&some);
        *odd.pointer_mut(place).unwrap() = value.clone();
        assert_eq!(with(odd), Way::Jobs, "{place} {value}");
    }
}

#[test]
fn test_who_gets_no_init_container() {
    let mounts = json!([{"name": "data", "mountPath": "/data"}]);
    let of = |session: &RestoreSession, workload: &Value, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        objection(session, &typed(workload), &[], &labels).unwrap_or_default()
    };
    let session = session(mounts);
    assert_eq!(of(&session, &workload(), &[(PSA_LABEL, "baseline")]), "");
    assert!(of(&session, &workload(), &[(PSA_LABEL, "restricted")]).starts_with("Pod Security"));
    let mut stopped = workload();
    stopped["spec"]["replicas"] = json!(0);
    assert!(of(&session, &stopped, &[]).starts_with("it has no pods"));
    let unknown = super::tests::session(json!([{"name": "logs", "mountPath": "/logs"}]));
    assert_eq!(of(&unknown, &workload(), &[]), "its pods have no volume logs");
    // More hosts than pods: the claims of the others are there.
    let set = Workload { kind: "StatefulSet", replicas: Some(2), first_ordinal: 5, ..typed(&workload()) };
    let told = |hosts: &[Host]| objection(&session, &set, hosts, &BTreeMap::new());
    assert_eq!(told(&[host(5), host(6)]), None);
    assert_eq!(told(&[host(6), host(7)]).as_deref(), Some("host-7 has no pod"));
}

fn pod(name: &str, uid: &str, status: Value, session: &str) -> Pod {
    let orders = AtStart { session: session.to_owned(), ..orders("ordinal", json!({"0": 1, "1": 1})) };
    let annotations = json!({AT_START_ANNOTATION: serde_json::to_string(&orders).unwrap()});
    let metadata = json!({"name": name, "uid": uid, "annotations": annotations});
    let of = |state: &str| status.get(state).cloned().unwrap_or_else(|| json!({}));
    let container = json!({"name": INIT_CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 2,
        "state": of("state"), "lastState": of("lastState")});
    serde_json::from_value(json!({
        "metadata": metadata, "spec": {"containers": [], "nodeName": "n"}, "status": {"initContainerStatuses": [container]}
    }))
    .unwrap()
}

fn host(ordinal: usize) -> Host {
    Host { name: format!("host-{ordinal}"), job: format!("job-{ordinal}"), ordinal: Some(ordinal), part: None }
}

#[test]
fn test_one_pod_restores_a_host() {
    let orders = orders("ordinal", json!({"0": 1, "1": 1}));
    let hosts = [host(0), host(1), host(2)];
    // One of before the change, and one that has it.
    let old = pod("db-0", "old", json!({}), "another");
    let new = pod("db-1", "new", json!({}), SESSION);
    let looked = look(&orders, &hosts, &[old, new.clone()]);
    assert_eq!(looked.elections, [("1".to_owned(), "new".to_owned())].into());
    // Of the third nothing is restored.
    assert_eq!(looked.work.keys().collect::<Vec<_>>(), ["job-0", "job-1"]);
    assert!(looked.waits["host-0"].contains("waits for a pod that starts anew"));
    let chosen = elect(&orders, &looked.elections);
    assert_eq!(chosen.hosts["1"].pod.as_deref(), Some("new"));
    assert_eq!(look(&chosen, &hosts, &[new]).elections, BTreeMap::new());
    // It went: another is chosen.
    let next = pod("db-1", "next", json!({}), SESSION);
    assert_eq!(look(&chosen, &hosts, &[next]).elections, [("1".to_owned(), "next".to_owned())].into());
    // Pods do not learn who was chosen: it would change the template.
    assert_eq!(for_pods(&chosen, Some(5)), AtStart { deadline: Some(5), ..orders });
}

#[test]
fn test_what_becomes_of_a_pod() {
    let chosen = elect(&orders("ordinal", json!({"0": 1})), &[("0".to_owned(), "u".to_owned())].into());
    let report = |error: &str| {
        let error = if error.is_empty() { Value::Null } else { json!({"code": error, "message": "why"}) };
        json!({"durationSeconds": 1.0, "error": error, "outcome": {"restore": {}}}).to_string()
    };
    let ended =
        |code: i32, message: &str| json!({"terminated": {"exitCode": code, "message": message, "reason": "OOMKilled"}});
    let outcome = |error: Option<&str>| {
        Work::Reported(HostOutcome {
            error: error.map(str::to_owned),
            duration: Some("1s".to_owned()),
            ..HostOutcome::default()
        })
    };
    for (status, work, waits) in [
        (json!({}), Work::Running, "db-0 starts."),
        (json!({"state": {"running": {}}}), Work::Running, "db-0 restores."),
        (json!({"state": ended(0, &report(""))}), outcome(None), ""),
        (json!({"state": ended(0, "")}), Work::Reported(HostOutcome::default()), ""),
        (json!({"state": ended(1, &report("full"))}), outcome(Some("why")), ""),
        // Started again, it says the same; and what it said first counts.
        (json!({"state": {"running": {}}, "lastState": ended(1, &report("full"))}), outcome(Some("why")), ""),
        (json!({"state": ended(1, &report("disrupted"))}), Work::Running, "db-0 was stopped: why."),
        (
            json!({"state": {"waiting": {}}, "lastState": ended(137, "")}),
            Work::Running,
            "stash-fs-init of db-0 ended without a report (OOMKilled), 2 times so far.",
        ),
    ] {
        let looked = look(&chosen, &[host(0)], &[pod("db-0", "u", status.clone(), SESSION)]);
        assert_eq!(looked.work["job-0"], work, "{status}");
        assert_eq!(looked.waits.get("host-0").map(String::as_str).unwrap_or_default(), waits, "{status}");
    }
}

#[test]
fn test_hosts_are_found_by_what_pods_are() {
    for (by, host, expected) in [
        (HostKey::One, Host::default(), "one"),
        (HostKey::Ordinal, host(11), "11"),
        (HostKey::Node, Host { part: Some("node-1".to_owned()), ..Host::default() }, "node-1"),
    ] {
        assert_eq!(key(by, &host), expected);
    }
    assert_eq!(key_of(TargetKind::ReplicaSet), None);
}
