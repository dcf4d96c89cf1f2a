//! Puts the init container of a restore into a workload, and takes it out: decides by what the API server knows, and changes the template.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use kube::api::Patch;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use stash_crds::names as labels;
use stash_crds::{Repository, RestoreSession};
use stash_proto::job::{AT_START_ANNOTATION, AT_START_LIMIT_BYTES, AtStart, HostAtStart};

use super::restore::choose;
use super::{ExecutorError, not_taken};
use crate::backup_configuration::validate::{Target, TargetKind};
use crate::context::Context;
use crate::errors::{ReconcileError, is_forbidden, is_not_found};
use crate::jobs;
use crate::pauses::until_allowed;
use crate::restore_session::plan::Host;
use crate::restore_session::validate::{Destination, destination};
use crate::restore_session::{at_start, rules, shown};
use crate::spec;
use crate::workload::Workload;

/// Decides how a session restores its workload, and writes it down.
///
/// # Errors
///
/// Always: [`ReconcileError::Stale`] when it was done.
pub async fn decide(
    session: &RestoreSession,
    repository: Option<&Repository>,
    namespace_labels: &BTreeMap<String, String>,
    hosts: &[Host],
    context: &Context,
) -> Result<(), ReconcileError> {
    let orders = match orders(session, repository, namespace_labels, hosts, context).await {
        Ok(orders) => orders,
        Err(ExecutorError::Reconcile(error)) => return Err(error),
        Err(why) => {
            tracing::info!(restore = session.name_any(), %why, "it is restored by Jobs, and no pod starts anew");
            at_start::by_jobs(session)
        }
    };
    let mut changes = annotation(&orders)?;
    if !orders.hosts.is_empty() {
        // The template is changed back when the session goes.
        let mut finalizers: Vec<&str> = session.finalizers().iter().map(String::as_str).collect();
        if !finalizers.contains(&labels::INVOKER_FINALIZER) {
            finalizers.push(labels::INVOKER_FINALIZER);
        }
        changes["finalizers"] = json!(finalizers);
    }
    write(session, changes, context).await
}

/// Writes down which pods restore.
///
/// # Errors
///
/// Always: [`ReconcileError::Stale`] when it was done.
pub async fn write_elections(
    session: &RestoreSession,
    orders: &AtStart,
    context: &Context,
) -> Result<(), ReconcileError> {
    write(session, annotation(orders)?, context).await
}

async fn write(session: &RestoreSession, changes: Value, context: &Context) -> Result<(), ReconcileError> {
    let patched = context.patch_metadata(session, changes).await;
    patched.map_err(|error| ReconcileError::of("write down how the workload is restored", error))?;
    Err(ReconcileError::Stale)
}

fn annotation(orders: &AtStart) -> Result<Value, ReconcileError> {
    let text =
        serde_json::to_string(orders).map_err(|error| ReconcileError::Json("orders of an init container", error))?;
    Ok(json!({ "annotations": { AT_START_ANNOTATION: text } }))
}

/// Makes the orders.
///
/// # Errors
///
/// The API server did not tell; else why there are none.
async fn orders(
    session: &RestoreSession,
    repository: Option<&Repository>,
    namespace_labels: &BTreeMap<String, String>,
    hosts: &[Host],
    context: &Context,
) -> Result<AtStart, ExecutorError> {
    let by_jobs = |why: String| ExecutorError::Impossible(why);
    let target = target(session).ok_or_else(|| by_jobs("it is of no workload".to_owned()))?;
    let repository = repository.ok_or_else(|| by_jobs("its Repository is gone".to_owned()))?;
    let no_key = || by_jobs(format!("the pods of a {} are not made anew when their template changes", target.kind));
    let by = at_start::key_of(target.kind).ok_or_else(no_key)?;
    let namespace = session.namespace().unwrap_or_default();
    let found = Workload::find(&target, &namespace, &context.client).await?;
    let workload = found.ok_or_else(|| by_jobs("the workload is gone".to_owned()))?;
    let objection = at_start::objection(session, &workload, hosts, namespace_labels);
    if let Some(why) = objection.or_else(|| shown::objection(session, repository).map(str::to_owned)) {
        return Err(by_jobs(why));
    }
    let mut orders = AtStart { by, ..at_start::by_jobs(session) };
    for host in hosts {
        let Some(rule) = rules::of(session, &host.name) else { continue };
        let wanted = rules::sources(rule, &host.name);
        let chosen = choose(session, repository, &host.name, &wanted, context).await?;
        if chosen.is_empty() {
            return Err(by_jobs(format!("the snapshots of {} are not known for certain", host.name)));
        }
        let mounts = at_start::places(session).map(str::to_owned).collect();
        let spec = spec::restore(repository, session, rule, jobs::shown::sources(&chosen), mounts)?;
        orders.hosts.insert(at_start::key(by, host), HostAtStart { host: host.name.clone(), pod: None, spec });
    }
    let length = serde_json::to_string(&orders).map_or(usize::MAX, |text| text.len());
    if length > AT_START_LIMIT_BYTES {
        return Err(by_jobs("what each host gets is more than can be written down at a pod".to_owned()));
    }
    Ok(orders)
}

