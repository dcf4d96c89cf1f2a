//! A repository that is a volume: a pod serves it for as long as a look lasts. The test plays the job controller and the kubelet, by
//! running the pod's own command.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stash_tests::cluster::wait_until;
use stash_tests::controller::Controller;
use stash_tests::mounted::{clean, stash_fs};

use super::{PASSWORD, Shop, World, text};

const OPENED: &str = "BackendRepositoryInitialized";
const FOUND: &str = "BackendRepositoryFound";
/// Where the Secret of a Job is mounted.
const JOB_DIR: &str = "/var/run/stash-fs/job";

/// A Repository `r` whose volume is mounted where a folder of the test is.
struct Volume<'a> {
    shop: Shop<'a>,
    folder: tempfile::TempDir,
    /// Where pods of the test listen: an address of loopback that no other test has.
    address: String,
}

impl<'a> Volume<'a> {
    fn new(world: &'a World) -> Self {
        let [b, c, d] = rand::random::<[u8; 3]>();
        let folder = tempfile::tempdir().unwrap();
        Self { shop: world.shop(), folder, address: format!("127.{}.{c}.{}", b.max(1), d.clamp(1, 254)) }
    }

    fn controller(&self) -> Controller {
        let log = self.shop.world.folder.path().join("controller.log");
        // An address on loopback is refused unless it is listed, whoever says that a pod has it.
        let allowed = format!("--allow-address={}", self.address);
        Controller::start(
            self.shop.world.kubectl().kubeconfig(),
            &log,
            &[&allowed, "--snapshot-sync=2s", "--jitter=0s"],
        )
    }

    fn path(&self) -> String {
        self.folder.path().join("repository").to_str().unwrap().to_owned()
    }

    fn repository(&self) {
        let local = json!({"mountPath": self.path(), "persistentVolumeClaim": {"claimName": "store"}});
        self.shop.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": "r", "labels": {"team": "a"}},
            "spec": {"backend": {"storageSecretName": "s3", "local": local}}
        }));
    }

    fn restic(&self, arguments: &[&str]) -> String {
        let mut command = clean(Command::new("restic"));
        command.args(["--no-cache", "--quiet", "--repo", &self.path()]).args(arguments);
        stash_tests::fixture::run(command.env("RESTIC_PASSWORD", PASSWORD))
    }

    /// Backs up, and says so as a session does.
    fn backup(&self) {
        let data = self.folder.path().join("data");
        fs::write(&data, rand::random::<[u8; 32]>()).unwrap();
        self.restic(&["backup", "--host", "host-0", data.to_str().unwrap()]);
        self.say_backed_up();
    }

    fn say_backed_up(&self) {
        let said = json!({"lastBackupTime": Timestamp::now().to_string(), "snapshotCount": self.ids().len()});
        self.shop.patch_status("repository", "r", &said);
    }

    fn ids(&self) -> BTreeSet<String> {
        let listed = self.restic(&["snapshots", "--json", "--no-lock"]);
        let listed = serde_json::from_str::<Option<Vec<Value>>>(&listed).unwrap().unwrap_or_default();
        listed.iter().map(|snapshot| text(&snapshot["id"])).collect()
    }

    fn mirrored(&self) -> BTreeSet<String> {
        self.shop.list("snapshots").iter().map(|object| text(&object["status"]["snapshotID"])).collect()
    }

    /// Returns the Jobs whose names begin so.
    fn jobs(&self, prefix: &str) -> Vec<Value> {
        self.shop.jobs().into_iter().filter(|job| text(&job["metadata"]["name"]).starts_with(prefix)).collect()
    }

    fn wait_for_job(&self, prefix: &str) -> Value {
        wait_until(&format!("a Job {prefix}"), || self.jobs(prefix).into_iter().next())
    }

    /// Waits for the Job of a pod that serves the repository.
    fn wait_for_access(&self) -> Value {
        self.wait_for_job("stash-access-r-")
    }

    fn wait_for_no_access(&self) {
        wait_until("the pod to be let go", || self.jobs("stash-access-").is_empty().then_some(()));
    }

    /// Returns an object of the Job's name.
    fn of_job(&self, kind: &str, job: &Value) -> Value {
        wait_until(&format!("the {kind} of a Job"), || {
            self.shop.list(kind).into_iter().find(|object| object["metadata"]["name"] == job["metadata"]["name"])
        })
    }

    /// Runs the pod of a Job as a node would, until it is dropped.
    fn run(&self, job: &Value) -> Pod {
        let secret = self.of_job("secrets", job);
        let folder = tempfile::tempdir().unwrap();
        let template = &job["spec"]["template"];
        let files = template["spec"]["volumes"][0]["secret"]["items"].as_array().unwrap();
        for file in files {
            let path = folder.path().join(file["path"].as_str().unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let content = secret["data"][file["key"].as_str().unwrap()].as_str().unwrap();
            fs::write(path, BASE64_STANDARD.decode(content).unwrap()).unwrap();
        }
        let words = template["spec"]["containers"][0]["command"].as_array().unwrap().iter().skip(1).map(text);
        let here = folder.path().to_str().unwrap().to_owned();
        let mut command = stash_fs();
        command.args(words.map(|word| word.replace(JOB_DIR, &here).replace("[::]", &self.address)));
        let child = command.spawn().unwrap();
        let name = text(&job["metadata"]["name"]);
        let mut metadata = template["metadata"].clone();
        metadata["name"] = json!(format!("{name}-{:08x}", rand::random::<u32>()));
        metadata["ownerReferences"] = json!([{
            "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": true
        }]);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]});
        self.shop.namespace.apply(pod);
        let status = json!({"phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}]});
        self.shop.patch_status("pod", metadata["name"].as_str().unwrap(), &status);
        Pod { child, _folder: folder }
    }

    /// Plays one look: a pod serves the repository, and is let go when all is read.
    fn look(&self) {
        let job = self.wait_for_access();
        let pod = self.run(&job);
        self.wait_for_no_access();
        pod.end();
    }
}

