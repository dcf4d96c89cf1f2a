//! What a Job that restores is told.

use serde::{Deserialize, Serialize};

use super::args;
use super::spec::{IoNice, SpecError, check_priority, field, is_false};

/// The most sources of one Job: as many as a rule of the API names.
const SOURCE_LIMIT: usize = 1024;
/// More than any id or name of an object.
const SNAPSHOT_LIMIT_BYTES: usize = 253;

/// What a container needs to be allowed for a restore: to give files to whom they belong, with all that is known of them. No more than what
/// Pod Security calls the baseline.
pub const RESTORE_CAPABILITIES: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"];

/// A restore of one host into the volumes that the Job mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RestoreTask {
    /// The snapshots, in the order in which they are restored.
    pub sources: Vec<RestoreSource>,
    /// restic's patterns of what is restored, matched against the paths that the snapshots have. Not beside `exclude`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// restic's patterns of what is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// restic's flags of `restore` as the user wrote them; see [`args::parse_restore`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Where the workload has its volumes, absolute. What a snapshot has at other paths is restored to nowhere.
    pub mounts: Vec<String>,
    /// Where these lie in the Job: the volume of `/data` at `<root>/data`. `None`: where they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// How much of the processors others get first: -20 to 19.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,
    /// How much of the disks others get first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ionice: Option<IoNice>,
    /// Whether caches may lie on the Job's disk.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cache: bool,
}

/// A snapshot, by its name or by what it is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum RestoreSource {
    /// An id, the beginning of one, or `latest`: the last of all hosts, as restic means it.
    Snapshot(String),
    /// The last of a host that was taken of a path.
    #[serde(rename_all = "camelCase")]
    Latest {
        /// The host.
        host: String,
        /// The path, as the backup named it.
        path: String,
    },
    /// One that the Job mounts, so that no repository is opened. All sources of a task are of this kind, or none is.
    #[serde(rename_all = "camelCase")]
    Mounted {
        /// Its id or its name, for the log and the report.
        snapshot: String,
        /// Where its tree, or a folder of it, is mounted in the Job. It is only read.
        root: String,
        /// What is restored of it, absolute, as it has them: `/data` lies at `<root>/data`; `/` is all.
        paths: Vec<String>,
    },
}

impl RestoreSource {
    fn is_mounted(&self) -> bool {
        matches!(self, Self::Mounted { .. })
    }
}

impl RestoreTask {
    /// Returns whether all is read from what the Job mounts: no repository is opened, and there is no Secret.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        !self.sources.is_empty() && self.sources.iter().all(RestoreSource::is_mounted)
    }

    pub(super) fn check(&self) -> Result<(), SpecError> {
        if self.sources.is_empty() || self.sources.len() > SOURCE_LIMIT {
            return Err(field("task.restore.sources", &format!("a restore is of 1 to {SOURCE_LIMIT} snapshots")));
        }
        for source in &self.sources {
            match source {
                RestoreSource::Snapshot(name) if is_name(name) => {}
                RestoreSource::Snapshot(name) => {
                    let rule = format!("`{name:.80}` is no id of a snapshot, and not `latest`");
                    return Err(field("task.restore.sources", &rule));
                }
                RestoreSource::Mounted { snapshot, root, paths } => check_mounted(snapshot, root, paths)?,
                RestoreSource::Latest { host, path } if !host.is_empty() && is_path(path) => {}
                RestoreSource::Latest { path, .. } => {
                    let rule = format!("the latest snapshot has a host and an absolute path, not `{path:.80}`");
                    return Err(field("task.restore.sources", &rule));
                }
            }
        }
        if self.sources.iter().any(RestoreSource::is_mounted) && !self.is_mounted() {
            return Err(field("task.restore.sources", "some are mounted and some are not: one task has one kind"));
        }
        if self.mounts.is_empty() {
            return Err(field("task.restore.mounts", "there is no volume to restore into"));
        }
        // Whatever a mount says, it must not lead out of the root.
        if let Some(path) = self.mounts.iter().find(|path| !is_path_below(path)) {
            return Err(field("task.restore.mounts", &format!("`{path:.80}` is not an absolute path without ..")));
        }
        if self.root.as_ref().is_some_and(|root| !is_path(root)) {
            return Err(field("task.restore.root", "it is not an absolute path"));
        }
        let fields = ["task.restore.nice", "task.restore.ionice.class", "task.restore.ionice.classData"];
        check_priority(fields, self.nice, self.ionice)?;
        let flags = args::parse_restore(&self.args)?;
        let includes = [&self.include, &flags.include, &flags.iinclude].iter().any(|patterns| !patterns.is_empty());
        let excludes = [&self.exclude, &flags.exclude, &flags.iexclude].iter().any(|patterns| !patterns.is_empty());
        if includes && excludes {
            return Err(field("task.restore.include", "include and exclude exclude each other, as in restic"));
        }
        // What is mounted was chosen by whoever mounted it: tags that choose otherwise would go unheard.
        if self.is_mounted() && !flags.tags.is_empty() {
            return Err(field("task.restore.args", "--tag chooses nothing of snapshots that are mounted"));
        }
        Ok(())
    }
}

