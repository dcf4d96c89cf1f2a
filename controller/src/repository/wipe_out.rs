//! What becomes of the data when a Repository is deleted whose `wipeOut` asks for it.
//!
//! The finalizer holds the object until a Job has removed the repository. Nothing else holds it, and nobody has to wait for ever: whoever
//! takes `wipeOut` back or sets the annotation [`KEEP_DATA_ANNOTATION`] has it let go at once. Only a deletion of this one object asks for
//! the data to go: where the Namespace or the definition goes, or another Repository has the same data, it stays.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;
use stash_crds::Repository;
use stash_crds::conditions::DATA_WIPED_OUT;
use stash_crds::names::{GROUP, KEEP_DATA_ANNOTATION, REPOSITORY_FINALIZER};

use super::location::location;
use super::plan::Said;
use crate::backup_session::observe::{is_looked_after, repository_key};
use crate::conditions::Conditions;
use crate::context::Context;
use crate::errors::{ReconcileError, is_not_found};
use crate::executor::{self, ExecutorError};
use crate::jobs::{self, JobRequest, Purpose};
use crate::names;
use crate::plan::transitions;
use crate::snapshot::mirror::namespace_lives;
use crate::spec;
use crate::stores::as_ref_of;
use plan::{AT_WORK, Keep, Observed, Plan, WAITS, way_out};

pub mod plan;

/// How long after a Job that could not be made it is tried again, where no change of the Secret tells.
const MAKE_AGAIN: Duration = Duration::from_secs(60);

/// Whether `wipeOut` is asked for where it can be.
pub fn is_wanted(repository: &Repository) -> bool {
    let backend = &repository.spec.backend;
    repository.spec.wipe_out && backend.local.is_none() && backend.b2.is_none()
}

/// Whether a Repository has the finalizer that holds it until the data is gone. Stash sets it on all.
pub fn is_held(repository: &Repository) -> bool {
    repository.finalizers().iter().any(|finalizer| finalizer == REPOSITORY_FINALIZER)
}

/// Sets the finalizer.
///
/// # Errors
///
/// The object was changed meanwhile, or the API server did not do it.
pub async fn hold(repository: &Repository, context: &Context) -> Result<(), ReconcileError> {
    let mut finalizers: Vec<&str> = repository.finalizers().iter().map(String::as_str).collect();
    finalizers.push(REPOSITORY_FINALIZER);
    let patched = context.patch_metadata(repository, json!({ "finalizers": finalizers })).await;
    patched.map_err(|error| ReconcileError::of("set the finalizer", error))
}

/// Looks at a Repository that is being deleted and has the finalizer.
///
/// # Errors
///
/// The API server did not do what it should.
pub async fn reconcile(repository: &Repository, context: &Context) -> Result<Action, ReconcileError> {
    let job = job_of(repository, context);
    let mut observed = observe(repository, job.as_deref(), context);
    let mut plan = plan::plan(&observed, context.now());
    if plan.ask {
        if is_gone(repository, context).await? {
            // What has been seen is older than its release, and a Job would find the data of whoever came after it.
            return Ok(Action::await_change());
        }
        observed.lives = Some(lives(repository, context).await?);
        plan = plan::plan(&observed, context.now());
    }
    if plan.wipe {
        make(repository, &mut plan, context).await?;
    }
    if let Some((reason, message)) = &plan.say {
        say(repository, reason, message, context).await?;
    }
    if plan.release {
        context.tell(repository, plan.notice.as_slice()).await;
        context.release(repository, REPOSITORY_FINALIZER).await?;
        context.mirrors.drop_state(&ObjectRef::from_obj(repository));
    }
    // After the release: a Repository that is still held and has no Job gets another.
    if let Some(job) = job.filter(|_| plan.drop_job) {
        let api = context.api::<Job>(&job.namespace().unwrap_or_default());
        match api.delete(&job.name_any(), &DeleteParams::background()).await {
            Err(error) if !is_not_found(&error) => return Err(ReconcileError::of("delete a Job that is done", error)),
            _ => {}
        }
    }
    Ok(plan.requeue.map_or_else(Action::await_change, Action::requeue))
}

fn job_name(repository: &Repository) -> String {
    names::wipe_job(&repository.name_any(), &repository.uid().unwrap_or_default())
}

/// Returns the Job that wipes, unless it is being deleted.
fn job_of(repository: &Repository, context: &Context) -> Option<Arc<Job>> {
    let found = context.stores.jobs.get(&as_ref_of(&job_name(repository), repository.metadata.namespace.as_deref()));
    let uid = repository.metadata.uid.as_deref()?;
    found.filter(|job| jobs::is_owned_by(job, uid) && job.metadata.deletion_timestamp.is_none())
}

