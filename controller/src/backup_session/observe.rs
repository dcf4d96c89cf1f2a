//! Gathers what a session's plan is made from: from the stores, and from the API server where a store may be behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use kube::runtime::reflector::ObjectRef;
use stash_crds::backup_session::BackupSessionPhase;
use stash_crds::conditions as aspects;
use stash_crds::target::Driver;
use stash_crds::{BackupConfiguration, BackupSession, Repository};

use super::history;
use super::outcome::{HostOutcome, Upkeep, Work};
use super::phase::is_final;
use super::plan::{BackendState, Hooks, Host, Load, Observed};
use super::report;
use crate::backup_configuration::validate::{self, Target, TargetKind};
use crate::conditions::is_true;
use crate::context::Context;
use crate::errors::ReconcileError;
use crate::hooks::Point;
use crate::jobs::{self, BESIDE_ANNOTATION, Due, Ended, REPOSITORY_ANNOTATION, ended};
use crate::names;
use crate::parts::parts_of;
use crate::stores::{as_ref_of, invoker_ref};
use crate::volume_snapshots;
use crate::workload::{Workload, is_here};

/// What was gathered.
#[derive(Debug)]
pub struct Seen {
    /// The configuration that asked for the session.
    pub invoker: Option<Arc<BackupConfiguration>>,
    /// Its Repository.
    pub repository: Option<Arc<Repository>>,
    siblings: Vec<Arc<BackupSession>>,
    rivals: Vec<Arc<BackupSession>>,
    ahead: usize,
    hosts: Vec<Host>,
    backend: BackendState,
    without_secret: BTreeSet<String>,
    secret_again: Option<Timestamp>,
    beside: bool,
    jobs: BTreeMap<String, Work<HostOutcome>>,
    upkeep: Work<Upkeep>,
    hooks: Hooks,
    repository_is_busy: bool,
}

/// Gathers what is known about a session.
///
/// # Errors
///
/// The API server did not tell, or a Job has the name of one of ours.
pub async fn observe(session: &BackupSession, context: &Context) -> Result<Seen, ReconcileError> {
    let stores = &context.stores;
    let name = session.name_any();
    let invoker = stores.invoker_of(session);
    let repository = invoker.as_ref().and_then(|invoker| stores.repository_of(invoker));
    let others = |other: &BackupSession| other.name_any() != name || other.namespace() != session.namespace();
    let mut siblings = invoker_ref(session).map(|invoker| stores.sessions_of(&invoker)).unwrap_or_default();
    siblings.retain(|sibling| others(sibling));
    let undecided = session.status.as_ref().is_none_or(|status| status.targets.is_empty());
    let (rivals, ahead) = match &invoker {
        // Only who has not begun asks who goes first.
        Some(invoker) if undecided => (rivals(session, invoker, context), ahead(session, context)),
        _ => (Vec::new(), 0),
    };
    let mut seen = Seen {
        hosts: hosts(session, invoker.as_deref(), context).await?,
        invoker,
        siblings,
        rivals,
        ahead,
        backend: match &repository {
            Some(repository) if undecided || !has_executor(session) => backend_state(session, repository, context),
            _ => BackendState::Known,
        },
        without_secret: BTreeSet::new(),
        secret_again: None,
        beside: false,
        jobs: BTreeMap::new(),
        upkeep: Work::Absent,
        hooks: hooks(session, context),
        repository_is_busy: repository.as_ref().is_some_and(|repository| is_busy(&name, repository, context)),
        repository,
    };
    let is_over = is_final(history::phase(session));
    let driver = seen.invoker.as_ref().map(|invoker| invoker.spec.driver.clone());
    let is_of_volume_snapshots = driver == Some(Driver::VolumeSnapshotter);
    if !undecided && !is_over {
        for host in &seen.hosts {
            let work = match (&host.part, is_of_volume_snapshots) {
                (Some(claim), true) => volume_snapshots::work(session, claim, context).await?,
                _ => work(session, &host.job, context, report::host).await?,
            };
            seen.jobs.insert(host.job.clone(), work);
        }
        seen.beside = context
            .stores
            .jobs
            .find(|job| is_owned(job, session) && job.annotations().contains_key(BESIDE_ANNOTATION))
            .is_some();
        // Nobody tells us when a VolumeSnapshot is ready: it is looked at again and again, as pods are beside which Jobs run.
        seen.beside |= is_of_volume_snapshots;
        let hosts_done = !is_of_volume_snapshots && seen.jobs.values().all(|work| !matches!(work, Work::Running));
        if hosts_done {
            seen.upkeep = work(session, &names::maintenance_job(&name), context, report::upkeep).await?;
        }
        let at_work = seen.jobs.iter().filter(|(_, work)| **work == Work::Running).map(|(job, _)| job.clone());
        let at_work = at_work.chain((seen.upkeep == Work::Running).then(|| names::maintenance_job(&name)));
        (seen.without_secret, seen.secret_again) = jobs::due(at_work, |job| secret_due(session, job, context));
    }
    Ok(seen)
}

