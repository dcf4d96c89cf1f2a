//! What a Job reports.

use serde::{Deserialize, Serialize};

use super::VERSION;
use super::fit::fit;

/// What a Job did. Reading it takes fields for granted that are not there, and leaves out those that are not known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JobReport {
    /// [`VERSION`].
    pub version: u32,
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// When it ended, RFC 3339 in UTC.
    pub finished: String,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
    /// Why it is no success; `None`: it is one. Of maintenance this is the first step that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// What was done, also before an error.
    pub outcome: Outcome,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Nothing: the work never began.
    #[default]
    Nothing,
    /// Of a backup.
    Backup(BackupOutcome),
    /// Of maintenance.
    Maintain(MaintainOutcome),
    /// Of a restore.
    Restore(RestoreOutcome),
}

/// Why a Job, or a step of it, failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JobError {
    /// For programs.
    pub code: ErrorCode,
    /// For people. Holds no secret and nothing of what a server answered.
    pub message: String,
}

/// What went wrong, as a stable word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The spec cannot be read, is of another version, or breaks a rule.
    BadSpec,
    /// A flag of `args` or a pattern is refused; the message names it.
    BadArguments,
    /// The repository's address, an option or a credential is malformed or missing.
    BadAddress,
    /// The Secret lacks a key, or a key holds what it cannot.
    BadSecret,
    /// The password opens no key of the repository.
    WrongPassword,
    /// There is no repository, and making one was not asked for.
    NoRepository,
    /// The store refuses the credentials or the operation.
    Denied,
    /// The store gave no answer in time.
    Unreachable,
    /// The store has no room left.
    Full,
    /// Somebody's lock is in the way.
    Locked,
    /// The repository is damaged, or of a kind that is not known.
    Damaged,
    /// A path to back up is not there.
    SourceMissing,
    /// The work was asked to stop (SIGTERM).
    Disrupted,
    /// A snapshot was made, but entries of it could not be read.
    PartlyRead,
    /// No snapshot is what was asked for.
    NoSnapshot,
    /// What a snapshot holds belongs to no volume of the target.
    NoTarget,
    /// Something was restored, but entries of it were not.
    PartlyRestored,
    /// A restore into a volume of the target has begun and has not ended well.
    NotWhole,
    /// The time for the session was over.
    DeadlineExceeded,
    /// Another failure; the message says which.
    #[default]
    Internal,
    /// A code of a later release.
    #[serde(other)]
    Unknown,
}

/// What a backup did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BackupOutcome {
    /// The repository was made.
    pub initialized: bool,
    /// The snapshots, in the order of the paths; those after an error are not there.
    pub snapshots: Vec<SnapshotReport>,
    /// How many more snapshots were made, for which the report has no room.
    #[serde(skip_serializing_if = "is_zero")]
    pub omitted_snapshots: u64,
    /// What could not be read.
    pub unreadable: Unreadable,
}

/// One snapshot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SnapshotReport {
    /// The whole id; empty where nothing had changed and `--skip-if-unchanged` was given.
    pub id: String,
    /// The path, as the spec has it.
    pub path: String,
    /// The bytes of all its files.
    pub total_bytes: u64,
    /// The bytes that were written to the store.
    pub uploaded_bytes: u64,
    /// How long it took, in seconds.
    pub processing_seconds: f64,
    /// Its files.
    pub files: FileCounts,
}

/// The files of a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FileCounts {
    /// All.
    pub total: u64,
    /// Those that the parent does not have.
    pub new: u64,
    /// Those that changed since the parent.
    pub modified: u64,
    /// Those that are as in the parent.
    pub unmodified: u64,
}

/// Entries that are in no snapshot, because they could not be read, or that were not restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Unreadable {
    /// How many.
    pub count: u64,
    /// The first few, each with what was being done and what the system said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// What a restore did. Entries of all kinds are files here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RestoreOutcome {
    /// The ids of the snapshots that were restored, also of one that was begun.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<String>,
    /// How many more, for which the report has no room.
    #[serde(skip_serializing_if = "is_zero")]
    pub omitted_snapshots: u64,
    /// Entries that were written.
    pub restored: u64,
    /// Entries that were left: they were the same, or `--overwrite` keeps them.
    pub unchanged: u64,
    /// Entries that `--delete` removed.
    pub deleted: u64,
    /// Bytes of content that were written.
    pub restored_bytes: u64,
    /// Bytes of content that were left.
    pub unchanged_bytes: u64,
    /// What was not restored.
    pub failed: Unreadable,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step<T> {
    /// It was done.
    Done(T),
    /// It failed.
    Failed(JobError),
}

/// What maintenance did. A step that was not asked for, or not come to, is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MaintainOutcome {
    /// The repository was made.
    pub initialized: bool,
    /// The snapshots that were named were removed: `removed` counts those that are gone now and were there, `kept` those that
    /// may not be removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forget_snapshots: Option<Step<Forgotten>>,
    /// Snapshots were removed by the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forget: Option<Step<Forgotten>>,
    /// Data that is not needed any more was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prune: Option<Step<Pruned>>,
    /// The repository was checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Step<Checked>>,
    /// The repository was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<Step<Stats>>,
    /// The repository was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wipe_out: Option<Step<Wiped>>,
}

/// What became of a repository that was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Wiped {
    /// How many files were removed beside the config; a Job that goes on counts its own.
    pub removed: u64,
}

/// What a policy did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Forgotten {
    /// Snapshots that stay.
    pub kept: u64,
    /// Snapshots that went; under `dryRun` those that would.
    pub removed: u64,
}

/// What prune did; under `dryRun` what it would.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Pruned {
    /// Packs that were removed.
    pub removed_packs: u64,
    /// Packs that are marked, and removed by a later run: nobody who reads now is disturbed.
    pub marked_packs: u64,
    /// The bytes of blobs that are not in the index any more.
    pub removed_bytes: u64,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Checked {
    /// No damage was found.
    pub integrity: bool,
    /// How many problems were found.
    pub problems: u64,
    /// The first few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<String>,
}

/// What a repository holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Stats {
    /// The bytes of all blobs that snapshots need, as they are stored (restic's `raw-data`).
    pub total_bytes: u64,
    /// How many snapshots there are.
    pub snapshots: u64,
    /// The time of the oldest, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_snapshot: Option<String>,
    /// The time of the newest, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_snapshot: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl JobError {
    /// Makes one.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl JobReport {
    /// Makes the report of work that began and ended at these times.
    #[must_use]
    pub fn new(started: String, finished: String, duration_seconds: f64) -> Self {
        Self { version: VERSION, started, finished, duration_seconds, error: None, outcome: Outcome::Nothing }
    }

    /// Reads a termination message.
    ///
    /// # Errors
    /// It is no report: the container died before it wrote one, and something else did.
    pub fn parse(message: &str) -> Result<Self, serde_json::Error> {
        // A list would be read as the fields in their order.
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(message)?;
        serde_json::from_value(object.into())
    }

    /// Writes it as a termination message of at most [`super::REPORT_LIMIT_BYTES`]. What does not fit is cut to counts:
    /// long texts first, then the names of what could not be read, then the last snapshots.
    #[must_use]
    pub fn to_message(&self) -> String {
        fit(self)
    }
}

#[cfg(test)]
mod tests;
