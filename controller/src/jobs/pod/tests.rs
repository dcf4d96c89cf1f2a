use serde_json::{Value, json};

use super::*;

fn made(purpose: Purpose, runtime: Value, beside: Option<Beside>) -> Value {
    let claim = Source::Claim("data".to_owned());
    made_with(purpose, runtime, beside, claim, "shop")
}

fn made_with(purpose: Purpose, runtime: Value, beside: Option<Beside>, source: Source, namespace: &str) -> Value {
    let runtime: RuntimeSettings = serde_json::from_value(runtime).unwrap();
    let temp_dir: EmptyDirSettings = serde_json::from_value(json!({"medium": "Memory", "sizeLimit": "1Gi"})).unwrap();
    let request = JobRequest {
        name: "stash-backup-x-0".to_owned(),
        namespace: namespace.to_owned(),
        owner: OwnerReference { name: "x".to_owned(), uid: "u".to_owned(), ..OwnerReference::default() },
        session_namespace: Some("shop".to_owned()),
        repository: "shop/r".to_owned(),
        purpose,
        secret_keys: vec!["RESTIC_PASSWORD"],
        mounts: vec![Mount { source, path: "/stash-data".to_owned(), sub_path: None }],
        local: None,
        shown: None,
        beside,
        runtime: Some(&runtime),
        temp_dir: Some(&temp_dir),
    };
    serde_json::to_value(job(&request, &Settings { image: "registry.example/stash-fs:1".to_owned() })).unwrap()
}

fn beside() -> Beside {
    Beside {
        pod: "web-0".to_owned(),
        uid: "p".to_owned(),
        node: "node-1".to_owned(),
        tolerations: serde_json::from_value(json!([{"key": "gpu", "operator": "Exists"}])).unwrap(),
        se_linux: serde_json::from_value(json!({"level": "s0:c1"})).unwrap(),
    }
}

#[test]
fn test_a_backup_reads_and_can_do_nothing_else() {
    let made = made(Purpose::Backup, json!({}), None);
    assert_eq!(made["spec"]["backoffLimit"], 0);
    let pod = &made["spec"]["template"]["spec"];
    assert_eq!((&pod["restartPolicy"], &pod["automountServiceAccountToken"]), (&json!("Never"), &json!(false)));
    let container = &pod["containers"][0];
    assert_eq!(
        container["command"],
        json!([
            "stash-fs",
            "job",
            "--spec",
            "/var/run/stash-fs/job/job.json",
            "--secret",
            "/var/run/stash-fs/job/secret",
            "--report",
            "/dev/termination-log"
        ])
    );
    assert_eq!(container["securityContext"]["capabilities"], json!({"add": ["DAC_READ_SEARCH"], "drop": ["ALL"]}));
    assert_eq!(
        container["volumeMounts"][2],
        json!({"name": "stash-volume", "mountPath": "/workload/stash-data", "readOnly": true})
    );
    assert_eq!(pod["volumes"][2], json!({"name": "stash-volume", "persistentVolumeClaim": {"claimName": "data"}}));
    assert_eq!(
        pod["volumes"][0]["secret"]["items"],
        json!([{"key": "job.json", "path": "job.json"}, {"key": "secret.RESTIC_PASSWORD", "path": "secret/RESTIC_PASSWORD"}])
    );
    assert_eq!(pod["volumes"][1]["emptyDir"], json!({"medium": "Memory", "sizeLimit": "1Gi"}));
    assert_eq!(pod["affinity"], Value::Null);
    assert_eq!(made["metadata"]["annotations"]["stash.appscode.com/repository"], "shop/r");
}