/// The process of a pod.
struct Pod {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Pod {
    /// Ends it as the kubelet does.
    fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn test_a_repository_that_is_a_volume_is_read_through_a_pod() {
    let world = World::start();
    let volume = Volume::new(&world);
    let controller = volume.controller();
    nothing_is_mounted_before_there_was_a_backup(&volume);
    snapshots_appear_and_the_pod_is_let_go(&volume);
    a_deletion_forgets_by_a_job_that_mounts_the_volume(&volume);
    a_job_that_uses_the_volume_goes_before(&volume);
    what_does_not_open_is_said(&volume);
    let log = controller.log();
    controller.kill();
    let controller = a_controller_that_starts_anew_makes_its_own(&volume);
    what_goes_with_its_repository_is_not_erased(&volume);
    let log = log + &controller.log();
    for secret in [PASSWORD, "PRIVATE KEY", "panic"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    assert!(controller.stop());
}

fn nothing_is_mounted_before_there_was_a_backup(volume: &Volume<'_>) {
    volume.repository();
    let said = volume.shop.wait_for_reason("r", OPENED, "BackendRepositoryNotMadeYet");
    assert!(said.contains("the first backup makes it"), "{said}");
    assert!(volume.shop.jobs().is_empty() && volume.shop.events().is_empty());
}

fn snapshots_appear_and_the_pod_is_let_go(volume: &Volume<'_>) {
    volume.restic(&["init"]);
    volume.backup();
    let job = volume.wait_for_access();
    let owner = |object: &Value| object["metadata"]["ownerReferences"].as_array().unwrap().clone();
    // All that is made goes with the Repository.
    assert_eq!((owner(&job).len(), &owner(&job)[0]["kind"]), (1, &json!("Repository")));
    let [secret, policy] = ["secrets", "networkpolicies"].map(|kind| volume.of_job(kind, &job));
    for made in [&secret, &policy] {
        assert_eq!((owner(made).len(), &owner(made)[0]["uid"]), (1, &job["metadata"]["uid"]), "{made}");
    }
    assert_eq!(secret["immutable"], true);
    let keys: Vec<&str> = secret["data"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["job.json", "secret.client-ca.crt", "secret.tls.crt", "secret.tls.key"], "no password");
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["volumeMounts"][2]["readOnly"], true);
    assert_eq!(pod["volumes"][2]["persistentVolumeClaim"], json!({"claimName": "store"}));
    let from = &policy["spec"]["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"];
    assert_eq!(from["kubernetes.io/metadata.name"], "default");
    // The pod runs.
    volume.look();
    assert_eq!(volume.mirrored(), volume.ids());
    let object = &volume.shop.list("snapshots")[0];
    let id = text(&object["status"]["snapshotID"]);
    assert_eq!(object["metadata"]["name"], format!("r-{}", &id[..8]));
    let labels = &object["metadata"]["labels"];
    assert_eq!(
        (&labels["repository"], &labels["hostname"], &labels["team"]),
        (&json!("r"), &json!("host-0"), &json!("a"))
    );
    volume.shop.wait_for_reason("r", OPENED, FOUND);
    // The next backup is seen as well.
    volume.backup();
    volume.look();
    assert_eq!((volume.mirrored(), volume.mirrored().len()), (volume.ids(), 2));
}

fn a_deletion_forgets_by_a_job_that_mounts_the_volume(volume: &Volume<'_>) {
    let name = text(&volume.shop.list("snapshots")[0]["metadata"]["name"]);
    volume.shop.delete(&[&name]);
    let job = volume.wait_for_job("stash-forget-r-");
    let mounts = &job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"];
    assert_eq!((&mounts[2]["mountPath"], &mounts[2]["readOnly"]), (&json!(volume.path()), &Value::Null));
    volume.shop.end(&job, &volume.shop.run(&job), true);
    // Whether it did is seen in the repository.
    volume.look();
    assert_eq!((volume.mirrored(), volume.ids().len()), (volume.ids(), 1));
    wait_until("the Job that forgot to go", || volume.jobs("stash-forget-").is_empty().then_some(()));
    volume.restic(&["check"]);
}

fn a_job_that_uses_the_volume_goes_before(volume: &Volume<'_>) {
    volume.backup();
    let job = volume.wait_for_access();
    // A claim may be one that a single pod mounts. Before the pod serves, the Job of a backup comes.
    volume.shop.namespace.apply(json!({
        "apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": job["spec"]["template"]["spec"]}},
        "metadata": {
            "name": "stash-backup-x-0", "labels": job["metadata"]["labels"], "annotations": job["metadata"]["annotations"]
        }
    }));
    volume.wait_for_no_access();
    assert_ne!(volume.mirrored(), volume.ids(), "nothing was read");
    let time = Timestamp::now().to_string();
    let said = |kind: &str| json!({"type": kind, "status": "True", "reason": "x", "lastTransitionTime": time});
    let done = json!({"startTime": time, "completionTime": time, "succeeded": 1, "conditions": [
        said("SuccessCriteriaMet"), said("Complete")
    ]});
    volume.shop.patch_status("job", "stash-backup-x-0", &done);
    volume.look();
    assert_eq!(volume.mirrored(), volume.ids());
    volume.shop.namespace.run(&["delete", "job", "stash-backup-x-0"]);
}

