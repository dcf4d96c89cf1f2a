//! Does what a session's plan says. Names are functions of the session, so what was done before is found and not done again.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Patch};
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use stash_crds::target::Driver;
use stash_crds::{BackupSession, Repository};

use super::observe::{Seen, is_owned, locate};
use super::plan::{
    Action, Figures, HookRun, Host, Observed, Plan, executor_failed, history_failed, host_failed, host_waits,
    retention_failed,
};
use crate::backup_configuration;
use crate::backup_configuration::plan::NewSession;
use crate::backup_configuration::validate;
use crate::context::Context;
use crate::errors::{ReconcileError, is_not_found};
use crate::executor::{self, ExecutorError};
use crate::hooks::call::Call;
use crate::hooks::perform::Request;
use crate::parts::write_parts;
use crate::{names, volume_snapshots};

/// Does what `plan` says, and says in it what could not be done and never will.
///
/// # Errors
///
/// Something could not be done yet. The status is then not written, and the plan is made again.
pub async fn apply(
    plan: &mut Plan,
    observed: &Observed<'_>,
    seen: &Seen,
    context: &Context,
) -> Result<(), ReconcileError> {
    let session = observed.session;
    let namespace = session.namespace().unwrap_or_default();
    for action in plan.actions.clone() {
        match action {
            Action::WriteParts(parts) => write_parts(session, &parts, context).await?,
            Action::RetainVolumeSnapshots => retain(plan, observed, context).await?,
            Action::AnnounceHook(point) => context.hooks.announce(&session.uid().unwrap_or_default(), point),
            Action::RunHook(run) => run_hook(&run, observed, context),
            Action::StartBackup(host) => match start(session, observed, seen, &host, context).await {
                Ok(()) => {}
                Err(ExecutorError::Busy(why)) => host_waits(plan, &why, context.now()),
                Err(ExecutorError::Host(why)) if observed.hosts.len() > 1 => host_failed(plan, &host.name, &why),
                Err(ExecutorError::Impossible(why) | ExecutorError::Host(why)) => {
                    executor_failed(plan, &why, context.now());
                }
                Err(ExecutorError::Reconcile(error)) => return Err(error),
            },
            Action::StartUpkeep => match executor::start_upkeep(session, seen, context).await {
                Ok(()) => {}
                // Nothing is lost by trying again: the data is there.
                Err(ExecutorError::Impossible(why) | ExecutorError::Host(why) | ExecutorError::Busy(why)) => {
                    tracing::warn!(session = session.name_any(), why, "the repository cannot be looked after yet");
                    plan.requeue = Some(std::time::Duration::from_secs(10));
                }
                Err(ExecutorError::Reconcile(error)) => return Err(error),
            },
            Action::StopJobs(jobs) => {
                for job in jobs {
                    if let Some(found) = locate(session, &job, context).await?
                        && is_owned(&found, session)
                    {
                        delete::<Job>(&found.namespace().unwrap_or_default(), &found.name_any(), context).await?;
                    }
                }
            }
            Action::WriteFigures(figures) => write_figures(seen.repository.as_deref(), &figures, context).await?,
            Action::CreateRetry { name, retry_left } => {
                if let Some(invoker) = &seen.invoker {
                    let target = invoker.spec.target.as_ref().and_then(|target| target.reference.clone());
                    let labels = names::session_labels(
                        invoker.metadata.labels.as_ref(),
                        &invoker.name_any(),
                        &target.unwrap_or_default(),
                        &namespace,
                    );
                    backup_configuration::create(
                        &NewSession { name, time: context.now(), labels, retry_left, retry_of: session.uid() },
                        invoker,
                        context,
                    )
                    .await?;
                }
            }
            Action::DeleteSessions(sessions) => {
                for name in sessions {
                    if let Err(error) = delete::<BackupSession>(&namespace, &name, context).await {
                        history_failed(plan, &format!("BackupSession {name} could not be deleted."), context.now());
                        tracing::warn!(name, error = error.story(), "an old session could not be deleted");
                    }
                }
            }
        }
    }
    Ok(())
}

