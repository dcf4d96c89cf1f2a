//! The restore of one host: snapshots into the volumes that the Job mounts.
//!
//! What a snapshot has at `/data/x` goes to where the target has `/data/x`: into the volume that is mounted at `/data`, in the
//! Job below its root. The same copier works as for `stash-fs restore`, so a Job that was stopped goes on when it is run again.
//!
//! * `place`: which entries of a snapshot go to which volume.
//! * `mark`: what tells a volume that is not whole.
//! * `tell`: counts, names of what failed, and progress in the log.

mod mark;
mod place;
mod tell;

use std::path::PathBuf;
use std::sync::Arc;

use stash_proto::job::args::{self, BackupFlags, Overwrite as Wanted, RestoreFlags};
use stash_proto::job::{ErrorCode, JobError, RestoreSource, RestoreTask, SpecError};
use stash_repo::{NodeKind, Repository, Snapshot};

use super::access::Job;
use super::done::Done;
use super::error::STOPPED;
use crate::cli::select::{SnapshotFilter, find};
use crate::filter::Filter;
use crate::restore::{Options, Overwrite, Owner, restore};
use crate::walk::{Located, locate};
use mark::Mark;
use place::{Piece, Volumes, pieces};
use tell::Tell;

/// Restores what the task names. All is looked up before the first byte is written.
///
/// # Errors
/// `PartlyRestored` where all was tried and entries failed. A volume that is not whole is marked.
pub(super) async fn run(task: &RestoreTask, job: &Job<'_>, done: &Done) -> Result<(), JobError> {
    let bad = |error: String| JobError::new(ErrorCode::BadArguments, error);
    let flags = args::parse_restore(&task.args).map_err(|error| super::error::of_spec(&SpecError::Args(error)))?;
    let filter = filter(task, &flags).map_err(bad)?;
    let volumes = Volumes::open(task)?;
    let reached = BackupFlags {
        key_hint: flags.key_hint.clone(),
        limit_download_kib: flags.limit_download_kib,
        options: flags.options.clone(),
        ..BackupFlags::default()
    };
    let repository = job.open_reader(&reached).await?;
    let all = job.or_stop(repository.snapshots()).await?;
    let unreadable = repository.unreadable_snapshots().len();
    if unreadable > 0 {
        tracing::warn!(unreadable, "snapshots of the repository cannot be read; they are passed over");
    }
    let mut work = Vec::new();
    for source in &task.sources {
        let snapshot = choose(&all, source, &flags.tags)?;
        let located = located(job, &repository, &snapshot, &task.mounts).await?;
        work.push((snapshot, located));
    }
    let marks = volumes.mark(work.iter().flat_map(|(_, located)| located.iter().map(|(piece, _)| piece.mount)))?;
    let tell = Arc::new(Tell::new(job.interrupt()));
    let result = each(&work, &volumes, (&repository, &filter, &flags), &tell, done).await;
    done.restore(|outcome| tell.add_to(outcome));
    result?;
    if job.interrupt().is_set() {
        return Err(JobError::new(ErrorCode::Disrupted, STOPPED));
    }
    let failed = done.restore(|outcome| outcome.failed.clone());
    if failed.count > 0 {
        let what = if failed.count == 1 { "entry was" } else { "entries were" };
        let first = failed.names.first().map(|name| format!("; the first: {name}")).unwrap_or_default();
        return Err(JobError::new(ErrorCode::PartlyRestored, format!("{} {what} not restored{first}", failed.count)));
    }
    marks.into_iter().try_for_each(Mark::remove)
}

type Work = (Arc<Snapshot>, Vec<(Piece, Located)>);

