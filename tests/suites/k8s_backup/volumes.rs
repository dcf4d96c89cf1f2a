//! Snapshots as volumes: what the chart installs on a node, and pods that read while it is ended, killed and replaced.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use sha2::Digest as _;
use stash_tests::cluster::{BUSYBOX, Namespace, wait_until};
use stash_tests::kernel_caches;
use stash_tests::mounted::{clean, sibling};

use super::{Shop, reference};

/// What is in the command lines of a node's processes, and in no others.
const DAEMON: &str = "--keeper=/run/stash-fs-keeper/keeper.sock";
const KEEPER: &str = "--socket=/run/stash-fs-keeper/keeper.sock";
const DRIVER: &str = "--endpoint=/csi/csi.sock";

const READER: &str = "
set -e
cd /backup/stash-data/a
exec 3< file
rounds=0
while :; do
  [ \"$(cat file)\" = kept ]
  [ \"$(sha256sum < big)\" = \"$(cat sum)\" ]
  [ \"$(pwd)\" = /backup/stash-data/a ]
  ls -lR /backup > /tmp/list
  rounds=$((rounds + 1))
  echo $rounds > /tmp/rounds
done";

/// What a pod says that it has the latest snapshot of `repository` for a volume.
pub(super) fn volume(attributes: Value) -> Value {
    json!({"name": "backup", "csi": {
        "driver": "fs.stash.appscode.com", "readOnly": true, "volumeAttributes": attributes, "nodePublishSecretRef": {"name": "s3"}
    }})
}

pub(super) fn pod(name: &str, script: &str, attributes: Value, security: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "securityContext": security,
            "volumes": [volume(attributes)],
            "containers": [{"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "backup", "mountPath": "/backup"}]}]
        }
    })
}

/// The processes of the node whose command line has `word`, as the machine numbers them. Those that tests have started themselves are not
/// of the node.
fn processes(word: &str) -> Vec<String> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let pids = pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()));
    let own = std::process::id().to_string();
    let has = |pid: &String| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ours = status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|pid| pid.trim() == own));
        !ours && line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
    };
    pids.filter(has).collect()
}

/// Kills the one process of each word of a command line, all at once; returns when others are there.
pub(super) fn kill(words: &[&str]) {
    let before: Vec<Vec<String>> = words.iter().map(|word| processes(word)).collect();
    assert!(before.iter().all(|pids| pids.len() == 1), "{words:?}: {before:?}");
    assert!(Command::new("kill").arg("-KILL").args(before.iter().flatten()).status().unwrap().success());
    for (word, before) in words.iter().zip(&before) {
        wait_until(&format!("another process of {word}"), || {
            let now = processes(word);
            (now.len() == 1 && now != *before).then_some(())
        });
    }
}

/// What is mounted on the node by the driver, below kubelet's directory.
pub(super) fn mounts(shop: &Shop<'_>) -> Vec<PathBuf> {
    let table = shop.world.cluster.on_node("cat").arg("/proc/self/mountinfo").output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    places.filter(|place| place.components().any(|part| part.as_os_str() == "kubernetes.io~csi")).collect()
}

/// The loop devices of scratch space on this machine.
fn scratch_devices() -> Vec<String> {
    let devices = fs::read_dir("/sys/block").unwrap().map(|device| device.unwrap().path());
    let files = devices.filter_map(|device| fs::read_to_string(device.join("loop/backing_file")).ok());
    // As the keeper's container sees it, where the file has no name any more.
    files.filter(|file| file.starts_with("/scratch/") && file.contains("(deleted)")).collect()
}

/// How often the reader has read all.
fn rounds(shop: &Shop<'_>, reader: &str) -> u64 {
    let phase = shop.namespace.get(&format!("pod/{reader}"))["status"]["phase"].clone();
    assert_eq!(phase, "Running", "{}", shop.namespace.run(&["logs", reader]));
    let said = shop.namespace.run(&["exec", reader, "--", "sh", "-c", "cat /tmp/rounds || echo 0"]);
    said.trim().parse().unwrap_or(0)
}

/// Returns when the reader has read all again, from the store's side and not from the kernel's cache.
fn reads_on(shop: &Shop<'_>, reader: &str) {
    kernel_caches::forget();
    let before = rounds(shop, reader);
    wait_until("the reader to go on", || (rounds(shop, reader) > before + 1).then_some(()));
}

