//! `dump`: a file, or a directory as an archive, to standard output or into a file; streamed.

mod acl;
mod archive;
mod zip;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use stash_repo::{BlobId, BlobKind, NodeKind, NodeRef, RepoResult, Repository};

use super::output::show_name;
use super::select::{SnapshotFilter, split_spec};
use super::{CliError, CliResult, Context, Exit};
use crate::walk::{Located, locate};

/// Blobs that are fetched together.
const RUN_BLOBS: usize = 8;

/// The arguments of `dump`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The snapshot: an id, its beginning, `latest`, `latest~N`, then perhaps `:PATH`
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: String,
    /// The file or directory in it; `/` is all of it
    #[arg(value_name = "FILE", default_value = "/")]
    file: String,
    #[command(flatten)]
    filter: SnapshotFilter,
    /// The form of a directory
    #[arg(short, long, value_enum, default_value = "tar")]
    archive: Archive,
    /// Write into this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    target: Option<PathBuf>,
}

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Archive {
    /// POSIX tar with owners, times to the nanosecond, extended attributes, hard links and devices
    Tar,
    /// Zip, with files, directories and symbolic links
    Zip,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let repository = context.open().await?;
    let (name, below) = split_spec(&args.snapshot);
    let snapshot = args.filter.one(&repository, name).await?;
    let path = format!("{}/{}", below.unwrap_or(""), args.file);
    let located = locate(&repository, snapshot.tree, path.as_bytes()).await?.ok_or_else(|| {
        CliError::failure(format!("snapshot {} has no {}", snapshot.id.0.short(), show_name(path.as_bytes())))
    })?;
    let Some(target) = &args.target else {
        let mut out = context.out();
        if matches!(&located, Located::Root(_)) || is_dir(&located) {
            refuse_terminal()?;
        }
        let exit = write(&args, &repository, &located, &mut out).await?;
        out.finish()?;
        return Ok(exit);
    };
    // Under a name of its own until it is whole.
    let part = target.with_extension("stash-fs-part");
    let shown = target.display();
    let failed = |error: std::io::Error| CliError::failure(format!("write {shown}: {error}"));
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(&part).map_err(failed)?;
    let mut file = std::io::BufWriter::with_capacity(256 << 10, file);
    let result = write(&args, &repository, &located, &mut file).await.and_then(|exit| {
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&part, target).map_err(failed)?;
        Ok(exit)
    });
    if result.is_err() {
        // It may never have been made.
        drop(std::fs::remove_file(&part));
    }
    result
}

fn is_dir(located: &Located) -> bool {
    matches!(located, Located::Entry(entry) if entry.node().kind() == NodeKind::Dir)
}

fn refuse_terminal() -> CliResult<()> {
    use std::io::IsTerminal as _;
    if std::io::stdout().is_terminal() {
        return Err(
            CliError::usage("an archive is not written to a terminal").hint("redirect it, or use --target FILE")
        );
    }
    Ok(())
}

async fn write(
    args: &Args,
    repository: &Repository,
    located: &Located,
    to: &mut (impl Write + Send),
) -> CliResult<Exit> {
    let tree = match located {
        Located::Entry(entry) => match entry.node().kind() {
            NodeKind::File => {
                write_content(repository, entry.node(), to).await?;
                return Ok(Exit::Success);
            }
            NodeKind::Dir => entry.node().subtree(),
            _ => {
                let path = show_name(&entry.path);
                return Err(CliError::failure(format!("{path} is neither a file nor a directory")));
            }
        },
        Located::Root(tree) => Some(*tree),
    };
    let tree = tree.ok_or_else(|| CliError::failure("the directory has no tree in the repository"))?;
    match args.archive {
        Archive::Tar => archive::tar(repository, located, tree, to).await,
        Archive::Zip => archive::zip(repository, located, tree, to).await,
    }
}

/// Writes the content of a file in order; the next blobs are fetched while these are written.
pub(super) async fn write_content(repository: &Repository, node: NodeRef<'_>, to: &mut impl Write) -> CliResult<u64> {
    let mut written = 0;
    let runs: Vec<&[BlobId]> = node.content().chunks(RUN_BLOBS).collect();
    for (i, run) in runs.iter().enumerate() {
        let blobs = repository.blobs().get_many(run, BlobKind::Data).await;
        if let Some(next) = runs.get(i + 1) {
            repository.blobs().prefetch(next, BlobKind::Data);
        }
        for blob in blobs {
            let blob = blob?;
            to.write_all(&blob)?;
            written += blob.len() as u64;
        }
    }
    Ok(written)
}

/// Returns the size of a file's content by the index, which its blobs will have.
pub(super) fn content_bytes(repository: &Repository, node: NodeRef<'_>) -> RepoResult<u64> {
    let mut size = 0_u64;
    for &id in node.content() {
        let length = repository.blobs().plain_bytes(&id)?.ok_or(stash_repo::RepoError::BlobMissing { id })?;
        size = size.saturating_add(length.into());
    }
    Ok(size)
}
