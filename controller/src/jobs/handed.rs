//! Which Jobs have their Secret, as far as this process knows. Nobody may read those Secrets, so what was made is remembered; after a
//! restart it is found out by making it once more, for those Jobs alone whose pod does not run yet.

use std::collections::{BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::reflector::{ObjectRef, Store};
use parking_lot::Mutex;

use crate::context::Context;

/// The first and the longest pause after a Secret of that name was there: it may be that of a Job of the same name that is gone, which
/// the garbage collector takes away in a moment.
const PAUSES: (SignedDuration, SignedDuration) = (SignedDuration::from_secs(2), SignedDuration::from_mins(1));
/// How long it is remembered of a Job that no watch shows: it was made a moment ago.
const KEPT: SignedDuration = SignedDuration::from_mins(2);

/// What is known of a Job's Secret.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// When it was last tried to make it.
    at: Timestamp,
    /// How often one of its name was there; none if it was made by us.
    taken: Option<u32>,
}

/// When a Job's Secret is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It was made.
    Never,
    /// As soon as can be.
    Now,
    /// Not before this time: one of its name was there.
    At(Timestamp),
}

/// Which Jobs have their Secret, by the Job's uid.
#[derive(Debug, Default)]
pub struct Handed {
    entries: Mutex<HashMap<String, Entry>>,
}

impl Handed {
    /// Takes note that a Job's Secret was made.
    pub fn made(&self, job: &str, now: Timestamp) {
        self.entries.lock().insert(job.to_owned(), Entry { at: now, taken: None });
    }

    /// Takes note that a Secret of that name was there, made before a restart, or of another Job.
    pub fn taken(&self, job: &str, now: Timestamp) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(job.to_owned()).or_insert(Entry { at: now, taken: Some(0) });
        entry.at = now;
        entry.taken = entry.taken.map(|times| times.saturating_add(1));
    }

    /// Tells when a Job's Secret is to be made, where its pod does not run.
    pub fn due(&self, job: &str, now: Timestamp) -> Due {
        let Some(Entry { at, taken }) = self.entries.lock().get(job).copied() else { return Due::Now };
        let Some(times) = taken else { return Due::Never };
        let pause = (PAUSES.0 * 2_i32.pow(times.clamp(1, 10) - 1)).min(PAUSES.1);
        match at.checked_add(pause) {
            // A clock that was set back does not put it off.
            Ok(next) if next > now && at <= now => Due::At(next),
            _ => Due::Now,
        }
    }

    /// Forgets Jobs that are gone.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool, now: Timestamp) {
        self.entries.lock().retain(|job, entry| now.duration_since(entry.at) < KEPT || is_there(job));
    }
}

/// Tells when the Secret of a Job is to be made, if the stores have that Job. Whose pod runs has it.
pub fn secret_due(job: &ObjectRef<Job>, context: &Context) -> Due {
    let Some(job) = context.stores.jobs.get(job) else { return Due::Never };
    match context.handed.due(&job.uid().unwrap_or_default(), context.now()) {
        due if due == Due::Never || has_begun(&job, &context.stores.pods) => Due::Never,
        due => due,
    }
}

/// Returns the Jobs of which the Secret is due now, and when it is of the first other.
pub fn due(jobs: impl Iterator<Item = String>, when: impl Fn(&str) -> Due) -> (BTreeSet<String>, Option<Timestamp>) {
    let (mut now, mut later) = (BTreeSet::new(), None::<Timestamp>);
    for job in jobs {
        match when(&job) {
            Due::Never => {}
            Due::Now => drop(now.insert(job)),
            Due::At(time) => later = Some(later.map_or(time, |other| other.min(time))),
        }
    }
    (now, later)
}

/// Whether the container of `job` was started: then all is there that it waits for.
pub fn has_begun(job: &Job, pods: &Store<Pod>) -> bool {
    if job.status.as_ref().is_some_and(|status| status.ready.unwrap_or(0) > 0) {
        return true;
    }
    let runs = |pod: &Pod| {
        let statuses = pod.status.iter().filter_map(|status| status.container_statuses.as_ref()).flatten();
        let mut states = statuses.filter_map(|status| status.state.as_ref());
        states.any(|state| state.running.is_some() || state.terminated.is_some())
            && pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
    };
    pods.find(runs).is_some()
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector::store;
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn test_when_a_secret_is_made() {
        let handed = Handed::default();
        assert_eq!(handed.due("after a restart", at(0)), Due::Now);
        handed.made("a", at(0));
        assert_eq!(handed.due("a", at(10_000)), Due::Never);
        // It is known for certain, whatever is found later.
        handed.taken("a", at(1));
        assert_eq!(handed.due("a", at(10_000)), Due::Never);
        for (try_at, next) in [(100, 102), (102, 106), (106, 114), (114, 130), (130, 162), (162, 222), (222, 282)] {
            assert_eq!(handed.due("b", at(try_at)), Due::Now, "{try_at}");
            handed.taken("b", at(try_at));
            assert_eq!(handed.due("b", at(try_at)), Due::At(at(next)));
        }
        assert_eq!(handed.due("b", at(0)), Due::Now, "the clock was set back");
        handed.made("b", at(300));
        assert_eq!(handed.due("b", at(301)), Due::Never);
    }

    #[test]
    fn test_jobs_that_are_gone_are_forgotten() {
        let handed = Handed::default();
        handed.made("old", at(0));
        handed.made("there", at(0));
        handed.made("new", at(200));
        handed.keep(|job| job == "there", at(210));
        let due = |job: &str| handed.due(job, at(210));
        assert_eq!((due("old"), due("there"), due("new")), (Due::Now, Due::Never, Due::Never));
    }

    #[test]
    fn test_when_a_job_has_begun() {
        let (pods, mut writer) = store();
        let state = |state: Value| json!([{"name": "stash", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
        for (name, statuses) in [
            ("waits", state(json!({"waiting": {"reason": "ContainerCreating"}}))),
            ("runs", state(json!({"running": {}}))),
            ("ended", state(json!({"terminated": {"exitCode": 0}}))),
            ("new", json!([])),
        ] {
            let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": name}]);
            let pod = json!({"metadata": {"name": name, "namespace": "shop", "ownerReferences": owner},
                "status": {"containerStatuses": statuses}});
            writer.apply_watcher_event(&Event::Apply(serde_json::from_value::<Pod>(pod).unwrap()));
        }
        let begun = |uid: &str, status: Value| {
            let job = json!({"metadata": {"name": uid, "namespace": "shop", "uid": uid}, "status": status});
            has_begun(&serde_json::from_value(job).unwrap(), &pods)
        };
        for (job, expected) in [("waits", false), ("runs", true), ("ended", true), ("new", false), ("none", false)] {
            assert_eq!(begun(job, json!({"active": 1, "ready": 0})), expected, "{job}");
        }
        assert!(begun("none", json!({"active": 1, "ready": 1})));
    }
}