fn observe(repository: &Repository, job: Option<&Job>, context: &Context) -> Observed {
    let keep = if !is_wanted(repository) {
        Some(Keep::NotAsked)
    } else if repository.annotations().get(KEEP_DATA_ANNOTATION).is_some_and(|value| value == "true") {
        Some(Keep::Annotated)
    } else {
        shared_with(repository, context).map(Keep::Shared)
    };
    let secret = context.stores.secret_of(repository);
    let made_with = context.mirrors.state(&ObjectRef::from_obj(repository)).wiped_with;
    Observed {
        since: repository.metadata.deletion_timestamp.as_ref().map_or_else(|| context.now(), |time| time.0),
        keep,
        namespace_dies: !namespace_lives(&repository.namespace().unwrap_or_default(), context),
        lives: None,
        job: job.map(|job| jobs::progress(job, context)),
        secret_changed: made_with.is_some_and(|version| secret.is_certain() && version != secret.version()),
        is_busy: is_looked_after(repository, &job_name(repository), context),
    }
}

/// Returns another Repository whose data this is as well, and which lives.
fn shared_with(repository: &Repository, context: &Context) -> Option<String> {
    let own = location(&repository.spec.backend).ok()?;
    let same = |other: &Repository| {
        other.metadata.uid != repository.metadata.uid
            && other.metadata.deletion_timestamp.is_none()
            && location(&other.spec.backend).is_ok_and(|address| address == own)
    };
    context.stores.repositories.find(same).map(|other| repository_key(&other))
}

/// Asks the API server whether the object was let go since it was seen.
async fn is_gone(repository: &Repository, context: &Context) -> Result<bool, ReconcileError> {
    let api = context.api::<Repository>(&repository.namespace().unwrap_or_default());
    let found = api.get_metadata_opt(&repository.name_any()).await;
    let found = found.map_err(|error| ReconcileError::of("look up the Repository", error))?;
    Ok(found.is_none_or(|found| found.metadata.uid != repository.metadata.uid))
}

/// Asks the API server whether all lives whose end would delete the object too.
async fn lives(repository: &Repository, context: &Context) -> Result<bool, ReconcileError> {
    let asked = |what: &str, error| ReconcileError::of(format!("look up {what}"), error);
    let spaces = Api::<Namespace>::all(context.client.clone());
    let kinds = Api::<CustomResourceDefinition>::all(context.client.clone());
    let kind = format!("{}.{GROUP}", Repository::plural(&()));
    let space = spaces.get_metadata_opt(&repository.namespace().unwrap_or_default()).await;
    let space = space.map_err(|error| asked("the Namespace", error))?;
    let kind = kinds.get_metadata_opt(&kind).await;
    let kind = kind.map_err(|error| asked("the definition of Repository", error))?;
    let found = [space.map(|found| found.metadata), kind.map(|found| found.metadata)];
    Ok(found.into_iter().all(|metadata| metadata.is_some_and(|metadata| metadata.deletion_timestamp.is_none())))
}

/// Makes the Job. Why it cannot be made becomes what is said.
async fn make(repository: &Repository, plan: &mut Plan, context: &Context) -> Result<(), ReconcileError> {
    let version = context.stores.secret_of(repository).version();
    let made = async {
        super::backend::check_address(&repository.spec.backend, &context.options.addresses)
            .map_err(|problem| ExecutorError::Impossible(problem.to_string()))?;
        let spec = spec::wipe_out(repository)?;
        let credentials = executor::credentials(repository, context).await?;
        let request = JobRequest {
            name: job_name(repository),
            namespace: repository.namespace().unwrap_or_default(),
            owner: repository.controller_owner_ref(&()).unwrap_or_default(),
            session_namespace: None,
            repository: repository_key(repository),
            purpose: Purpose::Upkeep,
            secret_keys: credentials.keys().copied().collect(),
            mounts: Vec::new(),
            local: None,
            shown: None,
            beside: None,
            runtime: None,
            temp_dir: None,
        };
        executor::make(&request, spec, credentials, context).await
    };
    match made.await {
        Ok(()) => {
            tracing::info!(repository = repository_key(repository), "a Job removes the repository");
            context.mirrors.change(&ObjectRef::from_obj(repository), |state| state.wiped_with = Some(version));
            Ok(())
        }
        Err(ExecutorError::Reconcile(error)) => Err(error),
        Err(ExecutorError::Impossible(why) | ExecutorError::Host(why) | ExecutorError::Busy(why)) => {
            let why = why.trim_end_matches('.');
            plan.say = Some((WAITS, format!("The Job that removes the data cannot be made: {why}. {}.", way_out())));
            plan.requeue = Some(MAKE_AGAIN);
            Ok(())
        }
    }
}

/// Writes the condition, if it is not said already, and tells it.
async fn say(repository: &Repository, reason: &str, message: &str, context: &Context) -> Result<(), ReconcileError> {
    let old = Said::of(repository);
    let mut said = Said { observed_generation: repository.metadata.generation, ..old.clone() };
    let mut conditions = Conditions::new(&mut said.conditions, repository.metadata.generation, context.now());
    conditions.is_not(DATA_WIPED_OUT, reason, message);
    if said == old {
        return Ok(());
    }
    context.apply_status(repository, &said).await?;
    let mut notices = transitions(&old.conditions, &said.conditions);
    notices.iter_mut().for_each(|notice| notice.warning &= notice.reason != AT_WORK);
    context.tell(repository, &notices).await;
    Ok(())
}
