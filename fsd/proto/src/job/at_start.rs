//! A restore before a workload's containers start: an init container of its pods does what a Job does for other targets.
//!
//! All pods of a workload are made alike, so the orders hold what is to be done for each host, and the container finds its own. They are
//! an annotation of the RestoreSession, where the CSI driver learns which snapshot a pod gets to see, and one of the pods, where the
//! container reads them as a file. Where nothing is to be restored (any more), the driver shows an [`Instead`] in place of a snapshot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::spec::{JobSpec, JobTask, SpecError, field};
use super::{RestoreSource, VERSION};

/// Annotation of RestoreSessions and of pods: the orders, as JSON.
pub const AT_START_ANNOTATION: &str = "fs.stash.appscode.com/restore-at-start";
/// The init container.
pub const INIT_CONTAINER: &str = "stash-fs-init";
/// The file that lies in a volume in place of a snapshot.
pub const INSTEAD_FILE: &str = "stash-fs-instead.json";
/// More than any orders: Kubernetes limits what all annotations of an object hold to 256 KiB
/// (`apimachinery/pkg/api/validation/objectmeta.go`, `TotalAnnotationSizeLimitB`), and others have some as well.
pub const AT_START_LIMIT_BYTES: usize = 192 << 10;

/// Who is restored when his containers start, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AtStart {
    /// [`VERSION`].
    pub version: u32,
    /// The uid of the RestoreSession.
    pub session: String,
    /// How a pod finds its host.
    pub by: HostKey,
    /// When the time for it is over, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<i64>,
    /// The hosts, by key. None: all are restored by Jobs.
    pub hosts: BTreeMap<String, HostAtStart>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HostAtStart {
    /// Its name.
    pub host: String,
    /// The uid of the pod that restores it, once one was chosen. Others of the same host wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// What is to be done, from snapshots that are mounted.
    pub spec: JobSpec,
}

/// How a pod finds its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKey {
    /// There is one.
    One,
    /// By the number at the end of its name.
    Ordinal,
    /// By its node.
    Node,
}

/// The key where there is one host.
const ONE: &str = "one";

impl HostKey {
    /// Returns the key of the host that a pod is.
    #[must_use]
    pub fn of<'a>(self, pod: &'a str, node: &'a str) -> &'a str {
        match self {
            Self::One => ONE,
            Self::Ordinal => pod.rsplit('-').next().unwrap_or_default(),
            Self::Node => node,
        }
    }
}

/// What a volume shows in place of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instead {
    /// The host was restored, or is none that is restored, or the session is gone: there is nothing to do.
    Nothing,
    /// The host could not be restored, so that nothing may start: why.
    Failed(String),
}

impl AtStart {
    /// Reads orders and checks them.
    ///
    /// # Errors
    /// As of [`JobSpec::parse`].
    pub fn parse(json: &str) -> Result<Self, SpecError> {
        let orders: Self = serde_json::from_str(json).map_err(|error| SpecError::Format(error.to_string()))?;
        if orders.version != VERSION {
            return Err(SpecError::Version { found: orders.version.into() });
        }
        for host in orders.hosts.values() {
            host.spec.check()?;
            if host.spec.opens_repository() {
                return Err(field("hosts.spec.task", "at the start only what is mounted is restored"));
            }
        }
        Ok(orders)
    }
}

impl HostAtStart {
    /// Returns the snapshots that are mounted, by where.
    #[must_use]
    pub fn shown(&self) -> BTreeMap<&str, &str> {
        let JobTask::Restore(task) = &self.spec.task else { return BTreeMap::new() };
        let shown = task.sources.iter().filter_map(|source| match source {
            RestoreSource::Mounted { snapshot, root, .. } => Some((root.as_str(), snapshot.as_str())),
            RestoreSource::Snapshot(_) | RestoreSource::Latest { .. } => None,
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn orders(more: Value) -> Value {
        let source =
            |id: &str, root: &str| json!({"mounted": {"snapshot": id.repeat(32), "root": root, "paths": ["/data"]}});
        let restore =
            json!({"sources": [source("0a", "/snapshot/0"), source("0b", "/snapshot/1")], "mounts": ["/data"]});
        let mut orders = json!({"version": 1, "session": "u", "by": "ordinal", "hosts": {
            "0": {"host": "host-0", "spec": {"version": 1, "task": {"restore": restore}}}
        }});
        for (key, value) in more.as_object().unwrap() {
            orders[key] = value.clone();
        }
        orders
    }

    #[test]
    fn test_orders_are_read_as_they_are_written() {
        let text = orders(json!({"deadline": 5})).to_string();
        let read = AtStart::parse(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap().parse::<Value>().unwrap(), text.parse::<Value>().unwrap());
        let (first, second) = ("0a".repeat(32), "0b".repeat(32));
        let shown = [("/snapshot/0", first.as_str()), ("/snapshot/1", second.as_str())];
        assert_eq!(read.hosts["0"].shown(), shown.into());
        for (more, expected) in [
            (json!({"version": 2}), "of version 2"),
            (json!({"by": "name"}), "unknown variant"),
            (
                json!({"hosts": {"0": {"host": "a", "spec": {"version": 1, "task": {"maintain": {}}}}}}),
                "repository.address",
            ),
            (
                json!({"hosts": {"0": {"host": "a", "spec": {"version": 1, "repository": {"address": "/r"}, "task": {"maintain": {}}}}}}),
                "hosts.spec.task",
            ),
        ] {
            let error = AtStart::parse(&orders(more.clone()).to_string()).unwrap_err().to_string();
            assert!(error.contains(expected), "{more}: {error}");
        }
        assert!(AtStart::parse("").is_err());
    }

    #[test]
    fn test_a_pod_finds_its_host() {
        for (by, pod, expected) in [
            (HostKey::One, "web-5d4f-xyz", "one"),
            (HostKey::Ordinal, "db-2-11", "11"),
            (HostKey::Ordinal, "db", "db"),
            (HostKey::Node, "logs-abc", "node-1"),
        ] {
            assert_eq!(by.of(pod, "node-1"), expected);
        }
    }
}
