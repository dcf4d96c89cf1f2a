//! How many backups run on a node at once, where that is bounded.
//!
//! What counts are the Jobs that have to run on the node, because a volume can be read nowhere else; others go where the scheduler finds
//! room. A Job that was made a moment ago is not in the store yet, so its place is remembered until it is.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt as _;
use kube::runtime::reflector::{ObjectRef, Store};
use parking_lot::Mutex;

use crate::jobs;
use crate::names;
use crate::plan::until;

/// How long a place is kept for a Job that the store does not show: it was not made.
const KEPT: Duration = Duration::from_secs(30);

/// The places that were given away and are not in the store yet.
#[derive(Debug, Default)]
pub struct NodePlaces {
    given: Mutex<HashMap<ObjectRef<Job>, (String, Timestamp)>>,
}

impl NodePlaces {
    /// Takes a place for `job` on `node`, of `limit`. Returns whether there was one, or the Job has one already.
    pub fn take(&self, job: ObjectRef<Job>, node: &str, limit: usize, jobs: &Store<Job>, now: Timestamp) -> bool {
        let mut given = self.given.lock();
        given.retain(|job, (_, when)| jobs.get(job).is_none() && until(now, *when) < KEPT);
        if given.contains_key(&job) || jobs.get(&job).is_some() {
            return true;
        }
        let at_work =
            jobs.state_filter(|job| is_backup(job) && !jobs::is_done(job) && jobs::node_of(job) == Some(node));
        let promised = given.values().filter(|(of, _)| of == node).count();
        let is_free = at_work.len() + promised < limit;
        if is_free {
            given.insert(job, (node.to_owned(), now));
        }
        is_free
    }
}

fn is_backup(job: &Job) -> bool {
    names::is_of_backup(&job.name_any())
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector::store;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn job(name: &str, node: &str, done: bool) -> Job {
        let status = if done { json!({"completionTime": "2026-01-01T00:00:00Z"}) } else { json!({"active": 1}) };
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "annotations": {"stash.appscode.com/node": node}},
            "status": status
        }))
        .unwrap()
    }

    fn named(name: &str) -> ObjectRef<Job> {
        ObjectRef::new(name).within("shop")
    }

    #[test]
    fn test_places_of_a_node_are_given_away_once() {
        let (jobs, mut writer) = store();
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        for seen in [
            job("stash-backup-a-0", "one", false),
            job("stash-backup-b-0", "one", true),
            job("stash-maintenance-c", "one", false),
            job("stash-backup-d-0", "two", false),
        ] {
            writer.apply_watcher_event(&Event::Apply(seen));
        }
        let places = NodePlaces::default();
        let take = |name: &str, limit, second| places.take(named(name), "one", limit, &jobs, at(second));
        // One is at work; what is done, of another kind or on another node does not count.
        assert!(!take("stash-backup-e-0", 1, 0));
        assert!(take("stash-backup-e-0", 2, 0));
        // It is not in the store yet, and counts.
        assert!(!take("stash-backup-f-0", 2, 1));
        assert!(take("stash-backup-e-0", 2, 1), "it has its place");
        assert!(take("stash-backup-a-0", 1, 1), "it is there already");
        // Nobody made it.
        assert!(take("stash-backup-f-0", 2, 31));
        writer.apply_watcher_event(&Event::Apply(job("stash-backup-f-0", "one", false)));
        assert!(!take("stash-backup-g-0", 2, 32));
        assert!(take("stash-backup-g-0", 3, 32));
    }
}
