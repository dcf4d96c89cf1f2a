//! Backup: `rustic_core`'s archiver between our source and our commit gate.
//!
//! `rustic_core` writes its snapshot before it looks at a command's exit code, leaves out files that it could not store with
//! a mere warning, and forgets some of restic's fields. So its snapshot never reaches the store. Ours is written last, and
//! only if: no write failed and the lock held (the gate is open); the source went through to its end; as many entries are
//! in the tree as the source gave and did not take back; and, for a stream, its producer ended well.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Zoned;
use rustic_core::repofile::{SnapshotFile, SnapshotSummary, Tree};
use rustic_core::{BackupOptions, IndexedIds, ParentOptions, ReadSource, Repository};
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::access::Access;
use super::adapter::rustic_id;
use super::gate::{Gate, Snapshots};
use super::packing::{find_tree, write_trees};
use super::session::{Session, rustic_error};
use super::snapshots::{self, SnapshotJson, format_time};
use super::source::producer::{Producer, Stream, StreamSource};
use super::source::{Ledger, Listener, LocalSource, Loss, SourceOptions};
use super::users;
use crate::error::{RepoError, RepoResult};
use crate::id::{Id, SnapshotId, TreeId};

/// What is backed up.
#[derive(Debug, Clone)]
pub enum BackupSource {
    /// Files and directories.
    Files(SourceOptions),
    /// One file from a stream.
    Stream {
        /// Its path in the snapshot.
        filename: PathBuf,
        /// Where it comes from.
        producer: Producer,
    },
}

/// Which snapshot unchanged files are taken from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Parent {
    /// The newest of the group that is not newer than this one.
    #[default]
    Newest,
    /// This one: an id or its beginning.
    Named(String),
    /// None: all files are read.
    None,
}

/// What snapshots must have in common to be of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    /// The host.
    pub host: bool,
    /// The paths.
    pub paths: bool,
    /// The tags.
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { host: true, paths: true, tags: false }
    }
}

/// A backup to make.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// What is read.
    pub source: BackupSource,
    /// The snapshot's host.
    pub hostname: String,
    /// The snapshot's tags.
    pub tags: Vec<String>,
    /// The snapshot's time.
    pub time: Zoned,
    /// The patterns that were left out, for the record.
    pub excludes: Vec<String>,
    /// Who makes it, as `stash-fs 0.1.0`.
    pub program_version: String,
    /// Which files count as unchanged.
    pub parent: Parent,
    /// Which snapshots are candidates for [`Parent::Newest`].
    pub group_by: GroupBy,
    /// A change of the inode's change time alone is no change.
    pub ignore_ctime: bool,
    /// A change of the inode's number is no change.
    pub ignore_inode: bool,
    /// No snapshot where its tree would be the parent's.
    pub skip_if_unchanged: bool,
    /// Do not find out beforehand how much there is to read.
    pub no_scan: bool,
    /// Read and count, write nothing.
    pub dry_run: bool,
}

/// How a backup ended.
#[derive(Debug, Clone)]
pub struct BackupReport {
    /// The snapshot; `None` under `dry_run`, or if it was skipped as unchanged.
    pub snapshot: Option<SnapshotId>,
    /// The parent that was used.
    pub parent: Option<SnapshotId>,
    /// What was counted, by restic's names.
    pub summary: Map<String, Value>,
    /// How many entries, or parts of what is known of them, are not in the snapshot.
    pub loss_count: u64,
    /// The first of them.
    pub losses: Vec<Loss>,
}

/// What `rustic_core` made.
struct Archived {
    tree: TreeId,
    summary: SnapshotSummary,
    paths: Vec<String>,
}

