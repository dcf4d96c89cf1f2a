//! Does what a restore's plan says. Names are functions of the session, so what was done before is found and not done again.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::reflector::ObjectRef;
use stash_crds::{RestoreSession, Snapshot};

use super::at_start::{self, Way};
use super::observe::{Seen, is_owned, locate};
use super::plan::{Action, Host, Observed, Plan, executor_failed, host_failed};
use super::validate::{Destination, destination};
use super::{attach, claims, snapshotter};
use crate::backup_configuration::validate::{Target, TargetKind};
use crate::backup_session::plan::HookRun;
use crate::context::Context;
use crate::errors::{ReconcileError, is_already_exists, is_not_found};
use crate::executor::{self, ExecutorError};
use crate::hooks::call::Call;
use crate::hooks::perform::Request;
use crate::parts::write_parts;
use crate::volume_snapshots;

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
    for action in plan.actions.clone() {
        match action {
            Action::WriteParts(parts) => write_parts(session, &parts, context).await?,
            Action::AnnounceHook(point) => context.hooks.announce(&session.uid().unwrap_or_default(), point),
            Action::RunHook(run) => run_hook(&run, observed, context),
            // Of a host that no rule is for there is no snapshot that its claims could be.
            Action::MakeClaims(_) if attach::is_wanted(session) => {}
            Action::MakeClaims(host) => match make_claims(session, &host, context).await {
                Ok(_) => {}
                Err(ExecutorError::Reconcile(error)) => return Err(error),
                Err(error) => {
                    plan.status.stats.retain(|stats| stats.hostname.as_deref() != Some(&host.name));
                    host_failed(plan, &host.name, &error.to_string());
                }
            },
            Action::StartRestore(host) => match start(session, seen, &host, context).await {
                Ok(()) => {}
                Err(ExecutorError::Host(why)) if observed.hosts.len() > 1 => host_failed(plan, &host.name, &why),
                Err(ExecutorError::Impossible(why) | ExecutorError::Host(why) | ExecutorError::Busy(why)) => {
                    executor_failed(plan, &why, context.now());
                }
                Err(ExecutorError::Reconcile(error)) => return Err(error),
            },
            Action::ChooseWay => {
                let (repository, labels) = (seen.repository.as_deref(), observed.namespace_labels);
                executor::at_start::decide(session, repository, labels, &observed.hosts, context).await?;
            }
            Action::Inject => match inject(plan, observed, seen, context).await {
                Ok(()) => {}
                Err(ExecutorError::Reconcile(error)) => return Err(error),
                Err(error) => executor_failed(plan, &error.to_string(), context.now()),
            },
            Action::Withdraw => executor::at_start::withdraw(session, context).await?,
            Action::Elect(elections) => {
                let Way::AtStart(orders) = &observed.way else { continue };
                executor::at_start::write_elections(session, &at_start::elect(orders, &elections), context).await?;
            }
            Action::StopJobs(jobs) => {
                for name in jobs {
                    stop(session, &name, context).await?;
                }
            }
        }
    }
    Ok(())
}

async fn inject(plan: &Plan, observed: &Observed<'_>, seen: &Seen, context: &Context) -> Result<(), ExecutorError> {
    let Way::AtStart(orders) = &observed.way else { return Ok(()) };
    let deadline = plan.status.session_deadline.as_ref().map(|deadline| deadline.0.as_second());
    executor::at_start::inject(observed.session, seen.repository.as_deref(), orders, deadline, context).await
}

async fn stop(session: &RestoreSession, name: &str, context: &Context) -> Result<(), ReconcileError> {
    let Some(found) = locate(session, name, context).await?.filter(|job| is_owned(job, session)) else { return Ok(()) };
    let namespace = found.namespace().unwrap_or_default();
    match context.api::<Job>(&namespace).delete(name, &DeleteParams::background()).await {
        Err(error) if !is_not_found(&error) => Err(ReconcileError::of(format!("delete Job {name}"), error)),
        _ => Ok(()),
    }
}

/// Starts the Job of a host. Its claims are there before it.
async fn start(session: &RestoreSession, seen: &Seen, host: &Host, context: &Context) -> Result<(), ExecutorError> {
    if attach::is_wanted(session) {
        return attach_claims(session, host, context).await;
    }
    if snapshotter::is_wanted(session) {
        return fill_claims(session, host, context).await;
    }
    let made = make_claims(session, host, context).await?;
    executor::restore::start(session, seen.repository.as_deref(), host, &made, context).await
}