impl Seen {
    /// Returns it as the plan takes it.
    pub fn observed<'a>(&'a self, session: &'a BackupSession, context: &Context) -> Observed<'a> {
        let first = self.repository.as_ref().and_then(|repository| repository.status.as_ref());
        Observed {
            session,
            invoker: self.invoker.as_deref(),
            siblings: self.siblings.iter().map(|sibling| &**sibling).collect(),
            rivals: self.rivals.iter().map(|rival| &**rival).collect(),
            load: Load { ahead: self.ahead, limit: context.options.max_running },
            hosts: self.hosts.clone(),
            backend: self.backend,
            parts_are_written: parts_of(session).is_some(),
            without_secret: self.without_secret.clone(),
            secret_again: self.secret_again,
            beside: self.beside,
            jobs: self.jobs.clone(),
            upkeep: self.upkeep.clone(),
            hooks: self.hooks.clone(),
            repository_is_busy: self.repository_is_busy,
            has_first_backup_time: first.is_some_and(|status| status.first_backup_time.is_some()),
        }
    }
}

/// Whether the Jobs of a session were made, or cannot be.
fn has_executor(session: &BackupSession) -> bool {
    let targets = session.status.iter().flat_map(|status| &status.targets);
    targets.flat_map(|target| &target.conditions).any(|said| said.type_ == aspects::BACKUP_EXECUTOR_ENSURED)
}

/// Returns how far the hooks of a session are.
fn hooks(session: &BackupSession, context: &Context) -> Hooks {
    let uid = session.metadata.uid.as_deref().unwrap_or_default();
    let progress = |point| context.hooks.progress(uid, point);
    Hooks { pre: progress(Point::PreBackup), post: progress(Point::PostBackup) }
}

/// Returns the hosts of the target: of a StatefulSet a host for each replica, and of a DaemonSet for each node, that it had when the
/// session began; else one.
async fn hosts(
    session: &BackupSession,
    invoker: Option<&BackupConfiguration>,
    context: &Context,
) -> Result<Vec<Host>, ReconcileError> {
    let (name, namespace) = (session.name_any(), session.namespace().unwrap_or_default());
    // Without it only what runs already matters.
    let Some(invoker) = invoker else { return Ok(running(session, context)) };
    let alias = invoker.spec.target.as_ref().and_then(|target| target.alias.as_deref());
    let one = Host { name: names::host(alias), job: names::backup_job(&name, 0, None), ordinal: None, part: None };
    let Ok(target) = validate::target(invoker) else { return Ok(vec![one]) };
    let begun = session.status.as_ref().and_then(|status| status.targets.first());
    if invoker.spec.driver == Driver::VolumeSnapshotter {
        let claims = match parts_of(session) {
            Some(claims) => claims,
            None => claims(&target, invoker, &namespace, context).await?,
        };
        let host = |claim: String| Host {
            name: claim.clone(),
            job: volume_snapshots::name(&claim, &name),
            ordinal: None,
            part: Some(claim),
        };
        return Ok(claims.into_iter().map(host).collect());
    }
    Ok(match target.kind {
        TargetKind::StatefulSet => {
            // One that is gone has one host, whose Job then says so.
            let set = Workload::find(&target, &namespace, &context.client).await?.unwrap_or_default();
            let replicas = match begun {
                Some(begun) => begun.total_hosts.unwrap_or(0),
                None => set.replicas.unwrap_or(1),
            };
            let host = |ordinal| Host {
                name: names::replica_host(alias, ordinal),
                job: names::backup_job(&name, 0, Some(ordinal)),
                ordinal: Some(ordinal),
                part: None,
            };
            set.ordinals(replicas).map(host).collect()
        }
        TargetKind::DaemonSet => {
            let nodes = match parts_of(session) {
                Some(nodes) => nodes,
                None => match Workload::find(&target, &namespace, &context.client).await? {
                    Some(set) => {
                        let pods = set.pods(&namespace, &context.client).await?;
                        let nodes = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone());
                        nodes.collect::<BTreeSet<String>>().into_iter().collect()
                    }
                    None => return Ok(vec![one]),
                },
            };
            let host = |node: String| Host {
                name: names::node_host(alias, &node),
                job: names::node_job(&name, 0, &node),
                ordinal: None,
                part: Some(node),
            };
            nodes.into_iter().map(host).collect()
        }
        _ => vec![one],
    })
}

