//! What the watches have seen: one store a kind, shared by all reconcilers, so that none lists what another watches.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::store::WriterDropped;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt as _};
use stash_crds::reference::RepositoryRef;
use stash_crds::{BackupConfiguration, BackupSession, Repository, RestoreSession, Snapshot, names as labels};

use crate::rights::{Made, Right};
use crate::secrets::{Known, NamedSecrets};

/// The stores.
#[derive(Clone, Debug)]
pub struct Stores {
    /// All Repositories.
    pub repositories: Store<Repository>,
    /// All BackupConfigurations.
    pub configurations: Store<BackupConfiguration>,
    /// All BackupSessions.
    pub sessions: Store<BackupSession>,
    /// All RestoreSessions.
    pub restores: Store<RestoreSession>,
    /// The Jobs that we made.
    pub jobs: Store<Job>,
    /// Their pods.
    pub pods: Store<Pod>,
    /// That there are the Secrets that Repositories name, and when they were changed. No start waits for them.
    pub secrets: NamedSecrets,
    /// What we made for the right to read those.
    pub secret_rights: Made,
    /// What we made for the right to run commands.
    pub command_rights: Made,
    /// What was made so that workloads may be changed that are restored when their pods start.
    pub restore_rights: Made,
    /// That there are claims.
    pub claims: Store<PartialObjectMeta<PersistentVolumeClaim>>,
    /// That there are Deployments.
    pub deployments: Store<PartialObjectMeta<Deployment>>,
    /// That there are StatefulSets.
    pub stateful_sets: Store<PartialObjectMeta<StatefulSet>>,
    /// That there are DaemonSets.
    pub daemon_sets: Store<PartialObjectMeta<DaemonSet>>,
    /// That there are Snapshots, and which.
    pub snapshots: Store<PartialObjectMeta<Snapshot>>,
    /// That there are namespaces, and their labels.
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
}

impl Stores {
    /// Waits until each store has been filled once.
    ///
    /// # Errors
    ///
    /// A watch ended.
    pub async fn wait_until_ready(&self) -> Result<(), WriterDropped> {
        self.repositories.wait_until_ready().await?;
        self.configurations.wait_until_ready().await?;
        self.sessions.wait_until_ready().await?;
        self.restores.wait_until_ready().await?;
        self.jobs.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        for right in Right::ALL {
            self.made(right).roles.wait_until_ready().await?;
            self.made(right).bindings.wait_until_ready().await?;
        }
        self.claims.wait_until_ready().await?;
        self.deployments.wait_until_ready().await?;
        self.stateful_sets.wait_until_ready().await?;
        self.daemon_sets.wait_until_ready().await?;
        self.snapshots.wait_until_ready().await?;
        self.namespaces.wait_until_ready().await
    }

    /// Returns what was made for a right.
    pub fn made(&self, right: Right) -> &Made {
        match right {
            Right::Secrets => &self.secret_rights,
            Right::Commands => &self.command_rights,
            Right::Restores => &self.restore_rights,
        }
    }

    /// Returns the Repository that `configuration` names.
    pub fn repository_of(&self, configuration: &BackupConfiguration) -> Option<Arc<Repository>> {
        self.repositories.get(&repository_ref(configuration)?)
    }

    /// Returns what is known of the Secret that `repository` names. If it names none, there is none.
    pub fn secret_of(&self, repository: &Repository) -> Known {
        let Some(name) = secret_name(repository) else { return Known::Absent };
        self.secrets.get(&as_ref_of(name, repository.metadata.namespace.as_deref()))
    }

    /// Returns the Secrets that the Repositories of `namespace` name.
    pub fn secrets_named_in(&self, namespace: &str) -> BTreeSet<String> {
        let within =
            self.repositories.state_filter(|repository| repository.metadata.namespace.as_deref() == Some(namespace));
        within.iter().filter_map(|repository| secret_name(repository)).map(str::to_owned).collect()
    }