fn target(session: &RestoreSession) -> Option<Target> {
    match destination(session) {
        Ok(Destination::Target(target)) => Some(target),
        Ok(Destination::Claims) | Err(_) => None,
    }
}

/// The workload of a session, with all fields that the API server has of it.
struct Found {
    api: Api<DynamicObject>,
    name: String,
    what: String,
    object: Value,
}

impl Found {
    async fn of(session: &RestoreSession, context: &Context) -> Result<Option<Self>, ReconcileError> {
        let Some(target) = target(session) else { return Ok(None) };
        let resource = match target.kind {
            TargetKind::Deployment => ApiResource::erase::<Deployment>(&()),
            TargetKind::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
            TargetKind::DaemonSet => ApiResource::erase::<DaemonSet>(&()),
            TargetKind::Claim | TargetKind::ReplicaSet | TargetKind::ReplicationController => return Ok(None),
        };
        let namespace = session.namespace().unwrap_or_default();
        let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), &namespace, &resource);
        let what = format!("{} {}", target.kind, target.name);
        let found = api.get_opt(&target.name).await;
        let found = found.map_err(|error| ReconcileError::of(format!("look up {what}"), error))?;
        let Some(found) = found else { return Ok(None) };
        let object = serde_json::to_value(found).map_err(|error| ReconcileError::Json("workload", error))?;
        Ok(Some(Self { api, name: target.name, what, object }))
    }

    /// Changes it, as soon as that is allowed.
    async fn change(&self, change: &Value) -> kube::Result<()> {
        let (parameters, change) = (Context::patch_parameters(), Patch::Merge(change));
        until_allowed(|| self.api.patch(&self.name, &parameters, &change), is_forbidden).await.map(drop)
    }
}

/// Puts the init container into the workload; its pods start anew.
///
/// # Errors
///
/// It was not done.
pub async fn inject(
    session: &RestoreSession,
    repository: Option<&Repository>,
    orders: &AtStart,
    deadline: Option<i64>,
    context: &Context,
) -> Result<(), ExecutorError> {
    let gone = || ExecutorError::Impossible("the workload is gone".to_owned());
    let found = Found::of(session, context).await?.ok_or_else(gone)?;
    let secret = repository.and_then(|repository| repository.spec.backend.storage_secret_name.clone());
    let orders = at_start::for_pods(orders, deadline);
    let image = &context.options.jobs.image;
    let change = at_start::inject(&found.object, session, &orders, image, &secret.unwrap_or_default());
    let change = change.map_err(|error| ReconcileError::Json("init container", error))?;
    found.change(&change).await.map_err(|error| not_injected(&found.what, error))
}

/// Tells a refusal, of which the session has to speak, from a change that was not made now.
fn not_injected(what: &str, error: kube::Error) -> ExecutorError {
    not_taken(&format!("put the init container into {what}"), error, ExecutorError::Impossible)
}

/// Takes the init container out of the workload, if it is of this session; its pods start anew.
///
/// # Errors
///
/// It was not done.
pub async fn withdraw(session: &RestoreSession, context: &Context) -> Result<(), ReconcileError> {
    let Some(found) = Found::of(session, context).await? else { return Ok(()) };
    let Some(change) = at_start::withdraw(&found.object, session.metadata.uid.as_deref().unwrap_or_default()) else {
        return Ok(());
    };
    match found.change(&change).await {
        Err(error) if is_not_found(&error) => Ok(()),
        done => done.map_err(|error| ReconcileError::of(format!("change {} back", found.what), error)),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn test_a_policy_that_denies_the_init_container_is_told() {
        let of = |code: u16| {
            let status = Status::failure("policy x denies it", "").with_code(code);
            not_injected("Deployment web", kube::Error::Api(Box::new(status)))
        };
        for code in [400, 403, 422] {
            let error = of(code);
            assert!(matches!(&error, ExecutorError::Impossible(_)), "{code} {error:?}");
            assert_eq!(error.to_string(), "Failed to put the init container into Deployment web: policy x denies it");
        }
        assert!(matches!(of(503), ExecutorError::Reconcile(_)));
    }
}