async fn each(
    work: &[Work],
    volumes: &Volumes,
    (repository, filter, flags): (&Repository, &Filter, &RestoreFlags),
    tell: &Arc<Tell>,
    done: &Done,
) -> Result<(), JobError> {
    for (snapshot, pieces) in work {
        let id = snapshot.id.to_string();
        done.restore(|outcome| outcome.snapshots.push(id.clone()));
        for (piece, from) in pieces {
            tracing::info!(snapshot = id, host = snapshot.hostname, path = piece.path, "restoring");
            let is_dir = matches!(from, Located::Root(_))
                || matches!(from, Located::Entry(entry) if entry.node().kind() == NodeKind::Dir);
            // Held until the copier is done: it opens the directory by its number.
            let place = volumes.directory(piece, is_dir)?;
            let options = Options {
                target: place.path(),
                filter: filter.below(place.seen.as_bytes()),
                overwrite: overwrite(flags.overwrite),
                delete: flags.delete,
                dry_run: false,
                sparse: flags.sparse,
                verify: flags.verify,
                owner: Owner::Stored,
                root_metadata: true,
            };
            tell.enter(&place.seen);
            let report = restore(repository, from.clone(), options, tell.clone()).await;
            let report = report.map_err(|error| JobError::new(ErrorCode::Internal, error.to_string()))?;
            if report.stopped {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Puts patterns of the rule and of the flags together.
fn filter(task: &RestoreTask, flags: &RestoreFlags) -> Result<Filter, String> {
    let both = |ours: &[String], theirs: &[String]| ours.iter().chain(theirs).cloned().collect::<Vec<String>>();
    let include = both(&task.include, &flags.include);
    let exclude = both(&task.exclude, &flags.exclude);
    let filter = if include.is_empty() && flags.iinclude.is_empty() {
        Filter::exclude(&exclude, &flags.iexclude)
    } else {
        Filter::include(&include, &flags.iinclude)
    };
    filter.map_err(|error| error.to_string())
}

fn overwrite(wanted: Wanted) -> Overwrite {
    match wanted {
        Wanted::Always => Overwrite::Always,
        Wanted::IfChanged => Overwrite::IfChanged,
        Wanted::IfNewer => Overwrite::IfNewer,
        Wanted::Never => Overwrite::Never,
    }
}

/// Finds the snapshot that a source means.
fn choose(all: &[Arc<Snapshot>], source: &RestoreSource, tags: &[String]) -> Result<Arc<Snapshot>, JobError> {
    let (name, filter) = match source {
        RestoreSource::Snapshot(name) => (name.as_str(), SnapshotFilter { tag: tags.to_vec(), ..Default::default() }),
        RestoreSource::Latest { host, path } => {
            let path = PathBuf::from(if path.len() > 1 { path.trim_end_matches('/') } else { path });
            ("latest", SnapshotFilter { host: vec![host.clone()], tag: tags.to_vec(), path: vec![path] })
        }
    };
    find(all, name, &filter).map_err(|error| {
        let tagged = if tags.is_empty() { "" } else { " with the tags that args ask for" };
        let message = match source {
            RestoreSource::Snapshot(_) => format!("{}{tagged}", error.message),
            RestoreSource::Latest { host, path } => format!("there is no snapshot of {path} of host {host}{tagged}"),
        };
        JobError::new(ErrorCode::NoSnapshot, message)
    })
}

/// Finds in a snapshot what goes to the volumes.
async fn located(
    job: &Job<'_>,
    repository: &Repository,
    snapshot: &Snapshot,
    mounts: &[String],
) -> Result<Vec<(Piece, Located)>, JobError> {
    let (pieces, elsewhere) = pieces(&snapshot.paths, mounts);
    let id = snapshot.id.0.short();
    if !elsewhere.is_empty() {
        let message = format!(
            "snapshot {id} holds {}, where the target has no volume: it has {}",
            elsewhere.join(", "),
            mounts.join(", ")
        );
        return Err(JobError::new(ErrorCode::NoTarget, message));
    }
    let mut found = Vec::new();
    for piece in pieces {
        let entry = job.or_stop(locate(repository, snapshot.tree, piece.path.as_bytes())).await?;
        match entry {
            Some(entry) => found.push((piece, entry)),
            // Of a snapshot of much, one volume may hold nothing.
            None if piece.may_lack => {
                tracing::info!(snapshot = %id, path = piece.path, "the snapshot has nothing there");
            }
            None => {
                let message = format!("snapshot {id} lacks {}, though it is of it", piece.path);
                return Err(JobError::new(ErrorCode::Damaged, message));
            }
        }
    }
    if found.is_empty() {
        let message = format!("snapshot {id} holds nothing for {}", mounts.join(", "));
        return Err(JobError::new(ErrorCode::NoTarget, message));
    }
    Ok(found)
}
