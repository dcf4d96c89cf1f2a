//! `backup`: make a snapshot.

mod inputs;
mod report;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;
use jiff::Zoned;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use stash_repo::write::backup::{BackupRequest, BackupSource, Parent, backup};
use stash_repo::write::source::producer::Producer;
use stash_repo::write::source::{Marker, SourceOptions};

pub(crate) use report::show_loss;

use super::password::SECRET_VARIABLES;
use super::snapshots::{GroupBy, parse_group};
use super::units::parse_bytes;
use super::writing::{Lock, PROGRAM};
use super::{CliError, CliResult, Context, Exit};
use crate::filter::Filter;

/// The arguments of `backup`.
#[derive(Debug, ClapArgs)]
#[expect(clippy::struct_excessive_bools, reason = "restic's flags")]
pub struct Args {
    /// Files and directories; with --stdin-from-command the command and its arguments, after `--`
    #[arg(value_name = "FILE/DIR")]
    targets: Vec<OsString>,
    /// Leave out what a pattern matches (repeatable)
    #[arg(short, long, value_name = "PATTERN", allow_hyphen_values = true)]
    exclude: Vec<String>,
    /// As --exclude, but ignore case
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    iexclude: Vec<String>,
    /// Read patterns to leave out from a file (repeatable)
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// As --exclude-file, but ignore case
    #[arg(long, value_name = "FILE")]
    iexclude_file: Vec<PathBuf>,
    /// Leave out the content of directories that hold a CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out the content of directories that hold this file, perhaps only if it begins with HEADER (repeatable)
    #[arg(long, value_name = "FILENAME[:HEADER]", value_parser = Marker::parse)]
    exclude_if_present: Vec<Marker>,
    /// Leave out larger files
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    exclude_larger_than: Option<u64>,
    /// Stay on the filesystems of the files and directories that are named
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Read patterns of files to back up from a file, `-` for standard input (repeatable)
    #[arg(long, value_name = "FILE")]
    files_from: Vec<PathBuf>,
    /// Read names of files to back up from a file, one a line (repeatable)
    #[arg(long, value_name = "FILE")]
    files_from_verbatim: Vec<PathBuf>,
    /// Read names of files to back up from a file, each ended by a zero byte (repeatable)
    #[arg(long, value_name = "FILE")]
    files_from_raw: Vec<PathBuf>,
    /// Store access times
    #[arg(long)]
    with_atime: bool,
    /// A new inode number or change time is no change of a file
    #[arg(long)]
    ignore_inode: bool,
    /// A new change time is no change of a file
    #[arg(long)]
    ignore_ctime: bool,
    /// Tags of the snapshot (repeatable)
    #[arg(long, value_name = "TAG[,TAG...]", value_delimiter = ',')]
    tag: Vec<String>,
    /// The snapshot's host
    #[arg(short = 'H', long, alias = "hostname", env = "RESTIC_HOST", hide_env_values = true, value_name = "HOST")]
    host: Option<String>,
    /// The snapshot's time, as `2012-11-01 22:08:41` or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time: Option<Zoned>,
    /// Take unchanged files from this snapshot (default: the newest of the group)
    #[arg(long, value_name = "SNAPSHOT")]
    parent: Option<String>,
    /// Read all files
    #[arg(short, long)]
    force: bool,
    /// What the parent must have in common with the new snapshot: host, paths, tags
    #[arg(short, long, value_name = "GROUP", default_value = "host,paths", value_parser = parse_group)]
    group_by: GroupBy,
    /// Store nothing, only count
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Back up standard input
    #[arg(long, conflicts_with = "stdin_from_command")]
    stdin: bool,
    /// The file's path in the snapshot
    #[arg(long, value_name = "FILENAME", default_value = "stdin")]
    stdin_filename: PathBuf,
    /// Run a command and back up its output; if it fails, there is no snapshot
    #[arg(long)]
    stdin_from_command: bool,
    /// Make no snapshot that equals its parent
    #[arg(long)]
    skip_if_unchanged: bool,
    /// Read at most this many files at a time (and at most one for each CPU)
    #[arg(long, env = "RESTIC_READ_CONCURRENCY", hide_env_values = true, value_name = "N")]
    read_concurrency: Option<usize>,
    /// Do not find out beforehand how much there is to read
    #[arg(long)]
    no_scan: bool,
    /// Do not check each piece of data before it is stored
    #[arg(long)]
    no_extra_verify: bool,
}

