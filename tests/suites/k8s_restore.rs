//! The controller's restores against a real API server, where the test is the job controller and the kubelet.

use std::io::Write as _;
use std::net::TcpListener;

use serde_json::{Value, json};
use stash_proto::job::{
    ErrorCode, JobError, JobReport, JobSpec, JobTask, Outcome, PROGRESS_PORT, RestoreOutcome, RestoreSource, Unreadable,
};
use stash_tests::cluster::wait_until;
use stash_tests::shop::{PASSWORD, Shop, World, condition, report, said};

#[test]
fn test_controller_restores_as_stash_does() {
    let world = World::start();
    let controller = world.controller(&["--jitter=0s"]);
    a_claim_is_restored_from_its_beginning_to_its_end(&world);
    what_is_missing_or_not_possible_is_said(&world);
    rules_say_what_goes_where(&world);
    claims_are_made_from_templates(&world);
    claims_become_the_snapshot_itself(&world);
    workloads_are_restored_by_their_claims(&world);
    a_claim_that_one_pod_holds_is_refused(&world);
    what_takes_too_long_is_ended_and_the_hook_after_is_called(&world);
    a_pod_that_is_taken_away_is_followed_by_another(&world);
    another_namespace_needs_to_be_allowed(&world);
    let metrics = controller.metrics();
    assert!(metrics.contains("stash_restore_session_success{"), "{metrics}");
    controller.kill();
    let controller = world.controller(&["--jitter=0s"]);
    a_session_of_stash_is_let_go(&world);
    let log = controller.log();
    assert!(!log.contains(PASSWORD) && !log.contains("panic"), "{log}");
    assert!(controller.stop());
}

/// All that a restore reads: the Repository and its Secret.
fn source(shop: &Shop<'_>) {
    shop.secret(
        json!({"RESTIC_PASSWORD": PASSWORD, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "OTHER": "x"}),
    );
    shop.repository("http://s3.example:9000");
}

fn apply(shop: &Shop<'_>, name: &str, target: Value, more: Value) {
    let mut spec = json!({"repository": {"name": "repo"}, "target": target});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    shop.namespace.apply(json!({
        "apiVersion": "stash.appscode.com/v1beta1", "kind": "RestoreSession", "metadata": {"name": name}, "spec": spec
    }));
}

/// The claim that a shop has.
fn data(rules: Value) -> Value {
    json!({"ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data"}, "rules": rules})
}

fn wait_for(shop: &Shop<'_>, name: &str, phase: &str) -> Value {
    let what = format!("restoresession/{name}");
    wait_until(&format!("{what} to be {phase}"), || {
        let object = shop.namespace.get(&what);
        (object["status"]["phase"] == phase).then_some(object)
    })
}

/// What the Job of a host is told.
fn told(shop: &Shop<'_>, job: &Value) -> stash_proto::job::RestoreTask {
    let secret = wait_until("the Job's Secret", || {
        shop.list("secrets").into_iter().find(|secret| secret["metadata"]["name"] == job["metadata"]["name"])
    });
    assert_eq!(
        (&secret["immutable"], &secret["metadata"]["ownerReferences"][0]["uid"]),
        (&json!(true), &job["metadata"]["uid"])
    );
    let spec = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, secret["data"]["job.json"].as_str().unwrap());
    match JobSpec::parse(&spec.unwrap()).unwrap().task {
        JobTask::Restore(task) => task,
        other => panic!("{other:?}"),
    }
}

fn latest(host: &str, path: &str) -> RestoreSource {
    RestoreSource::Latest { host: host.to_owned(), path: path.to_owned() }
}

fn restored() -> String {
    let outcome = RestoreOutcome { restored: 3, restored_bytes: 7, ..RestoreOutcome::default() };
    JobReport { outcome: Outcome::Restore(outcome), ..report() }.to_message()
}

