//! How a Job and its pod are made. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HostPathVolumeSource, KeyToPath,
    LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, ResourceRequirements, SELinuxOptions, SeccompProfile,
    SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use stash_crds::backend::LocalBackend;
use stash_crds::runtime_settings::{ContainerRuntimeSettings, PodRuntimeSettings, RuntimeSettings};
use stash_crds::volumes::EmptyDirSettings;
use stash_proto::job::{GRACE_SECONDS, JOB_DIR, PROGRESS_PORT, RESTORE_CAPABILITIES};

use super::secret::{SECRET_PREFIX, spec_key};
use super::shown::{self, Shown};
use crate::access::{self, certificates};
use crate::names;

/// Annotation of Jobs and their pods: the session that they are of, as `namespace/name`.
pub const SESSION_ANNOTATION: &str = "stash.appscode.com/session";
/// Annotation of Jobs and their pods: the RestoreSession that they are of, as `namespace/name`.
pub const RESTORE_ANNOTATION: &str = "stash.appscode.com/restore-session";
/// Annotation of Jobs and VolumeSnapshots: the uid of their session.
pub const SESSION_UID_ANNOTATION: &str = "stash.appscode.com/session-uid";
/// Annotation of Jobs: the pod beside which they run, as `name/uid`. When it leaves, they end.
pub const BESIDE_ANNOTATION: &str = "stash.appscode.com/beside";
/// Annotation of Jobs: the node of that pod.
const NODE_ANNOTATION: &str = "stash.appscode.com/node";
/// Annotation of Jobs: the Repository that they work on, as `namespace/name`.
pub const REPOSITORY_ANNOTATION: &str = "stash.appscode.com/repository";

/// Annotation of Jobs: the claims of their namespace that their pods name, with commas between.
pub const CLAIMS_ANNOTATION: &str = "stash.appscode.com/claims";

/// Where the file system of what is backed up is put together. Nothing of it hides anything of the Job.
pub const WORKLOAD_ROOT: &str = "/workload";

/// Where temporary files and caches go, as in Stash.
const TMP_DIR: &str = "/stash-tmp";
/// The volume of the Job's own Secret.
const JOB_VOLUME: &str = "stash-job";
/// The volume of temporary files, as in Stash.
const TMP_VOLUME: &str = "stash-tmp-dir";
/// The volume of a claim that is backed up, as in Stash.
const DATA_VOLUME: &str = "stash-volume";
/// The volume of a `local` backend, as in Stash.
const LOCAL_VOLUME: &str = "stash-local";

/// What all Jobs have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image that holds `stash-fs`.
    pub image: String,
}

/// What a Job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It backs up a host.
    Backup,
    /// It looks after a repository.
    Upkeep,
    /// It restores a host: what it mounts it writes to.
    Restore,
    /// It serves a repository that is a volume, read-only.
    Access,
}

/// Where the content of a volume comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A claim of the Job's namespace.
    Claim(String),
    /// A folder of the node. Only for Jobs of the release namespace, and never taken from what a user wrote.
    Folder(String),
}

/// A volume that is mounted: read-only, unless the Job restores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub source: Source,
    /// Where the workload has it.
    pub path: String,
    /// The folder of it.
    pub sub_path: Option<String>,
}

/// The pod beside which a Job runs, on the same node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// What it tolerates, so that the Job may be where it is.
    pub tolerations: Vec<Toleration>,
    /// Under which label it reads its volumes.
    pub se_linux: Option<SELinuxOptions>,
}

/// The volume of a repository that is one of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalRepository {
    /// The volume.
    pub volume: Volume,
    /// Where it is mounted.
    pub mount: VolumeMount,
}

impl LocalRepository {
    /// Returns the volume of a `local` backend.
    ///
    /// # Errors
    ///
    /// It is no volume of a pod.
    pub fn of(backend: &LocalBackend) -> Result<Self, serde_json::Error> {
        let mut volume = backend.source.clone();
        volume.insert("name".to_owned(), LOCAL_VOLUME.into());
        let mount = VolumeMount {
            name: LOCAL_VOLUME.to_owned(),
            mount_path: backend.mount_path.clone(),
            sub_path: backend.sub_path.clone(),
            ..VolumeMount::default()
        };
        Ok(Self { volume: serde_json::from_value(volume.into())?, mount })
    }

