//! `cache`: the local caches, one directory a repository.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args as ClapArgs;
use serde::Serialize;

use super::output::Table;
use super::units::format_bytes;
use super::{CliError, CliResult, Context, Exit};

/// The arguments of `cache`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Remove the caches that were not used for --max-age days
    #[arg(long)]
    cleanup: bool,
    /// How many days make a cache old
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    max_age: u64,
    /// Do not add up sizes
    #[arg(long)]
    no_size: bool,
    /// Print the folder of all caches and nothing else
    #[arg(long)]
    path: bool,
}

/// The cache of one repository.
#[derive(Debug, Serialize)]
struct Cache {
    repository_id: String,
    path: PathBuf,
    days_since_use: u64,
    old: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let folder = context.global.cache_directory().ok_or_else(|| {
        CliError::failure("there is no folder for caches").hint("give one with --cache-dir, or set HOME")
    })?;
    let mut out = context.out();
    if args.path {
        out.line(folder.display())?;
        out.finish()?;
        return Ok(Exit::Success);
    }
    let mut caches = list(&folder, &args)
        .map_err(|error| CliError::failure(format!("list caches in {}: {error}", folder.display())))?;
    if args.cleanup {
        let (old, kept) = caches.into_iter().partition(|cache| cache.old);
        caches = kept;
        let removed = remove(old)?;
        out.say(format_args!("removed {removed} old cache directories from {}", folder.display()))?;
    }
    if out.json {
        out.json_line(&caches)?;
    } else if !args.cleanup {
        let mut table = Table::new(if args.no_size {
            &["Repo ID", "Last Used", "Old"]
        } else {
            &["Repo ID", "Last Used", "Old", "Size"]
        });
        for cache in &caches {
            let mut row = vec![
                cache.repository_id.chars().take(10).collect(),
                format!("{} days ago", cache.days_since_use),
                if cache.old { "yes" } else { "" }.to_owned(),
            ];
            row.extend(cache.size.map(format_bytes));
            table.row(row);
        }
        table.footer(format!("{} cache dirs in {}", caches.len(), folder.display()));
        table.print(&mut out)?;
    }
    out.finish()?;
    Ok(Exit::Success)
}

fn list(folder: &Path, args: &Args) -> std::io::Result<Vec<Cache>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut caches = Vec::new();
    for entry in entries {
        let entry = entry?;
        // Only what we made: a directory whose name is a repository's id.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.len() != 64 || !name.bytes().all(|b| b.is_ascii_hexdigit()) || !entry.file_type()?.is_dir() {
            continue;
        }
        let (size, used) = measure(&entry.path())?;
        let age = SystemTime::now().duration_since(used).unwrap_or(Duration::ZERO);
        let days_since_use = age.as_secs() / 86_400;
        caches.push(Cache {
            repository_id: name,
            path: entry.path(),
            days_since_use,
            old: days_since_use > args.max_age,
            size: (!args.no_size).then_some(size),
        });
    }
    caches.sort_by(|a, b| a.repository_id.cmp(&b.repository_id));
    Ok(caches)
}

/// Adds up a directory: what it takes on disk, and when something in it was written or read last.
fn measure(directory: &Path) -> std::io::Result<(u64, SystemTime)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(directory)?;
    let (mut size, mut used) = (0, metadata.modified()?);
    let mut stack = vec![directory.to_owned()];
    while let Some(directory) = stack.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            // A mount may be removing segments just now.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                stack.push(entry.path());
            } else {
                size += metadata.blocks() * 512;
            }
            used = used.max(metadata.modified()?).max(metadata.accessed()?);
        }
    }
    Ok((size, used))
}

fn remove(caches: Vec<Cache>) -> CliResult<usize> {
    for cache in &caches {
        // A mount that has it open goes on with its descriptors and without the cache.
        std::fs::remove_dir_all(&cache.path)
            .map_err(|error| CliError::failure(format!("remove cache {}: {error}", cache.path.display())))?;
    }
    Ok(caches.len())
}
