//! Workloads: what backups need to know of a Deployment, StatefulSet, DaemonSet, ReplicaSet or ReplicationController.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ListParams;
use kube::core::{NamespaceResourceScope, Selector};
use kube::{Api, Client, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::backup_configuration::validate::{Target, TargetKind};
use crate::errors::ReconcileError;

/// The label by which a Deployment tells its ReplicaSets' pods apart.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A workload.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// What its pods are made from.
    pub template: PodTemplateSpec,
    /// What the claims of its pods are made from, if it is a StatefulSet.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Which pods may be its own.
    pub selector: LabelSelector,
    /// How many pods it should have, if that is a number.
    pub replicas: Option<i32>,
    /// The number of the first pod, if it is a StatefulSet.
    pub first_ordinal: i32,
}

impl Workload {
    /// Looks a target up; nothing if there is none of that name.
    ///
    /// # Errors
    ///
    /// The API server did not tell.
    pub async fn find(target: &Target, namespace: &str, client: &Client) -> Result<Option<Self>, ReconcileError> {
        let name = &target.name;
        Ok(match target.kind {
            TargetKind::Claim => None,
            TargetKind::Deployment => get::<Deployment>(namespace, name, client).await?.map(Self::from),
            TargetKind::StatefulSet => get::<StatefulSet>(namespace, name, client).await?.map(Self::from),
            TargetKind::DaemonSet => get::<DaemonSet>(namespace, name, client).await?.map(Self::from),
            TargetKind::ReplicaSet => get::<ReplicaSet>(namespace, name, client).await?.map(Self::from),
            TargetKind::ReplicationController => {
                get::<ReplicationController>(namespace, name, client).await?.map(Self::from)
            }
        })
    }

    /// Returns its pods that have a node and are neither done nor leaving, in order of their names.
    ///
    /// # Errors
    ///
    /// The API server did not tell.
    pub async fn pods(&self, namespace: &str, client: &Client) -> Result<Vec<Pod>, ReconcileError> {
        // A selector that selects everything, or cannot be read, is none of a workload.
        let Ok(selector) = Selector::try_from(self.selector.clone()) else { return Ok(Vec::new()) };
        let found =
            Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default().labels_from(&selector)).await;
        let found = found.map_err(|error| ReconcileError::of(format!("list the pods of {}", self.name), error))?;
        let mut pods: Vec<Pod> = found.items.into_iter().filter(|pod| is_here(pod) && self.owns(pod)).collect();
        pods.sort_by_key(kube::ResourceExt::name_any);
        Ok(pods)
    }

    /// Whether a pod was made for it. A selector may fit pods of others.
    fn owns(&self, pod: &Pod) -> bool {
        let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
        owner.is_some_and(|owner| {
            if self.kind == "Deployment" {
                // Between them stands a ReplicaSet, whose name says whose it is.
                let hash = pod.labels().get(TEMPLATE_HASH).map(String::as_str).unwrap_or_default();
                owner.kind == "ReplicaSet" && owner.name == format!("{}-{hash}", self.name)
            } else {
                owner.uid == self.uid
            }
        })
    }

    /// Returns the name of a pod of a StatefulSet.
    pub fn pod_name(&self, ordinal: usize) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// Returns the numbers of the pods of a StatefulSet of `replicas`.
    pub fn ordinals(&self, replicas: i32) -> impl Iterator<Item = usize> {
        let first = usize::try_from(self.first_ordinal).unwrap_or(0);
        first..first + usize::try_from(replicas).unwrap_or(0)
    }
}

/// Whether a pod has a node, and is neither done nor leaving.
pub fn is_here(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    placed && pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether the containers of a pod have been started: its volumes are mounted.
pub fn is_running(pod: &Pod) -> bool {
    is_here(pod) && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

async fn get<K>(namespace: &str, name: &str, client: &Client) -> Result<Option<K>, ReconcileError>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let found = Api::<K>::namespaced(client.clone(), namespace).get_opt(name).await;
    found.map_err(|error| ReconcileError::of(format!("look up {} {name}", K::kind(&())), error))
}

impl From<Deployment> for Workload {
    fn from(found: Deployment) -> Self {
        let (name, uid) = (found.name_any(), found.metadata.uid.unwrap_or_default());
        let spec = found.spec.unwrap_or_default();
        Self {
            kind: "Deployment",
            name,
            uid,
            template: spec.template,
            selector: spec.selector,
            replicas: Some(spec.replicas.unwrap_or(1)),
            ..Self::default()
        }
    }
}

impl From<StatefulSet> for Workload {
    fn from(found: StatefulSet) -> Self {
        let (name, uid) = (found.name_any(), found.metadata.uid.unwrap_or_default());
        let spec = found.spec.unwrap_or_default();
        Self {
            kind: "StatefulSet",
            name,
            uid,
            template: spec.template,
            claims: spec.volume_claim_templates.unwrap_or_default(),
            selector: spec.selector,
            replicas: Some(spec.replicas.unwrap_or(1)),
            first_ordinal: spec.ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0),
        }
    }
}

