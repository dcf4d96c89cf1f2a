//! `restore`: the files of a snapshot, copied into a directory.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::output::{Out, show_name};
use super::progress::Progress;
use super::select::{SnapshotFilter, split_spec};
use super::units::{format_bytes, format_duration};
use super::{CliError, CliResult, Context, Exit, Interrupt};
use crate::filter::Filter;
use crate::restore::{Action, Observer, Options, Overwrite, Owner, Report, Source, restore};
use crate::walk::locate;

/// The arguments of `restore`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The snapshot, or a path in it: an id, its beginning, `latest`, `latest~N`, then perhaps `:PATH`
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: String,
    /// The directory to restore into, made if need be
    #[arg(short, long, value_name = "DIR")]
    target: PathBuf,
    #[command(flatten)]
    filter: SnapshotFilter,
    #[command(flatten)]
    patterns: Patterns,
    /// Remove from the target what the snapshot does not hold
    #[arg(long)]
    delete: bool,
    /// Change nothing, only tell what would be done (-vv names every file)
    #[arg(long)]
    dry_run: bool,
    /// What becomes of files that are there already
    #[arg(long, value_enum, default_value = "always", value_name = "WHEN")]
    overwrite: Overwrite,
    /// Leave holes in files for zeros
    #[arg(long)]
    sparse: bool,
    /// Read every restored file again and compare
    #[arg(long)]
    verify: bool,
    /// Everything belongs to this user and group (numbers) instead of the stored ones
    #[arg(long, value_name = "UID[:GID]", value_parser = parse_owner, conflicts_with = "no_owner")]
    owner: Option<Owner>,
    /// Everything belongs to whoever restores
    #[arg(long)]
    no_owner: bool,
}

/// restic's patterns.
#[derive(Debug, ClapArgs)]
pub(super) struct Patterns {
    /// Take only what this pattern matches (repeatable; `!` in front takes back)
    #[arg(short, long, value_name = "PATTERN", allow_hyphen_values = true)]
    include: Vec<String>,
    /// As --include, ignoring case
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    iinclude: Vec<String>,
    /// Take the patterns of --include from a file, one a line
    #[arg(long, value_name = "FILE")]
    include_file: Vec<PathBuf>,
    /// As --include-file, ignoring case
    #[arg(long, value_name = "FILE")]
    iinclude_file: Vec<PathBuf>,
    /// Leave out what this pattern matches (repeatable; `!` in front takes back)
    #[arg(short, long, value_name = "PATTERN", allow_hyphen_values = true)]
    exclude: Vec<String>,
    /// As --exclude, ignoring case
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    iexclude: Vec<String>,
    /// Take the patterns of --exclude from a file, one a line
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// As --exclude-file, ignoring case
    #[arg(long, value_name = "FILE")]
    iexclude_file: Vec<PathBuf>,
}

impl Patterns {
    fn filter(&self) -> CliResult<Filter> {
        let with_files = |patterns: &[String], files: &[PathBuf]| -> CliResult<Vec<String>> {
            let mut all = patterns.to_vec();
            for file in files {
                all.extend(read_patterns(file)?);
            }
            Ok(all)
        };
        let include = with_files(&self.include, &self.include_file)?;
        let iinclude = with_files(&self.iinclude, &self.iinclude_file)?;
        let exclude = with_files(&self.exclude, &self.exclude_file)?;
        let iexclude = with_files(&self.iexclude, &self.iexclude_file)?;
        let includes = !include.is_empty() || !iinclude.is_empty();
        let excludes = !exclude.is_empty() || !iexclude.is_empty();
        let filter = match (includes, excludes) {
            (true, true) => {
                return Err(CliError::usage("--include and --exclude exclude each other")
                    .hint("a pattern that begins with `!` takes back what those before it took"));
            }
            (true, false) => Filter::include(&include, &iinclude),
            (false, _) => Filter::exclude(&exclude, &iexclude),
        };
        filter.map_err(|error| CliError::usage(error.to_string()))
    }
}

/// Reads patterns from a file: one a line, without white space around it; `#` begins a comment line, `$NAME` and
/// `${NAME}` stand for variables and `$$` for a dollar, as restic reads them.
///
/// # Errors
/// The file cannot be read or is not text.
pub(super) fn read_patterns(path: &std::path::Path) -> CliResult<Vec<String>> {
    let failed = |why: String| CliError::failure(format!("read patterns from {}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| failed("it is not UTF-8 text".to_owned()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    Ok(text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| expand(line, variable))
        .collect())
}

/// Puts in variables as Go's `os.Expand` does for names of letters, digits and `_`.
fn expand(line: &str, variable: impl Fn(&str) -> String) -> String {
    let mut expanded = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            expanded.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            expanded.push_str(&variable(name));
            rest = tail;
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            let (name, tail) = after.split_at(end);
            if name.is_empty() {
                expanded.push('$');
            } else {
                expanded.push_str(&variable(name));
            }
            rest = tail;
        }
    }
    expanded.push_str(rest);
    expanded
}

