//! How the volumes of a pod are reached by a Job: as a claim, or in the folder of the node. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume, VolumeMount};
use kube::ResourceExt as _;

use crate::jobs::{Mount, Source};

/// Where kubelet keeps what it mounts for pods.
const PODS: &str = "/var/lib/kubelet/pods";

/// A pod, as far as its volumes are concerned: one that runs, or one as it would be.
#[derive(Clone, Debug, Default)]
pub(super) struct PodVolumes {
    /// What it is called in sentences, as `pod db-0` or `Deployment web`.
    pub(super) whose: String,
    /// The name of the pod, if it runs.
    pub(super) pod: Option<String>,
    /// Its uid, if it runs.
    pub(super) uid: Option<String>,
    /// Its volumes.
    pub(super) volumes: Vec<Volume>,
}

/// A volume that is a claim, or one that only its node has.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reach {
    /// Any pod of the namespace may mount this claim.
    Claim(String),
    /// It lies in this folder of the node.
    Folder(String),
}

impl PodVolumes {
    /// Returns how each of `wanted` is reached, where claims are taken for claims of anybody.
    ///
    /// # Errors
    ///
    /// A sentence for the user: there is no such volume, or it cannot be read.
    pub(super) fn reach(&self, wanted: &[VolumeMount]) -> Result<Vec<Reach>, String> {
        wanted.iter().map(|mount| self.reach_one(&mount.name)).collect()
    }

    fn reach_one(&self, name: &str) -> Result<Reach, String> {
        let Some(volume) = self.volumes.iter().find(|volume| volume.name == name) else {
            return Err(format!("spec.target.volumeMounts: {} has no volume {name}", self.whose));
        };
        if let Some(claim) = &volume.persistent_volume_claim {
            return Ok(Reach::Claim(claim.claim_name.clone()));
        }
        if volume.ephemeral.is_some() {
            // The claim of a generic ephemeral volume is named after its pod.
            let Some(pod) = &self.pod else { return Err(self.only_beside(name)) };
            return Ok(Reach::Claim(format!("{pod}-{name}")));
        }
        if let Some(host_path) = &volume.host_path {
            // The pod was let mount it: its Pod Security has judged that. Without a pod nobody has.
            let path = if self.uid.is_some() { folder(&host_path.path) } else { Err(self.only_beside(name)) };
            return path.map(Reach::Folder);
        }
        let plugin = [
            (volume.empty_dir.is_some(), "empty-dir"),
            (volume.config_map.is_some(), "configmap"),
            (volume.secret.is_some(), "secret"),
            (volume.projected.is_some(), "projected"),
            (volume.downward_api.is_some(), "downward-api"),
            (volume.nfs.is_some(), "nfs"),
            (volume.csi.is_some(), "csi"),
        ];
        let Some((_, plugin)) = plugin.into_iter().find(|(is, _)| *is) else {
            return Err(format!(
                "spec.target.volumeMounts: volume {name} of {} is of a kind that cannot be read",
                self.whose
            ));
        };
        self.folder_of_pod(plugin, name).map(Reach::Folder)
    }

    /// Returns the folder in which kubelet has mounted a claim for this pod.
    ///
    /// # Errors
    ///
    /// A sentence for the user: no pod runs, or the volume is of a kind of which the folder is not known.
    pub(super) fn folder_of_claim(
        &self,
        claim: &PersistentVolumeClaim,
        volume: Option<&PersistentVolume>,
    ) -> Result<String, String> {
        let name = claim.name_any();
        let Some(volume) = volume else {
            return Err(format!("PersistentVolumeClaim {name} is bound to no volume"));
        };
        let Some(spec) = &volume.spec else { return Err(format!("PersistentVolume of claim {name} has no spec")) };
        if let Some(host_path) = &spec.host_path {
            return if self.uid.is_some() { folder(&host_path.path) } else { Err(self.only_beside(&name)) };
        }
        let plugin = [
            (spec.csi.is_some(), "csi"),
            (spec.local.is_some(), "local-volume"),
            (spec.nfs.is_some(), "nfs"),
            (spec.iscsi.is_some(), "iscsi"),
            (spec.fc.is_some(), "fc"),
        ];
        let Some((_, plugin)) = plugin.into_iter().find(|(is, _)| *is) else {
            return Err(format!(
                "the volume of claim {name} is of a kind of which the folder on the node is not known"
            ));
        };
        self.folder_of_pod(plugin, &volume.name_any())
    }

    fn folder_of_pod(&self, plugin: &str, name: &str) -> Result<String, String> {
        let Some(uid) = &self.uid else { return Err(self.only_beside(name)) };
        let plain = |part: &str| !part.is_empty() && !part.contains('/') && part != "." && part != "..";
        if !plain(uid) || !plain(name) {
            return Err(format!("the volume {name} of {} has no plain name", self.whose));
        }
        // A driver mounts below the folder of the volume.
        let end = if plugin == "csi" { "/mount" } else { "" };
        Ok(format!("{PODS}/{uid}/volumes/kubernetes.io~{plugin}/{name}{end}"))
    }

