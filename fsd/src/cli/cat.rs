//! `cat`: an object of the repository as it is inside, or the content of a file of a snapshot.

use clap::{Args as ClapArgs, ValueEnum};
use stash_repo::{BlobId, BlobKind, FileKind, Id, Repository};

use super::dump::write_content;
use super::output::{Out, show_name};
use super::select::{SnapshotFilter, split_spec};
use super::{CliError, CliResult, Context, Exit};
use crate::walk::{Located, locate};

/// More than any file but packs: restic's own index files stay below 64 MiB.
const MAX_FILE_BYTES: usize = 256 << 20;
/// The largest pack that is printed; restic makes them of 128 MiB at most.
const MAX_PACK_BYTES: u64 = 1 << 30;

/// The arguments of `cat`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// `SNAPSHOT:PATH`, or a kind of object
    #[arg(value_name = "SNAPSHOT:PATH|KIND")]
    what: String,
    /// The object: its id or the beginning; for `tree` also SNAPSHOT[:PATH]
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    filter: SnapshotFilter,
}

/// restic's kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Config,
    Masterkey,
    Key,
    Lock,
    Index,
    Snapshot,
    Pack,
    Blob,
    Tree,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let kind = Kind::from_str(&args.what, false).ok();
    let mut out = context.out();
    match (kind, &args.id) {
        (Some(kind), id) => object(&args, context, kind, id.as_deref(), &mut out).await?,
        (None, None) if args.what.contains(':') => content(&args, context, &mut out).await?,
        (None, _) => {
            let kinds: Vec<_> = Kind::value_variants()
                .iter()
                .filter_map(|kind| Some(kind.to_possible_value()?.get_name().to_owned()))
                .collect();
            return Err(CliError::usage(format!("`{}` is no kind of object", show_name(args.what.as_bytes())))
                .hint(format!("give SNAPSHOT:PATH, or one of {} and an id", kinds.join(", "))));
        }
    }
    out.finish()?;
    Ok(Exit::Success)
}

/// Prints the content of a file.
async fn content(args: &Args, context: &Context, out: &mut Out) -> CliResult<()> {
    let repository = context.open().await?;
    let (name, path) = split_spec(&args.what);
    let path = path.unwrap_or("/");
    let snapshot = args.filter.one(&repository, name).await?;
    let located = locate(&repository, snapshot.tree, path.as_bytes()).await?;
    match located {
        Some(Located::Entry(entry)) if entry.node().kind() == stash_repo::NodeKind::File => {
            write_content(&repository, entry.node(), out).await?;
            Ok(())
        }
        Some(_) => Err(CliError::failure(format!("{} is not a file", show_name(path.as_bytes())))
            .hint("`stash-fs dump` writes a directory as an archive, `stash-fs ls` lists it")),
        None => {
            let short = snapshot.id.0.short();
            Err(CliError::failure(format!("snapshot {short} has no {}", show_name(path.as_bytes()))))
        }
    }
}

