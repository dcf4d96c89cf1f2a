//! Looks at a Repository for its Snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use stash_crds::{Repository, Snapshot, names as labels};
use stash_repo::SnapshotId;
use stash_repo::write::catalog;
use tokio::time::Instant;

use super::due::{self, Last, Stamp, Timing};
use super::forget::{self, Confirmation, Deleted};
use super::state::{Listed, State};
use super::{Meta, apply, is_held, object, plan};
use crate::access::{self, Door, Way, is_read_by_pods};
use crate::backup_session::observe::{is_looked_after, repository_key};
use crate::context::Context;
use crate::errors::{ReconcileError, is_not_found};
use crate::executor::{self, ExecutorError};
use crate::jobs::{self, JobRequest, LocalRepository, Progress, Purpose};
use crate::names;
use crate::plan::{Notice, sooner};
use crate::repository::finding::{Finding, was_backed_up};
use crate::repository::open::{OpenError, Place, require_config, within_deadline};
use crate::schedule;
use crate::secrets::Known;
use crate::stores::as_ref_of;

/// How long a look writes objects. A look is not broken off when the controller is stopped.
const BUDGET: Duration = Duration::from_secs(8);
/// When to go on after that; the store has seen by then what was written.
const GO_ON: Duration = Duration::from_millis(500);
/// How often a repository that is a volume is looked at where nothing says that it changed: it takes a pod, and who else changes it than
/// our own Jobs?
const VOLUME_SYNC: Duration = Duration::from_hours(6);
/// When to see again whether there is a place to try once more what failed.
const RETRY_LATER: Duration = Duration::from_secs(3);

/// Whether the Snapshots of a Repository are mirrored: it lives.
pub fn is_mirrored(repository: &Repository) -> bool {
    repository.metadata.deletion_timestamp.is_none()
}

/// Whether a Namespace is not being deleted, as far as has been seen.
pub fn namespace_lives(namespace: &str, context: &Context) -> bool {
    let found = context.stores.namespaces.get(&as_ref_of(namespace, None));
    found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_none())
}

/// Looks at a Repository: lists its snapshots if that is due, and decides what becomes of objects that somebody deletes.
///
/// # Errors
///
/// The API server did not do what it should.
pub async fn reconcile(repository: Arc<Repository>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let reference = ObjectRef::from_obj(&*repository);
    if !is_mirrored(&repository) {
        access::end(&repository, &context).await?;
        // Its Jobs wake this.
        context.mirrors.repositories.wake(reference);
        return Ok(Action::await_change());
    }
    if context.stores.secret_of(&repository) == Known::NotYet {
        // What is found wakes this.
        return Ok(Action::await_change());
    }
    let namespace = repository.namespace().unwrap_or_default();
    let job = job_of(&repository, &context);
    let known = context.mirrors.state(&reference);
    let stamp = stamp(&repository, job.as_deref(), &known, &context);
    let is_volume = is_read_by_pods(&repository);
    if !is_volume {
        // It may have been one.
        access::end(&repository, &context).await?;
    }
    let interval = context.options.snapshot_sync;
    let timing = Timing { interval: if is_volume { interval.max(VOLUME_SYNC) } else { interval } };
    let mut next = due::wait(known.last.as_ref(), &stamp, timing, context.now());
    let is_due = next.is_zero() && namespace_lives(&namespace, &context);
    if next.is_zero() && !is_due {
        // The Repository goes with its namespace, which may take its time.
        next = RETRY_LATER;
    }
    let failures = known.last.as_ref().filter(|last| last.stamp == stamp).map_or(0, |last| last.failures);
    if is_volume {
        next = look_through(&repository, &stamp, is_due.then_some(failures), next, timing, &context).await?;
    } else if is_due {
        let place = if failures > 0 {
            context.mirrors.retries.try_acquire().ok()
        } else {
            // It is never closed.
            context.mirrors.places.acquire().await.ok()
        };
        next = match place {
            Some(_place) => look(&repository, &stamp, failures, timing, None, &context).await,
            None => RETRY_LATER + schedule::jitter(&stamp.uid, RETRY_LATER),
        };
    }
    let again = look_at_deletions(&repository, &stamp, job.as_deref(), &context).await?;
    let next = sooner(Some(next.max(Duration::from_millis(1))), again).unwrap_or(GO_ON);
    Ok(Action::requeue(next))
}

