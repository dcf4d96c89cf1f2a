//! Observes, begins and ends the runs of pods that serve a repository.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::DeleteParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource as _, ResourceExt as _};
use stash_crds::backup_session::BackupSessionPhase;
use stash_crds::runtime_settings::RuntimeSettings;
use stash_crds::{BackupSession, Repository};

use super::network_policy::network_policy;
use super::plan::{self, Observed, Problem, Seen, Step};
use super::{Door, Run, Way, certificates};
use crate::backup_session::observe::repository_key;
use crate::context::Context;
use crate::errors::{ReconcileError, is_not_found};
use crate::executor::{self, ExecutorError};
use crate::jobs::{self, Ended, JobRequest, LocalRepository, Purpose, REPOSITORY_ANNOTATION, ended};
use crate::names;
use crate::repository::backend::BackendProblem;
use crate::schedule;
use crate::stores::repository_ref;

/// How many repositories have a pod at once.
const AT_ONCE: usize = 8;
/// When to see again whether there is a place.
const NO_PLACE: Duration = Duration::from_secs(3);
/// When to see again what became of what ended.
const AFTER_END: Duration = Duration::from_secs(2);

/// Whether a repository is a volume, which pods mount and nobody else opens.
pub fn is_read_by_pods(repository: &Repository) -> bool {
    repository.spec.backend.local.is_some()
}

/// Does the next step to read a repository that is a volume, if that `is_due`, or to let go of it.
///
/// # Errors
///
/// The API server did not do what it should.
pub async fn advance(repository: &Repository, is_due: bool, context: &Context) -> Result<Way, ReconcileError> {
    let reference = ObjectRef::from_obj(repository);
    let run = context.mirrors.state(&reference).access;
    let own = jobs_of(repository, context);
    for stray in own.iter().filter(|job| run.as_ref().is_none_or(|run| run.job != job.name_any())) {
        // Of a controller that ended, or one that was let go and is still seen. Nobody has the key of it.
        delete(repository, &stray.name_any(), context).await?;
    }
    let observed = Observed {
        is_due,
        is_used: is_used(repository, context),
        run: run.as_ref().map(|run| {
            let job = own.iter().find(|job| job.name_any() == run.job);
            (run.made, job.map_or(Seen::NoJob, |job| seen(job, &pods_of(job, context))))
        }),
    };
    match plan::plan(&observed, context.now()) {
        Step::Rest => Ok(Way::None),
        Step::Wait(time) => Ok(Way::Later(time)),
        Step::Start => start(repository, context).await,
        Step::Look(address) if context.options.addresses.refuses(&address.to_string()) => {
            end(repository, context).await?;
            Ok(Way::Failed(BackendProblem::Address(address.to_string()).into()))
        }
        Step::Look(address) => Ok(run.map_or(Way::None, |run| Way::Through(Door { address, identity: run.identity }))),
        Step::Stop => {
            end(repository, context).await?;
            Ok(if is_due { Way::Later(AFTER_END) } else { Way::None })
        }
        Step::Fail(problem) => {
            end(repository, context).await?;
            Ok(Way::Failed(problem.into()))
        }
    }
}

/// Ends the run of a Repository, if there is one. The pod has seconds for what it is answering.
///
/// # Errors
///
/// The API server did not delete the Job.
pub async fn end(repository: &Repository, context: &Context) -> Result<(), ReconcileError> {
    let reference = ObjectRef::from_obj(repository);
    let Some(run) = context.mirrors.state(&reference).access else { return Ok(()) };
    delete(repository, &run.job, context).await?;
    context.mirrors.change(&reference, |state| state.access = None);
    tracing::debug!(repository = repository_key(repository), job = run.job, "the pod that serves the volume ends");
    Ok(())
}

/// Returns what users say about the pods of a Repository that is a volume: of its configurations in its namespace, the first one. They
/// know which node has the volume, and which user its files belong to.
pub fn runtime_settings(repository: &Repository, context: &Context) -> Option<RuntimeSettings> {
    let users = context.stores.users_of(&ObjectRef::from_obj(repository));
    let user = users.into_iter().find(|user| {
        user.metadata.namespace == repository.metadata.namespace && user.metadata.deletion_timestamp.is_none()
    });
    user?.spec.runtime_settings.clone()
}

