//! Does what the plan says.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::events::{EventType, Recorder};
use kube::{Client, Resource as _, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::hindrance::{self, Hindrance, hindrance, newest};
use super::source::source;
use super::{Observed, Plan, Refusal, name, objects, plan, volume_name};
use crate::cluster::Cluster;
use crate::provision;
use crate::provisioner::{self, ProvisionerError, failed};
use crate::status::RpcError;

/// How often a copy is looked at that is under way: what hinders it is seen nowhere else.
const LOOK: Duration = Duration::from_secs(10);
/// How long after a refusal it is looked at again: a Snapshot may be mirrored meanwhile, a class be made.
const AGAIN: Duration = Duration::from_secs(15);
/// How long after somebody else changed what was to be changed.
const SOON: Duration = Duration::from_secs(1);
/// More steps than there are from a claim to its content: each is found again by the next look.
const STEPS: usize = 8;

/// Populates claims.
pub(crate) struct Copier {
    pub(crate) client: Client,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) recorder: Recorder,
    /// The image that holds `stash-fs`.
    pub(crate) image: String,
}

/// What became of a step.
enum Next {
    /// There is another one.
    Step,
    /// Something has to happen first.
    Then(Action),
}

impl Copier {
    /// Brings a claim as far as it goes.
    pub(crate) async fn populate(&self, claim: &PersistentVolumeClaim) -> Result<Action, ProvisionerError> {
        for _ in 0..STEPS {
            match self.step(claim).await {
                Ok(Next::Step) => {}
                Ok(Next::Then(action)) => return Ok(action),
                Err(error) => {
                    let reason = match &error {
                        ProvisionerError::Source(_) => "PopulateRefused",
                        _ => "PopulateFailed",
                    };
                    self.tell(claim, EventType::Warning, reason, error.to_string()).await;
                    return Err(error);
                }
            }
        }
        Ok(Action::requeue(SOON))
    }

    async fn step(&self, claim: &PersistentVolumeClaim) -> Result<Next, ProvisionerError> {
        let Some(seen) = self.observe(claim).await? else { return Ok(Next::Then(Action::await_change())) };
        let planned = plan(&seen);
        tracing::debug!(claim = claim.name_any(), namespace = claim.namespace(), plan = ?planned, "looked at");
        match planned {
            Plan::Leave | Plan::Wait => return Ok(Next::Then(Action::await_change())),
            Plan::Refuse(refusal) => {
                let (reason, then) = match &refusal {
                    Refusal::Bypassed(_) => ("PopulateBypassed", Action::await_change()),
                    _ => ("PopulateRefused", Action::requeue(AGAIN)),
                };
                self.tell(claim, EventType::Warning, reason, refusal.to_string()).await;
                return Ok(Next::Then(then));
            }
            Plan::Watch => {
                self.tell_hindrance(&seen).await?;
                return Ok(Next::Then(Action::requeue(LOOK)));
            }
            Plan::Failed(left) => {
                self.tell_hindrance(&seen).await?;
                return Ok(Next::Then(Action::requeue(left)));
            }
            Plan::MakePrime => {
                let attributes = source(self.cluster.as_ref(), &seen.claim).await?;
                let prime = objects::prime(&seen.claim, &attributes);
                self.create("PersistentVolumeClaim", &seen, &prime).await?;
            }
            Plan::MakeJob => self.make_job(&seen).await?,
            Plan::DeleteJob => self.delete_job(&seen).await?,
            Plan::Rebind => return self.rebind(&seen).await,
            Plan::Finish => {
                if let Some(job) = seen.job.as_ref().filter(|job| job.metadata.deletion_timestamp.is_none()) {
                    let pods = self.pods(&seen, job).await?;
                    let did = hindrance::done(newest(&pods)).map(|did| format!(": {did}")).unwrap_or_default();
                    let volume = volume_name(&seen.claim).unwrap_or_default();
                    let note = format!("The claim is bound to {volume}, which holds the Snapshot{did}");
                    self.tell(claim, EventType::Normal, "Populated", note).await;
                }
                self.clean_up(&seen).await?;
            }
            Plan::Abandon(refusal) => {
                let reason =
                    if matches!(refusal, Refusal::Bypassed(_)) { "PopulateBypassed" } else { "PopulateFailed" };
                self.tell(claim, EventType::Warning, reason, refusal.to_string()).await;
                self.clean_up(&seen).await?;
            }
        }
        Ok(Next::Step)
    }