pub(super) fn test_volumes(shop: &Shop<'_>, release: &Namespace<'_>) {
    wait_until("the driver at kubelet", || {
        let nodes = shop.world.kubectl().run(&["get", "csinodes", "-o", "json"]);
        nodes.contains("fs.stash.appscode.com").then_some(())
    });
    let latest = json!({"repository": "claim", "snapshot": "latest"});
    shop.namespace.apply(pod("reader", READER, latest.clone(), &json!({})));
    shop.namespace.wait("pod/reader", "condition=Ready");
    reads_on(shop, "reader");
    ended_and_replaced(shop, release);
    others_files_are_shown_as_the_pods_own(shop);
    another_tenant_gets_nothing(shop);
    a_claim_of_a_snapshot_is_bound_at_once(shop);
    browsed(shop);
    an_overlay_is_each_pods_own(shop);
    restores_without_a_copy(shop);
    both_killed_is_an_error_and_a_new_pod_reads(shop);
    shop.namespace.run(&["delete", "pods", "--all"]);
    wait_until("the volumes to go", || mounts(shop).is_empty().then_some(()));
    wait_until("the scratch space to go", || scratch_devices().is_empty().then_some(()));
}

/// Whatever is ended, the reader waits and reads on: the same process, with its file and its folder open.
fn ended_and_replaced(shop: &Shop<'_>, release: &Namespace<'_>) {
    for process in [DAEMON, KEEPER, DRIVER] {
        kill(&[process]);
        reads_on(shop, "reader");
    }
    // A backup begins under one controller and ends under the next.
    let target = json!({"ref": reference("v1", "PersistentVolumeClaim", "data")});
    shop.configure_at(shop.world.minio.address(), "upgraded", &target, &json!({}));
    shop.trigger("upgraded", "upgraded-1");
    super::chart::upgrade(shop.world, release);
    reads_on(shop, "reader");
    shop.succeeded("upgraded-1");
    let before = processes(KEEPER);
    release.run(&["delete", "pods", "--selector=app.kubernetes.io/component=keeper"]);
    wait_until("another keeper", || {
        let now = processes(KEEPER);
        (now.len() == 1 && now != before).then_some(())
    });
    reads_on(shop, "reader");
    kill(&[DAEMON]);
    reads_on(shop, "reader");
}

/// Nobody can go on with what both held: readers get an error at once, what is dead is detached, and a pod that is made anew reads.
fn both_killed_is_an_error_and_a_new_pod_reads(shop: &Shop<'_>) {
    kill(&[DAEMON, KEEPER]);
    shop.namespace.wait("pod/reader", "jsonpath={.status.phase}=Failed");
    let said = shop.namespace.run(&["logs", "reader"]);
    assert!(["not connected", "connection abort", "No such file"].iter().any(|end| said.contains(end)), "{said}");
    shop.namespace.run(&["delete", "pod", "reader"]);
    wait_until("the dead mount to go", || mounts(shop).is_empty().then_some(()));
    let latest = json!({"repository": "claim", "snapshot": "latest"});
    shop.namespace.apply(pod("reader", READER, latest, &json!({})));
    shop.namespace.wait("pod/reader", "condition=Ready");
    reads_on(shop, "reader");
}

/// A pod without a right to anybody's files reads a snapshot of them.
fn others_files_are_shown_as_the_pods_own(shop: &Shop<'_>) {
    let user = json!({"runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000});
    let attributes = json!({
        "repository": "claim", "snapshot": "latest", "path": "/stash-data/a", "uid": "1000", "gid": "2000"
    });
    let script = "set -e; cat /backup/file; stat -c '%u:%g' /backup/file; ! touch /backup/new 2>/dev/null";
    shop.namespace.apply(pod("user", script, attributes, &user));
    assert_eq!(shop.namespace.wait_for_pod("user"), "kept\n1000:2000\n");
}

/// A claim that names a Snapshot: bound in a second, and as many pods as like read it. Its volume goes with it.
fn a_claim_of_a_snapshot_is_bound_at_once(shop: &Shop<'_>) {
    let snapshot = shop.snapshots("claim").remove(0);
    shop.namespace.apply(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "yesterday"},
        "spec": {
            "storageClassName": "stash-snapshot", "accessModes": ["ReadOnlyMany"],
            "resources": {"requests": {"storage": "1Gi"}},
            "dataSourceRef": {"apiGroup": "repositories.stash.appscode.com", "kind": "Snapshot", "name": snapshot}
        }
    }));
    let asked = Instant::now();
    shop.namespace.wait("pvc/yesterday", "jsonpath={.status.phase}=Bound");
    println!("a claim of a Snapshot was bound in {:.2} s", asked.elapsed().as_secs_f64());
    for name in ["first", "second"] {
        shop.namespace.apply(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "volumes": [{"name": "backup", "persistentVolumeClaim": {"claimName": "yesterday", "readOnly": true}}],
                "containers": [{"name": "main", "image": BUSYBOX, "command": ["cat", "/backup/a/file"],
                    "volumeMounts": [{"name": "backup", "mountPath": "/backup"}]}]
            }
        }));
    }
    for name in ["first", "second"] {
        assert_eq!(shop.namespace.wait_for_pod(name), "kept\n");
    }
    let volume = shop.namespace.get("pvc/yesterday")["spec"]["volumeName"].as_str().unwrap().to_owned();
    shop.namespace.run(&["delete", "pods", "first", "second"]);
    shop.namespace.run(&["delete", "pvc", "yesterday"]);
    wait_until("the volume to go with its claim", || {
        shop.world.kubectl().try_run(&["get", "persistentvolume", &volume], "").is_err().then_some(())
    });
}

