//! Those who work on what the controller makes: the job controller and the kubelet, who run Jobs, and the collector of what has no owner.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use parking_lot::Mutex;
use serde_json::{Value, json};
use stash_crds::BackupSession;
use stash_proto::job::{
    BackupOutcome, Checked, Forgotten, JobReport, MaintainOutcome, Outcome, SnapshotReport, Stats, Step,
};
use tokio::sync::Semaphore;

use crate::world::{AT_ONCE, World};

/// What was seen of the sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Play {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By name: how many seconds after its time a session was there.
    sessions: HashMap<String, f64>,
    /// By name: how it ended.
    ended: HashMap<String, String>,
}

impl Play {
    /// Returns by name how many seconds after its time each session was there.
    pub(crate) fn sessions(&self) -> HashMap<String, f64> {
        self.seen.lock().sessions.clone()
    }

    /// Returns how many sessions ended, by phase.
    pub(crate) fn ended(&self) -> HashMap<String, usize> {
        let mut count = HashMap::new();
        for phase in self.seen.lock().ended.values() {
            *count.entry(phase.clone()).or_default() += 1;
        }
        count
    }
}

/// Starts to play.
pub(crate) fn start(world: &World) -> Play {
    let play = Play::default();
    let (jobs, pods, secrets) = (world.api::<Job>(), world.api::<Pod>(), world.api::<Secret>());
    let (seen, owned) = (play.clone(), (jobs.clone(), pods.clone(), secrets));
    let sessions = watcher(world.api::<BackupSession>(), watcher::Config::default()).default_backoff();
    tokio::spawn(watch_sessions(sessions, seen, owned));
    tokio::spawn(watch_jobs(watcher(jobs.clone(), watcher::Config::default()).default_backoff(), jobs, pods));
    play
}

/// Waits until it is `time`.
pub(crate) async fn until(time: Timestamp) {
    let left = std::time::Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default();
    crate::pause(left).await;
}

async fn watch_sessions(
    events: impl Stream<Item = Result<Event<BackupSession>, watcher::Error>>,
    play: Play,
    (jobs, pods, secrets): (Api<Job>, Api<Pod>, Api<Secret>),
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        // An interruption is another watch's matter: the stream goes on by itself.
        let Ok(event) = event else { continue };
        match event {
            Event::Apply(session) | Event::InitApply(session) => {
                let name = session.name_any();
                let mut seen = play.seen.lock();
                seen.sessions.entry(name.clone()).or_insert_with(|| late(&name));
                if let Some(phase) = session.status.and_then(|status| status.phase)
                    && ["Succeeded", "Failed", "Skipped"].contains(&phase.to_string().as_str())
                {
                    seen.ended.insert(name, phase.to_string());
                }
            }
            Event::Delete(session) => {
                let name = session.name_any();
                let (jobs, pods, secrets) = (jobs.clone(), pods.clone(), secrets.clone());
                tokio::spawn(async move {
                    for job in [format!("stash-backup-{name}-0"), format!("stash-maintenance-{name}")] {
                        let now = DeleteParams::default().grace_period(0);
                        // A session that was skipped had none.
                        drop(jobs.delete(&job, &DeleteParams::background()).await);
                        drop(secrets.delete(&job, &DeleteParams::default()).await);
                        drop(pods.delete(&format!("{job}-x"), &now).await);
                    }
                });
            }
            Event::Init | Event::InitDone => {}
        }
    }
}

fn late(name: &str) -> f64 {
    let due: i64 = name.rsplit_once('-').and_then(|(_, time)| time.parse().ok()).unwrap_or(0);
    Timestamp::now().duration_since(Timestamp::from_second(due).unwrap()).as_secs_f64()
}

async fn watch_jobs(events: impl Stream<Item = Result<Event<Job>, watcher::Error>>, jobs: Api<Job>, pods: Api<Pod>) {
    let (mut events, places) = (std::pin::pin!(events), Arc::new(Semaphore::new(AT_ONCE)));
    let mut played = HashSet::new();
    while let Some(event) = events.next().await {
        let Ok(event) = event else { continue };
        match event {
            Event::Apply(job) | Event::InitApply(job) => {
                if played.insert(job.uid().unwrap()) {
                    let (jobs, pods, places) = (jobs.clone(), pods.clone(), Arc::clone(&places));
                    tokio::spawn(async move {
                        let _place = places.acquire().await.unwrap();
                        run(&job, &jobs, &pods).await;
                    });
                }
            }
            Event::Delete(job) => drop(played.remove(&job.uid().unwrap())),
            Event::Init | Event::InitDone => {}
        }
    }
}

/// Runs a Job: its pod ends with a report, then the Job is complete.
async fn run(job: &Job, jobs: &Api<Job>, pods: &Api<Pod>) {
    let name = job.name_any();
    let template = serde_json::to_value(job.spec.clone().unwrap().template).unwrap();
    let mut metadata = template["metadata"].clone();
    metadata["name"] = json!(format!("{name}-x"));
    metadata["labels"]["batch.kubernetes.io/job-name"] = json!(name);
    metadata["ownerReferences"] =
        json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job.uid(), "controller": true}]);
    let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": template["spec"]})).unwrap();
    // Whatever fails here belongs to a session that is gone.
    if pods.create(&PostParams::default(), &pod).await.is_err() {
        return;
    }
    let message = if name.starts_with("stash-backup-") { backed_up() } else { maintained() };
    let terminated = json!({"terminated": {"exitCode": 0, "message": message, "reason": "Completed"}});
    let container = json!({
        "name": "stash", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": terminated
    });
    let status = json!({"phase": "Succeeded", "containerStatuses": [container]});
    patch(pods, &format!("{name}-x"), status).await;
    let time = Timestamp::now().to_string();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": time});
    let conditions = [condition("SuccessCriteriaMet"), condition("Complete")];
    patch(jobs, &name, json!({"startTime": time, "completionTime": time, "succeeded": 1, "conditions": conditions}))
        .await;
}

async fn patch<K: Clone + serde::de::DeserializeOwned + std::fmt::Debug>(api: &Api<K>, name: &str, status: Value) {
    drop(api.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await);
}

fn report(outcome: Outcome) -> String {
    let report = JobReport::new("2026-01-01T00:00:00Z".to_owned(), "2026-01-01T00:00:01Z".to_owned(), 1.0);
    JobReport { outcome, ..report }.to_message()
}

fn backed_up() -> String {
    let snapshot = SnapshotReport { id: "ab".repeat(32), path: "/stash-data".to_owned(), ..SnapshotReport::default() };
    report(Outcome::Backup(BackupOutcome { snapshots: vec![snapshot], ..BackupOutcome::default() }))
}

fn maintained() -> String {
    report(Outcome::Maintain(MaintainOutcome {
        forget: Some(Step::Done(Forgotten { kept: 5, removed: 1 })),
        check: Some(Step::Done(Checked { integrity: true, ..Checked::default() })),
        stats: Some(Step::Done(Stats { total_bytes: 1_572_864, snapshots: 5, ..Stats::default() })),
        ..MaintainOutcome::default()
    }))
}