/// Starts the Job of a host. The first makes the repository if there is none.
async fn start(
    session: &BackupSession,
    observed: &Observed<'_>,
    seen: &Seen,
    host: &Host,
    context: &Context,
) -> Result<(), ExecutorError> {
    if let (Some(claim), Some(invoker)) = (&host.part, observed.invoker)
        && invoker.spec.driver == Driver::VolumeSnapshotter
    {
        return volume_snapshots::create(session, invoker, claim, context).await;
    }
    let is_first = observed.hosts.first() == Some(host);
    executor::start_backup(session, seen, host, is_first, context).await
}

/// Deletes VolumeSnapshots that are kept no longer. What the API server refuses is said.
async fn retain(plan: &mut Plan, observed: &Observed<'_>, context: &Context) -> Result<(), ReconcileError> {
    let Some(invoker) = observed.invoker else { return Ok(()) };
    let claims: Vec<String> = observed.hosts.iter().filter_map(|host| host.part.clone()).collect();
    let policy = &invoker.spec.retention_policy;
    match volume_snapshots::retain(observed.session, invoker, &claims, policy, context).await {
        Err(error @ ReconcileError::Refused { .. }) => {
            retention_failed(plan, &error.story(), context.now());
            Ok(())
        }
        retained => retained,
    }
}

/// Starts a hook. How it ends is looked for by the next plan.
fn run_hook(run: &HookRun, observed: &Observed<'_>, context: &Context) {
    let uid = observed.session.uid().unwrap_or_default();
    let (wakes, session) = (Arc::clone(&context.wakes.sessions), ObjectRef::from_obj(observed.session));
    context.start_hook(&uid, run.point, hook_request(run, observed, context), move || wakes.wake(session));
}

/// Reads a hook anew: what was checked before may have been changed since.
fn hook_request(run: &HookRun, observed: &Observed<'_>, context: &Context) -> Result<Request, Vec<String>> {
    let addresses = context.options.addresses.clone();
    let one = |problem: &str| vec![problem.to_owned()];
    let invoker = observed.invoker.ok_or_else(|| one("the BackupConfiguration does not exist"))?;
    let hook = run.point.hook(invoker).ok_or_else(|| one("it was taken out of the configuration"))?;
    Ok(Request {
        call: Call::read(hook, &addresses)?,
        target: validate::target(invoker).map_err(|problem| vec![problem])?,
        namespace: observed.session.namespace().unwrap_or_default(),
        ordinals: observed.hosts.iter().filter_map(|host| host.ordinal).collect(),
        everywhere: invoker.spec.driver == Driver::VolumeSnapshotter,
        nodes: observed.hosts.iter().filter_map(|host| host.part.clone()).collect(),
        data: run.summary.value(),
        limit: run.limit,
        addresses,
    })
}

async fn delete<K>(namespace: &str, name: &str, context: &Context) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    match context.api::<K>(namespace).delete(name, &DeleteParams::background()).await {
        Err(error) if !is_not_found(&error) => {
            Err(ReconcileError::of(format!("delete {} {name}", K::kind(&())), error))
        }
        _ => Ok(()),
    }
}

/// Writes what is known of a repository beside what its own reconciler says: other fields of the same status.
async fn write_figures(
    repository: Option<&Repository>,
    figures: &Figures,
    context: &Context,
) -> Result<(), ReconcileError> {
    let Some(repository) = repository else { return Ok(()) };
    let (namespace, name) = (repository.namespace().unwrap_or_default(), repository.name_any());
    let parameters = Context::patch_parameters();
    let patch = Patch::Merge(json!({ "status": figures }));
    match context.api::<Repository>(&namespace).patch_status(&name, &parameters, &patch).await {
        Err(error) if !is_not_found(&error) => {
            Err(ReconcileError::of(format!("write the figures of Repository {name}"), error))
        }
        _ => Ok(()),
    }
}
