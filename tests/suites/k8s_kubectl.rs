//! `kubectl stash` against a real API server and a repository that restic wrote. What needs a node's pods is in the suites of the cluster
//! (`k8s_backup::volumes`); here the test plays what a node says.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stash_csi::names::SnapshotId;
use stash_kubectl::pod::{Wanted, pod};
use stash_tests::cluster::{ApiServer, Kubectl, Namespace, wait_until};
use stash_tests::controller::kubeconfig_of;
use stash_tests::mounted::{clean, mounted_device, sibling};
use stash_tests::restic::Restic;
use stash_tests::servers::RcloneServer;

use crate::cli::outcome;
use crate::k8s_csi::{repository, server_with_definitions};

/// Its Roles are those of the accounts here.
const DOCUMENT: &str = include_str!("../../docs/kubectl.md");
const CHART: &str = include_str!("../../deploy/charts/stash-fs/templates/user-roles.yaml");

/// A call with the rights of a kubeconfig, and a cache of its own.
fn call(kubeconfig: &Path, namespace: &Namespace<'_>, arguments: &[&str]) -> Command {
    let mut command = clean(Command::new(sibling("kubectl-stash")));
    command.arg("--kubeconfig").arg(kubeconfig).args(["-n", namespace.name()]).args(arguments);
    // None of them is for the program.
    command.env("RESTIC_REPOSITORY", "/nonexistent").env("RESTIC_PASSWORD", "wrong").env("RESTIC_HOST", "none");
    command.env("XDG_CACHE_HOME", kubeconfig.with_file_name("cache"));
    command
}

/// Gives an account of `namespace` rules of a Role; returns how it is reached.
fn account(kubectl: &Kubectl, namespace: &Namespace<'_>, name: &str, rules: &Value) -> PathBuf {
    namespace.run(&["create", "serviceaccount", name]);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules
    });
    namespace.apply(role);
    let whose = format!("--serviceaccount={}:{name}", namespace.name());
    namespace.run(&["create", "rolebinding", name, &format!("--role={name}"), &whose]);
    let user = format!("--as=system:serviceaccount:{}:{name}", namespace.name());
    let (rule, text) = (&rules[0], |value: &Value| value[0].as_str().unwrap().to_owned());
    let resource = format!("{}.{}", text(&rule["resources"]), text(&rule["apiGroups"]));
    wait_until("the account's rights", || {
        kubectl.try_run(&["auth", "can-i", &text(&rule["verbs"]), &resource, "-n", namespace.name(), &user], "").ok()
    });
    kubeconfig_of(kubectl, namespace.name(), name)
}

/// The rules of the Role that stands in the document under `heading`.
fn documented(heading: &str) -> Value {
    let text = DOCUMENT.split_once(heading).unwrap_or_else(|| panic!("docs/kubectl.md has no {heading}")).1;
    let block = text.split_once("```yaml\n").unwrap().1.split_once("```").unwrap().0;
    serde_saphyr::from_str::<Value>(block).unwrap()["rules"].clone()
}

/// A repository with a directory, a file of all bytes, and a name that is odd.
fn stored() -> (Restic, RcloneServer, Vec<u8>, String) {
    let restic = Restic::init();
    let data = restic.scratch().join("data");
    fs::create_dir_all(data.join("sub dir")).unwrap();
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    fs::write(data.join("bytes"), &bytes).unwrap();
    fs::write(data.join("sub dir/file"), "content\n").unwrap();
    fs::set_permissions(data.join("sub dir/file"), fs::Permissions::from_mode(0o640)).unwrap();
    restic.backup([data.as_os_str(), "--host".as_ref(), "host-0".as_ref()]);
    let store = RcloneServer::start(&restic.path(), None);
    (restic, store, bytes, data.display().to_string())
}

fn end(mut child: Child, signal: Signal) -> (i32, String) {
    kill_process(Pid::from_child(&child), signal).unwrap();
    let status = wait_until("the program to end", || child.try_wait().unwrap());
    let mut said = String::new();
    child.stderr.take().expect("it is a pipe").read_to_string(&mut said).unwrap();
    (status.code().unwrap_or(-1), said)
}