fn what_does_not_open_is_said(volume: &Volume<'_>) {
    let before = volume.mirrored();
    volume.shop.secret("wrong");
    volume.look();
    let said = volume.shop.wait_for_reason("r", OPENED, "BackendWrongPassword");
    assert!(said.contains("RESTIC_PASSWORD"), "{said}");
    assert_eq!(volume.mirrored(), before);
    // A pod that ends before it is told to.
    volume.shop.secret(PASSWORD);
    let job = volume.wait_for_access();
    volume.shop.end(&job, "", false);
    let said = volume.shop.wait_for_reason("r", OPENED, "BackendPodEnded");
    assert!(said.contains("the pod that serves the volume ended"), "{said}");
    volume.wait_for_no_access();
    assert_eq!(volume.mirrored(), before);
    // What changes is looked at at once.
    volume.backup();
    volume.look();
    volume.shop.wait_for_reason("r", OPENED, FOUND);
    assert_eq!(volume.mirrored(), volume.ids());
}

fn a_controller_that_starts_anew_makes_its_own(volume: &Volume<'_>) -> Controller {
    let first = volume.controller();
    let left = volume.wait_for_access();
    first.kill();
    // Nobody has the key of that one any more.
    let second = volume.controller();
    let uid = |job: &Value| text(&job["metadata"]["uid"]);
    let own = wait_until("another Job", || volume.jobs("stash-access-").into_iter().find(|job| uid(job) != uid(&left)));
    wait_until("the Job that was left to go", || {
        volume.jobs("stash-access-").iter().all(|job| uid(job) != uid(&left)).then_some(())
    });
    let pod = volume.run(&own);
    volume.wait_for_no_access();
    pod.end();
    assert_eq!(volume.mirrored(), volume.ids());
    second
}

fn what_goes_with_its_repository_is_not_erased(volume: &Volume<'_>) {
    let before = volume.ids();
    volume.shop.namespace.run(&["delete", "repository", "r"]);
    volume.shop.wait_until_empty();
    assert_eq!((volume.ids(), volume.shop.jobs().len()), (before, 0));
}
