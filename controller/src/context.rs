//! What all reconcilers share.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use k8s_openapi::api::rbac::v1::Subject;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Event, Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt as _};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::clock::Clock;
use crate::errors::{ReconcileError, is_of_dying_namespace};
use crate::executor::node_places::NodePlaces;
use crate::hooks::perform::Request;
use crate::hooks::runner::Runner;
use crate::hooks::{self, Point};
use crate::jobs::{self, Handed};
use crate::metrics::Metrics;
use crate::plan::Notice;
use crate::repository::backend::AddressRule;
use crate::repository::plan::SecretState;
use crate::rights::{self, Refusals};
use crate::secrets::Known;
use crate::snapshot::state::Mirrors;
use crate::stores::{Stores, as_ref_of};
use crate::watches::Queues;

/// The one field manager of all that we write.
pub const MANAGER: &str = "stash-controller";

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// How Jobs are made.
    pub jobs: jobs::Settings,
    /// How long after their time sessions begin at most, where no annotation says it.
    pub jitter: Duration,
    /// How many sessions run at most.
    pub max_running: Option<usize>,
    /// How many backups run on a node at most, of those that can run nowhere else.
    pub max_running_per_node: Option<usize>,
    /// Which servers are refused.
    pub addresses: AddressRule,
    /// Where the controller runs, and Jobs that read what only a node has.
    pub release_namespace: String,
    /// How many objects of a kind are looked at at once.
    pub concurrency: u16,
    /// The StorageClass of the CSI driver.
    pub storage_class: String,
    /// Whether Jobs that copy read snapshots through the CSI driver where they can.
    pub copy_by_volume: bool,
    /// Whether workloads whose pods run are restored by an init container of these, where they can.
    pub restore_at_start: bool,
    /// How often repositories are listed where nothing says that they changed.
    pub snapshot_sync: Duration,
}

/// What all reconcilers share.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What the watches have seen.
    pub stores: Stores,
    /// What the command line says.
    pub options: Options,
    /// What happened so far.
    pub metrics: Arc<Metrics>,
    /// What is remembered of repositories' snapshots.
    pub mirrors: Mirrors,
    /// The places on nodes that were given away.
    pub node_places: NodePlaces,
    /// The hooks that run.
    pub hooks: Runner,
    /// Who has to look at something.
    pub wakes: Arc<Queues>,
    /// Which Jobs have their Secret.
    pub handed: Handed,
    /// Where a right is refused.
    pub refusals: Refusals,
    account: OnceCell<Subject>,
    recorder: Recorder,
    /// The keys of Secrets, by the version of which they are. An entry for each Secret that a Repository names.
    secret_keys: Mutex<HashMap<ObjectRef<Secret>, Keys>>,
}

