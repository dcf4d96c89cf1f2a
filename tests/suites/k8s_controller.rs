//! The controller against a real API server. The test is the job controller and the kubelet: it makes the pods of Jobs, and ends
//! them with a report.

mod kills;
mod node_limit;
mod several;
mod volume_snapshots;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use stash_proto::job::{ErrorCode, JobError, JobReport, JobSpec};
use stash_tests::cluster::wait_until;
use stash_tests::controller::{Controller, IMAGE};
use stash_tests::shop::{PASSWORD, SELDOM, World, backed_up, condition, maintained, report, said};

#[test]
fn test_controller_keeps_the_api_of_stash() {
    let world = World::start();
    let controller = world.controller(&["--jitter=0s"]);
    what_is_missing_is_said_within_seconds(&world);
    a_backup_from_its_beginning_to_its_end(&world);
    sessions_begin_at_their_time(&world);
    one_session_runs_and_others_are_skipped(&world);
    what_fails_is_tried_again(&world);
    what_takes_too_long_is_ended(&world);
    a_backup_is_disrupted(&world);
    workloads_are_backed_up_by_their_claims(&world);
    volume_snapshots::volume_snapshots_are_taken_and_kept_by_policy(&world);
    objects_of_stash_are_let_go(&world);
    let metrics = controller.metrics();
    assert!(
        metrics.contains("stash_controller_reconciliations_total{kind=\"BackupSession\",outcome=\"ok\"}"),
        "{metrics}"
    );
    let controller = a_controller_that_is_killed_goes_on(&world, controller);
    let log = controller.log();
    assert!(!log.contains(PASSWORD) && !log.contains("panic"), "{log}");
    assert!(controller.stop());
}