    /// The same for a pod that only reads. The mount is read-only and not the claim, as with what is backed up.
    pub fn read_only(mut self) -> Self {
        self.mount.read_only = Some(true);
        self
    }
}

/// What a Job is made from.
#[derive(Debug)]
pub struct JobRequest<'a> {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The session that it is of, of a backup or a restore.
    pub owner: OwnerReference,
    /// The session's namespace; none if it is of no session.
    pub session_namespace: Option<String>,
    /// The Repository that it works on, as `namespace/name`.
    pub repository: String,
    /// What it is for.
    pub purpose: Purpose,
    /// The keys of the credentials that its Secret holds.
    pub secret_keys: Vec<&'static str>,
    /// What is mounted.
    pub mounts: Vec<Mount>,
    /// The repository, if it is a volume.
    pub local: Option<LocalRepository>,
    /// The snapshots that it mounts, if it has no credentials.
    pub shown: Option<Shown>,
    /// The pod beside which it runs.
    pub beside: Option<Beside>,
    /// What the user says about its pod.
    pub runtime: Option<&'a RuntimeSettings>,
    /// What the user says about temporary files.
    pub temp_dir: Option<&'a EmptyDirSettings>,
}

impl JobRequest<'_> {
    /// Whether it reads folders of a node: then it is ours alone, and the user has little to say about its pod.
    fn is_on_node(&self) -> bool {
        self.mounts.iter().any(|mount| matches!(mount.source, Source::Folder(_)))
    }

    /// The claims that its pod names, each once.
    fn claims(&self) -> Vec<&str> {
        let mounted = self.mounts.iter().filter_map(|mount| match &mount.source {
            Source::Claim(claim) => Some(claim.as_str()),
            Source::Folder(_) => None,
        });
        let local = self.local.iter().filter_map(|local| local.volume.persistent_volume_claim.as_ref());
        let mut claims: Vec<&str> = mounted.chain(local.map(|claim| claim.claim_name.as_str())).collect();
        claims.sort_unstable();
        claims.dedup();
        claims
    }
}

/// Whether a Job was made for the object of `uid`.
///
/// Nobody but us makes Jobs in the release namespace, where owners of other namespaces cannot be named: there the annotation counts.
pub fn is_owned_by(job: &Job, uid: &str) -> bool {
    let owners = job.metadata.owner_references.as_deref().unwrap_or_default();
    let annotations = job.metadata.annotations.as_ref();
    let named = annotations.and_then(|annotations| annotations.get(SESSION_UID_ANNOTATION));
    owners.iter().any(|owner| owner.uid == uid) || (owners.is_empty() && named.is_some_and(|named| named == uid))
}

/// How long a Job is kept when it is done, in seconds, if no session owns it or its session stays: longer than a controller is away.
const KEPT_SECONDS: i32 = 86_400;

/// How long a pod serves a repository at most: longer than any look. It ends by itself when nobody asks, see [`ACCESS_IDLE`].
const ACCESS_SECONDS: i64 = 3600;
/// After how long without a question it ends. So a controller that went away leaves a volume mounted no longer.
const ACCESS_IDLE: &str = "1m";
/// How many connections it takes: the controller's.
const ACCESS_CONNECTIONS: &str = "16";
/// How long its Job is kept when it is done, in seconds.
const ACCESS_KEPT_SECONDS: i32 = 300;

