//! Restores of a workload whose pods run: an init container of its pods restores their volumes before anything else of them starts. Pure.
//!
//! The orders ([`AtStart`]) are written down at the session once, when it begins: which snapshots, for which host. By them the pods'
//! template gets the init container, and the CSI driver knows what a pod may see. The container stays until the session is deleted, as
//! Stash's; once its host is done, it ends at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, ContainerStateTerminated, ContainerStatus, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
    EmptyDirVolumeSource, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, SecurityContext, Volume, VolumeMount,
};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use stash_crds::RestoreSession;
use stash_proto::job::{
    AT_START_ANNOTATION, AtStart, HostKey, INIT_CONTAINER, JOB_DIR, JobTask, RESTORE_CAPABILITIES, VERSION,
};

use super::plan::Host;
use super::report::{self, HostOutcome};
use crate::backup_configuration::validate::TargetKind;
use crate::backup_session::outcome::Work;
use crate::backup_session::report::text;
use crate::jobs::shown::{csi_volume, is_place};
use crate::jobs::{WORKLOAD_ROOT, confined, progress_at, spec_key};
use crate::workload::Workload;

/// How the names of the volumes begin that show snapshots.
const SNAPSHOT_VOLUMES: &str = "stash-fs-snapshot-";
/// The orders, as a file.
const ORDERS_VOLUME: &str = "stash-fs-orders";
/// Temporary files, and what is remembered for as long as the pod lives.
const STATE_VOLUME: &str = "stash-fs-state";
/// Where that is.
const STATE_DIR: &str = "/stash-tmp";
/// The profile of Pod Security under which no container may give files away, and none starts that would.
const PSA_LABEL: &str = "pod-security.kubernetes.io/enforce";

/// How the hosts of a session are restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By Jobs, or by claims that are the snapshot.
    Jobs,
    /// It has to be decided.
    Undecided,
    /// By the init container.
    AtStart(Box<AtStart>),
}

/// Returns what was decided for a session.
pub fn decided(session: &RestoreSession) -> Way {
    match session.annotations().get(AT_START_ANNOTATION).map(|orders| AtStart::parse(orders)) {
        None => Way::Undecided,
        Some(Ok(orders)) if !orders.hosts.is_empty() && are_ours(&orders, session) => Way::AtStart(Box::new(orders)),
        // Also what somebody copied from another session or wrote himself, or cannot be read.
        Some(_) => Way::Jobs,
    }
}

/// Returns where a workload has the volumes that a session restores.
pub fn places(session: &RestoreSession) -> impl Iterator<Item = &str> {
    session.spec.target.iter().flat_map(|target| &target.volume_mounts).map(|mount| mount.mount_path.as_str())
}

/// Whether orders are such as are made here: who may write an annotation must not have a snapshot mounted over the program that runs.
fn are_ours(orders: &AtStart, session: &RestoreSession) -> bool {
    Some(&orders.session) == session.metadata.uid.as_ref()
        && orders.hosts.values().all(|host| {
            let JobTask::Restore(task) = &host.spec.task else { return false };
            host.shown().into_keys().all(is_place)
                && task.root.as_deref() == Some(WORKLOAD_ROOT)
                && task.mounts.iter().map(String::as_str).eq(places(session))
        })
}

/// Returns how a pod of a workload finds its host; nothing: pods of that kind are not made anew when their template changes.
pub fn key_of(kind: TargetKind) -> Option<HostKey> {
    match kind {
        TargetKind::Deployment => Some(HostKey::One),
        TargetKind::StatefulSet => Some(HostKey::Ordinal),
        TargetKind::DaemonSet => Some(HostKey::Node),
        TargetKind::Claim | TargetKind::ReplicaSet | TargetKind::ReplicationController => None,
    }
}

/// Returns orders for nobody: all is done by Jobs.
pub fn by_jobs(session: &RestoreSession) -> AtStart {
    let session = session.metadata.uid.clone().unwrap_or_default();
    AtStart { version: VERSION, session, by: HostKey::One, deadline: None, hosts: BTreeMap::new() }
}

