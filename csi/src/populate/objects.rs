//! The objects by which a claim is populated: the prime claim, the Job, and what is changed of the volume. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    CSIVolumeSource, Capabilities, Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource, LocalObjectReference,
    ObjectFieldSelector, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecurityContext,
    Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;
use serde_json::{Value, json};
use stash_crds::names::{COMPONENT_LABEL, MANAGED_BY, MANAGED_BY_LABEL};
use stash_proto::job::{
    GRACE_SECONDS, JOB_DIR, JobSpec as CopySpec, JobTask, RESTORE_CAPABILITIES, RepositoryAccess, RestoreSource,
    RestoreTask, VERSION,
};

use super::{POPULATED_FROM, PRIME, SELECTED_NODE, name};
use crate::names::DRIVER;
use crate::provision::CLAIM_ATTRIBUTE;
use crate::volume::{ATTRIBUTES, SNAPSHOT};

/// Value of [`COMPONENT_LABEL`] on what populates. By it both kinds are watched.
pub const COMPONENT: &str = "stash-populate";

/// Where the volume is.
const VOLUME_DIR: &str = "/volume";
/// Where the snapshot is.
const SNAPSHOT_DIR: &str = "/snapshot";
/// The file of the orders.
const SPEC: &str = "spec.json";
/// Annotation of the pod that holds them: the pod sees it as a file, and no other object is needed.
const SPEC_ANNOTATION: &str = "fs.stash.appscode.com/job";
/// How often Kubernetes makes another pod where one failed: after 10 s, 20 s, 40 s, 80 s.
const TRIES: i32 = 4;

fn labels() -> BTreeMap<String, String> {
    [(COMPONENT_LABEL, COMPONENT), (MANAGED_BY_LABEL, MANAGED_BY)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn owner(claim: &PersistentVolumeClaim) -> Option<Vec<OwnerReference>> {
    claim.owner_ref(&()).map(|owner| vec![owner])
}

/// Returns the prime claim of a claim: its like, without content. `attributes` say which snapshot it is for, for as long as it is there.
pub fn prime(claim: &PersistentVolumeClaim, attributes: &BTreeMap<String, String>) -> PersistentVolumeClaim {
    let asked = claim.spec.clone().unwrap_or_default();
    let pinned = attributes.iter().map(|(key, value)| (format!("{CLAIM_ATTRIBUTE}/{key}"), value.clone()));
    let node = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SELECTED_NODE));
    let node = node.map(|node| (SELECTED_NODE.to_owned(), node.clone()));
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: claim.metadata.uid.as_deref().map(name),
            namespace: claim.metadata.namespace.clone(),
            labels: Some(labels()),
            annotations: Some(pinned.chain(node).collect()),
            owner_references: owner(claim),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: asked.access_modes,
            resources: asked.resources,
            storage_class_name: asked.storage_class_name,
            volume_attributes_class_name: asked.volume_attributes_class_name,
            volume_mode: asked.volume_mode,
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// Returns the attributes that a prime claim keeps.
pub fn pinned(prime: &PersistentVolumeClaim) -> BTreeMap<String, String> {
    let annotations = prime.metadata.annotations.clone().unwrap_or_default();
    let of = |name: &str| Some((name.to_owned(), annotations.get(&format!("{CLAIM_ATTRIBUTE}/{name}"))?.clone()));
    ATTRIBUTES.into_iter().filter_map(of).collect()
}

/// Returns the Job that fills a prime claim. `secret` holds the Repository's keys: kubelet hands them to the driver, the pod has none.
pub fn job(claim: &PersistentVolumeClaim, prime: &PersistentVolumeClaim, secret: Option<String>, image: &str) -> Job {
    let attributes = pinned(prime);
    let snapshot = attributes.get(SNAPSHOT).cloned().unwrap_or_default();
    let placed = prime.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(SELECTED_NODE));
    let name = prime.metadata.name.clone().unwrap_or_default();
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels()),
            annotations: Some([(SPEC_ANNOTATION.to_owned(), orders(snapshot))].into()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            automount_service_account_token: Some(false),
            containers: vec![container(image)],
            enable_service_links: Some(false),
            restart_policy: Some("Never".to_owned()),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            tolerations: placed.then(|| vec![as_the_pod_that_waits()]),
            volumes: Some(volumes(&name, attributes, secret)),
            ..PodSpec::default()
        }),
    };
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: claim.metadata.namespace.clone(),
            labels: Some(labels()),
            annotations: Some([(PRIME.to_owned(), prime.metadata.uid.clone().unwrap_or_default())].into()),
            owner_references: owner(claim),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(TRIES),
            // A pod that is taken away is no failure. With it another pod begins only when the one before has ended.
            pod_failure_policy: Some(another_pod_when_disrupted()),
            template,
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// Returns the change that gives a volume to a claim, if it is still as it was seen.
pub fn rebind(claim: &PersistentVolumeClaim, prime: &PersistentVolumeClaim, volume: &PersistentVolume) -> Value {
    let source = claim.spec.as_ref().and_then(|spec| Some(spec.data_source_ref.as_ref()?.name.clone()));
    let id = pinned(prime).remove(SNAPSHOT).unwrap_or_default();
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let from = format!("{namespace}/{}@{id}", source.unwrap_or_default());
    json!({
        "metadata": {"resourceVersion": volume.metadata.resource_version, "annotations": {POPULATED_FROM: from}},
        "spec": {"claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim.metadata.name,
            "uid": claim.metadata.uid, "resourceVersion": null,
        }},
    })
}