    /// Returns the configurations that name `repository`, in order.
    pub fn users_of(&self, repository: &ObjectRef<Repository>) -> Vec<Arc<BackupConfiguration>> {
        let mut users = self
            .configurations
            .state_filter(|configuration| repository_ref(configuration).as_ref() == Some(repository));
        users.sort_by_key(|user| (user.namespace(), user.name_any()));
        users
    }

    /// Returns the RestoreSessions that name `repository`.
    pub fn restores_from(&self, repository: &ObjectRef<Repository>) -> Vec<Arc<RestoreSession>> {
        self.restores.state_filter(|session| restored_from(session).as_ref() == Some(repository))
    }

    /// Returns the Snapshots that were mirrored from `repository`.
    pub fn snapshots_of(&self, repository: &ObjectRef<Repository>) -> Vec<Arc<PartialObjectMeta<Snapshot>>> {
        // There may be very many: nothing is copied to look at one.
        self.snapshots.state_filter(|meta| {
            meta.metadata.namespace == repository.namespace
                && meta.annotations().get(labels::SNAPSHOT_REPOSITORY_ANNOTATION) == Some(&repository.name)
        })
    }

    /// Returns the configuration that asked for `session`.
    pub fn invoker_of(&self, session: &BackupSession) -> Option<Arc<BackupConfiguration>> {
        self.configurations.get(&invoker_ref(session)?)
    }

    /// Returns all sessions, by the configuration that asked for them.
    pub fn sessions_by_invoker(&self) -> HashMap<ObjectRef<BackupConfiguration>, Vec<Arc<BackupSession>>> {
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        for session in self.sessions.state() {
            if let Some(invoker) = invoker_ref(&session) {
                all.entry(invoker).or_default().push(session);
            }
        }
        all
    }

    /// Returns the sessions that `configuration` asked for.
    pub fn sessions_of(&self, configuration: &ObjectRef<BackupConfiguration>) -> Vec<Arc<BackupSession>> {
        self.sessions.state_filter(|session| invoker_ref(session).as_ref() == Some(configuration))
    }
}

/// Returns the name of the Secret that `repository` names, in its own namespace.
pub fn secret_name(repository: &Repository) -> Option<&str> {
    repository.spec.backend.storage_secret_name.as_deref().filter(|name| !name.is_empty())
}

/// Returns the Repository that `configuration` names, whether there is one or not.
pub fn repository_ref(configuration: &BackupConfiguration) -> Option<ObjectRef<Repository>> {
    named(configuration.spec.repository.as_ref()?, configuration.metadata.namespace.as_deref())
}

/// Returns the Repository that `session` names, whether there is one or not.
pub fn restored_from(session: &RestoreSession) -> Option<ObjectRef<Repository>> {
    named(session.spec.repository.as_ref()?, session.metadata.namespace.as_deref())
}

fn named(reference: &RepositoryRef, own: Option<&str>) -> Option<ObjectRef<Repository>> {
    let own = own.unwrap_or_default();
    let namespace = reference.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(own);
    Some(ObjectRef::new(&reference.name).within(namespace))
}

/// Returns the configuration that asked for `session`, whether there is one or not.
pub fn invoker_ref(session: &BackupSession) -> Option<ObjectRef<BackupConfiguration>> {
    let invoker = &session.spec.invoker;
    let own = session.metadata.namespace.as_deref().unwrap_or_default();
    (invoker.kind == "BackupConfiguration").then(|| ObjectRef::new(&invoker.name).within(own))
}

/// Returns the name and namespace of an object as those of another kind.
pub fn as_ref_of<K: Resource<DynamicType = ()>>(name: &str, namespace: Option<&str>) -> ObjectRef<K> {
    let reference = ObjectRef::new(name);
    match namespace {
        Some(namespace) => reference.within(namespace),
        None => reference,
    }
}