/// Whether a name may be one of a snapshot. restic's names have four digits at least.
fn is_name(name: &str) -> bool {
    name == "latest" || ((4..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0')
}

/// Whether a path stays below what it is appended to.
fn is_path_below(path: &str) -> bool {
    is_path(path) && path.split('/').all(|name| name != "..")
}

fn check_mounted(snapshot: &str, root: &str, paths: &[String]) -> Result<(), SpecError> {
    let wrong = |rule: String| Err(field("task.restore.sources", &rule));
    if snapshot.is_empty() || snapshot.len() > SNAPSHOT_LIMIT_BYTES || snapshot.chars().any(char::is_control) {
        return wrong(format!("a mounted snapshot has a name of 1 to {SNAPSHOT_LIMIT_BYTES} bytes"));
    }
    if !is_path_below(root) {
        return wrong(format!("a snapshot is mounted at an absolute path without .., not at `{root:.80}`"));
    }
    if paths.is_empty() {
        return wrong("nothing is restored of a mounted snapshot: it has no paths".to_owned());
    }
    match paths.iter().find(|path| !is_path_below(path)) {
        Some(path) => wrong(format!("`{path:.80}` of a mounted snapshot is not an absolute path without ..")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(more: Value) -> Result<(), String> {
        let mut task = json!({"sources": [{"latest": {"host": "host-0", "path": "/data"}}], "mounts": ["/data"]});
        for (key, value) in more.as_object().unwrap() {
            task[key] = value.clone();
        }
        let task: RestoreTask = serde_json::from_value(task).unwrap();
        task.check().map_err(|error| error.to_string())
    }

    #[test]
    fn test_what_is_mounted_is_named_by_root_and_paths() {
        let whole = json!({"mounted": {"snapshot": "0a".repeat(32), "root": "/snapshot", "paths": ["/"]}});
        let with = |key: &str, value: Value| {
            let mut source = whole.clone();
            source["mounted"][key] = value;
            source
        };
        for (sources, args, expected) in [
            (json!([whole]), json!(["--delete"]), ""),
            (json!([with("snapshot", json!("repo-0a1b2c3d"))]), json!([]), ""),
            (json!([with("paths", json!(["/data", "/logs/x"])), whole]), json!([]), ""),
            (json!([with("snapshot", json!(""))]), json!([]), "task.restore.sources: a mounted snapshot has a name"),
            (
                json!([with("snapshot", json!("a\nb"))]),
                json!([]),
                "task.restore.sources: a mounted snapshot has a name",
            ),
            (json!([with("root", json!("snapshot"))]), json!([]), "task.restore.sources: a snapshot is mounted at"),
            (json!([with("root", json!("/a/.."))]), json!([]), "task.restore.sources: a snapshot is mounted at"),
            (json!([with("paths", json!([]))]), json!([]), "task.restore.sources: nothing is restored"),
            (json!([with("paths", json!(["/a", "/../b"]))]), json!([]), "task.restore.sources: `/../b` of a mounted"),
            (json!([with("paths", json!(["b"]))]), json!([]), "task.restore.sources: `b` of a mounted"),
            (json!([whole, {"snapshot": "latest"}]), json!([]), "task.restore.sources: some are mounted"),
            (json!([whole]), json!(["--tag=a"]), "task.restore.args: --tag chooses nothing"),
        ] {
            match checked(json!({"sources": sources, "args": args})) {
                Ok(()) => assert_eq!(expected, "", "{sources}"),
                Err(error) => assert!(!expected.is_empty() && error.starts_with(expected), "{sources}: {error}"),
            }
        }
    }

    #[test]
    fn test_what_cannot_be_restored_is_refused_by_field() {
        for (more, expected) in [
            (json!({}), ""),
            (json!({"sources": [{"snapshot": "latest"}, {"snapshot": "0a1b2c3d"}]}), ""),
            (json!({"include": ["*.db"], "root": "/workload", "args": ["--sparse"]}), ""),
            (json!({"sources": []}), "task.restore.sources: a restore is of"),
            (json!({"sources": [{"snapshot": "latest~1"}]}), "task.restore.sources: `latest~1` is no id"),
            (json!({"sources": [{"latest": {"host": "", "path": "/a"}}]}), "task.restore.sources: the latest"),
            (json!({"sources": [{"latest": {"host": "a", "path": "a"}}]}), "task.restore.sources: the latest"),
            (json!({"mounts": []}), "task.restore.mounts: there is no volume"),
            (json!({"mounts": ["/a/../b"]}), "task.restore.mounts: `/a/../b` is not"),
            (json!({"root": "w"}), "task.restore.root"),
            (json!({"nice": 20}), "task.restore.nice"),
            (json!({"args": ["--target=/"]}), "--target: "),
            (json!({"include": ["a"], "exclude": ["b"]}), "task.restore.include: include and exclude"),
            (json!({"include": ["a"], "args": ["--iexclude=b"]}), "task.restore.include: include and exclude"),
        ] {
            match checked(more.clone()) {
                Ok(()) => assert_eq!(expected, "", "{more}"),
                Err(error) => assert!(!expected.is_empty() && error.starts_with(expected), "{more}: {error}"),
            }
        }
    }
}
