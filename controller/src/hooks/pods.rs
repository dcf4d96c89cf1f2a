//! Which pods a hook acts on: those of the configuration's own target, and no others. Pure.

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt as _;
use stash_crds::names as labels;

use super::call::Port;
use crate::workload::Workload;

/// Returns the pod that a hook of a claim acts on: the oldest that runs and mounts it. A Job of ours is none.
///
/// # Errors
///
/// There is none: a sentence for the user.
pub fn of_claim<'a>(claim: &str, pods: &'a [Pod]) -> Result<&'a Pod, String> {
    let mounts = |pod: &Pod| {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref()).any(|source| source.claim_name == claim)
    };
    oldest(pods, mounts).ok_or_else(|| format!("no pod runs that mounts PersistentVolumeClaim {claim}"))
}

/// Returns the pod that a hook of a workload with one host acts on: the oldest of `pods`, its own, that runs.
///
/// The oldest, and not one that is ready: the hook after the backup has to find the pod of the one before, whatever that did to it.
///
/// # Errors
///
/// There is none: a sentence for the user.
pub fn of_workload<'a>(workload: &Workload, pods: &'a [Pod]) -> Result<&'a Pod, String> {
    oldest(pods, |_| true).ok_or_else(|| format!("no pod of {} {} runs", workload.kind, workload.name))
}

/// Returns the pod of a StatefulSet's replica, of `pods`, its own.
///
/// # Errors
///
/// It does not run: a sentence for the user.
pub fn of_replica<'a>(set: &Workload, ordinal: usize, pods: &'a [Pod]) -> Result<&'a Pod, String> {
    let wanted = set.pod_name(ordinal);
    let found = oldest(pods, |pod| pod.name_any() == wanted);
    found.ok_or_else(|| format!("pod {wanted} of StatefulSet {} does not run", set.name))
}

/// Returns the pod of a DaemonSet on a node, of `pods`, its own.
///
/// # Errors
///
/// It does not run: a sentence for the user.
pub fn of_node<'a>(set: &Workload, node: &str, pods: &'a [Pod]) -> Result<&'a Pod, String> {
    let there = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
    oldest(pods, there).ok_or_else(|| format!("no pod of DaemonSet {} runs on node {node}", set.name))
}

/// Returns the container in which a command runs and whose ports have names.
///
/// # Errors
///
/// There is no such container: a sentence for the user.
pub fn container<'a>(pod: &'a Pod, wanted: Option<&str>) -> Result<&'a Container, String> {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let found = match wanted {
        Some(wanted) => containers.iter().find(|container| container.name == wanted),
        None => containers.first(),
    };
    found.ok_or_else(|| format!("pod {} has no container {}", pod.name_any(), wanted.unwrap_or_default()))
}

/// Returns a port by its number.
///
/// # Errors
///
/// The container has no port of that name: a sentence for the user.
pub fn port(container: &Container, port: &Port) -> Result<u16, String> {
    match port {
        Port::Number(number) => Ok(*number),
        Port::Name(name) => {
            let mut ports = container.ports.iter().flatten();
            let found = ports.find(|port| port.name.as_ref() == Some(name));
            let number = found.and_then(|port| u16::try_from(port.container_port).ok());
            number.ok_or_else(|| format!("container {} has no port {name}", container.name))
        }
    }
}

/// Returns the address of a pod.
///
/// # Errors
///
/// It has none: a sentence for the user.
pub fn address(pod: &Pod) -> Result<&str, String> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).filter(|ip| !ip.is_empty());
    address.ok_or_else(|| format!("pod {} has no address", pod.name_any()))
}

/// Returns the pods that run. A Job of ours is none.
pub fn running(pods: &[Pod]) -> impl Iterator<Item = &Pod> {
    pods.iter().filter(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let ours = pod.labels().get(labels::MANAGED_BY_LABEL).is_some_and(|value| value == labels::MANAGED_BY);
        phase == Some("Running") && pod.metadata.deletion_timestamp.is_none() && !ours
    })
}