/// Does the next step to list a repository that is a volume, through a pod that mounts it; returns when to do the next. It is due if it
/// is known how many looks `failed` before; else the pod ends, if there is one.
async fn look_through(
    repository: &Repository,
    stamp: &Stamp,
    failed: Option<u32>,
    next: Duration,
    timing: Timing,
    context: &Context,
) -> Result<Duration, ReconcileError> {
    // Before the first backup there is nothing to mirror, and no reason to mount anything.
    let failed = failed.filter(|_| was_backed_up(repository));
    match access::advance(repository, failed.is_some(), context).await? {
        Way::None => Ok(if next.is_zero() { timing.interval } else { next }),
        Way::Later(time) => Ok(time),
        Way::Failed(error) => Ok(conclude(repository, stamp, failed.unwrap_or_default(), timing, Err(error), context)),
        Way::Through(door) => {
            // It is never closed.
            let place = context.mirrors.places.acquire().await.ok();
            let next = look(repository, stamp, failed.unwrap_or_default(), timing, Some(&door), context).await;
            drop(place);
            if next != GO_ON {
                access::end(repository, context).await?;
            }
            Ok(next)
        }
    }
}

/// Lists a repository, of which as many looks `failed` before; returns when to look again.
async fn look(
    repository: &Repository,
    stamp: &Stamp,
    failed: u32,
    timing: Timing,
    door: Option<&Door>,
    context: &Context,
) -> Duration {
    let looked = sync(repository, stamp, door, context).await;
    conclude(repository, stamp, failed, timing, looked, context)
}

/// Remembers how a look went; returns when to look again.
fn conclude(
    repository: &Repository,
    stamp: &Stamp,
    failed: u32,
    timing: Timing,
    looked: Result<bool, OpenError>,
    context: &Context,
) -> Duration {
    let reference = ObjectRef::from_obj(repository);
    let finding = match &looked {
        Ok(_) => Some(Finding::opened()),
        Err(error) => Finding::of(error),
    };
    let is_news = finding.is_some_and(|finding| context.mirrors.note(&reference, stamp, finding));
    let failures = match &looked {
        Ok(true) => 0,
        Ok(false) => return GO_ON,
        // Before the first backup there is nothing to mirror.
        Err(error) if error.is_no_repository() => 0,
        Err(error) => {
            let (repository, error) = (repository_key(repository), story(error));
            if is_news {
                tracing::warn!(repository, error, "the snapshots cannot be listed; their objects stay as they are");
            } else {
                tracing::debug!(repository, error, "the snapshots cannot be listed");
            }
            failed.saturating_add(1)
        }
    };
    let last = Last { at: context.now(), stamp: stamp.clone(), failures };
    let next = due::wait(Some(&last), stamp, timing, context.now());
    context.mirrors.change(&reference, |state| state.last = Some(last));
    next
}

fn story(error: &OpenError) -> String {
    match error {
        OpenError::Api(error) => error.story(),
        error => error.to_string(),
    }
}

/// Returns what is known of opening a repository as it is reached now.
pub fn finding_of(repository: &Repository, context: &Context) -> Option<Finding> {
    let known = context.mirrors.state(&ObjectRef::from_obj(repository));
    let now = stamp(repository, None, &known, context);
    known.found.filter(|found| found.stamp.reaches_the_same(&now)).map(|found| found.finding)
}

