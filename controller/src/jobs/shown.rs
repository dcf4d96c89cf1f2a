//! Snapshots that a Job mounts instead of reading them with credentials: as inline volumes of the CSI driver. Pure.
//!
//! Kubelet hands the Repository's Secret to the driver, which opens the repository on the node; the pod gets files. What a Job mounts
//! is written down at it, so that whoever makes its Secret later says the same.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{CSIVolumeSource, LocalObjectReference, Volume, VolumeMount};
use serde::{Deserialize, Serialize};
use stash_proto::job::RestoreSource;

/// The CSI driver.
const DRIVER: &str = "fs.stash.appscode.com";
/// Annotation of Jobs: the snapshots that they mount, in the order in which they are restored, with the paths of each. As JSON.
const SHOWN_ANNOTATION: &str = "stash.appscode.com/shown-snapshots";
/// Where they are mounted.
const SNAPSHOT_ROOT: &str = "/snapshot";

/// A snapshot that a Job restores from a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its whole id.
    pub id: String,
    /// What it is of.
    pub paths: Vec<String>,
}

/// What a Job mounts instead of reading a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The Repository, of the Job's namespace.
    pub repository: String,
    /// Its Secret.
    pub secret: String,
    /// The snapshots, in the order in which they are restored; one may be there several times.
    pub snapshots: Vec<Snapshot>,
}

/// Returns the ids of snapshots, each once.
pub fn distinct(snapshots: &[Snapshot]) -> Vec<&str> {
    let mut ids: Vec<&str> = Vec::new();
    for snapshot in snapshots {
        if !ids.contains(&snapshot.id.as_str()) {
            ids.push(&snapshot.id);
        }
    }
    ids
}

fn place(index: usize) -> String {
    format!("{SNAPSHOT_ROOT}/{index}")
}

/// Whether snapshots are mounted at a place.
pub fn is_place(path: &str) -> bool {
    let number = path.strip_prefix(SNAPSHOT_ROOT).and_then(|rest| rest.strip_prefix('/'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn volume_name(index: usize) -> String {
    format!("stash-snapshot-{index}")
}

/// Returns what the Job is told to restore.
pub fn sources(snapshots: &[Snapshot]) -> Vec<RestoreSource> {
    let ids = distinct(snapshots);
    let index = |id: &str| ids.iter().position(|own| *own == id).unwrap_or_default();
    snapshots
        .iter()
        .map(|snapshot| RestoreSource::Mounted {
            snapshot: snapshot.id.clone(),
            root: place(index(&snapshot.id)),
            paths: snapshot.paths.clone(),
        })
        .collect()
}

/// Returns what is written down at a Job.
pub(super) fn annotation(shown: &Shown) -> Option<(String, String)> {
    Some((SHOWN_ANNOTATION.to_owned(), serde_json::to_string(&shown.snapshots).ok()?))
}

/// Returns the snapshots that a Job mounts; none: it has credentials.
pub fn of_job(job: &Job) -> Vec<Snapshot> {
    let written = job.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SHOWN_ANNOTATION));
    written.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Makes the volumes of a Job. The snapshot is named by its id, so that another pod of the Job sees the same.
pub(super) fn volumes(shown: &Shown) -> Vec<Volume> {
    let volume = |(index, id): (usize, &str)| {
        csi_volume(volume_name(index), &shown.secret, &[("repository", shown.repository.as_str()), ("snapshot", id)])
    };
    distinct(&shown.snapshots).into_iter().enumerate().map(volume).collect()
}

/// Makes an inline volume of the driver, which gets the Repository's `secret` from kubelet.
pub fn csi_volume(name: String, secret: &str, attributes: &[(&str, &str)]) -> Volume {
    let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Volume {
        name,
        csi: Some(CSIVolumeSource {
            driver: DRIVER.to_owned(),
            node_publish_secret_ref: Some(LocalObjectReference { name: secret.to_owned() }),
            read_only: Some(true),
            volume_attributes: Some(attributes),
            ..CSIVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Returns where they are mounted.
pub(super) fn mounts(shown: &Shown) -> Vec<VolumeMount> {
    let mount = |index| VolumeMount {
        name: volume_name(index),
        mount_path: place(index),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    (0..distinct(&shown.snapshots).len()).map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_each_snapshot_is_one_volume_and_each_turn_a_source() {
        let snapshot = |id: &str| Snapshot { id: id.to_owned(), paths: vec!["/data".to_owned()] };
        let shown = Shown {
            repository: "repo".to_owned(),
            secret: "keys".to_owned(),
            snapshots: ["b", "a", "b"].map(snapshot).to_vec(),
        };
        let roots: Vec<String> = sources(&shown.snapshots)
            .into_iter()
            .map(|source| match source {
                RestoreSource::Mounted { snapshot, root, .. } => format!("{snapshot} {root}"),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(roots, ["b /snapshot/0", "a /snapshot/1", "b /snapshot/0"]);
        assert_eq!(
            serde_json::to_value(&volumes(&shown)[1]).unwrap(),
            serde_json::json!({"name": "stash-snapshot-1", "csi": {
                "driver": DRIVER, "readOnly": true, "nodePublishSecretRef": {"name": "keys"},
                "volumeAttributes": {"repository": "repo", "snapshot": "a"}
            }})
        );
        let places: Vec<String> = mounts(&shown).into_iter().map(|mount| mount.mount_path).collect();
        assert_eq!((places.join(" ").as_str(), volumes(&shown).len()), ("/snapshot/0 /snapshot/1", 2));
        // Whoever comes later reads the same from the Job.
        let (key, value) = annotation(&shown).unwrap();
        let mut job = Job::default();
        assert_eq!(of_job(&job), []);
        job.metadata.annotations = Some([(key, value)].into());
        assert_eq!(of_job(&job), shown.snapshots);
    }
}