fn oldest(pods: &[Pod], wanted: impl Fn(&Pod) -> bool) -> Option<&Pod> {
    let made = |pod: &Pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.name_any());
    running(pods).filter(|pod| wanted(pod)).min_by_key(|pod| made(pod))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, owner: &str, second: u32, more: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
                "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": owner, "controller": true}]},
            "spec": {"containers": [{"name": "db", "ports": [{"name": "web", "containerPort": 8080}]}, {"name": "side"}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]},
            "status": {"phase": "Running", "podIP": "10.1.1.1"}
        });
        for (key, value) in more.as_object().unwrap() {
            for (key_within, value) in value.as_object().unwrap() {
                pod[key][key_within] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    fn names(found: Result<&Pod, String>) -> Result<String, String> {
        found.map(|pod| pod.name_any())
    }

    #[test]
    fn test_pods_of_a_claim() {
        let none = || Err("no pod runs that mounts PersistentVolumeClaim data".to_owned());
        for (pods, expected) in [
            (vec![], none()),
            (vec![pod("b", "x", 2, json!({})), pod("a", "x", 3, json!({}))], Ok("b".to_owned())),
            (vec![pod("b", "x", 2, json!({})), pod("a", "x", 2, json!({}))], Ok("a".to_owned())),
            (vec![pod("a", "x", 1, json!({"spec": {"volumes": []}}))], none()),
            (vec![pod("a", "x", 1, json!({"status": {"phase": "Pending"}}))], none()),
            (vec![pod("a", "x", 1, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))], none()),
            (
                vec![pod(
                    "a",
                    "x",
                    1,
                    json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "stash.appscode.com"}}}),
                )],
                none(),
            ),
        ] {
            assert_eq!(names(of_claim("data", &pods)), expected);
        }
    }

    #[test]
    fn test_pods_of_workloads() {
        let workload = |kind: &'static str| Workload { kind, name: "web".to_owned(), ..Workload::default() };
        let pods = [
            pod("web-2", "x", 1, json!({"status": {"phase": "Pending"}, "spec": {"nodeName": "one"}})),
            pod("web-1", "x", 2, json!({"spec": {"nodeName": "two"}})),
            pod("web-0", "x", 3, json!({"spec": {"nodeName": "one"}})),
        ];
        let web = workload("Deployment");
        assert_eq!(names(of_workload(&web, &pods)), Ok("web-1".to_owned()));
        assert_eq!(names(of_workload(&web, &pods[..1])), Err("no pod of Deployment web runs".to_owned()));
        let all: Vec<String> = running(&pods).map(kube::ResourceExt::name_any).collect();
        assert_eq!(all, ["web-1", "web-0"]);
        let set = workload("StatefulSet");
        assert_eq!(names(of_replica(&set, 0, &pods)), Ok("web-0".to_owned()));
        assert_eq!(names(of_replica(&set, 2, &pods)), Err("pod web-2 of StatefulSet web does not run".to_owned()));
        let agent = workload("DaemonSet");
        assert_eq!(names(of_node(&agent, "one", &pods)), Ok("web-0".to_owned()));
        assert_eq!(
            names(of_node(&agent, "three", &pods)),
            Err("no pod of DaemonSet web runs on node three".to_owned())
        );
    }

    #[test]
    fn test_containers_and_ports() {
        let pod = pod("a", "x", 1, json!({}));
        let of = |wanted: Option<&str>| container(&pod, wanted).map(|container| container.name.clone());
        assert_eq!((of(None), of(Some("side"))), (Ok("db".to_owned()), Ok("side".to_owned())));
        assert_eq!(of(Some("no")), Err("pod a has no container no".to_owned()));
        let first = container(&pod, None).unwrap();
        assert_eq!(port(first, &Port::Name("web".to_owned())), Ok(8080));
        assert_eq!(port(first, &Port::Number(7)), Ok(7));
        assert_eq!(port(first, &Port::Name("x".to_owned())), Err("container db has no port x".to_owned()));
        assert_eq!(address(&pod), Ok("10.1.1.1"));
    }
}
