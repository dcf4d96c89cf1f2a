//! Hooks of the controller against a real API server; the servers that they ask are those of the test.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use serde_json::{Value, json};
use stash_tests::cluster::{BUSYBOX, Cluster, only_controller, wait_until};
use stash_tests::controller::Controller;
use stash_tests::servers::{Answer, Recorded, Recorder};
use stash_tests::shop::{SELDOM, Shop, World, backed_up, condition, maintained, said};

/// What a hook of the guides posts.
const BODY: &str = r#"{{- $msg := dict "type" "mrkdwn" "text" (printf "Backup of %s/%s: %s." .Namespace .Target.Name .Status.Phase) -}}
{"blocks": [{"type": "section", "text": {{ toJson $msg }}}]}
"#;
/// A part of a path that nobody but the server may see.
const SECRET: &str = "T00SECRET";

#[test]
fn test_hooks() {
    let world = World::start();
    let arguments = ["--jitter=0s", "--allow-address=127.0.0.1"];
    let controller = world.controller(&arguments);
    what_cannot_be_called_is_refused(&world);
    a_server_is_told_of_a_backup(&world);
    a_hook_before_that_fails_prevents_the_backup(&world);
    a_hook_acts_on_a_pod_that_mounts_the_claim(&world);
    a_hook_that_hangs_holds_up_nobody_else(&world);
    let controller = a_hook_of_a_controller_that_is_killed_is_called_again(&world, controller, &arguments);
    let metrics = controller.metrics();
    assert!(metrics.contains("stash_controller_hooks_total{hook=\"preBackup\",outcome=\"ok\"} 1"), "{metrics}");
    let log = controller.log();
    assert!(!log.contains(SECRET) && !log.contains("panic"), "{log}");
    assert!(controller.stop());
}

fn post(recorder: &Recorder, more: Value) -> Value {
    let mut action = json!({
        "host": "127.0.0.1", "port": recorder.address().port(), "path": format!("/services/{SECRET}"), "body": BODY,
        "httpHeaders": [{"name": "X-Team", "value": "storage"}]
    });
    for (key, value) in more.as_object().unwrap() {
        action[key] = value.clone();
    }
    json!({ "httpPost": action })
}

fn with_policy(mut hook: Value, policy: &str) -> Value {
    hook["executionPolicy"] = json!(policy);
    hook
}

fn wait_for_request(recorder: &Recorder, what: &str) -> Recorded {
    wait_until(what, || recorder.take().into_iter().next())
}

/// A server that takes connections and never answers.
fn silent() -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn accept(listener: &TcpListener) -> TcpStream {
    wait_until("a connection", || listener.accept().ok()).0
}

fn of_target(session: &Value, aspect: &str) -> Value {
    condition(&json!({"status": session["status"]["targets"][0]}), aspect).unwrap_or_default()
}

fn what_cannot_be_called_is_refused(world: &World) {
    let shop = world.shop();
    shop.ready(json!({}));
    for (hook, expected) in [
        (
            json!({"tcpSocket": {"host": "127.0.0.2", "port": 80}}),
            "spec.hooks.preBackup: tcpSocket.host: the address 127.0.0.2",
        ),
        (
            json!({"httpGet": {"host": "kubernetes.default.svc", "port": 443}}),
            "spec.hooks.preBackup: httpGet.host: the address",
        ),
        (
            json!({"exec": {"command": ["sh", "-c", "{{ env \"HOME\" }}"]}}),
            "exec.command[2]: template: the function env",
        ),
    ] {
        shop.configuration(SELDOM, json!({"hooks": {"preBackup": hook}}));
        wait_until(expected, || {
            let said = condition(&shop.namespace.get("backupconfiguration/nightly"), "ValidationPassed")?;
            said["message"].as_str()?.contains(expected).then_some(())
        });
    }
}

fn a_server_is_told_of_a_backup(world: &World) {
    let shop = world.shop();
    let recorder = Recorder::start(|_| Answer::new(200, "thank you"));
    let hooks = json!({"preBackup": post(&recorder, json!({})), "postBackup": with_policy(post(&recorder, json!({})), "OnSuccess")});
    shop.ready(json!({ "hooks": hooks }));
    shop.trigger("told");
    let before = wait_for_request(&recorder, "the hook before the backup");
    assert_eq!((before.method.as_str(), before.path.as_str()), ("POST", "/services/T00SECRET"));
    assert_eq!((before.header("x-team"), before.header("content-type")), (Some("storage"), Some("application/json")));
    assert_eq!(before.host, recorder.address().to_string());
    let job = shop.wait_for_job("stash-backup-told-0");
    assert_eq!(recorder.take().len(), 0);
    shop.end(&job, &backed_up(), 0);
    let job = shop.wait_for_job("stash-maintenance-told");
    assert_eq!(recorder.take().len(), 0, "it is told when the outcome is known");
    shop.end(&job, &maintained(), 0);
    let after = wait_for_request(&recorder, "the hook after the backup");
    let body: Value = serde_json::from_slice(&after.body).unwrap();
    let text = format!("Backup of {}/data: Succeeded.", shop.namespace.name());
    assert_eq!(body["blocks"][0]["text"], json!({"type": "mrkdwn", "text": text}));
    let done = shop.wait_for_phase("told", "Succeeded");
    assert_eq!(
        said(&done["status"]["targets"][0]),
        ["PreBackupHookExecutionSucceeded=True", "BackupExecutorEnsured=True", "PostBackupHookExecutionSucceeded=True"]
    );
    assert!(!done.to_string().contains(SECRET), "{done}");
    assert_eq!(recorder.take().len(), 0, "each is called once");
}

