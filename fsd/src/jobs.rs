//! What a Kubernetes Job of ours runs: reads a spec, works on a repository, leaves a report.
//!
//! A Job has no rights at the API server: what it shall do is a file ([`stash_proto::job`]), the Repository's Secret is a
//! directory of files, and what it did is the container's termination message. Nothing is taken from the environment. A restore
//! of snapshots that the Job mounts opens no repository and has no Secret.
//!
//! * `secret`, `access`: from spec and Secret to an opened repository.
//! * `backup`, `maintain`, `restore`: the work, by the same calls as the verbs of the command line.
//! * `wipe`: the end of a repository.
//! * `done`: what was done so far; it is reported also if the work ends in an error, a signal or a panic.
//! * `error`: from what failed to a word that a controller decides by.
//! * `at_start`: what an init container of a workload does before and after a restore.
//! * `priority`, `report`: this process's niceness, and the file that the report goes to.
//!
//! A report is always left, and a signal ends the work within [`GRACE`].

mod access;
mod at_start;
mod backup;
mod done;
mod error;
mod maintain;
mod priority;
mod report;
mod restore;
mod secret;
mod wipe;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use signal_hook::consts::{SIGINT, SIGTERM};
use stash_proto::job::{ErrorCode, JobError, JobReport, JobSpec, JobTask};

use crate::cli::{self, Exit, Interrupt};
use access::Job;
pub(crate) use at_start::Start;
use done::Done;
use secret::Secret;

/// How long work that was asked to stop may take to give its lock back. Kubernetes' own grace is 30 s by default, and a
/// pod that is drained shall not wait for ours.
const GRACE: Duration = Duration::from_secs(8);

/// More than any spec.
const SPEC_LIMIT_BYTES: u64 = 2 << 20;

/// The files of a Job.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// What to do.
    pub(crate) spec: PathBuf,
    /// The Secret, one file a key; not needed where no repository is opened.
    pub(crate) secret: Option<PathBuf>,
    /// Where the report goes.
    pub(crate) report: PathBuf,
    /// Where a restore says how far it is.
    pub(crate) progress: Option<SocketAddr>,
    /// The pod of which this is the init container; then the spec is that of several hosts.
    pub(crate) start: Option<Start>,
}

/// Runs a Job to its end and reports it. Starts a runtime of its own: niceness is of threads, and is set before there are any.
pub(crate) fn run(places: &Places, interrupt: &Interrupt) -> Exit {
    let (started, clock) = (Timestamp::now(), Instant::now());
    let done = Done::default();
    let result = catch_unwind(AssertUnwindSafe(|| carry_out(places, interrupt, &done)));
    let result = result.unwrap_or_else(|_| {
        Err(JobError::new(ErrorCode::Internal, "the program failed: it panicked, and its log says where"))
    });
    let report = JobReport {
        error: result.err(),
        outcome: done.take(),
        ..JobReport::new(seconds(started), seconds(Timestamp::now()), clock.elapsed().as_secs_f64())
    };
    let exit = match &report.error {
        None => Exit::Success,
        Some(error) if matches!(error.code, ErrorCode::PartlyRead | ErrorCode::PartlyRestored) => Exit::Incomplete,
        Some(_) => Exit::Failure,
    };
    match &report.error {
        None => tracing::info!(seconds = report.duration_seconds, "the job is done"),
        Some(error) => tracing::error!(code = ?error.code, reason = error.message, "the job failed"),
    }
    match report::write(&places.report, &report.to_message()) {
        Ok(()) => exit,
        Err(error) => {
            tracing::error!(path = %places.report.display(), %error, "the report cannot be written");
            Exit::Failure
        }
    }
}

/// A time to the second, as Kubernetes has them.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Takes note of signals that come before the runtime's handlers stand: a pod may be deleted in its first moment.
fn early_signals() -> Result<Arc<AtomicBool>, JobError> {
    let came = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        let standing = signal_hook::flag::register(signal, Arc::clone(&came));
        standing.map_err(|error| JobError::new(ErrorCode::Internal, format!("wait for signals: {error}")))?;
    }
    Ok(came)
}

