//! Snapshots as objects: a real API server, a real controller, repositories in a real S3 server that restic wrote. The test plays the
//! job controller and the kubelet, by running `stash-fs job` itself.

mod conditions;
mod local;
mod many;
mod wipe_out;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use stash_proto::job::{ErrorCode, JobError, JobReport};
use stash_tests::cluster::{ApiServer, Kubectl, Namespace, wait_until};
use stash_tests::controller::{Controller, IMAGE};
use stash_tests::mounted::{clean, stash_fs};
use stash_tests::servers::Minio;

const PASSWORD: &str = "correct horse battery staple";
const BUCKET: &str = "bucket";
/// A bucket's server on loopback is refused unless it is listed.
const ARGUMENTS: [&str; 3] = ["--allow-address=127.0.0.1", "--snapshot-sync=2s", "--jitter=0s"];

/// A server with the definitions of all kinds, and a store.
struct World {
    server: ApiServer,
    minio: Minio,
    folder: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let world = Self { server: ApiServer::start(), minio: Minio::start(), folder: tempfile::tempdir().unwrap() };
        world.define();
        world.minio.create_bucket(BUCKET);
        world
    }

    fn define(&self) {
        for definition in stash_crds::definitions() {
            self.kubectl().apply(&serde_json::to_value(definition).unwrap());
        }
        self.kubectl().wait_for_definitions();
    }

    fn kubectl(&self) -> &Kubectl {
        self.server.kubectl()
    }

    fn controller(&self) -> Controller {
        Controller::start(self.kubectl().kubeconfig(), &self.folder.path().join("controller.log"), &ARGUMENTS)
    }

    /// A namespace with a Repository `r`; what it is of does not exist yet.
    fn shop(&self) -> Shop<'_> {
        let namespace = self.server.namespace();
        let shop = Shop { prefix: namespace.name().to_owned(), namespace, world: self };
        shop.secret(PASSWORD);
        shop
    }
}

/// A namespace, and the repository that belongs to it.
struct Shop<'a> {
    world: &'a World,
    namespace: Namespace<'a>,
    prefix: String,
}