/// Returns the key of a host.
pub fn key(by: HostKey, host: &Host) -> String {
    let (pod, node) = (host.ordinal.map(|ordinal| format!("-{ordinal}")), host.part.clone());
    by.of(&pod.unwrap_or_default(), &node.unwrap_or_default()).to_owned()
}

/// Returns why the pods of a workload get no init container; nothing if they may. `namespace` are the labels of its namespace.
pub fn objection(
    session: &RestoreSession,
    workload: &Workload,
    hosts: &[Host],
    namespace: &BTreeMap<String, String>,
) -> Option<String> {
    if workload.replicas == Some(0) {
        return Some("it has no pods: its volumes are restored without them".to_owned());
    }
    let pods: Vec<usize> = workload.ordinals(workload.replicas.unwrap_or(0)).collect();
    if let Some(host) = hosts.iter().find(|host| host.ordinal.is_some_and(|ordinal| !pods.contains(&ordinal))) {
        return Some(format!("{} has no pod", host.name));
    }
    if namespace.get(PSA_LABEL).is_some_and(|profile| profile == "restricted") {
        return Some("Pod Security of the namespace admits no container that gives files to their owners".to_owned());
    }
    let spec = workload.template.spec.clone().unwrap_or_default();
    let volumes: Vec<&str> = spec.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    let claims = workload.claims.iter().filter_map(|claim| claim.metadata.name.as_deref());
    let known: Vec<&str> = volumes.iter().copied().chain(claims).collect();
    let mounts = session.spec.target.iter().flat_map(|target| &target.volume_mounts);
    let unknown = mounts.map(|mount| mount.name.as_str()).find(|name| !known.contains(name));
    unknown.map(|name| format!("its pods have no volume {name}"))
}

/// Makes the init container and its volumes.
fn container(session: &RestoreSession, orders: &AtStart, image: &str, secret: &str) -> (Container, Vec<Volume>) {
    let target = session.spec.target.clone().unwrap_or_default();
    let theirs = session.spec.runtime_settings.as_ref().and_then(|runtime| runtime.container.clone());
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    let read_only = |mount: VolumeMount| VolumeMount { read_only: Some(true), ..mount };
    let roots: BTreeSet<&str> = orders.hosts.values().flat_map(|host| host.shown().into_keys()).collect();
    let mut mounts = vec![read_only(mount(ORDERS_VOLUME, JOB_DIR)), mount(STATE_VOLUME, STATE_DIR)];
    mounts.extend(target.volume_mounts.iter().map(|data| VolumeMount {
        sub_path: data.sub_path.clone(),
        ..mount(&data.name, format!("{WORKLOAD_ROOT}{}", data.mount_path).trim_end_matches('/'))
    }));
    let mut volumes = vec![
        orders_volume(),
        Volume { name: STATE_VOLUME.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() },
    ];
    let repository = session.spec.repository.clone().unwrap_or_default().name;
    for (index, root) in roots.into_iter().enumerate() {
        let name = format!("{SNAPSHOT_VOLUMES}{index}");
        mounts.push(read_only(mount(&name, root)));
        let session = session.name_any();
        let attributes = [("repository", repository.as_str()), ("restoreSession", &session), ("restoreSource", root)];
        volumes.push(csi_volume(name, secret, &attributes));
    }
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: None, field_path: path.to_owned() }),
            ..EnvVarSource::default()
        }),
    };
    let temporary = EnvVar { name: "TMPDIR".to_owned(), value: Some(STATE_DIR.to_owned()), value_from: None };
    let spec = format!("{JOB_DIR}/{}", spec_key());
    let progress = progress_at();
    let of_pod = ["--progress", &progress, "--pod", "$(POD_NAME)", "--node", "$(NODE_NAME)", "--state", STATE_DIR];
    let words = ["stash-fs", "job", "--spec", &spec, "--report", "/dev/termination-log"];
    let container = Container {
        name: INIT_CONTAINER.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(words.into_iter().chain(of_pod).map(str::to_owned).collect()),
        env: Some(vec![field("POD_NAME", "metadata.name"), field("NODE_NAME", "spec.nodeName"), temporary]),
        resources: theirs.and_then(|theirs| theirs.resources),
        // The pod may say that nothing of it is root.
        security_context: Some(SecurityContext {
            run_as_non_root: Some(false),
            ..confined(&RESTORE_CAPABILITIES, true)
        }),
        termination_message_policy: Some("File".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    };
    (container, volumes)
}

