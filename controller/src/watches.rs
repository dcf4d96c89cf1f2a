//! The watches: each fills a store and wakes what depends on the object that changed.
//!
//! Who depends on whom is found in the stores, never by asking the API server.

use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodStatus, Secret};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use stash_crds::{BackupConfiguration, BackupSession, Repository, RestoreSession, Snapshot, names as labels};
use tokio::task::JoinSet;

use crate::access::is_read_by_pods;
use crate::backup_session::history::phase;
use crate::backup_session::phase::is_final;
use crate::jobs::{REPOSITORY_ANNOTATION, RESTORE_ANNOTATION, SESSION_ANNOTATION};
use crate::names;
use crate::restore_session;
use crate::rights::{self, Made, Right, Space};
use crate::secrets::{NamedSecrets, watch};
use crate::snapshot::Meta;
use crate::snapshot::mirror::is_mirrored;
use crate::stores::{Stores, as_ref_of, invoker_ref, repository_ref, secret_name};
use crate::wake::Wakes;

/// Who has to look at something.
#[derive(Debug, Default)]
pub struct Queues {
    /// Repositories.
    pub repositories: Arc<Wakes<Repository>>,
    /// BackupConfigurations.
    pub configurations: Arc<Wakes<BackupConfiguration>>,
    /// BackupSessions.
    pub sessions: Arc<Wakes<BackupSession>>,
    /// RestoreSessions.
    pub restores: Arc<Wakes<RestoreSession>>,
    /// Repositories, for their Snapshots.
    pub mirrors: Arc<Wakes<Repository>>,
    /// Snapshots.
    pub snapshots: Arc<Wakes<Meta>>,
    /// Claims that are being deleted.
    pub claims: Arc<Wakes<PartialObjectMeta<PersistentVolumeClaim>>>,
    /// Namespaces, for the rights in them.
    pub namespaces: Arc<Wakes<Space>>,
}

/// Wakes what depends on an object.
#[derive(Clone)]
struct Dependents {
    client: Client,
    stores: Stores,
    queues: Arc<Queues>,
}

/// Starts the watches on `tasks`. One that ends ends the process: a store that nobody fills is worse.
pub fn start(client: &Client, tasks: &mut JoinSet<()>) -> (Stores, Arc<Queues>) {
    let (repositories, repositories_writer) = reflector::store();
    let (configurations, configurations_writer) = reflector::store();
    let (sessions, sessions_writer) = reflector::store();
    let (restores, restores_writer) = reflector::store();
    let (jobs, jobs_writer) = reflector::store();
    let (pods, pods_writer) = reflector::store();
    let (secret_rights, secret_rights_writers) = made();
    let (command_rights, command_rights_writers) = made();
    let (restore_rights, restore_rights_writers) = made();
    let (claims, claims_writer) = reflector::store();
    let (deployments, deployments_writer) = reflector::store();
    let (stateful_sets, stateful_sets_writer) = reflector::store();
    let (daemon_sets, daemon_sets_writer) = reflector::store();
    let (snapshots, snapshots_writer) = reflector::store();
    let (namespaces, namespaces_writer) = reflector::store();
    let stores = Stores {
        repositories,
        configurations,
        sessions,
        restores,
        jobs,
        pods,
        secrets: NamedSecrets::default(),
        secret_rights,
        command_rights,
        restore_rights,
        claims,
        deployments,
        stateful_sets,
        daemon_sets,
        snapshots,
        namespaces,
    };
    let queues = Arc::new(Queues::default());
    let dependents = Dependents { client: client.clone(), stores: stores.clone(), queues: Arc::clone(&queues) };

    let all = watcher::Config::default();
    let ours = all.clone().labels(&format!("{}={}", labels::MANAGED_BY_LABEL, labels::MANAGED_BY));
    let d = dependents.clone();
    tasks.spawn(run(guarded(client, all.clone()), repositories_writer, move |object| d.repository(object)));
    let d = dependents.clone();
    tasks.spawn(run(guarded(client, all.clone()), configurations_writer, move |object| d.configuration(object)));
    let d = dependents.clone();
    tasks.spawn(run(guarded(client, all.clone()), sessions_writer, move |object| d.session(object)));
    let d = dependents.clone();
    let restores = guarded(client, all.clone());
    tasks.spawn(run(restores, restores_writer, move |object| d.restore(object)));
    let d = dependents.clone();
    let jobs = guarded(client, ours.clone()).modify(slim_job);
    tasks.spawn(run(jobs, jobs_writer, move |object: &Job| d.of_session(object)));
    let d = dependents.clone();
    let pods = guarded(client, ours).modify(slim_pod);
    tasks.spawn(run(pods, pods_writer, move |object: &Pod| d.of_session(object)));
    for (right, (roles, bindings)) in [
        (Right::Secrets, secret_rights_writers),
        (Right::Commands, command_rights_writers),
        (Right::Restores, restore_rights_writers),
    ] {
        // What was made is found again by its name, wherever it is.
        let of_name = all.clone().fields(&format!("metadata.name={}", right.role()));
        let d = dependents.clone();
        tasks.spawn(run(guarded(client, of_name.clone()), roles, move |object: &Role| d.right(right, object)));
        let d = dependents.clone();
        tasks.spawn(run(guarded(client, of_name), bindings, move |object: &RoleBinding| d.right(right, object)));
    }
    let d = dependents.clone();
    let claims = metadata::<PersistentVolumeClaim>(client, all.clone());
    tasks.spawn(run(claims, claims_writer, move |object| {
        if object.metadata.deletion_timestamp.is_some() {
            d.queues.claims.wake(ObjectRef::from_obj(object));
        }
        d.target("PersistentVolumeClaim", object);
    }));
    let d = dependents.clone();
    let deployments = metadata::<Deployment>(client, all.clone());
    tasks.spawn(run(deployments, deployments_writer, move |object| d.target("Deployment", object)));
    let d = dependents.clone();
    let stateful_sets = metadata::<StatefulSet>(client, all.clone());
    tasks.spawn(run(stateful_sets, stateful_sets_writer, move |object| d.target("StatefulSet", object)));
    let d = dependents.clone();
    let daemon_sets = metadata::<DaemonSet>(client, all.clone());
    tasks.spawn(run(daemon_sets, daemon_sets_writer, move |object| d.target("DaemonSet", object)));
    let d = dependents.clone();
    let snapshots = metadata::<Snapshot>(client, all.clone());
    tasks.spawn(run(snapshots, snapshots_writer, move |object| d.queues.snapshots.wake(ObjectRef::from_obj(object))));
    tasks.spawn(run(metadata(client, all), namespaces_writer, move |object| dependents.namespace(object)));
    (stores, queues)
}

