//! The restore of one host: snapshots into the volumes that the Job mounts.
//!
//! What a snapshot has at `/data/x` goes to where the target has `/data/x`: into the volume that is mounted at `/data`, in the
//! Job below its root. The same copier works as for `stash-fs restore`, so a Job that was stopped goes on when it is run again.
//!
//! * `mounted`: snapshots that the Job mounts, instead of a repository that it opens.
//! * `place`: which entries of a snapshot go to which volume.
//! * `mark`: what tells a volume that is not whole.
//! * `record`: what tells by which session a volume was restored.
//! * `progress`: says how far it is to whoever asks.
//! * `tell`: counts, names of what failed, and progress in the log.

mod mark;
mod mounted;
mod place;
mod progress;
mod record;
mod tell;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use stash_proto::job::args::{self, BackupFlags, Overwrite as Wanted, RestoreFlags};
use stash_proto::job::{ErrorCode, JobError, RestoreSource, RestoreTask, SpecError};
use stash_repo::{Repository, Snapshot};

use super::access::Job;
use super::done::Done;
use super::error::STOPPED;
use crate::cli::Interrupt;
use crate::cli::select::{SnapshotFilter, find};
use crate::filter::Filter;
use crate::restore::{Options, Overwrite, Owner, Source, restore};
use crate::walk::{Located, locate};
use mark::Mark;
pub(super) use place::Volumes;
use place::{Piece, pieces};
use tell::Tell;

/// A part of a snapshot, and where it is read.
#[derive(Debug)]
enum Part {
    Stored(Repository, Located),
    Mounted(mounted::Place),
}

impl Part {
    async fn open(&self) -> Result<Source, JobError> {
        match self {
            Self::Stored(repository, from) => Ok(Source::Stored { repository: repository.clone(), from: from.clone() }),
            Self::Mounted(place) => place.open().await,
        }
    }
}

/// A snapshot: its id or its name, and what goes to the volumes.
#[derive(Debug)]
struct Work {
    snapshot: String,
    pieces: Vec<(Piece, Part)>,
}

/// What is asked for of all snapshots.
struct Asked {
    flags: RestoreFlags,
    filter: Filter,
    volumes: Volumes,
    progress: Option<SocketAddr>,
}

impl Asked {
    fn of(task: &RestoreTask, progress: Option<SocketAddr>) -> Result<Self, JobError> {
        let bad = |error: String| JobError::new(ErrorCode::BadArguments, error);
        let flags = args::parse_restore(&task.args).map_err(|error| super::error::of_spec(&SpecError::Args(error)))?;
        let filter = filter(task, &flags).map_err(bad)?;
        Ok(Self { flags, filter, volumes: Volumes::open(task)?, progress })
    }
}

/// Restores what the task names from the repository. All is looked up before the first byte is written. At `progress` it says how far it is.
///
/// # Errors
/// `PartlyRestored` where all was tried and entries failed. A volume that is not whole is marked.
pub(super) async fn run(
    task: &RestoreTask,
    progress: Option<SocketAddr>,
    job: &Job<'_>,
    done: &Done,
) -> Result<(), JobError> {
    let asked = Asked::of(task, progress)?;
    let flags = &asked.flags;
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
        work.push(stored(job, &repository, &snapshot, &task.mounts).await?);
    }
    carry_out(work, &asked, &job.interrupt(), done).await
}

/// Restores what the task names from snapshots that the Job mounts. All is looked up before the first byte is written.
///
/// # Errors
/// As of [`run`].
pub(super) async fn run_mounted(
    task: &RestoreTask,
    progress: Option<SocketAddr>,
    interrupt: &Interrupt,
    done: &Done,
) -> Result<(), JobError> {
    let asked = Asked::of(task, progress)?;
    let mut work = Vec::new();
    for source in &task.sources {
        work.push(mounted::look_up(source, &task.mounts).await?);
    }
    carry_out(work, &asked, interrupt, done).await
}