#[test]
fn test_the_pod_is_one_that_restricted_pod_security_takes() {
    let server = ApiServer::start();
    let namespace = server.namespace();
    let level = "pod-security.kubernetes.io/enforce=restricted";
    server.kubectl().run(&["label", "namespace", namespace.name(), level]);
    let id = SnapshotId::parse(&"0a".repeat(32)).unwrap();
    let made = pod(&Wanted {
        name: "stash-browse-1",
        repository: "repo",
        secret: "keys",
        snapshot: &id,
        image: "busybox",
        lifetime: Duration::from_secs(60),
    });
    let mut object = serde_json::to_value(&made).unwrap();
    let create = |object: &Value| {
        let words = ["create", "-n", namespace.name(), "--dry-run=server", "--validate=strict", "-f", "-"];
        server.kubectl().try_run(&words, &object.to_string())
    };
    create(&object).unwrap();
    object["spec"]["containers"][0]["securityContext"]["capabilities"] = json!({});
    let refused = create(&object).unwrap_err();
    assert!(refused.contains("violates PodSecurity"), "{refused}");
}

#[test]
fn test_a_snapshot_is_read_here_to_the_byte() {
    let server = server_with_definitions();
    let namespace = server.namespace();
    let (restic, store, bytes, data) = stored();
    repository(&namespace, &restic, &store, Value::Null);
    let id = restic.snapshots()[0]["id"].as_str().unwrap().to_owned();
    let object = format!("repo-{}", &id[..8]);
    let kubeconfig = account(server.kubectl(), &namespace, "local", &documented("### With `--local`"));
    let run = |arguments: &[&str]| {
        let output = call(&kubeconfig, &namespace, arguments).output().unwrap();
        (output.status.code().unwrap(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    let local = ["--local", "--allow-address", "127.0.0.1"];

    let prefix = format!("repo/{}", &id[..6]);
    for snapshot in ["repo/latest", &object, &prefix, &format!("repo/{id}")] {
        let (code, listed, said) = run(&[&["ls", snapshot, &data], &local[..]].concat());
        let listed = String::from_utf8(listed).unwrap();
        assert_eq!((code, said.as_str(), listed.lines().count()), (0, "", 2), "{snapshot}: {listed}");
        assert!(listed.contains("bytes") && listed.contains("sub dir") && !listed.contains("file"), "{listed}");
    }
    let file = format!("{data}/bytes");
    let (code, read, said) = run(&[&["cat", &object, &file], &local[..]].concat());
    assert_eq!((code, said.as_str()), (0, ""));
    assert!(read == bytes, "{} bytes of {}", read.len(), bytes.len());
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("new").display().to_string();
    let (code, said, complaints) = run(&[&["download", &object, &data, &target], &local[..]].concat());
    assert_eq!((code, complaints.as_str()), (0, ""), "{}", String::from_utf8_lossy(&said));
    assert!(fs::read(scratch.path().join("new/bytes")).unwrap() == bytes);
    assert_eq!(fs::read_to_string(scratch.path().join("new/sub dir/file")).unwrap(), "content\n");

    // What is wrong is named, with the next step.
    for (arguments, code, words) in [
        (&["cat", &object, "/none"][..], 1, "has no /none"),
        (&["ls", &object, "/none"], 1, "has no /none"),
        (&["cat", &object, &data], 1, "is not a file"),
        (&["cat", "repo-00000000", &file], 1, "there is no Snapshot"),
        (&["cat", "none/latest", &file], 1, "there is no Repository"),
        (&["cat", "repo/0000", &file], 1, "no snapshot whose id begins with 0000"),
        (&["cat", "repo/latest", "/elsewhere/file"], 1, "no snapshot that holds /elsewhere/file"),
        (&["cat", "repo/latest", "--host", "other", &file], 1, "no snapshot of the host other"),
        (&["cat", "repo/la", &file], 2, "names no snapshot"),
        (&["cat", &object, "/../etc/passwd"], 2, "without . and .."),
    ] {
        let (found, printed, said) = run(&[arguments, &local[..]].concat());
        assert!(found == code && printed.is_empty() && said.contains(words), "{arguments:?}: {found} {said}");
    }
    let (code, _, said) = run(&["cat", &object, &file, "--local"]);
    assert!(code == 1 && said.contains("127.0.0.1 is refused") && said.contains("hint: --allow-address"), "{said}");
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"RESTIC_PASSWORD": "geheim"}
    }));
    let (code, _, said) = run(&[&["cat", &object, &file], &local[..]].concat());
    assert!(code == 12 && said.contains("hint: RESTIC_PASSWORD of the Secret of the Repository repo"), "{code} {said}");
    assert!(!said.contains("geheim"), "{said}");

    // What was kept on disk opens nothing.
    let kept = walk(&kubeconfig.with_file_name("cache"));
    assert!(!kept.is_empty(), "the cache was where the test looks");
    for path in kept {
        assert!(!contains(&fs::read(&path).unwrap(), restic.password()), "the password is in {}", path.display());
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn test_a_snapshot_is_mounted_here_until_a_signal_comes() {
    let server = server_with_definitions();
    let namespace = server.namespace();
    let (restic, store, bytes, data) = stored();
    repository(&namespace, &restic, &store, Value::Null);
    let scratch = tempfile::tempdir().unwrap();
    let mountpoint = scratch.path().canonicalize().unwrap().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let arguments = ["mount", "repo/latest", mountpoint.to_str().unwrap(), "--allow-address", "127.0.0.1"];
    let mut command = call(server.kubectl().kubeconfig(), &namespace, &arguments);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the mount", || mounted_device(&mountpoint));
    let place = mountpoint.join(data.trim_start_matches('/'));
    assert!(fs::read(place.join("bytes")).unwrap() == bytes);
    for name in ["cmdline", "environ"] {
        let of_process = fs::read(format!("/proc/{}/{name}", child.id())).unwrap();
        assert!(!contains(&of_process, restic.password()), "the password is in {name}");
    }
    let (code, said) = end(child, Signal::INT);
    assert_eq!((code, mounted_device(&mountpoint)), (0, None), "{said}");
    assert!(!said.contains(restic.password()), "{said}");
}

#[test]
fn test_who_may_not_is_told_what_and_how_else() {
    let server = server_with_definitions();
    let namespace = server.namespace();
    let (restic, store, _, data) = stored();
    repository(&namespace, &restic, &store, Value::Null);
    let file = format!("{data}/bytes");
    let view = json!([
        {"apiGroups": ["stash.appscode.com"], "resources": ["repositories"], "verbs": ["get"]},
        {"apiGroups": ["repositories.stash.appscode.com"], "resources": ["snapshots"], "verbs": ["get", "list"]},
    ]);
    let viewer = account(server.kubectl(), &namespace, "viewer", &view);
    let secret = format!("you may not get Secret {}/keys", namespace.name());
    let mountpoint = tempfile::tempdir().unwrap();
    let directory = mountpoint.path().to_str().unwrap();
    for (arguments, message, hint) in [
        (&["cat", "repo/latest", &file, "--local"][..], secret.as_str(), "without --local a pod reads it"),
        (&["mount", "repo/latest", directory], &secret, "`kubectl stash browse` shows it in a pod"),
        (&["cat", "repo/latest", &file], "cannot create resource \"pods\"", "docs/kubectl.md"),
        (&["browse", "repo/latest"], "cannot create resource \"pods\"", "docs/kubectl.md"),
        (&["trigger", "nightly"], "cannot get resource \"backupconfigurations\"", "docs/kubectl.md"),
    ] {
        let (code, printed, said) = outcome(&mut call(&viewer, &namespace, arguments));
        let (first, second) = said.split_once("\nhint: ").unwrap_or((&said, ""));
        assert!(code == 1 && printed.is_empty(), "{arguments:?}: {code} {printed} {said}");
        assert!(first.contains(message) && second.contains(hint), "{arguments:?}: {said}");
        assert!(!said.contains(restic.password()), "{said}");
    }
    // Another namespace is another's.
    let other = server.namespace();
    let (code, _, said) = outcome(&mut call(&viewer, &other, &["ls", "repo/latest"]));
    assert!(code == 1 && said.contains("you may not list Snapshots"), "{said}");

    // A volume of the cluster is refused before a pod is made.
    namespace.apply(json!({
        "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": "volume"},
        "spec": {"backend": {
            "storageSecretName": "keys", "local": {"mountPath": "/safe", "persistentVolumeClaim": {"claimName": "store"}},
        }},
    }));
    let snapshot = format!("volume/{}", "0a".repeat(32));
    for way in [&[][..], &["--local"]] {
        let arguments = [&["ls", &snapshot], way].concat();
        let (code, _, said) = outcome(&mut call(server.kubectl().kubeconfig(), &namespace, &arguments));
        assert!(code == 1 && said.contains("is a volume of the cluster") && said.contains("RestoreSession"), "{said}");
    }
    let (code, _, said) = outcome(&mut call(Path::new("/nonexistent"), &namespace, &["ls", "repo/latest"]));
    assert!(code == 1 && said.contains("/nonexistent") && said.contains("hint: name one by --kubeconfig"), "{said}");
}