/// Two pods of one snapshot write, each to its own; a daemon that is killed is nothing to them.
fn an_overlay_is_each_pods_own(shop: &Shop<'_>) {
    let script = "set -e; cd /backup/stash-data/a; cat file; echo $HOSTNAME > file; mv file moved; ls; \
                  dd if=/dev/zero of=fill bs=1M count=64 2>/dev/null && exit 1; rm fill; touch /tmp/ready; \
                  while [ ! -e /tmp/go ]; do sleep 1; done; cat moved; sha256sum < big; cat sum";
    for name in ["one", "two"] {
        let attributes = json!({"repository": "claim", "snapshot": "latest", "mode": "overlay", "scratchSize": "32Mi"});
        let mut pod = pod(name, script, attributes, &json!({}));
        pod["spec"]["volumes"][0]["csi"]["readOnly"] = json!(false);
        pod["spec"]["containers"][0]["readinessProbe"] =
            json!({"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1});
        shop.namespace.apply(pod);
    }
    for name in ["one", "two"] {
        shop.namespace.wait(&format!("pod/{name}"), "condition=Ready");
    }
    assert_eq!(scratch_devices().len(), 2);
    kill(&[DAEMON]);
    for name in ["one", "two"] {
        shop.namespace.run(&["exec", name, "--", "touch", "/tmp/go"]);
    }
    for name in ["one", "two"] {
        let said = shop.namespace.wait_for_pod(name);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "kept", "{said}");
        let end = &lines[lines.len() - 3..];
        assert!(end[0] == name && end[1] == end[2] && !lines.contains(&"file"), "{said}");
    }
    shop.namespace.run(&["delete", "pods", "one", "two"]);
}

/// A RestoreSession whose claims are the snapshot itself: done when they are bound.
fn restores_without_a_copy(shop: &Shop<'_>) {
    for (strategy, script, expected) in [
        ("Attach", "cat /data/a/file; ! touch /data/new 2>/dev/null", "kept\n"),
        ("Overlay", "cat /data/a/file; echo mine > /data/a/file; cat /data/a/file", "kept\nmine\n"),
    ] {
        let name = strategy.to_lowercase();
        let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        shop.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1beta1", "kind": "RestoreSession", "metadata": {"name": name},
            "spec": {
                "repository": {"name": "claim"}, "strategy": strategy, "timeOut": "2m",
                "target": {
                    "volumeClaimTemplates": [{"metadata": {"name": name}, "spec": claim}],
                    "rules": [{"paths": ["/stash-data"]}]
                }
            }
        }));
        let asked = Instant::now();
        shop.namespace.wait(&format!("restoresession/{name}"), "jsonpath={.status.phase}=Succeeded");
        println!("strategy {strategy} took {:.2} s", asked.elapsed().as_secs_f64());
        shop.namespace.apply(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
                "containers": [{"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]
            }
        }));
        assert_eq!(shop.namespace.wait_for_pod(&name), expected);
        shop.namespace.run(&["delete", "pod", &name]);
        shop.namespace.run(&["delete", "pvc", &name]);
    }
}