    /// Asks for all that there is of a claim. `None`: it is gone, or another one.
    async fn observe(&self, claim: &PersistentVolumeClaim) -> Result<Option<Observed>, ProvisionerError> {
        let namespace = claim.namespace().unwrap_or_default();
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &namespace);
        // Not as the watch had it: one that is bound meanwhile would be populated anew.
        let fresh = claims.get_opt(&claim.name_any()).await.map_err(failed("look up the claim"))?;
        let Some(claim) = fresh.filter(|fresh| fresh.uid() == claim.uid()) else { return Ok(None) };
        let name = name(&claim.uid().unwrap_or_default());
        let prime = claims.get_opt(&name).await.map_err(failed("look up the prime claim"))?;
        let jobs = Api::<Job>::namespaced(self.client.clone(), &namespace);
        let job = jobs.get_opt(&name).await.map_err(failed("look up the Job"))?;
        let is_begun = volume_name(&claim).is_some() || prime.is_some();
        let class =
            claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).filter(|name| !name.is_empty());
        let class = match class.filter(|_| !is_begun) {
            Some(class) => {
                let classes = Api::<StorageClass>::all(self.client.clone());
                classes.get_opt(&class).await.map_err(failed("look up the StorageClass"))?
            }
            None => None,
        };
        let volume = match volume_name(&claim).or_else(|| volume_name(prime.as_ref()?)) {
            Some(name) => {
                let volumes = Api::<PersistentVolume>::all(self.client.clone());
                volumes.get_opt(name).await.map_err(failed("look up the PersistentVolume"))?
            }
            None => None,
        };
        Ok(Some(Observed { claim, class, prime, job, volume, now: Timestamp::now() }))
    }

    async fn make_job(&self, seen: &Observed) -> Result<(), ProvisionerError> {
        let Some(prime) = &seen.prime else { return Ok(()) };
        let attributes = objects::pinned(prime);
        let secret = provision::secret(self.cluster.as_ref(), &attributes).await.map_err(RpcError::from)?;
        // A pod names Secrets of its own namespace only.
        let secret = secret.filter(|secret| secret.namespace == seen.claim.metadata.namespace);
        let job = objects::job(&seen.claim, prime, secret.and_then(|secret| secret.name), &self.image);
        if self.create("Job", seen, &job).await? {
            let snapshot = attributes.get(crate::volume::SNAPSHOT).map(String::as_str).unwrap_or_default();
            let note =
                format!("The Job {} copies the snapshot {snapshot:.8} into a volume for this claim", job.name_any());
            self.tell(&seen.claim, EventType::Normal, "Populating", note).await;
        }
        Ok(())
    }

    /// Gives the volume to the claim. Somebody who changed it since it was seen is seen first.
    async fn rebind(&self, seen: &Observed) -> Result<Next, ProvisionerError> {
        let (Some(prime), Some(volume)) = (&seen.prime, &seen.volume) else { return Ok(Next::Step) };
        let patch = objects::rebind(&seen.claim, prime, volume);
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        match volumes.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Next::Then(Action::requeue(SOON))),
            Err(error) => Err(failed(format!("bind the PersistentVolume {}", volume.name_any()))(error)),
            Ok(_) => {
                tracing::info!(
                    volume = volume.name_any(),
                    claim = seen.claim.name_any(),
                    namespace = seen.claim.namespace(),
                    "filled"
                );
                Ok(Next::Step)
            }
        }
    }

    async fn delete_job(&self, seen: &Observed) -> Result<(), ProvisionerError> {
        let Some(job) = seen.job.as_ref().filter(|job| job.metadata.deletion_timestamp.is_none()) else {
            return Ok(());
        };
        let api = Api::<Job>::namespaced(self.client.clone(), &job.namespace().unwrap_or_default());
        let parameters = DeleteParams { preconditions: of(&job.metadata), ..DeleteParams::background() };
        gone(api.delete(&job.name_any(), &parameters).await.map(drop), || format!("delete the Job {}", job.name_any()))
    }

    /// The Job first: the prime claim stays until no pod of it has it mounted.
    async fn clean_up(&self, seen: &Observed) -> Result<(), ProvisionerError> {
        self.delete_job(seen).await?;
        let Some(prime) = seen.prime.as_ref().filter(|prime| prime.metadata.deletion_timestamp.is_none()) else {
            return Ok(());
        };
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &prime.namespace().unwrap_or_default());
        let parameters = DeleteParams { preconditions: of(&prime.metadata), ..DeleteParams::default() };
        let what = || format!("delete the PersistentVolumeClaim {}", prime.name_any());
        gone(api.delete(&prime.name_any(), &parameters).await.map(drop), what)
    }

    async fn tell_hindrance(&self, seen: &Observed) -> Result<(), ProvisionerError> {
        let Some(job) = &seen.job else { return Ok(()) };
        let pods = self.pods(seen, job).await?;
        let pod = newest(&pods);
        let about = pod.map_or_else(|| &job.metadata, |pod| &pod.metadata);
        let uid = about.uid.as_deref().unwrap_or_default();
        let events = Api::<Event>::namespaced(self.client.clone(), &job.namespace().unwrap_or_default());
        let warnings = ListParams::default().fields(&format!("regarding.uid={uid},type=Warning"));
        let warnings = events.list(&warnings).await.map_err(failed("list the events of the Job's pod"))?;
        let since = about.creation_timestamp.as_ref().map(|time| time.0);
        match hindrance(pod, &warnings.items, since, seen.now) {
            None => {}
            Some(Hindrance::Failed(why)) => {
                let note = format!("The copy failed, and is tried again: {why}");
                self.tell(&seen.claim, EventType::Warning, "PopulateFailed", note).await;
            }
            Some(Hindrance::Waits(why)) => {
                let note = format!("The pod of the Job {} does not start: {why}", job.name_any());
                self.tell(&seen.claim, EventType::Warning, "PopulateWaits", note).await;
            }
        }
        Ok(())
    }

    async fn pods(&self, seen: &Observed, job: &Job) -> Result<Vec<Pod>, ProvisionerError> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &seen.claim.namespace().unwrap_or_default());
        let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", job.name_any()));
        let mut pods = api.list(&of_job).await.map_err(failed("list the Job's pods"))?.items;
        let uid = job.uid();
        pods.retain(|pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref()));
        Ok(pods)
    }

    /// Makes an object; returns whether it was not there. One that is there is judged by the next look.
    async fn create<K>(&self, kind: &str, seen: &Observed, object: &K) -> Result<bool, ProvisionerError>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Serialize,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &seen.claim.namespace().unwrap_or_default());
        match api.create(&PostParams::default(), object).await {
            Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => Ok(false),
            Err(error) => Err(failed(format!("make the {kind} {}", object.name_any()))(error)),
            Ok(_) => Ok(true),
        }
    }

    async fn tell(&self, claim: &PersistentVolumeClaim, type_: EventType, reason: &str, note: String) {
        provisioner::tell(&self.recorder, &claim.object_ref(&()), "Populate", type_, reason, note).await;
    }
}

fn of(metadata: &kube::api::ObjectMeta) -> Option<Preconditions> {
    Some(Preconditions { uid: metadata.uid.clone(), resource_version: None })
}

/// What is gone, or another one, needs no deleting.
fn gone(deleted: kube::Result<()>, what: impl FnOnce() -> String) -> Result<(), ProvisionerError> {
    match deleted {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(failed(what())(error)),
        Ok(()) => Ok(()),
    }
}