/// The stores of what is made for a right, and who fills them.
fn made() -> (Made, (Writer<Role>, Writer<RoleBinding>)) {
    let ((roles, roles_writer), (bindings, bindings_writer)) = (reflector::store(), reflector::store());
    (Made { roles, bindings }, (roles_writer, bindings_writer))
}

/// Watches a kind; an object that cannot be read is left out, and said once for each version.
fn guarded<K>(
    client: &Client,
    config: watcher::Config,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let events = watcher(Api::<DeserializeGuard<K>>::all(client.clone()), config).default_backoff();
    events.filter_map(|event| async move { event.map(readable).transpose() })
}

fn readable<K: Resource<DynamicType = ()>>(event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
    let read = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let (namespace, name) = (invalid.metadata.namespace.as_deref(), invalid.metadata.name.as_deref());
            tracing::warn!(kind = %K::kind(&()), namespace, name, error = invalid.error, "an object cannot be read; it is left out");
            None
        }
    };
    match event {
        Event::Apply(guard) => read(guard).map(Event::Apply),
        Event::Delete(guard) => read(guard).map(Event::Delete),
        Event::InitApply(guard) => read(guard).map(Event::InitApply),
        Event::Init => Some(Event::Init),
        Event::InitDone => Some(Event::InitDone),
    }
}

/// Watches the metadata of a kind.
fn metadata<K>(
    client: &Client,
    config: watcher::Config,
) -> impl Stream<Item = Result<Event<PartialObjectMeta<K>>, watcher::Error>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    watcher(Api::<PartialObjectMeta<K>>::all(client.clone()), config).default_backoff()
}

/// Fills a store from a watch, and tells of each object that changed after the store has it.
async fn run<K>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
    mut writer: Writer<K>,
    changed: impl Fn(&K) + Send,
) where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let event = event.modify(slim);
                writer.apply_watcher_event(&event);
                match &event {
                    Event::Apply(object) | Event::Delete(object) => changed(object),
                    Event::InitDone => writer.as_reader().state().iter().for_each(|object| changed(object)),
                    Event::Init | Event::InitApply(_) => {}
                }
            }
            // The stream goes on by itself, after a pause.
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "a watch was interrupted"),
        }
    }
}