/// Makes a backup. Entries that could not be read are told to `listener` and left out; see [`BackupReport::loss_count`].
///
/// # Errors
/// Nothing was committed: the store failed, the lock was lost, the producer failed, nothing could be read, or `stop` ended
/// (`Cancelled`).
pub async fn backup(
    session: &Session,
    request: BackupRequest,
    listener: Arc<dyn Listener>,
    stop: impl Future<Output = ()>,
) -> RepoResult<BackupReport> {
    let start = Zoned::now();
    let gate = match request.source {
        BackupSource::Files(_) => session.gate(Snapshots::Withhold),
        BackupSource::Stream { .. } => session.gate_for_streams(),
    };
    let ledger = Ledger::new(listener, Some(gate.clone()));
    let request = Arc::new(request);
    let source = match &request.source {
        BackupSource::Files(options) => Source::Files(Box::new(LocalSource::new(options.clone(), ledger.clone())?)),
        BackupSource::Stream { filename, producer } => {
            let stream = Stream::start(producer, gate.clone())?;
            let source = StreamSource::new(filename, request.time.timestamp(), stream.clone())?;
            Source::Stream(source, stream)
        }
    };
    let stream = match &source {
        Source::Stream(_, stream) => Some(stream.clone()),
        Source::Files(_) => None,
    };
    let stop_source = {
        let ledger = ledger.clone();
        move || {
            ledger.stop();
            if let Some(stream) = &stream {
                stream.kill();
            }
        }
    };
    tokio::pin!(stop);
    let parent = tokio::select! {
        parent = find_parent(session.access(), &request, &source) => parent?,
        () = &mut stop => {
            stop_source();
            return Err(RepoError::Cancelled);
        }
    };
    let parent_id = parent.as_ref().map(|parent| parent.id);
    let work = {
        let (session, gate, request, ledger) = (session.clone(), gate.clone(), request.clone(), ledger.clone());
        move |runtime: Handle| archive(&session, &gate, &request, parent_id, source, &ledger, runtime)
    };
    let stop = async {
        stop.await;
        stop_source();
    };
    let archived = session.run(&gate, stop, work).await?;
    gate.check()?;

    let (loss_count, losses) = ledger.losses();
    let summary = summary_fields(&archived.summary, &start);
    let unchanged = request.skip_if_unchanged && parent.as_ref().is_some_and(|parent| parent.tree == archived.tree);
    let snapshot = if request.dry_run || unchanged {
        None
    } else {
        let fields = snapshot_fields(&request, &archived, parent_id, &summary);
        Some(snapshots::write(session.access(), session.lease(), &fields).await?)
    };
    Ok(BackupReport { snapshot, parent: parent_id, summary, loss_count, losses })
}

enum Source {
    Files(Box<LocalSource>),
    Stream(StreamSource, Stream),
}

impl Source {
    /// The absolute paths for the snapshot. What is not UTF-8 is replaced, as restic's JSON does.
    fn paths(&self) -> Vec<String> {
        match self {
            Self::Files(source) => source.paths().iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            Self::Stream(source, _) => vec![source.path().to_string_lossy().into_owned()],
        }
    }
}

async fn find_parent(access: &Access, request: &BackupRequest, source: &Source) -> RepoResult<Option<SnapshotJson>> {
    if request.parent == Parent::None {
        return Ok(None);
    }
    // A snapshot that cannot be read is no parent; whether it is damaged is for `check` to say.
    let all = snapshots::try_read_all(access).await?;
    let all: Vec<SnapshotJson> = all.into_iter().filter_map(|(_, snapshot)| snapshot.ok()).collect();
    if let Parent::Named(name) = &request.parent
        && name != "latest"
    {
        return snapshots::find(&all, name).cloned().map(Some);
    }
    // A stream is read anyway.
    if matches!(source, Source::Stream(..)) && !request.skip_if_unchanged {
        return Ok(None);
    }
    let paths = source.paths();
    let by = request.group_by;
    let fits = |snapshot: &SnapshotJson| {
        snapshot.time.timestamp() <= request.time.timestamp()
            && (!by.host || snapshot.hostname() == request.hostname)
            && (!by.paths || paths.iter().all(|path| snapshot.paths().contains(&path.as_str())))
            && (!by.tags || request.tags.iter().all(|tag| snapshot.tags().contains(&tag.as_str())))
    };
    Ok(all.into_iter().filter(fits).max_by(|a, b| a.time.cmp(&b.time)))
}