fn claim_of(job: &Value) -> &Value {
    let volumes = job["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let data = volumes.iter().find(|volume| volume["name"] == "stash-volume").unwrap();
    &data["persistentVolumeClaim"]["claimName"]
}

fn a_claim_is_restored_from_its_beginning_to_its_end(world: &World) {
    let shop = world.shop();
    source(&shop);
    shop.claim();
    let runtime = json!({"pod": {"podLabels": {"team": "a"}}, "container": {"nice": {"adjustment": 5}}});
    apply(&shop, "r", data(json!([{"paths": ["/stash-data"]}])), json!({"timeOut": "1h", "runtimeSettings": runtime}));
    let job = shop.wait_for_job("stash-restore-r-0");
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!((&job["spec"]["backoffLimit"], &pod["automountServiceAccountToken"]), (&json!(0), &json!(false)));
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["team"], "a");
    assert_eq!(job["metadata"]["labels"]["app.kubernetes.io/component"], "stash-restore");
    let owner = &job["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("RestoreSession"), &json!("r")));
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let volume = mounts.iter().find(|mount| mount["name"] == "stash-volume").unwrap();
    assert_eq!((&volume["mountPath"], &volume["readOnly"]), (&json!("/workload/stash-data"), &Value::Null));
    assert_eq!(claim_of(&job), "data");
    assert!(!job.to_string().contains(PASSWORD) && !job.to_string().contains("\"key\":\"OTHER"));
    let task = told(&shop, &job);
    assert_eq!((task.sources, task.nice), (vec![latest("host-0", "/stash-data")], Some(5)));
    assert_eq!((task.mounts, task.root.as_deref()), (vec!["/stash-data".to_owned()], Some("/workload")));

    let running = wait_for(&shop, "r", "Running");
    let all = [
        "RepositoryFound=True",
        "BackendSecretFound=True",
        "ValidationPassed=True",
        "RestoreTargetFound=True",
        "RestoreExecutorEnsured=True",
    ];
    assert_eq!(
        (said(&running["status"]), &running["status"]["totalHosts"]),
        (all.map(str::to_owned).to_vec(), &json!(1))
    );
    assert!(running["status"]["sessionDeadline"].is_string());
    how_far_it_is_is_asked_and_shown(&shop, &job);
    shop.end(&job, &restored(), 0);
    let done = wait_for(&shop, "r", "Succeeded");
    assert_eq!(done["status"]["stats"], json!([{"hostname": "host-0", "phase": "Succeeded", "duration": "1.5s"}]));
    assert_eq!(said(&done["status"])[5..], ["MetricsPushed=True"]);
    assert!(done["status"]["sessionDuration"].as_str().unwrap().ends_with('s'));
    let events = shop.namespace.run(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
    assert!(events.contains("Host Restore Succeeded"), "{events}");

    // What was not restored is named, and nothing is tried again. Another of the same target waits meanwhile.
    apply(&shop, "lossy", data(json!([{"snapshots": ["0a1b2c3d"]}])), json!({}));
    let job = shop.wait_for_job("stash-restore-lossy-0");
    wait_for(&shop, "lossy", "Running");
    apply(&shop, "next", data(json!([{"snapshots": ["latest"]}])), json!({}));
    let waits = shop.wait_for_condition("restoresession/next", "RestoreExecutorEnsured", "WaitingForRestore");
    assert_eq!(waits["status"], "Unknown");
    assert_eq!(told(&shop, &job).sources, [RestoreSource::Snapshot("0a1b2c3d".to_owned())]);
    let failed = Unreadable { count: 1, names: vec!["/stash-data/a: no room".to_owned()] };
    let outcome = Outcome::Restore(RestoreOutcome { failed, ..RestoreOutcome::default() });
    let error = JobError::new(ErrorCode::PartlyRestored, "1 entry was not restored");
    shop.end(&job, &JobReport { error: Some(error), outcome, ..report() }.to_message(), 3);
    let failed = wait_for(&shop, "lossy", "Failed");
    assert_eq!(failed["status"]["stats"][0]["error"], "1 entry was not restored; /stash-data/a: no room");
    shop.wait_for_job("stash-restore-next-0");
    // Another is no business of one that is done.
    shop.namespace.run(&["delete", "job", "stash-restore-r-0"]);
    assert_eq!(shop.namespace.get("restoresession/r")["status"], done["status"]);
}

/// The test is the pod that restores.
fn how_far_it_is_is_asked_and_shown(shop: &Shop<'_>, job: &Value) {
    let listener = TcpListener::bind(("127.0.0.1", PROGRESS_PORT)).unwrap();
    let answer = json!({"entries": 7, "bytes": 1 << 20, "ofBytes": 4 << 20, "secondsLeft": 61}).to_string();
    let asked = std::thread::spawn(move || listener.accept().unwrap().0.write_all(answer.as_bytes()).unwrap());
    let pod = shop.pod(job);
    let address = json!({"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]});
    shop.patch_status("pod", &pod, &address);
    wait_until("how far it is", || {
        let status = shop.namespace.get("restoresession/r")["status"].clone();
        (status["progress"] == "25% of 4.000 MiB, 1m1s left").then_some(())
    });
    asked.join().unwrap();
    let shown = shop.namespace.run(&["get", "restoresession", "r"]);
    assert!(shown.contains("PROGRESS") && shown.contains("25% of 4.000 MiB"), "{shown}");
}

fn what_is_missing_or_not_possible_is_said(world: &World) {
    let shop = world.shop();
    apply(&shop, "early", data(json!([{"paths": ["/stash-data"]}])), json!({}));
    let what = "restoresession/early";
    shop.wait_for_condition(what, "RepositoryFound", "RepositoryNotAvailable");
    shop.repository("http://s3.example:9000");
    shop.wait_for_condition(what, "BackendSecretFound", "BackendSecretNotAvailable");
    source(&shop);
    shop.wait_for_condition(what, "RestoreTargetFound", "TargetNotAvailable");
    assert_eq!(shop.namespace.get(what)["status"]["phase"], "Pending");
    shop.claim();
    let job = shop.wait_for_job("stash-restore-early-0");
    shop.end(&job, &restored(), 0);
    wait_for(&shop, "early", "Succeeded");

    for (name, more, expected) in [
        ("attach", json!({"strategy": "Attach"}), "spec.strategy: Attach makes claims"),
        ("storage", json!({"driver": "VolumeSnapshotter"}), "spec.target.volumeClaimTemplates: the driver"),
        ("task", json!({"task": {"name": "postgres-restore-14.0"}}), "spec.task.name: the task postgres-restore-14.0"),
        ("space", json!({"interimVolumeTemplate": {}}), "spec.interimVolumeTemplate"),
    ] {
        apply(&shop, name, data(json!([{"paths": ["/stash-data"]}])), more);
        let refused = wait_for(&shop, name, "Invalid");
        let said = condition(&refused, "ValidationPassed").unwrap();
        assert!(said["message"].as_str().unwrap().starts_with(expected), "{said}");
    }
    let mut flags = data(json!([{"paths": ["/stash-data"]}]));
    flags["args"] = json!(["--target=/etc"]);
    apply(&shop, "flags", flags, json!({}));
    let said = condition(&wait_for(&shop, "flags", "Invalid"), "ValidationPassed").unwrap();
    assert!(said["message"].as_str().unwrap().starts_with("spec.target.args: --target: "), "{said}");
    assert_eq!(shop.list("jobs").len(), 1);
}

fn rules_say_what_goes_where(world: &World) {
    let shop = world.shop();
    source(&shop);
    shop.claim();
    // The deprecated place of rules, and a host of another name.
    let mut target = data(json!([]));
    target["alias"] = json!("main");
    target["volumeMounts"] = json!([{"name": "any", "mountPath": "/source/data"}]);
    target["args"] = json!(["--tag=nightly"]);
    let rules = json!([
        {"paths": ["/caught"]},
        {"targetHosts": ["main"], "sourceHost": "host-3", "paths": ["/source/data"], "exclude": ["*.tmp"]}
    ]);
    apply(&shop, "named", target, json!({ "rules": rules }));
    let job = shop.wait_for_job("stash-restore-named-0");
    let task = told(&shop, &job);
    assert_eq!((task.sources, task.exclude), (vec![latest("host-3", "/source/data")], vec!["*.tmp".to_owned()]));
    assert_eq!((task.mounts, task.args), (vec!["/source/data".to_owned()], vec!["--tag=nightly".to_owned()]));
    shop.end(&job, &restored(), 0);
    assert_eq!(wait_for(&shop, "named", "Succeeded")["status"]["stats"][0]["hostname"], "main");
    // A host of which no rule is.
    apply(&shop, "nothing", data(json!([{"targetHosts": ["host-9"], "paths": ["/stash-data"]}])), json!({}));
    let done = wait_for(&shop, "nothing", "Succeeded");
    let said = condition(&done, "RestoreExecutorEnsured").unwrap();
    assert!(said["message"].as_str().unwrap().contains("No rule is for host-0"), "{said}");
    assert_eq!(shop.list("jobs").len(), 1);
}

fn claims_are_made_from_templates(world: &World) {
    let shop = world.shop();
    source(&shop);
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let template = |name: &str| json!({"metadata": {"name": name, "labels": {"app": "db"}}, "spec": claim});
    let target = json!({
        "replicas": 2, "volumeClaimTemplates": [template("store-db-${POD_ORDINAL}")],
        "volumeMounts": [{"name": "store-db", "mountPath": "/store"}],
        "rules": [{"targetHosts": ["host-1"], "sourceHost": "host-0", "paths": ["/store"]}, {"paths": ["/store"]}]
    });
    apply(&shop, "set", target.clone(), json!({}));
    for ordinal in 0..2 {
        let job = shop.wait_for_job(&format!("stash-restore-set-0-{ordinal}"));
        assert_eq!(claim_of(&job), &json!(format!("store-db-{ordinal}")));
        assert_eq!(told(&shop, &job).sources, [latest("host-0", "/store")]);
        let made = shop.namespace.get(&format!("pvc/store-db-{ordinal}"));
        assert_eq!(
            (&made["metadata"]["labels"]["app"], &made["metadata"]["ownerReferences"]),
            (&json!("db"), &Value::Null)
        );
        shop.end(&job, &restored(), 0);
    }
    let done = wait_for(&shop, "set", "Succeeded");
    assert_eq!(done["status"]["totalHosts"], 2);
    assert!(condition(&done, "RestoreTargetFound").is_none());
    // Claims stay; and what is there already is somebody's.
    shop.namespace.run(&["delete", "restoresession", "set"]);
    apply(&shop, "again", target, json!({}));
    let failed = wait_for(&shop, "again", "Failed");
    let errors: Vec<&str> =
        failed["status"]["stats"].as_array().unwrap().iter().map(|stats| stats["error"].as_str().unwrap()).collect();
    assert!(errors.len() == 2 && errors[0].contains("store-db-0 exists already"), "{errors:?}");
    // Of one without replicas the name is the host's own.
    let one = json!({"volumeClaimTemplates": [template("copy")], "volumeMounts": [{"name": "copy", "mountPath": "/store"}],
        "rules": [{"snapshots": ["latest"]}]});
    apply(&shop, "one", one, json!({}));
    let job = shop.wait_for_job("stash-restore-one-0");
    assert_eq!(claim_of(&job), "copy");
}

/// The strategies `Attach` and `Overlay`, where the test is the provisioner and the binder.
fn claims_become_the_snapshot_itself(world: &World) {
    let shop = world.shop();
    source(&shop);
    for (name, digit, host, day) in
        [("repo-old", "a", "host-0", 1), ("repo-new", "b", "host-0", 2), ("repo-other", "c", "host-1", 3)]
    {
        shop.namespace.apply(json!({
            "apiVersion": "repositories.stash.appscode.com/v1alpha1", "kind": "Snapshot",
            "metadata": {"name": format!("{name}-{}", digit.repeat(8)), "labels": {"repository": "repo"}},
            "status": {
                "tree": "t", "paths": ["/store"], "hostname": host, "username": "root", "uid": 0, "gid": 0, "repository": "repo",
                "snapshotID": digit.repeat(64), "snapshotTime": format!("2026-01-{day:02}T00:00:00Z"),
            }
        }));
    }
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let template = |name: &str| json!({"metadata": {"name": name}, "spec": claim});
    let target = json!({
        "replicas": 2, "volumeClaimTemplates": [template("store-db-${POD_ORDINAL}")],
        "volumeMounts": [{"name": "store-db", "mountPath": "/store"}], "rules": [{"paths": ["/store"]}]
    });
    apply(&shop, "attach", target, json!({"strategy": "Attach"}));
    for (ordinal, snapshot) in [(0, "repo-new-bbbbbbbb"), (1, "repo-other-cccccccc")] {
        let name = format!("store-db-{ordinal}");
        let made = wait_until("the claim", || shop.list("pvc").into_iter().find(|pvc| pvc["metadata"]["name"] == name));
        let spec = &made["spec"];
        assert_eq!(
            (&spec["storageClassName"], &spec["accessModes"], &spec["dataSourceRef"]["name"]),
            (&json!("stash-snapshot"), &json!(["ReadOnlyMany"]), &json!(snapshot))
        );
        let annotations = &made["metadata"]["annotations"];
        assert_eq!(annotations["fs.stash.appscode.com/path"], "/store");
        assert_eq!(annotations["fs.stash.appscode.com/mode"], "ro");
    }
    // Why a claim waits is said, as the provisioner says it.
    let waits = shop.namespace.get("pvc/store-db-0");
    let time = "2026-01-01T00:00:00.000000Z";
    shop.namespace.apply(json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "store-db-0.1"}, "eventTime": time,
        "action": "Provision", "reason": "ProvisioningFailed", "type": "Warning", "note": "the Repository is closed",
        "reportingController": "fs.stash.appscode.com", "reportingInstance": "test",
        "regarding": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "store-db-0",
            "namespace": shop.namespace.name(), "uid": waits["metadata"]["uid"]}
    }));
    wait_until("what the claim waits for", || {
        let said = condition(&shop.namespace.get("restoresession/attach"), "RestoreExecutorEnsured")?;
        let message = said["message"].as_str()?;
        message.contains("PersistentVolumeClaim store-db-0 is not bound: the Repository is closed.").then_some(())
    });
    for ordinal in 0..2 {
        shop.patch_status("pvc", &format!("store-db-{ordinal}"), &json!({"phase": "Bound"}));
    }
    let done = wait_for(&shop, "attach", "Succeeded");
    assert_eq!(done["status"]["totalHosts"], 2);
    let stats = done["status"]["stats"].as_array().unwrap();
    assert!(stats.iter().all(|stats| stats["phase"] == "Succeeded" && stats["duration"].is_string()), "{stats:?}");
    assert!(shop.list("jobs").is_empty());

    // One that can be written, and that nobody binds.
    let one = json!({"volumeClaimTemplates": [template("clone")], "rules": [{"snapshots": ["aaaa"]}]});
    let overlay = json!({"strategy": "Overlay", "overlay": {"scratchSize": "2Gi"}, "timeOut": "9s"});
    apply(&shop, "overlay", one, overlay);
    let failed = wait_for(&shop, "overlay", "Failed");
    let error = failed["status"]["stats"][0]["error"].as_str().unwrap();
    assert!(error.ends_with("within 9s. PersistentVolumeClaim clone is not bound yet."), "{error}");
    let made = shop.namespace.get("pvc/clone");
    assert_eq!(made["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    assert_eq!(made["spec"]["dataSourceRef"]["name"], "repo-old-aaaaaaaa");
    let annotations = &made["metadata"]["annotations"];
    assert_eq!(annotations["fs.stash.appscode.com/mode"], "overlay");
    assert_eq!(annotations["fs.stash.appscode.com/scratchSize"], "2Gi");

    // Of a snapshot that there is not.
    let none = json!({"volumeClaimTemplates": [template("none")], "rules": [{"paths": ["/nothing"]}]});
    apply(&shop, "none", none, json!({"strategy": "Attach"}));
    let said = condition(&wait_for(&shop, "none", "Failed"), "RestoreExecutorEnsured").unwrap();
    let message = said["message"].as_str().unwrap();
    assert!(
        message.contains("PersistentVolumeClaim none: there is no snapshot of /nothing of the host host-0"),
        "{said}"
    );
}

fn workloads_are_restored_by_their_claims(world: &World) {
    let shop = world.shop();
    source(&shop);
    let volumes = json!([{"name": "scratch", "emptyDir": {}}]);
    let template = json!({
        "metadata": {"labels": {"app": "db"}},
        "spec": {"containers": [{"name": "db", "image": "registry.example/db:1"}], "volumes": volumes}
    });
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    shop.namespace.apply(json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {"replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": template,
            "volumeClaimTemplates": [{"metadata": {"name": "store"}, "spec": claim}]}
    }));
    for ordinal in 0..2 {
        let metadata = json!({"name": format!("store-db-{ordinal}")});
        shop.namespace
            .apply(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim}));
    }
    // A pod of it runs: its volume is on that node.
    let mounted = json!([{"name": "store", "persistentVolumeClaim": {"claimName": "store-db-1"}}]);
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db-1"},
        "spec": {"nodeName": "node-7", "containers": [{"name": "db", "image": "registry.example/db:1"}], "volumes": mounted}
    }));
    let target = json!({
        "ref": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db"}, "rules": [{"paths": ["/store"]}],
        "volumeMounts": [{"name": "store", "mountPath": "/store"}]
    });
    apply(&shop, "db", target, json!({}));
    let jobs = [0, 1].map(|ordinal| shop.wait_for_job(&format!("stash-restore-db-0-{ordinal}")));
    assert_eq!((claim_of(&jobs[0]), claim_of(&jobs[1])), (&json!("store-db-0"), &json!("store-db-1")));
    let affinity = |job: &Value| job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"].clone();
    let terms = &affinity(&jobs[1])["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    assert_eq!(terms[0]["matchFields"], json!([{"key": "metadata.name", "operator": "In", "values": ["node-7"]}]));
    assert!(affinity(&jobs[0]).is_null());
    shop.end(&jobs[0], &restored(), 0);
    shop.end(&jobs[1], "", 137);
    let failed = wait_for(&shop, "db", "Failed");
    let stats = failed["status"]["stats"].as_array().unwrap();
    let of = |host: &str| stats.iter().find(|stats| stats["hostname"] == host).unwrap();
    assert_eq!(of("host-0")["phase"], "Succeeded");
    assert_eq!(of("host-1")["error"], "the Job ended without a report: Error, exit code 137");
}

