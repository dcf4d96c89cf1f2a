//! What is done with a repository after backups: retention, prune, check, counts. Each step stands for itself.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Zoned;
use stash_proto::job::args::BackupFlags;
use stash_proto::job::{Checked, ErrorCode, Forgotten, JobError, MaintainTask, Pruned, Retention, Stats, Step};
use stash_repo::lock::Held;
use stash_repo::write::backup::GroupBy;
use stash_repo::write::check::{ReadData, check};
use stash_repo::write::policy::{Count, Policy, group};
use stash_repo::write::prune::{PruneOptions, has_marked, prune};
use stash_repo::write::snapshots::{self, format_time};
use stash_repo::write::{Access, PackOptions};
use stash_repo::{RepoError, SnapshotId};

use super::access::{Job, Opened, release};
use super::done::Done;
use super::error::of_repository;
use super::wipe;
use crate::stats::{Count as StatsCount, Mode};

/// How long packs stay that no snapshot needs any more: whoever opened the repository before goes on reading.
const KEEP_MARKED: Duration = Duration::from_secs(23 * 60 * 60);
/// How many problems the report tries to hold.
const KEPT_PROBLEMS: usize = 8;

/// Does what is asked for, step by step.
///
/// # Errors
/// That of the first step that failed; those after it were done all the same.
pub(super) async fn run(task: &MaintainTask, job: &Job<'_>, done: &Done) -> Result<(), JobError> {
    if task.wipe_out {
        return wipe::run(job, done).await;
    }
    let Opened { access, initialized } = job.open(&BackupFlags::default(), task.initialize).await?;
    done.maintain(|outcome| outcome.initialized = initialized);
    let mut first = None;
    if !task.forget_snapshots.is_empty() {
        let step = forget_named(job, &access, &task.forget_snapshots, done).await;
        carry_on(step, &mut first)?;
    }
    if let Some(retention) = &task.forget {
        let step = retain(job, &access, retention, done).await;
        carry_on(step, &mut first)?;
    }
    if task.check {
        let step = checked(job, &access).await;
        done.maintain(|outcome| outcome.check = Some(of(&step)));
        carry_on(step.map(drop), &mut first)?;
    }
    if task.stats {
        let step = counted(job, &access).await;
        done.maintain(|outcome| outcome.stats = Some(of(&step)));
        carry_on(step.map(drop), &mut first)?;
    }
    first.map_or(Ok(()), Err)
}

/// Returns what is reported of a step.
pub(super) fn of<T: Clone>(step: &Result<T, JobError>) -> Step<T> {
    match step {
        Ok(done) => Step::Done(done.clone()),
        Err(error) => Step::Failed(error.clone()),
    }
}

/// Keeps the first failure. Work that was asked to stop does not go on.
fn carry_on(step: Result<(), JobError>, first: &mut Option<JobError>) -> Result<(), JobError> {
    match step {
        Ok(()) => Ok(()),
        Err(error) if error.code == ErrorCode::Disrupted => Err(error),
        Err(error) => {
            tracing::error!(code = ?error.code, reason = error.message, "a step failed");
            first.get_or_insert(error);
            Ok(())
        }
    }
}

/// A lock that becomes exclusive when something is removed.
struct Locked(Option<Held>);

impl Locked {
    async fn exclusive(&mut self, job: &Job<'_>) -> Result<&Held, JobError> {
        // Where that fails the shared lock was given back.
        if let Some(held) = self.0.take() {
            self.0 = Some(job.make_exclusive(held).await?);
        }
        self.held()
    }

    fn held(&self) -> Result<&Held, JobError> {
        self.0.as_ref().ok_or_else(|| JobError::new(ErrorCode::Locked, "the lock was given back"))
    }
}

