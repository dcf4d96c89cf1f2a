//! The pod that has a snapshot for a volume. Pure.
//!
//! It is one that restricted Pod Security takes, with no token, no capability and nothing to write but a little folder. The snapshot's
//! files are shown as its own user's, so that it reads all that it is given. Credentials are no part of it: it names the Secret, which
//! the node fetches.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, Capabilities, Container, EmptyDirVolumeSource, EnvVar, LocalObjectReference, Pod,
    PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stash_crds::names::{COMPONENT_LABEL, MANAGED_BY_LABEL, SNAPSHOT_ID_ANNOTATION};
use stash_csi::names::{DRIVER, SnapshotId};
use stash_csi::volume;

/// The only container.
pub const CONTAINER: &str = "browse";
/// Where the snapshot is.
pub const FOLDER: &str = "/snapshot";

/// Who the pod is: nobody that anything else of a cluster should be.
const USER: i64 = 65532;
/// What may be written.
const SCRATCH: &str = "/tmp";
/// The volumes.
const VOLUMES: [&str; 2] = ["snapshot", "scratch"];

/// What a pod shows.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The pod's name.
    pub name: &'a str,
    /// The Repository, in the pod's namespace.
    pub repository: &'a str,
    /// Its Secret; empty if it names none.
    pub secret: &'a str,
    /// The snapshot.
    pub snapshot: &'a SnapshotId,
    /// The image.
    pub image: &'a str,
    /// How long it runs at most.
    pub lifetime: Duration,
}

/// Returns the pod.
pub fn pod(wanted: &Wanted<'_>) -> Pod {
    let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let lifetime = i64::try_from(wanted.lifetime.as_secs()).unwrap_or(i64::MAX);
    Pod {
        metadata: ObjectMeta {
            name: Some(wanted.name.to_owned()),
            labels: Some(text(&[(COMPONENT_LABEL, "stash-browse"), (MANAGED_BY_LABEL, "kubectl-stash")])),
            annotations: Some(text(&[(SNAPSHOT_ID_ANNOTATION, wanted.snapshot.as_str())])),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            active_deadline_seconds: Some(lifetime),
            automount_service_account_token: Some(false),
            containers: vec![container(wanted.image, lifetime)],
            enable_service_links: Some(false),
            restart_policy: Some("Never".to_owned()),
            security_context: Some(PodSecurityContext {
                fs_group: Some(USER),
                run_as_group: Some(USER),
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            termination_grace_period_seconds: Some(1),
            volumes: Some(volumes(wanted)),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn container(image: &str, lifetime: i64) -> Container {
    let amounts = |cpu: &str, memory: &str| -> BTreeMap<String, Quantity> {
        [("cpu", cpu), ("memory", memory)].map(|(name, value)| (name.to_owned(), Quantity(value.to_owned()))).into()
    };
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["sleep".to_owned(), lifetime.to_string()]),
        env: Some(vec![EnvVar { name: "HOME".to_owned(), value: Some(SCRATCH.to_owned()), ..EnvVar::default() }]),
        resources: Some(ResourceRequirements {
            requests: Some(amounts("10m", "16Mi")),
            limits: Some(amounts("1", "128Mi")),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![mount(VOLUMES[0], FOLDER, true), mount(VOLUMES[1], SCRATCH, false)]),
        working_dir: Some(FOLDER.to_owned()),
        ..Container::default()
    }
}

fn volumes(wanted: &Wanted<'_>) -> Vec<Volume> {
    let user = USER.to_string();
    let attributes = [
        (volume::REPOSITORY, wanted.repository),
        (volume::SNAPSHOT, wanted.snapshot.as_str()),
        (volume::UID, &user),
        (volume::GID, &user),
    ];
    let secret = Some(wanted.secret).filter(|name| !name.is_empty());
    let snapshot = CSIVolumeSource {
        driver: DRIVER.to_owned(),
        node_publish_secret_ref: secret.map(|name| LocalObjectReference { name: name.to_owned() }),
        read_only: Some(true),
        volume_attributes: Some(attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        ..CSIVolumeSource::default()
    };
    let scratch =
        EmptyDirVolumeSource { size_limit: Some(Quantity("64Mi".to_owned())), ..EmptyDirVolumeSource::default() };
    vec![
        Volume { name: VOLUMES[0].to_owned(), csi: Some(snapshot), ..Volume::default() },
        Volume { name: VOLUMES[1].to_owned(), empty_dir: Some(scratch), ..Volume::default() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_the_driver_takes_the_volume_of_the_pod() {
        let id = SnapshotId::parse(&"0a".repeat(32)).unwrap();
        let wanted = Wanted {
            name: "stash-browse-1",
            repository: "repo",
            secret: "keys",
            snapshot: &id,
            image: "busybox",
            lifetime: Duration::from_secs(60),
        };
        let made = pod(&wanted);
        let spec = made.spec.unwrap();
        let source = spec.volumes.unwrap()[0].csi.clone().unwrap();
        assert_eq!(source.node_publish_secret_ref.unwrap().name, "keys");
        let read = volume::wanted(&source.volume_attributes.unwrap(), &[]).unwrap();
        assert_eq!((read.repository.as_str(), read.path.as_str()), ("repo", "/"));
        assert_eq!(read.snapshot, volume::SnapshotChoice::Id(id.clone()));
        // Only the pod's own user and group are taken.
        let security = spec.security_context.unwrap();
        let owner = (read.ownership.uid.map(i64::from), read.ownership.gid.map(i64::from));
        assert_eq!(owner, (security.run_as_user, security.fs_group));
        assert_eq!((spec.active_deadline_seconds, spec.automount_service_account_token), (Some(60), Some(false)));
        let without = pod(&Wanted { secret: "", ..wanted }).spec.unwrap().volumes.unwrap();
        assert_eq!(without[0].csi.as_ref().unwrap().node_publish_secret_ref, None);
    }
}