/// The keys of a Secret that have a value, and the version of which they are.
type Keys = (String, BTreeSet<String>);

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Context {
    /// Puts together what reconcilers share.
    pub fn new(
        client: Client,
        clock: Arc<dyn Clock>,
        stores: Stores,
        options: Options,
        metrics: Arc<Metrics>,
        mirrors: Mirrors,
        wakes: Arc<Queues>,
    ) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: None };
        let recorder = Recorder::new(client.clone(), reporter);
        Self {
            client,
            clock,
            stores,
            options,
            metrics,
            mirrors,
            hooks: Runner::default(),
            wakes,
            node_places: NodePlaces::default(),
            handed: Handed::default(),
            refusals: Refusals::default(),
            account: OnceCell::new(),
            recorder,
            secret_keys: Mutex::default(),
        }
    }

    /// Forgets the hooks of sessions that are no more.
    fn forget_hooks_of_the_gone(&self) {
        let uids = |uid: Option<String>| uid.unwrap_or_default();
        let mut known: HashSet<String> = self.stores.sessions.state().iter().map(|known| uids(known.uid())).collect();
        known.extend(self.stores.restores.state().iter().map(|known| uids(known.uid())));
        self.hooks.keep(|uid| known.contains(uid));
    }

    /// Returns the time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the account that this is, as bindings name it. It is asked for once.
    ///
    /// # Errors
    ///
    /// The API server did not tell.
    pub async fn account(&self) -> Result<Subject, ReconcileError> {
        self.account.get_or_try_init(|| rights::account(&self.client)).await.cloned()
    }

    /// Returns the calls for a kind in a namespace.
    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Writes the status of `object`, if it is still the version that was decided on.
    ///
    /// # Errors
    ///
    /// It is not, or the API server did not take it.
    pub async fn apply_status<K>(&self, object: &K, status: impl Serialize) -> Result<(), ReconcileError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let status = serde_json::to_value(status).map_err(|error| ReconcileError::Json("status", error))?;
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": { "name": name, "namespace": namespace, "resourceVersion": object.meta().resource_version },
            "status": status,
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let patched = self.api::<K>(&namespace).patch_status(&name, &parameters, &Patch::Apply(patch)).await;
        patched
            .map(drop)
            .map_err(|error| ReconcileError::of(format!("write the status of {} {name}", K::kind(&())), error))
    }

    /// Takes `finalizer` off `object`, and no other.
    ///
    /// # Errors
    ///
    /// The object was changed meanwhile, or the API server did not do it.
    pub async fn release<K>(&self, object: &K, finalizer: &str) -> Result<(), ReconcileError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let left: Vec<Value> =
            object.finalizers().iter().filter(|other| *other != finalizer).map(|other| json!(other)).collect();
        match self.patch_metadata(object, json!({ "finalizers": left })).await {
            Err(error) if crate::errors::is_not_found(&error) => Ok(()),
            patched => patched.map_err(|error| ReconcileError::of("take the finalizer off", error)),
        }
    }

    /// Changes the metadata of `object`, if it is still the version that was decided on.
    ///
    /// # Errors
    ///
    /// It is not, or the API server did not take it.
    pub async fn patch_metadata<K>(&self, object: &K, mut changes: Value) -> kube::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        changes["resourceVersion"] = json!(object.meta().resource_version);
        let patch: Patch<Value> = Patch::Merge(json!({ "metadata": changes }));
        let parameters = Self::patch_parameters();
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        api.patch(&object.name_any(), &parameters, &patch).await.map(drop)
    }

    /// Starts a hook of a session, if it can be called; `woken` has the session looked at when it has ended.
    pub fn start_hook(
        &self,
        session: &str,
        point: Point,
        request: Result<Request, Vec<String>>,
        woken: impl FnOnce() + Send + 'static,
    ) {
        let (client, metrics) = (self.client.clone(), Arc::clone(&self.metrics));
        let call = async move {
            let outcome = match request {
                Ok(request) => hooks::perform::perform(request, client).await,
                Err(problems) => Err(problems.join("; ")),
            };
            metrics.count_hook(point.field(), if outcome.is_ok() { "ok" } else { "failed" });
            outcome
        };
        self.forget_hooks_of_the_gone();
        self.hooks.start(session, point, call, woken);
    }

    /// Tells the user something of `object`. One that is lost is no failure: conditions say the same.
    pub async fn tell<K: Resource<DynamicType = ()>>(&self, object: &K, notices: &[Notice]) {
        let reference: ObjectReference = object.object_ref(&());
        for notice in notices {
            let event = Event {
                type_: notice.event_type(),
                reason: notice.reason.clone(),
                note: Some(notice.message.chars().take(1000).collect()),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, &reference).await
                && !is_of_dying_namespace(&error)
            {
                tracing::warn!(%error, reason = notice.reason, "an event was not taken");
            }
        }
    }

    /// Returns how things are changed by a merge: in our name.
    pub fn patch_parameters() -> PatchParams {
        PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
    }

    /// Returns how things are created: in our name.
    pub fn create_parameters() -> PostParams {
        PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
    }

    /// Returns what is known about a Secret that a Repository names. It is asked for only if it changed.
    pub async fn secret_state(&self, namespace: &str, name: &str) -> SecretState {
        let reference = as_ref_of::<Secret>(name, Some(namespace));
        let version = match self.stores.secrets.get(&reference) {
            Known::Version(version) => version,
            Known::Absent => {
                self.secret_keys.lock().remove(&reference);
                return SecretState::Missing;
            }
            Known::NotYet | Known::Unknown => return SecretState::Unknown,
        };
        if let Some((known, keys)) = self.secret_keys.lock().get(&reference)
            && *known == version
        {
            return SecretState::Present(keys.clone());
        }
        match self.api::<Secret>(namespace).get_opt(name).await {
            Ok(Some(secret)) => {
                let data = secret.data.into_iter().flatten();
                let keys: BTreeSet<String> =
                    data.filter(|(_, value)| !value.0.is_empty()).map(|(key, _)| key).collect();
                let version = secret.metadata.resource_version.unwrap_or_default();
                self.secret_keys.lock().insert(reference, (version, keys.clone()));
                SecretState::Present(keys)
            }
            Ok(None) => SecretState::Missing,
            Err(error) => {
                tracing::warn!(namespace, name, %error, "a Secret could not be read");
                SecretState::Unknown
            }
        }
    }
}