async fn delete(repository: &Repository, job: &str, context: &Context) -> Result<(), ReconcileError> {
    let api = context.api::<Job>(&repository.namespace().unwrap_or_default());
    match api.delete(job, &DeleteParams::background()).await {
        Err(error) if !is_not_found(&error) => Err(ReconcileError::of(format!("delete Job {job}"), error)),
        _ => Ok(()),
    }
}

/// Returns the Jobs that serve a Repository and are not being deleted.
fn jobs_of(repository: &Repository, context: &Context) -> Vec<Arc<Job>> {
    context.stores.jobs.state_filter(|job| {
        job.metadata.namespace == repository.metadata.namespace
            && names::is_of_access(&job.name_any())
            && job.metadata.deletion_timestamp.is_none()
            && job.owner_references().iter().any(|owner| Some(&owner.uid) == repository.metadata.uid.as_ref())
    })
}

fn pods_of(job: &Job, context: &Context) -> Vec<Arc<Pod>> {
    let owns = |pod: &Pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref());
    context.stores.pods.state_filter(owns)
}

/// Whether a Job works on the Repository, or a session has begun to.
fn is_used(repository: &Repository, context: &Context) -> bool {
    let (key, reference) = (repository_key(repository), ObjectRef::from_obj(repository));
    let works = |job: &Job| {
        job.annotations().get(REPOSITORY_ANNOTATION) == Some(&key)
            && !names::is_of_access(&job.name_any())
            && !jobs::is_done(job)
    };
    let is_of = |session: &BackupSession| {
        let phase = session.status.as_ref().and_then(|status| status.phase.as_ref());
        phase == Some(&BackupSessionPhase::Running)
            && context.stores.invoker_of(session).and_then(|invoker| repository_ref(&invoker)).as_ref()
                == Some(&reference)
    };
    context.stores.jobs.find(works).is_some() || context.stores.sessions.find(is_of).is_some()
}

/// Tells how far a run is.
fn seen(job: &Job, pods: &[Arc<Pod>]) -> Seen {
    match ended(job, &pods.iter().map(|pod| &**pod).collect::<Vec<_>>()) {
        Ended::Message(why) | Ended::Silent(why) | Ended::Disrupted(why) => return Seen::Ended(why),
        Ended::No => {}
    }
    let Some(pod) = pods.iter().find(|pod| pod.metadata.deletion_timestamp.is_none()) else {
        return Seen::Starting(format!("Job {} has no pod; its events say why", job.name_any()));
    };
    let status = pod.status.as_ref();
    let runs = status.is_some_and(|status| status.phase.as_deref() == Some("Running"));
    let address = status.and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok());
    match address.filter(|_| runs) {
        Some(address) => Seen::At(address),
        None => Seen::Starting(waits_for(pod)),
    }
}

/// Says what a pod waits for, as far as it tells.
fn waits_for(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let unscheduled =
        status.conditions.into_iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    let waiting =
        status.container_statuses.into_iter().flatten().find_map(|container| container.state?.waiting?.reason);
    let why = unscheduled.and_then(|condition| condition.message.or(condition.reason)).or(waiting);
    why.unwrap_or_else(|| format!("pod {} is not running; its events say why", pod.name_any()))
}