/// Runs on a thread of [`Session::run`].
fn archive(
    session: &Session,
    gate: &Gate,
    request: &BackupRequest,
    parent: Option<SnapshotId>,
    source: Source,
    ledger: &Ledger,
    runtime: Handle,
) -> RepoResult<Archived> {
    let repository = session.open(gate, runtime.clone())?;
    let repository = repository.to_indexed_ids().map_err(|error| rustic_error(gate, "read the index", &error))?;
    let paths = source.paths();
    let mut options = BackupOptions::default();
    options.dry_run = request.dry_run;
    options.no_scan = request.no_scan || session.progress().is_hidden();
    options.parent_opts = parent_options(request, parent);
    match source {
        Source::Files(source) => {
            let snapshot = run_archiver(&repository, &options, &*source, gate)?;
            if let Some(error) = ledger.fatal() {
                return Err(error);
            }
            let summary = snapshot.summary.unwrap_or_default();
            let (stored, expected) = (summary.total_files_processed, ledger.expected());
            gate.check()?;
            if stored != expected {
                return Err(incomplete(format!("{stored} entries are in its tree, and {expected} were read")));
            }
            // The root counts as one.
            if stored == 0 && summary.total_dirs_processed <= 1 {
                return Err(incomplete("it would be empty: nothing could be read, or all is excluded".to_owned()));
            }
            Ok(Archived { tree: tree_id(&snapshot.tree), summary, paths })
        }
        Source::Stream(source, stream) => {
            let snapshot = run_archiver(&repository, &options, &source, gate);
            // What the producer says comes first: the rest follows from it.
            let size = stream.complete_bytes()?;
            let snapshot = snapshot?;
            gate.check()?;
            let mut summary = snapshot.summary.unwrap_or_default();
            if summary.total_files_processed != 1 {
                return Err(incomplete("the stream is not in its tree".to_owned()));
            }
            summary.total_bytes_processed = size;
            if request.dry_run {
                return Ok(Archived { tree: tree_id(&snapshot.tree), summary, paths });
            }
            let trees = sized_trees(session.access(), gate, &repository, snapshot.tree, &paths, size)?;
            let root = trees.last().map(|(id, _)| TreeId(*id)).unwrap_or_default();
            let pass = gate.enter()?;
            runtime.block_on(write_trees(session.access(), &trees))?;
            drop(pass);
            Ok(Archived { tree: root, summary, paths })
        }
    }
}

fn incomplete(reason: String) -> RepoError {
    RepoError::Rustic { operation: "no snapshot was made", reason }
}

fn tree_id(id: &rustic_core::TreeId) -> TreeId {
    TreeId(id.to_hex().parse().unwrap_or_default())
}

fn run_archiver<S, R>(
    repository: &Repository<S>,
    options: &BackupOptions,
    source: &R,
    gate: &Gate,
) -> RepoResult<SnapshotFile>
where
    S: IndexedIds,
    R: ReadSource<Open: Send, Iter: Send> + 'static,
{
    // The paths only go into the snapshot that is withheld.
    let snapshot = SnapshotFile { summary: Some(SnapshotSummary::default()), ..SnapshotFile::default() };
    repository
        .archive(options, source, snapshot, &[PathBuf::from("/")])
        .map_err(|error| rustic_error(gate, "store the files", &error))
}

fn parent_options(request: &BackupRequest, parent: Option<SnapshotId>) -> ParentOptions {
    let mut options = ParentOptions::default();
    match parent {
        Some(parent) => options.parents = vec![parent.to_string()],
        None => options.force = true,
    }
    // As restic: inodes that change change their times too (on FUSE, for example).
    options.ignore_ctime = request.ignore_ctime || request.ignore_inode;
    // rustic_core 0.13 has this one the wrong way round (`archiver/parent.rs`, `match_inode`): true compares.
    options.ignore_inode = !request.ignore_inode;
    options
}