/// Removes the snapshots that are named, and data that is not needed any more.
async fn forget_named(job: &Job<'_>, access: &Access, names: &[String], done: &Done) -> Result<(), JobError> {
    let mut locked = Locked(None);
    let forgotten = remove_named(job, access, names, &mut locked).await;
    let step = match &forgotten {
        Ok((count, _)) if count.kept > 0 => Err(JobError::new(
            ErrorCode::Denied,
            format!("{} snapshots are marked as not to be removed, and stay", count.kept),
        )),
        Ok((count, _)) => Ok(*count),
        Err(error) => Err(error.clone()),
    };
    done.maintain(|outcome| outcome.forget_snapshots = Some(of(&step)));
    let mut result = step.map(drop);
    if let Ok((count, gone)) = &forgotten
        && count.removed > 0
    {
        let pruned = prune_unneeded(job, access, false, gone, &mut locked).await;
        done.maintain(|outcome| outcome.prune = Some(of(&pruned)));
        result = result.and_then(|()| pruned.map(drop));
    }
    if let Some(held) = locked.0 {
        release(held).await;
    }
    result
}

async fn remove_named(
    job: &Job<'_>,
    access: &Access,
    names: &[String],
    locked: &mut Locked,
) -> Result<(Forgotten, BTreeSet<SnapshotId>), JobError> {
    // The spec was checked: each is an id.
    let ids: BTreeSet<SnapshotId> = names.iter().filter_map(|name| name.parse().ok()).collect();
    locked.0 = Some(job.lock(access, None).await?);
    let found = job.or_stop(async { Ok(snapshots::try_read(access, ids).await) }).await?;
    let now = Zoned::now();
    let mut gone = BTreeSet::new();
    let mut kept = 0;
    for (id, snapshot) in found {
        match snapshot {
            Ok(snapshot) if snapshot.is_protected(&now) => {
                tracing::warn!(snapshot = id.0.short(), "marked as not to be removed");
                kept += 1;
            }
            // The store did not answer, so whether it may go is not known.
            Err(error @ RepoError::Backend(_)) => return Err(of_repository(&error)),
            // What is damaged goes as well: it was asked for by its name.
            Ok(_) | Err(_) => drop(gone.insert(id)),
        }
    }
    if !gone.is_empty() {
        let held = locked.exclusive(job).await?;
        let removed = snapshots::remove(access, held.lease(), &gone, job.stop()).await;
        removed.map_err(|error| of_repository(&error))?;
    }
    tracing::info!(removed = gone.len(), kept, "removed the snapshots that were named");
    Ok((Forgotten { kept, removed: gone.len() as u64 }, gone))
}

/// Applies a policy, and removes data that is not needed any more.
async fn retain(job: &Job<'_>, access: &Access, retention: &Retention, done: &Done) -> Result<(), JobError> {
    let mut locked = Locked(None);
    let forgotten = forget(job, access, retention, &mut locked).await;
    let step = forgotten.as_ref().map(|(forgotten, _)| *forgotten).map_err(Clone::clone);
    done.maintain(|outcome| outcome.forget = Some(of(&step)));
    let mut result = step.map(drop);
    if let Ok((_, gone)) = &forgotten
        && retention.prune
    {
        let pruned = prune_unneeded(job, access, retention.dry_run, gone, &mut locked).await;
        done.maintain(|outcome| outcome.prune = Some(of(&pruned)));
        result = pruned.map(drop);
    }
    if let Some(held) = locked.0 {
        release(held).await;
    }
    result
}

async fn forget(
    job: &Job<'_>,
    access: &Access,
    retention: &Retention,
    locked: &mut Locked,
) -> Result<(Forgotten, BTreeSet<SnapshotId>), JobError> {
    locked.0 = Some(job.lock(access, None).await?);
    let all = job.or_stop(snapshots::read_all(access)).await?;
    let (policy, now) = (policy(retention), Zoned::now());
    let mut gone = BTreeSet::new();
    let mut kept = 0;
    for snapshots in group(all, GroupBy::default()).into_values() {
        let outcome = policy.apply(snapshots, &now);
        kept += outcome.keep.len() as u64;
        gone.extend(outcome.remove.iter().map(|snapshot| snapshot.id));
    }
    if !gone.is_empty() && !retention.dry_run {
        let held = locked.exclusive(job).await?;
        let removed = snapshots::remove(access, held.lease(), &gone, job.stop()).await;
        removed.map_err(|error| of_repository(&error))?;
    }
    tracing::info!(kept, removed = gone.len(), dry_run = retention.dry_run, "applied the policy");
    Ok((Forgotten { kept, removed: gone.len() as u64 }, gone))
}