/// Begins a run: the Job, what fences it, and then its Secret, without which the pod does not start.
async fn start(repository: &Repository, context: &Context) -> Result<Way, ReconcileError> {
    let reference = ObjectRef::from_obj(repository);
    let (namespace, uid) = (repository.namespace().unwrap_or_default(), repository.uid().unwrap_or_default());
    let refused = |why: String| Ok(Way::Failed(Problem::Refused(why).into()));
    let Some(backend) = &repository.spec.backend.local else { return Ok(Way::None) };
    let local = match LocalRepository::of(backend) {
        Ok(local) => local.read_only(),
        Err(error) => return refused(format!("spec.backend.local is no volume: {error}")),
    };
    let made = match certificates::make(context.now()) {
        Ok(made) => made,
        Err(error) => return refused(format!("certificates cannot be made: {error}")),
    };
    let name = names::access_job(&repository.name_any(), &uid, context.now());
    let run = Run { job: name.clone(), made: context.now(), identity: made.identity };
    let exists = |other: &ObjectRef<Repository>| context.stores.repositories.get(other).is_some();
    if !context.mirrors.begin_access(&reference, run, AT_ONCE, exists) {
        return Ok(Way::Later(NO_PLACE + schedule::jitter(&uid, NO_PLACE)));
    }
    let runtime = runtime_settings(repository, context);
    let request = JobRequest {
        name,
        namespace: namespace.clone(),
        owner: repository.controller_owner_ref(&()).unwrap_or_default(),
        session_namespace: None,
        repository: repository_key(repository),
        purpose: Purpose::Access,
        secret_keys: made.of_pod.keys().copied().collect(),
        mounts: Vec::new(),
        local: Some(local),
        shown: None,
        beside: None,
        runtime: runtime.as_ref(),
        temp_dir: None,
    };
    let begun = async {
        let owner = executor::make_job(&request, context).await?;
        let policy = network_policy(owner.clone(), &namespace, &context.options.release_namespace);
        let api = context.api::<NetworkPolicy>(&namespace);
        api.create(&Context::create_parameters(), &policy)
            .await
            .map_err(|error| ReconcileError::of(format!("create NetworkPolicy {}", owner.name), error))?;
        executor::give(owner, &namespace, b"{}".to_vec(), made.of_pod, context).await
    };
    match begun.await {
        Ok(()) => {
            tracing::info!(repository = repository_key(repository), job = request.name, "a pod serves the volume");
            // The pod wakes this when it runs.
            Ok(Way::Later(AFTER_END))
        }
        Err(error) => {
            end(repository, context).await?;
            match error {
                ExecutorError::Reconcile(error) => Err(error),
                ExecutorError::Impossible(why) | ExecutorError::Host(why) | ExecutorError::Busy(why) => refused(why),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn test_how_far_a_run_is() {
        let job = |status: Value| -> Job {
            serde_json::from_value(json!({"metadata": {"name": "j"}, "status": status})).unwrap()
        };
        let pod = |status: Value| -> Arc<Pod> {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap())
        };
        let container = |state: Value| json!([{"name": "stash", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
        let works = || job(json!({}));
        let failed = || {
            let condition = json!({"type": "Failed", "status": "True", "reason": "DeadlineExceeded"});
            job(json!({"failed": 1, "conditions": [condition]}))
        };
        let starting = |why: &str| Seen::Starting(why.to_owned());
        for (job, pods, expected) in [
            (works(), vec![], starting("Job j has no pod; its events say why")),
            (works(), vec![pod(json!({}))], starting("pod p is not running; its events say why")),
            (
                works(),
                vec![pod(json!({"phase": "Pending", "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
                ]}))],
                starting("0/1 nodes"),
            ),
            (
                works(),
                vec![pod(json!({"phase": "Pending", "podIP": "10.0.0.1", "containerStatuses":
                    container(json!({"waiting": {"reason": "ImagePullBackOff"}}))}))],
                starting("ImagePullBackOff"),
            ),
            (
                works(),
                vec![pod(json!({"phase": "Running", "podIP": "10.0.0.1"}))],
                Seen::At("10.0.0.1".parse().unwrap()),
            ),
            (works(), vec![pod(json!({"phase": "Running", "podIP": "fd00::1"}))], Seen::At("fd00::1".parse().unwrap())),
            (works(), vec![pod(json!({"phase": "Running"}))], starting("pod p is not running; its events say why")),
            (
                failed(),
                vec![pod(
                    json!({"containerStatuses": container(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))}),
                )],
                Seen::Ended("OOMKilled, exit code 137".to_owned()),
            ),
            (failed(), vec![], Seen::Ended("its pod is gone".to_owned())),
        ] {
            assert_eq!(seen(&job, &pods), expected);
        }
    }
}