#[test]
fn test_why_the_pod_does_not_run_is_told_and_the_pod_is_removed() {
    let server = server_with_definitions();
    let namespace = server.namespace();
    let (restic, store, _, data) = stored();
    repository(&namespace, &restic, &store, Value::Null);
    let browser = account(server.kubectl(), &namespace, "browser", &documented("### By a pod"));
    let pods = || namespace.get("pods")["items"].as_array().unwrap().clone();
    let made = || wait_until("the pod", || pods().first().cloned());
    let start = |arguments: &[&str]| {
        let mut command = call(&browser, &namespace, arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };

    // Nobody takes it.
    let (code, _, said) =
        outcome(&mut call(&browser, &namespace, &["ls", "repo/latest", &data, "--start-timeout", "1s"]));
    assert!(code == 1 && said.contains("does not run: not within 1 s"), "{said}");
    assert!(said.contains("hint: --start-timeout"), "{said}");
    assert_eq!(pods(), Vec::<Value>::new());

    // The driver refuses.
    let child = start(&["cat", "repo/latest", &format!("{data}/bytes")]);
    let pod = made();
    assert!(!pod.to_string().contains(restic.password()));
    let begun = Instant::now();
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "refused"}, "type": "Warning", "reason": "FailedMount",
        "message": "MountVolume.SetUp failed for volume \"snapshot\" : rpc error: code = PermissionDenied desc = not yours",
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace.name(),
            "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
    }));
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("FailedMount: not yours"), "{said}");
    // Long before its patience ends.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(pods(), Vec::<Value>::new());

    // Whoever calls goes: by a key, by a signal, with his terminal.
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let child = start(&["browse", "repo/latest"]);
        made();
        let (code, said) = end(child, signal);
        assert_eq!(code, 130, "{said}");
        assert_eq!(pods(), Vec::<Value>::new(), "after {signal:?}");
    }
}