#[test]
fn test_what_the_user_says_is_applied_within_limits() {
    let runtime = json!({
        "pod": {
            "podLabels": {"team": "a", "app.kubernetes.io/managed-by": "me"}, "podAnnotations": {"note": "b"},
            "nodeSelector": {"disk": "fast"}, "serviceAccountName": "sa", "automountServiceAccountToken": true,
            "securityContext": {"fsGroup": 1000, "runAsUser": 5}, "imagePullSecrets": [{"name": "pull"}],
            "tolerations": [{"operator": "Exists"}], "priorityClassName": "low",
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["1"]}]},
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["2"]}]}
            ]}}}
        },
        "container": {
            "resources": {"requests": {"cpu": "1"}}, "env": [
                {"name": "A", "value": "b"}, {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
            ],
            "envFrom": [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}],
            "securityContext": {"runAsUser": 1000}
        }
    });
    let made = made(Purpose::Upkeep, runtime, Some(beside()));
    let template = &made["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["team"], "a");
    assert_eq!(template["metadata"]["labels"]["app.kubernetes.io/managed-by"], "stash.appscode.com");
    let pod = &template["spec"];
    assert_eq!(pod["securityContext"], json!({"runAsUser": 5, "seLinuxOptions": {"level": "s0:c1"}}));
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}, {"key": "gpu", "operator": "Exists"}]));
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!((&pod["serviceAccountName"], &pod["priorityClassName"]), (&json!("sa"), &json!("low")));
    let terms =
        pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].clone();
    let node = json!([{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]);
    assert_eq!((&terms[0]["matchFields"], &terms[1]["matchFields"]), (&node, &node));
    assert_eq!(terms[1]["matchExpressions"][0]["key"], "zone");
    let container = &pod["containers"][0];
    assert_eq!(container["resources"], json!({"requests": {"cpu": "1"}}));
    assert_eq!(container["securityContext"], json!({"runAsUser": 1000}));
    assert_eq!(container["env"], json!([{"name": "TMPDIR", "value": "/stash-tmp"}, {"name": "A", "value": "b"}]));
    assert_eq!(container["envFrom"], json!([{"configMapRef": {"name": "c"}}]));
}

#[test]
fn test_a_local_repository_is_a_volume_of_the_pod() {
    let backend = json!({"mountPath": "/safe", "subPath": "a", "persistentVolumeClaim": {"claimName": "store"}});
    let local = LocalRepository::of(&serde_json::from_value(backend).unwrap()).unwrap();
    assert_eq!(
        serde_json::to_value(&local.volume).unwrap(),
        json!({"name": "stash-local", "persistentVolumeClaim": {"claimName": "store"}})
    );
    assert_eq!((local.mount.mount_path.as_str(), local.mount.sub_path.as_deref()), ("/safe", Some("a")));
    let odd = json!({"mountPath": "/safe", "hostPath": 7});
    assert!(LocalRepository::of(&serde_json::from_value(odd).unwrap()).is_err());
}