/// Parses restic's time in the system's zone, or RFC 3339.
pub(crate) fn parse_time(text: &str) -> Result<Zoned, String> {
    let wrong = || format!("`{text}` is not a time like `2012-11-01 22:08:41`");
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Ok(timestamp.to_zoned(TimeZone::system()));
    }
    let local: DateTime = text.parse().map_err(|_| wrong())?;
    local.to_zoned(TimeZone::system()).map_err(|_| wrong())
}

impl Args {
    /// Checks what restic checks.
    fn check(&self) -> CliResult<()> {
        let stream = self.stdin || self.stdin_from_command;
        let lists = [&self.files_from, &self.files_from_verbatim, &self.files_from_raw];
        if stream && lists.iter().any(|list| !list.is_empty()) {
            return Err(CliError::usage("--stdin, --stdin-from-command and --files-from exclude each other"));
        }
        if self.stdin && !self.targets.is_empty() {
            return Err(CliError::usage("--stdin was given, and files too"));
        }
        if self.stdin_from_command && self.targets.is_empty() {
            return Err(CliError::usage("--stdin-from-command needs a command").hint("give it after `--`"));
        }
        if self.read_concurrency == Some(0) {
            return Err(CliError::usage("--read-concurrency must be at least 1"));
        }
        Ok(())
    }

    fn source(&self, excludes: &Filter) -> CliResult<BackupSource> {
        let producer = match (self.stdin, self.stdin_from_command) {
            (true, _) => Some(Producer::Stdin),
            (_, true) => Some(Producer::Command {
                argv: self.targets.clone(),
                hidden: SECRET_VARIABLES.iter().map(|&name| name.to_owned()).collect(),
            }),
            _ => None,
        };
        if let Some(producer) = producer {
            return Ok(BackupSource::Stream { filename: self.stdin_filename.clone(), producer });
        }
        let mut markers = self.exclude_if_present.clone();
        if self.exclude_caches {
            markers.push(Marker::cache());
        }
        Ok(BackupSource::Files(SourceOptions {
            targets: self.collect_targets()?,
            root: None,
            exclude: excludes.excluded(),
            markers,
            exclude_larger_than: self.exclude_larger_than,
            one_file_system: self.one_file_system,
            with_atime: self.with_atime,
            read_concurrency: self.read_concurrency,
        }))
    }
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    args.check()?;
    let excludes = args.collect_excludes()?;
    let source = args.source(&excludes)?;
    let request = BackupRequest {
        source,
        hostname: args.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(stash_repo::lock::hostname),
        tags: args.tag.iter().filter(|tag| !tag.is_empty()).cloned().collect(),
        time: args.time.clone().unwrap_or_else(Zoned::now),
        excludes: args.exclude.clone(),
        program_version: PROGRAM.to_owned(),
        parent: match (&args.parent, args.force) {
            (_, true) => Parent::None,
            (Some(name), _) => Parent::Named(name.clone()),
            (None, _) => Parent::Newest,
        },
        group_by: stash_repo::write::backup::GroupBy {
            host: args.group_by.host,
            paths: args.group_by.paths,
            tags: args.group_by.tags,
        },
        ignore_ctime: args.ignore_ctime,
        ignore_inode: args.ignore_inode,
        skip_if_unchanged: args.skip_if_unchanged,
        no_scan: args.no_scan,
        dry_run: args.dry_run,
    };
    let pack = context.pack_options(args.no_extra_verify)?;
    let access = context.access().await?;
    let held = context.lock(&access, Lock::Shared).await?;
    let started = std::time::Instant::now();
    let listener = Arc::new(report::Tell::new(&context.global));
    let session = context.session(&access, &held, pack);
    let result = backup(&session, request, listener, context.stop()).await.map_err(|error| context.ended(error));
    let report = context.unlock(held, result).await?;
    report::print(&report, args.dry_run, started.elapsed(), context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_times_are_local_or_have_an_offset() {
        assert_eq!(parse_time("2012-11-01T22:08:41+01:00").unwrap().timestamp().as_second(), 1_351_804_121);
        let local = parse_time("2012-11-01 22:08:41").unwrap();
        assert_eq!(local.datetime().to_string(), "2012-11-01T22:08:41");
        for bad in ["", "yesterday", "2012-13-01 00:00:00"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