/// Returns what tells whether the repository changed.
fn stamp(repository: &Repository, job: Option<&Job>, known: &State, context: &Context) -> Stamp {
    let status = repository.status.as_ref();
    let before = known.last.as_ref().and_then(|last| last.stamp.job.clone());
    Stamp {
        uid: repository.uid().unwrap_or_default(),
        generation: repository.metadata.generation,
        secret: context.stores.secret_of(repository).version(),
        backups: (
            status.and_then(|status| status.last_backup_time.as_ref()).map(|time| time.0),
            status.and_then(|status| status.snapshot_count),
        ),
        made_of: object::made_of(repository),
        job: job.filter(|job| jobs::is_done(job)).and_then(|job| job.uid()).or(before),
    }
}

/// Lists a repository and writes the objects that differ; returns whether all is done.
async fn sync(
    repository: &Repository,
    stamp: &Stamp,
    door: Option<&Door>,
    context: &Context,
) -> Result<bool, OpenError> {
    let reference = ObjectRef::from_obj(repository);
    let place = Place::of(repository, door, context).await?;
    let (backend, ids) = within_deadline(async {
        let backend = place.connect().await?;
        let ids = catalog::list(&backend).await?;
        Ok((backend, ids))
    })
    .await?;
    let objects = context.stores.snapshots_of(&reference);
    let plan = plan::plan(&plan::Observed { listed: &ids, objects: &objects, made_of: &stamp.made_of });
    let (lacking, gone) = (plan.lacking.len(), plan.gone.len());
    let is_same = |listed: Listed| *listed.ids == ids && listed.stamp.reaches_the_same(stamp);
    let is_known = context.mirrors.state(&reference).listed.is_some_and(is_same);
    if lacking == 0 && gone == 0 && is_known {
        if ids.is_empty() {
            // Where nothing is listed there may be nothing at all.
            within_deadline(require_config(&backend)).await?;
        }
        keep(&reference, stamp, ids, context);
        return Ok(true);
    }
    // Only who has the password is believed: at this address there could be anything.
    let turn = context.mirrors.opens.acquire().await.ok();
    let access = within_deadline(place.open(backend)).await?;
    drop(turn);
    keep(&reference, stamp, ids, context);
    let end = Instant::now() + BUDGET;
    let mut is_done = apply::remove_all(&plan.gone, end, context).await?;
    is_done &= apply::make_all(repository, &plan, &access, end, context).await?;
    tracing::info!(repository = repository_key(repository), lacking, gone, is_done, "mirrored the snapshots");
    Ok(is_done)
}

fn keep(reference: &ObjectRef<Repository>, stamp: &Stamp, ids: BTreeSet<SnapshotId>, context: &Context) {
    let listed = Listed { stamp: stamp.clone(), ids: Arc::new(ids) };
    context.mirrors.change(reference, |state| state.listed = Some(listed));
}

/// Tells something of a Repository, once for each reason until that is over.
async fn tell(repository: &Repository, notice: &Notice, context: &Context) {
    let reference = ObjectRef::from_obj(repository);
    if context.mirrors.change(&reference, |state| state.told.insert(notice.reason.clone())) {
        context.tell(repository, std::slice::from_ref(notice)).await;
    }
}