/// Drops what nobody here reads.
fn slim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Of Jobs what counts is how far they are, whose, and beside which pod.
fn slim_job(job: &mut Job) {
    job.spec = None;
}

/// Of their pods what counts is how they ended, and where those are that serve something.
fn slim_pod(pod: &mut Pod) {
    pod.spec = None;
    pod.status = pod.status.take().map(|status| PodStatus {
        conditions: status.conditions,
        container_statuses: status.container_statuses,
        phase: status.phase,
        pod_ip: status.pod_ip,
        reason: status.reason,
        ..PodStatus::default()
    });
}

impl Dependents {
    /// A Repository came, changed or went.
    fn repository(&self, repository: &Repository) {
        self.named_secrets(&repository.namespace().unwrap_or_default());
        self.of_repository(repository);
    }

    /// Wakes what depends on a Repository, or on its Secret.
    fn of_repository(&self, repository: &Repository) {
        let reference = ObjectRef::from_obj(repository);
        for user in self.stores.users_of(&reference) {
            self.queues.configurations.wake(ObjectRef::from_obj(&*user));
        }
        for session in self.stores.restores_from(&reference) {
            self.wake_restore_unless_final(&session);
        }
        let lives = self.stores.repositories.get(&reference).is_some_and(|stored| is_mirrored(&stored));
        if !lives {
            // What becomes of them is decided without it.
            for meta in self.stores.snapshots_of(&reference) {
                self.queues.snapshots.wake(ObjectRef::from_obj(&*meta));
            }
        }
        self.queues.mirrors.wake(reference.clone());
        self.queues.repositories.wake(reference);
    }

    fn configuration(&self, configuration: &BackupConfiguration) {
        let reference = ObjectRef::from_obj(configuration);
        for session in self.stores.sessions_of(&reference) {
            self.wake_unless_final(&session);
        }
        if let Some(repository) = repository_ref(configuration) {
            self.queues.repositories.wake(repository);
        }
        let namespace = configuration.namespace().unwrap_or_default();
        self.needs(Right::Commands, &namespace, rights::has_command(configuration));
        self.queues.configurations.wake(reference);
    }

    fn restore(&self, session: &RestoreSession) {
        let namespace = session.namespace().unwrap_or_default();
        self.needs(Right::Commands, &namespace, rights::will_run_command(session));
        self.needs(Right::Restores, &namespace, rights::restored_at_start(session).is_some());
        self.queues.restores.wake(ObjectRef::from_obj(session));
    }

    fn session(&self, session: &BackupSession) {
        self.queues.sessions.wake(ObjectRef::from_obj(session));
        // One that ended may be what others wait for: for a place, for the target, or for the repository.
        if session.metadata.deletion_timestamp.is_none() && !is_done(session) {
            return;
        }
        // It says when a session succeeded last.
        if let Some(invoker) = invoker_ref(session) {
            self.queues.configurations.wake(invoker);
        }
        let repository =
            |session: &BackupSession| self.stores.invoker_of(session).and_then(|invoker| repository_ref(&invoker));
        let own = repository(session);
        for other in self.stores.sessions.state_filter(|other| !is_done(other)) {
            let has_begun = other.status.as_ref().is_some_and(|status| !status.targets.is_empty());
            if !has_begun || repository(&other) == own {
                self.queues.sessions.wake(ObjectRef::from_obj(&*other));
            }
        }
    }

    fn wake_unless_final(&self, session: &BackupSession) {
        if !is_done(session) {
            self.queues.sessions.wake(ObjectRef::from_obj(session));
        }
    }

    fn wake_restore_unless_final(&self, session: &RestoreSession) {
        if !restore_session::phase::is_over(session) {
            self.queues.restores.wake(ObjectRef::from_obj(session));
        }
    }

    /// Wakes the session of a Job or of its pod, and who waits until nobody looks after the repository, or until it is served.
    fn of_session<K: Resource<DynamicType = ()>>(&self, object: &K) {
        let looks_after = object.meta().name.as_deref().is_some_and(names::is_of_maintenance);
        if let Some((namespace, name)) =
            object.annotations().get(REPOSITORY_ANNOTATION).and_then(|key| key.split_once('/'))
        {
            let repository = as_ref_of(name, Some(namespace));
            // Of a repository that is a volume, whoever mounts it counts.
            let is_volume = || self.stores.repositories.get(&repository).is_some_and(|found| is_read_by_pods(&found));
            if looks_after || is_volume() {
                self.queues.mirrors.wake(repository);
            }
        }
        let session = object.annotations().get(SESSION_ANNOTATION);
        if let Some((namespace, name)) = session.and_then(|session| session.split_once('/')) {
            self.queues.sessions.wake(as_ref_of(name, Some(namespace)));
        }
        let restore = object.annotations().get(RESTORE_ANNOTATION);
        if let Some((namespace, name)) = restore.and_then(|restore| restore.split_once('/')) {
            self.queues.restores.wake(as_ref_of(name, Some(namespace)));
        }
    }