fn orders_volume() -> Volume {
    let field_path = format!("metadata.annotations['{AT_START_ANNOTATION}']");
    let file = DownwardAPIVolumeFile {
        field_ref: Some(ObjectFieldSelector { api_version: None, field_path }),
        path: spec_key().to_owned(),
        ..DownwardAPIVolumeFile::default()
    };
    Volume {
        name: ORDERS_VOLUME.to_owned(),
        downward_api: Some(DownwardAPIVolumeSource { default_mode: None, items: Some(vec![file]) }),
        ..Volume::default()
    }
}

/// Returns what of a list is not ours. Fields that this release does not know stay as they are.
fn others(spec: &Value, list: &str, is_ours: impl Fn(&str) -> bool) -> Vec<Value> {
    let all = spec[list].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|one| !one["name"].as_str().is_some_and(&is_ours)).collect()
}

fn is_our_volume(name: &str) -> bool {
    [ORDERS_VOLUME, STATE_VOLUME].contains(&name) || name.starts_with(SNAPSHOT_VOLUMES)
}

/// Whether a workload has the init container of a session.
pub fn is_injected(workload: &Workload, session: &str) -> bool {
    let template = &workload.template;
    let annotations = template.metadata.as_ref().and_then(|meta| meta.annotations.as_ref());
    let mut containers = template.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    annotations.is_some_and(|annotations| are_of(annotations, session))
        && containers.any(|container| container.name == INIT_CONTAINER)
}

/// Returns the change that puts the init container into a workload, before all others.
///
/// # Errors
///
/// It cannot be written.
pub fn inject(
    workload: &Value,
    session: &RestoreSession,
    orders: &AtStart,
    image: &str,
    secret: &str,
) -> serde_json::Result<Value> {
    let spec = &workload["spec"]["template"]["spec"];
    let (container, made) = container(session, orders, image, secret);
    let mut containers = vec![serde_json::to_value(container)?];
    containers.extend(others(spec, "initContainers", |name| name == INIT_CONTAINER));
    let mut volumes = others(spec, "volumes", is_our_volume);
    for volume in made {
        volumes.push(serde_json::to_value(volume)?);
    }
    let annotation = json!({ AT_START_ANNOTATION: serde_json::to_string(orders)? });
    Ok(change(workload, &annotation, &containers, &volumes))
}

/// Returns the change that takes the init container of a session out of a workload; nothing if it has none.
pub fn withdraw(workload: &Value, session: &str) -> Option<Value> {
    let template = &workload["spec"]["template"];
    let orders = template["metadata"]["annotations"][AT_START_ANNOTATION].as_str()?;
    // What cannot be read is of nobody else.
    if AtStart::parse(orders).is_ok_and(|orders| orders.session != session) {
        return None;
    }
    let containers = others(&template["spec"], "initContainers", |name| name == INIT_CONTAINER);
    let volumes = others(&template["spec"], "volumes", is_our_volume);
    Some(change(workload, &json!({ AT_START_ANNOTATION: null }), &containers, &volumes))
}

fn change(workload: &Value, annotations: &Value, containers: &[Value], volumes: &[Value]) -> Value {
    let list = |all: &[Value]| if all.is_empty() { Value::Null } else { all.into() };
    json!({
        "metadata": {"resourceVersion": workload["metadata"]["resourceVersion"]},
        "spec": {"template": {
            "metadata": {"annotations": annotations},
            "spec": {"initContainers": list(containers), "volumes": list(volumes)},
        }},
    })
}

/// How far the hosts are, by their pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Looked {
    /// What became of each, by the name of its Job, though there is none.
    pub work: BTreeMap<String, Work<HostOutcome>>,
    /// What is waited for, by host.
    pub waits: BTreeMap<String, String>,
    /// The pods that are to restore hosts, by key: uids.
    pub elections: BTreeMap<String, String>,
    /// The addresses of those that restore now.
    pub at_work: Vec<IpAddr>,
}