fn what_is_missing_is_said_within_seconds(world: &World) {
    let shop = world.shop();
    shop.configuration(SELDOM, json!({}));
    let configuration = "backupconfiguration/nightly";
    shop.wait_for_condition(configuration, "RepositoryFound", "RepositoryNotAvailable");
    shop.repository("http://127.0.0.1:9000");
    shop.wait_for_condition(configuration, "BackendSecretFound", "BackendSecretNotAvailable");
    let refused = shop.wait_for_condition("repository/repo", "ValidationPassed", "ResourceValidationFailed");
    assert!(refused["message"].as_str().unwrap().contains("127.0.0.1"), "{refused}");
    shop.secret(json!({"WRONG": "x"}));
    let said = shop.wait_for_condition(configuration, "BackendSecretFound", "BackendSecretKeyMissing");
    assert!(said["message"].as_str().unwrap().ends_with("lacks RESTIC_PASSWORD."), "{said}");
    shop.wait_for_condition("repository/repo", "BackendSecretFound", "BackendSecretKeyMissing");
    shop.secret(json!({"RESTIC_PASSWORD": PASSWORD}));
    shop.wait_for_condition("repository/repo", "BackendSecretFound", "BackendSecretAvailable");
    shop.wait_for_condition(configuration, "ValidationPassed", "ResourceValidationFailed");
    shop.repository("http://s3.example:9000");
    shop.wait_for_condition(configuration, "ValidationPassed", "ResourceValidationPassed");
    shop.wait_for_condition(configuration, "BackupTargetFound", "TargetNotAvailable");
    shop.claim();
    shop.namespace.wait(configuration, "jsonpath={.status.phase}=Ready");
    let object = shop.namespace.get(configuration);
    assert_eq!(
        said_of(&object),
        [
            "RepositoryFound=True",
            "BackendSecretFound=True",
            "ValidationPassed=True",
            "BackupTargetFound=True",
            "CronJobCreated=True"
        ]
    );
    assert_eq!(object["status"]["observedGeneration"], object["metadata"]["generation"]);
    let next: Timestamp = object["status"]["nextBackupTime"].as_str().unwrap().parse().unwrap();
    assert!(next > Timestamp::now());
    let reference = json!([{
        "apiGroup": "stash.appscode.com", "kind": "BackupConfiguration", "namespace": shop.namespace.name(), "name": "nightly"
    }]);
    assert_eq!(shop.namespace.get("repository/repo")["status"]["references"], reference);
    // A configuration that asks for what cannot be done says which field.
    shop.configuration(SELDOM, json!({"interimVolumeTemplate": {"metadata": {"name": "x"}}}));
    let refused = shop.wait_for_condition(configuration, "ValidationPassed", "ResourceValidationFailed");
    assert!(refused["message"].as_str().unwrap().starts_with("spec.interimVolumeTemplate"), "{refused}");
    let events = shop.namespace.run(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
    for reason in ["RepositoryNotAvailable", "BackendSecretKeyMissing", "ResourceValidationFailed"] {
        assert!(events.contains(reason), "{events}");
    }
}

fn said_of(object: &Value) -> Vec<String> {
    said(&object["status"])
}

fn a_backup_from_its_beginning_to_its_end(world: &World) {
    let shop = world.shop();
    shop.ready(json!({"runtimeSettings": {"pod": {"podLabels": {"team": "a"}}}, "timeOut": "2h"}));
    shop.trigger("by-hand");
    let job = shop.wait_for_job("stash-backup-by-hand-0");
    let spec = &job["spec"]["template"]["spec"];
    assert_eq!((&job["spec"]["backoffLimit"], &spec["restartPolicy"]), (&json!(0), &json!("Never")));
    assert_eq!(
        (&spec["automountServiceAccountToken"], &spec["containers"][0]["image"]),
        (&json!(false), &json!(IMAGE))
    );
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["team"], "a");
    assert_eq!(job["metadata"]["ownerReferences"][0]["name"], "by-hand");
    assert!(!job.to_string().contains(PASSWORD) && !job.to_string().contains("\"key\":\"OTHER"));
    let mounts = spec["containers"][0]["volumeMounts"].as_array().unwrap();
    let data = mounts.iter().find(|mount| mount["name"] == "stash-volume").unwrap();
    assert_eq!((&data["mountPath"], &data["readOnly"]), (&json!("/workload/stash-data"), &json!(true)));
    assert_eq!(spec["securityContext"], json!({}));

    let secret = wait_until("the Job's Secret", || {
        shop.list("secrets").into_iter().find(|s| s["metadata"]["name"] == job["metadata"]["name"])
    });
    assert_eq!(
        (&secret["immutable"], &secret["metadata"]["ownerReferences"][0]["uid"]),
        (&json!(true), &job["metadata"]["uid"])
    );
    let spec = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, secret["data"]["job.json"].as_str().unwrap())
        .unwrap();
    let spec = JobSpec::parse(&spec).unwrap();
    assert_eq!(spec.repository.address, "s3:http://s3.example:9000/b/shop");
    let keys: Vec<&String> = secret["data"].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["job.json", "secret.AWS_ACCESS_KEY_ID", "secret.AWS_SECRET_ACCESS_KEY", "secret.RESTIC_PASSWORD"]
    );

    let running = shop.wait_for_phase("by-hand", "Running");
    let target = &running["status"]["targets"][0];
    assert_eq!((&target["totalHosts"], &target["phase"]), (&json!(1), &json!("Running")));
    assert_eq!(target["preBackupActions"], json!(["InitializeBackendRepository"]));
    let actions = json!(["ApplyRetentionPolicy", "VerifyRepositoryIntegrity", "SendRepositoryMetrics"]);
    assert_eq!(target["postBackupActions"], actions);
    assert_eq!(said(target), ["BackupExecutorEnsured=True"]);
    assert!(running["status"]["sessionDeadline"].is_string());

    let done = shop.play("by-hand");
    let status = &done["status"];
    assert_eq!(
        said(status),
        [
            "BackendRepositoryInitialized=True",
            "RetentionPolicyApplied=True",
            "RepositoryIntegrityVerified=True",
            "RepositoryMetricsPushed=True",
            "BackupHistoryCleaned=True",
            "MetricsPushed=True"
        ]
    );
    let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data", "namespace": shop.namespace.name()});
    assert_eq!((&status["targets"][0]["ref"], &status["targets"][0]["phase"]), (&reference, &json!("Succeeded")));
    assert_eq!(
        status["targets"][0]["stats"],
        json!([{"hostname": "host-0", "phase": "Succeeded", "duration": "1.5s", "snapshots": [{
            "name": "ab".repeat(32), "path": "/stash-data", "totalSize": "5.200 MiB", "uploaded": "1.000 MiB", "processingTime": "1:01",
            "fileStats": {"totalFiles": 9, "newFiles": 2, "modifiedFiles": 3, "unmodifiedFiles": 4}
        }]}])
    );
    assert!(status["sessionDuration"].as_str().unwrap().ends_with('s'));

    let repository = shop.namespace.get("repository/repo");
    let figures = &repository["status"];
    assert_eq!((&figures["integrity"], &figures["totalSize"]), (&json!(true), &json!("1.500 MiB")));
    assert_eq!((&figures["snapshotCount"], &figures["snapshotsRemovedOnLastCleanup"]), (&json!(5), &json!(1)));
    for time in ["firstBackupTime", "lastBackupTime"] {
        assert_eq!(figures[time], done["metadata"]["creationTimestamp"], "{time}");
    }
    // What the Repository's own reconciler says stands beside it. Whether the store is known to be away yet is a matter of seconds.
    assert_eq!(said(figures)[..2], ["ValidationPassed=True", "BackendSecretFound=True"]);
}

