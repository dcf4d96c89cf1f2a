//! Who may call the pod that serves a repository. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::PORT;
use crate::names;

/// The label of the pods of a Job, which the job controller sets.
const JOB_LABEL: &str = "batch.kubernetes.io/job-name";
/// The label of every Namespace with its name, which the API server sets.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Makes the policy of the Job that `owner` refers to, of its name: pods of `callers` may call it, it calls nobody. It goes with the Job.
pub fn network_policy(owner: OwnerReference, namespace: &str, callers: &str) -> NetworkPolicy {
    let labels = |key: &str, value: &str| LabelSelector {
        match_labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
        ..LabelSelector::default()
    };
    let port = NetworkPolicyPort {
        port: Some(IntOrString::Int(PORT.into())),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    let from = NetworkPolicyPeer {
        namespace_selector: Some(labels(NAMESPACE_LABEL, callers)),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicy {
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labels(JOB_LABEL, &owner.name)),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule { from: Some(vec![from]), ports: Some(vec![port]) }]),
            egress: None,
        }),
        metadata: ObjectMeta {
            name: Some(owner.name.clone()),
            namespace: Some(namespace.to_owned()),
            labels: Some(names::backup_labels(None)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn test_the_controllers_namespace_may_call_the_pod_and_nobody_else() {
        let owner =
            OwnerReference { name: "stash-access-r".to_owned(), uid: "u".to_owned(), ..OwnerReference::default() };
        let made = serde_json::to_value(network_policy(owner, "shop", "stash")).unwrap();
        assert_eq!(made["metadata"]["name"], "stash-access-r");
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(
            made["spec"],
            json!({
                "podSelector": {"matchLabels": {"batch.kubernetes.io/job-name": "stash-access-r"}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{
                    "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "stash"}}}],
                    "ports": [{"port": 8443, "protocol": "TCP"}]
                }]
            })
        );
    }
}