fn a_claim_that_one_pod_holds_is_refused(world: &World) {
    let shop = world.shop();
    source(&shop);
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "pv-1"}
    }));
    world.kubectl().apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv-1"},
        "spec": {"accessModes": ["ReadWriteOncePod"], "capacity": {"storage": "1Gi"}, "csi": {"driver": "d", "volumeHandle": "h"}}
    }));
    let mounted = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "holder"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "registry.example/c:1"}], "volumes": mounted}
    }));
    apply(&shop, "held", data(json!([{"paths": ["/stash-data"]}])), json!({}));
    let said = condition(&wait_for(&shop, "held", "Failed"), "RestoreExecutorEnsured").unwrap();
    let message = said["message"].as_str().unwrap();
    assert!(message.contains("ReadWriteOncePod") && message.contains("/stash-data"), "{said}");
    assert!(shop.list("jobs").is_empty());
}

fn what_takes_too_long_is_ended_and_the_hook_after_is_called(world: &World) {
    let shop = world.shop();
    source(&shop);
    shop.claim();
    // Nobody listens there, and that is said.
    let hook = json!({"tcpSocket": {"host": "nobody.invalid", "port": 9}});
    let hooks = json!({ "postRestore": hook });
    apply(&shop, "slow", data(json!([{"paths": ["/stash-data"]}])), json!({"timeOut": "9s", "hooks": hooks}));
    shop.wait_for_job("stash-restore-slow-0");
    let failed = wait_for(&shop, "slow", "Failed");
    assert_eq!(condition(&failed, "DeadlineExceeded").unwrap()["message"], "Failed to complete restore within 9s.");
    let after = condition(&failed, "PostRestoreHookExecutionSucceeded").unwrap();
    assert_eq!((&after["status"], &after["reason"]), (&json!("False"), &json!("FailedToExecutePostRestoreHook")));
    wait_until("the Job to go", || {
        shop.list("jobs").iter().all(|job| job["metadata"]["name"] != "stash-restore-slow-0").then_some(())
    });
    // One that fails before keeps all from being restored.
    let hooks = json!({"preRestore": hook});
    apply(&shop, "before", data(json!([{"paths": ["/stash-data"]}])), json!({ "hooks": hooks }));
    let failed = wait_for(&shop, "before", "Failed");
    assert_eq!(condition(&failed, "PreRestoreHookExecutionSucceeded").unwrap()["status"], "False");
    assert!(condition(&failed, "RestoreExecutorEnsured").is_none());
}