/// Decides what becomes of objects that somebody deletes, and does it; returns when to look again.
async fn look_at_deletions(
    repository: &Repository,
    stamp: &Stamp,
    job: Option<&Job>,
    context: &Context,
) -> Result<Option<Duration>, ReconcileError> {
    let reference = ObjectRef::from_obj(repository);
    let objects = context.stores.snapshots_of(&reference);
    let deleted: Vec<Deleted> = objects.iter().filter_map(|meta| deleted(meta)).collect();
    if deleted.is_empty() && job.is_none() {
        return Ok(None);
    }
    let state = context.mirrors.state(&reference);
    // What was listed under another address or another password says nothing of what is there now.
    let listed = state.listed.filter(|listed| listed.stamp.reaches_the_same(stamp));
    let observed = forget::Observed {
        deleted: &deleted,
        lives: None,
        listed: listed.as_ref().map(|listed| &*listed.ids),
        accepted: &state.accepted,
        confirmation: Confirmation::of(
            repository.annotations().get(labels::CONFIRM_FORGET_ANNOTATION).map(String::as_str),
        ),
        job: job.map_or(forget::Job::Absent, |job| seen(job, listed.as_ref(), context)),
        is_busy: is_looked_after(repository, &job_name(repository), context),
    };
    let mut plan = forget::plan(&observed, context.now());
    if plan.ask {
        let lives = lives(repository, context).await?;
        plan = forget::plan(&forget::Observed { lives: Some(lives), ..observed }, context.now());
    }
    carry_out(repository, &plan, &objects, job, context).await?;
    Ok(plan.requeue)
}

fn deleted(meta: &Meta) -> Option<Deleted> {
    let since = meta.metadata.deletion_timestamp.as_ref().filter(|_| is_held(meta))?.0;
    Some(Deleted { name: meta.name_any(), id: plan::id_of(meta), since })
}

fn job_name(repository: &Repository) -> String {
    names::forget_job(&repository.name_any(), &repository.uid().unwrap_or_default())
}

/// Returns the Job that forgets, unless it is being deleted.
fn job_of(repository: &Repository, context: &Context) -> Option<Arc<Job>> {
    let found = context.stores.jobs.get(&as_ref_of(&job_name(repository), repository.metadata.namespace.as_deref()));
    found.filter(|job| {
        let owned = job.owner_references().iter().any(|owner| Some(&owner.uid) == repository.metadata.uid.as_ref());
        owned && job.metadata.deletion_timestamp.is_none()
    })
}

fn seen(job: &Job, listed: Option<&Listed>, context: &Context) -> forget::Job {
    match jobs::progress(job, context) {
        Progress::AtWork { made, has_secret, has_begun } => forget::Job::AtWork { made, has_secret, has_begun },
        Progress::Done { at, failed } => {
            let is_listed = listed.is_some_and(|listed| listed.stamp.job == job.uid());
            forget::Job::Done { at, failed, is_listed }
        }
    }
}

/// Asks the API server whether all lives whose end would delete the objects too.
async fn lives(repository: &Repository, context: &Context) -> Result<bool, ReconcileError> {
    let (namespace, name) = (repository.namespace().unwrap_or_default(), repository.name_any());
    let kind = format!("{}.{}", Snapshot::plural(&()), labels::SNAPSHOT_GROUP);
    let asked = |what: &str, error| ReconcileError::of(format!("look up {what}"), error);
    let spaces = Api::<Namespace>::all(context.client.clone());
    let kinds = Api::<CustomResourceDefinition>::all(context.client.clone());
    let found = spaces.get_metadata_opt(&namespace).await.map_err(|error| asked("the Namespace", error))?;
    let kind = kinds.get_metadata_opt(&kind).await.map_err(|error| asked("the definition of Snapshot", error))?;
    let own = context.api::<Repository>(&namespace).get_metadata_opt(&name).await;
    let own = own.map_err(|error| asked("the Repository", error))?;
    let same = own.as_ref().is_some_and(|own| own.metadata.uid == repository.metadata.uid);
    let dies = [found.map(|found| found.metadata), kind.map(|kind| kind.metadata), own.map(|own| own.metadata)]
        .into_iter()
        .any(|metadata| metadata.is_none_or(|metadata| metadata.deletion_timestamp.is_some()));
    Ok(same && !dies)
}

