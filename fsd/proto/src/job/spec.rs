//! What a Job is told to do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::VERSION;
use super::args;
use super::restore::RestoreTask;

/// More than any spec: the file comes from a ConfigMap or Secret, which Kubernetes limits to this.
const SPEC_LIMIT_BYTES: usize = 1 << 20;

/// The most snapshots that one Job forgets by their ids: with them a spec fits into a Secret.
pub const FORGET_LIMIT: usize = 1000;

/// What a Job is told to do. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JobSpec {
    /// [`VERSION`].
    pub version: u32,
    /// The repository to work on. None is named where all that is restored is mounted in the Job.
    #[serde(default, skip_serializing_if = "is_default")]
    pub repository: RepositoryAccess,
    /// Hosts (names of pods) whose processes are known to be dead: locks that they left are removed first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead_hosts: Vec<String>,
    /// The work.
    pub task: JobTask,
}

/// Where a repository is and how it is reached. Credentials and the password come from the Secret ([`super::secret`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RepositoryAccess {
    /// In restic's syntax, without credentials: `s3:http://host/bucket/prefix`, `gs:bucket:/prefix`, `rest:URL`, or a path.
    pub address: String,
    /// restic's `-o`: `s3.connections`, `gs.connections`, ...
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Trust any certificate.
    #[serde(default, skip_serializing_if = "is_false")]
    pub insecure_tls: bool,
    /// Settings by restic's variables that are no secrets, as `AWS_DEFAULT_REGION`. They go before keys of the Secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// The work of a Job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JobTask {
    /// Back up the paths of one host.
    Backup(BackupTask),
    /// Look after the repository.
    Maintain(MaintainTask),
    /// Restore one host.
    Restore(RestoreTask),
}

/// A backup of one host: one snapshot for each path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackupTask {
    /// The snapshots' host.
    pub host: String,
    /// Absolute paths, as the snapshots have them.
    pub paths: Vec<String>,
    /// restic's patterns of what is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// restic's flags of `backup` as the user wrote them; see [`args::parse`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Tags of the snapshots, beside those of `args`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Make the repository if there is none.
    #[serde(default, skip_serializing_if = "is_false")]
    pub initialize: bool,
    /// How much of the processors others get first: -20 to 19.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,
    /// How much of the disks others get first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ionice: Option<IoNice>,
    /// Whether caches may lie on the Job's disk.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cache: bool,
    /// Where the workload's file system is put together in the Job's: a path `/data` of the snapshot lies at
    /// `<root>/data`. Links in it lead where they lead in the workload, never out of it. `None`: the paths lie where they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// ionice's class and its data (ionice(1)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IoNice {
    /// 0 none, 1 realtime, 2 best-effort, 3 idle.
    pub class: i32,
    /// Within classes 1 and 2: 0, the first, to 7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_data: Option<i32>,
}

/// What is done with a repository after backups, in this order. A step that fails stops none that comes after it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MaintainTask {
    /// Make the repository if there is none.
    #[serde(default, skip_serializing_if = "is_false")]
    pub initialize: bool,
    /// Remove these snapshots (64 hexadecimal digits each, at most [`FORGET_LIMIT`]), and then data that is not needed any
    /// more. One that is not there is no error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forget_snapshots: Vec<String>,
    /// Remove snapshots by a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forget: Option<Retention>,
    /// Check the repository's structure.
    #[serde(default, skip_serializing_if = "is_false")]
    pub check: bool,
    /// Count what the repository holds.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stats: bool,
    /// Remove the repository as a whole, and nothing else that lies there. Nothing else can be asked for then. What a Job that was
    /// stopped left is removed by the next.
    #[serde(default, skip_serializing_if = "is_false")]
    pub wipe_out: bool,
}

/// Stash's RetentionPolicy. It is applied to the snapshots of each host and paths by themselves; 0 is no rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Retention {
    /// The last N.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keep_last: u32,
    /// The last of each of N hours.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keep_hourly: u32,
    /// The last of each of N days.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keep_daily: u32,
    /// The last of each of N weeks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keep_weekly: u32,
    /// The last of each of N months.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keep_monthly: u32,
    /// The last of each of N years.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keep_yearly: u32,
    /// All that have the tags of one of these lists (`a,b`: both).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_tags: Vec<String>,
    /// Remove data that is not needed any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub prune: bool,
    /// Remove nothing, only count.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
pub(super) fn is_false(value: &bool) -> bool {
    !value
}