impl From<DaemonSet> for Workload {
    fn from(found: DaemonSet) -> Self {
        let (name, uid) = (found.name_any(), found.metadata.uid.unwrap_or_default());
        let spec = found.spec.unwrap_or_default();
        Self { kind: "DaemonSet", name, uid, template: spec.template, selector: spec.selector, ..Self::default() }
    }
}

impl From<ReplicaSet> for Workload {
    fn from(found: ReplicaSet) -> Self {
        let (name, uid) = (found.name_any(), found.metadata.uid.unwrap_or_default());
        let spec = found.spec.unwrap_or_default();
        let template = spec.template.unwrap_or_default();
        Self { kind: "ReplicaSet", name, uid, template, selector: spec.selector, ..Self::default() }
    }
}

impl From<ReplicationController> for Workload {
    fn from(found: ReplicationController) -> Self {
        let (name, uid) = (found.name_any(), found.metadata.uid.unwrap_or_default());
        let spec = found.spec.unwrap_or_default();
        let selector = LabelSelector { match_labels: spec.selector, ..LabelSelector::default() };
        let template = spec.template.unwrap_or_default();
        Self { kind: "ReplicationController", name, uid, template, selector, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(owner: Value, hash: &str) -> Pod {
        let mut owner = owner;
        owner["apiVersion"] = json!("apps/v1");
        owner["controller"] = json!(true);
        let labels = json!({"pod-template-hash": hash});
        serde_json::from_value(json!({"metadata": {"name": "p", "labels": labels, "ownerReferences": [owner]}}))
            .unwrap()
    }

    #[test]
    fn test_a_pod_is_of_one_workload() {
        let owned = |kind: &'static str, pod: &Pod| {
            Workload { kind, name: "web".to_owned(), uid: "u".to_owned(), ..Workload::default() }.owns(pod)
        };
        let of_set = |name: &str| pod(json!({"kind": "ReplicaSet", "name": name, "uid": "r"}), "abc");
        assert!(owned("Deployment", &of_set("web-abc")));
        assert!(!owned("Deployment", &of_set("web-other-abc")));
        assert!(!owned("Deployment", &of_set("web")));
        let direct = pod(json!({"kind": "StatefulSet", "name": "web", "uid": "u"}), "");
        assert!(owned("StatefulSet", &direct));
        let other = pod(json!({"kind": "StatefulSet", "name": "web", "uid": "before"}), "");
        assert!(!owned("StatefulSet", &other) && !owned("StatefulSet", &Pod::default()));
    }

    #[test]
    fn test_pods_that_count() {
        let pod = |node: Value, phase: &str, deleted: Value| -> Pod {
            let metadata = json!({"name": "p", "deletionTimestamp": deleted});
            let spec = json!({"containers": [], "nodeName": node});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": {"phase": phase}})).unwrap()
        };
        let leaving = json!("2026-01-01T00:00:00Z");
        for (node, phase, deleted, here, running) in [
            (json!("n"), "Running", Value::Null, true, true),
            (json!("n"), "Pending", Value::Null, true, false),
            (Value::Null, "Pending", Value::Null, false, false),
            (json!("n"), "Succeeded", Value::Null, false, false),
            (json!("n"), "Failed", Value::Null, false, false),
            (json!("n"), "Running", leaving, false, false),
        ] {
            let pod = pod(node, phase, deleted);
            assert_eq!((is_here(&pod), is_running(&pod)), (here, running), "{pod:?}");
        }
    }

    #[test]
    fn test_replicas_may_count_from_another_number() {
        let set: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {
            "replicas": 2, "serviceName": "db", "selector": {}, "template": {}, "ordinals": {"start": 5}
        }}))
        .unwrap();
        let set = Workload::from(set);
        assert_eq!(set.ordinals(2).collect::<Vec<_>>(), [5, 6]);
        assert_eq!((set.pod_name(5).as_str(), set.replicas), ("db-5", Some(2)));
        assert_eq!(set.ordinals(-1).count(), 0);
    }
}
