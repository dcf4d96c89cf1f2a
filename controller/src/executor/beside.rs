//! Which pod has a volume, and so beside which a Job has to run. Pure.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use kube::ResourceExt;

use super::volumes::PodVolumes;
use crate::jobs::Beside;
use crate::workload::{Workload, is_here};

fn has_mode(claim: &PersistentVolumeClaim, mode: &str) -> bool {
    let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref());
    modes.is_some_and(|modes| modes.iter().any(|other| other == mode))
}

/// Whether a claim can be mounted on one node only.
pub(super) fn is_bound_to_a_node(claim: &PersistentVolumeClaim) -> bool {
    !has_mode(claim, "ReadWriteMany") && !has_mode(claim, "ReadOnlyMany")
}

/// Whether a claim can be mounted by one pod only.
pub(super) fn is_for_one_pod(claim: &PersistentVolumeClaim) -> bool {
    has_mode(claim, "ReadWriteOncePod")
}

/// Returns a pod that has `claims` mounted; none if no pod has one.
///
/// # Errors
///
/// They are on several nodes, or one that is for one pod alone is another pod's than the rest.
pub(super) fn user_of_all<'a>(claims: &[&PersistentVolumeClaim], pods: &'a [Pod]) -> Result<Option<&'a Pod>, String> {
    let mut found: Option<&Pod> = None;
    for claim in claims {
        let name = claim.name_any();
        let Some(user) = pods.iter().find(|pod| is_here(pod) && uses(pod, &name)) else { continue };
        match found {
            Some(other) if node(other) != node(user) => {
                let nodes = (node(other).unwrap_or_default(), node(user).unwrap_or_default());
                return Err(format!("the volumes are mounted on different nodes: {} and {}", nodes.0, nodes.1));
            }
            // Who has it alone has to be the one whose folder is read.
            Some(_) if !is_for_one_pod(claim) => {}
            _ => found = Some(user),
        }
    }
    Ok(found)
}

fn node(pod: &Pod) -> Option<String> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone())
}

fn uses(pod: &Pod, claim: &str) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.any(|volume| {
        let named = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim);
        named || (volume.ephemeral.is_some() && format!("{}-{}", pod.name_any(), volume.name) == claim)
    })
}

/// Returns what a Job has to know of the pod beside which it runs.
pub(super) fn of(pod: &Pod) -> Beside {
    let spec = pod.spec.as_ref();
    Beside {
        pod: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        node: node(pod).unwrap_or_default(),
        tolerations: spec.and_then(|spec| spec.tolerations.clone()).unwrap_or_default(),
        se_linux: spec
            .and_then(|spec| spec.security_context.as_ref())
            .and_then(|security| security.se_linux_options.clone()),
    }
}

/// Returns the volumes of a pod that runs.
pub(super) fn volumes(pod: &Pod) -> PodVolumes {
    PodVolumes {
        whose: format!("pod {}", pod.name_any()),
        pod: Some(pod.name_any()),
        uid: pod.uid(),
        volumes: pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default(),
    }
}

/// Returns the volumes that a pod of a workload would have: `ordinal` is its number in a StatefulSet.
pub(super) fn volumes_without_pod(workload: &Workload, ordinal: Option<usize>) -> PodVolumes {
    let templated = workload.template.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).cloned();
    let claimed = workload.claims.iter().filter_map(|template| {
        let name = template.name_any();
        let claim_name = format!("{name}-{}", workload.pod_name(ordinal?));
        let source = PersistentVolumeClaimVolumeSource { claim_name, read_only: None };
        Some(Volume { name, persistent_volume_claim: Some(source), ..Volume::default() })
    });
    // A claim that is made for the pod goes before a volume of the same name.
    PodVolumes {
        whose: format!("{} {}", workload.kind, workload.name),
        pod: None,
        uid: None,
        volumes: claimed.chain(templated).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(name: &str, mode: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"accessModes": [mode]}})).unwrap()
    }

    fn pod(name: &str, claims: &[&str], node: Option<&str>, phase: &str) -> Pod {
        let volumes: Vec<_> =
            claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"containers": [], "nodeName": node, "volumes": volumes},
            "status": {"phase": phase}
        }))
        .unwrap()
    }

    #[test]
    fn test_the_job_goes_where_the_volume_is() {
        let once = claim("data", "ReadWriteOnce");
        assert!(is_bound_to_a_node(&once) && !is_bound_to_a_node(&claim("data", "ReadWriteMany")));
        for (pods, expected) in [
            (vec![], None),
            (vec![pod("a", &["data"], Some("n1"), "Running")], Some("a")),
            (vec![pod("a", &["data"], Some("n1"), "Pending")], Some("a")),
            (vec![pod("a", &["data"], None, "Pending")], None),
            (vec![pod("a", &["data"], Some("n1"), "Succeeded")], None),
            (vec![pod("a", &["other"], Some("n1"), "Running"), pod("b", &["data"], Some("n2"), "Running")], Some("b")),
        ] {
            let found = user_of_all(&[&once], &pods).unwrap().map(ResourceExt::name_any);
            assert_eq!(found.as_deref(), expected);
        }
        let other = claim("other", "ReadWriteOnce");
        let apart = [pod("a", &["data"], Some("n1"), "Running"), pod("b", &["other"], Some("n2"), "Running")];
        assert!(user_of_all(&[&once, &other], &apart).is_err());
        assert_eq!(
            user_of_all(&[&once, &other], &apart[..1]).unwrap().map(ResourceExt::name_any).as_deref(),
            Some("a")
        );
        // The folder that is read is that of the pod which has its volume alone.
        let alone = claim("other", "ReadWriteOncePod");
        let near = [pod("a", &["data"], Some("n1"), "Running"), pod("b", &["other"], Some("n1"), "Running")];
        assert_eq!(user_of_all(&[&once, &alone], &near).unwrap().map(ResourceExt::name_any).as_deref(), Some("b"));
    }

    #[test]
    fn test_volumes_of_a_pod_that_does_not_run() {
        let set: k8s_openapi::api::apps::v1::StatefulSet =
            serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {
                "selector": {}, "serviceName": "db", "volumeClaimTemplates": [{"metadata": {"name": "store"}}],
                "template": {"spec": {"containers": [], "volumes": [{"name": "tmp", "emptyDir": {}}]}}
            }}))
            .unwrap();
        let volumes = volumes_without_pod(&set.into(), Some(2));
        let names: Vec<_> = volumes.volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["store", "tmp"]);
        assert_eq!(volumes.volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name, "store-db-2");
        assert_eq!(volumes.whose, "StatefulSet db");
    }
}
