//! RestoreSessions: one restore of a target. Strategy `Copy`: a Job for each host, which writes into the target's claims. `Attach` and `Overlay`:
//! claims that are the snapshot itself ([`attach`]); so are those that the storage fills from VolumeSnapshots ([`snapshotter`]). Workloads whose pods run are restored by an init container of these ([`at_start`]).

use std::sync::Arc;

use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use stash_crds::{RestoreSession, names as labels};

use crate::context::Context;
use crate::errors::ReconcileError;

pub mod apply;
pub mod at_start;
pub mod attach;
pub mod claims;
pub mod observe;
pub mod phase;
pub mod plan;
pub mod report;
pub mod rules;
pub mod shown;
pub mod snapshotter;
pub mod validate;

/// Looks at a RestoreSession.
///
/// # Errors
///
/// The API server did not do what it should.
pub async fn reconcile(session: Arc<RestoreSession>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let seen = observe::observe(&session, &context).await?;
    let observed = seen.observed(&session, &context);
    if plan::waits(&observed) {
        return Ok(Action::await_change());
    }
    let mut plan = plan::plan(&observed, context.now());
    apply::apply(&mut plan, &observed, &seen, &context).await?;
    if session.metadata.deletion_timestamp.is_some() {
        if plan.release {
            context.release(&*session, labels::INVOKER_FINALIZER).await?;
        }
        return Ok(Action::await_change());
    }
    if session.status.as_ref() != Some(&plan.status) {
        context.apply_status(&*session, &plan.status).await?;
        let old = session.status.clone().unwrap_or_default();
        context.tell(&*session, &plan::notices(&old, &plan.status)).await;
        tracing::info!(restore = session.name_any(), phase = ?plan.status.phase, "status");
    }
    if phase::is_final(plan.status.phase.as_ref()) {
        context.hooks.forget(session.metadata.uid.as_deref().unwrap_or_default());
    }
    Ok(plan.requeue.map_or_else(Action::await_change, Action::requeue))
}