fn sessions_begin_at_their_time(world: &World) {
    let shop = world.shop();
    shop.ready(json!({}));
    shop.configuration("@every 2s", json!({"retryConfig": {"maxRetry": 3, "delay": "1h"}}));
    let session = wait_until("a session", || shop.list("backupsessions").into_iter().next());
    let name = session["metadata"]["name"].as_str().unwrap();
    let due: i64 = name.strip_prefix("nightly-").unwrap().parse().unwrap();
    let made: Timestamp = session["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
    assert!((0..=10).contains(&(made.as_second() - due)), "due {due}, made {made}");
    assert_eq!(session["spec"]["retryLeft"], 3);
    assert_eq!(session["metadata"]["ownerReferences"][0]["name"], "nightly");
    assert_eq!(session["metadata"]["ownerReferences"][0]["controller"], true);
    let labels = &session["metadata"]["labels"];
    for (label, value) in [
        ("stash.appscode.com/invoker-type", "BackupConfiguration"),
        ("stash.appscode.com/invoker-name", "nightly"),
        ("stash.appscode.com/target-kind", "PersistentVolumeClaim"),
        ("stash.appscode.com/target-name", "data"),
        ("app.kubernetes.io/component", "stash-backup"),
        ("app.kubernetes.io/managed-by", "stash.appscode.com"),
    ] {
        assert_eq!(labels[label], value, "{label}");
    }
    // While one runs, others are made and skipped; when the schedule rests, none is.
    wait_until("a session that is skipped", || {
        shop.list("backupsessions").into_iter().find(|session| session["status"]["phase"] == "Skipped")
    });
    shop.configuration("@every 2s", json!({"paused": true}));
    wait_until("the schedule to rest", || {
        shop.namespace.get("backupconfiguration/nightly")["status"]["nextBackupTime"].is_null().then_some(())
    });
    let count = shop.list("backupsessions").len();
    std::thread::park_timeout(Duration::from_secs(5));
    assert!(shop.list("backupsessions").len() <= count);
    // A session that is asked for runs all the same.
    let running =
        shop.list("backupsessions").into_iter().find(|session| session["status"]["phase"] == "Running").unwrap();
    shop.play(running["metadata"]["name"].as_str().unwrap());
    shop.trigger("while-paused");
    shop.play("while-paused");
}

fn one_session_runs_and_others_are_skipped(world: &World) {
    let shop = world.shop();
    shop.ready(json!({}));
    shop.trigger("first");
    shop.wait_for_phase("first", "Running");
    shop.trigger("second");
    let skipped = shop.wait_for_phase("second", "Skipped");
    assert_eq!(said_of(&skipped), ["BackupSkipped=True", "BackupHistoryCleaned=True"]);
    assert_eq!(condition(&skipped, "BackupSkipped").unwrap()["reason"], "SkippedTakingNewBackup");
    shop.play("first");
    // The history keeps one: the newest that ran.
    shop.trigger("third");
    shop.play("third");
    wait_until("the history to be cleaned", || {
        let names: Vec<Value> =
            shop.list("backupsessions").iter().map(|session| session["metadata"]["name"].clone()).collect();
        (names == ["third"]).then_some(())
    });
    // Without its Secret the configuration is not ready, and sessions are skipped.
    shop.namespace.run(&["delete", "secret", "s3"]);
    shop.namespace.wait("backupconfiguration/nightly", "jsonpath={.status.phase}=NotReady");
    shop.trigger("fourth");
    shop.wait_for_phase("fourth", "Skipped");
}

fn what_fails_is_tried_again(world: &World) {
    let shop = world.shop();
    shop.ready(json!({"retryConfig": {"maxRetry": 1, "delay": "2s"}, "backupHistoryLimit": 5}));
    shop.namespace.apply(json!({
        "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupSession", "metadata": {"name": "fails"},
        "spec": {"invoker": {"apiGroup": "stash.appscode.com", "kind": "BackupConfiguration", "name": "nightly"}, "retryLeft": 1}
    }));
    let job = shop.wait_for_job("stash-backup-fails-0");
    let error = JobError::new(ErrorCode::Denied, "the store refuses the credentials");
    shop.end(&job, &JobReport { error: Some(error), ..report() }.to_message(), 1);
    let failed = shop.wait_for_phase("fails", "Failed");
    assert_eq!(failed["status"]["targets"][0]["stats"][0]["error"], "the store refuses the credentials");
    assert_eq!(condition(&failed, "BackendRepositoryInitialized").unwrap()["status"], "False");
    let again = wait_until("the second try", || {
        shop.list("backupsessions").into_iter().find(|session| session["metadata"]["name"] != "fails")
    });
    assert_eq!(again["spec"]["retryLeft"], 0);
    let failed = shop.session("fails");
    assert!(failed["status"]["nextRetry"].is_string());
    shop.namespace.wait("backupsession/fails", "jsonpath={.status.retried}=true");
    shop.play(again["metadata"]["name"].as_str().unwrap());
}

fn what_takes_too_long_is_ended(world: &World) {
    let shop = world.shop();
    shop.ready(json!({"timeOut": "9s"}));
    shop.trigger("slow");
    shop.wait_for_job("stash-backup-slow-0");
    let failed = shop.wait_for_phase("slow", "Failed");
    let exceeded = condition(&failed, "DeadlineExceeded").unwrap();
    assert_eq!(exceeded["message"], "Failed to complete backup within 9s.");
    wait_until("the Job to go", || {
        let jobs = shop.list("jobs");
        jobs.iter().all(|job| job["metadata"]["name"] != "stash-backup-slow-0").then_some(())
    });
}

fn a_backup_is_disrupted(world: &World) {
    let shop = world.shop();
    shop.ready(json!({}));
    shop.trigger("gone");
    shop.wait_for_job("stash-backup-gone-0");
    shop.wait_for_phase("gone", "Running");
    shop.namespace.run(&["delete", "job", "stash-backup-gone-0", "--cascade=background"]);
    let failed = shop.wait_for_phase("gone", "Failed");
    assert_eq!(said(&failed["status"]["targets"][0]), ["BackupExecutorEnsured=True", "BackupDisrupted=True"]);

    shop.trigger("silent");
    let job = shop.wait_for_job("stash-backup-silent-0");
    shop.end(&job, "", 137);
    let failed = shop.wait_for_phase("silent", "Failed");
    let error = &failed["status"]["targets"][0]["stats"][0]["error"];
    assert_eq!(error, "the Job ended without a report: Error, exit code 137");
}

fn workloads_are_backed_up_by_their_claims(world: &World) {
    let shop = world.shop();
    shop.ready(json!({}));
    let volumes = json!([
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "scratch", "emptyDir": {}}
    ]);
    let template = json!({
        "metadata": {"labels": {"app": "db"}},
        "spec": {"containers": [{"name": "db", "image": "registry.example/db:1"}], "volumes": volumes}
    });
    let claim = json!({
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}
    });
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
    let configure = |name: &str, kind: &str, target: &str, mounts: Value| {
        let reference = json!({"apiVersion": "apps/v1", "kind": kind, "name": target});
        shop.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupConfiguration", "metadata": {"name": name},
            "spec": {"repository": {"name": "repo"}, "retentionPolicy": {"name": "keep", "keepLast": 5, "prune": true},
                "target": {"alias": "main", "ref": reference, "paths": ["/store"], "volumeMounts": mounts}}
        }));
        shop.namespace.wait(&format!("backupconfiguration/{name}"), "jsonpath={.status.phase}=Ready");
        shop.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupSession", "metadata": {"name": format!("{name}-1")},
            "spec": {"invoker": {"apiGroup": "stash.appscode.com", "kind": "BackupConfiguration", "name": name}}
        }));
    };
    configure("db", "StatefulSet", "db", json!([{"name": "store", "mountPath": "/store"}]));
    let first = shop.wait_for_job("stash-backup-db-1-0-0");
    // Nobody has seen the repository: the first host makes it, and the other waits.
    let waiting =
        shop.wait_for_condition("backupsession/db-1", "BackendRepositoryInitialized", "InitializingBackendRepository");
    assert_eq!(waiting["status"], "Unknown");
    shop.end(&first, &backed_up(), 0);
    let second = shop.wait_for_job("stash-backup-db-1-0-1");
    let pod = &second["spec"]["template"]["spec"];
    let claimed = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "stash-volume").unwrap();
    assert_eq!(claimed["persistentVolumeClaim"]["claimName"], "store-db-1");
    let terms = &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    assert_eq!(terms[0]["matchFields"], json!([{"key": "metadata.name", "operator": "In", "values": ["node-7"]}]));
    assert!(first["spec"]["template"]["spec"]["affinity"].is_null());
    assert_eq!(shop.session("db-1")["status"]["phase"], "Running");
    shop.end(&second, &backed_up(), 0);
    let job = shop.wait_for_job("stash-maintenance-db-1");
    shop.end(&job, &maintained(), 0);
    let done = shop.wait_for_phase("db-1", "Succeeded");
    assert_eq!(done["status"]["targets"][0]["totalHosts"], 2);

    // A volume that cannot be read yet is named.
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "db"}}, "template": template}
    });
    shop.namespace.apply(deployment);
    configure("web", "Deployment", "web", json!([{"name": "scratch", "mountPath": "/store"}]));
    let failed = shop.wait_for_phase("web-1", "Failed");
    let said = failed["status"]["targets"][0]["conditions"][0].clone();
    assert_eq!((&said["type"], &said["status"]), (&json!("BackupExecutorEnsured"), &json!("False")));
    assert!(
        said["message"]
            .as_str()
            .unwrap()
            .contains("volume scratch of Deployment web can only be read beside a pod that runs"),
        "{said}"
    );
}