fn parse_owner(text: &str) -> Result<Owner, String> {
    let wrong = || format!("`{text}` is not UID or UID:GID");
    let number = |digits: &str| digits.parse::<u32>().ok().filter(|&id| id != u32::MAX).ok_or_else(wrong);
    Ok(match text.split_once(':') {
        Some((uid, gid)) => Owner::Fixed(number(uid)?, Some(number(gid)?)),
        None => Owner::Fixed(number(text)?, None),
    })
}

/// Runs the verb.
pub(super) async fn run(args: Args, context: &Context) -> CliResult<Exit> {
    let filter = args.patterns.filter()?;
    check(&args, &filter)?;
    let repository = context.open().await?;
    let (name, path) = split_spec(&args.snapshot);
    let snapshot = args.filter.one(&repository, name).await?;
    let path = path.unwrap_or("/");
    let from = locate(&repository, snapshot.tree, path.as_bytes()).await?.ok_or_else(|| {
        CliError::failure(format!("snapshot {} has no {}", snapshot.id.0.short(), show_name(path.as_bytes())))
    })?;
    let mut out = context.out();
    let target = show_name(args.target.as_os_str().as_encoded_bytes());
    let would = if args.dry_run { "would restore" } else { "restoring" };
    out.say(format_args!("{would} {} to {target}", show_name(args.snapshot.as_bytes())))?;
    out.finish()?;
    let screen = Arc::new(Screen {
        progress: Progress::bytes(&context.global, "restore"),
        interrupt: context.interrupt.clone(),
        out: parking_lot::Mutex::new(context.out()),
        json: context.global.json,
        verbose: context.global.verbosity(),
        wants_total: !context.global.quiet,
        dry_run: args.dry_run,
    });
    let options = Options {
        target: args.target,
        filter,
        overwrite: args.overwrite,
        delete: args.delete,
        dry_run: args.dry_run,
        sparse: args.sparse,
        verify: args.verify,
        owner: if args.no_owner { Owner::Own } else { args.owner.unwrap_or_default() },
        root_metadata: false,
    };
    let result = restore(Source::Stored { repository, from }, options, screen.clone()).await;
    screen.progress.finish();
    let report = result.map_err(|error| CliError::failure(error.to_string()))?;
    summary(&report, &screen, &mut out)?;
    out.finish()?;
    if report.stopped {
        return Err(CliError::interrupted().hint("run the same command again to go on where it ended"));
    }
    if report.files_failed > 0 {
        eprintln!("stash-fs: {} files or directories were not restored; they are named above", report.files_failed);
        return Ok(Exit::Incomplete);
    }
    Ok(Exit::Success)
}

fn check(args: &Args, filter: &Filter) -> CliResult<()> {
    if args.target.as_os_str().is_empty() {
        return Err(CliError::usage("the target is empty").hint("name a directory with --target"));
    }
    if args.dry_run && args.verify {
        return Err(CliError::usage("--dry-run and --verify exclude each other"));
    }
    let all = matches!(filter, Filter::All);
    let is_root = std::fs::canonicalize(&args.target).is_ok_and(|target| target == std::path::Path::new("/"));
    if args.delete && all && is_root {
        return Err(CliError::usage("--target / with --delete would remove the whole system")
            .hint("say with --include or --exclude what may be removed"));
    }
    Ok(())
}

/// Tells the person, or with `--json` the program, what happens.
struct Screen {
    progress: Progress,
    interrupt: Interrupt,
    /// A leaf lock.
    out: parking_lot::Mutex<Out>,
    json: bool,
    verbose: u8,
    wants_total: bool,
    dry_run: bool,
}

/// restic's JSON lines.
///
/// Source: restic 0.17, `internal/ui/restore/json.go`.
#[derive(Serialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
enum Message<'a> {
    Status {
        seconds_elapsed: u64,
        percent_done: f64,
        total_files: u64,
        files_restored: u64,
        total_bytes: u64,
        bytes_restored: u64,
    },
    VerboseStatus {
        action: &'a str,
        item: &'a str,
        size: u64,
    },
    Error {
        error: ErrorText<'a>,
        during: &'a str,
        item: &'a str,
    },
    Summary {
        seconds_elapsed: u64,
        total_files: u64,
        files_restored: u64,
        files_skipped: u64,
        files_deleted: u64,
        files_failed: u64,
        total_bytes: u64,
        bytes_restored: u64,
        bytes_skipped: u64,
    },
}

#[derive(Serialize)]
struct ErrorText<'a> {
    message: &'a str,
}

impl Screen {
    /// Prints a line of JSON; a closed pipe ends the work.
    fn print(&self, message: &Message<'_>) {
        let mut out = self.out.lock();
        if out.json_line(message).and_then(|()| out.finish()).is_err() {
            self.interrupt.set();
        }
    }
}

