//! The API server, by kube's client.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stash_crds::labels::snapshots_of;
use stash_crds::names::SNAPSHOT_GROUP;
use stash_crds::{Repository, RestoreSession, Snapshot};
use zeroize::Zeroizing;

use super::{Cluster, ClusterError, SecretData};
use crate::authorise::Account;
use crate::taint;

/// How long one question may take: kubelet waits two minutes for all of them together.
const DEADLINE: Duration = Duration::from_secs(15);
/// How many objects are asked for at once.
const PAGE: u32 = 500;

/// The API server.
#[derive(Clone)]
pub struct KubeApi {
    client: Client,
}

impl std::fmt::Debug for KubeApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeApi").finish_non_exhaustive()
    }
}

impl KubeApi {
    /// Asks by this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn get<K>(&self, what: &str, namespace: &str, name: &str) -> Result<Option<K>, ClusterError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        ask(format!("get {what} {namespace}/{name}"), api.get_opt(name)).await
    }
}

async fn ask<T>(what: String, question: impl Future<Output = kube::Result<T>>) -> Result<T, ClusterError> {
    match tokio::time::timeout(DEADLINE, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => Err(ClusterError::Forbidden(what)),
        // The answer may hold what it is about: of a Secret not even the reader's complaint is repeated.
        Ok(Err(kube::Error::SerdeError(_))) => {
            Err(ClusterError::Unavailable { what, reason: "the object cannot be read".to_owned() })
        }
        Ok(Err(error)) => Err(ClusterError::Unavailable { what, reason: error.to_string() }),
        Err(_) => Err(ClusterError::Unavailable { what, reason: format!("no answer in {} s", DEADLINE.as_secs()) }),
    }
}

#[async_trait]
impl Cluster for KubeApi {
    async fn repository(&self, namespace: &str, name: &str) -> Result<Option<Repository>, ClusterError> {
        self.get("Repository", namespace, name).await
    }

    async fn snapshot(&self, namespace: &str, name: &str) -> Result<Option<Snapshot>, ClusterError> {
        self.get("Snapshot", namespace, name).await
    }

    async fn restore_session(&self, namespace: &str, name: &str) -> Result<Option<RestoreSession>, ClusterError> {
        self.get("RestoreSession", namespace, name).await
    }

    async fn snapshots(&self, namespace: &str, repository: &str) -> Result<Vec<Snapshot>, ClusterError> {
        let api = Api::<Snapshot>::namespaced(self.client.clone(), namespace);
        let mut parameters = ListParams::default().labels(&snapshots_of(repository)).limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = ask(format!("list Snapshots of {namespace}/{repository}"), api.list(&parameters)).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    async fn namespace_labels(&self, name: &str) -> Result<Option<BTreeMap<String, String>>, ClusterError> {
        let api = Api::<Namespace>::all(self.client.clone());
        let found = ask(format!("get Namespace {name}"), api.get_opt(name)).await?;
        Ok(found.map(|namespace| namespace.metadata.labels.unwrap_or_default()))
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        self.get("Pod", namespace, name).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<SecretData>, ClusterError> {
        let found: Option<Secret> = self.get("Secret", namespace, name).await?;
        let data = |secret: Secret| secret.data.unwrap_or_default().into_iter();
        Ok(found.map(|secret| data(secret).map(|(key, value)| (key, Zeroizing::new(value.0))).collect()))
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, ClusterError> {
        self.get("PersistentVolumeClaim", namespace, name).await
    }

    async fn volume(&self, name: &str) -> Result<Option<PersistentVolume>, ClusterError> {
        let api = Api::<PersistentVolume>::all(self.client.clone());
        ask(format!("get PersistentVolume {name}"), api.get_opt(name)).await
    }

    async fn lift_taint(&self, node: &str) -> Result<bool, ClusterError> {
        let api = Api::<Node>::all(self.client.clone());
        let what = format!("take a taint off Node {node}");
        let Some(found) = ask(what.clone(), api.get_opt(node)).await? else { return Ok(false) };
        let taints = found.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let Some(left) = taint::without(&taints) else { return Ok(false) };
        // Only if it is still the node that was seen: others give and take taints too.
        let patch: Patch<Value> = Patch::Merge(
            json!({"metadata": {"resourceVersion": found.metadata.resource_version}, "spec": {"taints": left}}),
        );
        ask(what, api.patch(node, &PatchParams::default(), &patch)).await.map(|_| true)
    }

    async fn may_mount(
        &self,
        account: &Account,
        namespace: &str,
        snapshot: Option<&str>,
    ) -> Result<bool, ClusterError> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(account.user()),
                groups: Some(account.groups()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(SNAPSHOT_GROUP.to_owned()),
                    resource: Some("snapshots".to_owned()),
                    verb: Some("mount".to_owned()),
                    namespace: Some(namespace.to_owned()),
                    name: snapshot.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = Api::<SubjectAccessReview>::all(self.client.clone());
        let what = format!("create SubjectAccessReview of {account}");
        let answer = ask(what, api.create(&PostParams::default(), &review)).await?;
        // An answer that could not be whole is no permission.
        Ok(answer.status.is_some_and(|status| status.allowed && !status.denied.unwrap_or(false)))
    }
}