impl Shop<'_> {
    fn secret(&self, password: &str) {
        self.secret_with(json!({"RESTIC_PASSWORD": password}));
    }

    /// Makes the Secret, or changes keys of it.
    fn secret_with(&self, others: Value) {
        let mut keys = json!(self.world.minio.environment());
        keys.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
        self.namespace
            .apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": keys}));
    }

    fn repository(&self) {
        let endpoint = format!("http://{}", self.world.minio.address());
        self.repository_of("r", &endpoint, BUCKET, &self.prefix, &json!({}));
    }

    fn repository_of(&self, name: &str, endpoint: &str, bucket: &str, prefix: &str, more: &Value) {
        let s3 = json!({"endpoint": endpoint, "bucket": bucket, "prefix": prefix});
        let mut spec = json!({"backend": {"storageSecretName": "s3", "s3": s3}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository",
            "metadata": {"name": name, "labels": {"team": "a", "app.kubernetes.io/instance": "app"}}, "spec": spec
        }));
    }

    /// Returns what a Repository says of an aspect.
    fn condition(&self, name: &str, aspect: &str) -> Option<Value> {
        let object = self.list("repositories").into_iter().find(|object| object["metadata"]["name"] == name)?;
        let conditions = object["status"]["conditions"].as_array()?;
        conditions.iter().find(|condition| condition["type"] == aspect).cloned()
    }

    /// Waits until a Repository says something of an aspect for a reason; returns the message.
    fn wait_for_reason(&self, name: &str, aspect: &str, reason: &str) -> String {
        wait_until(&format!("{aspect} to be {reason}"), || {
            let said = self.condition(name, aspect)?;
            (said["reason"] == reason).then(|| text(&said["message"]))
        })
    }

    fn address(&self) -> String {
        self.world.minio.repository(BUCKET, &self.prefix)
    }

    fn restic(&self, arguments: &[&str]) -> String {
        let mut command = clean(Command::new("restic"));
        command.args(["--no-cache", "--quiet", "--repo", &self.address()]).args(arguments);
        command.env("RESTIC_PASSWORD", PASSWORD);
        stash_tests::fixture::run(command.envs(self.world.minio.environment()))
    }

    fn backup(&self, host: &str, more: &[&str]) {
        let folder = self.world.folder.path().join("data");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("file"), rand::random::<[u8; 32]>()).unwrap();
        let path = folder.to_str().unwrap();
        self.restic(&[&["backup", "--host", host, path], more].concat());
    }

    /// What restic says that there is, oldest first.
    fn in_repository(&self) -> Vec<Value> {
        serde_json::from_str::<Option<Vec<Value>>>(&self.restic(&["snapshots", "--json", "--no-lock"]))
            .unwrap()
            .unwrap_or_default()
    }

    fn ids(&self) -> BTreeSet<String> {
        self.in_repository().iter().map(|snapshot| text(&snapshot["id"])).collect()
    }

    fn list(&self, kind: &str) -> Vec<Value> {
        self.namespace.get(kind)["items"].as_array().unwrap().clone()
    }

    /// Waits until the objects are those of the snapshots in the repository, and returns them.
    fn wait_until_mirrored(&self) -> Vec<Value> {
        let ids = self.ids();
        wait_until("the objects to be those of the repository", || {
            let objects = self.list("snapshots");
            let mirrored: BTreeSet<String> =
                objects.iter().map(|object| text(&object["status"]["snapshotID"])).collect();
            (mirrored == ids && objects.len() == ids.len()).then_some(objects)
        })
    }

    /// Waits until the objects are gone, as if there were none in the repository.
    fn wait_until_empty(&self) {
        wait_until("the objects to be gone", || self.list("snapshots").is_empty().then_some(()));
    }

    fn delete(&self, names: &[&str]) {
        self.namespace.run(&[&["delete", "snapshots", "--wait=false"], names].concat());
    }

    fn events(&self) -> String {
        self.namespace.run(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason}: {.message}{'\\n'}{end}"])
    }

    fn wait_for_event(&self, reason: &str) -> String {
        wait_until(&format!("the event {reason}"), || {
            let events = self.events();
            events.lines().find(|line| line.starts_with(&format!("{reason}: "))).map(str::to_owned)
        })
    }

    fn jobs(&self) -> Vec<Value> {
        self.list("jobs")
    }

    fn wait_for_job(&self) -> Value {
        wait_until("a Job", || self.jobs().into_iter().next())
    }

    fn wait_for_no_job(&self) {
        wait_until("the Job to go", || self.jobs().is_empty().then_some(()));
    }

    /// Returns what a Job is told, and its credentials.
    fn told(&self, job: &Value) -> (Value, Vec<(String, Vec<u8>)>) {
        let name = text(&job["metadata"]["name"]);
        let secret = wait_until("the Job's Secret", || {
            self.list("secrets").into_iter().find(|secret| secret["metadata"]["name"] == name.as_str())
        });
        let decoded = |value: &Value| BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
        let keys = secret["data"].as_object().unwrap().iter();
        let keys = keys.filter_map(|(key, value)| Some((key.strip_prefix("secret.")?.to_owned(), decoded(value))));
        (serde_json::from_slice(&decoded(&secret["data"]["job.json"])).unwrap(), keys.collect())
    }

    /// Runs a Job as its pod would; returns its report.
    fn run(&self, job: &Value) -> String {
        let (spec, keys) = self.told(job);
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("secret")).unwrap();
        fs::write(path("job.json"), spec.to_string()).unwrap();
        keys.iter().for_each(|(key, value)| fs::write(path("secret").join(key), value).unwrap());
        let mut command = stash_fs();
        command.arg("job").arg("--spec").arg(path("job.json")).arg("--secret").arg(path("secret"));
        stash_tests::fixture::run(command.arg("--report").arg(path("report")));
        fs::read_to_string(path("report")).unwrap()
    }

    /// Ends a Job: its pod leaves `message`.
    fn end(&self, job: &Value, message: &str, well: bool) {
        let name = text(&job["metadata"]["name"]);
        let template = &job["spec"]["template"];
        let mut metadata = template["metadata"].clone();
        metadata["name"] = json!(format!("{name}-{:08x}", rand::random::<u32>()));
        metadata["labels"]["batch.kubernetes.io/job-name"] = json!(name);
        metadata["ownerReferences"] = json!([{
            "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": true
        }]);
        self.namespace
            .apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}));
        let state = json!({"terminated": {"exitCode": i32::from(!well), "message": message}});
        let status = json!({"phase": if well { "Succeeded" } else { "Failed" }, "containerStatuses": [
            {"name": "stash", "image": IMAGE, "imageID": "", "ready": false, "restartCount": 0, "state": state}
        ]});
        self.patch_status("pod", metadata["name"].as_str().unwrap(), &status);
        let time = Timestamp::now().to_string();
        let said = |kind: &str| json!({"type": kind, "status": "True", "reason": "x", "lastTransitionTime": time});
        let status = if well {
            let conditions = [said("SuccessCriteriaMet"), said("Complete")];
            json!({"startTime": time, "completionTime": time, "succeeded": 1, "conditions": conditions})
        } else {
            json!({"startTime": time, "failed": 1, "conditions": [said("FailureTarget"), said("Failed")]})
        };
        self.patch_status("job", &name, &status);
    }

    fn patch_status(&self, kind: &str, name: &str, status: &Value) {
        let patch = json!({"status": status}).to_string();
        self.namespace.run(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch]);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn versions(objects: &[Value]) -> Vec<(String, String)> {
    let mut versions: Vec<_> = objects
        .iter()
        .map(|object| (text(&object["metadata"]["name"]), text(&object["metadata"]["resourceVersion"])))
        .collect();
    versions.sort();
    versions
}