#[test]
fn test_a_pod_that_serves_a_repository_reads_it_and_can_do_nothing_else() {
    let backend = json!({"mountPath": "/safe", "subPath": "a", "persistentVolumeClaim": {"claimName": "store"}});
    let local = LocalRepository::of(&serde_json::from_value(backend).unwrap()).unwrap().read_only();
    let runtime: RuntimeSettings = serde_json::from_value(json!({
        "pod": {"nodeSelector": {"disk": "here"}},
        "container": {
            "resources": {"requests": {"memory": "8Gi"}}, "env": [{"name": "A", "value": "b"}],
            "livenessProbe": {"exec": {"command": ["x"]}}, "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}
        }
    }))
    .unwrap();
    let request = JobRequest {
        name: "stash-access-r-1".to_owned(),
        namespace: "shop".to_owned(),
        owner: OwnerReference { kind: "Repository".to_owned(), uid: "u".to_owned(), ..OwnerReference::default() },
        session_namespace: None,
        repository: "shop/r".to_owned(),
        purpose: Purpose::Access,
        secret_keys: vec!["client-ca.crt", "tls.crt", "tls.key"],
        mounts: Vec::new(),
        local: Some(local),
        shown: None,
        beside: None,
        runtime: Some(&runtime),
        temp_dir: None,
    };
    let made = serde_json::to_value(job(&request, &Settings { image: "i".to_owned() })).unwrap();
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u");
    let limits = ["activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"].map(|limit| &made["spec"][limit]);
    assert_eq!(limits, [&json!(3600), &json!(0), &json!(300)]);
    let pod = &made["spec"]["template"]["spec"];
    assert_eq!((&pod["nodeSelector"], &pod["automountServiceAccountToken"]), (&json!({"disk": "here"}), &json!(false)));
    let container = &pod["containers"][0];
    let words: Vec<&str> = container["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(words[..2], ["stash-fs", "access"]);
    assert_eq!(words[words.len() - 2..], ["--", "/safe"]);
    let of = |option: &str| words[words.iter().position(|word| *word == option).unwrap() + 1];
    let folder = "/var/run/stash-fs/job/secret";
    assert_eq!(of("--tls-cert"), format!("{folder}/tls.crt"));
    assert_eq!(of("--tls-key"), format!("{folder}/tls.key"));
    assert_eq!(of("--client-ca"), format!("{folder}/client-ca.crt"));
    assert_eq!((of("--listen"), of("--max-idle")), ("[::]:8443", "1m"));
    assert_eq!(container["ports"][0]["containerPort"], 8443);
    assert_eq!(
        container["volumeMounts"][2],
        json!({"name": "stash-local", "mountPath": "/safe", "subPath": "a", "readOnly": true})
    );
    // The claim itself is as it is in the Jobs that back up.
    assert_eq!(pod["volumes"][2], json!({"name": "stash-local", "persistentVolumeClaim": {"claimName": "store"}}));
    let context = &container["securityContext"];
    assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(
        (&context["readOnlyRootFilesystem"], &context["allowPrivilegeEscalation"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(container["resources"]["limits"], json!({"memory": "128Mi"}));
    assert_eq!(container["env"], json!([{"name": "TMPDIR", "value": "/stash-tmp"}]));
    assert!(container["livenessProbe"].is_null() && container["lifecycle"].is_null());
}

#[test]
fn test_a_job_that_reads_the_node_is_ours_alone() {
    let runtime = json!({
        "pod": {"serviceAccountName": "sa", "podLabels": {"team": "a"}, "tolerations": [{"key": "x"}], "nodeName": "other"},
        "container": {
            "resources": {"requests": {"cpu": "1"}}, "env": [{"name": "LD_PRELOAD", "value": "/workload/x"}],
            "securityContext": {"privileged": true}
        }
    });
    let folder = Source::Folder("/var/lib/kubelet/pods/p/volumes/kubernetes.io~empty-dir/v".to_owned());
    let made = made_with(Purpose::Backup, runtime, Some(beside()), folder, "stash");
    let metadata = &made["metadata"];
    assert!(metadata["ownerReferences"].is_null());
    assert_eq!(metadata["annotations"]["stash.appscode.com/session"], "shop/x");
    assert_eq!(metadata["annotations"]["stash.appscode.com/session-uid"], "u");
    assert_eq!(metadata["annotations"]["stash.appscode.com/beside"], "web-0/p");
    assert_eq!(metadata["annotations"]["stash.appscode.com/claims"], Value::Null);
    assert_eq!(metadata["annotations"]["stash.appscode.com/node"], "node-1");
    assert_eq!(made["spec"]["ttlSecondsAfterFinished"], 86_400);
    let template = &made["spec"]["template"];
    let pod = &template["spec"];
    assert!(template["metadata"]["labels"]["team"].is_null());
    assert!(pod["serviceAccountName"].is_null() && pod["nodeName"].is_null());
    assert_eq!(pod["tolerations"][0]["key"], "x");
    let container = &pod["containers"][0];
    assert_eq!(container["resources"], json!({"requests": {"cpu": "1"}}));
    assert_eq!(container["env"], json!([{"name": "TMPDIR", "value": "/stash-tmp"}]));
    assert!(container["securityContext"]["privileged"].is_null());
    let volume = &pod["volumes"][2];
    assert_eq!(volume["hostPath"], json!({"path": "/var/lib/kubelet/pods/p/volumes/kubernetes.io~empty-dir/v"}));
    assert_eq!(container["volumeMounts"][2]["mountPath"], "/workload/stash-data");
    assert_eq!(container["volumeMounts"][2]["readOnly"], true);
}

#[test]
fn test_a_restore_writes_to_its_volumes_and_goes_on_in_another_pod() {
    let made = made(Purpose::Restore, json!({}), Some(beside()));
    let pod = &made["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["volumeMounts"][2], json!({"name": "stash-volume", "mountPath": "/workload/stash-data"}));
    assert_eq!(pod["volumes"][2], json!({"name": "stash-volume", "persistentVolumeClaim": {"claimName": "data"}}));
    let security = &container["securityContext"];
    assert_eq!((&security["runAsUser"], &security["readOnlyRootFilesystem"]), (&json!(0), &json!(true)));
    let added = json!(["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"]);
    assert_eq!(security["capabilities"], json!({"add": added, "drop": ["ALL"]}));
    let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
    let policy = json!({"rules": [{"action": "Ignore", "onPodConditions": disrupted}]});
    assert_eq!((&made["spec"]["backoffLimit"], &made["spec"]["podFailurePolicy"]), (&json!(0), &policy));
    assert_eq!(made["spec"]["ttlSecondsAfterFinished"], 86_400);
    let annotations = &made["metadata"]["annotations"];
    assert_eq!(annotations["stash.appscode.com/restore-session"], "shop/x");
    assert_eq!(annotations["stash.appscode.com/session"], Value::Null);
    assert_eq!(made["metadata"]["labels"]["app.kubernetes.io/component"], "stash-restore");
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u");
    let nodes = &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(nodes["nodeSelectorTerms"][0]["matchFields"][0]["values"], json!(["node-1"]));
}

#[test]
fn test_a_restore_that_mounts_its_snapshots_has_no_credentials() {
    let snapshot = |id: &str| shown::Snapshot { id: id.repeat(32), paths: vec!["/data".to_owned()] };
    let request = JobRequest {
        name: "stash-restore-x-0".to_owned(),
        namespace: "shop".to_owned(),
        owner: OwnerReference { name: "x".to_owned(), uid: "u".to_owned(), ..OwnerReference::default() },
        session_namespace: Some("shop".to_owned()),
        repository: "shop/r".to_owned(),
        purpose: Purpose::Restore,
        secret_keys: Vec::new(),
        mounts: vec![Mount { source: Source::Claim("data".to_owned()), path: "/data".to_owned(), sub_path: None }],
        local: None,
        shown: Some(Shown {
            repository: "r".to_owned(),
            secret: "keys".to_owned(),
            snapshots: vec![snapshot("0a"), snapshot("1b")],
        }),
        beside: None,
        runtime: None,
        temp_dir: None,
    };
    let job = job(&request, &Settings { image: "i".to_owned() });
    assert_eq!(shown::of_job(&job).len(), 2);
    let made = serde_json::to_value(job).unwrap();
    let pod = &made["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(
        container["command"],
        json!([
            "stash-fs",
            "job",
            "--spec",
            "/var/run/stash-fs/job/job.json",
            "--report",
            "/dev/termination-log",
            "--progress",
            "[::]:8444"
        ])
    );
    let names: Vec<&str> = pod["volumes"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["stash-job", "stash-tmp-dir", "stash-volume", "stash-snapshot-0", "stash-snapshot-1"]);
    assert_eq!(pod["volumes"][0]["secret"]["items"], json!([{"key": "job.json", "path": "job.json"}]));
    let mounts: Vec<(&str, bool)> = container["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| (mount["mountPath"].as_str().unwrap(), mount["readOnly"] == true))
        .collect();
    let expected = [
        ("/var/run/stash-fs/job", true),
        ("/stash-tmp", false),
        ("/workload/data", false),
        ("/snapshot/0", true),
        ("/snapshot/1", true),
    ];
    assert_eq!(mounts, expected);
}
