//! BackupSessions: one run of a backup, from its Jobs to its history.

use std::sync::Arc;

use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use stash_crds::BackupSession;

use crate::context::Context;
use crate::errors::ReconcileError;

pub mod apply;
pub mod history;
pub mod observe;
pub mod outcome;
pub mod phase;
pub mod plan;
pub mod report;

/// Looks at a BackupSession.
///
/// # Errors
///
/// The API server did not do what it should.
pub async fn reconcile(session: Arc<BackupSession>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if session.spec.invoker.kind != "BackupConfiguration" {
        tracing::debug!(kind = session.spec.invoker.kind, "sessions of this kind are not looked after yet");
        return Ok(Action::await_change());
    }
    let seen = observe::observe(&session, &context).await?;
    let observed = seen.observed(&session, &context);
    let mut plan = plan::plan(&observed, context.now());
    apply::apply(&mut plan, &observed, &seen, &context).await?;
    if session.status.as_ref() != Some(&plan.status) {
        context.apply_status(&*session, &plan.status).await?;
        let old = session.status.clone().unwrap_or_default();
        context.tell(&*session, &plan::notices(&old, &plan.status)).await;
        tracing::info!(session = session.name_any(), phase = ?plan.status.phase, "status");
    }
    if phase::is_final(plan.status.phase.as_ref()) {
        context.hooks.forget(session.metadata.uid.as_deref().unwrap_or_default());
    }
    Ok(plan.requeue.map_or_else(Action::await_change, Action::requeue))
}
