//! The backup of one host: one snapshot for each path, as Stash makes them.

mod plan;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stash_proto::job::args;
use stash_proto::job::{BackupOutcome, BackupTask, ErrorCode, FileCounts, JobError, SnapshotReport};
use stash_repo::RepoError;
use stash_repo::lock::Held;
use stash_repo::write::Access;
use stash_repo::write::backup::{BackupReport, backup};
use stash_repo::write::source::{Listener, Loss, Note};

use super::access::{Job, release};
use super::done::Done;
use super::error::of_repository;
use crate::cli::show_loss;
use plan::Plan;

/// How many names the report tries to hold, and how many lines the log.
const KEPT_NAMES: usize = 8;
const LOGGED_NAMES: u64 = 1000;

/// Backs up the paths of a host. A path that is not there does not keep the others from being backed up; any other failure
/// does.
///
/// # Errors
/// `SourceMissing` and `PartlyRead` where snapshots were made all the same.
pub(super) async fn run(task: &BackupTask, job: &Job<'_>, done: &Done) -> Result<(), JobError> {
    let flags = args::parse(&task.args).map_err(|error| JobError::new(ErrorCode::BadArguments, error.to_string()))?;
    let plan = Plan::new(task, &flags)?;
    let opened = job.open(&flags, task.initialize).await?;
    done.backup(|outcome| outcome.initialized = opened.initialized);
    let held = job.lock(&opened.access, flags.retry_lock).await?;
    let result = each_path(task, job, done, &plan, (&opened.access, &held)).await;
    release(held).await;
    result?;
    let unreadable = done.backup(|outcome| outcome.unreadable.clone());
    if unreadable.count > 0 {
        let what = if unreadable.count == 1 { "entry" } else { "entries" };
        let first = unreadable.names.first().map(|name| format!("; the first: {name}")).unwrap_or_default();
        let message = format!("{} {what} could not be read, and the snapshot lacks them{first}", unreadable.count);
        return Err(JobError::new(ErrorCode::PartlyRead, message));
    }
    Ok(())
}

async fn each_path(
    task: &BackupTask,
    job: &Job<'_>,
    done: &Done,
    plan: &Plan,
    (access, held): (&Access, &Held),
) -> Result<(), JobError> {
    let session = Job::session(access, held, plan.pack);
    let mut missing = Vec::new();
    for path in &task.paths {
        let started = Instant::now();
        let tell = Arc::new(Tell::default());
        let result = backup(&session, plan.request(path), tell.clone(), job.stop()).await;
        if matches!(result, Err(RepoError::NoSource)) {
            missing.push(path.as_str());
            continue;
        }
        done.backup(|outcome| tell.add_to(outcome));
        let report = result.map_err(|error| of_repository(&error))?;
        let snapshot = describe(path, &report, started.elapsed());
        tracing::info!(path, snapshot = snapshot.id, bytes = snapshot.total_bytes, "backed up");
        done.backup(|outcome| outcome.snapshots.push(snapshot));
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(JobError::new(ErrorCode::SourceMissing, format!("not there to be backed up: {}", missing.join(", "))))
}

fn describe(path: &str, report: &BackupReport, took: Duration) -> SnapshotReport {
    let count = |name: &str| report.summary.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    SnapshotReport {
        id: report.snapshot.map(|id| id.to_string()).unwrap_or_default(),
        path: path.to_owned(),
        total_bytes: count("total_bytes_processed"),
        uploaded_bytes: count("data_added_packed"),
        processing_seconds: took.as_secs_f64(),
        files: FileCounts {
            total: count("total_files_processed"),
            new: count("files_new"),
            modified: count("files_changed"),
            unmodified: count("files_unmodified"),
        },
    }
}

/// Counts what could not be read, and keeps the first names.
#[derive(Debug, Default)]
struct Tell {
    count: AtomicU64,
    /// A leaf lock.
    names: Mutex<Vec<String>>,
}

impl Tell {
    fn add_to(&self, outcome: &mut BackupOutcome) {
        outcome.unreadable.count += self.count.load(Ordering::Acquire);
        let room = KEPT_NAMES.saturating_sub(outcome.unreadable.names.len());
        outcome.unreadable.names.extend(self.names.lock().iter().take(room).cloned());
    }
}

impl Listener for Tell {
    fn loss(&self, loss: &Loss) {
        let text = show_loss(loss);
        if self.count.fetch_add(1, Ordering::AcqRel) < LOGGED_NAMES {
            tracing::warn!("not in the snapshot: {text}");
        }
        let mut names = self.names.lock();
        if names.len() < KEPT_NAMES {
            names.push(text);
        }
    }

    fn note(&self, note: &Note) {
        tracing::debug!("{}", show_loss(note));
    }
}