/// Makes the claims of a host that show a snapshot.
async fn attach_claims(session: &RestoreSession, host: &Host, context: &Context) -> Result<(), ExecutorError> {
    let repository = session.spec.repository.clone().unwrap_or_default().name;
    let namespace = session.namespace().unwrap_or_default();
    let all = context.api::<Snapshot>(&namespace).list(&ListParams::default()).await;
    let what = || format!("list the Snapshots of Repository {repository}");
    let all = all.map_err(|error| ReconcileError::of(what(), error))?;
    let class = &context.options.storage_class;
    let wanted = attach::claims(session, &host.name, host.ordinal, class, &all.items).map_err(ExecutorError::Host)?;
    create_claims(session, wanted, context).await.map(drop)
}

/// Makes the claim of a host that the storage fills from a VolumeSnapshot.
async fn fill_claims(session: &RestoreSession, host: &Host, context: &Context) -> Result<(), ExecutorError> {
    let wanted = snapshotter::of_host(session, host).map_err(ExecutorError::Host)?;
    let namespace = session.namespace().unwrap_or_default();
    for name in wanted.iter().filter_map(snapshotter::source) {
        // Without it the claim would wait for ever.
        if !volume_snapshots::exists(&namespace, name, context).await? {
            return Err(ExecutorError::Host(format!("VolumeSnapshot {namespace}/{name} does not exist")));
        }
    }
    create_claims(session, wanted, context).await.map(drop)
}

/// Makes the claims of a host.
async fn make_claims(
    session: &RestoreSession,
    host: &Host,
    context: &Context,
) -> Result<Vec<PersistentVolumeClaim>, ExecutorError> {
    let wanted = claims::claims(session, host.ordinal).map_err(ExecutorError::Host)?;
    create_claims(session, wanted, context).await
}

/// Makes claims. One that is there is used only if this session made it.
async fn create_claims(
    session: &RestoreSession,
    wanted: Vec<PersistentVolumeClaim>,
    context: &Context,
) -> Result<Vec<PersistentVolumeClaim>, ExecutorError> {
    let api = context.api::<PersistentVolumeClaim>(&session.namespace().unwrap_or_default());
    for claim in &wanted {
        let name = claim.name_any();
        let made = match api.create(&Context::create_parameters(), claim).await {
            Err(error) if is_already_exists(&error) => {
                let found = api.get(&name).await;
                found.map_err(|error| ReconcileError::of(format!("look up PersistentVolumeClaim {name}"), error))?
            }
            made => made.map_err(|error| {
                executor::not_taken(&format!("create PersistentVolumeClaim {name}"), error, ExecutorError::Host)
            })?,
        };
        if !claims::is_made_by(&made, session) {
            return Err(ExecutorError::Host(format!(
                "PersistentVolumeClaim {name} exists already, and was not made by this RestoreSession: nothing is written to it"
            )));
        }
    }
    Ok(wanted)
}

/// Starts a hook. How it ends is looked for by the next plan.
fn run_hook(run: &HookRun, observed: &Observed<'_>, context: &Context) {
    let uid = observed.session.uid().unwrap_or_default();
    let (wakes, session) = (Arc::clone(&context.wakes.restores), ObjectRef::from_obj(observed.session));
    context.start_hook(&uid, run.point, hook_request(run, observed, context), move || wakes.wake(session));
}

fn hook_request(run: &HookRun, observed: &Observed<'_>, context: &Context) -> Result<Request, Vec<String>> {
    let (session, addresses) = (observed.session, context.options.addresses.clone());
    let hook = run.point.restore_hook(session).ok_or_else(|| vec!["the session has none".to_owned()])?;
    let target = match destination(session).map_err(|problem| vec![problem])? {
        Destination::Target(target) => target,
        // No hook that needs a pod was let in.
        Destination::Claims => Target { kind: TargetKind::Claim, name: String::new() },
    };
    Ok(Request {
        call: Call::read(hook, &addresses)?,
        target,
        namespace: session.namespace().unwrap_or_default(),
        ordinals: observed.hosts.iter().filter_map(|host| host.ordinal).collect(),
        everywhere: false,
        nodes: observed.hosts.iter().filter_map(|host| host.part.clone()).collect(),
        data: run.summary.value(),
        limit: run.limit,
        addresses,
    })
}
