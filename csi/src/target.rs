//! Where a volume is mounted: below kubelet's directory and nowhere else.
//!
//! This judges the text. That no symbolic link leads elsewhere is up to who mounts: the node daemon's keeper opens each part of the path
//! without following links.

use std::path::Path;

/// The longest path of Linux.
const PATH_LIMIT: usize = 4096;

/// Why a path is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// There is none.
    #[error("{0} is needed")]
    Missing(&'static str),
    /// It leads elsewhere.
    #[error("the path {path:?} is not below kubelet's directory {kubelet}, written without . and ..")]
    Outside {
        /// The path.
        path: String,
        /// Kubelet's directory.
        kubelet: String,
    },
}

/// A path relative to kubelet's directory, of plain parts: no `.`, no `..`, none empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetPath(String);

/// A volume of a pod, as kubelet's directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodVolume<'a> {
    /// The pod's uid.
    pub uid: &'a str,
    /// The volume: its name in the pod, or the name of its PersistentVolume.
    pub volume: &'a str,
    /// The folder below it, as a rule `mount`.
    pub leaf: &'a str,
}

impl TargetPath {
    /// Reads the path of a request; `kubelet` is kubelet's directory.
    ///
    /// # Errors
    ///
    /// It is empty, or not below kubelet's directory.
    pub fn parse(path: &str, kubelet: &Path) -> Result<Self, TargetError> {
        if path.is_empty() {
            return Err(TargetError::Missing("target_path"));
        }
        let outside =
            || TargetError::Outside { path: path.chars().take(200).collect(), kubelet: kubelet.display().to_string() };
        let base = kubelet.to_str().map(|base| base.trim_end_matches('/')).ok_or_else(outside)?;
        let relative = path.strip_prefix(base).and_then(|rest| rest.strip_prefix('/')).ok_or_else(outside)?;
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0') && part.len() <= 255;
        if path.len() > PATH_LIMIT || !relative.split('/').all(plain) {
            return Err(outside());
        }
        Ok(Self(relative.to_owned()))
    }

    /// Returns it as text, relative to kubelet's directory.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whose volume it is: `pods/<uid>/volumes/kubernetes.io~csi/<volume>/<leaf>`. Nothing else is kubelet's.
    pub fn pod_volume(&self) -> Option<PodVolume<'_>> {
        let parts: Vec<&str> = self.0.split('/').collect();
        match parts[..] {
            ["pods", uid, "volumes", "kubernetes.io~csi", volume, leaf] => Some(PodVolume { uid, volume, leaf }),
            _ => None,
        }
    }
}

impl std::fmt::Display for TargetPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn test_only_what_lies_below_kubelets_directory() {
        let kubelet = Path::new("/var/lib/kubelet");
        let pod = "pods/1-2/volumes/kubernetes.io~csi/data/mount";
        let read = TargetPath::parse(&format!("/var/lib/kubelet/{pod}"), kubelet).unwrap();
        assert_eq!(read.as_str(), pod);
        assert_eq!(read.pod_volume(), Some(PodVolume { uid: "1-2", volume: "data", leaf: "mount" }));
        assert_eq!(TargetPath::parse(&format!("/var/lib/kubelet/{pod}"), Path::new("/var/lib/kubelet/")), Ok(read));
        assert_eq!(TargetPath::parse("", kubelet), Err(TargetError::Missing("target_path")));
        for path in [
            "/",
            "/var/lib/kubelet",
            "/var/lib/kubelet/",
            "/var/lib/kubelet2/a",
            "/var/lib/kubelet/../a",
            "/var/lib/kubelet/a/../../b",
            "/var/lib/kubelet/./a",
            "/var/lib/kubelet//a",
            "/var/lib/kubelet/a/",
            "/var/lib/kubelet/a\0b",
            "/var//lib/kubelet/a",
            "/var/lib/../lib/kubelet/a",
            "/etc/passwd",
            "pods/1/a",
            "var/lib/kubelet/a",
        ] {
            assert!(matches!(TargetPath::parse(path, kubelet), Err(TargetError::Outside { .. })), "{path}");
        }
        for path in ["pods/1", "pods/1/volumes/kubernetes.io~csi/a", "plugins/x/volumes/kubernetes.io~csi/a/mount"] {
            let read = TargetPath::parse(&format!("/var/lib/kubelet/{path}"), kubelet).unwrap();
            assert_eq!(read.pod_volume(), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn test_what_is_taken_leads_below(path in "(/var/lib/kubelet)?(/[a.\0]{0,3}){0,6}/?") {
            if let Ok(read) = TargetPath::parse(&path, Path::new("/var/lib/kubelet")) {
                let mut depth = 0i32;
                for part in read.as_str().split('/') {
                    depth += match part { ".." => -1, "." | "" => 0, _ => 1 };
                    prop_assert!(depth > 0);
                }
                prop_assert_eq!(format!("/var/lib/kubelet/{read}"), path);
            }
        }
    }
}
