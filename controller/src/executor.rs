//! Starts the Jobs of sessions: with the credentials that they need, beside the pods whose volume they read.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use stash_crds::{BackupConfiguration, BackupSession, Repository};

use crate::backup_configuration::validate;
use crate::backup_session::observe::{Seen, repository_key};
use crate::backup_session::plan::Host;
use crate::context::Context;
use crate::errors::{ReconcileError, is_already_exists};
use crate::jobs::{self, JobRequest, LocalRepository, Purpose, Source};
use crate::names;
use crate::repository::backend;
use crate::repository::open::{self, OpenError};
use crate::spec::{self, SpecError};
use crate::stores::as_ref_of;

pub mod at_start;
mod beside;
pub mod node_places;
mod place;
pub mod restore;
mod volumes;

pub(crate) use volumes::is_plain_path;

/// Why a Job was not started.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// It makes no sense to try again: why, for the user.
    #[error("{0}")]
    Impossible(String),
    /// It makes no sense to try again for this host: why, for the user. Others may be backed up.
    #[error("{0}")]
    Host(String),
    /// It has to run on a node on which as many run as may. There will be a place: why, for the user.
    #[error("{0}")]
    Busy(String),
    /// It was not possible now.
    #[error(transparent)]
    Reconcile(#[from] ReconcileError),
}

impl From<SpecError> for ExecutorError {
    fn from(error: SpecError) -> Self {
        Self::Impossible(error.to_string())
    }
}

/// What a Job is started with.
struct Start<'a> {
    invoker: &'a BackupConfiguration,
    repository: &'a Repository,
    local: Option<LocalRepository>,
    credentials: BTreeMap<&'static str, Vec<u8>>,
}

/// Starts the Job that backs up `host`, and makes the repository if it is to `initialize` it.
///
/// # Errors
///
/// It was not started.
pub async fn start_backup(
    session: &BackupSession,
    seen: &Seen,
    host: &Host,
    initialize: bool,
    context: &Context,
) -> Result<(), ExecutorError> {
    let start = prepare(seen, context).await?;
    let namespace = session.namespace().unwrap_or_default();
    let target = validate::target(start.invoker).map_err(ExecutorError::Impossible)?;
    let wanted = start.invoker.spec.target.clone().unwrap_or_default();
    let placed = place::place(&target, host, &wanted, &namespace, context).await?;
    let paths = if wanted.paths.is_empty() {
        placed.mounts.iter().map(|mount| mount.path.clone()).collect()
    } else {
        wanted.paths
    };
    let spec = spec::backup(start.repository, start.invoker, &host.name, paths, initialize)?;
    let mut request = JobRequest {
        mounts: placed.mounts,
        beside: placed.beside,
        ..request(session, &start, &host.job, Purpose::Backup)
    };
    if request.mounts.iter().any(|mount| matches!(mount.source, Source::Folder(_))) {
        if start.local.is_some() {
            return Err(ExecutorError::Host(
                "a volume that only its node has cannot be backed up to a local backend, which is a claim of the namespace".to_owned(),
            ));
        }
        // Folders of a node are read where nobody but us makes pods.
        request.name = names::in_release(&namespace, &host.job);
        request.namespace.clone_from(&context.options.release_namespace);
    }
    take_place(&request, context)?;
    make(&request, spec, start.credentials.clone(), context).await
}

/// Takes a place for a Job that has to run on a node, if their number is bounded.
fn take_place(request: &JobRequest<'_>, context: &Context) -> Result<(), ExecutorError> {
    let (Some(limit), Some(beside)) = (context.options.max_running_per_node, &request.beside) else { return Ok(()) };
    let job = as_ref_of(&request.name, Some(&request.namespace));
    if context.node_places.take(job, &beside.node, limit, &context.stores.jobs, context.now()) {
        return Ok(());
    }
    Err(ExecutorError::Busy(format!("on node {} {limit} backups run, as many as may", beside.node)))
}