    fn secret(&self, secret: &ObjectRef<Secret>) {
        let names = |repository: &Repository| {
            repository.metadata.namespace == secret.namespace && secret_name(repository) == Some(&secret.name)
        };
        for repository in self.stores.repositories.state_filter(names) {
            self.of_repository(&repository);
        }
    }

    /// Has the Secrets watched that the Repositories of `namespace` name, and no others there.
    fn named_secrets(&self, namespace: &str) {
        let named = self.stores.secrets_named_in(namespace);
        self.stores.secrets.keep(namespace, &named, |reference, retry| {
            let (client, secrets) = (self.client.clone(), self.stores.secrets.clone());
            let (stores, granted) = (self.stores.clone(), reference.clone());
            let is_granted = move || {
                let namespace = granted.namespace.as_deref().unwrap_or_default();
                rights::granted(namespace, &stores).contains(&granted.name)
            };
            let dependents = self.clone();
            let changed = move |secret: &ObjectRef<Secret>| dependents.secret(secret);
            let watching = watch::watch(client, reference.clone(), Arc::clone(retry), secrets, is_granted, changed);
            tokio::spawn(watching).abort_handle()
        });
        self.queues.namespaces.wake(ObjectRef::new(namespace));
    }

    /// A right in a namespace came, changed or went.
    fn right<K: Resource<DynamicType = ()>>(&self, right: Right, object: &K) {
        let namespace = object.meta().namespace.as_deref().unwrap_or_default();
        match right {
            Right::Secrets => {
                // A Repository may have gone while nobody watched; then the Role is what tells.
                self.named_secrets(namespace);
                self.stores.secrets.retry(namespace, &rights::granted(namespace, &self.stores));
            }
            Right::Commands | Right::Restores => self.queues.namespaces.wake(ObjectRef::new(namespace)),
        }
    }

    /// Something came, changed or went that may need a right in `namespace`.
    fn needs(&self, right: Right, namespace: &str, needed: bool) {
        let role = as_ref_of(right.role(), Some(namespace));
        if needed || self.stores.made(right).roles.get(&role).is_some() {
            self.queues.namespaces.wake(ObjectRef::new(namespace));
        }
    }

    fn target<K: Resource<DynamicType = ()>>(&self, kind: &str, object: &K) {
        let (namespace, name) = (object.namespace(), object.name_any());
        let names = |configuration: &BackupConfiguration| {
            let reference = configuration.spec.target.as_ref().and_then(|target| target.reference.as_ref());
            let named = reference
                .is_some_and(|target| target.kind.as_deref() == Some(kind) && target.name.as_ref() == Some(&name));
            named && configuration.namespace() == namespace
        };
        for configuration in self.stores.configurations.state_filter(names) {
            self.queues.configurations.wake(ObjectRef::from_obj(&*configuration));
        }
        let waits = |session: &RestoreSession| {
            let reference = session.spec.target.as_ref().and_then(|target| target.reference.as_ref());
            session.namespace() == namespace
                && reference
                    .is_some_and(|target| target.kind.as_deref() == Some(kind) && target.name.as_ref() == Some(&name))
        };
        for session in self.stores.restores.state_filter(waits) {
            self.wake_restore_unless_final(&session);
        }
    }

    fn namespace(&self, namespace: &Space) {
        self.queues.namespaces.wake(ObjectRef::from_obj(namespace));
        let name = Some(namespace.name_any());
        for configuration in self.stores.configurations.state_filter(|configuration| configuration.namespace() == name)
        {
            self.queues.configurations.wake(ObjectRef::from_obj(&*configuration));
        }
        for session in self.stores.restores.state_filter(|session| session.namespace() == name) {
            self.wake_restore_unless_final(&session);
        }
        if namespace.metadata.deletion_timestamp.is_some() {
            // Those that wait already are not deleted once more.
            for meta in self.stores.snapshots.state_filter(|meta| meta.namespace() == name) {
                self.queues.snapshots.wake(ObjectRef::from_obj(&*meta));
            }
        }
    }
}

fn is_done(session: &BackupSession) -> bool {
    is_final(phase(session))
}
