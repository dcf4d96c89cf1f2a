//! Jobs of the release namespace have no owner there: when their session is gone, they are deleted here.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use stash_crds::BackupSession;

use super::{SESSION_ANNOTATION, SESSION_UID_ANNOTATION};
use crate::context::Context;
use crate::errors::is_not_found;
use crate::stores::as_ref_of;

/// How often is looked.
const EVERY: Duration = Duration::from_secs(20);

/// Deletes the Jobs of the release namespace of which the session is gone, again and again.
pub async fn sweep(context: Arc<Context>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let known: HashSet<String> = context.stores.jobs.state().iter().filter_map(|job| job.uid()).collect();
        context.handed.keep(|job| known.contains(job), context.now());
        let release = &context.options.release_namespace;
        let orphan = |job: &Job| {
            let known =
                session_of(job).map(|(namespace, name)| context.stores.sessions.get(&as_ref_of(name, Some(namespace))));
            job.namespace().as_ref() == Some(release)
                && is_orphan(job, known.map(|found| found.and_then(|found| found.uid())))
        };
        for job in context.stores.jobs.state_filter(orphan) {
            if let Err(error) = remove(&job, &context).await {
                tracing::warn!(job = job.name_any(), %error, "a Job without a session could not be deleted");
            }
        }
    }
}

fn session_of(job: &Job) -> Option<(&str, &str)> {
    job.annotations().get(SESSION_ANNOTATION)?.split_once('/')
}

/// Whether a Job is of a session of another uid than the one that is known by its name. One that names none is not ours to delete.
fn is_orphan(job: &Job, known: Option<Option<String>>) -> bool {
    let Some(known) = known else { return false };
    job.owner_references().is_empty()
        && job.metadata.deletion_timestamp.is_none()
        && job.annotations().get(SESSION_UID_ANNOTATION).is_some_and(|uid| Some(uid) != known.as_ref())
}

/// The store may be behind: that the session is gone has to be certain.
async fn remove(job: &Job, context: &Context) -> Result<(), kube::Error> {
    let Some((namespace, name)) = session_of(job) else { return Ok(()) };
    let session = context.api::<BackupSession>(namespace).get_opt(name).await?;
    if !is_orphan(job, Some(session.and_then(|session| session.uid()))) {
        return Ok(());
    }
    let release = job.namespace().unwrap_or_default();
    match context.api::<Job>(&release).delete(&job.name_any(), &DeleteParams::background()).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn test_jobs_of_sessions_that_are_gone() {
        let job = |annotations: serde_json::Value| -> Job {
            serde_json::from_value(json!({"metadata": {"name": "j", "annotations": annotations}})).unwrap()
        };
        let ours = job(json!({SESSION_ANNOTATION: "shop/nightly-1", SESSION_UID_ANNOTATION: "u"}));
        assert_eq!(session_of(&ours), Some(("shop", "nightly-1")));
        for (known, expected) in
            [(Some(None), true), (Some(Some("u")), false), (Some(Some("another")), true), (None, false)]
        {
            let known = known.map(|uid: Option<&str>| uid.map(str::to_owned));
            assert_eq!(is_orphan(&ours, known.clone()), expected, "{known:?}");
        }
        assert!(!is_orphan(&job(json!({})), Some(None)));
    }
}
