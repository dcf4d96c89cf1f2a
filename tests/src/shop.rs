//! An API server and a controller, of which the test is the job controller and the kubelet: it makes the pods of Jobs, and ends them
//! with a report.

use jiff::Timestamp;
use serde_json::{Value, json};
use stash_proto::job::{
    BackupOutcome, Checked, FileCounts, Forgotten, JobReport, MaintainOutcome, Outcome, SnapshotReport, Stats, Step,
};

use crate::cluster::{ApiServer, Kubectl, Namespace, wait_until};
use crate::controller::{Controller, IMAGE};

/// A schedule that is never due while a test runs.
pub const SELDOM: &str = "0 0 29 2 *";
/// The password of the repository.
pub const PASSWORD: &str = "correct horse battery staple";

/// A server with the definitions of all kinds, a controller, and where that one logs.
#[derive(Debug)]
pub struct World {
    server: ApiServer,
    folder: tempfile::TempDir,
}

impl World {
    /// Starts the server.
    pub fn start() -> Self {
        let world = Self { server: ApiServer::start(), folder: tempfile::tempdir().unwrap() };
        for definition in stash_crds::definitions() {
            world.kubectl().apply(&serde_json::to_value(definition).unwrap());
        }
        world.kubectl().wait_for_definitions();
        world
    }

    /// A client with all rights.
    pub fn kubectl(&self) -> &Kubectl {
        self.server.kubectl()
    }

    /// Starts a controller.
    pub fn controller(&self, arguments: &[&str]) -> Controller {
        self.controller_named("controller", arguments)
    }

    /// Starts one of several controllers, with a log of its own.
    pub fn controller_named(&self, name: &str, arguments: &[&str]) -> Controller {
        let log = self.folder.path().join(format!("{name}.log"));
        Controller::start(self.kubectl().kubeconfig(), &log, arguments)
    }

    /// The same after one whose rights are still there.
    pub fn controller_again(&self, name: &str, arguments: &[&str]) -> Controller {
        let log = self.folder.path().join(format!("{name}.log"));
        Controller::start_again(self.kubectl().kubeconfig(), &log, arguments)
    }

    /// Makes a namespace.
    pub fn shop(&self) -> Shop<'_> {
        Shop { namespace: self.server.namespace() }
    }
}

/// A namespace with a claim to back up.
#[derive(Debug)]
pub struct Shop<'a> {
    /// Its namespace.
    pub namespace: Namespace<'a>,
}

