//! Removes a repository as a whole. In which order, and why, is said by [`stash_repo::write::wipe`].

use std::sync::Arc;

use stash_proto::job::{ErrorCode, JobError, Wiped};
use stash_repo::lock::Held;
use stash_repo::write::wipe::{self, CONTENT, REST};
use stash_repo::{Backend, RepoError};

use super::access::{Job, release};
use super::done::Done;
use super::error::of_repository;
use super::maintain::of;

/// Does it, or goes on with what a Job before was stopped in.
///
/// # Errors
/// The repository does not open with the password, is append-only, or locked by others; the store failed.
pub(super) async fn run(job: &Job<'_>, done: &Done) -> Result<(), JobError> {
    let step = wipe_out(job).await;
    done.maintain(|outcome| outcome.wipe_out = Some(of(&step)));
    step.map(drop)
}

async fn wipe_out(job: &Job<'_>) -> Result<Wiped, JobError> {
    let backend = job.connect().await?;
    let held = close(job, &backend).await?;
    let content = job.or_stop(wipe::remove(&backend, &CONTENT)).await;
    if let Some(held) = held {
        release(held).await;
    }
    let removed = content? + job.or_stop(wipe::remove(&backend, &REST)).await?;
    tracing::info!(removed, "removed the repository");
    Ok(Wiped { removed })
}

/// Takes the config away under an exclusive lock, which is held from there on; none where it is gone already.
///
/// A repository that does not open is not removed: at this address may be somebody else's by now.
async fn close(job: &Job<'_>, backend: &Arc<dyn Backend>) -> Result<Option<Held>, JobError> {
    let access = match job.open_at(backend).await {
        Ok(access) => access,
        Err(RepoError::NoRepository { .. }) => {
            tracing::info!("there is no config: what is left of a repository is removed");
            return Ok(None);
        }
        Err(error) => return Err(of_repository(&error)),
    };
    if let Err(error) = access.config().check_may_remove() {
        return Err(JobError::new(ErrorCode::Denied, error.to_string()));
    }
    let shared = job.lock(&access, None).await?;
    let held = job.make_exclusive(shared).await?;
    match job.or_stop(wipe::close(&access, held.lease())).await {
        Ok(()) => Ok(Some(held)),
        Err(error) => {
            release(held).await;
            Err(error)
        }
    }
}