async fn carry_out(work: Vec<Work>, asked: &Asked, interrupt: &Interrupt, done: &Done) -> Result<(), JobError> {
    let marks = asked.volumes.mark(work.iter().flat_map(|work| work.pieces.iter().map(|(piece, _)| piece)))?;
    let tell = Arc::new(Tell::new(interrupt.clone()));
    let _served = match asked.progress {
        Some(address) => progress::serve(address, Arc::clone(&tell)).await,
        None => None,
    };
    let result = each(&work, asked, &tell, done).await;
    done.restore(|outcome| tell.add_to(outcome));
    result?;
    if interrupt.is_set() {
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

async fn each(work: &[Work], asked: &Asked, tell: &Arc<Tell>, done: &Done) -> Result<(), JobError> {
    let flags = &asked.flags;
    for Work { snapshot, pieces } in work {
        done.restore(|outcome| outcome.snapshots.push(snapshot.clone()));
        for (piece, from) in pieces {
            tracing::info!(snapshot, path = piece.path, "restoring");
            let source = from.open().await?;
            // Held until the copier is done: it opens the directory by its number.
            let place = asked.volumes.directory(piece, source.is_directory())?;
            let options = Options {
                target: place.path(),
                filter: asked.filter.below(place.seen.as_bytes()),
                overwrite: overwrite(flags.overwrite),
                delete: flags.delete,
                dry_run: false,
                sparse: flags.sparse,
                verify: flags.verify,
                owner: Owner::Stored,
                root_metadata: true,
            };
            tell.enter(&place.seen);
            let report = restore(source, options, tell.clone()).await;
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
        RestoreSource::Mounted { .. } => {
            return Err(JobError::new(
                ErrorCode::BadSpec,
                "a snapshot that is mounted is in no repository that is opened",
            ));
        }
    };
    find(all, name, &filter).map_err(|error| {
        let tagged = if tags.is_empty() { "" } else { " with the tags that args ask for" };
        let message = match source {
            RestoreSource::Snapshot(_) | RestoreSource::Mounted { .. } => format!("{}{tagged}", error.message),
            RestoreSource::Latest { host, path } => format!("there is no snapshot of {path} of host {host}{tagged}"),
        };
        JobError::new(ErrorCode::NoSnapshot, message)
    })
}

/// Finds in a snapshot of the repository what goes to the volumes.
async fn stored(
    job: &Job<'_>,
    repository: &Repository,
    snapshot: &Snapshot,
    mounts: &[String],
) -> Result<Work, JobError> {
    let id = snapshot.id.0.short();
    let (mut found, of) = (Vec::new(), all_pieces(&id, &snapshot.paths, mounts)?);
    for piece in of {
        let entry = job.or_stop(locate(repository, snapshot.tree, piece.path.as_bytes())).await?;
        found.push((piece, entry.map(|entry| Part::Stored(repository.clone(), entry))));
    }
    let pieces = present(&id, found, mounts)?;
    tracing::info!(snapshot = %snapshot.id, host = snapshot.hostname, "found");
    Ok(Work { snapshot: snapshot.id.to_string(), pieces })
}

/// Divides what a snapshot is of among the volumes.
fn all_pieces(id: &str, paths: &[String], mounts: &[String]) -> Result<Vec<Piece>, JobError> {
    let (pieces, elsewhere) = pieces(paths, mounts);
    if elsewhere.is_empty() {
        return Ok(pieces);
    }
    let (elsewhere, mounts) = (elsewhere.join(", "), mounts.join(", "));
    let message = format!("snapshot {id} holds {elsewhere}, where the target has no volume: it has {mounts}");
    Err(JobError::new(ErrorCode::NoTarget, message))
}

/// Returns what of the pieces is there.
fn present(id: &str, found: Vec<(Piece, Option<Part>)>, mounts: &[String]) -> Result<Vec<(Piece, Part)>, JobError> {
    let mut pieces = Vec::new();
    for (piece, from) in found {
        match from {
            Some(from) => pieces.push((piece, from)),
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
    if pieces.is_empty() {
        let message = format!("snapshot {id} holds nothing for {}", mounts.join(", "));
        return Err(JobError::new(ErrorCode::NoTarget, message));
    }
    Ok(pieces)
}