/// Returns the claims of which snapshots are taken: of a StatefulSet those of `target.replicas` pods, if that is said.
async fn claims(
    target: &Target,
    invoker: &BackupConfiguration,
    namespace: &str,
    context: &Context,
) -> Result<Vec<String>, ReconcileError> {
    if target.kind == TargetKind::Claim {
        return Ok(vec![target.name.clone()]);
    }
    let workload = Workload::find(target, namespace, &context.client).await?.unwrap_or_default();
    let replicas = invoker.spec.target.as_ref().and_then(|target| target.replicas).or(workload.replicas);
    Ok(volume_snapshots::claims(&workload, replicas.unwrap_or(0)))
}

/// Returns the hosts of the Jobs that a session has.
fn running(session: &BackupSession, context: &Context) -> Vec<Host> {
    let own = |job: &Job| is_owned(job, session) && names::is_of_backup(&job.name_any());
    let jobs = context.stores.jobs.state_filter(own);
    jobs.iter().map(|job| Host { name: job.name_any(), job: job.name_any(), ordinal: None, part: None }).collect()
}

/// Returns the sessions of other configurations on the same target that are not done.
fn rivals(session: &BackupSession, invoker: &BackupConfiguration, context: &Context) -> Vec<Arc<BackupSession>> {
    let target = |configuration: &BackupConfiguration| {
        let reference =
            configuration.spec.target.as_ref().and_then(|target| target.reference.clone()).unwrap_or_default();
        (configuration.namespace(), reference.kind, reference.name)
    };
    let (own, reference) = (target(invoker), invoker_ref(session));
    let same =
        |other: &Arc<BackupConfiguration>| Some(ObjectRef::from_obj(&**other)) != reference && target(other) == own;
    let rivals = context.stores.configurations.state().into_iter().filter(same);
    let sessions = rivals.flat_map(|rival| context.stores.sessions_of(&ObjectRef::from_obj(&*rival)));
    sessions
        .filter(|session| session.metadata.deletion_timestamp.is_none() && !is_final(history::phase(session)))
        .collect()
}

/// Returns how many sessions run, or wait and are older.
fn ahead(session: &BackupSession, context: &Context) -> usize {
    if context.options.max_running.is_none() {
        return 0;
    }
    let goes_first = |other: &BackupSession| {
        let phase = history::phase(other);
        phase == Some(&BackupSessionPhase::Running) || (!is_final(phase) && history::by_age(other, session).is_lt())
    };
    context.stores.sessions.state_filter(goes_first).len()
}

/// Tells what the Repository and its sessions say of the repository in the backend.
fn backend_state(session: &BackupSession, repository: &Repository, context: &Context) -> BackendState {
    let status = repository.status.as_ref();
    if status.is_some_and(|status| status.last_backup_time.is_some() || status.snapshot_count.is_some()) {
        return BackendState::Known;
    }
    let made = |other: &BackupSession| {
        let conditions = other.status.as_ref().map(|status| status.conditions.as_slice());
        conditions.is_some_and(|conditions| is_true(conditions, aspects::BACKEND_REPOSITORY_INITIALIZED))
    };
    let users = context.stores.users_of(&ObjectRef::from_obj(repository));
    let others = users.iter().flat_map(|user| context.stores.sessions_of(&ObjectRef::from_obj(&**user)));
    let mut state = BackendState::Unknown;
    for other in others.filter(|other| other.metadata.uid != session.metadata.uid) {
        if made(&other) {
            return BackendState::Known;
        }
        let phase = history::phase(&other);
        let goes_first = phase == Some(&BackupSessionPhase::Running) || history::by_age(&other, session).is_lt();
        if goes_first && !is_final(phase) && other.metadata.deletion_timestamp.is_none() {
            state = BackendState::BeingMade;
        }
    }
    state
}

/// Whether another Job than the session's looks after the repository.
fn is_busy(session: &str, repository: &Repository, context: &Context) -> bool {
    is_looked_after(repository, &names::maintenance_job(session), context)
}

/// Whether another Job than `own` looks after the repository: maintenance of a session, or one that forgets snapshots.
pub fn is_looked_after(repository: &Repository, own: &str, context: &Context) -> bool {
    let key = repository_key(repository);
    let at_work = context.stores.jobs.find(|job| {
        let name = job.name_any();
        names::is_of_maintenance(&name)
            && name != own
            && !jobs::is_done(job)
            && job.annotations().get(REPOSITORY_ANNOTATION) == Some(&key)
    });
    at_work.is_some()
}