    fn only_beside(&self, volume: &str) -> String {
        format!("volume {volume} of {} can only be read beside a pod that runs, and none does", self.whose)
    }
}

fn folder(path: &str) -> Result<String, String> {
    if is_plain_path(path) { Ok(path.to_owned()) } else { Err(format!("{path:?} is no plain path")) }
}

/// Whether a path is absolute and leads nowhere but down.
pub(crate) fn is_plain_path(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0') && path.split('/').all(|part| part != "..")
}

/// Puts a volume where the target wants it.
pub(super) fn mount(wanted: &VolumeMount, source: Source) -> Mount {
    Mount { source, path: wanted.mount_path.clone(), sub_path: wanted.sub_path.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(volumes: Value, runs: bool) -> PodVolumes {
        PodVolumes {
            whose: "pod web-0".to_owned(),
            pod: runs.then(|| "web-0".to_owned()),
            uid: runs.then(|| "u-1".to_owned()),
            volumes: serde_json::from_value(volumes).unwrap(),
        }
    }

    fn reach(volume: Value, runs: bool) -> Result<Reach, String> {
        let mut named = volume;
        named["name"] = json!("v");
        let wanted: Vec<VolumeMount> = serde_json::from_value(json!([{"name": "v", "mountPath": "/v"}])).unwrap();
        pod(json!([named]), runs).reach(&wanted).map(|mut reach| reach.remove(0))
    }

    #[test]
    fn test_each_kind_of_volume_is_reached_or_refused_by_name() {
        let folder = |rest: &str| Ok(Reach::Folder(format!("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~{rest}")));
        let claim = |name: &str| Ok(Reach::Claim(name.to_owned()));
        for (volume, expected) in [
            (json!({"persistentVolumeClaim": {"claimName": "data"}}), claim("data")),
            (json!({"ephemeral": {"volumeClaimTemplate": {"spec": {}}}}), claim("web-0-v")),
            (json!({"emptyDir": {}}), folder("empty-dir/v")),
            (json!({"configMap": {"name": "c"}}), folder("configmap/v")),
            (json!({"secret": {"secretName": "s"}}), folder("secret/v")),
            (json!({"projected": {"sources": []}}), folder("projected/v")),
            (json!({"downwardAPI": {"items": []}}), folder("downward-api/v")),
            (json!({"csi": {"driver": "d"}}), folder("csi/v/mount")),
            (json!({"nfs": {"server": "s", "path": "/"}}), folder("nfs/v")),
            (json!({"hostPath": {"path": "/srv/data"}}), Ok(Reach::Folder("/srv/data".to_owned()))),
        ] {
            assert_eq!(reach(volume.clone(), true), expected, "{volume}");
        }
        for (volume, runs, expected) in [
            (json!({"emptyDir": {}}), false, "can only be read beside a pod that runs"),
            (json!({"hostPath": {"path": "/srv"}}), false, "can only be read beside a pod that runs"),
            (json!({"ephemeral": {}}), false, "can only be read beside a pod that runs"),
            (json!({"hostPath": {"path": "/srv/../etc"}}), true, "is no plain path"),
            (json!({"image": {"reference": "x"}}), true, "volume v of pod web-0 is of a kind that cannot be read"),
        ] {
            let error = reach(volume.clone(), runs).unwrap_err();
            assert!(error.contains(expected), "{volume}: {error}");
        }
        let none: Vec<VolumeMount> = serde_json::from_value(json!([{"name": "x", "mountPath": "/v"}])).unwrap();
        assert!(pod(json!([]), true).reach(&none).unwrap_err().contains("pod web-0 has no volume x"));
        assert_eq!(reach(json!({"persistentVolumeClaim": {"claimName": "data"}}), false), claim("data"));
    }

    #[test]
    fn test_claims_lie_where_kubelet_mounts_them() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "data"}})).unwrap();
        let of = |spec: Value, runs: bool| {
            let volume = serde_json::from_value(json!({"metadata": {"name": "pv-1"}, "spec": spec})).unwrap();
            pod(json!([]), runs).folder_of_claim(&claim, Some(&volume))
        };
        let base = "/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~";
        let csi = json!({"csi": {"driver": "d", "volumeHandle": "h"}});
        assert_eq!(of(csi.clone(), true), Ok(format!("{base}csi/pv-1/mount")));
        assert_eq!(of(json!({"local": {"path": "/x"}}), true), Ok(format!("{base}local-volume/pv-1")));
        assert_eq!(of(json!({"hostPath": {"path": "/srv"}}), true), Ok("/srv".to_owned()));
        assert!(of(json!({"hostPath": {"path": "/srv"}}), false).unwrap_err().contains("none does"));
        assert!(of(csi, false).unwrap_err().contains("none does"));
        assert!(of(json!({}), true).unwrap_err().contains("is not known"));
        assert!(pod(json!([]), true).folder_of_claim(&claim, None).unwrap_err().contains("bound to no volume"));
    }

    #[test]
    fn test_plain_paths() {
        for (path, expected) in
            [("/", true), ("/a/b", true), ("/a..b", true), ("/a/../b", false), ("a", false), ("", false)]
        {
            assert_eq!(is_plain_path(path), expected, "{path}");
        }
    }
}
