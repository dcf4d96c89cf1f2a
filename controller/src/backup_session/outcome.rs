//! What became of the Jobs of a session, as its plan sees it.

use jiff::Timestamp;
use stash_crds::backup_session::{BackupTargetStatus, HostBackupPhase, SnapshotStats};

/// How far a Job is.
#[derive(Clone, Debug, PartialEq)]
pub enum Work<T> {
    /// There is none: it was not made, or it was deleted.
    Absent,
    /// It is not done.
    Running,
    /// It is not done, and the pod leaves beside which it runs: why it is not waited for.
    Left(String),
    /// It is done, and this is what it reported.
    Reported(T),
    /// It is done, and did not report: why, as far as Kubernetes says.
    Silent(String),
    /// Its pod was taken away: it was evicted, or its node went.
    Disrupted(String),
}

/// How a step ended: what it found, or what went wrong.
pub type Step<T> = Result<T, String>;

/// What the Job of a host did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostOutcome {
    /// Whether the repository exists now; nothing if it was not looked at.
    pub repository: Option<Step<()>>,
    /// What went wrong, if it did.
    pub error: Option<String>,
    /// How long it took, as Go writes it.
    pub duration: Option<String>,
    /// What was stored.
    pub snapshots: Vec<SnapshotStats>,
}

/// What the Job that looks after a repository did; nothing for steps that it was not asked to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Upkeep {
    /// Old snapshots were forgotten.
    pub forget: Option<Step<Forgotten>>,
    /// The repository was checked: whether nothing is wrong with it.
    pub check: Option<Step<bool>>,
    /// It was measured.
    pub stats: Option<Step<Measured>>,
}

/// How many snapshots are left, and were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// How many are left.
    pub kept: u64,
    /// How many were forgotten.
    pub removed: u64,
}

/// How large a repository is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// How many bytes are stored.
    pub bytes: u64,
    /// How many snapshots there are.
    pub snapshots: u64,
    /// When the oldest was taken, if there is one.
    pub first: Option<Timestamp>,
}

/// Whether the data of all hosts of a target is stored.
pub fn backed_up(target: &BackupTargetStatus) -> bool {
    let succeeded = target.stats.iter().filter(|stats| stats.phase == Some(HostBackupPhase::Succeeded)).count();
    target.total_hosts.is_some_and(|total| usize::try_from(total) == Ok(succeeded))
}