fn carry_out(places: &Places, interrupt: &Interrupt, done: &Done) -> Result<(), JobError> {
    let came = early_signals()?;
    let Some(start) = &places.start else { return run_spec(&read_spec(places)?, places, None, &came, interrupt, done) };
    let Some(pending) = at_start::prepare(&places.spec, start)? else { return Ok(()) };
    pending.settle(run_spec(&pending.spec, places, pending.time_left(), &came, interrupt, done))
}

/// Does what a spec says, in the time that is left.
fn run_spec(
    spec: &JobSpec,
    places: &Places,
    left: Option<Duration>,
    came: &AtomicBool,
    interrupt: &Interrupt,
    done: &Done,
) -> Result<(), JobError> {
    match &spec.task {
        JobTask::Backup(task) => priority::set(task.nice, task.ionice),
        JobTask::Restore(task) => priority::set(task.nice, task.ionice),
        JobTask::Maintain(_) => {}
    }
    let secret = match &places.secret {
        _ if !spec.opens_repository() => None,
        Some(secret) => Some(Secret::read(secret)?),
        None => return Err(no_secret()),
    };
    let runtime = cli::runtime().map_err(|error| JobError::new(ErrorCode::Internal, error.message))?;
    let result = runtime.block_on(async {
        tokio::select! {
            // The handlers stand before the work begins.
            biased;
            error = overdue(interrupt, came) => Err(error),
            error = late(left, interrupt) => Err(error),
            result = work(spec, secret, places.progress, interrupt, done) => result,
        }
    });
    // What a signal left behind does not hold the process.
    runtime.shutdown_background();
    result
}

fn read_spec(places: &Places) -> Result<JobSpec, JobError> {
    let bytes = secret::read_file(&places.spec, SPEC_LIMIT_BYTES).map_err(|error| {
        JobError::new(ErrorCode::BadSpec, format!("read the job's spec {}: {error}", places.spec.display()))
    })?;
    JobSpec::parse(&bytes).map_err(|error| error::of_spec(&error))
}

/// Ends when work that was asked to stop takes too long to do so; `came` tells of signals from before.
async fn overdue(interrupt: &Interrupt, came: &AtomicBool) -> JobError {
    let mut signal = pin!(cli::signal());
    // The first look at it sets the handlers up.
    let told = match futures::poll!(signal.as_mut()) {
        Poll::Ready(told) => told,
        Poll::Pending if came.load(Ordering::Acquire) => Ok(()),
        Poll::Pending => signal.await,
    };
    if let Err(error) = told {
        return JobError::new(ErrorCode::Internal, format!("wait for signals: {error}"));
    }
    tracing::info!("asked to stop");
    stop(interrupt).await;
    let left = "the store gave no answer meanwhile, so a lock may be left in the repository";
    JobError::new(ErrorCode::Disrupted, format!("{}; {left}", error::STOPPED))
}

/// Ends when work took longer than it may, and then too long to stop.
async fn late(left: Option<Duration>, interrupt: &Interrupt) -> JobError {
    let Some(left) = left else { return std::future::pending().await };
    pass(left).await;
    stop(interrupt).await;
    JobError::new(ErrorCode::Disrupted, error::STOPPED)
}

/// Asks work to end, and waits as long as it may take for that.
async fn stop(interrupt: &Interrupt) {
    interrupt.set();
    pass(GRACE).await;
}

/// Nothing but time passes.
async fn pass(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

async fn work(
    spec: &JobSpec,
    secret: Option<Secret>,
    progress: Option<SocketAddr>,
    interrupt: &Interrupt,
    done: &Done,
) -> Result<(), JobError> {
    let job = secret.map(|secret| Job::new(spec, secret, interrupt));
    match (&spec.task, &job) {
        (JobTask::Backup(task), Some(job)) => backup::run(task, job, done).await,
        (JobTask::Maintain(task), Some(job)) => maintain::run(task, job, done).await,
        (JobTask::Restore(task), Some(job)) => restore::run(task, progress, job, done).await,
        (JobTask::Restore(task), None) => restore::run_mounted(task, progress, interrupt, done).await,
        (JobTask::Backup(_) | JobTask::Maintain(_), None) => Err(no_secret()),
    }
}

fn no_secret() -> JobError {
    JobError::new(ErrorCode::BadSecret, "the Repository's Secret: --secret does not say where it is")
}