/// Starts the Job that looks after the repository.
///
/// # Errors
///
/// It was not started.
pub async fn start_upkeep(session: &BackupSession, seen: &Seen, context: &Context) -> Result<(), ExecutorError> {
    let start = prepare(seen, context).await?;
    let name = names::maintenance_job(&session.name_any());
    let spec = spec::upkeep(start.repository, start.invoker)?;
    make(&request(session, &start, &name, Purpose::Upkeep), spec, start.credentials.clone(), context).await
}

/// Reads the credentials, of which each Job gets those that its backend needs.
async fn prepare<'a>(seen: &'a Seen, context: &Context) -> Result<Start<'a>, ExecutorError> {
    let missing = || ExecutorError::Impossible("the BackupConfiguration does not exist".to_owned());
    let invoker = seen.invoker.as_deref().ok_or_else(missing)?;
    let own = invoker.namespace().unwrap_or_default();
    let Access { repository, local, credentials } = access(seen.repository.as_deref(), &own, context).await?;
    Ok(Start { invoker, repository, local, credentials })
}

/// A Repository that may be used, and what a Job needs for it.
struct Access<'a> {
    repository: &'a Repository,
    local: Option<LocalRepository>,
    credentials: BTreeMap<&'static str, Vec<u8>>,
}

/// Asks again whether namespace `own` may use a Repository, and reads its credentials.
async fn access<'a>(
    repository: Option<&'a Repository>,
    own: &str,
    context: &Context,
) -> Result<Access<'a>, ExecutorError> {
    let impossible = |why: &str| ExecutorError::Impossible(why.to_owned());
    let repository = repository.ok_or_else(|| impossible("the Repository does not exist"))?;
    let labels = context.stores.namespaces.get(&as_ref_of(own, None));
    let labels = labels.map(|namespace| namespace.labels().clone()).unwrap_or_default();
    if !validate::may_use(repository, own, &labels) {
        return Err(impossible("the Repository's spec.usagePolicy does not allow this namespace"));
    }
    let problem = |problem: backend::BackendProblem| ExecutorError::Impossible(problem.to_string());
    backend::provider(&repository.spec.backend).map_err(problem)?;
    backend::check_address(&repository.spec.backend, &context.options.addresses).map_err(problem)?;
    let namespace = repository.namespace().unwrap_or_default();
    if repository.spec.backend.local.is_some() && namespace != own {
        return Err(impossible("a local backend is a volume, which pods of the Repository's own namespace mount"));
    }
    let local = repository.spec.backend.local.as_ref().map(LocalRepository::of).transpose();
    let local =
        local.map_err(|error| ExecutorError::Impossible(format!("spec.backend.local is no volume: {error}")))?;
    let credentials = credentials(repository, context).await?;
    Ok(Access { repository, local, credentials })
}

/// Reads the credentials of a Repository as a Job gets them.
///
/// # Errors
///
/// There is no Secret, or the API server did not tell.
pub async fn credentials(
    repository: &Repository,
    context: &Context,
) -> Result<BTreeMap<&'static str, Vec<u8>>, ExecutorError> {
    let found = match open::credentials(repository, context).await {
        Ok(found) => found,
        Err(OpenError::Api(error)) => return Err(error.into()),
        Err(error) => return Err(ExecutorError::Impossible(error.to_string())),
    };
    let found = found
        .ok_or_else(|| ExecutorError::Impossible(OpenError::NoSecret(open::secret_name(repository)).to_string()))?;
    Ok(found.into_iter().map(|(key, value)| (key, value.to_vec())).collect())
}

fn request<'a>(session: &BackupSession, start: &Start<'a>, name: &str, purpose: Purpose) -> JobRequest<'a> {
    JobRequest {
        name: name.to_owned(),
        namespace: session.namespace().unwrap_or_default(),
        owner: session.controller_owner_ref(&()).unwrap_or_default(),
        session_namespace: session.namespace(),
        repository: repository_key(start.repository),
        purpose,
        secret_keys: start.credentials.keys().copied().collect(),
        mounts: Vec::new(),
        local: start.local.clone(),
        shown: None,
        beside: None,
        runtime: start.invoker.spec.runtime_settings.as_ref(),
        temp_dir: start.invoker.spec.temp_dir.as_ref(),
    }
}