fn a_hook_before_that_fails_prevents_the_backup(world: &World) {
    let shop = world.shop();
    let recorder = Recorder::start(|request| {
        let code = if request.header("x-team") == Some("storage") { 503 } else { 204 };
        Answer::new(code, SECRET)
    });
    let post_hook = with_policy(
        post(&recorder, json!({"httpHeaders": [], "form": [{"key": "failed", "values": ["yes", "a&b"]}]})),
        "OnFailure",
    );
    shop.ready(json!({"hooks": {"preBackup": post(&recorder, json!({})), "postBackup": post_hook}}));
    shop.trigger("prevented");
    let failed = shop.wait_for_phase("prevented", "Failed");
    let pre = of_target(&failed, "PreBackupHookExecutionSucceeded");
    assert_eq!((&pre["status"], &pre["reason"]), (&json!("False"), &json!("FailedToExecutePreBackupHook")));
    let expected = format!("Failed to execute preBackup hook. Reason: {} answered 503.", recorder.address());
    assert_eq!(pre["message"], json!(expected));
    assert_eq!(of_target(&failed, "PostBackupHookExecutionSucceeded")["status"], "True");
    assert!(shop.list("jobs").is_empty());
    let sent = recorder.take();
    assert_eq!((sent.len(), sent[1].body.as_slice()), (2, &b"failed=yes&failed=a%26b"[..]));
    assert!(!failed.to_string().contains(SECRET), "{failed}");
    let events = shop.namespace.run(&["get", "events", "-o", "json"]);
    assert!(events.contains("FailedToExecutePreBackupHook") && !events.contains(SECRET), "{events}");
}