#[test]
fn test_backups_are_started_followed_and_paused() {
    let server = server_with_definitions();
    let namespace = server.namespace();
    let user = account(server.kubectl(), &namespace, "user", &documented("### Backups"));
    namespace.apply(json!({
        "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupConfiguration",
        "metadata": {"name": "nightly", "labels": {"team": "a"}},
        "spec": {
            "schedule": "0 0 * * *", "repository": {"name": "repo"}, "retentionPolicy": {"name": "keep", "keepLast": 1, "prune": true},
            "target": {"ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data"}},
        },
    }));
    let run = |arguments: &[&str]| outcome(&mut call(&user, &namespace, arguments));
    let paused = || namespace.get("backupconfiguration/nightly")["spec"]["paused"].clone();
    for (verb, said, now) in [
        ("resume", "backupconfiguration/nightly is resumed already\n", Value::Null),
        ("pause", "backupconfiguration/nightly paused\n", json!(true)),
        ("pause", "backupconfiguration/nightly is paused already\n", json!(true)),
        ("resume", "backupconfiguration/nightly resumed\n", json!(false)),
    ] {
        assert_eq!(run(&[verb, "nightly"]), (0, said.to_owned(), String::new()));
        assert_eq!(paused(), now, "{verb}");
    }
    for verb in ["pause", "resume", "trigger"] {
        let (code, _, said) = run(&[verb, "none"]);
        assert!(code == 1 && said.contains("there is no BackupConfiguration") && said.contains("hint: "), "{said}");
    }

    let (code, said, complaints) = run(&["trigger", "nightly"]);
    assert_eq!((code, complaints.as_str()), (0, ""));
    let name = said.trim().strip_prefix("backupsession/").unwrap().strip_suffix(" created").unwrap();
    let made = namespace.get(&format!("backupsession/{name}"));
    assert!(name.starts_with("nightly-"), "{name}");
    assert_eq!(
        made["metadata"]["labels"],
        json!({
            "team": "a", "app.kubernetes.io/component": "stash-backup",
            "app.kubernetes.io/managed-by": "stash.appscode.com",
            "stash.appscode.com/invoker-name": "nightly", "stash.appscode.com/invoker-type": "BackupConfiguration",
            "stash.appscode.com/target-kind": "PersistentVolumeClaim", "stash.appscode.com/target-name": "data",
            "stash.appscode.com/target-namespace": namespace.name(),
        })
    );
    assert_eq!(made["metadata"]["ownerReferences"][0]["name"], "nightly");
    namespace.run(&["delete", "backupsessions", "--all"]);

    let host = |host: Value| {
        let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data"});
        json!([{"ref": reference, "totalHosts": 1, "stats": [host]}])
    };
    let good = host(
        json!({"hostname": "host-0", "phase": "Succeeded", "duration": "1s", "snapshots": [{"name": "0a1b2c3d4e5f"}]}),
    );
    let bad = host(json!({"hostname": "host-0", "phase": "Failed", "error": "the store is full"}));
    for (phase, targets, code, shown) in [
        ("Succeeded", good, 0, "PersistentVolumeClaim/data: host-0: Succeeded in 1s: 0a1b2c3d\nSucceeded in 2s\n"),
        ("Failed", bad, 1, "PersistentVolumeClaim/data: host-0: Failed: the store is full\nFailed in 2s\n"),
    ] {
        let mut command = call(&user, &namespace, &["trigger", "nightly", "--wait"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let session = wait_until("the session", || {
            Some(namespace.get("backupsessions")["items"].get(0)?["metadata"]["name"].as_str()?.to_owned())
        });
        let status = json!({"status": {"phase": phase, "sessionDuration": "2s", "targets": targets}}).to_string();
        let patch = ["patch", "backupsession", &session, "--subresource=status", "--type=merge", "-p", &status];
        namespace.run(&patch);
        let output = child.wait_with_output().unwrap();
        let (printed, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "{printed} {said}");
        assert!(
            printed.starts_with(&format!("backupsession/{session} created\n")) && printed.ends_with(shown),
            "{printed}"
        );
        assert_eq!(said.contains("did not succeed"), code == 1, "{said}");
        namespace.run(&["delete", "backupsession", &session]);
    }
}

#[test]
fn test_the_charts_role_for_browsing_is_the_documents() {
    let role = CHART.split("\n---\n").find(|part| part.contains("-browse\n")).unwrap();
    let rules = role.split_once("\nrules:\n").unwrap().1.replace("{{- end }}", "");
    assert_eq!(serde_saphyr::from_str::<Value>(&rules).unwrap(), documented("### By a pod"));
}