fn a_pod_that_is_taken_away_is_followed_by_another(world: &World) {
    let shop = world.shop();
    source(&shop);
    shop.claim();
    apply(&shop, "moved", data(json!([{"paths": ["/stash-data"]}])), json!({}));
    let job = shop.wait_for_job("stash-restore-moved-0");
    let first = shop.pod(&job);
    let error = JobError::new(ErrorCode::Disrupted, "the work was asked to stop");
    let message = JobReport { error: Some(error), ..report() }.to_message();
    let state = json!({"terminated": {"exitCode": 1, "message": message, "reason": "Error"}});
    let time = "2026-01-01T00:00:00Z";
    let taken = json!([{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "lastTransitionTime": time}]);
    let statuses =
        json!([{"name": "stash", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
    shop.patch_status("pod", &first, &json!({"phase": "Failed", "conditions": taken, "containerStatuses": statuses}));
    // The job controller makes another.
    shop.namespace.run(&["delete", "pod", &first, "--force", "--grace-period=0"]);
    assert_eq!(wait_for(&shop, "moved", "Running")["status"]["stats"], Value::Null);
    shop.end(&job, &restored(), 0);
    wait_for(&shop, "moved", "Succeeded");
}

fn another_namespace_needs_to_be_allowed(world: &World) {
    let (store, shop) = (world.shop(), world.shop());
    source(&store);
    shop.claim();
    let repository = json!({"repository": {"name": "repo", "namespace": store.namespace.name()}});
    apply(&shop, "elsewhere", data(json!([{"paths": ["/stash-data"]}])), repository);
    let refused = condition(&wait_for(&shop, "elsewhere", "Invalid"), "ValidationPassed").unwrap();
    assert!(refused["message"].as_str().unwrap().contains("spec.usagePolicy"), "{refused}");
    let patch = json!({"spec": {"usagePolicy": {"allowedNamespaces": {"from": "All"}}}}).to_string();
    store.namespace.run(&["patch", "repository", "repo", "--type=merge", "-p", &patch]);
    let job = shop.wait_for_job("stash-restore-elsewhere-0");
    assert_eq!(told(&shop, &job).mounts, ["/stash-data"]);
    shop.end(&job, &restored(), 0);
    wait_for(&shop, "elsewhere", "Succeeded");
}

fn a_session_of_stash_is_let_go(world: &World) {
    let shop = world.shop();
    source(&shop);
    shop.claim();
    apply(&shop, "old", data(json!([{"paths": ["/stash-data"]}])), json!({}));
    shop.wait_for_job("stash-restore-old-0");
    let patch = json!({"metadata": {"finalizers": ["stash.appscode.com"]}}).to_string();
    shop.namespace.run(&["patch", "restoresession/old", "--type=merge", "-p", &patch]);
    shop.namespace.run(&["delete", "restoresession/old", "--wait=false"]);
    shop.namespace.wait("restoresession/old", "delete");
}