fn is_default(repository: &RepositoryAccess) -> bool {
    *repository == RepositoryAccess::default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Why a spec is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The file is no spec.
    #[error("the job's spec cannot be read: {0}")]
    Format(String),
    /// It is of another release.
    #[error("the job's spec is of version {found}, and this program knows version {known}", known = VERSION)]
    Version {
        /// What it says.
        found: u64,
    },
    /// A field does not say what it may.
    #[error("{field}: {rule}")]
    Field {
        /// Which, as `task.backup.paths`.
        field: &'static str,
        /// What it must be.
        rule: String,
    },
    /// The user's flags.
    #[error(transparent)]
    Args(#[from] args::ArgsError),
}

impl JobSpec {
    /// Reads a spec and checks it.
    ///
    /// # Errors
    /// See [`SpecError`].
    pub fn parse(json: &[u8]) -> Result<Self, SpecError> {
        if json.len() > SPEC_LIMIT_BYTES {
            return Err(SpecError::Format(format!("it is longer than {SPEC_LIMIT_BYTES} bytes")));
        }
        // The version first: of another one nothing else needs to be as it is here.
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let format = |error: serde_json::Error| SpecError::Format(error.to_string());
        let Versioned { version } = serde_json::from_slice(json).map_err(format)?;
        if version != u64::from(VERSION) {
            return Err(SpecError::Version { found: version });
        }
        let spec: Self = serde_json::from_slice(json).map_err(format)?;
        spec.check()?;
        Ok(spec)
    }

    /// Returns whether the work needs the repository, and with it the Secret.
    #[must_use]
    pub fn opens_repository(&self) -> bool {
        !matches!(&self.task, JobTask::Restore(task) if task.is_mounted())
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// `Field` or `Args`.
    pub fn check(&self) -> Result<(), SpecError> {
        match (self.opens_repository(), self.repository.address.is_empty()) {
            (true, true) => return Err(field("repository.address", "it is empty")),
            (false, false) => return Err(field("repository.address", "what is restored is mounted: none is opened")),
            _ => {}
        }
        match &self.task {
            JobTask::Backup(task) => task.check(),
            JobTask::Maintain(task) => task.check(),
            JobTask::Restore(task) => task.check(),
        }
    }
}

impl MaintainTask {
    fn check(&self) -> Result<(), SpecError> {
        if self.wipe_out && *self != (Self { wipe_out: true, ..Self::default() }) {
            return Err(field("task.maintain.wipeOut", "nothing else can be done with a repository that is removed"));
        }
        let place = "task.maintain.forgetSnapshots";
        if self.forget_snapshots.len() > FORGET_LIMIT {
            return Err(field(place, &format!("a Job forgets {FORGET_LIMIT} snapshots at most")));
        }
        let is_id = |text: &&String| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match self.forget_snapshots.iter().find(|text| !is_id(text)) {
            Some(text) => Err(field(place, &format!("`{text:.80}` is no id of 64 hexadecimal digits"))),
            None => Ok(()),
        }
    }
}

impl BackupTask {
    fn check(&self) -> Result<(), SpecError> {
        if self.host.is_empty() || self.host.contains('\0') {
            return Err(field("task.backup.host", "a snapshot needs a host"));
        }
        if self.paths.is_empty() {
            return Err(field("task.backup.paths", "there is nothing to back up"));
        }
        if let Some(path) = self.paths.iter().find(|path| !path.starts_with('/') || path.contains('\0')) {
            return Err(field("task.backup.paths", &format!("`{path}` is not an absolute path")));
        }
        if self.root.as_ref().is_some_and(|root| !root.starts_with('/') || root.contains('\0')) {
            return Err(field("task.backup.root", "it is not an absolute path"));
        }
        let fields = ["task.backup.nice", "task.backup.ionice.class", "task.backup.ionice.classData"];
        check_priority(fields, self.nice, self.ionice)?;
        args::parse(&self.args)?;
        Ok(())
    }
}

/// Checks niceness; `fields` are the names of its three fields.
pub(super) fn check_priority(
    fields: [&'static str; 3],
    nice: Option<i32>,
    ionice: Option<IoNice>,
) -> Result<(), SpecError> {
    if nice.is_some_and(|nice| !(-20..=19).contains(&nice)) {
        return Err(field(fields[0], "-20 to 19 are niceness"));
    }
    if let Some(ionice) = ionice {
        if !(0..=3).contains(&ionice.class) {
            return Err(field(fields[1], "0 to 3 are classes"));
        }
        if ionice.class_data.is_some_and(|data| !(0..=7).contains(&data)) {
            return Err(field(fields[2], "0 to 7 are a class's data"));
        }
    }
    Ok(())
}

pub(super) fn field(field: &'static str, rule: &str) -> SpecError {
    SpecError::Field { field, rule: rule.to_owned() }
}

#[cfg(test)]
mod tests;