/// Returns a Repository as annotations name it.
pub fn repository_key(repository: &Repository) -> String {
    format!("{}/{}", repository.namespace().unwrap_or_default(), repository.name_any())
}

/// Returns how far a Job is.
async fn work<T>(
    session: &BackupSession,
    name: &str,
    context: &Context,
    read: impl Fn(&str) -> Work<T>,
) -> Result<Work<T>, ReconcileError> {
    let Some(job) = locate(session, name, context).await? else { return Ok(Work::Absent) };
    if !is_owned(&job, session) {
        return Err(ReconcileError::Foreign { kind: "Job", name: name.to_owned() });
    }
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(Work::Absent);
    }
    let namespace = job.namespace().unwrap_or_default();
    let owns = |pod: &Pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref());
    let stored = context.stores.pods.state_filter(owns);
    let mut state = ended(&job, &stored.iter().map(|pod| &**pod).collect::<Vec<_>>());
    if !matches!(state, Ended::No | Ended::Message(_)) {
        // The Job is done. What its pod left may not have been seen yet.
        let ours = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", job.name_any()));
        let pods = context.api::<Pod>(&namespace).list(&ours).await;
        let pods = pods.map_err(|error| ReconcileError::of(format!("list the pods of Job {name}"), error))?;
        state = ended(&job, &pods.items.iter().filter(|pod| owns(pod)).collect::<Vec<_>>());
    }
    Ok(match state {
        Ended::No => match left(&job, session, context).await? {
            Some(why) => Work::Left(why),
            None => Work::Running,
        },
        Ended::Message(message) => read(&message),
        Ended::Silent(why) => Work::Silent(why),
        Ended::Disrupted(why) => Work::Disrupted(why),
    })
}

/// Finds a Job by the name that it has in the session's namespace: there, or in the release namespace.
pub(super) async fn locate(
    session: &BackupSession,
    name: &str,
    context: &Context,
) -> Result<Option<Arc<Job>>, ReconcileError> {
    let namespace = session.namespace().unwrap_or_default();
    let release = (context.options.release_namespace.clone(), names::in_release(&namespace, name));
    let places = [(namespace, name.to_owned()), release];
    for (namespace, name) in &places {
        if let Some(job) = context.stores.jobs.get(&as_ref_of(name, Some(namespace))) {
            return Ok(Some(job));
        }
    }
    // The watch may not have seen it yet; that it is gone has to be certain.
    for (namespace, name) in &places {
        let found = context.api::<Job>(namespace).get_opt(name).await;
        let found = found.map_err(|error| ReconcileError::of(format!("look up Job {name}"), error))?;
        if let Some(job) = found {
            return Ok(Some(Arc::new(job)));
        }
    }
    Ok(None)
}

/// Tells when the Secret of a Job is to be made that the stores have. Whose pod runs has it.
fn secret_due(session: &BackupSession, name: &str, context: &Context) -> Due {
    let namespace = session.namespace().unwrap_or_default();
    let in_release = names::in_release(&namespace, name);
    let places = [(namespace.as_str(), name), (context.options.release_namespace.as_str(), in_release.as_str())];
    let of = |(namespace, name)| jobs::secret_due(&as_ref_of(name, Some(namespace)), context);
    places.into_iter().map(of).find(|due| *due != Due::Never).unwrap_or(Due::Never)
}

/// Tells whether the pod leaves beside which a Job runs, and how.
async fn left(job: &Job, session: &BackupSession, context: &Context) -> Result<Option<String>, ReconcileError> {
    let Some((name, uid)) = job.annotations().get(BESIDE_ANNOTATION).and_then(|text| text.split_once('/')) else {
        return Ok(None);
    };
    let namespace = session.namespace().unwrap_or_default();
    let found = context.api::<Pod>(&namespace).get_opt(name).await;
    let found = found.map_err(|error| ReconcileError::of(format!("look up pod {name}"), error))?;
    let stays = found.is_some_and(|pod| pod.uid().as_deref() == Some(uid) && is_here(&pod));
    Ok((!stays).then(|| format!("pod {name}, beside which the Job ran, left its node")))
}

/// Whether a Job is of `session`.
pub fn is_owned(job: &Job, session: &BackupSession) -> bool {
    session.metadata.uid.as_deref().is_some_and(|uid| jobs::is_owned_by(job, uid))
}