#[test]
fn test_snapshots_are_objects_and_deleting_one_forgets_it() {
    let world = World::start();
    let controller = world.controller();
    snapshots_appear_with_their_fields_and_labels(&world);
    what_cannot_be_listed_stays(&world);
    a_deletion_becomes_a_job(&world);
    a_job_that_fails_is_told_and_the_object_waits(&world);
    what_goes_with_its_repository_is_not_erased(&world);
    what_goes_with_its_namespace_is_not_erased(&world);
    what_goes_with_its_kind_is_not_erased(&world);
    let log = controller.log();
    assert!(!log.contains(PASSWORD) && !log.contains("panic"), "{log}");
    assert!(controller.stop());
}

fn snapshots_appear_with_their_fields_and_labels(world: &World) {
    let shop = world.shop();
    // A Repository that no backup has made yet is no failure.
    shop.repository();
    shop.restic(&["init"]);
    shop.backup("host-0", &["--tag", "a", "--tag", "b"]);
    shop.backup("web 1", &[]);
    let mut ours = stash_fs();
    ours.args(["--no-cache", "--repo", &shop.address(), "backup", "--host", "host-0"]);
    ours.arg(world.folder.path().join("data")).env("RESTIC_PASSWORD", PASSWORD).envs(world.minio.environment());
    stash_tests::fixture::run(&mut ours);

    let objects = shop.wait_until_mirrored();
    for snapshot in shop.in_repository() {
        let id = text(&snapshot["id"]);
        let object = objects.iter().find(|object| object["status"]["snapshotID"] == id.as_str()).unwrap();
        assert_eq!(object["metadata"]["name"], format!("r-{}", &id[..8]));
        assert!(object["metadata"]["ownerReferences"].is_null());
        let status = &object["status"];
        for field in ["tree", "paths", "hostname", "username"] {
            assert_eq!(status[field], snapshot[field], "{field}");
        }
        // restic leaves out what is zero.
        for field in ["uid", "gid"] {
            assert_eq!(status[field].as_u64(), Some(snapshot[field].as_u64().unwrap_or(0)), "{field}");
        }
        assert_eq!(status["tags"], snapshot["tags"]);
        assert_eq!((&status["repository"], &status["shortID"]), (&json!("r"), &json!(&id[..8])));
        let time: Timestamp = snapshot["time"].as_str().unwrap().parse().unwrap();
        assert_eq!(status["snapshotTime"], time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let labels = &object["metadata"]["labels"];
        assert_eq!((&labels["repository"], &labels["team"]), (&json!("r"), &json!("a")));
        assert!(labels["app.kubernetes.io/instance"].is_null(), "{labels}");
    }
    let counted: Vec<_> = objects.iter().filter(|object| object["status"]["totalFiles"] == 1).collect();
    assert!(counted.iter().any(|object| object["status"]["totalBytes"] == 32), "{objects:?}");
    assert!(counted.iter().all(|object| object["status"]["duration"].is_string()), "{counted:?}");

    // In Stash this finds nothing.
    let select = |selector: &str| {
        let names = shop.namespace.run(&["get", "snapshots", "-l", selector, "-o", "name"]);
        names.lines().count()
    };
    assert_eq!((select("repository=r,hostname=host-0"), select("hostname=web_1"), select("team=a")), (2, 1, 3));
    assert_eq!(
        (select("hostname in (web_1, other)"), select("repository=r,hostname!=host-0"), select("repository=x")),
        (1, 1, 0)
    );
    let table = shop.namespace.run(&["get", "snapshots", "--no-headers"]);
    assert!(table.lines().all(|line| line.split_whitespace().any(|word| word == "r")), "{table}");

    // Others forget, too.
    let before = versions(&objects);
    shop.restic(&["forget", before[0].0.strip_prefix("r-").unwrap()]);
    let after = versions(&shop.wait_until_mirrored());
    assert_eq!(after, before[1..], "what did not change is not written");

    // The Repository's labels follow.
    shop.namespace.run(&["label", "repository", "r", "team=b", "--overwrite"]);
    wait_until("the labels to follow", || (select("team=b") == 2).then_some(()));
    assert!(shop.jobs().is_empty());
}

fn what_cannot_be_listed_stays(world: &World) {
    let shop = world.shop();
    shop.restic(&["init"]);
    shop.repository();
    shop.backup("host-0", &[]);
    shop.backup("host-0", &[]);
    let before = versions(&shop.wait_until_mirrored());
    // Something changed, and who asks has the wrong password: whatever is listed is not believed.
    shop.secret("wrong");
    shop.restic(&["forget", before[0].0.strip_prefix("r-").unwrap()]);
    let said = shop.wait_for_event("BackendWrongPassword");
    assert!(said.contains("wrong password") && !said.contains("horse"), "{said}");
    assert_eq!(versions(&shop.list("snapshots")), before);
    // Nor is it forgotten: what is there is not known.
    shop.delete(&[&before[1].0]);
    shop.namespace.run(&["annotate", "repository", "r", "look=again"]);
    assert!(shop.jobs().is_empty());
    shop.secret(PASSWORD);
    let job = shop.wait_for_job();
    shop.end(&job, &shop.run(&job), true);
    shop.wait_until_empty();
    assert_eq!(shop.ids().len(), 0);
}

fn a_deletion_becomes_a_job(world: &World) {
    let shop = world.shop();
    shop.restic(&["init"]);
    shop.repository();
    for _ in 0..3 {
        shop.backup("host-0", &[]);
    }
    let objects = shop.wait_until_mirrored();
    let name = |index: usize| text(&objects[index]["metadata"]["name"]);
    shop.delete(&[&name(0), &name(1)]);
    let job = shop.wait_for_job();
    assert!(text(&job["metadata"]["name"]).starts_with("stash-forget-r-"), "{job}");
    assert_eq!(job["metadata"]["ownerReferences"][0]["kind"], "Repository");
    let (spec, keys) = shop.told(&job);
    let wanted: BTreeSet<String> = [0, 1].iter().map(|&index| text(&objects[index]["status"]["snapshotID"])).collect();
    let told: BTreeSet<String> =
        spec["task"]["maintain"]["forgetSnapshots"].as_array().unwrap().iter().map(text).collect();
    assert_eq!(told, wanted);
    assert_eq!(spec["task"]["maintain"].as_object().unwrap().len(), 1);
    let keys: Vec<_> = keys.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RESTIC_PASSWORD"]);
    // Whoever changes what an object says of itself cannot have another snapshot forgotten by it.
    let id = format!("stash.appscode.com/snapshot-id={}", text(&objects[2]["status"]["snapshotID"]));
    shop.namespace.run(&["annotate", "snapshot", &name(0), &id, "--overwrite"]);
    // Until it is done the objects are there, and nothing else is begun.
    assert_eq!(shop.jobs().len(), 1);
    shop.end(&job, &shop.run(&job), true);
    let left = shop.wait_until_mirrored();
    assert_eq!(left.len(), 1);
    assert_eq!(text(&left[0]["metadata"]["name"]), name(2));
    shop.wait_for_no_job();
    shop.restic(&["check"]);
}

fn a_job_that_fails_is_told_and_the_object_waits(world: &World) {
    let shop = world.shop();
    shop.restic(&["init"]);
    shop.repository();
    shop.backup("host-0", &[]);
    let objects = shop.wait_until_mirrored();
    shop.delete(&[&text(&objects[0]["metadata"]["name"])]);
    let job = shop.wait_for_job();
    let error = JobError::new(ErrorCode::Locked, "the repository is locked by somebody");
    let time = "2026-01-01T00:00:00Z".to_owned();
    let report = JobReport { error: Some(error), ..JobReport::new(time.clone(), time, 1.0) };
    shop.end(&job, &report.to_message(), false);
    let said = shop.wait_for_event("ForgetFailed");
    assert!(said.contains("locked by somebody"), "{said}");
    assert_eq!((shop.list("snapshots").len(), shop.ids().len()), (1, 1));
    // Somebody else did it meanwhile.
    shop.restic(&["forget", objects[0]["status"]["snapshotID"].as_str().unwrap()]);
    shop.wait_until_empty();
    shop.wait_for_no_job();
}

fn what_goes_with_its_repository_is_not_erased(world: &World) {
    let shop = world.shop();
    shop.restic(&["init"]);
    shop.repository();
    shop.backup("host-0", &[]);
    shop.backup("host-0", &[]);
    let before = shop.ids();
    let objects = shop.wait_until_mirrored();
    // One is being deleted already.
    shop.namespace.run(&[
        "delete",
        "repository/r",
        &format!("snapshot/{}", text(&objects[0]["metadata"]["name"])),
        "--wait=false",
    ]);
    shop.wait_until_empty();
    assert_eq!((shop.ids(), shop.jobs().len()), (before.clone(), 0));
    // A Repository of the same name has them again.
    shop.repository();
    assert_eq!(shop.wait_until_mirrored().len(), before.len());
}

fn what_goes_with_its_namespace_is_not_erased(world: &World) {
    let shop = world.shop();
    shop.restic(&["init"]);
    shop.repository();
    shop.backup("host-0", &[]);
    let before = shop.ids();
    shop.wait_until_mirrored();
    // What the namespace controller does: the Namespace is marked, then all that is in it is deleted, in any order.
    world.kubectl().run(&["delete", "namespace", shop.namespace.name(), "--wait=false"]);
    shop.delete(&["--all"]);
    shop.wait_until_empty();
    assert_eq!((shop.ids(), shop.jobs().len()), (before, 0));
}

fn what_goes_with_its_kind_is_not_erased(world: &World) {
    let shop = world.shop();
    shop.restic(&["init"]);
    shop.repository();
    shop.backup("host-0", &[]);
    let before = shop.ids();
    shop.wait_until_mirrored();
    world.kubectl().run(&["delete", "crd", "snapshots.repositories.stash.appscode.com", "--timeout=300s"]);
    assert_eq!((shop.ids(), shop.jobs().len()), (before, 0));
    // Whoever installs it again has them again.
    world.define();
    shop.wait_until_mirrored();
}
