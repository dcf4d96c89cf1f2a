//! What a Kubernetes Job of ours is told to do ([`JobSpec`]), and what it reports ([`JobReport`]).
//!
//! A Job has no rights at the API server. It gets its spec as a file, the Repository's Secret as a directory of files
//! ([`secret`]), and leaves its report as the container's termination message. The spec holds no secret. Both sides are of
//! one release as a rule; where they are not, the spec is refused by its version and the report is read tolerantly.

pub mod args;
pub mod secret;

mod at_start;
mod fit;
mod progress;
mod report;
mod restore;
mod spec;

pub use at_start::{
    AT_START_ANNOTATION, AT_START_LIMIT_BYTES, AtStart, HostAtStart, HostKey, INIT_CONTAINER, INSTEAD_FILE, Instead,
};
pub use progress::{PROGRESS_LIMIT_BYTES, PROGRESS_PORT, Progress};
pub use report::{
    BackupOutcome, Checked, ErrorCode, FileCounts, Forgotten, JobError, JobReport, MaintainOutcome, Outcome, Pruned,
    RestoreOutcome, SnapshotReport, Stats, Step, Unreadable, Wiped,
};
pub use restore::{RESTORE_CAPABILITIES, RestoreSource, RestoreTask};
pub use spec::{
    BackupTask, FORGET_LIMIT, IoNice, JobSpec, JobTask, MaintainTask, RepositoryAccess, Retention, SpecError,
};

/// The version of [`JobSpec`] and [`JobReport`] that this release speaks.
pub const VERSION: u32 = 1;

/// The most that a termination message holds (Kubernetes, `pkg/kubelet/container/runtime.go`,
/// `MaxContainerTerminationMessageLength`).
pub const REPORT_LIMIT_BYTES: usize = 4096;

/// Where the container of a Job has its orders.
pub const JOB_DIR: &str = "/var/run/stash-fs/job";

/// How long the pod of a Job may take to end well after it was told to, in seconds. The work that was begun ends within a part of it.
pub const GRACE_SECONDS: i64 = 60;