/// A namespace that the Repository does not admit, with a right password.
fn another_tenant_gets_nothing(shop: &Shop<'_>) {
    let other = shop.world.shop();
    let attributes = json!({"repository": "claim", "repositoryNamespace": shop.namespace.name(), "snapshot": "latest"});
    other.namespace.apply(pod("thief", "cat /backup/stash-data/a/file", attributes, &json!({})));
    let why = wait_until("the refusal", || {
        let events = other.namespace.get("events")["items"].as_array()?.clone();
        let event = events.into_iter().find(|event| event["reason"] == "FailedMount")?;
        Some(event["message"].as_str()?.to_owned())
    });
    assert!(why.contains("PermissionDenied"), "{why}");
    assert_eq!(other.namespace.get("pod/thief")["status"]["phase"], "Pending");
    other.namespace.run(&["delete", "pod", "thief"]);
}

/// What `kubectl stash` printed, and how it ended.
fn kubectl_stash(shop: &Shop<'_>, arguments: &[&str], input: &str) -> (i32, Vec<u8>, String) {
    let mut command = clean(Command::new(sibling("kubectl-stash")));
    command.arg("--kubeconfig").arg(shop.world.kubectl().kubeconfig()).args(["--namespace", shop.namespace.name()]);
    command.args(arguments).args(["--image", BUSYBOX]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().expect("it is a pipe").write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), output.stdout, String::from_utf8(output.stderr).unwrap())
}

/// Whoever may make pods looks into a snapshot, through a pod that is gone afterwards; bytes come as they are.
pub(super) fn browsed(shop: &Shop<'_>) {
    let run = |arguments: &[&str]| kubectl_stash(shop, arguments, "");
    let asked = Instant::now();
    let (code, listed, said) = run(&["ls", "claim/latest", "/stash-data/a"]);
    println!("kubectl stash ls by a pod took {:.2} s", asked.elapsed().as_secs_f64());
    let listed = String::from_utf8(listed).unwrap();
    assert_eq!(code, 0, "{listed} {said}");
    // The pod's user is the owner of all.
    let line = listed.lines().find(|line| line.ends_with(" big")).unwrap_or_else(|| panic!("{listed}"));
    assert!(line.starts_with("-rw-r-----") && line.contains(" 65532 ") && line.contains("4194304"), "{listed}");

    let (code, sum, said) = run(&["cat", "claim/latest", "/stash-data/a/sum"]);
    assert_eq!(code, 0, "{said}");
    let sum = String::from_utf8(sum).unwrap();
    let (code, big, said) = run(&["cat", "claim/latest", "/stash-data/a/big"]);
    assert_eq!((code, big.len()), (0, 4 << 20), "{said}");
    let digest = |bytes: &[u8]| format!("{}  -\n", hex::encode(sha2::Sha256::digest(bytes)));
    assert_eq!(digest(&big), sum, "every byte came");
    let (code, nothing, said) = run(&["cat", "claim/latest", "/stash-data/a/none"]);
    assert!(code == 1 && nothing.is_empty() && said.contains("/stash-data/a/none"), "{code}: {said}");

    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("new").display().to_string();
    let (code, said, complaints) = run(&["download", "claim/latest", "/stash-data/a", &target]);
    assert_eq!(code, 0, "{} {complaints}", String::from_utf8_lossy(&said));
    let read = |name: &str| fs::read(scratch.path().join("new").join(name)).unwrap();
    assert_eq!((read("file"), digest(&read("big"))), (b"kept\n".to_vec(), sum));
    let (code, _, complaints) = run(&["download", "claim/latest", "/stash-data/a/file", &target]);
    assert_eq!((code, read("file")), (0, b"kept\n".to_vec()), "{complaints}");
    let (code, _, complaints) = run(&["download", "claim/latest", "/stash-data/a/none", &target]);
    assert!(code == 1 && complaints.contains("nothing of /stash-data/a/none was downloaded"), "{code}: {complaints}");

    let script = "pwd; cat file; touch new 2>/dev/null || echo read-only; ls /var/run/secrets 2>/dev/null; exit 7\n";
    let (code, shown, said) = kubectl_stash(shop, &["browse", "claim/latest", "/stash-data/a"], script);
    let shown = String::from_utf8(shown).unwrap();
    assert_eq!((code, shown.as_str()), (7, "/snapshot/stash-data/a\nkept\nread-only\n"), "{said}");

    wait_until("the pods to go", || {
        let pods = shop.namespace.run(&["get", "pods", "-l", "app.kubernetes.io/component=stash-browse", "-o", "name"]);
        pods.is_empty().then_some(())
    });
}