/// Makes a Job.
pub fn job(request: &JobRequest<'_>, settings: &Settings) -> Job {
    let mut annotations = BTreeMap::from([(REPOSITORY_ANNOTATION.to_owned(), request.repository.clone())]);
    let is_restore = request.purpose == Purpose::Restore;
    if let Some(namespace) = request.session_namespace.as_ref().filter(|_| is_restore) {
        annotations.insert(RESTORE_ANNOTATION.to_owned(), format!("{namespace}/{}", request.owner.name));
    } else if let Some(namespace) = &request.session_namespace {
        annotations.insert(SESSION_ANNOTATION.to_owned(), format!("{namespace}/{}", request.owner.name));
        annotations.insert(SESSION_UID_ANNOTATION.to_owned(), request.owner.uid.clone());
    }
    if let Some(beside) = &request.beside {
        annotations.insert(BESIDE_ANNOTATION.to_owned(), format!("{}/{}", beside.pod, beside.uid));
        annotations.insert(NODE_ANNOTATION.to_owned(), beside.node.clone());
    }
    let claims = request.claims();
    if !claims.is_empty() {
        annotations.insert(CLAIMS_ANNOTATION.to_owned(), claims.join(","));
    }
    annotations.extend(request.shown.as_ref().and_then(shown::annotation));
    let labels = if is_restore { names::restore_labels() } else { names::backup_labels(None) };
    let theirs = request.runtime.and_then(|runtime| runtime.pod.clone()).unwrap_or_default();
    // Beside what a node has, the user may say where the pod may be, and nothing else of it.
    let pod = &if request.is_on_node() {
        PodRuntimeSettings { tolerations: theirs.tolerations, ..PodRuntimeSettings::default() }
    } else {
        theirs
    };
    // An owner of another namespace is none.
    let owned = request.session_namespace.as_ref().is_none_or(|namespace| request.namespace == *namespace);
    // What is ours wins: by it Jobs are found.
    let own_over = |theirs: &BTreeMap<String, String>, ours: &BTreeMap<String, String>| {
        theirs.iter().chain(ours).map(|(key, value)| (key.clone(), value.clone())).collect::<BTreeMap<_, _>>()
    };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(own_over(&pod.pod_labels, &labels)),
            annotations: Some(own_over(&pod.pod_annotations, &annotations)),
            ..ObjectMeta::default()
        }),
        spec: Some(pod_spec(request, pod, settings)),
    };
    Job {
        metadata: ObjectMeta {
            name: Some(request.name.clone()),
            namespace: Some(request.namespace.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: owned.then(|| vec![request.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            active_deadline_seconds: (request.purpose == Purpose::Access).then_some(ACCESS_SECONDS),
            backoff_limit: Some(0),
            // A restore goes on where another pod of it was taken away; a backup is another session's to try again.
            pod_failure_policy: is_restore.then(another_pod_when_disrupted),
            template,
            // A RestoreSession stays for ever; the credentials of its Job do not.
            ttl_seconds_after_finished: match request.purpose {
                Purpose::Access => Some(ACCESS_KEPT_SECONDS),
                _ => (!owned || is_restore).then_some(KEPT_SECONDS),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// A pod that was taken away (evicted, preempted, its node gone) is no failure: there will be another.
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

fn pod_spec(request: &JobRequest<'_>, pod: &PodRuntimeSettings, settings: &Settings) -> PodSpec {
    let some = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| map.clone());
    let pull_secrets: Vec<_> =
        pod.image_pull_secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() }).collect();
    let mut security = pod.security_context.clone().unwrap_or_default();
    // Kubelet would change the owners of what is backed up.
    security.fs_group = None;
    security.fs_group_change_policy = None;
    let beside = request.beside.as_ref();
    if security.se_linux_options.is_none() {
        security.se_linux_options = beside.and_then(|beside| beside.se_linux.clone());
    }
    let tolerated = beside.iter().flat_map(|beside| &beside.tolerations);
    let tolerations: Vec<Toleration> = pod.tolerations.iter().chain(tolerated).cloned().collect();
    PodSpec {
        affinity: affinity(pod.affinity.clone(), beside.map(|beside| beside.node.as_str())),
        automount_service_account_token: Some(false),
        containers: vec![container(request, settings)],
        enable_service_links: Some(pod.enable_service_links.unwrap_or(false)),
        image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
        node_name: pod.node_name.clone(),
        node_selector: some(&pod.node_selector),
        priority: pod.priority,
        priority_class_name: pod.priority_class_name.clone(),
        readiness_gates: (!pod.readiness_gates.is_empty()).then(|| pod.readiness_gates.clone()),
        restart_policy: Some("Never".to_owned()),
        runtime_class_name: pod.runtime_class_name.clone(),
        scheduler_name: pod.scheduler_name.clone(),
        security_context: Some(security),
        service_account_name: pod.service_account_name.clone(),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        tolerations: (!tolerations.is_empty()).then_some(tolerations),
        topology_spread_constraints: (!pod.topology_spread_constraints.is_empty())
            .then(|| pod.topology_spread_constraints.clone()),
        volumes: Some(volumes(request)),
        ..PodSpec::default()
    }
}

/// Adds to the user's affinity that the pod runs on `node`.
fn affinity(theirs: Option<Affinity>, node: Option<&str>) -> Option<Affinity> {
    let Some(node) = node else { return theirs };
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let mut affinity = theirs.unwrap_or_default();
    let nodes = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    let selector = nodes.required_during_scheduling_ignored_during_execution.get_or_insert_with(NodeSelector::default);
    // Terms are alternatives: the node goes into each.
    if selector.node_selector_terms.is_empty() {
        selector.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut selector.node_selector_terms {
        term.match_fields.get_or_insert_with(Vec::new).push(field.clone());
    }
    Some(affinity)
}

/// Returns the node on which a Job has to run, if it is one of those that run beside a pod.
pub fn node_of(job: &Job) -> Option<&str> {
    // Not the affinity: the store has no specs.
    job.metadata.annotations.as_ref()?.get(NODE_ANNOTATION).map(String::as_str)
}

fn container(request: &JobRequest<'_>, settings: &Settings) -> Container {
    let theirs = request.runtime.and_then(|runtime| runtime.container.clone()).unwrap_or_default();
    let theirs = if request.is_on_node() {
        ContainerRuntimeSettings { resources: theirs.resources, ..ContainerRuntimeSettings::default() }
    } else if request.purpose == Purpose::Access {
        // What they say is of a backup, which needs more. Who reads the files they say for all.
        ContainerRuntimeSettings {
            security_context: theirs.security_context,
            resources: Some(access_resources()),
            ..ContainerRuntimeSettings::default()
        }
    } else {
        theirs
    };
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    let mut mounts =
        vec![VolumeMount { read_only: Some(true), ..mount(JOB_VOLUME, JOB_DIR) }, mount(TMP_VOLUME, TMP_DIR)];
    mounts.extend(request.mounts.iter().enumerate().map(|(index, data)| VolumeMount {
        read_only: (request.purpose != Purpose::Restore).then_some(true),
        sub_path: data.sub_path.clone(),
        ..mount(&data_volume(index), format!("{WORKLOAD_ROOT}{}", data.path).trim_end_matches('/'))
    }));
    mounts.extend(request.local.iter().map(|local| local.mount.clone()));
    mounts.extend(request.shown.iter().flat_map(shown::mounts));
    let mut env = vec![EnvVar { name: "TMPDIR".to_owned(), value: Some(TMP_DIR.to_owned()), value_from: None }];
    // A Job uses nothing of its environment. The account that makes Jobs may not have them read what it does not read.
    let is_of_secret = |var: &&EnvVar| var.value_from.as_ref().is_some_and(|from| from.secret_key_ref.is_some());
    env.extend(theirs.env.iter().filter(|var| !is_of_secret(var)).cloned());
    let env_from: Vec<_> = theirs.env_from.iter().filter(|from| from.secret_ref.is_none()).cloned().collect();
    let port = ContainerPort {
        container_port: access::PORT.into(),
        name: Some("rest".to_owned()),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: "stash".to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(command(request)),
        ports: (request.purpose == Purpose::Access).then(|| vec![port]),
        env: Some(env),
        env_from: (!env_from.is_empty()).then_some(env_from),
        lifecycle: theirs.lifecycle.clone(),
        liveness_probe: theirs.liveness_probe.clone(),
        readiness_probe: theirs.readiness_probe.clone(),
        resources: theirs.resources.clone(),
        security_context: Some(theirs.security_context.clone().unwrap_or_else(|| security(request))),
        // What is not a report, as the text of a crash, is not mistaken for one.
        termination_message_policy: Some("File".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// Where a container that restores says how far it is.
pub fn progress_at() -> String {
    format!("[::]:{PROGRESS_PORT}")
}

fn command(request: &JobRequest<'_>) -> Vec<String> {
    let secret = |key: &str| format!("{JOB_DIR}/secret/{key}");
    let Some(local) = request.local.as_ref().filter(|_| request.purpose == Purpose::Access) else {
        let (spec, secret) = (format!("{JOB_DIR}/{}", spec_key()), format!("{JOB_DIR}/secret"));
        let words = ["stash-fs", "job", "--spec", &spec, "--secret", &secret, "--report", "/dev/termination-log"];
        let progress = progress_at();
        let more = ["--progress", &progress];
        let more = more.iter().copied().filter(|_| request.purpose == Purpose::Restore);
        let words = words
            .into_iter()
            .chain(more)
            .filter(|word| request.shown.is_none() || !["--secret", &secret].contains(word));
        return words.map(str::to_owned).collect();
    };
    let files = [certificates::CERTIFICATE, certificates::KEY, certificates::CLIENT_AUTHORITY].map(secret);
    let listen = format!("[::]:{}", access::PORT);
    let words = ["stash-fs", "access", "--tls-cert", &files[0], "--tls-key", &files[1], "--client-ca", &files[2]];
    let more = ["--listen", &listen, "--max-connections", ACCESS_CONNECTIONS, "--max-idle", ACCESS_IDLE];
    // A path is no option, whatever it begins with.
    words.iter().chain(&more).chain(&["--", &local.mount.mount_path]).map(|word| (*word).to_owned()).collect()
}

/// What serving a repository takes: a few buffers for each connection.
fn access_resources() -> ResourceRequirements {
    let of = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, quantity)| ((*name).to_owned(), Quantity((*quantity).to_owned()))).collect()
    };
    ResourceRequirements {
        requests: Some(of(&[("cpu", "10m"), ("memory", "32Mi")])),
        limits: Some(of(&[("memory", "128Mi")])),
        ..ResourceRequirements::default()
    }
}

/// What a Job may: to read all files, if it backs up; to write them, if it restores; else nothing. A repository that is a volume
/// belongs to root.
fn security(request: &JobRequest<'_>) -> SecurityContext {
    let added: &[&str] = match request.purpose {
        Purpose::Backup => &["DAC_READ_SEARCH"],
        Purpose::Restore => &RESTORE_CAPABILITIES,
        Purpose::Upkeep | Purpose::Access => &[],
    };
    confined(added, !added.is_empty() || request.local.is_some())
}

/// What a container of ours is allowed: the capabilities that are `added`, and nothing else.
pub fn confined(added: &[&str], is_root: bool) -> SecurityContext {
    let added = (!added.is_empty()).then(|| added.iter().map(|&name| name.to_owned()).collect());
    let id = Some(if is_root { 0 } else { 65535 });
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add: added, drop: Some(vec!["ALL".to_owned()]) }),
        read_only_root_filesystem: Some(true),
        run_as_group: id,
        run_as_user: id,
        run_as_non_root: (!is_root).then_some(true),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

fn data_volume(index: usize) -> String {
    if index == 0 { DATA_VOLUME.to_owned() } else { format!("{DATA_VOLUME}-{index}") }
}

fn volumes(request: &JobRequest<'_>) -> Vec<Volume> {
    let file = |key: String, path: String| KeyToPath { key, path, mode: None };
    let spec = file(spec_key().to_owned(), spec_key().to_owned());
    let keys = request.secret_keys.iter().map(|key| file(format!("{SECRET_PREFIX}{key}"), format!("secret/{key}")));
    let temporary = request.temp_dir.cloned().unwrap_or_default();
    let mut volumes = vec![
        Volume {
            name: JOB_VOLUME.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(request.name.clone()),
                items: Some([spec].into_iter().chain(keys).collect()),
                // The pod has no other container, and which user it runs as is for the user to say.
                default_mode: Some(0o444),
                optional: None,
            }),
            ..Volume::default()
        },
        Volume {
            name: TMP_VOLUME.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource { medium: temporary.medium, size_limit: temporary.size_limit }),
            ..Volume::default()
        },
    ];
    volumes.extend(request.mounts.iter().enumerate().map(|(index, data)| {
        let name = data_volume(index);
        match &data.source {
            Source::Claim(claim) => Volume {
                name,
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.clone(),
                    // The flag of the claim would have drivers publish it read-only: another mount, or none beside the pod's.
                    read_only: None,
                }),
                ..Volume::default()
            },
            Source::Folder(path) => Volume {
                name,
                host_path: Some(HostPathVolumeSource { path: path.clone(), type_: None }),
                ..Volume::default()
            },
        }
    }));
    volumes.extend(request.local.iter().map(|local| local.volume.clone()));
    volumes.extend(request.shown.iter().flat_map(shown::volumes));
    volumes
}

#[cfg(test)]
mod tests;