/// Reads the trees that lead to a stream's file, puts its length in, and returns them from the file's directory up, with
/// their new ids.
fn sized_trees<S: IndexedIds>(
    access: &Access,
    gate: &Gate,
    repository: &Repository<S>,
    root: rustic_core::TreeId,
    paths: &[String],
    size: u64,
) -> RepoResult<Vec<(Id, Vec<u8>)>> {
    let json_error = |error: serde_json::Error| incomplete(format!("a tree that was just made: {error}"));
    let packs = gate.take_tree_packs();
    let depth = paths.first().map_or(0, |path| path.split('/').filter(|name| !name.is_empty()).count());
    let mut trees: Vec<Tree> = Vec::new();
    let mut next = root;
    for _ in 0..depth {
        let id = tree_id(&next).0;
        let tree = match find_tree(access, &packs, &id)? {
            Some(json) => serde_json::from_slice(&json).map_err(json_error)?,
            // The same tree was stored before.
            None => repository.get_tree(&next).map_err(|error| rustic_error(gate, "read a tree", &error))?,
        };
        if let Some(subtree) = tree.nodes.first().and_then(|node| node.subtree) {
            next = subtree;
        }
        trees.push(tree);
    }
    let mut sized = Vec::new();
    let mut below: Option<Id> = None;
    for mut tree in trees.into_iter().rev() {
        let [node] = tree.nodes.as_mut_slice() else {
            return Err(incomplete("a directory above the stream holds other than it".to_owned()));
        };
        match below {
            None => node.meta.size = size,
            Some(id) => node.subtree = Some(rustic_id(&id).into()),
        }
        // restic ends a tree's JSON with a newline.
        let mut json = serde_json::to_vec(&tree).map_err(json_error)?;
        json.push(b'\n');
        let id = Id::hash(&json);
        below = Some(id);
        sized.push((id, json));
    }
    Ok(sized)
}

/// restic's names of what was counted (restic, `internal/restic/snapshot.go`, `SnapshotSummary`).
fn summary_fields(summary: &SnapshotSummary, start: &Zoned) -> Map<String, Value> {
    let fields = json!({
        "backup_start": format_time(start),
        "backup_end": format_time(&Zoned::now()),
        "files_new": summary.files_new,
        "files_changed": summary.files_changed,
        "files_unmodified": summary.files_unmodified,
        "dirs_new": summary.dirs_new,
        "dirs_changed": summary.dirs_changed,
        "dirs_unmodified": summary.dirs_unmodified,
        "data_blobs": summary.data_blobs,
        "tree_blobs": summary.tree_blobs,
        "data_added": summary.data_added,
        "data_added_packed": summary.data_added_packed,
        "total_files_processed": summary.total_files_processed,
        "total_bytes_processed": summary.total_bytes_processed,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn snapshot_fields(
    request: &BackupRequest,
    archived: &Archived,
    parent: Option<SnapshotId>,
    summary: &Map<String, Value>,
) -> Map<String, Value> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    set("time", format_time(&request.time).into());
    if let Some(parent) = parent {
        set("parent", parent.to_string().into());
    }
    set("tree", archived.tree.to_string().into());
    set("paths", archived.paths.clone().into());
    set("hostname", request.hostname.clone().into());
    set("username", users::current_name().into());
    // As restic: left out for root.
    if uid != 0 {
        set("uid", uid.into());
    }
    if gid != 0 {
        set("gid", gid.into());
    }
    if !request.excludes.is_empty() {
        set("excludes", request.excludes.clone().into());
    }
    if !request.tags.is_empty() {
        set("tags", request.tags.clone().into());
    }
    set("program_version", request.program_version.clone().into());
    set("summary", summary.clone().into());
    fields
}
