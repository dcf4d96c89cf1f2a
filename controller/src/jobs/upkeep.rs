//! How far a Job is that looks after a Repository and is of no session.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::{Due, Ended, ended, has_begun, is_done};
use crate::backup_session::report;
use crate::context::Context;

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is not done.
    AtWork {
        /// When it was made.
        made: Timestamp,
        /// Whether it has what it is told, as far as this process knows.
        has_secret: bool,
        /// Whether its pod runs.
        has_begun: bool,
    },
    /// It is done.
    Done {
        /// When.
        at: Timestamp,
        /// Why it failed, if it did.
        failed: Option<String>,
    },
}

/// Tells how far `job` is, as the stores have it.
pub fn progress(job: &Job, context: &Context) -> Progress {
    let made = job.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    if !is_done(job) {
        let has_begun = has_begun(job, &context.stores.pods);
        let due = context.handed.due(&job.uid().unwrap_or_default(), context.now());
        return Progress::AtWork { made, has_secret: has_begun || due == Due::Never, has_begun };
    }
    let owns = |pod: &Pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref());
    let pods = context.stores.pods.state_filter(owns);
    let failed = match ended(job, &pods.iter().map(|pod| &**pod).collect::<Vec<_>>()) {
        Ended::Message(message) => report::failure(&message),
        Ended::Silent(why) | Ended::Disrupted(why) => {
            // A pod that is gone tells nothing; the Job itself does.
            let well = job.status.as_ref().is_some_and(|status| status.completion_time.is_some());
            (!well).then(|| format!("the Job ended without a report: {why}"))
        }
        Ended::No => Some("the Job failed".to_owned()),
    };
    let status = job.status.clone().unwrap_or_default();
    let ended =
        status.completion_time.or_else(|| status.conditions?.into_iter().find_map(|said| said.last_transition_time));
    Progress::Done { at: ended.map_or(made, |time| time.0), failed }
}