async fn object(args: &Args, context: &Context, kind: Kind, id: Option<&str>, out: &mut Out) -> CliResult<()> {
    let needed = || id.ok_or_else(|| CliError::usage("the id of the object is missing"));
    let repository = context.open_unindexed().await?;
    match kind {
        Kind::Config => {
            // The file as it is, with fields that nobody here knows.
            let sealed = repository.backend().read_full(FileKind::Config, &Id::default(), 1 << 20).await?;
            let mut sealed = sealed.to_vec();
            let failed = |error: String| CliError::failure(format!("read config: {error}"));
            let plain =
                repository.master_key().open_in_place(&mut sealed).map_err(|error| failed(error.to_string()))?;
            let json = stash_repo::format::unpacked::decode(plain, 1 << 20).map_err(|e| failed(e.to_string()))?;
            pretty(&json, out)
        }
        Kind::Masterkey => {
            let json = stash_repo::key::master_key_json(repository.master_key())
                .map_err(|error| CliError::failure(error.to_string()))?;
            pretty(&json, out)
        }
        Kind::Key => {
            // A key file is not sealed: it is what opens the rest.
            let id = resolve(&repository, FileKind::Key, needed()?).await?;
            let bytes = repository.backend().read_full(FileKind::Key, &id, 1 << 20).await?;
            pretty(&bytes, out)
        }
        Kind::Lock => unpacked(&repository, FileKind::Lock, needed()?, out).await,
        Kind::Index => unpacked(&repository, FileKind::Index, needed()?, out).await,
        Kind::Snapshot => {
            let snapshot = args.filter.one(&repository, needed()?).await?;
            let bytes = repository.read_unpacked(FileKind::Snapshot, &snapshot.id.0, MAX_FILE_BYTES).await?;
            pretty(&bytes, out)
        }
        Kind::Pack => {
            let id = resolve(&repository, FileKind::Pack, needed()?).await?;
            let bytes = repository.backend().read_full(FileKind::Pack, &id, MAX_PACK_BYTES).await?;
            if Id::hash(&bytes) != id {
                eprintln!("stash-fs: warning: pack {id} does not hash to its id");
            }
            out.bytes(&bytes)
        }
        Kind::Blob => {
            let text = needed()?;
            let id = BlobId(text.parse().map_err(|_| CliError::usage("a blob is named by all 64 digits of its id"))?);
            repository.refresh().await?;
            let kind = repository.index().lookup(&id)?.map_or(BlobKind::Data, |location| location.kind);
            let blob = repository.blobs().get(id, kind, usize::MAX).await?;
            out.bytes(&blob)
        }
        Kind::Tree => {
            repository.refresh().await?;
            let id = tree(args, &repository, needed()?).await?;
            let blob = repository.blobs().get(id, BlobKind::Tree, usize::MAX).await?;
            out.bytes(&blob)
        }
    }
}

/// Finds a tree by its id, or as restic does by `SNAPSHOT[:PATH]`.
async fn tree(args: &Args, repository: &Repository, text: &str) -> CliResult<BlobId> {
    if let Ok(id) = text.parse::<Id>()
        && repository.index().lookup(&BlobId(id))?.is_some()
    {
        return Ok(BlobId(id));
    }
    let (name, path) = split_spec(text);
    let snapshot = args.filter.one(repository, name).await?;
    let located = locate(repository, snapshot.tree, path.unwrap_or("/").as_bytes()).await?;
    let tree = located.and_then(|located| located.tree());
    Ok(tree.ok_or_else(|| CliError::failure(format!("{} is not a directory", show_name(text.as_bytes()))))?.blob())
}

async fn unpacked(repository: &Repository, kind: FileKind, text: &str, out: &mut Out) -> CliResult<()> {
    let id = resolve(repository, kind, text).await?;
    pretty(&repository.read_unpacked(kind, &id, MAX_FILE_BYTES).await?, out)
}

/// Finds a file by the beginning of its id.
async fn resolve(repository: &Repository, kind: FileKind, text: &str) -> CliResult<Id> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(CliError::usage(format!("`{}` is not an id or the beginning of one", show_name(text.as_bytes()))));
    }
    let prefix = text.to_ascii_lowercase();
    let list = repository.backend().list(kind).await?;
    let fitting: Vec<Id> = list.iter().map(|file| file.id).filter(|id| id.to_hex().starts_with(&prefix)).collect();
    match fitting.as_slice() {
        [one] => Ok(*one),
        [] => Err(CliError::failure(format!("{}/{text}*: there is none", kind.dirname()))),
        several => {
            Err(CliError::failure(format!("{}/{text}*: {} fit; give more digits", kind.dirname(), several.len())))
        }
    }
}

/// Prints JSON with line breaks, or as it is where it is none.
fn pretty(json: &[u8], out: &mut Out) -> CliResult<()> {
    match serde_json::from_slice::<serde_json::Value>(json) {
        Ok(value) => {
            let text = serde_json::to_string_pretty(&value).map_err(std::io::Error::from)?;
            out.line(text)
        }
        Err(_) => out.bytes(json),
    }
}