/// What the Job is told, as [`stash_proto`] has it.
fn orders(snapshot: String) -> String {
    let root = |path: &str| vec![path.to_owned()];
    let source = RestoreSource::Mounted { snapshot, root: SNAPSHOT_DIR.to_owned(), paths: root("/") };
    let task = RestoreTask {
        sources: vec![source],
        mounts: root("/"),
        root: Some(VOLUME_DIR.to_owned()),
        ..RestoreTask::default()
    };
    let spec = CopySpec {
        version: VERSION,
        repository: RepositoryAccess::default(),
        dead_hosts: Vec::new(),
        task: JobTask::Restore(task),
    };
    json!(spec).to_string()
}

/// A pod waits for the claim on a node that it tolerates: the copy has to run there.
fn as_the_pod_that_waits() -> Toleration {
    Toleration { effect: Some("NoSchedule".to_owned()), operator: Some("Exists".to_owned()), ..Toleration::default() }
}

fn another_pod_when_disrupted() -> PodFailurePolicy {
    let disrupted =
        PodFailurePolicyOnPodConditionsPattern { status: "True".to_owned(), type_: "DisruptionTarget".to_owned() };
    PodFailurePolicy {
        rules: vec![PodFailurePolicyRule {
            action: "Ignore".to_owned(),
            on_exit_codes: None,
            on_pod_conditions: Some(vec![disrupted]),
        }],
    }
}

fn container(image: &str) -> Container {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    };
    let spec = format!("{JOB_DIR}/{SPEC}");
    let command = ["stash-fs", "job", "--spec", &spec, "--report", "/dev/termination-log"];
    let amounts =
        [("cpu", "50m"), ("memory", "64Mi")].map(|(name, value)| (name.to_owned(), Quantity(value.to_owned())));
    Container {
        name: "copy".to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(command.map(str::to_owned).to_vec()),
        resources: Some(ResourceRequirements { requests: Some(amounts.into()), ..ResourceRequirements::default() }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add: Some(RESTORE_CAPABILITIES.map(str::to_owned).to_vec()),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            read_only_root_filesystem: Some(true),
            run_as_group: Some(0),
            run_as_user: Some(0),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..SecurityContext::default()
        }),
        // What is not a report, as the text of a crash, is not mistaken for one.
        termination_message_policy: Some("File".to_owned()),
        volume_mounts: Some(vec![
            mount("job", JOB_DIR, true),
            mount("snapshot", SNAPSHOT_DIR, true),
            mount("volume", VOLUME_DIR, false),
        ]),
        ..Container::default()
    }
}

fn volumes(prime: &str, attributes: BTreeMap<String, String>, secret: Option<String>) -> Vec<Volume> {
    let field = ObjectFieldSelector {
        field_path: format!("metadata.annotations['{SPEC_ANNOTATION}']"),
        ..ObjectFieldSelector::default()
    };
    let file =
        DownwardAPIVolumeFile { field_ref: Some(field), path: SPEC.to_owned(), ..DownwardAPIVolumeFile::default() };
    let orders = DownwardAPIVolumeSource { items: Some(vec![file]), ..DownwardAPIVolumeSource::default() };
    let snapshot = CSIVolumeSource {
        driver: DRIVER.to_owned(),
        node_publish_secret_ref: secret.map(|name| LocalObjectReference { name }),
        read_only: Some(true),
        volume_attributes: Some(attributes),
        ..CSIVolumeSource::default()
    };
    let claim = PersistentVolumeClaimVolumeSource { claim_name: prime.to_owned(), read_only: None };
    vec![
        Volume { name: "job".to_owned(), downward_api: Some(orders), ..Volume::default() },
        Volume { name: "snapshot".to_owned(), csi: Some(snapshot), ..Volume::default() },
        Volume { name: "volume".to_owned(), persistent_volume_claim: Some(claim), ..Volume::default() },
    ]
}

#[cfg(test)]
mod tests;