fn a_hook_acts_on_a_pod_that_mounts_the_claim(world: &World) {
    let shop = world.shop();
    let recorder = Recorder::start(|_| Answer::new(200, ""));
    // Without a pod the hook has nowhere to go.
    let hook = json!({"httpGet": {"port": "web", "path": "freeze"}, "containerName": "db"});
    shop.ready(json!({"hooks": {"preBackup": hook, "postBackup": hook}, "backupHistoryLimit": 5}));
    shop.trigger("alone");
    let failed = shop.wait_for_phase("alone", "Failed");
    let pre = of_target(&failed, "PreBackupHookExecutionSucceeded");
    assert!(pre["message"].as_str().unwrap().contains("no pod runs that mounts PersistentVolumeClaim data"), "{pre}");

    let containers = json!([
        {"name": "side", "image": "registry.example/side:1"},
        {"name": "db", "image": "registry.example/db:1", "ports": [{"name": "web", "containerPort": recorder.address().port()}]}
    ]);
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db"},
        "spec": {"nodeName": "node-7", "containers": containers, "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}
    }));
    let address = json!({"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]});
    shop.patch_status("pod", "db", &address);
    shop.trigger("beside");
    assert_eq!(wait_for_request(&recorder, "the hook before the backup").path, "/freeze");
    let job = shop.wait_for_job("stash-backup-beside-0");
    shop.end(&job, &backed_up(), 0);
    // What was stopped goes on before the repository is looked after.
    wait_for_request(&recorder, "the hook after the backup");
    let job = shop.wait_for_job("stash-maintenance-beside");
    shop.end(&job, &maintained(), 0);
    let done = shop.wait_for_phase("beside", "Succeeded");
    let pre = of_target(&done, "PreBackupHookExecutionSucceeded");
    assert_eq!(pre["message"], "Successfully executed preBackup hook. In pod db.");
}

fn a_hook_that_hangs_holds_up_nobody_else(world: &World) {
    let shop = world.shop();
    let silent = silent();
    let hook = json!({"httpGet": {"host": "127.0.0.1", "port": silent.local_addr().unwrap().port()}});
    let open = json!({"tcpSocket": {"host": "127.0.0.1", "port": silent.local_addr().unwrap().port()}});
    shop.ready(json!({"hooks": {"preBackup": hook, "postBackup": open}}));
    shop.namespace.run(&["annotate", "backupconfiguration", "nightly", "stash.appscode.com/hook-timeout=15s"]);
    shop.trigger("hangs");
    let connection = accept(&silent);
    let other = world.shop();
    other.ready(json!({}));
    other.trigger("meanwhile");
    other.play("meanwhile");
    let waits = of_target(&shop.session("hangs"), "PreBackupHookExecutionSucceeded");
    let known = [json!("Unknown"), json!("False")];
    assert!(known.contains(&waits["status"]), "{waits}");
    let failed = shop.wait_for_phase("hangs", "Failed");
    let pre = of_target(&failed, "PreBackupHookExecutionSucceeded");
    assert_eq!(pre["message"], "Failed to execute preBackup hook. Reason: it did not end within 15s.");
    assert_eq!(of_target(&failed, "PostBackupHookExecutionSucceeded")["status"], "True");
    drop(connection);
}

fn a_hook_of_a_controller_that_is_killed_is_called_again(
    world: &World,
    controller: Controller,
    arguments: &[&str],
) -> Controller {
    let shop = world.shop();
    let silent = silent();
    let hook = json!({"httpGet": {"host": "127.0.0.1", "port": silent.local_addr().unwrap().port()}});
    shop.ready(json!({"hooks": {"preBackup": hook}}));
    shop.trigger("killed");
    let first = accept(&silent);
    controller.kill();
    let waits = of_target(&shop.session("killed"), "PreBackupHookExecutionSucceeded");
    assert_eq!((&waits["status"], &waits["reason"]), (&json!("Unknown"), &json!("HookStarted")));
    drop(first);
    let controller = world.controller(arguments);
    let mut second = accept(&silent);
    let mut request = [0; 1024];
    assert!(std::io::Read::read(&mut second, &mut request).unwrap() > 0);
    std::io::Write::write_all(&mut second, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    let done = shop.play("killed");
    let pre = of_target(&done, "PreBackupHookExecutionSucceeded");
    let expected = "Successfully executed preBackup hook. A controller that was stopped may have executed it before.";
    assert_eq!(pre["message"], expected);
    controller
}

/// Needs a kubelet, and so the whole cluster. Nobody can pull the image of the Job: the session runs into its deadline, and the hook after
/// the backup is called all the same.
#[test]
fn test_commands_of_hooks_run_in_the_target() {
    let _alone = only_controller();
    let cluster = Cluster::start();
    for definition in stash_crds::definitions() {
        cluster.kubectl().apply(&serde_json::to_value(definition).unwrap());
    }
    cluster.kubectl().wait_for_definitions();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("controller.log");
    let controller = Controller::start(cluster.kubectl().kubeconfig(), &log, &["--jitter=0s"]);
    let shop = Shop { namespace: cluster.namespace() };
    shop.claim();
    let container = |name: &str| json!({"name": name, "image": BUSYBOX, "command": ["sleep", "3600"], "volumeMounts": [{"name": "v", "mountPath": "/data"}]});
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db"},
        "spec": {"containers": [container("side"), container("db")], "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}
    }));
    shop.namespace.wait("pod/db", "condition=Ready");
    let shell =
        |script: &str, container: &str| json!({"exec": {"command": ["sh", "-c", script]}, "containerName": container});
    let pre = shell("echo {{ .Name }} > /tmp/before; echo T00SECRET", "db");
    let post = shell("echo {{ .Status.Phase }} > /tmp/after; echo T00SECRET >&2; exit 3", "side");
    shop.ready(json!({"timeOut": "20s", "hooks": {"preBackup": pre, "postBackup": post}}));
    shop.trigger("commanded");
    let failed = shop.wait_for_phase("commanded", "Failed");
    let pre = of_target(&failed, "PreBackupHookExecutionSucceeded");
    assert_eq!(pre["message"], "Successfully executed preBackup hook. In pod db.");
    let post = of_target(&failed, "PostBackupHookExecutionSucceeded");
    let expected = "Failed to execute postBackup hook. Reason: in pod db: the command ended with exit code 3.";
    assert_eq!(post["message"], expected);
    let read = |container: &str, file: &str| shop.namespace.run(&["exec", "db", "-c", container, "--", "cat", file]);
    assert_eq!(read("db", "/tmp/before").trim(), "commanded");
    assert_eq!(read("side", "/tmp/after").trim(), "Failed");
    assert!(!failed.to_string().contains(SECRET) && !controller.log().contains(SECRET));

    // A command that takes too long is left behind, and said to be.
    let slow = shell("sleep 600", "db");
    shop.configuration(SELDOM, json!({"hooks": {"preBackup": slow}}));
    shop.namespace.run(&["annotate", "backupconfiguration", "nightly", "stash.appscode.com/hook-timeout=3s"]);
    shop.namespace.wait("backupconfiguration/nightly", "jsonpath={.status.phase}=Ready");
    shop.trigger("slow");
    let failed = shop.wait_for_phase("slow", "Failed");
    let pre = of_target(&failed, "PreBackupHookExecutionSucceeded");
    let expected = "Failed to execute preBackup hook. Reason: it did not end within 3s; the command may still run.";
    assert_eq!(pre["message"], expected);
    assert!(controller.stop());
}