async fn carry_out(
    repository: &Repository,
    plan: &forget::Plan,
    objects: &[Arc<Meta>],
    job: Option<&Job>,
    context: &Context,
) -> Result<(), ReconcileError> {
    let namespace = repository.namespace().unwrap_or_default();
    let release: BTreeSet<&str> = plan.release.iter().map(String::as_str).collect();
    let released: Vec<_> = objects.iter().filter(|meta| release.contains(meta.name_any().as_str())).cloned().collect();
    apply::release_all(&released, context).await?;
    if let Some(notice) = &plan.notice {
        tell(repository, notice, context).await;
    }
    if let Some(job) = job.filter(|_| plan.drop_job) {
        let deleted = context.api::<Job>(&namespace).delete(&job.name_any(), &DeleteParams::background()).await;
        match deleted {
            Err(error) if !is_not_found(&error) => return Err(ReconcileError::of("delete a Job that is done", error)),
            _ => context.mirrors.change(&ObjectRef::from_obj(repository), |state| {
                state.told.remove("ForgetFailed");
            }),
        }
    }
    if !plan.forget.is_empty() {
        start(repository, &plan.forget, objects, context).await?;
    }
    if plan.confirmation_is_used {
        let none: Patch<Value> =
            Patch::Merge(json!({ "metadata": { "annotations": { labels::CONFIRM_FORGET_ANNOTATION: null } } }));
        let parameters = Context::patch_parameters();
        let patched = context.api::<Repository>(&namespace).patch(&repository.name_any(), &parameters, &none).await;
        patched.map_err(|error| ReconcileError::of("take the confirmation back", error))?;
        context.mirrors.change(&ObjectRef::from_obj(repository), |state| {
            state.told.remove("ForgetWaits");
            state.told.remove("ForgetDeclined");
        });
    }
    Ok(())
}

/// Makes the Job that forgets.
async fn start(
    repository: &Repository,
    forget: &[Deleted],
    objects: &[Arc<Meta>],
    context: &Context,
) -> Result<(), ReconcileError> {
    let namespace = repository.namespace().unwrap_or_default();
    let (ids, unknown) = apply::verified(&namespace, forget, context).await?;
    let unknown: Vec<_> = objects.iter().filter(|meta| unknown.contains(&meta.name_any())).cloned().collect();
    apply::release_all(&unknown, context).await?;
    if ids.is_empty() {
        return Ok(());
    }
    let told = |error: String| Notice::warning("ForgetFailed", format!("The Job that forgets cannot be made: {error}"));
    let started = async {
        let spec = crate::spec::forget(repository, ids.clone())?;
        let local = repository.spec.backend.local.as_ref().map(LocalRepository::of).transpose();
        let local =
            local.map_err(|error| ExecutorError::Impossible(format!("spec.backend.local is no volume: {error}")))?;
        let runtime = local.as_ref().and_then(|_| access::runtime_settings(repository, context));
        let credentials = executor::credentials(repository, context).await?;
        let request = JobRequest {
            name: job_name(repository),
            namespace,
            owner: repository.controller_owner_ref(&()).unwrap_or_default(),
            session_namespace: None,
            repository: repository_key(repository),
            purpose: Purpose::Upkeep,
            secret_keys: credentials.keys().copied().collect(),
            mounts: Vec::new(),
            local,
            shown: None,
            beside: None,
            runtime: runtime.as_ref(),
            temp_dir: None,
        };
        executor::make(&request, spec, credentials, context).await
    };
    match started.await {
        Ok(()) => {
            tracing::info!(repository = repository_key(repository), snapshots = ids.len(), "a Job forgets");
            let now = context.now();
            context.mirrors.change(&ObjectRef::from_obj(repository), |state| {
                state.accepted.retain(|time| now.duration_since(*time) < SignedDuration::from_mins(10));
                state.accepted.extend(forget.iter().map(|deleted| deleted.since));
            });
            Ok(())
        }
        Err(ExecutorError::Reconcile(error)) => Err(error),
        Err(ExecutorError::Impossible(why) | ExecutorError::Host(why) | ExecutorError::Busy(why)) => {
            tell(repository, &told(why), context).await;
            Ok(())
        }
    }
}
