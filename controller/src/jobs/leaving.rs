//! Claims that are being deleted: Kubernetes keeps a claim for as long as a pod names it, also one that has ended. What a Job of ours is
//! kept for (its log, the history) is worth less than that: a Job that is done, and of which all is known, goes with its claim.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Action;

use super::{CLAIMS_ANNOTATION, RESTORE_ANNOTATION, SESSION_ANNOTATION, is_done};
use crate::context::Context;
use crate::errors::{ReconcileError, is_not_found};
use crate::stores::as_ref_of;
use crate::{backup_session, restore_session};

/// How often is looked at a claim that a Job at work holds.
const LOOK: Duration = Duration::from_secs(2);

/// Looks at a claim: of one that is being deleted the Jobs that hold it and are done are deleted.
///
/// # Errors
///
/// The API server did not delete one.
pub async fn reconcile(
    claim: Arc<PartialObjectMeta<PersistentVolumeClaim>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    if claim.metadata.deletion_timestamp.is_none() {
        return Ok(Action::await_change());
    }
    let name = claim.name_any();
    let holders = context.stores.jobs.state_filter(|job| {
        job.metadata.namespace == claim.metadata.namespace
            && job.metadata.deletion_timestamp.is_none()
            && mounts(job, &name)
    });
    for job in holders.iter().filter(|job| is_done(job) && is_told(job, &context)) {
        let api = context.api::<Job>(&job.namespace().unwrap_or_default());
        match api.delete(&job.name_any(), &DeleteParams::background()).await {
            Err(error) if !is_not_found(&error) => return Err(ReconcileError::of("delete a Job that is done", error)),
            _ => tracing::info!(job = job.name_any(), claim = name, "a Job that is done goes with its claim"),
        }
    }
    // Nothing tells when one that is at work is done and written down.
    Ok(if holders.is_empty() { Action::await_change() } else { Action::requeue(LOOK) })
}

/// Whether the pod of a Job names a claim.
fn mounts(job: &Job, claim: &str) -> bool {
    job.annotations().get(CLAIMS_ANNOTATION).is_some_and(|claims| claims.split(',').any(|name| name == claim))
}

/// Whether what became of a Job was written down, or nobody will.
fn is_told(job: &Job, context: &Context) -> bool {
    let named = |annotation| job.annotations().get(annotation)?.split_once('/');
    if let Some((namespace, name)) = named(SESSION_ANNOTATION) {
        let session = context.stores.sessions.get(&as_ref_of(name, Some(namespace)));
        return session.is_none_or(|session| backup_session::phase::is_final(backup_session::history::phase(&session)));
    }
    if let Some((namespace, name)) = named(RESTORE_ANNOTATION) {
        let session = context.stores.restores.get(&as_ref_of(name, Some(namespace)));
        return session.is_none_or(|session| restore_session::phase::is_over(&session));
    }
    // Those of no session are looked after by their Repository, which makes another if it has to.
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn test_a_job_names_its_claims() {
        let job = |claims: &str| -> Job {
            serde_json::from_value(json!({"metadata": {"annotations": {CLAIMS_ANNOTATION: claims}}})).unwrap()
        };
        for (claims, claim, mounted) in
            [("data", "data", true), ("a,data", "data", true), ("data-0", "data", false), ("", "data", false)]
        {
            assert_eq!(mounts(&job(claims), claim), mounted, "{claims}");
        }
        assert!(!mounts(&Job::default(), "data"));
    }
}