impl Shop<'_> {
    /// The claim.
    pub fn claim(&self) {
        self.namespace.apply(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        }));
    }

    /// The Secret of the Repository.
    pub fn secret(&self, keys: Value) {
        self.namespace
            .apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": keys}));
    }

    /// The Repository.
    pub fn repository(&self, endpoint: &str) {
        self.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1alpha1", "kind": "Repository", "metadata": {"name": "repo"},
            "spec": {"backend": {"storageSecretName": "s3", "s3": {"endpoint": endpoint, "bucket": "b", "prefix": "shop"}}}
        }));
    }

    /// A configuration that backs up the claim.
    pub fn configuration(&self, schedule: &str, more: Value) {
        let mut spec = json!({
            "schedule": schedule, "repository": {"name": "repo"},
            "target": {"ref": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data"}},
            "retentionPolicy": {"name": "keep", "keepLast": 5, "prune": true}
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupConfiguration", "metadata": {"name": "nightly"}, "spec": spec
        }));
    }

    /// All that a backup needs.
    pub fn ready(&self, more: Value) {
        self.claim();
        self.secret(json!({"RESTIC_PASSWORD": PASSWORD, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "OTHER": "x"}));
        self.repository("http://s3.example:9000");
        self.configuration(SELDOM, more);
        self.namespace.wait("backupconfiguration/nightly", "jsonpath={.status.phase}=Ready");
    }

    /// A session made by hand, as `kubectl stash trigger` does.
    pub fn trigger(&self, name: &str) {
        self.namespace.apply(json!({
            "apiVersion": "stash.appscode.com/v1beta1", "kind": "BackupSession", "metadata": {"name": name},
            "spec": {"invoker": {"apiGroup": "stash.appscode.com", "kind": "BackupConfiguration", "name": "nightly"}}
        }));
    }

    /// Returns all objects of a kind.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        self.namespace.get(kind)["items"].as_array().unwrap().clone()
    }

    /// Returns a session.
    pub fn session(&self, name: &str) -> Value {
        self.namespace.get(&format!("backupsession/{name}"))
    }

    /// Waits until a session has a phase, and returns it.
    pub fn wait_for_phase(&self, session: &str, phase: &str) -> Value {
        self.namespace.wait(&format!("backupsession/{session}"), &format!("jsonpath={{.status.phase}}={phase}"));
        self.session(session)
    }

    /// Waits until there is a Job, and returns it.
    pub fn wait_for_job(&self, name: &str) -> Value {
        wait_until(&format!("Job {name}"), || {
            let jobs = self.list("jobs");
            jobs.into_iter().find(|job| job["metadata"]["name"] == name)
        })
    }

    /// Waits until a condition of an object has a reason, and returns it.
    pub fn wait_for_condition(&self, what: &str, aspect: &str, expected: &str) -> Value {
        let reason = format!("{aspect} of {what} to be {expected}");
        wait_until(&reason, || condition(&self.namespace.get(what), aspect).filter(|said| said["reason"] == expected))
    }

    /// Ends a Job: its pod leaves `message`.
    pub fn end(&self, job: &Value, message: &str, exit_code: i32) {
        let pod = self.pod(job);
        let state = json!({"terminated": {"exitCode": exit_code, "message": message, "reason": if exit_code == 0 { "Completed" } else { "Error" }}});
        self.patch_status(
            "pod",
            &pod,
            &json!({"phase": if exit_code == 0 { "Succeeded" } else { "Failed" }, "containerStatuses": [
                {"name": "stash", "image": IMAGE, "imageID": "", "ready": false, "restartCount": 0, "state": state}
            ]}),
        );
        self.done(job, exit_code == 0);
    }

    /// Says of a Job that it is done, as the job controller does when its pod is.
    pub fn done(&self, job: &Value, well: bool) {
        let time = Timestamp::now().to_string();
        let condition = |kind: &str, reason: &str| json!({"type": kind, "status": "True", "reason": reason, "lastTransitionTime": time});
        let status = if well {
            let conditions =
                [condition("SuccessCriteriaMet", "CompletionsReached"), condition("Complete", "CompletionsReached")];
            json!({"startTime": time, "completionTime": time, "succeeded": 1, "conditions": conditions})
        } else {
            let conditions =
                [condition("FailureTarget", "BackoffLimitExceeded"), condition("Failed", "BackoffLimitExceeded")];
            json!({"startTime": time, "failed": 1, "conditions": conditions})
        };
        self.patch_status("job", job["metadata"]["name"].as_str().unwrap(), &status);
    }

    /// Makes the pod of a Job, as the job controller does.
    pub fn pod(&self, job: &Value) -> String {
        let name = format!("{}-x", job["metadata"]["name"].as_str().unwrap());
        let template = &job["spec"]["template"];
        let mut metadata = template["metadata"].clone();
        metadata["name"] = json!(name);
        metadata["labels"]["batch.kubernetes.io/job-name"] = job["metadata"]["name"].clone();
        metadata["ownerReferences"] = json!([{
            "apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"], "controller": true
        }]);
        self.namespace
            .apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}));
        name
    }

    /// Writes the status of an object.
    pub fn patch_status(&self, kind: &str, name: &str, status: &Value) {
        let patch = json!({"status": status}).to_string();
        self.namespace.run(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch]);
    }

    /// Plays all Jobs of a session; returns how it ended.
    pub fn play(&self, session: &str) -> Value {
        let job = self.wait_for_job(&format!("stash-backup-{session}-0"));
        self.end(&job, &backed_up(), 0);
        let job = self.wait_for_job(&format!("stash-maintenance-{session}"));
        self.end(&job, &maintained(), 0);
        self.wait_for_phase(session, "Succeeded")
    }
}

/// Returns a condition of an object's status.
pub fn condition(object: &Value, aspect: &str) -> Option<Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == aspect).cloned()
}

/// Returns an object's conditions as `type=status`, in order.
pub fn said(object: &Value) -> Vec<String> {
    let conditions = object["conditions"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    conditions.iter().map(|condition| format!("{}={}", text(&condition["type"]), text(&condition["status"]))).collect()
}

/// Returns what the Job of a host reports.
pub fn backed_up() -> String {
    let snapshot = SnapshotReport {
        id: "ab".repeat(32),
        path: "/stash-data".to_owned(),
        total_bytes: 5_452_595,
        uploaded_bytes: 1_048_577,
        processing_seconds: 61.2,
        files: FileCounts { total: 9, new: 2, modified: 3, unmodified: 4 },
    };
    let outcome = BackupOutcome { initialized: true, snapshots: vec![snapshot], ..BackupOutcome::default() };
    JobReport { outcome: Outcome::Backup(outcome), ..report() }.to_message()
}

/// Returns what the Job that looks after a repository reports.
pub fn maintained() -> String {
    let outcome = MaintainOutcome {
        forget: Some(Step::Done(Forgotten { kept: 5, removed: 1 })),
        check: Some(Step::Done(Checked { integrity: true, ..Checked::default() })),
        stats: Some(Step::Done(Stats { total_bytes: 1_572_864, snapshots: 5, ..Stats::default() })),
        ..MaintainOutcome::default()
    };
    JobReport { outcome: Outcome::Maintain(outcome), ..report() }.to_message()
}

/// Returns a report without an outcome.
pub fn report() -> JobReport {
    JobReport::new("2026-01-01T00:00:00Z".to_owned(), "2026-01-01T00:00:01Z".to_owned(), 1.5)
}