impl Observer for Screen {
    fn done(&self, action: Action, path: &[u8], bytes: u64) {
        let skipped = matches!(action, Action::Unchanged | Action::Kept);
        let files = u64::from(action != Action::Deleted);
        // What was written is counted as it is written.
        self.progress.add(files, if skipped || self.dry_run { bytes } else { 0 });
        if let Some(counts) = self.progress.due() {
            let percent_done = if counts.total_bytes == 0 {
                0.0
            } else {
                #[expect(clippy::cast_precision_loss, reason = "a share of the whole for a person")]
                let share = counts.bytes as f64 / counts.total_bytes as f64;
                share.min(1.0)
            };
            self.print(&Message::Status {
                seconds_elapsed: counts.seconds_elapsed,
                percent_done,
                total_files: counts.total_files,
                files_restored: counts.files,
                total_bytes: counts.total_bytes,
                bytes_restored: counts.bytes,
            });
        }
        if self.verbose < 2 {
            return;
        }
        let word = match action {
            Action::Restored => "restored",
            Action::Updated => "updated",
            Action::Unchanged => "unchanged",
            Action::Kept => "skipped",
            Action::Deleted => "deleted",
        };
        if self.json {
            let item = String::from_utf8_lossy(path);
            self.print(&Message::VerboseStatus { action: word, item: &item, size: bytes });
        } else {
            let mut out = self.out.lock();
            let line = format!("{word:<9} {} with size {}", show_name(path), format_bytes(bytes));
            if out.line(line).is_err() {
                self.interrupt.set();
            }
        }
    }

    fn failed(&self, path: &[u8], error: &str) {
        if self.json {
            let item = String::from_utf8_lossy(path);
            let message = Message::Error { error: ErrorText { message: error }, during: "restore", item: &item };
            // On standard error, as restic does.
            if let Ok(line) = serde_json::to_string(&message) {
                eprintln!("{line}");
            }
        } else {
            self.progress.note(&format!("stash-fs: restore {}: {error}", show_name(path)));
        }
    }

    fn note(&self, text: &str) {
        self.progress.note(&format!("stash-fs: {text}"));
    }

    fn wants_total(&self) -> bool {
        self.wants_total
    }

    fn found(&self, files: u64, bytes: u64) {
        self.progress.add_total(files, bytes);
    }

    fn wrote(&self, bytes: u64) {
        self.progress.add(0, bytes);
    }

    fn stop(&self) -> bool {
        self.interrupt.is_set()
    }
}

fn summary(report: &Report, screen: &Screen, out: &mut Out) -> CliResult<()> {
    let counts = screen.progress.counts();
    let total_files = report.files_restored + report.files_skipped + report.files_failed;
    let total_bytes = report.bytes_restored + report.bytes_skipped;
    screen.out.lock().finish()?;
    if out.json {
        return out.json_line(&Message::Summary {
            seconds_elapsed: counts.seconds_elapsed,
            total_files,
            files_restored: report.files_restored,
            files_skipped: report.files_skipped,
            files_deleted: report.files_deleted,
            files_failed: report.files_failed,
            total_bytes,
            bytes_restored: report.bytes_restored,
            bytes_skipped: report.bytes_skipped,
        });
    }
    let took = format_duration(std::time::Duration::from_secs(counts.seconds_elapsed));
    let verb = if screen.dry_run { "Would restore" } else { "Restored" };
    let mut line = format!(
        "Summary: {verb} {} files/dirs ({}) in {took}",
        report.files_restored,
        format_bytes(report.bytes_restored),
    );
    if report.files_skipped > 0 {
        let skipped = format_bytes(report.bytes_skipped);
        line.push_str(&format!(", skipped {} files/dirs ({skipped})", report.files_skipped));
    }
    if report.files_deleted > 0 {
        line.push_str(&format!(", deleted {}", report.files_deleted));
    }
    if report.files_failed > 0 {
        line.push_str(&format!(", failed {}", report.files_failed));
    }
    out.say(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_expand_is_gos() {
        let variable = |name: &str| format!("<{name}>");
        let table = [
            ("a", "a"),
            ("$HOME/x", "<HOME>/x"),
            ("${HOME}x", "<HOME>x"),
            ("a$$b", "a$b"),
            ("$", "$"),
            ("a$/b", "a$/b"),
        ];
        for (line, want) in table {
            assert_eq!(expand(line, variable), want, "{line}");
        }
    }

    #[test]
    fn test_parse_owner() {
        assert_eq!(parse_owner("5"), Ok(Owner::Fixed(5, None)));
        assert_eq!(parse_owner("5:6"), Ok(Owner::Fixed(5, Some(6))));
        for bad in ["", "root", "5:", "4294967295", "-1"] {
            assert!(parse_owner(bad).is_err(), "{bad}");
        }
    }
}