/// Looks at the pods of a workload.
pub fn look(orders: &AtStart, hosts: &[Host], pods: &[Pod]) -> Looked {
    let mut looked = Looked::default();
    for host in hosts {
        let key = key(orders.by, host);
        let Some(wanted) = orders.hosts.get(&key) else { continue };
        let is_of_host = |pod: &&Pod| {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
            orders.by.of(&pod.name_any(), node) == key && are_of(pod.annotations(), &orders.session)
        };
        let own: Vec<&Pod> = pods.iter().filter(is_of_host).collect();
        let chosen = own.iter().find(|pod| wanted.pod.is_some() && pod.metadata.uid == wanted.pod);
        let (work, waits) = match (chosen, own.first()) {
            (Some(pod), _) => {
                let became = became(pod);
                looked.at_work.extend(address(pod).filter(|_| became.0 == Work::Running));
                became
            }
            (None, first) => {
                let uid = first.and_then(|pod| pod.metadata.uid.clone());
                looked.elections.extend(uid.map(|uid| (key, uid)));
                (Work::Running, Some(format!("{} waits for a pod that starts anew.", host.name)))
            }
        };
        looked.work.insert(host.job.clone(), work);
        looked.waits.extend(waits.map(|why| (host.name.clone(), why)));
    }
    looked
}

/// Returns the address of a pod.
pub fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// Whether annotations hold the orders of a session.
fn are_of(annotations: &BTreeMap<String, String>, session: &str) -> bool {
    let orders = annotations.get(AT_START_ANNOTATION).and_then(|orders| AtStart::parse(orders).ok());
    orders.is_some_and(|orders| orders.session == session)
}

/// Returns what became of the init container of a pod, and what is waited for.
fn became(pod: &Pod) -> (Work<HostOutcome>, Option<String>) {
    let statuses = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref());
    let name = pod.name_any();
    let status = statuses.into_iter().flatten().find(|status| status.name == INIT_CONTAINER);
    let ended: Vec<&ContainerStateTerminated> = status.map(ended).unwrap_or_default();
    if let Some(well) = ended.iter().find(|ended| ended.exit_code == 0) {
        let reported = report::host(well.message.as_deref().unwrap_or_default());
        let work =
            if matches!(reported, Work::Reported(_)) { reported } else { Work::Reported(HostOutcome::default()) };
        return (work, None);
    }
    // Kubernetes starts it again, and it goes on where it ended.
    let again = status.map_or(0, |status| status.restart_count);
    // The last time counts.
    let last = ended
        .first()
        .map(|ended| (report::host(ended.message.as_deref().unwrap_or_default()), ended.reason.as_deref()));
    match last {
        Some((reported @ Work::Reported(_), _)) => return (reported, None),
        Some((Work::Disrupted(why), _)) => return (Work::Running, Some(format!("{name} was stopped: {why}."))),
        Some((_, reason)) => {
            let reason = reason.map(text).unwrap_or_default();
            let why = format!("{INIT_CONTAINER} of {name} ended without a report ({reason}), {again} times so far.");
            return (Work::Running, Some(why));
        }
        None => {}
    }
    let runs = status.and_then(|status| status.state.as_ref()).is_some_and(|state| state.running.is_some());
    let what = if runs { "restores" } else { "starts" };
    (Work::Running, Some(format!("{name} {what}.")))
}

/// Returns how a container ended, the last time first.
fn ended(status: &ContainerStatus) -> Vec<&ContainerStateTerminated> {
    [&status.state, &status.last_state].into_iter().filter_map(|state| state.as_ref()?.terminated.as_ref()).collect()
}

/// Returns the orders with the pods that were chosen.
pub fn elect(orders: &AtStart, elections: &BTreeMap<String, String>) -> AtStart {
    let mut orders = orders.clone();
    for (key, uid) in elections {
        if let Some(host) = orders.hosts.get_mut(key) {
            host.pod = Some(uid.clone());
        }
    }
    orders
}

/// Returns the orders as pods get them: who was chosen is the session's, and when the time is over is known only when it begins.
pub fn for_pods(orders: &AtStart, deadline: Option<i64>) -> AtStart {
    let mut orders = AtStart { deadline, ..orders.clone() };
    for host in orders.hosts.values_mut() {
        host.pod = None;
    }
    orders
}

#[cfg(test)]
mod tests;