fn policy(retention: &Retention) -> Policy {
    let count = |n: u32| if n == 0 { Count::None } else { Count::Last(n) };
    Policy {
        last: count(retention.keep_last),
        hourly: count(retention.keep_hourly),
        daily: count(retention.keep_daily),
        weekly: count(retention.keep_weekly),
        monthly: count(retention.keep_monthly),
        yearly: count(retention.keep_yearly),
        tags: crate::cli::tag_lists(&retention.keep_tags),
        ..Policy::default()
    }
}

async fn prune_unneeded(
    job: &Job<'_>,
    access: &Access,
    dry_run: bool,
    gone: &BTreeSet<SnapshotId>,
    locked: &mut Locked,
) -> Result<Pruned, JobError> {
    // Nothing became unneeded now, and nothing waits to be removed.
    if gone.is_empty() && !job.or_stop(has_marked(access)).await? {
        return Ok(Pruned::default());
    }
    let held = if dry_run { locked.held()? } else { locked.exclusive(job).await? };
    let session = Job::session(access, held, PackOptions::default());
    let options = PruneOptions {
        keep_marked: Some(KEEP_MARKED),
        without: if dry_run { gone.clone() } else { BTreeSet::new() },
        dry_run,
        ..PruneOptions::default()
    };
    let report = prune(&session, &options, job.stop()).await.map_err(|error| of_repository(&error))?;
    tracing::info!(removed_packs = report.removed_packs, marked_packs = report.marked_packs, dry_run, "pruned");
    Ok(Pruned {
        removed_packs: report.removed_packs,
        marked_packs: report.marked_packs,
        removed_bytes: report.removed_bytes,
    })
}

async fn checked(job: &Job<'_>, access: &Access) -> Result<Checked, JobError> {
    let held = job.lock(access, None).await?;
    let session = Job::session(access, &held, PackOptions::default());
    let report = check(&session, ReadData::None, job.stop()).await;
    release(held).await;
    let report = report.map_err(|error| of_repository(&error))?;
    for problem in &report.errors {
        tracing::error!("the repository is damaged: {problem}");
    }
    tracing::info!(problems = report.errors.len(), snapshots = report.snapshots, "checked");
    Ok(Checked {
        integrity: report.errors.is_empty(),
        problems: report.errors.len() as u64,
        first: report.errors.into_iter().take(KEPT_PROBLEMS).collect(),
    })
}

async fn counted(job: &Job<'_>, access: &Access) -> Result<Stats, JobError> {
    let count = async {
        let repository = job.reader(access).await?;
        let snapshots = repository.snapshots().await?;
        let mut count = StatsCount::new(&repository, Mode::RawData);
        for snapshot in &snapshots {
            let failed = |_: &[u8], error: &RepoError| {
                tracing::error!(snapshot = %snapshot.id.0.short(), %error, "a directory cannot be counted");
            };
            count.snapshot(snapshot.tree, &failed).await?;
        }
        if count.failed() > 0 {
            let reason = format!("{} directories cannot be read, so nothing can be counted", count.failed());
            return Err(RepoError::Unsupported { reason });
        }
        let time = |snapshot: Option<&std::sync::Arc<stash_repo::Snapshot>>| snapshot.map(|one| format_time(&one.time));
        Ok(Stats {
            snapshots: snapshots.len() as u64,
            first_snapshot: time(snapshots.first()),
            last_snapshot: time(snapshots.last()),
            total_bytes: count.finish()?.total_size,
        })
    };
    let stats = job.or_stop(count).await?;
    tracing::info!(bytes = stats.total_bytes, snapshots = stats.snapshots, "counted");
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_a_policy_without_rules_keeps_everything() {
        assert!(policy(&Retention { prune: true, ..Retention::default() }).is_empty());
        let policy = policy(&Retention { keep_last: 5, keep_tags: vec!["a, b".to_owned()], ..Retention::default() });
        assert_eq!((policy.last, policy.hourly), (Count::Last(5), Count::None));
        assert_eq!(policy.tags, [["a".to_owned(), "b".to_owned()]]);
    }
}