/// Makes a Job and then its Secret, which the Job owns. The pod waits for the Secret; without the Job there would be none.
///
/// # Errors
///
/// They were not made, or the name is taken by a Job of another owner.
pub async fn make(
    request: &JobRequest<'_>,
    spec: Vec<u8>,
    credentials: BTreeMap<&'static str, Vec<u8>>,
    context: &Context,
) -> Result<(), ExecutorError> {
    let owner = make_job(request, context).await?;
    give(owner, &request.namespace, spec, credentials, context).await
}

/// Makes a Job, whose pod waits for its Secret; returns it as an owner.
///
/// # Errors
///
/// It was not made, or the name is taken by a Job of another owner.
pub async fn make_job(request: &JobRequest<'_>, context: &Context) -> Result<OwnerReference, ExecutorError> {
    let jobs = context.api::<Job>(&request.namespace);
    let wanted = jobs::job(request, &context.options.jobs);
    let made = match jobs.create(&Context::create_parameters(), &wanted).await {
        Err(error) if is_already_exists(&error) => {
            let found = jobs.get(&request.name).await;
            found.map_err(|error| ReconcileError::of(format!("look up Job {}", request.name), error))?
        }
        made => {
            made.map_err(|error| not_taken(&format!("create Job {}", request.name), error, ExecutorError::Impossible))?
        }
    };
    if !jobs::is_owned_by(&made, &request.owner.uid) {
        return Err(ReconcileError::Foreign { kind: "Job", name: request.name.clone() }.into());
    }
    Ok(OwnerReference {
        api_version: Job::api_version(&()).into_owned(),
        kind: Job::kind(&()).into_owned(),
        name: request.name.clone(),
        uid: made.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}

/// Makes the Secret of the Job that `owner` refers to.
///
/// # Errors
///
/// It was not made.
pub async fn give(
    owner: OwnerReference,
    namespace: &str,
    spec: Vec<u8>,
    credentials: BTreeMap<&'static str, Vec<u8>>,
    context: &Context,
) -> Result<(), ExecutorError> {
    let (name, uid) = (owner.name.clone(), owner.uid.clone());
    let secret = jobs::secret(owner, namespace, spec, credentials);
    match context.api::<Secret>(namespace).create(&Context::create_parameters(), &secret).await {
        Ok(_) => context.handed.made(&uid, context.now()),
        Err(error) if is_already_exists(&error) => context.handed.taken(&uid, context.now()),
        Err(error) => return Err(ReconcileError::of(format!("create Secret {name}"), error).into()),
    }
    Ok(())
}

/// Tells what will never be taken, as what Pod Security, a quota or an admission policy refuses, from what was not taken now.
///
/// `what` was to be done; `refused` tells whom a refusal fails.
pub(crate) fn not_taken(what: &str, error: kube::Error, refused: fn(String) -> ExecutorError) -> ExecutorError {
    match &error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
            refused(format!("Failed to {what}: {}", status.message))
        }
        _ => ReconcileError::of(what, error).into(),
    }
}

/// Returns an object that has to be there.
async fn find<K>(namespace: &str, name: &str, context: &Context) -> Result<K, ExecutorError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let kind = K::kind(&());
    let found = context.api::<K>(namespace).get_opt(name).await;
    let found = found.map_err(|error| ReconcileError::of(format!("look up {kind} {name}"), error))?;
    found.ok_or_else(|| ExecutorError::Host(format!("{kind} {namespace}/{name} does not exist.")))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn test_what_is_refused_is_not_tried_again() {
        let of = |code: u16| {
            let status = Status::failure("policy x denies it", "").with_code(code);
            not_taken("create Job j", kube::Error::Api(Box::new(status)), ExecutorError::Host)
        };
        for code in [400, 403, 422] {
            let error = of(code);
            assert!(matches!(&error, ExecutorError::Host(_)), "{code} {error:?}");
            assert_eq!(error.to_string(), "Failed to create Job j: policy x denies it");
        }
        for code in [404, 409, 429, 500, 503] {
            assert!(matches!(of(code), ExecutorError::Reconcile(_)), "{code}");
        }
    }
}