fn objects_of_stash_are_let_go(world: &World) {
    let shop = world.shop();
    shop.ready(json!({}));
    let hold = |what: &str, finalizer: &str| {
        let patch = json!({"metadata": {"finalizers": [finalizer]}}).to_string();
        shop.namespace.run(&["patch", what, "--type=merge", "-p", &patch]);
        shop.namespace.run(&["delete", what, "--wait=false"]);
        shop.namespace.wait(what, "delete");
    };
    hold("backupconfiguration/nightly", "stash.appscode.com");
    wait_until("the reference to go", || {
        let references = shop.namespace.get("repository/repo")["status"]["references"].clone();
        references.as_array().is_none_or(Vec::is_empty).then_some(())
    });
    hold("repository/repo", "stash");
}

fn a_controller_that_is_killed_goes_on(world: &World, controller: Controller) -> Controller {
    let shop = world.shop();
    shop.ready(json!({}));
    shop.trigger("killed");
    shop.wait_for_job("stash-backup-killed-0");
    controller.kill();
    let job = shop.wait_for_job("stash-backup-killed-0");
    shop.end(&job, &backed_up(), 0);
    let controller = world.controller(&["--jitter=0s"]);
    shop.wait_for_job("stash-maintenance-killed");
    controller.kill();
    let controller = world.controller(&["--jitter=0s"]);
    let job = shop.wait_for_job("stash-maintenance-killed");
    shop.end(&job, &maintained(), 0);
    let done = shop.wait_for_phase("killed", "Succeeded");
    assert_eq!(done["status"]["targets"][0]["stats"].as_array().unwrap().len(), 1);
    assert_eq!(shop.list("jobs").len(), 2);
    assert_eq!(shop.list("backupsessions").len(), 1);
    controller
}
